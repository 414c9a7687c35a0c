//! Reading and writing the signal frame that a captured thread returns through.
//!
//! The layout is that of `struct rt_sigframe` in Linux's `arch/x86/include/asm/sigframe.h`: return address, `ucontext`,
//! `siginfo`, and the XSAVE area elsewhere on the signal stack. It lies in a slot, so everything in it is hostile; the
//! kernel validates what `rt_sigreturn` loads, and we rewrite whatever must hold for us.
//!
//! Key types: [`Frame`] (where it is, validated once), [`FpTemplate`] (what a genuine XSAVE area looks like here).

use super::slots::Slot;
use crate::stub::{FRAME_RAX, SLOT_STACK};
use crate::{Fault, Registers};

const UC_FLAGS: usize = 8;
const UC_LINK: usize = 16;
const SS_SP: usize = 24;
const SS_FLAGS: usize = 32;
const SS_SIZE: usize = 40;
const GREGS: usize = 48;
const _: () = assert!(FRAME_RAX == GREGS + 13 * 8);
const CS_GS_FS_SS: usize = GREGS + 18 * 8;
const ERR: usize = GREGS + 19 * 8;
const TRAPNO: usize = GREGS + 20 * 8;
const FPSTATE: usize = GREGS + 23 * 8;
const SIGMASK: usize = 304;
const SI_CODE: usize = 320;
const SI_ADDR: usize = 328;
const FRAME_SIZE: usize = 440;

/// Bytes of the legacy (FXSAVE) part, before the XSAVE header.
const FX_SIZE: usize = 512;
const XSAVE_HEADER_SIZE: usize = 64;
const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
const SW_RESERVED: usize = 464;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
const DEFAULT_MXCSR: u32 = 0x1f80;
const DEFAULT_MXCSR_MASK: u32 = 0xffbf;

/// Where a captured thread's frame is, as offsets in its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    start: usize,
    fp: usize,
}

/// The properties of XSAVE areas on this machine, learned from the seed before any application ran.
#[derive(Clone, Debug)]
pub struct FpTemplate {
    /// Bytes of the area with its header, without the closing magic.
    pub xstate_size: usize,
    /// State components that may be loaded.
    pub features: u64,
    /// The software-reserved bytes.
    reserved: [u8; 48],
    flags: u64,
    segments: u64,
}

impl FpTemplate {
    /// Reads the seed's genuine frame. `None` if the kernel did not write an XSAVE frame.
    pub fn learn(slot: &Slot, start: u64) -> Option<Self> {
        let start = usize::try_from(start.checked_sub(slot.address)?).ok()?;
        let fp = usize::try_from(slot.word(start + FPSTATE).checked_sub(slot.address)?).ok()?;
        let mut reserved = [0; 48];
        slot.read(fp + SW_RESERVED, &mut reserved);
        let word = |at: usize| {
            u32::from_ne_bytes([reserved[at], reserved[at + 1], reserved[at + 2], reserved[at + 3]])
        };
        let xstate_size = word(16) as usize;
        let sane = word(0) == MAGIC1
            && word(4) as usize == xstate_size + 4
            && xstate_size >= FX_SIZE + XSAVE_HEADER_SIZE
            && fp + xstate_size + 4 <= slot.geometry().stack_end;
        sane.then(|| Self {
            xstate_size,
            features: u64::from(word(8)) | u64::from(word(12)) << 32,
            reserved,
            flags: slot.word(start + UC_FLAGS),
            segments: slot.word(start + CS_GS_FS_SS),
        })
    }

    /// Bytes of an area with its closing magic.
    pub fn extended_size(&self) -> usize {
        self.xstate_size + 4
    }
}

impl Frame {
    /// Accepts a frame only if it lies, with its vector state, on the slot's own signal stack.
    pub fn validate(slot: &Slot, address: u64, template: &FpTemplate) -> Option<Self> {
        let end = slot.geometry().stack_end;
        let start = usize::try_from(address.checked_sub(slot.address)?).ok()?;
        // The frame is 8 below a multiple of 16 (the ABI's stack alignment at function entry).
        if start % 16 != 8 || start < SLOT_STACK || start > end - FRAME_SIZE {
            return None;
        }
        let fp = usize::try_from(slot.word(start + FPSTATE).checked_sub(slot.address)?).ok()?;
        if !fp.is_multiple_of(64)
            || fp < start + FRAME_SIZE
            || fp > end.checked_sub(template.extended_size())?
        {
            return None;
        }
        Some(Self { start, fp })
    }

    /// Address of the frame in the application.
    pub fn address(self, slot: &Slot) -> u64 {
        slot.address + self.start as u64
    }

    /// Copies the whole frame to the same offsets of another slot.
    pub fn copy(self, from: &Slot, to: &Slot) {
        let mut bytes = vec![0; from.geometry().stack_end - self.start];
        from.read(self.start, &mut bytes);
        to.write(self.start, &bytes);
    }

