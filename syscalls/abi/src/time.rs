//! Time: structures, clocks, timers, and Linux's rules for what a valid time is.
//!
//! Conversions judge: a timeout may not be negative nor have a billion nanoseconds (`EINVAL`), and
//! one beyond 292 years means "for ever" (Linux's `KTIME_MAX`). Inside the kernel, durations are
//! nanoseconds; these structures exist at its edge only.

use crate::define::{constants, flags, plain};
use crate::errno::{EDOM, EINVAL, SysResult};
use crate::user::FromRegister;

/// Nanoseconds in a second.
pub const NSEC_PER_SEC: i64 = 1_000_000_000;
/// Nanoseconds in a microsecond.
pub const NSEC_PER_USEC: i64 = 1000;
/// Microseconds in a second.
pub const USEC_PER_SEC: i64 = 1_000_000;
/// Linux's `KTIME_MAX`: a timeout that never comes.
pub const FOREVER_NS: u64 = i64::MAX as u64;
/// Linux's `TIME_SETTOD_SEC_MAX`: later times cannot be set (30 years before the clock ends).
pub const SETTOD_SEC_MAX: i64 = i64::MAX / NSEC_PER_SEC - 30 * 365 * 24 * 3600;

plain! {
    /// `struct timespec`.
    Timespec {
        tv_sec: i64,
        tv_nsec: i64,
    }

    /// `struct timeval`.
    Timeval {
        tv_sec: i64,
        tv_usec: i64,
    }

    /// `struct itimerspec`.
    Itimerspec {
        it_interval: Timespec,
        it_value: Timespec,
    }

    /// `struct itimerval`.
    Itimerval {
        it_interval: Timeval,
        it_value: Timeval,
    }

    /// `struct timezone`.
    Timezone {
        tz_minuteswest: i32,
        tz_dsttime: i32,
    }

    /// How a timer or message queue notifies, `struct sigevent`.
    Sigevent {
        sigev_value: u64,
        sigev_signo: i32,
        sigev_notify: i32,
        sigev_notify_thread_id: i32,
        /// Padding.
        __pad0: [u32; 11],
    }

    /// `struct timex`, the argument of `adjtimex(2)`.
    Timex {
        modes: u32,
        /// Padding.
        __pad0: u32,
        offset: i64,
        freq: i64,
        maxerror: i64,
        esterror: i64,
        status: i32,
        /// Padding.
        __pad1: u32,
        constant: i64,
        precision: i64,
        tolerance: i64,
        time: Timeval,
        tick: i64,
        ppsfreq: i64,
        jitter: i64,
        shift: i32,
        /// Padding.
        __pad2: u32,
        stabil: i64,
        jitcnt: i64,
        calcnt: i64,
        errcnt: i64,
        stbcnt: i64,
        tai: i32,
        /// Padding.
        __pad3: [u32; 11],
    }
}

constants! {
    /// Clocks; negative ids name other processes' and descriptors' clocks, see [`ClockId`].
    CLOCK_NAMES: i32 {
        CLOCK_REALTIME = 0,
        CLOCK_MONOTONIC = 1,
        CLOCK_PROCESS_CPUTIME_ID = 2,
        CLOCK_THREAD_CPUTIME_ID = 3,
        CLOCK_MONOTONIC_RAW = 4,
        CLOCK_REALTIME_COARSE = 5,
        CLOCK_MONOTONIC_COARSE = 6,
        CLOCK_BOOTTIME = 7,
        CLOCK_REALTIME_ALARM = 8,
        CLOCK_BOOTTIME_ALARM = 9,
        CLOCK_TAI = 11,
    }

    /// Interval timers of `setitimer(2)`.
    ITIMER_NAMES: i32 { ITIMER_REAL = 0, ITIMER_VIRTUAL = 1, ITIMER_PROF = 2 }

    /// How a [`Sigevent`] notifies.
    SIGEV_NAMES: i32 { SIGEV_SIGNAL = 0, SIGEV_NONE = 1, SIGEV_THREAD = 2, SIGEV_THREAD_ID = 4 }

    /// What `adjtimex(2)` returns.
    TIME_STATE_NAMES: i32 { TIME_OK = 0, TIME_INS = 1, TIME_DEL = 2, TIME_OOP = 3, TIME_WAIT = 4, TIME_ERROR = 5 }
}

