//! Unix sockets (`man 7 unix`): stream, datagram and seqpacket, entirely inside the kernel.
//!
//! A [`UnixSocket`] owns the queue of what it is to receive; sending puts a [`message::Message`] into the peer's queue and
//! is paid for by the sender's buffer. Who wants something of another socket that is full registers there
//! ([`UnixSocket::wake_when_roomy`]) and is woken through its own queue.
//!
//! Lock order: [`Table::links`], [`Table::flight`], one socket's state, [`Table::names`]. Never two states at once; no
//! message is dropped and nobody is woken under any of them.

mod connection;
mod data;
pub mod flight;
mod host;
pub mod message;
pub mod names;
mod socket;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::errno::{EPROTONOSUPPORT, ESOCKTNOSUPPORT, Errno, SysResult};
use abi::sockets::{AF_UNIX, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM, Ucred};
use parking_lot::{Mutex, MutexGuard};

use super::{SocketFamily, SocketOps};
use crate::kernel::Kernel;
use crate::task::Task;
use crate::time::Timer;
use crate::vfs::FileDescription;
use crate::wait::{PollEvents, WaitQueue};
use flight::{Flight, Rights};
use host::HostLink;
use message::{Message, Sender};
use names::Bound;

/// Datagrams that an unconnected sender may leave at a receiver, less one (`net.unix.max_dgram_qlen`).
pub const DATAGRAM_BACKLOG: usize = 10;

/// Abstract names: by type and name.
type Names = HashMap<(u32, Box<[u8]>), Weak<UnixSocket>>;

/// All Unix sockets of a kernel.
#[derive(Default)]
pub struct Table {
    /// Abstract names; one per socket at most.
    names: Mutex<Names>,
    next_automatic: AtomicU32,
    /// All sockets, by [`UnixSocket::id`].
    sockets: Mutex<HashMap<u64, Weak<UnixSocket>>>,
    next_id: AtomicU64,
    /// Held while a socket gets a name, a peer, or begins to listen.
    links: Mutex<()>,
    flight: Mutex<Flight>,
}

impl Table {
    fn all(&self) -> Vec<Arc<UnixSocket>> {
        self.sockets.lock().values().filter_map(Weak::upgrade).collect()
    }
}

/// The family's maker.
pub struct UnixFamily {
    table: Arc<Table>,
}

impl UnixFamily {
    /// The family with this table.
    pub const fn new(table: Arc<Table>) -> Self {
        Self { table }
    }

    fn kind(kind: u32, protocol: i32) -> SysResult<u32> {
        if protocol != 0 && protocol != i32::from(AF_UNIX) {
            return Err(EPROTONOSUPPORT);
        }
        match kind {
            SOCK_STREAM | SOCK_DGRAM | SOCK_SEQPACKET => Ok(kind),
            // BSD had it mean datagrams.
            SOCK_RAW => Ok(SOCK_DGRAM),
            _ => Err(ESOCKTNOSUPPORT),
        }
    }
}

impl SocketFamily for UnixFamily {
    fn create(&self, _task: &Task, kind: u32, protocol: i32) -> SysResult<Arc<dyn SocketOps>> {
        let socket = UnixSocket::new(&self.table, Self::kind(kind, protocol)?);
        Ok(socket)
    }

    fn create_pair(&self, task: &Task, kind: u32, protocol: i32) -> SysResult<[Arc<dyn SocketOps>; 2]> {
        let kind = Self::kind(kind, protocol)?;
        let [first, second] = UnixSocket::pair(&self.table, kind, &Peer::of(task));
        Ok([first, second])
    }
}

/// What a socket is told of the process at the other end (`SO_PEERCRED`, `SO_PEERGROUPS`).
#[derive(Clone, Debug)]
pub struct Peer {
    credentials: Ucred,
    groups: Vec<u32>,
}

impl Peer {
    /// A task as others see it.
    pub fn of(task: &Task) -> Self {
        let own = task.credentials();
        Self {
            credentials: Ucred { pid: task.pid(), uid: own.euid, gid: own.egid },
            groups: own.groups.clone(),
        }
    }
}

/// Where a socket stands.
enum Role {
    /// Neither of the others.
    Idle,
    /// Waits for connections.
    Listening {
        /// Those made and not accepted yet.
        pending: VecDeque<Arc<UnixSocket>>,
        backlog: usize,
    },
    /// Has, or had, a peer.
    Connected(Arc<UnixSocket>),
    /// Its peer is on the host.
    Host(Arc<HostLink>),
}

struct State {
    role: Role,
    name: Option<Arc<Bound>>,
    inbox: VecDeque<Message>,
    /// How many messages in `inbox` have descriptors.
    with_rights: usize,
    /// Will not receive, will not send.
    receive_shut: bool,
    send_shut: bool,
    error: Option<Errno>,
    /// No description of it is left.
    dead: bool,
    /// In the backlog of a listening socket.
    pending: bool,
    peer: Option<Peer>,
    inode: u64,
    /// Sockets that wait for room in `inbox` or in the backlog.
    waiting: Vec<Weak<UnixSocket>>,
    /// Where on the host the last datagram with an address went.
    last_host: Option<Arc<HostLink>>,
    /// When a full backlog on the host is tried again.
    retry: Option<Timer>,
}

/// One socket. See the module's text.
pub struct UnixSocket {
    table: Arc<Table>,
    me: Weak<Self>,
    id: u64,
    kind: u32,
    sender: Arc<Sender>,
    state: Mutex<State>,
}

