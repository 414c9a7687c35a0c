//! Futexes (`man 2 futex`): threads that wait at a word of memory.
//!
//! Waiters stand in buckets, by the hash of their word. A waker changes the word (in the application) first and looks
//! into the bucket second, counting its look: looks at all buckets are numbered together, and a bucket keeps the number of the last.
//! A waiter reads that first, the word second and enters the bucket third;
//! if the number has changed by then, it reads the word again. So no wake-up is lost, although the kernel holds
//! no lock while it reads user memory: a waker that came before the entry either shows in the number, or came before
//! the word was read, and the word shows it.
//!
//! **The word that the thread has loaded itself.** To read memory costs the kernel more than all the rest. A platform may
//! bring the word along ([`platform::UserMemory::compared_u32`]), loaded by the waiting thread on its way into its call: some time before the waiter
//! is there. It will do if no waker has looked into the bucket since the load. When that was is not known, but that it was after the
//! thread's last answer, before which the task has noted how many looks there had been ([`Task::note_looks`]). If the
//! bucket's last look, seen with its lock held, is none of a later number, then
//!
//! - a waker that has looked before was numbered before the note was taken. It had changed the word before it called; its call, the number (a
//!   read-modify-write that releases, read by the note that acquires), the answer (released to the thread, or by way of the host), and
//!   the load are each ordered after the one before. So the load has seen what the waker has written, or what was written later;
//! - a waker that looks later finds the waiter.
//!
//! Otherwise the word is read as if none had come. A word that changes without a wake-up has to be different only at *some* moment between the beginning of the call
//! and the waiter's entry for `EAGAIN`, and equal at some such moment for a wait; the load is one. The kernel's own changes (robust lists,
//! `CLONE_CHILD_CLEARTID`, `FUTEX_WAKE_OP`) come before their looks like anybody's. An older note than
//! that of the last answer does no harm, so calls that the stub answers by itself need none. But a later note than the load would: a thread that goes on with registers that were set
//! (a signal's handler, its return, a call that begins again) may stand anywhere, even behind the load, so then nothing is noted and
//! the next word is not trusted. A thread that brings a false word deceives itself: it sleeps, or does not, in a queue that it may stand in anyhow.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;

use abi::errno::{EAGAIN, EFAULT, EINVAL, SysResult};
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use crate::memory::Backing;
use crate::task::Task;
use crate::time::Instant;
use crate::wait::WaitError;

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
    /// Whom to wake, once it waits in earnest.
    waker: Mutex<Option<Waker>>,
}

/// Buckets of the table, as many as a byte has values: enough that busy words seldom meet, and little memory.
const BUCKETS: usize = 256;
/// The golden ratio's bits, as in many hash functions.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The waiters of all words that hash to the same number, in the order they came.
#[derive(Default)]
struct Bucket {
    waiters: Mutex<Vec<Arc<Waiter>>>,
    /// The number of the last look of a waker at `waiters`. Changed under the lock only.
    last_look: AtomicU64,
}

/// All waiters of the kernel.
pub struct FutexTable {
    buckets: Box<[Bucket]>,
    /// How many looks of wakers there have been, into any bucket.
    looks: AtomicU64,
    /// Makes it hard for applications, which choose the addresses, to fill one bucket.
    secret: u64,
}

impl Default for FutexTable {
    fn default() -> Self {
        Self {
            buckets: std::iter::repeat_with(Bucket::default).take(BUCKETS).collect(),
            looks: AtomicU64::new(0),
            secret: RandomState::new().hash_one(0_u8),
        }
    }
}

impl FutexTable {
    fn index(&self, key: FutexKey) -> usize {
        let (memory, place) = match key {
            FutexKey::Private { space, address } => (space, address),
            FutexKey::Shared { memory, offset } => (u64::try_from(memory).unwrap_or(0), offset),
        };
        // Two rounds of a multiplication that carries upwards, whose upper bits are used.
        let mix = |value: u64| value.wrapping_mul(MULTIPLIER).rotate_left(32);
        let hash = mix(mix(memory ^ self.secret) ^ place).wrapping_mul(MULTIPLIER);
        usize::from(hash.to_be_bytes()[0])
    }

