//! Inodes of the overlay.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use abi::errno::{ECONNREFUSED, EINVAL, ELOOP, ENOTDIR, ENXIO, EXDEV, SysResult};
use parking_lot::{Mutex, RwLock};

use super::Instance;
use super::names::Children;
use super::open::{Directory, RegularFile};
use super::regular::Data;
use crate::fs::tmpfs::budget::Budget;
use crate::fs::tmpfs::metadata::Metadata;
use crate::fs::tmpfs::xattrs::Xattrs;
use crate::memory::HostFile;
use crate::task::Task;
use crate::vfs::{
    Ahead, Attachments, Attributes, DeviceNumber, FileDescription, FileKind, FileOps, FileSystem, Inode,
    LinkTarget, ListedName, NamesFor, NewKind, NewNode, OpenRequest, SetAttributes, XattrSet,
};

/// As tmpfs shows it: what each name adds to a directory's size.
const NAME_SIZE: u64 = 20;

/// An inode of an overlay.
pub struct Node {
    pub(super) instance: Arc<Instance>,
    me: Weak<Self>,
    number: u64,
    kind: FileKind,
    device_number: DeviceNumber,
    /// Where it came from; `None` for a new node.
    lower: Option<Arc<dyn Inode>>,
    /// `None`: the lower inode's.
    metadata: Mutex<Option<Metadata>>,
    /// `None`: the lower inode's.
    xattrs: Mutex<Option<Xattrs>>,
    body: Body,
    attachments: Attachments,
    /// Counts as an inode of the budget: new, or kept.
    charged: AtomicBool,
    /// Made by `O_TMPFILE` and never named.
    pub(super) linkable: AtomicBool,
}

enum Body {
    Regular(Data),
    Directory(RwLock<Children>),
    /// `None`: the lower link's target.
    Symlink(Option<Box<[u8]>>),
    Special,
}

impl Node {
    /// The node of a lower inode.
    pub(super) fn over(
        instance: &Arc<Instance>,
        lower: Arc<dyn Inode>,
        attributes: &Attributes,
        parent: Weak<Self>,
    ) -> Arc<Self> {
        let body = match attributes.kind {
            FileKind::Regular => Body::Regular(Data::lower()),
            FileKind::Directory => Body::Directory(RwLock::new(Children::unread(parent))),
            FileKind::Symlink => Body::Symlink(None),
            _ => Body::Special,
        };
        Arc::new_cyclic(|me| Self {
            instance: Arc::clone(instance),
            me: me.clone(),
            number: attributes.inode,
            kind: attributes.kind,
            device_number: attributes.device_number,
            lower: Some(lower),
            metadata: Mutex::new(None),
            xattrs: Mutex::new(None),
            body,
            attachments: Attachments::default(),
            charged: AtomicBool::new(false),
            linkable: AtomicBool::new(false),
        })
    }

