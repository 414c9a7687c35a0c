//! Running a configuration's hooks: at OCI's moments, with the container's state on standard input.
//!
//! Key function: [`run`]. Neighbours: `sandbox/start.rs` and the commands know the moments.
//! Invariants: hooks run in the command's own namespaces, one after another, in their order; a hook gets exactly the
//! environment it lists; one that exceeds its timeout is killed and counts as failed.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::{Hook, Hooks};
use serde_json::json;

use super::process_identity::ProcessIdentity;
use super::store::{ContainerState, Status};
use crate::failure::{Attempt, Failure};

/// How much of a failing hook's complaint is repeated.
const COMPLAINT_LIMIT: u64 = 4096;

/// OCI's state, as `state` prints it (without runc's additions) and hooks read it.
pub fn oci_state(state: &ContainerState, status: Status, pid: i32) -> serde_json::Value {
    let mut value = json!({
        "ociVersion": state.oci_version,
        "id": state.id,
        "status": status,
        "pid": pid,
        "bundle": state.bundle,
    });
    if !state.annotations.is_empty() {
        value["annotations"] = json!(state.annotations);
    }
    value
}

/// Whether there are hooks of the moments at which the sentry exists and still waits for its instructions.
pub fn any_while_creating(hooks: &Hooks) -> bool {
    let moments = [prestart(hooks), hooks.create_runtime().as_ref(), hooks.create_container().as_ref()];
    moments.into_iter().flatten().any(|hooks| !hooks.is_empty())
}

/// Deprecated by OCI, and what Docker still uses.
pub fn prestart(hooks: &Hooks) -> Option<&Vec<Hook>> {
    hooks.prestart().as_ref()
}

/// Runs the hooks of one moment; stops at the first that fails.
pub fn run(moment: &str, hooks: Option<&Vec<Hook>>, state: &serde_json::Value) -> Result<(), Failure> {
    for (index, hook) in hooks.into_iter().flatten().enumerate() {
        run_one(hook, state).attempt(|| format!("hooks.{moment}[{index}] {}", hook.path().display()))?;
    }
    Ok(())
}

/// Runs them all; a failure is only logged, as OCI wants it for `poststart` and `poststop`.
pub fn run_and_warn(moment: &str, hooks: Option<&Vec<Hook>>, state: &serde_json::Value) {
    for (index, hook) in hooks.into_iter().flatten().enumerate() {
        if let Err(failure) = run_one(hook, state) {
            tracing::warn!("hooks.{moment}[{index}] {}: {failure}", hook.path().display());
        }
    }
}

fn run_one(hook: &Hook, state: &serde_json::Value) -> Result<(), Failure> {
    let mut command = Command::new(hook.path());
    if let Some((name, rest)) = hook.args().as_deref().unwrap_or_default().split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear();
    for (name, value) in hook.env().iter().flatten().filter_map(|entry| entry.split_once('=')) {
        command.env(name, value);
    }
    // The complaint goes to a file: a hook may leave a daemon behind that keeps a pipe open for ever.
    let complaint = tempfile_in_memory()?;
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(complaint.try_clone()?);
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A hook that does not read its input is within its rights.
        drop(input.write_all(state.to_string().as_bytes()));
    }
    let timeout =
        hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
    if let Some(seconds) = timeout {
        let pid = i32::try_from(child.id()).map_err(std::io::Error::other)?;
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let ended = match ProcessIdentity::of(pid) {
            Some(identity) => {
                identity.hold()?.map_or(Ok(true), |handle| handle.wait_until_ended(deadline))?
            }
            None => true,
        };
        if !ended {
            child.kill()?;
            child.wait()?;
            return Err(Failure::new(format!("did not end within {seconds} s")));
        }
    }
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    let mut text = String::new();
    rewind_and_read(complaint, &mut text);
    Err(Failure::new(format!("{status}: {}", text.trim())))
}

fn tempfile_in_memory() -> std::io::Result<std::fs::File> {
    Ok(nix::sys::memfd::memfd_create(c"hook-stderr", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?.into())
}

fn rewind_and_read(mut file: std::fs::File, into: &mut String) {
    use std::io::Seek;
    let mut bytes = Vec::new();
    if file.rewind().is_ok() && file.take(COMPLAINT_LIMIT).read_to_end(&mut bytes).is_ok() {
        *into = String::from_utf8_lossy(&bytes).into_owned();
    }
}
