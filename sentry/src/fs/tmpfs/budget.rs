//! How much memory and how many inodes one instance of a memory file system may use (`size=`, `nr_inodes=` of `man 5 tmpfs`).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::errno::{ENOSPC, SysResult};
use nix::sys::resource::{Resource, getrlimit};

/// The unit of accounting.
pub const PAGE: u64 = 4096;

/// Pages and inodes, used and allowed.
#[derive(Debug)]
pub struct Budget {
    pages_max: u64,
    pages: AtomicU64,
    inodes_max: u64,
    inodes: AtomicU64,
}

impl Budget {
    /// `size=` in bytes and `nr_inodes=`; zero is no limit of its own, as for Linux, and becomes the default.
    pub fn new(size_bytes: Option<u64>, inodes: Option<u64>, memory_limit_bytes: Option<u64>) -> Self {
        // Linux's default: half of the memory, here of what the sandbox may have.
        let half_pages = (memory(memory_limit_bytes) / 2).div_ceil(PAGE);
        let pages_max = match size_bytes {
            Some(size) if size > 0 => size.div_ceil(PAGE),
            _ => half_pages,
        };
        let inodes_max = inodes.filter(|count| *count > 0).unwrap_or(half_pages);
        Self { pages_max, pages: AtomicU64::new(0), inodes_max, inodes: AtomicU64::new(0) }
    }

    /// Takes pages, all or none.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub fn take_pages(&self, count: u64) -> SysResult<()> {
        take(&self.pages, self.pages_max, count)
    }

    /// Takes as many of `count` pages as there are; returns how many.
    pub fn take_pages_up_to(&self, count: u64) -> u64 {
        let mut taken = 0;
        let _ = self.pages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            taken = count.min(self.pages_max.saturating_sub(used));
            Some(used.saturating_add(taken))
        });
        taken
    }

    /// Notes pages that are in use already, whatever the limit says (an application touched a mapping's hole).
    pub fn note_pages(&self, count: u64) {
        self.pages.fetch_add(count, Ordering::Relaxed);
    }

    /// Gives pages back.
    pub fn give_pages(&self, count: u64) {
        give(&self.pages, count);
    }

    /// Takes one inode; a further name of one counts like an inode, as on Linux.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub fn take_inode(&self) -> SysResult<()> {
        take(&self.inodes, self.inodes_max, 1)
    }

    /// Gives an inode back.
    pub fn give_inode(&self) {
        give(&self.inodes, 1);
    }

    /// Allowed and free pages.
    pub fn pages(&self) -> (u64, u64) {
        (self.pages_max, self.pages_max.saturating_sub(self.pages.load(Ordering::Relaxed)))
    }

    /// Allowed and free inodes.
    pub fn inodes(&self) -> (u64, u64) {
        (self.inodes_max, self.inodes_max.saturating_sub(self.inodes.load(Ordering::Relaxed)))
    }
}

fn take(used: &AtomicU64, max: u64, count: u64) -> SysResult<()> {
    used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
        now.checked_add(count).filter(|next| *next <= max)
    })
    .map(drop)
    .map_err(|_| ENOSPC)
}

fn give(used: &AtomicU64, count: u64) {
    let _ = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(now.saturating_sub(count)));
}

/// What the sandbox may have of the host's memory.
pub fn memory(limit_bytes: Option<u64>) -> u64 {
    let host = host_limits().memory_bytes;
    limit_bytes.map_or(host, |limit| limit.min(host))
}

/// What the host allows this process. Asked once, at the start: afterwards the sentry's own filter forbids the
/// question.
#[derive(Clone, Copy, Debug)]
pub struct HostLimits {
    /// All of the host's memory.
    pub memory_bytes: u64,
    /// `RLIMIT_NOFILE`.
    pub descriptors: u64,
    /// Descriptors that memory files may use: half of them.
    pub memory_files: u64,
}

/// See [`HostLimits`].
pub fn host_limits() -> HostLimits {
    static LIMITS: OnceLock<HostLimits> = OnceLock::new();
    *LIMITS.get_or_init(|| {
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        HostLimits {
            memory_bytes: nix::sys::sysinfo::sysinfo().map_or(u64::MAX, |info| info.ram_total()),
            descriptors,
            memory_files: descriptors / 2,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_all_or_none_and_gives_back() {
        let budget = Budget::new(Some(3 * PAGE), Some(1), None);
        assert_eq!(budget.take_pages(2), Ok(()));
        assert_eq!(budget.take_pages(2), Err(ENOSPC));
        assert_eq!(budget.take_pages_up_to(9), 1);
        budget.give_pages(3);
        assert_eq!(budget.pages(), (3, 3));
        assert_eq!(budget.take_inode(), Ok(()));
        assert_eq!(budget.take_inode(), Err(ENOSPC));
    }

    #[test]
    fn default_is_half_of_the_limit() {
        assert_eq!(Budget::new(None, None, Some(8 * PAGE)).pages(), (4, 4));
    }
}
