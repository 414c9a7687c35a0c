//! Where nothing is mapped: the ranges between the regions of an address space, for finding room without a walk over
//! all regions.
//!
//! Ranges are kept in order, in blocks of bounded size, each with the length of its longest range: a search for room
//! skips whole blocks. Neighbour: `map.rs`, which tells of every region that comes or goes. Invariants: ranges are not
//! empty, do not touch, and lie below [`LIMIT`]; no block is empty.

/// Nothing lies at or above this address.
const LIMIT: u64 = 1 << 63;
/// Ranges in one block at most.
const BLOCK_MAX: usize = 256;

/// See the module's text.
#[derive(Clone)]
pub(super) struct Gaps {
    blocks: Vec<Block>,
}

#[derive(Clone)]
struct Block {
    /// Start and end of each, in order.
    ranges: Vec<(u64, u64)>,
    longest: u64,
}

impl Default for Gaps {
    fn default() -> Self {
        Self { blocks: vec![Block::new(vec![(0, LIMIT)])] }
    }
}

impl Block {
    fn new(ranges: Vec<(u64, u64)>) -> Self {
        let mut block = Self { ranges, longest: 0 };
        block.measure();
        block
    }

    fn measure(&mut self) {
        self.longest = self.ranges.iter().map(|(start, end)| end - start).max().unwrap_or(0);
    }

    fn start(&self) -> u64 {
        self.ranges.first().map_or(0, |(start, _)| *start)
    }
}

impl Gaps {
    /// `start..end`, which is free, is taken.
    pub(super) fn fill(&mut self, start: u64, end: u64) {
        let Some((at, index)) = self.last_from(start) else { return };
        let Some((from, to)) = self.get(at, index) else { return };
        let left = (from < start).then_some((from, start));
        let right = (end < to).then_some((end, to));
        self.replace(at, index, 1, left.into_iter().chain(right));
    }

    /// `start..end`, which is taken, becomes free.
    pub(super) fn free(&mut self, start: u64, end: u64) {
        let (mut start, mut end) = (start, end);
        // The range before may continue to here, and this one to the next.
        let before = self.last_from(start).and_then(|place| Some((place, self.get(place.0, place.1)?)));
        if let Some(((at, index), (from, to))) = before
            && to == start
        {
            start = from;
            self.replace(at, index, 1, std::iter::empty());
        }
        let next = self.last_from(end).and_then(|place| Some((place, self.get(place.0, place.1)?)));
        if let Some(((at, index), (from, to))) = next
            && from == end
        {
            end = to;
            self.replace(at, index, 1, std::iter::empty());
        }
        match self.last_from(start) {
            Some((at, index)) => self.replace(at, index + 1, 0, std::iter::once((start, end))),
            None if self.blocks.is_empty() => self.blocks.push(Block::new(vec![(start, end)])),
            None => self.replace(0, 0, 0, std::iter::once((start, end))),
        }
    }

    /// The end of the highest range that has `length` bytes below `top`; its part above `top` does not count.
    pub(super) fn highest(&self, top: u64, length: u64) -> Option<u64> {
        let (at, index) = self.last_from(top.checked_sub(1)?)?;
        let fits = |(start, end): &&(u64, u64)| end.min(&top).saturating_sub(*start) >= length;
        let head = self.blocks.get(at).and_then(|block| block.ranges.get(..=index)).unwrap_or_default();
        let found = head.iter().rfind(fits).or_else(|| {
            let below = self.blocks.get(..at).unwrap_or_default();
            let block = below.iter().rfind(|block| block.longest >= length)?;
            block.ranges.iter().rfind(fits)
        });
        found.map(|(_, end)| top.min(*end))
    }

    fn get(&self, at: usize, index: usize) -> Option<(u64, u64)> {
        self.blocks.get(at)?.ranges.get(index).copied()
    }

    /// The block and index of the last range that begins at or below an address.
    fn last_from(&self, address: u64) -> Option<(usize, usize)> {
        let at = self.blocks.partition_point(|block| block.start() <= address).checked_sub(1)?;
        let block = self.blocks.get(at)?;
        let index = block.ranges.partition_point(|(start, _)| *start <= address).checked_sub(1)?;
        Some((at, index))
    }

    /// Puts `new` in the place of `count` ranges of a block.
    fn replace(&mut self, at: usize, index: usize, count: usize, new: impl Iterator<Item = (u64, u64)>) {
        let Some(block) = self.blocks.get_mut(at) else { return };
        block.ranges.splice(index..index + count, new);
        if block.ranges.is_empty() {
            self.blocks.remove(at);
            return;
        }
        let upper =
            (block.ranges.len() > BLOCK_MAX).then(|| Block::new(block.ranges.split_off(BLOCK_MAX / 2)));
        block.measure();
        if let Some(upper) = upper {
            self.blocks.insert(at + 1, upper);
        }
    }
}
