//! Copying to and from stub processes with `process_vm_readv(2)` and `process_vm_writev(2)`.
//!
//! [`Space`] is one address space: it knows the live threads in it, because the host wants a thread
//! id, and that of an ended process leader leads nowhere. It implements [`UserMemory`]; any thread of the sentry may use it.
//!
//! Invariant: a thread leaves [`Space`] when the worker has reaped it. Between the reaping and the
//! leaving a copy from another thread could meet a reused id; ids are only reused after all others, and in
//! the sentry's pid namespace there are only stubs of the same sandbox.

use abi::errno::{self, Errno};
use parking_lot::RwLock;

use super::requests::last_error;
use crate::UserMemory;

/// One address space.
pub(super) struct Space {
    max_address: u64,
    threads: RwLock<Vec<i32>>,
}

enum Direction {
    Read,
    Write,
}

impl Space {
    pub(super) fn new(max_address: u64) -> Self {
        Self { max_address, threads: RwLock::new(Vec::new()) }
    }

    pub(super) fn add(&self, tid: i32) {
        self.threads.write().push(tid);
    }

    pub(super) fn remove(&self, tid: i32) {
        self.threads.write().retain(|&member| member != tid);
    }

    fn copy(
        &self,
        address: u64,
        local: *mut u8,
        length: usize,
        direction: &Direction,
    ) -> Result<usize, Errno> {
        if length == 0 {
            return Ok(0);
        }
        let room = self.max_address.checked_sub(address).filter(|&room| room > 0).ok_or(errno::EFAULT)?;
        let length = length.min(usize::try_from(room).unwrap_or(usize::MAX));
        let threads = self.threads.read();
        for &tid in threads.iter() {
            match transfer(tid, address, local, length, direction) {
                Err(errno::ESRCH) => {}
                Err(_) | Ok(0) => return Err(errno::EFAULT),
                Ok(count) => return Ok(count),
            }
        }
        Err(errno::EFAULT)
    }
}

impl UserMemory for Space {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.copy(address, buffer.as_mut_ptr(), buffer.len(), &Direction::Read)
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<usize, Errno> {
        self.copy(address, bytes.as_ptr().cast_mut(), bytes.len(), &Direction::Write)
    }

    fn compare_exchange_u32(&self, _address: u64, _expected: u32, _new: u32) -> Result<u32, Errno> {
        Err(errno::EOPNOTSUPP)
    }
}

/// One host call. `local` must be valid for `length` bytes: writable to read into, readable to write from;
/// the callers above derive it from slices.
fn transfer(
    tid: i32,
    address: u64,
    local: *mut u8,
    length: usize,
    direction: &Direction,
) -> Result<usize, Errno> {
    let near = libc::iovec { iov_base: local.cast(), iov_len: length };
    let far = libc::iovec { iov_base: std::ptr::without_provenance_mut(address as usize), iov_len: length };
    // SAFETY: `near` describes a live slice of `length` bytes, written only for `Direction::Read`, for
    // which it comes from a mutable slice. `far` is judged by the kernel in the other process.
    let count = unsafe {
        match direction {
            Direction::Read => libc::process_vm_readv(tid, &raw const near, 1, &raw const far, 1, 0),
            Direction::Write => libc::process_vm_writev(tid, &raw const near, 1, &raw const far, 1, 0),
        }
    };
    usize::try_from(count).map_err(|_| last_error())
}

/// Writes `bytes` to a stub's reserved memory.
pub(super) fn write_all(tid: i32, address: u64, bytes: &[u8]) -> Result<(), Errno> {
    match transfer(tid, address, bytes.as_ptr().cast_mut(), bytes.len(), &Direction::Write)? {
        count if count == bytes.len() => Ok(()),
        _ => Err(errno::EFAULT),
    }
}

/// Reads `buffer` from a stub's reserved memory, which the application can write too: hostile.
pub(super) fn read_all(tid: i32, address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
    match transfer(tid, address, buffer.as_mut_ptr(), buffer.len(), &Direction::Read)? {
        count if count == buffer.len() => Ok(()),
        _ => Err(errno::EFAULT),
    }
}
