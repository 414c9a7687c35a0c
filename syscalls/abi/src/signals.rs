//! Signals: numbers, sets, dispositions and default actions (`man 7 signal`).
//!
//! Key types: [`Signal`], [`SigSet`], [`SigAction`]. Neighbours: `signal_info` (what a signal
//! carries), `signal_frame` (what delivery leaves on the user stack).
//! Invariant: a [`Signal`] is 1 to 64; there is no signal 0 (`kill`'s 0 is the absence of one).

use core::fmt;
use core::ops::{BitAnd, BitOr, BitOrAssign, Not};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::define::{constants, flags, plain};
use crate::user::{FromRegister, UserAddress};

/// A signal number, 1 to 64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signal(u8);

/// What a signal does when it is neither blocked, ignored nor handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// Ends the process.
    Terminate,
    /// Ends the process and dumps core where that is allowed.
    Core,
    /// Stops the process.
    Stop,
    /// Continues the process if it is stopped.
    Continue,
    /// Nothing.
    Ignore,
}

/// One more than the highest signal number, as in the kernel's `_NSIG + 1`.
pub const SIGNAL_LIMIT: usize = 65;

/// The size that `rt_sig*` calls require of a signal set, in bytes.
pub const SIGSET_SIZE: usize = 8;

macro_rules! signals {
    ($($name:ident = $number:literal, $action:ident;)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "`: default action ", stringify!($action))]
            pub const $name: Signal = Signal($number);
        )*

        /// The standard signals and their numbers.
        pub const SIGNAL_NAMES: crate::define::Names = &[$((stringify!($name), $number)),*];

        impl Signal {
            /// The standard name, `None` for real-time signals.
            pub const fn standard_name(self) -> Option<&'static str> {
                match self.0 { $($number => Some(stringify!($name)),)* _ => None }
            }

            /// What happens without a handler.
            pub const fn default_action(self) -> DefaultAction {
                match self.0 { $($number => DefaultAction::$action,)* _ => DefaultAction::Terminate }
            }
        }
    };
}

signals! {
    SIGHUP = 1, Terminate;
    SIGINT = 2, Terminate;
    SIGQUIT = 3, Core;
    SIGILL = 4, Core;
    SIGTRAP = 5, Core;
    SIGABRT = 6, Core;
    SIGBUS = 7, Core;
    SIGFPE = 8, Core;
    SIGKILL = 9, Terminate;
    SIGUSR1 = 10, Terminate;
    SIGSEGV = 11, Core;
    SIGUSR2 = 12, Terminate;
    SIGPIPE = 13, Terminate;
    SIGALRM = 14, Terminate;
    SIGTERM = 15, Terminate;
    SIGSTKFLT = 16, Terminate;
    SIGCHLD = 17, Ignore;
    SIGCONT = 18, Continue;
    SIGSTOP = 19, Stop;
    SIGTSTP = 20, Stop;
    SIGTTIN = 21, Stop;
    SIGTTOU = 22, Stop;
    SIGURG = 23, Ignore;
    SIGXCPU = 24, Core;
    SIGXFSZ = 25, Core;
    SIGVTALRM = 26, Terminate;
    SIGPROF = 27, Terminate;
    SIGWINCH = 28, Ignore;
    SIGIO = 29, Terminate;
    SIGPWR = 30, Terminate;
    SIGSYS = 31, Core;
}

/// The first real-time signal as the kernel counts (the C library keeps two for itself).
pub const SIGRTMIN: Signal = Signal(32);
/// The last real-time signal.
pub const SIGRTMAX: Signal = Signal(64);
/// Another name of [`SIGIO`].
pub const SIGPOLL: Signal = SIGIO;

impl Signal {
    /// The signal with this number, `None` outside 1 to 64.
    pub const fn new(number: i32) -> Option<Self> {
        if number >= 1 && number <= 64 { Some(Self(number as u8)) } else { None }
    }

    /// The number, 1 to 64.
    pub const fn number(self) -> i32 {
        self.0 as i32
    }

    /// The number as an index into a table of [`SIGNAL_LIMIT`] rows.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Whether several of this signal queue up rather than merge.
    pub const fn is_realtime(self) -> bool {
        self.0 >= SIGRTMIN.0
    }

    /// Whether it is `SIGKILL` or `SIGSTOP`, which cannot be blocked, ignored or handled.
    pub const fn is_unblockable(self) -> bool {
        SigSet::KILL_STOP.contains(self)
    }

