//! What message queues may take: the limits of `/proc/sys/fs/mqueue`, `RLIMIT_MSGQUEUE` by user, and what the sandbox
//! as a whole can afford.
//!
//! A queue is charged for all the messages it could hold when it is made, so that sending never fails for want of memory;
//! messages of senders that wait are charged while they do.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::errno::{EINVAL, EMFILE, ENOMEM, ENOSPC, EOVERFLOW, SysResult};
use parking_lot::Mutex;

use super::queue::Shape;
use super::wide;
use crate::task::{Limits, Resource};

/// `HARD_MSGMAX`: messages in a queue of the privileged.
const MESSAGES_MAX: u64 = 65_536;
/// `HARD_MSGSIZEMAX`: bytes of a message of the privileged.
const MESSAGE_SIZE_MAX: u64 = 16 << 20;
/// `MIN_MSGSIZEMAX`
const SMALLEST_SIZE_MAX: u64 = 128;
/// Queues of everybody, the privileged included (whom Linux does not limit).
const QUEUES_MAX: u64 = 4096;
/// Bytes that all queues and waiting senders may be charged with: the sentry's memory, whoever asks.
pub const BYTES_MAX: u64 = 64 << 20;
/// What a message is charged beyond its bytes (`struct msg_msg`), and what a priority is (`struct posix_msg_tree_node`).
const OVERHEAD: u64 = 48;
/// `MQ_PRIO_MAX`
pub const PRIORITIES: u32 = 32_768;

/// A limit of `/proc/sys/fs/mqueue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the files")]
pub enum QueueLimit {
    MsgDefault,
    MsgMax,
    MsgsizeDefault,
    MsgsizeMax,
    QueuesMax,
}

impl QueueLimit {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::MsgDefault, Self::MsgMax, Self::MsgsizeDefault, Self::MsgsizeMax, Self::QueuesMax];

    /// The name in `/proc/sys/fs/mqueue`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MsgDefault => "msg_default",
            Self::MsgMax => "msg_max",
            Self::MsgsizeDefault => "msgsize_default",
            Self::MsgsizeMax => "msgsize_max",
            Self::QueuesMax => "queues_max",
        }
    }

    const fn range(self) -> (u64, u64) {
        match self {
            Self::MsgDefault | Self::MsgMax => (1, MESSAGES_MAX),
            Self::MsgsizeDefault | Self::MsgsizeMax => (SMALLEST_SIZE_MAX, MESSAGE_SIZE_MAX),
            Self::QueuesMax => (0, QUEUES_MAX),
        }
    }
}

/// A queue to be made, and by whom.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The user who is charged.
    pub uid: u32,
    /// The user's `RLIMIT_MSGQUEUE`.
    pub limit: u64,
    /// Has `CAP_SYS_RESOURCE`.
    pub privileged: bool,
    /// `mq_maxmsg` and `mq_msgsize` as asked for; `None`: the defaults.
    pub shape: Option<(i64, i64)>,
}

impl Request {
    /// A queue made by `open(2)`, of which only the user is known.
    pub fn by_name(uid: u32) -> Self {
        Self { uid, limit: Limits::default().soft(Resource::MessageQueue), privileged: false, shape: None }
    }
}

/// See the module's text.
pub struct Accounts {
    limits: [AtomicU64; 5],
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    queues: u64,
    /// Charged to users with at least one queue.
    by_user: HashMap<u32, u64>,
    total: u64,
}

impl Default for Accounts {
    fn default() -> Self {
        Self { limits: [10, 10, 8192, 8192, 256].map(AtomicU64::new), used: Mutex::default() }
    }
}

/// What a queue is charged, given back when it is dropped.
pub struct Charge {
    accounts: Arc<Accounts>,
    uid: u32,
    bytes: u64,
    /// What the queue may hold.
    pub(super) shape: Shape,
}

/// What a waiting sender's message is charged, given back when it is dropped.
pub struct WaitingCharge {
    accounts: Arc<Accounts>,
    bytes: u64,
}

impl Accounts {
    const fn place(&self, limit: QueueLimit) -> &AtomicU64 {
        let [msg_default, msg_max, msgsize_default, msgsize_max, queues_max] = &self.limits;
        match limit {
            QueueLimit::MsgDefault => msg_default,
            QueueLimit::MsgMax => msg_max,
            QueueLimit::MsgsizeDefault => msgsize_default,
            QueueLimit::MsgsizeMax => msgsize_max,
            QueueLimit::QueuesMax => queues_max,
        }
    }

