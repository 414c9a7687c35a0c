//! `runsc pause`: stops all processes of a container for a while.

use clap::Args;

use super::Context;
use crate::container::id::ContainerId;
use crate::container::store::{Status, does_not_exist};
use crate::failure::Failure;
use crate::sandbox::client::Client;
use crate::sandbox::control::Call;

/// `runsc pause`.
#[derive(Debug, Args)]
pub struct Pause {
    /// The container's id
    id: String,
}

impl Pause {
    /// Pauses it.
    pub fn run(self, context: &Context) -> Result<i32, Failure> {
        change(context, &self.id, true)?;
        Ok(0)
    }
}

/// Pauses or resumes.
pub fn change(context: &Context, id: &str, paused: bool) -> Result<(), Failure> {
    let id = ContainerId::new(id)?;
    let entry = context.store.lock(&id)?.ok_or_else(|| does_not_exist(&id))?;
    let mut state = entry.read()?.ok_or_else(|| does_not_exist(&id))?;
    let allowed = match state.status() {
        Status::Running | Status::Created => paused,
        Status::Paused => !paused,
        Status::Creating | Status::Stopped => false,
    };
    if !allowed {
        let reason = if paused { "container not running" } else { "container not paused" };
        return Err(Failure::new(reason));
    }
    let mut client = entry.connect().map(Client::new).map_err(|_| Failure::new("container not running"))?;
    client.call(if paused { Call::Pause } else { Call::Resume })?;
    state.paused = paused;
    entry.write(&state)
}