    /// The name as strace prints it: `SIGHUP`, `SIGRT_3`.
    pub fn name(self) -> std::borrow::Cow<'static, str> {
        match self.standard_name() {
            Some(name) => name.into(),
            None if self == SIGRTMIN => "SIGRTMIN".into(),
            None => format!("SIGRT_{}", self.0 - SIGRTMIN.0).into(),
        }
    }

    /// The signal of a name such as `SIGTERM`, `TERM`, `RTMIN+2` or `15`, as `kill(1)` takes them.
    pub fn from_name(text: &str) -> Option<Self> {
        if let Ok(number) = text.parse() {
            return Self::new(number);
        }
        let upper = text.to_ascii_uppercase();
        let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
        let (base, offset) = match bare.split_once(['+', '-']) {
            Some(("RTMIN", offset)) => (SIGRTMIN, offset.parse::<u8>().ok()?),
            Some(("RTMAX", offset)) => (SIGRTMAX, offset.parse::<u8>().ok()?),
            Some(_) => return None,
            None => match bare {
                "RTMIN" => (SIGRTMIN, 0),
                "RTMAX" => (SIGRTMAX, 0),
                "POLL" => (SIGPOLL, 0),
                "IOT" => (SIGABRT, 0),
                "CLD" => (SIGCHLD, 0),
                _ => {
                    return Self::all().find(|signal| {
                        signal.standard_name().and_then(|name| name.strip_prefix("SIG")) == Some(bare)
                    });
                }
            },
        };
        let number =
            if base == SIGRTMIN { base.0.checked_add(offset)? } else { base.0.checked_sub(offset)? };
        Self::new(i32::from(number)).filter(|signal| signal.is_realtime())
    }

    /// All signals, ascending.
    pub fn all() -> impl Iterator<Item = Self> {
        (1..=64).map(Self)
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// A set of signals in the kernel's encoding: bit `n - 1` is signal `n`.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SigSet(pub u64);

impl SigSet {
    /// No signal.
    pub const EMPTY: Self = Self(0);
    /// All 64 signals.
    pub const FULL: Self = Self(u64::MAX);
    /// The two signals that cannot be blocked, ignored or handled.
    pub const KILL_STOP: Self = Self::of(&[SIGKILL, SIGSTOP]);
    /// The signals that stop a process by default.
    pub const STOPPING: Self = Self::of(&[SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU]);
    /// The signals a faulting instruction raises, delivered before any other.
    pub const SYNCHRONOUS: Self = Self::of(&[SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGSYS]);

    /// The set of these signals.
    pub const fn of(signals: &[Signal]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < signals.len() {
            bits |= 1 << (signals[index].0 - 1);
            index += 1;
        }
        Self(bits)
    }

    /// Whether the set holds the signal.
    pub const fn contains(self, signal: Signal) -> bool {
        self.0 & (1 << (signal.0 - 1)) != 0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many signals the set holds.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Adds a signal.
    pub const fn insert(&mut self, signal: Signal) {
        self.0 |= 1 << (signal.0 - 1);
    }

    /// Takes a signal out.
    pub const fn remove(&mut self, signal: Signal) {
        self.0 &= !(1 << (signal.0 - 1));
    }

    /// The signals in either.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The signals in both.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The signals in this set but not in the other.
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The set as a mask may be: without [`Self::KILL_STOP`].
    pub const fn blockable(self) -> Self {
        self.difference(Self::KILL_STOP)
    }

    /// The lowest signal in the set, which is the next to deliver among equals.
    pub const fn lowest(self) -> Option<Signal> {
        if self.0 == 0 { None } else { Some(Signal(self.0.trailing_zeros() as u8 + 1)) }
    }

    /// The signals in the set, ascending.
    pub fn iter(self) -> impl Iterator<Item = Signal> {
        Signal::all().filter(move |signal| self.contains(*signal))
    }
}

impl BitOr for SigSet {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl BitOrAssign for SigSet {
    fn bitor_assign(&mut self, other: Self) {
        *self = self.union(other);
    }
}

impl BitAnd for SigSet {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        self.intersection(other)
    }
}

impl Not for SigSet {
    type Output = Self;
    fn not(self) -> Self {
        Self(!self.0)
    }
}

impl FromIterator<Signal> for SigSet {
    fn from_iter<I: IntoIterator<Item = Signal>>(signals: I) -> Self {
        let mut set = Self::EMPTY;
        signals.into_iter().for_each(|signal| set.insert(signal));
        set
    }
}

impl fmt::Debug for SigSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

constants! {
    /// What `rt_sigprocmask(2)` does with its set.
    SIG_HOW_NAMES: i32 { SIG_BLOCK = 0, SIG_UNBLOCK = 1, SIG_SETMASK = 2 }

    /// Handlers that are no addresses.
    SIG_HANDLER_NAMES: i64 { SIG_DFL = 0, SIG_IGN = 1 }
}

flags! {
    /// How a handler is called (`man 2 sigaction`).
    SaFlags: u64 {
        SA_RESTORER = 0x0400_0000,
        SA_ONSTACK = 0x0800_0000,
        SA_RESTART = 0x1000_0000,
        SA_NODEFER = 0x4000_0000,
        SA_RESETHAND = 0x8000_0000,
        SA_SIGINFO = 0x4,
        SA_NOCLDSTOP = 0x1,
        SA_NOCLDWAIT = 0x2,
        SA_UNSUPPORTED = 0x400,
        SA_EXPOSE_TAGBITS = 0x800,
    }

    /// State of an alternate signal stack (`man 2 sigaltstack`).
    StackFlags: u32 {
        SS_ONSTACK = 1,
        SS_DISABLE = 2,
        SS_AUTODISARM = 1 << 31,
    }

    /// Flags of `signalfd4(2)`.
    SignalfdFlags: u32 { SFD_CLOEXEC = 0o2000000, SFD_NONBLOCK = 0o4000 }
}

impl SaFlags {
    /// The flags the kernel keeps; `sigaction` clears others so that programs can probe.
    pub const KNOWN: Self = Self::all().difference(Self::SA_UNSUPPORTED);
}

plain! {
    /// The kernel's `struct sigaction` (not the C library's).
    SigAction {
        sa_handler: UserAddress,
        sa_flags: u64,
        sa_restorer: UserAddress,
        sa_mask: SigSet,
    }

    /// An alternate signal stack, `stack_t`.
    StackT {
        ss_sp: UserAddress,
        ss_flags: u32,
        /// Padding.
        __pad0: u32,
        ss_size: u64,
    }

    /// The sixth argument of `pselect6(2)`.
    SigSetArgument {
        ss: UserAddress,
        ss_len: u64,
    }
}

/// The smallest alternate stack the kernel accepts.
pub const MINSIGSTKSZ: u64 = 2048;

impl SigAction {
    /// The flags, typed.
    pub const fn flags(&self) -> SaFlags {
        SaFlags::from_bits_retain(self.sa_flags)
    }

    /// Whether the disposition is the default one.
    pub const fn is_default(&self) -> bool {
        self.sa_handler.0 == SIG_DFL as u64
    }

    /// Whether the signal is ignored explicitly.
    pub const fn is_ignore(&self) -> bool {
        self.sa_handler.0 == SIG_IGN as u64
    }
}

impl StackT {
    /// A disabled stack, as new processes have it.
    pub const DISABLED: Self =
        Self { ss_sp: UserAddress::NULL, ss_flags: StackFlags::SS_DISABLE.bits(), __pad0: 0, ss_size: 0 };

    /// Whether an address lies on the stack (Linux's `on_sig_stack`: above the base, up to the top).
    pub const fn contains(&self, address: UserAddress) -> bool {
        address.0 > self.ss_sp.0 && address.0 - self.ss_sp.0 <= self.ss_size
    }
}

/// A signal argument as the register holds it: `kill` and friends accept 0, and judge the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalNumber(pub i32);

impl SignalNumber {
    /// The signal, `None` for 0 and for numbers that are no signal.
    pub const fn signal(self) -> Option<Signal> {
        Signal::new(self.0)
    }

    /// Whether this is `kill`'s "only check whether I may".
    pub const fn is_probe(self) -> bool {
        self.0 == 0
    }
}

impl FromRegister for SignalNumber {
    fn from_register(register: u64) -> Self {
        Self(register as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outside_1_to_64_are_no_signals() {
        for number in [i32::MIN, -1, 0, 65, i32::MAX] {
            assert_eq!(Signal::new(number), None);
        }
        assert_eq!(Signal::new(64), Some(SIGRTMAX));
    }

    #[test]
    fn sets_use_the_kernels_bits() {
        let set: SigSet = [SIGHUP, SIGRTMAX].into_iter().collect();
        assert_eq!(set.0, 1 | 1 << 63);
        assert_eq!(set.lowest(), Some(SIGHUP));
        assert_eq!(set.iter().collect::<Vec<_>>(), [SIGHUP, SIGRTMAX]);
        assert_eq!(SigSet::KILL_STOP.0, 0x40100);
        assert_eq!(SigSet::FULL.blockable().len(), 62);
    }

    #[test]
    fn names_are_read_as_kill_reads_them() {
        for text in ["SIGTERM", "TERM", "term", "15"] {
            assert_eq!(Signal::from_name(text), Some(SIGTERM), "{text}");
        }
        assert_eq!(Signal::from_name("SIGRTMIN+2"), Signal::new(34));
        assert_eq!(Signal::from_name("RTMAX-1"), Signal::new(63));
        for text in ["", "0", "65", "RTMIN+33", "RTMAX+1000", "RTMAX-63", "SIGFOO"] {
            assert_eq!(Signal::from_name(text), None, "{text}");
        }
    }

    #[test]
    fn realtime_signals_terminate_and_chld_is_ignored() {
        assert_eq!(SIGRTMAX.default_action(), DefaultAction::Terminate);
        assert_eq!(SIGCHLD.default_action(), DefaultAction::Ignore);
        assert_eq!(SIGRTMAX.name(), "SIGRT_32");
    }

    #[test]
    fn the_stack_holds_its_top_but_not_its_base() {
        let stack = StackT { ss_sp: UserAddress(0x1000), ss_size: 0x1000, ..StackT::default() };
        assert!(!stack.contains(UserAddress(0x1000)));
        assert!(stack.contains(UserAddress(0x2000)));
        assert!(!stack.contains(UserAddress(0x2001)));
    }
}
