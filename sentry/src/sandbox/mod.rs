//! A container's life as the outside sees it: boot, start, exec, signal, pause, wait.
//!
//! * [`Sandbox`]: the handle that the control socket's server drives, from any thread.
//! * `process.rs`: makes the processes that the outside asks for.
//! * `mounts.rs`: builds the tree of mounts from the specification.
//! * `user.rs`: users and groups by name.

mod mounts;
mod process;
mod user;

pub use process::{ProcessFiles, StartError};

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc;

use abi::errno::{ENOTTY, ESRCH, Errno, SysResult};
use abi::signal_info::SigInfo;
use abi::signals::{SIGKILL, Signal};
use parking_lot::Mutex;
use platform::Platform;

use crate::fs::mqueue::QueueLimit;
use crate::fs::proc::HostMachine;
use crate::kernel::{Kernel, SyscallTable};
use crate::lockdown;
use crate::spec::{FirstProcess, HostUds, NetworkMode, ProcessSpec, SandboxSpec, WindowSize};
use crate::strace::Strace;
use crate::task::{CpuTimes, ExitStatus, Pid, TASKS_MAX, Task, TaskState, ThreadGroup};
use crate::vfs::MountNamespace;
use crate::wait::{Observer, PollEvents, WaitQueue};

/// Processes that the outside started whose statuses are kept after their end.
const STATUSES_MAX: usize = 4096;
/// Stack of the reactor's thread, in bytes; it also polls futures.
const REACTOR_STACK: usize = 512 << 10;

/// What the kernel is given at boot besides its specification.
pub struct HostEnds {
    /// The file protocol.
    pub gofer: OwnedFd,
    /// Files of the first process.
    pub files: ProcessFiles,
    /// The machine as the host describes it.
    pub machine: HostMachine,
}

/// A running sandbox.
pub struct Sandbox {
    kernel: Arc<Kernel>,
    namespace: Arc<MountNamespace>,
    /// The first process, loaded, until it is started.
    waiting: Mutex<Option<Arc<Task>>>,
    /// Processes that the outside started.
    started: Mutex<BTreeMap<Pid, Arc<ThreadGroup>>>,
}

/// A line of `ps`.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ProcessLine {
    pub pid: Pid,
    pub parent: Pid,
    pub uid: u32,
    pub threads: usize,
    pub started_monotonic_ns: u64,
    pub times: CpuTimes,
    pub state: char,
    pub terminal: Option<String>,
    pub command: String,
}

