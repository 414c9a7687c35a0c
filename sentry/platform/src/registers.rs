//! The application-visible register state that kernel and platforms exchange.

use crate::stub::Call;

/// General registers of a thread, in the names of `struct user_regs_struct` (`sys/user.h`). FS and GS bases stay
/// with the host thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the processor's own names")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    /// Flags; a platform only ever loads the bits an application may set itself.
    pub eflags: u64,
}

/// A trapped system call: what the registers held when it was made. Copied once; it cannot change
/// under the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyscallRequest {
    /// Number as the application gave it (x32 numbers have bit 30 set).
    pub number: u64,
    /// `rdi rsi rdx r10 r8 r9`
    pub arguments: [u64; 6],
    /// Address after the `syscall` instruction.
    pub ip: u64,
    /// Entry convention.
    pub architecture: Architecture,
    /// The instruction at this address traps so often that patching it would pay ([`crate::Context::poll_patch`]).
    pub hot: bool,
}

impl SyscallRequest {
    /// Whether the call, if it has to wait, does nothing but return a value in the end. Only such a thread may be captured, or
    /// sent to wait elsewhere, before it is known what its call leads to.
    pub fn only_returns(&self) -> bool {
        self.architecture == Architecture::X86_64 && Call::only_returns(self.number)
    }
}

/// How the kernel was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// `syscall` in 64-bit mode (x32 numbers included).
    X86_64,
    /// `int 0x80` or another 32-bit entry.
    I386,
}
