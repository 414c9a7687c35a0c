//! Children that are made in the place of a call, and programs that only pretend to make them.

use super::*;
use crate::stub::{CALL_SPAWNED, SLOT_FD};

programs! {
    // Makes the call in rbp through the stub (whose entry is in rbx), then reports what it returned, and the stack pointer.
    call_through_stub: "lea rcx, [rip + 2f]" "mov rax, rbp" "jmp rbx"
        "2: mov rdi, rax" "mov rsi, rsp" "mov eax, 1000" "syscall" "ud2";
    // The same with gs on memory of its own (rdi); then it jumps to r12 with rax = r13 and rdi = r14.
    pretender: "wrgsbase rdi" "lea rcx, [rip + 2f]" "mov rax, rbp" "jmp rbx"
        "2: mov rdi, r14" "mov rax, r13" "jmp r12";
    // Maps the file that its call names, and reads from it.
    map_and_read: "mov eax, 9" "syscall" "mov rdi, [rax]" "mov eax, 1000" "syscall" "ud2";
}

const VFORK: u64 = libc::SYS_vfork.cast_unsigned();

/// A child in the place of the call that `context` is held in, which returns this if it is a thread's.
pub fn host_tid(context: &dyn Context) -> i32 {
    behind(context).thread.tid()
}

async fn spawn_here(
    context: &mut Box<dyn Context>,
    kind: SpawnKind,
    result: u64,
) -> Option<Result<Box<dyn Context>, SpawnError>> {
    let here = SpawnHere { kind, stack: DATA + 0x8000, fs_base: Some(DATA) };
    if kind == SpawnKind::Thread {
        let child = context.begin_thread(&here)?;
        context.resume(Resume::Spawn(result));
        return Some(Ok(child));
    }
    poll_fn(|wake| context.poll_spawn_here(wake, &here)).await
}

/// The next trap of who has made a child: a thread's maker has been resumed by that.
async fn go_on(context: &mut Box<dyn Context>, kind: SpawnKind, result: u64) -> SyscallRequest {
    if kind == SpawnKind::Thread {
        return match trap(context).await {
            Trap::Syscall(request) => request,
            other => panic!("expected a system call, not {other:?}"),
        };
    }
    syscall(context, Resume::Return(result)).await
}

/// A program that has rung for this call (number and the first arguments).
pub async fn ringing_for(platform: &SeccompPlatform, call: [u64; 4]) -> Box<dyn Context> {
    let mut context = program(platform, call_through_stub()).await;
    let registers = context.registers().expect("captured");
    registers.rbx = platform.core.labels.enter;
    [registers.rbp, registers.rdi, registers.rsi, registers.rdx] = call;
    assert_eq!(syscall(&mut context, Resume::Registers).await.number, call[0]);
    context
}

async fn ringing(platform: &SeccompPlatform) -> Box<dyn Context> {
    let mut parent = program(platform, call_through_stub()).await;
    let registers = parent.registers().expect("captured");
    (registers.rbx, registers.rbp) = (platform.core.labels.enter, VFORK);
    (registers.rdi, registers.r9) = (0x77, 0x99);
    let request = syscall(&mut parent, Resume::Registers).await;
    assert_eq!((request.number, request.arguments[0]), (VFORK, 0x77));
    parent
}

const PROCESSES: [SpawnKind; 2] = [SpawnKind::SharedSpace, SpawnKind::Copy];
const KINDS: [SpawnKind; 3] = [SpawnKind::Thread, SpawnKind::SharedSpace, SpawnKind::Copy];

#[test]
fn children_of_each_kind_go_on_where_their_parent_called() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        for kind in KINDS {
            let mut parent = ringing(platform).await;
            let mut child = spawn_here(&mut parent, kind, 4711).await.expect("possible").expect("a child");
            assert!(parent.registers().is_none() && child.registers().is_none(), "nobody was captured");
            let report = syscall(&mut child, Resume::Return(0)).await;
            assert_eq!((report.number, report.arguments[0], report.arguments[1]), (1000, 0, DATA + 0x8000));
            let report = go_on(&mut parent, kind, 4711).await;
            assert_eq!((report.arguments[0], report.arguments[1]), (4711, STACK));
            capture(&mut child).await;
            assert_eq!(child.registers().expect("captured").r9, 0x99);
        }
    });
}

