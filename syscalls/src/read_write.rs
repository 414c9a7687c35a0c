//! `read`, `write` and their kin; `lseek`; `sendfile`, `copy_file_range`; sizes and synchronisation.
//!
//! The transfers themselves are `sentry::vfs::{Read, Write}`: what is possible at once is done at once, the rest waits.

use std::sync::Arc;

use abi::errno::{EBADF, EINVAL, EISDIR, ENODEV, EOPNOTSUPP, EPERM, EROFS, ESPIPE, ETXTBSY, SysResult};
use abi::file_calls::{FallocateMode, Iovec, RwFlags, SyncRangeFlags, UIO_MAXIOV};
use abi::polling::InotifyMask;
use abi::user::{Fd, UserAddress, UserPath};
use sentry::task::{Reply, Task};
use sentry::vfs::{
    Access, At, Blocking, DataOnly, FileDescription, FileKind, Read, SetAttributes, Subject, UserBuffers,
    WalkFlags, Write, WriteMode, check_access, watches,
};
use sentry::wait::Failure;

use crate::table::{Entry, IntoReply, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(READ, sys_read, now 3, Support::Full),
    call!(WRITE, sys_write, now 3, Support::Full),
    call!(PREAD64, sys_pread64, now 4, Support::Full),
    call!(PWRITE64, sys_pwrite64, now 4, Support::Full),
    call!(READV, sys_readv, now 3, Support::Full),
    call!(WRITEV, sys_writev, now 3, Support::Full),
    call!(PREADV, sys_preadv, now 5, Support::Full),
    call!(PWRITEV, sys_pwritev, now 5, Support::Full),
    call!(PREADV2, sys_preadv2, now 6, Support::Partial("RWF_HIPRI changes nothing; no RWF_ATOMIC or RWF_DONTCACHE")),
    call!(PWRITEV2, sys_pwritev2, now 6, Support::Partial("RWF_HIPRI changes nothing; no RWF_ATOMIC or RWF_DONTCACHE")),
    call!(LSEEK, sys_lseek, now 3, Support::Full),
    call!(FTRUNCATE, sys_ftruncate, now 2, Support::Full),
    call!(TRUNCATE, sys_truncate, now 2, Support::Full),
    call!(FALLOCATE, sys_fallocate, now 4, Support::Partial("modes as the file system has them")),
    call!(FSYNC, sys_fsync, now 1, Support::Full),
    call!(FDATASYNC, sys_fdatasync, now 1, Support::Full),
    call!(SYNC_FILE_RANGE, sys_sync_file_range, now 4, Support::Partial("the whole file is synchronised")),
    call!(FADVISE64, sys_fadvise64, now 4, Support::Partial("the advice is not taken")),
    call!(READAHEAD, sys_readahead, now 3, Support::Partial("nothing is read ahead")),
];

/// Goes on with a read, waiting if it has to.
pub(crate) fn start_read<'a>(task: &'a Arc<Task>, read: SysResult<Read>) -> Reply<'a> {
    let mut read = match read {
        Ok(read) => read,
        Err(errno) => return Reply::Now(Err(Failure::Error(errno))),
    };
    if let Err(failure) = read.admit(task) {
        return Reply::Now(Err(failure));
    }
    match read.attempt(task) {
        Some(result) => result.into_reply(),
        None => Reply::Later(Box::pin(async move { read.finish(task).await.into_reply() })),
    }
}

/// Goes on with a write, waiting if it has to.
pub(crate) fn start_write<'a>(task: &'a Arc<Task>, write: SysResult<Write>) -> Reply<'a> {
    let mut write = match write {
        Ok(write) => write,
        Err(errno) => return Reply::Now(Err(Failure::Error(errno))),
    };
    if let Err(failure) = write.admit(task) {
        return Reply::Now(Err(failure));
    }
    match write.attempt(task) {
        Some(result) => result.into_reply(),
        None => Reply::Later(Box::pin(async move { write.finish(task).await.into_reply() })),
    }
}

