//! Calls on descriptors: `dup`, `dup2`, `dup3`, `fcntl`, `ioctl`.
//!
//! `fcntl`'s record locks are in `locks.rs`. Requests of `ioctl` that every descriptor understands are answered here,
//! the others by the file.

use std::sync::Arc;

use abi::errno::{EBADF, EINVAL, ENOTTY, EPERM, ESRCH, SysResult};
use abi::file_calls::{
    F_ADD_SEALS, F_CREATED_QUERY, F_DUPFD, F_DUPFD_CLOEXEC, F_DUPFD_QUERY, F_GET_SEALS, F_GETFD, F_GETFL,
    F_GETLEASE, F_GETLK, F_GETOWN, F_GETOWN_EX, F_GETPIPE_SZ, F_GETSIG, F_OFD_GETLK, F_OFD_SETLK,
    F_OFD_SETLKW, F_OWNER_PGRP, F_OWNER_PID, F_OWNER_TID, F_SETFD, F_SETFL, F_SETLK, F_SETLKW, F_SETOWN,
    F_SETOWN_EX, F_SETPIPE_SZ, F_SETSIG, FD_CLOEXEC, FOwnerEx,
};
use abi::files::OpenFlags;
use abi::ioctls::{FIOASYNC, FIOCLEX, FIONBIO, FIONCLEX, FIONREAD, FIOQSIZE};
use abi::user::{Fd, UserAddress};
use sentry::fs::pipe::PipeEnd;
use sentry::fs::tmpfs;
use sentry::task::{Reply, Resource, Task};
use sentry::vfs::{CHANGEABLE_FLAGS, FdFlags, FileDescription, FileKind, Operation, is_owner};
use sentry::wait::{CallResult, Failure};

use crate::table::{Entry, IntoReply, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(DUP, sys_dup, now 1, Support::Full),
    call!(DUP2, sys_dup2, now 2, Support::Full),
    call!(DUP3, sys_dup3, now 3, Support::Full),
    call!(FCNTL, sys_fcntl, now 3, Support::Partial("no leases, F_NOTIFY or write hints")),
    call!(IOCTL, sys_ioctl, now 3, Support::Partial("as each file has them")),
];

fn limit(task: &Task) -> u64 {
    task.group.limits.soft(Resource::OpenFiles)
}

/// `dup(2)` <https://man7.org/linux/man-pages/man2/dup.2.html>
pub fn sys_dup(task: &Arc<Task>, fd: Fd) -> SysResult<i32> {
    let files = task.files();
    let file = files.get(fd.raw())?;
    files.install_from(0, file, FdFlags::empty(), limit(task))
}

/// `dup2(2)` <https://man7.org/linux/man-pages/man2/dup.2.html>
pub fn sys_dup2(task: &Arc<Task>, old: Fd, new: Fd) -> SysResult<i32> {
    if old == new {
        return task.files().get(old.raw()).map(|_| old.raw());
    }
    duplicate_to(task, old, new, FdFlags::empty())
}

/// `dup3(2)` <https://man7.org/linux/man-pages/man2/dup.2.html>
pub fn sys_dup3(task: &Arc<Task>, old: Fd, new: Fd, flags: OpenFlags) -> SysResult<i32> {
    if !OpenFlags::O_CLOEXEC.contains(flags) || old == new {
        return Err(EINVAL);
    }
    duplicate_to(task, old, new, if flags.cloexec() { FdFlags::CLOEXEC } else { FdFlags::empty() })
}

fn duplicate_to(task: &Task, old: Fd, new: Fd, flags: FdFlags) -> SysResult<i32> {
    let files = task.files();
    if u64::try_from(new.raw()).map_or(true, |number| number >= limit(task)) {
        return Err(EBADF);
    }
    let file = files.get(old.raw())?;
    if let Some(replaced) = files.install_at(new.raw(), file, flags, limit(task))? {
        replaced.ops.flush(task);
    }
    Ok(new.raw())
}

