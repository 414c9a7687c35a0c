//! What the sentry may ask: [`Request`] and its bytes; its parts are in `terms.rs`.
//!
//! Layout: `tag: u16, clunks: u16, processor: u16`, the request's fields, then `clunks` handles of 8 bytes to be
//! forgotten first. The clunks come last so that the client learns how many fit. The processor is where the client
//! waits for the answer, a hint ([`processor_of`]).

use crate::attr::{self, SetAttr};
use crate::codec::{DecodeError, Decoder, Encoder};
use crate::name::{Name, XattrName};
use crate::terms::{
    Access, CreateMode, OpenFlags, ReadDirFlags, RenameFlags, SocketType, SpecialFile, XattrFlags,
};
use crate::{MAX_AHEAD, MAX_CLUNKS, MAX_LINK, MAX_WALK, MAX_XATTR};

/// A file the gofer holds for the sentry. Never zero, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandleId(pub u64);

/// One call. See `README.md` for each one's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    Attach {
        tree: u32,
    },
    Walk {
        from: HandleId,
        names: Vec<Name<'a>>,
        open: Option<(Access, OpenFlags)>,
    },
    /// A walk over names of which some were known to be certain files, to see whether they still are.
    Follow {
        from: HandleId,
        /// Each name with the file it stood for.
        names: Vec<(Name<'a>, Option<HandleId>)>,
        open: Option<(Access, OpenFlags)>,
        /// Further names beside the last one, to be opened for reading as well if that is a regular file that can be opened.
        ahead: Vec<(Name<'a>, Option<HandleId>)>,
    },
    Open {
        file: HandleId,
        access: Access,
        flags: OpenFlags,
    },
    Create {
        dir: HandleId,
        name: Name<'a>,
        access: Access,
        flags: OpenFlags,
        mode: CreateMode,
    },
    Mkdir {
        dir: HandleId,
        name: Name<'a>,
        mode: CreateMode,
    },
    Symlink {
        dir: HandleId,
        name: Name<'a>,
        target: &'a [u8],
        uid: u32,
        gid: u32,
    },
    Link {
        file: HandleId,
        dir: HandleId,
        name: Name<'a>,
    },
    Mknod {
        dir: HandleId,
        name: Name<'a>,
        kind: SpecialFile,
        mode: CreateMode,
    },
    Unlink {
        dir: HandleId,
        name: Name<'a>,
    },
    Rmdir {
        dir: HandleId,
        name: Name<'a>,
    },
    Rename {
        from: HandleId,
        old: Name<'a>,
        to: HandleId,
        new: Name<'a>,
        flags: RenameFlags,
    },
    SetAttr {
        file: HandleId,
        changes: SetAttr,
    },
    ReadLink {
        file: HandleId,
    },
    StatFs {
        file: HandleId,
    },
    GetAttr {
        file: HandleId,
    },
    GetXattr {
        file: HandleId,
        name: XattrName<'a>,
    },
    SetXattr {
        file: HandleId,
        name: XattrName<'a>,
        value: &'a [u8],
        flags: XattrFlags,
    },
    ListXattr {
        file: HandleId,
    },
    RemoveXattr {
        file: HandleId,
        name: XattrName<'a>,
    },
    ReadDir {
        dir: HandleId,
        cookie: u64,
        flags: ReadDirFlags,
    },
    Connect {
        socket: HandleId,
        kind: SocketType,
    },
    Bind {
        dir: HandleId,
        name: Name<'a>,
        kind: SocketType,
        mode: CreateMode,
    },
    /// Changes of a directory's names are to be told from now on.
    Watch {
        dir: HandleId,
    },
    /// Nothing of a tree is to be told any more.
    Unwatch {
        tree: u32,
    },
    /// A descriptor of a regular file that tells its attributes and serves nothing else (`O_PATH`).
    StatDescriptor {
        file: HandleId,
    },
    NewChannel,
    /// Only the clunks that ride along.
    Clunk,
}

impl<'a> Request<'a> {
    /// Replaces `out` with the message, without clunks; [`append_clunks`] adds them.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        let out = &mut Encoder::new(out);
        out.u16(self.tag());
        out.u16(0);
        out.u16(NO_PROCESSOR);
        match self {
            Self::Attach { tree } | Self::Unwatch { tree } => out.u32(*tree),
            Self::Watch { dir } => dir.encode(out),
            Self::Walk { from, names, open } => {
                from.encode(out);
                out.u8(u8::try_from(names.len()).unwrap_or(u8::MAX));
                names.iter().for_each(|name| name.encode(out));
                encode_open(*open, out);
            }
            Self::Follow { from, names, open, ahead } => {
                from.encode(out);
                encode_known_names(names, out);
                encode_open(*open, out);
                encode_known_names(ahead, out);
            }
            Self::Open { file, access, flags } => {
                file.encode(out);
                access.encode(out);
                out.u32(flags.bits());
            }
            Self::Create { dir, name, access, flags, mode } => {
                encode_entry(*dir, *name, out);
                access.encode(out);
                out.u32(flags.bits());
                mode.encode(out);
            }
            Self::Mkdir { dir, name, mode } => {
                encode_entry(*dir, *name, out);
                mode.encode(out);
            }
            Self::Symlink { dir, name, target, uid, gid } => {
                encode_entry(*dir, *name, out);
                out.bytes(target);
                out.u32(*uid);
                out.u32(*gid);
            }
            Self::Link { file, dir, name } => {
                file.encode(out);
                encode_entry(*dir, *name, out);
            }
            Self::Mknod { dir, name, kind, mode } => {
                encode_entry(*dir, *name, out);
                kind.encode(out);
                mode.encode(out);
            }
            Self::Unlink { dir, name } | Self::Rmdir { dir, name } => encode_entry(*dir, *name, out),
            Self::Rename { from, old, to, new, flags } => {
                encode_entry(*from, *old, out);
                encode_entry(*to, *new, out);
                out.u32(flags.bits());
            }
            Self::SetAttr { file, changes } => {
                file.encode(out);
                changes.encode(out);
            }
            Self::ReadLink { file }
            | Self::StatFs { file }
            | Self::GetAttr { file }
            | Self::StatDescriptor { file }
            | Self::ListXattr { file } => {
                file.encode(out);
            }
            Self::GetXattr { file, name } | Self::RemoveXattr { file, name } => {
                file.encode(out);
                name.encode(out);
            }
            Self::SetXattr { file, name, value, flags } => {
                file.encode(out);
                name.encode(out);
                out.bytes(value);
                out.u32(flags.bits());
            }
            Self::ReadDir { dir, cookie, flags } => {
                dir.encode(out);
                out.u64(*cookie);
                out.u32(flags.bits());
            }
            Self::Connect { socket, kind } => {
                socket.encode(out);
                kind.encode(out);
            }
            Self::Bind { dir, name, kind, mode } => {
                encode_entry(*dir, *name, out);
                kind.encode(out);
                mode.encode(out);
            }
            Self::NewChannel | Self::Clunk => {}
        }
    }

    /// Reads a message and appends the handles to forget to `clunks`.
    pub fn decode(message: &'a [u8], clunks: &mut Vec<HandleId>) -> Result<Self, DecodeError> {
        let input = &mut Decoder::new(message);
        let tag = input.u16()?;
        let clunk_count = usize::from(input.u16()?);
        let _processor = input.u16()?;
        if clunk_count > MAX_CLUNKS {
            return Err(DecodeError::TooMany);
        }
        let request = Self::decode_fields(tag, input)?;
        if input.remaining() != clunk_count.saturating_mul(8) {
            return Err(if input.remaining() < clunk_count.saturating_mul(8) {
                DecodeError::Truncated
            } else {
                DecodeError::Trailing
            });
        }
        for _ in 0..clunk_count {
            clunks.push(HandleId::decode(input)?);
        }
        Ok(request)
    }

    fn decode_fields(tag: u16, input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        Ok(match tag {
            1 => Self::Attach { tree: input.u32()? },
            2 => Self::Walk {
                from: HandleId::decode(input)?,
                names: decode_names(input)?,
                open: input.option(open)?,
            },
            3 => {
                let file = HandleId::decode(input)?;
                let (access, flags) = open(input)?;
                Self::Open { file, access, flags }
            }
            4 => {
                let (dir, name) = decode_entry(input)?;
                let (access, flags) = open(input)?;
                Self::Create { dir, name, access, flags, mode: CreateMode::decode(input)? }
            }
            5 => {
                let (dir, name) = decode_entry(input)?;
                Self::Mkdir { dir, name, mode: CreateMode::decode(input)? }
            }
            6 => {
                let (dir, name) = decode_entry(input)?;
                let target = link_target(input)?;
                Self::Symlink { dir, name, target, uid: attr::owner(input)?, gid: attr::owner(input)? }
            }
            7 => {
                let file = HandleId::decode(input)?;
                let (dir, name) = decode_entry(input)?;
                Self::Link { file, dir, name }
            }
            8 => {
                let (dir, name) = decode_entry(input)?;
                Self::Mknod { dir, name, kind: SpecialFile::decode(input)?, mode: CreateMode::decode(input)? }
            }
            9 => {
                let (dir, name) = decode_entry(input)?;
                Self::Unlink { dir, name }
            }
            10 => {
                let (dir, name) = decode_entry(input)?;
                Self::Rmdir { dir, name }
            }
            11 => {
                let (from, old) = decode_entry(input)?;
                let (to, new) = decode_entry(input)?;
                let flags = RenameFlags::from_bits(input.u32()?).ok_or(DecodeError::BadValue)?;
                Self::Rename { from, old, to, new, flags: exclusive(flags)? }
            }
            12 => Self::SetAttr { file: HandleId::decode(input)?, changes: SetAttr::decode(input)? },
            13 => Self::ReadLink { file: HandleId::decode(input)? },
            14 => Self::StatFs { file: HandleId::decode(input)? },
            15 => Self::GetAttr { file: HandleId::decode(input)? },
            16 => Self::GetXattr { file: HandleId::decode(input)?, name: XattrName::decode(input)? },
            17 => {
                let file = HandleId::decode(input)?;
                let name = XattrName::decode(input)?;
                let value = input.bytes(MAX_XATTR)?;
                let flags = XattrFlags::from_bits(input.u32()?).ok_or(DecodeError::BadValue)?;
                Self::SetXattr { file, name, value, flags: exclusive(flags)? }
            }
            18 => Self::ListXattr { file: HandleId::decode(input)? },
            19 => Self::RemoveXattr { file: HandleId::decode(input)?, name: XattrName::decode(input)? },
            20 => {
                let (dir, cookie) = (HandleId::decode(input)?, input.u64()?);
                let flags = ReadDirFlags::from_bits(input.u32()?).ok_or(DecodeError::BadValue)?;
                Self::ReadDir { dir, cookie, flags }
            }
            21 => Self::Connect { socket: HandleId::decode(input)?, kind: SocketType::decode(input)? },
            22 => {
                let (dir, name) = decode_entry(input)?;
                Self::Bind { dir, name, kind: SocketType::decode(input)?, mode: CreateMode::decode(input)? }
            }
            23 => Self::NewChannel,
            24 => Self::Clunk,
            25 => Self::Follow {
                from: HandleId::decode(input)?,
                names: decode_known_names(input, MAX_WALK)?,
                open: input.option(open)?,
                ahead: decode_known_names(input, MAX_AHEAD)?,
            },
            26 => Self::Watch { dir: HandleId::decode(input)? },
            27 => Self::Unwatch { tree: input.u32()? },
            28 => Self::StatDescriptor { file: HandleId::decode(input)? },
            _ => return Err(DecodeError::UnknownTag),
        })
    }

    fn tag(&self) -> u16 {
        match self {
            Self::Attach { .. } => 1,
            Self::Walk { .. } => 2,
            Self::Open { .. } => 3,
            Self::Create { .. } => 4,
            Self::Mkdir { .. } => 5,
            Self::Symlink { .. } => 6,
            Self::Link { .. } => 7,
            Self::Mknod { .. } => 8,
            Self::Unlink { .. } => 9,
            Self::Rmdir { .. } => 10,
            Self::Rename { .. } => 11,
            Self::SetAttr { .. } => 12,
            Self::ReadLink { .. } => 13,
            Self::StatFs { .. } => 14,
            Self::GetAttr { .. } => 15,
            Self::GetXattr { .. } => 16,
            Self::SetXattr { .. } => 17,
            Self::ListXattr { .. } => 18,
            Self::RemoveXattr { .. } => 19,
            Self::ReadDir { .. } => 20,
            Self::Connect { .. } => 21,
            Self::Bind { .. } => 22,
            Self::NewChannel => 23,
            Self::Clunk => 24,
            Self::Follow { .. } => 25,
            Self::Watch { .. } => 26,
            Self::Unwatch { .. } => 27,
            Self::StatDescriptor { .. } => 28,
        }
    }
}

