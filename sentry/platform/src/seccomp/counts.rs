//! How often each system-call site of an address space has trapped, in a fixed amount of memory.
//!
//! Key types: [`TrapCounts`]. Neighbours: `code`, which has hot sites patched.
//! Invariant: sites that trap in turns never keep each other from being counted, however their addresses fall: a site that
//! finds no room takes one from each count in its way instead of driving one out.

/// Sets of sites; which one a site belongs to is told by its address.
const SETS: usize = 64;
/// Sites in a set.
const WAYS: usize = 4;
/// A site's count is in the low byte of its entry, its address above: user addresses have 47 bits.
const COUNT_BITS: u32 = 8;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct TrapCounts {
    sets: [[u64; WAYS]; SETS],
}

impl Default for TrapCounts {
    fn default() -> Self {
        Self { sets: [[0; WAYS]; SETS] }
    }
}

impl TrapCounts {
    /// Counts one trap more. Returns the site's traps so far, up to 255; 0 if there was no room for it.
    pub fn count(&mut self, site: u64) -> u8 {
        let at = (site ^ site >> 6 ^ site >> 12) as usize % SETS;
        let Some(set) = self.sets.get_mut(at) else { return 0 };
        let key = site << COUNT_BITS;
        if let Some(entry) = set.iter_mut().find(|entry| **entry & !COUNT == key && **entry & COUNT != 0) {
            if *entry & COUNT < COUNT {
                *entry += 1;
            }
            return (*entry & COUNT) as u8;
        }
        if let Some(free) = set.iter_mut().find(|entry| **entry & COUNT == 0) {
            *free = key | 1;
            return 1;
        }
        for entry in set {
            *entry -= 1;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sites that belong to one set.
    fn neighbours(count: u64) -> Vec<u64> {
        let mut counts = TrapCounts::default();
        let belongs = |site: &u64| {
            counts.count(*site);
            let set = counts.sets[0];
            counts = TrapCounts::default();
            set != [0; WAYS]
        };
        (0x40_1000..).filter(belongs).take(count as usize).collect()
    }

    #[test]
    fn sites_in_turns_are_all_counted() {
        let mut counts = TrapCounts::default();
        let sites = neighbours(WAYS as u64);
        for turn in 1..=20 {
            for site in &sites {
                assert_eq!(counts.count(*site), turn);
            }
        }
    }

    #[test]
    fn a_hot_site_is_found_among_many_cold_ones() {
        let mut counts = TrapCounts::default();
        let sites = neighbours(40);
        let most = sites.iter().map(|cold| counts.count(sites[0]).max(counts.count(*cold)));
        assert!(most.max() >= Some(16));
    }

    #[test]
    fn counts_stop_at_the_most() {
        let mut counts = TrapCounts::default();
        let last = (0..300).map(|_| counts.count(0x7fff_ffff_f123)).last();
        assert_eq!(last, Some(255));
        assert_eq!(counts.count(0x7fff_ffff_f124), 1);
    }
}
