//! Commands whose options clap learns only if they are the one that is given.
//!
//! Key type: [`Given`]. Neighbour: `commands/mod.rs` lists the commands. Invariant: help, errors and what is parsed are the same as without it.
//! All commands' options together are 160 KB of clap's structures, in a process that lives for milliseconds.

use clap::builder::Resettable;
use clap::error::Error;
use clap::{ArgMatches, Args, Command, FromArgMatches};

/// The command's options, if it was this one.
#[derive(Debug)]
pub struct Given<T>(pub T);

impl<T: Args> Args for Given<T> {
    fn augment_args(command: Command) -> Command {
        command.defer(with_options::<T>)
    }

    fn augment_args_for_update(command: Command) -> Command {
        T::augment_args_for_update(command)
    }
}

impl<T: Args> FromArgMatches for Given<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        T::from_arg_matches(matches).map(Self)
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, Error> {
        T::from_arg_matches_mut(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.0.update_from_arg_matches(matches)
    }
}

/// What the list of commands says of it goes before what its type does.
fn with_options<T: Args>(command: Command) -> Command {
    let (about, long) = (command.get_about().cloned(), command.get_long_about().cloned());
    T::augment_args(command).about(Resettable::from(about)).long_about(Resettable::from(long))
}
