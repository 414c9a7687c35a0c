//! Standing in for a process of the container: signals in, terminal through, exit status out.
//!
//! Key type: [`StandIn`]. Neighbours: `commands/{run,exec,do_}.rs`; the detached proxy of `exec` is one without a terminal
//! of its own. Invariants: one thread, one `poll(2)`; signals are blocked from [`block_signals`] on, so none is lost
//! between starting the process and forwarding to it; output is drained before the status is returned.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, read, write};

use super::client::{Client, Ticket};
use super::console::{RawTerminal, users_window};
use super::control::{Answer, Call, ExitStatus, GuestPid, SignalTarget};
use super::spawn::{ProcessHandle, set_window_size, window_size};
use crate::container::id::ContainerId;
use crate::container::process_identity::ProcessIdentity;
use crate::container::store::Store;
use crate::failure::Failure;

/// Signals that are meant for the container.
const FORWARDED: [Signal; 11] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGSTKFLT,
    Signal::SIGPWR,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

/// As docker's client: whoever asks this often means it.
const INSISTENT: u32 = 3;

/// Input that waits for the container's terminal.
const PENDING_LIMIT: usize = 64 * 1024;

/// How the process's end is learnt.
#[derive(Debug)]
pub enum Ending {
    /// It is the sentry's first process; the sentry is our child and ends with its status.
    Sentry {
        /// Our child.
        pid: Pid,
        /// Says that it begins to end, see [`super::start::Made`].
        life: UnixStream,
        /// Has nobody left to serve then.
        gofer: Option<ProcessIdentity>,
    },
    /// The sentry answers a `wait`.
    Answer(Ticket),
}

/// The way to the sentry.
#[derive(Debug)]
pub enum Link {
    /// Connected.
    Open(Client),
    /// To be connected when there is something to say: most programs run without anybody ever saying anything to them.
    Later {
        /// Where the container is recorded.
        store: Store,
        /// Which it is.
        id: ContainerId,
    },
    /// The sentry has ended.
    Gone,
}

impl Link {
    fn connected(&self) -> Option<&Client> {
        match self {
            Self::Open(client) => Some(client),
            Self::Later { .. } | Self::Gone => None,
        }
    }

    fn connect(&mut self) -> Option<&mut Client> {
        if let Self::Later { store, id } = self {
            *self = store.connect(id).map_or(Self::Gone, |stream| Self::Open(Client::new(stream)));
        }
        match self {
            Self::Open(client) => Some(client),
            Self::Later { .. } | Self::Gone => None,
        }
    }
}

/// A stand-in.
#[derive(Debug)]
pub struct StandIn {
    /// To the sentry.
    pub link: Link,
    /// For whom we stand in.
    pub pid: GuestPid,
    /// How its end is learnt.
    pub ending: Ending,
    /// The master of its terminal, to be connected to ours.
    pub master: Option<OwnedFd>,
    /// The slave of its terminal, if we are only to report changes of its size.
    pub slave: Option<OwnedFd>,
    /// Kill it when SIGINT or SIGTERM come three times.
    pub insistence: bool,
}

/// Blocks what will be forwarded. To be called before the process starts.
pub fn block_signals() -> Result<SignalFd, Failure> {
    let mut set: SigSet = FORWARDED.into_iter().collect();
    set.add(Signal::SIGWINCH);
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

impl StandIn {
    /// Runs until the process has ended; returns its status as a shell would.
    pub fn run(self, signals: &SignalFd) -> Result<i32, Failure> {
        let raw = if self.master.is_some() { RawTerminal::of_stdin()? } else { None };
        let outcome = Loop::new(self, signals)?.run();
        drop(raw);
        outcome
    }
}

struct Loop<'a> {
    own: StandIn,
    signals: &'a SignalFd,
    sentry: Option<ProcessHandle>,
    /// Bytes from our input for the container's terminal.
    pending: VecDeque<u8>,
    input_open: bool,
    output_open: bool,
    asked: u32,
    /// The sentry has said that it begins to end.
    ending: bool,
}

/// What `poll` said.
#[derive(Debug, Clone, Copy, Default)]
struct Ready {
    signals: bool,
    client: bool,
    sentry: bool,
    ending: bool,
    input: bool,
    master_in: bool,
    master_out: bool,
}

