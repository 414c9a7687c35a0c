//! Patching system-call sites: which bytes around a `syscall` instruction to replace by a jump, and what to put at its end.
//!
//! A thread that was trapped at a site shows where a `syscall` instruction is. [`plan`] takes the bytes around it and answers
//! with a [`Patch`]: a five-byte jump to a *trampoline* within ±2 GiB that does what the displaced instructions did, but goes to
//! the stub instead of trapping. Pure logic: nothing here reads or writes an application, or calls the host.
//!
//! ```text
//! start:  jmp trampoline          trampoline:  displaced instructions before the syscall
//!         (filler that faults)    entry:       lea rcx, [rip + after]
//!                                              jmp qword ptr [rip + literal]    → the stub, which comes back by `jmp rcx`
//!                                 after:       displaced instructions behind the syscall
//!                                              jmp to the first instruction not displaced
//!                                 literal:     address of the stub's entry
//! ```
//!
//! `syscall` clobbers rcx and r11, so these are free for the way in; the stack (with its red zone) and the flags are not
//! touched. Three shapes are displaced, the first that can be had:
//!
//! 1. `mov $nr, %eax` (5 or 7 bytes) directly in front. The `syscall` stays where it is: a jump to it traps as ever, and threads
//!    that come back from it meet nothing new. x86 cannot be decoded backwards, so `boundary` must prove that the bytes are that
//!    instruction.
//! 2. The `syscall` itself and what follows, up to five bytes.
//! 3. Whatever is directly in front, if at least five bytes, with more proof (musl's cancellation points: `mov %r11, 8(%rsp);
//!    syscall; ret`, with a jump's target behind).
//!
//! Threads stand behind a displaced `syscall` (all that are blocked in it do), and jumps may lead to any displaced instruction.
//! They meet, at every instruction boundary inside the patch, a byte that is an invalid opcode: SIGILL with rip at exactly that
//! boundary, and [`Patch::resume_at`] says where to move the thread. The jump's displacement covers such boundaries, so `arena`
//! picks a trampoline address that gives it the right bytes.
//!
//! Whatever is not certain is refused with a [`Refusal`]: the site keeps trapping, which is slower and always right.
//!
//! Key types: [`Request`], [`Patch`], [`Arena`] (free trampoline space), [`Sites`] (all patches of an address space).
//! Invariants: the bytes are hostile; all work is bounded by [`WINDOW_BEFORE`] and the constants beside the code. No patch
//! covers a byte of another, nor a byte that the caller did not give.

use thiserror::Error;

pub mod arena;
mod boundary;
mod instruction;
mod shape;
pub mod sites;
mod trampoline;

#[cfg(test)]
mod coverage;
#[cfg(test)]
mod execution;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use arena::Arena;
pub use sites::Sites;

use shape::Shape;

/// How many bytes before a site are worth giving to [`plan`]; more are not looked at.
pub const WINDOW_BEFORE: u64 = 128;

/// How many bytes from a site on are worth giving to [`plan`].
pub const WINDOW_AFTER: u64 = 64;

/// The length of `jmp rel32`, the least that a patch covers.
const JUMP: u64 = 5;

/// The length of `syscall`.
const SYSCALL: u64 = 2;

/// Fills what a patch covers behind its jump: an invalid opcode, like all bytes at boundaries inside a patch, so that one
/// signal (SIGILL, with rip exact) means one thing. `int3` would report the address behind it.
const FILLER: u8 = 0x06;

/// The end of the addresses an application can have (with five-level page tables).
const ADDRESS_END: u64 = 1 << 56;

/// Code bytes that are mapped executable, private and not writable, with the patches that are in them already taken out
/// (see [`Sites::overlay`]).
#[derive(Clone, Copy, Debug)]
pub struct CodeWindow<'a> {
    /// The address of the first byte.
    pub start: u64,
    pub bytes: &'a [u8],
    pub begins: Edge,
}

/// What is known of the first byte of a [`CodeWindow`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Edge {
    /// Executable bytes lie before it: it may be in the middle of an instruction.
    Cut,
    /// Nothing executable lies before it: it cannot be the tail of an instruction.
    Boundary,
}

