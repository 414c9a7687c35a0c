//! The kernel's side of one application thread: [`Context`] over a [`Thread`].
//!
//! Key type: [`SeccompContext`]. Operations that need several round
//! trips are carried on by `dispatch`; polling only starts them and fetches their results.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as WakeContext, Poll, Waker, ready};

use abi::errno;

use super::Core;
use super::birth::{BirthHandle, child_space, start_birth};
use super::deep;
use super::dispatch::After;
use super::frame::Frame;
use super::job::MemoryJob;
use super::lent::{Lent, Owner};
use super::memory::{Memory, is_exit, is_native_allowed, substitute_command};
use super::outbox::Answer;
use super::rewrite::Rewriting;
use super::slots::{NewChunk, Slot};
use super::thread::{Outcome, Place, Purpose, Stand, State, Thread, call_error};
use super::unborn::{Announcement, Refused};
use crate::stub::{ANSWER_SLOT, SLOT_FACTS, SLOT_FD, SLOT_RESULT, STATE_SUBSTITUTE, STATE_TRANSFER};
use crate::{
    Architecture, Context, Died, Facts, Interrupter, MemoryError, MemoryOperation, OwnWords, PatchSite,
    Registers, Resume, Spawn, SpawnError, SpawnHere, SpawnKind, Substitute, SyscallRequest, TakeBack, Trap,
    UserMemory,
};

/// Bit of a fact in a slot: it may be reported, as the other 63, the highest of which is a sign.
const FACT_VALID: u64 = 1 << 63;

/// One application thread.
pub struct SeccompContext {
    pub(super) core: Arc<Core>,
    pub(super) thread: Arc<Thread>,
    /// Boxed, because most threads most of the time are not captured.
    captured: Option<Box<Registers>>,
    pub(super) memory: Arc<Memory>,
    interrupter: Arc<ThreadInterrupter>,
    /// Commands are under way for `poll_memory` or for a new chunk.
    pub(super) commanded: bool,
    job: Option<MemoryJob>,
    new_chunk: Option<NewChunk>,
    birth: Option<BirthHandle>,
    /// A thread that is to be made in the place of the trapped call.
    announcement: Option<Box<Announcement>>,
    /// The descriptor that was lent for the trapped call.
    lent: Option<u64>,
    /// Patched code is being changed.
    pub(super) rewriting: Option<Rewriting>,
    /// A [`Context::poll_patch`] under way.
    pub(super) patching: bool,
}

impl SeccompContext {
    /// A context for a thread that is captured, with these registers, or held in a call.
    pub fn new(core: &Arc<Core>, thread: Arc<Thread>, registers: Option<Registers>) -> Box<Self> {
        thread.process.contexts.fetch_add(1, Ordering::Relaxed);
        thread.slot.space.code.contexts.fetch_add(1, Ordering::Relaxed);
        Box::new(Self {
            core: core.clone(),
            captured: registers.map(Box::new),
            memory: Arc::new(Memory { thread: thread.clone(), max_address: core.layout.max_address }),
            interrupter: Arc::new(ThreadInterrupter(thread.clone())),
            thread,
            commanded: false,
            job: None,
            new_chunk: None,
            birth: None,
            announcement: None,
            lent: None,
            rewriting: None,
            patching: false,
        })
    }

    fn child_context(
        &self,
        child: Arc<Thread>,
        kind: SpawnKind,
        registers: Option<Registers>,
    ) -> Box<dyn Context> {
        if kind != SpawnKind::Thread {
            child.process.lent.extend(self.thread.process.lent.copy_for(Owner::of(&child)));
        }
        Self::new(&self.core, child, registers)
    }

    /// Whose the descriptors are that this thread was lent.
    pub(super) fn owner(&self) -> Owner {
        Owner::of(&self.thread)
    }

