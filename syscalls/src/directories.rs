//! Names: `mkdir`, `rmdir`, `unlink`, `rename`, `link`, `symlink`, `readlink`, `mknod`, `getdents`, `chdir`, `getcwd`,
//! `chroot`, each with its `…at` form.
//!
//! What may be done to a name is judged in `sentry::vfs` (`names.rs`).

use std::sync::Arc;

use abi::capabilities::CAP_SYS_CHROOT;
use abi::directories::{Dirent64, DirentEncoder, DirentFormat};
use abi::errno::{EINVAL, ENOENT, ENOTDIR, EPERM, ERANGE, SysResult};
use abi::file_calls::RenameFlags;
use abi::files::{AtFlags, FileType};
use abi::polling::InotifyMask;
use abi::user::{Fd, UserAddress, UserPath};
use sentry::task::Task;
use sentry::vfs::watches;
use sentry::vfs::{
    Access, DeviceNumber, FileKind, LinkTarget, Location, Reachable, WalkFlags, check_access, has,
};

use crate::table::{Entry, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(MKDIR, sys_mkdir, now 2, Support::Full),
    call!(MKDIRAT, sys_mkdirat, now 3, Support::Full),
    call!(RMDIR, sys_rmdir, now 1, Support::Full),
    call!(UNLINK, sys_unlink, now 1, Support::Full),
    call!(UNLINKAT, sys_unlinkat, now 3, Support::Full),
    call!(RENAME, sys_rename, now 2, Support::Full),
    call!(RENAMEAT, sys_renameat, now 4, Support::Full),
    call!(RENAMEAT2, sys_renameat2, now 5, Support::Partial("RENAME_WHITEOUT is refused")),
    call!(LINK, sys_link, now 2, Support::Full),
    call!(LINKAT, sys_linkat, now 5, Support::Full),
    call!(SYMLINK, sys_symlink, now 2, Support::Full),
    call!(SYMLINKAT, sys_symlinkat, now 3, Support::Full),
    call!(READLINK, sys_readlink, now 3, Support::Full),
    call!(READLINKAT, sys_readlinkat, now 4, Support::Full),
    call!(MKNOD, sys_mknod, now 3, Support::Full),
    call!(MKNODAT, sys_mknodat, now 4, Support::Full),
    call!(GETDENTS, sys_getdents, now 3, Support::Full),
    call!(GETDENTS64, sys_getdents64, now 3, Support::Full),
    call!(CHDIR, sys_chdir, now 1, Support::Full),
    call!(FCHDIR, sys_fchdir, now 1, Support::Full),
    call!(GETCWD, sys_getcwd, now 2, Support::Full),
    call!(CHROOT, sys_chroot, now 1, Support::Full),
];

const CWD: i32 = libc::AT_FDCWD;

fn path_of(task: &Task, path: UserPath) -> SysResult<Vec<u8>> {
    task.read_path(path.address().address())
}

/// `mkdir(2)` <https://man7.org/linux/man-pages/man2/mkdir.2.html>
pub fn sys_mkdir(task: &Arc<Task>, path: UserPath, mode: u32) -> SysResult<()> {
    sys_mkdirat(task, CWD, path, mode)
}

/// `mkdirat(2)` <https://man7.org/linux/man-pages/man2/mkdir.2.html>
pub fn sys_mkdirat(task: &Arc<Task>, directory: i32, path: UserPath, mode: u32) -> SysResult<()> {
    task.make_directory(directory, &path_of(task, path)?, mode)
}

/// `rmdir(2)` <https://man7.org/linux/man-pages/man2/rmdir.2.html>
pub fn sys_rmdir(task: &Arc<Task>, path: UserPath) -> SysResult<()> {
    task.remove_directory(CWD, &path_of(task, path)?)
}

/// `unlink(2)` <https://man7.org/linux/man-pages/man2/unlink.2.html>
pub fn sys_unlink(task: &Arc<Task>, path: UserPath) -> SysResult<()> {
    task.remove_file(CWD, &path_of(task, path)?)
}

/// `unlinkat(2)` <https://man7.org/linux/man-pages/man2/unlink.2.html>
pub fn sys_unlinkat(task: &Arc<Task>, directory: i32, path: UserPath, flags: AtFlags) -> SysResult<()> {
    if !AtFlags::AT_REMOVEDIR.contains(flags) {
        return Err(EINVAL);
    }
    let path = path_of(task, path)?;
    if flags.contains(AtFlags::AT_REMOVEDIR) {
        task.remove_directory(directory, &path)
    } else {
        task.remove_file(directory, &path)
    }
}

/// `rename(2)` <https://man7.org/linux/man-pages/man2/rename.2.html>
pub fn sys_rename(task: &Arc<Task>, from: UserPath, to: UserPath) -> SysResult<()> {
    sys_renameat2(task, CWD, from, CWD, to, RenameFlags::empty())
}