#[test]
fn parent_and_child_can_be_captured_before_they_go_on() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        for kind in KINDS {
            let mut parent = ringing(platform).await;
            let mut child = spawn_here(&mut parent, kind, 5).await.expect("possible").expect("a child");
            if kind == SpawnKind::Thread {
                // Its maker is gone already, to its report.
                assert_eq!(go_on(&mut parent, kind, 5).await.arguments[..2], [5, STACK]);
            } else {
                captured_in_its_call(&mut parent, kind, STACK, 5).await;
            }
            captured_in_its_call(&mut child, kind, DATA + 0x8000, 0).await;
        }
    });
}

async fn captured_in_its_call(context: &mut Box<dyn Context>, kind: SpawnKind, stack: u64, result: u64) {
    capture(context).await;
    let registers = *context.registers().expect("captured");
    assert_eq!((registers.rsp, registers.rdi, registers.r9), (stack, 0x77, 0x99), "{kind:?}");
    assert_eq!(registers.rax, VFORK);
    let report = syscall(context, Resume::Return(result)).await;
    assert_eq!((report.number, report.arguments[0]), (1000, result));
}

#[test]
fn an_interrupt_meets_a_child_behind_its_first_call() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        for kind in KINDS {
            let mut parent = ringing(platform).await;
            let mut child = spawn_here(&mut parent, kind, 1).await.expect("possible").expect("a child");
            child.interrupter().interrupt();
            assert!(matches!(run(&mut child, Resume::Return(0)).await, Trap::Interrupted));
            let registers = *child.registers().expect("captured");
            assert_eq!((registers.rax, registers.rsp, registers.rdi), (0, DATA + 0x8000, 0x77), "{kind:?}");
            assert_eq!(syscall(&mut child, Resume::Registers).await.arguments[0], 0);
        }
    });
}

#[test]
fn what_the_host_refuses_is_its_error_and_the_parent_goes_on() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        for kind in PROCESSES {
            let mut parent = ringing(platform).await;
            let here = SpawnHere { kind, stack: 0, fs_base: Some(1 << 63) };
            let made = poll_fn(|wake| parent.poll_spawn_here(wake, &here)).await.expect("possible");
            assert!(matches!(made, Err(SpawnError::Refused(abi::errno::EPERM))));
            assert_eq!(syscall(&mut parent, Resume::Return(9)).await.arguments[0], 9);
        }
    });
}

#[test]
fn a_child_that_nobody_waits_for_ends() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        for kind in KINDS {
            let mut parent = ringing(platform).await;
            let child = spawn_here(&mut parent, kind, 3).await.expect("possible").expect("a child");
            drop(child);
            assert_eq!(go_on(&mut parent, kind, 3).await.arguments[0], 3);
            if kind == SpawnKind::Thread {
                continue;
            }
            let mut parent = ringing(platform).await;
            let here = SpawnHere { kind, stack: 0, fs_base: None };
            let mut wake = WakeContext::from_waker(Waker::noop());
            assert!(parent.poll_spawn_here(&mut wake, &here).is_pending());
        }
        // The platform is none the worse for it.
        let mut parent = ringing(platform).await;
        assert!(spawn_here(&mut parent, SpawnKind::Copy, 0).await.expect("possible").is_ok());
    });
}

#[test]
fn who_only_says_that_it_made_a_child_dies() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut victim = program(platform, getpid_forever()).await;
        syscall(&mut victim, Resume::Registers).await;
        for kind in KINDS {
            let mut liar = program(platform, pretender()).await;
            let registers = liar.registers().expect("captured");
            (registers.rbx, registers.rbp) = (platform.core.labels.enter, VFORK);
            registers.rdi = DATA;
            // The report without the deed: the victim is its child, it says.
            registers.r12 = platform.core.labels.spawned_ip - 2;
            (registers.r13, registers.r14) = (CALL_SPAWNED, u64::from(host_tid(&*victim).unsigned_abs()));
            syscall(&mut liar, Resume::Registers).await;
            match spawn_here(&mut liar, kind, 1).await.expect("possible") {
                Ok(mut child) => assert!(matches!(run(&mut child, Resume::Return(0)).await, Trap::Died)),
                Err(error) => assert!(matches!(error, SpawnError::Died)),
            }
            assert!(matches!(trap(&mut liar).await, Trap::Died));
            assert_eq!(syscall(&mut victim, Resume::Return(1)).await.number, 39, "the victim lives");
        }
    });
}

