//! The sentry's threads, and the queue of futures that are ready to go on.
//!
//! There is about one *worker* per processor. A worker blocks in [`Platform::wait`], which wakes the
//! futures whose traps arrived, and then polls every future that is ready. A future that becomes
//! ready on any of the sentry's own threads is polled by that very thread as soon as it has
//! finished what it is doing: no other core is woken for it. Platforms whose contexts belong to
//! one thread ([`Affinity::Worker`]) have a single worker, to which all others hand over.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use abi::errno::Errno;
use async_task::Runnable;
use parking_lot::Mutex;
use platform::{Affinity, Platform};

thread_local! {
    /// Ready futures of this thread; `None` on threads that do not poll futures.
    static LOCAL: RefCell<Option<VecDeque<Runnable>>> = const { RefCell::new(None) };
}

/// Queues and threads. See the module's text.
pub struct Executor {
    platform: Arc<dyn Platform>,
    /// Ready futures that no polling thread has taken yet.
    injected: Mutex<VecDeque<Runnable>>,
    /// How many those are, so that a look need not lock: a worker that is kicked for one comes by after the count.
    injected_count: AtomicUsize,
    stopping: AtomicBool,
}

/// Stack of a worker thread, in bytes: system calls run on it, none of them recursive without bound.
const WORKER_STACK: usize = 512 << 10;

impl Executor {
    /// An executor without threads.
    pub fn new(platform: Arc<dyn Platform>) -> Arc<Self> {
        Arc::new(Self {
            platform,
            injected: Mutex::default(),
            injected_count: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        })
    }

    /// Starts a future. Its result is dropped; it ends when it is done.
    pub fn spawn(self: &Arc<Self>, future: impl Future<Output = ()> + Send + 'static) {
        let executor = Arc::clone(self);
        let (runnable, task) = async_task::spawn(future, move |runnable| executor.schedule(runnable));
        task.detach();
        runnable.schedule();
    }

    fn schedule(&self, runnable: Runnable) {
        let left = LOCAL.with_borrow_mut(|local| match local {
            Some(queue) => {
                queue.push_back(runnable);
                None
            }
            None => Some(runnable),
        });
        if let Some(runnable) = left {
            {
                let mut injected = self.injected.lock();
                injected.push_back(runnable);
                self.injected_count.store(injected.len(), Ordering::SeqCst);
            }
            self.platform.kick();
        }
    }

    /// Makes the calling thread one that polls futures, if the platform's contexts may be used on it.
    /// Otherwise whatever it wakes goes to the worker.
    pub fn adopt_thread(&self) {
        if self.platform.affinity() == Affinity::Any {
            LOCAL.with_borrow_mut(|local| *local = Some(VecDeque::new()));
        }
    }

    /// Polls what is ready until nothing is. To be called by adopted threads after each unit of work.
    pub fn drain(&self) {
        loop {
            let next = LOCAL.with_borrow_mut(|local| local.as_mut().map(VecDeque::pop_front));
            match next {
                None => return,
                Some(Some(runnable)) => {
                    self.run(runnable);
                }
                Some(None) => {
                    let Some(runnable) = self.take_injected() else { return };
                    self.run(runnable);
                }
            }
        }
    }

    fn run(&self, runnable: Runnable) {
        crate::vfs::begin_moment();
        runnable.run();
        // After the poll and not within: the host may let an application thread run in place of this one at once, and whatever
        // that wants next must not find its future still being polled.
        self.platform.send_answers();
    }

    fn take_injected(&self) -> Option<Runnable> {
        // The count is stored before the kick, and a kicked worker looks after its wait: it sees it.
        if self.injected_count.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut injected = self.injected.lock();
        let runnable = injected.pop_front();
        self.injected_count.store(injected.len(), Ordering::SeqCst);
        runnable
    }

    /// Ends the worker loops at their next turn.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.platform.kick();
    }

    /// Starts the worker threads. `failed` is called when the platform cannot go on.
    ///
    /// # Errors
    /// The host refuses threads.
    pub fn start_workers(
        self: &Arc<Self>,
        failed: impl Fn(Errno) + Send + Clone + 'static,
    ) -> Result<(), Errno> {
        let count = match self.platform.affinity() {
            Affinity::Worker => 1,
            Affinity::Any => std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 16),
        };
        if self.platform.spins() {
            let executor = Arc::clone(self);
            std::thread::Builder::new()
                .name("spinner".to_owned())
                .stack_size(WORKER_STACK)
                .spawn(move || executor.look_out())?;
        }
        for number in 0..count {
            let executor = Arc::clone(self);
            let failed = failed.clone();
            std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .stack_size(WORKER_STACK)
                .spawn(move || executor.work(failed))?;
        }
        Ok(())
    }

    /// The life of the thread that looks out for requests which nobody is told of.
    fn look_out(&self) {
        LOCAL.with_borrow_mut(|local| *local = Some(VecDeque::new()));
        while !self.stopping.load(Ordering::Acquire) {
            self.drain();
            self.platform.spin();
        }
    }

    fn work(&self, failed: impl Fn(Errno)) {
        LOCAL.with_borrow_mut(|local| *local = Some(VecDeque::new()));
        while !self.stopping.load(Ordering::Acquire) {
            self.drain();
            if let Err(errno) = self.platform.wait() {
                if !self.stopping.load(Ordering::Acquire) {
                    failed(errno);
                }
                return;
            }
        }
    }
}
