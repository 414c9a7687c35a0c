//! The system calls a gofer may make once it serves: [`rows`] is the whole list, to be read and reviewed. Anything
//! else, or an argument outside a row's conditions, kills the process (`SECCOMP_RET_KILL_PROCESS`).
//!
//! Arguments in memory (`openat2`'s flags, paths, socket addresses) are beyond a filter's reach: there the empty root
//! and the detached mounts hold. `tests/server` takes each row away and shows that serving then fails, save those
//! with a reason in [`Row::rare`].

use std::os::fd::RawFd;

use allowlist::{Condition, RUST_PROGRAM, Step, bits, compile, equal, filled, masked, program, rare, row};
pub use allowlist::{Row, install};

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

/// Stands in the lists for [`Facts::descriptors`]: no number that a descriptor can have.
const PLACEHOLDER: i32 = i32::MAX - 2;
const DESCRIPTORS: u64 = bits(PLACEHOLDER);

/// The program, but for the descriptor made when the gofer is compiled.
pub fn program_of(facts: &Facts) -> Vec<Step> {
    use DeviceNodes::{Allowed, Forbidden};
    let program: &[Step] = match (facts.device_nodes, facts.host_sockets) {
        (Forbidden, false) => program!(lists(Forbidden, false)),
        (Forbidden, true) => program!(lists(Forbidden, true)),
        (Allowed, false) => program!(lists(Allowed, false)),
        (Allowed, true) => program!(lists(Allowed, true)),
    };
    with_descriptors(program, facts)
}

/// The program of other rows: for the test that takes each away and shows that it was needed.
pub(crate) fn program_of_rows(rows: &[Row], facts: &Facts) -> Vec<Step> {
    with_descriptors(compile(&[rows]).steps(), facts)
}

fn with_descriptors(program: &[Step], facts: &Facts) -> Vec<Step> {
    filled(program, PLACEHOLDER.cast_unsigned(), facts.descriptors.cast_unsigned())
}

/// Everything that is allowed.
pub const fn lists(device_nodes: DeviceNodes, host_sockets: bool) -> [&'static [Row]; 5] {
    let device_nodes = match device_nodes {
        DeviceNodes::Allowed => DEVICE_NODES,
        DeviceNodes::Forbidden => &[],
    };
    let host_sockets = if host_sockets { HOST_SOCKETS } else { &[] };
    [ALWAYS, device_nodes, host_sockets, RUST_PROGRAM, MESSAGES]
}

const ALWAYS: &[Row] = &[
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
        &[equal(0, DESCRIPTORS), masked(2, bits(libc::O_CREAT), 0)],
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
        &[equal(2, bits(watches::EVENTS.bits().cast_signed()))],
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
        &[equal(0, DESCRIPTORS), equal(4, bits(libc::AT_SYMLINK_FOLLOW))],
        "a further name for a held file, through /proc/self/fd",
    ),
    row(libc::SYS_unlinkat, &[masked(2, !bits(libc::AT_REMOVEDIR), 0)], "unlink and rmdir"),
    row(
        libc::SYS_renameat2,
        &[masked(4, !bits((libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE).cast_signed()), 0)],
        "rename",
    ),
    // Changing files.
    row(libc::SYS_fchownat, &[equal(4, bits(libc::AT_EMPTY_PATH))], "a held file's owner"),
    row(libc::SYS_fchmodat, &[equal(0, DESCRIPTORS)], "a held file's mode, through /proc/self/fd"),
    row(libc::SYS_utimensat, &[equal(3, bits(libc::AT_EMPTY_PATH))], "a held file's times"),
    row(libc::SYS_ftruncate, &[], "a held file's size"),
    row(libc::SYS_fgetxattr, &[], "an extended attribute"),
    row(libc::SYS_fsetxattr, &[], "an extended attribute"),
    row(libc::SYS_flistxattr, &[], "extended attributes"),
    row(libc::SYS_fremovexattr, &[], "an extended attribute"),
    row(libc::SYS_mknodat, &[made(libc::S_IFREG)], "mknod of a regular file"),
    row(libc::SYS_mknodat, &[made(libc::S_IFIFO)], "mkfifo"),
    row(libc::SYS_mknodat, &[made(libc::S_IFSOCK)], "a socket's node"),
];

/// The kind of file that `mknodat` may make.
const fn made(kind: u32) -> Condition {
    masked(2, bits(libc::S_IFMT.cast_signed()), bits(kind.cast_signed()))
}

const DEVICE_NODES: &[Row] = &[
    row(libc::SYS_mknodat, &[made(libc::S_IFCHR)], "a character device's node, where allowed"),
    row(libc::SYS_mknodat, &[made(libc::S_IFBLK)], "a block device's node, where allowed"),
];

const HOST_SOCKETS: &[Row] = &[
    row(libc::SYS_socket, &[equal(0, bits(libc::AF_UNIX))], "a host socket, where a tree allows it"),
    row(libc::SYS_connect, &[], "a host socket; its address is in memory"),
    row(libc::SYS_bind, &[], "a host socket; its address is in memory"),
];

const MESSAGES: &[Row] =
    &[rare(libc::SYS_write, &[equal(0, 2)], "messages to standard error", "only when something is wrong")];
