//! Directory records as `getdents64(2)` and the older `getdents(2)` deliver them.
//!
//! [`DirentEncoder`] fills a kernel-side buffer, record by record, and says when the next one no
//! longer fits; the system call copies the bytes out. Neighbours: `files` (entry types).

use crate::define::constants;
use crate::errno::{EINVAL, Errno};
use crate::files::FileType;

constants! {
    /// `d_type` of a directory entry.
    DT_NAMES: u8 {
        DT_UNKNOWN = 0, DT_FIFO = 1, DT_CHR = 2, DT_DIR = 4, DT_BLK = 6,
        DT_REG = 8, DT_LNK = 10, DT_SOCK = 12, DT_WHT = 14,
    }
}

/// Which record the application asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirentFormat {
    /// `struct linux_dirent64`: inode, offset, length, type, name.
    Dirent64,
    /// `struct linux_dirent`: the type is the record's last byte.
    Dirent,
}

/// One entry before encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dirent64<'a> {
    /// Inode number.
    pub inode: u64,
    /// Where the listing goes on after this entry.
    pub next_offset: i64,
    /// Type, `None` if the file system does not say.
    pub file_type: Option<FileType>,
    /// Name without NUL.
    pub name: &'a [u8],
}

/// Collects records up to a limit in bytes.
#[derive(Debug)]
pub struct DirentEncoder {
    format: DirentFormat,
    limit: usize,
    bytes: Vec<u8>,
    refused: bool,
}

/// Bytes before the name in a `linux_dirent64`: inode, offset, record length, type.
const HEADER_64: usize = 19;
/// Bytes before the name in a `linux_dirent`: inode, offset, record length.
const HEADER_OLD: usize = 18;

impl DirentEncoder {
    /// An encoder that holds at most `limit` bytes, and at most what a listing may sensibly hold.
    pub fn new(format: DirentFormat, limit: usize) -> Self {
        Self { format, limit, bytes: Vec::new(), refused: false }
    }

    /// How long the record of a name is: a multiple of 8, with at least one NUL.
    pub const fn record_length(format: DirentFormat, name_length: usize) -> usize {
        let bare = match format {
            DirentFormat::Dirent64 => HEADER_64 + name_length + 1,
            DirentFormat::Dirent => HEADER_OLD + name_length + 2,
        };
        bare.next_multiple_of(8)
    }

    /// Adds a record; `false` if it does not fit any more (or its name is absurdly long).
    #[must_use]
    pub fn push(&mut self, entry: Dirent64<'_>) -> bool {
        let length = Self::record_length(self.format, entry.name.len());
        let fits = self.bytes.len().checked_add(length).is_some_and(|end| end <= self.limit);
        let (true, Ok(record_length)) = (fits, u16::try_from(length)) else {
            self.refused = true;
            return false;
        };
        let d_type = entry.file_type.map_or(DT_UNKNOWN, FileType::d_type);
        let end = self.bytes.len() + length;
        self.bytes.extend_from_slice(&entry.inode.to_le_bytes());
        self.bytes.extend_from_slice(&entry.next_offset.to_le_bytes());
        self.bytes.extend_from_slice(&record_length.to_le_bytes());
        if self.format == DirentFormat::Dirent64 {
            self.bytes.push(d_type);
        }
        self.bytes.extend_from_slice(entry.name);
        self.bytes.resize(end, 0);
        if self.format == DirentFormat::Dirent
            && let Some(last) = self.bytes.last_mut()
        {
            *last = d_type;
        }
        true
    }

    /// Whether no record was added yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The records; `EINVAL` if there was one and not even the first fitted, as Linux does.
    pub fn finish(self) -> Result<Vec<u8>, Errno> {
        if self.bytes.is_empty() && self.refused { Err(EINVAL) } else { Ok(self.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: Dirent64<'_> =
        Dirent64 { inode: 7, next_offset: 3, file_type: Some(FileType::Directory), name: b"abcd" };

    #[test]
    fn records_are_aligned_and_terminated() {
        let mut encoder = DirentEncoder::new(DirentFormat::Dirent64, 48);
        assert!(encoder.push(ENTRY));
        assert!(!encoder.push(Dirent64 { name: b"abcde", file_type: None, ..ENTRY }));
        let bytes = encoder.finish().unwrap();
        assert_eq!(bytes.len(), 24);
        assert_eq!(bytes[16..], [24, 0, DT_DIR, b'a', b'b', b'c', b'd', 0]);
    }

    #[test]
    fn the_old_record_ends_with_its_type() {
        let mut encoder = DirentEncoder::new(DirentFormat::Dirent, 24);
        assert!(encoder.push(ENTRY));
        assert_eq!(encoder.finish().unwrap()[16..], [24, 0, b'a', b'b', b'c', b'd', 0, DT_DIR]);
    }

    #[test]
    fn a_first_record_that_does_not_fit_is_einval_and_no_record_is_not() {
        let mut encoder = DirentEncoder::new(DirentFormat::Dirent64, 23);
        assert!(!encoder.push(ENTRY));
        assert_eq!(encoder.finish(), Err(EINVAL));
        assert_eq!(DirentEncoder::new(DirentFormat::Dirent64, 0).finish(), Ok(Vec::new()));
    }
}