/// `fcntl(2)` <https://man7.org/linux/man-pages/man2/fcntl.2.html>
pub fn sys_fcntl<'a>(task: &'a Arc<Task>, fd: Fd, command: i32, argument: u64) -> Reply<'a> {
    let file = match task.files().get(fd.raw()) {
        Ok(file) => file,
        Err(errno) => return Reply::Now(Err(Failure::Error(errno))),
    };
    if file.path_only
        && !matches!(command, F_DUPFD | F_DUPFD_CLOEXEC | F_DUPFD_QUERY | F_GETFD | F_SETFD | F_GETFL)
    {
        return Reply::Now(Err(Failure::Error(EBADF)));
    }
    match command {
        F_GETLK | F_SETLK | F_SETLKW | F_OFD_GETLK | F_OFD_SETLK | F_OFD_SETLKW => {
            crate::locks::record_lock(task, fd, file, command, UserAddress(argument))
        }
        _ => control(task, fd, &file, command, argument).into_reply(),
    }
}

fn control(task: &Task, fd: Fd, file: &Arc<FileDescription>, command: i32, argument: u64) -> SysResult<u64> {
    let files = task.files();
    // The argument is an int for these commands.
    let number = <i32 as abi::user::FromRegister>::from_register(argument);
    let bits = number.cast_unsigned();
    match command {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            let flags = if command == F_DUPFD_CLOEXEC { FdFlags::CLOEXEC } else { FdFlags::empty() };
            let new = files.install_from(number, Arc::clone(file), flags, limit(task))?;
            u64::try_from(new).map_err(|_| EINVAL)
        }
        F_DUPFD_QUERY => Ok(files.get(number)?.identity.eq(&file.identity).into()),
        F_GETFD => Ok(u64::from(files.flags(fd.raw())?.contains(FdFlags::CLOEXEC)) * u64::from(FD_CLOEXEC)),
        F_SETFD => {
            let flags = if bits & FD_CLOEXEC != 0 { FdFlags::CLOEXEC } else { FdFlags::empty() };
            files.set_flags(fd.raw(), flags).map(|()| 0)
        }
        F_GETFL => Ok(file.flags().into()),
        F_SETFL => set_status(task, file, bits).map(|()| 0),
        F_CREATED_QUERY => Err(EINVAL),
        F_GETLEASE => Ok(u64::from(abi::file_calls::F_UNLCK.cast_unsigned())),
        F_ADD_SEALS => tmpfs::add_seals(file, bits).map(|()| 0),
        F_GET_SEALS => tmpfs::seals(file),
        F_GETPIPE_SZ => Ok(pipe_end(file)?.pipe().capacity() as u64),
        F_SETPIPE_SZ => {
            let wanted = usize::try_from(bits).map_err(|_| EINVAL)?;
            Ok(pipe_end(file)?.pipe().set_capacity(wanted, &task.credentials())? as u64)
        }
        _ => control_owner(task, file, command, argument),
    }
}

fn pipe_end(file: &FileDescription) -> SysResult<&PipeEnd> {
    file.ops.as_any().downcast_ref().ok_or(EBADF)
}

/// `F_SETFL`
fn set_status(task: &Task, file: &FileDescription, flags: u32) -> SysResult<()> {
    let no_atime = OpenFlags::O_NOATIME.bits();
    if flags & no_atime != 0
        && file.flags() & no_atime == 0
        && !is_owner(&task.credentials(), &file.inode.attributes()?)
    {
        return Err(EPERM);
    }
    file.set_flags(flags & CHANGEABLE_FLAGS)
}

