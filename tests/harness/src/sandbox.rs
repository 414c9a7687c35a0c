//! How tests start `runsc`: which binary, which platform, a private state directory.

use crate::report::Report;
use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A platform that every in-sandbox test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    Seccomp,
    /// `seccomp` with every system-call site patched when it first traps.
    Eager,
    /// `seccomp` without the accelerator.
    Plain,
    Ptrace,
}

impl Platform {
    pub const ALL: [Platform; 2] = [Platform::Seccomp, Platform::Ptrace];

    /// With the accelerator of `seccomp` on and off.
    pub const ON_AND_OFF: [Platform; 3] = [Platform::Seccomp, Platform::Plain, Platform::Ptrace];

    /// With each way in which `seccomp` can be set up.
    pub const EVERY: [Platform; 4] = [Platform::Seccomp, Platform::Eager, Platform::Plain, Platform::Ptrace];

    pub fn name(self) -> &'static str {
        match self {
            Platform::Seccomp => "seccomp",
            Platform::Eager => "seccomp-eager",
            Platform::Plain => "seccomp-plain",
            Platform::Ptrace => "ptrace",
        }
    }

    /// The value of `--platform`.
    pub fn option(self) -> &'static str {
        match self {
            Platform::Seccomp => "seccomp",
            Platform::Eager => "seccomp,eager=on",
            Platform::Plain => "seccomp,patch=off",
            Platform::Ptrace => "ptrace",
        }
    }

    /// Whose list of expected failures holds.
    pub fn expectations(self) -> &'static str {
        match self {
            Platform::Ptrace => "ptrace",
            _ => "seccomp",
        }
    }
}

/// The runtime under test, with a state directory of its own that goes when this does.
#[derive(Debug)]
pub struct Runtime {
    binary: PathBuf,
    is_ours: bool,
    state: tempfile::TempDir,
    platform: Option<Platform>,
}

impl Runtime {
    /// `built` is cargo's `CARGO_BIN_EXE_runsc`; `RUNSC_UNDER_TEST` names another runtime
    /// with the same command line (crun, runc), to check the tests themselves.
    pub fn new(built: &str) -> Result<Runtime, String> {
        let other = std::env::var_os("RUNSC_UNDER_TEST").map(PathBuf::from);
        let state = tempfile::Builder::new().prefix("runsc-test.").tempdir().map_err(|e| e.to_string())?;
        let is_ours = other.is_none();
        let binary = other.unwrap_or_else(|| built.into());
        let binary = binary.canonicalize().map_err(|e| format!("{}: {e}", binary.display()))?;
        Ok(Runtime { binary, is_ours, state, platform: None })
    }

    /// The same, always on this platform (a stand-in has none).
    pub fn with_platform(self, platform: Platform) -> Runtime {
        Runtime { platform: self.is_ours.then_some(platform), ..self }
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// What an engine is told to run, which knows no options of its runtime: the binary, or a script that runs it on this platform.
    /// It goes when the runtime does.
    pub fn program(&self) -> Result<PathBuf, String> {
        let Some(platform) = self.platform else { return Ok(self.binary.clone()) };
        let path = self.state.path().join(format!("runsc-{}", platform.name()));
        let script = format!(
            "#!/bin/sh\nexec '{}' --platform '{}' \"$@\"\n",
            self.binary.display(),
            platform.option()
        );
        let failed = |e: std::io::Error| format!("{}: {e}", path.display());
        std::fs::write(&path, script).map_err(failed)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).map_err(failed)?;
        Ok(path)
    }

    /// False when crun or runc stands in, which have no platforms and no `do`.
    pub fn is_ours(&self) -> bool {
        self.is_ours
    }

    /// The `--root` directory.
    pub fn state_dir(&self) -> PathBuf {
        self.state.path().join("state")
    }

    /// `runsc --root DIR ARGS...`
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(self.global_arguments()).args(arguments);
        command
    }

    /// What comes before the subcommand.
    pub fn global_arguments(&self) -> Vec<std::ffi::OsString> {
        let mut all = vec!["--root".into(), self.state_dir().into()];
        if let Some(platform) = self.platform {
            all.extend(["--platform".into(), platform.option().into()]);
        }
        all
    }

    /// `runsc --root DIR --platform P ARGS...`, without the platform for a stand-in.
    pub fn on<S: AsRef<OsStr>>(&self, platform: Platform, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--root").arg(self.state_dir());
        if self.is_ours {
            command.args(["--platform", platform.option()]);
        }
        command.args(arguments);
        command
    }
}

/// Runs cases with the accelerator on, off, and on `ptrace`; their names begin with the platform's. A stand-in has no platforms,
/// and runs them once.
pub fn on_each_platform(report: &Report, built: &str, cases: impl Fn(Runtime) -> Result<(), String>) {
    for platform in Platform::ON_AND_OFF {
        let runtime = Runtime::new(built).map(|runtime| runtime.with_platform(platform));
        let is_ours = runtime.as_ref().is_ok_and(Runtime::is_ours);
        report.within(if is_ours { platform.name() } else { "stand-in" }, || {
            if let Err(why) = runtime.and_then(&cases) {
                report.add("setup", Err(why), "");
            }
        });
        if !is_ours {
            break;
        }
    }
}
