//! What happens when a notification arrives: the receiving half of the protocol (README.md has the diagram).
//!
//! Everything here is driven by hostile processes. The rule is: a call is the stub's only if it comes from the
//! stub's own instruction *and* the state expects it *and* it is exactly what was asked; in a running thread
//! anything else is an ordinary system call of the application, and in a thread that executes
//! commands anything else ends its process.

use std::sync::Arc;
use std::task::Waker;

use abi::errno;

use super::Core;
use super::frame::Frame;
use super::notification::{AUDIT_ARCH_X86_64, Notification};
use super::place::Placed;
use super::seed::{INTERRUPT_SIGNAL, write_commands};
use super::settle::Settled;
use super::thread::{Batch, Begin, Birth, Made, Outcome, Process, Purpose, Stand, State, Thread, call_error};
use super::unborn::Refused;
use crate::stub::{CALL_BORN, CALL_READY, SLOT_ALTERNATE, SLOT_FD, STATE_IDLE};
use crate::{Architecture, Registers, SpawnError, SpawnKind, SyscallRequest, Trap};

/// What is left to do once a thread's lock is released.
#[derive(Debug)]
pub enum After {
    /// Nothing.
    Nothing,
    /// Wake somebody.
    Wake(Option<Waker>),
    /// A `clone` succeeded: the child has this tid.
    Claim(Arc<Birth>, i32),
    /// A `clone` failed or its maker died.
    Abandon(Arc<Birth>, SpawnError, Option<Waker>),
    /// A child stands still.
    Born(Arc<Birth>),
    /// An announced thread will never be; because the host refused?
    Stillborn(Arc<Thread>, Refused, Option<Waker>),
}

impl Core {
    /// Handles one notification; returns whether it woke anybody.
    pub fn dispatch(&self, call: Notification) -> bool {
        let tid = call.tid.cast_signed();
        let labels = &self.labels;
        if call.ip == labels.fresh_stack_ip
            && let Some(announced) = self.find_announced(&call)
        {
            return self.be_born(&announced, &call);
        }
        let first_call =
            [labels.map_ip, labels.born_ip, labels.fresh_map_ip, labels.fresh_stack_ip].contains(&call.ip);
        let known = self.threads.get(tid);
        let thread = match known {
            Some(thread) if !first_call => thread,
            known => match self.park(call, known) {
                Some(thread) => thread,
                None => return false,
            },
        };
        self.deliver(&thread, call)
    }

    /// Puts a call aside that may be a newborn's first, until its parent has told the newborn's tid. Returns the thread if
    /// it turns out to be known.
    fn park(&self, call: Notification, known: Option<Arc<Thread>>) -> Option<Arc<Thread>> {
        let mut births = self.threads.births.lock();
        // Again, now that nobody can be claiming.
        let known = self.threads.get(call.tid.cast_signed()).or(known);
        if let Some(thread) = known
            && (births.pending == 0 || matches!(thread.state.lock().stand, Stand::Newborn(_)))
        {
            return Some(thread);
        }
        if births.pending == 0 {
            drop(births);
            kill_unknown(call.tid.cast_signed());
            return None;
        }
        births.parked.insert(call.tid.cast_signed(), call);
        None
    }

    fn deliver(&self, thread: &Arc<Thread>, call: Notification) -> bool {
        let after = self.advance(thread, &mut thread.state.lock(), call);
        self.finish(thread, after)
    }

    /// Carries out what had to wait for the thread's lock. Returns whether somebody was woken.
    pub fn finish(&self, thread: &Arc<Thread>, after: After) -> bool {
        match after {
            After::Nothing => false,
            After::Wake(waker) => wake(waker),
            After::Claim(birth, tid) => self.claim(&birth, tid) | self.release_seed(thread),
            After::Abandon(birth, error, waker) => {
                if birth.kind != SpawnKind::Copy {
                    birth.slot.space.release_slot(birth.slot.place);
                }
                self.forget_birth();
                self.release_seed(thread);
                let woken = wake(birth.advance(|progress| progress.error = Some(error)));
                wake(waker) | woken
            }
            After::Stillborn(child, refused, waker) => self.stillborn(&child, refused) | wake(waker),
            After::Born(birth) => {
                if birth.progress.lock().abandoned {
                    thread.process.kill();
                }
                wake(birth.advance(|progress| progress.child = Some(thread.clone())))
            }
        }
    }