const THREAD: SpawnHere = SpawnHere { kind: SpawnKind::Thread, stack: DATA + 0x8000, fs_base: Some(DATA) };

#[test]
fn a_thread_that_the_host_refuses_is_never_born() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        for resumed in [false, true] {
            let mut parent = ringing(platform).await;
            let here = SpawnHere { fs_base: Some(1 << 63), ..THREAD };
            let mut child = parent.begin_thread(&here).expect("possible");
            if resumed {
                child.resume(Resume::Return(0));
            }
            parent.interrupter().interrupt();
            // The interrupt came while it was held, and is taken with the error.
            assert!(matches!(run(&mut parent, Resume::Spawn(9)).await, Trap::Interrupted));
            let error = parent.registers().expect("captured").rax;
            assert_eq!(error, abi::errno::EPERM.to_return_value());
            assert!(matches!(trap(&mut child).await, Trap::Unborn));
            assert!(poll_fn(|wake| child.poll_capture(wake)).await.is_err());
            drop(child);
            assert_eq!(syscall(&mut parent, Resume::Registers).await.arguments[0], error);
            // Its slot is free again: taken are its maker's, and the one that is ready for the next.
            assert_eq!(free_slots(&*parent), 14);
        }
    });
}

#[test]
fn a_thread_that_was_only_announced_is_never_born() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut parent = ringing(platform).await;
        let mut child = parent.begin_thread(&THREAD).expect("possible");
        assert!(parent.begin_thread(&THREAD).is_none(), "one at a time");
        child.resume(Resume::Return(0));
        drop(parent);
        assert!(matches!(trap(&mut child).await, Trap::Unborn));
        // Also if it is only resumed then, and as often as it is asked.
        assert!(matches!(run(&mut child, Resume::Return(0)).await, Trap::Unborn));
    });
}

#[test]
fn who_makes_a_thread_can_be_interrupted_meanwhile() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        for round in 0..50 {
            let mut parent = ringing(platform).await;
            let mut child = parent.begin_thread(&THREAD).expect("possible");
            let interrupter = parent.interrupter();
            if round % 2 == 0 {
                interrupter.interrupt();
            }
            parent.resume(Resume::Spawn(4711));
            interrupter.interrupt();
            let report = syscall(&mut child, Resume::Return(0)).await;
            assert_eq!((report.number, report.arguments[0]), (1000, 0));
            // Either it is interrupted, behind its call, or its next call came first, and it is interrupted when that returns.
            match trap(&mut parent).await {
                Trap::Interrupted => {
                    // Behind its call, or already on its way to the next, for which it has moved the result.
                    let registers = *parent.registers().expect("captured");
                    assert!(registers.rax == 4711 || registers.rdi == 4711, "{registers:?}");
                    assert_eq!(syscall(&mut parent, Resume::Registers).await.arguments[0], 4711);
                }
                Trap::Syscall(report) => assert_eq!(report.arguments[0], 4711),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_process_that_dies_takes_its_unborn_threads_with_it() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        for made in [false, true] {
            let mut parent = ringing(platform).await;
            let mut child = parent.begin_thread(&THREAD).expect("possible");
            child.resume(Resume::Return(0));
            if made {
                parent.resume(Resume::Spawn(1));
            }
            parent.kill();
            drop(parent);
            let end = loop {
                // As the sentry does when the host says that a child has died.
                platform.reap();
                match child.poll_trap(&mut WakeContext::from_waker(Waker::noop())) {
                    Poll::Ready(trap @ (Trap::Died | Trap::Unborn)) => break trap,
                    Poll::Ready(other) => panic!("{other:?}"),
                    Poll::Pending => std::thread::yield_now(),
                }
            };
            assert_eq!(matches!(end, Trap::Died), made);
        }
        assert!(platform.core.threads.announced.lock().is_empty());
    });
}

