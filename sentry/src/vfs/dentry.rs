//! Directory entries: the tree of names, with the names that are known not to exist.
//!
//! A [`Dentry`] binds a name in a directory to an inode. A directory knows its children weakly; as long as
//! somebody holds one, looking up its name gives the same one. [`super::DentryCache`] holds recent ones so that
//! hot names stay.
//!
//! Invariants: a living child that is listed by its parent has that parent and that name in its `place`. No
//! `Arc<Dentry>` is dropped under a lock of this file. A lookup that ran while the directory changed is repeated
//! (`generation`), so that an answer older than a change is never remembered after it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use abi::errno::{EAGAIN, ENOENT, ENOTDIR, SysResult};
use parking_lot::Mutex;

use super::dentry_cache::{DentryCache, NO_SLOT};
use super::{Ahead, CachePolicy, FileKind, Inode, Mount, watches};

/// A name in a directory, bound to an inode.
pub struct Dentry {
    /// Where it hangs; changed by `rename`. The root's parent is `None`.
    place: Mutex<Place>,
    inode: Arc<dyn Inode>,
    children: Mutex<Children>,
    /// How many mounts are attached here, in whatever namespace: a quick "none".
    mounts: AtomicU32,
    /// Its place in the cache; changed under the cache's lock.
    pub(super) slot: AtomicU32,
    /// How often the cache will spare it.
    pub(super) chances: AtomicU32,
}

struct Place {
    parent: Option<Arc<Dentry>>,
    name: Box<[u8]>,
    /// The name was removed (`unlink`, `rmdir`); `/proc/PID/fd` says "(deleted)".
    removed: bool,
}

#[derive(Default)]
struct Children {
    names: HashMap<Box<[u8]>, Child>,
    /// Counts changes made by this kernel.
    generation: u64,
}

enum Child {
    Present(Weak<Dentry>),
    /// Known not to exist; the number identifies the cache's entry.
    Missing(u64),
}

/// May a lookup ask the file system?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayAsk {
    /// Yes.
    Yes,
    /// Only what is remembered counts (`RESOLVE_CACHED`).
    No,
}

impl Dentry {
    /// The root of a mounted file system.
    pub fn new_root(inode: Arc<dyn Inode>) -> Arc<Self> {
        Self::new(None, b"", inode)
    }

    /// An entry outside of any tree, with the text that stands for its path (`pipe:[7]`).
    pub fn new_detached(inode: Arc<dyn Inode>, text: &[u8]) -> Arc<Self> {
        Self::new(None, text, inode)
    }

    /// A file of a directory's file system that has no name yet (`O_TMPFILE`); counts as removed.
    pub fn new_unnamed(self: &Arc<Self>, inode: Arc<dyn Inode>) -> Arc<Self> {
        let name = format!("#{}", inode.attributes().map_or(0, |attributes| attributes.inode));
        let dentry = Self::new(Some(Arc::clone(self)), name.as_bytes(), inode);
        dentry.place.lock().removed = true;
        dentry
    }

    fn new(parent: Option<Arc<Self>>, name: &[u8], inode: Arc<dyn Inode>) -> Arc<Self> {
        Arc::new(Self {
            place: Mutex::new(Place { parent, name: name.into(), removed: false }),
            inode,
            children: Mutex::default(),
            mounts: AtomicU32::new(0),
            slot: AtomicU32::new(NO_SLOT),
            chances: AtomicU32::new(0),
        })
    }

