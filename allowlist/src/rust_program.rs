//! What the allocator, locks, threads and the end of a Rust program on glibc take.

use crate::{Row, bits, equal, masked, rare, row, wide};

/// How glibc and Rust's standard library start a thread.
const THREAD: u64 = bits(
    libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_SETTLS
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_CLEARTID,
);
/// `MADV_GUARD_INSTALL` of linux/mman.h.
const GUARD_INSTALL: u64 = 102;
const EXEC: u64 = bits(libc::PROT_EXEC);

/// The rows. No memory ever becomes executable, and nothing but a thread is ever started.
pub const RUST_PROGRAM: &[Row] = &[
    row(libc::SYS_futex, &[], "locks"),
    row(libc::SYS_mmap, &[masked(2, EXEC, 0)], "stacks, the allocator"),
    row(libc::SYS_mprotect, &[masked(2, EXEC, 0)], "stacks' guard pages, the allocator"),
    row(libc::SYS_munmap, &[], "stacks, the allocator"),
    rare(libc::SYS_mremap, &[], "the allocator", "only buffers beyond malloc's mmap threshold"),
    rare(libc::SYS_brk, &[], "the allocator", "only when the heap outgrows what start-up left"),
    rare(
        libc::SYS_madvise,
        &[equal(2, bits(libc::MADV_DONTNEED))],
        "a thread's end",
        "only stacks glibc keeps",
    ),
    rare(
        libc::SYS_madvise,
        &[equal(2, GUARD_INSTALL)],
        "stacks' guard pages",
        "only in glibc 2.42 and later",
    ),
    row(libc::SYS_clone, &[wide(0, u64::MAX, THREAD)], "a thread"),
    row(libc::SYS_clone3, &[], "answered ENOSYS by a filter of its own, so that glibc takes clone"),
    row(libc::SYS_set_robust_list, &[], "a thread's start"),
    row(libc::SYS_rseq, &[], "a thread's start"),
    row(libc::SYS_sigaltstack, &[], "a thread's start"),
    row(libc::SYS_rt_sigprocmask, &[], "a thread's start"),
    row(libc::SYS_sched_getaffinity, &[], "a thread's start: glibc asks for its own stack's bounds"),
    row(libc::SYS_gettid, &[], "a thread's start: the standard library keeps its number"),
    row(libc::SYS_exit, &[], "a thread's end"),
    row(libc::SYS_exit_group, &[], "the end"),
    rare(libc::SYS_sched_yield, &[], "a contended lock", "only under contention"),
    rare(libc::SYS_clock_gettime, &[], "the time", "only where the vDSO has no clock"),
    rare(libc::SYS_restart_syscall, &[], "a call interrupted by a stop signal", "only under job control"),
    rare(
        libc::SYS_fcntl,
        &[equal(1, bits(libc::F_GETFD))],
        "the standard library's check before a close",
        "only in debug builds",
    ),
];
