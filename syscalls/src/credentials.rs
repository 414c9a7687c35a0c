//! User and group IDs.

use std::sync::Arc;

use abi::errno::{EINVAL, SysResult};
use abi::user::UserAddress;
use sentry::task::Task;

use crate::table::{Entry, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(GETUID, sys_getuid, now 0, Support::Full),
    call!(GETEUID, sys_geteuid, now 0, Support::Full),
    call!(GETGID, sys_getgid, now 0, Support::Full),
    call!(GETEGID, sys_getegid, now 0, Support::Full),
    call!(GETRESUID, sys_getresuid, now 3, Support::Full),
    call!(GETRESGID, sys_getresgid, now 3, Support::Full),
    call!(GETGROUPS, sys_getgroups, now 2, Support::Full),
];

/// `getuid(2)` <https://man7.org/linux/man-pages/man2/getuid.2.html>
pub fn sys_getuid(task: &Arc<Task>) -> SysResult<u32> {
    Ok(task.credentials().uid)
}

/// `geteuid(2)` <https://man7.org/linux/man-pages/man2/getuid.2.html>
pub fn sys_geteuid(task: &Arc<Task>) -> SysResult<u32> {
    Ok(task.credentials().euid)
}

/// `getgid(2)` <https://man7.org/linux/man-pages/man2/getgid.2.html>
pub fn sys_getgid(task: &Arc<Task>) -> SysResult<u32> {
    Ok(task.credentials().gid)
}

/// `getegid(2)` <https://man7.org/linux/man-pages/man2/getgid.2.html>
pub fn sys_getegid(task: &Arc<Task>) -> SysResult<u32> {
    Ok(task.credentials().egid)
}

fn write_three(task: &Task, places: [UserAddress; 3], values: [u32; 3]) -> SysResult<()> {
    places.iter().zip(values).try_for_each(|(place, value)| task.write_value(place.address(), &value))
}

/// `getresuid(2)` <https://man7.org/linux/man-pages/man2/getresuid.2.html>
pub fn sys_getresuid(
    task: &Arc<Task>,
    real: UserAddress,
    effective: UserAddress,
    saved: UserAddress,
) -> SysResult<()> {
    let own = task.credentials();
    write_three(task, [real, effective, saved], [own.uid, own.euid, own.suid])
}

/// `getresgid(2)` <https://man7.org/linux/man-pages/man2/getresuid.2.html>
pub fn sys_getresgid(
    task: &Arc<Task>,
    real: UserAddress,
    effective: UserAddress,
    saved: UserAddress,
) -> SysResult<()> {
    let own = task.credentials();
    write_three(task, [real, effective, saved], [own.gid, own.egid, own.sgid])
}

/// `getgroups(2)` <https://man7.org/linux/man-pages/man2/getgroups.2.html>
pub fn sys_getgroups(task: &Arc<Task>, size: i32, list: UserAddress) -> SysResult<usize> {
    let size = usize::try_from(size).map_err(|_| EINVAL)?;
    let own = task.credentials();
    if size != 0 {
        if own.groups.len() > size {
            return Err(EINVAL);
        }
        let bytes: Vec<u8> = own.groups.iter().flat_map(|group| group.to_le_bytes()).collect();
        task.write_exact(list.address(), &bytes)?;
    }
    Ok(own.groups.len())
}
