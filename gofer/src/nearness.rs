//! Keeping a channel's thread on the processor where its caller waits.
//!
//! Caller and thread take turns: one of them always sleeps. On one processor a turn costs a context switch; when the
//! scheduler puts the woken thread on another, idle one, it costs waking that processor, twice, which takes several times
//! as long as the request itself. The scheduler prefers idle processors, so it is told.

use rustix::thread::{CpuSet, sched_setaffinity};

/// A caller that is on another processor for this many requests in a row has moved there.
const MOVED: u32 = 2;

/// Where a channel's thread is, and where its caller was lately.
#[derive(Debug, Default)]
pub struct Nearness {
    here: Option<u16>,
    caller: Option<u16>,
    streak: u32,
}

impl Nearness {
    /// A request came from a caller on this processor. The number is an allegation: the host refuses a processor that
    /// does not exist or is not ours, and then the thread stays where it is.
    pub fn follow(&mut self, processor: Option<u16>) {
        if processor == self.here || processor.is_none() {
            self.streak = 0;
            return;
        }
        self.streak = if processor == self.caller { self.streak.saturating_add(1) } else { 1 };
        self.caller = processor;
        if self.streak < MOVED {
            return;
        }
        let Some(index) = processor.map(usize::from).filter(|index| *index < CpuSet::MAX_CPU) else { return };
        let mut set = CpuSet::new();
        set.set(index);
        let _ = sched_setaffinity(None, &set);
        // Refused or not, there is no point in asking again.
        self.here = processor;
        self.streak = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_a_caller_that_stays_and_no_other() {
        let mut nearness = Nearness::default();
        nearness.follow(Some(0));
        assert_eq!(nearness.here, None);
        nearness.follow(Some(0));
        assert_eq!(nearness.here, Some(0));
        for processor in [1, 0, 1, 0].map(Some) {
            nearness.follow(processor);
            assert_eq!(nearness.here, Some(0));
        }
        // Processors that do not exist are not looked for.
        for processor in [u16::MAX - 1, u16::MAX - 1, 1023, 1023, 1023].map(Some) {
            nearness.follow(processor);
        }
        nearness.follow(None);
        assert_eq!(nearness.here, Some(1023));
    }
}
