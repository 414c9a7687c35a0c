//! Directories of the overlay: lower names, and what became of them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use abi::errno::{EEXIST, EISDIR, EMLINK, ENOENT, ENOTDIR, ENOTEMPTY, EPERM, SysResult};

use super::node::Node;
use crate::fs::tmpfs::budget::Budget;
use crate::fs::tmpfs::metadata::Metadata;
use crate::fs::tmpfs::names::Names;
use crate::vfs::{Ahead, Inode, ListedName, NamesFor, NewNode};

/// Names one inode may have.
const LINK_MAX: u32 = 1 << 20;
/// Names not found below before a directory is listed once, to answer the next ones itself: at least so many, …
const MISSES_BEFORE_LISTING: u64 = 8;
/// … and one more for so many bytes of the directory, because a long listing costs as much as many questions.
const SIZE_FOR_ONE_MISS: u64 = 512;

/// The inside of a directory.
pub struct Children {
    entries: Names<Entry>,
    parent: Weak<Node>,
    /// Every lower name is among the entries: what is not there does not exist.
    complete: bool,
    misses: u32,
    whiteouts: usize,
    /// Removed: nothing can be made in it.
    dead: bool,
}

enum Entry {
    /// Made here or moved here.
    Node {
        node: Arc<Node>,
        /// The lower directory has the name, too.
        hides: bool,
        /// The name itself counts as an inode (`link`), as on Linux.
        extra: bool,
    },
    /// Only in the lower directory.
    Lower { inode: u64, kind: u8 },
    /// Removed, and still in the lower directory.
    Whiteout,
}

impl Entry {
    const fn hides(&self) -> bool {
        match self {
            Self::Node { hides, .. } => *hides,
            Self::Lower { .. } | Self::Whiteout => true,
        }
    }
}

impl Children {
    /// Of a lower directory that nobody has listed.
    pub(super) fn unread(parent: Weak<Node>) -> Self {
        let entries = Names::default();
        Self { entries, parent, complete: false, misses: 0, whiteouts: 0, dead: false }
    }

    /// Of a new directory.
    pub(super) fn empty(parent: Weak<Node>) -> Self {
        Self { complete: true, ..Self::unread(parent) }
    }

    /// Names an application sees, as far as known.
    pub(super) fn visible(&self) -> usize {
        self.entries.len() - self.whiteouts
    }

    /// Takes the nodes out, for freeing.
    pub(super) fn drain(&mut self, budget: &Budget) -> Vec<Arc<Node>> {
        let mut nodes = Vec::new();
        for entry in self.entries.drain() {
            if let Entry::Node { node, extra, .. } = entry {
                if extra {
                    budget.give_inode();
                }
                nodes.push(node);
            }
        }
        nodes
    }

    /// Whether a name can be bound; `EEXIST` if it is.
    fn check_free(&self, name: &[u8]) -> SysResult<()> {
        match self.entries.get(name) {
            _ if self.dead => Err(ENOENT),
            None | Some(Entry::Whiteout) => Ok(()),
            Some(_) => Err(EEXIST),
        }
    }

    /// Binds a name, whatever it was bound to.
    fn bind(&mut self, name: &[u8], node: &Arc<Node>, extra: bool) -> Option<Entry> {
        let hides = self.entries.get(name).is_some_and(Entry::hides);
        let old = self.entries.insert(name, Entry::Node { node: Arc::clone(node), hides, extra });
        if matches!(old, Some(Entry::Whiteout)) {
            self.whiteouts -= 1;
        }
        old
    }

    /// Removes a name, leaving a whiteout if the lower directory has it. Returns what was there.
    fn unbind(&mut self, name: &[u8]) -> Option<Entry> {
        if self.entries.get(name)?.hides() {
            self.whiteouts += 1;
            self.entries.insert(name, Entry::Whiteout)
        } else {
            self.entries.remove(name)
        }
    }
}

/// Whether a name that went away was charged.
fn was_extra(entry: Option<&Entry>) -> bool {
    matches!(entry, Some(Entry::Node { extra: true, .. }))
}

