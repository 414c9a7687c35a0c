//! Sessions, controlling terminals, and who may use a terminal from the background (`man 7 credentials`, `man 4 tty`,
//! `man 3 tcsetpgrp`; Linux's `drivers/tty/tty_jobctrl.c`).
//!
//! A process knows its controlling terminal, a terminal knows its session and foreground process group. The decision
//! whether a background process may go on is [`judge`], a pure function.

use std::sync::Arc;

use abi::errno::{EIO, Errno};
use abi::signal_info::SigInfo;
use abi::signals::{SIGCONT, SIGHUP, SIGTTIN, Signal};

use super::Terminal;
use crate::kernel::Kernel;
use crate::task::{Pid, Task, ThreadGroup};
use crate::wait::{CallResult, Failure, Restart};

/// What the decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct Background {
    /// The terminal is the process's controlling terminal.
    pub controlling: bool,
    /// The terminal's foreground process group.
    pub foreground: Option<Pid>,
    /// The process's group.
    pub pgid: Pid,
    /// The thread blocks or ignores the signal that would stop it.
    pub ignored: bool,
    /// Nobody could continue the process group if it were stopped.
    pub orphaned: bool,
}

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Proceed,
    /// It may not.
    Refuse(Errno),
    /// Its process group gets the signal, and the call begins again.
    Stop,
}

/// Whether a process may do to a terminal what `signal` (`SIGTTIN` or `SIGTTOU`) protects (`__tty_check_change`).
pub fn judge(background: Background, signal: Signal) -> Verdict {
    if !background.controlling || background.foreground.is_none_or(|pgid| pgid == background.pgid) {
        return Verdict::Proceed;
    }
    match (background.ignored, background.orphaned) {
        (true, _) if signal == SIGTTIN => Verdict::Refuse(EIO),
        (true, _) => Verdict::Proceed,
        (false, true) => Verdict::Refuse(EIO),
        (false, false) => Verdict::Stop,
    }
}

impl Terminal {
    /// Judges the caller, and stops its process group if it must.
    ///
    /// # Errors
    /// `EIO`; restarted after the stop.
    pub(super) fn check_background(self: &Arc<Self>, task: &Task, signal: Signal) -> CallResult<()> {
        let group = &task.group;
        let controlling = group.controlling_terminal().is_some_and(|terminal| Arc::ptr_eq(&terminal, self));
        if !controlling {
            return Ok(());
        }
        let background = Background {
            controlling,
            foreground: self.foreground(),
            pgid: group.pgid(),
            ignored: task.signals.mask().contains(signal) || group.signals.handlers().get(signal).is_ignore(),
            orphaned: task.kernel.processes.is_orphaned_group(group),
        };
        match judge(background, signal) {
            Verdict::Proceed => Ok(()),
            Verdict::Refuse(errno) => Err(Failure::Error(errno)),
            Verdict::Stop => {
                signal_group(&task.kernel, background.pgid, signal);
                Err(Failure::Restart(Restart::Sys))
            }
        }
    }

    /// Makes this the controlling terminal of a session leader.
    pub(super) fn become_controlling(self: &Arc<Self>, group: &ThreadGroup) {
        self.set_session(Some((group.sid(), group.pgid())));
        group.set_controlling_terminal(Some(Arc::clone(self)));
    }

    /// No process has this as its controlling terminal any more.
    pub(super) fn leave_session(self: &Arc<Self>, kernel: &Kernel) {
        self.set_session(None);
        for group in kernel.processes.groups() {
            if group.controlling_terminal().is_some_and(|terminal| Arc::ptr_eq(&terminal, self)) {
                group.set_controlling_terminal(None);
            }
        }
    }
}

/// Sends a signal of the kernel's own to a process group.
pub(super) fn signal_group(kernel: &Kernel, pgid: Pid, signal: Signal) {
    for member in kernel.processes.members(pgid) {
        if member.zombie_status().is_none() {
            // Only real-time signals can be too many.
            let _ = member.send_signal(signal, SigInfo::kernel(signal));
        }
    }
}

/// `TIOCNOTTY`: a session leader gives up the terminal for all of its session, anybody else for itself.
pub(super) fn give_up(task: &Task, terminal: &Arc<Terminal>) {
    if is_leader(&task.group) {
        if let Some(pgid) = terminal.foreground() {
            signal_group(&task.kernel, pgid, SIGHUP);
            signal_group(&task.kernel, pgid, SIGCONT);
        }
        terminal.leave_session(&task.kernel);
    }
    task.group.set_controlling_terminal(None);
}

/// A process has ended. If it led a session with a terminal, the foreground process group is hung up and the terminal is
/// free (`disassociate_ctty`; stopped orphans are continued by the rule for orphaned groups).
pub fn process_ended(kernel: &Kernel, group: &ThreadGroup) {
    let Some(terminal) = group.controlling_terminal() else { return };
    group.set_controlling_terminal(None);
    if !is_leader(group) {
        return;
    }
    if let Some(pgid) = terminal.foreground() {
        signal_group(kernel, pgid, SIGHUP);
    }
    terminal.leave_session(kernel);
}

/// Whether the process leads its session.
pub(super) fn is_leader(group: &ThreadGroup) -> bool {
    group.sid() == group.pid
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::signals::SIGTTOU;

    const BACKGROUND: Background =
        Background { controlling: true, foreground: Some(7), pgid: 9, ignored: false, orphaned: false };

    #[test]
    fn the_foreground_and_strangers_proceed() {
        for background in [
            Background { pgid: 7, ..BACKGROUND },
            Background { controlling: false, ..BACKGROUND },
            Background { foreground: None, ..BACKGROUND },
        ] {
            assert_eq!(judge(background, SIGTTIN), Verdict::Proceed);
            assert_eq!(judge(background, SIGTTOU), Verdict::Proceed);
        }
    }

    #[test]
    fn the_background_is_stopped() {
        assert_eq!(judge(BACKGROUND, SIGTTIN), Verdict::Stop);
        assert_eq!(judge(BACKGROUND, SIGTTOU), Verdict::Stop);
    }

    #[test]
    fn ignoring_fails_reads_and_lets_writes_pass() {
        for orphaned in [false, true] {
            let background = Background { ignored: true, orphaned, ..BACKGROUND };
            assert_eq!(judge(background, SIGTTIN), Verdict::Refuse(EIO));
            assert_eq!(judge(background, SIGTTOU), Verdict::Proceed);
        }
    }

    #[test]
    fn orphans_are_refused() {
        let background = Background { orphaned: true, ..BACKGROUND };
        assert_eq!(judge(background, SIGTTIN), Verdict::Refuse(EIO));
        assert_eq!(judge(background, SIGTTOU), Verdict::Refuse(EIO));
    }
}
