//! Making, removing, linking and renaming: what the VFS judges before a file system may change its names, and what
//! becomes of the dentries afterwards. The order of errors is Linux's.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::capabilities::{CAP_DAC_READ_SEARCH, CAP_MKNOD};
use abi::errno::{EBUSY, EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY, EPERM, EROFS, EXDEV, SysResult};
use abi::file_calls::RenameFlags;
use abi::polling::InotifyMask;

use super::permission::{Victim, check_create, check_delete, may_delete_anything};
use super::{
    Access, DeviceNumber, FileKind, Last, Location, Name, NewKind, Parent, WalkFlags, Walker, check_access,
    has, is_owner, watches,
};
use crate::task::Task;

/// A name about to be changed.
struct Target<'a> {
    walker: Walker<'a>,
    parent: Parent,
}

impl<'a> Target<'a> {
    fn new(task: &'a Task, directory: i32, path: &'a [u8]) -> SysResult<Self> {
        let mut walker = Walker::new(task, directory, path, WalkFlags::empty())?;
        let parent = walker.parent()?;
        Ok(Self { walker, parent })
    }

    fn directory(&self) -> &Location {
        &self.parent.directory
    }

    fn name(&self) -> Option<&Name> {
        match &self.parent.last {
            Last::Name(name) => Some(name),
            _ => None,
        }
    }

    fn check_writable(&self) -> SysResult<()> {
        if self.directory().mount.is_read_only() { Err(EROFS) } else { Ok(()) }
    }

