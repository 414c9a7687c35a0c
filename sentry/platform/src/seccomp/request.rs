//! Requests that come through the slot: taking, answering, and what happens when the answer takes longer.
//!
//! ```text
//!   IDLE ◀──────────── sentry ───────────▶ WATCHED          sentry: stops and begins looking
//!   WATCHED ── stub ──▶ REQUEST ── sentry ──▶ TAKEN ── sentry ──▶ WATCHED or IDLE: answered
//!                          │ stub: nobody comes             │ sentry: takes longer      ╰─▶ PARK ── stub ──╮
//!                          ╰──▶ IDLE, and it rings          ╰── stub: takes long ──▶ PARKING ◀─────────────╯
//!   TAKEN ── sentry, of a crowd ──▶ YIELDING ── stub ──▶ DEEP: lets others run, then sleeps (`deep.rs`); answered in both
//!   PARKING: the stub makes a call that is notified; the answer to that is the answer to the request, or DEEP (`deep.rs`)
//! ```
//!
//! The word in the slot only tells the other side what to do: what is true stands in [`Stand`]. A thread whose
//! word and deeds disagree is killed with its process. All functions are called with the thread's state locked.

use std::sync::Arc;

use super::Core;
use super::dispatch::After;
use super::memory::Memory;
use super::notification::{AUDIT_ARCH_X86_64, Notification};
use super::outbox::Answer;
use super::seed::write_commands;
use super::thread::{Place, Stand, State, Thread};
use crate::stub::{
    CALL_PARK, Call, SLOT_ARGUMENTS, SLOT_NUMBER, SLOT_RESULT, STATE_PARK, STATE_PARKING, STATE_REQUEST,
    STATE_SUBSTITUTE, STATE_TAKEN,
};
use crate::{Architecture, SyscallRequest, Trap};

impl Core {
    /// Takes the request that stands in a thread's slot, if one does. Returns what is left to do, `None` if there is none.
    pub fn take_request(&self, thread: &Arc<Thread>, state: &mut State) -> Option<After> {
        let slot = &thread.slot;
        if !matches!(state.stand, Stand::Running) || state.orphan {
            // Held, or its signal is on the way: what the slot says was not put there by this thread.
            return None;
        }
        slot.change_state(STATE_REQUEST, STATE_TAKEN).ok()?;
        let mut arguments = [0; 6];
        for (index, argument) in arguments.iter_mut().enumerate() {
            *argument = slot.word(SLOT_ARGUMENTS + index * 8);
        }
        let number = u64::from(slot.half(SLOT_NUMBER));
        let request = SyscallRequest {
            number,
            arguments,
            ip: self.labels.ring_ip,
            architecture: Architecture::X86_64,
            hot: false,
        };
        if !Call::of(number).may_ask() {
            return Some(self.condemn(thread, state));
        }
        thread.carried.begin(slot, &request);
        state.heat.taken();
        // Still busy: it waits with open eyes.
        state.stand = Stand::Asking { request, place: Place::Slot };
        state.trap = Some(Trap::Syscall(request));
        Some(After::Wake(state.waker.take()))
    }

    /// Answers a request.
    pub fn answer_request(&self, thread: &Arc<Thread>, state: &mut State, place: Place, value: u64) -> After {
        let slot = &thread.slot;
        thread.carried.finish(slot);
        slot.set_word(SLOT_RESULT, value);
        let next = state.idle_word();
        if let Place::Parked(id) = place {
            return self.answer_parked(thread, state, id, value);
        }
        let mut from = STATE_TAKEN;
        loop {
            match slot.change_state(from, next) {
                Ok(()) => {
                    self.set_stand(state, Stand::Running);
                    thread.pass_interrupt(state);
                    return After::Nothing;
                }
                Err(STATE_PARK) if from == STATE_TAKEN => from = STATE_PARK,
                Err(STATE_PARKING) => {
                    self.set_stand(state, Stand::Returning(value));
                    return After::Nothing;
                }
                Err(_) => return self.condemn(thread, state),
            }
        }
    }

    /// Lets a thread that has given up its processor go on with its answer.
    fn answer_parked(&self, thread: &Arc<Thread>, state: &mut State, id: u64, value: u64) -> After {
        thread.slot.set_state(state.idle_word());
        thread.pass_interrupt(state);
        self.set_stand(state, Stand::Running);
        state.heat.resumed();
        self.keep_answer(thread, Answer::Value(id, value));
        After::Nothing
    }

