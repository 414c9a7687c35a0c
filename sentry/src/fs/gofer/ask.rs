//! Asking the gofer about names: as many of a path as one request can answer, and what to do with answers that are not
//! wanted yet.
//!
//! What a request tells of later names is *foreseen*: it answers the lookups that the same walk makes next, in the same
//! system call ([`Moment`]), and only while this kernel has changed no name of the tree meanwhile.

use std::sync::Arc;

use abi::errno::{EIO, EMFILE, ENOENT, ESTALE, Errno, SysResult};
use wire::{Access, Followed, MAX_WALK, Name, OpenFlags, Opened, Reached, WalkStop};

use super::attributes::{self, HostKey};
use super::descriptors::Use;
use super::early::Candidate;
use super::inode::GoferInode;
use super::{DIRECTORIES_MAX, Tree};
use crate::memory::HostFile;
use crate::vfs::{Ahead, FileKind, Inode, Moment, OpenRequest};

/// An answer to a question that is about to be asked.
pub struct Foreseen {
    directory: HostKey,
    name: Box<[u8]>,
    answer: Result<Arc<GoferInode>, Errno>,
    moment: Moment,
    /// The tree's count of changes when the gofer was asked.
    changes: u64,
}

impl Foreseen {
    fn answers(&self, directory: HostKey, name: &[u8], changes: u64) -> bool {
        self.moment.lasts() && self.changes == changes && self.directory == directory && *self.name == *name
    }
}

/// A question: names, and what is known of them.
struct Question<'a> {
    /// Names that lead to the directory, from the nearest one that has a handle.
    detour: Vec<(Arc<GoferInode>, Box<[u8]>)>,
    base: Arc<GoferInode>,
    names: Vec<&'a [u8]>,
    open: Option<Use>,
    /// What to open besides.
    candidates: Vec<Candidate>,
}

impl GoferInode {
    /// The inode a name in this directory stands for.
    pub(super) fn find(&self, name: &[u8], ahead: &Ahead<'_>) -> SysResult<Arc<Self>> {
        let goes_on = ahead.names().next().is_some();
        loop {
            if let Some(inode) = self.living_child(name) {
                return Ok(inode);
            }
            let changes = self.count_of_changes();
            if let Some(attr) = self.take_primed(name)
                && !goes_on
            {
                let inode = self.tree.inode(&attr);
                inode.set_origin(&self.me(), name, changes);
                if self.set_child(name, Some(&inode), Some(changes)) {
                    return Ok(inode);
                }
                continue;
            }
            if let Some(known) = self.known_child(name, ahead) {
                return known;
            }
            if let Some(answer) = self.tree.take_foreseen(self.key(), name) {
                return answer;
            }
            let answer = self.ask(name, ahead)?;
            // An answer given while names changed here may be older than the change; only an exclusive tree relies on it.
            if changes == self.count_of_changes() || !self.tree.is_exclusive() {
                return Ok(answer);
            }
        }
    }

    /// In a shared tree that is watched: what the name stands for. If it is to be opened now and is not open, the gofer has to
    /// be asked anyway, and looks on the way.
    fn known_child(&self, name: &[u8], ahead: &Ahead<'_>) -> Option<SysResult<Arc<Self>>> {
        let known = self.tree.watch.known(&self.tree, &self.mark, name)?;
        if let (Ok(inode), Some(request)) = (&known, ahead.opening(1))
            && inode.kind() == FileKind::Regular
            && !Use::of(request).is_some_and(|purpose| inode.is_open(purpose))
        {
            return None;
        }
        Some(known)
    }

    /// Whether a lookup of the name would ask nobody.
    pub(super) fn knows(&self, name: &[u8]) -> bool {
        self.tree.watch.known(&self.tree, &self.mark, name).is_some()
            || self.tree.has_foreseen(self.key(), name)
    }

    fn ask(&self, name: &[u8], ahead: &Ahead<'_>) -> SysResult<Arc<Self>> {
        let changes = self.tree.count_of_changes();
        let token = self.tree.watch.token();
        let question = self.question(name, ahead);
        // The beliefs are held until the answer has come: their handles must live as long.
        let beliefs = self.beliefs(&question.names);
        let followed = match self.put(&question, &beliefs) {
            // The gofer holds as much as it may, most of it for what is remembered.
            Ok(Followed { stop: WalkStop::Failed(EMFILE), .. }) if self.tree.watch.is_active() => {
                self.tree.release();
                self.put(&question, &beliefs)?
            }
            result => result?,
        };
        let mut answer =
            Answer { tree: &self.tree, changes, token, moment: Moment::now(), foreseen: Vec::new() };
        let first = answer.read(self, question, beliefs, followed);
        let unwanted = std::mem::replace(&mut *self.tree.foreseen.lock(), answer.foreseen);
        drop(unwanted);
        self.tree.consider_watching(self);
        first
    }

