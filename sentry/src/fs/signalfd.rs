//! `signalfd`: signals that are read from a file.

use std::any::Any;
use std::sync::{Arc, Weak};

use abi::errno::{EAGAIN, EINVAL, SysResult};
use abi::signal_info::SignalfdSiginfo;
use abi::signals::SigSet;
use parking_lot::Mutex;
use zerocopy::IntoBytes;

use crate::task::{Credentials, Task};
use crate::vfs::{AnonymousInode, AnonymousKind, FileDescription, FileOps};
use crate::wait::{Observer, PollEvents, WaitQueue};

/// A signal file. As on Linux it shows the signals of whoever reads it; here the task that made it stands for all
/// threads of its process, and a child that inherits it reads its parent's.
pub struct SignalFile {
    mask: Mutex<SigSet>,
    reader: Weak<Task>,
    changes: Arc<Changes>,
    subscriptions: Mutex<Option<(u64, u64)>>,
}

#[derive(Default)]
struct Changes {
    queue: WaitQueue,
}

impl Observer for Changes {
    fn notify(&self, _events: PollEvents) {
        self.queue.wake(PollEvents::READABLE);
    }
}

/// A new signal file for the signals in `mask`. `flags` are status flags.
pub fn new_signalfd(
    task: &Arc<Task>,
    mask: SigSet,
    flags: u32,
    credentials: &Credentials,
) -> Arc<FileDescription> {
    let changes = Arc::new(Changes::default());
    let observer = || Arc::clone(&changes) as Arc<dyn Observer>;
    let keys = (
        task.signals.arrived.subscribe(PollEvents::IN, observer()),
        task.group.signals.arrived.subscribe(PollEvents::IN, observer()),
    );
    let ops = Arc::new(SignalFile {
        mask: Mutex::new(mask.blockable()),
        reader: Arc::downgrade(task),
        changes,
        subscriptions: Mutex::new(Some(keys)),
    });
    let inode = AnonymousInode::new(AnonymousKind::Other("signalfd"), credentials.fsuid, credentials.fsgid);
    FileDescription::new(ops, inode, None, flags | libc::O_RDWR.cast_unsigned())
}

/// The signal file behind a descriptor.
///
/// # Errors
/// `EINVAL`: it is none.
pub fn signal_file_of(file: &FileDescription) -> SysResult<&SignalFile> {
    file.ops.as_any().downcast_ref().ok_or(EINVAL)
}

impl SignalFile {
    /// Replaces the signals it shows.
    pub fn set_mask(&self, mask: SigSet) {
        *self.mask.lock() = mask.blockable();
        self.changes.queue.wake(PollEvents::READABLE);
    }
}

impl Drop for SignalFile {
    fn drop(&mut self) {
        if let (Some(task), Some((own, group))) = (self.reader.upgrade(), self.subscriptions.lock().take()) {
            task.signals.arrived.unsubscribe(own);
            task.group.signals.arrived.unsubscribe(group);
        }
    }
}

impl FileOps for SignalFile {
    fn read(&self, _offset: u64, buffer: &mut [u8], _file: &FileDescription) -> SysResult<usize> {
        let size = size_of::<SignalfdSiginfo>();
        if buffer.len() < size {
            return Err(EINVAL);
        }
        let task = self.reader.upgrade().ok_or(EAGAIN)?;
        let mask = *self.mask.lock();
        let mut filled = 0;
        for place in buffer.chunks_exact_mut(size) {
            let Some((_, info)) = task.take_pending(mask) else { break };
            place.copy_from_slice(SignalfdSiginfo::from(&info).as_bytes());
            filled += size;
        }
        if filled == 0 { Err(EAGAIN) } else { Ok(filled) }
    }

    fn is_seekable(&self) -> bool {
        false
    }

    fn poll(&self, _file: &FileDescription) -> PollEvents {
        let pending = self.reader.upgrade().map(|task| task.signals.all_pending(&task.group));
        let shown = pending.unwrap_or_default() & *self.mask.lock();
        if shown.is_empty() { PollEvents::empty() } else { PollEvents::READABLE }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.changes.queue)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
