//! What is known of the names of a shared tree without asking: as long as the host has told of no change.
//!
//! A directory that is asked about again and again is *watched*: the gofer has the host put an event into a queue for
//! each change of its names, mode and owner, and the sentry reads the queue itself, without waiting, once in each system call that
//! wants to rely on something remembered. The host queues an event before the call that makes the change returns, so
//! what holds after such a look held when the system call began. File systems of which that is not true are not
//! watched (`gofer/src/watches.rs`).
//!
//! Only names and what permits walking are remembered here. Attributes of files are asked of the host in each call all the same,
//! by a descriptor (`GoferInode::attributes`): events do not tell of everything that changes them.
//!
//! An answer counts only if no event has been read since it was asked for ([`Watch::token`]). What is remembered holds files that
//! the host may have removed meanwhile: after a while without use everything is let go ([`IDLE_NS`]).
//!
//! Locks: the state's is held while the queue is read, which never waits; nothing is dropped under it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use abi::errno::{EMFILE, ENOENT, ENOSPC, SysResult};
use abi::polling::InotifyMask;
use parking_lot::Mutex;
use wire::Watching;

use super::Tree;
use super::attributes;
use super::inode::GoferInode;
use crate::time::{Instant, SECOND_NS, Timer, TimerTarget, Timers};
use crate::vfs::{Attributes, FileKind, Moment};

/// Names remembered for one tree. Each that exists is a descriptor of the gofer's.
const NAMES_MAX: usize = 4096;
/// A tree is watched once so many questions were asked, ...
const TREE_ASKED: u32 = 64;
/// ... and a directory in it after so many.
const DIRECTORY_ASKED: u32 = 3;
/// A listed directory of so many files is watched at once where programs go through all that they list.
const GONE_THROUGH: usize = 6;
/// After at least so long, and at most twice as long, without use everything is forgotten.
const IDLE_NS: u64 = 2 * SECOND_NS;
/// Room for events read at once.
const EVENTS_SIZE: usize = 8192;
/// What the longest event takes (`man 7 inotify`): its header, `NAME_MAX` bytes and a zero.
const EVENT_MAX: usize = EVENT_HEADER + 256;
/// What stands before an event's name.
const EVENT_HEADER: usize = 16;
/// In place of a number: the host refused to watch the directory.
const REFUSED: i32 = -1;

/// What a directory knows of its being watched.
#[derive(Default)]
pub(super) struct Mark {
    /// What its events carry; 0: not watched.
    number: AtomicI32,
    /// How often names in it were asked for.
    asked: AtomicU32,
}

impl Mark {
    /// Whether changes of the directory are told, or were a moment ago.
    pub(super) fn is_watched(&self) -> bool {
        self.number.load(Ordering::Acquire) > 0
    }
}

/// The watches of one tree.
#[derive(Default)]
pub(super) struct Watch {
    state: Mutex<State>,
    asked: AtomicU32,
}

/// What stands for a name; `None`: it does not exist.
type Known = Option<Arc<GoferInode>>;

#[derive(Default)]
struct State {
    queue: Option<OwnedFd>,
    events: Vec<u8>,
    /// When the queue was last empty.
    settled: Moment,
    directories: HashMap<i32, Watched>,
    /// Names in all of them.
    names: usize,
    /// Counts events.
    changes: u64,
    /// Since the timer last expired.
    is_used: bool,
    timers: Option<Arc<Timers>>,
    timer: Option<Timer>,
}

/// What is known of a directory.
#[derive(Default)]
struct Watched {
    names: HashMap<Box<[u8]>, Known>,
    /// Mode and owner are these.
    access: Option<Attributes>,
}

impl Watch {
    /// Makes watching possible: without timers nothing would be forgotten.
    pub(super) fn enable(&self, timers: &Arc<Timers>) {
        self.state.lock().timers = Some(Arc::clone(timers));
    }

    /// Whether anything is watched, so that it is known in time when a file is removed.
    pub(super) fn is_active(&self) -> bool {
        self.state.lock().timer.is_some()
    }

    /// What a name in a directory is known to stand for.
    pub(super) fn known(&self, tree: &Tree, mark: &Mark, name: &[u8]) -> Option<SysResult<Arc<GoferInode>>> {
        let number = mark.number.load(Ordering::Acquire);
        if number <= 0 {
            return None;
        }
        let (known, gone) = {
            let mut state = self.state.lock();
            let gone = state.settle();
            let known = state.directories.get(&number).and_then(|watched| watched.names.get(name).cloned());
            state.is_used |= known.is_some();
            (known, gone)
        };
        tree.let_go(gone);
        known.map(|known| known.ok_or(ENOENT))
    }

