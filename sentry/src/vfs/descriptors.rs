//! File descriptor tables (`CLONE_FILES` shares one).
//!
//! A table is the owner of traditional record locks: whatever takes a descriptor out of it, also its own end, releases
//! the locks it holds on that file (`man 2 fcntl`). Files are never dropped under the table's lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::errno::{EBADF, EINVAL, EMFILE, SysResult};
use parking_lot::Mutex;

use super::FileDescription;

/// Descriptors of one table at most, whatever `RLIMIT_NOFILE` says (`/proc/sys/fs/nr_open` here).
pub const FD_LIMIT_MAX: u64 = 1 << 20;

bitflags::bitflags! {
    /// Flags of a descriptor, as opposed to those of its description.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct FdFlags: u8 {
        /// Closed by `execve`.
        const CLOEXEC = 1;
    }
}

#[derive(Clone)]
struct Slot {
    file: Arc<FileDescription>,
    flags: FdFlags,
}

#[derive(Default)]
struct Slots {
    list: Vec<Option<Slot>>,
    /// No free slot lies below this index.
    first_free: usize,
}

/// See the module's text.
pub struct FdTable {
    slots: Mutex<Slots>,
    id: u64,
}

impl Default for FdTable {
    fn default() -> Self {
        Self::with_slots(Slots::default())
    }
}

impl Slots {
    fn slot(&self, fd: i32) -> SysResult<&Slot> {
        usize::try_from(fd).ok().and_then(|fd| self.list.get(fd)).and_then(Option::as_ref).ok_or(EBADF)
    }

    fn set(&mut self, index: usize, slot: Slot) -> Option<Slot> {
        if self.list.len() <= index {
            self.list.resize(index + 1, None);
        }
        self.list[index].replace(slot)
    }

    fn free_from(&self, from: usize) -> usize {
        let start = from.max(self.first_free);
        (start..self.list.len())
            .find(|index| self.list[*index].is_none())
            .unwrap_or(start.max(self.list.len()))
    }
}

impl FdTable {
    /// An empty table.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A copy, as `fork` makes it.
    pub fn fork(&self) -> Arc<Self> {
        let slots = self.slots.lock();
        Arc::new(Self::with_slots(Slots { list: slots.list.clone(), first_free: slots.first_free }))
    }

