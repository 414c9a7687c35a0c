//! Version 1 of the host's control groups, in as few host calls as it takes: the mounts are read once, a directory is made in
//! each hierarchy, limits are written, one process joins.
//!
//! Key type: [`Hierarchies`]. Neighbours: `cgroup.rs` decides when this serves and asks libcgroups otherwise (version 2, systemd,
//! rare limits); libcgroups reads `/proc/self/mountinfo` once for each controller and step, which took longer than the start of
//! a sandbox.
//! Invariant: no path leads out of a hierarchy.

use std::fs;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use crate::failure::{Attempt, Failure};

const PROCESSES: &str = "cgroup.procs";
const CPUSET: &str = "cpuset";
/// Files of a cpuset without which no process may join.
const CPUSET_FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];
/// All that the host may have; a hierarchy without any of these (systemd's) is not ours to touch.
const CONTROLLERS: [&str; 12] = [
    "cpu",
    "cpuacct",
    CPUSET,
    "devices",
    "hugetlb",
    "pids",
    "perf_event",
    "memory",
    "blkio",
    "net_prio",
    "net_cls",
    "freezer",
];
/// A process that has just been killed keeps its cgroup busy until it is gone.
const REMOVALS: u32 = 100;
const REMOVAL_PAUSE: Duration = Duration::from_millis(4);

/// The hierarchies of this host.
#[derive(Debug)]
pub struct Hierarchies(Vec<Hierarchy>);

#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    controllers: Vec<&'static str>,
}

impl Hierarchies {
    /// As mounted; `None` if there are none, or none but version 2's.
    pub fn find() -> io::Result<Option<Self>> {
        Ok(Self::parse(&fs::read_to_string("/proc/self/mountinfo")?))
    }

    /// From the text of `proc_pid_mountinfo(5)`.
    fn parse(mounts: &str) -> Option<Self> {
        let mut found: Vec<Hierarchy> = Vec::new();
        for line in mounts.lines() {
            let Some((mount, file_system)) = line.split_once(" - ") else { continue };
            let place = mount.split(' ').nth(4).unwrap_or("");
            let mut fields = file_system.split(' ');
            let options = match (fields.next(), fields.nth(1)) {
                (Some("cgroup"), Some(options)) => options,
                (Some("cgroup2"), _) if place == "/sys/fs/cgroup" => return None,
                _ => continue,
            };
            let controllers: Vec<_> =
                CONTROLLERS.into_iter().filter(|name| options.split(',').any(|o| o == *name)).collect();
            let known = |name| found.iter().any(|hierarchy| hierarchy.controllers.contains(name));
            // An escape (`\040`) stands for a character that no mount point of these has.
            if controllers.is_empty() || place.contains('\\') || controllers.iter().any(known) {
                continue;
            }
            found.push(Hierarchy { mount: place.into(), controllers });
        }
        (!found.is_empty()).then_some(Self(found))
    }

    /// Makes the cgroup everywhere.
    pub fn make(&self, path: &Path) -> Result<(), Failure> {
        for hierarchy in &self.0 {
            let directory = hierarchy.directory(path)?;
            fs::create_dir_all(&directory).attempt(|| format!("making {}", directory.display()))?;
            if hierarchy.controllers.contains(&CPUSET) {
                hierarchy.inherit_cpuset(path)?;
            }
        }
        Ok(())
    }

    /// Puts a process in everywhere.
    pub fn join(&self, path: &Path, process: Pid) -> Result<(), Failure> {
        let number = process.to_string();
        self.0.iter().try_for_each(|hierarchy| set(&hierarchy.directory(path)?, PROCESSES, &number))
    }

    /// Sets the limits if they are of the usual kinds; `false` if there is one among them that must be left to others, and none
    /// was set.
    pub fn limit(&self, path: &Path, resources: &LinuxResources) -> Result<bool, Failure> {
        let Some(limits) = Limits::of(resources) else { return Ok(false) };
        for (controller, file, value) in limits.0 {
            let hierarchy = self.0.iter().find(|hierarchy| hierarchy.controllers.contains(&controller));
            let hierarchy = hierarchy
                .ok_or_else(|| Failure::new(format!("the host has no cgroup controller {controller}")))?;
            set(&hierarchy.directory(path)?, file, &value)?;
        }
        Ok(true)
    }

    /// Removes the cgroup everywhere; whatever is in it is killed.
    pub fn remove(&self, path: &Path) -> Result<(), Failure> {
        self.0.iter().try_for_each(|hierarchy| remove(&hierarchy.directory(path)?))
    }
}

impl Hierarchy {
    fn directory(&self, path: &Path) -> Result<PathBuf, Failure> {
        let mut directory = self.mount.clone();
        for component in path.components() {
            match component {
                Component::Normal(name) => directory.push(name),
                Component::RootDir | Component::CurDir => {}
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(Failure::new(format!("{} is no cgroup path", path.display())));
                }
            }
        }
        Ok(directory)
    }

    /// A new cpuset is empty, and nothing can run in it: it gets what its parent has, from the top down.
    fn inherit_cpuset(&self, path: &Path) -> Result<(), Failure> {
        let target = self.directory(path)?;
        let read = |directory: &Path, file| {
            let path = directory.join(file);
            fs::read_to_string(&path).attempt(|| format!("reading {}", path.display()))
        };
        for file in CPUSET_FILES {
            if !read(&target, file)?.trim().is_empty() {
                continue;
            }
            let mut directory = self.mount.clone();
            let mut value = read(&directory, file)?;
            for name in target.strip_prefix(&self.mount).unwrap_or(Path::new("")) {
                directory.push(name);
                let own = read(&directory, file)?;
                if own.trim().is_empty() {
                    set(&directory, file, value.trim())?;
                } else {
                    value = own;
                }
            }
        }
        Ok(())
    }
}

