//! `runsc create`: makes the sandbox, loads the program, and leaves the rest to `start`.
//!
//! Neighbours: `run.rs` uses [`CreateOptions`] too. Invariant: when it fails, the id is free again.

use std::env;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use clap::Args;

use super::Context;
use crate::container::bundle;
use crate::container::id::ContainerId;
use crate::container::plan::Plan;
use crate::container::store::Entry;
use crate::container::translate;
use crate::failure::{Attempt, Failure};
use crate::sandbox::console::{Pty, users_window};
use crate::sandbox::spawn;
use crate::sandbox::start::{self, Begin, Creation, InitStdio, Made};

/// `runsc create`.
#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    options: CreateOptions,
    /// The container's id
    id: String,
}

/// What `create` and `run` share.
#[derive(Debug, Args)]
pub struct CreateOptions {
    /// The bundle's directory
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Send the terminal's master to this socket
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Write the container's pid to this file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Hand this many descriptors from 3 upwards to the container, besides those of LISTEN_FDS
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// Accepted: the sandbox's root is not a mount of the host, so there is nothing to pivot
    #[arg(long)]
    pub no_pivot: bool,
    /// Accepted: the sandbox has no part in the host's keyrings
    #[arg(long)]
    pub no_new_keyring: bool,
}

impl Create {
    /// Makes the container.
    pub fn run(self, context: &Context) -> Result<i32, Failure> {
        let id = ContainerId::new(&self.id).attempt(|| "runsc create failed".to_owned())?;
        let made = self
            .options
            .create(context, &id, Terminal::Detached, Begin::OnStart)
            .attempt(|| "runsc create failed".to_owned())?;
        drop(made);
        Ok(0)
    }
}

/// What becomes of a container's terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// Its master goes to `--console-socket`.
    Detached,
    /// Its master stays with us.
    Ours,
}

/// A created container.
#[derive(Debug)]
pub struct Created {
    /// Its locked directory.
    pub entry: Entry,
    /// Its sandbox.
    pub made: Made,
    /// The master of its terminal, if it is ours.
    pub master: Option<OwnedFd>,
}

impl CreateOptions {
    /// Reads the bundle and makes the container.
    pub fn create(
        &self,
        context: &Context,
        id: &ContainerId,
        terminal: Terminal,
        begin: Begin,
    ) -> Result<Created, Failure> {
        let (bundle, spec) = bundle::load(&self.bundle)?;
        let mut plan = translate::plan(&context.globals, id, bundle, &spec)?;
        let preserved = self.preserved_descriptors(&mut plan)?;
        let process = &plan.sandbox.container.process;
        check_console(process.terminal, self.console_socket.as_deref(), terminal)?;
        let entry = context.store.create(id)?;
        // The hook comes between.
        let has_hook = plan.hooks.as_ref().is_some_and(|hooks| hooks.start_container().is_some());
        let begin = if has_hook { Begin::OnStart } else { begin };
        let made = self.create_in(context, &entry, &plan, preserved, begin);
        match made {
            Ok((made, master)) => Ok(Created { entry, made, master }),
            Err(failure) => {
                entry.remove()?;
                Err(failure)
            }
        }
    }

    fn create_in(
        &self,
        context: &Context,
        entry: &Entry,
        plan: &Plan,
        preserved: Vec<OwnedFd>,
        begin: Begin,
    ) -> Result<(Made, Option<OwnedFd>), Failure> {
        let (stdio, master) = self.stdio(plan)?;
        let globals = &context.globals;
        let made = start::create(&Creation {
            globals,
            entry,
            plan,
            stdio,
            preserved,
            die_with_caller: false,
            begin,
        })?;
        if let Some(path) = &self.pid_file {
            write_pid_file(path, made.state.sandbox_pid())?;
        }
        Ok((made, master))
    }

    fn stdio(&self, plan: &Plan) -> Result<(InitStdio, Option<OwnedFd>), Failure> {
        let process = &plan.sandbox.container.process;
        if !process.terminal {
            return Ok((InitStdio::Files(own_stdio()?), None));
        }
        match &self.console_socket {
            Some(socket) => {
                let slave = Pty::open(process.console_size)?.send_master(socket)?;
                Ok((InitStdio::Terminal(slave), None))
            }
            None => {
                let Pty { master, slave } = Pty::open(process.console_size.or_else(users_window))?;
                Ok((InitStdio::Terminal(slave), Some(master)))
            }
        }
    }

    fn preserved_descriptors(&self, plan: &mut Plan) -> Result<Vec<OwnedFd>, Failure> {
        let activated = activated_descriptors(&mut plan.sandbox.container.process.env);
        let count = activated.saturating_add(self.preserve_fds);
        plan.sandbox.container.process.preserved_fds = count;
        preserved(count)
    }
}

/// `sd_listen_fds(3)`: descriptors that systemd gave us for the container, which is told in its environment.
fn activated_descriptors(env: &mut Vec<String>) -> u32 {
    let Some(count) = env::var("LISTEN_FDS").ok().and_then(|text| text.parse::<u32>().ok()) else { return 0 };
    if count > 0 {
        env.push(format!("LISTEN_FDS={count}"));
        env.push("LISTEN_PID=1".to_owned());
    }
    count
}

/// Copies of our descriptors from 3 upwards.
pub fn preserved(count: u32) -> Result<Vec<OwnedFd>, Failure> {
    // Three more may come with them.
    let limit = spawn::DESCRIPTOR_LIMIT - 3;
    if usize::try_from(count).map_or(true, |count| count > limit) {
        return Err(Failure::new(format!("--preserve-fds: at most {limit} descriptors can be preserved")));
    }
    (3..)
        .take(usize::try_from(count).unwrap_or(0))
        .map(spawn::duplicate)
        .collect::<io::Result<_>>()
        .attempt(|| format!("--preserve-fds={count}"))
}

/// Copies of our standard descriptors.
pub fn own_stdio() -> io::Result<[OwnedFd; 3]> {
    Ok([
        io::stdin().as_fd().try_clone_to_owned()?,
        io::stdout().as_fd().try_clone_to_owned()?,
        io::stderr().as_fd().try_clone_to_owned()?,
    ])
}

/// runc's rules, in runc's words.
pub fn check_console(wanted: bool, socket: Option<&Path>, terminal: Terminal) -> Result<(), Failure> {
    match (wanted, socket, terminal) {
        (true, None, Terminal::Detached) => {
            Err(Failure::new("cannot allocate tty if runc will detach without setting console socket"))
        }
        (false, Some(_), _) | (true, Some(_), Terminal::Ours) => {
            Err(Failure::new("cannot use console socket if runc will not detach or allocate tty"))
        }
        _ => Ok(()),
    }
}

/// Replaced in one step, because others poll for it.
pub fn write_pid_file(path: &Path, pid: i32) -> Result<(), Failure> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, pid.to_string())
        .and_then(|()| fs::rename(&new, path))
        .attempt(|| format!("writing --pid-file {}", path.display()))
}
