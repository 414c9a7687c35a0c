//! The gofer's process: takes its list of trees and hands over to crate `gofer`.
//!
//! Key types: [`GoferData`] (what `start.rs` sends), [`GoferReply`] (what it may read if booting fails).
//! Invariant: the process ends when the sentry's end of the file socket closes.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};

use super::boot::FIRST_DESCRIPTOR;
use super::channel::{Channel, ChannelError};
use super::spawn;
use crate::container::plan::Tree;
use crate::logging::{self, LogSettings};

/// The hidden command that makes a process a gofer.
pub const ROLE: &str = "gofer";

/// Channel to the command, file socket, log.
const DESCRIPTORS: usize = 3;

/// What the gofer reads from its channel.
#[derive(Debug, Serialize, Deserialize)]
pub struct GoferData {
    /// What it serves, by index.
    pub trees: Vec<Tree>,
    /// What goes to the log descriptor, if anything does.
    pub log: Option<LogSettings>,
}

/// What it says when it is ready, or cannot be.
#[derive(Debug, Serialize, Deserialize)]
pub struct GoferReply {
    /// One line.
    pub result: Result<(), String>,
}

/// `runsc gofer`: never returns.
pub fn main() -> ! {
    let status = match spawn::inherited_descriptors(FIRST_DESCRIPTOR, DESCRIPTORS) {
        Ok(descriptors) => run(descriptors),
        Err(error) => {
            eprintln!("runsc: gofer is started by the other commands, not by hand: {error}");
            125
        }
    };
    std::process::exit(status);
}

fn run(descriptors: Vec<OwnedFd>) -> i32 {
    let Ok([channel, socket, log]) = <[OwnedFd; DESCRIPTORS]>::try_from(descriptors) else { return 125 };
    let channel = Channel::new(UnixStream::from(channel));
    let data = match channel.receive::<GoferData>() {
        Ok((data, _)) => data,
        Err(ChannelError::Closed) => return 125,
        Err(error) => {
            eprintln!("runsc: gofer: {error}");
            return 125;
        }
    };
    if let Some(settings) = &data.log {
        logging::install(settings, log.into());
    }
    match serve(data.trees, socket) {
        Ok(()) => 0,
        Err(message) => {
            tracing::error!("gofer: {message}");
            // Nobody reads it unless the sandbox failed to boot.
            drop(channel.send(&GoferReply { result: Err(message) }, &[]));
            125
        }
    }
}

fn serve(trees: Vec<Tree>, socket: OwnedFd) -> Result<(), String> {
    drop((trees, socket));
    Err("this binary was built without a gofer".to_owned())
}
