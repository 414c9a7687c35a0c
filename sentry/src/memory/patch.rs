//! The kernel's part in patching system-call sites: whether a site may be patched, and where its trampolines may lie.
//!
//! The platform says which instruction traps often, and knows how to patch it; only the map here knows what it lies in.
//! Private mappings that cannot be written are patched: nobody else sees the change, and nobody relies on
//! changing the bytes. Key function: [`Task::patch_site`].

use std::ops::Range;

use platform::{ARENA_SIZE, Died, PatchSite, Protection, SyscallRequest};

use super::{Backing, MemoryManager, Region, RegionFlags};
use crate::task::Task;

/// Name of the trampolines' memory in `/proc/PID/maps`.
const ARENA_NAME: &str = "[runsc]";

impl Task {
    /// Has the platform patch the site of a call that traps often, if it may. Nothing but speed depends on it.
    ///
    /// # Errors
    /// [`Died`]: the thread is gone.
    pub(crate) async fn patch_site(&self, request: &SyscallRequest) -> Result<(), Died> {
        let memory = self.memory();
        let _gate = memory.gate.enter().await;
        let Some(address) = request.ip.checked_sub(2) else { return Ok(()) };
        let Some(region) = memory.region_at(address).filter(may_patch) else { return Ok(()) };
        let code = region.start..region.end;
        let wanted = self.with_context(|context| context.arena_wanted(code)).unwrap_or_default();
        let arena = if wanted.is_empty() {
            None
        } else {
            let Some(start) = wanted.iter().find_map(|range| memory.reserve_arena(range)) else {
                return Ok(());
            };
            Some(start)
        };
        let site = PatchSite {
            ip: request.ip,
            number: request.number,
            mapping: region.start..region.end,
            protection: region.protection,
            arena,
        };
        self.poll_context(|context, wake| context.poll_patch(wake, &site), || Err(Died)).await
    }

    /// Whether the host may not be given a change of this range as it stands, because code there is patched.
    pub(super) fn is_patched(&self, start: u64, end: u64) -> bool {
        self.with_context(|context| context.is_patched(start..end)).unwrap_or(false)
    }
}

fn may_patch(region: &Region) -> bool {
    region.protection.execute
        && !region.protection.write
        && !region.flags.contains(RegionFlags::SHARED)
        && !matches!(region.backing, Backing::Platform(_))
}

impl MemoryManager {
    /// Finds room for an arena, and enters it.
    fn reserve_arena(&self, wanted: &Range<u64>) -> Option<u64> {
        let (bottom, top) =
            (wanted.start.max(self.layout.min_address), wanted.end.min(self.layout.max_address));
        let mut space = self.space.lock();
        let start = space.find_room(top, bottom, ARENA_SIZE)?;
        space.regions.insert(Region {
            start,
            end: start + ARENA_SIZE,
            protection: Protection { read: true, write: false, execute: true },
            may_write: false,
            may_execute: true,
            flags: RegionFlags::empty(),
            backing: Backing::Platform(ARENA_NAME),
        });
        Some(start)
    }
}
