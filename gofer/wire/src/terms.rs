//! What requests are made of besides names and handles: access modes, flags, kinds of files and sockets.

use crate::attr::{self, DeviceNumber};
use crate::codec::{DecodeError, Decoder, Encoder};

/// Reading, writing or both (`O_ACCMODE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    ReadWrite,
}

bitflags::bitflags! {
    /// What `open(2)` takes besides the access mode; Linux's values. Whatever is not here (`O_CREAT`, `O_PATH`,
    /// `O_DIRECTORY`, …) is the sentry's business.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct OpenFlags: u32 {
        const TRUNC = 0o1000;
        const APPEND = 0o2000;
        const NONBLOCK = 0o4000;
        const DSYNC = 0o10_000;
        const DIRECT = 0o40_000;
        const NOATIME = 0o1_000_000;
        /// `O_SYNC` is this bit and `O_DSYNC`.
        const SYNC = 0o4_010_000;
    }

    /// `renameat2(2)`'s flags; the two exclude each other.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct RenameFlags: u32 {
        const NOREPLACE = 1;
        const EXCHANGE = 2;
    }

    /// `setxattr(2)`'s flags; the two exclude each other.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct XattrFlags: u32 {
        const CREATE = 1;
        const REPLACE = 2;
    }

    /// What a directory listing should bring along.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ReadDirFlags: u32 {
        /// Each entry's attributes.
        const ATTRIBUTES = 1;
    }
}

/// Permission bits (at most `0o7777`, taken as they are: no umask) and owners of a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateMode {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// What `mknod(2)` makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialFile {
    Regular,
    Fifo,
    Socket,
    CharacterDevice(DeviceNumber),
    BlockDevice(DeviceNumber),
}

/// The kinds of unix sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketType {
    Stream,
    Datagram,
    SeqPacket,
}

impl Access {
    pub(crate) fn encode(self, out: &mut Encoder<'_>) {
        out.u8(match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::ReadWrite => 2,
        });
    }

    pub(crate) fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        match input.u8()? {
            0 => Ok(Self::Read),
            1 => Ok(Self::Write),
            2 => Ok(Self::ReadWrite),
            _ => Err(DecodeError::BadValue),
        }
    }

    /// Whether the descriptor can be written.
    pub fn writes(self) -> bool {
        !matches!(self, Self::Read)
    }
}

impl CreateMode {
    pub(crate) fn encode(&self, out: &mut Encoder<'_>) {
        for field in [self.mode, self.uid, self.gid] {
            out.u32(field);
        }
    }

    pub(crate) fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self { mode: attr::permissions(input)?, uid: attr::owner(input)?, gid: attr::owner(input)? })
    }
}

impl SpecialFile {
    pub(crate) fn encode(self, out: &mut Encoder<'_>) {
        match self {
            Self::Regular => out.u8(0),
            Self::Fifo => out.u8(1),
            Self::Socket => out.u8(2),
            Self::CharacterDevice(device) => {
                out.u8(3);
                device.encode(out);
            }
            Self::BlockDevice(device) => {
                out.u8(4);
                device.encode(out);
            }
        }
    }

    pub(crate) fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        match input.u8()? {
            0 => Ok(Self::Regular),
            1 => Ok(Self::Fifo),
            2 => Ok(Self::Socket),
            3 => DeviceNumber::decode(input).map(Self::CharacterDevice),
            4 => DeviceNumber::decode(input).map(Self::BlockDevice),
            _ => Err(DecodeError::BadValue),
        }
    }
}

impl SocketType {
    pub(crate) fn encode(self, out: &mut Encoder<'_>) {
        out.u8(match self {
            Self::Stream => 1,
            Self::Datagram => 2,
            Self::SeqPacket => 5,
        });
    }

    pub(crate) fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        match input.u8()? {
            1 => Ok(Self::Stream),
            2 => Ok(Self::Datagram),
            5 => Ok(Self::SeqPacket),
            _ => Err(DecodeError::BadValue),
        }
    }
}
