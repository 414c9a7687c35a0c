//! What the sandbox's own processes may do, seen from the host: no capabilities, seccomp, no new
//! privileges, namespaces of their own, an empty root, no directories open; and death when one
//! of them is made to call what its allow-list does not have.

use harness::bundle::Bundle;
use harness::container::Container;
use harness::host::{self, Process};
use harness::inject::{Outcome, system_call};
use harness::report::Report;
use harness::sandbox::Runtime;
use nix::libc;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};

type Verdict = Result<(), String>;

/// The two processes of ours that an attacker would take over.
#[derive(Debug, Clone, Copy)]
enum Role {
    Sentry,
    Gofer,
}

impl Role {
    /// The hidden command that the binary re-executes itself with.
    fn argument(self) -> &'static str {
        match self {
            Role::Sentry => "boot",
            Role::Gofer => "gofer",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Role::Sentry => "sentry",
            Role::Gofer => "gofer",
        }
    }

    fn process(self, runtime: &Runtime) -> Result<Process, String> {
        let family = host::family_of(runtime.binary(), &[]);
        let is_role = |p: &&Process| {
            p.executable == runtime.binary() && p.command_line.split(' ').any(|word| word == self.argument())
        };
        family.iter().find(is_role).cloned().ok_or_else(|| format!("no {} among {family:#?}", self.name()))
    }
}

fn main() {
    let report = Report::from_arguments();
    report.case("injector/an_unconfined_process_answers", injector_works);
    match Runtime::new(env!("CARGO_BIN_EXE_runsc")) {
        Ok(runtime) => cases(&report, &runtime),
        Err(why) => report.add("security/setup", Err(why), ""),
    }
    report.finish();
}

fn cases(report: &Report, runtime: &Runtime) {
    match Container::running(runtime, "while :; do sleep 0.1; done") {
        Ok(container) => {
            for role in [Role::Sentry, Role::Gofer] {
                look_at(report, runtime, role);
            }
            report.case("application/runs_under_seccomp_without_capabilities", || application(runtime));
            drop(container);
        }
        Err(why) => report.add("security/container", Err(why), ""),
    }
    for role in [Role::Sentry, Role::Gofer] {
        for (name, number, arguments) in forbidden(role) {
            report.case(&format!("{}/dies_of_{name}", role.name()), || {
                dies_of(runtime, role, number, arguments)
            });
        }
    }
}

