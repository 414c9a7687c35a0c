//! What a thread's registers mean when a signal found it inside the stub's fast path, in a trampoline, or on bytes that
//! a patch has replaced.
//!
//! The application must never see such a state: it sees itself before the `syscall` instruction (the call has not been made yet),
//! behind it (the call is done), or on the instruction that the trampoline's stands for. Everything read from the slot
//! here is the thread's own, and at worst deceives the thread.
//!
//! Key type: [`Settled`]. Neighbours: `enter.s`, whose labels delimit the phases; `code`, which knows the trampolines.

use abi::errno;

use super::Core;
use super::memory::Memory;
use super::seed::INTERRUPT_SIGNAL;
use super::thread::{Thread, call_error};
use crate::stub::{
    ANSWER_DEEP, AREA, SLOT_ARGUMENTS, SLOT_MASK, SLOT_NUMBER, SLOT_OUT_ADDRESS, SLOT_OUT_LENGTH,
    SLOT_OUT_OFFSET, SLOT_RESULT, SLOT_RETURN, STATE_IDLE, STATE_REQUEST,
};
use crate::{Architecture, Registers, SyscallRequest};

const ZERO_FLAG: u64 = 1 << 6;

/// What to make of the registers of a thread that a signal has interrupted.
pub enum Settled {
    /// They are the application's.
    Application(Registers),
    /// The thread goes on in the stub, with these: the kernel need not know.
    Inside(Registers),
    /// A call that could not be carried, because the register that leads to the slot is not ours any more. The registers
    /// are those behind the instruction.
    Call(Registers, SyscallRequest),
}

/// How far a call through the stub has come.
enum Phase {
    /// Not made; the registers are as they came.
    Untouched,
    /// Not made, or begun and taken back by the host: then rcx is not the way back any more, which stands in the slot.
    Ringing,
    /// Not made; the arguments have to be put back.
    Unmade,
    /// As unmade, but that the new mask is written; the old one is in r8.
    Changed,
    /// Made through the slot: what the slot's state says.
    Asked,
    /// Done, with the result in rax.
    Done,
    /// Another call was made in its place, with this result.
    Substituted,
    /// A child begins: what it did for itself is done.
    Fresh,
    /// Done, and nothing but rax has changed.
    DonePlainly,
}

impl Core {
    /// Judges the registers of a running thread that took `signal`.
    pub fn settle(&self, thread: &Thread, registers: &Registers, signal: i32, fault_address: u64) -> Settled {
        let labels = &self.labels;
        let code = &thread.slot.space.code;
        let mut registers = *registers;
        if (labels.enter..labels.entered).contains(&registers.rip) {
            if signal == INTERRUPT_SIGNAL && self.fell_short(thread, &registers) {
                let request = SyscallRequest {
                    number: u64::from(thread.slot.half(SLOT_NUMBER)),
                    arguments: slot_arguments(thread),
                    ip: labels.again_ip,
                    architecture: Architecture::X86_64,
                    hot: false,
                };
                restore(&mut registers, &request.arguments);
                registers.rax = request.number;
                self.stand_behind(thread, &mut registers);
                return Settled::Call(registers, request);
            }
            return if signal == INTERRUPT_SIGNAL {
                self.leave_stub(thread, &mut registers);
                Settled::Application(registers)
            } else {
                self.mend(thread, registers, fault_address)
            };
        }
        if signal != INTERRUPT_SIGNAL
            && let Some(rip) = code.resume_at(registers.rip)
        {
            registers.rip = rip;
            return Settled::Inside(registers);
        }
        if let Some(rip) = code.original_rip(registers.rip) {
            registers.rip = rip;
        }
        Settled::Application(registers)
    }

    /// The registers of a thread that was captured in a system call: behind its instruction.
    pub fn settle_captured(
        &self,
        thread: &Thread,
        registers: &mut Registers,
        request: Option<&SyscallRequest>,
    ) {
        let inside = (self.labels.enter..self.labels.entered).contains(&registers.rip);
        if let Some(request) = request {
            restore(registers, &request.arguments);
            registers.rax = request.number;
        }
        if inside {
            self.stand_behind(thread, registers);
        } else if let Some(rip) = thread.slot.space.code.original_rip(registers.rip) {
            registers.rip = rip;
        }
    }

