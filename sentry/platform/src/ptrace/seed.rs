//! The seed: the stub process that every blank address space is forked from.
//!
//! [`Seed::create`] forks it from the calling thread, strips it through ptrace (no descriptor but
//! its end of the descriptor socket, no memory but the vDSO and the reserved pages, no privileges,
//! the filter of `gadget`), and leaves it untraced, waiting on its socket, so that the worker can attach
//! later. Should the sentry die first, the socket closes and the seed exits; after attaching,
//! `PTRACE_O_EXITKILL` ends every stub. (`PR_SET_PDEATHSIG` would act when the *thread* that created
//! the seed ends, which is no reason to die, and is not inherited.)
//!
//! Everything here runs before lockdown.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use abi::errno::{self, Errno};
use libc::c_long;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::gadget::{self, PAGE, RESERVED, Reserved, USER_END};
use super::requests::{self, Stopped, last_error};
use super::vectors::VectorLayout;
use crate::Vdso;

/// `<linux/sched.h>`: the child starts with default signal handlers.
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;

/// The stub processes' descriptor: the receiving end of the descriptor socket.
pub(super) const STUB_SOCKET: u64 = 0;

/// What [`Seed::create`] made.
pub(super) struct Seed {
    pub(super) tid: i32,
    pub(super) reserved: Reserved,
    pub(super) vdso: Option<Vdso>,
    /// Descriptors sent here arrive at [`STUB_SOCKET`] of the stub that receives next.
    pub(super) sender: OwnedFd,
    /// The sentry's copy of the receiving end, to throw away what a stub failed to receive.
    pub(super) receiver: OwnedFd,
    pub(super) vectors: VectorLayout,
}

/// A mapping of the sentry, from `/proc/self/maps`.
struct Mapping {
    start: u64,
    end: u64,
    name: String,
}

impl Seed {
    /// Makes the seed.
    pub(super) fn create() -> Result<Self, Errno> {
        let maps = own_mappings()?;
        let host_vdso = find_vdso(&maps);
        let reserved = place(&maps, host_vdso.as_ref()).ok_or(errno::ENOMEM)?;
        let (sender, receiver) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(from_nix)?;
        let code = code_file()?;
        let tid = fork(&ChildPlan { socket: receiver.as_raw_fd(), code: code.as_raw_fd(), reserved })?;
        match strip(tid, reserved, host_vdso, &maps) {
            Ok((vdso, vectors)) => Ok(Self { tid, reserved, vdso, sender, receiver, vectors }),
            Err(error) => {
                destroy(tid);
                Err(error)
            }
        }
    }
}

/// Kills and reaps a stub that is a child of the calling thread.
pub(super) fn destroy(tid: i32) {
    let _ = requests::send_signal(tid, tid, libc::SIGKILL);
    while matches!(requests::wait(tid, 0), Ok(Some((_, status))) if status != requests::Status::Gone) {}
}

fn from_nix(error: nix::Error) -> Errno {
    Errno::from_raw(error as i32)
}

/// A sealed memfd that holds the code page.
fn code_file() -> Result<OwnedFd, Errno> {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    let file =
        memfd_create(c"stub", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).map_err(from_nix)?;
    // `int3` fills the rest: whoever jumps there traps.
    let mut page = [0xcc; PAGE as usize];
    if let Some(front) = page.get_mut(..gadget::CODE.len()) {
        front.copy_from_slice(gadget::CODE);
    }
    let written = nix::unistd::write(&file, &page).map_err(from_nix)?;
    if written != page.len() {
        return Err(errno::EIO);
    }
    let seals =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(from_nix)?;
    Ok(file)
}

/// The calling process's mappings.
fn own_mappings() -> Result<Vec<Mapping>, Errno> {
    let text = fs::read_to_string("/proc/self/maps")?;
    let mappings = text.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let start = u64::from_str_radix(start, 16).ok()?;
        let end = u64::from_str_radix(end, 16).ok()?;
        Some(Mapping { start, end, name: fields.nth(4).unwrap_or_default().to_owned() })
    });
    Ok(mappings.collect())
}

/// The host's vDSO if its data pages and image lie side by side.
fn find_vdso(maps: &[Mapping]) -> Option<Vdso> {
    let image = maps.iter().find(|mapping| mapping.name == "[vdso]")?;
    let mut data_start = image.start;
    for mapping in maps.iter().rev().filter(|mapping| mapping.name.starts_with("[vvar")) {
        if mapping.end != data_start {
            return None;
        }
        data_start = mapping.start;
    }
    Some(Vdso { data_start, start: image.start, end: image.end })
}

/// Chooses the reserved region: as high as possible, and such that neither it, what is above it, nor the vDSO's new
/// place below it touches a mapping of the sentry, whose copy the seed starts with.
fn place(maps: &[Mapping], vdso: Option<&Vdso>) -> Option<Reserved> {
    const DISTANCES: [u64; 5] = [0, 64 << 20, 1 << 30, 20 << 30, 200 << 30];
    let vdso_length = vdso.map_or(0, |vdso| vdso.end - vdso.data_start);
    DISTANCES.into_iter().map(|distance| USER_END - RESERVED - distance).find_map(|start| {
        let (low, high) = (start - vdso_length, start + RESERVED);
        let free = maps.iter().all(|mapping| mapping.end <= low || mapping.start >= high);
        free.then_some(Reserved { start })
    })
}

