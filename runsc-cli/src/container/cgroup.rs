//! The host's control groups around a sandbox: sentry, gofer and application processes share the container's.
//!
//! Key types: [`CgroupPlan`] (what is wanted), [`CgroupRecord`] (what `delete` must find again).
//! Neighbours: the crate cgroups-rs does the work on the host; `sandbox/start.rs` joins before anything runs; `commands/delete.rs` removes.
//! Invariants: without systemd, limits are set before the first process joins; no path leads out of a hierarchy; `devices` rules are
//! not given to the host, because no device of the host is reachable from a sandbox; what the crate would pass over in silence is
//! refused by name; without the right to make cgroups an unprivileged caller goes on without them, and says so.

use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::Duration;

use cgroups_rs::fs::hugetlb::HugeTlbController;
use cgroups_rs::fs::{Cgroup, hierarchies};
use cgroups_rs::systemd::utils::expand_slice;
use cgroups_rs::{CgroupPid, FsManager, Manager, SystemdManager};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_spec::runtime::{Linux, LinuxCpu, LinuxPidsBuilder, LinuxResources};
use serde::{Deserialize, Serialize};

use super::id::ContainerId;
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
        Ok(cgroup.add_task_by_tgid(number(process))?)
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

/// Resources that set nothing.
fn no_limits() -> LinuxResources {
    let mut none = LinuxResources::default();
    none.set_devices(None);
    none
}

/// Who sets the limits on this host.
#[derive(Debug, Clone, Copy)]
struct Host {
    systemd: bool,
    /// Cgroups of version 2 alone.
    unified: bool,
}

/// The limits that cgroups-rs would not set, without a word.
fn refuse_unknown(resources: &LinuxResources, host: Host) -> Result<(), Failure> {
    let anywhere = [
        ("rdma", resources.rdma().as_ref().is_some_and(|limits| !limits.is_empty())),
        ("unified", resources.unified().as_ref().is_some_and(|values| !values.is_empty())),
        ("cpu.idle", asked_of_cpu(resources, |cpu| cpu.idle().is_some())),
        ("cpu.burst", asked_of_cpu(resources, |cpu| cpu.burst().is_some())),
    ];
    refuse(&anywhere, "")?;
    let memory = resources.memory().unwrap_or_default();
    let swapping = [
        ("memory.swappiness", memory.swappiness().is_some()),
        ("memory.disableOOMKiller", memory.disable_oom_killer().unwrap_or(false)),
    ];
    if host.unified {
        refuse(&swapping, " with cgroups of version 2")?;
    }
    if !host.systemd {
        return Ok(());
    }
    let realtime = |cpu: &LinuxCpu| cpu.realtime_runtime().is_some() || cpu.realtime_period().is_some();
    let version_1 = !host.unified;
    let no_property_of_systemd = [
        ("blockIO", resources.block_io().is_some()),
        ("network", resources.network().is_some()),
        ("hugepageLimits", resources.hugepage_limits().as_ref().is_some_and(|limits| !limits.is_empty())),
        ("cpu.realtimeRuntime and cpu.realtimePeriod", asked_of_cpu(resources, realtime)),
        ("memory.reservation", version_1 && memory.reservation().is_some()),
        ("memory.swap", version_1 && memory.swap().is_some()),
        (
            "cpu.cpus and cpu.mems",
            version_1 && asked_of_cpu(resources, |cpu| cpu.cpus().is_some() || cpu.mems().is_some()),
        ),
    ];
    refuse(&no_property_of_systemd, " with --systemd-cgroup")?;
    refuse(&swapping, " with --systemd-cgroup")
}

fn asked_of_cpu(resources: &LinuxResources, asked: impl Fn(&LinuxCpu) -> bool) -> bool {
    resources.cpu().as_ref().is_some_and(asked)
}

/// Fails with the first field that is asked for.
fn refuse(fields: &[(&str, bool)], wherever: &str) -> Result<(), Failure> {
    match fields.iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(Failure::new(format!("linux.resources.{field} is not supported{wherever}"))),
        None => Ok(()),
    }
}

