//! `runsc do`: a command in a sandbox that shows the host's files, without a bundle.
//!
//! Invariants: nothing that the command does changes the host but through `--volume`; the sandbox ends when this process
//! does, however it does; the exit status is the command's, or docker's 125, 126 and 127.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use nix::unistd::Pid;
use sentry::spec::{
    AccessTimes, CapabilitySets, ContainerSpec, FirstProcess, MountFlags, MountKind, MountSpec, NetworkMode,
    ProcessSpec, RootMount, SandboxLimits, SandboxSpec, TimeOffsets, TmpfsOptions,
};

use super::Context;
use super::create::own_stdio;
use super::delete;
use super::start::start_container;
use crate::container::id::ContainerId;
use crate::container::plan::{Namespaces, NetworkNamespace, Plan};
use crate::container::store::Entry;
use crate::container::translate::mounts::Mounts;
use crate::container::translate::process::{ALL_CAPABILITIES, UserArgument};
use crate::container::translate::{no_nul, root_tree, text};
use crate::failure::{Attempt, Failure, RUNTIME_FAILED};
use crate::options::{Globals, OverlayMode, network, platform};
use crate::sandbox::console::{Pty, all_terminals, users_window};
use crate::sandbox::control::INIT;
use crate::sandbox::foreground::{Ending, Link, StandIn, block_signals};
use crate::sandbox::start::{self, Begin, Creation, InitStdio, Made};

/// What docker gives a container that says nothing.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables of the caller that a command on the host's own files needs to feel at home. Others may be secrets.
const INHERITED: [&str; 9] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "COLORTERM", "LANG", "TZ"];

/// `runsc do`.
#[derive(Debug, Args)]
pub struct Do {
    /// Use this directory as the root instead of the host's
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// Show a host file or directory inside; writes go to the host unless :ro
    #[arg(short, long, value_name = "SRC:DST[:ro]")]
    volume: Vec<String>,
    /// The working directory inside (default: the current one, or / with --rootfs)
    #[arg(short = 'w', long, visible_alias = "workdir", value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Set an environment variable, or pass the caller's
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Give it a terminal of its own (default: if standard input, output and error are terminals)
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tty: Option<bool>,
    /// Run as this user: numbers, or names of /etc/passwd and /etc/group inside
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<UserArgument>,
    /// The host name inside (default: the host's)
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// As the global option
    #[arg(long, value_name = "MODE", value_parser = network)]
    network: Option<NetworkMode>,
    /// As the global option
    #[arg(long, value_name = "NAME", value_parser = platform)]
    platform: Option<sentry::spec::PlatformName>,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<String>,
}

impl Do {
    /// Runs it.
    pub fn run(self, context: &Context) -> Result<i32, Failure> {
        let mut globals = context.globals.clone();
        globals.network = self.network.or(globals.network);
        globals.platform = self.platform.unwrap_or(globals.platform);
        let id = new_id()?;
        let plan = self.plan(&globals, &id)?;
        let signals = block_signals()?;
        let entry = context.store.create(&id)?;
        let (stand_in, state) = match self.begin(&globals, context, &entry, &plan) {
            Ok(begun) => begun,
            Err(failure) => {
                entry.remove()?;
                return Err(failure);
            }
        };
        let status = stand_in.run(&signals);
        delete::destroy(entry, Some(&state))?;
        status
    }

    fn begin(
        &self,
        globals: &Globals,
        context: &Context,
        entry: &Entry,
        plan: &Plan,
    ) -> Result<(StandIn, crate::container::store::ContainerState), Failure> {
        let process = &plan.sandbox.container.process;
        let (stdio, master) = if process.terminal {
            let Pty { master, slave } = Pty::open(process.console_size)?;
            (InitStdio::Terminal(slave), Some(master))
        } else {
            (InitStdio::Files(own_stdio()?), None)
        };
        let creation = Creation {
            globals,
            entry,
            plan,
            stdio,
            preserved: Vec::new(),
            die_with_caller: true,
            begin: Begin::AtOnce,
        };
        let Made { mut state, life } = start::create(&creation)?;
        drop(creation);
        let pid = Pid::from_raw(state.sandbox_pid());
        // A failure from here on ends the sandbox with this process.
        start_container(entry, &mut state)?;
        let ending = Ending::Sentry { pid, life, gofer: state.gofer };
        let link = Link::Later { store: context.store.clone(), id: ContainerId::new(&state.id)? };
        Ok((StandIn { link, pid: INIT, ending, master, slave: None, insistence: true }, state))
    }

