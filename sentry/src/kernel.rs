//! The root object: everything else can be reached from here.

use std::sync::Arc;

use parking_lot::Mutex;
use platform::{Platform, SyscallRequest};

use crate::executor::Executor;
use crate::freezer::Freezer;
use crate::futex::FutexTable;
use crate::reactor::Reactor;
use crate::task::{ExitStatus, ProcessTable, Reply, Task, ThreadGroup};
use crate::time::Timers;
use crate::vfs::Vfs;
use crate::wait::WaitQueue;

/// The system calls, handed to the kernel at boot by the crate above it.
pub trait SyscallTable: Send + Sync {
    /// Begins a system call.
    fn call<'a>(&self, task: &'a Arc<Task>, request: &SyscallRequest) -> Reply<'a>;
}

/// What programs are told of the machine (`man 3 getauxval`).
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "AT_HWCAP, AT_HWCAP2, AT_MINSIGSTKSZ")]
pub struct HostFacts {
    pub hardware_capabilities: u64,
    pub hardware_capabilities_2: u64,
    pub minimum_signal_stack: u64,
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
    /// Waiters at words of memory.
    pub futexes: FutexTable,
    /// Stops all tasks.
    pub freezer: Freezer,
    /// Names, drivers and file system types.
    pub vfs: Vfs,
    /// What calls do.
    pub system_calls: &'static dyn SyscallTable,
    /// What programs are told of the machine.
    pub host_facts: HostFacts,
    /// How init ended, once it has.
    init_status: Mutex<Option<ExitStatus>>,
    /// Told when init has ended.
    pub init_exited: WaitQueue,
}

impl Kernel {
    /// A kernel with no process in it.
    ///
    /// # Errors
    /// The host refuses descriptors.
    pub fn new(
        platform: Arc<dyn Platform>,
        system_calls: &'static dyn SyscallTable,
        tasks: usize,
    ) -> nix::Result<Arc<Self>> {
        let timers = Timers::new()?;
        let reactor = Reactor::new(Arc::clone(&timers))?;
        Ok(Arc::new(Self {
            executor: Executor::new(Arc::clone(&platform)),
            host_facts: HostFacts::read(),
            platform,
            reactor,
            timers,
            processes: ProcessTable::new(tasks),
            futexes: FutexTable::default(),
            freezer: Freezer::default(),
            vfs: Vfs::default(),
            system_calls,
            init_status: Mutex::new(None),
            init_exited: WaitQueue::new(),
        }))
    }

    /// Init has ended: so does everybody else (`man 7 pid_namespaces`).
    pub(crate) fn init_ended(&self, status: ExitStatus) {
        *self.init_status.lock() = Some(status);
        for group in self.processes.groups() {
            group.kill();
        }
        self.init_exited.wake_all();
    }

    /// How init ended, once it has.
    pub fn init_status(&self) -> Option<ExitStatus> {
        *self.init_status.lock()
    }

    /// A process ended; if it led a session, its terminal is let go.
    pub(crate) fn session_member_ended(&self, group: &Arc<ThreadGroup>) {
        let _ = group;
    }
}

impl HostFacts {
    /// What the host tells this process.
    fn read() -> Self {
        Self {
            hardware_capabilities: platform::auxiliary_value(libc::AT_HWCAP),
            hardware_capabilities_2: platform::auxiliary_value(libc::AT_HWCAP2),
            minimum_signal_stack: platform::auxiliary_value(libc::AT_MINSIGSTKSZ),
        }
    }
}
