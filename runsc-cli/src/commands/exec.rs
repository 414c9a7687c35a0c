//! `runsc exec`: one more process in a container.
//!
//! Invariants: detached, a proxy process stands in for the new one: its pid is the one that `--pid-file` gets, it ends with
//! the process's status, passes signals on to it, and takes it along if it is killed.

use std::fs;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use clap::Args;
use oci_spec::runtime::Process;
use sentry::spec::ProcessSpec;

use super::Context;
use super::create::{Terminal, check_console, own_stdio, preserved, write_pid_file};
use crate::container::id::ContainerId;
use crate::container::store::{ContainerState, Status};
use crate::container::translate::process::{UserArgument, capability_bit, process as judge};
use crate::container::translate::{no_nul, text};
use crate::failure::{Attempt, EXEC_FAILED, Failure};
use crate::sandbox::client::Client;
use crate::sandbox::console::{Pty, users_window};
use crate::sandbox::control::{Answer, Call, GuestPid};
use crate::sandbox::foreground::{Ending, Link, StandIn, block_signals};
use crate::sandbox::spawn;
use crate::sandbox::start::explain;

/// `runsc exec`.
#[derive(Debug, Args)]
pub struct Exec {
    /// Send the terminal's master to this socket
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// The working directory inside
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Run as this user: numbers, or names of the container's /etc/passwd and /etc/group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<UserArgument>,
    /// More groups
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// Take all of this from a file that holds OCI's "process"
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Return when it has started
    #[arg(short, long)]
    detach: bool,
    /// Write its pid on the host to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Accepted: the host's security modules see no process of the container
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// Accepted: likewise
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// It can gain no privileges
    #[arg(long)]
    no_new_privs: bool,
    /// Add a capability
    #[arg(short, long, value_name = "NAME")]
    cap: Vec<String>,
    /// Pass on our descriptors from 3 upwards, so many
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Not supported: all processes of a sandbox share its cgroup
    #[arg(long, value_name = "PATH")]
    cgroup: Vec<String>,
    /// Do it although the container is paused
    #[arg(long)]
    ignore_paused: bool,
    /// The container's id
    id: String,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Exec {
    /// Runs it.
    pub fn run(self, context: &Context) -> Result<i32, Failure> {
        self.perform(context)
            .attempt(|| "exec failed".to_owned())
            .map_err(|failure| failure.with_status(EXEC_FAILED))
    }

    fn perform(&self, context: &Context) -> Result<i32, Failure> {
        let id = ContainerId::new(&self.id)?;
        let state = context.store.require(&id)?;
        match state.status() {
            Status::Stopped => return Err(Failure::new("cannot exec in a stopped container")),
            Status::Paused if !self.ignore_paused => {
                return Err(Failure::new(
                    "cannot exec in a paused container (use --ignore-paused to override)",
                ));
            }
            _ => {}
        }
        let mut process = self.process_spec(&state)?;
        process.preserved_fds = self.preserve_fds;
        let preserved = preserved(self.preserve_fds)?;
        let terminal = if self.detach { Terminal::Detached } else { Terminal::Ours };
        check_console(process.terminal, self.console_socket.as_deref(), terminal)?;
        let client = context.connect(&id)?;
        if self.detach {
            self.detached(client, process, preserved)
        } else {
            self.attached(client, process, preserved)
        }
    }

    fn process_spec(&self, state: &ContainerState) -> Result<ProcessSpec, Failure> {
        if !self.cgroup.is_empty() {
            return Err(Failure::new(
                "--cgroup is not supported: all processes of a sandbox share its cgroup",
            ));
        }
        if let Some(path) = &self.process {
            let text = fs::read(path).attempt(|| format!("reading {}", path.display()))?;
            let process: Process =
                serde_json::from_slice(&text).attempt(|| format!("parsing {}", path.display()))?;
            let mut process = judge(&process)?;
            // As runc: the option can only add a terminal.
            process.terminal |= self.tty;
            return Ok(process);
        }
        if self.command.is_empty() {
            return Err(Failure::new("exec args cannot be empty"));
        }
        let mut process = state.process.clone();
        process.args.clone_from(&self.command);
        process.env.extend(self.env.iter().cloned());
        for entry in process.args.iter().chain(&process.env) {
            no_nul(entry)?;
        }
        process.terminal = self.tty;
        process.console_size = None;
        process.preserved_fds = 0;
        process.no_new_privileges |= self.no_new_privs;
        process.additional_gids.extend(&self.additional_gids);
        if let Some(cwd) = &self.cwd {
            process.cwd = text(cwd).attempt(|| "--cwd".to_owned())?;
        }
        if let Some(user) = &self.user {
            user.apply(&mut process);
        }
        for name in &self.cap {
            let bit = capability_bit(name)?;
            let sets = &mut process.capabilities;
            for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted, &mut sets.ambient] {
                *set |= bit;
            }
        }
        Ok(process)
    }

