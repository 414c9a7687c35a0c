//! Program files: ELF executables and `#!` scripts, parsed into what `execve` maps.
//!
//! The file is hostile: every number is bounded before it is used.

use abi::errno::{ENOEXEC, SysResult};
use goblin::elf::header::{EM_X86_64, ET_DYN, ET_EXEC, Header};
use goblin::elf::program_header::{
    PF_R, PF_W, PF_X, PT_GNU_STACK, PT_INTERP, PT_LOAD, PT_PHDR, ProgramHeader,
};
use platform::Protection;

use crate::memory::PAGE_SIZE;

/// Bytes of a file that decide what it is (`BINPRM_BUF_SIZE`).
pub(super) const HEAD_SIZE: usize = 256;
/// Program headers accepted, in bytes (as Linux: a page).
const PROGRAM_HEADERS_MAX: usize = 4096;
/// Size of one program header in a 64-bit file.
const PROGRAM_HEADER_SIZE: usize = 56;

/// A piece of the file to be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Address as the file has it.
    pub(super) address: u64,
    /// Bytes from the file.
    pub(super) file_size: u64,
    /// Bytes in memory; what exceeds the file is zero.
    pub(super) memory_size: u64,
    /// Where it begins in the file.
    pub(super) offset: u64,
    /// Protection.
    pub(super) protection: Protection,
}

/// An ELF file's part in `execve`.
#[derive(Clone, Debug)]
pub(super) struct ElfFile {
    /// Position-independent: may be anywhere.
    pub(super) is_relocatable: bool,
    pub(super) entry: u64,
    /// Address of the program headers as the file has it, if they are mapped.
    pub(super) headers_address: Option<u64>,
    pub(super) headers_count: u16,
    pub(super) segments: Vec<Segment>,
    /// Where the interpreter's path is: offset and length.
    pub(super) interpreter: Option<(u64, u64)>,
    /// `PT_GNU_STACK` asks for an executable stack.
    pub(super) executable_stack: bool,
    /// Largest alignment any segment asks for.
    pub(super) alignment: u64,
}

/// What a file's first bytes say it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Elf,
    /// `#!interpreter [argument]`
    Script {
        interpreter: Vec<u8>,
        argument: Option<Vec<u8>>,
    },
}

/// Tells what a file is by its first [`HEAD_SIZE`] bytes.
///
/// # Errors
/// `ENOEXEC`.
pub(super) fn recognise(head: &[u8]) -> SysResult<Kind> {
    if head.starts_with(b"\x7fELF") {
        return Ok(Kind::Elf);
    }
    let line = head.strip_prefix(b"#!").ok_or(ENOEXEC)?;
    let end = line.iter().position(|byte| *byte == b'\n' || *byte == 0);
    let is_blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let complete = end.is_some() || head.len() < HEAD_SIZE;
    let line = line.get(..end.unwrap_or(line.len())).unwrap_or_default();
    let line = trim(line, is_blank);
    let split = line.iter().position(is_blank);
    // A line that was cut may only be used if the interpreter's name is whole.
    if !complete && split.is_none() {
        return Err(ENOEXEC);
    }
    let (interpreter, rest) = line.split_at(split.unwrap_or(line.len()));
    if interpreter.is_empty() {
        return Err(ENOEXEC);
    }
    let argument = trim(rest, is_blank);
    Ok(Kind::Script {
        interpreter: interpreter.to_vec(),
        argument: (!argument.is_empty()).then(|| argument.to_vec()),
    })
}

fn trim(mut text: &[u8], blank: impl Fn(&u8) -> bool) -> &[u8] {
    while let Some((first, rest)) = text.split_first()
        && blank(first)
    {
        text = rest;
    }
    while let Some((last, rest)) = text.split_last()
        && blank(last)
    {
        text = rest;
    }
    text
}