    /// What to ask when a name is wanted and others are about to be.
    fn question<'a>(&self, name: &'a [u8], ahead: &Ahead<'a>) -> Question<'a> {
        let mut detour = Vec::new();
        let mut base = self.me();
        while let Some((directory, name)) = base.origin().filter(|_| detour.len() + 1 < MAX_WALK) {
            detour.push((std::mem::replace(&mut base, directory), name));
        }
        detour.reverse();
        let room = MAX_WALK - detour.len();
        let names: Vec<_> = std::iter::once(name).chain(ahead.names()).take(room).collect();
        let open = match ahead.opening(names.len()) {
            Some(request) => Use::of(request),
            None => (names.len() == 1 && self.tree.guess.will_open()).then_some(Use::Read),
        };
        let candidates = if detour.is_empty() && names.len() == 1 && open == Some(Use::Read) {
            self.candidates_after(name)
        } else {
            Vec::new()
        };
        Question { detour, base, names, open, candidates }
    }

    /// In a shared tree: what the names stood for when they were last asked for.
    fn beliefs(&self, names: &[&[u8]]) -> Vec<Arc<Self>> {
        let mut beliefs: Vec<Arc<Self>> = Vec::new();
        if self.tree.is_exclusive() {
            return beliefs;
        }
        for name in names {
            let directory = beliefs.last().map_or(self, |inode| &**inode);
            let Some(inode) = directory.believed_child(name).filter(|inode| inode.has_handle()) else {
                break;
            };
            beliefs.push(inode);
        }
        beliefs
    }

    fn put(&self, question: &Question<'_>, beliefs: &[Arc<Self>]) -> SysResult<Followed> {
        let mut names = Vec::with_capacity(question.detour.len() + question.names.len());
        for (_, name) in &question.detour {
            names.push((Name::new(name)?, None));
        }
        for (index, name) in question.names.iter().enumerate() {
            // What cannot be a name ends the walk there, and is judged when it is asked for.
            match Name::new(name) {
                Ok(name) => names.push((name, beliefs.get(index).map(|inode| inode.handle()).transpose()?)),
                Err(error) if index == 0 => return Err(error),
                Err(_) => break,
            }
        }
        // A file that is open already need not be opened again.
        let last = beliefs.get(question.names.len() - 1);
        let open = question.open.filter(|purpose| !last.is_some_and(|inode| inode.is_open(*purpose)));
        let candidates: Option<Vec<_>> = question.candidates.iter().map(Candidate::question).collect();
        let candidates = candidates.unwrap_or_default();
        self.tree.client.follow(question.base.handle()?, &names, open.map(Use::access), &candidates)
    }
}

/// An answer being taken apart.
struct Answer<'a> {
    tree: &'a Arc<Tree>,
    changes: u64,
    /// The watches' count of events then.
    token: u64,
    moment: Moment,
    foreseen: Vec<Foreseen>,
}

impl Answer<'_> {
    /// What the question's first name stands for; all further ones are foreseen.
    fn read(
        &mut self,
        directory: &GoferInode,
        question: Question<'_>,
        beliefs: Vec<Arc<GoferInode>>,
        followed: Followed,
    ) -> SysResult<Arc<GoferInode>> {
        let Followed { from, steps, stop, opened, ahead } = followed;
        // In an exclusive tree the attributes are known, and may have changed since the answer was given.
        if !self.tree.is_exclusive() {
            question.base.note_attr(&from);
            self.learn_access(&question.base);
        }
        let mut steps = steps.into_iter();
        for (inode, _) in &question.detour {
            let failed = if let WalkStop::Failed(error) = &stop { *error } else { ESTALE };
            inode.arrived(steps.next().ok_or(failed)?)?;
        }
        let (wanted, mut beliefs) = (question.names.len(), beliefs.into_iter());
        let mut found: Option<Arc<GoferInode>> = None;
        let mut result = Err(EIO);
        let mut reached = 0;
        for (name, step) in question.names.iter().zip(steps) {
            let belief = beliefs.next();
            let inode = match (step, belief) {
                (Reached::Other(node), _) => self.tree.held(node, None),
                (Reached::Same(attr), Some(inode)) => {
                    inode.note_attr(&attr);
                    inode
                }
                (Reached::Same(_), None) => return Err(EIO),
            };
            let parent = found.as_deref().unwrap_or(directory);
            let counted = parent.count_of_changes();
            if self.tree.count_of_changes() == self.changes {
                parent.set_child(name, Some(&inode), Some(counted));
                self.tree.watch.learn(&parent.mark, name, Some(&inode), self.token);
            }
            self.learn_access(&inode);
            self.tree.keep_directory(&inode);
            if reached == 0 {
                result = Ok(Arc::clone(&inode));
            } else {
                self.foresee(parent, name, Ok(Arc::clone(&inode)));
            }
            found = Some(inode);
            reached += 1;
        }
        let last = found.as_deref().unwrap_or(directory);
        match stop {
            WalkStop::Failed(error) => {
                let name = question.names.get(reached).copied().unwrap_or_default();
                if error == ENOENT && self.tree.count_of_changes() == self.changes {
                    self.tree.watch.learn(&last.mark, name, None, self.token);
                }
                match reached {
                    0 => result = Err(error),
                    _ => self.foresee(last, name, Err(error)),
                }
            }
            WalkStop::Symlink(target) if reached > 0 => last.note_target(target),
            WalkStop::Complete if reached == wanted => {
                note_opened(last, opened, question.open);
                directory.learn_early(question.candidates, ahead, self.changes, self.token);
            }
            _ => {}
        }
        result
    }

    /// What permits walking through a directory.
    fn learn_access(&self, inode: &GoferInode) {
        if inode.kind() == FileKind::Directory {
            self.tree.watch.learn_access(&inode.mark, inode.last_attributes(), self.token);
        }
    }

    fn foresee(&mut self, directory: &GoferInode, name: &[u8], answer: Result<Arc<GoferInode>, Errno>) {
        let (directory, name) = (directory.key(), name.into());
        let (moment, changes) = (self.moment, self.changes);
        self.foreseen.push(Foreseen { directory, name, answer, moment, changes });
    }
}