flags! {
    /// Flags of `clock_nanosleep(2)` and `timer_settime(2)`.
    TimerFlags: u32 { TIMER_ABSTIME = 1 }

    /// Flags of `timerfd_settime(2)`.
    TimerfdSetFlags: u32 { TFD_TIMER_ABSTIME = 1, TFD_TIMER_CANCEL_ON_SET = 2 }

    /// Flags of `timerfd_create(2)`.
    TimerfdFlags: u32 { TFD_CLOEXEC = 0o2000000, TFD_NONBLOCK = 0o4000 }
}

/// A clock argument, `clockid_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockId(pub i32);

/// What a negative [`ClockId`] means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DynamicClock {
    /// A CPU-time clock.
    Cpu {
        /// Process or thread id; 0 is the caller.
        pid: i32,
        /// Whether `pid` is one thread rather than a process.
        per_thread: bool,
        /// Which time: 0 `PROF` (user and system ticks), 1 `VIRT` (user ticks), 2 `SCHED` (exact).
        which: u8,
    },
    /// The clock of a descriptor.
    Descriptor(i32),
}

impl ClockId {
    /// What a negative id means (Linux's `CPUCLOCK_*` and `CLOCKFD`); `None` for static clocks and
    /// numbers that mean nothing.
    pub const fn dynamic(self) -> Option<DynamicClock> {
        if self.0 >= 0 {
            return None;
        }
        let pid = !(self.0 >> 3);
        match self.0 & 7 {
            3 => Some(DynamicClock::Descriptor(pid)),
            which @ (0..=2 | 4..=6) => {
                Some(DynamicClock::Cpu { pid, per_thread: which & 4 != 0, which: (which & 3) as u8 })
            }
            _ => None,
        }
    }
}

impl FromRegister for ClockId {
    fn from_register(register: u64) -> Self {
        Self(register as i32)
    }
}

impl Timespec {
    /// From nanoseconds since some origin, rounding the seconds down.
    pub const fn from_ns(ns: i64) -> Self {
        Self { tv_sec: ns.div_euclid(NSEC_PER_SEC), tv_nsec: ns.rem_euclid(NSEC_PER_SEC) }
    }

    /// From an unsigned count of nanoseconds.
    pub const fn from_duration_ns(ns: u64) -> Self {
        Self { tv_sec: (ns / NSEC_PER_SEC as u64) as i64, tv_nsec: (ns % NSEC_PER_SEC as u64) as i64 }
    }

    /// Whether this may be a timeout or an expiry (Linux's `timespec64_valid`).
    pub const fn is_valid(self) -> bool {
        self.tv_sec >= 0 && self.has_valid_ns()
    }

    /// Whether the nanoseconds are fewer than a second.
    pub const fn has_valid_ns(self) -> bool {
        self.tv_nsec >= 0 && self.tv_nsec < NSEC_PER_SEC
    }

    /// A timeout or absolute expiry in nanoseconds: `EINVAL` unless valid, [`FOREVER_NS`] if
    /// beyond the clock's range.
    pub fn timeout_ns(self) -> SysResult<u64> {
        if !self.is_valid() {
            return Err(EINVAL);
        }
        Ok(saturating_ns(self.tv_sec, self.tv_nsec))
    }

    /// A time to set the clock to (Linux's `timespec64_valid_settod`).
    pub fn settable_ns(self) -> SysResult<u64> {
        if self.tv_sec >= SETTOD_SEC_MAX { Err(EINVAL) } else { self.timeout_ns() }
    }

