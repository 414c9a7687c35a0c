//! Writes to memory files that the host makes by itself, out of an application's memory: their pages are counted before, and the file's size is
//! asked of the host until they are over.
//!
//! As long as one is under way the file may grow at any time, so each operation begins by asking how large it is
//! ([`State::catch_up`]), and nothing that was charged is given back: what the write may need is charged already, and what it has got since is
//! the same pages. A write that goes on after its thread was killed (for a moment) leaves a file whose size and pages are asked for ever after.
//! Nothing here relies on what such a write does: it can only make the file longer and fill its holes, so no page that the sentry has mapped
//! ([`View`](super::view::View)) goes away.

use std::sync::Arc;

use super::budget::PAGE;
use super::content::{Content, Store};
use super::metadata::checked_size;
use crate::memory::HostFile;
use crate::vfs::{CountedFile, ExpectedRange, Over};

impl Content {
    /// The memory file, for an application's process to write to; none if it takes seals, which have to be obeyed.
    pub fn lend_for_writing(&self) -> Option<Arc<HostFile>> {
        let mut state = self.state.lock();
        if matches!(&state.store, Store::Host(_, _, view) if view.is_forbidden()) {
            return None;
        }
        let file = state.promote().ok()?;
        state.lent = true;
        Some(file)
    }
}

impl CountedFile for Content {
    fn expect_write(&self, offset: u64, length: u64) -> Option<ExpectedRange> {
        let end = checked_size(offset.checked_add(length)?).ok()?;
        let mut state = self.lock();
        if !matches!(state.store, Store::Host(..)) {
            return None;
        }
        let begin = if offset <= state.dense { state.dense } else { offset / PAGE * PAGE };
        let wanted = end.saturating_sub(begin).div_ceil(PAGE);
        // Room for others, who would be told that there is none while pages are counted twice.
        if wanted > 0 && self.budget.pages().1 / 2 < wanted {
            return None;
        }
        self.budget.take_pages(wanted).ok()?;
        state.charged += wanted;
        state.expected += 1;
        state.changes += 1;
        Some(ExpectedRange { offset, end, size: state.size, changes: state.changes })
    }

    fn settle_write(&self, range: &ExpectedRange, over: Over) {
        let mut state = self.lock();
        // With nothing else having happened to the file, all that it has grown by is this write's, from its beginning on.
        if over == Over::Certainly && state.changes == range.changes {
            let reached = state.size.min(range.end);
            if reached > range.size && range.offset <= state.dense {
                state.dense = state.dense.max(reached.next_multiple_of(PAGE));
            }
        }
        state.expected -= 1;
        state.changes += 1;
        state.unsure |= over == Over::Perhaps;
        state.recount(&self.budget);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::Arc;

    use super::super::budget::{Budget, PAGE};
    use super::super::content::{Content, INLINE_MAX};
    use crate::vfs::{CountedFile, Over};

    const BIG: u64 = 64 * PAGE;

    fn content(pages: u64) -> (Content, Arc<Budget>) {
        let budget = Arc::new(Budget::new(Some(pages * PAGE), None, None));
        (Content::new(Arc::clone(&budget)), budget)
    }

    fn used(budget: &Budget) -> u64 {
        let (all, free) = budget.pages();
        all - free
    }

    /// What the host does for an application.
    fn by_host(content: &Content, offset: u64, pages: u64) {
        let file = content.lend_for_writing().unwrap();
        let bytes = vec![7; usize::try_from(pages * PAGE).unwrap()];
        let written = nix::sys::uio::pwrite(file.as_fd(), &bytes, i64::try_from(offset).unwrap());
        assert_eq!(written, Ok(bytes.len()));
    }

    #[test]
    fn pages_are_charged_before_and_counted_after() {
        let (content, budget) = content(1000);
        assert!(content.lend_for_writing().is_some() && content.is_host());
        let range = content.expect_write(0, BIG).unwrap();
        assert_eq!((used(&budget), content.size()), (64, 0));
        by_host(&content, 0, 64);
        assert_eq!((content.size(), used(&budget)), (BIG, 64), "it is seen at once");
        content.settle_write(&range, Over::Certainly);
        assert_eq!((content.size(), used(&budget), content.blocks_512()), (BIG, 64, 512));
        // The next one follows it, and one over it needs no room.
        let next = content.expect_write(BIG, BIG).unwrap();
        let over = content.expect_write(PAGE, BIG - PAGE).unwrap();
        assert_eq!(used(&budget), 128);
        by_host(&content, BIG, 10);
        content.settle_write(&next, Over::Certainly);
        content.settle_write(&over, Over::Certainly);
        assert_eq!((content.size(), used(&budget)), (74 * PAGE, 74), "a short one gives back the rest");
        content.write(74 * PAGE, &[1; 4096]).unwrap();
        assert_eq!(used(&budget), 75);
        drop(content);
        assert_eq!(used(&budget), 0);
    }

    #[test]
    fn a_write_that_may_find_no_room_is_not_left_to_the_host() {
        let (content, budget) = content(100);
        content.lend_for_writing().unwrap();
        assert!(content.expect_write(0, BIG).is_none(), "more than half of what there is");
        let range = content.expect_write(0, 50 * PAGE).unwrap();
        assert!(content.expect_write(50 * PAGE, 50 * PAGE).is_none());
        content.settle_write(&range, Over::Certainly);
        assert_eq!(used(&budget), 0);
        assert!(
            content.expect_write(u64::MAX - 10, 11).is_none() && content.expect_write(u64::MAX, 1).is_none()
        );
        let small = super::super::content::Content::sealable(Arc::clone(&budget), c"test").unwrap();
        assert!(small.lend_for_writing().is_none(), "it may be sealed at any time");
    }

    #[test]
    fn what_happens_meanwhile_is_not_lost() {
        let (content, budget) = content(1000);
        content.lend_for_writing().unwrap();
        let range = content.expect_write(0, BIG).unwrap();
        by_host(&content, 0, 20);
        // Cut while the write goes on, which fills it again from where it is.
        content.set_size(5 * PAGE).unwrap();
        by_host(&content, 20 * PAGE, 44);
        assert_eq!(content.size(), BIG);
        assert_eq!(content.append(&[1; 10]), Ok((10, BIG + 10)));
        let mut bytes = [9; 16];
        assert_eq!(content.read(BIG - 3, &mut bytes), Ok(13));
        assert_eq!(bytes[..5], [7, 7, 7, 1, 1]);
        content.settle_write(&range, Over::Certainly);
        assert_eq!((content.size(), used(&budget)), (BIG + 10, 5 + 44 + 1));
        // A hole is in it, of which nobody may believe that it is there.
        content.write(6 * PAGE, &[1]).unwrap();
        assert_eq!(used(&budget), 5 + 44 + 1 + 1);
    }

    #[test]
    fn a_write_whose_thread_was_killed_is_counted_whenever_it_comes() {
        let (content, budget) = content(1000);
        content.write(0, &vec![1; usize::try_from(INLINE_MAX + 1).unwrap()]).unwrap();
        let range = content.expect_write(0, BIG).unwrap();
        content.settle_write(&range, Over::Perhaps);
        assert_eq!(used(&budget), 17);
        by_host(&content, 0, 64);
        assert_eq!(content.size(), BIG);
        assert_eq!((content.blocks_512(), used(&budget)), (512, 64));
        content.set_size(PAGE).unwrap();
        by_host(&content, 0, 64);
        content.write(BIG, &[1]).unwrap();
        assert_eq!(used(&budget), 65);
    }
}
