//! Tests of the platform on tiny programs, one platform for all of them, one test at a time.

use std::arch::global_asm;
use std::future::poll_fn;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, OnceLock, atomic::AtomicBool, atomic::Ordering};
use std::task::{Context as WakeContext, Poll, Wake, Waker};

use parking_lot::{Mutex, MutexGuard};

use self::children::host_tid;
use super::slots::memfd;
use super::{Options, SeccompPlatform};
use crate::*;

const CODE: u64 = 0x1000_0000;
const STACK: u64 = 0x2000_0000;
const DATA: u64 = 0x3000_0000;

fn platform() -> (&'static SeccompPlatform, MutexGuard<'static, ()>) {
    static PLATFORM: OnceLock<SeccompPlatform> = OnceLock::new();
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let guard = ONE_AT_A_TIME.lock();
    let platform = PLATFORM.get_or_init(|| {
        let (send, receive) = std::sync::mpsc::channel();
        // The seed dies with the thread that forked it, so this one stays.
        std::thread::spawn(move || {
            send.send(SeccompPlatform::new(Options::default())).expect("the test waits");
            loop {
                std::thread::park();
            }
        });
        receive.recv().expect("the thread answers").expect("the platform starts")
    });
    (platform, guard)
}

struct Flag(AtomicBool);
impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn block_on<T>(platform: &SeccompPlatform, future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let flag = Arc::new(Flag(AtomicBool::new(false)));
    let waker = Waker::from(flag.clone());
    let started = std::time::Instant::now();
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut WakeContext::from_waker(&waker)) {
            return value;
        }
        while !flag.0.swap(false, Ordering::SeqCst) {
            platform.wait().expect("the platform lives");
            assert!(started.elapsed().as_secs() < 20, "no progress");
        }
    }
}

async fn new_space(platform: &SeccompPlatform) -> Box<dyn Context> {
    let mut request = NewSpace::default();
    poll_fn(|wake| platform.poll_new_space(wake, &mut request)).await.expect("a blank space")
}

async fn trap(context: &mut Box<dyn Context>) -> Trap {
    poll_fn(|wake| context.poll_trap(wake)).await
}

async fn run(context: &mut Box<dyn Context>, how: Resume) -> Trap {
    context.resume(how);
    trap(context).await
}

async fn syscall(context: &mut Box<dyn Context>, how: Resume) -> SyscallRequest {
    match run(context, how).await {
        Trap::Syscall(request) => request,
        other => panic!("expected a system call, not {other:?}"),
    }
}

async fn capture(context: &mut Box<dyn Context>) {
    poll_fn(|wake| context.poll_capture(wake)).await.expect("alive");
}

async fn memory(
    context: &mut Box<dyn Context>,
    operations: &[MemoryOperation<'_>],
) -> Result<(), MemoryError> {
    poll_fn(|wake| context.poll_memory(wake, operations)).await
}

async fn spawn(context: &mut Box<dyn Context>, spawn: &Spawn) -> Box<dyn Context> {
    poll_fn(|wake| context.poll_spawn(wake, spawn)).await.expect("a child")
}

const READ_WRITE: Protection = Protection { read: true, write: true, execute: false };
const READ_EXECUTE: Protection = Protection { read: true, write: false, execute: true };

fn anonymous(address: u64, length: u64) -> MemoryOperation<'static> {
    MemoryOperation::MapAnonymous { address, length, protection: READ_WRITE, reserve: true }
}

/// A space with `code` at [`CODE`], a stack and a data page, ready to run.
async fn program(platform: &SeccompPlatform, code: &[u8]) -> Box<dyn Context> {
    let mut context = new_space(platform).await;
    let maps = [anonymous(CODE, 0x10000), anonymous(STACK - 0x10000, 0x10000), anonymous(DATA, 0x10000)];
    memory(&mut context, &maps).await.expect("mapped");
    assert_eq!(context.memory().write(CODE, code), Ok(code.len()));
    let protect = MemoryOperation::Protect { address: CODE, length: 0x10000, protection: READ_EXECUTE };
    memory(&mut context, &[protect]).await.expect("protected");
    let registers = context.registers().expect("captured at birth");
    registers.rip = CODE;
    registers.rsp = STACK;
    context
}