fn injector_works() -> Verdict {
    let mut child =
        Command::new("sleep").arg("100").stdin(Stdio::null()).spawn().map_err(|e| e.to_string())?;
    let pid = child.id().cast_signed();
    let outcome = system_call(pid, libc::SYS_getpid, [0; 6]);
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

fn look_at(report: &Report, runtime: &Runtime, role: Role) {
    let case = |what: &str, body: &dyn Fn(&Process) -> Verdict| {
        report.case(&format!("{}/{what}", role.name()), || body(&role.process(runtime)?));
    };
    case("has_no_capabilities_it_does_not_need", &|p| {
        let status = status_of(p.pid)?;
        want(&status, "CapAmb", NO_CAPABILITIES)?;
        match role {
            Role::Sentry => {
                ["CapInh", "CapPrm", "CapEff"].iter().try_for_each(|set| want(&status, set, NO_CAPABILITIES))
            }
            Role::Gofer => gofer_capabilities(&status),
        }
    });
    case("runs_under_a_filter_and_without_new_privileges", &|p| {
        let status = status_of(p.pid)?;
        want(&status, "Seccomp", "2")?;
        want(&status, "NoNewPrivs", "1")
    });
    case("every_thread_runs_under_the_filter", &|p| {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", p.pid)).map_err(|e| e.to_string())?;
        for task in tasks.flatten() {
            let tid = task.file_name().to_string_lossy().parse().map_err(|_| "a thread with an odd name")?;
            want(&status_of(tid)?, "Seccomp", "2").map_err(|why| format!("thread {tid}: {why}"))?;
        }
        Ok(())
    });
    case("has_namespaces_of_its_own", &|p| {
        let names: &[&str] = match role {
            Role::Sentry => &["mnt", "ipc", "uts", "net", "user", "pid"],
            Role::Gofer => &["mnt", "ipc", "uts", "net"],
        };
        let of = |pid: &str, name: &str| {
            std::fs::read_link(format!("/proc/{pid}/ns/{name}")).map_err(|e| e.to_string())
        };
        for name in names {
            if of(&p.pid.to_string(), name)? == of("self", name)? {
                return Err(format!("shares the {name} namespace of the host"));
            }
        }
        Ok(())
    });
    if matches!(role, Role::Sentry) {
        case("has_an_empty_root_and_no_directory_open", &|p| {
            let root: Vec<_> = std::fs::read_dir(format!("/proc/{}/root/", p.pid))
                .map_err(|e| e.to_string())?
                .flatten()
                .collect();
            if !root.is_empty() {
                return Err(format!("its root has {root:?}"));
            }
            let open = directories_open(p.pid)?;
            if open.is_empty() { Ok(()) } else { Err(format!("has directories open: {open:?}")) }
        });
    }
}

/// The gofer acts for any owner of files, and for nothing else.
fn gofer_capabilities(status: &BTreeMap<String, String>) -> Verdict {
    const CHOWN: u64 = 1 << 0;
    const FILES: u64 = CHOWN | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4; // DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID
    const IDENTITY: u64 = 1 << 6 | 1 << 7; // SETGID, SETUID
    const MKNOD: u64 = 1 << 27;
    const SETFCAP: u64 = 1 << 31;
    let effective = status.get("CapEff").and_then(|h| u64::from_str_radix(h, 16).ok()).ok_or("no CapEff")?;
    let more = effective & !(FILES | IDENTITY | MKNOD | SETFCAP);
    if more == 0 { Ok(()) } else { Err(format!("capabilities {more:#x} are too much")) }
}

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

/// Every process that is neither of the two but stands below them runs application code.
fn application(runtime: &Runtime) -> Verdict {
    let family = host::family_of(runtime.binary(), &[]);
    let is_ours = |p: &Process| {
        [Role::Sentry, Role::Gofer].iter().any(|r| p.command_line.split(' ').any(|w| w == r.argument()))
    };
    let stubs: Vec<&Process> = family.iter().filter(|p| !is_ours(p)).collect();
    if stubs.is_empty() {
        return Err(format!("no process that runs the application among {family:#?}"));
    }
    for stub in stubs {
        let status = status_of(stub.pid)?;
        want(&status, "CapEff", NO_CAPABILITIES)
            .and(want(&status, "NoNewPrivs", "1"))
            .map_err(|w| format!("{stub:?}: {w}"))?;
        want(&status, "Seccomp", "2").map_err(|w| format!("{stub:?}: {w}"))?;
        if let Some(open) = directories_open(stub.pid)?.first() {
            return Err(format!("{stub:?} has a directory open: {open}"));
        }
    }
    Ok(())
}

/// Calls that neither process ever makes, with arguments that would do no harm.
fn forbidden(role: Role) -> Vec<(&'static str, i64, [u64; 6])> {
    let inet = u64::from(libc::AF_INET.unsigned_abs());
    let mut calls = vec![
        ("execve", libc::SYS_execve, [0; 6]),
        ("an_internet_socket", libc::SYS_socket, [inet, 1, 0, 0, 0, 0]),
        ("mount", libc::SYS_mount, [0; 6]),
        ("bpf", libc::SYS_bpf, [0; 6]),
        ("unshare", libc::SYS_unshare, [0; 6]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [0; 6]),
        ("kexec_load", libc::SYS_kexec_load, [0; 6]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [0; 6]),
    ];
    match role {
        Role::Sentry => calls.extend([
            ("open", libc::SYS_open, [0; 6]),
            ("openat", libc::SYS_openat, [0; 6]),
            ("openat2", libc::SYS_openat2, [0; 6]),
            ("chroot", libc::SYS_chroot, [0; 6]),
        ]),
        Role::Gofer => calls.extend([("ptrace", libc::SYS_ptrace, [0; 6]), ("open", libc::SYS_open, [0; 6])]),
    }
    calls
}

fn dies_of(runtime: &Runtime, role: Role, number: i64, arguments: [u64; 6]) -> Verdict {
    let container = Container::started(runtime, Bundle::script("while :; do sleep 0.1; done")?)?;
    let process = role.process(runtime)?;
    let outcome = system_call(process.pid, number, arguments)?;
    container.delete_force()?;
    match outcome {
        Outcome::Killed(Signal::SIGSYS) => Ok(()),
        other => Err(format!("the call gave {other:?}")),
    }
}
