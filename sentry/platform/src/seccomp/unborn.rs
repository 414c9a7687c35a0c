//! Threads that are made in the place of the call that asks for them, and whose maker does not wait for them.
//!
//! ```text
//!   parent: rings ── SEND, state SPAWN ──▶ makes `clone` (compared, SEND continue) ──▶ goes on, with the result in its slot
//!           Syscall                        Spawning ─────────────────────────────────▶ Running, once the child or itself has spoken
//!                                          ╰─ the host refused: says so, SEND error ─▶ Running, and the child is stillborn
//!   child:  makes one call, `sigaltstack`, which says who it is
//!           Unborn ── SEND continue, if it has been resumed ──▶ Running, behind the parent's call, with 0
//!                  ╰─ else held ──▶ Fresh
//! ```
//!
//! The kernel has the child's context, and with it a task, before the host has made the thread: the number that the parent's call
//! returns stands in the parent's slot, and nobody can use it before there is something behind it.
//!
//! # Who the child is
//! Nobody tells its number on the host. Its first call does (the host says who calls), and the call's argument is the address
//! of its slot, which is that of one announced thread in each process at most. That the number belongs to the process is
//! asked of the host (`tgkill` with signal 0), while the process is known not to have been reaped. So a thread is taken for an announced one only if it
//! is of the announced one's process, and is not known yet. A process has no threads that are not known but those whose `clone` it
//! was let make here, each announced, or as a command (`dispatch`), where the first call is another one; all arguments are compared before, registers
//! are inherited, and between the `clone` and the first call nothing reads memory and no signal is sent. A child could therefore not even
//! name the slot of another birth of its process; if it could, both would be threads of one program that have
//! changed places, which the program can do by itself. A known thread that makes that call has called `sigaltstack`.
//!
//! # Who the parent is meanwhile
//! After its `clone` was let through the parent is not heard of until its next call, whatever that is, or until its child speaks: either says that
//! the `clone` has succeeded. Until then it is sent no signal, so that one that comes is older than the `clone`, which the
//! host then makes anew (`ERESTARTNOINTR`): it is noted down and sent later. A parent that says the host has refused when it
//! has not leaves a child that nobody knows, whose process is killed for it. One that says nothing while no child comes has a task
//! that does not run, as if it were stopped; that ends with its process, which loses its life if the task has to end and cannot.
//!
//! # Without being asked first
//! A thread that has made one has a slot ready for the next, whose address stands in its own. When a patched site asks for a thread as libraries do, the
//! stub makes the `clone` at once, with the stack and thread area that it finds in the call's arguments, and that notification is the request: the call
//! and its arguments stand in the slot. The registers of the notification cannot change any more. They are compared with what the sentry would have the
//! thread do for the request that the kernel has read for itself; only if they are the same is the host let execute the call. Otherwise its result tells
//! the stub to look into its slot, for an answer or for the `clone` to be made in the way above. Of what a program forges there (the address of the ready
//! slot, the request, a jump to the instruction) nothing is believed that the comparison does not show. One slot is kept for each thread that has made one.
//!
//! Neighbours: `spawn` (processes, and what both have in common), `enter.s` labels 52 and 94 to 98.

use std::sync::Arc;

use super::Core;
use super::dispatch::{After, wake};
use super::notification::{AUDIT_ARCH_X86_64, Notification};
use super::outbox::Answer;
use super::seed::write_commands;
use super::slots::Slot;
use super::spawn::{clone_command, prepare};
use super::thread::{Announced, Made, Process, Spawning, Stand, State, Thread, call_error};
use crate::stub::{
    ANSWER_RETURN, ANSWER_SLOT, SLOT_ALTERNATE, SLOT_ARGUMENTS, SLOT_NUMBER, SLOT_READY, SLOT_RESULT,
    STATE_SPAWN,
};
use crate::{Architecture, SpawnHere, SpawnKind, SyscallRequest, Trap};

/// A thread that the kernel knows, and the `clone` that is to make it.
#[derive(Debug)]
pub struct Announcement {
    /// The thread.
    pub child: Arc<Thread>,
    /// Number and arguments of the `clone`.
    command: [u64; 7],
    /// The maker is about to execute it.
    direct: bool,
}

/// Whether a thread was never made because the host refused, or its maker ended before: its process goes on without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It was that.
    Yes,
    /// The process is at its end.
    No,
}

impl Core {
    /// Whether a thread is held in a call that the stub has made for it.
    pub fn rings(&self, state: &State) -> bool {
        let labels = &self.labels;
        let calls = [labels.ring_ip, labels.plain_ip, labels.direct_ip, labels.place_ip];
        matches!(state.stand, Stand::Syscall { request, .. } if calls.contains(&request.ip))
    }