/// Engines write 0 where nothing was asked for; the host would take it for a limit, or refuse it.
fn drop_zeros(resources: &mut LinuxResources) {
    if let Some(mut cpu) = resources.cpu().clone() {
        cpu.set_shares(cpu.shares().filter(|n| *n != 0));
        cpu.set_quota(cpu.quota().filter(|n| *n != 0));
        cpu.set_period(cpu.period().filter(|n| *n != 0));
        cpu.set_realtime_runtime(cpu.realtime_runtime().filter(|n| *n != 0));
        cpu.set_realtime_period(cpu.realtime_period().filter(|n| *n != 0));
        cpu.set_cpus(cpu.cpus().clone().filter(|list| !list.is_empty()));
        cpu.set_mems(cpu.mems().clone().filter(|list| !list.is_empty()));
        cpu.set_idle(cpu.idle().filter(|n| *n != 0));
        cpu.set_burst(cpu.burst().filter(|n| *n != 0));
        resources.set_cpu(Some(cpu));
    }
    if let Some(mut io) = resources.block_io().clone() {
        io.set_weight(io.weight().filter(|n| *n != 0));
        io.set_leaf_weight(io.leaf_weight().filter(|n| *n != 0));
        resources.set_block_io(Some(io));
    }
    if let Some(mut memory) = *resources.memory() {
        memory.set_reservation(memory.reservation().filter(|n| *n != 0));
        memory.set_swap(memory.swap().filter(|n| *n != 0));
        resources.set_memory(Some(memory));
    }
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
    use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder, LinuxRdma};

    use super::*;

    #[test]
    fn paths_stay_inside() {
        assert_eq!(relative(Path::new("/a/./b")).unwrap(), Path::new("a/b"));
        assert_eq!(relative(Path::new("a")).unwrap(), Path::new("a"));
        for wrong in ["/a/../../b", "..", "/", ""] {
            relative(Path::new(wrong)).unwrap_err();
        }
    }

    #[test]
    fn what_the_crate_would_not_set_is_refused_by_name() {
        let refused = |resources: &LinuxResources, systemd, unified| {
            refuse_unknown(resources, Host { systemd, unified }).err().map(|failure| failure.message)
        };
        let mut resources = no_limits();
        assert_eq!(refused(&resources, true, true), None);
        resources.set_rdma(Some([("mlx5_1".to_owned(), LinuxRdma::default())].into()));
        let message = refused(&resources, false, false).unwrap();
        assert_eq!(message, "linux.resources.rdma is not supported");
        let mut resources = no_limits();
        resources.set_cpu(LinuxCpuBuilder::default().idle(1).build().ok());
        assert!(refused(&resources, false, false).unwrap().contains("cpu.idle"));
        resources.set_cpu(LinuxCpuBuilder::default().realtime_period(5_u64).build().ok());
        assert_eq!(refused(&resources, false, false), None);
        assert!(refused(&resources, true, false).unwrap().contains("cpu.realtimePeriod"));
        resources.set_cpu(LinuxCpuBuilder::default().cpus("0".to_owned()).build().ok());
        assert_eq!(refused(&resources, true, true), None);
        assert!(refused(&resources, true, false).unwrap().contains("cpu.cpus"));
        let mut resources = no_limits();
        resources.set_memory(LinuxMemoryBuilder::default().limit(5).swap(10).reservation(4).build().ok());
        assert_eq!(refused(&resources, false, false), None);
        assert_eq!(refused(&resources, true, true), None);
        assert!(refused(&resources, true, false).unwrap().contains("memory.reservation"));
        resources.set_memory(LinuxMemoryBuilder::default().swappiness(60_u64).build().ok());
        assert_eq!(refused(&resources, false, false), None);
        assert!(refused(&resources, false, true).unwrap().contains("memory.swappiness"));
        assert!(refused(&resources, true, false).unwrap().contains("memory.swappiness"));
    }

    #[test]
    fn zero_asks_for_nothing() {
        let mut resources = no_limits();
        resources.set_cpu(LinuxCpuBuilder::default().quota(0).shares(0_u64).period(5_u64).build().ok());
        resources.set_memory(LinuxMemoryBuilder::default().limit(5).reservation(0).build().ok());
        drop_zeros(&mut resources);
        let cpu = resources.cpu().clone().unwrap();
        assert_eq!((cpu.quota(), cpu.shares(), cpu.period()), (None, None, Some(5)));
        let memory = resources.memory().unwrap();
        assert_eq!((memory.limit(), memory.reservation()), (Some(5), None));
    }
}