/// `read(2)` <https://man7.org/linux/man-pages/man2/read.2.html>
pub fn sys_read<'a>(task: &'a Arc<Task>, fd: Fd, buffer: UserAddress, count: usize) -> Reply<'a> {
    if let Some(result) = task.read_again(buffer.address(), count) {
        return result.into_reply();
    }
    let file = match task.open_file(fd.raw()) {
        Ok(file) => file,
        Err(errno) => return Reply::Now(Err(errno.into())),
    };
    if let Some(left) = task.read_by_host(&file, fd.raw(), buffer.address(), count, At::Position) {
        return left.into();
    }
    let buffers = UserBuffers::one(buffer.address(), count);
    start_read(task, Read::new(file, buffers, At::Position, Blocking::AsDescription))
}

/// `write(2)` <https://man7.org/linux/man-pages/man2/write.2.html>
pub fn sys_write<'a>(task: &'a Arc<Task>, fd: Fd, buffer: UserAddress, count: usize) -> Reply<'a> {
    if let Some(result) = task.write_again(buffer.address(), count) {
        return result.into_reply();
    }
    let buffers = UserBuffers::one(buffer.address(), count);
    let mut write = task.open_file(fd.raw()).and_then(|file| {
        let mode = WriteMode::of(&file);
        Write::new(file, buffers, At::Position, mode)
    });
    if let Ok(write) = &mut write {
        match task.write_by_host(write, fd.raw(), buffer.address(), count, At::Position) {
            Ok(Some(left)) => return left.into(),
            Ok(None) => {}
            Err(errno) => return Reply::Now(Err(errno.into())),
        }
    }
    start_write(task, write)
}

/// The file for a transfer at an offset, in Linux's order of errors.
fn positioned(task: &Task, fd: Fd, offset: i64) -> SysResult<(Arc<FileDescription>, At)> {
    let offset = u64::try_from(offset).map_err(|_| EINVAL)?;
    let file = task.open_file(fd.raw())?;
    if file.is_seekable() { Ok((file, At::Offset(offset))) } else { Err(ESPIPE) }
}

/// `pread64(2)` <https://man7.org/linux/man-pages/man2/pread64.2.html>
pub fn sys_pread64<'a>(
    task: &'a Arc<Task>,
    fd: Fd,
    buffer: UserAddress,
    count: usize,
    offset: i64,
) -> Reply<'a> {
    if let Some(result) = task.read_again(buffer.address(), count) {
        return result.into_reply();
    }
    let (file, at) = match positioned(task, fd, offset) {
        Ok(target) => target,
        Err(errno) => return Reply::Now(Err(errno.into())),
    };
    if let Some(left) = task.read_by_host(&file, fd.raw(), buffer.address(), count, at) {
        return left.into();
    }
    let buffers = UserBuffers::one(buffer.address(), count);
    start_read(task, Read::new(file, buffers, at, Blocking::AsDescription))
}

/// `pwrite64(2)` <https://man7.org/linux/man-pages/man2/pwrite64.2.html>
pub fn sys_pwrite64<'a>(
    task: &'a Arc<Task>,
    fd: Fd,
    buffer: UserAddress,
    count: usize,
    offset: i64,
) -> Reply<'a> {
    if let Some(result) = task.write_again(buffer.address(), count) {
        return result.into_reply();
    }
    let buffers = UserBuffers::one(buffer.address(), count);
    let mut write = positioned(task, fd, offset).and_then(|(file, at)| {
        let mode = WriteMode::of(&file);
        Write::new(file, buffers, at, mode)
    });
    if let (Ok(write), Ok(offset)) = (&mut write, u64::try_from(offset)) {
        match task.write_by_host(write, fd.raw(), buffer.address(), count, At::Offset(offset)) {
            Ok(Some(left)) => return left.into(),
            Ok(None) => {}
            Err(errno) => return Reply::Now(Err(errno.into())),
        }
    }
    start_write(task, write)
}

/// Copies in `struct iovec[]`.
///
/// # Errors
/// `EINVAL`: too many, or a negative length; `EFAULT`.
pub fn read_vectors(task: &Task, vectors: UserAddress, count: u64) -> SysResult<UserBuffers> {
    let count = usize::try_from(count).ok().filter(|count| *count <= UIO_MAXIOV).ok_or(EINVAL)?;
    let vectors: Vec<Iovec> = task.read_values(vectors.address(), count)?;
    UserBuffers::several(vectors.iter().map(|vector| (vector.iov_base.address(), vector.iov_len)))
}

