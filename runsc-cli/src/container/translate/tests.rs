//! What a configuration becomes.

use clap::Parser;
use sentry::spec::{AccessTimes, TmpfsOptions};
use serde_json::{Value, json};

use super::process::{UserArgument, capability_bit};
use super::*;
use crate::options::Arguments;
use sentry::spec::{Accelerator, MountKind, PlatformName, ResourceLimit, UserLookup, WindowSize};

/// A bundle with a root file system.
fn bundle() -> tempfile::TempDir {
    let bundle = tempfile::tempdir().unwrap();
    std::fs::create_dir(bundle.path().join("rootfs")).unwrap();
    bundle
}

fn minimal() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "root": { "path": "rootfs" },
        "process": { "user": { "uid": 0, "gid": 0 }, "args": ["sh"], "cwd": "/" },
        "linux": { "namespaces": [{ "type": "pid" }, { "type": "network" }] }
    })
}

fn globals(options: &[&str]) -> Globals {
    let words = ["runsc"].iter().chain(options).chain(&["list"]);
    Arguments::try_parse_from(words).unwrap().globals
}

fn translate_with(options: &[&str], config: &Value) -> Result<Plan, Failure> {
    let bundle = bundle();
    let spec: Spec = serde_json::from_value(config.clone()).unwrap();
    plan(&globals(options), &ContainerId::new("c").unwrap(), bundle.path().to_owned(), &spec)
}

fn translate(config: &Value) -> Result<Plan, Failure> {
    translate_with(&[], config)
}

/// The message for a configuration that differs from the minimal one in one place.
fn refusal(pointer: &str, value: Value) -> String {
    let mut config = minimal();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    config.pointer_mut(parent).unwrap()[name] = value;
    translate(&config).unwrap_err().to_string()
}

fn mounts(list: Value) -> Result<Vec<sentry::spec::MountSpec>, Failure> {
    let mut config = minimal();
    config["mounts"] = list;
    translate(&config).map(|plan| plan.sandbox.container.mounts)
}

#[test]
fn the_root_is_the_first_tree_and_is_never_written_under_an_overlay() {
    let plan = translate(&minimal()).unwrap();
    assert_eq!(plan.sandbox.container.root, RootMount { gofer_tree: 0, readonly: false, overlay: true });
    assert!(plan.trees[0].readonly && plan.trees[0].exclusive);
    let plan = translate_with(&["--overlay2=none", "--file-access=shared"], &minimal()).unwrap();
    assert_eq!(plan.sandbox.container.root, RootMount { gofer_tree: 0, readonly: false, overlay: false });
    assert!(!plan.trees[0].readonly && !plan.trees[0].exclusive);
    let mut config = minimal();
    config["root"]["readonly"] = json!(true);
    let plan = translate_with(&["--overlay2=none"], &config).unwrap();
    assert!(plan.trees[0].readonly && plan.sandbox.container.root.readonly);
}

#[test]
fn what_is_not_supported_is_refused_by_its_name() {
    let cases = [
        ("/linux/intelRdt", json!({ "closID": "x" }), "linux.intelRdt"),
        ("/linux/personality", json!({ "domain": "LINUX32" }), "linux.personality"),
        ("/linux/namespaces", json!([{ "type": "pid", "path": "/proc/1/ns/pid" }]), "pid"),
        ("/linux/namespaces", json!([{ "type": "user", "path": "/proc/1/ns/user" }]), "user"),
        ("/linux/timeOffsets", json!({ "realtime": { "secs": 1 } }), "linux.timeOffsets"),
        ("/root/path", json!("nonexistent"), "invalid rootfs"),
        ("/process/args", json!([]), "process.args"),
        ("/process/args", json!(["a\u{0}b"]), "NUL"),
        ("/process/cwd", json!("relative"), "process.cwd"),
        ("/process/rlimits", json!([{ "type": "RLIMIT_CORE", "soft": 2, "hard": 1 }]), "RLIMIT_CORE"),
        ("/process/oomScoreAdj", json!(1001), "process.oomScoreAdj"),
        ("/process/scheduler", json!({ "policy": "SCHED_FIFO", "priority": 1 }), "process.scheduler"),
        ("/process/consoleSize", json!({ "height": 70000, "width": 1 }), "process.consoleSize"),
    ];
    for (pointer, value, expected) in cases {
        let message = refusal(pointer, value);
        assert!(message.contains(expected), "{pointer}: {message}");
    }
    let mut config = minimal();
    config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
    assert!(translate(&config).is_ok(), "ignored unless --oci-seccomp");
    assert!(translate_with(&["--oci-seccomp"], &config).unwrap_err().to_string().contains("linux.seccomp"));
    assert!(
        translate_with(&["--overlay2=all:self"], &minimal()).unwrap_err().to_string().contains("all:self")
    );
}

