//! User and group IDs, capabilities. The rules are in `sentry/src/task/credentials.rs`.

use std::sync::Arc;

use abi::capabilities::{
    _LINUX_CAPABILITY_VERSION_1, _LINUX_CAPABILITY_VERSION_2, _LINUX_CAPABILITY_VERSION_3, CAP_SETGID,
    CapSet, CapUserData, CapUserHeader,
};
use abi::errno::{EINVAL, EPERM, ESRCH, SysResult};
use abi::user::UserAddress;
use sentry::task::{Credentials, Task};
use zerocopy::IntoBytes;

use crate::table::{Entry, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(GETUID, sys_getuid, now 0, Support::Full),
    call!(GETEUID, sys_geteuid, now 0, Support::Full),
    call!(GETGID, sys_getgid, now 0, Support::Full),
    call!(GETEGID, sys_getegid, now 0, Support::Full),
    call!(GETRESUID, sys_getresuid, now 3, Support::Full),
    call!(GETRESGID, sys_getresgid, now 3, Support::Full),
    call!(SETUID, sys_setuid, now 1, Support::Full),
    call!(SETGID, sys_setgid, now 1, Support::Full),
    call!(SETREUID, sys_setreuid, now 2, Support::Full),
    call!(SETREGID, sys_setregid, now 2, Support::Full),
    call!(SETRESUID, sys_setresuid, now 3, Support::Full),
    call!(SETRESGID, sys_setresgid, now 3, Support::Full),
    call!(SETFSUID, sys_setfsuid, now 1, Support::Full),
    call!(SETFSGID, sys_setfsgid, now 1, Support::Full),
    call!(GETGROUPS, sys_getgroups, now 2, Support::Full),
    call!(SETGROUPS, sys_setgroups, now 2, Support::Full),
    call!(CAPGET, sys_capget, now 2, Support::Full),
    call!(CAPSET, sys_capset, now 2, Support::Full),
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

/// The number that means "leave it" in the calls, and is no ID.
const NO_ID: u32 = u32::MAX;

/// An ID that must be one.
fn id(raw: u32) -> SysResult<u32> {
    if raw == NO_ID { Err(EINVAL) } else { Ok(raw) }
}

/// An ID that may be left as it is.
fn wish(raw: u32) -> Option<u32> {
    (raw != NO_ID).then_some(raw)
}

/// `setuid(2)` <https://man7.org/linux/man-pages/man2/setuid.2.html>
pub fn sys_setuid(task: &Arc<Task>, uid: u32) -> SysResult<()> {
    task.commit_credentials(task.credentials().with_uid(id(uid)?)?);
    Ok(())
}

/// `setgid(2)` <https://man7.org/linux/man-pages/man2/setgid.2.html>
pub fn sys_setgid(task: &Arc<Task>, gid: u32) -> SysResult<()> {
    task.commit_credentials(task.credentials().with_gid(id(gid)?)?);
    Ok(())
}

/// `setreuid(2)` <https://man7.org/linux/man-pages/man2/setreuid.2.html>
pub fn sys_setreuid(task: &Arc<Task>, real: u32, effective: u32) -> SysResult<()> {
    task.commit_credentials(task.credentials().with_real_effective_uid(wish(real), wish(effective))?);
    Ok(())
}

/// `setregid(2)` <https://man7.org/linux/man-pages/man2/setreuid.2.html>
pub fn sys_setregid(task: &Arc<Task>, real: u32, effective: u32) -> SysResult<()> {
    task.commit_credentials(task.credentials().with_real_effective_gid(wish(real), wish(effective))?);
    Ok(())
}

/// `setresuid(2)` <https://man7.org/linux/man-pages/man2/setresuid.2.html>
pub fn sys_setresuid(task: &Arc<Task>, real: u32, effective: u32, saved: u32) -> SysResult<()> {
    task.commit_credentials(task.credentials().with_all_uids(wish(real), wish(effective), wish(saved))?);
    Ok(())
}

/// `setresgid(2)` <https://man7.org/linux/man-pages/man2/setresuid.2.html>
pub fn sys_setresgid(task: &Arc<Task>, real: u32, effective: u32, saved: u32) -> SysResult<()> {
    task.commit_credentials(task.credentials().with_all_gids(wish(real), wish(effective), wish(saved))?);
    Ok(())
}

/// `setfsuid(2)` <https://man7.org/linux/man-pages/man2/setfsuid.2.html>
///
/// Never fails: it always returns the old ID.
pub fn sys_setfsuid(task: &Arc<Task>, uid: u32) -> SysResult<u32> {
    let old = task.credentials();
    if let Some(new) = wish(uid).and_then(|uid| old.with_fsuid(uid)) {
        task.commit_credentials(new);
    }
    Ok(old.fsuid)
}

/// `setfsgid(2)` <https://man7.org/linux/man-pages/man2/setfsgid.2.html>
pub fn sys_setfsgid(task: &Arc<Task>, gid: u32) -> SysResult<u32> {
    let old = task.credentials();
    if let Some(new) = wish(gid).and_then(|gid| old.with_fsgid(gid)) {
        task.commit_credentials(new);
    }
    Ok(old.fsgid)
}

/// Linux's `NGROUPS_MAX`.
const GROUPS_MAX: usize = 65_536;

/// `setgroups(2)` <https://man7.org/linux/man-pages/man2/getgroups.2.html>
pub fn sys_setgroups(task: &Arc<Task>, size: i32, list: UserAddress) -> SysResult<()> {
    let own = task.credentials();
    if !own.can(CAP_SETGID) {
        return Err(EPERM);
    }
    let size = usize::try_from(size).ok().filter(|size| *size <= GROUPS_MAX).ok_or(EINVAL)?;
    let mut groups: Vec<u32> = task.read_values(list.address(), size)?;
    if groups.contains(&NO_ID) {
        return Err(EINVAL);
    }
    groups.sort_unstable();
    task.commit_credentials(Credentials { groups, ..(*own).clone() });
    Ok(())
}

/// How many words each set has in a version of the header. Unknown versions are told the preferred one.
fn words_of_version(task: &Task, header: UserAddress) -> SysResult<usize> {
    let version: u32 = task.read_value(header.address())?;
    match version {
        _LINUX_CAPABILITY_VERSION_1 => Ok(1),
        _LINUX_CAPABILITY_VERSION_2 | _LINUX_CAPABILITY_VERSION_3 => Ok(2),
        _ => {
            task.write_value(header.address(), &_LINUX_CAPABILITY_VERSION_3)?;
            Err(EINVAL)
        }
    }
}

/// `capget(2)` <https://man7.org/linux/man-pages/man2/capget.2.html>
pub fn sys_capget(task: &Arc<Task>, header: UserAddress, data: UserAddress) -> SysResult<()> {
    let words = match words_of_version(task, header) {
        // Asking for the version only.
        Err(EINVAL) if data.is_null() => return Ok(()),
        Ok(_) if data.is_null() => return Ok(()),
        other => other?,
    };
    let CapUserHeader { pid, .. } = task.read_value(header.address())?;
    if pid < 0 {
        return Err(EINVAL);
    }
    let target = if pid == 0 { Arc::clone(task) } else { task.kernel.processes.task(pid).ok_or(ESRCH)? };
    let shown = target.credentials();
    let split = |set: u64| CapSet(set).words();
    let (effective, permitted, inheritable) =
        (split(shown.effective), split(shown.permitted), split(shown.inheritable));
    let low = CapUserData { effective: effective.0, permitted: permitted.0, inheritable: inheritable.0 };
    let high = CapUserData { effective: effective.1, permitted: permitted.1, inheritable: inheritable.1 };
    let both = [low, high];
    task.write_exact(data.address(), both.get(..words).unwrap_or(&both).as_bytes())
}

/// `capset(2)` <https://man7.org/linux/man-pages/man2/capget.2.html>
pub fn sys_capset(task: &Arc<Task>, header: UserAddress, data: UserAddress) -> SysResult<()> {
    let words = words_of_version(task, header)?;
    let CapUserHeader { pid, .. } = task.read_value(header.address())?;
    if pid != 0 && pid != task.tid() {
        return Err(EPERM);
    }
    let given: Vec<CapUserData> = task.read_values(data.address(), words)?;
    let low = given.first().copied().unwrap_or_default();
    let high = given.get(1).copied().unwrap_or_default();
    let join = |low, high| CapSet::from_words(low, high).known().0;
    let new = task.credentials().with_capabilities(
        join(low.effective, high.effective),
        join(low.permitted, high.permitted),
        join(low.inheritable, high.inheritable),
    )?;
    task.commit_credentials(new);
    Ok(())
}
