//! The commands, one file each.
//!
//! Key types: [`Command`] (what clap parses), [`Context`] (what every command needs).
//! Invariant: a command returns its exit status or a [`Failure`]; it never exits by itself.

pub mod create;
pub mod delete;
#[path = "do.rs"]
pub mod do_;
pub mod exec;
pub mod features;
pub mod kill;
pub mod list;
pub mod pause;
pub mod ps;
pub mod resume;
pub mod run;
pub mod spec;
pub mod start;
pub mod state;
pub mod syscalls;
pub mod unsupported;
pub mod wait;

use clap::Subcommand;

use crate::container::id::ContainerId;
use crate::container::store::Store;
use crate::failure::Failure;
use crate::options::Globals;
use crate::sandbox::client::Client;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a container, which `start` then starts
    Create(create::Create),
    /// Delete a container and everything that belongs to it
    Delete(delete::Delete),
    /// Run a command in a sandbox that shows the host's files
    Do(do_::Do),
    /// Run one more process in a container
    Exec(exec::Exec),
    /// Print what this runtime supports, as OCI defines it
    Features(features::Features),
    /// Send a signal to a container's first process
    Kill(kill::Kill),
    /// List containers
    List(list::List),
    /// Stop all processes of a container for a while
    Pause(pause::Pause),
    /// List the processes of a container
    Ps(ps::Ps),
    /// Let the processes of a paused container go on
    Resume(resume::Resume),
    /// Create and start a container
    Run(run::Run),
    /// Write a config.json to begin with
    Spec(spec::SpecCommand),
    /// Start a created container
    Start(start::Start),
    /// Print a container's state
    State(state::State),
    /// Print the system calls that are supported
    Syscalls(syscalls::Syscalls),
    /// Wait until a process of a container has ended
    Wait(wait::Wait),
    /// Not supported
    #[command(hide = true, disable_help_flag = true)]
    Checkpoint(unsupported::Unsupported),
    /// Not supported
    #[command(hide = true, disable_help_flag = true)]
    Restore(unsupported::Unsupported),
    /// Not supported
    #[command(hide = true, disable_help_flag = true)]
    Update(unsupported::Unsupported),
    /// Not supported
    #[command(hide = true, disable_help_flag = true)]
    Events(unsupported::Unsupported),
}

/// What every command needs.
#[derive(Debug)]
pub struct Context {
    /// Options before the command.
    pub globals: Globals,
    /// Where containers are recorded.
    pub store: Store,
}

impl Context {
    /// From the options.
    pub fn new(globals: Globals) -> Self {
        let store = Store::new(globals.state_directory());
        Self { globals, store }
    }

    /// Connects to the sentry of a container.
    pub fn connect(&self, id: &ContainerId) -> Result<Client, Failure> {
        self.store.connect(id).map(Client::new).map_err(|_| Failure::new("container not running"))
    }
}

impl Command {
    /// Does it.
    pub fn run(self, context: &Context) -> Result<i32, Failure> {
        match self {
            Self::Create(command) => command.run(context),
            Self::Delete(command) => command.run(context),
            Self::Do(command) => command.run(context),
            Self::Exec(command) => command.run(context),
            Self::Features(command) => command.run(),
            Self::Kill(command) => command.run(context),
            Self::List(command) => command.run(context),
            Self::Pause(command) => command.run(context),
            Self::Ps(command) => command.run(context),
            Self::Resume(command) => command.run(context),
            Self::Run(command) => command.run(context),
            Self::Spec(command) => command.run(),
            Self::Start(command) => command.run(context),
            Self::State(command) => command.run(context),
            Self::Syscalls(command) => command.run(context),
            Self::Wait(command) => command.run(context),
            Self::Checkpoint(command) => command.run("checkpoint"),
            Self::Restore(command) => command.run("restore"),
            Self::Update(command) => command.run("update"),
            Self::Events(command) => command.run("events"),
        }
    }

    /// Whether failures of the runtime itself get docker's status 125, because any other may be the program's.
    pub fn is_do(&self) -> bool {
        matches!(self, Self::Do(_))
    }
}
