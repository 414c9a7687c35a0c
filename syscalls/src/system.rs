//! `uname`, `sysinfo`, host and domain name, `personality`, and what only the machine's owner may do.

use std::sync::Arc;

use abi::capabilities::CAP_SYS_ADMIN;
use abi::errno::{EINVAL, EPERM, SysResult};
use abi::process::{ADDR_NO_RANDOMIZE, Sysinfo};
use abi::user::UserAddress;
use sentry::task::Task;
use sentry::time::{SECOND_NS, boottime_ns};
use sentry::uts;

use crate::table::{Entry, Support, call, unimplemented_option};

/// Why the calls of the machine's owner fail.
const OWNER: Support = Support::Refused(EPERM, "as in every container: the machine is not the container's");

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(UNAME, sys_uname, now 1, Support::Full),
    call!(SETHOSTNAME, sys_sethostname, now 2, Support::Full),
    call!(SETDOMAINNAME, sys_setdomainname, now 2, Support::Full),
    call!(
        SYSINFO,
        sys_sysinfo,
        now 1,
        Support::Partial("load averages are 0; free memory is what applications have not mapped")
    ),
    call!(PERSONALITY, sys_personality, now 1, Support::Partial("only PER_LINUX; of the flags only ADDR_NO_RANDOMIZE")),
    call!(SYSLOG, sys_not_permitted, now 0, Support::Refused(EPERM, "the host's log is not shown")),
    call!(VHANGUP, sys_not_permitted, now 0, OWNER),
    call!(REBOOT, sys_not_permitted, now 0, OWNER),
    call!(SWAPON, sys_not_permitted, now 0, OWNER),
    call!(SWAPOFF, sys_not_permitted, now 0, OWNER),
    call!(KEXEC_LOAD, sys_not_permitted, now 0, OWNER),
    call!(KEXEC_FILE_LOAD, sys_not_permitted, now 0, OWNER),
    call!(INIT_MODULE, sys_not_permitted, now 0, OWNER),
    call!(FINIT_MODULE, sys_not_permitted, now 0, OWNER),
    call!(DELETE_MODULE, sys_not_permitted, now 0, OWNER),
    call!(ACCT, sys_not_permitted, now 0, OWNER),
    call!(IOPL, sys_not_permitted, now 0, OWNER),
    call!(IOPERM, sys_not_permitted, now 0, OWNER),
];

/// Fails.
pub fn sys_not_permitted(_task: &Arc<Task>) -> SysResult<()> {
    Err(EPERM)
}

/// `uname(2)` <https://man7.org/linux/man-pages/man2/uname.2.html>
pub fn sys_uname(task: &Arc<Task>, names: UserAddress) -> SysResult<()> {
    task.write_value(names.address(), &task.kernel.uts.uname())
}

/// Reads a name that a privileged task wants to give the machine.
fn read_name(task: &Task, name: UserAddress, length: i32) -> SysResult<Vec<u8>> {
    if !task.credentials().can(CAP_SYS_ADMIN) {
        return Err(EPERM);
    }
    let length = usize::try_from(length).ok().filter(|length| *length <= uts::NAME_MAX).ok_or(EINVAL)?;
    let mut bytes = vec![0; length];
    task.read_exact(name.address(), &mut bytes)?;
    Ok(bytes)
}

/// `sethostname(2)` <https://man7.org/linux/man-pages/man2/sethostname.2.html>
pub fn sys_sethostname(task: &Arc<Task>, name: UserAddress, length: i32) -> SysResult<()> {
    task.kernel.uts.set_hostname(read_name(task, name, length)?);
    Ok(())
}

/// `setdomainname(2)` <https://man7.org/linux/man-pages/man2/setdomainname.2.html>
pub fn sys_setdomainname(task: &Arc<Task>, name: UserAddress, length: i32) -> SysResult<()> {
    task.kernel.uts.set_domainname(read_name(task, name, length)?);
    Ok(())
}

/// `sysinfo(2)` <https://man7.org/linux/man-pages/man2/sysinfo.2.html>
pub fn sys_sysinfo(task: &Arc<Task>, info: UserAddress) -> SysResult<()> {
    let kernel = &task.kernel;
    let total = kernel.total_memory();
    let shown = Sysinfo {
        uptime: i64::try_from(boottime_ns() / SECOND_NS).unwrap_or(i64::MAX),
        totalram: total,
        freeram: total.saturating_sub(kernel.mapped_memory()),
        procs: u16::try_from(kernel.processes.tasks().len()).unwrap_or(u16::MAX),
        mem_unit: 1,
        ..Sysinfo::default()
    };
    task.write_value(info.address(), &shown)
}

/// `personality(2)` <https://man7.org/linux/man-pages/man2/personality.2.html>
pub fn sys_personality(task: &Arc<Task>, persona: u32) -> SysResult<u32> {
    const ONLY_ASK: u32 = u32::MAX;
    let mut settings = task.settings.lock();
    let old = if settings.no_randomization { ADDR_NO_RANDOMIZE } else { 0 };
    match persona {
        ONLY_ASK => {}
        0 | ADDR_NO_RANDOMIZE => settings.no_randomization = persona != 0,
        _ => {
            drop(settings);
            unimplemented_option(task, "personality", format!("{persona:#x}"), &[persona.into()]);
            return Err(EINVAL);
        }
    }
    Ok(old)
}
