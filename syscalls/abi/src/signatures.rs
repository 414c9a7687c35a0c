//! What the arguments of each system call are, for `--strace`.
//!
//! One line a call, in the order of the numbers. [`ArgKind`] says how a register is to be read,
//! and whether what it points at is known before the call or only after it. Neighbours:
//! `strace_format` (prints by these kinds), `strace_structs` (prints what pointers point at).
//! Printing only: decoding for the kernel goes by the handlers' own types.

use crate::define::Names;
use crate::numbers::{NUMBER_LIMIT, nr};
use crate::strace_text::{flags_text as bits, map_flags_text, open_flags_text, prot_text, socket_type_text};
use crate::{exec, file_calls, files, memory, mounts, polling, process, seccomp, signals, sockets, time};

/// How to read one argument. Positions of other arguments count from 0.
#[derive(Clone, Copy, Debug)]
pub enum ArgKind {
    /// A signed 32-bit number.
    Int,
    /// An unsigned 32-bit number.
    UInt,
    /// A signed 64-bit number.
    Long,
    /// An unsigned 64-bit number.
    ULong,
    /// A number better read in hexadecimal.
    Hex,
    /// An address about which there is no more to say.
    Pointer,
    /// A descriptor.
    Fd,
    /// A descriptor, or the current directory.
    DirFd,
    /// Permissions in octal, with file type if there is one.
    Mode,
    /// A device number.
    Device,
    /// A signal number.
    Signal,
    /// One of these names.
    Enum(Names),
    /// Flags.
    Flags(fn(u64) -> String),
    /// A path, printed whole.
    Path,
    /// Another string, printed in part.
    Str,
    /// Bytes, as many as another argument says.
    Buffer {
        /// Position of the length.
        length: usize,
    },
    /// Bytes that the call stores, as many as it returns.
    OutBuffer,
    /// A string that the call stores, NUL included in what it returns.
    OutString,
    /// A structure that the call reads.
    In(Shape),
    /// A structure that the call stores.
    Out(Shape),
    /// Structures that the call reads.
    InArray {
        /// What each is.
        shape: Shape,
        /// Position of their number.
        count: usize,
    },
    /// Structures that the call stores, as many as it returns.
    OutArray(Shape),
    /// Buffers that the call reads from.
    Iovec {
        /// Position of their number.
        count: usize,
    },
    /// Buffers that the call fills with as many bytes as it returns.
    OutIovec {
        /// Position of their number.
        count: usize,
    },
    /// A message that the call fills.
    OutMsgHdr,
    /// A socket address.
    SockAddr {
        /// Position of its length.
        length: usize,
    },
    /// A socket address that the call stores.
    OutSockAddr {
        /// Position of the pointer to its length.
        length: usize,
    },
    /// An option of the level in the argument before.
    SocketOption,
    /// An option's value.
    OptionValue {
        /// Position of its length.
        length: usize,
    },
    /// An option's value that the call stores.
    OutOptionValue,
    /// A set of descriptors below the first argument.
    FdSet,
    /// Strings, the last followed by a null pointer.
    Argv,
    /// The same, only counted.
    Environment,
    /// How a child ended.
    WaitStatus,
    /// An operation of `futex(2)`.
    FutexOp,
    /// A request of `ioctl(2)`.
    IoctlRequest,
    /// What the request before it makes of its argument.
    IoctlArgument,
    /// What the command before it makes of its argument.
    FcntlArgument,
}

/// What a pointer points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the structure of that name")]
pub enum Shape {
    I32,
    U32,
    I64,
    FdPair,
    Stat,
    Statx,
    Statfs,
    Timespec,
    TimespecPair,
    Timeval,
    TimevalPair,
    Itimerspec,
    Itimerval,
    SigAction,
    SigSet,
    StackT,
    SigInfo,
    Rlimit,
    Rusage,
    UtsName,
    Sysinfo,
    Tms,
    CloneArgs,
    SchedParam,
    CapHeader,
    CapData,
    MsgHdr,
    MMsgHdr,
    EpollEvent,
    PollFd,
    OpenHow,
    Flock,
    Winsize,
    Termios,
    FutexWaitv,
}

