//! How Unix sockets get names and peers, and lose them: bind, listen, connect, accept, shutdown, the end.

use std::collections::VecDeque;
use std::sync::Arc;

use abi::errno::{EAGAIN, ECONNREFUSED, ECONNRESET, EINVAL, EISCONN, EOPNOTSUPP, EPERM, SysResult};
use abi::sockets::AF_UNSPEC;

use super::flight::discard;
use super::names::{self, Address, Found};
use super::{Peer, Role, UnixSocket};
use crate::sockets::{Shutdown, SocketOps};
use crate::task::Task;
use crate::wait::PollEvents;

/// Most connections that wait to be accepted (`net.core.somaxconn`).
const BACKLOG_MAX: u32 = abi::sockets::SOMAXCONN;

impl UnixSocket {
    fn arc(&self) -> SysResult<Arc<Self>> {
        // Always there: it is borrowed from one.
        self.me.upgrade().ok_or(EINVAL)
    }

    fn has_name(&self) -> bool {
        self.state.lock().name.is_some()
    }

    pub(super) fn bind_to(&self, task: &Task, address: &[u8]) -> SysResult<()> {
        if names::asks_for_automatic(address) {
            return self.bind_automatically();
        }
        let address = Address::parse(address)?;
        let _link = self.table.links.lock();
        let bound = match address {
            Address::Path(path) if self.has_name() => return names::refuse_second_path(task, path),
            Address::Abstract(_) if self.has_name() => return Err(EINVAL),
            Address::Path(path) => names::make_path(task, path, &self.arc()?)?,
            Address::Abstract(name) => self.table.claim(name, &self.arc()?)?,
        };
        self.state.lock().name = Some(bound);
        Ok(())
    }

    /// Gives the socket an automatic name unless it has one.
    pub(super) fn bind_automatically(&self) -> SysResult<()> {
        let _link = self.table.links.lock();
        if self.has_name() {
            return Ok(());
        }
        let bound = self.table.claim_automatic(&self.arc()?)?;
        self.state.lock().name = Some(bound);
        Ok(())
    }

    /// With `SO_PASSCRED`, who connects or sends gets a name.
    pub(super) fn bind_if_passing_credentials(&self) -> SysResult<()> {
        if self.sender.options.pass_credentials() { self.bind_automatically() } else { Ok(()) }
    }

    /// Begins to listen, as the given process.
    pub(super) fn listen_as(&self, listener: Peer, backlog: u32) -> SysResult<()> {
        if self.is_datagram() {
            return Err(EOPNOTSUPP);
        }
        let waiting = {
            let _link = self.table.links.lock();
            let mut state = self.state.lock();
            if state.name.is_none() {
                return Err(EINVAL);
            }
            let backlog = usize::try_from(backlog.min(BACKLOG_MAX)).unwrap_or(0);
            match &mut state.role {
                Role::Idle => state.role = Role::Listening { pending: VecDeque::new(), backlog },
                Role::Listening { backlog: old, .. } => *old = backlog,
                Role::Connected(_) | Role::Host(_) => return Err(EINVAL),
            }
            state.peer = Some(listener);
            std::mem::take(&mut state.waiting)
        };
        Self::announce_room(waiting);
        Ok(())
    }

