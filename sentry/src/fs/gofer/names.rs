//! What the gofer does to names: making, linking, removing, renaming.

use std::sync::Arc;

use abi::errno::SysResult;
use wire::{Access, CreateMode, DeviceNumber, Name, OpenFlags, RenameFlags, SpecialFile};

use super::inode::GoferInode;
use crate::memory::HostFile;
use crate::vfs::{FileKind, Inode, NewKind, NewNode};

impl GoferInode {
    pub(super) fn make(&self, name: &[u8], node: &NewNode<'_>) -> SysResult<Arc<Self>> {
        let client = &self.tree.client;
        let (directory, entry) = (self.handle()?, Name::new(name)?);
        let mode = CreateMode { mode: node.permissions & 0o7777, uid: node.uid, gid: node.gid };
        let special = |kind| client.mknod(directory, entry, kind, mode);
        let mut created = None;
        let made = match &node.kind {
            NewKind::Regular => {
                let file = client.create(directory, entry, Access::ReadWrite, OpenFlags::empty(), mode)?;
                created = Some(Arc::new(HostFile::new(file.descriptor)));
                file.node
            }
            NewKind::Directory => client.mkdir(directory, entry, mode)?,
            NewKind::Symlink(target) => client.symlink(directory, entry, target, node.uid, node.gid)?,
            NewKind::Fifo => special(SpecialFile::Fifo)?,
            NewKind::Socket => special(SpecialFile::Socket)?,
            NewKind::Device { block, number } => {
                let number = DeviceNumber { major: number.major, minor: number.minor };
                special(if *block {
                    SpecialFile::BlockDevice(number)
                } else {
                    SpecialFile::CharacterDevice(number)
                })?
            }
        };
        let inode = self.tree.held(made, None);
        if let Some(file) = created {
            inode.note_created(file);
        }
        self.name_changed(name, Some(&inode));
        Ok(inode)
    }

    pub(super) fn add_name(&self, name: &[u8], target: &Arc<Self>) -> SysResult<()> {
        let node = self.tree.client.link(target.handle()?, self.handle()?, Name::new(name)?)?;
        target.note_attr(&node.attr);
        self.name_changed(name, Some(target));
        Ok(())
    }

    pub(super) fn remove_name(&self, name: &[u8], victim: &Arc<Self>) -> SysResult<()> {
        if victim.links() > 1 {
            // It lives on under another name, but would have no way to its handle.
            victim.handle()?;
        }
        self.tree.client.unlink(self.handle()?, Name::new(name)?)?;
        self.name_changed(name, None);
        victim.name_lost();
        Ok(())
    }

    /// In a shared tree, where a lookup would have to ask the host. In an exclusive one it costs nothing, and the inode's
    /// state is kept true by it.
    pub(super) fn remove_unseen(&self, name: &[u8]) -> Option<SysResult<()>> {
        if self.tree.is_exclusive() || self.believed_child(name).is_some() {
            return None;
        }
        let unlink = || self.tree.client.unlink(self.handle()?, Name::new(name)?);
        let result = unlink();
        self.name_changed(name, None);
        Some(result)
    }

    pub(super) fn remove_empty(&self, name: &[u8], victim: &Arc<Self>) -> SysResult<()> {
        self.tree.client.rmdir(self.handle()?, Name::new(name)?)?;
        self.name_changed(name, None);
        victim.directory_lost();
        Ok(())
    }

    /// As [`remove_unseen`](Self::remove_unseen). A directory that was met before may be known still; whether it is the one that was
    /// removed, it is asked itself when that matters.
    pub(super) fn remove_empty_unseen(&self, name: &[u8]) -> Option<SysResult<()>> {
        if self.tree.is_exclusive() {
            return None;
        }
        let victim = self.believed_child(name);
        let rmdir = || self.tree.client.rmdir(self.handle()?, Name::new(name)?);
        let result = rmdir();
        self.name_changed(name, None);
        if let (Ok(()), Some(victim)) = (&result, victim) {
            victim.directory_lost();
        }
        Some(result)
    }

    pub(super) fn move_name(
        &self,
        name: &[u8],
        directory: &Arc<Self>,
        new_name: &[u8],
        exchange: bool,
    ) -> SysResult<()> {
        let flags = if exchange { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
        let (moved, replaced) = (self.living_child(name), directory.living_child(new_name));
        // Whoever has no handle yet is found by its name, so it gets one while the name is true.
        for inode in [&moved, &replaced].into_iter().flatten() {
            inode.handle()?;
        }
        let (from, to) = (self.handle()?, directory.handle()?);
        self.tree.client.rename(from, Name::new(name)?, to, Name::new(new_name)?, flags)?;
        self.name_changed(name, replaced.as_ref().filter(|_| exchange));
        directory.name_changed(new_name, moved.as_ref());
        if let Some(moved) = &moved {
            moved.note_changed();
        }
        match &replaced {
            Some(inode) if exchange => inode.note_changed(),
            // Two names of one inode: the call did nothing.
            Some(inode) if moved.as_ref().is_some_and(|moved| Arc::ptr_eq(moved, inode)) => {
                self.name_changed(name, Some(inode));
            }
            Some(inode) if inode.is_directory() => inode.directory_lost(),
            Some(inode) => inode.name_lost(),
            None => {}
        }
        Ok(())
    }

    /// A name in this directory was made, removed or bound anew.
    fn name_changed(&self, name: &[u8], child: Option<&Arc<Self>>) {
        self.count_change();
        self.unprime(name);
        self.set_child(name, child, None);
        self.tree.watch.forget(&self.mark, name);
        self.note_changed();
    }

    fn is_directory(&self) -> bool {
        self.kind() == FileKind::Directory
    }
}
