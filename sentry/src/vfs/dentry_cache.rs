//! What keeps recent names alive: a bounded set of strong references to dentries, and the bounded memory of names
//! that do not exist. Dentries of inodes that their file system holds anyway ([`Inode::is_held`](super::Inode::is_held)) cost
//! little, so more of them are kept, in a ring of their own.
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

/// Dentries that are kept, and their inodes with them, though nobody uses them: 1.6 KiB each.
pub const DENTRIES_KEPT: usize = 16 * 1024;
/// Dentries that are kept of inodes which are there anyway: 0.3 KiB each, less than the inode itself.
pub const HELD_KEPT: usize = 128 * 1024;
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
    /// Of inodes that live by it, and of those that do not.
    rings: Mutex<[Ring; 2]>,
    missing: Mutex<VecDeque<Missing>>,
    numbers: AtomicU64,
    capacities: [usize; 2],
    missing_capacity: usize,
}

impl Default for DentryCache {
    fn default() -> Self {
        Self::with_capacities([DENTRIES_KEPT, HELD_KEPT], MISSING_KEPT)
    }
}

impl DentryCache {
    /// A cache of other than the usual size: dentries whose inodes live by it, others, missing names.
    pub fn with_capacities(capacities: [usize; 2], missing_capacity: usize) -> Self {
        Self {
            rings: Mutex::default(),
            missing: Mutex::default(),
            numbers: AtomicU64::new(0),
            capacities: capacities.map(|capacity| capacity.max(1)),
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
        // It stays in the ring that it came to, should its inode come to be held later.
        let which = usize::from(dentry.inode().is_held());
        let evicted = {
            let mut rings = self.rings.lock();
            let (Some(ring), Some(capacity)) = (rings.get_mut(which), self.capacities.get(which)) else {
                return;
            };
            if dentry.slot.load(Ordering::Relaxed) != NO_SLOT {
                return;
            }
            let (index, evicted) = ring.make_room(*capacity);
            if let (Some(slot), Ok(number)) = (ring.slots.get_mut(index), u32::try_from(index * 2 + which)) {
                *slot = Some(Arc::clone(dentry));
                dentry.slot.store(number, Ordering::Relaxed);
            }
            evicted
        };
        drop(evicted);
    }

    /// A dentry's name is gone: nothing is gained by keeping it, and its inode's space is wanted back.
    pub(super) fn forget(&self, dentry: &Arc<Dentry>) {
        let removed = {
            let mut rings = self.rings.lock();
            let number = usize::try_from(dentry.slot.swap(NO_SLOT, Ordering::Relaxed)).unwrap_or(usize::MAX);
            rings.get_mut(number % 2).and_then(|ring| ring.remove(number / 2))
        };
        drop(removed);
    }

    /// Forgets everything of a file system that is no longer mounted.
    pub(super) fn forget_mount(&self, mount: &Mount) {
        let all = |rings: &[Ring; 2]| rings.iter().flat_map(|ring| &ring.slots).flatten().cloned().collect();
        let kept: Vec<Arc<Dentry>> = all(&self.rings.lock());
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

    /// Empties a slot, if there is one of this number.
    fn remove(&mut self, index: usize) -> Option<Arc<Dentry>> {
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
    use crate::vfs::{AnonymousInode, AnonymousKind, FileSystem, MayAsk, NewKind, NewNode};

    #[test]
    fn a_directory_outlives_files_looked_up_later() {
        let options = TmpfsOptions { mode: 0o755, ..TmpfsOptions::default() };
        let file_system: Arc<dyn FileSystem> = Tmpfs::new(&options, None);
        let cache = DentryCache::with_capacities([1, 4], 1);
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

    #[test]
    fn names_of_inodes_that_are_there_anyway_take_no_room_from_others() {
        let file_system: Arc<dyn FileSystem> = Tmpfs::new(&TmpfsOptions::default(), None);
        let cache = DentryCache::with_capacities([1, 8], 1);
        let root = Dentry::new_root(file_system.root());
        let other = root.bind(b"other", AnonymousInode::new(AnonymousKind::Pipe, 0, 0), &cache);
        let kept = (0..9).map(|number: u32| {
            let name = number.to_string();
            let node = NewNode { kind: NewKind::Regular, permissions: 0o755, uid: 0, gid: 0 };
            root.inode().create(name.as_bytes(), &node).unwrap();
            Arc::downgrade(&root.lookup(name.as_bytes(), &cache, MayAsk::Yes).unwrap())
        });
        let kept: Vec<_> = kept.collect();
        assert_eq!(kept.iter().filter(|dentry| dentry.strong_count() > 0).count(), 8);
        assert_eq!(Arc::strong_count(&other), 2);
        cache.forget(&other);
        assert_eq!(Arc::strong_count(&other), 1);
        assert_eq!(kept.iter().filter(|dentry| dentry.strong_count() > 0).count(), 8);
        kept.iter().filter_map(Weak::upgrade).for_each(|dentry| cache.forget(&dentry));
        assert_eq!(kept.iter().filter(|dentry| dentry.strong_count() > 0).count(), 0);
    }
}
