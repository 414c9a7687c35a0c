//! One message at a time over a `SOCK_SEQPACKET` socket: the only code of the protocol that calls the host.
//!
//! Host calls, all with these exact arguments (the sentry's allow-list may demand them):
//! - `sendmsg(socket, message, MSG_NOSIGNAL)`,
//! - `recvmsg(socket, message, MSG_CMSG_CLOEXEC)`,
//! - `close` of received descriptors, and `futex` for the locks,
//! - `getcpu`, where the vDSO does not answer it.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use abi::errno::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// The other end is gone, or does not keep the protocol: the channel is of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other end closed the channel or broke the protocol")]
pub struct BrokenChannel;

/// What a server finds on its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// A request of this many bytes, without descriptors.
    Request(usize),
    /// The sentry closed its end.
    Closed,
    /// More bytes than a message may have, or a descriptor: neither comes from our client. The kernel has dropped
    /// the descriptor already, because no room was offered for it.
    Hostile,
}

/// A connected pair of protocol sockets, close-on-exec: one end for the sentry, one for the gofer.
pub fn socket_pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(errno)
}

/// The most descriptors beside one message.
pub(crate) const MOST_DESCRIPTORS: usize = 1 + crate::MAX_AHEAD;

/// Sends one message, with descriptors beside it, one and [`MAX_AHEAD`](crate::MAX_AHEAD) at most. Blocks while the other end's queue is full.
pub fn send(socket: BorrowedFd<'_>, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(abi::errno::ENOBUFS);
    }
    retry(|| sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)).map(drop)
}

/// Waits for the next request; `buffer` should hold [`MAX_MESSAGE`](crate::MAX_MESSAGE) bytes.
pub fn receive_request(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Incoming {
    let mut control = RecvAncillaryBuffer::default();
    let received =
        retry(|| recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC));
    match received {
        Ok(message) if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) => {
            Incoming::Hostile
        }
        Ok(message) if message.bytes == 0 => Incoming::Closed,
        Ok(message) => Incoming::Request(message.bytes),
        Err(_) => Incoming::Closed,
    }
}

/// The client's end of one channel, and its buffers.
pub(crate) struct Channel {
    socket: OwnedFd,
    /// Where its last call waited, so probably where the gofer's thread runs.
    pub(crate) processor: Option<u16>,
    pub(crate) outgoing: Vec<u8>,
    incoming: Box<[u8]>,
}

impl Channel {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        // Zeroed by the allocator: pages no reply has filled yet are not resident.
        let incoming = vec![0; crate::MAX_MESSAGE].into_boxed_slice();
        Self { socket, processor: None, outgoing: Vec::new(), incoming }
    }

    /// Sends `outgoing` and waits for the reply. Fewer descriptors come than were sent if we may have no more of them.
    pub(crate) fn exchange(&mut self) -> Result<(&[u8], Vec<OwnedFd>), BrokenChannel> {
        send(self.socket.as_fd(), &self.outgoing, &[]).map_err(|_| BrokenChannel)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = retry(|| {
            recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut self.incoming)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )
        })
        .map_err(|_| BrokenChannel)?;
        let mut descriptors = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = part {
                descriptors.extend(received);
            }
        }
        if message.bytes == 0 || message.flags.contains(ReturnFlags::TRUNC) {
            return Err(BrokenChannel);
        }
        let reply = self.incoming.get(..message.bytes).ok_or(BrokenChannel)?;
        Ok((reply, descriptors))
    }
}

/// The processor this thread runs on now; it may be another one at once.
pub(crate) fn processor() -> Option<u16> {
    nix::sched::sched_getcpu().ok().and_then(|processor| u16::try_from(processor).ok())
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map_err(errno),
        }
    }
}
