//! The gofer: the only process of a container that opens host files. It serves the trees it was given to one sentry,
//! over `wire`'s protocol, and hands out descriptors of regular files.
//!
//! [`serve`] is the whole life of the process: [`setup`] takes away everything but the trees and the calls in
//! [`filter`], then each channel of the connection is answered by a thread of its own until the last is closed.
//!
//! Inside: `connection` (channels and dispatch), `answer` (replies), `handles` (what the sentry holds), `lookup` (the only way from one
//! file to another), `follow`, `open`, `create`, `change`, `attributes`, `xattrs`, `directory`, `host_sockets` (what requests
//! do), `watches` (telling what others change), `nearness` (where threads run), `host` (the two calls no safe wrapper exists for).
//!
//! Invariants: the sentry is hostile. It never receives a descriptor of a directory or of a device (a queue of
//! events is neither); no path it sends
//! is resolved, only single names beneath a directory it holds; no symbolic link is ever followed for it; what it
//! can make the gofer hold is bounded.
#![deny(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unimplemented,
    clippy::indexing_slicing
)]

mod answer;
mod attributes;
mod change;
mod connection;
mod create;
mod directory;
pub mod filter;
mod follow;
mod handles;
mod host;
mod host_sockets;
mod lookup;
mod nearness;
mod open;
pub mod setup;
pub mod watches;
mod xattrs;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

pub use host::forget_program_pages;
pub use setup::{Confinement, SetupError};
pub use wire::TreeFlags;

/// What a gofer is to serve, and to whom.
#[derive(Debug)]
pub struct GoferConfig {
    /// One end of [`wire::socket_pair`]; the sentry's [`wire::Client`] has the other.
    pub socket: OwnedFd,
    /// The trees, by the index the sentry attaches to.
    pub trees: Vec<Tree>,
    pub device_nodes: DeviceNodes,
    pub confinement: Confinement,
}

/// A host directory, or a single host file, with everything mounted beneath it now.
#[derive(Debug, Clone)]
pub struct Tree {
    pub source: PathBuf,
    pub flags: TreeFlags,
}

/// Whether the sentry may create device nodes. It cannot open them either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceNodes {
    Forbidden,
    Allowed,
}

/// Confines this process to its trees and serves them until the sentry has closed its last channel.
///
/// The process must be the gofer's own (it loses its mounts, capabilities and system calls), have one thread, and
/// hold no directory open. Messages go to standard error: the filter allows no other descriptor to be written.
pub fn serve(config: GoferConfig) -> Result<(), SetupError> {
    let (served, socket) = setup::confine(config)?;
    forget_program_pages();
    connection::run(served, socket)
}

/// [`serve`] with a changed filter, for the test that takes each row away and shows that it was needed.
#[doc(hidden)]
pub fn serve_filtered(
    config: GoferConfig,
    edit: impl FnOnce(&mut Vec<filter::Row>),
) -> Result<(), SetupError> {
    let program = |facts: &filter::Facts| {
        let mut rows = filter::lists(facts.device_nodes, facts.host_sockets).concat();
        edit(&mut rows);
        filter::program_of_rows(&rows, facts)
    };
    let (served, socket) = setup::confine_with(config, program)?;
    connection::run(served, socket)
}
