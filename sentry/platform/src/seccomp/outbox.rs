//! Answers that a thread of the sentry has decided on and not sent yet.
//!
//! An answer lets the answered thread run at once, on this very processor and often in place of the thread that sent it, which then goes on
//! only when the other waits again. So nothing may be left half done behind an answer: while the
//! task's future is still being polled, the thread's next request would find nobody to take it, however eagerly the
//! spinner looks. Answers are therefore kept until the poll is over, and sent by [`Core::send_answers`].
//!
//! Key types: [`Answer`]. Neighbours: `context` and `request` keep answers; the executor has them sent, and waiting sends what is left.
//! Invariant: a thread of the sentry never waits for anything with an answer kept.

use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use abi::errno::Errno;

use super::Core;
use super::thread::{State, Thread};

/// How a thread is let go on.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// The notification with this id is answered with this result.
    Value(u64, u64),
    /// As `Value`, with the interrupt signal pending: its handler runs before the application goes on.
    Signalled(u64, u64),
    /// The host is to carry out the call of the notification with this id.
    Proceed(u64),
    /// It is woken where it waits for its slot, which has the answer.
    Wake,
}

/// An answer that has not been sent.
struct Kept {
    /// Whose it is: there may be several platforms in a process.
    core: usize,
    thread: Arc<Thread>,
    answer: Answer,
}

thread_local! {
    static OUTBOX: RefCell<Vec<Kept>> = const { RefCell::new(Vec::new()) };
}

impl Core {
    /// What tells this platform from others in the same process.
    pub fn identity(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Keeps an answer until this thread of the sentry has done with the call.
    pub fn keep_answer(&self, thread: &Arc<Thread>, answer: Answer) {
        let kept = Kept { core: self.identity(), thread: thread.clone(), answer };
        OUTBOX.with_borrow_mut(|outbox| outbox.push(kept));
    }

    /// Has a held thread go into its handler before it goes on: first the signal, then what lets it go.
    pub fn signal_and_send(
        &self,
        thread: &Thread,
        state: &State,
        send: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let signal_and_send = || {
            thread.process.signal(thread.tid());
            send()
        };
        if state.seated {
            signal_and_send()
        } else {
            self.spinner.seats.wake_here(thread.tid(), signal_and_send)
        }
    }

    /// Puts a file into the process of a thread that is held by notification `id`; see [`super::notification::Listener::install`].
    pub fn install(
        &self,
        thread: &Thread,
        id: u64,
        file: BorrowedFd<'_>,
        at: Option<u32>,
    ) -> Result<u64, Errno> {
        let install = || self.listener.install(id, file, at);
        let seated = thread.state.lock().seated;
        if seated { install() } else { self.spinner.seats.wake_here(thread.tid(), install) }
    }

    /// Sends what this thread of the sentry has kept. To be called with no lock held. Returns whether somebody was woken, because his thread
    /// had died before it could be answered: who calls this on the way to a wait must not wait then.
    pub fn send_answers(&self) -> bool {
        let identity = self.identity();
        let mut woken = false;
        while let Some(kept) = OUTBOX.with_borrow_mut(|outbox| {
            let at = outbox.iter().position(|kept| kept.core == identity)?;
            Some(outbox.remove(at))
        }) {
            let result = match kept.answer {
                Answer::Value(id, value) => self.listener.answer(id, value),
                Answer::Signalled(id, value) => {
                    let state = kept.thread.state.lock();
                    self.signal_and_send(&kept.thread, &state, || self.listener.answer(id, value))
                }
                Answer::Proceed(id) => self.listener.proceed(id),
                Answer::Wake => {
                    kept.thread.slot.wake();
                    Ok(())
                }
            };
            if result.is_err() {
                let after = self.sent(&kept.thread, &mut kept.thread.state.lock(), result);
                woken |= self.finish(&kept.thread, after);
            }
        }
        woken
    }
}
