//! The contract of `platform::Platform`, tried on the `ptrace` platform with small programs.
//!
//! Each test is a worker of its own with a platform of its own ([`bench::Bench`]).
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failing test shall fail")]

use std::os::fd::AsFd;
use std::task::{Context as WakeContext, Poll};

use abi::errno;
use platform::{
    Architecture, Context, Died, Fault, MemoryError, MemoryOperation, Platform, Registers, Resume, Sharing,
    Spawn, SpawnKind, Trap,
};

use bench::*;

mod bench;
mod hostility;
mod lifecycle;
mod lockdown;

#[test]
fn a_new_space_is_blank_and_captured() {
    let bench = Bench::new();
    let mut context = bench.space();
    let registers = *context.registers().unwrap();
    assert_eq!(Registers { eflags: 0, ..registers }, Registers::default());
    let layout = bench.platform.layout();
    let mut byte = [0];
    let vdso = layout.vdso.unwrap();
    assert_eq!(context.memory().read(vdso.start, &mut byte), Ok(1));
    assert!(vdso.end <= layout.max_address && vdso.data_start >= layout.min_address);
    for address in [0, layout.min_address, CODE, layout.max_address, layout.max_address + 3 * PAGE, u64::MAX]
    {
        assert_eq!(context.memory().read(address, &mut byte), Err(errno::EFAULT), "{address:#x}");
    }
}

#[test]
fn a_call_traps_with_its_arguments_and_returns_its_result() {
    let bench = Bench::new();
    let mut context = bench.start(ask_and_tell(), |_| ());
    for result in [0, 7, errno::ENOENT.to_return_value(), -512i64 as u64, u64::MAX] {
        let request = bench.syscall(&mut *context);
        assert_eq!(request.number, 1000);
        assert_eq!(request.arguments, [11, 12, 13, 14, 15, 16]);
        assert_eq!(request.architecture, Architecture::X86_64);
        assert!((CODE..CODE + PAGE).contains(&request.ip));
        assert!(context.registers().is_none(), "not captured before somebody asks");
        context.resume(Resume::Return(result));
        assert_eq!(bench.told(&mut *context), result);
        context.resume(Resume::Return(0));
    }
}

#[test]
fn captured_registers_are_those_after_the_call_and_can_be_changed() {
    let bench = Bench::new();
    let mut context = bench.start(ask_and_tell(), |registers| {
        registers.rbx = 0x1234_5678_9abc_def0;
        registers.r15 = 15;
    });
    let request = bench.syscall(&mut *context);
    let registers = bench.capture(&mut *context);
    assert_eq!((registers.rax, registers.rip), (1000, request.ip));
    assert_eq!((registers.rbx, registers.r15, registers.rsp), (0x1234_5678_9abc_def0, 15, STACK_TOP));
    // A result for a captured context.
    context.resume(Resume::Return(5));
    assert_eq!(bench.told(&mut *context), 5);
    // Back to the start with other registers, as for a signal handler.
    bench.capture(&mut *context);
    let registers = context.registers().unwrap();
    registers.rip = CODE;
    registers.rbx = 3;
    context.resume(Resume::Registers);
    assert_eq!(bench.syscall(&mut *context).number, 1000);
    assert_eq!(bench.capture(&mut *context).rbx, 3);
}

#[test]
fn flags_that_are_not_the_applications_are_not_loaded() {
    const IF_IOPL: u64 = 0x200;
    let bench = Bench::new();
    let mut context = bench.start(ask_and_tell(), |registers| registers.eflags = 0x3001);
    bench.syscall(&mut *context);
    let flags = bench.capture(&mut *context).eflags;
    assert_eq!(flags & (IF_IOPL | 0x3000), IF_IOPL, "{flags:#x}");
}

