//! Mounts and the namespace they form.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{Dentry, FileSystem, Location};

bitflags::bitflags! {
    /// Options of a mount, in the values of `statfs`'s `f_flags` (`man 2 statfs`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct MountFlags: u32 {
        /// No writes.
        const RDONLY = 1;
        /// Set-user-ID bits do nothing.
        const NOSUID = 2;
        /// Devices cannot be opened.
        const NODEV = 4;
        /// Nothing is executed.
        const NOEXEC = 8;
        /// Access times stay.
        const NOATIME = 1024;
        /// Access times of directories stay.
        const NODIRATIME = 2048;
        /// Access times follow modification.
        const RELATIME = 4096;
    }
}

/// A file system attached to the tree.
pub struct Mount {
    /// Number in `/proc/PID/mountinfo`.
    pub id: u32,
    /// The file system.
    pub file_system: Arc<dyn FileSystem>,
    /// Its part that is visible.
    pub root: Arc<Dentry>,
    /// Where it is attached; `None` for the root of the namespace.
    pub point: Mutex<Option<Location>>,
    /// Options.
    pub flags: Mutex<MountFlags>,
}

impl Mount {
    /// Whether set-user-ID bits do nothing here.
    pub fn ignores_set_ids(&self) -> bool {
        self.flags.lock().contains(MountFlags::NOSUID)
    }

    /// Whether nothing is executed from here.
    pub fn forbids_execution(&self) -> bool {
        self.flags.lock().contains(MountFlags::NOEXEC)
    }
}

/// All mounts a set of processes sees.
pub struct MountNamespace {
    root: Arc<Mount>,
    mounts: Mutex<Vec<Arc<Mount>>>,
}

impl MountNamespace {
    /// A namespace with a root file system and nothing else.
    pub fn new(file_system: Arc<dyn FileSystem>, flags: MountFlags) -> Arc<Self> {
        let root = Arc::new(Mount {
            id: 1,
            root: Dentry::new_root(file_system.root()),
            file_system,
            point: Mutex::new(None),
            flags: Mutex::new(flags),
        });
        Arc::new(Self { mounts: Mutex::new(vec![Arc::clone(&root)]), root })
    }

    /// The place `/`.
    pub fn root(&self) -> Location {
        Location { mount: Arc::clone(&self.root), dentry: Arc::clone(&self.root.root) }
    }

    /// All mounts, the root first, in the order they were made.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        self.mounts.lock().clone()
    }
}