    /// Moves a thread's state on by one notification.
    fn advance(&self, thread: &Arc<Thread>, state: &mut State, call: Notification) -> After {
        match &mut state.stand {
            Stand::Running => self.while_running(thread, state, call),
            Stand::Asking { .. } | Stand::Returning(_) => self.while_asking(thread, state, &call),
            Stand::Substituting(command) => {
                let command = *command;
                self.while_substituting(thread, state, &call, &command)
            }
            Stand::Sinking { .. } => match self.handler_frame(thread, &call) {
                Some((frame, INTERRUPT_SIGNAL)) => self.sunk(thread, state, call.id, frame),
                _ => self.condemn(thread, state),
            },
            Stand::Capturing(request) => {
                let request = *request;
                match self.handler_frame(thread, &call) {
                    Some((frame, INTERRUPT_SIGNAL)) => {
                        let mut registers = frame.registers(&thread.slot);
                        self.settle_captured(thread, &mut registers, request.as_ref());
                        self.captured(thread, state, call.id, frame, registers)
                    }
                    // It was giving up its processor when the signal was sent.
                    None if request.is_some() && self.is_park(&call) => {
                        self.sent(thread, state, self.listener.answer(call.id, 0))
                    }
                    _ => self.condemn(thread, state),
                }
            }
            Stand::Commanded(batch) => {
                if self.is_expected(batch, &call) {
                    self.proceed_command(thread, state, call.id)
                } else {
                    self.finish_batch(thread, state, &call)
                }
            }
            Stand::Newborn(birth) => {
                let birth = birth.clone();
                self.while_newborn(thread, state, &call, birth)
            }
            Stand::Spawning(_) => self.while_spawning(thread, state, &call),
            // A held thread makes no calls, and a dead one no others.
            Stand::Syscall { .. }
            | Stand::Captured { .. }
            | Stand::Fresh { .. }
            | Stand::Unborn { .. }
            | Stand::Dead => self.condemn(thread, state),
        }
    }

    /// A thread that runs makes a call.
    pub fn while_running(&self, thread: &Arc<Thread>, state: &mut State, call: Notification) -> After {
        if let Some((frame, signal)) = self.handler_frame(thread, &call) {
            return self.signalled(thread, state, call.id, frame, signal);
        }
        if state.orphan {
            self.set_stand(state, Stand::Capturing(None));
            thread.process.signal(thread.tid());
            return self.sent(thread, state, self.listener.answer(call.id, errno::EINTR.to_return_value()));
        }
        let placed = self.is_placed(&call);
        let call = if placed.is_some() { Placed::as_it_came(call) } else { call };
        let rings = call.ip == self.labels.ring_ip || placed.is_some();
        if rings {
            self.spinner.rang(thread, state);
        }
        let request = SyscallRequest {
            number: u64::from(call.number.cast_unsigned()),
            arguments: call.arguments,
            ip: call.ip,
            architecture: if call.architecture == AUDIT_ARCH_X86_64 {
                Architecture::X86_64
            } else {
                Architecture::I386
            },
            hot: !self.is_stub(call.ip) && thread.slot.space.code.count(call.ip),
        };
        let direct = call.ip == self.labels.direct_ip;
        let request =
            if direct { self.direct_request(thread, state, &call).unwrap_or(request) } else { request };
        if rings || direct {
            thread.carried.begin(&thread.slot, &request);
        } else {
            thread.carried.forget_compared();
        }
        self.note_taken(thread);
        self.set_stand(state, Stand::Syscall { id: call.id, request });
        state.placed = placed;
        state.trap = Some(Trap::Syscall(request));
        After::Wake(state.waker.take())
    }

    /// A running thread took a signal: somebody wants it, or it made a fault. What it was about to do inside the stub is
    /// no business of the kernel.
    fn signalled(
        &self,
        thread: &Arc<Thread>,
        state: &mut State,
        id: u64,
        frame: Frame,
        signal: i32,
    ) -> After {
        let slot = &thread.slot;
        let fault = frame.fault(slot, signal as u8);
        match self.settle(thread, &frame.registers(slot), signal, fault.address) {
            Settled::Application(registers) => {
                state.trap =
                    Some(if signal == INTERRUPT_SIGNAL { Trap::Interrupted } else { Trap::Fault(fault) });
                self.captured(thread, state, id, frame, registers)
            }
            Settled::Inside(registers) => {
                frame.set_registers(slot, &registers, &self.template);
                self.sent(thread, state, self.listener.answer(id, crate::stub::ANSWER_RETURN))
            }
            Settled::Call(registers, request) => {
                state.trap = Some(Trap::Syscall(request));
                self.captured(thread, state, id, frame, registers)
            }
        }
    }

