//! `--systemd-cgroup` under a real systemd, which runs with its D-Bus in namespaces of its own (`systemd/start.sh`).
//!
//! Runs with runc too, `RUNSC_UNDER_TEST=/usr/sbin/runc`; with version 2 only where version 1 leaves it the controllers.

use harness::bundle::Bundle;
use harness::command;
use harness::daemon::{Daemon, private_directory};
use harness::host;
use harness::report::Report;
use harness::sandbox::{Runtime, on_each_platform};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const START: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/systemd/start.sh");
type Outcome = Result<(), String>;

/// Prints what the unit of container `$3` has, and what is left of it after its end.
const LIFE: &str = "
    runtime=\"$1 --root $2 --systemd-cgroup\" unit=runsc-$3.scope
    $runtime run --detach --bundle $4 $3 >$4/log 2>&1 </dev/null || { cat $4/log; exit 1; }
    systemctl show $unit -p ActiveState -p Slice -p TasksMax -p CPUQuotaPerSecUSec -p MemoryMax -p MemoryLimit
    for file in $(find /sys/fs/cgroup -path \"*/system.slice/$unit/*\" -name memory.limit_in_bytes -o \\
        -path \"*/system.slice/$unit/*\" -name cpu.cfs_quota_us | sort); do
        echo \"$(basename $file)=$(cat $file)\"
    done
    for hierarchy in systemd .; do
        procs=/sys/fs/cgroup/$hierarchy/system.slice/$unit/cgroup.procs
        [ -e $procs ] && { [ -n \"$(cat $procs)\" ] && echo inside; break; }
    done
    $runtime exec $3 echo executed
    $runtime delete --force $3
    echo \"deleted: $?\"
    systemctl is-active $unit
    find /sys/fs/cgroup -name $unit
    # One that has ended by itself, which systemd has noticed.
    $runtime run --bundle $5 $3-short </dev/null
    find /sys/fs/cgroup -name runsc-$3-short.scope
    $runtime list --quiet";

/// A systemd that ends with the test.
struct Systemd {
    _daemon: Daemon,
    name: String,
    /// Its first process, as the host numbers it.
    pid: i32,
}

fn main() {
    let report = Report::from_arguments();
    on_each_platform(&report, env!("CARGO_BIN_EXE_runsc"), |runtime| {
        for version in ["1", "2"] {
            let unified = version == "2" || Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
            if unified && version == "1" {
                continue;
            }
            report.case(&format!("life_with_cgroups_of_version_{version}"), || {
                life(&Systemd::start(version)?, &runtime, unified)
            });
        }
        Ok(())
    });
    report.finish();
}

fn life(systemd: &Systemd, runtime: &Runtime, unified: bool) -> Outcome {
    let id = format!("sd{}", std::process::id());
    let resources = json!({
        "memory": { "limit": 256 << 20 },
        "pids": { "limit": 50 },
        "cpu": { "shares": 512, "quota": 50_000, "period": 100_000 },
    });
    let bundle = |script: &str, id: &str| {
        Bundle::script(script)?
            .set("/linux/resources", resources.clone())
            .set("/linux/cgroupsPath", json!(format!("system.slice:runsc:{id}")))
            .write()
    };
    let long = bundle("while :; do sleep 1000; done", &id)?;
    let short = bundle("echo ended", &format!("{id}-short"))?;
    let mut life = systemd.enter();
    life.args(["sh", "-c", LIFE, "sh"]).arg(runtime.program()?).arg(runtime.state_dir());
    life.arg(&id).arg(long.path()).arg(short.path());
    let finished = command::run(&mut life, LIMIT);
    // The runtime's own threads are added to the limit of tasks by ours.
    let tasks = if runtime.is_ours() { 50 + 64 } else { 50 };
    let limit = 256 << 20;
    let (memory, files) = if unified {
        (format!("MemoryMax={limit}"), String::new())
    } else {
        (format!("MemoryLimit={limit}"), format!("cpu.cfs_quota_us=50000\nmemory.limit_in_bytes={limit}\n"))
    };
    let shown = ["Slice=system.slice", "CPUQuotaPerSecUSec=500ms", "ActiveState=active", &memory];
    let missing = shown.iter().find(|line| !finished.stdout.lines().any(|l| l == **line));
    let end = format!("{files}inside\nexecuted\ndeleted: 0\ninactive\nended\n");
    match missing {
        Some(line) => Err(format!("no {line:?}: {}", finished.summary())),
        None if !finished.stdout.contains(&format!("TasksMax={tasks}\n")) => Err(finished.summary()),
        None if !finished.stdout.ends_with(&end) => Err(format!("not {end:?}: {}", finished.summary())),
        None => Ok(()),
    }
}

impl Systemd {
    fn start(version: &str) -> Result<Systemd, String> {
        let directory = private_directory("sd")?;
        let name = format!("runsc-test-systemd-{}", std::process::id());
        let mut command = Command::new(START);
        command.arg(&name).arg(directory.path()).arg(version);
        let mut pid = None;
        let daemon = Daemon::start("systemd", directory, command, |path| {
            pid = first_process(path);
            let mut ready = enter(pid.unwrap_or(0));
            command::run(ready.args(["systemctl", "is-active", "bus.target"]), LIMIT)
        });
        if daemon.is_err() {
            remove_cgroups(&name);
        }
        let daemon = daemon?;
        Ok(Systemd { _daemon: daemon, name, pid: pid.ok_or("systemd has no process")? })
    }

    fn enter(&self) -> Command {
        enter(self.pid)
    }
}

fn enter(pid: i32) -> Command {
    let mut nsenter = Command::new("nsenter");
    nsenter.args(["--all", "--target", &pid.to_string()]);
    nsenter
}

/// The child of `unshare`.
fn first_process(directory: &Path) -> Option<i32> {
    let parent = std::fs::read_to_string(directory.join("pid")).ok()?;
    let parent = parent.trim();
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // Everything in its pid namespace ends with it.
        host::kill_hard(self.pid);
        let _ = command::eventually("systemd ends", LIMIT, || !host::exists(self.pid));
        remove_cgroups(&self.name);
    }
}

fn remove_cgroups(name: &str) {
    for cgroup in host::cgroups_named(name) {
        let mut find = Command::new("find");
        find.arg(&cgroup).args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]);
        command::run(&mut find, LIMIT);
    }
}
