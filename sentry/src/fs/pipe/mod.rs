//! Pipes and FIFOs (`man 7 pipe`): bytes between two ends, bounded.

mod fifo;

pub use fifo::Fifos;

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

use abi::errno::{EAGAIN, EBUSY, EINVAL, EPERM, EPIPE, SysResult};
use abi::ioctls::FIONREAD;
use parking_lot::Mutex;

use crate::task::{Credentials, Task};
use crate::vfs::{AnonymousInode, AnonymousKind, FileDescription, FileOps, Inode};
use crate::wait::{PollEvents, WaitQueue};

/// Writes of up to so many bytes are not torn apart.
pub const PIPE_BUF: usize = 4096;
/// Bytes a new pipe holds.
pub const DEFAULT_CAPACITY: usize = 65_536;
/// Bytes a pipe may be made to hold without privilege (`/proc/sys/fs/pipe-max-size`).
pub const CAPACITY_MAX: usize = 1 << 20;

/// Which ends an open file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// The reading end.
    Read,
    /// The writing end.
    Write,
    /// Both (a FIFO opened for reading and writing).
    Both,
}

impl Ends {
    const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::Both)
    }

    const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Both)
    }
}

struct State {
    bytes: VecDeque<u8>,
    capacity: usize,
    readers: usize,
    writers: usize,
    /// Openings ever, so that a FIFO's opener notices a partner that came and went.
    reader_openings: u64,
    writer_openings: u64,
}

/// The object between the ends.
pub struct Pipe {
    state: Mutex<State>,
    queue: WaitQueue,
}

impl Default for Pipe {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                bytes: VecDeque::new(),
                capacity: DEFAULT_CAPACITY,
                readers: 0,
                writers: 0,
                reader_openings: 0,
                writer_openings: 0,
            }),
            queue: WaitQueue::new(),
        }
    }
}

impl Pipe {
    /// Opens one end (or both). The end is closed when the returned file is dropped.
    pub fn open(self: &Arc<Self>, ends: Ends) -> Arc<PipeEnd> {
        {
            let mut state = self.state.lock();
            if ends.reads() {
                state.readers += 1;
                state.reader_openings += 1;
            }
            if ends.writes() {
                state.writers += 1;
                state.writer_openings += 1;
            }
        }
        self.queue.wake_all();
        Arc::new(PipeEnd { pipe: Arc::clone(self), ends })
    }

    /// How often the other side has been opened; a blocking opener of a FIFO waits for it to change or for somebody to be there.
    pub fn partner_openings(&self, ends: Ends) -> u64 {
        let state = self.state.lock();
        if ends == Ends::Read { state.writer_openings } else { state.reader_openings }
    }

    /// Whether somebody has the other side open.
    pub fn has_partner(&self, ends: Ends) -> bool {
        let state = self.state.lock();
        match ends {
            Ends::Read => state.writers != 0,
            Ends::Write => state.readers != 0,
            Ends::Both => true,
        }
    }

    /// Where changes are announced.
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// Bytes it can hold.
    pub fn capacity(&self) -> usize {
        self.state.lock().capacity
    }

    /// Sets how much it can hold (`F_SETPIPE_SZ`); returns the size chosen.
    ///
    /// # Errors
    /// `EBUSY`: it holds more now. `EPERM`: too large without privilege. `EINVAL`.
    pub fn set_capacity(&self, wanted: usize, credentials: &Credentials) -> SysResult<usize> {
        const CAP_SYS_RESOURCE: u32 = 24;
        const PRIVILEGED_MAX: usize = 16 << 20;
        if wanted > i32::MAX as usize {
            return Err(EINVAL);
        }
        let capacity = wanted.max(PIPE_BUF).next_power_of_two();
        if capacity > CAPACITY_MAX && !credentials.has(CAP_SYS_RESOURCE) || capacity > PRIVILEGED_MAX {
            return Err(EPERM);
        }
        let mut state = self.state.lock();
        if state.bytes.len() > capacity {
            return Err(EBUSY);
        }
        state.capacity = capacity;
        drop(state);
        self.queue.wake(PollEvents::WRITABLE);
        Ok(capacity)
    }

