//! Large transfers that the host carries out between an application's own memory and a host file, as the call stands or in its place: the bytes are copied
//! once instead of twice, and nobody has to look up the application's pages.
//!
//! The file is lent to the application's host process for that. In a process with one thread it is put under the number that the call names
//! ([`platform::Context::lend`]), and stays there until the descriptor is closed or the process changes its memory in a way that the host cannot be left alone
//! with; what the host may execute there, the platform compares with the call.
//!
//! A call that names its offset is carried out as it stands, and what it returns is the host's word to the application alone. One that reads at the
//! description's position, where the host would use its own, has a read of just as many bytes as the file has put in its place, and the position is moved
//! before: nothing is locked while the host reads. Should that give less (somebody has cut the file meanwhile, the memory cannot be
//! written), the call traps once more, is made in the usual way at the offset where it began, and the position is put right by the difference, as it is
//! after any read whose bytes do not reach the user.
//!
//! **Several threads** of a process share one table of descriptors on the host, and the application's numbers mean nothing there: another
//! thread may close one, `dup2` over it or lend another file under it between the check of a call and the moment when the host looks at the number. So a file
//! is put under a number of the host's choice, for one thread alone ([`platform::Context::lend_privately`]), and every call, those with an offset,
//! too, has one with that number put in its place. The number is given to another file, or closed, only while that thread
//! is held in a later call; so whatever others do meanwhile, the host reads or writes what the description stood for when the call was made, as Linux does, which
//! looks the number up once. Two threads that borrow the same file have a descriptor each. Whoever forks has copies of all that its process was lent, which the
//! platform notes for the child: nobody lends while the gate for changes of the memory is taken. What a thread has borrowed of the gofer's it gives back when it
//! closes the file (which may be deleted next, and would go on taking room); if another thread closes it, it stays until the borrower
//! borrows others, changes memory or ends.
//!
//! Writes go the same way. Those to the gofer's files only while there is one thread: their descriptors are closed when
//! the application's is, at any price, because the host executes no file that is open for writing, and only their own thread could. What is written to memory
//! files has to be counted: that is done before, for all that the write may need, and put right when the thread has come back ([`CountedFile`]).
//! Another thread of the process could make it seem that it has (what stands in a slot is anybody's word), so of a process with several only a trap counts
//! that the host has told of.

use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::errno::{EAGAIN, SysResult};
use abi::polling::InotifyMask;
use platform::{Context, Substitute, TakeBack, Trap};

use super::file::FileDescription;
use super::inode::FileKind;
use super::transfer::{At, Blocking, Read, UserBuffers, Write, WriteMode};
use super::watches;
use crate::memory::HostFile;
use crate::task::{Reply, Task};

/// Reads at an offset of fewer bytes are copied by the sentry: one notification costs as much.
const SMALLEST: u64 = 128 << 10;
/// The same of reads at the position, which take two.
const SMALLEST_IN_PLACE: u64 = 256 << 10;
/// Nobody can interrupt the host in a larger one for too long.
const LARGEST: u64 = 16 << 20;
/// The host keeps what is written at once in one piece of its page cache, and small writes into larger ones take it three times as long.
const LARGEST_WRITE: u64 = 512 << 10;

/// A file in memory whose pages are counted.
pub trait CountedFile: Send + Sync {
    /// Counts what a write by the host may need. `None`: there is not as much room, or it has to be made by the kernel.
    fn expect_write(&self, offset: u64, length: u64) -> Option<ExpectedRange>;

    /// Counts what there is, now that the write is over; or has perhaps been cut short, and may even go on for a moment.
    fn settle_write(&self, range: &ExpectedRange, over: Over);
}

/// Whether a write is over for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Yes.
    Certainly,
    /// Its thread was killed, and nobody knows.
    Perhaps,
}

/// Where the host is about to write, and what the file was like before.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedRange {
    /// The first byte.
    pub offset: u64,
    /// Behind the last.
    pub end: u64,
    /// Size of the file.
    pub size: u64,
    /// How often it had been changed.
    pub changes: u64,
}

