//! Patched programs run natively, beside the same programs unpatched: registers, flags, stack and red zone come out the same.
//!
//! Each program is a file of four pages: code, trampolines, a stub that makes the system call with a real `syscall`, and data.
//! It sets registers, calls the code under test, and writes its data page, with the registers pushed there, to standard output.

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use super::tests::faulting_bytes;
use super::*;

const CODE: u64 = 0x1000_0000;
const ARENA: u64 = CODE + 0x0640_0000;
const STUB: u64 = 0x3000_0000;
const DATA: u64 = 0x3100_0000;
/// What the stub leaves: the return address, and a mark that it ran.
const NOTES: u64 = DATA + 0x1000;
const PAGE: usize = 4096;
/// Where the code under test is, in the code page.
const UNDER_TEST: usize = 0x400;

fn low32(address: u64) -> [u8; 4] {
    u32::try_from(address).unwrap().to_le_bytes()
}

/// The stub: keeps rcx, which the real `syscall` destroys, and touches neither stack nor flags.
fn stub() -> Vec<u8> {
    [
        &[0x48, 0x89, 0x0c, 0x25][..], // mov %rcx, NOTES
        &low32(NOTES),
        &[0xc6, 0x04, 0x25], // movb $1, NOTES + 8
        &low32(NOTES + 8),
        &[0x01, 0x0f, 0x05],       // syscall
        &[0x48, 0x8b, 0x0c, 0x25], // mov NOTES, %rcx
        &low32(NOTES),
        &[0xff, 0xe1], // jmp *%rcx
    ]
    .concat()
}

/// Sets registers and flags, calls the code under test, reports.
fn driver() -> Vec<u8> {
    let mut code = [&[0xbc][..], &low32(DATA + 0x800)].concat(); // mov $…, %esp
    code.extend([0x48, 0xc7, 0xc7, 0xff, 0xff, 0xff, 0xff]); // mov $-1, %rdi
    code.extend([0xbe, 0x11, 0, 0, 0, 0xba, 0x22, 0, 0, 0, 0xbb, 0x33, 0, 0, 0, 0xbd, 0x44, 0, 0, 0]);
    code.extend([0x41, 0xba, 0x55, 0, 0, 0, 0x41, 0xbc, 0x66, 0, 0, 0, 0x41, 0xbd, 0x77, 0, 0, 0]);
    code.extend([0xb8, 0x03, 0, 0, 0]); // mov $3, %eax: close(-1) is EBADF
    code.extend([0xc6, 0x44, 0x24, 0x80, 0x5a]); // movb $0x5a, -0x80(%rsp): the red zone's end
    code.push(0xf9); // stc
    let displacement = i32::try_from(UNDER_TEST - code.len() - 5).unwrap();
    code.push(0xe8);
    code.extend(displacement.to_le_bytes());
    code.extend([0xb9, 0, 0, 0, 0, 0x41, 0xbb, 0, 0, 0, 0, 0x9c]); // rcx and r11 are free; pushf
    code.extend(0x50..=0x57);
    code.extend((0x50..=0x57).flat_map(|push| [0x41, push]));
    code.extend([0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0, 0xbe]); // write(1, DATA, …)
    code.extend(low32(DATA));
    code.extend([0xba, 0, 0x20, 0, 0, 0x0f, 0x05]);
    code.extend([0xb8, 0xe7, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05]); // exit_group(0)
    code
}

fn code_page(under_test: &[u8]) -> Vec<u8> {
    let mut page = driver();
    page.resize(UNDER_TEST, 0x90);
    page.extend(under_test);
    page.resize(PAGE, 0xcc);
    page
}

/// An executable of segments at given addresses; the flags are those of program headers.
fn executable(segments: &[(u64, u32, &[u8])]) -> Vec<u8> {
    let count = u16::try_from(segments.len()).unwrap();
    let mut file =
        vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0x3e, 0, 1, 0, 0, 0];
    file.extend(CODE.to_le_bytes());
    file.extend(64_u64.to_le_bytes());
    file.extend([0; 12]);
    file.extend([64, 0, 56, 0]);
    file.extend(count.to_le_bytes());
    file.extend([0; 6]);
    let mut offset = PAGE;
    for (address, flags, bytes) in segments {
        file.extend(1_u32.to_le_bytes());
        file.extend(flags.to_le_bytes());
        let size = length(bytes);
        for field in [u64::try_from(offset).unwrap(), *address, *address, size, size, 0x1000] {
            file.extend(field.to_le_bytes());
        }
        offset += bytes.len().next_multiple_of(PAGE);
    }
    for (_, _, bytes) in segments {
        file.resize(file.len().next_multiple_of(PAGE), 0);
        file.extend(*bytes);
    }
    file
}

