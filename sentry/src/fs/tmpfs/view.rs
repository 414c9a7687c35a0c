//! A memory file's bytes without a call of the host: a mapping of the sentry's own, for files that are read and written a lot in small
//! pieces.
//!
//! Key type: [`View`], part of a [`Content`](super::content::Content), which keeps its invariant: only pages that the file is known to
//! have are touched, under the lock under which they could be cut off. A file that takes seals has none, for
//! a writable mapping would keep it from being sealed.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use platform::Window;

use crate::memory::HostFile;

/// Transfers after which a mapping pays.
const WORTHWHILE: u32 = 16;
/// Largest transfer that goes this way: the file is locked meanwhile.
const LARGEST: usize = 64 * 1024;
/// Most mappings of all files together.
const MOST: usize = 512;
/// Largest part of a file that is mapped.
const MOST_BYTES: usize = 1 << 30;

/// Mappings that exist.
static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// See the module's text.
#[derive(Default)]
pub struct View {
    window: Option<Counted>,
    /// Small transfers since the last try to map.
    uses: u32,
    forbidden: bool,
}

/// A mapping that counts.
struct Counted(Window);

impl Drop for Counted {
    fn drop(&mut self) {
        MAPPED.fetch_sub(1, Ordering::Relaxed);
    }
}

impl View {
    /// That of a file which must never be mapped by us.
    pub const fn forbidden() -> Self {
        Self { window: None, uses: 0, forbidden: true }
    }

    /// Whether the file is one that must never be mapped by us.
    pub const fn is_forbidden(&self) -> bool {
        self.forbidden
    }

    /// Whether there is a mapping.
    #[cfg(test)]
    pub const fn is_mapped(&self) -> bool {
        self.window.is_some()
    }

    /// The mapping, if there is one for a transfer that ends at byte `end`; the file has all its pages up to `dense`.
    fn window(&mut self, file: &HostFile, length: usize, end: u64, dense: u64) -> Option<&Window> {
        if self.forbidden || length > LARGEST || end > dense {
            return None;
        }
        let end = usize::try_from(end).ok()?;
        if self.window.as_ref().is_none_or(|window| window.0.length() < end) {
            self.uses += 1;
            if self.uses < WORTHWHILE {
                return None;
            }
            self.uses = 0;
            // Larger than needed, for a file that grows; what it does not have yet is not touched.
            let length = usize::try_from(dense).ok()?.checked_next_power_of_two()?.min(MOST_BYTES);
            if end > length {
                return None;
            }
            self.window = None;
            if MAPPED.fetch_add(1, Ordering::Relaxed) >= MOST {
                MAPPED.fetch_sub(1, Ordering::Relaxed);
                return None;
            }
            match Window::new(file.as_fd(), length) {
                Ok(window) => self.window = Some(Counted(window)),
                Err(_) => _ = MAPPED.fetch_sub(1, Ordering::Relaxed),
            }
        }
        self.window.as_ref().map(|window| &window.0)
    }

    /// Reads; false: ask the host.
    pub fn read(&mut self, file: &HostFile, offset: u64, buffer: &mut [u8], dense: u64) -> bool {
        let Some((at, end)) = range(offset, buffer.len()) else { return false };
        self.window(file, buffer.len(), end, dense).is_some_and(|window| window.read(at, buffer))
    }

    /// Writes; false: ask the host.
    pub fn write(&mut self, file: &HostFile, offset: u64, bytes: &[u8], dense: u64) -> bool {
        let Some((at, end)) = range(offset, bytes.len()) else { return false };
        self.window(file, bytes.len(), end, dense).is_some_and(|window| window.write(at, bytes))
    }
}

/// Where a transfer begins and ends.
fn range(offset: u64, length: usize) -> Option<(usize, u64)> {
    Some((usize::try_from(offset).ok()?, offset.checked_add(u64::try_from(length).ok()?)?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::budget::{Budget, PAGE};
    use super::super::content::{Content, INLINE_MAX};

    /// A memory file, large enough to be one, that has been read so often that it is mapped.
    fn mapped(pages: u64) -> (Content, Arc<Budget>) {
        let budget = Arc::new(Budget::new(Some(1000 * PAGE), None, None));
        let content = Content::new(Arc::clone(&budget));
        content.write(0, &vec![1; usize::try_from(pages * PAGE).unwrap()]).unwrap();
        for _ in 0..super::WORTHWHILE {
            content.read(0, &mut [0; 8]).unwrap();
        }
        assert!(content.is_host() && content.has_view());
        (content, budget)
    }

    #[test]
    fn reads_and_writes_agree_with_the_host_whatever_happens_to_the_file() {
        const SPAN: u64 = 100 * 4096;
        let (content, budget) = mapped(100);
        let mut model = vec![1_u8; usize::try_from(SPAN).unwrap()];
        let mut chance = 1_u64;
        let mut next = |below: u64| {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            chance % below
        };
        for turn in 0..4000_u64 {
            let (at, length) = (next(SPAN * 2), 1 + next(9000));
            let (begin, count) = (usize::try_from(at).unwrap(), usize::try_from(length).unwrap());
            match next(20) {
                0 => {
                    let size = next(SPAN * 2);
                    content.set_size(size).unwrap();
                    model.resize(usize::try_from(size).unwrap(), 0);
                }
                1 => {
                    content.allocate(0x3, at, length).unwrap();
                    let end = (begin + count).min(model.len());
                    model.get_mut(begin..end).unwrap_or_default().fill(0);
                }
                2 if turn % 8 == 0 => {
                    content.host_file().unwrap();
                }
                3..10 => {
                    let value = u8::try_from(next(256)).unwrap();
                    assert_eq!(content.write(at, &vec![value; count]), Ok(count));
                    model.resize(model.len().max(begin + count), 0);
                    model[begin..begin + count].fill(value);
                }
                _ => {
                    let mut bytes = vec![0xee; count];
                    let got = content.read(at, &mut bytes).unwrap();
                    let end = (begin + count).min(model.len());
                    assert_eq!(&bytes[..got], model.get(begin..end).unwrap_or_default());
                }
            }
            assert_eq!(content.size(), u64::try_from(model.len()).unwrap());
            let mut direct = vec![0; model.len()];
            if turn % 100 == 0 {
                assert_eq!(content.sealed_file().unwrap().read_at(0, &mut direct), Ok(model.len()));
                assert!(direct == model);
            }
        }
        assert!(content.has_view());
        drop(content);
        assert_eq!(budget.pages().1, 1000);
    }

    #[test]
    fn a_write_through_the_mapping_takes_no_room_and_makes_no_pages() {
        let (content, budget) = mapped(100);
        assert_eq!(content.write(5 * PAGE, &[2; 4096]), Ok(4096));
        assert_eq!((content.blocks_512(), budget.pages().1), (800, 900));
        content.allocate(0x3, 8 * PAGE, PAGE).unwrap();
        assert_eq!(content.read(8 * PAGE, &mut [0; 4096]), Ok(4096));
        assert_eq!((content.blocks_512(), budget.pages().1), (792, 901));
    }

    #[test]
    fn a_file_that_takes_seals_is_never_mapped() {
        let budget = Arc::new(Budget::new(Some(1000 * PAGE), None, None));
        let content = Content::sealable(budget, c"test").unwrap();
        let size = usize::try_from(INLINE_MAX).unwrap();
        content.write(0, &vec![1; size]).unwrap();
        for _ in 0..100 {
            content.read(0, &mut [0; 8]).unwrap();
            content.write(0, &[0; 8]).unwrap();
        }
        assert!(!content.has_view());
    }
}
