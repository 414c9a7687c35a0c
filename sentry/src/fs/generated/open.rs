//! Open files of generated file systems.

use std::any::Any;
use std::sync::Arc;

use abi::errno::SysResult;
use parking_lot::Mutex;

use super::node::Node;
use crate::fs::tmpfs::directory_seek;
use crate::task::{Credentials, Task, ThreadGroup};
use crate::vfs::{DirectoryEntry, FileDescription, FileOps, Location};

/// Who opened a file: what the file shows may depend on it.
pub struct Reader {
    /// As whom.
    pub credentials: Arc<Credentials>,
    /// Paths are shown from here.
    pub root: Location,
    /// The process.
    pub group: Arc<ThreadGroup>,
}

impl Reader {
    /// The task as a reader.
    pub fn of(task: &Task) -> Self {
        Self { credentials: task.credentials(), root: task.fs().root(), group: Arc::clone(&task.group) }
    }
}

/// An open text. It is made when it is read from its beginning and kept for the rest, so that each pass over the file
/// sees one moment, and rewinding sees a new one.
pub(super) struct TextFile {
    node: Arc<Node>,
    reader: Reader,
    text: Mutex<Option<Arc<[u8]>>>,
}

impl TextFile {
    pub(super) fn new(node: Arc<Node>, reader: Reader) -> Self {
        Self { node, reader, text: Mutex::new(None) }
    }

    fn text_at(&self, offset: u64) -> SysResult<Arc<[u8]>> {
        let kept = self.text.lock().clone();
        if let Some(text) = kept.filter(|_| offset != 0) {
            return Ok(text);
        }
        let text: Arc<[u8]> = self.node.text()?.read(&self.reader)?.into();
        let old = self.text.lock().replace(Arc::clone(&text));
        drop(old);
        Ok(text)
    }
}

impl FileOps for TextFile {
    fn read(&self, offset: u64, buffer: &mut [u8], _file: &FileDescription) -> SysResult<usize> {
        let text = self.text_at(offset)?;
        let rest = usize::try_from(offset).ok().and_then(|start| text.get(start..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(rest) {
            *to = *from;
        }
        Ok(count)
    }

    fn write(&self, offset: u64, bytes: &[u8], _file: &FileDescription) -> SysResult<usize> {
        self.node.text()?.write(offset, bytes, &self.reader)?;
        Ok(bytes.len())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open directory.
pub(super) struct DirectoryFile {
    node: Arc<Node>,
}

impl DirectoryFile {
    pub(super) const fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

impl FileOps for DirectoryFile {
    fn read_directory(
        &self,
        from: u64,
        _file: &FileDescription,
        emit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> SysResult<()> {
        let mut position = from;
        loop {
            let entries = self.node.list_entries(position)?;
            if entries.is_empty() {
                return Ok(());
            }
            for entry in &entries {
                let next = entry.position + 1;
                let kind = entry.kind.directory_entry_type();
                if !emit(DirectoryEntry { inode: entry.number, next, kind, name: &entry.name }) {
                    return Ok(());
                }
                position = next;
            }
        }
    }

    fn seek(&self, _offset: i64, whence: u32, _file: &FileDescription) -> Option<SysResult<u64>> {
        directory_seek(whence)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
