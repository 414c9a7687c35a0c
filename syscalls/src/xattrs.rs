//! Extended attributes (`man 7 xattr`): `getxattr`, `setxattr`, `listxattr`, `removexattr`, each by path, by link and by
//! descriptor.

use std::sync::Arc;

use abi::capabilities::{CAP_SETFCAP, CAP_SYS_ADMIN};
use abi::errno::{E2BIG, EINVAL, ENAMETOOLONG, ENODATA, EOPNOTSUPP, EPERM, ERANGE, SysResult};
use abi::file_calls::{XATTR_LIST_MAX, XATTR_NAME_MAX, XATTR_SIZE_MAX, XattrFlags};
use abi::polling::InotifyMask;
use abi::user::{Fd, UserAddress, UserPath, UserString};
use sentry::task::Task;
use sentry::vfs::{
    Access, FileKind, Inode, Subject, WalkFlags, XattrSet, check_access, has, is_owner, watches,
};

use crate::table::{Entry, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(SETXATTR, sys_setxattr, now 5, Support::Partial("no POSIX access control lists")),
    call!(LSETXATTR, sys_lsetxattr, now 5, Support::Partial("no POSIX access control lists")),
    call!(FSETXATTR, sys_fsetxattr, now 5, Support::Partial("no POSIX access control lists")),
    call!(GETXATTR, sys_getxattr, now 4, Support::Full),
    call!(LGETXATTR, sys_lgetxattr, now 4, Support::Full),
    call!(FGETXATTR, sys_fgetxattr, now 4, Support::Full),
    call!(LISTXATTR, sys_listxattr, now 3, Support::Full),
    call!(LLISTXATTR, sys_llistxattr, now 3, Support::Full),
    call!(FLISTXATTR, sys_flistxattr, now 3, Support::Full),
    call!(REMOVEXATTR, sys_removexattr, now 2, Support::Full),
    call!(LREMOVEXATTR, sys_lremovexattr, now 2, Support::Full),
    call!(FREMOVEXATTR, sys_fremovexattr, now 2, Support::Full),
];

/// What the call names.
#[derive(Clone, Copy)]
enum Which {
    Path(UserPath),
    Link(UserPath),
    Descriptor(Fd),
}

fn with_subject<T>(
    task: &Task,
    which: Which,
    work: impl FnOnce(Subject<'_>) -> SysResult<T>,
) -> SysResult<T> {
    let (path, walk) = match which {
        Which::Path(path) => (path, WalkFlags::FOLLOW),
        Which::Link(path) => (path, WalkFlags::empty()),
        Which::Descriptor(fd) => return work(Subject::File(&*task.files().get_open(fd.raw())?)),
    };
    let path = task.read_path(path.address().address())?;
    let location = task.walk(libc::AT_FDCWD, &path, walk)?;
    work(Subject::Place(&location))
}

/// An attribute's name.
fn read_name(task: &Task, name: UserString) -> SysResult<Vec<u8>> {
    let too_long = |error| if error == ENAMETOOLONG { ERANGE } else { error };
    let name = task.read_string(name.address().address(), XATTR_NAME_MAX).map_err(too_long)?;
    if name.is_empty() { Err(ERANGE) } else { Ok(name) }
}

/// What is asked of an attribute.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Read,
    Write,
}

/// Who may do what with attributes of which name (`man 7 xattr`).
fn check_name(task: &Task, inode: &dyn Inode, name: &[u8], wish: Wish) -> SysResult<()> {
    let credentials = task.credentials();
    let (space, rest) = match name.iter().position(|byte| *byte == b'.') {
        Some(dot) => name.split_at(dot),
        None => return Err(EOPNOTSUPP),
    };
    if rest.len() < 2 {
        return Err(EINVAL);
    }
    match space {
        b"trusted" if !has(&credentials, CAP_SYS_ADMIN) => {
            Err(if wish == Wish::Write { EPERM } else { ENODATA })
        }
        b"trusted" => Ok(()),
        b"security" if wish == Wish::Read => Ok(()),
        b"security" => {
            let needed = if rest == b".capability" { CAP_SETFCAP } else { CAP_SYS_ADMIN };
            if has(&credentials, needed) { Ok(()) } else { Err(EPERM) }
        }
        b"user" => check_user_attribute(task, inode, wish),
        _ => Err(EOPNOTSUPP),
    }
}