macro_rules! programs {
    ($($name:ident: $($line:literal)*;)*) => {
        $(global_asm!(
            ".pushsection .rodata.test_programs, \"a\", @progbits",
            concat!(".globl test_", stringify!($name), "_start, test_", stringify!($name), "_end"),
            concat!("test_", stringify!($name), "_start:"),
            $($line,)*
            concat!("test_", stringify!($name), "_end:"),
            ".popsection",
        );
        fn $name() -> &'static [u8] {
            unsafe extern "C" {
                #[link_name = concat!("test_", stringify!($name), "_start")]
                static START: u8;
                #[link_name = concat!("test_", stringify!($name), "_end")]
                static END: u8;
            }
            let (start, end) = (&raw const START, &raw const END);
            // SAFETY: both delimit the bytes assembled above.
            unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
        })*
    };
}

mod children;
mod compared;
mod deep;
mod places;
mod substitutes;
mod workers;

programs! {
    getpid_forever: "2: mov eax, 39" "syscall" "jmp 2b";
    // Makes the system call in rbx with the registers it is given, then reports rax in call 1000.
    one_call: "mov rax, rbx" "syscall" "2: mov rdi, rax" "mov eax, 1000" "syscall" "mov rax, rdi" "jmp 2b";
    spin: "2: inc rcx" "jmp 2b";
    touch: "mov rax, [rdi]" "mov qword ptr [rdi], 77" "mov rdi, rax" "mov eax, 1000" "syscall" "ud2";
    ia32: "mov eax, 20" "mov ebx, 5" "int 0x80" "mov rdi, rax" "mov eax, 1000" "syscall";
    x32: "mov eax, 0x40000027" "syscall" "ud2";
    vectors: "movq xmm3, rdi" "mov eax, 1001" "syscall" "movq rdi, xmm3" "mov eax, 1000" "syscall" "ud2";
    fs: "mov rdi, fs:[0]" "mov eax, 1000" "syscall" "ud2";
    divide: "xor ecx, ecx" "mov eax, 1" "xor edx, edx" "div ecx" "ud2";
    jump: "jmp rbx";
    // Overwrites every slot's command area (base in rdi, slot size in rsi) for ever.
    scribble: "2: lea rbx, [rdi + 256]" "mov ecx, 16"
        "3: mov qword ptr [rbx], 39" "mov qword ptr [rbx + 8], r9" "add rbx, rsi" "dec ecx" "jnz 3b" "jmp 2b";
}

#[test]
fn a_system_call_traps_and_returns_what_the_kernel_says() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut context = program(platform, one_call()).await;
        let registers = context.registers().expect("captured");
        (registers.rbx, registers.rdi, registers.rsi, registers.rdx) = (39, 1, 2, 3);
        (registers.r10, registers.r8, registers.r9) = (4, 5, 6);
        let request = syscall(&mut context, Resume::Registers).await;
        assert_eq!((request.number, request.arguments), (39, [1, 2, 3, 4, 5, 6]));
        assert_eq!((request.ip, request.architecture), (CODE + 5, Architecture::X86_64));
        assert_eq!(syscall(&mut context, Resume::Return(4711)).await.arguments[0], 4711);
    });
}

#[test]
fn captured_registers_are_those_after_the_call_and_can_be_changed() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut context = program(platform, getpid_forever()).await;
        context.registers().expect("captured").r15 = 99;
        syscall(&mut context, Resume::Registers).await;
        assert!(context.registers().is_none());
        capture(&mut context).await;
        let registers = context.registers().expect("captured");
        assert_eq!((registers.rax, registers.rip, registers.r15), (39, CODE + 7, 99));
        registers.rdi = 1234;
        assert_eq!(syscall(&mut context, Resume::Return(1)).await.arguments[0], 1234);
        capture(&mut context).await;
        let registers = context.registers().expect("captured");
        registers.rip = CODE;
        registers.rdi = 5;
        assert_eq!(syscall(&mut context, Resume::Registers).await.arguments[0], 5);
        assert_eq!(syscall(&mut context, Resume::Return(1)).await.arguments[0], 5);
    });
}

