//! Copying between descriptors within the kernel: `sendfile`, `copy_file_range`.
//!
//! Neighbour: `splice.rs`, where one side is a pipe. Bytes go through a kernel buffer. The source has positions, so what the target does not take was not read.

use std::sync::Arc;

use abi::errno::{EAGAIN, EBADF, EINVAL, EISDIR, EOVERFLOW, EPIPE, ESPIPE, Errno, SysResult};
use abi::file_calls::MAX_RW_COUNT;
use abi::signal_info::SigInfo;
use abi::signals::SIGPIPE;
use abi::user::{Fd, UserAddress};
use sentry::task::Task;
use sentry::vfs::{FileDescription, FileKind, POSITION_MAX, watches};
use sentry::wait::{CallResult, Failure, PollEvents, Restart};

use crate::table::{Entry, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(SENDFILE, sys_sendfile, wait 4, Support::Full),
    call!(COPY_FILE_RANGE, sys_copy_file_range, now 6, Support::Full),
];

/// Bytes that are copied at once.
pub(crate) const PIECE: usize = 64 << 10;

/// A position that is the description's or one that the caller keeps.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    Description,
    Memory(UserAddress, u64),
}

impl Place {
    /// The offset behind a pointer, or the description's position if it is null.
    pub(crate) fn read(task: &Task, pointer: UserAddress) -> SysResult<Self> {
        if pointer.is_null() {
            return Ok(Self::Description);
        }
        let offset: i64 = task.read_value(pointer.address())?;
        Ok(Self::Memory(pointer, u64::try_from(offset).map_err(|_| EINVAL)?))
    }

    pub(crate) fn start(self, file: &FileDescription) -> u64 {
        match self {
            Self::Description => *file.position.lock(),
            Self::Memory(_, offset) => offset,
        }
    }

    pub(crate) fn finish(self, task: &Task, file: &FileDescription, position: u64) -> SysResult<()> {
        match self {
            Self::Description => {
                *file.position.lock() = position;
                Ok(())
            }
            Self::Memory(pointer, _) => task.write_value(pointer.address(), &position),
        }
    }
}

/// `sendfile(2)` <https://man7.org/linux/man-pages/man2/sendfile.2.html>
pub async fn sys_sendfile(
    task: &Arc<Task>,
    out: Fd,
    input: Fd,
    offset: UserAddress,
    count: usize,
) -> CallResult<usize> {
    let place = Place::read(task, offset)?;
    let files = task.files();
    let source = files.get_open(input.raw())?;
    if !source.readable {
        return Err(EBADF.into());
    }
    if !source.is_seekable() {
        return Err(if matches!(place, Place::Memory(..)) { ESPIPE } else { EINVAL }.into());
    }
    let target = files.get_open(out.raw())?;
    if !target.writable {
        return Err(EBADF.into());
    }
    if target.is_append() || source.inode.kind() == FileKind::Directory {
        return Err(EINVAL.into());
    }
    let start = place.start(&source);
    let count = limited(start, count)?;
    let result = send(task, &source, start, &target, count).await;
    let sent = *result.as_ref().unwrap_or(&0);
    place.finish(task, &source, start.saturating_add(sent as u64))?;
    if sent != 0 {
        watches::moved_bytes(&source, &target);
    }
    result
}

fn limited(start: u64, count: usize) -> SysResult<usize> {
    if start > POSITION_MAX {
        return Err(EOVERFLOW);
    }
    let room = usize::try_from(POSITION_MAX - start).unwrap_or(usize::MAX);
    Ok(count.min(MAX_RW_COUNT).min(room))
}

/// Writes to a description at its position.
fn put(task: &Task, target: &FileDescription, bytes: &[u8]) -> SysResult<usize> {
    if !target.is_seekable() {
        return target.ops.write(0, bytes, target);
    }
    let mut position = target.position.lock();
    let room = task.room_below_size_limit(*position)?;
    let bytes = bytes.get(..usize::try_from(room).unwrap_or(usize::MAX)).unwrap_or(bytes);
    let count = target.ops.write(*position, bytes, target)?;
    *position = position.saturating_add(count as u64);
    Ok(count)
}