    /// A new node.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub(super) fn make(
        instance: &Arc<Instance>,
        node: &NewNode<'_>,
        parent: Weak<Self>,
    ) -> SysResult<Arc<Self>> {
        let budget = &instance.budget;
        let none = DeviceNumber::default();
        let (kind, device_number, body) = match &node.kind {
            NewKind::Regular => (FileKind::Regular, none, Body::Regular(Data::new(budget))),
            NewKind::Directory => {
                (FileKind::Directory, none, Body::Directory(RwLock::new(Children::empty(parent))))
            }
            NewKind::Symlink(target) => (FileKind::Symlink, none, Body::Symlink(Some((*target).into()))),
            NewKind::Fifo => (FileKind::Fifo, none, Body::Special),
            NewKind::Socket => (FileKind::Socket, none, Body::Special),
            NewKind::Device { block: true, number } => (FileKind::BlockDevice, *number, Body::Special),
            NewKind::Device { block: false, number } => (FileKind::CharacterDevice, *number, Body::Special),
        };
        let links = if kind == FileKind::Directory { 2 } else { 1 };
        let metadata = Metadata::new(node.permissions & 0o7777, node.uid, node.gid, links);
        budget.take_inode()?;
        Ok(Arc::new_cyclic(|me| Self {
            instance: Arc::clone(instance),
            me: me.clone(),
            number: instance.new_number(),
            kind,
            device_number,
            lower: None,
            metadata: Mutex::new(Some(metadata)),
            xattrs: Mutex::new(Some(Xattrs::new(Arc::clone(budget)))),
            body,
            attachments: Attachments::default(),
            charged: AtomicBool::new(true),
            linkable: AtomicBool::new(false),
        }))
    }

    pub(super) fn me(&self) -> Arc<Self> {
        // A method cannot run on an object that is gone.
        self.me.upgrade().unwrap_or_else(|| {
            let attributes = Attributes::new(self.kind, 0, self.number);
            let lower = self.lower.clone().unwrap_or_else(|| self.instance.lower_root());
            Self::over(&self.instance, lower, &attributes, Weak::new())
        })
    }

    pub(super) const fn weak(&self) -> &Weak<Self> {
        &self.me
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind == FileKind::Directory
    }

    pub(super) fn lower(&self) -> Option<Arc<dyn Inode>> {
        self.lower.clone()
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.instance.budget
    }

    /// The bytes of a regular file.
    ///
    /// # Errors
    /// `EINVAL`: something else.
    pub(super) const fn data(&self) -> SysResult<&Data> {
        match &self.body {
            Body::Regular(data) => Ok(data),
            _ => Err(EINVAL),
        }
    }

    /// The inside of a directory.
    ///
    /// # Errors
    /// `ENOTDIR`.
    pub(super) const fn children(&self) -> SysResult<&RwLock<Children>> {
        match &self.body {
            Body::Directory(children) => Ok(children),
            _ => Err(ENOTDIR),
        }
    }

    /// Gives the node metadata of its own, without keeping it.
    ///
    /// # Errors
    /// The lower file system's.
    pub(super) fn fill(&self) -> SysResult<()> {
        let Some(lower) = &self.lower else { return Ok(()) };
        if self.metadata.lock().is_some() {
            return Ok(());
        }
        let attributes = lower.attributes()?;
        self.metadata.lock().get_or_insert_with(|| Metadata::copied(&attributes));
        Ok(())
    }

    /// Makes the node ready to be changed: from now on it is kept, because only it knows of the change.
    ///
    /// # Errors
    /// `ENOSPC`. The lower file system's.
    pub(super) fn prepare(&self) -> SysResult<()> {
        self.fill()?;
        if self.lower.is_none() || self.charged.load(Ordering::Acquire) {
            return Ok(());
        }
        self.instance.budget.take_inode()?;
        if self.charged.swap(true, Ordering::AcqRel) {
            self.instance.budget.give_inode();
            return Ok(());
        }
        if self.links() > 0 {
            self.instance.kept.lock().insert(self.number, self.me());
        }
        Ok(())
    }

    /// Changes metadata of a node that was prepared or filled.
    pub(super) fn edit(&self, change: impl FnOnce(&mut Metadata)) {
        if let Some(metadata) = self.metadata.lock().as_mut() {
            change(metadata);
        }
    }

    /// How many names it has; filled nodes only.
    pub(super) fn links(&self) -> u32 {
        self.metadata.lock().as_ref().map_or(1, |metadata| metadata.links)
    }

    /// The last name is gone: the node lives as long as somebody holds it.
    pub(super) fn release(&self) {
        if self.lower.is_some() {
            let kept = self.instance.kept.lock().remove(&self.number);
            drop(kept);
        }
    }

    /// The bytes changed.
    pub(super) fn modified(&self) {
        self.edit(Metadata::modified);
    }

    /// The bytes were read. Reading does not make a node differ from the lower inode.
    pub(super) fn accessed(&self, file: &FileDescription) {
        self.edit(|metadata| metadata.accessed(file));
    }

    /// A node of this overlay behind an inode.
    pub(super) fn same_instance(&self, inode: &Arc<dyn Inode>) -> SysResult<Arc<Self>> {
        inode
            .as_any()
            .downcast_ref::<Self>()
            .filter(|node| Arc::ptr_eq(&node.instance, &self.instance))
            .and_then(|node| node.me.upgrade())
            .ok_or(EXDEV)
    }

    fn change_xattrs(&self, change: impl FnOnce(&mut Xattrs) -> SysResult<()>) -> SysResult<()> {
        self.prepare()?;
        if self.xattrs.lock().is_none() {
            let mut copied = Xattrs::new(Arc::clone(self.budget()));
            if let Some(lower) = &self.lower {
                for name in lower.list_xattrs()? {
                    // Ours are the namespaces a memory file system has; others (ACLs) stay below.
                    if let Ok(value) = lower.xattr(&name) {
                        match copied.set(&name, &value, XattrSet::Any) {
                            Ok(()) | Err(abi::errno::EOPNOTSUPP) => {}
                            Err(error) => return Err(error),
                        }
                    }
                }
            }
            self.xattrs.lock().get_or_insert(copied);
        }
        if let Some(xattrs) = self.xattrs.lock().as_mut() {
            change(xattrs)?;
        }
        self.edit(Metadata::changed);
        Ok(())
    }

    fn shape(&self, attributes: &mut Attributes) {
        match &self.body {
            Body::Regular(data) => {
                if let Some(content) = data.upper() {
                    attributes.size = content.size();
                    attributes.blocks_512 = content.blocks_512();
                    attributes.block_size = 4096;
                }
            }
            Body::Directory(children) if self.lower.is_none() => {
                attributes.size = NAME_SIZE * (children.read().visible() as u64 + 2);
            }
            Body::Symlink(Some(target)) => attributes.size = target.len() as u64,
            _ => {}
        }
    }
}

