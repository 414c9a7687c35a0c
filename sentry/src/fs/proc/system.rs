//! Files about the whole machine (`man 5 proc_stat`, `proc_meminfo`, `proc_uptime`, …).

use std::fmt::Write;
use std::sync::Arc;

use abi::errno::SysResult;

use super::Facts;
use super::process::memory::resident_estimate;
use crate::fs::generated::Reader;
use crate::task::{CpuTimes, TaskState};
use crate::time::{Instant, SECOND_NS, clock_ns, realtime_ns};
use crate::uts;

/// Clock ticks (`USER_HZ`) are this long.
const TICK_NS: u64 = 10_000_000;

/// Time in clock ticks.
pub(super) const fn ticks(nanoseconds: u64) -> u64 {
    nanoseconds / TICK_NS
}

/// Nanoseconds since the machine started.
pub(super) fn uptime_ns() -> u64 {
    clock_ns(nix::time::ClockId::CLOCK_BOOTTIME)
}

/// When the machine started, in seconds since the epoch.
fn boot_time() -> u64 {
    realtime_ns().saturating_sub(uptime_ns()) / SECOND_NS
}

/// A point on the monotonic clock as ticks since the machine started (`starttime`).
pub(super) fn ticks_since_boot(at: Instant) -> u64 {
    let ago = Instant::now().0.saturating_sub(at.0);
    ticks(uptime_ns().saturating_sub(ago))
}

impl Facts {
    /// Processor time of everything that runs or ran and was waited for.
    pub(in crate::fs) fn used_times(&self) -> CpuTimes {
        let groups = self.kernel.processes.groups();
        groups.iter().fold(CpuTimes::default(), |sum, group| {
            let children = *group.child_times.lock();
            sum.plus(group.cpu_times()).plus(children)
        })
    }

    /// Tasks that run now.
    fn running(&self) -> usize {
        let tasks = self.kernel.processes.tasks();
        tasks.iter().filter(|task| task.state() == TaskState::Running).count()
    }

    /// Bytes that applications use, at most.
    pub(in crate::fs) fn used_memory(&self) -> u64 {
        let groups = self.kernel.processes.groups();
        let leaders = groups.iter().filter_map(|group| group.leader());
        leaders.map(|task| resident_estimate(&task.memory()).total()).sum()
    }

    /// Bytes that are free, at least.
    pub(super) fn free_memory(&self) -> u64 {
        let total = self.total_memory();
        total.saturating_sub(self.used_memory()).min(self.machine.available_memory)
    }
}

/// `/proc/cpuinfo`
pub(super) fn cpuinfo(facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    let mut text = String::new();
    for (number, processor) in facts.machine.processors.iter().enumerate() {
        let _ = write!(text, "processor\t: {number}\n{processor}\n");
    }
    Ok(text.into_bytes())
}

/// `/proc/meminfo`: what the sandbox may use, and what is surely free of it.
pub(super) fn meminfo(facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    let (total, free) = (facts.total_memory() / 1024, facts.free_memory() / 1024);
    let used = total - free;
    let lines = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", used),
        ("Inactive", 0),
        ("Active(anon)", used),
        ("Inactive(anon)", 0),
        ("Active(file)", 0),
        ("Inactive(file)", 0),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", used),
        ("Mapped", 0),
        ("Shmem", 0),
        ("KReclaimable", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("KernelStack", 0),
        ("PageTables", 0),
        ("NFS_Unstable", 0),
        ("Bounce", 0),
        ("WritebackTmp", 0),
        ("CommitLimit", total),
        ("Committed_AS", used),
        ("VmallocTotal", 34_359_738_367),
        ("VmallocUsed", 0),
        ("VmallocChunk", 0),
        ("Percpu", 0),
    ];
    let mut text = String::new();
    for (name, kib) in lines {
        let _ = writeln!(text, "{:<16}{kib:>8} kB", format!("{name}:"));
    }
    for name in ["HugePages_Total", "HugePages_Free", "HugePages_Rsvd", "HugePages_Surp"] {
        let _ = writeln!(text, "{:<16}{:>8}", format!("{name}:"), 0);
    }
    let _ = write!(text, "Hugepagesize:       2048 kB\nHugetlb:               0 kB\n");
    Ok(text.into_bytes())
}

/// `/proc/stat`
pub(super) fn stat(facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    let used = facts.used_times();
    let processors = facts.machine.processor_count() as u64;
    let up = ticks(uptime_ns());
    let (user, system) = (ticks(used.user_ns), ticks(used.system_ns));
    let idle = (up * processors).saturating_sub(user + system);
    let mut text = String::new();
    let _ = writeln!(text, "cpu  {user} 0 {system} {idle} 0 0 0 0 0 0");
    for number in 0..processors {
        // Nobody counts by processor: each gets an equal part.
        let (user, system) = (user / processors, system / processors);
        let idle = up.saturating_sub(user + system);
        let _ = writeln!(text, "cpu{number} {user} 0 {system} {idle} 0 0 0 0 0 0");
    }
    let (created, _) = facts.kernel.processes.statistics();
    let _ = write!(
        text,
        "intr 0\nctxt 0\nbtime {}\nprocesses {created}\nprocs_running {}\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n",
        boot_time(),
        facts.running().max(1),
    );
    Ok(text.into_bytes())
}

/// `/proc/uptime`
pub(super) fn uptime(facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    let up = uptime_ns();
    let used = facts.used_times();
    let idle = (up * facts.machine.processor_count() as u64).saturating_sub(used.user_ns + used.system_ns);
    let seconds = |nanoseconds: u64| {
        let hundredths = nanoseconds / TICK_NS;
        format!("{}.{:02}", hundredths / 100, hundredths % 100)
    };
    Ok(format!("{} {}\n", seconds(up), seconds(idle)).into_bytes())
}

/// `/proc/loadavg`
pub(super) fn loadavg(facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    let used = facts.used_times();
    let began = facts.kernel.processes.group(1).map_or_else(Instant::now, |init| init.started);
    let [one, five, fifteen] = facts.load.update(began, Instant::now(), used.user_ns + used.system_ns);
    let tasks = facts.kernel.processes.tasks().len();
    let (_, last) = facts.kernel.processes.statistics();
    let running = facts.running().max(1);
    Ok(format!("{one:.2} {five:.2} {fifteen:.2} {running}/{tasks} {last}\n").into_bytes())
}

/// `/proc/version`
pub(super) fn version(_facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    let (name, release, version) = (uts::SYSTEM_NAME, uts::RELEASE, uts::VERSION);
    Ok(format!("{name} version {release} (runsc@sandbox) (rustc) {version}\n").into_bytes())
}

/// `/proc/cmdline`: there is no boot loader that could have given one.
pub(super) fn cmdline(_facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    Ok(b"\n".to_vec())
}

/// `/proc/filesystems`
pub(super) fn filesystems(facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    let types = facts.kernel.vfs.file_system_types();
    let line = |(name, needs_device): &(&str, bool)| {
        format!("{}\t{name}\n", if *needs_device { "" } else { "nodev" })
    };
    Ok(types.iter().map(line).collect::<String>().into_bytes())
}
