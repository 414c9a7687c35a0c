//! Scheduling: policies, priorities and affinity.
//!
//! The host schedules application threads. What applications ask for is judged as Linux judges it, kept
//! and told again, but not handed to the host; what could not be pretended (real time) is refused.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::capabilities::{CAP_SYS_ADMIN, CAP_SYS_NICE};
use abi::errno::{E2BIG, EACCES, EFAULT, EINVAL, EOPNOTSUPP, EPERM, ESRCH, SysResult};
use abi::process::{
    IOPRIO_WHO_PGRP, IOPRIO_WHO_PROCESS, IOPRIO_WHO_USER, PRIO_PGRP, PRIO_PROCESS, PRIO_USER,
    SCHED_ATTR_SIZE_VER0, SCHED_ATTR_SIZE_VER1, SCHED_BATCH, SCHED_DEADLINE, SCHED_FIFO, SCHED_IDLE,
    SCHED_OTHER, SCHED_RESET_ON_FORK, SCHED_RR, SchedAttr, SchedFlags, SchedParam,
};
use abi::time::Timespec;
use abi::user::UserAddress;
use sentry::task::{Reply, Resource, Task, ThreadGroup};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::table::{Entry, Support, call, unimplemented_option};

const KEPT: Support = Support::Partial("kept and told again; the host schedules by its own rules");
const ORDINARY: Support = Support::Partial(
    "SCHED_OTHER, SCHED_BATCH and SCHED_IDLE, kept and told again; EPERM for real-time policies",
);

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(SCHED_YIELD, sys_sched_yield, now 0, Support::Full),
    call!(SCHED_SETAFFINITY, sys_sched_setaffinity, now 3, KEPT),
    call!(SCHED_GETAFFINITY, sys_sched_getaffinity, now 3, Support::Full),
    call!(GETCPU, sys_getcpu, now 2, Support::Partial("always the first processor of the affinity mask, node 0")),
    call!(SCHED_SETSCHEDULER, sys_sched_setscheduler, now 3, ORDINARY),
    call!(SCHED_GETSCHEDULER, sys_sched_getscheduler, now 1, Support::Full),
    call!(SCHED_SETPARAM, sys_sched_setparam, now 2, ORDINARY),
    call!(SCHED_GETPARAM, sys_sched_getparam, now 2, Support::Full),
    call!(SCHED_SETATTR, sys_sched_setattr, now 3, ORDINARY),
    call!(SCHED_GETATTR, sys_sched_getattr, now 4, Support::Full),
    call!(SCHED_GET_PRIORITY_MAX, sys_sched_get_priority_max, now 1, Support::Full),
    call!(SCHED_GET_PRIORITY_MIN, sys_sched_get_priority_min, now 1, Support::Full),
    call!(SCHED_RR_GET_INTERVAL, sys_sched_rr_get_interval, now 2, Support::Full),
    call!(GETPRIORITY, sys_getpriority, now 2, Support::Partial("one nice value for all threads of a process")),
    call!(
        SETPRIORITY,
        sys_setpriority,
        now 3,
        Support::Partial("kept and told again, for whole processes; the host schedules by its own rules")
    ),
    call!(IOPRIO_GET, sys_ioprio_get, now 2, Support::Full),
    call!(IOPRIO_SET, sys_ioprio_set, now 3, KEPT),
    call!(MEMBARRIER, sys_membarrier, now 3, Support::Partial("MEMBARRIER_CMD_QUERY, which lists no command")),
];

fn target(task: &Arc<Task>, pid: i32) -> SysResult<Arc<Task>> {
    match pid {
        0 => Ok(Arc::clone(task)),
        pid if pid < 0 => Err(EINVAL),
        pid => task.kernel.processes.task(pid).ok_or(ESRCH),
    }
}

/// Whether one task may change another's scheduling (Linux's `check_same_owner`).
fn may_change(task: &Task, target: &Task) -> bool {
    let (own, other) = (task.credentials(), target.credentials());
    own.euid == other.uid || own.euid == other.euid || own.can(CAP_SYS_NICE)
}

