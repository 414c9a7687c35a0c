//! Pipes and FIFOs (`man 7 pipe`): bytes between two ends, bounded.

mod fifo;
mod packets;

pub use fifo::Fifos;
pub use packets::Part;

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

use abi::errno::{EAGAIN, EBUSY, EINVAL, EPERM, EPIPE, SysResult};
use abi::ioctls::FIONREAD;
use parking_lot::Mutex;

use packets::Packets;

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
    packets: Packets,
    capacity: usize,
    readers: usize,
    writers: usize,
    /// Openings ever, so that a FIFO's opener notices a partner that came and went.
    reader_openings: u64,
    writer_openings: u64,
}

impl State {
    /// What is left of the capacity.
    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.packets.occupied(self.bytes.len()))
    }

    /// Copies bytes to the front of `buffer`, from a place on.
    fn copy(&self, from: usize, buffer: &mut [u8]) {
        let (front, back) = self.bytes.as_slices();
        let front = front.get(from..).unwrap_or_default();
        let back = back.get(from.saturating_sub(self.bytes.len() - back.len())..).unwrap_or_default();
        let (first, rest) = buffer.split_at_mut(front.len().min(buffer.len()));
        first.copy_from_slice(&front[..first.len()]);
        rest.copy_from_slice(&back[..rest.len()]);
    }

    /// Adds bytes; of a packet they become one, even if they are a part of it only.
    fn add(&mut self, bytes: &[u8], part: Part) {
        self.bytes.extend(bytes);
        if part != Part::Nothing && !bytes.is_empty() {
            self.packets.added(bytes.len(), self.bytes.len());
        }
    }

    fn remove(&mut self, count: usize) {
        self.bytes.drain(..count);
        self.packets.taken(count);
    }

    /// What a read gets: ordinary bytes, and a packet behind them; what the buffer has no room for of that is lost
    /// (`man 2 pipe`). How many bytes are copied, and how many go.
    fn readable(&self, limit: usize) -> (usize, usize) {
        let (mut count, held) = (0, self.bytes.len());
        while count < limit && count < held {
            let run = self.packets.run_at(count, held);
            if run.packet != Part::Nothing {
                return ((count + run.length).min(limit), count + run.length);
            }
            count = (count + run.length).min(limit);
        }
        (count, count)
    }
}

/// Bytes taken by `splice`, or looked at by `tee`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// How many.
    pub count: usize,
    /// What they are of a packet.
    pub part: Part,
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
                packets: Packets::default(),
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
        if state.packets.occupied(state.bytes.len()) > capacity {
            return Err(EBUSY);
        }
        state.capacity = capacity;
        drop(state);
        self.queue.wake(PollEvents::WRITABLE);
        Ok(capacity)
    }

    /// Reads.
    ///
    /// # Errors
    /// `EAGAIN`: there is nothing now.
    fn take(&self, buffer: &mut [u8]) -> SysResult<usize> {
        let mut state = self.state.lock();
        if state.bytes.is_empty() {
            return if state.writers == 0 { Ok(0) } else { Err(EAGAIN) };
        }
        let (count, gone) = state.readable(buffer.len());
        state.copy(0, &mut buffer[..count]);
        state.remove(gone);
        drop(state);
        self.queue.wake(PollEvents::WRITABLE);
        Ok(count)
    }

    /// Takes bytes out that are of one packet, or of none. Unlike a read it leaves what there is no room for.
    ///
    /// # Errors
    /// `EAGAIN`: there are none now.
    pub fn take_run(&self, buffer: &mut [u8]) -> SysResult<Taken> {
        let mut state = self.state.lock();
        let taken = Self::look(&state, 0, buffer)?;
        state.remove(taken.count);
        drop(state);
        self.queue.wake(PollEvents::WRITABLE);
        Ok(taken)
    }

    /// As [`Pipe::take_run`], from a place on and without taking them (`tee`).
    ///
    /// # Errors
    /// `EAGAIN`: there are none now.
    pub fn peek_run(&self, from: usize, buffer: &mut [u8]) -> SysResult<Taken> {
        Self::look(&self.state.lock(), from, buffer)
    }

    fn look(state: &State, from: usize, buffer: &mut [u8]) -> SysResult<Taken> {
        let held = state.bytes.len();
        if from >= held {
            let none = Taken { count: 0, part: Part::Nothing };
            return if state.writers == 0 || from != 0 { Ok(none) } else { Err(EAGAIN) };
        }
        let run = state.packets.run_at(from, held);
        let count = run.length.min(buffer.len());
        state.copy(from, &mut buffer[..count]);
        let cut = run.packet != Part::Nothing && count < run.length;
        Ok(Taken { count, part: if cut { Part::Beginning } else { run.packet } })
    }

    fn put(&self, bytes: &[u8]) -> SysResult<usize> {
        let mut state = self.state.lock();
        if state.readers == 0 {
            return Err(EPIPE);
        }
        let room = state.room();
        if room == 0 || bytes.len() <= PIPE_BUF && room < bytes.len() {
            return Err(EAGAIN);
        }
        let count = room.min(bytes.len());
        state.bytes.extend(&bytes[..count]);
        drop(state);
        self.queue.wake(PollEvents::READABLE);
        Ok(count)
    }

    /// Writes packets, of a page each but the last.
    fn put_packets(&self, bytes: &[u8]) -> SysResult<usize> {
        let mut state = self.state.lock();
        if state.readers == 0 {
            return Err(EPIPE);
        }
        let mut count = 0;
        for packet in bytes.chunks(PIPE_BUF) {
            if state.room() < PIPE_BUF {
                break;
            }
            state.add(packet, Part::End);
            count += packet.len();
        }
        drop(state);
        if count == 0 {
            return Err(EAGAIN);
        }
        self.queue.wake(PollEvents::READABLE);
        Ok(count)
    }

    /// Puts bytes that were taken back to the front: whoever took them could not pass them on (`splice`).
    pub fn put_back(&self, bytes: &[u8], part: Part) {
        if bytes.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        for byte in bytes.iter().rev() {
            state.bytes.push_front(*byte);
        }
        state.packets.put_back(bytes.len(), part);
        drop(state);
        self.queue.wake(PollEvents::READABLE);
    }

    /// How many bytes it would take now.
    ///
    /// # Errors
    /// `EPIPE`: nobody reads. `EAGAIN`: none.
    pub fn room(&self) -> SysResult<usize> {
        let state = self.state.lock();
        match state.room() {
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
    pub fn put_all(&self, bytes: &[u8], part: Part) -> SysResult<()> {
        let mut state = self.state.lock();
        if state.readers == 0 {
            return Err(EPIPE);
        }
        state.add(bytes, part);
        drop(state);
        self.queue.wake(PollEvents::READABLE);
        Ok(())
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
                state.packets.clear();
            }
        }
        self.pipe.queue.wake_all();
    }
}