    /// A directory's mode and owner; nothing else in it is true.
    pub(super) fn access(&self, tree: &Tree, mark: &Mark) -> Option<Attributes> {
        let number = mark.number.load(Ordering::Acquire);
        if number <= 0 {
            return None;
        }
        let (access, gone) = {
            let mut state = self.state.lock();
            let gone = state.settle();
            (state.directories.get(&number).and_then(|watched| watched.access), gone)
        };
        tree.let_go(gone);
        access
    }

    /// To be taken before a question is asked, and given with what was learnt.
    pub(super) fn token(&self) -> u64 {
        self.state.lock().changes
    }

    /// What a name in a directory stands for, as an answer said. Returns whether that is remembered.
    pub(super) fn learn(
        &self,
        mark: &Mark,
        name: &[u8],
        inode: Option<&Arc<GoferInode>>,
        token: u64,
    ) -> bool {
        let number = mark.number.load(Ordering::Acquire);
        if number <= 0 {
            return false;
        }
        let (full, is_learnt) = {
            let mut state = self.state.lock();
            let full = if state.names >= NAMES_MAX { state.take_names() } else { Vec::new() };
            let is_learnt = state.changes == token && state.insert(number, mark, name, inode.cloned());
            (full, is_learnt)
        };
        drop(full);
        is_learnt
    }

    /// A directory's attributes, as an answer said.
    pub(super) fn learn_access(&self, mark: &Mark, attributes: Attributes, token: u64) {
        let number = mark.number.load(Ordering::Acquire);
        let mut state = self.state.lock();
        if state.changes == token
            && let Some(watched) = state.directories.get_mut(&number)
        {
            watched.access = Some(attributes);
        }
    }

    /// This kernel has changed a name: the event that tells so is read in the next call.
    pub(super) fn forget(&self, mark: &Mark, name: &[u8]) {
        let number = mark.number.load(Ordering::Acquire);
        if number > 0 {
            let known = self.state.lock().remove(number, name);
            drop(known);
        }
    }

    /// Everything, at once; returns what was held.
    fn take_all(&self) -> Vec<Arc<GoferInode>> {
        let mut state = self.state.lock();
        let held = state.take_names();
        state.directories.clear();
        let timer = state.timer.take();
        drop(state);
        drop(timer);
        held
    }
}

impl State {
    /// Reads what the host has told since. Returns what names no longer stand for.
    fn settle(&mut self) -> Vec<Arc<GoferInode>> {
        let mut gone = Vec::new();
        if self.settled.lasts() {
            return gone;
        }
        let Some(queue) = self.queue.take() else { return gone };
        let mut events = std::mem::take(&mut self.events);
        events.resize(EVENTS_SIZE, 0);
        // At the end of what is there: EAGAIN. An event that does not fit would be EINVAL; any error loses nothing but
        // what is remembered.
        loop {
            match nix::unistd::read(&queue, &mut events) {
                Ok(0) | Err(nix::Error::EAGAIN) => break,
                Ok(length) => {
                    self.take_events(events.get(..length).unwrap_or_default(), &mut gone);
                    // With room for another, the host has seen that there was none.
                    if length <= EVENTS_SIZE - EVENT_MAX {
                        break;
                    }
                }
                Err(nix::Error::EINTR) => {}
                Err(_) => {
                    self.changes += 1;
                    gone.append(&mut self.take_names());
                    self.directories.clear();
                    break;
                }
            }
        }
        self.queue = Some(queue);
        self.events = events;
        self.settled = Moment::now();
        gone
    }

    fn take_events(&mut self, mut bytes: &[u8], gone: &mut Vec<Arc<GoferInode>>) {
        while let Some((event, rest)) = Event::first(bytes) {
            bytes = rest;
            self.take_event(&event, gone);
        }
    }

    fn take_event(&mut self, event: &Event<'_>, gone: &mut Vec<Arc<GoferInode>>) {
        let has = |mask: InotifyMask| event.mask & mask.bits() != 0;
        let is_of_a_child = !event.name.is_empty();
        if is_of_a_child && has(InotifyMask::IN_ATTRIB) {
            return;
        }
        self.changes += 1;
        if has(InotifyMask::IN_Q_OVERFLOW) {
            gone.append(&mut self.take_names());
            self.directories.values_mut().for_each(|watched| watched.access = None);
        } else if has(InotifyMask::IN_IGNORED) {
            if let Some(watched) = self.directories.remove(&event.number) {
                self.names -= watched.names.len();
                gone.extend(watched.names.into_values().flatten());
            }
        } else if is_of_a_child {
            gone.extend(self.remove(event.number, event.name).flatten());
        } else if let Some(watched) = self.directories.get_mut(&event.number) {
            watched.access = None;
        }
    }