/// A host file that a write may be left to.
pub struct WritableLoan {
    /// The file, open for writing, but not for appending.
    pub host: Arc<HostFile>,
    /// Who counts what is written. `None`: nobody has to; but it must not be open for longer than the application has it open.
    pub counted: Option<Arc<dyn CountedFile>>,
}

/// A write that the host is about to make, and that is counted.
struct ExpectedWrite {
    file: Arc<dyn CountedFile>,
    range: ExpectedRange,
    over: Over,
}

impl Drop for ExpectedWrite {
    fn drop(&mut self) {
        self.file.settle_write(&self.range, self.over);
    }
}

/// A transfer that the host makes, until the thread traps again.
pub struct LentTransfer {
    /// None any more: the thread has trapped, but only by its own word.
    file: Option<Arc<FileDescription>>,
    offset: u64,
    length: u64,
    /// The description's position was moved for it.
    moved: bool,
    /// The host has not moved so much, and the call is about to be made again.
    again: bool,
    /// Others share the process's memory, and may make it seem that it is over.
    shared: bool,
    expected: Option<ExpectedWrite>,
}

/// What the host is left to do.
pub enum LeftToHost {
    /// The call as it stands.
    AsItStands,
    /// This instead, and what the call returns then.
    Instead(Substitute, u64),
}

impl From<LeftToHost> for Reply<'_> {
    fn from(left: LeftToHost) -> Self {
        match left {
            LeftToHost::AsItStands => Self::Native,
            LeftToHost::Instead(operation, result) => Self::Substitute(operation, result),
        }
    }
}

impl Task {
    /// Whether nobody shares the process's memory, nor its descriptors on the host.
    fn is_alone(&self) -> bool {
        self.memory().users() == 1
    }

    /// Whether a file may be lent for a transfer of so many bytes.
    fn may_lend(&self, file: &FileDescription, buffer: u64, length: u64) -> bool {
        file.inode.kind() == FileKind::Regular
            && buffer.checked_add(length).is_some_and(|end| end <= self.memory().layout().max_address)
    }

    /// How a transfer of so many bytes can be left to the host: whether as it stands, and how many bytes. `None`: not at all.
    fn way(&self, at: At, count: usize) -> Option<(bool, u64)> {
        let length = worthwhile(count, SMALLEST..=LARGEST)?;
        if let At::Offset(offset) = at {
            if offset > super::POSITION_MAX - length {
                return None;
            }
            if self.is_alone() {
                return Some((true, length));
            }
        }
        let may = length >= SMALLEST_IN_PLACE && self.with_context(|context| context.may_read_instead())?;
        may.then_some((false, length))
    }

    /// Puts a file into the process, for the trapped call; under which number.
    fn lend(&self, fd: i32, host: &HostFile) -> Option<u64> {
        let number = u64::from(fd.cast_unsigned());
        if self.is_alone() {
            let lent = self.with_context(|context| context.lend(number, host.as_fd(), host.identity()))?;
            return lent.then_some(number);
        }
        // Nobody is being forked.
        let memory = self.memory();
        let _gate = memory.gate().try_enter()?;
        self.with_context(|context| context.lend_privately(host.as_fd(), host.identity()))?
    }

    /// `read` or `pread64` of an open file whose descriptor is `fd`: what the host is to do.
    pub fn read_by_host(
        &self,
        file: &Arc<FileDescription>,
        fd: i32,
        buffer: u64,
        count: usize,
        at: At,
    ) -> Option<LeftToHost> {
        let (as_it_stands, most) = self.way(at, count)?;
        if !file.readable || !self.may_lend(file, buffer, most) {
            return None;
        }
        let host = file.ops.lend_for_reading(file)?;
        if as_it_stands {
            self.lend(fd, &host)?;
            watches::on_file(file, InotifyMask::IN_ACCESS);
            return Some(LeftToHost::AsItStands);
        }
        let size = u64::try_from(host.status().ok()?.st_size).ok()?;
        let there_is = |start: u64| {
            Some(size.saturating_sub(start).min(most)).filter(|length| *length >= SMALLEST_IN_PLACE)
        };
        there_is(start_of(file, at))?;
        let descriptor = self.lend(fd, &host)?;
        let (offset, length) = match at {
            At::Offset(offset) => (offset, there_is(offset)?),
            At::Position => {
                let mut position = file.position.lock();
                let (offset, length) = (*position, there_is(*position)?);
                *position = offset + length;
                (offset, length)
            }
        };
        let moved = at == At::Position;
        watches::on_file(file, InotifyMask::IN_ACCESS);
        let file = Some(Arc::clone(file));
        self.leave_to_host(LentTransfer {
            file,
            offset,
            length,
            moved,
            again: false,
            shared: !self.is_alone(),
            expected: None,
        });
        Some(LeftToHost::Instead(Substitute::Read { descriptor, address: buffer, length, offset }, length))
    }

