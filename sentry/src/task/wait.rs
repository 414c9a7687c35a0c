//! Waiting for children (`man 2 wait`).

use std::sync::Arc;

use abi::errno::{ECHILD, SysResult};
use abi::signals::SIGCHLD;

use super::{ChildEvent, CpuTimes, Pid, Task, ThreadGroup};
use crate::wait::{CallResult, OnInterrupt, PollEvents, Restart};
use std::sync::atomic::Ordering;

/// Which children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// Any.
    Any,
    /// This one.
    Child(Pid),
    /// Those of a process group.
    Group(Pid),
}

/// Which kinds of children, by the signal they send (`__WALL`, `__WCLONE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitKinds {
    /// Those that send `SIGCHLD`.
    Ordinary,
    /// Those that do not.
    Clones,
    /// All.
    All,
}

/// What to wait for.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names of `man 2 waitid`")]
pub struct WaitRequest {
    pub which: WaitFor,
    pub kinds: WaitKinds,
    pub exited: bool,
    pub stopped: bool,
    pub continued: bool,
    /// `WNOHANG`
    pub no_hang: bool,
    /// `WNOWAIT`: leave the child as it is.
    pub keep: bool,
}

/// A child's change of state.
#[derive(Clone, Copy, Debug)]
pub struct WaitResult {
    /// The child.
    pub pid: Pid,
    /// Its real user.
    pub uid: u32,
    /// What happened.
    pub event: ChildEvent,
    /// What it used, for `rusage`.
    pub times: CpuTimes,
    /// The most writable memory it had mapped, in bytes.
    pub peak_bytes: u64,
}

impl Task {
    /// Waits for a child to change state. `None` with `no_hang` if none has.
    ///
    /// # Errors
    /// `ECHILD`: there is no such child.
    pub async fn wait_for_child(&self, request: WaitRequest) -> CallResult<Option<WaitResult>> {
        let group = Arc::clone(&self.group);
        let result = self
            .wait_until(&group.child_events, PollEvents::IN, || match self.find_child(request) {
                Ok(None) if !request.no_hang => None,
                other => Some(other),
            })
            .await
            .on_interrupt(Restart::Sys)?;
        Ok(result?)
    }

    fn find_child(&self, request: WaitRequest) -> SysResult<Option<WaitResult>> {
        let mut any = false;
        for child in self.group.children() {
            if !request.selects(&child) {
                continue;
            }
            any = true;
            if let Some(result) = self.child_event(&child, request) {
                return Ok(Some(result));
            }
        }
        if any { Ok(None) } else { Err(ECHILD) }
    }

    fn child_event(&self, child: &Arc<ThreadGroup>, request: WaitRequest) -> Option<WaitResult> {
        let uid = child
            .leader()
            .map_or_else(|| child.last_uid.load(Ordering::Relaxed), |task| task.credentials().uid);
        let past = *child.past_times.lock();
        let times = past.plus(*child.child_times.lock());
        let peak_bytes = child.peak_resident.load(Ordering::Relaxed);
        let result = |event| Some(WaitResult { pid: child.pid, uid, event, times, peak_bytes });
        if request.exited
            && let Some(status) = child.zombie_status()
        {
            if !request.keep {
                if !self.group.remove_child(child) {
                    // Another thread was faster.
                    return None;
                }
                self.kernel.processes.remove_group(child.pid);
                let mut collected = self.group.child_times.lock();
                *collected = collected.plus(times);
            }
            return result(ChildEvent::Exited(status));
        }
        if request.stopped
            && let Some(signal) = child.signals.stop_report(request.keep)
        {
            return result(ChildEvent::Stopped(signal));
        }
        if request.continued && child.signals.continue_report(request.keep) {
            return result(ChildEvent::Continued);
        }
        None
    }
}

impl WaitRequest {
    fn selects(&self, child: &ThreadGroup) -> bool {
        let by_number = match self.which {
            WaitFor::Any => true,
            WaitFor::Child(pid) => child.pid == pid,
            WaitFor::Group(pgid) => child.pgid() == pgid,
        };
        let ordinary = child.exit_signal.load(Ordering::Relaxed) == SIGCHLD.number();
        by_number
            && match self.kinds {
                WaitKinds::Ordinary => ordinary,
                WaitKinds::Clones => !ordinary,
                WaitKinds::All => true,
            }
    }
}

impl ChildEvent {
    /// As `wait4` stores it.
    pub const fn wait_status(self) -> i32 {
        match self {
            Self::Exited(status) => status.wait_status(),
            Self::Stopped(signal) => signal.number() << 8 | 0x7f,
            Self::Continued => 0xffff,
        }
    }
}

#[cfg(test)]
mod tests {
    use abi::signals::{SIGKILL, SIGTSTP};

    use crate::task::ExitStatus;

    use super::*;

    #[test]
    fn statuses_are_encoded_as_the_macros_of_wait_expect() {
        assert_eq!(ChildEvent::Exited(ExitStatus::Exited(3)).wait_status(), 0x300);
        assert_eq!(ChildEvent::Exited(ExitStatus::Killed { signal: SIGKILL, core: false }).wait_status(), 9);
        assert_eq!(ChildEvent::Stopped(SIGTSTP).wait_status(), 20 << 8 | 0x7f);
        assert_eq!(ChildEvent::Continued.wait_status(), 0xffff);
    }
}