#[test]
fn a_known_thread_is_not_taken_for_one_that_is_awaited() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        for same_program in [false, true] {
            let mut parent = ringing(platform).await;
            let mut liar = if same_program {
                let mut liar = parent.begin_thread(&THREAD).expect("possible");
                go_on_behind(&mut parent).await;
                syscall(&mut liar, Resume::Return(0)).await;
                parent = again(platform, parent).await;
                liar
            } else {
                ringing(platform).await
            };
            let mut child = parent.begin_thread(&THREAD).expect("possible");
            // The liar makes the first call of the thread that is awaited.
            capture(&mut liar).await;
            let registers = liar.registers().expect("captured");
            registers.rip = platform.core.labels.fresh_stack_ip - 2;
            registers.rax = libc::SYS_sigaltstack.cast_unsigned();
            registers.rdi = behind(&*child).thread.slot.address + crate::stub::SLOT_ALTERNATE as u64;
            registers.rsi = 0;
            parent.resume(Resume::Spawn(1));
            let request = syscall(&mut liar, Resume::Registers).await;
            assert_eq!(request.number, libc::SYS_sigaltstack.cast_unsigned(), "a call like any other");
            assert_eq!(syscall(&mut child, Resume::Return(0)).await.arguments[0], 0);
            assert_ne!(host_tid(&*child), host_tid(&*liar));
        }
    });
}

/// Has the thread made that was announced.
async fn go_on_behind(parent: &mut Box<dyn Context>) {
    let report = syscall(parent, Resume::Spawn(1)).await;
    assert_eq!((report.number, report.arguments[0]), (1000, 1));
}

/// A program that stands at its report makes its call through the stub once more.
async fn again(platform: &SeccompPlatform, mut context: Box<dyn Context>) -> Box<dyn Context> {
    capture(&mut context).await;
    let registers = context.registers().expect("captured");
    (registers.rip, registers.rbx, registers.rbp) = (CODE, platform.core.labels.enter, VFORK);
    assert_eq!(syscall(&mut context, Resume::Registers).await.number, VFORK);
    context
}

const CLONE: u64 = libc::SYS_clone.cast_unsigned();
const CLONE3: u64 = libc::SYS_clone3.cast_unsigned();
/// What libraries ask for.
const THREAD_FLAGS: u64 = 0x3d_0f00;

/// A program that has made a thread, and now asks for another in this way: call, and its first, second and fifth argument.
async fn asking_for_another(
    platform: &SeccompPlatform,
    call: [u64; 4],
) -> (Box<dyn Context>, SyscallRequest) {
    let mut parent = ringing(platform).await;
    let mut child = parent.begin_thread(&THREAD).expect("possible");
    go_on_behind(&mut parent).await;
    syscall(&mut child, Resume::Return(0)).await;
    drop(child);
    capture(&mut parent).await;
    let registers = parent.registers().expect("captured");
    (registers.rip, registers.rbx) = (CODE, platform.core.labels.enter);
    [registers.rbp, registers.rdi, registers.rsi, registers.r8] = call;
    let request = syscall(&mut parent, Resume::Registers).await;
    let [number, first, second, fifth] = call;
    assert_eq!((request.number, request.arguments[0], request.arguments[1]), (number, first, second));
    assert_eq!((request.arguments[4], request.arguments[5]), (fifth, 0x99));
    (parent, request)
}

async fn asking_by_clone(platform: &SeccompPlatform, tls: u64) -> Box<dyn Context> {
    let call = [CLONE, THREAD_FLAGS, THREAD.stack, tls];
    let (parent, request) = asking_for_another(platform, call).await;
    assert_eq!(request.ip, platform.core.labels.direct_ip, "it was about to make it");
    parent
}

/// Slots of the parent's chunk that can be taken.
fn free_slots(context: &dyn Context) -> usize {
    let space = behind(context).thread.slot.space.clone();
    let slots: Vec<_> = std::iter::from_fn(|| space.take_slot()).collect();
    for slot in &slots {
        space.release_slot(slot.place);
    }
    slots.len()
}

