//! Timers of a process: `setitimer`, `alarm`, `timer_create`.
//!
//! Also what enforces `RLIMIT_CPU`.
//!
//! A [`ClockTimer`] counts on one clock and tells one [`Recipient`]. By a host clock it fires when it is due; by a
//! CPU clock it is *looked at* when it could be due at the earliest, and set again for what is left.
//! [`ProcessTimers`] are a process's interval timers and its POSIX timers by number.
//!
//! Invariants: a timer's lock is held while the kernel's set of armed timers is locked, never the other way
//! round, and never while a signal is sent. Whatever an application asks for, one timer takes the reactor's time once in
//! [`PERIOD_MIN_NS`] at most, and once in [`UNHEARD_PERIOD_NS`] while nobody takes its signals.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use abi::errno::{EAGAIN, EINVAL, SysResult};
use abi::signal_info::SigInfo;
use abi::signals::{SIGALRM, SIGPROF, SIGVTALRM, SIGXCPU, Signal};
use abi::time::TimerSetting;
use parking_lot::Mutex;

use crate::executor::Executor;
use crate::kernel::Kernel;
use crate::task::{Pid, Resource, Task, ThreadGroup};
use crate::time::{Clock, CpuPart, HostClock, Instant, SECOND_NS, Timer, TimerTarget, Timers};

/// POSIX timers of one process at most, whatever its `RLIMIT_SIGPENDING`.
pub const POSIX_TIMERS_MAX: usize = 4096;
/// Shortest time between two expiries that are acted upon; those between them are overruns.
const PERIOD_MIN_NS: u64 = 50_000;
/// The same while the last signal is still pending, or ignored.
const UNHEARD_PERIOD_NS: u64 = 4_000_000;

/// The interval timers of `setitimer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntervalTimer {
    /// Real time, `SIGALRM`.
    Real,
    /// Time in the application, `SIGVTALRM`.
    Virtual,
    /// Time in application and kernel, `SIGPROF`.
    Profile,
}

impl IntervalTimer {
    const fn signal(self) -> Signal {
        match self {
            Self::Real => SIGALRM,
            Self::Virtual => SIGVTALRM,
            Self::Profile => SIGPROF,
        }
    }

    fn clock(self, group: &Arc<ThreadGroup>) -> Clock {
        match self {
            Self::Real => Clock::Host(HostClock::CLOCK_MONOTONIC),
            Self::Virtual => Clock::Process(Arc::downgrade(group), CpuPart::User),
            Self::Profile => Clock::Process(Arc::downgrade(group), CpuPart::All),
        }
    }
}

/// What a POSIX timer's signal says.
#[derive(Clone, Copy, Debug)]
pub struct TimerSignal {
    /// Which signal.
    pub signal: Signal,
    /// Its value; `None`: the timer's number.
    pub value: Option<u64>,
}

/// Whom an expiry is told.
#[derive(Clone)]
pub enum Notification {
    /// The process, `SIGEV_SIGNAL`.
    Process(TimerSignal),
    /// One thread, `SIGEV_THREAD_ID`.
    Thread(Weak<Task>, TimerSignal),
    /// Nobody, `SIGEV_NONE`.
    Nobody,
}

enum Recipient {
    Interval(Weak<ThreadGroup>, Signal),
    /// `RLIMIT_CPU`: `SIGXCPU` every second beyond the soft limit, death at the hard one.
    CpuLimit(Weak<ThreadGroup>),
    Posix {
        group: Weak<ThreadGroup>,
        id: i32,
        notification: Notification,
    },
}

/// Whether somebody takes a timer's signals.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hearing {
    Heard,
    Unheard,
    /// There is nobody any more.
    Gone,
}

/// What happens from now on.
struct State {
    /// Counts settings, so that an expiry of an old one is known.
    generation: u64,
    setting: Option<Armed>,
    /// Expiries that the signal now pending, or else the last one taken, does not show.
    overrun: u64,
    /// The same of the signal before.
    overrun_before: u64,
}

struct Armed {
    /// What is counted on: a relative time does not follow changes of the wall clock.
    clock: Clock,
    /// The next expiry, on that clock.
    expiry_ns: u64,
    /// 0: only once.
    interval_ns: u64,
    /// What a CPU clock showed at the last look, and how often it has shown the same.
    last_look: (u64, u32),
    timer: Option<Timer>,
}

