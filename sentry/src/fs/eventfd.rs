//! `eventfd`: a counter that can be waited for.

use std::any::Any;
use std::sync::Arc;

use abi::errno::{EAGAIN, EINVAL, SysResult};
use parking_lot::Mutex;

use crate::task::Credentials;
use crate::vfs::{AnonymousInode, AnonymousKind, FileDescription, FileOps};
use crate::wait::{PollEvents, WaitQueue};

/// What a read gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// The whole counter, which becomes zero.
    All,
    /// One at a time (`EFD_SEMAPHORE`).
    One,
}

/// Largest value of the counter.
const COUNTER_MAX: u64 = u64::MAX - 1;

struct EventFile {
    counter: Mutex<u64>,
    mode: ReadMode,
    queue: WaitQueue,
}

/// A new eventfd. `flags` are status flags (`O_NONBLOCK`).
pub fn new_eventfd(
    initial: u64,
    mode: ReadMode,
    flags: u32,
    credentials: &Credentials,
) -> Arc<FileDescription> {
    let ops = Arc::new(EventFile { counter: Mutex::new(initial), mode, queue: WaitQueue::new() });
    let inode = AnonymousInode::new(AnonymousKind::Other("eventfd"), credentials.fsuid, credentials.fsgid);
    FileDescription::new(ops, inode, None, flags | libc::O_RDWR.cast_unsigned())
}

impl FileOps for EventFile {
    fn read(&self, _offset: u64, buffer: &mut [u8], _file: &FileDescription) -> SysResult<usize> {
        let place = buffer.first_chunk_mut::<8>().ok_or(EINVAL)?;
        let value = {
            let mut counter = self.counter.lock();
            if *counter == 0 {
                return Err(EAGAIN);
            }
            let value = if self.mode == ReadMode::One { 1 } else { *counter };
            *counter -= value;
            value
        };
        *place = value.to_le_bytes();
        self.queue.wake(PollEvents::WRITABLE);
        Ok(8)
    }

    fn write(&self, _offset: u64, bytes: &[u8], _file: &FileDescription) -> SysResult<usize> {
        let value = u64::from_le_bytes(*bytes.first_chunk::<8>().ok_or(EINVAL)?);
        if value == u64::MAX {
            return Err(EINVAL);
        }
        {
            let mut counter = self.counter.lock();
            if value > COUNTER_MAX - *counter {
                return Err(EAGAIN);
            }
            *counter += value;
        }
        self.queue.wake(PollEvents::READABLE);
        Ok(8)
    }

    fn is_seekable(&self) -> bool {
        false
    }

    fn poll(&self, _file: &FileDescription) -> PollEvents {
        let counter = *self.counter.lock();
        let mut events = PollEvents::empty();
        if counter > 0 {
            events |= PollEvents::READABLE;
        }
        if counter < COUNTER_MAX {
            events |= PollEvents::WRITABLE;
        }
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
