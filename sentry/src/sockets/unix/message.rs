//! What lies in a Unix socket's queue, and whose send buffer pays for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use abi::sockets::Ucred;

use super::flight::Rights;
use super::names::Bound;
use crate::sockets::CommonOptions;
use crate::wait::{PollEvents, WaitQueue};

/// What a message is charged beyond its bytes, about as Linux does: it bounds how many can be under way.
pub const OVERHEAD: usize = 768;

/// The sending side of a socket, which outlives it while its messages are under way.
#[derive(Default)]
pub struct Sender {
    /// Its options; the send buffer bounds `used`.
    pub options: CommonOptions,
    /// Where the socket's changes are announced.
    pub queue: WaitQueue,
    used: AtomicUsize,
}

impl Sender {
    /// Bytes under way (`SIOCOUTQ`).
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Whether one more message may be sent.
    pub fn has_room(&self) -> bool {
        self.used() < self.options.send_buffer()
    }

    /// Whether `poll` shows it as writable: a quarter of the buffer at most is used.
    pub fn is_writable(&self) -> bool {
        self.used().saturating_mul(4) <= self.options.send_buffer()
    }

    /// Charges a message.
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        let amount = bytes + OVERHEAD;
        self.used.fetch_add(amount, Ordering::AcqRel);
        Charge { sender: Arc::clone(self), amount }
    }
}

/// A part of a send buffer, given back (and announced) when dropped; so never drop one under a lock.
pub struct Charge {
    sender: Arc<Sender>,
    amount: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.sender.used.fetch_sub(self.amount, Ordering::AcqRel);
        if self.sender.is_writable() {
            self.sender.queue.wake(PollEvents::WRITABLE);
        }
    }
}

/// A message, or a piece of a stream.
pub struct Message {
    /// All its bytes.
    pub bytes: Vec<u8>,
    /// How many have been received (streams).
    pub consumed: usize,
    /// Descriptors under way.
    pub rights: Option<Rights>,
    /// The sender, if somebody asked for it when it was sent.
    pub credentials: Option<Ucred>,
    /// The sender's name.
    pub from: Option<Arc<Bound>>,
    /// What it costs the sender.
    pub charge: Charge,
}

impl Message {
    /// Bytes not received yet.
    pub fn rest(&self) -> &[u8] {
        self.bytes.get(self.consumed..).unwrap_or_default()
    }
}