    /// A thread with a request makes a call: it gives up its processor, or a late interrupt has brought it into its handler.
    pub fn while_asking(&self, thread: &Arc<Thread>, state: &mut State, call: &Notification) -> After {
        let is_park = self.is_park(call);
        match state.stand {
            Stand::Asking { request, place: Place::Slot } if is_park => {
                self.set_stand(state, Stand::Asking { request, place: Place::Parked(call.id) });
                self.note_taken(thread);
                After::Nothing
            }
            Stand::Returning(_) if is_park && state.orphan => {
                self.set_stand(state, Stand::Capturing(None));
                thread.process.signal(thread.tid());
                self.sent(thread, state, self.listener.answer(call.id, 0))
            }
            Stand::Returning(value) if is_park => self.answer_parked(thread, state, call.id, value),
            Stand::Asking { place: Place::Slot | Place::Deep, .. } | Stand::Returning(_)
                if self.is_interrupt(thread, call) =>
            {
                state.interrupted = true;
                self.sent(thread, state, self.listener.answer(call.id, crate::stub::ANSWER_RETURN))
            }
            _ => self.condemn(thread, state),
        }
    }

    /// Has a held thread make another call in the place of its own, and return `result` if that succeeds. One that rang does so
    /// in the stub. Any other is sent the interrupt signal, whose handler does it and goes back; `result` stands in its frame already, for
    /// that is what the call is answered with. An earlier interrupt may make the two one, or bring a thread that rang into the handler,
    /// which does the same there: it was to interrupt a thread that has trapped since. (But a read is always made in the stub.) `rings`: what the stub
    /// is told if the thread rang.
    pub fn substitute(
        &self,
        thread: &Arc<Thread>,
        state: &mut State,
        command: [u64; 7],
        result: u64,
        rings: Option<u32>,
    ) -> After {
        let Stand::Syscall { id, request } = state.stand else { return self.condemn(thread, state) };
        let slot = &thread.slot;
        slot.leave_arguments(&request.arguments);
        write_commands(slot, &[command]);
        slot.set_word(SLOT_RESULT, result);
        thread.carried.finish(slot);
        slot.set_state(rings.unwrap_or(STATE_SUBSTITUTE));
        self.set_stand(state, Stand::Substituting(command));
        let answer = if rings.is_some() { Answer::Value(id, result) } else { Answer::Signalled(id, result) };
        self.keep_answer(thread, answer);
        After::Nothing
    }

    /// A thread makes the call it was told to make, or a late interrupt has come before.
    pub fn while_substituting(
        &self,
        thread: &Arc<Thread>,
        state: &mut State,
        call: &Notification,
        command: &[u64; 7],
    ) -> After {
        let labels = &self.labels;
        let expected = [labels.substitute_ip, labels.instead_ip, labels.transfer_ip].contains(&call.ip)
            && call.architecture == AUDIT_ARCH_X86_64
            && u64::from(call.number.cast_unsigned()) == command[0]
            && call.arguments == command[1..];
        if !expected {
            if self.is_interrupt(thread, call) {
                state.interrupted = true;
                return self.sent(thread, state, self.listener.answer(call.id, crate::stub::ANSWER_RETURN));
            }
            return self.condemn(thread, state);
        }
        thread.slot.set_state(state.idle_word());
        // Should the context be gone, the thread is to end.
        state.interrupted |= state.orphan;
        thread.pass_interrupt(state);
        self.set_stand(state, Stand::Running);
        state.heat.resumed();
        self.keep_answer(thread, Answer::Proceed(call.id));
        After::Nothing
    }

    /// Whether this is the call of a thread that gives up its processor.
    pub fn is_park(&self, call: &Notification) -> bool {
        call.ip == self.labels.park_ip && u64::from(call.number.cast_unsigned()) == CALL_PARK
    }

    /// The request of a thread will take longer: it need not look at its slot meanwhile, nor the spinner. Returns whether it was told so.
    pub fn let_park(&self, thread: &Thread) -> bool {
        let mut state = thread.state.lock();
        // Otherwise it has been answered, or is giving up by itself.
        let told = matches!(state.stand, Stand::Asking { place: Place::Slot, .. })
            && thread.slot.change_state(STATE_TAKEN, STATE_PARK).is_ok();
        if told {
            self.spinner.set_watched(&mut state, false);
            state.heat.waits();
        }
        told
    }

    /// Writes out what a call has gathered, because it will not return in the usual way.
    pub fn withdraw_carried(&self, thread: &Thread) {
        if let Some((address, bytes)) = thread.carried.withdraw(&thread.slot) {
            Memory::write_out(thread, self.layout.max_address, address, &bytes);
        }
    }

    /// Changes where a thread stands, and keeps count of those that want a processor.
    pub fn set_stand(&self, state: &mut State, stand: Stand) -> Stand {
        let (was, is) = (state.stand.is_busy(), stand.is_busy());
        if was != is && !state.watched {
            self.spinner.count_busy(is);
        }
        let (was, is) = (state.stand.held_by().is_some(), stand.held_by().is_some());
        if was != is {
            self.count_held(is);
        }
        std::mem::replace(&mut state.stand, stand)
    }
}
