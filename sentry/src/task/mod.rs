//! Tasks and thread groups: one task per application thread, one thread group per process.
//!
//! * [`Task`]: a thread; its future is in `run.rs`.
//! * [`ThreadGroup`]: a process: what its threads share, its place among parents, sessions and groups.
//! * [`Credentials`]: who it is.
//! * `spawn.rs` (clone), `exec.rs`, `exit.rs`, `wait.rs`: what happens to them.
//!
//! Signals are in [`crate::signals`], memory in [`crate::memory`].

mod access;
mod credentials;
mod exec;
mod exit;
mod group;
mod image;
mod limits;
mod patience;
mod program_file;
mod run;
mod settings;
mod spawn;
mod stack;
mod table;
mod wait;
mod words;

pub use credentials::Credentials;
pub use exec::ExecRequest;
pub use exec::new_space;
pub(crate) use exec::{STACK_MAX, STACK_MIN};
pub use group::{ChildEvent, CpuTimes, ExitStatus, ThreadGroup};
pub use limits::{Limit, Limits, OPEN_FILES_MAX, Privilege, Resource};
pub use run::Reply;
pub use settings::{TIMER_SLACK_DEFAULT_NS, TaskSettings};
pub use spawn::{CloneRequest, INITIAL_MASK, VforkDone};
pub use table::{ProcessTable, TASKS_MAX};
pub use wait::{WaitFor, WaitKinds, WaitRequest, WaitResult};
pub use words::Words;

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context as WakeContext, Poll, Waker};

use abi::errno::{EBADF, SysResult};
use parking_lot::Mutex;
use platform::{Context, Facts, Interrupter, UserMemory};
use smallvec::SmallVec;

use crate::kernel::Kernel;
use crate::memory::MemoryManager;
use crate::signals::{FaultDetails, TaskSignals};
use crate::time::Instant;
use crate::vfs::{FdTable, FileDescription, FsContext, LentTransfer};
use crate::wait::{Interrupted, Observer, PollEvents, Subscription, WaitError, WaitQueue, observer_of};

/// Bytes of a command line that are shown.
const COMMAND_LINE_MAX: u64 = 64 << 10;

/// A thread or process identifier.
pub type Pid = i32;

/// What a task does now, for `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum TaskState {
    /// In the application, or being served.
    Running = 0,
    /// Waiting for something, interruptibly.
    Sleeping = 1,
    /// Stopped by a signal.
    Stopped = 2,
    /// Exited, not yet waited for.
    Zombie = 3,
}

/// An application thread.
pub struct Task {
    /// Thread ID; changes only when `execve` of another thread takes over the process's number.
    tid: AtomicI32,
    /// The process.
    pub group: Arc<ThreadGroup>,
    /// The root object.
    pub kernel: Arc<Kernel>,
    /// The host side. Taken out while nobody needs it; locked only for single polls, never across a wait. `None` after exit.
    context: Mutex<Option<Box<dyn Context>>>,
    interrupter: Mutex<Arc<dyn Interrupter>>,
    user_memory: Mutex<Arc<dyn UserMemory>>,
    memory: Mutex<Arc<MemoryManager>>,
    files: Mutex<Arc<FdTable>>,
    fs: Mutex<Arc<FsContext>>,
    credentials: Mutex<Arc<Credentials>>,
    /// Pending signals, mask, alternate stack.
    pub signals: TaskSignals,
    /// `comm`.
    name: Mutex<Vec<u8>>,
    /// `set_tid_address`, `CLONE_CHILD_CLEARTID`.
    pub clear_child_tid: AtomicU64,
    /// `prctl(PR_SET_PDEATHSIG)`.
    pub parent_death_signal: AtomicU32,
    /// What `restart_syscall` continues.
    pub restart_block: Mutex<Option<RestartBlock>>,
    /// Set by `exit` of the thread and by `exit_group`, `execve` of another thread, `SIGKILL`.
    pub(crate) must_exit: Mutex<Option<ExitStatus>>,
    /// The CPUs it may use, as it set them; informative.
    pub affinity: Mutex<u64>,
    /// What it asked for and is told again.
    pub settings: Mutex<TaskSettings>,
    /// Start, for `/proc/PID/stat`.
    pub started: Instant,
    state: AtomicU32,
    /// Details of the fault that is pending as a synchronous signal.
    pub(crate) fault: Mutex<Option<FaultDetails>>,
    /// The parent that waits for this task in `vfork`.
    vfork_done: Mutex<Option<Arc<VforkDone>>>,
    /// The thread is ending by its own `exit(2)`, which the host is to carry out.
    pub exits_natively: AtomicBool,
    /// The host may not have carried out yet what it was left to do.
    pub(crate) left_to_host: AtomicBool,
    /// How many looks of wakers at futexes there had been when its thread was answered last.
    pub(crate) noted_looks: AtomicU64,
    /// A read that it was left to do.
    pub(crate) lent_transfer: Mutex<Option<LentTransfer>>,
    waker: OnceLock<Waker>,
    observer: OnceLock<Arc<dyn Observer>>,
}

