//! Bytes and messages between Unix sockets.
//!
//! The order in which ends, errors and missing peers are judged is Linux's; it differs between streams and messages.

use std::sync::Arc;

use abi::errno::{
    EAGAIN, ECONNREFUSED, EINVAL, EISCONN, EMSGSIZE, ENOTCONN, EOPNOTSUPP, EPERM, EPIPE, SysResult,
};
use abi::sockets::{MsgFlags, SOCK_SEQPACKET, Ucred};

use super::flight::discard;
use super::message::Message;
use super::names::{Address, Found};
use super::{Role, State, UnixSocket};
use crate::sockets::{Ancillary, DATAGRAM_MAX, Outgoing, ReceiveFlags, Received};
use crate::task::Task;
use crate::wait::PollEvents;

/// A stream's bytes travel in pieces of at most so many.
const STREAM_PIECE: usize = 32 << 10;
/// What Linux shows as the sender where nobody asked to know it when the message was sent.
const NOBODY: Ucred = Ucred { pid: 0, uid: 65534, gid: 65534 };
/// What a send buffer must hold beyond a datagram's bytes.
const DATAGRAM_RESERVE: usize = 32;

/// A message before it is in a queue.
struct Draft<'a> {
    task: Option<&'a Task>,
    bytes: &'a [u8],
    ancillary: &'a mut Ancillary,
}

