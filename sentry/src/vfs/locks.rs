//! Advisory locks: whole files (`man 2 flock`) and ranges (`man 2 fcntl`, owned by a descriptor table or by a
//! description).
//!
//! Each inode has its own list ([`InodeLocks`]); who waits for whom is kept for the whole kernel
//! ([`PosixWaiters`]), so that two processes that wait for each other are found (`EDEADLK`).
//!
//! Invariants: ranges of one owner do not overlap; neighbours of one kind are merged.

use std::collections::HashMap;

use abi::errno::{EAGAIN, EDEADLK, EINVAL, ENOLCK, EOVERFLOW, SysResult};
use parking_lot::Mutex;

use super::FileDescription;
use crate::task::{Pid, Task};
use crate::wait::{CallResult, Failure, OnInterrupt, PollEvents, Restart, WaitQueue};

/// Ranges one inode may have locked, by all owners together.
pub const RANGES_MAX: usize = 65_536;
/// Links of a chain of waiters that are followed (Linux's `MAX_DEADLK_ITERATIONS`).
const DEADLOCK_STEPS: usize = 10;

/// Kind of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Others may share it.
    Shared,
    /// Nobody else.
    Exclusive,
}

/// Who owns a lock on a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RangeOwner {
    /// A descriptor table, by its number: traditional record locks.
    Table(u64),
    /// A description, by its identity: `F_OFD_SETLK`.
    Description(u64),
}

/// A locked range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeLock {
    /// Owner.
    pub owner: RangeOwner,
    /// First byte.
    pub start: u64,
    /// Last byte; [`RangeLock::TO_END`] however long the file grows.
    pub last: u64,
    /// Kind.
    pub kind: LockKind,
    /// Process that took it, for `F_GETLK`.
    pub pid: Pid,
}

impl RangeLock {
    /// The last byte a file can have.
    pub const TO_END: u64 = i64::MAX as u64;

    /// First and last byte of a range as `struct flock` gives it, once `l_whence` is added in.
    ///
    /// # Errors
    /// `EINVAL`: it begins before the file; `EOVERFLOW`.
    pub fn bounds(start: i64, length: i64) -> SysResult<(u64, u64)> {
        let (start, last) = match length {
            0 => (start, i64::MAX),
            length if length > 0 => (start, start.checked_add(length - 1).ok_or(EOVERFLOW)?),
            length => (start.checked_add(length).ok_or(EINVAL)?, start - 1),
        };
        let bound = |position: i64| u64::try_from(position).map_err(|_| EINVAL);
        Ok((bound(start)?, bound(last)?))
    }

    const fn overlaps(&self, start: u64, last: u64) -> bool {
        self.start <= last && start <= self.last
    }

    fn conflicts(&self, other: &Self) -> bool {
        self.owner != other.owner
            && self.overlaps(other.start, other.last)
            && (self.kind == LockKind::Exclusive || other.kind == LockKind::Exclusive)
    }
}

#[derive(Default)]
struct Lists {
    ranges: Vec<RangeLock>,
    /// `flock`: identity of the description and kind.
    whole: Vec<(u64, LockKind)>,
}

/// The locks of one inode.
#[derive(Default)]
pub struct InodeLocks {
    lists: Mutex<Lists>,
    released: WaitQueue,
}

impl InodeLocks {
    /// A lock that stands in the way of `wanted`.
    pub fn conflict(&self, wanted: &RangeLock) -> Option<RangeLock> {
        let lists = self.lists.lock();
        lists.ranges.iter().filter(|held| held.conflicts(wanted)).min_by_key(|held| held.start).copied()
    }

    /// Takes a lock, replacing what the owner holds of the range.
    ///
    /// # Errors
    /// The lock in the way, or `ENOLCK` as the inner error.
    pub fn set_range(&self, wanted: RangeLock) -> Result<SysResult<()>, RangeLock> {
        let mut lists = self.lists.lock();
        if let Some(conflict) = lists.ranges.iter().find(|held| held.conflicts(&wanted)) {
            return Err(*conflict);
        }
        if lists.ranges.len() + 2 > RANGES_MAX {
            return Ok(Err(ENOLCK));
        }
        let weakened = lists.clear(wanted.owner, wanted.start, wanted.last);
        lists.insert(wanted);
        drop(lists);
        if weakened {
            self.released.wake_all();
        }
        Ok(Ok(()))
    }

