//! Reading clocks and sleeping on them.

use std::sync::Arc;

use abi::capabilities::CAP_WAKE_ALARM;
use abi::errno::{EINVAL, EOPNOTSUPP, EPERM, SysResult};
use abi::process::Tms;
use abi::time::{
    CLOCK_BOOTTIME, CLOCK_BOOTTIME_ALARM, CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC_RAW,
    CLOCK_PROCESS_CPUTIME_ID, CLOCK_REALTIME, CLOCK_REALTIME_ALARM, CLOCK_REALTIME_COARSE, CLOCK_TAI,
    CLOCK_THREAD_CPUTIME_ID, ClockId, DynamicClock, TIME_ERROR, TimerFlags, Timespec, Timeval, Timex,
    Timezone,
};
use abi::user::UserAddress;
use sentry::task::{RestartBlock, Task, ThreadGroup};
use sentry::time::{Clock, CpuPart, HostClock, Instant, clock_ns, realtime_ns};
use sentry::wait::{CallResult, Failure, PollEvents, Restart, WaitError, WaitQueue};

use crate::table::{Entry, Support, call};

/// Who may not set the host's clock: nobody.
const NOT_SET: Support = Support::Refused(EPERM, "the clock is the host's");

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(CLOCK_GETTIME, sys_clock_gettime, now 2, Support::Full),
    call!(CLOCK_GETRES, sys_clock_getres, now 2, Support::Full),
    call!(
        CLOCK_NANOSLEEP,
        sys_clock_nanosleep,
        wait 4,
        Support::Partial("an absolute sleep does not follow later steps of CLOCK_REALTIME; alarm clocks do not end a suspension")
    ),
    call!(NANOSLEEP, sys_nanosleep, wait 2, Support::Full),
    call!(GETTIMEOFDAY, sys_gettimeofday, now 2, Support::Full),
    call!(TIME, sys_time, now 1, Support::Full),
    call!(TIMES, sys_times, now 1, Support::Full),
    call!(CLOCK_SETTIME, sys_clock_settime, now 2, NOT_SET),
    call!(SETTIMEOFDAY, sys_settimeofday, now 2, NOT_SET),
    call!(ADJTIMEX, sys_adjtimex, now 1, Support::Partial("reads an unsynchronised clock; EPERM for changes")),
    call!(CLOCK_ADJTIME, sys_clock_adjtime, now 2, Support::Partial("as adjtimex, of CLOCK_REALTIME only")),
];

/// What a clock can do besides being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abilities {
    /// Timers and sleep.
    All,
    /// Timers and sleep with `CAP_WAKE_ALARM`.
    Alarm,
    /// Timers, but no sleep.
    Timers,
    /// Neither.
    None,
}

/// A clock as an application names it.
pub(crate) struct Named {
    pub(crate) clock: Clock,
    pub(crate) abilities: Abilities,
}

/// Whether a process's clock may be named by the number of its calling thread: only for reading.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// `clock_gettime`.
    Read,
    /// Everything else.
    Use,
}

