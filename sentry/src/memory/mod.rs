//! Address spaces: what is mapped where. The sentry decides, the host executes.
//!
//! * [`MemoryManager`] (`manager.rs`): one address space, shared by the tasks that live in it.
//! * [`Region`] (`region.rs`), kept in order by `map.rs`; `gaps.rs` knows what is free between them.
//! * `change.rs`: `mmap`, `munmap`, `mprotect`, `mremap`, `brk`, `madvise` as methods of a task.
//! * `native.rs`: those of them that the host carries out by itself.
//! * `residency.rs`: `mlock`, `mincore`.
//! * `stack.rs`: the main stack when its limit changes.
//! * [`HostFile`]: the descriptors that are mapped.
//!
//! Invariant: a change is made while holding the space's [`crate::wait::Gate`]: planned on the map, carried out by the
//! platform, then entered into the map. If the host refuses, the map stays as it was.

mod change;
mod gaps;
mod host_file;
mod manager;
mod map;
mod native;
mod patch;
mod region;
mod residency;
mod stack;

pub(crate) use change::map_operation;
pub use change::{MapRequest, MapSource, Placement, Remap};
pub use host_file::{HostFile, errno};
pub use manager::{MemoryManager, ProgramArea};
pub use map::REGIONS_MAX;
pub use region::{Backing, PAGE_SIZE, Region, RegionFlags};
pub use residency::Locked;
