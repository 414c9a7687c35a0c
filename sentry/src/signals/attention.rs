//! The one word a task looks at on its way back to the application.
//!
//! What can keep a task from going on stands in many places: its own pending signals and its process's, its mask, a stop, an
//! exit, the freezer. Looking at all of them takes a lock each, at every system call. So whoever changes one of them raises
//! a flag beside the mark "in the application", in one atomic word; only a raised flag makes the task look closely.
//!
//! # The protocol
//!
//! * Whoever changes an input **stores the input first and raises second** ([`Attention::raise`]). If the answer is
//!   that the task is in the application, it must be interrupted there ([`crate::task::Task::notify`]).
//! * The task **lowers first and looks second** ([`Attention::lower`]), and acts upon all that it finds. What it cannot act
//!   upon yet, it raises again.
//! * It goes to the application by [`Attention::enter`], which fails while the flag is up, and comes back by
//!   [`Attention::leave`].
//!
//! Why no change is missed: all of these are read-modify-write operations on one word, so they have one order, in which each
//! sees what the one before it left, and everything that happened before that.
//! A raise is either before the task's next `enter`, which then fails, or after it, and then it finds the mark and interrupts.
//! And a raise is either before a `lower`, and then the look that follows it sees the input, or after it, and then the
//! flag is up again. The same holds for `leave`: it either comes before a raise, whose maker then finds the mark gone, or
//! after it, and then it tells the task so (a pause waits for exactly this).
//!
//! The inputs, and who raises for each: a signal ([`crate::task::Task::send_signal`] the task,
//! [`crate::task::ThreadGroup::send_signal`] every thread, for any of them may take it); a mask that blocks less
//! ([`super::TaskSignals::set_mask`]); a stop; the end of the process, or of the thread alone; the freezer. Blocked signals need
//! no flag: to unblock them raises one (a thread that unblocks by itself has none pending, `task/words.rs`). A new task begins with the flag up, for what was sent to its process before it
//! could be found there.

use std::sync::atomic::{AtomicU32, Ordering};

/// The thread is in the application, or about to be: an interrupt must reach it there.
const IN_APPLICATION: u32 = 1;
/// An input has changed since the task last looked.
const RAISED: u32 = 2;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Attention {
    word: AtomicU32,
}

impl Attention {
    /// Of a new task: it has to look once.
    pub(crate) const fn new() -> Self {
        Self { word: AtomicU32::new(RAISED) }
    }

    /// Says that an input has changed; to be called after the change. Returns whether the task is in the application.
    pub(crate) fn raise(&self) -> bool {
        self.word.fetch_or(RAISED, Ordering::AcqRel) & IN_APPLICATION != 0
    }

    /// Whether an input has changed since the last look. A task may trust a "no" about what it did itself; others'
    /// changes may be on their way, and their makers wake it after raising.
    pub(crate) fn is_raised(&self) -> bool {
        self.word.load(Ordering::Acquire) & RAISED != 0
    }

    /// Takes the flag down; the task looks at all inputs afterwards.
    pub(crate) fn lower(&self) {
        self.word.fetch_and(!RAISED, Ordering::AcqRel);
    }

    /// Marks the task as being in the application, unless it has to look at something first.
    pub(crate) fn enter(&self) -> bool {
        self.word.compare_exchange(0, IN_APPLICATION, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Marks the task as being in the application, raised or not: it looks at the inputs afterwards, and interrupts itself.
    pub(crate) fn enter_anyway(&self) {
        self.word.fetch_or(IN_APPLICATION, Ordering::AcqRel);
    }

    /// Takes the mark away; returns whether an input has changed.
    pub(crate) fn leave(&self) -> bool {
        self.word.fetch_and(!IN_APPLICATION, Ordering::AcqRel) & RAISED != 0
    }

    /// Whether the thread is in the application, or about to be.
    pub(crate) fn is_in_application(&self) -> bool {
        self.word.load(Ordering::Acquire) & IN_APPLICATION != 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn a_raised_flag_keeps_the_task_from_entering_until_it_has_looked() {
        let attention = Attention::new();
        assert!(!attention.enter());
        attention.lower();
        assert!(attention.enter() && attention.is_in_application());
        assert!(attention.raise(), "the task is in the application");
        assert!(attention.leave() && !attention.is_in_application());
        assert!(!attention.enter());
        attention.enter_anyway();
        assert!(attention.is_in_application() && attention.is_raised());
    }

    /// Two threads: one goes in and out as a task does, the other changes an input again and again and, when told
    /// that the task is in the application, waits until it has come out. Were a change ever missed, the task would stay
    /// in for ever, as one that nobody interrupts.
    #[test]
    fn no_change_is_missed() {
        const CHANGES: u64 = 20_000;
        let attention = Attention::new();
        let (input, seen, interrupts) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while seen.load(Ordering::Relaxed) != CHANGES {
                    if attention.enter() {
                        // In the application: out comes only who is interrupted, or makes a call of its own.
                        let before = interrupts.load(Ordering::Acquire);
                        let mut patience = before % 7 * 10;
                        while patience != 0 && interrupts.load(Ordering::Acquire) == before {
                            patience -= 1;
                        }
                        attention.leave();
                    } else {
                        attention.lower();
                        seen.store(input.load(Ordering::Relaxed), Ordering::Release);
                    }
                }
            });
            for change in 1..=CHANGES {
                input.store(change, Ordering::Relaxed);
                if attention.raise() {
                    interrupts.fetch_add(1, Ordering::Release);
                }
                // Whoever raises waits for nobody else to do so: the look must come by itself.
                while seen.load(Ordering::Acquire) != change {
                    std::hint::spin_loop();
                }
            }
        });
        assert_eq!(seen.load(Ordering::Relaxed), CHANGES);
    }
}
