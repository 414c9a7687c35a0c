//! Prints what a trapped `getpid`, a first touch of a page, a capture and a fork cost on the seccomp platform.
//!
//! `cargo run --release -p runsc-platform --example trap_cost [workers]`; medians in nanoseconds.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as WakeContext, Poll, Wake, Waker};
use std::time::Instant;

use platform::seccomp::{Options, SeccompPlatform};
use platform::{
    Context, MemoryOperation, NewSpace, Platform, Protection, Resume, Spawn, SpawnKind, SyscallRequest, Trap,
};

const CODE: u64 = 0x1000_0000;
const DATA: u64 = 0x3000_0000;
/// One page for each round of the touching program.
const TOUCHED: u64 = 16 << 20;

/// `1: mov eax, 39; syscall; jmp 1b`
const GETPID: [u8; 9] = [0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
/// `mov [rdi], rdi; add rdi, 4096; cmp rdi, rsi; jb 0; mov eax, 39; syscall`
const TOUCH: [u8; 22] = [
    0x48, 0x89, 0x3f, 0x48, 0x81, 0xc7, 0, 16, 0, 0, 0x48, 0x39, 0xf7, 0x72, 0xf1, 0xb8, 39, 0, 0, 0, 0x0f,
    0x05,
];

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

type Task = Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>;

/// Runs the future on this many workers: whoever receives its trap polls it.
fn run(platform: &SeccompPlatform, workers: usize, future: impl Future<Output = ()> + Send + 'static) {
    let flag = Arc::new(Flag(AtomicBool::new(true)));
    let task: Task = Mutex::new(Box::pin(future));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let waker = Waker::from(flag.clone());
                while !over.load(Ordering::SeqCst) {
                    if !flag.0.swap(false, Ordering::SeqCst) {
                        platform.wait().expect("the platform lives");
                        continue;
                    }
                    let mut future = task.lock().expect("no panic");
                    if let Poll::Ready(()) = future.as_mut().poll(&mut WakeContext::from_waker(&waker)) {
                        over.store(true, Ordering::SeqCst);
                        (0..workers).for_each(|_| platform.kick());
                    }
                }
                platform.kick();
            });
        }
    });
}

async fn program(platform: &SeccompPlatform, code: &[u8]) -> Box<dyn Context> {
    let mut request = NewSpace::default();
    let mut context = poll_fn(|wake| platform.poll_new_space(wake, &mut request)).await.expect("space");
    let protection = Protection { read: true, write: true, execute: true };
    let maps = [(CODE, 4096), (DATA, TOUCHED)].map(|(address, length)| MemoryOperation::MapAnonymous {
        address,
        length,
        protection,
        reserve: true,
    });
    poll_fn(|wake| context.poll_memory(wake, &maps)).await.expect("mapped");
    context.memory().write(CODE, code).expect("written");
    let registers = context.registers().expect("captured");
    (registers.rip, registers.rdi, registers.rsi) = (CODE, DATA, DATA + TOUCHED);
    context
}

async fn syscall(context: &mut Box<dyn Context>, how: Resume) -> SyscallRequest {
    context.resume(how);
    match poll_fn(|wake| context.poll_trap(wake)).await {
        Trap::Syscall(request) => request,
        other => panic!("{other:?}"),
    }
}

fn median(mut samples: Vec<u128>) -> u128 {
    samples.sort_unstable();
    samples[samples.len() / 2]
}

/// Median duration of a block. (A function taking async closures cannot promise that its future is `Send`.)
macro_rules! time {
    ($rounds:expr, $operation:block) => {{
        let mut samples = Vec::with_capacity($rounds);
        for _ in 0..$rounds {
            let start = Instant::now();
            $operation
            samples.push(start.elapsed().as_nanos());
        }
        median(samples)
    }};
}

fn main() {
    let started = Instant::now();
    let platform: &'static SeccompPlatform =
        Box::leak(Box::new(SeccompPlatform::new(Options::OFF).expect("platform")));
    println!("start               {:>8}", started.elapsed().as_nanos());
    let workers: usize = std::env::args().nth(1).map_or(1, |count| count.parse().expect("a number"));
    run(platform, workers, async move {
        let mut context = program(platform, &GETPID).await;
        syscall(&mut context, Resume::Registers).await;
        let trap = time!(50_000, {
            syscall(&mut context, Resume::Return(1)).await;
        });
        println!("getpid trap         {trap:>8}");
        let capture = time!(10_000, {
            poll_fn(|wake| context.poll_capture(wake)).await.expect("alive");
            syscall(&mut context, Resume::Registers).await;
        });
        println!("getpid with capture {capture:>8}");
        let memory = context.memory();
        let read = time!(10_000, {
            let mut word = [0; 16];
            memory.read(CODE, &mut word).expect("mapped");
        });
        println!("read 16 bytes       {read:>8}");
        poll_fn(|wake| context.poll_capture(wake)).await.expect("alive");
        let registers = *context.registers().expect("captured");
        let fork = time!(1000, {
            let spawn = Spawn { kind: SpawnKind::Copy, registers, fs_base: None };
            drop(poll_fn(|wake| context.poll_spawn(wake, &spawn)).await.expect("child"));
            platform.reap();
        });
        println!("fork                {fork:>8}");
        let space = time!(1000, {
            let mut request = NewSpace::default();
            drop(poll_fn(|wake| platform.poll_new_space(wake, &mut request)).await.expect("space"));
            platform.reap();
        });
        println!("new space           {space:>8}");
        let map = time!(1000, {
            let map = MemoryOperation::MapAnonymous {
                address: 0x5000_0000,
                length: 4096,
                protection: Protection { read: true, write: true, execute: false },
                reserve: true,
            };
            poll_fn(|wake| context.poll_memory(wake, std::slice::from_ref(&map))).await.expect("mapped");
        });
        println!("map while captured  {map:>8}");
        let mut touches = Vec::new();
        for _ in 0..10 {
            let mut context = program(platform, &TOUCH).await;
            let start = Instant::now();
            syscall(&mut context, Resume::Registers).await;
            touches.push(start.elapsed().as_nanos() / u128::from(TOUCHED / 4096));
        }
        println!("touch of a page     {:>8}", median(touches));
        let mut buffer = vec![0u8; TOUCHED as usize];
        let start = Instant::now();
        buffer.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        println!("touch natively      {:>8}", start.elapsed().as_nanos() / u128::from(TOUCHED / 4096));
    });
}
