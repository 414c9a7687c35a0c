//! The sentry's process, from its first instruction to its last: confinement, kernel, control server, exit status.
//!
//! Key types: [`BootData`] (what `start.rs` sends), [`BootReply`] (what it gets back).
//! Neighbours: `start.rs` makes the process and its namespaces; `kernel.rs` does the work; `control.rs` serves.
//! Invariants: nothing of the host's file system is reachable once `enter_empty_root` has returned; the process is init
//! of its pid namespace, so whatever it has forked dies with it; it ends with the status of the container's first process;
//! a panic of any thread ends it at once with status 125 and a message.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Gid, Pid, Uid, sethostname, setresgid, setresuid};
use sentry::spec::SandboxSpec;
use serde::{Deserialize, Serialize};

use super::channel::{Channel, ChannelError};
use super::control::{ControlError, ControlHandler, ErrorKind, INIT, ProcessStdio, SignalTarget};
use super::kernel::{KernelFds, boot_kernel, prepare_kernel};
use super::server::{Server, spawn_small};
use super::spawn;
use crate::container::cgroup;
use crate::logging::{self, LogSettings};

/// The hidden command that makes a process a sentry.
pub const ROLE: &str = "boot";

/// Descriptors 0, 1 and 2 are null, null and where last words go; these follow, in this order.
pub const FIRST_DESCRIPTOR: i32 = 3;
/// Boot channel, control listener, gofer socket, log.
const FIXED_DESCRIPTORS: usize = 4;

/// Signals that the host may send to the sentry and that are meant for the container's first process: whoever only knows
/// the container's pid expects `kill(2)` to work on it.
const FORWARDED: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// How long a sandbox counts as starting; one that has ended by then has spent nothing on tidiness.
const STARTING_MS: u16 = 500;

/// A sentry's status after a panic: as if it had been killed by SIGABRT, which an init process cannot be.
const PANICKED: i32 = 128 + libc::SIGABRT;

/// What the sentry reads from the boot channel.
#[derive(Debug, Serialize, Deserialize)]
pub struct BootData {
    /// What to boot.
    pub spec: SandboxSpec,
    /// What goes to the log descriptor, if anything does.
    pub log: Option<LogSettings>,
    /// The sentry is to leave its supplementary groups (where it is not allowed to, they are the caller's own).
    pub drop_groups: bool,
    /// End when the process that made this one does.
    pub die_with_caller: bool,
    /// Let the first process run without being told.
    pub start_at_once: bool,
}

/// What it answers when the kernel is up, or cannot be.
#[derive(Debug, Serialize, Deserialize)]
pub struct BootReply {
    /// Empty on success.
    pub result: Result<(), ControlError>,
}

/// Why the sentry cannot confine itself.
#[derive(Debug, thiserror::Error)]
enum ConfineError {
    #[error("entering the container's cgroups: {0}")]
    Cgroups(#[source] io::Error),
    #[error("taking the sandbox's user id: {0}")]
    Credentials(#[source] io::Error),
    #[error("setting limits of open files and core dumps: {0}")]
    Limits(#[source] io::Error),
    #[error("becoming session leader: {0}")]
    Session(#[source] io::Error),
    #[error("taking the terminal: {0}")]
    Terminal(#[source] io::Error),
    #[error("entering an empty root: {0}")]
    Root(#[source] io::Error),
    #[error("looking at the open descriptors: {0}")]
    Descriptors(#[source] io::Error),
    #[error(
        "descriptor {0} is a directory of the host, which a sandbox must not hold; start the container with files, pipes \
         or a terminal as its standard streams"
    )]
    LeakedDirectory(String),
    #[error("closing the process to others: {0}")]
    Dumpable(#[source] io::Error),
}

/// `runsc boot COUNT`: never returns.
pub fn main(arguments: &[String]) -> ! {
    let status = match arguments.first().and_then(|count| count.parse().ok()) {
        Some(count) => match spawn::inherited_descriptors(FIRST_DESCRIPTOR, count) {
            Ok(descriptors) => run(descriptors),
            Err(error) => complain(&format!("boot: {error}")),
        },
        None => complain("boot is started by the other commands, not by hand"),
    };
    std::process::exit(status);
}

fn complain(message: &str) -> i32 {
    eprintln!("runsc: {message}");
    125
}

/// A thread that panics leaves the kernel's objects in no state to go on: the sandbox ends, and the message says why.
fn die_of_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tracing::error!("the sentry panicked: {info}");
        print(info);
        std::process::exit(PANICKED);
    }));
}

/// Makes a panic of any thread the end of the whole process: what the others would go on with is in no known state.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        static FIRST: AtomicBool = AtomicBool::new(true);
        let thread = thread::current();
        let message = format!("the sentry panicked in thread {}: {panic}", thread.name().unwrap_or("?"));
        eprintln!("runsc: {message}");
        // Should the log be what panics, it is not asked twice.
        if FIRST.swap(false, Ordering::SeqCst) {
            tracing::error!("{message}");
        }
        std::process::exit(125);
    }));
}

