//! Large transfers that the host carries out between an application's own memory and a host file, as the call stands: the bytes are copied
//! once instead of twice, and nobody has to look up the application's pages.
//!
//! The file is lent to the application's host process for that, under the number that the call names
//! ([`platform::Context::lend`]); what the host may execute there, the platform compares with the call. It stays until the descriptor is closed
//! or the process changes its memory in a way that the host cannot be left alone with. What such a call returns is
//! the host's word to the application alone: nothing here depends on it. So only calls that name their offset go this way, for
//! a position would have to be moved by what was really read.
//!
//! Only while nobody shares the process's memory: its descriptors are known to one thread only.

use std::os::fd::AsFd;

use abi::polling::InotifyMask;

use super::file::FileDescription;
use super::inode::FileKind;
use super::watches;
use crate::task::Task;

/// Transfers of fewer bytes are copied by the sentry: one notification costs as much.
const SMALLEST: u64 = 64 << 10;
/// Nobody can interrupt the host in a larger one for too long.
const LARGEST: u64 = 16 << 20;

impl Task {
    /// `pread64` of an open file whose descriptor is `fd`. Returns whether the host is to carry it out.
    pub fn read_natively(
        &self,
        file: &FileDescription,
        fd: i32,
        buffer: u64,
        count: usize,
        offset: u64,
    ) -> bool {
        let Some(end) = u64::try_from(count).ok().filter(|count| (SMALLEST..=LARGEST).contains(count)) else {
            return false;
        };
        let fits = |start: u64, limit: u64| start.checked_add(end).is_some_and(|end| end <= limit);
        let memory = self.memory();
        if !file.readable
            || file.inode.kind() != FileKind::Regular
            || !fits(offset, super::POSITION_MAX)
            || !fits(buffer, memory.layout().max_address)
            || memory.users() != 1
        {
            return false;
        }
        let Some(host) = file.ops.lend_for_reading(file) else { return false };
        let number = u64::from(fd.cast_unsigned());
        let lent = self.with_context(|context| context.lend(number, host.as_fd(), host.identity()));
        if lent == Some(true) {
            watches::on_file(file, InotifyMask::IN_ACCESS);
            return true;
        }
        false
    }

    /// A descriptor was closed by the trapped call. Returns whether the host is to do the same, because a file was lent there.
    pub fn close_natively(&self, fd: i32) -> bool {
        self.with_context(|context| context.take_back(u64::from(fd.cast_unsigned()))).unwrap_or(false)
    }
}