/// Whether a task may have a nice value (Linux's `can_nice`).
fn may_be_nice(task: &Task, target: &Task, nice: i32) -> bool {
    let wanted = u64::try_from(20 - nice).unwrap_or(0);
    wanted <= target.group.limits.soft(Resource::Nice) || task.credentials().can(CAP_SYS_NICE)
}

/// `sched_yield(2)` <https://man7.org/linux/man-pages/man2/sched_yield.2.html>
pub fn sys_sched_yield(_task: &Arc<Task>) -> Reply<'_> {
    Reply::Native
}

/// The bits of all processors.
fn all_processors(task: &Task) -> u64 {
    let count = task.kernel.host_facts.processors.clamp(1, 64);
    u64::MAX >> (64 - count)
}

/// Bytes of an affinity mask as the kernel keeps it.
const MASK_BYTES: usize = 8;

/// `sched_setaffinity(2)` <https://man7.org/linux/man-pages/man2/sched_setaffinity.2.html>
pub fn sys_sched_setaffinity(task: &Arc<Task>, pid: i32, length: u32, mask: UserAddress) -> SysResult<()> {
    let mut bytes = [0; MASK_BYTES];
    let length = usize::try_from(length).unwrap_or(MASK_BYTES).min(MASK_BYTES);
    task.read_exact(mask.address(), bytes.get_mut(..length).ok_or(EFAULT)?)?;
    let target = if pid < 0 { Err(ESRCH) } else { target(task, pid) }?;
    if !may_change(task, &target) {
        return Err(EPERM);
    }
    let wanted = u64::from_le_bytes(bytes) & all_processors(task);
    if wanted == 0 {
        return Err(EINVAL);
    }
    *target.affinity.lock() = wanted;
    Ok(())
}

/// `sched_getaffinity(2)` <https://man7.org/linux/man-pages/man2/sched_setaffinity.2.html>
pub fn sys_sched_getaffinity(task: &Arc<Task>, pid: i32, length: u32, mask: UserAddress) -> SysResult<usize> {
    if length.saturating_mul(8) < task.kernel.host_facts.processors || !length.is_multiple_of(8) {
        return Err(EINVAL);
    }
    let target = if pid < 0 { Err(ESRCH) } else { target(task, pid) }?;
    let shown = *target.affinity.lock() & all_processors(task);
    task.write_exact(mask.address(), &shown.to_le_bytes())?;
    Ok(MASK_BYTES)
}

/// `getcpu(2)` <https://man7.org/linux/man-pages/man2/getcpu.2.html>
pub fn sys_getcpu(task: &Arc<Task>, cpu: UserAddress, node: UserAddress) -> SysResult<()> {
    let mask = *task.affinity.lock() & all_processors(task);
    if !cpu.is_null() {
        task.write_value(cpu.address(), &(mask.trailing_zeros() % 64))?;
    }
    if !node.is_null() {
        task.write_value(node.address(), &0_u32)?;
    }
    Ok(())
}

/// Changes the policy of a task.
fn set_policy(
    task: &Arc<Task>,
    pid: i32,
    policy: Option<i32>,
    reset_on_fork: Option<bool>,
    priority: i32,
) -> SysResult<Arc<Task>> {
    let target = target(task, pid)?;
    let before = *target.settings.lock();
    let policy = policy.unwrap_or(before.policy);
    let reset_on_fork = reset_on_fork.unwrap_or(before.reset_on_fork);
    let real_time = matches!(policy, SCHED_FIFO | SCHED_RR);
    if !real_time && !matches!(policy, SCHED_OTHER | SCHED_BATCH | SCHED_IDLE | SCHED_DEADLINE) {
        return Err(EINVAL);
    }
    if !(0..=99).contains(&priority) || real_time != (priority != 0) {
        return Err(EINVAL);
    }
    if real_time || policy == SCHED_DEADLINE {
        if task.credentials().can(CAP_SYS_NICE) {
            unimplemented_option(
                task,
                "sched_setscheduler",
                "real-time policies",
                &[policy.unsigned_abs().into()],
            );
        }
        return Err(EPERM);
    }
    let nice = target.group.nice.load(Ordering::Relaxed);
    let leaves_idle = before.policy == SCHED_IDLE && policy != SCHED_IDLE;
    let privileged = task.credentials().can(CAP_SYS_NICE);
    if !may_change(task, &target)
        || leaves_idle && !may_be_nice(task, &target, nice)
        || before.reset_on_fork && !reset_on_fork && !privileged
    {
        return Err(EPERM);
    }
    let mut settings = target.settings.lock();
    settings.policy = policy;
    settings.reset_on_fork = reset_on_fork;
    drop(settings);
    Ok(target)
}

