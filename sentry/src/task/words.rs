//! The words of a task that its thread may change itself: signal mask, list of robust futexes.
//!
//! They are where the platform has them ([`platform::OwnWords`]), which may be in memory of the application's. So they are the thread's
//! allegation: read once for each decision, and nothing is believed that Linux would not have stored.

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

    /// What `set_robust_list` was told.
    pub fn robust_list(&self) -> u64 {
        self.cell.lock().robust_list()
    }

    /// Replaces that; returns what it was.
    pub fn set_robust_list(&self, head: u64) -> u64 {
        self.cell.lock().set_robust_list(head)
    }
}
