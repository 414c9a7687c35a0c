//! Running application code and trapping its system calls: the sentry's only door to the host's
//! processes and their memory.
//!
//! The kernel sees three things: a [`Platform`] that makes address spaces and waits for traps, a
//! [`Context`] per application thread, and [`UserMemory`] to copy to and from an application.
//! None of them knows a kernel object. Two implementations exist: `seccomp` (the default) and
//! `ptrace` (fallback and cross-check); `mock` serves unit tests of the kernel.
//!
//! # The life of a context
//! A context is *held* (the application thread stands still, at a trap or at birth) or *running*.
//! [`Context::resume`] sets it running and [`Context::poll_trap`] waits until it is held again.
//! While it is held by a system call its general registers are not in the sentry yet:
//! [`Context::poll_capture`] brings them there when somebody needs them (signal delivery,
//! `execve`, `clone`, `rt_sigreturn`). Faults and interrupts arrive captured.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task::{Context as WakeContext, Poll};

use abi::errno::Errno;

mod host_facts;
pub mod mock;
pub mod ptrace;
mod registers;
pub mod seccomp;
mod stub;
mod window;
mod words;
pub use host_facts::auxiliary_value;
pub use registers::{Architecture, Registers, SyscallRequest};
pub use window::Window;
pub use words::{HeapWords, OwnWords};

/// A mechanism that runs application code and traps its system calls.
pub trait Platform: Send + Sync + 'static {
    /// Name as in `--platform`.
    fn name(&self) -> &'static str;

    /// Where applications may have mappings in every address space of this platform.
    fn layout(&self) -> Layout;

    /// Makes a blank address space with one held thread in it (captured, all registers zero).
    fn poll_new_space(
        &self,
        wake: &mut WakeContext<'_>,
        request: &mut NewSpace,
    ) -> Poll<Result<Box<dyn Context>, Errno>>;

    /// Blocks the calling worker until at least one context has something new, and wakes the
    /// futures that wait for it (their wakers only queue them; the worker polls them when this
    /// returns). Also returns after [`Platform::kick`] and spuriously.
    ///
    /// # Errors
    /// The sandbox cannot go on (the listener is gone, say).
    fn wait(&self) -> Result<(), Errno>;

    /// Whether the platform wants a thread of its own that looks out for requests ([`Platform::spin`]).
    fn spins(&self) -> bool {
        false
    }

    /// Blocks the calling thread, which is the only one that calls it, until a context has something new that
    /// [`Platform::wait`] would not hear of; wakes futures as that does. Also returns after [`Platform::kick`] and spuriously.
    fn spin(&self) {}

    /// Lets the threads go on that this thread of the sentry has resumed. To be called after each poll of a future, with no
    /// lock held: until then they may stand still.
    fn send_answers(&self) {}

    /// Makes one worker return from [`Platform::wait`], now or on its next call.
    fn kick(&self);

    /// Whether contexts may be used on any thread, or only on the one worker that calls `wait`.
    fn affinity(&self) -> Affinity;

    /// Collects host processes that ended; called by the sentry when the host reports a child's
    /// death. Wakes contexts that died without being told to.
    fn reap(&self);

    /// The host system calls, beyond the kernel's own, that the sentry's seccomp filter must allow
    /// after lockdown for this platform to work.
    fn host_calls(&self) -> HostCalls;
}

/// State of one [`Platform::poll_new_space`] call between polls.
#[derive(Default)]
pub struct NewSpace {
    /// The platform's own progress record.
    pub progress: Option<Box<dyn std::any::Any + Send>>,
}

/// Threads on which a platform's contexts may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// Any thread of the sentry.
    Any,
    /// Only the single worker thread that calls [`Platform::wait`] (and that first called it).
    Worker,
}

/// Which list of host system calls a platform needs ([`Platform::host_calls`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostCalls {
    /// No more than the kernel itself.
    None,
    #[expect(missing_docs, reason = "the name says it")]
    Seccomp,
    #[expect(missing_docs, reason = "the name says it")]
    Ptrace,
}

