//! Making the seed: the blank, held process that every address space is a copy of.
//!
//! The seed is forked from the sentry, so it starts with everything the sentry had. It gives up what it can in Rust
//! ([`child`]: descriptors, capabilities, session, signal handlers), then raises the interrupt signal; the stub's boot
//! handler, running on the slot, executes the last steps that would pull the ground from under Rust code (moving the vDSO, unmapping
//! everything, installing the filter) from a list the sentry wrote beforehand, and ends in the stub's usual "I stand still" call.
//!
//! Key types: [`Seed`] (the result), [`SetupError`]. Neighbours: `stub` (the code), `slots`, `frame`.
//! Invariant: between fork and boot handler the child makes raw system calls only.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use abi::errno::{self, Errno};

use super::Options;
use super::code::{Code, HOT};
use super::frame::{FpTemplate, Frame};
use super::notification::{AUDIT_ARCH_X86_64, Listener, Notification, last_error};
use super::slots::{Slot, SlotMemory, SlotPlace, Space, memfd, seal};
use super::worker;
use crate::stub::{
    self, Geometry, Labels, SLOT_BOOT_COUNT, SLOT_COMMANDS, SLOT_FAILURE, SLOT_FD, SLOT_STACK,
};
use crate::{Layout, Vdso};

/// What could not be done while starting the platform.
#[derive(Debug, thiserror::Error)]
#[error("seccomp platform: cannot {step}: {errno}{hint}")]
pub struct SetupError {
    /// The step that failed.
    pub step: &'static str,
    /// Its error.
    pub errno: Errno,
    /// A way out, or empty.
    pub hint: &'static str,
}

impl SetupError {
    fn new(step: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self { step, errno, hint: "" }
    }
}

/// The seed and what was learned while making it.
#[derive(Debug)]
pub struct Seed {
    /// Its process id.
    pub pid: i32,
    /// Its slot.
    pub slot: Slot,
    /// Its frame.
    pub frame: Frame,
    /// The notification it is held by.
    pub held: u64,
    /// The sandbox's listener.
    pub listener: Listener,
    /// Where the stub is.
    pub labels: Labels,
    /// Where slots are.
    pub geometry: Geometry,
    /// Where applications may be.
    pub layout: Layout,
    /// What vector state looks like.
    pub template: FpTemplate,
    /// The slots.
    pub memory: Arc<SlotMemory>,
}

/// The signal that brings a thread into the stub. Its meaning is taken from it: the sentry alone can send it.
pub const INTERRUPT_SIGNAL: i32 = libc::SIGUSR1;

const FAULT_SIGNALS: [i32; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];
/// End of user space with four-level page tables (`TASK_SIZE_MAX`).
const TASK_END: u64 = 0x7fff_ffff_f000;
/// The stub's page lies in one of 2^15 places of 2 MiB above this.
const CODE_BASE: u64 = 0x7fe0_0000_0000;
const CODE_PLACES: u64 = 1 << 15;
const SPACE_CHUNKS: u64 = 2048;
/// Linux's default `vm.mmap_min_addr`; the seed has no capability to go below it.
const MIN_ADDRESS: u64 = 0x10000;
/// Slot offset of the word by which the child says that its old descriptors are closed.
const SLOT_CLOSED: usize = 152;
const SETUP_LIMIT: Duration = Duration::from_secs(20);

