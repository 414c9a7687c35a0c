//! Containers from create to delete: states, signals, exec, ps, pause, list, cgroups,
//! concurrent commands, and SIGKILL of any part; nothing may stay behind.
//!
//! Runs with runc too: `RUNSC_UNDER_TEST=/usr/sbin/runc`.

use harness::bundle::Bundle;
use harness::command::{self, eventually};
use harness::container::{Container, new_id};
use harness::host;
use harness::report::Report;
use harness::sandbox::{Runtime, on_each_platform};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
const FOREVER: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
type Outcome = Result<(), String>;

fn main() {
    let report = Report::from_arguments();
    on_each_platform(&report, env!("CARGO_BIN_EXE_runsc"), |runtime| {
        state_cases(&report, &runtime);
        exec_cases(&report, &runtime);
        process_cases(&report, &runtime);
        cgroup_cases(&report, &runtime);
        concurrency_cases(&report, &runtime);
        crash_cases(&report, &runtime);
        small_command_cases(&report, &runtime);
        report.case("nothing_is_left_at_the_end", || nothing_left(&runtime, ""));
        Ok(())
    });
    report.finish();
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Outcome {
    if got == want { Ok(()) } else { Err(format!("{what}: got {got:?}, want {want:?}")) }
}

/// No process of the runtime, no cgroup of the container, no mount, no state.
fn nothing_left(runtime: &Runtime, id: &str) -> Outcome {
    eventually("processes, cgroups, mounts and state are gone", Duration::from_secs(5), || {
        leftovers(runtime, id).is_empty()
    })
    .map_err(|why| format!("{why}: {:?}", leftovers(runtime, id)))
}

fn leftovers(runtime: &Runtime, id: &str) -> Vec<String> {
    let mut found: Vec<String> = host::family_of(runtime.binary(), &[])
        .iter()
        .map(|p| format!("process {} {}", p.pid, p.command_line))
        .collect();
    if !id.is_empty() {
        found.extend(host::cgroups_named(id).iter().map(|c| c.display().to_string()));
    }
    found.extend(host::mounts_below(&runtime.state_dir()));
    let entries = std::fs::read_dir(runtime.state_dir()).into_iter().flatten().flatten();
    found.extend(entries.filter(|e| e.path().is_dir()).map(|e| format!("state {}", e.path().display())));
    found
}

fn state_cases(report: &Report, runtime: &Runtime) {
    report.case("create_start_kill_delete", || {
        let marker_script = "echo started >/data/marker; ".to_owned() + FOREVER;
        let bundle = Bundle::script(&marker_script)?;
        let marker = bundle.rootfs().join("data/marker");
        let shown = json!({"destination": "/data", "type": "bind", "source": bundle.rootfs().join("data"), "options": ["bind"]});
        let c = Container::created(runtime, bundle.push("/mounts", shown))?;
        let state = c.state()?;
        equal("status", state["status"].as_str(), Some("created"))?;
        equal("id", state["id"].as_str(), Some(c.id.as_str()))?;
        equal("bundle", state["bundle"].as_str(), c.bundle.path().to_str())?;
        equal("the process is there", host::exists(c.pid()?), true)?;
        equal("nothing ran before start", marker.exists(), false)?;
        c.command(&["start"]).ok("start")?;
        equal("status", c.status()?, "running".into())?;
        eventually("the program ran", LIMIT, || marker.exists())?;
        equal("start again", c.command(&["start"]).success(), false)?;
        equal("delete while running", c.command(&["delete"]).success(), false)?;
        c.kill("TERM")?;
        c.wait_for_status("stopped")?;
        equal("kill when stopped", c.kill("TERM").is_err(), true)?;
        c.delete()?;
        equal("state after delete", c.command(&["state"]).success(), false)?;
        nothing_left(runtime, &c.id)
    });
    report.case("a_created_container_can_be_deleted", || {
        let c = Container::created(runtime, Bundle::script(FOREVER)?)?;
        c.delete_force()?;
        nothing_left(runtime, &c.id)
    });
    report.case("signals_by_name_number_and_prefix", || {
        for (signal, number) in [("USR1", 10), ("SIGUSR2", 12), ("1", 1), ("RTMIN+2", 36)] {
            if signal.contains('+') && !runtime.is_ours() {
                continue;
            }
            let script =
                format!("trap 'exit {number}' {}; touch /tmp/ready; while :; do sleep 0.05; done", number);
            let c = Container::running(runtime, &script)?;
            eventually("ready", LIMIT, || c.exec(&[], &["test", "-e", "/tmp/ready"]).success())?;
            c.kill(signal).map_err(|why| format!("{signal}: {why}"))?;
            c.wait_for_status("stopped")?;
        }
        let c = Container::running(runtime, FOREVER)?;
        equal("an unknown signal", c.kill("NONSENSE").is_err(), true)
    });
    report.case("kill_all_reaches_every_process", || {
        let c = Container::running(runtime, "sleep 1000 & sleep 1001 & trap '' TERM; sleep 1002")?;
        command::run(&mut runtime.command(&["kill", "--all", &c.id, "KILL"]), LIMIT).ok("kill --all")?;
        c.wait_for_status("stopped")?;
        c.delete()?;
        nothing_left(runtime, &c.id)
    });
    report.case("delete_force_of_a_running_and_of_no_container", || {
        let c = Container::running(runtime, "trap '' TERM; sleep 1000")?;
        c.delete_force()?;
        nothing_left(runtime, &c.id)?;
        c.delete_force()
    });
    report.case("list_in_every_format", || {
        let c = Container::running(runtime, FOREVER)?;
        let list = |flags: &[&str]| {
            command::run(&mut runtime.command(&[&["list"], flags].concat()), LIMIT).ok("list")
        };
        equal("list -q", list(&["-q"])?.trim(), c.id.as_str())?;
        let table = list(&[])?;
        let header: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
        equal("header", header, vec!["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"])?;
        let all: Value = serde_json::from_str(&list(&["--format", "json"])?).map_err(|e| e.to_string())?;
        equal("json", all[0]["id"].as_str(), Some(c.id.as_str()))?;
        equal("json status", all[0]["status"].as_str(), Some("running"))
    });
    report.case("pause_and_resume", || {
        let c = Container::running(
            runtime,
            "i=0; while :; do i=$((i+1)); echo $i >/tmp/count; sleep 0.01; done",
        )?;
        let count = || -> Result<String, String> { c.exec(&[], &["cat", "/tmp/count"]).ok("cat") };
        eventually("counting", LIMIT, || count().is_ok_and(|n| !n.trim().is_empty()))?;
        c.command(&["pause"]).ok("pause")?;
        equal("status", c.status()?, "paused".into())?;
        c.command(&["resume"]).ok("resume")?;
        equal("status", c.status()?, "running".into())?;
        let before = count()?;
        eventually("counting again", LIMIT, || count().is_ok_and(|n| n != before && !n.trim().is_empty()))?;
        c.delete_force()
    });
    report.case("pause_catches_threads_however_busy_they_are", || {
        // One computes, one makes calls, one forks, one waits.
        let c = Container::running(
            runtime,
            "(while :; do :; done) & (while :; do echo >/dev/null; done) & (while :; do (:); done) & \
             i=0; while :; do i=$((i+1)); echo $i >/tmp/count; sleep 0.01; done",
        )?;
        let count = || -> Result<String, String> { c.exec(&[], &["cat", "/tmp/count"]).ok("cat") };
        eventually("counting", LIMIT, || count().is_ok_and(|n| !n.trim().is_empty()))?;
        for _ in 0..25 {
            c.command(&["pause"]).ok("pause")?;
            c.command(&["resume"]).ok("resume")?;
        }
        let before = count()?;
        eventually("counting again", LIMIT, || count().is_ok_and(|n| n != before && !n.trim().is_empty()))?;
        c.delete_force()
    });
}

fn exec_cases(report: &Report, runtime: &Runtime) {
    report.case("exec_output_status_environment_and_user", || {
        let c = Container::running(runtime, FOREVER)?;
        let finished =
            c.exec(&["--env", "A=x y", "--cwd", "/tmp"], &["sh", "-c", "echo $A; pwd; echo err >&2; exit 9"]);
        equal("output", finished.stdout.as_str(), "x y\n/tmp\n")?;
        equal("stderr", finished.stderr.as_str(), "err\n")?;
        equal("status", finished.shell_status(), 9)?;
        let finished =
            c.exec(&["--user", "1000:1000", "--additional-gids", "55"], &["sh", "-c", "id -u; id -g; id -G"]);
        equal("user", finished.stdout.as_str(), "1000\n1000\n1000 55\n")?;
        equal("a missing command fails", c.exec(&[], &["/no/such"]).success(), false)?;
        let finished = c.exec(&["--cap", "CAP_SYS_TIME"], &["grep", "CapEff", "/proc/self/status"]);
        let caps = finished
            .stdout
            .rsplit('\t')
            .next()
            .and_then(|h| u64::from_str_radix(h.trim(), 16).ok())
            .unwrap_or(0);
        equal("the added capability", caps >> 25 & 1, 1)
    });
    report.case("exec_with_a_process_file", || {
        let c = Container::running(runtime, FOREVER)?;
        let process = json!({"terminal": false, "user": {"uid": 1000, "gid": 1000}, "args": ["/bin/sh", "-c", "id -u; echo $B"],
            "env": ["B=from the file", "PATH=/bin"], "cwd": "/"});
        let file = c.bundle.path().join("process.json");
        std::fs::write(&file, process.to_string()).map_err(|e| e.to_string())?;
        let finished = c.exec(&["--process", &file.to_string_lossy()], &[]);
        equal("output", finished.stdout.as_str(), "1000\nfrom the file\n")
    });
    report.case("exec_detached_with_a_pid_file", || {
        let c = Container::running(runtime, FOREVER)?;
        let file = c.bundle.path().join("pid");
        let mut sh = Command::new("sh");
        sh.args(["-c", "exec \"$@\" >/dev/null 2>&1", "sh"])
            .arg(runtime.binary())
            .args(runtime.global_arguments());
        sh.args(["exec", "--detach", "--pid-file"]).arg(&file).args([&c.id, "sleep", "1000"]);
        command::run(&mut sh, LIMIT).ok("exec --detach")?;
        let pid = std::fs::read_to_string(&file).map_err(|e| format!("pid file: {e}"))?;
        let pid: i32 = pid.parse().map_err(|e| format!("pid file {pid:?}: {e}"))?;
        equal("the process is there", host::exists(pid), true)?;
        c.delete_force()?;
        eventually("the exec'd process is gone", LIMIT, || !host::exists(pid))
    });
    report.case("exec_reads_standard_input", || {
        let c = Container::running(runtime, FOREVER)?;
        let finished =
            command::run_with_input(&mut runtime.command(&["exec", &c.id, "cat"]), b"typed in", LIMIT);
        equal("output", finished.stdout.as_str(), "typed in")
    });
    report.case("exec_with_a_terminal", || {
        let c = Container::running(runtime, FOREVER)?;
        let shell =
            runtime.command(&["exec", "--tty", &c.id, "sh", "-c", "stty size; read x; echo got $x; exit 4"]);
        let screen = harness::terminal::Screen::start(&shell, 66, 19)?;
        screen.wait_for_line("19 66")?;
        screen.send(&["input", "Enter"])?;
        screen.wait_for_line("got input")?;
        screen.wait_for_line("exit status 4")
    });
    report.case("ps_shows_the_processes", || {
        let c = Container::running(runtime, "sleep 1000 & wait")?;
        let processes = || -> Result<usize, String> {
            let text =
                command::run(&mut runtime.command(&["ps", "--format", "json", &c.id]), LIMIT).ok("ps")?;
            let list: Value = serde_json::from_str(&text).map_err(|e| format!("{e} in {text}"))?;
            Ok(list.as_array().map_or(0, Vec::len))
        };
        eventually("two processes", LIMIT, || processes() == Ok(2))
            .map_err(|w| format!("{w}: {:?}", processes()))?;
        let table = command::run(&mut runtime.command(&["ps", &c.id]), LIMIT).ok("ps")?;
        if table.contains("PID") && table.contains("sleep 1000") || !runtime.is_ours() {
            Ok(())
        } else {
            Err(table)
        }
    });
}

fn process_cases(report: &Report, runtime: &Runtime) {
    report.case("pid_file_and_console_socket", || {
        let bundle = Bundle::script("stty size; echo on the console; read x; echo got $x")?
            .set("/process/terminal", json!(true))
            .set("/process/consoleSize", json!({"width": 50, "height": 13}));
        let c = Container::new(runtime, bundle)?;
        let (socket, pid) = (c.bundle.path().join("console.sock"), c.bundle.path().join("pid"));
        let console = harness::console::Listener::bind(&socket)?;
        let (s, p) = (socket.to_string_lossy(), pid.to_string_lossy());
        c.quietly(&["create", "--console-socket", &s, "--pid-file", &p], true)?;
        let console = console.receive()?;
        let text = std::fs::read_to_string(&pid).map_err(|e| format!("pid file: {e}"))?;
        equal("pid file", text.parse().ok(), Some(c.pid()?))?;
        c.command(&["start"]).ok("start")?;
        console.wait_for("on the console")?;
        if runtime.is_ours() {
            console.wait_for("13 50")?; // runc of Debian 12 does not set the size
        }
        console.type_text("typed\n")?;
        console.wait_for("got typed")?;
        c.wait_for_status("stopped")
    });
    report.case("preserved_descriptors", || {
        let c = Container::new(runtime, Bundle::script("cat <&3")?)?;
        let file = c.bundle.path().join("kept");
        std::fs::write(&file, "through descriptor 3").map_err(|e| e.to_string())?;
        let mut sh = Command::new("sh");
        sh.args(["-c", "f=$1; shift; exec \"$@\" 3<\"$f\"", "sh"]).arg(&file).arg(runtime.binary());
        sh.args(runtime.global_arguments())
            .args(["run", "--preserve-fds", "1", "--bundle"])
            .arg(c.bundle.path())
            .arg(&c.id);
        equal("output", command::run(&mut sh, LIMIT).ok("run")?.as_str(), "through descriptor 3")
    });
    report.case("descriptors_preserved_by_exec", || {
        let c = Container::running(runtime, FOREVER)?;
        let (first, second) = (c.bundle.path().join("first"), c.bundle.path().join("second"));
        std::fs::write(&first, "three ").map_err(|e| e.to_string())?;
        std::fs::write(&second, "four").map_err(|e| e.to_string())?;
        let exec = |options: &[&str], script: &str| {
            let mut sh = Command::new("sh");
            sh.args(["-c", "f=$1; g=$2; shift 2; exec \"$@\" 3<\"$f\" 4<\"$g\"", "sh"]);
            sh.arg(&first).arg(&second).arg(runtime.binary()).args(runtime.global_arguments());
            sh.arg("exec").args(options).arg(&c.id).args(["sh", "-c", script]);
            command::run(&mut sh, LIMIT)
        };
        let both = exec(&["--preserve-fds", "2"], "cat <&3; cat <&4; ls /proc/self/fd | wc -l");
        equal("both", both.ok("exec")?.as_str(), "three four6\n")?;
        let one = exec(&["--preserve-fds", "1"], "cat <&3; test -e /proc/self/fd/4 || echo alone");
        equal("one", one.ok("exec")?.as_str(), "three alone\n")?;
        let none = exec(&[], "test -e /proc/self/fd/3 || echo none");
        equal("none", none.ok("exec")?.as_str(), "none\n")?;
        equal("too many", exec(&["--preserve-fds", "1000"], "true").success(), false)
    });
    report.case("signals_to_a_foreground_run_are_forwarded", || {
        let c = Container::new(runtime, Bundle::script("trap 'echo caught; exit 8' TERM; echo ready; while :; do sleep 0.05; done")?)?;
        let mut sh = Command::new("bash");
        let script = r#""$@" > out & pid=$!; for i in $(seq 200); do grep -q ready out && break; sleep 0.05; done; kill -TERM $pid; wait $pid; echo "status $?"; cat out"#;
        sh.current_dir(c.bundle.path()).args(["-c", script, "bash"]).arg(runtime.binary()).args(runtime.global_arguments());
        sh.args(["run", "--bundle"]).arg(c.bundle.path()).arg(&c.id);
        equal("output", command::run(&mut sh, LIMIT).ok("run")?.as_str(), "status 8\nready\ncaught\n")?;
        nothing_left(runtime, &c.id)
    });
}

fn cgroup_cases(report: &Report, runtime: &Runtime) {
    let resources = |r: Value| move |b: Bundle| b.set("/linux/resources", r.clone());
    report.case("limits_reach_the_host_cgroup_and_go_with_it", || {
        let set = resources(json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 50}, "cpu": {"quota": 50000, "period": 100000, "shares": 512}}));
        let c = Container::started(runtime, set(Bundle::script(FOREVER)?))?;
        equal("memory", host::cgroup_value(&c.id, "memory.limit_in_bytes", "memory.max"), Some((64 << 20).to_string()))?;
        let quota = host::cgroup_value(&c.id, "cpu.cfs_quota_us", "cpu.max").unwrap_or_default();
        equal("cpu quota", quota.split(' ').next(), Some("50000"))?;
        if !runtime.is_ours() {
            // In the sandbox the application's processes are the sentry's affair.
            equal("pids", host::cgroup_value(&c.id, "pids.max", "pids.max"), Some("50".into()))?;
        }
        c.delete_force()?;
        nothing_left(runtime, &c.id)
    });
    report.case("a_process_limit_stops_a_fork_bomb", || {
        let set = resources(json!({"pids": {"limit": 30}}));
        let script =
            "(echo begin); n=0; while [ $n -lt 100 ]; do sleep 1000 & n=$((n+1)); done 2>/dev/null; echo all of them";
        let c = Container::new(runtime, set(Bundle::script(script)?))?;
        let path = c.bundle.path().to_string_lossy().into_owned();
        let finished = command::run(&mut runtime.command(&["run", "--bundle", &path, &c.id]), LIMIT);
        if !finished.stdout.starts_with("begin") || finished.stdout.contains("all of them") {
            Err(finished.summary())
        } else {
            Ok(())
        }
    });
    report.case("a_memory_limit_ends_a_hog_and_nothing_else", || {
        let set = resources(json!({"memory": {"limit": 64 << 20, "swap": 64 << 20}}));
        let bystander = Container::running(runtime, FOREVER)?;
        let script = "echo begin; head -c 300000000 /dev/zero | tail -c 300000000 | wc -c";
        let c = Container::new(runtime, set(Bundle::script(script)?))?;
        let path = c.bundle.path().to_string_lossy().into_owned();
        let finished = command::run(&mut runtime.command(&["run", "--bundle", &path, &c.id]), LIMIT);
        if !finished.stdout.starts_with("begin") || finished.stdout.contains("300000000") {
            return Err(finished.summary());
        }
        equal("the other container", bystander.exec(&[], &["echo", "well"]).stdout.as_str(), "well\n")
    });
    report.case("limits_of_rarer_kinds_reach_the_host_too", || {
        let memory = json!({"limit": 64 << 20, "swap": 128 << 20, "reservation": 32 << 20, "swappiness": 7});
        let set = resources(json!({"memory": memory, "cpu": {"cpus": "0", "mems": "0"}}));
        let c = Container::started(runtime, set(Bundle::script(FOREVER)?))?;
        let expected = [
            ("memory.memsw.limit_in_bytes", "memory.swap.max", 128 << 20, 64 << 20),
            ("memory.soft_limit_in_bytes", "memory.low", 32 << 20, 32 << 20),
        ];
        for (v1, v2, in_v1, in_v2) in expected {
            let got = host::cgroup_value(&c.id, v1, v2);
            if ![in_v1, in_v2].map(|bytes: u64| Some(bytes.to_string())).contains(&got) {
                return Err(format!("{v1}: {got:?}"));
            }
        }
        equal("cpus", host::cgroup_value(&c.id, "cpuset.cpus", "cpuset.cpus"), Some("0".into()))?;
        c.delete_force()?;
        nothing_left(runtime, &c.id)
    });
    report.case("a_cgroup_of_version_2", || version_2(runtime));
    if !runtime.is_ours() {
        return;
    }
    report.case("all_threads_of_a_sandbox_are_in_its_cgroups", || {
        let set = resources(json!({"memory": {"limit": 64 << 20}}));
        let c = Container::started(runtime, set(Bundle::script(FOREVER)?))?;
        are_inside(&c.id, &[c.pid()?, c.gofer_pid()?])
    });
    report.case("a_hook_finds_the_process_it_is_told_of_in_its_cgroup", || {
        let script = "pid=$(sed -n 's/.*\"pid\":\\([0-9]*\\).*/\\1/p'); cat /proc/$pid/cgroup >$0";
        let bundle = Bundle::script(FOREVER)?;
        let found = bundle.path().join("found");
        let hook =
            json!({"path": "/bin/sh", "args": ["sh", "-c", script, found], "env": ["PATH=/bin:/usr/bin"]});
        let bundle = bundle.set("/hooks", json!({"createRuntime": [hook]}));
        let c = Container::started(runtime, resources(json!({"memory": {"limit": 64 << 20}}))(bundle))?;
        let cgroups = std::fs::read_to_string(&found).map_err(|e| e.to_string())?;
        let inside = cgroups.lines().any(|line| line.contains("memory") && line.contains(&c.id));
        if !inside && !cgroups.lines().any(|line| line.starts_with("0::") && line.contains(&c.id)) {
            return Err(cgroups);
        }
        are_inside(&c.id, &[c.pid()?, c.gofer_pid()?])
    });
    report.case("what_no_cgroup_can_be_made_of_is_refused_and_leaves_nothing", || {
        let wrong = [
            ("/linux/cgroupsPath", json!("/../runsc-test-outside"), "no cgroup path"),
            ("/linux/cgroupsPath", json!("/"), "no cgroup path"),
            ("/linux/resources", json!({"rdma": {"mlx5_1": {"hcaHandles": 3}}}), "linux.resources.rdma"),
            ("/linux/resources", json!({"unified": {"memory.high": "5"}}), "linux.resources.unified"),
            ("/linux/resources", json!({"memory": {"limit": 1 << 20, "swappiness": 101}}), "resource"),
            (
                "/linux/resources",
                json!({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}),
                "pages of 3MB",
            ),
        ];
        for (field, value, expected) in wrong {
            let id = new_id();
            let bundle =
                Bundle::script("echo not reached")?.set("/linux/cgroupsPath", json!(format!("/{id}")));
            let bundle = bundle.set(field, value.clone()).write()?;
            let path = bundle.path().to_string_lossy().into_owned();
            let finished = command::run(&mut runtime.command(&["run", "--bundle", &path, &id]), LIMIT);
            let one_line = finished.stderr.trim().lines().count() == 1;
            if finished.shell_status() == 0 || !one_line || !finished.stderr.contains(expected) {
                return Err(format!("{field} {value}: {}", finished.summary()));
            }
            nothing_left(runtime, &id)?;
        }
        nothing_left(runtime, "runsc-test-outside")
    });
}