/// How to read the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnKind {
    /// A signed number.
    Int,
    /// An address or something else better read in hexadecimal.
    Hex,
    /// Permissions.
    Octal,
    /// `poll(2)`'s count, with the descriptors that are ready.
    Poll,
    /// A count that is zero after a timeout.
    Ready,
    /// `fcntl(2)`'s, which depends on the command.
    Fcntl,
    /// There is none.
    Never,
}

/// Arguments and result of one call.
#[derive(Clone, Copy, Debug)]
pub struct Signature {
    /// As many kinds as the call has arguments.
    pub arguments: &'static [ArgKind],
    /// What it returns.
    pub result: ReturnKind,
}

/// The signature of a call, `None` for numbers that mean nothing.
pub fn signature(number: usize) -> Option<&'static Signature> {
    SIGNATURES.get(number).and_then(Option::as_ref)
}

macro_rules! signatures {
    ($($name:ident ($($kind:expr),*) $(-> $result:ident)?;)*) => {
        static SIGNATURES: [Option<Signature>; NUMBER_LIMIT] = {
            use ArgKind::*;
            use Shape::*;
            let mut rows = [const { None::<Signature> }; NUMBER_LIMIT];
            $(
                assert!(rows[nr::$name].is_none(), "a call is listed twice");
                rows[nr::$name] = Some(Signature { arguments: &[$($kind),*], result: result!($($result)?) });
            )*
            rows
        };
    };
}

macro_rules! result {
    () => {
        ReturnKind::Int
    };
    ($kind:ident) => {
        ReturnKind::$kind
    };
}

const OPEN: ArgKind = ArgKind::Flags(open_flags_text);
const PROT: ArgKind = ArgKind::Flags(prot_text);
const AT: ArgKind = ArgKind::Flags(bits::<files::AtFlags>);
const ACCESS: ArgKind = ArgKind::Flags(crate::strace_text::access_text);
const MSG: ArgKind = ArgKind::Flags(bits::<sockets::MsgFlags>);
const RWF: ArgKind = ArgKind::Flags(bits::<file_calls::RwFlags>);
const SPLICE: ArgKind = ArgKind::Flags(bits::<file_calls::SpliceFlags>);
const XATTR: ArgKind = ArgKind::Flags(bits::<file_calls::XattrFlags>);
const WAIT: ArgKind = ArgKind::Flags(bits::<process::WaitOptions>);
const CLOCK: ArgKind = ArgKind::Enum(time::CLOCK_NAMES);
const SEEK: ArgKind = ArgKind::Enum(files::SEEK_NAMES);
const FAMILY: ArgKind = ArgKind::Enum(sockets::ADDRESS_FAMILY_NAMES);
const LEVEL: ArgKind = ArgKind::Enum(crate::socket_options::SOL_NAMES);
const SIGSET: ArgKind = ArgKind::In(Shape::SigSet);