/// `struct sigaction` as the kernel takes it on x86-64.
#[repr(C)]
#[derive(Clone, Copy)]
struct KernelSigaction {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

const SA_RESTORER: u64 = 0x0400_0000;

impl KernelSigaction {
    fn stub(handler: u64, labels: &Labels) -> Self {
        let flags = (libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART) as u64 | SA_RESTORER;
        Self { handler, flags, restorer: labels.restorer, mask: u64::MAX }
    }
}

/// Everything the child needs, computed before the fork.
struct Plan {
    geometry: Geometry,
    labels: Labels,
    code: OwnedFd,
    slots: i32,
    slot: Slot,
    rseq: Option<(u64, u64)>,
}

/// Makes the seed. To be called in the sentry's final user and pid namespaces (or process memory would be out of its reach), with
/// its final identity, before it locks itself down. `meanwhile` runs while the seed finds its own way to where it is taken over.
///
/// # Errors
/// The step that failed.
pub fn start(options: Options, meanwhile: impl FnOnce()) -> Result<Seed, SetupError> {
    check_host()?;
    let maps = fs::read_to_string("/proc/self/maps")
        .map_err(|error| SetupError::new("read /proc/self/maps")(Errno::from(error)))?;
    let maps = parse_maps(&maps);
    let mut special: Vec<&Mapping> = maps.iter().filter(|map| map.special).collect();
    if !special.windows(2).all(|pair| pair[0].end == pair[1].start)
        || !special.last().is_some_and(|map| map.code)
    {
        // The code finds its data by distance; in a layout we do not know, applications do without a vDSO.
        special.clear();
    }
    let special_size: u64 = special.iter().map(|map| map.end - map.start).sum();
    let geometry = choose_geometry(&maps, special_size)?;
    let (image, labels) = stub::image(&geometry, options.carry, options.local);
    let memory = Arc::new(SlotMemory::new(&geometry).map_err(SetupError::new("make the slots"))?);
    let place = SlotPlace { chunk: 0, index: 0 };
    let code = Code::new(options.patch && stub::has_gs_instructions(), if options.eager { 1 } else { HOT });
    let space = Space::new(&memory, geometry, place, code).map_err(SetupError::new("make the slots"))?;
    let slot = space.slot(place).ok_or(errno::EIO).map_err(SetupError::new("make the slots"))?;
    let vdso_start = write_boot_commands(&slot, &labels, &special);
    let plan = Plan {
        geometry,
        labels,
        code: code_memfd(&image).map_err(SetupError::new("make the stub"))?,
        slots: memory.file().as_raw_fd(),
        slot: slot.clone(),
        rseq: registered_rseq(),
    };
    let pid = fork(&plan).map_err(SetupError::new("fork the seed"))?;
    meanwhile();
    let result = take_over(pid, &plan);
    let (listener, held, frame, template) = match result {
        Ok(parts) => parts,
        Err(error) => {
            // SAFETY: no memory is involved; `pid` is our unreaped child.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL);
            }
            return Err(error);
        }
    };
    let vdso = special.iter().find(|map| map.code).map(|map| {
        let start = geometry.code - (map.end - map.start);
        Vdso { data_start: vdso_start, start, end: geometry.code }
    });
    let layout = Layout { min_address: MIN_ADDRESS, max_address: geometry.code, vdso };
    Ok(Seed { pid, slot, frame, held, listener, labels, geometry, layout, template, memory })
}

/// Refuses kernels on which the protocol does not hold.
fn check_host() -> Result<(), SetupError> {
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: a null filter is never read successfully: EFAULT says that the flags are known.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::null::<u8>())
    };
    match last_error() {
        errno::EFAULT if result < 0 => Ok(()),
        errno => Err(SetupError {
            step: "use seccomp user notification (Linux 5.19 or later)",
            errno,
            hint: "; try --platform=ptrace",
        }),
    }
}

struct Mapping {
    start: u64,
    end: u64,
    special: bool,
    code: bool,
}

/// `/proc/self/maps`, with the vDSO's parts marked (they are adjacent, data before code).
fn parse_maps(text: &str) -> Vec<Mapping> {
    text.lines()
        .filter_map(|line| {
            let (start, rest) = line.split_once('-')?;
            let (end, _) = rest.split_once(' ')?;
            let code = line.ends_with("[vdso]");
            let special = code || line.contains("[vvar");
            let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
            Some(Mapping { start, end, special, code })
        })
        .collect()
}

fn choose_geometry(maps: &[Mapping], special_size: u64) -> Result<Geometry, SetupError> {
    // SAFETY: getauxval has no preconditions.
    let frame = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) }.max(2048);
    // Some room beyond the kernel's minimum: a frame begun at the very top leaves the red zone above it (128 bytes).
    let stack_end = (SLOT_STACK as u64 + frame + 192).next_multiple_of(64);
    // Behind it, input and output that a call carries along; what lies in other pages costs nothing until touched.
    let slot_size = (stack_end + stub::AREA).next_power_of_two();
    for _ in 0..100 {
        let mut random = [0u8; 8];
        // SAFETY: the buffer is writable and as long as said.
        if unsafe { libc::getrandom(random.as_mut_ptr().cast(), 8, 0) } != 8 {
            return Err(SetupError::new("get random bytes")(last_error()));
        }
        let code = CODE_BASE + (u64::from_ne_bytes(random) % CODE_PLACES) * (2 << 20);
        let chunk = slot_size * stub::CHUNK_SLOTS;
        let slots = code + chunk.max(2 << 20);
        let geometry =
            Geometry { code, slots, chunks: SPACE_CHUNKS, slot_size, stack_end: stack_end as usize };
        let (low, high) = (code - special_size, geometry.end());
        if high <= TASK_END && maps.iter().all(|map| map.end <= low || map.start >= high) {
            return Ok(geometry);
        }
    }
    Err(SetupError::new("find room for the stub")(errno::ENOMEM))
}