fn read_param(task: &Task, param: UserAddress) -> SysResult<i32> {
    if param.is_null() {
        return Err(EINVAL);
    }
    Ok(task.read_value::<SchedParam>(param.address())?.sched_priority)
}

/// `sched_setscheduler(2)` <https://man7.org/linux/man-pages/man2/sched_setscheduler.2.html>
pub fn sys_sched_setscheduler(task: &Arc<Task>, pid: i32, policy: i32, param: UserAddress) -> SysResult<()> {
    if policy < 0 || pid < 0 {
        return Err(EINVAL);
    }
    let priority = read_param(task, param)?;
    let reset_on_fork = policy & SCHED_RESET_ON_FORK != 0;
    set_policy(task, pid, Some(policy & !SCHED_RESET_ON_FORK), Some(reset_on_fork), priority)?;
    Ok(())
}

/// `sched_getscheduler(2)` <https://man7.org/linux/man-pages/man2/sched_setscheduler.2.html>
pub fn sys_sched_getscheduler(task: &Arc<Task>, pid: i32) -> SysResult<i32> {
    let settings = *target(task, pid)?.settings.lock();
    Ok(settings.policy | if settings.reset_on_fork { SCHED_RESET_ON_FORK } else { 0 })
}

/// `sched_setparam(2)` <https://man7.org/linux/man-pages/man2/sched_setparam.2.html>
pub fn sys_sched_setparam(task: &Arc<Task>, pid: i32, param: UserAddress) -> SysResult<()> {
    if pid < 0 {
        return Err(EINVAL);
    }
    let priority = read_param(task, param)?;
    set_policy(task, pid, None, None, priority)?;
    Ok(())
}

/// `sched_getparam(2)` <https://man7.org/linux/man-pages/man2/sched_setparam.2.html>
pub fn sys_sched_getparam(task: &Arc<Task>, pid: i32, param: UserAddress) -> SysResult<()> {
    if param.is_null() {
        return Err(EINVAL);
    }
    target(task, pid)?;
    // No policy that a task can have knows priorities.
    task.write_value(param.address(), &SchedParam { sched_priority: 0 })
}

/// Largest structure that `sched_setattr` and `sched_getattr` accept (a page).
const ATTRIBUTES_MAX: usize = 4096;

/// Reads an extensible structure; one that is too short or says what is not known is told the size that is.
fn read_attributes(task: &Task, address: UserAddress) -> SysResult<SchedAttr> {
    let too_big = |_| {
        // As on Linux, a failure to tell the size is ignored.
        let _ = task.write_value(address.address(), &(SCHED_ATTR_SIZE_VER1 as u32));
        E2BIG
    };
    let stated: u32 = task.read_value(address.address())?;
    let size = match usize::try_from(stated).map_err(|_| E2BIG)? {
        0 => SCHED_ATTR_SIZE_VER0,
        size => size,
    };
    if !(SCHED_ATTR_SIZE_VER0..=ATTRIBUTES_MAX).contains(&size) {
        return Err(too_big(()));
    }
    let mut bytes = vec![0; size.max(size_of::<SchedAttr>())];
    task.read_exact(address.address(), bytes.get_mut(..size).ok_or(EFAULT)?)?;
    let (attributes, rest) = SchedAttr::read_from_prefix(&bytes).map_err(|_| EINVAL)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(too_big(()));
    }
    let clamps = SchedFlags::SCHED_FLAG_UTIL_CLAMP_MIN | SchedFlags::SCHED_FLAG_UTIL_CLAMP_MAX;
    let flags = SchedFlags::from_bits_retain(attributes.sched_flags);
    if flags.intersects(clamps) && size < SCHED_ATTR_SIZE_VER1 {
        return Err(EINVAL);
    }
    Ok(attributes)
}

