//! What single sites become: real bytes of glibc, musl, Go and just-in-time compilers.

use super::arena::MAX_ARENA;
use super::sites::{Full, MAX_PATCHES};
use super::*;

const CODE: u64 = 0x7f00_0000_1000;
/// 100 MiB above: the displacement's highest byte is 06 and faults.
const ARENA: u64 = CODE + 0x0640_0000;
const STUB: u64 = 0x7e00_dead_b000;

/// Code that ends in step: what is in front of a site in the middle of a function.
const PRELUDE: &[u8] = &[
    0x55, 0x48, 0x89, 0xe5, 0x41, 0x54, 0x53, 0x48, 0x83, 0xec, 0x20, 0x48, 0x89, 0xfb, 0x41, 0x89, 0xf4,
    0x48, 0x8b, 0x03, 0x48, 0x85, 0xc0, 0x74, 0x10, 0x48, 0x8b, 0x7b, 0x08, 0x48, 0x89, 0xd6, 0x31, 0xd2,
    0x4c, 0x8b, 0x53, 0x10,
];

/// A window of bytes with the site at the first `syscall` behind the prelude.
struct Case {
    bytes: Vec<u8>,
    site: u64,
    number: u64,
}

fn case(around: &[u8], number: u64) -> Case {
    let bytes = [PRELUDE, around].concat();
    let offset = around.windows(2).position(|two| two == [0x0f, 0x05]).unwrap();
    Case { bytes, site: CODE + length(PRELUDE) + u64::try_from(offset).unwrap(), number }
}

impl Case {
    fn request(&self) -> Request<'_> {
        let code = CodeWindow { start: CODE, bytes: &self.bytes, begins: Edge::Cut };
        Request { code, site: self.site, number: self.number, stub_entry: STUB }
    }

    fn plan(&self) -> Result<Patch, Refusal> {
        self.plan_in(&mut Arena::new(ARENA, 1 << 20))
    }

    fn plan_in(&self, arena: &mut Arena) -> Result<Patch, Refusal> {
        let patch = plan(&self.request(), &Sites::new(), arena)?;
        super::properties::assert_sound(&self.request(), &patch);
        Ok(patch)
    }

    /// The patch that displaces the site and what follows, whatever else there is.
    fn behind(&self) -> Result<Patch, Refusal> {
        self.behind_in(&mut Arena::new(ARENA, 1 << 20))
    }

    fn behind_in(&self, arena: &mut Arena) -> Result<Patch, Refusal> {
        let shape = shape::behind(&self.request())?;
        let patch = build(&self.request(), &shape, arena)?;
        super::properties::assert_sound(&self.request(), &patch);
        Ok(patch)
    }
}

/// `mov $nr, %eax; syscall; ret`
#[test]
fn a_number_right_before_the_site_is_displaced_and_the_site_stays() {
    let case = case(&[0xb8, 0x27, 0, 0, 0, 0x0f, 0x05, 0xc3], 0x27);
    let patch = case.plan().unwrap();
    assert_eq!(patch.start, case.site - 5);
    assert_eq!(patch.original, [0xb8, 0x27, 0, 0, 0]);
    assert_eq!(patch.end(), case.site);
    assert_eq!(patch.boundaries(), [patch.start]);
    assert_eq!(patch.resume_at(patch.start), Some(patch.trampoline));
    assert_eq!(patch.resume_at(case.site), None);
    assert_eq!(patch.original_rip(patch.entry), Some(case.site));
    assert_eq!(patch.original_rip(patch.after), Some(case.site + 2));
    assert_eq!(patch.code[..5], [0xb8, 0x27, 0, 0, 0]);
}

