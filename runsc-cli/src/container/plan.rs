//! Everything needed to make one container: what the sandbox boots and what the host prepares around it.
//!
//! Key types: [`Plan`], [`Tree`] (a host directory or file for the gofer), [`Namespaces`].
//! Neighbours: `translate/` makes it from a `config.json`, `commands/do_.rs` by itself; `sandbox/start.rs` carries it out.
//! Invariant: host paths in it are absolute.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::Hooks;
use sentry::spec::SandboxSpec;
use serde::{Deserialize, Serialize};

use super::cgroup::CgroupPlan;

/// A container to make.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What the kernel boots.
    pub sandbox: SandboxSpec,
    /// What the gofer serves; [`sentry::spec::MountKind::Gofer`] names them by index.
    pub trees: Vec<Tree>,
    /// `ociVersion`.
    pub oci_version: String,
    /// The bundle; empty for `do`.
    pub bundle: PathBuf,
    /// The root file system on the host.
    pub rootfs: PathBuf,
    /// From the configuration.
    pub annotations: BTreeMap<String, String>,
    /// Commands to run at moments of the container's life.
    pub hooks: Option<Hooks>,
    /// Host cgroups; `None` leaves the processes where the caller is.
    pub cgroup: Option<CgroupPlan>,
    /// The namespaces of the sentry and the gofer.
    pub namespaces: Namespaces,
}

/// A host directory or file that the container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// On the host.
    pub source: PathBuf,
    /// The gofer changes nothing in it.
    pub readonly: bool,
    /// Nobody else changes it while the container lives, so the sentry may cache what it has seen.
    pub exclusive: bool,
    /// The container may connect to sockets in it.
    pub connect_uds: bool,
    /// The container may bind sockets in it.
    pub create_uds: bool,
}

/// Namespaces that the configuration has a say in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// The sandbox's network.
    pub network: NetworkNamespace,
    /// The container's user ids, as the gofer maps them: (container, host, count).
    pub uid_mappings: Vec<IdRange>,
    /// Likewise for groups.
    pub gid_mappings: Vec<IdRange>,
}

/// Where the sentry's network namespace comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NetworkNamespace {
    /// A new, empty one.
    #[default]
    New,
    /// The caller's (`--network=host`).
    Inherit,
    /// One that somebody has set up.
    Join(PathBuf),
}

pub use sentry::spec::IdRange;
