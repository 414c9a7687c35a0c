//! `rt_sigaction` and everything else about signals that is a call of its own.

use std::sync::Arc;

use abi::errno::{EAGAIN, EBADF, EFAULT, EINVAL, ENOMEM, EPERM, ESRCH, SysResult};
use abi::signal_info::SigInfo;
use abi::signals::{
    MINSIGSTKSZ, SIG_BLOCK, SIG_SETMASK, SIG_UNBLOCK, SIGCONT, SIGSET_SIZE, SaFlags, SigAction, SigSet,
    Signal, SignalNumber, StackFlags, StackT,
};
use abi::time::Timespec;
use abi::user::UserAddress;
use sentry::fs::pidfd;
use sentry::signals::SignalTarget;
use sentry::task::{Reply, Task, ThreadGroup};
use sentry::time::Instant;
use sentry::wait::{CallResult, Failure, OnInterrupt, PollEvents, Restart, WaitError, WaitQueue};

use crate::table::{Entry, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(RT_SIGACTION, sys_rt_sigaction, now 4, Support::Full),
    call!(RT_SIGPROCMASK, sys_rt_sigprocmask, now 4, Support::Full),
    call!(RT_SIGRETURN, sys_rt_sigreturn, wait 0, Support::Full),
    call!(RT_SIGPENDING, sys_rt_sigpending, now 2, Support::Full),
    call!(RT_SIGTIMEDWAIT, sys_rt_sigtimedwait, wait 4, Support::Full),
    call!(RT_SIGSUSPEND, sys_rt_sigsuspend, wait 2, Support::Full),
    call!(RT_SIGQUEUEINFO, sys_rt_sigqueueinfo, now 3, Support::Full),
    call!(RT_TGSIGQUEUEINFO, sys_rt_tgsigqueueinfo, now 4, Support::Full),
    call!(SIGALTSTACK, sys_sigaltstack, wait 2, Support::Full),
    call!(PAUSE, sys_pause, wait 0, Support::Full),
    call!(KILL, sys_kill, now 2, Support::Full),
    call!(TKILL, sys_tkill, now 2, Support::Full),
    call!(TGKILL, sys_tgkill, now 3, Support::Full),
    call!(PIDFD_SEND_SIGNAL, sys_pidfd_send_signal, now 4, Support::Partial("no flags")),
];

/// `rt_sigaction(2)` <https://man7.org/linux/man-pages/man2/sigaction.2.html>
pub fn sys_rt_sigaction(
    task: &Arc<Task>,
    signal: SignalNumber,
    new: UserAddress,
    old: UserAddress,
    size: usize,
) -> SysResult<()> {
    if size != SIGSET_SIZE {
        return Err(EINVAL);
    }
    let action = if new.is_null() { None } else { Some(task.read_value::<SigAction>(new.address())?) };
    let signal = signal.signal().ok_or(EINVAL)?;
    if action.is_some() && signal.is_unblockable() {
        return Err(EINVAL);
    }
    let handlers = task.group.signals.handlers();
    let before = match action {
        Some(mut action) => {
            action.sa_flags &= SaFlags::KNOWN.bits();
            action.sa_mask = action.sa_mask.blockable();
            let before = handlers.set(signal, action);
            task.group.forget_ignored(signal);
            before
        }
        None => handlers.get(signal),
    };
    if old.is_null() { Ok(()) } else { task.write_value(old.address(), &before) }
}

/// `rt_sigprocmask(2)` <https://man7.org/linux/man-pages/man2/sigprocmask.2.html>
pub fn sys_rt_sigprocmask(
    task: &Arc<Task>,
    how: i32,
    set: UserAddress,
    old: UserAddress,
    size: usize,
) -> SysResult<()> {
    if size != SIGSET_SIZE {
        return Err(EINVAL);
    }
    let before = task.signals.mask();
    if !set.is_null() {
        let set: SigSet = task.read_value(set.address())?;
        task.set_signal_mask(match how {
            SIG_BLOCK => before | set,
            SIG_UNBLOCK => before.difference(set),
            SIG_SETMASK => set,
            _ => return Err(EINVAL),
        });
        task.renew_leave();
    }
    if old.is_null() { Ok(()) } else { task.write_value(old.address(), &before) }
}

