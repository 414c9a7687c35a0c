//! Host files, through the gofer (`wire::Client`).
//!
//! [`GoferFs`] is one tree of the gofer's list, mounted; [`Inode`](inode::GoferInode) one host inode of it, the same object for all its
//! names while it lives (`inode.rs`; operations on names in `names.rs`); `file.rs` and `directory.rs` are open files.
//!
//! The gofer opens, the sentry reads, writes and maps: a regular file is a donated descriptor. At most four are in
//! use for one inode (reading, writing, appending, `fstat` alone; `descriptors.rs`), shared by all who have it open. Where files are
//! opened in the order of a listing, the next ones are opened along (`sequence.rs`, `early.rs`).
//!
//! An *exclusive* tree is changed by nobody else: attributes, link targets, listings and the
//! descriptors of files opened lately stay cached, and most calls ask the gofer nothing. In a shared tree everything is asked
//! again in each system call, in one request for a whole path and the open at its end (`ask.rs`), unless the host would
//! have told of a change (`watch.rs`); a file with a live descriptor is asked directly (`fstat`).
//!
//! Locks: all of a `Tree`'s and of an inode's are leaves (but for the watches', under which timers are set); none is held across a call of the gofer, nor while an inode
//! may be dropped.

mod ask;
mod attributes;
mod descriptors;
mod directory;
mod early;
mod file;
mod guess;
mod inode;
mod names;
mod sequence;
mod watch;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::errno::SysResult;
use parking_lot::Mutex;
use wire::{Attr, Client, TreeFlags};

use crate::memory::HostFile;
use crate::time::Timers;
use crate::vfs::{DeviceNumber, FileSystem, FileSystemStatus, Inode, allocate_device};
use ask::Foreseen;
use attributes::HostKey;
use descriptors::Use;
use early::Spares;
use guess::Guess;
pub use inode::GoferInode;
use sequence::Habit;
use watch::Watch;

/// Descriptors of a tree that stay open after their last close, so that opening the file again asks nobody: of an
/// exclusive tree, ...
const RECENT_MAX: usize = 8192;
/// ... of a shared one, ...
const RECENT_SHARED_MAX: usize = 512;
/// ... and never more than this part of what we may have open, ...
const RECENT_PART: usize = 4;
/// ... or than what is left of it beside memory files, which may be half of it, and so many others.
const RECENT_LEAVES: usize = 4096;
/// Attributes of files that are no objects now, for each tree: listings brought them, or the object was given up.
const PRIMED_MAX: usize = 32 * 1024;
/// Names kept in the order in which they were listed, for each tree.
const LISTED_MAX: usize = 32 * 1024;
/// Directories of a shared tree that stay held after their last use, for each tree.
const DIRECTORIES_MAX: usize = 64;
/// Where the number of a foreign host device begins in an inode number.
const DEVICE_SHIFT: u32 = 48;

/// A mounted tree of the gofer.
pub struct GoferFs {
    tree: Arc<Tree>,
    root: Arc<GoferInode>,
}

/// What all inodes of a tree share.
struct Tree {
    client: Client,
    /// In the gofer's list.
    index: u32,
    flags: TreeFlags,
    device: DeviceNumber,
    /// Living inodes, so that two names of one host inode are one object.
    inodes: Mutex<HashMap<HostKey, Weak<GoferInode>>>,
    /// Host devices met, the root's first: part of inode numbers.
    devices: Mutex<Vec<wire::DeviceNumber>>,
    /// Descriptors kept open.
    recent: Mutex<Recent>,
    /// Whether lookups should open what they find.
    guess: Guess,
    /// Whether files are opened in the order of listings.
    habit: Habit,
    /// Opened ahead of being asked for.
    spares: Spares,
    /// Names in all sequences together.
    listed: AtomicUsize,
    /// Entries in all `primed` maps together.
    primed: AtomicUsize,
    /// Counts this kernel's changes of names.
    changes: AtomicU64,
    /// What the last request told of names that were not asked for yet.
    foreseen: Mutex<Vec<Foreseen>>,
    /// Of a shared tree: directories met lately, the oldest first.
    directories: Mutex<VecDeque<Arc<GoferInode>>>,
    /// Of a shared tree: what is known without asking.
    watch: Watch,
    file_system: OnceLock<Weak<GoferFs>>,
}

/// Descriptors kept open. Whoever has to leave is chosen by chance: a program that goes through more files than fit, again and
/// again, would never meet one if it were the oldest.
struct Recent {
    files: Vec<Arc<HostFile>>,
    /// How many the process has room for.
    room: usize,
    chance: u32,
}

impl Recent {
    fn new() -> Self {
        let limit = crate::fs::tmpfs::budget::host_limits().descriptors;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let room = (limit / RECENT_PART).max((limit / 2).saturating_sub(RECENT_LEAVES));
        Self { files: Vec::new(), room, chance: 1 }
    }

    /// Keeps a file among so many; returns the one that had to leave.
    fn keep(&mut self, file: Arc<HostFile>, max: usize) -> Option<Arc<HostFile>> {
        if self.files.len() < max.min(self.room) {
            self.files.push(file);
            return None;
        }
        // As good as any, and needs nobody (xorshift).
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 17;
        self.chance ^= self.chance << 5;
        let index = usize::try_from(self.chance).unwrap_or(0) % self.files.len().max(1);
        match self.files.get_mut(index) {
            Some(kept) => Some(std::mem::replace(kept, file)),
            None => Some(file),
        }
    }

    fn remove(&mut self, file: &Arc<HostFile>) -> Option<Arc<HostFile>> {
        let index = self.files.iter().position(|kept| Arc::ptr_eq(kept, file))?;
        Some(self.files.swap_remove(index))
    }
}

