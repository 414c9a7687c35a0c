//! Opening a program: what `execve` checks of a file before it looks inside.

use std::sync::Arc;

use abi::errno::{EACCES, EINVAL, ELOOP, SysResult};

use super::Task;
use crate::vfs::{Access, FileDescription, FileKind, OpenRequest, WalkFlags, Walker, check_access};

impl Task {
    /// Opens a file for execution (`man 2 execveat`). Nobody can write to it while the description lives.
    ///
    /// # Errors
    /// `EACCES`: not a regular file, not executable, or on a `noexec` mount; `ETXTBSY`: open for writing; and those
    /// of path resolution.
    pub fn open_executable(
        &self,
        directory: i32,
        path: &[u8],
        flags: u32,
    ) -> SysResult<Arc<FileDescription>> {
        let empty_path = libc::AT_EMPTY_PATH.cast_unsigned();
        let no_follow = libc::AT_SYMLINK_NOFOLLOW.cast_unsigned();
        if flags & !(empty_path | no_follow) != 0 {
            return Err(EINVAL);
        }
        let mut walk = WalkFlags::empty();
        walk.set(WalkFlags::FOLLOW, flags & no_follow == 0);
        walk.set(WalkFlags::EMPTY_PATH, flags & empty_path != 0);
        // The kernel reads it, whether or not the task may.
        let request = OpenRequest { read: true, write: false, flags: 0 };
        let location = Walker::new(self, directory, path, walk)?.for_opening(request).finish()?;
        let attributes = location.inode().attributes()?;
        match attributes.kind {
            FileKind::Symlink => return Err(ELOOP),
            FileKind::Regular if !location.mount.forbids_execution() => {}
            _ => return Err(EACCES),
        }
        check_access(&self.credentials(), &attributes, Access::EXECUTE)?;
        let inode = Arc::clone(location.inode());
        let ops = Arc::clone(&inode).open(request, self)?;
        let file = FileDescription::new(ops, inode, Some(location), 0);
        file.deny_writing()?;
        Ok(file)
    }
}
