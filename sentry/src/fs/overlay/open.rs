//! Open files of the overlay. They go to where the bytes are *now*: a description opened before the first write
//! sees the copy afterwards. Mappings made before it keep showing the lower file, as Linux's overlayfs has it.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use abi::errno::{EINVAL, ENXIO, SysResult};

use super::node::Node;
use crate::fs::host_files::Extent;
use crate::fs::tmpfs::{directory_seek, emit_dots};
use crate::memory::HostFile;
use crate::vfs::{DataOnly, DirectoryEntry, FileDescription, FileOps, MappingSource, NamesFor, WritableLoan};

/// Entries copied out of a directory at once.
const BATCH: usize = 64;

/// An open regular file.
pub struct RegularFile {
    node: Arc<Node>,
    /// The lower file, kept open as long as this description.
    lower: OnceLock<Arc<HostFile>>,
}

impl RegularFile {
    /// Opens the lower file if the bytes are there and will be read.
    pub(super) fn open(node: Arc<Node>, read: bool) -> SysResult<Arc<dyn FileOps>> {
        let file = Self { node, lower: OnceLock::new() };
        if read && file.node.data()?.upper().is_none() {
            file.lower()?;
        }
        Ok(Arc::new(file))
    }

    fn lower(&self) -> SysResult<Arc<HostFile>> {
        if let Some(file) = self.lower.get() {
            return Ok(Arc::clone(file));
        }
        let file = self.node.lower().ok_or(EINVAL)?.backing()?;
        Ok(Arc::clone(self.lower.get_or_init(|| file)))
    }
}

impl FileOps for RegularFile {
    fn read(&self, offset: u64, buffer: &mut [u8], file: &FileDescription) -> SysResult<usize> {
        let count = match self.node.data()?.upper() {
            Some(content) => content.read(offset, buffer)?,
            None => self.lower()?.read_at(offset, buffer)?,
        };
        self.node.accessed(file);
        Ok(count)
    }

    fn write(&self, offset: u64, bytes: &[u8], _file: &FileDescription) -> SysResult<usize> {
        let count = self.node.writable(u64::MAX)?.write(offset, bytes)?;
        self.node.modified();
        Ok(count)
    }

    fn append(&self, bytes: &[u8], _file: &FileDescription) -> SysResult<(usize, u64)> {
        let appended = self.node.writable(u64::MAX)?.append(bytes)?;
        self.node.modified();
        Ok(appended)
    }

    fn seek(&self, offset: i64, whence: u32, _file: &FileDescription) -> Option<SysResult<u64>> {
        let extent = Extent::from_whence(whence)?;
        let offset = u64::try_from(offset).map_err(|_| ENXIO);
        Some(offset.and_then(|offset| match self.node.data()?.upper() {
            Some(content) => content.find_extent(offset, extent),
            None => self.lower()?.find_extent(offset, extent),
        }))
    }

    fn mapping(&self, file: &FileDescription) -> SysResult<MappingSource> {
        let upper =
            if file.writable { Some(self.node.writable(u64::MAX)?) } else { self.node.data()?.upper() };
        let host = match upper {
            Some(content) => content.host_file()?,
            None => self.lower()?,
        };
        self.node.accessed(file);
        Ok(MappingSource::Host(host))
    }

    fn lend_for_reading(&self, file: &FileDescription) -> Option<Arc<HostFile>> {
        let host = match self.node.data().ok()?.upper() {
            Some(content) => content.lend()?,
            None => self.lower().ok()?,
        };
        self.node.accessed(file);
        Some(host)
    }

    fn lend_for_writing(&self) -> Option<WritableLoan> {
        let content = self.node.writable(u64::MAX).ok()?;
        let host = content.lend_for_writing()?;
        self.node.modified();
        Some(WritableLoan { host, counted: Some(content) })
    }

    fn counts_writes(&self) -> bool {
        true
    }

    fn sync(&self, _data_only: DataOnly) -> SysResult<()> {
        Ok(())
    }

    fn allocate(&self, mode: u32, offset: u64, length: u64) -> SysResult<()> {
        self.node.writable(u64::MAX)?.allocate(mode, offset, length)?;
        self.node.modified();
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open directory.
pub struct Directory {
    node: Arc<Node>,
}

impl Directory {
    pub(super) fn open(node: Arc<Node>) -> Arc<dyn FileOps> {
        Arc::new(Self { node })
    }
}

impl FileOps for Directory {
    fn read_directory(
        &self,
        from: u64,
        file: &FileDescription,
        emit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> SysResult<()> {
        self.node.load(NamesFor::Listing)?;
        self.node.accessed(file);
        if !emit_dots(from, self.node.number(), self.node.parent_number()?, emit) {
            return Ok(());
        }
        let mut position = from;
        loop {
            let batch = self.node.visible_from(position, BATCH)?;
            if batch.is_empty() {
                return Ok(());
            }
            for (next, entry) in batch {
                let shown = DirectoryEntry { inode: entry.inode, next, kind: entry.kind, name: &entry.name };
                if !emit(shown) {
                    return Ok(());
                }
                position = next;
            }
        }
    }

    fn seek(&self, _offset: i64, whence: u32, _file: &FileDescription) -> Option<SysResult<u64>> {
        directory_seek(whence)
    }

    fn sync(&self, _data_only: DataOnly) -> SysResult<()> {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
