//! `runsc run`: `create`, `start`, and, unless detached, stay until it has ended and `delete`.

use clap::Args;
use nix::unistd::Pid;

use super::Context;
use super::create::{CreateOptions, Created, Terminal};
use super::delete;
use super::start::start_container;
use crate::container::id::ContainerId;
use crate::failure::{Attempt, Failure};
use crate::sandbox::control::INIT;
use crate::sandbox::foreground::{Ending, Link, StandIn, block_signals};
use crate::sandbox::start::{Begin, Made};

/// `runsc run`.
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    options: CreateOptions,
    /// Return when the program has started
    #[arg(short, long)]
    detach: bool,
    /// Do not delete the container when it has ended
    #[arg(long)]
    keep: bool,
    /// Accepted: the program's children are never the command's
    #[arg(long)]
    no_subreaper: bool,
    /// The container's id
    id: String,
}

impl Run {
    /// Runs it.
    pub fn run(self, context: &Context) -> Result<i32, Failure> {
        self.perform(context).attempt(|| "runsc run failed".to_owned())
    }

    fn perform(&self, context: &Context) -> Result<i32, Failure> {
        let id = ContainerId::new(&self.id)?;
        let terminal = if self.detach { Terminal::Detached } else { Terminal::Ours };
        let signals = if self.detach { None } else { Some(block_signals()?) };
        let Created { entry, made: Made { mut state, life }, master } =
            self.options.create(context, &id, terminal, Begin::AtOnce)?;
        let pid = Pid::from_raw(state.sandbox_pid());
        if let Err(failure) = start_container(&entry, &mut state) {
            delete::destroy(entry, Some(&state))?;
            return Err(failure);
        }
        let Some(signals) = signals else { return Ok(0) };
        drop(entry);
        let stand_in = StandIn {
            link: Link::Later { store: context.store.clone(), id: id.clone() },
            pid: INIT,
            ending: Ending::Sentry { pid, life, gofer: state.gofer },
            master,
            slave: None,
            insistence: false,
        };
        let status = stand_in.run(&signals)?;
        if !self.keep
            && let Some(entry) = context.store.lock(&id)?
        {
            let state = entry.read()?;
            delete::destroy(entry, state.as_ref())?;
        }
        Ok(status)
    }
}
