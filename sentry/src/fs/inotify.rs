//! `inotify` (`man 7 inotify`): events of watched files and directories, read from a file.
//!
//! [`InotifyFile`] is an instance; [`crate::vfs::watches`] tells it what happens. [`Accounts`] bounds what all instances
//! take: instances by user, and watches and queued bytes of all. Events beyond the queue's length, or beyond
//! [`QUEUED_BYTES_MAX`], become one `IN_Q_OVERFLOW`.
//!
//! Lock order: an instance's state, then an inode's list of watches. Dentries and inodes are dropped without either.

use std::any::Any;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::errno::{EAGAIN, EEXIST, EINVAL, EMFILE, ENOSPC, ENOTTY, SysResult};
use abi::ioctls::FIONREAD;
use abi::polling::{InotifyEvent, InotifyMask};
use parking_lot::Mutex;
use zerocopy::IntoBytes;

use crate::task::{Credentials, Task};
use crate::vfs::watches::{Event, Watcher};
use crate::vfs::{
    AnonymousInode, AnonymousKind, Dentry, FileDescription, FileOps, FileSystem, Inode, Location,
};
use crate::wait::{PollEvents, WaitQueue};

/// Events an instance queues (`max_queued_events`).
pub const QUEUE_MAX: usize = 16_384;
/// Instances of a user (`max_user_instances`).
pub const INSTANCES_MAX: usize = 128;
/// Watches of everybody together (`max_user_watches`).
pub const WATCHES_MAX: usize = 65_536;
/// Instances of everybody together.
const ALL_INSTANCES_MAX: usize = 4096;
/// What queued events of everybody may take, in bytes.
const QUEUED_BYTES_MAX: usize = 16 << 20;
/// What an event takes beyond its name.
const EVENT_OVERHEAD: usize = 64;
/// Names are padded to a multiple of this many bytes.
const ALIGNMENT: usize = size_of::<InotifyEvent>();

/// What all instances have taken.
#[derive(Default)]
pub struct Accounts {
    instances: Mutex<Instances>,
    watches: AtomicUsize,
    queued_bytes: AtomicUsize,
}

#[derive(Default)]
struct Instances {
    by_user: HashMap<u32, usize>,
    list: Vec<Weak<InotifyFile>>,
}

impl Accounts {
    /// A file system is mounted nowhere any more: so is what was watched of it.
    pub fn unmounted(&self, file_system: &Arc<dyn FileSystem>) {
        let living: Vec<Arc<InotifyFile>> =
            self.instances.lock().list.iter().filter_map(Weak::upgrade).collect();
        for instance in living {
            instance.forget_file_system(file_system);
        }
    }

    fn take(counter: &AtomicUsize, count: usize, max: usize) -> bool {
        let add = |used: usize| used.checked_add(count).filter(|used| *used <= max);
        counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }
}

struct Held {
    inode: Arc<dyn Inode>,
    /// Until its name is removed.
    pin: Option<Arc<Dentry>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Queued {
    watch: i32,
    mask: InotifyMask,
    cookie: u32,
    name: Box<[u8]>,
}

impl Queued {
    /// Bytes of the name as it is read: terminated and padded; 0 if there is none.
    fn name_length(&self) -> usize {
        if self.name.is_empty() { 0 } else { (self.name.len() + 1).next_multiple_of(ALIGNMENT) }
    }

    fn length(&self) -> usize {
        ALIGNMENT + self.name_length()
    }

    fn cost(&self) -> usize {
        EVENT_OVERHEAD + self.name.len()
    }

    /// An event that says nothing new behind this one.
    fn says_the_same_as(&self, other: &Self) -> bool {
        self.watch == other.watch
            && self.mask == other.mask
            && self.name == other.name
            && !self.mask.contains(InotifyMask::IN_IGNORED)
    }

