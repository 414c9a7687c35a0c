//! `wait4`, `waitid`.

use std::sync::Arc;

use abi::errno::{EINVAL, ESRCH, SysResult};
use abi::process::{P_ALL, P_PGID, P_PID, P_PIDFD, WaitOptions};
use abi::signal_info::SigInfo;
use abi::signals::SIGCHLD;
use abi::user::UserAddress;
use sentry::fs::pidfd;
use sentry::task::{Task, ThreadGroup, WaitFor, WaitKinds, WaitRequest, WaitResult};
use sentry::wait::CallResult;

use crate::table::{Entry, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(WAIT4, sys_wait4, wait 4, Support::Partial("of the usage only times and ru_maxrss (the most writable memory mapped)")),
    call!(WAITID, sys_waitid, wait 5, Support::Full),
];

fn kinds(options: WaitOptions) -> WaitKinds {
    if options.contains(WaitOptions::__WALL) {
        WaitKinds::All
    } else if options.contains(WaitOptions::__WCLONE) {
        WaitKinds::Clones
    } else {
        WaitKinds::Ordinary
    }
}

/// `wait4(2)` <https://man7.org/linux/man-pages/man2/wait4.2.html>
pub async fn sys_wait4(
    task: &Arc<Task>,
    pid: i32,
    status: UserAddress,
    options: WaitOptions,
    usage: UserAddress,
) -> CallResult<i32> {
    let allowed = WaitOptions::WNOHANG
        | WaitOptions::WUNTRACED
        | WaitOptions::WCONTINUED
        | WaitOptions::__WALL
        | WaitOptions::__WCLONE
        | WaitOptions::__WNOTHREAD;
    if !allowed.contains(options) {
        return Err(EINVAL.into());
    }
    let which = match pid {
        -1 => WaitFor::Any,
        0 => WaitFor::Group(task.group.pgid()),
        i32::MIN => return Err(ESRCH.into()),
        pid if pid < 0 => WaitFor::Group(-pid),
        pid => WaitFor::Child(pid),
    };
    let request = WaitRequest {
        which,
        kinds: kinds(options),
        exited: true,
        stopped: options.contains(WaitOptions::WUNTRACED),
        continued: options.contains(WaitOptions::WCONTINUED),
        no_hang: options.contains(WaitOptions::WNOHANG),
        keep: false,
    };
    let Some(result) = task.wait_for_child(request).await? else { return Ok(0) };
    if !status.is_null() {
        task.write_value(status.address(), &result.event.wait_status())?;
    }
    write_usage(task, usage, &result)?;
    Ok(result.pid)
}

/// `waitid(2)` <https://man7.org/linux/man-pages/man2/waitid.2.html>
pub async fn sys_waitid(
    task: &Arc<Task>,
    kind: i32,
    id: i32,
    info: UserAddress,
    options: WaitOptions,
    usage: UserAddress,
) -> CallResult<()> {
    let events = WaitOptions::WEXITED | WaitOptions::WUNTRACED | WaitOptions::WCONTINUED;
    let allowed = events
        | WaitOptions::WNOHANG
        | WaitOptions::WNOWAIT
        | WaitOptions::__WALL
        | WaitOptions::__WCLONE
        | WaitOptions::__WNOTHREAD;
    if !allowed.contains(options) || !options.intersects(events) {
        return Err(EINVAL.into());
    }
    let which = match kind {
        P_ALL => WaitFor::Any,
        P_PID if id > 0 => WaitFor::Child(id),
        P_PGID if id == 0 => WaitFor::Group(task.group.pgid()),
        P_PGID if id > 0 => WaitFor::Group(id),
        P_PIDFD if id >= 0 => WaitFor::Child(pidfd::process_of(&*task.files().get(id)?)?.pid),
        _ => return Err(EINVAL.into()),
    };
    let request = WaitRequest {
        which,
        kinds: kinds(options),
        exited: options.contains(WaitOptions::WEXITED),
        stopped: options.contains(WaitOptions::WUNTRACED),
        continued: options.contains(WaitOptions::WCONTINUED),
        no_hang: options.contains(WaitOptions::WNOHANG),
        keep: options.contains(WaitOptions::WNOWAIT),
    };
    let result = task.wait_for_child(request).await?;
    if let Some(result) = &result {
        write_usage(task, usage, result)?;
    }
    if !info.is_null() {
        let shown = result.map_or_else(SigInfo::default, |result| {
            let (code, status) = ThreadGroup::child_code(result.event);
            SigInfo::chld(code, result.pid, result.uid, status, 0, 0)
        });
        debug_assert!(result.is_none() || shown.signal() == Some(SIGCHLD));
        task.write_value(info.address(), &shown)?;
    }
    Ok(())
}

fn write_usage(task: &Task, address: UserAddress, result: &WaitResult) -> SysResult<()> {
    if address.is_null() {
        return Ok(());
    }
    let usage = crate::limits::usage_of(result.times, result.peak_bytes);
    task.write_value(address.address(), &usage)
}
