//! A writable layer in memory over a file system that never changes.
//!
//! The overlay is a tree of [`Node`]s. A node that came from below refers to its lower inode until something of it
//! changes, and then keeps just that itself: metadata, extended attributes, the bytes (copied on the first write),
//! or names. New nodes are in memory entirely, made of the same parts as tmpfs's.
//!
//! * A directory's changes are entries: a node that was made or moved here, or a *whiteout* for a name that the lower
//!   directory still has. Neither is visible as a file. A new directory has no lower inode, which makes it opaque.
//! * Renaming a lower directory moves its node, which keeps its lower inode: nothing is copied.
//! * Inode numbers are the lower ones, before and after copying up; new nodes count from [`NEW_NUMBERS`].
//! * There is one node for each lower inode, so that hard links below stay hard links. A changed one is kept alive
//!   ([`Instance::kept`]) as long as it has a name.
//! * The lower file system is asked once for each lookup; a directory that is changed or listed is
//!   listed below once, and answers itself from then on.
//!
//! Who may use it: mounts, as any [`FileSystem`]. It asks of the lower one only `lookup`, `attributes`, `names`,
//! `read_link`, extended attributes and `backing`.
//!
//! Locks: as in tmpfs, [`Instance::changes`] first, then one directory's entries, then a node's metadata. `nodes` and `kept`
//! are leaves. The lower file system is called without any of them.

mod names;
mod node;
mod open;
mod regular;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::errno::SysResult;
use parking_lot::Mutex;

use crate::fs::tmpfs::budget::Budget;
use crate::vfs::{DeviceNumber, FileSystem, FileSystemStatus, Inode, allocate_device};
pub use node::Node;

/// `OVERLAYFS_SUPER_MAGIC`
const MAGIC: u64 = 0x794c_7630;
/// Numbers of new nodes begin here, behind any that a host file system uses.
const NEW_NUMBERS: u64 = 1 << 47;

/// A mounted overlay.
pub struct Overlay {
    instance: Arc<Instance>,
    root: Arc<Node>,
}

/// What all nodes of one overlay share.
struct Instance {
    device: DeviceNumber,
    budget: Arc<Budget>,
    /// Held while names change.
    changes: Mutex<()>,
    /// Living nodes by their lower inode's number.
    nodes: Mutex<HashMap<u64, Weak<Node>>>,
    /// Changed nodes with a lower inode: only they know of the change.
    kept: Mutex<HashMap<u64, Arc<Node>>>,
    next_number: AtomicU64,
    /// Keeps the lower file system mounted.
    lower: Arc<dyn FileSystem>,
    file_system: OnceLock<Weak<Overlay>>,
}

impl Overlay {
    /// Lays a writable layer over `lower`. `size_bytes` bounds the layer; without it half of the memory limit may be used, as by a
    /// tmpfs.
    ///
    /// # Errors
    /// The lower file system's.
    pub fn new(
        lower: &Arc<dyn FileSystem>,
        size_bytes: Option<u64>,
        memory_limit_bytes: Option<u64>,
    ) -> SysResult<Arc<Self>> {
        let instance = Arc::new(Instance {
            device: allocate_device(),
            budget: Arc::new(Budget::new(size_bytes, None, memory_limit_bytes)),
            changes: Mutex::new(()),
            nodes: Mutex::default(),
            kept: Mutex::default(),
            next_number: AtomicU64::new(NEW_NUMBERS),
            lower: Arc::clone(lower),
            file_system: OnceLock::new(),
        });
        let root = instance.node_of(lower.root(), Weak::new())?;
        let overlay = Arc::new(Self { instance, root });
        let _ = overlay.instance.file_system.set(Arc::downgrade(&overlay));
        Ok(overlay)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        // The kept nodes hold the instance, and it holds them.
        let kept = std::mem::take(&mut *self.instance.kept.lock());
        drop(kept);
    }
}

impl Instance {
    /// The node of a lower inode.
    fn node_of(self: &Arc<Self>, lower: Arc<dyn Inode>, parent: Weak<Node>) -> SysResult<Arc<Node>> {
        let attributes = lower.attributes()?;
        let mut nodes = self.nodes.lock();
        if let Some(node) = nodes.get(&attributes.inode).and_then(Weak::upgrade) {
            return Ok(node);
        }
        let node = Node::over(self, lower, &attributes, parent);
        nodes.insert(attributes.inode, Arc::downgrade(&node));
        Ok(node)
    }

    fn lower_root(&self) -> Arc<dyn Inode> {
        self.lower.root()
    }

    fn new_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    fn file_system(self: &Arc<Self>, asker: &Node) -> Arc<dyn FileSystem> {
        if let Some(file_system) = self.file_system.get().and_then(Weak::upgrade) {
            return file_system;
        }
        // Only a file that outlived every mount comes here: it is all that is left of the tree.
        Arc::new(Overlay { instance: Arc::clone(self), root: asker.me() })
    }
}

impl FileSystem for Overlay {
    fn type_name(&self) -> &'static str {
        "overlay"
    }

    fn device(&self) -> DeviceNumber {
        self.instance.device
    }

    fn root(&self) -> Arc<dyn Inode> {
        Arc::clone(&self.root) as _
    }

    fn status(&self) -> SysResult<FileSystemStatus> {
        Ok(crate::fs::tmpfs::status(MAGIC, &self.instance.budget))
    }
}
