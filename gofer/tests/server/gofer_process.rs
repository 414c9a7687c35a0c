//! Starting the gofer, and playing it.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use gofer::{Confinement, DeviceNodes, GoferConfig, Tree, TreeFlags};
use tempfile::TempDir;
use wire::{Client, CreateMode, Handle, Name};

const ROLE: &str = "GOFER_TEST_ROLE";
const TREES: &str = "GOFER_TEST_TREES";
const DEVICES: &str = "GOFER_TEST_DEVICES";
const OPEN_FILES: &str = "GOFER_TEST_OPEN_FILES";

/// A running gofer, and the sentry's end of its connection until a client takes it.
pub struct Gofer {
    child: Child,
    socket: Option<OwnedFd>,
}

/// How to start one.
pub struct Setup<'a> {
    pub role: String,
    pub trees: &'a [(&'a Path, TreeFlags)],
    pub devices: bool,
    pub open_files: Option<u64>,
}

impl Gofer {
    /// One that serves a directory, and may have no more than 128 files open.
    pub fn with_few_files(directory: &Path) -> Gofer {
        let trees = [(directory, TreeFlags::empty())];
        Gofer::start(&Setup {
            role: "serve".to_owned(),
            trees: &trees,
            devices: false,
            open_files: Some(128),
        })
    }

    /// Serves the trees.
    pub fn serving(trees: &[(&Path, TreeFlags)]) -> Self {
        Self::start(&Setup { role: "serve".to_owned(), trees, devices: false, open_files: None })
    }

    pub fn start(setup: &Setup<'_>) -> Self {
        let (ours, theirs) = wire::socket_pair().expect("a socket pair");
        let list: Vec<String> =
            setup.trees.iter().map(|(path, flags)| format!("{}:{}", flags.bits(), path.display())).collect();
        let mut command = Command::new(std::env::current_exe().expect("our own path"));
        command.env(ROLE, &setup.role).env(TREES, list.join("\n")).stdin(Stdio::from(theirs));
        if setup.devices {
            command.env(DEVICES, "1");
        }
        if let Some(limit) = setup.open_files {
            command.env(OPEN_FILES, limit.to_string());
        }
        Self { child: command.spawn().expect("a gofer process"), socket: Some(ours) }
    }

    pub fn client(&mut self) -> Client {
        Client::new(self.take_socket())
    }

    pub fn take_socket(&mut self) -> OwnedFd {
        self.socket.take().expect("the connection is taken once")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is gone already.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_some()
    }

    /// How it ended, once every channel is closed.
    pub fn end(mut self) -> ExitStatus {
        drop(self.socket.take());
        self.child.wait().expect("our child")
    }

    /// Asserts that it ended of its own accord.
    pub fn end_well(self) {
        let status = self.end();
        assert!(status.success(), "the gofer ended with {status:?}, signal {:?}", status.signal());
    }
}

impl Drop for Gofer {
    fn drop(&mut self) {
        // Already reaped unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory, a gofer that serves it, a client, and the root's handle.
pub struct Served {
    pub dir: TempDir,
    pub gofer: Gofer,
    pub client: Client,
    pub root: Handle,
}

/// A served directory with `fill`'s content.
pub fn served(flags: TreeFlags, fill: impl FnOnce(&Path)) -> Served {
    served_by("serve", flags, fill)
}

/// The same by a gofer in another role.
pub fn served_by(role: &str, flags: TreeFlags, fill: impl FnOnce(&Path)) -> Served {
    let dir = tempfile::tempdir().expect("a directory");
    fill(dir.path());
    let trees = [(dir.path(), flags)];
    let mut gofer =
        Gofer::start(&Setup { role: role.to_owned(), trees: &trees, devices: false, open_files: None });
    let client = gofer.client();
    let root = client.attach(0).expect("the tree").root.handle;
    Served { dir, gofer, client, root }
}

impl Served {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The handle of a path's last component, each of which must exist.
    pub fn find(&self, path: &str) -> Handle {
        let names: Vec<_> = path.split('/').map(name).collect();
        let mut walked = self.client.walk(&self.root, &names, None).expect("a walk");
        assert_eq!(walked.steps.len(), names.len(), "{path}: {:?}", walked.stop);
        walked.steps.pop().expect("a step").handle
    }

    pub fn end_well(self) {
        let Self { gofer, client, root, .. } = self;
        drop((client, root));
        gofer.end_well();
    }
}

pub fn name(name: &str) -> Name<'_> {
    Name::new(name.as_bytes()).expect("a name")
}

/// A new file of root's.
pub fn mode(mode: u32) -> CreateMode {
    CreateMode { mode, uid: 0, gid: 0 }
}

/// Serves, or tries what `lockdown` asks, if this process was started to do so.
pub fn play_role_if_asked() {
    let Ok(role) = std::env::var(ROLE) else { return };
    if let Some(limit) = std::env::var(OPEN_FILES).ok().and_then(|limit| limit.parse().ok()) {
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, limit, limit)
            .expect("a limit");
    }
    let config = config();
    match role.split_once(':') {
        None => gofer::serve(config).expect("serving"),
        Some(("userns", _)) => {
            enter_user_namespace();
            gofer::serve(config).expect("serving");
        }
        Some(("unprivileged", confinement)) => {
            let empty = rustix::thread::CapabilitySet::empty();
            let none =
                rustix::thread::CapabilitySets { effective: empty, permitted: empty, inheritable: empty };
            rustix::thread::set_capabilities(None, none).expect("fewer capabilities");
            let best_effort = confinement == "best-effort";
            let confinement = if best_effort { Confinement::BestEffort } else { Confinement::Required };
            if let Err(error) = gofer::serve(GoferConfig { confinement, ..config }) {
                eprintln!("{error}");
                std::process::exit(1);
            }
        }
        Some(("without", index)) => {
            let index: usize = index.parse().expect("a row's index");
            let remove = |rows: &mut Vec<gofer::filter::Row>| {
                rows.remove(index);
            };
            gofer::serve_filtered(config, remove).expect("serving");
        }
        Some((role, argument)) => super::lockdown::play(role, argument, config),
    }
    std::process::exit(0);
}

/// A user namespace in which only root is mapped, as a rootless engine makes it.
fn enter_user_namespace() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).expect("a user namespace");
    for (file, text) in [("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")] {
        std::fs::write(format!("/proc/self/{file}"), text).expect("the mapping");
    }
}

fn config() -> GoferConfig {
    let list = std::env::var(TREES).unwrap_or_default();
    let trees = list.lines().map(|line| {
        let (flags, path) = line.split_once(':').expect("flags and a path");
        let flags = TreeFlags::from_bits_truncate(flags.parse().expect("bits"));
        Tree { source: path.into(), flags }
    });
    let socket = std::io::stdin().as_fd().try_clone_to_owned().expect("the socket");
    // Else a channel the gofer closes would stay open here.
    nix::unistd::dup2_stdin(std::fs::File::open("/dev/null").expect("/dev/null"))
        .expect("another standard input");
    let allowed = std::env::var_os(DEVICES).is_some();
    GoferConfig {
        socket,
        trees: trees.collect(),
        device_nodes: if allowed { DeviceNodes::Allowed } else { DeviceNodes::Forbidden },
        confinement: Confinement::Required,
    }
}
