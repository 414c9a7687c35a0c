//! Large transfers that the host carries out between an application's own memory and a host file, as the call stands: the bytes are copied
//! once instead of twice, and nobody has to look up the application's pages.
//!
//! The file is lent to the application's host process for that, under the number that the call names
//! ([`platform::Context::lend`]); what the host may execute there, the platform compares with the call. It stays until the descriptor is closed
//! or the process changes its memory in a way that the host cannot be left alone with.
//!
//! A call that names its offset is carried out as it stands, and what it returns is the host's word to the application alone. One that reads at the
//! description's position, where the host would use its own, has a read of just as many bytes as the file has put in its place, and the position is moved
//! before: nothing is locked while the host reads. Should that give less (somebody has cut the file meanwhile, the memory cannot be
//! written), the call traps once more, is made in the usual way at the offset where it began, and the position is put right by the difference, as it is
//! after any read whose bytes do not reach the user.
//!
//! Writes go the same way, to files of the gofer's only: what is written to memory files has to be counted. Their descriptors are closed when
//! the application's is, at any price, because the host executes no file that is open for writing.
//!
//! Only while nobody shares the process's memory: its descriptors are known to one thread only.

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
use crate::task::Task;

/// Reads at an offset of fewer bytes are copied by the sentry: one notification costs as much.
const SMALLEST: u64 = 128 << 10;
/// The same of reads at the position, which take two.
const SMALLEST_IN_PLACE: u64 = 256 << 10;
/// Nobody can interrupt the host in a larger one for too long.
const LARGEST: u64 = 16 << 20;
/// The host keeps what is written at once in one piece of its page cache, and small writes into larger ones take it three times as long.
const LARGEST_WRITE: u64 = 512 << 10;

/// A transfer that the host makes, until the thread traps again.
pub struct LentTransfer {
    file: Arc<FileDescription>,
    offset: u64,
    length: u64,
    /// The host has not moved so much, and the call is about to be made again. Or there is nothing to be made again.
    again: bool,
}

impl Task {
    /// Whether a file may be lent for a transfer of so many bytes.
    fn may_lend(&self, file: &FileDescription, buffer: u64, length: u64) -> bool {
        let memory = self.memory();
        file.inode.kind() == FileKind::Regular
            && buffer.checked_add(length).is_some_and(|end| end <= memory.layout().max_address)
            && memory.users() == 1
    }

    /// The host file of one that may be lent for a read of so many bytes.
    fn lendable(&self, file: &FileDescription, buffer: u64, length: u64) -> Option<Arc<HostFile>> {
        let may = file.readable && self.may_lend(file, buffer, length);
        if may { file.ops.lend_for_reading(file) } else { None }
    }

    /// Lends a file for a write of so many bytes, after what has to be judged once per call. The program's memory must be what the kernel would
    /// read there, and all of it has to be written.
    fn lend_for_writing(&self, write: &mut Write, fd: i32, buffer: u64, length: u64) -> SysResult<bool> {
        let file = Arc::clone(write.file());
        let is_patched = |context: &mut dyn Context| context.is_patched(buffer..buffer + length);
        if !write.is_plain()
            || !self.may_lend(&file, buffer, length)
            || self.with_context(is_patched) != Some(false)
        {
            return Ok(false);
        }
        let Some(host) = file.ops.lend_for_writing() else { return Ok(false) };
        if !write.begin_whole(self)? || !self.lend(fd, &host) {
            return Ok(false);
        }
        self.with_context(|context| context.lent_for_writing());
        Ok(true)
    }

    /// `pwrite64` of an open file whose descriptor is `fd`. Returns whether the host is to carry it out.
    ///
    /// # Errors
    /// `EFBIG`. The file's.
    pub fn write_natively(
        &self,
        write: &mut Write,
        fd: i32,
        buffer: u64,
        count: usize,
        offset: u64,
    ) -> SysResult<bool> {
        let Some(length) = worthwhile(count, SMALLEST..=LARGEST_WRITE) else { return Ok(false) };
        if offset > super::POSITION_MAX - length || !self.lend_for_writing(write, fd, buffer, length)? {
            return Ok(false);
        }
        // It stays open, for writing, until that is done.
        let file = Arc::clone(write.file());
        watches::on_file(&file, InotifyMask::IN_MODIFY);
        self.leave_to_host(LentTransfer { file, offset, length, again: true });
        Ok(true)
    }

    /// `write` to an open file whose descriptor is `fd`: what the host is to do instead, and what the call returns then.
    ///
    /// # Errors
    /// `EFBIG`. The file's.
    pub fn write_in_place(
        &self,
        write: &mut Write,
        fd: i32,
        buffer: u64,
        count: usize,
    ) -> SysResult<Option<(Substitute, u64)>> {
        let Some(length) = worthwhile(count, SMALLEST_IN_PLACE..=LARGEST_WRITE) else { return Ok(None) };
        let may = self.with_context(|context| context.may_read_instead()) == Some(true);
        if !may || !self.lend_for_writing(write, fd, buffer, length)? {
            return Ok(None);
        }
        let file = Arc::clone(write.file());
        let offset = {
            let mut position = file.position.lock();
            let offset = *position;
            if offset > super::POSITION_MAX - length || self.room_below_size_limit(offset)? < length {
                return Ok(None);
            }
            *position = offset + length;
            offset
        };
        // Not before it is certain: whoever makes the write in the usual way tells of it, too.
        watches::on_file(&file, InotifyMask::IN_MODIFY);
        self.leave_to_host(LentTransfer { file, offset, length, again: false });
        let descriptor = u64::from(fd.cast_unsigned());
        Ok(Some((Substitute::Write { descriptor, address: buffer, length, offset }, length)))
    }