    /// What the name stands for.
    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.inode
    }

    /// The directory it is in; `None` for a root.
    pub fn parent(&self) -> Option<Arc<Self>> {
        self.place.lock().parent.clone()
    }

    /// Its last component.
    pub fn name(&self) -> Box<[u8]> {
        self.place.lock().name.clone()
    }

    /// Parent and name at one moment.
    pub fn parent_and_name(&self) -> (Option<Arc<Self>>, Box<[u8]>) {
        let place = self.place.lock();
        (place.parent.clone(), place.name.clone())
    }

    /// Whether the name no longer exists.
    pub fn is_removed(&self) -> bool {
        self.place.lock().removed
    }

    /// Whether a mount may be attached here.
    pub fn is_mount_point(&self) -> bool {
        self.mounts.load(Ordering::Acquire) != 0
    }

    pub(super) fn count_mount(&self) {
        self.mounts.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn discount_mount(&self) {
        self.mounts.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether this is `ancestor` or lies below it in the same file system.
    pub fn is_below(self: &Arc<Self>, ancestor: &Arc<Self>) -> bool {
        let mut at = Arc::clone(self);
        loop {
            if Arc::ptr_eq(&at, ancestor) {
                return true;
            }
            let Some(parent) = at.parent() else { return false };
            at = parent;
        }
    }

    /// Finds `name` (not `.` or `..`) in this directory.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, the file system's; `EAGAIN` if it may not be asked and would have to be.
    pub fn lookup(
        self: &Arc<Self>,
        name: &[u8],
        cache: &DentryCache,
        may_ask: MayAsk,
    ) -> SysResult<Arc<Self>> {
        self.lookup_ahead(name, &Ahead::default(), cache, may_ask)
    }

    /// As [`lookup`](Self::lookup), by a walk that goes on.
    ///
    /// # Errors
    /// As there.
    pub fn lookup_ahead(
        self: &Arc<Self>,
        name: &[u8],
        ahead: &Ahead<'_>,
        cache: &DentryCache,
        may_ask: MayAsk,
    ) -> SysResult<Arc<Self>> {
        if self.inode.kind() != FileKind::Directory {
            return Err(ENOTDIR);
        }
        let keep = self.inode.cache_policy() == CachePolicy::Keep;
        loop {
            let generation = {
                let children = self.children.lock();
                match children.names.get(name) {
                    Some(Child::Present(child)) if keep => {
                        if let Some(child) = child.upgrade() {
                            drop(children);
                            cache.touch(&child);
                            return Ok(child);
                        }
                    }
                    Some(Child::Missing(_)) if keep => return Err(ENOENT),
                    _ => {}
                }
                children.generation
            };
            if may_ask == MayAsk::No {
                return Err(EAGAIN);
            }
            let answer = match self.inode.lookup_ahead(name, ahead) {
                Ok(inode) => self.remember(name, inode, Some(generation)).map(Ok),
                Err(ENOENT) => self.remember_missing(name, keep, generation, cache).then_some(Err(ENOENT)),
                Err(error) => return Err(error),
            };
            match answer {
                Some(Ok(child)) => {
                    if keep {
                        cache.touch(&child);
                    }
                    return Ok(child);
                }
                Some(Err(error)) => return Err(error),
                None => {}
            }
        }
    }

    /// The entry for a name that this kernel has just made.
    pub fn bind(self: &Arc<Self>, name: &[u8], inode: Arc<dyn Inode>, cache: &DentryCache) -> Arc<Self> {
        let child = self.remember(name, Arc::clone(&inode), None);
        let child = child.unwrap_or_else(|| Self::new(Some(Arc::clone(self)), name, inode));
        if self.inode.cache_policy() == CachePolicy::Keep {
            cache.touch(&child);
        }
        child
    }

    /// The living child if it is bound to the same inode, or a new one. `None` if `generation` is given and is not the
    /// present one; if none is given, this is a change.
    fn remember(
        self: &Arc<Self>,
        name: &[u8],
        inode: Arc<dyn Inode>,
        generation: Option<u64>,
    ) -> Option<Arc<Self>> {
        let living = {
            let mut children = self.children.lock();
            match generation {
                Some(generation) if generation != children.generation => return None,
                Some(_) => {}
                None => children.generation += 1,
            }
            match children.names.get(name) {
                Some(Child::Present(child)) => child.upgrade(),
                _ => None,
            }
        };
        if let Some(child) = living
            && child.stands_for(&inode)
        {
            return Some(child);
        }
        let fresh = Self::new(Some(Arc::clone(self)), name, inode);
        let mut children = self.children.lock();
        if generation.is_some_and(|generation| generation != children.generation) {
            return None;
        }
        children.names.insert(name.into(), Child::Present(Arc::downgrade(&fresh)));
        drop(children);
        Some(fresh)
    }

    /// Whether this entry is good for `inode`. File systems whose nodes are made on demand may give another object
    /// for the same node; a mount attached here must not be lost for it.
    fn stands_for(&self, inode: &Arc<dyn Inode>) -> bool {
        let number = |inode: &Arc<dyn Inode>| inode.attributes().map(|attributes| attributes.inode).ok();
        Arc::ptr_eq(&self.inode, inode)
            || self.is_mount_point() && number(&self.inode).is_some_and(|own| number(inode) == Some(own))
    }

    /// Returns whether the answer still holds.
    fn remember_missing(
        self: &Arc<Self>,
        name: &[u8],
        keep: bool,
        generation: u64,
        cache: &DentryCache,
    ) -> bool {
        if !keep {
            return true;
        }
        let number = cache.add_missing(self, name);
        let mut children = self.children.lock();
        if children.generation != generation {
            return false;
        }
        children.names.insert(name.into(), Child::Missing(number));
        true
    }

    /// The cache no longer remembers that a name is missing.
    pub(super) fn forget_missing(&self, name: &[u8], number: u64) {
        let mut children = self.children.lock();
        if matches!(children.names.get(name), Some(Child::Missing(known)) if *known == number) {
            children.names.remove(name);
        }
    }

    /// Whether somebody holds what a name stands for, or stood for.
    pub(super) fn has_living_child(&self, name: &[u8]) -> bool {
        let children = self.children.lock();
        matches!(children.names.get(name), Some(Child::Present(child)) if child.strong_count() > 0)
    }

    /// Names of this directory were changed that no dentry stands for.
    pub(super) fn note_change(&self) {
        self.children.lock().generation += 1;
    }

    /// `child`'s name was removed from this directory.
    pub fn remove_child(&self, child: &Arc<Self>, cache: &DentryCache) {
        let name = child.name();
        self.detach(child, &name);
        child.place.lock().removed = true;
        cache.forget(child);
    }

    /// Takes `child` out of the list if it is there under `name`; a change in every case.
    fn detach(&self, child: &Arc<Self>, name: &[u8]) {
        let mut children = self.children.lock();
        children.generation += 1;
        let listed = matches!(children.names.get(name),
            Some(Child::Present(known)) if std::ptr::eq(known.as_ptr(), Arc::as_ptr(child)));
        if listed {
            children.names.remove(name);
        }
    }

    fn attach(&self, child: &Arc<Self>, name: &[u8]) {
        let mut children = self.children.lock();
        children.generation += 1;
        children.names.insert(name.into(), Child::Present(Arc::downgrade(child)));
    }

    /// The file system has moved `child` of this directory to `new_name` in `new_parent`, where `replaced` was.
    pub fn move_child(
        self: &Arc<Self>,
        child: &Arc<Self>,
        new_parent: &Arc<Self>,
        new_name: &[u8],
        replaced: Option<&Arc<Self>>,
        cache: &DentryCache,
    ) {
        if let Some(replaced) = replaced {
            new_parent.remove_child(replaced, cache);
        }
        let name = child.name();
        self.detach(child, &name);
        child.settle(new_parent, new_name);
        new_parent.attach(child, new_name);
    }

    /// The file system has exchanged `child` of this directory and `other` of `other_parent`.
    pub fn exchange_children(
        self: &Arc<Self>,
        child: &Arc<Self>,
        other_parent: &Arc<Self>,
        other: &Arc<Self>,
    ) {
        let (name, other_name) = (child.name(), other.name());
        self.detach(child, &name);
        other_parent.detach(other, &other_name);
        child.settle(other_parent, &other_name);
        other.settle(self, &name);
        other_parent.attach(child, &other_name);
        self.attach(other, &name);
    }

    fn settle(&self, parent: &Arc<Self>, name: &[u8]) {
        let new = Place { parent: Some(Arc::clone(parent)), name: name.into(), removed: false };
        let old = std::mem::replace(&mut *self.place.lock(), new);
        drop(old);
    }

    /// Forgets the entry of a child that is gone for good.
    fn forget_dead(&self, name: &[u8]) {
        let mut children = self.children.lock();
        // Whatever is dead may go, even if it is another one than the caller's.
        if matches!(children.names.get(name), Some(Child::Present(child)) if child.strong_count() == 0) {
            children.names.remove(name);
        }
    }
}

impl Drop for Dentry {
    /// Takes the name out of the parent's list. Parents whose last reference this was go in a loop: a tree may be
    /// deeper than the stack.
    fn drop(&mut self) {
        let place = self.place.get_mut();
        if place.removed && watches::any() {
            watches::dentry_gone(&self.inode);
        }
        let mut name = std::mem::take(&mut place.name);
        let mut next = place.parent.take();
        while let Some(parent) = next {
            parent.forget_dead(&name);
            next = Arc::into_inner(parent).and_then(|mut parent| {
                let place = parent.place.get_mut();
                name = std::mem::take(&mut place.name);
                place.parent.take()
            });
        }
    }
}

/// A place in the tree that a process sees: a dentry as reached through a mount.
#[derive(Clone)]
pub struct Location {
    /// The mount.
    pub mount: Arc<Mount>,
    /// The entry in the mounted file system.
    pub dentry: Arc<Dentry>,
}

/// Whether a path leads from the root it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachable {
    /// It does.
    Yes,
    /// The place is outside of the root (`getcwd` says "(unreachable)").
    No,
}