impl UnixSocket {
    pub(super) fn send_stream(&self, task: Option<&Task>, message: &mut Outgoing<'_>) -> SysResult<usize> {
        let peer = self.stream_peer(message.to.is_some())?;
        let mut sent = 0;
        while sent < message.bytes.len() {
            let piece = STREAM_PIECE.min(self.sender.options.send_buffer() / 2);
            let rest = message.bytes.get(sent..).unwrap_or_default();
            let bytes = rest.get(..piece).unwrap_or(rest);
            let draft = Draft { task, bytes, ancillary: &mut *message.ancillary };
            match self.send_piece(&peer, draft) {
                Ok(()) => sent += bytes.len(),
                Err(_) if sent != 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    fn stream_peer(&self, has_address: bool) -> SysResult<Arc<Self>> {
        let state = self.state.lock();
        let peer = match &state.role {
            Role::Connected(_) if has_address => return Err(EISCONN),
            _ if has_address => return Err(EOPNOTSUPP),
            Role::Connected(peer) => peer,
            _ => return Err(ENOTCONN),
        };
        if state.send_shut { Err(EPIPE) } else { Ok(Arc::clone(peer)) }
    }

    /// The errors that end any send: one that is pending, the end of sending, no room.
    fn check_sending(&self) -> SysResult<()> {
        let mut state = self.state.lock();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        if state.send_shut {
            return Err(EPIPE);
        }
        if self.sender.has_room() { Ok(()) } else { Err(EAGAIN) }
    }

    fn send_piece(&self, peer: &Self, draft: Draft<'_>) -> SysResult<()> {
        self.check_sending()?;
        self.deliver(
            peer,
            draft,
            |theirs| if theirs.dead || theirs.receive_shut { Err(EPIPE) } else { Ok(()) },
        )
    }

    /// Puts a message into another socket's queue if `judge` agrees.
    fn deliver(
        &self,
        to: &Self,
        draft: Draft<'_>,
        judge: impl FnOnce(&mut State) -> SysResult<()>,
    ) -> SysResult<()> {
        let from = self.state.lock().name.clone();
        let asked = self.sender.options.pass_credentials() || to.sender.options.pass_credentials();
        let bytes = draft.bytes.to_vec();
        let has_rights = !draft.ancillary.rights.is_empty();
        if has_rights {
            self.table.collect_in_turn();
        }
        {
            let mut flight = has_rights.then(|| self.table.flight.lock());
            let mut theirs = to.state.lock();
            judge(&mut theirs)?;
            let rights = match &mut flight {
                Some(flight) => flight.enter(&mut draft.ancillary.rights, draft.task)?,
                None => None,
            };
            let said = draft.ancillary.credentials;
            let credentials =
                if asked || theirs.pending { said.or_else(|| draft.task.map(sender_of)) } else { said };
            // Charged only now: giving a charge back announces room.
            let charge = self.sender.charge(bytes.len());
            theirs.with_rights += usize::from(rights.is_some());
            theirs.inbox.push_back(Message { bytes, consumed: 0, rights, credentials, from, charge });
        }
        to.queue().wake(PollEvents::READABLE);
        Ok(())
    }

    pub(super) fn send_message(&self, task: Option<&Task>, message: &mut Outgoing<'_>) -> SysResult<usize> {
        let sequenced = self.kind == SOCK_SEQPACKET;
        if sequenced {
            self.check_sequenced()?;
            message.to = None;
        }
        let address = message.to.map(Address::parse).transpose()?;
        let peer = if address.is_none() { Some(self.peer().ok_or(ENOTCONN)?) } else { None };
        self.bind_if_passing_credentials()?;
        let limit = self.sender.options.send_buffer().saturating_sub(DATAGRAM_RESERVE).min(DATAGRAM_MAX);
        if message.length > limit {
            return Err(EMSGSIZE);
        }
        self.check_sending()?;
        let to = match (peer, address) {
            (Some(peer), _) => peer,
            (None, Some(address)) => {
                let task = task.ok_or(EINVAL)?;
                match self.table.look_up(task, &address, self.kind)? {
                    Found::Inside(to) => to,
                    Found::Outside(inode) => return self.send_datagram_to_host(task, &inode, message),
                }
            }
            (None, None) => return Err(ENOTCONN),
        };
        let draft = Draft { task, bytes: message.bytes, ancillary: &mut *message.ancillary };
        let result = self.deliver(&to, draft, |theirs| self.judge_receiver(theirs, &to));
        if result == Err(ECONNREFUSED) {
            self.lose_dead_peer(&to);
        }
        result.map(|()| message.length)
    }

    fn check_sequenced(&self) -> SysResult<()> {
        let mut state = self.state.lock();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        if matches!(state.role, Role::Connected(_)) { Ok(()) } else { Err(ENOTCONN) }
    }

    /// Whether a receiver takes a message from this socket now.
    fn judge_receiver(&self, theirs: &mut State, to: &Self) -> SysResult<()> {
        let linked_back = match &theirs.role {
            Role::Connected(back) if back.id == self.id => true,
            Role::Connected(_) => return Err(EPERM),
            _ => false,
        };
        if theirs.dead {
            return Err(if self.kind == SOCK_SEQPACKET { EPIPE } else { ECONNREFUSED });
        }
        if theirs.receive_shut {
            return Err(EPIPE);
        }
        if to.id != self.id && !linked_back && theirs.is_full() {
            Self::wake_when_roomy(theirs, &self.me);
            return Err(EAGAIN);
        }
        Ok(())
    }

    /// The peer of a datagram socket has ended: it is the peer no more.
    fn lose_dead_peer(&self, dead: &Self) {
        let lost = {
            let mut state = self.state.lock();
            match &state.role {
                Role::Connected(peer) if peer.id == dead.id => {
                    Some(std::mem::replace(&mut state.role, Role::Idle))
                }
                _ => None,
            }
        };
        if lost.is_some() {
            self.datagrams_disconnected(dead);
        }
    }

    pub(super) fn receive_message(
        &self,
        buffer: &mut [u8],
        flags: ReceiveFlags,
        received: &mut Received,
    ) -> SysResult<usize> {
        let (message, files, waiting, count) = {
            let (mut flight, mut state) = self.lock_for_receive();
            if self.kind == SOCK_SEQPACKET && !matches!(state.role, Role::Connected(_)) {
                return Err(ENOTCONN);
            }
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            let Some(message) = state.inbox.front() else {
                let ended = state.receive_shut && (self.kind == SOCK_SEQPACKET || flags.waits);
                received.ended = true;
                return if ended { Ok(0) } else { Err(EAGAIN) };
            };
            let count = buffer.len().min(message.bytes.len());
            copy(&message.bytes, buffer);
            received.length = message.bytes.len();
            received.flags.set(MsgFlags::MSG_TRUNC, count < message.bytes.len());
            self.note_sender(message, received);
            if flags.peek {
                received.rights.extend(message.rights.iter().flat_map(|rights| rights.files.clone()));
                received.ended = true;
                return Ok(count);
            }
            let mut message = state.inbox.pop_front();
            let rights = message.as_mut().and_then(|message| message.rights.take());
            let files = state.land(flight.as_deref_mut(), rights);
            (message, files, std::mem::take(&mut state.waiting), count)
        };
        received.rights.extend(files);
        received.ended = true;
        drop(message);
        Self::announce_room(waiting);
        Ok(count)
    }

    /// Notes who sent what is being received.
    fn note_sender(&self, message: &Message, received: &mut Received) {
        if received.from.is_none() {
            received.from = Some(message.from.as_ref().map_or_else(Vec::new, |name| name.address.clone()));
        }
        if self.sender.options.pass_credentials() {
            received.credentials = Some(message.credentials.unwrap_or(NOBODY));
        }
    }

    pub(super) fn receive_stream(
        &self,
        buffer: &mut [u8],
        flags: ReceiveFlags,
        received: &mut Received,
    ) -> SysResult<usize> {
        let mut done = Vec::new();
        let count = {
            let (mut flight, mut state) = self.lock_for_receive();
            if !matches!(state.role, Role::Connected(_)) {
                return Err(EINVAL);
            }
            if state.inbox.is_empty() {
                if flags.satisfied {
                    // What is pending is for the next call.
                    return Err(EAGAIN);
                }
                if let Some(error) = state.error.take() {
                    return Err(error);
                }
                received.ended = state.receive_shut;
                return if state.receive_shut { Ok(0) } else { Err(EAGAIN) };
            }
            if flags.peek {
                self.peek_stream(&state, buffer, received)
            } else {
                self.take_stream(&mut state, flight.as_deref_mut(), buffer, received, &mut done)
            }
        };
        received.length += count;
        discard(done, Vec::new());
        Ok(count)
    }

    /// Whether bytes may be received together with those before them: never those of different senders.
    fn continues(&self, message: &Message, received: &Received) -> bool {
        match received.credentials {
            Some(sender) if self.sender.options.pass_credentials() => {
                sender == message.credentials.unwrap_or(NOBODY)
            }
            _ => true,
        }
    }

    fn peek_stream(&self, state: &State, buffer: &mut [u8], received: &mut Received) -> usize {
        let mut count = 0;
        for message in &state.inbox {
            if !self.continues(message, received) {
                break;
            }
            self.note_sender(message, received);
            count += copy(message.rest(), buffer.get_mut(count..).unwrap_or_default());
            if let Some(rights) = &message.rights {
                received.rights.extend(rights.files.iter().cloned());
                break;
            }
            if count == buffer.len() {
                break;
            }
        }
        received.ended = true;
        count
    }

    fn take_stream(
        &self,
        state: &mut State,
        mut flight: Option<&mut super::Flight>,
        buffer: &mut [u8],
        received: &mut Received,
        done: &mut Vec<Message>,
    ) -> usize {
        let mut count = 0;
        while let Some(message) = state.inbox.front_mut() {
            if !self.continues(message, received) {
                received.ended = true;
                break;
            }
            self.note_sender(message, received);
            let copied = copy(message.rest(), buffer.get_mut(count..).unwrap_or_default());
            count += copied;
            message.consumed += copied;
            // Descriptors come with the first of their bytes.
            let rights = message.rights.take();
            let partial = !message.rest().is_empty();
            received.rights.extend(state.land(flight.as_deref_mut(), rights));
            if partial {
                break;
            }
            done.extend(state.inbox.pop_front());
            if !received.rights.is_empty() {
                received.ended = true;
                break;
            }
            if count == buffer.len() {
                break;
            }
        }
        count
    }
}

/// Copies what fits; how much that is.
fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let count = from.len().min(to.len());
    if let (Some(from), Some(to)) = (from.get(..count), to.get_mut(..count)) {
        to.copy_from_slice(from);
    }
    count
}

/// A task as `SCM_CREDENTIALS` shows it if it says nothing else.
fn sender_of(task: &Task) -> Ucred {
    let own = task.credentials();
    Ucred { pid: task.pid(), uid: own.uid, gid: own.gid }
}