    /// `write` or `pwrite64` to an open file whose descriptor is `fd`: what the host is to do. What has to be judged once per call, is. The
    /// program's memory must be what the kernel would read there, and all of it has to be written.
    ///
    /// # Errors
    /// `EFBIG`. The file's.
    pub fn write_by_host(
        &self,
        write: &mut Write,
        fd: i32,
        buffer: u64,
        count: usize,
        at: At,
    ) -> SysResult<Option<LeftToHost>> {
        let Some((as_it_stands, length)) = self.way(at, count) else { return Ok(None) };
        let file = Arc::clone(write.file());
        let is_patched = |context: &mut dyn Context| context.is_patched(buffer..buffer + length);
        if !write.is_plain()
            || !self.may_lend(&file, buffer, length)
            || self.with_context(is_patched) != Some(false)
        {
            return Ok(None);
        }
        let Some(loan) = self.writable_loan(&file, length) else { return Ok(None) };
        if !write.begin_whole(self)? {
            return Ok(None);
        }
        let Some(descriptor) = self.lend(fd, &loan.host) else { return Ok(None) };
        if loan.counted.is_none() {
            self.with_context(|context| context.lent_for_writing());
        }
        let expect = |offset| Expectation::of(loan.counted.as_ref(), offset, length);
        let (offset, expected) = match at {
            At::Offset(offset) => match expect(offset) {
                Expectation::Refused => return Ok(None),
                Expectation::Of(expected) => (offset, expected),
            },
            At::Position => {
                let mut position = file.position.lock();
                let offset = *position;
                if offset > super::POSITION_MAX - length || self.room_below_size_limit(offset)? < length {
                    return Ok(None);
                }
                let Expectation::Of(expected) = expect(offset) else { return Ok(None) };
                *position = offset + length;
                (offset, expected)
            }
        };
        // Not before it is certain: whoever makes the write in the usual way tells of it, too.
        watches::on_file(&file, InotifyMask::IN_MODIFY);
        let moved = at == At::Position;
        // It stays open, for writing, until that is done.
        let file = Some(file);
        self.leave_to_host(LentTransfer {
            file,
            offset,
            length,
            moved,
            again: false,
            shared: !self.is_alone(),
            expected,
        });
        if as_it_stands {
            return Ok(Some(LeftToHost::AsItStands));
        }
        let operation = Substitute::Write { descriptor, address: buffer, length, offset };
        Ok(Some(LeftToHost::Instead(operation, length)))
    }

    /// The host file of one that may be lent for a write of so many bytes.
    fn writable_loan(&self, file: &FileDescription, length: u64) -> Option<WritableLoan> {
        // Not to be asked for in vain: it says that the file has changed.
        let may = file.ops.counts_writes() || length <= LARGEST_WRITE && self.is_alone();
        if may { file.ops.lend_for_writing() } else { None }
    }

    /// Remembers what the host is about to do until the thread traps again.
    fn leave_to_host(&self, transfer: LentTransfer) {
        let before = self.lent_transfer.lock().replace(transfer);
        drop(before);
        self.left_to_host.store(true, Ordering::Relaxed);
    }

