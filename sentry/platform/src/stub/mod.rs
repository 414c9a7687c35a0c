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

use crate::SpawnKind;

mod calls;
pub use calls::{AREA, CALLS, Call, Extent};

/// Bytes of the stub's image: two pages.
pub const IMAGE_SIZE: usize = 8192;

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

/// Number of the call by which a thread whose request takes long gives up its processor.
pub const CALL_PARK: u64 = 0x1f02;

/// Number of the call by which a thread says what came of a `clone` that it has made in its call's place.
pub const CALL_SPAWNED: u64 = 0x1f03;

/// The sentry is not looking: ring. Also: the request is done, and the sentry looks no longer.
pub const STATE_IDLE: u32 = 0;
/// The sentry is looking. Also: the request is done.
pub const STATE_WATCHED: u32 = 1;
/// A request stands in the slot.
pub const STATE_REQUEST: u32 = 2;
/// The sentry is at work on it.
pub const STATE_TAKEN: u32 = 3;
/// The sentry says that it will take longer.
pub const STATE_PARK: u32 = 4;
/// The thread is about to make, or has made, [`CALL_PARK`].
pub const STATE_PARKING: u32 = 5;
/// The call is to be replaced by the first command of the slot: by the stub, if it was rung for, else by the handler of the signal that
/// comes with the answer.
pub const STATE_SUBSTITUTE: u32 = 7;
/// The thread sleeps until the word is something else: the call is answered then.
pub const STATE_DEEP: u32 = 6;
/// As [`STATE_DEEP`], but the thread lets others run for a while before it changes the word to that and sleeps.
pub const STATE_YIELDING: u32 = 10;
/// For how many processor ticks, 20 to 30 µs: as long as some hand-overs take. If others have more to do than that, each turn would cost it
/// more of its own time, for the host takes what it has left at every one.
pub const YIELD_TICKS: u32 = 60_000;
/// What a call returns to the stub whose answer is yet to come to the slot: no error of Linux's.
pub const ANSWER_DEEP: u64 = (-4000i64).cast_unsigned();
/// What the `clone` returns that a thread makes for itself if the host has not executed it: the slot's state and result say what comes of the call.
pub const ANSWER_SLOT: u64 = 1;
/// The call that was rung for is to be replaced by the first command of the slot, which is a `clone`.
pub const STATE_SPAWN: u32 = 8;
/// The call that was rung for is to be replaced by the first command of the slot, which is a read: unless that returns what stands in the
/// slot as the result, the call is made once more, at a place of its own.
pub const STATE_TRANSFER: u32 = 9;
/// Turns of the loop (some tens of nanoseconds each) that a thread waits for its request to be taken before it rings.
pub const PATIENCE: u32 = 2000;
/// Further turns that it waits for a request that was taken to be answered, before it gives up its processor: long enough for
/// an exchange with the gofer, whose answer would otherwise find it on its way to sleep.
pub const LONGER: u32 = 8000;

// The request and its result are the slot's first cache line.
/// Slot offset of the state (32 bits).
pub const SLOT_STATE: usize = 0;
/// Slot offset of the call's number (32 bits).
pub const SLOT_NUMBER: usize = 4;
/// Slot offset of the arguments.
pub const SLOT_ARGUMENTS: usize = 8;
/// Slot offset of the result.
pub const SLOT_RESULT: usize = 56;
/// Slot offset of the address in the trampoline where the thread goes on.
pub const SLOT_RETURN: usize = 64;
/// Slot offset of the length of the input carried along (32 bits).
pub const SLOT_IN_LENGTH: usize = 72;
/// Slot offset of the length of the place for output that was found writable (32 bits).
pub const SLOT_OUT_CAPACITY: usize = 76;
/// Slot offset of the length of the output to be copied (32 bits).
pub const SLOT_OUT_LENGTH: usize = 80;
/// Slot offset of where in the area it begins (32 bits).
pub const SLOT_OUT_OFFSET: usize = 84;
/// Slot offset of the address where it goes.
pub const SLOT_OUT_ADDRESS: usize = 88;
/// Slot offset of the signal mask.
pub const SLOT_MASK: usize = 96;
/// Slot offset of the word that is 1 while the stub may change the mask.
pub const SLOT_LEAVE: usize = 104;
/// Slot offset of where the list of robust futexes begins.
pub const SLOT_ROBUST: usize = 112;
/// Slot offset of the address of a slot that is ready for a thread which this one makes; 0: none is.
pub const SLOT_READY: usize = 184;
/// Slot offset of the place that is suggested for the next mapping of private memory.
pub const SLOT_PLACE: usize = 120;
/// Slot offset of the length, in bytes, for which it is suggested.
pub const SLOT_PLACE_LENGTH: usize = 152;
/// Slot offset of the description of the signal stack (`stack_t`) that a new thread installs.
pub const SLOT_ALTERNATE: usize = 160;
/// Slot offset of the facts ([`Fact`]), a word each; bit 63 says that one is valid.
pub const SLOT_FACTS: usize = 192;

