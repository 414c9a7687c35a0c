//! `open`, `openat`, `openat2`, `creat`, `close`, `close_range`.

use std::sync::Arc;

use abi::errno::{E2BIG, EFAULT, EINVAL, EMFILE, SysResult};
use abi::file_calls::CloseRangeFlags;
use abi::files::{OPEN_HOW_SIZE_VER0, OpenFlags, OpenHow as OpenHowArgument, ResolveFlags};
use abi::user::{Fd, UserAddress, UserPath};
use platform::TakeBack;
use sentry::task::{Reply, Resource, Task};
use sentry::vfs::{FdFlags, FileDescription, OpenHow, Opening, WalkFlags};
use sentry::wait::{CallResult, Failure};

use crate::table::{Entry, IntoReply, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(OPEN, sys_open, now 3, Support::Full),
    call!(OPENAT, sys_openat, now 4, Support::Full),
    call!(OPENAT2, sys_openat2, now 4, Support::Full),
    call!(CREAT, sys_creat, now 2, Support::Full),
    call!(CLOSE, sys_close, now 1, Support::Full),
    call!(CLOSE_RANGE, sys_close_range, now 3, Support::Full),
];

/// `open(2)` <https://man7.org/linux/man-pages/man2/open.2.html>
pub fn sys_open<'a>(task: &'a Arc<Task>, path: UserPath, flags: OpenFlags, mode: u32) -> Reply<'a> {
    sys_openat(task, libc::AT_FDCWD, path, flags, mode)
}

/// `creat(2)` <https://man7.org/linux/man-pages/man2/open.2.html>
pub fn sys_creat<'a>(task: &'a Arc<Task>, path: UserPath, mode: u32) -> Reply<'a> {
    let flags = OpenFlags::O_CREAT | OpenFlags::O_WRONLY | OpenFlags::O_TRUNC;
    sys_openat(task, libc::AT_FDCWD, path, flags, mode)
}

/// `openat(2)` <https://man7.org/linux/man-pages/man2/open.2.html>
pub fn sys_openat<'a>(
    task: &'a Arc<Task>,
    directory: i32,
    path: UserPath,
    flags: OpenFlags,
    mode: u32,
) -> Reply<'a> {
    open(task, directory, path, OpenHow::lenient(flags, mode))
}

/// `openat2(2)` <https://man7.org/linux/man-pages/man2/openat2.2.html>
pub fn sys_openat2<'a>(
    task: &'a Arc<Task>,
    directory: i32,
    path: UserPath,
    how: UserAddress,
    size: usize,
) -> Reply<'a> {
    open(task, directory, path, read_how(task, how, size).and_then(judge_how))
}

fn open<'a>(task: &'a Arc<Task>, directory: i32, path: UserPath, how: SysResult<OpenHow>) -> Reply<'a> {
    let begun = how.and_then(|how| {
        let path = task.read_path(path.address().address())?;
        // Before anything is made: a full table must not leave a new file behind.
        if !task.files().has_room(task.group.limits.soft(Resource::OpenFiles)) {
            return Err(EMFILE);
        }
        Ok((task.begin_opening(directory, &path, how)?, how.flags()))
    });
    match begun {
        Err(errno) => Reply::Now(Err(Failure::Error(errno))),
        Ok((Opening::Ready(file), flags)) => install(task, file, flags).into_reply(),
        Ok((Opening::Waiting(file, partner_came), flags)) => Reply::Later(Box::pin(async move {
            let opened: CallResult<i32> = match task.finish_opening(file, partner_came).await {
                Ok(file) => install(task, file, flags).map_err(Failure::Error),
                Err(failure) => Err(failure),
            };
            opened.into_reply()
        })),
    }
}

fn install(task: &Task, file: Arc<FileDescription>, flags: OpenFlags) -> SysResult<i32> {
    let fd_flags = if flags.cloexec() { FdFlags::CLOEXEC } else { FdFlags::empty() };
    task.files().install_from(0, file, fd_flags, task.group.limits.soft(Resource::OpenFiles))
}

/// Copies in an extensible structure: shorter ones are refused, longer ones must be zero behind.
fn read_how(task: &Task, address: UserAddress, size: usize) -> SysResult<OpenHowArgument> {
    if size < OPEN_HOW_SIZE_VER0 {
        return Err(EINVAL);
    }
    if size > 4096 {
        return Err(E2BIG);
    }
    let mut bytes = vec![0; size];
    task.read_exact(address.address(), &mut bytes)?;
    let (how, rest) = zerocopy::FromBytes::read_from_prefix(&bytes).map_err(|_| EFAULT)?;
    if rest.iter().any(|byte| *byte != 0) { Err(E2BIG) } else { Ok(how) }
}

fn judge_how(how: OpenHowArgument) -> SysResult<OpenHow> {
    let flags = u32::try_from(how.flags).map_err(|_| EINVAL)?;
    let flags = OpenFlags::from_bits(flags).ok_or(EINVAL)?;
    let resolve = ResolveFlags::from_bits(how.resolve).ok_or(EINVAL)?;
    let mode = u32::try_from(how.mode).map_err(|_| EINVAL)?;
    let mut walk = WalkFlags::empty();
    for (asked, flag) in [
        (ResolveFlags::RESOLVE_NO_XDEV, WalkFlags::NO_XDEV),
        (ResolveFlags::RESOLVE_NO_MAGICLINKS, WalkFlags::NO_MAGICLINKS),
        (ResolveFlags::RESOLVE_NO_SYMLINKS, WalkFlags::NO_SYMLINKS),
        (ResolveFlags::RESOLVE_BENEATH, WalkFlags::BENEATH),
        (ResolveFlags::RESOLVE_IN_ROOT, WalkFlags::IN_ROOT),
        (ResolveFlags::RESOLVE_CACHED, WalkFlags::CACHED),
    ] {
        walk.set(flag, resolve.contains(asked));
    }
    OpenHow::strict(flags, mode, walk)
}

/// `close(2)` <https://man7.org/linux/man-pages/man2/close.2.html>
pub fn sys_close(task: &Arc<Task>, fd: Fd) -> Reply<'_> {
    let file = match task.files().remove(fd.raw()) {
        Ok(file) => file,
        Err(errno) => return Reply::Now(Err(errno.into())),
    };
    file.ops.flush(task);
    let back = task.take_back(fd.raw(), &file);
    drop(file);
    match back {
        TakeBack::Nothing => Reply::Now(Ok(0)),
        TakeBack::Native => Reply::Native,
        TakeBack::Commands => Reply::Later(Box::pin(async move {
            task.close_lent().await;
            Reply::Now(Ok(0))
        })),
    }
}

/// `close_range(2)` <https://man7.org/linux/man-pages/man2/close_range.2.html>
pub fn sys_close_range(task: &Arc<Task>, first: u32, last: u32, flags: CloseRangeFlags) -> SysResult<()> {
    if !CloseRangeFlags::all().contains(flags) || first > last {
        return Err(EINVAL);
    }
    if flags.contains(CloseRangeFlags::CLOSE_RANGE_UNSHARE) {
        task.unshare_files();
    }
    let files = task.files();
    if flags.contains(CloseRangeFlags::CLOSE_RANGE_CLOEXEC) {
        files.set_flags_in(first, last, FdFlags::CLOEXEC);
        return Ok(());
    }
    let in_range = |fd: i32| u32::try_from(fd).is_ok_and(|fd| (first..=last).contains(&fd));
    for file in files.remove_where(|fd, _| in_range(fd)) {
        file.ops.flush(task);
    }
    Ok(())
}
