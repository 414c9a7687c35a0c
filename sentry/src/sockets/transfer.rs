//! Sends and receives that may have to wait: the counterpart of `vfs::{Read, Write}` for calls with flags, addresses
//! and control messages.
//!
//! Bytes already moved beat any error. A wait ends with `EAGAIN` at the deadline that `SO_SNDTIMEO` or `SO_RCVTIMEO` sets,
//! and is then not restarted after a signal (`man 7 signal`).

use std::sync::Arc;

use abi::errno::{EAGAIN, EFAULT, EPIPE, SysResult};
use abi::signal_info::SigInfo;
use abi::signals::SIGPIPE;
use abi::sockets::MsgFlags;

use super::{Ancillary, Outgoing, ReceiveFlags, Received, Socket, socket_of};
use crate::task::Task;
use crate::time::Instant;
use crate::vfs::{Direction, FileDescription, UserBuffers};
use crate::wait::{CallResult, Failure, PollEvents, Restart, WaitError};

/// Largest piece of a stream, and room for the largest message, that is copied at once.
const PIECE: usize = 256 << 10;

/// Whether a call may wait.
fn may_wait(file: &FileDescription, flags: MsgFlags) -> bool {
    !flags.contains(MsgFlags::MSG_DONTWAIT) && !file.is_nonblocking()
}

/// Waits on a socket for as long as its timeout allows.
///
/// # Errors
/// What `attempt` gives; `EAGAIN` at the deadline; interrupted.
pub async fn wait_for<T>(
    task: &Task,
    socket: &Socket,
    direction: Direction,
    attempt: impl FnMut() -> Option<SysResult<T>>,
) -> CallResult<T> {
    let limit = socket.limit_ns(direction);
    let deadline = limit.map(|limit| Instant::now().after_ns(limit));
    let mask = match direction {
        Direction::Read => PollEvents::READABLE | PollEvents::RDHUP,
        Direction::Write => PollEvents::WRITABLE,
    };
    match task.wait_on(socket.ops().queue(), mask, deadline, attempt).await {
        Ok(result) => result.map_err(Failure::Error),
        Err(WaitError::TimedOut) => Err(EAGAIN.into()),
        Err(WaitError::Interrupted) if limit.is_none() => Err(Failure::Restart(Restart::Sys)),
        Err(WaitError::Interrupted) => Err(Failure::Restart(Restart::Never)),
    }
}

/// Bytes that were moved beat a failure.
fn conclude(result: CallResult<usize>, done: usize) -> CallResult<usize> {
    match result {
        Err(_) if done != 0 => Ok(done),
        result => result,
    }
}

/// A send in progress.
pub struct Send {
    file: Arc<FileDescription>,
    buffers: UserBuffers,
    flags: MsgFlags,
    to: Option<Vec<u8>>,
    ancillary: Ancillary,
    done: usize,
    /// Bytes copied from the user and not taken yet.
    pending: Vec<u8>,
}

impl Send {
    /// A send.
    ///
    /// # Errors
    /// `ENOTSOCK`
    pub fn new(
        file: Arc<FileDescription>,
        buffers: UserBuffers,
        flags: MsgFlags,
        to: Option<Vec<u8>>,
        ancillary: Ancillary,
    ) -> SysResult<Self> {
        socket_of(&file)?;
        Ok(Self { file, buffers, flags, to, ancillary, done: 0, pending: Vec::new() })
    }

    /// Sends what there is room for. `None`: not all, and the rest may be awaited.
    pub fn attempt(&mut self, task: &Task) -> Option<SysResult<usize>> {
        loop {
            match self.piece(task) {
                Ok(()) => {}
                Err(EAGAIN) if may_wait(&self.file, self.flags) => return None,
                Err(_) if self.done != 0 => return Some(Ok(self.done)),
                Err(error) => {
                    if error == EPIPE
                        && !self.flags.contains(MsgFlags::MSG_NOSIGNAL)
                        && self.file.ops.broken_pipe_signals()
                    {
                        let _ = task.send_signal(SIGPIPE, SigInfo::kernel(SIGPIPE));
                    }
                    return Some(Err(error));
                }
            }
            if self.done >= self.buffers.total() || task.is_ending() {
                return Some(Ok(self.done));
            }
        }
    }