signatures! {
    READ(Fd, OutBuffer, ULong);
    WRITE(Fd, Buffer { length: 2 }, ULong);
    OPEN(Path, OPEN, Mode);
    CLOSE(Fd);
    STAT(Path, Out(Stat));
    FSTAT(Fd, Out(Stat));
    LSTAT(Path, Out(Stat));
    POLL(InArray { shape: PollFd, count: 1 }, UInt, Int) -> Poll;
    LSEEK(Fd, Long, SEEK);
    MMAP(Pointer, ULong, PROT, Flags(map_flags_text), Fd, Hex) -> Hex;
    MPROTECT(Pointer, ULong, PROT);
    MUNMAP(Pointer, ULong);
    BRK(Pointer) -> Hex;
    RT_SIGACTION(Signal, In(SigAction), Out(SigAction), ULong);
    RT_SIGPROCMASK(Enum(signals::SIG_HOW_NAMES), SIGSET, Out(SigSet), ULong);
    RT_SIGRETURN();
    IOCTL(Fd, IoctlRequest, IoctlArgument);
    PREAD64(Fd, OutBuffer, ULong, Long);
    PWRITE64(Fd, Buffer { length: 2 }, ULong, Long);
    READV(Fd, OutIovec { count: 2 }, ULong);
    WRITEV(Fd, Iovec { count: 2 }, ULong);
    ACCESS(Path, ACCESS);
    PIPE(Out(FdPair));
    SELECT(Int, FdSet, FdSet, FdSet, In(Timeval)) -> Ready;
    SCHED_YIELD();
    MREMAP(Pointer, ULong, ULong, Flags(bits::<memory::MremapFlags>), Pointer) -> Hex;
    MSYNC(Pointer, ULong, Flags(bits::<memory::MsyncFlags>));
    MINCORE(Pointer, ULong, Pointer);
    MADVISE(Pointer, ULong, Enum(memory::MADVISE_NAMES));
    SHMGET(Int, ULong, Hex);
    SHMAT(Int, Pointer, Hex) -> Hex;
    SHMCTL(Int, Int, Pointer);
    DUP(Fd);
    DUP2(Fd, Fd);
    PAUSE();
    NANOSLEEP(In(Timespec), Out(Timespec));
    GETITIMER(Enum(time::ITIMER_NAMES), Out(Itimerval));
    ALARM(UInt);
    SETITIMER(Enum(time::ITIMER_NAMES), In(Itimerval), Out(Itimerval));
    GETPID();
    SENDFILE(Fd, Fd, In(I64), ULong);
    SOCKET(FAMILY, Flags(socket_type_text), Enum(sockets::IP_PROTOCOL_NAMES));
    CONNECT(Fd, SockAddr { length: 2 }, Int);
    ACCEPT(Fd, OutSockAddr { length: 2 }, Out(I32));
    SENDTO(Fd, Buffer { length: 2 }, ULong, MSG, SockAddr { length: 5 }, Int);
    RECVFROM(Fd, OutBuffer, ULong, MSG, OutSockAddr { length: 5 }, Out(I32));
    SENDMSG(Fd, In(MsgHdr), MSG);
    RECVMSG(Fd, OutMsgHdr, MSG);
    SHUTDOWN(Fd, Enum(sockets::SHUTDOWN_NAMES));
    BIND(Fd, SockAddr { length: 2 }, Int);
    LISTEN(Fd, Int);
    GETSOCKNAME(Fd, OutSockAddr { length: 2 }, Out(I32));
    GETPEERNAME(Fd, OutSockAddr { length: 2 }, Out(I32));
    SOCKETPAIR(FAMILY, Flags(socket_type_text), Int, Out(FdPair));
    SETSOCKOPT(Fd, LEVEL, SocketOption, OptionValue { length: 4 }, Int);
    GETSOCKOPT(Fd, LEVEL, SocketOption, OutOptionValue, Out(I32));
    CLONE(Flags(crate::strace_text::clone_flags_text), Pointer, Out(I32), Pointer, Pointer);
    FORK();
    VFORK();
    EXECVE(Path, Argv, Environment);
    EXIT(Int) -> Never;
    WAIT4(Int, WaitStatus, WAIT, Out(Rusage));
    KILL(Int, Signal);
    UNAME(Out(UtsName));
    SEMGET(Int, Int, Hex);
    SEMOP(Int, Pointer, ULong);
    SEMCTL(Int, Int, Int, Hex);
    SHMDT(Pointer);
    MSGGET(Int, Hex);
    MSGSND(Int, Pointer, ULong, Hex);
    MSGRCV(Int, Pointer, ULong, Long, Hex);
    MSGCTL(Int, Int, Pointer);
    FCNTL(Fd, Enum(file_calls::FCNTL_NAMES), FcntlArgument) -> Fcntl;
    FLOCK(Fd, Flags(bits::<file_calls::FlockOperation>));
    FSYNC(Fd);
    FDATASYNC(Fd);
    TRUNCATE(Path, Long);
    FTRUNCATE(Fd, Long);
    GETDENTS(Fd, Pointer, UInt);
    GETCWD(OutString, ULong);
    CHDIR(Path);
    FCHDIR(Fd);
    RENAME(Path, Path);
    MKDIR(Path, Mode);
    RMDIR(Path);
    CREAT(Path, Mode);
    LINK(Path, Path);
    UNLINK(Path);
    SYMLINK(Path, Path);
    READLINK(Path, OutBuffer, Int);
    CHMOD(Path, Mode);
    FCHMOD(Fd, Mode);
    CHOWN(Path, Int, Int);
    FCHOWN(Fd, Int, Int);
    LCHOWN(Path, Int, Int);
    UMASK(Mode) -> Octal;
    GETTIMEOFDAY(Out(Timeval), Pointer);
    GETRLIMIT(Enum(process::RLIMIT_NAMES), Out(Rlimit));
    GETRUSAGE(Enum(process::RUSAGE_NAMES), Out(Rusage));
    SYSINFO(Out(Sysinfo));
    TIMES(Out(Tms));
    PTRACE(Int, Int, Pointer, Pointer);
    GETUID();
    SYSLOG(Int, Pointer, Int);
    GETGID();
    SETUID(Int);
    SETGID(Int);
    GETEUID();
    GETEGID();
    SETPGID(Int, Int);
    GETPPID();
    GETPGRP();
    SETSID();
    SETREUID(Int, Int);
    SETREGID(Int, Int);
    GETGROUPS(Int, OutArray(U32));
    SETGROUPS(Int, InArray { shape: U32, count: 0 });
    SETRESUID(Int, Int, Int);
    GETRESUID(Out(U32), Out(U32), Out(U32));
    SETRESGID(Int, Int, Int);
    GETRESGID(Out(U32), Out(U32), Out(U32));
    GETPGID(Int);
    SETFSUID(Int);
    SETFSGID(Int);
    GETSID(Int);
    CAPGET(In(CapHeader), Out(CapData));
    CAPSET(In(CapHeader), In(CapData));
    RT_SIGPENDING(Out(SigSet), ULong);
    RT_SIGTIMEDWAIT(SIGSET, Out(SigInfo), In(Timespec), ULong);
    RT_SIGQUEUEINFO(Int, Signal, In(SigInfo));
    RT_SIGSUSPEND(SIGSET, ULong);
    SIGALTSTACK(In(StackT), Out(StackT));
    UTIME(Path, Pointer);
    MKNOD(Path, Mode, Device);
    USELIB(Path);
    PERSONALITY(Flags(bits::<exec::Personality>)) -> Hex;
    USTAT(Device, Pointer);
    STATFS(Path, Out(Statfs));
    FSTATFS(Fd, Out(Statfs));
    SYSFS(Int, ULong, Pointer);
    GETPRIORITY(Enum(process::PRIO_NAMES), Int);
    SETPRIORITY(Enum(process::PRIO_NAMES), Int, Int);
    SCHED_SETPARAM(Int, In(SchedParam));
    SCHED_GETPARAM(Int, Out(SchedParam));
    SCHED_SETSCHEDULER(Int, Enum(process::SCHED_NAMES), In(SchedParam));
    SCHED_GETSCHEDULER(Int);
    SCHED_GET_PRIORITY_MAX(Enum(process::SCHED_NAMES));
    SCHED_GET_PRIORITY_MIN(Enum(process::SCHED_NAMES));
    SCHED_RR_GET_INTERVAL(Int, Out(Timespec));
    MLOCK(Pointer, ULong);
    MUNLOCK(Pointer, ULong);
    MLOCKALL(Flags(bits::<memory::MlockallFlags>));
    MUNLOCKALL();
    VHANGUP();
    MODIFY_LDT(Int, Pointer, ULong);
    PIVOT_ROOT(Path, Path);
    SYSCTL(Pointer);
    PRCTL(Enum(process::PRCTL_NAMES), Hex, Hex, Hex, Hex);
    ARCH_PRCTL(Enum(process::ARCH_PRCTL_NAMES), Pointer);
    ADJTIMEX(Pointer);
    SETRLIMIT(Enum(process::RLIMIT_NAMES), In(Rlimit));
    CHROOT(Path);
    SYNC();
    ACCT(Path);
    SETTIMEOFDAY(In(Timeval), Pointer);
    MOUNT(Path, Path, Str, Flags(bits::<mounts::MountFlags>), Str);
    UMOUNT2(Path, Flags(bits::<mounts::UmountFlags>));
    SWAPON(Path, Hex);
    SWAPOFF(Path);
    REBOOT(Hex, Hex, Enum(process::REBOOT_NAMES), Pointer);
    SETHOSTNAME(Buffer { length: 1 }, ULong);
    SETDOMAINNAME(Buffer { length: 1 }, ULong);
    IOPL(Int);
    IOPERM(ULong, ULong, Int);
    CREATE_MODULE(Str, ULong);
    INIT_MODULE(Pointer, ULong, Str);
    DELETE_MODULE(Str, Hex);
    GET_KERNEL_SYMS(Pointer);
    QUERY_MODULE(Str, Int, Pointer, ULong, Pointer);
    QUOTACTL(Hex, Path, UInt, Pointer);
    NFSSERVCTL(Int, Pointer, Pointer);
    GETPMSG(Hex, Hex, Hex, Hex, Hex);
    PUTPMSG(Hex, Hex, Hex, Hex, Hex);
    AFS_SYSCALL(Hex, Hex, Hex, Hex, Hex);
    TUXCALL(Hex, Hex, Hex);
    SECURITY(Hex, Hex, Hex);
    GETTID();
    READAHEAD(Fd, Long, ULong);
    SETXATTR(Path, Str, Buffer { length: 3 }, ULong, XATTR);
    LSETXATTR(Path, Str, Buffer { length: 3 }, ULong, XATTR);
    FSETXATTR(Fd, Str, Buffer { length: 3 }, ULong, XATTR);
    GETXATTR(Path, Str, OutBuffer, ULong);
    LGETXATTR(Path, Str, OutBuffer, ULong);
    FGETXATTR(Fd, Str, OutBuffer, ULong);
    LISTXATTR(Path, OutBuffer, ULong);
    LLISTXATTR(Path, OutBuffer, ULong);
    FLISTXATTR(Fd, OutBuffer, ULong);
    REMOVEXATTR(Path, Str);
    LREMOVEXATTR(Path, Str);
    FREMOVEXATTR(Fd, Str);
    TKILL(Int, Signal);
    TIME(Out(I64));
    FUTEX(Pointer, FutexOp, UInt, In(Timespec), Pointer, Hex);
    SCHED_SETAFFINITY(Int, ULong, Pointer);
    SCHED_GETAFFINITY(Int, ULong, Pointer);
    SET_THREAD_AREA(Pointer);
    IO_SETUP(UInt, Pointer);
    IO_DESTROY(Hex);
    IO_GETEVENTS(Hex, Long, Long, Pointer, In(Timespec));
    IO_SUBMIT(Hex, Long, Pointer);
    IO_CANCEL(Hex, Pointer, Pointer);
    GET_THREAD_AREA(Pointer);
    LOOKUP_DCOOKIE(Hex, Pointer, ULong);
    EPOLL_CREATE(Int);
    EPOLL_CTL_OLD(Hex, Hex, Hex, Hex);
    EPOLL_WAIT_OLD(Hex, Hex, Hex, Hex);
    REMAP_FILE_PAGES(Pointer, ULong, PROT, ULong, Flags(map_flags_text));
    GETDENTS64(Fd, Pointer, UInt);
    SET_TID_ADDRESS(Pointer);
    RESTART_SYSCALL();
    SEMTIMEDOP(Int, Pointer, ULong, In(Timespec));
    FADVISE64(Fd, Long, ULong, Enum(file_calls::FADVISE_NAMES));
    TIMER_CREATE(CLOCK, Pointer, Out(I32));
    TIMER_SETTIME(Int, Flags(bits::<time::TimerFlags>), In(Itimerspec), Out(Itimerspec));
    TIMER_GETTIME(Int, Out(Itimerspec));
    TIMER_GETOVERRUN(Int);
    TIMER_DELETE(Int);
    CLOCK_SETTIME(CLOCK, In(Timespec));
    CLOCK_GETTIME(CLOCK, Out(Timespec));
    CLOCK_GETRES(CLOCK, Out(Timespec));
    CLOCK_NANOSLEEP(CLOCK, Flags(bits::<time::TimerFlags>), In(Timespec), Out(Timespec));
    EXIT_GROUP(Int) -> Never;
    EPOLL_WAIT(Fd, OutArray(EpollEvent), Int, Int);
    EPOLL_CTL(Fd, Enum(polling::EPOLL_CTL_NAMES), Fd, In(EpollEvent));
    TGKILL(Int, Int, Signal);
    UTIMES(Path, In(TimevalPair));
    VSERVER(Hex, Hex, Hex, Hex, Hex);
    MBIND(Pointer, ULong, Enum(memory::MPOL_NAMES), Pointer, ULong, Hex);
    SET_MEMPOLICY(Enum(memory::MPOL_NAMES), Pointer, ULong);
    GET_MEMPOLICY(Out(I32), Pointer, ULong, Pointer, Hex);
    MQ_OPEN(Str, OPEN, Mode, Pointer);
    MQ_UNLINK(Str);
    MQ_TIMEDSEND(Fd, Buffer { length: 2 }, ULong, UInt, In(Timespec));
    MQ_TIMEDRECEIVE(Fd, OutBuffer, ULong, Out(U32), In(Timespec));
    MQ_NOTIFY(Fd, Pointer);
    MQ_GETSETATTR(Fd, Pointer, Pointer);
    KEXEC_LOAD(Pointer, ULong, Pointer, Hex);
    WAITID(Enum(process::WAITID_NAMES), Int, Out(SigInfo), WAIT, Out(Rusage));
    ADD_KEY(Str, Str, Buffer { length: 3 }, ULong, Int);
    REQUEST_KEY(Str, Str, Str, Int);
    KEYCTL(Int, Hex, Hex, Hex, Hex);
    IOPRIO_SET(Enum(process::IOPRIO_WHO_NAMES), Int, Hex);
    IOPRIO_GET(Enum(process::IOPRIO_WHO_NAMES), Int);
    INOTIFY_INIT();
    INOTIFY_ADD_WATCH(Fd, Path, Flags(bits::<polling::InotifyMask>));
    INOTIFY_RM_WATCH(Fd, Int);
    MIGRATE_PAGES(Int, ULong, Pointer, Pointer);
    OPENAT(DirFd, Path, OPEN, Mode);
    MKDIRAT(DirFd, Path, Mode);
    MKNODAT(DirFd, Path, Mode, Device);
    FCHOWNAT(DirFd, Path, Int, Int, AT);
    FUTIMESAT(DirFd, Path, In(TimevalPair));
    NEWFSTATAT(DirFd, Path, Out(Stat), AT);
    UNLINKAT(DirFd, Path, AT);
    RENAMEAT(DirFd, Path, DirFd, Path);
    LINKAT(DirFd, Path, DirFd, Path, AT);
    SYMLINKAT(Path, DirFd, Path);
    READLINKAT(DirFd, Path, OutBuffer, Int);
    FCHMODAT(DirFd, Path, Mode);
    FACCESSAT(DirFd, Path, ACCESS);
    PSELECT6(Int, FdSet, FdSet, FdSet, In(Timespec), Pointer) -> Ready;
    PPOLL(InArray { shape: PollFd, count: 1 }, UInt, In(Timespec), SIGSET, ULong) -> Poll;
    UNSHARE(Flags(bits::<process::CloneFlags>));
    SET_ROBUST_LIST(Pointer, ULong);
    GET_ROBUST_LIST(Int, Out(I64), Out(I64));
    SPLICE(Fd, In(I64), Fd, In(I64), ULong, SPLICE);
    TEE(Fd, Fd, ULong, SPLICE);
    SYNC_FILE_RANGE(Fd, Long, Long, Flags(bits::<file_calls::SyncRangeFlags>));
    VMSPLICE(Fd, Iovec { count: 2 }, ULong, SPLICE);
    MOVE_PAGES(Int, ULong, Pointer, Pointer, Pointer, Hex);
    UTIMENSAT(DirFd, Path, In(TimespecPair), AT);
    EPOLL_PWAIT(Fd, OutArray(EpollEvent), Int, Int, SIGSET, ULong);
    SIGNALFD(Fd, SIGSET, ULong);
    TIMERFD_CREATE(CLOCK, Flags(bits::<time::TimerfdFlags>));
    EVENTFD(UInt);
    FALLOCATE(Fd, Flags(bits::<file_calls::FallocateMode>), Long, Long);
    TIMERFD_SETTIME(Fd, Flags(bits::<time::TimerfdSetFlags>), In(Itimerspec), Out(Itimerspec));
    TIMERFD_GETTIME(Fd, Out(Itimerspec));
    ACCEPT4(Fd, OutSockAddr { length: 2 }, Out(I32), Flags(bits::<sockets::SocketFlags>));
    SIGNALFD4(Fd, SIGSET, ULong, Flags(bits::<signals::SignalfdFlags>));
    EVENTFD2(UInt, Flags(bits::<file_calls::EventfdFlags>));
    EPOLL_CREATE1(Flags(bits::<polling::EpollFlags>));
    DUP3(Fd, Fd, Flags(bits::<file_calls::PipeFlags>));
    PIPE2(Out(FdPair), Flags(bits::<file_calls::PipeFlags>));
    INOTIFY_INIT1(Flags(bits::<polling::InotifyFlags>));
    PREADV(Fd, OutIovec { count: 2 }, ULong, Long, Long);
    PWRITEV(Fd, Iovec { count: 2 }, ULong, Long, Long);
    RT_TGSIGQUEUEINFO(Int, Int, Signal, In(SigInfo));
    PERF_EVENT_OPEN(Pointer, Int, Int, Fd, Hex);
    RECVMMSG(Fd, OutArray(MMsgHdr), UInt, MSG, In(Timespec));
    FANOTIFY_INIT(Hex, Hex);
    FANOTIFY_MARK(Fd, Hex, Hex, DirFd, Path);
    PRLIMIT64(Int, Enum(process::RLIMIT_NAMES), In(Rlimit), Out(Rlimit));
    NAME_TO_HANDLE_AT(DirFd, Path, Pointer, Out(I32), AT);
    OPEN_BY_HANDLE_AT(Fd, Pointer, OPEN);
    CLOCK_ADJTIME(CLOCK, Pointer);
    SYNCFS(Fd);
    SENDMMSG(Fd, InArray { shape: MMsgHdr, count: 2 }, UInt, MSG);
    SETNS(Fd, Flags(bits::<process::CloneFlags>));
    GETCPU(Out(U32), Out(U32), Pointer);
    PROCESS_VM_READV(Int, OutIovec { count: 2 }, ULong, Pointer, ULong, Hex);
    PROCESS_VM_WRITEV(Int, Iovec { count: 2 }, ULong, Pointer, ULong, Hex);
    KCMP(Int, Int, Enum(file_calls::KCMP_NAMES), Hex, Hex);
    FINIT_MODULE(Fd, Str, Hex);
    SCHED_SETATTR(Int, Pointer, Hex);
    SCHED_GETATTR(Int, Pointer, UInt, Hex);
    RENAMEAT2(DirFd, Path, DirFd, Path, Flags(bits::<file_calls::RenameFlags>));
    SECCOMP(Enum(seccomp::SECCOMP_OP_NAMES), Flags(bits::<seccomp::SeccompFilterFlags>), Pointer);
    GETRANDOM(OutBuffer, ULong, Flags(bits::<process::GetrandomFlags>));
    MEMFD_CREATE(Str, Flags(bits::<file_calls::MemfdFlags>));
    KEXEC_FILE_LOAD(Fd, Fd, ULong, Str, Hex);
    BPF(Int, Pointer, UInt);
    EXECVEAT(DirFd, Path, Argv, Environment, AT);
    USERFAULTFD(OPEN);
    MEMBARRIER(Enum(memory::MEMBARRIER_NAMES), Hex, Int);
    MLOCK2(Pointer, ULong, Flags(bits::<memory::MlockFlags>));
    COPY_FILE_RANGE(Fd, In(I64), Fd, In(I64), ULong, Hex);
    PREADV2(Fd, OutIovec { count: 2 }, ULong, Long, Long, RWF);
    PWRITEV2(Fd, Iovec { count: 2 }, ULong, Long, Long, RWF);
    PKEY_MPROTECT(Pointer, ULong, PROT, Int);
    PKEY_ALLOC(Hex, Hex);
    PKEY_FREE(Int);
    STATX(DirFd, Path, AT, Flags(bits::<files::StatxMask>), Out(Statx));
    IO_PGETEVENTS(Hex, Long, Long, Pointer, In(Timespec), Pointer);
    RSEQ(Pointer, Hex, Int, Hex);
    URETPROBE();
    UPROBE();
    PIDFD_SEND_SIGNAL(Fd, Signal, In(SigInfo), Hex);
    IO_URING_SETUP(UInt, Pointer);
    IO_URING_ENTER(Fd, UInt, UInt, Hex, SIGSET, ULong);
    IO_URING_REGISTER(Fd, UInt, Pointer, UInt);
    OPEN_TREE(DirFd, Path, Flags(bits::<mounts::OpenTreeFlags>));
    MOVE_MOUNT(DirFd, Path, DirFd, Path, Flags(bits::<mounts::MoveMountFlags>));
    FSOPEN(Str, Hex);
    FSCONFIG(Fd, Enum(mounts::FSCONFIG_NAMES), Str, Pointer, Int);
    FSMOUNT(Fd, Hex, Flags(bits::<mounts::MountAttr>));
    FSPICK(DirFd, Path, Hex);
    PIDFD_OPEN(Int, Flags(bits::<process::PidfdFlags>));
    CLONE3(In(CloneArgs), ULong);
    CLOSE_RANGE(UInt, UInt, Flags(bits::<file_calls::CloseRangeFlags>));
    OPENAT2(DirFd, Path, In(OpenHow), ULong);
    PIDFD_GETFD(Fd, Fd, Hex);
    FACCESSAT2(DirFd, Path, ACCESS, AT);
    PROCESS_MADVISE(Fd, Iovec { count: 2 }, ULong, Enum(memory::MADVISE_NAMES), Hex);
    EPOLL_PWAIT2(Fd, OutArray(EpollEvent), Int, In(Timespec), SIGSET, ULong);
    MOUNT_SETATTR(DirFd, Path, AT, Pointer, ULong);
    QUOTACTL_FD(Fd, Hex, UInt, Pointer);
    LANDLOCK_CREATE_RULESET(Pointer, ULong, Hex);
    LANDLOCK_ADD_RULE(Fd, Int, Pointer, Hex);
    LANDLOCK_RESTRICT_SELF(Fd, Hex);
    MEMFD_SECRET(Hex);
    PROCESS_MRELEASE(Fd, Hex);
    FUTEX_WAITV(InArray { shape: FutexWaitv, count: 1 }, UInt, Hex, In(Timespec), CLOCK);
    SET_MEMPOLICY_HOME_NODE(Pointer, ULong, ULong, Hex);
    CACHESTAT(Fd, Pointer, Pointer, Hex);
    FCHMODAT2(DirFd, Path, Mode, AT);
    MAP_SHADOW_STACK(Pointer, ULong, Hex) -> Hex;
    FUTEX_WAKE(Pointer, Hex, Int, Hex);
    FUTEX_WAIT(Pointer, ULong, Hex, Hex, In(Timespec), CLOCK);
    FUTEX_REQUEUE(Pointer, Hex, Int, Int);
    STATMOUNT(Pointer, Pointer, ULong, Hex);
    LISTMOUNT(Pointer, Pointer, ULong, Hex);
    LSM_GET_SELF_ATTR(Int, Pointer, Pointer, Hex);
    LSM_SET_SELF_ATTR(Int, Pointer, UInt, Hex);
    LSM_LIST_MODULES(Pointer, Pointer, Hex);
    MSEAL(Pointer, ULong, Hex);
    SETXATTRAT(DirFd, Path, AT, Str, Pointer, ULong);
    GETXATTRAT(DirFd, Path, AT, Str, Pointer, ULong);
    LISTXATTRAT(DirFd, Path, AT, OutBuffer, ULong);
    REMOVEXATTRAT(DirFd, Path, AT, Str);
    OPEN_TREE_ATTR(DirFd, Path, Flags(bits::<mounts::OpenTreeFlags>), Pointer, ULong);
    FILE_GETATTR(DirFd, Path, Pointer, ULong, AT);
    FILE_SETATTR(DirFd, Path, Pointer, ULong, AT);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::NUMBERS;

    #[test]
    fn every_call_has_a_signature_with_at_most_six_arguments() {
        for (number, name) in NUMBERS {
            let found = signature(*number).unwrap_or_else(|| panic!("{name} has no signature"));
            assert!(found.arguments.len() <= 6, "{name}");
        }
        assert!(signature(337).is_none() && signature(usize::MAX).is_none());
    }

    #[test]
    fn references_to_other_arguments_exist() {
        for (number, name) in NUMBERS {
            let arguments = signature(*number).unwrap().arguments;
            for kind in arguments {
                let other = match kind {
                    ArgKind::Buffer { length }
                    | ArgKind::SockAddr { length }
                    | ArgKind::OutSockAddr { length }
                    | ArgKind::OptionValue { length } => *length,
                    ArgKind::InArray { count, .. }
                    | ArgKind::Iovec { count }
                    | ArgKind::OutIovec { count } => *count,
                    _ => continue,
                };
                assert!(other < arguments.len(), "{name}");
            }
        }
    }
}
