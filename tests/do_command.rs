//! `runsc do`: what a person types first. Output, input, status, signals and terminals pass
//! through; the host's files are there to read and cannot be changed; flags do what one guesses.

use harness::command::{self, Finished};
use harness::report::Report;
use harness::sandbox::{Platform, Runtime};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
type Outcome = Result<(), String>;

struct Do<'a> {
    runtime: &'a Runtime,
    platform: Platform,
}

fn main() {
    let report = Report::from_arguments();
    match Runtime::new(env!("CARGO_BIN_EXE_runsc")) {
        Ok(runtime) => {
            for platform in Platform::ON_AND_OFF {
                let it = Do { runtime: &runtime, platform };
                let case = |name: &str, body: &dyn Fn(&Do) -> Outcome| {
                    report.case(&format!("{}/{name}", platform.name()), || body(&it));
                };
                stream_cases(&case);
                file_cases(&case);
                signal_and_terminal_cases(&case);
                other_cases(&case);
            }
        }
        Err(why) => report.add("do/setup", Err(why), ""),
    }
    report.finish();
}

impl Do<'_> {
    /// `runsc --root DIR --platform P GLOBAL... do FLAGS... -- ARGS...`
    fn command(&self, globals: &[&str], flags: &[&str], arguments: &[&str]) -> Command {
        let all = [globals, &["do"], flags, &["--"], arguments].concat();
        let mut command = self.runtime.on(self.platform, &all);
        command.current_dir("/");
        command
    }

    fn run(&self, flags: &[&str], arguments: &[&str]) -> Finished {
        command::run(&mut self.command(&[], flags, arguments), LIMIT)
    }

    fn script(&self, script: &str) -> Finished {
        self.run(&[], &["sh", "-c", script])
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Outcome {
    if got == want { Ok(()) } else { Err(format!("{what}: got {got:?}, want {want:?}")) }
}

/// Output and status, with the whole story if they are wrong.
fn gives(finished: &Finished, stdout: &str, status: i32) -> Outcome {
    let right = finished.stdout == stdout && finished.shell_status() == status;
    if right {
        Ok(())
    } else {
        Err(format!("want status {status} and {stdout:?}, got {}", finished.summary()))
    }
}

type Case<'a> = &'a dyn Fn(&str, &dyn Fn(&Do) -> Outcome);

fn stream_cases(case: Case) {
    case("the_first_command", &|it| {
        let finished = it.script("uname -a; id; ls -l /; cat /proc/self/status");
        let text = finished.clone().ok("do")?;
        for part in ["Linux ", "uid=0(root) gid=0(root)", " etc", " usr", "Name:\tcat\n", "Threads:\t1\n"] {
            if !text.contains(part) {
                return Err(format!("no {part:?} in {}", finished.summary()));
            }
        }
        Ok(())
    });
    case("exit_statuses", &|it| {
        for status in [0, 1, 42, 255] {
            gives(&it.script(&format!("exit {status}")), "", status)?;
        }
        gives(&it.script("kill -KILL $$"), "", 137)?;
        gives(&it.script("kill -SEGV $$"), "", 139)?;
        gives(&it.run(&[], &["/no/such/command"]), "", 127)?;
        gives(&it.run(&[], &["no-such-command"]), "", 127)?;
        gives(&it.run(&[], &["/etc/passwd"]), "", 126)
    });
    case("both_outputs_and_input_pass_through", &|it| {
        let script = "cat; echo err >&2; exit 5";
        let finished =
            command::run_with_input(&mut it.command(&[], &[], &["sh", "-c", script]), b"typed", LIMIT);
        gives(&finished, "typed", 5)?;
        equal("stderr", finished.stderr.as_str(), "err\n")
    });
    case("much_output_and_much_input", &|it| {
        let finished = it.script("seq 1 500000");
        equal("bytes", finished.stdout.len(), 3_388_895)?;
        let input = vec![b'x'; 3_000_000];
        let finished = command::run_with_input(&mut it.command(&[], &[], &["wc", "-c"]), &input, LIMIT);
        gives(&finished, "3000000\n", 0)
    });
    case("standard_streams_may_be_files_or_closed", &|it| {
        let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
        let inner = it.command(&[], &[], &["sh", "-c", "cat; echo more; test -t 0 || echo no terminal"]);
        let mut sh = Command::new("sh");
        let script =
            "echo from a file >in; \"$@\" <in >out; \"$@\" <in >>out; cat out; \"$@\" <&- >&- 2>&-; echo $?";
        sh.current_dir(directory.path())
            .args(["-c", script, "sh"])
            .arg(inner.get_program())
            .args(inner.get_args());
        let once = "from a file\nmore\nno terminal\n";
        let finished = command::run(&mut sh, LIMIT);
        if finished.stdout.starts_with(&format!("{once}{once}")) { Ok(()) } else { Err(finished.summary()) }
    });
    case("a_reader_that_goes_away_ends_the_command", &|it| {
        let inner = it.command(&[], &[], &["yes"]);
        let mut sh = Command::new("bash");
        let script = "\"$@\" | head -n 2; echo ${PIPESTATUS[0]}";
        sh.args(["-c", script, "bash"]).arg(inner.get_program()).args(inner.get_args());
        gives(&command::run(&mut sh, LIMIT), "y\ny\n141\n", 0)
    });
}

fn file_cases(case: Case) {
    case("writes_to_the_hosts_files_stay_inside", &|it| {
        let outside = tempfile::tempdir().map_err(|e| e.to_string())?;
        let file = outside.path().join("file");
        std::fs::write(&file, "original\n").map_err(|e| e.to_string())?;
        let f = file.display();
        let script = format!(
            "cat {f}; echo changed >{f}; cat {f}; touch {f}2; rm -rf /etc/passwd; ls {f}2 >/dev/null && echo made"
        );
        gives(&it.script(&script), "original\nchanged\nmade\n", 0)?;
        equal("outside", std::fs::read_to_string(&file).map_err(|e| e.to_string())?.as_str(), "original\n")?;
        equal("a new file outside", outside.path().join("file2").exists(), false)?;
        equal("/etc/passwd", Path::new("/etc/passwd").exists(), true)
    });
    case("volumes_are_the_hosts_own", &|it| {
        let outside = tempfile::tempdir().map_err(|e| e.to_string())?;
        std::fs::write(outside.path().join("in"), "from outside\n").map_err(|e| e.to_string())?;
        let path = outside.path().display();
        let (writable, fixed) = (format!("{path}:/mnt"), format!("{path}:/media:ro"));
        let script =
            "cat /mnt/in; echo back >/mnt/out; cat /media/out; touch /media/x 2>/dev/null || echo read-only";
        gives(
            &it.run(&["--volume", &writable, "--volume", &fixed], &["sh", "-c", script]),
            "from outside\nback\nread-only\n",
            0,
        )?;
        equal(
            "outside",
            std::fs::read_to_string(outside.path().join("out")).map_err(|e| e.to_string())?.as_str(),
            "back\n",
        )
    });
    case("removals_in_a_volume_are_told_to_who_watches", &|it| {
        let outside = tempfile::tempdir().map_err(|e| e.to_string())?;
        let path = outside.path().to_string_lossy().into_owned();
        // Names that the kernel has seen before and not; IN_DELETE is 0x200.
        let script = format!(
            "import ctypes, os; c = ctypes.CDLL(None); os.chdir('{path}'); q = c.inotify_init1(os.O_NONBLOCK)
os.mkdir('new'); open('made', 'w'); c.inotify_add_watch(q, b'.', 0x200)
for f in 'made', 'old': os.unlink(f)
for d in 'new', 'there': os.rmdir(d)
events = os.read(q, 4096) # 32 bytes each, of which the last 16 are the name
print([events[i + 16:i + 32].strip(b'\\0').decode() for i in range(0, len(events), 32)])"
        );
        let python = ["/usr/bin/python3", "-c", &script];
        for native in [true, false] {
            std::fs::write(outside.path().join("old"), "").map_err(|e| e.to_string())?;
            std::fs::create_dir(outside.path().join("there")).map_err(|e| e.to_string())?;
            let finished = match native {
                true => command::run(Command::new(python[0]).args(&python[1..]), LIMIT),
                false => it.run(&["--volume", &format!("{path}:{path}")], &python),
            };
            gives(&finished, "['made', 'old', 'new', 'there']\n", 0)?;
        }
        Ok(())
    });
    case("another_root_directory_environment_and_user", &|it| {
        let root = tempfile::tempdir().map_err(|e| e.to_string())?;
        harness::bundle::make_rootfs(root.path())?;
        let flags = [
            "--rootfs",
            &root.path().to_string_lossy(),
            "--cwd",
            "/tmp",
            "--env",
            "A=x y",
            "--user",
            "1000:1000",
            "--hostname",
            "there",
        ];
        let script =
            "pwd; echo $A; id -u; hostname; test -e /usr || echo small; touch /tmp/f && echo writable";
        gives(&it.run(&flags, &["sh", "-c", script]), "/tmp\nx y\n1000\nthere\nsmall\nwritable\n", 0)?;
        equal("the tree outside", root.path().join("tmp/f").exists(), false)
    });
    case("the_directory_is_the_callers", &|it| {
        let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
        let path = directory.path().canonicalize().map_err(|e| e.to_string())?;
        let finished = command::run(it.command(&[], &[], &["pwd"]).current_dir(&path), LIMIT);
        gives(&finished, &format!("{}\n", path.display()), 0)
    });
}

fn signal_and_terminal_cases(case: Case) {
    case("signals_reach_the_command", &|it| {
        let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
        let inner = it.command(
            &[],
            &[],
            &["sh", "-c", "trap 'echo caught; exit 8' TERM; echo ready; while :; do sleep 0.05; done"],
        );
        let script = "\"$@\" >out & pid=$!; for i in $(seq 200); do grep -q ready out && break; sleep 0.05; done; kill -TERM $pid; wait $pid; echo $?; cat out";
        let mut sh = Command::new("bash");
        sh.current_dir(directory.path())
            .args(["-c", script, "bash"])
            .arg(inner.get_program())
            .args(inner.get_args());
        gives(&command::run(&mut sh, LIMIT), "8\nready\ncaught\n", 0)
    });
    case("killing_runsc_ends_the_sandbox", &|it| {
        let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
        let out = directory.path().join("out");
        let inner = it.command(&[], &[], &["sh", "-c", "echo up; sleep 1000 & sleep 1001"]);
        let file = std::fs::File::create(&out).map_err(|e| e.to_string())?;
        let mut child = Command::new(inner.get_program());
        let mut child = child.args(inner.get_args()).stdout(file).spawn().map_err(|e| e.to_string())?;
        let up = || std::fs::read_to_string(&out).is_ok_and(|t| t == "up\n");
        let started = command::eventually("the command runs", Duration::from_secs(10), up);
        let _ = child.kill();
        let _ = child.wait();
        started?;
        let family = || harness::host::family_of(it.runtime.binary(), &[]).len();
        command::eventually("all processes are gone", LIMIT, || family() == 0)
    });
    case("a_terminal_with_size_interrupt_and_status", &|it| {
        let shell = it.command(&[], &["--tty"], &["bash", "--norc"]);
        let screen = harness::terminal::Screen::start(&shell, 77, 22)?;
        screen.send(&["PS1='ready> '", "Enter"])?;
        screen.wait_for_last_line("ready>")?;
        screen.send(&["echo size $(stty size)", "Enter"])?;
        screen.wait_for_line("size 22 77")?;
        // The shell has given the terminal back to line mode once its command runs; before, it would take the text.
        screen.send(&["echo started; sed -u s/^/sed:/", "Enter"])?;
        screen.wait_for_line("started")?;
        screen.send(&["typed", "Enter"])?;
        screen.wait_for_line("sed:typed")?;
        screen.send(&["C-c"])?;
        screen.wait_for_last_line("ready>")?;
        screen.send(&["exit 6", "Enter"])?;
        screen.wait_for_line("exit status 6")
    });
}

fn other_cases(case: Case) {
    case("no_network_but_loopback", &|it| {
        let finished = it.run(
            &["--network", "none"],
            &[
                "sh",
                "-c",
                "ls /sys/class/net 2>/dev/null; tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '",
            ],
        );
        let others: Vec<&str> = finished.stdout.lines().filter(|l| *l != "lo").collect();
        equal("status", finished.shell_status(), 0).map_err(|w| format!("{w}: {}", finished.summary()))?;
        equal("other interfaces", others, vec![])
    });
    case("strace_prints_calls_as_strace_does", &|it| {
        let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
        let log = directory.path().join("log").to_string_lossy().into_owned();
        let mut command = it.command(&["--strace", "--debug-log", &log], &[], &["cat", "/etc/hostname"]);
        command::run(&mut command, LIMIT).ok("do")?;
        let text = std::fs::read_to_string(&log).map_err(|e| format!("{log}: {e}"))?;
        let plain = text.replace("\\\"", "\""); // logfmt quotes its messages
        for part in ["openat(AT_FDCWD, \"/etc/hostname\", O_RDONLY", "close(", "exit_group(0)"] {
            if !plain.contains(part) {
                return Err(format!("no {part} in the log: {}", command::tail(&plain)));
            }
        }
        Ok(())
    });
    case("an_unimplemented_call_is_logged_once_by_name", &|it| {
        let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
        let log = directory.path().join("log").to_string_lossy().into_owned();
        let script = "perl -e 'for (1..3) { syscall(323, 0) }'; true"; // userfaultfd
        let mut command = it.command(&["--debug-log", &log], &[], &["sh", "-c", script]);
        command::run(&mut command, LIMIT).ok("do")?;
        let text = std::fs::read_to_string(&log).map_err(|e| format!("{log}: {e}"))?;
        equal("lines that name userfaultfd", text.lines().filter(|l| l.contains("userfaultfd")).count(), 1)
    });
    case("an_ordinary_user_needs_no_privilege", &|it| {
        let directory =
            tempfile::Builder::new().prefix("runsc-user.").tempdir_in("/tmp").map_err(|e| e.to_string())?;
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(directory.path(), everybody).map_err(|e| e.to_string())?;
        let binary = directory.path().join("runsc");
        std::fs::copy(it.runtime.binary(), &binary).map_err(|e| e.to_string())?;
        let mut command = Command::new("setpriv");
        command
            .current_dir("/")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--"])
            .arg(&binary);
        command.arg("--root").arg(directory.path().join("state")).args([
            "--platform",
            it.platform.option(),
            "--rootless",
            "do",
            "--",
        ]);
        let finished = command::run(
            command.args([
                "sh",
                "-c",
                "id -u; cat /etc/hostname >/dev/null && echo reads; touch /tmp/f && echo writes; exit 9",
            ]),
            LIMIT,
        );
        let text = finished.stdout.as_str();
        if finished.shell_status() == 9 && text.ends_with("reads\nwrites\n") {
            Ok(())
        } else {
            Err(finished.summary())
        }
    });
    case("bad_flags_are_refused_in_one_line", &|it| {
        for flags in [
            ["--volume", "/no/such:/mnt"],
            ["--rootfs", "/no/such"],
            ["--user", "no-such-user"],
            ["--network", "host"],
        ] {
            let finished = it.run(&flags, &["true"]);
            let lines = finished.stderr.lines().filter(|l| !l.trim().is_empty()).count();
            if finished.success() || finished.status.is_none() || lines != 1 {
                return Err(format!("{flags:?}: {}", finished.summary()));
            }
        }
        Ok(())
    });
}
