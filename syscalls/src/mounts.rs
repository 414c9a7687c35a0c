//! The tree of mounts: `mount`, `umount2`, `pivot_root`; `sync`, `syncfs`.
//!
//! There is one mount namespace and nothing propagates: making a mount private (or a slave of nobody) changes nothing,
//! sharing it is refused.

use std::sync::Arc;

use abi::capabilities::CAP_SYS_ADMIN;
use abi::errno::{EINVAL, ENAMETOOLONG, ENOTDIR, EPERM, SysResult};
use abi::mounts::{MS_MGC_MSK, MS_MGC_VAL, MountFlags as MountRequest, UmountFlags};
use abi::user::{Fd, UserPath, UserString};
use sentry::task::Task;
use sentry::vfs::{Location, MountFlags, Recursive, Unmount, WalkFlags, has};

use crate::table::{Entry, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(MOUNT, sys_mount, now 5, Support::Partial("one namespace without propagation; file systems of the sandbox only")),
    call!(UMOUNT2, sys_umount2, now 2, Support::Partial("MNT_EXPIRE is refused")),
    call!(PIVOT_ROOT, sys_pivot_root, now 2, Support::Partial("not from within a chroot")),
    call!(SYNC, sys_sync, now 0, Support::Full),
    call!(SYNCFS, sys_syncfs, now 1, Support::Full),
];

/// Longest string of mount options: a page.
const OPTIONS_MAX: usize = 4095;

fn check_privilege(task: &Task) -> SysResult<()> {
    if has(&task.credentials(), CAP_SYS_ADMIN) { Ok(()) } else { Err(EPERM) }
}

fn locate(task: &Task, path: UserPath) -> SysResult<Location> {
    task.walk(libc::AT_FDCWD, &task.read_path(path.address().address())?, WalkFlags::FOLLOW)
}

fn optional_string(task: &Task, string: UserString) -> SysResult<Vec<u8>> {
    if string.is_null() {
        return Ok(Vec::new());
    }
    let too_long = |error| if error == ENAMETOOLONG { EINVAL } else { error };
    task.read_string(string.address().address(), OPTIONS_MAX).map_err(too_long)
}

/// Options of the mount itself; the rest of the flags says what to do.
fn options(request: MountRequest) -> MountFlags {
    let mut flags = MountFlags::empty();
    for (asked, flag) in [
        (MountRequest::MS_RDONLY, MountFlags::RDONLY),
        (MountRequest::MS_NOSUID, MountFlags::NOSUID),
        (MountRequest::MS_NODEV, MountFlags::NODEV),
        (MountRequest::MS_NOEXEC, MountFlags::NOEXEC),
        (MountRequest::MS_NOATIME, MountFlags::NOATIME),
        (MountRequest::MS_NODIRATIME, MountFlags::NODIRATIME),
        (MountRequest::MS_NOSYMFOLLOW, MountFlags::NOSYMFOLLOW),
    ] {
        flags.set(flag, request.contains(asked));
    }
    // The default since Linux 2.6.30.
    let strict = request.intersects(MountRequest::MS_STRICTATIME | MountRequest::MS_NOATIME);
    flags.set(MountFlags::RELATIME, !strict);
    flags
}

/// `mount(2)` <https://man7.org/linux/man-pages/man2/mount.2.html>
pub fn sys_mount(
    task: &Arc<Task>,
    source: UserString,
    target: UserPath,
    kind: UserString,
    request: MountRequest,
    data: UserString,
) -> SysResult<()> {
    // Old programs put a magic number into the upper half.
    let bits = request.bits();
    let request = if bits & MS_MGC_MSK == MS_MGC_VAL {
        MountRequest::from_bits_retain(bits & !MS_MGC_MSK)
    } else {
        request
    };
    let kind = if kind.is_null() { None } else { Some(optional_string(task, kind)?) };
    let source = if source.is_null() { None } else { Some(task.read_path(source.address().address())?) };
    let data = optional_string(task, data)?;
    let target = locate(task, target)?;
    check_privilege(task)?;
    let namespace = Arc::clone(task.fs().namespace());
    let propagation = MountRequest::MS_SHARED
        | MountRequest::MS_PRIVATE
        | MountRequest::MS_SLAVE
        | MountRequest::MS_UNBINDABLE;
    if request.contains(MountRequest::MS_REMOUNT | MountRequest::MS_BIND) {
        return remount(&target, options(request));
    }
    if request.contains(MountRequest::MS_REMOUNT) {
        if !target.is_mount_root() {
            return Err(EINVAL);
        }
        target.mount.file_system.reconfigure(&data)?;
        return remount(&target, options(request));
    }
    if request.contains(MountRequest::MS_BIND) {
        let source = source.filter(|source| !source.is_empty()).ok_or(EINVAL)?;
        let source = task.walk(libc::AT_FDCWD, &source, WalkFlags::FOLLOW)?;
        let recursive = if request.contains(MountRequest::MS_REC) { Recursive::Yes } else { Recursive::No };
        return namespace.bind(&source, target, recursive).map(drop);
    }
    if request.intersects(propagation) {
        return propagate(&target, request & propagation);
    }
    if request.contains(MountRequest::MS_MOVE) {
        let source = source.filter(|source| !source.is_empty()).ok_or(EINVAL)?;
        let source = task.walk(libc::AT_FDCWD, &source, WalkFlags::FOLLOW)?;
        return namespace.move_mount(&source, target);
    }
    let kind = kind.ok_or(EINVAL)?;
    let factory = task.kernel.vfs.file_system_factory(&kind)?;
    let file_system = factory.make(task, source.as_deref().unwrap_or_default(), &data)?;
    namespace.mount(file_system, target, options(request)).map(drop)
}

