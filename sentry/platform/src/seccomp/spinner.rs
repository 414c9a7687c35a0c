//! The thread that looks at slots, so that a request there costs no call of the host at all.
//!
//! It looks only while it pays: at threads that ring again within microseconds, as long as a processor is left over for it.
//! It stops as soon as the threads that want to run would fill all processors, when it finds that it
//! was kept from running itself, and when no request came for a while. Then it sleeps, and costs nothing.
//!
//! Key types: [`Spinner`], [`Heat`] (how often a thread rings). Neighbours: `request` takes and answers.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Core;
use super::carried;
use super::thread::{State, Thread};
use crate::stub::{STATE_IDLE, STATE_REQUEST, STATE_TAKEN, STATE_WATCHED};

/// Without a request for so long, it goes to sleep: some ten times what ringing costs.
const IDLE_LIMIT: Duration = Duration::from_micros(60);
/// If so much time passes between two looks, somebody else had the processor.
const PREEMPTED: Duration = Duration::from_micros(400);
/// How long it does not look after it has looked in vain, or was kept from looking; doubled each time.
const COOL_DOWN: Duration = Duration::from_micros(500);
/// Requests that make looking worthwhile.
const WORTHWHILE: u32 = 8;
/// Doublings at most.
const COOLER: u32 = 5;
/// Doublings at most of the quick rings that make a thread worth looking at.
const MOST_COOLER: u32 = 8;
/// Looks between two looks at the clock.
const LOOKS: u32 = 64;
/// Most threads it looks at.
const MOST_WATCHED: usize = 8;
/// Processor ticks between an answer and the next ring that count as quick: 10 to 20 µs.
const QUICK: u64 = 40_000;
/// Quick rings in a row that make a thread worth looking at.
const HOT: u32 = 6;

/// The spinner's state.
#[derive(Debug)]
pub struct Spinner {
    enabled: bool,
    processors: usize,
    allowed: libc::cpu_set_t,
    /// Threads that want a processor.
    busy: AtomicUsize,
    /// There is something in `wanted`, or it is to return.
    called: AtomicBool,
    wanted: Mutex<Vec<Arc<Thread>>>,
    watched: Mutex<Vec<Arc<Thread>>>,
    thread: OnceLock<std::thread::Thread>,
    rest: Mutex<Rest>,
    /// Its host thread id.
    tid: AtomicI32,
    /// The processor it is kept away from: where the thread runs, as far as is known.
    away_from: AtomicI32,
    /// Requests taken since it began to look.
    taken: AtomicU32,
}

/// When it may look again.
#[derive(Debug, Default)]
struct Rest {
    until: Option<Instant>,
    /// Times in a row that it has looked in vain.
    in_vain: u32,
}

/// How quickly a thread rings again.
#[derive(Debug, Default)]
pub struct Heat {
    resumed_at: u64,
    quick: u32,
    /// Requests taken since one had to wait.
    taken: u32,
    /// How often that came too soon: doublings of the quick rings that it takes.
    cooler: u32,
}

/// The processors that this process may use.
fn allowed_processors() -> libc::cpu_set_t {
    // SAFETY: all-zero is a valid set, and the call fills it; if it fails, the set stays empty, which nothing accepts.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set);
        set
    }
}

/// The processor that the calling thread is on.
fn processor() -> i32 {
    // SAFETY: the call has no preconditions.
    unsafe { libc::sched_getcpu() }
}

/// What the processor's clock shows.
pub fn ticks() -> u64 {
    // SAFETY: the instruction has no preconditions.
    unsafe { core::arch::x86_64::_rdtsc() }
}

impl Heat {
    /// The thread goes on.
    pub fn resumed(&mut self) {
        self.resumed_at = ticks();
    }

    /// The thread rings. Returns whether it has become worth looking at.
    pub fn rang(&mut self) -> bool {
        if ticks().wrapping_sub(self.resumed_at) > QUICK {
            self.quick = 0;
            return false;
        }
        self.quick += 1;
        let hot = self.quick >= HOT << self.cooler;
        if hot {
            self.quick = 0;
        }
        hot
    }

    /// A request of the thread was taken.
    pub fn taken(&mut self) {
        self.taken = self.taken.saturating_add(1);
    }

    /// A request of the thread has to wait for something. Threads that hand over to each other do nothing else.
    pub fn waits(&mut self) {
        self.cooler =
            if self.taken < WORTHWHILE { MOST_COOLER.min(self.cooler + 1) } else { self.cooler / 2 };
        self.taken = 0;
    }
}

