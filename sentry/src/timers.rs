//! Timers of a process: `setitimer`, `timer_create`.

use crate::task::Pid;

/// See the module's text.
#[derive(Default)]
pub struct ProcessTimers {}

impl ProcessTimers {
    /// `execve` deletes POSIX timers; interval timers go on.
    pub(crate) fn drop_for_exec(&self) {}

    /// A thread ended: nothing is sent to it any more.
    pub(crate) fn forget_task(&self, tid: Pid) {
        let _ = tid;
    }
}
