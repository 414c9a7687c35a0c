//! Waiting that costs nobody else anything.
//!
//! A thread that is held in its call *is* a pending notification, and the host walks the list of all that are pending
//! at each `RECV` and `SEND`. So only few wait that way. When a call is still unanswered as its worker turns to the next
//! trap, and too many are held, the thread that has waited longest is sent *deep*: into a `futex(2)` wait of the host's for the state in its
//! slot. The answer is left in the slot, and the thread woken. That costs two more calls of the host, and the host wakes the thread
//! on any processor instead of this one; those who wait briefly again and again do not pay it.
//!
//! ```text
//!   Syscall, rung for ──────────────── DEEP, SEND ANSWER_DEEP ──▶ Asking(Deep) ── result, state, FUTEX_WAKE ──▶ Running
//!   Asking(Slot), of a crowd ───────── YIELDING, stub: DEEP ─────────▶ ▲
//!   Asking(Parked) ─────────────────── DEEP, SEND ANSWER_DEEP ──────▶ ▲
//!   Syscall, the program's own site ── signal, SEND ──▶ Sinking ──────╯ handler: frame into the stub, DEEP, SEND return
//! ```
//!
//! What the stub sees cannot come too late: `ANSWER_DEEP` says that the answer comes to the slot, whether or not it is there
//! already, and the host compares the state once more before it lets the thread sleep.
//!
//! A thread of a crowd shares its processor with those who answer it, mostly: who hands over to another waits for that one next. So it lets others run
//! (`sched_yield(2)`) before it sleeps; if its answer is there when its own turn comes, which is most often so, nobody had to wake it, and two that hand
//! over to each other cost a switch each and nothing else. After [`crate::stub::YIELD_TICKS`] in vain it says so in its slot, and sleeps like the others.
//!
//! The wait and these turns are the only calls that the filter allows without asking, so that they are no notifications themselves: the number, the stub's instruction, and
//! of the wait `FUTEX_WAIT` and no time limit. A program that jumps there with an address of its own sleeps until its word changes hands or
//! a signal comes, which is all it can do: it cannot wake, requeue, take a lock or lend priority, and the sentry's signal ends it
//! like a loop that never calls. A program that changes its own state word goes on with a result of its own making while the
//! sentry believes it asleep; with its next call it is killed, and until then it computes.
//!
//! Neighbours: `enter.s` (the stub's side), `request` (other ways to wait). All functions that take a state are called with it locked.

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::Core;
use super::dispatch::After;
use super::frame::Frame;
use super::outbox::Answer;
use super::thread::{Place, Stand, State, Thread};
use crate::SyscallRequest;
use crate::stub::{
    ANSWER_DEEP, ANSWER_RETURN, SLOT_RESULT, SLOT_RETURN, STATE_DEEP, STATE_TAKEN, STATE_YIELDING,
};

/// Calls that may be held in notifications: nobody has to walk past more. Those that cannot be sent deep come on top.
pub const MOST_HELD: usize = 16;
/// Entries of the line beyond which it is looked through for those that do not wait any more.
const LONG_LINE: usize = 4 * MOST_HELD;

/// A thread that waits for the answer to a call, held by this notification.
#[derive(Debug)]
pub struct Waiter {
    thread: Weak<Thread>,
    id: u64,
}

impl Waiter {
    fn waits(&self) -> bool {
        self.thread.upgrade().is_some_and(|thread| thread.state.lock().stand.held_by() == Some(self.id))
    }
}

thread_local! {
    /// Threads, and their platform, whose calls this worker has taken since it last waited for a trap.
    static TAKEN: RefCell<Vec<(usize, Arc<Thread>)>> = const { RefCell::new(Vec::new()) };
}

impl Core {
    /// This worker has taken a thread's call. To be called before that can be answered.
    pub fn note_taken(&self, thread: &Arc<Thread>) {
        TAKEN.with_borrow_mut(|taken| taken.push((self.identity(), thread.clone())));
    }

    /// Sends those deep that wait too long, now that this worker has done what it can: whose calls it has taken and not answered,
    /// they are going to wait.
    pub fn sink_waiting(&self) {
        if TAKEN.with_borrow(Vec::is_empty) {
            return;
        }
        let mine = self.identity();
        let taken: Vec<_> =
            TAKEN.with_borrow_mut(|taken| taken.extract_if(.., |(core, _)| *core == mine).collect());
        for (_, thread) in taken {
            let held = thread.state.lock().stand.held_by();
            if let Some(id) = held {
                self.line.lock().push_back(Waiter { thread: Arc::downgrade(&thread), id });
            }
        }
        while self.holds_many() {
            let Some(longest) = self.line.lock().pop_front() else { return };
            if let Some(thread) = longest.thread.upgrade() {
                let after = self.sink(&thread, &mut thread.state.lock(), longest.id);
                self.finish(&thread, after);
            }
        }
        if self.line.lock().len() > LONG_LINE {
            // Not under the line's lock: others who have locked a state come for that.
            let mut line = std::mem::take(&mut *self.line.lock());
            line.retain(Waiter::waits);
            let mut newer = self.line.lock();
            line.append(&mut newer);
            *newer = line;
        }
    }

