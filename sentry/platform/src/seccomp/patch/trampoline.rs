//! Writing a trampoline for a shape.
//!
//! Key type: [`Assembled`]. The length does not depend on the place, so the place is chosen first. Invariant: points ascend, the
//! first stands for the shape's start, and every displaced boundary has one.

use super::instruction::{Kind, Moved};
use super::shape::Shape;
use super::{Point, Refusal, relative};

/// `jmp rel32`.
const JUMP: usize = 5;
/// `jcc rel32`.
const BRANCH: usize = 6;
/// `push qword ptr [rip + rel32]`.
const PUSH: usize = 6;
/// `lea rcx, [rip + rel32]`.
const LOAD_AFTER: usize = 7;
/// `jmp qword ptr [rip + rel32]`.
const JUMP_INDIRECT: usize = 6;
/// An address in memory.
const LITERAL: usize = 8;

/// A trampoline's bytes and what they mean.
#[derive(Debug)]
pub(super) struct Assembled {
    pub code: Vec<u8>,
    pub points: Vec<Point>,
    pub entry: u64,
    pub after: u64,
}

/// How long the trampoline of a shape is.
pub(super) fn length(shape: &Shape<'_>) -> usize {
    code_length(shape) + LITERAL * (1 + calls(shape).count())
}

/// The length without the literals at the end.
fn code_length(shape: &Shape<'_>) -> usize {
    let moved: usize = shape.before.iter().chain(&shape.behind).map(moved_length).sum();
    moved + LOAD_AFTER + JUMP_INDIRECT + if shape.resume.is_some() { JUMP } else { 0 }
}

fn moved_length(moved: &Moved<'_>) -> usize {
    match moved.kind {
        Kind::Verbatim | Kind::Leaves | Kind::RipRelative { .. } => moved.bytes.len(),
        Kind::Jump { .. } => JUMP,
        Kind::Branch { .. } => BRANCH,
        Kind::Call { .. } => PUSH + JUMP,
    }
}

fn calls<'s>(shape: &'s Shape<'_>) -> impl Iterator<Item = u64> + 's {
    shape.behind.iter().filter(|moved| matches!(moved.kind, Kind::Call { .. })).map(Moved::end)
}

/// Writes the trampoline for a place.
///
/// # Errors
/// [`Refusal::OutOfReach`] when something relative does not reach; [`Refusal::NotMovable`] when a displaced instruction leads
/// into the middle of a displaced instruction, or uses the displaced bytes.
pub(super) fn assemble(shape: &Shape<'_>, place: u64, stub_entry: u64) -> Result<Assembled, Refusal> {
    let mut writer =
        Writer { shape, place, code: Vec::new(), points: Vec::new(), literal: code_length(shape) };
    for moved in &shape.before {
        writer.moved(moved)?;
    }
    let entry = writer.here();
    writer.way_to_stub()?;
    let after = writer.here();
    for moved in &shape.behind {
        writer.moved(moved)?;
    }
    if let Some(resume) = shape.resume {
        writer.point(resume);
        writer.relative_to(&[0xe9], resume)?;
    }
    writer.code.extend(stub_entry.to_le_bytes());
    for return_address in calls(shape) {
        writer.code.extend(return_address.to_le_bytes());
    }
    Ok(Assembled { code: writer.code, points: writer.points, entry, after })
}

/// The trampoline so far.
struct Writer<'s, 'a> {
    shape: &'s Shape<'a>,
    place: u64,
    code: Vec<u8>,
    points: Vec<Point>,
    /// Where the next literal will be, from the start of the trampoline.
    literal: usize,
}

impl Writer<'_, '_> {
    fn here(&self) -> u64 {
        self.at(self.code.len())
    }

    fn at(&self, offset: usize) -> u64 {
        self.place.wrapping_add(u64::try_from(offset).unwrap_or(u64::MAX))
    }

