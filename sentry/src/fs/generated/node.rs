//! Inodes of generated file systems.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use abi::errno::{EINVAL, ELOOP, ENOENT, ENOTDIR, EPERM, SysResult};

use parking_lot::Mutex;

use super::Generated;
use super::open::{DirectoryFile, Reader, TextFile};
use crate::task::Task;
use crate::vfs::{
    Attachments, Attributes, CachePolicy, FileKind, FileOps, FileSystem, Inode, LinkTarget, OpenRequest,
    SetAttributes,
};

/// Where a node is: all that its number depends on.
#[derive(Clone)]
pub struct Place {
    instance: Weak<Generated>,
    number: u64,
    parent: u64,
}

impl Place {
    pub(super) fn root(instance: Weak<Generated>) -> Self {
        Self { instance, number: 1, parent: 1 }
    }

    /// The place of a child.
    #[must_use]
    pub fn child(&self, name: &[u8]) -> Self {
        Self { instance: self.instance.clone(), number: child_number(self.number, name), parent: self.number }
    }

    /// The number of the node here.
    pub const fn number(&self) -> u64 {
        self.number
    }
}

/// FNV-1a over the parent's number and the name; never a small number, which roots have.
fn child_number(parent: u64, name: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parent.to_le_bytes().iter().chain(name) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // Positive as a signed number, which some programs assume.
    hash >> 1 | 1 << 62
}

/// Who owns a node.
#[derive(Clone)]
pub enum Owner {
    /// User and group 0.
    Root,
    /// To be asked each time.
    Asked(Arc<dyn OwnerOf>),
}

/// Knows an owner.
pub trait OwnerOf: Send + Sync {
    /// User and group.
    fn owner(&self) -> (u32, u32);
}

/// What a node is.
pub enum Body {
    /// A file whose text is made when it is read.
    Text(Box<dyn Text>),
    /// A directory.
    Directory(Box<dyn Directory>),
    /// A symbolic link.
    Link(Box<dyn Link>),
    /// A file with operations of its own.
    Special(Box<dyn SpecialFile>),
}

/// A generated file.
pub trait Text: Send + Sync {
    /// Judges an `open` beyond the permission bits.
    ///
    /// # Errors
    /// `EACCES`, `ESRCH`.
    fn check_open(&self, request: OpenRequest, reader: &Reader) -> SysResult<()> {
        let _ = (request, reader);
        Ok(())
    }

    /// The whole text.
    ///
    /// # Errors
    /// `ESRCH`: what it tells of is gone.
    fn read(&self, reader: &Reader) -> SysResult<Vec<u8>>;

    /// What one `write` brought, at an offset; all of it is consumed.
    ///
    /// # Errors
    /// `EINVAL`: it makes no sense; `EPERM`.
    fn write(&self, offset: u64, bytes: &[u8], reader: &Reader) -> SysResult<()> {
        let _ = (offset, bytes, reader);
        Err(EINVAL)
    }
}

/// A name in a listing.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name.
    pub name: std::borrow::Cow<'static, [u8]>,
    /// Its kind.
    pub kind: FileKind,
    /// Its position: 2 or more (0 and 1 are `.` and `..`), ascending.
    pub position: u64,
    /// Its inode number; filled in by the node.
    pub number: u64,
}

impl Listed {
    /// An entry without its number.
    pub fn new(name: impl Into<std::borrow::Cow<'static, [u8]>>, kind: FileKind, position: u64) -> Self {
        Self { name: name.into(), kind, position, number: 0 }
    }
}

/// A generated directory.
pub trait Directory: Send + Sync {
    /// The node of a name. `at` is this directory's place.
    ///
    /// # Errors
    /// `ENOENT`.
    fn lookup(&self, name: &[u8], at: &Place) -> SysResult<Arc<Node>>;

    /// All names whose position is `from` or more, in order; a part of them will do, an empty list is the end.
    ///
    /// # Errors
    /// `ENOENT`: what it lists is gone.
    fn list(&self, from: u64) -> SysResult<Vec<Listed>>;

    /// Whether a name always means the same node, so that whoever holds it and whoever looks it up have one object
    /// (a mount attached below it is found again). Never for what may end while its node is held.
    fn is_lasting(&self, name: &[u8]) -> bool {
        let _ = name;
        false
    }

    /// How many directories it holds, if that is cheap to know (for the count of links).
    fn subdirectories(&self) -> u32 {
        0
    }
}

/// A generated link.
pub trait Link: Send + Sync {
    /// Where it leads for `task`.
    ///
    /// # Errors
    /// `EACCES`, `ENOENT`.
    fn target(&self, task: &Task) -> SysResult<LinkTarget>;
}