impl<'a> Loop<'a> {
    fn new(own: StandIn, signals: &'a SignalFd) -> Result<Self, Failure> {
        let sentry = match own.ending {
            Ending::Sentry { pid, .. } => Some(ProcessHandle::open(pid.as_raw())?),
            Ending::Answer(_) => None,
        };
        if let Some(master) = &own.master {
            let flags = OFlag::from_bits_retain(fcntl(master, FcntlArg::F_GETFL)?);
            fcntl(master, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        }
        let terminal = own.master.is_some();
        Ok(Self {
            own,
            signals,
            sentry,
            pending: VecDeque::new(),
            input_open: terminal,
            output_open: terminal,
            asked: 0,
            ending: false,
        })
    }

    fn run(mut self) -> Result<i32, Failure> {
        self.window_changed();
        loop {
            let ready = self.wait()?;
            if ready.signals {
                self.take_signals()?;
            }
            if ready.input {
                self.take_input();
            }
            if ready.master_out {
                self.give_input();
            }
            if ready.master_in {
                self.take_output()?;
            }
            if ready.ending {
                self.dismiss_gofer();
            }
            let ended = if ready.sentry { self.reap()? } else { None };
            let ended = if ready.client && ended.is_none() { self.take_answer() } else { ended };
            if let Some(status) = ended {
                while self.output_open && self.take_output()? {}
                return Ok(status);
            }
        }
    }

    fn wait(&self) -> Result<Ready, Failure> {
        let stdin = io::stdin();
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        // Answers to forwarded signals are read too, or the connection would fill up.
        let connection = self.own.link.connected();
        let client = add(&mut fds, connection.map(|client| client.stream().as_fd()), PollFlags::POLLIN);
        let sentry = add(&mut fds, self.sentry.as_ref().map(AsFd::as_fd), PollFlags::POLLIN);
        let life = match &self.own.ending {
            Ending::Sentry { life, .. } if !self.ending => Some(life.as_fd()),
            Ending::Sentry { .. } | Ending::Answer(_) => None,
        };
        let ending = add(&mut fds, life, PollFlags::POLLIN);
        let takes_input = self.input_open && self.pending.len() < PENDING_LIMIT;
        let input = add(&mut fds, takes_input.then(|| stdin.as_fd()), PollFlags::POLLIN);
        let mut master_flags = PollFlags::empty();
        master_flags.set(PollFlags::POLLIN, self.output_open);
        master_flags.set(PollFlags::POLLOUT, self.output_open && !self.pending.is_empty());
        let master = add(&mut fds, self.own.master.as_ref().map(AsFd::as_fd), master_flags);
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let got = |index: Option<usize>| index.and_then(|i| fds[i].revents()).unwrap_or(PollFlags::empty());
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
        let readable = |index| got(index).intersects(PollFlags::POLLIN | gone);
        Ok(Ready {
            signals: readable(Some(0)),
            client: readable(client),
            sentry: readable(sentry),
            ending: readable(ending),
            input: readable(input),
            master_in: readable(master),
            master_out: got(master).contains(PollFlags::POLLOUT),
        })
    }

    fn take_signals(&mut self) -> Result<(), Failure> {
        while let Some(info) = self.signals.read_signal()? {
            let Ok(signal) =
                i32::try_from(info.ssi_signo).map_err(|_| Errno::EINVAL).and_then(Signal::try_from)
            else {
                continue;
            };
            if signal == Signal::SIGWINCH {
                self.window_changed();
                continue;
            }
            if matches!(signal, Signal::SIGINT | Signal::SIGTERM) {
                self.asked += 1;
            }
            let insists = self.own.insistence && self.asked >= INSISTENT;
            let sent = if insists { Signal::SIGKILL } else { signal };
            self.tell(Call::Signal { target: SignalTarget::Process(self.own.pid), signal: sent as i32 });
            if signal == Signal::SIGTSTP {
                // The shell is to see that we have stopped; SIGCONT is forwarded when it lets us go on.
                raise(Signal::SIGSTOP)?;
            }
        }
        Ok(())
    }

    /// Sends a call whose answer does not matter: the process may be ending by itself.
    fn tell(&mut self, call: Call) {
        if let Some(client) = self.own.link.connect()
            && let Err(error) = client.send(call, &[])
        {
            tracing::debug!(%error, "not forwarded");
        }
    }

    fn window_changed(&mut self) {
        let size = match (&self.own.master, &self.own.slave) {
            (Some(master), _) => {
                let size = users_window();
                if let Some(size) = size
                    && let Err(error) = set_window_size(master.as_fd(), size)
                {
                    tracing::debug!(%error, "window size");
                }
                size
            }
            (None, Some(slave)) => window_size(slave.as_fd()).ok(),
            (None, None) => None,
        };
        // The sentry sees the first process's terminal itself, and is told about the others.
        if let (Some(size), Ending::Answer(_)) = (size, &self.own.ending) {
            self.tell(Call::Resize { pid: self.own.pid, size });
        }
    }

    fn take_input(&mut self) {
        let mut buffer = [0u8; 4096];
        match read(io::stdin(), &mut buffer) {
            Ok(0) => self.input_open = false,
            Ok(count) => {
                self.pending.extend(&buffer[..count]);
                self.give_input();
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => self.input_open = false,
        }
    }

    fn give_input(&mut self) {
        let Some(master) = &self.own.master else { return };
        while !self.pending.is_empty() {
            match write(master, self.pending.as_slices().0) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => {
                    self.pending.clear();
                    self.input_open = false;
                }
            }
        }
    }

    /// Returns whether there may be more.
    fn take_output(&mut self) -> Result<bool, Failure> {
        let Some(master) = &self.own.master else { return Ok(false) };
        let mut buffer = [0u8; 8192];
        match read(master, &mut buffer) {
            Ok(count) if count > 0 => {
                write_all(&buffer[..count])?;
                Ok(true)
            }
            Err(Errno::EINTR) => Ok(true),
            Err(Errno::EAGAIN) => Ok(false),
            // EIO: nobody has the other side open any more.
            Ok(_) | Err(_) => {
                self.output_open = false;
                Ok(false)
            }
        }
    }

    /// Lets the gofer go at the same time as the sentry, which would otherwise take it along only with its own last breath.
    fn dismiss_gofer(&mut self) {
        self.ending = true;
        if let Ending::Sentry { gofer: Some(gofer), .. } = &self.own.ending
            && let Err(error) = gofer.signal(Signal::SIGKILL)
        {
            tracing::debug!(%error, "the gofer ends by itself");
        }
    }

    fn reap(&self) -> Result<Option<i32>, Failure> {
        let Ending::Sentry { pid, .. } = self.own.ending else { return Ok(None) };
        Ok(match waitpid(pid, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::Exited(_, status) => Some(status),
            WaitStatus::Signaled(_, signal, _) => Some(128 + signal as i32),
            _ => None,
        })
    }

    fn take_answer(&mut self) -> Option<i32> {
        // A sentry that is gone has taken all processes with it.
        let killed = ExitStatus::Signaled(9).code();
        let Link::Open(client) = &mut self.own.link else { return None };
        let lost = client.receive_any().is_err();
        let Ending::Answer(ticket) = self.own.ending else {
            if lost {
                self.own.link = Link::Gone;
            } else {
                client.forget();
            }
            return None;
        };
        if lost {
            return Some(killed);
        }
        let answer = client.take(ticket);
        client.forget();
        answer.map(|answer| match answer {
            Ok(Answer::Ended(status)) => status.code(),
            _ => killed,
        })
    }
}

/// Adds a descriptor, if there is one and it is waited for; returns its place.
fn add<'fd>(fds: &mut Vec<PollFd<'fd>>, fd: Option<BorrowedFd<'fd>>, flags: PollFlags) -> Option<usize> {
    let fd = fd.filter(|_| !flags.is_empty())?;
    fds.push(PollFd::new(fd, flags));
    Some(fds.len() - 1)
}

fn write_all(mut bytes: &[u8]) -> Result<(), Failure> {
    while !bytes.is_empty() {
        match write(io::stdout(), bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                // Somebody has made our output non-blocking; wait as a blocking one would.
                let stdout = io::stdout();
                poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
            }
            // Nobody reads any more; the process is not to die of it.
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}
