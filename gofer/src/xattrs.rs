//! Extended attributes (`man 7 xattr`): `user.*` may be read and changed, `security.capability` and the POSIX ACLs
//! only read. A capability set on a host file would take effect for whoever runs it on the host.
//!
//! `O_PATH` descriptors have no attributes, so that the file is opened for reading; only regular files and
//! directories can have any of the attributes allowed.

use std::os::fd::{AsFd, OwnedFd};

use abi::errno::{self, Errno};
use rustix::fs::{self, OFlags, XattrFlags as HostFlags};
use wire::{FileType, MAX_XATTR, XattrFlags, XattrName};

use crate::connection::Server;
use crate::handles::Node;
use crate::lookup::{errno, reopen};

/// Attributes besides `user.*` that may be read.
const READABLE: [&[u8]; 3] =
    [b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"];

/// Answers `GetXattr`.
pub fn get(server: &Server, file: &Node, name: XattrName<'_>) -> Result<Vec<u8>, Errno> {
    if !is_readable(name.as_bytes()) {
        return Err(errno::EOPNOTSUPP);
    }
    let Some(opened) = open(server, file)? else { return Err(errno::ENODATA) };
    // The kernel copies a value whole or not at all (`ERANGE`).
    let size = fs::fgetxattr_query(&opened, name.as_bytes()).map_err(errno)?;
    let mut value = vec![0; size.min(MAX_XATTR)];
    match fs::fgetxattr(&opened, name.as_bytes(), value.as_mut_slice()) {
        Ok(length) => {
            value.truncate(length);
            Ok(value)
        }
        Err(rustix::io::Errno::RANGE) => Err(errno::E2BIG),
        Err(error) => Err(errno(error)),
    }
}

/// Answers `SetXattr`.
pub fn set(
    server: &Server,
    file: &Node,
    name: XattrName<'_>,
    value: &[u8],
    flags: XattrFlags,
) -> Result<(), Errno> {
    let opened = open_for_change(server, file, name)?;
    // The protocol's bits are Linux's own.
    fs::fsetxattr(&opened, name.as_bytes(), value, HostFlags::from_bits_retain(flags.bits())).map_err(errno)
}

/// Answers `RemoveXattr`.
pub fn remove(server: &Server, file: &Node, name: XattrName<'_>) -> Result<(), Errno> {
    let opened = open_for_change(server, file, name)?;
    fs::fremovexattr(&opened, name.as_bytes()).map_err(errno)
}

/// Answers `ListXattr` with the readable ones.
pub fn list(server: &Server, file: &Node) -> Result<Vec<u8>, Errno> {
    let Some(opened) = open(server, file)? else { return Ok(Vec::new()) };
    // `XATTR_LIST_MAX` is the size of a message; what is filtered out makes the rest fit.
    let mut names = vec![0; fs::flistxattr_query(&opened).map_err(errno)?.min(wire::MAX_MESSAGE)];
    let length = fs::flistxattr(&opened, names.as_mut_slice()).map_err(|error| match error {
        rustix::io::Errno::RANGE => errno::E2BIG,
        error => errno(error),
    })?;
    names.truncate(length);
    let mut readable = Vec::with_capacity(names.len());
    for name in names.split_inclusive(|byte| *byte == 0) {
        if name.strip_suffix(&[0]).is_some_and(is_readable) {
            readable.extend_from_slice(name);
        }
    }
    if readable.len() > MAX_XATTR { Err(errno::E2BIG) } else { Ok(readable) }
}

fn is_readable(name: &[u8]) -> bool {
    name.starts_with(b"user.") || READABLE.contains(&name)
}

fn open_for_change(server: &Server, file: &Node, name: XattrName<'_>) -> Result<OwnedFd, Errno> {
    file.check_writable()?;
    if !name.as_bytes().starts_with(b"user.") {
        return Err(if is_readable(name.as_bytes()) { errno::EPERM } else { errno::EOPNOTSUPP });
    }
    open(server, file)?.ok_or(errno::EPERM)
}

/// The file open for reading, if it is of a type that has attributes.
fn open(server: &Server, file: &Node) -> Result<Option<OwnedFd>, Errno> {
    match file.kind {
        FileType::Regular | FileType::Directory => reopen(server, file.as_fd(), OFlags::RDONLY).map(Some),
        _ => Ok(None),
    }
}