fn vectored_read<'a>(
    task: &'a Arc<Task>,
    target: SysResult<(Arc<FileDescription>, At)>,
    vectors: UserAddress,
    count: u64,
    blocking: Blocking,
) -> Reply<'a> {
    let read = target.and_then(|(file, at)| {
        if !file.readable {
            return Err(EBADF);
        }
        let buffers = read_vectors(task, vectors, count)?;
        if buffers.total() == 0 {
            return Ok(None);
        }
        Read::new(file, buffers, at, blocking).map(Some)
    });
    match read.transpose() {
        Some(read) => start_read(task, read),
        None => Reply::Now(Ok(0)),
    }
}

fn vectored_write<'a>(
    task: &'a Arc<Task>,
    target: SysResult<(Arc<FileDescription>, At)>,
    vectors: UserAddress,
    count: u64,
    adjust: impl FnOnce(&mut WriteMode),
) -> Reply<'a> {
    let write = target.and_then(|(file, at)| {
        if !file.writable {
            return Err(EBADF);
        }
        let buffers = read_vectors(task, vectors, count)?;
        let mut mode = WriteMode::of(&file);
        adjust(&mut mode);
        Write::new(file, buffers, at, mode)
    });
    start_write(task, write)
}

fn sequential(task: &Task, fd: Fd) -> SysResult<(Arc<FileDescription>, At)> {
    task.open_file(fd.raw()).map(|file| (file, At::Position))
}

/// `readv(2)` <https://man7.org/linux/man-pages/man2/readv.2.html>
pub fn sys_readv<'a>(task: &'a Arc<Task>, fd: Fd, vectors: UserAddress, count: u64) -> Reply<'a> {
    vectored_read(task, sequential(task, fd), vectors, count, Blocking::AsDescription)
}

/// `writev(2)` <https://man7.org/linux/man-pages/man2/readv.2.html>
pub fn sys_writev<'a>(task: &'a Arc<Task>, fd: Fd, vectors: UserAddress, count: u64) -> Reply<'a> {
    vectored_write(task, sequential(task, fd), vectors, count, |_| {})
}

/// `preadv(2)` <https://man7.org/linux/man-pages/man2/readv.2.html>. The offset comes in two halves; on this
/// architecture the low one has all of it.
pub fn sys_preadv<'a>(
    task: &'a Arc<Task>,
    fd: Fd,
    vectors: UserAddress,
    count: u64,
    offset: i64,
    _high: u64,
) -> Reply<'a> {
    vectored_read(task, positioned(task, fd, offset), vectors, count, Blocking::AsDescription)
}

/// `pwritev(2)` <https://man7.org/linux/man-pages/man2/readv.2.html>
pub fn sys_pwritev<'a>(
    task: &'a Arc<Task>,
    fd: Fd,
    vectors: UserAddress,
    count: u64,
    offset: i64,
    _high: u64,
) -> Reply<'a> {
    vectored_write(task, positioned(task, fd, offset), vectors, count, |_| {})
}

/// Flags of `preadv2` and `pwritev2` that are understood.
const RW_FLAGS: RwFlags = RwFlags::RWF_HIPRI
    .union(RwFlags::RWF_DSYNC)
    .union(RwFlags::RWF_SYNC)
    .union(RwFlags::RWF_NOWAIT)
    .union(RwFlags::RWF_APPEND)
    .union(RwFlags::RWF_NOAPPEND);

/// Where `preadv2` and `pwritev2` begin: -1 is the position.
fn target_v2(task: &Task, fd: Fd, offset: i64, flags: RwFlags) -> SysResult<(Arc<FileDescription>, At)> {
    let target = if offset == -1 { sequential(task, fd) } else { positioned(task, fd, offset) }?;
    if !RW_FLAGS.contains(flags) {
        return Err(EOPNOTSUPP);
    }
    if flags.contains(RwFlags::RWF_APPEND | RwFlags::RWF_NOAPPEND) { Err(EINVAL) } else { Ok(target) }
}

fn blocking_of(flags: RwFlags) -> Blocking {
    if flags.contains(RwFlags::RWF_NOWAIT) { Blocking::No } else { Blocking::AsDescription }
}

/// `preadv2(2)` <https://man7.org/linux/man-pages/man2/readv.2.html>
pub fn sys_preadv2<'a>(
    task: &'a Arc<Task>,
    fd: Fd,
    vectors: UserAddress,
    count: u64,
    offset: i64,
    _high: u64,
    flags: RwFlags,
) -> Reply<'a> {
    vectored_read(task, target_v2(task, fd, offset, flags), vectors, count, blocking_of(flags))
}

