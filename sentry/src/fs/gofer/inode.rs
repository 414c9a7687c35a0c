//! One host inode.

use std::any::Any;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::errno::{EINVAL, ENODEV, ENOENT, ESTALE, EXDEV, SysResult};
use parking_lot::Mutex;
use wire::{Access, Attr, Handle, Name, OpenFlags, Opened, SetAttr, XattrFlags, XattrName};

use super::attributes::{self, HostKey};
use super::descriptors::Use;
use super::sequence::Sequence;
use super::watch::Mark;
use super::{PRIMED_MAX, Tree};
use crate::memory::HostFile;
use crate::task::Task;
use crate::vfs::{
    Ahead, Attachments, Attributes, CachePolicy, FileKind, FileOps, FileSystem, Inode, LinkTarget,
    ListedName, Moment, NamesFor, NewNode, OpenRequest, SetAttributes, XattrSet,
};

/// An inode of a gofer's tree.
pub struct GoferInode {
    pub(super) tree: Arc<Tree>,
    me: Weak<Self>,
    key: HostKey,
    pub(super) kind: FileKind,
    /// Of a directory in a shared tree.
    pub(super) mark: Mark,
    pub(super) handle: OnceLock<Handle>,
    /// How to get the handle, if there is none: an entry that a listing brought.
    origin: Mutex<Origin>,
    pub(super) state: Mutex<State>,
    /// Of a symbolic link in an exclusive tree.
    target: OnceLock<Vec<u8>>,
    /// Of a symbolic link in a shared tree: the target, and when it was learnt.
    target_then: Mutex<Option<(Moment, Vec<u8>)>>,
    /// Of a directory in an exclusive tree: attributes of files that are no objects now.
    primed: Mutex<HashMap<Box<[u8]>, Attr>>,
    /// Of a directory: living inodes by name. In an exclusive tree that is the truth, and renaming finds what it
    /// touches; in a shared one it is what was so when last asked.
    children: Mutex<Children>,
    /// Of a directory: counts this kernel's changes of its names.
    changes: AtomicU64,
    /// Of a directory: its files as they were listed.
    pub(super) sequence: Sequence,
    attachments: Attachments,
}

/// Where an inode without a handle is found.
pub(super) enum Origin {
    Nowhere,
    At {
        directory: Arc<GoferInode>,
        name: Box<[u8]>,
        /// The directory's count of changes when this was learnt.
        asked: u64,
    },
}

/// Names of a directory whose inodes may be alive.
#[derive(Default)]
struct Children {
    names: HashMap<Box<[u8]>, Weak<GoferInode>>,
    /// The dead ones are swept out when there are so many.
    sweep_at: usize,
}

impl Children {
    fn insert(&mut self, name: &[u8], child: Weak<GoferInode>) {
        if self.names.len() >= self.sweep_at {
            self.names.retain(|_, inode| inode.strong_count() > 0);
            self.sweep_at = (self.names.len() * 2).max(64);
        }
        self.names.insert(name.into(), child);
    }
}

pub(super) struct State {
    attributes: Attributes,
    /// The attributes have changed on the host since.
    stale: bool,
    /// When they were learnt.
    learnt: Moment,
    pub(super) descriptors: [Weak<HostFile>; 5],
    /// The gofer was asked for the attributes.
    pub(super) was_asked: bool,
    /// From creation or lookup, for the open that follows.
    pub(super) created: Option<Arc<HostFile>>,
    /// The lookup opened the inode, and nobody has used that yet.
    pub(super) guessed: bool,
    /// It was opened ahead of being asked for, and nobody has used that yet.
    pub(super) early: bool,
    /// In which directory a listing told of it, and where there.
    pub(super) listed: Option<(Weak<GoferInode>, u32)>,
}

impl GoferInode {
    pub(super) fn new(tree: &Arc<Tree>, key: HostKey, attributes: Attributes) -> Arc<Self> {
        let state = State {
            attributes,
            stale: false,
            learnt: Moment::default(),
            descriptors: Default::default(),
            was_asked: false,
            created: None,
            guessed: false,
            early: false,
            listed: None,
        };
        Arc::new_cyclic(|me| Self {
            tree: Arc::clone(tree),
            me: me.clone(),
            key,
            kind: attributes.kind,
            mark: Mark::default(),
            handle: OnceLock::new(),
            origin: Mutex::new(Origin::Nowhere),
            state: Mutex::new(state),
            target: OnceLock::new(),
            target_then: Mutex::default(),
            primed: Mutex::default(),
            children: Mutex::default(),
            changes: AtomicU64::new(0),
            sequence: Sequence::default(),
            attachments: Attachments::default(),
        })
    }

    pub(super) fn me(&self) -> Arc<Self> {
        // A method cannot run on an object that is gone.
        self.me.upgrade().unwrap_or_else(|| Self::new(&self.tree, self.key, self.state.lock().attributes))
    }

