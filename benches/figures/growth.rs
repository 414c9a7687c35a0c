//! Measuring how costs grow: programs of `guest/growth.c` with few and many of something, and hundreds of
//! sandboxes at once.

use crate::Bench;
use crate::columns::{Cgroups, Column, Container};
use crate::commands::{self, ns};
use crate::growth_rows::{self, FEW_FILES, GrowthRow, MANY_FILES};
use crate::memory::{available_mib, bytes, pids, shares, sleeper};
use crate::operations;
use crate::rooms::Rooms;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(90);
const ROUNDS: usize = 3;
/// Starts that are timed before and beside the many.
const STARTS: usize = 15;
/// The machine keeps this much memory, whatever sandboxes want.
const KEEP_MIB: u64 = 3072;
/// How many sandboxes are few.
const FEW: usize = 11;
const SETTLE: Duration = Duration::from_secs(2);

pub fn measure(bench: &mut Bench) {
    let rows = growth_rows::wanted(&bench.request);
    if rows.is_empty() {
        return;
    }
    let runs = growth_rows::runs(&rows);
    if runs.iter().any(|r| r.arguments[0] == "directory")
        && let Err(why) = make_directories(&bench.rooms)
    {
        eprintln!("figures: making directories: {why}"); // the rows fail then
    }
    for round in 0..ROUNDS.min(bench.request.rounds) {
        eprintln!("how it grows, round {}", round + 1);
        for run in &runs {
            for index in 0..bench.columns.len() {
                program(bench, run, index, &rows);
            }
        }
    }
    if rows.iter().any(|r| r.few.key == "start_alone" || r.few.key == "pss_few") {
        for index in 0..bench.columns.len() {
            many_sandboxes(bench, index);
        }
    }
}

/// The fallback platform is left out, because nothing here is promised of it; and runc, because crun says as much.
pub fn is_measured(column: &Column) -> bool {
    column.name != "runsc-ptrace" && column.name != "runc"
}

fn program(bench: &mut Bench, run: &growth_rows::Run, index: usize, rows: &[GrowthRow]) {
    let column = &bench.columns[index];
    let key = |name: &str| format!("{}{name}", run.prefix);
    // A run that fails says nothing about any of its figures.
    let keys: Vec<String> = rows
        .iter()
        .flat_map(|r| [&r.few.key, &r.many.key])
        .filter(|k| growth_rows::run_for(k).as_ref() == Some(run))
        .cloned()
        .collect();
    if !is_measured(column) || keys.iter().any(|k| bench.samples.has_failed(k, index)) {
        return;
    }
    let mut arguments = vec!["/bench/growth"];
    arguments.extend(run.arguments.iter().map(String::as_str));
    let profiles = bench.request.profiles.as_deref().filter(|_| column.is_ours());
    let done = operations::figures(column, &bench.rooms.small, &arguments, LIMIT, profiles);
    match done {
        Ok(figures) => {
            figures.into_iter().for_each(|(name, value)| bench.samples.add(&key(&name), index, value));
        }
        Err(why) => keys.iter().for_each(|k| bench.samples.fail(k, index, &column.name, &why)),
    }
}

/// The directories of the root and of the bind mount, made on the host: only using them is measured.
fn make_directories(rooms: &Rooms) -> Result<(), String> {
    let parents = [rooms.small.root.join("growth"), rooms.bind.clone()];
    for (parent, files) in parents.iter().flat_map(|p| [(p, FEW_FILES), (p, MANY_FILES)]) {
        let directory = parent.join(format!("files-{files}"));
        make_files(&directory, files).map_err(|e| format!("{}: {e}", directory.display()))?;
    }
    Ok(())
}

fn make_files(directory: &Path, files: usize) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    (0..files).try_for_each(|i| File::create(directory.join(format!("file-{i:08}"))).map(drop))
}

fn many_sandboxes(bench: &mut Bench, index: usize) {
    let column = &bench.columns[index];
    if column.is_native() || !is_measured(column) {
        return;
    }
    eprintln!("{} sandboxes at once: {}", bench.request.sandboxes, column.name);
    match beside_each_other(column, &bench.rooms, bench.request.sandboxes) {
        Ok(many) => {
            many.alone.iter().for_each(|t| bench.samples.add("start_alone", index, ns(*t)));
            many.beside.iter().for_each(|t| bench.samples.add("start_beside", index, ns(*t)));
            bench.samples.add("pss_few", index, many.few_bytes);
            bench.samples.add("pss_many", index, many.many_bytes);
            bench.samples.add("pss_all", index, many.all_bytes);
            bench.samples.add("host_all", index, many.host_bytes);
        }
        Err(why) => {
            for key in ["start_alone", "start_beside", "pss_few", "pss_many"] {
                bench.samples.fail(key, index, &column.name, &why);
            }
        }
    }
}

/// What many sandboxes cost.
struct Many {
    /// Starts of `/bin/true` with no other sandbox, and with all but one of the many.
    alone: Vec<Duration>,
    beside: Vec<Duration>,
    /// What each further one takes, of few and of many; and all together.
    few_bytes: f64,
    many_bytes: f64,
    all_bytes: f64,
    /// What the machine has less: with the kernel's share (page tables, stacks, namespaces), which no set size counts.
    host_bytes: f64,
}

fn beside_each_other<'a>(column: &'a Column, rooms: &Rooms, number: usize) -> Result<Many, String> {
    if number <= FEW {
        return Err(format!("--sandboxes must be more than {FEW}"));
    }
    let room = &rooms.small;
    let start = || commands::start(column, room, Cgroups::Managed);
    let starts = || (0..STARTS).map(|_| start()).collect::<Result<Vec<_>, _>>();
    let alone = starts()?;
    let before = pids();
    let available = available_mib();
    let total = || -> f64 {
        std::thread::sleep(SETTLE);
        bytes(shares(&before).iter().map(|p| p.kib).sum())
    };
    // Dropped, and so deleted, whatever fails.
    let mut all: Vec<Container<'a>> = Vec::new();
    let more = |all: &mut Vec<Container<'a>>, until: usize| -> Result<(), String> {
        while all.len() < until {
            if available_mib() < KEEP_MIB {
                return Err(format!("less than {KEEP_MIB} MiB are left beside {} sandboxes", all.len()));
            }
            all.push(sleeper(column, room)?.0);
        }
        Ok(())
    };
    more(&mut all, 1)?;
    let one = total();
    more(&mut all, FEW)?;
    let few = total();
    more(&mut all, number - 1)?;
    let beside = starts()?;
    more(&mut all, number)?;
    let many = total();
    let host_bytes = bytes(available.saturating_sub(available_mib()) << 10);
    if one <= 0.0 || few < one || many < few {
        return Err(format!("{one} bytes for one sandbox, {few} for {FEW}, {many} for {number}"));
    }
    Ok(Many {
        alone,
        beside,
        few_bytes: (few - one) / count(FEW - 1),
        many_bytes: (many - one) / count(number - 1),
        all_bytes: many,
        host_bytes,
    })
}

fn count(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::MAX, f64::from)
}
