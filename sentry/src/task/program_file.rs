//! Opening a program: what `execve` checks of a file before it looks inside.

use std::sync::Arc;

use abi::errno::{ENOSYS, SysResult};

use super::Task;
use crate::vfs::FileDescription;

impl Task {
    /// Opens a file for execution (`man 2 execveat`).
    ///
    /// # Errors
    /// `EACCES`: not a regular file, not executable, or on a `noexec` mount; and those of path resolution.
    pub fn open_executable(
        &self,
        directory: i32,
        path: &[u8],
        flags: u32,
    ) -> SysResult<Arc<FileDescription>> {
        let _ = (directory, path, flags);
        Err(ENOSYS)
    }
}