/// `rt_sigreturn(2)` <https://man7.org/linux/man-pages/man2/sigreturn.2.html>
pub async fn sys_rt_sigreturn(task: &Arc<Task>) -> Reply<'_> {
    task.return_from_signal().await;
    Reply::Registers
}

/// `rt_sigpending(2)` <https://man7.org/linux/man-pages/man2/sigpending.2.html>
pub fn sys_rt_sigpending(task: &Arc<Task>, set: UserAddress, size: usize) -> SysResult<()> {
    if size > SIGSET_SIZE {
        return Err(EINVAL);
    }
    let pending = task.signals.all_pending(&task.group) & task.signals.mask();
    let bytes = pending.0.to_le_bytes();
    task.write_exact(set.address(), bytes.get(..size).ok_or(EINVAL)?)
}

/// `rt_sigtimedwait(2)` <https://man7.org/linux/man-pages/man2/sigwaitinfo.2.html>
pub async fn sys_rt_sigtimedwait(
    task: &Arc<Task>,
    set: UserAddress,
    info: UserAddress,
    timeout: UserAddress,
    size: usize,
) -> CallResult<i32> {
    if size != SIGSET_SIZE {
        return Err(EINVAL.into());
    }
    let set: SigSet = task.read_value(set.address())?;
    let set = set.blockable();
    let deadline = match timeout.address() {
        0 => None,
        address => Some(Instant::now().after_ns(task.read_value::<Timespec>(address)?.timeout_ns()?)),
    };
    task.signals.set_waited_for(set);
    let group = Arc::clone(&task.group);
    let result = task
        .wait_on_all(
            &[(&task.signals.arrived, PollEvents::IN), (&group.signals.arrived, PollEvents::IN)],
            deadline,
            || task.take_pending(set),
        )
        .await;
    task.signals.set_waited_for(SigSet::EMPTY);
    let (signal, taken) = match result {
        Ok(taken) => taken,
        Err(WaitError::TimedOut) => return Err(EAGAIN.into()),
        Err(WaitError::Interrupted) => return Err(Failure::Restart(Restart::Never)),
    };
    if !info.is_null() {
        task.write_value(info.address(), &taken)?;
    }
    Ok(signal.number())
}

/// `rt_sigsuspend(2)` <https://man7.org/linux/man-pages/man2/sigsuspend.2.html>
pub async fn sys_rt_sigsuspend(task: &Arc<Task>, set: UserAddress, size: usize) -> CallResult<()> {
    if size != SIGSET_SIZE {
        return Err(EINVAL.into());
    }
    let set: SigSet = task.read_value(set.address())?;
    let before = task.set_signal_mask(set);
    task.signals.saved_mask.lock().get_or_insert(before);
    wait_for_signal(task).await
}

/// `pause(2)` <https://man7.org/linux/man-pages/man2/pause.2.html>
pub async fn sys_pause(task: &Arc<Task>) -> CallResult<()> {
    wait_for_signal(task).await
}

async fn wait_for_signal(task: &Arc<Task>) -> CallResult<()> {
    // Nobody wakes this queue: only signals end the wait.
    let nothing = WaitQueue::new();
    task.wait_until(&nothing, PollEvents::empty(), || None::<()>).await.on_interrupt(Restart::NoHand)
}

