//! Unix sockets of the host, for trees that allow them. `connect(2)` and `bind(2)` know only paths, so that the
//! process's working directory is its own `/proc/self/fd`: a held file's path is its descriptor's number.

use std::os::fd::{AsFd, OwnedFd};

use abi::errno::{self, Errno};
use rustix::fs::AtFlags;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags};
use wire::{CreateMode, FileType, Name, SocketType, TreeFlags};

use crate::answer::Answer;
use crate::connection::Server;
use crate::create::{adopt, remove};
use crate::handles::Node;
use crate::lookup::{errno, number};

/// Answers `Connect`. Where sockets are not allowed it looks as if nobody listened. The socket is non-blocking: a
/// full queue is the sentry's to wait for.
pub fn connect(socket: &Node, kind: SocketType) -> Result<Answer, Errno> {
    if !socket.flags.contains(TreeFlags::HOST_SOCKETS) || socket.kind != FileType::Socket {
        return Err(errno::ECONNREFUSED);
    }
    let descriptor = unbound(kind)?;
    let address = SocketAddrUnix::new(number(socket.as_fd()).as_str()).map_err(errno)?;
    net::connect(&descriptor, &address).map_err(errno)?;
    Ok(Answer::descriptor(descriptor))
}

/// Answers `Bind`. `ENAMETOOLONG` for names that do not fit into a socket's address behind the directory's number.
pub fn bind(
    server: &Server,
    dir: &Node,
    name: Name<'_>,
    kind: SocketType,
    mode: &CreateMode,
) -> Result<Answer, Errno> {
    if !dir.flags.contains(TreeFlags::HOST_SOCKETS) {
        return Err(errno::EPERM);
    }
    dir.check_writable()?;
    let descriptor = unbound(kind)?;
    let mut path = number(dir.as_fd()).into_bytes();
    path.push(b'/');
    path.extend_from_slice(name.as_bytes());
    let address = SocketAddrUnix::new(path).map_err(errno)?;
    net::bind(&descriptor, &address).map_err(errno)?;
    let mut answer = adopt(server, dir, name, mode).inspect_err(|_| remove(dir, name, AtFlags::empty()))?;
    answer.descriptor = Some(descriptor);
    Ok(answer)
}

fn unbound(kind: SocketType) -> Result<OwnedFd, Errno> {
    let kind = match kind {
        SocketType::Stream => net::SocketType::STREAM,
        SocketType::Datagram => net::SocketType::DGRAM,
        SocketType::SeqPacket => net::SocketType::SEQPACKET,
    };
    net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
        .map_err(errno)
}