/// `mov $nr, %rax; syscall`, as Go and hand-written assembler have it.
#[test]
fn the_seven_byte_form_is_displaced_too() {
    let case = case(&[0x48, 0xc7, 0xc0, 0xe7, 0, 0, 0, 0x0f, 0x05, 0xc3], 0xe7 - 1);
    assert!(shape::number_before(&case.request()).is_none(), "another number than the thread had");
    let case = self::case(&[0x48, 0xc7, 0xc0, 0xca, 0, 0, 0, 0x0f, 0x05, 0xc3], 0xca);
    let patch = case.plan().unwrap();
    assert_eq!((patch.start, patch.end()), (case.site - 7, case.site));
    assert_eq!(patch.patched[5..], [FILLER, FILLER]);
}

/// `movl $0, -0x48(%rbp); syscall` ends like `mov $0, %eax; syscall`.
#[test]
fn the_tail_of_another_instruction_is_not_taken_for_a_number() {
    let bytes = [0xc7, 0x45, 0xb8, 0, 0, 0, 0, 0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0xc3];
    let patch = case(&bytes, 0).plan().unwrap();
    assert_eq!(patch.start, patch.site);
    // `mov $8, %r8d`, when the number is 8 too.
    let bytes = [0x41, 0xb8, 8, 0, 0, 0, 0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0xc3];
    let patch = case(&bytes, 8).plan().unwrap();
    assert_eq!(patch.start, patch.site);
}

/// `vpxord %zmm…` and the like in front: where the decoder does not know, nothing is proven.
#[test]
fn instructions_unknown_to_the_decoder_are_no_proof() {
    let evex: &[u8] = &[0x62, 0xf1, 0x7d, 0x48, 0xef, 0xc0];
    let number: &[u8] = &[0xb8, 0x27, 0, 0, 0, 0x0f, 0x05, 0xc3];
    let near = case(&[evex, number].concat(), 0x27);
    assert!(shape::number_before(&near.request()).is_none());
    let far = case(&[evex, &[0x90; 16], number].concat(), 0x27);
    assert!(shape::number_before(&far.request()).is_some());
}

/// `xor %eax, %eax; syscall; cmp $-4096, %rax; ja` as glibc's read has it.
#[test]
fn what_follows_the_site_is_displaced_where_the_number_is_not_right_before() {
    let case = case(&[0x31, 0xc0, 0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0x77, 0x06, 0xc3], 0);
    let patch = case.plan().unwrap();
    assert_eq!((patch.start, patch.end()), (case.site, case.site + 8));
    assert_eq!(patch.boundaries(), [case.site, case.site + 2]);
    assert!(faults(patch.patched[2]));
    assert_eq!(patch.resume_at(case.site + 2), Some(patch.after));
    assert_eq!(patch.resume_at(case.site), Some(patch.entry));
    assert_eq!(patch.resume_at(case.site + 3), None);
    assert_eq!(patch.original_rip(patch.after + 6), Some(case.site + 8));
}

/// `syscall; mov %rax, %rdi; call __syscall_ret` of musl, where three bytes suffice, and `syscall; call`, where they do not.
#[test]
fn a_call_pushes_the_original_return_address() {
    let patch = case(&[0x0f, 0x05, 0x48, 0x89, 0xc7, 0xe8, 1, 2, 0, 0], 3).plan().unwrap();
    assert_eq!(patch.end(), patch.site + 5);
    let case = case(&[0x0f, 0x05, 0xe8, 1, 2, 0, 0, 0xc3], 3);
    let patch = case.plan().unwrap();
    assert_eq!(patch.end(), case.site + 7);
    let target = case.site + 7 + 0x201;
    assert_eq!(patch.code[19 - 6..][..2], [0xff, 0x35]);
    assert_eq!(patch.original_rip(patch.after), Some(case.site + 2));
    assert_eq!(patch.original_rip(patch.after + 6), Some(target));
    assert_eq!(patch.code[patch.code.len() - 8..], (case.site + 7).to_le_bytes());
}

/// `syscall; mov %eax, 0x28(%rsp)`, Go's runtime.futex.
#[test]
fn results_stored_behind_the_site_move() {
    let patch = case(&[0x0f, 0x05, 0x89, 0x44, 0x24, 0x28, 0xc3], 202).plan().unwrap();
    assert_eq!(patch.end(), patch.site + 6);
}

