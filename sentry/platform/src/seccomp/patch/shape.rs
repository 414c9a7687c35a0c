//! Which instructions around a site are displaced.
//!
//! Key type: [`Shape`]. [`number_before`] looks for `mov $nr, %eax` in front of the site, [`behind`] takes the site and what
//! follows, [`before`] takes whatever is in front.
//! Invariant: a shape covers at least a jump's length, lies within the window, and holds at most one `syscall`.

use abi::nr;

use super::boundary::{self, Proof};
use super::instruction::{Kind, LONGEST, Moved, decode, is_padding, movable};
use super::{ADDRESS_END, CodeWindow, JUMP, Refusal, Request, SYSCALL};

/// Functions begin at multiples of this; what is filled up to one with `nop` or `int3` behind a jump or `ret` is padding.
const ALIGNMENT: u64 = 16;

/// How far padding is followed.
const LONGEST_PADDING: u64 = 48;

/// What is displaced.
#[derive(Debug)]
pub(super) struct Shape<'a> {
    /// The first byte covered: where the jump will be.
    pub start: u64,
    /// The first byte not covered.
    pub end: u64,
    /// The site.
    pub site: u64,
    /// What is displaced in front of the site.
    pub before: Vec<Moved<'a>>,
    /// What is displaced behind it.
    pub behind: Vec<Moved<'a>>,
    /// Where control goes on behind what is displaced, if it does.
    pub resume: Option<u64>,
}

impl Shape<'_> {
    /// The instruction boundaries inside, without the start.
    pub fn inner_boundaries(&self) -> impl Iterator<Item = u64> {
        self.before.iter().skip(1).chain(&self.behind).map(|moved| moved.at)
    }

    /// Which bytes of the jump's displacement must fault, because a boundary lies at them.
    pub fn faulting(&self) -> [bool; 4] {
        let mut faulting = [false; 4];
        for boundary in self.inner_boundaries() {
            let byte = (boundary - self.start).checked_sub(1).and_then(|i| usize::try_from(i).ok());
            if let Some(flag) = byte.and_then(|i| faulting.get_mut(i)) {
                *flag = true;
            }
        }
        faulting
    }
}

/// Whether the site can be patched at all.
pub(super) fn check(request: &Request<'_>) -> Result<(), Refusal> {
    let code = &request.code;
    let in_range = code.end().is_some_and(|end| end < ADDRESS_END) && request.stub_entry < ADDRESS_END;
    if !in_range || !code.from(request.site).starts_with(&[0x0f, 0x05]) {
        return Err(Refusal::NotASyscall);
    }
    // What lies behind these is not executed after them. The restorer of signal frames is also recognised by its bytes, by
    // unwinders: gcc's MD_FALLBACK_FRAME_STATE_FOR compares `mov $15, %rax; syscall`.
    let never_returns = [nr::RT_SIGRETURN, nr::EXIT, nr::EXIT_GROUP];
    if never_returns.iter().any(|number| u64::try_from(*number) == Ok(request.number)) {
        return Err(Refusal::NeverReturns);
    }
    Ok(())
}

/// `mov $nr, %eax` or `mov $nr, %rax` right before the site, with the number that was seen there.
pub(super) fn number_before<'a>(request: &Request<'a>) -> Option<Shape<'a>> {
    [5, 7].into_iter().find_map(|length| {
        let start = request.site.checked_sub(length)?;
        let number = match *request.code.between(start, request.site)? {
            [0xb8, a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
            [0x48, 0xc7, 0xc0, a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])).cast_unsigned(),
            _ => return None,
        };
        let proven = number == request.number && boundary::is_boundary(&request.code, start, Proof::Usual);
        if proven { leading(request, start) } else { None }
    })
}

/// The nearest instructions right before the site that have room for a jump, whatever they are. Nothing but their place tells
/// what they are, so that more proof of it is asked for.
pub(super) fn before<'a>(request: &Request<'a>) -> Option<Shape<'a>> {
    (5..=u64::try_from(LONGEST).ok()?).find_map(|length| {
        let start = request.site.checked_sub(length)?;
        let shape = leading(request, start)?;
        boundary::is_boundary(&request.code, start, Proof::Strong).then_some(shape)
    })
}

/// The instructions from `start` to the site, if they can be moved and run on into it.
fn leading<'a>(request: &Request<'a>, start: u64) -> Option<Shape<'a>> {
    let mut before: Vec<Moved<'a>> = Vec::new();
    let mut at = start;
    while at < request.site {
        let moved = movable(&request.code, at).ok()?;
        let plain = matches!(moved.kind, Kind::Verbatim | Kind::RipRelative { leaves: false, .. });
        if !plain {
            return None;
        }
        at = moved.end();
        before.push(moved);
    }
    let (site, resume) = (request.site, Some(request.site + SYSCALL));
    (at == site).then_some(Shape { start, end: site, site, before, behind: Vec::new(), resume })
}

/// The site and as many instructions behind it as the jump needs.
pub(super) fn behind<'a>(request: &Request<'a>) -> Result<Shape<'a>, Refusal> {
    let code = &request.code;
    let needed = request.site + JUMP;
    let mut at = request.site + SYSCALL;
    let mut behind: Vec<Moved<'a>> = Vec::new();
    let mut resume = None;
    while at < needed {
        let moved = movable(code, at)?;
        at = moved.end();
        let leaves = moved.leaves();
        behind.push(moved);
        resume = (!leaves).then_some(at);
        if leaves {
            break;
        }
    }
    if at < needed {
        padding(code, at, needed)?;
        at = needed;
    }
    Ok(Shape { start: request.site, end: at, site: request.site, before: Vec::new(), behind, resume })
}

/// Whether what lies between the end of a piece of code and `needed` only fills the gap to the next function.
fn padding(code: &CodeWindow<'_>, from: u64, needed: u64) -> Result<(), Refusal> {
    let mut at = from;
    while !at.is_multiple_of(ALIGNMENT) {
        let (instruction, _, bytes) = decode(code, at)?;
        if !is_padding(&instruction) || at - from > LONGEST_PADDING {
            return Err(Refusal::NoPadding);
        }
        at += super::length(bytes);
    }
    if at < needed { Err(Refusal::NoPadding) } else { Ok(()) }
}