/// Each thread of these processes and of their descendants is in each cgroup of this name.
fn are_inside(name: &str, roots: &[i32]) -> Outcome {
    let cgroups = host::cgroups_named(name);
    if cgroups.is_empty() {
        return Err("there is no cgroup".into());
    }
    for process in host::family_of(Path::new("/nothing"), roots) {
        let threads = std::fs::read_dir(format!("/proc/{}/task", process.pid)).map_err(|e| e.to_string())?;
        for thread in threads.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
            let lists = |directory: &Path| {
                ["tasks", "cgroup.threads", "cgroup.procs"].iter().any(|file| {
                    let all = std::fs::read_to_string(directory.join(file)).unwrap_or_default();
                    all.lines().any(|line| line == thread)
                })
            };
            // It may be gone meanwhile.
            let there = Path::new("/proc").join(&thread).exists();
            if let Some(outside) = cgroups.iter().find(|cgroup| !lists(cgroup)).filter(|_| there) {
                let what = &process.command_line;
                return Err(format!(
                    "thread {thread} of {} ({what}) is not in {}",
                    process.pid,
                    outside.display()
                ));
            }
        }
    }
    Ok(())
}

/// Under a mount namespace in which the host has version 2 at the usual place, whatever the machine has.
fn version_2(runtime: &Runtime) -> Outcome {
    let limit = json!([{ "pageSize": "2MB", "limit": 6 << 20 }]);
    let bundle = Bundle::script(FOREVER)?.set("/linux/resources", json!({ "hugepageLimits": limit }));
    let c = Container::new(runtime, bundle)?;
    // Huge pages, because that controller is nearly never left to version 1.
    let script = "set -e
        mount -t cgroup2 none /sys/fs/cgroup
        \"$1\" --root \"$2\" run --detach --bundle \"$4\" \"$3\" >/dev/null 2>\"$4/log\" </dev/null || { cat \"$4/log\"; exit 1; }
        cd /sys/fs/cgroup/$3
        cat hugetlb.2MB.max
        test \"$(wc -l <cgroup.procs)\" -gt 0
        cd /
        \"$1\" --root \"$2\" delete --force \"$3\"
        test ! -d /sys/fs/cgroup/$3 && echo gone";
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--propagation=private", "sh", "-c", script, "sh"]);
    shell.arg(runtime.program()?).arg(runtime.state_dir()).arg(&c.id).arg(c.bundle.path());
    equal("output", command::run(&mut shell, LIMIT).ok("version 2")?.as_str(), "6291456\ngone\n")
}

