//! `config.json`: each field is honoured, and bad input gets one clear line, the right
//! status, and leaves nothing behind.
//!
//! Runs with crun or runc too: `RUNSC_UNDER_TEST=/usr/bin/crun`.

use harness::bundle::Bundle;
use harness::command::{self, Finished};
use harness::container::Container;
use harness::report::Report;
use harness::sandbox::{Runtime, on_each_platform};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
type Outcome = Result<(), String>;

fn main() {
    let report = Report::from_arguments();
    on_each_platform(&report, env!("CARGO_BIN_EXE_runsc"), |runtime| {
        process_cases(&report, &runtime);
        root_and_mount_cases(&report, &runtime);
        linux_cases(&report, &runtime);
        hook_cases(&report, &runtime);
        bad_input_cases(&report, &runtime);
        Ok(())
    });
    report.finish();
}

fn new_id() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("oci-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// `runsc run` of the bundle.
fn run(runtime: &Runtime, bundle: &Bundle) -> Finished {
    let path = bundle.path().to_string_lossy().into_owned();
    let id = new_id();
    let finished = command::run(&mut runtime.command(&["run", "--bundle", &path, &id]), LIMIT);
    if finished.status.is_none() {
        command::run(&mut runtime.command(&["delete", "--force", &id]), LIMIT);
    }
    finished
}

/// The bundle must print this and end with this status.
fn expect(runtime: &Runtime, bundle: Bundle, stdout: &str, status: i32) -> Outcome {
    let bundle = bundle.write()?;
    let finished = run(runtime, &bundle);
    if finished.stdout == stdout && finished.shell_status() == status {
        return Ok(());
    }
    Err(format!("want status {status} and {stdout:?}, got {}", finished.summary()))
}

fn process_cases(report: &Report, runtime: &Runtime) {
    let script = Bundle::script;
    report.case("the_exit_status_comes_through", || expect(runtime, script("exit 7")?, "", 7));
    report.case("death_by_a_signal_is_128_plus_its_number", || {
        // The first process of a pid namespace cannot kill itself on Linux: its child does.
        expect(runtime, script("sh -c 'kill -KILL $$'; exit $?")?, "", 137)
    });
    report.case("arguments_environment_and_directory", || {
        let bundle = Bundle::new(&["/bin/sh", "-c", "echo $0 $1 $A; pwd; env | sort", "zero", "a b"])?;
        let bundle = bundle
            .set("/process/env", json!(["PATH=/bin", "HOME=/h", "A=x y"]))
            .set("/process/cwd", json!("/tmp"));
        expect(runtime, bundle, "zero a b x y\n/tmp\nA=x y\nHOME=/h\nPATH=/bin\nPWD=/tmp\nSHLVL=1\n", 0)
    });
    report.case("a_relative_command_is_found_on_the_path", || {
        expect(runtime, Bundle::new(&["echo", "found"])?, "found\n", 0)
    });
    report.case("user_group_and_additional_groups", || {
        let user = json!({"uid": 1000, "gid": 1000, "additionalGids": [5, 77], "umask": 0o27});
        let bundle = script("id -u; id -g; id -G; umask; touch /tmp/f; stat -c '%u:%g %a' /tmp/f")?
            .set("/process/user", user);
        expect(runtime, bundle, "1000\n1000\n1000 5 77\n0027\n1000:1000 640\n", 0)
    });
    report.case("capabilities_are_exactly_those_listed", || {
        let caps = json!(["CAP_KILL", "CAP_CHOWN"]);
        let caps = json!({"bounding": caps, "effective": caps, "permitted": caps});
        let bundle =
            script("grep -E '^Cap(Prm|Eff|Bnd)' /proc/self/status")?.set("/process/capabilities", caps);
        expect(
            runtime,
            bundle,
            "CapPrm:\t0000000000000021\nCapEff:\t0000000000000021\nCapBnd:\t0000000000000021\n",
            0,
        )
    });
    report.case("resource_limits", || {
        let limits = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
        let bundle = script("ulimit -Sn; ulimit -Hn; ulimit -c")?.set("/process/rlimits", limits);
        expect(runtime, bundle, "100\n200\n0\n", 0)
    });
    report.case("no_new_privileges", || {
        let bundle =
            script("grep NoNewPrivs /proc/self/status")?.set("/process/noNewPrivileges", json!(true));
        expect(runtime, bundle, "NoNewPrivs:\t1\n", 0)
    });
    report.case("oom_score_adjustment", || {
        let bundle = script("cat /proc/self/oom_score_adj")?.set("/process/oomScoreAdj", json!(321));
        expect(runtime, bundle, "321\n", 0)
    });
    report.case("standard_input_and_error_pass_through", || {
        let bundle = script("cat; echo problem >&2")?.write()?;
        let path = bundle.path().to_string_lossy().into_owned();
        let id = new_id();
        let finished = command::run_with_input(
            &mut runtime.command(&["run", "--bundle", &path, &id]),
            b"typed in",
            LIMIT,
        );
        if finished.stdout == "typed in" && finished.stderr == "problem\n" {
            Ok(())
        } else {
            Err(finished.summary())
        }
    });
    report.case("a_terminal_with_its_size", || {
        let bundle = script("stty size; test -t 0 && test -t 1 && tty")?
            .set("/process/terminal", json!(true))
            .write()?;
        let path = bundle.path().to_string_lossy().into_owned();
        let screen = harness::terminal::Screen::start(
            &runtime.command(&["run", "--bundle", &path, &new_id()]),
            77,
            22,
        )?;
        screen.wait_for_line("22 77")?;
        screen.wait_for_line("exit status 0")
    });
    report.case("hostname_and_first_pid", || {
        let bundle = script("hostname; echo $$; cat /proc/1/comm; true")?.set("/hostname", json!("a-name"));
        expect(runtime, bundle, "a-name\n1\nsh\n", 0)
    });
    report.case("domainname", || {
        let bundle = script("cat /proc/sys/kernel/domainname")?.set("/domainname", json!("a.domain"));
        expect(runtime, bundle.set("/ociVersion", json!("1.1.0")), "a.domain\n", 0)
    });
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": source, "options": options})
}

fn root_and_mount_cases(report: &Report, runtime: &Runtime) {
    let script = Bundle::script;
    report.case("a_read_only_root_cannot_be_written", || {
        let bundle = script("touch /f 2>/dev/null || echo refused; touch /dev/shm/f && echo elsewhere")?;
        expect(runtime, bundle.set("/root/readonly", json!(true)), "refused\nelsewhere\n", 0)
    });
    report.case("bind_mounts_of_directories_and_files", || {
        let outside = tempfile::tempdir().map_err(|e| e.to_string())?;
        let path = outside.path().to_string_lossy().into_owned();
        std::fs::write(outside.path().join("in"), "from outside\n").map_err(|e| e.to_string())?;
        let bundle =
            script("cat /data/in /one; echo back >/data/out; touch /ro/x 2>/dev/null || echo read-only")?
                .push("/mounts", mount("/data", "bind", &path, &["rbind", "rw"]))
                .push("/mounts", mount("/ro", "none", &path, &["bind", "ro"]))
                .push("/mounts", mount("/one", "bind", &format!("{path}/in"), &["bind", "ro"]));
        expect(runtime, bundle, "from outside\nfrom outside\nread-only\n", 0)?;
        let back = std::fs::read_to_string(outside.path().join("out")).map_err(|e| e.to_string())?;
        if back == "back\n" { Ok(()) } else { Err(format!("outside, the file says {back:?}")) }
    });
    report.case("changes_by_the_host_are_seen_in_a_bind_mount_that_is_used_a_lot", || {
        changes_are_seen(runtime)
    });
    report.case("names_are_made_or_refused_in_a_bind_mount_that_is_used_a_lot", || {
        let outside = tempfile::tempdir().map_err(|e| e.to_string())?;
        let path = outside.path().to_string_lossy().into_owned();
        // The shell's noclobber is O_EXCL.
        let script = "cd /data; i=0; while [ $i -lt 120 ]; do [ -e none ] && echo made; [ -e d ]; i=$((i+1)); done; \
            echo one >a; echo two >>a; cat a; (set -C; echo x >a) 2>/dev/null || echo refused; (set -C; echo x >b) && cat b; \
            mkdir d && echo made; mkdir d 2>/dev/null || echo refused; ln -s a l; ln -s b l 2>/dev/null || echo refused; \
            echo through >l; cat a; ln -s c dangling; echo y >dangling; cat c; rm a; echo new >a; cat a; mkdir a 2>/dev/null || echo refused; \
            (echo x >d) 2>/dev/null || echo directory; (echo x >none/x) 2>/dev/null || echo nowhere; ls";
        let bundle = Bundle::script(script)?.push("/mounts", mount("/data", "bind", &path, &["rbind", "rw"]));
        let said = "one\ntwo\nrefused\nx\nmade\nrefused\nrefused\nthrough\ny\nnew\nrefused\ndirectory\nnowhere\na\nb\nc\nd\ndangling\nl\n";
        expect(runtime, bundle, said, 0)
    });
    report.case("directories_are_removed_or_kept_in_a_bind_mount", || {
        let outside = tempfile::tempdir().map_err(|e| e.to_string())?;
        let path = outside.path().to_string_lossy().into_owned();
        let script = "cd /data; rmdir() { busybox rmdir $1 2>/dev/null && echo gone || echo refused; }; \
            mkdir -p d/e busy here; echo x >f; ln -s d l; mount -t tmpfs none busy; cd here; rmdir ../d; rmdir ../f; rmdir ../l; \
            rmdir ../none; rmdir ../busy; rmdir ../d/e; rmdir ../d/; rmdir ../d; rmdir .; rmdir ../here; ls | wc -l; cd ..; \
            mkdir d; rmdir d; rm -rf f l; umount busy; rmdir busy; ls";
        let bundle = Bundle::script(script)?
            .push("/mounts", mount("/data", "bind", &path, &["rbind", "rw"]))
            .push("/process/capabilities/bounding", json!("CAP_SYS_ADMIN"))
            .push("/process/capabilities/effective", json!("CAP_SYS_ADMIN"))
            .push("/process/capabilities/permitted", json!("CAP_SYS_ADMIN"));
        let said = "refused\nrefused\nrefused\nrefused\nrefused\ngone\ngone\nrefused\nrefused\ngone\n0\ngone\ngone\n";
        expect(runtime, bundle, said, 0)
    });
    report.case("tmpfs_with_size_and_mode", || {
        let bundle = script("stat -c %a /data; dd if=/dev/zero of=/data/f bs=1k count=2000 2>/dev/null || echo full; grep -c ' /data tmpfs' /proc/mounts")?
            .push("/mounts", mount("/data", "tmpfs", "tmpfs", &["size=1m", "mode=1770", "nosuid"]));
        expect(runtime, bundle, "1770\nfull\n1\n", 0)
    });
    report.case("the_usual_mounts_are_there", || {
        let bundle = script("for m in /proc /dev /dev/pts /dev/shm /dev/mqueue /sys; do grep -c \" $m \" /proc/mounts; done; test -c /dev/null && test -c /dev/ptmx && test -e /dev/fd/0 && echo devices")?;
        expect(runtime, bundle, "1\n1\n1\n1\n1\n1\ndevices\n", 0)
    });
    report.case("mount_options_noexec_and_ro", || {
        let bundle = script("cp /bin/busybox /data/echo && { /data/echo x 2>/dev/null || echo noexec; }; echo x 2>/dev/null >/sys/x || echo ro")?
            .push("/mounts", mount("/data", "tmpfs", "tmpfs", &["noexec"]));
        expect(runtime, bundle, "noexec\nro\n", 0)
    });
    report.case("masked_and_read_only_paths", || {
        let bundle = script("cat /masked | wc -c; ls /data | wc -l; echo x 2>/dev/null >/ro/f || echo ro")?;
        let text = |e: std::io::Error| e.to_string();
        std::fs::write(bundle.rootfs().join("masked"), "secret").map_err(text)?;
        std::fs::write(bundle.rootfs().join("data/secret"), "x").map_err(text)?;
        std::fs::create_dir(bundle.rootfs().join("ro")).map_err(text)?;
        let bundle = bundle.set("/linux/maskedPaths", json!(["/masked", "/data", "/not/there"]));
        expect(runtime, bundle.set("/linux/readonlyPaths", json!(["/ro", "/not/there"])), "0\n0\nro\n", 0)
    });
}

/// A shell looks at a file again and again, and writes down what it sees; the host changes the file.
fn changes_are_seen(runtime: &Runtime) -> Outcome {
    let text = |e: std::io::Error| e.to_string();
    let outside = tempfile::tempdir().map_err(text)?;
    let at = |name: &str| outside.path().join(name);
    std::fs::create_dir(at("d")).map_err(text)?;
    std::fs::write(at("d/f"), "first\n").map_err(text)?;
    let script = "cd /data; while [ ! -e end ]; do
        v=none; [ -e d/f ] && read v <d/f; [ -x d/f ] && v=$v+x; [ -e d/new ] && v=$v+new
        [ \"$v\" = \"$last\" ] || { echo $v >>seen; last=$v; }
        done";
    let path = outside.path().to_string_lossy();
    let bundle = Bundle::script(script)?.push("/mounts", mount("/data", "bind", &path, &["rbind", "rw"]));
    let container = Container::started(runtime, bundle)?;
    let sees = |want: &str| {
        let last =
            || std::fs::read_to_string(at("seen")).unwrap_or_default().lines().last().map(str::to_owned);
        command::eventually(want, LIMIT, || last().as_deref() == Some(want))
    };
    sees("first")?;
    let replace = |content: &str| {
        std::fs::write(at("t"), content).and_then(|()| std::fs::rename(at("t"), at("d/f"))).map_err(text)
    };
    std::fs::write(at("d/f"), "written\n").map_err(text)?;
    sees("written")?;
    replace("replaced\n")?;
    sees("replaced")?;
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(at("d/f"), executable).map_err(text)?;
    sees("replaced+x")?;
    std::fs::remove_file(at("d/f")).map_err(text)?;
    sees("none")?;
    std::fs::write(at("d/new"), "").map_err(text)?;
    sees("none+new")?;
    std::fs::rename(at("d"), at("old")).map_err(text)?;
    sees("none")?;
    std::fs::create_dir(at("d")).map_err(text)?;
    replace("in another directory\n")?;
    sees("in another directory")?;
    std::fs::write(at("end"), "").map_err(text)?;
    container.wait_for_status("stopped")
}

fn linux_cases(report: &Report, runtime: &Runtime) {
    let script = Bundle::script;
    report.case("devices", || {
        let device = json!({"path": "/dev/my-zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4});
        let bundle = script("stat -c '%F %t:%T %a %u:%g' /dev/my-zero; head -c 3 /dev/my-zero | od -An -tx1")?;
        let bundle = bundle.push("/linux/devices", device);
        expect(runtime, bundle, "character special file 1:5 640 3:4\n 00 00 00\n", 0)
    });
    report.case("sysctl", || {
        let bundle =
            script("cat /proc/sys/kernel/msgmax")?.set("/linux/sysctl", json!({"kernel.msgmax": "9000"}));
        expect(runtime, bundle, "9000\n", 0)
    });
    report.case("user_namespace_mappings", || {
        let map = json!([{"containerID": 0, "hostID": 100000, "size": 65536}]);
        let bundle = script("id -u; cat /proc/self/uid_map | tr -s ' '")?
            .push("/linux/namespaces", json!({"type": "user"}))
            .set("/linux/uidMappings", map.clone())
            .set("/linux/gidMappings", map);
        expect(runtime, bundle, "0\n 0 100000 65536\n", 0)
    });
    report.case("annotations_and_state_in_hooks_agree", || {
        let bundle = script("true")?.set("/annotations", json!({"org.example.key": "value"}));
        let log = bundle.path().join("hook.json");
        let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("cat >{}", log.display())]}]);
        let bundle = bundle.set("/hooks", json!({"createRuntime": hook})).write()?;
        run(runtime, &bundle).ok("run")?;
        let text = std::fs::read_to_string(&log).map_err(|e| format!("the hook wrote nothing: {e}"))?;
        let state: Value = serde_json::from_str(&text).map_err(|e| format!("{e} in {text}"))?;
        let bundle_path = bundle.path().to_string_lossy();
        let right = state["annotations"]["org.example.key"] == "value"
            && state["bundle"] == *bundle_path
            && matches!(state["status"].as_str(), Some("creating" | "created"))
            && state["pid"].as_i64().is_some_and(|p| p > 1)
            && state["ociVersion"].is_string();
        if right { Ok(()) } else { Err(format!("the hook was told {text}")) }
    });
}

