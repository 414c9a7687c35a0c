//! The regions of one address space, in order; no two overlap. Pure bookkeeping: the host is told elsewhere.

use std::collections::BTreeMap;

use super::gaps::Gaps;
use super::{PAGE_SIZE, Region};

/// Regions of one address space at most; kept below the host's `vm.max_map_count` (65530), of which the platform's own
/// mappings need a few.
pub const REGIONS_MAX: usize = 65_000;

/// See the module's text.
#[derive(Clone, Default)]
pub(super) struct RegionMap {
    regions: BTreeMap<u64, Region>,
    /// Sum of lengths.
    total: u64,
    /// Sum of the lengths of those that count as data ([`Region::is_data`]).
    data: u64,
    /// Sum of the lengths of those that may be written.
    writable: u64,
    /// What is between them.
    gaps: Gaps,
}

impl RegionMap {
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// Bytes of data ([`Region::is_data`]), which `RLIMIT_DATA` limits.
    pub(super) const fn data(&self) -> u64 {
        self.data
    }

    /// Bytes that may be written.
    pub(super) const fn writable(&self) -> u64 {
        self.writable
    }

    pub(super) fn count(&self) -> usize {
        self.regions.len()
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Region> {
        self.regions.values()
    }

    /// The region at an address.
    pub(super) fn find(&self, address: u64) -> Option<&Region> {
        self.regions
            .range(..=address)
            .next_back()
            .map(|(_, region)| region)
            .filter(|region| address < region.end)
    }

    /// The regions that overlap `start..end`, in order.
    pub(super) fn overlapping(&self, start: u64, end: u64) -> impl DoubleEndedIterator<Item = &Region> {
        let first = self.find(start).map_or(start, |region| region.start);
        self.regions.range(first..end.max(first)).map(|(_, region)| region)
    }

    /// Whether nothing is mapped in `start..end`.
    pub(super) fn is_free(&self, start: u64, end: u64) -> bool {
        self.overlapping(start, end).next().is_none()
    }

    /// Whether every page of `start..end` is mapped.
    pub(super) fn is_covered(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        for region in self.overlapping(start, end) {
            if region.start > at {
                return false;
            }
            at = region.end;
        }
        at >= end
    }

    /// Removes everything in `start..end`, splitting what crosses its edges; returns the removed parts.
    pub(super) fn remove(&mut self, start: u64, end: u64) -> Vec<Region> {
        let keys: Vec<u64> = self.overlapping(start, end).map(|region| region.start).collect();
        let mut removed = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(region) = self.regions.remove(&key) else { continue };
            self.uncount(&region);
            if region.start < start {
                self.put(region.part(region.start, start));
            }
            if region.end > end {
                self.put(region.part(end, region.end));
            }
            removed.push(region.part(start, end));
        }
        removed
    }

    /// Adds a region where nothing is, and joins it with its neighbours where they continue each other.
    pub(super) fn insert(&mut self, mut region: Region) {
        if let Some(before) = self.regions.range(..region.start).next_back().map(|(_, before)| before)
            && before.is_continued_by(&region)
        {
            let key = before.start;
            if let Some(before) = self.regions.remove(&key) {
                self.uncount(&before);
                region = Region { end: region.end, ..before };
            }
        }
        if let Some(behind) = self.regions.get(&region.end)
            && region.is_continued_by(behind)
        {
            let end = behind.end;
            if let Some(behind) = self.regions.remove(&region.end) {
                self.uncount(&behind);
            }
            region.end = end;
        }
        self.put(region);
    }

    /// A region has been taken out.
    fn uncount(&mut self, region: &Region) {
        self.total -= region.length();
        if region.protection.write {
            self.writable -= region.length();
        }
        if region.is_data() {
            self.data -= region.length();
        }
        self.gaps.free(region.start, region.end);
    }

    fn put(&mut self, region: Region) {
        self.total += region.length();
        if region.is_data() {
            self.data += region.length();
        }
        if region.protection.write {
            self.writable += region.length();
        }
        self.gaps.fill(region.start, region.end);
        self.regions.insert(region.start, region);
    }

    /// The highest free range of `length` bytes below `top` and not below `bottom`.
    pub(super) fn find_free_below(&self, top: u64, bottom: u64, length: u64) -> Option<u64> {
        let start = self.gaps.highest(top, length)?.checked_sub(length)?;
        (start >= bottom).then_some(start & !(PAGE_SIZE - 1))
    }
}

