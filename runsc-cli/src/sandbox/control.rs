//! The control protocol between the short-lived commands and the sentry: the kernel's side of it.
//!
//! Key types: [`ControlHandler`] (what the kernel implements), [`Call`] and [`Answer`] (what travels),
//! [`ControlError`] (why something failed, as data that survives the socket).
//! Neighbours: `server.rs` and `client.rs` are the two ends, `channel.rs` frames the messages.
//! Invariant: nothing here does anything; all of it is what both sides agree upon.

use std::os::fd::OwnedFd;

use sentry::spec::{ProcessSpec, WindowSize};
use serde::{Deserialize, Serialize};

/// A process id inside the container; 1 is its first process.
pub type GuestPid = i32;

/// The container's first process.
pub const INIT: GuestPid = 1;

/// What the kernel offers to the command line. Every method may be called from any thread at any time.
pub trait ControlHandler: Send + Sync {
    /// Lets the container's first process run. Its executable has been found and loaded when the sandbox booted.
    fn start(&self) -> Result<(), ControlError>;
    /// Starts one more process in the container and returns its id. It must not have run when an error is returned.
    /// `preserved` are its descriptors from 3 upwards.
    fn exec(
        &self,
        process: ProcessSpec,
        stdio: ProcessStdio,
        preserved: Vec<OwnedFd>,
    ) -> Result<GuestPid, ControlError>;
    /// Sends a signal; [`ErrorKind::NotFound`] when nothing of that description is alive.
    fn signal(&self, target: SignalTarget, signal: i32) -> Result<(), ControlError>;
    /// A snapshot of all processes, by id.
    fn processes(&self) -> Result<Vec<ProcessInfo>, ControlError>;
    /// Stops every task at its next trap boundary; returns when they are all stopped.
    fn pause(&self) -> Result<(), ControlError>;
    /// Undoes `pause`.
    fn resume(&self) -> Result<(), ControlError>;
    /// Blocks until the process has ended and says how. For processes that `start` or `exec` began the status is kept
    /// until the sandbox ends, so that it can be asked for late and more than once.
    fn wait(&self, pid: GuestPid) -> Result<ExitStatus, ControlError>;
    /// The window of the terminal that the process was started on has a new size.
    fn resize(&self, pid: GuestPid, size: WindowSize) -> Result<(), ControlError>;
    /// How often each system call was made since the sandbox booted.
    fn syscall_counts(&self) -> Result<Vec<SyscallCount>, ControlError>;
    /// The process is about to end: nothing runs any more, and that is no failure.
    fn stop(&self);
    /// What the sandbox uses now.
    fn stats(&self) -> Result<SandboxStats, ControlError>;
}

/// The standard descriptors of a process, on the host's side.
#[derive(Debug)]
pub enum ProcessStdio {
    /// Three descriptors of any kind (files, pipes, sockets, terminals that somebody else controls).
    Files([OwnedFd; 3]),
    /// The slave of a host pseudo-terminal, already raw: the kernel's line discipline does the rest.
    Terminal(OwnedFd),
}

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignalTarget {
    /// One process.
    Process(GuestPid),
    /// Every process of the container.
    All,
    /// The foreground process group of the terminal that this process was started on; the process itself without one.
    Foreground(GuestPid),
}

/// One line of `ps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Its id.
    pub pid: GuestPid,
    /// Its parent's; 0 for the first process and for those that `exec` started.
    pub ppid: GuestPid,
    /// Effective user.
    pub uid: u32,
    /// Number of threads.
    pub threads: u32,
    /// Start, in seconds since 1970.
    pub started_unix_s: u64,
    /// User and system time together, in nanoseconds.
    pub cpu_ns: u64,
    /// Controlling terminal as `ps` prints it (`pts/0`), if any.
    pub tty: Option<String>,
    /// The letter of `/proc/PID/stat`.
    pub state: char,
    /// The command line, arguments separated by spaces; `[comm]` when there is none.
    pub command: String,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExitStatus {
    /// `exit(2)` with this status.
    Exited(u8),
    /// Killed by this signal.
    Signaled(u8),
}

impl ExitStatus {
    /// As a shell would report it: 128 + *n* for signal *n*.
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(status) => i32::from(status),
            Self::Signaled(signal) => 128 + i32::from(signal),
        }
    }
}

/// One line of `runsc syscalls --counts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyscallCount {
    /// Its name; `syscall_N` for a number Linux does not know.
    pub name: String,
    /// Calls made.
    pub calls: u64,
    /// Calls (or options of it) refused as unimplemented.
    pub unimplemented: u64,
}

/// What the sandbox uses, for `runsc events --stats`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxStats {
    /// Live application tasks.
    pub tasks: u64,
    /// CPU time of the applications, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory of the applications, in bytes.
    pub memory_bytes: u64,
}

/// Why a control call failed, in a form that the other side can act upon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    /// What to do about it.
    pub kind: ErrorKind,
    /// One line that names the object.
    pub message: String,
}

impl ControlError {
    /// An error of the given kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// What kind of failure a [`ControlError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// No such process, or the state does not permit it (not started, already ended).
    NotFound,
    /// The program of a process does not exist.
    ProgramNotFound,
    /// The program exists but cannot be executed.
    ProgramNotExecutable,
    /// The caller asked for something that makes no sense (a bad user name, a bad working directory).
    Invalid,
    /// Not implemented by this kernel.
    Unsupported,
    /// Anything else.
    Internal,
}

/// A request on the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    /// [`ControlHandler::start`].
    Start,
    /// [`ControlHandler::exec`]; one descriptor travels along for a terminal, otherwise three.
    Exec {
        /// What to run.
        process: Box<ProcessSpec>,
        /// Whether the process is killed when this connection ends before it.
        tied: bool,
    },
    /// [`ControlHandler::signal`].
    Signal {
        /// Whom.
        target: SignalTarget,
        /// Which.
        signal: i32,
    },
    /// [`ControlHandler::processes`].
    Processes,
    /// [`ControlHandler::pause`].
    Pause,
    /// [`ControlHandler::resume`].
    Resume,
    /// [`ControlHandler::wait`]; other calls may be made on the connection before it is answered.
    Wait {
        /// For whom.
        pid: GuestPid,
    },
    /// [`ControlHandler::resize`].
    Resize {
        /// Whose terminal.
        pid: GuestPid,
        /// Its new size.
        size: WindowSize,
    },
    /// [`ControlHandler::syscall_counts`].
    SyscallCounts,
    /// [`ControlHandler::stats`].
    Stats,
}

/// What a successful call returns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Nothing to say.
    Done,
    /// To [`Call::Exec`].
    Started(GuestPid),
    /// To [`Call::Processes`].
    Processes(Vec<ProcessInfo>),
    /// To [`Call::Wait`].
    Ended(ExitStatus),
    /// To [`Call::SyscallCounts`].
    SyscallCounts(Vec<SyscallCount>),
    /// To [`Call::Stats`].
    Stats(SandboxStats),
}

/// A call with the number that its answer will carry.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the caller.
    pub id: u64,
    /// What it asks.
    pub call: Call,
}

/// The answer to the request of the same number.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    /// The request's.
    pub id: u64,
    /// The outcome.
    pub result: Result<Answer, ControlError>,
}