    fn attached(
        &self,
        mut client: Client,
        mut process: ProcessSpec,
        preserved: Vec<OwnedFd>,
    ) -> Result<i32, Failure> {
        let signals = block_signals()?;
        let (pid, master) = if process.terminal {
            let size = process.console_size.or_else(users_window);
            process.console_size = size;
            let Pty { master, slave } = Pty::open(size)?;
            (start(&mut client, process, vec![slave], preserved)?, Some(master))
        } else {
            (start(&mut client, process, own_stdio()?.into(), preserved)?, None)
        };
        if let Some(path) = &self.pid_file {
            write_pid_file(path, std::process::id().cast_signed())?;
        }
        let ticket = client.send(Call::Wait { pid }, &[])?;
        let stand_in = StandIn {
            link: Link::Open(client),
            pid,
            ending: Ending::Answer(ticket),
            master,
            slave: None,
            insistence: false,
        };
        stand_in.run(&signals)
    }

    fn detached(
        &self,
        mut client: Client,
        process: ProcessSpec,
        preserved: Vec<OwnedFd>,
    ) -> Result<i32, Failure> {
        let (descriptors, slave) = match (&self.console_socket, process.terminal) {
            (Some(socket), true) => {
                let slave = Pty::open(process.console_size)?.send_master(socket)?;
                (vec![slave.try_clone()?], Some(slave))
            }
            _ => (own_stdio()?.into(), None),
        };
        let pid = start(&mut client, process, descriptors, preserved)?;
        let signals = block_signals()?;
        let (mut alone, until_alone) = std::io::pipe()?;
        match spawn::fork()? {
            Some(proxy) => {
                // Whoever called may end its process group or terminal as soon as this command has ended.
                drop(until_alone);
                alone.read_to_end(&mut Vec::new())?;
                if let Some(path) = &self.pid_file {
                    write_pid_file(path, proxy.as_raw())?;
                }
                Ok(0)
            }
            None => {
                let status = proxy(client, pid, slave, &signals, until_alone).unwrap_or(EXEC_FAILED);
                // The parent's destructors and buffers are not ours to run.
                std::process::exit(status);
            }
        }
    }
}

/// The process that stands in for a detached one. Closes `until_alone` when it has left its maker's session and streams.
fn proxy(
    mut client: Client,
    pid: GuestPid,
    slave: Option<OwnedFd>,
    signals: &nix::sys::signalfd::SignalFd,
    until_alone: std::io::PipeWriter,
) -> Result<i32, Failure> {
    nix::unistd::setsid()?;
    if let Some(slave) = &slave {
        // To be told when its window changes.
        spawn::control_terminal(slave.as_fd())?;
    }
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    drop(until_alone);
    let ticket = client.send(Call::Wait { pid }, &[])?;
    StandIn {
        link: Link::Open(client),
        pid,
        ending: Ending::Answer(ticket),
        master: None,
        slave,
        insistence: false,
    }
    .run(signals)
}

/// Starts the process, tied to this connection.
fn start(
    client: &mut Client,
    process: ProcessSpec,
    stdio: Vec<OwnedFd>,
    preserved: Vec<OwnedFd>,
) -> Result<GuestPid, Failure> {
    let args = process.args.clone();
    let fds: Vec<_> = stdio.iter().chain(&preserved).map(AsFd::as_fd).collect();
    let ticket = client.send(Call::Exec { process: Box::new(process), tied: true }, &fds)?;
    match client.receive(ticket) {
        Ok(Answer::Started(pid)) => Ok(pid),
        Ok(other) => Err(Failure::new(format!("the sentry answered {other:?} to exec"))),
        Err(error) => Err(explain(&args, &error)).attempt(|| "unable to start container process".to_owned()),
    }
}
