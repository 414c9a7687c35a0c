//! What a file system offers to the VFS: inodes.
//!
//! All operations are synchronous; none may wait for an application. An implementation checks
//! what only it can know (does the name exist, is there room); permissions, read-only
//! mounts, name lengths and trailing slashes are the VFS's business and have been judged before.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::errno::{ECONNREFUSED, EINVAL, ENOTDIR, EOPNOTSUPP, EPERM, SysResult};

use super::Ahead;
use super::file::FileOps;
use crate::task::Task;

/// The type of a file (`man 7 inode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum FileKind {
    Regular,
    Directory,
    Symlink,
    CharacterDevice,
    BlockDevice,
    Fifo,
    Socket,
}

impl FileKind {
    /// The `S_IFMT` bits.
    pub const fn mode_bits(self) -> u32 {
        match self {
            Self::Fifo => 0o010_000,
            Self::CharacterDevice => 0o020_000,
            Self::Directory => 0o040_000,
            Self::BlockDevice => 0o060_000,
            Self::Regular => 0o100_000,
            Self::Symlink => 0o120_000,
            Self::Socket => 0o140_000,
        }
    }

    /// From the `S_IFMT` bits of a mode.
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o010_000 => Self::Fifo,
            0o020_000 => Self::CharacterDevice,
            0o040_000 => Self::Directory,
            0o060_000 => Self::BlockDevice,
            0o100_000 => Self::Regular,
            0o120_000 => Self::Symlink,
            0o140_000 => Self::Socket,
            _ => return None,
        })
    }

    /// `DT_*` as in `man 3 readdir`.
    pub const fn directory_entry_type(self) -> u8 {
        (self.mode_bits() >> 12) as u8
    }
}

/// A device number in its two halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct DeviceNumber {
    pub major: u32,
    pub minor: u32,
}

impl DeviceNumber {
    /// As in `st_rdev` (`man 3 makedev`).
    pub const fn encode(self) -> u64 {
        libc::makedev(self.major, self.minor)
    }

    /// From `st_rdev`.
    pub const fn decode(number: u64) -> Self {
        Self { major: libc::major(number), minor: libc::minor(number) }
    }
}

/// What `stat` shows of an inode. Times are in nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of `man 2 stat`")]
pub struct Attributes {
    pub kind: FileKind,
    /// Permission bits only (`07777`).
    pub permissions: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub device_number: DeviceNumber,
    pub inode: u64,
    pub size: u64,
    pub blocks_512: u64,
    pub block_size: u32,
    pub access_ns: i64,
    pub modify_ns: i64,
    pub change_ns: i64,
    pub birth_ns: Option<i64>,
}

impl Attributes {
    /// Attributes of a kernel-made node: no size, now as its times.
    pub fn new(kind: FileKind, permissions: u32, inode: u64) -> Self {
        let now = i64::try_from(crate::time::realtime_ns()).unwrap_or(i64::MAX);
        Self {
            kind,
            permissions,
            links: if kind == FileKind::Directory { 2 } else { 1 },
            uid: 0,
            gid: 0,
            device_number: DeviceNumber::default(),
            inode,
            size: 0,
            blocks_512: 0,
            block_size: 4096,
            access_ns: now,
            modify_ns: now,
            change_ns: now,
            birth_ns: None,
        }
    }

    /// `st_mode`.
    pub const fn mode(&self) -> u32 {
        self.kind.mode_bits() | self.permissions
    }
}

/// A time to be set (`man 2 utimensat`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The current time.
    Now,
    /// Nanoseconds since the epoch.
    To(i64),
}

/// What to change of an inode; `None` leaves it. The change time becomes now in every case.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct SetAttributes {
    pub permissions: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub access: Option<SetTime>,
    pub modify: Option<SetTime>,
}

/// What a new node is.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum NewKind<'a> {
    Regular,
    Directory,
    Symlink(&'a [u8]),
    Fifo,
    Socket,
    Device { block: bool, number: DeviceNumber },
}

/// A node to be made.
#[derive(Clone, Debug)]
pub struct NewNode<'a> {
    /// Its kind.
    pub kind: NewKind<'a>,
    /// Permission bits, umask applied.
    pub permissions: u32,
    /// Owner.
    pub uid: u32,
    /// Group (already that of a set-group-ID directory).
    pub gid: u32,
}

/// Where a symbolic link leads.
pub enum LinkTarget {
    /// To a path, relative to the link's directory.
    Path(Vec<u8>),
    /// Straight to a place (`/proc/PID/fd/N`, `/proc/PID/cwd`); `text` is what `readlink` shows.
    Jump {
        /// The place.
        location: super::Location,
        /// Shown by `readlink`.
        text: Vec<u8>,
    },
    /// Straight to an open file that has no path (`/proc/PID/fd/N` of a pipe).
    JumpToFile {
        /// The file.
        file: Arc<super::FileDescription>,
        /// Shown by `readlink`.
        text: Vec<u8>,
    },
}

/// May an answer of [`Inode::lookup`] on this directory be kept?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CachePolicy {
    /// Nobody but this kernel's own operations changes the directory: found and missing names stay valid.
    Keep,
    /// Ask again each time (proc, shared host directories).
    Revalidate,
}

