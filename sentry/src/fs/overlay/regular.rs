//! The bytes of a regular file: the lower file's until the first change, then a copy of them.

use std::sync::Arc;

use abi::errno::{ENXIO, SysResult};
use parking_lot::RwLock;

use super::node::Node;
use crate::fs::tmpfs::budget::Budget;
use crate::fs::tmpfs::content::Content;
use crate::fs::tmpfs::copying::copy_bytes;
use crate::memory::HostFile;

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
            copy_bytes(&*lower()?, &content, limit)?;
        }
        let mut upper = self.upper.write();
        Ok(Arc::clone(upper.get_or_insert(content)))
    }
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
