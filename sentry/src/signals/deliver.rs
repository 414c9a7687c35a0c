//! Delivery at a trap boundary: the next signal is taken and acted upon; `rt_sigreturn` undoes it.

use abi::signal_frame::{FP_XSTATE_MAGIC1, FPX_SW_BYTES_OFFSET, FXSAVE_SIZE, FpxSwBytes, RtSigFrame};
use abi::signal_info::SigInfo;
use abi::signals::{DefaultAction, SIGSEGV, SaFlags, SigAction, SigSet, Signal, StackFlags, StackT};
use abi::user::UserAddress;
use platform::Registers;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::frame::{self, FaultDetails};
use crate::task::{ChildEvent, ExitStatus, Task, TaskState};
use crate::wait::{PollEvents, Restart};

/// Largest vector state accepted from a frame, in bytes (AMX state is 8 KiB and a bit).
const VECTOR_STATE_MAX: usize = 16 << 10;

/// What to do about the interrupted system call when the registers are set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupted {
    /// There was none, or it has its result in `rax` already.
    No,
    /// It gave no result; the number is what `rax` must hold to make it again.
    Call { restart: Restart, number: u64 },
}

/// What a look at the pending signals led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// Nothing deliverable is left; no handler was set up.
    Nothing,
    /// The registers now begin a handler.
    Handler,
    /// The task has to exit.
    Exit,
}

impl Task {
    /// Acts on pending signals until none is deliverable, or a handler has been set up. The context is captured
    /// when a handler is.
    pub(crate) async fn deliver_signals(&self, mut interrupted: Interrupted) -> Delivered {
        let mut delivered = Delivered::Nothing;
        loop {
            if self.must_exit.lock().is_some() {
                return Delivered::Exit;
            }
            if self.group.signals.is_stopped() {
                self.wait_while_stopped().await;
                continue;
            }
            let Some((signal, info)) = self.take_signal() else { break };
            let action = self.group.signals.handlers().get(signal);
            if action.is_ignore() {
                continue;
            }
            if action.is_default() {
                if self.default_action(signal) {
                    return Delivered::Exit;
                }
                continue;
            }
            if !self.set_up_handler(signal, info, action, interrupted).await {
                // No room for the frame: as Linux does, a SIGSEGV that cannot be handled on the same stack again.
                if signal == SIGSEGV {
                    self.group.signals.handlers().set(SIGSEGV, SigAction::new_zeroed());
                }
                self.force_signal(SIGSEGV, SigInfo::kernel(SIGSEGV));
                continue;
            }
            interrupted = Interrupted::No;
            delivered = Delivered::Handler;
        }
        if delivered == Delivered::Nothing
            && let Some(mask) = self.signals.saved_mask.lock().take()
        {
            self.set_signal_mask(mask);
        }
        delivered
    }

    /// Takes a pending signal of a set, blocked or not (`sigtimedwait`, signalfd).
    pub fn take_pending(&self, wanted: SigSet) -> Option<(Signal, SigInfo)> {
        let own = self.signals.pending.lock().take(wanted);
        own.or_else(|| self.group.signals.pending.lock().take(wanted))
    }

    /// The stack pointer, the context being captured for it. `None` if the thread died.
    pub async fn stack_pointer(&self) -> Option<u64> {
        self.capture().await.ok()?;
        self.with_context(|context| context.registers().map(|registers| registers.rsp)).flatten()
    }

    /// Takes the next deliverable signal, the thread's own first.
    fn take_signal(&self) -> Option<(Signal, SigInfo)> {
        self.take_pending(!self.signals.mask())
    }

    /// Carries out the default action. Returns whether the task has to exit.
    fn default_action(&self, signal: Signal) -> bool {
        // Init is protected from its own children's and its own signals, except from faults.
        let protected = self.group.is_protected() && !SigSet::SYNCHRONOUS.contains(signal);
        match signal.default_action() {
            DefaultAction::Ignore => false,
            DefaultAction::Continue => false,
            DefaultAction::Stop if protected => false,
            DefaultAction::Stop => {
                if self.stop_is_possible(signal) && self.group.signals.stop(signal) {
                    for task in self.group.tasks() {
                        task.notify();
                    }
                    self.group.report_to_parent(ChildEvent::Stopped(signal));
                }
                false
            }
            DefaultAction::Terminate | DefaultAction::Core if protected => false,
            DefaultAction::Terminate => {
                self.group.begin_exit(ExitStatus::Killed { signal, core: false });
                true
            }
            DefaultAction::Core => {
                // No core is ever written, so the status does not claim one.
                self.group.begin_exit(ExitStatus::Killed { signal, core: false });
                true
            }
        }
    }

