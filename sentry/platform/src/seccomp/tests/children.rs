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

async fn spawn_here(
    context: &mut Box<dyn Context>,
    kind: SpawnKind,
) -> Option<Result<Box<dyn Context>, SpawnError>> {
    let here = SpawnHere { kind, stack: DATA + 0x8000, fs_base: Some(DATA) };
    poll_fn(|wake| context.poll_spawn_here(wake, &here)).await
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

const KINDS: [SpawnKind; 3] = [SpawnKind::Thread, SpawnKind::SharedSpace, SpawnKind::Copy];

#[test]
fn children_of_each_kind_go_on_where_their_parent_called() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        for kind in KINDS {
            let mut parent = ringing(platform).await;
            let mut child = spawn_here(&mut parent, kind).await.expect("possible").expect("a child");
            assert!(parent.registers().is_none() && child.registers().is_none(), "nobody was captured");
            let report = syscall(&mut child, Resume::Return(0)).await;
            assert_eq!((report.number, report.arguments[0], report.arguments[1]), (1000, 0, DATA + 0x8000));
            let report = syscall(&mut parent, Resume::Return(4711)).await;
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
            let mut child = spawn_here(&mut parent, kind).await.expect("possible").expect("a child");
            for (context, stack, result) in [(&mut parent, STACK, 5), (&mut child, DATA + 0x8000, 0)] {
                capture(context).await;
                let registers = *context.registers().expect("captured");
                assert_eq!((registers.rsp, registers.rdi, registers.r9), (stack, 0x77, 0x99), "{kind:?}");
                assert_eq!(registers.rax, VFORK);
                let report = syscall(context, Resume::Return(result)).await;
                assert_eq!((report.number, report.arguments[0]), (1000, result));
            }
        }
    });
}

#[test]
fn an_interrupt_meets_a_child_behind_its_first_call() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        for kind in KINDS {
            let mut parent = ringing(platform).await;
            let mut child = spawn_here(&mut parent, kind).await.expect("possible").expect("a child");
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
        for kind in KINDS {
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
            let child = spawn_here(&mut parent, kind).await.expect("possible").expect("a child");
            drop(child);
            assert_eq!(syscall(&mut parent, Resume::Return(3)).await.arguments[0], 3);
            let mut parent = ringing(platform).await;
            let here = SpawnHere { kind, stack: 0, fs_base: None };
            let mut wake = WakeContext::from_waker(Waker::noop());
            assert!(parent.poll_spawn_here(&mut wake, &here).is_pending());
        }
        // The platform is none the worse for it.
        let mut parent = ringing(platform).await;
        assert!(spawn_here(&mut parent, SpawnKind::Copy).await.expect("possible").is_ok());
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
            let made = spawn_here(&mut liar, kind).await.expect("possible");
            assert!(matches!(made, Err(SpawnError::Died)));
            assert!(matches!(trap(&mut liar).await, Trap::Died));
            assert_eq!(syscall(&mut victim, Resume::Return(1)).await.number, 39, "the victim lives");
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
