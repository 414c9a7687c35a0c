//! The words of a task that its thread may change itself: signal mask, list of robust futexes.
//!
//! They are where the platform has them ([`platform::OwnWords`]), which may be in memory of the application's. So they are the thread's
//! allegation: read once for each decision, and nothing is believed that Linux would not have stored.
//!
//! # A mask that changes by itself
//!
//! A thread that has *leave* replaces its mask without telling anybody. Two things must not be missed: a signal that is pending when the
//! thread unblocks it has to be delivered before that call returns, and one for which a thread was chosen that blocks it now has to be handed on.
//! Both are the kernel's work, so the thread has leave only while nothing is pending for it or its process:
//!
//! * Whoever sends **makes the signal pending and withdraws leave** ([`Words::withdraw_leave`]; of all threads, if the process
//!   is meant) **in one step**, with the lock held under which others look at what is pending, **and reads masks second**, to choose who is interrupted.
//! * The thread **writes its mask first and looks at its leave second**. If that is gone it puts the old mask back and makes the call
//!   as if nothing had been done, and the kernel does both works.
//! * The kernel **gives leave first and looks at what is pending second** ([`Words::renew_leave`]), and takes it back if anything is.
//!   It does so for the task itself only, each time that the task has acted upon what it was to attend to, and in `rt_sigprocmask`.
//!
//! Why nothing is missed: each step is a read-modify-write operation, so for two that meet there is an order. If a
//! thread finds its leave after it has written its mask, whoever withdraws that leave comes later and reads the new mask: as if the signal
//! had been sent after the call. If it does not, the kernel comes to see the signal, which was pending before the leave was withdrawn. And leave that is given
//! while somebody sends is either withdrawn after that, or was given after the withdrawal, and then the look that follows
//! finds the signal pending. One step it has to be, because a thread that has been shown the signal as pending (`sigpending`, a file
//! under `/proc`) must get it before its next call that unblocks it returns, and not when the sender comes to interrupt it.
//!
//! A mask that was written and is put back may have been seen. Who was chosen by it is interrupted once too often, or not chosen although it
//! would have been; but it is about to make the very call that sets this mask, and hands on what it blocks by that. What a thread can gain by writing
//! its mask and leave itself is to miss its own signals: those that cannot be blocked are never looked for in the
//! mask, and what others are to be told does not depend on it.

use std::sync::Arc;

use abi::signals::SigSet;
use parking_lot::Mutex;
use platform::{HeapWords, OwnWords};

/// One task's words.
pub struct Words {
    /// The lock is a leaf, held for an access or a move.
    cell: Mutex<Arc<dyn OwnWords>>,
}

impl Words {
    /// Of a task that has no context yet.
    pub(crate) fn new(mask: SigSet) -> Self {
        Self { cell: Mutex::new(Arc::new(HeapWords::new(mask.blockable().0, 0))) }
    }

    /// Moves them to where another context has them. The mask is kept, a list of futexes is not.
    pub(crate) fn adopt(&self, words: Arc<dyn OwnWords>) {
        let mut cell = self.cell.lock();
        words.withdraw_leave();
        words.set_mask(SigSet(cell.mask()).blockable().0);
        words.set_robust_list(0);
        let old = std::mem::replace(&mut *cell, words);
        drop(cell);
        // It may be the last that keeps an address space's slots.
        drop(old);
    }

    /// The blocked signals.
    pub(crate) fn mask(&self) -> SigSet {
        SigSet(self.cell.lock().mask()).blockable()
    }

    /// Replaces the mask (`SIGKILL` and `SIGSTOP` cannot be in it); returns the old one.
    pub(crate) fn set_mask(&self, mask: SigSet) -> SigSet {
        SigSet(self.cell.lock().set_mask(mask.blockable().0)).blockable()
    }

    /// Makes the thread ask about its mask from now on. To be called with the lock held under which a signal was just made pending.
    pub(crate) fn withdraw_leave(&self) {
        self.cell.lock().withdraw_leave();
    }

    /// Lets the thread change its mask itself, unless something is pending for it. For the thread itself.
    pub(crate) fn renew_leave(&self, is_pending: impl FnOnce() -> bool) {
        let words = Arc::clone(&self.cell.lock());
        if !words.has_leave() {
            words.give_leave();
            if is_pending() {
                words.withdraw_leave();
            }
        }
    }