/// Slot offset where the stub leaves the index and error of a failed step of its set-up.
pub const SLOT_FAILURE: usize = 128;
/// Slot offset of the number of set-up commands.
pub const SLOT_BOOT_COUNT: usize = 144;
/// Slot offset of the commands.
pub const SLOT_COMMANDS: usize = 256;
/// Slot offset of the signal stack, which reaches to [`Geometry::stack_end`].
pub const SLOT_STACK: usize = 1280;

/// Descriptor of the slots' memory in every stub.
pub const SLOT_FD: i32 = 100;

/// Size of `struct robust_list_head`, which `set_robust_list(2)` has to be told.
const ROBUST_HEAD: usize = 24;

/// Flags of an `mmap` of private memory that leaves its place open, and what the stub makes of them if it knows one.
pub const MAP_ANYWHERE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
pub const MAP_THERE: i32 = MAP_ANYWHERE | libc::MAP_FIXED;

/// Where rax stands in a signal frame (see `frame.rs`).
pub const FRAME_RAX: usize = 48 + 13 * 8;

/// What libraries ask for when they make a thread; any other way to say it goes the usual way.
const THREAD_FLAGS: i32 = SpawnKind::Thread.clone_flags()
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID;

const _: () = assert!(SLOT_STATE == 0, "the stub waits for the slot's first word");
const _: () = assert!(SLOT_COMMANDS + MAX_COMMANDS * COMMAND_SIZE <= SLOT_STACK);

