//! What the sandbox's own processes may do, seen from the host: no capabilities, seccomp, no new
//! privileges, namespaces of their own, an empty root, no directories open; and death when one
//! of them is made to call what its allow-list does not have.

use harness::bundle::Bundle;
use harness::command;
use harness::container::Container;
use harness::host::{self, Process};
use harness::inject::{Outcome, system_call};
use harness::report::Report;
use harness::sandbox::{Platform, Runtime};
use nix::libc;
use nix::sys::signal::Signal;
use serde_json::json;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

type Verdict = Result<(), String>;

/// The two processes of ours that an attacker would take over.
#[derive(Debug, Clone, Copy)]
enum Role {
    Sentry,
    Gofer,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Sentry => "sentry",
            Role::Gofer => "gofer",
        }
    }

    fn pid(self, container: &Container) -> Result<i32, String> {
        match self {
            Role::Sentry => container.pid(),
            Role::Gofer => container.gofer_pid(),
        }
    }
}

fn main() {
    let report = Report::from_arguments();
    report.case("injector/an_unconfined_process_answers", injector_works);
    for platform in Platform::ON_AND_OFF {
        match Runtime::new(env!("CARGO_BIN_EXE_runsc")) {
            Ok(runtime) => cases(&report, &runtime.with_platform(platform), platform),
            Err(why) => report.add("security/setup", Err(why), ""),
        }
    }
    report.finish();
}

const IDLE: &str = "while :; do sleep 0.1; done";

fn cases(report: &Report, runtime: &Runtime, platform: Platform) {
    let name = platform.name();
    match Container::running(runtime, IDLE) {
        Ok(container) => {
            for role in [Role::Sentry, Role::Gofer] {
                look_at(report, &container, name, role);
            }
            report.case(&format!("{name}/application/has_no_capabilities_and_no_directory_open"), || {
                application(&container, platform)
            });
            drop(container);
        }
        Err(why) => report.add(&format!("{name}/security/container"), Err(why), ""),
    }
    for role in [Role::Sentry, Role::Gofer] {
        if matches!((role, platform), (Role::Gofer, Platform::Ptrace)) {
            continue; // the gofer knows no platforms
        }
        for call in forbidden(role) {
            report.case(&format!("{name}/{}/dies_of_{}", role.name(), call.name), || {
                dies_of(runtime, role, &call)
            });
        }
    }
    report.case(&format!("{name}/sentry/takes_everything_with_it"), || sentry_dies(runtime));
    report.case(&format!("{name}/gofer/its_death_ends_in_errors_not_in_silence"), || gofer_dies(runtime));
}

fn injector_works() -> Verdict {
    let mut child =
        Command::new("sleep").arg("100").stdin(Stdio::null()).spawn().map_err(|e| e.to_string())?;
    let pid = child.id().cast_signed();
    // Until it sleeps it may still be on its way into the program.
    let asleep =
        || host::processes().get(&pid).is_some_and(|p| p.state == 'S' && p.command_line == "sleep 100");
    let outcome = command::eventually("sleep sleeps", LIMIT, asleep)
        .and_then(|()| system_call(pid, libc::SYS_getpid, [0; 6]));
    let alive = host::exists(pid);
    let _ = child.kill();
    let _ = child.wait();
    match outcome {
        Ok(Outcome::Returned(answer)) if answer == i64::from(pid) && alive => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

fn status_of(pid: i32) -> Result<BTreeMap<String, String>, String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .map_err(|e| format!("status of {pid}: {e}"))?;
    Ok(text.lines().filter_map(|l| l.split_once(":\t")).map(|(k, v)| (k.into(), v.trim().into())).collect())
}

fn want(status: &BTreeMap<String, String>, field: &str, value: &str) -> Verdict {
    match status.get(field) {
        Some(got) if got == value => Ok(()),
        got => Err(format!("{field} is {got:?}, must be {value}")),
    }
}

const NO_CAPABILITIES: &str = "0000000000000000";

fn look_at(report: &Report, container: &Container, platform: &str, role: Role) {
    let case = |what: &str, body: &dyn Fn(i32) -> Verdict| {
        report.case(&format!("{platform}/{}/{what}", role.name()), || body(role.pid(container)?));
    };
    case("has_only_the_capabilities_it_needs", &|pid| {
        let status = status_of(pid)?;
        want(&status, "CapAmb", NO_CAPABILITIES)?;
        want(&status, "CapInh", NO_CAPABILITIES)?;
        let held = match role {
            Role::Sentry => NO_CAPABILITIES.to_owned(),
            Role::Gofer => format!("{FILE_OWNER:016x}"),
        };
        ["CapPrm", "CapEff", "CapBnd"].iter().try_for_each(|set| want(&status, set, &held))
    });
    case("gains_no_privileges_and_leaves_no_core", &|pid| {
        want(&status_of(pid)?, "NoNewPrivs", "1")?;
        if matches!(role, Role::Gofer) {
            return Ok(());
        }
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).map_err(|e| e.to_string())?;
        match limits.lines().find_map(|line| line.strip_prefix("Max core file size")) {
            Some(core) if core.split_whitespace().take(2).eq(["0", "0"]) => Ok(()),
            core => Err(format!("core size {core:?}")),
        }
    });
    case("runs_under_the_filter_in_every_thread", &|pid| {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| e.to_string())?;
        for task in tasks.flatten() {
            let tid = task.file_name().to_string_lossy().parse().map_err(|_| "a thread with an odd name")?;
            want(&status_of(tid)?, "Seccomp", "2").map_err(|why| format!("thread {tid}: {why}"))?;
        }
        Ok(())
    });
    case("has_namespaces_of_its_own", &|pid| {
        let names: &[&str] = match role {
            Role::Sentry => &["mnt", "ipc", "uts", "net", "user", "pid", "cgroup"],
            Role::Gofer => &["mnt", "ipc", "uts", "net"],
        };
        let of = |pid: &str, name: &str| {
            std::fs::read_link(format!("/proc/{pid}/ns/{name}")).map_err(|e| e.to_string())
        };
        for name in names {
            if of(&pid.to_string(), name)? == of("self", name)? {
                return Err(format!("shares the {name} namespace of the host"));
            }
        }
        Ok(())
    });
    case("has_an_empty_read_only_root", &|pid| {
        let root: Vec<_> =
            std::fs::read_dir(format!("/proc/{pid}/root/")).map_err(|e| e.to_string())?.flatten().collect();
        if !root.is_empty() {
            return Err(format!("its root has {root:?}"));
        }
        let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).map_err(|e| e.to_string())?;
        let lines: Vec<&str> = mounts.lines().collect();
        match lines.as_slice() {
            [only] if only.split(' ').nth(5).is_some_and(|options| options.split(',').any(|o| o == "ro")) => {
                Ok(())
            }
            other => Err(format!("mounts: {other:#?}")),
        }
    });
    if matches!(role, Role::Sentry) {
        case("has_no_directory_open", &|pid| {
            let open = directories_open(pid)?;
            if open.is_empty() { Ok(()) } else { Err(format!("has directories open: {open:?}")) }
        });
    }
}

