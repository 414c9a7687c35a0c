//! What applications' memory may have done to it: copies from outside, commands, and calls executed as they stand.
//!
//! Key types: [`Memory`] ([`UserMemory`] by `process_vm_readv(2)`). Invariant: nothing here reaches
//! addresses at or above [`Layout::max_address`], where the stub and its slots are.

use std::sync::Arc;

use abi::errno::{self, Errno};

use super::notification::last_error;
use super::thread::Thread;
use crate::{
    Architecture, Layout, MemoryOperation, Protection, Sharing, Substitute, SyscallRequest, UserMemory,
};

/// The memory a thread sees.
#[derive(Debug)]
pub struct Memory {
    /// The thread.
    pub thread: Arc<Thread>,
    /// Where it ends.
    pub max_address: u64,
}

impl Memory {
    fn remote(&self, address: u64, length: usize) -> Result<libc::iovec, Errno> {
        remote_range(self.max_address, address, length)
    }
}

fn remote_range(max_address: u64, address: u64, length: usize) -> Result<libc::iovec, Errno> {
    let room = max_address.checked_sub(address).filter(|room| *room > 0).ok_or(errno::EFAULT)?;
    let length = usize::try_from(room).map_or(length, |room| length.min(room));
    Ok(libc::iovec { iov_base: address as *mut _, iov_len: length })
}

fn write_remote(tid: i32, remote: libc::iovec, bytes: &[u8]) -> Result<usize, Errno> {
    let local =
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: remote.iov_len.min(bytes.len()) };
    // SAFETY: the local vector is within `bytes` and only read; the remote one is in another process.
    transferred(unsafe { libc::process_vm_writev(tid, &raw const local, 1, &raw const remote, 1, 0) })
}

impl Memory {
    /// Writes out what a call had gathered, or what the stub had yet to write. The place was writable when the call was
    /// made; if another thread has taken it away since, the bytes are lost, as they are when that happens just
    /// after the call.
    pub fn write_out(thread: &Thread, max_address: u64, address: u64, bytes: &[u8]) {
        if let Ok(remote) = remote_range(max_address, address, bytes.len()) {
            let _ = write_remote(thread.memory_tid(), remote, bytes);
        }
    }
}

fn transferred(result: isize) -> Result<usize, Errno> {
    match usize::try_from(result) {
        Ok(0) => Err(errno::EFAULT),
        Ok(count) => Ok(count),
        // A thread that is gone has no memory.
        Err(_) => match last_error() {
            errno::ESRCH | errno::EINVAL => Err(errno::EFAULT),
            error => Err(error),
        },
    }
}

impl UserMemory for Memory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let thread = &self.thread;
        match thread.carried.read(&thread.slot, address, buffer) {
            Ok(Some(count)) => {
                // The stub, too, has read what it found there.
                thread.slot.space.code.overlay(address, &mut buffer[..count]);
                return Ok(count);
            }
            Ok(None) => {}
            Err((address, bytes)) => Self::write_out(thread, self.max_address, address, &bytes),
        }
        let remote = self.remote(address, buffer.len())?;
        let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: remote.iov_len };
        // SAFETY: the local vector is within `buffer`; the remote one is in another process.
        let result = unsafe {
            libc::process_vm_readv(thread.memory_tid(), &raw const local, 1, &raw const remote, 1, 0)
        };
        let count = transferred(result)?;
        thread.slot.space.code.overlay(address, &mut buffer[..count]);
        Ok(count)
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<usize, Errno> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let thread = &self.thread;
        match thread.carried.write(&thread.slot, address, bytes) {
            Ok(true) => return Ok(bytes.len()),
            Ok(false) => {}
            Err((address, bytes)) => Self::write_out(thread, self.max_address, address, &bytes),
        }
        let remote = self.remote(address, bytes.len())?;
        write_remote(thread.memory_tid(), remote, bytes)
    }

    fn compare_exchange_u32(&self, _address: u64, _expected: u32, _new: u32) -> Result<u32, Errno> {
        // There is no atomic access to another process's memory from outside of it.
        Err(errno::EOPNOTSUPP)
    }

    fn compared_u32(&self, address: u64) -> Option<u32> {
        let thread = &self.thread;
        let mut bytes = thread.carried.compared(address)?.to_ne_bytes();
        thread.slot.space.code.overlay(address, &mut bytes);
        Some(u32::from_ne_bytes(bytes))
    }
}

