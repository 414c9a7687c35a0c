//! What signal delivery leaves on the user stack: `rt_sigframe`, `ucontext`, `sigcontext`.
//!
//! From low to high addresses: [`RtSigFrame`], then, 64-byte aligned, the extended state (an
//! `XSAVE` image, whose bytes 464..512 hold [`FpxSwBytes`], followed by [`FP_XSTATE_MAGIC2`]).
//! The stack pointer of a handler is the address of the frame, 8 bytes below a multiple of 16.
//! Neighbours: `signals`, `signal_info`; registers are the platform's.

use crate::define::{constants, flags, plain};
use crate::signal_info::SigInfo;
use crate::signals::{SigSet, StackT};
use crate::user::UserAddress;

plain! {
    /// The registers at the interruption, `struct sigcontext`.
    SigContext {
        r8: u64,
        r9: u64,
        r10: u64,
        r11: u64,
        r12: u64,
        r13: u64,
        r14: u64,
        r15: u64,
        rdi: u64,
        rsi: u64,
        rbp: u64,
        rbx: u64,
        rdx: u64,
        rax: u64,
        rcx: u64,
        rsp: u64,
        rip: u64,
        eflags: u64,
        cs: u16,
        gs: u16,
        fs: u16,
        ss: u16,
        err: u64,
        trapno: u64,
        oldmask: u64,
        cr2: u64,
        fpstate: UserAddress,
        reserved1: [u64; 8],
    }

    /// `struct ucontext` as the kernel writes it (the C library's is longer).
    UContext {
        uc_flags: u64,
        uc_link: UserAddress,
        uc_stack: StackT,
        uc_mcontext: SigContext,
        uc_sigmask: SigSet,
    }

    /// The frame a handler returns through; `pretcode` is the restorer, found by `ret`.
    RtSigFrame {
        pretcode: UserAddress,
        uc: UContext,
        info: SigInfo,
    }

    /// The kernel's note in the software-reserved bytes of the `FXSAVE` area.
    FpxSwBytes {
        magic1: u32,
        extended_size: u32,
        xfeatures: u64,
        xstate_size: u32,
        padding: [u32; 7],
    }
}

flags! {
    /// `uc_flags`.
    UcFlags: u64 {
        UC_FP_XSTATE = 0x1,
        UC_SIGCONTEXT_SS = 0x2,
        UC_STRICT_RESTORE_SS = 0x4,
    }
}

constants! {
    /// Marks at either end of an extended state.
    FP_MAGIC_NAMES: u32 { FP_XSTATE_MAGIC1 = 0x4650_5853, FP_XSTATE_MAGIC2 = 0x4650_5845 }
}

/// Bytes below the stack pointer that the ABI lets leaf functions use.
pub const RED_ZONE: u64 = 128;
/// Size of the legacy `FXSAVE` image.
pub const FXSAVE_SIZE: usize = 512;
/// Where [`FpxSwBytes`] lies in it.
pub const FPX_SW_BYTES_OFFSET: usize = 464;
/// Alignment of the extended state in memory.
pub const XSTATE_ALIGNMENT: u64 = 64;
