//! `ptrace(2)` and `wait4(2)` as typed requests.
//!
//! [`Stopped`] is the right to inspect and change a thread; it exists only between a stop that the
//! tracer has waited for and the next [`Stopped::resume`], which consumes it. [`Status`] is a
//! decoded wait status. Used by `seed` (set-up), `events` (waiting) and `context`.
//!
//! Invariant: all requests are made by the thread that attached; from any other one they fail
//! with `ESRCH`, which callers treat as the death of the tracee.

use std::ptr;

use abi::errno::{self, Errno};
use libc::{c_int, c_long, c_uint, c_void, user_regs_struct};

/// `<linux/elf.h>` `NT_PRSTATUS`, `NT_X86_XSTATE`.
pub(super) const NT_PRSTATUS: usize = 1;
pub(super) const NT_X86_XSTATE: usize = 0x202;
/// `<linux/audit.h>`
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
/// `<linux/ptrace.h>` `PTRACE_SYSCALL_INFO_ENTRY`
const SYSCALL_INFO_ENTRY: u8 = 1;

/// Options of every tracee; children made with `CLONE_PTRACE` inherit them.
pub(super) const OPTIONS: usize = (libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD) as usize;

/// The bytes of `user_regs_struct` up to and including `ss`. What follows (FS and GS bases, which
/// the application may have set to values that `ptrace` refuses, and selectors) is never reloaded.
const GENERAL_BYTES: usize = std::mem::offset_of!(user_regs_struct, fs_base);

/// User code and stack selectors of 64-bit mode (`__USER_CS`, `__USER_DS`).
pub(super) const USER_CS: u64 = 0x33;
pub(super) const USER_SS: u64 = 0x2b;

/// A ptrace-stopped thread.
#[derive(Debug)]
pub(super) struct Stopped {
    tid: i32,
}

/// How [`Stopped::resume`] lets the thread go on; no signal is ever delivered to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Every system call traps and is not executed: the only mode for application code.
    Emulated,
    /// System calls reach the host: only with registers that point into the gadget page.
    Direct,
}

/// What `PTRACE_GET_SYSCALL_INFO` says at a trap.
#[derive(Clone, Copy, Debug)]
pub(super) struct SyscallInfo {
    pub(super) number: u64,
    pub(super) arguments: [u64; 6],
    pub(super) ip: u64,
    pub(super) is_i386: bool,
}

/// `siginfo_t` of a fault, as far as this platform needs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct SignalInfo {
    pub(super) code: i32,
    pub(super) address: u64,
}

/// `struct ptrace_rseq_configuration`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RseqConfiguration {
    pub(super) pointer: u64,
    pub(super) size: u32,
    pub(super) signature: u32,
    pub(super) flags: u32,
    pad: u32,
}

/// `struct ptrace_syscall_info` with the `entry` member of its union and room for the others.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawSyscallInfo {
    op: u8,
    pad: [u8; 3],
    arch: u32,
    ip: u64,
    sp: u64,
    number: u64,
    arguments: [u64; 6],
    rest: u64,
}

/// One `ptrace(2)` call.
///
/// # Safety
/// `data` must be what `request` expects: a plain value, or a pointer to memory that is valid for
/// what the request writes.
unsafe fn ptrace(request: c_uint, tid: i32, address: usize, data: usize) -> Result<c_long, Errno> {
    // SAFETY: forwarded to the caller; the raw system call has no variadic conversions to get wrong.
    let result = unsafe {
        libc::syscall(libc::SYS_ptrace, c_long::from(request), c_long::from(tid), address, data, 0usize)
    };
    if result < 0 { Err(last_error()) } else { Ok(result) }
}

/// `errno` of the last failed host call.
pub(super) fn last_error() -> Errno {
    std::io::Error::last_os_error().into()
}

impl Stopped {
    /// The stop of `tid` that the caller has just waited for.
    pub(super) fn after_wait(tid: i32) -> Self {
        Self { tid }
    }

    /// The thread's id.
    pub(super) fn tid(&self) -> i32 {
        self.tid
    }

    /// All general registers (`PTRACE_GETREGS`).
    pub(super) fn registers(&self) -> Result<user_regs_struct, Errno> {
        // SAFETY: an all-zero `user_regs_struct` is a valid value (integers only).
        let mut registers: user_regs_struct = unsafe { std::mem::zeroed() };
        // SAFETY: the request writes one `user_regs_struct` to `data`, which points to one.
        unsafe { ptrace(libc::PTRACE_GETREGS, self.tid, 0, (&raw mut registers).addr())? };
        Ok(registers)
    }

