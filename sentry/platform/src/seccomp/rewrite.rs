//! Changing an application's code: putting patches in, and undoing them.
//!
//! The thread whose context this is stands captured; its stub makes the pages writable for a moment, the sentry
//! writes, and the stub protects them again. If other threads may run there meanwhile, the bytes are written in the order
//! that `patch` gives, and between two writes the stub has every processor that runs the program serialize itself
//! (`man 2 membarrier`, `SYNC_CORE`).
//!
//! Key type: [`Rewriting`]. Invariants: a patch is known to `code` as long as one of its bytes may be in place; what fails
//! leaves the site trapping, or the process dead, never half a jump.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as WakeContext, Poll, ready};

use super::code::Patched;
use super::context::SeccompContext;
use super::memory::protection_bits;
use super::patch::{CodeWindow, Edge, Patch, Request, WINDOW_AFTER, WINDOW_BEFORE, Write};
use super::thread::call_error;
use crate::{ARENA_SIZE, Context, Died, MemoryOperation, PatchSite, Protection, UserMemory};

const PAGE: u64 = 4096;
/// Commands of one batch, fewer than the slot has room for.
const BATCH: usize = 12;

/// A change of code under way: steps that are left, and what to do at its end.
#[derive(Debug)]
pub struct Rewriting {
    steps: VecDeque<Step>,
    /// These are out of place at the end.
    undone: Vec<Arc<Patch>>,
    /// This has to be forgotten if a step fails.
    put_in: Option<Arc<Patch>>,
    running: bool,
}

#[derive(Debug)]
enum Step {
    Commands(Vec<[u64; 7]>),
    Write(Write),
}

const MEMBARRIER_SYNC_CORE: u64 = 1 << 5;
const MEMBARRIER_REGISTER_SYNC_CORE: u64 = 1 << 6;

fn membarrier(command: u64) -> [u64; 7] {
    [libc::SYS_membarrier as u64, command, 0, 0, 0, 0, 0]
}

fn protect(range: &std::ops::Range<u64>, protection: Protection) -> [u64; 7] {
    let start = range.start & !(PAGE - 1);
    let length = range.end.next_multiple_of(PAGE) - start;
    [libc::SYS_mprotect as u64, start, length, protection_bits(protection), 0, 0, 0]
}

impl Rewriting {
    fn new() -> Self {
        Self { steps: VecDeque::new(), undone: Vec::new(), put_in: None, running: false }
    }

    fn commands(&mut self, commands: impl IntoIterator<Item = [u64; 7]>) {
        let commands: Vec<_> = commands.into_iter().collect();
        for batch in commands.chunks(BATCH) {
            self.steps.push_back(Step::Commands(batch.to_vec()));
        }
    }

    /// Writes, one after the other if others may be looking.
    fn write_code(&mut self, start: u64, bytes: &[u8], guarded: Vec<Write>, alone: bool) {
        if alone {
            self.steps.push_back(Step::Write(Write { address: start, bytes: bytes.to_vec() }));
            return;
        }
        for write in guarded {
            self.steps.push_back(Step::Write(write));
            self.commands([membarrier(MEMBARRIER_SYNC_CORE)]);
        }
    }

    fn put_in(patched: &Patched, alone: bool) -> Self {
        let mut this = Self::new();
        let patch = &patched.patch;
        let (code, trampoline) = (patch.start..patch.end(), patch.trampoline..patch.trampoline_end());
        let open = Protection { write: true, ..patched.protection };
        let closed = TRAMPOLINE_PROTECTION;
        let register = (!alone).then(|| membarrier(MEMBARRIER_REGISTER_SYNC_CORE));
        let opening = [protect(&code, open), protect(&trampoline, Protection { write: true, ..closed })];
        this.commands(register.into_iter().chain(opening));
        this.steps.push_back(Step::Write(Write { address: patch.trampoline, bytes: patch.code.clone() }));
        this.write_code(patch.start, &patch.patched, patch.writes(), alone);
        this.commands([protect(&code, patched.protection), protect(&trampoline, closed)]);
        this.put_in = Some(patch.clone());
        this
    }

    fn undo(patches: Vec<Patched>, alone: bool) -> Self {
        let mut this = Self::new();
        let range = |patched: &Patched| patched.patch.start..patched.patch.end();
        let open = |p: &Patched| protect(&range(p), Protection { write: true, ..p.protection });
        let register = (!alone).then(|| membarrier(MEMBARRIER_REGISTER_SYNC_CORE));
        this.commands(register.into_iter().chain(patches.iter().map(open)));
        for Patched { patch, .. } in &patches {
            this.write_code(patch.start, &patch.original, patch.undo_writes(), alone);
        }
        this.commands(patches.iter().map(|patched| protect(&range(patched), patched.protection)));
        this.undone = patches.into_iter().map(|patched| patched.patch).collect();
        this
    }
}

const TRAMPOLINE_PROTECTION: Protection = Protection { read: true, write: false, execute: true };

impl SeccompContext {
    /// Whether no other thread can be executing this address space's code.
    fn is_alone(&self) -> bool {
        let space = &self.thread.slot.space;
        space.code.contexts.load(Ordering::Relaxed) == 1 && self.thread.process.thread_count() == 1
    }

