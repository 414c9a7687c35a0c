//! The virtual file system: names, mounts, open files; and the traits that file systems implement.
//!
//! * [`Inode`], [`FileSystem`]: what a file system offers (`inode.rs`).
//! * [`FileOps`], [`FileDescription`]: an open file (`file.rs`).
//! * [`Dentry`], [`Mount`], [`Location`]: the tree of names (`dentry.rs`, `mount.rs`).
//! * [`FdTable`], [`FsContext`]: what a task holds of it (`descriptors.rs`, `context.rs`).

mod anonymous;
mod attachments;
mod context;
mod dentry;
mod descriptors;
mod file;
mod inode;
mod mount;

pub use anonymous::{AnonymousInode, AnonymousKind};
pub use attachments::Attachments;
pub use context::FsContext;
pub use dentry::{Dentry, Location};
pub use descriptors::{FD_LIMIT_MAX, FdFlags, FdTable};
pub use file::{DataOnly, DirectoryEntry, FileDescription, FileOps, FileOwner, MappingSource};
pub use inode::{
    Attributes, CachePolicy, DeviceNumber, FileKind, FileSystem, FileSystemStatus, Inode, LinkTarget,
    ListedName, NewKind, NewNode, OpenRequest, SetAttributes, SetTime, XattrSet,
};
pub use mount::{Mount, MountFlags, MountNamespace};

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Longest file name, in bytes (`NAME_MAX`).
pub const NAME_MAX: usize = 255;
/// Longest path, in bytes with its terminating zero (`PATH_MAX`).
pub const PATH_MAX: usize = 4096;
/// Symbolic links followed before `ELOOP`.
pub const SYMLINK_MAX: u32 = 40;

/// A fresh anonymous device number (major 0), for a file system instance.
pub fn allocate_device() -> DeviceNumber {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    DeviceNumber { major: 0, minor: NEXT.fetch_add(1, Ordering::Relaxed) }
}

/// A fresh inode number, unique in the kernel; for kernel-made nodes.
pub fn allocate_inode() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
