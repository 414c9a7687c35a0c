//! `lseek` (`man 2 lseek`).

use abi::errno::{EINVAL, ENXIO, EOVERFLOW, ESPIPE, SysResult};

use super::{FileDescription, FileKind};

const SEEK_SET: u32 = libc::SEEK_SET.cast_unsigned();
const SEEK_CUR: u32 = libc::SEEK_CUR.cast_unsigned();
const SEEK_END: u32 = libc::SEEK_END.cast_unsigned();
const SEEK_DATA: u32 = libc::SEEK_DATA.cast_unsigned();
const SEEK_HOLE: u32 = libc::SEEK_HOLE.cast_unsigned();

impl FileDescription {
    /// Moves the position; returns the new one.
    ///
    /// # Errors
    /// `ESPIPE`, `EINVAL`, `ENXIO`, `EOVERFLOW`.
    pub fn seek(&self, offset: i64, whence: u32) -> SysResult<u64> {
        if !self.ops.is_seekable() {
            return Err(ESPIPE);
        }
        let target = match self.ops.seek(offset, whence, self) {
            Some(target) => target?,
            // Relative moves are computed with the position locked: two of them add up.
            None if whence == SEEK_CUR => {
                let mut position = self.position.lock();
                *position = moved(*position, offset)?;
                return Ok(*position);
            }
            None => self.seek_target(offset, whence)?,
        };
        *self.position.lock() = target;
        Ok(target)
    }

    fn seek_target(&self, offset: i64, whence: u32) -> SysResult<u64> {
        let absolute = || u64::try_from(offset).map_err(|_| EINVAL);
        if self.inode.kind() == FileKind::Directory && whence != SEEK_SET {
            return Err(EINVAL);
        }
        match whence {
            SEEK_SET => absolute(),
            SEEK_END => moved(self.inode.attributes()?.size, offset),
            // A file system that knows of no holes: all is data, and a hole is at the end.
            SEEK_DATA | SEEK_HOLE => {
                let size = self.inode.attributes()?.size;
                let offset = u64::try_from(offset).map_err(|_| ENXIO)?;
                if offset >= size {
                    return Err(ENXIO);
                }
                Ok(if whence == SEEK_DATA { offset } else { size })
            }
            _ => Err(EINVAL),
        }
    }
}

fn moved(from: u64, offset: i64) -> SysResult<u64> {
    let from = i64::try_from(from).map_err(|_| EOVERFLOW)?;
    let target = from.checked_add(offset).ok_or(EOVERFLOW)?;
    u64::try_from(target).map_err(|_| EINVAL)
}