    /// Whether a late interrupt has brought a thread into its handler.
    pub fn is_interrupt(&self, thread: &Thread, call: &Notification) -> bool {
        matches!(self.handler_frame(thread, call), Some((_, INTERRUPT_SIGNAL)))
    }

    fn is_stub(&self, ip: u64) -> bool {
        ip >= self.geometry.code
    }

    /// The frame and signal, if this is the stub's handler reporting one that holds water.
    fn handler_frame(&self, thread: &Thread, call: &Notification) -> Option<(Frame, i32)> {
        if call.ip != self.labels.ready_ip || call.number as u64 != CALL_READY {
            return None;
        }
        let signal = i32::try_from(call.arguments[2]).ok()?;
        let known =
            [INTERRUPT_SIGNAL, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];
        // The handler reports before any command: no commands done.
        if !known.contains(&signal) || call.arguments[3] != 0 {
            return None;
        }
        Some((Frame::validate(&thread.slot, call.arguments[0], &self.template)?, signal))
    }

    /// Ends a captured thread.
    pub fn exit(&self, thread: &Arc<Thread>, state: &mut State, id: u64, frame: Frame) -> After {
        self.command(thread, state, id, frame, vec![EXIT], Purpose::Exit)
    }

    /// A thread stands in its handler, with the application's registers.
    pub fn captured(
        &self,
        thread: &Arc<Thread>,
        state: &mut State,
        id: u64,
        frame: Frame,
        registers: Registers,
    ) -> After {
        thread.slot.set_state(state.idle_word());
        if state.orphan {
            return self.exit(thread, state, id, frame);
        }
        self.set_stand(state, Stand::Captured { id, frame });
        state.registers = Some(Box::new(registers));
        After::Wake(state.waker.take())
    }

    /// Has a captured thread execute commands.
    pub fn command(
        &self,
        thread: &Arc<Thread>,
        state: &mut State,
        id: u64,
        frame: Frame,
        commands: Vec<[u64; 7]>,
        purpose: Purpose,
    ) -> After {
        let answer = match &purpose {
            Purpose::Spawn(birth) if birth.kind == SpawnKind::Copy => crate::stub::ANSWER_SPAWN_COPY,
            Purpose::Spawn(_) => crate::stub::ANSWER_SPAWN_SHARING,
            _ => commands.len() as u64,
        };
        write_commands(&thread.slot, &commands);
        let batch = Box::new(Batch { commands, proceeded: 0, frame, purpose });
        self.set_stand(state, Stand::Commanded(batch));
        self.sent(thread, state, self.listener.answer(id, answer))
    }

    /// Whether a call is exactly the next command of the batch.
    fn is_expected(&self, batch: &Batch, call: &Notification) -> bool {
        let (ip, index) = match batch.purpose {
            // The freezer makes `clone` restart itself (`ERESTARTNOINTR`): the same call again is in order.
            Purpose::Spawn(_) => (self.labels.clone_ip, 0),
            _ => (self.labels.command_ip, batch.proceeded),
        };
        batch.commands.get(index).is_some_and(|command| {
            call.ip == ip
                && call.architecture == AUDIT_ARCH_X86_64
                && u64::from(call.number.cast_unsigned()) == command[0]
                && call.arguments == command[1..]
        })
    }

    fn proceed_command(&self, thread: &Arc<Thread>, state: &mut State, id: u64) -> After {
        let Stand::Commanded(batch) = &mut state.stand else { return After::Nothing };
        batch.proceeded = (batch.proceeded + 1).min(batch.commands.len());
        if matches!(batch.purpose, Purpose::Exit) {
            self.let_exit(thread, state);
        }
        self.sent(thread, state, self.listener.proceed(id))
    }

    /// Forgets a thread that is about to execute `exit`, before its tid can be used again.
    pub fn let_exit(&self, thread: &Thread, state: &mut State) {
        self.set_stand(state, Stand::Dead);
        self.threads.remove(thread);
        // The slot's next thread is not watched.
        thread.slot.set_state(STATE_IDLE);
        thread.process.leave(thread.tid());
        thread.release_slots(state);
    }

