//! Flags, commands and structures of the calls on files other than `open` and `stat`.
//!
//! Neighbours: `files` (open flags, modes, `stat`), `ioctls`, `polling`, `mounts`.

use crate::define::{constants, flags, plain};
use crate::user::UserAddress;

constants! {
    /// Commands of `fcntl(2)`.
    FCNTL_NAMES: i32 {
        F_DUPFD = 0,
        F_GETFD = 1,
        F_SETFD = 2,
        F_GETFL = 3,
        F_SETFL = 4,
        F_GETLK = 5,
        F_SETLK = 6,
        F_SETLKW = 7,
        F_SETOWN = 8,
        F_GETOWN = 9,
        F_SETSIG = 10,
        F_GETSIG = 11,
        F_SETOWN_EX = 15,
        F_GETOWN_EX = 16,
        F_GETOWNER_UIDS = 17,
        F_OFD_GETLK = 36,
        F_OFD_SETLK = 37,
        F_OFD_SETLKW = 38,
        F_SETLEASE = 1024,
        F_GETLEASE = 1025,
        F_NOTIFY = 1026,
        F_DUPFD_QUERY = 1027,
        F_CREATED_QUERY = 1028,
        F_CANCELLK = 1029,
        F_DUPFD_CLOEXEC = 1030,
        F_SETPIPE_SZ = 1031,
        F_GETPIPE_SZ = 1032,
        F_ADD_SEALS = 1033,
        F_GET_SEALS = 1034,
        F_GET_RW_HINT = 1035,
        F_SET_RW_HINT = 1036,
        F_GET_FILE_RW_HINT = 1037,
        F_SET_FILE_RW_HINT = 1038,
    }

    /// Kinds of record locks, `l_type`.
    LOCK_TYPE_NAMES: i16 { F_RDLCK = 0, F_WRLCK = 1, F_UNLCK = 2 }

    /// Whom `F_SETOWN_EX` means.
    OWNER_TYPE_NAMES: i32 { F_OWNER_TID = 0, F_OWNER_PID = 1, F_OWNER_PGRP = 2 }

    /// Descriptor flags of `F_GETFD` and `F_SETFD`.
    FD_FLAG_NAMES: u32 { FD_CLOEXEC = 1 }

    /// Advice of `posix_fadvise(2)`.
    FADVISE_NAMES: i32 {
        POSIX_FADV_NORMAL = 0,
        POSIX_FADV_RANDOM = 1,
        POSIX_FADV_SEQUENTIAL = 2,
        POSIX_FADV_WILLNEED = 3,
        POSIX_FADV_DONTNEED = 4,
        POSIX_FADV_NOREUSE = 5,
    }

    /// Limits on extended attributes.
    XATTR_LIMIT_NAMES: usize { XATTR_NAME_MAX = 255, XATTR_SIZE_MAX = 65536, XATTR_LIST_MAX = 65536 }

    /// Limits on vectors of buffers; Linux's `UIO_MAXIOV`.
    IOV_LIMIT_NAMES: usize { UIO_MAXIOV = 1024, UIO_FASTIOV = 8 }

    /// What `kcmp(2)` compares.
    KCMP_NAMES: i32 {
        KCMP_FILE = 0, KCMP_VM = 1, KCMP_FILES = 2, KCMP_FS = 3, KCMP_SIGHAND = 4,
        KCMP_IO = 5, KCMP_SYSVSEM = 6, KCMP_EPOLL_TFD = 7,
    }
}

/// The most that one `read` or `write` moves: Linux's `MAX_RW_COUNT`.
pub const MAX_RW_COUNT: usize = 0x7fff_f000;

