//! The running kernel as the control socket sees it.
//!
//! Key type: [`Live`]. Neighbours: `control.rs` states the interface, `sentry::sandbox` does the work.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use abi::signals::Signal;
use sentry::sandbox::{ProcessFiles, Sandbox, StartError};
use sentry::spec::{ProcessSpec, WindowSize};
use sentry::task;
use sentry::time::Instant;

use super::control::{
    ControlError, ControlHandler, ErrorKind, ExitStatus, GuestPid, ProcessInfo, ProcessStdio, SandboxStats,
    SignalTarget, SyscallCount,
};

/// A sandbox behind the control socket.
pub struct Live {
    sandbox: Arc<Sandbox>,
}

impl Live {
    /// Puts a sandbox behind the interface.
    pub fn new(sandbox: Arc<Sandbox>) -> Self {
        Self { sandbox }
    }
}

/// The kernel's name for a process's files.
pub fn files(stdio: ProcessStdio, preserved: Vec<OwnedFd>) -> ProcessFiles {
    match stdio {
        ProcessStdio::Files(three) => {
            ProcessFiles { inherited: three.into_iter().chain(preserved).collect(), terminal: None }
        }
        ProcessStdio::Terminal(slave) => ProcessFiles { inherited: preserved, terminal: Some(slave) },
    }
}

/// What the command line is told when a process could not be started.
pub fn start_error(error: &StartError) -> ControlError {
    let kind = match error {
        StartError::ProgramNotFound(_) => ErrorKind::ProgramNotFound,
        StartError::ProgramNotExecutable(..) => ErrorKind::ProgramNotExecutable,
        StartError::Invalid(_) => ErrorKind::Invalid,
        StartError::Ended => ErrorKind::NotFound,
        StartError::Failed(..) | StartError::Confinement(_) => ErrorKind::Internal,
    };
    ControlError::new(kind, error.to_string())
}

fn not_found(pid: GuestPid) -> ControlError {
    ControlError::new(ErrorKind::NotFound, format!("process {pid} does not exist"))
}

impl ControlHandler for Live {
    fn start(&self) -> Result<(), ControlError> {
        self.sandbox
            .start()
            .map_err(|_| ControlError::new(ErrorKind::NotFound, "the container was started already"))
    }

    fn exec(
        &self,
        process: ProcessSpec,
        stdio: ProcessStdio,
        preserved: Vec<OwnedFd>,
    ) -> Result<GuestPid, ControlError> {
        self.sandbox.exec(&process, files(stdio, preserved)).map_err(|error| start_error(&error))
    }

    fn signal(&self, target: SignalTarget, signal: i32) -> Result<(), ControlError> {
        let number = Signal::new(signal).ok_or_else(|| {
            ControlError::new(ErrorKind::Invalid, format!("signal {signal} does not exist"))
        })?;
        match target {
            SignalTarget::Process(pid) => self.sandbox.signal(pid, number).map_err(|_| not_found(pid)),
            SignalTarget::Foreground(pid) => {
                self.sandbox.signal_foreground(pid, number).map_err(|_| not_found(pid))
            }
            SignalTarget::All => self
                .sandbox
                .signal_all(number)
                .map_err(|_| ControlError::new(ErrorKind::NotFound, "no process is alive")),
        }
    }

    fn processes(&self) -> Result<Vec<ProcessInfo>, ControlError> {
        let now_unix_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let now = Instant::now();
        let lines = self.sandbox.processes().into_iter().map(|line| {
            let age_ns = now.0.saturating_sub(line.started_monotonic_ns);
            let started_unix_s = now_unix_ns.saturating_sub(age_ns.into()) / 1_000_000_000;
            ProcessInfo {
                pid: line.pid,
                ppid: line.parent,
                uid: line.uid,
                threads: u32::try_from(line.threads).unwrap_or(u32::MAX),
                started_unix_s: u64::try_from(started_unix_s).unwrap_or(u64::MAX),
                cpu_ns: line.times.user_ns + line.times.system_ns,
                tty: line.terminal,
                state: line.state,
                command: line.command,
            }
        });
        Ok(lines.collect())
    }

    fn pause(&self) -> Result<(), ControlError> {
        self.sandbox.pause();
        Ok(())
    }

    fn resume(&self) -> Result<(), ControlError> {
        self.sandbox.resume();
        Ok(())
    }

    fn wait(&self, pid: GuestPid) -> Result<ExitStatus, ControlError> {
        let status = self.sandbox.wait(pid).map_err(|_| not_found(pid))?;
        Ok(match status {
            task::ExitStatus::Exited(status) => ExitStatus::Exited(status),
            task::ExitStatus::Killed { signal, .. } => {
                ExitStatus::Signaled(u8::try_from(signal.number()).unwrap_or(u8::MAX))
            }
        })
    }

    fn resize(&self, pid: GuestPid, size: WindowSize) -> Result<(), ControlError> {
        self.sandbox.resize(pid, size).map_err(|_| not_found(pid))
    }

    fn syscall_counts(&self) -> Result<Vec<SyscallCount>, ControlError> {
        let counts = syscalls::table::TABLE.counts();
        let implemented = counts.made.into_iter().map(|(name, calls)| SyscallCount {
            name: name.into(),
            calls,
            unimplemented: 0,
        });
        let options = counts.options.into_iter().map(|(call, option, count)| SyscallCount {
            name: format!("{call}({option})"),
            calls: count,
            unimplemented: count,
        });
        let refused = counts.unknown.into_iter().map(|(number, count)| {
            let name = usize::try_from(number).ok().and_then(abi::numbers::name);
            let name = name.map_or_else(|| format!("syscall_{number}"), str::to_owned);
            SyscallCount { name, calls: count, unimplemented: count }
        });
        Ok(implemented.chain(options).chain(refused).collect())
    }

    fn stop(&self) {
        self.sandbox.stop();
    }

    fn stats(&self) -> Result<SandboxStats, ControlError> {
        let lines = self.sandbox.processes();
        Ok(SandboxStats {
            tasks: lines.iter().map(|line| line.threads as u64).sum(),
            cpu_ns: lines.iter().map(|line| line.times.user_ns + line.times.system_ns).sum(),
            memory_bytes: self.sandbox.mapped_bytes(),
        })
    }
}
