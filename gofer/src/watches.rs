//! Telling the sentry what others change: one inotify queue for each tree, which the sentry reads itself.
//!
//! The host puts an event into the queue before the call that made the change returns, so what the queue has not told by
//! the time it is read has not happened yet. That holds for file systems that change in no other way than through this
//! kernel's calls ([`TOLD_OF`]); of others nothing is watched. The sentry sees names of directories that it holds, which it may list
//! anyway.
//!
//! What the sentry can make us take of the host is bounded: [`WATCHES_MAX`] for each tree, one queue for each, and
//! none that others would miss ([`QUEUES_LEFT`]).

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use abi::errno::{self, Errno};
use parking_lot::Mutex;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{IFlags, OFlags, fstatfs, ioctl_getflags};
use wire::{FileType, Reply};

use crate::answer::Answer;
use crate::connection::Server;
use crate::handles::{Node, Permit};
use crate::lookup::{attributes, errno, number, reopen};

/// Directories of one tree that are watched at once.
pub const WATCHES_MAX: usize = 1024;
/// A user has 128 queues (`fs.inotify.max_user_instances`), and we are root to the host: so many stay for others.
const QUEUES_LEFT: usize = 16;
/// What makes a remembered name, or a directory's mode and owner, untrue.
pub const EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::EXCL_UNLINK);
/// File systems whose every change this kernel makes (`f_type`, `man 2 statfs`): ext2 to 4, XFS, Btrfs, F2FS, tmpfs, overlayfs.
const TOLD_OF: [u64; 6] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x0102_1994, 0x794c_7630];
/// In such directories one file has several spellings: names are folded, or encrypted until a key comes.
const SPELLINGS: u32 = 0x4000_0000 | 0x800;

/// The watches of one tree.
#[derive(Debug, Default)]
pub struct Watches {
    queue: Mutex<Option<Queue>>,
}

#[derive(Debug)]
struct Queue {
    descriptor: OwnedFd,
    watched: BTreeSet<i32>,
    _permit: Permit,
}

/// Answers `Watch`.
pub fn watch(server: &Server, dir: &Node) -> Result<Answer, Errno> {
    if dir.kind != FileType::Directory {
        return Err(errno::ENOTDIR);
    }
    let tree = server.trees.get(dir.tree).filter(|tree| tree.is_isolated).ok_or(errno::EOPNOTSUPP)?;
    if !is_told_of(server, dir)? {
        return Err(errno::EOPNOTSUPP);
    }
    let mut kept = tree.watches.queue.lock();
    let queue = match &mut *kept {
        Some(queue) => queue,
        none => none.insert(Queue {
            _permit: server.budget.take()?,
            descriptor: new_queue()?,
            watched: BTreeSet::new(),
        }),
    };
    if queue.watched.len() >= WATCHES_MAX {
        return Err(errno::ENOSPC);
    }
    // Our working directory is our own `/proc/self/fd`.
    let watched = inotify::add_watch(&queue.descriptor, number(dir.as_fd()), EVENTS).map_err(errno)?;
    queue.watched.insert(watched);
    // A number that is told again is still the same directory's.
    let number = u32::try_from(watched).map_err(|_| errno::EIO)?;
    let descriptor = duplicate(queue.descriptor.as_fd())?;
    drop(kept);
    let attr = attributes(dir)?;
    Ok(Answer::new(Reply::Watched { number, attr }, Some(descriptor)))
}

/// Answers `Unwatch`. The queue stays: the sentry has it, too, so a new one would be one more.
pub fn unwatch(server: &Server, tree: u32) -> Result<(), Errno> {
    let index = usize::try_from(tree).map_err(|_| errno::ENOENT)?;
    let tree = server.trees.get(index).ok_or(errno::ENOENT)?;
    if let Some(queue) = &mut *tree.watches.queue.lock() {
        for watched in std::mem::take(&mut queue.watched) {
            // `EINVAL`: the directory is gone, and its watch with it.
            let _ = inotify::remove_watch(&queue.descriptor, watched);
        }
    }
    Ok(())
}

/// Answers `StatDescriptor`: of regular files only, like every descriptor that the sentry gets.
pub fn stat_descriptor(server: &Server, file: &Node) -> Result<Answer, Errno> {
    if file.kind != FileType::Regular {
        return Err(errno::EINVAL);
    }
    reopen(server, file.as_fd(), OFlags::PATH).map(Answer::descriptor)
}

/// Whether every change of the directory's names is told, under the spelling that it is asked for by.
fn is_told_of(server: &Server, dir: &Node) -> Result<bool, Errno> {
    let kind = fstatfs(dir).map_err(errno)?.f_type;
    if !u64::try_from(kind).is_ok_and(|kind| TOLD_OF.contains(&kind)) {
        return Ok(false);
    }
    let opened = reopen(server, dir.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY)?;
    match ioctl_getflags(&opened) {
        Ok(flags) => Ok(!flags.intersects(IFlags::from_bits_retain(SPELLINGS))),
        // A file system without such flags has no such directories.
        Err(rustix::io::Errno::NOTTY | rustix::io::Errno::OPNOTSUPP) => Ok(true),
        Err(error) => Err(errno(error)),
    }
}

/// A queue, if enough are left for the host's other programs.
fn new_queue() -> Result<OwnedFd, Errno> {
    let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
    let mut queues = Vec::with_capacity(QUEUES_LEFT + 1);
    for _ in 0..=QUEUES_LEFT {
        queues.push(inotify::init(flags).map_err(errno)?);
    }
    queues.pop().ok_or(errno::EMFILE)
}

/// A further descriptor of the same queue, to be sent.
fn duplicate(queue: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(queue, 0).map_err(errno)
}
