//! The word that a futex wait compares, which the stub loads on its way to the sentry.

use super::*;

programs! {
    // Makes the call in rbp through the stub (whose entry is in rbx), then reports what it returned.
    compare_through: "lea rcx, [rip + 2f]" "mov rax, rbp" "jmp rbx" "2: mov rdi, rax" "mov eax, 1000" "syscall" "ud2";
}

const FUTEX: u64 = libc::SYS_futex.cast_unsigned();
const WORD: u32 = 0xdead_beef;

/// The program makes a call with these arguments through the stub, and is held in it.
async fn asking(platform: &SeccompPlatform, context: &mut Box<dyn Context>, call: u64, [at, op]: [u64; 2]) {
    capture(context).await;
    let registers = context.registers().expect("captured");
    (registers.rip, registers.rbx, registers.rbp) = (CODE, platform.core.labels.enter, call);
    (registers.rdi, registers.rsi, registers.rdx) = (at, op, 3);
    (registers.r10, registers.r8, registers.r9) = (4, 5, 6);
    let request = syscall(context, Resume::Registers).await;
    assert_eq!((request.number, request.arguments), (call, [at, op, 3, 4, 5, 6]));
}

async fn returned(context: &mut Box<dyn Context>) -> [u64; 6] {
    let report = syscall(context, Resume::Return(7)).await;
    assert_eq!(report.number, 1000);
    report.arguments
}

#[test]
fn a_wait_brings_its_word_once_and_nothing_else_does() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut context = program(platform, compare_through()).await;
        context.memory().write(DATA, &WORD.to_ne_bytes()).expect("mapped");
        let operation = |operation: i32| u64::from(operation.cast_unsigned());
        let [plain, private, bits, wake] =
            [libc::FUTEX_WAIT, libc::FUTEX_PRIVATE_FLAG, libc::FUTEX_WAIT_BITSET, libc::FUTEX_WAKE]
                .map(operation);
        let realtime = operation(libc::FUTEX_CLOCK_REALTIME);
        for op in [plain, private, bits, bits | private | realtime] {
            asking(platform, &mut context, FUTEX, [DATA, op]).await;
            assert_eq!(context.memory().compared_u32(DATA), Some(WORD), "{op}");
            assert_eq!(context.memory().compared_u32(DATA), None, "given away");
            assert_eq!(returned(&mut context).await, [7, op, 3, 4, 5, 6]);
            asking(platform, &mut context, FUTEX, [DATA, op]).await;
            assert_eq!(context.memory().compared_u32(DATA + 4), None, "of another place");
            assert_eq!(returned(&mut context).await, [7, op, 3, 4, 5, 6]);
        }
        // Not for a wake, a place that is not mapped, not aligned, or the stub's own; and never an earlier call's.
        let stub = platform.core.geometry.code;
        for (at, op) in [
            (DATA, wake),
            (0x7777_0000, plain),
            (DATA + 2, plain),
            (8, plain),
            (stub, plain),
            (u64::MAX - 7, plain),
        ] {
            asking(platform, &mut context, FUTEX, [DATA, plain]).await;
            assert_eq!(returned(&mut context).await, [7, plain, 3, 4, 5, 6]);
            asking(platform, &mut context, FUTEX, [at, op]).await;
            assert_eq!(context.memory().compared_u32(at), None, "{at:#x}");
            assert_eq!(returned(&mut context).await, [7, op, 3, 4, 5, 6], "{at:#x}");
        }
        let other = libc::SYS_getppid.cast_unsigned();
        asking(platform, &mut context, other, [DATA, plain]).await;
        assert_eq!(context.memory().compared_u32(DATA), None);
        assert_eq!(returned(&mut context).await, [7, plain, 3, 4, 5, 6]);
    });
}

#[test]
fn who_is_taken_out_of_a_call_has_brought_nothing() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut context = program(platform, compare_through()).await;
        context.memory().write(DATA, &WORD.to_ne_bytes()).expect("mapped");
        asking(platform, &mut context, FUTEX, [DATA, 0]).await;
        capture(&mut context).await;
        assert_eq!(context.memory().compared_u32(DATA), None);
    });
}
