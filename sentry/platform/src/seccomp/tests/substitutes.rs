//! Calls of memory that the host makes in the place of others, from sites that are not patched.

use std::os::fd::AsFd;

use nix::sys::uio::pwrite;

use super::children::ringing_for;
use super::*;
use crate::stub::SLOT_FD;

/// A call from a site that is not patched is replaced: what was asked for is made, and the call returns what was said, or the host's
/// error; an interrupt that comes meanwhile is not lost, and nothing but rax has changed.
#[test]
fn another_call_is_made_in_the_place_of_a_plain_one() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut context = program(platform, one_call()).await;
        let registers = context.registers().expect("captured");
        (registers.rbx, registers.rdi, registers.rsi, registers.rdx) = (9, 1, 2, 3);
        (registers.r10, registers.r8, registers.r9, registers.r12) = (4, 5, 6, 7);
        assert_eq!(syscall(&mut context, Resume::Registers).await.number, 9);
        assert!(context.may_substitute());
        let map = |address| Substitute::MapAnonymous {
            address,
            length: 0x1000,
            protection: READ_WRITE,
            reserve: true,
        };
        let how = Resume::Substitute { operation: map(0x5000_0000), result: 0x1234 };
        assert_eq!(syscall(&mut context, how).await.arguments, [0x1234, 2, 3, 4, 5, 6]);
        assert_eq!(context.memory().write(0x5000_0ff8, &[1; 16]), Ok(8));
        // Interrupted before the call is made: it is made, and the interrupt comes behind it.
        context.interrupter().interrupt();
        let how = Resume::Substitute { operation: map(0x5000_1000), result: 0x77 };
        assert!(matches!(run(&mut context, how).await, Trap::Interrupted));
        assert_eq!(context.memory().write(0x5000_0ff8, &[1; 16]), Ok(16));
        let registers = *context.registers().expect("captured");
        assert_eq!((registers.rax, registers.rdx, registers.r12), (0x77, 3, 7));
        assert!(!context.may_substitute(), "it is captured");
        // What the host refuses fails with its error.
        assert_eq!(syscall(&mut context, Resume::Registers).await.number, 1000);
        context.interrupter().interrupt();
        let unmap = Substitute::Unmap { address: 0x5000_0001, length: 0x1000 };
        assert!(matches!(
            run(&mut context, Resume::Substitute { operation: unmap, result: 5 }).await,
            Trap::Interrupted
        ));
        let refused = abi::errno::EINVAL.to_return_value();
        assert_eq!(context.registers().expect("captured").rax, refused);
        assert_eq!(syscall(&mut context, Resume::Registers).await.number, 1000);
    });
}

#[test]
fn a_file_is_mapped_in_the_place_of_a_plain_call_and_only_the_one_that_was_lent() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let (one, other) = two_files();
        let mut context = program(platform, getpid_forever()).await;
        syscall(&mut context, Resume::Registers).await;
        for (round, file) in [&one, &other, &one].into_iter().enumerate() {
            let descriptor = context.lend_anywhere(file.as_fd()).expect("lent");
            let operation = Substitute::MapFile {
                address: 0x5000_0000,
                length: 0x1000,
                protection: READ_WRITE,
                descriptor,
                offset: 0,
            };
            syscall(&mut context, Resume::Substitute { operation, result: 0 }).await;
            let mut byte = [0];
            assert_eq!(context.memory().read(0x5000_0000, &mut byte), Ok(1));
            assert_eq!(byte[0], [1, 2, 1][round]);
        }
        // One descriptor took the place of the other, and goes when commands are executed.
        let open = |context: &dyn Context| {
            std::fs::read_dir(format!("/proc/{}/fd", host_tid(context))).expect("proc").count()
        };
        assert_eq!(open(&*context), 2);
        memory(&mut context, &[anonymous(0x6000_0000, 0x1000)]).await.expect("mapped");
        assert_eq!(open(&*context), 1);
        syscall(&mut context, Resume::Registers).await;
        let operation = Substitute::MapFile {
            address: 0x5000_0000,
            length: 0x1000,
            protection: READ_WRITE,
            descriptor: SLOT_FD.cast_unsigned().into(),
            offset: 0,
        };
        assert!(matches!(run(&mut context, Resume::Substitute { operation, result: 0 }).await, Trap::Died));
    });
}