/// What a restarted call continues with (`man 2 restart_syscall`).
#[derive(Clone, Debug)]
pub enum RestartBlock {
    /// `nanosleep`, `clock_nanosleep`.
    Sleep {
        /// When it ends.
        deadline: Instant,
        /// Where the remaining time goes; 0: nowhere.
        remaining: u64,
    },
    /// `poll`.
    Poll {
        /// `struct pollfd[]`.
        descriptors: u64,
        /// How many.
        count: u32,
        /// When it ends; `None`: never.
        deadline: Option<Instant>,
    },
    /// `futex(FUTEX_WAIT)` with a relative timeout.
    Futex {
        /// The arguments of the call.
        arguments: [u64; 6],
        /// When it ends.
        deadline: Instant,
    },
}

/// What a new task starts with.
pub struct TaskParts {
    /// Thread ID, from [`ProcessTable::allocate`].
    pub tid: Pid,
    /// Its process.
    pub group: Arc<ThreadGroup>,
    /// The host side.
    pub context: Box<dyn Context>,
    /// Its address space.
    pub memory: Arc<MemoryManager>,
    /// Its descriptors.
    pub files: Arc<FdTable>,
    /// Its root, working directory and umask.
    pub fs: Arc<FsContext>,
    /// Who it is.
    pub credentials: Arc<Credentials>,
    /// Its signal mask and alternate stack.
    pub signals: TaskSignals,
    /// `comm`.
    pub name: Vec<u8>,
}

impl Task {
    /// A task that has not been started yet.
    pub fn new(kernel: Arc<Kernel>, parts: TaskParts) -> Arc<Self> {
        parts.signals.words.adopt(parts.context.own_words());
        Arc::new(Self {
            tid: AtomicI32::new(parts.tid),
            group: parts.group,
            kernel,
            interrupter: Mutex::new(parts.context.interrupter()),
            user_memory: Mutex::new(parts.context.memory()),
            context: Mutex::new(Some(parts.context)),
            memory: Mutex::new(parts.memory),
            files: Mutex::new(parts.files),
            fs: Mutex::new(parts.fs),
            credentials: Mutex::new(parts.credentials),
            signals: parts.signals,
            name: Mutex::new(parts.name),
            clear_child_tid: AtomicU64::new(0),
            parent_death_signal: AtomicU32::new(0),
            restart_block: Mutex::new(None),
            must_exit: Mutex::new(None),
            affinity: Mutex::new(u64::MAX),
            settings: Mutex::default(),
            started: Instant::now(),
            fault: Mutex::new(None),
            state: AtomicU32::new(TaskState::Running as u32),
            vfork_done: Mutex::new(None),
            exits_natively: AtomicBool::new(false),
            left_to_host: AtomicBool::new(false),
            noted_looks: AtomicU64::new(0),
            lent_transfer: Mutex::new(None),
            waker: OnceLock::new(),
            observer: OnceLock::new(),
        })
    }

