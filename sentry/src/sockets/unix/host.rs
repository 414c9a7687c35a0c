//! Connections to Unix sockets of the host (`--host-uds=open`).
//!
//! A path of a host tree may be a socket on which somebody outside listens. The gofer connects to it and hands out the
//! connected descriptor; the kernel itself can make no socket. From then on the application's socket is only the
//! [`HostLink`]'s front: bytes, ends and errors are the host's.
//!
//! Descriptors never cross: what an application wants to send along is left out, and what the host sends along is
//! discarded by the host's kernel, because no room is given for it. Both are logged. Credentials do not cross either, and
//! whoever is at the other end sees the gofer's user.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use abi::errno::{EAGAIN, EINVAL, EISCONN, EMSGSIZE, Errno, SysResult};
use abi::sockets::{MsgFlags, SOCK_DGRAM, SOCK_STREAM};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendFlags};

use super::{Role, UnixSocket};
use crate::reactor::Watch;
use crate::sockets::{Outgoing, ReceiveFlags, Received, Shutdown};
use crate::task::Task;
use crate::time::{Instant, Timer, TimerTarget};
use crate::vfs::Inode;
use crate::wait::{Observer, PollEvents};

/// A listener on the host whose backlog is full is tried again after so long: it tells nobody when it has room.
const RETRY_NS: u64 = 10_000_000;

/// The host's end of a socket.
pub struct HostLink {
    descriptor: Arc<Descriptor>,
    kind: u32,
    /// The address that was given to `connect`.
    address: Vec<u8>,
    /// The node that was connected to.
    inode: Arc<dyn Inode>,
    _watch: Watch,
}

struct Descriptor(OwnedFd);

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for HostLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Wakes those who wait on the front.
struct Front(Weak<UnixSocket>);

impl Observer for Front {
    fn notify(&self, _events: PollEvents) {
        if let Some(socket) = self.0.upgrade() {
            UnixSocket::queue(&socket).wake_all();
        }
    }
}

impl TimerTarget for Front {
    fn expired(&self) {
        self.notify(PollEvents::all());
    }
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

impl HostLink {
    /// Sends a piece of a stream, or a message.
    pub(super) fn send(&self, message: &mut Outgoing<'_>) -> SysResult<usize> {
        if self.kind != SOCK_STREAM && message.bytes.len() < message.length {
            return Err(EMSGSIZE);
        }
        if !message.ancillary.rights.is_empty() {
            message.ancillary.rights.clear();
            tracing::warn!("descriptors are not sent to sockets of the host: left out");
        }
        rustix::net::send(self, message.bytes, SendFlags::NOSIGNAL).map_err(errno)
    }

    pub(super) fn receive(
        &self,
        buffer: &mut [u8],
        flags: ReceiveFlags,
        received: &mut Received,
    ) -> SysResult<usize> {
        let stream = self.kind == SOCK_STREAM;
        if stream && flags.satisfied {
            return Err(EAGAIN);
        }
        let mut how = RecvFlags::CMSG_CLOEXEC;
        how.set(RecvFlags::PEEK, flags.peek);
        how.set(RecvFlags::TRUNC, !stream);
        let room = buffer.len();
        let mut pieces = [std::io::IoSliceMut::new(buffer)];
        // No room for control messages: descriptors end where they are.
        let mut control = RecvAncillaryBuffer::default();
        let got = rustix::net::recvmsg(self, &mut pieces, &mut control, how).map_err(errno)?;
        if got.flags.contains(ReturnFlags::CTRUNC) {
            tracing::warn!("a socket of the host sent descriptors along: discarded");
            received.flags |= MsgFlags::MSG_CTRUNC;
        }
        received.flags.set(MsgFlags::MSG_TRUNC, got.flags.contains(ReturnFlags::TRUNC));
        received.flags.set(MsgFlags::MSG_EOR, got.flags.contains(ReturnFlags::EOR));
        received.from.get_or_insert_default();
        received.length = if stream { received.length + got.bytes } else { got.bytes };
        received.ended |= !stream || flags.peek || got.bytes == 0;
        Ok(got.bytes.min(room))
    }

