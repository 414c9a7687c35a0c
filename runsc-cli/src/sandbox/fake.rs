//! A kernel that runs no program but pretends a few, so that the command line can be tested alone.
//!
//! Key type: [`FakeKernel`]. Its programs: `exit N`, `sleep` (until a signal), `echo WORDS`, `cat` (input to output until
//! its end), `size` (prints its terminal's size whenever it changes). Any other does not exist; `/bin` is not executable.
//! Invariant: it keeps every promise of [`ControlHandler`] that a test relies on.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use sentry::spec::{ProcessSpec, WindowSize};

use super::control::{
    ControlError, ControlHandler, ErrorKind, ExitStatus, GuestPid, INIT, ProcessInfo, ProcessStdio,
    SandboxStats, SignalTarget, SyscallCount,
};

/// A pretended kernel.
pub struct FakeKernel {
    inner: Arc<Inner>,
    /// Held, because the gofer ends when it closes.
    _gofer: OwnedFd,
}

#[derive(Default)]
struct Inner {
    processes: Mutex<BTreeMap<GuestPid, Process>>,
    changed: Condvar,
}

struct Process {
    spec: ProcessSpec,
    started: bool,
    stdio: Option<ProcessStdio>,
    status: Option<ExitStatus>,
    size: Option<WindowSize>,
    paused: bool,
}

/// As [`super::kernel::boot_kernel`].
#[cfg(feature = "fake-kernel")]
pub fn boot(
    spec: &sentry::spec::SandboxSpec,
    fds: super::kernel::KernelFds,
) -> Result<Arc<dyn ControlHandler>, ControlError> {
    boot_process(spec.container.process.clone(), fds.stdio, fds.gofer)
}

/// A kernel with this first process.
pub fn boot_process(
    process: ProcessSpec,
    stdio: ProcessStdio,
    gofer: OwnedFd,
) -> Result<Arc<dyn ControlHandler>, ControlError> {
    let kernel = FakeKernel { inner: Arc::default(), _gofer: gofer };
    kernel.add(INIT, process, stdio)?;
    Ok(Arc::new(kernel))
}

impl Inner {
    fn processes(&self) -> MutexGuard<'_, BTreeMap<GuestPid, Process>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, pid: GuestPid, status: ExitStatus) {
        let mut processes = self.processes();
        for (other, process) in processes.iter_mut() {
            // The end of the first process is everybody's.
            if *other == pid || pid == INIT {
                process.status.get_or_insert(if *other == pid { status } else { ExitStatus::Signaled(9) });
            }
        }
        self.changed.notify_all();
    }
}

fn not_found() -> ControlError {
    ControlError::new(ErrorKind::NotFound, "no such process")
}

impl FakeKernel {
    fn add(&self, pid: GuestPid, spec: ProcessSpec, stdio: ProcessStdio) -> Result<(), ControlError> {
        match spec.args.first().map(String::as_str) {
            Some("exit" | "sleep" | "echo" | "cat" | "size") => {}
            Some("/bin") => return Err(ControlError::new(ErrorKind::ProgramNotExecutable, "is a directory")),
            _ => return Err(ControlError::new(ErrorKind::ProgramNotFound, "no such program")),
        }
        let process =
            Process { spec, started: false, stdio: Some(stdio), status: None, size: None, paused: false };
        self.inner.processes().insert(pid, process);
        Ok(())
    }

    fn begin(&self, pid: GuestPid) -> Result<(), ControlError> {
        let (spec, stdio) = {
            let mut processes = self.inner.processes();
            let process = processes.get_mut(&pid).ok_or_else(not_found)?;
            process.started = true;
            (process.spec.clone(), process.stdio.take().ok_or_else(not_found)?)
        };
        let inner = Arc::clone(&self.inner);
        thread::spawn(move || pretend(&inner, pid, &spec, stdio));
        Ok(())
    }
}

fn pretend(inner: &Inner, pid: GuestPid, spec: &ProcessSpec, stdio: ProcessStdio) {
    let (mut input, mut output) = match files(stdio) {
        Ok(files) => files,
        Err(_) => return inner.end(pid, ExitStatus::Exited(1)),
    };
    let words = &spec.args[1..];
    let status = match spec.args[0].as_str() {
        "exit" => words.first().and_then(|word| word.parse().ok()).unwrap_or(0),
        "echo" => u8::from(writeln!(output, "{}", words.join(" ")).is_err()),
        "cat" => u8::from(std::io::copy(&mut input, &mut output).is_err()),
        "size" => return report_sizes(inner, pid, &mut input, &mut output),
        // Sleeps until a signal ends it.
        _ => return,
    };
    drop((input, output));
    inner.end(pid, ExitStatus::Exited(status));
}

