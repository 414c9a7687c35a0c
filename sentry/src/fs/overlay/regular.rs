//! The bytes of a regular file: the lower file's until the first change, then a copy of them.

use std::sync::Arc;

use abi::errno::{ENXIO, SysResult};
use parking_lot::RwLock;

use super::node::Node;
use crate::fs::host_files::Extent;
use crate::fs::tmpfs::budget::Budget;
use crate::fs::tmpfs::content::{Content, INLINE_MAX};
use crate::memory::HostFile;

/// Bytes in flight while a file is copied up.
const COPY_CHUNK: u64 = 256 * 1024;

/// Where the bytes are.
pub struct Data {
    upper: RwLock<Option<Arc<Content>>>,
}

impl Data {
    /// Below.
    pub const fn lower() -> Self {
        Self { upper: RwLock::new(None) }
    }

    /// Here, and none yet.
    pub fn new(budget: &Arc<Budget>) -> Self {
        Self { upper: RwLock::new(Some(Arc::new(Content::new(Arc::clone(budget))))) }
    }

    /// Our own bytes, if they are not the lower file's any more.
    pub fn upper(&self) -> Option<Arc<Content>> {
        self.upper.read().clone()
    }

    /// Our own bytes; copies at most `limit` of the lower ones if they are not ours yet. Nothing is locked meanwhile: of two
    /// that copy at once, the first to be done wins.
    ///
    /// # Errors
    /// `ENOSPC`. The lower file's.
    pub fn copied_up(
        &self,
        budget: &Arc<Budget>,
        limit: u64,
        lower: impl FnOnce() -> SysResult<Arc<HostFile>>,
    ) -> SysResult<Arc<Content>> {
        if let Some(content) = self.upper() {
            return Ok(content);
        }
        let content = Arc::new(Content::new(Arc::clone(budget)));
        if limit > 0 {
            copy(&*lower()?, &content, limit)?;
        }
        let mut upper = self.upper.write();
        Ok(Arc::clone(upper.get_or_insert(content)))
    }
}

fn copy(from: &HostFile, to: &Content, limit: u64) -> SysResult<()> {
    let size = u64::try_from(from.status()?.st_size).unwrap_or(0).min(limit);
    let whole = size <= INLINE_MAX;
    let chunk = usize::try_from(COPY_CHUNK.min(size)).unwrap_or(0);
    let mut buffer = vec![0; chunk];
    let mut offset = 0;
    while offset < size {
        // Small files have no holes worth the question.
        let end = if whole { size } else { data_after(from, &mut offset, size)? };
        while offset < end {
            let room = usize::try_from(end - offset).unwrap_or(usize::MAX).min(buffer.len());
            let count = from.read_at(offset, buffer.get_mut(..room).unwrap_or_default())?;
            if count == 0 {
                // Shorter than it said: the rest is a hole.
                return to.set_size(size);
            }
            write_all(to, offset, buffer.get(..count).unwrap_or_default())?;
            offset += count as u64;
        }
    }
    to.set_size(size)
}

/// Moves `offset` to the next data, and returns where they end.
fn data_after(file: &HostFile, offset: &mut u64, size: u64) -> SysResult<u64> {
    match file.find_extent(*offset, Extent::Data) {
        Ok(begin) => *offset = begin.min(size),
        Err(ENXIO) => *offset = size,
        Err(error) => return Err(error),
    }
    if *offset == size { Ok(size) } else { Ok(file.find_extent(*offset, Extent::Hole)?.min(size)) }
}

fn write_all(to: &Content, mut offset: u64, mut bytes: &[u8]) -> SysResult<()> {
    while !bytes.is_empty() {
        let count = to.write(offset, bytes)?;
        offset += count as u64;
        bytes = bytes.get(count..).unwrap_or_default();
    }
    Ok(())
}

impl Node {
    /// The lower file, if the bytes are still there.
    pub(super) fn lower_file(&self) -> SysResult<Option<Arc<HostFile>>> {
        match (self.data()?.upper(), self.lower()) {
            (None, Some(lower)) => lower.backing().map(Some),
            _ => Ok(None),
        }
    }

    /// Bytes that may be changed.
    ///
    /// # Errors
    /// `ENOSPC`. The lower file's.
    pub(super) fn writable(&self, limit: u64) -> SysResult<Arc<Content>> {
        let data = self.data()?;
        if let Some(content) = data.upper() {
            return Ok(content);
        }
        self.prepare()?;
        data.copied_up(self.budget(), limit, || self.lower().ok_or(ENXIO)?.backing())
    }
}