fn run(descriptors: Vec<OwnedFd>) -> i32 {
    end_on_panic();
    die_of_panics();
    let directories = refuse_directories(&descriptors);
    let Some((channel, listener, gofer, log, rest)) = split(descriptors) else {
        return complain("boot: descriptors are missing");
    };
    let channel = Channel::new(UnixStream::from(channel));
    let (data, doors) = match channel.receive::<BootData>() {
        Ok(received) => received,
        // The command that started us was killed, or has given up.
        Err(ChannelError::Closed) => return 125,
        Err(error) => return complain(&format!("boot: {error}")),
    };
    if let Some(settings) = &data.log {
        logging::install(settings, log.into());
    }
    // First of all: what is forked from here on counts as the container's.
    let booted = match directories.and_then(|()| cgroup::enter(doors).map_err(ConfineError::Cgroups)) {
        Ok(()) => prepare(data, gofer, rest),
        Err(error) => Err(ControlError::new(ErrorKind::Internal, error.to_string())),
    };
    let (result, sandbox) = match booted {
        Ok(sandbox) => (Ok(()), Some(sandbox)),
        Err(error) => (Err(error), None),
    };
    let told = channel.send(&BootReply { result }, &[]);
    match (told, sandbox) {
        // Closes the channel first: whoever waits for our end can begin to clean up while we take ourselves apart.
        (Ok(()), Some(sandbox)) => sandbox.run(listener.into(), channel),
        _ => 125,
    }
}

fn split(descriptors: Vec<OwnedFd>) -> Option<(OwnedFd, OwnedFd, OwnedFd, OwnedFd, Vec<OwnedFd>)> {
    let mut each = descriptors.into_iter();
    let fixed: Vec<OwnedFd> = each.by_ref().take(FIXED_DESCRIPTORS).collect();
    let [channel, listener, gofer, log] = <[OwnedFd; FIXED_DESCRIPTORS]>::try_from(fixed).ok()?;
    Some((channel, listener, gofer, log, each.collect()))
}

/// A booted kernel, signals from outside, and the terminal of its first process.
struct Sandbox {
    handler: Arc<dyn ControlHandler>,
    signals: SignalFd,
    terminal: Option<OwnedFd>,
}

