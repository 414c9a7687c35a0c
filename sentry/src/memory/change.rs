//! Changes of an address space: planned on the map, carried out by the host, entered into the map.

use std::os::fd::AsFd;
use std::sync::Arc;

use abi::errno::{EACCES, EAGAIN, EEXIST, EFAULT, EINVAL, ENOMEM, EPERM, SysResult};
use platform::{MemoryError, MemoryOperation, Protection, Sharing};

use super::map::RegionMap;
use super::{Backing, HostFile, MemoryManager, PAGE_SIZE, REGIONS_MAX, Region, RegionFlags};
use crate::task::{Limits, Resource, Task};
use crate::vfs::FileDescription;

/// Where a mapping goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Anywhere, here if that is free (0: no preference).
    Hint(u64),
    /// Exactly here, replacing what is there (`MAP_FIXED`).
    Replace(u64),
    /// Exactly here or not at all (`MAP_FIXED_NOREPLACE`).
    NoReplace(u64),
    /// Anywhere below 2 GiB (`MAP_32BIT`).
    Low,
}

/// What is mapped.
#[derive(Clone)]
pub enum MapSource {
    /// Private zero-filled memory.
    Anonymous,
    /// Shared zero-filled memory.
    SharedAnonymous,
    /// A file's pages.
    File {
        /// The host descriptor.
        source: Arc<HostFile>,
        /// Where to begin in it, page-aligned.
        offset: u64,
        /// The open file.
        file: Arc<FileDescription>,
        /// Stores reach the file.
        shared: bool,
    },
}

/// A mapping to be made. `length` is not rounded yet.
#[derive(Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct MapRequest {
    pub placement: Placement,
    pub length: u64,
    pub protection: Protection,
    pub source: MapSource,
    pub may_write: bool,
    pub may_execute: bool,
    pub flags: RegionFlags,
}

/// Rounds up to whole pages.
///
/// # Errors
/// `ENOMEM`: beyond all address spaces.
pub(super) fn round_up(length: u64) -> SysResult<u64> {
    length.checked_add(PAGE_SIZE - 1).map(|length| length & !(PAGE_SIZE - 1)).ok_or(ENOMEM)
}

/// How much of `start..end` counts against `RLIMIT_DATA` now.
fn data_bytes(regions: &RegionMap, start: u64, end: u64) -> u64 {
    regions
        .overlapping(start, end)
        .filter(|region| region.is_data())
        .map(|region| region.part(start, end).length())
        .sum()
}

/// `RLIMIT_DATA`. A limit of 0 means the hard one, as on Linux (programs have long set it to 0 to keep `brk` from working).
fn data_limit(limits: &Limits) -> u64 {
    let limit = limits.get(Resource::Data);
    if limit.soft == 0 { limit.hard } else { limit.soft }
}

pub(super) const fn is_aligned(address: u64) -> bool {
    address.is_multiple_of(PAGE_SIZE)
}

/// Addresses below this are for `MAP_32BIT`.
const LOW_TOP: u64 = 1 << 31;

impl MemoryManager {
    /// Decides where a mapping goes and what it is. Nothing changes yet.
    pub(crate) fn plan_map(&self, request: &MapRequest, limits: &Limits) -> SysResult<Region> {
        if request.length == 0 {
            return Err(EINVAL);
        }
        let length = round_up(request.length)?;
        let start = self.place(request.placement, length)?;
        let end = start + length;
        let space = self.space.lock();
        let replaced: u64 =
            space.regions.overlapping(start, end).map(|old| old.part(start, end).length()).sum();
        if space.regions.total() - replaced + length > limits.soft(Resource::AddressSpace) {
            return Err(ENOMEM);
        }
        let is_shared = match request.source {
            MapSource::SharedAnonymous => true,
            MapSource::File { shared, .. } => shared,
            MapSource::Anonymous => false,
        };
        if request.protection.write && !is_shared && Region::may_be_data(request.flags) {
            let replaced: u64 = data_bytes(&space.regions, start, end);
            if space.regions.data() - replaced + length > data_limit(limits) {
                return Err(ENOMEM);
            }
        }
        // A mapping in the middle of another splits it: two more at most.
        if space.regions.count() + 2 > REGIONS_MAX {
            return Err(ENOMEM);
        }
        drop(space);
        let mut flags = request.flags;
        let backing = match &request.source {
            MapSource::Anonymous => Backing::Anonymous,
            MapSource::SharedAnonymous => {
                flags |= RegionFlags::SHARED;
                let memory = HostFile::memory(c"shared")?;
                memory.set_size(length)?;
                Backing::SharedAnonymous { memory: Arc::new(memory), offset: 0 }
            }
            MapSource::File { source, offset, file, shared } => {
                flags.set(RegionFlags::SHARED, *shared);
                Backing::File { source: Arc::clone(source), offset: *offset, file: Arc::clone(file) }
            }
        };
        Ok(Region {
            start,
            end,
            protection: request.protection,
            may_write: request.may_write,
            may_execute: request.may_execute,
            flags,
            backing,
        })
    }

