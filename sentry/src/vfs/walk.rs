//! From a path to a place (`man 7 path_resolution`, `man 2 openat2`).
//!
//! A [`Walker`] holds where it is and what remains of the path: a stack of pieces, because a symbolic link's target
//! is walked before the rest. It stops before the last component ([`Walker::parent`]) so that creating, removing and
//! opening can each do what they want with it.
//!
//! Nothing here waits for an application. Places are reference-counted: what a walker holds stays, whatever others
//! rename or unmount meanwhile.

use std::borrow::Cow;
use std::sync::Arc;

use abi::errno::{EACCES, EAGAIN, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EXDEV, SysResult};
use smallvec::SmallVec;

use super::dentry::MayAsk;
use super::permission::{check_search, is_shared_sticky};
use super::{
    Ahead, Dentry, FileKind, LinkTarget, Location, MountFlags, MountNamespace, NAME_MAX, OpenRequest,
    SYMLINK_MAX,
};
use crate::task::{Credentials, Task};

bitflags::bitflags! {
    /// How to walk.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct WalkFlags: u32 {
        /// Follow a symbolic link in the last component.
        const FOLLOW = 1;
        /// The result must be a directory.
        const DIRECTORY = 2;
        /// An empty path is the starting descriptor itself.
        const EMPTY_PATH = 4;
        /// `RESOLVE_NO_XDEV`
        const NO_XDEV = 1 << 8;
        /// `RESOLVE_NO_MAGICLINKS`
        const NO_MAGICLINKS = 1 << 9;
        /// `RESOLVE_NO_SYMLINKS`
        const NO_SYMLINKS = 1 << 10;
        /// `RESOLVE_BENEATH`
        const BENEATH = 1 << 11;
        /// `RESOLVE_IN_ROOT`
        const IN_ROOT = 1 << 12;
        /// `RESOLVE_CACHED`
        const CACHED = 1 << 13;
    }
}

impl WalkFlags {
    /// The start is a root that is not left.
    const SCOPED: Self = Self::BENEATH.union(Self::IN_ROOT);
}

/// A file name, mostly short.
pub type Name = SmallVec<[u8; 32]>;

/// The last component of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Last {
    /// A name.
    Name(Name),
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// There is none: the path was `/`.
    Root,
}

/// A path but for its last component.
#[derive(Clone)]
pub struct Parent {
    /// The directory it is in.
    pub directory: Location,
    /// The component.
    pub last: Last,
    /// Slashes followed it.
    pub trailing_slash: bool,
}

/// A path of which something remains from `at` on.
struct Piece<'p> {
    text: Cow<'p, [u8]>,
    at: usize,
}

/// See the module's text.
pub struct Walker<'a> {
    task: &'a Task,
    credentials: Arc<Credentials>,
    namespace: Arc<MountNamespace>,
    root: Location,
    at: Location,
    flags: WalkFlags,
    pieces: SmallVec<[Piece<'a>; 2]>,
    links: u32,
    /// The path's end is about to be opened so.
    opening: Option<OpenRequest>,
}

impl<'a> Walker<'a> {
    /// A walker at the path's start.
    ///
    /// # Errors
    /// `ENOENT`: the path is empty; `EBADF`, `ENOTDIR`: the descriptor; `EXDEV`.
    pub fn new(task: &'a Task, directory: i32, path: &'a [u8], flags: WalkFlags) -> SysResult<Self> {
        if path.is_empty() && !flags.contains(WalkFlags::EMPTY_PATH) {
            return Err(ENOENT);
        }
        let fs = task.fs();
        let absolute = path.starts_with(b"/");
        if absolute && flags.contains(WalkFlags::BENEATH) {
            return Err(EXDEV);
        }
        let (root, at) = if absolute && !flags.contains(WalkFlags::IN_ROOT) {
            let root = fs.root();
            (root.clone(), root)
        } else {
            let start = task.start_of_walk(directory, path)?;
            let root = if flags.intersects(WalkFlags::SCOPED) { start.clone() } else { fs.root() };
            (root, start)
        };
        Ok(Self {
            task,
            credentials: task.credentials(),
            namespace: Arc::clone(fs.namespace()),
            root,
            at,
            flags,
            pieces: SmallVec::from_iter([Piece { text: Cow::Borrowed(path), at: 0 }]),
            links: 0,
            opening: None,
        })
    }

    /// Says that the path's end is about to be opened, so that a file system may do both at once.
    #[must_use]
    pub fn for_opening(mut self, request: OpenRequest) -> Self {
        self.opening = Some(request);
        self
    }

    /// Judges by these credentials instead of the task's own (`access(2)`).
    #[must_use]
    pub fn with_credentials(mut self, credentials: Arc<Credentials>) -> Self {
        self.credentials = credentials;
        self
    }

