//! The system calls a gofer may make once it serves: [`rows`] is the whole list, to be read and reviewed. Anything
//! else, or an argument outside a row's conditions, kills the process (`SECCOMP_RET_KILL_PROCESS`).
//!
//! Arguments in memory (`openat2`'s flags, paths, socket addresses) are beyond a filter's reach: there the empty root
//! and the detached mounts hold. `tests/server` takes each row away and shows that serving then fails, save those
//! with a reason in [`Row::rare`].

use std::os::fd::RawFd;

pub use allowlist::{Row, install};
use allowlist::{bits, equal, masked, rare, row, rust_program};

use crate::{DeviceNodes, watches};

/// What the conditions depend on.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// The descriptor of our own `/proc/self/fd`.
    pub descriptors: RawFd,
    pub device_nodes: DeviceNodes,
    pub host_sockets: bool,
}

/// A creation that can open nothing that exists.
const CREATION: u64 = bits(libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW);
/// `FS_IOC_GETFLAGS` of linux/fs.h.
const FS_IOC_GETFLAGS: u64 = 0x8008_6601;
/// The kernel's `O_LARGEFILE`, which libraries add.
const LARGE_FILE: u64 = 0o100_000;
const CLOEXEC: i32 = libc::SOCK_CLOEXEC;
/// The signal by which glibc tells all threads to change user (`SIGSETXID`).
const SETXID: u64 = 33;

/// Everything that is allowed.
pub fn rows(facts: &Facts) -> Vec<Row> {
    let mut rows = vec![
        // The protocol.
        row(libc::SYS_recvmsg, &[equal(2, bits(libc::MSG_CMSG_CLOEXEC))], "requests"),
        row(libc::SYS_sendmsg, &[equal(2, bits(libc::MSG_NOSIGNAL))], "replies"),
        row(
            libc::SYS_socketpair,
            &[equal(0, bits(libc::AF_UNIX)), equal(1, bits(libc::SOCK_SEQPACKET | CLOEXEC)), equal(2, 0)],
            "a further channel",
        ),
        row(libc::SYS_sched_setaffinity, &[equal(0, 0)], "a channel's thread goes where its caller waits"),
        row(libc::SYS_close, &[], "clunks, and descriptors once they were sent"),
        row(
            libc::SYS_rt_sigaction,
            &[equal(0, SETXID)],
            "the first channel's thread, which is the process's first: glibc's handler for setuid",
        ),
        // Finding files.
        row(libc::SYS_openat2, &[], "one name beneath a held directory; its flags are in memory"),
        row(libc::SYS_statx, &[], "attributes"),
        row(libc::SYS_readlinkat, &[], "a symbolic link's target"),
        row(libc::SYS_fstatfs, &[], "statfs"),
        row(
            libc::SYS_openat,
            &[equal(0, bits(facts.descriptors)), masked(2, bits(libc::O_CREAT), 0)],
            "a held file with other rights, through /proc/self/fd",
        ),
        row(libc::SYS_getdents64, &[], "listing a directory"),
        rare(
            libc::SYS_lseek,
            &[equal(2, bits(libc::SEEK_SET))],
            "a listing that goes on elsewhere",
            "only when two readers share a directory",
        ),
        row(
            libc::SYS_fcntl,
            &[equal(1, bits(libc::F_SETFL)), masked(2, !LARGE_FILE, 0)],
            "a file opened ahead, and so without waiting, is like any other",
        ),
        // Telling of changes.
        row(
            libc::SYS_inotify_init1,
            &[equal(0, bits(libc::IN_CLOEXEC | libc::IN_NONBLOCK))],
            "a tree's queue of events",
        ),
        row(
            libc::SYS_inotify_add_watch,
            &[equal(2, u64::from(watches::EVENTS.bits()))],
            "a held directory, through /proc/self/fd",
        ),
        row(libc::SYS_inotify_rm_watch, &[], "watches that are not wanted any more"),
        row(libc::SYS_ioctl, &[equal(1, FS_IOC_GETFLAGS)], "whether a directory folds names"),
        row(libc::SYS_fcntl, &[equal(1, bits(libc::F_DUPFD_CLOEXEC))], "the queue, to be sent"),
        // Making, moving and removing files.
        row(libc::SYS_openat, &[masked(2, CREATION, CREATION)], "a new regular file"),
        row(libc::SYS_mkdirat, &[], "mkdir"),
        row(libc::SYS_symlinkat, &[], "symlink"),
        row(
            libc::SYS_linkat,
            &[equal(0, bits(facts.descriptors)), equal(4, bits(libc::AT_SYMLINK_FOLLOW))],
            "a further name for a held file, through /proc/self/fd",
        ),
        row(libc::SYS_unlinkat, &[masked(2, !bits(libc::AT_REMOVEDIR), 0)], "unlink and rmdir"),
        row(
            libc::SYS_renameat2,
            &[masked(4, !u64::from(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE), 0)],
            "rename",
        ),
        // Changing files.
        row(libc::SYS_fchownat, &[equal(4, bits(libc::AT_EMPTY_PATH))], "a held file's owner"),
        row(
            libc::SYS_fchmodat,
            &[equal(0, bits(facts.descriptors))],
            "a held file's mode, through /proc/self/fd",
        ),
        row(libc::SYS_utimensat, &[equal(3, bits(libc::AT_EMPTY_PATH))], "a held file's times"),
        row(libc::SYS_ftruncate, &[], "a held file's size"),
        row(libc::SYS_fgetxattr, &[], "an extended attribute"),
        row(libc::SYS_fsetxattr, &[], "an extended attribute"),
        row(libc::SYS_flistxattr, &[], "extended attributes"),
        row(libc::SYS_fremovexattr, &[], "an extended attribute"),
    ];
    rows.extend(special_files(facts));
    rows.extend(rust_program());
    rows.push(rare(
        libc::SYS_write,
        &[equal(0, 2)],
        "messages to standard error",
        "only when something is wrong",
    ));
    rows
}

/// What `mknodat` may make, and the host's sockets.
fn special_files(facts: &Facts) -> Vec<Row> {
    let kind = |kind: u32| masked(2, u64::from(libc::S_IFMT), u64::from(kind));
    let mut rows = vec![
        row(libc::SYS_mknodat, &[kind(libc::S_IFREG)], "mknod of a regular file"),
        row(libc::SYS_mknodat, &[kind(libc::S_IFIFO)], "mkfifo"),
        row(libc::SYS_mknodat, &[kind(libc::S_IFSOCK)], "a socket's node"),
    ];
    if facts.device_nodes == DeviceNodes::Allowed {
        rows.push(row(libc::SYS_mknodat, &[kind(libc::S_IFCHR)], "a character device's node, where allowed"));
        rows.push(row(libc::SYS_mknodat, &[kind(libc::S_IFBLK)], "a block device's node, where allowed"));
    }
    if facts.host_sockets {
        rows.push(row(
            libc::SYS_socket,
            &[equal(0, bits(libc::AF_UNIX))],
            "a host socket, where a tree allows it",
        ));
        rows.push(row(libc::SYS_connect, &[], "a host socket; its address is in memory"));
        rows.push(row(libc::SYS_bind, &[], "a host socket; its address is in memory"));
    }
    rows
}
