//! Opening: `man 2 open`, `man 2 openat2`, and what is judged between a path and an open file.
//!
//! 1. The flags are brought into order ([`OpenHow`]).
//! 2. The path is walked; with `O_CREAT` up to its last component, which is made if it does not exist.
//! 3. The inode is judged (kind, permission, mount options) and opened.
//! 4. `O_TRUNC` truncates.

use std::sync::Arc;

use abi::errno::{
    EACCES, EEXIST, EINVAL, EISDIR, ELOOP, ENOENT, ENOTDIR, EOPNOTSUPP, EPERM, EROFS, SysResult,
};
use abi::files::OpenFlags;
use abi::polling::InotifyMask;

use super::devices::{OpenedFifo, PartnerCame};
use super::permission::{check_access, check_create, inherit, is_owner, is_shared_sticky};
use super::{
    Access, Attributes, FileDescription, FileKind, FileOps, Inode, Last, Location, MountFlags, NewKind,
    NewNode, OpenRequest, SetAttributes, WalkFlags, Walker, watches,
};
use crate::task::Task;
use crate::wait::{CallResult, OnInterrupt, PollEvents, Restart, WaitQueue};

/// What is asked of an open, already judged for sense.
#[derive(Clone, Copy, Debug)]
pub struct OpenHow {
    flags: OpenFlags,
    permissions: u32,
    walk: WalkFlags,
}

/// An open file, or one end of a FIFO whose other end is awaited.
pub enum Opening {
    /// Open.
    Ready(Arc<FileDescription>),
    /// To be awaited with [`Task::finish_opening`].
    Waiting(Arc<FileDescription>, PartnerCame),
}

/// Bits that `O_PATH` leaves of the others.
const PATH_FLAGS: OpenFlags =
    OpenFlags::O_DIRECTORY.union(OpenFlags::O_NOFOLLOW).union(OpenFlags::O_PATH).union(OpenFlags::O_CLOEXEC);

impl OpenHow {
    /// As `open(2)` and `openat(2)` take them: unknown flags and bits of the mode are ignored.
    ///
    /// # Errors
    /// `EINVAL`: flags that exclude each other.
    pub fn lenient(flags: OpenFlags, mode: u32) -> SysResult<Self> {
        let mut flags = flags & OpenFlags::all();
        if flags.contains(OpenFlags::O_PATH) {
            flags &= PATH_FLAGS;
        }
        let creates = flags.intersects(OpenFlags::O_CREAT) || flags.is_tmpfile();
        Self::strict(flags, if creates { mode & 0o7777 } else { 0 }, WalkFlags::empty())
    }

    /// As `openat2(2)` takes them.
    ///
    /// # Errors
    /// `EINVAL`: unknown flags, or flags that exclude each other.
    pub fn strict(flags: OpenFlags, mode: u32, walk: WalkFlags) -> SysResult<Self> {
        let creates = flags.contains(OpenFlags::O_CREAT) || flags.is_tmpfile();
        if mode & !0o7777 != 0 || !creates && mode != 0 {
            return Err(EINVAL);
        }
        if walk.contains(WalkFlags::BENEATH | WalkFlags::IN_ROOT)
            || flags.contains(OpenFlags::O_DIRECTORY | OpenFlags::O_CREAT)
            || flags.contains(OpenFlags::O_PATH) && !PATH_FLAGS.contains(flags)
        {
            return Err(EINVAL);
        }
        // O_TMPFILE without O_DIRECTORY is what old programs could never have meant.
        let tmpfile_bit = OpenFlags::O_TMPFILE.difference(OpenFlags::O_DIRECTORY);
        if flags.intersects(tmpfile_bit) && (!flags.is_tmpfile() || !asks_to_write(flags)) {
            return Err(EINVAL);
        }
        if walk.contains(WalkFlags::CACHED)
            && flags.intersects(OpenFlags::O_TRUNC | OpenFlags::O_CREAT | tmpfile_bit)
        {
            return Err(abi::errno::EAGAIN);
        }
        Ok(Self { flags, permissions: mode, walk })
    }

