//! The guest programs of `tests/guest`: each test runs natively first and then inside the
//! sandbox on every platform, statically and dynamically linked, with one expectation.
//!
//! A case is called `<runner>/<linking>/<program>/<test>`. Tests that are known to fail on a
//! platform stand in `tests/expectations/<platform>.txt` as `<linking>/<program>/<test>`
//! with the reason; one that passes must be taken off.
//!
//! A program runs all its tests in one sandbox; tests without a result (because the sandbox
//! died or hung) are then run one by one.

use harness::command::{self, Finished};
use harness::guest_programs::{self, Linking};
use harness::report::{Expectations, Report};
use harness::sandbox::{Platform, Runtime};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

const BATCH_LIMIT: Duration = Duration::from_secs(150);
const SINGLE_LIMIT: Duration = Duration::from_secs(30);
/// A batch that dies is followed by at most this many single runs; the rest just fail.
const MAX_SINGLE_RUNS: usize = 40;

#[derive(Clone, Copy)]
enum Runner<'a> {
    Native,
    Sandbox(&'a Runtime, Platform),
}

impl Runner<'_> {
    fn name(self) -> &'static str {
        match self {
            Runner::Native => "native",
            Runner::Sandbox(_, platform) => platform.name(),
        }
    }

    /// The command that runs the program with one argument.
    fn command(self, program: &Program, argument: &str) -> Command {
        match self {
            Runner::Native => {
                let mut command = Command::new("unshare");
                command.args([
                    "--mount",
                    "--uts",
                    "--ipc",
                    "--pid",
                    "--fork",
                    "--mount-proc",
                    "--kill-child",
                ]);
                command.arg(&program.path).arg(argument);
                command
            }
            Runner::Sandbox(runtime, platform) => {
                let volume = format!("{}:/guest", guest_programs::directory().display());
                let inside = format!("/guest/{}/{}", program.linking.name(), program.name);
                runtime.on(platform, &["do", "--volume", &volume, "--", &inside, argument])
            }
        }
    }
}

struct Program {
    name: String,
    linking: Linking,
    path: PathBuf,
    tests: Vec<String>,
}

impl Program {
    fn prefix(&self) -> String {
        format!("{}/{}", self.linking.name(), self.name)
    }
}

fn main() {
    let report = Report::from_arguments();
    if let Err(why) = run(&report) {
        report.add("guest/setup", Err(why), "");
    }
    report.finish();
}

fn run(report: &Report) -> Result<(), String> {
    let runtime = Runtime::new(env!("CARGO_BIN_EXE_runsc"))?;
    let programs = build_all()?;
    let mut runners = vec![Runner::Native];
    if runtime.is_ours() {
        runners.extend(Platform::EVERY.map(|p| Runner::Sandbox(&runtime, p)));
    }
    for runner in runners {
        let expected = match runner {
            Runner::Native => Expectations::default(),
            Runner::Sandbox(_, platform) => expectations(platform, &programs)?,
        };
        run_batches(report, runner, &programs, &expected);
    }
    Ok(())
}

fn build_all() -> Result<Vec<Program>, String> {
    let sources = harness::repository().join("tests/guest");
    let mut programs = Vec::new();
    for name in guest_programs::names(&sources)? {
        for linking in Linking::ALL {
            // How a static PIE is loaded matters to exec alone.
            if linking == Linking::StaticPie && name != "exec" {
                continue;
            }
            let path = guest_programs::build(&sources, &name, linking)?;
            let list = command::run(Command::new(&path).arg("--list"), SINGLE_LIMIT).ok("listing tests")?;
            let tests = list.lines().map(str::to_owned).collect();
            programs.push(Program { name: name.clone(), linking, path, tests });
        }
    }
    Ok(programs)
}

fn expectations(platform: Platform, programs: &[Program]) -> Result<Expectations, String> {
    let file = harness::repository().join(format!("tests/expectations/{}.txt", platform.expectations()));
    let expected = Expectations::read(&file)?;
    for name in expected.names() {
        let known = programs.iter().any(|p| {
            name.strip_prefix(&p.prefix())
                .and_then(|r| r.strip_prefix('/'))
                .is_some_and(|t| p.tests.iter().any(|x| x == t))
        });
        if !known {
            return Err(format!("{} lists {name}, which is no test", file.display()));
        }
    }
    Ok(expected)
}

/// Two programs at a time: most tests wait more than they compute.
fn run_batches(report: &Report, runner: Runner, programs: &[Program], expected: &Expectations) {
    let queue = Mutex::new(programs.iter());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(|e| e.into_inner()).next();
                    let Some(program) = next else { break };
                    run_batch(report, runner, program, expected);
                }
            });
        }
    });
}

fn run_batch(report: &Report, runner: Runner, program: &Program, expected: &Expectations) {
    let full_name = |test: &str| format!("{}/{}/{test}", runner.name(), program.prefix());
    let wanted: Vec<&String> = program.tests.iter().filter(|t| report.wants(&full_name(t))).collect();
    if wanted.is_empty() {
        return;
    }
    let mut results = BTreeMap::new();
    if wanted.len() > 3 {
        let batch = command::run(&mut runner.command(program, "--all"), BATCH_LIMIT);
        results = parse_batch(&batch);
    }
    let mut single_runs = 0;
    for test in wanted {
        let result = results.remove(test.as_str()).unwrap_or_else(|| {
            single_runs += 1;
            if single_runs > MAX_SINGLE_RUNS {
                return Err("no result: the batch died, and too many tests are left to run alone".into());
            }
            let alone = command::run(&mut runner.command(program, test), SINGLE_LIMIT);
            if alone.success() && alone.stdout.lines().any(|l| l == format!("ok {test}")) {
                Ok(())
            } else {
                Err(alone.summary())
            }
        });
        let (result, remark) = expected.judge(&format!("{}/{test}", program.prefix()), result);
        report.add(&full_name(test), result, &remark);
    }
}

/// The results a batch printed: `ok NAME`, or `not ok NAME` with `NAME: why` on stderr.
fn parse_batch(batch: &Finished) -> BTreeMap<String, Result<(), String>> {
    let mut results = BTreeMap::new();
    for line in batch.stdout.lines() {
        if let Some(name) = line.strip_prefix("not ok ") {
            let start = format!("{name}: ");
            let why: Vec<&str> = batch.stderr.lines().filter(|l| l.starts_with(&start)).collect();
            results.insert(name.to_owned(), Err(why.join("\n")));
        } else if let Some(name) = line.strip_prefix("ok ") {
            results.insert(name.to_owned(), Ok(()));
        }
    }
    results
}
