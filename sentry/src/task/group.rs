//! Thread groups: processes.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::signal_info::SigInfo;
use abi::signals::{SIGCHLD, SIGCONT, SIGKILL, SaFlags, Signal};
use parking_lot::Mutex;

use super::{Credentials, Limits, Pid, Task};
use crate::signals::{GroupSignals, SignalHandlers};
use crate::time::Instant;
use crate::tty::Terminal;
use crate::wait::{PollEvents, WaitQueue};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// By `exit`, with this status.
    Exited(u8),
    /// By a signal.
    Killed {
        /// Which.
        signal: Signal,
        /// A core was dumped.
        core: bool,
    },
}

impl ExitStatus {
    /// As `wait4` stores it (`man 2 wait`, `WIFEXITED` and friends).
    pub const fn wait_status(self) -> i32 {
        match self {
            Self::Exited(status) => (status as i32) << 8,
            Self::Killed { signal, core } => signal.number() | if core { 0x80 } else { 0 },
        }
    }
}

/// Something a parent hears of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildEvent {
    /// The process ended.
    Exited(ExitStatus),
    /// A signal stopped it.
    Stopped(Signal),
    /// `SIGCONT` continued it.
    Continued,
}

/// Processor time of a process that has been collected, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuTimes {
    /// In the application.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
}

impl CpuTimes {
    /// The sum of both.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self { user_ns: self.user_ns + other.user_ns, system_ns: self.system_ns + other.system_ns }
    }
}

/// A process.
pub struct ThreadGroup {
    /// Process ID: the thread ID of its first thread.
    pub pid: Pid,
    tasks: Mutex<Vec<Arc<Task>>>,
    parent: Mutex<Weak<ThreadGroup>>,
    children: Mutex<Vec<Arc<ThreadGroup>>>,
    pgid: AtomicI32,
    sid: AtomicI32,
    /// The controlling terminal.
    terminal: Mutex<Option<Arc<Terminal>>>,
    /// Told when a thread has ended.
    pub(crate) thread_ended: WaitQueue,
    /// A thread is in `execve` and ends the others.
    exec_claimed: AtomicBool,
    /// Real user of the last thread, for `wait`.
    pub(crate) last_uid: AtomicU32,
    /// What a zombie still shows of its last thread: `comm` and who it was.
    last_thread: Mutex<Option<(Vec<u8>, Arc<Credentials>)>>,
    /// Told when a child changes state.
    pub child_events: WaitQueue,
    /// Told when this process ends (pidfd).
    pub exited: WaitQueue,
    /// Signals of the process.
    pub signals: GroupSignals,
    /// `setrlimit`.
    pub limits: Limits,
    /// The zombie was waited for.
    pub(crate) reaped: AtomicBool,
    exit: Mutex<ExitState>,
    /// What the parent is sent when this process ends; 0: nothing.
    pub exit_signal: AtomicI32,
    /// `prctl(PR_SET_CHILD_SUBREAPER)`.
    pub is_subreaper: AtomicBool,
    /// `execve` was called since `fork` (`setpgid` of a child is refused then).
    pub has_execed: AtomicBool,
    /// Signals without a handler do nothing to it (`man 7 pid_namespaces`).
    pub is_protected: AtomicBool,
    /// `PR_SET_DUMPABLE`.
    pub dumpable: AtomicBool,
    /// `/proc/PID/oom_score_adj`.
    pub oom_score_adj: AtomicI32,
    /// `nice` value.
    pub nice: AtomicI32,
    /// Time of threads that are gone.
    pub past_times: Mutex<CpuTimes>,
    /// Time of children that were waited for.
    pub child_times: Mutex<CpuTimes>,
    /// Bytes of vector of the largest resident set so far; informative.
    pub peak_resident: AtomicU64,
    /// When it began.
    pub started: Instant,
    /// Per-process state of other subsystems (interval and POSIX timers).
    pub timers: crate::timers::ProcessTimers,
}

#[derive(Default)]
struct ExitState {
    /// Decided; the threads may still be ending.
    decided: Option<ExitStatus>,
    /// All threads are gone.
    zombie: bool,
}

