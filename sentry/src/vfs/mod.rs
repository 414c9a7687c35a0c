//! The virtual file system: names, mounts, open files; and the traits that file systems implement.
//!
//! * [`Inode`], [`FileSystem`]: what a file system offers (`inode.rs`).
//! * [`FileOps`], [`FileDescription`]: an open file (`file.rs`).
//! * [`Dentry`], [`Mount`], [`Location`]: the tree of names (`dentry.rs`, `mount.rs`).
//! * [`Walker`], [`OpenHow`]: from a path to a place and to an open file (`walk.rs`, `open.rs`), telling file systems what
//!   comes next ([`Ahead`]) and how long answers hold ([`Moment`]).
//! * [`FdTable`], [`FsContext`]: what a task holds of it (`descriptors.rs`, `context.rs`).
//! * [`watches`]: who hears of changes (`inotify`).
//! * [`Vfs`]: what the kernel has of it: recent names, drivers, types of file systems (`state.rs`).
//!
//! README.md beside this file has the model and its invariants.

mod ahead;
mod anonymous;
mod attachments;
mod context;
mod dentry;
mod dentry_cache;
mod descriptors;
mod devices;
mod file;
mod inode;
mod lending;
mod locks;
mod metadata;
mod moment;
mod mount;
mod names;
mod open;
mod permission;
mod seek;
mod state;
#[cfg(test)]
mod tests;
mod transfer;
mod walk;
pub mod watches;

pub use ahead::Ahead;
pub use anonymous::{AnonymousInode, AnonymousKind};
pub use attachments::{Attachments, Slot};
pub use context::FsContext;
pub use dentry::{Dentry, Location, MayAsk, Reachable};
pub use dentry_cache::{DENTRIES_KEPT, DentryCache, HELD_KEPT, MISSING_KEPT};
pub use descriptors::{FD_LIMIT_MAX, FdFlags, FdTable};
pub use devices::{DeviceClass, DeviceDriver, DeviceTable, FifoHook, FifoOpener, OpenedFifo, PartnerCame};
pub(crate) use file::new_identity;
pub use file::{
    CHANGEABLE_FLAGS, DataOnly, Direction, DirectoryEntry, FileDescription, FileOps, FileOwner,
    MappingSource, Operation,
};
pub use inode::{
    Attributes, CachePolicy, DeviceNumber, FileKind, FileSystem, FileSystemStatus, Inode, LinkTarget,
    ListedName, NamesFor, NewKind, NewNode, OpenRequest, SetAttributes, SetTime, XattrSet,
};
pub use lending::{CountedFile, ExpectedRange, LeftToHost, LentTransfer, Over, WritableLoan};
pub use locks::{InodeLocks, LockKind, LockWait, RangeLock, RangeOwner};
pub use metadata::Subject;
pub use moment::{Moment, begin_moment};
pub use mount::{MOUNTS_MAX, Mount, MountFlags, MountInfo, MountNamespace, Recursive, Unmount};
pub use open::{OpenHow, Opening};
pub use permission::{Access, Victim, check_access, check_delete, has, is_owner};
pub use state::{FileSystemFactory, Vfs};
pub use transfer::{At, Blocking, POSITION_MAX, Read, UserBuffers, Write, WriteMode};
pub use walk::{Last, Name, Parent, WalkFlags, Walker};

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Longest file name, in bytes (`NAME_MAX`).
pub const NAME_MAX: usize = 255;
/// Longest path, in bytes with its terminating zero (`PATH_MAX`).
pub const PATH_MAX: usize = 4096;
/// Symbolic links followed before `ELOOP`.
pub const SYMLINK_MAX: u32 = 40;

/// The next anonymous device and the next inode of a kernel-made node.
static NEXT: (AtomicU32, AtomicU64) = (AtomicU32::new(1), AtomicU64::new(1));

/// A fresh anonymous device number (major 0), for a file system instance.
pub fn allocate_device() -> DeviceNumber {
    DeviceNumber { major: 0, minor: NEXT.0.fetch_add(1, Ordering::Relaxed) }
}

/// A fresh inode number, unique in the kernel; for kernel-made nodes.
pub fn allocate_inode() -> u64 {
    NEXT.1.fetch_add(1, Ordering::Relaxed)
}