impl Location {
    /// The inode.
    pub fn inode(&self) -> &Arc<dyn Inode> {
        self.dentry.inode()
    }

    /// Whether both are the same place.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && Arc::ptr_eq(&self.dentry, &other.dentry)
    }

    /// Whether this is where a mount begins.
    pub fn is_mount_root(&self) -> bool {
        Arc::ptr_eq(&self.dentry, &self.mount.root)
    }

    /// The directory above, in the tree of mounts; `None` at its top.
    pub fn parent(&self) -> Option<Self> {
        let mut at = self.clone();
        while at.is_mount_root() {
            let point = at.mount.point();
            at = point?;
        }
        let parent = at.dentry.parent()?;
        Some(Self { mount: at.mount, dentry: parent })
    }

    /// The path from `root`; from the top of the tree if the place is not below `root`. Says nothing of removal.
    pub fn path(&self, root: &Self) -> Vec<u8> {
        self.path_from(root).0
    }

    /// As [`Location::path`], and whether it is below `root`.
    pub fn path_from(&self, root: &Self) -> (Vec<u8>, Reachable) {
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let mut at = self.clone();
        let reachable = loop {
            if at.is_same(root) {
                break Reachable::Yes;
            }
            if at.is_mount_root() {
                let point = at.mount.point();
                let Some(point) = point else { break Reachable::No };
                at = point;
                continue;
            }
            let (parent, name) = at.dentry.parent_and_name();
            let Some(parent) = parent else {
                if names.is_empty() && !name.is_empty() {
                    // Outside of any tree: its text is its path.
                    return (name.into_vec(), Reachable::Yes);
                }
                break Reachable::No;
            };
            names.push(name);
            at.dentry = parent;
        };
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        (path, reachable)
    }
}