    fn write(&self, place: &mut [u8]) {
        let header = InotifyEvent {
            wd: self.watch,
            mask: self.mask.bits(),
            cookie: self.cookie,
            len: u32::try_from(self.name_length()).unwrap_or(0),
        };
        let (head, tail) = place.split_at_mut(ALIGNMENT);
        head.copy_from_slice(header.as_bytes());
        tail.fill(0);
        for (to, from) in tail.iter_mut().zip(&self.name) {
            *to = *from;
        }
    }
}

#[derive(Default)]
struct State {
    watches: BTreeMap<i32, Held>,
    last: i32,
    events: VecDeque<Queued>,
    overflowed: bool,
}

/// An instance.
pub struct InotifyFile {
    state: Mutex<State>,
    queue: WaitQueue,
    accounts: Arc<Accounts>,
    uid: u32,
    own: Weak<Self>,
}

/// A new instance. `flags` are status flags.
///
/// # Errors
/// `EMFILE`: the user has too many.
pub fn new_inotify(
    accounts: &Arc<Accounts>,
    flags: u32,
    credentials: &Credentials,
) -> SysResult<Arc<FileDescription>> {
    let ops = {
        let mut instances = accounts.instances.lock();
        let all: usize = instances.by_user.values().sum();
        let count = instances.by_user.entry(credentials.uid).or_default();
        if *count >= INSTANCES_MAX || all >= ALL_INSTANCES_MAX {
            return Err(EMFILE);
        }
        *count += 1;
        let ops = Arc::new_cyclic(|own| InotifyFile {
            state: Mutex::default(),
            queue: WaitQueue::new(),
            accounts: Arc::clone(accounts),
            uid: credentials.uid,
            own: own.clone(),
        });
        instances.list.retain(|instance| instance.strong_count() != 0);
        instances.list.push(Arc::downgrade(&ops));
        ops
    };
    let inode = AnonymousInode::new(AnonymousKind::Other("inotify"), credentials.fsuid, credentials.fsgid);
    Ok(FileDescription::new(ops, inode, None, flags | libc::O_RDONLY.cast_unsigned()))
}

/// The instance behind a descriptor.
///
/// # Errors
/// `EINVAL`: it is none.
pub fn inotify_of(file: &FileDescription) -> SysResult<&InotifyFile> {
    file.ops.as_any().downcast_ref().ok_or(EINVAL)
}

impl InotifyFile {
    /// Watches a place, or changes what is asked of it; returns the watch's number.
    ///
    /// # Errors
    /// `EEXIST`: it is watched, and `IN_MASK_CREATE`. `ENOSPC`: too many watches.
    pub fn add(&self, location: &Location, mask: InotifyMask) -> SysResult<i32> {
        let Some(own) = self.own.upgrade() else { return Err(EINVAL) };
        let own: Arc<dyn Watcher> = own;
        let inode = location.inode();
        let watches = inode.attachments().watches();
        let kept = mask & (InotifyMask::ALL_EVENTS | InotifyMask::IN_EXCL_UNLINK | InotifyMask::IN_ONESHOT);
        let mut state = self.state.lock();
        if let Some((number, old)) = watches.find(&own) {
            if mask.contains(InotifyMask::IN_MASK_CREATE) {
                return Err(EEXIST);
            }
            let adds = mask.contains(InotifyMask::IN_MASK_ADD);
            watches.put(&own, number, if adds { old | kept } else { kept });
            return Ok(number);
        }
        let number = state.last.checked_add(1).ok_or(ENOSPC)?;
        if !Accounts::take(&self.accounts.watches, 1, WATCHES_MAX) {
            return Err(ENOSPC);
        }
        state.last = number;
        let pin = (!location.dentry.is_removed()).then(|| Arc::clone(&location.dentry));
        state.watches.insert(number, Held { inode: Arc::clone(inode), pin });
        watches.put(&own, number, kept);
        Ok(number)
    }

    /// Ends a watch.
    ///
    /// # Errors
    /// `EINVAL`: there is none with this number.
    pub fn remove(&self, number: i32) -> SysResult<()> {
        let inode = self.state.lock().watches.get(&number).map(|held| Arc::clone(&held.inode));
        let inode = inode.ok_or(EINVAL)?;
        let own: *const dyn Watcher = std::ptr::from_ref(self);
        inode.attachments().watches().remove(own, number);
        self.ended(number);
        Ok(())
    }

    fn forget_file_system(&self, file_system: &Arc<dyn FileSystem>) {
        let held: Vec<(i32, Arc<dyn Inode>)> = {
            let state = self.state.lock();
            state.watches.iter().map(|(number, held)| (*number, Arc::clone(&held.inode))).collect()
        };
        for (number, inode) in held {
            if Arc::ptr_eq(&inode.file_system(), file_system) {
                self.tell(number, &Event { mask: InotifyMask::IN_UNMOUNT, name: None, cookie: 0 });
                let _ = self.remove(number);
            }
        }
    }