fn code_memfd(image: &[u8]) -> Result<OwnedFd, Errno> {
    let file = memfd(c"runsc-stub", stub::IMAGE_SIZE as u64)?;
    // SAFETY: the buffer is readable and as long as said.
    let written = unsafe { libc::pwrite(file.as_raw_fd(), image.as_ptr().cast(), image.len(), 0) };
    if written != image.len().cast_signed() {
        return Err(errno::EIO);
    }
    seal(&file, libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL)?;
    Ok(file)
}

/// The filter: ask about everything, except a return from the stub's own handler, and the wait of a thread that the sentry has
/// sent to sleep, or its turns before that (`deep.rs` says why nobody can misuse them).
fn filter(labels: &Labels) -> [libc::sock_filter; 26] {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    // Places in `struct seccomp_data`.
    const IP: u32 = 8;
    const ARGUMENTS: u32 = 16;
    let low = |word: u64| word as u32;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    [
        step(LOAD, 0, 0, 4),
        step(EQUAL, 0, 22, AUDIT_ARCH_X86_64),
        step(LOAD, 0, 0, 0),
        step(EQUAL, 0, 4, libc::SYS_rt_sigreturn as u32),
        step(LOAD, 0, 0, IP),
        step(EQUAL, 0, 18, low(labels.return_ip)),
        step(LOAD, 0, 0, IP + 4),
        step(EQUAL, 17, 16, low(labels.return_ip >> 32)),
        step(EQUAL, 0, 4, low(libc::SYS_sched_yield.cast_unsigned())),
        step(LOAD, 0, 0, IP),
        step(EQUAL, 0, 13, low(labels.yield_ip)),
        step(LOAD, 0, 0, IP + 4),
        step(EQUAL, 12, 11, low(labels.yield_ip >> 32)),
        step(EQUAL, 0, 10, libc::SYS_futex as u32),
        step(LOAD, 0, 0, IP),
        step(EQUAL, 0, 8, low(labels.deep_ip)),
        step(LOAD, 0, 0, IP + 4),
        step(EQUAL, 0, 6, low(labels.deep_ip >> 32)),
        step(LOAD, 0, 0, ARGUMENTS + 8),
        step(EQUAL, 0, 4, libc::FUTEX_WAIT.cast_unsigned()),
        step(LOAD, 0, 0, ARGUMENTS + 3 * 8),
        step(EQUAL, 0, 2, 0),
        step(LOAD, 0, 0, ARGUMENTS + 3 * 8 + 4),
        step(EQUAL, 1, 0, 0),
        step(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

/// Writes what the boot handler executes; returns where the vDSO's data will start.
fn write_boot_commands(slot: &Slot, labels: &Labels, special: &[&Mapping]) -> u64 {
    let geometry = slot.geometry();
    let data = geometry.stack_end;
    let address = |at: usize| slot.address + at as u64;
    let (action_at, program_at, filter_at) = (data, data + 64, data + 128);
    let action = KernelSigaction::stub(labels.handler, labels);
    for (index, word) in [action.handler, action.flags, action.restorer, action.mask].into_iter().enumerate()
    {
        slot.set_word(action_at + index * 8, word);
    }
    let filter = filter_program(labels);
    slot.set_word(program_at, filter.len() as u64);
    slot.set_word(program_at + 8, address(filter_at));
    for (index, word) in filter.iter().enumerate() {
        slot.set_word(filter_at + index * 8, *word);
    }
    let mut commands = Vec::<[u64; 7]>::new();
    let size: u64 = special.iter().map(|map| map.end - map.start).sum();
    let vdso_start = geometry.code - size;
    let mut to = vdso_start;
    for map in special {
        let length = map.end - map.start;
        let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
        commands.push([libc::SYS_mremap as u64, map.start, length, length, flags, to, 0]);
        to += length;
    }
    let slots_end = geometry.slots + geometry.chunk_size();
    for (start, end) in
        [(0, vdso_start), (geometry.code + stub::IMAGE_SIZE as u64, geometry.slots), (slots_end, TASK_END)]
    {
        commands.push([libc::SYS_munmap as u64, start, end - start, 0, 0, 0, 0]);
    }
    let signal = INTERRUPT_SIGNAL as u64;
    commands.push([libc::SYS_rt_sigaction as u64, signal, address(action_at), 0, 8, 0, 0]);
    commands.push([libc::SYS_prctl as u64, libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0, 0]);
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let mode = u64::from(libc::SECCOMP_SET_MODE_FILTER);
    commands.push([libc::SYS_seccomp as u64, mode, flags, address(program_at), 0, 0, 0]);
    write_commands(slot, &commands);
    slot.set_word(SLOT_BOOT_COUNT, commands.len() as u64);
    vdso_start
}

/// [`filter`] as words.
fn filter_program(labels: &Labels) -> Vec<u64> {
    filter(labels)
        .iter()
        .map(|step| {
            u64::from(step.code)
                | u64::from(step.jt) << 16
                | u64::from(step.jf) << 24
                | u64::from(step.k) << 32
        })
        .collect()
}

/// Writes a batch of commands (call number and six arguments each) into a slot.
pub fn write_commands(slot: &Slot, commands: &[[u64; 7]]) {
    for (index, command) in commands.iter().enumerate() {
        for (word, value) in command.iter().enumerate() {
            slot.set_word(SLOT_COMMANDS + index * stub::COMMAND_SIZE + word * 8, *value);
        }
    }
}

/// The restartable-sequence area that glibc registered for this thread: a fork inherits the registration, and
/// the kernel would write to it after it is unmapped. Found by the symbols that glibc has for it since 2.35; weak, because an
/// older one has none, and not by `dlsym(3)`, which finds nothing in a statically linked program.
fn registered_rseq() -> Option<(u64, u64)> {
    let (offset, size): (*const i64, *const u32);
    let thread: u64;
    // SAFETY: loads two addresses from the global offset table (null where the symbol is missing), and the thread pointer, which
    // the x86-64 ABI keeps at fs:0.
    unsafe {
        std::arch::asm!(
            ".weak __rseq_offset",
            ".weak __rseq_size",
            "mov {offset}, qword ptr [rip + __rseq_offset@GOTPCREL]",
            "mov {size}, qword ptr [rip + __rseq_size@GOTPCREL]",
            "mov {thread}, fs:0",
            offset = out(reg) offset,
            size = out(reg) size,
            thread = out(reg) thread,
            options(nostack, readonly, preserves_flags),
        );
    }
    if offset.is_null() || size.is_null() {
        return None;
    }
    // SAFETY: glibc documents them as `const ptrdiff_t` and `const unsigned int`.
    let (offset, size) = unsafe { (offset.read(), size.read()) };
    (size != 0).then(|| (thread.wrapping_add_signed(offset), u64::from(size)))
}

fn fork(plan: &Plan) -> Result<i32, Errno> {
    // SAFETY: a plain fork; the child only makes raw system calls (see `child`).
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    if pid < 0 {
        return Err(last_error());
    }
    if pid == 0 {
        // SAFETY: we are the forked child, single-threaded, and never return.
        unsafe { child(plan) }
    }
    i32::try_from(pid).map_err(|_| errno::EIO)
}

/// Reports a failed step and ends the child.
///
/// # Safety
/// Only in the child; `slot` is null or the mapped slot.
unsafe fn fail(slot: *mut u64, step: u64) -> ! {
    let error = last_error();
    // SAFETY: the slot is mapped at this address if it is not null; exit_group does not return.
    unsafe {
        if !slot.is_null() {
            slot.byte_add(SLOT_FAILURE).write_volatile(step);
            slot.byte_add(SLOT_FAILURE + 8).write_volatile(error.raw() as u64);
        }
        libc::_exit(1)
    }
}

/// The seed's life in Rust. Numbers of steps are for the error message of [`take_over`].
///
/// # Safety
/// Only in a fresh child with nothing to lose.
unsafe fn child(plan: &Plan) -> ! {
    let geometry = &plan.geometry;
    let map = |address: u64, length: u64, protection: i32, fd: i32| {
        let flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: a new mapping, never over an old one.
        unsafe { libc::mmap(address as *mut _, length as usize, protection, flags, fd, 0) as u64 == address }
    };
    // SAFETY: raw system calls on our own process; pointers are to locals or to the mapped slot.
    unsafe {
        let read_write = libc::PROT_READ | libc::PROT_WRITE;
        if !map(geometry.slots, geometry.chunk_size(), read_write, plan.slots) {
            fail(std::ptr::null_mut(), 100);
        }
        let slot = plan.slot.address as *mut u64;
        let check = |result: i64, step: u64| {
            if result < 0 {
                fail(slot, step)
            }
        };
        let exec = libc::PROT_READ | libc::PROT_EXEC;
        check(
            if map(geometry.code, stub::IMAGE_SIZE as u64, exec, plan.code.as_raw_fd()) { 0 } else { -1 },
            101,
        );
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL).into(), 102);
        // A terminal's signals must not reach stubs; failing means that we lead a session already.
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, c"runsc-stub".as_ptr());
        raise_oom_score();
        let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        check(libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core).into(), 103);
        check(drop_capabilities(), 104);
        check(libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0).into(), 105);
        check(install_handlers(plan), 106);
        check(unregister_rseq(plan.rseq), 107);
        if plan.slots != SLOT_FD {
            check(libc::dup2(plan.slots, SLOT_FD).into(), 108);
        }
        let last = SLOT_FD as u32;
        check(libc::syscall(libc::SYS_close_range, 0u32, last - 1, 0u32), 109);
        check(libc::syscall(libc::SYS_close_range, last + 1, u32::MAX, 0u32), 110);
        slot.byte_add(SLOT_CLOSED).write_volatile(1);
        libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), INTERRUPT_SIGNAL);
        fail(slot, 111)
    }
}