/// Appends clunks to an encoded request and notes their number in its header. The caller passes at most
/// [`MAX_CLUNKS`]; more are ignored.
pub fn append_clunks(message: &mut Vec<u8>, clunks: impl Iterator<Item = HandleId>) {
    let mut count: u16 = 0;
    for handle in clunks.take(MAX_CLUNKS) {
        handle.encode(&mut Encoder::new(message));
        count = count.saturating_add(1);
    }
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&count.to_le_bytes());
    }
}

/// In place of a processor: not known.
const NO_PROCESSOR: u16 = u16::MAX;

/// Notes in an encoded request where its sender waits.
pub(crate) fn set_processor(message: &mut [u8], processor: Option<u16>) {
    if let Some(field) = message.get_mut(4..6) {
        field.copy_from_slice(&processor.unwrap_or(NO_PROCESSOR).to_le_bytes());
    }
}

/// Where the sender of a request waits for the answer, if it says so. Any number may stand there.
pub fn processor_of(message: &[u8]) -> Option<u16> {
    let field = message.get(4..6)?.try_into().ok()?;
    Some(u16::from_le_bytes(field)).filter(|processor| *processor != NO_PROCESSOR)
}

impl HandleId {
    pub(crate) fn encode(self, out: &mut Encoder<'_>) {
        out.u64(self.0);
    }

