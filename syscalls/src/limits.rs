//! `getrlimit`, `setrlimit`, `prlimit64`, `getrusage`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::capabilities::CAP_SYS_RESOURCE;
use abi::errno::{EINVAL, EPERM, ESRCH, SysResult};
use abi::process::{
    RLIM_NLIMITS, RLIMIT_CPU, RLIMIT_STACK, RUSAGE_CHILDREN, RUSAGE_SELF, RUSAGE_THREAD, Rlimit, Rusage,
};
use abi::time::Timeval;
use abi::user::UserAddress;
use sentry::task::{CpuTimes, Limit, Privilege, Reply, Task};

use crate::table::{Entry, IntoReply, Support, call};

const ENFORCED: Support = Support::Partial(
    "RLIMIT_RSS and RLIMIT_RTTIME are kept and reported only; RLIMIT_STACK is 64 MiB at most, and of another process \
     counts from its next execve",
);

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(GETRLIMIT, sys_getrlimit, now 2, Support::Full),
    call!(SETRLIMIT, sys_setrlimit, now 2, ENFORCED),
    call!(PRLIMIT64, sys_prlimit64, now 4, ENFORCED),
    call!(
        GETRUSAGE,
        sys_getrusage,
        now 2,
        Support::Partial("page faults, blocks and context switches are 0; ru_maxrss is the most writable memory seen mapped")
    ),
];

fn limit_of(raw: Rlimit) -> Limit {
    Limit { soft: raw.rlim_cur, hard: raw.rlim_max }
}

fn raw_of(limit: Limit) -> Rlimit {
    Rlimit { rlim_cur: limit.soft, rlim_max: limit.hard }
}

fn privilege(task: &Task) -> Privilege {
    if task.credentials().can(CAP_SYS_RESOURCE) { Privilege::Privileged } else { Privilege::Ordinary }
}

/// Changes a limit of a task's process on behalf of another; returns the old one.
fn change(task: &Task, target: &Task, resource: u32, limit: Limit) -> SysResult<Limit> {
    let before = target.group.limits.change(resource, limit, privilege(task))?;
    if resource == RLIMIT_CPU {
        target.group.enforce_cpu_limit(&task.kernel);
    }
    Ok(before)
}

/// `getrlimit(2)` <https://man7.org/linux/man-pages/man2/getrlimit.2.html>
pub fn sys_getrlimit(task: &Arc<Task>, resource: u32, limit: UserAddress) -> SysResult<()> {
    let found = task.group.limits.get_raw(resource)?;
    task.write_value(limit.address(), &raw_of(found))
}

/// `setrlimit(2)` <https://man7.org/linux/man-pages/man2/getrlimit.2.html>
pub fn sys_setrlimit(task: &Arc<Task>, resource: u32, limit: UserAddress) -> Reply<'_> {
    let changed =
        task.read_value(limit.address()).and_then(|limit| change(task, task, resource, limit_of(limit)));
    take_effect(task, resource, changed.map(drop))
}

/// The end of a change of the caller's own limit.
fn take_effect(task: &Arc<Task>, resource: u32, changed: SysResult<()>) -> Reply<'_> {
    if changed.is_err() || resource != RLIMIT_STACK {
        return changed.into_reply();
    }
    Reply::Later(Box::pin(async move {
        task.fit_stack().await;
        changed.into_reply()
    }))
}

/// `prlimit64(2)` <https://man7.org/linux/man-pages/man2/getrlimit.2.html>
pub fn sys_prlimit64(
    task: &Arc<Task>,
    pid: i32,
    resource: u32,
    new: UserAddress,
    old: UserAddress,
) -> Reply<'_> {
    let own = !new.is_null() && (pid == 0 || pid == task.pid());
    let changed = exchange(task, pid, resource, new, old);
    if own { take_effect(task, resource, changed) } else { changed.into_reply() }
}

fn exchange(task: &Arc<Task>, pid: i32, resource: u32, new: UserAddress, old: UserAddress) -> SysResult<()> {
    // Linux bounds the index before anything else, so that speculation cannot pass it.
    if usize::try_from(resource).map_or(true, |index| index >= RLIM_NLIMITS) {
        return Err(EINVAL);
    }
    let limit = match new.address() {
        0 => None,
        address => Some(limit_of(task.read_value(address)?)),
    };
    let target = if pid == 0 { Arc::clone(task) } else { task.kernel.processes.task(pid).ok_or(ESRCH)? };
    if !Arc::ptr_eq(&target, task) && !may_limit(task, &target) {
        return Err(EPERM);
    }
    let before = match limit {
        Some(limit) => change(task, &target, resource, limit)?,
        None => target.group.limits.get_raw(resource)?,
    };
    if old.is_null() { Ok(()) } else { task.write_value(old.address(), &raw_of(before)) }
}

/// Linux's `check_prlimit_permission`: all IDs of the target are the caller's real ones, or the caller is privileged.
fn may_limit(task: &Task, target: &Task) -> bool {
    let (own, other) = (task.credentials(), target.credentials());
    let same = [other.euid, other.suid, other.uid].iter().all(|uid| *uid == own.uid)
        && [other.egid, other.sgid, other.gid].iter().all(|gid| *gid == own.gid);
    same || privilege(task) == Privilege::Privileged
}

/// `getrusage(2)` <https://man7.org/linux/man-pages/man2/getrusage.2.html>
pub fn sys_getrusage(task: &Arc<Task>, who: i32, usage: UserAddress) -> SysResult<()> {
    let group = &task.group;
    // What is mapped and writable is the closest that is known of what is resident.
    let mapped = task.memory().writable_bytes();
    let peak = group.peak_resident.fetch_max(mapped, Ordering::Relaxed).max(mapped);
    let (times, peak) = match who {
        RUSAGE_SELF => (group.cpu_times(), peak),
        RUSAGE_CHILDREN => (*group.child_times.lock(), 0),
        RUSAGE_THREAD => (task.cpu_times(), peak),
        _ => return Err(EINVAL),
    };
    task.write_value(usage.address(), &usage_of(times, peak))
}

/// The usage of a process as far as it is known: times, and the most writable memory it had mapped, in bytes.
pub(crate) fn usage_of(times: CpuTimes, peak_bytes: u64) -> Rusage {
    let timeval = |nanoseconds: u64| Timeval::from_ns(i64::try_from(nanoseconds).unwrap_or(i64::MAX));
    Rusage {
        ru_utime: timeval(times.user_ns),
        ru_stime: timeval(times.system_ns),
        ru_maxrss: i64::try_from(peak_bytes / 1024).unwrap_or(i64::MAX),
        ..Rusage::default()
    }
}