    /// Nanoseconds since the origin, saturating, for times already validated (file times may
    /// be before 1970).
    pub const fn saturating_ns(self) -> i64 {
        self.tv_sec.saturating_mul(NSEC_PER_SEC).saturating_add(self.tv_nsec)
    }
}

/// Valid seconds and nanoseconds as one number, at most [`FOREVER_NS`].
fn saturating_ns(seconds: i64, ns: i64) -> u64 {
    let sum = seconds.checked_mul(NSEC_PER_SEC).and_then(|product| product.checked_add(ns));
    sum.and_then(|sum| u64::try_from(sum).ok()).unwrap_or(FOREVER_NS)
}

impl Timeval {
    /// From nanoseconds since some origin, rounding down.
    pub const fn from_ns(ns: i64) -> Self {
        let spec = Timespec::from_ns(ns);
        Self { tv_sec: spec.tv_sec, tv_usec: spec.tv_nsec / NSEC_PER_USEC }
    }

    /// Whether the time may be set or waited for: not negative, less than a million microseconds.
    pub const fn is_valid(self) -> bool {
        self.tv_sec >= 0 && self.tv_usec >= 0 && self.tv_usec < USEC_PER_SEC
    }

    /// An interval of `setitimer(2)`, or a time of `settimeofday(2)`: `EINVAL` unless valid.
    pub fn interval_ns(self) -> SysResult<u64> {
        if !self.is_valid() {
            return Err(EINVAL);
        }
        Ok(saturating_ns(self.tv_sec, self.tv_usec * NSEC_PER_USEC))
    }

    /// A timeout of `select(2)`: microseconds beyond a million carry over, negative is `EINVAL`.
    pub fn select_timeout_ns(self) -> SysResult<u64> {
        let seconds = self.tv_sec.wrapping_add(self.tv_usec / USEC_PER_SEC);
        let spec = Timespec { tv_sec: seconds, tv_nsec: self.tv_usec % USEC_PER_SEC * NSEC_PER_USEC };
        spec.timeout_ns()
    }

    /// A timeout of `SO_RCVTIMEO` and `SO_SNDTIMEO`: `None` waits for ever, bad microseconds are
    /// `EDOM`, and negative seconds mean "do not wait" (Linux's `sock_set_timeout`).
    pub fn socket_timeout_ns(self) -> SysResult<Option<u64>> {
        if self.tv_usec < 0 || self.tv_usec >= USEC_PER_SEC {
            return Err(EDOM);
        }
        match (self.tv_sec, self.tv_usec) {
            (..0, _) => Ok(Some(0)),
            (0, 0) => Ok(None),
            (seconds, micros) => {
                let ns = saturating_ns(seconds, micros * NSEC_PER_USEC);
                Ok(if ns >= FOREVER_NS { None } else { Some(ns) })
            }
        }
    }

    /// A file time of `utimes(2)`: the seconds may be negative, the microseconds are judged.
    pub fn file_time(self) -> SysResult<Timespec> {
        if self.tv_usec < 0 || self.tv_usec >= USEC_PER_SEC {
            return Err(EINVAL);
        }
        Ok(Timespec { tv_sec: self.tv_sec, tv_nsec: self.tv_usec * NSEC_PER_USEC })
    }
}

/// A validated timer setting, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerSetting {
    /// Until the first expiry, or its absolute time; 0 disarms.
    pub value_ns: u64,
    /// Between expiries; 0 for one only.
    pub interval_ns: u64,
}

impl Itimerspec {
    /// Both times in nanoseconds, `EINVAL` unless both are valid.
    pub fn setting(self) -> SysResult<TimerSetting> {
        Ok(TimerSetting {
            value_ns: self.it_value.timeout_ns()?,
            interval_ns: self.it_interval.timeout_ns()?,
        })
    }

