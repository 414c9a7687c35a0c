//! `getsockopt`, `setsockopt`.

use std::sync::Arc;

use abi::errno::{EINVAL, ENOPROTOOPT, EOPNOTSUPP, ERANGE, Errno, SysResult};
use abi::sockets::OPTMEM_MAX;
use abi::user::{Fd, UserAddress};
use sentry::sockets::options::{self, OptionValue};
use sentry::sockets::socket_of;
use sentry::task::Task;

use crate::sockets::socket_file;
use crate::table::{Entry, Support, call, unimplemented_option};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(GETSOCKOPT, sys_getsockopt, now 5, Support::Partial("options that concern routes, filters and time stamps are missing")),
    call!(SETSOCKOPT, sys_setsockopt, now 5, Support::Partial("options that concern routes, filters and time stamps are missing")),
];

/// Longest value that is looked at: no known option carries more.
const VALUE_MAX: usize = 4096;

/// Counts an option that is not there, by name where it has one.
fn count_missing(task: &Task, call: &'static str, level: i32, option: i32, error: Errno) {
    if error != ENOPROTOOPT && error != EOPNOTSUPP {
        return;
    }
    let arguments = [i64::from(level).cast_unsigned(), i64::from(option).cast_unsigned()];
    match abi::socket_options::option_name(level, option) {
        Some(name) => unimplemented_option(task, call, name, &arguments),
        None => unimplemented_option(task, call, format!("level {level} option {option}"), &arguments),
    }
}

/// `setsockopt(2)` <https://man7.org/linux/man-pages/man2/setsockopt.2.html>
pub fn sys_setsockopt(
    task: &Arc<Task>,
    fd: Fd,
    level: i32,
    option: i32,
    value: UserAddress,
    length: i32,
) -> SysResult<()> {
    let length = usize::try_from(length).map_err(|_| EINVAL)?;
    let file = socket_file(task, fd)?;
    if length > OPTMEM_MAX {
        return Err(EINVAL);
    }
    let value: Vec<u8> = task.read_values(value.address(), length.min(VALUE_MAX))?;
    options::set_option(&**socket_of(&file)?.ops(), task, level, option, &value)
        .inspect_err(|error| count_missing(task, "setsockopt", level, option, *error))
}

/// `getsockopt(2)` <https://man7.org/linux/man-pages/man2/getsockopt.2.html>
pub fn sys_getsockopt(
    task: &Arc<Task>,
    fd: Fd,
    level: i32,
    option: i32,
    value: UserAddress,
    length: UserAddress,
) -> SysResult<()> {
    let file = socket_file(task, fd)?;
    let room: i32 = task.read_value(length.address())?;
    let room = usize::try_from(room).map_err(|_| EINVAL)?;
    let found = options::option(&**socket_of(&file)?.ops(), level, option)
        .inspect_err(|error| count_missing(task, "getsockopt", level, option, *error))?;
    let put_length =
        |count: usize| task.write_value(length.address(), &i32::try_from(count).unwrap_or(i32::MAX));
    match found {
        OptionValue::Whole(bytes) if bytes.len() > room => {
            put_length(bytes.len())?;
            Err(ERANGE)
        }
        OptionValue::Bytes(bytes) | OptionValue::Whole(bytes) => {
            let bytes = bytes.get(..room).unwrap_or(&bytes);
            task.write_exact(value.address(), bytes)?;
            put_length(bytes.len())
        }
    }
}
