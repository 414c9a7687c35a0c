//! Clocks as the sentry reads them, and timers that fire on the reactor.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use parking_lot::Mutex;

use crate::task::{CpuTimes, Task, ThreadGroup};
/// The host's clocks.
pub use nix::time::ClockId as HostClock;

/// Nanoseconds per second.
pub const SECOND_NS: u64 = 1_000_000_000;

/// A point in time on `CLOCK_MONOTONIC`, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub u64);

impl Instant {
    /// Now.
    pub fn now() -> Self {
        Self(clock_ns(nix::time::ClockId::CLOCK_MONOTONIC))
    }

    /// Later by so many nanoseconds, saturating.
    #[must_use]
    pub const fn after_ns(self, nanoseconds: u64) -> Self {
        Self(self.0.saturating_add(nanoseconds))
    }

    /// Nanoseconds until this instant; 0 if it has passed.
    pub fn remaining_ns(self) -> u64 {
        self.0.saturating_sub(Self::now().0)
    }
}

/// Wall-clock time in nanoseconds since the epoch.
pub fn realtime_ns() -> u64 {
    clock_ns(nix::time::ClockId::CLOCK_REALTIME)
}

/// Wall-clock time as of the last tick of the host, which takes a fifth of the time to read: what Linux stamps files
/// with (`ktime_get_coarse_real_ts64`).
pub fn coarse_realtime_ns() -> u64 {
    clock_ns(nix::time::ClockId::CLOCK_REALTIME_COARSE)
}

/// Time since the host's start, suspension included, in nanoseconds.
pub fn boottime_ns() -> u64 {
    clock_ns(nix::time::ClockId::CLOCK_BOOTTIME)
}

/// The host's time on one of its clocks, in nanoseconds.
pub fn clock_ns(clock: nix::time::ClockId) -> u64 {
    nix::time::clock_gettime(clock).map_or(0, |time| {
        u64::try_from(time.tv_sec()).unwrap_or(0) * SECOND_NS + u64::try_from(time.tv_nsec()).unwrap_or(0)
    })
}

/// What a timer does when it expires. Called on the reactor, without locks held; must not wait.
pub trait TimerTarget: Send + Sync {
    /// The deadline has passed.
    fn expired(&self);
}

struct WakeTarget(Waker);

impl TimerTarget for WakeTarget {
    fn expired(&self) {
        self.0.wake_by_ref();
    }
}

/// All armed timers of the kernel. One host timer carries the earliest of them.
pub struct Timers {
    armed: Mutex<BTreeMap<(Instant, u64), Arc<dyn TimerTarget>>>,
    next: AtomicU64,
    host: TimerFd,
}

impl Timers {
    /// An empty set.
    ///
    /// # Errors
    /// The host has no timer to give.
    pub fn new() -> nix::Result<Arc<Self>> {
        let host =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        Ok(Arc::new(Self { armed: Mutex::default(), next: AtomicU64::new(0), host }))
    }

    /// Arms a timer. It is disarmed when the returned value is dropped.
    pub fn start(self: &Arc<Self>, deadline: Instant, target: Arc<dyn TimerTarget>) -> Timer {
        let key = (deadline, self.next.fetch_add(1, Ordering::Relaxed));
        let mut armed = self.armed.lock();
        armed.insert(key, target);
        if armed.first_key_value().is_some_and(|(first, _)| *first == key) {
            self.set_host(deadline);
        }
        Timer { timers: Arc::downgrade(self), key }
    }

    /// Arms a timer that wakes a future.
    pub fn wake_at(self: &Arc<Self>, deadline: Instant, waker: &Waker) -> Timer {
        self.start(deadline, Arc::new(WakeTarget(waker.clone())))
    }

    /// Runs what has expired and sets the host timer for the next. Called by the reactor.
    pub fn run_expired(&self) {
        let _ = self.host.wait();
        loop {
            let now = Instant::now();
            let target = {
                let mut armed = self.armed.lock();
                match armed.first_entry() {
                    Some(entry) if entry.key().0 <= now => entry.remove(),
                    Some(entry) => {
                        let deadline = entry.key().0;
                        self.set_host(deadline);
                        return;
                    }
                    None => return,
                }
            };
            target.expired();
        }
    }

    /// The host descriptor that becomes readable at the earliest deadline.
    pub fn host(&self) -> &TimerFd {
        &self.host
    }

    fn set_host(&self, deadline: Instant) {
        // An all-zero time would disarm the timer.
        let at = deadline.0.max(1);
        let time = TimeSpec::new(
            i64::try_from(at / SECOND_NS).unwrap_or(i64::MAX),
            i64::try_from(at % SECOND_NS).unwrap_or(0),
        );
        if let Err(errno) = self.host.set(Expiration::OneShot(time), TimerSetTimeFlags::TFD_TIMER_ABSTIME) {
            tracing::error!(%errno, "cannot arm the host timer");
        }
    }
}

