//! What every accepted patch satisfies, for any bytes.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};
use proptest::prelude::*;

use super::*;

const STUB: u64 = 0x7e00_dead_b000;

/// Decodes one instruction at an address.
fn decode_at(bytes: &[u8], base: u64, at: u64) -> Instruction {
    let offset = usize::try_from(at - base).unwrap();
    Decoder::with_ip(64, &bytes[offset..], at, DecoderOptions::NONE).decode()
}

/// Checks a patch against the request, with nothing but the decoder: walks the original and the trampoline side by side.
pub(super) fn assert_sound(request: &Request<'_>, patch: &Patch) {
    assert_covers(request, patch);
    assert_boundaries_fault(patch);
    assert_way_to_stub(request, patch);
    let mut original = patch.start;
    let mut points = patch.points().iter().peekable();
    let end = patch.end().max(request.site + 2);
    while original < end {
        let here = points.next().expect("the trampoline goes on");
        assert_eq!(here.original, original);
        if original == request.site {
            assert_eq!(here.trampoline, patch.entry);
            assert_eq!(points.next().map(|p| p.original), Some(original));
            original += 2;
            assert_eq!(points.peek().map(|p| p.trampoline), Some(patch.after));
            continue;
        }
        let before = decode_at(request.code.bytes, request.code.start, original);
        let after = decode_at(&patch.code, patch.trampoline, here.trampoline);
        assert_ne!(before.mnemonic(), Mnemonic::Syscall, "one site, one patch");
        original = before.next_ip();
        if before.mnemonic() == Mnemonic::Call {
            assert_call(patch, &before, &after);
            assert_eq!(points.next().map(|p| p.original), Some(before.near_branch_target()));
        } else {
            assert_same(patch, &before, &after);
        }
        if matches!(before.mnemonic(), Mnemonic::Ret | Mnemonic::Jmp | Mnemonic::Ud2) {
            assert!(points.next().is_none(), "nothing is reached behind it");
            return;
        }
    }
    let last = points.next().expect("a way back");
    let back = decode_at(&patch.code, patch.trampoline, last.trampoline);
    assert_eq!((last.original, back.near_branch_target()), (original, original));
    assert_eq!(back.mnemonic(), Mnemonic::Jmp);
    assert!(points.next().is_none());
}

fn assert_covers(request: &Request<'_>, patch: &Patch) {
    assert_eq!(request.code.between(patch.start, patch.end()), Some(&patch.original[..]));
    assert!(patch.patched.len() >= 5 && patch.patched.len() == patch.original.len());
    let jump = decode_at(&patch.patched, patch.start, patch.start);
    assert_eq!((jump.len(), jump.near_branch_target()), (5, patch.trampoline));
}

fn assert_boundaries_fault(patch: &Patch) {
    assert_eq!(patch.boundaries().first(), Some(&patch.start));
    for &boundary in &patch.boundaries()[1..] {
        let offset = usize::try_from(boundary - patch.start).unwrap();
        // Whatever follows, it is no instruction.
        for following in 0..=255 {
            let bytes = [&patch.patched[offset..=offset], &[following; 14]].concat();
            let at_boundary = decode_at(&bytes, 0, 0);
            assert!(at_boundary.is_invalid() || bytes[0] == 0xd6, "{bytes:x?}");
        }
        let copy = patch.resume_at(boundary).expect("a place to go on");
        assert_eq!(patch.original_rip(copy), Some(boundary));
    }
}

fn assert_way_to_stub(request: &Request<'_>, patch: &Patch) {
    let lea = decode_at(&patch.code, patch.trampoline, patch.entry);
    assert_eq!((lea.mnemonic(), lea.op0_register()), (Mnemonic::Lea, iced_x86::Register::RCX));
    assert_eq!(lea.ip_rel_memory_address(), patch.after);
    let jump = decode_at(&patch.code, patch.trampoline, lea.next_ip());
    assert_eq!((jump.mnemonic(), jump.op0_kind()), (Mnemonic::Jmp, OpKind::Memory));
    assert_eq!(jump.next_ip(), patch.after);
    let literal = usize::try_from(jump.ip_rel_memory_address() - patch.trampoline).unwrap();
    assert_eq!(patch.code[literal..literal + 8], request.stub_entry.to_le_bytes());
}

fn assert_call(patch: &Patch, before: &Instruction, push: &Instruction) {
    assert_eq!((push.mnemonic(), push.op0_kind()), (Mnemonic::Push, OpKind::Memory));
    let literal = usize::try_from(push.ip_rel_memory_address() - patch.trampoline).unwrap();
    assert_eq!(patch.code[literal..literal + 8], before.next_ip().to_le_bytes());
    let jump = decode_at(&patch.code, patch.trampoline, push.next_ip());
    assert_eq!(jump.near_branch_target(), before.near_branch_target());
}

/// The same instruction, with the same absolute addresses where it has relative ones.
fn assert_same(patch: &Patch, before: &Instruction, after: &Instruction) {
    assert_eq!(before.mnemonic(), after.mnemonic());
    if before.op0_kind() == OpKind::NearBranch64 {
        let target = before.near_branch_target();
        let moved = patch.boundaries()[1..].contains(&target).then(|| patch.resume_at(target).unwrap());
        assert_eq!(after.near_branch_target(), moved.unwrap_or(target));
        return;
    }
    assert_eq!(before.len(), after.len());
    let mut expected = *before;
    expected.set_ip(after.ip());
    // iced keeps the absolute address of an operand relative to rip.
    assert!(expected.eq_all_bits(after), "{before:?} {after:?}");
}

