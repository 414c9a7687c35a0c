//! What happens to messages: sending, receiving, waiting for either, and who is told.
//!
//! A message goes straight to the receiver that has waited longest; one that waits for room goes into the queue as soon as
//! a receiver makes room. So nobody who comes later overtakes, and a queue with a waiting receiver never notifies
//! (`man 3 mq_notify`). Who waits has a [`Waiter`] in the state's list; only he is woken.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use abi::errno::{EAGAIN, EBUSY, SysResult};
use abi::signal_info::SigInfo;
use abi::signals::Signal;
use abi::time::{SIGEV_NONE, SIGEV_SIGNAL};
use parking_lot::Mutex;

use super::accounts::Accounts;
use super::queue::Queue;
use super::wide;
use crate::task::{Pid, Task, ThreadGroup};
use crate::time::Instant;
use crate::wait::{CallResult, OnInterrupt, PollEvents, Restart, WaitQueue};

/// A message.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// Higher ones are received first.
    pub priority: u32,
    /// What it says.
    pub bytes: Box<[u8]>,
}

/// How a call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It does not (`O_NONBLOCK`).
    No,
    /// Until then; `None`: for ever.
    Until(Option<Instant>),
}

/// How a process is told that a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notification {
    /// `SIGEV_NONE`: not at all, but nobody else is either.
    Nothing,
    /// `SIGEV_SIGNAL`; signal 0 is none.
    Signal(Option<Signal>, u64),
}

struct Registration {
    group: Weak<ThreadGroup>,
    pid: Pid,
    how: Notification,
}

impl Registration {
    /// The process, unless it has ended.
    fn owner(&self) -> Option<Arc<ThreadGroup>> {
        self.group.upgrade().filter(|group| !group.is_exiting())
    }
}

/// Somebody who waits: a receiver for a message to be put here, a sender for his to be taken.
#[derive(Default)]
struct Waiter {
    message: Mutex<Option<Message>>,
    told: WaitQueue,
}

/// What a queue holds.
#[derive(Default)]
pub(super) struct State {
    /// By priority, then by age.
    messages: BTreeMap<(Reverse<u32>, u64), Box<[u8]>>,
    /// Messages so far.
    sent: u64,
    /// Bytes of all messages.
    bytes: usize,
    receivers: VecDeque<Arc<Waiter>>,
    senders: VecDeque<Arc<Waiter>>,
    registration: Option<Registration>,
}

impl State {
    /// How many messages it holds.
    pub(super) fn len(&self) -> u64 {
        wide(self.messages.len())
    }

    fn insert(&mut self, message: Message) {
        self.sent += 1;
        self.bytes += message.bytes.len();
        self.messages.insert((Reverse(message.priority), self.sent), message.bytes);
    }

    fn take(&mut self) -> Option<Message> {
        let ((Reverse(priority), _), bytes) = self.messages.pop_first()?;
        self.bytes -= bytes.len();
        Some(Message { priority, bytes })
    }

    /// What `read` of the queue's file shows.
    pub(super) fn text(&self) -> String {
        let living = self.registration.as_ref().filter(|registration| registration.owner().is_some());
        let (how, signal, pid) = match living {
            None => (0, 0, 0),
            Some(Registration { how: Notification::Nothing, pid, .. }) => (SIGEV_NONE, 0, *pid),
            Some(Registration { how: Notification::Signal(signal, _), pid, .. }) => {
                (SIGEV_SIGNAL, signal.map_or(0, Signal::number), *pid)
            }
        };
        format!("QSIZE:{:<10} NOTIFY:{how:<5} SIGNO:{signal:<5} NOTIFY_PID:{pid:<6}\n", self.bytes)
    }
}

fn remove(list: &mut VecDeque<Arc<Waiter>>, waiter: &Arc<Waiter>) {
    list.retain(|other| !Arc::ptr_eq(other, waiter));
}

/// Takes the waiter from its list when the wait ends, however it ends.
struct Listed<'a> {
    queue: &'a Queue,
    waiter: Arc<Waiter>,
}

impl Listed<'_> {
    /// Ends the wait; what the waiter has then is final.
    fn leave(&self) -> Option<Message> {
        let mut state = self.queue.state.lock();
        remove(&mut state.receivers, &self.waiter);
        remove(&mut state.senders, &self.waiter);
        self.waiter.message.lock().take()
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        drop(self.leave());
    }
}

impl Queue {
    /// How many messages it holds.
    pub fn held(&self) -> u64 {
        self.state.lock().len()
    }