impl HostCalls {
    /// The list.
    pub const fn rows(self) -> &'static [allowlist::Row] {
        match self {
            Self::None => &[],
            Self::Seccomp => seccomp::HOST_ROWS,
            Self::Ptrace => ptrace::HOST_ROWS,
        }
    }
}

/// Address-space limits, in bytes from address 0.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Lowest address an application may map.
    pub min_address: u64,
    /// First address above the application's part.
    pub max_address: u64,
    /// The vDSO that every new space contains, if the platform has one.
    pub vdso: Option<Vdso>,
}

/// Position of the vDSO in every new address space. It lies inside the application's part.
#[derive(Clone, Copy, Debug)]
pub struct Vdso {
    /// Start of its data pages (`[vvar]`).
    pub data_start: u64,
    /// Start of its ELF image (`[vdso]`, `AT_SYSINFO_EHDR`), where the data pages end.
    pub start: u64,
    /// End of the ELF image.
    pub end: u64,
}

/// How a held thread goes on.
#[derive(Clone, Copy, Debug)]
pub enum Resume {
    /// The trapped system call returns this value (`rax`). Only after [`Trap::Syscall`]. If the
    /// context was captured meanwhile, the value is put into `rax` and the registers are loaded.
    Return(u64),
    /// The host executes the trapped call as it stands, its registers being what the kernel would
    /// have asked for. Only for an uncaptured [`Trap::Syscall`] of `munmap`, `mprotect`, `madvise`,
    /// `mmap` (private, `MAP_FIXED`; anonymous or of a file that was just lent), `pread64` and `pwrite64` of a file that was just lent, `close` of one that was
    /// ([`Context::take_back`]), `arch_prctl(ARCH_SET_FS|GS)`, `sched_yield`, `exit`, `exit_group`; the
    /// platform checks again that no reserved range is touched and answers `EINVAL` to the application otherwise.
    Native,
    /// The host changes memory in the place of the call, which then returns `result`; if the host refuses, its error. Only
    /// after an uncaptured [`Trap::Syscall`] for which [`Context::may_substitute`] holds.
    Substitute {
        /// What is to be done.
        operation: Substitute,
        /// What the call returns.
        result: u64,
    },
    /// The host makes the thread that [`Context::begin_thread`] has announced, in the place of the call, which then returns this; if the
    /// host refuses, its error. Only after that, with nothing in between.
    Spawn(u64),
    /// Load the captured registers, as changed by the kernel.
    Registers,
}

/// Why a thread stands still.
#[derive(Clone, Debug)]
pub enum Trap {
    /// A system call; registers not captured yet.
    Syscall(SyscallRequest),
    /// A synchronous fault; captured.
    Fault(Fault),
    /// [`Interrupter::interrupt`] was called; captured.
    Interrupted,
    /// The thread no longer exists on the host (killed, out of memory, or it broke the stub's
    /// protocol and was killed for it). Nothing but dropping the context is possible.
    Died,
    /// The thread was announced ([`Context::begin_thread`]) and never made: the host refused, or its maker ended before. Nothing but
    /// dropping the context is possible.
    Unborn,
}

/// A synchronous fault as the host reported it (`man 2 sigaction`, siginfo).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `SIGSEGV`, `SIGBUS`, `SIGFPE`, `SIGILL` or `SIGTRAP`.
    pub signal: u8,
    /// `si_code`.
    pub code: i32,
    /// `si_addr`.
    pub address: u64,
    /// The processor's error code (`sigcontext.err`), page-fault bits for vector 14.
    pub error_code: u64,
    /// The processor's exception vector (`sigcontext.trapno`).
    pub vector: u64,
}

/// One application thread.
pub trait Context: Send {
    /// Sets the thread running. Does not wait.
    fn resume(&mut self, how: Resume);

