//! The bytes of a regular file kept in memory.
//!
//! A small file is a `Vec` in the sentry. One that outgrows [`INLINE_MAX`] or is mapped becomes a host memory
//! file, whose holes, punching and mapping the host does. The size is ours: nobody else can change it, but for writes that were
//! left to the host (`expected`).
//!
//! Descriptors are bounded: memory files may use half of the sentry's `RLIMIT_NOFILE` (boot raises it). Beyond that
//! files stay inline up to [`INLINE_MAX_WITHOUT_DESCRIPTOR`], then `ENOSPC`.
//!
//! Pages are charged to the [`Budget`] before they are used. Below `dense` every page is known to be there, so a
//! sequential write needs no question to the host, and a file that is used a lot no call of it at all ([`View`]); elsewhere the
//! host is asked afterwards how much there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::errno::{EFBIG, EINVAL, ENOSPC, ENXIO, EOPNOTSUPP, SysResult};
use nix::sys::memfd::MFdFlags;
use parking_lot::{Mutex, MutexGuard};

use super::budget::{Budget, PAGE, host_limits};
use super::metadata::checked_size;
use super::view::View;
use crate::fs::host_files::Extent;
use crate::memory::{HostFile, errno};

/// Largest file kept in a `Vec`.
pub const INLINE_MAX: u64 = 64 * 1024;
/// Largest file kept in a `Vec` when the descriptors for memory files are used up.
pub const INLINE_MAX_WITHOUT_DESCRIPTOR: u64 = 1024 * 1024;

/// See the module's text.
pub struct Content {
    pub(super) budget: Arc<Budget>,
    pub(super) state: Mutex<State>,
}

pub(super) struct State {
    pub(super) store: Store,
    pub(super) size: u64,
    /// Pages charged to the budget.
    pub(super) charged: u64,
    /// Bytes from the beginning, in whole pages, that are known to be allocated (memory files).
    pub(super) dense: u64,
    /// Mapped at least once: pages may appear without our doing.
    mapped: bool,
    /// An application's process may have it open.
    pub(super) lent: bool,
    /// Writes that the host may be making by itself.
    pub(super) expected: u32,
    /// It may have made one that nobody knows the end of.
    pub(super) unsure: bool,
    /// Changes of size, pages and the two above.
    pub(super) changes: u64,
}

pub(super) enum Store {
    Inline(Vec<u8>),
    Host(Arc<HostFile>, Slot, View),
}

/// One of the descriptors for memory files.
pub(super) struct Slot;

static SLOTS: AtomicU64 = AtomicU64::new(0);

impl Slot {
    fn take() -> Option<Self> {
        let max = host_limits().memory_files;
        SLOTS
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| (used < max).then_some(used + 1))
            .ok()
            .map(|_| Self)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        SLOTS.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Content {
    /// Nothing yet.
    pub const fn new(budget: Arc<Budget>) -> Self {
        Self { budget, state: Mutex::new(State::new(Store::Inline(Vec::new()))) }
    }

    /// Nothing yet, in a memory file that takes seals (`man 2 memfd_create`).
    ///
    /// # Errors
    /// `EMFILE`, `ENOMEM`.
    pub fn sealable(budget: Arc<Budget>, name: &std::ffi::CStr) -> SysResult<Self> {
        let slot = Slot::take().ok_or(abi::errno::ENFILE)?;
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let descriptor = nix::sys::memfd::memfd_create(name, flags).map_err(errno)?;
        let store = Store::Host(Arc::new(HostFile::new(descriptor)), slot, View::forbidden());
        Ok(Self { budget, state: Mutex::new(State::new(store)) })
    }

    /// The state as it is now.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        state.catch_up();
        state
    }

    /// The size.
    pub fn size(&self) -> u64 {
        self.lock().size
    }

    /// Allocated blocks of 512 bytes.
    pub fn blocks_512(&self) -> u64 {
        let mut state = self.lock();
        if state.mapped || state.unsure {
            state.recount(&self.budget);
        }
        state.charged * (PAGE / 512)
    }

