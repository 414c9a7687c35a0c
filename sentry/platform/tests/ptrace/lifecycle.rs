//! Beginnings, ends, waiting, and the rules for the host.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context as WakeContext, Waker};

use abi::errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use platform::ptrace::PtracePlatform;
use platform::{Died, Platform, Resume, Trap};

use super::bench::*;

#[test]
fn only_the_worker_may_wait() {
    let bench = Arc::new(Bench::new());
    bench.space();
    let other = Arc::clone(&bench);
    assert_eq!(std::thread::spawn(move || other.platform.wait()).join().unwrap(), Err(errno::EPERM));
}

#[test]
fn the_seed_goes_when_the_platform_goes_unused() {
    let before = children();
    drop(PtracePlatform::new().unwrap());
    assert!(children().is_subset(&before), "no child is left of this thread");
}

fn children() -> std::collections::BTreeSet<String> {
    let path = format!("/proc/self/task/{}/children", nix::unistd::gettid());
    std::fs::read_to_string(path).unwrap().split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a_kick_ends_a_wait_now_or_later() {
    const KICKS: usize = 2000;
    let bench = Arc::new(Bench::new());
    bench.space();
    bench.platform.kick();
    bench.platform.wait().unwrap();
    // Each wait is matched by a kick that may come before, during or after its start.
    let (sender, receiver) = std::sync::mpsc::sync_channel(0);
    let kicker = {
        let bench = Arc::clone(&bench);
        std::thread::spawn(move || {
            while receiver.recv().is_ok() {
                bench.platform.kick()
            }
        })
    };
    for _ in 0..KICKS {
        sender.send(()).unwrap();
        bench.platform.wait().unwrap();
    }
    drop(sender);
    kicker.join().unwrap();
}

#[test]
fn wakers_are_woken_by_traps() {
    struct Flag(AtomicBool);
    impl std::task::Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, SeqCst);
        }
    }
    let bench = Bench::new();
    let mut context = bench.start(spin(), |_| ());
    let flag = Arc::new(Flag(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&flag));
    assert!(context.poll_trap(&mut WakeContext::from_waker(&waker)).is_pending());
    context.interrupter().interrupt();
    while !flag.0.load(SeqCst) {
        bench.platform.wait().unwrap();
    }
    assert!(context.poll_trap(&mut WakeContext::from_waker(&waker)).is_ready());
}
#[test]
fn killing_reaches_held_and_running_threads() {
    let bench = Bench::new();
    let mut running = bench.start(spin(), |_| ());
    running.kill();
    assert!(matches!(bench.trap(&mut *running), Trap::Died));
    let mut held = bench.start(ask_and_tell(), |_| ());
    bench.syscall(&mut *held);
    held.kill();
    assert!(matches!(bench.trap(&mut *held), Trap::Died));
    assert_eq!(bench.finish(|wake| held.poll_capture(wake)), Err(Died));
    held.resume(Resume::Return(0));
    held.interrupter().interrupt();
    assert!(matches!(bench.trap(&mut *held), Trap::Died));
}

#[test]
fn a_dropped_context_ends_its_thread() {
    let bench = Bench::new();
    for program in [spin(), ask_and_tell()] {
        let context = bench.start(program, |_| ());
        let memory = context.memory();
        drop(context);
        // The host process goes away once the worker has seen to it.
        while memory.read(CODE, &mut [0]).is_ok() {
            bench.platform.wait().unwrap();
        }
    }
    let mut held = bench.start(ask_and_tell(), |_| ());
    bench.syscall(&mut *held);
    let memory = held.memory();
    std::thread::spawn(move || drop(held)).join().unwrap();
    while memory.read(CODE, &mut [0]).is_ok() {
        bench.platform.wait().unwrap();
    }
}

#[test]
fn the_platform_may_be_made_on_a_thread_that_ends() {
    let bench = std::thread::spawn(Bench::new).join().unwrap();
    let mut context = bench.start(ask_and_tell(), |_| ());
    assert_eq!(bench.syscall(&mut *context).number, 1000);
}

