//! Host descriptors that the sentry owns: memory files it made itself, and files the gofer opened for it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use abi::errno::{EINVAL, Errno, SysResult};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// An open host file. Everything here is a plain host call on the descriptor; none follows a path.
pub struct HostFile {
    descriptor: OwnedFd,
}

impl HostFile {
    /// Takes over a descriptor.
    pub const fn new(descriptor: OwnedFd) -> Self {
        Self { descriptor }
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

    /// Sets the size.
    ///
    /// # Errors
    /// The host's.
    pub fn set_size(&self, size: u64) -> SysResult<()> {
        nix::unistd::ftruncate(&self.descriptor, signed(size)?).map_err(errno)
    }
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
