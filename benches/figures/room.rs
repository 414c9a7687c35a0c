//! What a program finds around it: a root directory, mounts, an environment. The same room is a chroot in
//! namespaces of its own for the native column, and an OCI bundle for the others.

use harness::bundle;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Something mounted in the room, at a directory that its root has.
#[derive(Debug, Clone)]
pub struct Mount {
    pub at: &'static str,
    pub what: What,
}

/// What is mounted.
#[derive(Debug, Clone)]
pub enum What {
    Tmpfs,
    ReadOnly(PathBuf),
    Writable(PathBuf),
}

/// A root with its mounts.
#[derive(Debug, Clone)]
pub struct Room {
    pub root: PathBuf,
    pub mounts: Vec<Mount>,
    pub environment: Vec<String>,
}

/// Descriptors that a program may open: enough for the largest epoll set.
const OPEN_FILES: u32 = 20_000;

/// `$1` a directory to mount the root on, `$2` the root, `$3` more mounts, then the environment and the command.
const ENTER: &str = r#"
set -e
stage=$1 root=$2 mounts=$3; shift 3
mount --bind "$root" "$stage"
cd "$stage"
mount -t proc proc proc
mount -t tmpfs -o mode=755 dev dev
for d in null zero full random urandom tty; do touch dev/$d; mount --bind /dev/$d dev/$d; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs shm dev/shm
ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin; ln -s fd/1 dev/stdout; ln -s fd/2 dev/stderr
eval "$mounts"
hostname sandbox
exec chroot . env -i "$@"
"#;

impl Room {
    /// A command that runs natively in the room. `stage` is an empty directory.
    pub fn native(&self, stage: &Path, arguments: &[&str]) -> Command {
        let mounts: Vec<String> = self.mounts.iter().map(Mount::script).collect();
        let limit = format!("--nofile={OPEN_FILES}");
        let mut command = Command::new("prlimit");
        command.args([limit.as_str(), "unshare", "--mount", "--propagation", "private", "--uts", "--ipc"]);
        command.args(["--pid", "--fork", "--kill-child", "bash", "-c", ENTER, "enter"]);
        command.arg(stage).arg(&self.root).arg(mounts.join("\n")).args(&self.environment).args(arguments);
        command
    }

    /// The `config.json` of a bundle that runs the command in the room.
    pub fn config(&self, arguments: &[&str], cgroup: &str) -> Value {
        let mut config = bundle::default_config(arguments);
        config["root"]["path"] = json!(self.root);
        config["process"]["env"] = json!(self.environment);
        config["process"]["rlimits"] =
            json!([{ "type": "RLIMIT_NOFILE", "hard": OPEN_FILES, "soft": OPEN_FILES }]);
        config["linux"]["cgroupsPath"] = json!(cgroup);
        if let Some(mounts) = config["mounts"].as_array_mut() {
            mounts.extend(self.mounts.iter().map(Mount::oci));
        }
        config
    }
}

impl Mount {
    fn script(&self) -> String {
        let at = self.at.trim_start_matches('/');
        match &self.what {
            What::Tmpfs => format!("mount -t tmpfs -o mode=1777 tmpfs {at}"),
            What::Writable(source) => format!("mount --bind '{}' {at}", source.display()),
            What::ReadOnly(source) => {
                format!("mount --bind '{}' {at}; mount -o remount,bind,ro {at}", source.display())
            }
        }
    }

    fn oci(&self) -> Value {
        match &self.what {
            What::Tmpfs => {
                json!({ "destination": self.at, "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"] })
            }
            What::Writable(source) => {
                json!({ "destination": self.at, "type": "bind", "source": source, "options": ["bind", "rw"] })
            }
            What::ReadOnly(source) => {
                json!({ "destination": self.at, "type": "bind", "source": source, "options": ["bind", "ro"] })
            }
        }
    }
}
