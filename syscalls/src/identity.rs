//! Process, parent, group and session numbers.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::errno::{EACCES, EINVAL, EPERM, ESRCH, SysResult};
use sentry::task::{Task, ThreadGroup};

use crate::table::{Entry, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(GETPID, sys_getpid, now 0, Support::Full),
    call!(GETTID, sys_gettid, now 0, Support::Full),
    call!(GETPPID, sys_getppid, now 0, Support::Full),
    call!(GETPGRP, sys_getpgrp, now 0, Support::Full),
    call!(GETPGID, sys_getpgid, now 1, Support::Full),
    call!(SETPGID, sys_setpgid, now 2, Support::Full),
    call!(GETSID, sys_getsid, now 1, Support::Full),
    call!(SETSID, sys_setsid, now 0, Support::Full),
];

/// `getpid(2)` <https://man7.org/linux/man-pages/man2/getpid.2.html>
pub fn sys_getpid(task: &Arc<Task>) -> SysResult<i32> {
    Ok(task.pid())
}

/// `gettid(2)` <https://man7.org/linux/man-pages/man2/gettid.2.html>
pub fn sys_gettid(task: &Arc<Task>) -> SysResult<i32> {
    Ok(task.tid())
}

/// `getppid(2)` <https://man7.org/linux/man-pages/man2/getpid.2.html>
pub fn sys_getppid(task: &Arc<Task>) -> SysResult<i32> {
    Ok(task.group.parent_pid())
}

/// `getpgrp(2)` <https://man7.org/linux/man-pages/man2/setpgid.2.html>
pub fn sys_getpgrp(task: &Arc<Task>) -> SysResult<i32> {
    Ok(task.group.pgid())
}

fn group_of(task: &Task, pid: i32) -> SysResult<Arc<ThreadGroup>> {
    if pid == 0 {
        return Ok(Arc::clone(&task.group));
    }
    let processes = &task.kernel.processes;
    processes.group(pid).or_else(|| processes.task(pid).map(|task| Arc::clone(&task.group))).ok_or(ESRCH)
}

/// `getpgid(2)` <https://man7.org/linux/man-pages/man2/setpgid.2.html>
pub fn sys_getpgid(task: &Arc<Task>, pid: i32) -> SysResult<i32> {
    Ok(group_of(task, pid)?.pgid())
}

/// `getsid(2)` <https://man7.org/linux/man-pages/man2/getsid.2.html>
pub fn sys_getsid(task: &Arc<Task>, pid: i32) -> SysResult<i32> {
    Ok(group_of(task, pid)?.sid())
}

/// `setpgid(2)` <https://man7.org/linux/man-pages/man2/setpgid.2.html>
pub fn sys_setpgid(task: &Arc<Task>, pid: i32, pgid: i32) -> SysResult<()> {
    let pid = if pid == 0 { task.pid() } else { pid };
    let pgid = if pgid == 0 { pid } else { pgid };
    if pgid < 0 {
        return Err(EINVAL);
    }
    let processes = &task.kernel.processes;
    let group = processes.group(pid).ok_or(ESRCH)?;
    let is_child = group.parent().is_some_and(|parent| Arc::ptr_eq(&parent, &task.group));
    if is_child {
        if group.sid() != task.group.sid() {
            return Err(EPERM);
        }
        if group.has_execed.load(Ordering::Relaxed) {
            return Err(EACCES);
        }
    } else if !Arc::ptr_eq(&group, &task.group) {
        return Err(ESRCH);
    }
    // A session leader stays in its group.
    if group.sid() == group.pid {
        return Err(EPERM);
    }
    if pgid != pid && !processes.members(pgid).iter().any(|member| member.sid() == task.group.sid()) {
        return Err(EPERM);
    }
    group.set_pgid(pgid);
    Ok(())
}

/// `setsid(2)` <https://man7.org/linux/man-pages/man2/setsid.2.html>
pub fn sys_setsid(task: &Arc<Task>) -> SysResult<i32> {
    let group = &task.group;
    if group.sid() == group.pid || !task.kernel.processes.members(group.pid).is_empty() {
        return Err(EPERM);
    }
    group.set_sid(group.pid);
    group.set_pgid(group.pid);
    Ok(group.pid)
}