/// `CAP_CHOWN`, `DAC_OVERRIDE`, `DAC_READ_SEARCH`, `FOWNER`, `FSETID`: the gofer acts for any owner of files, and for
/// nothing else.
const FILE_OWNER: u64 = 0x1f;

fn directories_open(pid: i32) -> Result<Vec<String>, String> {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).map_err(|e| e.to_string())?;
    let directory = |p: &std::path::Path| std::fs::metadata(p).is_ok_and(|m| m.is_dir());
    Ok(fds
        .flatten()
        .map(|f| f.path())
        .filter(|p| directory(p))
        .map(|p| format!("{p:?} {:?}", p.read_link()))
        .collect())
}

/// The sentry's children run application code.
fn application(container: &Container, platform: Platform) -> Verdict {
    let sentry = container.pid()?;
    let stubs: Vec<Process> = host::processes().into_values().filter(|p| p.parent == sentry).collect();
    if stubs.is_empty() {
        return Err("no process runs the application".into());
    }
    for stub in stubs {
        let status = status_of(stub.pid)?;
        let sets = ["CapInh", "CapPrm", "CapEff", "CapAmb"];
        sets.iter()
            .try_for_each(|set| want(&status, set, NO_CAPABILITIES))
            .and(want(&status, "NoNewPrivs", "1"))
            .and(want(&status, "Seccomp", "2"))
            .map_err(|w| format!("{stub:?}: {w}"))?;
        if matches!(platform, Platform::Ptrace) {
            want(&status, "TracerPid", &sentry.to_string())
                .or_else(|_| traced_by_thread_of(&status, sentry))?;
        }
        if let Some(open) = directories_open(stub.pid)?.first() {
            return Err(format!("{stub:?} has a directory open: {open}"));
        }
    }
    Ok(())
}

fn traced_by_thread_of(status: &BTreeMap<String, String>, process: i32) -> Verdict {
    let tracer = status.get("TracerPid").cloned().unwrap_or_default();
    let is_thread = std::path::Path::new(&format!("/proc/{process}/task/{tracer}")).exists();
    if is_thread { Ok(()) } else { Err(format!("its tracer is {tracer}")) }
}

/// A call that neither process ever makes, with arguments that would do no harm.
struct Forbidden {
    name: &'static str,
    number: i64,
    arguments: [u64; 6],
}