#[test]
fn a_fault_reports_its_address_and_can_be_repaired() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut context = program(platform, touch()).await;
        context.registers().expect("captured").rdi = 0x5000_0008;
        let Trap::Fault(fault) = run(&mut context, Resume::Registers).await else { panic!("no fault") };
        assert_eq!((fault.signal, fault.address), (libc::SIGSEGV as u8, 0x5000_0008));
        assert_eq!((fault.vector, fault.error_code & 6), (14, 4));
        assert_eq!(context.registers().expect("captured").rip, CODE);
        memory(&mut context, &[anonymous(0x5000_0000, 0x1000)]).await.expect("mapped");
        assert_eq!(syscall(&mut context, Resume::Registers).await.arguments[0], 0);
        let mut word = [0; 8];
        assert_eq!(context.memory().read(0x5000_0008, &mut word), Ok(8));
        assert_eq!(u64::from_ne_bytes(word), 77);
        let Trap::Fault(fault) = run(&mut context, Resume::Return(0)).await else { panic!("no fault") };
        assert_eq!(fault.signal, libc::SIGILL as u8);
    });
}

#[test]
fn a_division_by_zero_is_a_fault() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut context = program(platform, divide()).await;
        let Trap::Fault(fault) = run(&mut context, Resume::Registers).await else { panic!("no fault") };
        assert_eq!((fault.signal, fault.vector), (libc::SIGFPE as u8, 0));
    });
}

#[test]
fn vector_state_survives_and_can_be_replaced() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut context = program(platform, vectors()).await;
        context.registers().expect("captured").rdi = 0x1122_3344;
        assert_eq!(syscall(&mut context, Resume::Registers).await.number, 1001);
        capture(&mut context).await;
        let mut state = context.fp_state().expect("captured");
        let xmm3 = 160 + 3 * 16;
        assert_eq!(state[xmm3..xmm3 + 4], 0x1122_3344u32.to_ne_bytes());
        state[xmm3..xmm3 + 4].copy_from_slice(&0x5566u32.to_ne_bytes());
        // What the processor would refuse: reserved MXCSR bits, unknown components, a compacted format.
        state[24..28].copy_from_slice(&u32::MAX.to_ne_bytes());
        state[512..576].iter_mut().for_each(|byte| *byte |= 0xff);
        context.set_fp_state(Some(&state)).expect("captured");
        assert_eq!(syscall(&mut context, Resume::Registers).await.arguments[0], 0x5566);
        capture(&mut context).await;
        context.set_fp_state(None).expect("captured");
        context.registers().expect("captured").rip = CODE + 12;
        assert_eq!(syscall(&mut context, Resume::Registers).await.arguments[0], 0);
    });
}

#[test]
fn files_are_mapped_shared_and_private_and_leave_no_descriptor() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let file = memfd(c"test", 0x2000).expect("memfd");
        let mut context = program(platform, touch()).await;
        for (index, sharing) in [Sharing::Shared, Sharing::Private].into_iter().enumerate() {
            let map = MemoryOperation::MapFile {
                address: 0x6000_0000 + index as u64 * 0x10000,
                length: 0x1000,
                protection: READ_WRITE,
                sharing,
                file: file.as_fd(),
                offset: 0x1000,
            };
            memory(&mut context, &vec![map; 20]).await.expect("mapped");
            let address = 0x6000_0000 + index as u64 * 0x10000;
            assert_eq!(context.memory().write(address, &[index as u8 + 1]), Ok(1));
        }
        let mut byte = [0u8];
        // SAFETY: the buffer is writable.
        assert_eq!(unsafe { libc::pread(file.as_raw_fd(), byte.as_mut_ptr().cast(), 1, 0x1000) }, 1);
        assert_eq!(byte, [1]);
        let refused = memory(
            &mut context,
            &[MemoryOperation::Advise { address: 0x7000_0000, length: 0x1000, advice: 4 }],
        );
        assert!(matches!(refused.await, Err(MemoryError::Refused { index: 0, errno: abi::errno::ENOMEM })));
        let fds = std::fs::read_dir(format!("/proc/{}/fd", host_tid(&*context))).expect("proc").count();
        assert_eq!(fds, 1);
    });
}

