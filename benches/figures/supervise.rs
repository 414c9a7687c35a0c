//! Three processes, so that nothing stays behind however the benchmark ends.
//!
//! The *supervisor*, which cargo starts, makes a scratch directory and a pid and mount namespace. In it the
//! *init* collects orphans, as the host's would, and the *worker* measures. When the worker ends, or the
//! supervisor is told to stop, or is killed, the kernel ends every process of the namespace; the supervisor
//! then removes cgroups and the scratch directory. What a supervisor that was killed left behind, the next one removes.

use crate::columns::cgroup_parent;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

/// What this process is; the first arguments say it.
#[derive(Debug)]
pub enum Role<'a> {
    Supervisor,
    Init(&'a [String]),
    Worker(&'a str, &'a [String]),
}

const INIT: &str = "@init";
const WORKER: &str = "@worker";
/// Scratch directories, and the cgroups named like them.
const PREFIX: &str = "runsc-bench-";
/// Where hosts with cgroups of both versions have the second one. crun refuses a host that has both, and all
/// runtimes shall be measured alike, so it is not mounted in our namespace.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

pub fn role(arguments: &[String]) -> Role<'_> {
    match arguments {
        [first, rest @ ..] if first == INIT => Role::Init(rest),
        [first, scratch, rest @ ..] if first == WORKER => Role::Worker(scratch, rest),
        _ => Role::Supervisor,
    }
}

pub fn supervisor(arguments: &[String]) -> Result<ExitCode, String> {
    if crate::cli::only_prints(arguments) {
        return Ok(ExitCode::SUCCESS);
    }
    crate::cli::parse(arguments)?;
    if !nix::unistd::geteuid().is_root() {
        return Err("must be root, to make containers and namespaces".into());
    }
    remove_abandoned();
    let scratch = std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()));
    std::fs::create_dir_all(&scratch).map_err(|e| format!("{}: {e}", scratch.display()))?;
    let mut wanted = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        wanted.add(signal);
    }
    wanted.thread_block().map_err(|e| format!("signal mask: {e}"))?;
    let done = namespace(&scratch, arguments).and_then(|mut child| wait(&mut child, &wanted));
    remove(&scratch);
    done
}

/// Starts the init. Its own process group keeps the terminal's ^C away from everything but the supervisor.
fn namespace(scratch: &Path, arguments: &[String]) -> Result<Child, String> {
    let myself = std::env::current_exe().map_err(|e| format!("own path: {e}"))?;
    let script = format!(
        "if [ -e {UNIFIED}/cgroup.controllers ]; then umount {UNIFIED}; fi; mount --make-rprivate /; exec \"$@\""
    );
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    command.args(["sh", "-c", &script, "sh"]).arg(myself).arg(INIT).arg(scratch).args(arguments);
    command.process_group(0).spawn().map_err(|e| format!("setpriv: {e}"))
}

/// Waits for the end of the child, and kills it if it is told to stop.
fn wait(child: &mut Child, wanted: &SigSet) -> Result<ExitCode, String> {
    loop {
        let signal = wanted.wait().map_err(|e| format!("waiting for a signal: {e}"))?;
        if signal != Signal::SIGCHLD {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("stopped by {signal}"));
        }
        if let Some(status) = child.try_wait().map_err(|e| format!("wait: {e}"))? {
            let code = status.code().and_then(|c| u8::try_from(c).ok());
            return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
        }
    }
}

/// Process 1 of the namespace: starts the worker, reaps whatever ends, ends with the worker.
pub fn init(arguments: &[String]) -> Result<ExitCode, String> {
    let myself = std::env::current_exe().map_err(|e| format!("own path: {e}"))?;
    let worker =
        Command::new(myself).arg(WORKER).args(arguments).spawn().map_err(|e| format!("worker: {e}"))?;
    let worker = Pid::from_raw(worker.id().cast_signed());
    loop {
        match waitpid(None, None).map_err(|e| format!("waitpid: {e}"))? {
            WaitStatus::Exited(pid, code) if pid == worker => {
                return Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from));
            }
            WaitStatus::Signaled(pid, signal, _) if pid == worker => {
                return Err(format!("the worker was killed by {signal}"));
            }
            _ => {}
        }
    }
}

/// Removes a scratch directory and the cgroups named like it.
fn remove(scratch: &Path) {
    if let Some(name) = scratch.file_name() {
        for hierarchy in hierarchies() {
            let parent = cgroup_parent(&name.to_string_lossy());
            remove_cgroup(&hierarchy.join(parent.trim_start_matches('/')));
        }
    }
    if let Err(error) = std::fs::remove_dir_all(scratch) {
        eprintln!("figures: {}: {error}", scratch.display());
    }
}

/// Where cgroups may be: the file system's top (version 2) and every controller's.
fn hierarchies() -> Vec<PathBuf> {
    let top = PathBuf::from("/sys/fs/cgroup");
    let below = std::fs::read_dir(&top).into_iter().flatten().flatten().map(|e| e.path());
    below.filter(|p| p.is_dir()).chain([top.clone()]).collect()
}

/// Removes a cgroup and those below it. Their processes have been killed, but may not be gone yet.
fn remove_cgroup(cgroup: &Path) {
    let below = std::fs::read_dir(cgroup).into_iter().flatten().flatten();
    for child in below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove_cgroup(&child.path());
    }
    const TRIES: usize = 50;
    for _ in 0..TRIES {
        if !cgroup.exists() || std::fs::remove_dir(cgroup).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    eprintln!("figures: {} cannot be removed", cgroup.display());
}

/// Cleans up after supervisors that were killed.
fn remove_abandoned() {
    let entries = std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    for path in entries.map(|e| e.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).filter(|pid| pid.parse::<i32>().is_ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&path);
        }
    }
}
