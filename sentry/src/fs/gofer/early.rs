//! Files that are opened ahead of being asked for: which, and what becomes of them until somebody wants them.
//!
//! A file that was opened ahead is an ordinary inode with an open descriptor, found by its name like any other; only nobody
//! holds it but the tree's [`Spares`]. Who may open it is judged when somebody does. What makes a remembered name untrue
//! (in an exclusive tree changes by this kernel, in a watched one the host's events) lets go of the descriptor, too. In a
//! shared tree that is not watched nothing is opened ahead.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use wire::{Early, Known, Name, Opened, Reached};

use super::attributes;
use super::descriptors::Use;
use super::inode::GoferInode;
use crate::memory::HostFile;
use crate::vfs::{FileKind, Inode};

/// Files of a tree that are open and that nobody has asked for yet.
const SPARES_MAX: usize = 128;

/// A name that is to be opened ahead.
pub struct Candidate {
    index: u32,
    name: Box<[u8]>,
    /// What it stood for when last asked.
    known: Option<Arc<GoferInode>>,
}

/// A file that is open, and nobody has asked for.
pub type Spare = (Arc<GoferInode>, Arc<HostFile>);

/// See the module's text.
#[derive(Default)]
pub struct Spares {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// The oldest first.
    files: VecDeque<Spare>,
    /// The tree is not mounted any more. What is kept holds the tree, so nothing is.
    closed: bool,
}

impl Spares {
    /// Keeps a file; returns the one that had to leave.
    fn keep(&self, spare: Spare) -> Option<Spare> {
        let mut kept = self.kept.lock();
        if kept.closed {
            return Some(spare);
        }
        kept.files.push_back(spare);
        if kept.files.len() > SPARES_MAX { kept.files.pop_front() } else { None }
    }

    /// Takes a file out.
    pub(super) fn remove(&self, file: &Arc<HostFile>) -> Option<Spare> {
        let mut kept = self.kept.lock();
        let index = kept.files.iter().position(|(_, other)| Arc::ptr_eq(other, file))?;
        kept.files.remove(index)
    }

    /// Takes all out.
    pub(super) fn take(&self) -> VecDeque<Spare> {
        std::mem::take(&mut self.kept.lock().files)
    }

    /// Takes all out and keeps nothing from now on.
    pub(super) fn close(&self) -> VecDeque<Spare> {
        self.kept.lock().closed = true;
        self.take()
    }
}

impl Candidate {
    /// As the gofer is asked for it.
    pub(super) fn question(&self) -> Option<Known<'_>> {
        let handle = self.known.as_ref().and_then(|inode| inode.handle.get());
        Some((Name::new(&self.name).ok()?, handle))
    }
}

impl GoferInode {
    /// A file in this directory was looked up: if it is opened, one knows which come next.
    pub(super) fn note_found(&self, name: &[u8], inode: &Arc<Self>) {
        if self.tree.is_exclusive()
            && inode.kind() == FileKind::Regular
            && let Some(index) = self.sequence.locate(name)
        {
            let directory = Arc::downgrade(&self.me());
            inode.state.lock().listed = Some((directory, index));
        }
    }

    /// A file of this directory is being opened for reading: what to open along with it.
    pub(super) fn candidates(&self, index: u32) -> Vec<Candidate> {
        let habit = &self.tree.habit;
        let next = self.sequence.opening(index, habit).into_iter();
        let candidates = next.filter_map(|(index, name)| {
            let known = self.believed_child(&name);
            let is_wanted = known
                .as_ref()
                .is_none_or(|known| known.kind() == FileKind::Regular && !known.is_open(Use::Read));
            is_wanted.then_some(Candidate { index, name, known })
        });
        candidates.take(habit.size()).collect()
    }

    /// The same by name, in a shared tree.
    pub(super) fn candidates_after(&self, name: &[u8]) -> Vec<Candidate> {
        if self.tree.is_exclusive() {
            return Vec::new();
        }
        // Even if nothing can be opened ahead yet, so that one knows how far it is.
        match self.sequence.locate(name) {
            Some(index) if self.mark.is_watched() => self.candidates(index),
            _ => Vec::new(),
        }
    }

