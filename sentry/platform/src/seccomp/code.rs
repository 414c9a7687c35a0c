//! The patched code of one application address space: which sites, where their trampolines are, and what to make of a
//! thread that stands in either.
//!
//! Key types: [`Code`] (one per `Space`), [`Patched`]. Neighbours: `patch` (the pure logic), `rewrite` (who writes
//! the bytes). Invariant: a patch is known here from before its first byte is written until after its last is undone; then
//! its trampoline stays where it is, because threads may still come back to it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::counts::TrapCounts;
use super::patch::{self, Arena, Patch, Sites};
use crate::{ARENA_SIZE, MemoryOperation, Protection};

/// Most arenas of an address space.
const MOST_ARENAS: usize = 16;
/// How far a `jmp rel32` reaches, with room to spare for an arena.
const REACH: u64 = (2 << 30) - (1 << 20);
/// Retired patches that are remembered, for threads that may still be in their trampolines.
const MOST_RETIRED: usize = 1024;
/// How often a site must trap before it is patched: patching costs about as much as so many traps.
pub const HOT: u8 = 16;

/// See the module's documentation.
#[derive(Debug)]
pub struct Code {
    enabled: AtomicBool,
    /// How often a site must trap to be worth patching.
    hot: u8,
    /// Threads that may execute it.
    pub contexts: AtomicUsize,
    /// Whether any site was ever patched.
    any: AtomicBool,
    inner: Mutex<Inner>,
    counts: Mutex<TrapCounts>,
}

#[derive(Clone, Debug, Default)]
struct Inner {
    sites: Sites,
    /// Protections of the patched code, by start.
    protections: std::collections::BTreeMap<u64, Protection>,
    retired: VecDeque<Arc<Patch>>,
    arenas: Vec<Arena>,
}

/// A patch to be put in or undone, and its code's protection.
#[derive(Clone, Debug)]
pub struct Patched {
    /// What and where.
    pub patch: Arc<Patch>,
    /// How its pages are to be protected again.
    pub protection: Protection,
}

impl Code {
    /// Nothing is patched. `enabled` false: nothing ever will be. `hot`: how often a site must trap first.
    pub fn new(enabled: bool, hot: u8) -> Self {
        Self {
            enabled: AtomicBool::new(enabled),
            hot,
            contexts: AtomicUsize::new(0),
            any: AtomicBool::new(false),
            inner: Mutex::default(),
            counts: Mutex::default(),
        }
    }

    /// That of a copy of the address space.
    pub fn copy(&self) -> Self {
        let copy = Self::new(self.is_enabled(), self.hot);
        copy.any.store(self.any.load(Ordering::Acquire), Ordering::Release);
        *copy.inner.lock() = self.inner.lock().clone();
        // Else what only short-lived copies call would never be patched.
        *copy.counts.lock() = self.counts.lock().clone();
        copy
    }

    /// Whether sites may be patched.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// No more patches: the application uses the register that the stub needs.
    pub fn disable(&self) {
        self.enabled.store(false, Ordering::Relaxed);
    }

    /// Counts a trap at a site (the address behind the instruction). Whether patching it should be tried now.
    pub fn count(&self, ip: u64) -> bool {
        if !self.is_enabled() {
            return false;
        }
        let count = self.counts.lock().count(ip);
        // Patching may have to wait for a better moment, but not be tried for ever.
        count.is_multiple_of(self.hot) && (count / self.hot).is_power_of_two()
    }

    /// Where an arena for this code would have to be, the best places first; empty if there is one already, or can be no
    /// more.
    pub fn arena_wanted(&self, code: &Range<u64>) -> Vec<Range<u64>> {
        let inner = self.inner.lock();
        let reach = code.end.saturating_sub(REACH)..code.start.saturating_add(REACH);
        let is_near = |range: &Range<u64>| reach.start <= range.start && range.end <= reach.end;
        if inner.arenas.iter().any(|arena| is_near(&arena.range())) || inner.arenas.len() >= MOST_ARENAS {
            return Vec::new();
        }
        let below = reach.start..code.start;
        Arena::good_ranges(code.clone()).filter(is_near).chain([below, reach.clone()]).collect()
    }

    /// Adds an arena.
    pub fn add_arena(&self, base: u64) {
        self.inner.lock().arenas.push(Arena::new(base, ARENA_SIZE));
    }

    /// Forgets a patch of which nothing was written.
    pub fn forget(&self, patch: &Patch) {
        let mut inner = self.inner.lock();
        inner.protections.remove(&patch.start);
        if inner.sites.remove(patch.start).is_some() {
            for arena in inner.arenas.iter_mut().filter(|arena| arena.range().contains(&patch.trampoline)) {
                arena.release(patch);
            }
        }
    }