    /// Queues an event; the caller wakes readers.
    fn push(&self, state: &mut State, event: Queued) {
        if state.events.back().is_some_and(|last| last.says_the_same_as(&event)) {
            return;
        }
        let full = state.events.len() >= QUEUE_MAX;
        if !full && Accounts::take(&self.accounts.queued_bytes, event.cost(), QUEUED_BYTES_MAX) {
            state.events.push_back(event);
        } else if !state.overflowed {
            state.overflowed = true;
            let mask = InotifyMask::IN_Q_OVERFLOW;
            let lost = Queued { watch: -1, mask, cookie: 0, name: Box::default() };
            // One for each instance, whatever the others have taken.
            self.accounts.queued_bytes.fetch_add(lost.cost(), Ordering::Relaxed);
            state.events.push_back(lost);
        }
    }
}

impl Watcher for InotifyFile {
    fn tell(&self, watch: i32, event: &Event<'_>) {
        {
            let mut state = self.state.lock();
            if !state.watches.contains_key(&watch) {
                return;
            }
            let name = event.name.map(Box::from).unwrap_or_default();
            self.push(&mut state, Queued { watch, mask: event.mask, cookie: event.cookie, name });
        }
        self.queue.wake(PollEvents::READABLE);
    }

    fn ended(&self, watch: i32) {
        let held = {
            let mut state = self.state.lock();
            let Some(held) = state.watches.remove(&watch) else { return };
            self.accounts.watches.fetch_sub(1, Ordering::Relaxed);
            let ignored = Queued { watch, mask: InotifyMask::IN_IGNORED, cookie: 0, name: Box::default() };
            self.push(&mut state, ignored);
            held
        };
        drop(held);
        self.queue.wake(PollEvents::READABLE);
    }

    fn unpin(&self, watch: i32, dentry: &Dentry) {
        let pin = {
            let mut state = self.state.lock();
            let held = state.watches.get_mut(&watch);
            held.and_then(|held| {
                held.pin.take_if(|pin| std::ptr::eq(Arc::as_ptr(pin), std::ptr::from_ref(dentry)))
            })
        };
        drop(pin);
    }
}

impl Drop for InotifyFile {
    fn drop(&mut self) {
        let own: *const dyn Watcher = std::ptr::from_ref(self);
        let state = std::mem::take(&mut *self.state.lock());
        for (number, held) in &state.watches {
            held.inode.attachments().watches().remove(own, *number);
        }
        self.accounts.watches.fetch_sub(state.watches.len(), Ordering::Relaxed);
        let bytes = state.events.iter().map(Queued::cost).sum();
        self.accounts.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        let mut instances = self.accounts.instances.lock();
        if let Some(count) = instances.by_user.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                instances.by_user.remove(&self.uid);
            }
        }
    }
}

impl FileOps for InotifyFile {
    fn read(&self, _offset: u64, buffer: &mut [u8], _file: &FileDescription) -> SysResult<usize> {
        let mut state = self.state.lock();
        let mut filled = 0;
        while let Some(event) = state.events.front() {
            let length = event.length();
            let Some(place) = buffer.get_mut(filled..filled + length) else { break };
            event.write(place);
            filled += length;
            self.accounts.queued_bytes.fetch_sub(event.cost(), Ordering::Relaxed);
            state.overflowed &= !event.mask.contains(InotifyMask::IN_Q_OVERFLOW);
            state.events.pop_front();
        }
        match filled {
            0 if state.events.is_empty() => Err(EAGAIN),
            0 => Err(EINVAL),
            _ => Ok(filled),
        }
    }

    fn is_seekable(&self) -> bool {
        false
    }

    fn poll(&self, _file: &FileDescription) -> PollEvents {
        if self.state.lock().events.is_empty() { PollEvents::empty() } else { PollEvents::READABLE }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn ioctl(&self, task: &Task, _file: &FileDescription, request: u32, argument: u64) -> SysResult<u64> {
        if request != FIONREAD {
            return Err(ENOTTY);
        }
        let length: usize = self.state.lock().events.iter().map(Queued::length).sum();
        task.write_value(argument, &i32::try_from(length).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