    pub(super) fn connect_at(&self, task: &Task, address: &[u8]) -> SysResult<()> {
        if self.is_datagram() {
            let family = address.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes)).ok_or(EINVAL)?;
            if family == AF_UNSPEC {
                self.set_datagram_peer(Role::Idle);
                return Ok(());
            }
        }
        let name = Address::parse(address)?;
        self.bind_if_passing_credentials()?;
        let other = match self.table.look_up(task, &name, self.kind)? {
            Found::Inside(other) => other,
            Found::Outside(inode) => return self.connect_host(task, &inode, address),
        };
        if self.is_datagram() {
            self.connect_datagrams(&other)
        } else {
            self.connect_stream(&other, Peer::of(task))
        }
    }

    /// Whether `sender` may send to this one: it has no peer, or that one.
    pub(super) fn may_get_from(&self, sender: &Self) -> bool {
        match &self.state.lock().role {
            Role::Connected(peer) => peer.id == sender.id,
            _ => true,
        }
    }

    pub(super) fn connect_datagrams(&self, other: &Arc<Self>) -> SysResult<()> {
        if !other.may_get_from(self) {
            return Err(EPERM);
        }
        self.set_datagram_peer(Role::Connected(Arc::clone(other)));
        Ok(())
    }

    /// Changes the peer of a datagram socket; what the old one sent is lost.
    pub(super) fn set_datagram_peer(&self, role: Role) {
        let new = match &role {
            Role::Connected(peer) => Some(peer.id),
            _ => None,
        };
        let (old, waiting) = {
            let _link = self.table.links.lock();
            let mut state = self.state.lock();
            let old = std::mem::replace(&mut state.role, role);
            (old, std::mem::take(&mut state.waiting))
        };
        Self::announce_room(waiting);
        if let Role::Connected(old) = old
            && new != Some(old.id)
        {
            self.datagrams_disconnected(&old);
        }
        self.queue().wake_all();
    }

    /// The link to `old` is gone: what lies in the queue is lost, of which a peer linked back is told.
    pub(super) fn datagrams_disconnected(&self, old: &Self) {
        if !self.empty_queue() {
            return;
        }
        let told = {
            let mut state = old.state.lock();
            let linked = matches!(&state.role, Role::Connected(peer) if peer.id == self.id);
            if linked && !state.dead {
                state.error = Some(ECONNRESET);
            }
            linked
        };
        if told {
            old.queue().wake_all();
        }
    }

    /// Drops all that is in the queue; whether there was something.
    fn empty_queue(&self) -> bool {
        let (messages, files) = {
            let mut flight = self.table.flight.lock();
            let mut messages = self.take_queue();
            let rights = messages.iter_mut().flat_map(|message| flight.leave(message.rights.take()));
            let files: Vec<_> = rights.collect();
            (messages, files)
        };
        let some = !messages.is_empty();
        discard(messages, files);
        some
    }

    /// Connects to a listening socket, as the given process.
    pub(super) fn connect_stream(&self, other: &Arc<Self>, connecting: Peer) -> SysResult<()> {
        let me = self.arc()?;
        {
            let _link = self.table.links.lock();
            let own = match &self.state.lock().role {
                Role::Idle => Ok(()),
                Role::Connected(_) | Role::Host(_) => Err(EISCONN),
                Role::Listening { .. } => Err(EINVAL),
            };
            let listener = {
                // Whether the other one listens is judged before what this one is.
                let mut theirs = other.state.lock();
                let full = theirs.is_full();
                let shut = theirs.receive_shut || theirs.dead;
                let name = theirs.name.clone();
                let listener = theirs.peer.clone();
                let Role::Listening { pending, .. } = &mut theirs.role else { return Err(ECONNREFUSED) };
                if shut {
                    return Err(ECONNREFUSED);
                }
                if !full {
                    own?;
                    let connection = Self::new(&self.table, self.kind);
                    connection.sender.options.set_pass_credentials(other.sender.options.pass_credentials());
                    {
                        // Nobody else knows it yet: this lock is not waited for.
                        let mut state = connection.state.lock();
                        state.role = Role::Connected(me);
                        state.name = name;
                        state.peer = Some(connecting);
                        state.pending = true;
                    }
                    pending.push_back(Arc::clone(&connection));
                    Some((connection, listener))
                } else {
                    Self::wake_when_roomy(&mut theirs, &self.me);
                    None
                }
            };
            let Some((connection, listener)) = listener else { return Err(EAGAIN) };
            let mut state = self.state.lock();
            state.role = Role::Connected(connection);
            state.peer = listener;
        }
        other.queue().wake(PollEvents::READABLE);
        self.queue().wake_all();
        Ok(())
    }

    pub(super) fn accept_one(&self) -> SysResult<Arc<Self>> {
        if self.is_datagram() {
            return Err(EOPNOTSUPP);
        }
        let (connection, waiting) = {
            let mut state = self.state.lock();
            let shut = state.receive_shut;
            let Role::Listening { pending, .. } = &mut state.role else { return Err(EINVAL) };
            let connection = match pending.pop_front() {
                Some(connection) => connection,
                None => return Err(if shut { EINVAL } else { EAGAIN }),
            };
            (connection, std::mem::take(&mut state.waiting))
        };
        connection.state.lock().pending = false;
        Self::announce_room(waiting);
        Ok(connection)
    }

    pub(super) fn shut(&self, how: Shutdown) -> SysResult<()> {
        if let Some(link) = self.host_link() {
            return link.shutdown(how);
        }
        let peer = {
            let mut state = self.state.lock();
            state.receive_shut |= how.receiving();
            state.send_shut |= how.sending();
            match &state.role {
                Role::Connected(peer) if !self.is_datagram() => Some(Arc::clone(peer)),
                _ => None,
            }
        };
        if let Some(peer) = peer {
            {
                let mut state = peer.state.lock();
                state.send_shut |= how.receiving();
                state.receive_shut |= how.sending();
            }
            peer.queue().wake_all();
        }
        self.queue().wake_all();
        Ok(())
    }

    /// No description of the socket is left (or, of a connection that was never accepted, of its listener).
    pub(super) fn end(&self) {
        let (role, name, waiting) = {
            let mut state = self.state.lock();
            state.dead = true;
            state.receive_shut = true;
            state.send_shut = true;
            let role = std::mem::replace(&mut state.role, Role::Idle);
            (role, state.name.clone(), std::mem::take(&mut state.waiting))
        };
        // Connections that were accepted share the name; it belongs to the socket that was bound.
        if let Some(name) = name {
            self.table.release(&name, self);
        }
        let accepted = !self.state.lock().pending;
        let unread = self.empty_queue();
        match role {
            Role::Idle => {}
            Role::Listening { pending, .. } => {
                for connection in pending {
                    connection.end();
                }
            }
            Role::Connected(peer) if !self.is_datagram() => {
                {
                    let mut state = peer.state.lock();
                    state.receive_shut = true;
                    state.send_shut = true;
                    if unread || !accepted {
                        state.error = Some(ECONNRESET);
                    }
                }
                peer.queue().wake_all();
            }
            Role::Connected(_) | Role::Host(_) => {}
        }
        self.queue().wake_all();
        Self::announce_room(waiting);
        self.table.collect_in_turn();
    }

    /// `SocketOps`'s name for [`UnixSocket::accept_one`].
    pub(super) fn accept_ops(&self) -> SysResult<Arc<dyn SocketOps>> {
        let connection = self.accept_one()?;
        Ok(connection)
    }
}