fn report_sizes(inner: &Inner, pid: GuestPid, input: &mut std::fs::File, output: &mut std::fs::File) {
    loop {
        let mut processes = inner.processes();
        loop {
            let Some(process) = processes.get_mut(&pid).filter(|process| process.status.is_none()) else {
                return;
            };
            if let Some(size) = process.size.take() {
                drop(processes);
                let _ = writeln!(output, "{} {}", size.rows, size.columns);
                break;
            }
            processes = inner.changed.wait(processes).unwrap_or_else(PoisonError::into_inner);
        }
        let mut byte = [0];
        if input.read(&mut byte).unwrap_or(0) == 0 || byte == *b"q" {
            return inner.end(pid, ExitStatus::Exited(0));
        }
    }
}

fn files(stdio: ProcessStdio) -> std::io::Result<(std::fs::File, std::fs::File)> {
    match stdio {
        ProcessStdio::Files([input, output, _]) => Ok((input.into(), output.into())),
        ProcessStdio::Terminal(terminal) => {
            let copy: OwnedFd = terminal.try_clone()?;
            Ok((terminal.into(), copy.into()))
        }
    }
}

impl ControlHandler for FakeKernel {
    fn start(&self) -> Result<(), ControlError> {
        self.begin(INIT)
    }

    fn exec(
        &self,
        process: ProcessSpec,
        stdio: ProcessStdio,
        _preserved: Vec<OwnedFd>,
    ) -> Result<GuestPid, ControlError> {
        let pid = self.inner.processes().keys().max().map_or(INIT, |last| last + 1);
        self.add(pid, process, stdio)?;
        self.begin(pid)?;
        Ok(pid)
    }

    fn signal(&self, target: SignalTarget, signal: i32) -> Result<(), ControlError> {
        let targets: Vec<GuestPid> = {
            let processes = self.inner.processes();
            let alive = processes.iter().filter(|(_, process)| process.status.is_none()).map(|(pid, _)| *pid);
            match target {
                SignalTarget::All => alive.collect(),
                SignalTarget::Process(pid) | SignalTarget::Foreground(pid) => {
                    alive.filter(|p| *p == pid).collect()
                }
            }
        };
        if targets.is_empty() {
            return Err(not_found());
        }
        let ignored = [libc::SIGWINCH, libc::SIGCONT, libc::SIGCHLD, libc::SIGURG, libc::SIGTSTP];
        if !ignored.contains(&signal) {
            for pid in targets {
                self.inner.end(pid, ExitStatus::Signaled(u8::try_from(signal).unwrap_or(0)));
            }
        }
        Ok(())
    }

    fn processes(&self) -> Result<Vec<ProcessInfo>, ControlError> {
        let processes = self.inner.processes();
        let alive = processes.iter().filter(|(_, process)| process.status.is_none());
        Ok(alive
            .map(|(pid, process)| ProcessInfo {
                pid: *pid,
                ppid: 0,
                uid: process.spec.uid,
                threads: 1,
                started_unix_s: 0,
                cpu_ns: 0,
                tty: process.spec.terminal.then(|| "pts/0".to_owned()),
                state: if process.paused { 'T' } else { 'S' },
                command: process.spec.args.join(" "),
            })
            .collect())
    }

    fn pause(&self) -> Result<(), ControlError> {
        self.inner.processes().values_mut().for_each(|process| process.paused = true);
        Ok(())
    }

    fn resume(&self) -> Result<(), ControlError> {
        self.inner.processes().values_mut().for_each(|process| process.paused = false);
        Ok(())
    }

    fn wait(&self, pid: GuestPid) -> Result<ExitStatus, ControlError> {
        let mut processes = self.inner.processes();
        loop {
            if let Some(status) = processes.get(&pid).ok_or_else(not_found)?.status {
                return Ok(status);
            }
            processes = self.inner.changed.wait(processes).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn resize(&self, pid: GuestPid, size: WindowSize) -> Result<(), ControlError> {
        self.inner.processes().get_mut(&pid).ok_or_else(not_found)?.size = Some(size);
        self.inner.changed.notify_all();
        Ok(())
    }

    fn syscall_counts(&self) -> Result<Vec<SyscallCount>, ControlError> {
        Ok(vec![SyscallCount { name: "exit".to_owned(), calls: 1, unimplemented: 0 }])
    }

    fn stop(&self) {}

    fn stats(&self) -> Result<SandboxStats, ControlError> {
        Ok(SandboxStats::default())
    }
}