    /// Reads; 0 at and behind the end.
    ///
    /// # Errors
    /// The host's.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> SysResult<usize> {
        let file = {
            let mut state = self.lock();
            let (size, dense) = (state.size, state.dense);
            match &mut state.store {
                Store::Inline(bytes) => {
                    let begin = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                    let rest = bytes.get(begin..).unwrap_or_default();
                    let count = rest.len().min(buffer.len());
                    if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
                        to.copy_from_slice(from);
                    }
                    return Ok(count);
                }
                Store::Host(file, _, view) => {
                    let room = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
                    let count = room.min(buffer.len());
                    let part = buffer.get_mut(..count).unwrap_or_default();
                    if view.read(file, offset, part, size.min(dense)) {
                        return Ok(count);
                    }
                    Arc::clone(file)
                }
            }
        };
        if i64::try_from(offset).is_err() { Ok(0) } else { file.read_at(offset, buffer) }
    }

    /// Writes, fewer bytes if there is no more room.
    ///
    /// # Errors
    /// `EFBIG`, `ENOSPC`; `EPERM` for sealed files.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> SysResult<usize> {
        self.lock().write(&self.budget, offset, bytes)
    }

    /// Writes at the end; returns the offset behind the bytes.
    ///
    /// # Errors
    /// As [`Content::write`].
    pub fn append(&self, bytes: &[u8]) -> SysResult<(usize, u64)> {
        let mut state = self.lock();
        let end = state.size;
        let count = state.write(&self.budget, end, bytes)?;
        Ok((count, end + count as u64))
    }

    /// Cuts or extends with a hole.
    ///
    /// # Errors
    /// `EFBIG`, `ENOSPC`; `EPERM` for sealed files.
    pub fn set_size(&self, size: u64) -> SysResult<()> {
        self.lock().set_size(&self.budget, checked_size(size)?)
    }

    /// `man 2 fallocate`, as far as tmpfs has it: reserving and punching.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for other modes, `ENOSPC`, `EFBIG`.
    pub fn allocate(&self, mode: u32, offset: u64, length: u64) -> SysResult<()> {
        let end = checked_size(offset.checked_add(length).ok_or(EFBIG)?)?;
        let keep_size = libc::FALLOC_FL_KEEP_SIZE.cast_unsigned();
        let punch = libc::FALLOC_FL_PUNCH_HOLE.cast_unsigned();
        let mut state = self.lock();
        match mode {
            0 => state.reserve(&self.budget, offset, end, end),
            mode if mode == keep_size => {
                let size = state.size;
                state.reserve(&self.budget, offset, end, size)
            }
            mode if mode == punch | keep_size => state.punch(&self.budget, offset, end),
            _ => Err(EOPNOTSUPP),
        }
    }

    /// Finds data or a hole (`man 2 lseek`).
    ///
    /// # Errors
    /// `ENXIO` at or behind the end.
    pub fn find_extent(&self, offset: u64, what: Extent) -> SysResult<u64> {
        let state = self.lock();
        if offset >= state.size {
            return Err(ENXIO);
        }
        match (&state.store, what) {
            (Store::Inline(_), Extent::Data) => Ok(offset),
            (Store::Inline(_), Extent::Hole) => Ok(state.size),
            (Store::Host(file, ..), _) => file.find_extent(offset, what),
        }
    }

    /// The memory file, for mapping.
    ///
    /// # Errors
    /// `ENOSPC`: no more descriptors. `ENOMEM`.
    pub fn host_file(&self) -> SysResult<Arc<HostFile>> {
        let mut state = self.lock();
        state.mapped = true;
        state.promote()
    }

    /// The memory file, for an application's process to read from; none if it takes seals, which might keep it from being emptied.
    pub fn lend(&self) -> Option<Arc<HostFile>> {
        let mut state = self.state.lock();
        let file = match &state.store {
            Store::Host(file, _, view) if !view.is_forbidden() => Arc::clone(file),
            _ => return None,
        };
        state.lent = true;
        Some(file)
    }

    /// The memory file, for its seals only.
    ///
    /// # Errors
    /// `ENOSPC`, `ENOMEM`.
    pub fn sealed_file(&self) -> SysResult<Arc<HostFile>> {
        self.state.lock().promote()
    }

    /// Whether the bytes are in a memory file.
    pub fn is_host(&self) -> bool {
        matches!(self.state.lock().store, Store::Host(..))
    }

    /// Whether the sentry has mapped it.
    #[cfg(test)]
    pub fn has_view(&self) -> bool {
        matches!(&self.state.lock().store, Store::Host(_, _, view) if view.is_mapped())
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        // A process that has it open still would keep its pages. Nobody can read them any more, unless they are mapped.
        if let Store::Host(file, ..) = &state.store
            && state.lent
            && !state.mapped
        {
            let _ = file.set_size(0);
        }
        self.budget.give_pages(state.charged);
    }
}

