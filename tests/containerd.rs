//! A real containerd, on a private socket, runs containers with `runsc` through its runc shim:
//! an imported image in the foreground, detached, exec'd into, with a terminal, killed, removed.
//!
//! Runs with runc too: `RUNSC_UNDER_TEST=/usr/sbin/runc`.

use harness::bundle::{IMAGE, image_tarball};
use harness::command::{self, Finished, eventually};
use harness::daemon::{self, Daemon};
use harness::report::Report;
use harness::sandbox::{Runtime, on_each_platform};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
type Outcome = Result<(), String>;

struct Containerd {
    daemon: Daemon,
    program: PathBuf,
    /// Whose directory the program lies in.
    _runtime: Runtime,
}

fn main() {
    let report = Report::from_arguments();
    on_each_platform(&report, env!("CARGO_BIN_EXE_runsc"), |runtime| {
        let containerd = start(runtime)?;
        cases(&report, &containerd);
        report.case("nothing_is_left", || {
            let left =
                eventually("shims and containers are gone", LIMIT, || shims(&containerd.daemon).is_empty());
            left.map_err(|why| format!("{why}: {:?}", shims(&containerd.daemon)))
        });
        Ok(())
    });
    report.finish();
}

fn shims(daemon: &Daemon) -> Vec<String> {
    let ours = |p: &harness::host::Process| !p.command_line.starts_with("containerd ");
    daemon.offspring().into_iter().filter(ours).map(|p| p.command_line).collect()
}

fn start(runtime: Runtime) -> Result<Containerd, String> {
    let program = runtime.program()?;
    let directory = daemon::private_directory("ctd")?;
    let path = directory.path();
    let config = format!(
        "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\naddress = \"{0}/sock\"\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{0}/opt\"\n",
        path.display()
    );
    std::fs::write(path.join("config.toml"), config).map_err(|e| e.to_string())?;
    let tarball = image_tarball(path)?;
    let mut containerd = Command::new("containerd");
    containerd.arg("--config").arg(path.join("config.toml"));
    let daemon = Daemon::start("containerd", directory, containerd, |path| {
        command::run(&mut ctr(path, &["version"]), LIMIT)
    })?;
    let import = ["images", "import", "--snapshotter", "native", &tarball.to_string_lossy()];
    command::run(&mut ctr(daemon.path(), &import), LIMIT).ok("import")?;
    Ok(Containerd { daemon, program, _runtime: runtime })
}

fn ctr(directory: &Path, arguments: &[&str]) -> Command {
    let mut ctr = Command::new("ctr");
    ctr.arg("--address").arg(directory.join("sock")).args(arguments);
    ctr
}

impl Containerd {
    fn ctr(&self, arguments: &[&str]) -> Finished {
        command::run(&mut ctr(self.daemon.path(), arguments), LIMIT)
    }

    /// `ctr run FLAGS... IMAGE ID ARGS...` with the runtime under test.
    fn run_command(&self, flags: &[&str], id: &str, arguments: &[&str]) -> Command {
        let mut command = ctr(
            self.daemon.path(),
            &["run", "--snapshotter", "native", "--runtime", "io.containerd.runc.v2"],
        );
        command.arg("--runc-binary").arg(&self.program);
        command.arg("--runc-root").arg(self.daemon.path().join("runtime-root"));
        command.args(flags).arg(IMAGE).arg(id).args(arguments);
        command
    }

    fn run(&self, flags: &[&str], id: &str, arguments: &[&str]) -> Finished {
        command::run(&mut self.run_command(flags, id, arguments), LIMIT)
    }