/// `F_SETOWN` and its kin: who is told of `SIGIO`.
fn control_owner(task: &Task, file: &FileDescription, command: i32, argument: u64) -> SysResult<u64> {
    let number = <i32 as abi::user::FromRegister>::from_register(argument);
    match command {
        F_SETOWN => {
            if number == i32::MIN {
                return Err(EINVAL);
            }
            check_owner_exists(task, number)?;
            let mut owner = file.owner.lock();
            owner.owner = number;
            owner.is_thread = false;
            Ok(0)
        }
        F_GETOWN => Ok(i64::from(file.owner.lock().owner).cast_unsigned()),
        F_SETSIG => {
            if !(0..=64).contains(&number) {
                return Err(EINVAL);
            }
            file.owner.lock().signal = number;
            Ok(0)
        }
        F_GETSIG => u64::try_from(file.owner.lock().signal).map_err(|_| EINVAL),
        F_SETOWN_EX => {
            let wanted: FOwnerEx = task.read_value(argument)?;
            let (owner, is_thread) = match wanted.r#type {
                F_OWNER_TID => (wanted.pid, true),
                F_OWNER_PID => (wanted.pid, false),
                F_OWNER_PGRP => (wanted.pid.checked_neg().ok_or(EINVAL)?, false),
                _ => return Err(EINVAL),
            };
            let known =
                if is_thread { owner == 0 || task.kernel.processes.task(owner).is_some() } else { true };
            if !known {
                return Err(ESRCH);
            }
            if !is_thread {
                check_owner_exists(task, owner)?;
            }
            let mut place = file.owner.lock();
            place.owner = owner;
            place.is_thread = is_thread;
            Ok(0)
        }
        F_GETOWN_EX => {
            let owner = *file.owner.lock();
            let (kind, pid) = match owner.owner {
                group if group < 0 => (F_OWNER_PGRP, -group),
                pid if owner.is_thread => (F_OWNER_TID, pid),
                pid => (F_OWNER_PID, pid),
            };
            task.write_value(argument, &FOwnerEx { r#type: kind, pid }).map(|()| 0)
        }
        _ => Err(EINVAL),
    }
}

fn check_owner_exists(task: &Task, owner: i32) -> SysResult<()> {
    let processes = &task.kernel.processes;
    let exists = match owner {
        0 => true,
        group if group < 0 => !processes.members(-group).is_empty(),
        pid => processes.group(pid).is_some(),
    };
    if exists { Ok(()) } else { Err(ESRCH) }
}

/// `ioctl(2)` <https://man7.org/linux/man-pages/man2/ioctl.2.html>
pub fn sys_ioctl(task: &Arc<Task>, fd: Fd, request: u32, argument: u64) -> CallResult<u64> {
    let file = task.files().get_open(fd.raw())?;
    file.ops.admit(task, Operation::Ioctl(request))?;
    Ok(carry_out(task, fd, &file, request, argument)?)
}

fn carry_out(task: &Task, fd: Fd, file: &FileDescription, request: u32, argument: u64) -> SysResult<u64> {
    let set = |flag: OpenFlags| -> SysResult<u64> {
        let on: i32 = task.read_value(argument)?;
        let flags = if on != 0 { file.flags() | flag.bits() } else { file.flags() & !flag.bits() };
        file.set_flags(flags).map(|()| 0)
    };
    match request {
        FIOCLEX => task.files().set_flags(fd.raw(), FdFlags::CLOEXEC).map(|()| 0),
        FIONCLEX => task.files().set_flags(fd.raw(), FdFlags::empty()).map(|()| 0),
        FIONBIO => set(OpenFlags::O_NONBLOCK),
        FIOASYNC => set(OpenFlags::O_ASYNC),
        FIOQSIZE => {
            let stored =
                matches!(file.inode.kind(), FileKind::Regular | FileKind::Directory | FileKind::Symlink);
            if !stored {
                return Err(ENOTTY);
            }
            task.write_value(argument, &file.inode.attributes()?.size).map(|()| 0)
        }
        FIONREAD if file.inode.kind() == FileKind::Regular && file.is_seekable() => {
            let left = file.inode.attributes()?.size.saturating_sub(*file.position.lock());
            let left = i32::try_from(left).unwrap_or(i32::MAX);
            task.write_value(argument, &left).map(|()| 0)
        }
        _ => file.ops.ioctl(task, file, request, argument),
    }
}
