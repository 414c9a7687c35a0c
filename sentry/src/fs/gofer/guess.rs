//! Whether a file that is looked up will be opened next, judged by what happened to the last ones.
//!
//! A lookup that opens on the way costs half as much again as one that does not, but saves a whole exchange if the open
//! follows. Programs that load libraries or sources open what they look up; those that only `stat` do not.

use std::sync::atomic::{AtomicI32, Ordering};

/// What one open is worth against lookups that no open followed.
const OPENED: i32 = 3;
/// From here on lookups open.
const ENOUGH: i32 = 4;
/// How much habit counts at most.
const MOST: i32 = 24;

/// See the module's text.
pub struct Guess {
    /// Only trees whose descriptors are kept gain anything.
    enabled: bool,
    score: AtomicI32,
}

impl Guess {
    pub(super) const fn new(enabled: bool) -> Self {
        Self { enabled, score: AtomicI32::new(ENOUGH) }
    }

    /// Whether a lookup should open what it finds.
    pub(super) fn will_open(&self) -> bool {
        self.enabled && self.score.load(Ordering::Relaxed) >= ENOUGH
    }

    /// A regular file was looked up.
    pub(super) fn looked_up(&self) {
        self.add(-1);
    }

    /// A file was opened for the first time since it was looked up.
    pub(super) fn opened(&self) {
        self.add(OPENED);
    }

    /// Losing a count to another thread does no harm.
    fn add(&self, worth: i32) {
        let score = self.score.load(Ordering::Relaxed) + worth;
        self.score.store(score.clamp(0, MOST), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_opens_and_not_after_mere_lookups() {
        let guess = Guess::new(true);
        for _ in 0..10 {
            guess.looked_up();
            guess.opened();
        }
        assert!(guess.will_open());
        for _ in 0..30 {
            guess.looked_up();
        }
        assert!(!guess.will_open());
        guess.opened();
        guess.opened();
        assert!(guess.will_open());
        assert!(!Guess::new(false).will_open());
    }
}
