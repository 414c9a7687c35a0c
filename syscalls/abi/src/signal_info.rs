//! What a signal carries: `siginfo_t`, with a constructor for every origin Linux knows.
//!
//! The C structure is a union chosen by signal and code; here its words are kept as they lie in
//! memory and read through accessors, so that a frame can be written and read back byte for byte.
//! Neighbours: `signals`, `signal_frame`.

use crate::define::{constants, plain};
use crate::signals::{SIGCHLD, SIGIO, SIGSYS, Signal};
use crate::user::UserAddress;

constants! {
    /// `si_code` values that do not depend on the signal.
    SI_CODE_NAMES: i32 {
        SI_USER = 0,
        SI_KERNEL = 0x80,
        SI_QUEUE = -1,
        SI_TIMER = -2,
        SI_MESGQ = -3,
        SI_ASYNCIO = -4,
        SI_SIGIO = -5,
        SI_TKILL = -6,
        SI_DETHREAD = -7,
        SI_ASYNCNL = -60,
    }

    /// `si_code` of `SIGILL`.
    ILL_CODE_NAMES: i32 {
        ILL_ILLOPC = 1, ILL_ILLOPN = 2, ILL_ILLADR = 3, ILL_ILLTRP = 4,
        ILL_PRVOPC = 5, ILL_PRVREG = 6, ILL_COPROC = 7, ILL_BADSTK = 8,
    }

    /// `si_code` of `SIGFPE`.
    FPE_CODE_NAMES: i32 {
        FPE_INTDIV = 1, FPE_INTOVF = 2, FPE_FLTDIV = 3, FPE_FLTOVF = 4,
        FPE_FLTUND = 5, FPE_FLTRES = 6, FPE_FLTINV = 7, FPE_FLTSUB = 8,
    }

    /// `si_code` of `SIGSEGV`.
    SEGV_CODE_NAMES: i32 { SEGV_MAPERR = 1, SEGV_ACCERR = 2, SEGV_BNDERR = 3, SEGV_PKUERR = 4 }

    /// `si_code` of `SIGBUS`.
    BUS_CODE_NAMES: i32 { BUS_ADRALN = 1, BUS_ADRERR = 2, BUS_OBJERR = 3, BUS_MCEERR_AR = 4, BUS_MCEERR_AO = 5 }

    /// `si_code` of `SIGTRAP`.
    TRAP_CODE_NAMES: i32 { TRAP_BRKPT = 1, TRAP_TRACE = 2, TRAP_BRANCH = 3, TRAP_HWBKPT = 4 }

    /// `si_code` of `SIGCHLD`.
    CLD_CODE_NAMES: i32 {
        CLD_EXITED = 1, CLD_KILLED = 2, CLD_DUMPED = 3, CLD_TRAPPED = 4, CLD_STOPPED = 5, CLD_CONTINUED = 6,
    }

    /// `si_code` of `SIGIO` and other signals chosen with `F_SETSIG`.
    POLL_CODE_NAMES: i32 { POLL_IN = 1, POLL_OUT = 2, POLL_MSG = 3, POLL_ERR = 4, POLL_PRI = 5, POLL_HUP = 6 }

    /// `si_code` of `SIGSYS`.
    SYS_CODE_NAMES: i32 { SYS_SECCOMP = 1 }
}

/// `AUDIT_ARCH_X86_64`, the architecture `SIGSYS` and seccomp filters name.
pub const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

plain! {
    /// `siginfo_t`: 128 bytes, the last 112 of which mean what the code says.
    SigInfo {
        si_signo: i32,
        si_errno: i32,
        si_code: i32,
        /// Padding.
        __pad0: i32,
        /// The union, in words.
        fields: [u64; 14],
    }
}

/// Two 32-bit fields as they share a word.
const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

impl SigInfo {
    fn new(signal: Signal, code: i32) -> Self {
        Self { si_signo: signal.number(), si_code: code, ..Self::default() }
    }

    fn with(mut self, fields: [u64; 4]) -> Self {
        self.fields[..4].copy_from_slice(&fields);
        self
    }

    fn from_sender(signal: Signal, code: i32, pid: i32, uid: u32, value: u64) -> Self {
        Self::new(signal, code).with([pair(pid as u32, uid), value, 0, 0])
    }

    /// Sent with `kill(2)`.
    pub fn user(signal: Signal, pid: i32, uid: u32) -> Self {
        Self::from_sender(signal, SI_USER, pid, uid, 0)
    }

    /// Sent with `tkill(2)` or `tgkill(2)`.
    pub fn tkill(signal: Signal, pid: i32, uid: u32) -> Self {
        Self::from_sender(signal, SI_TKILL, pid, uid, 0)
    }

    /// Sent with `sigqueue(3)`; `value` is the `union sigval`.
    pub fn sigqueue(signal: Signal, pid: i32, uid: u32, value: u64) -> Self {
        Self::from_sender(signal, SI_QUEUE, pid, uid, value)
    }

