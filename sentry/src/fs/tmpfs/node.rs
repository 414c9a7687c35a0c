//! Inodes of tmpfs.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use abi::errno::{
    EEXIST, EINVAL, EISDIR, ELOOP, EMLINK, ENOENT, ENOTDIR, ENOTEMPTY, ENXIO, EPERM, EXDEV, SysResult,
};
use parking_lot::{Mutex, RwLock};

use super::Instance;
use super::content::Content;
use super::metadata::Metadata;
use super::names::Names;
use super::open::{Directory, RegularFile};
use super::xattrs::Xattrs;
use crate::memory::HostFile;
use crate::task::Task;
use crate::vfs::{
    Attachments, Attributes, DeviceNumber, FileKind, FileOps, FileSystem, Inode, LinkTarget, ListedName,
    NamesFor, NewKind, NewNode, OpenRequest, SetAttributes, XattrSet, allocate_inode,
};

/// As Linux shows it: each name of a directory adds this to its size (`BOGO_DIRENT_SIZE`), and so do `.` and `..`.
const NAME_SIZE: u64 = 20;
/// Names one inode may have.
const LINK_MAX: u32 = 1 << 20;

/// An inode of a tmpfs.
pub struct Node {
    instance: Arc<Instance>,
    me: Weak<Self>,
    number: u64,
    kind: FileKind,
    device_number: DeviceNumber,
    metadata: Mutex<Metadata>,
    body: Body,
    xattrs: Mutex<Xattrs>,
    attachments: Attachments,
    /// Counts as an inode of the budget (roots do not).
    charge: Charge,
    /// Made by `O_TMPFILE` and never named: it may still get a first name.
    linkable: AtomicBool,
}

/// Whether a node counts against `nr_inodes=`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Charge {
    /// A root.
    Free,
    /// Anything that is made in the file system.
    Inode,
}

enum Body {
    Regular(Content),
    /// A `memfd_create` file, which can be sealed.
    MemoryFile(Content, Box<[u8]>),
    Directory(RwLock<Children>),
    Symlink(Box<[u8]>),
    Special,
}

/// The inside of a directory.
pub struct Children {
    pub(super) names: Names<Arc<Node>>,
    pub(super) parent: Weak<Node>,
    /// Removed: nothing can be made in it.
    dead: bool,
}