/// Parses an ELF file. `read` fetches bytes of it.
///
/// # Errors
/// `ENOEXEC`, or what `read` gives.
pub(super) fn parse_elf(head: &[u8], read: impl Fn(u64, &mut [u8]) -> SysResult<()>) -> SysResult<ElfFile> {
    let header_bytes: &[u8; 64] = head.get(..64).and_then(|bytes| bytes.try_into().ok()).ok_or(ENOEXEC)?;
    // ELFCLASS64, ELFDATA2LSB.
    if header_bytes[4] != 2 || header_bytes[5] != 1 {
        return Err(ENOEXEC);
    }
    let header = goblin::elf::Elf::parse_header(header_bytes).map_err(|_| ENOEXEC)?;
    let is_relocatable = match header.e_type {
        ET_EXEC => false,
        ET_DYN => true,
        _ => return Err(ENOEXEC),
    };
    let table_size = usize::from(header.e_phnum) * PROGRAM_HEADER_SIZE;
    if header.e_machine != EM_X86_64
        || usize::from(header.e_phentsize) != PROGRAM_HEADER_SIZE
        || header.e_phnum == 0
        || table_size > PROGRAM_HEADERS_MAX
    {
        return Err(ENOEXEC);
    }
    let mut table = vec![0; table_size];
    read(header.e_phoff, &mut table)?;
    let context =
        goblin::container::Ctx::new(goblin::container::Container::Big, goblin::container::Endian::Little);
    let headers =
        ProgramHeader::parse(&table, 0, usize::from(header.e_phnum), context).map_err(|_| ENOEXEC)?;
    collect(&header, &headers, is_relocatable)
}

fn collect(header: &Header, headers: &[ProgramHeader], is_relocatable: bool) -> SysResult<ElfFile> {
    let mut file = ElfFile {
        is_relocatable,
        entry: header.e_entry,
        headers_address: None,
        headers_count: header.e_phnum,
        segments: Vec::new(),
        interpreter: None,
        executable_stack: false,
        alignment: PAGE_SIZE,
    };
    for program_header in headers {
        match program_header.p_type {
            PT_LOAD => {
                if program_header.p_align.is_power_of_two() {
                    file.alignment = file.alignment.max(program_header.p_align);
                }
                file.segments.push(segment(program_header)?);
            }
            PT_INTERP => file.interpreter = Some((program_header.p_offset, program_header.p_filesz)),
            PT_PHDR => file.headers_address = Some(program_header.p_vaddr),
            PT_GNU_STACK => file.executable_stack = program_header.p_flags & PF_X != 0,
            _ => {}
        }
    }
    if file.segments.is_empty() || file.segments.windows(2).any(|pair| pair[0].address > pair[1].address) {
        return Err(ENOEXEC);
    }
    if file.headers_address.is_none() {
        file.headers_address = file
            .segments
            .iter()
            .find(|segment| (segment.offset..segment.offset + segment.file_size).contains(&header.e_phoff))
            .map(|segment| header.e_phoff - segment.offset + segment.address);
    }
    Ok(file)
}

fn segment(header: &ProgramHeader) -> SysResult<Segment> {
    let congruent = header.p_vaddr % PAGE_SIZE == header.p_offset % PAGE_SIZE;
    let in_range = header.p_vaddr.checked_add(header.p_memsz).is_some_and(|end| end < 1 << 47)
        && header.p_offset.checked_add(header.p_filesz).is_some_and(|end| end < 1 << 62);
    if header.p_filesz > header.p_memsz || !congruent || !in_range {
        return Err(ENOEXEC);
    }
    Ok(Segment {
        address: header.p_vaddr,
        file_size: header.p_filesz,
        memory_size: header.p_memsz,
        offset: header.p_offset,
        protection: Protection {
            read: header.p_flags & PF_R != 0,
            write: header.p_flags & PF_W != 0,
            execute: header.p_flags & PF_X != 0,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(head: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
        match recognise(head) {
            Ok(Kind::Script { interpreter, argument }) => (interpreter, argument),
            other => panic!("not a script: {other:?}"),
        }
    }

    #[test]
    fn a_script_names_its_interpreter_and_at_most_one_argument() {
        assert_eq!(script(b"#!/bin/sh\n"), (b"/bin/sh".to_vec(), None));
        assert_eq!(script(b"#! /usr/bin/env  a b \nx"), (b"/usr/bin/env".to_vec(), Some(b"a b".to_vec())));
        assert_eq!(script(b"#!/bin/sh"), (b"/bin/sh".to_vec(), None));
    }

    #[test]
    fn what_is_neither_elf_nor_script_is_refused() {
        assert_eq!(recognise(b"hello"), Err(ENOEXEC));
        assert_eq!(recognise(b"#!\n"), Err(ENOEXEC));
        let mut cut = b"#!/".to_vec();
        cut.resize(HEAD_SIZE, b'a');
        assert_eq!(recognise(&cut), Err(ENOEXEC));
    }

    #[test]
    fn a_broken_elf_header_is_refused() {
        let mut head = vec![0; 256];
        head[..4].copy_from_slice(b"\x7fELF");
        assert!(parse_elf(&head, |_, _| Ok(())).is_err());
    }
}