#[test]
fn the_next_thread_is_made_by_the_call_that_asks_for_it() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut parent = asking_by_clone(platform, DATA).await;
        let mut child = parent.begin_thread(&THREAD).expect("possible");
        child.resume(Resume::Return(0));
        let report = syscall(&mut parent, Resume::Spawn(4711)).await;
        assert_eq!((report.arguments[0], report.arguments[1]), (4711, STACK));
        match trap(&mut child).await {
            Trap::Syscall(report) => assert_eq!(report.arguments[..2], [0, THREAD.stack]),
            other => panic!("{other:?}"),
        }
        for (context, result) in [(&mut parent, 4711), (&mut child, 0)] {
            capture(context).await;
            let registers = context.registers().expect("captured");
            // The report has changed the first two.
            assert_eq!((registers.rdi, registers.r8, registers.r9), (result, DATA, 0x99));
        }
    });
}

#[test]
fn a_thread_that_is_asked_for_otherwise_than_it_was_begun_is_made_the_usual_way() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let others = [(DATA + 0x7000, Some(DATA)), (THREAD.stack, Some(DATA + 8)), (THREAD.stack, None)];
        for (stack, fs_base) in others {
            let mut parent = asking_by_clone(platform, DATA).await;
            let mut child = parent.begin_thread(&SpawnHere { stack, fs_base, ..THREAD }).expect("possible");
            let report = syscall(&mut parent, Resume::Spawn(5)).await;
            assert_eq!((report.arguments[0], report.arguments[1]), (5, STACK));
            let report = syscall(&mut child, Resume::Return(0)).await;
            assert_eq!(report.arguments[..2], [0, stack]);
        }
        // A process, too.
        let mut parent = asking_by_clone(platform, DATA).await;
        let mut child =
            spawn_here(&mut parent, SpawnKind::Copy, 0).await.expect("possible").expect("a child");
        assert_eq!(syscall(&mut child, Resume::Return(0)).await.arguments[0], 0);
        assert_eq!(syscall(&mut parent, Resume::Return(8)).await.arguments[0], 8);
    });
}

#[test]
fn a_call_that_was_to_make_a_thread_can_return_and_be_captured() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        for result in [0, 1, abi::errno::EINVAL.to_return_value(), crate::stub::ANSWER_DEEP] {
            let mut parent = asking_by_clone(platform, DATA).await;
            assert_eq!(syscall(&mut parent, Resume::Return(result)).await.arguments[0], result);
            let mut parent = asking_by_clone(platform, DATA).await;
            captured_in_its_call_of(&mut parent, [CLONE, THREAD_FLAGS, THREAD.stack, DATA]).await;
            assert_eq!(syscall(&mut parent, Resume::Return(result)).await.arguments[0], result);
        }
    });
}

async fn captured_in_its_call_of(context: &mut Box<dyn Context>, call: [u64; 4]) {
    capture(context).await;
    let registers = context.registers().expect("captured");
    assert_eq!([registers.rax, registers.rdi, registers.rsi, registers.r8], call);
    assert_eq!((registers.rsp, registers.r9), (STACK, 0x99));
}

#[test]
fn what_the_host_refuses_of_a_call_that_makes_a_thread_is_its_error() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut parent = asking_by_clone(platform, 1 << 63).await;
        let here = SpawnHere { fs_base: Some(1 << 63), ..THREAD };
        let mut child = parent.begin_thread(&here).expect("possible");
        let report = syscall(&mut parent, Resume::Spawn(5)).await;
        assert_eq!(report.arguments[0], abi::errno::EPERM.to_return_value());
        assert!(matches!(trap(&mut child).await, Trap::Unborn));
        drop(child);
        // Its own, that of the thread before, which may not be gone yet, and the one that is ready.
        assert!(free_slots(&*parent) >= 13);
    });
}