    /// The instruction written next stands for `original`.
    fn point(&mut self, original: u64) {
        let trampoline = self.here();
        self.points.push(Point { trampoline, original });
    }

    /// An instruction that ends with a displacement to `target`.
    fn relative_to(&mut self, opcode: &[u8], target: u64) -> Result<(), Refusal> {
        self.code.extend(opcode);
        let displacement = relative(self.here().wrapping_add(4), target).ok_or(Refusal::OutOfReach)?;
        self.code.extend(displacement.to_le_bytes());
        Ok(())
    }

    /// An instruction that ends with a displacement to the next literal.
    fn relative_to_literal(&mut self, opcode: &[u8]) -> Result<(), Refusal> {
        let literal = self.at(self.literal);
        self.literal += LITERAL;
        self.relative_to(opcode, literal)
    }

    fn way_to_stub(&mut self) -> Result<(), Refusal> {
        let after = self.at(self.code.len() + LOAD_AFTER + JUMP_INDIRECT);
        self.point(self.shape.site);
        self.relative_to(&[0x48, 0x8d, 0x0d], after)?;
        // rcx is gone, but `syscall` destroys it anyway: doing it again from the site is the same.
        self.point(self.shape.site);
        self.relative_to_literal(&[0xff, 0x25])
    }

    fn moved(&mut self, moved: &Moved<'_>) -> Result<(), Refusal> {
        self.point(moved.at);
        match moved.kind {
            Kind::Verbatim | Kind::Leaves => self.code.extend(moved.bytes),
            Kind::RipRelative { field, target, .. } => self.rip_relative(moved, field, target)?,
            Kind::Jump { target } => {
                let target = self.branch_target(target)?;
                self.relative_to(&[0xe9], target)?;
            }
            Kind::Branch { condition, target } => {
                let target = self.branch_target(target)?;
                self.relative_to(&[0x0f, 0x80 | condition], target)?;
            }
            Kind::Call { target } => self.call(moved, target)?,
        }
        Ok(())
    }

    fn rip_relative(&mut self, moved: &Moved<'_>, field: usize, target: u64) -> Result<(), Refusal> {
        if self.covered(target) {
            return Err(Refusal::NotMovable);
        }
        let next = self.at(self.code.len() + moved.bytes.len());
        let displacement = relative(next, target).ok_or(Refusal::OutOfReach)?;
        let mut bytes = moved.bytes.to_vec();
        let place = bytes.get_mut(field..field + 4).ok_or(Refusal::NotMovable)?;
        place.copy_from_slice(&displacement.to_le_bytes());
        self.code.extend(bytes);
        Ok(())
    }

    /// A call pushes the original return address, which is where unwinders look and where `ret` has to lead. Only as the last
    /// displaced instruction: otherwise each return would fault.
    fn call(&mut self, moved: &Moved<'_>, target: u64) -> Result<(), Refusal> {
        if self.covered(target) || self.shape.resume != Some(moved.end()) {
            return Err(Refusal::NotMovable);
        }
        self.relative_to_literal(&[0xff, 0x35])?;
        // The return address is on the stack: the call is done but for the jump.
        self.point(target);
        self.relative_to(&[0xe9], target)
    }

    fn covered(&self, address: u64) -> bool {
        (self.shape.start..self.shape.end).contains(&address)
    }

    /// Where a displaced branch leads. To the start it may lead as before (there is the jump), to other displaced instructions
    /// it leads here, where these already stand or will.
    fn branch_target(&self, target: u64) -> Result<u64, Refusal> {
        if !self.covered(target) || target == self.shape.start {
            return Ok(target);
        }
        let mut offset =
            self.shape.before.iter().map(moved_length).sum::<usize>() + LOAD_AFTER + JUMP_INDIRECT;
        for moved in &self.shape.behind {
            if moved.at == target {
                return Ok(self.at(offset));
            }
            offset += moved_length(moved);
        }
        Err(Refusal::NotMovable)
    }
}
