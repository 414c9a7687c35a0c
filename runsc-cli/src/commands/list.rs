//! `runsc list`: all containers below `--root`.

use clap::{Args, ValueEnum};
use nix::unistd::{Uid, User};

use super::Context;
use super::state::StateLine;
use crate::container::store::ContainerState;
use crate::failure::Failure;
use crate::output::{print, print_line};
use crate::table;

/// `runsc list`.
#[derive(Debug, Args)]
pub struct List {
    /// How to print them
    #[arg(short, long, value_enum, default_value = "table")]
    format: Format,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
}

/// `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

impl List {
    /// Prints them.
    pub fn run(self, context: &Context) -> Result<i32, Failure> {
        let states = context.store.list()?;
        if self.quiet {
            for state in &states {
                print_line(&state.id)?;
            }
            return Ok(0);
        }
        match self.format {
            Format::Table => print(&as_table(&states))?,
            // runc prints Go's empty slice.
            Format::Json if states.is_empty() => print_line("null")?,
            Format::Json => {
                let lines: Vec<_> = states.iter().map(|state| StateLine::new(state, owner(state))).collect();
                print_line(&serde_json::to_string(&lines)?)?;
            }
        }
        Ok(0)
    }
}

fn owner(state: &ContainerState) -> String {
    let user = User::from_uid(Uid::from_raw(state.owner)).ok().flatten();
    user.map_or_else(|| format!("#{}", state.owner), |user| user.name)
}

fn as_table(states: &[ContainerState]) -> String {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(states.iter().map(|state| {
        [
            state.id.clone(),
            state.live_pid().to_string(),
            state.status().as_str().to_owned(),
            state.bundle.display().to_string(),
            state.created.clone(),
            owner(state),
        ]
    }));
    table::aligned(&rows, 12, 3)
}
