//! Words of an application thread that the thread may change itself, without a call that traps: its signal mask, and where its list
//! of robust futexes begins.
//!
//! Wherever they are, [`OwnWords`] leads there: in memory of the sentry's ([`HeapWords`]), or in memory that the thread can write
//! ([`crate::seccomp`]). So all that is read here is an allegation of the thread's, and concerns nobody else: the kernel reads a word
//! once for each decision, and takes out of a mask what cannot be blocked.
//!
//! Invariant: the sentry writes the words of a thread that stands still only, and of no other.

use std::sync::atomic::{AtomicU64, Ordering};

/// One thread's words; they outlive the thread.
pub trait OwnWords: Send + Sync {
    /// The signal mask, a bit for each signal, from bit 0 for signal 1.
    fn mask(&self) -> u64;

    /// Replaces the mask; returns the old one.
    fn set_mask(&self, mask: u64) -> u64;

    /// The address of the head of the list of robust futexes; 0: none.
    fn robust_list(&self) -> u64;

    /// Replaces it; returns the old one.
    fn set_robust_list(&self, head: u64) -> u64;

    /// From now on the thread may replace its mask without a trap. A thread that has none of these ways has leave and does not use it.
    fn give_leave(&self) {}

    /// From now on every call by which the thread would change its mask traps, also one that it has begun: either it traps, or [`OwnWords::mask`]
    /// shows what it has set to everybody who calls this first.
    fn withdraw_leave(&self) {}

    /// Whether it has leave.
    fn has_leave(&self) -> bool {
        true
    }
}

/// Words of a thread that changes none itself.
#[derive(Debug, Default)]
pub struct HeapWords {
    mask: AtomicU64,
    robust_list: AtomicU64,
}

impl HeapWords {
    /// With these values.
    pub const fn new(mask: u64, robust_list: u64) -> Self {
        Self { mask: AtomicU64::new(mask), robust_list: AtomicU64::new(robust_list) }
    }
}

impl OwnWords for HeapWords {
    fn mask(&self) -> u64 {
        self.mask.load(Ordering::SeqCst)
    }

    fn set_mask(&self, mask: u64) -> u64 {
        self.mask.swap(mask, Ordering::SeqCst)
    }

    fn robust_list(&self) -> u64 {
        self.robust_list.load(Ordering::Relaxed)
    }

    fn set_robust_list(&self, head: u64) -> u64 {
        self.robust_list.swap(head, Ordering::Relaxed)
    }
}
