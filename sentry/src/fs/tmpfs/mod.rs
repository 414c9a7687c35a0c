//! Files in memory (`man 5 tmpfs`), and files in memory without a name (`man 2 memfd_create`).
//!
//! [`Tmpfs`] is a mounted instance, [`Node`] an inode of it (`node.rs`), `open.rs` its open files. The parts that an
//! overlay's upper layer is made of, too, are modules of their own: [`content`] (bytes), [`names`] (directories),
//! [`metadata`], [`xattrs`], [`budget`].
//!
//! Locks: `Instance::changes` is held by every operation that changes names, so that each sees a tree that
//! stands still; below it come one directory's names at a time, then a node's metadata. Lookups take the
//! directory's names only. Directories own their children, nothing owns its parent: dropping the root
//! frees the tree.

pub mod budget;
pub mod content;
pub mod copying;
mod expected;
pub mod metadata;
pub mod names;
pub mod options;
pub mod xattrs;

mod node;
mod open;
#[cfg(test)]
mod tests;
mod view;

use std::ffi::CString;
use std::sync::{Arc, OnceLock, Weak};

use abi::errno::{EINVAL, EPERM, SysResult};
use parking_lot::Mutex;

use crate::memory::errno;
use crate::spec::TmpfsOptions;
use crate::vfs::{
    DeviceNumber, FileDescription, FileKind, FileOps, FileSystem, FileSystemStatus, Inode, allocate_device,
};
use budget::{Budget, PAGE};
pub use node::Node;
pub use open::{RegularFile, directory_seek, emit_dots};

/// `TMPFS_MAGIC`
const MAGIC: u64 = 0x0102_1994;

/// A mounted tmpfs.
pub struct Tmpfs {
    instance: Arc<Instance>,
    root: Arc<Node>,
    options: TmpfsOptions,
}

/// What all nodes of one tmpfs share.
struct Instance {
    device: DeviceNumber,
    budget: Arc<Budget>,
    /// Held while names change.
    changes: Mutex<()>,
    /// The file system; it is kept alive by its mounts, and every open file by its mount.
    file_system: OnceLock<Weak<Tmpfs>>,
    type_name: &'static str,
}

impl Tmpfs {
    /// An empty tmpfs. `memory_limit_bytes` is the sandbox's: without `size=`, half of it may be used.
    pub fn new(options: &TmpfsOptions, memory_limit_bytes: Option<u64>) -> Arc<Self> {
        Self::with_type("tmpfs", options, memory_limit_bytes)
    }

    /// As [`Tmpfs::new`], with another name in `/proc/mounts` (`devtmpfs`, `mqueue`, …).
    pub fn with_type(
        type_name: &'static str,
        options: &TmpfsOptions,
        memory_limit_bytes: Option<u64>,
    ) -> Arc<Self> {
        let instance = Arc::new(Instance {
            device: allocate_device(),
            budget: Arc::new(Budget::new(options.size_bytes, options.inodes, memory_limit_bytes)),
            changes: Mutex::new(()),
            file_system: OnceLock::new(),
            type_name,
        });
        let root = Node::root(&instance, options.mode & 0o7777, options.uid, options.gid);
        let file_system = Arc::new(Self { instance, root, options: options.clone() });
        let _ = file_system.instance.file_system.set(Arc::downgrade(&file_system));
        file_system
    }

    /// The root as what it is.
    pub const fn root_node(&self) -> &Arc<Node> {
        &self.root
    }
}

impl Instance {
    fn file_system(self: &Arc<Self>) -> Arc<dyn FileSystem> {
        if let Some(file_system) = self.file_system.get().and_then(Weak::upgrade) {
            return file_system;
        }
        // Only a file that outlived every mount comes here: it sees an empty tree.
        let root = Node::root(self, 0o700, 0, 0);
        Arc::new(Tmpfs { instance: Arc::clone(self), root, options: TmpfsOptions::default() })
    }
}

