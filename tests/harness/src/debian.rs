//! The Debian tree of `tests/debian_root.sh`, and running a command natively inside it.
//!
//! The native side gets what the sandbox gives its programs: the tree under a writable
//! layer that is thrown away, its own mount, pid, ipc and uts namespaces, a small `/dev`,
//! `/proc`, an empty environment. So a difference in output is a difference of kernels.

use crate::command;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The environment of a program, inside and natively.
pub const ENVIRONMENT: [&str; 4] = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LC_ALL=C.UTF-8",
    "TERM=xterm",
];

/// Where programs start.
pub const DIRECTORY: &str = "/work";

const BUILD_LIMIT: Duration = Duration::from_secs(1300);

/// The tree's path; built first if it is not there.
pub fn root() -> Result<PathBuf, String> {
    let script = crate::repository().join("tests/debian_root.sh");
    let path = command::run(Command::new("bash").arg(script), BUILD_LIMIT).ok("debian_root.sh")?;
    let path = PathBuf::from(path.trim());
    path.canonicalize().map_err(|e| format!("{}: {e}", path.display()))
}

/// Sets up namespaces and mounts, then becomes the command. `$1` root, `$2` a directory to
/// show as `/cases`, then the command.
const ENTER: &str = r#"
set -e
root=$1 cases=$2; shift 2
mount -t tmpfs -o mode=755 scratch /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o "lowerdir=$root,upperdir=/mnt/upper,workdir=/mnt/work" /mnt/root
cd /mnt/root
mount -t proc proc proc
mount -t tmpfs -o mode=755 dev dev
for d in null zero full random urandom tty; do touch dev/$d; mount --bind /dev/$d dev/$d; done
mkdir dev/pts dev/shm cases
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs shm dev/shm
ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin; ln -s fd/1 dev/stdout; ln -s fd/2 dev/stderr
mount --bind -o ro "$cases" cases
hostname sandbox
exec chroot . env -i "$@"
"#;

/// A command that runs natively in the tree.
pub fn native(root: &Path, cases: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--propagation",
        "private",
        "--uts",
        "--ipc",
        "--pid",
        "--fork",
        "--kill-child",
    ]);
    command.args(["bash", "-c", ENTER, "enter"]).arg(root).arg(cases).args(ENVIRONMENT);
    command.args(["sh", "-c", "cd \"$0\" && exec \"$@\"", DIRECTORY]).args(arguments);
    command
}