impl State {
    const fn new(store: Store) -> Self {
        Self {
            store,
            size: 0,
            charged: 0,
            dense: 0,
            mapped: false,
            lent: false,
            expected: 0,
            unsure: false,
            changes: 0,
        }
    }

    /// Learns how large it is if the host may have changed that.
    fn catch_up(&mut self) {
        if (self.expected > 0 || self.unsure)
            && let Store::Host(file, ..) = &self.store
            && let Ok(status) = file.status()
        {
            self.size = u64::try_from(status.st_size).unwrap_or(self.size);
        }
    }

    fn write(&mut self, budget: &Budget, offset: u64, bytes: &[u8]) -> SysResult<usize> {
        let end = checked_size(offset.checked_add(bytes.len() as u64).ok_or(EFBIG)?)?;
        if bytes.is_empty() {
            return Ok(0);
        }
        self.fit(self.size.max(end))?;
        self.changes += 1;
        let existing = self.size.min(self.dense);
        match &mut self.store {
            Store::Inline(_) => self.write_inline(budget, offset, bytes),
            Store::Host(file, _, view) => {
                if view.write(file, offset, bytes, existing) {
                    return Ok(bytes.len());
                }
                let file = Arc::clone(file);
                self.write_host(budget, &file, offset, bytes)
            }
        }
    }

