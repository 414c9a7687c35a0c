//! Open files of tmpfs.

use std::any::Any;
use std::sync::{Arc, Weak};

use abi::errno::{EINVAL, SysResult};

use super::node::Node;
use crate::fs::host_files::Extent;
use crate::memory::HostFile;
use crate::vfs::{
    CountedFile, DataOnly, DirectoryEntry, ExpectedRange, FileDescription, FileKind, FileOps, Inode,
    MappingSource, Over, WritableLoan,
};

/// Entries copied out of a directory at once, so that its lock is not held while they are handed on.
const BATCH: usize = 64;

/// An open regular file.
pub struct RegularFile {
    node: Arc<Node>,
}

impl RegularFile {
    pub(super) fn open(node: Arc<Node>) -> Arc<dyn FileOps> {
        Arc::new(Self { node })
    }
}

impl FileOps for RegularFile {
    fn read(&self, offset: u64, buffer: &mut [u8], file: &FileDescription) -> SysResult<usize> {
        let count = self.node.content()?.read(offset, buffer)?;
        self.node.metadata().lock().accessed(file);
        Ok(count)
    }

    fn write(&self, offset: u64, bytes: &[u8], _file: &FileDescription) -> SysResult<usize> {
        let count = self.node.content()?.write(offset, bytes)?;
        self.node.metadata().lock().modified();
        Ok(count)
    }

    fn append(&self, bytes: &[u8], _file: &FileDescription) -> SysResult<(usize, u64)> {
        let appended = self.node.content()?.append(bytes)?;
        self.node.metadata().lock().modified();
        Ok(appended)
    }

    fn seek(&self, offset: i64, whence: u32, _file: &FileDescription) -> Option<SysResult<u64>> {
        let extent = Extent::from_whence(whence)?;
        let offset = u64::try_from(offset).map_err(|_| abi::errno::ENXIO);
        Some(offset.and_then(|offset| self.node.content()?.find_extent(offset, extent)))
    }

    fn mapping(&self, file: &FileDescription) -> SysResult<MappingSource> {
        let host = self.node.content()?.host_file()?;
        self.node.metadata().lock().accessed(file);
        Ok(MappingSource::Host(host))
    }

    fn lend_for_reading(&self, file: &FileDescription) -> Option<Arc<HostFile>> {
        let host = self.node.content().ok()?.lend()?;
        self.node.metadata().lock().accessed(file);
        Some(host)
    }

    fn lend_for_writing(&self) -> Option<WritableLoan> {
        let host = self.node.content().ok()?.lend_for_writing()?;
        self.node.metadata().lock().modified();
        let counted: Arc<dyn CountedFile> = self.node.clone();
        Some(WritableLoan { host, counted: Some(counted) })
    }

    fn counts_writes(&self) -> bool {
        true
    }

    fn sync(&self, _data_only: DataOnly) -> SysResult<()> {
        Ok(())
    }

    fn allocate(&self, mode: u32, offset: u64, length: u64) -> SysResult<()> {
        self.node.content()?.allocate(mode, offset, length)?;
        self.node.metadata().lock().modified();
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl CountedFile for Node {
    fn expect_write(&self, offset: u64, length: u64) -> Option<ExpectedRange> {
        self.content().ok()?.expect_write(offset, length)
    }

    fn settle_write(&self, range: &ExpectedRange, over: Over) {
        if let Ok(content) = self.content() {
            content.settle_write(range, over);
        }
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

    fn parent_number(&self) -> SysResult<u64> {
        let parent: Weak<Node> = self.node.children()?.read().parent.clone();
        Ok(parent.upgrade().map_or(self.node.number(), |parent| parent.number()))
    }

    /// Entries from a position on: position after it, name, number, kind.
    #[expect(clippy::type_complexity, reason = "used once, right below")]
    fn batch(&self, from: u64) -> SysResult<Vec<(u64, Arc<[u8]>, u64, FileKind)>> {
        let children = self.node.children()?.read();
        let entries = children.names.from_position(from).take(BATCH);
        Ok(entries.map(|(next, name, node)| (next, Arc::clone(name), node.number(), node.kind())).collect())
    }
}

impl FileOps for Directory {
    fn read_directory(
        &self,
        from: u64,
        file: &FileDescription,
        emit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> SysResult<()> {
        self.node.metadata().lock().accessed(file);
        if !emit_dots(from, self.node.number(), self.parent_number()?, emit) {
            return Ok(());
        }
        let mut position = from;
        loop {
            let batch = self.batch(position)?;
            if batch.is_empty() {
                return Ok(());
            }
            for (next, name, inode, kind) in batch {
                let entry = DirectoryEntry { inode, next, kind: kind.directory_entry_type(), name: &name };
                if !emit(entry) {
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

/// Lists `.` and `..` as positions 0 and 1; false if `emit` wants no more.
pub fn emit_dots(
    from: u64,
    this: u64,
    parent: u64,
    emit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
) -> bool {
    let kind = FileKind::Directory.directory_entry_type();
    (from > 0 || emit(DirectoryEntry { inode: this, next: 1, kind, name: b"." }))
        && (from > 1 || emit(DirectoryEntry { inode: parent, next: 2, kind, name: b".." }))
}

/// A directory has positions, but no end to seek from (`dcache_dir_lseek` in Linux).
pub fn directory_seek(whence: u32) -> Option<SysResult<u64>> {
    match whence.cast_signed() {
        libc::SEEK_SET | libc::SEEK_CUR => None,
        _ => Some(Err(EINVAL)),
    }
}