    fn plan(&self, globals: &Globals, id: &ContainerId) -> Result<Plan, Failure> {
        let given = self.rootfs.as_deref().unwrap_or(Path::new("/"));
        let rootfs = fs::canonicalize(given).attempt(|| format!("--rootfs {}", given.display()))?;
        if !rootfs.is_dir() {
            return Err(Failure::new(format!("--rootfs {}: not a directory", rootfs.display())));
        }
        let overlay = globals.overlay2()? != OverlayMode::None;
        let mut trees = vec![root_tree(globals, rootfs.clone(), true)];
        // The host's own root is in use by the host.
        trees[0].exclusive &= self.rootfs.is_some();
        let nowhere = env::current_dir().unwrap_or_default();
        let mut mounts = Mounts::new(globals, &nowhere, &mut trees)?;
        for volume in &self.volume {
            add_volume(&mut mounts, volume).attempt(|| format!("--volume {volume}"))?;
        }
        let volumes = mounts.finish();
        let network = globals.network.unwrap_or(NetworkMode::None);
        let namespace =
            if network == NetworkMode::Host { NetworkNamespace::Inherit } else { NetworkNamespace::New };
        let container = ContainerSpec {
            id: id.as_str().to_owned(),
            root: RootMount { gofer_tree: 0, readonly: !overlay, overlay },
            mounts: kernel_mounts().into_iter().chain(volumes).collect(),
            devices: Vec::new(),
            masked_paths: Vec::new(),
            readonly_paths: Vec::new(),
            process: self.process()?,
            first_process: FirstProcess::Ordinary,
        };
        let sandbox = SandboxSpec {
            platform: globals.platform,
            hostname: self.hostname()?,
            domainname: String::new(),
            network,
            strace: globals.strace_options(),
            limits: SandboxLimits::default(),
            sysctl: std::collections::BTreeMap::default(),
            host_uds: globals.host_uds,
            time_offsets: TimeOffsets::default(),
            uid_mappings: Vec::new(),
            gid_mappings: Vec::new(),
            container,
        };
        Ok(Plan {
            sandbox,
            trees,
            oci_version: oci_spec::runtime::VERSION.to_owned(),
            bundle: PathBuf::new(),
            rootfs,
            annotations: std::collections::BTreeMap::default(),
            hooks: None,
            cgroup: None,
            namespaces: Namespaces { network: namespace, ..Namespaces::default() },
        })
    }

    fn hostname(&self) -> Result<String, Failure> {
        match &self.hostname {
            Some(name) => no_nul(name).map(|()| name.clone()),
            None => Ok(nix::unistd::gethostname()?.to_string_lossy().into_owned()),
        }
    }

    fn process(&self) -> Result<ProcessSpec, Failure> {
        let terminal = self.tty.unwrap_or_else(all_terminals);
        let env = self.environment();
        for entry in self.command.iter().chain(&env) {
            no_nul(entry)?;
        }
        let mut process = ProcessSpec {
            args: self.command.clone(),
            env,
            cwd: self.working_directory()?,
            uid: 0,
            gid: 0,
            additional_gids: Vec::new(),
            user: None,
            umask: None,
            capabilities: CapabilitySets {
                effective: ALL_CAPABILITIES,
                permitted: ALL_CAPABILITIES,
                bounding: ALL_CAPABILITIES,
                ..CapabilitySets::default()
            },
            rlimits: Vec::new(),
            no_new_privileges: false,
            terminal,
            console_size: if terminal { users_window() } else { None },
            oom_score_adj: None,
            nice: None,
            preserved_fds: 0,
        };
        if let Some(user) = &self.user {
            user.apply(&mut process);
            if user.user != "0" && user.user != "root" {
                (process.capabilities.effective, process.capabilities.permitted) = (0, 0);
            }
        }
        Ok(process)
    }