    /// The stub says that it is done with its commands.
    fn finish_batch(&self, thread: &Arc<Thread>, state: &mut State, call: &Notification) -> After {
        let Stand::Commanded(batch) = &state.stand else { return After::Nothing };
        let [address, result, _, done, ..] = call.arguments;
        let failed = call_error(result);
        // The last command that ran either failed, and was not counted, or all were.
        let accounted = match failed {
            Some(_) => done + 1 == batch.proceeded as u64,
            None => done == batch.proceeded as u64 && batch.proceeded == batch.commands.len(),
        };
        let is_ready = call.ip == self.labels.ready_ip && call.number as u64 == CALL_READY;
        if !is_ready || !accounted || address != batch.frame.address(&thread.slot) {
            return self.condemn(thread, state);
        }
        let (frame, purpose) = (batch.frame, batch.purpose.clone());
        self.set_stand(state, Stand::Captured { id: call.id, frame });
        match purpose {
            Purpose::Memory => {
                state.outcome = Some(Outcome { done: done as usize, result });
                if state.orphan {
                    return self.exit(thread, state, call.id, frame);
                }
                After::Wake(state.waker.take())
            }
            Purpose::Spawn(birth) => match (failed, i32::try_from(result)) {
                (None, Ok(tid)) => After::Claim(birth, tid),
                (error, _) => After::Abandon(
                    birth,
                    SpawnError::Refused(error.unwrap_or(errno::EAGAIN)),
                    state.waker.take(),
                ),
            },
            Purpose::Cleanup(birth) => match failed {
                None => After::Born(birth),
                Some(_) => self.condemn(thread, state),
            },
            Purpose::Exit => self.condemn(thread, state),
        }
    }

    fn while_newborn(
        &self,
        thread: &Arc<Thread>,
        state: &mut State,
        call: &Notification,
        birth: Arc<Birth>,
    ) -> After {
        let slot = &thread.slot;
        let map = [
            slot.chunk_address(),
            self.geometry.chunk_size(),
            (libc::PROT_READ | libc::PROT_WRITE) as u64,
            (libc::MAP_SHARED | libc::MAP_FIXED) as u64,
            SLOT_FD as u64,
            slot.chunk_offset(),
        ];
        let is = |ip: u64, number: u64| {
            call.ip == ip
                && call.architecture == AUDIT_ARCH_X86_64
                && u64::from(call.number.cast_unsigned()) == number
        };
        let copy = birth.kind == SpawnKind::Copy;
        let frame = match birth.begin {
            Begin::Captured(frame) => frame,
            Begin::InCall(request) => {
                let expected = if copy {
                    is(self.labels.fresh_map_ip, libc::SYS_mmap.cast_unsigned()) && call.arguments == map
                } else {
                    let stack = slot.address + SLOT_ALTERNATE as u64;
                    is(self.labels.fresh_stack_ip, libc::SYS_sigaltstack.cast_unsigned())
                        && call.arguments[..2] == [stack, 0]
                };
                if !expected {
                    return self.condemn(thread, state);
                }
                self.set_stand(state, Stand::Fresh { id: call.id, request });
                return After::Born(birth);
            }
        };
        if copy && is(self.labels.map_ip, libc::SYS_mmap.cast_unsigned()) && call.arguments == map {
            return self.sent(thread, state, self.listener.proceed(call.id));
        }
        if !is(self.labels.born_ip, CALL_BORN) || call.arguments[0] != frame.address(slot) {
            return self.condemn(thread, state);
        }
        if birth.cleanup {
            let (low, high) = (slot.chunk_address(), slot.chunk_address() + self.geometry.chunk_size());
            let unmap = |start: u64, end: u64| [libc::SYS_munmap as u64, start, end - start, 0, 0, 0, 0];
            let commands = [(self.geometry.slots, low), (high, self.geometry.end())]
                .into_iter()
                .filter(|(start, end)| start < end)
                .map(|(start, end)| unmap(start, end))
                .collect();
            return self.command(thread, state, call.id, frame, commands, Purpose::Cleanup(birth));
        }
        self.set_stand(state, Stand::Captured { id: call.id, frame });
        After::Born(birth)
    }

