//! Waiting for a tracee's event or a kick, whichever comes first, without losing either.
//!
//! `wait4` cannot watch anything but children, so a kick is a signal. A signal that arrives
//! between the look at the flag and the system call would be lost, so the signal's handler moves the
//! instruction pointer out of that window: it compares it with two labels around the check and the
//! `syscall` instruction (as libcs do for thread cancellation). With `SA_RESTART` an interrupted
//! `wait4` is rewound to its `syscall` instruction, which lies in the window too. A `wait4` that has
//! already fetched an event has left the window, and its result is kept.
//!
//! No wake-up is lost:
//! 1. [`Bell::ring`] sets `rung`, then looks at `waiting`; [`Bell::wait`] sets `waiting`, then looks at `rung`;
//!    all sequentially consistent, so one of them sees the other's store.
//! 2. If `wait` sees `rung`, it does not block. If `ring` sees `waiting`, it sends the signal, which finds
//!    the worker before the window (the check will see `rung`), in it (the handler leaves it) or behind
//!    it (it is not blocking).
//! 3. Only the caller of `ring` that changed `rung` to true must signal; the worker resets it after waiting,
//!    and returns to its caller in that case.
//!
//! The worker blocks every other asynchronous signal ([`Bell::adopt`]), so that no second
//! handler can stand between the window and this one.

use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::SeqCst};

use abi::errno::{self, Errno};
use libc::{c_int, c_void};

use super::requests::{self, Status, WAIT_OPTIONS, last_error};

/// The kick signal, and the one that interrupts tracees. Nobody else uses it, and as a standard signal
/// it is never lost for want of queue space.
pub(super) const SIGNAL: c_int = libc::SIGSTKFLT;

std::arch::global_asm!(
    ".pushsection .text.runsc_ptrace_wait,\"ax\",@progbits",
    ".globl runsc_ptrace_wait",
    ".globl runsc_ptrace_wait_window",
    ".globl runsc_ptrace_wait_window_end",
    ".globl runsc_ptrace_wait_rung",
    // (rdi: flag, rsi: place for the status, rdx: options) -> rax: as wait4, or -EINTR if rung
    "runsc_ptrace_wait:",
    "mov r8, rdi",
    "mov rdi, -1",
    "xor r10d, r10d",
    "mov eax, {wait4}",
    "runsc_ptrace_wait_window:",
    "cmp dword ptr [r8], 0",
    "jne runsc_ptrace_wait_rung",
    "syscall",
    "runsc_ptrace_wait_window_end:",
    "ret",
    "runsc_ptrace_wait_rung:",
    "mov rax, {interrupted}",
    "ret",
    ".popsection",
    wait4 = const libc::SYS_wait4,
    interrupted = const -libc::EINTR,
);

unsafe extern "C" {
    /// See the assembly. `flag` is read, `status` written, both must be valid.
    fn runsc_ptrace_wait(flag: *const u32, status: *mut c_int, options: c_int) -> isize;
    // Labels: only their addresses are used.
    fn runsc_ptrace_wait_window();
    fn runsc_ptrace_wait_window_end();
    fn runsc_ptrace_wait_rung();
}

/// The handler of [`SIGNAL`]: see the module's text. Async-signal-safe: it touches the context only.
extern "C" fn on_signal(_signal: c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    let window =
        runsc_ptrace_wait_window as *const () as i64..runsc_ptrace_wait_window_end as *const () as i64;
    // SAFETY: the kernel passes a valid `ucontext_t` to an SA_SIGINFO handler, and nothing else refers
    // to it while the handler runs.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let rip = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
    if window.contains(rip) {
        *rip = runsc_ptrace_wait_rung as *const () as i64;
    }
}

/// The worker's door bell.
#[derive(Default)]
pub(super) struct Bell {
    /// 1 from a ring until the worker returns from waiting. Read by the assembly.
    rung: AtomicU32,
    waiting: AtomicBool,
    worker: AtomicI32,
    process: OnceLock<i32>,
}

/// How [`Bell::wait`] ended.
pub(super) enum Outcome {
    Rung,
    Event(i32, Status),
}

impl Bell {
    /// Installs the handler, and asks the host not to send `SIGCHLD` for stops: there
    /// is one for every trap, and they would keep the sentry's signal reader busy.
    pub(super) fn install() -> Result<(), Errno> {
        // SAFETY: all-zero is a valid `sigaction` (default action, empty mask, no flags).
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        // SAFETY: the handler is async-signal-safe and lives as long as the program.
        if unsafe { libc::sigaction(SIGNAL, &raw const action, ptr::null_mut()) } < 0 {
            return Err(last_error());
        }
        // SAFETY: reads the present action into `action`, then stores it back with one more flag.
        let result = unsafe {
            libc::sigaction(libc::SIGCHLD, ptr::null(), &raw mut action);
            action.sa_flags |= libc::SA_NOCLDSTOP;
            libc::sigaction(libc::SIGCHLD, &raw const action, ptr::null_mut())
        };
        if result < 0 { Err(last_error()) } else { Ok(()) }
    }

    /// Makes the calling thread the one to be woken: blocks all asynchronous signals but the kick.
    pub(super) fn adopt(&self) -> Result<(), Errno> {
        const SYNCHRONOUS: [c_int; 7] = [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGFPE,
            libc::SIGILL,
            libc::SIGTRAP,
            libc::SIGSYS,
            libc::SIGABRT,
        ];
        // SAFETY: an all-zero `sigset_t` is valid storage, filled by `sigfillset`; the other calls get valid
        // signal numbers and pointers to it.
        let result = unsafe {
            let mut mask: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut mask);
            for signal in SYNCHRONOUS.into_iter().chain([SIGNAL]) {
                libc::sigdelset(&raw mut mask, signal);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, ptr::null_mut())
        };
        if result != 0 {
            return Err(Errno::from_raw(result));
        }
        let _ = self.process.set(std::process::id().cast_signed());
        // SAFETY: `gettid` has no arguments.
        self.worker.store(unsafe { libc::gettid() }, SeqCst);
        Ok(())
    }

    /// Makes the current or next [`Bell::wait`] return.
    pub(super) fn ring(&self) {
        if self.rung.swap(1, SeqCst) == 0
            && self.waiting.load(SeqCst)
            && let Some(&process) = self.process.get()
        {
            let _ = requests::send_signal(process, self.worker.load(SeqCst), SIGNAL);
        }
    }

    /// Whether somebody rang; resets it.
    pub(super) fn take_ring(&self) -> bool {
        self.rung.load(SeqCst) != 0 && self.rung.swap(0, SeqCst) != 0
    }

    /// Blocks until a tracee has an event or somebody rings. On the adopted thread only.
    pub(super) fn wait(&self) -> Result<Outcome, Errno> {
        let mut status = 0;
        self.waiting.store(true, SeqCst);
        // SAFETY: both pointers are valid for the call; the function follows the C calling convention,
        // touching caller-saved registers only.
        let got = unsafe { runsc_ptrace_wait(self.rung.as_ptr(), &raw mut status, WAIT_OPTIONS) };
        self.waiting.store(false, SeqCst);
        match i32::try_from(got) {
            Ok(tid @ 1..) => Ok(Outcome::Event(tid, Status::decode(status))),
            Ok(error @ ..=-1) if Errno::from_raw(-error) != errno::EINTR => Err(Errno::from_raw(-error)),
            _ => Ok(Outcome::Rung),
        }
    }
}
