//! The host's control groups around a sandbox: sentry, gofer and application processes share the container's.
//!
//! Key types: [`CgroupPlan`] (what is wanted), [`Doors`] (how a process gets in), [`CgroupRecord`] (what `delete` must find again).
//! Neighbours: `resources.rs` judges limits; the crate cgroups-rs does the work on the host; `sandbox/start.rs` has both processes join before anything runs; `commands/delete.rs` removes.
//! Invariants: without systemd, limits are set before the first process joins; no path leads out of a hierarchy; `devices` rules are
//! not given to the host, because no device of the host is reachable from a sandbox; without the right to make cgroups an unprivileged caller goes on without them, and says so.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::Duration;

use cgroups_rs::fs::hugetlb::HugeTlbController;
use cgroups_rs::fs::{Cgroup, hierarchies};
use cgroups_rs::systemd::utils::expand_slice;
use cgroups_rs::{CgroupPid, FsManager, Manager, SystemdManager};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_spec::runtime::{Linux, LinuxPidsBuilder, LinuxResources};
use serde::{Deserialize, Serialize};

use super::id::ContainerId;
use super::resources::{Host, drop_zeros, no_limits, refuse_unknown};
use crate::failure::{Attempt, Failure};
use crate::options::Globals;

/// Tasks of the runtime itself that share the container's cgroup: threads of sentry and gofer. The kernel inside counts
/// the application's own tasks against the exact limit.
const RUNTIME_TASKS: i64 = 64;
/// How often, and how long each time, is waited for killed processes to leave a cgroup.
const REMOVALS: u32 = 100;
const REMOVAL_PAUSE: Duration = Duration::from_millis(4);

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
    /// `None` when nothing asks for cgroups: neither a path nor a limit. Fails for limits that cannot be set.
    pub fn from_config(globals: &Globals, id: &ContainerId, linux: &Linux) -> Result<Option<Self>, Failure> {
        if globals.ignore_cgroups {
            return Ok(None);
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
        if given.is_none() && resources == no_limits() {
            return Ok(None);
        }
        let host = Host { systemd: globals.systemd_cgroup, unified: hierarchies::auto().v2() };
        drop_zeros(&mut resources);
        refuse_unknown(&resources, host)?;
        let default = if globals.systemd_cgroup { format!(":runsc:{id}") } else { format!("/runsc/{id}") };
        let path = given.unwrap_or_else(|| PathBuf::from(default));
        if !globals.systemd_cgroup {
            relative(&path)?;
        }
        let record = CgroupRecord { path, systemd: globals.systemd_cgroup, id: id.as_str().to_owned() };
        Ok(Some(Self { record, resources, optional: globals.is_rootless() }))
    }

    /// What to write down before [`CgroupPlan::apply`].
    pub fn record(&self) -> &CgroupRecord {
        &self.record
    }

    /// Makes the cgroups and sets the limits; processes then [`enter`] by themselves. Where they cannot, the first is in already:
    /// a unit of systemd begins with a process in it, in version 2 only threads can be moved without waiting, and
    /// unprivileged callers go on if it fails, which is not for the process to know.
    pub fn open(&self, first: Pid) -> Result<Doors, Failure> {
        if self.record.systemd || self.optional {
            return self.apply(first).map(|()| Doors::default());
        }
        self.try_open(first).attempt(|| self.record.attempt())
    }

    fn try_open(&self, first: Pid) -> Result<Doors, Failure> {
        let cgroup = self.make()?;
        if cgroup.v2() {
            cgroup.add_task_by_tgid(number(first))?;
            return Ok(Doors::default());
        }
        // Controllers may share a hierarchy.
        let mut places: Vec<&Path> =
            cgroup.subsystems().iter().map(|each| each.to_controller().path()).collect();
        places.sort_unstable();
        places.dedup();
        let open = |place: &Path| {
            let door = place.join("tasks");
            File::options().write(true).open(&door).attempt(|| door.display().to_string())
        };
        Ok(Doors(places.into_iter().map(|place| open(place).map(OwnedFd::from)).collect::<Result<_, _>>()?))
    }

    /// Makes the cgroups, sets the limits and puts the process in.
    pub fn apply(&self, process: Pid) -> Result<(), Failure> {
        match self.try_apply(process).attempt(|| self.record.attempt()) {
            Err(failure) if self.optional => {
                tracing::warn!("linux.resources are ignored, no cgroup can be made: {failure}");
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn try_apply(&self, process: Pid) -> Result<(), Failure> {
        if let Some(mut systemd) = self.record.systemd_manager()? {
            // A unit begins with a process in it.
            systemd.add_proc(number(process))?;
            return Ok(systemd.set(&self.resources)?);
        }
        Ok(self.make()?.add_task_by_tgid(number(process))?)
    }

    fn make(&self) -> Result<Cgroup, Failure> {
        let cgroup = self.record.cgroup()?;
        cgroup.create()?;
        if self.resources != no_limits() {
            for limit in self.resources.hugepage_limits().iter().flatten() {
                let pages: Option<&HugeTlbController> = cgroup.controller_of();
                if !pages.is_some_and(|pages| pages.size_supported(limit.page_size())) {
                    let size = limit.page_size();
                    return Err(Failure::new(format!(
                        "linux.resources.hugepageLimits: no pages of {size} here"
                    )));
                }
            }
            FsManager::new(cgroup.path())?.set(&self.resources)?;
        }
        Ok(cgroup)
    }

    /// Puts one more process in, if the cgroups could be made.
    pub fn add(&self, process: Pid) -> Result<(), Failure> {
        let added = match self.record.systemd_manager() {
            Ok(Some(mut systemd)) => systemd.add_proc(number(process)).map_err(Failure::from),
            Ok(None) => self.record.cgroup().and_then(|cgroup| Ok(cgroup.add_task_by_tgid(number(process))?)),
            Err(failure) => Err(failure),
        };
        match added.attempt(|| self.record.attempt()) {
            Err(_) if self.optional => Ok(()),
            outcome => outcome,
        }
    }
}

/// How a process puts itself into cgroups of version 1: their files `tasks`, one for each hierarchy.
///
/// Whoever moves another process, or all threads of one, waits until no process of the host is forking, executing or ending, which
/// takes a grace period of the host's RCU, 5 to 15 ms. A thread that moves itself waits for nobody (`cgroup_procs_write_start` in
/// Linux's kernel/cgroup/cgroup.c), and to move the only thread there is moves the process. Linux asks for the rights of
/// whoever opened the file.
#[derive(Debug, Default)]
pub struct Doors(Vec<OwnedFd>);

impl Doors {
    /// Whether there is none: the processes have to be put in by others.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// To be lent to the processes.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.0.iter().map(AsFd::as_fd).collect()
    }
}

/// Puts the calling process in, which must have one thread and no child. The doors are closed behind it.
pub fn enter(doors: Vec<OwnedFd>) -> io::Result<()> {
    const MYSELF: &[u8] = b"0";
    doors.into_iter().try_for_each(|door| File::from(door).write_all(MYSELF))
}

fn number(process: Pid) -> CgroupPid {
    // A process id is never negative.
    CgroupPid::from(u64::from(process.as_raw().unsigned_abs()))
}

impl CgroupRecord {
    fn attempt(&self) -> String {
        format!("cgroup {}", self.path.display())
    }

    /// `None` where systemd does not manage it.
    fn systemd_manager(&self) -> Result<Option<SystemdManager<'static>>, Failure> {
        if !self.systemd {
            return Ok(None);
        }
        Ok(Some(SystemdManager::new(&self.path.to_string_lossy())?))
    }

    /// What there is, or would be, in each hierarchy of the host.
    fn cgroup(&self) -> Result<Cgroup, Failure> {
        cgroup_at(&self.path)
    }

    /// Removes them; whatever is still in them is killed.
    pub fn remove(&self) -> Result<(), Failure> {
        self.try_remove().attempt(|| self.attempt())
    }

    fn try_remove(&self) -> Result<(), Failure> {
        let Some(mut systemd) = self.systemd_manager()? else {
            return remove(&self.cgroup()?);
        };
        systemd.destroy()?;
        if hierarchies::auto().v2() {
            return Ok(());
        }
        // In the hierarchies of version 1 that systemd itself does not use, the crate made them and leaves them behind.
        let slice = expand_slice(systemd.slice()).map_err(|error| Failure::new(error.to_string()))?;
        let left = cgroup_at(&Path::new(&slice).join(systemd.unit()))?;
        // It removes its own when the last process is gone.
        for _ in 0..REMOVALS {
            if left.delete().is_ok() {
                break;
            }
            thread::sleep(REMOVAL_PAUSE);
        }
        Ok(left.delete()?)
    }

    /// Where they are, below each hierarchy.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn cgroup_at(path: &Path) -> Result<Cgroup, Failure> {
    let cgroup = Cgroup::load(hierarchies::auto(), relative(path)?);
    if cgroup.subsystems().is_empty() {
        return Err(Failure::new("the host has no cgroup hierarchy mounted"));
    }
    Ok(cgroup)
}

/// Kills whoever is still inside, and removes it from each hierarchy.
fn remove(cgroup: &Cgroup) -> Result<(), Failure> {
    for _ in 0..REMOVALS {
        // A zero stands for a process of another pid namespace, and would be our own process group.
        // Whoever is in one hierarchy's is in all.
        let inside = cgroup.subsystems().first().map(|first| first.to_controller().procs());
        let inside: Vec<_> = inside.into_iter().flatten().filter(|process| process.pid > 0).collect();
        if inside.is_empty() {
            break;
        }
        for process in inside.iter().filter_map(|process| i32::try_from(process.pid).ok()) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
        }
        thread::sleep(REMOVAL_PAUSE);
    }
    Ok(cgroup.delete()?)
}

/// The same path as it is found below a hierarchy. It must have a name in it, lest the host's own cgroup be limited.
fn relative(path: &Path) -> Result<PathBuf, Failure> {
    let wrong = || Failure::new(format!("{} is no cgroup path", path.display()));
    let mut below = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => below.push(name.to_str().ok_or_else(wrong)?),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(wrong()),
        }
    }
    if below.as_os_str().is_empty() { Err(wrong()) } else { Ok(below) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        assert_eq!(relative(Path::new("/a/./b")).unwrap(), Path::new("a/b"));
        assert_eq!(relative(Path::new("a")).unwrap(), Path::new("a"));
        for wrong in ["/a/../../b", "..", "/", ""] {
            relative(Path::new(wrong)).unwrap_err();
        }
    }
}
