//! Threads that wait in the deep, on their way there and back.

use super::*;
use crate::seccomp::deep::MOST_HELD;
use crate::seccomp::heat::ticks;
use crate::seccomp::thread::{Place, Stand};
use crate::stub::{ANSWER_DEEP, SLOT_RESULT, SLOT_RETURN, STATE_DEEP, STATE_IDLE, STATE_YIELDING};

/// One more than can be held.
const CROWD: usize = MOST_HELD + 1;
const REPORT: u64 = 1000;
const FUTEX: u64 = libc::SYS_futex as u64;
const PAUSE: u64 = libc::SYS_pause as u64;

/// Where a thread goes on that makes its call through the stub.
const BEHIND: u64 = CODE + 9;

programs! {
    // Makes the call in rax as patched code does, the stub being at rbx, then reports everything.
    through_stub: "lea rcx, [rip + 2f]" "jmp rbx" "2: mov rdi, rax" "mov eax, 1000" "syscall" "ud2";
}

fn is_deep(context: &dyn Context) -> bool {
    matches!(behind(context).thread.state.lock().stand, Stand::Asking { place: Place::Deep, .. })
}

/// Waits as a worker does until something holds, reaping meanwhile.
fn wait_until(platform: &SeccompPlatform, mut holds: impl FnMut() -> bool) {
    let over = AtomicBool::new(false);
    let started = std::time::Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                platform.kick();
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        });
        let mut held = holds();
        while !held && started.elapsed().as_secs() < 20 {
            platform.wait().expect("alive");
            held = holds();
        }
        over.store(true, Ordering::SeqCst);
        assert!(held, "no progress");
    });
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Plainly,
    Ringing,
    FromItsOwnSite,
}

const WAYS: [Way; 3] = [Way::Plainly, Way::Ringing, Way::FromItsOwnSite];

/// A process of `size` threads in calls, made `way`, of which nobody knows the answer: its first, the others, and its
/// parent, which stands still. The call of the last of them has just arrived.
async fn crowd(
    platform: &SeccompPlatform,
    way: Way,
    size: usize,
) -> (Vec<Box<dyn Context>>, Box<dyn Context>) {
    let code = if way == Way::FromItsOwnSite { one_call() } else { through_stub() };
    let number = if way == Way::Ringing { FUTEX } else { PAUSE };
    let mut parent = program(platform, code).await;
    let base = Registers {
        rax: number,
        rbx: if way == Way::FromItsOwnSite { number } else { platform.core.labels.enter },
        rdi: 1,
        rsi: 2,
        rdx: 3,
        r10: 4,
        r8: 5,
        r9: 6,
        r12: 7,
        rbp: 8,
        ..*parent.registers().expect("captured")
    };
    *parent.registers().expect("captured") = base;
    let mut others = Vec::new();
    for _ in 0..size {
        let spawned = Spawn { kind: SpawnKind::Thread, registers: base, fs_base: None };
        let mut child = spawn(&mut parent, &spawned).await;
        let request = syscall(&mut child, Resume::Registers).await;
        assert_eq!((request.number, request.arguments), (number, [1, 2, 3, 4, 5, 6]));
        others.push(child);
    }
    let first = others.remove(0);
    others.push(parent);
    (others, first)
}

async fn report(context: &mut Box<dyn Context>, how: Resume) -> [u64; 6] {
    let request = syscall(context, how).await;
    assert_eq!(request.number, REPORT);
    request.arguments
}

#[test]
fn few_are_held_and_all_get_their_answers() {
    let (platform, _guard) = platform();
    for way in WAYS {
        block_on(platform, async {
            let (mut others, mut first) = crowd(platform, way, CROWD + 7).await;
            wait_until(platform, || is_deep(&*others[6]));
            // Those that have waited longest, and no others.
            let deep = others.iter().take_while(|other| is_deep(&***other)).count();
            assert_eq!((deep, is_deep(&*first)), (7, true), "{way:?}");
            assert!(others[7..].iter().all(|other| !is_deep(&**other)), "{way:?}");
            let others = others.iter_mut().take(CROWD + 6).rev();
            for (value, context) in (4000..).zip(std::iter::once(&mut first).chain(others)) {
                assert_eq!(report(context, Resume::Return(value)).await, [value, 2, 3, 4, 5, 6], "{way:?}");
                capture(context).await;
                let registers = context.registers().expect("captured");
                assert_eq!((registers.r12, registers.rbp, registers.rsp), (7, 8, STACK), "{way:?}");
            }
        });
    }
}