    /// Ready when the thread stands still again; the waker of the last poll is woken for it.
    fn poll_trap(&mut self, wake: &mut WakeContext<'_>) -> Poll<Trap>;

    /// Brings the registers into the sentry. Ready at once if they are there already.
    /// After [`Trap::Syscall`] the captured state is that after the `syscall` instruction, with
    /// `rax` = the call's number as in `orig_rax`.
    ///
    /// # Errors
    /// [`Died`].
    fn poll_capture(&mut self, wake: &mut WakeContext<'_>) -> Poll<Result<(), Died>>;

    /// The captured general registers; `None` while not captured. Changes take effect with
    /// [`Resume::Registers`].
    fn registers(&mut self) -> Option<&mut Registers>;

    /// A copy of the captured vector state: an XSAVE area in the standard (non-compacted) format
    /// with the kernel's software-reserved bytes at 464 set as in a signal frame.
    ///
    /// # Errors
    /// [`Died`], also when not captured.
    fn fp_state(&mut self) -> Result<Vec<u8>, Died>;

    /// Replaces the vector state; `None` resets it to its initial state. The bytes are hostile: whatever the processor
    /// would refuse is sanitized.
    ///
    /// # Errors
    /// [`Died`], also when not captured.
    fn set_fp_state(&mut self, state: Option<&[u8]>) -> Result<(), Died>;

    /// Carries out changes of the address space in order, stopping at the first failure. Captures
    /// the thread first if need be. Must be polled to completion with the same `operations`.
    fn poll_memory(
        &mut self,
        wake: &mut WakeContext<'_>,
        operations: &[MemoryOperation<'_>],
    ) -> Poll<Result<(), MemoryError>>;

    /// Makes a new thread or process from this one, captured at birth with the registers of `spawn`. It
    /// stays held until its own [`Context::resume`]. Captures this thread first if need be.
    fn poll_spawn(
        &mut self,
        wake: &mut WakeContext<'_>,
        spawn: &Spawn,
    ) -> Poll<Result<Box<dyn Context>, SpawnError>>;

    /// Announces a thread that is to be made in the place of the trapped call. Its context is there at once and can be resumed (with
    /// [`Resume::Return`] of 0: it goes on where this thread's call returns, with everything that this one has); the thread itself is made after
    /// this thread's next [`Resume::Spawn`], and nobody waits for it. Only after an uncaptured [`Trap::Syscall`]. `None`: not possible now,
    /// and nothing was done. A context that is dropped without that resume leaves the other [`Trap::Unborn`].
    fn begin_thread(&mut self, spawn: &SpawnHere) -> Option<Box<dyn Context>> {
        let _ = spawn;
        None
    }

    /// Makes a process: as [`Context::poll_spawn`], but the child goes on where this thread's call returns, with everything it has, and both are held in
    /// the call: nobody is captured for it. The child's first [`Context::resume`] is [`Resume::Return`] of 0. Only after an
    /// uncaptured [`Trap::Syscall`]. `None`: not possible now, and nothing was done.
    fn poll_spawn_here(
        &mut self,
        wake: &mut WakeContext<'_>,
        spawn: &SpawnHere,
    ) -> Poll<Option<Result<Box<dyn Context>, SpawnError>>> {
        let _ = (wake, spawn);
        Poll::Ready(None)
    }

    /// A handle with which any other thread of the sentry makes this one stand still.
    fn interrupter(&self) -> Arc<dyn Interrupter>;

    /// The memory this thread sees.
    fn memory(&self) -> Arc<dyn UserMemory>;

    /// Where an arena of [`ARENA_SIZE`] bytes would have to lie so that sites in this code can be patched, the best places
    /// first; empty if there is one within reach, or patching is off.
    fn arena_wanted(&self, code: Range<u64>) -> Vec<Range<u64>> {
        let _ = code;
        Vec::new()
    }

    /// Has a hot site patched, so that its calls need not trap. Whether that was possible makes no difference but in speed.
    /// Captures the thread first. Must be polled to completion with the same `site`.
    ///
    /// # Errors
    /// [`Died`].
    fn poll_patch(&mut self, wake: &mut WakeContext<'_>, site: &PatchSite) -> Poll<Result<(), Died>> {
        let _ = (wake, site);
        Poll::Ready(Ok(()))
    }

    /// Whether a change of this range must go through [`Context::poll_memory`] because code there is patched, or trampolines
    /// lie there.
    fn is_patched(&self, range: Range<u64>) -> bool {
        let _ = range;
        false
    }

    /// The trapped call, which had to wait, goes on, on the calling thread of the sentry: until that turns to something else, accesses to
    /// memory are the call's own.
    fn go_on(&mut self) {}

    /// Puts a file where the trapped call names a descriptor, so that the host may carry out an `mmap`, `pread64` or `pwrite64` of it
    /// ([`Resume::Native`]). Only while nobody shares the process's memory. `identity` is that of the file: one that is there already is not
    /// put there again. Returns whether that was possible.
    fn lend(&mut self, number: u64, file: BorrowedFd<'_>, identity: u64) -> bool {
        let _ = (number, file, identity);
        false
    }

    /// Puts a file where there is room for its descriptor, for this thread alone, whoever shares the process's memory, and says where: for a
    /// [`Substitute::Read`] or [`Substitute::Write`] that has to be the next resume. Nobody may make a process meanwhile that has copies of
    /// this one's descriptors.
    fn lend_privately(&mut self, file: BorrowedFd<'_>, identity: u64) -> Option<u64> {
        let _ = (file, identity);
        None
    }

    /// Whether it is certain that the thread has come to this trap by itself. Otherwise others that share its memory may have made it seem so.
    fn is_held(&self) -> bool {
        true
    }

    /// What was lent last is open for writing.
    fn lent_for_writing(&mut self) {}

    /// The trapped call closes a descriptor: what becomes of a file that was lent where it names one, or of the one with this identity, which nobody has
    /// open any more and which has to be closed.
    fn take_back(&mut self, number: u64, identity: Option<u64>) -> TakeBack {
        let _ = (number, identity);
        TakeBack::Nothing
    }

    /// Puts a file where there is room for its descriptor, and says where, for a [`Substitute::MapFile`] that has to be the next
    /// resume. Only while nobody shares the process's memory.
    fn lend_anywhere(&mut self, file: BorrowedFd<'_>) -> Option<u64> {
        let _ = file;
        None
    }

    /// Whether [`Resume::Substitute`] is possible now.
    fn may_substitute(&self) -> bool {
        false
    }

    /// Whether [`Substitute::Read`] and [`Substitute::Write`] are possible now.
    fn may_read_instead(&self) -> bool {
        false
    }

    /// Whether the trapped call is one for which [`Substitute::Read`] or [`Substitute::Write`] was the last resume, and did not give what was foreseen: the
    /// call is to be made as if for the first time. An application can make that so by itself.
    fn is_again(&self, request: &SyscallRequest) -> bool {
        let _ = request;
        false
    }

    /// Writes down what calls that only report facts are to return, so that they need not trap. To be called whenever
    /// one changes, before the thread goes on; `None` for all while somebody wants to see every call.
    fn set_facts(&mut self, facts: Option<&Facts>) {
        let _ = facts;
    }

    /// The words that the thread may change itself. Asked for once, before the first resume; whatever they hold is to be
    /// replaced then.
    fn own_words(&self) -> Arc<dyn OwnWords> {
        Arc::new(HeapWords::default())
    }

    /// Host processor time used by the thread, in nanoseconds (user, system).
    fn cpu_time_ns(&self) -> (u64, u64);

    /// Kills the whole host process of this thread at once (all threads that share it; other
    /// contexts of it report [`Trap::Died`] or are dropped).
    fn kill(&mut self);
}

/// How a descriptor that was lent is closed when the application closes its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeBack {
    /// There is none, or it may stay.
    Nothing,
    /// The host may carry out the call ([`Resume::Native`], which has to be the next resume).
    Native,
    /// [`Context::poll_memory`] does it, with no operations: the file is open for writing, which would keep others from executing it, or
    /// would go on taking room once it is deleted.
    Commands,
}

/// A system-call instruction that may be patched.
#[derive(Clone, Debug)]
pub struct PatchSite {
    /// Address behind the instruction ([`SyscallRequest::ip`]).
    pub ip: u64,
    /// The call that is made there.
    pub number: u64,
    /// The mapping it lies in: private, and not writable.
    pub mapping: Range<u64>,
    /// How that is protected.
    pub protection: Protection,
    /// A new arena, reserved for the platform in the kernel's map, if [`Context::arena_wanted`] asked for one.
    pub arena: Option<u64>,
}

/// Bytes of an arena, where the platform keeps code that patched sites jump to. Few of its pages are ever touched: it is large
/// so that an address with the right digits can be found for each.
pub const ARENA_SIZE: u64 = 1 << 20;

/// What calls report that depend on nothing but the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `getpid(2)`
    pub pid: u32,
    /// `gettid(2)`
    pub tid: u32,
    /// `getuid(2)`
    pub uid: u32,
    /// `getgid(2)`
    pub gid: u32,
    /// `geteuid(2)`
    pub euid: u32,
    /// `getegid(2)`
    pub egid: u32,
}

/// Interrupts a thread from elsewhere.
pub trait Interrupter: Send + Sync {
    /// The thread's current or next run ends with [`Trap::Interrupted`] unless another trap comes
    /// first. A no-op while the thread is held, except that the next `resume` then ends at once with
    /// `Interrupted`.
    fn interrupt(&self);
}

/// Copying to and from an application's memory. Addresses are allegations: anything may fail.
pub trait UserMemory: Send + Sync {
    /// Copies from `address`; returns how many bytes, a prefix of `buffer`, could be read.
    ///
    /// # Errors
    /// `EFAULT` if not even one byte could be read (and `buffer` is not empty).
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<usize, Errno>;

