//! How each runtime is called: natively, runc, crun, this `runsc` with its options, gVisor's.

use crate::cli::{ColumnSpec, Kind};
use crate::room::Room;
use crate::watch;
use harness::command;
use serde_json::Value;
use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// One column of the table.
#[derive(Debug)]
pub struct Column {
    pub name: String,
    kind: Kind,
    /// State, bundles and logs of this column alone.
    directory: PathBuf,
    /// What the scratch directory and the parent of all cgroups are called; ids begin with it.
    prefix: String,
    count: Cell<usize>,
}

/// Whether a runtime makes a cgroup for its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    Managed,
    LeftAlone,
}

const LIMIT: Duration = Duration::from_secs(30);

/// Where the containers' cgroups are; the supervisor removes what is left of it.
pub fn cgroup_parent(scratch_name: &str) -> String {
    format!("/{scratch_name}")
}

impl Column {
    pub fn new(spec: &ColumnSpec, directory: &Path, prefix: &str) -> Result<Column, String> {
        std::fs::create_dir_all(directory.join("stage"))
            .map_err(|e| format!("{}: {e}", directory.display()))?;
        let column = Column {
            name: spec.name.clone(),
            kind: spec.kind.clone(),
            directory: directory.to_owned(),
            prefix: prefix.to_owned(),
            count: Cell::new(0),
        };
        column.binary()?;
        Ok(column)
    }

    pub fn is_native(&self) -> bool {
        self.kind == Kind::Native
    }

    pub fn is_ours(&self) -> bool {
        matches!(self.kind, Kind::Ours { .. })
    }

    /// Ours, or gVisor's: there is a sentry.
    pub fn is_sandbox(&self) -> bool {
        self.is_ours() || matches!(self.kind, Kind::Gvisor(_))
    }

    /// Whether the runtime can run a container without touching cgroups.
    pub fn can_leave_cgroups_alone(&self) -> bool {
        !matches!(self.kind, Kind::Native | Kind::Runc)
    }

    fn binary(&self) -> Result<PathBuf, String> {
        match &self.kind {
            Kind::Native => Ok(PathBuf::from("env")),
            Kind::Runc => find("runc"),
            Kind::Crun => find("crun"),
            Kind::Ours { binary, .. } | Kind::Gvisor(binary) => Ok(binary.clone()),
        }
    }

    /// Runs an empty container, so that a runtime that cannot work here is told at once.
    pub fn probe(&self, room: &Room) -> Result<(), String> {
        let container = self.container(room, &["/bin/true"], Cgroups::Managed)?;
        container.output(LIMIT).map(drop).map_err(|why| format!("{}: {why}", self.name))
    }

    /// Writes a bundle for a container that does not exist yet. Natively there is no container; `run` is
    /// the command in a chroot then.
    pub fn container(
        &self,
        room: &Room,
        arguments: &[&str],
        cgroups: Cgroups,
    ) -> Result<Container<'_>, String> {
        let number = self.count.replace(self.count.get() + 1);
        let directory = self.directory.join(format!("{number}"));
        let own = self.directory.file_name().unwrap_or_default().to_string_lossy();
        let id = format!("{}-{own}-{number}", self.prefix);
        std::fs::create_dir(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
        let config = room.config(arguments, &format!("{}/{id}", cgroup_parent(&self.prefix)));
        std::fs::write(directory.join("config.json"), config.to_string()).map_err(|e| e.to_string())?;
        let native = self.is_native().then(|| room.native(&self.directory.join("stage"), arguments));
        let program = self.binary()?;
        Ok(Container { column: self, program, directory, id, cgroups, native })
    }

    /// `NAME: version`, for the head of the table.
    pub fn version(&self) -> String {
        let Ok(binary) = self.binary() else { return String::new() };
        let text = command::run(Command::new(binary).arg("--version"), LIMIT).stdout;
        let options = match &self.kind {
            Kind::Ours { arguments, .. } => format!(", `{}`", arguments.join(" ")),
            _ => String::new(),
        };
        format!("{}: {}{options}", self.name, text.lines().next().unwrap_or("unknown").trim())
    }
}

/// A container with its bundle; deleted, if it still is there, when this goes.
#[derive(Debug)]
pub struct Container<'a> {
    column: &'a Column,
    program: PathBuf,
    directory: PathBuf,
    id: String,
    cgroups: Cgroups,
    native: Option<Command>,
}

