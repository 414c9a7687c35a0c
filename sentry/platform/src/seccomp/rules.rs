//! The host system calls that the platform makes after lockdown, each with its reason.
//!
//! The filter that is built from them is elsewhere; here is only what is true of this platform's code.

use super::notification::{IOCTL_ADDFD, IOCTL_RECV, IOCTL_SEND};
use crate::{ArgumentRule, HostRule};

const fn equals(index: u8, value: u64) -> ArgumentRule {
    ArgumentRule { index, mask: u64::MAX, value }
}

/// The lower half only: what the kernel looks at in an `int`.
const fn int_equals(index: u8, value: u64) -> ArgumentRule {
    ArgumentRule { index, mask: 0xffff_ffff, value }
}

/// linux/sched.h
const SCHED_OTHER: u64 = 0;
/// linux/sched.h
const SCHED_BATCH: u64 = 3;

/// See [`crate::Platform::host_rules`].
pub static HOST_RULES: &[HostRule] = &[
    HostRule {
        call: libc::SYS_ioctl,
        arguments: &[int_equals(1, IOCTL_RECV)],
        why: "receive a stub's system call",
    },
    HostRule {
        call: libc::SYS_ioctl,
        arguments: &[int_equals(1, IOCTL_SEND)],
        why: "answer a stub's system call",
    },
    HostRule {
        call: libc::SYS_ioctl,
        arguments: &[int_equals(1, IOCTL_ADDFD)],
        why: "install a file in a stub that maps or reads it",
    },
    HostRule { call: libc::SYS_process_vm_readv, arguments: &[equals(5, 0)], why: "copy from applications" },
    HostRule { call: libc::SYS_process_vm_writev, arguments: &[equals(5, 0)], why: "copy to applications" },
    HostRule {
        call: libc::SYS_tgkill,
        arguments: &[int_equals(2, super::seed::INTERRUPT_SIGNAL as u64)],
        why: "bring a thread into the stub",
    },
    HostRule {
        call: libc::SYS_tgkill,
        arguments: &[int_equals(2, super::worker::KICK_SIGNAL as u64)],
        why: "wake a worker that waits for system calls",
    },
    HostRule {
        call: libc::SYS_tkill,
        arguments: &[int_equals(1, libc::SIGKILL as u64)],
        why: "kill a stub whose parent died making it",
    },
    HostRule {
        call: libc::SYS_kill,
        arguments: &[int_equals(1, libc::SIGKILL as u64)],
        why: "kill a stub process",
    },
    HostRule {
        call: libc::SYS_waitid,
        arguments: &[int_equals(0, libc::P_ALL as u64)],
        why: "find ended stubs",
    },
    HostRule { call: libc::SYS_wait4, arguments: &[equals(1, 0), equals(3, 0)], why: "reap ended stubs" },
    HostRule { call: libc::SYS_clock_gettime, arguments: &[], why: "processor time of a stub process" },
    HostRule {
        call: libc::SYS_madvise,
        arguments: &[int_equals(2, libc::MADV_REMOVE as u64)],
        why: "give back the slots of a process that ended",
    },
    HostRule {
        call: libc::SYS_sched_setaffinity,
        arguments: &[],
        why: "keep the spinner away from the thread it looks at; have stubs end on another processor",
    },
    HostRule {
        call: libc::SYS_sched_setscheduler,
        arguments: &[int_equals(1, SCHED_BATCH)],
        why: "let threads that hand over to each other not drive each other out",
    },
    HostRule {
        call: libc::SYS_sched_setscheduler,
        arguments: &[int_equals(1, SCHED_OTHER)],
        why: "take that back",
    },
    HostRule {
        call: libc::SYS_futex,
        arguments: &[int_equals(1, libc::FUTEX_WAKE as u64)],
        why: "wake a thread that waits for its slot",
    },
    HostRule { call: libc::SYS_getpid, arguments: &[], why: "address a kick" },
    HostRule { call: libc::SYS_gettid, arguments: &[], why: "a worker's first wait" },
    HostRule { call: libc::SYS_rt_sigprocmask, arguments: &[], why: "a worker's first wait unblocks kicks" },
    HostRule { call: libc::SYS_rt_sigreturn, arguments: &[], why: "return from the kick handler" },
];
