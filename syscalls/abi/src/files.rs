//! Files: how they are opened, what `stat` says of them, and the calls on descriptors.
//!
//! Neighbours: `file_calls` (`fcntl`, `fallocate`, `rename` and other per-call flags),
//! `directories` (`getdents` records), `ioctls`, `terminals`, `polling`, `mounts`.

use crate::define::{constants, flags, plain};

flags! {
    /// Flags of `open(2)` and file status flags. The low two bits are the access mode, see
    /// [`OpenFlags::access`]; `O_RDONLY` is zero and so has no name here.
    OpenFlags: u32 {
        O_WRONLY = 0o1,
        O_RDWR = 0o2,
        O_CREAT = 0o100,
        O_EXCL = 0o200,
        O_NOCTTY = 0o400,
        O_TRUNC = 0o1000,
        O_APPEND = 0o2000,
        O_NONBLOCK = 0o4000,
        O_SYNC = 0o4010000,
        O_DSYNC = 0o10000,
        O_ASYNC = 0o20000,
        O_DIRECT = 0o40000,
        O_LARGEFILE = 0o100000,
        O_TMPFILE = 0o20200000,
        O_DIRECTORY = 0o200000,
        O_NOFOLLOW = 0o400000,
        O_NOATIME = 0o1000000,
        O_CLOEXEC = 0o2000000,
        O_PATH = 0o10000000,
    }

    /// `st_mode`, and the mode argument of `open(2)`, `mkdir(2)`, `chmod(2)`.
    /// The type is a number in the bits of [`S_IFMT`], not a flag.
    Mode: u32 {
        S_ISUID = 0o4000,
        S_ISGID = 0o2000,
        S_ISVTX = 0o1000,
        S_IRUSR = 0o400,
        S_IWUSR = 0o200,
        S_IXUSR = 0o100,
        S_IRGRP = 0o40,
        S_IWGRP = 0o20,
        S_IXGRP = 0o10,
        S_IROTH = 0o4,
        S_IWOTH = 0o2,
        S_IXOTH = 0o1,
    }

    /// Flags of the `*at` calls (`man 2 openat`); which are valid differs by call.
    AtFlags: u32 {
        AT_SYMLINK_NOFOLLOW = 0x100,
        /// Also `AT_EACCESS`, in `faccessat2(2)`.
        AT_REMOVEDIR = 0x200,
        AT_SYMLINK_FOLLOW = 0x400,
        AT_NO_AUTOMOUNT = 0x800,
        AT_EMPTY_PATH = 0x1000,
        AT_STATX_FORCE_SYNC = 0x2000,
        AT_STATX_DONT_SYNC = 0x4000,
        AT_RECURSIVE = 0x8000,
    }

    /// What `access(2)` asks for; `F_OK` is none.
    AccessMode: u32 { R_OK = 4, W_OK = 2, X_OK = 1 }

    /// Which fields of [`Statx`] are wanted or filled.
    StatxMask: u32 {
        STATX_TYPE = 0x1,
        STATX_MODE = 0x2,
        STATX_NLINK = 0x4,
        STATX_UID = 0x8,
        STATX_GID = 0x10,
        STATX_ATIME = 0x20,
        STATX_MTIME = 0x40,
        STATX_CTIME = 0x80,
        STATX_INO = 0x100,
        STATX_SIZE = 0x200,
        STATX_BLOCKS = 0x400,
        STATX_BTIME = 0x800,
        STATX_MNT_ID = 0x1000,
        STATX_DIOALIGN = 0x2000,
        STATX_MNT_ID_UNIQUE = 0x4000,
        STATX_SUBVOL = 0x8000,
        STATX_WRITE_ATOMIC = 0x10000,
        STATX_DIO_READ_ALIGN = 0x20000,
        STATX__RESERVED = 0x8000_0000,
    }

    /// `stx_attributes`.
    StatxAttributes: u64 {
        STATX_ATTR_COMPRESSED = 0x4,
        STATX_ATTR_IMMUTABLE = 0x10,
        STATX_ATTR_APPEND = 0x20,
        STATX_ATTR_NODUMP = 0x40,
        STATX_ATTR_ENCRYPTED = 0x800,
        STATX_ATTR_AUTOMOUNT = 0x1000,
        STATX_ATTR_MOUNT_ROOT = 0x2000,
        STATX_ATTR_VERITY = 0x10_0000,
        STATX_ATTR_DAX = 0x20_0000,
    }

    /// How `openat2(2)` resolves a path.
    ResolveFlags: u64 {
        RESOLVE_NO_XDEV = 0x1,
        RESOLVE_NO_MAGICLINKS = 0x2,
        RESOLVE_NO_SYMLINKS = 0x4,
        RESOLVE_BENEATH = 0x8,
        RESOLVE_IN_ROOT = 0x10,
        RESOLVE_CACHED = 0x20,
    }
}