    fn place(&self, placement: Placement, length: u64) -> SysResult<u64> {
        let (bottom, top) = (self.layout.min_address, self.layout.max_address);
        let fits = |start: u64| start >= bottom && start.checked_add(length).is_some_and(|end| end <= top);
        let space = self.space.lock();
        match placement {
            Placement::Replace(start) | Placement::NoReplace(start) => {
                if !is_aligned(start) {
                    return Err(EINVAL);
                }
                if !fits(start) {
                    return Err(if start < bottom { EPERM } else { ENOMEM });
                }
                let replace = matches!(placement, Placement::Replace(_));
                if !replace && !space.regions.is_free(start, start + length) {
                    return Err(EEXIST);
                }
                Ok(start)
            }
            Placement::Hint(hint) => {
                let hint = hint & !(PAGE_SIZE - 1);
                if hint != 0 && fits(hint) && space.regions.is_free(hint, hint + length) {
                    return Ok(hint);
                }
                space
                    .find_room(self.mmap_top, bottom, length)
                    .or_else(|| space.find_room(top, self.mmap_top, length))
                    .ok_or(ENOMEM)
            }
            Placement::Low => space.find_room(LOW_TOP, bottom, length).ok_or(ENOMEM),
        }
    }

    /// Enters a mapping that the host has made.
    pub(crate) fn enter_region(&self, region: Region) {
        let replaced = {
            let mut space = self.space.lock();
            let replaced = space.regions.remove(region.start, region.end);
            space.regions.insert(region);
            replaced
        };
        drop(replaced);
    }
}

/// The host operation that makes a region.
pub(crate) fn map_operation(region: &Region) -> MemoryOperation<'_> {
    let (address, length, protection) = (region.start, region.length(), region.protection);
    let from = |source, offset, sharing| MemoryOperation::MapFile {
        address,
        length,
        protection,
        sharing,
        file: source,
        offset,
    };
    match &region.backing {
        Backing::Anonymous | Backing::Platform(_) => MemoryOperation::MapAnonymous {
            address,
            length,
            protection,
            reserve: !region.flags.contains(RegionFlags::NORESERVE),
        },
        Backing::SharedAnonymous { memory, offset } => from(memory.as_fd(), *offset, Sharing::Shared),
        Backing::File { source, offset, .. } => {
            let sharing =
                if region.flags.contains(RegionFlags::SHARED) { Sharing::Shared } else { Sharing::Private };
            from(source.as_fd(), *offset, sharing)
        }
    }
}

