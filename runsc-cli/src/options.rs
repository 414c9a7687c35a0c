//! Global options: runc's, and those of gVisor's that have a meaning here, in their spelling.
//!
//! Key types: [`Globals`], [`Arguments`] (the whole command line). Neighbours: `main.rs` parses, every command reads.
//! Invariant: an option that exists elsewhere but cannot be honoured here is refused by clap or by name, never ignored.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, ValueEnum};
use sentry::spec::{Accelerator, HostUds, NetworkMode, PlatformName, StraceOptions};

use crate::commands::Command;
use crate::failure::Failure;
use crate::logging::LogFormat;

/// How many bytes of a buffer `--strace` prints unless told.
const STRACE_LOG_SIZE: u32 = 1024;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "runsc",
    about = "An OCI runtime whose containers run on a kernel of their own, in user space",
    args_override_self = true,
    disable_version_flag = true,
    arg_required_else_help = true
)]
pub struct Arguments {
    /// Before the command.
    #[command(flatten)]
    pub globals: Globals,
    /// Print the version
    #[arg(short = 'v', long = "version")]
    pub version: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Options before the command.
#[derive(Debug, Clone, Args)]
pub struct Globals {
    /// Directory for container state [default: /run/runsc, or runsc below XDG_RUNTIME_DIR for an ordinary user]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Append log messages to this file (default: standard error)
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Format of log messages
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Log more
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true")]
    pub debug: bool,
    /// Log everything to this file, or to files in this directory if it ends with a slash
    /// (%COMMAND%, %ID% and %TIMESTAMP% are replaced)
    #[arg(long, value_name = "PATH")]
    pub debug_log: Option<String>,
    /// Format of the debug log
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub debug_log_format: LogFormat,
    /// Make cgroups through systemd; linux.cgroupsPath is slice:prefix:name
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true")]
    pub systemd_cgroup: bool,
    /// Run without privileges, in a user namespace (true, false, or auto: when not root)
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_value = "auto",
          default_missing_value = "true", value_enum)]
    pub rootless: Rootless,
    /// How application code is run: seccomp (default), systrap (an alias of it), or ptrace
    #[arg(long, value_name = "NAME", value_parser = platform, default_value = "seccomp")]
    pub platform: PlatformName,
    /// What the sandbox's network is: none, sandbox or host
    #[arg(long, value_name = "MODE", value_parser = network)]
    pub network: Option<NetworkMode>,
    /// What is writable without changing the host: root:memory, all:memory or none
    #[arg(long, value_name = "WHERE", default_value = "root:memory")]
    pub overlay2: String,
    /// Whether others may change the root while the container runs
    #[arg(long, value_name = "HOW", value_enum, default_value = "exclusive")]
    pub file_access: FileAccess,
    /// Likewise for other mounts
    #[arg(long, value_name = "HOW", value_enum, default_value = "shared")]
    pub file_access_mounts: FileAccess,
    /// Which Unix sockets of the host the container may use: none, open, create or all
    #[arg(long, value_name = "WHICH", value_parser = host_uds, default_value = "none")]
    pub host_uds: HostUds,
    /// Print system calls as strace does, to the debug log
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true")]
    pub strace: bool,
    /// Only these system calls
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub strace_syscalls: Vec<String>,
    /// How many bytes of a buffer are printed
    #[arg(long, value_name = "BYTES", default_value_t = STRACE_LOG_SIZE)]
    pub strace_log_size: u32,
    /// Put no process into a cgroup
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true")]
    pub ignore_cgroups: bool,
    /// Honour linux.seccomp
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true")]
    pub oci_seccomp: bool,
}

/// `--rootless`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rootless {
    /// In a user namespace that maps only the caller.
    True,
    /// With the caller's privileges.
    False,
    /// The former unless the caller is root.
    Auto,
}

/// `--file-access`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FileAccess {
    /// Nobody else changes the tree.
    Exclusive,
    /// Others may.
    Shared,
}

/// `--overlay2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverlayMode {
    /// Writes go to the host's files.
    None,
    /// The root has a writable layer in memory.
    Root,
    /// So has every other directory.
    All,
}

/// Parses `--platform`.
pub fn platform(text: &str) -> Result<PlatformName, String> {
    match text {
        "ptrace" => Ok(PlatformName::Ptrace),
        _ => {
            let (name, parts) =
                text.split_once(',').map_or((text, None), |(name, parts)| (name, Some(parts)));
            if !matches!(name, "seccomp" | "systrap") {
                return Err(format!(
                    "there is no platform {name:?}; known are seccomp (alias systrap) and ptrace"
                ));
            }
            parts.map_or_else(|| Ok(Accelerator::default()), accelerator).map(PlatformName::Seccomp)
        }
    }
}

/// Parses what follows the comma of `--platform=seccomp,patch=off,…`.
fn accelerator(text: &str) -> Result<Accelerator, String> {
    let mut accelerator = Accelerator::default();
    for part in text.split(',') {
        let (name, value) = part.split_once('=').ok_or(format!("{part:?} is not NAME=on or NAME=off"))?;
        let value = match value {
            "on" => true,
            "off" => false,
            _ => return Err(format!("{name} is on or off, not {value:?}")),
        };
        match name {
            "patch" => accelerator.patch = value,
            "eager" => accelerator.eager = value,
            "spin" => accelerator.spin = value,
            "carry" => accelerator.carry = value,
            "local" => accelerator.local = value,
            _ => {
                return Err(format!(
                    "the platform has no part {name:?}; it has patch, eager, spin, carry and local"
                ));
            }
        }
    }
    Ok(accelerator)
}