/// `pwritev2(2)` <https://man7.org/linux/man-pages/man2/readv.2.html>
pub fn sys_pwritev2<'a>(
    task: &'a Arc<Task>,
    fd: Fd,
    vectors: UserAddress,
    count: u64,
    offset: i64,
    _high: u64,
    flags: RwFlags,
) -> Reply<'a> {
    vectored_write(task, target_v2(task, fd, offset, flags), vectors, count, |mode| {
        mode.append =
            mode.append && !flags.contains(RwFlags::RWF_NOAPPEND) || flags.contains(RwFlags::RWF_APPEND);
        if flags.contains(RwFlags::RWF_SYNC) {
            mode.sync = Some(DataOnly::No);
        } else if flags.contains(RwFlags::RWF_DSYNC) {
            mode.sync = mode.sync.or(Some(DataOnly::Yes));
        }
        mode.blocking = blocking_of(flags);
    })
}

/// `lseek(2)` <https://man7.org/linux/man-pages/man2/lseek.2.html>
pub fn sys_lseek(task: &Arc<Task>, fd: Fd, offset: i64, whence: u32) -> SysResult<u64> {
    let file = task.open_file(fd.raw())?;
    if whence > libc::SEEK_HOLE.cast_unsigned() {
        return Err(EINVAL);
    }
    file.seek(offset, whence)
}

fn size_argument(length: i64) -> SysResult<u64> {
    u64::try_from(length).map_err(|_| EINVAL)
}

fn set_size(task: &Task, subject: Subject<'_>, size: u64) -> SysResult<()> {
    let attributes = subject.inode().attributes()?;
    if size > attributes.size {
        task.room_below_size_limit(size - 1)?;
    }
    subject.inode().set_attributes(&SetAttributes {
        size: Some(size),
        permissions: task.bits_after_write(&attributes),
        ..SetAttributes::default()
    })?;
    watches::on_subject(subject, InotifyMask::IN_MODIFY);
    Ok(())
}

/// `ftruncate(2)` <https://man7.org/linux/man-pages/man2/ftruncate.2.html>
pub fn sys_ftruncate(task: &Arc<Task>, fd: Fd, length: i64) -> SysResult<()> {
    let size = size_argument(length)?;
    let file = task.open_file(fd.raw())?;
    if file.inode.kind() != FileKind::Regular || !file.writable {
        return Err(EINVAL);
    }
    set_size(task, Subject::File(&file), size)
}

/// `truncate(2)` <https://man7.org/linux/man-pages/man2/truncate.2.html>
pub fn sys_truncate(task: &Arc<Task>, path: UserPath, length: i64) -> SysResult<()> {
    let size = size_argument(length)?;
    let path = task.read_path(path.address().address())?;
    let location = task.walk(libc::AT_FDCWD, &path, WalkFlags::FOLLOW)?;
    let attributes = location.inode().attributes()?;
    match attributes.kind {
        FileKind::Regular => {}
        FileKind::Directory => return Err(EISDIR),
        _ => return Err(EINVAL),
    }
    if location.mount.is_read_only() {
        return Err(EROFS);
    }
    check_access(&task.credentials(), &attributes, Access::WRITE)?;
    if location.inode().attachments().is_executed() {
        return Err(ETXTBSY);
    }
    set_size(task, Subject::Place(&location), size)
}

/// `fallocate(2)` <https://man7.org/linux/man-pages/man2/fallocate.2.html>
pub fn sys_fallocate(
    task: &Arc<Task>,
    fd: Fd,
    mode: FallocateMode,
    offset: i64,
    length: i64,
) -> SysResult<()> {
    let file = task.open_file(fd.raw())?;
    if offset < 0 || length <= 0 {
        return Err(EINVAL);
    }
    check_allocation_mode(mode)?;
    if !file.writable {
        return Err(EBADF);
    }
    if mode != FallocateMode::empty() && mode != FallocateMode::FALLOC_FL_KEEP_SIZE && file.is_append() {
        return Err(EPERM);
    }
    match file.inode.kind() {
        FileKind::Fifo => return Err(ESPIPE),
        FileKind::Directory => return Err(EISDIR),
        FileKind::Regular | FileKind::BlockDevice => {}
        _ => return Err(ENODEV),
    }
    let end = offset.checked_add(length).ok_or(abi::errno::EFBIG)?;
    let (offset, length, end) = (size_argument(offset)?, size_argument(length)?, size_argument(end)?);
    if !mode.contains(FallocateMode::FALLOC_FL_KEEP_SIZE) && end > file.inode.attributes()?.size {
        task.room_below_size_limit(end - 1)?;
    }
    file.ops.allocate(mode.bits(), offset, length)?;
    watches::on_file(&file, InotifyMask::IN_MODIFY);
    Ok(())
}

