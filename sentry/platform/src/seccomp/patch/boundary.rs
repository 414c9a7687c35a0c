//! Whether an instruction begins at an address, seen from what lies before it.
//!
//! x86 code cannot be read backwards: `b8 00 00 00 00` in front of a `syscall` is `mov $0, %eax`, or the tail of
//! `movl $0, -0x48(%rbp)`. But of any fifteen consecutive bytes of code, one at least begins an instruction, because none is
//! longer; and decoding forward from that one follows the real instructions. So when decoding from *each* of fifteen
//! consecutive bytes comes by the address, the real instructions do too. (Decoding from a wrong start falls into step with
//! the real instructions after very few of them, so that in practice such fifteen bytes are found nearby.) A start whose
//! decoding meets an invalid instruction is not a real one, and has no say. But one that meets an instruction that only the
//! decoder does not know may be real, and objects.
//!
//! What is assumed: the fifteen bytes, and those up to the address, are code. If they are data in front of a function, they have
//! to fall into step with it by themselves, and half of them must; what then is said wrongly would need code that looks right from
//! the address on, but begins elsewhere, and data that falls into step with it nevertheless. [`Proof`] says how many bytes must
//! have no objection.

use super::instruction::{LONGEST, decode};
use super::{CodeWindow, Edge, WINDOW_BEFORE};

/// How much it takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Proof {
    /// As many consecutive starts as it needs for one to be real. For bytes that speak for themselves.
    Usual,
    /// More than twice as many.
    Strong,
}

impl Proof {
    fn starts(self) -> usize {
        match self {
            Self::Usual => LONGEST,
            Self::Strong => 2 * LONGEST + 2,
        }
    }
}

/// How far from a known boundary one line of decoding is trusted alone.
const TRUSTED: u64 = 64;

/// What decoding from one start says.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Verdict {
    /// An instruction begins at the address.
    Agrees,
    /// An instruction lies across the address, or it cannot be said.
    Contradicts,
    /// Not an instruction.
    Invalid,
}

/// Whether an instruction is proven to begin at `address`.
pub(super) fn is_boundary(code: &CodeWindow<'_>, address: u64, proof: Proof) -> bool {
    let low = code.start.max(address.saturating_sub(WINDOW_BEFORE));
    let verdicts = verdicts(code, low, address);
    let proven = verdicts.windows(proof.starts()).any(|run| {
        let agree = run.iter().filter(|v| **v == Verdict::Agrees).count();
        agree > run.len() / 2 && !run.contains(&Verdict::Contradicts)
    });
    proven || follows_known_boundary(code, low, address, &verdicts)
}

/// Near the start of executable memory there are no fifteen bytes, but the first is known to begin an instruction.
fn follows_known_boundary(code: &CodeWindow<'_>, low: u64, address: u64, verdicts: &[Verdict]) -> bool {
    let near = code.begins == Edge::Boundary && low == code.start && address - low <= TRUSTED;
    near && verdicts.first().is_none_or(|first| *first == Verdict::Agrees)
}

/// The verdicts of all starts from `low` to just before `address`, each found from a later one's.
fn verdicts(code: &CodeWindow<'_>, low: u64, address: u64) -> Vec<Verdict> {
    let mut found = Vec::new();
    // Found backwards: `found[i]` is the verdict of `address - 1 - i`.
    for start in (low..address).rev() {
        let end = decode(code, start).map(|(_, _, bytes)| start + super::length(bytes));
        let verdict = match end {
            Err(_) if may_be_unknown(code.from(start)) => Verdict::Contradicts,
            Err(_) => Verdict::Invalid,
            Ok(end) if end == address => Verdict::Agrees,
            Ok(end) if end > address => Verdict::Contradicts,
            Ok(end) => {
                let index = usize::try_from(address - 1 - end).ok();
                index.and_then(|i| found.get(i)).copied().unwrap_or(Verdict::Contradicts)
            }
        };
        found.push(verdict);
    }
    found.reverse();
    found
}

/// Whether bytes that the decoder rejects could be an instruction nevertheless: of the extensions that it was built without
/// (EVEX, 62; XOP, 8f), or of one that is younger than it (REX2, d5).
fn may_be_unknown(bytes: &[u8]) -> bool {
    let prefix = |byte: u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    let opcode = bytes.iter().find(|byte| !prefix(**byte));
    matches!(opcode, Some(0x62 | 0x8f | 0xd5))
}
