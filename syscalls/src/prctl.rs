//! `prctl`: one number for what had no call of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::capabilities::{CapSet, Capability};
use abi::define::Names;
use abi::errno::{EFAULT, EINVAL, EPERM, SysResult};
use abi::process::*;
use abi::signals::Signal;
use sentry::task::{Credentials, TIMER_SLACK_DEFAULT_NS, Task};

use crate::table::{Entry, Support, call, option_name, unimplemented_option};

/// The calls of this file.
pub const CALLS: &[Entry] = &[call!(
    PRCTL,
    sys_prctl,
    now 5,
    Support::Partial(
        "names, death signal, dumpable, capabilities, securebits, no_new_privs, subreaper, timer slack (kept only), \
         TID address, auxiliary vector; the rest is EINVAL and counted"
    )
)];

/// The arguments behind the option.
type Rest = [u64; 4];

/// `prctl(2)` <https://man7.org/linux/man-pages/man2/prctl.2.html>
pub fn sys_prctl(
    task: &Arc<Task>,
    option: i32,
    second: u64,
    third: u64,
    fourth: u64,
    fifth: u64,
) -> SysResult<u64> {
    let rest = [second, third, fourth, fifth];
    match option {
        PR_CAPBSET_READ | PR_CAPBSET_DROP | PR_CAP_AMBIENT | PR_SET_SECUREBITS | PR_GET_SECUREBITS
        | PR_SET_KEEPCAPS | PR_GET_KEEPCAPS | PR_SET_NO_NEW_PRIVS | PR_GET_NO_NEW_PRIVS => {
            privileges(task, option, rest)
        }
        PR_SET_NAME => set_name(task, second),
        PR_GET_NAME => get_name(task, second),
        PR_SET_PDEATHSIG => set_death_signal(task, second),
        PR_GET_PDEATHSIG => done(task.write_value(second, &task.parent_death_signal.load(Ordering::Relaxed))),
        PR_GET_DUMPABLE => Ok(task.group.dumpable.load(Ordering::Relaxed).into()),
        PR_SET_DUMPABLE => {
            // Only the kernel itself says 2 ("readable by root").
            task.group.dumpable.store(flag(second)?, Ordering::Relaxed);
            Ok(0)
        }
        PR_SET_CHILD_SUBREAPER => {
            task.group.is_subreaper.store(second != 0, Ordering::Relaxed);
            Ok(0)
        }
        PR_GET_CHILD_SUBREAPER => {
            done(task.write_value(second, &i32::from(task.group.is_subreaper.load(Ordering::Relaxed))))
        }
        PR_GET_TID_ADDRESS => done(task.write_value(second, &task.clear_child_tid.load(Ordering::Relaxed))),
        PR_SET_TIMERSLACK => {
            let slack = if second.cast_signed() <= 0 { TIMER_SLACK_DEFAULT_NS } else { second };
            task.settings.lock().timer_slack_ns = slack;
            Ok(0)
        }
        PR_GET_TIMERSLACK => Ok(task.settings.lock().timer_slack_ns),
        PR_GET_AUXV => auxiliary_vector(task, rest),
        // The time stamp counter can be read, always.
        PR_GET_TSC => done(task.write_value(second, &PR_TSC_ENABLE)),
        PR_SET_TSC if i32::try_from(second) == Ok(PR_TSC_ENABLE) => Ok(0),
        PR_GET_TIMING => Ok(0),
        PR_SET_TIMING if second == 0 => Ok(0),
        // As Linux answers on this processor, without the Yama module, or without names of anonymous memory: nothing is missing here.
        PR_GET_UNALIGN
        | PR_SET_UNALIGN
        | PR_GET_FPEMU
        | PR_SET_FPEMU
        | PR_GET_FPEXC
        | PR_SET_FPEXC
        | PR_GET_ENDIAN
        | PR_SET_ENDIAN
        | PR_SET_PTRACER
        | PR_SET_VMA
        | PR_MPX_ENABLE_MANAGEMENT
        | PR_MPX_DISABLE_MANAGEMENT => Err(EINVAL),
        _ => not_here(task, PRCTL_NAMES, option, rest),
    }
}

fn not_here(task: &Task, names: Names, option: i32, rest: Rest) -> SysResult<u64> {
    unimplemented_option(task, "prctl", option_name(names, option.into()), &rest);
    Err(EINVAL)
}

fn done(result: SysResult<()>) -> SysResult<u64> {
    result.map(|()| 0)
}

/// An argument that is 0 or 1.
fn flag(value: u64) -> SysResult<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(EINVAL),
    }
}