    /// What `set_robust_list` was told.
    pub fn robust_list(&self) -> u64 {
        self.cell.lock().robust_list()
    }

    /// Replaces that; returns what it was.
    pub fn set_robust_list(&self, head: u64) -> u64 {
        self.cell.lock().set_robust_list(head)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use abi::signals::{SIGKILL, SIGSTOP, SIGUSR1, SIGUSR2};

    use super::*;

    /// Words that their thread writes as the stub does.
    #[derive(Default)]
    struct Shared {
        mask: AtomicU64,
        leave: AtomicBool,
    }

    impl OwnWords for Shared {
        fn mask(&self) -> u64 {
            self.mask.load(Ordering::SeqCst)
        }
        fn set_mask(&self, mask: u64) -> u64 {
            self.mask.swap(mask, Ordering::SeqCst)
        }
        fn robust_list(&self) -> u64 {
            0
        }
        fn set_robust_list(&self, _: u64) -> u64 {
            0
        }
        fn give_leave(&self) {
            self.leave.swap(true, Ordering::SeqCst);
        }
        fn withdraw_leave(&self) {
            self.leave.swap(false, Ordering::SeqCst);
        }
        fn has_leave(&self) -> bool {
            self.leave.load(Ordering::SeqCst)
        }
    }

    impl Shared {
        /// What the stub does; `false`: the call is the kernel's.
        fn replace(&self, mask: u64) -> bool {
            if !self.has_leave() {
                return false;
            }
            let old = self.set_mask(mask);
            let kept = self.has_leave();
            if !kept {
                self.mask.store(old, Ordering::SeqCst);
            }
            kept
        }
    }

    #[test]
    fn what_cannot_be_blocked_is_not_believed_and_words_move_with_their_task() {
        let words = Words::new(SigSet::of(&[SIGUSR1]));
        let (first, second) = (Arc::new(Shared::default()), Arc::new(Shared::default()));
        first.give_leave();
        words.adopt(first.clone());
        assert!(words.mask() == SigSet::of(&[SIGUSR1]) && !first.has_leave());
        first.set_mask(SigSet::of(&[SIGUSR2, SIGKILL, SIGSTOP]).0);
        assert_eq!(words.mask(), SigSet::of(&[SIGUSR2]));
        words.adopt(second.clone());
        assert_eq!(second.mask(), SigSet::of(&[SIGUSR2]).0);
        words.renew_leave(|| true);
        assert!(!second.has_leave());
        words.renew_leave(|| false);
        assert!(second.has_leave() && second.replace(0) && words.mask() == SigSet::EMPTY);
    }

    /// One thread blocks and unblocks a signal again and again, another sends it and is told by the mask whether to interrupt. Were a
    /// signal ever missed, it would be pending, unblocked and never seen.
    #[test]
    fn a_signal_is_interrupted_for_or_seen_by_the_call_that_unblocks_it() {
        const SIGNALS: u64 = 5_000;
        let cell = Arc::new(Shared::default());
        let words = Words::new(SigSet::EMPTY);
        words.adopt(cell.clone());
        let (pending, interrupt, seen) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
        let bit = SigSet::of(&[SIGUSR1]).0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut left_to_kernel = 0_u64;
                while seen.load(Ordering::Relaxed) != SIGNALS {
                    for mask in [bit, 0] {
                        if !cell.replace(mask) {
                            left_to_kernel += 1;
                            words.set_mask(SigSet(mask));
                            let deliver = mask == 0 && pending.swap(false, Ordering::SeqCst);
                            words.renew_leave(|| pending.load(Ordering::SeqCst));
                            if deliver {
                                seen.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                        // The thread goes where it looks only if somebody has made it.
                        if interrupt.swap(false, Ordering::SeqCst)
                            && mask == 0
                            && pending.swap(false, Ordering::SeqCst)
                        {
                            words.renew_leave(|| pending.load(Ordering::SeqCst));
                            seen.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                }
                assert!(left_to_kernel > 0);
            });
            for signal in 1..=SIGNALS {
                pending.store(true, Ordering::SeqCst);
                words.withdraw_leave();
                if !words.mask().contains(SIGUSR1) {
                    interrupt.store(true, Ordering::SeqCst);
                }
                while seen.load(Ordering::SeqCst) != signal {
                    std::thread::yield_now();
                }
            }
        });
        assert!(cell.has_leave() || !pending.load(Ordering::SeqCst));
    }
}
