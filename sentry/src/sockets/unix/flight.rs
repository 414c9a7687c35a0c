//! Descriptors under way (`SCM_RIGHTS`): how many, whose, and those that nobody can ever receive.
//!
//! A socket whose descriptor lies in its own queue (or in a ring of queues) is held by nothing but itself.
//! [`Table::collect`] finds such rings: of all sockets under way it takes those whose files are held by
//! queues only, keeps what a live socket's queue leads to, and empties the queues of the rest. It runs when
//! sockets end and when descriptors are sent, the less often the more are under way, so that its cost is shared by
//! those that cause it; a ring lives until then.
//!
//! Lock order: the flight, then one socket's state. A message with descriptors enters and leaves a queue under
//! the flight's lock, so that the collector sees each either in a queue or not under way at all.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use abi::capabilities::{CAP_SYS_ADMIN, CAP_SYS_RESOURCE};
use abi::errno::{ETOOMANYREFS, SysResult};

use super::message::Message;
use super::{Table, UnixSocket};
use crate::sockets::Socket;
use crate::task::{Resource, Task};
use crate::vfs::{FileDescription, has};

/// Descriptors under way in the whole kernel, also with privilege.
pub const IN_FLIGHT_MAX: usize = 1 << 16;

/// A collection looks at so many sockets under way for each occasion there was for it.
const SOCKETS_PER_OCCASION: usize = 16;

/// Descriptors in a message.
pub struct Rights {
    /// The files.
    pub files: Vec<Arc<FileDescription>>,
    /// Who sent them, for the count per user.
    pub uid: u32,
}

struct Flying {
    file: Weak<FileDescription>,
    socket: Arc<UnixSocket>,
    count: usize,
}

/// All descriptors under way.
#[derive(Default)]
pub struct Flight {
    total: usize,
    by_user: HashMap<u32, usize>,
    /// Those that are Unix sockets, by the identity of their description.
    sockets: HashMap<u64, Flying>,
    /// Occasions to collect since the last collection.
    occasions: usize,
}

/// The Unix socket behind a file.
fn unix_socket(file: &FileDescription) -> Option<Arc<UnixSocket>> {
    let socket: &Socket = file.ops.as_any().downcast_ref()?;
    socket.ops().as_any().downcast_ref::<UnixSocket>()?.me.upgrade()
}

impl Flight {
    /// How many descriptors are under way.
    pub const fn total(&self) -> usize {
        self.total
    }

    /// Counts the descriptors of a message that enters a queue, and takes them.
    ///
    /// # Errors
    /// `ETOOMANYREFS`
    pub fn enter(
        &mut self,
        files: &mut Vec<Arc<FileDescription>>,
        task: Option<&Task>,
    ) -> SysResult<Option<Rights>> {
        if files.is_empty() {
            return Ok(None);
        }
        let uid = task.map_or(0, |task| task.credentials().uid);
        let own = self.by_user.get(&uid).copied().unwrap_or(0);
        let limited = task.is_some_and(|task| {
            let credentials = task.credentials();
            u64::try_from(own).unwrap_or(u64::MAX) > task.group.limits.soft(Resource::OpenFiles)
                && !has(&credentials, CAP_SYS_RESOURCE)
                && !has(&credentials, CAP_SYS_ADMIN)
        });
        if limited || self.total + files.len() > IN_FLIGHT_MAX {
            return Err(ETOOMANYREFS);
        }
        self.total += files.len();
        *self.by_user.entry(uid).or_default() += files.len();
        for file in files.iter() {
            if let Some(socket) = unix_socket(file) {
                let flying = self.sockets.entry(file.identity).or_insert_with(|| Flying {
                    file: Arc::downgrade(file),
                    socket,
                    count: 0,
                });
                flying.count += 1;
            }
        }
        Ok(Some(Rights { files: std::mem::take(files), uid }))
    }