/// What `open` is to give.
#[derive(Clone, Copy, Debug)]
pub struct OpenRequest {
    /// Open for reading.
    pub read: bool,
    /// Open for writing.
    pub write: bool,
    /// The raw `O_*` flags of `man 2 open`.
    pub flags: u32,
}

/// What `statfs` shows.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "the fields of `man 2 statfs`")]
pub struct FileSystemStatus {
    pub magic: u64,
    pub block_size: u64,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub name_max: u64,
}

/// A mounted instance of a file system.
pub trait FileSystem: Send + Sync {
    /// Its type as in `/proc/filesystems`.
    fn type_name(&self) -> &'static str;
    /// `st_dev` of its files; see [`super::allocate_device`].
    fn device(&self) -> DeviceNumber;
    /// Its root directory (or file, for a bind mount of one).
    fn root(&self) -> Arc<dyn Inode>;
    /// For `statfs`.
    ///
    /// # Errors
    /// The gofer's.
    fn status(&self) -> SysResult<FileSystemStatus>;
    /// Brings everything written to the disk (`sync`, `syncfs`). File systems in memory have nothing to do.
    ///
    /// # Errors
    /// The gofer's.
    fn sync(&self) -> SysResult<()> {
        Ok(())
    }
    /// Changes the instance's own options (`mount(MS_REMOUNT)`); `data` is `mount`'s.
    ///
    /// # Errors
    /// `EINVAL`: an option that is unknown or cannot be changed.
    fn reconfigure(&self, data: &[u8]) -> SysResult<()> {
        if data.is_empty() { Ok(()) } else { Err(EINVAL) }
    }
    /// What `/proc/mounts` shows as the source.
    fn source(&self) -> String {
        self.type_name().to_owned()
    }
    /// Options for `/proc/mounts` beyond the mount's own, beginning with a comma; may be empty.
    fn options(&self) -> String {
        String::new()
    }
}

/// A name in a directory, as [`Inode::names`] lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedName {
    /// The name.
    pub name: Box<[u8]>,
    /// Inode number.
    pub inode: u64,
    /// `DT_*`.
    pub kind: u8,
}

/// What a list of names is for, so that a file system knows what to bring along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamesFor {
    /// An application lists the directory: attributes may be asked for next.
    Listing,
    /// To know which names exist.
    Knowing,
}

/// Flags of an extended attribute change (`man 2 setxattr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrSet {
    /// Create or replace.
    Any,
    /// `XATTR_CREATE`
    Create,
    /// `XATTR_REPLACE`
    Replace,
}

/// A file, directory, link, device, … of some file system. An inode is the same object for as long
/// as anybody holds it: two lookups of one file give the same `Arc` (or at least equal
/// [`Attributes::inode`] and shared state).
///
/// `unlink`, `link`, `rename`, `create` are called on the directory.
pub trait Inode: Send + Sync + Any {
    /// Its file system.
    fn file_system(&self) -> Arc<dyn FileSystem>;

    /// Its kind, which never changes.
    fn kind(&self) -> FileKind;

    /// Its attributes now.
    ///
    /// # Errors
    /// The gofer's.
    fn attributes(&self) -> SysResult<Attributes>;

    /// Its attributes, of which only kind, permissions and owner need be true.
    ///
    /// # Errors
    /// As [`attributes`](Self::attributes).
    fn access_attributes(&self) -> SysResult<Attributes> {
        self.attributes()
    }

    /// Changes attributes. Permission has been checked.
    ///
    /// # Errors
    /// `EPERM` where the file system has no such attribute.
    fn set_attributes(&self, change: &SetAttributes) -> SysResult<()> {
        let _ = change;
        Err(EPERM)
    }

    /// Opens the file. Devices and FIFOs found on disk file systems are opened by the VFS instead, through
    /// [`super::special`].
    ///
    /// # Errors
    /// As `man 2 open`.
    fn open(self: Arc<Self>, request: OpenRequest, task: &Task) -> SysResult<Arc<dyn FileOps>>;

    /// Finds a name in this directory (never `.` or `..`).
    ///
    /// # Errors
    /// `ENOENT`.
    fn lookup(&self, name: &[u8]) -> SysResult<Arc<dyn Inode>> {
        let _ = name;
        Err(ENOTDIR)
    }

    /// As [`lookup`](Self::lookup), by a walk that will go on; for file systems that can ask for several names at once.
    ///
    /// # Errors
    /// `ENOENT`.
    fn lookup_ahead(&self, name: &[u8], ahead: &Ahead<'_>) -> SysResult<Arc<dyn Inode>> {
        let _ = ahead;
        self.lookup(name)
    }

    /// Whether the VFS may remember lookups in this directory.
    fn cache_policy(&self) -> CachePolicy {
        CachePolicy::Keep
    }

    /// Whether the file system holds the inode as long as it has a name: whoever keeps a name of it keeps nothing else alive.
    fn is_held(&self) -> bool {
        false
    }

