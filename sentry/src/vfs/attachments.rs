//! State that the VFS keeps with an inode while it lives: who writes or executes it, its advisory locks, the pipe
//! behind a FIFO node, the socket bound to a socket node, who watches it.
//!
//! Most inodes never have more than the count of writers; the rest is made when it is first needed.

use std::any::Any;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::errno::{ETXTBSY, SysResult};
use parking_lot::Mutex;

use super::locks::InodeLocks;
use super::watches::Watches;

/// See [`super::Inode::attachments`].
#[derive(Default)]
pub struct Attachments {
    /// Descriptions open for writing; negative: descriptions that forbid it.
    writers: AtomicI32,
    more: OnceLock<Box<More>>,
}

#[derive(Default)]
struct More {
    locks: InodeLocks,
    fifo: Slot,
    socket: Slot,
    watches: Watches,
}

/// A place for what another part of the kernel keeps with an inode, without keeping it alive.
#[derive(Default)]
pub struct Slot {
    object: Mutex<Option<Weak<dyn Any + Send + Sync>>>,
}

impl Slot {
    /// What is there, if it lives and is a `T`.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let object = self.object.lock().as_ref().and_then(Weak::upgrade)?;
        object.downcast().ok()
    }

    /// What is there, or what `make` makes.
    pub fn get_or_insert<T: Any + Send + Sync>(&self, make: impl FnOnce() -> Arc<T>) -> Arc<T> {
        let mut object = self.object.lock();
        if let Some(found) = object.as_ref().and_then(Weak::upgrade).and_then(|object| object.downcast().ok())
        {
            return found;
        }
        let made = make();
        let weak: Weak<T> = Arc::downgrade(&made);
        *object = Some(weak);
        made
    }

    /// Puts something there.
    pub fn set<T: Any + Send + Sync>(&self, object: &Arc<T>) {
        let weak: Weak<T> = Arc::downgrade(object);
        *self.object.lock() = Some(weak);
    }

    /// Empties the place.
    pub fn clear(&self) {
        *self.object.lock() = None;
    }
}

impl Attachments {
    fn more(&self) -> &More {
        self.more.get_or_init(Box::default)
    }

    /// Somebody opens the file for writing.
    pub(super) fn add_writer(&self) -> SysResult<()> {
        self.change(|writers| (writers >= 0).then(|| writers + 1))
    }

    /// … and has closed it.
    pub(super) fn remove_writer(&self) {
        self.writers.fetch_sub(1, Ordering::AcqRel);
    }

    /// Somebody executes the file.
    pub(super) fn deny_writers(&self) -> SysResult<()> {
        self.change(|writers| (writers <= 0).then(|| writers - 1))
    }

    /// … and no longer does.
    pub(super) fn allow_writers(&self) {
        self.writers.fetch_add(1, Ordering::AcqRel);
    }

    fn change(&self, change: impl FnMut(i32) -> Option<i32>) -> SysResult<()> {
        let changed = self.writers.fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
        changed.map(drop).map_err(|_| ETXTBSY)
    }

    /// Whether the file is being executed (`ETXTBSY` for `truncate`).
    pub fn is_executed(&self) -> bool {
        self.writers.load(Ordering::Acquire) < 0
    }

    /// Advisory locks.
    pub fn locks(&self) -> &InodeLocks {
        &self.more().locks
    }

    /// The pipe of a FIFO node.
    pub fn fifo(&self) -> &Slot {
        &self.more().fifo
    }

    /// The Unix socket bound to a socket node.
    pub fn socket(&self) -> &Slot {
        &self.more().socket
    }

    /// Who watches it (`inotify`).
    pub fn watches(&self) -> &Watches {
        &self.more().watches
    }

    /// The same, if there was ever anything to keep.
    pub fn watches_if_any(&self) -> Option<&Watches> {
        self.more.get().map(|more| &more.watches)
    }

    /// A descriptor table has closed a descriptor of this file: its record locks go (`man 2 fcntl`).
    pub fn release_table(&self, table: u64) {
        if let Some(more) = self.more.get() {
            more.locks.release_table(table);
        }
    }

    /// A description of this file is gone: so are its locks.
    pub(super) fn release_description(&self, identity: u64) {
        if let Some(more) = self.more.get() {
            more.locks.release_description(identity);
        }
    }
}