constants! {
    /// Access modes, the values of `flags & O_ACCMODE`. 3 asks for a descriptor of neither.
    ACCESS_MODE_NAMES: u32 { O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_ACCMODE = 3 }

    /// File types in `st_mode`.
    FILE_TYPE_NAMES: u32 {
        S_IFSOCK = 0o140000,
        S_IFLNK = 0o120000,
        S_IFREG = 0o100000,
        S_IFBLK = 0o060000,
        S_IFDIR = 0o040000,
        S_IFCHR = 0o020000,
        S_IFIFO = 0o010000,
        S_IFMT = 0o170000,
    }

    /// "Relative to the current directory", in place of a directory descriptor.
    AT_FD_NAMES: i32 { AT_FDCWD = -100 }

    /// `AT_EACCESS` shares its bit with [`AtFlags::AT_REMOVEDIR`].
    AT_EACCESS_NAMES: u32 { AT_EACCESS = 0x200 }

    /// Where `lseek(2)` counts from.
    SEEK_NAMES: i32 { SEEK_SET = 0, SEEK_CUR = 1, SEEK_END = 2, SEEK_DATA = 3, SEEK_HOLE = 4 }

    /// Nanosecond values with a meaning in `utimensat(2)`.
    UTIME_NAMES: i64 { UTIME_NOW = 0x3fff_ffff, UTIME_OMIT = 0x3fff_fffe }

    /// Longest path and name, including and excluding the NUL respectively.
    PATH_LIMIT_NAMES: usize { PATH_MAX = 4096, NAME_MAX = 255 }
}

impl OpenFlags {
    /// What `fcntl(F_SETFL)` may change.
    pub const SETTABLE: Self = Self::O_APPEND
        .union(Self::O_NONBLOCK)
        .union(Self::O_ASYNC)
        .union(Self::O_DIRECT)
        .union(Self::O_NOATIME);

    /// What only matters while opening; `fcntl(F_GETFL)` does not show it.
    pub const CREATION: Self =
        Self::O_CREAT.union(Self::O_EXCL).union(Self::O_NOCTTY).union(Self::O_TRUNC).union(Self::O_CLOEXEC);

    /// The access mode: [`O_RDONLY`], [`O_WRONLY`], [`O_RDWR`] or 3.
    pub const fn access(self) -> u32 {
        self.bits() & O_ACCMODE
    }

    /// Whether the file may be read through such a descriptor.
    pub const fn can_read(self) -> bool {
        matches!(self.access(), O_RDONLY | O_RDWR) && !self.contains(Self::O_PATH)
    }

    /// Whether the file may be written through such a descriptor.
    pub const fn can_write(self) -> bool {
        matches!(self.access(), O_WRONLY | O_RDWR) && !self.contains(Self::O_PATH)
    }

    /// Whether the descriptor closes at `execve(2)`.
    pub const fn cloexec(self) -> bool {
        self.contains(Self::O_CLOEXEC)
    }

    /// Whether calls on the descriptor fail with `EAGAIN` rather than wait.
    pub const fn nonblocking(self) -> bool {
        self.contains(Self::O_NONBLOCK)
    }

    /// Whether all bits of `O_TMPFILE` are set (one of them is `O_DIRECTORY`).
    pub const fn is_tmpfile(self) -> bool {
        self.contains(Self::O_TMPFILE)
    }
}

impl Mode {
    /// Read, write and execute for everyone.
    pub const ACCESS_ALL: Self = Self::from_bits_retain(0o777);
    /// All that `chmod(2)` can set.
    pub const PERMISSIONS: Self = Self::from_bits_retain(0o7777);

    /// The bits that `chmod(2)` can set.
    pub const fn permissions(self) -> Self {
        Self::from_bits_retain(self.bits() & 0o7777)
    }

    /// The type bits, to compare with [`S_IFREG`] and its like.
    pub const fn type_bits(self) -> u32 {
        self.bits() & S_IFMT
    }

    /// The type, `None` if the bits name none.
    pub const fn file_type(self) -> Option<FileType> {
        FileType::from_mode_bits(self.bits())
    }

    /// The permissions that remain under a umask.
    pub const fn without_umask(self, umask: Self) -> Self {
        Self::from_bits_retain(self.bits() & !(umask.bits() & 0o777))
    }
}

/// What kind of file an inode is; the discriminant is the `d_type` of a directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FileType {
    /// A named pipe.
    Fifo = 1,
    /// A character device.
    CharDevice = 2,
    /// A directory.
    Directory = 4,
    /// A block device.
    BlockDevice = 6,
    /// A regular file.
    Regular = 8,
    /// A symbolic link.
    Symlink = 10,
    /// A Unix socket.
    Socket = 12,
}

impl FileType {
    /// The type in a `st_mode`; other bits are not looked at.
    pub const fn from_mode_bits(mode: u32) -> Option<Self> {
        Some(match mode & S_IFMT {
            S_IFIFO => Self::Fifo,
            S_IFCHR => Self::CharDevice,
            S_IFDIR => Self::Directory,
            S_IFBLK => Self::BlockDevice,
            S_IFREG => Self::Regular,
            S_IFLNK => Self::Symlink,
            S_IFSOCK => Self::Socket,
            _ => return None,
        })
    }

