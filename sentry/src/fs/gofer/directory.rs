//! An open directory: listings in batches, as the gofer sends them.
//!
//! Positions are the host's cookies, so that a listing goes on where it stopped whatever changed meanwhile;
//! `.` and `..` have positions of their own that no host file system uses.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::errno::SysResult;
use parking_lot::Mutex;
use wire::{DirEntry, ReadDirFlags};

use super::LISTED_MAX;
use super::inode::GoferInode;
use crate::fs::tmpfs::directory_seek;
use crate::vfs::{DataOnly, DirectoryEntry, FileDescription, FileKind, FileOps, ListedName, NamesFor};

/// After `.`; the largest positions are left to ext4's end marker.
const AFTER_DOT: u64 = i64::MAX.cast_unsigned() - 0x1001;
/// After `..`.
const AFTER_DOTS: u64 = AFTER_DOT + 1;

/// See the module's text.
pub struct Directory {
    inode: Arc<GoferInode>,
    batch: Mutex<Option<Arc<Batch>>>,
}

/// Entries that the gofer sent together.
struct Batch {
    /// The cookie they were asked for with.
    from: u64,
    entries: Vec<DirEntry>,
    /// Nothing follows.
    end: bool,
}

impl Directory {
    pub(super) fn open(inode: Arc<GoferInode>) -> Arc<dyn FileOps> {
        Arc::new(Self { inode, batch: Mutex::new(None) })
    }

    /// Entries after a cookie, and the index of the first of them in the batch.
    fn after(&self, cookie: u64) -> SysResult<(Arc<Batch>, usize)> {
        let current = self.batch.lock().clone();
        // Position 0 begins anew, as `rewinddir` wants it.
        if let Some(batch) = current.filter(|_| cookie != 0)
            && let Some(index) = batch.index_after(cookie)
        {
            return Ok((batch, index));
        }
        let batch = Arc::new(self.inode.list(cookie, true)?);
        *self.batch.lock() = Some(Arc::clone(&batch));
        Ok((batch, 0))
    }
}

impl Batch {
    /// Where to go on after a cookie, if the answer is in this batch.
    fn index_after(&self, cookie: u64) -> Option<usize> {
        if cookie == self.from {
            return Some(0);
        }
        let index = self.entries.iter().position(|entry| entry.cookie == cookie)? + 1;
        (index < self.entries.len() || self.end).then_some(index)
    }
}

impl GoferInode {
    pub(super) fn all_names(&self, next: NamesFor) -> SysResult<Vec<ListedName>> {
        let attributes = next == NamesFor::Listing;
        let mut names = Vec::new();
        let mut cookie = 0;
        loop {
            let batch = self.list(cookie, attributes)?;
            let Some(last) = batch.entries.last() else { return Ok(names) };
            cookie = last.cookie;
            names.extend(batch.entries.into_iter().map(|entry| ListedName {
                name: entry.name.into(),
                inode: entry.ino,
                kind: entry.kind.dirent_type(),
            }));
            if batch.end {
                return Ok(names);
            }
        }
    }

    fn list(&self, cookie: u64, with_attributes: bool) -> SysResult<Batch> {
        let exclusive = self.tree.is_exclusive();
        let flags =
            if exclusive && with_attributes { ReadDirFlags::ATTRIBUTES } else { ReadDirFlags::empty() };
        let changes = self.count_of_changes();
        let (mut entries, end) = self.tree.client.read_dir(self.handle()?, cookie, flags)?;
        self.note_listed(cookie, &entries);
        for entry in &mut entries {
            match entry.attr.take() {
                Some(attr) => {
                    entry.ino = self.tree.number((attr.device, attr.ino));
                    if exclusive && self.living_child(&entry.name).is_none() {
                        self.prime(&entry.name, attr, changes);
                    }
                }
                None => entry.ino = self.tree.number((self.device(), entry.ino)),
            }
        }
        Ok(Batch { from: cookie, entries, end })
    }
}

impl GoferInode {
    /// Remembers in which order files are listed.
    fn note_listed(&self, cookie: u64, entries: &[DirEntry]) {
        let room = LISTED_MAX.saturating_sub(self.tree.listed.load(Ordering::Relaxed));
        let more = self.sequence.note(cookie, entries, room);
        self.tree.listed.fetch_add(more.cast_unsigned(), Ordering::Relaxed);
    }
}

impl FileOps for Directory {
    fn read_directory(
        &self,
        from: u64,
        file: &FileDescription,
        emit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> SysResult<()> {
        let kind = FileKind::Directory.directory_entry_type();
        let inode = self.inode.number();
        if from == 0 && !emit(DirectoryEntry { inode, next: AFTER_DOT, kind, name: b"." }) {
            return Ok(());
        }
        if from == 0 || from == AFTER_DOT {
            let parent = file.location.as_ref().and_then(|place| place.dentry.parent());
            let inode = match parent {
                Some(parent) => match parent.inode().as_any().downcast_ref::<GoferInode>() {
                    // Of a shared tree, attributes would have to be asked for again; the number never changes.
                    Some(parent) => parent.number(),
                    None => parent.inode().attributes()?.inode,
                },
                None => inode,
            };
            if !emit(DirectoryEntry { inode, next: AFTER_DOTS, kind, name: b".." }) {
                return Ok(());
            }
        }
        let mut cookie = if matches!(from, AFTER_DOT | AFTER_DOTS) { 0 } else { from };
        loop {
            let (batch, index) = self.after(cookie)?;
            for entry in batch.entries.get(index..).unwrap_or_default() {
                let entry = DirectoryEntry {
                    inode: entry.ino,
                    next: entry.cookie,
                    kind: entry.kind.dirent_type(),
                    name: &entry.name,
                };
                cookie = entry.next;
                if !emit(entry) {
                    return Ok(());
                }
            }
            // An empty batch that is not the end would never end.
            if batch.end || batch.entries.is_empty() {
                return Ok(());
            }
        }
    }

    fn seek(&self, _offset: i64, whence: u32, _file: &FileDescription) -> Option<SysResult<u64>> {
        directory_seek(whence)
    }

    fn sync(&self, _data_only: DataOnly) -> SysResult<()> {
        // The gofer gives no descriptors of directories; names are as safe as the host makes them.
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