flags! {
    /// Flags of `flock(2)`.
    FlockOperation: u32 { LOCK_SH = 1, LOCK_EX = 2, LOCK_NB = 4, LOCK_UN = 8 }

    /// Seals of a memfd.
    Seals: u32 {
        F_SEAL_SEAL = 0x1,
        F_SEAL_SHRINK = 0x2,
        F_SEAL_GROW = 0x4,
        F_SEAL_WRITE = 0x8,
        F_SEAL_FUTURE_WRITE = 0x10,
        F_SEAL_EXEC = 0x20,
    }

    /// Flags of `memfd_create(2)`; the page size of a huge one sits above [`MFD_HUGE_SHIFT`].
    MemfdFlags: u32 {
        MFD_CLOEXEC = 0x1,
        MFD_ALLOW_SEALING = 0x2,
        MFD_HUGETLB = 0x4,
        MFD_NOEXEC_SEAL = 0x8,
        MFD_EXEC = 0x10,
    }

    /// Modes of `fallocate(2)`.
    FallocateMode: u32 {
        FALLOC_FL_KEEP_SIZE = 0x1,
        FALLOC_FL_PUNCH_HOLE = 0x2,
        FALLOC_FL_NO_HIDE_STALE = 0x4,
        FALLOC_FL_COLLAPSE_RANGE = 0x8,
        FALLOC_FL_ZERO_RANGE = 0x10,
        FALLOC_FL_INSERT_RANGE = 0x20,
        FALLOC_FL_UNSHARE_RANGE = 0x40,
    }

    /// Flags of `renameat2(2)`.
    RenameFlags: u32 { RENAME_NOREPLACE = 1, RENAME_EXCHANGE = 2, RENAME_WHITEOUT = 4 }

    /// Flags of `setxattr(2)`.
    XattrFlags: u32 { XATTR_CREATE = 1, XATTR_REPLACE = 2 }

    /// Flags of `splice(2)`, `tee(2)`, `vmsplice(2)`.
    SpliceFlags: u32 { SPLICE_F_MOVE = 1, SPLICE_F_NONBLOCK = 2, SPLICE_F_MORE = 4, SPLICE_F_GIFT = 8 }

    /// Flags of `preadv2(2)` and `pwritev2(2)`.
    RwFlags: u32 {
        RWF_HIPRI = 0x1,
        RWF_DSYNC = 0x2,
        RWF_SYNC = 0x4,
        RWF_NOWAIT = 0x8,
        RWF_APPEND = 0x10,
        RWF_NOAPPEND = 0x20,
        RWF_ATOMIC = 0x40,
        RWF_DONTCACHE = 0x80,
    }

    /// Flags of `sync_file_range(2)`.
    SyncRangeFlags: u32 {
        SYNC_FILE_RANGE_WAIT_BEFORE = 1,
        SYNC_FILE_RANGE_WRITE = 2,
        SYNC_FILE_RANGE_WAIT_AFTER = 4,
    }

    /// Flags of `close_range(2)`.
    CloseRangeFlags: u32 { CLOSE_RANGE_UNSHARE = 2, CLOSE_RANGE_CLOEXEC = 4 }

    /// Flags of `eventfd2(2)`.
    EventfdFlags: u32 { EFD_SEMAPHORE = 1, EFD_CLOEXEC = 0o2000000, EFD_NONBLOCK = 0o4000 }

    /// Flags of `pipe2(2)`; `O_NOTIFICATION_PIPE` is `O_EXCL`.
    PipeFlags: u32 { O_CLOEXEC = 0o2000000, O_NONBLOCK = 0o4000, O_DIRECT = 0o40000 }
}

constants! {
    /// Where [`MemfdFlags`] and `mmap` flags hold the logarithm of a huge page size.
    HUGE_NAMES: u32 { MFD_HUGE_SHIFT = 26, MFD_HUGE_MASK = 0x3f }
}

plain! {
    /// What a message queue is like, `struct mq_attr`.
    MqAttr {
        mq_flags: i64,
        mq_maxmsg: i64,
        mq_msgsize: i64,
        mq_curmsgs: i64,
        /// Zero.
        __reserved: [i64; 4],
    }

    /// A record lock or a question about one, `struct flock`.
    Flock {
        l_type: i16,
        l_whence: i16,
        /// Padding.
        __pad0: u32,
        l_start: i64,
        l_len: i64,
        l_pid: i32,
        /// Padding.
        __pad1: u32,
    }

    /// The argument of `F_SETOWN_EX`.
    FOwnerEx {
        r#type: i32,
        pid: i32,
    }

    /// A user buffer, `struct iovec`.
    Iovec {
        iov_base: UserAddress,
        iov_len: u64,
    }

    /// `struct file_handle` without its bytes.
    FileHandle {
        handle_bytes: u32,
        handle_type: i32,
    }

    /// `struct utimbuf`, the argument of `utime(2)`.
    Utimbuf {
        actime: i64,
        modtime: i64,
    }
}
