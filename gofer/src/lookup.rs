//! The only way from one file to another: one name, beneath a directory that is held, following nothing.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use abi::errno::{self, Errno};
use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat, openat2, readlinkat, statx,
};
use wire::{
    Access, Attr, DeviceNumber, FileType, HandleId, Name, OpenFlags, OpenOutcome, Reply, Timestamp, WalkStep,
    WalkStop,
};

use crate::answer::Answer;
use crate::connection::Server;
use crate::follow::Known;
use crate::handles::Node;
use crate::open::open_regular;

/// How a name is resolved (`man 2 openat2`). Beneath and without links is what [`Name`] guarantees already; the
/// kernel holds us to it.
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_SYMLINKS);
/// What a handle is.
const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What the protocol tells of a file.
const ATTRIBUTES: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// The host's error as the protocol has it.
pub fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

/// The file with this name in a directory, itself if it is a symbolic link, and its attributes.
pub fn look_up(server: &Server, dir: &Node, name: Name<'_>) -> Result<(Arc<Node>, Attr), Errno> {
    let permit = server.budget.take()?;
    let descriptor = open_name(dir, name)?;
    let attr = attributes(&descriptor)?;
    Ok((Arc::new(Node::new(descriptor, &attr, dir.tree, dir.flags, permit)), attr))
}

/// How often a name is looked up that is moved away meanwhile.
const TRIES: usize = 16;

/// A single name can lead out of its directory only because somebody moves what it stood for at this moment: then the host refuses
/// (`EXDEV` or `EAGAIN`, `man 2 openat2`) what without [`BENEATH`] it would have found or not found.
fn open_name(dir: &Node, name: Name<'_>) -> Result<OwnedFd, Errno> {
    for _ in 0..TRIES {
        match openat2(dir, name.as_bytes(), PATH_ONLY, Mode::empty(), BENEATH) {
            Err(rustix::io::Errno::XDEV | rustix::io::Errno::AGAIN) => {}
            result => return result.map_err(errno),
        }
    }
    Err(errno::ENOENT)
}

/// A held file's attributes.
pub fn attributes(file: impl std::os::fd::AsFd) -> Result<Attr, Errno> {
    Ok(to_attr(&statx(file, c"", AtFlags::EMPTY_PATH, ATTRIBUTES).map_err(errno)?))
}

/// The attributes of a name in a directory, itself if it is a symbolic link.
pub fn entry_attributes(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Attr, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    Ok(to_attr(&statx(dir, name, flags, ATTRIBUTES).map_err(errno)?))
}

/// Opens a held file anew, with other rights, through our own `/proc/self/fd`. The caller has made sure that it is a
/// regular file or a directory: opening anything else may block or have effects.
pub fn reopen(server: &Server, file: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
    openat(&server.descriptors, number(file).as_str(), flags, Mode::empty()).map_err(errno)
}

/// A descriptor's name in `/proc/self/fd`.
pub fn number(file: BorrowedFd<'_>) -> String {
    file.as_raw_fd().to_string()
}

/// A held symbolic link's target.
pub fn link_target(file: &Node) -> Result<Vec<u8>, Errno> {
    if file.kind != FileType::Symlink {
        return Err(errno::EINVAL);
    }
    let target = readlinkat(file, c"", Vec::with_capacity(256)).map_err(errno)?.into_bytes();
    if target.len() > wire::MAX_LINK { Err(errno::ENAMETOOLONG) } else { Ok(target) }
}

