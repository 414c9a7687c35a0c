//! An open regular file: the donated descriptor, used directly.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use abi::errno::SysResult;

use super::descriptors::Use;
use super::inode::GoferInode;
use crate::fs::host_files::Extent;
use crate::memory::HostFile;
use crate::vfs::{DataOnly, FileDescription, FileOps, MappingSource, WritableLoan};

/// See the module's text.
pub struct RegularFile {
    inode: Arc<GoferInode>,
    file: Arc<HostFile>,
    /// The same, open for nothing but reading, once that was needed.
    read_only: OnceLock<Option<Arc<HostFile>>>,
}

impl RegularFile {
    pub(super) fn open(inode: Arc<GoferInode>, file: Arc<HostFile>) -> Arc<dyn FileOps> {
        Arc::new(Self { inode, file, read_only: OnceLock::new() })
    }
}

impl FileOps for RegularFile {
    fn read(&self, offset: u64, buffer: &mut [u8], _file: &FileDescription) -> SysResult<usize> {
        self.file.read_at(offset, buffer)
    }

    fn write(&self, offset: u64, bytes: &[u8], _file: &FileDescription) -> SysResult<usize> {
        let count = self.file.write_at(offset, bytes)?;
        self.inode.note_changed();
        Ok(count)
    }

    fn append(&self, bytes: &[u8], _file: &FileDescription) -> SysResult<(usize, u64)> {
        let appended = self.inode.descriptor(Use::Append)?.append(bytes)?;
        self.inode.note_changed();
        Ok(appended)
    }

    fn seek(&self, offset: i64, whence: u32, _file: &FileDescription) -> Option<SysResult<u64>> {
        let extent = Extent::from_whence(whence)?;
        let offset = u64::try_from(offset).map_err(|_| abi::errno::ENXIO);
        Some(offset.and_then(|offset| self.file.find_extent(offset, extent)))
    }

    fn mapping(&self, _file: &FileDescription) -> SysResult<MappingSource> {
        Ok(MappingSource::Host(Arc::clone(&self.file)))
    }

    fn lend_for_reading(&self, _file: &FileDescription) -> Option<Arc<HostFile>> {
        self.read_only.get_or_init(|| self.inode.descriptor(Use::Lend).ok()).clone()
    }

    fn lent_identity(&self) -> Option<u64> {
        self.read_only.get()?.as_ref().map(|host| host.identity())
    }

    fn lend_for_writing(&self) -> Option<WritableLoan> {
        // As long as it is open for writing, the host is asked for the attributes anyway.
        self.inode.note_changed();
        Some(WritableLoan { host: Arc::clone(&self.file), counted: None })
    }

    fn sync(&self, data_only: DataOnly) -> SysResult<()> {
        self.file.synchronise(data_only)
    }

    fn allocate(&self, mode: u32, offset: u64, length: u64) -> SysResult<()> {
        self.file.change_space(mode, offset, length)?;
        self.inode.note_changed();
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
