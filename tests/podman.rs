//! Podman runs containers with `runsc`: private storage (vfs), the cgroupfs manager, no network.
//!
//! Runs with runc too: `RUNSC_UNDER_TEST=/usr/sbin/runc`.

use harness::bundle::{IMAGE, image_tarball};
use harness::command::{self, Finished};
use harness::daemon::{private_directory, unmount_below};
use harness::report::Report;
use harness::sandbox::{Runtime, on_each_platform};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(90);
type Outcome = Result<(), String>;

struct Podman {
    directory: tempfile::TempDir,
    runtime: Runtime,
    program: PathBuf,
}

fn main() {
    let report = Report::from_arguments();
    on_each_platform(&report, env!("CARGO_BIN_EXE_runsc"), |runtime| {
        cases(&report, &start(runtime)?);
        Ok(())
    });
    report.finish();
}

fn start(runtime: Runtime) -> Result<Podman, String> {
    let podman = Podman { program: runtime.program()?, runtime, directory: private_directory("pod")? };
    // Our own configuration, so that the machine's (or a user's) has no say. Podman would ask for
    // more descriptors than a limited root may have.
    let path = podman.directory.path();
    let limits = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n";
    std::fs::write(path.join("containers.conf"), limits).map_err(|e| e.to_string())?;
    std::fs::write(path.join("policy.json"), r#"{"default":[{"type":"insecureAcceptAnything"}]}"#)
        .map_err(|e| e.to_string())?;
    let tarball = image_tarball(path)?;
    podman
        .podman(&[
            "load",
            "--signature-policy",
            &format!("{}/policy.json", path.display()),
            "-i",
            &tarball.to_string_lossy(),
        ])
        .ok("podman load")?;
    Ok(podman)
}

impl Podman {
    fn command(&self, arguments: &[&str]) -> Command {
        let at = |name: &str| self.directory.path().join(name);
        let mut podman = Command::new("podman");
        podman
            .env("CONTAINERS_CONF", at("containers.conf"))
            .env("HOME", self.directory.path())
            .env("TMPDIR", self.directory.path());
        podman
            .arg("--runtime")
            .arg(&self.program)
            .arg("--root")
            .arg(at("root"))
            .arg("--runroot")
            .arg(at("run"));
        podman.arg("--tmpdir").arg(at("tmp"));
        podman
            .args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=file"])
            .args(arguments);
        podman
    }

    fn podman(&self, arguments: &[&str]) -> Finished {
        command::run(&mut self.command(arguments), LIMIT)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.podman(&["rm", "--all", "--force", "--time", "1"]);
        unmount_below(self.directory.path());
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Outcome {
    if got == want { Ok(()) } else { Err(format!("{what}: got {got:?}, want {want:?}")) }
}

fn cases(report: &Report, p: &Podman) {
    report.case("run_prints_and_gives_the_status", || {
        let finished = p.podman(&[
            "run",
            "--rm",
            "--network=none",
            "-e",
            "A=1",
            "-w",
            "/tmp",
            IMAGE,
            "sh",
            "-c",
            "echo $A; pwd; exit 3",
        ]);
        equal("output", finished.stdout.as_str(), "1\n/tmp\n")
            .map_err(|w| format!("{w}; {}", finished.summary()))?;
        equal("status", finished.shell_status(), 3)
    });
    report.case("standard_input_user_volume_and_limits", || {
        let volume = format!("{}:/data", p.directory.path().display());
        let flags = [
            "run",
            "--rm",
            "-i",
            "--network=none",
            "--user",
            "1000:1000",
            "-v",
            &volume,
            "--memory=128m",
            "--hostname=pod",
            IMAGE,
        ];
        let script = ["sh", "-c", "cat; id -u; hostname; test -e /data/policy.json && echo volume"];
        let finished =
            command::run_with_input(&mut p.command(&[&flags[..], &script[..]].concat()), b"typed\n", LIMIT);
        equal("output", finished.stdout.as_str(), "typed\n1000\npod\nvolume\n")
            .map_err(|w| format!("{w}; {}", finished.summary()))
    });
    report.case("detached_exec_logs_stop_and_remove", || {
        let script = "trap 'exit 5' TERM; echo started; while :; do sleep 0.1; done";
        p.podman(&["run", "-d", "--network=none", "--name", "bg", IMAGE, "sh", "-c", script]).ok("run -d")?;
        let finished = p.podman(&["exec", "bg", "sh", "-c", "echo exec; exit 6"]);
        equal("exec", (finished.stdout.as_str(), finished.shell_status()), ("exec\n", 6))
            .map_err(|w| format!("{w}; {}", finished.summary()))?;
        equal("logs", p.podman(&["logs", "bg"]).stdout.as_str(), "started\n")?;
        equal(
            "running",
            p.podman(&["inspect", "-f", "{{.State.Status}}", "bg"]).stdout.as_str(),
            "running\n",
        )?;
        p.podman(&["stop", "bg"]).ok("stop")?;
        equal("exit code", p.podman(&["inspect", "-f", "{{.State.ExitCode}}", "bg"]).stdout.as_str(), "5\n")?;
        p.podman(&["start", "bg"]).ok("start again")?;
        p.podman(&["kill", "bg"]).ok("kill")?;
        equal("wait", p.podman(&["wait", "bg"]).stdout.as_str(), "137\n")?;
        p.podman(&["rm", "bg"]).ok("rm").map(drop)
    });
    report.case("a_terminal", || {
        let command = p.command(&[
            "run",
            "--rm",
            "-it",
            "--network=none",
            IMAGE,
            "sh",
            "-c",
            "until stty size 2>/dev/null | grep -x '21 88'; do sleep 0.05; done; read x; echo got $x; exit 4",
        ]);
        let mut with_environment = Command::new("env");
        for (key, value) in command.get_envs() {
            if let Some(value) = value {
                with_environment.arg(format!("{}={}", key.to_string_lossy(), value.to_string_lossy()));
            }
        }
        with_environment.arg(command.get_program()).args(command.get_args());
        let screen = harness::terminal::Screen::start(&with_environment, 88, 21)?;
        screen.wait_for_line("21 88")?;
        screen.send(&["typed", "Enter"])?;
        screen.wait_for_line("got typed")?;
        screen.wait_for_line("exit status 4")
    });
    report.case("missing_commands_have_their_own_statuses", || {
        equal(
            "not found",
            p.podman(&["run", "--rm", "--network=none", IMAGE, "/no/such"]).shell_status(),
            127,
        )?;
        equal(
            "not executable",
            p.podman(&["run", "--rm", "--network=none", IMAGE, "/etc/passwd"]).shell_status(),
            126,
        )
    });
    report.case("nothing_is_left", || {
        equal("containers", p.podman(&["ps", "-aq"]).stdout.as_str(), "")?;
        let family = harness::host::family_of(p.runtime.binary(), &[]);
        if family.is_empty() { Ok(()) } else { Err(format!("{family:?}")) }
    });
}