    /// The thread ID.
    pub fn tid(&self) -> Pid {
        self.tid.load(Ordering::Relaxed)
    }

    pub(crate) fn set_tid(&self, tid: Pid) {
        self.tid.store(tid, Ordering::Relaxed);
    }

    /// Tells tasks apart, whatever their numbers.
    pub(crate) fn identity(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// The process ID.
    pub fn pid(&self) -> Pid {
        self.group.pid
    }

    /// Makes a parent wait for this task's `execve` or end.
    pub(crate) fn expect_vfork(&self) -> Arc<VforkDone> {
        let done = Arc::new(VforkDone::default());
        *self.vfork_done.lock() = Some(Arc::clone(&done));
        done
    }

    /// The address space.
    pub fn memory(&self) -> Arc<MemoryManager> {
        self.memory.lock().clone()
    }

    /// The descriptors.
    pub fn files(&self) -> Arc<FdTable> {
        self.files.lock().clone()
    }

    /// The open file behind a descriptor, as [`FdTable::get_open`], without a reference to the table.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn open_file(&self, fd: i32) -> SysResult<Arc<FileDescription>> {
        // Ours may become the last reference: it must not be dropped under the locks.
        let file = self.files.lock().get(fd)?;
        if file.path_only { Err(EBADF) } else { Ok(file) }
    }

    /// Replaces the descriptor table (`unshare`, `execve`, exit); returns the old one.
    pub fn replace_files(&self, files: Arc<FdTable>) -> Arc<FdTable> {
        std::mem::replace(&mut self.files.lock(), files)
    }

    /// Gives the task a descriptor table of its own, if it shares one. (A table of its own stays: it owns record locks.)
    pub fn unshare_files(&self) {
        let files = self.files();
        // One is the task's, one is ours.
        if Arc::strong_count(&files) > 2 {
            let shared = self.replace_files(files.fork());
            drop(shared);
        }
    }

    /// Gives the task a root, working directory and umask of its own.
    pub fn unshare_fs(&self) {
        let shared = self.replace_fs(self.fs().fork());
        drop(shared);
    }

    /// Root, working directory, umask.
    pub fn fs(&self) -> Arc<FsContext> {
        self.fs.lock().clone()
    }

    /// Replaces them (`unshare`); returns the old ones.
    pub fn replace_fs(&self, fs: Arc<FsContext>) -> Arc<FsContext> {
        std::mem::replace(&mut self.fs.lock(), fs)
    }