/// Tests look behind the curtain.
fn behind(context: &dyn Context) -> &super::context::SeccompContext {
    // SAFETY: every context in these tests was made by this platform, which makes no other kind.
    unsafe { &*std::ptr::from_ref(context).cast() }
}

#[test]
fn reserved_ranges_are_refused_everywhere() {
    let (platform, _guard) = platform();
    let layout = platform.layout();
    block_on(platform, async {
        let mut context = program(platform, one_call()).await;
        for (number, address, length) in [
            (libc::SYS_munmap, layout.max_address, 0x1000),
            (libc::SYS_munmap, layout.max_address - 0x1000, 0x1001),
            (libc::SYS_munmap, 0x1000, u64::MAX - 0x1000),
            (libc::SYS_mprotect, layout.max_address - 0x1000, 0x2000),
            (libc::SYS_getpid, 0, 0),
        ] {
            capture(&mut context).await;
            let registers = context.registers().expect("captured");
            registers.rip = CODE;
            (registers.rbx, registers.rdi, registers.rsi, registers.rdx) =
                (number as u64, address, length, 0);
            syscall(&mut context, Resume::Registers).await;
            let report = syscall(&mut context, Resume::Native).await;
            assert_eq!(
                report.arguments[0],
                abi::errno::EINVAL.to_return_value(),
                "call {number} at {address:x}"
            );
        }
        let unmap = MemoryOperation::Unmap { address: layout.max_address, length: 0x1000 };
        let refused = memory(&mut context, &[unmap]).await;
        assert!(matches!(refused, Err(MemoryError::Refused { index: 0, errno: abi::errno::EINVAL })));
        let mut byte = [0];
        assert_eq!(context.memory().read(layout.max_address, &mut byte), Err(abi::errno::EFAULT));
        assert_eq!(context.memory().write(layout.max_address + 0x200000, &byte), Err(abi::errno::EFAULT));
    });
}

#[test]
fn native_calls_are_executed_by_the_host() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut context = program(platform, one_call()).await;
        let registers = context.registers().expect("captured");
        (registers.rbx, registers.rdi, registers.rsi, registers.rdx) = (9, 0x5000_0000, 0x1000, 3);
        (registers.r10, registers.r8, registers.r9) = (0x32, u64::MAX, 0);
        assert_eq!(syscall(&mut context, Resume::Registers).await.number, 9);
        assert_eq!(syscall(&mut context, Resume::Native).await.arguments[0], 0x5000_0000);
        assert_eq!(context.memory().write(0x5000_0ff8, &[1; 16]), Ok(8));
        assert_eq!(context.memory().write(0x5000_1000, &[1; 16]), Err(abi::errno::EFAULT));
    });
}

#[test]
fn other_entries_are_told_apart() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut context = program(platform, ia32()).await;
        let request = syscall(&mut context, Resume::Registers).await;
        assert_eq!((request.architecture, request.number, request.arguments[0]), (Architecture::I386, 20, 5));
        assert_eq!(syscall(&mut context, Resume::Return(3)).await.arguments[0], 3);
        let mut context = program(platform, x32()).await;
        assert_eq!(syscall(&mut context, Resume::Registers).await.number, 0x4000_0027);
    });
}

#[test]
fn spinning_is_interrupted_and_an_early_interrupt_is_kept() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut context = program(platform, spin()).await;
        let interrupter = context.interrupter();
        interrupter.interrupt();
        assert!(matches!(run(&mut context, Resume::Registers).await, Trap::Interrupted));
        assert_eq!(context.registers().expect("captured").rip, CODE);
        for _ in 0..100 {
            context.resume(Resume::Registers);
            interrupter.interrupt();
            assert!(matches!(trap(&mut context).await, Trap::Interrupted));
        }
        let mut context = program(platform, getpid_forever()).await;
        syscall(&mut context, Resume::Registers).await;
        context.interrupter().interrupt();
        assert!(matches!(run(&mut context, Resume::Return(8)).await, Trap::Interrupted));
        let registers = context.registers().expect("captured");
        assert_eq!((registers.rax, registers.rip), (8, CODE + 7));
        syscall(&mut context, Resume::Registers).await;
        capture(&mut context).await;
        context.interrupter().interrupt();
        assert!(matches!(run(&mut context, Resume::Return(9)).await, Trap::Interrupted));
        assert_eq!(context.registers().expect("captured").rax, 9);
        syscall(&mut context, Resume::Registers).await;
    });
}

