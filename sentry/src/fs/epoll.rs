//! `epoll` (`man 7 epoll`): a set of files, and those of them that have become ready.
//!
//! Each watched file has an [`Item`], which observes the file's wait queue and enters the ready list when something
//! happens. A wait looks only at the ready list: its cost does not grow with the number of idle files.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use abi::errno::{EEXIST, EINVAL, ELOOP, ENOENT, ENOSPC, EPERM, SysResult};
use abi::polling::EpollEvents;
use parking_lot::Mutex;

use crate::task::Credentials;
use crate::vfs::{AnonymousInode, AnonymousKind, FileDescription, FileKind, FileOps};
use crate::wait::{Observer, PollEvents, WaitQueue};

/// Files one instance may watch (`/proc/sys/fs/epoll/max_user_watches` is of this order).
const WATCHES_MAX: usize = 1 << 18;
/// How deep instances may watch each other.
const NESTING_MAX: usize = 5;

/// A watched file is known by its number and its description: after `dup` and `close` both matter.
type Key = (i32, u64);

#[derive(Clone, Copy)]
struct Interest {
    events: EpollEvents,
    data: u64,
    /// Disabled by `EPOLLONESHOT` until modified.
    disabled: bool,
}

struct Item {
    key: Key,
    file: Weak<FileDescription>,
    interest: Mutex<Interest>,
    /// In the ready list.
    queued: AtomicBool,
    epoll: Weak<EpollFile>,
    subscription: Mutex<Option<u64>>,
}

/// An epoll instance.
pub struct EpollFile {
    items: Mutex<BTreeMap<Key, Arc<Item>>>,
    ready: Mutex<VecDeque<Arc<Item>>>,
    queue: WaitQueue,
    /// For items, which need a handle of their instance.
    own: Weak<EpollFile>,
}

/// One event for the application.
#[derive(Clone, Copy, Debug)]
pub struct ReadyEvent {
    /// What happened.
    pub events: EpollEvents,
    /// The application's own word.
    pub data: u64,
}

/// A new epoll instance.
pub fn new_epoll(credentials: &Credentials) -> Arc<FileDescription> {
    let ops = Arc::new_cyclic(|own| EpollFile {
        items: Mutex::default(),
        ready: Mutex::default(),
        queue: WaitQueue::new(),
        own: own.clone(),
    });
    let inode = AnonymousInode::new(AnonymousKind::Other("eventpoll"), credentials.fsuid, credentials.fsgid);
    FileDescription::new(ops, inode, None, libc::O_RDWR.cast_unsigned())
}

/// The instance behind a descriptor.
///
/// # Errors
/// `EINVAL`: it is none.
pub fn epoll_of(file: &FileDescription) -> SysResult<&EpollFile> {
    file.ops.as_any().downcast_ref().ok_or(EINVAL)
}

impl Observer for Item {
    fn notify(&self, _events: PollEvents) {
        if let Some(epoll) = self.epoll.upgrade() {
            epoll.item_changed(self);
        }
    }
}

impl Item {
    fn watch(self: &Arc<Self>, file: &FileDescription) {
        if let Some(queue) = file.ops.wait_queue() {
            let mask = PollEvents::from_bits_truncate(self.interest.lock().events.bits());
            let observer = Arc::clone(self) as Arc<dyn Observer>;
            let old = self.subscription.lock().replace(queue.subscribe(mask, observer));
            if let Some(old) = old {
                queue.unsubscribe(old);
            }
        }
    }

    fn unwatch(&self) {
        let subscription = self.subscription.lock().take();
        if let (Some(key), Some(file)) = (subscription, self.file.upgrade())
            && let Some(queue) = file.ops.wait_queue()
        {
            queue.unsubscribe(key);
        }
    }

    /// What is ready and wanted now.
    fn ready(&self) -> Option<(EpollEvents, Interest)> {
        let file = self.file.upgrade()?;
        let interest = *self.interest.lock();
        if interest.disabled {
            return None;
        }
        let wanted = PollEvents::from_bits_truncate(interest.events.bits()) | PollEvents::ALWAYS;
        let events = file.poll() & wanted;
        (!events.is_empty()).then(|| (EpollEvents::from_bits_retain(events.bits()), interest))
    }
}

impl EpollFile {
    fn item_changed(&self, item: &Item) {
        let found = self.items.lock().get(&item.key).cloned();
        if let Some(item) = found {
            self.enqueue(item);
        }
    }

    fn enqueue(&self, item: Arc<Item>) {
        if !item.queued.swap(true, Ordering::AcqRel) {
            self.ready.lock().push_back(item);
        }
        self.queue.wake(PollEvents::READABLE);
    }