fn concurrency_cases(report: &Report, runtime: &Runtime) {
    report.case("eight_containers_at_once", || {
        let results: Vec<Outcome> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|i| {
                    scope.spawn(move || {
                        let c = Container::running(runtime, FOREVER)?;
                        let text = i.to_string();
                        equal("exec", c.exec(&[], &["echo", &text]).stdout, format!("{i}\n"))?;
                        c.delete_force()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("panicked".into()))).collect()
        });
        results.into_iter().collect::<Outcome>()?;
        nothing_left(runtime, "")
    });
    report.case("one_of_many_creations_of_the_same_id_wins", || {
        let c = Container::new(runtime, Bundle::script(FOREVER)?)?;
        let wins: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..6).map(|_| scope.spawn(|| usize::from(c.quietly(&["create"], true).is_ok()))).collect();
            threads.into_iter().map(|t| t.join().unwrap_or(0)).sum()
        });
        equal("winners", wins, 1)?;
        equal("status", c.status()?, "created".into())?;
        c.delete_force()?;
        nothing_left(runtime, &c.id)
    });
}

fn crash_cases(report: &Report, runtime: &Runtime) {
    report.case("sigkill_of_any_part_then_delete_force_leaves_nothing", || {
        let parts = {
            let c = Container::running(runtime, "sleep 1000 & wait")?;
            host::family_of(runtime.binary(), &[c.pid()?]).len()
        };
        for part in 0..parts {
            let c = Container::running(runtime, "sleep 1000 & wait")?;
            let family = host::family_of(runtime.binary(), &[c.pid()?]);
            let Some(victim) = family.get(part) else { continue };
            host::kill_hard(victim.pid);
            let what = format!("after SIGKILL of {}", victim.command_line);
            c.delete_force().map_err(|why| format!("{what}: {why}"))?;
            nothing_left(runtime, &c.id).map_err(|why| format!("{what}: {why}"))?;
        }
        Ok(())
    });
    report.case("sigkill_of_the_command_itself_at_any_moment", || {
        for delay_ms in [1, 3, 6, 10, 15, 25, 40, 70] {
            let c = Container::new(runtime, Bundle::script(FOREVER)?)?;
            let mut sh = Command::new("bash");
            let script = format!("\"$@\" >/dev/null 2>&1 & pid=$!; sleep 0.{delay_ms:03}; kill -KILL $pid 2>/dev/null; wait $pid 2>/dev/null; true");
            sh.args(["-c", &script, "bash"]).arg(runtime.binary()).args(runtime.global_arguments());
            sh.args(["run", "--detach", "--bundle"]).arg(c.bundle.path()).arg(&c.id);
            command::run(&mut sh, LIMIT).ok("bash")?;
            let what = format!("killed after {delay_ms} ms");
            c.delete_force().map_err(|why| format!("{what}: {why}"))?;
            if runtime.is_ours() {
                nothing_left(runtime, &c.id).map_err(|why| format!("{what}: {why}"))?; // more than runc can do
            }
        }
        Ok(())
    });
    report.case("a_broken_state_file_can_be_deleted_by_force", || {
        if !runtime.is_ours() {
            return Ok(()); // runc and crun refuse
        }
        let c = Container::running(runtime, FOREVER)?;
        for file in json_files(&runtime.state_dir()) {
            std::fs::write(&file, "{ broken").map_err(|e| e.to_string())?;
        }
        equal("state of it", c.command(&["state"]).success(), false)?;
        c.delete_force()?;
        nothing_left(runtime, &c.id)
    });
}

