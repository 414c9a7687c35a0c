//! Space, holes, synchronisation and appending for [`HostFile`]: what file systems need beyond reading and writing.
//!
//! Neighbours: `tmpfs/content.rs` (memory files), `gofer/file.rs` (donated files), `overlay/data.rs` (copying up).
//! Every function is one host call on a descriptor the sentry already holds.

use std::os::fd::AsFd;

use abi::errno::{EINVAL, SysResult};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::{FileStat, fstat};
use nix::unistd::{Whence, fdatasync, fsync, lseek, write};

use crate::memory::{HostFile, errno};
use crate::vfs::DataOnly;

/// Where data or a hole begins (`man 2 lseek`, `SEEK_DATA` and `SEEK_HOLE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// `SEEK_DATA`
    Data,
    /// `SEEK_HOLE`
    Hole,
}

impl Extent {
    /// From `whence`, if it asks for one.
    pub const fn from_whence(whence: u32) -> Option<Self> {
        match whence.cast_signed() {
            libc::SEEK_DATA => Some(Self::Data),
            libc::SEEK_HOLE => Some(Self::Hole),
            _ => None,
        }
    }
}

impl HostFile {
    /// What the host knows of the file.
    ///
    /// # Errors
    /// The host's.
    pub fn status(&self) -> SysResult<FileStat> {
        fstat(self).map_err(errno)
    }

    /// Finds the next data or hole at or after `offset`. Moves the host's file position, which nothing else relies on.
    ///
    /// # Errors
    /// `ENXIO` at or behind the end.
    pub fn find_extent(&self, offset: u64, what: Extent) -> SysResult<u64> {
        let whence = match what {
            Extent::Data => Whence::SeekData,
            Extent::Hole => Whence::SeekHole,
        };
        let found = lseek(self, i64::try_from(offset).map_err(|_| EINVAL)?, whence).map_err(errno)?;
        u64::try_from(found).map_err(|_| EINVAL)
    }

    /// `fallocate` with the flags of `man 2 fallocate`.
    ///
    /// # Errors
    /// The host's.
    pub fn change_space(&self, mode: u32, offset: u64, length: u64) -> SysResult<()> {
        let flags = FallocateFlags::from_bits(mode.cast_signed()).ok_or(abi::errno::EOPNOTSUPP)?;
        let (offset, length) = (i64::try_from(offset), i64::try_from(length));
        let (Ok(offset), Ok(length)) = (offset, length) else { return Err(abi::errno::EFBIG) };
        fallocate(self, flags, offset, length).map_err(errno)
    }

    /// Makes the host write the file to its storage.
    ///
    /// # Errors
    /// The host's.
    pub fn synchronise(&self, data_only: DataOnly) -> SysResult<()> {
        match data_only {
            DataOnly::Yes => fdatasync(self),
            DataOnly::No => fsync(self),
        }
        .map_err(errno)
    }

    /// Writes at the end of a file that the host opened with `O_APPEND`; returns the offset behind the bytes. If
    /// several append at once the offset may be that of a later one.
    ///
    /// # Errors
    /// The host's.
    pub fn append(&self, bytes: &[u8]) -> SysResult<(usize, u64)> {
        let count = write(self.as_fd(), bytes).map_err(errno)?;
        let end = lseek(self, 0, Whence::SeekCur).map_err(errno)?;
        Ok((count, u64::try_from(end).map_err(|_| EINVAL)?))
    }
}
