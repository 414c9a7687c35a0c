//! The gofer's process: takes its list of trees and hands over to crate `gofer`.
//!
//! Key types: [`GoferData`] (what `start.rs` sends), [`GoferReply`] (what it may read if booting fails).
//! Invariant: the process ends when the sentry's end of the file socket closes.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use gofer::{Confinement, DeviceNodes, GoferConfig, TreeFlags};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

use super::boot::FIRST_DESCRIPTOR;
use super::channel::{Channel, ChannelError};
use super::spawn;
use crate::container::cgroup;
use crate::container::plan::Tree;
use crate::logging::{self, LogSettings};

/// The hidden command that makes a process a gofer.
pub const ROLE: &str = "gofer";

/// Channel to the command, file socket.
const DESCRIPTORS: usize = 2;

/// What the gofer reads from its channel.
#[derive(Debug, Serialize, Deserialize)]
pub struct GoferData {
    /// What it serves, by index.
    pub trees: Vec<Tree>,
    /// What goes to standard error, the only descriptor it may write text to, if anything does.
    pub log: Option<LogSettings>,
    /// It was put into a user namespace, whose root it is to become.
    pub user_namespace: UserNamespace,
}

/// How the gofer stands to user namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserNamespace {
    /// It is in the caller's, with the caller's ids.
    Inherited,
    /// It is in one that maps only the caller.
    OnlyCaller,
    /// It is in one with the configuration's mappings, made by a privileged caller.
    Mapped,
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
    let Ok([channel, socket]) = <[OwnedFd; DESCRIPTORS]>::try_from(descriptors) else { return 125 };
    let channel = Channel::new(UnixStream::from(channel));
    let (data, doors) = match channel.receive::<GoferData>() {
        Ok(received) => received,
        Err(ChannelError::Closed) => return 125,
        Err(error) => {
            eprintln!("runsc: gofer: {error}");
            return 125;
        }
    };
    if let Some(settings) = &data.log {
        logging::install_on_stderr(settings);
    }
    // Out of the command's process group: neither Ctrl-C nor whoever cleans up after the command means the gofer.
    if let Err(error) = nix::unistd::setsid() {
        eprintln!("runsc: gofer: becoming session leader: {error}");
        return 125;
    }
    let outcome = cgroup::enter(doors)
        .map_err(|error| format!("gofer: entering the container's cgroups: {error}"))
        .and_then(|()| {
            become_root(data.user_namespace)
                .map_err(|error| format!("gofer: becoming root of its user namespace: {error}"))
        })
        // Not on its way here: the sentry makes one of its own at that time, and the host makes them one after the other.
        .and_then(|()| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|error| format!("gofer: leaving the network namespace: {error}"))
        })
        .and_then(|()| serve(data.trees, socket));
    match outcome {
        Ok(()) => 0,
        Err(message) => {
            // Nobody reads it unless the sandbox failed to boot.
            drop(channel.send(&GoferReply { result: Err(message) }, &[]));
            125
        }
    }
}

fn become_root(namespace: UserNamespace) -> nix::Result<()> {
    if namespace == UserNamespace::Inherited {
        return Ok(());
    }
    if namespace == UserNamespace::Mapped {
        nix::unistd::setgroups(&[])?;
    }
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    nix::unistd::setresgid(group, group, group)?;
    nix::unistd::setresuid(user, user, user)?;
    // Changing ids cleared it, and with it the access to `/proc/self/fd`.
    nix::sys::prctl::set_dumpable(true)
}

fn serve(trees: Vec<Tree>, socket: OwnedFd) -> Result<(), String> {
    let tree = |tree: Tree| {
        let mut flags = TreeFlags::empty();
        flags.set(TreeFlags::READ_ONLY, tree.readonly);
        flags.set(TreeFlags::EXCLUSIVE, tree.exclusive);
        flags.set(TreeFlags::HOST_SOCKETS, tree.connect_uds || tree.create_uds);
        gofer::Tree { source: tree.source, flags }
    };
    let config = GoferConfig {
        socket,
        trees: trees.into_iter().map(tree).collect(),
        device_nodes: DeviceNodes::Forbidden,
        confinement: Confinement::Required,
    };
    gofer::serve(config).map_err(|error| format!("gofer: {error}"))
}