    /// Plans a patch and registers it.
    pub fn plan(
        &self,
        request: &patch::Request<'_>,
        protection: Protection,
    ) -> Result<Patched, patch::Refusal> {
        let mut inner = self.inner.lock();
        let Inner { sites, arenas, .. } = &mut *inner;
        let mut result = Err(patch::Refusal::NoPlace);
        for arena in arenas {
            result = patch::plan(request, sites, arena);
            match &result {
                Err(refusal) if refusal.depends_on_arena() => {}
                _ => break,
            }
        }
        let patch = inner.sites.insert(result?).map_err(|_| patch::Refusal::Overlaps)?;
        inner.protections.insert(patch.start, protection);
        self.any.store(true, Ordering::Release);
        Ok(Patched { patch, protection })
    }

    /// Forgets a patch whose bytes are not there (any more), but for threads in its trampoline.
    pub fn retire(&self, start: u64) {
        let mut inner = self.inner.lock();
        inner.protections.remove(&start);
        if let Some(patch) = inner.sites.remove(start) {
            inner.retired.push_back(patch);
            if inner.retired.len() > MOST_RETIRED {
                inner.retired.pop_front();
            }
        }
    }

    /// Where a thread that stands inside the replaced bytes goes on.
    pub fn resume_at(&self, rip: u64) -> Option<u64> {
        self.any.load(Ordering::Acquire).then(|| self.inner.lock().sites.resume_at(rip))?
    }

    /// Where a thread that stands in a trampoline stands in the application's eyes.
    pub fn original_rip(&self, rip: u64) -> Option<u64> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let inner = self.inner.lock();
        let retired = || inner.retired.iter().rev().find_map(|patch| patch.original_rip(rip));
        inner.sites.original_rip(rip).or_else(retired)
    }

    /// The site of a call that comes back to this address in a trampoline.
    pub fn site_of_return(&self, after: u64) -> Option<u64> {
        let inner = self.inner.lock();
        let retired = || inner.retired.iter().rev().find(|patch| patch.after == after);
        inner.sites.stub_return(after).or_else(retired).map(|patch| patch.site)
    }

    /// Puts the original bytes over what was just read from the application.
    pub fn overlay(&self, address: u64, bytes: &mut [u8]) {
        if self.any.load(Ordering::Acquire) {
            self.inner.lock().sites.overlay(address, bytes);
        }
    }

    /// Whether a change of this range concerns patched code or trampolines.
    pub fn touches(&self, range: &Range<u64>) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let inner = self.inner.lock();
        inner.sites.overlapping(range.clone()).next().is_some()
            || inner.arenas.iter().any(|arena| overlap(&arena.range(), range))
    }

    /// What has to be undone before these operations.
    pub fn undone_by(&self, operations: &[MemoryOperation<'_>]) -> Vec<Patched> {
        if !self.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut inner = self.inner.lock();
        let mut undone = std::collections::BTreeMap::new();
        for operation in operations {
            let all = matches!(operation, MemoryOperation::SetGsBase(_));
            for range in changed(operation) {
                let by_arena = inner.arenas.iter().any(|arena| overlap(&arena.range(), &range));
                let patches: Vec<Arc<Patch>> = if all {
                    inner.sites.iter().cloned().collect()
                } else if by_arena {
                    let lies_there = |patch: &&Arc<Patch>| {
                        overlap(&(patch.start..patch.end()), &range)
                            || inner.arenas.iter().any(|arena| {
                                overlap(&arena.range(), &range) && arena.range().contains(&patch.trampoline)
                            })
                    };
                    inner.sites.iter().filter(lies_there).cloned().collect()
                } else {
                    inner.sites.overlapping(range.clone()).cloned().collect()
                };
                for patch in patches {
                    let protection = inner.protections.get(&patch.start).copied().unwrap_or_default();
                    undone.insert(patch.start, Patched { patch, protection });
                }
                inner.arenas.retain(|arena| !overlap(&arena.range(), &range));
            }
        }
        undone.into_values().collect()
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// The ranges whose patches must go before an operation. A change of protection counts even if it does not make the code
/// writable: the protection that is put back after a rewrite must be the present one.
fn changed(operation: &MemoryOperation<'_>) -> Vec<Range<u64>> {
    let range = |address: u64, length: u64| address..address.saturating_add(length);
    match *operation {
        MemoryOperation::MapAnonymous { address, length, .. }
        | MemoryOperation::MapFile { address, length, .. }
        | MemoryOperation::Unmap { address, length }
        | MemoryOperation::Protect { address, length, .. } => vec![range(address, length)],
        MemoryOperation::Advise { address, length, advice } => match advice {
            libc::MADV_DONTNEED | libc::MADV_FREE => vec![range(address, length)],
            _ => Vec::new(),
        },
        MemoryOperation::Move { from, from_length, to, to_length } => {
            vec![range(from, from_length), range(to, to_length)]
        }
        MemoryOperation::SetGsBase(_) => std::iter::once(0..u64::MAX).collect(),
        MemoryOperation::SetFsBase(_) => Vec::new(),
    }
}