async fn send(
    task: &Task,
    source: &FileDescription,
    start: u64,
    target: &FileDescription,
    count: usize,
) -> CallResult<usize> {
    let mut buffer = vec![0; count.min(PIECE)];
    let mut done = 0;
    while done < count && !task.is_ending() {
        let wanted = (count - done).min(buffer.len());
        let piece = buffer.get_mut(..wanted).unwrap_or_default();
        let got = match source.ops.read(start + done as u64, piece, source) {
            Ok(got) => got,
            Err(error) => return ended(done, error.into()),
        };
        if got == 0 {
            break;
        }
        let bytes = piece.get(..got).unwrap_or_default();
        match put_waiting(task, target, bytes).await {
            Ok(taken) => {
                done += taken;
                if taken < got && target.is_seekable() || taken == 0 {
                    break;
                }
            }
            Err(failure) => return ended(done, failure),
        }
    }
    Ok(done)
}

/// Bytes already moved beat any error.
fn ended(done: usize, failure: Failure) -> CallResult<usize> {
    if done == 0 { Err(failure) } else { Ok(done) }
}

async fn put_waiting(task: &Task, target: &FileDescription, bytes: &[u8]) -> CallResult<usize> {
    let signal = |error: Errno| {
        if error == EPIPE {
            let _ = task.send_signal(SIGPIPE, SigInfo::kernel(SIGPIPE));
        }
        Failure::Error(error)
    };
    let queue = target.ops.wait_queue().filter(|_| !target.is_nonblocking());
    match (put(task, target, bytes), queue) {
        (Err(EAGAIN), Some(queue)) => {
            let attempt = || match put(task, target, bytes) {
                Err(EAGAIN) => None,
                other => Some(other),
            };
            match task.wait_until(queue, PollEvents::WRITABLE, attempt).await {
                Ok(result) => result.map_err(signal),
                Err(_) => Err(Failure::Restart(Restart::Sys)),
            }
        }
        (result, _) => result.map_err(signal),
    }
}

/// `copy_file_range(2)` <https://man7.org/linux/man-pages/man2/copy_file_range.2.html>
pub fn sys_copy_file_range(
    task: &Arc<Task>,
    input: Fd,
    input_offset: UserAddress,
    out: Fd,
    out_offset: UserAddress,
    length: usize,
    flags: u32,
) -> SysResult<usize> {
    let files = task.files();
    let (source, target) = (files.get_open(input.raw())?, files.get_open(out.raw())?);
    let (from, to) = (Place::read(task, input_offset)?, Place::read(task, out_offset)?);
    if flags != 0 {
        return Err(EINVAL);
    }
    for file in [&source, &target] {
        match file.inode.kind() {
            FileKind::Regular if file.is_seekable() => {}
            FileKind::Directory => return Err(EISDIR),
            _ => return Err(EINVAL),
        }
    }
    if !source.readable || !target.writable || target.is_append() {
        return Err(EBADF);
    }
    let (start, out_start) = (from.start(&source), to.start(&target));
    let end = start.checked_add(length as u64).ok_or(EOVERFLOW)?;
    let out_end = out_start.checked_add(length as u64).ok_or(EOVERFLOW)?;
    if Arc::ptr_eq(&source.inode, &target.inode) && start < out_end && out_start < end {
        return Err(EINVAL);
    }
    if length == 0 {
        return Ok(0);
    }
    let room = usize::try_from(task.room_below_size_limit(out_start)?).unwrap_or(usize::MAX);
    let count = limited(start, length)?.min(limited(out_start, length)?).min(room);
    let done = copy(task, &source, start, &target, out_start, count)?;
    from.finish(task, &source, start + done as u64)?;
    to.finish(task, &target, out_start + done as u64)?;
    if done != 0 {
        watches::moved_bytes(&source, &target);
    }
    Ok(done)
}

fn copy(
    task: &Task,
    source: &FileDescription,
    start: u64,
    target: &FileDescription,
    out_start: u64,
    count: usize,
) -> SysResult<usize> {
    let mut buffer = vec![0; count.min(PIECE)];
    let mut done = 0;
    while done < count && !task.is_ending() {
        let wanted = (count - done).min(buffer.len());
        let piece = buffer.get_mut(..wanted).unwrap_or_default();
        let step = source.ops.read(start + done as u64, piece, source).and_then(|got| {
            let bytes = piece.get(..got).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(0);
            }
            target.ops.write(out_start + done as u64, bytes, target)
        });
        match step {
            Ok(0) => break,
            Ok(taken) => done += taken,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}
