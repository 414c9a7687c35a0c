//! `cgroup2` (`man 7 cgroups`): the container's own control group as it sees it, with the limits it was given. Read-only:
//! the host's groups do the limiting.

use std::fmt::Write;
use std::sync::Arc;

use abi::errno::SysResult;

use crate::fs::generated::{Body, Entry, Generated, Reader, Table, text};
use crate::fs::proc::Facts;
use crate::fs::proc::numbers::{mask_of, number_list};

/// `CGROUP2_SUPER_MAGIC`
const MAGIC: u64 = 0x6367_7270;
/// Period of `cpu.max`, in microseconds: Linux's default.
const PERIOD_US: u64 = 100_000;

/// The file system.
pub fn new(facts: &Arc<Facts>) -> Arc<Generated> {
    let table = Table::new(Arc::clone(facts), &FILES);
    Generated::new("cgroup2", MAGIC, 0o555, |_| Body::Directory(Box::new(table)))
}

static FILES: [Entry<Arc<Facts>>; 30] = [
    text("cgroup.controllers", 0o444, |_, _| shown("cpuset cpu memory pids")),
    text("cgroup.events", 0o444, |_, _| shown("populated 1\nfrozen 0")),
    text("cgroup.freeze", 0o444, |_, _| shown("0")),
    text("cgroup.max.depth", 0o444, |_, _| shown("max")),
    text("cgroup.max.descendants", 0o444, |_, _| shown("max")),
    text("cgroup.procs", 0o444, processes),
    text("cgroup.stat", 0o444, |_, _| shown("nr_descendants 0\nnr_dying_descendants 0")),
    text("cgroup.subtree_control", 0o444, |_, _| shown("")),
    text("cgroup.threads", 0o444, threads),
    text("cgroup.type", 0o444, |_, _| shown("domain")),
    text("cpu.max", 0o444, |facts, _| shown(&processor_limit(facts.limits.cpu_millis))),
    text("cpu.stat", 0o444, processor_use),
    text("cpu.weight", 0o444, |_, _| shown("100")),
    text("cpuset.cpus", 0o444, |_, _| shown("")),
    text("cpuset.cpus.effective", 0o444, |facts, _| {
        shown(&number_list(mask_of(facts.machine.processor_count())))
    }),
    text("cpuset.mems", 0o444, |_, _| shown("")),
    text("cpuset.mems.effective", 0o444, |_, _| shown("0")),
    text("memory.current", 0o444, |facts, _| shown(&facts.used_memory().to_string())),
    text("memory.events", 0o444, |_, _| shown("low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0")),
    text("memory.high", 0o444, |_, _| shown("max")),
    text("memory.low", 0o444, |_, _| shown("0")),
    text("memory.max", 0o444, |facts, _| shown(&or_max(facts.limits.memory_bytes))),
    text("memory.min", 0o444, |_, _| shown("0")),
    text("memory.stat", 0o444, memory_use),
    text("memory.swap.current", 0o444, |_, _| shown("0")),
    text("memory.swap.events", 0o444, |_, _| shown("high 0\nmax 0\nfail 0")),
    text("memory.swap.max", 0o444, |_, _| shown("0")),
    text("pids.current", 0o444, |facts, _| shown(&facts.kernel.processes.tasks().len().to_string())),
    text("pids.events", 0o444, |_, _| shown("max 0")),
    text("pids.max", 0o444, |facts, _| shown(&or_max(facts.limits.tasks))),
];

fn shown(value: &str) -> SysResult<Vec<u8>> {
    Ok(if value.is_empty() { b"\n".to_vec() } else { format!("{value}\n").into_bytes() })
}

fn or_max(limit: Option<u64>) -> String {
    limit.map_or_else(|| String::from("max"), |limit| limit.to_string())
}

/// `cpu.max`: microseconds of each period.
fn processor_limit(millis: Option<u64>) -> String {
    let quota = millis.map(|millis| millis.saturating_mul(PERIOD_US) / 1000);
    format!("{} {PERIOD_US}", or_max(quota))
}

fn processes(facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    let groups = facts.kernel.processes.groups();
    let lines = groups.iter().filter(|group| group.zombie_status().is_none());
    Ok(lines.map(|group| format!("{}\n", group.pid)).collect::<String>().into_bytes())
}

fn threads(facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    let tasks = facts.kernel.processes.tasks();
    Ok(tasks.iter().map(|task| format!("{}\n", task.tid())).collect::<String>().into_bytes())
}

fn processor_use(facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    let used = facts.used_times();
    let (user, system) = (used.user_ns / 1000, used.system_ns / 1000);
    shown(&format!(
        "usage_usec {}\nuser_usec {user}\nsystem_usec {system}\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0",
        user + system
    ))
}

/// `memory.stat`: all is counted as the application's own.
fn memory_use(facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    let used = facts.used_memory();
    let mut text = format!("anon {used}\n");
    let rest = [
        "file",
        "kernel",
        "kernel_stack",
        "pagetables",
        "sock",
        "shmem",
        "file_mapped",
        "file_dirty",
        "file_writeback",
        "swapcached",
        "inactive_anon",
    ];
    for name in rest {
        let _ = writeln!(text, "{name} 0");
    }
    let _ = writeln!(text, "active_anon {used}\ninactive_file 0\nactive_file 0\nunevictable 0\nslab 0");
    let _ = writeln!(text, "pgfault 0\npgmajfault 0");
    Ok(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_controllers_do() {
        assert_eq!(processor_limit(Some(1500)), "150000 100000");
        assert_eq!(processor_limit(None), "max 100000");
        assert_eq!(or_max(None), "max");
        assert_eq!(or_max(Some(64 << 20)), "67108864");
    }
}
