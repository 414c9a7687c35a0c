//! What the kernel has of the VFS as a whole.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};

use abi::errno::{ENODEV, SysResult};
use parking_lot::{Mutex, RwLock};

use super::locks::PosixWaiters;
use super::{
    AnonymousInode, AnonymousKind, Dentry, DentryCache, DeviceTable, FifoHook, FileSystem, Inode, Location,
    Mount,
};
use crate::task::Task;

/// Makes instances of one type of file system, for `mount(2)`.
pub trait FileSystemFactory: Send + Sync {
    /// A new instance, or the one there is (`proc`). `source` and `data` are `mount`'s.
    ///
    /// # Errors
    /// `EINVAL`: unknown options.
    fn make(&self, task: &Task, source: &[u8], data: &[u8]) -> SysResult<Arc<dyn FileSystem>>;

    /// Whether it needs a device (`/proc/filesystems` says "nodev" otherwise).
    fn needs_device(&self) -> bool {
        false
    }
}

/// See the module's text.
#[derive(Default)]
pub struct Vfs {
    /// Recent names.
    pub dentries: DentryCache,
    /// Drivers.
    pub devices: DeviceTable,
    /// What opens FIFOs.
    pub fifos: FifoHook,
    /// Held while a directory moves to another directory: the loop check and the move must see one tree. The one lock
    /// that is held across calls into a file system.
    pub(super) directory_moves: Mutex<()>,
    /// Moves of names so far, to tell them apart (`inotify`).
    pub(super) moves: AtomicU32,
    /// Who waits for whose record lock.
    pub(super) posix_waiters: PosixWaiters,
    factories: RwLock<BTreeMap<&'static str, Arc<dyn FileSystemFactory>>>,
    nowhere: OnceLock<Arc<Mount>>,
}

impl Vfs {
    /// Offers a type of file system to `mount(2)`.
    pub fn register_file_system(&self, name: &'static str, factory: Arc<dyn FileSystemFactory>) {
        self.factories.write().insert(name, factory);
    }

    /// The factory of a type.
    ///
    /// # Errors
    /// `ENODEV`: unknown.
    pub fn file_system_factory(&self, name: &[u8]) -> SysResult<Arc<dyn FileSystemFactory>> {
        let name = std::str::from_utf8(name).map_err(|_| ENODEV)?;
        self.factories.read().get(name).cloned().ok_or(ENODEV)
    }

    /// Types that can be mounted, with whether each needs a device (`/proc/filesystems`).
    pub fn file_system_types(&self) -> Vec<(&'static str, bool)> {
        self.factories.read().iter().map(|(name, factory)| (*name, factory.needs_device())).collect()
    }

    /// A place for a file that has none in any tree; `text` stands for its path.
    pub fn nowhere(&self, inode: Arc<dyn Inode>, text: &[u8]) -> Location {
        let mount = self.nowhere.get_or_init(|| {
            Mount::detached(AnonymousInode::new(AnonymousKind::Other("root"), 0, 0).file_system())
        });
        Location { mount: Arc::clone(mount), dentry: Dentry::new_detached(inode, text) }
    }

    /// Whether a place is one of [`Vfs::nowhere`].
    pub fn is_nowhere(&self, location: &Location) -> bool {
        self.nowhere.get().is_some_and(|mount| Arc::ptr_eq(mount, &location.mount))
    }
}
