//! Memory: proportional set sizes, so that a page that several processes share counts once, of all
//! processes that a container adds. The benchmark has a pid namespace of its own, so they are the ones
//! that were not there before.

use crate::Bench;
use crate::columns::{Cgroups, Column, Container};
use crate::room::Room;
use crate::rows;
use harness::{command, host};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
/// Start-up's last allocations and releases happen in this time.
const SETTLE: Duration = Duration::from_secs(1);
/// How many sandboxes run beside the first, to tell what each further one takes.
const FURTHER: u32 = 10;
const BLOCKED_THREADS: &str = "10000";

/// A process with its role and its share of memory.
#[derive(Debug)]
pub struct Share {
    pub role: String,
    pub kib: u64,
}

pub fn measure(bench: &mut Bench) {
    let wants = |key: &str| rows::is_wanted(&bench.request, key);
    let idle_keys: Vec<&str> =
        ["idle", "idle_further", "idle_parts"].into_iter().filter(|k| wants(k)).collect();
    let blocked = wants("blocked_threads");
    for index in (0..bench.columns.len()).filter(|i| !bench.columns[*i].is_native()) {
        let column = &bench.columns[index];
        if !idle_keys.is_empty() {
            eprintln!("memory of idle containers: {}", column.name);
            match idle(column, &bench.rooms.small) {
                Ok((parts, further_kib)) => {
                    let total: u64 = parts.iter().map(|p| p.kib).sum();
                    bench.samples.add("idle", index, bytes(total));
                    bench.samples.add("idle_further", index, further_kib * 1024.0);
                    let parts = parts.into_iter().map(|p| (p.role, p.kib)).collect();
                    bench.samples.idle_kib.insert(index, parts);
                }
                Err(why) => idle_keys.iter().for_each(|k| bench.samples.fail(k, index, &column.name, &why)),
            }
        }
        if blocked && column.is_sandbox() {
            eprintln!("memory of blocked threads: {}", column.name);
            match blocked_threads(column, &bench.rooms.small) {
                Ok(kib) => bench.samples.add("blocked_threads", index, bytes(kib)),
                Err(why) => bench.samples.fail("blocked_threads", index, &column.name, &why),
            }
        }
    }
}

/// KiB as bytes; sums of memory are far below what a float holds exactly.
pub fn bytes(kib: u64) -> f64 {
    u32::try_from(kib).map_or(f64::MAX, |kib| f64::from(kib) * 1024.0)
}

/// Starts a container that sleeps.
pub fn sleeper<'a>(column: &'a Column, room: &Room) -> Result<(Container<'a>, Duration), String> {
    let container = column.container(room, &["/bin/sleep", "10000"], Cgroups::Managed)?;
    let took = container.start_detached(LIMIT)?;
    Ok((container, took))
}

/// What one idle container takes by process, and what each further one adds.
fn idle(column: &Column, room: &Room) -> Result<(Vec<Share>, f64), String> {
    let before = pids();
    let first = sleeper(column, room)?;
    std::thread::sleep(SETTLE);
    let parts = shares(&before);
    let mut others = Vec::new();
    for _ in 0..FURTHER {
        others.push(sleeper(column, room)?);
    }
    std::thread::sleep(SETTLE);
    let one: u64 = parts.iter().map(|p| p.kib).sum();
    let all: u64 = shares(&before).iter().map(|p| p.kib).sum();
    drop((first, others));
    if one == 0 || all < one {
        return Err(format!("one container takes {one} KiB, {} take {all} KiB", FURTHER + 1));
    }
    Ok((parts, bytes(all - one) / 1024.0 / f64::from(FURTHER)))
}

/// KiB that the sentry has more with 10,000 blocked threads than an idle one.
fn blocked_threads(column: &Column, room: &Room) -> Result<u64, String> {
    let sentry =
        |before: &[i32]| -> u64 { shares(before).iter().filter(|p| p.role == "sentry").map(|p| p.kib).sum() };
    let before = pids();
    let (idle, _) = sleeper(column, room)?;
    std::thread::sleep(SETTLE);
    let without = sentry(&before);
    drop(idle);
    let before = pids();
    let program = ["/bench/operations", "--threads", BLOCKED_THREADS];
    let container = column.container(room, &program, Cgroups::LeftAlone)?;
    container.start_with_output(LIMIT)?;
    command::eventually("10,000 threads block", LIMIT, || container.output_so_far().contains("ready"))?;
    std::thread::sleep(SETTLE);
    let with = sentry(&before);
    if without == 0 || with == 0 {
        return Err("found no process of the sentry".into());
    }
    Ok(with.saturating_sub(without))
}

/// Every process of our namespace.
pub fn pids() -> Vec<i32> {
    host::processes().into_keys().collect()
}

/// The processes that were not there before, with their memory.
pub fn shares(before: &[i32]) -> Vec<Share> {
    let all = host::processes().into_values().filter(|p| !before.contains(&p.pid));
    all.filter_map(|p| Some(Share { role: role(&p), kib: pss_kib(p.pid)? })).collect()
}

/// What a process of a container is there for, by the hidden command it was started with.
fn role(process: &host::Process) -> String {
    let words: Vec<&str> = process.command_line.split(' ').collect();
    // An application may be given any words; the roles of ours and gVisor's come from `runsc ... ROLE ...`.
    let is_runtime = process.executable.file_name().is_some_and(|n| n.to_string_lossy().contains("runsc"))
        || words.first().is_some_and(|w| w.contains("runsc"));
    for (word, name) in [("boot", "sentry"), ("gofer", "gofer")] {
        if is_runtime && words.contains(&word) {
            return name.into();
        }
    }
    "application".into()
}

/// None if the process has gone, or never had memory of its own (a zombie).
fn pss_kib(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What the machine still has, in MiB.
pub fn available_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let kib: u64 = line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    kib >> 10
}
