//! Whether looking at threads would pay: how quickly each rings again, and how often all of them do.
//!
//! One thread is worth looking at when it rings again within microseconds, several times in a row. Several that ring by turns tell nothing by that:
//! each waits for a processor as long as for its answer. Of those it is the rate of all rings that says how little is computed
//! in between ([`Rush`]); whether they are better served together on fewer processors is tried, and judged by how it goes.
//!
//! Key types: [`Heat`], [`Rush`], [`Rest`]. Neighbour: `spinner`.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::thread::{State, Thread};

/// Processor ticks between an answer and the next ring that count as quick: 20 to 40 µs. Programs that go through files compute for so long between their
/// calls.
const QUICK: u64 = 80_000;
/// Quick rings in a row that make a thread worth looking at.
const HOT: u32 = 4;
/// Doublings at most of the quick rings that make a thread worth looking at.
const MOST_COOLER: u32 = 8;
/// Requests that make looking worthwhile.
pub const WORTHWHILE: u32 = 8;
/// How long nobody looks after looking in vain; doubled each time.
const COOL_DOWN: Duration = Duration::from_micros(500);

/// Rings after which their rate is judged.
const PERIOD: u64 = 64;
/// Processor ticks that each takes at most in a rush: some 40 to 60 µs.
const RUSH: u64 = 125_000;
/// Processor ticks after which a thread that has not rung has something else to do: 20 to 30 ms.
const RECENT: u64 = 60_000_000;
/// Most threads that are remembered for having rung.
const MOST_RECENT: usize = 128;

/// What the processor's clock shows.
pub fn ticks() -> u64 {
    // SAFETY: the instruction has no preconditions.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// How quickly a thread rings again.
#[derive(Debug, Default)]
pub struct Heat {
    resumed_at: u64,
    rang_at: u64,
    quick: u32,
    /// Requests taken since one had to wait.
    taken: u32,
    /// How often that came too soon: doublings of the quick rings that it takes.
    cooler: u32,
    /// The period in which it rang last.
    period: u32,
    /// It is remembered in [`Rush`].
    listed: bool,
}

impl Heat {
    /// The thread goes on.
    pub fn resumed(&mut self) {
        self.resumed_at = ticks();
    }

    /// The thread rings. Returns whether it has become worth looking at.
    pub fn rang(&mut self) -> bool {
        self.rang_at = ticks();
        if self.rang_at.wrapping_sub(self.resumed_at) > QUICK {
            self.quick = 0;
            return false;
        }
        self.quick += 1;
        let hot = self.quick >= HOT << self.cooler;
        if hot {
            self.quick = 0;
        }
        hot
    }

    /// A request of the thread was taken.
    pub fn taken(&mut self) {
        self.taken = self.taken.saturating_add(1);
    }

    /// A request of the thread has to wait for something, and it is not looked at any more.
    pub fn waits(&mut self) {
        self.cooler =
            if self.taken < WORTHWHILE { MOST_COOLER.min(self.cooler + 1) } else { self.cooler / 2 };
        self.taken = 0;
    }

    /// Whether the thread, which [`Rush`] has given up, has rung lately.
    pub fn unlist(&mut self) -> bool {
        self.listed = false;
        ticks().wrapping_sub(self.rang_at) < RECENT
    }
}

/// How often all threads ring, and which do.
#[derive(Debug, Default)]
pub struct Rush {
    since: u64,
    period: u32,
    rings: u64,
    /// What each took in the last period, in processor ticks.
    pace: u64,
    /// Threads that have rung in this period.
    distinct: u32,
    /// Threads that have rung in this and earlier ones.
    recent: Vec<Weak<Thread>>,
}

impl Rush {
    /// A thread, whose state this is, rings. Returns how many have rung lately, if several threads do little else now.
    pub fn rang(&mut self, thread: &Arc<Thread>, state: &mut State) -> Option<usize> {
        let heat = &mut state.heat;
        if heat.period != self.period {
            heat.period = self.period;
            self.distinct += 1;
        }
        if !heat.listed && self.recent.len() < MOST_RECENT {
            heat.listed = true;
            self.recent.push(Arc::downgrade(thread));
        }
        self.rings += 1;
        if self.rings < PERIOD {
            return None;
        }
        let now = ticks();
        self.pace = now.wrapping_sub(self.since) / PERIOD;
        let rush = self.distinct > 1 && self.pace < RUSH;
        if self.recent.len() == MOST_RECENT {
            self.recent.retain(|thread| thread.strong_count() > 0);
        }
        (self.since, self.rings, self.distinct) = (now, 0, 0);
        // Never 0, which is what threads begin with.
        self.period = self.period.wrapping_add(1).max(1);
        rush.then_some(self.recent.len())
    }

    /// Forgets the threads that have rung, and returns them, and what a ring took lately in processor ticks.
    pub fn give_up(&mut self) -> (Vec<Weak<Thread>>, u64) {
        (std::mem::take(&mut self.recent), self.pace)
    }
}

/// When something that is only tried may be tried again.
#[derive(Debug, Default)]
pub struct Rest {
    until: Option<Instant>,
    /// Times in a row that it was in vain.
    in_vain: u32,
}

impl Rest {
    /// Whether it is over.
    pub fn is_over(&mut self) -> bool {
        match self.until {
            Some(until) if Instant::now() < until => false,
            _ => {
                self.until = None;
                true
            }
        }
    }

    /// It was in vain; the pause is doubled each time, so often at most.
    pub fn in_vain(&mut self, most: u32) {
        self.until = Some(Instant::now() + COOL_DOWN * (1 << self.in_vain.min(most)));
        self.in_vain = self.in_vain.saturating_add(1);
    }

    /// It was not.
    pub fn paid(&mut self) {
        *self = Self::default();
    }
}