#[test]
fn a_missing_process_or_root_is_named() {
    for field in ["process", "root"] {
        let mut config = minimal();
        config.as_object_mut().unwrap().remove(field);
        assert!(translate(&config).unwrap_err().to_string().starts_with(field));
    }
}

#[test]
fn a_process_keeps_everything_it_says() {
    let mut config = minimal();
    config["process"] = json!({
        "terminal": true, "consoleSize": { "height": 24, "width": 80 },
        "user": { "uid": 5, "gid": 6, "umask": 0o77, "additionalGids": [7, 8] },
        "args": ["prog", "arg"], "env": ["A=b"], "cwd": "/tmp",
        "capabilities": { "bounding": ["CAP_CHOWN", "CAP_BPF"], "ambient": ["CAP_KILL"] },
        "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 10, "hard": u64::MAX }],
        "noNewPrivileges": true, "oomScoreAdj": -5
    });
    let process = translate(&config).unwrap().sandbox.container.process;
    assert_eq!((process.uid, process.gid, process.umask), (5, 6, Some(0o77)));
    assert_eq!(process.additional_gids, [7, 8]);
    assert_eq!(process.console_size, Some(WindowSize { rows: 24, columns: 80 }));
    assert_eq!((process.capabilities.bounding, process.capabilities.ambient), (1 | 1 << 39, 1 << 5));
    assert_eq!(process.capabilities.effective, 0);
    assert_eq!(process.rlimits, [ResourceLimit { resource: libc::RLIMIT_NOFILE, soft: 10, hard: u64::MAX }]);
    assert!(process.terminal && process.no_new_privileges);
    assert_eq!(process.oom_score_adj, Some(-5));
}

