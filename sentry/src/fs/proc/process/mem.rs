//! `/proc/PID/mem` (`man 5 proc_pid_mem`): another process's memory as a file.
//!
//! Unlike Linux's, writes obey the protection of the pages.

use std::any::Any;
use std::sync::Arc;

use abi::errno::{EIO, SysResult};
use platform::UserMemory;

use super::Subject;
use crate::fs::generated::{Body, SpecialFile};
use crate::memory::MemoryManager;
use crate::task::Task;
use crate::vfs::{FileDescription, FileOps, OpenRequest};

/// The node's body.
pub(super) fn body(subject: &Subject) -> Body {
    Body::Special(Box::new(Memory(subject.clone())))
}

struct Memory(Subject);

/// The address space as it was when the file was opened: `execve` does not change what an open file shows.
struct OpenMemory {
    user: Arc<dyn UserMemory>,
    space: Arc<MemoryManager>,
}

impl SpecialFile for Memory {
    fn open(&self, _request: OpenRequest, task: &Task) -> SysResult<Arc<dyn FileOps>> {
        self.0.check_access(&task.credentials(), &task.group)?;
        let target = self.0.task()?;
        Ok(Arc::new(OpenMemory { user: target.user_memory(), space: target.memory() }))
    }
}

impl FileOps for OpenMemory {
    fn read(&self, offset: u64, buffer: &mut [u8], _file: &FileDescription) -> SysResult<usize> {
        if self.space.users() == 0 || buffer.is_empty() {
            return Ok(0);
        }
        self.user.read(offset, buffer).map_err(|_| EIO)
    }

    fn write(&self, offset: u64, bytes: &[u8], _file: &FileDescription) -> SysResult<usize> {
        if self.space.users() == 0 || bytes.is_empty() {
            return Ok(0);
        }
        self.user.write(offset, bytes).map_err(|_| EIO)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