    /// Makes sure that [`Stopped::load`] is understood: the layout `PTRACE_SETREGSET` expects is that of the mode
    /// which the thread's code segment selects, and an application can select 32-bit mode.
    pub(super) fn enter_64_bit_mode(&self) -> Result<(), Errno> {
        self.poke(std::mem::offset_of!(user_regs_struct, cs), USER_CS)
    }

    /// Loads the general registers, leaving FS, GS and their bases as they are
    /// (`PTRACE_SETREGSET` takes a prefix of the set). The thread must be in 64-bit mode.
    pub(super) fn load(&self, registers: &user_regs_struct) -> Result<(), Errno> {
        let mut iov = libc::iovec {
            iov_base: ptr::from_ref(registers).cast_mut().cast::<c_void>(),
            iov_len: GENERAL_BYTES,
        };
        // SAFETY: `data` points to an iovec whose base is readable for `iov_len` bytes; the request only reads it.
        unsafe { ptrace(libc::PTRACE_SETREGSET, self.tid, NT_PRSTATUS, (&raw mut iov).addr())? };
        Ok(())
    }

    /// Sets one register by its offset in `user_regs_struct` (`PTRACE_POKEUSER`).
    pub(super) fn poke(&self, offset: usize, value: u64) -> Result<(), Errno> {
        // SAFETY: the request takes a plain value; the kernel validates offset and value.
        unsafe { ptrace(libc::PTRACE_POKEUSER, self.tid, offset, value as usize)? };
        Ok(())
    }

    /// The call that the thread is stopped at; `None` if this is no entry stop.
    pub(super) fn syscall(&self) -> Result<Option<SyscallInfo>, Errno> {
        let mut raw = RawSyscallInfo::default();
        let size = size_of::<RawSyscallInfo>();
        // SAFETY: the request writes at most `address` = `size` bytes to `data`, which points to that many.
        unsafe { ptrace(libc::PTRACE_GET_SYSCALL_INFO, self.tid, size, (&raw mut raw).addr())? };
        if raw.op != SYSCALL_INFO_ENTRY {
            return Ok(None);
        }
        // The kernel takes the number from `eax` only and hands it over sign-extended.
        let number = raw.number & u64::from(u32::MAX);
        Ok(Some(SyscallInfo {
            number,
            arguments: raw.arguments,
            ip: raw.ip,
            is_i386: raw.arch == AUDIT_ARCH_I386,
        }))
    }

    /// `siginfo` of the signal-delivery-stop (`PTRACE_GETSIGINFO`).
    pub(super) fn signal(&self) -> Result<SignalInfo, Errno> {
        // SAFETY: an all-zero `siginfo_t` is a valid value (integers and padding).
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the request writes one `siginfo_t` to `data`, which points to one.
        unsafe { ptrace(libc::PTRACE_GETSIGINFO, self.tid, 0, (&raw mut info).addr())? };
        // SAFETY: reading the address member of the union is reading initialised integers; it only
        // means something for faults, for which the caller asks.
        let address = unsafe { info.si_addr() }.addr() as u64;
        Ok(SignalInfo { code: info.si_code, address })
    }

    /// Reads the vector state into `buffer`; returns its size.
    pub(super) fn vector_state(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: `data` points to an iovec over `buffer`, which is writable for `iov_len` bytes; the
        // kernel sets `iov_len` to what it wrote.
        unsafe { ptrace(libc::PTRACE_GETREGSET, self.tid, NT_X86_XSTATE, (&raw mut iov).addr())? };
        Ok(iov.iov_len)
    }

    /// Replaces the vector state. `EINVAL` if the kernel does not accept it.
    pub(super) fn set_vector_state(&self, state: &[u8]) -> Result<(), Errno> {
        let mut iov = libc::iovec { iov_base: state.as_ptr().cast_mut().cast(), iov_len: state.len() };
        // SAFETY: `data` points to an iovec over `state`, which the request only reads.
        unsafe { ptrace(libc::PTRACE_SETREGSET, self.tid, NT_X86_XSTATE, (&raw mut iov).addr())? };
        Ok(())
    }

