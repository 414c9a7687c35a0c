//! POSIX message queues (`man 7 mq_overview`) and the file system that shows them.
//!
//! * [`MessageQueues`]: the one instance of the sandbox, whether it is mounted or not: a flat directory of queues.
//! * [`Queue`]: a queue, and the inode it is (`queue.rs`); `delivery.rs` is what happens to messages.
//! * [`Accounts`]: who has how much of what (`accounts.rs`). Bytes are charged when a queue is made, as if it were full.
//!
//! The calls are in the crate above. Notification by `SIGEV_THREAD` needs a netlink socket, which there is none of.

mod accounts;
mod delivery;
mod queue;

pub use accounts::{Accounts, PRIORITIES, QueueLimit, Request};
pub use delivery::{Message, Notification, Wait};
pub use queue::{Queue, QueueFile, Shape, queue_of};

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, OnceLock, Weak};

use abi::errno::{EEXIST, EINVAL, ENOENT, SysResult};
use parking_lot::Mutex;

use crate::fs::tmpfs::metadata::Metadata;
use crate::fs::tmpfs::{directory_seek, emit_dots};
use crate::task::Task;
use crate::vfs::{
    Attachments, Attributes, CachePolicy, DeviceNumber, DirectoryEntry, FileDescription, FileKind, FileOps,
    FileSystem, FileSystemFactory, FileSystemStatus, Inode, NewKind, NewNode, OpenRequest, SetAttributes,
    allocate_device, allocate_inode,
};

/// `MQUEUE_MAGIC`
const MAGIC: u64 = 0x1980_0202;
/// What Linux counts for a name in the directory's size.
const ENTRY_SIZE: u64 = 20;
/// Names copied out of the directory at once.
const BATCH: usize = 64;

/// See the module's text.
pub struct MessageQueues {
    device: DeviceNumber,
    accounts: Arc<Accounts>,
    root: OnceLock<Arc<QueueDirectory>>,
    me: Weak<Self>,
}

impl MessageQueues {
    /// No queues yet.
    pub fn new() -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            device: allocate_device(),
            accounts: Arc::default(),
            root: OnceLock::new(),
            me: me.clone(),
        })
    }

    /// The limits and what is used of them.
    pub fn accounts(&self) -> &Arc<Accounts> {
        &self.accounts
    }

    /// The directory of all queues.
    pub fn directory(&self) -> &Arc<QueueDirectory> {
        self.root.get_or_init(|| QueueDirectory::new(self.me.clone()))
    }
}

impl FileSystem for MessageQueues {
    fn type_name(&self) -> &'static str {
        "mqueue"
    }

    fn device(&self) -> DeviceNumber {
        self.device
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.directory().clone()
    }

    fn status(&self) -> SysResult<FileSystemStatus> {
        Ok(FileSystemStatus { magic: MAGIC, block_size: 4096, name_max: 255, ..Default::default() })
    }
}

/// Offers the queues to `mount(2)`: the same ones however often they are mounted, as there is one IPC namespace.
pub struct Factory;

impl FileSystemFactory for Factory {
    fn make(&self, task: &Task, _source: &[u8], _data: &[u8]) -> SysResult<Arc<dyn FileSystem>> {
        Ok(task.kernel.message_queues.clone())
    }
}

/// The directory of queues.
pub struct QueueDirectory {
    instance: Weak<MessageQueues>,
    number: u64,
    metadata: Mutex<Metadata>,
    names: Mutex<BTreeMap<Box<[u8]>, Arc<Queue>>>,
    attachments: Attachments,
}

impl QueueDirectory {
    fn new(instance: Weak<MessageQueues>) -> Arc<Self> {
        Arc::new(Self {
            instance,
            number: allocate_inode(),
            metadata: Mutex::new(Metadata::new(0o1777, 0, 0, 2)),
            names: Mutex::default(),
            attachments: Attachments::default(),
        })
    }

    /// The queue with a name.
    pub fn find(&self, name: &[u8]) -> Option<Arc<Queue>> {
        self.names.lock().get(name).cloned()
    }

    /// Makes a queue. Permission to write here has been checked.
    ///
    /// # Errors
    /// `EEXIST`; those of [`Accounts::open`].
    pub fn make(&self, name: &[u8], metadata: Metadata, request: Request) -> SysResult<Arc<Queue>> {
        let instance = self.instance.upgrade().ok_or(ENOENT)?;
        let charge = Accounts::open(&instance.accounts, request)?;
        let made = Queue::new(self.instance.clone(), metadata, charge);
        {
            let mut names = self.names.lock();
            if names.contains_key(name) {
                return Err(EEXIST);
            }
            names.insert(name.into(), Arc::clone(&made));
        }
        self.metadata.lock().modified();
        Ok(made)
    }

    fn batch(&self, after: Option<&[u8]>) -> Vec<(Box<[u8]>, u64)> {
        let names = self.names.lock();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = names.range::<[u8], _>((from, Bound::Unbounded));
        range.take(BATCH).map(|(name, queue)| (name.clone(), queue.number())).collect()
    }
}

