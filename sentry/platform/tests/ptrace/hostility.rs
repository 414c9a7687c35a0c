//! Applications that try what they should not.

use std::os::fd::{AsFd, BorrowedFd};

use abi::errno;
use platform::{
    Architecture, MemoryError, MemoryOperation, Platform, Registers, Resume, Sharing, Spawn, SpawnKind, Trap,
};

use super::bench::*;

/// The reserved pages above the application's part, which `ptrace/gadget.rs` describes.
fn scratch(bench: &Bench) -> u64 {
    bench.platform.layout().max_address + PAGE
}

fn map_file(address: u64, file: BorrowedFd<'_>) -> MemoryOperation<'_> {
    MemoryOperation::MapFile {
        address,
        length: PAGE,
        protection: READ,
        sharing: Sharing::Shared,
        file,
        offset: 0,
    }
}

#[test]
fn reserved_pages_cannot_be_changed() {
    let bench = Bench::new();
    let mut context = bench.load(spin(), |_| ());
    let address = scratch(&bench);
    let file = memory_file(b"x");
    for operation in [
        MemoryOperation::Unmap { address, length: PAGE },
        MemoryOperation::Protect { address, length: PAGE, protection: READ },
        MemoryOperation::Advise { address, length: PAGE, advice: libc::MADV_DONTNEED },
        MemoryOperation::Move { from: address, from_length: PAGE, to: DATA, to_length: PAGE },
        MemoryOperation::MapAnonymous { address, length: PAGE, protection: READ, reserve: true },
        MemoryOperation::Unmap { address: 0, length: !(PAGE - 1) },
        map_file(address, file.as_fd()),
    ] {
        match bench.memory(&mut *context, std::slice::from_ref(&operation)) {
            Err(MemoryError::Refused { index: 0, errno: errno::EINVAL }) => {}
            other => panic!("{operation:?}: {other:?}"),
        }
    }
    assert_eq!(context.memory().read(address, &mut [0]), Err(errno::EFAULT));
    assert_eq!(context.memory().write(address, &[0]), Err(errno::EFAULT));
}

#[test]
fn an_application_that_spoils_the_scratch_page_only_harms_itself() {
    const REFUSED: usize = 20;
    const MOST_ROUNDS: usize = 20_000;
    const PLACE: u64 = 0x100_0000;
    let bench = Bench::new();
    let (theirs, other) = (memory_file(b"one"), memory_file(b"two"));
    let mut hostile = bench.load(spin(), |_| ());
    let registers = Registers { rip: CODE, rsp: STACK_TOP, rdi: scratch(&bench), ..Registers::default() };
    let mut spoiler = bench.load(spoil(), |_| ());
    // A second thread in the hostile process, running all the time.
    let mut second = bench.spawn(&mut *spoiler, &Spawn { kind: SpawnKind::Thread, registers, fs_base: None });
    second.resume(Resume::Registers);
    std::mem::swap(&mut hostile, &mut spoiler);
    let mut innocent = bench.load(spin(), |_| ());
    let mut got = [0; 3];
    let mut refused = 0;
    for round in 0.. {
        if refused >= REFUSED {
            break;
        }
        assert!(round < MOST_ROUNDS, "the spoiler spoils nothing");
        match bench.memory(&mut *hostile, &[map_file(PLACE, theirs.as_fd())]) {
            Ok(()) => {
                hostile.memory().read(PLACE, &mut got).unwrap();
                assert_eq!(&got, b"one");
            }
            Err(MemoryError::Refused { .. }) => refused += 1,
            Err(MemoryError::Died) => panic!("the worker loses control of it"),
        }
        bench.memory(&mut *innocent, &[map_file(PLACE, other.as_fd())]).unwrap();
        innocent.memory().read(PLACE, &mut got).unwrap();
        assert_eq!(&got, b"two", "after {refused} refused mappings");
    }
}

#[test]
fn the_trap_flag_is_the_applications_own_business() {
    let bench = Bench::new();
    let mut context = bench.start(single_step(), |_| ());
    let next = |context: &mut dyn platform::Context| match bench.trap(context) {
        Trap::Fault(fault) => {
            assert_eq!((i32::from(fault.signal), fault.code, fault.vector), (libc::SIGTRAP, 2, 1))
        }
        other => panic!("{other:?}"),
    };
    next(&mut *context);
    // Calls made on its behalf neither trap nor lose the flag.
    let advise = MemoryOperation::Advise { address: DATA, length: PAGE, advice: libc::MADV_DONTNEED };
    bench.memory(&mut *context, &[advise]).unwrap();
    context.resume(Resume::Registers);
    next(&mut *context);
    context.registers().unwrap().eflags &= !0x100;
    context.resume(Resume::Registers);
    assert_eq!(bench.syscall(&mut *context).number, 1000);
}

#[test]
fn code_in_32_bit_mode_is_trapped_and_kept_there() {
    let bench = Bench::new();
    let mut context = bench.start(compatibility(), |_| ());
    for _ in 0..3 {
        let request = bench.syscall(&mut *context);
        assert_eq!((request.architecture, request.number), (Architecture::I386, 20));
        let advise = MemoryOperation::Advise { address: DATA, length: PAGE, advice: libc::MADV_DONTNEED };
        bench.memory(&mut *context, &[advise]).unwrap();
        context.resume(Resume::Return(0));
    }
}

#[test]
fn the_legacy_vsyscall_page_is_not_there() {
    const TIME: u64 = 0xffff_ffff_ff60_0400;
    let bench = Bench::new();
    let fault = bench.fault(jump(), |registers| {
        registers.rdi = TIME;
        // The host reads a return address before it asks the filter.
        registers.rsp = STACK_TOP - 8;
    });
    assert_eq!((i32::from(fault.signal), fault.address), (libc::SIGSEGV, TIME));
}

#[test]
fn the_gadget_is_no_way_out_for_an_application() {
    // `syscall; int3` on the fourth page above the application's part: trapped like any other instruction.
    let bench = Bench::new();
    let gadget = scratch(&bench) + 2 * PAGE;
    let mut context = bench.start(jump(), |registers| {
        registers.rdi = gadget;
        registers.rax = libc::SYS_exit_group as u64;
    });
    let request = bench.syscall(&mut *context);
    assert_eq!((request.number, request.ip), (libc::SYS_exit_group as u64, gadget + 2));
    context.resume(Resume::Return(0));
    match bench.trap(&mut *context) {
        Trap::Fault(fault) => assert_eq!(i32::from(fault.signal), libc::SIGTRAP),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_32_bit_entry_is_told_apart() {
    let bench = Bench::new();
    let mut context = bench.start(int80(), |_| ());
    let request = bench.syscall(&mut *context);
    assert_eq!((request.architecture, request.number), (Architecture::I386, 20));
    assert_eq!(request.arguments[..2], [21, 22]);
    context.resume(Resume::Native);
    assert_eq!(bench.told(&mut *context), errno::EINVAL.to_return_value(), "never native");
}

#[test]
fn an_x32_number_arrives_as_it_is() {
    let bench = Bench::new();
    let mut context = bench.start(x32(), |_| ());
    let request = bench.syscall(&mut *context);
    assert_eq!((request.architecture, request.number), (Architecture::X86_64, 0x4000_0027));
    context.resume(Resume::Return(errno::ENOSYS.to_return_value()));
    assert_eq!(bench.told(&mut *context), errno::ENOSYS.to_return_value());
}
