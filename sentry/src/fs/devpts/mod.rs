//! `devpts`: the names of pseudo-terminals (`man 4 pts`). Each mount is an instance of its own, with its own numbers.
//!
//! [`Devpts`] is a mounted instance, [`Instance`] what its nodes share, [`Node`] a node. The terminals themselves are in
//! [`crate::tty`], the options in `options.rs`.
//!
//! Ownership: a slave's node keeps its terminal and the instance; the instance keeps the node until the master is
//! closed ([`Instance::release`]). The root is kept by the file system, that by its mounts.

mod options;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

use abi::errno::{ENOENT, ENOSPC, ENXIO, SysResult};
use parking_lot::Mutex;

use super::tmpfs::{directory_seek, emit_dots};
use crate::task::Task;
use crate::tty::{PTMX, Terminal};
use crate::vfs::{
    Attachments, Attributes, CachePolicy, DeviceNumber, DirectoryEntry, FileDescription, FileKind, FileOps,
    FileSystem, FileSystemFactory, FileSystemStatus, Inode, ListedName, Location, MayAsk, Mount, NamesFor,
    OpenRequest, SetAttributes, SetTime, WalkFlags, allocate_device,
};
use options::Options;

/// `DEVPTS_SUPER_MAGIC`
const MAGIC: u64 = 0x1cd1;
const ROOT_INODE: u64 = 1;
const PTMX_INODE: u64 = 2;
/// Inode number of slave 0.
const FIRST_SLAVE_INODE: u64 = 3;

/// Terminals of one instance at most (`/proc/sys/kernel/pty/max` is 4096).
pub const TERMINALS_MAX: u32 = 1024;

/// A mounted devpts.
pub struct Devpts {
    instance: Arc<Instance>,
    root: Arc<Node>,
}

/// What the nodes of one devpts share.
pub struct Instance {
    device: DeviceNumber,
    options: Options,
    slaves: Mutex<BTreeMap<u32, Arc<Node>>>,
    file_system: OnceLock<Weak<Devpts>>,
}

enum What {
    Root { ptmx: Arc<Node> },
    Ptmx,
    Slave(Arc<Terminal>),
}

/// A node of a devpts.
pub struct Node {
    instance: Arc<Instance>,
    what: What,
    attributes: Mutex<Attributes>,
    attachments: Attachments,
}

/// Makes instances for `mount(2)`.
pub struct DevptsFactory;

impl FileSystemFactory for DevptsFactory {
    fn make(&self, _task: &Task, _source: &[u8], data: &[u8]) -> SysResult<Arc<dyn FileSystem>> {
        Ok(Devpts::new(Options::parse(data)?))
    }
}

impl Devpts {
    fn new(options: Options) -> Arc<Self> {
        let instance = Arc::new(Instance {
            device: allocate_device(),
            options,
            slaves: Mutex::default(),
            file_system: OnceLock::new(),
        });
        let devpts = Self::around(&instance);
        let _ = instance.file_system.set(Arc::downgrade(&devpts));
        devpts
    }

    /// An instance that is mounted nowhere.
    pub(crate) fn private() -> Arc<Self> {
        Self::new(Options::default())
    }

    fn around(instance: &Arc<Instance>) -> Arc<Self> {
        let mut attributes =
            Attributes::new(FileKind::CharacterDevice, instance.options.ptmx_mode, PTMX_INODE);
        attributes.device_number = PTMX;
        let ptmx = Node::new(instance, What::Ptmx, attributes);
        let attributes = Attributes::new(FileKind::Directory, 0o755, ROOT_INODE);
        let root = Node::new(instance, What::Root { ptmx }, attributes);
        Arc::new(Self { instance: Arc::clone(instance), root })
    }

    /// What its nodes share.
    pub(crate) fn instance(&self) -> Arc<Instance> {
        Arc::clone(&self.instance)
    }
}