fn check_allocation_mode(mode: FallocateMode) -> SysResult<()> {
    let has = |flag: FallocateMode| mode.contains(flag);
    let alone = |flag: FallocateMode| !has(flag) || mode == flag;
    if !FallocateMode::all().contains(mode) || has(FallocateMode::FALLOC_FL_NO_HIDE_STALE) {
        return Err(EOPNOTSUPP);
    }
    let with_punch = FallocateMode::FALLOC_FL_PUNCH_HOLE | FallocateMode::FALLOC_FL_KEEP_SIZE;
    if has(FallocateMode::FALLOC_FL_PUNCH_HOLE)
        && (has(FallocateMode::FALLOC_FL_ZERO_RANGE) || !has(with_punch))
    {
        return Err(EOPNOTSUPP);
    }
    let shifts_alone =
        alone(FallocateMode::FALLOC_FL_COLLAPSE_RANGE) && alone(FallocateMode::FALLOC_FL_INSERT_RANGE);
    if shifts_alone { Ok(()) } else { Err(EINVAL) }
}

/// `fsync(2)` <https://man7.org/linux/man-pages/man2/fsync.2.html>
pub fn sys_fsync(task: &Arc<Task>, fd: Fd) -> SysResult<()> {
    task.open_file(fd.raw())?.ops.sync(DataOnly::No)
}

/// `fdatasync(2)` <https://man7.org/linux/man-pages/man2/fsync.2.html>
pub fn sys_fdatasync(task: &Arc<Task>, fd: Fd) -> SysResult<()> {
    task.open_file(fd.raw())?.ops.sync(DataOnly::Yes)
}

/// `sync_file_range(2)` <https://man7.org/linux/man-pages/man2/sync_file_range.2.html>
pub fn sys_sync_file_range(
    task: &Arc<Task>,
    fd: Fd,
    offset: i64,
    length: i64,
    flags: SyncRangeFlags,
) -> SysResult<()> {
    let file = task.open_file(fd.raw())?;
    if !SyncRangeFlags::all().contains(flags)
        || offset < 0
        || length < 0
        || offset.checked_add(length).is_none()
    {
        return Err(EINVAL);
    }
    if !matches!(
        file.inode.kind(),
        FileKind::Regular | FileKind::BlockDevice | FileKind::Directory | FileKind::Symlink
    ) {
        return Err(ESPIPE);
    }
    let waits = SyncRangeFlags::SYNC_FILE_RANGE_WAIT_BEFORE | SyncRangeFlags::SYNC_FILE_RANGE_WAIT_AFTER;
    if flags.intersects(waits) { file.ops.sync(DataOnly::Yes) } else { Ok(()) }
}

/// `posix_fadvise(2)` <https://man7.org/linux/man-pages/man2/posix_fadvise.2.html>
pub fn sys_fadvise64(task: &Arc<Task>, fd: Fd, _offset: i64, length: i64, advice: i32) -> SysResult<()> {
    let file = task.open_file(fd.raw())?;
    if file.inode.kind() == FileKind::Fifo {
        return Err(ESPIPE);
    }
    let known = abi::file_calls::POSIX_FADV_NORMAL..=abi::file_calls::POSIX_FADV_NOREUSE;
    if length < 0 || !known.contains(&advice) { Err(EINVAL) } else { Ok(()) }
}

/// `readahead(2)` <https://man7.org/linux/man-pages/man2/readahead.2.html>
pub fn sys_readahead(task: &Arc<Task>, fd: Fd, _offset: i64, _count: usize) -> SysResult<()> {
    let file = task.open_file(fd.raw())?;
    if !file.readable {
        return Err(EBADF);
    }
    let regular = matches!(file.inode.kind(), FileKind::Regular | FileKind::BlockDevice);
    if regular { Ok(()) } else { Err(EINVAL) }
}
