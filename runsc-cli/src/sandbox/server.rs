//! The sentry's end of the control socket.
//!
//! Key type: [`Server`]. Neighbours: `control.rs` is the vocabulary, `boot.rs` starts it, `client.rs` is the other end.
//! Invariants: the socket lives in a directory that only its owner can enter, so whoever connects may do anything to
//! the sandbox; a connection that started a process and goes away before the process has ended takes it along.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use sentry::spec::ProcessSpec;

use super::channel::{Channel, ChannelError};
use super::control::{
    Answer, Call, ControlError, ControlHandler, ErrorKind, GuestPid, ProcessStdio, Reply, Request,
    SignalTarget,
};

/// Stack of a control thread: it parses JSON and calls the kernel, nothing deep.
const CONTROL_STACK_BYTES: usize = 256 * 1024;

/// Serves connections, each with a thread of its own.
#[derive(Clone)]
pub struct Server {
    handler: Arc<dyn ControlHandler>,
    /// Waits that are not answered yet.
    waits: Arc<(Mutex<usize>, Condvar)>,
}

impl Server {
    /// A server for the kernel.
    pub fn new(handler: Arc<dyn ControlHandler>) -> Self {
        Self { handler, waits: Arc::default() }
    }

    /// Accepts a connection that waits.
    pub fn accept(&self, listener: &UnixListener) {
        match listener.accept() {
            Ok((stream, _)) => self.connect(stream),
            Err(error) => {
                tracing::warn!(%error, "control socket: accept");
                if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::ECONNABORTED)) {
                    // Out of descriptors or memory: trying again at once would only spin.
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    /// Serves one connection on a thread of its own.
    pub fn connect(&self, stream: UnixStream) {
        let connection = Connection {
            channel: Arc::new(Channel::new(stream)),
            server: self.clone(),
            tied: Arc::default(),
        };
        if let Err(error) = spawn_small("connection", move || connection.run()) {
            tracing::warn!(%error, "control: no thread; the connection is dropped");
        }
    }

    /// Before the process ends: lets those who wait for a process read their answers.
    pub fn drain(&self) {
        let (count, changed) = &*self.waits;
        let guard = count.lock().unwrap_or_else(PoisonError::into_inner);
        // All processes have ended, so all waits are about to be answered; a caller who does not read is not waited for.
        drop(changed.wait_timeout_while(guard, Duration::from_secs(1), |left| *left > 0));
    }

    fn count_wait(&self, begins: bool) {
        let (count, changed) = &*self.waits;
        let mut guard = count.lock().unwrap_or_else(PoisonError::into_inner);
        *guard = if begins { guard.saturating_add(1) } else { guard.saturating_sub(1) };
        changed.notify_all();
    }
}

/// Starts a thread with a small stack.
pub fn spawn_small(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).stack_size(CONTROL_STACK_BYTES).spawn(body).map(drop)
}

/// One client.
struct Connection {
    channel: Arc<Channel>,
    server: Server,
    /// Processes that end with this connection.
    tied: Arc<Mutex<Vec<GuestPid>>>,
}

impl Connection {
    fn run(self) {
        loop {
            match self.channel.receive::<Request>() {
                Ok((request, fds)) => self.handle(request, fds),
                Err(ChannelError::Closed) => break,
                Err(error) => {
                    tracing::warn!(%error, "control: connection dropped");
                    break;
                }
            }
        }
        let tied = std::mem::take(&mut *self.tied.lock().unwrap_or_else(PoisonError::into_inner));
        for pid in tied {
            // An error means that it has just ended by itself.
            drop(self.server.handler.signal(SignalTarget::Process(pid), libc::SIGKILL));
        }
    }

    fn handle(&self, Request { id, call }: Request, fds: Vec<OwnedFd>) {
        if let Call::Wait { pid } = call {
            let (channel, server, tied) = (self.channel.clone(), self.server.clone(), self.tied.clone());
            server.count_wait(true);
            let started = spawn_small("control-wait", move || {
                let result = server.handler.wait(pid).map(Answer::Ended);
                tied.lock().unwrap_or_else(PoisonError::into_inner).retain(|p| *p != pid);
                answer(&channel, id, result);
                server.count_wait(false);
            });
            if let Err(error) = started {
                tracing::warn!(%error, "control: no thread; the wait is not answered");
                self.server.count_wait(false);
            }
            return;
        }
        answer(&self.channel, id, self.perform(call, fds));
    }

    fn perform(&self, call: Call, fds: Vec<OwnedFd>) -> Result<Answer, ControlError> {
        let handler = &self.server.handler;
        match call {
            Call::Start => handler.start().map(|()| Answer::Done),
            Call::Exec { process, tied } => {
                let (stdio, preserved) = files_of(&process, fds)?;
                let pid = handler.exec(*process, stdio, preserved)?;
                if tied {
                    self.tied.lock().unwrap_or_else(PoisonError::into_inner).push(pid);
                }
                Ok(Answer::Started(pid))
            }
            Call::Signal { target, signal } => handler.signal(target, signal).map(|()| Answer::Done),
            Call::Processes => handler.processes().map(Answer::Processes),
            Call::Pause => handler.pause().map(|()| Answer::Done),
            Call::Resume => handler.resume().map(|()| Answer::Done),
            Call::Wait { pid } => handler.wait(pid).map(Answer::Ended),
            Call::Resize { pid, size } => handler.resize(pid, size).map(|()| Answer::Done),
            Call::SyscallCounts => handler.syscall_counts().map(Answer::SyscallCounts),
            Call::Stats => handler.stats().map(Answer::Stats),
        }
    }
}

/// A process's standard streams, and the descriptors behind them, as many as it says.
fn files_of(
    process: &ProcessSpec,
    mut fds: Vec<OwnedFd>,
) -> Result<(ProcessStdio, Vec<OwnedFd>), ControlError> {
    let count = fds.len();
    let wrong = || ControlError::new(ErrorKind::Invalid, format!("exec came with {count} descriptors"));
    let standard = if process.terminal { 1 } else { 3 };
    let preserved = usize::try_from(process.preserved_fds).unwrap_or(usize::MAX);
    if count.checked_sub(standard) != Some(preserved) {
        return Err(wrong());
    }
    let preserved = fds.split_off(standard);
    let stdio = if process.terminal {
        let [terminal] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| wrong())?;
        ProcessStdio::Terminal(terminal)
    } else {
        ProcessStdio::Files(<[OwnedFd; 3]>::try_from(fds).map_err(|_| wrong())?)
    };
    Ok((stdio, preserved))
}

fn answer(channel: &Channel, id: u64, result: Result<Answer, ControlError>) {
    if let Err(error) = channel.send(&Reply { id, result }, &[]) {
        tracing::debug!(%error, "control: the caller did not wait for its answer");
    }
}

#[cfg(test)]
mod tests;