impl FileSystem for Devpts {
    fn type_name(&self) -> &'static str {
        "devpts"
    }

    fn device(&self) -> DeviceNumber {
        self.instance.device
    }

    fn root(&self) -> Arc<dyn Inode> {
        Arc::clone(&self.root) as _
    }

    fn status(&self) -> SysResult<FileSystemStatus> {
        Ok(FileSystemStatus { magic: MAGIC, block_size: 4096, name_max: 255, ..Default::default() })
    }

    fn options(&self) -> String {
        self.instance.options.to_string()
    }
}

impl Instance {
    /// Makes a terminal with the lowest free number, owned by the given user (or as the mount's options say).
    ///
    /// # Errors
    /// `ENOSPC`: there are too many.
    pub fn allocate(
        self: &Arc<Self>,
        uid: u32,
        gid: u32,
        make: impl FnOnce(&Weak<Self>, u32) -> Arc<Terminal>,
    ) -> SysResult<Arc<Terminal>> {
        let mut slaves = self.slaves.lock();
        let limit = self.options.max.min(TERMINALS_MAX);
        let number = (0..limit).find(|number| !slaves.contains_key(number)).ok_or(ENOSPC)?;
        let terminal = make(&Arc::downgrade(self), number);
        let mut attributes = Attributes::new(
            FileKind::CharacterDevice,
            self.options.mode,
            FIRST_SLAVE_INODE + u64::from(number),
        );
        attributes.device_number = terminal.device();
        attributes.uid = self.options.uid.unwrap_or(uid);
        attributes.gid = self.options.gid.unwrap_or(gid);
        attributes.block_size = 1024;
        slaves.insert(number, Node::new(self, What::Slave(Arc::clone(&terminal)), attributes));
        Ok(terminal)
    }

    /// The master of a terminal was closed: its name is gone, its number free.
    pub fn release(&self, number: u32) {
        let removed = self.slaves.lock().remove(&number);
        drop(removed);
    }

    /// The node of a terminal.
    pub fn slave(&self, number: u32) -> Option<Arc<dyn Inode>> {
        self.slaves.lock().get(&number).map(|node| Arc::clone(node) as _)
    }

    /// Name, inode number and position of every node after position `from` (2 is the first after the dots).
    fn entries(&self, from: u64) -> Vec<(Vec<u8>, u64, u64)> {
        let mut entries = Vec::new();
        if from <= PTMX_INODE {
            entries.push((b"ptmx".to_vec(), PTMX_INODE, FIRST_SLAVE_INODE));
        }
        for number in self.slaves.lock().keys() {
            let inode = FIRST_SLAVE_INODE + u64::from(*number);
            if inode >= from {
                entries.push((number.to_string().into_bytes(), inode, inode + 1));
            }
        }
        entries
    }
}

impl Node {
    fn new(instance: &Arc<Instance>, what: What, attributes: Attributes) -> Arc<Self> {
        Arc::new(Self {
            instance: Arc::clone(instance),
            what,
            attributes: Mutex::new(attributes),
            attachments: Attachments::default(),
        })
    }
}

impl Inode for Node {
    fn file_system(&self) -> Arc<dyn FileSystem> {
        match self.instance.file_system.get().and_then(Weak::upgrade) {
            Some(file_system) => file_system,
            // Only a file that outlived every mount comes here.
            None => Devpts::around(&self.instance),
        }
    }

    fn kind(&self) -> FileKind {
        self.attributes.lock().kind
    }

    fn attributes(&self) -> SysResult<Attributes> {
        Ok(*self.attributes.lock())
    }

    fn set_attributes(&self, change: &SetAttributes) -> SysResult<()> {
        let now = i64::try_from(crate::time::realtime_ns()).unwrap_or(i64::MAX);
        let time = |set: SetTime| match set {
            SetTime::Now => now,
            SetTime::To(time) => time,
        };
        let mut attributes = self.attributes.lock();
        attributes.permissions = change.permissions.unwrap_or(attributes.permissions);
        attributes.uid = change.uid.unwrap_or(attributes.uid);
        attributes.gid = change.gid.unwrap_or(attributes.gid);
        attributes.access_ns = change.access.map_or(attributes.access_ns, time);
        attributes.modify_ns = change.modify.map_or(attributes.modify_ns, time);
        attributes.change_ns = now;
        Ok(())
    }

