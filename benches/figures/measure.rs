//! Measuring: rounds over all runtimes in turn, so that a change of the machine's mood falls on
//! all of them alike.

use crate::runtimes::Runtime;
use harness::bundle::Bundle;
use harness::guest_programs::{self, Linking};
use harness::{command, host};
use serde_json::json;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(180);
/// Start-ups per round: they are short and vary.
const STARTS_PER_ROUND: usize = 5;
const BLOCKED_THREADS: usize = 10_000;

/// Figures of one runtime.
#[derive(Debug, Default)]
pub struct Figures {
    /// Operation to nanoseconds, one value per round.
    pub operations: BTreeMap<String, Vec<f64>>,
    /// Nanoseconds from the start of `run` of `/bin/true` to its end.
    pub starts: Vec<f64>,
    /// Process to KiB, in an idle container; empty natively.
    pub idle_kib: Vec<(String, u64)>,
    /// KiB that the sentry has more with 10,000 blocked threads.
    pub blocked_kib: Option<u64>,
    pub failures: Vec<String>,
}

pub fn all(runtimes: &[Runtime], rounds: usize) -> Result<Vec<Figures>, String> {
    let sources = harness::repository().join("benches/guest");
    let program = guest_programs::build(&sources, "operations", Linking::Static)?;
    let native = program.to_string_lossy().into_owned();
    let operations = bundle(&["/bench/operations"])?;
    let empty = bundle(&["/bin/true"])?;
    let mut all: Vec<Figures> = runtimes.iter().map(|_| Figures::default()).collect();
    for round in 0..rounds {
        for (runtime, figures) in runtimes.iter().zip(&mut all) {
            eprintln!("round {} of {rounds}: {}", round + 1, runtime.name);
            let output = command::run(&mut runtime.run(&operations, &id(runtime, "ops"), &[&native]), LIMIT);
            record_operations(&output.stdout, figures);
            if !output.success() {
                figures.failures.push(format!("operations: {}", output.summary()));
            }
            for _ in 0..STARTS_PER_ROUND {
                start(runtime, &empty, figures);
            }
        }
    }
    for (runtime, figures) in runtimes.iter().zip(&mut all).filter(|(r, _)| !r.is_native()) {
        eprintln!("memory: {}", runtime.name);
        if let Err(why) = memory(runtime, figures) {
            figures.failures.push(why);
        }
    }
    Ok(all)
}

/// A bundle with the benchmark's programs mounted on `/bench`.
fn bundle(arguments: &[&str]) -> Result<Bundle, String> {
    let programs = guest_programs::directory().join("static");
    let mount =
        json!({"destination": "/bench", "type": "bind", "source": programs, "options": ["bind", "ro"]});
    Bundle::new(arguments)?.push("/mounts", mount).write()
}

fn id(runtime: &Runtime, what: &str) -> String {
    format!("bench-{}-{what}-{}", runtime.name, std::process::id())
}

fn record_operations(output: &str, figures: &mut Figures) {
    for (name, value) in output.lines().filter_map(|l| l.split_once(' ')) {
        if let Ok(value) = value.parse() {
            figures.operations.entry(name.into()).or_default().push(value);
        }
    }
}

fn start(runtime: &Runtime, bundle: &Bundle, figures: &mut Figures) {
    let mut command = runtime.run(bundle, &id(runtime, "true"), &["/bin/true"]);
    command.stdin(std::process::Stdio::null());
    let begin = Instant::now();
    match command.status() {
        Ok(status) if status.success() => figures.starts.push(begin.elapsed().as_secs_f64() * 1e9),
        other => figures.failures.push(format!("start-up: {other:?}")),
    }
}

/// A container that is deleted when this goes.
struct Detached<'a> {
    runtime: &'a Runtime,
    id: String,
    bundle: Bundle,
}

impl<'a> Detached<'a> {
    fn start(runtime: &'a Runtime, what: &str, bundle: Bundle) -> Result<Detached<'a>, String> {
        let detached = Detached { runtime, id: id(runtime, what), bundle };
        let mut sh = Command::new("sh");
        sh.args(["-c", "exec \"$@\" </dev/null >\"$0\" 2>&1"]).arg(detached.bundle.path().join("output"));
        let run = runtime.command(&["run", "--detach", "--bundle"]);
        sh.arg(run.get_program()).args(run.get_args()).arg(detached.bundle.path()).arg(&detached.id);
        command::run(&mut sh, LIMIT)
            .ok("run --detach")
            .map_err(|why| format!("{why} {}", detached.output()))?;
        Ok(detached)
    }

    fn output(&self) -> String {
        std::fs::read_to_string(self.bundle.path().join("output")).unwrap_or_default()
    }

    fn pid(&self) -> i32 {
        let state = command::run(&mut self.runtime.command(&["state", &self.id]), LIMIT).stdout;
        let value: serde_json::Value = serde_json::from_str(&state).unwrap_or_default();
        value["pid"].as_i64().and_then(|p| i32::try_from(p).ok()).unwrap_or(0)
    }

    /// Name and PSS of each process of the container.
    fn processes(&self) -> Vec<(String, u64)> {
        let binary = self.runtime.binary().unwrap_or(std::path::Path::new(""));
        let pid = [self.pid()];
        host::family_of(binary, &pid).iter().map(|p| (role(p, binary), pss_kib(p.pid))).collect()
    }
}

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        command::run(&mut self.runtime.command(&["delete", "--force", &self.id]), LIMIT);
    }
}

/// What a process of a sandbox is there for.
fn role(process: &host::Process, binary: &std::path::Path) -> String {
    let words: Vec<&str> = process.command_line.split(' ').collect();
    if process.executable == binary {
        for (word, name) in [("boot", "sentry"), ("gofer", "gofer")] {
            if words.contains(&word) {
                return name.into();
            }
        }
    }
    "application".into()
}

fn pss_kib(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("Pss:"));
    line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn memory(runtime: &Runtime, figures: &mut Figures) -> Result<(), String> {
    let idle = Detached::start(runtime, "idle", bundle(&["/bin/sleep", "1000"])?)?;
    std::thread::sleep(Duration::from_secs(1)); // start-up's last allocations
    figures.idle_kib = idle.processes();
    drop(idle);
    if !runtime.is_ours() && runtime.name != "gvisor" {
        return Ok(());
    }
    let count = BLOCKED_THREADS.to_string();
    let threads = bundle(&["/bench/operations", "--threads", &count])?;
    let blocked = Detached::start(runtime, "blocked", threads)?;
    command::eventually("10,000 threads block", LIMIT, || blocked.output().contains("ready"))
        .map_err(|why| format!("{why}: {}", blocked.output()))?;
    let sentry = |processes: &[(String, u64)]| -> u64 {
        processes.iter().filter(|(n, _)| n == "sentry").map(|(_, k)| k).sum()
    };
    figures.blocked_kib = Some(sentry(&blocked.processes()).saturating_sub(sentry(&figures.idle_kib)));
    Ok(())
}