/// An armed timer; dropping it disarms it.
pub struct Timer {
    timers: Weak<Timers>,
    key: (Instant, u64),
}

impl Drop for Timer {
    fn drop(&mut self) {
        let removed = self.timers.upgrade().and_then(|timers| timers.armed.lock().remove(&self.key));
        drop(removed);
    }
}

/// Which part of processor time a clock counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuPart {
    /// In the application and in the kernel.
    All,
    /// In the application only.
    User,
}

impl CpuPart {
    const fn of(self, times: CpuTimes) -> u64 {
        match self {
            Self::All => times.user_ns.saturating_add(times.system_ns),
            Self::User => times.user_ns,
        }
    }
}

/// A clock that applications read, sleep on and set timers by (`man 2 clock_gettime`).
#[derive(Clone)]
pub enum Clock {
    /// One of the host's.
    Host(nix::time::ClockId),
    /// Processor time of a process.
    Process(Weak<ThreadGroup>, CpuPart),
    /// Processor time of a thread.
    Thread(Weak<Task>, CpuPart),
}

/// Shortest time between two looks at a CPU clock; as on Linux, timers by such clocks are as exact as a tick.
const LOOK_MIN_NS: u64 = 4_000_000;
/// Longest time between two looks at a CPU clock that stands still.
const LOOK_IDLE_MAX_NS: u64 = 128_000_000;
/// What a look costs for each thread at most; bounds the share of a processor that looking takes.
const LOOK_PER_THREAD_NS: u64 = 50_000;

impl Clock {
    /// What the clock shows, in nanoseconds. 0 for the processor time of what is gone.
    pub fn now_ns(&self) -> u64 {
        match self {
            Self::Host(clock) => clock_ns(*clock),
            Self::Process(group, part) => group.upgrade().map_or(0, |group| part.of(group.cpu_times())),
            Self::Thread(task, part) => task.upgrade().map_or(0, |task| part.of(task.cpu_times())),
        }
    }

    /// The step in which it advances, in nanoseconds.
    pub fn resolution_ns(&self) -> u64 {
        use nix::time::ClockId as Host;
        match self {
            Self::Host(clock)
                if [Host::CLOCK_REALTIME_COARSE, Host::CLOCK_MONOTONIC_COARSE].contains(clock) =>
            {
                LOOK_MIN_NS
            }
            _ => 1,
        }
    }

    /// Whether it counts processor time.
    pub const fn is_cpu_time(&self) -> bool {
        !matches!(self, Self::Host(_))
    }

    /// Whether what it counts is gone.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Host(_) => false,
            Self::Process(group, _) => group.upgrade().is_none_or(|group| group.is_exiting()),
            Self::Thread(task, _) => {
                task.upgrade().is_none_or(|task| task.state() == crate::task::TaskState::Zombie)
            }
        }
    }

    /// When a host clock will show a time, as far as one knows now.
    pub fn deadline(&self, time_ns: u64) -> Instant {
        Instant::now().after_ns(time_ns.saturating_sub(self.now_ns()))
    }

    /// When to look again at a CPU clock that has `left_ns` to go and stood still the last `idle_looks` times.
    pub fn next_look(&self, left_ns: u64, idle_looks: u32) -> Instant {
        let threads = match self {
            Self::Process(group, _) => group.upgrade().map_or(1, |group| group.thread_count().max(1)),
            Self::Host(_) | Self::Thread(..) => 1,
        };
        Instant::now().after_ns(look_interval_ns(left_ns, threads as u64, idle_looks))
    }
}

/// All threads may run at once, so the clock may get there `threads` times as early.
fn look_interval_ns(left_ns: u64, threads: u64, idle_looks: u32) -> u64 {
    let least = LOOK_MIN_NS.max(threads * LOOK_PER_THREAD_NS);
    let idle = least.saturating_mul(1 << idle_looks.min(8)).min(LOOK_IDLE_MAX_NS.max(least));
    (left_ns / threads.max(1)).max(if idle_looks == 0 { least } else { idle })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_cpu_clocks_are_looked_at_in_time_and_idle_ones_rarely() {
        assert_eq!(look_interval_ns(SECOND_NS, 1, 0), SECOND_NS);
        assert_eq!(look_interval_ns(SECOND_NS, 4, 0), SECOND_NS / 4);
        assert_eq!(look_interval_ns(1, 1, 0), LOOK_MIN_NS);
        assert_eq!(look_interval_ns(1, 1, 1), 2 * LOOK_MIN_NS);
        assert_eq!(look_interval_ns(1, 1, u32::MAX), LOOK_IDLE_MAX_NS);
        assert!(look_interval_ns(1, 10_000, 0) >= 10_000 * LOOK_PER_THREAD_NS);
    }
}
