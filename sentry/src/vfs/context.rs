//! What a task believes of the tree: its root, its working directory, its umask (`CLONE_FS` shares them).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use super::{Location, MountNamespace};

/// See the module's text.
pub struct FsContext {
    namespace: Arc<MountNamespace>,
    root: Mutex<Location>,
    cwd: Mutex<Location>,
    umask: AtomicU32,
}

impl FsContext {
    /// At the root of a namespace.
    pub fn new(namespace: Arc<MountNamespace>, umask: u32) -> Arc<Self> {
        let root = namespace.root();
        Arc::new(Self {
            namespace,
            cwd: Mutex::new(root.clone()),
            root: Mutex::new(root),
            umask: AtomicU32::new(umask),
        })
    }

    /// A copy, as `fork` makes it.
    pub fn fork(&self) -> Arc<Self> {
        Arc::new(Self {
            namespace: Arc::clone(&self.namespace),
            root: Mutex::new(self.root()),
            cwd: Mutex::new(self.cwd()),
            umask: AtomicU32::new(self.umask()),
        })
    }

    /// The mounts.
    pub fn namespace(&self) -> &Arc<MountNamespace> {
        &self.namespace
    }

    /// `/`.
    pub fn root(&self) -> Location {
        self.root.lock().clone()
    }

    /// `.`
    pub fn cwd(&self) -> Location {
        self.cwd.lock().clone()
    }

    /// `chroot`.
    pub fn set_root(&self, location: Location) {
        let old = std::mem::replace(&mut *self.root.lock(), location);
        drop(old);
    }

    /// `chdir`.
    pub fn set_cwd(&self, location: Location) {
        let old = std::mem::replace(&mut *self.cwd.lock(), location);
        drop(old);
    }

    /// File mode creation mask.
    pub fn umask(&self) -> u32 {
        self.umask.load(Ordering::Relaxed)
    }

    /// Replaces the mask; returns the old one.
    pub fn set_umask(&self, umask: u32) -> u32 {
        self.umask.swap(umask & 0o777, Ordering::Relaxed)
    }
}