/// `renameat(2)` <https://man7.org/linux/man-pages/man2/rename.2.html>
pub fn sys_renameat(
    task: &Arc<Task>,
    from_directory: i32,
    from: UserPath,
    to_directory: i32,
    to: UserPath,
) -> SysResult<()> {
    sys_renameat2(task, from_directory, from, to_directory, to, RenameFlags::empty())
}

/// `renameat2(2)` <https://man7.org/linux/man-pages/man2/rename.2.html>
pub fn sys_renameat2(
    task: &Arc<Task>,
    from_directory: i32,
    from: UserPath,
    to_directory: i32,
    to: UserPath,
    flags: RenameFlags,
) -> SysResult<()> {
    let excluding = RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_WHITEOUT;
    if !RenameFlags::all().contains(flags)
        || flags.contains(RenameFlags::RENAME_EXCHANGE) && flags.intersects(excluding)
        // As on a file system that has no whiteouts.
        || flags.contains(RenameFlags::RENAME_WHITEOUT)
    {
        return Err(EINVAL);
    }
    let (from, to) = (path_of(task, from)?, path_of(task, to)?);
    task.rename((from_directory, &from), (to_directory, &to), flags)
}

/// `link(2)` <https://man7.org/linux/man-pages/man2/link.2.html>
pub fn sys_link(task: &Arc<Task>, from: UserPath, to: UserPath) -> SysResult<()> {
    sys_linkat(task, CWD, from, CWD, to, AtFlags::empty())
}

/// `linkat(2)` <https://man7.org/linux/man-pages/man2/link.2.html>
pub fn sys_linkat(
    task: &Arc<Task>,
    from_directory: i32,
    from: UserPath,
    to_directory: i32,
    to: UserPath,
    flags: AtFlags,
) -> SysResult<()> {
    if !(AtFlags::AT_SYMLINK_FOLLOW | AtFlags::AT_EMPTY_PATH).contains(flags) {
        return Err(EINVAL);
    }
    let mut walk = WalkFlags::empty();
    walk.set(WalkFlags::FOLLOW, flags.contains(AtFlags::AT_SYMLINK_FOLLOW));
    walk.set(WalkFlags::EMPTY_PATH, flags.contains(AtFlags::AT_EMPTY_PATH));
    let (from, to) = (path_of(task, from)?, path_of(task, to)?);
    let from = task.walk_for_link(from_directory, &from, walk)?;
    task.make_link(&from, to_directory, &to)
}

/// `symlink(2)` <https://man7.org/linux/man-pages/man2/symlink.2.html>
pub fn sys_symlink(task: &Arc<Task>, text: UserPath, path: UserPath) -> SysResult<()> {
    sys_symlinkat(task, text, CWD, path)
}

/// `symlinkat(2)` <https://man7.org/linux/man-pages/man2/symlink.2.html>
pub fn sys_symlinkat(task: &Arc<Task>, text: UserPath, directory: i32, path: UserPath) -> SysResult<()> {
    let (text, path) = (path_of(task, text)?, path_of(task, path)?);
    task.make_symlink(&text, directory, &path)
}

/// `readlink(2)` <https://man7.org/linux/man-pages/man2/readlink.2.html>
pub fn sys_readlink(task: &Arc<Task>, path: UserPath, buffer: UserAddress, size: i32) -> SysResult<usize> {
    sys_readlinkat(task, CWD, path, buffer, size)
}

/// `readlinkat(2)` <https://man7.org/linux/man-pages/man2/readlink.2.html>
pub fn sys_readlinkat(
    task: &Arc<Task>,
    directory: i32,
    path: UserPath,
    buffer: UserAddress,
    size: i32,
) -> SysResult<usize> {
    let size = usize::try_from(size).ok().filter(|size| *size > 0).ok_or(EINVAL)?;
    let path = path_of(task, path)?;
    // An empty path means the link that an O_PATH descriptor is open on.
    let location = task.walk(directory, &path, WalkFlags::EMPTY_PATH)?;
    if location.inode().kind() != FileKind::Symlink {
        return Err(if path.is_empty() { ENOENT } else { EINVAL });
    }
    let text = match location.inode().read_link(task)? {
        LinkTarget::Path(text) | LinkTarget::Jump { text, .. } | LinkTarget::JumpToFile { text, .. } => text,
    };
    let shown = text.get(..size).unwrap_or(&text);
    task.write_exact(buffer.address(), shown)?;
    Ok(shown.len())
}

/// `mknod(2)` <https://man7.org/linux/man-pages/man2/mknod.2.html>
pub fn sys_mknod(task: &Arc<Task>, path: UserPath, mode: u32, device: u32) -> SysResult<()> {
    sys_mknodat(task, CWD, path, mode, device)
}

