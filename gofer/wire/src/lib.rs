//! The file protocol between the sentry and its gofer: messages, their bytes, and the sentry's client.
//!
//! One request and one reply per exchange, each a datagram of at most [`MAX_MESSAGE`] bytes on a `SOCK_SEQPACKET`
//! socket; at most one descriptor travels with a reply ([`MAX_AHEAD`] more with the answer to `Follow`), none with a request. [`Request`] and [`Reply`] are the
//! messages, [`Client`] makes calls, `gofer::serve` answers them.
//!
//! Invariants: decoding never panics, whatever the bytes (both ends treat the other as hostile); a decoded value
//! cannot be out of range (names are [`Name`]s, flags known, counts bounded). No `unsafe`, no indexing.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attr;
mod channel;
mod client;
mod codec;
mod following;
mod name;
mod reply;
mod request;
mod terms;
mod watching;

pub use attr::{Attr, DeviceNumber, FileSystemStat, FileType, SetAttr, SetTime, Timestamp};
pub use channel::{BrokenChannel, Incoming, receive_request, send, socket_pair};
pub use client::{Attached, Client, Created, Handle, Node, Opened, Walked};
pub use codec::DecodeError;
pub use following::{Early, Followed, Known, Reached};
pub use name::{Name, XattrName};
pub use reply::{DirEntry, FollowStep, OpenOutcome, Reply, TreeFlags, WalkStep, WalkStop};
pub use request::{HandleId, Request, append_clunks, processor_of};
pub use terms::{
    Access, CreateMode, OpenFlags, ReadDirFlags, RenameFlags, SocketType, SpecialFile, XattrFlags,
};
pub use watching::Watching;

/// The longest message, either way.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The most components in one walk.
pub const MAX_WALK: usize = 16;
/// The most files that one walk opens ahead. More take so long that whoever waits for the answer goes to sleep.
pub const MAX_AHEAD: usize = 8;
/// The most channels of one connection, so the most calls at once.
pub const MAX_CHANNELS: u32 = 8;
/// The most clunks that ride on one request.
pub const MAX_CLUNKS: usize = 128;
/// The longest name (`NAME_MAX`, `XATTR_NAME_MAX`).
pub const MAX_NAME: usize = 255;
/// The longest symbolic link target (`PATH_MAX` less its NUL).
pub const MAX_LINK: usize = 4095;
/// The longest extended attribute that fits in a message; Linux's own limit is 65,536.
pub const MAX_XATTR: usize = 60 * 1024;