    fn insert(&mut self, number: i32, mark: &Mark, name: &[u8], known: Known) -> bool {
        let Some(watched) = self.directories.get_mut(&number) else {
            // The watch has ended. If the directory is asked about again and again, there will be another.
            mark.asked.store(0, Ordering::Relaxed);
            let _ = mark.number.compare_exchange(number, 0, Ordering::AcqRel, Ordering::Relaxed);
            return false;
        };
        // An answer that replaces one was given later, and no event came between: both are the same.
        if !watched.names.contains_key(name) {
            watched.names.insert(name.into(), known);
            self.names += 1;
        }
        true
    }

    fn remove(&mut self, number: i32, name: &[u8]) -> Option<Known> {
        let known = self.directories.get_mut(&number)?.names.remove(name)?;
        self.names -= 1;
        Some(known)
    }

    fn take_names(&mut self) -> Vec<Arc<GoferInode>> {
        self.names = 0;
        let names = self.directories.values_mut().flat_map(|watched| std::mem::take(&mut watched.names));
        names.filter_map(|(_, known)| known).collect()
    }
}

/// What the host tells (`man 7 inotify`).
struct Event<'a> {
    number: i32,
    mask: u32,
    /// In the directory; empty: it is the directory itself.
    name: &'a [u8],
}

impl<'a> Event<'a> {
    /// The first of some, and what follows it.
    fn first(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (header, rest) = bytes.split_at_checked(EVENT_HEADER)?;
        let field = |at: usize| header.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        let (number, mask, length) = (field(0)?, field(4)?, usize::try_from(field(12)?).ok()?);
        let (padded, rest) = rest.split_at_checked(length)?;
        let name = padded.split(|byte| *byte == 0).next().unwrap_or_default();
        Some((Self { number: number.cast_signed(), mask, name }, rest))
    }
}

impl Tree {
    /// Counts that names in a directory were asked for, and has it watched if that happens often.
    pub(super) fn consider_watching(self: &Arc<Self>, directory: &GoferInode) {
        if self.is_exclusive() || directory.mark.number.load(Ordering::Relaxed) != 0 {
            return;
        }
        let count = |counter: &AtomicU32| counter.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let (tree, own) = (count(&self.watch.asked), count(&directory.mark.asked));
        let is_gone_through = self.habit.is_strong() && directory.sequence.len() >= GONE_THROUGH;
        let enough = if is_gone_through { 1 } else { DIRECTORY_ASKED };
        if tree < TREE_ASKED || own < enough || self.watch.state.lock().timers.is_none() {
            return;
        }
        let token = self.watch.token();
        let answer = directory.handle().and_then(|handle| self.client.watch(handle));
        match answer {
            Ok(watching) => self.note_watching(directory, watching, token),
            Err(error) => {
                directory.mark.number.store(REFUSED, Ordering::Release);
                if error == ENOSPC {
                    // Others are wanted now.
                    self.release();
                } else if error == EMFILE {
                    // Tried again after as many questions as there can be.
                    directory.mark.number.store(0, Ordering::Release);
                    self.watch.asked.store(0, Ordering::Relaxed);
                }
            }
        }
    }

    fn note_watching(self: &Arc<Self>, directory: &GoferInode, watching: Watching, token: u64) {
        let Watching { number, attr, queue } = watching;
        let Ok(number) = i32::try_from(number) else { return };
        let access = attributes::attributes(&attr, directory.number());
        let mut state = self.watch.state.lock();
        // All of a tree's are the same queue.
        let spare = if state.queue.is_none() { state.queue.replace(queue) } else { Some(queue) };
        let is_current = state.changes == token;
        let watched = state.directories.entry(number).or_default();
        if is_current {
            watched.access = Some(access);
        }
        state.is_used = true;
        if state.timer.is_none() {
            state.timer = state.timers.as_ref().map(|timers| self.timer(timers));
        }
        drop(state);
        directory.mark.number.store(number, Ordering::Release);
        drop(spare);
    }

    fn timer(self: &Arc<Self>, timers: &Arc<Timers>) -> Timer {
        timers.start(Instant::now().after_ns(IDLE_NS), Arc::new(Idle { tree: Arc::downgrade(self) }))
    }

    /// Names no longer stand for these: their descriptors are let go, so that the host can free their space.
    fn let_go(&self, inodes: Vec<Arc<GoferInode>>) {
        for inode in &inodes {
            inode.forget_descriptors();
        }
        drop(inodes);
    }

