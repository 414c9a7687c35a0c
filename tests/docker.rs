//! Docker runs containers with `runsc`: a dockerd on a private socket and data root, no bridge,
//! no iptables.
//!
//! Runs with runc too: `RUNSC_UNDER_TEST=/usr/sbin/runc`.

use harness::bundle::{IMAGE, image_tarball};
use harness::command::{self, Finished};
use harness::daemon::{self, Daemon};
use harness::report::Report;
use harness::sandbox::{Runtime, on_each_platform};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(90);
type Outcome = Result<(), String>;

struct Docker {
    daemon: Daemon,
    runtime: Runtime,
}

fn main() {
    let report = Report::from_arguments();
    on_each_platform(&report, env!("CARGO_BIN_EXE_runsc"), |runtime| {
        cases(&report, &start(runtime)?);
        Ok(())
    });
    report.finish();
}

fn start(runtime: Runtime) -> Result<Docker, String> {
    let directory = daemon::private_directory("dkr")?;
    let at = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let tarball = image_tarball(directory.path())?;
    std::fs::write(at("daemon.json"), "{}").map_err(|e| e.to_string())?;
    let mut dockerd = Command::new("dockerd");
    dockerd.env("HOME", directory.path());
    dockerd.arg(format!("--host=unix://{}", at("sock"))).arg(format!("--config-file={}", at("daemon.json")));
    dockerd.arg(format!("--data-root={}", at("data"))).arg(format!("--exec-root={}", at("exec")));
    dockerd
        .arg(format!("--pidfile={}", at("pid")))
        .arg(format!("--add-runtime=tested={}", runtime.program()?.display()));
    dockerd.args([
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
        "--ip-forward=false",
        "--storage-driver=vfs",
    ]);
    dockerd.args(["--exec-opt", "native.cgroupdriver=cgroupfs"]);
    let daemon = Daemon::start("dockerd", directory, dockerd, |path| {
        command::run(&mut docker(path, &["version"]), LIMIT)
    })?;
    command::run(&mut docker(daemon.path(), &["load", "-i", &tarball.to_string_lossy()]), LIMIT)
        .ok("docker load")?;
    Ok(Docker { daemon, runtime })
}

fn docker(directory: &Path, arguments: &[&str]) -> Command {
    let mut docker = Command::new("docker");
    docker
        .arg("--config")
        .arg(directory.join("client"))
        .arg("--host")
        .arg(format!("unix://{}/sock", directory.display()));
    docker.args(arguments);
    docker
}

impl Docker {
    fn docker(&self, arguments: &[&str]) -> Finished {
        command::run(&mut docker(self.daemon.path(), arguments), LIMIT)
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        self.docker(&[&["run", "--runtime=tested", "--network=none"], arguments].concat())
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Outcome {
    if got == want { Ok(()) } else { Err(format!("{what}: got {got:?}, want {want:?}")) }
}

fn cases(report: &Report, d: &Docker) {
    let case = |name: &str, body: &dyn Fn() -> Outcome| {
        report.case(name, || body().map_err(|why| format!("{why}\ndockerd's log: {}", d.daemon.log_tail())));
    };
    case("run_prints_and_gives_the_status", &|| {
        let finished = d.run(&["--rm", "-e", "A=1", "-w", "/tmp", IMAGE, "sh", "-c", "echo $A; pwd; exit 3"]);
        equal("output", finished.stdout.as_str(), "1\n/tmp\n")
            .map_err(|w| format!("{w}; {}", finished.summary()))?;
        equal("status", finished.shell_status(), 3)
    });
    case("user_volume_limits_and_read_only_root", &|| {
        let volume = format!("{}:/data:ro", d.daemon.path().display());
        let script =
            "id -u; test -e /data/daemon.json && echo volume; touch /x 2>/dev/null || echo ro; ulimit -n";
        let flags = [
            "--rm",
            "--user",
            "1000:1000",
            "-v",
            &volume,
            "--memory=128m",
            "--cpus=1",
            "--read-only",
            "--ulimit",
            "nofile=99:99",
        ];
        let finished = d.run(&[&flags[..], &[IMAGE, "sh", "-c", script]].concat());
        equal("output", finished.stdout.as_str(), "1000\nvolume\nro\n99\n")
            .map_err(|w| format!("{w}; {}", finished.summary()))
    });
    case("detached_exec_logs_stop_and_remove", &|| {
        let script = "trap 'exit 5' TERM; echo started; while :; do sleep 0.1; done";
        d.run(&["-d", "--name", "bg", IMAGE, "sh", "-c", script]).ok("run -d")?;
        let finished = d.docker(&["exec", "bg", "sh", "-c", "echo exec; exit 6"]);
        equal("exec", (finished.stdout.as_str(), finished.shell_status()), ("exec\n", 6))
            .map_err(|w| format!("{w}; {}", finished.summary()))?;
        equal("logs", d.docker(&["logs", "bg"]).stdout.as_str(), "started\n")?;
        let top = d.docker(&["top", "bg"]).ok("top")?;
        equal("top has a process", top.lines().count() > 1, true)?;
        d.docker(&["pause", "bg"]).ok("pause")?;
        d.docker(&["unpause", "bg"]).ok("unpause")?;
        d.docker(&["stop", "bg"]).ok("stop")?;
        equal("exit code", d.docker(&["inspect", "-f", "{{.State.ExitCode}}", "bg"]).stdout.as_str(), "5\n")?;
        d.docker(&["start", "bg"]).ok("start again")?;
        d.docker(&["kill", "bg"]).ok("kill")?;
        equal("wait", d.docker(&["wait", "bg"]).stdout.as_str(), "137\n")?;
        d.docker(&["rm", "bg"]).ok("rm").map(drop)
    });
    case("a_terminal", &|| {
        let arguments = [
            "run",
            "--runtime=tested",
            "--network=none",
            "--rm",
            "-it",
            IMAGE,
            "sh",
            "-c",
            "until stty size 2>/dev/null | grep -x '21 88'; do sleep 0.05; done; read x; echo got $x; exit 4",
        ];
        let screen = harness::terminal::Screen::start(&docker(d.daemon.path(), &arguments), 88, 21)?;
        screen.wait_for_line("21 88")?;
        screen.send(&["typed", "Enter"])?;
        screen.wait_for_line("got typed")?;
        screen.wait_for_line("exit status 4")
    });
    case("missing_commands_have_their_own_statuses", &|| {
        equal("not found", d.run(&["--rm", IMAGE, "/no/such"]).shell_status(), 127)?;
        equal("not executable", d.run(&["--rm", IMAGE, "/etc/passwd"]).shell_status(), 126)
    });
    case("nothing_is_left", &|| {
        equal("containers", d.docker(&["ps", "-aq"]).stdout.as_str(), "")?;
        let family = harness::host::family_of(d.runtime.binary(), &[]);
        if family.is_empty() { Ok(()) } else { Err(format!("{family:?}")) }
    });
}