    fn bucket(&self, key: FutexKey) -> &Bucket {
        &self.buckets[self.index(key)]
    }

    /// Locks a bucket for a waker: whoever reads the word after this has seen what was done to it before, or sees the number change.
    fn look(&self, index: usize) -> MutexGuard<'_, Vec<Arc<Waiter>>> {
        let bucket = &self.buckets[index];
        let waiters = bucket.waiters.lock();
        let number = self.looks.fetch_add(1, Ordering::AcqRel) + 1;
        bucket.last_look.store(number, Ordering::Release);
        waiters
    }

    fn new_waiter(key: FutexKey, bitset: u32) -> Arc<Waiter> {
        Arc::new(Waiter {
            bitset,
            key: Mutex::new(key),
            woken: AtomicBool::new(false),
            waker: Mutex::new(None),
        })
    }

    /// Puts a new waiter in the queue of a word that its thread has loaded itself, if no waker has looked there later than was `noted`.
    fn enter_as_noted(&self, key: FutexKey, bitset: u32, noted: u64) -> Option<FutexPlace<'_>> {
        let bucket = self.bucket(key);
        let waiter = Self::new_waiter(key, bitset);
        let mut waiters = bucket.waiters.lock();
        if bucket.last_look.load(Ordering::Relaxed) > noted {
            return None;
        }
        waiters.push(Arc::clone(&waiter));
        drop(waiters);
        Some(FutexPlace { table: self, waiter })
    }

    /// Takes a waiter out of its queue; `false` if somebody has woken it.
    fn leave(&self, waiter: &Arc<Waiter>) -> bool {
        loop {
            let key = *waiter.key.lock();
            let mut waiters = self.bucket(key).waiters.lock();
            if *waiter.key.lock() != key {
                // Requeued meanwhile.
                continue;
            }
            let position = waiters.iter().position(|other| Arc::ptr_eq(other, waiter));
            let removed = position.map(|index| waiters.remove(index));
            return removed.is_some();
        }
    }

    /// Wakes up to `count` waiters whose bit set meets `bitset`, in the order they came; returns how many.
    pub fn wake(&self, key: FutexKey, count: usize, bitset: u32) -> usize {
        let woken = take_first(&mut self.look(self.index(key)), key, count, bitset);
        notify(&woken);
        woken.len()
    }

    /// Wakes up to `wake` waiters and moves up to `limit` of the rest to another word; returns both numbers.
    pub fn requeue(&self, from: FutexKey, to: FutexKey, wake: usize, limit: usize) -> (usize, usize) {
        let (here, there) = (self.index(from), self.index(to));
        // In the order of their places, so that two of these do not wait for each other.
        let low = self.look(here.min(there));
        let high = (here != there).then(|| self.look(here.max(there)));
        let (mut source, mut target) = match high {
            None => (low, None),
            Some(high) if here < there => (low, Some(high)),
            Some(high) => (high, Some(low)),
        };
        let woken = take_first(&mut source, from, wake, MATCH_ANY);
        let moved = source.iter().filter(|waiter| *waiter.key.lock() == from).count().min(limit);
        // Those that stay at their word count as moved, as on Linux.
        if from != to {
            let waiters = take_first(&mut source, from, moved, MATCH_ANY);
            for waiter in &waiters {
                *waiter.key.lock() = to;
            }
            target.as_mut().unwrap_or(&mut source).extend(waiters);
        }
        drop((source, target));
        notify(&woken);
        (woken.len(), moved)
    }
}
type Waiters = SmallVec<[Arc<Waiter>; 4]>;

/// Takes the first `count` waiters of a word whose bit set meets `bitset` out of a bucket.
fn take_first(waiters: &mut Vec<Arc<Waiter>>, key: FutexKey, count: usize, bitset: u32) -> Waiters {
    let wanted = |waiter: &mut Arc<Waiter>| waiter.bitset & bitset != 0 && *waiter.key.lock() == key;
    waiters.extract_if(.., wanted).take(count).collect()
}