    /// Puts a file into the process, for the trapped call. `place`: in the place of what; otherwise where there is room.
    fn install(
        &mut self,
        id: u64,
        file: BorrowedFd<'_>,
        place: Option<u64>,
        identity: Option<u64>,
    ) -> Option<u64> {
        let place = place.map(u32::try_from).transpose().ok()?;
        let number = self.core.install(&self.thread, id, file, place).ok()?;
        self.thread.process.lent.put(Lent { number, identity, writable: false, owner: self.owner() });
        Some(number)
    }

    /// Whether other threads have the process's descriptors, too.
    fn has_others(&self) -> bool {
        self.thread.process.contexts.load(Ordering::Acquire) > 1
    }

    /// Whether the thread is held in a call that it has made itself, in the usual way.
    fn is_own(&self, state: &State) -> bool {
        let usual = |request: &SyscallRequest| {
            // A site that is hot is to be patched, for which the thread has to be captured anyway.
            request.architecture == Architecture::X86_64
                && request.ip < self.core.geometry.code
                && !request.hot
        };
        self.captured.is_none() && matches!(&state.stand, Stand::Syscall { request, .. } if usual(request))
    }

    /// The notification that the thread is held in by its call, which will not be left for another wait until the thread is resumed.
    fn hold(&self) -> Option<u64> {
        let mut state = self.thread.state.lock();
        let Stand::Syscall { id, .. } = state.stand else { return None };
        state.to_be_held = true;
        Some(id)
    }

    fn after(&self, after: After) {
        self.core.finish(&self.thread, after);
    }

    /// Loads the captured registers, or reports the interrupt that came while the thread was held.
    fn load(&mut self, state: &mut State, id: u64, frame: Frame) -> After {
        if std::mem::take(&mut state.interrupted) {
            state.trap = Some(Trap::Interrupted);
            state.registers = self.captured.take();
            return After::Wake(state.waker.take());
        }
        if let Some(registers) = self.captured.take() {
            let registers = self.core.unsettle(&self.thread, &registers);
            frame.set_registers(&self.thread.slot, &registers, &self.core.template);
        }
        self.core.set_stand(state, Stand::Running);
        state.heat.resumed();
        self.core.sent(&self.thread, state, self.core.listener.answer(id, crate::stub::ANSWER_RETURN))
    }

    fn resume_native(&mut self, state: &mut State, id: u64, request: crate::SyscallRequest) -> After {
        let lent = self.lent.take();
        let core = &self.core;
        self.thread.carried.finish(&self.thread.slot);
        if !is_native_allowed(&request, &core.layout, lent) {
            core.set_stand(state, Stand::Running);
            core.keep_answer(&self.thread, Answer::Value(id, errno::EINVAL.to_return_value()));
            return After::Nothing;
        }
        if is_exit(&request) {
            core.let_exit(&self.thread, state);
            // If this fails, the thread has died already, which is what was wanted.
            let _ = core.listener.proceed(id);
            return After::Nothing;
        }
        self.thread.expect_again(&request);
        core.set_stand(state, Stand::Running);
        state.heat.resumed();
        core.keep_answer(&self.thread, Answer::Proceed(id));
        After::Nothing
    }

    /// The frame, if captured.
    fn frame(&self) -> Result<Frame, Died> {
        match self.thread.state.lock().stand {
            Stand::Captured { frame, .. } => Ok(frame),
            _ => Err(Died),
        }
    }

    /// Has the captured thread execute commands.
    pub(super) fn start_commands(
        &mut self,
        wake: &WakeContext<'_>,
        commands: Vec<[u64; 7]>,
    ) -> Result<(), Died> {
        let mut state = self.thread.state.lock();
        let Stand::Captured { id, frame } = state.stand else { return Err(Died) };
        set_waker(&mut state.waker, wake);
        state.outcome = None;
        let after = self.core.command(&self.thread, &mut state, id, frame, commands, Purpose::Memory);
        drop(state);
        self.commanded = true;
        self.after(after);
        Ok(())
    }