/// Stubs go first when memory runs out. Best effort: `/proc` may be missing.
unsafe fn raise_oom_score() {
    // SAFETY: C strings and buffers are valid for the calls.
    unsafe {
        let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY);
        if file >= 0 {
            libc::write(file, c"1000".as_ptr().cast(), 4);
            libc::close(file);
        }
    }
}

unsafe fn drop_capabilities() -> i64 {
    // `struct __user_cap_header_struct` with version 3, and two empty `__user_cap_data_struct`.
    let header = [0x2008_0522u32, 0];
    let data = [0u32; 6];
    // SAFETY: the structures have the sizes that version 3 demands.
    unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }
}

unsafe fn install_handlers(plan: &Plan) -> i64 {
    let default = KernelSigaction { handler: 0, flags: 0, restorer: 0, mask: 0 };
    let fault = KernelSigaction::stub(plan.labels.handler, &plan.labels);
    let boot = KernelSigaction::stub(plan.labels.boot, &plan.labels);
    let mut result = 0;
    for signal in 1..=64 {
        let action = match signal {
            libc::SIGKILL | libc::SIGSTOP => continue,
            INTERRUPT_SIGNAL => &boot,
            _ if FAULT_SIGNALS.contains(&signal) => &fault,
            _ => &default,
        };
        // SAFETY: the structure has the kernel's layout. Raw, because libc would add its own restorer.
        result |= unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, std::ptr::from_ref(action), 0, 8) };
    }
    let stack = libc::stack_t {
        ss_sp: (plan.slot.address + SLOT_STACK as u64) as *mut _,
        ss_flags: 0,
        ss_size: plan.geometry.stack_end - SLOT_STACK,
    };
    let nothing = 0u64;
    // SAFETY: pointers to locals of the kernel's layouts.
    unsafe {
        result |= libc::syscall(libc::SYS_sigaltstack, &raw const stack, 0);
        result |= libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const nothing, 0, 8);
    }
    result
}