/// `sched_setattr(2)` <https://man7.org/linux/man-pages/man2/sched_setattr.2.html>
pub fn sys_sched_setattr(task: &Arc<Task>, pid: i32, attributes: UserAddress, flags: u32) -> SysResult<()> {
    if attributes.is_null() || pid < 0 || flags != 0 {
        return Err(EINVAL);
    }
    let wanted = read_attributes(task, attributes)?;
    let flags = SchedFlags::from_bits_retain(wanted.sched_flags);
    let policy = i32::try_from(wanted.sched_policy).map_err(|_| EINVAL)?;
    if !SchedFlags::all().contains(flags) {
        return Err(EINVAL);
    }
    if flags.intersects(SchedFlags::SCHED_FLAG_UTIL_CLAMP_MIN | SchedFlags::SCHED_FLAG_UTIL_CLAMP_MAX) {
        return Err(EOPNOTSUPP);
    }
    let policy = (!flags.contains(SchedFlags::SCHED_FLAG_KEEP_POLICY)).then_some(policy);
    let priority = i32::try_from(wanted.sched_priority).map_err(|_| EINVAL)?;
    let nice = wanted.sched_nice.clamp(NICE_MIN, NICE_MAX);
    let keeps = flags.contains(SchedFlags::SCHED_FLAG_KEEP_PARAMS);
    let subject = target(task, pid)?;
    let old_nice = subject.group.nice.load(Ordering::Relaxed);
    if !keeps && nice < old_nice && !may_be_nice(task, &subject, nice) {
        return Err(EPERM);
    }
    let reset_on_fork = flags.contains(SchedFlags::SCHED_FLAG_RESET_ON_FORK);
    let priority = if keeps { 0 } else { priority };
    let subject = set_policy(task, pid, policy, Some(reset_on_fork), priority)?;
    if !keeps {
        subject.group.nice.store(nice, Ordering::Relaxed);
    }
    Ok(())
}

/// `sched_getattr(2)` <https://man7.org/linux/man-pages/man2/sched_setattr.2.html>
pub fn sys_sched_getattr(
    task: &Arc<Task>,
    pid: i32,
    attributes: UserAddress,
    size: u32,
    flags: u32,
) -> SysResult<()> {
    let room = usize::try_from(size).map_err(|_| EINVAL)?;
    if attributes.is_null()
        || pid < 0
        || flags != 0
        || !(SCHED_ATTR_SIZE_VER0..=ATTRIBUTES_MAX).contains(&room)
    {
        return Err(EINVAL);
    }
    let subject = target(task, pid)?;
    let settings = *subject.settings.lock();
    let mut shown = SchedAttr::new_zeroed();
    let length = room.min(size_of::<SchedAttr>());
    shown.size = u32::try_from(length).map_err(|_| EINVAL)?;
    shown.sched_policy = settings.policy.unsigned_abs();
    if settings.reset_on_fork {
        shown.sched_flags = SchedFlags::SCHED_FLAG_RESET_ON_FORK.bits();
    }
    shown.sched_nice = subject.group.nice.load(Ordering::Relaxed);
    task.write_exact(attributes.address(), shown.as_bytes().get(..length).ok_or(EINVAL)?)
}

/// `sched_get_priority_max(2)` <https://man7.org/linux/man-pages/man2/sched_get_priority_max.2.html>
pub fn sys_sched_get_priority_max(_task: &Arc<Task>, policy: i32) -> SysResult<i32> {
    priorities(policy).map(|(_, highest)| highest)
}