    /// The type as bits of `st_mode`.
    pub const fn mode_bits(self) -> u32 {
        (self as u32) << 12
    }

    /// The type with permissions, as `st_mode` has it.
    pub const fn with_permissions(self, permissions: Mode) -> Mode {
        Mode::from_bits_retain(self.mode_bits() | (permissions.bits() & 0o7777))
    }

    /// The `d_type` of a directory entry.
    pub const fn d_type(self) -> u8 {
        self as u8
    }
}

plain! {
    /// `struct stat`.
    Stat {
        st_dev: u64,
        st_ino: u64,
        st_nlink: u64,
        st_mode: u32,
        st_uid: u32,
        st_gid: u32,
        /// Padding.
        __pad0: u32,
        st_rdev: u64,
        st_size: i64,
        st_blksize: i64,
        /// In units of 512 bytes.
        st_blocks: i64,
        st_atime: i64,
        st_atime_nsec: i64,
        st_mtime: i64,
        st_mtime_nsec: i64,
        st_ctime: i64,
        st_ctime_nsec: i64,
        /// Padding.
        __unused: [i64; 3],
    }

    /// A time in [`Statx`].
    StatxTimestamp {
        tv_sec: i64,
        tv_nsec: u32,
        __reserved: i32,
    }

    /// `struct statx`.
    Statx {
        stx_mask: u32,
        stx_blksize: u32,
        stx_attributes: u64,
        stx_nlink: u32,
        stx_uid: u32,
        stx_gid: u32,
        stx_mode: u16,
        __spare0: [u16; 1],
        stx_ino: u64,
        stx_size: u64,
        stx_blocks: u64,
        stx_attributes_mask: u64,
        stx_atime: StatxTimestamp,
        stx_btime: StatxTimestamp,
        stx_ctime: StatxTimestamp,
        stx_mtime: StatxTimestamp,
        stx_rdev_major: u32,
        stx_rdev_minor: u32,
        stx_dev_major: u32,
        stx_dev_minor: u32,
        stx_mnt_id: u64,
        stx_dio_mem_align: u32,
        stx_dio_offset_align: u32,
        __spare3: [u64; 12],
    }

    /// `struct statfs`.
    Statfs {
        f_type: u64,
        f_bsize: u64,
        f_blocks: u64,
        f_bfree: u64,
        f_bavail: u64,
        f_files: u64,
        f_ffree: u64,
        f_fsid: [i32; 2],
        f_namelen: u64,
        f_frsize: u64,
        f_flags: u64,
        f_spare: [u64; 4],
    }

    /// The argument of `openat2(2)`.
    OpenHow {
        flags: u64,
        mode: u64,
        resolve: u64,
    }
}

/// Size of the first published [`OpenHow`].
pub const OPEN_HOW_SIZE_VER0: usize = 24;

/// A device number as `st_dev` holds it (the encoding of `makedev(3)`).
pub const fn make_dev(major: u32, minor: u32) -> u64 {
    let (major, minor) = (major as u64, minor as u64);
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12 | (major & !0xfff) << 32
}

/// The major number of a `st_dev`.
pub const fn dev_major(dev: u64) -> u32 {
    ((dev >> 8) & 0xfff) as u32 | ((dev >> 32) & !0xfff) as u32
}

/// The minor number of a `st_dev`.
pub const fn dev_minor(dev: u64) -> u32 {
    (dev & 0xff) as u32 | ((dev >> 12) & !0xff) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_round_trip_at_the_edges() {
        for (major, minor) in [(0, 0), (8, 1), (0xfff, 0xff), (0x1000, 0x100), (u32::MAX, u32::MAX)] {
            let dev = make_dev(major, minor);
            assert_eq!((dev_major(dev), dev_minor(dev)), (major, minor));
        }
        assert_eq!(make_dev(1, 3), 0x103);
    }

    #[test]
    fn access_modes_decide_reading_and_writing() {
        let cases = [(0, true, false), (1, false, true), (2, true, true), (3, false, false)];
        for (bits, read, write) in cases {
            let flags = OpenFlags::from_bits_retain(bits);
            assert_eq!((flags.can_read(), flags.can_write()), (read, write), "{bits}");
        }
        assert!(!(OpenFlags::O_PATH | OpenFlags::O_RDWR).can_read());
        assert!(!OpenFlags::O_DIRECTORY.is_tmpfile());
    }

    #[test]
    fn file_types_agree_between_mode_and_directory_entry() {
        for (_, bits) in FILE_TYPE_NAMES.iter().filter(|(name, _)| *name != "S_IFMT") {
            let bits = u32::try_from(*bits).unwrap();
            assert_eq!(FileType::from_mode_bits(bits | 0o7777).unwrap().mode_bits(), bits);
        }
        assert_eq!(FileType::from_mode_bits(0o777), None);
        let mode = FileType::Directory.with_permissions(Mode::from_bits_retain(0o41777));
        assert_eq!(mode.bits(), 0o041777);
        assert_eq!(
            Mode::from_bits_retain(0o7777).without_umask(Mode::from_bits_retain(0o7022)).bits(),
            0o7755
        );
    }
}
