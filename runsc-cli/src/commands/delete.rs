//! `runsc delete`: removes a container and everything that belongs to it.
//!
//! Neighbours: [`destroy`] also serves `run` and `do`. Invariants: a process is only killed when it is the recorded one;
//! the record goes last, so that an interrupted `delete` can be repeated.

use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::Context;
use crate::container::hooks;
use crate::container::id::ContainerId;
use crate::container::process_identity::{ProcessIdentity, send};
use crate::container::store::{ContainerState, Entry, Status, does_not_exist};
use crate::failure::Failure;

/// The end of a pid namespace takes the time to reap all that was in it.
const PATIENCE: Duration = Duration::from_secs(10);

/// `runsc delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// Kill it first; succeed if it does not exist
    #[arg(short, long)]
    force: bool,
    /// The containers' ids
    #[arg(required = true)]
    ids: Vec<String>,
}

impl Delete {
    /// Deletes them.
    pub fn run(self, context: &Context) -> Result<i32, Failure> {
        for id in &self.ids {
            self.delete(context, &ContainerId::new(id)?)?;
        }
        Ok(0)
    }

    fn delete(&self, context: &Context, id: &ContainerId) -> Result<(), Failure> {
        let Some(entry) = context.store.lock(id)? else {
            return if self.force { Ok(()) } else { Err(does_not_exist(id)) };
        };
        let state = match entry.read() {
            Err(failure) if self.force => {
                tracing::debug!("{failure}");
                None
            }
            outcome => outcome?,
        };
        match state.as_ref().map(ContainerState::status) {
            _ if self.force => {}
            None => return Err(does_not_exist(id)),
            // As runc: a container that was never started may go at once.
            Some(Status::Stopped | Status::Created) => {}
            Some(status) => {
                let status = status.as_str();
                return Err(Failure::new(format!(
                    "cannot delete container {id} that is not stopped: {status}"
                )));
            }
        }
        destroy(entry, state.as_ref())
    }
}

/// Kills what still runs and removes everything, also without a record that can be read.
pub fn destroy(entry: Entry, state: Option<&ContainerState>) -> Result<(), Failure> {
    let remains = state.map_or_else(|| entry.remains(), ContainerState::remains);
    // Both are killed before either is waited for. Neither has anything to put in order: what the sentry wrote to host
    // files is written, and the gofer only answers the sentry.
    let mut dying = Vec::new();
    for process in remains.processes {
        if let Some(handle) = process.hold()? {
            send(&handle, Signal::SIGKILL)?;
            dying.push((process, handle));
        }
    }
    let deadline = Instant::now() + PATIENCE;
    for (process, handle) in dying {
        if !handle.wait_until_ended(deadline)? {
            return Err(Failure::new(format!("process {} does not end although it was killed", process.pid)));
        }
        reap(process);
    }
    if let Some(cgroup) = &remains.cgroup
        && let Err(failure) = cgroup.remove()
    {
        tracing::warn!("removing cgroup {}: {failure}", cgroup.path().display());
    }
    entry.remove()?;
    if let Some(state) = state
        && let Some(given) = &state.hooks
    {
        let input = hooks::oci_state(state, Status::Stopped, 0);
        hooks::run_and_warn("poststop", given.poststop().as_ref(), &input);
    }
    Ok(())
}

/// It may be our own child (`run`, `do`); if it is not, there is nothing to reap.
fn reap(process: ProcessIdentity) {
    let _ = waitpid(Pid::from_raw(process.pid), Some(WaitPidFlag::WNOHANG));
}
