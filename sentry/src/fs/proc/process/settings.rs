//! Small things about a process, some of which can be set: `comm`, `oom_score_adj`, `timerslack_ns`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::capabilities::CAP_SYS_RESOURCE;
use abi::errno::{EACCES, EINVAL, SysResult};
use abi::process::ADDR_NO_RANDOMIZE;

use super::Subject;
use crate::fs::generated::Reader;
use crate::spec::IdRange;
use crate::task::Pid;
use crate::vfs::has;

/// The controlling terminal's device number and foreground process group, as `stat` shows them.
pub(super) fn terminal(subject: &Subject) -> (u64, Pid) {
    subject
        .group
        .controlling_terminal()
        .map_or((0, -1), |terminal| (terminal.device().encode(), terminal.foreground().unwrap_or(-1)))
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
    if !Arc::ptr_eq(&task.group, &reader.group) {
        return Err(EINVAL);
    }
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    task.set_name(bytes.get(..end).unwrap_or_default());
    Ok(())
}

/// A number as it is written to a file: surrounded by spaces, ended by a newline or zero.
fn parse<T: std::str::FromStr>(bytes: &[u8]) -> SysResult<T> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = bytes.get(..end).and_then(|bytes| std::str::from_utf8(bytes).ok()).ok_or(EINVAL)?;
    text.trim().parse().map_err(|_| EINVAL)
}

/// `/proc/PID/oom_score`: the host's kernel chooses whom to kill, and does not know the adjustment.
pub(super) fn oom_score(subject: &Subject, _reader: &Reader) -> SysResult<Vec<u8>> {
    subject.identity()?;
    let adjustment = subject.group.oom_score_adj.load(Ordering::Relaxed);
    // As Linux computes it for a process that uses next to nothing.
    let score = (1000 + adjustment) * 2 / 3;
    Ok(format!("{}\n", if adjustment == OOM_SCORE_MIN { 0 } else { score }).into_bytes())
}

const OOM_SCORE_MIN: i32 = -1000;

/// `/proc/PID/oom_score_adj`
pub(super) fn oom_score_adj(subject: &Subject, _reader: &Reader) -> SysResult<Vec<u8>> {
    subject.identity()?;
    Ok(format!("{}\n", subject.group.oom_score_adj.load(Ordering::Relaxed)).into_bytes())
}

/// Lowering it takes a privilege (`man 5 proc_pid_oom_score_adj`).
pub(super) fn set_oom_score_adj(subject: &Subject, bytes: &[u8], reader: &Reader) -> SysResult<()> {
    let wanted: i32 = parse(bytes)?;
    if !(OOM_SCORE_MIN..=1000).contains(&wanted) {
        return Err(EINVAL);
    }
    subject.task()?;
    let place = &subject.group.oom_score_adj;
    if wanted < place.load(Ordering::Relaxed) && !has(&reader.credentials, CAP_SYS_RESOURCE) {
        return Err(EACCES);
    }
    place.store(wanted, Ordering::Relaxed);
    Ok(())
}

/// `/proc/PID/timerslack_ns`
pub(super) fn timer_slack(subject: &Subject, _reader: &Reader) -> SysResult<Vec<u8>> {
    let slack = subject.task()?.settings.lock().timer_slack_ns;
    Ok(format!("{slack}\n").into_bytes())
}

/// 0 sets the default.
pub(super) fn set_timer_slack(subject: &Subject, bytes: &[u8], _reader: &Reader) -> SysResult<()> {
    let wanted: u64 = parse(bytes)?;
    let slack = if wanted == 0 { crate::task::TIMER_SLACK_DEFAULT_NS } else { wanted };
    subject.task()?.settings.lock().timer_slack_ns = slack;
    Ok(())
}

/// `/proc/PID/personality`
pub(super) fn personality(subject: &Subject, _reader: &Reader) -> SysResult<Vec<u8>> {
    let fixed = subject.task()?.settings.lock().no_randomization;
    Ok(format!("{:08x}\n", if fixed { ADDR_NO_RANDOMIZE } else { 0 }).into_bytes())
}

/// `/proc/PID/wchan`: nowhere that has a name.
pub(super) fn wchan(subject: &Subject, _reader: &Reader) -> SysResult<Vec<u8>> {
    subject.identity()?;
    Ok(b"0".to_vec())
}

/// `/proc/PID/loginuid`, `sessionid`: there is no audit.
pub(super) fn unset_id(_subject: &Subject, _reader: &Reader) -> SysResult<Vec<u8>> {
    Ok(u32::MAX.to_string().into_bytes())
}

/// `/proc/PID/uid_map`: there is one user namespace, whose IDs are those the container sees.
pub(super) fn uid_map(subject: &Subject, _reader: &Reader) -> SysResult<Vec<u8>> {
    Ok(id_map(&subject.facts.id_maps[0]))
}

/// `/proc/PID/gid_map`
pub(super) fn gid_map(subject: &Subject, _reader: &Reader) -> SysResult<Vec<u8>> {
    Ok(id_map(&subject.facts.id_maps[1]))
}

fn id_map(ranges: &[IdRange]) -> Vec<u8> {
    let all = [IdRange { inside: 0, outside: 0, count: u32::MAX }];
    let line = |range: &IdRange| format!("{:>10} {:>10} {:>10}\n", range.inside, range.outside, range.count);
    let shown = if ranges.is_empty() { &all } else { ranges };
    shown.iter().map(line).collect::<String>().into_bytes()
}

/// `/proc/PID/setgroups`
pub(super) fn setgroups(_subject: &Subject, _reader: &Reader) -> SysResult<Vec<u8>> {
    Ok(b"allow\n".to_vec())
}

/// `/proc/PID/cgroup`: the container's group is the root of what it sees.
pub(super) fn cgroup(subject: &Subject, _reader: &Reader) -> SysResult<Vec<u8>> {
    subject.identity()?;
    Ok(b"0::/\n".to_vec())
}

/// `/proc/PID/cpuset`
pub(super) fn cpuset(subject: &Subject, _reader: &Reader) -> SysResult<Vec<u8>> {
    subject.identity()?;
    Ok(b"/\n".to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_as_shells_write_them() {
        assert_eq!(parse::<i32>(b"-5\n"), Ok(-5));
        assert_eq!(parse::<i32>(b" 7 \0junk"), Ok(7));
        assert_eq!(parse::<i32>(b"seven"), Err(EINVAL));
        assert_eq!(parse::<u64>(b""), Err(EINVAL));
    }
}
