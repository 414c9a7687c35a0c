//! `prctl`.

use std::sync::Arc;

use abi::errno::{EFAULT, EINVAL, SysResult};
use abi::process::{PR_GET_NAME, PR_SET_NAME, PRCTL_NAMES, TASK_COMM_LEN};
use sentry::task::Task;

use crate::table::{Entry, Support, call, option_name, unimplemented_option};

/// The calls of this file.
pub const CALLS: &[Entry] = &[call!(PRCTL, sys_prctl, now 5, Support::Partial("PR_SET_NAME, PR_GET_NAME"))];

/// `prctl(2)` <https://man7.org/linux/man-pages/man2/prctl.2.html>
pub fn sys_prctl(
    task: &Arc<Task>,
    option: i32,
    second: u64,
    third: u64,
    fourth: u64,
    fifth: u64,
) -> SysResult<u64> {
    match option {
        PR_SET_NAME => set_name(task, second),
        PR_GET_NAME => get_name(task, second),
        _ => {
            let name = option_name(PRCTL_NAMES, option.into());
            unimplemented_option(task, "prctl", name, &[second, third, fourth, fifth]);
            Err(EINVAL)
        }
    }
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
    task.write_exact(address, &field)?;
    Ok(0)
}