    /// Becomes a memory file if a size does not fit inline.
    fn fit(&mut self, size: u64) -> SysResult<()> {
        if size <= INLINE_MAX || matches!(self.store, Store::Host(..)) {
            return Ok(());
        }
        match self.promote() {
            Ok(_) => Ok(()),
            Err(_) if size <= INLINE_MAX_WITHOUT_DESCRIPTOR => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn write_inline(&mut self, budget: &Budget, offset: u64, bytes: &[u8]) -> SysResult<usize> {
        let wanted = self.size.max(offset + bytes.len() as u64).div_ceil(PAGE);
        let missing = wanted.saturating_sub(self.charged);
        self.charged += budget.take_pages_up_to(missing);
        let room = (self.charged * PAGE).saturating_sub(offset);
        let count = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
        let part = bytes.get(..count).unwrap_or_default();
        let begin = usize::try_from(offset).map_err(|_| EFBIG)?;
        if part.is_empty() {
            return Err(ENOSPC);
        }
        if let Store::Inline(content) = &mut self.store {
            if content.len() < begin + count {
                content.resize(begin + count, 0);
            }
            if let Some(target) = content.get_mut(begin..begin + count) {
                target.copy_from_slice(part);
            }
            self.size = content.len() as u64;
        }
        Ok(count)
    }

    fn write_host(
        &mut self,
        budget: &Budget,
        file: &HostFile,
        offset: u64,
        bytes: &[u8],
    ) -> SysResult<usize> {
        let end = offset + bytes.len() as u64;
        let exact = self.is_exact() && offset <= self.dense;
        let begin = if offset <= self.dense { self.dense } else { offset / PAGE * PAGE };
        let wanted = end.saturating_sub(begin).div_ceil(PAGE);
        let taken = budget.take_pages_up_to(wanted);
        self.charged += taken;
        let mut part = bytes;
        if taken < wanted {
            // Pages that are there already need no room; ask which before giving up.
            self.recount(budget);
            let room = (begin + taken * PAGE).saturating_sub(offset);
            part = bytes.get(..usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len())).unwrap_or(bytes);
            if !self.is_exact() && file.find_extent(offset, Extent::Hole).is_ok_and(|hole| hole >= end) {
                part = bytes;
            }
            if part.is_empty() {
                return Err(ENOSPC);
            }
        }
        let written = file.write_at(offset, part);
        let end = offset + *written.as_ref().unwrap_or(&0) as u64;
        self.size = self.size.max(end);
        if offset <= self.dense {
            self.dense = self.dense.max(end.next_multiple_of(PAGE));
        }
        if !exact || written != Ok(bytes.len()) {
            self.recount(budget);
        }
        written
    }

    /// Whether every page up to the end is known to be allocated.
    const fn is_exact(&self) -> bool {
        self.dense >= self.size && !self.mapped && !self.unsure && self.expected == 0
    }

    /// Charges what the host says is allocated.
    pub(super) fn recount(&mut self, budget: &Budget) {
        let Store::Host(file, ..) = &self.store else { return };
        let Ok(status) = file.status() else { return };
        let pages = u64::try_from(status.st_blocks).unwrap_or(0).div_ceil(PAGE / 512);
        if pages > self.charged {
            budget.note_pages(pages - self.charged);
        } else if self.expected > 0 {
            return;
        } else {
            budget.give_pages(self.charged - pages);
        }
        self.charged = pages;
    }

    fn set_size(&mut self, budget: &Budget, size: u64) -> SysResult<()> {
        self.fit(size)?;
        self.changes += 1;
        match &mut self.store {
            Store::Inline(bytes) => {
                let pages = size.div_ceil(PAGE);
                if pages > self.charged {
                    budget.take_pages(pages - self.charged)?;
                } else {
                    budget.give_pages(self.charged - pages);
                }
                self.charged = pages;
                bytes.resize(usize::try_from(size).map_err(|_| EFBIG)?, 0);
                bytes.shrink_to(bytes.len().next_power_of_two());
                self.size = size;
            }
            Store::Host(file, ..) => {
                file.set_size(size)?;
                let shrunk = size < self.size;
                self.size = size;
                self.dense = self.dense.min(size.next_multiple_of(PAGE));
                if shrunk {
                    self.recount(budget);
                }
            }
        }
        Ok(())
    }

    fn reserve(&mut self, budget: &Budget, begin: u64, end: u64, size: u64) -> SysResult<()> {
        if end <= INLINE_MAX && size >= end && matches!(self.store, Store::Inline(_)) {
            return self.set_size(budget, size.max(self.size));
        }
        let file = self.promote()?;
        self.changes += 1;
        // Charged in full first, so that a reservation beyond the budget never reaches the host.
        let pages = end.div_ceil(PAGE) - begin / PAGE;
        budget.take_pages(pages)?;
        self.charged += pages;
        let keep = libc::FALLOC_FL_KEEP_SIZE.cast_unsigned();
        let mode = if size >= end { 0 } else { keep };
        let result = file.change_space(mode, begin, end - begin);
        if result.is_ok() {
            if mode == 0 {
                self.size = self.size.max(end);
            }
            if begin <= self.dense {
                self.dense = self.dense.max(end.next_multiple_of(PAGE)).min(self.size.next_multiple_of(PAGE));
            }
        }
        self.recount(budget);
        result
    }

    fn punch(&mut self, budget: &Budget, begin: u64, end: u64) -> SysResult<()> {
        self.changes += 1;
        match &mut self.store {
            Store::Inline(bytes) => {
                let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let (begin, end) = (at(begin), at(end));
                if let Some(hole) = bytes.get_mut(begin..end) {
                    hole.fill(0);
                }
                Ok(())
            }
            Store::Host(file, ..) => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                file.change_space(mode.cast_unsigned(), begin, end - begin)?;
                self.dense = self.dense.min(begin / PAGE * PAGE);
                self.recount(budget);
                Ok(())
            }
        }
    }