global_asm!(
    include_str!("handler.s"),
    include_str!("enter.s"),
    ready = const CALL_READY,
    born = const CALL_BORN,
    spawn = const ANSWER_SPAWN_SHARING,
    spawn_copy = const ANSWER_SPAWN_COPY,
    commands = const SLOT_COMMANDS,
    command_size = const COMMAND_SIZE,
    failure = const SLOT_FAILURE,
    boot_count = const SLOT_BOOT_COUNT,
    slot_fd = const SLOT_FD,
    calls = const CALLS,
    area = const AREA,
    state = const SLOT_STATE,
    number = const SLOT_NUMBER,
    arguments = const SLOT_ARGUMENTS,
    result = const SLOT_RESULT,
    return_to = const SLOT_RETURN,
    in_length = const SLOT_IN_LENGTH,
    out_capacity = const SLOT_OUT_CAPACITY,
    out_length = const SLOT_OUT_LENGTH,
    out_offset = const SLOT_OUT_OFFSET,
    out_address = const SLOT_OUT_ADDRESS,
    facts = const SLOT_FACTS,
    robust = const SLOT_ROBUST,
    robust_word = const calls::ROBUST,
    own_words = const calls::ROBUST | calls::MASK | calls::COMPARED,
    compared_word = const calls::COMPARED,
    mask = const SLOT_MASK,
    mask_word = const calls::MASK,
    place = const SLOT_PLACE,
    place_length = const SLOT_PLACE_LENGTH,
    anywhere = const MAP_ANYWHERE,
    there = const MAP_THERE,
    mmap = const libc::SYS_mmap,
    leave = const SLOT_LEAVE,
    robust_head = const ROBUST_HEAD,
    watched = const STATE_WATCHED,
    request = const STATE_REQUEST,
    taken = const STATE_TAKEN,
    park = const STATE_PARK,
    parking = const STATE_PARKING,
    substitute = const STATE_SUBSTITUTE,
    frame_rax = const FRAME_RAX,
    spawn_here = const STATE_SPAWN,
    spawned = const CALL_SPAWNED,
    alternate = const SLOT_ALTERNATE,
    patience = const PATIENCE,
    longer = const LONGER,
    deep = const STATE_DEEP,
    yielding = const STATE_YIELDING,
    yield_ticks = const YIELD_TICKS,
    sched_yield = const libc::SYS_sched_yield,
    answer_deep = const ANSWER_DEEP.cast_signed(),
    futex = const libc::SYS_futex,
    call_park = const CALL_PARK,
    ready_slot = const SLOT_READY,
    clone = const libc::SYS_clone,
    clone3 = const libc::SYS_clone3,
    thread_flags = const THREAD_FLAGS,
    clone_flags = const SpawnKind::Thread.clone_flags() | libc::CLONE_SETTLS,
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
    static runsc_stub_enter: u8;
    static runsc_stub_fact: u8;
    static runsc_stub_plain_ip: u8;
    static runsc_stub_saved: u8;
    static runsc_stub_copy_in: u8;
    static runsc_stub_copied_in: u8;
    static runsc_stub_copy_string: u8;
    static runsc_stub_copied_string: u8;
    static runsc_stub_probe: u8;
    static runsc_stub_probed: u8;
    static runsc_stub_asked: u8;
    static runsc_stub_took_back: u8;
    static runsc_stub_park_ip: u8;
    static runsc_stub_yield_ip: u8;
    static runsc_stub_ring: u8;
    static runsc_stub_ring_ip: u8;
    static runsc_stub_copy_out: u8;
    static runsc_stub_copied_out: u8;
    static runsc_stub_plain: u8;
    static runsc_stub_plain_end: u8;
    static runsc_stub_no_input: u8;
    static runsc_stub_no_output: u8;
    static runsc_stub_answered: u8;
    static runsc_stub_substitute_ip: u8;
    static runsc_stub_substituted: u8;
    static runsc_stub_transfer_ip: u8;
    static runsc_stub_again_ip: u8;
    static runsc_stub_instead_ip: u8;
    static runsc_stub_rung: u8;
    static runsc_stub_deep: u8;
    static runsc_stub_sink: u8;
    static runsc_stub_deep_ip: u8;
    static runsc_stub_woken: u8;
    static runsc_stub_spawn_ip: u8;
    static runsc_stub_spawned_ip: u8;
    static runsc_stub_fresh_stack_ip: u8;
    static runsc_stub_fresh_map_ip: u8;
    static runsc_stub_fresh_end: u8;
    static runsc_stub_own: u8;
    static runsc_stub_own_read: u8;
    static runsc_stub_own_probed: u8;
    static runsc_stub_own_set: u8;
    static runsc_stub_own_kept: u8;
    static runsc_stub_own_undo: u8;
    static runsc_stub_own_undone: u8;
    static runsc_stub_place_ip: u8;
    static runsc_stub_own_end: u8;
    static runsc_stub_direct: u8;
    static runsc_stub_direct_saved: u8;
    static runsc_stub_direct_ip: u8;
    static runsc_stub_entered: u8;
    static runsc_stub_data: u8;
    static runsc_stub_gs: u8;
    static runsc_stub_calls: u8;
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
    pub enter: u64,
    pub fact: u64,
    pub plain_ip: u64,
    pub saved: u64,
    pub copy_in: u64,
    pub copied_in: u64,
    pub copy_string: u64,
    pub copied_string: u64,
    pub probe: u64,
    pub probed: u64,
    pub asked: u64,
    pub took_back: u64,
    pub park_ip: u64,
    pub yield_ip: u64,
    pub ring: u64,
    pub ring_ip: u64,
    pub copy_out: u64,
    pub copied_out: u64,
    pub plain: u64,
    pub plain_end: u64,
    pub no_input: u64,
    pub no_output: u64,
    pub answered: u64,
    pub substitute_ip: u64,
    pub substituted: u64,
    pub transfer_ip: u64,
    pub again_ip: u64,
    pub instead_ip: u64,
    pub rung: u64,
    pub deep: u64,
    pub sink: u64,
    pub deep_ip: u64,
    pub woken: u64,
    pub spawn_ip: u64,
    pub spawned_ip: u64,
    pub fresh_stack_ip: u64,
    pub fresh_map_ip: u64,
    pub fresh_end: u64,
    pub own: u64,
    pub own_read: u64,
    pub own_probed: u64,
    pub own_set: u64,
    pub own_kept: u64,
    pub own_undo: u64,
    pub own_undone: u64,
    pub place_ip: u64,
    pub own_end: u64,
    pub direct: u64,
    pub direct_saved: u64,
    pub direct_ip: u64,
    pub entered: u64,
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
    /// Slot offset of the end of the signal stack, where the area for input and output begins. Header, stack and small
    /// input share the slot's first page if the machine's signal frames are not too large: most threads touch no other.
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

/// Whether programs may use `wrgsbase` (`HWCAP2_FSGSBASE`, Documentation/arch/x86/x86_64/fsgs.rst).
pub fn has_gs_instructions() -> bool {
    const HWCAP2_FSGSBASE: u64 = 1 << 1;
    crate::auxiliary_value(libc::AT_HWCAP2) & HWCAP2_FSGSBASE != 0
}

/// The stub's bytes for this geometry, and where its labels are.
pub fn image(geometry: &Geometry, carry: bool, local: bool) -> (Vec<u8>, Labels) {
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
    word(&raw const runsc_stub_data, geometry.stack_end as u64);
    word(&raw const runsc_stub_gs, u64::from(has_gs_instructions()));
    for (index, call) in calls::TABLE.iter().enumerate() {
        let at = offset(&raw const runsc_stub_calls) + index * 8;
        bytes[at..at + 8].copy_from_slice(&call.reduced(carry, local).word().to_ne_bytes());
    }
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
        enter: at(&raw const runsc_stub_enter),
        fact: at(&raw const runsc_stub_fact),
        plain_ip: at(&raw const runsc_stub_plain_ip),
        saved: at(&raw const runsc_stub_saved),
        copy_in: at(&raw const runsc_stub_copy_in),
        copied_in: at(&raw const runsc_stub_copied_in),
        copy_string: at(&raw const runsc_stub_copy_string),
        copied_string: at(&raw const runsc_stub_copied_string),
        probe: at(&raw const runsc_stub_probe),
        probed: at(&raw const runsc_stub_probed),
        asked: at(&raw const runsc_stub_asked),
        took_back: at(&raw const runsc_stub_took_back),
        park_ip: at(&raw const runsc_stub_park_ip),
        yield_ip: at(&raw const runsc_stub_yield_ip),
        ring: at(&raw const runsc_stub_ring),
        ring_ip: at(&raw const runsc_stub_ring_ip),
        copy_out: at(&raw const runsc_stub_copy_out),
        copied_out: at(&raw const runsc_stub_copied_out),
        plain: at(&raw const runsc_stub_plain),
        plain_end: at(&raw const runsc_stub_plain_end),
        no_input: at(&raw const runsc_stub_no_input),
        no_output: at(&raw const runsc_stub_no_output),
        answered: at(&raw const runsc_stub_answered),
        substitute_ip: at(&raw const runsc_stub_substitute_ip),
        substituted: at(&raw const runsc_stub_substituted),
        transfer_ip: at(&raw const runsc_stub_transfer_ip),
        again_ip: at(&raw const runsc_stub_again_ip),
        instead_ip: at(&raw const runsc_stub_instead_ip),
        rung: at(&raw const runsc_stub_rung),
        deep: at(&raw const runsc_stub_deep),
        sink: at(&raw const runsc_stub_sink),
        deep_ip: at(&raw const runsc_stub_deep_ip),
        woken: at(&raw const runsc_stub_woken),
        spawn_ip: at(&raw const runsc_stub_spawn_ip),
        spawned_ip: at(&raw const runsc_stub_spawned_ip),
        fresh_stack_ip: at(&raw const runsc_stub_fresh_stack_ip),
        fresh_map_ip: at(&raw const runsc_stub_fresh_map_ip),
        fresh_end: at(&raw const runsc_stub_fresh_end),
        own: at(&raw const runsc_stub_own),
        own_read: at(&raw const runsc_stub_own_read),
        own_probed: at(&raw const runsc_stub_own_probed),
        own_set: at(&raw const runsc_stub_own_set),
        own_kept: at(&raw const runsc_stub_own_kept),
        own_undo: at(&raw const runsc_stub_own_undo),
        own_undone: at(&raw const runsc_stub_own_undone),
        place_ip: at(&raw const runsc_stub_place_ip),
        own_end: at(&raw const runsc_stub_own_end),
        direct: at(&raw const runsc_stub_direct),
        direct_saved: at(&raw const runsc_stub_direct_saved),
        direct_ip: at(&raw const runsc_stub_direct_ip),
        entered: at(&raw const runsc_stub_entered),
    };
    (bytes, labels)
}