fn check_user_attribute(task: &Task, inode: &dyn Inode, wish: Wish) -> SysResult<()> {
    let credentials = task.credentials();
    let attributes = inode.attributes()?;
    if !matches!(attributes.kind, FileKind::Regular | FileKind::Directory) {
        return Err(if wish == Wish::Write { EPERM } else { ENODATA });
    }
    let sticky = attributes.kind == FileKind::Directory && attributes.permissions & 0o1000 != 0;
    if sticky && wish == Wish::Write && !is_owner(&credentials, &attributes) {
        return Err(EPERM);
    }
    let access = if wish == Wish::Write { Access::WRITE } else { Access::READ };
    check_access(&credentials, &attributes, access)
}

fn set(
    task: &Task,
    which: Which,
    name: UserString,
    value: UserAddress,
    size: usize,
    flags: XattrFlags,
) -> SysResult<()> {
    let how = match flags {
        _ if flags.is_empty() => XattrSet::Any,
        XattrFlags::XATTR_CREATE => XattrSet::Create,
        XattrFlags::XATTR_REPLACE => XattrSet::Replace,
        _ if XattrFlags::all().contains(flags) => XattrSet::Create,
        _ => return Err(EINVAL),
    };
    let name = read_name(task, name)?;
    if size > XATTR_SIZE_MAX {
        return Err(E2BIG);
    }
    let mut bytes = vec![0; size];
    task.read_exact(value.address(), &mut bytes)?;
    with_subject(task, which, |subject| {
        subject.check_writable()?;
        check_name(task, subject.inode(), &name, Wish::Write)?;
        subject.inode().set_xattr(&name, &bytes, how)?;
        watches::on_subject(subject, InotifyMask::IN_ATTRIB);
        Ok(())
    })
}

/// `setxattr(2)` <https://man7.org/linux/man-pages/man2/setxattr.2.html>
pub fn sys_setxattr(
    task: &Arc<Task>,
    path: UserPath,
    name: UserString,
    value: UserAddress,
    size: usize,
    flags: XattrFlags,
) -> SysResult<()> {
    set(task, Which::Path(path), name, value, size, flags)
}

/// `lsetxattr(2)` <https://man7.org/linux/man-pages/man2/setxattr.2.html>
pub fn sys_lsetxattr(
    task: &Arc<Task>,
    path: UserPath,
    name: UserString,
    value: UserAddress,
    size: usize,
    flags: XattrFlags,
) -> SysResult<()> {
    set(task, Which::Link(path), name, value, size, flags)
}

/// `fsetxattr(2)` <https://man7.org/linux/man-pages/man2/setxattr.2.html>
pub fn sys_fsetxattr(
    task: &Arc<Task>,
    fd: Fd,
    name: UserString,
    value: UserAddress,
    size: usize,
    flags: XattrFlags,
) -> SysResult<()> {
    set(task, Which::Descriptor(fd), name, value, size, flags)
}

/// Copies out a value or list; a size of 0 only asks how long it is.
fn give(task: &Task, bytes: &[u8], buffer: UserAddress, size: usize) -> SysResult<usize> {
    if size == 0 {
        return Ok(bytes.len());
    }
    if bytes.len() > size {
        return Err(ERANGE);
    }
    task.write_exact(buffer.address(), bytes)?;
    Ok(bytes.len())
}

fn get(task: &Task, which: Which, name: UserString, buffer: UserAddress, size: usize) -> SysResult<usize> {
    let name = read_name(task, name)?;
    let value = with_subject(task, which, |subject| {
        check_name(task, subject.inode(), &name, Wish::Read)?;
        subject.inode().xattr(&name)
    })?;
    give(task, &value, buffer, size)
}