    /// Gives up what an owner holds of a range.
    ///
    /// # Errors
    /// `ENOLCK`: a range would be split and there are too many.
    pub fn clear_range(&self, owner: RangeOwner, start: u64, last: u64) -> SysResult<()> {
        let mut lists = self.lists.lock();
        if lists.ranges.len() + 1 > RANGES_MAX {
            return Err(ENOLCK);
        }
        let cleared = lists.clear(owner, start, last);
        drop(lists);
        if cleared {
            self.released.wake_all();
        }
        Ok(())
    }

    /// `flock`: takes or changes the lock of a description. As on Linux a change first gives up the old lock.
    ///
    /// # Errors
    /// `EAGAIN`: somebody else's is in the way.
    pub fn lock_whole(&self, identity: u64, kind: LockKind) -> SysResult<()> {
        let mut lists = self.lists.lock();
        if lists.whole.contains(&(identity, kind)) {
            return Ok(());
        }
        let before = lists.whole.len();
        lists.whole.retain(|(owner, _)| *owner != identity);
        let released = lists.whole.len() < before;
        let exclusive = |kind: LockKind| kind == LockKind::Exclusive;
        let result = if lists.whole.iter().any(|(_, held)| exclusive(*held) || exclusive(kind)) {
            Err(EAGAIN)
        } else {
            lists.whole.push((identity, kind));
            Ok(())
        };
        drop(lists);
        if released {
            self.released.wake_all();
        }
        result
    }

    /// `flock(LOCK_UN)`
    pub fn unlock_whole(&self, identity: u64) {
        self.release(|lists| lists.whole.retain(|(owner, _)| *owner != identity));
    }

    pub(super) fn release_table(&self, table: u64) {
        self.release(|lists| lists.ranges.retain(|lock| lock.owner != RangeOwner::Table(table)));
    }

    pub(super) fn release_description(&self, identity: u64) {
        self.release(|lists| {
            lists.whole.retain(|(owner, _)| *owner != identity);
            lists.ranges.retain(|lock| lock.owner != RangeOwner::Description(identity));
        });
    }

    fn release(&self, release: impl FnOnce(&mut Lists)) {
        let mut lists = self.lists.lock();
        let before = lists.ranges.len() + lists.whole.len();
        release(&mut lists);
        let released = lists.ranges.len() + lists.whole.len() < before;
        drop(lists);
        if released {
            self.released.wake_all();
        }
    }

    /// All range locks and whole-file locks (`/proc/locks`).
    pub fn list(&self) -> (Vec<RangeLock>, Vec<(u64, LockKind)>) {
        let lists = self.lists.lock();
        (lists.ranges.clone(), lists.whole.clone())
    }
}

impl Lists {
    /// Cuts a range out of an owner's locks; whether there was anything.
    fn clear(&mut self, owner: RangeOwner, start: u64, last: u64) -> bool {
        let mut cut = false;
        let mut rest = Vec::new();
        self.ranges.retain(|lock| {
            if lock.owner != owner || !lock.overlaps(start, last) {
                return true;
            }
            cut = true;
            if lock.start < start {
                rest.push(RangeLock { last: start - 1, ..*lock });
            }
            if lock.last > last {
                rest.push(RangeLock { start: last + 1, ..*lock });
            }
            false
        });
        self.ranges.append(&mut rest);
        cut
    }

    /// Adds a lock whose range is clear, merging it with its neighbours.
    fn insert(&mut self, mut lock: RangeLock) {
        self.ranges.retain(|other| {
            let same = other.owner == lock.owner && other.kind == lock.kind;
            if same && other.last.checked_add(1) == Some(lock.start) {
                lock.start = other.start;
                return false;
            }
            if same && lock.last.checked_add(1) == Some(other.start) {
                lock.last = other.last;
                return false;
            }
            true
        });
        self.ranges.push(lock);
    }
}

