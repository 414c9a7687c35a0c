//! Descriptors of one inode's file, shared by all who have it open.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use abi::errno::{ELOOP, ENXIO, SysResult};
use wire::{Access, OpenFlags, Opened};

use super::directory::Directory;
use super::file::RegularFile;
use super::inode::GoferInode;
use crate::memory::HostFile;
use crate::vfs::{FileKind, FileOps, OpenRequest};

/// What a shared descriptor of an inode is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// `O_RDONLY`
    Read,
    /// `O_RDWR`: also for files opened write-only, whose mappings the host wants readable.
    Write,
    /// `O_RDWR | O_APPEND`
    Append,
    /// `O_PATH`: for `fstat` alone.
    Status,
    /// `O_RDONLY`, and nothing else will do.
    Lend,
}

impl GoferInode {
    pub(super) fn note_created(&self, file: Arc<HostFile>) {
        self.hold_for_open(Use::Write, file);
    }

    fn hold_for_open(&self, purpose: Use, file: Arc<HostFile>) {
        let mut state = self.state.lock();
        if let Some(slot) = state.descriptors.get_mut(purpose as usize) {
            *slot = Arc::downgrade(&file);
        }
        let old = state.created.replace(file);
        drop(state);
        drop(old);
    }

    /// A name does not stand for the inode any more: descriptors kept for later are let go.
    pub(super) fn forget_descriptors(&self) {
        let files = self.state.lock().descriptors.clone();
        for file in files.iter().filter_map(Weak::upgrade) {
            self.tree.forget(&file);
        }
    }

    /// A descriptor for this use: one that is open, or a new one.
    ///
    /// # Errors
    /// The gofer's.
    pub(super) fn descriptor(&self, purpose: Use) -> SysResult<Arc<HostFile>> {
        if let Some(file) = self.live_descriptor(purpose) {
            return Ok(file);
        }
        if purpose == Use::Read
            && self.tree.is_exclusive()
            && let Some(file) = self.open_in_order()
        {
            self.tree.guess.opened();
            return Ok(file);
        }
        let (access, flags) = purpose.access();
        let descriptor = if self.handle.get().is_some() {
            self.tree.client.open(self.handle()?, access, flags)?
        } else {
            match self.resolve(Some((access, flags)))? {
                Opened::Descriptor(descriptor) => descriptor,
                Opened::Failed(error) => return Err(error),
                Opened::None => self.tree.client.open(self.handle()?, access, flags)?,
            }
        };
        if purpose == Use::Read {
            self.tree.guess.opened();
        }
        Ok(self.note_descriptor(purpose, descriptor))
    }

    /// Shares a new descriptor with whoever opens the inode next.
    pub(super) fn note_descriptor(&self, purpose: Use, descriptor: OwnedFd) -> Arc<HostFile> {
        let file = Arc::new(HostFile::new(descriptor));
        let mut state = self.state.lock();
        if let Some(slot) = state.descriptors.get_mut(purpose as usize) {
            *slot = Arc::downgrade(&file);
        }
        drop(state);
        self.tree.keep(purpose, &file);
        file
    }

    /// The lookup that found the inode opened it, too.
    pub(super) fn note_opened(&self, purpose: Use, file: Arc<HostFile>) {
        self.tree.keep(purpose, &file);
        if self.tree.is_exclusive() && purpose == Use::Read {
            let mut state = self.state.lock();
            if let Some(slot) = state.descriptors.first_mut() {
                *slot = Arc::downgrade(&file);
            }
            state.guessed = true;
        } else {
            self.hold_for_open(purpose, file);
        }
    }

    /// Whether opening the file for this use needs nobody.
    pub(super) fn is_open(&self, purpose: Use) -> bool {
        let state = self.state.lock();
        let at =
            |which: Use| state.descriptors.get(which as usize).is_some_and(|file| file.strong_count() > 0);
        at(purpose) || purpose == Use::Read && at(Use::Write)
    }

    pub(super) fn live_descriptor(&self, purpose: Use) -> Option<Arc<HostFile>> {
        let mut state = self.state.lock();
        let at = |which: Use| state.descriptors.get(which as usize).and_then(Weak::upgrade);
        let file = match purpose {
            Use::Read => at(Use::Read).or_else(|| at(Use::Write)),
            Use::Lend => at(Use::Read).or_else(|| at(Use::Lend)),
            Use::Write | Use::Append | Use::Status => at(purpose),
        };
        if file.is_some() && purpose != Use::Append {
            if std::mem::take(&mut state.guessed) {
                self.tree.guess.opened();
            }
            let created = state.created.take();
            let is_early = purpose == Use::Read && std::mem::take(&mut state.early);
            drop(state);
            drop(created);
            if is_early && let Some(file) = &file {
                self.note_wanted(file);
            }
        }
        file
    }

    /// A descriptor that tells the attributes, for a file of a watched tree that is asked for them again.
    pub(super) fn status_descriptor(&self) -> SysResult<Option<Arc<HostFile>>> {
        let is_shared_file = self.kind == FileKind::Regular && !self.tree.is_exclusive();
        if !is_shared_file || !std::mem::replace(&mut self.state.lock().was_asked, true) {
            return Ok(None);
        }
        if !self.tree.watch.is_active() {
            return Ok(None);
        }
        let descriptor = self.tree.client.stat_descriptor(self.handle()?)?;
        Ok(Some(self.note_descriptor(Use::Status, descriptor)))
    }

    /// Opens the file; which task asks makes no difference.
    ///
    /// # Errors
    /// `ELOOP`, `ENXIO`. The gofer's.
    pub fn open_for(&self, request: OpenRequest) -> SysResult<Arc<dyn FileOps>> {
        match self.kind {
            FileKind::Regular => self.open_regular(request),
            FileKind::Directory => Ok(Directory::open(self.me())),
            FileKind::Symlink => Err(ELOOP),
            _ => Err(ENXIO),
        }
    }

    /// Opens a regular file. `O_DIRECT` is not passed on: the sentry's buffers are not aligned for it.
    fn open_regular(&self, request: OpenRequest) -> SysResult<Arc<dyn FileOps>> {
        let synchronous = OpenFlags::from_bits_truncate(request.flags) & (OpenFlags::SYNC | OpenFlags::DSYNC);
        let file = if request.write && !synchronous.is_empty() {
            // `O_SYNC` belongs to the host's description, so this one is not shared.
            let access = Access::ReadWrite;
            Arc::new(HostFile::new(self.tree.client.open(self.handle()?, access, synchronous)?))
        } else {
            self.descriptor(if request.write { Use::Write } else { Use::Read })?
        };
        Ok(RegularFile::open(self.me(), file))
    }
}