    /// Where a thread with the application's registers has to be put.
    pub fn unsettle(&self, thread: &Thread, registers: &Registers) -> Registers {
        let rip = thread.slot.space.code.resume_at(registers.rip).unwrap_or(registers.rip);
        Registers { rip, ..*registers }
    }

    /// Whether a read that was made in a call's place has not given what was foreseen, so that the call is about to be made.
    fn fell_short(&self, thread: &Thread, registers: &Registers) -> bool {
        let labels = &self.labels;
        (labels.transfer_ip..labels.again_ip).contains(&registers.rip)
            && registers.rax != thread.slot.word(SLOT_RESULT)
    }

    fn phase(&self, registers: &Registers) -> Phase {
        let labels = &self.labels;
        let zero = registers.eflags & ZERO_FLAG != 0;
        let look = registers.rax == ANSWER_DEEP;
        match registers.rip {
            rip if (labels.deep..labels.woken).contains(&rip) => Phase::Asked,
            rip if look && (labels.plain_ip..labels.plain_end).contains(&rip) => Phase::Asked,
            rip if look && (labels.ring_ip..labels.rung).contains(&rip) => Phase::Asked,
            rip if (labels.own_set..labels.own_kept).contains(&rip) => Phase::Changed,
            rip if (labels.own_undo..labels.own_undone).contains(&rip) => Phase::Changed,
            rip if rip == labels.own_kept => Phase::Done,
            rip if rip == labels.place_ip => {
                if look {
                    Phase::Asked
                } else {
                    Phase::Done
                }
            }
            rip if (labels.own..labels.own_end).contains(&rip) => Phase::Unmade,
            rip if look && rip >= labels.direct_ip => Phase::Asked,
            rip if rip >= labels.direct_ip => Phase::Substituted,
            rip if rip >= labels.direct_saved => Phase::Unmade,
            rip if rip >= labels.direct => Phase::Untouched,
            rip if rip == labels.fact => Phase::DonePlainly,
            rip if rip < labels.saved && rip >= labels.plain_ip && rip < labels.plain_end => {
                Phase::DonePlainly
            }
            rip if rip < labels.saved && rip >= labels.plain && rip < labels.plain_ip => Phase::Ringing,
            rip if rip < labels.saved => Phase::Untouched,
            rip if rip < labels.asked => Phase::Unmade,
            rip if rip == labels.asked && !zero => Phase::Unmade,
            rip if rip == labels.took_back && zero => Phase::Unmade,
            rip if rip <= labels.answered => Phase::Asked,
            rip if rip < labels.ring => Phase::Done,
            rip if rip < labels.ring_ip => Phase::Unmade,
            rip if rip >= labels.substitute_ip && rip < labels.substituted => Phase::Substituted,
            rip if rip >= labels.spawn_ip && rip < labels.spawned_ip => Phase::Substituted,
            rip if rip > labels.spawned_ip && rip < labels.fresh_end => Phase::Fresh,
            _ => Phase::Done,
        }
    }

    /// Takes a running thread out of the stub: back to before its call, or behind it.
    fn leave_stub(&self, thread: &Thread, registers: &mut Registers) {
        let slot = &thread.slot;
        match self.phase(registers) {
            Phase::Untouched => self.stand_before(thread, registers, registers.rcx),
            Phase::Ringing => self.stand_before(thread, registers, thread.slot.word(SLOT_RETURN)),
            Phase::Unmade => self.unmake(thread, registers),
            Phase::Changed => {
                slot.swap_long(SLOT_MASK, registers.r8);
                self.unmake(thread, registers);
            }
            // Taken back before anybody has looked.
            Phase::Asked if slot.change_state(STATE_REQUEST, STATE_IDLE).is_ok() => {
                self.unmake(thread, registers)
            }
            Phase::Asked => {
                registers.rax = slot.word(SLOT_RESULT);
                self.complete(thread, registers);
            }
            Phase::Done => self.complete(thread, registers),
            Phase::Fresh => {
                registers.rax = 0;
                self.complete(thread, registers);
            }
            Phase::Substituted => {
                if call_error(registers.rax).is_none() {
                    registers.rax = slot.word(SLOT_RESULT);
                }
                self.complete(thread, registers);
            }
            Phase::DonePlainly if registers.rip == self.labels.fact => {
                registers.rip = registers.rcx;
                self.behind(thread, registers);
            }
            Phase::DonePlainly => self.stand_behind(thread, registers),
        }
    }