    /// `EPOLL_CTL_ADD`
    ///
    /// # Errors
    /// `EEXIST`, `EPERM` (the file has no readiness), `ELOOP`, `EINVAL`, `ENOSPC`.
    pub fn add(&self, fd: i32, file: &Arc<FileDescription>, events: EpollEvents, data: u64) -> SysResult<()> {
        if matches!(file.inode.kind(), FileKind::Regular | FileKind::Directory)
            && file.ops.wait_queue().is_none()
        {
            return Err(EPERM);
        }
        if let Ok(inner) = epoll_of(file) {
            if std::ptr::eq(inner, self) {
                return Err(EINVAL);
            }
            if inner.reaches(self, 0)? || events.contains(EpollEvents::EPOLLEXCLUSIVE) {
                return Err(if events.contains(EpollEvents::EPOLLEXCLUSIVE) { EINVAL } else { ELOOP });
            }
        }
        let key = (fd, file.identity);
        let item = Arc::new(Item {
            key,
            file: Arc::downgrade(file),
            interest: Mutex::new(Interest { events, data, disabled: false }),
            queued: AtomicBool::new(false),
            epoll: self.own.clone(),
            subscription: Mutex::new(None),
        });
        {
            let mut items = self.items.lock();
            if items.len() >= WATCHES_MAX {
                items.retain(|_, item| item.file.strong_count() != 0);
                if items.len() >= WATCHES_MAX {
                    return Err(ENOSPC);
                }
            }
            if items.contains_key(&key) {
                return Err(EEXIST);
            }
            items.insert(key, Arc::clone(&item));
        }
        item.watch(file);
        if item.ready().is_some() {
            self.enqueue(item);
        }
        Ok(())
    }

    /// Whether this instance watches `other`, directly or not.
    fn reaches(&self, other: &Self, depth: usize) -> SysResult<bool> {
        if depth >= NESTING_MAX {
            return Err(ELOOP);
        }
        let items: Vec<Arc<Item>> = self.items.lock().values().cloned().collect();
        for item in items {
            let Some(file) = item.file.upgrade() else { continue };
            if let Ok(inner) = epoll_of(&file)
                && (std::ptr::eq(inner, other) || inner.reaches(other, depth + 1)?)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// `EPOLL_CTL_MOD`
    ///
    /// # Errors
    /// `ENOENT`; `EINVAL` for exclusive watches.
    pub fn modify(
        &self,
        fd: i32,
        file: &Arc<FileDescription>,
        events: EpollEvents,
        data: u64,
    ) -> SysResult<()> {
        let item = self.items.lock().get(&(fd, file.identity)).cloned().ok_or(ENOENT)?;
        {
            let mut interest = item.interest.lock();
            if (interest.events | events).contains(EpollEvents::EPOLLEXCLUSIVE) {
                return Err(EINVAL);
            }
            *interest = Interest { events, data, disabled: false };
        }
        item.watch(file);
        if item.ready().is_some() {
            self.enqueue(item);
        }
        Ok(())
    }

    /// `EPOLL_CTL_DEL`
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn delete(&self, fd: i32, file: &Arc<FileDescription>) -> SysResult<()> {
        let item = self.items.lock().remove(&(fd, file.identity)).ok_or(ENOENT)?;
        item.unwatch();
        item.interest.lock().disabled = true;
        Ok(())
    }

    /// Up to `limit` events; none if nothing is ready.
    pub fn take_ready(&self, limit: usize) -> Vec<ReadyEvent> {
        let mut taken = Vec::new();
        let mut again = Vec::new();
        // Each item is looked at once, however often it is ready.
        let mut left = self.ready.lock().len();
        while left != 0 && taken.len() < limit {
            left -= 1;
            let Some(item) = self.ready.lock().pop_front() else { break };
            item.queued.store(false, Ordering::Release);
            if item.file.strong_count() == 0 {
                self.items.lock().remove(&item.key);
                continue;
            }
            let Some((events, interest)) = item.ready() else { continue };
            taken.push(ReadyEvent { events, data: interest.data });
            if interest.events.contains(EpollEvents::EPOLLONESHOT) {
                item.interest.lock().disabled = true;
            } else if !interest.events.contains(EpollEvents::EPOLLET) {
                again.push(item);
            }
        }
        // Level-triggered files stay in the list, behind those that had no turn yet.
        for item in again {
            if !item.queued.swap(true, Ordering::AcqRel) {
                self.ready.lock().push_back(item);
            }
        }
        taken
    }

    /// Where readiness is announced.
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }
}

impl Drop for EpollFile {
    fn drop(&mut self) {
        for item in self.items.lock().values() {
            item.unwatch();
        }
    }
}

impl FileOps for EpollFile {
    fn is_seekable(&self) -> bool {
        false
    }

    fn poll(&self, _file: &FileDescription) -> PollEvents {
        let candidates: Vec<Arc<Item>> = self.ready.lock().iter().cloned().collect();
        if candidates.iter().any(|item| item.ready().is_some()) {
            PollEvents::READABLE
        } else {
            PollEvents::empty()
        }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
