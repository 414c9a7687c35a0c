//! Copying between the kernel and a task's memory. A user pointer is an allegation: it is copied
//! from once and never lent.

use std::sync::Arc;

use abi::errno::{E2BIG, EFAULT, ENAMETOOLONG, SysResult};
use platform::UserMemory;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Task;
use crate::vfs::PATH_MAX;

/// Pages are copied from in pieces that end at their boundaries, so that a string at the end of a mapping is found.
const PAGE: u64 = 4096;

impl Task {
    /// The memory of this task, for uses that outlive a borrow.
    pub fn user_memory(&self) -> Arc<dyn UserMemory> {
        self.user_memory.lock().clone()
    }

    /// Copies in; short if only a part can be read.
    ///
    /// # Errors
    /// `EFAULT` if nothing can.
    pub fn read_memory(&self, address: u64, buffer: &mut [u8]) -> SysResult<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.user_memory().read(address, buffer)
    }

    /// Copies in all of `buffer`.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read_exact(&self, address: u64, buffer: &mut [u8]) -> SysResult<()> {
        let wanted = buffer.len();
        if self.read_memory(address, buffer)? == wanted { Ok(()) } else { Err(EFAULT) }
    }

    /// Copies out; short if only a part can be written.
    ///
    /// # Errors
    /// `EFAULT` if nothing can.
    pub fn write_memory(&self, address: u64, bytes: &[u8]) -> SysResult<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        self.user_memory().write(address, bytes)
    }

    /// Copies out all of `bytes`.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn write_exact(&self, address: u64, bytes: &[u8]) -> SysResult<()> {
        if self.write_memory(address, bytes)? == bytes.len() { Ok(()) } else { Err(EFAULT) }
    }

    /// Copies in one plain value.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read_value<T: FromBytes + IntoBytes>(&self, address: u64) -> SysResult<T> {
        let mut value = T::new_zeroed();
        self.read_exact(address, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies out one plain value.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn write_value<T: IntoBytes + Immutable>(&self, address: u64, value: &T) -> SysResult<()> {
        self.write_exact(address, value.as_bytes())
    }

    /// Copies in an array of plain values. The caller has bounded `count`.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read_values<T: FromBytes + IntoBytes + Clone + Immutable>(
        &self,
        address: u64,
        count: usize,
    ) -> SysResult<Vec<T>> {
        let mut values = vec![T::new_zeroed(); count];
        self.read_exact(address, values.as_mut_slice().as_mut_bytes())?;
        Ok(values)
    }

    /// Copies in a zero-terminated string of at most `limit` bytes, without its terminator.
    ///
    /// # Errors
    /// `EFAULT`; `ENAMETOOLONG` if there is no terminator within the limit.
    pub fn read_string(&self, address: u64, limit: usize) -> SysResult<Vec<u8>> {
        let memory = self.user_memory();
        let mut string = Vec::new();
        // Most strings are short: begin with a small piece, and never cross a page in one copy.
        let mut piece = 256_u64;
        let mut at = address;
        while string.len() <= limit {
            let to_page_end = PAGE - at % PAGE;
            let length = usize::try_from(piece.min(to_page_end)).map_err(|_| EFAULT)?;
            let start = string.len();
            string.resize(start + length, 0);
            let count = memory.read(at, &mut string[start..])?;
            if let Some(end) = string[start..start + count].iter().position(|byte| *byte == 0) {
                string.truncate(start + end);
                return if string.len() <= limit { Ok(string) } else { Err(ENAMETOOLONG) };
            }
            if count < length {
                return Err(EFAULT);
            }
            at = at.checked_add(count as u64).ok_or(EFAULT)?;
            piece = PAGE;
        }
        Err(ENAMETOOLONG)
    }

    /// Copies in a path.
    ///
    /// # Errors
    /// `EFAULT`, `ENAMETOOLONG`.
    pub fn read_path(&self, address: u64) -> SysResult<Vec<u8>> {
        self.read_string(address, PATH_MAX - 1)
    }

    /// Copies in a null-terminated array of strings (`argv`, `envp`) of at most `limit` bytes altogether. A null
    /// array is an empty one.
    ///
    /// # Errors
    /// `EFAULT`, `E2BIG`.
    pub fn read_string_array(&self, address: u64, limit: usize) -> SysResult<Vec<Vec<u8>>> {
        let mut strings = Vec::new();
        let mut total = 0;
        let mut at = address;
        if address == 0 {
            return Ok(strings);
        }
        let mut window = Window { task: self, start: 0, bytes: Vec::new() };
        let mut pointers = Window { task: self, start: 0, bytes: Vec::new() };
        loop {
            let pointer = match pointers.bytes(at, 8).and_then(|bytes| bytes.try_into().ok()) {
                Some(bytes) => u64::from_ne_bytes(bytes),
                None => self.read_value(at)?,
            };
            if pointer == 0 {
                break;
            }
            let left = limit.saturating_sub(total);
            let string = match window.string(pointer) {
                Some(string) => string,
                None => self
                    .read_string(pointer, left.min(STRING_MAX))
                    .map_err(|error| if error == ENAMETOOLONG { E2BIG } else { error })?,
            };
            total += string.len() + 9;
            if total > limit {
                return Err(E2BIG);
            }
            strings.push(string);
            at = at.checked_add(8).ok_or(EFAULT)?;
        }
        Ok(strings)
    }
}

/// The last piece of memory that was copied in, at most to the end of its page: what is looked for next often lies in it.
struct Window<'a> {
    task: &'a Task,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// Whatever is there from an address on; empty if it cannot be read.
    fn rest(&mut self, address: u64) -> &[u8] {
        let inside = |at: u64| usize::try_from(at).is_ok_and(|at| at < self.bytes.len());
        if !address.checked_sub(self.start).is_some_and(inside) {
            self.start = address;
            self.bytes.resize(usize::try_from(PAGE - address % PAGE).unwrap_or_default(), 0);
            let count = self.task.read_memory(address, &mut self.bytes).unwrap_or_default();
            self.bytes.truncate(count);
        }
        let at = usize::try_from(address - self.start).unwrap_or(usize::MAX);
        self.bytes.get(at..).unwrap_or_default()
    }

    fn bytes(&mut self, address: u64, count: usize) -> Option<&[u8]> {
        self.rest(address).get(..count)
    }

    /// The string at an address, if it ends inside the window.
    fn string(&mut self, address: u64) -> Option<Vec<u8>> {
        let rest = self.rest(address);
        let end = rest.iter().position(|byte| *byte == 0)?;
        rest.get(..end).map(<[u8]>::to_vec)
    }
}

/// Longest single argument (`MAX_ARG_STRLEN`).
const STRING_MAX: usize = 32 * 4096 - 1;
