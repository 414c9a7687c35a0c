//! When something was learnt: during which system call.
//!
//! A file system that others change too must ask for attributes again in each call, but need not ask twice within one:
//! an answer that came since the call began is as good as a later one. [`begin_moment`] is called when a worker takes up a
//! task and for each system call it serves; a [`Moment`] is over when the next begins on its thread.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers that a thread takes at a time.
const RANGE: u64 = 1 << 32;

thread_local! {
    /// The present moment; 0 on threads that serve no calls.
    static PRESENT: Cell<u64> = const { Cell::new(0) };
}

/// A stretch of time on one thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment(u64);

impl Moment {
    /// The present one.
    pub fn now() -> Self {
        Self(PRESENT.get())
    }

    /// Whether it still lasts, on this thread.
    pub fn lasts(self) -> bool {
        self.0 != 0 && self.0 == PRESENT.get()
    }
}

/// Ends this thread's moment and begins another.
pub fn begin_moment() {
    static RANGES: AtomicU64 = AtomicU64::new(1);
    let next = PRESENT.get() + 1;
    let is_used_up = next.is_multiple_of(RANGE) || next == 1;
    PRESENT.set(if is_used_up { RANGES.fetch_add(1, Ordering::Relaxed) * RANGE + 1 } else { next });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_ends_with_the_next_and_is_not_another_threads() {
        assert!(!Moment::now().lasts());
        begin_moment();
        let first = Moment::now();
        assert!(first.lasts());
        std::thread::spawn(move || {
            assert!(!first.lasts());
            begin_moment();
            assert!(!first.lasts());
        })
        .join()
        .unwrap();
        assert!(first.lasts());
        begin_moment();
        assert!(!first.lasts());
        assert!(!Moment::default().lasts());
    }
}