    /// How the commands ended.
    pub(super) fn poll_commands(&mut self, wake: &WakeContext<'_>) -> Poll<Result<Outcome, Died>> {
        let mut state = self.thread.state.lock();
        let result = match (state.outcome.take(), &state.stand) {
            (Some(outcome), _) => Ok(outcome),
            (None, Stand::Dead) => Err(Died),
            (None, _) => {
                set_waker(&mut state.waker, wake);
                return Poll::Pending;
            }
        };
        self.commanded = false;
        Poll::Ready(result)
    }

    /// The id of the notification that holds the captured thread.
    pub(super) fn held_id(&self) -> Result<u64, Died> {
        match self.thread.state.lock().stand {
            Stand::Captured { id, .. } => Ok(id),
            _ => Err(Died),
        }
    }

    /// A slot in this address space for a child, mapping a new chunk if need be.
    fn poll_slot(&mut self, wake: &mut WakeContext<'_>) -> Poll<Result<Slot, SpawnError>> {
        let space = self.thread.slot.space.clone();
        loop {
            if let Some(chunk) = self.new_chunk {
                let outcome = ready!(self.poll_commands(wake));
                self.new_chunk = None;
                let error = match outcome {
                    Ok(outcome) => call_error(outcome.result).map(SpawnError::Refused),
                    Err(Died) => Some(SpawnError::Died),
                };
                space.chunk_mapped(chunk, error.is_none());
                if let Some(error) = error {
                    return Poll::Ready(Err(error));
                }
            }
            if let Some(slot) = space.take_slot() {
                return Poll::Ready(Ok(slot));
            }
            let chunk = match space.add_chunk() {
                Ok(chunk) => chunk,
                Err(errno) => return Poll::Ready(Err(SpawnError::Refused(errno))),
            };
            let size = self.core.geometry.chunk_size();
            let protection = (libc::PROT_READ | libc::PROT_WRITE) as u64;
            let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
            let map =
                [libc::SYS_mmap as u64, chunk.address, size, protection, flags, SLOT_FD as u64, chunk.offset];
            if self.start_commands(wake, vec![map]).is_err() {
                space.chunk_mapped(chunk, false);
                return Poll::Ready(Err(SpawnError::Died));
            }
            self.new_chunk = Some(chunk);
        }
    }
}

pub(super) fn set_waker(place: &mut Option<Waker>, wake: &WakeContext<'_>) {
    match place {
        Some(waker) if waker.will_wake(wake.waker()) => {}
        _ => *place = Some(wake.waker().clone()),
    }
}