fn notify(woken: &[Arc<Waiter>]) {
    for waiter in woken {
        waiter.woken.store(true, Ordering::Release);
        let waker = waiter.waker.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A place in the queue of a word. It is left however the wait ends.
pub struct FutexPlace<'a> {
    table: &'a FutexTable,
    waiter: Arc<Waiter>,
}

impl FutexPlace<'_> {
    /// Ends a wait that found its word changed. Who came to wake somebody may have taken this waiter
    /// for one: then the next gets the wake-up.
    fn give_up(&self) {
        if !self.table.leave(&self.waiter) {
            let key = *self.waiter.key.lock();
            self.table.wake(key, 1, self.waiter.bitset);
        }
    }

    fn is_woken(&self) -> bool {
        self.waiter.woken.load(Ordering::Acquire)
    }
}

impl Drop for FutexPlace<'_> {
    fn drop(&mut self) {
        if !self.is_woken() {
            self.table.leave(&self.waiter);
        }
    }
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

    /// The beginning of `FUTEX_WAIT`: a place in the word's queue, if the word still holds what is expected.
    ///
    /// # Errors
    /// `EAGAIN`: the word was different; `EFAULT`.
    pub fn futex_enter(&self, word: FutexWord, bitset: u32) -> SysResult<FutexPlace<'_>> {
        let table = &self.kernel.futexes;
        let bucket = table.bucket(word.key);
        if let Some(found) = self.user_memory().compared_u32(word.address) {
            if found != word.expected {
                return Err(EAGAIN);
            }
            let noted = self.noted_looks.load(Ordering::Relaxed);
            if let Some(place) = table.enter_as_noted(word.key, bitset, noted) {
                return Ok(place);
            }
        }
        let last_look = bucket.last_look.load(Ordering::Acquire);
        self.check_futex(word)?;
        let waiter = FutexTable::new_waiter(word.key, bitset);
        let missed = {
            let mut waiters = bucket.waiters.lock();
            waiters.push(Arc::clone(&waiter));
            bucket.last_look.load(Ordering::Relaxed) != last_look
        };
        let place = FutexPlace { table, waiter };
        if missed && let Err(error) = self.check_futex(word) {
            place.give_up();
            return Err(error);
        }
        Ok(place)
    }

    /// The task goes on. `answered`: its thread returns from the very call that it is held in, behind which it will load words; otherwise nobody
    /// knows where it stands.
    pub(crate) fn note_looks(&self, answered: bool) {
        let looks = if answered { self.kernel.futexes.looks.load(Ordering::Acquire) } else { 0 };
        self.noted_looks.store(looks, Ordering::Relaxed);
    }

    fn check_futex(&self, word: FutexWord) -> SysResult<()> {
        if self.read_value::<u32>(word.address)? == word.expected { Ok(()) } else { Err(EAGAIN) }
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
        let place = self.futex_enter(word, bitset)?;
        self.futex_wait_at(&[place], deadline).await.map(|_| ()).map_err(FutexWaitError::Wait)
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
        let mut places = Vec::with_capacity(words.len());
        for word in words {
            match self.futex_enter(*word, bitset) {
                Ok(place) => places.push(place),
                Err(error) => {
                    // A wake-up of an earlier word was meant for this task: it wins.
                    let woken = places.iter().position(|place| !table.leave(&place.waiter));
                    return woken.ok_or(error.into());
                }
            }
        }
        self.futex_wait_at(&places, deadline).await.map_err(FutexWaitError::Wait)
    }

    /// Waits until one of the places is woken; returns which.
    ///
    /// # Errors
    /// A signal or the deadline.
    pub async fn futex_wait_at(
        &self,
        places: &[FutexPlace<'_>],
        deadline: Option<Instant>,
    ) -> Result<usize, WaitError> {
        let begin = |waker: &Waker| {
            for place in places {
                *place.waiter.waker.lock() = Some(waker.clone());
            }
        };
        let result = self.wait_with(deadline, begin, || places.iter().position(FutexPlace::is_woken)).await;
        // Whoever woke this task between its last look and now must not have woken nobody.
        result.or_else(|error| {
            let left = places.iter().map(|place| self.kernel.futexes.leave(&place.waiter));
            left.collect::<SmallVec<[bool; 4]>>().iter().position(|was_queued| !was_queued).ok_or(error)
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
        let head = self.signals.words.set_robust_list(0);
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

    fn enter(table: &FutexTable, key: FutexKey, bitset: u32) -> Arc<Waiter> {
        let waiter = FutexTable::new_waiter(key, bitset);
        table.bucket(key).waiters.lock().push(Arc::clone(&waiter));
        waiter
    }

    #[test]
    fn waiters_are_woken_in_order_and_by_their_bits() {
        let table = FutexTable::default();
        let first = enter(&table, A, 1);
        let second = enter(&table, A, 2);
        assert_eq!(table.wake(A, 1, 2), 1);
        assert!(second.woken.load(Ordering::Relaxed) && !first.woken.load(Ordering::Relaxed));
        assert_eq!(table.wake(A, 9, MATCH_ANY), 1);
        assert_eq!(table.wake(A, 9, MATCH_ANY), 0);
    }

    #[test]
    fn a_wake_up_taken_by_one_who_gives_up_goes_to_the_next() {
        let table = FutexTable::default();
        let stale = FutexPlace { table: &table, waiter: enter(&table, A, MATCH_ANY) };
        let other = enter(&table, A, MATCH_ANY);
        assert_eq!(table.wake(A, 1, MATCH_ANY), 1);
        assert!(!other.woken.load(Ordering::Relaxed));
        stale.give_up();
        assert!(other.woken.load(Ordering::Relaxed));
    }

    #[test]
    fn waiters_requeued_to_their_own_word_stay_and_count() {
        let table = FutexTable::default();
        let _waiters: Vec<_> = (0..3).map(|_| enter(&table, A, MATCH_ANY)).collect();
        assert_eq!(table.requeue(A, A, 1, 9), (1, 2));
        assert_eq!(table.wake(A, 9, MATCH_ANY), 2);
    }

    #[test]
    fn requeued_waiters_wait_at_the_other_word() {
        let table = FutexTable::default();
        let waiters: Vec<_> = (0..3).map(|_| enter(&table, A, MATCH_ANY)).collect();
        assert_eq!(table.requeue(A, B, 1, 9), (1, 2));
        assert_eq!(table.wake(A, 9, MATCH_ANY), 0);
        assert!(table.leave(&waiters[2]));
        assert!(!table.leave(&waiters[0]), "woken waiters have left");
        assert_eq!(table.wake(B, 9, MATCH_ANY), 1);
    }

    #[test]
    fn a_word_loaded_before_a_look_is_not_trusted_after_it() {
        let table = FutexTable::default();
        let noted = table.looks.load(Ordering::Relaxed);
        drop(table.enter_as_noted(A, MATCH_ANY, noted).expect("nobody has looked"));
        // To wake nobody is to look, too.
        assert_eq!(table.wake(A, 1, MATCH_ANY), 0);
        assert!(table.enter_as_noted(A, MATCH_ANY, noted).is_none());
        let noted = table.looks.load(Ordering::Relaxed);
        let place = table.enter_as_noted(A, MATCH_ANY, noted).expect("it was noted");
        assert_eq!(table.wake(A, 1, MATCH_ANY), 1);
        assert!(place.is_woken());
        for (from, to) in [(A, B), (B, A)] {
            let noted = table.looks.load(Ordering::Relaxed);
            assert_eq!(table.requeue(from, to, 1, 1), (0, 0));
            assert!(table.enter_as_noted(A, MATCH_ANY, noted).is_none());
            assert!(table.enter_as_noted(B, MATCH_ANY, noted).is_none());
        }
        assert!(table.enter_as_noted(A, MATCH_ANY, 0).is_none(), "nothing was noted");
    }
}