    /// Terminal stops do not stop orphaned process groups (POSIX, "orphaned process group").
    fn stop_is_possible(&self, signal: Signal) -> bool {
        signal == abi::signals::SIGSTOP || !self.kernel.processes.is_orphaned_group(&self.group)
    }

    async fn wait_while_stopped(&self) {
        self.set_state(TaskState::Stopped);
        self.group
            .signals
            .continued
            .until(PollEvents::IN, || {
                (!self.group.signals.is_stopped() || self.must_exit.lock().is_some()).then_some(())
            })
            .await;
        self.set_state(TaskState::Running);
    }

    /// Builds the handler's frame and points the registers at it. `false` if the stack has no room.
    async fn set_up_handler(
        &self,
        signal: Signal,
        info: SigInfo,
        action: SigAction,
        interrupted: Interrupted,
    ) -> bool {
        if self.capture().await.is_err() {
            return true;
        }
        let Some((mut registers, vector_state)) =
            self.with_context(|context| Some((*context.registers()?, context.fp_state().ok()?))).flatten()
        else {
            return true;
        };
        finish_call(&mut registers, interrupted, Some(action.flags()));
        let mask = self.signals.saved_mask.lock().take().unwrap_or_else(|| self.signals.mask());
        let stack = *self.signals.stack.lock();
        let (top, on_own_stack) = handler_stack(&action, &stack, registers.rsp);
        let Some(place) = frame::place(top, on_own_stack, vector_state.len()) else { return false };
        if !on_own_stack && place.frame < stack.ss_sp.address() {
            return false;
        }
        let fault = self.take_fault_details(signal);
        let shown = stack_as_shown(&stack, registers.rsp);
        let bytes = frame::build(&registers, action.sa_restorer, mask, shown, info, &place, fault);
        if self.write_exact(place.vector_state, &vector_state).is_err()
            || self.write_exact(place.frame, bytes.as_bytes()).is_err()
        {
            return false;
        }
        if stack.ss_flags & StackFlags::SS_AUTODISARM.bits() != 0 {
            *self.signals.stack.lock() = StackT::DISABLED;
        }
        frame::enter(
            &mut registers,
            action.sa_handler.address(),
            signal.number().unsigned_abs().into(),
            place.frame,
        );
        self.enter_mask(signal, &action);
        self.with_context(|context| {
            if let Some(place) = context.registers() {
                *place = registers;
            }
            context.set_fp_state(None)
        });
        true
    }

    /// The mask while the handler runs.
    fn enter_mask(&self, signal: Signal, action: &SigAction) {
        let flags = action.flags();
        let mut mask = self.signals.mask() | action.sa_mask;
        if !flags.contains(SaFlags::SA_NODEFER) {
            mask.insert(signal);
        }
        self.set_signal_mask(mask);
        if flags.contains(SaFlags::SA_RESETHAND) {
            self.group.signals.handlers().set(signal, SigAction::new_zeroed());
        }
    }

    /// `rt_sigreturn(2)`: everything from the frame that the stack pointer shows. A broken frame is a `SIGSEGV`.
    pub async fn return_from_signal(&self) {
        if self.capture().await.is_err() {
            return;
        }
        // Whatever the handler interrupted has ended with EINTR, and is not to be continued.
        *self.restart_block.lock() = None;
        if self.try_return_from_signal().is_none() {
            self.force_signal(SIGSEGV, SigInfo::kernel(SIGSEGV));
        }
    }