impl Context for SeccompContext {
    fn resume(&mut self, how: Resume) {
        let thread = self.thread.clone();
        let mut state = thread.state.lock();
        if !matches!(state.stand, Stand::Dead) {
            // What a dead one is told last, it is told again.
            state.trap = None;
        }
        state.to_be_held = false;
        let after = match (how, &state.stand) {
            (Resume::Return(value), Stand::Syscall { id, request }) => {
                let (id, request) = (*id, *request);
                thread.pass_interrupt(&mut state);
                thread.carried.finish(&thread.slot);
                let value = if request.ip == self.core.labels.direct_ip {
                    thread.slot.leave_arguments(&request.arguments);
                    thread.slot.set_word(SLOT_RESULT, value);
                    ANSWER_SLOT
                } else {
                    value
                };
                if self.core.rings(&state) {
                    deep::return_even_the_mark(&thread, &request, value);
                }
                self.core.set_stand(&mut state, Stand::Running);
                state.heat.resumed();
                self.core.keep_answer(&thread, Answer::Value(id, value));
                return;
            }
            (Resume::Return(value), Stand::Asking { place: Place::Deep, .. }) => {
                self.core.answer_deep(&thread, &mut state, value);
                After::Nothing
            }
            (Resume::Return(value), Stand::Sinking { request, answer: None }) => {
                state.stand = Stand::Sinking { request: *request, answer: Some(value) };
                After::Nothing
            }
            (Resume::Return(_), Stand::Fresh { id, .. }) => {
                let id = *id;
                thread.pass_interrupt(&mut state);
                self.core.set_stand(&mut state, Stand::Running);
                state.heat.resumed();
                self.core.keep_answer(&thread, Answer::Proceed(id));
                After::Nothing
            }
            (Resume::Return(0), Stand::Unborn { request, .. }) => {
                state.stand = Stand::Unborn { request: *request, resumed: true };
                return;
            }
            (Resume::Spawn(result), Stand::Syscall { .. }) => match self.announcement.take() {
                Some(announcement) => self.core.make(&thread, &mut state, *announcement, result),
                None => self.core.condemn(&thread, &mut state),
            },
            (Resume::Return(value), Stand::Asking { place, .. }) => {
                let place = *place;
                self.core.answer_request(&thread, &mut state, place, value)
            }
            (Resume::Native, Stand::Syscall { id, request }) => {
                let (id, request) = (*id, *request);
                thread.pass_interrupt(&mut state);
                self.resume_native(&mut state, id, request)
            }
            (Resume::Substitute { operation, result }, Stand::Syscall { id, .. }) => {
                let id = *id;
                let rings = self.core.rings(&state);
                self.thread.expect_more(&state, &operation);
                let is_transfer = matches!(operation, Substitute::Read { .. } | Substitute::Write { .. });
                let how = if is_transfer { STATE_TRANSFER } else { STATE_SUBSTITUTE };
                match substitute_command(&operation, self.lent.take(), &self.core.layout) {
                    Ok(command) if rings && state.placed.is_some_and(|placed| placed.is(id, &command)) => {
                        self.core.let_map_there(&thread, &mut state, id)
                    }
                    Ok(command) if rings || !is_transfer && self.is_own(&state) => {
                        self.core.substitute(&thread, &mut state, command, result, rings.then_some(how))
                    }
                    _ => self.core.condemn(&thread, &mut state),
                }
            }
            (Resume::Return(value), Stand::Captured { id, frame }) => {
                let (id, frame) = (*id, *frame);
                if let Some(registers) = &mut self.captured {
                    registers.rax = value;
                }
                self.load(&mut state, id, frame)
            }
            (Resume::Registers, Stand::Captured { id, frame }) => {
                let (id, frame) = (*id, *frame);
                self.load(&mut state, id, frame)
            }
            (_, Stand::Dead) => After::Nothing,
            (how, stand) => {
                tracing::error!(?how, ?stand, "resume does not fit where the thread stands; killing it");
                thread.process.kill();
                self.core.dead(&mut state)
            }
        };
        drop(state);
        self.after(after);
    }

    fn poll_trap(&mut self, wake: &mut WakeContext<'_>) -> Poll<Trap> {
        let mut state = self.thread.state.lock();
        if matches!(state.stand, Stand::Dead) {
            let unborn = matches!(state.trap, Some(Trap::Unborn));
            return Poll::Ready(if unborn { Trap::Unborn } else { Trap::Died });
        }
        match state.trap.take() {
            Some(trap) => {
                self.captured = state.registers.take();
                Poll::Ready(trap)
            }
            None => {
                set_waker(&mut state.waker, wake);
                Poll::Pending
            }
        }
    }