/// Files that begin with 1 and with 2.
fn two_files() -> (std::os::fd::OwnedFd, std::os::fd::OwnedFd) {
    let (one, other) = (memfd(c"one", 0x1000).expect("memfd"), memfd(c"other", 0x1000).expect("memfd"));
    for (file, byte) in [(&one, [1u8]), (&other, [2])] {
        assert_eq!(pwrite(file, &byte, 0), Ok(1));
    }
    (one, other)
}

/// A file that was lent is read by the call itself, is not installed again while it is there, and is closed by the call that closes it; a
/// call that nothing was lent for is refused, whatever is open in the process.
#[test]
fn a_lent_file_is_read_by_its_call_and_closed_by_another() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let (one, other) = two_files();
        let refused = abi::errno::EINVAL.to_return_value();
        let mut context = program(platform, one_call()).await;
        let call = |context: &mut Box<dyn Context>, number: libc::c_long, arguments: [u64; 4]| {
            let registers = context.registers().expect("captured");
            registers.rip = CODE;
            registers.rbx = number.cast_unsigned();
            [registers.rdi, registers.rsi, registers.rdx, registers.r10] = arguments;
        };
        let mut made = async |number, arguments, lend: Option<(&std::os::fd::OwnedFd, u64)>, back: bool| {
            capture(&mut context).await;
            call(&mut context, number, arguments);
            syscall(&mut context, Resume::Registers).await;
            if let Some((file, identity)) = lend {
                assert!(context.lend(3, file.as_fd(), identity));
            }
            assert!(!back || context.take_back(3, None) == TakeBack::Native);
            let result = syscall(&mut context, Resume::Native).await.arguments[0];
            let mut byte = [0];
            assert_eq!(context.memory().read(DATA, &mut byte), Ok(1));
            let fds = std::fs::read_dir(format!("/proc/{}/fd", host_tid(&*context))).expect("proc").count();
            (result, byte[0], fds)
        };
        let (read, close) = (libc::SYS_pread64, libc::SYS_close);
        assert_eq!(made(read, [3, DATA, 16, 0], None, false).await, (refused, 0, 1));
        assert_eq!(made(read, [3, DATA, 16, 0], Some((&one, 1)), false).await, (16, 1, 2));
        assert_eq!(
            made(read, [3, DATA, 16, 0], Some((&other, 1)), false).await,
            (16, 1, 2),
            "known by its identity"
        );
        assert_eq!(made(read, [3, DATA, 16, 0], Some((&other, 2)), false).await, (16, 2, 2));
        assert_eq!(made(read, [3, DATA, 16, 0xff8], Some((&other, 2)), false).await, (8, 0, 2));
        // It is there, but was not lent for this call; and what was lent is not what the call names.
        assert_eq!(made(read, [3, DATA, 16, 0], None, false).await, (refused, 0, 2));
        let slots = SLOT_FD.cast_unsigned().into();
        assert_eq!(made(read, [slots, DATA, 16, 0], Some((&one, 1)), false).await, (refused, 0, 2));
        let end = platform.layout().max_address;
        assert_eq!(made(read, [3, end - 8, 16, 0], Some((&one, 1)), false).await, (refused, 0, 2));
        assert_eq!(made(libc::SYS_write, [3, DATA, 1, 0], Some((&one, 1)), false).await, (refused, 0, 2));
        assert_eq!(made(close, [3, 0, 0, 0], None, false).await, (refused, 0, 2));
        assert_eq!(made(close, [slots, 0, 0, 0], None, true).await, (refused, 0, 2));
        assert_eq!(made(read, [3, DATA, 16, 0], Some((&one, 1)), false).await, (16, 1, 2));
        assert_eq!(made(close, [3, 0, 0, 0], None, true).await, (0, 1, 1));
        assert_eq!(made(read, [3, DATA, 16, 0], None, false).await, (refused, 1, 1));
    });
}