#[test]
fn native_calls_run_on_the_host_within_their_limits() {
    let bench = Bench::new();
    let limit = bench.platform.layout().max_address;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED) as u64;
    let native = |number, arguments| {
        let mut context = bench.start(call_and_tell(), call(number, arguments));
        assert_eq!(bench.syscall(&mut *context).number, number as u64);
        context.resume(Resume::Native);
        let result = bench.told(&mut *context);
        (context, result)
    };
    let (context, result) = native(libc::SYS_mmap, [0x40_0000, PAGE, 3, flags, u64::MAX, 0]);
    assert_eq!(result, 0x40_0000);
    assert_eq!(context.memory().write(0x40_0000, b"x"), Ok(1));
    let (context, result) = native(libc::SYS_munmap, [DATA, PAGE, 0, 0, 0, 0]);
    assert_eq!((result, context.memory().read(DATA, &mut [0])), (0, Err(errno::EFAULT)));
    let (context, result) = native(libc::SYS_mprotect, [DATA, PAGE, 1, 0, 0, 0]);
    assert_eq!((result, context.memory().write(DATA, &[0])), (0, Err(errno::EFAULT)));
    assert_eq!(native(libc::SYS_sched_yield, [0; 6]).1, 0);
    assert_eq!(native(libc::SYS_munmap, [1, PAGE, 0, 0, 0, 0]).1, errno::EINVAL.to_return_value());
    for (number, arguments) in [
        (libc::SYS_munmap, [limit, 3 * PAGE, 0, 0, 0, 0]),
        (libc::SYS_munmap, [0, limit + PAGE, 0, 0, 0, 0]),
        (libc::SYS_getpid, [0; 6]),
        (libc::SYS_mmap, [0x40_0000, PAGE, 3, flags | libc::MAP_SHARED as u64, u64::MAX, 0]),
    ] {
        assert_eq!(native(number, arguments).1, errno::EINVAL.to_return_value(), "{number} {arguments:x?}");
    }
}

#[test]
fn a_thread_that_exits_natively_is_reported_dead() {
    let bench = Bench::new();
    for number in [libc::SYS_exit, libc::SYS_exit_group] {
        let mut context = bench.start(call_and_tell(), call(number, [0; 6]));
        bench.syscall(&mut *context);
        context.resume(Resume::Native);
        assert!(matches!(bench.trap(&mut *context), Trap::Died));
    }
}

#[test]
fn a_leader_that_exits_does_not_wait_for_its_threads() {
    let bench = Bench::new();
    let mut leader = bench.start(call_and_tell(), call(libc::SYS_exit, [0; 6]));
    bench.syscall(&mut *leader);
    let registers = Registers { rip: CODE, rsp: STACK_TOP, rax: 1000, ..Registers::default() };
    let mut thread = bench.spawn(&mut *leader, &Spawn { kind: SpawnKind::Thread, registers, fs_base: None });
    let memory = leader.memory();
    leader.resume(Resume::Native);
    assert!(matches!(bench.trap(&mut *leader), Trap::Died));
    drop(leader);
    thread.resume(Resume::Registers);
    assert_eq!(bench.syscall(&mut *thread).number, 1000);
    assert_eq!(memory.read(CODE, &mut [0]), Ok(1), "the memory lives on with the thread");
    thread.resume(Resume::Return(9));
    assert_eq!(bench.told(&mut *thread), 9);
}

