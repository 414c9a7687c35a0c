//! `setitimer`, `alarm`, and POSIX timers. The timers themselves are in [`sentry::timers`].

use std::sync::Arc;

use abi::capabilities::CAP_WAKE_ALARM;
use abi::errno::{EINVAL, EOPNOTSUPP, EPERM, SysResult};
use abi::signals::{SIGALRM, Signal};
use abi::time::{
    ClockId, Itimerspec, Itimerval, SIGEV_NONE, SIGEV_SIGNAL, SIGEV_THREAD, SIGEV_THREAD_ID, Sigevent,
    TimerFlags, TimerSetting, Timeval,
};
use abi::user::UserAddress;
use sentry::task::Task;
use sentry::time::SECOND_NS;
use sentry::timers::{ClockTimer, IntervalTimer, Notification, SetFrom, TimerSignal};

use crate::clocks::{Abilities, Purpose, named_clock};
use crate::table::{Entry, Support, call};

const TICKS: Support =
    Support::Partial("ITIMER_VIRTUAL and ITIMER_PROF are as exact as 4 ms, when idle 128 ms");

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(SETITIMER, sys_setitimer, now 3, TICKS),
    call!(GETITIMER, sys_getitimer, now 2, Support::Full),
    call!(ALARM, sys_alarm, now 1, Support::Full),
    call!(
        TIMER_CREATE,
        sys_timer_create,
        now 3,
        Support::Partial("4096 a process at most; alarm clocks do not end a suspension")
    ),
    call!(
        TIMER_SETTIME,
        sys_timer_settime,
        now 4,
        Support::Partial("an absolute time does not follow later steps of CLOCK_REALTIME; CPU clocks are as exact as 4 ms")
    ),
    call!(TIMER_GETTIME, sys_timer_gettime, now 2, Support::Full),
    call!(TIMER_GETOVERRUN, sys_timer_getoverrun, now 1, Support::Full),
    call!(TIMER_DELETE, sys_timer_delete, now 1, Support::Full),
];

fn interval_timer(task: &Arc<Task>, which: i32) -> SysResult<Arc<ClockTimer>> {
    use abi::time::{ITIMER_PROF, ITIMER_REAL, ITIMER_VIRTUAL};
    let which = match which {
        ITIMER_REAL => IntervalTimer::Real,
        ITIMER_VIRTUAL => IntervalTimer::Virtual,
        ITIMER_PROF => IntervalTimer::Profile,
        _ => return Err(EINVAL),
    };
    Ok(task.group.interval_timer(which, &task.kernel))
}

/// A setting in microseconds; what is left is never shown as nothing.
fn interval_value(setting: TimerSetting) -> Itimerval {
    let timeval = |nanoseconds: u64| {
        let shown = if nanoseconds == 0 { 0 } else { nanoseconds.max(1000) };
        Timeval::from_ns(i64::try_from(shown).unwrap_or(i64::MAX))
    };
    Itimerval { it_interval: timeval(setting.interval_ns), it_value: timeval(setting.value_ns) }
}

/// `setitimer(2)` <https://man7.org/linux/man-pages/man2/getitimer.2.html>
pub fn sys_setitimer(task: &Arc<Task>, which: i32, new: UserAddress, old: UserAddress) -> SysResult<()> {
    // A null pointer disarms: a misfeature that Linux keeps.
    let setting = match new.address() {
        0 => TimerSetting::default(),
        address => task.read_value::<Itimerval>(address)?.setting()?,
    };
    let before = interval_timer(task, which)?.set(setting, SetFrom::Now);
    if old.is_null() { Ok(()) } else { task.write_value(old.address(), &interval_value(before)) }
}

/// `getitimer(2)` <https://man7.org/linux/man-pages/man2/getitimer.2.html>
pub fn sys_getitimer(task: &Arc<Task>, which: i32, current: UserAddress) -> SysResult<()> {
    let setting = interval_timer(task, which)?.get();
    task.write_value(current.address(), &interval_value(setting))
}

/// `alarm(2)` <https://man7.org/linux/man-pages/man2/alarm.2.html>
pub fn sys_alarm(task: &Arc<Task>, seconds: u32) -> SysResult<u64> {
    let timer = task.group.interval_timer(IntervalTimer::Real, &task.kernel);
    let setting = TimerSetting { value_ns: u64::from(seconds) * SECOND_NS, interval_ns: 0 };
    Ok(whole_seconds(timer.set(setting, SetFrom::Now).value_ns))
}