impl Armed {
    /// Expiries up to now; moves on to the next. The setting is over if there is none.
    fn take_expiries(&mut self, now_ns: u64) -> Option<u64> {
        let late = now_ns.checked_sub(self.expiry_ns)?;
        let more = late.checked_div(self.interval_ns).unwrap_or(0);
        let step = self.interval_ns.saturating_mul(more.saturating_add(1));
        self.expiry_ns = self.expiry_ns.saturating_add(step);
        Some(more.saturating_add(1))
    }

    /// Time to the next expiry, counting on beyond one that nobody has looked at yet. 0: it is over.
    fn remaining_ns(&self, now_ns: u64) -> u64 {
        match now_ns.checked_sub(self.expiry_ns) {
            None => self.expiry_ns - now_ns,
            Some(late) => late.checked_rem(self.interval_ns).map_or(0, |rest| self.interval_ns - rest),
        }
    }
}

/// A timer of an application. See the module's text.
pub struct ClockTimer {
    clock: Clock,
    recipient: Recipient,
    host: Host,
    state: Mutex<State>,
    this: Weak<Self>,
}

/// What timers need of the kernel.
#[derive(Clone)]
struct Host {
    timers: Arc<Timers>,
    /// `None` in tests without one.
    executor: Option<Arc<Executor>>,
}

impl Host {
    fn of(kernel: &Kernel) -> Self {
        Self { timers: Arc::clone(&kernel.timers), executor: Some(Arc::clone(&kernel.executor)) }
    }
}

impl ClockTimer {
    fn new(clock: Clock, recipient: Recipient, host: Host) -> Arc<Self> {
        let state = State { generation: 0, setting: None, overrun: 0, overrun_before: 0 };
        Arc::new_cyclic(|this| Self { clock, recipient, host, state: Mutex::new(state), this: this.clone() })
    }

    /// What is left, and the interval.
    pub fn get(&self) -> TimerSetting {
        let Some(clock) = self.state.lock().setting.as_ref().map(|armed| armed.clock.clone()) else {
            return TimerSetting::default();
        };
        let now_ns = clock.now_ns();
        self.shown(&self.state.lock(), now_ns)
    }

    /// Sets the timer, to a time from now or to one of its clock; returns what was left.
    pub fn set(&self, setting: TimerSetting, from: SetFrom) -> TimerSetting {
        let before = self.get();
        let clock = match (&self.clock, from) {
            (Clock::Host(_), SetFrom::Now) => Clock::Host(HostClock::CLOCK_MONOTONIC),
            (clock, _) => clock.clone(),
        };
        // Read before the lock: CPU clocks ask every thread.
        let now_ns = clock.now_ns();
        let start_ns = if from == SetFrom::Now { now_ns } else { 0 };
        let mut state = self.state.lock();
        state.generation += 1;
        (state.overrun, state.overrun_before) = (0, 0);
        let old = state.setting.take();
        if setting.value_ns != 0 {
            let mut armed = Armed {
                clock,
                expiry_ns: start_ns.saturating_add(setting.value_ns),
                interval_ns: setting.interval_ns,
                last_look: (now_ns, 0),
                timer: None,
            };
            self.arm(&mut armed, state.generation, now_ns, 0);
            state.setting = Some(armed);
        }
        drop(state);
        drop(old);
        before
    }

    /// `timer_getoverrun`: expiries that the last signal taken stood for, beyond its own.
    pub fn overrun(&self) -> i32 {
        let is_pending = self.with_pending_signal(|_| ()).is_some();
        let state = self.state.lock();
        clamp_overrun(if is_pending { state.overrun_before } else { state.overrun })
    }

    fn shown(&self, state: &State, now_ns: u64) -> TimerSetting {
        let Some(armed) = &state.setting else { return TimerSetting::default() };
        let value_ns = armed.remaining_ns(now_ns);
        // What is due but not yet acted upon is not over yet.
        let value_ns = if self.is_silent() { value_ns } else { value_ns.max(1) };
        TimerSetting { value_ns, interval_ns: armed.interval_ns }
    }

    /// Whether nobody is told, so that nothing has to happen at an expiry.
    const fn is_silent(&self) -> bool {
        matches!(self.recipient, Recipient::Posix { notification: Notification::Nobody, .. })
    }