#[test]
fn vector_state_makes_a_round_trip() {
    const XMM3: usize = 160 + 3 * 16;
    let bench = Bench::new();
    let mut context = bench.start(vector(), |_| ());
    bench.syscall(&mut *context);
    assert_eq!(context.fp_state(), Err(Died), "not captured");
    bench.capture(&mut *context);
    let mut state = context.fp_state().unwrap();
    let word = |offset: usize| u32::from_ne_bytes(state[offset..offset + 4].try_into().unwrap()) as usize;
    assert_eq!(word(464), 0x4650_5853);
    assert_eq!((word(468), word(480) + 4), (state.len(), state.len()));
    assert_eq!(word(state.len() - 4), 0x4650_5845);
    state[XMM3..XMM3 + 8].copy_from_slice(&0x1122_3344_5566_7788u64.to_ne_bytes());
    state[512] |= 0b10;
    context.set_fp_state(Some(&state)).unwrap();
    assert_eq!(context.fp_state().unwrap()[XMM3..XMM3 + 8], state[XMM3..XMM3 + 8]);
    context.resume(Resume::Return(0));
    assert_eq!(bench.told(&mut *context), 0x1122_3344_5566_7788);
    bench.capture(&mut *context);
    context.set_fp_state(Some(&vec![0xff; state.len()])).unwrap();
    context.set_fp_state(Some(&[])).unwrap();
    context.set_fp_state(None).unwrap();
    let initial = context.fp_state().unwrap();
    assert_eq!(initial[XMM3..XMM3 + 8], [0; 8]);
    assert_eq!(initial[24..28], 0x1f80u32.to_ne_bytes());
}

#[test]
fn files_are_mapped_shared_and_private() {
    let bench = Bench::new();
    let (one, two) = (memory_file(b"one"), memory_file(b"two"));
    let mut context = bench.load(spin(), |_| ());
    let map = |address, sharing, file| MemoryOperation::MapFile {
        address,
        length: PAGE,
        protection: READ_WRITE,
        sharing,
        file,
        offset: 0,
    };
    let (shared, private) = (0x100_0000, 0x200_0000);
    bench
        .memory(
            &mut *context,
            &[map(shared, Sharing::Shared, one.as_fd()), map(private, Sharing::Private, two.as_fd())],
        )
        .unwrap();
    let memory = context.memory();
    let mut got = [0; 3];
    for (address, expected, after) in [(shared, b"one", b"xne"), (private, b"two", b"two")] {
        assert_eq!(memory.read(address, &mut got), Ok(3));
        assert_eq!(&got, expected);
        assert_eq!(memory.write(address, b"x"), Ok(1));
        let file = if address == shared { &one } else { &two };
        assert_eq!(nix::sys::uio::pread(file, &mut got, 0), Ok(3));
        assert_eq!(&got, after);
    }
    // A refused mapping leaves nothing behind that would disturb the next one.
    let missing = MemoryOperation::MapFile {
        address: shared,
        length: PAGE,
        protection: READ,
        sharing: Sharing::Shared,
        file: one.as_fd(),
        offset: 1,
    };
    match bench.memory(&mut *context, &[missing]) {
        Err(MemoryError::Refused { index: 0, errno: errno::EINVAL }) => {}
        other => panic!("{other:?}"),
    }
    bench.memory(&mut *context, &[map(shared, Sharing::Shared, two.as_fd())]).unwrap();
    assert_eq!(memory.read(shared, &mut got), Ok(3));
    assert_eq!(&got, b"two");
}

#[test]
fn memory_operations_do_what_they_say_and_stop_at_the_first_failure() {
    let bench = Bench::new();
    let mut context = bench.load(spin(), |_| ());
    let memory = context.memory();
    let limit = bench.platform.layout().max_address;
    assert_eq!(memory.write(DATA, b"moved"), Ok(5));
    let (to, length) = (0x300_0000, PAGE);
    let operations = [
        MemoryOperation::Move { from: DATA, from_length: length, to, to_length: 2 * length },
        MemoryOperation::Unmap { address: limit, length },
        MemoryOperation::Unmap { address: to, length },
    ];
    match bench.memory(&mut *context, &operations) {
        Err(MemoryError::Refused { index: 1, errno: errno::EINVAL }) => {}
        other => panic!("{other:?}"),
    }
    let mut got = [0; 5];
    assert_eq!((memory.read(to, &mut got), &got), (Ok(5), b"moved"));
    assert_eq!(memory.read(DATA, &mut got), Err(errno::EFAULT));
    let advise = MemoryOperation::Advise { address: to, length, advice: libc::MADV_DONTNEED };
    bench.memory(&mut *context, &[advise]).unwrap();
    assert_eq!((memory.read(to, &mut got), got), (Ok(5), [0; 5]));
    let protect = MemoryOperation::Protect { address: to, length, protection: READ };
    bench.memory(&mut *context, &[protect]).unwrap();
    assert_eq!(memory.write(to, b"x"), Err(errno::EFAULT));
}