    /// Its flags.
    pub const fn flags(&self) -> OpenFlags {
        self.flags
    }

    fn walk_flags(&self) -> WalkFlags {
        let mut walk = self.walk;
        // O_CREAT | O_EXCL does not follow either: the link exists.
        if !self.flags.contains(OpenFlags::O_NOFOLLOW)
            && !self.flags.contains(OpenFlags::O_CREAT | OpenFlags::O_EXCL)
        {
            walk |= WalkFlags::FOLLOW;
        }
        if self.flags.contains(OpenFlags::O_DIRECTORY) {
            walk |= WalkFlags::DIRECTORY;
        }
        walk
    }

    /// What the file's permissions are asked for.
    fn access(&self) -> Access {
        let mut access = match self.flags.access() {
            0 => Access::READ,
            1 => Access::WRITE,
            // Mode 3 asks for both and gives neither.
            _ => Access::READ | Access::WRITE,
        };
        if self.flags.contains(OpenFlags::O_TRUNC) {
            access |= Access::WRITE;
        }
        access
    }

    fn request(&self) -> OpenRequest {
        OpenRequest { read: self.flags.can_read(), write: self.flags.can_write(), flags: self.flags.bits() }
    }
}

fn asks_to_write(flags: OpenFlags) -> bool {
    flags.access() != 0
}

/// Only a place: the operations of an `O_PATH` descriptor.
struct PlaceOps;