/// The options about capabilities and what governs them.
fn privileges(task: &Task, option: i32, rest: Rest) -> SysResult<u64> {
    let [second, third, fourth, fifth] = rest;
    let own = task.credentials();
    let new = match option {
        PR_CAPBSET_READ => return Ok(CapSet(own.bounding).contains(capability(second)?).into()),
        PR_CAPBSET_DROP => match capability(second) {
            Ok(capability) => own.without_bounding(capability)?,
            Err(_) if !own.can(abi::capabilities::CAP_SETPCAP) => return Err(EPERM),
            Err(errno) => return Err(errno),
        },
        PR_CAP_AMBIENT => return ambient(task, rest),
        PR_GET_SECUREBITS => return Ok(own.shown_secure_bits().into()),
        PR_SET_SECUREBITS => own.with_secure_bits(second)?,
        PR_GET_KEEPCAPS => return Ok(own.keep_capabilities.into()),
        PR_SET_KEEPCAPS => own.with_keep_capabilities(flag(second)?)?,
        PR_GET_NO_NEW_PRIVS if rest == [0; 4] => return Ok(own.no_new_privileges.into()),
        PR_SET_NO_NEW_PRIVS if second == 1 && [third, fourth, fifth] == [0; 3] => {
            Credentials { no_new_privileges: true, ..(*own).clone() }
        }
        _ => return Err(EINVAL),
    };
    task.commit_credentials(new);
    Ok(0)
}

fn capability(number: u64) -> SysResult<Capability> {
    Capability::new(number).ok_or(EINVAL)
}

/// `PR_CAP_AMBIENT(2const)`
fn ambient(task: &Task, [operation, number, fourth, fifth]: Rest) -> SysResult<u64> {
    let own = task.credentials();
    let operation = i32::try_from(operation).map_err(|_| EINVAL)?;
    let new = if operation == PR_CAP_AMBIENT_CLEAR_ALL {
        if [number, fourth, fifth] != [0; 3] {
            return Err(EINVAL);
        }
        Credentials { ambient: 0, ..(*own).clone() }
    } else {
        let capability = capability(number)?;
        if [fourth, fifth] != [0; 2] {
            return Err(EINVAL);
        }
        match operation {
            PR_CAP_AMBIENT_IS_SET => return Ok(CapSet(own.ambient).contains(capability).into()),
            PR_CAP_AMBIENT_RAISE => own.with_ambient(capability)?,
            PR_CAP_AMBIENT_LOWER => {
                Credentials { ambient: own.ambient & !CapSet::of(capability).0, ..(*own).clone() }
            }
            _ => return Err(EINVAL),
        }
    };
    task.commit_credentials(new);
    Ok(0)
}

/// `PR_SET_PDEATHSIG(2const)`
fn set_death_signal(task: &Task, number: u64) -> SysResult<u64> {
    let number = i32::try_from(number).map_err(|_| EINVAL)?;
    if number != 0 && Signal::new(number).is_none() {
        return Err(EINVAL);
    }
    task.parent_death_signal.store(number.unsigned_abs(), Ordering::Relaxed);
    Ok(0)
}

/// `PR_SET_NAME(2const)`: up to 15 bytes, which need no terminator.
fn set_name(task: &Task, address: u64) -> SysResult<u64> {
    let mut name = [0; TASK_COMM_LEN - 1];
    let count = task.read_memory(address, &mut name)?;
    let read = name.get(..count).unwrap_or(&name);
    let length = match read.iter().position(|byte| *byte == 0) {
        Some(end) => end,
        None if count < name.len() => return Err(EFAULT),
        None => count,
    };
    task.set_name(name.get(..length).unwrap_or_default());
    Ok(0)
}

fn get_name(task: &Task, address: u64) -> SysResult<u64> {
    let mut field = [0; TASK_COMM_LEN];
    field.iter_mut().zip(task.name()).for_each(|(to, from)| *to = from);
    done(task.write_exact(address, &field))
}

/// `PR_GET_AUXV(2const)`: as much as there is room for; returns how much there is.
fn auxiliary_vector(task: &Task, [address, room, fourth, fifth]: Rest) -> SysResult<u64> {
    if [fourth, fifth] != [0; 2] {
        return Err(EINVAL);
    }
    let vector = task.memory().auxiliary.lock().clone();
    let length = usize::try_from(room).unwrap_or(usize::MAX).min(vector.len());
    task.write_exact(address, vector.get(..length).unwrap_or(&vector))?;
    Ok(vector.len() as u64)
}