/// `sched_get_priority_min(2)` <https://man7.org/linux/man-pages/man2/sched_get_priority_max.2.html>
pub fn sys_sched_get_priority_min(_task: &Arc<Task>, policy: i32) -> SysResult<i32> {
    priorities(policy).map(|(lowest, _)| lowest)
}

/// The priorities that a policy knows.
fn priorities(policy: i32) -> SysResult<(i32, i32)> {
    match policy {
        SCHED_FIFO | SCHED_RR => Ok((1, 99)),
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE | SCHED_DEADLINE => Ok((0, 0)),
        _ => Err(EINVAL),
    }
}

/// `sched_rr_get_interval(2)` <https://man7.org/linux/man-pages/man2/sched_rr_get_interval.2.html>
pub fn sys_sched_rr_get_interval(task: &Arc<Task>, pid: i32, interval: UserAddress) -> SysResult<()> {
    target(task, pid)?;
    // Linux's base slice: 750 µs, more with more processors (kernel/sched/fair.c, `get_update_sysctl_factor`).
    let factor = 1 + task.kernel.host_facts.processors.clamp(1, 8).ilog2();
    task.write_value(interval.address(), &Timespec::from_duration_ns(u64::from(factor) * 750_000))
}

/// Nice values.
const NICE_MIN: i32 = -20;
const NICE_MAX: i32 = 19;

/// The processes that `getpriority` and `setpriority` mean.
fn priority_targets(task: &Arc<Task>, which: i32, who: i32) -> SysResult<Vec<Arc<ThreadGroup>>> {
    let processes = &task.kernel.processes;
    match which {
        PRIO_PROCESS if who == 0 => Ok(vec![Arc::clone(&task.group)]),
        PRIO_PROCESS => Ok(processes.task(who).map(|task| Arc::clone(&task.group)).into_iter().collect()),
        PRIO_PGRP => Ok(processes.members(if who == 0 { task.group.pgid() } else { who })),
        PRIO_USER => {
            let uid = if who == 0 { task.credentials().uid } else { who.cast_unsigned() };
            let of_user = |group: &Arc<ThreadGroup>| {
                group.leader().is_some_and(|leader| leader.credentials().uid == uid)
            };
            Ok(processes.groups().into_iter().filter(of_user).collect())
        }
        _ => Err(EINVAL),
    }
}

/// `getpriority(2)` <https://man7.org/linux/man-pages/man2/getpriority.2.html>
pub fn sys_getpriority(task: &Arc<Task>, which: i32, who: i32) -> SysResult<i32> {
    let groups = priority_targets(task, which, who)?;
    // From 40 down to 1, so that no result looks like an error.
    groups.iter().map(|group| 20 - group.nice.load(Ordering::Relaxed)).max().ok_or(ESRCH)
}

/// `setpriority(2)` <https://man7.org/linux/man-pages/man2/getpriority.2.html>
pub fn sys_setpriority(task: &Arc<Task>, which: i32, who: i32, nice: i32) -> SysResult<()> {
    let nice = nice.clamp(NICE_MIN, NICE_MAX);
    let mut result = Err(ESRCH);
    for group in priority_targets(task, which, who)? {
        let outcome = set_nice(task, &group, nice);
        // One failure is reported, whatever the others do.
        if outcome.is_err() || result == Err(ESRCH) {
            result = outcome;
        }
    }
    result
}

fn set_nice(task: &Task, group: &ThreadGroup, nice: i32) -> SysResult<()> {
    let Some(leader) = group.leader() else { return Err(ESRCH) };
    let (own, other) = (task.credentials(), leader.credentials());
    if other.uid != own.euid && other.euid != own.euid && !own.can(CAP_SYS_NICE) {
        return Err(EPERM);
    }
    if nice < group.nice.load(Ordering::Relaxed) && !may_be_nice(task, &leader, nice) {
        return Err(EACCES);
    }
    group.nice.store(nice, Ordering::Relaxed);
    Ok(())
}

