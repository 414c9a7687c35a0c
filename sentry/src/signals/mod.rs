//! Signals (`man 7 signal`): what is pending where, and who is told.
//!
//! [`PendingSignals`] is a set with its queued details; each task has one and each thread group has one.
//! `send.rs` puts signals in, `deliver.rs` takes them out at a trap boundary and builds the
//! handler's frame, `frame.rs` knows the frame's bytes.

mod attention;
mod deliver;
mod frame;
mod pending;
mod send;

pub(crate) use attention::Attention;
pub(crate) use deliver::{Delivered, Interrupted, finish_call};
pub(crate) use frame::FaultDetails;
pub use pending::PendingSignals;
pub use send::SignalTarget;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::signals::{SIGNAL_LIMIT, SigAction, SigSet, Signal, StackT};
use parking_lot::Mutex;
use zerocopy::FromZeros;

use crate::task::{ThreadGroup, Words};
use crate::wait::{PollEvents, WaitQueue};

/// What a task holds of signals.
pub struct TaskSignals {
    /// The mask, and what else the thread may change itself.
    pub words: Words,
    /// Whether the task has to look at what is here and elsewhere.
    pub(crate) attention: Attention,
    /// The mask to return to after `sigsuspend`, `ppoll` and the like, once a handler has been set up.
    pub saved_mask: Mutex<Option<SigSet>>,
    /// Sent to this very thread.
    pub pending: Mutex<PendingSignals>,
    /// `sigaltstack`.
    pub stack: Mutex<StackT>,
    /// Told of every signal that arrives for this task (signalfd, `sigtimedwait`).
    pub arrived: WaitQueue,
    /// Signals that `sigtimedwait` waits for: they end the wait although they are blocked.
    waited_for: AtomicU64,
}

impl TaskSignals {
    /// Nothing pending, the given mask, no alternate stack.
    pub fn new(mask: SigSet) -> Self {
        Self {
            words: Words::new(mask),
            attention: Attention::new(),
            saved_mask: Mutex::new(None),
            pending: Mutex::default(),
            stack: Mutex::new(StackT::DISABLED),
            arrived: WaitQueue::new(),
            waited_for: AtomicU64::new(0),
        }
    }

    /// The blocked signals.
    pub fn mask(&self) -> SigSet {
        self.words.mask()
    }

    /// Replaces the mask (`SIGKILL` and `SIGSTOP` cannot be in it); returns the old one.
    fn set_mask(&self, mask: SigSet) -> SigSet {
        let new = mask.blockable();
        let old = self.words.set_mask(new);
        if !old.difference(new).is_empty() {
            // What is unblocked may be pending.
            self.attention.raise();
        }
        old
    }

    /// Whether a signal that is not blocked is pending for the task, or its group is stopping.
    pub fn has_deliverable(&self, group: &ThreadGroup) -> bool {
        let mask = self.mask();
        !self.pending.lock().set().difference(mask).is_empty()
            || !group.signals.pending.lock().set().difference(mask).is_empty()
            || group.signals.is_stopped()
    }

    /// Everything pending for the task (`sigpending` shows the blocked part of it).
    pub fn all_pending(&self, group: &ThreadGroup) -> SigSet {
        let own = self.pending.lock().set();
        own.union(group.signals.pending.lock().set())
    }

    /// The alternate stack as `sigaltstack` shows it to a thread whose stack pointer is `rsp`.
    pub fn shown_stack(&self, rsp: u64) -> StackT {
        deliver::stack_as_shown(&self.stack.lock(), rsp)
    }

    /// Declares which blocked signals the task waits for (`sigtimedwait`).
    pub fn set_waited_for(&self, set: SigSet) {
        self.waited_for.store(set.0, Ordering::SeqCst);
    }

    pub(crate) fn wants(&self, signal: Signal) -> bool {
        !self.mask().contains(signal) || SigSet(self.waited_for.load(Ordering::SeqCst)).contains(signal)
    }
}

/// The dispositions of a process (`CLONE_SIGHAND` shares them).
pub struct SignalHandlers {
    actions: Mutex<[SigAction; SIGNAL_LIMIT]>,
}