/// `sigaltstack(2)` <https://man7.org/linux/man-pages/man2/sigaltstack.2.html>
pub async fn sys_sigaltstack(task: &Arc<Task>, new: UserAddress, old: UserAddress) -> CallResult<()> {
    let rsp = task.stack_pointer().await.ok_or(EFAULT)?;
    let before = task.signals.shown_stack(rsp);
    if !new.is_null() {
        let stack: StackT = task.read_value(new.address())?;
        if before.ss_flags & StackFlags::SS_ONSTACK.bits() != 0 {
            return Err(EPERM.into());
        }
        let mode = stack.ss_flags & !StackFlags::SS_AUTODISARM.bits();
        let disable = mode == StackFlags::SS_DISABLE.bits();
        if !disable && mode != 0 && mode != StackFlags::SS_ONSTACK.bits() {
            return Err(EINVAL.into());
        }
        let stack = if disable {
            StackT::DISABLED
        } else {
            if stack.ss_size < MINSIGSTKSZ {
                return Err(ENOMEM.into());
            }
            StackT { ss_flags: stack.ss_flags & StackFlags::SS_AUTODISARM.bits(), ..stack }
        };
        *task.signals.stack.lock() = stack;
    }
    if !old.is_null() {
        task.write_value(old.address(), &before)?;
    }
    Ok(())
}

/// Whether one task may signal a process (`man 2 kill`).
fn may_signal(task: &Task, group: &ThreadGroup, signal: Option<Signal>) -> bool {
    const CAP_KILL: u32 = 5;
    let sender = task.credentials();
    let Some(target) = group.leader().map(|leader| leader.credentials()) else { return true };
    sender.has(CAP_KILL)
        || [target.uid, target.suid].iter().any(|uid| *uid == sender.uid || *uid == sender.euid)
        || signal == Some(SIGCONT) && group.sid() == task.group.sid()
}

/// `kill(2)` <https://man7.org/linux/man-pages/man2/kill.2.html>
pub fn sys_kill(task: &Arc<Task>, pid: i32, signal: SignalNumber) -> SysResult<()> {
    let number = checked(signal)?;
    let info = |signal| SigInfo::user(signal, task.pid(), task.credentials().uid);
    let processes = &task.kernel.processes;
    let targets = match pid {
        0 => processes.members(task.group.pgid()),
        -1 => {
            processes.groups().into_iter().filter(|group| group.pid > 1 && group.pid != task.pid()).collect()
        }
        i32::MIN => return Err(ESRCH),
        pid if pid < 0 => processes.members(-pid),
        // A thread's ID finds its process, as on Linux.
        pid => match processes.group(pid).or_else(|| processes.task(pid).map(|task| Arc::clone(&task.group)))
        {
            Some(group) => {
                if !may_signal(task, &group, number) {
                    return Err(EPERM);
                }
                return number.map_or(Ok(()), |signal| group.send_signal(signal, info(signal)));
            }
            None => return Err(ESRCH),
        },
    };
    if targets.is_empty() {
        return Err(ESRCH);
    }
    let mut result = Err(EPERM);
    for group in targets {
        if may_signal(task, &group, number) {
            let sent = number.map_or(Ok(()), |signal| group.send_signal(signal, info(signal)));
            result = if result.is_ok() { result } else { sent };
        }
    }
    result
}

/// The signal; `None` for the probe 0.
fn checked(signal: SignalNumber) -> SysResult<Option<Signal>> {
    if signal.is_probe() { Ok(None) } else { signal.signal().map(Some).ok_or(EINVAL) }
}

/// `tkill(2)` <https://man7.org/linux/man-pages/man2/tkill.2.html>
pub fn sys_tkill(task: &Arc<Task>, tid: i32, signal: SignalNumber) -> SysResult<()> {
    if tid <= 0 {
        return Err(EINVAL);
    }
    let target = task.kernel.processes.task(tid).ok_or(ESRCH)?;
    send_to_thread(task, &target, signal)
}

