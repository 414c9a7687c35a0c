//! Taking a process that has just been forked off the processor on which its parent goes on.
//!
//! Key type: [`Place`]. Neighbour: `spawn.rs` forks. Where Linux leaves both on one processor, they take turns there, although each
//! has a millisecond's work and the command is waiting for both; on virtual machines it does so often, because it takes a processor
//! that sleeps for one that the host has taken away. Invariant: in the end the child may run wherever its parent may.

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// The calling thread, to `sched_setaffinity(2)`.
const MYSELF: Pid = Pid::from_raw(0);

/// Where a process is before it forks.
#[derive(Debug)]
pub struct Place {
    processor: usize,
    allowed: CpuSet,
}

impl Place {
    /// Of the calling thread.
    pub fn here() -> nix::Result<Self> {
        Ok(Self { processor: sched_getcpu()?, allowed: sched_getaffinity(MYSELF)? })
    }

    /// For the child, if it is the first to run.
    pub fn leave(&self) -> nix::Result<()> {
        if sched_getcpu()? == self.processor { self.send_away(MYSELF) } else { Ok(()) }
    }

    /// For the parent, if the child has not run yet. Both may do this at the same time: whoever ends last has set it right.
    pub fn send_away(&self, child: Pid) -> nix::Result<()> {
        let mut others = self.allowed;
        others.unset(self.processor)?;
        sched_setaffinity(child, &others)?;
        // Linux remembers what was asked for, and would hold to it when the cpuset changes. To ask for everything restricts nothing;
        // but whoever has restricted the parent meant the child, too.
        let mut everywhere = CpuSet::new();
        (0..CpuSet::count()).try_for_each(|each| everywhere.set(each))?;
        sched_setaffinity(child, &everywhere)?;
        if sched_getaffinity(child)? == self.allowed {
            return Ok(());
        }
        sched_setaffinity(child, &self.allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a thread that may run on these processors; threads have masks of their own.
    fn may_run_there_after(act: fn(&Place) -> nix::Result<()>, allowed: CpuSet) -> bool {
        let moved = move || {
            sched_setaffinity(MYSELF, &allowed).unwrap();
            // There may be nowhere to go.
            let _ = act(&Place::here().unwrap());
            sched_getaffinity(MYSELF).unwrap() == allowed
        };
        std::thread::spawn(moved).join().unwrap()
    }

    #[test]
    fn who_was_sent_away_may_run_where_it_might_before() {
        let all = sched_getaffinity(MYSELF).unwrap();
        let mut one = CpuSet::new();
        one.set(sched_getcpu().unwrap()).unwrap();
        for allowed in [all, one] {
            assert!(may_run_there_after(|place| place.send_away(MYSELF), allowed));
            assert!(may_run_there_after(Place::leave, allowed));
        }
    }

    #[test]
    fn who_leaves_is_elsewhere() {
        if std::thread::available_parallelism().unwrap().get() == 1 {
            return;
        }
        let left = || {
            let place = Place::here().unwrap();
            place.send_away(MYSELF).unwrap();
            // Linux may have brought it back by now, but not every time.
            sched_getcpu().unwrap() != place.processor
        };
        assert!((0..50).any(|_| left()));
    }
}