    /// Walks to the end.
    ///
    /// # Errors
    /// As `man 7 path_resolution`.
    pub fn finish(&mut self) -> SysResult<Location> {
        loop {
            let parent = self.parent()?;
            let follow = self.flags.contains(WalkFlags::FOLLOW) || parent.trailing_slash;
            if parent.trailing_slash {
                self.flags |= WalkFlags::DIRECTORY | WalkFlags::FOLLOW;
            }
            match self.last_step(&parent.last)? {
                Some(link) if follow => self.follow(link)?,
                Some(link) => {
                    self.at = link;
                    break;
                }
                None => break,
            }
            if self.pieces.is_empty() {
                break;
            }
        }
        if self.flags.contains(WalkFlags::DIRECTORY) && self.at.inode().kind() != FileKind::Directory {
            return Err(ENOTDIR);
        }
        Ok(self.at.clone())
    }

    /// Takes the last component's step; gives a symbolic link back instead of entering it.
    fn last_step(&mut self, last: &Last) -> SysResult<Option<Location>> {
        match last {
            // Both have been taken by `parent`, which may end without a component.
            Last::Root => Ok(None),
            Last::Dot => self.search().map(|()| None),
            Last::DotDot => {
                self.search()?;
                self.up().map(|()| None)
            }
            Last::Name(name) => {
                let child = self.child(name)?;
                if child.inode().kind() == FileKind::Symlink {
                    return Ok(Some(child));
                }
                self.at = child;
                Ok(None)
            }
        }
    }

    /// Walks up to the last component.
    ///
    /// # Errors
    /// As `man 7 path_resolution`.
    pub fn parent(&mut self) -> SysResult<Parent> {
        while let Some(mut piece) = self.pieces.pop() {
            if piece.at == 0 && piece.text.starts_with(b"/") {
                self.jump_to_root()?;
            }
            let rest = piece.text.get(piece.at..).unwrap_or_default();
            let start = rest.iter().take_while(|byte| **byte == b'/').count();
            let rest = rest.get(start..).unwrap_or_default();
            if rest.is_empty() {
                continue;
            }
            let length = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
            if length > NAME_MAX {
                self.search()?;
                return Err(ENAMETOOLONG);
            }
            let (name, rest) = rest.split_at(length);
            let name = Name::from_slice(name);
            let slashes = rest.iter().take_while(|byte| **byte == b'/').count();
            let piece_ends = slashes == rest.len();
            piece.at += start + length + slashes;
            if !piece_ends {
                self.pieces.push(piece);
            }
            let last = match &*name {
                b"." => Last::Dot,
                b".." => Last::DotDot,
                _ => Last::Name(name),
            };
            if self.pieces.is_empty() {
                return Ok(Parent { directory: self.at.clone(), last, trailing_slash: slashes != 0 });
            }
            match self.last_step(&last)? {
                Some(link) => self.follow(link)?,
                None if self.at.inode().kind() != FileKind::Directory => return Err(ENOTDIR),
                None => {}
            }
        }
        Ok(Parent { directory: self.at.clone(), last: Last::Root, trailing_slash: false })
    }

    fn jump_to_root(&mut self) -> SysResult<()> {
        if self.flags.contains(WalkFlags::BENEATH) {
            return Err(EXDEV);
        }
        if self.flags.contains(WalkFlags::NO_XDEV)
            && self.links != 0
            && !Arc::ptr_eq(&self.at.mount, &self.root.mount)
        {
            return Err(EXDEV);
        }
        self.at = self.root.clone();
        Ok(())
    }

    fn search(&self) -> SysResult<()> {
        check_search(&self.credentials, &**self.at.inode())
    }

    /// What a name in the present directory leads to, through what is mounted there.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EACCES`, `EXDEV`, `EAGAIN`.
    pub fn child(&self, name: &[u8]) -> SysResult<Location> {
        self.search()?;
        let dentry = self.child_dentry(name)?;
        let place = Location { mount: Arc::clone(&self.at.mount), dentry };
        let top = self.namespace.top(place);
        self.check_device(&top)?;
        Ok(top)
    }

    fn child_dentry(&self, name: &[u8]) -> SysResult<Arc<Dentry>> {
        let may_ask = if self.flags.contains(WalkFlags::CACHED) { MayAsk::No } else { MayAsk::Yes };
        self.at.dentry.lookup_ahead(name, &self.ahead(), &self.task.kernel.vfs.dentries, may_ask)
    }