#[test]
fn copies_end_where_memory_ends() {
    let bench = Bench::new();
    let context = bench.load(spin(), |_| ());
    let memory = context.memory();
    let end = DATA + DATA_BYTES;
    let mut buffer = vec![1; 3 * PAGE as usize];
    assert_eq!(memory.read(end - PAGE - 1, &mut buffer), Ok(PAGE as usize + 1));
    assert_eq!(memory.write(end - 5, &buffer), Ok(5));
    assert_eq!(memory.write(end, &buffer), Err(errno::EFAULT));
    assert_eq!(memory.write(end, &[]), Ok(0));
    assert_eq!(memory.compare_exchange_u32(DATA, 0, 1), Err(errno::EOPNOTSUPP));
}

#[test]
fn thread_pointers_are_set_by_operation_and_at_spawn() {
    let bench = Bench::new();
    let mut context = bench.load(thread_pointer(), |_| ());
    let memory = context.memory();
    memory.write(DATA, &5u64.to_ne_bytes()).unwrap();
    memory.write(DATA + 8, &6u64.to_ne_bytes()).unwrap();
    match bench.memory(&mut *context, &[MemoryOperation::SetFsBase(1 << 63)]) {
        Err(MemoryError::Refused { errno: errno::EPERM, .. }) => {}
        other => panic!("{other:?}"),
    }
    bench.memory(&mut *context, &[MemoryOperation::SetFsBase(DATA)]).unwrap();
    let registers = *context.registers().unwrap();
    for (fs_base, expected) in [(Some(DATA + 8), 6), (None, 5)] {
        let spawn = Spawn { kind: SpawnKind::Thread, registers, fs_base };
        let mut child = bench.spawn(&mut *context, &spawn);
        child.resume(Resume::Registers);
        assert_eq!(bench.told(&mut *child), expected);
    }
    context.resume(Resume::Registers);
    assert_eq!(bench.told(&mut *context), 5);
}

