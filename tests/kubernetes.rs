//! Pods as the kubelet makes them: containerd's Container Runtime Interface with `runsc` as a runtime class's handler, and
//! a network of CNI's. Each container of a pod, the pod's own one too, is a sandbox.

use harness::bundle::{IMAGE, image_tarball, image_tarball_of};
use harness::command::{self, Finished, eventually};
use harness::daemon::{self, Daemon};
use harness::host::cgroups_named;
use harness::report::Report;
use harness::sandbox::{Runtime, on_each_platform};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// What holds a pod's namespaces.
const PAUSE: &str = "docker.io/library/runsc-test-pause:latest";
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cri.py");
const RUNNING: u64 = 1;
const EXITED: u64 = 2;
/// `NamespaceMode`.
const POD: u64 = 0;
const CONTAINER: u64 = 1;
const NODE: u64 = 2;
type Outcome = Result<(), String>;

fn main() {
    let report = Report::from_arguments();
    on_each_platform(&report, env!("CARGO_BIN_EXE_runsc"), |runtime| {
        let daemon = start(&runtime)?;
        cases(&report, &daemon);
        report.case("nothing_is_left", || {
            let left = eventually("shims and sandboxes are gone", LIMIT, || shims(&daemon).is_empty());
            left.map_err(|why| format!("{why}: {:?}", shims(&daemon)))?;
            // The kubelet's to make and to remove; what cannot be removed has something in it.
            for parent in cgroups_named(&cgroup_parent()) {
                std::fs::remove_dir(&parent).map_err(|e| format!("{}: {e}", parent.display()))?;
            }
            Ok(())
        });
        Ok(())
    });
    report.finish();
}

fn cgroup_parent() -> String {
    format!("runsc-test-pods-{}", std::process::id())
}

fn shims(daemon: &Daemon) -> Vec<String> {
    let ours =
        |p: &harness::host::Process| p.command_line.contains("shim") || p.command_line.contains("runsc");
    daemon.offspring().into_iter().filter(ours).map(|p| p.command_line).collect()
}

/// containerd with the interface on, in a network namespace of its own, so that the pods' addresses are nobody else's.
fn start(runtime: &Runtime) -> Result<Daemon, String> {
    let directory = daemon::private_directory("k8s")?;
    let path = directory.path();
    let text = path.display();
    let config = format!(
        r#"
        version = 2
        root = "{text}/root"
        state = "{text}/state"
        [grpc]
        address = "{text}/sock"
        [plugins."io.containerd.internal.v1.opt"]
        path = "{text}/opt"
        [plugins."io.containerd.grpc.v1.cri"]
        sandbox_image = "{PAUSE}"
        netns_mounts_under_state_dir = true
        disable_apparmor = true
        [plugins."io.containerd.grpc.v1.cri".containerd]
        snapshotter = "native"
        default_runtime_name = "runsc"
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runsc]
        runtime_type = "io.containerd.runc.v2"
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runsc.options]
        BinaryName = "{}"
        Root = "{text}/runtime-root"
        [plugins."io.containerd.grpc.v1.cri".cni]
        bin_dir = "/usr/lib/cni"
        conf_dir = "{text}/cni"
        "#,
        runtime.program()?.display()
    );
    let ipam = json!({ "type": "host-local", "subnet": "10.99.0.0/24", "dataDir": path.join("addresses") });
    let network =
        json!({ "cniVersion": "0.4.0", "name": "pods", "plugins": [{ "type": "ptp", "ipam": ipam }] });
    let write = |name: &str, text: &str| std::fs::write(path.join(name), text).map_err(|e| e.to_string());
    std::fs::create_dir(path.join("cni")).map_err(|e| e.to_string())?;
    write("config.toml", &config)?;
    write("cni/10-pods.conflist", &network.to_string())?;
    let application = path.join("application");
    let pause = path.join("pause");
    for directory in [&application, &pause] {
        std::fs::create_dir(directory).map_err(|e| e.to_string())?;
    }
    let tarballs =
        [image_tarball(&application)?, image_tarball_of(&pause, PAUSE, &["/bin/sleep", "100000"])?];

    let mut containerd = Command::new("unshare");
    containerd.args(["--net", "containerd", "--config"]).arg(path.join("config.toml"));
    let daemon = Daemon::start("containerd", directory, containerd, |path| call(path, "Status", &json!({})))?;
    for tarball in tarballs {
        let mut import = Command::new("ctr");
        import.arg("--address").arg(daemon.path().join("sock")).args([
            "--namespace",
            "k8s.io",
            "images",
            "import",
        ]);
        command::run(import.args(["--snapshotter", "native"]).arg(tarball), LIMIT).ok("import")?;
    }
    Ok(daemon)
}

