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
    for platform in Platform::ON_AND_OFF {
        let name = platform.name();
        match Runtime::new(env!("CARGO_BIN_EXE_runsc")) {
            Ok(runtime) => {
                let runtime = runtime.with_platform(platform);
                report.case(&format!("{name}/an_idle_sandbox_uses_no_processor_time"), || idle(&runtime));
                if platform == Platform::Seccomp {
                    report.case(&format!("{name}/the_spinner_looks_and_gives_way"), || spinner(&runtime));
                    report.case(&format!("{name}/the_spinner_serves_several_and_gives_way_to_one"), || {
                        crowd(&runtime)
                    });
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

/// A program that only makes calls.
const CALLS: &str = "dd if=/dev/zero of=/dev/null bs=1";

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Waits until the spinner looks.
fn looks(sentry: i32) -> Verdict {
    if processors() == 1 {
        return Ok(());
    }
    // Other tests may keep the processors busy for a while.
    eventually("the spinner looks at programs that only make calls", LIMIT, || {
        let before = used(sentry, Some("spinner"));
        std::thread::sleep(Duration::from_millis(100));
        used(sentry, Some("spinner")) - before > Duration::from_millis(10)
    })
}

/// How much a thread of the host's may wander, and how it is scheduled.
fn seat(thread: &Path) -> Option<(String, String)> {
    let status = std::fs::read_to_string(thread.join("status")).ok()?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim().to_owned();
    let stat = std::fs::read_to_string(thread.join("stat")).ok()?;
    // The name may have spaces; the state, which follows it, is field 3, the policy 41.
    let policy = stat.rsplit(')').next()?.split_whitespace().nth(38)?.to_owned();
    Some((allowed, policy))
}

/// The seats of all threads of the sandbox's applications. Processes that are made ahead, and who makes them, have no program mapped: they are
/// kept off a processor where somebody waits.
fn seats(runtime: &Runtime, container: &Container) -> Result<Vec<(String, String)>, String> {
    let own = [container.pid()?, container.gofer_pid()?];
    let family = host::family_of(runtime.binary(), &own);
    let has_program = |pid: i32| {
        std::fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.contains("busybox"))
    };
    let programs = family.iter().filter(|process| !own.contains(&process.pid) && has_program(process.pid));
    let threads = programs.flat_map(|process| {
        std::fs::read_dir(format!("/proc/{}/task", process.pid)).into_iter().flatten().flatten()
    });
    Ok(threads.filter_map(|thread| seat(&thread.path())).collect())
}

fn crowd(runtime: &Runtime) -> Verdict {
    let container = Container::running(runtime, &format!("{CALLS} & {CALLS} & exec {CALLS}"))?;
    let sentry = container.pid()?;
    let at_first = seat(Path::new(&format!("/proc/{sentry}"))).ok_or("the sentry has no seat")?;
    if processors() > 1 {
        // Other tests may keep the processors busy for a while.
        eventually("who makes calls is kept off the spinner's processor", LIMIT, || {
            seats(runtime, &container)
                .is_ok_and(|seats| seats.iter().filter(|seat| **seat != at_first).count() > 1)
        })?;
    }
    let compute = format!("for i in $(seq {}); do while :; do :; done & done", processors().max(2) - 1);
    container.exec(&[], &["/bin/sh", "-c", &compute]).ok("start computing")?;
    std::thread::sleep(Duration::from_millis(200));
    let before = used(sentry, Some("spinner"));
    std::thread::sleep(WHILE);
    let spent = used(sentry, Some("spinner")) - before;
    if spent > CROWDED_MOST {
        return Err(format!("beside those that compute, the spinner used {spent:?} of {WHILE:?}"));
    }
    let kept: Vec<_> = seats(runtime, &container)?.into_iter().filter(|seat| *seat != at_first).collect();
    if kept.is_empty() { Ok(()) } else { Err(format!("kept off a processor for nothing: {kept:?}")) }
}

fn spinner(runtime: &Runtime) -> Verdict {
    let container = Container::running(runtime, &format!("exec {CALLS}"))?;
    let sentry = container.pid()?;
    let processors = processors();
    let spun = || used(sentry, Some("spinner"));
    looks(sentry)?;
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
