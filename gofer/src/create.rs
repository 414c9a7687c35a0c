//! New files: created under their name, then given the owner and mode asked for. The process's umask is 0.
//!
//! Between the two steps the file belongs to root; if the second fails, the file is removed again. The sentry could
//! swap the name meanwhile and so direct the second step at another file of the tree, but it may change the owner
//! and mode of any file of the tree anyway.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use abi::errno::{self, Errno};
use rustix::fs::{self, AtFlags, Dev, Gid, Mode, OFlags, Uid};
use wire::{Access, Attr, CreateMode, DeviceNumber, Name, OpenFlags, Reply, SpecialFile};

use crate::DeviceNodes;
use crate::answer::Answer;
use crate::connection::Server;
use crate::handles::Node;
use crate::lookup::{attributes, errno, look_up, number, reopen};
use crate::open::open_flags;

/// Answers `Create`.
pub fn create(
    server: &Server,
    dir: &Node,
    name: Name<'_>,
    access: Access,
    flags: OpenFlags,
    mode: &CreateMode,
) -> Result<Answer, Errno> {
    dir.check_writable()?;
    let permit = server.budget.take()?;
    let flags = open_flags(access, flags)
        | OFlags::CREATE
        | OFlags::EXCL
        | OFlags::NOFOLLOW
        | OFlags::CLOEXEC
        | OFlags::NOCTTY;
    let descriptor =
        fs::openat(dir, name.as_bytes(), flags, Mode::from_raw_mode(mode.mode)).map_err(errno)?;
    let finish = || -> Result<_, Errno> {
        let held = reopen(server, descriptor.as_fd(), OFlags::PATH)?;
        let attr = settle(server, held.as_fd(), mode)?;
        Ok((held, attr))
    };
    let (held, attr) = finish().inspect_err(|_| remove(dir, name, AtFlags::empty()))?;
    let node = Node::new(held, &attr, dir.tree, dir.flags, permit);
    let handle = server.handles.insert(Arc::new(node));
    Ok(Answer::new(Reply::File { handle, attr }, Some(descriptor)))
}

/// Answers `Mkdir`.
pub fn mkdir(server: &Server, dir: &Node, name: Name<'_>, mode: &CreateMode) -> Result<Answer, Errno> {
    dir.check_writable()?;
    fs::mkdirat(dir, name.as_bytes(), Mode::from_raw_mode(mode.mode)).map_err(errno)?;
    adopt(server, dir, name, mode).inspect_err(|_| remove(dir, name, AtFlags::REMOVEDIR))
}

/// Answers `Symlink`.
pub fn symlink(
    server: &Server,
    dir: &Node,
    name: Name<'_>,
    target: &[u8],
    uid: u32,
    gid: u32,
) -> Result<Answer, Errno> {
    dir.check_writable()?;
    fs::symlinkat(target, dir, name.as_bytes()).map_err(errno)?;
    // A symbolic link's permission bits are always these, and cannot be changed.
    let mode = CreateMode { mode: 0o777, uid, gid };
    adopt(server, dir, name, &mode).inspect_err(|_| remove(dir, name, AtFlags::empty()))
}

/// Answers `Mknod`.
pub fn mknod(
    server: &Server,
    dir: &Node,
    name: Name<'_>,
    kind: SpecialFile,
    mode: &CreateMode,
) -> Result<Answer, Errno> {
    dir.check_writable()?;
    let (file_type, device) = match kind {
        SpecialFile::Regular => (fs::FileType::RegularFile, 0),
        SpecialFile::Fifo => (fs::FileType::Fifo, 0),
        SpecialFile::Socket => (fs::FileType::Socket, 0),
        SpecialFile::CharacterDevice(device) => {
            (fs::FileType::CharacterDevice, device_number(server, device)?)
        }
        SpecialFile::BlockDevice(device) => (fs::FileType::BlockDevice, device_number(server, device)?),
    };
    fs::mknodat(dir, name.as_bytes(), file_type, Mode::from_raw_mode(mode.mode), device).map_err(errno)?;
    adopt(server, dir, name, mode).inspect_err(|_| remove(dir, name, AtFlags::empty()))
}

/// Answers `Link`. `EXDEV` from tree to tree, even where both are of one file system.
pub fn link(server: &Server, file: &Node, dir: &Node, name: Name<'_>) -> Result<Answer, Errno> {
    dir.check_writable()?;
    if file.tree != dir.tree {
        return Err(errno::EXDEV);
    }
    // Following leads from our own descriptor's entry to the file held, and no further.
    let held = number(file.as_fd());
    fs::linkat(&server.descriptors, held.as_str(), dir, name.as_bytes(), AtFlags::SYMLINK_FOLLOW)
        .map_err(errno)?;
    let (node, attr) = look_up(server, dir, name).inspect_err(|_| remove(dir, name, AtFlags::empty()))?;
    Ok(Answer::file(server, node, attr))
}

/// Holds a file just created under this name, with the owner and mode asked for.
pub fn adopt(server: &Server, dir: &Node, name: Name<'_>, mode: &CreateMode) -> Result<Answer, Errno> {
    let (node, _) = look_up(server, dir, name)?;
    let attr = settle(server, node.as_fd(), mode)?;
    Ok(Answer::file(server, node, attr))
}

/// Removes what could not be finished. Nobody is left to hear of a failure.
pub fn remove(dir: &Node, name: Name<'_>, flags: AtFlags) {
    let _ = fs::unlinkat(dir, name.as_bytes(), flags);
}

/// Gives a new file its owner and mode, as far as they differ, and returns its attributes. The mode comes last:
/// a change of owner clears the set-id bits.
fn settle(server: &Server, file: BorrowedFd<'_>, wanted: &CreateMode) -> Result<Attr, Errno> {
    let mut attr = attributes(file)?;
    if (attr.uid, attr.gid) != (wanted.uid, wanted.gid) {
        change_owner(file, Some(wanted.uid), Some(wanted.gid))?;
        attr = attributes(file)?;
    }
    if attr.mode & 0o7777 != wanted.mode && attr.file_type() != wire::FileType::Symlink {
        change_mode(server, file, wanted.mode)?;
        attr = attributes(file)?;
    }
    Ok(attr)
}

/// `chown(2)` of a held file.
pub fn change_owner(file: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    fs::chownat(file, c"", uid.map(Uid::from_raw), gid.map(Gid::from_raw), AtFlags::EMPTY_PATH).map_err(errno)
}

/// `chmod(2)` of a held file that is no symbolic link.
pub fn change_mode(server: &Server, file: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    // `fchmod` refuses `O_PATH` descriptors; our own entry for it leads to the file.
    fs::chmodat(&server.descriptors, number(file).as_str(), Mode::from_raw_mode(mode), AtFlags::empty())
        .map_err(errno)
}

/// A device's number if device nodes may be made at all.
fn device_number(server: &Server, device: DeviceNumber) -> Result<Dev, Errno> {
    match server.device_nodes {
        DeviceNodes::Allowed => Ok(fs::makedev(device.major, device.minor)),
        DeviceNodes::Forbidden => Err(errno::EPERM),
    }
}