    /// One limit.
    pub fn limit(&self, limit: QueueLimit) -> u64 {
        self.place(limit).load(Ordering::Relaxed)
    }

    /// Sets a limit, as text.
    ///
    /// # Errors
    /// `EINVAL`: no number, or out of range.
    pub fn set_limit(&self, limit: QueueLimit, text: &str) -> SysResult<()> {
        let (low, high) = limit.range();
        let value = text.trim().parse().ok().filter(|value| (low..=high).contains(value)).ok_or(EINVAL)?;
        self.place(limit).store(value, Ordering::Relaxed);
        Ok(())
    }

    fn shape(&self, request: &Request) -> SysResult<Shape> {
        let Some((messages, size)) = request.shape else {
            let smaller = |default, max| self.limit(default).min(self.limit(max));
            return Ok(Shape {
                messages: smaller(QueueLimit::MsgDefault, QueueLimit::MsgMax),
                size: smaller(QueueLimit::MsgsizeDefault, QueueLimit::MsgsizeMax),
            });
        };
        let shape = Shape { messages: super::positive(messages)?, size: super::positive(size)? };
        let (messages_max, size_max) = if request.privileged {
            (MESSAGES_MAX, MESSAGE_SIZE_MAX)
        } else {
            (self.limit(QueueLimit::MsgMax), self.limit(QueueLimit::MsgsizeMax))
        };
        if shape.messages > messages_max || shape.size > size_max {
            return Err(EINVAL);
        }
        Ok(shape)
    }

    /// Charges a user for a new queue.
    ///
    /// # Errors
    /// `EINVAL`: an impossible shape. `ENOSPC`: too many queues. `EMFILE`: above the user's limit. `ENOMEM`: above what the
    /// sandbox affords.
    pub fn open(accounts: &Arc<Self>, request: Request) -> SysResult<Charge> {
        let queues_max = if request.privileged { QUEUES_MAX } else { accounts.limit(QueueLimit::QueuesMax) };
        let mut used = accounts.used.lock();
        if used.queues >= queues_max {
            return Err(ENOSPC);
        }
        let shape = accounts.shape(&request)?;
        let bytes = shape.charge().ok_or(EOVERFLOW)?;
        let user = used.by_user.get(&request.uid).copied().unwrap_or(0).saturating_add(bytes);
        if user > request.limit {
            return Err(EMFILE);
        }
        let total = used.total.saturating_add(bytes);
        if total > BYTES_MAX {
            return Err(ENOMEM);
        }
        used.by_user.insert(request.uid, user);
        used.total = total;
        used.queues += 1;
        drop(used);
        Ok(Charge { accounts: Arc::clone(accounts), uid: request.uid, bytes, shape })
    }

    /// Charges the sandbox for a message whose sender is about to wait.
    ///
    /// # Errors
    /// `ENOMEM`
    pub(super) fn wait(accounts: &Arc<Self>, length: usize) -> SysResult<WaitingCharge> {
        let bytes = wide(length) + OVERHEAD;
        let mut used = accounts.used.lock();
        let total = used.total.saturating_add(bytes);
        if total > BYTES_MAX {
            return Err(ENOMEM);
        }
        used.total = total;
        drop(used);
        Ok(WaitingCharge { accounts: Arc::clone(accounts), bytes })
    }
}

impl Charge {
    pub(super) const fn accounts(&self) -> &Arc<Accounts> {
        &self.accounts
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut used = self.accounts.used.lock();
        used.queues -= 1;
        used.total -= self.bytes;
        let left = used.by_user.get(&self.uid).map_or(0, |bytes| bytes - self.bytes);
        if left == 0 {
            used.by_user.remove(&self.uid);
        } else {
            used.by_user.insert(self.uid, left);
        }
    }
}

impl Drop for WaitingCharge {
    fn drop(&mut self) {
        self.accounts.used.lock().total -= self.bytes;
    }
}

impl Shape {
    /// What a queue of this shape is charged (`man 2 getrlimit`, `RLIMIT_MSGQUEUE`).
    fn charge(self) -> Option<u64> {
        let messages = self.messages;
        let tree = messages * OVERHEAD + messages.min(PRIORITIES.into()) * OVERHEAD;
        messages.checked_mul(self.size)?.checked_add(tree)
    }
}