/// `syscall; test %eax, %eax; jne`: short branches become near ones, to the same place.
#[test]
fn branches_lead_where_they_led() {
    let case = case(&[0x0f, 0x05, 0x85, 0xc0, 0x75, 0x10, 0xc3], 56);
    let patch = case.plan().unwrap();
    assert_eq!(patch.end(), case.site + 6);
    assert!(faults(patch.patched[2]) && faults(patch.patched[4]));
    let branch = patch.resume_at(case.site + 4).unwrap();
    let offset = usize::try_from(branch - patch.trampoline).unwrap();
    let displacement = i32::from_le_bytes(patch.code[offset + 2..offset + 6].try_into().unwrap());
    assert_eq!(patch.code[offset..offset + 2], [0x0f, 0x85]);
    assert_eq!((branch + 6).wrapping_add_signed(displacement.into()), case.site + 6 + 0x10);
    // From an arena whose displacement has no faulting highest byte it is not to be had.
    let elsewhere = case.behind_in(&mut Arena::new(CODE + 0x0040_0000, 1 << 20));
    assert_eq!(elsewhere, Err(Refusal::NoPlace));
    assert!(Refusal::NoPlace.depends_on_arena());
}

/// A loop around a site: `again: syscall; cmp $-4, %eax; je again`, and `test; je` to the boundary behind the site.
#[test]
fn branches_among_displaced_instructions_follow_them() {
    let to_start = case(&[0x0f, 0x05, 0x85, 0xc0, 0x74, 0xfa, 0xc3], 56);
    let patch = to_start.plan().unwrap();
    assert_eq!(decoded_branch(&patch, patch.site + 4), patch.start);
    let to_boundary = case(&[0x0f, 0x05, 0x85, 0xc0, 0x74, 0xfc, 0xc3], 56);
    let patch = to_boundary.plan().unwrap();
    assert_eq!(decoded_branch(&patch, patch.site + 4), patch.after);
    let into_the_middle = case(&[0x0f, 0x05, 0x85, 0xc0, 0x74, 0xfb, 0xc3], 56);
    assert_eq!(into_the_middle.behind(), Err(Refusal::NotMovable));
}

/// Where the displaced conditional jump at `original` leads from the trampoline.
fn decoded_branch(patch: &Patch, original: u64) -> u64 {
    let at = patch.resume_at(original).unwrap();
    let offset = usize::try_from(at - patch.trampoline).unwrap();
    let displacement = i32::from_le_bytes(patch.code[offset + 2..offset + 6].try_into().unwrap());
    (at + 6).wrapping_add_signed(displacement.into())
}

/// `syscall; cmp %rax, 0x1000(%rip)`
#[test]
fn operands_relative_to_rip_stay_the_same_addresses() {
    let case = case(&[0x0f, 0x05, 0x48, 0x3b, 0x05, 0, 0x10, 0, 0, 0xc3], 39);
    let patch = case.plan().unwrap();
    let offset = usize::try_from(patch.after - patch.trampoline).unwrap();
    let displacement = i32::from_le_bytes(patch.code[offset + 3..offset + 7].try_into().unwrap());
    assert_eq!((patch.after + 7).wrapping_add_signed(displacement.into()), case.site + 9 + 0x1000);
    let elsewhere = Arena::new(CODE + 0x7fff_0000 - 0x2000, 1 << 16);
    let near_end = self::case(&[0x0f, 0x05, 0x48, 0x3b, 0x05, 0, 0, 0, 0x90, 0xc3], 39);
    assert_eq!(near_end.behind_in(&mut elsewhere.clone()), Err(Refusal::OutOfReach));
    assert!(elsewhere.touched_pages().next().is_none());
}