    pub(super) fn poll(&self) -> PollEvents {
        let asked = PollFlags::IN | PollFlags::OUT | PollFlags::PRI | PollFlags::RDHUP;
        let mut polled = [PollFd::new(self, asked)];
        if rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_err() {
            return PollEvents::ERR;
        }
        let mut events = PollEvents::from_bits_truncate(polled[0].revents().bits().into());
        events.set(PollEvents::RDNORM, events.contains(PollEvents::IN));
        events.set(PollEvents::WRNORM | PollEvents::WRBAND, events.contains(PollEvents::OUT));
        events
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> SysResult<()> {
        let how = match how {
            Shutdown::Receiving => rustix::net::Shutdown::Read,
            Shutdown::Sending => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        rustix::net::shutdown(self, how).map_err(errno)
    }

    /// The address that was given to `connect`.
    pub(super) fn address(&self) -> Vec<u8> {
        self.address.clone()
    }

    pub(super) fn take_error(&self) -> Option<Errno> {
        rustix::net::sockopt::socket_error(self).ok()?.err().map(errno)
    }

    pub(super) fn readable_bytes(&self) -> SysResult<usize> {
        let count = rustix::io::ioctl_fionread(self).map_err(errno)?;
        usize::try_from(count).map_err(|_| EINVAL)
    }
}

impl UnixSocket {
    /// The host's end, if there is one.
    pub(super) fn host_link(&self) -> Option<Arc<HostLink>> {
        match &self.state.lock().role {
            Role::Host(link) => Some(Arc::clone(link)),
            _ => None,
        }
    }

    fn link_to(&self, task: &Task, inode: &Arc<dyn Inode>, address: &[u8]) -> SysResult<Arc<HostLink>> {
        let descriptor = Arc::new(Descriptor(inode.connect_host(self.kind)?));
        let front = Arc::new(Front(self.me.clone()));
        let watch =
            task.kernel.reactor.watch(Arc::clone(&descriptor), front).map_err(crate::memory::errno)?;
        Ok(Arc::new(HostLink {
            descriptor,
            kind: self.kind,
            address: address.to_vec(),
            inode: Arc::clone(inode),
            _watch: watch,
        }))
    }

    /// Connects to the socket that a host node is, or seems to be: where no host socket may be reached, or nobody listens,
    /// that is `ECONNREFUSED`.
    pub(super) fn connect_host(&self, task: &Task, inode: &Arc<dyn Inode>, address: &[u8]) -> SysResult<()> {
        if self.kind != SOCK_DGRAM {
            match &self.state.lock().role {
                Role::Idle => {}
                Role::Connected(_) | Role::Host(_) => return Err(EISCONN),
                Role::Listening { .. } => return Err(EINVAL),
            }
        }
        let link = self.link_to(task, inode, address).inspect_err(|error| {
            if *error == EAGAIN {
                self.look_again(task);
            }
        })?;
        if self.kind == SOCK_DGRAM {
            self.set_datagram_peer(Role::Host(link));
            return Ok(());
        }
        {
            let _link = self.table.links.lock();
            let mut state = self.state.lock();
            if !matches!(state.role, Role::Idle) {
                return Err(EISCONN);
            }
            state.role = Role::Host(link);
        }
        self.queue().wake_all();
        Ok(())
    }

    /// Has the caller try again a little later.
    fn look_again(&self, task: &Task) {
        let front = Arc::new(Front(self.me.clone()));
        let timer: Timer = task.kernel.timers.start(Instant::now().after_ns(RETRY_NS), front);
        self.state.lock().retry = Some(timer);
    }

    /// Sends one datagram to a node of the host, keeping the connection for the next.
    pub(super) fn send_datagram_to_host(
        &self,
        task: &Task,
        inode: &Arc<dyn Inode>,
        message: &mut Outgoing<'_>,
    ) -> SysResult<usize> {
        let known = self.state.lock().last_host.take().filter(|link| Arc::ptr_eq(&link.inode, inode));
        let link = match known {
            Some(link) => link,
            None => self.link_to(task, inode, message.to.unwrap_or_default())?,
        };
        let sent = link.send(message);
        if matches!(sent, Ok(_) | Err(EAGAIN)) {
            self.state.lock().last_host = Some(link);
        }
        sent
    }
}
