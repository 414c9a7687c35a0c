//! Memory mappings: protections, flags, advice, page sizes (`man 2 mmap`).
//!
//! Neighbours: `process` (`mlock` limits), `user` (addresses).

use crate::define::{constants, flags};
use crate::user::UserAddress;

/// Size of a page.
pub const PAGE_SIZE: u64 = 4096;
/// `log2` of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// Size of a huge page.
pub const HUGE_PAGE_SIZE: u64 = 2 << 20;
/// The first address above the application's half with 4-level paging (Linux's `TASK_SIZE`).
pub const TASK_SIZE: u64 = (1 << 47) - PAGE_SIZE;
/// Linux's default `vm.mmap_min_addr`.
pub const MMAP_MIN_ADDR: u64 = 65536;
/// Linux's default `vm.max_map_count`.
pub const MAX_MAP_COUNT: usize = 65530;

/// The address rounded down to a page boundary.
pub const fn page_floor(address: u64) -> u64 {
    address & !(PAGE_SIZE - 1)
}

/// The length or address rounded up to a page boundary; `None` past the end of 64 bits.
pub const fn page_ceil(address: u64) -> Option<u64> {
    match address.checked_add(PAGE_SIZE - 1) {
        Some(sum) => Some(page_floor(sum)),
        None => None,
    }
}

/// Whether an address or length is a multiple of the page size.
pub const fn is_page_aligned(address: u64) -> bool {
    address & (PAGE_SIZE - 1) == 0
}

/// Whether a range lies wholly in the application's half.
pub const fn is_in_task_range(start: UserAddress, length: u64) -> bool {
    length <= TASK_SIZE && start.0 <= TASK_SIZE - length
}

flags! {
    /// Protections of `mmap(2)` and `mprotect(2)`; `PROT_NONE` is none.
    Prot: u32 {
        PROT_READ = 0x1,
        PROT_WRITE = 0x2,
        PROT_EXEC = 0x4,
        PROT_SEM = 0x8,
        PROT_GROWSDOWN = 0x0100_0000,
        PROT_GROWSUP = 0x0200_0000,
    }

    /// Flags of `mmap(2)`. The low four bits are the kind, a number: see [`MapFlags::kind`].
    MapFlags: u32 {
        MAP_FIXED = 0x10,
        MAP_ANONYMOUS = 0x20,
        MAP_32BIT = 0x40,
        MAP_ABOVE4G = 0x80,
        MAP_GROWSDOWN = 0x100,
        MAP_DENYWRITE = 0x800,
        MAP_EXECUTABLE = 0x1000,
        MAP_LOCKED = 0x2000,
        MAP_NORESERVE = 0x4000,
        MAP_POPULATE = 0x8000,
        MAP_NONBLOCK = 0x10000,
        MAP_STACK = 0x20000,
        MAP_HUGETLB = 0x40000,
        MAP_SYNC = 0x80000,
        MAP_FIXED_NOREPLACE = 0x10_0000,
        MAP_UNINITIALIZED = 0x400_0000,
    }

    /// Flags of `mremap(2)`.
    MremapFlags: u32 { MREMAP_MAYMOVE = 1, MREMAP_FIXED = 2, MREMAP_DONTUNMAP = 4 }

    /// Flags of `msync(2)`.
    MsyncFlags: u32 { MS_ASYNC = 1, MS_INVALIDATE = 2, MS_SYNC = 4 }

    /// Flags of `mlock2(2)`.
    MlockFlags: u32 { MLOCK_ONFAULT = 1 }

    /// Flags of `mlockall(2)`.
    MlockallFlags: u32 { MCL_CURRENT = 1, MCL_FUTURE = 2, MCL_ONFAULT = 4 }
}