/// Parses `--network`.
pub fn network(text: &str) -> Result<NetworkMode, String> {
    match text {
        "none" => Ok(NetworkMode::None),
        "sandbox" => Ok(NetworkMode::Sandbox),
        "host" => Ok(NetworkMode::Host),
        other => Err(format!("there is no network mode {other:?}; known are none, sandbox and host")),
    }
}

fn host_uds(text: &str) -> Result<HostUds, String> {
    match text {
        "none" => Ok(HostUds::None),
        "open" => Ok(HostUds::Open),
        "create" => Ok(HostUds::Create),
        "all" => Ok(HostUds::All),
        other => Err(format!("{other:?} is none of none, open, create and all")),
    }
}

impl Globals {
    /// Whether the sandbox maps only the caller.
    pub fn is_rootless(&self) -> bool {
        match self.rootless {
            Rootless::True => true,
            Rootless::False => false,
            Rootless::Auto => !nix::unistd::geteuid().is_root(),
        }
    }

    /// `--root`, or its default.
    pub fn state_directory(&self) -> PathBuf {
        if let Some(root) = &self.root {
            return root.clone();
        }
        let user = nix::unistd::geteuid();
        if user.is_root() {
            return PathBuf::from("/run/runsc");
        }
        match std::env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty()) {
            Some(directory) => PathBuf::from(directory).join("runsc"),
            None => PathBuf::from(format!("/tmp/runsc-{user}")),
        }
    }

    /// `--overlay2`, judged.
    pub fn overlay2(&self) -> Result<OverlayMode, Failure> {
        match self.overlay2.as_str() {
            "none" => Ok(OverlayMode::None),
            "root:memory" => Ok(OverlayMode::Root),
            "all:memory" => Ok(OverlayMode::All),
            other => Err(Failure::new(format!(
                "--overlay2={other} is not supported: known are root:memory, all:memory and none"
            ))),
        }
    }

    /// `--file-access=exclusive`.
    pub fn exclusive_root(&self) -> bool {
        self.file_access == FileAccess::Exclusive
    }

    /// `--strace*`.
    pub fn strace_options(&self) -> Option<StraceOptions> {
        self.strace
            .then(|| StraceOptions { calls: self.strace_syscalls.clone(), log_size: self.strace_log_size })
    }
}

/// Go's flag package takes `-network=none` for `--network=none`; clap would read it as a bundle of short options. Only
/// words before the command are touched.
pub fn with_double_dashes(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut before_command = true;
    let mut takes_value = false;
    arguments
        .enumerate()
        .map(|(index, word)| {
            if index == 0 || !before_command {
                return word;
            }
            let Some(text) = word.to_str() else { return word };
            if std::mem::take(&mut takes_value) {
                return word;
            }
            if !text.starts_with('-') {
                before_command = false;
                return word;
            }
            let bare = text.trim_start_matches('-');
            takes_value = !bare.contains('=') && WITH_SEPARATE_VALUE.contains(&bare);
            if text.starts_with("--") || bare.len() < 2 { word } else { OsString::from(format!("--{bare}")) }
        })
        .collect()
}

/// Global options whose value may be the next word.
const WITH_SEPARATE_VALUE: [&str; 13] = [
    "root",
    "log",
    "log-format",
    "debug-log",
    "debug-log-format",
    "platform",
    "network",
    "overlay2",
    "file-access",
    "file-access-mounts",
    "host-uds",
    "strace-syscalls",
    "strace-log-size",
];

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn dashes(words: &[&str]) -> Vec<String> {
        with_double_dashes(words.iter().map(OsString::from))
            .into_iter()
            .map(|w| w.into_string().unwrap())
            .collect()
    }

    #[test]
    fn single_dashes_are_doubled_before_the_command_only() {
        assert_eq!(
            dashes(&[
                "runsc",
                "-root",
                "-x",
                "-network=none",
                "--strace",
                "-v",
                "do",
                "-it",
                "sh",
                "-network=none"
            ]),
            ["runsc", "--root", "-x", "--network=none", "--strace", "-v", "do", "-it", "sh", "-network=none"]
        );
    }

    #[test]
    fn every_global_option_with_a_value_is_listed() {
        let command = Arguments::command();
        for option in
            command.get_arguments().filter(|o| o.get_action().takes_values() && !o.is_require_equals_set())
        {
            let Some(long) = option.get_long() else { continue };
            assert!(WITH_SEPARATE_VALUE.contains(&long), "{long}");
        }
    }

    #[test]
    fn a_commands_help_is_its_own() {
        let mut command = Arguments::command();
        let listed: Vec<_> = command.get_subcommands().map(|each| each.get_about().cloned()).collect();
        command.build();
        for (each, about) in command.get_subcommands_mut().zip(listed) {
            assert_eq!(each.get_about().cloned(), about, "{}", each.get_name());
        }
        for (name, option) in
            [("run", "--keep"), ("exec", "--tty"), ("kill", "--all"), ("delete", "<IDS>...")]
        {
            let help = command.find_subcommand_mut(name).unwrap().render_long_help().to_string();
            assert!(help.contains(option), "{help}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
