//! `arch_prctl`: the segment bases a thread keeps its thread-local storage in; `rseq`.

use std::sync::Arc;

use abi::errno::{EINVAL, ENODEV, ENOSYS, EPERM, SysResult};
use abi::process::{
    ARCH_GET_CPUID, ARCH_GET_FS, ARCH_GET_GS, ARCH_PRCTL_NAMES, ARCH_SET_CPUID, ARCH_SET_FS, ARCH_SET_GS,
};
use abi::user::UserAddress;
use sentry::task::{Reply, Task};
use sentry::wait::Failure;

use crate::table::{Entry, IntoReply as _, Support, call, option_name, unimplemented_option};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(
        ARCH_PRCTL,
        sys_arch_prctl,
        now 2,
        Support::Partial("ARCH_GET_FS and ARCH_GET_GS do not notice wrfsbase and wrgsbase; no XCOMP and no shadow stacks")
    ),
    call!(RSEQ, sys_rseq, now 0, Support::Refused(ENOSYS, "the sentry does not see when the host moves a thread")),
];

/// `arch_prctl(2)` <https://man7.org/linux/man-pages/man2/arch_prctl.2.html>
pub fn sys_arch_prctl(task: &Arc<Task>, code: i32, address: UserAddress) -> Reply<'_> {
    match arch_prctl(task, code, address) {
        Ok(Answer::Host) => Reply::Native,
        // The platform may use the register itself, and must be told.
        Ok(Answer::GsBase(base)) => {
            Reply::Later(Box::pin(async move { task.set_gs_base(base).await.into_reply() }))
        }
        Ok(Answer::Value(value)) => Reply::Now(Ok(value)),
        Err(errno) => Reply::Now(Err(Failure::Error(errno))),
    }
}

enum Answer {
    Host,
    GsBase(u64),
    Value(u64),
}

fn arch_prctl(task: &Task, code: i32, address: UserAddress) -> SysResult<Answer> {
    match code {
        ARCH_SET_FS | ARCH_SET_GS => {
            if address.address() >= task.memory().layout().max_address {
                return Err(EPERM);
            }
            let mut settings = task.settings.lock();
            let base = if code == ARCH_SET_FS { &mut settings.fs_base } else { &mut settings.gs_base };
            *base = address.address();
            Ok(if code == ARCH_SET_FS { Answer::Host } else { Answer::GsBase(address.address()) })
        }
        ARCH_GET_FS | ARCH_GET_GS => {
            let settings = *task.settings.lock();
            let base = if code == ARCH_GET_FS { settings.fs_base } else { settings.gs_base };
            task.write_value(address.address(), &base)?;
            Ok(Answer::Value(0))
        }
        // The instruction is always available, and cannot be made to fault.
        ARCH_GET_CPUID => Ok(Answer::Value(1)),
        ARCH_SET_CPUID => Err(ENODEV),
        _ => {
            let name = option_name(ARCH_PRCTL_NAMES, code.into());
            unimplemented_option(task, "arch_prctl", name, &[address.address()]);
            Err(EINVAL)
        }
    }
}

/// `rseq(2)`: as a kernel without it. The C library goes on without.
pub fn sys_rseq(_task: &Arc<Task>) -> SysResult<()> {
    Err(ENOSYS)
}
