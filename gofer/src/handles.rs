//! What the sentry holds: [`Handles`] maps its numbers to [`Node`]s, [`Budget`] bounds how many descriptors it can
//! make us keep.
//!
//! A handle's number is never used again, so a second clunk finds nothing. A node lives on while a request that
//! looked it up still runs. Lock order: the table's lock and a node's listing lock are leaves, never held together.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use abi::errno::{self, Errno};
use parking_lot::Mutex;
use wire::{Attr, DeviceNumber, FileType, HandleId, TreeFlags};

use crate::directory::Listing;

/// The most descriptors held for the sentry, however high `RLIMIT_NOFILE` is.
pub const MAX_HELD: usize = 1 << 20;
/// Descriptors kept out of the sentry's budget, for what requests open for a moment (at most four each, in
/// [`wire::MAX_CHANNELS`] threads), the channels, the trees' roots and the standard ones.
pub const RESERVED: usize = 64;

/// A file the sentry holds.
#[derive(Debug)]
pub struct Node {
    /// `O_PATH | O_NOFOLLOW`: names the file, and allows nothing else.
    descriptor: OwnedFd,
    /// An inode's type never changes.
    pub kind: FileType,
    /// Its device and number.
    identity: (DeviceNumber, u64),
    /// The index of the tree it was reached through.
    pub tree: usize,
    /// What the tree allows.
    pub flags: TreeFlags,
    /// A directory being listed.
    pub listing: Mutex<Option<Listing>>,
    _permit: Permit,
}

impl Node {
    /// A file with these attributes.
    pub fn new(descriptor: OwnedFd, attr: &Attr, tree: usize, flags: TreeFlags, permit: Permit) -> Self {
        let (kind, identity) = (attr.file_type(), (attr.device, attr.ino));
        Self { descriptor, kind, identity, tree, flags, listing: Mutex::new(None), _permit: permit }
    }

    /// Whether these are this very file's attributes.
    pub fn is(&self, attr: &Attr) -> bool {
        self.identity == (attr.device, attr.ino) && self.kind == attr.file_type()
    }

    /// `EROFS` in a read-only tree. The mount says so too, where mounts could be made.
    pub fn check_writable(&self) -> Result<(), Errno> {
        if self.flags.contains(TreeFlags::READ_ONLY) { Err(errno::EROFS) } else { Ok(()) }
    }
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// The sentry's handles, shared by its channels.
#[derive(Debug, Default)]
pub struct Handles {
    nodes: Mutex<BTreeMap<u64, Arc<Node>>>,
    last: AtomicU64,
}

impl Handles {
    /// Holds a node under a new number.
    pub fn insert(&self, node: Arc<Node>) -> HandleId {
        // 64 bits do not wrap around: a million a second would take half a million years.
        let id = self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.nodes.lock().insert(id, node);
        HandleId(id)
    }

    /// The node with this number; `EBADF` if there is none.
    pub fn get(&self, id: HandleId) -> Result<Arc<Node>, Errno> {
        self.nodes.lock().get(&id.0).cloned().ok_or(errno::EBADF)
    }

    /// Forgets a handle; one that is not held is ignored, because nobody reads a clunk's answer.
    pub fn remove(&self, id: HandleId) {
        // Closing the descriptor may take long (the last reference to an unlinked file): not under the lock.
        let node = self.nodes.lock().remove(&id.0);
        drop(node);
    }
}

/// How many more descriptors the sentry may make us hold.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }

    /// The right to hold one more descriptor; `EMFILE` when there is none.
    pub fn take(self: &Arc<Self>) -> Result<Permit, Errno> {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            (used < self.limit).then_some(used + 1)
        });
        match taken {
            Ok(_) => Ok(Permit { budget: Arc::clone(self) }),
            Err(_) => Err(errno::EMFILE),
        }
    }
}

/// The right to hold one descriptor, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(1, Ordering::Relaxed);
    }
}