    /// Takes bytes out.
    ///
    /// # Errors
    /// `EAGAIN`: there are none now.
    pub fn take(&self, buffer: &mut [u8]) -> SysResult<usize> {
        let mut state = self.state.lock();
        if state.bytes.is_empty() {
            return if state.writers == 0 { Ok(0) } else { Err(EAGAIN) };
        }
        let count = buffer.len().min(state.bytes.len());
        let (front, back) = state.bytes.as_slices();
        let first = count.min(front.len());
        buffer[..first].copy_from_slice(&front[..first]);
        buffer[first..count].copy_from_slice(&back[..count - first]);
        state.bytes.drain(..count);
        drop(state);
        self.queue.wake(PollEvents::WRITABLE);
        Ok(count)
    }

    fn put(&self, bytes: &[u8]) -> SysResult<usize> {
        let mut state = self.state.lock();
        if state.readers == 0 {
            return Err(EPIPE);
        }
        let room = state.capacity.saturating_sub(state.bytes.len());
        if room == 0 || bytes.len() <= PIPE_BUF && room < bytes.len() {
            return Err(EAGAIN);
        }
        let count = room.min(bytes.len());
        state.bytes.extend(&bytes[..count]);
        drop(state);
        self.queue.wake(PollEvents::READABLE);
        Ok(count)
    }

    /// Puts bytes that were taken back to the front: whoever took them could not pass them on (`splice`).
    pub fn put_back(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        for byte in bytes.iter().rev() {
            state.bytes.push_front(*byte);
        }
        drop(state);
        self.queue.wake(PollEvents::READABLE);
    }

    /// How many bytes it would take now.
    ///
    /// # Errors
    /// `EPIPE`: nobody reads. `EAGAIN`: none.
    pub fn room(&self) -> SysResult<usize> {
        let state = self.state.lock();
        match state.capacity.saturating_sub(state.bytes.len()) {
            _ if state.readers == 0 => Err(EPIPE),
            0 => Err(EAGAIN),
            room => Ok(room),
        }
    }

    /// Takes all bytes, although somebody may have used the room that [`Pipe::room`] told of: they cannot be given back to
    /// where they came from (`splice`).
    ///
    /// # Errors
    /// `EPIPE`.
    pub fn put_all(&self, bytes: &[u8]) -> SysResult<()> {
        let mut state = self.state.lock();
        if state.readers == 0 {
            return Err(EPIPE);
        }
        state.bytes.extend(bytes);
        drop(state);
        self.queue.wake(PollEvents::READABLE);
        Ok(())
    }

    /// Copies bytes without taking them (`tee`).
    ///
    /// # Errors
    /// `EAGAIN`: there are none now.
    pub fn peek(&self, buffer: &mut [u8]) -> SysResult<usize> {
        let state = self.state.lock();
        if state.bytes.is_empty() {
            return if state.writers == 0 { Ok(0) } else { Err(EAGAIN) };
        }
        let mut count = 0;
        for (place, byte) in buffer.iter_mut().zip(&state.bytes) {
            *place = *byte;
            count += 1;
        }
        Ok(count)
    }
}

/// One end of a pipe, open.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    ends: Ends,
}

impl PipeEnd {
    /// The pipe.
    pub fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        {
            let mut state = self.pipe.state.lock();
            if self.ends.reads() {
                state.readers -= 1;
            }
            if self.ends.writes() {
                state.writers -= 1;
            }
            if state.readers == 0 && state.writers == 0 {
                // A FIFO's bytes are gone when nobody has it open.
                state.bytes = VecDeque::new();
            }
        }
        self.pipe.queue.wake_all();
    }
}

