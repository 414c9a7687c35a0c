//! What keeps recent names alive: a bounded set of strong references to dentries, and the bounded memory of names
//! that do not exist.
//!
//! Dentries are evicted by the clock algorithm: what was looked up since the hand last passed gets another chance,
//! directories several, because with a directory goes what is known of all its names. Missing names are forgotten in
//! the order they were learnt. Lock order: the cache's locks are taken alone, never inside or
//! around a dentry's.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Dentry, FileKind, Mount};

/// Dentries that are kept though nobody uses them.
pub const DENTRIES_KEPT: usize = 16 * 1024;
/// Missing names that are remembered.
pub const MISSING_KEPT: usize = 4096;

/// How often the hand passes a directory, and anything else, after its last use.
const CHANCES: [u32; 2] = [8, 1];

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
        let [of_directories, of_others] = CHANCES;
        let is_directory = dentry.inode().kind() == FileKind::Directory;
        let chances = if is_directory { of_directories } else { of_others };
        if dentry.chances.load(Ordering::Relaxed) != chances {
            dentry.chances.store(chances, Ordering::Relaxed);
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
            let chances = dentry.chances.load(Ordering::Relaxed);
            if chances != 0 {
                // A use that comes at the same time may lose a chance.
                dentry.chances.store(chances - 1, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tmpfs::Tmpfs;
    use crate::spec::TmpfsOptions;
    use crate::vfs::{FileSystem, MayAsk, NewKind, NewNode};

    #[test]
    fn a_directory_outlives_files_looked_up_later() {
        let options = TmpfsOptions { mode: 0o755, ..TmpfsOptions::default() };
        let file_system: Arc<dyn FileSystem> = Tmpfs::new(&options, None);
        let cache = DentryCache::with_capacity(4, 1);
        let root = Dentry::new_root(file_system.root());
        let make = |name: &[u8], kind| {
            let node = NewNode { kind, permissions: 0o755, uid: 0, gid: 0 };
            root.inode().create(name, &node).unwrap();
            Arc::downgrade(&root.lookup(name, &cache, MayAsk::Yes).unwrap())
        };
        let directory = make(b"d", NewKind::Directory);
        let mut survived = 0;
        while directory.strong_count() > 0 {
            make(format!("f{survived}").as_bytes(), NewKind::Regular);
            survived += 1;
        }
        // A file would be gone after four others. Without a use, even a directory goes at last.
        assert!((12..40).contains(&survived), "{survived}");
    }
}
