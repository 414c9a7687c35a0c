//! A memory file as memory of the sentry's own, so that a small transfer needs no call of the host.
//!
//! Key type: [`Window`]. The bytes may be shared with applications that have mapped the file: they change at any time, and nothing here
//! relies on them. Invariant, which callers keep: only pages that the file has are touched. Beyond the file's end the host would
//! end the sentry (`SIGBUS`, `man 2 mmap`), and a hole would become memory that nobody has accounted for. So the file must
//! be one that nobody else can cut, made by the sentry itself.

use std::os::fd::{AsRawFd, BorrowedFd};

use abi::errno::{self, Errno};
use memmap2::{MmapOptions, MmapRaw};

/// The beginning of a file, mapped shared.
#[derive(Debug)]
pub struct Window {
    memory: MmapRaw,
}

impl Window {
    /// Maps so many bytes from the file's beginning; the file may be shorter for now.
    ///
    /// # Errors
    /// Those of `mmap(2)`.
    pub fn new(file: BorrowedFd<'_>, length: usize) -> Result<Self, Errno> {
        let mapped = MmapOptions::new().len(length).map_raw(file.as_raw_fd());
        let error = |error: std::io::Error| error.raw_os_error().map_or(errno::EINVAL, Errno::from_raw);
        Ok(Self { memory: mapped.map_err(error)? })
    }

    /// How many bytes it shows.
    pub fn length(&self) -> usize {
        self.memory.len()
    }

    fn pointer(&self, at: usize, length: usize) -> Option<*mut u8> {
        let inside = at.checked_add(length).is_some_and(|end| end <= self.memory.len());
        inside.then(|| self.memory.as_mut_ptr().wrapping_add(at))
    }

    /// Copies bytes out. Returns whether they lie inside.
    pub fn read(&self, at: usize, buffer: &mut [u8]) -> bool {
        let Some(from) = self.pointer(at, buffer.len()) else { return false };
        // SAFETY: the source lies inside our mapping, which lives as long as `self`; the destination is a Rust slice, so the two
        // are disjoint. Bytes that an application changes meanwhile may be torn, as in any read of shared memory.
        unsafe { std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), buffer.len()) };
        true
    }

    /// Copies bytes in. Returns whether they lie inside.
    pub fn write(&self, at: usize, bytes: &[u8]) -> bool {
        let Some(to) = self.pointer(at, bytes.len()) else { return false };
        // SAFETY: as in `read`, the other way.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn shows_the_file_and_nothing_outside() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 4096]).unwrap();
        let window = Window::new(file.as_fd(), 8192).unwrap();
        let mut buffer = [0; 2];
        assert!(window.read(4094, &mut buffer));
        assert_eq!(buffer, [7, 7]);
        assert!(window.write(0, b"ab"));
        let mut bytes = Vec::new();
        std::io::Seek::rewind(&mut file).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!((&bytes[..3], bytes.len()), (&b"ab\x07"[..], 4096));
        for (at, length) in [(8191, 2), (8192, 1), (usize::MAX, 1), (usize::MAX, 2)] {
            assert!(!window.read(at, &mut vec![0; length]));
            assert!(!window.write(at, &vec![0; length]));
        }
    }
}
