//! Mounts: flags of the old and the new calls, and file system magic numbers.
//!
//! Neighbours: `files` (`statfs`).

use crate::define::{constants, flags, plain};

flags! {
    /// Flags of `mount(2)`.
    MountFlags: u64 {
        MS_RDONLY = 1,
        MS_NOSUID = 2,
        MS_NODEV = 4,
        MS_NOEXEC = 8,
        MS_SYNCHRONOUS = 16,
        MS_REMOUNT = 32,
        MS_MANDLOCK = 64,
        MS_DIRSYNC = 128,
        MS_NOSYMFOLLOW = 256,
        MS_NOATIME = 1024,
        MS_NODIRATIME = 2048,
        MS_BIND = 4096,
        MS_MOVE = 8192,
        MS_REC = 16384,
        MS_SILENT = 32768,
        MS_POSIXACL = 1 << 16,
        MS_UNBINDABLE = 1 << 17,
        MS_PRIVATE = 1 << 18,
        MS_SLAVE = 1 << 19,
        MS_SHARED = 1 << 20,
        MS_RELATIME = 1 << 21,
        MS_KERNMOUNT = 1 << 22,
        MS_I_VERSION = 1 << 23,
        MS_STRICTATIME = 1 << 24,
        MS_LAZYTIME = 1 << 25,
    }

    /// Flags of `umount2(2)`.
    UmountFlags: u32 { MNT_FORCE = 1, MNT_DETACH = 2, MNT_EXPIRE = 4, UMOUNT_NOFOLLOW = 8 }

    /// `f_flags` of `statfs(2)`.
    StatfsFlags: u64 {
        ST_RDONLY = 0x1,
        ST_NOSUID = 0x2,
        ST_NODEV = 0x4,
        ST_NOEXEC = 0x8,
        ST_SYNCHRONOUS = 0x10,
        /// `f_flags` was filled at all.
        ST_VALID = 0x20,
        ST_MANDLOCK = 0x40,
        ST_NOATIME = 0x400,
        ST_NODIRATIME = 0x800,
        ST_RELATIME = 0x1000,
        ST_NOSYMFOLLOW = 0x2000,
    }

    /// Flags of `open_tree(2)`.
    OpenTreeFlags: u32 { OPEN_TREE_CLONE = 1, OPEN_TREE_CLOEXEC = 0o2000000 }

    /// Flags of `move_mount(2)`.
    MoveMountFlags: u32 {
        MOVE_MOUNT_F_SYMLINKS = 0x1,
        MOVE_MOUNT_F_AUTOMOUNTS = 0x2,
        MOVE_MOUNT_F_EMPTY_PATH = 0x4,
        MOVE_MOUNT_T_SYMLINKS = 0x10,
        MOVE_MOUNT_T_AUTOMOUNTS = 0x20,
        MOVE_MOUNT_T_EMPTY_PATH = 0x40,
        MOVE_MOUNT_SET_GROUP = 0x100,
        MOVE_MOUNT_BENEATH = 0x200,
    }

    /// Mount attributes of `fsmount(2)` and `mount_setattr(2)`.
    MountAttr: u64 {
        MOUNT_ATTR_RDONLY = 0x1,
        MOUNT_ATTR_NOSUID = 0x2,
        MOUNT_ATTR_NODEV = 0x4,
        MOUNT_ATTR_NOEXEC = 0x8,
        MOUNT_ATTR_NOATIME = 0x10,
        MOUNT_ATTR_STRICTATIME = 0x20,
        MOUNT_ATTR_NODIRATIME = 0x80,
        MOUNT_ATTR_IDMAP = 0x10_0000,
        MOUNT_ATTR_NOSYMFOLLOW = 0x20_0000,
    }
}

constants! {
    /// `f_type` of the file systems an application may see.
    FS_MAGIC_NAMES: i64 {
        TMPFS_MAGIC = 0x0102_1994,
        RAMFS_MAGIC = 0x8584_58f6,
        PROC_SUPER_MAGIC = 0x9fa0,
        SYSFS_MAGIC = 0x6265_6572,
        DEVPTS_SUPER_MAGIC = 0x1cd1,
        CGROUP_SUPER_MAGIC = 0x0027_e0eb,
        CGROUP2_SUPER_MAGIC = 0x6367_7270,
        OVERLAYFS_SUPER_MAGIC = 0x794c_7630,
        EXT4_SUPER_MAGIC = 0xef53,
        XFS_SUPER_MAGIC = 0x5846_5342,
        BTRFS_SUPER_MAGIC = 0x9123_683e,
        PIPEFS_MAGIC = 0x5049_5045,
        SOCKFS_MAGIC = 0x534f_434b,
        ANON_INODE_FS_MAGIC = 0x0904_1934,
        HUGETLBFS_MAGIC = 0x9584_58f6,
        V9FS_MAGIC = 0x0102_1997,
        NSFS_MAGIC = 0x6e73_6673,
        FUSE_SUPER_MAGIC = 0x6573_5546,
        NFS_SUPER_MAGIC = 0x6969,
    }

    /// `f_type` of mqueue, which no header names.
    MQUEUE_MAGIC_NAMES: i64 { MQUEUE_MAGIC = 0x1980_0202 }

    /// Commands of `fsconfig(2)`.
    FSCONFIG_NAMES: u32 {
        FSCONFIG_SET_FLAG = 0,
        FSCONFIG_SET_STRING = 1,
        FSCONFIG_SET_BINARY = 2,
        FSCONFIG_SET_PATH = 3,
        FSCONFIG_SET_PATH_EMPTY = 4,
        FSCONFIG_SET_FD = 5,
        FSCONFIG_CMD_CREATE = 6,
        FSCONFIG_CMD_RECONFIGURE = 7,
    }

    /// The magic that old programs put into the high half of `mount(2)`'s flags.
    MOUNT_MAGIC_NAMES: u64 { MS_MGC_VAL = 0xc0ed_0000, MS_MGC_MSK = 0xffff_0000 }
}

plain! {
    /// The argument of `mount_setattr(2)`.
    MountAttrArgument {
        attr_set: u64,
        attr_clr: u64,
        propagation: u64,
        userns_fd: u64,
    }
}
