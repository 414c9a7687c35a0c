//! The root object: everything else can be reached from here.

use std::sync::Arc;

use platform::{Platform, SyscallRequest};

use crate::executor::Executor;
use crate::reactor::Reactor;
use crate::task::{ProcessTable, Reply, Task};
use crate::time::Timers;

/// The system calls, handed to the kernel at boot by the crate above it.
pub trait SyscallTable: Send + Sync {
    /// Begins a system call.
    fn call<'a>(&self, task: &'a Arc<Task>, request: &SyscallRequest) -> Reply<'a>;
}

/// See the module's text.
pub struct Kernel {
    /// How applications run.
    pub platform: Arc<dyn Platform>,
    /// Threads and ready futures.
    pub executor: Arc<Executor>,
    /// Host descriptors and signals.
    pub reactor: Arc<Reactor>,
    /// Armed timers.
    pub timers: Arc<Timers>,
    /// Processes and threads.
    pub processes: ProcessTable,
    /// What calls do.
    pub system_calls: &'static dyn SyscallTable,
}