    /// Begins to undo the patches that operations would tear apart.
    pub(super) fn undo_for(&mut self, operations: &[MemoryOperation<'_>]) {
        let code = &self.thread.slot.space.code;
        if operations
            .iter()
            .any(|operation| matches!(operation, MemoryOperation::SetGsBase(base) if *base != 0))
        {
            code.disable();
        }
        let patches = code.undone_by(operations);
        if !patches.is_empty() {
            self.rewriting = Some(Rewriting::undo(patches, self.is_alone()));
        }
    }

    /// Carries a change of code on, if one is under way.
    pub(super) fn poll_rewriting(&mut self, wake: &mut WakeContext<'_>) -> Poll<Result<(), Died>> {
        while let Some(mut rewriting) = self.rewriting.take() {
            let result = self.poll_step(wake, &mut rewriting);
            match result {
                Poll::Pending => {
                    self.rewriting = Some(rewriting);
                    return Poll::Pending;
                }
                Poll::Ready(Err(Died)) => return Poll::Ready(Err(Died)),
                Poll::Ready(Ok(Progress::More)) => self.rewriting = Some(rewriting),
                Poll::Ready(Ok(Progress::Over)) => {}
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_step(
        &mut self,
        wake: &mut WakeContext<'_>,
        rewriting: &mut Rewriting,
    ) -> Poll<Result<Progress, Died>> {
        if rewriting.running {
            let outcome = ready!(self.poll_commands(wake))?;
            rewriting.running = false;
            if let Some(errno) = call_error(outcome.result) {
                tracing::debug!(%errno, "patched code cannot be changed");
                return Poll::Ready(self.give_up(rewriting));
            }
        }
        match rewriting.steps.pop_front() {
            Some(Step::Commands(commands)) => {
                self.start_commands(wake, commands)?;
                rewriting.running = true;
                Poll::Ready(Ok(Progress::More))
            }
            Some(Step::Write(write)) => {
                if self.memory.write(write.address, &write.bytes) == Ok(write.bytes.len()) {
                    Poll::Ready(Ok(Progress::More))
                } else {
                    Poll::Ready(self.give_up(rewriting))
                }
            }
            None => {
                for patch in rewriting.undone.drain(..) {
                    self.thread.slot.space.code.retire(patch.start);
                }
                Poll::Ready(Ok(Progress::Over))
            }
        }
    }

    /// A step has failed. Before the first byte was changed that is harmless; later there is no way on.
    fn give_up(&mut self, rewriting: &mut Rewriting) -> Result<Progress, Died> {
        let untouched = rewriting.steps.iter().filter(|step| matches!(step, Step::Write(_))).count() > 1;
        match rewriting.put_in.take() {
            Some(patch) if untouched => {
                self.thread.slot.space.code.forget(&patch);
                Ok(Progress::Over)
            }
            _ => {
                self.kill();
                Err(Died)
            }
        }
    }

    /// See [`Context::poll_patch`].
    pub(super) fn poll_patching(
        &mut self,
        wake: &mut WakeContext<'_>,
        site: &PatchSite,
    ) -> Poll<Result<(), Died>> {
        if !self.patching {
            ready!(self.poll_capture(wake))?;
            if let Some(base) = site.arena {
                let (address, length) = (base, ARENA_SIZE);
                let protection = TRAMPOLINE_PROTECTION;
                let map = MemoryOperation::MapAnonymous { address, length, protection, reserve: false };
                match ready!(self.poll_memory(wake, &[map])) {
                    Ok(()) => self.thread.slot.space.code.add_arena(base),
                    Err(crate::MemoryError::Died) => return Poll::Ready(Err(Died)),
                    Err(crate::MemoryError::Refused { .. }) => return Poll::Ready(Ok(())),
                }
            }
            match self.plan(site) {
                Some(patched) => {
                    self.rewriting = Some(Rewriting::put_in(&patched, self.is_alone()));
                    self.patching = true;
                }
                None => return Poll::Ready(Ok(())),
            }
        }
        let result = ready!(self.poll_rewriting(wake));
        self.patching = false;
        Poll::Ready(result)
    }

    fn plan(&self, site: &PatchSite) -> Option<Patched> {
        let address = site.ip.checked_sub(2)?;
        let start = address.saturating_sub(WINDOW_BEFORE).max(site.mapping.start);
        let end = address.saturating_add(WINDOW_AFTER).min(site.mapping.end);
        let mut bytes = vec![0; usize::try_from(end.checked_sub(start)?).ok()?];
        let length = self.memory.read(start, &mut bytes).ok()?;
        let request = Request {
            code: CodeWindow { start, bytes: &bytes[..length], begins: Edge::Cut },
            site: address,
            number: site.number,
            stub_entry: self.core.labels.enter,
        };
        let planned = self.thread.slot.space.code.plan(&request, site.protection);
        planned.inspect_err(|refusal| tracing::debug!(address, %refusal, "a hot site stays as it is")).ok()
    }
}

/// Whether a change of code is over.
enum Progress {
    More,
    Over,
}
