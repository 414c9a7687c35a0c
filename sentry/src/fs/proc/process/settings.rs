//! Small things about a process, some of which can be set: `comm`.

use abi::errno::{EINVAL, SysResult};

use super::Subject;
use crate::fs::generated::Reader;
use crate::task::Pid;

/// The controlling terminal's device number and foreground process group, as `stat` shows them.
pub(super) fn terminal(subject: &Subject) -> (u64, Pid) {
    let _ = subject;
    (0, -1)
}

/// `/proc/PID/comm`
pub(super) fn comm(subject: &Subject, _reader: &Reader) -> SysResult<Vec<u8>> {
    let (mut name, _) = subject.identity()?;
    name.push(b'\n');
    Ok(name)
}

/// Only threads of the same process may rename one (`man 5 proc_pid_comm`).
pub(super) fn set_comm(subject: &Subject, bytes: &[u8], reader: &Reader) -> SysResult<()> {
    let task = subject.task()?;
    if !std::sync::Arc::ptr_eq(&task.group, &reader.group) {
        return Err(EINVAL);
    }
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    task.set_name(bytes.get(..end).unwrap_or_default());
    Ok(())
}