/// Which descriptor table waits for which, by the thread that waits.
#[derive(Default)]
pub(super) struct PosixWaiters {
    waits: Mutex<HashMap<Pid, (u64, u64)>>,
}

impl PosixWaiters {
    /// A thread of `waiter` is about to wait for `holder`.
    fn begin(&self, thread: Pid, waiter: u64, holder: u64) -> SysResult<()> {
        let mut waits = self.waits.lock();
        let mut at = holder;
        for _ in 0..DEADLOCK_STEPS {
            if at == waiter {
                return Err(EDEADLK);
            }
            let Some((_, next)) = waits.values().find(|(owner, _)| *owner == at) else { break };
            at = *next;
        }
        waits.insert(thread, (waiter, holder));
        Ok(())
    }

    fn end(&self, thread: Pid) {
        self.waits.lock().remove(&thread);
    }
}

/// Ends a wait in the books when it ends in fact.
struct Waiting<'a> {
    waiters: &'a PosixWaiters,
    thread: Pid,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waiters.end(self.thread);
    }
}

/// May a lock be waited for?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockWait {
    /// Yes.
    Yes,
    /// `EAGAIN` instead.
    No,
}

impl Task {
    /// `fcntl(F_SETLK, F_SETLKW, …)` with a kind of lock.
    ///
    /// # Errors
    /// `EAGAIN`, `EDEADLK`, `ENOLCK`, interrupted.
    pub async fn lock_range(
        &self,
        file: &FileDescription,
        wanted: RangeLock,
        wait: LockWait,
    ) -> CallResult<()> {
        let locks = file.inode.attachments().locks();
        let waiters = &self.kernel.vfs.posix_waiters;
        let attempt = || match locks.set_range(wanted) {
            Ok(result) => Some(result),
            Err(_) if wait == LockWait::No => Some(Err(EAGAIN)),
            Err(held) => match (wanted.owner, held.owner) {
                (RangeOwner::Table(own), RangeOwner::Table(other)) => {
                    waiters.begin(self.tid(), own, other).err().map(Err)
                }
                _ => None,
            },
        };
        let _waiting = Waiting { waiters, thread: self.tid() };
        let result = self.wait_until(&locks.released, PollEvents::all(), attempt).await;
        result.on_interrupt(Restart::Sys)?.map_err(Failure::Error)
    }