    /// Ends all watches and forgets what they allowed to remember.
    pub(super) fn release(&self) {
        let held = self.watch.take_all();
        let recent = std::mem::take(&mut self.recent.lock().files);
        self.watch.asked.store(0, Ordering::Relaxed);
        let spares = self.spares.take();
        drop((held, recent, spares));
        // If the gofer is gone, so is everything.
        let _ = self.client.unwatch(self.index).and_then(|()| self.client.flush_clunks());
    }
}

/// Lets go what a sandbox that is idle, or does other things, does not need.
struct Idle {
    tree: Weak<Tree>,
}

impl TimerTarget for Idle {
    /// The exchange with the gofer takes as long as in any system call.
    fn expired(&self) {
        let Some(tree) = self.tree.upgrade() else { return };
        let (was_used, old) = {
            let mut state = tree.watch.state.lock();
            let was_used = std::mem::take(&mut state.is_used);
            let next = was_used.then(|| state.timers.as_ref().map(|timers| tree.timer(timers))).flatten();
            (was_used, std::mem::replace(&mut state.timer, next))
        };
        drop(old);
        if !was_used {
            tree.release();
        }
    }
}

impl GoferInode {
    /// Mode and owner of a directory that is watched.
    pub(super) fn known_access(&self) -> Option<Attributes> {
        if self.kind != FileKind::Directory { None } else { self.tree.watch.access(&self.tree, &self.mark) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: i32, mask: InotifyMask, name: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let padded = name.len().next_multiple_of(8);
        for field in [number.cast_unsigned(), mask.bits(), 0, u32::try_from(padded).unwrap()] {
            bytes.extend(field.to_ne_bytes());
        }
        bytes.extend(name);
        bytes.resize(EVENT_HEADER + padded, 0);
        bytes
    }

    /// Two directories in which nothing is called `a` or `b`.
    fn state() -> State {
        let mut state = State::default();
        let access = Attributes::new(FileKind::Directory, 0o755, 1);
        for number in [1, 2] {
            state.directories.insert(number, Watched { access: Some(access), ..Watched::default() });
            for name in [b"a", b"b"] {
                state.insert(number, &Mark::default(), name, None);
            }
        }
        state
    }

    fn after(events: &[Vec<u8>]) -> (usize, Vec<bool>, Vec<bool>, u64) {
        let mut state = state();
        let mut gone = Vec::new();
        state.take_events(&events.concat(), &mut gone);
        let counted: usize = state.directories.values().map(|watched| watched.names.len()).sum();
        assert_eq!(state.names, counted);
        let directories = [1, 2].map(|number| state.directories.get(&number));
        let has = |name: &[u8]| {
            let knows = |watched: &Watched| watched.names.contains_key(name);
            directories.iter().map(|watched| watched.is_some_and(knows)).collect::<Vec<_>>()
        };
        let access =
            directories.iter().map(|watched| watched.is_some_and(|watched| watched.access.is_some()));
        (counted, has(b"a"), access.collect(), state.changes)
    }

    #[test]
    fn each_event_ends_what_it_makes_untrue_and_nothing_else() {
        let (all, both) = (4, vec![true, true]);
        for mask in [
            InotifyMask::IN_CREATE,
            InotifyMask::IN_DELETE,
            InotifyMask::IN_MOVED_FROM,
            InotifyMask::IN_MOVED_TO,
        ] {
            assert_eq!(after(&[event(1, mask, b"a")]), (all - 1, vec![false, true], both.clone(), 1));
        }
        assert_eq!(
            after(&[event(2, InotifyMask::IN_ATTRIB, b"")]),
            (all, both.clone(), vec![true, false], 1)
        );
        // What a child's attributes are was never remembered.
        assert_eq!(after(&[event(2, InotifyMask::IN_ATTRIB, b"a")]), (all, both.clone(), both.clone(), 0));
        assert_eq!(
            after(&[event(1, InotifyMask::IN_DELETE_SELF, b""), event(1, InotifyMask::IN_IGNORED, b"")]),
            (2, vec![false, true], vec![false, true], 2)
        );
        assert_eq!(
            after(&[event(-1, InotifyMask::IN_Q_OVERFLOW, b"")]),
            (0, vec![false, false], vec![false, false], 1)
        );
        // Of a directory that is not known yet: an answer under way may be older.
        assert_eq!(after(&[event(7, InotifyMask::IN_CREATE, b"a")]), (all, both.clone(), both, 1));
    }

    #[test]
    fn events_cut_short_are_not_read_beyond_their_end() {
        let whole = [event(1, InotifyMask::IN_CREATE, b"a"), event(1, InotifyMask::IN_CREATE, b"b")].concat();
        for length in 0..=whole.len() {
            let mut state = state();
            state.take_events(&whole[..length], &mut Vec::new());
            assert_eq!(state.changes, u64::try_from(length / 24).unwrap());
        }
    }
}