impl FileOps for PipeEnd {
    fn read(&self, _offset: u64, buffer: &mut [u8], _file: &FileDescription) -> SysResult<usize> {
        if buffer.is_empty() { Ok(0) } else { self.pipe.take(buffer) }
    }

    fn write(&self, _offset: u64, bytes: &[u8], _file: &FileDescription) -> SysResult<usize> {
        if bytes.is_empty() { Ok(0) } else { self.pipe.put(bytes) }
    }

    fn is_seekable(&self) -> bool {
        false
    }

    fn poll(&self, _file: &FileDescription) -> PollEvents {
        let state = self.pipe.state.lock();
        let mut events = PollEvents::empty();
        if self.ends.reads() {
            if !state.bytes.is_empty() {
                events |= PollEvents::READABLE;
            }
            if state.writers == 0 && state.writer_openings != 0 {
                events |= PollEvents::HUP;
            }
        }
        if self.ends.writes() {
            if state.capacity.saturating_sub(state.bytes.len()) >= PIPE_BUF {
                events |= PollEvents::WRITABLE;
            }
            if state.readers == 0 {
                events |= PollEvents::ERR;
            }
        }
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.pipe.queue)
    }

    fn ioctl(&self, task: &Task, _file: &FileDescription, request: u32, argument: u64) -> SysResult<u64> {
        if request != FIONREAD {
            return Err(abi::errno::ENOTTY);
        }
        let count = i32::try_from(self.pipe.state.lock().bytes.len()).unwrap_or(i32::MAX);
        task.write_value(argument, &count)?;
        Ok(0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A new pipe: its reading and its writing end, as open files with the given status flags.
pub fn new_pipe(credentials: &Credentials, flags: u32) -> (Arc<FileDescription>, Arc<FileDescription>) {
    let pipe = Arc::new(Pipe::default());
    let inode = AnonymousInode::new(AnonymousKind::Pipe, credentials.fsuid, credentials.fsgid);
    // Found again by who opens `/proc/PID/fd/N`.
    inode.attachments().fifo().set(&pipe);
    let end = |ends, access: i32| {
        FileDescription::new(pipe.open(ends), inode.clone(), None, flags | access.cast_unsigned())
    };
    (end(Ends::Read, libc::O_RDONLY), end(Ends::Write, libc::O_WRONLY))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Arc<PipeEnd>, Arc<PipeEnd>, Arc<FileDescription>) {
        let credentials = Credentials::new(0, 0);
        let pipe = Arc::new(Pipe::default());
        let (file, _) = new_pipe(&credentials, 0);
        (pipe.open(Ends::Read), pipe.open(Ends::Write), file)
    }

    #[test]
    fn bytes_come_out_in_order_and_the_end_is_seen() {
        let (reader, writer, file) = pair();
        let mut buffer = [0; 8];
        assert_eq!(reader.read(0, &mut buffer, &file), Err(EAGAIN));
        assert_eq!(writer.write(0, b"hello", &file), Ok(5));
        assert_eq!(reader.read(0, &mut buffer[..3], &file), Ok(3));
        assert_eq!(&buffer[..3], b"hel");
        drop(writer);
        assert_eq!(reader.read(0, &mut buffer, &file), Ok(2));
        assert_eq!(reader.read(0, &mut buffer, &file), Ok(0));
        assert!(reader.poll(&file).contains(PollEvents::HUP));
    }

    #[test]
    fn small_writes_are_whole_or_not_at_all() {
        let (reader, writer, file) = pair();
        assert_eq!(writer.write(0, &vec![1; DEFAULT_CAPACITY - 10], &file), Ok(DEFAULT_CAPACITY - 10));
        assert_eq!(writer.write(0, &[2; 11], &file), Err(EAGAIN));
        assert_eq!(writer.write(0, &vec![2; PIPE_BUF + 1], &file), Ok(10));
        drop(reader);
        assert_eq!(writer.write(0, b"x", &file), Err(EPIPE));
    }
}
