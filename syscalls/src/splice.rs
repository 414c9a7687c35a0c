//! Moving bytes to and from pipes within the kernel: `splice`, `tee`, `vmsplice`.
//!
//! Bytes are copied through a kernel buffer. What the target of a `splice` does not take goes back to the front of
//! the pipe it came from.

use std::sync::Arc;

use abi::errno::{EAGAIN, EBADF, EINVAL, EPIPE, ESPIPE, SysResult};
use abi::file_calls::{MAX_RW_COUNT, SpliceFlags};
use abi::signal_info::SigInfo;
use abi::signals::SIGPIPE;
use abi::user::{Fd, UserAddress};
use sentry::fs::pipe::{Part, Pipe, PipeEnd, Taken};
use sentry::task::{Reply, Task};
use sentry::vfs::{At, Blocking, FileDescription, Read, Write, WriteMode, watches};
use sentry::wait::{CallResult, Failure, PollEvents, Restart, WaitQueue};
use smallvec::SmallVec;

use crate::file_copies::{PIECE, Place};
use crate::read_write::{read_vectors, start_read, start_write};
use crate::table::{Entry, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(SPLICE, sys_splice, wait 6, Support::Full),
    call!(TEE, sys_tee, wait 4, Support::Full),
    call!(VMSPLICE, sys_vmsplice, now 4, Support::Partial("bytes are copied, SPLICE_F_GIFT changes nothing")),
];

fn pipe_of(file: &FileDescription) -> Option<&Arc<Pipe>> {
    file.ops.as_any().downcast_ref::<PipeEnd>().map(PipeEnd::pipe)
}

/// Two open files, of which at least one is a pipe.
struct Ends<'a> {
    source: &'a FileDescription,
    target: &'a FileDescription,
    from: Option<&'a Arc<Pipe>>,
    to: Option<&'a Arc<Pipe>>,
}

impl<'a> Ends<'a> {
    fn new(source: &'a FileDescription, target: &'a FileDescription) -> SysResult<Self> {
        if !source.readable || !target.writable {
            return Err(EBADF);
        }
        let (from, to) = (pipe_of(source), pipe_of(target));
        if let (Some(from), Some(to)) = (from, to)
            && Arc::ptr_eq(from, to)
        {
            return Err(EINVAL);
        }
        Ok(Self { source, target, from, to })
    }

    /// Whether it may be waited: the flag, or a pipe that is `O_NONBLOCK`, forbids it.
    fn may_wait(&self, flags: SpliceFlags) -> bool {
        let nonblocking =
            |pipe: Option<&Arc<Pipe>>, file: &FileDescription| pipe.is_some() && file.is_nonblocking();
        !flags.contains(SpliceFlags::SPLICE_F_NONBLOCK)
            && !nonblocking(self.from, self.source)
            && !nonblocking(self.to, self.target)
    }

    /// Takes steps until `count` bytes have moved or nothing more is possible; waits only for the first.
    async fn run(
        &self,
        task: &Task,
        count: usize,
        may_wait: bool,
        mut step: impl FnMut(usize, usize) -> SysResult<usize> + Send,
    ) -> CallResult<usize> {
        let mut attempt = || {
            let mut done = 0;
            while done < count && !task.is_ending() {
                match step(done, count - done) {
                    Ok(0) => break,
                    Ok(moved) => done += moved,
                    Err(_) if done != 0 => break,
                    Err(EAGAIN) if may_wait => return None,
                    Err(error) => return Some(Err(error)),
                }
            }
            Some(Ok(done))
        };
        let queues: SmallVec<[(&WaitQueue, PollEvents); 2]> = [self.source, self.target]
            .iter()
            .filter_map(|file| file.ops.wait_queue())
            .map(|queue| (queue, PollEvents::all()))
            .collect();
        match task.wait_on_all(&queues, None, &mut attempt).await {
            Ok(Err(EPIPE)) => {
                let _ = task.send_signal(SIGPIPE, SigInfo::kernel(SIGPIPE));
                Err(EPIPE.into())
            }
            Ok(result) => result.map_err(Failure::Error),
            Err(_) => Err(Failure::Restart(Restart::Sys)),
        }
    }
}

/// Where one side begins, if it has positions.
fn place(task: &Task, file: &FileDescription, pipe: bool, offset: UserAddress) -> SysResult<Option<Place>> {
    match (pipe, offset.is_null()) {
        (true, true) => Ok(None),
        (true, false) => Err(ESPIPE),
        (false, false) if !file.is_seekable() => Err(EINVAL),
        (false, true) if !file.is_seekable() => Ok(None),
        (false, _) => Place::read(task, offset).map(Some),
    }
}