/// What the child needs to know; nothing in it is allocated.
struct ChildPlan {
    socket: RawFd,
    code: RawFd,
    reserved: Reserved,
}

/// Forks the seed. Its exit signal is 0: no `SIGCHLD` announces it.
fn fork(plan: &ChildPlan) -> Result<i32, Errno> {
    // SAFETY: an all-zero `clone_args` is a valid value (integers only).
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = CLONE_CLEAR_SIGHAND;
    // SAFETY: `arguments` is a valid `clone_args`; without CLONE_VM or a stack the child runs on
    // its copy of this stack, as after `fork`.
    let tid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    match tid {
        0 => {
            // SAFETY: this is the child of a raw fork with nothing else running in it.
            unsafe { child(plan) }
        }
        1.. => i32::try_from(tid).map_err(|_| errno::EIO),
        _ => Err(last_error()),
    }
}

/// The child's part: only raw system calls, since locks may be held by threads that do not exist here.
///
/// # Safety
/// Only in a process just forked for this purpose; the plan's addresses must be unused.
unsafe fn child(plan: &ChildPlan) -> ! {
    let no_signals: u64 = 0;
    let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // `struct __user_cap_header_struct` (version 3, the caller) and two empty data structs.
    let capability_header: [u32; 2] = [0x2008_0522, 0];
    let no_capabilities: [u32; 6] = [0; 6];
    let fixed = libc::MAP_PRIVATE | libc::MAP_FIXED_NOREPLACE;
    // Every argument is a whole word: a variadic `int` would leave half of it undefined.
    let step = |number: u8, call: c_long, [a, b, c, d, e, f]: [usize; 6]| {
        // SAFETY: the pointers among the arguments below refer to the locals above; the mappings replace
        // nothing (MAP_FIXED_NOREPLACE); the rest concerns this process alone.
        let result = unsafe { libc::syscall(call, a, b, c, d, e, f) };
        if result < 0 {
            // SAFETY: ends this process.
            unsafe { libc::syscall(libc::SYS_exit_group, usize::from(number)) };
        }
    };
    let word = |value: i32| value as usize;
    let (code, scratch, page) =
        (plan.reserved.code() as usize, plan.reserved.scratch() as usize, PAGE as usize);
    let (read_write, execute) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
    let socket = STUB_SOCKET as usize;
    let (mask, header) = ((&raw const no_signals).addr(), (&raw const capability_header).addr());
    let (capabilities, limit) = ((&raw const no_capabilities).addr(), (&raw const no_core).addr());
    step(1, libc::SYS_setsid, [0; 6]);
    step(2, libc::SYS_rt_sigprocmask, [word(libc::SIG_SETMASK), mask, 0, 8, 0, 0]);
    step(3, libc::SYS_prctl, [word(libc::PR_SET_NO_NEW_PRIVS), 1, 0, 0, 0, 0]);
    step(4, libc::SYS_capset, [header, capabilities, 0, 0, 0, 0]);
    // Without it neither attaching nor process_vm_readv is permitted.
    step(5, libc::SYS_prctl, [word(libc::PR_SET_DUMPABLE), 1, 0, 0, 0, 0]);
    step(6, libc::SYS_setrlimit, [libc::RLIMIT_CORE as usize, limit, 0, 0, 0, 0]);
    step(7, libc::SYS_mmap, [code, page, word(execute), word(fixed), word(plan.code), 0]);
    step(
        8,
        libc::SYS_mmap,
        [scratch, page, word(read_write), word(fixed | libc::MAP_ANONYMOUS), usize::MAX, 0],
    );
    step(9, libc::SYS_dup2, [word(plan.socket), socket, 0, 0, 0, 0]);
    step(10, libc::SYS_close_range, [socket + 1, u32::MAX as usize, 0, 0, 0, 0]);
    step(11, libc::SYS_ptrace, [libc::PTRACE_TRACEME as usize, 0, 0, 0, 0, 0]);
    let break_point = plan.reserved.code() + gadget::BREAK_OFFSET;
    // SAFETY: the jump goes to `int3` in the code page just mapped, which never returns here.
    unsafe { std::arch::asm!("jmp {}", in(reg) break_point, options(noreturn)) }
}

