//! When something was learnt: during which system call.
//!
//! A file system that others change too must ask for attributes again in each call, but need not ask twice within one:
//! an answer that came since the call began is as good as a later one. [`begin_moment`] is called when a worker takes up a
//! task and for each system call it serves; a [`Moment`] is over when the next begins on its thread.

use std::cell::Cell;
use std::thread::{self, ThreadId};

thread_local! {
    /// The present moment; none on threads that serve no calls.
    static PRESENT: Cell<Moment> = const { Cell::new(Moment(None)) };
}

/// A stretch of time on one thread; by default one that is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment(Option<(ThreadId, u64)>);

impl Moment {
    /// The present one.
    pub fn now() -> Self {
        PRESENT.get()
    }

    /// Whether it still lasts, on this thread.
    pub fn lasts(self) -> bool {
        self.0.is_some() && self == PRESENT.get()
    }
}

/// Ends this thread's moment and begins another.
pub fn begin_moment() {
    let (thread, number) = PRESENT.get().0.unwrap_or_else(|| (thread::current().id(), 0));
    PRESENT.set(Moment(Some((thread, number.wrapping_add(1)))));
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