impl FileOps for PipeEnd {
    fn read(&self, _offset: u64, buffer: &mut [u8], _file: &FileDescription) -> SysResult<usize> {
        if buffer.is_empty() { Ok(0) } else { self.pipe.take(buffer) }
    }

    fn write(&self, _offset: u64, bytes: &[u8], file: &FileDescription) -> SysResult<usize> {
        let packets = file.flags() & libc::O_DIRECT.cast_unsigned() != 0;
        match bytes {
            [] => Ok(0),
            _ if packets => self.pipe.put_packets(bytes),
            _ => self.pipe.put(bytes),
        }
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
            if state.room() >= PIPE_BUF {
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

/// A new pipe: its reading and its writing end, as open files with the given status flags. Packet mode (`O_DIRECT`) is the
/// writer's alone.
pub fn new_pipe(credentials: &Credentials, flags: u32) -> (Arc<FileDescription>, Arc<FileDescription>) {
    let pipe = Arc::new(Pipe::default());
    let inode = AnonymousInode::new(AnonymousKind::Pipe, credentials.fsuid, credentials.fsgid);
    // Found again by who opens `/proc/PID/fd/N`.
    inode.attachments().fifo().set(&pipe);
    let end = |ends, flags| FileDescription::new(pipe.open(ends), inode.clone(), None, flags);
    let read_flags = libc::O_RDONLY.cast_unsigned() | flags & !libc::O_DIRECT.cast_unsigned();
    (end(Ends::Read, read_flags), end(Ends::Write, flags | libc::O_WRONLY.cast_unsigned()))
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
    fn packets_keep_their_ends_and_take_a_page_each() {
        let pipe = Arc::new(Pipe::default());
        let (_reader, _writer) = (pipe.open(Ends::Read), pipe.open(Ends::Write));
        assert_eq!(pipe.put(b"ab"), Ok(2));
        assert_eq!(pipe.put_packets(b"packet"), Ok(6));
        let mut buffer = [0; 16];
        assert_eq!(pipe.take(&mut buffer[..4]), Ok(4));
        assert_eq!(&buffer[..4], b"abpa", "ordinary bytes, and a packet behind them");
        assert_eq!(pipe.take(&mut buffer), Err(EAGAIN), "its rest is lost");
        assert_eq!(pipe.put_packets(&vec![7; PIPE_BUF + 1]), Ok(PIPE_BUF + 1));
        assert_eq!(pipe.put_packets(&vec![8; 20 * PIPE_BUF]), Ok(14 * PIPE_BUF));
        assert_eq!(pipe.put_packets(b"x"), Err(EAGAIN));
        assert_eq!(pipe.room(), Err(EAGAIN));
        assert_eq!(pipe.take(&mut vec![0; 2 * PIPE_BUF]), Ok(PIPE_BUF));
        assert_eq!(pipe.take(&mut buffer), Ok(1));
    }

    #[test]
    fn what_splice_gives_back_is_the_packet_it_was() {
        let pipe = Arc::new(Pipe::default());
        let (_reader, _writer) = (pipe.open(Ends::Read), pipe.open(Ends::Write));
        for packet in [b"first", b"other"] {
            assert_eq!(pipe.put_packets(packet), Ok(5));
        }
        let mut buffer = [0; 16];
        for (size, part) in [(3, Part::Beginning), (16, Part::End)] {
            let taken = pipe.take_run(&mut buffer[..size]).unwrap();
            assert_eq!((taken.count, taken.part), (size.min(5), part));
            pipe.put_back(&buffer[..taken.count], taken.part);
            assert_eq!(pipe.room(), Ok(DEFAULT_CAPACITY - 2 * PIPE_BUF));
        }
        assert_eq!(pipe.peek_run(5, &mut buffer), Ok(Taken { count: 5, part: Part::End }));
        assert_eq!(pipe.take(&mut buffer), Ok(5));
        assert_eq!(&buffer[..5], b"first");
        assert_eq!(pipe.take(&mut buffer), Ok(5));
        assert_eq!(pipe.room(), Ok(DEFAULT_CAPACITY));
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