/// What a directory itself knows of a name.
enum Known {
    Node(Arc<Node>),
    Absent,
    AskBelow,
}

impl Node {
    fn known(&self, name: &[u8]) -> SysResult<Known> {
        let children = self.children()?.read();
        Ok(match children.entries.get(name) {
            Some(Entry::Node { node, .. }) => Known::Node(Arc::clone(node)),
            Some(Entry::Whiteout) => Known::Absent,
            Some(Entry::Lower { .. }) => Known::AskBelow,
            None if children.complete => Known::Absent,
            None => Known::AskBelow,
        })
    }

    /// What a name stands for.
    ///
    /// # Errors
    /// `ENOENT`. The lower file system's.
    pub(super) fn child(&self, name: &[u8]) -> SysResult<Arc<Self>> {
        self.child_ahead(name, &Ahead::default())
    }

    /// As [`child`](Self::child), by a walk that goes on.
    ///
    /// # Errors
    /// `ENOENT`. The lower file system's.
    pub(super) fn child_ahead(&self, name: &[u8], ahead: &Ahead<'_>) -> SysResult<Arc<Self>> {
        match self.known(name)? {
            Known::Node(node) => return Ok(node),
            Known::Absent => return Err(ENOENT),
            Known::AskBelow => {}
        }
        let lower = self.lower().ok_or(ENOENT)?;
        let found = lower.lookup_ahead(name, ahead).inspect_err(|error| {
            if *error == ENOENT {
                self.missed();
            }
        })?;
        let node = self.instance.node_of(found, self.weak().clone())?;
        // It may have been removed or replaced meanwhile.
        match self.known(name)? {
            Known::Node(node) => Ok(node),
            Known::Absent => Err(ENOENT),
            Known::AskBelow => Ok(node),
        }
    }

    fn missed(&self) {
        let (Ok(children), Some(lower)) = (self.children(), self.lower()) else { return };
        let misses = {
            let mut children = children.write();
            children.misses = children.misses.saturating_add(1);
            u64::from(children.misses)
        };
        if misses < MISSES_BEFORE_LISTING {
            return;
        }
        let size = lower.attributes().map_or(u64::MAX, |attributes| attributes.size);
        if misses - MISSES_BEFORE_LISTING >= size / SIZE_FOR_ONE_MISS {
            // Only an optimisation: whoever needs the listing finds out why there is none.
            let _ = self.load(NamesFor::Knowing);
        }
    }

    /// Lists the lower directory, once.
    ///
    /// # Errors
    /// The lower file system's.
    pub(super) fn load(&self, next: NamesFor) -> SysResult<()> {
        if self.children()?.read().complete {
            return Ok(());
        }
        let names = match self.lower() {
            Some(lower) => lower.names(next)?,
            None => Vec::new(),
        };
        let mut children = self.children()?.write();
        if !children.complete {
            for listed in names {
                children
                    .entries
                    .insert(&listed.name, Entry::Lower { inode: listed.inode, kind: listed.kind });
            }
            children.complete = true;
        }
        Ok(())
    }

    /// Visible entries from a position on, with the position after each.
    pub(super) fn visible_from(&self, from: u64, most: usize) -> SysResult<Vec<(u64, ListedName)>> {
        let children = self.children()?.read();
        let visible = children.entries.from_position(from).filter_map(|(next, name, entry)| {
            let (inode, kind) = match entry {
                Entry::Node { node, .. } => (node.number(), node.kind().directory_entry_type()),
                Entry::Lower { inode, kind } => (*inode, *kind),
                Entry::Whiteout => return None,
            };
            Some((next, ListedName { name: (**name).into(), inode, kind }))
        });
        Ok(visible.take(most).collect())
    }

    pub(super) fn parent_number(&self) -> SysResult<u64> {
        let parent = self.children()?.read().parent.upgrade();
        Ok(parent.map_or(self.number(), |parent| parent.number()))
    }

    /// Makes a directory ready for changes of its names.
    fn prepare_names(&self) -> SysResult<()> {
        self.load(NamesFor::Knowing)?;
        self.prepare()
    }