    /// Sets the host's timer for the next look, not before `pause_ns` are over.
    fn arm(&self, armed: &mut Armed, generation: u64, now_ns: u64, pause_ns: u64) {
        if self.is_silent() {
            return;
        }
        let left_ns = armed.expiry_ns.saturating_sub(now_ns);
        let due = if left_ns == 0 || !armed.clock.is_cpu_time() {
            Instant::now().after_ns(left_ns)
        } else {
            armed.clock.next_look(left_ns, armed.last_look.1)
        };
        let deadline = due.max(Instant::now().after_ns(pause_ns));
        let look = Arc::new(Look { timer: self.this.clone(), generation });
        armed.timer = Some(self.host.timers.start(deadline, look));
    }

    /// The host's timer has fired: acts if the time has come.
    fn look(&self, generation: u64) {
        let clock = {
            let state = self.state.lock();
            match &state.setting {
                Some(armed) if state.generation == generation => armed.clock.clone(),
                _ => return,
            }
        };
        if clock.is_gone() {
            return;
        }
        let now_ns = clock.now_ns();
        let Some(expiries) = self.expiries(generation, now_ns) else { return };
        let hearing = self.tell(expiries);
        let pause_ns = match hearing {
            Hearing::Heard => PERIOD_MIN_NS,
            Hearing::Unheard => UNHEARD_PERIOD_NS,
            Hearing::Gone => return,
        };
        let mut state = self.state.lock();
        if state.generation == generation
            && let Some(armed) = &mut state.setting
        {
            self.arm(armed, generation, now_ns, pause_ns);
        }
    }

    /// How many expiries there are to tell of. `None`: none yet (then the timer is set again), or none any more.
    fn expiries(&self, generation: u64, now_ns: u64) -> Option<u64> {
        let mut state = self.state.lock();
        if state.generation != generation {
            return None;
        }
        let armed = state.setting.as_mut()?;
        let expiries = armed.take_expiries(now_ns);
        if expiries.is_none() {
            let (before_ns, idle_looks) = armed.last_look;
            let idle_looks = if before_ns == now_ns { idle_looks.saturating_add(1) } else { 0 };
            armed.last_look = (now_ns, idle_looks);
            self.arm(armed, generation, now_ns, 0);
        } else if armed.interval_ns == 0 {
            state.setting = None;
        }
        expiries
    }

    fn tell(&self, expiries: u64) -> Hearing {
        match &self.recipient {
            Recipient::Interval(group, signal) => {
                let Some(group) = group.upgrade().filter(|group| !group.is_exiting()) else {
                    return Hearing::Gone;
                };
                let is_pending = group.signals.pending.lock().set().contains(*signal);
                let _ = group.send_signal(*signal, SigInfo::kernel(*signal));
                hearing(is_pending, &group, *signal)
            }
            Recipient::CpuLimit(group) => {
                let Some(group) = group.upgrade().filter(|group| !group.is_exiting()) else {
                    return Hearing::Gone;
                };
                let hard_ns = group.limits.get(Resource::Cpu).hard.saturating_mul(SECOND_NS);
                if self.clock.now_ns() >= hard_ns {
                    group.kill();
                    return Hearing::Gone;
                }
                let _ = group.send_signal(SIGXCPU, SigInfo::kernel(SIGXCPU));
                Hearing::Heard
            }
            Recipient::Posix { group, id, notification } => {
                let Some(group) = group.upgrade().filter(|group| !group.is_exiting()) else {
                    return Hearing::Gone;
                };
                self.tell_posix(&group, *id, notification, expiries)
            }
        }
    }

    /// A timer has one signal pending at most; what expires meanwhile are its overruns.
    fn tell_posix(
        &self,
        group: &Arc<ThreadGroup>,
        id: i32,
        notification: &Notification,
        expiries: u64,
    ) -> Hearing {
        let added = self.with_pending_signal(|info| {
            let sum = u64::try_from(info.overrun()).unwrap_or(0).saturating_add(expiries);
            info.set_overrun(clamp_overrun(sum));
            sum
        });
        let overrun = added.unwrap_or(expiries - 1);
        {
            let mut state = self.state.lock();
            if added.is_none() {
                state.overrun_before = state.overrun;
            }
            state.overrun = overrun;
        }
        let (target, what) = match notification {
            Notification::Process(what) => (None, what),
            Notification::Thread(task, what) => match task.upgrade() {
                Some(task) => (Some(task), what),
                None => return Hearing::Gone,
            },
            Notification::Nobody => return Hearing::Gone,
        };
        if added.is_none() {
            let value = what.value.unwrap_or(u64::from(id.unsigned_abs()));
            let info = SigInfo::timer(what.signal, id, clamp_overrun(overrun), value);
            // A full queue loses an expiry, as on Linux.
            let _ = target.map_or_else(
                || group.send_signal(what.signal, info),
                |task| task.send_signal(what.signal, info),
            );
        }
        hearing(added.is_some(), group, what.signal)
    }