    fn working_directory(&self) -> Result<String, Failure> {
        match (&self.cwd, &self.rootfs) {
            (Some(cwd), _) => text(cwd).attempt(|| "--cwd".to_owned()),
            (None, Some(_)) => Ok("/".to_owned()),
            (None, None) => {
                let cwd = env::current_dir().attempt(|| "the current directory".to_owned())?;
                text(&cwd).attempt(|| "the current directory".to_owned())
            }
        }
    }

    fn environment(&self) -> Vec<String> {
        let inherited =
            |name: &str| self.rootfs.is_none() && (INHERITED.contains(&name) || name.starts_with("LC_"));
        let mut variables: Vec<String> = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| inherited(name) || name == "TERM")
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if !variables.iter().any(|variable| variable.starts_with("PATH=")) {
            variables.push(DEFAULT_PATH.to_owned());
        }
        for given in &self.env {
            let name = given.split('=').next().unwrap_or_default();
            let replaced = format!("{name}=");
            variables.retain(|variable| !variable.starts_with(&replaced));
            if given.contains('=') {
                variables.push(given.clone());
            } else if let Ok(value) = env::var(name) {
                variables.push(format!("{name}={value}"));
            }
        }
        variables
    }
}

/// Unique on this host while this process lives.
fn new_id() -> Result<ContainerId, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    ContainerId::new(&format!("do-{}-{:x}", std::process::id(), now.as_nanos()))
}

fn add_volume(mounts: &mut Mounts<'_>, volume: &str) -> Result<(), Failure> {
    let mut parts = volume.split(':');
    let (source, destination) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let readonly = match (parts.next(), parts.next()) {
        (None | Some("rw"), None) => false,
        (Some("ro"), None) => true,
        _ => return Err(Failure::new("is not SRC:DST or SRC:DST:ro")),
    };
    if source.is_empty() || destination.is_empty() {
        return Err(Failure::new("is not SRC:DST or SRC:DST:ro"));
    }
    let source = env::current_dir()?.join(source);
    let flags = MountFlags { readonly, ..MountFlags::default() };
    mounts.bind(&source, text(Path::new(destination))?, flags)
}

/// What every Linux system has, from the sandbox's own kernel.
fn kernel_mounts() -> Vec<MountSpec> {
    let quiet = MountFlags { nosuid: true, nodev: true, noexec: true, ..MountFlags::default() };
    let shared_memory = TmpfsOptions::default();
    let dev = TmpfsOptions { mode: 0o755, ..TmpfsOptions::default() };
    let dev_flags = MountFlags { nosuid: true, atime: AccessTimes::Strict, ..MountFlags::default() };
    let terminals = MountKind::Devpts { mode: 0o620, ptmx_mode: 0o666, gid: Some(5) };
    let terminal_flags = MountFlags { nosuid: true, noexec: true, ..MountFlags::default() };
    [
        ("/proc", MountKind::Proc, quiet),
        ("/sys", MountKind::Sysfs, MountFlags { readonly: true, ..quiet }),
        ("/dev", MountKind::Dev(dev), dev_flags),
        ("/dev/pts", terminals, terminal_flags),
        ("/dev/shm", MountKind::Tmpfs(shared_memory), quiet),
        ("/dev/mqueue", MountKind::Mqueue, quiet),
    ]
    .map(|(destination, fs, flags)| MountSpec { destination: destination.to_owned(), fs, flags })
    .into()
}

/// Failures that are not the program's get docker's status for them.
pub fn with_dockers_status(failure: Failure) -> Failure {
    if failure.status == crate::failure::FAILED { failure.with_status(RUNTIME_FAILED) } else { failure }
}
