//! Messages over a Unix stream socket: a little-endian length, then JSON; descriptors ride on the first byte.
//!
//! Key type: [`Channel`]. Neighbours: the control socket (`control.rs`, `client.rs`) and the boot hand-over (`start.rs`,
//! `boot.rs`). Invariants: a message is sent whole under a lock, so threads may share a channel; a message longer than
//! [`MESSAGE_LIMIT`] is refused before anything is allocated for it; received descriptors are close-on-exec and owned.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::spawn::receive_with_descriptors;

/// Longest message: `exec` carries arguments and environment, which Linux itself bounds to a few megabytes.
const MESSAGE_LIMIT: usize = 16 << 20;

/// Why a message could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other side has closed the connection between messages.
    #[error("connection closed")]
    Closed,
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not a message of this protocol.
    #[error("malformed message: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It is longer than any honest message.
    #[error("message of {0} bytes is too long")]
    TooLong(usize),
}

/// One end of a connection.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    sending: Mutex<()>,
}

impl Channel {
    /// Takes a connected socket.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, sending: Mutex::new(()) }
    }

    /// The socket, to be polled.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The socket, when all has been said.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Sends one message and lends the descriptors to the other side.
    pub fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let body = serde_json::to_vec(message)?;
        if body.len() > MESSAGE_LIMIT {
            return Err(ChannelError::TooLong(body.len()));
        }
        let mut bytes = Vec::with_capacity(body.len() + 4);
        bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(&body);
        let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let control = [ControlMessage::ScmRights(&raw)];
        let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &control };

        let _whole = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = loop {
            let first = [IoSlice::new(&bytes)];
            match sendmsg::<()>(self.stream.as_raw_fd(), &first, control, MsgFlags::MSG_NOSIGNAL, None) {
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EPIPE | nix::Error::ECONNRESET) => return Err(ChannelError::Closed),
                outcome => break outcome.map_err(io::Error::from)?,
            }
        };
        // Rust ignores SIGPIPE, so `write_all` may be used for the rest.
        (&self.stream).write_all(&bytes[sent..]).map_err(ChannelError::from)
    }

    /// Waits for one message. Only one thread may receive.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        let mut length = [0u8; 4];
        let (got, fds) = self.first_bytes(&mut length)?;
        if got == 0 {
            return Err(ChannelError::Closed);
        }
        (&self.stream).read_exact(&mut length[got..])?;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > MESSAGE_LIMIT {
            return Err(ChannelError::TooLong(length));
        }
        let mut body = vec![0u8; length];
        (&self.stream).read_exact(&mut body)?;
        Ok((serde_json::from_slice(&body)?, fds))
    }

    fn first_bytes(&self, into: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), ChannelError> {
        loop {
            match receive_with_descriptors(&self.stream, into) {
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::ECONNRESET) => return Ok((0, Vec::new())),
                outcome => return Ok(outcome.map_err(io::Error::from)?),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Seek;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let (left, right) = UnixStream::pair().unwrap();
        let (left, right) = (Channel::new(left), Channel::new(right));
        let long = "x".repeat(3 << 20);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"hello").unwrap();
        let sender = std::thread::spawn({
            let long = long.clone();
            move || left.send(&long, &[file.as_fd()]).unwrap()
        });
        let (text, mut fds) = right.receive::<String>().unwrap();
        sender.join().unwrap();
        assert_eq!(text, long);
        let mut copy = std::fs::File::from(fds.remove(0));
        copy.rewind().unwrap();
        let mut content = String::new();
        copy.read_to_string(&mut content).unwrap();
        assert_eq!(content, "hello");
        assert!(fds.is_empty());
        assert!(matches!(right.receive::<String>(), Err(ChannelError::Closed)));
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused() {
        let (mut left, right) = UnixStream::pair().unwrap();
        left.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(matches!(Channel::new(right).receive::<String>(), Err(ChannelError::TooLong(_))));
    }
}