/// The kernel wants the size that was registered; glibc rounds it up to a multiple of 32.
unsafe fn unregister_rseq(area: Option<(u64, u64)>) -> i64 {
    const SIGNATURE: u32 = 0x5305_3053;
    const UNREGISTER: u32 = 1;
    let Some((address, size)) = area else { return 0 };
    for length in [size.next_multiple_of(32), 32, size] {
        // SAFETY: unregistering touches no memory of ours that is still used.
        let result = unsafe { libc::syscall(libc::SYS_rseq, address, length as u32, UNREGISTER, SIGNATURE) };
        if result == 0 {
            return 0;
        }
    }
    -1
}

/// The parent's half: fetch the listener, and receive the seed's first calls.
fn take_over(pid: i32, plan: &Plan) -> Result<(Listener, u64, Frame, FpTemplate), SetupError> {
    let listener = fetch_listener(pid, &plan.slot)?;
    let first = expect_ready(&listener, pid, &plan.labels, None)?;
    // The listener's number in the seed is the lowest, 0; the seed must not keep it.
    let close = [libc::SYS_close as u64, first.arguments[1], 0, 0, 0, 0, 0];
    write_commands(&plan.slot, &[close]);
    listener.answer(first.id, 1).map_err(SetupError::new("close the seed's listener"))?;
    let held = expect_ready(&listener, pid, &plan.labels, Some(close))?;
    let address = held.arguments[0];
    let template = FpTemplate::learn(&plan.slot, address);
    let frame = template.as_ref().and_then(|template| Frame::validate(&plan.slot, address, template));
    plan.slot.set_word(SLOT_BOOT_COUNT, 0);
    plan.slot.set_word(SLOT_CLOSED, 0);
    plan.slot.write(plan.geometry.stack_end, &[0; 512]);
    match (frame, template) {
        (Some(frame), Some(template)) => Ok((listener, held.id, frame, template)),
        _ => Err(SetupError::new("understand the kernel's signal frame")(errno::ENOEXEC)),
    }
}