impl Container<'_> {
    /// A runtime's command: `BINARY --root DIR FLAGS ARGS...`
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.column.directory.join("state"));
        command.arg("--log").arg(self.directory.join("log"));
        let alone = self.cgroups == Cgroups::LeftAlone;
        match &self.column.kind {
            Kind::Crun if alone => drop(command.arg("--cgroup-manager=disabled")),
            Kind::Crun => drop(command.arg("--cgroup-manager=cgroupfs")),
            Kind::Native | Kind::Runc => {}
            Kind::Ours { arguments, .. } => {
                command.args(arguments);
                command.args(alone.then_some("--ignore-cgroups"));
            }
            Kind::Gvisor(_) => {
                // Its default keeps the root's changes in a file in the root, which is read-only here.
                command.args(["--network=none", "--overlay2=root:memory"]);
                command.args(alone.then_some("--ignore-cgroups"));
            }
        }
        command.args(arguments);
        command
    }

    /// `BINARY ... VERB --bundle DIR ID`
    pub fn with_bundle(&self, verb: &[&str]) -> Command {
        let mut command = self.command(verb);
        command.arg("--bundle").arg(&self.directory).arg(&self.id);
        command
    }

    /// `BINARY ... VERB ID ARGS...`
    pub fn by_id(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = self.command(&[verb]);
        command.arg(&self.id).args(arguments);
        command
    }

    /// The program in the foreground.
    pub fn run(&self) -> Command {
        let Some(native) = &self.native else { return self.with_bundle(&["run"]) };
        let mut command = Command::new(native.get_program());
        command.args(native.get_args());
        command
    }

    /// Runs the program to its end and gives what it wrote.
    pub fn output(&self, limit: Duration) -> Result<String, String> {
        command::run(&mut self.run(), limit).ok("run").map_err(|why| format!("{why} {}", self.log()))
    }

    /// Starts the program in the background; what it writes goes to `output_so_far`.
    pub fn start_detached(&self, limit: Duration) -> Result<Duration, String> {
        watch::timed(&mut self.with_bundle(&["run", "--detach"]), limit)
            .map_err(|why| format!("run --detach: {why} {}", self.log()))
    }

    /// The same with the program's output in a file.
    pub fn start_with_output(&self, limit: Duration) -> Result<(), String> {
        let file = File::create(self.directory.join("output")).map_err(|e| e.to_string())?;
        let mut command = self.with_bundle(&["run", "--detach"]);
        command.stdin(Stdio::null()).stdout(file).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|e| e.to_string())?;
        let mut status = None;
        command::eventually("run --detach", limit, || {
            status = child.try_wait().ok().flatten();
            status.is_some()
        })
        .inspect_err(|_| drop(child.kill()))?;
        match status {
            Some(status) if status.success() => Ok(()),
            other => Err(format!("run --detach: {other:?} {}", self.log())),
        }
    }

    pub fn output_so_far(&self) -> String {
        std::fs::read_to_string(self.directory.join("output")).unwrap_or_default()
    }

    pub fn status(&self) -> String {
        let state = command::run(&mut self.by_id("state", &[]), LIMIT).stdout;
        let value: Value = serde_json::from_str(&state).unwrap_or_default();
        value["status"].as_str().unwrap_or_default().to_owned()
    }

    pub fn delete_force(&self) {
        if !self.column.is_native() && self.is_recorded() {
            let mut command = self.command(&["delete", "--force"]);
            command::run(command.arg(&self.id), LIMIT);
        }
    }

    /// Whether the runtime still has a record of it: a container in the foreground leaves none.
    fn is_recorded(&self) -> bool {
        let state = self.column.directory.join("state");
        let entries = std::fs::read_dir(state).into_iter().flatten().flatten();
        entries.into_iter().any(|e| e.file_name().to_string_lossy().starts_with(&self.id))
    }

    /// The end of the runtime's log, for a failure's message.
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        command::tail(&log)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        self.delete_force();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The program's full path.
fn find(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/usr/sbin", "/usr/local/bin"].map(PathBuf::from);
    let mut candidates = std::env::split_paths(&path).chain(usual).map(|d| d.join(name));
    let found = candidates.find(|p| p.is_file()).ok_or_else(|| format!("no {name} on this machine"))?;
    found.canonicalize().map_err(|e| format!("{name}: {e}"))
}