impl Default for SignalHandlers {
    fn default() -> Self {
        Self { actions: Mutex::new([SigAction::new_zeroed(); SIGNAL_LIMIT]) }
    }
}

impl SignalHandlers {
    /// The disposition of one signal.
    pub fn get(&self, signal: Signal) -> SigAction {
        self.actions.lock()[signal.index()]
    }

    /// Replaces one; returns the old one.
    pub fn set(&self, signal: Signal, action: SigAction) -> SigAction {
        std::mem::replace(&mut self.actions.lock()[signal.index()], action)
    }

    /// A copy, as `fork` makes it.
    pub fn fork(&self) -> Arc<Self> {
        Arc::new(Self { actions: Mutex::new(*self.actions.lock()) })
    }

    /// A copy in which handlers are defaults again, as `execve` makes it.
    pub fn for_exec(&self) -> Arc<Self> {
        let mut actions = *self.actions.lock();
        for action in &mut actions {
            let ignored = action.is_ignore();
            *action = SigAction::new_zeroed();
            if ignored {
                action.sa_handler = abi::user::UserAddress(1);
            }
        }
        Arc::new(Self { actions: Mutex::new(actions) })
    }
}

/// What a thread group holds of signals.
pub struct GroupSignals {
    /// Sent to the process.
    pub pending: Mutex<PendingSignals>,
    handlers: Mutex<Arc<SignalHandlers>>,
    stop: Mutex<StopState>,
    /// Woken when the group is continued.
    pub(crate) continued: WaitQueue,
    /// Told of every signal that arrives for the process (signalfd).
    pub arrived: WaitQueue,
}

#[derive(Default)]
pub(crate) struct StopState {
    /// The signal that stopped the group.
    pub(crate) stopped_by: Option<Signal>,
    /// The stop was not reported to `wait` yet.
    pub(crate) report_stop: bool,
    /// The continuation was not reported to `wait` yet.
    pub(crate) report_continue: bool,
}

impl GroupSignals {
    /// Nothing pending.
    pub fn new(handlers: Arc<SignalHandlers>) -> Self {
        Self {
            pending: Mutex::default(),
            handlers: Mutex::new(handlers),
            stop: Mutex::default(),
            continued: WaitQueue::new(),
            arrived: WaitQueue::new(),
        }
    }

    /// The dispositions.
    pub fn handlers(&self) -> Arc<SignalHandlers> {
        self.handlers.lock().clone()
    }

    /// Replaces the dispositions (`execve`, `CLONE_CLEAR_SIGHAND`).
    pub fn set_handlers(&self, handlers: Arc<SignalHandlers>) {
        *self.handlers.lock() = handlers;
    }

    /// Whether the group is stopped.
    pub fn is_stopped(&self) -> bool {
        self.stop.lock().stopped_by.is_some()
    }

    /// Enters the stopped state; `false` if it was in it.
    pub(crate) fn stop(&self, signal: Signal) -> bool {
        let mut stop = self.stop.lock();
        let entered = stop.stopped_by.replace(signal).is_none();
        stop.report_stop |= entered;
        stop.report_continue &= !entered;
        entered
    }

    /// Leaves the stopped state; `false` if it was not in it.
    pub(crate) fn resume(&self) -> bool {
        let left = {
            let mut stop = self.stop.lock();
            let left = stop.stopped_by.take().is_some();
            if left {
                stop.report_stop = false;
                stop.report_continue = true;
            }
            left
        };
        if left {
            self.continued.wake(PollEvents::IN);
        }
        left
    }

    /// The stop to report to `wait(WUNTRACED)`; taken unless `keep`.
    pub(crate) fn stop_report(&self, keep: bool) -> Option<Signal> {
        let mut stop = self.stop.lock();
        let signal = if stop.report_stop { stop.stopped_by } else { None };
        if !keep {
            stop.report_stop = false;
        }
        signal
    }

    /// Whether there is a continuation to report to `wait(WCONTINUED)`; taken unless `keep`.
    pub(crate) fn continue_report(&self, keep: bool) -> bool {
        let mut stop = self.stop.lock();
        let report = stop.report_continue;
        stop.report_continue &= keep;
        report
    }
}
