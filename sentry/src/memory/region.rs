//! One mapping of an address space.

use std::sync::Arc;

use platform::Protection;

use super::HostFile;
use crate::vfs::FileDescription;

/// Page size of the machine, in bytes.
pub const PAGE_SIZE: u64 = 4096;

bitflags::bitflags! {
    /// What else is known of a mapping.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct RegionFlags: u32 {
        /// Stores are seen by others (`MAP_SHARED`).
        const SHARED = 1;
        /// No memory is set aside (`MAP_NORESERVE`).
        const NORESERVE = 2;
        /// Locked in memory, as far as `mlock` limits go.
        const LOCKED = 4;
        /// A child does not get it (`MADV_DONTFORK`).
        const DONTFORK = 8;
        /// A child gets it empty (`MADV_WIPEONFORK`).
        const WIPEONFORK = 16;
        /// The main stack.
        const STACK = 32;
        /// The program break's area.
        const HEAP = 64;
    }
}

/// Where the pages come from.
#[derive(Clone)]
pub enum Backing {
    /// Zero-filled private memory.
    Anonymous,
    /// Zero-filled shared memory: a memory file of its own.
    SharedAnonymous {
        /// The memory.
        memory: Arc<HostFile>,
        /// Where the mapping begins in it.
        offset: u64,
    },
    /// A file.
    File {
        /// The host descriptor that is mapped.
        source: Arc<HostFile>,
        /// Where the mapping begins in it.
        offset: u64,
        /// The file as the application opened it.
        file: Arc<FileDescription>,
    },
    /// Made by the platform: `[vdso]`, `[vvar]`.
    Platform(&'static str),
}

impl Backing {
    /// The same pages, seen from `by` bytes further on.
    #[must_use]
    pub fn advanced(&self, by: u64) -> Self {
        let mut backing = self.clone();
        match &mut backing {
            Self::SharedAnonymous { offset, .. } | Self::File { offset, .. } => *offset += by,
            Self::Anonymous | Self::Platform(_) => {}
        }
        backing
    }

    /// Whether `next`, directly behind a mapping of `length` bytes of `self`, continues it.
    fn is_continued_by(&self, length: u64, next: &Self) -> bool {
        match (self, next) {
            (Self::Anonymous, Self::Anonymous) => true,
            (
                Self::SharedAnonymous { memory, offset },
                Self::SharedAnonymous { memory: next, offset: next_offset },
            ) => Arc::ptr_eq(memory, next) && offset + length == *next_offset,
            (Self::File { source, offset, .. }, Self::File { source: next, offset: next_offset, .. }) => {
                Arc::ptr_eq(source, next) && offset + length == *next_offset
            }
            _ => false,
        }
    }
}

/// A range of addresses with one backing and one protection.
#[derive(Clone)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// First address behind.
    pub end: u64,
    /// What the application may do.
    pub protection: Protection,
    /// Stores may be allowed later (`mprotect`); false for shared mappings of files opened read-only.
    pub may_write: bool,
    /// Execution may be allowed later; false on `noexec` mounts.
    pub may_execute: bool,
    /// See [`RegionFlags`].
    pub flags: RegionFlags,
    /// Where the pages come from.
    pub backing: Backing,
}

impl Region {
    /// Length in bytes.
    pub const fn length(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it counts against `RLIMIT_DATA`: private, writable, and no stack (`man 2 getrlimit`).
    pub(super) const fn is_data(&self) -> bool {
        self.protection.write && Self::may_be_data(self.flags)
    }

    /// Whether a writable mapping with such flags is data.
    pub(super) const fn may_be_data(flags: RegionFlags) -> bool {
        !flags.intersects(RegionFlags::SHARED.union(RegionFlags::STACK))
    }

    /// Whether `next` lies directly behind and differs in nothing.
    pub(super) fn is_continued_by(&self, next: &Self) -> bool {
        self.end == next.start
            && self.protection == next.protection
            && self.flags == next.flags
            && self.may_write == next.may_write
            && self.may_execute == next.may_execute
            && self.backing.is_continued_by(self.length(), &next.backing)
    }

    /// The part of the region inside `start..end`, which it must overlap.
    pub(super) fn part(&self, start: u64, end: u64) -> Self {
        let (start, end) = (start.max(self.start), end.min(self.end));
        Self { start, end, backing: self.backing.advanced(start - self.start), ..self.clone() }
    }
}