    /// Copies to `address`; returns how many bytes, a prefix of `bytes`, could be written.
    ///
    /// # Errors
    /// `EFAULT` if not even one byte could be written (and `bytes` is not empty).
    fn write(&self, address: u64, bytes: &[u8]) -> Result<usize, Errno>;

    /// Atomically compares the aligned 32-bit word at `address` with `expected` and replaces it by `new` if equal;
    /// returns what was there.
    ///
    /// # Errors
    /// `EFAULT`; `EOPNOTSUPP` where the platform has no way to do it.
    fn compare_exchange_u32(&self, address: u64, expected: u32, new: u32) -> Result<u32, Errno>;

    /// The aligned 32-bit word at `address` as the thread whose memory this is has loaded it on its way into the call that is being handled, after
    /// its call before had returned; `None` where it has not, and if it has been asked for already.
    fn compared_u32(&self, _address: u64) -> Option<u32> {
        None
    }
}

/// One change of an address space. All addresses and lengths are whole pages, fixed by the
/// kernel; mapping replaces what is there.
#[derive(Clone, Debug)]
pub enum MemoryOperation<'a> {
    /// Private zero-filled memory. `reserve` false: `MAP_NORESERVE`.
    MapAnonymous { address: u64, length: u64, protection: Protection, reserve: bool },
    /// Pages of a host descriptor.
    MapFile {
        address: u64,
        length: u64,
        protection: Protection,
        sharing: Sharing,
        file: BorrowedFd<'a>,
        offset: u64,
    },
    /// Removes whatever is there.
    Unmap { address: u64, length: u64 },
    /// Changes protection.
    Protect { address: u64, length: u64, protection: Protection },
    /// `mremap` with `MREMAP_MAYMOVE | MREMAP_FIXED` (or in place if `to == from`).
    Move { from: u64, from_length: u64, to: u64, to_length: u64 },
    /// `madvise` with an advice the kernel has vetted (`MADV_DONTNEED`, `MADV_FREE`, `MADV_WILLNEED`, …).
    Advise { address: u64, length: u64, advice: i32 },
    /// Sets the thread's FS base.
    SetFsBase(u64),
    /// Sets the thread's GS base.
    SetGsBase(u64),
}