    fn open(self: Arc<Self>, _request: OpenRequest, _task: &Task) -> SysResult<Arc<dyn FileOps>> {
        match &self.what {
            What::Root { .. } => Ok(Arc::new(Directory { instance: Arc::clone(&self.instance) })),
            // Devices are opened by their drivers.
            What::Ptmx | What::Slave(_) => Err(ENXIO),
        }
    }

    fn lookup(&self, name: &[u8]) -> SysResult<Arc<dyn Inode>> {
        let What::Root { ptmx } = &self.what else { return Err(ENOENT) };
        if name == b"ptmx" {
            return Ok(Arc::clone(ptmx) as _);
        }
        let number: u32 = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok()).ok_or(ENOENT)?;
        // Neither "+1" nor "01".
        if number.to_string().as_bytes() != name {
            return Err(ENOENT);
        }
        self.instance.slave(number).ok_or(ENOENT)
    }

    fn cache_policy(&self) -> CachePolicy {
        CachePolicy::Revalidate
    }

    fn names(&self, _next: NamesFor) -> SysResult<Vec<ListedName>> {
        let kind = FileKind::CharacterDevice.directory_entry_type();
        let entries = self.instance.entries(0).into_iter();
        Ok(entries.map(|(name, inode, _)| ListedName { name: name.into(), inode, kind }).collect())
    }

    fn attachments(&self) -> &Attachments {
        &self.attachments
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Directory {
    instance: Arc<Instance>,
}

impl FileOps for Directory {
    fn read_directory(
        &self,
        from: u64,
        _file: &FileDescription,
        emit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> SysResult<()> {
        if !emit_dots(from, ROOT_INODE, ROOT_INODE, emit) {
            return Ok(());
        }
        let kind = FileKind::CharacterDevice.directory_entry_type();
        for (name, inode, next) in self.instance.entries(from) {
            if !emit(DirectoryEntry { inode, next, kind, name: &name }) {
                break;
            }
        }
        Ok(())
    }

    fn seek(&self, _offset: i64, whence: u32, _file: &FileDescription) -> Option<SysResult<u64>> {
        directory_seek(whence)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn node(inode: &Arc<dyn Inode>) -> Option<&Node> {
    inode.as_any().downcast_ref()
}

/// The instance a node belongs to, if it is of a devpts.
pub fn instance_of(inode: &Arc<dyn Inode>) -> Option<Arc<Instance>> {
    node(inode).map(|node| Arc::clone(&node.instance))
}

/// The terminal a node stands for.
pub fn terminal_of(inode: &Arc<dyn Inode>) -> Option<Arc<Terminal>> {
    match &node(inode)?.what {
        What::Slave(terminal) => Some(Arc::clone(terminal)),
        _ => None,
    }
}

/// The instance mounted at `/dev/pts`, as the task sees it.
pub fn mounted(task: &Task) -> Option<(Arc<Instance>, Arc<Mount>)> {
    let location = task.walk(libc::AT_FDCWD, b"/dev/pts", WalkFlags::FOLLOW).ok()?;
    let instance = instance_of(&location.mount.file_system.root())?;
    Some((instance, location.mount))
}

/// The place of a terminal's slave: in the mount that its master `file` was opened in, or at `/dev/pts`.
///
/// # Errors
/// `ENXIO`: neither shows the terminal's instance.
pub fn slave_location(task: &Task, file: &FileDescription, terminal: &Terminal) -> SysResult<Location> {
    let shows = |mount: &Arc<Mount>| {
        instance_of(&mount.file_system.root())
            .is_some_and(|instance| std::ptr::eq(Arc::as_ptr(&instance), terminal.instance().as_ptr()))
    };
    let own = file.location.as_ref().map(|location| Arc::clone(&location.mount));
    let mount = own.filter(shows).or_else(|| mounted(task).map(|(_, mount)| mount).filter(shows));
    let mount = mount.ok_or(ENXIO)?;
    let name = terminal.number().to_string();
    let dentry = mount.root.lookup(name.as_bytes(), &task.kernel.vfs.dentries, MayAsk::Yes)?;
    Ok(Location { mount, dentry })
}
