//! `runsc state`: prints a container's state as runc does.

use clap::Args;
use serde::Serialize;

use super::Context;
use crate::container::id::ContainerId;
use crate::container::store::{ContainerState, Status};
use crate::failure::Failure;
use crate::output::print_line;

/// `runsc state`.
#[derive(Debug, Args)]
pub struct State {
    /// The container's id
    id: String,
}

/// runc's fields, in its order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StateLine<'a> {
    oci_version: &'a str,
    id: &'a str,
    pid: i32,
    status: Status,
    bundle: String,
    rootfs: String,
    created: &'a str,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    annotations: &'a std::collections::BTreeMap<String, String>,
    owner: String,
}

impl<'a> StateLine<'a> {
    /// Of a record.
    pub fn new(state: &'a ContainerState, owner: String) -> Self {
        Self {
            oci_version: &state.oci_version,
            id: &state.id,
            pid: state.live_pid(),
            status: state.status(),
            bundle: state.bundle.display().to_string(),
            rootfs: state.rootfs.display().to_string(),
            created: &state.created,
            annotations: &state.annotations,
            owner,
        }
    }
}

impl State {
    /// Prints it.
    pub fn run(self, context: &Context) -> Result<i32, Failure> {
        let state = context.store.require(&ContainerId::new(&self.id)?)?;
        print_line(&serde_json::to_string_pretty(&StateLine::new(&state, String::new()))?)?;
        Ok(0)
    }
}