    fn with_slots(slots: Slots) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(1);
        Self { slots: Mutex::new(slots), id: IDS.fetch_add(1, Ordering::Relaxed) }
    }

    /// Unlike any other table's: the owner of record locks.
    pub const fn id(&self) -> u64 {
        self.id
    }

    fn release_locks(&self, file: &FileDescription) {
        file.inode.attachments().release_table(self.id);
    }

    /// Whether one more file would find a descriptor below `limit`.
    pub fn has_room(&self, limit: u64) -> bool {
        let limit = usize::try_from(limit.min(FD_LIMIT_MAX)).unwrap_or(usize::MAX);
        self.slots.lock().free_from(0) < limit
    }

    /// The file behind a descriptor.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn get(&self, fd: i32) -> SysResult<Arc<FileDescription>> {
        self.slots.lock().slot(fd).map(|slot| Arc::clone(&slot.file))
    }

    /// As [`FdTable::get`], but not for `O_PATH` descriptors.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn get_open(&self, fd: i32) -> SysResult<Arc<FileDescription>> {
        self.get(fd).and_then(|file| if file.path_only { Err(EBADF) } else { Ok(file) })
    }

    /// Flags of a descriptor.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn flags(&self, fd: i32) -> SysResult<FdFlags> {
        self.slots.lock().slot(fd).map(|slot| slot.flags)
    }

    /// Sets flags of a descriptor.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn set_flags(&self, fd: i32, flags: FdFlags) -> SysResult<()> {
        let mut slots = self.slots.lock();
        slots.slot(fd)?;
        if let Some(Some(slot)) = usize::try_from(fd).ok().and_then(|fd| slots.list.get_mut(fd)) {
            slot.flags = flags;
        }
        Ok(())
    }

    /// Gives a file the lowest free descriptor that is at least `from`. `limit` is the task's `RLIMIT_NOFILE`.
    ///
    /// # Errors
    /// `EMFILE`; `EINVAL` if `from` is not below the limit.
    pub fn install_from(
        &self,
        from: i32,
        file: Arc<FileDescription>,
        flags: FdFlags,
        limit: u64,
    ) -> SysResult<i32> {
        let limit = usize::try_from(limit.min(FD_LIMIT_MAX)).map_err(|_| EMFILE)?;
        let from = usize::try_from(from).map_err(|_| EINVAL)?;
        if from != 0 && from >= limit {
            return Err(EINVAL);
        }
        let mut slots = self.slots.lock();
        let index = slots.free_from(from);
        if index >= limit {
            return Err(EMFILE);
        }
        slots.set(index, Slot { file, flags });
        if from <= slots.first_free {
            slots.first_free = index + 1;
        }
        i32::try_from(index).map_err(|_| EMFILE)
    }

    /// Puts a file at a given descriptor (`dup2`); returns what was there, for the caller to close.
    ///
    /// # Errors
    /// `EBADF` if `fd` is not below `limit`.
    pub fn install_at(
        &self,
        fd: i32,
        file: Arc<FileDescription>,
        flags: FdFlags,
        limit: u64,
    ) -> SysResult<Option<Arc<FileDescription>>> {
        let index = usize::try_from(fd).map_err(|_| EBADF)?;
        if index as u64 >= limit.min(FD_LIMIT_MAX) {
            return Err(EBADF);
        }
        let old = self.slots.lock().set(index, Slot { file, flags }).map(|slot| slot.file);
        if let Some(old) = &old {
            self.release_locks(old);
        }
        Ok(old)
    }

    /// Takes a descriptor out of the table; the caller flushes and drops the file.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn remove(&self, fd: i32) -> SysResult<Arc<FileDescription>> {
        let mut slots = self.slots.lock();
        slots.slot(fd)?;
        let index = usize::try_from(fd).map_err(|_| EBADF)?;
        slots.first_free = slots.first_free.min(index);
        let file = slots.list.get_mut(index).and_then(Option::take).map(|slot| slot.file).ok_or(EBADF)?;
        drop(slots);
        self.release_locks(&file);
        Ok(file)
    }

    /// Takes out everything that `condition` selects (`execve`, `close_range`, exit).
    pub fn remove_where(&self, condition: impl Fn(i32, FdFlags) -> bool) -> Vec<Arc<FileDescription>> {
        let mut slots = self.slots.lock();
        let mut removed = Vec::new();
        for (index, place) in slots.list.iter_mut().enumerate() {
            let Ok(fd) = i32::try_from(index) else { break };
            if place.as_ref().is_some_and(|slot| condition(fd, slot.flags)) {
                removed.extend(place.take().map(|slot| slot.file));
            }
        }
        slots.first_free = 0;
        drop(slots);
        for file in &removed {
            self.release_locks(file);
        }
        removed
    }

    /// Sets flags of all descriptors in a range (`CLOSE_RANGE_CLOEXEC`).
    pub fn set_flags_in(&self, first: u32, last: u32, flags: FdFlags) {
        let mut slots = self.slots.lock();
        for (index, place) in slots.list.iter_mut().enumerate() {
            if let (Some(slot), Ok(index)) = (place, u32::try_from(index))
                && (first..=last).contains(&index)
            {
                slot.flags |= flags;
            }
        }
    }

    /// All open descriptors, in order.
    pub fn list(&self) -> Vec<i32> {
        let slots = self.slots.lock();
        (0..slots.list.len())
            .filter(|index| slots.list[*index].is_some())
            .filter_map(|index| i32::try_from(index).ok())
            .collect()
    }
}

impl Drop for FdTable {
    fn drop(&mut self) {
        for slot in self.slots.get_mut().list.iter().flatten() {
            slot.file.inode.attachments().release_table(self.id);
        }
    }
}