/// A read is made in the place of a call that rang. If it gives what was foreseen, the call returns that; otherwise the call traps again, as if it
/// had not been made, whether or not an interrupt comes in between.
#[test]
fn a_read_in_a_calls_place_gives_what_was_foreseen_or_is_asked_for_again() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let file = memfd(c"one", 0x1000).expect("memfd");
        assert_eq!(pwrite(&file, b"abcdefgh", 0xff8), Ok(8));
        let cases =
            [(0xff0, DATA, true), (0xff8, DATA, false), (0, 0x6000_0000, false), (0x2000, DATA, false)];
        let twice =
            |(offset, address, whole)| [(offset, address, whole, false), (offset, address, whole, true)];
        for (offset, address, expected, interrupted) in cases.into_iter().flat_map(twice) {
            let mut context = ringing_for(platform, [libc::SYS_read.cast_unsigned(), 3, address, 16]).await;
            assert!(context.may_read_instead() && context.lend(3, file.as_fd(), 1));
            if interrupted {
                context.interrupter().interrupt();
            }
            let operation = Substitute::Read { descriptor: 3, address, length: 16, offset };
            let trap = run(&mut context, Resume::Substitute { operation, result: 16 }).await;
            let report = if expected && interrupted {
                assert!(matches!(trap, Trap::Interrupted));
                let registers = *context.registers().expect("captured");
                assert_eq!((registers.rax, registers.rdi, registers.rsi, registers.rdx), (16, 3, DATA, 16));
                syscall(&mut context, Resume::Registers).await
            } else {
                let Trap::Syscall(mut request) = trap else { panic!("expected a call, not {trap:?}") };
                if !expected {
                    assert!(context.is_again(&request) && !context.may_read_instead());
                    assert_eq!((request.number, request.arguments[..3].to_vec()), (0, vec![3, address, 16]));
                    request = syscall(&mut context, Resume::Return(5)).await;
                }
                request
            };
            assert!(!context.is_again(&report));
            assert_eq!((report.number, report.arguments[0]), (1000, if expected { 16 } else { 5 }));
            let mut bytes = [0; 16];
            assert_eq!(context.memory().read(DATA, &mut bytes), Ok(16));
            assert_eq!(&bytes[8..] == b"abcdefgh", expected, "{offset:x}");
        }
    });
}

#[test]
fn only_what_was_lent_is_read_in_a_calls_place_and_only_into_the_programs_memory() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let file = memfd(c"one", 0x1000).expect("memfd");
        let end = platform.layout().max_address;
        let slots = SLOT_FD.cast_unsigned().into();
        for (lent, descriptor, address) in
            [(false, 3, DATA), (true, slots, DATA), (true, 3, end - 8), (true, 3, u64::MAX - 8)]
        {
            let mut context = ringing_for(platform, [libc::SYS_read.cast_unsigned(), 3, DATA, 16]).await;
            assert!(!lent || context.lend(3, file.as_fd(), 1));
            let operation = Substitute::Read { descriptor, address, length: 16, offset: 0 };
            assert!(matches!(
                run(&mut context, Resume::Substitute { operation, result: 16 }).await,
                Trap::Died
            ));
        }
        // What is written is what the program has there, in the file that was lent; a hole ends it, and the call is made again.
        for (address, whole) in [(DATA, true), (DATA + 0x10000 - 8, false)] {
            let mut context = ringing_for(platform, [libc::SYS_write.cast_unsigned(), 3, address, 16]).await;
            assert_eq!(context.memory().write(address, b"12345678"), Ok(8));
            assert!(context.lend(3, file.as_fd(), 1));
            let operation = Substitute::Write { descriptor: 3, address, length: 16, offset: 5 };
            let request = syscall(&mut context, Resume::Substitute { operation, result: 16 }).await;
            assert_eq!(context.is_again(&request), !whole);
            let mut bytes = [0; 8];
            assert_eq!(nix::sys::uio::pread(&file, &mut bytes, 5), Ok(8));
            assert_eq!(&bytes, b"12345678");
        }
        // A call that has not rung is not replaced.
        let mut context = program(platform, getpid_forever()).await;
        syscall(&mut context, Resume::Registers).await;
        assert!(!context.may_read_instead());
    });
}

