//! Who wants to hear of what happens to files (`man 7 inotify`), as the VFS knows it.
//!
//! An inode's [`Watches`] list those who watch it; the functions of this file are called where something happens. While
//! nobody watches anything, each of them costs one load. Events are told without any lock of the VFS held.
//!
//! A watch keeps its inode alive and, until the name is removed, the dentry through which it was found (so that looking up
//! the name again leads to the same inode). It ends when the last dentry of a removed inode is dropped.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::polling::InotifyMask;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{Dentry, FileDescription, FileKind, Inode, Subject};

/// Watches in existence.
static LIVING: AtomicUsize = AtomicUsize::new(0);

/// Something that happened.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// What, with `IN_ISDIR`.
    pub mask: InotifyMask,
    /// To which name in the watched directory; `None`: to the watched inode itself.
    pub name: Option<&'a [u8]>,
    /// Ties the two halves of a move together.
    pub cookie: u32,
}

/// Who watches. A watcher numbers its watches.
pub trait Watcher: Send + Sync {
    /// Something happened to what a watch is on.
    fn tell(&self, watch: i32, event: &Event<'_>);
    /// A watch has ended: it was for one event, or what it was on is gone.
    fn ended(&self, watch: i32);
    /// A name was removed: the dentry is not to be kept for it any more.
    fn unpin(&self, watch: i32, dentry: &Dentry);
}

struct Watch {
    watcher: Weak<dyn Watcher>,
    number: i32,
    mask: InotifyMask,
}

/// A watch that is to be told.
struct Hit {
    watcher: Arc<dyn Watcher>,
    number: i32,
    /// It ends with that.
    once: bool,
}

impl Watch {
    fn is_of(&self, watcher: &Arc<dyn Watcher>) -> bool {
        std::ptr::addr_eq(self.watcher.as_ptr(), Arc::as_ptr(watcher))
    }
}

/// The watches on one inode.
#[derive(Default)]
pub struct Watches {
    list: Mutex<Vec<Watch>>,
}

/// Whether anybody watches anything.
pub fn any() -> bool {
    LIVING.load(Ordering::Relaxed) != 0
}

impl Watches {
    /// A watcher's watch: its number and mask.
    pub fn find(&self, watcher: &Arc<dyn Watcher>) -> Option<(i32, InotifyMask)> {
        let list = self.list.lock();
        list.iter().find(|watch| watch.is_of(watcher)).map(|watch| (watch.number, watch.mask))
    }

