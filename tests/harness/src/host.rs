//! Looking at the host: which processes, mounts and cgroups a container has, and that
//! nothing of them stays behind.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A process of the host as `/proc` shows it.
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub command_line: String,
    pub executable: PathBuf,
    pub state: char,
}

/// Every process that is not a zombie.
pub fn processes() -> BTreeMap<i32, Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    entries
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: i32| Some((pid, process(pid)?)))
        .filter(|(_, p)| p.state != 'Z')
        .collect()
}

fn process(pid: i32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after = &stat[stat.rfind(')')? + 2..];
    let mut fields = after.split(' ');
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let command_line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command_line = String::from_utf8_lossy(&command_line).trim_end_matches('\0').replace('\0', " ");
    let executable = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    Some(Process { pid, parent, command_line, executable, state })
}

/// The processes that run this binary, and all their descendants; and those of `also`.
pub fn family_of(binary: &Path, also: &[i32]) -> Vec<Process> {
    let all = processes();
    let mut chosen: Vec<i32> =
        all.values().filter(|p| p.executable == binary || also.contains(&p.pid)).map(|p| p.pid).collect();
    loop {
        let more: Vec<i32> = all
            .values()
            .filter(|p| chosen.contains(&p.parent) && !chosen.contains(&p.pid))
            .map(|p| p.pid)
            .collect();
        if more.is_empty() {
            break;
        }
        chosen.extend(more);
    }
    chosen.iter().filter_map(|pid| all.get(pid).cloned()).collect()
}

pub fn exists(pid: i32) -> bool {
    process(pid).is_some_and(|p| p.state != 'Z')
}

/// Sends SIGKILL to one process.
pub fn kill_hard(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// The mount points below a directory.
pub fn mounts_below(directory: &Path) -> Vec<String> {
    let prefix = directory.to_string_lossy().into_owned();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|l| l.split(' ').nth(1))
        .filter(|m| m.starts_with(&prefix))
        .map(str::to_owned)
        .collect()
}

/// Directories of any cgroup hierarchy whose path ends in this name, or contains it as one part.
pub fn cgroups_named(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut stack = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = stack.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                if entry.file_name().to_string_lossy().contains(name) {
                    found.push(entry.path());
                }
                stack.push(entry.path());
            }
        }
    }
    found
}

/// The value of a cgroup file of a container, in version 1 or version 2 spelling.
pub fn cgroup_value(name: &str, v1: &str, v2: &str) -> Option<String> {
    cgroups_named(name).iter().find_map(|directory| {
        let read = |file: &str| std::fs::read_to_string(directory.join(file)).ok();
        read(v1).or_else(|| read(v2)).map(|v| v.trim().to_owned())
    })
}