fn forbidden(role: Role) -> Vec<Forbidden> {
    const NOWHERE: u64 = u64::MAX; // no descriptor, no process
    let with = |name, number, arguments| Forbidden { name, number, arguments };
    let plain = |name, number| with(name, number, [0; 6]);
    let flag = |value: i32| u64::from(value.unsigned_abs());
    let anonymous = flag(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let executable = flag(libc::PROT_READ | libc::PROT_EXEC);
    let mut calls = vec![
        plain("execve", libc::SYS_execve),
        plain("execveat", libc::SYS_execveat),
        plain("fork", libc::SYS_fork),
        plain("vfork", libc::SYS_vfork),
        with("clone_of_a_process", libc::SYS_clone, [flag(libc::SIGCHLD), 0, 0, 0, 0, 0]),
        with("executable_memory", libc::SYS_mmap, [0, 4096, executable, anonymous, NOWHERE, 0]),
        with("memory_made_executable", libc::SYS_mprotect, [0, 0, executable, 0, 0, 0]),
        with("an_internet_socket", libc::SYS_socket, [flag(libc::AF_INET), 1, 0, 0, 0, 0]),
        with("a_netlink_socket", libc::SYS_socket, [flag(libc::AF_NETLINK), 3, 0, 0, 0, 0]),
        plain("mount", libc::SYS_mount),
        plain("chroot", libc::SYS_chroot),
        plain("pivot_root", libc::SYS_pivot_root),
        plain("unshare", libc::SYS_unshare),
        with("setns", libc::SYS_setns, [NOWHERE, 0, 0, 0, 0, 0]),
        plain("setuid", libc::SYS_setuid),
        plain("capset", libc::SYS_capset),
        with("dumpable", libc::SYS_prctl, [flag(libc::PR_SET_DUMPABLE), 1, 0, 0, 0, 0]),
        plain("bpf", libc::SYS_bpf),
        plain("open", libc::SYS_open),
        plain("open_by_handle_at", libc::SYS_open_by_handle_at),
        plain("kexec_load", libc::SYS_kexec_load),
        plain("init_module", libc::SYS_init_module),
        plain("io_uring_setup", libc::SYS_io_uring_setup),
        plain("userfaultfd", libc::SYS_userfaultfd),
        plain("perf_event_open", libc::SYS_perf_event_open),
        plain("keyctl", libc::SYS_keyctl),
        with("pidfd_getfd", libc::SYS_pidfd_getfd, [NOWHERE, 0, 0, 0, 0, 0]),
        with("a_signal_to_all", libc::SYS_kill, [NOWHERE, 0, 0, 0, 0, 0]),
        with("attaching_as_tracer", libc::SYS_ptrace, [16, NOWHERE, 0, 0, 0, 0]),
        with("strange_flags_of_process_vm_readv", libc::SYS_process_vm_readv, [0, 0, 0, 0, 0, 1]),
    ];
    if matches!(role, Role::Sentry) {
        calls.extend([
            plain("openat", libc::SYS_openat),
            plain("openat2", libc::SYS_openat2),
            plain("stat_of_a_path", libc::SYS_newfstatat),
            plain("a_unix_socket", libc::SYS_socketpair),
            with("connect", libc::SYS_connect, [NOWHERE, 0, 0, 0, 0, 0]),
            with("bind", libc::SYS_bind, [NOWHERE, 0, 0, 0, 0, 0]),
            with("typing_into_a_terminal", libc::SYS_ioctl, [NOWHERE, libc::TIOCSTI, 0, 0, 0, 0]),
            with("a_memory_file_of_huge_pages", libc::SYS_memfd_create, [0, 4, 0, 0, 0, 0]),
            with("owner_of_a_descriptor", libc::SYS_fcntl, [NOWHERE, 8, 0, 0, 0, 0]),
        ]);
    }
    calls
}

fn dies_of(runtime: &Runtime, role: Role, call: &Forbidden) -> Verdict {
    let container = Container::started(runtime, Bundle::script(IDLE)?)?;
    let outcome = system_call(role.pid(&container)?, call.number, call.arguments)?;
    container.delete_force()?;
    match outcome {
        Outcome::Killed(Signal::SIGSYS) => Ok(()),
        other => Err(format!("the call gave {other:?}")),
    }
}

const LIMIT: Duration = Duration::from_secs(15);

fn sentry_dies(runtime: &Runtime) -> Verdict {
    let container = Container::running(runtime, IDLE)?;
    let (sentry, gofer) = (container.pid()?, container.gofer_pid()?);
    let stubs: Vec<i32> =
        host::processes().into_values().filter(|p| p.parent == sentry).map(|p| p.pid).collect();
    host::kill_hard(sentry);
    container.wait_for_status("stopped")?;
    for pid in stubs.into_iter().chain([gofer]) {
        command::eventually(&format!("end of process {pid}"), LIMIT, || !host::exists(pid))?;
    }
    container.delete()
}

/// Names of a tree that others may change are looked up at the gofer each time: once it is gone, that is `EIO`, and not a
/// wait without end. (What the root has not is known without it after a while.)
fn gofer_dies(runtime: &Runtime) -> Verdict {
    let script = "i=0; while ls /shared/none$i 2>&1 | grep -q 'No such file'; do i=$((i+1)); done; exit 0";
    let bundle = Bundle::script(script)?;
    let source = bundle.rootfs().join("data");
    let mount = json!({ "destination": "/shared", "type": "bind", "source": source, "options": ["bind"] });
    let container = Container::started(runtime, bundle.push("/mounts", mount))?;
    container.wait_for_status("running")?;
    host::kill_hard(container.gofer_pid()?);
    container.wait_for_status("stopped")?;
    container.delete()
}
