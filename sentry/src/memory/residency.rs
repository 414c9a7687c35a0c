//! Which pages are there: `mincore`, `mlock`, `munlock`.
//!
//! The host knows and answers; the sentry keeps account of what is locked, and never pins a page on the host.

use abi::errno::{EAGAIN, EFAULT, EINVAL, ENOMEM, EPERM, SysResult};
use platform::MemoryOperation;

use super::change::{is_aligned, round_up};
use super::{MemoryManager, PAGE_SIZE, RegionFlags};
use crate::task::{Resource, Task};

const CAP_IPC_LOCK: u32 = 14;

/// Whether pages are to be locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Locked {
    Yes,
    /// Once they are there (`MLOCK_ONFAULT`).
    OnFault,
    No,
}

impl Task {
    /// Judges `mincore`: the host knows which pages are there, and answers if this has no objection.
    ///
    /// # Errors
    /// `EINVAL`: not aligned. `ENOMEM`, `EFAULT`: the range, or the place for the answer, is no application's memory.
    pub fn check_residency(&self, start: u64, length: u64, answer: u64) -> SysResult<()> {
        if !is_aligned(start) {
            return Err(EINVAL);
        }
        let max = self.memory().layout.max_address;
        let inside = |start: u64, length: u64| start.checked_add(length).is_some_and(|end| end <= max);
        if !inside(start, round_up(length).map_err(|_| ENOMEM)?) {
            return Err(ENOMEM);
        }
        if inside(answer, length.div_ceil(PAGE_SIZE)) { Ok(()) } else { Err(EFAULT) }
    }

    /// `mlock` and `munlock`, as far as the sandbox keeps account of them: what is locked is there, but the host may still
    /// take it away.
    ///
    /// # Errors
    /// `ENOMEM`: not mapped, beyond the limit, or not to be had. `EAGAIN`, `EPERM`.
    pub async fn set_locked(&self, start: u64, length: u64, locked: Locked) -> SysResult<()> {
        let memory = self.memory();
        let begin = start & !(PAGE_SIZE - 1);
        let end = memory.range(begin, (start - begin).checked_add(length).ok_or(EINVAL)?, ENOMEM)?;
        let _gate = memory.gate.enter().await;
        if !memory.space.lock().regions.is_covered(begin, end) {
            return Err(ENOMEM);
        }
        let limit = self.group.limits.soft(Resource::LockedMemory);
        if locked != Locked::No && !self.credentials().has(CAP_IPC_LOCK) {
            if limit == 0 {
                return Err(EPERM);
            }
            if memory.locked_bytes().saturating_add(end - begin) > limit {
                return Err(ENOMEM);
            }
        }
        memory.change_flags(begin, end, |flags| flags.set(RegionFlags::LOCKED, locked != Locked::No));
        if locked != Locked::Yes {
            return Ok(());
        }
        let operations = memory.population(begin, end);
        let populated = self.change_memory(&operations).await;
        // As POSIX names them: no access, and no memory.
        populated.map_err(|errno| match errno {
            EFAULT | EINVAL => ENOMEM,
            ENOMEM => EAGAIN,
            other => other,
        })
    }
}

impl MemoryManager {
    /// What brings in all pages of a range: by a write where the first write would make another page.
    fn population(&self, start: u64, end: u64) -> Vec<MemoryOperation<'static>> {
        let space = self.space.lock();
        let overlapping = space.regions.iter().filter(|region| region.start < end && start < region.end);
        overlapping
            .map(|region| {
                let part = region.part(start, end);
                let writes = part.protection.write && !part.flags.contains(RegionFlags::SHARED);
                let advice = if writes { libc::MADV_POPULATE_WRITE } else { libc::MADV_POPULATE_READ };
                MemoryOperation::Advise { address: part.start, length: part.length(), advice }
            })
            .collect()
    }
}
