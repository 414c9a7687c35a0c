//! All patches of one address space.
//!
//! Key type: [`Sites`]. A clone (for `fork`) shares the tables until one of the two changes. Invariants: no two patches or
//! trampolines overlap, so that an address belongs to at most one; at most [`MAX_PATCHES`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;

use super::{Patch, length};

/// How many sites of an address space are patched. Programs have some hundreds; one that makes sites up gets no more memory
/// from the sentry than these take.
pub const MAX_PATCHES: usize = 4096;

/// Why a patch was not taken in.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Full {
    #[error("the address space has {MAX_PATCHES} patches")]
    Count,
    #[error("the patch or its trampoline overlaps another")]
    Overlap,
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Sites {
    tables: Arc<Tables>,
}

#[derive(Clone, Debug, Default)]
struct Tables {
    by_start: BTreeMap<u64, Arc<Patch>>,
    by_trampoline: BTreeMap<u64, Arc<Patch>>,
}

impl Sites {
    #[cfg(test)]
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.tables.by_start.len()
    }

    /// Takes a patch in, before its first byte is written.
    ///
    /// # Errors
    /// [`Full`]; nothing is changed then.
    pub fn insert(&mut self, patch: Patch) -> Result<Arc<Patch>, Full> {
        if self.len() >= MAX_PATCHES {
            return Err(Full::Count);
        }
        let trampoline_taken = self
            .last_trampoline(patch.trampoline_end())
            .is_some_and(|p| p.trampoline_end() > patch.trampoline);
        if trampoline_taken || self.covers(patch.start, patch.end()) {
            return Err(Full::Overlap);
        }
        let patch = Arc::new(patch);
        let tables = Arc::make_mut(&mut self.tables);
        tables.by_start.insert(patch.start, Arc::clone(&patch));
        tables.by_trampoline.insert(patch.trampoline, Arc::clone(&patch));
        Ok(patch)
    }

    /// Forgets the patch that starts at `start`.
    pub fn remove(&mut self, start: u64) -> Option<Arc<Patch>> {
        if !self.tables.by_start.contains_key(&start) {
            return None;
        }
        let tables = Arc::make_mut(&mut self.tables);
        let patch = tables.by_start.remove(&start)?;
        tables.by_trampoline.remove(&patch.trampoline);
        Some(patch)
    }

    /// The patch whose patched bytes include the address.
    pub fn at(&self, address: u64) -> Option<&Arc<Patch>> {
        self.last_patch(address.saturating_add(1)).filter(|patch| patch.end() > address)
    }

    /// The patch of the `syscall` instruction at an address, which covers the instruction or ends there.
    pub fn of_site(&self, site: u64) -> Option<&Arc<Patch>> {
        self.last_patch(site.saturating_add(1)).filter(|patch| patch.site == site)
    }

    /// The patch whose trampoline includes the address.
    pub fn in_trampoline(&self, address: u64) -> Option<&Arc<Patch>> {
        self.last_trampoline(address.saturating_add(1)).filter(|patch| patch.trampoline_end() > address)
    }

    /// The patch that calls the stub with this in rcx.
    pub fn stub_return(&self, rcx: u64) -> Option<&Arc<Patch>> {
        self.in_trampoline(rcx).filter(|patch| patch.after == rcx)
    }

    /// [`Patch::resume_at`] of whichever patch covers the address.
    pub fn resume_at(&self, rip: u64) -> Option<u64> {
        self.at(rip)?.resume_at(rip)
    }

    /// [`Patch::original_rip`] of whichever trampoline includes the address.
    pub fn original_rip(&self, rip: u64) -> Option<u64> {
        self.in_trampoline(rip)?.original_rip(rip)
    }

    /// Whether a patch covers a byte of `[start, end)`.
    pub fn covers(&self, start: u64, end: u64) -> bool {
        start < end && self.last_patch(end).is_some_and(|patch| patch.end() > start)
    }

    /// The patches that cover a byte of the range, ascending.
    pub fn overlapping(&self, range: Range<u64>) -> impl DoubleEndedIterator<Item = &Arc<Patch>> {
        // No two overlap, so at most one begins before the range and reaches into it.
        let first = self.at(range.start).map_or(range.start, |patch| patch.start);
        let range = first.min(range.end)..range.end;
        self.tables.by_start.range(range).map(|(_, patch)| patch)
    }

    /// All patches, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Patch>> {
        self.tables.by_start.values()
    }

    /// Puts the original bytes over what was read from the application at `address`.
    pub fn overlay(&self, address: u64, bytes: &mut [u8]) {
        let end = address.saturating_add(length(bytes));
        for patch in self.overlapping(address..end) {
            for (place, original) in (patch.start..).zip(&patch.original) {
                let offset = place.checked_sub(address).and_then(|o| usize::try_from(o).ok());
                if let Some(byte) = offset.and_then(|o| bytes.get_mut(o)) {
                    *byte = *original;
                }
            }
        }
    }

    /// The last patch that starts before an address.
    fn last_patch(&self, before: u64) -> Option<&Arc<Patch>> {
        self.tables.by_start.range(..before).next_back().map(|(_, patch)| patch)
    }

    /// The last trampoline that starts before an address.
    fn last_trampoline(&self, before: u64) -> Option<&Arc<Patch>> {
        self.tables.by_trampoline.range(..before).next_back().map(|(_, patch)| patch)
    }
}
