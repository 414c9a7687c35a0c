//! What the gofer answers: [`Reply`] and its bytes. A descriptor that belongs to a reply travels beside it.
//!
//! Layout: `errno: u16`; when zero, `tag: u8` and the fields.

use abi::errno::{self, Errno};

use crate::attr::{Attr, FileSystemStat, FileType};
use crate::codec::{DecodeError, Decoder, Encoder, errno_field};
use crate::name::Name;
use crate::request::HandleId;
use crate::{MAX_AHEAD, MAX_LINK, MAX_MESSAGE, MAX_WALK};

bitflags::bitflags! {
    /// What the gofer was told of a tree.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct TreeFlags: u8 {
        /// Nothing in it can be changed: `EROFS`.
        const READ_ONLY = 1;
        /// Nobody but this sentry changes it, so that what was seen may be cached.
        const EXCLUSIVE = 2;
        /// Its unix sockets may be connected to, and new ones bound.
        const HOST_SOCKETS = 4;
    }
}

/// One component a walk reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalkStep {
    pub handle: HandleId,
    pub attr: Attr,
}

/// One component that a walk over known files reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowStep {
    /// A file now held; `None` where the name still stands for the file it was said to stand for.
    pub handle: Option<HandleId>,
    pub attr: Attr,
}

/// Why a walk ended after its last step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalkStop {
    /// Every name was reached, and the last is no symbolic link.
    Complete,
    /// The last step is a symbolic link with this target, whether or not names are left.
    Symlink(Vec<u8>),
    /// The component after the last step could not be reached.
    Failed(Errno),
}

/// What became of a walk's wish to open its last component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenOutcome {
    /// Not asked for, not reached, or no regular file.
    None,
    /// The descriptor travels with the reply.
    Opened,
    Failed(Errno),
}

/// One entry of a directory, never `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    pub name: Vec<u8>,
    pub ino: u64,
    pub kind: FileType,
    /// Where to go on after this entry.
    pub cookie: u64,
    /// When asked for, and the entry still existed.
    pub attr: Option<Attr>,
}

impl DirEntry {
    /// An upper bound of an encoded entry's size, its name aside.
    pub const MAX_ENCODED_OVERHEAD: usize = 2 + 8 + 1 + 8 + 1 + Attr::MAX_ENCODED;
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The call failed.
    Failed(Errno),
    /// Done, with nothing to tell; or a descriptor alone.
    Done,
    /// A tree's root, and what the gofer was told of the tree.
    Attached {
        handle: HandleId,
        attr: Attr,
        flags: TreeFlags,
    },
    /// A file now held: creations, links; a created or bound descriptor beside it.
    File {
        handle: HandleId,
        attr: Attr,
    },
    Walked {
        steps: Vec<WalkStep>,
        stop: WalkStop,
        open: OpenOutcome,
    },
    /// As `Walked`, with the attributes of where the walk began.
    Followed {
        from: Attr,
        steps: Vec<FollowStep>,
        stop: WalkStop,
        open: OpenOutcome,
        /// Of the names that were to be opened ahead, in their order: those that were. Their descriptors come in that order,
        /// after the one of the walk's end.
        ahead: Vec<Option<FollowStep>>,
    },
    Attr(Attr),
    /// A directory is watched: the number its events carry, and its attributes since. The queue of events travels
    /// with the reply.
    Watched {
        number: u32,
        attr: Attr,
    },
    FileSystem(FileSystemStat),
    /// A link's target, an attribute's value, or names each ended by NUL.
    Bytes(Vec<u8>),
    /// Part of a directory; `end` when nothing follows.
    Entries {
        entries: Vec<DirEntry>,
        end: bool,
    },
}