impl Node {
    /// A new node; a directory knows its parent.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub(super) fn make(
        instance: &Arc<Instance>,
        node: &NewNode<'_>,
        parent: Weak<Self>,
    ) -> SysResult<Arc<Self>> {
        instance.budget.take_inode()?;
        Ok(Self::assemble(instance, node, body_of(instance, node, parent), Charge::Inode))
    }

    /// A root directory.
    pub(super) fn root(instance: &Arc<Instance>, permissions: u32, uid: u32, gid: u32) -> Arc<Self> {
        let node = NewNode { kind: NewKind::Directory, permissions, uid, gid };
        Self::assemble(instance, &node, body_of(instance, &node, Weak::new()), Charge::Free)
    }

    /// A sealable file without a name.
    ///
    /// # Errors
    /// `ENFILE`, `ENOSPC`, `ENOMEM`.
    pub(super) fn memory_file(
        instance: &Arc<Instance>,
        name: &std::ffi::CStr,
        uid: u32,
        gid: u32,
    ) -> SysResult<Arc<Self>> {
        let content = Content::sealable(Arc::clone(&instance.budget), name)?;
        instance.budget.take_inode()?;
        let node = NewNode { kind: NewKind::Regular, permissions: 0o777, uid, gid };
        let body = Body::MemoryFile(content, name.to_bytes().into());
        let file = Self::assemble(instance, &node, body, Charge::Inode);
        file.metadata.lock().links = 0;
        Ok(file)
    }

    fn assemble(instance: &Arc<Instance>, node: &NewNode<'_>, body: Body, charge: Charge) -> Arc<Self> {
        let (kind, device_number) = kind_of(&node.kind);
        let links = if kind == FileKind::Directory { 2 } else { 1 };
        let metadata = Metadata::new(node.permissions & 0o7777, node.uid, node.gid, links);
        Arc::new_cyclic(|me| Self {
            instance: Arc::clone(instance),
            me: me.clone(),
            number: allocate_inode(),
            kind,
            device_number,
            metadata: Mutex::new(metadata),
            body,
            xattrs: Mutex::new(Xattrs::new(Arc::clone(&instance.budget))),
            attachments: Attachments::default(),
            charge,
            linkable: AtomicBool::new(false),
        })
    }

    /// The name given to `memfd_create`, if that made the file.
    pub fn memory_file_name(&self) -> Option<&[u8]> {
        match &self.body {
            Body::MemoryFile(_, name) => Some(name),
            _ => None,
        }
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) const fn metadata(&self) -> &Mutex<Metadata> {
        &self.metadata
    }

    /// The bytes of a regular file.
    ///
    /// # Errors
    /// `EINVAL`: something else.
    pub(super) fn content(&self) -> SysResult<&Content> {
        match &self.body {
            Body::Regular(content) | Body::MemoryFile(content, _) => Ok(content),
            _ => Err(EINVAL),
        }
    }

    /// The host file that keeps the seals.
    pub(super) fn seal_file(&self) -> SysResult<Arc<HostFile>> {
        match &self.body {
            Body::MemoryFile(content, _) => content.sealed_file(),
            _ => Err(EINVAL),
        }
    }

    /// The inside of a directory.
    ///
    /// # Errors
    /// `ENOTDIR`.
    pub(super) fn children(&self) -> SysResult<&RwLock<Children>> {
        match &self.body {
            Body::Directory(children) => Ok(children),
            _ => Err(ENOTDIR),
        }
    }

    fn child(&self, name: &[u8]) -> SysResult<Arc<Self>> {
        self.children()?.read().names.get(name).cloned().ok_or(ENOENT)
    }

    /// A node of this file system behind an inode.
    fn same_instance(&self, inode: &Arc<dyn Inode>) -> SysResult<Arc<Self>> {
        inode
            .as_any()
            .downcast_ref::<Self>()
            .filter(|node| Arc::ptr_eq(&node.instance, &self.instance))
            .and_then(|node| node.me.upgrade())
            .ok_or(EXDEV)
    }

    /// Binds a free name. `changes` is held.
    fn bind(&self, name: &[u8], node: &Arc<Self>) -> SysResult<()> {
        let mut children = self.children()?.write();
        if children.dead {
            return Err(ENOENT);
        }
        if children.names.get(name).is_some() {
            return Err(EEXIST);
        }
        children.names.insert(name, Arc::clone(node));
        Ok(())
    }

    /// Notes in this directory's metadata that names changed, and by how many its subdirectories.
    fn names_changed(&self, subdirectories: i32) {
        let mut metadata = self.metadata.lock();
        metadata.links = metadata.links.saturating_add_signed(subdirectories);
        metadata.modified();
    }

    /// Closes a directory for good.
    fn bury(&self) -> SysResult<()> {
        let mut children = self.children()?.write();
        if !children.names.is_empty() {
            return Err(ENOTEMPTY);
        }
        children.dead = true;
        drop(children);
        let mut metadata = self.metadata.lock();
        metadata.links = 0;
        metadata.changed();
        Ok(())
    }

    /// A node lost one of its names (not a directory).
    fn name_lost(&self) {
        let mut metadata = self.metadata.lock();
        metadata.relink(-1);
        if metadata.links > 0 {
            self.instance.budget.give_inode();
        }
    }

    fn set_parent(&self, parent: &Arc<Self>) {
        if let Body::Directory(children) = &self.body {
            children.write().parent = Arc::downgrade(parent);
        }
    }

    /// Makes room for a node that is renamed over `old`. `changes` is held.
    fn make_way(moved: &Self, old: &Self) -> SysResult<()> {
        match (moved.kind, old.kind) {
            (FileKind::Directory, FileKind::Directory) => old.bury(),
            (FileKind::Directory, _) => Err(ENOTDIR),
            (_, FileKind::Directory) => Err(EISDIR),
            _ => {
                old.name_lost();
                Ok(())
            }
        }
    }

    fn exchange(&self, name: &[u8], other: &Arc<Self>, other_name: &[u8]) -> SysResult<()> {
        let (mine, theirs) = (self.child(name)?, other.child(other_name)?);
        self.children()?.write().names.insert(name, Arc::clone(&theirs));
        other.children()?.write().names.insert(other_name, Arc::clone(&mine));
        if let Some(me) = self.me.upgrade() {
            theirs.set_parent(&me);
        }
        mine.set_parent(other);
        let difference = i32::from(theirs.is_directory()) - i32::from(mine.is_directory());
        self.names_changed(difference);
        other.names_changed(-difference);
        mine.metadata.lock().changed();
        theirs.metadata.lock().changed();
        Ok(())
    }

    fn is_directory(&self) -> bool {
        self.kind == FileKind::Directory
    }
}

