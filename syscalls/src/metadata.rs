//! What is known of files: the `stat` and `statfs` families, `access`, `chmod`, `chown`, `utime` and kin, `umask`.

use std::sync::Arc;

use abi::errno::{EACCES, EBADF, EFAULT, EINVAL, EROFS, SysResult};
use abi::file_calls::Utimbuf;
use abi::files::{
    AccessMode, AtFlags, Stat, Statfs, Statx, StatxAttributes, StatxMask, StatxTimestamp, UTIME_NOW,
    UTIME_OMIT,
};
use abi::time::{Timespec, Timeval};
use abi::user::{Fd, UserAddress, UserPath};
use sentry::task::Task;
use sentry::vfs::{
    Access, Attributes, FileKind, Inode, Location, Mount, SetTime, Subject, WalkFlags, Walker, check_access,
};

use crate::table::{Entry, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(STAT, sys_stat, now 2, Support::Full),
    call!(LSTAT, sys_lstat, now 2, Support::Full),
    call!(FSTAT, sys_fstat, now 2, Support::Full),
    call!(NEWFSTATAT, sys_newfstatat, now 4, Support::Full),
    call!(STATX, sys_statx, now 5, Support::Full),
    call!(STATFS, sys_statfs, now 2, Support::Full),
    call!(FSTATFS, sys_fstatfs, now 2, Support::Full),
    call!(ACCESS, sys_access, now 2, Support::Full),
    call!(FACCESSAT, sys_faccessat, now 3, Support::Full),
    call!(FACCESSAT2, sys_faccessat2, now 4, Support::Full),
    call!(CHMOD, sys_chmod, now 2, Support::Full),
    call!(FCHMOD, sys_fchmod, now 2, Support::Full),
    call!(FCHMODAT, sys_fchmodat, now 3, Support::Full),
    call!(FCHMODAT2, sys_fchmodat2, now 4, Support::Full),
    call!(CHOWN, sys_chown, now 3, Support::Full),
    call!(LCHOWN, sys_lchown, now 3, Support::Full),
    call!(FCHOWN, sys_fchown, now 3, Support::Full),
    call!(FCHOWNAT, sys_fchownat, now 5, Support::Full),
    call!(UTIME, sys_utime, now 2, Support::Full),
    call!(UTIMES, sys_utimes, now 2, Support::Full),
    call!(FUTIMESAT, sys_futimesat, now 3, Support::Full),
    call!(UTIMENSAT, sys_utimensat, now 4, Support::Full),
    call!(UMASK, sys_umask, now 1, Support::Full),
];

const CWD: i32 = libc::AT_FDCWD;

/// How to walk, from the flags of an `…at` call that follows links by default.
fn walk_flags(flags: AtFlags) -> WalkFlags {
    let mut walk = WalkFlags::FOLLOW;
    walk.set(WalkFlags::FOLLOW, !flags.contains(AtFlags::AT_SYMLINK_NOFOLLOW));
    walk.set(WalkFlags::EMPTY_PATH, flags.contains(AtFlags::AT_EMPTY_PATH));
    walk
}

fn check_flags(flags: AtFlags, known: AtFlags) -> SysResult<()> {
    if known.contains(flags) { Ok(()) } else { Err(EINVAL) }
}

/// A path; with `AT_EMPTY_PATH` a null pointer is an empty one (Linux 6.11).
fn path_of(task: &Task, path: UserPath, flags: AtFlags) -> SysResult<Vec<u8>> {
    if path.is_null() && flags.contains(AtFlags::AT_EMPTY_PATH) {
        return Ok(Vec::new());
    }
    task.read_path(path.address().address())
}

fn locate(task: &Task, directory: i32, path: UserPath, flags: AtFlags) -> SysResult<Location> {
    task.walk(directory, &path_of(task, path, flags)?, walk_flags(flags))
}

const fn seconds(nanoseconds: i64) -> i64 {
    nanoseconds.div_euclid(abi::time::NSEC_PER_SEC)
}