    /// Who the task is.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.credentials.lock().clone()
    }

    /// Whether the task has a capability.
    pub fn has_capability(&self, number: u32) -> bool {
        self.credentials.lock().has(number)
    }

    /// Changes who the task is.
    pub fn set_credentials(&self, credentials: Credentials) {
        *self.credentials.lock() = Arc::new(credentials);
        self.publish_facts();
    }

    /// Tells the platform what calls that only report who the task is would return. Not while calls are traced: those that do not
    /// trap cannot be seen.
    pub(crate) fn publish_facts(&self) {
        let credentials = self.credentials();
        let facts = Facts {
            pid: self.pid().cast_unsigned(),
            tid: self.tid().cast_unsigned(),
            uid: credentials.uid,
            gid: credentials.gid,
            euid: credentials.euid,
            egid: credentials.egid,
        };
        let facts = self.kernel.strace.is_none().then_some(&facts);
        self.with_context(|context| context.set_facts(facts));
    }

    /// `comm`, at most 15 bytes.
    pub fn name(&self) -> Vec<u8> {
        self.name.lock().clone()
    }

    /// Sets `comm`, cutting it after 15 bytes.
    pub fn set_name(&self, name: &[u8]) {
        *self.name.lock() = name.iter().copied().take(15).collect();
    }

    /// Whether the thread is in the application, or about to be.
    pub fn is_in_application(&self) -> bool {
        self.signals.attention.is_in_application()
    }

    /// The command line as it stands in the task's memory, arguments separated by zeroes; empty if it cannot be read.
    pub fn command_line_bytes(&self) -> Vec<u8> {
        let program = *self.memory().program.lock();
        let length = program.arguments_end.saturating_sub(program.arguments_start).min(COMMAND_LINE_MAX);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        let count = self.read_memory(program.arguments_start, &mut bytes).unwrap_or(0);
        bytes.truncate(count);
        bytes
    }

    /// The command line as `ps` shows it.
    pub fn command_line(&self) -> String {
        let bytes = self.command_line_bytes();
        if bytes.is_empty() {
            return format!("[{}]", String::from_utf8_lossy(&self.name()));
        }
        let words: Vec<_> = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        words.join(" ").trim_end().to_owned()
    }

    /// Processor time of the thread so far.
    pub fn cpu_times(&self) -> CpuTimes {
        let (user_ns, system_ns) = self.with_context(|context| context.cpu_time_ns()).unwrap_or_default();
        CpuTimes { user_ns, system_ns }
    }

    /// What it does now.
    pub fn state(&self) -> TaskState {
        match self.state.load(Ordering::Relaxed) {
            1 => TaskState::Sleeping,
            2 => TaskState::Stopped,
            3 => TaskState::Zombie,
            _ => TaskState::Running,
        }
    }

    pub(crate) fn set_state(&self, state: TaskState) {
        self.state.store(state as u32, Ordering::Relaxed);
    }

    /// Brings the task to where it looks for signals: ends its wait, or makes it leave the application.
    /// The reason is stored before.
    pub fn notify(&self) {
        let in_application = self.signals.attention.raise();
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
        if in_application {
            self.interrupt();
        }
    }

    /// Makes the thread leave the application.
    fn interrupt(&self) {
        let interrupter = self.interrupter.lock().clone();
        interrupter.interrupt();
    }

    /// Makes the thread end at its next trap boundary, with this status unless its end has been decided before.
    pub fn end_with(&self, status: ExitStatus) {
        self.must_exit.lock().get_or_insert(status);
        self.notify();
    }

    /// Whether the thread has to end: for the thread itself, within a long call.
    pub fn is_ending(&self) -> bool {
        self.signals.attention.is_raised() && self.must_exit.lock().is_some()
    }

    /// Whether waits must end: a signal to deliver, or an exit, stop or the like to obey. For the task itself.
    pub fn is_interrupted(&self) -> bool {
        // Not raised: nothing has changed since the last trap boundary, where everything was acted upon.
        self.signals.attention.is_raised() && self.has_business()
    }

    /// Lets the thread change its mask without a trap, unless something is pending. For the task itself.
    pub fn renew_leave(&self) {
        if self.kernel.strace.is_none() {
            self.signals.words.renew_leave(|| !self.signals.all_pending(&self.group).is_empty());
        }
    }

    /// The close look at what [`crate::signals::Attention`] stands for, the freezer excepted.
    fn has_business(&self) -> bool {
        self.signals.has_deliverable(&self.group) || self.must_exit.lock().is_some()
    }

    /// Waits until `attempt` gives a value, which is tried now, after each wake-up of `queue` for one of `mask`, and after
    /// each wake-up of the task.
    ///
    /// # Errors
    /// A signal came, or the deadline passed. A value that is there wins over both.
    pub async fn wait_on<T>(
        &self,
        queue: &WaitQueue,
        mask: PollEvents,
        deadline: Option<Instant>,
        attempt: impl FnMut() -> Option<T>,
    ) -> Result<T, WaitError> {
        self.wait_on_all(&[(queue, mask)], deadline, attempt).await
    }

    /// As [`Task::wait_on`], on several queues.
    ///
    /// # Errors
    /// As there.
    pub async fn wait_on_all<T>(
        &self,
        queues: &[(&WaitQueue, PollEvents)],
        deadline: Option<Instant>,
        attempt: impl FnMut() -> Option<T>,
    ) -> Result<T, WaitError> {
        let mut subscriptions: SmallVec<[Subscription<'_>; 2]> = SmallVec::new();
        let begin = |waker: &Waker| {
            let observer = self.observer(waker);
            subscriptions
                .extend(queues.iter().map(|(queue, mask)| queue.subscribe_scoped(*mask, observer.clone())));
        };
        self.wait_with(deadline, begin, attempt).await
    }

    /// What wakes the task; made once, for it is needed whenever the task waits.
    fn observer(&self, waker: &Waker) -> Arc<dyn Observer> {
        if !self.waker.get().is_some_and(|own| own.will_wake(waker)) {
            return observer_of(waker);
        }
        Arc::clone(self.observer.get_or_init(|| observer_of(waker)))
    }

    /// Waits until `attempt` gives a value. `begin` is called once, before the first look that may end in waiting, and sees
    /// to it that the waker is woken for every later one.
    ///
    /// # Errors
    /// As [`Task::wait_on`].
    pub(crate) async fn wait_with<T>(
        &self,
        deadline: Option<Instant>,
        begin: impl FnOnce(&Waker),
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Result<T, WaitError> {
        if let Some(value) = attempt() {
            return Ok(value);
        }
        let mut begin = Some(begin);
        let mut timer = None;
        let result = std::future::poll_fn(|wake| {
            if let Some(begin) = begin.take() {
                begin(wake.waker());
                timer = deadline.map(|deadline| self.kernel.timers.wake_at(deadline, wake.waker()));
                self.set_state(TaskState::Sleeping);
            }
            if let Some(value) = attempt() {
                return Poll::Ready(Ok(value));
            }
            if self.is_interrupted() {
                return Poll::Ready(Err(WaitError::Interrupted));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Poll::Ready(Err(WaitError::TimedOut));
            }
            Poll::Pending
        })
        .await;
        self.set_state(TaskState::Running);
        result
    }

    /// As [`Task::wait_on`] without a deadline.
    ///
    /// # Errors
    /// A signal came.
    pub async fn wait_until<T>(
        &self,
        queue: &WaitQueue,
        mask: PollEvents,
        attempt: impl FnMut() -> Option<T>,
    ) -> Result<T, Interrupted> {
        self.wait_on(queue, mask, None, attempt).await.map_err(|_| Interrupted)
    }

    /// Polls a future-like operation of the context. `None` if the task has none any more.
    pub(crate) fn with_context<T>(&self, operation: impl FnOnce(&mut dyn Context) -> T) -> Option<T> {
        let mut context = self.context.lock();
        context.as_mut().map(|context| operation(&mut **context))
    }

    /// Awaits an operation of the context, given as its `poll_…` call.
    pub(crate) async fn poll_context<T>(
        &self,
        mut operation: impl FnMut(&mut dyn Context, &mut WakeContext<'_>) -> Poll<T>,
        gone: impl Fn() -> T,
    ) -> T {
        std::future::poll_fn(|wake| match self.context.lock().as_mut() {
            Some(context) => operation(&mut **context, wake),
            None => Poll::Ready(gone()),
        })
        .await
    }

    /// Makes the task belong to another host context and address space (`execve`); returns the old ones.
    pub(crate) fn replace_context(
        &self,
        context: Box<dyn Context>,
        memory: Arc<MemoryManager>,
    ) -> (Option<Box<dyn Context>>, Arc<MemoryManager>) {
        *self.interrupter.lock() = context.interrupter();
        *self.user_memory.lock() = context.memory();
        self.signals.words.adopt(context.own_words());
        // It looks once more, and is given leave again.
        self.signals.attention.raise();
        let old_memory = std::mem::replace(&mut *self.memory.lock(), memory);
        (self.context.lock().replace(context), old_memory)
    }

    /// Gives up the context (exit).
    pub(crate) fn take_context(&self) -> Option<Box<dyn Context>> {
        self.context.lock().take()
    }

    /// A weak handle for queues that must not keep tasks alive.
    pub fn downgrade(self: &Arc<Self>) -> Weak<Self> {
        Arc::downgrade(self)
    }
}