fn kind_of(kind: &NewKind<'_>) -> (FileKind, DeviceNumber) {
    let kind = match kind {
        NewKind::Regular => FileKind::Regular,
        NewKind::Directory => FileKind::Directory,
        NewKind::Symlink(_) => FileKind::Symlink,
        NewKind::Fifo => FileKind::Fifo,
        NewKind::Socket => FileKind::Socket,
        NewKind::Device { block: true, number } => return (FileKind::BlockDevice, *number),
        NewKind::Device { block: false, number } => return (FileKind::CharacterDevice, *number),
    };
    (kind, DeviceNumber::default())
}

fn body_of(instance: &Instance, node: &NewNode<'_>, parent: Weak<Node>) -> Body {
    match &node.kind {
        NewKind::Regular => Body::Regular(Content::new(Arc::clone(&instance.budget))),
        NewKind::Directory => {
            Body::Directory(RwLock::new(Children { names: Names::default(), parent, dead: false }))
        }
        NewKind::Symlink(target) => Body::Symlink((*target).into()),
        NewKind::Fifo | NewKind::Socket | NewKind::Device { .. } => Body::Special,
    }
}

impl Drop for Node {
    /// Frees a tree without recursion: an application may nest directories as deeply as it likes.
    fn drop(&mut self) {
        if self.charge == Charge::Inode {
            self.instance.budget.give_inode();
        }
        let Body::Directory(children) = &mut self.body else { return };
        let mut doomed: Vec<Arc<Self>> = children.get_mut().names.drain().collect();
        while let Some(node) = doomed.pop() {
            if let Some(mut node) = Arc::into_inner(node)
                && let Body::Directory(children) = &mut node.body
            {
                doomed.extend(children.get_mut().names.drain());
            }
        }
    }
}

impl Inode for Node {
    fn file_system(&self) -> Arc<dyn FileSystem> {
        self.instance.file_system()
    }

    fn is_held(&self) -> bool {
        true
    }

    fn kind(&self) -> FileKind {
        self.kind
    }

    fn attributes(&self) -> SysResult<Attributes> {
        let mut attributes =
            Attributes { device_number: self.device_number, ..Attributes::new(self.kind, 0, self.number) };
        match &self.body {
            Body::Regular(content) | Body::MemoryFile(content, _) => {
                attributes.size = content.size();
                attributes.blocks_512 = content.blocks_512();
            }
            Body::Directory(children) => {
                attributes.size = NAME_SIZE * (children.read().names.len() as u64 + 2);
            }
            Body::Symlink(target) => attributes.size = target.len() as u64,
            Body::Special => {}
        }
        self.metadata.lock().show(&mut attributes);
        Ok(attributes)
    }

    fn set_attributes(&self, change: &SetAttributes) -> SysResult<()> {
        if let Some(size) = change.size {
            self.content()?.set_size(size)?;
        }
        self.metadata.lock().apply(change);
        Ok(())
    }

    fn open(self: Arc<Self>, _request: OpenRequest, _task: &Task) -> SysResult<Arc<dyn FileOps>> {
        match &self.body {
            Body::Regular(_) | Body::MemoryFile(..) => Ok(RegularFile::open(self)),
            Body::Directory(_) => Ok(Directory::open(self)),
            Body::Symlink(_) => Err(ELOOP),
            Body::Special => Err(ENXIO),
        }
    }

    fn lookup(&self, name: &[u8]) -> SysResult<Arc<dyn Inode>> {
        self.child(name).map(|node| node as _)
    }

    fn create(&self, name: &[u8], node: &NewNode<'_>) -> SysResult<Arc<dyn Inode>> {
        let new = Self::make(&self.instance, node, self.me.clone())?;
        let _changes = self.instance.changes.lock();
        self.bind(name, &new)?;
        self.names_changed(i32::from(new.is_directory()));
        Ok(new)
    }