fn check_range(address: u64, length: u64, layout: &Layout) -> Result<(), Errno> {
    match address.checked_add(length.next_multiple_of(4096)) {
        Some(end) if end <= layout.max_address && length <= layout.max_address => Ok(()),
        _ => Err(errno::EINVAL),
    }
}

pub fn protection_bits(protection: Protection) -> u64 {
    let bit = |wanted: bool, bit: i32| if wanted { bit as u64 } else { 0 };
    bit(protection.read, libc::PROT_READ)
        | bit(protection.write, libc::PROT_WRITE)
        | bit(protection.execute, libc::PROT_EXEC)
}

/// The command that carries out an operation; `fd` is where its file is in the stub.
///
/// # Errors
/// `EINVAL` for what would touch reserved addresses.
pub fn command_for(operation: &MemoryOperation<'_>, fd: u64, layout: &Layout) -> Result<[u64; 7], Errno> {
    let call = |number: libc::c_long, arguments: [u64; 6]| {
        let [a, b, c, d, e, f] = arguments;
        [number as u64, a, b, c, d, e, f]
    };
    Ok(match *operation {
        MemoryOperation::MapAnonymous { address, length, protection, reserve } => {
            check_range(address, length, layout)?;
            let reserve = if reserve { 0 } else { libc::MAP_NORESERVE };
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | reserve;
            call(libc::SYS_mmap, [address, length, protection_bits(protection), flags as u64, u64::MAX, 0])
        }
        MemoryOperation::MapFile { address, length, protection, sharing, offset, .. } => {
            check_range(address, length, layout)?;
            map_file(address, length, protection, sharing, fd, offset)
        }
        MemoryOperation::Unmap { address, length } => {
            check_range(address, length, layout)?;
            call(libc::SYS_munmap, [address, length, 0, 0, 0, 0])
        }
        MemoryOperation::Protect { address, length, protection } => {
            check_range(address, length, layout)?;
            call(libc::SYS_mprotect, [address, length, protection_bits(protection), 0, 0, 0])
        }
        MemoryOperation::Move { from, from_length, to, to_length } => {
            check_range(from, from_length, layout)?;
            check_range(to, to_length, layout)?;
            let flags = if from == to { 0 } else { (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64 };
            let to = if from == to { 0 } else { to };
            call(libc::SYS_mremap, [from, from_length, to_length, flags, to, 0])
        }
        MemoryOperation::Advise { address, length, advice } => {
            check_range(address, length, layout)?;
            if !is_harmless_advice(advice.cast_unsigned().into()) {
                return Err(errno::EINVAL);
            }
            call(libc::SYS_madvise, [address, length, advice.cast_unsigned().into(), 0, 0, 0])
        }
        MemoryOperation::SetFsBase(base) => call(libc::SYS_arch_prctl, [ARCH_SET_FS, base, 0, 0, 0, 0]),
        MemoryOperation::SetGsBase(base) => call(libc::SYS_arch_prctl, [ARCH_SET_GS, base, 0, 0, 0, 0]),
    })
}

fn map_file(
    address: u64,
    length: u64,
    protection: Protection,
    sharing: Sharing,
    fd: u64,
    offset: u64,
) -> [u64; 7] {
    let sharing = match sharing {
        Sharing::Shared => libc::MAP_SHARED,
        Sharing::Private => libc::MAP_PRIVATE,
    };
    let flags = u64::from((sharing | libc::MAP_FIXED).cast_unsigned());
    [libc::SYS_mmap.cast_unsigned(), address, length, protection_bits(protection), flags, fd, offset]
}

/// The command that is executed in a call's place. `lent`: the descriptor that was installed for it.
///
/// # Errors
/// `EINVAL` for what would touch reserved addresses, `EBADF` for another descriptor.
pub fn substitute_command(
    substitute: &Substitute,
    lent: Option<u64>,
    layout: &Layout,
) -> Result<[u64; 7], Errno> {
    match *substitute {
        Substitute::MapAnonymous { address, length, protection, reserve } => {
            let operation = MemoryOperation::MapAnonymous { address, length, protection, reserve };
            command_for(&operation, 0, layout)
        }
        Substitute::MapFile { address, length, protection, descriptor, offset } => {
            check_range(address, length, layout)?;
            if lent != Some(descriptor) {
                return Err(errno::EBADF);
            }
            Ok(map_file(address, length, protection, Sharing::Private, descriptor, offset))
        }
        Substitute::Unmap { address, length } => {
            command_for(&MemoryOperation::Unmap { address, length }, 0, layout)
        }
        Substitute::Read { descriptor, address, length, offset } => {
            transfer(libc::SYS_pread64, [descriptor, address, length, offset], lent, layout)
        }
        Substitute::Write { descriptor, address, length, offset } => {
            transfer(libc::SYS_pwrite64, [descriptor, address, length, offset], lent, layout)
        }
    }
}

fn transfer(
    call: libc::c_long,
    arguments: [u64; 4],
    lent: Option<u64>,
    layout: &Layout,
) -> Result<[u64; 7], Errno> {
    let [descriptor, address, length, offset] = arguments;
    if lent != Some(descriptor) {
        return Err(errno::EBADF);
    }
    if address.checked_add(length).is_none_or(|end| end > layout.max_address) {
        return Err(errno::EINVAL);
    }
    Ok([call.cast_unsigned(), descriptor, address, length, offset, 0, 0])
}

const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;

/// Advice that concerns the caller's own pages only (`man 2 madvise`): not `MADV_REMOVE`, which reaches
/// the file, nor memory-failure injection, nor page merging, which leaks what others' pages hold.
fn is_harmless_advice(advice: u64) -> bool {
    const ALLOWED: [i32; 18] = [
        libc::MADV_DONTFORK,
        libc::MADV_DOFORK,
        libc::MADV_NORMAL,
        libc::MADV_RANDOM,
        libc::MADV_SEQUENTIAL,
        libc::MADV_WILLNEED,
        libc::MADV_DONTNEED,
        libc::MADV_FREE,
        libc::MADV_HUGEPAGE,
        libc::MADV_NOHUGEPAGE,
        libc::MADV_DONTDUMP,
        libc::MADV_DODUMP,
        libc::MADV_WIPEONFORK,
        libc::MADV_KEEPONFORK,
        libc::MADV_COLD,
        libc::MADV_PAGEOUT,
        libc::MADV_POPULATE_READ,
        libc::MADV_POPULATE_WRITE,
    ];
    ALLOWED.iter().any(|allowed| allowed.cast_unsigned() as u64 == advice)
}

/// Whether the host may execute an application's call as it stands. Its registers cannot change while
/// it is blocked, so what is checked here is what is executed. `lent`: the descriptor that was installed for it.
pub fn is_native_allowed(request: &SyscallRequest, layout: &Layout, lent: Option<u64>) -> bool {
    if request.architecture != Architecture::X86_64 {
        return false;
    }
    let [address, length, third, flags, descriptor, _] = request.arguments;
    let in_range = || check_range(address, length, layout).is_ok();
    // The host looks at the lower half of a descriptor.
    let is_lent = |descriptor: u64| lent.is_some_and(|lent| lent == descriptor & 0xffff_ffff);
    match i64::try_from(request.number).unwrap_or(-1) {
        libc::SYS_munmap | libc::SYS_mprotect => in_range(),
        libc::SYS_madvise => in_range() && is_harmless_advice(u64::from(third as u32)),
        // One byte for each page.
        libc::SYS_mincore => {
            let pages = length.div_ceil(4096);
            in_range() && third.checked_add(pages).is_some_and(|end| end <= layout.max_address)
        }
        libc::SYS_mmap => {
            let flag = |bits: i32| u64::from(bits.cast_unsigned());
            let needed = flag(libc::MAP_PRIVATE | libc::MAP_FIXED);
            let anonymous = flags & flag(libc::MAP_ANONYMOUS) != 0;
            let harmless = libc::MAP_ANONYMOUS
                | libc::MAP_NORESERVE
                | libc::MAP_POPULATE
                | libc::MAP_STACK
                | libc::MAP_DENYWRITE;
            in_range()
                && flags & needed == needed
                && flags & !(needed | flag(harmless)) == 0
                && (anonymous || is_lent(descriptor))
        }
        libc::SYS_pread64 | libc::SYS_pwrite64 => {
            let (buffer, count) = (length, third);
            is_lent(address) && buffer.checked_add(count).is_some_and(|end| end <= layout.max_address)
        }
        libc::SYS_close => is_lent(address),
        libc::SYS_arch_prctl => [ARCH_SET_FS, ARCH_SET_GS].contains(&(address & 0xffff_ffff)),
        libc::SYS_sched_yield | libc::SYS_exit | libc::SYS_exit_group => true,
        _ => false,
    }
}

/// Whether the call ends the thread.
pub fn is_exit(request: &SyscallRequest) -> bool {
    [libc::SYS_exit, libc::SYS_exit_group].contains(&(request.number as i64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stub::SLOT_FD;

    #[test]
    fn residency_is_asked_and_answered_below_the_stub_only() {
        let end = 0x7000_0000_0000;
        let layout = Layout { min_address: 0x1_0000, max_address: end, vdso: None };
        let allowed = |arguments| {
            let number = libc::SYS_mincore.cast_unsigned();
            let request =
                SyscallRequest { number, arguments, ip: 0, architecture: Architecture::X86_64, hot: false };
            is_native_allowed(&request, &layout, None)
        };
        assert!(allowed([end - 8192, 8192, end - 2, 0, 0, 0]));
        assert!(!allowed([end - 8192, 8192, end - 1, 0, 0, 0]), "its answer would be written there");
        assert!(!allowed([end - 8192, 4097 + 4096, 0, 0, 0, 0]));
        assert!(!allowed([4096, 4096, u64::MAX, 0, 0, 0]));
    }

    #[test]
    fn a_file_is_mapped_as_it_stands_only_if_it_was_lent_for_this_call() {
        let end = 0x7000_0000_0000;
        let layout = Layout { min_address: 0x1_0000, max_address: end, vdso: None };
        let allowed = |address, flags: i32, descriptor, lent| {
            let number = libc::SYS_mmap.cast_unsigned();
            let arguments = [address, 4096, 1, u64::from(flags.cast_unsigned()), descriptor, 0];
            let request =
                SyscallRequest { number, arguments, ip: 0, architecture: Architecture::X86_64, hot: false };
            is_native_allowed(&request, &layout, lent)
        };
        let fixed = libc::MAP_PRIVATE | libc::MAP_FIXED;
        assert!(allowed(4096, fixed, 3, Some(3)));
        assert!(allowed(4096, fixed | libc::MAP_DENYWRITE, 3 | 1 << 40, Some(3)));
        assert!(!allowed(4096, fixed, 3, None));
        assert!(!allowed(4096, fixed, SLOT_FD.cast_unsigned().into(), Some(3)));
        assert!(!allowed(4096, libc::MAP_PRIVATE, 3, Some(3)), "anywhere");
        assert!(!allowed(4096, libc::MAP_SHARED | libc::MAP_FIXED, 3, Some(3)));
        assert!(!allowed(end, fixed, 3, Some(3)));
        assert!(allowed(4096, fixed | libc::MAP_ANONYMOUS, u64::MAX, None));
    }

    #[test]
    fn a_file_is_read_as_it_stands_only_if_it_was_lent_and_below_the_stub_only() {
        let end = 0x7000_0000_0000;
        let layout = Layout { min_address: 0x1_0000, max_address: end, vdso: None };
        let allowed = |number: libc::c_long, descriptor, buffer, count, lent| {
            let arguments = [descriptor, buffer, count, 0, 0, 0];
            let request = SyscallRequest {
                number: number.cast_unsigned(),
                arguments,
                ip: 0,
                architecture: Architecture::X86_64,
                hot: false,
            };
            is_native_allowed(&request, &layout, lent)
        };
        let read =
            |descriptor, buffer, count, lent| allowed(libc::SYS_pread64, descriptor, buffer, count, lent);
        assert!(read(3, 4097, 5, Some(3)) && read(3 | 1 << 40, end - 5, 5, Some(3)));
        assert!(!read(3, 4097, 5, None) && !read(4, 4097, 5, Some(3)));
        assert!(!read(SLOT_FD.cast_unsigned().into(), 4097, 5, Some(3)));
        assert!(
            !read(3, end - 5, 6, Some(3)) && !read(3, end, 1, Some(3)) && !read(3, 4096, u64::MAX, Some(3))
        );
        let close = |descriptor, lent| allowed(libc::SYS_close, descriptor, 0, 0, lent);
        assert!(close(3, Some(3)) && !close(3, None) && !close(SLOT_FD.cast_unsigned().into(), Some(3)));
        for other in [libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_preadv, libc::SYS_dup] {
            assert!(!allowed(other, 3, 4096, 4096, Some(3)), "{other}");
        }
    }
}
