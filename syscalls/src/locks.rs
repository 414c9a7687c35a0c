//! Advisory locks: `flock`, and the record locks of `fcntl`.

use std::sync::Arc;

use abi::errno::{EBADF, EINVAL, EOVERFLOW, SysResult};
use abi::file_calls::{
    F_GETLK, F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW, F_RDLCK, F_SETLKW, F_UNLCK, F_WRLCK, Flock,
    FlockOperation,
};
use abi::files::{SEEK_CUR, SEEK_END, SEEK_SET};
use abi::user::{Fd, UserAddress};
use sentry::task::{Reply, Task};
use sentry::vfs::{FileDescription, LockKind, LockWait, RangeLock, RangeOwner};
use sentry::wait::CallResult;

use crate::table::{Entry, IntoReply, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[call!(FLOCK, sys_flock, wait 2, Support::Full)];

/// `flock(2)` <https://man7.org/linux/man-pages/man2/flock.2.html>
pub async fn sys_flock(task: &Arc<Task>, fd: Fd, operation: FlockOperation) -> CallResult<()> {
    let wait = if operation.contains(FlockOperation::LOCK_NB) { LockWait::No } else { LockWait::Yes };
    let kind = match operation.difference(FlockOperation::LOCK_NB) {
        FlockOperation::LOCK_SH => Some(LockKind::Shared),
        FlockOperation::LOCK_EX => Some(LockKind::Exclusive),
        FlockOperation::LOCK_UN => None,
        _ => return Err(EINVAL.into()),
    };
    let file = task.files().get_open(fd.raw())?;
    match kind {
        Some(kind) => task.lock_whole(&file, kind, wait).await,
        None => {
            file.inode.attachments().locks().unlock_whole(file.identity);
            Ok(())
        }
    }
}

/// A lock or question as `struct flock` says it. `None` as kind: unlock.
struct Request {
    lock: RangeLock,
    kind: Option<LockKind>,
}

fn owner_of(task: &Task, file: &FileDescription, command: i32) -> RangeOwner {
    match command {
        F_OFD_GETLK | F_OFD_SETLK | F_OFD_SETLKW => RangeOwner::Description(file.identity),
        _ => RangeOwner::Table(task.files().id()),
    }
}

fn judge(task: &Task, file: &FileDescription, command: i32, flock: &Flock) -> SysResult<Request> {
    let owner = owner_of(task, file, command);
    if matches!(owner, RangeOwner::Description(_)) && flock.l_pid != 0 {
        return Err(EINVAL);
    }
    let base = match i32::from(flock.l_whence) {
        SEEK_SET => 0,
        SEEK_CUR => i64::try_from(*file.position.lock()).map_err(|_| EOVERFLOW)?,
        SEEK_END => i64::try_from(file.inode.attributes()?.size).map_err(|_| EOVERFLOW)?,
        _ => return Err(EINVAL),
    };
    let start = base.checked_add(flock.l_start).ok_or(EOVERFLOW)?;
    let (start, last) = RangeLock::bounds(start, flock.l_len)?;
    let kind = match flock.l_type {
        F_RDLCK => Some(LockKind::Shared),
        F_WRLCK => Some(LockKind::Exclusive),
        F_UNLCK => None,
        _ => return Err(EINVAL),
    };
    let pid = if matches!(owner, RangeOwner::Description(_)) { -1 } else { task.pid() };
    let lock = RangeLock { owner, start, last, kind: kind.unwrap_or(LockKind::Shared), pid };
    Ok(Request { lock, kind })
}

/// `fcntl` with one of the six lock commands.
pub fn record_lock<'a>(
    task: &'a Arc<Task>,
    fd: Fd,
    file: Arc<FileDescription>,
    command: i32,
    argument: UserAddress,
) -> Reply<'a> {
    let request = task.read_value::<Flock>(argument.address()).and_then(|flock| {
        let request = judge(task, &file, command, &flock)?;
        Ok((flock, request))
    });
    let (flock, request) = match request {
        Ok(request) => request,
        Err(errno) => return SysResult::<()>::Err(errno).into_reply(),
    };
    if matches!(command, F_GETLK | F_OFD_GETLK) {
        return ask(task, &file, argument, flock, &request).into_reply();
    }
    let Some(kind) = request.kind else {
        let RangeLock { owner, start, last, .. } = request.lock;
        return file.inode.attachments().locks().clear_range(owner, start, last).into_reply();
    };
    let permitted = if kind == LockKind::Shared { file.readable } else { file.writable };
    if !permitted {
        return SysResult::<()>::Err(EBADF).into_reply();
    }
    let waits = matches!(command, F_SETLKW | F_OFD_SETLKW);
    let wait = if waits { LockWait::Yes } else { LockWait::No };
    Reply::Later(Box::pin(async move {
        let result = task.lock_range(&file, request.lock, wait).await;
        if result.is_ok() && !task.files().get(fd.raw()).is_ok_and(|now| Arc::ptr_eq(&now, &file)) {
            // Closed by another thread meanwhile: its close did not find this lock.
            if let RangeOwner::Table(table) = request.lock.owner {
                file.inode.attachments().release_table(table);
            }
            return CallResult::<()>::Err(EBADF.into()).into_reply();
        }
        result.into_reply()
    }))
}

/// `F_GETLK`: what stands in the way.
fn ask(
    task: &Task,
    file: &FileDescription,
    argument: UserAddress,
    mut flock: Flock,
    request: &Request,
) -> SysResult<()> {
    if request.kind.is_none() && matches!(request.lock.owner, RangeOwner::Table(_)) {
        return Err(EINVAL);
    }
    match file.inode.attachments().locks().conflict(&request.lock) {
        None => flock.l_type = F_UNLCK,
        Some(held) => {
            flock.l_type = if held.kind == LockKind::Shared { F_RDLCK } else { F_WRLCK };
            flock.l_whence = 0;
            flock.l_start = i64::try_from(held.start).map_err(|_| EOVERFLOW)?;
            let length = if held.last >= RangeLock::TO_END { 0 } else { held.last - held.start + 1 };
            flock.l_len = i64::try_from(length).map_err(|_| EOVERFLOW)?;
            flock.l_pid = held.pid;
        }
    }
    task.write_value(argument.address(), &flock)
}