/// Finds a clock.
///
/// # Errors
/// `EINVAL`: there is none, or it is another process's thread's.
pub(crate) fn named_clock(task: &Arc<Task>, id: ClockId, purpose: Purpose) -> SysResult<Named> {
    let host = |clock, abilities| Ok(Named { clock: Clock::Host(clock), abilities });
    let cpu = |clock, abilities| Ok(Named { clock, abilities });
    use HostClock as Host;
    match id.0 {
        CLOCK_REALTIME => host(Host::CLOCK_REALTIME, Abilities::All),
        CLOCK_MONOTONIC => host(Host::CLOCK_MONOTONIC, Abilities::All),
        CLOCK_BOOTTIME => host(Host::CLOCK_BOOTTIME, Abilities::All),
        CLOCK_TAI => host(Host::CLOCK_TAI, Abilities::All),
        CLOCK_REALTIME_ALARM => host(Host::CLOCK_REALTIME, Abilities::Alarm),
        CLOCK_BOOTTIME_ALARM => host(Host::CLOCK_BOOTTIME, Abilities::Alarm),
        CLOCK_MONOTONIC_RAW => host(Host::CLOCK_MONOTONIC_RAW, Abilities::None),
        CLOCK_REALTIME_COARSE => host(Host::CLOCK_REALTIME_COARSE, Abilities::None),
        CLOCK_MONOTONIC_COARSE => host(Host::CLOCK_MONOTONIC_COARSE, Abilities::None),
        CLOCK_PROCESS_CPUTIME_ID => cpu(process_clock(&task.group, CpuPart::All), Abilities::All),
        CLOCK_THREAD_CPUTIME_ID => cpu(thread_clock(task, CpuPart::All), Abilities::Timers),
        _ => match id.dynamic() {
            Some(DynamicClock::Cpu { pid, per_thread, which }) => {
                let part = match which {
                    0 | 2 => CpuPart::All,
                    1 => CpuPart::User,
                    _ => return Err(EINVAL),
                };
                let abilities = if per_thread { Abilities::Timers } else { Abilities::All };
                cpu(dynamic_cpu_clock(task, pid, per_thread, part, purpose)?, abilities)
            }
            // No descriptor here is a clock's.
            Some(DynamicClock::Descriptor(_)) | None => Err(EINVAL),
        },
    }
}

fn process_clock(group: &Arc<ThreadGroup>, part: CpuPart) -> Clock {
    Clock::Process(Arc::downgrade(group), part)
}

fn thread_clock(task: &Arc<Task>, part: CpuPart) -> Clock {
    Clock::Thread(Arc::downgrade(task), part)
}

/// Linux's `pid_for_clock`.
fn dynamic_cpu_clock(
    task: &Arc<Task>,
    pid: i32,
    per_thread: bool,
    part: CpuPart,
    purpose: Purpose,
) -> SysResult<Clock> {
    let processes = &task.kernel.processes;
    if per_thread {
        if pid == 0 {
            return Ok(thread_clock(task, part));
        }
        let other = processes.task(pid).filter(|other| Arc::ptr_eq(&other.group, &task.group));
        return other.map(|other| thread_clock(&other, part)).ok_or(EINVAL);
    }
    if pid == 0 || purpose == Purpose::Read && pid == task.tid() {
        return Ok(process_clock(&task.group, part));
    }
    processes.group(pid).map(|group| process_clock(&group, part)).ok_or(EINVAL)
}

/// `clock_gettime(2)` <https://man7.org/linux/man-pages/man2/clock_gettime.2.html>
pub fn sys_clock_gettime(task: &Arc<Task>, clock: ClockId, time: UserAddress) -> SysResult<()> {
    let found = named_clock(task, clock, Purpose::Read)?;
    task.write_value(time.address(), &Timespec::from_duration_ns(found.clock.now_ns()))
}

/// `clock_getres(2)` <https://man7.org/linux/man-pages/man2/clock_getres.2.html>
pub fn sys_clock_getres(task: &Arc<Task>, clock: ClockId, resolution: UserAddress) -> SysResult<()> {
    let found = named_clock(task, clock, Purpose::Use)?;
    if resolution.is_null() {
        return Ok(());
    }
    task.write_value(resolution.address(), &Timespec::from_duration_ns(found.clock.resolution_ns()))
}

/// `clock_nanosleep(2)` <https://man7.org/linux/man-pages/man2/clock_nanosleep.2.html>
pub async fn sys_clock_nanosleep(
    task: &Arc<Task>,
    clock: ClockId,
    flags: TimerFlags,
    request: UserAddress,
    remaining: UserAddress,
) -> CallResult<()> {
    let found = named_clock(task, clock, Purpose::Use)?;
    if matches!(found.abilities, Abilities::None | Abilities::Timers) && clock.0 >= 0 {
        return Err(EOPNOTSUPP.into());
    }
    let time = task.read_value::<Timespec>(request.address())?.timeout_ns()?;
    if found.abilities == Abilities::Alarm && !task.credentials().can(CAP_WAKE_ALARM) {
        return Err(EPERM.into());
    }
    // A thread would wait for time that passes only while it does not wait.
    if let Clock::Thread(thread, _) = &found.clock
        && std::ptr::eq(thread.as_ptr(), Arc::as_ptr(task))
    {
        return Err(EINVAL.into());
    }
    let absolute = flags.contains(TimerFlags::TIMER_ABSTIME);
    if found.clock.is_cpu_time() {
        return sleep_on_cpu_clock(task, &found.clock, time, absolute, remaining).await;
    }
    if absolute {
        let deadline = found.clock.deadline(time);
        return rest(task, deadline).await.map_err(|_| Failure::Restart(Restart::NoHand));
    }
    sleep_until(task, Instant::now().after_ns(time), remaining.address()).await
}

