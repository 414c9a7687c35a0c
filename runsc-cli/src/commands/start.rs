//! `runsc start`: lets a created container's program run.
//!
//! Neighbours: [`start_container`] also serves `run` and `do`.

use clap::Args;

use super::Context;
use crate::container::hooks;
use crate::container::id::ContainerId;
use crate::container::store::{ContainerState, DOES_NOT_EXIST, Entry, Phase, Status};
use crate::failure::{Attempt, Failure};
use crate::sandbox::client::Client;
use crate::sandbox::control::Call;
use crate::sandbox::start::explain;

/// `runsc start`.
#[derive(Debug, Args)]
pub struct Start {
    /// The container's id
    id: String,
}

impl Start {
    /// Starts it.
    pub fn run(self, context: &Context) -> Result<i32, Failure> {
        let id = ContainerId::new(&self.id)?;
        let entry = context.store.lock(&id)?.ok_or_else(|| Failure::new(DOES_NOT_EXIST))?;
        let mut state = entry.read()?.ok_or_else(|| Failure::new(DOES_NOT_EXIST))?;
        match state.status() {
            Status::Created => {}
            Status::Stopped => return Err(Failure::new("cannot start a container that has stopped")),
            Status::Creating => return Err(Failure::new("cannot start a container that is being created")),
            Status::Running | Status::Paused => {
                return Err(Failure::new("cannot start an already running container"));
            }
        }
        start_container(&entry, &mut state)?;
        Ok(0)
    }
}

/// Starts a created container whose directory is locked, unless it was told to begin at once. Gives back the connection;
/// `None` if the program has ended already.
pub fn start_container(entry: &Entry, state: &mut ContainerState) -> Result<Option<Client>, Failure> {
    let pid = state.sandbox_pid();
    let given = state.hooks.clone();
    let mut client = entry.connect().map(Client::new).ok();
    if state.phase != Phase::Running {
        let connection =
            client.as_mut().ok_or_else(|| Failure::new("cannot start a container that has stopped"))?;
        if let Some(given) = &given {
            let input = hooks::oci_state(state, Status::Created, pid);
            hooks::run("startContainer", given.start_container().as_ref(), &input)?;
        }
        connection
            .call(Call::Start)
            .map_err(|error| explain(&state.process.args, &error))
            .attempt(|| "starting the container".to_owned())?;
        state.phase = Phase::Running;
        entry.write(state)?;
    }
    if let Some(given) = &given {
        let input = hooks::oci_state(state, Status::Running, pid);
        hooks::run_and_warn("poststart", given.poststart().as_ref(), &input);
    }
    Ok(client)
}