constants! {
    /// The kinds of mapping, values of `flags & MAP_TYPE`.
    MAP_KIND_NAMES: u32 { MAP_SHARED = 1, MAP_PRIVATE = 2, MAP_SHARED_VALIDATE = 3, MAP_TYPE = 0xf }

    /// No access at all.
    PROT_NONE_NAMES: u32 { PROT_NONE = 0 }

    /// Where the logarithm of a huge page size lies in the flags.
    MAP_HUGE_NAMES: u32 { MAP_HUGE_SHIFT = 26, MAP_HUGE_MASK = 0x3f }

    /// Advice of `madvise(2)`.
    MADVISE_NAMES: i32 {
        MADV_NORMAL = 0,
        MADV_RANDOM = 1,
        MADV_SEQUENTIAL = 2,
        MADV_WILLNEED = 3,
        MADV_DONTNEED = 4,
        MADV_FREE = 8,
        MADV_REMOVE = 9,
        MADV_DONTFORK = 10,
        MADV_DOFORK = 11,
        MADV_MERGEABLE = 12,
        MADV_UNMERGEABLE = 13,
        MADV_HUGEPAGE = 14,
        MADV_NOHUGEPAGE = 15,
        MADV_DONTDUMP = 16,
        MADV_DODUMP = 17,
        MADV_WIPEONFORK = 18,
        MADV_KEEPONFORK = 19,
        MADV_COLD = 20,
        MADV_PAGEOUT = 21,
        MADV_POPULATE_READ = 22,
        MADV_POPULATE_WRITE = 23,
        MADV_DONTNEED_LOCKED = 24,
        MADV_COLLAPSE = 25,
        MADV_HWPOISON = 100,
        MADV_SOFT_OFFLINE = 101,
        MADV_GUARD_INSTALL = 102,
        MADV_GUARD_REMOVE = 103,
    }

    /// NUMA policies (`man 2 set_mempolicy`).
    MPOL_NAMES: i32 {
        MPOL_DEFAULT = 0, MPOL_PREFERRED = 1, MPOL_BIND = 2, MPOL_INTERLEAVE = 3,
        MPOL_LOCAL = 4, MPOL_PREFERRED_MANY = 5, MPOL_WEIGHTED_INTERLEAVE = 6,
    }

    /// Commands of `membarrier(2)`.
    MEMBARRIER_NAMES: u32 {
        MEMBARRIER_CMD_QUERY = 0,
        MEMBARRIER_CMD_GLOBAL = 1,
        MEMBARRIER_CMD_GLOBAL_EXPEDITED = 2,
        MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED = 4,
        MEMBARRIER_CMD_PRIVATE_EXPEDITED = 8,
        MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED = 16,
        MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE = 32,
        MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE = 64,
        MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ = 128,
        MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ = 256,
        MEMBARRIER_CMD_GET_REGISTRATIONS = 512,
    }
}

impl Prot {
    /// Read, write and execute.
    pub const RWX: Self = Self::PROT_READ.union(Self::PROT_WRITE).union(Self::PROT_EXEC);
}

impl MapFlags {
    /// The kind: [`MAP_SHARED`], [`MAP_PRIVATE`], [`MAP_SHARED_VALIDATE`] or something invalid.
    pub const fn kind(self) -> u32 {
        self.bits() & MAP_TYPE
    }

    /// Whether writes go to the file or to other mappings.
    pub const fn is_shared(self) -> bool {
        matches!(self.kind(), MAP_SHARED | MAP_SHARED_VALIDATE)
    }

    /// The flags that `MAP_SHARED_VALIDATE` accepts; others are `EOPNOTSUPP` (Linux's
    /// `LEGACY_MAP_MASK`, to which a file system may add `MAP_SYNC`).
    pub const VALIDATED: Self = Self::from_bits_retain(MAP_SHARED | MAP_PRIVATE)
        .union(Self::MAP_FIXED)
        .union(Self::MAP_ANONYMOUS)
        .union(Self::MAP_DENYWRITE)
        .union(Self::MAP_EXECUTABLE)
        .union(Self::MAP_UNINITIALIZED)
        .union(Self::MAP_GROWSDOWN)
        .union(Self::MAP_LOCKED)
        .union(Self::MAP_NORESERVE)
        .union(Self::MAP_POPULATE)
        .union(Self::MAP_NONBLOCK)
        .union(Self::MAP_STACK)
        .union(Self::MAP_HUGETLB)
        .union(Self::MAP_32BIT)
        .union(Self::MAP_ABOVE4G)
        .union(Self::from_bits_retain(MAP_HUGE_MASK << MAP_HUGE_SHIFT));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_up_stops_at_the_end_of_64_bits() {
        assert_eq!(page_ceil(0), Some(0));
        assert_eq!(page_ceil(1), Some(4096));
        assert_eq!(page_ceil(u64::MAX - 4095), Some(u64::MAX - 4095));
        assert_eq!(page_ceil(u64::MAX - 4094), None);
    }

    #[test]
    fn ranges_end_at_the_task_limit() {
        assert!(is_in_task_range(UserAddress(TASK_SIZE - 1), 1));
        assert!(!is_in_task_range(UserAddress(TASK_SIZE), 1));
        assert!(is_in_task_range(UserAddress(TASK_SIZE), 0));
        assert!(!is_in_task_range(UserAddress(1), u64::MAX));
    }
}