    /// Looks at this timer's own signal if it is pending.
    fn with_pending_signal<T>(&self, operation: impl FnOnce(&mut SigInfo) -> T) -> Option<T> {
        let Recipient::Posix { group, id, notification } = &self.recipient else { return None };
        match notification {
            Notification::Process(_) => {
                let group = group.upgrade()?;
                let mut pending = group.signals.pending.lock();
                pending.timer_signal(*id).map(operation)
            }
            Notification::Thread(task, _) => {
                let task = task.upgrade()?;
                let mut pending = task.signals.pending.lock();
                pending.timer_signal(*id).map(operation)
            }
            Notification::Nobody => None,
        }
    }

    fn tells_task(&self, tid: Pid) -> bool {
        match &self.recipient {
            Recipient::Posix { notification: Notification::Thread(task, _), .. } => {
                task.upgrade().is_none_or(|task| task.tid() == tid)
            }
            _ => false,
        }
    }
}

fn hearing(was_pending: bool, group: &ThreadGroup, signal: Signal) -> Hearing {
    if was_pending || group.signals.handlers().get(signal).is_ignore() {
        Hearing::Unheard
    } else {
        Hearing::Heard
    }
}

/// `DELAYTIMER_MAX` is `INT_MAX`.
fn clamp_overrun(count: u64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// What a setting's first time counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetFrom {
    /// It is relative.
    Now,
    /// It is a time of the timer's clock (`TIMER_ABSTIME`).
    Origin,
}

struct Look {
    timer: Weak<ClockTimer>,
    generation: u64,
}

impl TimerTarget for Look {
    fn expired(&self) {
        let Some(timer) = self.timer.upgrade() else { return };
        let generation = self.generation;
        match &timer.host.executor {
            // Some platforms tell processor times to their workers only.
            Some(executor) if timer.clock.is_cpu_time() => {
                executor.clone().spawn(async move { timer.look(generation) });
            }
            _ => timer.look(generation),
        }
    }
}

#[derive(Default)]
struct Owned {
    interval: [Option<Arc<ClockTimer>>; 3],
    cpu_limit: Option<Arc<ClockTimer>>,
    posix: BTreeMap<i32, Arc<ClockTimer>>,
    next_id: i32,
}

/// All timers of a process.
#[derive(Default)]
pub struct ProcessTimers {
    owned: Mutex<Owned>,
}

impl ProcessTimers {
    /// `execve` deletes POSIX timers; interval timers go on.
    pub(crate) fn drop_for_exec(&self) {
        let deleted = std::mem::take(&mut self.owned.lock().posix);
        drop(deleted);
    }

    /// A thread ended: nothing is sent to it any more.
    pub(crate) fn forget_task(&self, tid: Pid) {
        let all: Vec<_> = self.owned.lock().posix.values().cloned().collect();
        for timer in all.iter().filter(|timer| timer.tells_task(tid)) {
            timer.set(TimerSetting::default(), SetFrom::Now);
        }
    }

    /// A POSIX timer by its number.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn find(&self, id: i32) -> SysResult<Arc<ClockTimer>> {
        self.owned.lock().posix.get(&id).cloned().ok_or(EINVAL)
    }

    /// Deletes a POSIX timer.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn delete(&self, id: i32) -> SysResult<()> {
        let removed = self.owned.lock().posix.remove(&id);
        removed.map(drop).ok_or(EINVAL)
    }
}

impl ThreadGroup {
    /// One of the process's interval timers.
    pub fn interval_timer(self: &Arc<Self>, which: IntervalTimer, kernel: &Kernel) -> Arc<ClockTimer> {
        let mut owned = self.timers.owned.lock();
        let place = &mut owned.interval[which as usize];
        let timer = place.get_or_insert_with(|| {
            let recipient = Recipient::Interval(Arc::downgrade(self), which.signal());
            ClockTimer::new(which.clock(self), recipient, Host::of(kernel))
        });
        Arc::clone(timer)
    }