    fn piece(&mut self, task: &Task) -> SysResult<()> {
        if self.pending.is_empty() {
            self.fill(task)?;
        }
        let file = Arc::clone(&self.file);
        let ops = socket_of(&file)?.ops();
        let message = &mut Outgoing {
            bytes: &self.pending,
            length: self.buffers.total() - self.done,
            to: self.to.as_deref(),
            ancillary: &mut self.ancillary,
        };
        let sent = ops.send(Some(task), message)?;
        self.done += sent;
        if sent < self.pending.len() {
            self.pending.drain(..sent);
        } else {
            self.pending.clear();
        }
        // With the first bytes went what goes along.
        self.ancillary.rights.clear();
        Ok(())
    }

    /// Copies the next piece from the user.
    fn fill(&mut self, task: &Task) -> SysResult<()> {
        let wanted = (self.buffers.total() - self.done).min(PIECE);
        let mut bytes = vec![0; wanted];
        let copied = self.buffers.copy_in(task, self.done, &mut bytes);
        let whole = socket_of(&self.file)?.ops().keeps_boundaries();
        if copied < wanted && (copied == 0 || whole) {
            return Err(EFAULT);
        }
        bytes.truncate(copied);
        self.pending = bytes;
        Ok(())
    }

    /// Waits until all is sent.
    ///
    /// # Errors
    /// The socket's; interrupted before anything was sent.
    pub async fn finish(mut self, task: &Task) -> CallResult<usize> {
        let file = Arc::clone(&self.file);
        let socket = socket_of(&file)?;
        let result = wait_for(task, socket, Direction::Write, || self.attempt(task)).await;
        conclude(result, self.done)
    }
}

/// A receive in progress.
pub struct Receive {
    file: Arc<FileDescription>,
    buffers: UserBuffers,
    flags: MsgFlags,
    /// What came with the bytes.
    pub received: Received,
    done: usize,
}

impl Receive {
    /// A receive.
    ///
    /// # Errors
    /// `ENOTSOCK`
    pub fn new(file: Arc<FileDescription>, buffers: UserBuffers, flags: MsgFlags) -> SysResult<Self> {
        socket_of(&file)?;
        Ok(Self { file, buffers, flags, received: Received::default(), done: 0 })
    }

    /// Receives what is there. `None`: not enough, and more may be awaited.
    pub fn attempt(&mut self, task: &Task) -> Option<SysResult<usize>> {
        loop {
            match self.piece(task) {
                Ok(()) => {}
                Err(EAGAIN) if self.done >= self.target() => return Some(Ok(self.done)),
                Err(EAGAIN) if may_wait(&self.file, self.flags) => return None,
                Err(_) if self.done != 0 => return Some(Ok(self.done)),
                Err(error) => return Some(Err(error)),
            }
            let full = self.done >= self.buffers.total();
            if full || self.received.ended || task.is_ending() {
                return Some(Ok(self.result()));
            }
        }
    }

    /// How many bytes a stream gives at least, if it can.
    fn target(&self) -> usize {
        let total = self.buffers.total();
        if self.flags.contains(MsgFlags::MSG_WAITALL) {
            return total.max(1);
        }
        let low = socket_of(&self.file).map_or(1, |socket| socket.ops().common().low_water());
        low.min(total).max(1)
    }

    fn result(&self) -> usize {
        let whole = socket_of(&self.file).is_ok_and(|socket| socket.ops().keeps_boundaries());
        let asks_length = self.flags.contains(MsgFlags::MSG_TRUNC) && whole;
        if asks_length { self.received.length } else { self.done }
    }

    fn piece(&mut self, task: &Task) -> SysResult<()> {
        let wanted = (self.buffers.total() - self.done).min(PIECE);
        let mut bytes = vec![0; wanted];
        let flags = ReceiveFlags {
            peek: self.flags.contains(MsgFlags::MSG_PEEK),
            waits: may_wait(&self.file, self.flags),
            satisfied: self.done >= self.target(),
        };
        let file = Arc::clone(&self.file);
        let count = socket_of(&file)?.ops().receive(&mut bytes, flags, &mut self.received)?;
        let bytes = bytes.get(..count).unwrap_or_default();
        let copied = self.buffers.copy_out(task, self.done, bytes);
        self.done += copied;
        if copied < count {
            self.received.ended = true;
            return Err(EFAULT);
        }
        Ok(())
    }

    /// Waits until there is something, or all with `MSG_WAITALL`. What came with it is returned in any case.
    ///
    /// # Errors
    /// The socket's; interrupted before anything was received.
    pub async fn finish(mut self, task: &Task) -> (CallResult<usize>, Received) {
        let file = Arc::clone(&self.file);
        let result = match socket_of(&file) {
            Ok(socket) => wait_for(task, socket, Direction::Read, || self.attempt(task)).await,
            Err(error) => Err(error.into()),
        };
        (conclude(result, self.done), self.received)
    }
}