    pub(crate) fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        match input.u64()? {
            0 => Err(DecodeError::BadValue),
            id => Ok(Self(id)),
        }
    }
}

fn encode_entry(dir: HandleId, name: Name<'_>, out: &mut Encoder<'_>) {
    dir.encode(out);
    name.encode(out);
}

fn decode_entry<'a>(input: &mut Decoder<'a>) -> Result<(HandleId, Name<'a>), DecodeError> {
    Ok((HandleId::decode(input)?, Name::decode(input)?))
}

fn decode_names<'a>(input: &mut Decoder<'a>) -> Result<Vec<Name<'a>>, DecodeError> {
    let count = usize::from(input.u8()?);
    if count > MAX_WALK {
        return Err(DecodeError::TooMany);
    }
    (0..count).map(|_| Name::decode(input)).collect()
}

fn encode_known_names(names: &[(Name<'_>, Option<HandleId>)], out: &mut Encoder<'_>) {
    out.u8(u8::try_from(names.len()).unwrap_or(u8::MAX));
    for (name, known) in names {
        name.encode(out);
        out.option(*known, |out, known| known.encode(out));
    }
}

fn decode_known_names<'a>(
    input: &mut Decoder<'a>,
    most: usize,
) -> Result<Vec<(Name<'a>, Option<HandleId>)>, DecodeError> {
    let count = usize::from(input.u8()?);
    if count > most {
        return Err(DecodeError::TooMany);
    }
    (0..count).map(|_| Ok((Name::decode(input)?, input.option(HandleId::decode)?))).collect()
}

fn encode_open(open: Option<(Access, OpenFlags)>, out: &mut Encoder<'_>) {
    out.option(open, |out, (access, flags)| {
        access.encode(out);
        out.u32(flags.bits());
    });
}

fn open(input: &mut Decoder<'_>) -> Result<(Access, OpenFlags), DecodeError> {
    Ok((Access::decode(input)?, OpenFlags::from_bits(input.u32()?).ok_or(DecodeError::BadValue)?))
}

fn link_target<'a>(input: &mut Decoder<'a>) -> Result<&'a [u8], DecodeError> {
    let target = input.bytes(MAX_LINK)?;
    if target.is_empty() || target.contains(&0) { Err(DecodeError::BadValue) } else { Ok(target) }
}

/// Refuses flags that exclude each other.
fn exclusive<F: bitflags::Flags>(flags: F) -> Result<F, DecodeError> {
    if flags.iter().count() > 1 { Err(DecodeError::BadValue) } else { Ok(flags) }
}