fn prepare(data: BootData, gofer: OwnedFd, mut rest: Vec<OwnedFd>) -> Result<Sandbox, ControlError> {
    let BootData { spec, drop_groups, die_with_caller, start_at_once, .. } = data;
    let internal = |what: String| ControlError::new(ErrorKind::Internal, what);
    let wanted = if spec.container.process.terminal { 1 } else { 3 };
    if rest.len() < wanted {
        return Err(internal("boot: standard descriptors are missing".into()));
    }
    let preserved = rest.split_off(wanted);
    let (stdio, terminal) = if spec.container.process.terminal {
        let slave = rest.remove(0);
        let copy = slave.try_clone().map_err(|e| internal(e.to_string()))?;
        (ProcessStdio::Terminal(slave), Some(copy))
    } else {
        let files =
            <[OwnedFd; 3]>::try_from(rest).map_err(|_| internal("boot: standard descriptors".into()))?;
        (ProcessStdio::Files(files), None)
    };
    // For containers of the same pod, which are told to join this namespace: they take its name.
    if let Err(error) = sethostname(&spec.hostname) {
        tracing::warn!("others that join the container's uts namespace will not find its name: {error}");
    }
    become_nobody(terminal.as_ref(), drop_groups).map_err(|error| internal(error.to_string()))?;
    let early = prepare_kernel(spec.platform)?;
    // The platform has made the first stub, which the sentry must be able to look into. The sentry itself is nobody's.
    nix::sys::prctl::set_dumpable(false)
        .map_err(|error| internal(ConfineError::Dumpable(error.into()).to_string()))?;
    hide().map_err(|error| internal(error.to_string()))?;
    let signals = catch_signals().map_err(|e| internal(ConfineError::Session(e.into()).to_string()))?;
    if die_with_caller {
        // After the change of ids, which would clear it. A caller that has died before this line is noticed when the
        // reply cannot be sent.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| internal(e.to_string()))?;
    }
    let handler = boot_kernel(spec, early, KernelFds { gofer, stdio, preserved })?;
    if start_at_once {
        handler.start()?;
    }
    Ok(Sandbox { handler, signals, terminal })
}

fn become_nobody(terminal: Option<&OwnedFd>, drop_groups: bool) -> Result<(), ConfineError> {
    if drop_groups {
        nix::unistd::setgroups(&[]).map_err(|e| ConfineError::Credentials(e.into()))?;
    }
    let (root_user, root_group) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(root_group, root_group, root_group).map_err(|e| ConfineError::Credentials(e.into()))?;
    setresuid(root_user, root_user, root_user).map_err(|e| ConfineError::Credentials(e.into()))?;
    spawn::forget_inheritable_capabilities().map_err(ConfineError::Credentials)?;
    // Changing ids cleared it, and the stubs that we fork must be open to `process_vm_readv(2)` and `ptrace(2)`.
    nix::sys::prctl::set_dumpable(true).map_err(|e| ConfineError::Credentials(e.into()))?;
    // Nothing in the sandbox executes a host program; should anything ever manage to, it gains nothing by it.
    nix::sys::prctl::set_no_new_privs().map_err(|e| ConfineError::Credentials(e.into()))?;
    // The kernel needs a descriptor for each file that applications map or keep open.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| ConfineError::Limits(e.into()))?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(|e| ConfineError::Limits(e.into()))?;
    // Neither the sentry's memory nor an application's is the host's to keep.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|e| ConfineError::Limits(e.into()))?;
    nix::unistd::setsid().map_err(|e| ConfineError::Session(e.into()))?;
    if let Some(terminal) = terminal {
        spawn::control_terminal(terminal.as_fd()).map_err(ConfineError::Terminal)?;
    }
    Ok(())
}

/// An open directory is a way to the host that no empty root closes. These and the standard three are all descriptors that there
/// are: whatever else the command had open was closed when this role was executed.
fn refuse_directories(descriptors: &[OwnedFd]) -> Result<(), ConfineError> {
    let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
    let standard = [input.as_fd(), output.as_fd(), error.as_fd()];
    for descriptor in standard.into_iter().chain(descriptors.iter().map(AsFd::as_fd)) {
        let file = fstat(descriptor).map_err(|e| ConfineError::Descriptors(e.into()))?;
        if file.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() {
            return Err(ConfineError::LeakedDirectory(descriptor.as_raw_fd().to_string()));
        }
    }
    Ok(())
}

fn hide() -> Result<(), ConfineError> {
    enter_empty_root().map_err(|e| ConfineError::Root(e.into()))
}

