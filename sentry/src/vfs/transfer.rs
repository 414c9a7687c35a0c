//! Moving bytes between an open file and user memory: the one place that knows partial results, waiting, positions,
//! `RLIMIT_FSIZE` and `SIGPIPE`.
//!
//! A [`Read`] or [`Write`] is tried at once ([`Read::attempt`]); where nothing is possible now it is awaited. User
//! memory is touched once per piece. Small transfers go through the stack, larger ones through a buffer that
//! each worker keeps.
//!
//! Bytes already moved beat any error. The position of a description is locked while its file reads or writes one
//! piece, as Linux holds `f_pos_lock`: only those who share the description can have to wait for it.

use std::cell::RefCell;
use std::sync::Arc;

use abi::errno::{EAGAIN, EBADF, EFAULT, EFBIG, EINVAL, EISDIR, EPIPE, Errno, SysResult};
use abi::file_calls::MAX_RW_COUNT;
use abi::polling::InotifyMask;
use abi::signal_info::SigInfo;
use abi::signals::{SIGPIPE, SIGXFSZ};

use super::file::{DataOnly, Direction, FileDescription, Operation};
use super::{FileKind, SetAttributes, watches};
use crate::task::{Resource, Task};
use crate::time::Instant;
use crate::wait::{CallResult, Failure, PollEvents, Restart, WaitError};

/// Transfers up to this many bytes use the stack: more would cost more to clear than the rest of the call takes.
const SMALL: usize = 128;
/// First size of a worker's buffer.
const BUFFER_MIN: usize = 16 << 10;
/// Largest piece that is moved at once.
const PIECE: usize = 256 << 10;
/// Last position a file may have (`s_maxbytes`).
pub const POSITION_MAX: u64 = i64::MAX as u64;