/// `tgkill(2)` <https://man7.org/linux/man-pages/man2/tkill.2.html>
pub fn sys_tgkill(task: &Arc<Task>, pid: i32, tid: i32, signal: SignalNumber) -> SysResult<()> {
    if pid <= 0 || tid <= 0 {
        return Err(EINVAL);
    }
    let target = task.kernel.processes.task(tid).filter(|target| target.pid() == pid).ok_or(ESRCH)?;
    send_to_thread(task, &target, signal)
}

fn send_to_thread(task: &Task, target: &Arc<Task>, signal: SignalNumber) -> SysResult<()> {
    let number = checked(signal)?;
    if !may_signal(task, &target.group, number) {
        return Err(EPERM);
    }
    match number {
        Some(signal) => {
            target.send_signal(signal, SigInfo::tkill(signal, task.pid(), task.credentials().uid))
        }
        None => Ok(()),
    }
}

/// Reads the details a process gives with a signal; only itself may be told what only the kernel says.
fn read_info(
    task: &Task,
    pid: i32,
    signal: SignalNumber,
    address: UserAddress,
) -> SysResult<(Option<Signal>, SigInfo)> {
    let mut info: SigInfo = task.read_value(address.address())?;
    const SI_TKILL: i32 = -6;
    if (info.si_code >= 0 || info.si_code == SI_TKILL) && task.pid() != pid {
        return Err(EPERM);
    }
    info.si_signo = signal.0;
    Ok((checked(signal)?, info))
}

fn queue(
    task: &Task,
    target: &SignalTarget,
    group: &ThreadGroup,
    signal: Option<Signal>,
    info: SigInfo,
) -> SysResult<()> {
    if !may_signal(task, group, signal) {
        return Err(EPERM);
    }
    signal.map_or(Ok(()), |signal| target.send(signal, info))
}

/// `rt_sigqueueinfo(2)` <https://man7.org/linux/man-pages/man2/rt_sigqueueinfo.2.html>
pub fn sys_rt_sigqueueinfo(
    task: &Arc<Task>,
    pid: i32,
    signal: SignalNumber,
    info: UserAddress,
) -> SysResult<()> {
    let (signal, info) = read_info(task, pid, signal, info)?;
    let group = task.kernel.processes.group(pid).ok_or(ESRCH)?;
    queue(task, &SignalTarget::Group(Arc::clone(&group)), &group, signal, info)
}

/// `rt_tgsigqueueinfo(2)` <https://man7.org/linux/man-pages/man2/rt_sigqueueinfo.2.html>
pub fn sys_rt_tgsigqueueinfo(
    task: &Arc<Task>,
    pid: i32,
    tid: i32,
    signal: SignalNumber,
    info: UserAddress,
) -> SysResult<()> {
    if pid <= 0 || tid <= 0 {
        return Err(EINVAL);
    }
    let (signal, info) = read_info(task, pid, signal, info)?;
    let target = task.kernel.processes.task(tid).filter(|target| target.pid() == pid).ok_or(ESRCH)?;
    queue(task, &SignalTarget::Task(Arc::clone(&target)), &target.group, signal, info)
}

/// `pidfd_send_signal(2)` <https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html>
pub fn sys_pidfd_send_signal(
    task: &Arc<Task>,
    fd: i32,
    signal: SignalNumber,
    info: UserAddress,
    flags: u32,
) -> SysResult<()> {
    if flags != 0 {
        return Err(EINVAL);
    }
    let file = task.files().get(fd)?;
    let group = pidfd::process_of(&file).map_err(|_| EBADF)?;
    if group.is_gone() {
        return Err(ESRCH);
    }
    let (signal, info) = if info.is_null() {
        let number = checked(signal)?;
        let details = number.map_or_else(SigInfo::default, |signal| {
            SigInfo::user(signal, task.pid(), task.credentials().uid)
        });
        (number, details)
    } else {
        let (number, details) = read_info(task, group.pid, signal, info)?;
        if details.si_signo != signal.0 {
            return Err(EINVAL);
        }
        (number, details)
    };
    queue(task, &SignalTarget::Group(Arc::clone(&group)), &group, signal, info)
}