/// A change of memory in the place of a call.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "as in `MemoryOperation`")]
pub enum Substitute {
    /// [`MemoryOperation::MapAnonymous`]
    MapAnonymous { address: u64, length: u64, protection: Protection, reserve: bool },
    /// [`MemoryOperation::MapFile`], private, of a file that [`Context::lend_anywhere`] has put there for this call.
    MapFile { address: u64, length: u64, protection: Protection, descriptor: u64, offset: u64 },
    /// [`MemoryOperation::Unmap`]
    Unmap { address: u64, length: u64 },
    /// `pread64` of a file that was lent for this call, of just as many bytes as the call is to return. Should the host give anything else, the call
    /// traps once more ([`Context::is_again`]). Only where [`Context::may_read_instead`].
    Read { descriptor: u64, address: u64, length: u64, offset: u64 },
    /// The same with `pwrite64`.
    Write { descriptor: u64, address: u64, length: u64, offset: u64 },
}

/// Whether stores reach the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// `MAP_SHARED`.
    Shared,
    /// `MAP_PRIVATE`.
    Private,
}

/// Page protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Protection {
    /// `PROT_READ`
    pub read: bool,
    /// `PROT_WRITE`
    pub write: bool,
    /// `PROT_EXEC`
    pub execute: bool,
}

