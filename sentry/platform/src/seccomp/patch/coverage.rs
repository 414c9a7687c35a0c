//! What share of the sites in real programs is patched, and that what is displaced there are whole instructions.
//!
//! The truth is linear disassembly of the text section, put back in step at every symbol.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use goblin::elf::Elf;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::boundary::Proof;
use super::properties::assert_sound;
use super::*;

/// Where the file is imagined to be mapped.
const BASE: u64 = 0x7f12_3450_0000;

/// A number that no site in a file can be seen to load.
const UNKNOWN: u64 = 1 << 30;

/// The text of a file and the places of its functions.
struct Program {
    start: u64,
    text: Vec<u8>,
    functions: BTreeSet<u64>,
}

impl Program {
    fn load(path: &Path) -> Option<Self> {
        let file = std::fs::read(path).ok()?;
        let elf = Elf::parse(&file).unwrap();
        let section =
            elf.section_headers.iter().find(|s| elf.shdr_strtab.get_at(s.sh_name) == Some(".text"))?;
        let text = file[section.file_range()?].to_vec();
        let symbols = elf.syms.iter().chain(elf.dynsyms.iter());
        let functions = symbols.filter(|s| s.is_function()).map(|s| BASE + s.st_value).collect();
        Some(Self { start: BASE + section.sh_addr, text, functions })
    }

    fn end(&self) -> u64 {
        self.start + length(&self.text)
    }

    /// All instructions, in order.
    fn instructions(&self) -> Vec<Instruction> {
        let mut decoder = Decoder::with_ip(64, &self.text, self.start, DecoderOptions::NONE);
        let mut all = Vec::new();
        while decoder.can_decode() {
            let instruction = decoder.decode();
            let across = self.functions.range(instruction.ip() + 1..instruction.next_ip()).next();
            if let Some(&function) = across {
                decoder.set_position(usize::try_from(function - self.start).unwrap()).unwrap();
                decoder.set_ip(function);
            } else {
                all.push(instruction);
            }
        }
        all
    }

    /// The instructions that are so without doubt: none between one that the decoder does not know and the next symbol.
    fn certain_instructions(&self) -> Vec<Instruction> {
        let mut certain = false;
        let mut all = self.instructions();
        all.retain(|instruction| {
            certain = !instruction.is_invalid() && (certain || self.functions.contains(&instruction.ip()));
            certain
        });
        all
    }

    fn window(&self, site: u64) -> CodeWindow<'_> {
        let low = self.start.max(site - WINDOW_BEFORE);
        let high = self.end().min(site + WINDOW_AFTER);
        let offset = |address: u64| usize::try_from(address - self.start).unwrap();
        CodeWindow { start: low, bytes: &self.text[offset(low)..offset(high)], begins: Edge::Cut }
    }
}

/// The number that a site is reached with, as far as the instructions before it tell.
fn number_at(before: &[Instruction]) -> u64 {
    let writes = |i: &&Instruction| {
        i.op0_kind() == OpKind::Register
            && matches!(i.op0_register(), Register::EAX | Register::RAX)
            && i.op_count() > 1
    };
    match before.iter().rev().take(24).find(writes) {
        Some(i) if i.mnemonic() == Mnemonic::Xor && i.op1_register() == i.op0_register() => 0,
        Some(i) if i.mnemonic() == Mnemonic::Mov => i.try_immediate(1).unwrap_or(UNKNOWN),
        _ => UNKNOWN,
    }
}

/// What became of a file's sites.
#[derive(Debug, Default)]
struct Tally {
    before: usize,
    behind: usize,
    refused: BTreeMap<String, usize>,
    pages: usize,
}

impl Tally {
    fn patched(&self) -> usize {
        self.before + self.behind
    }

    /// The sites whose calls return.
    fn possible(&self) -> usize {
        let refused: usize = self.refused.values().sum();
        let never = self.refused.get(&Refusal::NeverReturns.to_string()).copied().unwrap_or_default();
        self.patched() + refused - never
    }
}

/// Plans all sites of a program, one after the other, as if each had been trapped.
fn patch_all(program: &Program, mut arena: Arena) -> Tally {
    let all = program.instructions();
    let boundaries: BTreeSet<u64> = all.iter().map(Instruction::ip).collect();
    let mut tally = Tally::default();
    let mut sites = Sites::new();
    for (index, instruction) in all.iter().enumerate().filter(|(_, i)| i.mnemonic() == Mnemonic::Syscall) {
        let (site, number) = (instruction.ip(), number_at(&all[..index]));
        let request = Request { code: program.window(site), site, number, stub_entry: 0x1000 };
        match plan(&request, &sites, &mut arena) {
            Ok(patch) => {
                assert_sound(&request, &patch);
                for boundary in patch.boundaries() {
                    assert!(boundaries.contains(boundary), "{:x} is no instruction", boundary - BASE);
                }
                *(if patch.start == site { &mut tally.behind } else { &mut tally.before }) += 1;
                sites.insert(patch).unwrap();
            }
            Err(refusal) => *tally.refused.entry(refusal.to_string()).or_default() += 1,
        }
    }
    tally.pages = arena.touched_pages().count();
    tally
}

/// An arena where the highest byte of displacements faults.
fn arena_for(program: &Program, size: u64) -> Arena {
    let range = Arena::good_ranges(program.start..program.end()).next().unwrap();
    Arena::new(range.start, size)
}

fn assert_coverage(program: &Program, name: &str, at_least_percent: usize) {
    let tally = patch_all(program, arena_for(program, 64 << 10));
    println!("{name}: {} of {}, {tally:?}", tally.patched(), tally.possible());
    assert!(tally.patched() * 100 >= tally.possible() * at_least_percent, "{name}: {tally:?}");
}

/// The C library that this test runs with.
fn c_library() -> Program {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut paths = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    let path = paths.find(|path| path.contains("libc")).expect("tests are linked dynamically");
    Program::load(Path::new(path)).expect("it has code")
}

#[test]
fn nearly_all_sites_of_the_c_library_are_patched() {
    assert_coverage(&c_library(), "libc", 98);
}

/// Whichever of them this machine has.
#[test]
fn nearly_all_sites_of_common_programs_are_patched() {
    for path in [
        "/lib64/ld-linux-x86-64.so.2",
        "/lib/ld-musl-x86_64.so.1",
        "/lib/x86_64-linux-gnu/libpthread.so.0",
        "/bin/busybox",
        "/bin/bash",
        "/usr/sbin/runc",
    ] {
        if let Some(program) = Program::load(Path::new(path)) {
            assert_coverage(&program, path, 95);
        }
    }
}

/// The proof of a boundary, put to the test at every kind of code: no address in the middle of an instruction is ever taken for
/// the start of one, and most starts are recognised.
#[test]
fn no_middle_of_an_instruction_is_taken_for_a_boundary() {
    let program = c_library();
    let (mut starts, mut recognised, mut middles) = (0, 0, 0);
    for instruction in program.certain_instructions().iter().skip(100).step_by(37) {
        let proven = |at: u64, proof| boundary::is_boundary(&program.window(at), at, proof);
        starts += 1;
        recognised += usize::from(proven(instruction.ip(), Proof::Strong));
        for middle in (instruction.ip() + 1..instruction.next_ip()).step_by(3) {
            middles += 1;
            assert!(!proven(middle, Proof::Usual), "{:x}", middle - BASE);
        }
    }
    println!("{recognised} of {starts} starts, none of {middles} others");
    assert!(recognised * 10 > starts * 9);
}