/// The walk's end may have been opened on the way.
fn note_opened(inode: &GoferInode, opened: Opened, purpose: Option<Use>) {
    if inode.kind() == FileKind::Regular && inode.tree.is_exclusive() {
        inode.tree.guess.looked_up();
    }
    // If it failed, whoever wants it open asks again and gets the error.
    if let (Opened::Descriptor(descriptor), Some(purpose)) = (opened, purpose) {
        inode.note_opened(purpose, Arc::new(HostFile::new(descriptor)));
    }
}

impl GoferInode {
    /// An inode that a listing brought has been reached by its name.
    fn arrived(&self, step: Reached) -> SysResult<()> {
        match step {
            Reached::Other(node) if attributes::key(&node.attr) == self.key() => {
                self.note_attr(&node.attr);
                self.note_handle(node.handle);
                Ok(())
            }
            // Somebody else changed a tree that was to be ours alone.
            _ => Err(ESTALE),
        }
    }
}

impl Use {
    /// What serves a request, if that can be shared.
    fn of(request: OpenRequest) -> Option<Self> {
        let synchronous = OpenFlags::from_bits_truncate(request.flags) & (OpenFlags::SYNC | OpenFlags::DSYNC);
        match request.write {
            false => Some(Self::Read),
            true if synchronous.is_empty() => Some(Self::Write),
            true => None,
        }
    }

    /// How the gofer opens it.
    pub(super) const fn access(self) -> (Access, OpenFlags) {
        match self {
            Self::Read | Self::Lend => (Access::Read, OpenFlags::empty()),
            Self::Write => (Access::ReadWrite, OpenFlags::empty()),
            Self::Append => (Access::ReadWrite, OpenFlags::APPEND),
            // Not opened for this by name, see `GoferInode::attributes`.
            Self::Status => (Access::Read, OpenFlags::empty()),
        }
    }
}

impl Tree {
    /// What an earlier request of this walk told of a name.
    fn take_foreseen(&self, directory: HostKey, name: &[u8]) -> Option<SysResult<Arc<GoferInode>>> {
        let mut foreseen = self.foreseen.lock();
        let changes = self.count_of_changes();
        let index = foreseen.iter().position(|entry| entry.answers(directory, name, changes))?;
        Some(foreseen.swap_remove(index).answer)
    }

    fn has_foreseen(&self, directory: HostKey, name: &[u8]) -> bool {
        let changes = self.count_of_changes();
        self.foreseen.lock().iter().any(|entry| entry.answers(directory, name, changes))
    }

    /// Keeps a directory of a shared tree alive, so that the next walk through it needs no new handle.
    fn keep_directory(&self, inode: &Arc<GoferInode>) {
        if self.is_exclusive() || inode.kind() != FileKind::Directory {
            return;
        }
        let mut kept = self.directories.lock();
        if kept.iter().any(|other| Arc::ptr_eq(other, inode)) {
            return;
        }
        kept.push_back(Arc::clone(inode));
        let evicted = if kept.len() > DIRECTORIES_MAX { kept.pop_front() } else { None };
        drop(kept);
        drop(evicted);
    }
}