fn remount(target: &Location, flags: MountFlags) -> SysResult<()> {
    if !target.is_mount_root() {
        return Err(EINVAL);
    }
    target.mount.set_flags(flags);
    Ok(())
}

/// Nothing propagates here, so private and slave mounts are what there is.
fn propagate(target: &Location, request: MountRequest) -> SysResult<()> {
    let possible = [MountRequest::MS_PRIVATE, MountRequest::MS_SLAVE].contains(&request);
    if possible && target.is_mount_root() { Ok(()) } else { Err(EINVAL) }
}

/// `umount2(2)` <https://man7.org/linux/man-pages/man2/umount.2.html>
pub fn sys_umount2(task: &Arc<Task>, target: UserPath, flags: UmountFlags) -> SysResult<()> {
    if !UmountFlags::all().contains(flags) || flags.contains(UmountFlags::MNT_EXPIRE) {
        return Err(EINVAL);
    }
    let mut walk = WalkFlags::FOLLOW;
    walk.set(WalkFlags::FOLLOW, !flags.contains(UmountFlags::UMOUNT_NOFOLLOW));
    let path = task.read_path(target.address().address())?;
    let target = task.walk(libc::AT_FDCWD, &path, walk)?;
    check_privilege(task)?;
    let how = if flags.contains(UmountFlags::MNT_DETACH) { Unmount::Lazy } else { Unmount::IfUnused };
    let namespace = Arc::clone(task.fs().namespace());
    namespace.unmount(&target, how, &task.kernel.vfs.dentries)?;
    let file_system = &target.mount.file_system;
    if !namespace.mounts().iter().any(|mount| Arc::ptr_eq(&mount.file_system, file_system)) {
        task.kernel.inotify.unmounted(file_system);
    }
    Ok(())
}

/// `pivot_root(2)` <https://man7.org/linux/man-pages/man2/pivot_root.2.html>
pub fn sys_pivot_root(task: &Arc<Task>, new_root: UserPath, put_old: UserPath) -> SysResult<()> {
    check_privilege(task)?;
    let (new_root, put_old) = (locate(task, new_root)?, locate(task, put_old)?);
    let is_directory = |location: &Location| location.inode().kind() == sentry::vfs::FileKind::Directory;
    if !is_directory(&new_root) || !is_directory(&put_old) {
        return Err(ENOTDIR);
    }
    let old_root = task.fs().root();
    task.fs().namespace().pivot_root(&old_root, &new_root, &put_old)?;
    // Whoever stood at the old root stands at the new one.
    for other in task.kernel.processes.tasks() {
        let fs = other.fs();
        if fs.root().is_same(&old_root) {
            fs.set_root(new_root.clone());
        }
        if fs.cwd().is_same(&old_root) {
            fs.set_cwd(new_root.clone());
        }
    }
    Ok(())
}

/// `sync(2)` <https://man7.org/linux/man-pages/man2/sync.2.html>
pub fn sys_sync(task: &Arc<Task>) -> SysResult<()> {
    for mount in task.fs().namespace().mounts() {
        // The call has no way to report an error.
        let _ = mount.file_system.sync();
    }
    Ok(())
}

/// `syncfs(2)` <https://man7.org/linux/man-pages/man2/sync.2.html>
pub fn sys_syncfs(task: &Arc<Task>, fd: Fd) -> SysResult<()> {
    task.files().get_open(fd.raw())?.inode.file_system().sync()
}