#[test]
fn a_deep_thread_is_captured_behind_its_call() {
    let (platform, _guard) = platform();
    for way in WAYS {
        block_on(platform, async {
            let (_others, mut first) = crowd(platform, way, CROWD).await;
            wait_until(platform, || is_deep(&*first));
            capture(&mut first).await;
            let registers = *first.registers().expect("captured");
            let (number, rip) = match way {
                Way::FromItsOwnSite => (PAUSE, CODE + 5),
                Way::Plainly => (PAUSE, BEHIND),
                Way::Ringing => (FUTEX, BEHIND),
            };
            assert_eq!((registers.rax, registers.rip), (number, rip), "{way:?}");
            let r = registers;
            assert_eq!([r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9], [1, 2, 3, 4, 5, 6], "{way:?}");
            assert_eq!((r.r12, r.rbp, r.rsp, r.rcx), (7, 8, STACK, rip), "{way:?}");
            first.registers().expect("captured").rsi = 99;
            assert_eq!(report(&mut first, Resume::Return(5)).await[..2], [5, 99]);
        });
    }
}

#[test]
fn a_thread_may_be_answered_or_captured_on_its_way_down() {
    let (platform, _guard) = platform();
    for way in WAYS {
        for captured in [false, true] {
            block_on(platform, async {
                let (_others, mut first) = crowd(platform, way, CROWD).await;
                platform.core.sink_waiting();
                assert!(!matches!(behind(&*first).thread.state.lock().stand, Stand::Syscall { .. }));
                if captured {
                    capture(&mut first).await;
                    assert_eq!(first.registers().expect("captured").rdi, 1);
                }
                assert_eq!(report(&mut first, Resume::Return(77)).await, [77, 2, 3, 4, 5, 6]);
            });
        }
    }
}

#[test]
fn an_interrupt_ends_the_run_after_the_deep_wait() {
    let (platform, _guard) = platform();
    for way in WAYS {
        for sink_first in [false, true] {
            block_on(platform, async {
                let (_others, mut first) = crowd(platform, way, CROWD).await;
                if sink_first {
                    wait_until(platform, || is_deep(&*first));
                } else {
                    platform.core.sink_waiting();
                }
                first.interrupter().interrupt();
                assert!(matches!(run(&mut first, Resume::Return(88)).await, Trap::Interrupted), "{way:?}");
                let registers = *first.registers().expect("captured");
                let rip = if way == Way::FromItsOwnSite { CODE + 5 } else { BEHIND };
                assert_eq!((registers.rax, registers.rip, registers.rsi), (88, rip, 2), "{way:?}");
                assert_eq!(report(&mut first, Resume::Registers).await, [88, 2, 3, 4, 5, 6]);
            });
        }
    }
}

#[test]
fn a_late_interrupt_finds_a_thread_asleep() {
    let (platform, _guard) = platform();
    for way in WAYS {
        block_on(platform, async {
            let (_others, mut first) = crowd(platform, way, CROWD).await;
            wait_until(platform, || is_deep(&*first));
            let thread = behind(&*first).thread.clone();
            // As if it had been sent while the thread still ran.
            thread.process.signal(thread.tid());
            wait_until(platform, || thread.state.lock().interrupted);
            assert!(is_deep(&*first));
            assert!(matches!(run(&mut first, Resume::Return(66)).await, Trap::Interrupted), "{way:?}");
            assert_eq!(report(&mut first, Resume::Registers).await, [66, 2, 3, 4, 5, 6]);
        });
    }
}

