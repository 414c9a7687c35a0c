//! The host system calls that the platform makes after lockdown, each with its reason.
//!
//! The filter that is built from them is elsewhere; here is only what is true of this platform's code.

use super::notification::{IOCTL_ADDFD, IOCTL_RECV, IOCTL_SEND};
use allowlist::{Condition, Row, equal, row, wide};

/// A whole word that must be 0.
const fn zero(argument: u8) -> Condition {
    wide(argument, u64::MAX, 0)
}

/// linux/sched.h
const SCHED_OTHER: u64 = 0;
/// linux/sched.h
const SCHED_BATCH: u64 = 3;

/// See [`crate::HostCalls`].
pub(crate) const HOST_ROWS: &[Row] = &[
    row(libc::SYS_ioctl, &[equal(1, IOCTL_RECV)], "receive a stub's system call"),
    row(libc::SYS_ioctl, &[equal(1, IOCTL_SEND)], "answer a stub's system call"),
    row(libc::SYS_ioctl, &[equal(1, IOCTL_ADDFD)], "install a file in a stub that maps or reads it"),
    row(libc::SYS_process_vm_readv, &[zero(5)], "copy from applications"),
    row(libc::SYS_process_vm_writev, &[zero(5)], "copy to applications"),
    row(libc::SYS_tgkill, &[equal(2, super::seed::INTERRUPT_SIGNAL as u64)], "bring a thread into the stub"),
    row(
        libc::SYS_tgkill,
        &[equal(2, super::worker::KICK_SIGNAL as u64)],
        "wake a worker that waits for system calls",
    ),
    row(libc::SYS_tgkill, &[equal(2, 0)], "ask whether a new thread belongs to a process (no signal)"),
    row(libc::SYS_tkill, &[equal(1, libc::SIGKILL as u64)], "kill a stub whose parent died making it"),
    row(libc::SYS_kill, &[equal(1, libc::SIGKILL as u64)], "kill a stub process"),
    row(libc::SYS_waitid, &[equal(0, libc::P_ALL as u64)], "find ended stubs"),
    row(libc::SYS_wait4, &[zero(1), zero(3)], "reap ended stubs"),
    row(libc::SYS_clock_gettime, &[], "processor time of a stub process"),
    row(
        libc::SYS_madvise,
        &[equal(2, libc::MADV_REMOVE as u64)],
        "give back the slots of a process that ended",
    ),
    row(
        libc::SYS_sched_setaffinity,
        &[],
        "keep the spinner away from the thread it looks at; have stubs end, and be made ahead, on another processor",
    ),
    row(
        libc::SYS_sched_setscheduler,
        &[equal(1, SCHED_BATCH)],
        "let threads that hand over to each other not drive each other out",
    ),
    row(libc::SYS_sched_setscheduler, &[equal(1, SCHED_OTHER)], "take that back"),
    row(libc::SYS_futex, &[equal(1, libc::FUTEX_WAKE as u64)], "wake a thread that waits for its slot"),
    row(libc::SYS_getpid, &[], "address a kick"),
    row(libc::SYS_gettid, &[], "a worker's first wait"),
    row(libc::SYS_rt_sigprocmask, &[], "a worker's first wait unblocks kicks"),
    row(libc::SYS_rt_sigreturn, &[], "return from the kick handler"),
];