    /// Begins to enforce `RLIMIT_CPU` as it is now. To be called when the limit has changed or was inherited.
    pub fn enforce_cpu_limit(self: &Arc<Self>, kernel: &Kernel) {
        let soft = self.limits.soft(Resource::Cpu);
        let timer = {
            let mut owned = self.timers.owned.lock();
            if soft == u64::MAX && owned.cpu_limit.is_none() {
                return;
            }
            let place = &mut owned.cpu_limit;
            Arc::clone(place.get_or_insert_with(|| {
                let clock = Clock::Process(Arc::downgrade(self), CpuPart::All);
                ClockTimer::new(clock, Recipient::CpuLimit(Arc::downgrade(self)), Host::of(kernel))
            }))
        };
        // As on Linux, 0 means one second, so that 0 does not mean "none".
        let value_ns = if soft == u64::MAX { 0 } else { soft.max(1).saturating_mul(SECOND_NS) };
        timer.set(TimerSetting { value_ns, interval_ns: SECOND_NS }, SetFrom::Origin);
    }

    /// Makes a POSIX timer, not set; returns its number.
    ///
    /// # Errors
    /// `EAGAIN`: there are too many.
    pub fn create_timer(
        self: &Arc<Self>,
        clock: Clock,
        notification: Notification,
        kernel: &Kernel,
    ) -> SysResult<i32> {
        let limit = usize::try_from(self.limits.soft(Resource::PendingSignals)).unwrap_or(usize::MAX);
        let mut owned = self.timers.owned.lock();
        if owned.posix.len() >= limit.min(POSIX_TIMERS_MAX) {
            return Err(EAGAIN);
        }
        let mut id = owned.next_id;
        while owned.posix.contains_key(&id) {
            id = next_id(id);
        }
        owned.next_id = next_id(id);
        let recipient = Recipient::Posix { group: Arc::downgrade(self), id, notification };
        owned.posix.insert(id, ClockTimer::new(clock, recipient, Host::of(kernel)));
        Ok(id)
    }
}

/// Numbers are not reused before they have gone round.
const fn next_id(id: i32) -> i32 {
    if id == i32::MAX { 0 } else { id + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn armed(expiry_ns: u64, interval_ns: u64) -> Armed {
        let clock = Clock::Host(HostClock::CLOCK_MONOTONIC);
        Armed { clock, expiry_ns, interval_ns, last_look: (0, 0), timer: None }
    }

    #[test]
    fn missed_periods_are_counted_and_skipped() {
        let mut timer = armed(100, 10);
        assert_eq!(timer.take_expiries(99), None);
        assert_eq!(timer.take_expiries(100), Some(1));
        assert_eq!(timer.expiry_ns, 110);
        assert_eq!(timer.take_expiries(145), Some(4));
        assert_eq!(timer.expiry_ns, 150);
    }

    #[test]
    fn what_is_left_counts_on_beyond_expiries_not_looked_at() {
        assert_eq!(armed(100, 0).remaining_ns(40), 60);
        assert_eq!(armed(100, 0).remaining_ns(100), 0);
        assert_eq!(armed(100, 10).remaining_ns(100), 10);
        assert_eq!(armed(100, 10).remaining_ns(107), 3);
    }

    #[test]
    fn a_timer_shows_its_setting_until_it_is_disarmed() {
        let host = Host { timers: Timers::new().unwrap(), executor: None };
        let recipient = Recipient::Interval(Weak::new(), SIGALRM);
        let timer = ClockTimer::new(Clock::Host(HostClock::CLOCK_REALTIME), recipient, host);
        let hour_ns = 3600 * SECOND_NS;
        let setting = TimerSetting { value_ns: hour_ns, interval_ns: 5 };
        assert_eq!(timer.set(setting, SetFrom::Now), TimerSetting::default());
        let shown = timer.set(TimerSetting::default(), SetFrom::Now);
        assert!(shown.interval_ns == 5 && shown.value_ns <= hour_ns && shown.value_ns > hour_ns / 2);
        assert_eq!(timer.get(), TimerSetting::default());
    }

    #[test]
    fn timers_nobody_is_told_of_end_without_being_looked_at() {
        let host = Host { timers: Timers::new().unwrap(), executor: None };
        let recipient = Recipient::Posix { group: Weak::new(), id: 0, notification: Notification::Nobody };
        let timer = ClockTimer::new(Clock::Host(HostClock::CLOCK_MONOTONIC), recipient, host);
        timer.set(TimerSetting { value_ns: 1, interval_ns: 0 }, SetFrom::Origin);
        assert_eq!(timer.get().value_ns, 0, "an absolute time in the past is over at once");
        timer.set(TimerSetting { value_ns: 1, interval_ns: 1 << 40 }, SetFrom::Origin);
        let left = timer.get().value_ns;
        assert!(left > 0 && left <= 1 << 40);
    }
}
