//! The code mapped into every application address space, and the layout of the slots beside it.
//!
//! The stub is position independent and uses registers only: its signal stack lies in a slot, which every thread of
//! the application can write, so nothing it depends on may be kept there. Its first page also holds three
//! words of data that [`image`] fills in. `seccomp` is the user; see its README for the protocol.
//!
//! Invariants: register use is fixed (`rsp` frame, `r12` slot, `r13` next command, `r14` commands done,
//! `r15` last result, `ebp` signal, `ebx` what was asked); the labels are the addresses *after* their `syscall`
//! instruction, which is what a notification reports.

use std::arch::global_asm;

/// Bytes of the stub's image: one page.
pub const IMAGE_SIZE: usize = 4096;

/// Number of the stub's "I stand still" call. Linux has no such call, so without a listener it is `ENOSYS`.
pub const CALL_READY: u64 = 0x1f00;
/// Number of the call that a newborn thread makes first.
pub const CALL_BORN: u64 = 0x1f01;

/// Answers to [`CALL_READY`]: return to the application; 1 to [`MAX_COMMANDS`] execute as many
/// commands; or one of the two below.
pub const ANSWER_RETURN: u64 = 0;
/// Execute the first command, which is a `clone` of a thread or a process sharing memory.
pub const ANSWER_SPAWN_SHARING: u64 = 0x10000;
/// Execute the first command, which is a `clone` of a process with its own copy of memory.
pub const ANSWER_SPAWN_COPY: u64 = 0x10001;

/// Most commands of one batch.
pub const MAX_COMMANDS: usize = 16;
/// Bytes of a command: call number and six arguments.
pub const COMMAND_SIZE: usize = 56;

// Slot offsets 0 to 127 are for an accelerator (a request, a result, a state), as is the page after the signal stack
// for argument data; unused today.

/// Slot offset where the stub leaves the index and error of a failed step of its set-up.
pub const SLOT_FAILURE: usize = 128;
/// Slot offset of the number of set-up commands.
pub const SLOT_BOOT_COUNT: usize = 144;
/// Slot offset of the commands.
pub const SLOT_COMMANDS: usize = 256;
/// Slot offset of the signal stack, which reaches to [`Labels::stack_end`].
pub const SLOT_STACK: usize = 1280;

/// Descriptor of the slots' memory in every stub.
pub const SLOT_FD: i32 = 100;

const _: () = assert!(SLOT_COMMANDS + MAX_COMMANDS * COMMAND_SIZE <= SLOT_STACK);

global_asm!(
    r#"
    .pushsection .rodata.runsc_stub, "a", @progbits
    .balign 64
    .globl runsc_stub_start, runsc_stub_handler, runsc_stub_boot, runsc_stub_restorer
    .globl runsc_stub_ready_ip, runsc_stub_command_ip, runsc_stub_clone_ip, runsc_stub_map_ip
    .globl runsc_stub_born_ip, runsc_stub_return_ip, runsc_stub_slot_mask, runsc_stub_chunk_mask
    .globl runsc_stub_chunk_size, runsc_stub_end
    .hidden runsc_stub_slot_mask, runsc_stub_chunk_mask, runsc_stub_chunk_size, runsc_stub_ready_ip
runsc_stub_start:
runsc_stub_slot_mask:
    .quad 0
runsc_stub_chunk_mask:
    .quad 0
runsc_stub_chunk_size:
    .quad 0
    .balign 64

    # Entered by the kernel: edi = signal, rsp = signal frame.
runsc_stub_handler:
    mov ebp, edi
    mov r12, rsp
    and r12, qword ptr [rip + runsc_stub_slot_mask]
    xor r14d, r14d
    xor r15d, r15d
10: # "I stand still": frame, last result, signal, commands done.
    mov rdi, rsp
    mov rsi, r15
    mov edx, ebp
    mov r10, r14
    mov eax, {ready}
    syscall
runsc_stub_ready_ip:
    test eax, eax
    jz 50f
    js 60f
    mov ebx, eax
    xor r14d, r14d
    lea r13, [r12 + {commands}]
    cmp eax, {spawn}
    jae 30f
20: # Execute ebx commands, stopping at the first error.
    mov rax, [r13]
    mov rdi, [r13 + 8]
    mov rsi, [r13 + 16]
    mov rdx, [r13 + 24]
    mov r10, [r13 + 32]
    mov r8, [r13 + 40]
    mov r9, [r13 + 48]
    syscall
runsc_stub_command_ip:
    mov r15, rax
    cmp rax, -4095
    jae 10b
    inc r14
    add r13, {command_size}
    dec ebx
    jnz 20b
    jmp 10b
30: # clone
    mov rax, [r13]
    mov rdi, [r13 + 8]
    mov rsi, [r13 + 16]
    mov rdx, [r13 + 24]
    mov r10, [r13 + 32]
    mov r8, [r13 + 40]
    mov r9, [r13 + 48]
    syscall
runsc_stub_clone_ip:
    test rax, rax
    jz 40f
    mov r15, rax
    cmp rax, -4095
    jae 10b
    inc r14
    jmp 10b
40: # The child. Without a slot of its own, it first maps its chunk (offset in r9) over its parent's.
    cmp ebx, {spawn_copy}
    jne 45f
    mov rdi, r12
    and rdi, qword ptr [rip + runsc_stub_chunk_mask]
    mov rsi, qword ptr [rip + runsc_stub_chunk_size]
    mov edx, 3
    mov r10d, 0x11
    mov r8d, {slot_fd}
    mov eax, 9
    syscall
runsc_stub_map_ip:
    cmp rax, -4095
    jae 60f
45:
    mov r12, rsp
    and r12, qword ptr [rip + runsc_stub_slot_mask]
    xor ebp, ebp
    xor r14d, r14d
    xor r15d, r15d
    mov rdi, rsp
    xor esi, esi
    xor edx, edx
    xor r10d, r10d
    mov eax, {born}
    syscall
runsc_stub_born_ip:
    jmp runsc_stub_ready_ip
50: # Back to the application.
    add rsp, 8
runsc_stub_restorer:
    mov eax, 15
    syscall
runsc_stub_return_ip:
    ud2
60: # Nobody answers, or set-up failed. All signals are masked, so this is the end.
    mov [r12 + {failure}], r14
    mov [r12 + {failure} + 8], r15
    ud2

    # Handler of the seed's first signal: commands before there is a filter.
runsc_stub_boot:
    mov ebp, edi
    mov r12, rsp
    and r12, qword ptr [rip + runsc_stub_slot_mask]
    mov ebx, [r12 + {boot_count}]
    lea r13, [r12 + {commands}]
    xor r14d, r14d
    jmp 20b
runsc_stub_end:
    .popsection
    "#,
    ready = const CALL_READY,
    born = const CALL_BORN,
    spawn = const ANSWER_SPAWN_SHARING,
    spawn_copy = const ANSWER_SPAWN_COPY,
    commands = const SLOT_COMMANDS,
    command_size = const COMMAND_SIZE,
    failure = const SLOT_FAILURE,
    boot_count = const SLOT_BOOT_COUNT,
    slot_fd = const SLOT_FD,
);