#[test]
fn children_of_each_kind_share_what_they_should() {
    let (platform, _guard) = platform();
    for (kind, shares) in
        [(SpawnKind::Thread, true), (SpawnKind::SharedSpace, true), (SpawnKind::Copy, false)]
    {
        block_on(platform, async {
            let mut parent = program(platform, vectors()).await;
            parent.registers().expect("captured").rdi = 0xabcd;
            syscall(&mut parent, Resume::Registers).await;
            capture(&mut parent).await;
            let mut registers = *parent.registers().expect("captured");
            registers.rax = 0;
            registers.rsp = STACK - 0x4000;
            let mut child = spawn(&mut parent, &Spawn { kind, registers, fs_base: Some(DATA) }).await;
            // The child has the parent's vector state and its own registers.
            assert_eq!(syscall(&mut child, Resume::Registers).await.arguments[0], 0xabcd);
            parent.memory().write(DATA, &[7]).expect("mapped");
            let mut byte = [0];
            child.memory().read(DATA, &mut byte).expect("mapped");
            assert_eq!(byte[0] == 7, shares, "{kind:?}");
            // Both go on independently.
            assert_eq!(syscall(&mut parent, Resume::Return(0)).await.arguments[0], 0xabcd);
            capture(&mut child).await;
            assert_eq!(child.registers().expect("captured").rsp, STACK - 0x4000);
            child.memory().write(DATA, &42u64.to_ne_bytes()).expect("mapped");
            let maps = [MemoryOperation::Protect { address: CODE, length: 0x10000, protection: READ_WRITE }];
            if kind == SpawnKind::Copy {
                memory(&mut child, &maps).await.expect("protected");
                child.memory().write(CODE, fs()).expect("mapped");
                let protect =
                    [MemoryOperation::Protect { address: CODE, length: 0x10000, protection: READ_EXECUTE }];
                memory(&mut child, &protect).await.expect("protected");
                child.registers().expect("captured").rip = CODE;
                assert_eq!(syscall(&mut child, Resume::Registers).await.arguments[0], 42);
            }
        });
    }
}

#[test]
fn many_threads_and_copies_of_copies_live_at_once() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut parent = program(platform, getpid_forever()).await;
        syscall(&mut parent, Resume::Registers).await;
        capture(&mut parent).await;
        let registers = *parent.registers().expect("captured");
        let mut children = Vec::new();
        for index in 0..40 {
            let registers = Registers { rdi: index, ..registers };
            let spawned = Spawn { kind: SpawnKind::Thread, registers, fs_base: None };
            children.push(spawn(&mut parent, &spawned).await);
        }
        for (index, child) in children.iter_mut().enumerate() {
            assert_eq!(syscall(child, Resume::Registers).await.arguments[0], index as u64);
        }
        // A copy made by a thread in the second chunk.
        let mut last = children.pop().expect("forty");
        capture(&mut last).await;
        let registers = *last.registers().expect("captured");
        let mut copy = spawn(&mut last, &Spawn { kind: SpawnKind::Copy, registers, fs_base: None }).await;
        syscall(&mut copy, Resume::Registers).await;
        capture(&mut copy).await;
        let mut grandchild =
            spawn(&mut copy, &Spawn { kind: SpawnKind::Copy, registers, fs_base: None }).await;
        drop(copy);
        assert_eq!(syscall(&mut grandchild, Resume::Registers).await.arguments[0], 39);
        let mut maps =
            std::fs::read_to_string(format!("/proc/{}/maps", host_tid(&*grandchild))).expect("proc");
        maps.retain(|char| char != ' ');
        assert_eq!(maps.matches("runsc-slots").count(), 1, "a copy keeps no slots of its parent: {maps}");
        // Threads that are dropped one by one leave their process alive.
        drop(children);
        drop(last);
        syscall(&mut parent, Resume::Return(0)).await;
    });
}