    /// Makes a child that the host does not know yet, of a thread that rang. `None`: not possible now.
    pub fn announce(&self, parent: &Arc<Thread>, spawn: &SpawnHere) -> Option<Announcement> {
        let mut state = parent.state.lock();
        let Stand::Syscall { request, .. } = state.stand else { return None };
        if !self.rings(&state) {
            return None;
        }
        // What the kernel has read may be something else than what the stub has. Of an earlier call is what is there if this one came another way.
        let direct = state.direct.take().filter(|_| request.ip == self.labels.direct_ip);
        let asked =
            direct.is_some_and(|direct| spawn.fs_base.is_some_and(|tls| direct == [spawn.stack, tls]));
        let ready = if asked { self.take_ready(parent, &mut state) } else { None };
        let direct = ready.is_some();
        let slot = ready.or_else(|| parent.slot.space.take_slot())?;
        prepare(&slot, &parent.slot, &request);
        let command = clone_command(spawn, &slot);
        let stand = Stand::Unborn { request, resumed: false };
        Some(Announcement { child: Thread::new(0, parent.process.clone(), slot, stand), command, direct })
    }

    /// The slot that was kept ready for a child of this thread.
    fn take_ready(&self, parent: &Thread, state: &mut State) -> Option<Slot> {
        let place = state.ready.take()?;
        parent.slot.set_word(SLOT_READY, 0);
        parent.slot.space.slot(place)
    }

    /// Keeps a slot ready for the next child of a thread that makes threads.
    fn make_ready(&self, parent: &Thread, state: &mut State) {
        if state.ready.is_none()
            && let Some(slot) = parent.slot.space.take_slot()
        {
            state.ready = Some(slot.place);
            parent.slot.set_word(SLOT_READY, slot.address);
        }
    }

    /// What a thread asks for that is about to make a thread at once: the call whose place that takes, which stands in its slot. `None`: the call
    /// is not what the stub would make there, and is what it is.
    pub fn direct_request(
        &self,
        thread: &Thread,
        state: &mut State,
        call: &Notification,
    ) -> Option<SyscallRequest> {
        let slot = &thread.slot;
        let number = u64::from(slot.half(SLOT_NUMBER));
        let numbers = [libc::SYS_clone, libc::SYS_clone3].map(i64::cast_unsigned);
        let arguments = std::array::from_fn(|index| slot.word(SLOT_ARGUMENTS + index * 8));
        let ready = state.ready.and_then(|place| slot.space.slot(place));
        let [_, stack, _, _, tls, _] = call.arguments;
        let spawn = SpawnHere { kind: SpawnKind::Thread, stack, fs_base: Some(tls) };
        let expected = ready.map(|ready| clone_command(&spawn, &ready));
        let is_it = call.architecture == AUDIT_ARCH_X86_64
            && numbers.contains(&number)
            && expected.is_some_and(|expected| {
                u64::from(call.number.cast_unsigned()) == expected[0] && call.arguments == expected[1..]
            });
        state.direct = is_it.then_some([stack, tls]);
        let architecture = Architecture::X86_64;
        is_it.then_some(SyscallRequest { number, arguments, ip: call.ip, architecture, hot: false })
    }

    /// Has a thread that rang make the child that was announced. Its call returns `result`.
    pub fn make(
        &self,
        parent: &Arc<Thread>,
        state: &mut State,
        announcement: Announcement,
        result: u64,
    ) -> After {
        let Announcement { child, command, direct } = announcement;
        let Stand::Syscall { id, request } = state.stand else {
            return After::Stillborn(child, Refused::No, None);
        };
        self.spinner.unseat(parent, state);
        parent.slot.leave_arguments(&request.arguments);
        parent.slot.set_word(SLOT_RESULT, result);
        self.make_ready(parent, state);
        let answer = if direct {
            Answer::Proceed(id)
        } else {
            write_commands(&parent.slot, &[command]);
            parent.slot.set_state(STATE_SPAWN);
            Answer::Value(id, ANSWER_SLOT)
        };
        let announced = Announced { child: child.clone(), parent: parent.clone() };
        self.threads.announced.lock().push(announced);
        let spawning = Spawning { what: Made::Announced(child), command, request, made: direct };
        self.set_stand(state, Stand::Spawning(Box::new(spawning)));
        self.keep_answer(parent, answer);
        After::Nothing
    }