/// Runs a program with the code page and the trampoline page given.
fn run(code: &[u8], trampolines: &[u8]) -> Output {
    let (read_execute, read_write) = (5, 6);
    let (stub, data) = (stub(), vec![0; 2 * PAGE]);
    let file = executable(&[
        (CODE, read_execute, code),
        (ARENA, read_execute, trampolines),
        (STUB, read_execute, &stub),
        (DATA, read_write, &data),
    ]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("program");
    let mut writer = std::fs::File::create(&path).unwrap();
    writer.write_all(&file).unwrap();
    writer.set_permissions(PermissionsExt::from_mode(0o755)).unwrap();
    drop(writer);
    loop {
        // Another test may have forked while the file was open for writing, and not have executed yet.
        match Command::new(&path).stdin(Stdio::null()).output() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
            output => return output.unwrap(),
        }
    }
}

/// Plans the one site of the code under test.
fn planned(page: &[u8], under_test: &[u8], number: u64) -> Patch {
    let offset = UNDER_TEST + under_test.windows(2).position(|two| two == [0x0f, 0x05]).unwrap();
    let site = CODE + u64::try_from(offset).unwrap();
    let code = CodeWindow { start: CODE, bytes: page, begins: Edge::Boundary };
    let request = Request { code, site, number, stub_entry: STUB };
    let patch = plan(&request, &Sites::new(), &mut Arena::new(ARENA, 4096)).unwrap();
    super::properties::assert_sound(&request, &patch);
    patch
}

/// The pages with a patch put in.
fn patched_pages(page: &[u8], patch: &Patch) -> (Vec<u8>, Vec<u8>) {
    let mut code = page.to_vec();
    let at = usize::try_from(patch.start - CODE).unwrap();
    code[at..at + patch.patched.len()].copy_from_slice(&patch.patched);
    let mut trampolines = vec![0xcc; PAGE];
    let at = usize::try_from(patch.trampoline - ARENA).unwrap();
    trampolines[at..at + patch.code.len()].copy_from_slice(&patch.code);
    (code, trampolines)
}

fn assert_same_outcome(name: &str, under_test: &[u8], number: u64) {
    let page = code_page(under_test);
    let patch = planned(&page, under_test, number);
    let (code, trampolines) = patched_pages(&page, &patch);
    let before = run(&page, &[0xcc]);
    let after = run(&code, &trampolines);
    assert_eq!(before.status.code(), Some(0), "{name}: {before:?}");
    assert_eq!(after.status.code(), Some(0), "{name}: {after:?}");
    let (data, notes) = after.stdout.split_at(PAGE);
    assert_eq!(before.stdout[..PAGE], *data, "{name}: what the program saw");
    assert!(before.stdout[..PAGE].iter().any(|byte| *byte != 0) && before.stdout.len() == 2 * PAGE);
    assert_eq!(notes[..8], patch.after.to_le_bytes(), "{name}: the stub's caller");
    assert_eq!((notes[8], before.stdout[PAGE + 8]), (1, 0), "{name}: only patched does the stub run");
}

