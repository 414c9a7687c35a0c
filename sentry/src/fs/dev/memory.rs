//! The devices with major number 1 that hold nothing: `null`, `zero`, `full`, `random`, `urandom` (`man 4 null`, `full`, `random`).

use std::any::Any;
use std::sync::Arc;

use abi::errno::{ENODEV, ENOSPC, ENXIO, SysResult};

use crate::vfs::{DeviceNumber, FileDescription, FileOps, MappingSource};

/// The major number of them all (`MEM_MAJOR`).
pub const MAJOR: u32 = 1;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryDevice {
    /// Takes everything, gives nothing.
    Null,
    /// Takes everything, gives zeros.
    Zero,
    /// Takes nothing, gives zeros.
    Full,
    /// Takes everything, gives random bytes. `random` and `urandom` differ only before the host has booted.
    Random,
}

impl MemoryDevice {
    /// The device with this number.
    ///
    /// # Errors
    /// `ENXIO`: another one.
    pub const fn from_number(number: DeviceNumber) -> SysResult<Self> {
        match (number.major, number.minor) {
            (MAJOR, 3) => Ok(Self::Null),
            (MAJOR, 5) => Ok(Self::Zero),
            (MAJOR, 7) => Ok(Self::Full),
            (MAJOR, 8 | 9) => Ok(Self::Random),
            _ => Err(ENXIO),
        }
    }

    /// An open file of it.
    pub fn file(self) -> Arc<dyn FileOps> {
        Arc::new(self)
    }
}

impl FileOps for MemoryDevice {
    fn read(&self, _offset: u64, buffer: &mut [u8], _file: &FileDescription) -> SysResult<usize> {
        match self {
            Self::Null => return Ok(0),
            Self::Zero | Self::Full => buffer.fill(0),
            Self::Random => crate::random::fill(buffer)?,
        }
        Ok(buffer.len())
    }

    fn write(&self, _offset: u64, bytes: &[u8], _file: &FileDescription) -> SysResult<usize> {
        match self {
            Self::Full => Err(ENOSPC),
            // What is written to `random` would be mixed into the host's pool, which is not the application's to stir.
            Self::Null | Self::Zero | Self::Random => Ok(bytes.len()),
        }
    }

    fn append(&self, bytes: &[u8], file: &FileDescription) -> SysResult<(usize, u64)> {
        Ok((self.write(0, bytes, file)?, 0))
    }

    /// Any position is 0 (`null_lseek` in Linux's `drivers/char/mem.c`).
    fn seek(&self, _offset: i64, _whence: u32, _file: &FileDescription) -> Option<SysResult<u64>> {
        Some(Ok(0))
    }

    fn mapping(&self, _file: &FileDescription) -> SysResult<MappingSource> {
        match self {
            Self::Zero => Ok(MappingSource::Zero),
            Self::Null | Self::Full | Self::Random => Err(ENODEV),
        }
    }

    fn allocate(&self, _mode: u32, _offset: u64, _length: u64) -> SysResult<()> {
        Err(ENODEV)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::{AnonymousInode, AnonymousKind};

    fn open(minor: u32) -> Arc<FileDescription> {
        let device = MemoryDevice::from_number(DeviceNumber { major: MAJOR, minor }).unwrap();
        FileDescription::new(device.file(), AnonymousInode::new(AnonymousKind::Other("test"), 0, 0), None, 2)
    }

    #[test]
    fn each_gives_and_takes_what_it_should() {
        for (minor, read, written) in [
            (3, Ok(0), Ok(64)),
            (5, Ok(64), Ok(64)),
            (7, Ok(64), Err(ENOSPC)),
            (8, Ok(64), Ok(64)),
            (9, Ok(64), Ok(64)),
        ] {
            let file = open(minor);
            let mut buffer = [1; 64];
            assert_eq!(file.ops.read(0, &mut buffer, &file), read);
            assert_eq!(file.ops.write(0, &[0; 64], &file), written);
            match minor {
                3 => assert_eq!(buffer, [1; 64]),
                5 | 7 => assert_eq!(buffer, [0; 64]),
                _ => assert!(buffer != [1; 64] && buffer != [0; 64]),
            }
        }
        assert!(matches!(MemoryDevice::from_number(DeviceNumber { major: 1, minor: 1 }), Err(ENXIO)));
    }
}