    pub(super) fn number(&self) -> u64 {
        self.state.lock().attributes.inode
    }

    pub(super) const fn key(&self) -> HostKey {
        self.key
    }

    pub(super) fn has_handle(&self) -> bool {
        self.handle.get().is_some()
    }

    pub(super) const fn device(&self) -> wire::DeviceNumber {
        self.key.0
    }

    /// The gofer's handle, fetched if there is none yet.
    ///
    /// # Errors
    /// The gofer's; `ESTALE` if something else is there now.
    pub(super) fn handle(&self) -> SysResult<&Handle> {
        if self.handle.get().is_none() {
            self.resolve(None)?;
        }
        self.handle.get().ok_or(ESTALE)
    }

    /// Gets the handle of an inode that a listing brought, and opens it on the way.
    pub(super) fn resolve(&self, open: Option<(Access, OpenFlags)>) -> SysResult<Opened> {
        let Some((directory, name)) = self.origin() else {
            // Somebody else was faster, or the name is gone.
            return if self.has_handle() { Ok(Opened::None) } else { Err(ESTALE) };
        };
        let walked = self.tree.client.walk(directory.handle()?, &[Name::new(&name)?], open)?;
        let node = walked.steps.into_iter().next().ok_or(ESTALE)?;
        if attributes::key(&node.attr) != self.key {
            return Err(ESTALE);
        }
        self.note_attr(&node.attr);
        self.note_handle(node.handle);
        Ok(walked.opened)
    }

    pub(super) fn note_handle(&self, handle: Handle) {
        // If it has one already, the new one is dropped and with it the gofer's.
        let _ = self.handle.set(handle);
        let origin = std::mem::replace(&mut *self.origin.lock(), Origin::Nowhere);
        drop(origin);
    }

    pub(super) fn note_attr(&self, attr: &Attr) {
        let mut state = self.state.lock();
        state.attributes = attributes::attributes(attr, state.attributes.inode);
        state.stale = false;
        state.learnt = Moment::now();
    }

    pub(super) fn note_target(&self, target: Vec<u8>) {
        // What a link says never changes; in a shared tree it is another file system's word where nothing is watched.
        if self.tree.is_exclusive() || self.tree.watch.is_active() {
            let _ = self.target.set(target);
        } else {
            *self.target_then.lock() = Some((Moment::now(), target));
        }
    }

    fn known_target(&self) -> Option<Vec<u8>> {
        let then = self.target_then.lock().take().filter(|(moment, _)| moment.lasts());
        then.map(|(_, target)| target).or_else(|| self.target.get().cloned())
    }

    /// The host has changed the attributes as a consequence of what we did.
    pub(super) fn note_changed(&self) {
        self.state.lock().stale = true;
    }

    /// One name is gone. With the last one, descriptors kept for later are let go.
    pub(super) fn name_lost(&self) {
        let _created = {
            let mut state = self.state.lock();
            state.attributes.links = state.attributes.links.saturating_sub(1);
            // Without a handle nobody can be asked again.
            state.stale = self.handle.get().is_some();
            if state.attributes.links > 0 {
                return;
            }
            state.created.take()
        };
        self.forget_descriptors();
    }

    /// The attributes as they were when last learnt.
    pub(super) fn last_attributes(&self) -> Attributes {
        self.state.lock().attributes
    }

    /// Where an inode without a handle is found.
    pub(super) fn set_origin(&self, directory: &Arc<Self>, name: &[u8], asked: u64) {
        if self.handle.get().is_none() {
            let new = Origin::At { directory: Arc::clone(directory), name: name.into(), asked };
            let old = std::mem::replace(&mut *self.origin.lock(), new);
            drop(old);
        }
    }

    /// The directory and name of an inode that has no handle yet.
    pub(super) fn origin(&self) -> Option<(Arc<Self>, Box<[u8]>)> {
        if self.has_handle() {
            return None;
        }
        match &*self.origin.lock() {
            Origin::At { directory, name, .. } => Some((Arc::clone(directory), name.clone())),
            Origin::Nowhere => None,
        }
    }

    /// The living inode that a name in this directory is known to stand for.
    pub(super) fn living_child(&self, name: &[u8]) -> Option<Arc<Self>> {
        if self.tree.is_exclusive() { self.believed_child(name) } else { None }
    }

    /// The living inode that a name in this directory stood for when last asked.
    pub(super) fn believed_child(&self, name: &[u8]) -> Option<Arc<Self>> {
        self.children.lock().names.get(name).and_then(Weak::upgrade)
    }