    /// The structure of a setting.
    pub const fn from_setting(setting: TimerSetting) -> Self {
        Self {
            it_interval: Timespec::from_duration_ns(setting.interval_ns),
            it_value: Timespec::from_duration_ns(setting.value_ns),
        }
    }
}

impl Itimerval {
    /// Both times in nanoseconds, `EINVAL` unless both are valid.
    pub fn setting(self) -> SysResult<TimerSetting> {
        Ok(TimerSetting {
            value_ns: self.it_value.interval_ns()?,
            interval_ns: self.it_interval.interval_ns()?,
        })
    }
}

/// The timeout of `poll(2)` and `epoll_wait(2)` in milliseconds: negative is "for ever".
pub fn poll_timeout_ns(milliseconds: i32) -> Option<u64> {
    u64::try_from(milliseconds).ok().map(|ms| ms * 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_judged_at_their_edges() {
        let ns = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec }.timeout_ns();
        assert_eq!(ns(0, 0), Ok(0));
        assert_eq!(ns(1, 999_999_999), Ok(1_999_999_999));
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, NSEC_PER_SEC), (i64::MIN, i64::MIN)] {
            assert_eq!(ns(seconds, nanos), Err(EINVAL), "{seconds} {nanos}");
        }
        assert_eq!(ns(i64::MAX, 999_999_999), Ok(FOREVER_NS));
        assert_eq!(ns(i64::MAX / NSEC_PER_SEC, 854_775_807), Ok(FOREVER_NS));
        assert_eq!(ns(i64::MAX / NSEC_PER_SEC, 854_775_806), Ok(FOREVER_NS - 1));
    }

    #[test]
    fn select_carries_microseconds_and_setitimer_does_not() {
        let time = Timeval { tv_sec: 1, tv_usec: 2_500_000 };
        assert_eq!(time.select_timeout_ns(), Ok(3_500_000_000));
        assert_eq!(time.interval_ns(), Err(EINVAL));
        assert_eq!(Timeval { tv_sec: 0, tv_usec: -1 }.select_timeout_ns(), Err(EINVAL));
        assert!(Timeval { tv_sec: i64::MAX, tv_usec: i64::MAX }.select_timeout_ns().is_err());
    }

    #[test]
    fn socket_timeouts_have_rules_of_their_own() {
        let timeout = |tv_sec, tv_usec| Timeval { tv_sec, tv_usec }.socket_timeout_ns();
        assert_eq!(timeout(0, 0), Ok(None));
        assert_eq!(timeout(-1, 0), Ok(Some(0)));
        assert_eq!(timeout(0, USEC_PER_SEC), Err(EDOM));
        assert_eq!(timeout(1, 5), Ok(Some(1_000_005_000)));
        assert_eq!(timeout(i64::MAX, 0), Ok(None));
    }

    #[test]
    fn times_before_the_origin_round_down() {
        assert_eq!(Timespec::from_ns(-1), Timespec { tv_sec: -1, tv_nsec: 999_999_999 });
        assert_eq!(Timeval::from_ns(-1), Timeval { tv_sec: -1, tv_usec: 999_999 });
        assert_eq!(Timespec::from_duration_ns(u64::MAX).tv_sec, 18_446_744_073);
    }

    #[test]
    fn negative_clock_ids_are_taken_apart() {
        // MAKE_THREAD_CPUCLOCK(7, CPUCLOCK_SCHED) and FD_TO_CLOCKID(7)
        let thread = ClockId(!7 << 3 | 4 | 2).dynamic();
        assert_eq!(thread, Some(DynamicClock::Cpu { pid: 7, per_thread: true, which: 2 }));
        assert_eq!(ClockId(!7 << 3 | 3).dynamic(), Some(DynamicClock::Descriptor(7)));
        assert_eq!(ClockId(CLOCK_TAI).dynamic(), None);
    }
}