fn json_files(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .flat_map(|e| if e.path().is_dir() { json_files(&e.path()) } else { vec![e.path()] })
        .filter(|p| p.extension().is_some_and(|x| x == "json"))
        .collect()
}

fn small_command_cases(report: &Report, runtime: &Runtime) {
    report.case("spec_writes_a_bundle_that_runs", || {
        let c = Container::new(runtime, Bundle::script("true")?)?;
        let config = c.bundle.path().join("config.json");
        std::fs::remove_file(&config).map_err(|e| e.to_string())?;
        let path = c.bundle.path().to_string_lossy().into_owned();
        let spec = || command::run(&mut runtime.command(&["spec", "--bundle", &path]), LIMIT);
        spec().ok("spec")?;
        equal("spec over an existing file", spec().success(), false)?;
        let text = std::fs::read_to_string(&config).map_err(|e| e.to_string())?;
        let mut value: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        equal("default arguments", value["process"]["args"][0].as_str(), Some("sh"))?;
        value["process"]["terminal"] = json!(false);
        value["process"]["args"] = json!(["echo", "from the default"]);
        value["root"]["readonly"] = json!(false); // the bundle's mount points may have to be made
        std::fs::write(&config, value.to_string()).map_err(|e| e.to_string())?;
        let finished = command::run(&mut runtime.command(&["run", "--bundle", &path, &new_id()]), LIMIT);
        equal("output", finished.ok("run")?.as_str(), "from the default\n")
    });
    report.case("the_programs_first_call_fetches_the_pages_that_relocation_writes_to", || {
        let mut strace = Command::new("strace");
        strace.arg(runtime.binary()).arg("features");
        let trace = command::run(&mut strace, LIMIT).stderr;
        let first = trace.lines().find(|line| !line.starts_with("execve(")).unwrap_or_default();
        let fetched = first.starts_with("madvise(") && first.ends_with("MADV_POPULATE_WRITE) = 0");
        if fetched { Ok(()) } else { Err(format!("the first call was {first}")) }
    });
    report.case("features_is_the_json_of_the_specification", || {
        let text = command::run(&mut runtime.command(&["features"]), LIMIT).ok("features")?;
        let value: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        equal("ociVersionMin", value["ociVersionMin"].is_string(), true)?;
        equal("hooks", value["hooks"].as_array().map(Vec::len), Some(6))?;
        equal(
            "mount options",
            value["mountOptions"].as_array().is_some_and(|o| o.contains(&json!("rbind"))),
            true,
        )
    });
    if !runtime.is_ours() {
        return;
    }
    report.case("wait_gives_the_exit_status", || {
        let c = Container::running(runtime, "sleep 2; exit 12")?;
        let text = c.command(&["wait"]).ok("wait")?;
        let value: Value = serde_json::from_str(&text).map_err(|e| format!("{e} in {text}"))?;
        equal("exitStatus", value["exitStatus"].as_i64(), Some(12))
    });
    report.case("the_support_table_prints_in_three_formats", || {
        let table = |format: &str| {
            command::run(&mut runtime.command(&["syscalls", "--format", format]), LIMIT).ok("syscalls")
        };
        let value: Value = serde_json::from_str(&table("json")?).map_err(|e| e.to_string())?;
        equal("json has openat", value.to_string().contains("openat"), true)?;
        equal("text has openat", table("table")?.contains("openat"), true)?;
        equal("markdown has a table", table("markdown")?.contains("| openat |"), true)
    });
}
