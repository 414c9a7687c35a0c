//! Time limits for commands that are timed themselves: nothing but `wait` stands between the command's
//! end and the clock, so a thread looks ten times a second whether the limit has passed, and kills.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

/// The process group that is being timed, and when its time is over.
static CURRENT: Mutex<Option<(Pid, Instant)>> = Mutex::new(None);
static WATCHER: Once = Once::new();
const LOOK: Duration = Duration::from_millis(100);

fn set(current: Option<(Pid, Instant)>) {
    *CURRENT.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = current;
}

fn watcher() {
    loop {
        std::thread::sleep(LOOK);
        let current = CURRENT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((group, end)) = *current
            && Instant::now() > end
        {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Runs the command with nothing on its standard input and output; its time if it succeeds.
pub fn timed(command: &mut Command, limit: Duration) -> Result<Duration, String> {
    WATCHER.call_once(|| drop(std::thread::spawn(watcher)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let begin = Instant::now();
    let mut child = command.spawn().map_err(|e| format!("{:?}: {e}", command.get_program()))?;
    set(Some((Pid::from_raw(child.id().cast_signed()), begin + limit)));
    let status = child.wait();
    let took = begin.elapsed();
    set(None);
    match status {
        Ok(status) if status.success() => Ok(took),
        Ok(status) if took > limit => Err(format!("killed after {took:.1?} ({status})")),
        Ok(status) => Err(said(status)),
        Err(error) => Err(error.to_string()),
    }
}

fn said(status: ExitStatus) -> String {
    status.to_string()
}
