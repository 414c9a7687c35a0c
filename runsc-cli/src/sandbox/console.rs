//! Host terminals around a container: pseudo-terminals for it, and the user's own in raw mode.
//!
//! Key types: [`Pty`], [`RawTerminal`]. Neighbours: `commands/create.rs` and `exec.rs` make them, `foreground.rs` pumps.
//! Invariants: the slave is raw, because the kernel in the sandbox has the line discipline; the user's terminal is
//! restored when [`RawTerminal`] is dropped.

use std::io::{self, IoSlice, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::pty::openpty;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use sentry::spec::WindowSize;

use super::spawn;
use crate::failure::{Attempt, Failure};

/// A pseudo-terminal of the host, `pty(7)`.
#[derive(Debug)]
pub struct Pty {
    /// For whoever looks at the container.
    pub master: OwnedFd,
    /// For the sentry.
    pub slave: OwnedFd,
}

impl Pty {
    /// Makes one of the given size.
    pub fn open(size: Option<WindowSize>) -> Result<Self, Failure> {
        let pair = openpty(None, None).attempt(|| "making a pseudo-terminal".to_owned())?;
        make_raw(pair.slave.as_fd())?;
        if let Some(size) = size {
            spawn::set_window_size(pair.master.as_fd(), size)?;
        }
        for fd in [&pair.master, &pair.slave] {
            nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
        }
        Ok(Self { master: pair.master, slave: pair.slave })
    }

    /// Gives the master to whoever listens on the socket, as `--console-socket` promises, and keeps the slave.
    pub fn send_master(self, socket: &Path) -> Result<OwnedFd, Failure> {
        let attempt = || format!("sending the console to {}", socket.display());
        let stream = UnixStream::connect(socket).attempt(attempt)?;
        // runc sends the terminal's name along; some receivers print it.
        let name = nix::unistd::ttyname(&self.slave).unwrap_or_default();
        let descriptor = [self.master.as_raw_fd()];
        sendmsg::<()>(
            stream.as_raw_fd(),
            &[IoSlice::new(name.as_os_str().as_encoded_bytes())],
            &[ControlMessage::ScmRights(&descriptor)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )
        .attempt(attempt)?;
        Ok(self.slave)
    }
}

fn make_raw(terminal: BorrowedFd<'_>) -> nix::Result<Termios> {
    let before = tcgetattr(terminal)?;
    let mut raw = before.clone();
    cfmakeraw(&mut raw);
    tcsetattr(terminal, SetArg::TCSANOW, &raw)?;
    Ok(before)
}

/// The user's terminal, raw until dropped.
#[derive(Debug)]
pub struct RawTerminal {
    terminal: OwnedFd,
    before: Termios,
}

impl RawTerminal {
    /// Standard input, if it is a terminal.
    pub fn of_stdin() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let terminal = stdin.as_fd().try_clone_to_owned()?;
        let before = make_raw(terminal.as_fd())?;
        Ok(Some(Self { terminal, before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nothing to restore.
        let _ = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}

/// The size of the user's terminal, whichever of the standard descriptors it is.
pub fn users_window() -> Option<WindowSize> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()].into_iter().find_map(|fd| spawn::window_size(fd).ok())
}

/// Whether standard input, output and error are all terminals.
pub fn all_terminals() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal()
}
