//! Futexes (`man 2 futex`): threads that wait at a word of memory.
//!
//! A waiter enters the queue of its key first and reads the word second; a waker changes the word (in the
//! application) first and looks into the queue second. So no wake-up is lost although the
//! kernel holds no lock while it reads user memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::errno::{EAGAIN, EFAULT, EINVAL, SysResult};
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::memory::Backing;
use crate::task::Task;
use crate::time::Instant;
use crate::wait::{PollEvents, WaitError, WaitQueue};

/// What a futex word is: the same for everybody who means the same word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FutexKey {
    /// An address in one address space.
    Private {
        /// [`crate::memory::MemoryManager::identity`]
        space: u64,
        /// The address.
        address: u64,
    },
    /// A place in shared memory.
    Shared {
        /// Which memory: the address of its host file object, which lives as long as it is mapped.
        memory: usize,
        /// Where in it.
        offset: u64,
    },
}

/// Whether the word may be shared between address spaces (`FUTEX_PRIVATE_FLAG`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Only within the address space.
    Private,
    /// As its memory is.
    Shared,
}

/// Everybody, for `FUTEX_WAIT` and `FUTEX_WAKE` without a bit set.
pub const MATCH_ANY: u32 = u32::MAX;

struct Waiter {
    bitset: u32,
    /// Where it waits; changed by a requeue.
    key: Mutex<FutexKey>,
    woken: AtomicBool,
    queue: WaitQueue,
}

/// All waiters of the kernel.
#[derive(Default)]
pub struct FutexTable {
    queues: Mutex<HashMap<FutexKey, Vec<Arc<Waiter>>>>,
}

impl FutexTable {
    fn enter(&self, key: FutexKey, bitset: u32) -> Arc<Waiter> {
        let waiter = Arc::new(Waiter {
            bitset,
            key: Mutex::new(key),
            woken: AtomicBool::new(false),
            queue: WaitQueue::new(),
        });
        self.queues.lock().entry(key).or_default().push(Arc::clone(&waiter));
        waiter
    }

    /// Takes a waiter out of its queue; `false` if somebody has woken it.
    fn leave(&self, waiter: &Arc<Waiter>) -> bool {
        let mut queues = self.queues.lock();
        let key = *waiter.key.lock();
        let Some(queue) = queues.get_mut(&key) else { return false };
        let before = queue.len();
        queue.retain(|other| !Arc::ptr_eq(other, waiter));
        let was_queued = queue.len() != before;
        if queue.is_empty() {
            queues.remove(&key);
        }
        was_queued
    }

    /// Wakes up to `count` waiters whose bit set meets `bitset`, in the order they came; returns how many.
    pub fn wake(&self, key: FutexKey, count: usize, bitset: u32) -> usize {
        let woken = {
            let mut queues = self.queues.lock();
            let Some(queue) = queues.get_mut(&key) else { return 0 };
            let woken = take_first(queue, count, bitset);
            if queue.is_empty() {
                queues.remove(&key);
            }
            woken
        };
        notify(&woken);
        woken.len()
    }

    /// Wakes up to `wake` waiters and moves up to `limit` of the rest to another word; returns both numbers.
    pub fn requeue(&self, from: FutexKey, to: FutexKey, wake: usize, limit: usize) -> (usize, usize) {
        let (woken, moved) = {
            let mut queues = self.queues.lock();
            let Some(mut queue) = queues.remove(&from) else { return (0, 0) };
            let woken = take_first(&mut queue, wake, MATCH_ANY);
            let count = queue.len().min(limit);
            if from == to {
                // They stay where they are, and count as moved, as on Linux.
                if !queue.is_empty() {
                    queues.insert(from, queue);
                }
            } else {
                let moved: Vec<Arc<Waiter>> = queue.drain(..count).collect();
                if !queue.is_empty() {
                    queues.insert(from, queue);
                }
                for waiter in &moved {
                    *waiter.key.lock() = to;
                }
                if count != 0 {
                    queues.entry(to).or_default().extend(moved);
                }
            }
            (woken, count)
        };
        notify(&woken);
        (woken.len(), moved)
    }
}

fn take_first(queue: &mut Vec<Arc<Waiter>>, count: usize, bitset: u32) -> Vec<Arc<Waiter>> {
    let mut left = count;
    let wanted = |waiter: &mut Arc<Waiter>| {
        let take = left != 0 && waiter.bitset & bitset != 0;
        left -= usize::from(take);
        take
    };
    queue.extract_if(.., wanted).collect()
}

