//! Sending: who gets a signal, who is woken, and what stop and continue cancel.

use std::sync::Arc;

use abi::errno::SysResult;
use abi::signal_info::SigInfo;
use abi::signals::{DefaultAction, SIGCONT, SIGKILL, SIGSTOP, SigSet, Signal};

use crate::task::{ExitStatus, Resource, Task, ThreadGroup};
use crate::wait::PollEvents;

/// To whom a signal goes.
#[derive(Clone)]
pub enum SignalTarget {
    /// A process.
    Group(Arc<ThreadGroup>),
    /// One thread.
    Task(Arc<Task>),
}

impl SignalTarget {
    /// Sends.
    ///
    /// # Errors
    /// `EAGAIN`: too many are queued.
    pub fn send(&self, signal: Signal, info: SigInfo) -> SysResult<()> {
        match self {
            Self::Group(group) => group.send_signal(signal, info),
            Self::Task(task) => task.send_signal(signal, info),
        }
    }
}

impl ThreadGroup {
    /// Sends a signal to the process: to any of its threads that does not block it.
    ///
    /// # Errors
    /// `EAGAIN`: too many are queued.
    pub fn send_signal(self: &Arc<Self>, signal: Signal, info: SigInfo) -> SysResult<()> {
        if !self.prepare(signal, None) {
            return Ok(());
        }
        let limit = self.limits.soft(Resource::PendingSignals);
        let tasks = {
            let mut pending = self.signals.pending.lock();
            pending.push(signal, info, limit)?;
            let tasks = self.tasks();
            // With the lock held: whoever finds it pending finds no leave (`task/words.rs`). The masks are read after that.
            tasks.iter().for_each(|task| task.signals.words.withdraw_leave());
            tasks
        };
        // Any thread may come by and take it.
        for task in &tasks {
            task.signals.attention.raise();
        }
        // As Linux does: the main thread if it wants the signal, else any that does.
        if let Some(task) = tasks.iter().find(|task| task.signals.wants(signal)) {
            task.notify();
            task.signals.arrived.wake(PollEvents::IN);
        }
        self.signals.arrived.wake(PollEvents::IN);
        Ok(())
    }

    /// Tells other threads of the process's pending signals, because one that may have been chosen for them blocks them now
    /// or ends (`retarget_shared_pending` in Linux's `kernel/signal.c`).
    pub(crate) fn hand_on(&self, from: &Task) {
        let pending = self.signals.pending.lock().set();
        if pending.is_empty() {
            return;
        }
        for task in self.tasks() {
            if !std::ptr::eq(&raw const *task, from) && !pending.difference(task.signals.mask()).is_empty() {
                task.notify();
            }
        }
    }

    /// What a signal does when it is sent, whoever takes it later: stop and continue cancel each other, ignored
    /// signals vanish, `SIGKILL` needs no delivery. Returns whether to queue it.
    fn prepare(self: &Arc<Self>, signal: Signal, only: Option<&Task>) -> bool {
        if self.is_exiting() {
            return false;
        }
        if self.is_protected() && (signal == SIGKILL || signal == SIGSTOP) {
            // Only the outside can do that to init ([`ThreadGroup::kill`]).
            return false;
        }
        if signal == SIGKILL {
            self.begin_exit(ExitStatus::Killed { signal, core: false });
            return false;
        }
        if signal == SIGCONT {
            self.forget_pending(SigSet::STOPPING);
            if self.signals.resume() {
                self.report_to_parent(crate::task::ChildEvent::Continued);
            }
        } else if SigSet::STOPPING.contains(signal) {
            self.forget_pending(SigSet::of(&[SIGCONT]));
        }
        !self.is_ignored(signal, only)
    }

    fn forget_pending(&self, signals: SigSet) {
        self.signals.pending.lock().remove(signals);
        for task in self.tasks() {
            task.signals.pending.lock().remove(signals);
        }
    }

    /// Forgets pending signals that have become ignored (POSIX: `sigaction` discards them).
    pub fn forget_ignored(&self, signal: Signal) {
        let action = self.signals.handlers().get(signal);
        let ignored = action.is_ignore()
            || action.is_default()
                && matches!(signal.default_action(), DefaultAction::Ignore | DefaultAction::Continue);
        if ignored {
            self.forget_pending(SigSet::of(&[signal]));
        }
    }

    /// Whether nobody would notice the signal: it does nothing, and nobody blocks it (a blocked signal may get a handler
    /// before it is unblocked).
    fn is_ignored(&self, signal: Signal, only: Option<&Task>) -> bool {
        let action = self.signals.handlers().get(signal);
        let nothing = action.is_ignore()
            || action.is_default()
                && (self.is_protected() && !SigSet::SYNCHRONOUS.contains(signal)
                    || matches!(signal.default_action(), DefaultAction::Ignore | DefaultAction::Continue));
        let blocks = |task: &Task| task.signals.mask().contains(signal);
        nothing && !only.map_or_else(|| self.tasks().iter().any(|task| blocks(task)), blocks)
    }
}

impl Task {
    /// Replaces the thread's mask (as [`TaskSignals::set_mask`](super::TaskSignals)), and hands on what the thread may have been
    /// chosen for and blocks now. For the thread itself. Returns the old mask.
    pub fn set_signal_mask(&self, mask: SigSet) -> SigSet {
        let old = self.signals.set_mask(mask);
        if !self.signals.mask().difference(old).is_empty() {
            self.group.hand_on(self);
        }
        old
    }

    /// Sends a signal to this thread.
    ///
    /// # Errors
    /// `EAGAIN`: too many are queued.
    pub fn send_signal(&self, signal: Signal, info: SigInfo) -> SysResult<()> {
        if !self.group.prepare(signal, Some(self)) {
            return Ok(());
        }
        let limit = self.group.limits.soft(Resource::PendingSignals);
        {
            let mut pending = self.signals.pending.lock();
            pending.push(signal, info, limit)?;
            self.signals.words.withdraw_leave();
        }
        self.notify();
        self.signals.arrived.wake(PollEvents::IN);
        Ok(())
    }

    /// Sends a signal that cannot be ignored or blocked away (a fault): if it is, the default action is taken.
    pub fn force_signal(&self, signal: Signal, info: SigInfo) {
        let handlers = self.group.signals.handlers();
        let action = handlers.get(signal);
        let blocked = self.signals.mask().contains(signal);
        if blocked || action.is_ignore() {
            handlers.set(signal, zerocopy::FromZeros::new_zeroed());
            let mut mask = self.signals.mask();
            mask.remove(signal);
            self.set_signal_mask(mask);
        }
        // The details of a fault are never dropped for a limit: one fault per thread is pending at most.
        let _ = self.signals.pending.lock().push(signal, info, u64::MAX);
        self.signals.words.withdraw_leave();
        self.signals.attention.raise();
    }
}