#[test]
fn threads_that_are_given_up_in_the_deep_leave_the_others_alone() {
    let (platform, _guard) = platform();
    for way in WAYS {
        block_on(platform, async {
            let (mut others, first) = crowd(platform, way, CROWD).await;
            wait_until(platform, || is_deep(&*first));
            let mut parent = others.pop().expect("the parent");
            let thread = behind(&*first).thread.clone();
            drop((first, others));
            wait_until(platform, || thread.process.thread_count() == 1);
            let request = syscall(&mut parent, Resume::Registers).await;
            assert_eq!(request.arguments, [1, 2, 3, 4, 5, 6]);
        });
    }
}

#[test]
fn a_thread_that_ends_its_own_wait_dies_with_its_next_call() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let (others, mut first) = crowd(platform, Way::FromItsOwnSite, CROWD).await;
        wait_until(platform, || is_deep(&*first));
        let slot = behind(&*first).thread.slot.clone();
        slot.set_state(STATE_IDLE);
        slot.wake();
        assert!(matches!(end_of(platform, &mut first), Trap::Died));
        drop(others);
    });
}

#[test]
fn only_the_wait_itself_is_not_asked_about() {
    let (platform, _guard) = platform();
    let ip = platform.core.labels.deep_ip;
    block_on(platform, async {
        for (operation, time_limit) in [
            (libc::FUTEX_WAKE, 0),
            (libc::FUTEX_WAIT, DATA),
            (libc::FUTEX_WAIT, 1 << 32),
            (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, 0),
            (libc::FUTEX_LOCK_PI, 0),
        ] {
            let mut context = program(platform, jump()).await;
            let registers = context.registers().expect("captured");
            (registers.rbx, registers.rax, registers.rdi) = (ip - 2, FUTEX, DATA);
            (registers.rsi, registers.rdx, registers.r10) =
                (u64::from(operation.cast_unsigned()), 0, time_limit);
            let request = syscall(&mut context, Resume::Registers).await;
            assert_eq!((request.number, request.ip), (FUTEX, ip));
        }
        // A wait that nobody has asked for: a thread that sleeps, and can be interrupted.
        let mut context = program(platform, jump()).await;
        let registers = context.registers().expect("captured");
        (registers.rbx, registers.rax, registers.rdi) = (ip - 2, FUTEX, DATA);
        (registers.rsi, registers.rdx, registers.r10) = (0, 0, 0);
        context.resume(Resume::Registers);
        let wchan = format!("/proc/{}/syscall", host_tid(&*context));
        let asleep = || std::fs::read_to_string(&wchan).is_ok_and(|call| call.starts_with("202 "));
        let started = std::time::Instant::now();
        while !asleep() {
            assert!(started.elapsed().as_secs() < 20, "it does not sleep");
            std::thread::yield_now();
        }
        context.interrupter().interrupt();
        assert!(matches!(trap(&mut context).await, Trap::Interrupted));
        // Another call there.
        let mut context = program(platform, jump()).await;
        let registers = context.registers().expect("captured");
        (registers.rbx, registers.rax) = (ip - 2, PAUSE);
        assert_eq!(syscall(&mut context, Resume::Registers).await.number, PAUSE);
    });
}

/// Waits for something that a thread does by itself.
fn until(mut holds: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !holds() {
        assert!(started.elapsed().as_secs() < 20, "it does not come");
        std::thread::yield_now();
    }
}

/// Brings a thread to where it lets others run until the answer to its request comes; or sleeps by now.
async fn yielding(platform: &SeccompPlatform, context: &mut Box<dyn Context>, asleep: bool) {
    let core = &platform.core;
    let thread = behind(&**context).thread.clone();
    let request = SyscallRequest {
        number: FUTEX,
        arguments: [1, 2, 3, 4, 5, 6],
        ip: core.labels.ring_ip,
        architecture: Architecture::X86_64,
        hot: false,
    };
    capture(context).await;
    let registers = context.registers().expect("captured");
    (registers.rip, registers.rbx) = (CODE, core.labels.yield_ip - 2);
    (registers.rax, registers.r8) = (libc::SYS_sched_yield.cast_unsigned(), ticks());
    thread.slot.leave_arguments(&request.arguments);
    thread.slot.set_word(SLOT_RETURN, BEHIND);
    thread.slot.set_state(STATE_YIELDING);
    context.resume(Resume::Registers);
    core.set_stand(&mut thread.state.lock(), Stand::Asking { request, place: Place::Deep });
    if asleep {
        until(|| thread.slot.state() == STATE_DEEP);
    }
}

