//! A daemon of the host that a test starts on private directories and stops with everything
//! it started: its process group, and whatever is still mounted below its directory.

use crate::command::{self, Finished};
use crate::host;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const START_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Daemon {
    child: Child,
    directory: tempfile::TempDir,
    name: String,
}

/// A private directory for a daemon. Short, because socket paths have to be.
pub fn private_directory(name: &str) -> Result<tempfile::TempDir, String> {
    tempfile::Builder::new().prefix(&format!("rt-{name}.")).tempdir_in("/tmp").map_err(|e| e.to_string())
}

impl Daemon {
    /// Starts the command, whose output goes to `log` in the directory, and waits until
    /// `ready` succeeds. A daemon that cannot work here is an error with the log's end.
    pub fn start(
        name: &str,
        directory: tempfile::TempDir,
        mut command: Command,
        mut ready: impl FnMut(&Path) -> Finished,
    ) -> Result<Daemon, String> {
        let log = File::create(directory.path().join("log")).map_err(|e| e.to_string())?;
        let errors = log.try_clone().map_err(|e| e.to_string())?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        let child = command.spawn().map_err(|e| format!("cannot start {name}: {e}"))?;
        let mut daemon = Daemon { child, directory, name: name.into() };
        let mut last = None;
        let mut ended = None;
        let path = daemon.path().to_owned();
        let waited = command::eventually(&format!("{name} is ready"), START_LIMIT, || {
            ended = daemon.child.try_wait().ok().flatten();
            let answer = ready(&path);
            let ok = answer.success();
            last = Some(answer);
            ok || ended.is_some()
        });
        if waited.is_err() || ended.is_some() {
            let last = last.map(|l| l.summary()).unwrap_or_default();
            return Err(format!(
                "{name} does not work on this machine ({ended:?}): {last}\nlog: {}",
                daemon.log_tail()
            ));
        }
        Ok(daemon)
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The end of its log, for a failure's message.
    pub fn log_tail(&self) -> String {
        command::tail(&std::fs::read_to_string(self.path().join("log")).unwrap_or_default())
    }

    /// Processes, other than the daemon itself, whose command line or working directory names
    /// its directory: shims, containers, helpers.
    pub fn offspring(&self) -> Vec<host::Process> {
        let own = self.path().to_string_lossy().into_owned();
        let in_directory = |p: &host::Process| {
            p.command_line.contains(&own)
                || std::fs::read_link(format!("/proc/{}/cwd", p.pid))
                    .is_ok_and(|d: PathBuf| d.starts_with(&own))
        };
        let me = i32::try_from(std::process::id()).unwrap_or(0);
        host::processes().into_values().filter(|p| p.pid != me && in_directory(p)).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.child.id().cast_signed());
        let _ = killpg(group, Signal::SIGTERM);
        let ended = command::eventually(&self.name, Duration::from_secs(15), || {
            self.child.try_wait().is_ok_and(|s| s.is_some())
        });
        if ended.is_err() {
            let _ = killpg(group, Signal::SIGKILL);
            let _ = self.child.wait();
        }
        for process in self.offspring() {
            host::kill_hard(process.pid);
        }
        unmount_below(self.directory.path());
    }
}

/// Unmounts everything below a directory, the innermost first.
pub fn unmount_below(directory: &Path) {
    let mut mounts = host::mounts_below(directory);
    mounts.reverse();
    for mount in mounts {
        command::run(Command::new("umount").args(["-l", &mount]), Duration::from_secs(10));
    }
}
