//! The root object: everything else can be reached from here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use platform::{Platform, SyscallRequest};

use crate::executor::Executor;
use crate::freezer::Freezer;
use crate::fs::inotify;
use crate::fs::mqueue::MessageQueues;
use crate::fs::pipe::Fifos;
use crate::futex::FutexTable;
use crate::reactor::Reactor;
use crate::sockets::Sockets;
use crate::strace::Strace;
use crate::task::{ExitStatus, ProcessTable, Reply, Task, ThreadGroup};
use crate::time::Timers;
use crate::tty::Terminals;
use crate::uts::Uts;
use crate::vfs::Vfs;
use crate::wait::WaitQueue;

/// `HWCAP2_FSGSBASE`: programs may change the GS base by an instruction. Not told, because the platform needs the register
/// and must learn of every change (`arch_prctl(2)` tells it).
const HWCAP2_FSGSBASE: u64 = 1 << 1;

/// The system calls, handed to the kernel at boot by the crate above it.
pub trait SyscallTable: Send + Sync {
    /// Begins a system call.
    fn call<'a>(&self, task: &'a Arc<Task>, request: &SyscallRequest) -> Reply<'a>;
}

/// What programs are told of the machine (`man 3 getauxval`).
#[derive(Clone, Copy, Debug, Default)]
pub struct HostFacts {
    /// `AT_HWCAP`
    pub hardware_capabilities: u64,
    /// `AT_HWCAP2`
    pub hardware_capabilities_2: u64,
    /// `AT_MINSIGSTKSZ`
    pub minimum_signal_stack: u64,
    /// How many processors applications see, numbered from 0; at most [`PROCESSORS_MAX`].
    pub processors: u32,
    /// The host's memory in bytes.
    pub total_memory: u64,
}

/// Processors shown at most: as many as an affinity mask has bits.
pub const PROCESSORS_MAX: u32 = 64;

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
    /// The names of the machine.
    pub uts: Uts,
    /// Stops all tasks.
    pub freezer: Freezer,
    /// Names, drivers and file system types.
    pub vfs: Vfs,
    /// What inotify has taken.
    pub inotify: Arc<inotify::Accounts>,
    /// POSIX message queues.
    pub message_queues: Arc<MessageQueues>,
    /// Sockets by family.
    pub sockets: Sockets,
    /// What calls do.
    pub system_calls: &'static dyn SyscallTable,
    /// Prints calls.
    pub strace: Option<Strace>,
    /// What programs are told of the machine.
    pub host_facts: HostFacts,
    /// The sandbox's limit of memory in bytes; 0: none but the host's.
    memory_limit: AtomicU64,
    /// Consoles.
    pub terminals: Terminals,
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
        strace: Option<Strace>,
    ) -> nix::Result<Arc<Self>> {
        let timers = Timers::new()?;
        let reactor = Reactor::new(Arc::clone(&timers))?;
        let vfs = Vfs::default();
        let _ = vfs.fifos.set(Arc::new(Fifos));
        Ok(Arc::new(Self {
            executor: Executor::new(Arc::clone(&platform)),
            host_facts: HostFacts::read(),
            platform,
            reactor,
            timers,
            processes: ProcessTable::new(tasks),
            futexes: FutexTable::default(),
            uts: Uts::default(),
            freezer: Freezer::default(),
            vfs,
            inotify: Arc::default(),
            message_queues: MessageQueues::new(),
            sockets: Sockets::default(),
            system_calls,
            strace,
            memory_limit: AtomicU64::new(0),
            terminals: Terminals::default(),
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

    /// Tells applications that they have no more memory than this (`SandboxLimits::memory_bytes`).
    pub fn set_memory_limit(&self, bytes: u64) {
        self.memory_limit.store(bytes, Ordering::Relaxed);
    }

    /// Memory of the machine as applications see it, in bytes (`sysinfo`, `/proc/meminfo`).
    pub fn total_memory(&self) -> u64 {
        match self.memory_limit.load(Ordering::Relaxed) {
            0 => self.host_facts.total_memory,
            limit => limit.min(self.host_facts.total_memory),
        }
    }

    /// Bytes that applications have mapped and may write, an upper bound of what they use.
    pub fn mapped_memory(&self) -> u64 {
        let groups = self.processes.groups();
        groups.iter().filter_map(|group| group.leader()).map(|task| task.memory().writable_bytes()).sum()
    }

    /// How init ended, once it has.
    pub fn init_status(&self) -> Option<ExitStatus> {
        *self.init_status.lock()
    }

    /// A process ended; if it led a session, its terminal is let go.
    pub(crate) fn session_member_ended(&self, group: &Arc<ThreadGroup>) {
        crate::tty::process_ended(self, group);
    }
}

impl HostFacts {
    /// What the host tells this process.
    fn read() -> Self {
        Self {
            hardware_capabilities: platform::auxiliary_value(libc::AT_HWCAP),
            hardware_capabilities_2: platform::auxiliary_value(libc::AT_HWCAP2) & !HWCAP2_FSGSBASE,
            minimum_signal_stack: platform::auxiliary_value(libc::AT_MINSIGSTKSZ),
            processors: std::thread::available_parallelism()
                .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
                .min(PROCESSORS_MAX),
            total_memory: nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total()),
        }
    }
}
