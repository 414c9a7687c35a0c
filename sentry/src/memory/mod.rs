//! Address spaces: what is mapped where. The sentry decides, the host executes.

mod host_file;

pub use host_file::{HostFile, errno};

/// The map of one address space, shared by the tasks that live in it.
#[derive(Default)]
pub struct MemoryManager {}