/// Instructions that stand around sites, so that windows are more than noise.
fn snippet() -> impl Strategy<Value = Vec<u8>> {
    let fixed: Vec<Vec<u8>> = vec![
        vec![0x0f, 0x05],
        vec![0xb8, 0x27, 0, 0, 0],
        vec![0x48, 0xc7, 0xc0, 0x27, 0, 0, 0],
        vec![0x31, 0xc0],
        vec![0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff],
        vec![0x77, 0x06],
        vec![0x85, 0xc0],
        vec![0x74, 0xfc],
        vec![0x5b],
        vec![0xc3],
        vec![0xe8, 0, 1, 0, 0],
        vec![0xeb, 0x10],
        vec![0x0f, 0x84, 0, 1, 0, 0],
        vec![0x48, 0x8b, 0x05, 0, 1, 0, 0],
        vec![0xff, 0x25, 0, 1, 0, 0],
        vec![0x90],
        vec![0xcc],
        vec![0x0f, 0x1f, 0x44, 0, 0],
        vec![0xc7, 0x45, 0xb8, 0x27, 0, 0, 0],
        vec![0xc9],
    ];
    prop_oneof![
        4 => proptest::sample::select(fixed),
        1 => proptest::collection::vec(any::<u8>(), 1..4),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_refused_or_patched_soundly(
        front in proptest::collection::vec(snippet(), 0..24),
        back in proptest::collection::vec(snippet(), 0..12),
        start in prop_oneof![Just(0_u64), 0..1_u64 << 47, Just((1 << 56) - 40), Just(u64::MAX - 40)],
        arena_distance in -(1_i64 << 32)..1_i64 << 32,
        arena_size in 0..1_u64 << 18,
        number in prop_oneof![4 => Just(0x27_u64), 1 => any::<u64>()],
        begins in prop_oneof![Just(Edge::Cut), Just(Edge::Boundary)],
    ) {
        let front = front.concat();
        let bytes = [&front[..], &[0x0f, 0x05], &back.concat()].concat();
        let site = start.saturating_add(length(&front));
        let code = CodeWindow { start, bytes: &bytes, begins };
        let request = Request { code, site, number, stub_entry: STUB };
        let base = start.wrapping_add_signed(arena_distance);
        let mut arena = Arena::new(base, arena_size);
        if let Ok(patch) = plan(&request, &Sites::new(), &mut arena) {
            assert_sound(&request, &patch);
            let range = arena.range();
            prop_assert!(patch.trampoline >= range.start && patch.trampoline_end() <= range.end);
        }
    }

    #[test]
    fn patches_of_one_function_keep_apart(
        code in proptest::collection::vec(snippet(), 1..40),
        start in 0x1000_0000..0x1001_0000_u64,
        arena_size in 0x1000..1_u64 << 17,
    ) {
        let mut bytes = code.concat();
        let whole = bytes.clone();
        let (mut sites, mut arena) = (Sites::new(), Arena::new(start + 0x0600_0000, arena_size));
        let offsets = whole.windows(2).enumerate().filter(|(_, two)| *two == [0x0f, 0x05]).map(|(i, _)| i);
        for offset in offsets {
            let code = CodeWindow { start, bytes: &whole, begins: Edge::Boundary };
            let site = start + u64::try_from(offset).unwrap();
            let request = Request { code, site, number: 0x27, stub_entry: STUB };
            let Ok(patch) = plan(&request, &sites, &mut arena) else { continue };
            assert_sound(&request, &patch);
            let at = usize::try_from(patch.start - start).unwrap();
            prop_assert_eq!(&bytes[at..at + patch.patched.len()], &patch.original[..]);
            bytes[at..at + patch.patched.len()].copy_from_slice(&patch.patched);
            let patch = sites.insert(patch).expect("it overlaps none");
            prop_assert_eq!(sites.of_site(site), Some(&patch));
            prop_assert_eq!(plan(&request, &sites, &mut arena), Err(Refusal::Patched));
            for point in patch.points() {
                prop_assert_eq!(sites.original_rip(point.trampoline), Some(point.original));
            }
        }
        sites.overlay(start, &mut bytes);
        prop_assert_eq!(bytes, whole);
    }

    #[test]
    fn noise_does_not_panic(
        bytes in proptest::collection::vec(any::<u8>(), 2..80),
        at in any::<proptest::sample::Index>(),
        start in any::<u64>(),
        base in any::<u64>(),
        size in any::<u64>(),
    ) {
        let mut bytes = bytes;
        let offset = at.index(bytes.len() - 1);
        bytes[offset..offset + 2].copy_from_slice(&[0x0f, 0x05]);
        let code = CodeWindow { start, bytes: &bytes, begins: Edge::Boundary };
        let site = start.wrapping_add(u64::try_from(offset).unwrap());
        let request = Request { code, site, number: 1, stub_entry: 1 };
        let near = Arena::new(start.wrapping_add(0x0600_0000), 1 << 24);
        for mut arena in [Arena::new(base, size), near] {
            if let Ok(patch) = plan(&request, &Sites::new(), &mut arena) {
                assert_sound(&request, &patch);
            }
        }
    }
}
