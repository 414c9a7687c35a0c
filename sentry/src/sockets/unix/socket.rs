//! Unix sockets as the rest of the kernel sees them: readiness, options, requests.

use std::any::Any;
use std::sync::Arc;

use abi::errno::{EINVAL, EISCONN, ENODATA, ENOPROTOOPT, ENOTCONN, ENOTTY, EOPNOTSUPP, Errno, SysResult};
use abi::ioctls::{FIONREAD, TIOCOUTQ};
use abi::socket_options::{SO_COOKIE, SO_PEERCRED, SO_PEERGROUPS, SOL_SOCKET};
use abi::sockets::{AF_UNIX, SOCK_DGRAM, SOCK_STREAM, Ucred};
use zerocopy::IntoBytes;

use super::message::Message;
use super::names::unnamed;
use super::{Peer, Role, UnixSocket};
use crate::sockets::options::OptionValue;
use crate::sockets::{CommonOptions, Outgoing, ReceiveFlags, Received, Shutdown, SocketOps};
use crate::task::Task;
use crate::wait::{PollEvents, WaitQueue};

/// "Nobody", where no peer is known.
const NO_PEER: Ucred = Ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };

impl UnixSocket {
    /// Whether a connected datagram socket could send to its peer; if not, it will be woken.
    fn peer_has_room(&self) -> bool {
        let Some(peer) = self.peer().filter(|_| self.is_datagram()) else { return true };
        let mut state = peer.state.lock();
        let linked_back = matches!(&state.role, Role::Connected(back) if back.id == self.id);
        if linked_back || state.dead || !state.is_full() {
            return true;
        }
        Self::wake_when_roomy(&mut state, &self.me);
        false
    }

    /// Bytes that could be received (`SIOCINQ`).
    fn readable_bytes(&self) -> SysResult<usize> {
        if let Some(link) = self.host_link() {
            return link.readable_bytes();
        }
        let state = self.state.lock();
        match (&state.role, self.kind) {
            (Role::Listening { .. }, _) => Err(EINVAL),
            (_, SOCK_DGRAM) => Ok(state.inbox.front().map_or(0, |message| message.rest().len())),
            _ => Ok(state.inbox.iter().map(Message::rest).map(<[u8]>::len).sum()),
        }
    }
}

impl SocketOps for UnixSocket {
    fn domain(&self) -> u16 {
        AF_UNIX
    }

    fn kind(&self) -> u32 {
        self.kind
    }

    fn common(&self) -> &CommonOptions {
        &self.sender.options
    }

    fn queue(&self) -> &WaitQueue {
        &self.sender.queue
    }

    fn poll(&self) -> PollEvents {
        if let Some(link) = self.host_link() {
            return link.poll();
        }
        let mut events = PollEvents::empty();
        let listening = {
            let state = self.state.lock();
            let (ready, listening) = match &state.role {
                Role::Listening { pending, .. } => (!pending.is_empty(), true),
                _ => (!state.inbox.is_empty(), false),
            };
            events.set(PollEvents::READABLE, ready || state.receive_shut);
            events.set(PollEvents::RDHUP, state.receive_shut);
            let unconnected = !self.is_datagram() && matches!(state.role, Role::Idle);
            events.set(PollEvents::HUP, state.is_shut() || unconnected);
            events.set(PollEvents::ERR, state.error.is_some());
            listening
        };
        if !listening && self.sender.is_writable() && self.peer_has_room() {
            events |= PollEvents::WRITABLE | PollEvents::WRBAND;
        }
        events
    }

    fn bind(&self, task: &Task, address: &[u8]) -> SysResult<()> {
        self.bind_to(task, address)
    }

    fn listen(&self, task: &Task, backlog: u32) -> SysResult<()> {
        self.listen_as(Peer::of(task), backlog)
    }

    fn connect(&self, task: &Task, address: &[u8]) -> SysResult<()> {
        self.connect_at(task, address)
    }

    fn accept(&self) -> SysResult<Arc<dyn SocketOps>> {
        self.accept_ops()
    }

    fn shutdown(&self, how: Shutdown) -> SysResult<()> {
        self.shut(how)
    }

    fn name(&self) -> SysResult<Vec<u8>> {
        Ok(self.state.lock().name.as_ref().map_or_else(unnamed, |name| name.address.clone()))
    }

    fn peer_name(&self) -> SysResult<Vec<u8>> {
        match self.host_link() {
            Some(link) => Ok(link.address()),
            None => self.peer().ok_or(ENOTCONN)?.name(),
        }
    }

    fn keeps_boundaries(&self) -> bool {
        self.kind != SOCK_STREAM
    }

    fn send(&self, task: Option<&Task>, message: &mut Outgoing<'_>) -> SysResult<usize> {
        match self.host_link() {
            Some(_) if self.kind == SOCK_STREAM && message.to.is_some() => return Err(EISCONN),
            Some(link) if self.kind != SOCK_DGRAM || message.to.is_none() => return link.send(message),
            _ => {}
        }
        match self.kind {
            SOCK_STREAM => self.send_stream(task, message),
            _ => self.send_message(task, message),
        }
    }

    fn receive(&self, buffer: &mut [u8], flags: ReceiveFlags, received: &mut Received) -> SysResult<usize> {
        if let Some(link) = self.host_link() {
            return link.receive(buffer, flags, received);
        }
        match self.kind {
            SOCK_STREAM => self.receive_stream(buffer, flags, received),
            _ => self.receive_message(buffer, flags, received),
        }
    }

    fn option(&self, level: i32, option: i32) -> SysResult<OptionValue> {
        if level != SOL_SOCKET {
            return Err(EOPNOTSUPP);
        }
        let peer = self.state.lock().peer.clone();
        match option {
            SO_PEERCRED => Ok(OptionValue::plain(&peer.map_or(NO_PEER, |peer| peer.credentials))),
            SO_PEERGROUPS => {
                Ok(OptionValue::Whole(peer.ok_or(ENODATA)?.groups.as_slice().as_bytes().to_vec()))
            }
            SO_COOKIE => Ok(OptionValue::plain(&self.id)),
            _ => Err(ENOPROTOOPT),
        }
    }

    fn set_option(&self, _task: &Task, level: i32, _option: i32, _value: &[u8]) -> SysResult<()> {
        Err(if level == SOL_SOCKET { ENOPROTOOPT } else { EOPNOTSUPP })
    }

    fn take_error(&self) -> Option<Errno> {
        match self.host_link() {
            Some(link) => link.take_error(),
            None => self.state.lock().error.take(),
        }
    }

    fn is_listening(&self) -> bool {
        matches!(self.state.lock().role, Role::Listening { .. })
    }

    fn ioctl(&self, task: &Task, request: u32, argument: u64) -> SysResult<u64> {
        let count = match request {
            FIONREAD => self.readable_bytes()?,
            TIOCOUTQ => self.sender.used(),
            _ => return Err(ENOTTY),
        };
        task.write_value(argument, &i32::try_from(count).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn attached(&self, inode: u64) {
        self.state.lock().inode = inode;
    }

    fn closed(&self) {
        self.end();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
