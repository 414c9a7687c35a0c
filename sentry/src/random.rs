//! Random bytes, from the host's generator by a plain system call: `getrandom(2)`. The lock-down allows that one and no
//! device to read instead, which rules out libraries that look the C library's function up while the program runs.

use abi::errno::{EIO, SysResult};
use rustix::rand::{GetRandomFlags, getrandom};

/// Fills the buffer.
///
/// # Errors
/// `EIO`: the host has no generator.
pub fn fill(mut buffer: &mut [u8]) -> SysResult<()> {
    while !buffer.is_empty() {
        let filled = match getrandom(&mut *buffer, GetRandomFlags::empty()) {
            Err(rustix::io::Errno::INTR) => 0,
            // Up to 256 bytes come whole, more may be cut short by a signal.
            outcome => outcome.map_err(|_| EIO)?,
        };
        buffer = buffer.get_mut(filled..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_a_long_buffer_is_filled() {
        let mut bytes = vec![0; 70_000];
        fill(&mut bytes).unwrap();
        let zeroes = bytes.chunks(8).filter(|chunk| chunk.iter().all(|byte| *byte == 0)).count();
        assert_eq!(zeroes, 0, "eight zeroes in a row mean that nothing was written there");
    }
}