    fn unmake(&self, thread: &Thread, registers: &mut Registers) {
        restore(registers, &slot_arguments(thread));
        registers.rax = u64::from(thread.slot.half(SLOT_NUMBER));
        self.stand_before(thread, registers, thread.slot.word(SLOT_RETURN));
    }

    /// Does what the stub had left to do behind a call.
    fn complete(&self, thread: &Thread, registers: &mut Registers) {
        let slot = &thread.slot;
        restore(registers, &slot_arguments(thread));
        let length = u64::from(slot.half(SLOT_OUT_LENGTH)).min(AREA) as usize;
        if length > 0 {
            let mut bytes = vec![0; length];
            let offset = u64::from(slot.half(SLOT_OUT_OFFSET)).min(AREA) as usize;
            slot.read(slot.geometry().stack_end + offset, &mut bytes);
            Memory::write_out(thread, self.layout.max_address, slot.word(SLOT_OUT_ADDRESS), &bytes);
        }
        self.stand_behind(thread, registers);
    }

    /// The thread is about to make the call.
    fn stand_before(&self, thread: &Thread, registers: &mut Registers, back: u64) {
        match thread.slot.space.code.site_of_return(back) {
            Some(site) => registers.rip = site,
            // Nobody we know: once more from the stub's door.
            None => (registers.rip, registers.rcx) = (self.labels.enter, back),
        }
    }

    /// The thread has made the call.
    fn stand_behind(&self, thread: &Thread, registers: &mut Registers) {
        registers.rip = thread.slot.word(SLOT_RETURN);
        self.behind(thread, registers);
    }

    /// From the address in the trampoline to that behind the instruction; and what the instruction leaves in rcx and r11.
    fn behind(&self, thread: &Thread, registers: &mut Registers) {
        if let Some(site) = thread.slot.space.code.site_of_return(registers.rip) {
            registers.rip = site + 2;
        }
        registers.rcx = registers.rip;
        registers.r11 = registers.eflags;
    }

    /// The stub's own access to memory has failed.
    fn mend(&self, thread: &Thread, mut registers: Registers, fault_address: u64) -> Settled {
        let labels = &self.labels;
        let rip = registers.rip;
        // The call is made without what cannot be carried; the kernel will find out why.
        if (labels.copy_in..labels.copied_in).contains(&rip)
            || (labels.own_read..labels.own_probed).contains(&rip)
            || (labels.copy_string..labels.copied_string).contains(&rip)
        {
            registers.rip = labels.no_input;
            return Settled::Inside(registers);
        }
        if (labels.direct_saved..labels.direct_ip).contains(&rip) {
            // What is asked for cannot be read.
            registers.rip = labels.ring;
            return Settled::Inside(registers);
        }
        if (labels.probe..labels.probed).contains(&rip) {
            registers.rip = labels.no_output;
            return Settled::Inside(registers);
        }
        if (labels.copy_out..labels.copied_out).contains(&rip) {
            registers.rax = errno::EFAULT.to_return_value();
            registers.rip = labels.copied_out;
            return Settled::Inside(registers);
        }
        tracing::debug!(fault_address, rip, "the stub cannot reach its slot");
        if rip < labels.saved || (labels.direct..labels.direct_saved).contains(&rip) {
            let request = SyscallRequest {
                number: registers.rax,
                arguments: arguments(&registers),
                ip: rip,
                architecture: Architecture::X86_64,
                hot: false,
            };
            registers.rip = registers.rcx;
            self.behind(thread, &mut registers);
            return Settled::Call(registers, request);
        }
        // It reached it before, so the thread has been tampered with.
        Settled::Application(registers)
    }
}

fn slot_arguments(thread: &Thread) -> [u64; 6] {
    std::array::from_fn(|index| thread.slot.word(SLOT_ARGUMENTS + index * 8))
}

fn arguments(registers: &Registers) -> [u64; 6] {
    let r = registers;
    [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]
}

fn restore(registers: &mut Registers, arguments: &[u64; 6]) {
    let r = registers;
    [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9] = *arguments;
}