/// What is left of an alarm: rounded, but never to nothing.
fn whole_seconds(nanoseconds: u64) -> u64 {
    let (seconds, rest) = (nanoseconds / SECOND_NS, nanoseconds % SECOND_NS);
    seconds + u64::from(seconds == 0 && rest != 0 || rest >= SECOND_NS / 2)
}

/// `timer_create(2)` <https://man7.org/linux/man-pages/man2/timer_create.2.html>
pub fn sys_timer_create(
    task: &Arc<Task>,
    clock: ClockId,
    event: UserAddress,
    id: UserAddress,
) -> SysResult<()> {
    let event = match event.address() {
        0 => None,
        address => Some(task.read_value::<Sigevent>(address)?),
    };
    let found = named_clock(task, clock, Purpose::Use)?;
    if found.abilities == Abilities::None {
        return Err(EOPNOTSUPP);
    }
    let notification = match event {
        Some(event) => notification(task, event)?,
        None => Notification::Process(TimerSignal { signal: SIGALRM, value: None }),
    };
    if found.abilities == Abilities::Alarm && !task.credentials().can(CAP_WAKE_ALARM) {
        return Err(EPERM);
    }
    let number = task.group.create_timer(found.clock, notification, &task.kernel)?;
    task.write_value(id.address(), &number).inspect_err(|_| {
        // The application will never learn the number.
        let _ = task.group.timers.delete(number);
    })
}

/// Linux's `good_sigevent`.
fn notification(task: &Arc<Task>, event: Sigevent) -> SysResult<Notification> {
    let told = || -> SysResult<TimerSignal> {
        let signal = Signal::new(event.sigev_signo).ok_or(EINVAL)?;
        Ok(TimerSignal { signal, value: Some(event.sigev_value) })
    };
    match event.sigev_notify {
        // The C library makes threads of its own from the signal.
        SIGEV_SIGNAL | SIGEV_THREAD => Ok(Notification::Process(told()?)),
        SIGEV_THREAD_ID => {
            let thread = task.kernel.processes.task(event.sigev_notify_thread_id);
            let thread = thread.filter(|thread| Arc::ptr_eq(&thread.group, &task.group)).ok_or(EINVAL)?;
            Ok(Notification::Thread(Arc::downgrade(&thread), told()?))
        }
        SIGEV_NONE => Ok(Notification::Nobody),
        _ => Err(EINVAL),
    }
}

/// `timer_settime(2)` <https://man7.org/linux/man-pages/man2/timer_settime.2.html>
pub fn sys_timer_settime(
    task: &Arc<Task>,
    id: i32,
    flags: TimerFlags,
    new: UserAddress,
    old: UserAddress,
) -> SysResult<()> {
    if new.is_null() {
        return Err(EINVAL);
    }
    let setting = task.read_value::<Itimerspec>(new.address())?.setting()?;
    let from = if flags.contains(TimerFlags::TIMER_ABSTIME) { SetFrom::Origin } else { SetFrom::Now };
    let before = task.group.timers.find(id)?.set(setting, from);
    if old.is_null() { Ok(()) } else { task.write_value(old.address(), &Itimerspec::from_setting(before)) }
}

/// `timer_gettime(2)` <https://man7.org/linux/man-pages/man2/timer_settime.2.html>
pub fn sys_timer_gettime(task: &Arc<Task>, id: i32, current: UserAddress) -> SysResult<()> {
    let setting = task.group.timers.find(id)?.get();
    task.write_value(current.address(), &Itimerspec::from_setting(setting))
}

/// `timer_getoverrun(2)` <https://man7.org/linux/man-pages/man2/timer_getoverrun.2.html>
pub fn sys_timer_getoverrun(task: &Arc<Task>, id: i32) -> SysResult<i32> {
    Ok(task.group.timers.find(id)?.overrun())
}

/// `timer_delete(2)` <https://man7.org/linux/man-pages/man2/timer_delete.2.html>
pub fn sys_timer_delete(task: &Arc<Task>, id: i32) -> SysResult<()> {
    task.group.timers.delete(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_that_is_set_is_never_shown_as_none() {
        assert_eq!(whole_seconds(0), 0);
        assert_eq!(whole_seconds(1), 1);
        assert_eq!(whole_seconds(SECOND_NS * 3 / 2 - 1), 1);
        assert_eq!(whole_seconds(SECOND_NS * 3 / 2), 2);
        assert_eq!(interval_value(TimerSetting { value_ns: 1, interval_ns: 0 }).it_value.tv_usec, 1);
    }
}
