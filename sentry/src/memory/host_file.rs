//! Host descriptors that the sentry owns: memory files it made itself, and files the gofer opened for it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};

use abi::errno::{EINVAL, Errno, SysResult};
use nix::sys::memfd::{MFdFlags, memfd_create};
use platform::Protection;

use crate::vfs::new_identity;

/// An open host file. Everything here is a plain host call on the descriptor; none follows a path.
pub struct HostFile {
    descriptor: OwnedFd,
    /// How the host has mapped it privately before, by [`way`].
    mapped: AtomicU8,
    /// See [`HostFile::identity`].
    identity: u64,
}

impl HostFile {
    /// Takes over a descriptor.
    pub fn new(descriptor: OwnedFd) -> Self {
        Self { descriptor, mapped: AtomicU8::new(0), identity: new_identity() }
    }

    /// A number that no other one has, nor will have.
    pub const fn identity(&self) -> u64 {
        self.identity
    }

    /// A new memory file, empty.
    ///
    /// # Errors
    /// `EMFILE`, `ENOMEM`.
    pub fn memory(name: &std::ffi::CStr) -> SysResult<Self> {
        memfd_create(name, MFdFlags::MFD_CLOEXEC).map(Self::new).map_err(errno)
    }

    /// Reads at an offset.
    ///
    /// # Errors
    /// The host's.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> SysResult<usize> {
        nix::sys::uio::pread(&self.descriptor, buffer, signed(offset)?).map_err(errno)
    }

    /// Writes at an offset.
    ///
    /// # Errors
    /// The host's.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> SysResult<usize> {
        nix::sys::uio::pwrite(&self.descriptor, bytes, signed(offset)?).map_err(errno)
    }

    /// The host has mapped it privately with this protection.
    pub fn note_mapped(&self, protection: Protection) {
        self.mapped.fetch_or(way(protection), Ordering::Relaxed);
    }

    /// Whether the host is known to map it privately with this protection: what is left to go wrong is a want of memory.
    pub fn is_known_to_map(&self, protection: Protection) -> bool {
        self.mapped.load(Ordering::Relaxed) & way(protection) != 0
    }

    /// Sets the size.
    ///
    /// # Errors
    /// The host's.
    pub fn set_size(&self, size: u64) -> SysResult<()> {
        nix::unistd::ftruncate(&self.descriptor, signed(size)?).map_err(errno)
    }
}

/// One bit for each protection.
fn way(protection: Protection) -> u8 {
    1 << (u8::from(protection.read) | u8::from(protection.write) << 1 | u8::from(protection.execute) << 2)
}

impl AsFd for HostFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn signed(offset: u64) -> SysResult<i64> {
    i64::try_from(offset).map_err(|_| EINVAL)
}

/// The application's view of a host error.
pub fn errno(error: nix::Error) -> Errno {
    Errno::from_raw(error as i32)
}