/// A file that opens in its own way.
pub trait SpecialFile: Send + Sync {
    /// Opens it.
    ///
    /// # Errors
    /// `EACCES`, `ESRCH`.
    fn open(&self, request: OpenRequest, task: &Task) -> SysResult<Arc<dyn FileOps>>;
}

/// An inode.
pub struct Node {
    place: Place,
    permissions: u32,
    owner: Owner,
    body: Body,
    /// When it was looked up: generated nodes have no other history.
    born: Attributes,
    /// Living nodes of lasting names; at most as many as the directory has such names.
    children: Mutex<BTreeMap<Box<[u8]>, Weak<Node>>>,
    attachments: Attachments,
}

impl Node {
    /// A node at a place.
    pub fn new(place: &Place, permissions: u32, owner: Owner, body: Body) -> Arc<Self> {
        let born = Attributes::new(body.kind(), permissions, place.number);
        Arc::new(Self {
            place: place.clone(),
            permissions,
            owner,
            body,
            born,
            children: Mutex::default(),
            attachments: Attachments::default(),
        })
    }

    /// Names from a position on, `.` and `..` included.
    pub(super) fn list_entries(&self, from: u64) -> SysResult<Vec<Listed>> {
        let Body::Directory(directory) = &self.body else { return Err(ENOTDIR) };
        let mut entries = Vec::new();
        for (position, name, number) in
            [(0, &b"."[..], self.place.number), (1, &b".."[..], self.place.parent)]
        {
            if position >= from {
                entries.push(Listed { number, ..Listed::new(name, FileKind::Directory, position) });
            }
        }
        let mut found = directory.list(from.max(2))?;
        for entry in &mut found {
            entry.number = child_number(self.place.number, &entry.name);
        }
        entries.append(&mut found);
        Ok(entries)
    }

    pub(super) fn text(&self) -> SysResult<&dyn Text> {
        match &self.body {
            Body::Text(text) => Ok(&**text),
            _ => Err(EINVAL),
        }
    }
}

impl Body {
    /// The kind of a node with this body.
    pub const fn kind(&self) -> FileKind {
        match self {
            Self::Text(_) | Self::Special(_) => FileKind::Regular,
            Self::Directory(_) => FileKind::Directory,
            Self::Link(_) => FileKind::Symlink,
        }
    }
}

impl Inode for Node {
    fn file_system(&self) -> Arc<dyn FileSystem> {
        match self.place.instance.upgrade() {
            Some(instance) => instance,
            None => Generated::empty(),
        }
    }

    fn kind(&self) -> FileKind {
        self.body.kind()
    }

    fn attributes(&self) -> SysResult<Attributes> {
        let (uid, gid) = match &self.owner {
            Owner::Root => (0, 0),
            Owner::Asked(owner) => owner.owner(),
        };
        let links = match &self.body {
            Body::Directory(directory) => 2 + directory.subdirectories(),
            _ => 1,
        };
        Ok(Attributes { uid, gid, links, permissions: self.permissions, block_size: 1024, ..self.born })
    }

    fn set_attributes(&self, change: &SetAttributes) -> SysResult<()> {
        // `open` with O_TRUNC and `truncate` do nothing to generated files, as on Linux.
        let nothing = change.permissions.is_none() && change.uid.is_none() && change.gid.is_none();
        if nothing { Ok(()) } else { Err(EPERM) }
    }

    fn open(self: Arc<Self>, request: OpenRequest, task: &Task) -> SysResult<Arc<dyn FileOps>> {
        match &self.body {
            Body::Text(text) => {
                let reader = Reader::of(task);
                text.check_open(request, &reader)?;
                Ok(Arc::new(TextFile::new(Arc::clone(&self), reader)))
            }
            Body::Directory(_) => Ok(Arc::new(DirectoryFile::new(Arc::clone(&self)))),
            Body::Special(file) => file.open(request, task),
            Body::Link(_) => Err(ELOOP),
        }
    }

    fn lookup(&self, name: &[u8]) -> SysResult<Arc<dyn Inode>> {
        let Body::Directory(directory) = &self.body else { return Err(ENOTDIR) };
        if self.place.instance.strong_count() == 0 {
            return Err(ENOENT);
        }
        if !directory.is_lasting(name) {
            return Ok(directory.lookup(name, &self.place)?);
        }
        let living = self.children.lock().get(name).and_then(Weak::upgrade);
        if let Some(living) = living {
            return Ok(living);
        }
        let made = directory.lookup(name, &self.place)?;
        self.children.lock().insert(name.into(), Arc::downgrade(&made));
        Ok(made)
    }

    fn cache_policy(&self) -> CachePolicy {
        CachePolicy::Revalidate
    }

    fn read_link(&self, task: &Task) -> SysResult<LinkTarget> {
        match &self.body {
            Body::Link(link) => link.target(task),
            _ => Err(EINVAL),
        }
    }

    fn attachments(&self) -> &Attachments {
        &self.attachments
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