    /// Registers a child whose tid its parent has just told.
    fn claim(&self, birth: &Arc<Birth>, tid: i32) -> bool {
        let process = birth.process.clone().unwrap_or_else(|| Process::new(tid, birth.slot.space.clone()));
        let child = Thread::new(tid, process.clone(), birth.slot.clone(), Stand::Newborn(birth.clone()));
        let (parked, previous, ended) = {
            let mut births = self.threads.births.lock();
            let ended = births.ended.remove(&tid) && birth.process.is_none();
            if birth.process.is_none() && !ended {
                self.threads.processes.lock().insert(tid, process.clone());
            }
            let previous = self.threads.insert(&child);
            (births.parked.remove(&tid), previous, ended)
        };
        // After the others can find it: whoever ends the process from now on buries this thread, too. If it has been ended, nobody will.
        let ended = ended || !process.enter(tid);
        let mut woken = false;
        if let Some(previous) = previous {
            // Its number is used again, so it is gone.
            woken |= self.bury(&previous);
        }
        if ended {
            woken |= self.bury(&child);
        } else if let Some(call) = parked {
            woken |= self.deliver(&child, call);
        }
        woken |= wake(birth.advance(|progress| progress.parent_back = true));
        self.forget_birth() | woken
    }

    /// One clone fewer is under way. When it was the last, nobody will claim what is still parked.
    fn forget_birth(&self) -> bool {
        let parked = {
            let mut births = self.threads.births.lock();
            births.pending = births.pending.saturating_sub(1);
            if births.pending > 0 {
                return false;
            }
            births.ended.clear();
            std::mem::take(&mut births.parked)
        };
        let mut woken = false;
        for (tid, call) in parked {
            match self.threads.get(tid) {
                Some(thread) => woken |= self.deliver(&thread, call),
                None => kill_unknown(tid),
            }
        }
        woken
    }

    /// Kills a process that broke the protocol.
    pub fn condemn(&self, thread: &Thread, state: &mut State) -> After {
        tracing::debug!(tid = thread.tid(), stand = ?state.stand, "stub protocol broken, killing the process");
        thread.process.kill();
        self.dead(state)
    }

    /// Declares a thread dead.
    pub fn dead(&self, state: &mut State) -> After {
        let waker = state.waker.take();
        match self.set_stand(state, Stand::Dead) {
            Stand::Dead => After::Nothing,
            Stand::Newborn(birth) => After::Wake(birth.advance(fail_birth)),
            Stand::Commanded(batch) => match batch.purpose {
                Purpose::Spawn(birth) => After::Abandon(birth, SpawnError::Died, waker),
                Purpose::Cleanup(birth) => After::Wake(birth.advance(fail_birth)),
                Purpose::Memory | Purpose::Exit => After::Wake(waker),
            },
            Stand::Spawning(spawning) => match spawning.what {
                Made::Told(birth) => After::Abandon(birth, SpawnError::Died, waker),
                Made::Announced(child) => After::Stillborn(child, Refused::No, waker),
            },
            _ => After::Wake(waker),
        }
    }

    /// Lets the next blank space be made, if this is the seed.
    fn release_seed(&self, thread: &Thread) -> bool {
        if thread.tid() != self.seed.tid() {
            return false;
        }
        self.blanks.seed_is_free()
    }

    /// Declares a thread dead whose host thread is gone.
    pub fn bury(&self, thread: &Arc<Thread>) -> bool {
        self.threads.remove(thread);
        let after = {
            let mut state = thread.state.lock();
            thread.release_slots(&mut state);
            self.dead(&mut state)
        };
        self.finish(thread, after)
    }

    /// After an answer: if it could not be delivered, the thread was killed.
    pub fn sent(&self, thread: &Thread, state: &mut State, result: Result<(), errno::Errno>) -> After {
        match result {
            Ok(()) => After::Nothing,
            Err(_) => self.condemn(thread, state),
        }
    }
}

const EXIT: [u64; 7] = [libc::SYS_exit as u64, 0, 0, 0, 0, 0, 0];

fn fail_birth(progress: &mut super::thread::Progress) {
    progress.error.get_or_insert(SpawnError::Refused(errno::EAGAIN));
}

/// Calls a waker, if there is one; returns whether there is.
pub fn wake(waker: Option<Waker>) -> bool {
    waker.map(Waker::wake).is_some()
}

/// Kills a stub that nobody will ever know: its parent died while making it.
fn kill_unknown(tid: i32) {
    // SAFETY: no memory is involved; the thread is blocked in a call that we have just received.
    unsafe { libc::syscall(libc::SYS_tkill, tid, libc::SIGKILL) };
}