/// `syscall; ret` and padding up to the next function.
#[test]
fn padding_behind_a_return_is_used_only_when_it_is_padding() {
    let site_at = |offset: u64, tail: &[u8]| {
        let mut around = vec![0x90; usize::try_from((offset + 64 - length(PRELUDE)) % 16).unwrap()];
        around.extend([0x0f, 0x05]);
        around.extend(tail);
        case(&around, 39)
    };
    let nops = site_at(8, &[0xc3, 0x0f, 0x1f, 0x44, 0, 0, 0x55]);
    let patch = nops.behind().unwrap();
    assert_eq!(patch.end(), patch.site + 5);
    assert_eq!(patch.points().last().map(|p| p.original), Some(patch.site + 2), "nothing behind the return");
    let traps = site_at(8, &[0xc3, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0x55]);
    assert!(traps.behind().is_ok());
    let function_too_near = site_at(12, &[0xc3, 0x90, 0x55, 0x48, 0x89, 0xe5]);
    assert_eq!(function_too_near.behind(), Err(Refusal::NoPadding));
    let code = site_at(8, &[0xc3, 0x90, 0x90, 0x55, 0x48, 0x89, 0xe5]);
    assert_eq!(code.behind(), Err(Refusal::NoPadding));
    let cut = site_at(8, &[0xc3, 0x90]);
    assert_eq!(cut.behind(), Err(Refusal::WindowEnds));
}

/// `mov %r11, 8(%rsp); syscall; ret; jmp __cancel`, where musl makes all calls that can be cancelled.
#[test]
fn any_instruction_in_front_is_displaced_where_the_code_ends_behind() {
    let case = case(&[0x4c, 0x89, 0x5c, 0x24, 0x08, 0x0f, 0x05, 0xc3, 0xe9, 1, 2, 0, 0], 39);
    let patch = case.plan().unwrap();
    assert_eq!((patch.start, patch.end()), (case.site - 5, case.site));
    assert_eq!(patch.boundaries(), [patch.start]);
    assert_eq!(plan(&case.request(), &holding(patch), &mut Arena::new(ARENA, 4096)), Err(Refusal::Patched));
    // `mov %rsi, %rdi; mov %edx, %esi; syscall; ret`
    let case = self::case(&[0x48, 0x89, 0xf7, 0x89, 0xd6, 0x0f, 0x05, 0xc3, 0xe9, 1, 2, 0, 0], 39);
    let patch = case.plan().unwrap();
    assert_eq!((patch.start, patch.end()), (case.site - 5, case.site));
    assert_eq!(patch.boundaries(), [patch.start, patch.start + 3]);
    assert!(faults(patch.patched[3]));
    // Control does not run from a jump in front into the site.
    let case = self::case(&[0x48, 0x89, 0xf7, 0xeb, 0xd6, 0x0f, 0x05, 0xc3, 0xe9, 1, 2, 0, 0], 39);
    assert_eq!(case.plan(), Err(Refusal::NoPadding));
}

/// All bytes that are taken to fault as instructions.
pub(super) fn faulting_bytes() -> impl Iterator<Item = u8> {
    (0..=255).filter(|byte| faults(*byte))
}

fn holding(patch: Patch) -> Sites {
    let mut sites = Sites::new();
    sites.insert(patch).unwrap();
    sites
}

#[test]
fn what_cannot_move_is_refused() {
    let refused = |around: &[u8]| case(around, 39).behind().unwrap_err();
    assert_eq!(refused(&[0x0f, 0x05, 0x0f, 0x05, 0x90, 0xc3]), Refusal::NotMovable, "another syscall");
    assert_eq!(refused(&[0x0f, 0x05, 0xe3, 0x10, 0x90, 0xc3]), Refusal::NotMovable, "jrcxz");
    assert_eq!(refused(&[0x0f, 0x05, 0xff, 0xd0, 0x90, 0xc3]), Refusal::NotMovable, "indirect call");
    assert_eq!(refused(&[0x0f, 0x05, 0xf3, 0x0f, 0x1e, 0xfa, 0xc3]), Refusal::NotMovable, "endbr64");
    assert_eq!(refused(&[0x0f, 0x05, 0xf0, 0xff, 0x08, 0xc3]), Refusal::NotMovable, "lock");
    assert_eq!(refused(&[0x0f, 0x05, 0xc7, 0xf8, 0, 0, 0, 0]), Refusal::NotMovable, "xbegin");
    assert_eq!(refused(&[0x0f, 0x05, 0x67, 0x8b, 0x05, 0, 0, 0, 0]), Refusal::NotMovable, "eip-relative");
    assert_eq!(refused(&[0x0f, 0x05, 0x06, 0x90, 0x90, 0xc3]), Refusal::Undecodable);
    assert_eq!(refused(&[0x0f, 0x05, 0x48]), Refusal::WindowEnds);
    assert_eq!(refused(&[0x0f, 0x05]), Refusal::WindowEnds);
}