    /// Sends if somebody waits for a message or there is room. Otherwise the message goes to `sender`, who waits from now on,
    /// or comes back.
    fn post(
        &self,
        task: &Task,
        message: Message,
        sender: Option<&Arc<Waiter>>,
    ) -> Result<(), Option<Message>> {
        let mut state = self.state.lock();
        if let Some(receiver) = state.receivers.pop_front() {
            *receiver.message.lock() = Some(message);
            drop(state);
            receiver.told.wake_all();
            self.touched();
            return Ok(());
        }
        if state.len() >= self.shape().messages {
            let Some(sender) = sender else { return Err(Some(message)) };
            *sender.message.lock() = Some(message);
            state.senders.push_back(Arc::clone(sender));
            return Err(None);
        }
        state.insert(message);
        let first = state.len() == 1;
        let registration = if first { state.registration.take() } else { None };
        drop(state);
        self.touched();
        if let Some(registration) = registration {
            tell(&registration, task);
        }
        self.changes.wake(PollEvents::READABLE);
        Ok(())
    }

    /// `mq_timedsend(2)`; the length has been judged.
    ///
    /// # Errors
    /// `EAGAIN`: no room, and it may not wait. `ETIMEDOUT`. `ENOMEM`: too much waits. Interrupted.
    pub async fn send(&self, task: &Task, message: Message, wait: Wait) -> CallResult<()> {
        let Err(Some(message)) = self.post(task, message, None) else { return Ok(()) };
        let Wait::Until(deadline) = wait else { return Err(EAGAIN.into()) };
        let _charge = Accounts::wait(self.accounts(), message.bytes.len())?;
        let listed = Listed { queue: self, waiter: Arc::default() };
        if self.post(task, message, Some(&listed.waiter)).is_ok() {
            return Ok(());
        }
        let taken = || listed.waiter.message.lock().is_none().then_some(());
        let result = task.wait_on(&listed.waiter.told, PollEvents::all(), deadline, taken).await;
        // It may have been taken after the wait had ended otherwise.
        if listed.leave().is_none() { Ok(()) } else { result.on_interrupt(Restart::Sys) }
    }

    /// Takes a message, and the one of whoever waits for room into the queue. If there is none, `receiver` waits from now on.
    fn fetch(&self, receiver: Option<&Arc<Waiter>>) -> Option<Message> {
        let mut state = self.state.lock();
        let Some(taken) = state.take() else {
            state.receivers.extend(receiver.cloned());
            return None;
        };
        let sender = state.senders.pop_front();
        let next = sender.as_ref().and_then(|sender| sender.message.lock().take());
        if let Some(message) = next {
            state.insert(message);
        }
        drop(state);
        self.touched();
        match sender {
            Some(sender) => sender.told.wake_all(),
            None => self.changes.wake(PollEvents::WRITABLE),
        }
        Some(taken)
    }

    /// `mq_timedreceive(2)`; the buffer's length has been judged.
    ///
    /// # Errors
    /// `EAGAIN`: no message, and it may not wait. `ETIMEDOUT`. Interrupted.
    pub async fn receive(&self, task: &Task, wait: Wait) -> CallResult<Message> {
        let Wait::Until(deadline) = wait else { return Ok(self.fetch(None).ok_or(EAGAIN)?) };
        let listed = Listed { queue: self, waiter: Arc::default() };
        if let Some(message) = self.fetch(Some(&listed.waiter)) {
            return Ok(message);
        }
        let come = || listed.waiter.message.lock().take();
        match task.wait_on(&listed.waiter.told, PollEvents::all(), deadline, come).await {
            Ok(message) => Ok(message),
            // It may have come after the wait had ended otherwise.
            Err(error) => match listed.leave() {
                Some(message) => Ok(message),
                None => Err(error).on_interrupt(Restart::Sys),
            },
        }
    }

    /// Registers a process to be told of the next message that comes to an empty queue.
    ///
    /// # Errors
    /// `EBUSY`: another process is registered, or this one.
    pub fn notify(&self, group: &Arc<ThreadGroup>, how: Notification) -> SysResult<()> {
        let mut state = self.state.lock();
        if state.registration.as_ref().is_some_and(|registration| registration.owner().is_some()) {
            return Err(EBUSY);
        }
        state.registration = Some(Registration { group: Arc::downgrade(group), pid: group.pid, how });
        Ok(())
    }

    /// Ends the registration, if it is this process's.
    pub fn end_notification(&self, group: &Arc<ThreadGroup>) {
        let mut state = self.state.lock();
        let own = |registration: &Registration| std::ptr::eq(registration.group.as_ptr(), Arc::as_ptr(group));
        if state.registration.as_ref().is_some_and(own) {
            state.registration = None;
        }
    }
}

/// Tells the process that a message of `sender` came.
fn tell(registration: &Registration, sender: &Task) {
    if let Notification::Signal(Some(signal), value) = registration.how
        && let Some(group) = registration.owner()
    {
        let info = SigInfo::message_queue(signal, sender.pid(), sender.credentials().uid, value);
        // As on Linux, one signal too many is lost.
        let _ = group.send_signal(signal, info);
    }
}
