//! What a request comes to: a reply, and the descriptors that go with it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use abi::errno::{self, Errno};
use wire::{Attr, HandleId, Reply, WalkStep};

use crate::connection::Server;
use crate::handles::{Node, Permit};

/// A reply, and the descriptors that go with it.
#[derive(Debug)]
pub struct Answer {
    pub reply: Reply,
    pub descriptor: Option<OwnedFd>,
    /// Behind that one: of files that were opened ahead.
    pub ahead: Vec<Spare>,
}

/// A descriptor beyond the few that any request opens; ours until it has been sent.
#[derive(Debug)]
pub struct Spare {
    pub descriptor: OwnedFd,
    pub _permit: Permit,
}

impl Answer {
    /// A reply with its descriptor, if it has one.
    pub fn new(reply: Reply, descriptor: Option<OwnedFd>) -> Self {
        Self { reply, descriptor, ahead: Vec::new() }
    }

    /// A reply without a descriptor.
    pub fn plain(reply: Reply) -> Self {
        Self::new(reply, None)
    }

    /// A descriptor and nothing else.
    pub fn descriptor(descriptor: OwnedFd) -> Self {
        Self::new(Reply::Done, Some(descriptor))
    }

    /// A file, from now on held.
    pub fn file(server: &Server, node: Arc<Node>, attr: Attr) -> Self {
        Self::plain(Reply::File { handle: server.handles.insert(node), attr })
    }
}

/// Sends an answer. When its descriptors cannot be sent (`ETOOMANYREFS`: the sentry reads no replies), the request
/// fails and what it made us hold is let go.
pub fn send(
    server: &Server,
    socket: &OwnedFd,
    answer: Result<Answer, Errno>,
    outgoing: &mut Vec<u8>,
) -> Result<(), Errno> {
    let answer = answer.unwrap_or_else(|error| Answer::plain(Reply::Failed(error)));
    answer.reply.encode(outgoing);
    let descriptors: Vec<BorrowedFd<'_>> = answer
        .descriptor
        .iter()
        .chain(answer.ahead.iter().map(|spare| &spare.descriptor))
        .map(AsFd::as_fd)
        .collect();
    match wire::send(socket.as_fd(), outgoing, &descriptors) {
        Err(error) if !descriptors.is_empty() && error != errno::EPIPE => {
            held_by(&answer.reply).into_iter().for_each(|handle| server.handles.remove(handle));
            Reply::Failed(error).encode(outgoing);
            wire::send(socket.as_fd(), outgoing, &[])
        }
        result => result,
    }
}

/// The handles a reply tells of.
fn held_by(reply: &Reply) -> Vec<HandleId> {
    match reply {
        Reply::File { handle, .. } | Reply::Attached { handle, .. } => vec![*handle],
        Reply::Walked { steps, .. } => steps.iter().map(|WalkStep { handle, .. }| *handle).collect(),
        Reply::Followed { steps, ahead, .. } => {
            steps.iter().chain(ahead.iter().flatten()).filter_map(|step| step.handle).collect()
        }
        _ => Vec::new(),
    }
}