    pub(super) fn add_new(&self, name: &[u8], node: &NewNode<'_>) -> SysResult<Arc<Self>> {
        self.prepare_names()?;
        let new = Self::make(&self.instance, node, self.weak().clone())?;
        let _changes = self.instance.changes.lock();
        self.bind_free(name, &new, false)?;
        self.names_changed(i32::from(new.is_directory()));
        Ok(new)
    }

    pub(super) fn add_name(&self, name: &[u8], target: &Arc<Self>) -> SysResult<()> {
        if target.is_directory() {
            return Err(EPERM);
        }
        self.prepare_names()?;
        target.prepare()?;
        let _changes = self.instance.changes.lock();
        let links = target.links();
        if links >= LINK_MAX {
            return Err(EMLINK);
        }
        if links == 0 && !target.linkable.load(Ordering::Relaxed) {
            return Err(ENOENT);
        }
        let extra = links > 0;
        if extra {
            self.budget().take_inode()?;
        }
        if let Err(error) = self.bind_free(name, target, extra) {
            if extra {
                self.budget().give_inode();
            }
            return Err(error);
        }
        target.linkable.store(false, Ordering::Relaxed);
        target.edit(|metadata| metadata.relink(1));
        self.names_changed(0);
        Ok(())
    }

    pub(super) fn remove_name(&self, name: &[u8]) -> SysResult<()> {
        self.prepare_names()?;
        let victim = self.child(name)?;
        if victim.is_directory() {
            return Err(EISDIR);
        }
        victim.prepare_removal()?;
        let removed = {
            let _changes = self.instance.changes.lock();
            self.check_bound(name, &victim)?;
            let removed = self.children()?.write().unbind(name);
            self.names_changed(0);
            victim.name_lost(was_extra(removed.as_ref()));
            removed
        };
        drop(removed);
        Ok(())
    }

    pub(super) fn remove_empty(&self, name: &[u8]) -> SysResult<()> {
        self.prepare_names()?;
        let victim = self.child(name)?;
        victim.load(NamesFor::Knowing)?;
        victim.fill()?;
        let removed = {
            let _changes = self.instance.changes.lock();
            self.check_bound(name, &victim)?;
            victim.bury()?;
            let removed = self.children()?.write().unbind(name);
            self.names_changed(-1);
            removed
        };
        drop(removed);
        Ok(())
    }

    pub(super) fn move_name(&self, name: &[u8], directory: &Arc<Self>, new_name: &[u8]) -> SysResult<()> {
        self.prepare_names()?;
        directory.prepare_names()?;
        let moved = self.child(name)?;
        moved.prepare()?;
        let replaced = match directory.child(new_name) {
            Ok(node) if Arc::ptr_eq(&node, &moved) => return Ok(()),
            Ok(node) => Some(node),
            Err(ENOENT) => None,
            Err(error) => return Err(error),
        };
        if let Some(replaced) = &replaced {
            replaced.prepare_replacement(&moved)?;
        }
        let gone = {
            let _changes = self.instance.changes.lock();
            self.check_bound(name, &moved)?;
            directory.check_target(new_name, replaced.as_ref())?;
            if let Some(replaced) = replaced.as_ref().filter(|node| node.is_directory()) {
                replaced.bury()?;
            }
            let taken = self.children()?.write().unbind(name);
            let old = directory.children()?.write().bind(new_name, &moved, was_extra(taken.as_ref()));
            moved.set_parent(directory);
            moved.edit(Metadata::changed);
            let mut subdirectories = i32::from(moved.is_directory());
            self.names_changed(-subdirectories);
            match &replaced {
                Some(replaced) if replaced.is_directory() => subdirectories -= 1,
                Some(replaced) => replaced.name_lost(was_extra(old.as_ref())),
                None => {}
            }
            directory.names_changed(subdirectories);
            (taken, old)
        };
        drop((gone, replaced));
        Ok(())
    }