impl Spinner {
    /// `enabled` false: it never looks.
    pub fn new(enabled: bool) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            enabled: enabled && processors > 1,
            processors,
            allowed: allowed_processors(),
            busy: AtomicUsize::new(0),
            called: AtomicBool::new(false),
            wanted: Mutex::default(),
            watched: Mutex::default(),
            thread: OnceLock::new(),
            rest: Mutex::default(),
            tid: AtomicI32::new(0),
            away_from: AtomicI32::new(-1),
            taken: AtomicU32::new(0),
        }
    }

    /// Whether it may ever look.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// One thread more, or fewer, wants a processor.
    pub fn count_busy(&self, more: bool) {
        if more {
            self.busy.fetch_add(1, Ordering::Relaxed);
        } else {
            self.busy.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn has_processor(&self) -> bool {
        self.busy.load(Ordering::Relaxed) < self.processors
    }

    /// Asks it to look at a thread that rings often, if it can.
    pub fn call_for(&self, thread: &Arc<Thread>, state: &State) {
        if !self.enabled || state.watched || !self.has_processor() || self.thread.get().is_none() {
            return;
        }
        {
            let mut rest = self.rest.lock();
            match rest.until {
                Some(until) if Instant::now() < until => return,
                _ => rest.until = None,
            }
        }
        let mut wanted = self.wanted.lock();
        if wanted.len() < MOST_WATCHED && !wanted.iter().any(|other| Arc::ptr_eq(other, thread)) {
            wanted.push(thread.clone());
            drop(wanted);
            if self.away_from.load(Ordering::Relaxed) < 0 {
                self.keep_away(processor());
            }
            self.wake();
        }
    }

    /// Lets it run on all processors but this one. The host would often wake it right where the thread runs that
    /// it is to look at, and it would be in that thread's way.
    fn keep_away(&self, processor: i32) {
        if self.away_from.swap(processor, Ordering::Relaxed) == processor {
            return;
        }
        let mut set = self.allowed;
        let known = (0..libc::CPU_SETSIZE).contains(&processor);
        if let Some(processor) = usize::try_from(processor).ok().filter(|_| known) {
            // SAFETY: the set is a plain value, and the number lies in it.
            unsafe { libc::CPU_CLR(processor, &mut set) };
        }
        let tid = self.tid.load(Ordering::Relaxed);
        // SAFETY: the set is readable and as long as said. If the host refuses, it just runs anywhere.
        unsafe { libc::sched_setaffinity(tid, size_of::<libc::cpu_set_t>(), &raw const set) };
    }

    /// It has looked in vain, or has taken requests.
    fn book(&self, in_vain: bool) {
        let mut rest = self.rest.lock();
        if in_vain {
            rest.until = Some(Instant::now() + COOL_DOWN * (1 << rest.in_vain.min(COOLER)));
            rest.in_vain = rest.in_vain.saturating_add(1);
        } else {
            *rest = Rest::default();
        }
    }

    /// Makes it return from [`Core::spin`], if it looks or sleeps.
    pub fn interrupt(&self) {
        if self.enabled {
            self.wake();
        }
    }

    fn wake(&self) {
        self.called.store(true, Ordering::Release);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

impl Core {
    /// Looks at slots until a request was taken (then its future is woken), or there is nothing to look at.
    pub fn spin(&self) {
        let spinner = &self.spinner;
        spinner.thread.get_or_init(|| {
            // SAFETY: the call has no preconditions.
            spinner.tid.store(unsafe { libc::gettid() }, Ordering::Relaxed);
            std::thread::current()
        });
        carried::next_turn();
        let mut watched = spinner.watched.lock();
        // A thread that waits for something is not worth looking at: it will be woken where its waker is, and be in the
        // spinner's way there.
        let before = watched.len();
        watched.retain(|thread| thread.slot.state() != STATE_TAKEN || !self.let_park(thread));
        if watched.is_empty() && before > 0 {
            spinner.book(spinner.taken.swap(0, Ordering::Relaxed) < WORTHWHILE);
        }
        if watched.is_empty() && !spinner.called.load(Ordering::Acquire) {
            std::thread::park();
        }
        if spinner.called.swap(false, Ordering::AcqRel) {
            self.watch_wanted(&mut watched);
        }
        self.look(&mut watched);
    }

    fn watch_wanted(&self, watched: &mut Vec<Arc<Thread>>) {
        let wanted = std::mem::take(&mut *self.spinner.wanted.lock());
        for thread in wanted {
            if watched.len() == MOST_WATCHED {
                return;
            }
            let mut state = thread.state.lock();
            if !state.watched {
                state.watched = true;
                let _ = thread.slot.change_state(STATE_IDLE, STATE_WATCHED);
                drop(state);
                watched.push(thread);
            }
        }
    }

    /// Looks until a request was taken, or it does not pay any more.
    fn look(&self, watched: &mut Vec<Arc<Thread>>) {
        let mut checked = Instant::now();
        let started = checked;
        while !watched.is_empty() {
            for _ in 0..LOOKS {
                for thread in &*watched {
                    if thread.slot.state() == STATE_REQUEST && self.take(thread) {
                        return;
                    }
                }
                if self.spinner.called.load(Ordering::Relaxed) || !self.spinner.has_processor() {
                    break;
                }
                std::hint::spin_loop();
            }
            let now = Instant::now();
            let preempted = now - checked > PREEMPTED;
            if preempted {
                self.spinner.taken.store(0, Ordering::Relaxed);
            }
            if preempted || now - started > IDLE_LIMIT || !self.spinner.has_processor() {
                self.unwatch(watched);
                return;
            }
            if self.spinner.called.load(Ordering::Relaxed) {
                return;
            }
            checked = now;
        }
    }

    /// Stops looking. What has been asked meanwhile is taken.
    fn unwatch(&self, watched: &mut Vec<Arc<Thread>>) {
        let taken = self.spinner.taken.swap(0, Ordering::Relaxed);
        self.spinner.book(taken < WORTHWHILE);
        if taken == 0 {
            // The thread has been moved to this very processor, then, and waits for it.
            self.spinner.keep_away(processor());
        }
        for thread in watched.drain(..) {
            thread.state.lock().watched = false;
            if thread.slot.change_state(STATE_WATCHED, STATE_IDLE) == Err(STATE_REQUEST) {
                self.take(&thread);
            }
        }
    }

    fn take(&self, thread: &Arc<Thread>) -> bool {
        let after = self.take_request(thread, &mut thread.state.lock());
        match after {
            Some(after) => {
                self.spinner.taken.fetch_add(1, Ordering::Relaxed);
                self.finish(thread, after);
                true
            }
            None => false,
        }
    }
}
