//! Which processors threads may run on, and how the host lets them take turns there.
//!
//! Threads that the spinner serves together are *seated*: kept off the spinner's processor, so that each finds it looking while it runs itself,
//! and of a policy under which a thread that is woken does not drive out the one that runs (`SCHED_BATCH`, `man 7 sched`):
//! who hands over is about to wait anyhow, and to be driven out from another processor costs both sides an interrupt, 8 µs
//! each. An application never sees any of this: the calls that report affinity and policy are answered by the kernel from what it keeps itself.
//!
//! Key type: [`Seats`]. Neighbour: `spinner`, whose it is; processes that are killed, and those that are made ahead, are kept off their killer's processor, too (`blank`). What is said of a thread here is inherited by its children, so
//! none is seated while it makes one; but for the seed, whose children are told anew when they are used.

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors that this process may use.
#[derive(Debug)]
pub struct Seats {
    allowed: CpuSet,
}

/// The processor that the calling thread is on.
pub fn processor() -> usize {
    // SAFETY: the call has no preconditions.
    usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0)
}

fn set_policy(tid: i32, policy: i32) {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the structure is readable and as the call expects it. A raw call, as a libc might refuse a policy that it does not know.
    unsafe { libc::syscall(libc::SYS_sched_setscheduler, tid, policy, &raw const parameters) };
}

impl Seats {
    /// Those of the calling thread.
    pub fn new() -> Self {
        // If it fails, the set stays empty, which the host accepts for nobody.
        Self { allowed: sched_getaffinity(None).unwrap_or_default() }
    }

    fn set(tid: i32, set: &CpuSet) {
        if let Some(tid) = Pid::from_raw(tid) {
            // If the host refuses, it just runs anywhere; nor is there anything to be done for a thread that has died.
            let _ = sched_setaffinity(Some(tid), set);
        }
    }

    /// Lets a thread run on all processors but this one.
    pub fn keep_off(&self, tid: i32, processor: usize) {
        let mut set = self.allowed;
        if processor < CpuSet::MAX_CPU {
            set.unset(processor);
        }
        Self::set(tid, &set);
    }

    /// Lets a thread run on this processor only.
    pub fn fix(&self, tid: i32, processor: usize) {
        let mut set = CpuSet::new();
        if processor < CpuSet::MAX_CPU {
            set.set(processor);
        }
        Self::set(tid, &set);
    }

    /// Lets a thread run anywhere.
    pub fn free(&self, tid: i32) {
        Self::set(tid, &self.allowed);
    }

    /// Wakes a thread that is held, on the calling thread's processor. The answer to a notification does so by itself; a signal or a file that is put into
    /// the process wakes it on any processor that is idle, from which it then has to come back, 50 µs and more for each.
    pub fn wake_here<T>(&self, tid: i32, wake: impl FnOnce() -> T) -> T {
        self.fix(tid, processor());
        let result = wake();
        self.free(tid);
        result
    }

    /// Seats a thread away from the spinner's processor.
    pub fn seat(&self, tid: i32, spinner: usize) {
        self.keep_off(tid, spinner);
        set_policy(tid, libc::SCHED_BATCH);
    }

    /// Undoes [`Seats::seat`].
    pub fn unseat(&self, tid: i32) {
        set_policy(tid, libc::SCHED_OTHER);
        self.free(tid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> i64 {
        // SAFETY: the call has no preconditions.
        unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) }
    }

    #[test]
    fn a_seat_is_taken_and_given_back() {
        let seats = Seats::new();
        let last = (0..CpuSet::MAX_CPU).rev().find(|processor| seats.allowed.is_set(*processor));
        let last = last.expect("there is a processor");
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        let allowed = || sched_getaffinity(None).expect("one's own").count();
        let all = allowed();
        if all > 1 {
            seats.seat(tid, last);
            assert_eq!((allowed(), policy()), (all - 1, i64::from(libc::SCHED_BATCH)));
            assert!(!sched_getaffinity(None).expect("one's own").is_set(last));
            seats.fix(tid, last);
            assert_eq!((allowed(), processor()), (1, last));
        }
        seats.unseat(tid);
        assert_eq!((allowed(), policy()), (all, i64::from(libc::SCHED_OTHER)));
    }
}