impl Task {
    /// Has the host change the address space.
    pub(super) async fn change_memory(&self, operations: &[MemoryOperation<'_>]) -> SysResult<()> {
        let result = self
            .poll_context(|context, wake| context.poll_memory(wake, operations), || Err(MemoryError::Died))
            .await;
        result.map_err(|error| match error {
            MemoryError::Refused { errno, .. } => errno,
            // The task is about to find out; the result will not be seen.
            MemoryError::Died => EFAULT,
        })
    }

    /// `mmap`: maps, and returns where.
    ///
    /// # Errors
    /// As `man 2 mmap`.
    pub async fn map(&self, request: &MapRequest) -> SysResult<u64> {
        let memory = self.memory();
        let _gate = memory.gate.enter().await;
        let region = memory.plan_map(request, &self.group.limits)?;
        self.change_memory(&[map_operation(&region)]).await?;
        if let Backing::File { source, .. } = &region.backing
            && !region.flags.contains(RegionFlags::SHARED)
        {
            source.note_mapped(region.protection);
        }
        let start = region.start;
        memory.enter_region(region);
        Ok(start)
    }

    /// `munmap`.
    ///
    /// # Errors
    /// As `man 2 munmap`.
    pub async fn unmap(&self, start: u64, length: u64) -> SysResult<()> {
        let memory = self.memory();
        let Some(end) = memory.unmap_end(start, length)? else { return Ok(()) };
        let _gate = memory.gate.enter().await;
        if memory.space.lock().regions.is_free(start, end) {
            return Ok(());
        }
        self.change_memory(&[MemoryOperation::Unmap { address: start, length: end - start }]).await?;
        let removed = memory.space.lock().regions.remove(start, end);
        drop(removed);
        Ok(())
    }

    /// `mprotect`.
    ///
    /// # Errors
    /// As `man 2 mprotect`.
    pub async fn protect(&self, start: u64, length: u64, protection: Protection) -> SysResult<()> {
        let memory = self.memory();
        if !is_aligned(start) {
            return Err(EINVAL);
        }
        if length == 0 {
            return Ok(());
        }
        let end = memory.range(start, length, ENOMEM)?;
        let _gate = memory.gate.enter().await;
        memory.check_protect(start, end, protection, &self.group.limits)?;
        self.change_memory(&[MemoryOperation::Protect { address: start, length: end - start, protection }])
            .await?;
        memory.enter_protection(start, end, protection);
        Ok(())
    }

    /// Sets the thread's GS base (`arch_prctl(2)`).
    ///
    /// # Errors
    /// Those of the host.
    pub async fn set_gs_base(&self, base: u64) -> SysResult<()> {
        let memory = self.memory();
        let _gate = memory.gate.enter().await;
        self.change_memory(&[MemoryOperation::SetGsBase(base)]).await
    }

    /// `mremap`.
    ///
    /// # Errors
    /// As `man 2 mremap`.
    pub async fn remap(&self, from: u64, from_length: u64, to_length: u64, how: Remap) -> SysResult<u64> {
        let memory = self.memory();
        if !is_aligned(from) || to_length == 0 {
            return Err(EINVAL);
        }
        let (from_length, to_length) = (round_up(from_length)?, round_up(to_length)?);
        let _gate = memory.gate.enter().await;
        let region = memory.region_at(from).ok_or(EFAULT)?;
        if matches!(region.backing, Backing::Platform(_)) {
            return Err(EINVAL);
        }
        if from_length == 0 {
            return self.duplicate(&memory, &region, from, to_length, how).await;
        }
        if from + from_length > region.end {
            return Err(EFAULT);
        }
        let to = memory.plan_remap(&region, from, from_length, to_length, how, &self.group.limits)?;
        if to == from && to_length == from_length {
            return Ok(from);
        }
        if to == from && to_length < from_length {
            let (start, length) = (from + to_length, from_length - to_length);
            self.change_memory(&[MemoryOperation::Unmap { address: start, length }]).await?;
            drop(memory.space.lock().regions.remove(start, start + length));
            return Ok(from);
        }
        self.change_memory(&[MemoryOperation::Move { from, from_length, to, to_length }]).await?;
        let part = region.part(from, from + from_length);
        let removed = memory.space.lock().regions.remove(from, from + from_length);
        drop(removed);
        memory.enter_region(Region { start: to, end: to + to_length, ..part });
        Ok(to)
    }

    /// `mremap` of a shared mapping with an old size of zero: the same pages at a second place.
    async fn duplicate(
        &self,
        memory: &MemoryManager,
        region: &Region,
        from: u64,
        length: u64,
        how: Remap,
    ) -> SysResult<u64> {
        if !region.flags.contains(RegionFlags::SHARED) {
            return Err(EINVAL);
        }
        let placement = match how {
            Remap::InPlace => return Err(ENOMEM),
            Remap::MayMove => Placement::Hint(0),
            Remap::Fixed(to) => Placement::Replace(to),
        };
        let start = memory.place(placement, length)?;
        let copy = Region {
            start,
            end: start + length,
            backing: region.backing.advanced(from - region.start),
            ..region.clone()
        };
        self.change_memory(&[map_operation(&copy)]).await?;
        memory.enter_region(copy);
        Ok(start)
    }

    /// `brk`: returns the break as it is afterwards, which is the old one if the change is not possible.
    pub async fn set_break(&self, wanted: u64) -> u64 {
        let memory = self.memory();
        let _gate = memory.gate.enter().await;
        let (start, current) = memory.program_break();
        if wanted < start {
            return current;
        }
        let (Ok(old_end), Ok(new_end)) = (round_up(current), round_up(wanted)) else { return current };
        let done = if new_end > old_end {
            self.grow_break(&memory, wanted - start, old_end, new_end).await
        } else if new_end < old_end {
            let change = MemoryOperation::Unmap { address: new_end, length: old_end - new_end };
            let done = self.change_memory(&[change]).await;
            if done.is_ok() {
                drop(memory.space.lock().regions.remove(new_end, old_end));
            }
            done
        } else {
            Ok(())
        };
        if done.is_err() {
            return current;
        }
        memory.space.lock().break_end = wanted;
        wanted
    }

    async fn grow_break(&self, memory: &MemoryManager, size: u64, from: u64, to: u64) -> SysResult<()> {
        let region = self.plan_break(memory, size, from, to)?;
        self.change_memory(&[map_operation(&region)]).await?;
        memory.enter_region(region);
        Ok(())
    }

    /// Decides whether the break may grow from `from` to `to`, which makes it `size` bytes.
    pub(super) fn plan_break(
        &self,
        memory: &MemoryManager,
        size: u64,
        from: u64,
        to: u64,
    ) -> SysResult<Region> {
        if size > self.group.limits.soft(Resource::Data) {
            return Err(ENOMEM);
        }
        // Linux leaves a page between the break and the next mapping.
        if to + PAGE_SIZE > memory.layout.max_address
            || !memory.space.lock().regions.is_free(from, to + PAGE_SIZE)
        {
            return Err(ENOMEM);
        }
        let request = MapRequest {
            placement: Placement::Replace(from),
            length: to - from,
            protection: Protection { read: true, write: true, execute: false },
            source: MapSource::Anonymous,
            may_write: true,
            may_execute: true,
            flags: RegionFlags::HEAP,
        };
        memory.plan_map(&request, &self.group.limits)
    }

    /// `madvise` with an advice the caller has vetted; `change` is what it does to the map's flags.
    ///
    /// # Errors
    /// As `man 2 madvise`.
    pub async fn advise(
        &self,
        start: u64,
        length: u64,
        advice: i32,
        change: impl Fn(&mut RegionFlags),
    ) -> SysResult<()> {
        let memory = self.memory();
        if !is_aligned(start) {
            return Err(EINVAL);
        }
        if length == 0 {
            return Ok(());
        }
        let end = memory.range(start, length, EINVAL)?;
        let _gate = memory.gate.enter().await;
        let covered = memory.space.lock().regions.is_covered(start, end);
        self.change_memory(&[MemoryOperation::Advise { address: start, length: end - start, advice }])
            .await?;
        memory.change_flags(start, end, change);
        if covered { Ok(()) } else { Err(ENOMEM) }
    }
}

/// How `mremap` may move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remap {
    /// Not at all.
    InPlace,
    /// If it has to (`MREMAP_MAYMOVE`).
    MayMove,
    /// To this address (`MREMAP_FIXED`).
    Fixed(u64),
}

