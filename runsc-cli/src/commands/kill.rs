//! `runsc kill`: a signal for a container's first process, or for all of them.
//!
//! Invariant: SIGKILL for the first process goes to the sentry itself, so it works whatever state the sentry is in; the
//! host then ends everything in its pid namespace.

use clap::Args;
use nix::sys::signal::Signal;

use super::Context;
use crate::container::id::ContainerId;
use crate::container::store::Status;
use crate::failure::Failure;
use crate::sandbox::control::{Call, INIT, SignalTarget};
use crate::signal_name;

/// What shims look for.
const NOT_RUNNING: &str = "container not running";

/// `runsc kill`.
#[derive(Debug, Args)]
pub struct Kill {
    /// Send it to all processes of the container
    #[arg(short, long)]
    all: bool,
    /// The container's id
    id: String,
    /// A name with or without SIG, or a number
    #[arg(default_value = "SIGTERM")]
    signal: String,
}

impl Kill {
    /// Sends it.
    pub fn run(self, context: &Context) -> Result<i32, Failure> {
        let id = ContainerId::new(&self.id)?;
        let state = context.store.require(&id)?;
        let signal = signal_name::parse(&self.signal)?;
        if state.status() == Status::Stopped {
            // Nobody is left to get it: for "all" that is what was asked for.
            return if self.all { Ok(0) } else { Err(Failure::new(NOT_RUNNING)) };
        }
        let fatal = signal == Signal::SIGKILL as i32;
        if fatal && let Some(sentry) = state.sentry {
            return if sentry.signal(Signal::SIGKILL)? { Ok(0) } else { Err(Failure::new(NOT_RUNNING)) };
        }
        let target = if self.all { SignalTarget::All } else { SignalTarget::Process(INIT) };
        context.connect(&id)?.call(Call::Signal { target, signal })?;
        Ok(0)
    }
}
