//! Changes of an address space that the host carries out by itself, as the call stands or in its place: the thread need not
//! be brought into its handler for them, which is what makes the others dear.
//!
//! The map is changed first, and the host follows when the thread goes on. Nobody waits for that, so other threads of the
//! process may act in between:
//!
//! * What is free in the map by then is not given to anybody until the thread has come back (`Space::leaving`): the host might
//!   otherwise take away what another thread has just mapped there.
//! * Threads that change the same range at the same time get one order in the map and perhaps the other on the host. That is
//!   the program's own disorder, and nobody else's concern: what the sentry does in a program's memory it asks the host for, which
//!   answers by what is there, and patched code is never changed this way.
//! * Should the host refuse, the call fails, and the map names a region that is not there (or is still there).

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::errno::{EINVAL, ENOMEM, SysResult};
use platform::{Protection, Substitute};

use super::change::{MapRequest, MapSource, Placement, is_aligned, round_up};
use super::{Backing, RegionFlags};
use crate::task::Task;

/// Largest mapping that the host makes in a call's place, in bytes: it may well refuse larger ones.
const SUBSTITUTE_MAX: u64 = 1 << 30;

impl Task {
    /// `mmap` of private zero-filled memory, for the host to carry out in the call's place; or, in a process that nobody shares memory
    /// with, of a file that it has mapped in this way before. `None`: not possible.
    ///
    /// Should the host refuse, the call fails, and the map names a region that is not there; large ones, which it may well
    /// refuse, go the other way.
    pub fn map_natively(&self, request: &MapRequest) -> Option<SysResult<(u64, Substitute)>> {
        let memory = self.memory();
        let plain = match &request.source {
            MapSource::Anonymous => true,
            MapSource::File { source, shared: false, .. } => {
                memory.users() == 1 && source.is_known_to_map(request.protection)
            }
            _ => false,
        };
        let plain = plain && !request.flags.contains(RegionFlags::LOCKED) && request.length <= SUBSTITUTE_MAX;
        if !plain || !self.may_substitute() {
            return None;
        }
        let _gate = memory.gate.try_enter()?;
        let region = match memory.plan_map(request, &self.group.limits) {
            Ok(region) => region,
            Err(errno) => return Some(Err(errno)),
        };
        if !memory.is_free(region.start, region.end) {
            return None;
        }
        let (address, length, protection) = (region.start, region.length(), region.protection);
        let operation = match &region.backing {
            Backing::File { source, offset, .. } => {
                let descriptor = self.with_context(|context| context.lend_anywhere(source.as_fd()))??;
                Substitute::MapFile { address, length, protection, descriptor, offset: *offset }
            }
            _ => {
                let reserve = !region.flags.contains(RegionFlags::NORESERVE);
                Substitute::MapAnonymous { address, length, protection, reserve }
            }
        };
        let start = region.start;
        memory.enter_region(region);
        Some(Ok((start, operation)))
    }

    /// `mmap` at a fixed place, for the host to carry out as it stands: private memory, or, in a process that nobody shares memory
    /// with, more of a file of which something is mapped there already (a library whose segments are put into place), open as
    /// `fd`. `None`: not possible. The caller sees to it that the call says exactly what the request says.
    pub fn map_fixed_natively(&self, request: &MapRequest, fd: u64) -> Option<SysResult<u64>> {
        let Placement::Replace(start) = request.placement else { return None };
        if request.flags.contains(RegionFlags::LOCKED) || request.length > SUBSTITUTE_MAX {
            return None;
        }
        let memory = self.memory();
        let _gate = memory.gate.try_enter()?;
        let region = match memory.plan_map(request, &self.group.limits) {
            Ok(region) => region,
            Err(errno) => return Some(Err(errno)),
        };
        if self.is_patched(region.start, region.end) {
            return None;
        }
        match &region.backing {
            Backing::Anonymous => {}
            Backing::File { source, .. }
                if memory.users() == 1 && !region.flags.contains(RegionFlags::SHARED) =>
            {
                let before = memory.region_at(start)?;
                let same =
                    matches!(&before.backing, Backing::File { source: old, .. } if Arc::ptr_eq(old, source));
                if !same
                    || !self.with_context(|context| context.lend(fd, source.as_fd(), source.identity()))?
                {
                    return None;
                }
            }
            _ => return None,
        }
        memory.enter_region(region);
        Some(Ok(start))
    }

    /// `brk` that grows, for the host to carry out in the call's place; see [`Task::map_natively`].
    pub fn grow_break_natively(&self, wanted: u64) -> Option<Substitute> {
        if !self.may_substitute() {
            return None;
        }
        let memory = self.memory();
        let _gate = memory.gate.try_enter()?;
        let (start, current) = memory.program_break();
        let (from, to) = (round_up(current).ok()?, round_up(wanted).ok()?);
        if wanted < start || to <= from || to - from > SUBSTITUTE_MAX {
            return None;
        }
        let region = self.plan_break(&memory, wanted - start, from, to).ok()?;
        let operation = Substitute::MapAnonymous {
            address: region.start,
            length: region.length(),
            protection: region.protection,
            reserve: true,
        };
        memory.enter_region(region);
        memory.space.lock().break_end = wanted;
        Some(operation)
    }

    fn may_substitute(&self) -> bool {
        self.with_context(|context| context.may_substitute()).unwrap_or(false)
    }

    /// `munmap`, for the host to carry out. `None`: not possible. Until the thread traps again nothing is put where the range
    /// was, for the host may come to it only after another thread's mapping.
    pub fn unmap_natively(&self, start: u64, length: u64) -> Option<SysResult<()>> {
        let memory = self.memory();
        let _gate = memory.gate.try_enter()?;
        // Only a range that the host may be given as it stands.
        let end = memory.range(start, length, EINVAL).ok()?;
        if self.is_patched(start, end) {
            return None;
        }
        let removed = memory.space.lock().regions.remove(start, end);
        // The host must not be asked to remove what is the platform's.
        if removed.iter().any(|region| matches!(region.backing, Backing::Platform(_))) {
            for region in removed {
                memory.enter_region(region);
            }
            return None;
        }
        if memory.users() > 1 && !removed.is_empty() {
            memory.space.lock().leaving.push((self.identity(), start, end));
            self.left_to_host.store(true, Ordering::Relaxed);
        }
        Some(Ok(()))
    }

    /// `mprotect`, for the host to carry out; see [`Task::unmap_natively`].
    pub fn protect_natively(&self, start: u64, length: u64, protection: Protection) -> Option<SysResult<()>> {
        let memory = self.memory();
        let _gate = memory.gate.try_enter()?;
        if !is_aligned(start) {
            return Some(Err(EINVAL));
        }
        let end = memory.range(start, length, ENOMEM).ok()?;
        if self.is_patched(start, end) {
            return None;
        }
        if let Err(errno) = memory.check_protect(start, end, protection, &self.group.limits) {
            return Some(Err(errno));
        }
        memory.enter_protection(start, end, protection);
        Some(Ok(()))
    }

    /// Whether the host may be given an `madvise` as it stands that changes nothing in the map: its range is mapped throughout,
    /// so that the host finds what the map says, and no code is patched there.
    pub fn may_advise_natively(&self, start: u64, length: u64) -> bool {
        let memory = self.memory();
        let Ok(end) = memory.range(start, length, EINVAL) else { return false };
        memory.space.lock().regions.is_covered(start, end) && !self.is_patched(start, end)
    }
}