impl GoferFs {
    /// Attaches to the tree with this index in the gofer's list. Its root may be a single file.
    ///
    /// # Errors
    /// The gofer's.
    pub fn attach(client: &Client, tree: u32) -> SysResult<Arc<Self>> {
        let attached = client.attach(tree)?;
        let tree = Arc::new(Tree {
            client: client.clone(),
            index: tree,
            flags: attached.flags,
            device: allocate_device(),
            inodes: Mutex::default(),
            devices: Mutex::default(),
            recent: Mutex::new(Recent::new()),
            guess: Guess::new(attached.flags.contains(TreeFlags::EXCLUSIVE)),
            habit: Habit::default(),
            spares: Spares::default(),
            listed: AtomicUsize::new(0),
            primed: AtomicUsize::new(0),
            changes: AtomicU64::new(0),
            foreseen: Mutex::default(),
            directories: Mutex::default(),
            watch: Watch::default(),
            file_system: OnceLock::new(),
        });
        let root = tree.held(attached.root, None);
        let file_system = Arc::new(Self { tree, root });
        let _ = file_system.tree.file_system.set(Arc::downgrade(&file_system));
        Ok(file_system)
    }

    /// Allows a shared tree to be watched for changes, instead of being asked for everything in each call.
    pub fn watch_changes(&self, timers: &Arc<Timers>) {
        if !self.is_exclusive() {
            self.tree.watch.enable(timers);
        }
    }

    /// Whether nobody but this sandbox changes the tree.
    pub fn is_exclusive(&self) -> bool {
        self.tree.is_exclusive()
    }
}

impl Drop for GoferFs {
    fn drop(&mut self) {
        // What they hold holds the tree.
        let kept = std::mem::take(&mut *self.tree.directories.lock());
        let foreseen = std::mem::take(&mut *self.tree.foreseen.lock());
        let spares = self.tree.spares.close();
        drop((kept, foreseen, spares));
        if self.tree.watch.is_active() {
            self.tree.release();
        }
    }
}

impl Tree {
    const fn is_exclusive(&self) -> bool {
        self.flags.contains(TreeFlags::EXCLUSIVE)
    }

    /// The inode for a file the gofer holds for us.
    fn held(self: &Arc<Self>, node: wire::Node, link_target: Option<Vec<u8>>) -> Arc<GoferInode> {
        let inode = self.inode(&node.attr);
        inode.note_attr(&node.attr);
        inode.note_handle(node.handle);
        if let Some(target) = link_target {
            inode.note_target(target);
        }
        inode
    }

    /// The living inode, or a new one that has no handle yet.
    fn inode(self: &Arc<Self>, attr: &Attr) -> Arc<GoferInode> {
        let key = attributes::key(attr);
        let number = self.number(key);
        let mut inodes = self.inodes.lock();
        if let Some(inode) = inodes.get(&key).and_then(Weak::upgrade) {
            return inode;
        }
        let inode = GoferInode::new(self, key, attributes::attributes(attr, number));
        inodes.insert(key, Arc::downgrade(&inode));
        inode
    }

    /// The inode number that applications see: the host's, with the device in its upper bits where it is not the
    /// root's.
    fn number(&self, (device, number): HostKey) -> u64 {
        let mut devices = self.devices.lock();
        let index = devices.iter().position(|known| *known == device).unwrap_or_else(|| {
            devices.push(device);
            devices.len() - 1
        });
        number ^ ((index as u64) << DEVICE_SHIFT)
    }

    /// How often this kernel has changed names of the tree.
    fn count_of_changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Keeps a descriptor open for the next time. In a shared tree only while its removal would be heard of, and none that
    /// writes: the host could not execute the file.
    fn keep(&self, purpose: Use, file: &Arc<HostFile>) {
        let is_heard_of = || matches!(purpose, Use::Read | Use::Status) && self.watch.is_active();
        if !self.is_exclusive() && !is_heard_of() {
            return;
        }
        let evicted = {
            let max = if self.is_exclusive() { RECENT_MAX } else { RECENT_SHARED_MAX };
            self.recent.lock().keep(Arc::clone(file), max)
        };
        drop(evicted);
    }

    /// Lets go of a removed file's descriptor, so that the host can free its space.
    fn forget(&self, file: &Arc<HostFile>) {
        let removed = self.recent.lock().remove(file);
        let spare = self.spares.remove(file);
        drop((removed, spare));
    }

    fn file_system(self: &Arc<Self>, asker: &GoferInode) -> Arc<dyn FileSystem> {
        if let Some(file_system) = self.file_system.get().and_then(Weak::upgrade) {
            return file_system;
        }
        // Only a file that outlived every mount comes here: it is all that is left of the tree.
        Arc::new(GoferFs { tree: Arc::clone(self), root: asker.me() })
    }
}

impl FileSystem for GoferFs {
    fn type_name(&self) -> &'static str {
        "gofer"
    }

    fn device(&self) -> DeviceNumber {
        self.tree.device
    }

    fn root(&self) -> Arc<dyn Inode> {
        Arc::clone(&self.root) as _
    }

    fn status(&self) -> SysResult<FileSystemStatus> {
        let stat = self.tree.client.stat_fs(self.root.handle()?)?;
        Ok(FileSystemStatus {
            magic: stat.kind,
            block_size: stat.block_size,
            blocks: stat.blocks,
            blocks_free: stat.blocks_free,
            blocks_available: stat.blocks_available,
            files: stat.files,
            files_free: stat.files_free,
            name_max: stat.name_length,
        })
    }
}