    /// What is there now.
    fn find(&self) -> SysResult<Option<Location>> {
        let Some(name) = self.name() else { return Err(EBUSY) };
        match self.walker.child(name) {
            Ok(location) => Ok(Some(location)),
            Err(ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Fails with `EBUSY` if something is mounted on what was found.
    fn check_not_mounted(&self, found: &Location) -> SysResult<()> {
        if Arc::ptr_eq(&found.mount, &self.directory().mount) { Ok(()) } else { Err(EBUSY) }
    }
}

impl Task {
    /// The place where a new name can be made.
    fn vacancy<'a>(
        &'a self,
        directory: i32,
        path: &'a [u8],
        kind: FileKind,
    ) -> SysResult<(Target<'a>, Name)> {
        let target = Target::new(self, directory, path)?;
        let Some(name) = target.name().cloned() else { return Err(EEXIST) };
        let only_made =
            matches!(kind, FileKind::Directory | FileKind::Symlink) && !target.parent.trailing_slash;
        if only_made && self.may_make_unseen(target.directory(), &name) {
            return Ok((target, name));
        }
        if target.find()?.is_some() {
            return Err(EEXIST);
        }
        if target.parent.trailing_slash && kind != FileKind::Directory {
            return Err(ENOENT);
        }
        target.check_writable()?;
        Ok((target, name))
    }

    /// Whether a name may be made without a look whether it is there, because nothing else could forbid it, and the file system
    /// would have to ask for both.
    pub(super) fn may_make_unseen(&self, directory: &Location, name: &[u8]) -> bool {
        !directory.mount.is_read_only()
            && directory.inode().would_ask(name)
            && !directory.dentry.has_living_child(name)
            && check_create(&self.credentials(), &directory.dentry).is_ok()
    }

    /// `mkdirat(2)`
    ///
    /// # Errors
    /// As documented there.
    pub fn make_directory(&self, directory: i32, path: &[u8], mode: u32) -> SysResult<()> {
        let (target, name) = self.vacancy(directory, path, FileKind::Directory)?;
        let permissions = mode & 0o1777 & !self.fs().umask();
        self.create_in(target.directory(), &name, NewKind::Directory, FileKind::Directory, permissions)?;
        Ok(())
    }

    /// `symlinkat(2)`
    ///
    /// # Errors
    /// As documented there.
    pub fn make_symlink(&self, text: &[u8], directory: i32, path: &[u8]) -> SysResult<()> {
        if text.is_empty() {
            return Err(ENOENT);
        }
        let (target, name) = self.vacancy(directory, path, FileKind::Symlink)?;
        self.create_in(target.directory(), &name, NewKind::Symlink(text), FileKind::Symlink, 0o777)?;
        Ok(())
    }

    /// `mknodat(2)`, and the name of a Unix socket. `mode` includes the kind.
    ///
    /// # Errors
    /// As documented there.
    pub fn make_node(
        &self,
        directory: i32,
        path: &[u8],
        mode: u32,
        device: DeviceNumber,
    ) -> SysResult<Location> {
        let kind = match mode & 0o170_000 {
            0 => FileKind::Regular,
            _ => FileKind::from_mode(mode).ok_or(EINVAL)?,
        };
        let new = match kind {
            FileKind::Regular => NewKind::Regular,
            FileKind::Fifo => NewKind::Fifo,
            FileKind::Socket => NewKind::Socket,
            FileKind::CharacterDevice => NewKind::Device { block: false, number: device },
            FileKind::BlockDevice => NewKind::Device { block: true, number: device },
            FileKind::Directory => return Err(EPERM),
            FileKind::Symlink => return Err(EINVAL),
        };
        let (target, name) = self.vacancy(directory, path, kind)?;
        let credentials = self.credentials();
        check_create(&credentials, &target.directory().dentry)?;
        // A whiteout (0:0) is harmless and needs no privilege.
        let whiteout = kind == FileKind::CharacterDevice && device == DeviceNumber::default();
        if matches!(new, NewKind::Device { .. }) && !whiteout && !has(&credentials, CAP_MKNOD) {
            return Err(EPERM);
        }
        let permissions = mode & 0o7777 & !self.fs().umask();
        self.create_in(target.directory(), &name, new, kind, permissions)
    }

    /// `unlinkat(2)` without `AT_REMOVEDIR`
    ///
    /// # Errors
    /// As documented there.
    pub fn remove_file(&self, directory: i32, path: &[u8]) -> SysResult<()> {
        let target = Target::new(self, directory, path)?;
        let Some(name) = target.name() else { return Err(EISDIR) };
        target.check_writable()?;
        if let Some(result) = self.remove_unseen(&target, name, Victim::Other) {
            return result;
        }
        let victim = target.find()?.ok_or(ENOENT)?;
        if target.parent.trailing_slash {
            return Err(if victim.inode().kind() == FileKind::Directory { EISDIR } else { ENOTDIR });
        }
        let inode = target.directory().inode();
        check_delete(&self.credentials(), &**inode, &**victim.inode(), Victim::Other)?;
        target.check_not_mounted(&victim)?;
        inode.unlink(name, victim.inode())?;
        target.directory().dentry.remove_child(&victim.dentry, &self.kernel.vfs.dentries);
        watches::unlinked(&target.directory().dentry, &victim.dentry);
        Ok(())
    }

    /// Removes what is known only by its name, where that saves the file system a question: whoever may remove anything need
    /// not see what it is. `None`: look it up.
    fn remove_unseen(&self, target: &Target<'_>, name: &Name, victim: Victim) -> Option<SysResult<()>> {
        let directory = &target.directory().dentry;
        let is_directory = matches!(victim, Victim::Directory);
        if target.parent.trailing_slash && !is_directory
            || directory.inode().kind() != FileKind::Directory
            || !may_delete_anything(&self.credentials())
            || directory.has_living_child(name)
        {
            return None;
        }
        let result = match victim {
            Victim::Directory => directory.inode().remove_directory_unseen(name)?,
            Victim::Other | Victim::Any => directory.inode().unlink_unseen(name)?,
        };
        directory.note_change();
        if result.is_ok() {
            watches::in_directory(directory, name, InotifyMask::IN_DELETE, is_directory, 0);
        }
        Some(result)
    }

    /// `rmdir(2)`
    ///
    /// # Errors
    /// As documented there.
    pub fn remove_directory(&self, directory: i32, path: &[u8]) -> SysResult<()> {
        let target = Target::new(self, directory, path)?;
        let name = match &target.parent.last {
            Last::Name(name) => name,
            Last::Dot => return Err(EINVAL),
            Last::DotDot => return Err(ENOTEMPTY),
            Last::Root => return Err(EBUSY),
        };
        target.check_writable()?;
        if let Some(result) = self.remove_unseen(&target, name, Victim::Directory) {
            return result;
        }
        let victim = target.find()?.ok_or(ENOENT)?;
        let inode = target.directory().inode();
        check_delete(&self.credentials(), &**inode, &**victim.inode(), Victim::Directory)?;
        target.check_not_mounted(&victim)?;
        inode.remove_directory(name, victim.inode())?;
        target.directory().dentry.remove_child(&victim.dentry, &self.kernel.vfs.dentries);
        watches::unlinked(&target.directory().dentry, &victim.dentry);
        Ok(())
    }

    /// `linkat(2)`; `from` has been walked to.
    ///
    /// # Errors
    /// As documented there.
    pub fn make_link(&self, from: &Location, directory: i32, path: &[u8]) -> SysResult<()> {
        let (target, name) = self.vacancy(directory, path, FileKind::Regular)?;
        if !Arc::ptr_eq(&from.mount, &target.directory().mount) {
            return Err(EXDEV);
        }
        self.check_protected_link(from)?;
        check_create(&self.credentials(), &target.directory().dentry)?;
        if from.inode().kind() == FileKind::Directory {
            return Err(EPERM);
        }
        target.directory().inode().link(&name, from.inode())?;
        let inode = Arc::clone(from.inode());
        target.directory().dentry.bind(&name, inode, &self.kernel.vfs.dentries);
        watches::on_inode(&**from.inode(), InotifyMask::IN_ATTRIB);
        watches::in_directory(&target.directory().dentry, &name, InotifyMask::IN_CREATE, false, 0);
        Ok(())
    }

    /// `protected_hardlinks`: who is not the owner may only link what he could read and write, and nothing with
    /// privileges.
    fn check_protected_link(&self, from: &Location) -> SysResult<()> {
        let credentials = self.credentials();
        let attributes = from.inode().attributes()?;
        let privileged = attributes.permissions & 0o4000 != 0 || attributes.permissions & 0o2010 == 0o2010;
        let safe = attributes.kind == FileKind::Regular
            && !privileged
            && check_access(&credentials, &attributes, Access::READ | Access::WRITE).is_ok();
        if safe || is_owner(&credentials, &attributes) { Ok(()) } else { Err(EPERM) }
    }

    /// Where the old name of `linkat(2)` leads. An empty path needs a privilege.
    ///
    /// # Errors
    /// As documented there.
    pub fn walk_for_link(&self, directory: i32, path: &[u8], flags: WalkFlags) -> SysResult<Location> {
        if path.is_empty()
            && flags.contains(WalkFlags::EMPTY_PATH)
            && !has(&self.credentials(), CAP_DAC_READ_SEARCH)
        {
            return Err(ENOENT);
        }
        self.walk(directory, path, flags)
    }

    /// `renameat2(2)`
    ///
    /// # Errors
    /// As documented there.
    pub fn rename(&self, from: (i32, &[u8]), to: (i32, &[u8]), flags: RenameFlags) -> SysResult<()> {
        let from = Target::new(self, from.0, from.1)?;
        let to = Target::new(self, to.0, to.1)?;
        if !Arc::ptr_eq(&from.directory().mount, &to.directory().mount) {
            return Err(EXDEV);
        }
        if from.name().is_none() {
            return Err(EBUSY);
        }
        let no_replace = flags.contains(RenameFlags::RENAME_NOREPLACE);
        if to.name().is_none() {
            return Err(if no_replace { EEXIST } else { EBUSY });
        }
        from.check_writable()?;
        let exchange = flags.contains(RenameFlags::RENAME_EXCHANGE);
        let moves_between = !Arc::ptr_eq(&from.directory().dentry, &to.directory().dentry);
        // Taken before looking: a directory must not move below itself while this is judged.
        let _moving = moves_between.then(|| self.kernel.vfs.directory_moves.lock());
        let source = from.find()?.ok_or(ENOENT)?;
        let victim = to.find()?;
        if no_replace && victim.is_some() {
            return Err(EEXIST);
        }
        if exchange && victim.is_none() {
            return Err(ENOENT);
        }
        check_slashes(&from, &source, &to, victim.as_ref(), exchange)?;
        check_loops(&from, &source, &to, victim.as_ref(), exchange)?;
        if victim.as_ref().is_some_and(|victim| Arc::ptr_eq(victim.inode(), source.inode())) {
            return Ok(());
        }
        self.check_rename(&from, &source, &to, victim.as_ref(), exchange)?;
        self.carry_out_rename(&from, &source, &to, victim.as_ref(), exchange)
    }

    /// Permissions, kinds and mounts.
    fn check_rename(
        &self,
        from: &Target<'_>,
        source: &Location,
        to: &Target<'_>,
        victim: Option<&Location>,
        exchange: bool,
    ) -> SysResult<()> {
        let credentials = self.credentials();
        let directory = |location: &Location| location.inode().kind() == FileKind::Directory;
        let wanted = |is_directory| if is_directory { Victim::Directory } else { Victim::Other };
        check_delete(&credentials, &**from.directory().inode(), &**source.inode(), Victim::Any)?;
        match victim {
            None => drop(check_create(&credentials, &to.directory().dentry)?),
            Some(victim) => {
                let kind = if exchange { Victim::Any } else { wanted(directory(source)) };
                check_delete(&credentials, &**to.directory().inode(), &**victim.inode(), kind)?;
            }
        }
        if !Arc::ptr_eq(&from.directory().dentry, &to.directory().dentry) {
            // Its ".." changes.
            for moved in [Some(source), victim.filter(|_| exchange)].into_iter().flatten() {
                if directory(moved) {
                    check_access(&credentials, &moved.inode().attributes()?, Access::WRITE)?;
                }
            }
        }
        from.check_not_mounted(source)?;
        victim.map_or(Ok(()), |victim| to.check_not_mounted(victim))
    }

    fn carry_out_rename(
        &self,
        from: &Target<'_>,
        source: &Location,
        to: &Target<'_>,
        victim: Option<&Location>,
        exchange: bool,
    ) -> SysResult<()> {
        let (Some(name), Some(new_name)) = (from.name(), to.name()) else { return Err(EBUSY) };
        let (old, new) = (&from.directory().dentry, &to.directory().dentry);
        old.inode().rename(name, new.inode(), new_name, exchange)?;
        let cache = &self.kernel.vfs.dentries;
        // Never 0, which is what events without a move have.
        let cookie = || self.kernel.vfs.moves.fetch_add(1, Ordering::Relaxed) | 1 << 31;
        match victim {
            Some(victim) if exchange => {
                old.exchange_children(&source.dentry, new, &victim.dentry);
                watches::moved((old, name), (new, new_name), &source.dentry, None, cookie());
                watches::moved((new, new_name), (old, name), &victim.dentry, None, cookie());
            }
            _ => {
                let replaced = victim.map(|victim| &victim.dentry);
                old.move_child(&source.dentry, new, new_name, replaced, cache);
                watches::moved(
                    (old, name),
                    (new, new_name),
                    &source.dentry,
                    replaced.map(|dentry| &**dentry),
                    cookie(),
                );
            }
        }
        Ok(())
    }
}

/// Only directories may be named with a slash behind.
fn check_slashes(
    from: &Target<'_>,
    source: &Location,
    to: &Target<'_>,
    victim: Option<&Location>,
    exchange: bool,
) -> SysResult<()> {
    let directory = |location: &Location| location.inode().kind() == FileKind::Directory;
    if exchange && to.parent.trailing_slash && !victim.is_some_and(directory) {
        return Err(ENOTDIR);
    }
    let slashes = from.parent.trailing_slash || !exchange && to.parent.trailing_slash;
    if slashes && !directory(source) { Err(ENOTDIR) } else { Ok(()) }
}

/// Nothing becomes its own descendant.
fn check_loops(
    from: &Target<'_>,
    source: &Location,
    to: &Target<'_>,
    victim: Option<&Location>,
    exchange: bool,
) -> SysResult<()> {
    if to.directory().dentry.is_below(&source.dentry) {
        return Err(EINVAL);
    }
    if victim.is_some_and(|victim| from.directory().dentry.is_below(&victim.dentry)) {
        return Err(if exchange { EINVAL } else { ENOTEMPTY });
    }
    Ok(())
}