/// Controller, file, value; in an order that the host accepts.
struct Limits(Vec<(&'static str, &'static str, String)>);

impl Limits {
    /// `None` if there is a limit of a rare kind.
    fn of(resources: &LinuxResources) -> Option<Self> {
        let memory = resources.memory().unwrap_or_default();
        let cpu = resources.cpu().clone().unwrap_or_default();
        let (limit, reservation) = (memory.limit(), memory.reservation());
        let mut usual_memory = LinuxMemory::default();
        usual_memory.set_limit(limit).set_reservation(reservation);
        let mut usual_cpu = LinuxCpu::default();
        usual_cpu.set_shares(cpu.shares()).set_quota(cpu.quota()).set_period(cpu.period());
        usual_cpu.set_cpus(cpu.cpus().clone()).set_mems(cpu.mems().clone());
        let mut usual = LinuxResources::default();
        usual.set_devices(None).set_pids(*resources.pids());
        usual.set_memory(resources.memory().map(|_| usual_memory));
        usual.set_cpu(resources.cpu().as_ref().map(|_| usual_cpu));
        // Without a limit, swap would have to be set with it.
        if *resources != usual || limit.is_some_and(|limit| limit < 0) {
            return None;
        }
        let mut all = Vec::new();
        let mut add = |controller, file, value: Option<String>| {
            all.extend(value.map(|value| (controller, file, value)));
        };
        // For all of these 0 means that nothing was asked for.
        let number = |value: Option<i64>| value.filter(|value| *value != 0).map(|value| value.to_string());
        let unsigned = |value: Option<u64>| value.filter(|value| *value != 0).map(|value| value.to_string());
        add(CPUSET, "cpuset.cpus", cpu.cpus().clone());
        add(CPUSET, "cpuset.mems", cpu.mems().clone());
        add("cpu", "cpu.shares", unsigned(cpu.shares()));
        add("cpu", "cpu.cfs_period_us", unsigned(cpu.period()));
        add("cpu", "cpu.cfs_quota_us", number(cpu.quota()));
        add("memory", "memory.limit_in_bytes", number(limit));
        add("memory", "memory.soft_limit_in_bytes", number(reservation));
        let tasks = resources.pids().as_ref().map(oci_spec::runtime::LinuxPids::limit);
        add("pids", "pids.max", tasks.map(|n| if n > 0 { n.to_string() } else { "max".into() }));
        Some(Self(all))
    }
}

fn set(directory: &Path, file: &str, value: &str) -> Result<(), Failure> {
    let path = directory.join(file);
    // One `write(2)`: each is an order of its own.
    let write = || fs::File::options().write(true).open(&path)?.write_all(value.as_bytes());
    write().attempt(|| format!("writing {value:?} to {}", path.display()))
}

fn remove(directory: &Path) -> Result<(), Failure> {
    let mut outcome = Ok(());
    for _ in 0..REMOVALS {
        outcome = match fs::remove_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        };
        if !outcome.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) {
            break;
        }
        let inside = fs::read_to_string(directory.join(PROCESSES)).unwrap_or_default();
        // A zero stands for a process of another pid namespace, and would be our own process group.
        for process in inside.lines().filter_map(|line| line.parse().ok()).filter(|number| *number > 0) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
        }
        thread::sleep(REMOVAL_PAUSE);
    }
    outcome.attempt(|| format!("removing {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxMemoryBuilder, LinuxPidsBuilder};

    use super::*;

    const MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /other/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn hierarchies_are_found_once_each_and_systemds_is_left_alone() {
        let Hierarchies(found) = Hierarchies::parse(MOUNTS).unwrap();
        let expected = [
            Hierarchy { mount: "/sys/fs/cgroup/cpu,cpuacct".into(), controllers: vec!["cpu", "cpuacct"] },
            Hierarchy { mount: "/sys/fs/cgroup/memory".into(), controllers: vec!["memory"] },
        ];
        assert_eq!(found, expected);
        assert!(Hierarchies::parse("24 1 0:2 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n").is_none());
        assert!(Hierarchies::parse("24 1 0:2 / / rw - ext4 /dev/vda rw\n").is_none());
    }

    #[test]
    fn paths_stay_inside() {
        let hierarchy = Hierarchy { mount: "/h".into(), controllers: vec!["pids"] };
        assert_eq!(hierarchy.directory(Path::new("/a/./b")).unwrap(), Path::new("/h/a/b"));
        assert_eq!(hierarchy.directory(Path::new("a")).unwrap(), Path::new("/h/a"));
        hierarchy.directory(Path::new("/a/../../b")).unwrap_err();
    }

    #[test]
    fn usual_limits_become_files_and_others_are_left_to_others() {
        let mut resources = LinuxResources::default();
        resources.set_devices(None);
        resources.set_memory(LinuxMemoryBuilder::default().limit(5).reservation(3).build().ok());
        resources.set_pids(LinuxPidsBuilder::default().limit(0).build().ok());
        let Limits(all) = Limits::of(&resources).unwrap();
        let all: Vec<_> = all.iter().map(|(_, file, value)| (*file, value.as_str())).collect();
        let expected =
            [("memory.limit_in_bytes", "5"), ("memory.soft_limit_in_bytes", "3"), ("pids.max", "max")];
        assert_eq!(all, expected);
        resources.set_memory(LinuxMemoryBuilder::default().limit(5).swap(6).build().ok());
        assert!(Limits::of(&resources).is_none());
        resources.set_memory(LinuxMemoryBuilder::default().limit(-1).build().ok());
        assert!(Limits::of(&resources).is_none());
    }
}