    fn task_status(&self, id: &str) -> String {
        let list = self.ctr(&["tasks", "list"]).stdout;
        let line = list.lines().find(|l| l.split_whitespace().next() == Some(id));
        line.and_then(|l| l.split_whitespace().nth(2)).unwrap_or("none").to_owned()
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Outcome {
    if got == want { Ok(()) } else { Err(format!("{what}: got {got:?}, want {want:?}")) }
}

fn cases(report: &Report, c: &Containerd) {
    let case = |name: &str, body: &dyn Fn() -> Outcome| {
        report
            .case(name, || body().map_err(|why| format!("{why}\ncontainerd's log: {}", c.daemon.log_tail())));
    };
    case("a_foreground_container_prints_and_gives_its_status", &|| {
        let finished =
            c.run(&["--rm"], "fg", &["sh", "-c", "echo from the container; echo $((6*7)); exit 3"]);
        equal("output", finished.stdout.as_str(), "from the container\n42\n")
            .map_err(|w| format!("{w}; {}", finished.summary()))?;
        equal("status", finished.shell_status(), 3)
    });
    case("environment_directory_mounts_and_read_only_root", &|| {
        let flags = [
            "--rm",
            "--env",
            "A=1",
            "--cwd",
            "/tmp",
            "--read-only",
            "--mount",
            "type=tmpfs,src=tmpfs,dst=/data,options=rw",
        ];
        let script = "echo $A; pwd; touch /x 2>/dev/null || echo ro; touch /data/y && echo rw";
        let finished = c.run(&flags, "env", &["sh", "-c", script]);
        equal("output", finished.stdout.as_str(), "1\n/tmp\nro\nrw\n")
            .map_err(|w| format!("{w}; {}", finished.summary()))
    });
    case("detached_exec_kill_remove", &|| {
        c.run(&["--detach"], "bg", &["sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.1; done"])
            .ok("run --detach")?;
        equal("status", c.task_status("bg").as_str(), "RUNNING")?;
        let finished = c.ctr(&["tasks", "exec", "--exec-id", "one", "bg", "sh", "-c", "echo exec; exit 6"]);
        equal("exec", (finished.stdout.as_str(), finished.shell_status()), ("exec\n", 6))?;
        let processes = c.ctr(&["tasks", "ps", "bg"]).ok("tasks ps")?;
        equal("ps has a line for a process", processes.lines().count() > 1, true)?;
        c.ctr(&["tasks", "pause", "bg"]).ok("pause")?;
        equal("paused", c.task_status("bg").as_str(), "PAUSED")?;
        c.ctr(&["tasks", "resume", "bg"]).ok("resume")?;
        c.ctr(&["tasks", "kill", "--signal", "TERM", "bg"]).ok("kill")?;
        eventually("stopped", LIMIT, || c.task_status("bg") == "STOPPED")?;
        c.ctr(&["tasks", "delete", "bg"])
            .ok("tasks delete")
            .or_else(|why| if why.contains("exit status: 5") { Ok(String::new()) } else { Err(why) })?;
        c.ctr(&["containers", "delete", "bg"]).ok("containers delete").map(drop)
    });
    case("a_terminal", &|| {
        let command = c.run_command(
            &["--rm", "--tty"],
            "tty",
            &["sh", "-c", "until stty size 2>/dev/null | grep -x '21 88'; do sleep 0.05; done; read x; echo got $x; exit 4"],
        );
        let screen = harness::terminal::Screen::start(&command, 88, 21)?;
        screen.wait_for_line("21 88")?;
        screen.send(&["typed", "Enter"])?;
        screen.wait_for_line("got typed")?;
        screen.wait_for_text("exit status 4")
    });
    case("an_exec_with_a_terminal_and_kill_by_force", &|| {
        c.run(&["--detach"], "hard", &["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])
            .ok("run --detach")?;
        let exec = ctr(c.daemon.path(), &["tasks", "exec", "--tty", "--exec-id", "two", "hard", "tty"]);
        let screen = harness::terminal::Screen::start(&exec, 80, 20)?;
        screen.wait_for_text("/dev/pts/")?;
        screen.wait_for_line("exit status 0")?;
        c.ctr(&["tasks", "kill", "--signal", "KILL", "hard"]).ok("kill")?;
        eventually("stopped", LIMIT, || c.task_status("hard") == "STOPPED")?;
        c.ctr(&["tasks", "delete", "hard"]);
        c.ctr(&["containers", "delete", "hard"]).ok("containers delete").map(drop)
    });
    case("a_missing_command_is_refused_and_cleaned_up", &|| {
        let finished = c.run(&["--rm"], "bad", &["/no/such/command"]);
        equal("success", finished.success(), false)?;
        equal("task", c.task_status("bad").as_str(), "none")?;
        c.ctr(&["containers", "delete", "bad"]);
        Ok(())
    });
}