impl FileSystem for Tmpfs {
    fn type_name(&self) -> &'static str {
        self.instance.type_name
    }

    fn device(&self) -> DeviceNumber {
        self.instance.device
    }

    fn root(&self) -> Arc<dyn Inode> {
        Arc::clone(&self.root) as _
    }

    fn status(&self) -> SysResult<FileSystemStatus> {
        Ok(status(MAGIC, &self.instance.budget))
    }

    fn options(&self) -> String {
        let mut options = String::new();
        if let Some(size) = self.options.size_bytes {
            options += &format!(",size={}k", size.div_ceil(1024));
        }
        if let Some(inodes) = self.options.inodes {
            options += &format!(",nr_inodes={inodes}");
        }
        if self.options.mode != 0o1777 {
            options += &format!(",mode={:o}", self.options.mode);
        }
        options
    }
}

/// `statfs` of a file system with a budget.
pub fn status(magic: u64, budget: &Budget) -> FileSystemStatus {
    let ((blocks, blocks_free), (files, files_free)) = (budget.pages(), budget.inodes());
    FileSystemStatus {
        magic,
        block_size: PAGE,
        blocks,
        blocks_free,
        blocks_available: blocks_free,
        files,
        files_free,
        name_max: 255,
    }
}

/// The nameless instance that `memfd_create` uses.
fn kernel_mount() -> &'static Arc<Tmpfs> {
    static MOUNT: OnceLock<Arc<Tmpfs>> = OnceLock::new();
    MOUNT.get_or_init(|| {
        // As on Linux, memory files are bounded by the memory limit, not by a mount's size.
        let options = TmpfsOptions { size_bytes: Some(i64::MAX.cast_unsigned()), ..Default::default() };
        Tmpfs::new(&options, None)
    })
}

/// Whether seals can be added to a memory file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sealing {
    /// `MFD_ALLOW_SEALING`
    Allowed,
    /// It begins with `F_SEAL_SEAL`.
    Forbidden,
}

/// A new memory file without a name (`memfd_create`), mode 0777; `name` is what `/proc/PID/fd` shows after `/memfd:`.
///
/// # Errors
/// `ENFILE`, `ENOSPC`, `ENOMEM`.
pub fn anonymous_file(
    name: &[u8],
    sealing: Sealing,
    uid: u32,
    gid: u32,
) -> SysResult<(Arc<dyn Inode>, Arc<dyn FileOps>)> {
    let name = CString::new(name).map_err(|_| EINVAL)?;
    let node = Node::memory_file(&kernel_mount().instance, &name, uid, gid)?;
    if sealing == Sealing::Forbidden {
        change_seals(&*node, libc::F_SEAL_SEAL)?;
    }
    let ops = RegularFile::open(Arc::clone(&node));
    Ok((node, ops))
}

/// `fcntl(F_GET_SEALS)`.
///
/// # Errors
/// `EINVAL`: not a memory file.
pub fn seals(file: &FileDescription) -> SysResult<u64> {
    let host = memory_file(&*file.inode)?;
    let seals = nix::fcntl::fcntl(&*host, nix::fcntl::FcntlArg::F_GET_SEALS).map_err(errno)?;
    u64::try_from(seals).map_err(|_| EINVAL)
}

/// `fcntl(F_ADD_SEALS)`. The host keeps the seals, and so knows of writable mappings (`EBUSY`).
///
/// # Errors
/// `EINVAL`: not a memory file. `EPERM`: sealed, or not open for writing. `EBUSY`.
pub fn add_seals(file: &FileDescription, seals: u32) -> SysResult<()> {
    if !file.writable {
        return Err(EPERM);
    }
    change_seals(&*file.inode, seals.cast_signed())
}

fn change_seals(inode: &dyn Inode, seals: i32) -> SysResult<()> {
    let seals = nix::fcntl::SealFlag::from_bits(seals).ok_or(EINVAL)?;
    let host = memory_file(inode)?;
    nix::fcntl::fcntl(&*host, nix::fcntl::FcntlArg::F_ADD_SEALS(seals)).map(drop).map_err(errno)
}

fn memory_file(inode: &dyn Inode) -> SysResult<Arc<crate::memory::HostFile>> {
    let node = inode.as_any().downcast_ref::<Node>().ok_or(EINVAL)?;
    if inode.kind() != FileKind::Regular {
        return Err(EINVAL);
    }
    node.seal_file()
}