    fn poll_capture(&mut self, wake: &mut WakeContext<'_>) -> Poll<Result<(), Died>> {
        if self.captured.is_some() && !self.commanded {
            return Poll::Ready(Ok(()));
        }
        let thread = self.thread.clone();
        let mut state = thread.state.lock();
        match &state.stand {
            Stand::Dead => return Poll::Ready(Err(Died)),
            Stand::Captured { .. } => {
                if let Some(registers) = state.registers.take() {
                    self.captured = Some(registers);
                }
                return Poll::Ready(Ok(()));
            }
            Stand::Fresh { id, request } => {
                let (id, request) = (*id, *request);
                set_waker(&mut state.waker, wake);
                self.core.set_stand(&mut state, Stand::Capturing(Some(request)));
                let sent = self.core.signal_and_send(&thread, &state, || self.core.listener.proceed(id));
                let after = self.core.sent(&thread, &mut state, sent);
                drop(state);
                self.after(after);
            }
            Stand::Syscall { id, request } => {
                let (id, number, displaced) = (*id, request.number, self.core.displaced(request));
                set_waker(&mut state.waker, wake);
                self.core.withdraw_carried(&thread);
                self.core.set_stand(&mut state, Stand::Capturing(displaced));
                let answer = || self.core.listener.answer(id, number);
                let sent = self.core.signal_and_send(&thread, &state, answer);
                let after = self.core.sent(&thread, &mut state, sent);
                drop(state);
                self.after(after);
            }
            Stand::Sinking { answer: None, .. } => {
                set_waker(&mut state.waker, wake);
                // The signal is on its way already.
                self.core.set_stand(&mut state, Stand::Capturing(None));
            }
            Stand::Asking { request, place } => {
                let (request, place) = (*request, *place);
                set_waker(&mut state.waker, wake);
                self.core.withdraw_carried(&thread);
                self.core.set_stand(&mut state, Stand::Capturing(Some(request)));
                thread.process.signal(thread.tid());
                if let Place::Parked(id) = place {
                    let after = self.core.sent(&thread, &mut state, self.core.listener.answer(id, 0));
                    drop(state);
                    self.after(after);
                }
            }
            _ => set_waker(&mut state.waker, wake),
        }
        Poll::Pending
    }

    fn registers(&mut self) -> Option<&mut Registers> {
        self.captured.as_deref_mut()
    }

    fn fp_state(&mut self) -> Result<Vec<u8>, Died> {
        Ok(self.frame()?.fp_state(&self.thread.slot, &self.core.template))
    }

    fn set_fp_state(&mut self, state: Option<&[u8]>) -> Result<(), Died> {
        self.frame()?.set_fp_state(&self.thread.slot, state, &self.core.template);
        Ok(())
    }