    /// `flock`.
    ///
    /// # Errors
    /// `EAGAIN`, interrupted.
    pub async fn lock_whole(&self, file: &FileDescription, kind: LockKind, wait: LockWait) -> CallResult<()> {
        let locks = file.inode.attachments().locks();
        let attempt = || match locks.lock_whole(file.identity, kind) {
            Err(EAGAIN) if wait == LockWait::Yes => None,
            other => Some(other),
        };
        let result = self.wait_until(&locks.released, PollEvents::all(), attempt).await;
        result.on_interrupt(Restart::Sys)?.map_err(Failure::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: RangeOwner = RangeOwner::Table(1);
    const B: RangeOwner = RangeOwner::Table(2);

    fn lock(owner: RangeOwner, start: u64, last: u64, kind: LockKind) -> RangeLock {
        RangeLock { owner, start, last, kind, pid: 1 }
    }

    fn ranges(locks: &InodeLocks) -> Vec<(u64, u64, LockKind)> {
        let mut list: Vec<_> = locks.list().0.iter().map(|lock| (lock.start, lock.last, lock.kind)).collect();
        list.sort_by_key(|range| range.0);
        list
    }

    #[test]
    fn shared_locks_overlap_and_exclusive_ones_do_not() {
        let locks = InodeLocks::default();
        assert_eq!(locks.set_range(lock(A, 0, 9, LockKind::Shared)), Ok(Ok(())));
        assert_eq!(locks.set_range(lock(B, 5, 14, LockKind::Shared)), Ok(Ok(())));
        let conflict = locks.set_range(lock(B, 0, 4, LockKind::Exclusive)).unwrap_err();
        assert_eq!((conflict.owner, conflict.start, conflict.last), (A, 0, 9));
        assert_eq!(locks.set_range(lock(B, 15, 20, LockKind::Exclusive)), Ok(Ok(())));
    }

    #[test]
    fn unlocking_the_middle_splits_and_relocking_it_merges() {
        let locks = InodeLocks::default();
        locks.set_range(lock(A, 0, 99, LockKind::Exclusive)).unwrap().unwrap();
        locks.clear_range(A, 40, 59).unwrap();
        assert_eq!(ranges(&locks), [(0, 39, LockKind::Exclusive), (60, 99, LockKind::Exclusive)]);
        locks.set_range(lock(B, 45, 50, LockKind::Exclusive)).unwrap().unwrap();
        locks.clear_range(B, 0, RangeLock::TO_END).unwrap();
        locks.set_range(lock(A, 40, 59, LockKind::Exclusive)).unwrap().unwrap();
        assert_eq!(ranges(&locks), [(0, 99, LockKind::Exclusive)]);
    }

    #[test]
    fn a_change_of_kind_within_a_lock_keeps_the_rest() {
        let locks = InodeLocks::default();
        locks.set_range(lock(A, 0, RangeLock::TO_END, LockKind::Exclusive)).unwrap().unwrap();
        locks.set_range(lock(A, 10, 19, LockKind::Shared)).unwrap().unwrap();
        assert_eq!(
            ranges(&locks),
            [
                (0, 9, LockKind::Exclusive),
                (10, 19, LockKind::Shared),
                (20, RangeLock::TO_END, LockKind::Exclusive)
            ]
        );
    }

    #[test]
    fn closing_a_table_releases_its_ranges_only() {
        let locks = InodeLocks::default();
        locks.set_range(lock(A, 0, 9, LockKind::Shared)).unwrap().unwrap();
        locks.set_range(lock(RangeOwner::Description(1), 0, 9, LockKind::Shared)).unwrap().unwrap();
        locks.release_table(1);
        assert_eq!(locks.list().0.len(), 1);
        locks.release_description(1);
        assert_eq!(locks.list().0.len(), 0);
    }

    #[test]
    fn ranges_count_from_where_the_length_says() {
        assert_eq!(RangeLock::bounds(10, 5), Ok((10, 14)));
        assert_eq!(RangeLock::bounds(10, -5), Ok((5, 9)));
        assert_eq!(RangeLock::bounds(10, 0), Ok((10, RangeLock::TO_END)));
        assert_eq!(RangeLock::bounds(3, -5), Err(EINVAL));
        assert_eq!(RangeLock::bounds(-1, 5), Err(EINVAL));
        assert_eq!(RangeLock::bounds(i64::MAX, 2), Err(EOVERFLOW));
    }

    #[test]
    fn a_description_converts_its_whole_file_lock() {
        let locks = InodeLocks::default();
        locks.lock_whole(1, LockKind::Shared).unwrap();
        locks.lock_whole(2, LockKind::Shared).unwrap();
        assert_eq!(locks.lock_whole(2, LockKind::Exclusive), Err(EAGAIN));
        // The failed conversion has given up the shared lock.
        locks.lock_whole(1, LockKind::Exclusive).unwrap();
        locks.unlock_whole(1);
        locks.lock_whole(2, LockKind::Exclusive).unwrap();
    }

    #[test]
    fn waiting_in_a_circle_is_a_deadlock() {
        let waiters = PosixWaiters::default();
        waiters.begin(10, 1, 2).unwrap();
        waiters.begin(20, 2, 3).unwrap();
        assert_eq!(waiters.begin(30, 3, 1), Err(EDEADLK));
        waiters.end(20);
        assert_eq!(waiters.begin(30, 3, 1), Ok(()));
    }
}