#[test]
fn each_kind_of_child_shares_what_it_should() {
    let bench = Bench::new();
    for (kind, shares) in
        [(SpawnKind::Thread, true), (SpawnKind::SharedSpace, true), (SpawnKind::Copy, false)]
    {
        let mut parent = bench.start(ask_and_tell(), |_| ());
        bench.syscall(&mut *parent);
        parent.memory().write(DATA, b"before").unwrap();
        let mut registers = bench.capture(&mut *parent);
        registers.rax = 77;
        let mut child = bench.spawn(&mut *parent, &Spawn { kind, registers, fs_base: None });
        assert_eq!(child.registers().copied(), Some(registers), "captured at birth");
        parent.memory().write(DATA, b"after!").unwrap();
        let mut got = [0; 6];
        child.memory().read(DATA, &mut got).unwrap();
        assert_eq!(&got, if shares { b"after!" } else { b"before" });
        // The child goes on where the parent stood, with its own result; the parent is unharmed.
        child.resume(Resume::Registers);
        assert_eq!(bench.told(&mut *child), 77);
        parent.resume(Resume::Return(78));
        assert_eq!(bench.told(&mut *parent), 78);
        // Killing the child takes the parent with it only if they are threads of one process.
        child.kill();
        child.resume(Resume::Return(0));
        assert!(matches!(bench.trap(&mut *child), Trap::Died));
        parent.resume(Resume::Return(0));
        match (kind, bench.trap(&mut *parent)) {
            (SpawnKind::Thread, Trap::Died) => {}
            (SpawnKind::SharedSpace | SpawnKind::Copy, Trap::Syscall(request)) => {
                assert_eq!(request.number, 1000)
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_spinning_thread_can_be_interrupted_from_another_thread() {
    let bench = Bench::new();
    let mut context = bench.start(spin(), |_| ());
    let interrupter = context.interrupter();
    let sender = std::thread::spawn(move || interrupter.interrupt());
    assert!(matches!(bench.trap(&mut *context), Trap::Interrupted));
    sender.join().unwrap();
    assert_eq!(context.registers().unwrap().rip, CODE);
    // It goes on where it was, and can be interrupted again.
    context.resume(Resume::Registers);
    context.interrupter().interrupt();
    assert!(matches!(bench.trap(&mut *context), Trap::Interrupted));
}

#[test]
fn an_early_interrupt_is_kept_for_the_next_run() {
    let bench = Bench::new();
    let mut context = bench.start(ask_and_tell(), |_| ());
    bench.syscall(&mut *context);
    context.interrupter().interrupt();
    context.interrupter().interrupt();
    context.resume(Resume::Return(42));
    assert!(matches!(bench.trap(&mut *context), Trap::Interrupted));
    assert_eq!(context.registers().unwrap().rax, 42);
    context.resume(Resume::Registers);
    assert_eq!(bench.told(&mut *context), 42);
}

#[test]
fn an_interrupt_during_a_native_call_or_an_operation_is_kept() {
    let bench = Bench::new();
    let mut context = bench.start(call_and_tell(), call(libc::SYS_sched_yield, [0; 6]));
    bench.syscall(&mut *context);
    context.interrupter().interrupt();
    context.resume(Resume::Native);
    assert!(matches!(bench.trap(&mut *context), Trap::Interrupted));
    assert_eq!(context.registers().unwrap().rax, 0);
    context.interrupter().interrupt();
    let advise = MemoryOperation::Advise { address: DATA, length: PAGE, advice: libc::MADV_DONTNEED };
    bench.memory(&mut *context, &[advise]).unwrap();
    context.resume(Resume::Registers);
    assert!(matches!(bench.trap(&mut *context), Trap::Interrupted));
    context.resume(Resume::Registers);
    assert_eq!(bench.told(&mut *context), 0);
}

#[test]
fn faults_are_described() {
    let bench = Bench::new();
    let is = |fault: Fault, signal, code, address, vector, error_code| {
        let signal = u8::try_from(signal).unwrap();
        assert_eq!(fault, Fault { signal, code, address, vector, error_code });
    };
    let to = |address| move |registers: &mut Registers| registers.rdi = address;
    is(bench.fault(load(), to(0x5000)), libc::SIGSEGV, 1, 0x5000, 14, 4);
    is(bench.fault(load(), to(1 << 63)), libc::SIGSEGV, 0x80, 0, 13, 0);
    is(bench.fault(load(), to(DATA)), libc::SIGSEGV, 0x80, 0, 13, 0);
    is(bench.fault(jump(), to(DATA)), libc::SIGSEGV, 2, DATA, 14, 0x15);
    is(bench.fault(jump(), to(0x5000)), libc::SIGSEGV, 1, 0x5000, 14, 0x14);
    is(bench.fault(divide(), to(0)), libc::SIGFPE, 1, CODE + 8, 0, 0);
    is(bench.fault(illegal(), to(0)), libc::SIGILL, 2, CODE, 6, 0);
    is(bench.fault(breakpoint(), to(0)), libc::SIGTRAP, 0x80, 0, 3, 0);
}

#[test]
fn the_vdso_tells_the_time() {
    let bench = Bench::new();
    let vdso = bench.platform.layout().vdso.unwrap();
    let mut context = bench.load(call_function(), |_| ());
    let mut image = vec![0; (vdso.end - vdso.start) as usize];
    assert_eq!(context.memory().read(vdso.start, &mut image), Ok(image.len()));
    let registers = context.registers().unwrap();
    registers.rax = vdso.start + dynamic_symbol(&image, b"__vdso_clock_gettime\0");
    registers.rsi = DATA;
    context.resume(Resume::Registers);
    assert_eq!(bench.told(&mut *context), 0, "answered without a trap");
    let mut seconds = [0; 8];
    context.memory().read(DATA, &mut seconds).unwrap();
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap().tv_sec();
    assert!((0..=1).contains(&(now - i64::from_ne_bytes(seconds))));
}

/// Value of a symbol in a vDSO image: its string's offset is looked for in the symbol table, 24 bytes an entry.
fn dynamic_symbol(image: &[u8], name: &[u8]) -> u64 {
    let word = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap());
    let (headers, entry_size, count) = (word(40) as usize, 64, usize::from(image[60]));
    let section =
        |kind: u8| (0..count).map(|n| headers + n * entry_size).find(|&at| image[at + 4] == kind).unwrap();
    let symbols = section(11);
    let strings = headers + usize::from(image[symbols + 40]) * entry_size;
    let strings_at = word(strings + 24) as usize;
    let (start, length) = (word(symbols + 24) as usize, word(symbols + 32) as usize);
    let entry = (start..start + length).step_by(24).find(|&at| {
        let string = strings_at + u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
        image[string..].starts_with(name)
    });
    word(entry.unwrap() + 8)
}

#[test]
fn fifty_threads_run_at_once() {
    const THREADS: u64 = 50;
    const ROUNDS: u64 = 20;
    let bench = Bench::new();
    let mut leader = bench.load(count(), |registers| registers.rdi = DATA);
    leader.registers().unwrap().rsi = ROUNDS;
    let mut registers = *leader.registers().unwrap();
    let mut contexts: Vec<_> = (1..THREADS)
        .map(|index| {
            registers.rsp -= 64 * index;
            bench.spawn(&mut *leader, &Spawn { kind: SpawnKind::Thread, registers, fs_base: None })
        })
        .collect();
    contexts.push(leader);
    for context in &mut contexts {
        context.resume(Resume::Registers);
    }
    let mut calls = 0;
    let waker = waker();
    let mut wake = WakeContext::from_waker(&waker);
    while !contexts.is_empty() {
        contexts.retain_mut(|context| match context.poll_trap(&mut wake) {
            Poll::Pending => true,
            Poll::Ready(Trap::Syscall(request)) if request.number == 1001 => {
                calls += 1;
                context.resume(Resume::Return(0));
                true
            }
            Poll::Ready(Trap::Syscall(request)) => {
                assert_eq!(request.number, libc::SYS_exit as u64);
                if calls == THREADS * ROUNDS {
                    let mut total = [0; 4];
                    context.memory().read(DATA, &mut total).unwrap();
                    assert_eq!(u64::from(u32::from_ne_bytes(total)), THREADS * ROUNDS);
                }
                context.resume(Resume::Native);
                false
            }
            Poll::Ready(other) => panic!("{other:?}"),
        });
        if !contexts.is_empty() {
            bench.platform.wait().unwrap();
        }
    }
    assert_eq!(calls, THREADS * ROUNDS);
}

#[test]
fn processor_time_grows_with_use_and_is_the_threads_own() {
    let bench = Bench::new();
    let mut busy = bench.start(spin(), |_| ());
    let total = |context: &dyn Context| context.cpu_time_ns().0 + context.cpu_time_ns().1;
    while total(&*busy) < 30_000_000 {
        std::thread::yield_now();
    }
    busy.interrupter().interrupt();
    assert!(matches!(bench.trap(&mut *busy), Trap::Interrupted));
    let registers = *busy.registers().unwrap();
    let idle = bench.spawn(&mut *busy, &Spawn { kind: SpawnKind::Thread, registers, fs_base: None });
    assert!(total(&*idle) < 20_000_000);
    assert!(total(&*busy) >= 30_000_000);
    busy.resume(Resume::Registers);
    busy.interrupter().interrupt();
    assert!(matches!(bench.trap(&mut *busy), Trap::Interrupted), "asking for the time leaves it intact");
}