    /// The registered restartable sequence; all zero if there is none.
    pub(super) fn rseq(&self) -> Result<RseqConfiguration, Errno> {
        let mut configuration = RseqConfiguration::default();
        let size = size_of::<RseqConfiguration>();
        // SAFETY: the request writes at most `address` = `size` bytes to `data`, which points to that many.
        unsafe {
            ptrace(libc::PTRACE_GET_RSEQ_CONFIGURATION, self.tid, size, (&raw mut configuration).addr())?
        };
        Ok(configuration)
    }

    /// Lets the thread run. On an error it is dying.
    pub(super) fn resume(self, mode: Mode) -> Result<(), Errno> {
        let request = match mode {
            Mode::Emulated => libc::PTRACE_SYSEMU,
            Mode::Direct => libc::PTRACE_CONT,
        };
        // SAFETY: both requests take a signal number in `data`; 0 is none.
        unsafe { ptrace(request, self.tid, 0, 0)? };
        Ok(())
    }

    /// Stops tracing and lets the thread run.
    pub(super) fn detach(self) -> Result<(), Errno> {
        // SAFETY: the request takes a signal number in `data`; 0 is none.
        unsafe { ptrace(libc::PTRACE_DETACH, self.tid, 0, 0)? };
        Ok(())
    }
}

/// Attaches to `tid` without stopping it (`PTRACE_SEIZE`).
pub(super) fn seize(tid: i32) -> Result<(), Errno> {
    // SAFETY: the request takes the options as a plain value.
    unsafe { ptrace(libc::PTRACE_SEIZE, tid, 0, OPTIONS)? };
    Ok(())
}

/// Makes a seized thread stop (`PTRACE_INTERRUPT`).
pub(super) fn interrupt(tid: i32) -> Result<(), Errno> {
    // SAFETY: the request takes no data.
    unsafe { ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0)? };
    Ok(())
}

/// Sets the options of a tracee that attached itself with `PTRACE_TRACEME`.
pub(super) fn set_options(stopped: &Stopped) -> Result<(), Errno> {
    // SAFETY: the request takes the options as a plain value.
    unsafe { ptrace(libc::PTRACE_SETOPTIONS, stopped.tid, 0, OPTIONS)? };
    Ok(())
}

/// A decoded wait status (`man 2 wait`, `man 2 ptrace`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// The thread is gone and has been reaped.
    Gone,
    /// Stopped at the entry of a system call (`PTRACE_O_TRACESYSGOOD`).
    Syscall,
    /// Stopped before the delivery of this signal.
    Signal(c_int),
    /// Stopped for another reason: at birth, by `PTRACE_INTERRUPT`, by job control.
    Event,
}

impl Status {
    /// Decodes what `wait4` stored.
    pub(super) fn decode(status: c_int) -> Self {
        if !libc::WIFSTOPPED(status) {
            return Self::Gone;
        }
        match (status >> 16, libc::WSTOPSIG(status)) {
            (0, signal) if signal == libc::SIGTRAP | 0x80 => Self::Syscall,
            (0, signal) => Self::Signal(signal),
            _ => Self::Event,
        }
    }
}

/// `wait4(2)`: `tid` or, for -1, whatever the calling thread traces. `None`: nothing to report
/// (`WNOHANG`).
pub(super) fn wait(tid: i32, extra_options: c_int) -> Result<Option<(i32, Status)>, Errno> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a valid place for the result; no rusage is asked for.
        let got = unsafe { libc::wait4(tid, &raw mut status, WAIT_OPTIONS | extra_options, ptr::null_mut()) };
        match got {
            0 => return Ok(None),
            1.. => return Ok(Some((got, Status::decode(status)))),
            _ => match last_error() {
                errno::EINTR => {}
                error => return Err(error),
            },
        }
    }
}

/// `__WALL`: tracees have no exit signal. `__WNOTHREAD`: children of other threads of the sentry are
/// nothing to this one.
pub(super) const WAIT_OPTIONS: c_int = libc::__WALL | libc::__WNOTHREAD;

/// `tgkill(2)`; fails when the thread is gone.
pub(super) fn send_signal(tgid: i32, tid: i32, signal: c_int) -> Result<(), Errno> {
    // SAFETY: `tgkill` takes three integers.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, tgid, tid, signal) };
    if result < 0 { Err(last_error()) } else { Ok(()) }
}