#[cfg(test)]
mod tests {
    use platform::Protection;

    use super::*;
    use crate::memory::{Backing, RegionFlags};

    fn region(start: u64, end: u64, write: bool) -> Region {
        Region {
            start,
            end,
            protection: Protection { read: true, write, execute: false },
            may_write: true,
            may_execute: true,
            flags: RegionFlags::empty(),
            backing: Backing::Anonymous,
        }
    }

    #[test]
    fn neighbours_that_differ_in_nothing_become_one() {
        let mut map = RegionMap::default();
        map.insert(region(0x1000, 0x2000, true));
        map.insert(region(0x3000, 0x4000, true));
        map.insert(region(0x2000, 0x3000, true));
        assert_eq!(map.count(), 1);
        assert_eq!(map.total(), 0x3000);
    }

    #[test]
    fn removal_splits_what_crosses_the_edges() {
        let mut map = RegionMap::default();
        map.insert(region(0x1000, 0x5000, true));
        let removed = map.remove(0x2000, 0x3000);
        assert_eq!(removed.len(), 1);
        assert_eq!(map.count(), 2);
        assert_eq!(map.total(), 0x3000);
        assert!(map.is_free(0x2000, 0x3000));
        assert!(!map.is_covered(0x1000, 0x5000));
        assert!(map.is_covered(0x3000, 0x5000));
    }

    #[test]
    fn free_space_is_found_from_the_top() {
        let mut map = RegionMap::default();
        map.insert(region(0x8000, 0x9000, true));
        map.insert(region(0x5000, 0x7000, false));
        assert_eq!(map.find_free_below(0xa000, 0x1000, 0x1000), Some(0x9000));
        assert_eq!(map.find_free_below(0x9000, 0x1000, 0x1000), Some(0x7000));
        assert_eq!(map.find_free_below(0x9000, 0x1000, 0x2000), Some(0x3000));
        assert_eq!(map.find_free_below(0x9000, 0x4000, 0x2000), None);
    }

    /// As [`RegionMap::find_free_below`] is meant, over all regions.
    fn find_free_naively(map: &RegionMap, top: u64, bottom: u64, length: u64) -> Option<u64> {
        let mut ceiling = top;
        for region in map.regions.range(..top).rev().map(|(_, region)| region) {
            if region.end < ceiling && ceiling - region.end >= length {
                break;
            }
            ceiling = ceiling.min(region.start);
        }
        ceiling.checked_sub(length).filter(|start| *start >= bottom)
    }

    #[test]
    fn room_and_sums_are_those_of_a_walk_over_all_regions() {
        let mut map = RegionMap::default();
        let mut seed: u64 = 1;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let (mut most, mut found) = (0, 0);
        for round in 0..20_000 {
            let start = (1 + random(20_000)) * PAGE_SIZE;
            let end = start + (1 + random(6)) * PAGE_SIZE;
            drop(map.remove(start, end));
            // Many regions first, few later.
            if random(8) < if round < 12_000 { 6 } else { 2 } {
                map.insert(region(start, end, random(2) == 0));
            }
            most = most.max(map.count());
            let (top, bottom) = ((1 + random(22_000)) * PAGE_SIZE, random(4_000) * PAGE_SIZE);
            let length = (1 + random(12)) * PAGE_SIZE;
            let room = map.find_free_below(top, bottom, length);
            assert_eq!(room, find_free_naively(&map, top, bottom, length), "below {top:#x}, {length:#x}");
            found += usize::from(room.is_some());
            if round % 64 == 0 {
                let sum = |counts: fn(&Region) -> bool| {
                    map.iter().filter(|region| counts(region)).map(Region::length).sum::<u64>()
                };
                assert_eq!(map.writable(), sum(|region| region.protection.write));
                assert_eq!((map.total(), map.data()), (sum(|_| true), sum(Region::is_data)));
            }
        }
        // More than a few blocks of gaps, and both answers.
        assert!(most > 2_000 && (1_000..20_000).contains(&found), "{most} regions, {found} found");
        drop(map.remove(0, u64::MAX >> 1));
        assert_eq!(map.find_free_below(0x9000, 0, 0x9000), Some(0));
    }
}