    /// Remembers what the host is about to do until the thread traps again.
    fn leave_to_host(&self, transfer: LentTransfer) {
        *self.lent_transfer.lock() = Some(transfer);
        self.left_to_host.store(true, Ordering::Relaxed);
    }

    fn lend(&self, fd: i32, host: &HostFile) -> bool {
        let number = u64::from(fd.cast_unsigned());
        self.with_context(|context| context.lend(number, host.as_fd(), host.identity())).unwrap_or(false)
    }

    /// `pread64` of an open file whose descriptor is `fd`. Returns whether the host is to carry it out.
    pub fn read_natively(
        &self,
        file: &FileDescription,
        fd: i32,
        buffer: u64,
        count: usize,
        offset: u64,
    ) -> bool {
        let Some(length) = worthwhile(count, SMALLEST..=LARGEST) else { return false };
        if offset > super::POSITION_MAX - length {
            return false;
        }
        let lent = self.lendable(file, buffer, length).is_some_and(|host| self.lend(fd, &host));
        if lent {
            watches::on_file(file, InotifyMask::IN_ACCESS);
        }
        lent
    }

    /// `read` of an open file whose descriptor is `fd`: what the host is to do instead, and what the call returns then.
    pub fn read_in_place(
        &self,
        file: &Arc<FileDescription>,
        fd: i32,
        buffer: u64,
        count: usize,
    ) -> Option<(Substitute, u64)> {
        let most = worthwhile(count, SMALLEST_IN_PLACE..=LARGEST)?;
        if !self.with_context(|context| context.may_read_instead())? {
            return None;
        }
        let host = self.lendable(file, buffer, most)?;
        let size = u64::try_from(host.status().ok()?.st_size).ok()?;
        let there_is = |start: u64| {
            Some(size.saturating_sub(start).min(most)).filter(|length| *length >= SMALLEST_IN_PLACE)
        };
        there_is(*file.position.lock())?;
        if !self.lend(fd, &host) {
            return None;
        }
        let (offset, length) = {
            let mut position = file.position.lock();
            let (offset, length) = (*position, there_is(*position)?);
            *position = offset + length;
            (offset, length)
        };
        self.leave_to_host(LentTransfer { file: Arc::clone(file), offset, length, again: false });
        watches::on_file(file, InotifyMask::IN_ACCESS);
        let descriptor = u64::from(fd.cast_unsigned());
        Some((Substitute::Read { descriptor, address: buffer, length, offset }, length))
    }

    /// The thread has trapped after it was left to the host: nothing has to be remembered of its transfer, unless that is to be made again.
    pub(crate) fn settle_transfer(&self, trap: &Trap) {
        let mut transfer = self.lent_transfer.lock();
        if let (Trap::Syscall(request), Some(transfer)) = (trap, &mut *transfer)
            && !transfer.again
            && self.with_context(|context| context.is_again(request)) == Some(true)
        {
            transfer.again = true;
            // At the next trap it is forgotten.
            self.left_to_host.store(true, Ordering::Relaxed);
            return;
        }
        let done = transfer.take();
        drop(transfer);
        // Nobody else may have the file open any more.
        drop(done);
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
        let lent = self.lent_transfer.lock().take().filter(|lent| lent.again)?;
        let result = transfer(Arc::clone(&lent.file), At::Offset(lent.offset));
        let got = u64::try_from(*result.as_ref().unwrap_or(&0)).unwrap_or(0);
        let mut position = lent.file.position.lock();
        // Others may have read on from there; who has gone elsewhere stays there.
        if let Some(further) = position.checked_sub(lent.offset + lent.length) {
            *position = (lent.offset + got).saturating_add(further);
        }
        drop(position);
        Some(result)
    }

    /// A descriptor was closed by the trapped call: what is to be done about a file that was lent there.
    pub fn take_back(&self, fd: i32) -> TakeBack {
        let number = u64::from(fd.cast_unsigned());
        self.with_context(|context| context.take_back(number)).unwrap_or(TakeBack::Nothing)
    }

    /// [`TakeBack::Commands`].
    pub async fn close_lent(&self) {
        // If the thread is gone, so is the descriptor.
        let _ = self.poll_context(|context, wake| context.poll_memory(wake, &[]), || Ok(())).await;
    }
}

fn worthwhile(count: usize, sizes: RangeInclusive<u64>) -> Option<u64> {
    u64::try_from(count).ok().filter(|count| sizes.contains(count))
}
