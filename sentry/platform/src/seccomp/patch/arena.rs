//! Free space for trampolines, handed out at addresses that suit a jump's displacement.
//!
//! Where instruction boundaries lie inside a jump's displacement, its bytes there must be ones that fault when executed. With the
//! jump's place given, that says which trampoline addresses will do: nineteen blocks of 256 bytes in every 64 KiB for a
//! boundary at byte 1 of the displacement (right behind a displaced `syscall`), nineteen blocks of 64 KiB in every 16 MiB for one
//! at byte 2, and for byte 3 the arena as a whole has to lie right ([`Arena::good_ranges`]).
//!
//! Key type: [`Arena`]. Invariants: places handed out do not overlap and lie within one page each; pages that already hold
//! trampolines are used before others.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::{faults, relative};

/// The largest arena whose space is used. Larger ones are cut.
pub const MAX_ARENA: u64 = 64 << 20;

const PAGE: u64 = 4096;

/// Addresses in a block share all bytes of the displacement but the lowest.
const BLOCK: u64 = 256;

/// Trampoline space of one address space, near some code. 64 KiB suffices for nearly all sites; see [`Arena::good_ranges`].
#[derive(Clone, Debug)]
pub struct Arena {
    pages: Range<u64>,
    /// Start and end of what is handed out.
    taken: BTreeMap<u64, u64>,
    /// The pages that ever held something.
    touched: BTreeSet<u64>,
}

impl Arena {
    /// An arena of the whole pages in `[base, base + size)`.
    pub fn new(base: u64, size: u64) -> Self {
        let first = base.div_ceil(PAGE);
        let last = base.saturating_add(size.min(MAX_ARENA)) / PAGE;
        Self { pages: first..last.max(first), taken: BTreeMap::new(), touched: BTreeSet::new() }
    }

    /// Where arenas for some code are best, nearest first: at addresses in these ranges, the highest byte of each jump's
    /// displacement faults, so that even a boundary there can be had. Empty for code that is longer than about 16 MiB. (An arena must
    /// lie in the range with all its length.)
    pub fn good_ranges(code: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let (low, high) = (code.start, code.end);
        runs().into_iter().filter_map(move |(first, past)| {
            let start = high.checked_add_signed(first << 24)?;
            let end = low.checked_add_signed(past << 24)?;
            (start < end && end < super::ADDRESS_END).then_some(start..end)
        })
    }

    /// The addresses that belong to the arena.
    pub fn range(&self) -> Range<u64> {
        self.pages.start.saturating_mul(PAGE)..self.pages.end.saturating_mul(PAGE)
    }

    /// The addresses of the pages that ever held a trampoline.
    #[cfg(test)]
    pub fn touched_pages(&self) -> impl Iterator<Item = u64> {
        self.touched.iter().map(|page| page.saturating_mul(PAGE))
    }

    /// Gives back the space of a patch that is not used, or in whose trampoline no thread can be any more.
    pub fn release(&mut self, patch: &super::Patch) {
        self.give_back(patch.trampoline);
    }

    pub(super) fn give_back(&mut self, place: u64) {
        self.taken.remove(&place);
    }

    /// Takes `length` bytes for a trampoline whose jump ends at `jump_end`, with faulting bytes where the displacement needs
    /// them.
    pub(super) fn take(&mut self, jump_end: u64, faulting: [bool; 4], length: usize) -> Option<u64> {
        let length = u64::try_from(length).ok().filter(|l| (1..=PAGE).contains(l))?;
        let wanted = Wanted { jump_end, faulting, length };
        let untouched = self.pages.clone().filter(|page| !self.touched.contains(page));
        let place = self.touched.iter().copied().chain(untouched).find_map(|p| self.in_page(p, &wanted))?;
        self.taken.insert(place, place + length);
        self.touched.insert(place / PAGE);
        Some(place)
    }

    /// The first free place in a page that will do.
    fn in_page(&self, page: u64, wanted: &Wanted) -> Option<u64> {
        let start = page.checked_mul(PAGE)?;
        let end = start.checked_add(PAGE)?;
        let mut at = start;
        while at < end {
            // Blocks are counted from the jump's end, like the displacement.
            let block_end = at + (BLOCK - at.wrapping_sub(wanted.jump_end) % BLOCK);
            let found =
                wanted.block_suits(at).then(|| self.first_fit(at, block_end.min(end), end, wanted)).flatten();
            if found.is_some() {
                return found;
            }
            at = block_end;
        }
        None
    }

    /// The first free place that starts in `[from, before)` and ends by `limit`.
    fn first_fit(&self, from: u64, before: u64, limit: u64, wanted: &Wanted) -> Option<u64> {
        let mut at = from;
        while at < before && at + wanted.length <= limit {
            let last_before_end = self.taken.range(..at + wanted.length).next_back();
            match last_before_end {
                Some((_, &end)) if end > at => at = end,
                _ if wanted.address_suits(at) => return Some(at),
                _ => at += 1,
            }
        }
        None
    }
}

/// What a place must be like.
struct Wanted {
    jump_end: u64,
    faulting: [bool; 4],
    length: u64,
}

impl Wanted {
    /// Whether all but the lowest byte of the displacement to `address` are right, as they then are for its whole block.
    fn block_suits(&self, address: u64) -> bool {
        self.suits(address, [false, self.faulting[1], self.faulting[2], self.faulting[3]])
    }

    fn address_suits(&self, address: u64) -> bool {
        self.suits(address, self.faulting)
    }

    fn suits(&self, address: u64, faulting: [bool; 4]) -> bool {
        relative(self.jump_end, address).is_some_and(|displacement| {
            let bytes = displacement.to_le_bytes();
            bytes.iter().zip(faulting).all(|(byte, must)| !must || faults(*byte))
        })
    }
}

/// Runs of highest bytes that fault, as signed numbers `[first, past)`, nearest to zero first.
fn runs() -> Vec<(i64, i64)> {
    let mut runs: Vec<(i64, i64)> = Vec::new();
    for byte in i8::MIN..=i8::MAX {
        let value = i64::from(byte);
        match runs.last_mut() {
            _ if !faults(byte.cast_unsigned()) => {}
            Some(run) if run.1 == value => run.1 += 1,
            _ => runs.push((value, value + 1)),
        }
    }
    runs.sort_by_key(|(first, past)| first.abs().min(past.abs()));
    runs
}
