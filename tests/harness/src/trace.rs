//! What system calls a running process makes, by strace(1): all its threads, with the registers as the kernel sees them.

use crate::command;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

/// A process being watched, until this goes.
#[derive(Debug)]
pub struct Trace {
    directory: tempfile::TempDir,
    strace: Child,
}

/// One system call: its number, and its arguments as far as it has any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Call {
    pub number: i64,
    pub arguments: [u64; 6],
}

impl Trace {
    /// Begins to watch; returns once no call of the threads that there are can be missed.
    pub fn of(pid: i32) -> Result<Trace, String> {
        let directory =
            tempfile::Builder::new().prefix("runsc-trace.").tempdir().map_err(|e| e.to_string())?;
        let output = directory.path().join("calls");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-q", "-n", "-e", "raw=all", "-e", "signal=none", "-o"]).arg(&output);
        strace.args(["-p", &pid.to_string()]);
        strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let strace = strace.spawn().map_err(|e| format!("strace: {e}"))?;
        let trace = Trace { directory, strace };
        let tracer = format!("TracerPid:\t{}\n", trace.strace.id());
        let traced = |tid: &str| {
            std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/status"))
                .is_ok_and(|s| s.contains(&tracer))
        };
        command::eventually("strace has attached", LIMIT, || {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
            tasks.is_ok_and(|tasks| tasks.flatten().all(|task| traced(&task.file_name().to_string_lossy())))
        })?;
        Ok(trace)
    }

    fn output(&self) -> PathBuf {
        self.directory.path().join("calls")
    }

    /// Waits for the process's end, and says what was called until then.
    pub fn until_end(mut self) -> Result<Vec<Call>, String> {
        command::eventually("the traced process ends", LIMIT, || {
            self.strace.try_wait().is_ok_and(|ended| ended.is_some())
        })?;
        let text = std::fs::read(self.output()).map_err(|e| format!("strace's output: {e}"))?;
        let mut calls: Vec<Call> = String::from_utf8_lossy(&text).lines().filter_map(parse).collect();
        calls.sort_unstable();
        calls.dedup();
        Ok(calls)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // Detaches: what it watched goes on.
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// A line such as `6462  [ 202] futex(0x55555c21feb8, 0x89, 0xffffffff, 0, 0, 0x5555ffffffff <unfinished ...>`.
fn parse(line: &str) -> Option<Call> {
    let (number, call) = line.split_once('[')?.1.split_once("] ")?;
    if call.starts_with("<...") {
        return None;
    }
    let number = number.trim().parse().ok()?;
    let inside = call.split_once('(')?.1;
    let end = inside.find([')', '<']).unwrap_or(inside.len());
    let mut arguments = [0; 6];
    for (place, text) in arguments.iter_mut().zip(inside[..end].split(',')) {
        let text = text.trim();
        *place = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok()?,
            None => text.parse().unwrap_or(0),
        };
    }
    Some(Call { number, arguments })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        let whole = Call { number: 16, arguments: [5, 0xc050_2100, 0x7f, 0, 0, 0] };
        assert_eq!(parse("12 [  16] ioctl(0x5, 0xc0502100, 0x7f) = 0"), Some(whole));
        let unfinished = Call { number: 202, arguments: [0x5, 0x89, 0, 0, 0, 0] };
        assert_eq!(parse("12 [ 202] futex(0x5, 0x89, 0 <unfinished ...>"), Some(unfinished));
        assert_eq!(parse("12 [ 202] <... futex resumed>) = 0"), None);
        assert_eq!(parse("12 [ 219] restart_syscall( <unfinished ...>").map(|c| c.number), Some(219));
        assert_eq!(parse("12 +++ exited with 0 +++"), None);
    }
}