    pub(super) fn exchange(&self, name: &[u8], directory: &Arc<Self>, other_name: &[u8]) -> SysResult<()> {
        self.prepare_names()?;
        directory.prepare_names()?;
        let (mine, theirs) = (self.child(name)?, directory.child(other_name)?);
        mine.prepare()?;
        theirs.prepare()?;
        let gone = {
            let _changes = self.instance.changes.lock();
            self.check_bound(name, &mine)?;
            directory.check_bound(other_name, &theirs)?;
            let extra = |node: &Self, name: &[u8]| -> SysResult<bool> {
                Ok(was_extra(node.children()?.read().entries.get(name)))
            };
            let (my_extra, their_extra) = (extra(self, name)?, extra(directory, other_name)?);
            let first = self.children()?.write().bind(name, &theirs, their_extra);
            let second = directory.children()?.write().bind(other_name, &mine, my_extra);
            theirs.set_parent(&self.me());
            mine.set_parent(directory);
            let difference = i32::from(theirs.is_directory()) - i32::from(mine.is_directory());
            self.names_changed(difference);
            directory.names_changed(-difference);
            mine.edit(Metadata::changed);
            theirs.edit(Metadata::changed);
            (first, second)
        };
        drop(gone);
        Ok(())
    }

    fn bind_free(&self, name: &[u8], node: &Arc<Self>, extra: bool) -> SysResult<()> {
        let mut children = self.children()?.write();
        children.check_free(name)?;
        children.bind(name, node, extra);
        Ok(())
    }

    /// Whether a name still stands for a node; `changes` is held and the directory complete, so nobody below is asked.
    fn check_bound(&self, name: &[u8], node: &Arc<Self>) -> SysResult<()> {
        match self.children()?.read().entries.get(name) {
            Some(Entry::Node { node: bound, .. }) if Arc::ptr_eq(bound, node) => Ok(()),
            // Not bound here yet: the lower name is still what it was.
            Some(Entry::Lower { .. }) if node.lower().is_some() => Ok(()),
            _ => Err(ENOENT),
        }
    }

    fn check_target(&self, name: &[u8], expected: Option<&Arc<Self>>) -> SysResult<()> {
        let dead = self.children()?.read().dead;
        match expected {
            _ if dead => Err(ENOENT),
            Some(node) => self.check_bound(name, node),
            None => self.children()?.read().check_free(name),
        }
    }

    /// Makes a node ready to lose a name: it needs no keeping if that is the last.
    fn prepare_removal(&self) -> SysResult<()> {
        self.fill()?;
        if self.links() > 1 { self.prepare() } else { Ok(()) }
    }

    fn prepare_replacement(&self, moved: &Self) -> SysResult<()> {
        match (moved.is_directory(), self.is_directory()) {
            (true, true) => {
                self.load(NamesFor::Knowing)?;
                self.fill()
            }
            (true, false) => Err(ENOTDIR),
            (false, true) => Err(EISDIR),
            (false, false) => self.prepare_removal(),
        }
    }

    fn name_lost(&self, extra: bool) {
        if extra {
            self.budget().give_inode();
        }
        self.edit(|metadata| metadata.relink(-1));
        if self.links() == 0 {
            self.release();
        }
    }

    /// Closes an empty directory for good.
    fn bury(&self) -> SysResult<()> {
        let mut children = self.children()?.write();
        if children.visible() > 0 {
            return Err(ENOTEMPTY);
        }
        children.dead = true;
        drop(children);
        self.edit(|metadata| {
            metadata.links = 0;
            metadata.changed();
        });
        self.release();
        Ok(())
    }

    fn set_parent(&self, parent: &Arc<Self>) {
        if let Ok(children) = self.children() {
            children.write().parent = Arc::downgrade(parent);
        }
    }

    /// Notes in this directory's metadata that names changed, and by how many its subdirectories. A link count of 1 means that the
    /// lower file system does not count (btrfs), and stays.
    fn names_changed(&self, subdirectories: i32) {
        self.edit(|metadata| {
            if metadata.links > 1 {
                metadata.links = metadata.links.saturating_add_signed(subdirectories);
            }
            metadata.modified();
        });
    }
}
