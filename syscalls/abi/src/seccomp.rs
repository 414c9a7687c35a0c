//! Seccomp as applications use it: modes, operations, filter results, filter programs.
//!
//! Neighbours: `process` (`PR_SET_SECCOMP`), `signal_info` (`SIGSYS`).

use crate::define::{constants, flags, plain};
use crate::user::UserAddress;

constants! {
    /// Modes of `PR_SET_SECCOMP`.
    SECCOMP_MODE_NAMES: u32 { SECCOMP_MODE_DISABLED = 0, SECCOMP_MODE_STRICT = 1, SECCOMP_MODE_FILTER = 2 }

    /// Operations of `seccomp(2)`.
    SECCOMP_OP_NAMES: u32 {
        SECCOMP_SET_MODE_STRICT = 0,
        SECCOMP_SET_MODE_FILTER = 1,
        SECCOMP_GET_ACTION_AVAIL = 2,
        SECCOMP_GET_NOTIF_SIZES = 3,
    }

    /// What a filter returns; the most severe comes first.
    SECCOMP_RET_NAMES: u32 {
        SECCOMP_RET_KILL_PROCESS = 0x8000_0000,
        SECCOMP_RET_KILL_THREAD = 0,
        SECCOMP_RET_TRAP = 0x0003_0000,
        SECCOMP_RET_ERRNO = 0x0005_0000,
        SECCOMP_RET_USER_NOTIF = 0x7fc0_0000,
        SECCOMP_RET_TRACE = 0x7ff0_0000,
        SECCOMP_RET_LOG = 0x7ffc_0000,
        SECCOMP_RET_ALLOW = 0x7fff_0000,
    }

    /// The two halves of a filter's result.
    SECCOMP_MASK_NAMES: u32 { SECCOMP_RET_ACTION_FULL = 0xffff_0000, SECCOMP_RET_DATA = 0x0000_ffff }
}

/// Most instructions in a filter program.
pub const BPF_MAXINSNS: usize = 4096;

flags! {
    /// Flags of `SECCOMP_SET_MODE_FILTER`.
    SeccompFilterFlags: u64 {
        SECCOMP_FILTER_FLAG_TSYNC = 1,
        SECCOMP_FILTER_FLAG_LOG = 2,
        SECCOMP_FILTER_FLAG_SPEC_ALLOW = 4,
        SECCOMP_FILTER_FLAG_NEW_LISTENER = 8,
        SECCOMP_FILTER_FLAG_TSYNC_ESRCH = 16,
        SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 32,
    }
}

plain! {
    /// What a filter sees.
    SeccompData {
        nr: i32,
        arch: u32,
        instruction_pointer: u64,
        args: [u64; 6],
    }

    /// One BPF instruction.
    SockFilter {
        code: u16,
        jt: u8,
        jf: u8,
        k: u32,
    }

    /// A BPF program, as `seccomp(2)` and `SO_ATTACH_FILTER` take it.
    SockFprog {
        len: u16,
        /// Padding.
        __pad0: [u16; 3],
        filter: UserAddress,
    }
}
