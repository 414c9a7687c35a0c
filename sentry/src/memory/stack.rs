//! The main stack after `setrlimit(RLIMIT_STACK)`.
//!
//! Linux lets the stack grow fault by fault up to the limit of that moment; here it is mapped as a whole by `execve`. So a
//! changed limit changes the mapping: what lies beyond a lower one goes, as far as nothing was ever stored there, and a
//! higher one brings more. What the host's pages say of use is read from their content: a page that is all zero is as good
//! as one that was never touched.

use abi::errno::{EFAULT, SysResult};
use platform::MemoryOperation;

use super::change::map_operation;
use super::{PAGE_SIZE, Region, RegionFlags};
use crate::task::{Resource, STACK_MAX, STACK_MIN, Task};

/// What Linux always gives a new program's stack, and the distance it keeps from what lies below (`stack_guard_gap`).
const SLACK: u64 = 128 << 10;
const GUARD: u64 = 1 << 20;
/// Bytes looked at in one copy.
const PIECE: usize = 64 << 10;

impl Task {
    /// Makes the stack as large as `RLIMIT_STACK` says now. Other processes that share the memory would lose theirs: then
    /// nothing changes (`vfork` before an `execve`, for which alone the limit is set).
    pub async fn fit_stack(&self) {
        let memory = self.memory();
        if memory.users() != self.group.tasks().len() {
            return;
        }
        let _gate = memory.gate.enter().await;
        let (lowest, end, below) = {
            let space = memory.space.lock();
            let stack = |region: &&Region| region.flags.contains(RegionFlags::STACK);
            let Some(lowest) = space.regions.iter().find(stack).cloned() else { return };
            let end = space.regions.iter().rfind(stack).map_or(lowest.end, |region| region.end);
            let below = space.regions.iter().rfind(|region| region.end <= lowest.start);
            (lowest, end, below.map_or(memory.layout.min_address, |region| region.end))
        };
        let size = self.group.limits.soft(Resource::Stack).clamp(STACK_MIN, STACK_MAX);
        let wanted = end.saturating_sub(size) & !(PAGE_SIZE - 1);
        // What fails leaves the stack as it was, which is no worse than a limit that was changed a moment later.
        let _ = if wanted > lowest.start {
            self.shrink_stack(lowest, wanted).await
        } else {
            self.grow_stack(lowest, wanted.max(below.saturating_add(GUARD))).await
        };
    }

    async fn shrink_stack(&self, lowest: Region, wanted: u64) -> SysResult<()> {
        self.capture().await.map_err(|_| EFAULT)?;
        let pointer =
            self.with_context(|context| context.registers().map(|registers| registers.rsp)).flatten();
        let mut keep = wanted.min(lowest.end);
        if let Some(pointer) = pointer.filter(|pointer| (lowest.start..lowest.end).contains(pointer)) {
            keep = keep.min(pointer.saturating_sub(SLACK) & !(PAGE_SIZE - 1));
        }
        let keep = self.first_used(lowest.start, keep)?;
        if keep <= lowest.start {
            return Ok(());
        }
        let gone = MemoryOperation::Unmap { address: lowest.start, length: keep - lowest.start };
        self.change_memory(&[gone]).await?;
        let removed = self.memory().space.lock().regions.remove(lowest.start, keep);
        drop(removed);
        Ok(())
    }

    async fn grow_stack(&self, lowest: Region, wanted: u64) -> SysResult<()> {
        let more = lowest.start.saturating_sub(wanted);
        let memory = self.memory();
        let address_space = self.group.limits.soft(Resource::AddressSpace);
        if more == 0 || memory.total_bytes().saturating_add(more) > address_space {
            return Ok(());
        }
        let region = Region { start: wanted, end: lowest.start, ..lowest };
        self.change_memory(&[map_operation(&region)]).await?;
        memory.enter_region(region);
        Ok(())
    }

    /// The first page from `start` on in which something is stored, or `end`.
    fn first_used(&self, start: u64, end: u64) -> SysResult<u64> {
        let memory = self.user_memory();
        let mut piece = vec![0; PIECE];
        let mut at = start;
        while at < end {
            let wanted = usize::try_from(end - at).map_or(PIECE, |left| left.min(PIECE));
            let buffer = piece.get_mut(..wanted).unwrap_or_default();
            let count = memory.read(at, buffer)?;
            if let Some(used) = buffer.iter().take(count).position(|byte| *byte != 0) {
                let used = at.saturating_add(u64::try_from(used).unwrap_or(0));
                return Ok(used & !(PAGE_SIZE - 1));
            }
            at = at.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        }
        Ok(end)
    }
}