#[test]
fn the_arguments_of_clone3_are_found_in_memory_if_they_can_be_read() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut parent = ringing(platform).await;
        let mut first = parent.begin_thread(&THREAD).expect("possible");
        go_on_behind(&mut parent).await;
        syscall(&mut first, Resume::Return(0)).await;
        let mut arguments = [0u64; 11];
        (arguments[0], arguments[5], arguments[6], arguments[7]) = (THREAD_FLAGS, DATA, 0x8000, DATA);
        let labels = &platform.core.labels;
        for (flags, address, size, ip) in [
            (THREAD_FLAGS, DATA + 0x100, 88, labels.direct_ip),
            (THREAD_FLAGS, DATA + 0x100, 64, labels.direct_ip),
            (THREAD_FLAGS, DATA + 0x100, 63, labels.ring_ip),
            (THREAD_FLAGS | 0x4000, DATA + 0x100, 88, labels.ring_ip),
            (THREAD_FLAGS, 0x10, 88, labels.ring_ip),
            (THREAD_FLAGS, u64::MAX - 20, 88, labels.ring_ip),
        ] {
            arguments[0] = flags;
            let bytes: Vec<u8> = arguments.iter().flat_map(|word| word.to_ne_bytes()).collect();
            parent.memory().write(DATA + 0x100, &bytes).expect("written");
            capture(&mut parent).await;
            let registers = parent.registers().expect("captured");
            (registers.rip, registers.rbx, registers.rbp) = (CODE, labels.enter, CLONE3);
            (registers.rdi, registers.rsi) = (address, size);
            let request = syscall(&mut parent, Resume::Registers).await;
            assert_eq!((request.number, request.ip), (CLONE3, ip), "{flags:#x} {address:#x} {size}");
            assert_eq!(request.arguments[..2], [address, size]);
            let mut child = parent.begin_thread(&THREAD).expect("possible");
            let report = syscall(&mut parent, Resume::Spawn(6)).await;
            assert_eq!(report.arguments[0], 6);
            assert_eq!(syscall(&mut child, Resume::Return(0)).await.arguments[1], THREAD.stack);
        }
    });
}

#[test]
fn who_jumps_to_where_a_thread_is_made_makes_none() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let (mut parent, _) = asking_for_another(platform, [39, 1, 2, 3]).await;
        let ready = behind(&*parent).thread.slot.word(crate::stub::SLOT_READY);
        let flags = THREAD_FLAGS & !0x30_0000;
        // Almost what the stub would do there, and just that but for what stands in the slot as the call.
        for (call, last) in [(CLONE, ready + 0x1000), (39, ready), (CLONE, ready)] {
            capture(&mut parent).await;
            let registers = parent.registers().expect("captured");
            registers.rip = platform.core.labels.direct_ip - 2;
            (registers.rax, registers.rdi, registers.rsi) = (call, flags, THREAD.stack);
            (registers.rdx, registers.r10, registers.r8, registers.r9) = (0, 0, DATA, last);
            let request = syscall(&mut parent, Resume::Registers).await;
            assert_eq!((request.number, request.arguments[5]), (call, last), "a call like any other");
            assert_eq!(syscall(&mut parent, Resume::Return(4)).await.arguments[0], 4);
        }
    });
}

#[test]
fn a_lent_file_is_mapped_by_its_call_and_closed_later() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let file = std::fs::File::from(memfd(c"test", 0x1000).expect("memfd"));
        std::os::unix::fs::FileExt::write_all_at(&file, b"lent\0\0\0\0", 0).expect("written");
        let mut context = program(platform, map_and_read()).await;
        let registers = context.registers().expect("captured");
        (registers.rdi, registers.rsi, registers.rdx) = (0x6000_0000, 0x1000, 1);
        (registers.r10, registers.r8, registers.r9) =
            (u64::from((libc::MAP_PRIVATE | libc::MAP_FIXED).cast_unsigned()), 3, 0);
        syscall(&mut context, Resume::Registers).await;
        assert!(
            !context.lend(SLOT_FD.cast_unsigned().into(), file.as_fd(), 1),
            "not in the place of the slots"
        );
        assert!(context.lend(3, file.as_fd(), 1));
        let report = syscall(&mut context, Resume::Native).await;
        assert_eq!(report.arguments[0].to_ne_bytes(), *b"lent\0\0\0\0");
        memory(&mut context, &[anonymous(0x5000_0000, 0x1000)]).await.expect("mapped");
        let fds = std::fs::read_dir(format!("/proc/{}/fd", host_tid(&*context))).expect("proc").count();
        assert_eq!(fds, 1);
    });
}