    /// A message queue became non-empty (`man 3 mq_notify`).
    pub fn message_queue(signal: Signal, pid: i32, uid: u32, value: u64) -> Self {
        Self::from_sender(signal, SI_MESGQ, pid, uid, value)
    }

    /// Raised by the kernel for no one in particular.
    pub fn kernel(signal: Signal) -> Self {
        Self::new(signal, SI_KERNEL)
    }

    /// A POSIX timer expired `overrun` times more than it is told.
    pub fn timer(signal: Signal, timer_id: i32, overrun: i32, value: u64) -> Self {
        Self::new(signal, SI_TIMER).with([pair(timer_id as u32, overrun as u32), value, 0, 0])
    }

    /// A child changed state: `status` is its exit code or signal, times are in clock ticks.
    pub fn chld(code: i32, pid: i32, uid: u32, status: i32, user_ticks: i64, system_ticks: i64) -> Self {
        Self::new(SIGCHLD, code).with([
            pair(pid as u32, uid),
            pair(status as u32, 0),
            user_ticks as u64,
            system_ticks as u64,
        ])
    }

    /// An instruction faulted at or on `address`.
    pub fn fault(signal: Signal, code: i32, address: UserAddress) -> Self {
        Self::new(signal, code).with([address.0, 0, 0, 0])
    }

    /// A descriptor became ready: `band` holds the poll events.
    pub fn poll(signal: Signal, code: i32, band: i64, fd: i32) -> Self {
        Self::new(signal, code).with([band as u64, pair(fd as u32, 0), 0, 0])
    }

    /// `SIGIO` without a queue entry of its own.
    pub fn sigio(band: i64, fd: i32) -> Self {
        Self::poll(SIGIO, SI_SIGIO, band, fd)
    }

    /// A seccomp filter returned `SECCOMP_RET_TRAP` with `data`.
    pub fn seccomp(address: UserAddress, number: i32, data: i32) -> Self {
        let info =
            Self::new(SIGSYS, SYS_SECCOMP).with([address.0, pair(number as u32, AUDIT_ARCH_X86_64), 0, 0]);
        Self { si_errno: data, ..info }
    }

    /// The signal, unless the number is none.
    pub const fn signal(&self) -> Option<Signal> {
        Signal::new(self.si_signo)
    }

    /// `si_pid`: the sender or child; `si_tid` of timers.
    pub const fn pid(&self) -> i32 {
        self.fields[0] as i32
    }

    /// `si_uid`: the sender's or child's user; `si_overrun` of timers.
    pub const fn uid(&self) -> u32 {
        (self.fields[0] >> 32) as u32
    }

    /// `si_value` of queued signals, timers and message queues.
    pub const fn value(&self) -> u64 {
        self.fields[1]
    }

    /// `si_overrun` of timers.
    pub const fn overrun(&self) -> i32 {
        (self.fields[0] >> 32) as i32
    }

    /// Replaces `si_overrun`, which is known only at delivery.
    pub const fn set_overrun(&mut self, overrun: i32) {
        self.fields[0] = pair(self.fields[0] as u32, overrun as u32);
    }

    /// Replaces `si_pid` and `si_uid`, as when a signal crosses into another namespace.
    pub const fn set_sender(&mut self, pid: i32, uid: u32) {
        self.fields[0] = pair(pid as u32, uid);
    }

    /// `si_status` of `SIGCHLD`.
    pub const fn status(&self) -> i32 {
        self.fields[1] as i32
    }

    /// `si_addr` of faults, `si_call_addr` of `SIGSYS`.
    pub const fn address(&self) -> UserAddress {
        UserAddress(self.fields[0])
    }

    /// `si_band` of `SIGIO`.
    pub const fn band(&self) -> i64 {
        self.fields[0] as i64
    }

    /// `si_fd` of `SIGIO`, `si_syscall` of `SIGSYS`.
    pub const fn fd(&self) -> i32 {
        self.fields[1] as i32
    }

    /// Whether a process sent it (Linux's `SI_FROMUSER`), which permits less to its receiver.
    pub const fn is_from_user(&self) -> bool {
        self.si_code <= 0
    }
}

plain! {
    /// What a `signalfd` yields for each signal, 128 bytes.
    SignalfdSiginfo {
        ssi_signo: u32,
        ssi_errno: i32,
        ssi_code: i32,
        ssi_pid: u32,
        ssi_uid: u32,
        ssi_fd: i32,
        ssi_tid: u32,
        ssi_band: u32,
        ssi_overrun: u32,
        ssi_trapno: u32,
        ssi_status: i32,
        ssi_int: i32,
        ssi_ptr: u64,
        ssi_utime: u64,
        ssi_stime: u64,
        ssi_addr: u64,
        ssi_addr_lsb: u16,
        __pad2: u16,
        ssi_syscall: i32,
        ssi_call_addr: u64,
        ssi_arch: u32,
        __pad: [u8; 28],
    }
}