#[test]
fn calls_that_do_not_return_are_left_alone() {
    for number in [15, 60, 231] {
        let bytes = [0xb8, u8::try_from(number).unwrap(), 0, 0, 0, 0x0f, 0x05, 0xc3];
        assert_eq!(case(&bytes, number).plan(), Err(Refusal::NeverReturns));
    }
}

#[test]
fn an_address_without_a_site_is_refused() {
    let mut case = case(&[0xb8, 0x27, 0, 0, 0, 0x0f, 0x05, 0xc3], 0x27);
    for site in [0, 1, case.site - 1, case.site + 1, case.site + 64, u64::MAX] {
        case.site = site;
        assert_eq!(case.plan(), Err(Refusal::NotASyscall));
    }
}

/// A just-in-time compiler puts `mov; syscall; ret` at the start of its mapping.
#[test]
fn the_first_instruction_of_executable_memory_needs_no_proof() {
    let bytes = [0xb8, 0x27, 0, 0, 0, 0x0f, 0x05, 0xc3];
    let plan = |begins| {
        let code = CodeWindow { start: CODE, bytes: &bytes, begins };
        let request = Request { code, site: CODE + 5, number: 0x27, stub_entry: STUB };
        super::plan(&request, &Sites::new(), &mut Arena::new(ARENA, 1 << 16))
    };
    assert_eq!(plan(Edge::Boundary).unwrap().start, CODE);
    assert_eq!(plan(Edge::Cut), Err(Refusal::WindowEnds));
}

#[test]
fn a_patch_does_not_cover_a_byte_of_another() {
    let bytes = [0x0f, 0x05, 0xb8, 0x27, 0, 0, 0, 0x0f, 0x05, 0x48, 0x89, 0xc3, 0xc3];
    let mut arena = Arena::new(ARENA, 1 << 20);
    let mut first = case(&bytes, 1);
    let mut sites = Sites::new();
    let patch = plan(&first.request(), &sites, &mut arena).unwrap();
    assert_eq!(patch.end(), first.site + 7);
    sites.insert(patch.clone()).unwrap();
    assert_eq!(plan(&first.request(), &sites, &mut arena), Err(Refusal::Patched));
    first.site += 7;
    first.number = 0x27;
    let second = plan(&first.request(), &sites, &mut arena).unwrap();
    assert_eq!(second.start, second.site, "the number is displaced already");
    sites.insert(second.clone()).unwrap();
    assert_eq!(sites.insert(second.clone()), Err(Full::Overlap));

    assert_eq!(sites.overlapping(patch.site + 1..second.site).count(), 1);
    assert_eq!(sites.overlapping(patch.site + 1..second.site + 1).count(), 2);
    assert_eq!(sites.overlapping(second.end()..u64::MAX).count(), 0);
    assert_eq!(sites.stub_return(patch.after).map(|p| p.site), Some(patch.site));
    assert_eq!(sites.stub_return(patch.after + 1), None);
    assert_eq!(sites.original_rip(second.after), Some(second.site + 2));
    assert_eq!(sites.resume_at(second.site + 2), Some(second.after));

    let mut read = first.bytes.clone();
    for patch in sites.iter() {
        let from = usize::try_from(patch.start - CODE).unwrap();
        read[from..from + patch.patched.len()].copy_from_slice(&patch.patched);
    }
    assert_ne!(read, first.bytes);
    sites.overlay(CODE, &mut read);
    assert_eq!(read, first.bytes);
    let mut tail = second.patched[2..].to_vec();
    sites.overlay(second.start + 2, &mut tail);
    assert_eq!(tail, second.original[2..]);

    let copy = sites.clone();
    assert_eq!(sites.remove(patch.start).map(|p| p.site), Some(patch.site));
    assert_eq!((sites.len(), copy.len()), (1, 2));
    assert_eq!(sites.at(patch.start), None);
    assert_eq!(sites.in_trampoline(patch.trampoline), None);
}