#[test]
fn who_lets_others_run_gets_its_answer_awake_or_asleep() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut context = program(platform, through_stub()).await;
        for round in 0..200 {
            yielding(platform, &mut context, round % 2 == 1).await;
            // Also in the middle of its turns, and on its way to sleep.
            for _ in 0..round * 50 {
                std::hint::spin_loop();
            }
            assert_eq!(report(&mut context, Resume::Return(77)).await, [77, 2, 3, 4, 5, 6], "{round}");
        }
    });
}

#[test]
fn who_has_let_others_run_can_be_captured_and_interrupted() {
    let (platform, _guard) = platform();
    block_on(platform, async {
        let mut context = program(platform, through_stub()).await;
        for _ in 0..40 {
            yielding(platform, &mut context, true).await;
            capture(&mut context).await;
            let registers = *context.registers().expect("captured");
            assert_eq!((registers.rax, registers.rip, registers.rsi), (FUTEX, BEHIND, 2));
            assert_eq!(report(&mut context, Resume::Return(5)).await, [5, 2, 3, 4, 5, 6]);

            yielding(platform, &mut context, true).await;
            context.interrupter().interrupt();
            assert!(matches!(run(&mut context, Resume::Return(88)).await, Trap::Interrupted));
            assert_eq!(context.registers().expect("captured").rax, 88);
            assert_eq!(report(&mut context, Resume::Registers).await, [88, 2, 3, 4, 5, 6]);
        }
    });
}

#[test]
fn only_a_turn_of_others_is_not_asked_about_where_a_thread_lets_them_run() {
    let (platform, _guard) = platform();
    let ip = platform.core.labels.yield_ip;
    block_on(platform, async {
        for (number, is_asked) in
            [(libc::SYS_sched_yield.cast_unsigned(), false), (PAUSE, true), (FUTEX, true)]
        {
            let mut context = program(platform, through_stub()).await;
            let slot = &behind(&*context).thread.slot;
            slot.set_word(SLOT_RETURN, BEHIND);
            slot.set_word(SLOT_RESULT, 42);
            let registers = context.registers().expect("captured");
            (registers.rbx, registers.rax) = (ip - 2, number);
            let request = syscall(&mut context, Resume::Registers).await;
            if is_asked {
                assert_eq!((request.number, request.ip), (number, ip));
            } else {
                assert_eq!((request.number, request.arguments[0]), (REPORT, 42));
            }
        }
        // Elsewhere it is a call like others.
        let mut context = program(platform, one_call()).await;
        let yields = libc::SYS_sched_yield.cast_unsigned();
        context.registers().expect("captured").rbx = yields;
        assert_eq!(syscall(&mut context, Resume::Registers).await.number, yields);
    });
}

#[test]
fn the_mark_itself_can_be_returned() {
    let (platform, _guard) = platform();
    for way in WAYS {
        block_on(platform, async {
            let mut context = program(platform, through_stub()).await;
            let registers = context.registers().expect("captured");
            let number = if way == Way::Ringing { FUTEX } else { PAUSE };
            (registers.rax, registers.rbx) = (number, platform.core.labels.enter);
            (registers.rdi, registers.rsi) = (1, 2);
            syscall(&mut context, Resume::Registers).await;
            let reported = report(&mut context, Resume::Return(ANSWER_DEEP)).await;
            assert_eq!(reported[..2], [ANSWER_DEEP, 2], "{way:?}");
        });
    }
}