#[test]
fn patched_code_does_what_it_did() {
    let cases: &[(&str, &[u8], u64)] = &[
        ("number before", &[0xb8, 3, 0, 0, 0, 0x0f, 0x05, 0xc3], 3),
        ("long number before", &[0x48, 0xc7, 0xc0, 3, 0, 0, 0, 0x0f, 0x05, 0xc3], 3),
        // syscall; cmp $-4096, %rax; ja +1; ret; mov %rax, %rbx; ret
        (
            "comparison behind",
            &[0x0f, 0x05, 0x48, 0x3d, 0, 0xf0, 0xff, 0xff, 0x77, 1, 0xc3, 0x48, 0x89, 0xc3, 0xc3],
            3,
        ),
        // syscall; test %eax, %eax; jne +1; ret; mov %rax, %rbx; ret
        ("branch behind", &[0x0f, 0x05, 0x85, 0xc0, 0x75, 1, 0xc3, 0x48, 0x89, 0xc3, 0xc3], 3),
        // syscall; test %eax, %eax; je +1; ret; mov %rax, %rbx; ret
        ("branch not taken", &[0x0f, 0x05, 0x85, 0xc0, 0x74, 1, 0xc3, 0x48, 0x89, 0xc3, 0xc3], 3),
        // syscall; call +1; ret; mov (%rsp), %rbx; ret
        ("call behind", &[0x0f, 0x05, 0xe8, 1, 0, 0, 0, 0xc3, 0x48, 0x8b, 0x1c, 0x24, 0xc3], 3),
        // syscall; mov -0x400(%rip), %rbx; ret
        ("rip-relative behind", &[0x0f, 0x05, 0x48, 0x8b, 0x1d, 0, 0xfc, 0xff, 0xff, 0xc3], 3),
        // syscall; adc $0, %rbx; pushf; pop %rdx; ret: the carry set by the driver is still there
        ("flags", &[0x0f, 0x05, 0x48, 0x83, 0xd3, 0, 0x9c, 0x5a, 0xc3], 3),
        // syscall; jmp +1; ret; mov %rax, %rbx; ret, where only what is in front has room
        ("front", &[0x48, 0x89, 0x5c, 0x24, 0xf0, 0x0f, 0x05, 0xeb, 1, 0xc3, 0x48, 0x89, 0xc3, 0xc3], 3),
        // mov %edx, %esi; mov %ebx, %edx; mov %ebp, %ebx; syscall; jmp +1; …
        (
            "three in front",
            &[0x89, 0xd6, 0x89, 0xda, 0x89, 0xeb, 0x0f, 0x05, 0xeb, 1, 0xc3, 0x48, 0x89, 0xc3, 0xc3],
            3,
        ),
        // syscall; ret; padding
        ("padding", &[0x0f, 0x05, 0xc3, 0x0f, 0x1f, 0x80, 0, 0, 0, 0, 0x66, 0x0f, 0x1f, 0x44, 0, 0], 3),
        // syscall; jmp rel8 over padding
        (
            "short jump",
            &[
                0x0f, 0x05, 0xeb, 12, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, 0x66, 0x90, 0x89, 0xc3,
                0xc3,
            ],
            3,
        ),
        // again: syscall; dec %esi; jne again; ret, seventeen times
        ("loop", &[0x0f, 0x05, 0xff, 0xce, 0x75, 0xfa, 0xc3], 3),
    ];
    for (name, under_test, number) in cases {
        let under_test: Vec<u8> = match *name {
            "loop" => [&[0x31, 0xc0][..], under_test].concat(),
            _ => under_test.to_vec(),
        };
        assert_same_outcome(name, &under_test, if *name == "loop" { 0 } else { *number });
    }
}

/// A thread that stands where an instruction was displaced gets SIGILL, and not whatever the jump's bytes are.
#[test]
fn displaced_boundaries_fault() {
    let under_test = [0x0f, 0x05, 0x85, 0xc0, 0x75, 1, 0xc3, 0x48, 0x89, 0xc3, 0xc3];
    let page = code_page(&under_test);
    let patch = planned(&page, &under_test, 3);
    let (code, trampolines) = patched_pages(&page, &patch);
    assert_eq!(patch.boundaries().len(), 3);
    for boundary in &patch.boundaries()[1..] {
        let mut code = code.clone();
        let displacement = i32::try_from(boundary - CODE - 5).unwrap();
        code[0] = 0xe9;
        code[1..5].copy_from_slice(&displacement.to_le_bytes());
        assert_eq!(run(&code, &trampolines).status.signal(), Some(4));
        // Unpatched it runs on, up to the `ret`, for which nobody called.
        code[UNDER_TEST..].copy_from_slice(&page[UNDER_TEST..]);
        assert_eq!(run(&code, &trampolines).status.signal(), Some(11));
    }
}

/// Of this processor, whatever its manual says.
#[test]
fn bytes_said_to_fault_do() {
    let bytes: Vec<u8> = faulting_bytes().collect();
    assert!(bytes.len() > 16);
    for byte in bytes {
        for following in [0x00, 0x05, 0x90, 0xc0, 0xff] {
            let mut code = vec![following; PAGE];
            code[0] = byte;
            assert_eq!(run(&code, &[0xcc]).status.signal(), Some(4), "{byte:x} {following:x}");
        }
    }
}
