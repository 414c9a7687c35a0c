//! Descriptors for the sentry: regular files only. Opening a FIFO could block, a device has effects, and a
//! descriptor of a directory would be a way out.

use std::os::fd::{AsFd, OwnedFd};

use abi::errno::{self, Errno};
use rustix::fs::OFlags;
use wire::{Access, FileType, OpenFlags};

use crate::connection::Server;
use crate::handles::Node;
use crate::lookup::reopen;

/// Opens a held file; `EISDIR`, `ELOOP` and `ENXIO` for what has no descriptor.
pub fn open_regular(
    server: &Server,
    file: &Node,
    access: Access,
    flags: OpenFlags,
) -> Result<OwnedFd, Errno> {
    match file.kind {
        FileType::Regular => {}
        FileType::Directory => return Err(errno::EISDIR),
        FileType::Symlink => return Err(errno::ELOOP),
        _ => return Err(errno::ENXIO),
    }
    if access.writes() || flags.contains(OpenFlags::TRUNC) {
        file.check_writable()?;
    }
    reopen(server, file.as_fd(), open_flags(access, flags))
}

/// The protocol's access and flags as the host has them.
pub fn open_flags(access: Access, flags: OpenFlags) -> OFlags {
    let access = match access {
        Access::Read => OFlags::RDONLY,
        Access::Write => OFlags::WRONLY,
        Access::ReadWrite => OFlags::RDWR,
    };
    // The protocol's bits are Linux's own.
    access | OFlags::from_bits_retain(flags.bits())
}