    fn create_unnamed(&self, node: &NewNode<'_>) -> SysResult<Arc<dyn Inode>> {
        let new = Self::make(&self.instance, node, Weak::new())?;
        new.metadata.lock().links = 0;
        new.linkable.store(true, Ordering::Relaxed);
        Ok(new)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> SysResult<()> {
        let target = self.same_instance(target)?;
        if target.is_directory() {
            return Err(EPERM);
        }
        let _changes = self.instance.changes.lock();
        let links = target.metadata.lock().links;
        if links >= LINK_MAX {
            return Err(EMLINK);
        }
        // A file made by `O_TMPFILE` gets its first name; one whose last name was removed gets none.
        if links == 0 && !target.linkable.load(Ordering::Relaxed) {
            return Err(ENOENT);
        }
        if links > 0 {
            self.instance.budget.take_inode()?;
        }
        if let Err(error) = self.bind(name, &target) {
            if links > 0 {
                self.instance.budget.give_inode();
            }
            return Err(error);
        }
        target.linkable.store(false, Ordering::Relaxed);
        target.metadata.lock().relink(1);
        self.names_changed(0);
        Ok(())
    }

    fn unlink(&self, name: &[u8], _victim: &Arc<dyn Inode>) -> SysResult<()> {
        let _changes = self.instance.changes.lock();
        let victim = self.child(name)?;
        if victim.is_directory() {
            return Err(EISDIR);
        }
        let removed = self.children()?.write().names.remove(name);
        victim.name_lost();
        self.names_changed(0);
        drop(removed);
        Ok(())
    }

    fn remove_directory(&self, name: &[u8], _victim: &Arc<dyn Inode>) -> SysResult<()> {
        let _changes = self.instance.changes.lock();
        let victim = self.child(name)?;
        victim.bury()?;
        let removed = self.children()?.write().names.remove(name);
        self.names_changed(-1);
        drop(removed);
        Ok(())
    }

    fn rename(
        &self,
        name: &[u8],
        new_directory: &Arc<dyn Inode>,
        new_name: &[u8],
        exchange: bool,
    ) -> SysResult<()> {
        let target = self.same_instance(new_directory)?;
        let _changes = self.instance.changes.lock();
        if target.children()?.read().dead {
            return Err(ENOENT);
        }
        if exchange {
            return self.exchange(name, &target, new_name);
        }
        let moved = self.child(name)?;
        let old = target.child(new_name).ok();
        let mut target_subdirectories = i32::from(moved.is_directory());
        if let Some(old) = &old {
            if Arc::ptr_eq(old, &moved) {
                return Ok(());
            }
            Self::make_way(&moved, old)?;
            target_subdirectories -= i32::from(old.is_directory());
        }
        let taken = self.children()?.write().names.remove(name);
        let replaced = target.children()?.write().names.insert(new_name, Arc::clone(&moved));
        moved.set_parent(&target);
        moved.metadata.lock().changed();
        self.names_changed(-i32::from(moved.is_directory()));
        target.names_changed(target_subdirectories);
        drop((taken, replaced, old));
        Ok(())
    }

    fn read_link(&self, _task: &Task) -> SysResult<LinkTarget> {
        match &self.body {
            Body::Symlink(target) => Ok(LinkTarget::Path(target.to_vec())),
            _ => Err(EINVAL),
        }
    }

    fn xattr(&self, name: &[u8]) -> SysResult<Vec<u8>> {
        self.xattrs.lock().get(name)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], how: XattrSet) -> SysResult<()> {
        self.xattrs.lock().set(name, value, how)?;
        self.metadata.lock().changed();
        Ok(())
    }

    fn remove_xattr(&self, name: &[u8]) -> SysResult<()> {
        self.xattrs.lock().remove(name)?;
        self.metadata.lock().changed();
        Ok(())
    }

    fn list_xattrs(&self) -> SysResult<Vec<Vec<u8>>> {
        Ok(self.xattrs.lock().names())
    }

    fn backing(&self) -> SysResult<Arc<HostFile>> {
        self.content()?.host_file()
    }

    fn names(&self, _next: NamesFor) -> SysResult<Vec<ListedName>> {
        let children = self.children()?.read();
        let entries = children.names.from_position(0);
        Ok(entries
            .map(|(_, name, node)| ListedName {
                name: (**name).into(),
                inode: node.number,
                kind: node.kind.directory_entry_type(),
            })
            .collect())
    }

    fn attachments(&self) -> &Attachments {
        &self.attachments
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