/// Blocked before there is a second thread: [`Outside`] takes them one by one.
fn catch_signals() -> nix::Result<SignalFd> {
    let mut caught: SigSet = FORWARDED.into_iter().collect();
    caught.add(Signal::SIGWINCH);
    caught.thread_block()?;
    SignalFd::with_flags(&caught, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Replaces the mount namespace's tree by one empty read-only directory, `pivot_root(2)`.
fn enter_empty_root() -> nix::Result<()> {
    const NOWHERE: Option<&str> = None;
    mount(NOWHERE, "/", NOWHERE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOWHERE)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Any directory serves as the place; this one is everywhere, and gone a moment later.
    mount(Some("runsc"), "/proc", Some("tmpfs"), flags, Some("mode=0555,size=4k,nr_inodes=2"))?;
    nix::unistd::chdir("/proc")?;
    nix::unistd::pivot_root(".", ".")?;
    // The old root now lies over the new one; see NOTES of `pivot_root(2)`.
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")
}

impl Sandbox {
    fn run(self, listener: UnixListener, life: Channel) -> i32 {
        let server = Server::new(Arc::clone(&self.handler));
        let outside = Outside {
            server: server.clone(),
            handler: Arc::clone(&self.handler),
            listener,
            signals: self.signals,
            terminal: self.terminal,
        };
        if let Err(error) = spawn_small("control", move || outside.serve()) {
            return complain(&format!("the thread of the control socket: {error}"));
        }
        let status = match self.handler.wait(INIT) {
            Ok(status) => status.code(),
            Err(error) => complain(&format!("waiting for the first process: {error}")),
        };
        server.drain();
        drop(life);
        self.handler.stop();
        end_the_others();
        status
    }
}

/// Kills what is left in our pid namespace. Our own end would, but only after our threads, memory and files are gone; now all
/// of them go at the same time.
fn end_the_others() {
    const EVERYBODY: Pid = Pid::from_raw(-1);
    // An error means that nobody is left.
    let _ = nix::sys::signal::kill(EVERYBODY, Signal::SIGKILL);
}

/// Whatever may come from the host while the sandbox runs: connections, and signals for its first process.
struct Outside {
    server: Server,
    handler: Arc<dyn ControlHandler>,
    listener: UnixListener,
    signals: SignalFd,
    terminal: Option<OwnedFd>,
}

impl Outside {
    fn serve(self) {
        let mut patience = PollTimeout::from(STARTING_MS);
        loop {
            let ready = |flags: PollFlags| PollFd::new(self.listener.as_fd(), flags);
            let mut fds = [ready(PollFlags::POLLIN), PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, patience) {
                // The start is over: what only it needed need not stay in memory.
                Ok(0) => {
                    patience = PollTimeout::NONE;
                    gofer::forget_program_pages();
                    continue;
                }
                Ok(_) => {}
                Err(_) => continue,
            }
            let [connection, signal] = fds.map(|fd| fd.any().unwrap_or(false));
            if signal {
                self.take_signals();
            }
            if connection {
                self.server.accept(&self.listener);
            }
        }
    }

    fn take_signals(&self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            let done = match (number, &self.terminal) {
                (libc::SIGWINCH, Some(terminal)) => match spawn::window_size(terminal.as_fd()) {
                    Ok(size) => self.handler.resize(INIT, size),
                    Err(_) => Ok(()),
                },
                (libc::SIGWINCH, None) => Ok(()),
                (signal, _) => self.handler.signal(SignalTarget::Process(INIT), signal),
            };
            if let Err(error) = done {
                tracing::debug!(%error, number, "not forwarded");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const MAKE_IT_PANIC: &str = "RUNSC_TEST_PANIC";

    /// The test is run again as a process of its own, which panics in a thread and would then wait for ever.
    #[test]
    fn a_panic_in_any_thread_ends_the_process_with_status_125_and_a_message() {
        if std::env::var_os(MAKE_IT_PANIC).is_some() {
            end_on_panic();
            drop(
                thread::Builder::new()
                    .name("worker-7".into())
                    .spawn(|| panic!("out of cheese"))
                    .unwrap()
                    .join(),
            );
            loop {
                thread::park();
            }
        }
        let name = thread::current().name().unwrap().to_owned();
        let program = std::env::current_exe().unwrap();
        let output =
            Command::new(program).args([&name, "--exact", "--nocapture"]).env(MAKE_IT_PANIC, "1").output();
        let output = output.unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{message}");
        assert!(message.contains("the sentry panicked in thread worker-7"), "{message}");
        assert!(message.contains("out of cheese"), "{message}");
    }
}
