//! The host system calls that the kernel itself makes once it runs, each with what must hold of its arguments and who
//! needs it. This is the whole list, to be read and reviewed, together with two others:
//! [`allowlist::RUST_PROGRAM`] (memory, locks, threads) and the platform's [`platform::HostCalls`].
//!
//! Not there on purpose: anything that takes a path, makes a socket, a process or executable memory, changes an
//! identity, a namespace or a mount. Descriptors come from outside only: inherited, from the gofer, over the control
//! socket; the kernel itself makes nothing but memory files.

use allowlist::{Row, bits, equal, masked, rare, row, wide};

const MEMORY_FILE_FLAGS: u64 =
    (libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | libc::MFD_NOEXEC_SEAL | libc::MFD_EXEC) as u64;
const RECEIVING: u64 = bits(libc::MSG_PEEK | libc::MSG_TRUNC);
/// A pointer argument that must be null.
const fn null(argument: u8) -> allowlist::Condition {
    wide(argument, u64::MAX, 0)
}

/// The table.
pub const ROWS: [&[Row]; 5] = [WAITING, FILES, SOCKETS, TERMINALS, OURSELVES];

/// The reactor: timers, host descriptors, host signals.
const WAITING: &[Row] = &[
    row(libc::SYS_epoll_wait, &[], "the reactor"),
    row(libc::SYS_epoll_ctl, &[equal(1, bits(libc::EPOLL_CTL_ADD))], "the reactor watches a host descriptor"),
    row(libc::SYS_epoll_ctl, &[equal(1, bits(libc::EPOLL_CTL_DEL))], "the reactor forgets it"),
    row(
        libc::SYS_timerfd_settime,
        &[equal(1, bits(libc::TFD_TIMER_ABSTIME))],
        "the reactor's one timer, set to the earliest deadline",
    ),
    row(
        libc::SYS_poll,
        &[],
        "the control socket and signals for the first process; an inherited stream's readiness",
    ),
    rare(
        libc::SYS_clock_nanosleep,
        &[],
        "a pause before accepting again",
        "only when there are no descriptors left",
    ),
];

/// Inherited files, files that the gofer opened, memory files. All are descriptors we hold already.
const FILES: &[Row] = &[
    row(libc::SYS_read, &[], "inherited streams, the reactor's timer and signals, messages' bodies"),
    row(libc::SYS_write, &[], "inherited streams, appending to files, messages' bodies, the log"),
    row(libc::SYS_pread64, &[], "files"),
    row(libc::SYS_pwrite64, &[], "files"),
    row(libc::SYS_lseek, &[], "positions of inherited files, SEEK_DATA and SEEK_HOLE of others"),
    row(libc::SYS_ftruncate, &[], "a file's size"),
    row(libc::SYS_fallocate, &[], "a file's space"),
    row(libc::SYS_fsync, &[], "fsync"),
    row(libc::SYS_fdatasync, &[], "fdatasync"),
    rare(libc::SYS_fstat, &[], "a file's attributes", "only where libc's fstat is this"),
    row(libc::SYS_newfstatat, &[equal(3, bits(libc::AT_EMPTY_PATH))], "a file's attributes: libc's fstat"),
    row(
        libc::SYS_memfd_create,
        &[masked(1, !MEMORY_FILE_FLAGS, 0)],
        "shared memory, tmpfs, memfd_create; no huge pages",
    ),
    row(libc::SYS_fcntl, &[equal(1, bits(libc::F_GETFL))], "how an inherited file was opened"),
    row(libc::SYS_fcntl, &[equal(1, bits(libc::F_DUPFD_CLOEXEC))], "a further descriptor of a file"),
    row(libc::SYS_fcntl, &[equal(1, bits(libc::F_ADD_SEALS))], "seals of a memory file"),
    row(libc::SYS_fcntl, &[equal(1, bits(libc::F_GET_SEALS))], "seals of a memory file"),
    row(libc::SYS_close, &[], "the last use of a file"),
];

