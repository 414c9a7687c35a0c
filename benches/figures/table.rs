//! Printing: machine and versions, one row per operation, memory, and the goals.

use crate::measure::Figures;
use crate::runtimes::{Runtime, kernel};
use std::fmt::Write;

/// Rows in the order a reader looks for them: key in the figures, what it is called.
const ROWS: [(&str, &str); 17] = [
    ("getpid", "`getpid`"),
    ("read_1_byte", "`read` of 1 byte, `/dev/zero`"),
    ("write_1_byte", "`write` of 1 byte, `/dev/null`"),
    ("stat", "`stat`"),
    ("open_close", "`open` + `close`"),
    ("pipe_ping_pong", "pipe ping-pong"),
    ("futex_ping_pong", "futex ping-pong"),
    ("fork_wait", "`fork` + `wait`"),
    ("vfork_exec", "`vfork` + `exec` + `wait`"),
    ("fork_exec", "`fork` + `exec` + `wait`"),
    ("thread_create_join", "thread create + join"),
    ("mmap_touch_munmap", "`mmap` + touch + `munmap`"),
    ("page_touch", "touch of a new page"),
    ("read_4_kib", "file `read`, 4 KiB"),
    ("write_4_kib", "file `write`, 4 KiB"),
    ("read_1_mib", "file `read`, 1 MiB"),
    ("write_1_mib", "file `write`, 1 MiB"),
];

/// Prints everything; true if no goal is missed.
pub fn print(runtimes: &[Runtime], all: &[Figures]) -> bool {
    let mut text = String::new();
    let _ = head(&mut text, runtimes);
    let _ = operations(&mut text, runtimes, all);
    let _ = memory(&mut text, runtimes, all);
    let met = goals(&mut text, runtimes, all).unwrap_or(false);
    for (runtime, figures) in runtimes.iter().zip(all) {
        for failure in &figures.failures {
            let _ = writeln!(text, "\nFAILED {}: {failure}", runtime.name);
        }
    }
    println!("{text}");
    met && all.iter().all(|f| f.failures.is_empty())
}

fn head(text: &mut String, runtimes: &[Runtime]) -> std::fmt::Result {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name\t: ")).unwrap_or("unknown CPU");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = meminfo.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    writeln!(text, "{model}, {cores} cores, {} GiB, Linux {}.", kib >> 20, kernel())?;
    for runtime in runtimes.iter().filter(|r| !r.is_native()) {
        writeln!(text, "{}.", runtime.version())?;
    }
    writeln!(text)
}

pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

fn operations(text: &mut String, runtimes: &[Runtime], all: &[Figures]) -> std::fmt::Result {
    write!(text, "| median |")?;
    runtimes.iter().try_for_each(|r| write!(text, " {} |", r.name))?;
    writeln!(text, "\n| --- |{}", " ---: |".repeat(runtimes.len()))?;
    let native = runtimes.iter().position(Runtime::is_native);
    let mut row = |title: &str, values: Vec<Option<f64>>| -> std::fmt::Result {
        write!(text, "| {title} |")?;
        for (i, value) in values.iter().enumerate() {
            let base = native.filter(|n| *n != i).and_then(|n| values[n]);
            write!(text, " {} |", cell(*value, base))?;
        }
        writeln!(text)
    };
    row("start-up of `/bin/true`", all.iter().map(|f| median(&f.starts)).collect())?;
    for (key, title) in ROWS {
        row(title, all.iter().map(|f| f.operations.get(key).and_then(|v| median(v))).collect())?;
    }
    writeln!(text)
}

/// `12.3 µs (4.5×)`
fn cell(value: Option<f64>, native: Option<f64>) -> String {
    let Some(value) = value else { return "–".into() };
    let ratio =
        native.map(|n| format!(" ({:.*}×)", usize::from(value / n < 10.0), value / n)).unwrap_or_default();
    format!("{}{ratio}", duration(value))
}

fn duration(ns: f64) -> String {
    let (value, unit) = match ns {
        n if n < 1e3 => (n, "ns"),
        n if n < 1e6 => (n / 1e3, "µs"),
        n => (n / 1e6, "ms"),
    };
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$} {unit}")
}

fn memory(text: &mut String, runtimes: &[Runtime], all: &[Figures]) -> std::fmt::Result {
    writeln!(
        text,
        "| PSS | idle, in all | by process | sentry with 10,000 blocked threads |\n| --- | ---: | --- | ---: |"
    )?;
    for (runtime, figures) in runtimes.iter().zip(all).filter(|(r, _)| !r.is_native()) {
        let parts: Vec<String> = figures.idle_kib.iter().map(|(n, k)| format!("{n} {}", mib(*k))).collect();
        let blocked = figures.blocked_kib.map_or("–".into(), |k| format!("+ {}", mib(k)));
        writeln!(text, "| {} | {} | {} | {blocked} |", runtime.name, mib(idle(figures)), parts.join(", "))?;
    }
    writeln!(text)
}

fn idle(figures: &Figures) -> u64 {
    figures.idle_kib.iter().map(|(_, k)| k).sum()
}

fn mib(kib: u64) -> String {
    format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024)
}

/// One line per goal for the default platform.
fn goals(text: &mut String, runtimes: &[Runtime], all: &[Figures]) -> Result<bool, std::fmt::Error> {
    let of = |name: &str| runtimes.iter().position(|r| r.name == name).map(|i| &all[i]);
    let Some(ours) = of("runsc-seccomp") else { return Ok(true) };
    let value = |figures: Option<&Figures>, key: &str| {
        figures.and_then(|f| f.operations.get(key)).and_then(|v| median(v))
    };
    let ratio = |key: &str| value(Some(ours), key).zip(value(of("native"), key)).map(|(a, b)| a / b);
    let start = median(&ours.starts).zip(of("crun").and_then(|f| median(&f.starts))).map(|(a, b)| a / b);
    let memory = |kib: Option<u64>| kib.and_then(|k| u32::try_from(k).ok()).map(|k| f64::from(k) / 1024.0);
    let slowest = ["getpid", "read_1_byte", "write_1_byte"]
        .iter()
        .filter_map(|k| value(Some(ours), k))
        .reduce(f64::max);
    let idle_kib = (!ours.idle_kib.is_empty()).then(|| idle(ours));
    let goals = [
        ("start-up, × crun", start, 2.0),
        ("idle sandbox, MiB", memory(idle_kib), 10.0),
        ("a simple system call, µs", slowest.map(|ns| ns / 1e3), 10.0),
        ("`fork` + `wait`, × native", ratio("fork_wait"), 3.0),
        ("touch of a new page, × native", ratio("page_touch"), 1.1),
        ("10,000 blocked threads in the sentry, MiB", memory(ours.blocked_kib), 64.0),
    ];
    writeln!(text, "| goal | at most | measured | |\n| --- | ---: | ---: | --- |")?;
    let mut all_met = true;
    for (what, limit, measured) in goals.map(|(what, measured, limit)| (what, limit, measured)) {
        let met = measured.is_some_and(|m| m <= limit);
        all_met &= met;
        let measured = measured.map_or("–".into(), |m| format!("{m:.2}"));
        writeln!(text, "| {what} | {limit} | {measured} | {} |", if met { "met" } else { "MISSED" })?;
    }
    Ok(all_met)
}