fn notify(woken: &[Arc<Waiter>]) {
    for waiter in woken {
        waiter.woken.store(true, Ordering::Release);
        waiter.queue.wake(PollEvents::IN);
    }
}

/// Leaves the queue however the wait ends.
struct Place<'a> {
    table: &'a FutexTable,
    waiter: Arc<Waiter>,
}

impl Place<'_> {
    /// Ends a wait that found its word changed. Who came to wake somebody may have taken this waiter
    /// for one: then the next gets the wake-up.
    fn give_up(&self) {
        if !self.table.leave(&self.waiter) {
            let key = *self.waiter.key.lock();
            self.table.wake(key, 1, self.waiter.bitset);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.table.leave(&self.waiter);
    }
}

/// The first place whose waiter has been woken.
fn woken_one(places: &[Place<'_>]) -> Option<usize> {
    places.iter().position(|place| place.waiter.woken.load(Ordering::Acquire))
}

/// A word to wait at.
#[derive(Clone, Copy, Debug)]
pub struct FutexWord {
    /// [`Task::futex_key`]
    pub key: FutexKey,
    /// Where it is read.
    pub address: u64,
    /// What it must hold.
    pub expected: u32,
}

/// Why a futex wait gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FutexWaitError {
    /// `EAGAIN`: the word was different; `EFAULT`, `EINVAL`.
    Error(abi::errno::Errno),
    /// A signal or the deadline.
    Wait(WaitError),
}

impl From<abi::errno::Errno> for FutexWaitError {
    fn from(errno: abi::errno::Errno) -> Self {
        Self::Error(errno)
    }
}

impl Task {
    /// What the word at an address is.
    ///
    /// # Errors
    /// `EINVAL`: not aligned. `EFAULT`: not mapped.
    pub fn futex_key(&self, address: u64, sharing: Sharing) -> SysResult<FutexKey> {
        if !address.is_multiple_of(4) {
            return Err(EINVAL);
        }
        let memory = self.memory();
        let private = FutexKey::Private { space: memory.identity, address };
        if sharing == Sharing::Private {
            return Ok(private);
        }
        let region = memory.region_at(address).ok_or(EFAULT)?;
        let inside = address - region.start;
        let is_shared = region.flags.contains(crate::memory::RegionFlags::SHARED);
        Ok(match &region.backing {
            Backing::SharedAnonymous { memory, offset } => {
                FutexKey::Shared { memory: Arc::as_ptr(memory).addr(), offset: offset + inside }
            }
            Backing::File { source, offset, .. } if is_shared => {
                FutexKey::Shared { memory: Arc::as_ptr(source).addr(), offset: offset + inside }
            }
            _ => private,
        })
    }

    /// `FUTEX_WAIT`: waits until somebody wakes the word, if it still holds what is expected.
    ///
    /// # Errors
    /// See [`FutexWaitError`].
    pub async fn futex_wait(
        &self,
        word: FutexWord,
        bitset: u32,
        deadline: Option<Instant>,
    ) -> Result<(), FutexWaitError> {
        self.futex_wait_any(&[word], bitset, deadline).await.map(|_| ())
    }