    fn try_return_from_signal(&self) -> Option<()> {
        let rsp =
            self.with_context(|context| context.registers().map(|registers| registers.rsp)).flatten()?;
        let frame: RtSigFrame = self.read_value(rsp.checked_sub(8)?).ok()?;
        let vector_state = match frame.uc.uc_mcontext.fpstate.address() {
            0 => None,
            address => Some(self.read_vector_state(address)?),
        };
        self.set_signal_mask(frame.uc.uc_sigmask);
        let stack = frame.uc.uc_stack;
        if stack.ss_flags & StackFlags::SS_DISABLE.bits() != 0 {
            *self.signals.stack.lock() = StackT::DISABLED;
        } else if stack.ss_size >= abi::signals::MINSIGSTKSZ {
            let kept = stack.ss_flags & StackFlags::SS_AUTODISARM.bits();
            *self.signals.stack.lock() = StackT { ss_flags: kept, ..stack };
        }
        let registers = frame::restore(&frame.uc.uc_mcontext);
        self.with_context(|context| {
            context.set_fp_state(vector_state.as_deref()).ok()?;
            *context.registers()? = registers;
            Some(())
        })?
    }

    fn read_vector_state(&self, address: u64) -> Option<Vec<u8>> {
        let mut legacy = [0_u8; FXSAVE_SIZE];
        self.read_exact(address, &mut legacy).ok()?;
        let note = FpxSwBytes::read_from_prefix(legacy.get(FPX_SW_BYTES_OFFSET..)?).ok()?.0;
        let size = usize::try_from(note.extended_size).unwrap_or(0);
        if note.magic1 != FP_XSTATE_MAGIC1 || !(FXSAVE_SIZE..=VECTOR_STATE_MAX).contains(&size) {
            return Some(legacy.to_vec());
        }
        let mut all = vec![0_u8; size];
        self.read_exact(address, &mut all).ok()?;
        Some(all)
    }

    /// Details of the fault that is pending as `signal`.
    fn take_fault_details(&self, signal: Signal) -> FaultDetails {
        if SigSet::SYNCHRONOUS.contains(signal) {
            self.fault.lock().take().unwrap_or_default()
        } else {
            FaultDetails::default()
        }
    }
}

/// Gives an interrupted call its result or makes it begin again (`man 7 signal`). `handler` are the flags of the
/// handler that runs first, if one does.
pub(crate) fn finish_call(registers: &mut Registers, interrupted: Interrupted, handler: Option<SaFlags>) {
    let Interrupted::Call { restart, number } = interrupted else { return };
    let again = match (restart, handler) {
        (Restart::Never, _) => false,
        (Restart::NoIntr, _) => true,
        (Restart::Sys, Some(flags)) => flags.contains(SaFlags::SA_RESTART),
        (Restart::NoHand | Restart::Block, Some(_)) => false,
        (_, None) => true,
    };
    if again {
        registers.rip = registers.rip.wrapping_sub(2);
        registers.rax = if restart == Restart::Block { abi::nr::RESTART_SYSCALL as u64 } else { number };
    } else {
        registers.rax = abi::errno::EINTR.to_return_value();
    }
}

/// Where the handler's stack begins, and whether that is the interrupted stack itself (whose red zone must live).
fn handler_stack(action: &SigAction, stack: &StackT, rsp: u64) -> (u64, bool) {
    let enabled = stack.ss_flags & StackFlags::SS_DISABLE.bits() == 0;
    if action.flags().contains(SaFlags::SA_ONSTACK) && enabled && !is_on(stack, rsp) {
        (stack.ss_sp.address().wrapping_add(stack.ss_size), false)
    } else {
        (rsp, true)
    }
}

fn is_on(stack: &StackT, rsp: u64) -> bool {
    stack.ss_flags & StackFlags::SS_AUTODISARM.bits() == 0 && stack.contains(UserAddress(rsp))
}

/// The stack as `sigaltstack` and the frame show it.
pub(crate) fn stack_as_shown(stack: &StackT, rsp: u64) -> StackT {
    let mut shown = *stack;
    if stack.ss_flags & StackFlags::SS_DISABLE.bits() == 0 && is_on(stack, rsp) {
        shown.ss_flags |= StackFlags::SS_ONSTACK.bits();
    }
    shown
}