    /// The thread has trapped after it was left to the host: nothing has to be remembered of its transfer, unless that is to be made again.
    pub(crate) fn settle_transfer(&self, trap: &Trap) {
        let is_gone = matches!(trap, Trap::Died | Trap::Unborn);
        let is_held = !is_gone && self.with_context(|context| context.is_held()) == Some(true);
        let mut transfer = self.lent_transfer.lock();
        let Some(lent) = &mut *transfer else { return };
        if let Trap::Syscall(request) = trap
            && is_held
            && !lent.again
            && self.with_context(|context| context.is_again(request)) == Some(true)
        {
            lent.again = true;
            // At the next trap it is forgotten.
            self.left_to_host.store(true, Ordering::Relaxed);
            return;
        }
        lent.again = false;
        let file = lent.file.take();
        let mut done = None;
        match &mut lent.expected {
            Some(_) if lent.shared && !is_held && !is_gone => {
                self.left_to_host.store(true, Ordering::Relaxed)
            }
            Some(expected) if !is_gone => {
                expected.over = Over::Certainly;
                done = transfer.take();
            }
            _ => done = transfer.take(),
        }
        drop(transfer);
        // Nobody else may have the file open any more.
        drop((done, file));
    }

    /// Makes a `read` again that the host has not made as foreseen. `None`: this is none.
    pub fn read_again(&self, buffer: u64, count: usize) -> Option<SysResult<usize>> {
        self.again(|file, at| {
            let buffers = UserBuffers::one(buffer, count);
            Read::new(file, buffers, at, Blocking::AsDescription)?.attempt(self).unwrap_or(Err(EAGAIN))
        })
    }

    /// The same of a `write`.
    pub fn write_again(&self, buffer: u64, count: usize) -> Option<SysResult<usize>> {
        self.again(|file, at| {
            let mode = WriteMode::of(&file);
            let buffers = UserBuffers::one(buffer, count);
            Write::new(file, buffers, at, mode)?.attempt(self).unwrap_or(Err(EAGAIN))
        })
    }

    fn again(
        &self,
        transfer: impl FnOnce(Arc<FileDescription>, At) -> SysResult<usize>,
    ) -> Option<SysResult<usize>> {
        if !self.left_to_host.load(Ordering::Relaxed) {
            return None;
        }
        let mut lent = self.lent_transfer.lock().take_if(|lent| lent.again)?;
        let file = lent.file.take()?;
        if let Some(expected) = &mut lent.expected {
            expected.over = Over::Certainly;
        }
        // It will be counted anew.
        lent.expected = None;
        let result = transfer(Arc::clone(&file), At::Offset(lent.offset));
        let got = u64::try_from(*result.as_ref().unwrap_or(&0)).unwrap_or(0);
        if lent.moved {
            let mut position = file.position.lock();
            // Others may have read on from there; who has gone elsewhere stays there.
            if let Some(further) = position.checked_sub(lent.offset + lent.length) {
                *position = (lent.offset + got).saturating_add(further);
            }
        }
        Some(result)
    }

    /// A descriptor was closed by the trapped call: what is to be done about a file that was lent there.
    pub fn take_back(&self, fd: i32, file: &Arc<FileDescription>) -> TakeBack {
        let number = u64::from(fd.cast_unsigned());
        let identity = if Arc::strong_count(file) == 1 { file.ops.lent_identity() } else { None };
        self.with_context(|context| context.take_back(number, identity)).unwrap_or(TakeBack::Nothing)
    }

    /// [`TakeBack::Commands`].
    pub async fn close_lent(&self) {
        let memory = self.memory();
        let _gate = memory.gate().enter().await;
        // If the thread is gone, so is the descriptor.
        let _ = self.poll_context(|context, wake| context.poll_memory(wake, &[]), || Ok(())).await;
    }
}

/// Whether a write has to be expected, and is.
enum Expectation {
    Refused,
    Of(Option<ExpectedWrite>),
}

impl Expectation {
    fn of(counted: Option<&Arc<dyn CountedFile>>, offset: u64, length: u64) -> Self {
        let Some(file) = counted else { return Self::Of(None) };
        match file.expect_write(offset, length) {
            Some(range) => {
                Self::Of(Some(ExpectedWrite { file: Arc::clone(file), range, over: Over::Perhaps }))
            }
            None => Self::Refused,
        }
    }
}

/// Where a transfer begins, for now.
fn start_of(file: &FileDescription, at: At) -> u64 {
    match at {
        At::Offset(offset) => offset,
        At::Position => *file.position.lock(),
    }
}

fn worthwhile(count: usize, sizes: RangeInclusive<u64>) -> Option<u64> {
    u64::try_from(count).ok().filter(|count| sizes.contains(count))
}