    /// `futex_waitv`: waits until somebody wakes one of the words; returns which.
    ///
    /// # Errors
    /// See [`FutexWaitError`].
    pub async fn futex_wait_any(
        &self,
        words: &[FutexWord],
        bitset: u32,
        deadline: Option<Instant>,
    ) -> Result<usize, FutexWaitError> {
        let table = &self.kernel.futexes;
        let mut places: SmallVec<[Place<'_>; 1]> = SmallVec::new();
        for word in words {
            places.push(Place { table, waiter: table.enter(word.key, bitset) });
            let read = self.read_value::<u32>(word.address);
            if read != Ok(word.expected) {
                // A wake-up of an earlier word was meant for this task: it wins.
                let stale = places.pop();
                stale.iter().for_each(Place::give_up);
                if let Some(index) = places.iter().position(|place| !table.leave(&place.waiter)) {
                    return Ok(index);
                }
                return Err(read.err().unwrap_or(EAGAIN).into());
            }
        }
        let queues: SmallVec<[(&WaitQueue, PollEvents); 1]> =
            places.iter().map(|place| (&place.waiter.queue, PollEvents::IN)).collect();
        let result = self.wait_on_all(&queues, deadline, || woken_one(&places)).await;
        // Whoever woke this task between its last look and now must not have woken nobody.
        result.or_else(|error| {
            let left = places.iter().map(|place| table.leave(&place.waiter));
            left.collect::<SmallVec<[bool; 1]>>()
                .iter()
                .position(|was_queued| !was_queued)
                .ok_or(FutexWaitError::Wait(error))
        })
    }

    /// Wakes waiters of a word whose sharing is not known (`CLONE_CHILD_CLEARTID`, robust lists).
    pub(crate) fn wake_futex(&self, address: u64, count: usize) {
        for sharing in [Sharing::Shared, Sharing::Private] {
            if let Ok(key) = self.futex_key(address, sharing) {
                self.kernel.futexes.wake(key, count, MATCH_ANY);
            }
        }
    }

    /// Marks the robust futexes a thread still holds as owned by a dead thread (`man 2 get_robust_list`).
    pub(crate) fn release_robust_futexes(&self) {
        let head = self.robust_list.swap(0, Ordering::Relaxed);
        if head != 0 {
            let _ = self.walk_robust_list(head);
        }
    }

    fn walk_robust_list(&self, head: u64) -> SysResult<()> {
        // struct robust_list_head { list.next, futex_offset, list_op_pending }
        let [first, offset, pending]: [u64; 3] = self.read_value(head)?;
        let mut entry = first & !1;
        let mut left = ROBUST_LIST_MAX;
        while entry != head && entry != 0 && left != 0 {
            let next: u64 = self.read_value(entry)?;
            if entry != pending & !1 {
                self.release_robust_futex(entry.wrapping_add(offset));
            }
            entry = next & !1;
            left -= 1;
        }
        if pending & !1 != 0 {
            self.release_robust_futex((pending & !1).wrapping_add(offset));
        }
        Ok(())
    }

    fn release_robust_futex(&self, address: u64) {
        const WAITERS: u32 = 0x8000_0000;
        const OWNER_DIED: u32 = 0x4000_0000;
        const TID_MASK: u32 = 0x3fff_ffff;
        let Ok(word) = self.read_value::<u32>(address) else { return };
        if i32::try_from(word & TID_MASK) != Ok(self.tid()) {
            return;
        }
        // Only the owner changes a held lock's word, but for the waiters' bit, which is kept.
        if self.write_value(address, &(word & WAITERS | OWNER_DIED)).is_ok() && word & WAITERS != 0 {
            self.wake_futex(address, 1);
        }
    }
}

/// Entries of a robust list that are followed (`ROBUST_LIST_LIMIT`).
const ROBUST_LIST_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    const A: FutexKey = FutexKey::Private { space: 1, address: 0x1000 };
    const B: FutexKey = FutexKey::Private { space: 1, address: 0x2000 };

    #[test]
    fn waiters_are_woken_in_order_and_by_their_bits() {
        let table = FutexTable::default();
        let first = table.enter(A, 1);
        let second = table.enter(A, 2);
        assert_eq!(table.wake(A, 1, 2), 1);
        assert!(second.woken.load(Ordering::Relaxed) && !first.woken.load(Ordering::Relaxed));
        assert_eq!(table.wake(A, 9, MATCH_ANY), 1);
        assert_eq!(table.wake(A, 9, MATCH_ANY), 0);
    }

    #[test]
    fn a_wake_up_taken_by_one_who_gives_up_goes_to_the_next() {
        let table = FutexTable::default();
        let stale = Place { table: &table, waiter: table.enter(A, MATCH_ANY) };
        let other = table.enter(A, MATCH_ANY);
        assert_eq!(table.wake(A, 1, MATCH_ANY), 1);
        assert!(!other.woken.load(Ordering::Relaxed));
        stale.give_up();
        assert!(other.woken.load(Ordering::Relaxed));
    }

    #[test]
    fn waiters_requeued_to_their_own_word_stay_and_count() {
        let table = FutexTable::default();
        let _waiters: Vec<_> = (0..3).map(|_| table.enter(A, MATCH_ANY)).collect();
        assert_eq!(table.requeue(A, A, 1, 9), (1, 2));
        assert_eq!(table.wake(A, 9, MATCH_ANY), 2);
    }

    #[test]
    fn requeued_waiters_wait_at_the_other_word() {
        let table = FutexTable::default();
        let waiters: Vec<_> = (0..3).map(|_| table.enter(A, MATCH_ANY)).collect();
        assert_eq!(table.requeue(A, B, 1, 9), (1, 2));
        assert_eq!(table.wake(A, 9, MATCH_ANY), 0);
        assert!(table.leave(&waiters[2]));
        assert!(!table.leave(&waiters[0]), "woken waiters have left");
        assert_eq!(table.wake(B, 9, MATCH_ANY), 1);
    }
}
