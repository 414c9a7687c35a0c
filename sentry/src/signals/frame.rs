//! The bytes of a signal handler's frame (`rt_sigframe` of x86-64).

use abi::signal_frame::{RED_ZONE, RtSigFrame, SigContext, UContext, UcFlags, XSTATE_ALIGNMENT};
use abi::signal_info::SigInfo;
use abi::signals::{SigSet, StackT};
use abi::user::UserAddress;
use platform::Registers;
use zerocopy::FromZeros;

/// Segment selectors of 64-bit user code on Linux.
const USER_CS: u16 = 0x33;
const USER_SS: u16 = 0x2b;
/// Trap, direction and resume flags: clear on entry to a handler.
const ENTRY_CLEAR_FLAGS: u64 = 0x100 | 0x400 | 0x1_0000;

/// Where the parts of a new frame go.
pub(super) struct Placement {
    /// Address of the frame: the handler's stack pointer.
    pub frame: u64,
    /// Address of the vector state.
    pub vector_state: u64,
}

/// Finds room below `top` (the interrupted stack pointer or the top of the alternate stack).
pub(super) fn place(top: u64, skip_red_zone: bool, vector_state_size: usize) -> Option<Placement> {
    let top = if skip_red_zone { top.checked_sub(RED_ZONE)? } else { top };
    let vector_state = top.checked_sub(vector_state_size as u64)? & !(XSTATE_ALIGNMENT - 1);
    let frame = (vector_state.checked_sub(size_of::<RtSigFrame>() as u64)? & !15).checked_sub(8)?;
    Some(Placement { frame, vector_state })
}

/// Details of a fault that go into the context.
#[derive(Clone, Copy, Default)]
pub(crate) struct FaultDetails {
    pub(crate) error_code: u64,
    pub(crate) vector: u64,
    pub(crate) address: u64,
}

/// The frame's contents.
pub(super) fn build(
    registers: &Registers,
    restorer: UserAddress,
    mask: SigSet,
    stack: StackT,
    info: SigInfo,
    placement: &Placement,
    fault: FaultDetails,
) -> RtSigFrame {
    let context = SigContext {
        r8: registers.r8,
        r9: registers.r9,
        r10: registers.r10,
        r11: registers.r11,
        r12: registers.r12,
        r13: registers.r13,
        r14: registers.r14,
        r15: registers.r15,
        rdi: registers.rdi,
        rsi: registers.rsi,
        rbp: registers.rbp,
        rbx: registers.rbx,
        rdx: registers.rdx,
        rax: registers.rax,
        rcx: registers.rcx,
        rsp: registers.rsp,
        rip: registers.rip,
        eflags: registers.eflags,
        cs: USER_CS,
        ss: USER_SS,
        err: fault.error_code,
        trapno: fault.vector,
        oldmask: mask.0,
        cr2: fault.address,
        fpstate: UserAddress(placement.vector_state),
        ..SigContext::new_zeroed()
    };
    let flags = UcFlags::UC_FP_XSTATE | UcFlags::UC_SIGCONTEXT_SS | UcFlags::UC_STRICT_RESTORE_SS;
    let uc = UContext {
        uc_flags: flags.bits(),
        uc_link: UserAddress::NULL,
        uc_stack: stack,
        uc_mcontext: context,
        uc_sigmask: mask,
    };
    RtSigFrame { pretcode: restorer, uc, info }
}

/// Registers with which the handler begins.
pub(super) fn enter(registers: &mut Registers, handler: u64, signal: u64, frame: u64) {
    registers.rip = handler;
    registers.rsp = frame;
    registers.rdi = signal;
    registers.rsi = frame + std::mem::offset_of!(RtSigFrame, info) as u64;
    registers.rdx = frame + std::mem::offset_of!(RtSigFrame, uc) as u64;
    registers.rax = 0;
    registers.eflags &= !ENTRY_CLEAR_FLAGS;
}

/// Registers as a frame describes them.
pub(super) fn restore(context: &SigContext) -> Registers {
    Registers {
        rax: context.rax,
        rbx: context.rbx,
        rcx: context.rcx,
        rdx: context.rdx,
        rsi: context.rsi,
        rdi: context.rdi,
        rbp: context.rbp,
        rsp: context.rsp,
        r8: context.r8,
        r9: context.r9,
        r10: context.r10,
        r11: context.r11,
        r12: context.r12,
        r13: context.r13,
        r14: context.r14,
        r15: context.r15,
        rip: context.rip,
        eflags: context.eflags,
    }
}