#[test]
fn kernel_file_systems_come_from_the_sandbox() {
    let list = json!([
        { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
        { "destination": "/dev", "type": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
        { "destination": "/dev/pts", "type": "devpts", "options": ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
        { "destination": "/run", "type": "tmpfs", "options": ["size=1m", "nr_inodes=10", "uid=1", "gid=2", "tmpcopyup"] },
        { "destination": "/dev/mqueue", "type": "mqueue" },
        { "destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro", "relatime"] },
        { "destination": "/host-sys", "type": "bind", "source": "/sys", "options": ["rbind", "rprivate", "ro"] }
    ]);
    let mounts = mounts(list).unwrap();
    let kinds: Vec<_> = mounts.iter().map(|mount| mount.fs.clone()).collect();
    let dev = TmpfsOptions { size_bytes: Some(64 << 20), mode: 0o755, ..TmpfsOptions::default() };
    let run = TmpfsOptions {
        size_bytes: Some(1 << 20),
        inodes: Some(10),
        mode: 0o1777,
        uid: 1,
        gid: 2,
        copy_up: true,
    };
    assert_eq!(
        kinds,
        [
            MountKind::Proc,
            MountKind::Dev(dev),
            MountKind::Devpts { mode: 0o620, ptmx_mode: 0o666, gid: Some(5) },
            MountKind::Tmpfs(run),
            MountKind::Mqueue,
            MountKind::Cgroup,
            MountKind::Sysfs,
        ]
    );
    assert!(
        mounts[0].flags.nosuid
            && mounts[0].flags.noexec
            && mounts[0].flags.nodev
            && !mounts[0].flags.readonly
    );
    assert_eq!(mounts[1].flags.atime, AccessTimes::Strict);
    assert!(mounts[5].flags.readonly && mounts[6].flags.readonly);
}

#[test]
fn binds_become_trees_in_order() {
    let bundle = bundle();
    std::fs::write(bundle.path().join("file"), "").unwrap();
    let mut config = minimal();
    config["mounts"] = json!([
        { "destination": "/a", "type": "bind", "source": "/tmp", "options": ["ro", "bind"] },
        { "destination": "b", "source": "file", "options": ["rbind", "nosuid"] }
    ]);
    let spec: Spec = serde_json::from_value(config).unwrap();
    let id = ContainerId::new("c").unwrap();
    let plan = plan(&globals(&["--host-uds=open"]), &id, bundle.path().to_owned(), &spec).unwrap();
    let mounts = &plan.sandbox.container.mounts;
    assert_eq!(mounts[0].fs, MountKind::Gofer { tree: 1, is_file: false, overlay: false });
    assert_eq!(
        (mounts[1].destination.as_str(), &mounts[1].fs),
        ("/b", &MountKind::Gofer { tree: 2, is_file: true, overlay: false })
    );
    assert!(plan.trees[1].readonly && !plan.trees[1].exclusive && plan.trees[1].connect_uds);
    assert!(!plan.trees[2].readonly && !plan.trees[2].create_uds);
    assert_eq!(plan.trees[2].source, bundle.path().canonicalize().unwrap().join("file"));
}

#[test]
fn a_mount_that_is_not_understood_is_refused_by_name() {
    let cases = [
        (json!({ "destination": "/x", "type": "ext4" }), "ext4"),
        (json!({ "destination": "/x", "type": "tmpfs", "options": ["frob"] }), "frob"),
        (json!({ "destination": "/x", "type": "tmpfs", "options": ["size=lots"] }), "size=lots"),
        (json!({ "destination": "/x", "type": "tmpfs", "options": ["mode=99999"] }), "mode=99999"),
        (json!({ "destination": "/x", "type": "tmpfs", "options": ["size=99999999999t"] }), "size="),
        (json!({ "destination": "/x", "type": "bind" }), "source"),
        (json!({ "destination": "/x", "type": "bind", "source": "/nonexistent" }), "/nonexistent"),
        (json!({ "destination": "/x", "type": "bind", "source": "/tmp", "options": ["idmap=x"] }), "idmap=x"),
    ];
    for (mount, expected) in cases {
        let message = mounts(json!([mount])).unwrap_err().to_string();
        assert!(message.starts_with("mounts[0] (/x)") && message.contains(expected), "{message}");
    }
}

#[test]
fn networks_follow_the_namespace_unless_told() {
    let mode = |options: &[&str], namespaces: Value| {
        let mut config = minimal();
        config["linux"]["namespaces"] = namespaces;
        let plan = translate_with(options, &config).unwrap();
        (plan.sandbox.network, plan.namespaces.network)
    };
    let path = json!([{ "type": "network", "path": "/run/netns/x" }]);
    let join = NetworkNamespace::Join(PathBuf::from("/run/netns/x"));
    assert_eq!(mode(&[], path.clone()), (NetworkMode::Sandbox, join.clone()));
    assert_eq!(mode(&["--network=none"], path.clone()), (NetworkMode::None, join.clone()));
    assert_eq!(mode(&["--network=host"], path), (NetworkMode::Host, join));
    assert_eq!(mode(&[], json!([{ "type": "network" }])), (NetworkMode::None, NetworkNamespace::New));
    assert_eq!(mode(&[], json!([])), (NetworkMode::None, NetworkNamespace::New));
    assert_eq!(mode(&["--network=host"], json!([])), (NetworkMode::Host, NetworkNamespace::Inherit));
}

#[test]
fn limits_are_handed_to_the_kernel_and_to_cgroups() {
    let mut config = minimal();
    assert!(translate(&config).unwrap().cgroup.is_none(), "nothing asked for");
    config["linux"]["resources"] = json!({
        "devices": [{ "allow": false, "access": "rwm" }],
        "memory": { "limit": 1000 }, "pids": { "limit": 7 }, "cpu": { "quota": 150_000, "period": 100_000 }
    });
    let plan = translate(&config).unwrap();
    let expected = SandboxLimits { memory_bytes: Some(1000), tasks: Some(7), cpu_millis: Some(1500) };
    assert_eq!(plan.sandbox.limits, expected);
    assert_eq!(plan.cgroup.unwrap().record().path(), Path::new("/runsc/c"));
    assert!(translate_with(&["--ignore-cgroups"], &config).unwrap().cgroup.is_none());
    config["linux"]["resources"] = json!({ "devices": [{ "allow": false, "access": "rwm" }] });
    assert!(translate(&config).unwrap().cgroup.is_none(), "device rules are the sandbox's business");
    config["linux"]["cgroupsPath"] = json!("/some/where");
    assert_eq!(translate(&config).unwrap().cgroup.unwrap().record().path(), Path::new("/some/where"));
}

#[test]
fn unlimited_is_no_limit() {
    let mut config = minimal();
    config["linux"]["resources"] = json!({ "memory": { "limit": -1 }, "pids": { "limit": -1 }, "cpu": { "quota": -1, "period": 100_000 } });
    assert_eq!(translate(&config).unwrap().sandbox.limits, SandboxLimits::default());
}

#[test]
fn global_options_reach_the_kernel() {
    let options = ["--platform=systrap", "--strace", "--strace-syscalls=read,write"];
    let sandbox = translate_with(&options, &minimal()).unwrap().sandbox;
    assert_eq!(sandbox.platform, PlatformName::Seccomp(Accelerator::default()));
    assert_eq!(sandbox.strace.unwrap().calls, ["read", "write"]);
    assert_eq!(
        translate_with(&["--platform", "ptrace"], &minimal()).unwrap().sandbox.platform,
        PlatformName::Ptrace
    );
}

#[test]
fn users_are_numbers_or_names() {
    let base = || translate(&minimal()).unwrap().sandbox.container.process;
    let apply = |text: &str| {
        let mut process = base();
        text.parse::<UserArgument>().unwrap().apply(&mut process);
        (process.uid, process.gid, process.user)
    };
    assert_eq!(apply("1000"), (1000, 0, None));
    assert_eq!(apply("1000:50"), (1000, 50, None));
    let named = |user: &str, group: Option<&str>| {
        Some(UserLookup { user: user.to_owned(), group: group.map(str::to_owned) })
    };
    assert_eq!(apply("daemon").2, named("daemon", None));
    assert_eq!(apply("1000:adm").2, named("1000", Some("adm")));
    for bad in ["", ":", "a:", ":b", "a:b:c"] {
        assert!(bad.parse::<UserArgument>().is_err(), "{bad:?}");
    }
}

#[test]
fn capabilities_have_linuxs_numbers() {
    for (name, bit) in
        [("CAP_CHOWN", 0), ("sys_admin", 21), ("CAP_AUDIT_READ", 37), ("CAP_CHECKPOINT_RESTORE", 40)]
    {
        assert_eq!(capability_bit(name).unwrap(), 1 << bit, "{name}");
    }
    assert!(capability_bit("CAP_FROB").is_err());
}

#[test]
fn without_a_name_of_its_own_a_container_has_the_namespaces() {
    let here = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let mut config = minimal();
    for namespaces in
        [json!([]), json!([{ "type": "uts" }]), json!([{ "type": "uts", "path": "/proc/self/ns/uts" }])]
    {
        config["linux"]["namespaces"] = namespaces;
        assert_eq!(translate(&config).unwrap().sandbox.hostname, here);
    }
    config["linux"]["namespaces"] = json!([{ "type": "uts", "path": "/no/such/namespace" }]);
    assert_eq!(translate(&config).unwrap().sandbox.hostname, "", "it goes on without, and warns");
    config["hostname"] = json!("own");
    assert_eq!(translate(&config).unwrap().sandbox.hostname, "own");
}