/// `getxattr(2)` <https://man7.org/linux/man-pages/man2/getxattr.2.html>
pub fn sys_getxattr(
    task: &Arc<Task>,
    path: UserPath,
    name: UserString,
    buffer: UserAddress,
    size: usize,
) -> SysResult<usize> {
    get(task, Which::Path(path), name, buffer, size)
}

/// `lgetxattr(2)` <https://man7.org/linux/man-pages/man2/getxattr.2.html>
pub fn sys_lgetxattr(
    task: &Arc<Task>,
    path: UserPath,
    name: UserString,
    buffer: UserAddress,
    size: usize,
) -> SysResult<usize> {
    get(task, Which::Link(path), name, buffer, size)
}

/// `fgetxattr(2)` <https://man7.org/linux/man-pages/man2/getxattr.2.html>
pub fn sys_fgetxattr(
    task: &Arc<Task>,
    fd: Fd,
    name: UserString,
    buffer: UserAddress,
    size: usize,
) -> SysResult<usize> {
    get(task, Which::Descriptor(fd), name, buffer, size)
}

fn list(task: &Task, which: Which, buffer: UserAddress, size: usize) -> SysResult<usize> {
    let names = with_subject(task, which, |subject| subject.inode().list_xattrs())?;
    let trusted = has(&task.credentials(), CAP_SYS_ADMIN);
    let mut bytes = Vec::new();
    for name in names.iter().filter(|name| trusted || !name.starts_with(b"trusted.")) {
        bytes.extend_from_slice(name);
        bytes.push(0);
    }
    if bytes.len() > XATTR_LIST_MAX {
        return Err(E2BIG);
    }
    give(task, &bytes, buffer, size)
}

/// `listxattr(2)` <https://man7.org/linux/man-pages/man2/listxattr.2.html>
pub fn sys_listxattr(task: &Arc<Task>, path: UserPath, buffer: UserAddress, size: usize) -> SysResult<usize> {
    list(task, Which::Path(path), buffer, size)
}

/// `llistxattr(2)` <https://man7.org/linux/man-pages/man2/listxattr.2.html>
pub fn sys_llistxattr(
    task: &Arc<Task>,
    path: UserPath,
    buffer: UserAddress,
    size: usize,
) -> SysResult<usize> {
    list(task, Which::Link(path), buffer, size)
}

/// `flistxattr(2)` <https://man7.org/linux/man-pages/man2/listxattr.2.html>
pub fn sys_flistxattr(task: &Arc<Task>, fd: Fd, buffer: UserAddress, size: usize) -> SysResult<usize> {
    list(task, Which::Descriptor(fd), buffer, size)
}

fn remove(task: &Task, which: Which, name: UserString) -> SysResult<()> {
    let name = read_name(task, name)?;
    with_subject(task, which, |subject| {
        subject.check_writable()?;
        check_name(task, subject.inode(), &name, Wish::Write)?;
        subject.inode().remove_xattr(&name)?;
        watches::on_subject(subject, InotifyMask::IN_ATTRIB);
        Ok(())
    })
}

/// `removexattr(2)` <https://man7.org/linux/man-pages/man2/removexattr.2.html>
pub fn sys_removexattr(task: &Arc<Task>, path: UserPath, name: UserString) -> SysResult<()> {
    remove(task, Which::Path(path), name)
}

/// `lremovexattr(2)` <https://man7.org/linux/man-pages/man2/removexattr.2.html>
pub fn sys_lremovexattr(task: &Arc<Task>, path: UserPath, name: UserString) -> SysResult<()> {
    remove(task, Which::Link(path), name)
}

/// `fremovexattr(2)` <https://man7.org/linux/man-pages/man2/removexattr.2.html>
pub fn sys_fremovexattr(task: &Arc<Task>, fd: Fd, name: UserString) -> SysResult<()> {
    remove(task, Which::Descriptor(fd), name)
}
