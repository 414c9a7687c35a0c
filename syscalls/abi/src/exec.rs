//! Program start: the auxiliary vector and the limits of `execve(2)`.
//!
//! Neighbours: `process`; executable files are read with goblin, elsewhere.

use crate::define::{constants, flags, plain};

constants! {
    /// Kinds of entry in the auxiliary vector (`man 3 getauxval`).
    AUXV_NAMES: u64 {
        AT_NULL = 0,
        AT_IGNORE = 1,
        AT_EXECFD = 2,
        AT_PHDR = 3,
        AT_PHENT = 4,
        AT_PHNUM = 5,
        AT_PAGESZ = 6,
        AT_BASE = 7,
        AT_FLAGS = 8,
        AT_ENTRY = 9,
        AT_NOTELF = 10,
        AT_UID = 11,
        AT_EUID = 12,
        AT_GID = 13,
        AT_EGID = 14,
        AT_PLATFORM = 15,
        AT_HWCAP = 16,
        AT_CLKTCK = 17,
        AT_SECURE = 23,
        AT_BASE_PLATFORM = 24,
        AT_RANDOM = 25,
        AT_HWCAP2 = 26,
        AT_RSEQ_FEATURE_SIZE = 27,
        AT_RSEQ_ALIGN = 28,
        AT_EXECFN = 31,
        AT_SYSINFO_EHDR = 33,
        AT_MINSIGSTKSZ = 51,
    }
}

/// Longest single argument of `execve(2)`, with NUL.
pub const MAX_ARG_STRLEN: usize = 32 * 4096;
/// Most arguments.
pub const MAX_ARG_STRINGS: usize = 0x7fff_ffff;
/// How much of a file the kernel looks at to tell its format.
pub const BINPRM_BUF_SIZE: usize = 256;
/// How many interpreters may follow one another (`#!` scripts that name scripts).
pub const MAX_INTERPRETER_DEPTH: usize = 5;

flags! {
    /// Execution domain flags of `personality(2)`.
    Personality: u32 {
        UNAME26 = 0x002_0000,
        ADDR_NO_RANDOMIZE = 0x004_0000,
        FDPIC_FUNCPTRS = 0x008_0000,
        MMAP_PAGE_ZERO = 0x010_0000,
        ADDR_COMPAT_LAYOUT = 0x020_0000,
        READ_IMPLIES_EXEC = 0x040_0000,
        ADDR_LIMIT_32BIT = 0x080_0000,
        SHORT_INODE = 0x100_0000,
        WHOLE_SECONDS = 0x200_0000,
        STICKY_TIMEOUTS = 0x400_0000,
        ADDR_LIMIT_3GB = 0x800_0000,
    }
}

plain! {
    /// One entry of the auxiliary vector.
    AuxEntry {
        a_type: u64,
        a_val: u64,
    }
}