fn fetch_listener(pid: i32, slot: &Slot) -> Result<Listener, SetupError> {
    // SAFETY: no memory is involved; a non-negative result is a new descriptor that nobody else owns.
    let pidfd = unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if fd < 0 {
            return Err(SetupError::new("open the seed's pidfd")(last_error()));
        }
        OwnedFd::from_raw_fd(fd as i32)
    };
    let start = Instant::now();
    loop {
        if slot.word(SLOT_CLOSED) == 1 {
            // SAFETY: as above.
            let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), 0, 0) };
            if fd >= 0 {
                // SAFETY: as above.
                let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
                return Listener::new(fd).map_err(SetupError::new("set the listener's flags"));
            }
            let error = last_error();
            if error != errno::EBADF && error != errno::ESRCH {
                return Err(SetupError::new("take the seed's listener")(error));
            }
        }
        if has_died(pid) || start.elapsed() > SETUP_LIMIT {
            tracing::error!(
                step = slot.word(SLOT_FAILURE),
                error = slot.word(SLOT_FAILURE + 8),
                "the seed failed"
            );
            let errno = Errno::from_raw(slot.word(SLOT_FAILURE + 8).cast_signed().unsigned_abs() as i32);
            return Err(SetupError::new("set up the seed")(errno));
        }
        std::thread::sleep(Duration::from_micros(20));
    }
}

fn has_died(pid: i32) -> bool {
    // SAFETY: all-zero is a valid siginfo_t, which waitid fills.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
        libc::waitid(libc::P_PID, pid as u32, &raw mut info, options) == 0 && info.si_pid() == pid
    }
}

/// Receives the seed's next "I stand still"; `between` is the one command it may make before.
fn expect_ready(
    listener: &Listener,
    pid: i32,
    labels: &Labels,
    mut between: Option<[u64; 7]>,
) -> Result<Notification, SetupError> {
    let word = AtomicU32::new(worker::WAITING);
    loop {
        let call = match listener.receive(&word) {
            Ok(call) => call,
            Err(errno::EINTR) => continue,
            Err(error) => return Err(SetupError::new("hear from the seed")(error)),
        };
        if call.tid == pid as u32 && call.ip == labels.ready_ip {
            return Ok(call);
        }
        let expected = between.take().filter(|command| {
            call.ip == labels.command_ip && call.number as u64 == command[0] && call.arguments == command[1..]
        });
        if expected.is_none() {
            return Err(SetupError::new("hear what the seed should say")(errno::EPROTO));
        }
        listener.proceed(call.id).map_err(SetupError::new("let the seed proceed"))?;
    }
}
