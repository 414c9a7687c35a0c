//! Several workers that take each other's contexts.

use std::collections::VecDeque;

use super::*;

type Life = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// A future that any worker may poll, queued when it is woken; `None` when it has ended, for it may be woken once more by then.
struct Job {
    future: Mutex<Option<Life>>,
    queue: Arc<Mutex<VecDeque<Arc<Job>>>>,
}

impl Wake for Job {
    fn wake(self: Arc<Self>) {
        let queue = self.queue.clone();
        queue.lock().push_back(self);
    }
}

/// A life with everything in it: calls, captures, mappings, interrupts, children.
async fn busy_life(platform: &'static SeccompPlatform, seed: u64) {
    let mut context = program(platform, getpid_forever()).await;
    let interrupter = context.interrupter();
    let mut how = Resume::Registers;
    for round in seed..seed + 300 {
        if round % 7 == 0 {
            interrupter.interrupt();
        }
        let trap = run(&mut context, how).await;
        how = match trap {
            Trap::Syscall(request) => {
                assert_eq!(request.number, 39);
                Resume::Return(round)
            }
            Trap::Interrupted => Resume::Registers,
            other => panic!("{other:?}"),
        };
        let address = 0x5000_0000 + (round % 16) * 0x1000;
        match round % 11 {
            0 => {
                capture(&mut context).await;
                assert_eq!(context.registers().expect("captured").rsp, STACK);
            }
            1 => memory(&mut context, &[anonymous(address, 0x1000)]).await.expect("mapped"),
            2 => {
                capture(&mut context).await;
                let registers = *context.registers().expect("captured");
                let kinds = [SpawnKind::Thread, SpawnKind::Copy, SpawnKind::SharedSpace];
                let kind = kinds[(round / 11 % 3) as usize];
                let mut child = spawn(&mut context, &Spawn { kind, registers, fs_base: None }).await;
                for _ in 0..5 {
                    let captured = child.registers().is_some();
                    run(&mut child, if captured { Resume::Registers } else { Resume::Return(1) }).await;
                }
            }
            _ => {}
        }
    }
}

#[test]
fn several_workers_share_all_contexts() {
    let (platform, _guard) = platform();
    let queue = Arc::new(Mutex::new(VecDeque::new()));
    let left = std::sync::atomic::AtomicUsize::new(12);
    for seed in 0..12 {
        let future: Life = Box::pin(busy_life(platform, seed));
        let job = Arc::new(Job { future: Mutex::new(Some(future)), queue: queue.clone() });
        queue.lock().push_back(job);
    }
    let started = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while left.load(Ordering::SeqCst) > 0 {
                    assert!(started.elapsed().as_secs() < 60, "no progress");
                    let job = queue.lock().pop_front();
                    let Some(job) = job else {
                        platform.wait().expect("alive");
                        continue;
                    };
                    let waker = Waker::from(job.clone());
                    let mut future = job.future.lock();
                    let mut context = WakeContext::from_waker(&waker);
                    if future.as_mut().is_some_and(|life| life.as_mut().poll(&mut context).is_ready()) {
                        *future = None;
                        left.fetch_sub(1, Ordering::SeqCst);
                    }
                    platform.reap();
                }
                platform.kick();
            });
        }
    });
}