/// `mknodat(2)` <https://man7.org/linux/man-pages/man2/mknod.2.html>
pub fn sys_mknodat(
    task: &Arc<Task>,
    directory: i32,
    path: UserPath,
    mode: u32,
    device: u32,
) -> SysResult<()> {
    let path = path_of(task, path)?;
    let device = DeviceNumber::decode(device.into());
    task.make_node(directory, &path, mode & 0xffff, device).map(drop)
}

/// Bytes of a listing that one call makes at most.
const LISTING_MAX: usize = 256 << 10;

/// `getdents(2)` <https://man7.org/linux/man-pages/man2/getdents.2.html>
pub fn sys_getdents(task: &Arc<Task>, fd: Fd, buffer: UserAddress, size: u32) -> SysResult<usize> {
    list(task, fd, buffer, size, DirentFormat::Dirent)
}

/// `getdents64(2)` <https://man7.org/linux/man-pages/man2/getdents.2.html>
pub fn sys_getdents64(task: &Arc<Task>, fd: Fd, buffer: UserAddress, size: u32) -> SysResult<usize> {
    list(task, fd, buffer, size, DirentFormat::Dirent64)
}

fn list(task: &Task, fd: Fd, buffer: UserAddress, size: u32, format: DirentFormat) -> SysResult<usize> {
    let file = task.files().get_open(fd.raw())?;
    if file.inode.kind() != FileKind::Directory {
        return Err(ENOTDIR);
    }
    if file.location.as_ref().is_some_and(|location| location.dentry.is_removed()) {
        return Err(ENOENT);
    }
    let limit = usize::try_from(size).unwrap_or(usize::MAX).min(LISTING_MAX);
    let mut encoder = DirentEncoder::new(format, limit);
    let from = *file.position.lock();
    let mut next = from;
    file.ops.read_directory(from, &file, &mut |entry| {
        let taken = encoder.push(Dirent64 {
            inode: entry.inode,
            next_offset: entry.next.cast_signed(),
            file_type: FileType::from_mode_bits(u32::from(entry.kind) << 12),
            name: entry.name,
        });
        if taken {
            next = entry.next;
        }
        taken
    })?;
    watches::on_file(&file, InotifyMask::IN_ACCESS);
    let bytes = encoder.finish()?;
    task.write_exact(buffer.address(), &bytes)?;
    *file.position.lock() = next;
    Ok(bytes.len())
}

fn check_enter(task: &Task, directory: &Location) -> SysResult<()> {
    let attributes = directory.inode().attributes()?;
    if attributes.kind != FileKind::Directory {
        return Err(ENOTDIR);
    }
    check_access(&task.credentials(), &attributes, Access::EXECUTE)
}

fn walk_to_directory(task: &Task, path: UserPath) -> SysResult<Location> {
    let path = path_of(task, path)?;
    let directory = task.walk(CWD, &path, WalkFlags::FOLLOW | WalkFlags::DIRECTORY)?;
    check_enter(task, &directory)?;
    Ok(directory)
}

/// `chdir(2)` <https://man7.org/linux/man-pages/man2/chdir.2.html>
pub fn sys_chdir(task: &Arc<Task>, path: UserPath) -> SysResult<()> {
    let directory = walk_to_directory(task, path)?;
    task.fs().set_cwd(directory);
    Ok(())
}

/// `fchdir(2)` <https://man7.org/linux/man-pages/man2/chdir.2.html>
pub fn sys_fchdir(task: &Arc<Task>, fd: Fd) -> SysResult<()> {
    let file = task.files().get(fd.raw())?;
    let directory = file.location.clone().ok_or(ENOTDIR)?;
    check_enter(task, &directory)?;
    task.fs().set_cwd(directory);
    Ok(())
}

/// `chroot(2)` <https://man7.org/linux/man-pages/man2/chroot.2.html>
pub fn sys_chroot(task: &Arc<Task>, path: UserPath) -> SysResult<()> {
    let directory = walk_to_directory(task, path)?;
    if !has(&task.credentials(), CAP_SYS_CHROOT) {
        return Err(EPERM);
    }
    task.fs().set_root(directory);
    Ok(())
}

/// `getcwd(2)` <https://man7.org/linux/man-pages/man2/getcwd.2.html>
pub fn sys_getcwd(task: &Arc<Task>, buffer: UserAddress, size: usize) -> SysResult<usize> {
    let fs = task.fs();
    let cwd = fs.cwd();
    if cwd.dentry.is_removed() {
        return Err(ENOENT);
    }
    let (mut path, reachable) = cwd.path_from(&fs.root());
    if reachable == Reachable::No {
        path.splice(..0, b"(unreachable)".iter().copied());
    }
    path.push(0);
    if path.len() > size {
        return Err(ERANGE);
    }
    task.write_exact(buffer.address(), &path)?;
    Ok(path.len())
}