    /// The interrupted general registers.
    pub fn registers(self, slot: &Slot) -> Registers {
        let word = |index: usize| slot.word(self.start + GREGS + index * 8);
        Registers {
            r8: word(0),
            r9: word(1),
            r10: word(2),
            r11: word(3),
            r12: word(4),
            r13: word(5),
            r14: word(6),
            r15: word(7),
            rdi: word(8),
            rsi: word(9),
            rbp: word(10),
            rbx: word(11),
            rdx: word(12),
            rax: word(13),
            rcx: word(14),
            rsp: word(15),
            rip: word(16),
            eflags: word(17),
        }
    }

    /// Writes the registers and everything else that the return depends on.
    pub fn set_registers(self, slot: &Slot, registers: &Registers, template: &FpTemplate) {
        let r = registers;
        let words = [
            r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax,
            r.rcx, r.rsp, r.rip, r.eflags,
        ];
        for (index, value) in words.into_iter().enumerate() {
            slot.set_word(self.start + GREGS + index * 8, value);
        }
        slot.set_word(self.start + UC_FLAGS, template.flags);
        slot.set_word(self.start + UC_LINK, 0);
        let (stack, length) = slot.signal_stack();
        slot.set_word(self.start + SS_SP, stack);
        slot.set_word(self.start + SS_FLAGS, 0);
        slot.set_word(self.start + SS_SIZE, length);
        slot.set_word(self.start + FPSTATE, slot.address + self.fp as u64);
        slot.set_word(self.start + SIGMASK, 0);
    }

    /// Makes a copied frame one of 64-bit user code, as at the start of a program.
    pub fn reset_segments(self, slot: &Slot, template: &FpTemplate) {
        slot.set_word(self.start + CS_GS_FS_SS, template.segments);
    }

    /// What the kernel told the handler about a fault.
    pub fn fault(self, slot: &Slot, signal: u8) -> Fault {
        Fault {
            signal,
            code: slot.word(self.start + SI_CODE) as u32 as i32,
            address: slot.word(self.start + SI_ADDR),
            error_code: slot.word(self.start + ERR),
            vector: slot.word(self.start + TRAPNO),
        }
    }

    /// The vector state, with trustworthy sizes in it.
    pub fn fp_state(self, slot: &Slot, template: &FpTemplate) -> Vec<u8> {
        let mut area = vec![0; template.extended_size()];
        slot.read(self.fp, &mut area);
        seal_area(&mut area, template);
        area
    }

    /// Replaces the vector state by a sanitized copy, or by the initial state.
    pub fn set_fp_state(self, slot: &Slot, state: Option<&[u8]>, template: &FpTemplate) {
        let mut area = vec![0; template.extended_size()];
        // What the processor supports is in every genuine area; a forged mask only harms its forger.
        let mask = match (slot.word(self.fp + MXCSR) >> 32) as u32 {
            0 => DEFAULT_MXCSR_MASK,
            mask => mask & 0xffff,
        };
        match state.filter(|state| state.len() >= FX_SIZE) {
            Some(state) => load_area(&mut area, state, mask, template),
            None => {
                area[..2].copy_from_slice(&0x37fu16.to_ne_bytes());
                set_u32(&mut area, MXCSR, DEFAULT_MXCSR);
            }
        }
        set_u32(&mut area, MXCSR_MASK, mask);
        seal_area(&mut area, template);
        slot.write(self.fp, &area);
    }
}

/// Copies a hostile area, keeping only what `XRSTOR` accepts (Intel SDM volume 1, 13.8).
fn load_area(area: &mut [u8], state: &[u8], mxcsr_mask: u32, template: &FpTemplate) {
    let extended = state.len() >= template.xstate_size && u32_at(state, SW_RESERVED) == MAGIC1;
    let length = if extended { template.xstate_size } else { FX_SIZE };
    area[..length].copy_from_slice(&state[..length]);
    let components = if extended { u64_at(state, FX_SIZE) & template.features } else { 3 };
    area[FX_SIZE..FX_SIZE + XSAVE_HEADER_SIZE].fill(0);
    area[FX_SIZE..FX_SIZE + 8].copy_from_slice(&components.to_ne_bytes());
    set_u32(area, MXCSR, u32_at(state, MXCSR) & mxcsr_mask);
}

fn seal_area(area: &mut [u8], template: &FpTemplate) {
    area[SW_RESERVED..FX_SIZE].copy_from_slice(&template.reserved);
    set_u32(area, template.xstate_size, MAGIC2);
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

fn set_u32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(word) = bytes.get_mut(at..at + 4) {
        word.copy_from_slice(&value.to_ne_bytes());
    }
}