    /// What the path asks for after the name that is being looked up.
    fn ahead(&self) -> Ahead<'_> {
        let Some(piece) = self.pieces.last() else { return Ahead::new(b"", self.opening) };
        // After a symbolic link's target the rest of the path follows.
        let opening = self.opening.filter(|_| self.pieces.len() == 1);
        Ahead::new(piece.text.get(piece.at..).unwrap_or_default(), opening)
    }

    fn check_device(&self, next: &Location) -> SysResult<()> {
        let crosses = !Arc::ptr_eq(&next.mount, &self.at.mount);
        if crosses && self.flags.contains(WalkFlags::NO_XDEV) { Err(EXDEV) } else { Ok(()) }
    }

    /// `..`
    fn up(&mut self) -> SysResult<()> {
        if self.at.is_same(&self.root) {
            return if self.flags.contains(WalkFlags::BENEATH) { Err(EXDEV) } else { Ok(()) };
        }
        let mut at = self.at.clone();
        while at.is_mount_root() {
            let point = at.mount.point();
            // The top of a tree that is not the task's own.
            let Some(point) = point else { return Ok(()) };
            if self.flags.contains(WalkFlags::NO_XDEV) {
                return Err(EXDEV);
            }
            at = point;
            if at.is_same(&self.root) {
                self.at = at;
                return Ok(());
            }
        }
        let Some(dentry) = at.dentry.parent() else { return Ok(()) };
        let next = self.namespace.top(Location { mount: at.mount, dentry });
        self.at = next;
        Ok(())
    }

    /// Goes where a symbolic link of the present directory leads.
    ///
    /// # Errors
    /// `ELOOP`, `EACCES` (`protected_symlinks`), `ENOENT` (an empty target), the file system's.
    pub fn follow(&mut self, link: Location) -> SysResult<()> {
        self.links += 1;
        if self.links > SYMLINK_MAX
            || self.flags.contains(WalkFlags::NO_SYMLINKS)
            || link.mount.flags().contains(MountFlags::NOSYMFOLLOW)
        {
            return Err(ELOOP);
        }
        if self.pieces.is_empty() {
            self.check_protected(&link)?;
        }
        if self.flags.contains(WalkFlags::CACHED) {
            return Err(EAGAIN);
        }
        match link.inode().read_link(self.task)? {
            LinkTarget::Path(target) if target.is_empty() => Err(ENOENT),
            LinkTarget::Path(target) => {
                self.pieces.push(Piece { text: Cow::Owned(target), at: 0 });
                Ok(())
            }
            LinkTarget::Jump { location, .. } => self.jump(location),
            LinkTarget::JumpToFile { file, text } => {
                let location = match &file.location {
                    Some(location) => location.clone(),
                    None => self.task.kernel.vfs.nowhere(Arc::clone(&file.inode), &text),
                };
                self.jump(location)
            }
        }
    }

    fn jump(&mut self, location: Location) -> SysResult<()> {
        if self.flags.contains(WalkFlags::NO_MAGICLINKS) {
            return Err(ELOOP);
        }
        if self.flags.intersects(WalkFlags::SCOPED) {
            return Err(EXDEV);
        }
        self.check_device(&location)?;
        self.at = location;
        Ok(())
    }

    /// `protected_symlinks`, which every distribution switches on: in a sticky directory writable by all, only links
    /// of the follower or of the directory's owner are followed.
    fn check_protected(&self, link: &Location) -> SysResult<()> {
        let Some(directory) = link.dentry.parent() else { return Ok(()) };
        let directory = directory.inode().access_attributes()?;
        if !is_shared_sticky(&directory) {
            return Ok(());
        }
        let owner = link.inode().attributes()?.uid;
        if owner == self.credentials.fsuid || owner == directory.uid { Ok(()) } else { Err(EACCES) }
    }

    /// Where the walker is.
    pub fn at(&self) -> &Location {
        &self.at
    }

    /// Whose permissions count.
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }

    /// Whether something remains to be walked (after [`Walker::follow`]).
    pub fn has_more(&self) -> bool {
        !self.pieces.is_empty()
    }
}

impl Task {
    /// Where a relative path begins.
    fn start_of_walk(&self, directory: i32, path: &[u8]) -> SysResult<Location> {
        if directory == libc::AT_FDCWD {
            return Ok(self.fs().cwd());
        }
        let file = self.files().get(directory)?;
        if !path.is_empty() && file.inode.kind() != FileKind::Directory {
            return Err(ENOTDIR);
        }
        match &file.location {
            Some(location) => Ok(location.clone()),
            None if path.is_empty() => Ok(self.kernel.vfs.nowhere(Arc::clone(&file.inode), b"")),
            None => Err(ENOTDIR),
        }
    }

    /// Walks to the place a path names. `directory` is a descriptor or `AT_FDCWD`.
    ///
    /// # Errors
    /// As `man 7 path_resolution`.
    pub fn walk(&self, directory: i32, path: &[u8], flags: WalkFlags) -> SysResult<Location> {
        Walker::new(self, directory, path, flags)?.finish()
    }

    /// Walks up to a path's last component.
    ///
    /// # Errors
    /// As `man 7 path_resolution`.
    pub fn walk_parent(&self, directory: i32, path: &[u8]) -> SysResult<Parent> {
        Walker::new(self, directory, path, WalkFlags::empty())?.parent()
    }
}
