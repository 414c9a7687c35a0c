//! The other end of `--console-socket`: takes the terminal's master and talks to it.

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

/// Waits for a runtime to send a terminal.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
}

impl Listener {
    pub fn bind(path: &Path) -> Result<Listener, String> {
        let listener = UnixListener::bind(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Listener { listener })
    }

    /// The terminal that arrived. The runtime must have been started (and returned) before.
    pub fn receive(self) -> Result<Console, String> {
        self.listener.set_nonblocking(true).map_err(|e| e.to_string())?;
        let (stream, _) =
            self.listener.accept().map_err(|e| format!("nobody connected to the console socket: {e}"))?;
        stream.set_read_timeout(Some(LIMIT)).map_err(|e| e.to_string())?;
        let mut name = [0u8; 256];
        let mut buffers = [IoSliceMut::new(&mut name)];
        let mut space = cmsg_space!([RawFd; 1]);
        let message = recvmsg::<UnixAddr>(
            stream.as_raw_fd(),
            &mut buffers,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )
        .map_err(|e| format!("the console socket: {e}"))?;
        for control in message.cmsgs().map_err(|e| e.to_string())? {
            if let ControlMessageOwned::ScmRights(fds) = control
                && let Some(&fd) = fds.first()
            {
                // SAFETY: the kernel has just given this descriptor to us, and nobody else knows it.
                let master = unsafe { OwnedFd::from_raw_fd(fd) };
                return Console::new(File::from(master));
            }
        }
        Err("no descriptor came over the console socket".into())
    }
}

/// A terminal's master with everything it has printed.
#[derive(Debug)]
pub struct Console {
    master: File,
    printed: Arc<Mutex<String>>,
}

impl Console {
    fn new(master: File) -> Result<Console, String> {
        let printed = Arc::new(Mutex::new(String::new()));
        let (mut reader, sink) = (master.try_clone().map_err(|e| e.to_string())?, Arc::clone(&printed));
        std::thread::spawn(move || {
            let mut buffer = [0u8; 1024];
            while let Ok(n) = reader.read(&mut buffer)
                && n > 0
            {
                sink.lock()
                    .unwrap_or_else(|e| e.into_inner())
                    .push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        Ok(Console { master, printed })
    }

    pub fn type_text(&self, text: &str) -> Result<(), String> {
        (&self.master).write_all(text.as_bytes()).map_err(|e| e.to_string())
    }

    pub fn wait_for(&self, part: &str) -> Result<(), String> {
        let printed = || self.printed.lock().unwrap_or_else(|e| e.into_inner()).clone();
        crate::command::eventually(part, LIMIT, || printed().contains(part))
            .map_err(|w| format!("{w}; console: {:?}", printed()))
    }
}