impl MemoryManager {
    /// Judges a range to unmap; returns its end. What lies between the application's part and the end of Linux's own user
    /// addresses is never mapped, so unmapping it does nothing (`None` if nothing is left).
    fn unmap_end(&self, start: u64, length: u64) -> SysResult<Option<u64>> {
        if !is_aligned(start) || length == 0 {
            return Err(EINVAL);
        }
        let end = round_up(length).ok().and_then(|length| start.checked_add(length)).ok_or(EINVAL)?;
        if end > abi::memory::TASK_SIZE {
            return Err(EINVAL);
        }
        let end = end.min(self.layout.max_address);
        Ok((start < end).then_some(end))
    }

    /// Judges a page-aligned range; returns its end.
    pub(super) fn range(&self, start: u64, length: u64, too_far: abi::errno::Errno) -> SysResult<u64> {
        if !is_aligned(start) || length == 0 {
            return Err(EINVAL);
        }
        let end = round_up(length).ok().and_then(|length| start.checked_add(length)).ok_or(too_far)?;
        if end > self.layout.max_address { Err(too_far) } else { Ok(end) }
    }

    pub(super) fn check_protect(
        &self,
        start: u64,
        end: u64,
        protection: Protection,
        limits: &Limits,
    ) -> SysResult<()> {
        let space = self.space.lock();
        if !space.regions.is_covered(start, end) {
            return Err(ENOMEM);
        }
        if space.regions.count() + 2 > REGIONS_MAX {
            return Err(ENOMEM);
        }
        let refused = |region: &Region| {
            let shared = region.flags.contains(RegionFlags::SHARED);
            protection.write && shared && !region.may_write || protection.execute && !region.may_execute
        };
        if space.regions.overlapping(start, end).any(refused) {
            return Err(EACCES);
        }
        let becomes_data =
            |region: &&Region| protection.write && !region.is_data() && Region::may_be_data(region.flags);
        let more: u64 = space
            .regions
            .overlapping(start, end)
            .filter(becomes_data)
            .map(|region| region.part(start, end).length())
            .sum();
        if more != 0 && space.regions.data() + more > data_limit(limits) { Err(ENOMEM) } else { Ok(()) }
    }

