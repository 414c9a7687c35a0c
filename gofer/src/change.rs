//! Names taken away or moved, and attributes changed.

use std::os::fd::AsFd;

use abi::errno::{self, Errno};
use rustix::fs::{self, AtFlags, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use wire::{Attr, FileType, Name, RenameFlags, SetAttr, SetTime};

use crate::connection::Server;
use crate::create::{change_mode, change_owner};
use crate::handles::Node;
use crate::lookup::{attributes, errno, reopen};

/// Answers `Unlink`.
pub fn unlink(dir: &Node, name: Name<'_>) -> Result<(), Errno> {
    dir.check_writable()?;
    fs::unlinkat(dir, name.as_bytes(), AtFlags::empty()).map_err(errno)
}

/// Answers `Rmdir`.
pub fn rmdir(dir: &Node, name: Name<'_>) -> Result<(), Errno> {
    dir.check_writable()?;
    fs::unlinkat(dir, name.as_bytes(), AtFlags::REMOVEDIR).map_err(errno)
}

/// Answers `Rename`. `EXDEV` from tree to tree, even where both are of one file system.
pub fn rename(from: &Node, old: Name<'_>, to: &Node, new: Name<'_>, flags: RenameFlags) -> Result<(), Errno> {
    from.check_writable()?;
    to.check_writable()?;
    if from.tree != to.tree {
        return Err(errno::EXDEV);
    }
    // The protocol's bits are Linux's own.
    let flags = fs::RenameFlags::from_bits_retain(flags.bits());
    fs::renameat_with(from, old.as_bytes(), to, new.as_bytes(), flags).map_err(errno)
}

/// Answers `SetAttr`. What was changed before a failure stays changed, as with the single calls.
pub fn set_attr(server: &Server, file: &Node, changes: &SetAttr) -> Result<Attr, Errno> {
    file.check_writable()?;
    if let Some(size) = changes.size {
        truncate(server, file, size)?;
    }
    if changes.uid.is_some() || changes.gid.is_some() {
        change_owner(file.as_fd(), changes.uid, changes.gid)?;
    }
    if let Some(mode) = changes.mode {
        if file.kind == FileType::Symlink {
            return Err(errno::EOPNOTSUPP);
        }
        change_mode(server, file.as_fd(), mode)?;
    }
    if changes.atime.is_some() || changes.mtime.is_some() {
        let times =
            Timestamps { last_access: timespec(changes.atime), last_modification: timespec(changes.mtime) };
        fs::utimensat(file, c"", &times, AtFlags::EMPTY_PATH).map_err(errno)?;
    }
    attributes(file)
}

/// `truncate(2)`, whose errors these are.
fn truncate(server: &Server, file: &Node, size: u64) -> Result<(), Errno> {
    match file.kind {
        FileType::Regular => {
            let writable = reopen(server, file.as_fd(), OFlags::WRONLY)?;
            fs::ftruncate(&writable, size).map_err(errno)
        }
        FileType::Directory => Err(errno::EISDIR),
        _ => Err(errno::EINVAL),
    }
}

fn timespec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(SetTime::At(time)) => Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanoseconds) },
    }
}