fn hook_cases(report: &Report, runtime: &Runtime) {
    report.case("all_six_kinds_of_hooks_run_in_order", || {
        let bundle = Bundle::script("echo container >>/data/log")?;
        let log = bundle.rootfs().join("data/log");
        let outside = |name: &str| {
            json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("cat >/dev/null; echo {name} >>{}", log.display())]}])
        };
        // startContainer runs in the container's own root.
        let inside = json!([{"path": "/bin/sh", "args": ["sh", "-c", "cat >/dev/null; echo startContainer >>/data/log"]}]);
        let bundle = bundle.set("/root/readonly", json!(false)).push("/mounts", json!({
            "destination": "/data", "type": "bind", "source": log.parent(), "options": ["rbind", "rw"]
        }));
        let hooks = json!({
            "prestart": outside("prestart"), "createRuntime": outside("createRuntime"),
            "createContainer": outside("createContainer"), "startContainer": inside,
            "poststart": outside("poststart"), "poststop": outside("poststop"),
        });
        let bundle = bundle.set("/hooks", hooks).write()?;
        run(runtime, &bundle).ok("run")?;
        let text = std::fs::read_to_string(&log).map_err(|e| e.to_string())?;
        let mut lines: Vec<&str> = text.lines().collect();
        // poststart and the container's program run at the same time.
        let Some(poststart) = lines.iter().position(|l| *l == "poststart") else { return Err(format!("no poststart in {lines:?}")) };
        lines.remove(poststart);
        let want = ["prestart", "createRuntime", "createContainer", "startContainer", "container", "poststop"];
        if lines == want { Ok(()) } else { Err(format!("hooks ran as {lines:?}")) }
    });
    report.case("a_failing_hook_stops_creation_and_leaves_nothing", || {
        let hook = json!([{"path": "/bin/false"}]);
        refused(
            runtime,
            &Bundle::script("echo ran")?.set("/hooks", json!({"createRuntime": hook})).write()?,
            "hook",
        )
    });
    report.case("a_hook_that_exceeds_its_timeout_is_a_failure", || {
        let hook = json!([{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]);
        refused(
            runtime,
            &Bundle::script("echo ran")?.set("/hooks", json!({"createRuntime": hook})).write()?,
            "hook",
        )
    });
}