/// The sentry of [`stubs_end_with_the_sentry`]: one attached platform with a running application, and one unused.
#[test]
#[ignore = "a part of another test, which kills it"]
fn sentry_to_be_killed() {
    let bench = Bench::new();
    let mut parent = bench.start(ask_and_tell(), |_| ());
    bench.syscall(&mut *parent);
    let registers = bench.capture(&mut *parent);
    for kind in [platform::SpawnKind::Copy, platform::SpawnKind::SharedSpace, platform::SpawnKind::Thread] {
        let mut child = bench.spawn(&mut *parent, &platform::Spawn { kind, registers, fs_base: None });
        child.registers().unwrap().rip = CODE;
        std::mem::forget(child);
    }
    let _running = bench.start(spin(), |_| ());
    let _unused = PtracePlatform::new().unwrap();
    println!("\nready");
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn stubs_end_with_the_sentry() {
    // Two seeds, the parent, its copy and its sharer, the running one.
    const PROCESSES: usize = 6;
    let mut sentry = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lifecycle::sentry_to_be_killed", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(sentry.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "ready"));
    let process = i32::try_from(sentry.id()).unwrap();
    let stubs: Vec<_> = children_of(process).iter().map(|pid| open_process(pid.parse().unwrap())).collect();
    assert_eq!(stubs.len(), PROCESSES);
    kill(Pid::from_raw(process), Signal::SIGKILL).unwrap();
    sentry.wait().unwrap();
    for stub in stubs {
        use std::os::fd::AsFd;
        let mut fds = [nix::poll::PollFd::new(stub.as_fd(), nix::poll::PollFlags::POLLIN)];
        assert_eq!(nix::poll::poll(&mut fds, 20_000u16), Ok(1), "a stub outlives the sentry");
    }
}

fn children_of(process: i32) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    threads
        .flat_map(|thread| {
            let text = std::fs::read_to_string(thread.unwrap().path().join("children")).unwrap();
            text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

/// A descriptor that becomes readable when the process ends.
fn open_process(pid: i32) -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: two plain integers; the result is checked before it is owned.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: a descriptor just made that nobody else has.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) }
}

#[test]
fn kicks_and_interrupts_at_any_moment_disturb_nothing() {
    const ROUNDS: u64 = 300;
    let bench = Arc::new(Bench::new());
    let mut context = bench.start(ask_and_tell(), |_| ());
    let stop = Arc::new(AtomicBool::new(false));
    let disturber = {
        let (bench, stop, interrupter) = (Arc::clone(&bench), Arc::clone(&stop), context.interrupter());
        std::thread::spawn(move || {
            while !stop.load(SeqCst) {
                bench.platform.kick();
                interrupter.interrupt();
            }
        })
    };
    let next = |context: &mut dyn platform::Context| loop {
        match bench.trap(context) {
            Trap::Interrupted => context.resume(Resume::Registers),
            Trap::Syscall(request) => return request,
            other => panic!("{other:?}"),
        }
    };
    let operation =
        platform::MemoryOperation::Protect { address: DATA, length: PAGE, protection: READ_WRITE };
    for round in 0..ROUNDS {
        assert_eq!(next(&mut *context).number, 1000);
        bench.memory(&mut *context, std::slice::from_ref(&operation)).unwrap();
        if round % 10 == 0 {
            // fork is what a signal makes the host restart.
            let registers = *context.registers().unwrap();
            let spawn = platform::Spawn { kind: platform::SpawnKind::Copy, registers, fs_base: None };
            let mut child = bench.spawn(&mut *context, &spawn);
            child.registers().unwrap().rax = round;
            child.resume(Resume::Registers);
            assert_eq!(bench.told(&mut *child), round);
        }
        context.resume(Resume::Return(round));
        let request = next(&mut *context);
        assert_eq!((request.number, request.arguments[0]), (1001, round));
        context.resume(Resume::Return(0));
    }
    stop.store(true, SeqCst);
    disturber.join().unwrap();
}