impl Inode for QueueDirectory {
    fn file_system(&self) -> Arc<dyn FileSystem> {
        match self.instance.upgrade() {
            Some(instance) => instance,
            None => MessageQueues::new(),
        }
    }

    fn kind(&self) -> FileKind {
        FileKind::Directory
    }

    fn attributes(&self) -> SysResult<Attributes> {
        let mut attributes = Attributes::new(FileKind::Directory, 0, self.number);
        self.metadata.lock().show(&mut attributes);
        attributes.size = wide(self.names.lock().len()) * ENTRY_SIZE;
        Ok(attributes)
    }

    fn set_attributes(&self, change: &SetAttributes) -> SysResult<()> {
        self.metadata.lock().apply(change);
        Ok(())
    }

    fn open(self: Arc<Self>, _request: OpenRequest, _task: &Task) -> SysResult<Arc<dyn FileOps>> {
        Ok(Arc::new(OpenDirectory { directory: self, passed: Mutex::new((0, None)) }))
    }

    fn lookup(&self, name: &[u8]) -> SysResult<Arc<dyn Inode>> {
        Ok(self.find(name).ok_or(ENOENT)?)
    }

    /// `mq_open` and `mq_unlink` change names without the VFS.
    fn cache_policy(&self) -> CachePolicy {
        CachePolicy::Revalidate
    }

    /// `open(O_CREAT)` in the mounted directory. It does not tell who asks: what holds is the user's account, with the
    /// limits that nobody was given more than.
    fn create(&self, name: &[u8], node: &NewNode<'_>) -> SysResult<Arc<dyn Inode>> {
        if !matches!(node.kind, NewKind::Regular) {
            return Err(abi::errno::EPERM);
        }
        let metadata = Metadata::new(node.permissions, node.uid, node.gid, 1);
        Ok(self.make(name, metadata, Request::by_name(node.uid))?)
    }

    fn unlink(&self, name: &[u8], _victim: &Arc<dyn Inode>) -> SysResult<()> {
        let removed = self.names.lock().remove(name).ok_or(ENOENT)?;
        removed.unlinked();
        self.metadata.lock().modified();
        Ok(())
    }

    fn attachments(&self) -> &Attachments {
        &self.attachments
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The directory, open. Positions count names passed; a name that is made or removed meanwhile moves none of the others,
/// because the name last passed is remembered.
struct OpenDirectory {
    directory: Arc<QueueDirectory>,
    /// A position, and the name before it.
    passed: Mutex<(u64, Option<Box<[u8]>>)>,
}

impl OpenDirectory {
    /// The name before a position that is not where the last listing ended.
    fn name_before(&self, position: u64) -> Option<Box<[u8]>> {
        let passed = self.passed.lock();
        if passed.0 == position {
            return passed.1.clone();
        }
        let index = usize::try_from(position.checked_sub(3)?).ok()?;
        let names = self.directory.names.lock();
        names.keys().nth(index).or_else(|| names.keys().next_back()).cloned()
    }
}

impl FileOps for OpenDirectory {
    fn read_directory(
        &self,
        from: u64,
        _file: &FileDescription,
        emit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> SysResult<()> {
        let number = self.directory.number;
        if !emit_dots(from, number, number, emit) {
            return Ok(());
        }
        let mut position = from.max(2);
        let mut before = if position == 2 { None } else { self.name_before(position) };
        loop {
            let batch = self.directory.batch(before.as_deref());
            if batch.is_empty() {
                return Ok(());
            }
            for (name, inode) in batch {
                let kind = FileKind::Regular.directory_entry_type();
                if !emit(DirectoryEntry { inode, next: position + 1, kind, name: &name }) {
                    return Ok(());
                }
                position += 1;
                before = Some(name);
                *self.passed.lock() = (position, before.clone());
            }
        }
    }

    fn seek(&self, _offset: i64, whence: u32, _file: &FileDescription) -> Option<SysResult<u64>> {
        directory_seek(whence)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A name as the calls take it: without the slash that the C library's names begin with.
///
/// # Errors
/// `ENAMETOOLONG`; `EACCES`: it could not be a name in one directory. `ENOENT`: it is empty.
pub fn check_name(name: &[u8]) -> SysResult<()> {
    match name {
        b"" => Err(ENOENT),
        b"." | b".." => Err(abi::errno::EACCES),
        _ if name.contains(&b'/') => Err(abi::errno::EACCES),
        _ if name.len() > crate::vfs::NAME_MAX => Err(abi::errno::ENAMETOOLONG),
        _ => Ok(()),
    }
}

/// Whether a shape could be anybody's.
fn positive(number: i64) -> SysResult<u64> {
    u64::try_from(number).ok().filter(|number| *number != 0).ok_or(EINVAL)
}

/// A length as limits count it.
fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