    /// Adds a watch, or changes what it asks for.
    pub fn put(&self, watcher: &Arc<dyn Watcher>, number: i32, mask: InotifyMask) {
        let mut list = self.list.lock();
        match list.iter_mut().find(|watch| watch.is_of(watcher) && watch.number == number) {
            Some(watch) => watch.mask = mask,
            None => {
                list.push(Watch { watcher: Arc::downgrade(watcher), number, mask });
                LIVING.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Removes a watch.
    pub fn remove(&self, watcher: *const dyn Watcher, number: i32) {
        let mut list = self.list.lock();
        let before = list.len();
        list.retain(|watch| watch.number != number || !std::ptr::addr_eq(watch.watcher.as_ptr(), watcher));
        LIVING.fetch_sub(before - list.len(), Ordering::Relaxed);
    }

    fn tell(&self, event: &Event<'_>, unlinked: bool) {
        let mut hit: SmallVec<[Hit; 4]> = SmallVec::new();
        self.list.lock().retain(|watch| {
            let hidden = unlinked && watch.mask.contains(InotifyMask::IN_EXCL_UNLINK);
            if hidden || !watch.mask.intersects(event.mask & InotifyMask::ALL_EVENTS) {
                return true;
            }
            let once = watch.mask.contains(InotifyMask::IN_ONESHOT);
            let watcher = watch.watcher.upgrade();
            hit.extend(watcher.map(|watcher| Hit { watcher, number: watch.number, once }));
            if once {
                LIVING.fetch_sub(1, Ordering::Relaxed);
            }
            !once
        });
        for Hit { watcher, number, once } in hit {
            watcher.tell(number, event);
            if once {
                watcher.ended(number);
            }
        }
    }

    fn members(&self) -> SmallVec<[(Arc<dyn Watcher>, i32); 4]> {
        let list = self.list.lock();
        list.iter().filter_map(|watch| Some((watch.watcher.upgrade()?, watch.number))).collect()
    }
}

fn directory_bit(inode: &dyn Inode) -> InotifyMask {
    if inode.kind() == FileKind::Directory { InotifyMask::IN_ISDIR } else { InotifyMask::empty() }
}

/// Something happened to an inode, whatever its name.
pub fn on_inode(inode: &dyn Inode, mask: InotifyMask) {
    if any()
        && let Some(watches) = inode.attachments().watches_if_any()
    {
        let own = InotifyMask::IN_DELETE_SELF | InotifyMask::IN_MOVE_SELF;
        let bit = if mask.intersects(own) { InotifyMask::empty() } else { directory_bit(inode) };
        watches.tell(&Event { mask: mask | bit, name: None, cookie: 0 }, false);
    }
}

/// Something happened to a name in a directory. `is_directory` is about what it names.
pub fn in_directory(directory: &Dentry, name: &[u8], mask: InotifyMask, is_directory: bool, cookie: u32) {
    if any()
        && let Some(watches) = directory.inode().attachments().watches_if_any()
    {
        let bit = if is_directory { InotifyMask::IN_ISDIR } else { InotifyMask::empty() };
        watches.tell(&Event { mask: mask | bit, name: Some(name), cookie }, false);
    }
}

/// Something happened to what a dentry stands for: its directory hears of it, and it itself.
pub fn on_dentry(dentry: &Dentry, mask: InotifyMask) {
    if !any() {
        return;
    }
    let bit = directory_bit(&**dentry.inode());
    if let (Some(parent), name) = dentry.parent_and_name()
        && let Some(watches) = parent.inode().attachments().watches_if_any()
    {
        watches.tell(&Event { mask: mask | bit, name: Some(&name), cookie: 0 }, dentry.is_removed());
    }
    on_inode(&**dentry.inode(), mask);
}

/// Something was done through an open file.
pub fn on_file(file: &FileDescription, mask: InotifyMask) {
    if any() && !file.path_only {
        match &file.location {
            Some(location) => on_dentry(&location.dentry, mask),
            None => on_inode(&*file.inode, mask),
        }
    }
}

/// Something was done to a subject of `chmod` and the like.
pub fn on_subject(subject: Subject<'_>, mask: InotifyMask) {
    match subject {
        Subject::Place(location) => on_dentry(&location.dentry, mask),
        Subject::File(file) => on_file(file, mask),
    }
}

/// Bytes went from one open file to another.
pub fn moved_bytes(from: &FileDescription, to: &FileDescription) {
    on_file(from, InotifyMask::IN_ACCESS);
    on_file(to, InotifyMask::IN_MODIFY);
}

/// A name was removed.
pub fn unlinked(directory: &Dentry, dentry: &Dentry) {
    if !any() {
        return;
    }
    let is_directory = dentry.inode().kind() == FileKind::Directory;
    if !is_directory {
        // Its count of links.
        on_inode(&**dentry.inode(), InotifyMask::IN_ATTRIB);
    }
    in_directory(directory, &dentry.name(), InotifyMask::IN_DELETE, is_directory, 0);
    unpin(dentry);
}

fn unpin(dentry: &Dentry) {
    if let Some(watches) = dentry.inode().attachments().watches_if_any() {
        for (watcher, number) in watches.members() {
            watcher.unpin(number, dentry);
        }
    }
}

/// A name moved, perhaps to the place of another. `cookie` is no other move's.
pub fn moved(
    from: (&Dentry, &[u8]),
    to: (&Dentry, &[u8]),
    dentry: &Dentry,
    replaced: Option<&Dentry>,
    cookie: u32,
) {
    if !any() {
        return;
    }
    let is_directory = dentry.inode().kind() == FileKind::Directory;
    in_directory(from.0, from.1, InotifyMask::IN_MOVED_FROM, is_directory, cookie);
    in_directory(to.0, to.1, InotifyMask::IN_MOVED_TO, is_directory, cookie);
    if let Some(replaced) = replaced {
        on_inode(&**replaced.inode(), InotifyMask::IN_ATTRIB);
    }
    on_inode(&**dentry.inode(), InotifyMask::IN_MOVE_SELF);
    if let Some(replaced) = replaced {
        unpin(replaced);
    }
}

/// The last dentry of a removed name is gone: so is the inode, unless it has other names.
pub(super) fn dentry_gone(inode: &Arc<dyn Inode>) {
    let Some(watches) = inode.attachments().watches_if_any() else { return };
    let links = if inode.kind() == FileKind::Directory { 0 } else { links(&**inode) };
    if links != 0 {
        return;
    }
    on_inode(&**inode, InotifyMask::IN_DELETE_SELF);
    for (watcher, number) in watches.members() {
        watches.remove(Arc::as_ptr(&watcher), number);
        watcher.ended(number);
    }
}

fn links(inode: &dyn Inode) -> u32 {
    inode.attributes().map_or(0, |attributes| attributes.links)
}