const fn rest(nanoseconds: i64) -> i64 {
    nanoseconds.rem_euclid(abi::time::NSEC_PER_SEC)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn stat_of(inode: &dyn Inode) -> SysResult<Stat> {
    let attributes = inode.attributes()?;
    Ok(Stat {
        st_dev: inode.file_system().device().encode(),
        st_ino: attributes.inode,
        st_nlink: attributes.links.into(),
        st_mode: attributes.mode(),
        st_uid: attributes.uid,
        st_gid: attributes.gid,
        st_rdev: attributes.device_number.encode(),
        st_size: signed(attributes.size),
        st_blksize: attributes.block_size.into(),
        st_blocks: signed(attributes.blocks_512),
        st_atime: seconds(attributes.access_ns),
        st_atime_nsec: rest(attributes.access_ns),
        st_mtime: seconds(attributes.modify_ns),
        st_mtime_nsec: rest(attributes.modify_ns),
        st_ctime: seconds(attributes.change_ns),
        st_ctime_nsec: rest(attributes.change_ns),
        ..Stat::default()
    })
}

/// `stat(2)` <https://man7.org/linux/man-pages/man2/stat.2.html>
pub fn sys_stat(task: &Arc<Task>, path: UserPath, buffer: UserAddress) -> SysResult<()> {
    sys_newfstatat(task, CWD, path, buffer, AtFlags::empty())
}

/// `lstat(2)` <https://man7.org/linux/man-pages/man2/stat.2.html>
pub fn sys_lstat(task: &Arc<Task>, path: UserPath, buffer: UserAddress) -> SysResult<()> {
    sys_newfstatat(task, CWD, path, buffer, AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// `fstat(2)` <https://man7.org/linux/man-pages/man2/stat.2.html>
pub fn sys_fstat(task: &Arc<Task>, fd: Fd, buffer: UserAddress) -> SysResult<()> {
    let file = task.files().get(fd.raw())?;
    task.write_value(buffer.address(), &stat_of(&*file.inode)?)
}

/// `fstatat(2)` <https://man7.org/linux/man-pages/man2/stat.2.html>
pub fn sys_newfstatat(
    task: &Arc<Task>,
    directory: i32,
    path: UserPath,
    buffer: UserAddress,
    flags: AtFlags,
) -> SysResult<()> {
    let known = AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_NO_AUTOMOUNT | AtFlags::AT_EMPTY_PATH;
    check_flags(flags, known)?;
    let path = path_of(task, path, flags)?;
    if path.is_empty() && flags.contains(AtFlags::AT_EMPTY_PATH) && directory >= 0 {
        // What the C library's fstat does: no walk for it.
        return sys_fstat(task, Fd(directory), buffer);
    }
    let location = task.walk(directory, &path, walk_flags(flags))?;
    task.write_value(buffer.address(), &stat_of(&**location.inode())?)
}

fn statx_time(nanoseconds: i64) -> StatxTimestamp {
    StatxTimestamp {
        tv_sec: seconds(nanoseconds),
        tv_nsec: u32::try_from(rest(nanoseconds)).unwrap_or(0),
        ..StatxTimestamp::default()
    }
}

fn statx_of(location: &Location, attributes: &Attributes) -> Statx {
    let device = location.inode().file_system().device();
    let mut mask = StatxMask::from_bits_retain(0x7ff) | StatxMask::STATX_MNT_ID;
    mask.set(StatxMask::STATX_BTIME, attributes.birth_ns.is_some());
    let mut flags = StatxAttributes::empty();
    flags.set(StatxAttributes::STATX_ATTR_MOUNT_ROOT, location.is_mount_root());
    Statx {
        stx_mask: mask.bits(),
        stx_blksize: attributes.block_size,
        stx_attributes: flags.bits(),
        stx_attributes_mask: StatxAttributes::STATX_ATTR_MOUNT_ROOT.bits(),
        stx_nlink: attributes.links,
        stx_uid: attributes.uid,
        stx_gid: attributes.gid,
        stx_mode: u16::try_from(attributes.mode()).unwrap_or(0),
        stx_ino: attributes.inode,
        stx_size: attributes.size,
        stx_blocks: attributes.blocks_512,
        stx_atime: statx_time(attributes.access_ns),
        stx_btime: statx_time(attributes.birth_ns.unwrap_or(0)),
        stx_ctime: statx_time(attributes.change_ns),
        stx_mtime: statx_time(attributes.modify_ns),
        stx_rdev_major: attributes.device_number.major,
        stx_rdev_minor: attributes.device_number.minor,
        stx_dev_major: device.major,
        stx_dev_minor: device.minor,
        stx_mnt_id: location.mount.id.into(),
        ..Statx::default()
    }
}

/// `statx(2)` <https://man7.org/linux/man-pages/man2/statx.2.html>
pub fn sys_statx(
    task: &Arc<Task>,
    directory: i32,
    path: UserPath,
    flags: AtFlags,
    mask: StatxMask,
    buffer: UserAddress,
) -> SysResult<()> {
    let sync = AtFlags::AT_STATX_FORCE_SYNC | AtFlags::AT_STATX_DONT_SYNC;
    let known = AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_NO_AUTOMOUNT | AtFlags::AT_EMPTY_PATH | sync;
    if mask.contains(StatxMask::STATX__RESERVED) || flags.contains(sync) {
        return Err(EINVAL);
    }
    check_flags(flags, known)?;
    let location = locate(task, directory, path, flags)?;
    let attributes = location.inode().attributes()?;
    task.write_value(buffer.address(), &statx_of(&location, &attributes))
}

fn statfs_of(inode: &dyn Inode, mount: Option<&Mount>) -> SysResult<Statfs> {
    let file_system = inode.file_system();
    let status = file_system.status()?;
    let device = file_system.device().encode();
    let [a, b, c, d, e, f, g, h] = device.to_le_bytes();
    /// `ST_VALID`: the flags were filled.
    const VALID: u64 = 0x20;
    Ok(Statfs {
        f_type: status.magic,
        f_bsize: status.block_size,
        f_blocks: status.blocks,
        f_bfree: status.blocks_free,
        f_bavail: status.blocks_available,
        f_files: status.files,
        f_ffree: status.files_free,
        f_fsid: [i32::from_le_bytes([a, b, c, d]), i32::from_le_bytes([e, f, g, h])],
        f_namelen: status.name_max,
        f_frsize: status.block_size,
        f_flags: VALID | mount.map_or(0, |mount| mount.flags().bits().into()),
        ..Statfs::default()
    })
}

/// `statfs(2)` <https://man7.org/linux/man-pages/man2/statfs.2.html>
pub fn sys_statfs(task: &Arc<Task>, path: UserPath, buffer: UserAddress) -> SysResult<()> {
    let location = locate(task, CWD, path, AtFlags::empty())?;
    task.write_value(buffer.address(), &statfs_of(&**location.inode(), Some(&location.mount))?)
}

/// `fstatfs(2)` <https://man7.org/linux/man-pages/man2/statfs.2.html>
pub fn sys_fstatfs(task: &Arc<Task>, fd: Fd, buffer: UserAddress) -> SysResult<()> {
    let file = task.files().get(fd.raw())?;
    let mount = file.location.as_ref().map(|location| &*location.mount);
    task.write_value(buffer.address(), &statfs_of(&*file.inode, mount)?)
}

/// `access(2)` <https://man7.org/linux/man-pages/man2/access.2.html>
pub fn sys_access(task: &Arc<Task>, path: UserPath, mode: AccessMode) -> SysResult<()> {
    sys_faccessat2(task, CWD, path, mode, AtFlags::empty())
}

/// `faccessat(2)` <https://man7.org/linux/man-pages/man2/access.2.html>: the call itself has no flags.
pub fn sys_faccessat(task: &Arc<Task>, directory: i32, path: UserPath, mode: AccessMode) -> SysResult<()> {
    sys_faccessat2(task, directory, path, mode, AtFlags::empty())
}

/// `AT_EACCESS` shares its bit with `AT_REMOVEDIR`.
const AT_EACCESS: AtFlags = AtFlags::AT_REMOVEDIR;

/// `faccessat2(2)` <https://man7.org/linux/man-pages/man2/access.2.html>
pub fn sys_faccessat2(
    task: &Arc<Task>,
    directory: i32,
    path: UserPath,
    mode: AccessMode,
    flags: AtFlags,
) -> SysResult<()> {
    if !AccessMode::all().contains(mode) {
        return Err(EINVAL);
    }
    check_flags(flags, AT_EACCESS | AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_EMPTY_PATH)?;
    let path = path_of(task, path, flags)?;
    let credentials =
        if flags.contains(AT_EACCESS) { task.credentials() } else { Arc::new(task.real_credentials()) };
    let mut walker = Walker::new(task, directory, &path, walk_flags(flags))?;
    walker = walker.with_credentials(Arc::clone(&credentials));
    let location = walker.finish()?;
    if mode.is_empty() {
        return Ok(());
    }
    let attributes = location.inode().attributes()?;
    if mode.contains(AccessMode::X_OK)
        && attributes.kind == FileKind::Regular
        && location.mount.forbids_execution()
    {
        return Err(EACCES);
    }
    check_access(&credentials, &attributes, Access::from_bits_truncate(mode.bits()))?;
    let stored = matches!(attributes.kind, FileKind::Regular | FileKind::Directory | FileKind::Symlink);
    if mode.contains(AccessMode::W_OK) && stored && location.mount.is_read_only() {
        return Err(EROFS);
    }
    Ok(())
}

/// `chmod(2)` <https://man7.org/linux/man-pages/man2/chmod.2.html>
pub fn sys_chmod(task: &Arc<Task>, path: UserPath, mode: u32) -> SysResult<()> {
    sys_fchmodat2(task, CWD, path, mode, AtFlags::empty())
}

/// `fchmod(2)` <https://man7.org/linux/man-pages/man2/chmod.2.html>
pub fn sys_fchmod(task: &Arc<Task>, fd: Fd, mode: u32) -> SysResult<()> {
    let file = task.files().get_open(fd.raw())?;
    task.change_mode(Subject::File(&file), mode)
}

/// `fchmodat(2)` <https://man7.org/linux/man-pages/man2/chmod.2.html>: the call itself has no flags.
pub fn sys_fchmodat(task: &Arc<Task>, directory: i32, path: UserPath, mode: u32) -> SysResult<()> {
    sys_fchmodat2(task, directory, path, mode, AtFlags::empty())
}

/// `fchmodat2(2)` <https://man7.org/linux/man-pages/man2/chmod.2.html>
pub fn sys_fchmodat2(
    task: &Arc<Task>,
    directory: i32,
    path: UserPath,
    mode: u32,
    flags: AtFlags,
) -> SysResult<()> {
    check_flags(flags, AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_EMPTY_PATH)?;
    let location = locate(task, directory, path, flags)?;
    task.change_mode(Subject::Place(&location), mode)
}

/// An ID to change to; -1 leaves it.
const fn new_id(id: u32) -> Option<u32> {
    if id == u32::MAX { None } else { Some(id) }
}

/// `chown(2)` <https://man7.org/linux/man-pages/man2/chown.2.html>
pub fn sys_chown(task: &Arc<Task>, path: UserPath, uid: u32, gid: u32) -> SysResult<()> {
    sys_fchownat(task, CWD, path, uid, gid, AtFlags::empty())
}

/// `lchown(2)` <https://man7.org/linux/man-pages/man2/chown.2.html>
pub fn sys_lchown(task: &Arc<Task>, path: UserPath, uid: u32, gid: u32) -> SysResult<()> {
    sys_fchownat(task, CWD, path, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// `fchown(2)` <https://man7.org/linux/man-pages/man2/chown.2.html>
pub fn sys_fchown(task: &Arc<Task>, fd: Fd, uid: u32, gid: u32) -> SysResult<()> {
    let file = task.files().get_open(fd.raw())?;
    task.change_owner(Subject::File(&file), new_id(uid), new_id(gid))
}

/// `fchownat(2)` <https://man7.org/linux/man-pages/man2/chown.2.html>
pub fn sys_fchownat(
    task: &Arc<Task>,
    directory: i32,
    path: UserPath,
    uid: u32,
    gid: u32,
    flags: AtFlags,
) -> SysResult<()> {
    check_flags(flags, AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_EMPTY_PATH)?;
    let location = locate(task, directory, path, flags)?;
    task.change_owner(Subject::Place(&location), new_id(uid), new_id(gid))
}

/// Access and modification time to be set; `None` leaves one.
type Times = (Option<SetTime>, Option<SetTime>);

const NOW: Times = (Some(SetTime::Now), Some(SetTime::Now));

fn time_of(seconds: i64, nanoseconds: i64) -> Option<SetTime> {
    let total = seconds.saturating_mul(abi::time::NSEC_PER_SEC).saturating_add(nanoseconds);
    Some(SetTime::To(total))
}

fn set_times(task: &Task, location: &Location, (access, modify): Times) -> SysResult<()> {
    task.change_times(Subject::Place(location), access, modify)
}

/// `utime(2)` <https://man7.org/linux/man-pages/man2/utime.2.html>
pub fn sys_utime(task: &Arc<Task>, path: UserPath, times: UserAddress) -> SysResult<()> {
    let times = if times.is_null() {
        NOW
    } else {
        let times: Utimbuf = task.read_value(times.address())?;
        (time_of(times.actime, 0), time_of(times.modtime, 0))
    };
    set_times(task, &locate(task, CWD, path, AtFlags::empty())?, times)
}

/// `utimes(2)` <https://man7.org/linux/man-pages/man2/utime.2.html>
pub fn sys_utimes(task: &Arc<Task>, path: UserPath, times: UserAddress) -> SysResult<()> {
    sys_futimesat(task, CWD, path, times)
}

/// `futimesat(2)` <https://man7.org/linux/man-pages/man2/futimesat.2.html>
pub fn sys_futimesat(task: &Arc<Task>, directory: i32, path: UserPath, times: UserAddress) -> SysResult<()> {
    let times = if times.is_null() {
        NOW
    } else {
        let [access, modify]: [Timeval; 2] = task.read_value(times.address())?;
        let microseconds = 0..abi::time::USEC_PER_SEC;
        if !microseconds.contains(&access.tv_usec) || !microseconds.contains(&modify.tv_usec) {
            return Err(EINVAL);
        }
        let time = |time: Timeval| time_of(time.tv_sec, time.tv_usec * abi::time::NSEC_PER_USEC);
        (time(access), time(modify))
    };
    change_times_at(task, directory, path, times, AtFlags::empty())
}

/// `utimensat(2)` <https://man7.org/linux/man-pages/man2/utimensat.2.html>
pub fn sys_utimensat(
    task: &Arc<Task>,
    directory: i32,
    path: UserPath,
    times: UserAddress,
    flags: AtFlags,
) -> SysResult<()> {
    let times = if times.is_null() {
        NOW
    } else {
        let [access, modify]: [Timespec; 2] = task.read_value(times.address())?;
        if access.tv_nsec == UTIME_OMIT && modify.tv_nsec == UTIME_OMIT {
            // Nothing to do: as on Linux not even the path is looked at.
            return Ok(());
        }
        (chosen_time(access)?, chosen_time(modify)?)
    };
    change_times_at(task, directory, path, times, flags)
}

fn chosen_time(time: Timespec) -> SysResult<Option<SetTime>> {
    match time.tv_nsec {
        UTIME_NOW => Ok(Some(SetTime::Now)),
        UTIME_OMIT => Ok(None),
        nanoseconds if (0..abi::time::NSEC_PER_SEC).contains(&nanoseconds) => {
            Ok(time_of(time.tv_sec, nanoseconds))
        }
        _ => Err(EINVAL),
    }
}

fn change_times_at(
    task: &Task,
    directory: i32,
    path: UserPath,
    times: Times,
    flags: AtFlags,
) -> SysResult<()> {
    if path.is_null() && directory != CWD {
        // `futimens`: the descriptor itself.
        check_flags(flags, AtFlags::empty())?;
        let file = task.files().get(directory)?;
        if file.path_only {
            return Err(EBADF);
        }
        return task.change_times(Subject::File(&file), times.0, times.1);
    }
    check_flags(flags, AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_EMPTY_PATH)?;
    if path.is_null() {
        return Err(EFAULT);
    }
    set_times(task, &locate(task, directory, path, flags)?, times)
}

/// `umask(2)` <https://man7.org/linux/man-pages/man2/umask.2.html>
pub fn sys_umask(task: &Arc<Task>, mask: u32) -> SysResult<u32> {
    Ok(task.fs().set_umask(mask))
}