impl Sandbox {
    /// Boots a kernel, confines the process for good, and loads the first process, which waits for [`Sandbox::start`].
    ///
    /// To be called on the process's only thread.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn boot(
        spec: &SandboxSpec,
        platform: Arc<dyn Platform>,
        system_calls: &'static dyn SyscallTable,
        ends: HostEnds,
    ) -> Result<Arc<Self>, StartError> {
        refuse_what_is_missing(spec)?;
        lockdown::drop_capabilities()?;
        let tasks = spec.limits.tasks.and_then(|tasks| usize::try_from(tasks).ok()).unwrap_or(TASKS_MAX);
        let kernel = Kernel::new(platform, system_calls, tasks, spec.strace.clone().map(Strace::new))
            .map_err(|e| StartError::host("kernel", e))?;
        crate::tty::register(&kernel);
        if !spec.hostname.is_empty() {
            kernel.uts.set_hostname(&spec.hostname);
        }
        if !spec.domainname.is_empty() {
            kernel.uts.set_domainname(&spec.domainname);
        }
        if let Some(limit) = spec.limits.memory_bytes {
            kernel.set_memory_limit(limit);
        }
        set_queue_limits(&kernel, spec)?;
        mounts::register(&kernel, spec, ends.machine);
        run_threads(&kernel)?;
        // Asked while it may be.
        crate::fs::tmpfs::budget::host_limits();
        lockdown::allow_only(&*kernel.platform, spec.host_uds)?;
        let (namespace, plan) = mounts::root(spec, ends.gofer, &kernel.timers)?;
        let sandbox =
            Arc::new(Self { kernel, namespace, waiting: Mutex::new(None), started: Mutex::default() });
        let task = sandbox.make_process(&spec.container.process, ends.files, Some(plan))?;
        let protected = spec.container.first_process == FirstProcess::Init;
        task.group.is_protected.store(protected, std::sync::atomic::Ordering::Relaxed);
        *sandbox.waiting.lock() = Some(task);
        Ok(sandbox)
    }

    /// The kernel.
    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }

    /// Lets the first process run.
    ///
    /// # Errors
    /// `ESRCH`: it runs already.
    pub fn start(&self) -> SysResult<()> {
        let task = self.waiting.lock().take().ok_or(ESRCH)?;
        self.kernel.executor.spawn(task.run());
        Ok(())
    }

    /// Starts one more process.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn exec(&self, spec: &ProcessSpec, files: ProcessFiles) -> Result<Pid, StartError> {
        if self.kernel.init_status().is_some() {
            return Err(StartError::Ended);
        }
        let task = self.make_process(spec, files, None)?;
        let pid = task.pid();
        self.kernel.executor.spawn(task.run());
        Ok(pid)
    }

    /// Makes a process on a thread that may use the platform's contexts.
    fn make_process(
        &self,
        spec: &ProcessSpec,
        files: ProcessFiles,
        plan: Option<mounts::Plan>,
    ) -> Result<Arc<Task>, StartError> {
        let (sender, receiver) = mpsc::channel();
        let kernel = Arc::clone(&self.kernel);
        let namespace = Arc::clone(&self.namespace);
        let spec = spec.clone();
        self.kernel.executor.spawn(async move {
            let made = process::make(&kernel, &namespace, &spec, files, plan).await;
            // The receiver is waiting just below.
            let _ = sender.send(made);
        });
        let task = receiver.recv().map_err(|_| StartError::Ended)??;
        let mut started = self.started.lock();
        while started.len() >= STATUSES_MAX {
            let oldest =
                started.iter().find(|(_, group)| group.zombie_status().is_some()).map(|(pid, _)| *pid);
            match oldest {
                Some(pid) => started.remove(&pid),
                None => break,
            };
        }
        started.insert(task.pid(), Arc::clone(&task.group));
        Ok(task)
    }

    /// Sends a signal to one process, as from outside its PID namespace.
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn signal(&self, pid: Pid, signal: Signal) -> SysResult<()> {
        let group = self.kernel.processes.group(pid).ok_or(ESRCH)?;
        if group.zombie_status().is_some() {
            return Err(ESRCH);
        }
        if pid == 1 && self.waiting.lock().is_some() {
            return self.kill_waiting(signal);
        }
        if signal == SIGKILL {
            group.kill();
            return Ok(());
        }
        group.send_signal(signal, SigInfo::user(signal, 0, 0))
    }

    /// A first process that was never started only knows how to die.
    fn kill_waiting(&self, signal: Signal) -> SysResult<()> {
        if (signal == SIGKILL || signal == abi::signals::SIGTERM)
            && let Some(task) = self.waiting.lock().take()
        {
            task.group.begin_exit(ExitStatus::Killed { signal, core: false });
            self.kernel.executor.spawn(task.run());
        }
        Ok(())
    }

    /// Sends a signal to every process.
    ///
    /// # Errors
    /// `ESRCH`: there is none.
    pub fn signal_all(&self, signal: Signal) -> SysResult<()> {
        let mut any = false;
        for group in self.kernel.processes.groups() {
            any |= self.signal(group.pid, signal).is_ok();
        }
        if any { Ok(()) } else { Err(ESRCH) }
    }

    /// Sends a signal to the foreground process group of the terminal a process was started on, or to the process.
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn signal_foreground(&self, pid: Pid, signal: Signal) -> SysResult<()> {
        let group = self.kernel.processes.group(pid).ok_or(ESRCH)?;
        let foreground = group.controlling_terminal().and_then(|terminal| terminal.foreground());
        let members = foreground.map(|pgid| self.kernel.processes.members(pgid)).unwrap_or_default();
        if members.is_empty() {
            return self.signal(pid, signal);
        }
        for member in members {
            // One that has just ended is no failure.
            let _ = self.signal(member.pid, signal);
        }
        Ok(())
    }

    /// Tells the terminal a process was started on that its window has another size.
    ///
    /// # Errors
    /// `ESRCH`. `ENOTTY`: it has none.
    pub fn resize(&self, pid: Pid, size: WindowSize) -> SysResult<()> {
        let group = self.kernel.processes.group(pid).ok_or(ESRCH)?;
        let terminal = group.controlling_terminal().ok_or(ENOTTY)?;
        terminal.resize(size);
        Ok(())
    }

    /// Bytes mapped by all processes, shared address spaces counted once.
    pub fn mapped_bytes(&self) -> u64 {
        let mut spaces = BTreeMap::new();
        for task in self.kernel.processes.tasks() {
            let memory = task.memory();
            spaces.insert(memory.identity, memory.total_bytes());
        }
        spaces.values().sum()
    }

    /// All processes, by number.
    pub fn processes(&self) -> Vec<ProcessLine> {
        let (sender, receiver) = mpsc::channel();
        let kernel = Arc::clone(&self.kernel);
        // Processor times come from contexts, which only workers may touch on some platforms.
        self.kernel.executor.spawn(async move {
            let _ = sender.send(kernel.processes.groups().iter().map(line).collect());
        });
        receiver.recv().unwrap_or_default()
    }

    /// Blocks the calling thread (never a worker) until a process that the outside started has ended.
    ///
    /// # Errors
    /// `ESRCH`: the outside started no such process.
    pub fn wait(&self, pid: Pid) -> SysResult<ExitStatus> {
        let group = self.started.lock().get(&pid).cloned().ok_or(ESRCH)?;
        Ok(block_until(&group.exited, || group.zombie_status()))
    }

    /// Stops every task at its next trap boundary; returns when none is in the application.
    pub fn pause(&self) {
        self.kernel.freezer.freeze();
        let tasks = self.kernel.processes.tasks();
        for task in &tasks {
            task.notify();
        }
        block_until(&self.kernel.freezer.arrivals, || {
            let busy = self.kernel.processes.tasks().iter().any(|task| task.is_in_application());
            (!busy).then_some(())
        });
    }

    /// Lets the workers end without complaint when the stubs are gone.
    pub fn stop(&self) {
        self.kernel.executor.stop();
    }

    /// Undoes [`Sandbox::pause`].
    pub fn resume(&self) {
        self.kernel.freezer.thaw();
    }
}

