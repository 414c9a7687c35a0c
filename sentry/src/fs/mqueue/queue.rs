//! A message queue as an inode, and as an open file.

use std::any::Any;
use std::sync::{Arc, Weak};

use abi::errno::{EBADF, SysResult};
use parking_lot::Mutex;

use super::MessageQueues;
use super::accounts::{Accounts, Charge};
use super::delivery::State;
use crate::fs::tmpfs::metadata::Metadata;
use crate::task::Task;
use crate::vfs::{
    Attachments, Attributes, FileDescription, FileKind, FileOps, FileSystem, Inode, OpenRequest,
    SetAttributes, allocate_inode,
};
use crate::wait::{PollEvents, WaitQueue};

/// What a queue may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Messages (`mq_maxmsg`).
    pub messages: u64,
    /// Bytes of each (`mq_msgsize`).
    pub size: u64,
}

/// `FILENT_SIZE`: the size that a queue's file shows.
const FILE_SIZE: u64 = 80;

/// A queue.
pub struct Queue {
    instance: Weak<MessageQueues>,
    number: u64,
    metadata: Mutex<Metadata>,
    charge: Charge,
    pub(super) state: Mutex<State>,
    /// For `poll`: told when messages came or went.
    pub(super) changes: WaitQueue,
    attachments: Attachments,
}

impl Queue {
    pub(super) fn new(instance: Weak<MessageQueues>, metadata: Metadata, charge: Charge) -> Arc<Self> {
        Arc::new(Self {
            instance,
            number: allocate_inode(),
            metadata: Mutex::new(metadata),
            charge,
            state: Mutex::default(),
            changes: WaitQueue::new(),
            attachments: Attachments::default(),
        })
    }

    /// What it may hold.
    pub const fn shape(&self) -> Shape {
        self.charge.shape
    }

    /// Inode number.
    pub const fn number(&self) -> u64 {
        self.number
    }

    pub(super) const fn accounts(&self) -> &Arc<Accounts> {
        self.charge.accounts()
    }

    /// Messages came or went.
    pub(super) fn touched(&self) {
        self.metadata.lock().modified();
    }

    pub(super) fn unlinked(&self) {
        self.metadata.lock().relink(-1);
    }
}

impl Inode for Queue {
    fn file_system(&self) -> Arc<dyn FileSystem> {
        match self.instance.upgrade() {
            Some(instance) => instance,
            None => MessageQueues::new(),
        }
    }

    fn kind(&self) -> FileKind {
        FileKind::Regular
    }

    fn attributes(&self) -> SysResult<Attributes> {
        let mut attributes = Attributes::new(FileKind::Regular, 0, self.number);
        self.metadata.lock().show(&mut attributes);
        attributes.size = FILE_SIZE;
        Ok(attributes)
    }

    fn set_attributes(&self, change: &SetAttributes) -> SysResult<()> {
        self.metadata.lock().apply(change);
        Ok(())
    }

    fn open(self: Arc<Self>, _request: OpenRequest, _task: &Task) -> SysResult<Arc<dyn FileOps>> {
        Ok(Arc::new(QueueFile { queue: self }))
    }

    fn attachments(&self) -> &Attachments {
        &self.attachments
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A queue, open.
pub struct QueueFile {
    /// The queue.
    pub queue: Arc<Queue>,
}

/// The queue behind a descriptor.
///
/// # Errors
/// `EBADF`: it is none.
pub fn queue_of(file: &FileDescription) -> SysResult<&Arc<Queue>> {
    file.ops.as_any().downcast_ref::<QueueFile>().map(|file| &file.queue).ok_or(EBADF)
}

impl FileOps for QueueFile {
    fn read(&self, offset: u64, buffer: &mut [u8], file: &FileDescription) -> SysResult<usize> {
        let text = self.queue.state.lock().text();
        let rest = usize::try_from(offset).ok().and_then(|start| text.as_bytes().get(start..));
        let rest = rest.unwrap_or_default();
        let count = rest.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(rest) {
            *to = *from;
        }
        self.queue.metadata.lock().accessed(file);
        Ok(count)
    }

    fn poll(&self, _file: &FileDescription) -> PollEvents {
        let held = self.queue.state.lock().len();
        let mut events = PollEvents::empty();
        if held != 0 {
            events |= PollEvents::READABLE;
        }
        if held < self.queue.shape().messages {
            events |= PollEvents::WRITABLE;
        }
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue.changes)
    }

    fn flush(&self, task: &Task) {
        self.queue.end_notification(&task.group);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
