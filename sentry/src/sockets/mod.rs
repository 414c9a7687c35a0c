//! Sockets: what every family shares, and the seam between a family and the rest of the kernel.
//!
//! A descriptor of a socket has a [`Socket`] as its [`FileOps`]; behind it stand the family's own
//! [`SocketOps`]. A [`SocketFamily`] makes them; [`Sockets::family`] knows the families there are.
//! [`options`] holds what `SOL_SOCKET` sets for all, [`control`] the control messages, [`transfer`] the
//! sends and receives that may have to wait.
//!
//! Operations never wait: what is not possible now is `EAGAIN`, and whatever makes it possible wakes
//! the socket's own [`SocketOps::queue`], also where the obstacle is another socket (a full queue at the
//! receiver, a full backlog). So every call waits on one queue only.

pub mod control;
pub mod options;
pub mod transfer;
pub mod unix;

use std::any::Any;
use std::sync::Arc;

use abi::errno::{EAFNOSUPPORT, EAGAIN, EINVAL, ENOTSOCK, SysResult};
use abi::sockets::AF_UNIX;

use crate::task::{Credentials, Task};
use crate::vfs::{AnonymousInode, AnonymousKind, Direction, FileDescription, FileOps, Inode};
use crate::wait::{PollEvents, WaitQueue};

pub use control::{Ancillary, Received};
pub use options::CommonOptions;

/// Longest datagram, whatever the send buffer: what one piece of a `write` may carry.
pub const DATAGRAM_MAX: usize = (256 << 10) - 1;

/// The sockets of the kernel.
#[derive(Default)]
pub struct Sockets {
    /// Unix sockets.
    pub unix: Arc<unix::Table>,
}

/// What makes the sockets of one address family.
pub trait SocketFamily: Send + Sync {
    /// A new socket.
    ///
    /// # Errors
    /// `EPROTONOSUPPORT`, `ESOCKTNOSUPPORT`, `EPERM`.
    fn create(&self, task: &Task, kind: u32, protocol: i32) -> SysResult<Arc<dyn SocketOps>>;

    /// Two connected sockets.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: the family has no pairs.
    fn create_pair(&self, task: &Task, kind: u32, protocol: i32) -> SysResult<[Arc<dyn SocketOps>; 2]> {
        let _ = (task, kind, protocol);
        Err(abi::errno::EOPNOTSUPP)
    }
}

impl Sockets {
    /// The family with this number.
    ///
    /// # Errors
    /// `EAFNOSUPPORT`.
    pub fn family(&self, number: u16) -> SysResult<Arc<dyn SocketFamily>> {
        match number {
            AF_UNIX => Ok(Arc::new(unix::UnixFamily::new(Arc::clone(&self.unix)))),
            _ => Err(EAFNOSUPPORT),
        }
    }
}

/// What `shutdown(2)` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Shutdown {
    Receiving,
    Sending,
    Both,
}

impl Shutdown {
    /// From the argument of `shutdown(2)`.
    ///
    /// # Errors
    /// `EINVAL`
    pub const fn from_argument(how: i32) -> SysResult<Self> {
        match how {
            abi::sockets::SHUT_RD => Ok(Self::Receiving),
            abi::sockets::SHUT_WR => Ok(Self::Sending),
            abi::sockets::SHUT_RDWR => Ok(Self::Both),
            _ => Err(EINVAL),
        }
    }

    /// Whether receiving ends.
    pub const fn receiving(self) -> bool {
        !matches!(self, Self::Sending)
    }

    /// Whether sending ends.
    pub const fn sending(self) -> bool {
        !matches!(self, Self::Receiving)
    }
}

/// A message, or a piece of a stream, on its way out.
pub struct Outgoing<'a> {
    /// The bytes, of which a stream may take a part.
    pub bytes: &'a [u8],
    /// The message's full length; of messages that are too long `bytes` may hold only the beginning.
    pub length: usize,
    /// The address given with it.
    pub to: Option<&'a [u8]>,
    /// What goes along; taken by the family with the first bytes.
    pub ancillary: &'a mut Ancillary,
}

/// What a receive asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReceiveFlags {
    /// Leave it in the queue (`MSG_PEEK`).
    pub peek: bool,
    /// The call may wait; of some ends only such calls are told.
    pub waits: bool,
    /// The call has received enough already: what is pending besides bytes is left for the next one.
    pub satisfied: bool,
}

/// A family's own part of a socket.
pub trait SocketOps: Send + Sync {
    /// `AF_*`
    fn domain(&self) -> u16;
    /// `SOCK_*`
    fn kind(&self) -> u32;
    /// `SO_PROTOCOL`
    fn protocol(&self) -> i32 {
        0
    }
    /// Options that all families have.
    fn common(&self) -> &CommonOptions;
    /// Where changes of readiness are announced.
    fn queue(&self) -> &WaitQueue;
    /// What is possible now.
    fn poll(&self) -> PollEvents;

    /// `man 2 bind`. `address` begins with the family and is not longer than `sockaddr_storage`.
    ///
    /// # Errors
    /// As documented there.
    fn bind(&self, task: &Task, address: &[u8]) -> SysResult<()>;

    /// `man 2 listen`
    ///
    /// # Errors
    /// As documented there.
    fn listen(&self, task: &Task, backlog: u32) -> SysResult<()>;

    /// `man 2 connect`
    ///
    /// # Errors
    /// As documented there; `EAGAIN`: to be tried again when the queue says `WRITABLE`.
    fn connect(&self, task: &Task, address: &[u8]) -> SysResult<()>;

