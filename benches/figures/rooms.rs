//! The rooms of the benchmark: a small one of busybox, where operations are measured, and one with
//! Debian's programs. Both have a tmpfs on `/tmp`, our programs (`/bench`, in Debian `/guest`), the compiler's
//! and the interpreter's sources (`/sources`, `/mnt`) and a directory of the host (`/bind`, `/srv`).

use crate::cli::Request;
use crate::programs;
use crate::room::{Mount, Room, What};
use harness::guest_programs::{self, Linking};
use harness::{bundle, command, debian};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Where programs find themselves, and what they work on.
#[derive(Debug)]
pub struct Rooms {
    pub small: Room,
    /// None if no row needs it.
    pub debian: Option<Room>,
    /// What `/bind` is on the host.
    pub bind: PathBuf,
}

const LIMIT: Duration = Duration::from_secs(60);
const SMALL_ENVIRONMENT: [&str; 2] = ["PATH=/bin:/sbin:/usr/bin:/usr/sbin", "HOME=/root"];

impl Rooms {
    pub fn prepare(scratch: &Path, request: &Request) -> Result<Rooms, String> {
        let sources = harness::repository().join("benches/guest");
        let sources = sources.canonicalize().map_err(|e| format!("{}: {e}", sources.display()))?;
        for name in guest_programs::names(&sources)? {
            guest_programs::build(&sources, &name, Linking::Static)?;
        }
        let bench = guest_programs::directory().join("static");
        let bench = bench.canonicalize().map_err(|e| format!("{}: {e}", bench.display()))?;
        let bind = scratch.join("bind");
        std::fs::create_dir(&bind).map_err(|e| format!("{}: {e}", bind.display()))?;
        let mounts = |at: [&'static str; 4]| {
            let what = [
                What::Tmpfs,
                What::ReadOnly(bench.clone()),
                What::ReadOnly(sources.clone()),
                What::Writable(bind.clone()),
            ];
            at.into_iter().zip(what).map(|(at, what)| Mount { at, what }).collect()
        };
        let root = scratch.join("small");
        bundle::make_rootfs(&root)?;
        for name in ["bench", "sources", "bind", "growth"] {
            std::fs::create_dir(root.join(name)).map_err(|e| format!("{}: {e}", root.display()))?;
        }
        let small = Room {
            root,
            mounts: mounts(["/tmp", "/bench", "/sources", "/bind"]),
            environment: SMALL_ENVIRONMENT.map(String::from).to_vec(),
        };
        let debian = if programs::wanted(request) {
            // Directories that the tree has, because nobody may make one in it.
            let mounts = mounts(["/tmp", "/guest", "/mnt", "/srv"]);
            let environment = debian::ENVIRONMENT.map(String::from).to_vec();
            Some(Room { root: read_only_tree(scratch)?, mounts, environment })
        } else {
            None
        };
        Ok(Rooms { small, debian, bind })
    }
}

/// The Debian tree that the tests use, mounted so that no runtime can write to it. The mount is in our
/// own namespace and goes with it.
fn read_only_tree(scratch: &Path) -> Result<PathBuf, String> {
    let tree = debian::root()?;
    let at = scratch.join("debian");
    std::fs::create_dir(&at).map_err(|e| format!("{}: {e}", at.display()))?;
    let script = r#"mount --bind "$0" "$1" && mount -o remount,bind,ro "$1""#;
    let mut sh = Command::new("sh");
    sh.args(["-c", script]).arg(&tree).arg(&at);
    command::run(&mut sh, LIMIT).ok("mounting the Debian tree")?;
    Ok(at)
}

/// A tmpfs for bundles and the runtimes' records, as `/run` is where engines keep both. In our own namespace too.
pub fn tmpfs(at: &Path) -> Result<PathBuf, String> {
    std::fs::create_dir(at).map_err(|e| format!("{}: {e}", at.display()))?;
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "mode=755", "tmpfs"]).arg(at);
    command::run(&mut mount, LIMIT).ok("mounting a tmpfs").map(|_| at.to_owned())
}
