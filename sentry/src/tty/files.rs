//! Open terminals: [`SlaveFile`] (what programs have as their standard streams) and [`MasterFile`].

use std::any::Any;
use std::sync::Arc;

use abi::errno::{EIO, ENOTTY, SysResult};
use abi::ioctls::TIOCSPGRP;
use abi::signals::{SIGTTIN, SIGTTOU};
use abi::terminals::LocalFlags;

use super::{Side, Terminal, requests};
use crate::task::Task;
use crate::vfs::{Direction, FileDescription, FileOps, Operation};
use crate::wait::{CallResult, Failure, PollEvents, WaitQueue};

/// A terminal as programs have it open.
pub struct SlaveFile {
    terminal: Arc<Terminal>,
    generation: u64,
}

impl SlaveFile {
    /// Opens.
    ///
    /// # Errors
    /// `EIO`: locked, or nobody is on the other side.
    pub(super) fn open(terminal: &Arc<Terminal>) -> SysResult<Arc<Self>> {
        let generation = terminal.open_slave()?;
        Ok(Arc::new(Self { terminal: Arc::clone(terminal), generation }))
    }

    /// The terminal.
    pub const fn terminal(&self) -> &Arc<Terminal> {
        &self.terminal
    }

    fn is_hung_up(&self) -> bool {
        self.terminal.is_hung_up(self.generation)
    }
}

impl Drop for SlaveFile {
    fn drop(&mut self) {
        self.terminal.close_slave();
    }
}

impl FileOps for SlaveFile {
    fn admit(&self, task: &Task, operation: Operation) -> CallResult<()> {
        if self.is_hung_up() {
            return Ok(());
        }
        let signal = match operation {
            Operation::Read => SIGTTIN,
            Operation::Write if self.terminal.termios().local().contains(LocalFlags::TOSTOP) => SIGTTOU,
            Operation::Ioctl(request) if requests::changes(request) => SIGTTOU,
            Operation::Write | Operation::Ioctl(_) => return Ok(()),
        };
        self.terminal.check_background(task, signal).map_err(|failure| match (operation, failure) {
            (Operation::Ioctl(TIOCSPGRP), Failure::Error(EIO)) => ENOTTY.into(),
            _ => failure,
        })
    }

    fn read(&self, _offset: u64, buffer: &mut [u8], file: &FileDescription) -> SysResult<usize> {
        if self.is_hung_up() {
            return Ok(0);
        }
        self.terminal.read(buffer, file.is_nonblocking())
    }

    fn write(&self, _offset: u64, bytes: &[u8], _file: &FileDescription) -> SysResult<usize> {
        if self.is_hung_up() {
            return Err(EIO);
        }
        self.terminal.write(bytes)
    }

    fn is_seekable(&self) -> bool {
        false
    }

    fn poll(&self, _file: &FileDescription) -> PollEvents {
        if self.is_hung_up() {
            return PollEvents::READABLE | PollEvents::WRITABLE | PollEvents::ALWAYS;
        }
        self.terminal.poll_slave()
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.terminal.slave_queue)
    }

    // VMIN 0 with VTIME: the read ends after that time.
    fn wait_limit_ns(&self, direction: Direction) -> Option<u64> {
        match self.terminal.look(|state| state.discipline.minimum_and_time()) {
            Some((0, time)) if direction == Direction::Read && time != 0 => Some(time),
            _ => None,
        }
    }

    fn timed_out(&self, _direction: Direction) -> SysResult<usize> {
        Ok(0)
    }

    fn ioctl(&self, task: &Task, file: &FileDescription, request: u32, argument: u64) -> SysResult<u64> {
        if self.is_hung_up() {
            return Err(if request == TIOCSPGRP { ENOTTY } else { EIO });
        }
        requests::carry_out(&self.terminal, Side::Slave, task, file, request, argument)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The master of a pseudo-terminal (`man 7 pty`). Closing it hangs the slaves up.
pub struct MasterFile {
    terminal: Arc<Terminal>,
}

impl MasterFile {
    /// Of a new terminal.
    pub(super) fn new(terminal: Arc<Terminal>) -> Arc<Self> {
        Arc::new(Self { terminal })
    }

    /// The terminal.
    pub const fn terminal(&self) -> &Arc<Terminal> {
        &self.terminal
    }
}

impl Drop for MasterFile {
    fn drop(&mut self) {
        self.terminal.close_master();
    }
}

impl FileOps for MasterFile {
    fn read(&self, _offset: u64, buffer: &mut [u8], _file: &FileDescription) -> SysResult<usize> {
        self.terminal.read_master(buffer)
    }

    fn write(&self, _offset: u64, bytes: &[u8], _file: &FileDescription) -> SysResult<usize> {
        self.terminal.write_master(bytes)
    }

    fn is_seekable(&self) -> bool {
        false
    }

    fn poll(&self, _file: &FileDescription) -> PollEvents {
        self.terminal.poll_master()
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.terminal.master_queue)
    }

    fn ioctl(&self, task: &Task, file: &FileDescription, request: u32, argument: u64) -> SysResult<u64> {
        requests::carry_out(&self.terminal, Side::Master, task, file, request, argument)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
