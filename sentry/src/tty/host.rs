//! A terminal of the host on the other side: a raw pseudo-terminal's slave that the sandbox was given. The line
//! discipline is ours; the host only carries bytes.
//!
//! The descriptor was made for this sandbox, so it is made non-blocking. Readiness comes from the reactor, edge-triggered:
//! `readable` and `writable` stay set until the host says `EAGAIN`. Of a new window size the host tells only processes
//! that have the terminal as their controlling one, which the sentry does not: it looks, once a second.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use abi::errno::SysResult;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::Terminal;
use super::line_discipline::Effects;
use super::terminal::State;
use crate::memory::errno;
use crate::reactor::{Reactor, Watch};
use crate::spec::WindowSize;
use crate::time::{Instant, SECOND_NS, Timer, TimerTarget};
use crate::wait::{Observer, PollEvents};

/// Bytes read from the host at once.
const READ_SIZE: usize = 4096;

/// How often the size of the host's window is looked at.
const WINDOW_LOOK_NS: u64 = SECOND_NS;

/// See the module's text.
pub(super) struct HostLink {
    descriptor: Arc<OwnedFd>,
    _watch: Watch,
    /// The size of the host's window when it was last looked at.
    window: WindowSize,
    look: Option<Timer>,
    readable: bool,
    writable: bool,
}

struct Ready(Weak<Terminal>);

impl Observer for Ready {
    fn notify(&self, _events: PollEvents) {
        if let Some(terminal) = self.0.upgrade() {
            terminal.change(|state, _| {
                if let Some(host) = &mut state.host {
                    (host.readable, host.writable) = (true, true);
                }
            });
        }
    }
}

struct LookAtWindow(Weak<Terminal>);

impl TimerTarget for LookAtWindow {
    fn expired(&self) {
        if let Some(terminal) = self.0.upgrade() {
            terminal.look_at_host_window();
            terminal.look_again();
        }
    }
}

impl Terminal {
    /// Takes over the size of the host's window if that has changed.
    pub(super) fn look_at_host_window(&self) {
        let known =
            self.look(|state| state.host.as_ref().map(|host| (Arc::clone(&host.descriptor), host.window)));
        let Some((descriptor, before)) = known else { return };
        let Some(now) = host_window(&descriptor).filter(|now| *now != before) else { return };
        self.change(|state, _| {
            if let Some(host) = &mut state.host {
                host.window = now;
            }
        });
        self.resize(now);
    }

    fn look_again(&self) {
        let Some(kernel) = self.kernel() else { return };
        let target = Arc::new(LookAtWindow(self.downgrade()));
        let timer = kernel.timers.start(Instant::now().after_ns(WINDOW_LOOK_NS), target);
        self.change(|state, _| {
            if let Some(host) = &mut state.host {
                host.look = Some(timer);
            }
        });
    }
}

fn host_window(descriptor: &OwnedFd) -> Option<WindowSize> {
    let size = rustix::termios::tcgetwinsize(descriptor).ok()?;
    Some(WindowSize { rows: size.ws_row, columns: size.ws_col })
}

/// Puts a host terminal behind a terminal, instead of a master.
///
/// # Errors
/// The host's.
pub(super) fn connect(
    terminal: &Arc<Terminal>,
    reactor: &Arc<Reactor>,
    descriptor: OwnedFd,
) -> SysResult<()> {
    let flags = OFlag::from_bits_retain(fcntl(&descriptor, FcntlArg::F_GETFL).map_err(errno)?);
    fcntl(&descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map_err(errno)?;
    let descriptor = Arc::new(descriptor);
    let observer = Arc::new(Ready(Arc::downgrade(terminal)));
    let watch = reactor.watch(Arc::clone(&descriptor), observer).map_err(errno)?;
    let window = host_window(&descriptor).unwrap_or_default();
    let link = HostLink { descriptor, _watch: watch, window, look: None, readable: true, writable: true };
    terminal.change(|state, _| {
        state.host = Some(link);
        state.locked = false;
    });
    terminal.resize(window);
    terminal.look_again();
    Ok(())
}

impl State {
    /// Moves bytes both ways as far as the host and the line discipline go.
    pub(super) fn pump_host(&mut self, effects: &mut Effects) {
        // What is typed may be echoed.
        while self.write_host(effects) | self.read_host(effects) {}
    }

    /// Returns whether something was written.
    fn write_host(&mut self, effects: &mut Effects) -> bool {
        let mut progress = false;
        while let Some(host) = &mut self.host
            && host.writable
            && self.discipline.output_bytes() != 0
        {
            match nix::unistd::write(&*host.descriptor, self.discipline.first_output()) {
                Ok(count) => {
                    self.discipline.drop_output(count, effects);
                    progress = true;
                }
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => host.writable = false,
                Err(_) => self.end_host(),
            }
        }
        progress
    }

    /// Returns whether something was read.
    fn read_host(&mut self, effects: &mut Effects) -> bool {
        let mut progress = false;
        while let Some(host) = &mut self.host
            && host.readable
            && self.backlog.is_empty()
            && self.discipline.has_input_room()
        {
            let mut buffer = [0; READ_SIZE];
            match nix::unistd::read(&*host.descriptor, &mut buffer) {
                Ok(0) => self.end_host(),
                Ok(count) => {
                    self.backlog.extend(buffer.iter().take(count));
                    self.feed(effects);
                    progress = true;
                }
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => host.readable = false,
                Err(_) => self.end_host(),
            }
        }
        progress
    }

    fn end_host(&mut self) {
        self.host = None;
        self.host_gone = true;
    }
}
