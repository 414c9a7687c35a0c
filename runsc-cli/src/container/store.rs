//! What is recorded about containers: a directory for each under `--root`, with its state and its control socket.
//!
//! Key types: [`Store`] (the `--root` directory), [`Entry`] (one container, locked), [`ContainerState`] (the record),
//! [`Remains`] (the part of it that survives a damaged record).
//! Neighbours: every command; `sandbox/start.rs` writes the processes into it before they may run.
//! Invariants: `state.json` is replaced by `rename(2)`, so a reader needs no lock and never sees half of it; whoever
//! changes it holds `flock(2)` on the container's directory, which the host releases when the holder dies in any way; a
//! directory without a state is the remains of a `create` that was killed, and may be taken over by whoever locks it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use oci_spec::runtime::Hooks;
use sentry::spec::ProcessSpec;
use serde::{Deserialize, Serialize};

use super::cgroup::CgroupRecord;
use super::id::ContainerId;
use super::process_identity::ProcessIdentity;
use crate::failure::{Attempt, Failure};

const STATE: &str = "state.json";
/// What `delete --force` needs if the state is damaged.
const REMAINS: &str = "remains";
const CONTROL_SOCKET: &str = "control.sock";

/// How long a command waits for another that changes the same container. Longer than any step that is not a hook.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// runc's words, which shims look for, and the container.
pub fn does_not_exist(id: &ContainerId) -> Failure {
    Failure::new(format!("container does not exist: {id}"))
}

/// One container's record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerState {
    /// `ociVersion` of its configuration.
    pub oci_version: String,
    /// Its id.
    pub id: String,
    /// Absolute path of its bundle; empty for `do`.
    pub bundle: PathBuf,
    /// Absolute path of its root file system on the host.
    pub rootfs: PathBuf,
    /// When it was created, RFC 3339.
    pub created: String,
    /// From its configuration.
    pub annotations: BTreeMap<String, String>,
    /// Who created it.
    pub owner: u32,
    /// How far it has come.
    pub phase: Phase,
    /// It was paused and not resumed.
    pub paused: bool,
    /// The sentry, whose pid is the container's.
    pub sentry: Option<ProcessIdentity>,
    /// The gofer.
    pub gofer: Option<ProcessIdentity>,
    /// Its cgroups, if it has any.
    pub cgroup: Option<CgroupRecord>,
    /// Hooks that are still to run.
    pub hooks: Option<Hooks>,
    /// What `exec` begins with.
    pub process: ProcessSpec,
}

/// What a container leaves on the host, and `delete` must find.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Remains {
    /// Sentry and gofer.
    pub processes: Vec<ProcessIdentity>,
    /// Its cgroups.
    pub cgroup: Option<CgroupRecord>,
}

/// How far a container has come; whether it has also ended is told by its sentry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// `create` is at work, or was killed.
    Creating,
    /// It can be started.
    Created,
    /// It was started.
    Running,
}

/// OCI's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// `create` is at work.
    Creating,
    /// The sandbox is up, the program has not begun.
    Created,
    /// The program runs.
    Running,
    /// It was paused.
    Paused,
    /// Its sentry has ended.
    Stopped,
}

impl Status {
    /// OCI's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl ContainerState {
    /// What it leaves on the host.
    pub fn remains(&self) -> Remains {
        let processes = self.sentry.into_iter().chain(self.gofer).collect();
        Remains { processes, cgroup: self.cgroup.clone() }
    }

    /// Its status now.
    pub fn status(&self) -> Status {
        match (self.sentry.is_some_and(ProcessIdentity::is_alive), self.phase) {
            (false, _) => Status::Stopped,
            (true, Phase::Creating) => Status::Creating,
            (true, _) if self.paused => Status::Paused,
            (true, Phase::Created) => Status::Created,
            (true, Phase::Running) => Status::Running,
        }
    }

    /// The container's pid on the host, whether or not it lives; for whoever has just made it.
    pub fn sandbox_pid(&self) -> i32 {
        self.sentry.map_or(0, |sentry| sentry.pid)
    }

    /// The container's pid on the host; 0 unless it lives.
    pub fn live_pid(&self) -> i32 {
        self.sentry.filter(|sentry| sentry.is_alive()).map_or(0, |sentry| sentry.pid)
    }
}