fn call(directory: &Path, method: &str, request: &Value) -> Finished {
    let mut client = Command::new("/usr/bin/python3");
    client.arg(CLIENT).arg(directory.join("sock")).args([method, &request.to_string()]);
    command::run(&mut client, LIMIT)
}

/// A pod, stopped and removed in the end.
struct Pod<'a> {
    daemon: &'a Daemon,
    config: Value,
    id: String,
}

impl Pod<'_> {
    fn run<'a>(daemon: &'a Daemon, name: &str, network: u64) -> Result<Pod<'a>, String> {
        let config = json!({
            "metadata": { "name": name, "uid": name, "namespace": "default" },
            "hostname": name,
            "log_directory": daemon.path().join("logs").join(name),
            "linux": {
                "cgroup_parent": format!("/{}", cgroup_parent()),
                "security_context": { "namespace_options": { "network": network, "pid": CONTAINER } },
            },
        });
        let mut pod = Pod { daemon, config: config.clone(), id: String::new() };
        let answer = pod.call("RunPodSandbox", &json!({ "config": config, "runtime_handler": "runsc" }))?;
        pod.id = text(&answer["pod_sandbox_id"]);
        Ok(pod)
    }

    fn call(&self, method: &str, request: &Value) -> Result<Value, String> {
        let answer = call(self.daemon.path(), method, request).ok(method)?;
        serde_json::from_str(&answer).map_err(|e| format!("{method}: {e} in {answer}"))
    }

    /// Creates and starts a container that runs a script.
    fn container(&self, name: &str, script: &str) -> Result<String, String> {
        let config = json!({
            "metadata": { "name": name },
            "image": { "image": IMAGE },
            "command": ["sh", "-c", script],
            "envs": [{ "key": "A", "value": "1" }],
            "mounts": [{ "container_path": "/shared", "host_path": self.daemon.path() }],
            "log_path": format!("{name}.log"),
            "linux": {
                "resources": { "memory_limit_in_bytes": 128 << 20, "cpu_shares": 512 },
                "security_context": { "namespace_options": { "pid": CONTAINER } },
            },
        });
        let request = json!({ "pod_sandbox_id": self.id, "config": config, "sandbox_config": self.config });
        let id = text(&self.call("CreateContainer", &request)?["container_id"]);
        self.call("StartContainer", &json!({ "container_id": id }))?;
        Ok(id)
    }

    fn status(&self, container: &str) -> Result<Value, String> {
        Ok(self.call("ContainerStatus", &json!({ "container_id": container }))?["status"].take())
    }

    /// Waits for its end and gives its exit code.
    fn ended(&self, container: &str) -> Result<u64, String> {
        eventually("the container has ended", LIMIT, || {
            self.status(container).is_ok_and(|status| status["state"] == EXITED)
        })?;
        Ok(self.status(container)?["exit_code"].as_u64().unwrap_or(0))
    }

    /// What a container wrote, without the times that containerd puts before each line.
    fn log(&self, name: &str) -> Result<String, String> {
        let path = Path::new(self.config["log_directory"].as_str().unwrap_or("")).join(format!("{name}.log"));
        let log = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(log
            .lines()
            .filter_map(|line| line.splitn(4, ' ').nth(3))
            .map(|line| format!("{line}\n"))
            .collect())
    }

    fn exec(&self, container: &str, command: &[&str]) -> Result<(String, u64), String> {
        let request = json!({ "container_id": container, "cmd": command, "timeout": 20 });
        let answer = self.call("ExecSync", &request)?;
        Ok((text(&answer["stdout"]), answer["exit_code"].as_u64().unwrap_or(0)))
    }

    fn remove(&self) -> Outcome {
        self.call("StopPodSandbox", &json!({ "pod_sandbox_id": self.id }))?;
        self.call("RemovePodSandbox", &json!({ "pod_sandbox_id": self.id })).map(drop)
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        // Of a case that failed; otherwise there is nothing to remove.
        let _ = self.remove();
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("").to_owned()
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Outcome {
    if got == want { Ok(()) } else { Err(format!("{what}: got {got:?}, want {want:?}")) }
}

fn cases(report: &Report, daemon: &Daemon) {
    let case = |name: &str, body: &dyn Fn() -> Outcome| {
        report.case(name, || body().map_err(|why| format!("{why}\ncontainerd's log: {}", daemon.log_tail())));
    };
    case("a_pod_with_a_network_of_its_own", &|| {
        let pod = Pod::run(daemon, "own", POD)?;
        let status = pod.call("PodSandboxStatus", &json!({ "pod_sandbox_id": pod.id }))?;
        let address = text(&status["status"]["network"]["ip"]);
        equal("address", address.starts_with("10.99.0."), true)
            .map_err(|why| format!("{why} ({address:?})"))?;
        let script = "echo A is $A on $(hostname); echo from one >/shared/said; exit 7";
        let container = pod.container("one", script)?;
        equal("exit code", pod.ended(&container)?, 7)?;
        equal("log", pod.log("one")?.as_str(), "A is 1 on own\n")?;
        let other = pod.container("two", "cat /shared/said; sleep 1000")?;
        equal("state", pod.status(&other)?["state"].as_u64(), Some(RUNNING))?;
        equal("exec", pod.exec(&other, &["sh", "-c", "echo $((6*7)); exit 3"])?, ("42\n".into(), 3))?;
        eventually("log", LIMIT, || pod.log("two").is_ok_and(|log| log == "from one\n"))?;
        pod.call("RemoveContainer", &json!({ "container_id": container }))?;
        pod.remove()
    });
    case("a_container_is_stopped_in_time_or_killed", &|| {
        let pod = Pod::run(daemon, "stopping", POD)?;
        let polite = pod.container("polite", "trap 'exit 5' TERM; while :; do sleep 0.1; done")?;
        let deaf = pod.container("deaf", "trap '' TERM; while :; do sleep 0.1; done")?;
        // Both have had the time to set their traps when they answer.
        for container in [&polite, &deaf] {
            eventually("the trap is set", LIMIT, || {
                pod.exec(
                    container,
                    &["sh", "-c", "grep -q '^Sig[CI][a-z]*:.*4[0-9a-f]\\{3\\}$' /proc/1/status"],
                )
                .is_ok_and(|(_, status)| status == 0)
            })?;
        }
        pod.call("StopContainer", &json!({ "container_id": polite, "timeout": 20 }))?;
        pod.call("StopContainer", &json!({ "container_id": deaf, "timeout": 1 }))?;
        equal("exit codes", (pod.ended(&polite)?, pod.ended(&deaf)?), (5, 137))?;
        pod.remove()
    });
    case("a_pod_on_the_nodes_network", &|| {
        let pod = Pod::run(daemon, "node", NODE)?;
        let container = pod.container("one", "id -u; exit 0")?;
        equal("exit code", pod.ended(&container)?, 0)?;
        equal("log", pod.log("one")?.as_str(), "0\n")?;
        pod.remove()
    });
    case("a_missing_command_is_reported", &|| {
        let pod = Pod::run(daemon, "bad", POD)?;
        let config = json!({
            "metadata": { "name": "bad" }, "image": { "image": IMAGE }, "command": ["/no/such/command"],
            "linux": { "security_context": { "namespace_options": { "pid": CONTAINER } } },
        });
        let request = json!({ "pod_sandbox_id": pod.id, "config": config, "sandbox_config": pod.config });
        let id = text(&pod.call("CreateContainer", &request)?["container_id"]);
        let refused = pod.call("StartContainer", &json!({ "container_id": id }));
        let named = refused.as_ref().is_err_and(|why| why.contains("no such file or directory"));
        equal("refused by name", named, true).map_err(|why| format!("{why}: {refused:?}"))?;
        pod.remove()
    });
}