    fn poll_memory(
        &mut self,
        wake: &mut WakeContext<'_>,
        operations: &[MemoryOperation<'_>],
    ) -> Poll<Result<(), MemoryError>> {
        if !self.commanded && self.rewriting.is_none() {
            if ready!(self.poll_capture(wake)).is_err() {
                return Poll::Ready(Err(MemoryError::Died));
            }
            if self.job.is_none() {
                self.undo_for(operations);
            }
        }
        if ready!(self.poll_rewriting(wake)).is_err() {
            return Poll::Ready(Err(MemoryError::Died));
        }
        let lent = &self.thread.process.lent;
        let mut job = self.job.take().unwrap_or_else(|| MemoryJob::closing(lent.take(self.owner())));
        let result = self.poll_job(wake, &mut job, operations);
        if result.is_pending() {
            self.job = Some(job);
        }
        result
    }

    fn poll_spawn(
        &mut self,
        wake: &mut WakeContext<'_>,
        spawn: &Spawn,
    ) -> Poll<Result<Box<dyn Context>, SpawnError>> {
        if !self.commanded && self.birth.is_none() && ready!(self.poll_capture(wake)).is_err() {
            return Poll::Ready(Err(SpawnError::Died));
        }
        if self.birth.is_none() {
            let slot = match spawn.kind {
                SpawnKind::Copy => child_space(&self.core, &self.thread.slot).map_err(SpawnError::Refused),
                SpawnKind::Thread | SpawnKind::SharedSpace => ready!(self.poll_slot(wake)),
            };
            let slot = match slot {
                Ok(slot) => slot,
                Err(error) => return Poll::Ready(Err(error)),
            };
            match start_birth(&self.core, &self.thread, spawn.kind, slot, spawn.fs_base) {
                Ok(birth) => self.birth = Some(birth),
                Err(Died) => return Poll::Ready(Err(SpawnError::Died)),
            }
        }
        let Some(birth) = &self.birth else { return Poll::Ready(Err(SpawnError::Died)) };
        let result = ready!(birth.poll(wake));
        self.birth = None;
        Poll::Ready(result.map(|child| self.child_context(child, spawn.kind, Some(spawn.registers))))
    }

    fn begin_thread(&mut self, spawn: &SpawnHere) -> Option<Box<dyn Context>> {
        if spawn.kind != SpawnKind::Thread || self.captured.is_some() || self.announcement.is_some() {
            return None;
        }
        let announcement = self.core.announce(&self.thread, spawn)?;
        let child = announcement.child.clone();
        self.announcement = Some(Box::new(announcement));
        Some(self.child_context(child, spawn.kind, None))
    }

    fn poll_spawn_here(
        &mut self,
        wake: &mut WakeContext<'_>,
        spawn: &SpawnHere,
    ) -> Poll<Option<Result<Box<dyn Context>, SpawnError>>> {
        if self.birth.is_none() {
            let is_process = spawn.kind != SpawnKind::Thread;
            if !is_process || self.captured.is_some() || !self.core.rings(&self.thread.state.lock()) {
                return Poll::Ready(None);
            }
            match self.core.start_spawn(&self.thread, spawn) {
                Some(Ok(birth)) => self.birth = Some(birth),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let Some(birth) = &self.birth else { return Poll::Ready(None) };
        let result = ready!(birth.poll(wake));
        self.birth = None;
        Poll::Ready(Some(result.map(|child| self.child_context(child, spawn.kind, None))))
    }

    fn arena_wanted(&self, code: Range<u64>) -> Vec<Range<u64>> {
        self.thread.slot.space.code.arena_wanted(&code)
    }

    fn poll_patch(&mut self, wake: &mut WakeContext<'_>, site: &PatchSite) -> Poll<Result<(), Died>> {
        self.poll_patching(wake, site)
    }

    fn is_patched(&self, range: Range<u64>) -> bool {
        self.thread.slot.space.code.touches(&range)
    }

    fn go_on(&mut self) {
        self.thread.carried.go_on();
    }

    fn lend(&mut self, number: u64, file: BorrowedFd<'_>, identity: u64) -> bool {
        let lent = &self.thread.process.lent;
        if self.has_others()
            || number == SLOT_FD.cast_unsigned().into()
            || !lent.may_put(self.owner(), number)
        {
            return false;
        }
        let there = lent.find(self.owner(), number).is_some_and(|there| there.identity == Some(identity));
        let Some(id) = self.hold() else { return false };
        if !there && self.install(id, file, Some(number), Some(identity)).is_none() {
            return false;
        }
        self.lent = Some(number);
        true
    }

    fn lend_privately(&mut self, file: BorrowedFd<'_>, identity: u64) -> Option<u64> {
        if !self.may_read_instead() {
            return None;
        }
        let place = self.thread.process.lent.place_for(self.owner(), identity)?;
        let id = self.hold()?;
        let number = match place {
            Ok(number) => number,
            Err(place) => self.install(id, file, place, Some(identity))?,
        };
        self.lent = Some(number);
        self.lent
    }

    fn lent_for_writing(&mut self) {
        self.thread.process.lent.mark_writable(self.owner(), self.lent);
    }

    fn take_back(&mut self, number: u64, identity: Option<u64>) -> TakeBack {
        let (lent, owner) = (&self.thread.process.lent, self.owner());
        let there = lent.find(owner, number);
        // While there are others, numbers are the process's concern, and not the application's.
        if self.has_others() {
            let has_to = there.is_some_and(|there| there.writable)
                || identity.is_some_and(|identity| lent.has_file(owner, identity));
            return if has_to { TakeBack::Commands } else { TakeBack::Nothing };
        }
        let Some(there) = there else { return TakeBack::Nothing };
        if self.hold().is_some() {
            lent.remove(owner, number);
            self.lent = Some(number);
            return TakeBack::Native;
        }
        if there.writable { TakeBack::Commands } else { TakeBack::Nothing }
    }

    fn is_held(&self) -> bool {
        !matches!(self.thread.state.lock().stand, Stand::Asking { place: Place::Slot | Place::Deep, .. })
    }

    fn may_substitute(&self) -> bool {
        let state = self.thread.state.lock();
        self.core.rings(&state) || self.is_own(&state)
    }

    fn may_read_instead(&self) -> bool {
        let state = self.thread.state.lock();
        matches!(state.stand, Stand::Syscall { request, .. } if request.ip == self.core.labels.ring_ip)
    }

    fn is_again(&self, request: &SyscallRequest) -> bool {
        request.ip == self.core.labels.again_ip && request.architecture == Architecture::X86_64
    }

    fn lend_anywhere(&mut self, file: BorrowedFd<'_>) -> Option<u64> {
        let Stand::Syscall { id, .. } = self.thread.state.lock().stand else { return None };
        // In the place of one that is needed no more.
        let place = self.thread.process.lent.spare(self.owner());
        self.lent = Some(self.install(id, file, place, None)?);
        self.lent
    }

    fn set_facts(&mut self, facts: Option<&Facts>) {
        let slot = &self.thread.slot;
        let words = facts.map(|f| [f.pid, f.tid, f.uid, f.gid, f.euid, f.egid]);
        for index in 0..6 {
            let word = words.map_or(0, |words| u64::from(words[index]) | FACT_VALID);
            slot.set_word(SLOT_FACTS + index * 8, word);
        }
        let refusal = facts.map_or(0, |_| errno::ENOSYS.to_return_value() | FACT_VALID);
        slot.set_word(SLOT_FACTS + 6 * 8, refusal);
    }

    fn own_words(&self) -> Arc<dyn OwnWords> {
        self.thread.words.clone()
    }

    fn interrupter(&self) -> Arc<dyn Interrupter> {
        self.interrupter.clone()
    }

    fn memory(&self) -> Arc<dyn UserMemory> {
        self.memory.clone()
    }

    fn cpu_time_ns(&self) -> (u64, u64) {
        (self.core.cpu_time_ns(&self.thread), 0)
    }

    fn kill(&mut self) {
        self.core.kill_aside(&self.thread.process);
        let after = self.core.dead(&mut self.thread.state.lock());
        self.after(after);
    }
}

impl Drop for SeccompContext {
    fn drop(&mut self) {
        if let Some(announcement) = self.announcement.take() {
            self.core.stillborn(&announcement.child, Refused::Yes);
        }
        let thread = self.thread.clone();
        let last = thread.process.contexts.fetch_sub(1, Ordering::AcqRel) == 1;
        thread.slot.space.code.contexts.fetch_sub(1, Ordering::Relaxed);
        let mut state = thread.state.lock();
        thread.process.lent.leave(self.owner(), matches!(state.stand, Stand::Dead));
        if matches!(state.stand, Stand::Dead) {
            if last {
                thread.process.kill_if_threads_remain();
            }
            return;
        }
        state.waker = None;
        let after = if last {
            thread.process.kill();
            self.core.dead(&mut state)
        } else {
            self.core.orphan(&thread, &mut state)
        };
        drop(state);
        self.after(after);
    }
}

/// Interrupts a thread.
#[derive(Debug)]
struct ThreadInterrupter(Arc<Thread>);

impl Interrupter for ThreadInterrupter {
    fn interrupt(&self) {
        let mut state = self.0.state.lock();
        match state.stand {
            Stand::Running => self.0.process.signal(self.0.tid()),
            Stand::Dead => {}
            _ => state.interrupted = true,
        }
    }
}
