//! `pidfd`: a process as a file (`man 2 pidfd_open`).

use std::any::Any;
use std::sync::Arc;

use abi::errno::{EBADF, SysResult};

use crate::task::{Credentials, ThreadGroup};
use crate::vfs::{AnonymousInode, AnonymousKind, FileDescription, FileOps};
use crate::wait::{PollEvents, WaitQueue};

struct PidFile {
    group: Arc<ThreadGroup>,
}

/// A file for a process. `flags` are status flags (`O_NONBLOCK`).
pub fn new_pidfd(group: Arc<ThreadGroup>, flags: u32, credentials: &Credentials) -> Arc<FileDescription> {
    let inode = AnonymousInode::new(AnonymousKind::Other("pidfd"), credentials.fsuid, credentials.fsgid);
    FileDescription::new(Arc::new(PidFile { group }), inode, None, flags | libc::O_RDWR.cast_unsigned())
}

/// The process behind a descriptor.
///
/// # Errors
/// `EBADF`: it is none.
pub fn process_of(file: &FileDescription) -> SysResult<Arc<ThreadGroup>> {
    file.ops.as_any().downcast_ref::<PidFile>().map(|file| Arc::clone(&file.group)).ok_or(EBADF)
}

impl FileOps for PidFile {
    fn is_seekable(&self) -> bool {
        false
    }

    fn poll(&self, _file: &FileDescription) -> PollEvents {
        if self.group.zombie_status().is_some() { PollEvents::READABLE } else { PollEvents::empty() }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.group.exited)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
