//! The few bytes of code that every stub process executes on the sentry's behalf, where they lie,
//! and the seccomp filter that lets nothing else reach the host.
//!
//! # The reserved region
//! `[max_address, 2^47 - 4096)`, out of the application's reach: all changes of an address space
//! go through the kernel, which knows `max_address`.
//! - the *code page*: `syscall; int3`, read and execute, one shared page of a sealed memfd;
//! - the *scratch page*: private memory for the one call that needs an argument in memory
//!   (`recvmsg`). The application can write it, so nothing in it is trusted.
//!
//! # Why the filter
//! Application code runs under `PTRACE_SYSEMU` only, whose trap comes before seccomp and skips the
//! call. The filter therefore never sees an application's call; if a bug ever let one through,
//! the process dies, because the instruction is not in the code page.

use libc::{c_long, sock_filter, user_regs_struct};

use super::requests::{USER_CS, USER_SS};

/// First address that no mapping may have (`TASK_SIZE_MAX` with four-level page tables).
pub(super) const USER_END: u64 = (1 << 47) - PAGE;
/// Page size of x86-64.
pub(super) const PAGE: u64 = 4096;
/// Length of the reserved region's used part: hole, scratch, hole, code, hole.
pub(super) const RESERVED: u64 = 5 * PAGE;

/// `syscall; int3`, then what the untraced seed does: wait until somebody attaches or the sentry's
/// end of the socket closes, then exit.
pub(super) const CODE: &[u8] = &[
    0x0f, 0x05, // syscall
    0xcc, // int3
    0x90, // nop
    // IDLE: recvfrom with the registers of `idle_registers`
    0x0f, 0x05, // syscall
    0x31, 0xff, // xor edi, edi
    0xb8, 0xe7, 0x00, 0x00, 0x00, // mov eax, SYS_exit_group
    0x0f, 0x05, // syscall
    0x0f, 0x0b, // ud2
];
/// Offset of `int3`, where a new seed reports itself.
pub(super) const BREAK_OFFSET: u64 = 2;
const AFTER_BREAK_OFFSET: u64 = 3;
const IDLE_OFFSET: u64 = 4;

/// Interrupts on and the bit that is always set.
const PLAIN_FLAGS: u64 = 0x202;
/// `orig_rax` of a thread that is in no system call, so that no restart is attempted.
pub(super) const NO_CALL: u64 = u64::MAX;

/// Where the reserved pages lie; the same in every stub of a platform.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reserved {
    /// End of the application's part.
    pub(super) start: u64,
}

impl Reserved {
    pub(super) const fn scratch(self) -> u64 {
        self.start + PAGE
    }

    pub(super) const fn code(self) -> u64 {
        self.start + 3 * PAGE
    }

    /// Instruction pointer after an injected call.
    pub(super) const fn after_call(self) -> u64 {
        self.code() + AFTER_BREAK_OFFSET
    }

    /// Registers that make the gadget execute `call`.
    pub(super) fn call_registers(self, call: c_long, arguments: [u64; 6]) -> user_regs_struct {
        let [rdi, rsi, rdx, r10, r8, r9] = arguments;
        let mut registers = blank_registers();
        registers.rip = self.code();
        registers.rax = call.cast_unsigned();
        registers.rdi = rdi;
        registers.rsi = rsi;
        registers.rdx = rdx;
        registers.r10 = r10;
        registers.r8 = r8;
        registers.r9 = r9;
        registers
    }

    /// Registers of the untraced seed: `recvfrom(0, NULL, 0, 0, NULL, NULL)`, then exit.
    pub(super) fn idle_registers(self) -> user_regs_struct {
        let mut registers = self.call_registers(libc::SYS_recvfrom, [0; 6]);
        registers.rip = self.code() + IDLE_OFFSET;
        registers
    }
}

/// Registers of a thread at birth: zero, in 64-bit user mode.
pub(super) fn blank_registers() -> user_regs_struct {
    // SAFETY: an all-zero `user_regs_struct` is a valid value (integers only).
    let mut registers: user_regs_struct = unsafe { std::mem::zeroed() };
    registers.cs = USER_CS;
    registers.ss = USER_SS;
    registers.eflags = PLAIN_FLAGS;
    registers.orig_rax = NO_CALL;
    registers
}

/// What the gadget may ask of the host, and why.
const ALLOWED: &[(c_long, &str)] = &[
    (libc::SYS_mmap, "memory operations"),
    (libc::SYS_munmap, "memory operations"),
    (libc::SYS_mprotect, "memory operations"),
    (libc::SYS_mremap, "memory operations"),
    (libc::SYS_madvise, "memory operations"),
    (libc::SYS_mincore, "native"),
    (libc::SYS_arch_prctl, "native FS and GS base changes"),
    (libc::SYS_sched_yield, "native"),
    (libc::SYS_clone, "new threads and address spaces"),
    (libc::SYS_exit, "the end of a thread"),
    (libc::SYS_exit_group, "the end of a process; the seed's end when the sentry died before attaching"),
    (libc::SYS_recvmsg, "descriptors to map"),
    (libc::SYS_close, "descriptors that were mapped"),
    (libc::SYS_recvfrom, "the seed before it is attached"),
    (libc::SYS_getrusage, "processor time of one thread of several"),
];

/// Every `CLONE_NEW*` flag: a stub makes no namespaces.
const CLONE_NEW_ANY: u32 = 0x7e02_0080;

/// The stub's seccomp program (`man 2 seccomp`): the calls of [`ALLOWED`] from the code page;
/// `SIGSYS` for the legacy vsyscall page, which the host would answer by itself otherwise; death for the rest.
pub(super) fn filter(reserved: Reserved) -> Vec<sock_filter> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const JUMP_IF_BITS: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
    // Offsets in `struct seccomp_data`.
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    const IP_LOW: u32 = 8;
    const IP_HIGH: u32 = 12;
    const FIRST_ARGUMENT_LOW: u32 = 16;

    let op = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let kill = op(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS);
    let allow = op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW);
    let high = (reserved.code() >> 32) as u32;
    let low = (reserved.code() & 0xffff_f000) as u32;
    let mut program = vec![
        op(LOAD, 0, 0, ARCHITECTURE),
        op(JUMP_IF_EQUAL, 1, 0, AUDIT_ARCH_X86_64),
        kill,
        op(LOAD, 0, 0, IP_HIGH),
        op(JUMP_IF_EQUAL, 3, 0, high),
        op(JUMP_IF_EQUAL, 0, 1, u32::MAX),
        op(RETURN, 0, 0, libc::SECCOMP_RET_TRAP),
        kill,
        op(LOAD, 0, 0, IP_LOW),
        op(AND, 0, 0, 0xffff_f000),
        op(JUMP_IF_EQUAL, 1, 0, low),
        kill,
        op(LOAD, 0, 0, NUMBER),
    ];
    for &(call, _) in ALLOWED {
        let number = u32::try_from(call).unwrap_or(u32::MAX);
        if call == libc::SYS_clone {
            program.extend([
                op(JUMP_IF_EQUAL, 0, 4, number),
                op(LOAD, 0, 0, FIRST_ARGUMENT_LOW),
                op(JUMP_IF_BITS, 0, 1, CLONE_NEW_ANY),
                kill,
                allow,
            ]);
        } else {
            program.extend([op(JUMP_IF_EQUAL, 0, 1, number), allow]);
        }
    }
    program.push(kill);
    program
}
