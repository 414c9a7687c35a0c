//! Inodes of files that have no name: pipes, sockets, and `anon_inode:[…]`.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use abi::errno::{ENXIO, SysResult};
use parking_lot::Mutex;

use super::{
    Attachments, Attributes, DeviceNumber, FileKind, FileOps, FileSystem, FileSystemStatus, Inode,
    OpenRequest, SetAttributes, allocate_device, allocate_inode,
};
use crate::task::Task;

/// What kind of nameless file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnonymousKind {
    /// `pipe:[…]`
    Pipe,
    /// `socket:[…]`
    Socket,
    /// `anon_inode:[name]`: eventfd, eventpoll, timerfd, signalfd, inotify, pidfd.
    Other(&'static str),
}

/// The inode of a nameless file.
pub struct AnonymousInode {
    kind: AnonymousKind,
    attributes: Mutex<Attributes>,
    attachments: Attachments,
}

impl AnonymousInode {
    /// A fresh inode, owned by the given user.
    pub fn new(kind: AnonymousKind, uid: u32, gid: u32) -> Arc<Self> {
        let file_kind = match kind {
            AnonymousKind::Pipe => FileKind::Fifo,
            AnonymousKind::Socket => FileKind::Socket,
            AnonymousKind::Other(_) => FileKind::Regular,
        };
        let permissions = if kind == AnonymousKind::Socket { 0o777 } else { 0o600 };
        let mut attributes = Attributes::new(file_kind, permissions, allocate_inode());
        attributes.uid = uid;
        attributes.gid = gid;
        Arc::new(Self { kind, attributes: Mutex::new(attributes), attachments: Attachments::default() })
    }

    /// What `readlink /proc/PID/fd/N` shows.
    pub fn label(&self) -> String {
        let inode = self.attributes.lock().inode;
        match self.kind {
            AnonymousKind::Pipe => format!("pipe:[{inode}]"),
            AnonymousKind::Socket => format!("socket:[{inode}]"),
            AnonymousKind::Other(name) => format!("anon_inode:[{name}]"),
        }
    }
}

struct AnonymousFileSystem {
    device: DeviceNumber,
}

impl FileSystem for AnonymousFileSystem {
    fn type_name(&self) -> &'static str {
        "anon_inodefs"
    }
    fn device(&self) -> DeviceNumber {
        self.device
    }
    fn root(&self) -> Arc<dyn Inode> {
        AnonymousInode::new(AnonymousKind::Other("root"), 0, 0)
    }
    fn status(&self) -> SysResult<FileSystemStatus> {
        Ok(FileSystemStatus { magic: 0x0904_1934, block_size: 4096, name_max: 255, ..Default::default() })
    }
}

impl Inode for AnonymousInode {
    fn file_system(&self) -> Arc<dyn FileSystem> {
        static INSTANCE: OnceLock<Arc<AnonymousFileSystem>> = OnceLock::new();
        INSTANCE.get_or_init(|| Arc::new(AnonymousFileSystem { device: allocate_device() })).clone()
    }
    fn kind(&self) -> FileKind {
        self.attributes.lock().kind
    }
    fn attributes(&self) -> SysResult<Attributes> {
        Ok(*self.attributes.lock())
    }
    fn set_attributes(&self, change: &SetAttributes) -> SysResult<()> {
        let mut attributes = self.attributes.lock();
        attributes.permissions = change.permissions.unwrap_or(attributes.permissions);
        attributes.uid = change.uid.unwrap_or(attributes.uid);
        attributes.gid = change.gid.unwrap_or(attributes.gid);
        Ok(())
    }
    fn open(self: Arc<Self>, _request: OpenRequest, _task: &Task) -> SysResult<Arc<dyn FileOps>> {
        Err(ENXIO)
    }
    fn attachments(&self) -> &Attachments {
        &self.attachments
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