    fn holds_many(&self) -> bool {
        self.held.load(Ordering::Relaxed) > MOST_HELD
    }

    /// One call more, or fewer, is held in a notification.
    pub fn count_held(&self, more: bool) {
        if more {
            self.held.fetch_add(1, Ordering::Relaxed);
        } else {
            self.held.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn sink(&self, thread: &Arc<Thread>, state: &mut State, id: u64) -> After {
        let request = match state.stand {
            Stand::Syscall { request, .. } | Stand::Asking { request, .. } => request,
            _ => return After::Nothing,
        };
        if state.stand.held_by() != Some(id) || state.orphan || state.to_be_held {
            return After::Nothing;
        }
        if matches!(state.stand, Stand::Asking { .. }) {
            return self.send_deep(thread, state, id, request);
        }
        if self.rings(state) {
            thread.slot.leave_arguments(&request.arguments);
            return self.send_deep(thread, state, id, request);
        }
        self.set_stand(state, Stand::Sinking { request, answer: None });
        // First the signal, then the answer: the handler runs before the application goes on.
        thread.process.signal(thread.tid());
        self.sent(thread, state, self.listener.answer(id, request.number))
    }

    /// Tells the stub, which is held by notification `id`, to wait for the slot.
    fn send_deep(&self, thread: &Thread, state: &mut State, id: u64, request: SyscallRequest) -> After {
        thread.slot.set_state(STATE_DEEP);
        self.set_stand(state, Stand::Asking { request, place: Place::Deep });
        self.sent(thread, state, self.listener.answer(id, ANSWER_DEEP))
    }

    /// Sends a thread deep that looks at its slot, where its request has been taken and will take longer; it lets others run first, who may be
    /// those that it waits for. Returns whether that was so.
    pub fn sink_asking(&self, thread: &Thread) -> bool {
        let mut state = thread.state.lock();
        // Otherwise it has been answered, or is giving up its processor by itself.
        if let Stand::Asking { request, place: Place::Slot } = state.stand
            && thread.slot.change_state(STATE_TAKEN, STATE_YIELDING).is_ok()
        {
            self.set_stand(&mut state, Stand::Asking { request, place: Place::Deep });
            return true;
        }
        false
    }

    /// A thread that was called out of its call stands in its handler: it returns into the stub to wait there, or with its answer.
    pub fn sunk(&self, thread: &Arc<Thread>, state: &mut State, id: u64, frame: Frame) -> After {
        let Stand::Sinking { request, answer } = state.stand else { return After::Nothing };
        let slot = &thread.slot;
        let mut registers = frame.registers(slot);
        if state.orphan {
            return self.captured(thread, state, id, frame, registers);
        }
        match answer {
            Some(value) => {
                registers.rax = value;
                thread.pass_interrupt(state);
                self.set_stand(state, Stand::Running);
                state.heat.resumed();
            }
            None => {
                slot.leave_arguments(&request.arguments);
                slot.set_word(SLOT_RETURN, registers.rip);
                slot.set_state(STATE_DEEP);
                registers.rip = self.labels.sink;
                registers.rdi = slot.address;
                self.set_stand(state, Stand::Asking { request, place: Place::Deep });
            }
        }
        frame.set_registers(slot, &registers, &self.template);
        self.sent(thread, state, self.listener.answer(id, ANSWER_RETURN))
    }

    /// Leaves the answer for a thread that waits in the deep.
    pub fn answer_deep(&self, thread: &Arc<Thread>, state: &mut State, value: u64) {
        thread.carried.finish(&thread.slot);
        thread.slot.set_word(SLOT_RESULT, value);
        self.set_stand(state, Stand::Running);
        state.heat.resumed();
        // First the signal: a thread that is awake goes on as soon as it sees the answer.
        thread.pass_interrupt(state);
        let before = thread.slot.replace_state(state.idle_word());
        // Only the thread itself makes it `STATE_DEEP`, before it sleeps.
        if before != STATE_YIELDING {
            self.keep_answer(thread, Answer::Wake);
        }
    }
}

/// Makes the stub return `value` even though that is what tells it to look into the slot. To be called before the call, which
/// was rung for, is answered with it.
pub fn return_even_the_mark(thread: &Thread, request: &SyscallRequest, value: u64) {
    if value == ANSWER_DEEP {
        thread.slot.leave_arguments(&request.arguments);
        thread.slot.set_word(SLOT_RESULT, value);
    }
}
