//! The command line's end of the control socket.
//!
//! Key type: [`Client`]. Neighbours: `control.rs` is the other end.
//! Invariants: single-threaded; calls are numbered, and an answer that comes early is kept for whoever asks for it.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use super::channel::{Channel, ChannelError};
use super::control::{Answer, Call, ControlError, ErrorKind, Reply, Request};

/// A connection to a sentry.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
    next: u64,
    early: BTreeMap<u64, Result<Answer, ControlError>>,
}

/// A call that was sent and not answered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

impl Client {
    /// Takes a connected socket.
    pub fn new(stream: UnixStream) -> Self {
        Self { channel: Channel::new(stream), next: 1, early: BTreeMap::new() }
    }

    /// To be polled for answers.
    pub fn stream(&self) -> &UnixStream {
        self.channel.stream()
    }

    /// Sends a call without waiting.
    pub fn send(&mut self, call: Call, fds: &[BorrowedFd<'_>]) -> Result<Ticket, ControlError> {
        let id = self.next;
        self.next += 1;
        self.channel.send(&Request { id, call }, fds).map_err(|error| gone(&error))?;
        Ok(Ticket(id))
    }

    /// Waits for the answer.
    pub fn receive(&mut self, ticket: Ticket) -> Result<Answer, ControlError> {
        loop {
            if let Some(result) = self.early.remove(&ticket.0) {
                return result;
            }
            self.receive_any()?;
        }
    }

    /// Waits for any answer and keeps it.
    pub fn receive_any(&mut self) -> Result<(), ControlError> {
        let (reply, _) = self.channel.receive::<Reply>().map_err(|error| gone(&error))?;
        self.early.insert(reply.id, reply.result);
        Ok(())
    }

    /// The answer, if it has been received.
    pub fn take(&mut self, ticket: Ticket) -> Option<Result<Answer, ControlError>> {
        self.early.remove(&ticket.0)
    }

    /// Throws away answers that nobody asked for.
    pub fn forget(&mut self) {
        self.early.clear();
    }

    /// Calls and waits.
    pub fn call(&mut self, call: Call) -> Result<Answer, ControlError> {
        let ticket = self.send(call, &[])?;
        self.receive(ticket)
    }
}

fn gone(error: &ChannelError) -> ControlError {
    match error {
        ChannelError::Closed => ControlError::new(ErrorKind::NotFound, "container not running"),
        error => ControlError::new(ErrorKind::Internal, format!("control socket: {error}")),
    }
}