impl<'a> CodeWindow<'a> {
    /// The bytes from `address` to the end of the window; empty when the address is outside.
    fn from(&self, address: u64) -> &'a [u8] {
        let offset = address.checked_sub(self.start).and_then(|o| usize::try_from(o).ok());
        offset.and_then(|o| self.bytes.get(o..)).unwrap_or_default()
    }

    /// The bytes of `[from, to)`, when all are in the window.
    fn between(&self, from: u64, to: u64) -> Option<&'a [u8]> {
        let length = usize::try_from(to.checked_sub(from)?).ok()?;
        self.from(from).get(..length)
    }

    fn end(&self) -> Option<u64> {
        self.start.checked_add(u64::try_from(self.bytes.len()).ok()?)
    }
}

/// What [`plan`] is asked.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub code: CodeWindow<'a>,
    /// The address of the `syscall` instruction.
    pub site: u64,
    /// What rax held when the thread was trapped there: the number of the system call.
    pub number: u64,
    /// Where the trampoline jumps to, with the return address in rcx.
    pub stub_entry: u64,
}

/// Why a site is left alone.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Refusal {
    #[error("there is no syscall instruction at the address")]
    NotASyscall,
    #[error("the system call does not come back, so nothing is known of the bytes behind it")]
    NeverReturns,
    #[error("the window ends before enough instructions are seen")]
    WindowEnds,
    #[error("bytes behind the system call are no instruction")]
    Undecodable,
    #[error("an instruction that would have to move cannot be moved")]
    NotMovable,
    #[error("the code ends behind the system call, and what follows is not certain to be padding")]
    NoPadding,
    #[error("the site is patched; it is reached by a jump that leaves the patch out")]
    Patched,
    #[error("another patch covers a byte that would have to be displaced")]
    Overlaps,
    #[error("the arena has no free place whose address would do")]
    NoPlace,
    #[error("something that a displaced instruction refers to is not within reach of the arena")]
    OutOfReach,
}

impl Refusal {
    /// Whether asking again with another arena could succeed.
    pub fn depends_on_arena(self) -> bool {
        matches!(self, Self::NoPlace | Self::OutOfReach)
    }
}

/// An instruction of a trampoline and the state it stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Point {
    pub trampoline: u64,
    /// Where a thread about to execute the trampoline's instruction would stand in the unpatched code.
    pub original: u64,
}

/// A site with all that is to be written, and the two maps between unpatched code and trampoline.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Patch {
    /// Where the jump is.
    pub start: u64,
    /// Where the `syscall` instruction is, or was.
    pub site: u64,
    /// The bytes at `start` before.
    pub original: Vec<u8>,
    /// The bytes at `start` after; as many.
    pub patched: Vec<u8>,
    /// Where the trampoline is, and where the jump leads.
    pub trampoline: u64,
    /// The trampoline's bytes.
    pub code: Vec<u8>,
    /// The first instruction of the way to the stub.
    pub entry: u64,
    /// Where the stub comes back to: rcx at the stub's entry.
    pub after: u64,
    /// `start` and every instruction boundary inside the patch, ascending: places where a thread may stand or come to.
    boundaries: Vec<u64>,
    /// The trampoline's instructions, ascending.
    points: Vec<Point>,
}

/// Bytes to be written at an address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Write {
    pub address: u64,
    pub bytes: Vec<u8>,
}

impl Patch {
    /// The first address behind the patched bytes.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(length(&self.original))
    }

    /// The first address behind the trampoline.
    pub fn trampoline_end(&self) -> u64 {
        self.trampoline.saturating_add(length(&self.code))
    }

    /// Where a thread goes on that stands at `rip` in the patched code and cannot go on there: for the start and for every
    /// displaced boundary its instruction in the trampoline. `None` for other addresses.
    pub fn resume_at(&self, rip: u64) -> Option<u64> {
        self.boundaries.binary_search(&rip).ok()?;
        self.points.iter().find(|p| p.original == rip).map(|p| p.trampoline)
    }

    /// Where a thread that stands at `rip` in the trampoline would stand in the unpatched code. `None` where no instruction of
    /// the trampoline begins.
    pub fn original_rip(&self, rip: u64) -> Option<u64> {
        let index = self.points.binary_search_by_key(&rip, |p| p.trampoline).ok()?;
        self.points.get(index).map(|p| p.original)
    }

    /// The trampoline's instructions, ascending.
    #[cfg(test)]
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// `start` and every displaced instruction boundary inside the patch, ascending.
    #[cfg(test)]
    pub fn boundaries(&self) -> &[u64] {
        &self.boundaries
    }

    /// The writes that put the patch in while threads run, in order, once the trampoline stands and [`Sites`] knows the patch:
    /// after the first one the start faults, so that no thread decodes a half-written jump. A thread that faults in between is
    /// moved by [`Self::resume_at`]. Other cores must see each write before the next is made (`membarrier(2)` with
    /// `SYNC_CORE`, or any entry to and return from their kernels).
    pub fn writes(&self) -> Vec<Write> {
        guarded_writes(self.start, &self.patched)
    }

    /// The writes that put the original bytes back while threads run, in order. [`Sites`] must know the patch until after the
    /// last, and for as long as a thread may stand in the trampoline.
    pub fn undo_writes(&self) -> Vec<Write> {
        guarded_writes(self.start, &self.original)
    }
}