/// Waits for the child and takes everything from it that a stub does not need.
fn strip(
    tid: i32,
    reserved: Reserved,
    host_vdso: Option<Vdso>,
    maps: &[Mapping],
) -> Result<(Option<Vdso>, VectorLayout), Errno> {
    let mut hands = Hands { stopped: wait_stop(tid)?, reserved };
    requests::set_options(&hands.stopped)?;
    let rseq = hands.stopped.rseq()?;
    if rseq.pointer != 0 {
        const RSEQ_FLAG_UNREGISTER: u64 = 1;
        let arguments =
            [rseq.pointer, u64::from(rseq.size), RSEQ_FLAG_UNREGISTER, u64::from(rseq.signature), 0, 0];
        hands.call(libc::SYS_rseq, arguments)?;
    }
    let vdso = match host_vdso {
        Some(vdso) => Some(move_vdso(&mut hands, vdso, maps)?),
        None => None,
    };
    unmap_all_but(&mut hands, vdso)?;
    install_filter(&mut hands)?;
    let vectors = VectorLayout::probe(&hands.stopped)?;
    hands.stopped.set_vector_state(&vectors.initial())?;
    for base in [
        std::mem::offset_of!(libc::user_regs_struct, fs_base),
        std::mem::offset_of!(libc::user_regs_struct, gs_base),
    ] {
        hands.stopped.poke(base, 0)?;
    }
    hands.stopped.load(&reserved.idle_registers())?;
    hands.stopped.detach()?;
    Ok((vdso, vectors))
}

/// A stopped seed that executes calls one by one, before the worker and its event loop exist.
struct Hands {
    stopped: Stopped,
    reserved: Reserved,
}

impl Hands {
    fn call(&mut self, call: c_long, arguments: [u64; 6]) -> Result<u64, Errno> {
        let tid = self.stopped.tid();
        self.stopped.load(&self.reserved.call_registers(call, arguments))?;
        loop {
            let stopped = std::mem::replace(&mut self.stopped, Stopped::after_wait(tid));
            stopped.resume(requests::Mode::Direct)?;
            self.stopped = wait_stop(tid)?;
            let registers = self.stopped.registers()?;
            if registers.rip == self.reserved.after_call() {
                return returned(registers.rax);
            }
        }
    }
}

/// Turns a raw system call's `rax` into a result.
pub(super) fn returned(rax: u64) -> Result<u64, Errno> {
    match i32::try_from(rax.cast_signed()) {
        Ok(value @ -4095..=-1) => Err(Errno::from_raw(-value)),
        _ => Ok(rax),
    }
}

fn wait_stop(tid: i32) -> Result<Stopped, Errno> {
    match requests::wait(tid, 0)? {
        Some((_, requests::Status::Gone)) | None => Err(errno::EIO),
        Some(_) => Ok(Stopped::after_wait(tid)),
    }
}

/// Moves the vDSO below the reserved region. Where the host seals it (`CONFIG_MSEAL_SYSTEM_MAPPINGS`) it stays.
fn move_vdso(hands: &mut Hands, vdso: Vdso, maps: &[Mapping]) -> Result<Vdso, Errno> {
    let end = hands.reserved.start;
    let delta = end - vdso.end;
    let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
    let mut pieces: Vec<_> =
        maps.iter().filter(|mapping| mapping.start >= vdso.data_start && mapping.end <= vdso.end).collect();
    pieces.reverse();
    for (index, piece) in pieces.into_iter().enumerate() {
        let length = piece.end - piece.start;
        match hands.call(libc::SYS_mremap, [piece.start, length, length, flags, piece.start + delta, 0]) {
            Err(errno::EPERM) if index == 0 => return Ok(vdso),
            result => result?,
        };
    }
    Ok(Vdso { data_start: vdso.data_start + delta, start: vdso.start + delta, end })
}

fn unmap_all_but(hands: &mut Hands, vdso: Option<Vdso>) -> Result<(), Errno> {
    let reserved = hands.reserved;
    let vdso = vdso.map_or((reserved.start, reserved.start), |vdso| (vdso.data_start, vdso.end));
    let page = |start| (start, start + PAGE);
    let mut from = 0;
    for (start, end) in [vdso, page(reserved.scratch()), page(reserved.code()), (USER_END, USER_END)] {
        if start > from {
            hands.call(libc::SYS_munmap, [from, start - from, 0, 0, 0, 0])?;
        }
        from = end;
    }
    Ok(())
}

fn install_filter(hands: &mut Hands) -> Result<(), Errno> {
    let program = gadget::filter(hands.reserved);
    let address = hands.reserved.scratch();
    // `struct sock_fprog`, followed by the instructions.
    let header = 16;
    let mut bytes = Vec::with_capacity(program.len() * 8 + header);
    bytes.extend_from_slice(&(program.len() as u64).to_ne_bytes());
    bytes.extend_from_slice(&(address + header as u64).to_ne_bytes());
    for instruction in &program {
        bytes.extend_from_slice(&instruction.code.to_ne_bytes());
        bytes.extend_from_slice(&[instruction.jt, instruction.jf]);
        bytes.extend_from_slice(&instruction.k.to_ne_bytes());
    }
    super::memory::write_all(hands.stopped.tid(), address, &bytes)?;
    let mode = u64::from(libc::SECCOMP_SET_MODE_FILTER);
    hands.call(libc::SYS_seccomp, [mode, 0, address, 0, 0, 0])?;
    super::memory::write_all(hands.stopped.tid(), address, &vec![0; bytes.len()])
}