/// `nanosleep(2)` <https://man7.org/linux/man-pages/man2/nanosleep.2.html>
pub async fn sys_nanosleep(task: &Arc<Task>, request: UserAddress, remaining: UserAddress) -> CallResult<()> {
    let time = task.read_value::<Timespec>(request.address())?.timeout_ns()?;
    sleep_until(task, Instant::now().after_ns(time), remaining.address()).await
}

/// A relative sleep, from its beginning or continued: when interrupted it leaves a restart block and, unless
/// `remaining` is null, the time that is left.
pub(crate) async fn sleep_until(task: &Arc<Task>, deadline: Instant, remaining: u64) -> CallResult<()> {
    if rest(task, deadline).await.is_ok() {
        return Ok(());
    }
    let left = deadline.remaining_ns();
    if left == 0 {
        return Ok(());
    }
    if remaining != 0 {
        task.write_value(remaining, &Timespec::from_duration_ns(left))?;
    }
    *task.restart_block.lock() = Some(RestartBlock::Sleep { deadline, remaining });
    Err(Failure::Restart(Restart::Block))
}

/// The sleep was interrupted.
struct Awakened;

async fn rest(task: &Task, deadline: Instant) -> Result<(), Awakened> {
    // Nobody wakes this queue: only the deadline and signals end the wait.
    let nothing = WaitQueue::new();
    match task.wait_on(&nothing, PollEvents::empty(), Some(deadline), || None::<()>).await {
        Err(WaitError::Interrupted) => Err(Awakened),
        Ok(()) | Err(WaitError::TimedOut) => Ok(()),
    }
}

/// Sleeps until a CPU clock has advanced, by looking at it again and again; the estimate between two looks
/// assumes that all threads run.
async fn sleep_on_cpu_clock(
    task: &Arc<Task>,
    clock: &Clock,
    time_ns: u64,
    absolute: bool,
    remaining: UserAddress,
) -> CallResult<()> {
    let end = if absolute { time_ns } else { clock.now_ns().saturating_add(time_ns) };
    let mut before = 0;
    let mut idle_looks = 0;
    loop {
        let now = clock.now_ns();
        if now >= end {
            return Ok(());
        }
        idle_looks = if now == before { idle_looks + 1 } else { 0 };
        before = now;
        if rest(task, clock.next_look(end - now, idle_looks)).await.is_err() {
            break;
        }
    }
    if !absolute && !remaining.is_null() {
        let left = end.saturating_sub(clock.now_ns());
        task.write_value(remaining.address(), &Timespec::from_duration_ns(left))?;
    }
    Err(Failure::Restart(if absolute { Restart::NoHand } else { Restart::Never }))
}

/// `gettimeofday(2)` <https://man7.org/linux/man-pages/man2/gettimeofday.2.html>
pub fn sys_gettimeofday(task: &Arc<Task>, time: UserAddress, zone: UserAddress) -> SysResult<()> {
    if !time.is_null() {
        task.write_value(time.address(), &timeval(realtime_ns()))?;
    }
    if !zone.is_null() {
        task.write_value(zone.address(), &Timezone::default())?;
    }
    Ok(())
}

/// `time(2)` <https://man7.org/linux/man-pages/man2/time.2.html>
pub fn sys_time(task: &Arc<Task>, place: UserAddress) -> SysResult<i64> {
    let seconds = timeval(realtime_ns()).tv_sec;
    if !place.is_null() {
        task.write_value(place.address(), &seconds)?;
    }
    Ok(seconds)
}