impl Reply {
    /// Replaces `out` with the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        let out = &mut Encoder::new(out);
        if let Self::Failed(error) = self {
            return out.u16(errno_field(*error));
        }
        out.u16(0);
        match self {
            Self::Failed(_) => {}
            Self::Done => out.u8(0),
            Self::Attached { handle, attr, flags } => {
                out.u8(7);
                handle.encode(out);
                attr.encode(out);
                out.u8(flags.bits());
            }
            Self::File { handle, attr } => {
                out.u8(1);
                handle.encode(out);
                attr.encode(out);
            }
            Self::Walked { steps, stop, open } => {
                out.u8(2);
                out.u8(u8::try_from(steps.len()).unwrap_or(u8::MAX));
                steps.iter().for_each(|step| {
                    step.handle.encode(out);
                    step.attr.encode(out);
                });
                stop.encode(out);
                open.encode(out);
            }
            Self::Followed { from, steps, stop, open, ahead } => {
                out.u8(8);
                from.encode(out);
                out.u8(u8::try_from(steps.len()).unwrap_or(u8::MAX));
                steps.iter().for_each(|step| step.encode(out));
                stop.encode(out);
                open.encode(out);
                out.u8(u8::try_from(ahead.len()).unwrap_or(u8::MAX));
                ahead.iter().for_each(|step| out.option(step.as_ref(), |out, step| step.encode(out)));
            }
            Self::Attr(attr) => {
                out.u8(3);
                attr.encode(out);
            }
            Self::Watched { number, attr } => {
                out.u8(9);
                out.u32(*number);
                attr.encode(out);
            }
            Self::FileSystem(stat) => {
                out.u8(4);
                stat.encode(out);
            }
            Self::Bytes(bytes) => {
                out.u8(5);
                out.bytes(bytes);
            }
            Self::Entries { entries, end } => {
                out.u8(6);
                out.u8(u8::from(*end));
                out.u16(u16::try_from(entries.len()).unwrap_or(u16::MAX));
                entries.iter().for_each(|entry| entry.encode(out));
            }
        }
    }

    /// Reads a message.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Decoder::new(message);
        let reply = match input.errno()? {
            Some(error) => Self::Failed(error),
            None => Self::decode_fields(&mut input)?,
        };
        input.finish()?;
        Ok(reply)
    }

    fn decode_fields(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match input.u8()? {
            0 => Self::Done,
            1 => Self::File { handle: HandleId::decode(input)?, attr: Attr::decode(input)? },
            2 => Self::Walked {
                steps: decode_steps(input)?,
                stop: WalkStop::decode(input)?,
                open: OpenOutcome::decode(input)?,
            },
            3 => Self::Attr(Attr::decode(input)?),
            4 => Self::FileSystem(FileSystemStat::decode(input)?),
            5 => Self::Bytes(input.bytes(MAX_MESSAGE)?.to_vec()),
            6 => {
                let end = match input.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(DecodeError::BadValue),
                };
                // The count allocates nothing: a lying one runs out of bytes.
                let count = input.u16()?;
                let entries = (0..count).map(|_| DirEntry::decode(input)).collect::<Result<_, _>>()?;
                Self::Entries { entries, end }
            }
            7 => Self::Attached {
                handle: HandleId::decode(input)?,
                attr: Attr::decode(input)?,
                flags: TreeFlags::from_bits(input.u8()?).ok_or(DecodeError::BadValue)?,
            },
            8 => Self::Followed {
                from: Attr::decode(input)?,
                steps: decode_follow_steps(input)?,
                stop: WalkStop::decode(input)?,
                open: OpenOutcome::decode(input)?,
                ahead: decode_ahead(input)?,
            },
            9 => Self::Watched { number: input.u32()?, attr: Attr::decode(input)? },
            _ => return Err(DecodeError::UnknownTag),
        })
    }
}

fn decode_follow_steps(input: &mut Decoder<'_>) -> Result<Vec<FollowStep>, DecodeError> {
    let count = usize::from(input.u8()?);
    if count > MAX_WALK {
        return Err(DecodeError::TooMany);
    }
    (0..count).map(|_| FollowStep::decode(input)).collect()
}

fn decode_ahead(input: &mut Decoder<'_>) -> Result<Vec<Option<FollowStep>>, DecodeError> {
    let count = usize::from(input.u8()?);
    if count > MAX_AHEAD {
        return Err(DecodeError::TooMany);
    }
    (0..count).map(|_| input.option(FollowStep::decode)).collect()
}

fn decode_steps(input: &mut Decoder<'_>) -> Result<Vec<WalkStep>, DecodeError> {
    let count = usize::from(input.u8()?);
    if count > MAX_WALK {
        return Err(DecodeError::TooMany);
    }
    (0..count)
        .map(|_| Ok(WalkStep { handle: HandleId::decode(input)?, attr: Attr::decode(input)? }))
        .collect()
}

impl FollowStep {
    fn encode(&self, out: &mut Encoder<'_>) {
        out.option(self.handle, |out, handle| handle.encode(out));
        self.attr.encode(out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self { handle: input.option(HandleId::decode)?, attr: Attr::decode(input)? })
    }
}

impl WalkStop {
    fn encode(&self, out: &mut Encoder<'_>) {
        match self {
            Self::Complete => out.u8(0),
            Self::Symlink(target) => {
                out.u8(1);
                out.bytes(target);
            }
            Self::Failed(error) => {
                out.u8(2);
                out.u16(errno_field(*error));
            }
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match input.u8()? {
            0 => Self::Complete,
            1 => Self::Symlink(input.bytes(MAX_LINK)?.to_vec()),
            2 => Self::Failed(input.errno()?.ok_or(DecodeError::BadValue)?),
            _ => return Err(DecodeError::BadValue),
        })
    }
}

impl OpenOutcome {
    /// Whether a descriptor travels with the reply.
    pub(crate) fn is_opened(self) -> bool {
        matches!(self, Self::Opened)
    }

    fn encode(self, out: &mut Encoder<'_>) {
        match self {
            Self::None => out.u8(0),
            Self::Opened => out.u8(1),
            Self::Failed(error) => {
                out.u8(2);
                out.u16(errno_field(error));
            }
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match input.u8()? {
            0 => Self::None,
            1 => Self::Opened,
            2 => Self::Failed(input.errno()?.ok_or(DecodeError::BadValue)?),
            _ => return Err(DecodeError::BadValue),
        })
    }
}

impl DirEntry {
    fn encode(&self, out: &mut Encoder<'_>) {
        out.bytes(&self.name);
        out.u64(self.ino);
        out.u8(self.kind.dirent_type());
        out.u64(self.cookie);
        out.option(self.attr.as_ref(), |out, attr| attr.encode(out));
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: Name::decode(input)?.as_bytes().to_vec(),
            ino: input.u64()?,
            kind: FileType::from_dirent_type(input.u8()?),
            cookie: input.u64()?,
            attr: input.option(Attr::decode)?,
        })
    }
}

impl From<Result<Reply, Errno>> for Reply {
    fn from(result: Result<Reply, Errno>) -> Self {
        result.unwrap_or_else(Reply::Failed)
    }
}

/// The error for a reply that does not answer the request asked.
pub(crate) const MISMATCH: Errno = errno::EIO;