impl FileOps for PlaceOps {
    fn is_seekable(&self) -> bool {
        false
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl Task {
    /// Opens a path for the kernel's own use, or for a caller that knows that it is no FIFO. `flags` and `mode` are those
    /// of `man 2 open`.
    ///
    /// # Errors
    /// As `man 2 open`; `EAGAIN`: a FIFO whose other end would have to be awaited.
    pub fn open_path(
        &self,
        directory: i32,
        path: &[u8],
        flags: u32,
        mode: u32,
    ) -> SysResult<Arc<FileDescription>> {
        let how = OpenHow::lenient(OpenFlags::from_bits_retain(flags), mode)?;
        match self.begin_opening(directory, path, how)? {
            Opening::Ready(file) => Ok(file),
            Opening::Waiting(..) => Err(abi::errno::EAGAIN),
        }
    }

    /// Opens a path as far as that is possible without waiting.
    ///
    /// # Errors
    /// As `man 2 open`.
    pub fn begin_opening(&self, directory: i32, path: &[u8], how: OpenHow) -> SysResult<Opening> {
        let mut walker = Walker::new(self, directory, path, how.walk_flags())?;
        if !how.flags.intersects(OpenFlags::O_PATH | OpenFlags::O_DIRECTORY) {
            walker = walker.for_opening(how.request());
        }
        if how.flags.is_tmpfile() {
            return self.open_unnamed(&walker.finish()?, how).map(Opening::Ready);
        }
        if !how.flags.contains(OpenFlags::O_CREAT) {
            let location = walker.finish()?;
            return self.open_location(location, how);
        }
        self.open_or_create(&mut walker, how)
    }

    /// Waits for the other end of a FIFO (`man 7 fifo`).
    ///
    /// # Errors
    /// Interrupted: the open begins again or fails with `EINTR`.
    pub async fn finish_opening(
        &self,
        file: Arc<FileDescription>,
        partner_came: PartnerCame,
    ) -> CallResult<Arc<FileDescription>> {
        let unused = WaitQueue::new();
        let queue = file.ops.wait_queue().unwrap_or(&unused);
        self.wait_until(queue, PollEvents::all(), || partner_came().then_some(()))
            .await
            .on_interrupt(Restart::Sys)?;
        Ok(file)
    }

    fn open_or_create(&self, walker: &mut Walker<'_>, how: OpenHow) -> SysResult<Opening> {
        let exclusive = how.flags.contains(OpenFlags::O_EXCL);
        loop {
            let parent = walker.parent()?;
            if parent.trailing_slash {
                return Err(EISDIR);
            }
            let Last::Name(name) = &parent.last else {
                return Err(if exclusive { EEXIST } else { EISDIR });
            };
            if self.may_make_unseen(&parent.directory, name) {
                match self.create_file(&parent.directory, name, how) {
                    Ok(location) => return self.open_created(location, how),
                    Err(EEXIST) if exclusive => return Err(EEXIST),
                    // It is there, or cannot be made: judged as ever.
                    Err(_) => {}
                }
            }
            match walker.child(name) {
                Ok(child) if exclusive => {
                    drop(child);
                    return Err(EEXIST);
                }
                Ok(child)
                    if child.inode().kind() == FileKind::Symlink
                        && !how.flags.contains(OpenFlags::O_NOFOLLOW) =>
                {
                    walker.follow(child)?;
                    if !walker.has_more() {
                        let location = walker.at().clone();
                        return self.open_existing(&location, how);
                    }
                }
                Ok(child) => return self.open_existing(&child, how),
                Err(ENOENT) => match self.create_file(&parent.directory, name, how) {
                    // Somebody else was faster.
                    Err(EEXIST) if !exclusive => {
                        let child = walker.child(name)?;
                        return self.open_existing(&child, how);
                    }
                    Err(error) => return Err(error),
                    Ok(location) => return self.open_created(location, how),
                },
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens with `O_CREAT` what was there already.
    fn open_existing(&self, location: &Location, how: OpenHow) -> SysResult<Opening> {
        let kind = location.inode().kind();
        if kind == FileKind::Directory {
            return Err(EISDIR);
        }
        self.check_shared_sticky(location, kind)?;
        self.open_location(location.clone(), how)
    }

    /// `protected_regular` and `protected_fifos` (1): in a sticky directory writable by all, `O_CREAT` does not open what
    /// others have put there.
    fn check_shared_sticky(&self, location: &Location, kind: FileKind) -> SysResult<()> {
        if !matches!(kind, FileKind::Regular | FileKind::Fifo) {
            return Ok(());
        }
        let Some(directory) = location.dentry.parent() else { return Ok(()) };
        let directory = directory.inode().access_attributes()?;
        if !is_shared_sticky(&directory) {
            return Ok(());
        }
        let owner = location.inode().attributes()?.uid;
        if owner == directory.uid || owner == self.credentials().fsuid { Ok(()) } else { Err(EACCES) }
    }

    fn create_file(&self, directory: &Location, name: &[u8], how: OpenHow) -> SysResult<Location> {
        if directory.mount.is_read_only() {
            return Err(EROFS);
        }
        let permissions = how.permissions & !self.fs().umask();
        self.create_in(directory, name, NewKind::Regular, FileKind::Regular, permissions)
    }

    /// Makes a node, for the task, in a directory whose mount can be written. Permission is checked here.
    ///
    /// # Errors
    /// `ENOENT`: the directory was removed; `EACCES`; the file system's.
    pub(crate) fn create_in(
        &self,
        directory: &Location,
        name: &[u8],
        kind: NewKind<'_>,
        file_kind: FileKind,
        permissions: u32,
    ) -> SysResult<Location> {
        let credentials = self.credentials();
        let above = check_create(&credentials, &directory.dentry)?;
        let (gid, permissions) = inherit(&credentials, &above, permissions, file_kind);
        let node = NewNode { kind, permissions, uid: credentials.fsuid, gid };
        let inode = directory.inode().create(name, &node)?;
        let dentry = directory.dentry.bind(name, inode, &self.kernel.vfs.dentries);
        let is_directory = file_kind == FileKind::Directory;
        watches::in_directory(&directory.dentry, name, InotifyMask::IN_CREATE, is_directory, 0);
        Ok(Location { mount: Arc::clone(&directory.mount), dentry })
    }

    /// Opens what `O_CREAT` has just made: its permission bits do not bind its maker.
    fn open_created(&self, location: Location, how: OpenHow) -> SysResult<Opening> {
        let attributes = location.inode().attributes()?;
        self.open_judged(location, &attributes, how)
    }

    fn open_unnamed(&self, directory: &Location, how: OpenHow) -> SysResult<Arc<FileDescription>> {
        if directory.mount.is_read_only() {
            return Err(EROFS);
        }
        let credentials = self.credentials();
        let above = check_create(&credentials, &directory.dentry)?;
        let permissions = how.permissions & !self.fs().umask();
        let (gid, permissions) = inherit(&credentials, &above, permissions, FileKind::Regular);
        let node = NewNode { kind: NewKind::Regular, permissions, uid: credentials.fsuid, gid };
        let inode = directory.inode().create_unnamed(&node)?;
        let location =
            Location { mount: Arc::clone(&directory.mount), dentry: directory.dentry.new_unnamed(inode) };
        match self.open_created(location, how)? {
            Opening::Ready(file) => Ok(file),
            Opening::Waiting(..) => Err(EOPNOTSUPP),
        }
    }

    /// Opens a place that exists.
    ///
    /// # Errors
    /// As `man 2 open`.
    pub fn open_location(&self, location: Location, how: OpenHow) -> SysResult<Opening> {
        let kind = location.inode().kind();
        if how.flags.contains(OpenFlags::O_DIRECTORY) && kind != FileKind::Directory {
            return Err(ENOTDIR);
        }
        if how.flags.contains(OpenFlags::O_PATH) {
            return Ok(Opening::Ready(place_only(location, how)));
        }
        let attributes = location.inode().access_attributes()?;
        self.check_open(&location, &attributes, how)?;
        let truncates = how.flags.contains(OpenFlags::O_TRUNC) && kind == FileKind::Regular;
        if truncates && location.mount.is_read_only() {
            return Err(EROFS);
        }
        let opening = self.open_judged(location, &attributes, how)?;
        if truncates && let Opening::Ready(file) = &opening {
            file.inode.set_attributes(&SetAttributes {
                size: Some(0),
                permissions: self.bits_after_write(&attributes),
                ..SetAttributes::default()
            })?;
            watches::on_file(file, InotifyMask::IN_MODIFY);
        }
        Ok(opening)
    }

    /// What Linux's `may_open` judges.
    fn check_open(&self, location: &Location, attributes: &Attributes, how: OpenHow) -> SysResult<()> {
        let access = how.access();
        match attributes.kind {
            FileKind::Symlink => return Err(ELOOP),
            FileKind::Directory if access.contains(Access::WRITE) => return Err(EISDIR),
            FileKind::CharacterDevice | FileKind::BlockDevice
                if location.mount.flags().contains(MountFlags::NODEV) =>
            {
                return Err(EACCES);
            }
            _ => {}
        }
        let credentials = self.credentials();
        check_access(&credentials, attributes, access)?;
        if how.flags.contains(OpenFlags::O_NOATIME) && !is_owner(&credentials, attributes) {
            return Err(EPERM);
        }
        Ok(())
    }

    fn open_judged(&self, location: Location, attributes: &Attributes, how: OpenHow) -> SysResult<Opening> {
        let inode: Arc<dyn Inode> = Arc::clone(location.inode());
        let writes = how.flags.can_write() && attributes.kind == FileKind::Regular;
        if writes && location.mount.is_read_only() {
            return Err(EROFS);
        }
        let OpenedFifo { ops, partner_came } = self.open_inode(&inode, attributes, how.request())?;
        let location = (!self.kernel.vfs.is_nowhere(&location)).then_some(location);
        // 64-bit programs get O_LARGEFILE whether they ask for it or not.
        let flags = how.flags | OpenFlags::O_LARGEFILE;
        let file = FileDescription::new(ops, inode, location, flags.bits());
        if writes {
            file.deny_execution()?;
        }
        watches::on_file(&file, InotifyMask::IN_OPEN);
        Ok(match partner_came {
            Some(partner_came) => Opening::Waiting(file, partner_came),
            None => Opening::Ready(file),
        })
    }
}

fn place_only(location: Location, how: OpenHow) -> Arc<FileDescription> {
    let inode = Arc::clone(location.inode());
    FileDescription::new(Arc::new(PlaceOps), inode, Some(location), how.flags.bits())
}
