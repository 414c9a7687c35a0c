//! What keeps recent names alive: a bounded set of strong references to dentries, and the bounded memory of names
//! that do not exist.
//!
//! Dentries are evicted by the clock algorithm (a second chance for what was looked up since the hand last passed),
//! missing names in the order they were learnt. Lock order: the cache's locks are taken alone, never inside or
//! around a dentry's.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Dentry, Mount};

/// Dentries that are kept though nobody uses them.
pub const DENTRIES_KEPT: usize = 4096;
/// Missing names that are remembered.
pub const MISSING_KEPT: usize = 4096;

/// The slot of a dentry that is not kept.
pub(super) const NO_SLOT: u32 = u32::MAX;

#[derive(Default)]
struct Ring {
    slots: Vec<Option<Arc<Dentry>>>,
    free: Vec<usize>,
    hand: usize,
}

struct Missing {
    directory: Weak<Dentry>,
    name: Box<[u8]>,
    number: u64,
}

/// See the module's text.
pub struct DentryCache {
    ring: Mutex<Ring>,
    missing: Mutex<VecDeque<Missing>>,
    numbers: AtomicU64,
    capacity: usize,
    missing_capacity: usize,
}

impl Default for DentryCache {
    fn default() -> Self {
        Self::with_capacity(DENTRIES_KEPT, MISSING_KEPT)
    }
}

impl DentryCache {
    /// A cache of other than the usual size.
    pub fn with_capacity(capacity: usize, missing_capacity: usize) -> Self {
        Self {
            ring: Mutex::default(),
            missing: Mutex::default(),
            numbers: AtomicU64::new(0),
            capacity: capacity.max(1),
            missing_capacity: missing_capacity.max(1),
        }
    }

    /// A dentry was used: it is kept for a while.
    pub(super) fn touch(&self, dentry: &Arc<Dentry>) {
        if dentry.recently_used.load(Ordering::Relaxed) == 0 {
            dentry.recently_used.store(1, Ordering::Relaxed);
        }
        if dentry.slot.load(Ordering::Relaxed) != NO_SLOT {
            return;
        }
        let evicted = {
            let mut ring = self.ring.lock();
            if dentry.slot.load(Ordering::Relaxed) != NO_SLOT {
                return;
            }
            let (index, evicted) = ring.make_room(self.capacity);
            if let (Some(slot), Ok(number)) = (ring.slots.get_mut(index), u32::try_from(index)) {
                *slot = Some(Arc::clone(dentry));
                dentry.slot.store(number, Ordering::Relaxed);
            }
            evicted
        };
        drop(evicted);
    }

    /// A dentry's name is gone: nothing is gained by keeping it, and its inode's space is wanted back.
    pub(super) fn forget(&self, dentry: &Arc<Dentry>) {
        let removed = self.ring.lock().remove(dentry);
        drop(removed);
    }

    /// Forgets everything of a file system that is no longer mounted.
    pub(super) fn forget_mount(&self, mount: &Mount) {
        let kept: Vec<Arc<Dentry>> = self.ring.lock().slots.iter().flatten().cloned().collect();
        for dentry in kept {
            if dentry.is_below(&mount.root) {
                self.forget(&dentry);
            }
        }
    }

    /// Remembers a missing name; returns the number that marks it in its directory.
    pub(super) fn add_missing(&self, directory: &Arc<Dentry>, name: &[u8]) -> u64 {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let entry = Missing { directory: Arc::downgrade(directory), name: name.into(), number };
        let oldest = {
            let mut missing = self.missing.lock();
            missing.push_back(entry);
            if missing.len() > self.missing_capacity { missing.pop_front() } else { None }
        };
        if let Some(oldest) = oldest
            && let Some(directory) = oldest.directory.upgrade()
        {
            directory.forget_missing(&oldest.name, oldest.number);
        }
        number
    }
}

impl Ring {
    /// A free slot, and what had to leave for it.
    fn make_room(&mut self, capacity: usize) -> (usize, Option<Arc<Dentry>>) {
        if let Some(index) = self.free.pop() {
            return (index, None);
        }
        if self.slots.len() < capacity {
            self.slots.push(None);
            return (self.slots.len() - 1, None);
        }
        loop {
            self.hand = (self.hand + 1) % self.slots.len();
            let Some(Some(dentry)) = self.slots.get(self.hand) else { continue };
            if dentry.recently_used.swap(0, Ordering::Relaxed) != 0 {
                continue;
            }
            dentry.slot.store(NO_SLOT, Ordering::Relaxed);
            let hand = self.hand;
            return (hand, self.slots.get_mut(hand).and_then(Option::take));
        }
    }

    fn remove(&mut self, dentry: &Arc<Dentry>) -> Option<Arc<Dentry>> {
        let index = usize::try_from(dentry.slot.swap(NO_SLOT, Ordering::Relaxed)).ok()?;
        let removed = self.slots.get_mut(index)?.take();
        self.free.push(index);
        removed
    }
}