impl From<&SigInfo> for SignalfdSiginfo {
    /// Linux's `signalfd_copyinfo`: which fields are filled depends on signal and code.
    fn from(info: &SigInfo) -> Self {
        let base = Self {
            ssi_signo: info.si_signo as u32,
            ssi_errno: info.si_errno,
            ssi_code: info.si_code,
            ..Self::default()
        };
        let sender = Self { ssi_pid: info.pid() as u32, ssi_uid: info.uid(), ..base };
        let with_value = |out: Self| Self { ssi_ptr: info.value(), ssi_int: info.value() as i32, ..out };
        match layout_of(info) {
            FieldLayout::Kill => sender,
            FieldLayout::Queue => with_value(sender),
            FieldLayout::Timer => {
                with_value(Self { ssi_tid: info.pid() as u32, ssi_overrun: info.overrun() as u32, ..base })
            }
            FieldLayout::Child => Self {
                ssi_status: info.status(),
                ssi_utime: info.fields[2],
                ssi_stime: info.fields[3],
                ..sender
            },
            FieldLayout::Poll => Self { ssi_band: info.band() as u32, ssi_fd: info.fd(), ..base },
            FieldLayout::Fault => Self { ssi_addr: info.address().0, ..base },
            FieldLayout::Sys => Self {
                ssi_call_addr: info.address().0,
                ssi_syscall: info.fd(),
                ssi_arch: (info.fields[1] >> 32) as u32,
                ..base
            },
        }
    }
}

/// Which member of the union is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldLayout {
    /// Sender's pid and uid.
    Kill,
    /// A timer's id, overrun and value.
    Timer,
    /// A poll event.
    Poll,
    /// A faulting address.
    Fault,
    /// A child's change of state.
    Child,
    /// Sender and value.
    Queue,
    /// A filtered system call.
    Sys,
}

/// Which member of the union a signal's code selects (Linux's `siginfo_layout`).
pub fn layout_of(info: &SigInfo) -> FieldLayout {
    let code = info.si_code;
    if code > SI_USER && code < SI_KERNEL {
        let (limit, layout) = match info.si_signo {
            4 => (11, FieldLayout::Fault),  // SIGILL
            8 => (15, FieldLayout::Fault),  // SIGFPE
            11 => (10, FieldLayout::Fault), // SIGSEGV
            7 => (5, FieldLayout::Fault),   // SIGBUS
            5 => (6, FieldLayout::Fault),   // SIGTRAP
            17 => (6, FieldLayout::Child),  // SIGCHLD
            29 => (6, FieldLayout::Poll),   // SIGIO
            31 => (2, FieldLayout::Sys),    // SIGSYS
            _ => (0, FieldLayout::Kill),
        };
        if code <= limit {
            return layout;
        }
        return if code <= POLL_HUP { FieldLayout::Poll } else { FieldLayout::Kill };
    }
    match code {
        SI_TIMER => FieldLayout::Timer,
        SI_SIGIO => FieldLayout::Poll,
        ..0 => FieldLayout::Queue,
        _ => FieldLayout::Kill,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::{SIGRTMIN, SIGSEGV, SIGUSR1};

    #[test]
    fn fields_come_back_as_they_went_in() {
        let info = SigInfo::sigqueue(SIGUSR1, -1, 1000, u64::MAX);
        assert_eq!((info.pid(), info.uid(), info.value()), (-1, 1000, u64::MAX));
        assert!(info.is_from_user());
        let mut timer = SigInfo::timer(SIGRTMIN, 3, 0, 9);
        timer.set_overrun(7);
        assert_eq!((timer.pid(), timer.overrun(), timer.value()), (3, 7, 9));
        let child = SigInfo::chld(CLD_EXITED, 5, 0, 255, 1, 2);
        assert_eq!((child.pid(), child.status(), child.fields[3]), (5, 255, 2));
        assert!(!child.is_from_user());
    }

    #[test]
    fn signalfd_reports_the_fields_of_the_origin_only() {
        let child = SignalfdSiginfo::from(&SigInfo::chld(CLD_KILLED, 5, 6, 9, 1, 2));
        assert_eq!((child.ssi_pid, child.ssi_uid, child.ssi_status, child.ssi_ptr), (5, 6, 9, 0));
        let fault = SignalfdSiginfo::from(&SigInfo::fault(SIGSEGV, SEGV_MAPERR, UserAddress(0x10)));
        assert_eq!((fault.ssi_addr, fault.ssi_pid), (0x10, 0));
        let queued = SignalfdSiginfo::from(&SigInfo::sigqueue(SIGUSR1, 1, 2, 0x1_0000_0003));
        assert_eq!((queued.ssi_int, queued.ssi_ptr), (3, 0x1_0000_0003));
    }
}