/// The configuration's values for `/proc/sys/fs/mqueue`.
fn set_queue_limits(kernel: &Kernel, spec: &SandboxSpec) -> Result<(), StartError> {
    for (key, text) in &spec.sysctl {
        let name = key.replace('/', ".");
        let known =
            QueueLimit::ALL.into_iter().find(|limit| name.strip_prefix("fs.mqueue.") == Some(limit.name()));
        if let Some(limit) = known {
            let set = kernel.message_queues.accounts().set_limit(limit, text);
            set.map_err(|errno| StartError::Invalid(format!("sysctl {key}={text:?}: {errno}")))?;
        }
    }
    Ok(())
}

/// What the command line can ask for and this kernel cannot do yet.
fn refuse_what_is_missing(spec: &SandboxSpec) -> Result<(), StartError> {
    let missing = |what: &str| Err(StartError::Invalid(format!("{what} is not supported by this kernel")));
    if spec.network == NetworkMode::Host {
        return missing("--network=host");
    }
    match spec.host_uds {
        HostUds::None | HostUds::Open => Ok(()),
        HostUds::Create => missing("--host-uds=create"),
        HostUds::All => missing("--host-uds=all"),
    }
}

fn run_threads(kernel: &Arc<Kernel>) -> Result<(), StartError> {
    let failed = |errno: Errno| {
        // Nothing can be answered any more; the stubs die with the sentry.
        tracing::error!(%errno, "the platform cannot go on");
        std::process::exit(125);
    };
    kernel.executor.start_workers(failed).map_err(|e| StartError::Failed("workers", e))?;
    let for_thread = Arc::clone(kernel);
    std::thread::Builder::new()
        .name("reactor".into())
        .stack_size(REACTOR_STACK)
        .spawn(move || {
            let platform = Arc::clone(&for_thread.platform);
            for_thread.reactor.run(&for_thread.executor, |_| platform.reap());
        })
        .map_err(|e| StartError::Failed("reactor", e.into()))?;
    Ok(())
}

fn line(group: &Arc<ThreadGroup>) -> ProcessLine {
    let leader = group.leader();
    let state = match leader.as_ref().map(|task| task.state()) {
        None | Some(TaskState::Zombie) => 'Z',
        Some(TaskState::Running) => 'R',
        Some(TaskState::Sleeping) => 'S',
        Some(TaskState::Stopped) => 'T',
    };
    let command = leader.as_ref().map_or_else(String::new, |task| task.command_line());
    ProcessLine {
        pid: group.pid,
        parent: group.parent_pid(),
        uid: leader.as_ref().map_or(0, |task| task.credentials().euid),
        threads: group.thread_count(),
        started_monotonic_ns: group.started.0,
        times: group.cpu_times(),
        state,
        terminal: group.controlling_terminal().map(|terminal| terminal.name()),
        command,
    }
}

struct Unpark(std::thread::Thread);

impl Observer for Unpark {
    fn notify(&self, _events: PollEvents) {
        self.0.unpark();
    }
}

/// Blocks a thread that is not the kernel's until `attempt` gives a value.
fn block_until<T>(queue: &WaitQueue, attempt: impl Fn() -> Option<T>) -> T {
    let _subscription = queue.subscribe_scoped(PollEvents::all(), Arc::new(Unpark(std::thread::current())));
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        std::thread::park();
    }
}