    /// In an exclusive tree: opens a file for the first time, and with it those that come next. `None`: there are none, or it did
    /// not work; then the file is opened alone.
    pub(super) fn open_in_order(&self) -> Option<Arc<HostFile>> {
        if self.has_handle() {
            return None;
        }
        let (directory, index) = self.state.lock().listed.clone()?;
        let directory = directory.upgrade()?;
        let name = directory.sequence.name(index)?;
        let changes = directory.count_of_changes();
        // The name may be another's by now.
        if !directory.living_child(&name).is_some_and(|child| std::ptr::eq(&raw const *child, self)) {
            return None;
        }
        let candidates = directory.candidates(index);
        let questions: Vec<_> = candidates.iter().filter_map(Candidate::question).collect();
        if questions.is_empty() || questions.len() != candidates.len() {
            return None;
        }
        let own = [(Name::new(&name).ok()?, None)];
        let open = Some(Use::Read.access());
        let followed = self.tree.client.follow(directory.handle().ok()?, &own, open, &questions).ok()?;
        for (candidate, early) in candidates.into_iter().zip(followed.ahead) {
            if let Some(early) = early
                && let Some(inode) = directory.inode_of(&candidate, early.file)
                && directory.set_child(&candidate.name, Some(&inode), Some(changes))
            {
                directory.unprime(&candidate.name);
                directory.keep_spare(candidate.index, inode, early.descriptor);
            }
        }
        match followed.steps.into_iter().next()? {
            Reached::Other(node) if attributes::key(&node.attr) == self.key() => {
                self.note_handle(node.handle);
            }
            Reached::Same(_) | Reached::Other(_) => return None,
        }
        let Opened::Descriptor(descriptor) = followed.opened else { return None };
        Some(self.note_descriptor(Use::Read, descriptor))
    }

    /// In a watched tree: takes over what was opened ahead, if this kernel has changed no name of the tree since it counted
    /// `changes`, and the host has told of none since `token`.
    pub(super) fn learn_early(
        &self,
        candidates: Vec<Candidate>,
        ahead: Vec<Option<Early>>,
        changes: u64,
        token: u64,
    ) {
        for (candidate, early) in candidates.into_iter().zip(ahead) {
            let Some(early) = early else { continue };
            let Some(inode) = self.inode_of(&candidate, early.file) else { continue };
            if self.tree.count_of_changes() == changes
                && self.tree.watch.learn(&self.mark, &candidate.name, Some(&inode), token)
            {
                self.set_child(&candidate.name, Some(&inode), None);
                self.keep_spare(candidate.index, inode, early.descriptor);
            }
        }
    }

    /// The inode that was opened.
    fn inode_of(&self, candidate: &Candidate, file: Reached) -> Option<Arc<Self>> {
        let inode = match file {
            Reached::Same(_) => candidate.known.clone()?,
            // In an exclusive tree what is known of a living inode may be newer than the answer.
            Reached::Other(node) if self.tree.is_exclusive() => {
                let inode = self.tree.inode(&node.attr);
                inode.note_handle(node.handle);
                inode
            }
            Reached::Other(node) => self.tree.held(node, None),
        };
        (inode.kind() == FileKind::Regular).then_some(inode)
    }

    fn keep_spare(&self, index: u32, inode: Arc<Self>, descriptor: std::os::fd::OwnedFd) {
        let file = Arc::new(HostFile::new(descriptor));
        let directory = Arc::downgrade(&self.me());
        {
            let mut state = inode.state.lock();
            let Some(slot) = state.descriptors.first_mut() else { return };
            // Somebody else was faster.
            if slot.strong_count() > 0 {
                return;
            }
            *slot = Arc::downgrade(&file);
            state.early = true;
            state.listed = Some((directory, index));
        }
        if let Some((old, _file)) = self.tree.spares.keep((inode, file)) {
            let was_unused = std::mem::take(&mut old.state.lock().early);
            if was_unused {
                self.tree.habit.wasted(1);
            }
        }
    }

    /// A descriptor that was opened ahead is wanted.
    pub(super) fn note_wanted(&self, file: &Arc<HostFile>) {
        self.tree.habit.used();
        let listed = self.state.lock().listed.clone();
        if let Some((directory, index)) = listed
            && let Some(directory) = Weak::upgrade(&directory)
        {
            directory.sequence.passed(index);
        }
        self.tree.keep(Use::Read, file);
    }
}
