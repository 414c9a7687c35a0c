//! How each runtime is called: natively, runc, crun, this `runsc` on a platform, gVisor's.

use harness::bundle::Bundle;
use harness::command;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// One column of the table.
#[derive(Debug)]
pub struct Runtime {
    pub name: String,
    /// None is the host itself.
    binary: Option<PathBuf>,
    flags: Vec<String>,
    state: tempfile::TempDir,
}

impl Runtime {
    pub fn named(name: &str, ours: &str, gvisor: Option<&str>) -> Result<Runtime, String> {
        let (binary, flags): (Option<&str>, &[&str]) = match name {
            "native" => (None, &[]),
            "runc" | "crun" => (Some(name), &[]),
            "runsc-seccomp" => (Some(ours), &["--platform", "seccomp"]),
            "runsc-ptrace" => (Some(ours), &["--platform", "ptrace"]),
            "gvisor" => {
                (Some(gvisor.ok_or("gvisor needs --gvisor PATH")?), &["--network=none", "--ignore-cgroups"])
            }
            other => return Err(format!("unknown runtime {other}")),
        };
        let state = tempfile::Builder::new().prefix("runsc-bench.").tempdir().map_err(|e| e.to_string())?;
        let binary = binary.map(find).transpose()?;
        let flags = flags.iter().map(|f| (*f).to_owned()).collect();
        let runtime = Runtime { name: name.into(), binary, flags, state };
        runtime.probe()?;
        Ok(runtime)
    }

    pub fn is_native(&self) -> bool {
        self.binary.is_none()
    }

    pub fn is_ours(&self) -> bool {
        self.name.starts_with("runsc-")
    }

    pub fn binary(&self) -> Option<&Path> {
        self.binary.as_deref()
    }

    /// Runs an empty container, so that a runtime that cannot work here is told at once.
    fn probe(&self) -> Result<(), String> {
        let bundle = Bundle::new(&["/bin/true"])?.write()?;
        command::run(&mut self.run(&bundle, "probe", &["/bin/true"]), Duration::from_secs(30))
            .ok(&self.name)
            .map(drop)
    }

    /// A runtime's command: `BINARY --root DIR FLAGS ARGS...`
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(self.binary.as_deref().unwrap_or(Path::new("false")));
        command.arg("--root").arg(self.state.path().join("state")).args(&self.flags).args(arguments);
        command
    }

    /// The bundle's program in the foreground; natively, the program itself.
    pub fn run(&self, bundle: &Bundle, id: &str, native: &[&str]) -> Command {
        if self.is_native() {
            let mut command = Command::new(native[0]);
            command.args(&native[1..]);
            return command;
        }
        let mut command = self.command(&["run", "--bundle"]);
        command.arg(bundle.path()).arg(id);
        command
    }

    /// `NAME version`, for the head of the table.
    pub fn version(&self) -> String {
        let Some(binary) = &self.binary else { return format!("native: Linux {}", kernel()) };
        let text = command::run(Command::new(binary).arg("--version"), Duration::from_secs(10)).stdout;
        format!("{}: {}", self.name, text.lines().next().unwrap_or("unknown").trim())
    }
}

pub fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// The program's full path, so that its processes can be told from others.
fn find(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/usr/sbin", "/usr/local/bin"].map(PathBuf::from);
    let candidates = std::iter::once(PathBuf::from(name))
        .filter(|p| p.components().count() > 1)
        .chain(std::env::split_paths(&path).chain(usual).map(|d| d.join(name)));
    let found =
        candidates.into_iter().find(|p| p.is_file()).ok_or_else(|| format!("no {name} on this machine"))?;
    found.canonicalize().map_err(|e| format!("{name}: {e}"))
}
