//! Reaching into other processes: `process_vm_readv`, `process_vm_writev`, `pidfd_open`, `pidfd_getfd`.

use std::sync::Arc;

use abi::errno::{EFAULT, EINVAL, EPERM, ESRCH, SysResult};
use abi::file_calls::Iovec;
use abi::process::PidfdFlags;
use abi::user::UserAddress;
use sentry::fs::pidfd;
use sentry::task::{Resource, Task};
use sentry::vfs::FdFlags;

use crate::table::{Entry, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(PROCESS_VM_READV, sys_process_vm_readv, now 6, Support::Full),
    call!(PROCESS_VM_WRITEV, sys_process_vm_writev, now 6, Support::Full),
    call!(PIDFD_OPEN, sys_pidfd_open, now 2, Support::Partial("no PIDFD_THREAD")),
    call!(PIDFD_GETFD, sys_pidfd_getfd, now 3, Support::Full),
];

/// Vectors of one call (`UIO_MAXIOV`).
const VECTORS_MAX: u64 = 1024;
/// Bytes copied at once between two address spaces.
const PIECE: usize = 64 << 10;

/// The ranges a vector names.
fn ranges(task: &Task, address: UserAddress, count: u64) -> SysResult<Vec<(u64, u64)>> {
    if count > VECTORS_MAX {
        return Err(EINVAL);
    }
    let vectors: Vec<Iovec> =
        task.read_values(address.address(), usize::try_from(count).map_err(|_| EINVAL)?)?;
    Ok(vectors.iter().map(|vector| (vector.iov_base.address(), vector.iov_len)).collect())
}

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    FromTarget,
    ToTarget,
}

#[expect(clippy::too_many_arguments, reason = "the call has that many")]
fn copy_between(
    task: &Arc<Task>,
    pid: i32,
    local: UserAddress,
    local_count: u64,
    remote: UserAddress,
    remote_count: u64,
    flags: u64,
    direction: Direction,
) -> SysResult<usize> {
    if flags != 0 {
        return Err(EINVAL);
    }
    let mut local = ranges(task, local, local_count)?.into_iter();
    let mut remote = ranges(task, remote, remote_count)?.into_iter();
    let target = task.kernel.processes.task(pid).ok_or(ESRCH)?;
    if !task.may_inspect(&target) {
        return Err(EPERM);
    }
    let mut buffer = vec![0; PIECE];
    let mut done = 0;
    let (mut here, mut there) = ((0, 0), (0, 0));
    loop {
        while here.1 == 0 {
            let Some(next) = local.next() else { return Ok(done) };
            here = next;
        }
        while there.1 == 0 {
            let Some(next) = remote.next() else { return Ok(done) };
            there = next;
        }
        let wanted = usize::try_from(here.1.min(there.1)).unwrap_or(PIECE).min(PIECE);
        let piece = buffer.get_mut(..wanted).ok_or(EFAULT)?;
        let moved = match direction {
            Direction::FromTarget => target
                .read_memory(there.0, piece)
                .and_then(|count| task.write_memory(here.0, piece.get(..count).unwrap_or_default())),
            Direction::ToTarget => task
                .read_memory(here.0, piece)
                .and_then(|count| target.write_memory(there.0, piece.get(..count).unwrap_or_default())),
        };
        let count = match moved {
            Ok(count) => count,
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => return Ok(done),
        };
        done += count;
        if count < wanted {
            return Ok(done);
        }
        here = (here.0 + count as u64, here.1 - count as u64);
        there = (there.0 + count as u64, there.1 - count as u64);
    }
}

/// `process_vm_readv(2)` <https://man7.org/linux/man-pages/man2/process_vm_readv.2.html>
pub fn sys_process_vm_readv(
    task: &Arc<Task>,
    pid: i32,
    local: UserAddress,
    local_count: u64,
    remote: UserAddress,
    remote_count: u64,
    flags: u64,
) -> SysResult<usize> {
    copy_between(task, pid, local, local_count, remote, remote_count, flags, Direction::FromTarget)
}

/// `process_vm_writev(2)` <https://man7.org/linux/man-pages/man2/process_vm_readv.2.html>
pub fn sys_process_vm_writev(
    task: &Arc<Task>,
    pid: i32,
    local: UserAddress,
    local_count: u64,
    remote: UserAddress,
    remote_count: u64,
    flags: u64,
) -> SysResult<usize> {
    copy_between(task, pid, local, local_count, remote, remote_count, flags, Direction::ToTarget)
}

/// `pidfd_open(2)` <https://man7.org/linux/man-pages/man2/pidfd_open.2.html>
pub fn sys_pidfd_open(task: &Arc<Task>, pid: i32, flags: PidfdFlags) -> SysResult<i32> {
    if !PidfdFlags::PIDFD_NONBLOCK.contains(flags) || pid <= 0 {
        return Err(EINVAL);
    }
    let processes = &task.kernel.processes;
    let Some(group) = processes.group(pid) else {
        // A thread that is not the first has a number, and no process by it.
        return Err(if processes.task(pid).is_some() { EINVAL } else { ESRCH });
    };
    let file = pidfd::new_pidfd(group, flags.bits(), &task.credentials());
    task.files().install_from(0, file, FdFlags::CLOEXEC, task.group.limits.soft(Resource::OpenFiles))
}

/// `pidfd_getfd(2)` <https://man7.org/linux/man-pages/man2/pidfd_getfd.2.html>
pub fn sys_pidfd_getfd(task: &Arc<Task>, pidfd: i32, fd: i32, flags: u32) -> SysResult<i32> {
    if flags != 0 {
        return Err(EINVAL);
    }
    let file = task.files().get(pidfd)?;
    let group = pidfd::process_of(&file)?;
    let target = group.leader().ok_or(ESRCH)?;
    if !task.may_inspect(&target) {
        return Err(EPERM);
    }
    let wanted = target.files().get(fd)?;
    task.files().install_from(0, wanted, FdFlags::CLOEXEC, task.group.limits.soft(Resource::OpenFiles))
}