    /// Remembers what a name in this directory stands for; `None` if nothing is known any more. If names changed since
    /// `asked`, the answer may be older than the change, and is not remembered. Returns whether it is.
    pub(super) fn set_child(&self, name: &[u8], child: Option<&Arc<Self>>, asked: Option<u64>) -> bool {
        let mut children = self.children.lock();
        if asked.is_some_and(|asked| asked != self.count_of_changes()) {
            return false;
        }
        match child {
            Some(child) => children.insert(name, Arc::downgrade(child)),
            None => drop(children.names.remove(name)),
        }
        true
    }

    /// How often this kernel has changed names of this directory.
    pub(super) fn count_of_changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// A name of this directory was made, removed or bound anew.
    pub(super) fn count_change(&self) {
        self.tree.changes.fetch_add(1, Ordering::AcqRel);
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// How many names the inode has, as far as known.
    pub(super) fn links(&self) -> u32 {
        self.state.lock().attributes.links
    }

    /// The directory was removed.
    pub(super) fn directory_lost(&self) {
        let mut state = self.state.lock();
        state.attributes.links = 0;
        state.stale = self.handle.get().is_some();
    }

    /// Remembers what a listing told of an entry. If names changed since `asked`, it may be true no more.
    pub(super) fn prime(&self, name: &[u8], attr: Attr, asked: u64) {
        if self.tree.primed.load(Ordering::Relaxed) >= PRIMED_MAX {
            return;
        }
        let mut primed = self.primed.lock();
        // Whoever changes a name counts the change first, and forgets the name under this lock second.
        if asked == self.count_of_changes() && primed.insert(name.into(), attr).is_none() {
            self.tree.primed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The object is given up: its directory keeps the attributes for whoever looks its name up again. Only of what came
    /// from a listing and was asked for nothing more; the rest is worth asking for again.
    fn leave_attributes(&mut self) {
        let Origin::At { directory, name, asked } = std::mem::replace(self.origin.get_mut(), Origin::Nowhere)
        else {
            return;
        };
        let state = self.state.get_mut();
        if self.handle.get().is_none() && !state.stale && state.attributes.links > 0 {
            directory.prime(&name, attributes::wire(&state.attributes, self.key), asked);
        }
    }

    /// What a listing told of an entry, once.
    pub(super) fn take_primed(&self, name: &[u8]) -> Option<Attr> {
        let attr = self.primed.lock().remove(name)?;
        self.tree.primed.fetch_sub(1, Ordering::Relaxed);
        Some(attr)
    }

    /// Forgets what listings told: names changed.
    pub(super) fn unprime(&self, name: &[u8]) {
        let _ = self.take_primed(name);
    }
}

impl Drop for GoferInode {
    fn drop(&mut self) {
        self.leave_attributes();
        self.tree.primed.fetch_sub(self.primed.get_mut().len(), Ordering::Relaxed);
        self.tree.listed.fetch_sub(self.sequence.len(), Ordering::Relaxed);
        let mut inodes = self.tree.inodes.lock();
        // A successor may have taken the place already.
        if inodes.get(&self.key).is_some_and(|inode| inode.strong_count() == 0) {
            inodes.remove(&self.key);
        }
    }
}

impl Inode for GoferInode {
    fn file_system(&self) -> Arc<dyn FileSystem> {
        self.tree.file_system(self)
    }

    fn kind(&self) -> FileKind {
        self.kind
    }

    fn attributes(&self) -> SysResult<Attributes> {
        let (file, is_written) = {
            let state = self.state.lock();
            let writer = state.descriptors.get(1..3).unwrap_or_default().iter().find_map(Weak::upgrade);
            let is_known = state.learnt.lasts() || self.tree.is_exclusive() && writer.is_none();
            if is_known && !state.stale {
                return Ok(state.attributes);
            }
            let is_written = writer.is_some();
            let reader = || state.descriptors.iter().find_map(Weak::upgrade);
            (writer.or_else(reader), is_written)
        };
        let file = match file {
            None => self.status_descriptor()?,
            some => some,
        };
        if let Some(file) = file {
            let status = file.status()?;
            let mut state = self.state.lock();
            attributes::refresh(&mut state.attributes, &status);
            // A writer may change them again without our knowing, through a mapping.
            state.stale = is_written;
            state.learnt = Moment::now();
            return Ok(state.attributes);
        }
        let attr = self.tree.client.get_attr(self.handle()?)?;
        self.note_attr(&attr);
        Ok(self.state.lock().attributes)
    }

    fn access_attributes(&self) -> SysResult<Attributes> {
        self.known_access().map_or_else(|| self.attributes(), Ok)
    }

    fn set_attributes(&self, change: &SetAttributes) -> SysResult<()> {
        if let SetAttributes {
            permissions: None,
            uid: None,
            gid: None,
            size: Some(size),
            access: None,
            modify: None,
        } = *change
            && let Some(file) = self.live_descriptor(Use::Write)
        {
            file.set_size(size)?;
            self.note_changed();
            return Ok(());
        }
        let changes = SetAttr {
            mode: change.permissions,
            uid: change.uid,
            gid: change.gid,
            size: change.size,
            atime: change.access.map(attributes::set_time),
            mtime: change.modify.map(attributes::set_time),
        };
        let attr = self.tree.client.set_attr(self.handle()?, changes)?;
        self.note_attr(&attr);
        Ok(())
    }

    fn open(self: Arc<Self>, request: OpenRequest, _task: &Task) -> SysResult<Arc<dyn FileOps>> {
        self.open_for(request)
    }

    fn lookup(&self, name: &[u8]) -> SysResult<Arc<dyn Inode>> {
        self.lookup_ahead(name, &Ahead::default())
    }

    fn lookup_ahead(&self, name: &[u8], ahead: &Ahead<'_>) -> SysResult<Arc<dyn Inode>> {
        let inode = self.find(name, ahead)?;
        self.note_found(name, &inode);
        Ok(inode)
    }

    fn cache_policy(&self) -> CachePolicy {
        if self.tree.is_exclusive() { CachePolicy::Keep } else { CachePolicy::Revalidate }
    }

    fn create(&self, name: &[u8], node: &NewNode<'_>) -> SysResult<Arc<dyn Inode>> {
        Ok(self.make(name, node)?)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> SysResult<()> {
        self.add_name(name, &self.same_tree(target)?)
    }

    fn unlink(&self, name: &[u8], victim: &Arc<dyn Inode>) -> SysResult<()> {
        self.remove_name(name, &self.same_tree(victim)?)
    }

    fn unlink_unseen(&self, name: &[u8]) -> Option<SysResult<()>> {
        self.remove_unseen(name)
    }

    fn remove_directory_unseen(&self, name: &[u8]) -> Option<SysResult<()>> {
        self.remove_empty_unseen(name)
    }

    fn would_ask(&self, name: &[u8]) -> bool {
        self.mark.is_watched() && !self.knows(name)
    }

    fn remove_directory(&self, name: &[u8], victim: &Arc<dyn Inode>) -> SysResult<()> {
        self.remove_empty(name, &self.same_tree(victim)?)
    }

    fn rename(
        &self,
        name: &[u8],
        new_directory: &Arc<dyn Inode>,
        new_name: &[u8],
        exchange: bool,
    ) -> SysResult<()> {
        self.move_name(name, &self.same_tree(new_directory)?, new_name, exchange)
    }

    fn read_link(&self, _task: &Task) -> SysResult<LinkTarget> {
        if self.kind != FileKind::Symlink {
            return Err(EINVAL);
        }
        if let Some(target) = self.known_target() {
            return Ok(LinkTarget::Path(target));
        }
        let target = self.tree.client.read_link(self.handle()?).inspect(|t| self.note_target(t.clone()))?;
        Ok(LinkTarget::Path(target))
    }

    fn connect_host(&self, kind: u32) -> SysResult<OwnedFd> {
        self.tree.client.connect(self.handle()?, attributes::socket_type(kind)?)
    }

    fn xattr(&self, name: &[u8]) -> SysResult<Vec<u8>> {
        self.tree.client.get_xattr(self.handle()?, XattrName::new(name)?)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], how: XattrSet) -> SysResult<()> {
        let flags = match how {
            XattrSet::Any => XattrFlags::empty(),
            XattrSet::Create => XattrFlags::CREATE,
            XattrSet::Replace => XattrFlags::REPLACE,
        };
        self.tree.client.set_xattr(self.handle()?, XattrName::new(name)?, value, flags)?;
        self.note_changed();
        Ok(())
    }

    fn remove_xattr(&self, name: &[u8]) -> SysResult<()> {
        self.tree.client.remove_xattr(self.handle()?, XattrName::new(name)?)?;
        self.note_changed();
        Ok(())
    }

    fn list_xattrs(&self) -> SysResult<Vec<Vec<u8>>> {
        let names = self.tree.client.list_xattr(self.handle()?)?;
        Ok(names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
    }

    fn backing(&self) -> SysResult<Arc<HostFile>> {
        match self.kind {
            FileKind::Regular => self.descriptor(Use::Read),
            _ => Err(ENODEV),
        }
    }

    fn names(&self, next: NamesFor) -> SysResult<Vec<ListedName>> {
        self.all_names(next)
    }

    fn attachments(&self) -> &Attachments {
        &self.attachments
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl GoferInode {
    /// An inode of this tree behind an inode.
    fn same_tree(&self, inode: &Arc<dyn Inode>) -> SysResult<Arc<Self>> {
        let inode = inode.as_any().downcast_ref::<Self>().ok_or(EXDEV)?;
        if !Arc::ptr_eq(&inode.tree, &self.tree) {
            return Err(EXDEV);
        }
        inode.me.upgrade().ok_or(ENOENT)
    }
}