/// The threads that `ioprio_get` and `ioprio_set` mean.
fn io_targets(task: &Arc<Task>, which: i32, who: i32) -> SysResult<Vec<Arc<Task>>> {
    let processes = &task.kernel.processes;
    let found: Vec<Arc<Task>> = match which {
        IOPRIO_WHO_PROCESS if who == 0 => vec![Arc::clone(task)],
        IOPRIO_WHO_PROCESS => processes.task(who).into_iter().collect(),
        IOPRIO_WHO_PGRP => {
            let members = processes.members(if who == 0 { task.group.pgid() } else { who });
            members.iter().filter_map(|group| group.leader()).collect()
        }
        IOPRIO_WHO_USER => {
            let uid = if who == 0 { task.credentials().uid } else { who.cast_unsigned() };
            processes.tasks().into_iter().filter(|task| task.credentials().uid == uid).collect()
        }
        _ => return Err(EINVAL),
    };
    if found.is_empty() { Err(ESRCH) } else { Ok(found) }
}

/// `ioprio_get(2)` <https://man7.org/linux/man-pages/man2/ioprio_set.2.html>
pub fn sys_ioprio_get(task: &Arc<Task>, which: i32, who: i32) -> SysResult<i32> {
    let values = io_targets(task, which, who)?;
    // The strongest of several is the one with the lowest number.
    let strongest = values.iter().map(|task| task.settings.lock().io_priority).min();
    strongest.map(i32::from).ok_or(ESRCH)
}

/// `ioprio_set(2)` <https://man7.org/linux/man-pages/man2/ioprio_set.2.html>
pub fn sys_ioprio_set(task: &Arc<Task>, which: i32, who: i32, priority: i32) -> SysResult<()> {
    let own = task.credentials();
    let value = u16::try_from(priority).map_err(|_| EINVAL)?;
    check_io_priority(value, own.can(CAP_SYS_NICE) || own.can(CAP_SYS_ADMIN))?;
    for target in io_targets(task, which, who)? {
        let other = target.credentials();
        if other.uid != own.euid && other.uid != own.uid && !own.can(CAP_SYS_NICE) {
            return Err(EPERM);
        }
        target.settings.lock().io_priority = value;
    }
    Ok(())
}

/// Linux's `ioprio_check_cap`.
fn check_io_priority(value: u16, privileged: bool) -> SysResult<()> {
    const NONE: u16 = 0;
    const REAL_TIME: u16 = 1;
    const BEST_EFFORT: u16 = 2;
    const IDLE: u16 = 3;
    let (class, level) = (value >> 13, value & 7);
    match class {
        REAL_TIME if !privileged => Err(EPERM),
        REAL_TIME | BEST_EFFORT | IDLE => Ok(()),
        NONE if level == 0 => Ok(()),
        _ => Err(EINVAL),
    }
}

/// `membarrier(2)` <https://man7.org/linux/man-pages/man2/membarrier.2.html>
pub fn sys_membarrier(_task: &Arc<Task>, command: i32, flags: u32, _cpu: i32) -> SysResult<u32> {
    // MEMBARRIER_CMD_QUERY; no other command is in its answer.
    if command == 0 && flags == 0 { Ok(0) } else { Err(EINVAL) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_time_policies_have_priorities() {
        assert_eq!(priorities(SCHED_RR), Ok((1, 99)));
        assert_eq!(priorities(SCHED_BATCH), Ok((0, 0)));
        assert_eq!(priorities(4), Err(EINVAL));
        assert_eq!(priorities(-1), Err(EINVAL));
    }

    #[test]
    fn io_priorities_are_judged_by_class() {
        assert_eq!(check_io_priority(1 << 13 | 4, false), Err(EPERM));
        assert_eq!(check_io_priority(1 << 13 | 4, true), Ok(()));
        assert_eq!(check_io_priority(2 << 13 | 7, false), Ok(()));
        assert_eq!(check_io_priority(3 << 13, false), Ok(()));
        assert_eq!(check_io_priority(4, false), Err(EINVAL));
        assert_eq!(check_io_priority(4 << 13, true), Err(EINVAL));
    }
}
