//! What `stat(2)` and `statfs(2)` tell of a file, and what `chmod`, `chown`, `truncate` and `utimensat` change.

use crate::codec::{DecodeError, Decoder, Encoder};

/// A device number in its two parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct DeviceNumber {
    pub major: u32,
    pub minor: u32,
}

/// A point in time since 1970; `nanoseconds` is below 1,000,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// The type bits of a mode (`man 7 inode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileType {
    Fifo,
    CharacterDevice,
    Directory,
    BlockDevice,
    Regular,
    Symlink,
    Socket,
    /// Bits no Linux type has, or a directory entry whose file system does not tell (`DT_UNKNOWN`).
    Unknown,
}

/// `S_IFMT`.
const TYPE_MASK: u32 = 0o170_000;

impl FileType {
    /// The type in a mode's upper bits.
    pub fn from_mode(mode: u32) -> Self {
        Self::from_dirent_type(u8::try_from((mode & TYPE_MASK) >> 12).unwrap_or(0))
    }

    /// The type behind a `DT_*` number, which is a mode's type bits shifted down.
    pub fn from_dirent_type(number: u8) -> Self {
        match number {
            1 => Self::Fifo,
            2 => Self::CharacterDevice,
            4 => Self::Directory,
            6 => Self::BlockDevice,
            8 => Self::Regular,
            10 => Self::Symlink,
            12 => Self::Socket,
            _ => Self::Unknown,
        }
    }

    /// The `DT_*` number.
    pub fn dirent_type(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Fifo => 1,
            Self::CharacterDevice => 2,
            Self::Directory => 4,
            Self::BlockDevice => 6,
            Self::Regular => 8,
            Self::Symlink => 10,
            Self::Socket => 12,
        }
    }
}

/// A file's attributes as `statx(2)` gives them. Owners and device numbers are the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attr {
    /// The host device that holds the file: with `ino` it names the inode.
    pub device: DeviceNumber,
    pub ino: u64,
    /// Type and permission bits.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// What a device node stands for.
    pub rdev: DeviceNumber,
    pub size: u64,
    /// Allocated blocks of 512 bytes.
    pub blocks: u64,
    pub block_size: u32,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    /// Birth, where the file system keeps it.
    pub btime: Option<Timestamp>,
}

impl Attr {
    /// An upper bound of an encoded attribute's size.
    pub const MAX_ENCODED: usize = 120;

    /// The file's type.
    pub fn file_type(&self) -> FileType {
        FileType::from_mode(self.mode)
    }

    pub(crate) fn encode(&self, out: &mut Encoder<'_>) {
        self.device.encode(out);
        out.u64(self.ino);
        for field in [self.mode, self.nlink, self.uid, self.gid] {
            out.u32(field);
        }
        self.rdev.encode(out);
        out.u64(self.size);
        out.u64(self.blocks);
        out.u32(self.block_size);
        for time in [self.atime, self.mtime, self.ctime] {
            time.encode(out);
        }
        out.option(self.btime, |out, time| time.encode(out));
    }

    pub(crate) fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            device: DeviceNumber::decode(input)?,
            ino: input.u64()?,
            mode: input.u32()?,
            nlink: input.u32()?,
            uid: input.u32()?,
            gid: input.u32()?,
            rdev: DeviceNumber::decode(input)?,
            size: input.u64()?,
            blocks: input.u64()?,
            block_size: input.u32()?,
            atime: Timestamp::decode(input)?,
            mtime: Timestamp::decode(input)?,
            ctime: Timestamp::decode(input)?,
            btime: input.option(Timestamp::decode)?,
        })
    }
}

impl DeviceNumber {
    pub(crate) fn encode(self, out: &mut Encoder<'_>) {
        out.u32(self.major);
        out.u32(self.minor);
    }

    pub(crate) fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self { major: input.u32()?, minor: input.u32()? })
    }
}

impl Timestamp {
    fn encode(self, out: &mut Encoder<'_>) {
        out.i64(self.seconds);
        out.u32(self.nanoseconds);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let time = Self { seconds: input.i64()?, nanoseconds: input.u32()? };
        if time.nanoseconds < 1_000_000_000 { Ok(time) } else { Err(DecodeError::BadValue) }
    }
}

/// What `statfs(2)` tells of the file system that holds a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileSystemStat {
    /// The magic number.
    pub kind: u64,
    pub block_size: u64,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub name_length: u64,
    pub fragment_size: u64,
}

impl FileSystemStat {
    pub(crate) fn encode(&self, out: &mut Encoder<'_>) {
        for field in [
            self.kind,
            self.block_size,
            self.blocks,
            self.blocks_free,
            self.blocks_available,
            self.files,
            self.files_free,
            self.name_length,
            self.fragment_size,
        ] {
            out.u64(field);
        }
    }

    pub(crate) fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            kind: input.u64()?,
            block_size: input.u64()?,
            blocks: input.u64()?,
            blocks_free: input.u64()?,
            blocks_available: input.u64()?,
            files: input.u64()?,
            files_free: input.u64()?,
            name_length: input.u64()?,
            fragment_size: input.u64()?,
        })
    }
}

/// A new access or modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// `UTIME_NOW`.
    Now,
    At(Timestamp),
}

impl SetTime {
    fn encode(self, out: &mut Encoder<'_>) {
        match self {
            Self::Now => out.u8(0),
            Self::At(time) => {
                out.u8(1);
                time.encode(out);
            }
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        match input.u8()? {
            0 => Ok(Self::Now),
            1 => Timestamp::decode(input).map(Self::At),
            _ => Err(DecodeError::BadValue),
        }
    }
}

/// The attributes to change; `None` leaves one alone. Applied in this order: size, owner, mode, times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// Permission bits, at most `0o7777`.
    pub mode: Option<u32>,
    /// Not `u32::MAX`, which `chown(2)` reads as "leave it".
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

impl SetAttr {
    pub(crate) fn encode(&self, out: &mut Encoder<'_>) {
        for field in [self.mode, self.uid, self.gid] {
            out.option(field, Encoder::u32);
        }
        out.option(self.size, Encoder::u64);
        for time in [self.atime, self.mtime] {
            out.option(time, |out, time| time.encode(out));
        }
    }

    pub(crate) fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            mode: input.option(permissions)?,
            uid: input.option(owner)?,
            gid: input.option(owner)?,
            size: input.option(file_size)?,
            atime: input.option(SetTime::decode)?,
            mtime: input.option(SetTime::decode)?,
        })
    }
}

/// Permission bits including set-id and sticky, nothing else.
pub(crate) fn permissions(input: &mut Decoder<'_>) -> Result<u32, DecodeError> {
    match input.u32()? {
        mode @ 0..=0o7777 => Ok(mode),
        _ => Err(DecodeError::BadValue),
    }
}

/// An owner's number; `-1` is none.
pub(crate) fn owner(input: &mut Decoder<'_>) -> Result<u32, DecodeError> {
    match input.u32()? {
        u32::MAX => Err(DecodeError::BadValue),
        id => Ok(id),
    }
}

/// A size that `loff_t` can hold.
fn file_size(input: &mut Decoder<'_>) -> Result<u64, DecodeError> {
    let size = input.u64()?;
    if i64::try_from(size).is_ok() { Ok(size) } else { Err(DecodeError::BadValue) }
}