thread_local! {
    /// Each worker's buffer for larger pieces. Taken while in use.
    static PIECE_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work` with a kernel buffer of so many bytes.
fn with_buffer<T>(length: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    if length <= SMALL {
        let mut buffer = [0; SMALL];
        return work(buffer.get_mut(..length).unwrap_or_default());
    }
    let mut buffer = PIECE_BUFFER.take();
    if buffer.len() < length {
        buffer.resize(length.max(BUFFER_MIN), 0);
    }
    let result = work(buffer.get_mut(..length).unwrap_or_default());
    PIECE_BUFFER.set(buffer);
    result
}

/// Where in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// At the description's position, which moves.
    Position,
    /// At an offset; the position stays.
    Offset(u64),
}

/// Buffers in user memory, `MAX_RW_COUNT` bytes at most.
#[derive(Clone, Debug)]
pub struct UserBuffers {
    /// Address and length.
    first: (u64, usize),
    /// Those behind it. Most calls have none, and these values are moved about in every call.
    rest: Vec<(u64, usize)>,
    total: usize,
}

impl UserBuffers {
    /// One buffer.
    pub const fn one(address: u64, length: usize) -> Self {
        let total = if length < MAX_RW_COUNT { length } else { MAX_RW_COUNT };
        Self { first: (address, total), rest: Vec::new(), total }
    }

    /// Several; what exceeds `MAX_RW_COUNT` is cut off.
    ///
    /// # Errors
    /// `EINVAL`: a length is negative.
    pub fn several(buffers: impl IntoIterator<Item = (u64, u64)>) -> SysResult<Self> {
        let (mut first, mut rest) = (None, Vec::new());
        let mut total = 0;
        for (address, length) in buffers {
            let length = i64::try_from(length).ok().and_then(|length| usize::try_from(length).ok());
            let length = length.ok_or(EINVAL)?.min(MAX_RW_COUNT - total);
            total += length;
            match first {
                None => first = Some((address, length)),
                Some(_) => rest.push((address, length)),
            }
        }
        Ok(Self { first: first.unwrap_or_default(), rest, total })
    }

    /// Bytes altogether.
    pub const fn total(&self) -> usize {
        self.total
    }

    /// Calls `copy` with the user addresses behind bytes `from..from + length`, as long as it copies all it is asked to;
    /// returns how many it copied.
    fn for_each(
        &self,
        mut from: usize,
        length: usize,
        mut copy: impl FnMut(u64, std::ops::Range<usize>) -> usize,
    ) -> usize {
        let mut done = 0;
        for (address, size) in std::iter::once(&self.first).chain(&self.rest) {
            if from >= *size {
                from -= size;
                continue;
            }
            let count = (size - from).min(length - done);
            if count == 0 {
                break;
            }
            let copied = copy(address.wrapping_add(from as u64), done..done + count);
            done += copied;
            if copied < count {
                break;
            }
            from = 0;
        }
        done
    }

    /// Copies to user memory from byte `from` of the buffers on; how many could be copied.
    pub fn copy_out(&self, task: &Task, from: usize, bytes: &[u8]) -> usize {
        self.for_each(from, bytes.len(), |address, range| {
            task.write_memory(address, bytes.get(range).unwrap_or_default()).unwrap_or(0)
        })
    }

    /// Copies from user memory; how many could be copied.
    pub fn copy_in(&self, task: &Task, from: usize, buffer: &mut [u8]) -> usize {
        let length = buffer.len();
        self.for_each(from, length, |address, range| {
            task.read_memory(address, buffer.get_mut(range).unwrap_or_default()).unwrap_or(0)
        })
    }
}

/// Whether a transfer may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// Unless the description is `O_NONBLOCK`.
    AsDescription,
    /// No (`RWF_NOWAIT`).
    No,
}

impl Blocking {
    fn may_wait(self, file: &FileDescription) -> bool {
        self == Self::AsDescription && !file.is_nonblocking() && file.ops.wait_queue().is_some()
    }
}

/// A read in progress.
pub struct Read {
    file: Arc<FileDescription>,
    buffers: UserBuffers,
    at: At,
    blocking: Blocking,
    done: usize,
}

impl Read {
    /// A read of a description.
    ///
    /// # Errors
    /// `EBADF`: not open for reading.
    pub fn new(
        file: Arc<FileDescription>,
        buffers: UserBuffers,
        at: At,
        blocking: Blocking,
    ) -> SysResult<Self> {
        if !file.readable {
            return Err(EBADF);
        }
        if let At::Offset(offset) = at
            && offset > POSITION_MAX
        {
            return Err(EINVAL);
        }
        Ok(Self { file, buffers, at, blocking, done: 0 })
    }

    /// Asks the file whether the caller may read now.
    ///
    /// # Errors
    /// The file's; interrupted.
    pub fn admit(&self, task: &Task) -> CallResult<()> {
        self.file.ops.admit(task, Operation::Read)
    }

    /// Reads what is there. `None`: nothing, and it may be awaited.
    pub fn attempt(&mut self, task: &Task) -> Option<SysResult<usize>> {
        loop {
            let wanted = (self.buffers.total - self.done).min(PIECE);
            let (count, copied) = match with_buffer(wanted, |buffer| self.piece(task, buffer)) {
                Ok(counts) => counts,
                Err(_) if self.done != 0 => return Some(Ok(self.done)),
                Err(EAGAIN) if wanted == 0 => return Some(Ok(0)),
                Err(EAGAIN) if self.blocking.may_wait(&self.file) => return None,
                Err(error) => return Some(Err(self.judge(error))),
            };
            self.done += copied;
            if copied < count {
                self.unread(count - copied);
                return Some(if self.done == 0 { Err(EFAULT) } else { Ok(self.done) });
            }
            let more = count == wanted && self.done < self.buffers.total && self.file.is_seekable();
            if !more || task.is_ending() {
                return Some(Ok(self.done));
            }
        }
    }

    /// Reads one piece; how many bytes the file gave and how many of them reached the user.
    fn piece(&self, task: &Task, buffer: &mut [u8]) -> SysResult<(usize, usize)> {
        let file = &*self.file;
        let count = match self.at {
            At::Offset(offset) => file.ops.read(offset.saturating_add(self.done as u64), buffer, file)?,
            At::Position if !file.is_seekable() => file.ops.read(0, buffer, file)?,
            At::Position => {
                let mut position = file.position.lock();
                let count = file.ops.read(*position, buffer, file)?;
                *position = position.saturating_add(count as u64);
                count
            }
        };
        let bytes = buffer.get(..count).unwrap_or(buffer);
        Ok((bytes.len(), self.buffers.copy_out(task, self.done, bytes)))
    }

    /// The user's memory could not take the last bytes: they count as not read.
    fn unread(&self, count: usize) {
        if self.at == At::Position && self.file.is_seekable() {
            let mut position = self.file.position.lock();
            *position = position.saturating_sub(count as u64);
        }
    }

    fn judge(&self, error: Errno) -> Errno {
        if error == EINVAL && self.file.inode.kind() == FileKind::Directory { EISDIR } else { error }
    }

    /// Waits until something could be read.
    ///
    /// # Errors
    /// The file's; interrupted.
    pub async fn finish(mut self, task: &Task) -> CallResult<usize> {
        let file = Arc::clone(&self.file);
        let Some(queue) = file.ops.wait_queue() else { return Err(EAGAIN.into()) };
        let limit = file.ops.wait_limit_ns(Direction::Read);
        let mask = PollEvents::READABLE | PollEvents::PRI | PollEvents::RDHUP;
        let deadline = limit.map(|limit| Instant::now().after_ns(limit));
        let result = task.wait_on(queue, mask, deadline, || self.attempt(task)).await;
        conclude(result, self.done, limit, || file.ops.timed_out(Direction::Read))
    }
}

impl Drop for Read {
    fn drop(&mut self) {
        if self.done != 0 {
            watches::on_file(&self.file, InotifyMask::IN_ACCESS);
        }
    }
}

/// The result of a wait, in which bytes already moved beat everything.
fn conclude(
    result: Result<SysResult<usize>, WaitError>,
    done: usize,
    limit: Option<u64>,
    timed_out: impl FnOnce() -> SysResult<usize>,
) -> CallResult<usize> {
    match result {
        Ok(result) => result.map_err(Failure::Error),
        Err(_) if done != 0 => Ok(done),
        Err(WaitError::Interrupted) if limit.is_none() => Err(Failure::Restart(Restart::Sys)),
        Err(WaitError::Interrupted) => Err(Failure::Restart(Restart::Never)),
        Err(WaitError::TimedOut) => timed_out().map_err(Failure::Error),
    }
}

/// How a write treats the end of the file and the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteMode {
    /// At the end, wherever that is.
    pub append: bool,
    /// What is written is on the disk when the call returns.
    pub sync: Option<DataOnly>,
    /// Whether it may wait.
    pub blocking: Blocking,
}

impl WriteMode {
    /// As the description says.
    pub fn of(file: &FileDescription) -> Self {
        let flags = file.flags();
        let has = |bits: i32| flags & bits.cast_unsigned() == bits.cast_unsigned();
        let sync = match (has(libc::O_SYNC), has(libc::O_DSYNC)) {
            (true, _) => Some(DataOnly::No),
            (_, true) => Some(DataOnly::Yes),
            _ => None,
        };
        Self { append: file.is_append(), sync, blocking: Blocking::AsDescription }
    }
}

/// A write in progress.
pub struct Write {
    file: Arc<FileDescription>,
    buffers: UserBuffers,
    at: At,
    mode: WriteMode,
    done: usize,
    /// Bytes that were copied from the user but not taken by the file yet.
    pending: Vec<u8>,
    /// What must be judged once per call has been.
    begun: bool,
}

impl Write {
    /// A write to a description.
    ///
    /// # Errors
    /// `EBADF`: not open for writing.
    pub fn new(file: Arc<FileDescription>, buffers: UserBuffers, at: At, mode: WriteMode) -> SysResult<Self> {
        if !file.writable {
            return Err(EBADF);
        }
        if let At::Offset(offset) = at
            && offset > POSITION_MAX
        {
            return Err(EINVAL);
        }
        Ok(Self { file, buffers, at, mode, done: 0, pending: Vec::new(), begun: false })
    }

    /// Asks the file whether the caller may write now.
    ///
    /// # Errors
    /// The file's; interrupted.
    pub fn admit(&self, task: &Task) -> CallResult<()> {
        self.file.ops.admit(task, Operation::Write)
    }

    /// Judges what has to be judged once per call. Returns whether the whole write may be made.
    ///
    /// # Errors
    /// `EFBIG`. The file's.
    pub(super) fn begin_whole(&mut self, task: &Task) -> SysResult<bool> {
        let wanted = self.buffers.total;
        self.begun = true;
        self.begin(task)?;
        Ok(self.buffers.total == wanted)
    }

    /// Whether the file's end and the disk are none of its concern.
    pub(super) const fn is_plain(&self) -> bool {
        !self.mode.append && self.mode.sync.is_none()
    }

    /// The file.
    pub(super) const fn file(&self) -> &Arc<FileDescription> {
        &self.file
    }

    /// Writes what there is room for. `None`: not all, and the rest may be awaited.
    pub fn attempt(&mut self, task: &Task) -> Option<SysResult<usize>> {
        if !self.begun {
            self.begun = true;
            if let Err(error) = self.begin(task) {
                return Some(Err(error));
            }
        }
        loop {
            let wanted = (self.buffers.total - self.done).min(PIECE);
            let result = if self.pending.is_empty() {
                with_buffer(wanted, |buffer| self.next_piece(task, buffer))
            } else {
                let pending = std::mem::take(&mut self.pending);
                self.give(task, &pending)
            };
            let count = match result {
                Ok(count) => count,
                Err(EAGAIN) if self.mode.blocking.may_wait(&self.file) => return None,
                Err(error) => {
                    if error == EPIPE && self.file.ops.broken_pipe_signals() {
                        let _ = task.send_signal(SIGPIPE, SigInfo::kernel(SIGPIPE));
                    }
                    return Some(if self.done == 0 { Err(error) } else { self.end() });
                }
            };
            // A file that takes less than it was given has no more room; others (pipes) may have some soon.
            let full = count == 0 || self.file.is_seekable() && count < wanted;
            if full || self.done == self.buffers.total || task.is_ending() {
                return Some(self.end());
            }
        }
    }

    /// What is done once, whatever the size.
    fn begin(&mut self, task: &Task) -> SysResult<()> {
        if self.buffers.total == 0 || self.file.inode.kind() != FileKind::Regular {
            return Ok(());
        }
        let attributes = if task.has_capability(u32::from(abi::capabilities::CAP_FSETID.number())) {
            None
        } else {
            Some(self.file.inode.attributes()?)
        };
        if let Some(permissions) = attributes.and_then(|attributes| task.bits_after_write(&attributes)) {
            let change = SetAttributes { permissions: Some(permissions), ..SetAttributes::default() };
            self.file.inode.set_attributes(&change)?;
        }
        if !self.file.is_seekable() {
            return Ok(());
        }
        let start = match self.at {
            _ if self.mode.append => self.file.inode.attributes()?.size,
            At::Position => *self.file.position.lock(),
            At::Offset(offset) => offset,
        };
        self.limit_size(task, start)
    }

    /// `RLIMIT_FSIZE` and the largest offset.
    fn limit_size(&mut self, task: &Task, start: u64) -> SysResult<()> {
        let room = task.room_below_size_limit(start)?.min(POSITION_MAX.saturating_sub(start));
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        if room == 0 {
            return Err(EFBIG);
        }
        self.buffers.total = self.buffers.total.min(room);
        Ok(())
    }

    /// Copies a piece from the user and gives it to the file.
    fn next_piece(&mut self, task: &Task, buffer: &mut [u8]) -> SysResult<usize> {
        let length = buffer.len();
        let copied = self.buffers.copy_in(task, self.done, buffer);
        if copied < length {
            if copied == 0 {
                return Err(EFAULT);
            }
            // What follows cannot be read: the call ends here.
            self.buffers.total = self.done + copied;
        }
        let bytes = buffer.get(..copied).unwrap_or_default();
        self.give(task, bytes)
    }

    /// Gives bytes to the file; keeps those it does not take.
    fn give(&mut self, task: &Task, bytes: &[u8]) -> SysResult<usize> {
        let result = self.write(task, bytes);
        let taken = *result.as_ref().unwrap_or(&0);
        self.done += taken;
        let goes_on = !matches!(result, Err(error) if error != EAGAIN) && !self.file.is_seekable();
        if goes_on && self.mode.blocking.may_wait(&self.file) {
            self.pending = bytes.get(taken..).unwrap_or_default().to_vec();
        }
        result
    }

    fn write(&self, task: &Task, bytes: &[u8]) -> SysResult<usize> {
        let file = &*self.file;
        if !file.is_seekable() {
            return file.ops.write_from(task, bytes, file);
        }
        match self.at {
            At::Offset(_) if self.mode.append => file.ops.append(bytes, file).map(|(count, _)| count),
            At::Offset(offset) => file.ops.write(offset.saturating_add(self.done as u64), bytes, file),
            At::Position => {
                let mut position = file.position.lock();
                let (count, end) = if self.mode.append {
                    file.ops.append(bytes, file)?
                } else {
                    let count = file.ops.write(*position, bytes, file)?;
                    (count, position.saturating_add(count as u64))
                };
                *position = end;
                Ok(count)
            }
        }
    }

    fn end(&self) -> SysResult<usize> {
        if let Some(data_only) = self.mode.sync
            && self.done != 0
            && self.file.is_seekable()
        {
            self.file.ops.sync(data_only)?;
        }
        Ok(self.done)
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// The file's; interrupted before anything was written.
    pub async fn finish(mut self, task: &Task) -> CallResult<usize> {
        let file = Arc::clone(&self.file);
        let Some(queue) = file.ops.wait_queue() else { return Err(EAGAIN.into()) };
        let limit = file.ops.wait_limit_ns(Direction::Write);
        let deadline = limit.map(|limit| Instant::now().after_ns(limit));
        let result = task.wait_on(queue, PollEvents::WRITABLE, deadline, || self.attempt(task)).await;
        conclude(result, self.done, limit, || file.ops.timed_out(Direction::Write))
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        if self.done != 0 {
            watches::on_file(&self.file, InotifyMask::IN_MODIFY);
        }
    }
}

impl Task {
    /// How many bytes a file may grow beyond `start` (`RLIMIT_FSIZE`).
    ///
    /// # Errors
    /// `EFBIG`, with `SIGXFSZ`: none.
    pub fn room_below_size_limit(&self, start: u64) -> SysResult<u64> {
        let limit = self.group.limits.soft(Resource::FileSize);
        if limit == u64::MAX {
            return Ok(u64::MAX);
        }
        if start >= limit {
            let _ = self.send_signal(SIGXFSZ, SigInfo::kernel(SIGXFSZ));
            return Err(EFBIG);
        }
        Ok(limit - start)
    }
}