impl Drop for Node {
    /// Frees a tree without recursion: an application may nest directories as deeply as it likes.
    fn drop(&mut self) {
        if *self.charged.get_mut() {
            self.instance.budget.give_inode();
        }
        if self.lower.is_some() {
            let mut nodes = self.instance.nodes.lock();
            // A successor may have taken the place already.
            if nodes.get(&self.number).is_some_and(|node| node.strong_count() == 0) {
                nodes.remove(&self.number);
            }
        }
        let Body::Directory(children) = &mut self.body else { return };
        let mut doomed: Vec<Arc<Self>> = children.get_mut().drain(&self.instance.budget);
        while let Some(node) = doomed.pop() {
            if let Some(mut node) = Arc::into_inner(node)
                && let Body::Directory(children) = &mut node.body
            {
                doomed.extend(children.get_mut().drain(&node.instance.budget));
            }
        }
    }
}

impl Inode for Node {
    fn file_system(&self) -> Arc<dyn FileSystem> {
        self.instance.file_system(self)
    }

    fn is_held(&self) -> bool {
        self.charged.load(Ordering::Acquire)
    }

    fn kind(&self) -> FileKind {
        self.kind
    }

    fn attributes(&self) -> SysResult<Attributes> {
        let mut attributes = match &self.lower {
            Some(lower) => lower.attributes()?,
            None => Attributes::new(self.kind, 0, self.number),
        };
        attributes.inode = self.number;
        attributes.device_number = self.device_number;
        self.shape(&mut attributes);
        if let Some(metadata) = &*self.metadata.lock() {
            metadata.show(&mut attributes);
        }
        Ok(attributes)
    }

    fn set_attributes(&self, change: &SetAttributes) -> SysResult<()> {
        self.prepare()?;
        if let Some(size) = change.size {
            self.writable(size)?.set_size(size)?;
        }
        self.edit(|metadata| metadata.apply(change));
        Ok(())
    }

