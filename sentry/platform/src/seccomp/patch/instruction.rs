//! One instruction that is to be displaced: what must change when it runs elsewhere.
//!
//! Key type: [`Moved`]. Only what is known to move is accepted; branches are recognised by their bytes, so that nothing hides
//! behind a prefix. Invariant: the bytes are those of one instruction, and at most fifteen.

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction, Mnemonic, OpKind};

use super::{CodeWindow, Refusal};

/// The longest instruction there is.
pub(super) const LONGEST: usize = 15;

/// An instruction at its original place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved<'a> {
    pub at: u64,
    pub bytes: &'a [u8],
    pub kind: Kind,
}

/// How an instruction is moved.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// The same bytes do the same anywhere.
    Verbatim,
    /// The same bytes, and control does not go on behind them: `ret`, indirect `jmp`, `ud2`.
    Leaves,
    /// The operand's address is relative: the four bytes at `field` change.
    RipRelative { field: usize, target: u64, leaves: bool },
    /// `jmp` to a fixed address.
    Jump { target: u64 },
    /// A conditional jump to a fixed address; the low half of its opcode.
    Branch { condition: u8, target: u64 },
    /// `call` of a fixed address; it pushes the original return address.
    Call { target: u64 },
}

impl Moved<'_> {
    /// The first address behind the instruction.
    pub fn end(&self) -> u64 {
        self.at.wrapping_add(super::length(self.bytes))
    }

    /// Whether control never goes on behind the instruction.
    pub fn leaves(&self) -> bool {
        match self.kind {
            Kind::Leaves | Kind::Jump { .. } => true,
            Kind::RipRelative { leaves, .. } => leaves,
            Kind::Verbatim | Kind::Branch { .. } | Kind::Call { .. } => false,
        }
    }
}

/// Decodes the instruction at an address, in 64-bit mode.
pub(super) fn decode<'a>(
    code: &CodeWindow<'a>,
    at: u64,
) -> Result<(Instruction, Decoder<'a>, &'a [u8]), Refusal> {
    let bytes = code.from(at);
    let bytes = bytes.get(..LONGEST).unwrap_or(bytes);
    let decoder = Decoder::try_with_ip(64, bytes, at, DecoderOptions::NONE);
    let mut decoder = decoder.map_err(|_| Refusal::Undecodable)?;
    let instruction = decoder.decode();
    match decoder.last_error() {
        DecoderError::None => {}
        DecoderError::NoMoreBytes if bytes.len() < LONGEST => return Err(Refusal::WindowEnds),
        _ => return Err(Refusal::Undecodable),
    }
    let bytes = bytes.get(..instruction.len()).ok_or(Refusal::Undecodable)?;
    Ok((instruction, decoder, bytes))
}

/// The instruction at an address, if it can be moved.
pub(super) fn movable<'a>(code: &CodeWindow<'a>, at: u64) -> Result<Moved<'a>, Refusal> {
    let (instruction, decoder, bytes) = decode(code, at)?;
    if let Some(kind) = branch(bytes, instruction.next_ip()) {
        return Ok(Moved { at, bytes, kind });
    }
    if must_stay(&instruction) {
        return Err(Refusal::NotMovable);
    }
    let leaves = matches!(instruction.mnemonic(), Mnemonic::Ret | Mnemonic::Jmp | Mnemonic::Ud2);
    let kind = if instruction.is_ip_rel_memory_operand() {
        let offsets = decoder.get_constant_offsets(&instruction);
        // With an address-size prefix the sum wraps at 4 GiB.
        if instruction.memory_base() != iced_x86::Register::RIP || offsets.displacement_size() != 4 {
            return Err(Refusal::NotMovable);
        }
        Kind::RipRelative {
            field: offsets.displacement_offset(),
            target: instruction.ip_rel_memory_address(),
            leaves,
        }
    } else if leaves {
        Kind::Leaves
    } else {
        Kind::Verbatim
    };
    Ok(Moved { at, bytes, kind })
}

/// A direct branch without any prefix.
fn branch(bytes: &[u8], next: u64) -> Option<Kind> {
    let near = |displacement: i64| next.wrapping_add_signed(displacement);
    let short = |byte: u8| near(i64::from(byte.cast_signed()));
    let long = |field: [u8; 4]| near(i64::from(i32::from_le_bytes(field)));
    match *bytes {
        [0xeb, d] => Some(Kind::Jump { target: short(d) }),
        [0xe9, a, b, c, d] => Some(Kind::Jump { target: long([a, b, c, d]) }),
        [0xe8, a, b, c, d] => Some(Kind::Call { target: long([a, b, c, d]) }),
        [op @ 0x70..=0x7f, d] => Some(Kind::Branch { condition: op & 0xf, target: short(d) }),
        [0x0f, op @ 0x80..=0x8f, a, b, c, d] => {
            Some(Kind::Branch { condition: op & 0xf, target: long([a, b, c, d]) })
        }
        _ => None,
    }
}

/// Instructions that are not displaced: other traps, branches of other forms, indirect and far calls (which would push the
/// trampoline's address), what marks the target of an indirect jump, and what code is known to jump into the middle of
/// (past a `lock` prefix).
fn must_stay(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    let branches = instruction.op_kinds().any(|kind| {
        matches!(
            kind,
            OpKind::NearBranch16
                | OpKind::NearBranch32
                | OpKind::NearBranch64
                | OpKind::FarBranch16
                | OpKind::FarBranch32
        )
    });
    branches
        || is_far(instruction)
        || instruction.has_lock_prefix()
        || matches!(
            instruction.mnemonic(),
            M::INVALID
                | M::Syscall
                | M::Sysenter
                | M::Sysexit
                | M::Sysexitq
                | M::Sysret
                | M::Sysretq
                | M::Int
                | M::Int1
                | M::Into
                | M::Iret
                | M::Iretd
                | M::Iretq
                | M::Retf
                | M::Uiret
                | M::Call
                | M::Endbr32
                | M::Endbr64
                | M::Xbegin
                | M::Xend
                | M::Xabort
        )
}

/// Whether an indirect jump loads a code segment too.
fn is_far(instruction: &Instruction) -> bool {
    use iced_x86::Code;
    matches!(instruction.code(), Code::Jmp_m1616 | Code::Jmp_m1632 | Code::Jmp_m1664)
}

/// Whether the instruction does nothing: what compilers fill gaps between functions with.
pub(super) fn is_padding(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
}