impl ThreadGroup {
    /// A process without threads yet. Its parent is told of it by [`super::ProcessTable::insert_group`].
    pub fn new(pid: Pid, handlers: Arc<SignalHandlers>, limits: Limits, exit_signal: i32) -> Arc<Self> {
        Arc::new(Self {
            pid,
            tasks: Mutex::default(),
            parent: Mutex::new(Weak::new()),
            children: Mutex::default(),
            pgid: AtomicI32::new(pid),
            sid: AtomicI32::new(pid),
            terminal: Mutex::default(),
            thread_ended: WaitQueue::new(),
            exec_claimed: AtomicBool::new(false),
            last_uid: AtomicU32::new(0),
            last_thread: Mutex::new(None),
            child_events: WaitQueue::new(),
            exited: WaitQueue::new(),
            signals: GroupSignals::new(handlers),
            limits,
            reaped: AtomicBool::new(false),
            exit: Mutex::default(),
            exit_signal: AtomicI32::new(exit_signal),
            is_subreaper: AtomicBool::new(false),
            has_execed: AtomicBool::new(false),
            is_protected: AtomicBool::new(false),
            dumpable: AtomicBool::new(true),
            oom_score_adj: AtomicI32::new(0),
            nice: AtomicI32::new(0),
            past_times: Mutex::default(),
            child_times: Mutex::default(),
            peak_resident: AtomicU64::new(0),
            started: Instant::now(),
            timers: crate::timers::ProcessTimers::default(),
        })
    }

    /// Whether it is the container's first process, with which all others end.
    pub const fn is_init(&self) -> bool {
        self.pid == 1
    }

    /// Whether signals without a handler do nothing to it.
    pub fn is_protected(&self) -> bool {
        self.is_protected.load(Ordering::Relaxed)
    }

    /// Its threads, the first one first as long as it lives.
    pub fn tasks(&self) -> Vec<Arc<Task>> {
        self.tasks.lock().clone()
    }

    /// The thread that stands for the process: the first one if it lives.
    pub fn leader(&self) -> Option<Arc<Task>> {
        self.tasks.lock().first().cloned()
    }

    /// How many threads it has.
    pub fn thread_count(&self) -> usize {
        self.tasks.lock().len()
    }

    pub(crate) fn add_task(&self, task: Arc<Task>) {
        self.tasks.lock().push(task);
    }

    /// Removes a thread; returns whether it was the last one.
    pub(crate) fn remove_task(&self, task: &Task) -> bool {
        let (removed, last) = {
            let mut tasks = self.tasks.lock();
            let position = tasks.iter().position(|other| std::ptr::eq(&raw const **other, task));
            let removed = position.map(|index| tasks.remove(index));
            (removed, tasks.is_empty())
        };
        self.last_uid.store(task.credentials().uid, Ordering::Relaxed);
        if last {
            *self.last_thread.lock() = Some((task.name(), task.credentials()));
        }
        removed.is_some() && last
    }

    /// `comm` and credentials of the process: its leader's, or those of its last thread if it is a zombie.
    pub fn name_and_credentials(&self) -> Option<(Vec<u8>, Arc<Credentials>)> {
        match self.leader() {
            Some(task) => Some((task.name(), task.credentials())),
            None => self.last_thread.lock().clone(),
        }
    }