    pub(super) fn promote(&mut self) -> SysResult<Arc<HostFile>> {
        match &self.store {
            Store::Host(file, ..) => Ok(Arc::clone(file)),
            Store::Inline(bytes) => {
                let slot = Slot::take().ok_or(ENOSPC)?;
                let file = Arc::new(HostFile::memory(c"tmpfs")?);
                let mut done = 0;
                while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
                    match file.write_at(done as u64, rest)? {
                        0 => return Err(EINVAL),
                        count => done += count,
                    }
                }
                self.dense = self.size.next_multiple_of(PAGE);
                self.store = Store::Host(Arc::clone(&file), slot, View::default());
                Ok(file)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(pages: u64) -> (Content, Arc<Budget>) {
        let budget = Arc::new(Budget::new(Some(pages * PAGE), None, None));
        (Content::new(Arc::clone(&budget)), budget)
    }

    fn read_all(content: &Content) -> Vec<u8> {
        let mut bytes = vec![0xee; usize::try_from(content.size()).unwrap()];
        let mut done = 0;
        while done < bytes.len() {
            done += content.read(done as u64, &mut bytes[done..]).unwrap();
        }
        bytes
    }

    #[test]
    fn promotion_keeps_the_bytes() {
        let (content, budget) = content(1000);
        content.write(3, b"abc").unwrap();
        assert!(!content.is_host());
        content.host_file().unwrap();
        assert!(content.is_host());
        assert_eq!(read_all(&content), b"\0\0\0abc");
        content.write(INLINE_MAX, b"z").unwrap();
        assert_eq!(content.size(), INLINE_MAX + 1);
        assert_eq!(budget.pages().1, 1000 - 2);
    }

    #[test]
    fn a_full_file_system_gives_short_writes_then_enospc() {
        for start in [0, INLINE_MAX * 2] {
            let (content, budget) = content(40);
            content.set_size(start).unwrap();
            let mut written = 0;
            let result = loop {
                match content.write(start + written, &[1; 10_000]) {
                    Ok(count) => written += count as u64,
                    Err(error) => break error,
                }
            };
            assert_eq!((result, written), (ENOSPC, 40 * PAGE));
            assert_eq!(budget.pages().1, 0);
            content.set_size(0).unwrap();
            assert_eq!(budget.pages().1, 40);
            assert_eq!(content.write(0, b"x"), Ok(1));
        }
    }

    #[test]
    fn overwriting_needs_no_room() {
        let (content, budget) = content(32);
        content.write(0, &[1; 32 * 4096]).unwrap();
        assert_eq!(budget.pages().1, 0);
        assert_eq!(content.write(5000, &[2; 8192]), Ok(8192));
        content.allocate(0x3, 0, 4096).unwrap();
        assert_eq!(budget.pages().1, 1);
        assert_eq!(content.write(0, &[3; 4096]), Ok(4096));
        assert_eq!(content.write(8192, &[4; 4096]), Ok(4096));
        assert_eq!(budget.pages().1, 0);
    }

    #[test]
    fn holes_are_found_and_cost_nothing() {
        let (content, budget) = content(100);
        content.set_size(1 << 30).unwrap();
        assert_eq!(content.find_extent(0, Extent::Data), Err(ENXIO));
        content.write(1 << 20, b"data").unwrap();
        assert_eq!(content.find_extent(0, Extent::Data), Ok(1 << 20));
        assert_eq!(content.find_extent(1 << 20, Extent::Hole), Ok((1 << 20) + 4096));
        assert_eq!(budget.pages().1, 99);
        assert_eq!(content.blocks_512(), 8);
        assert_eq!(content.find_extent(1 << 30, Extent::Hole), Err(ENXIO));
    }

    #[test]
    fn reserving_respects_size_and_budget() {
        let (content, budget) = content(100);
        assert_eq!(content.allocate(0, 0, 101 * PAGE), Err(ENOSPC));
        content.allocate(0x1, 0, 50 * PAGE).unwrap();
        assert_eq!((content.size(), budget.pages().1), (0, 50));
        content.allocate(0, 0, 10).unwrap();
        assert_eq!(content.size(), 10);
        assert_eq!(content.allocate(0x8, 0, 10), Err(EOPNOTSUPP));
        drop(content);
        assert_eq!(budget.pages().1, 100);
    }

    #[test]
    fn what_is_open_elsewhere_is_emptied_at_its_end_unless_it_is_mapped() {
        for mapped in [false, true] {
            let (content, _) = content(100);
            assert!(content.lend().is_none(), "it is not a host file yet");
            content.write(INLINE_MAX, b"x").unwrap();
            if mapped {
                content.host_file().unwrap();
            }
            let file = content.lend().unwrap();
            drop(content);
            let left = if mapped { INLINE_MAX + 1 } else { 0 };
            assert_eq!(u64::try_from(file.status().unwrap().st_size).unwrap(), left);
        }
        let sealed = Content::sealable(Arc::new(Budget::new(None, None, None)), c"test").unwrap();
        assert!(sealed.lend().is_none());
    }

    #[test]
    fn shrinking_then_growing_reads_zeros() {
        for size in [100, INLINE_MAX * 3] {
            let (content, _) = content(1000);
            content.write(0, &vec![7; usize::try_from(size).unwrap()]).unwrap();
            content.set_size(10).unwrap();
            content.set_size(20).unwrap();
            assert_eq!(read_all(&content)[8..], [7, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
    }
}