/// The directory of all containers.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Nothing is made before a container is.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn directory(&self, id: &ContainerId) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// Makes and locks a new container's directory.
    pub fn create(&self, id: &ContainerId) -> Result<Entry, Failure> {
        let directory = self.directory(id);
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&self.root)
            .attempt(|| format!("making the state directory {}", self.root.display()))?;
        let owner = fs::metadata(&self.root)?.uid();
        if owner != geteuid().as_raw() && owner != 0 {
            // In a shared directory such as /tmp anybody could have made it first.
            return Err(Failure::new(format!("{} belongs to user {owner}", self.root.display())));
        }
        loop {
            match DirBuilder::new().mode(0o700).create(&directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).attempt(|| format!("making {}", directory.display())),
            }
            let Some(entry) = Entry::lock(&directory, Duration::ZERO)? else {
                // Removed between two lines, or locked: then it exists.
                if directory.exists() {
                    return Err(exists(id));
                }
                continue;
            };
            if directory.join(STATE).exists() {
                return Err(exists(id));
            }
            return Ok(entry);
        }
    }

    /// Locks an existing container's directory; `None` if there is none.
    pub fn lock(&self, id: &ContainerId) -> Result<Option<Entry>, Failure> {
        let directory = self.directory(id);
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            if !directory.exists() {
                return Ok(None);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if let Some(entry) = Entry::lock(&directory, left)? {
                return Ok(Some(entry));
            }
            if left.is_zero() {
                return Err(Failure::new(format!("container {id} is busy: another command is changing it")));
            }
        }
    }

    /// The record of a container, without a lock; `None` if there is no container.
    pub fn read(&self, id: &ContainerId) -> Result<Option<ContainerState>, Failure> {
        read_state(&self.directory(id))
    }

    /// The record of a container that must exist.
    pub fn require(&self, id: &ContainerId) -> Result<ContainerState, Failure> {
        self.read(id)?.ok_or_else(|| does_not_exist(id))
    }

    /// All records, by id. Containers that are vanishing are left out.
    pub fn list(&self) -> Result<Vec<ContainerState>, Failure> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).attempt(|| format!("reading {}", self.root.display())),
        };
        let mut states = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let Some(id) = name.to_str().and_then(|name| ContainerId::new(name).ok()) else { continue };
            match self.read(&id) {
                Ok(state) => states.extend(state),
                Err(failure) => tracing::error!("load container {id}: {failure}"),
            }
        }
        states.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(states)
    }

    /// Connects to a container's sentry.
    pub fn connect(&self, id: &ContainerId) -> io::Result<UnixStream> {
        let directory = open_directory(&self.directory(id))?;
        UnixStream::connect(short_path(&directory, CONTROL_SOCKET))
    }
}

fn exists(id: &ContainerId) -> Failure {
    Failure::new(format!("container with given ID already exists: {id}"))
}

fn open_directory(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path)
}

/// A name for a file in an open directory that fits into a socket address whatever the length of `--root`
/// (`sun_path` has 108 bytes, `unix(7)`).
fn short_path(directory: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

fn read_state(directory: &Path) -> Result<Option<ContainerState>, Failure> {
    let path = directory.join(STATE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).attempt(|| format!("reading {}", path.display())),
    };
    serde_json::from_slice(&text).map(Some).attempt(|| format!("reading {}", path.display()))
}

/// A container's directory, locked against every other command until dropped.
#[derive(Debug)]
pub struct Entry {
    path: PathBuf,
    directory: Flock<File>,
}

impl Entry {
    /// `None` when it is gone, or still locked when the time is over.
    fn lock(path: &Path, patience: Duration) -> Result<Option<Self>, Failure> {
        let deadline = Instant::now() + patience;
        let mut file = match open_directory(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).attempt(|| format!("opening {}", path.display())),
        };
        let directory = loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => break locked,
                Err((same, nix::Error::EWOULDBLOCK | nix::Error::EINTR)) => file = same,
                Err((_, error)) => return Err(error).attempt(|| format!("locking {}", path.display())),
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(LOCK_RETRY);
        };
        // Whoever held the lock may have removed the directory, and another may have made a new one of that name.
        let ours = directory.metadata()?;
        let same =
            fs::symlink_metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (ours.dev(), ours.ino()));
        Ok(same.then(|| Self { path: path.to_owned(), directory }))
    }

    /// The record, if it has got that far.
    pub fn read(&self) -> Result<Option<ContainerState>, Failure> {
        read_state(&self.path)
    }

    /// Replaces the record.
    pub fn write(&self, state: &ContainerState) -> Result<(), Failure> {
        self.replace(STATE, &serde_json::to_vec(state)?)
    }

    /// Writes down what must be cleaned up, apart from the record.
    pub fn write_remains(&self, remains: &Remains) -> Result<(), Failure> {
        self.replace(REMAINS, &serde_json::to_vec(remains)?)
    }

    /// What must be cleaned up; nothing if that is not known.
    pub fn remains(&self) -> Remains {
        let text = fs::read(self.path.join(REMAINS)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn replace(&self, name: &str, text: &[u8]) -> Result<(), Failure> {
        let (path, new) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(text)?;
            fs::rename(&new, &path)
        };
        write().attempt(|| format!("writing {}", path.display()))
    }

    /// Makes the control socket.
    pub fn listen(&self) -> Result<UnixListener, Failure> {
        // Left over if a `create` of the same id was killed.
        drop(fs::remove_file(self.path.join(CONTROL_SOCKET)));
        UnixListener::bind(short_path(&self.directory, CONTROL_SOCKET))
            .attempt(|| format!("making {}", self.path.join(CONTROL_SOCKET).display()))
    }

    /// Connects to the container's sentry.
    pub fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(short_path(&self.directory, CONTROL_SOCKET))
    }

    /// Removes everything that is recorded.
    pub fn remove(self) -> Result<(), Failure> {
        fs::remove_dir_all(&self.path).attempt(|| format!("removing {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests;