    /// A thread that makes another speaks again, but not to make the `clone`; `made`: which it has been let do; `refused`: it says that the host has refused.
    pub fn while_making(
        &self,
        thread: &Arc<Thread>,
        state: &mut State,
        call: &Notification,
        child: Arc<Thread>,
        made: bool,
        refused: bool,
    ) -> After {
        if self.is_interrupt(thread, call) {
            state.interrupted = true;
            return self.sent(thread, state, self.listener.answer(call.id, ANSWER_RETURN));
        }
        if !made {
            return self.condemn(thread, state);
        }
        if !refused {
            self.set_stand(state, Stand::Running);
            return self.while_running(thread, state, *call);
        }
        let error = call.arguments[0];
        if call_error(error).is_none() {
            return self.condemn(thread, state);
        }
        self.go_on_after_making(thread, state);
        self.keep_answer(thread, Answer::Value(call.id, error));
        After::Stillborn(child, Refused::Yes, None)
    }

    /// It is known what came of the `clone`: the thread can be interrupted again.
    fn go_on_after_making(&self, thread: &Thread, state: &mut State) {
        self.set_stand(state, Stand::Running);
        // Should the context be gone, the thread is to end.
        state.interrupted |= state.orphan;
        thread.pass_interrupt(state);
    }

    /// The announced thread whose first call this is. It is announced no longer.
    pub fn find_announced(&self, call: &Notification) -> Option<Announced> {
        let [stack, old, ..] = call.arguments;
        if call.architecture != AUDIT_ARCH_X86_64
            || i64::from(call.number) != libc::SYS_sigaltstack
            || old != 0
        {
            return None;
        }
        let address = stack.checked_sub(SLOT_ALTERNATE as u64)?;
        let tid = call.tid.cast_signed();
        let known = self.threads.get(tid);
        let is_it = |announced: &Announced| {
            let process = &announced.child.process;
            // Whoever has this number in another process is gone, if the host says that it is one of this.
            announced.child.slot.address == address
                && known.as_ref().is_none_or(|known| !Arc::ptr_eq(&known.process, process))
                && process.owns(tid)
        };
        let mut announced = self.threads.announced.lock();
        let at = announced.iter().position(is_it)?;
        Some(announced.swap_remove(at))
    }

    /// An announced thread makes its first call.
    pub fn be_born(&self, announced: &Announced, call: &Notification) -> bool {
        let Announced { child, parent } = announced;
        {
            let mut state = parent.state.lock();
            if matches!(&state.stand, Stand::Spawning(spawning) if spawning.makes(child)) {
                self.go_on_after_making(parent, &mut state);
            }
        }
        let mut state = child.state.lock();
        let Stand::Unborn { request, resumed } = state.stand else {
            // It has been given up, which is so only when its process was killed, or one of them lies.
            child.process.kill();
            return false;
        };
        child.set_tid(call.tid.cast_signed());
        let previous = self.threads.insert(child);
        // After the others can find it: whoever ends the process from now on buries this thread, too. If it has been ended, nobody will.
        let after = if !child.process.enter(child.tid()) {
            self.threads.remove(child);
            child.release_slot();
            self.dead(&mut state)
        } else if state.orphan {
            self.set_stand(&mut state, Stand::Capturing(None));
            child.process.signal(child.tid());
            self.sent(child, &mut state, self.listener.proceed(call.id))
        } else if resumed {
            child.pass_interrupt(&mut state);
            self.set_stand(&mut state, Stand::Running);
            state.heat.resumed();
            self.sent(child, &mut state, self.listener.proceed(call.id))
        } else {
            self.set_stand(&mut state, Stand::Fresh { id: call.id, request });
            After::Wake(state.waker.take())
        };
        drop(state);
        // Its number is used again, so it is gone.
        let woken = previous.is_some_and(|previous| self.bury(&previous));
        self.finish(child, after) | woken
    }

    /// An announced thread will never be. Returns whether somebody was woken.
    pub fn stillborn(&self, child: &Arc<Thread>, refused: Refused) -> bool {
        self.threads.announced.lock().retain(|announced| !Arc::ptr_eq(&announced.child, child));
        let mut state = child.state.lock();
        if !matches!(state.stand, Stand::Unborn { .. }) {
            return false;
        }
        self.set_stand(&mut state, Stand::Dead);
        if refused == Refused::Yes {
            state.trap = Some(Trap::Unborn);
        }
        child.release_slot();
        wake(state.waker.take())
    }

    /// A process was reaped: those who were to be born in it will not be.
    pub fn bury_unborn(&self, process: &Arc<Process>) {
        let of_process = |announced: &Announced| Arc::ptr_eq(&announced.child.process, process);
        let unborn: Vec<_> =
            self.threads.announced.lock().iter().filter(|announced| of_process(announced)).cloned().collect();
        for announced in unborn {
            self.stillborn(&announced.child, Refused::No);
        }
    }
}

impl Spawning {
    /// Whether this thread is what is made.
    fn makes(&self, child: &Arc<Thread>) -> bool {
        self.made && matches!(&self.what, Made::Announced(announced) if Arc::ptr_eq(announced, child))
    }
}
