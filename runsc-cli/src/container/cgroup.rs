//! The host's control groups around a sandbox: sentry, gofer and application processes share the container's.
//!
//! Key types: [`CgroupPlan`] (what is wanted), [`CgroupRecord`] (what `delete` must find again).
//! Neighbours: `legacy.rs` serves the usual cases of version 1, libcgroups all others; `sandbox/start.rs` joins before anything runs; `commands/delete.rs` removes.
//! Invariants: limits are set before the first process joins; `devices` rules are not given to the host, because no
//! device of the host is reachable from a sandbox; without the right to make cgroups an unprivileged caller goes on
//! without them, and says so.

mod legacy;

use std::path::{Path, PathBuf};

use libcgroups::common::{
    AnyCgroupManager, AnyManagerError, CgroupConfig, CgroupManager, ControllerOpt, create_cgroup_manager,
};
use nix::unistd::Pid;
use oci_spec::runtime::{Linux, LinuxPidsBuilder, LinuxResources};
use serde::{Deserialize, Serialize};

use super::id::ContainerId;
use crate::failure::{Attempt, Failure};
use crate::options::Globals;
use legacy::Hierarchies;

/// Tasks of the runtime itself that share the container's cgroup: threads of sentry and gofer. The kernel inside counts
/// the application's own tasks against the exact limit.
const RUNTIME_TASKS: i64 = 64;

/// Cgroups to make.
#[derive(Debug, Clone)]
pub struct CgroupPlan {
    record: CgroupRecord,
    resources: LinuxResources,
    /// Go on without when the host does not allow it.
    optional: bool,
}

/// Cgroups that were made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupRecord {
    path: PathBuf,
    systemd: bool,
    id: String,
}

impl CgroupPlan {
    /// `None` when nothing asks for cgroups: neither a path nor a limit.
    pub fn from_config(globals: &Globals, id: &ContainerId, linux: &Linux) -> Option<Self> {
        if globals.ignore_cgroups {
            return None;
        }
        let mut resources = linux.resources().clone().unwrap_or_default();
        resources.set_devices(None);
        if let Some(limit) =
            resources.pids().as_ref().map(oci_spec::runtime::LinuxPids::limit).filter(|l| *l > 0)
        {
            let raised = LinuxPidsBuilder::default().limit(limit.saturating_add(RUNTIME_TASKS)).build().ok();
            resources.set_pids(raised);
        }
        let given = linux.cgroups_path().clone().filter(|path| !path.as_os_str().is_empty());
        if given.is_none() && resources == LinuxResources::default() {
            return None;
        }
        let default = if globals.systemd_cgroup { format!(":runsc:{id}") } else { format!("/runsc/{id}") };
        let path = given.unwrap_or_else(|| PathBuf::from(default));
        let record = CgroupRecord { path, systemd: globals.systemd_cgroup, id: id.as_str().to_owned() };
        Some(Self { record, resources, optional: globals.is_rootless() })
    }

    /// What to write down before [`CgroupPlan::apply`].
    pub fn record(&self) -> &CgroupRecord {
        &self.record
    }

    /// Makes the cgroups, sets the limits and puts the process in.
    pub fn apply(&self, process: Pid) -> Result<(), Failure> {
        let applied = self.record.on_hierarchies(
            |hierarchies, path| {
                hierarchies.make(path)?;
                if !hierarchies.limit(path, &self.resources)? {
                    self.record.manager()?.apply(&self.options())?;
                }
                hierarchies.join(path, process)
            },
            |manager| {
                manager.add_task(raw(process))?;
                manager.apply(&self.options())
            },
        );
        match applied {
            Err(failure) if self.optional => {
                tracing::warn!("linux.resources are ignored, no cgroup can be made: {failure}");
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Puts one more process in, if the cgroups could be made.
    pub fn add(&self, process: Pid) -> Result<(), Failure> {
        let added = self.record.on_hierarchies(
            |hierarchies, path| hierarchies.join(path, process),
            |manager| manager.add_task(raw(process)),
        );
        match added {
            Err(_) if self.optional => Ok(()),
            outcome => outcome,
        }
    }

    fn options(&self) -> ControllerOpt<'_> {
        ControllerOpt {
            resources: &self.resources,
            disable_oom_killer: false,
            oom_score_adj: None,
            freezer_state: None,
        }
    }
}

fn raw(process: Pid) -> libcgroups_nix::unistd::Pid {
    libcgroups_nix::unistd::Pid::from_raw(process.as_raw())
}

impl CgroupRecord {
    fn manager(&self) -> Result<AnyCgroupManager, Failure> {
        let config = CgroupConfig {
            cgroup_path: self.path.clone(),
            systemd_cgroup: self.systemd,
            container_name: self.id.clone(),
        };
        Ok(create_cgroup_manager(config)?)
    }

    /// Does one thing by our own means where the host has version 1 and nobody else manages it, otherwise by libcgroups'.
    fn on_hierarchies(
        &self,
        own: impl FnOnce(&Hierarchies, &Path) -> Result<(), Failure>,
        library: impl FnOnce(&AnyCgroupManager) -> Result<(), AnyManagerError>,
    ) -> Result<(), Failure> {
        let hierarchies = if self.systemd { None } else { Hierarchies::find()? };
        let outcome = match hierarchies {
            Some(hierarchies) => own(&hierarchies, &self.path),
            None => self.manager().and_then(|manager| Ok(library(&manager)?)),
        };
        outcome.attempt(|| format!("cgroup {}", self.path.display()))
    }

    /// Removes them; whatever is still in them is killed.
    pub fn remove(&self) -> Result<(), Failure> {
        self.on_hierarchies(Hierarchies::remove, AnyCgroupManager::remove)
    }

    /// Where they are, below each hierarchy.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