/// A change of an address space that failed.
#[derive(Clone, Copy, Debug)]
pub enum MemoryError {
    /// The host refused the operation with this index; those before it took effect.
    Refused { index: usize, errno: Errno },
    /// See [`Died`].
    Died,
}

/// A new thread or process that failed.
#[derive(Clone, Copy, Debug)]
pub enum SpawnError {
    /// The host refused (`EAGAIN`, `ENOMEM`); the parent is unharmed.
    Refused(Errno),
    /// The parent died.
    Died,
}

/// The thread is gone ([`Trap::Died`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Died;

/// What to make.
#[derive(Clone, Debug)]
pub struct Spawn {
    /// Thread or process.
    pub kind: SpawnKind,
    /// General registers of the child at birth. The vector state is copied from the parent.
    pub registers: Registers,
    /// FS base of the child if not the parent's (`CLONE_SETTLS`).
    pub fs_base: Option<u64>,
}

/// What to make in the place of a call: a thread by [`Context::begin_thread`], a process by [`Context::poll_spawn_here`].
#[derive(Clone, Copy, Debug)]
pub struct SpawnHere {
    /// Thread or process.
    pub kind: SpawnKind,
    /// Stack pointer of the child; 0: the parent's.
    pub stack: u64,
    /// FS base of the child if not the parent's (`CLONE_SETTLS`).
    pub fs_base: Option<u64>,
}

/// The relation of a new context to its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnKind {
    /// A thread in the same host process.
    Thread,
    /// A host process that shares the address space (`vfork`, `CLONE_VM`).
    SharedSpace,
    /// A host process with a copy-on-write copy of the address space.
    Copy,
}

impl SpawnKind {
    /// What such a child shares with its parent, as `clone` says it (`man 2 clone`).
    pub(crate) const fn clone_flags(self) -> i32 {
        match self {
            Self::Thread => {
                libc::CLONE_VM
                    | libc::CLONE_FS
                    | libc::CLONE_FILES
                    | libc::CLONE_SIGHAND
                    | libc::CLONE_THREAD
                    | libc::CLONE_SYSVSEM
            }
            // Its own descriptor table: the parent may die in the middle of receiving.
            Self::SharedSpace => libc::CLONE_VM,
            Self::Copy => 0,
        }
    }
}