    /// Makes a new node.
    ///
    /// # Errors
    /// `EEXIST`, `ENOSPC`, `EPERM`.
    fn create(&self, name: &[u8], node: &NewNode<'_>) -> SysResult<Arc<dyn Inode>> {
        let _ = (name, node);
        Err(EPERM)
    }

    /// Makes an unnamed regular file in this directory's file system (`O_TMPFILE`).
    ///
    /// # Errors
    /// `EOPNOTSUPP`.
    fn create_unnamed(&self, node: &NewNode<'_>) -> SysResult<Arc<dyn Inode>> {
        let _ = node;
        Err(EOPNOTSUPP)
    }

    /// Gives `target`, of the same file system, another name here.
    ///
    /// # Errors
    /// `EEXIST`, `EMLINK`, `EPERM`.
    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> SysResult<()> {
        let _ = (name, target);
        Err(EPERM)
    }

    /// Removes a name of anything but a directory. `victim` is what the VFS found under it.
    ///
    /// # Errors
    /// `ENOENT`.
    fn unlink(&self, name: &[u8], victim: &Arc<dyn Inode>) -> SysResult<()> {
        let _ = (name, victim);
        Err(EPERM)
    }

    /// Removes a name of anything but a directory that nobody holds or has looked up, without looking it up. `None`: it has
    /// to be looked up first.
    fn unlink_unseen(&self, name: &[u8]) -> Option<SysResult<()>> {
        let _ = name;
        None
    }

    /// The same of an empty directory.
    fn remove_directory_unseen(&self, name: &[u8]) -> Option<SysResult<()>> {
        let _ = name;
        None
    }

    /// Whether it would have to be asked of somebody else if a name exists. Making it says so as well (`EEXIST`).
    fn would_ask(&self, name: &[u8]) -> bool {
        let _ = name;
        false
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `ENOTEMPTY`.
    fn remove_directory(&self, name: &[u8], victim: &Arc<dyn Inode>) -> SysResult<()> {
        let _ = (name, victim);
        Err(EPERM)
    }

    /// Moves a name to `new_name` in `new_directory` (of the same file system), replacing what
    /// is there; with `exchange` both change places. The VFS has checked kinds and loops.
    ///
    /// # Errors
    /// `ENOTEMPTY`, `EXDEV`, `EINVAL` (no exchange here).
    fn rename(
        &self,
        name: &[u8],
        new_directory: &Arc<dyn Inode>,
        new_name: &[u8],
        exchange: bool,
    ) -> SysResult<()> {
        let _ = (name, new_directory, new_name, exchange);
        Err(EPERM)
    }

    /// The target of this symbolic link, as seen by `task`.
    ///
    /// # Errors
    /// `EINVAL` if it is none; `EACCES`, `ENOENT` for links into a process.
    fn read_link(&self, task: &Task) -> SysResult<LinkTarget> {
        let _ = task;
        Err(EINVAL)
    }

    /// A descriptor that is connected to the host's socket at this node, which never waits.
    ///
    /// # Errors
    /// `ECONNREFUSED`: nobody listens, or none of the host's may be reached. `EAGAIN`: the listener's backlog is full.
    fn connect_host(&self, kind: u32) -> SysResult<OwnedFd> {
        let _ = kind;
        Err(ECONNREFUSED)
    }

    /// Reads an extended attribute.
    ///
    /// # Errors
    /// `ENODATA`, `EOPNOTSUPP`.
    fn xattr(&self, name: &[u8]) -> SysResult<Vec<u8>> {
        let _ = name;
        Err(EOPNOTSUPP)
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `EEXIST`, `ENODATA`, `ENOSPC`, `EOPNOTSUPP`.
    fn set_xattr(&self, name: &[u8], value: &[u8], how: XattrSet) -> SysResult<()> {
        let _ = (name, value, how);
        Err(EOPNOTSUPP)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `ENODATA`, `EOPNOTSUPP`.
    fn remove_xattr(&self, name: &[u8]) -> SysResult<()> {
        let _ = name;
        Err(EOPNOTSUPP)
    }

    /// Names of all extended attributes.
    ///
    /// # Errors
    /// The gofer's.
    fn list_xattrs(&self) -> SysResult<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }

    /// The host file that holds this regular file's bytes, for reading and mapping only: what a file system
    /// stacked upon this one copies from.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: the bytes are elsewhere. The gofer's.
    fn backing(&self) -> SysResult<Arc<crate::memory::HostFile>> {
        Err(EOPNOTSUPP)
    }

    /// All names in this directory, without `.` and `..`: for a file system stacked upon this one.
    ///
    /// # Errors
    /// `ENOTDIR`, `EOPNOTSUPP`. The gofer's.
    fn names(&self, next: NamesFor) -> SysResult<Vec<ListedName>> {
        let _ = next;
        Err(EOPNOTSUPP)
    }

    /// State that the VFS keeps with the inode for as long as it lives: advisory locks, the FIFO
    /// of a FIFO node, the socket bound to a socket node, inotify watches.
    fn attachments(&self) -> &super::Attachments;

    /// For downcasts within one file system (`rename`, `link`).
    fn as_any(&self) -> &dyn Any;
}