/// `splice(2)` <https://man7.org/linux/man-pages/man2/splice.2.html>
pub async fn sys_splice(
    task: &Arc<Task>,
    input: Fd,
    input_offset: UserAddress,
    out: Fd,
    out_offset: UserAddress,
    length: usize,
    flags: SpliceFlags,
) -> CallResult<usize> {
    if length == 0 {
        return Ok(0);
    }
    if !SpliceFlags::all().contains(flags) {
        return Err(EINVAL.into());
    }
    let files = task.files();
    let (source, target) = (files.get_open(input.raw())?, files.get_open(out.raw())?);
    let ends = Ends::new(&source, &target)?;
    if ends.from.is_none() && ends.to.is_none() || ends.to.is_none() && target.is_append() {
        return Err(EINVAL.into());
    }
    let from = place(task, &source, ends.from.is_some(), input_offset)?;
    let to = place(task, &target, ends.to.is_some(), out_offset)?;
    let start = from.map_or(0, |place| place.start(&source));
    let out_start = to.map_or(0, |place| place.start(&target));
    let mut buffer = vec![0; length.min(PIECE)];
    let step = |done: usize, left: usize| {
        let wanted = left.min(buffer.len());
        let piece = buffer.get_mut(..wanted).unwrap_or_default();
        let done = done as u64;
        match (ends.from, ends.to) {
            (Some(pipe), Some(to)) => {
                let room = to.room()?.min(piece.len());
                let taken = pipe.take_run(piece.get_mut(..room).unwrap_or_default())?;
                hand_over(pipe, to, piece.get(..taken.count).unwrap_or_default(), taken.part)
            }
            (Some(pipe), None) => {
                let offset = if to.is_some() { out_start.saturating_add(done) } else { 0 };
                check_writable(&target)?;
                pass_on(pipe, piece, |bytes| target.ops.write(offset, bytes, &target))
            }
            (None, Some(pipe)) => {
                let room = pipe.room()?.min(piece.len());
                let piece = piece.get_mut(..room).unwrap_or_default();
                let offset = if from.is_some() { start.saturating_add(done) } else { 0 };
                let count = source.ops.read(offset, piece, &source)?;
                pipe.put_all(piece.get(..count).unwrap_or_default(), Part::Nothing)?;
                Ok(count)
            }
            (None, None) => Err(EINVAL),
        }
    };
    let result = ends.run(task, length.min(MAX_RW_COUNT), ends.may_wait(flags), step).await;
    let moved = *result.as_ref().unwrap_or(&0) as u64;
    if moved != 0 {
        watches::moved_bytes(&source, &target);
        from.map_or(Ok(()), |place| place.finish(task, &source, start.saturating_add(moved)))?;
        to.map_or(Ok(()), |place| place.finish(task, &target, out_start.saturating_add(moved)))?;
    }
    result
}

/// Gives bytes of one pipe to another; back if nobody reads there.
fn hand_over(from: &Pipe, to: &Pipe, bytes: &[u8], part: Part) -> SysResult<usize> {
    match to.put_all(bytes, part) {
        Ok(()) => Ok(bytes.len()),
        Err(error) => {
            from.put_back(bytes, part);
            Err(error)
        }
    }
}

/// Nothing is taken out of a pipe for a target that has no room: putting it back would wake this very wait again.
fn check_writable(target: &FileDescription) -> SysResult<()> {
    let possible = target.poll().intersects(PollEvents::WRITABLE | PollEvents::ALWAYS);
    if possible { Ok(()) } else { Err(EAGAIN) }
}

/// Takes bytes out of a pipe and hands them on; what is not taken goes back.
fn pass_on(
    pipe: &Pipe,
    buffer: &mut [u8],
    write: impl FnOnce(&[u8]) -> SysResult<usize>,
) -> SysResult<usize> {
    let Taken { count, part } = pipe.take_run(buffer)?;
    let bytes = buffer.get(..count).unwrap_or_default();
    if bytes.is_empty() {
        return Ok(0);
    }
    let result = write(bytes);
    let rest = bytes.get(*result.as_ref().unwrap_or(&0)..).unwrap_or_default();
    pipe.put_back(rest, part);
    result
}

/// `tee(2)` <https://man7.org/linux/man-pages/man2/tee.2.html>
pub async fn sys_tee(
    task: &Arc<Task>,
    input: Fd,
    out: Fd,
    length: usize,
    flags: SpliceFlags,
) -> CallResult<usize> {
    if !SpliceFlags::all().contains(flags) {
        return Err(EINVAL.into());
    }
    if length == 0 {
        return Ok(0);
    }
    let files = task.files();
    let (source, target) = (files.get_open(input.raw())?, files.get_open(out.raw())?);
    let ends = Ends::new(&source, &target)?;
    let (Some(from), Some(to)) = (ends.from, ends.to) else { return Err(EINVAL.into()) };
    let length = length.min(PIECE);
    let mut buffer = vec![0; length];
    let step = |done: usize, left: usize| {
        // The bytes stay where they are: the next look is behind them.
        let room = to.room()?.min(left);
        let piece = buffer.get_mut(..room).unwrap_or_default();
        let Taken { count, part } = from.peek_run(done, piece)?;
        to.put_all(piece.get(..count).unwrap_or_default(), part)?;
        Ok(count)
    };
    ends.run(task, length, ends.may_wait(flags), step).await
}

/// `vmsplice(2)` <https://man7.org/linux/man-pages/man2/vmsplice.2.html>
pub fn sys_vmsplice<'a>(
    task: &'a Arc<Task>,
    fd: Fd,
    vectors: UserAddress,
    count: u64,
    flags: SpliceFlags,
) -> Reply<'a> {
    let request = || {
        if !SpliceFlags::all().contains(flags) {
            return Err(EINVAL);
        }
        let file = task.files().get_open(fd.raw())?;
        pipe_of(&file).ok_or(EBADF)?;
        let buffers = read_vectors(task, vectors, count)?;
        let nonblocking = flags.contains(SpliceFlags::SPLICE_F_NONBLOCK);
        Ok((file, buffers, if nonblocking { Blocking::No } else { Blocking::AsDescription }))
    };
    match request() {
        Err(errno) => Reply::Now(Err(Failure::Error(errno))),
        Ok((_, buffers, _)) if buffers.total() == 0 => Reply::Now(Ok(0)),
        Ok((file, buffers, blocking)) if file.writable => {
            let mode = WriteMode { append: false, sync: None, blocking };
            start_write(task, Write::new(file, buffers, At::Position, mode))
        }
        Ok((file, buffers, blocking)) => start_read(task, Read::new(file, buffers, At::Position, blocking)),
    }
}