#[test]
fn exits_and_kills_are_noticed() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut parent = program(platform, one_call()).await;
        parent.registers().expect("captured").rbx = 60;
        let registers = *parent.registers().expect("captured");
        let mut thread =
            spawn(&mut parent, &Spawn { kind: SpawnKind::Thread, registers, fs_base: None }).await;
        syscall(&mut thread, Resume::Registers).await;
        assert!(matches!(run(&mut thread, Resume::Native).await, Trap::Died));
        syscall(&mut parent, Resume::Registers).await;
        let mut copy = {
            capture(&mut parent).await;
            let registers = *parent.registers().expect("captured");
            spawn(&mut parent, &Spawn { kind: SpawnKind::Copy, registers, fs_base: None }).await
        };
        copy.kill();
        assert!(matches!(trap(&mut copy).await, Trap::Died));
        let pid = host_tid(&*parent);
        // SAFETY: no memory is involved; the process is ours.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        while std::path::Path::new(&format!("/proc/{pid}")).exists() {
            platform.reap();
        }
        assert!(matches!(trap(&mut parent).await, Trap::Died));
        let mut byte = [0];
        assert_eq!(parent.memory().read(DATA, &mut byte), Err(abi::errno::EFAULT));
    });
}

#[test]
fn an_application_that_speaks_as_the_stub_is_an_application() {
    let (platform, _guard) = platform();
    let labels = platform.core.labels;
    block_on(platform, async {
        // The stub's "I stand still" instruction with a frame that is none: an ordinary unknown call.
        let mut context = program(platform, jump()).await;
        let registers = context.registers().expect("captured");
        (registers.rbx, registers.rax, registers.rdi) = (labels.ready_ip - 2, crate::stub::CALL_READY, DATA);
        (registers.rdx, registers.r10) = (libc::SIGSEGV as u64, 0);
        let request = syscall(&mut context, Resume::Registers).await;
        assert_eq!((request.number, request.arguments[0]), (crate::stub::CALL_READY, DATA));
        // A newborn's first call, by one who is none.
        let mut context = program(platform, jump()).await;
        let registers = context.registers().expect("captured");
        (registers.rbx, registers.rax) = (labels.born_ip - 2, crate::stub::CALL_BORN);
        assert_eq!(syscall(&mut context, Resume::Registers).await.number, crate::stub::CALL_BORN);
        // A command nobody asked for.
        let mut context = program(platform, jump()).await;
        let registers = context.registers().expect("captured");
        (registers.rbx, registers.rax) = (labels.command_ip - 2, libc::SYS_mmap as u64);
        assert_eq!(syscall(&mut context, Resume::Registers).await.number, libc::SYS_mmap as u64);
        // A return through a frame of its own making that blocks nothing useful to it: a fault, or nowhere.
        let mut context = program(platform, jump()).await;
        let registers = context.registers().expect("captured");
        (registers.rbx, registers.rax, registers.rsp) = (labels.return_ip - 2, 15, 0x1234);
        assert!(matches!(run(&mut context, Resume::Registers).await, Trap::Fault(_)));
    });
}

#[test]
fn commands_changed_by_another_thread_are_not_executed() {
    let (platform, _guard) = platform();
    let geometry = platform.core.geometry;
    block_on(platform, async {
        let mut died = false;
        for _ in 0..20 {
            let mut victim = program(platform, scribble()).await;
            let base = *victim.registers().expect("captured");
            let registers = Registers { rdi: geometry.slots, rsi: geometry.slot_size, r9: 3, ..base };
            let spawned = Spawn { kind: SpawnKind::Thread, registers, fs_base: None };
            let mut attacker = spawn(&mut victim, &spawned).await;
            attacker.resume(Resume::Registers);
            for round in 0..50u64 {
                let map = [anonymous(0x5000_0000 + round * 0x1000, 0x1000)];
                match memory(&mut victim, &map).await {
                    Ok(()) => {}
                    Err(MemoryError::Died) => {
                        died = true;
                        break;
                    }
                    Err(other) => panic!("a forged command reached the kernel: {other:?}"),
                }
            }
            attacker.kill();
        }
        assert!(died, "the attack never hit: the test proves nothing");
    });
}