impl UnixSocket {
    /// A new socket without a name or a peer.
    pub fn new(table: &Arc<Table>, kind: u32) -> Arc<Self> {
        let id = table.next_id.fetch_add(1, Ordering::Relaxed) + 1;
        let socket = Arc::new_cyclic(|me| Self {
            table: Arc::clone(table),
            me: me.clone(),
            id,
            kind,
            sender: Arc::default(),
            state: Mutex::new(State {
                role: Role::Idle,
                name: None,
                inbox: VecDeque::new(),
                with_rights: 0,
                receive_shut: false,
                send_shut: false,
                error: None,
                dead: false,
                pending: false,
                peer: None,
                inode: 0,
                waiting: Vec::new(),
                last_host: None,
                retry: None,
            }),
        });
        table.sockets.lock().insert(id, Arc::downgrade(&socket));
        socket
    }

    /// Two sockets, each the other's peer.
    pub fn pair(table: &Arc<Table>, kind: u32, maker: &Peer) -> [Arc<Self>; 2] {
        let pair = [Self::new(table, kind), Self::new(table, kind)];
        for (socket, peer) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
            let mut state = socket.state.lock();
            state.role = Role::Connected(Arc::clone(peer));
            state.peer = Some(maker.clone());
        }
        pair
    }

    fn queue(&self) -> &WaitQueue {
        &self.sender.queue
    }

    const fn is_datagram(&self) -> bool {
        self.kind == SOCK_DGRAM
    }

    fn is_dead(&self) -> bool {
        self.state.lock().dead
    }

    fn is_pending(&self) -> bool {
        self.state.lock().pending
    }

    fn peer(&self) -> Option<Arc<Self>> {
        match &self.state.lock().role {
            Role::Connected(peer) => Some(Arc::clone(peer)),
            _ => None,
        }
    }

    /// The identities of the descriptions in its queue, and in those of its pending connections.
    fn queued_sockets(&self) -> Vec<u64> {
        let (mut found, pending) = {
            let state = self.state.lock();
            let found: Vec<u64> = state
                .inbox
                .iter()
                .filter_map(|message| message.rights.as_ref())
                .flat_map(|rights| rights.files.iter().map(|file| file.identity))
                .collect();
            (found, state.pending_connections())
        };
        for connection in pending {
            found.extend(connection.queued_sockets());
        }
        found
    }

    /// Takes all messages out of its queue, and out of those of its pending connections.
    fn take_queue(&self) -> Vec<Message> {
        let (mut messages, pending) = {
            let mut state = self.state.lock();
            state.with_rights = 0;
            (Vec::from(std::mem::take(&mut state.inbox)), state.pending_connections())
        };
        for connection in pending {
            messages.extend(connection.take_queue());
        }
        messages
    }

    /// Locks what a receive changes: the flight too if there are descriptors to be received.
    fn lock_for_receive(&self) -> (Option<MutexGuard<'_, Flight>>, MutexGuard<'_, State>) {
        let state = self.state.lock();
        if state.with_rights == 0 {
            return (None, state);
        }
        drop(state);
        let flight = self.table.flight.lock();
        (Some(flight), self.state.lock())
    }

    /// Has `other` woken when this one has room again.
    fn wake_when_roomy(state: &mut State, other: &Weak<Self>) {
        if !state.waiting.iter().any(|waiting| waiting.ptr_eq(other)) {
            state.waiting.retain(|waiting| waiting.strong_count() != 0);
            state.waiting.push(other.clone());
        }
    }

    /// Wakes those who waited for room. Without locks.
    fn announce_room(waiting: Vec<Weak<Self>>) {
        for socket in waiting.iter().filter_map(Weak::upgrade) {
            socket.queue().wake(PollEvents::WRITABLE);
        }
    }
}

impl State {
    fn pending_connections(&self) -> Vec<Arc<UnixSocket>> {
        match &self.role {
            Role::Listening { pending, .. } => pending.iter().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// Whether an unconnected sender has to wait.
    fn is_full(&self) -> bool {
        match &self.role {
            Role::Listening { pending, backlog } => pending.len() > *backlog,
            _ => self.inbox.len() > DATAGRAM_BACKLOG,
        }
    }

    /// Takes the descriptors of a message in the queue out of flight.
    fn land(&mut self, flight: Option<&mut Flight>, rights: Option<Rights>) -> Vec<Arc<FileDescription>> {
        let (Some(flight), Some(rights)) = (flight, rights) else { return Vec::new() };
        self.with_rights -= 1;
        flight.leave(Some(rights))
    }

    const fn is_shut(&self) -> bool {
        self.receive_shut && self.send_shut
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        self.table.sockets.lock().remove(&self.id);
    }
}

/// The text of `/proc/net/unix` (`man 5 proc_pid_net`).
pub fn listing(kernel: &Kernel) -> String {
    const ACCEPTS: u32 = 0x1_0000;
    const UNCONNECTED: u8 = 1;
    const CONNECTED: u8 = 3;
    let mut text = "Num       RefCount Protocol Flags    Type St Inode Path\n".to_owned();
    let mut sockets = kernel.sockets.unix.all();
    sockets.sort_by_key(|socket| socket.id);
    for socket in sockets {
        let state = socket.state.lock();
        if state.dead {
            continue;
        }
        let (flags, status) = match state.role {
            Role::Idle => (0, UNCONNECTED),
            Role::Listening { .. } => (ACCEPTS, UNCONNECTED),
            Role::Connected(_) | Role::Host(_) => (0, CONNECTED),
        };
        let name = state.name.as_ref().map_or_else(String::new, |name| format!(" {}", name.display()));
        let references = 2 + u32::from(matches!(state.role, Role::Connected(_)));
        // The number is the socket's address on Linux, and hidden there.
        let _ = writeln!(
            text,
            "{:016x}: {references:08X} 00000000 {flags:08X} {:04X} {status:02X} {:5}{name}",
            0, socket.kind, state.inode
        );
    }
    text
}
