//! Children that are made in the place of the call that asks for them, without bringing the caller into its handler.
//!
//! ```text
//!   parent: rings ── SEND, state SPAWN ──▶ makes `clone` (compared, SEND continue) ──▶ says what came of it
//!           Syscall                        Spawning                                   Syscall again: SEND result
//!   child:  makes one call, which the host will have to execute anyhow: `sigaltstack`, or the `mmap` of its own chunk
//!           Newborn ──▶ Fresh ── SEND continue ──▶ Running, behind the parent's call, with 0
//! ```
//!
//! Why the tid that the parent says may be believed: once the host was told to execute the `clone`, nothing comes between
//! that instruction and the report but the stub's code, which uses registers only. The one thing that could is a signal, whose
//! frame other threads can write to; and an interrupt is sent to running threads only, so one that was sent arrives before
//! the `clone`. A signal after it condemns the process.
//!
//! The child shares or copies its parent's registers by being its clone. It needs its own slot (gs; or, at the same
//! address, its own chunk) and signal stack, no more. Neighbours: `enter.s`, labels 91 to 94; `dispatch` for births.

use std::sync::Arc;

use super::Core;
use super::birth::{BirthHandle, child_space};
use super::dispatch::After;
use super::notification::{AUDIT_ARCH_X86_64, Notification};
use super::outbox::Answer;
use super::seed::write_commands;
use super::slots::Slot;
use super::thread::{Begin, Birth, Made, Spawning, Stand, State, Thread, call_error};
use crate::stub::{
    ANSWER_SLOT, CALL_SPAWNED, SLOT_ALTERNATE, SLOT_READY, SLOT_RETURN, STATE_IDLE, STATE_SPAWN,
};
use crate::{SpawnError, SpawnHere, SpawnKind, SyscallRequest};

/// What `clone` a child of this kind needs, beside its stack and thread area. The sentry reaps all processes.
pub fn clone_flags(kind: SpawnKind) -> i32 {
    let reaped = if kind == SpawnKind::Thread { 0 } else { libc::CLONE_PARENT };
    kind.clone_flags() | reaped
}

/// The `clone` that makes such a child, with this slot.
pub fn clone_command(spawn: &SpawnHere, slot: &Slot) -> [u64; 7] {
    let tls = spawn.fs_base.map_or(0, |_| libc::CLONE_SETTLS);
    let child_place = if spawn.kind == SpawnKind::Copy { slot.chunk_offset() } else { slot.address };
    [
        libc::SYS_clone.cast_unsigned(),
        u64::from((clone_flags(spawn.kind) | tls).cast_unsigned()),
        spawn.stack,
        0,
        0,
        spawn.fs_base.unwrap_or(0),
        child_place,
    ]
}

/// Puts into a child's slot what the stub will look for there.
pub fn prepare(slot: &Slot, parent: &Slot, request: &SyscallRequest) {
    slot.leave_arguments(&request.arguments);
    slot.set_word(SLOT_READY, 0);
    slot.set_word(SLOT_RETURN, parent.word(SLOT_RETURN));
    let (start, length) = slot.signal_stack();
    slot.set_word(SLOT_ALTERNATE, start);
    slot.set_word(SLOT_ALTERNATE + 8, 0);
    slot.set_word(SLOT_ALTERNATE + 16, length);
    slot.set_state(STATE_IDLE);
}

impl Core {
    /// Begins to make a child of a thread that rang. `None`: not possible now.
    pub fn start_spawn(
        self: &Arc<Self>,
        parent: &Arc<Thread>,
        spawn: &SpawnHere,
    ) -> Option<Result<BirthHandle, SpawnError>> {
        let space = &parent.slot.space;
        let slot = match spawn.kind {
            // It would inherit chunks that it must not keep, and has to get rid of them first.
            SpawnKind::Copy if space.has_other_chunks() => return None,
            SpawnKind::Copy => match child_space(self, &parent.slot) {
                Ok(slot) => slot,
                Err(errno) => return Some(Err(SpawnError::Refused(errno))),
            },
            SpawnKind::SharedSpace => space.take_slot()?,
            // Threads are announced.
            SpawnKind::Thread => return None,
        };
        let mut state = parent.state.lock();
        let Stand::Syscall { id, request } = state.stand else {
            drop(state);
            if spawn.kind != SpawnKind::Copy {
                space.release_slot(slot.place);
            }
            return Some(Err(SpawnError::Died));
        };
        prepare(&slot, &parent.slot, &request);
        self.spinner.unseat(parent, &mut state);
        let command = clone_command(spawn, &slot);
        let birth = Arc::new(Birth {
            kind: spawn.kind,
            process: None,
            cleanup: false,
            slot,
            begin: Begin::InCall(request),
            progress: Default::default(),
        });
        self.threads.births.lock().pending += 1;
        parent.slot.leave_arguments(&request.arguments);
        write_commands(&parent.slot, &[command]);
        parent.slot.set_state(STATE_SPAWN);
        let spawning = Spawning { what: Made::Told(birth.clone()), command, request, made: false };
        self.set_stand(&mut state, Stand::Spawning(Box::new(spawning)));
        self.keep_answer(parent, Answer::Value(id, ANSWER_SLOT));
        Some(Ok(BirthHandle::new(birth)))
    }

    /// A thread makes the `clone` it was told to make, or says what came of it; or a late interrupt has come before.
    pub fn while_spawning(&self, thread: &Arc<Thread>, state: &mut State, call: &Notification) -> After {
        let idle = state.idle_word();
        let Stand::Spawning(spawning) = &mut state.stand else { return After::Nothing };
        let is = |ip: u64, number: u64| {
            call.ip == ip
                && call.architecture == AUDIT_ARCH_X86_64
                && u64::from(call.number.cast_unsigned()) == number
        };
        // The freezer makes `clone` restart itself (`ERESTARTNOINTR`): the same call again is in order.
        let makes =
            [self.labels.spawn_ip, self.labels.direct_ip].iter().any(|ip| is(*ip, spawning.command[0]));
        if makes && call.arguments == spawning.command[1..] {
            spawning.made = true;
            thread.slot.set_state(idle);
            return self.sent(thread, state, self.listener.proceed(call.id));
        }
        let spawned = is(self.labels.spawned_ip, CALL_SPAWNED);
        let birth = match &spawning.what {
            Made::Told(birth) => birth.clone(),
            Made::Announced(child) => {
                let (child, made) = (child.clone(), spawning.made);
                return self.while_making(thread, state, call, child, made, spawned);
            }
        };
        if spawning.made && spawned {
            let result = call.arguments[0];
            let request = SyscallRequest { ip: self.labels.spawned_ip, ..spawning.request };
            self.set_stand(state, Stand::Syscall { id: call.id, request });
            return match (call_error(result), i32::try_from(result)) {
                (None, Ok(tid)) => After::Claim(birth, tid),
                (error, _) => {
                    let refused = SpawnError::Refused(error.unwrap_or(abi::errno::EAGAIN));
                    After::Abandon(birth, refused, state.waker.take())
                }
            };
        }
        if !spawning.made && self.is_interrupt(thread, call) {
            state.interrupted = true;
            return self.sent(thread, state, self.listener.answer(call.id, crate::stub::ANSWER_RETURN));
        }
        self.condemn(thread, state)
    }

    /// The call of a held thread whose registers, should it be captured now, are not those of its call, because
    /// it makes another one in its place.
    pub fn displaced(&self, request: &SyscallRequest) -> Option<SyscallRequest> {
        let labels = &self.labels;
        [labels.spawned_ip, labels.direct_ip, labels.place_ip].contains(&request.ip).then_some(*request)
    }
}