unsafe extern "C" {
    static runsc_stub_start: u8;
    static runsc_stub_handler: u8;
    static runsc_stub_boot: u8;
    static runsc_stub_restorer: u8;
    static runsc_stub_ready_ip: u8;
    static runsc_stub_command_ip: u8;
    static runsc_stub_clone_ip: u8;
    static runsc_stub_map_ip: u8;
    static runsc_stub_born_ip: u8;
    static runsc_stub_return_ip: u8;
    static runsc_stub_slot_mask: u8;
    static runsc_stub_chunk_mask: u8;
    static runsc_stub_chunk_size: u8;
    static runsc_stub_end: u8;
}

/// Addresses inside the stub, where it is mapped.
#[derive(Clone, Copy, Debug)]
pub struct Labels {
    pub handler: u64,
    pub boot: u64,
    pub restorer: u64,
    pub ready_ip: u64,
    pub command_ip: u64,
    pub clone_ip: u64,
    pub map_ip: u64,
    pub born_ip: u64,
    pub return_ip: u64,
}

/// Where the stub and its slots lie in every address space.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Address of the stub's page; everything from here up is reserved.
    pub code: u64,
    /// Address of the first slot chunk.
    pub slots: u64,
    /// Chunks that fit in one address space.
    pub chunks: u64,
    /// Bytes of a slot, a power of two.
    pub slot_size: u64,
    /// Slot offset of the end of the signal stack.
    pub stack_end: usize,
}

/// Slots of a chunk, the unit in which slots are mapped.
pub const CHUNK_SLOTS: u64 = 16;

impl Geometry {
    /// Bytes of a chunk, a power of two.
    pub fn chunk_size(&self) -> u64 {
        self.slot_size * CHUNK_SLOTS
    }

    /// Address of a slot.
    pub fn slot_address(&self, chunk: u64, index: u64) -> u64 {
        self.slots + chunk * self.chunk_size() + index * self.slot_size
    }

    /// First address above the slots.
    pub fn end(&self) -> u64 {
        self.slots + self.chunks * self.chunk_size()
    }
}

/// The stub's bytes for this geometry, and where its labels are.
pub fn image(geometry: &Geometry) -> (Vec<u8>, Labels) {
    let start = &raw const runsc_stub_start;
    let offset = |label: *const u8| label.addr() - start.addr();
    let length = offset(&raw const runsc_stub_end);
    // SAFETY: both symbols delimit the read-only bytes assembled above, in one section.
    let mut bytes = unsafe { std::slice::from_raw_parts(start, length) }.to_vec();
    let mut word = |label: *const u8, value: u64| {
        let at = offset(label);
        bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    };
    word(&raw const runsc_stub_slot_mask, !(geometry.slot_size - 1));
    word(&raw const runsc_stub_chunk_mask, !(geometry.chunk_size() - 1));
    word(&raw const runsc_stub_chunk_size, geometry.chunk_size());
    let at = |label: *const u8| geometry.code + offset(label) as u64;
    let labels = Labels {
        handler: at(&raw const runsc_stub_handler),
        boot: at(&raw const runsc_stub_boot),
        restorer: at(&raw const runsc_stub_restorer),
        ready_ip: at(&raw const runsc_stub_ready_ip),
        command_ip: at(&raw const runsc_stub_command_ip),
        clone_ip: at(&raw const runsc_stub_clone_ip),
        map_ip: at(&raw const runsc_stub_map_ip),
        born_ip: at(&raw const runsc_stub_born_ip),
        return_ip: at(&raw const runsc_stub_return_ip),
    };
    (bytes, labels)
}
