//! A process of the host, told apart from a later one with the same number.
//!
//! Key type: [`ProcessIdentity`]. Invariant: a signal is only sent through a pidfd whose process has been compared with
//! the recorded start time after the pidfd was opened, so it can never reach a stranger.

use std::fs;
use std::io;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::sandbox::spawn::ProcessHandle;

/// Number and start time (`starttime` of `proc_pid_stat(5)`, in clock ticks since boot).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// In the host's pid namespace.
    pub pid: i32,
    /// When it started.
    pub start_ticks: u64,
}

impl ProcessIdentity {
    /// Of a live process; `None` if there is none (a zombie counts as none).
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command may hold anything, also parentheses: fields are counted from its end.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let alive = !matches!(*fields.first()?, "Z" | "X");
        let start_ticks = fields.get(19)?.parse().ok()?;
        alive.then_some(Self { pid, start_ticks })
    }

    /// Whether this very process still runs.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// A hold on this very process; `None` if it has ended.
    pub fn hold(self) -> io::Result<Option<ProcessHandle>> {
        match ProcessHandle::open(self.pid) {
            Ok(handle) => Ok(self.is_alive().then_some(handle)),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a signal to this very process; `Ok(false)` if it has ended.
    pub fn signal(self, signal: Signal) -> io::Result<bool> {
        self.hold()?.map_or(Ok(false), |handle| send(&handle, signal))
    }
}

/// Sends a signal; `Ok(false)` if the process has ended.
pub fn send(handle: &ProcessHandle, signal: Signal) -> io::Result<bool> {
    match handle.signal(signal as i32) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn another_start_time_is_another_process() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let identity = ProcessIdentity::of(pid).unwrap();
        let stranger = ProcessIdentity { start_ticks: identity.start_ticks + 1, ..identity };
        assert!(!stranger.signal(Signal::SIGKILL).unwrap());
        assert!(identity.is_alive());
        let handle = identity.hold().unwrap().unwrap();
        assert!(!handle.wait_until_ended(Instant::now() + Duration::from_millis(1)).unwrap());
        assert!(identity.signal(Signal::SIGKILL).unwrap());
        assert!(handle.wait_until_ended(Instant::now() + Duration::from_secs(10)).unwrap());
        assert!(identity.hold().unwrap().is_none(), "a zombie has ended");
        child.wait().unwrap();
        assert!(!identity.signal(Signal::SIGKILL).unwrap());
        assert!(identity.hold().unwrap().is_none());
    }
}
