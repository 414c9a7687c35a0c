//! What of a process's memory is shown as bytes or numbers: `cmdline`, `environ`, `auxv`, `statm`.
//!
//! The sentry knows what is mapped, not which pages the host holds in memory. Where Linux shows resident pages, the
//! most that can be resident is shown: [`resident_estimate`].

use abi::errno::SysResult;

use super::Subject;
use crate::fs::generated::Reader;
use crate::memory::{Backing, MemoryManager, PAGE_SIZE, Region, RegionFlags};
use crate::task::Task;

/// Stacks are mapped as a whole but used from their top: this much is counted, as a young process has on Linux.
const STACK_SHOWN: u64 = 132 << 10;
/// Bytes shown of environment and command line at most.
const STRINGS_MAX: u64 = 6 << 20;

/// Bytes that may be in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::fs::proc) struct Resident {
    pub(super) anonymous: u64,
    pub(super) file: u64,
    pub(super) shared: u64,
}

impl Resident {
    /// Altogether.
    pub(in crate::fs::proc) const fn total(self) -> u64 {
        self.anonymous + self.file + self.shared
    }
}

/// At most how much of an address space is in memory: what can be accessed and was not mapped as a mere reservation.
pub(in crate::fs::proc) fn resident_estimate(memory: &MemoryManager) -> Resident {
    let mut sum = Resident::default();
    for region in memory.regions() {
        let accessible = region.protection.read || region.protection.write || region.protection.execute;
        let bytes = region.length();
        match &region.backing {
            _ if !accessible => {}
            Backing::Anonymous if region.flags.contains(RegionFlags::STACK) => {
                sum.anonymous += bytes.min(STACK_SHOWN);
            }
            Backing::Anonymous if region.flags.contains(RegionFlags::NORESERVE) => {}
            Backing::Anonymous => sum.anonymous += bytes,
            Backing::SharedAnonymous { .. } => sum.shared += bytes,
            Backing::File { .. } => sum.file += bytes,
            Backing::Platform(_) => {}
        }
    }
    sum
}

/// Sizes of an address space's parts, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sizes {
    pub(super) total: u64,
    pub(super) locked: u64,
    pub(super) data: u64,
    pub(super) stack: u64,
    pub(super) executable: u64,
    pub(super) libraries: u64,
}

/// Measures the parts as Linux tells them apart: writable private memory is data, executable files are program or
/// libraries.
pub(super) fn memory_sizes(memory: &MemoryManager) -> Sizes {
    let program = *memory.program.lock();
    let mut sizes = Sizes { total: memory.total_bytes(), ..Sizes::default() };
    for region in memory.regions() {
        let bytes = region.length();
        if region.flags.contains(RegionFlags::LOCKED) {
            sizes.locked += bytes;
        }
        if region.flags.contains(RegionFlags::STACK) {
            sizes.stack += bytes.min(STACK_SHOWN);
        } else if is_data(&region) {
            sizes.data += bytes;
        } else if region.protection.execute && matches!(region.backing, Backing::File { .. }) {
            sizes.libraries += bytes;
        }
    }
    let start = program.start_code & !(PAGE_SIZE - 1);
    sizes.executable = program.end_code.saturating_sub(start).next_multiple_of(PAGE_SIZE);
    sizes.libraries = sizes.libraries.saturating_sub(sizes.executable);
    sizes
}

fn is_data(region: &Region) -> bool {
    region.protection.write && !region.flags.contains(RegionFlags::SHARED)
}

/// `/proc/PID/statm`: pages.
pub(super) fn statm(subject: &Subject, _reader: &Reader) -> SysResult<Vec<u8>> {
    subject.identity()?;
    let Ok(task) = subject.task() else { return Ok(b"0 0 0 0 0 0 0\n".to_vec()) };
    let memory = task.memory();
    let (sizes, resident) = (memory_sizes(&memory), resident_estimate(&memory));
    let pages = |bytes: u64| bytes / PAGE_SIZE;
    Ok(format!(
        "{} {} {} {} 0 {} 0\n",
        pages(sizes.total),
        pages(resident.total()),
        pages(resident.file + resident.shared),
        pages(sizes.executable),
        pages(sizes.data + sizes.stack),
    )
    .into_bytes())
}

/// A range of a task's memory, cut where it cannot be read.
fn bytes_of(task: &Task, start: u64, end: u64) -> Vec<u8> {
    let length = end.saturating_sub(start).min(STRINGS_MAX);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let count = task.read_memory(start, &mut bytes).unwrap_or(0);
    bytes.truncate(count);
    bytes
}

/// `/proc/PID/cmdline`: the arguments as they stand in the process's memory, which `setproctitle` may have changed.
pub(super) fn cmdline(subject: &Subject, _reader: &Reader) -> SysResult<Vec<u8>> {
    subject.identity()?;
    let Ok(task) = subject.task() else { return Ok(Vec::new()) };
    let program = *task.memory().program.lock();
    let mut bytes = bytes_of(&task, program.arguments_start, program.arguments_end);
    if bytes.last().is_some_and(|last| *last != 0) {
        // The title ran over its end into the environment: it ends at the first zero there.
        let more = bytes_of(&task, program.arguments_end, program.environment_end);
        let end = more.iter().position(|byte| *byte == 0).unwrap_or(more.len());
        let title = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        bytes.truncate(title);
        if bytes.len() as u64 == program.arguments_end - program.arguments_start {
            bytes.extend_from_slice(more.get(..end).unwrap_or_default());
        }
    }
    Ok(bytes)
}

/// `/proc/PID/environ`
pub(super) fn environ(subject: &Subject, _reader: &Reader) -> SysResult<Vec<u8>> {
    let Ok(task) = subject.task() else { return Ok(Vec::new()) };
    let program = *task.memory().program.lock();
    Ok(bytes_of(&task, program.environment_start, program.environment_end))
}

/// `/proc/PID/auxv`
pub(super) fn auxv(subject: &Subject, _reader: &Reader) -> SysResult<Vec<u8>> {
    let Ok(task) = subject.task() else { return Ok(Vec::new()) };
    let memory = task.memory();
    Ok(memory.auxiliary.lock().clone())
}