#[test]
fn bad_stacks_and_instruction_pointers_only_harm_their_owner() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        for (rip, rsp) in
            [(1 << 63, 0), (u64::MAX, u64::MAX), (CODE, 0), (0, 0x7fff_ffff_ffff), (1 << 47, STACK)]
        {
            let mut context = program(platform, spin()).await;
            let registers = context.registers().expect("captured");
            (registers.rip, registers.rsp, registers.eflags) = (rip, rsp, u64::MAX);
            context.resume(Resume::Registers);
            context.interrupter().interrupt();
            let end = end_of(platform, &mut context);
            assert!(matches!(end, Trap::Fault(_) | Trap::Interrupted), "{rip:x} {rsp:x} {end:?}");
        }
        // A stack pointer inside one's own slot: the frame fits on its stack, or the kernel kills.
        let geometry = platform.core.geometry;
        for (at, fits) in [(geometry.stack_end as u64, true), (1500, false), (2000, false), (0, true)] {
            let mut context = program(platform, spin()).await;
            let registers = context.registers().expect("captured");
            registers.rsp = geometry.slots + at;
            context.resume(Resume::Registers);
            context.interrupter().interrupt();
            let end = end_of(platform, &mut context);
            assert_eq!(matches!(end, Trap::Interrupted), fits, "{at} {end:?}");
            assert_eq!(matches!(end, Trap::Died), !fits, "{at} {end:?}");
        }
    });
}

/// The next trap, reaping meanwhile as the sentry does on `SIGCHLD`.
fn end_of(platform: &SeccompPlatform, context: &mut Box<dyn Context>) -> Trap {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                platform.reap();
                platform.kick();
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        });
        let started = std::time::Instant::now();
        let trap = loop {
            match poll_once(context) {
                Some(trap) => break Some(trap),
                None if started.elapsed().as_secs() > 10 => break None,
                None => platform.wait().expect("alive"),
            }
        };
        over.store(true, Ordering::SeqCst);
        trap.expect("a trap in time")
    })
}

fn poll_once(context: &mut Box<dyn Context>) -> Option<Trap> {
    match context.poll_trap(&mut WakeContext::from_waker(Waker::noop())) {
        Poll::Ready(trap) => Some(trap),
        Poll::Pending => None,
    }
}

#[test]
fn a_kick_is_never_lost() {
    let (platform, _guard) = platform();
    let rounds = 20_000;
    let returned = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..rounds {
                platform.wait().expect("alive");
                returned.fetch_add(1, Ordering::SeqCst);
            }
        });
        while returned.load(Ordering::SeqCst) < rounds {
            let before = returned.load(Ordering::SeqCst);
            platform.kick();
            let started = std::time::Instant::now();
            while returned.load(Ordering::SeqCst) == before {
                assert!(started.elapsed().as_secs() < 10, "a kick was lost");
                std::thread::yield_now();
            }
        }
    });
}

#[test]
fn a_new_program_may_run_anywhere() {
    let (platform, _guard) = platform();
    let processors =
        |tid| rustix::thread::sched_getaffinity(rustix::process::Pid::from_raw(tid)).expect("alive").count();
    let all = processors(0);
    block_on(platform, async {
        // From the third on they are made ahead, by a seed that is kept off a processor.
        for _ in 0..5 {
            let mut context = program(platform, getpid_forever()).await;
            syscall(&mut context, Resume::Registers).await;
            capture(&mut context).await;
            assert_eq!(processors(host_tid(&*context)), all);
            drop(context);
            platform.core.blanks.is_busy(0);
            platform.reap();
        }
    });
}

#[test]
fn a_blank_space_contains_the_vdso_and_nothing_else() {
    let (platform, _guard) = platform();
    let vdso = platform.layout().vdso.expect("this host has one");
    block_on(platform, async {
        let context = new_space(platform).await;
        let mut magic = [0; 4];
        assert_eq!(context.memory().read(vdso.start, &mut magic), Ok(4));
        assert_eq!(&magic, b"\x7fELF");
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", host_tid(&*context))).expect("proc");
        for line in maps.lines() {
            let known = ["[vvar", "[vdso]", "runsc-stub", "runsc-slots", "[vsyscall]"];
            assert!(known.iter().any(|name| line.contains(name)), "left behind: {line}");
        }
        assert!(vdso.end <= platform.layout().max_address && vdso.data_start < vdso.start);
    });
}
