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
mod given;
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
use given::Given;

use crate::container::id::ContainerId;
use crate::container::store::Store;
use crate::failure::Failure;
use crate::options::Globals;
use crate::sandbox::client::Client;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a container, which `start` then starts
    Create(Given<create::Create>),
    /// Delete a container and everything that belongs to it
    Delete(Given<delete::Delete>),
    /// Run a command in a sandbox that shows the host's files
    Do(Given<do_::Do>),
    /// Run one more process in a container
    Exec(Given<exec::Exec>),
    /// Print what this runtime supports, as OCI defines it
    Features(Given<features::Features>),
    /// Send a signal to a container's first process
    Kill(Given<kill::Kill>),
    /// List containers
    List(Given<list::List>),
    /// Stop all processes of a container for a while
    Pause(Given<pause::Pause>),
    /// List the processes of a container
    Ps(Given<ps::Ps>),
    /// Let the processes of a paused container go on
    Resume(Given<resume::Resume>),
    /// Create and start a container
    Run(Given<run::Run>),
    /// Write a config.json to begin with
    Spec(Given<spec::SpecCommand>),
    /// Start a created container
    Start(Given<start::Start>),
    /// Print a container's state
    State(Given<state::State>),
    /// Print the system calls that are supported
    Syscalls(Given<syscalls::Syscalls>),
    /// Wait until a process of a container has ended
    Wait(Given<wait::Wait>),
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
            Self::Create(Given(command)) => command.run(context),
            Self::Delete(Given(command)) => command.run(context),
            Self::Do(Given(command)) => command.run(context),
            Self::Exec(Given(command)) => command.run(context),
            Self::Features(Given(command)) => command.run(),
            Self::Kill(Given(command)) => command.run(context),
            Self::List(Given(command)) => command.run(context),
            Self::Pause(Given(command)) => command.run(context),
            Self::Ps(Given(command)) => command.run(context),
            Self::Resume(Given(command)) => command.run(context),
            Self::Run(Given(command)) => command.run(context),
            Self::Spec(Given(command)) => command.run(),
            Self::Start(Given(command)) => command.run(context),
            Self::State(Given(command)) => command.run(context),
            Self::Syscalls(Given(command)) => command.run(context),
            Self::Wait(Given(command)) => command.run(context),
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