    fn open(self: Arc<Self>, request: OpenRequest, _task: &Task) -> SysResult<Arc<dyn FileOps>> {
        match &self.body {
            Body::Regular(_) => RegularFile::open(self, request.read),
            Body::Directory(_) => Ok(Directory::open(self)),
            Body::Symlink(_) => Err(ELOOP),
            Body::Special => Err(ENXIO),
        }
    }

    fn lookup(&self, name: &[u8]) -> SysResult<Arc<dyn Inode>> {
        Ok(self.child(name)?)
    }

    fn lookup_ahead(&self, name: &[u8], ahead: &Ahead<'_>) -> SysResult<Arc<dyn Inode>> {
        Ok(self.child_ahead(name, ahead)?)
    }

    fn create(&self, name: &[u8], node: &NewNode<'_>) -> SysResult<Arc<dyn Inode>> {
        Ok(self.add_new(name, node)?)
    }

    fn create_unnamed(&self, node: &NewNode<'_>) -> SysResult<Arc<dyn Inode>> {
        let new = Self::make(&self.instance, node, Weak::new())?;
        new.edit(|metadata| metadata.links = 0);
        new.linkable.store(true, Ordering::Relaxed);
        Ok(new)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> SysResult<()> {
        self.add_name(name, &self.same_instance(target)?)
    }

    fn unlink(&self, name: &[u8], _victim: &Arc<dyn Inode>) -> SysResult<()> {
        self.remove_name(name)
    }

    fn remove_directory(&self, name: &[u8], _victim: &Arc<dyn Inode>) -> SysResult<()> {
        self.remove_empty(name)
    }

    fn rename(
        &self,
        name: &[u8],
        new_directory: &Arc<dyn Inode>,
        new_name: &[u8],
        exchange: bool,
    ) -> SysResult<()> {
        let directory = self.same_instance(new_directory)?;
        if exchange {
            self.exchange(name, &directory, new_name)
        } else {
            self.move_name(name, &directory, new_name)
        }
    }

    fn read_link(&self, task: &Task) -> SysResult<LinkTarget> {
        match (&self.body, &self.lower) {
            (Body::Symlink(Some(target)), _) => Ok(LinkTarget::Path(target.to_vec())),
            (Body::Symlink(None), Some(lower)) => lower.read_link(task),
            _ => Err(EINVAL),
        }
    }

    fn connect_host(&self, kind: u32) -> SysResult<OwnedFd> {
        self.lower.as_ref().map_or(Err(ECONNREFUSED), |lower| lower.connect_host(kind))
    }

    fn xattr(&self, name: &[u8]) -> SysResult<Vec<u8>> {
        if let Some(xattrs) = &*self.xattrs.lock() {
            return xattrs.get(name);
        }
        self.lower.as_ref().map_or(Err(EINVAL), |lower| lower.xattr(name))
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], how: XattrSet) -> SysResult<()> {
        self.change_xattrs(|xattrs| xattrs.set(name, value, how))
    }

    fn remove_xattr(&self, name: &[u8]) -> SysResult<()> {
        self.change_xattrs(|xattrs| xattrs.remove(name))
    }

    fn list_xattrs(&self) -> SysResult<Vec<Vec<u8>>> {
        if let Some(xattrs) = &*self.xattrs.lock() {
            return Ok(xattrs.names());
        }
        self.lower.as_ref().map_or(Ok(Vec::new()), |lower| lower.list_xattrs())
    }

    fn backing(&self) -> SysResult<Arc<HostFile>> {
        match self.lower_file()? {
            Some(file) => Ok(file),
            None => self.writable(u64::MAX)?.host_file(),
        }
    }

    fn names(&self, next: NamesFor) -> SysResult<Vec<ListedName>> {
        self.load(next)?;
        Ok(self.visible_from(0, usize::MAX)?.into_iter().map(|(_, entry)| entry).collect())
    }

    fn attachments(&self) -> &Attachments {
        &self.attachments
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
