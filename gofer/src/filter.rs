//! The system calls a gofer may make once it serves: [`rows`] is the whole list, to be read and reviewed. Anything
//! else, or an argument outside a row's conditions, kills the process (`SECCOMP_RET_KILL_PROCESS`).
//!
//! Arguments in memory (`openat2`'s flags, paths, socket addresses) are beyond a filter's reach: there the empty root
//! and the detached mounts hold. `tests/server` takes each row away and shows that serving then fails, save those
//! with a reason in [`Row::rare`].

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

use crate::DeviceNodes;

/// What the conditions depend on.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// The descriptor of our own `/proc/self/fd`.
    pub descriptors: RawFd,
    pub device_nodes: DeviceNodes,
    pub host_sockets: bool,
}

/// One call that is allowed if all conditions hold. Several rows for one call are alternatives.
#[derive(Debug, Clone)]
pub struct Row {
    pub call: i64,
    pub conditions: Vec<Condition>,
    pub why: &'static str,
    /// Why no test can depend on the row.
    pub rare: Option<&'static str>,
}

/// What must hold of one argument, of which the kernel reads the lower 32 bits (all the calls here take `int`s) unless
/// [`Condition::wide`].
#[derive(Debug, Clone, Copy)]
pub struct Condition {
    argument: u8,
    mask: u64,
    value: u64,
    length: Length,
}

#[derive(Debug, Clone, Copy)]
enum Length {
    Int,
    Long,
}

/// `argument == value`.
const fn equal(argument: u8, value: u64) -> Condition {
    Condition { argument, mask: u32::MAX as u64, value, length: Length::Int }
}

/// `argument & mask == value`.
const fn masked(argument: u8, mask: u64, value: u64) -> Condition {
    Condition { argument, mask, value, length: Length::Int }
}

/// `argument & mask == value` of a `long`.
const fn wide(argument: u8, mask: u64, value: u64) -> Condition {
    Condition { argument, mask, value, length: Length::Long }
}

fn row(call: i64, conditions: &[Condition], why: &'static str) -> Row {
    Row { call, conditions: conditions.to_vec(), why, rare: None }
}

fn rare(call: i64, conditions: &[Condition], why: &'static str, reason: &'static str) -> Row {
    Row { call, conditions: conditions.to_vec(), why, rare: Some(reason) }
}

/// Flags as an argument's bits.
const fn bits(flags: i32) -> u64 {
    flags.cast_unsigned() as u64
}

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
/// A creation that can open nothing that exists.
const CREATION: u64 = bits(libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW);
/// The signal by which glibc tells all threads to change user (`SIGSETXID`).
const SETXID: u64 = 33;
const EXEC: u64 = bits(libc::PROT_EXEC);
const CLOEXEC: i32 = libc::SOCK_CLOEXEC;

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
        row(libc::SYS_close, &[], "clunks, and descriptors once they were sent"),
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
    rows.extend(memory_and_threads());
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

/// What the allocator, threads and the process's end take.
fn memory_and_threads() -> Vec<Row> {
    vec![
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
        row(libc::SYS_clone, &[wide(0, u64::MAX, THREAD)], "a channel's thread"),
        row(libc::SYS_clone3, &[], "answered ENOSYS by a filter of its own, so that glibc takes clone"),
        row(libc::SYS_set_robust_list, &[], "a thread's start"),
        row(libc::SYS_rseq, &[], "a thread's start"),
        row(libc::SYS_sigaltstack, &[], "a thread's start"),
        row(libc::SYS_rt_sigprocmask, &[], "a thread's start"),
        row(
            libc::SYS_rt_sigaction,
            &[equal(0, SETXID)],
            "the first thread's start: glibc's handler for setuid",
        ),
        row(libc::SYS_sched_getaffinity, &[], "a thread's start: glibc asks for its own stack's bounds"),
        row(libc::SYS_gettid, &[], "a thread's start: the standard library keeps its number"),
        row(libc::SYS_exit, &[], "a thread's end"),
        row(libc::SYS_exit_group, &[], "the end"),
        rare(libc::SYS_sched_yield, &[], "a contended lock", "only under contention"),
        rare(libc::SYS_write, &[equal(0, 2)], "messages to standard error", "only when something is wrong"),
        rare(libc::SYS_clock_gettime, &[], "messages' times", "only where the vDSO has no clock"),
        rare(libc::SYS_restart_syscall, &[], "a call interrupted by a stop signal", "only under job control"),
        rare(
            libc::SYS_fcntl,
            &[equal(1, bits(libc::F_GETFD))],
            "the standard library's check before a close",
            "only in debug builds",
        ),
    ]
}

/// Installs the filter in this thread and all it starts.
pub fn install(rows: &[Row]) -> Result<(), seccompiler::Error> {
    for program in compile(rows)? {
        apply_filter(&program)?;
    }
    Ok(())
}

/// Two programs. The first answers `clone3` with `ENOSYS`: its flags are in memory, so that glibc must be made to use
/// `clone`, whose flags a filter can judge. The second is the list. The kernel takes the stricter answer.
fn compile(rows: &[Row]) -> Result<[BpfProgram; 2], seccompiler::Error> {
    let no_clone3 = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.cast_unsigned()),
        TargetArch::x86_64,
    )?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for row in rows {
        let alternatives = rules.entry(row.call).or_default();
        if !row.conditions.is_empty() {
            let conditions = row.conditions.iter().map(Condition::compile).collect::<Result<_, _>>()?;
            alternatives.push(SeccompRule::new(conditions)?);
        }
    }
    let list =
        SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?;
    Ok([no_clone3.try_into()?, list.try_into()?])
}

impl Condition {
    fn compile(&self) -> Result<SeccompCondition, seccompiler::BackendError> {
        let (length, mask) = match self.length {
            Length::Int => (SeccompCmpArgLen::Dword, self.mask & u64::from(u32::MAX)),
            Length::Long => (SeccompCmpArgLen::Qword, self.mask),
        };
        SeccompCondition::new(self.argument, length, SeccompCmpOp::MaskedEq(mask), self.value)
    }
}
