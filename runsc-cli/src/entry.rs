//! The program's first instructions, before the C library's `_start`.
//!
//! A position-independent program writes to some 120 of its own pages before it does anything else: wherever an address stands
//! among its constants, which the host then makes read-only (`PT_GNU_RELRO`, elf(5)). One `madvise` (`MADV_POPULATE_WRITE`, Linux 5.14)
//! copies them all; as page faults they took a quarter of what the execution of this program takes, and there are three in each start
//! of a container. A host that does not know the advice refuses it, and nothing is lost.
//!
//! Nothing may be relocated yet here, there is no thread area and no stack protector, so it is assembly. `.cargo/static-runsc.sh` makes
//! it the entry. All registers that `_start` looks at (rsp, rdx) are as the host left them.

std::arch::global_asm!(
    ".pushsection .text.runsc_entry, \"ax\", @progbits",
    ".globl runsc_entry",
    ".hidden runsc_entry",
    ".type runsc_entry, @function",
    "runsc_entry:",
    "mov r8, rdx",
    // The program's header and its segments, `Elf64_Ehdr` and `Elf64_Phdr` of elf.h.
    "lea rdi, [rip + __ehdr_start]",
    "mov rsi, [rdi + 32]",            // e_phoff
    "movzx ecx, word ptr [rdi + 56]", // e_phnum
    "add rsi, rdi",
    "2:",
    "cmp dword ptr [rsi], {relro}", // p_type
    "je 3f",
    "add rsi, 56",
    "dec ecx",
    "jnz 2b",
    "jmp 4f",
    "3:",
    "add rdi, [rsi + 16]", // p_vaddr
    "mov rsi, [rsi + 40]", // p_memsz
    // Whole pages: the host looks at nothing but the length's end.
    "mov rax, rdi",
    "and rdi, -4096",
    "sub rax, rdi",
    "add rsi, rax",
    "mov edx, {populate_write}",
    "mov eax, {madvise}",
    "syscall",
    "4:",
    "mov rdx, r8",
    "jmp _start",
    ".size runsc_entry, . - runsc_entry",
    ".popsection",
    relro = const libc::PT_GNU_RELRO,
    populate_write = const libc::MADV_POPULATE_WRITE,
    madvise = const libc::SYS_madvise,
);
