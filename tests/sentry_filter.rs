//! Every row of the sentry's filter is needed: on each platform a sentry is watched while it does what there is to do, and
//! a row that allowed none of its calls is too much. (That calls outside of the list are death is in `security.rs`.)
//!
//! Rows that only rare circumstances need say so themselves.

use harness::bundle::Bundle;
use harness::console::Listener;
use harness::container::Container;
use harness::guest_programs::{self, Linking};
use harness::report::Report;
use harness::sandbox::{Platform, Runtime};
use harness::trace::{Call, Trace};
use platform::HostCalls;
use sentry::lockdown::lists;
use serde_json::json;
use std::path::Path;

/// Platforms' rows that are needed and not seen here, by what they are for.
const UNSEEN: [(&str, &str); 8] = [
    ("kill a stub whose parent died making it", "that moment cannot be hit at will"),
    (
        "ask whether a new thread belongs to a process (no signal)",
        "only of threads that are made where many were made before",
    ),
    (
        "keep the spinner away from the thread it looks at",
        "under a tracer no thread is quick enough to be looked at",
    ),
    ("let threads that hand over to each other not drive each other out", "likewise: nor several"),
    ("take that back", "likewise"),
    ("wake a thread that waits for its slot", "likewise: threads wait there for what the spinner has taken"),
    ("attach the seed to the worker", "made with the first process, before which there is nothing to watch"),
    ("the worker's process id", "as before"),
];

type Verdict = Result<(), String>;

/// The guest programs that make the sentry do many different things, and not for long.
const PROGRAMS: [&str; 4] = ["files", "memory", "event_fds", "faults"];

fn main() {
    let report = Report::from_arguments();
    for platform in Platform::ALL {
        report.case(&format!("{}/sentry/needs_every_row_of_its_filter", platform.name()), || {
            let runtime = Runtime::new(env!("CARGO_BIN_EXE_runsc"))?.with_platform(platform);
            every_row_is_needed(&runtime, platform)
        });
    }
    report.finish();
}

fn every_row_is_needed(runtime: &Runtime, platform: Platform) -> Verdict {
    let calls = calls_of_a_life(runtime)?;
    let calls_of_platform = match platform {
        Platform::Ptrace => HostCalls::Ptrace,
        _ => HostCalls::Seccomp,
    };
    let rows = lists(calls_of_platform, false).concat();
    let idle: Vec<_> = rows
        .iter()
        .filter(|row| row.rare.is_none() && !UNSEEN.iter().any(|(what, _)| *what == row.why))
        .filter(|row| !calls.iter().any(|call| row.call == call.number && row.allows(&call.arguments)))
        .map(|row| (row.call, row.why))
        .collect();
    if idle.is_empty() { Ok(()) } else { Err(format!("rows that nothing needed: {idle:?}")) }
}

/// All that a sentry calls from before its first program until after its last.
fn calls_of_a_life(runtime: &Runtime) -> Result<Vec<Call>, String> {
    let sources = harness::repository().join("tests/guest");
    for program in PROGRAMS {
        guest_programs::build(&sources, program, Linking::Static)?;
    }
    let guest = guest_programs::directory().join("static");
    // It ends by itself, and by the death of a process that does not.
    let bundle = Bundle::script("sleep 1000 & while [ ! -e /data/end ]; do sleep 0.1; done")?;
    let data = bundle.rootfs().join("data");
    let mount = |to: &str, from: &Path, how: &str| json!({ "destination": to, "type": "bind", "source": from, "options": ["bind", how] });
    let bundle =
        bundle.push("/mounts", mount("/guest", &guest, "ro")).push("/mounts", mount("/data", &data, "rw"));
    let container = Container::created(runtime, bundle)?;
    let trace = Trace::of(container.pid()?)?;
    container.command(&["start"]).ok("start")?;
    for program in PROGRAMS {
        let finished = container.exec(&[], &[&format!("/guest/{program}"), "--all"]);
        if !finished.stdout.lines().any(|line| line.starts_with("ok ")) {
            return Err(format!("{program}: {}", finished.summary()));
        }
    }
    on_the_host(&container)?;
    on_a_terminal(&container)?;
    container.command(&["ps"]).ok("ps")?;
    container.exec(&[], &["touch", "/data/end"]).ok("the end")?;
    container.wait_for_status("stopped")?;
    trace.until_end()
}

/// A file of the host, and the inherited streams.
fn on_the_host(container: &Container) -> Verdict {
    let script = "busybox fallocate -l 100000 /data/file && dd if=/dev/zero of=/data/file bs=1000 count=3 conv=notrunc,fsync \
        && busybox sync -d /data/file && cat /data/file | wc -c";
    let size = container.exec(&[], &["sh", "-c", script]).ok("files of the host")?;
    if size.trim() == "100000" { Ok(()) } else { Err(format!("the file has {size} bytes")) }
}

fn on_a_terminal(container: &Container) -> Verdict {
    let socket = container.bundle.path().join("console");
    let listener = Listener::bind(&socket)?;
    let options = ["--tty", "--detach", "--console-socket", &socket.to_string_lossy()];
    container.exec_quietly(&options, &["sh", "-c", "stty size; read line; echo got $line"])?;
    let console = listener.receive()?;
    console.type_text("something\n")?;
    console.wait_for("got something")
}