    /// Takes the descriptors of a message that leaves a queue.
    pub fn leave(&mut self, rights: Option<Rights>) -> Vec<Arc<FileDescription>> {
        let Some(Rights { files, uid }) = rights else { return Vec::new() };
        self.total = self.total.saturating_sub(files.len());
        if let Some(count) = self.by_user.get_mut(&uid) {
            *count = count.saturating_sub(files.len());
            if *count == 0 {
                self.by_user.remove(&uid);
            }
        }
        for file in &files {
            if let Some(flying) = self.sockets.get_mut(&file.identity) {
                flying.count -= 1;
                if flying.count == 0 {
                    self.sockets.remove(&file.identity);
                }
            }
        }
        files
    }

    /// The sockets under way that no descriptor and no live queue leads to.
    fn unreachable(&self) -> Vec<Arc<UnixSocket>> {
        let mut live = Vec::new();
        let mut doubtful: HashSet<u64> = HashSet::new();
        for (identity, flying) in &self.sockets {
            if flying.file.strong_count() > flying.count {
                live.push(Arc::clone(&flying.socket));
            } else {
                doubtful.insert(*identity);
            }
        }
        if doubtful.is_empty() {
            return Vec::new();
        }
        // Whatever lies in the queue of a socket that is not doubtful itself can be received.
        let doubtful_sockets: HashSet<u64> =
            doubtful.iter().filter_map(|identity| self.sockets.get(identity)).map(|f| f.socket.id).collect();
        let mut reached: Vec<u64> = Vec::new();
        if let Some(table) = live.first().or(self.sockets.values().next().map(|f| &f.socket)) {
            for socket in table.table.all() {
                if !doubtful_sockets.contains(&socket.id) && !socket.is_pending() {
                    reached.extend(socket.queued_sockets());
                }
            }
        }
        while let Some(identity) = reached.pop() {
            if doubtful.remove(&identity)
                && let Some(flying) = self.sockets.get(&identity)
            {
                reached.extend(flying.socket.queued_sockets());
            }
        }
        doubtful.iter().filter_map(|i| self.sockets.get(i)).map(|f| Arc::clone(&f.socket)).collect()
    }
}

impl Table {
    /// Collects if enough has happened since the last time.
    pub fn collect_in_turn(&self) {
        if is_discarding() {
            return;
        }
        {
            let mut flight = self.flight.lock();
            flight.occasions += 1;
            if flight.sockets.is_empty() || flight.occasions * SOCKETS_PER_OCCASION < flight.sockets.len() {
                return;
            }
            flight.occasions = 0;
        }
        self.collect();
    }

    /// Empties the queues of sockets that nobody can reach.
    pub fn collect(&self) {
        let mut messages: Vec<Message> = Vec::new();
        let mut files = Vec::new();
        {
            let mut flight = self.flight.lock();
            if flight.sockets.is_empty() {
                return;
            }
            for socket in flight.unreachable() {
                messages.extend(socket.take_queue());
            }
            for message in &mut messages {
                files.extend(flight.leave(message.rights.take()));
            }
        }
        discard(messages, files);
    }
}

thread_local! {
    /// What is being dropped by this thread; a socket that ends meanwhile adds its queue instead of recursing.
    static GRAVE: std::cell::RefCell<Option<Vec<Arc<FileDescription>>>> = const { std::cell::RefCell::new(None) };
}

fn is_discarding() -> bool {
    GRAVE.with_borrow(Option::is_some)
}

/// Drops messages and files. Sockets among the files may hold further messages; the depth of the stack does not
/// depend on how deep they lie. Not to be called with locks held.
pub fn discard(messages: Vec<Message>, files: Vec<Arc<FileDescription>>) {
    drop(messages);
    let nested = GRAVE.with_borrow_mut(|grave| match grave {
        Some(grave) => {
            grave.extend(files);
            true
        }
        None => {
            *grave = Some(files);
            false
        }
    });
    if nested {
        return;
    }
    while let Some(file) = GRAVE.with_borrow_mut(|grave| grave.as_mut().and_then(Vec::pop)) {
        drop(file);
    }
    GRAVE.set(None);
}
