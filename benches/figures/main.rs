//! The figures of the README: the same operations natively, under runc and crun, and in the
//! sandbox on each platform (and under gVisor's runsc, if its path is given), in interleaved
//! rounds; medians, ratios to native, and whether the goals are met, as Markdown.
//!
//! `cargo bench --bench figures -- [--runtimes native,runc,crun,runsc-seccomp,runsc-ptrace]
//! [--gvisor PATH] [--rounds N]`
//!
//! `runtimes.rs` knows how each runtime is called, `measure.rs` measures, `table.rs` prints.

mod measure;
mod runtimes;
mod table;

use runtimes::Runtime;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

/// What the command line asks for.
struct Request {
    names: Vec<String>,
    gvisor: Option<String>,
    rounds: usize,
}

const DEFAULT_ROUNDS: usize = 5;

/// Where hosts with cgroups of both versions have the second one.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

fn main() -> ExitCode {
    if Path::new(UNIFIED).join("cgroup.controllers").exists() {
        return without_unified_cgroups();
    }
    match request().and_then(|r| run(&r)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(why) => {
            eprintln!("figures: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Starts this program again where only version 1 is mounted: crun refuses a host that has
/// both, and all runtimes shall be measured alike.
fn without_unified_cgroups() -> ExitCode {
    let script = format!("umount {UNIFIED} && exec \"$@\"");
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"])
        .args(std::env::args_os());
    eprintln!("figures: cannot leave the mount namespace: {}", command.exec());
    ExitCode::FAILURE
}

fn request() -> Result<Request, String> {
    let mut request = Request {
        names: ["native", "runc", "crun", "runsc-seccomp", "runsc-ptrace"].map(String::from).to_vec(),
        gvisor: None,
        rounds: DEFAULT_ROUNDS,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--runtimes" => request.names = value()?.split(',').map(str::to_owned).collect(),
            "--gvisor" => request.gvisor = Some(value()?),
            "--rounds" => request.rounds = value()?.parse().map_err(|e| format!("--rounds: {e}"))?,
            "--bench" => {} // cargo's own
            other => {
                return Err(format!("unknown argument {other}; see the head of benches/figures/main.rs"));
            }
        }
    }
    if request.gvisor.is_some() && !request.names.iter().any(|n| n == "gvisor") {
        request.names.push("gvisor".into());
    }
    Ok(request)
}

/// Measures and prints; true if every goal that could be judged is met.
fn run(request: &Request) -> Result<bool, String> {
    let make = |name: &String| Runtime::named(name, env!("CARGO_BIN_EXE_runsc"), request.gvisor.as_deref());
    let runtimes: Vec<Runtime> = request.names.iter().map(make).collect::<Result<_, _>>()?;
    let figures = measure::all(&runtimes, request.rounds)?;
    Ok(table::print(&runtimes, &figures))
}