    /// Makes the caller the one thread that ends the others.
    pub(crate) fn claim_exec(&self) -> bool {
        !self.exec_claimed.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn release_exec(&self) {
        self.exec_claimed.store(false, Ordering::Release);
    }

    /// Adds the processor time of a thread that has left the host.
    pub(crate) fn add_past_times(&self, user_ns: u64, system_ns: u64) {
        let mut times = self.past_times.lock();
        *times = times.plus(CpuTimes { user_ns, system_ns });
    }

    /// The parent; init has none.
    pub fn parent(&self) -> Option<Arc<Self>> {
        self.parent.lock().upgrade()
    }

    /// The parent's ID as `getppid` shows it.
    pub fn parent_pid(&self) -> Pid {
        self.parent().map_or(0, |parent| parent.pid)
    }

    pub(crate) fn set_parent(&self, parent: &Arc<Self>) {
        *self.parent.lock() = Arc::downgrade(parent);
    }

    /// Its children, zombies included.
    pub fn children(&self) -> Vec<Arc<Self>> {
        self.children.lock().clone()
    }

    pub(crate) fn add_child(&self, child: Arc<Self>) {
        self.children.lock().push(child);
    }

    pub(crate) fn remove_child(&self, child: &Arc<Self>) -> bool {
        let mut children = self.children.lock();
        let position = children.iter().position(|other| Arc::ptr_eq(other, child));
        let removed = position.map(|index| children.remove(index));
        drop(children);
        removed.is_some()
    }

    pub(crate) fn take_children(&self) -> Vec<Arc<Self>> {
        std::mem::take(&mut *self.children.lock())
    }

    /// Process group ID.
    pub fn pgid(&self) -> Pid {
        self.pgid.load(Ordering::Relaxed)
    }

    /// Session ID.
    pub fn sid(&self) -> Pid {
        self.sid.load(Ordering::Relaxed)
    }

    /// Sets the process group; the caller has judged it.
    pub fn set_pgid(&self, pgid: Pid) {
        self.pgid.store(pgid, Ordering::Relaxed);
    }

    /// The controlling terminal, as long as it is that of the session.
    pub fn controlling_terminal(&self) -> Option<Arc<Terminal>> {
        let terminal = self.terminal.lock().clone();
        terminal.filter(|terminal| terminal.session() == Some(self.sid()))
    }

    /// Sets the controlling terminal; the caller has judged it.
    pub(crate) fn set_controlling_terminal(&self, terminal: Option<Arc<Terminal>>) {
        let old = std::mem::replace(&mut *self.terminal.lock(), terminal);
        drop(old);
    }

    /// Sets the session; the caller has judged it. A terminal of another session is none of this process's any more.
    pub fn set_sid(&self, sid: Pid) {
        self.sid.store(sid, Ordering::Relaxed);
    }

    /// Processor time of all its threads, past ones included.
    pub fn cpu_times(&self) -> CpuTimes {
        let past = *self.past_times.lock();
        self.tasks().iter().fold(past, |sum, task| sum.plus(task.cpu_times()))
    }

    /// Whether the end has been decided.
    pub fn is_exiting(&self) -> bool {
        self.exit.lock().decided.is_some()
    }

    /// Whether nothing is left of it, not even a zombie's status.
    pub fn is_gone(&self) -> bool {
        self.reaped.load(Ordering::Relaxed)
    }

    /// How it ended, once all threads are gone.
    pub fn zombie_status(&self) -> Option<ExitStatus> {
        let exit = self.exit.lock();
        if exit.zombie { exit.decided } else { None }
    }

    /// Ends the process: all threads leave at their next trap boundary. The first decision holds.
    pub fn begin_exit(&self, status: ExitStatus) {
        let decided = {
            let mut exit = self.exit.lock();
            *exit.decided.get_or_insert(status)
        };
        for task in self.tasks() {
            task.end_with(decided);
        }
        // A stopped group must come to its end as well.
        self.signals.continued.wake(PollEvents::IN);
    }

    /// `SIGKILL` from outside the container, which init obeys too.
    pub fn kill(&self) {
        self.begin_exit(ExitStatus::Killed { signal: SIGKILL, core: false });
    }

    pub(crate) fn become_zombie(&self, fallback: ExitStatus) -> ExitStatus {
        let status = {
            let mut exit = self.exit.lock();
            exit.zombie = true;
            *exit.decided.get_or_insert(fallback)
        };
        self.exited.wake_all();
        status
    }

    /// Tells the parent: `SIGCHLD` as it wants it, and its `wait` calls.
    pub(crate) fn report_to_parent(&self, event: ChildEvent) {
        let Some(parent) = self.parent() else { return };
        let action = parent.signals.handlers().get(SIGCHLD);
        let wanted =
            matches!(event, ChildEvent::Exited(_)) || !action.flags().contains(SaFlags::SA_NOCLDSTOP);
        let number = if matches!(event, ChildEvent::Exited(_)) {
            self.exit_signal.load(Ordering::Relaxed)
        } else {
            SIGCHLD.number()
        };
        if wanted && let Some(signal) = Signal::new(number) {
            let _ = parent.send_signal(signal, self.child_info(signal, event));
        }
        parent.child_events.wake_all();
    }

    /// `CLD_*` code and status of an event, as `waitid` and `SIGCHLD` show them.
    pub fn child_code(event: ChildEvent) -> (i32, i32) {
        match event {
            ChildEvent::Exited(ExitStatus::Exited(status)) => (libc::CLD_EXITED, status.into()),
            ChildEvent::Exited(ExitStatus::Killed { signal, core }) => {
                (if core { libc::CLD_DUMPED } else { libc::CLD_KILLED }, signal.number())
            }
            ChildEvent::Stopped(signal) => (libc::CLD_STOPPED, signal.number()),
            ChildEvent::Continued => (libc::CLD_CONTINUED, SIGCONT.number()),
        }
    }

    fn child_info(&self, signal: Signal, event: ChildEvent) -> SigInfo {
        let (code, status) = Self::child_code(event);
        let uid = self.leader().map_or(0, |task| task.credentials().uid);
        let times = *self.past_times.lock();
        let ticks = |nanoseconds: u64| i64::try_from(nanoseconds / 10_000_000).unwrap_or(i64::MAX);
        let mut info =
            SigInfo::chld(code, self.pid, uid, status, ticks(times.user_ns), ticks(times.system_ns));
        info.si_signo = signal.number();
        info
    }
}
