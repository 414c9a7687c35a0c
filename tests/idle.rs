//! What a sandbox costs that has nothing to do, and how the thread that looks out for requests gives way: seen from the
//! host, in processor time of the sandbox's own processes and threads.

use harness::command::eventually;
use harness::container::Container;
use harness::host;
use harness::report::Report;
use harness::sandbox::{Platform, Runtime};
use std::path::Path;
use std::time::Duration;

type Verdict = Result<(), String>;

const LIMIT: Duration = Duration::from_secs(30);
/// How long is measured.
const WHILE: Duration = Duration::from_secs(2);
/// Start-up is over after so long, and so is what is put off until after it.
const SETTLE: Duration = Duration::from_secs(2);
/// What an idle sandbox may use of [`WHILE`]: nothing wakes it, but the host charges what it does in others' stead.
const IDLE_MOST: Duration = Duration::from_millis(2);
/// What the spinner may use of [`WHILE`] when every processor is wanted. It is to stop within a millisecond, which
/// it may have to do some times, because the test's own processes and the host move threads about.
const CROWDED_MOST: Duration = Duration::from_millis(20);

fn main() {
    let report = Report::from_arguments();
    for platform in Platform::ALL {
        let name = platform.name();
        match Runtime::new(env!("CARGO_BIN_EXE_runsc")) {
            Ok(runtime) => {
                let runtime = runtime.with_platform(platform);
                report.case(&format!("{name}/an_idle_sandbox_uses_no_processor_time"), || idle(&runtime));
                if platform == Platform::Seccomp {
                    report.case(&format!("{name}/the_spinner_looks_and_gives_way"), || spinner(&runtime));
                }
            }
            Err(why) => report.add("idle/setup", Err(why), ""),
        }
    }
    report.finish();
}

/// Processor time that a process's threads have used so far, of all or of those with this name.
fn used(pid: i32, name: Option<&str>) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads
        .map(|thread| thread.path())
        .filter(|thread| {
            let is_called = |name: &str| {
                std::fs::read_to_string(thread.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
            };
            name.is_none_or(is_called)
        })
        .map(|thread| run_time(&thread))
        .sum()
}

/// The first figure of `schedstat`: nanoseconds on a processor.
fn run_time(thread: &Path) -> Duration {
    let text = std::fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

fn idle(runtime: &Runtime) -> Verdict {
    let container = Container::running(runtime, "exec sleep 1000")?;
    std::thread::sleep(SETTLE);
    let family = host::family_of(runtime.binary(), &[container.pid()?, container.gofer_pid()?]);
    if family.len() < 3 {
        return Err(format!("sentry, gofer and a stub are expected: {family:?}"));
    }
    let total = || family.iter().map(|process| used(process.pid, None)).sum::<Duration>();
    let before = total();
    if before.is_zero() {
        return Err("the host counts no processor time".into());
    }
    std::thread::sleep(WHILE);
    let spent = total() - before;
    if spent <= IDLE_MOST { Ok(()) } else { Err(format!("{spent:?} of {WHILE:?} were used")) }
}

fn spinner(runtime: &Runtime) -> Verdict {
    let container = Container::running(runtime, "exec dd if=/dev/zero of=/dev/null bs=1")?;
    let sentry = container.pid()?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let spun = || used(sentry, Some("spinner"));
    if processors > 1 {
        // Other tests may keep the processors busy for a while.
        eventually("the spinner looks at a program that only makes calls", LIMIT, || {
            let before = spun();
            std::thread::sleep(Duration::from_millis(100));
            spun() - before > Duration::from_millis(10)
        })?;
    }
    let compute = format!("for i in $(seq {processors}); do while :; do :; done & done");
    container.exec(&[], &["/bin/sh", "-c", &compute]).ok("start computing")?;
    std::thread::sleep(Duration::from_millis(200));
    let before = spun();
    std::thread::sleep(WHILE);
    let spent = spun() - before;
    if spent <= CROWDED_MOST {
        Ok(())
    } else {
        Err(format!("with every processor wanted, the spinner used {spent:?} of {WHILE:?}"))
    }
}
