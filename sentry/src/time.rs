//! Clocks as the sentry reads them, and timers that fire on the reactor.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use parking_lot::Mutex;

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