#[test]
fn the_count_of_patches_is_bounded() {
    let template = case(&[0xb8, 0x27, 0, 0, 0, 0x0f, 0x05, 0xc3], 0x27).plan().unwrap();
    let mut sites = Sites::new();
    for index in 0..u64::try_from(MAX_PATCHES).unwrap() {
        let (start, trampoline) = (CODE + index * 16, ARENA + index * 64);
        sites.insert(Patch { start, trampoline, ..template.clone() }).unwrap();
    }
    assert_eq!(sites.insert(Patch { start: 0, trampoline: 0, ..template }), Err(Full::Count));
}

/// After the first write and until the last, the start faults.
#[test]
fn no_write_leaves_half_a_jump() {
    let patch = case(&[0xb8, 0x27, 0, 0, 0, 0x0f, 0x05, 0xc3], 0x27).plan().unwrap();
    for (writes, before, after) in [
        (patch.writes(), &patch.original, &patch.patched),
        (patch.undo_writes(), &patch.patched, &patch.original),
    ] {
        let mut bytes = before.clone();
        let last = writes.len() - 1;
        for (index, write) in writes.iter().enumerate() {
            let from = usize::try_from(write.address - patch.start).unwrap();
            bytes[from..from + write.bytes.len()].copy_from_slice(&write.bytes);
            assert_eq!(faults(bytes[0]), index != last);
        }
        assert_eq!(&bytes, after);
    }
}

#[test]
fn trampolines_are_packed_into_few_pages() {
    let mut arena = Arena::new(ARENA, 1 << 16);
    let free = |arena: &mut Arena| arena.take(CODE, [false; 4], 31);
    let first: Vec<u64> = (0..132).map(|_| free(&mut arena).unwrap()).collect();
    assert_eq!(first, (0..132).map(|i| ARENA + i * 31).collect::<Vec<_>>());
    assert_eq!(arena.touched_pages().count(), 1);
    assert_eq!(free(&mut arena), Some(ARENA + 4096), "none crosses a page");
    arena.give_back(first[7]);
    assert_eq!(free(&mut arena), Some(first[7]));
    assert_eq!(Arena::new(ARENA + 1, 4096).range(), ARENA + 4096..ARENA + 4096);
    assert_eq!(Arena::new(0, u64::MAX).range(), 0..MAX_ARENA);
    assert_eq!(Arena::new(u64::MAX, u64::MAX).take(CODE, [false; 4], 1), None);
}

#[test]
fn good_ranges_give_a_highest_byte_that_faults() {
    let code = CODE..CODE + (2 << 20);
    let ranges: Vec<_> = Arena::good_ranges(code.clone()).collect();
    assert_eq!(ranges.first(), Some(&(code.end + 0x0600_0000..code.start + 0x0800_0000)));
    assert!(ranges.len() > 10);
    for range in ranges {
        for (place, end) in [(range.start, code.end), (range.end - 1, code.start), (range.start, code.start)]
        {
            assert!(faults(relative(end, place).unwrap().to_le_bytes()[3]));
        }
    }
    assert_eq!(Arena::good_ranges(CODE..CODE + (64 << 20)).count(), 0);
}