/// Whoever shares the process's descriptors, a thread has one of its own for each of two files, wherever the host had room, and nothing else can be done with it.
#[test]
fn a_file_is_lent_to_one_thread_alone_and_under_a_number_of_its_own() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let (one, other) = two_files();
        let third = memfd(c"third", 0x1000).expect("memfd");
        let ringing = || ringing_for(platform, [libc::SYS_pread64.cast_unsigned(), 77, DATA, 16]);
        let read = |descriptor| Substitute::Read { descriptor, address: DATA, length: 16, offset: 0 };
        let mut context = ringing().await;
        let number = context.lend_privately(one.as_fd(), 1).expect("lent");
        let next = context.lend_privately(other.as_fd(), 2).expect("lent");
        assert!(number != next && ![number, next].contains(&SLOT_FD.cast_unsigned().into()));
        assert_eq!(context.lend_privately(one.as_fd(), 1), Some(number), "it is there already");
        assert_eq!(context.lend_privately(third.as_fd(), 3), Some(number), "in the place of the oldest");
        assert_eq!(context.lend_privately(one.as_fd(), 1), Some(next));
        assert!(context.is_held());
        let operation = read(next);
        let report = syscall(&mut context, Resume::Substitute { operation, result: 16 }).await;
        assert_eq!(report.arguments[0], 16);
        let mut byte = [0];
        assert_eq!(context.memory().read(DATA, &mut byte), Ok(1));
        assert_eq!(byte, [1]);
        // Not the number that the call names, nor one that was lent for another.
        for wrong in [77, number, SLOT_FD.cast_unsigned().into()] {
            let mut context = ringing().await;
            assert_eq!(context.lend_privately(one.as_fd(), 1), Some(number));
            assert_eq!(context.lend_privately(other.as_fd(), 2), Some(next));
            let operation = read(wrong);
            let trap = run(&mut context, Resume::Substitute { operation, result: 16 }).await;
            assert!(matches!(trap, Trap::Died));
        }
        let mut context = program(platform, getpid_forever()).await;
        syscall(&mut context, Resume::Registers).await;
        assert_eq!(context.lend_privately(one.as_fd(), 1), None, "it has not rung");
    });
}

/// What one thread was lent is closed by nobody else, and by itself when the file is; a child has copies, and closes them.
#[test]
fn what_a_thread_was_lent_only_itself_gives_back_and_a_child_has_copies() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let (file, _) = two_files();
        let mut parent = ringing_for(platform, [libc::SYS_pread64.cast_unsigned(), 77, DATA, 16]).await;
        let number = parent.lend_privately(file.as_fd(), 1).expect("lent");
        capture(&mut parent).await;
        let open = |context: &dyn Context| {
            std::fs::read_dir(format!("/proc/{}/fd", host_tid(context))).expect("proc").count()
        };
        let registers = *parent.registers().expect("captured");
        let spawned = |kind| Spawn { kind, registers, fs_base: None };
        let mut thread = spawn(&mut parent, &spawned(SpawnKind::Thread)).await;
        let mut copy = spawn(&mut thread, &spawned(SpawnKind::Copy)).await;
        assert_eq!((open(&*parent), open(&*copy)), (2, 2));
        memory(&mut copy, &[]).await.expect("closed");
        memory(&mut thread, &[anonymous(0x5000_0000, 0x1000)]).await.expect("mapped");
        assert_eq!((open(&*parent), open(&*copy)), (2, 1));
        assert_eq!(thread.take_back(number, Some(1)), TakeBack::Nothing, "it is another's");
        assert_eq!(parent.take_back(number, None), TakeBack::Nothing, "the application's number is another");
        assert!(!parent.lend(number, file.as_fd(), 1), "nor is that its business");
        assert_eq!(parent.take_back(77, Some(1)), TakeBack::Commands);
        memory(&mut parent, &[]).await.expect("closed");
        assert_eq!(open(&*parent), 1);
    });
}