    pub(super) fn enter_protection(&self, start: u64, end: u64, protection: Protection) {
        let mut space = self.space.lock();
        for mut region in space.regions.remove(start, end) {
            region.protection = protection;
            space.regions.insert(region);
        }
    }

    pub(super) fn change_flags(&self, start: u64, end: u64, change: impl Fn(&mut RegionFlags)) {
        let mut space = self.space.lock();
        for mut region in space.regions.remove(start, end) {
            change(&mut region.flags);
            space.regions.insert(region);
        }
    }

    /// Bytes that count as locked (`VmLck`).
    pub fn locked_bytes(&self) -> u64 {
        let space = self.space.lock();
        space
            .regions
            .iter()
            .filter(|region| region.flags.contains(RegionFlags::LOCKED))
            .map(Region::length)
            .sum()
    }

    fn plan_remap(
        &self,
        region: &Region,
        from: u64,
        from_length: u64,
        to_length: u64,
        how: Remap,
        limits: &Limits,
    ) -> SysResult<u64> {
        let grown = to_length.saturating_sub(from_length);
        let space = self.space.lock();
        if space.regions.total().saturating_add(grown) > limits.soft(Resource::AddressSpace) {
            return Err(ENOMEM);
        }
        if region.is_data() && grown != 0 && space.regions.data().saturating_add(grown) > data_limit(limits) {
            return Err(ENOMEM);
        }
        if region.flags.contains(RegionFlags::LOCKED) && grown > limits.soft(Resource::LockedMemory) {
            return Err(EAGAIN);
        }
        if space.regions.count() + 2 > REGIONS_MAX {
            return Err(ENOMEM);
        }
        if let Remap::Fixed(to) = how {
            drop(space);
            let to = self.place(Placement::Replace(to), to_length)?;
            let apart = to + to_length <= from || from + from_length <= to;
            return if apart { Ok(to) } else { Err(EINVAL) };
        }
        if to_length <= from_length {
            return Ok(from);
        }
        let end = from + from_length;
        let fits = from
            .checked_add(to_length)
            .is_some_and(|to_end| to_end <= self.layout.max_address && space.regions.is_free(end, to_end));
        if fits && end == region.end {
            return Ok(from);
        }
        drop(space);
        if how == Remap::InPlace { Err(ENOMEM) } else { self.place(Placement::Hint(0), to_length) }
    }
}