    /// `man 2 accept`
    ///
    /// # Errors
    /// As documented there; `EAGAIN`: to be tried again when the queue says `READABLE`.
    fn accept(&self) -> SysResult<Arc<dyn SocketOps>>;

    /// `man 2 shutdown`
    ///
    /// # Errors
    /// `ENOTCONN`
    fn shutdown(&self, how: Shutdown) -> SysResult<()>;

    /// `man 2 getsockname`
    ///
    /// # Errors
    /// The family's.
    fn name(&self) -> SysResult<Vec<u8>>;

    /// `man 2 getpeername`
    ///
    /// # Errors
    /// `ENOTCONN`
    fn peer_name(&self) -> SysResult<Vec<u8>>;

    /// Whether each send is one message, as opposed to bytes of a stream.
    fn keeps_boundaries(&self) -> bool;

    /// Sends a message, or what fits of a piece of a stream. `task` is `None` where the kernel writes for
    /// nobody in particular (`sendfile`).
    ///
    /// # Errors
    /// As `man 2 send`; `EAGAIN`: no room now.
    fn send(&self, task: Option<&Task>, message: &mut Outgoing<'_>) -> SysResult<usize>;

    /// Receives a message, or what is there of a stream; what comes along is added to `received`.
    ///
    /// # Errors
    /// As `man 2 recv`; `EAGAIN`: nothing now.
    fn receive(&self, buffer: &mut [u8], flags: ReceiveFlags, received: &mut Received) -> SysResult<usize>;

    /// Reads an option that is not among the common ones.
    ///
    /// # Errors
    /// `ENOPROTOOPT`, `EOPNOTSUPP`.
    fn option(&self, level: i32, option: i32) -> SysResult<options::OptionValue>;

    /// Sets an option that is not among the common ones.
    ///
    /// # Errors
    /// `ENOPROTOOPT`, `EOPNOTSUPP`.
    fn set_option(&self, task: &Task, level: i32, option: i32, value: &[u8]) -> SysResult<()>;

    /// The pending error, which is cleared (`SO_ERROR`).
    fn take_error(&self) -> Option<abi::errno::Errno>;

    /// `SO_ACCEPTCONN`
    fn is_listening(&self) -> bool;

    /// `man 2 ioctl`
    ///
    /// # Errors
    /// `ENOTTY`
    fn ioctl(&self, task: &Task, request: u32, argument: u64) -> SysResult<u64>;

    /// The socket has become a file with this inode.
    fn attached(&self, inode: u64);

    /// The last description of the socket is gone.
    fn closed(&self);

    /// For downcasts within one family.
    fn as_any(&self) -> &dyn Any;
}

/// A socket as an open file.
pub struct Socket {
    ops: Arc<dyn SocketOps>,
}

impl Socket {
    /// A description of a socket. `flags` are status flags (`O_NONBLOCK`).
    pub fn open(ops: Arc<dyn SocketOps>, flags: u32, credentials: &Credentials) -> Arc<FileDescription> {
        let inode = AnonymousInode::new(AnonymousKind::Socket, credentials.fsuid, credentials.fsgid);
        ops.attached(inode.attributes().map_or(0, |attributes| attributes.inode));
        FileDescription::new(Arc::new(Self { ops }), inode, None, flags | libc::O_RDWR.cast_unsigned())
    }

    /// The family's part.
    pub fn ops(&self) -> &Arc<dyn SocketOps> {
        &self.ops
    }

    /// How long a blocking call may wait (`SO_RCVTIMEO`, `SO_SNDTIMEO`), in nanoseconds.
    pub fn limit_ns(&self, direction: Direction) -> Option<u64> {
        self.ops.common().timeout_ns(direction)
    }
}

/// The socket behind a file.
///
/// # Errors
/// `ENOTSOCK`
pub fn socket_of(file: &FileDescription) -> SysResult<&Socket> {
    file.ops.as_any().downcast_ref().ok_or(ENOTSOCK)
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.ops.closed();
    }
}

impl Socket {
    fn write_bytes(&self, task: Option<&Task>, bytes: &[u8]) -> SysResult<usize> {
        let mut ancillary = Ancillary::default();
        let length = bytes.len();
        self.ops.send(task, &mut Outgoing { bytes, length, to: None, ancillary: &mut ancillary })
    }
}

impl FileOps for Socket {
    fn read(&self, _offset: u64, buffer: &mut [u8], file: &FileDescription) -> SysResult<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let flags = ReceiveFlags { waits: !file.is_nonblocking(), ..ReceiveFlags::default() };
        let mut received = Received::default();
        self.ops.receive(buffer, flags, &mut received)
    }

    fn write(&self, _offset: u64, bytes: &[u8], _file: &FileDescription) -> SysResult<usize> {
        self.write_bytes(None, bytes)
    }

    fn write_from(&self, task: &Task, bytes: &[u8], _file: &FileDescription) -> SysResult<usize> {
        self.write_bytes(Some(task), bytes)
    }

    fn broken_pipe_signals(&self) -> bool {
        !self.ops.keeps_boundaries()
    }

    fn is_seekable(&self) -> bool {
        false
    }

    fn poll(&self, _file: &FileDescription) -> PollEvents {
        self.ops.poll()
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(self.ops.queue())
    }

    fn wait_limit_ns(&self, direction: Direction) -> Option<u64> {
        self.limit_ns(direction)
    }

    fn ioctl(&self, task: &Task, _file: &FileDescription, request: u32, argument: u64) -> SysResult<u64> {
        self.ops.ioctl(task, request, argument)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `EAGAIN` as "not yet", everything else as a result.
pub fn settled<T>(result: SysResult<T>) -> Option<SysResult<T>> {
    match result {
        Err(EAGAIN) => None,
        result => Some(result),
    }
}