/// Answers `Walk`.
pub fn walk(
    server: &Server,
    from: &Arc<Node>,
    names: &[Name<'_>],
    open: Option<(Access, OpenFlags)>,
) -> Result<Answer, Errno> {
    let mut path = Path::begin(from, open)?;
    let mut steps = Vec::with_capacity(names.len());
    for name in names {
        match path.step(server, *name) {
            Some((node, attr)) => steps.push(WalkStep { handle: server.handles.insert(node), attr }),
            None => break,
        }
    }
    let (stop, open, descriptor) = path.end(server);
    Ok(Answer::new(Reply::Walked { steps, stop, open }, descriptor))
}

/// A walk under way.
pub struct Path {
    pub current: Arc<Node>,
    moved: bool,
    failure: Option<Errno>,
    open: Option<(Access, OpenFlags)>,
}

impl Path {
    /// `EINVAL`: a walk changes nothing.
    pub fn begin(from: &Arc<Node>, open: Option<(Access, OpenFlags)>) -> Result<Self, Errno> {
        if open.is_some_and(|(_, flags)| flags.contains(OpenFlags::TRUNC)) {
            return Err(errno::EINVAL);
        }
        Ok(Self { current: Arc::clone(from), moved: false, failure: None, open })
    }

    /// Whether a name may be looked up where the walk is now.
    fn goes_on(&self) -> bool {
        !(self.moved && self.current.kind == FileType::Symlink)
    }

    /// Takes a step to the file that the name was said to stand for, or to whatever it stands for now, which is then held under the
    /// number returned. `None` when the walk is over.
    pub fn take(&mut self, server: &Server, known: &Known<'_>) -> Option<(Option<HandleId>, Attr)> {
        let (new, attr) = self.look(server, known)?;
        Some((new.map(|node| server.handles.insert(node)), attr))
    }

    /// As [`take`](Self::take), without holding the file.
    pub fn look(&mut self, server: &Server, (name, known): &Known<'_>) -> Option<(Option<Arc<Node>>, Attr)> {
        // A handle that is not held says nothing about the name.
        let known = known.and_then(|handle| server.handles.get(handle).ok());
        match known.and_then(|node| self.stay(*name, node)) {
            Some(attr) => Some((None, attr)),
            None => self.step(server, *name).map(|(node, attr)| (Some(node), attr)),
        }
    }

    /// Takes a step by looking a name up; `None` when the walk is over.
    fn step(&mut self, server: &Server, name: Name<'_>) -> Option<(Arc<Node>, Attr)> {
        if !self.goes_on() {
            return None;
        }
        match look_up(server, &self.current, name) {
            Ok((node, attr)) => {
                self.enter(&node);
                Some((node, attr))
            }
            Err(error) => {
                self.failure = Some(error);
                None
            }
        }
    }

    /// Takes a step to a known file if the name stands for it. As long as it is held, no other file can have its
    /// number.
    fn stay(&mut self, name: Name<'_>, known: Arc<Node>) -> Option<Attr> {
        if !self.goes_on() || known.tree != self.current.tree {
            return None;
        }
        let attr = entry_attributes(self.current.as_fd(), name.as_bytes()).ok()?;
        if !known.is(&attr) {
            return None;
        }
        self.enter(&known);
        Some(attr)
    }

    fn enter(&mut self, node: &Arc<Node>) {
        self.current = Arc::clone(node);
        self.moved = true;
    }

    /// Why the walk ended, and what became of the wish to open its end.
    pub fn end(self, server: &Server) -> (WalkStop, OpenOutcome, Option<OwnedFd>) {
        let stop = match self.failure {
            Some(error) => WalkStop::Failed(error),
            None if self.current.kind == FileType::Symlink => match link_target(&self.current) {
                Ok(target) => WalkStop::Symlink(target),
                Err(error) => WalkStop::Failed(error),
            },
            None => WalkStop::Complete,
        };
        match self.open {
            Some((access, flags)) if stop == WalkStop::Complete && self.current.kind == FileType::Regular => {
                match open_regular(server, &self.current, access, flags) {
                    Ok(opened) => (stop, OpenOutcome::Opened, Some(opened)),
                    Err(error) => (stop, OpenOutcome::Failed(error), None),
                }
            }
            _ => (stop, OpenOutcome::None, None),
        }
    }
}

fn to_attr(stat: &Statx) -> Attr {
    let has_birth = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    Attr {
        device: DeviceNumber { major: stat.stx_dev_major, minor: stat.stx_dev_minor },
        ino: stat.stx_ino,
        mode: u32::from(stat.stx_mode),
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: DeviceNumber { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor },
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        block_size: stat.stx_blksize,
        atime: timestamp(&stat.stx_atime),
        mtime: timestamp(&stat.stx_mtime),
        ctime: timestamp(&stat.stx_ctime),
        btime: has_birth.then(|| timestamp(&stat.stx_btime)),
    }
}

fn timestamp(time: &rustix::fs::StatxTimestamp) -> Timestamp {
    Timestamp { seconds: time.tv_sec, nanoseconds: time.tv_nsec.min(999_999_999) }
}