/// `times(2)` <https://man7.org/linux/man-pages/man2/times.2.html>
pub fn sys_times(task: &Arc<Task>, buffer: UserAddress) -> SysResult<i64> {
    if !buffer.is_null() {
        let (own, children) = (task.group.cpu_times(), *task.group.child_times.lock());
        let times = Tms {
            tms_utime: ticks(own.user_ns),
            tms_stime: ticks(own.system_ns),
            tms_cutime: ticks(children.user_ns),
            tms_cstime: ticks(children.system_ns),
        };
        task.write_value(buffer.address(), &times)?;
    }
    Ok(ticks(clock_ns(HostClock::CLOCK_MONOTONIC)))
}

/// Nanoseconds in clock ticks of `USER_HZ`.
fn ticks(nanoseconds: u64) -> i64 {
    const TICK_NS: u64 = sentry::time::SECOND_NS / abi::process::USER_HZ;
    i64::try_from(nanoseconds / TICK_NS).unwrap_or(i64::MAX)
}

fn timeval(nanoseconds: u64) -> Timeval {
    Timeval::from_ns(i64::try_from(nanoseconds).unwrap_or(i64::MAX))
}

/// `clock_settime(2)` <https://man7.org/linux/man-pages/man2/clock_settime.2.html>
pub fn sys_clock_settime(task: &Arc<Task>, clock: ClockId, time: UserAddress) -> SysResult<()> {
    let settable = clock.0 == CLOCK_REALTIME || clock.0 == CLOCK_PROCESS_CPUTIME_ID || clock.0 < 0;
    if !settable {
        return Err(EINVAL);
    }
    named_clock(task, clock, Purpose::Use)?;
    task.read_value::<Timespec>(time.address())?.settable_ns()?;
    Err(EPERM)
}

/// `settimeofday(2)` <https://man7.org/linux/man-pages/man2/gettimeofday.2.html>
pub fn sys_settimeofday(task: &Arc<Task>, time: UserAddress, zone: UserAddress) -> SysResult<()> {
    if !time.is_null() {
        task.read_value::<Timeval>(time.address())?.interval_ns()?;
    }
    if !zone.is_null() {
        task.read_value::<Timezone>(zone.address())?;
    }
    Err(EPERM)
}

/// `adjtimex(2)` <https://man7.org/linux/man-pages/man2/adjtimex.2.html>
pub fn sys_adjtimex(task: &Arc<Task>, buffer: UserAddress) -> SysResult<i32> {
    // ADJ_OFFSET_SS_READ, the one mode that changes nothing.
    const SINGLE_SHOT_READ: u32 = 0xa001;
    let mut state: Timex = task.read_value(buffer.address())?;
    if state.modes != 0 && state.modes != SINGLE_SHOT_READ {
        return Err(EPERM);
    }
    // As a kernel tells whose clock nobody disciplines (kernel/time/ntp.c, `ntp_clear`).
    const UNSYNCHRONISED: i32 = 0x40;
    const ERROR_MAX_US: i64 = 16_000_000;
    state = Timex {
        modes: state.modes,
        maxerror: ERROR_MAX_US,
        esterror: ERROR_MAX_US,
        status: UNSYNCHRONISED,
        constant: 2,
        precision: 1,
        tolerance: 32_768_000,
        time: timeval(realtime_ns()),
        tick: 10_000,
        ..Timex::default()
    };
    task.write_value(buffer.address(), &state)?;
    Ok(TIME_ERROR)
}

/// `clock_adjtime(2)` <https://man7.org/linux/man-pages/man2/adjtimex.2.html>
pub fn sys_clock_adjtime(task: &Arc<Task>, clock: ClockId, buffer: UserAddress) -> SysResult<i32> {
    named_clock(task, clock, Purpose::Use)?;
    if clock.0 != CLOCK_REALTIME {
        return Err(EOPNOTSUPP);
    }
    sys_adjtimex(task, buffer)
}