fn guarded_writes(start: u64, bytes: &[u8]) -> Vec<Write> {
    let Some((&first, rest)) = bytes.split_first() else { return Vec::new() };
    vec![
        Write { address: start, bytes: vec![FILLER] },
        Write { address: start.saturating_add(1), bytes: rest.to_vec() },
        Write { address: start, bytes: vec![first] },
    ]
}

/// Decides how to patch a site, and takes the trampoline's space from the arena. To be given back with [`Arena::release`] if
/// the patch is not used.
///
/// # Errors
/// Why not. Nothing is taken from the arena then.
pub fn plan(request: &Request<'_>, taken: &Sites, arena: &mut Arena) -> Result<Patch, Refusal> {
    shape::check(request)?;
    if taken.of_site(request.site).is_some() {
        return Err(Refusal::Patched);
    }
    let mut attempt = |shape: Shape<'_>| {
        if taken.covers(shape.start, shape.end) {
            return Err(Refusal::Overlaps);
        }
        build(request, &shape, arena)
    };
    if let Some(patch) = shape::number_before(request).and_then(|shape| attempt(shape).ok()) {
        return Ok(patch);
    }
    shape::behind(request).and_then(&mut attempt).or_else(|refusal| {
        let shape = shape::before(request).ok_or(refusal)?;
        attempt(shape).map_err(|_| refusal)
    })
}

/// Places and assembles the trampoline of a shape.
fn build(request: &Request<'_>, shape: &Shape<'_>, arena: &mut Arena) -> Result<Patch, Refusal> {
    let original = request.code.between(shape.start, shape.end).ok_or(Refusal::WindowEnds)?;
    let place = arena.take(shape.start + JUMP, shape.faulting(), trampoline::length(shape));
    let place = place.ok_or(Refusal::NoPlace)?;
    let assembled = trampoline::assemble(shape, place, request.stub_entry)
        .and_then(|done| Ok((done, jump(shape, place, original.len())?)));
    match assembled {
        Ok((done, patched)) => Ok(Patch {
            start: shape.start,
            site: request.site,
            original: original.to_vec(),
            patched,
            trampoline: place,
            code: done.code,
            entry: done.entry,
            after: done.after,
            boundaries: std::iter::once(shape.start).chain(shape.inner_boundaries()).collect(),
            points: done.points,
        }),
        Err(refusal) => {
            arena.give_back(place);
            Err(refusal)
        }
    }
}

/// The bytes that replace the displaced instructions.
fn jump(shape: &Shape<'_>, trampoline: u64, length: usize) -> Result<Vec<u8>, Refusal> {
    let displacement = relative(shape.start + JUMP, trampoline).ok_or(Refusal::OutOfReach)?;
    let mut bytes = vec![0xe9];
    bytes.extend(displacement.to_le_bytes());
    bytes.resize(length.max(bytes.len()), FILLER);
    Ok(bytes)
}

/// The displacement that leads from the end of an instruction to an address.
fn relative(next: u64, target: u64) -> Option<i32> {
    i32::try_from(target.wrapping_sub(next).cast_signed()).ok()
}

/// Whether a byte is, as the first byte of an instruction in 64-bit mode, an invalid opcode whatever follows: the one-byte
/// opcodes that x86-64 took out. Left out: 62, c4, c5 and d5, which are prefixes now (EVEX, VEX, REX2), and f1, a debug trap.
/// Intel's SDM volume 2, table A-2 (opcodes marked i64); AMD's APM volume 3, table B-1.
fn faults(byte: u8) -> bool {
    matches!(
        byte,
        0x06 | 0x07
            | 0x0e
            | 0x16
            | 0x17
            | 0x1e
            | 0x1f
            | 0x27
            | 0x2f
            | 0x37
            | 0x3f
            | 0x60
            | 0x61
            | 0x82
            | 0x9a
            | 0xce
            | 0xd4
            | 0xd6
            | 0xea
    )
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