/// The gofer's and the control socket. There is no call that makes or connects one.
const SOCKETS: &[Row] = &[
    row(libc::SYS_sendmsg, &[equal(2, bits(libc::MSG_NOSIGNAL))], "requests to the gofer, answers"),
    row(
        libc::SYS_recvmsg,
        &[equal(2, bits(libc::MSG_CMSG_CLOEXEC))],
        "the gofer's replies, control requests, descriptors with both",
    ),
    rare(
        libc::SYS_getcpu,
        &[],
        "requests to the gofer say where their caller waits",
        "only where the vDSO does not know",
    ),
    row(
        libc::SYS_accept4,
        &[equal(3, bits(libc::SOCK_CLOEXEC))],
        "the control socket, the only one that listens",
    ),
    rare(
        libc::SYS_sendto,
        &[equal(3, bits(libc::MSG_NOSIGNAL)), null(4)],
        "an answer's rest, over a connected socket",
        "only when a signal interrupts an answer that the socket has no room for",
    ),
    row(libc::SYS_recvfrom, &[equal(3, 0), null(4)], "a control request's rest"),
];

/// Connections to the host's Unix sockets, which the gofer makes; only where containers may have them.
pub const HOST_SOCKETS: &[Row] = &[
    row(libc::SYS_sendto, &[equal(3, bits(libc::MSG_NOSIGNAL)), null(4)], "sending to a socket of the host"),
    row(
        libc::SYS_recvmsg,
        &[masked(2, !RECEIVING, bits(libc::MSG_CMSG_CLOEXEC))],
        "receiving from one, with no room for descriptors",
    ),
    row(libc::SYS_ppoll, &[], "what is possible now"),
    row(libc::SYS_shutdown, &[], "the end of one direction"),
    row(
        libc::SYS_getsockopt,
        &[equal(1, bits(libc::SOL_SOCKET)), equal(2, bits(libc::SO_ERROR))],
        "a connection's error",
    ),
    row(libc::SYS_ioctl, &[equal(1, libc::FIONREAD)], "how much can be received"),
];

/// The terminals that containers' processes were started on. Not there: `TIOCSTI`, `TIOCLINUX` and the like, by which
/// whoever holds a terminal acts as its user.
const TERMINALS: &[Row] = &[
    row(libc::SYS_ioctl, &[equal(1, libc::TIOCGWINSZ)], "a terminal's size"),
    row(
        libc::SYS_fcntl,
        &[
            equal(1, bits(libc::F_SETFL)),
            masked(2, bits(libc::O_NONBLOCK | libc::O_ASYNC), bits(libc::O_NONBLOCK)),
        ],
        "a terminal is read and written without waiting",
    ),
];

/// Asking about, and ending, this process.
const OURSELVES: &[Row] = &[
    row(libc::SYS_getrandom, &[], "AT_RANDOM, /dev/urandom, hash tables' keys"),
    row(libc::SYS_prctl, &[equal(0, bits(libc::PR_SET_NAME))], "threads' names"),
    row(
        libc::SYS_kill,
        &[equal(0, bits(-1)), equal(1, bits(libc::SIGKILL))],
        "the end: all others in our pid namespace, which are ours",
    ),
    rare(libc::SYS_getpid, &[], "abort", "only a panic within a panic, or memory that ran out"),
    rare(
        libc::SYS_tgkill,
        &[equal(2, bits(libc::SIGABRT))],
        "abort",
        "only a panic within a panic, or memory that ran out",
    ),
    rare(
        libc::SYS_rt_sigaction,
        &[equal(0, bits(libc::SIGABRT))],
        "abort",
        "only a panic within a panic, or memory that ran out",
    ),
    rare(
        libc::SYS_rt_sigaction,
        &[equal(0, bits(libc::SIGSEGV))],
        "the standard library's message about a stack overflow",
        "only after a stack overflow",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Row> {
        [ROWS.concat().as_slice(), allowlist::RUST_PROGRAM].concat()
    }

    #[test]
    fn no_call_is_both_free_and_conditional() {
        let rows = all();
        let free = |call| rows.iter().any(|row| row.call == call && row.conditions.is_empty());
        let shadowed: Vec<_> = rows
            .iter()
            .filter(|row| !row.conditions.is_empty() && free(row.call))
            .map(|row| row.why)
            .collect();
        assert_eq!(shadowed, [""; 0], "rows that say nothing");
    }

    #[test]
    fn no_call_takes_a_path_or_makes_a_socket_or_a_process() {
        let never = [
            libc::SYS_open,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_stat,
            libc::SYS_statx,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_execve,
            libc::SYS_execveat,
        ];
        let found: Vec<_> = all().into_iter().filter(|row| never.contains(&row.call)).collect();
        assert!(found.is_empty(), "{found:?}");
    }
}