/// The run must fail, say why in one line that names the culprit, print nothing and leave nothing.
fn refused(runtime: &Runtime, bundle: &Bundle, names: &str) -> Outcome {
    judge_refusal(runtime, &run(runtime, bundle), names)
}

fn judge_refusal(runtime: &Runtime, finished: &Finished, names: &str) -> Outcome {
    if finished.success() || finished.status.is_none() || !finished.stdout.is_empty() {
        return Err(format!("not refused: {}", finished.summary()));
    }
    let lines = finished.stderr.lines().filter(|l| !l.trim().is_empty()).count();
    if lines != 1 {
        return Err(format!("{lines} lines of explanation: {}", finished.summary()));
    }
    if runtime.is_ours() && !finished.stderr.contains(names) {
        return Err(format!("does not name {names}: {}", finished.summary()));
    }
    let list = command::run(&mut runtime.command(&["list", "-q"]), LIMIT).ok("list")?;
    if !list.trim().is_empty() {
        return Err(format!("left behind: {list}"));
    }
    Ok(())
}

fn bad_input_cases(report: &Report, runtime: &Runtime) {
    let refuse = |name: &str, names: &str, make: &dyn Fn() -> Result<Bundle, String>| {
        report.case(&format!("refused/{name}"), || refused(runtime, &make()?, names));
    };
    let script = || Bundle::script("echo ran");
    refuse("no_config", "config.json", &|| script());
    refuse("broken_json", "config.json", &|| {
        let bundle = script()?;
        bundle.write_text("{\"ociVersion\": \"1.0.2\", ")?;
        Ok(bundle)
    });
    refuse("json_of_the_wrong_shape", "config.json", &|| {
        script()?.set("/process/args", json!("a string")).write()
    });
    refuse("no_arguments", "args", &|| script()?.set("/process/args", json!([])).write());
    refuse("missing_rootfs", "no-such-directory", &|| {
        script()?.set("/root/path", json!("no-such-directory")).write()
    });
    refuse("missing_binary", "/no/such/binary", &|| Bundle::new(&["/no/such/binary"])?.write());
    refuse("missing_binary_on_the_path", "no-such-command", &|| Bundle::new(&["no-such-command"])?.write());
    refuse("binary_without_x", "/etc/passwd", &|| Bundle::new(&["/etc/passwd"])?.write());
    refuse("binary_is_a_directory", "/tmp", &|| Bundle::new(&["/tmp"])?.write());
    refuse("relative_cwd", "cwd", &|| script()?.set("/process/cwd", json!("tmp")).write());
    refuse("unknown_capability_or_rlimit", "RLIMIT_NONSENSE", &|| {
        script()?.set("/process/rlimits", json!([{"type": "RLIMIT_NONSENSE", "soft": 1, "hard": 1}])).write()
    });
    refuse("bind_source_missing", "/no/such/source", &|| {
        script()?.push("/mounts", mount("/data", "bind", "/no/such/source", &["bind"])).write()
    });
    refuse("unknown_file_system", "no-such-fs", &|| {
        script()?.push("/mounts", mount("/data", "no-such-fs", "x", &[])).write()
    });
    refuse("unknown_namespace", "nonsense", &|| {
        script()?.push("/linux/namespaces", json!({"type": "nonsense"})).write()
    });

    report.case("refused/no_bundle", || {
        let finished =
            command::run(&mut runtime.command(&["run", "--bundle", "/no/such/bundle", &new_id()]), LIMIT);
        judge_refusal(runtime, &finished, "/no/such/bundle")
    });
    for (name, id) in
        [("id_with_slashes", "../x"), ("id_dot_dot", ".."), ("empty_id", ""), ("id_with_space", "a b")]
    {
        report.case(&format!("refused/{name}"), || {
            let bundle = script()?.write()?;
            let path = bundle.path().to_string_lossy().into_owned();
            judge_refusal(
                runtime,
                &command::run(&mut runtime.command(&["run", "--bundle", &path, id]), LIMIT),
                id,
            )
        });
    }
    report.case("refused/commands_on_a_container_that_is_not_there", || {
        for arguments in [
            vec!["state", "nobody"],
            vec!["start", "nobody"],
            vec!["kill", "nobody", "TERM"],
            vec!["delete", "nobody"],
            vec!["exec", "nobody", "true"],
        ] {
            let finished = command::run(&mut runtime.command(&arguments), LIMIT);
            judge_refusal(runtime, &finished, "nobody").map_err(|why| format!("{arguments:?}: {why}"))?;
        }
        Ok(())
    });
    report.case("refused/a_duplicate_id", || {
        let bundle = Bundle::script("sleep 100")?.write()?;
        let path = bundle.path().to_string_lossy().into_owned();
        let id = new_id();
        command::run(&mut runtime.command(&["run", "--detach", "--bundle", &path, &id]), LIMIT)
            .ok("the first")?;
        let second = command::run(&mut runtime.command(&["run", "--bundle", &path, &id]), LIMIT);
        let state = command::run(&mut runtime.command(&["state", &id]), LIMIT);
        command::run(&mut runtime.command(&["delete", "--force", &id]), LIMIT).ok("delete")?;
        judge_refusal(runtime, &second, &id)?;
        if state.stdout.contains("running") {
            Ok(())
        } else {
            Err(format!("the first suffered: {}", state.summary()))
        }
    });
}
