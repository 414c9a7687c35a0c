//! The thread that looks at slots, so that a request there costs no call of the host at all.
//!
//! It looks only while it pays: at threads that ring again within microseconds, as long as a processor is left over for it.
//! It stops as soon as the threads that it does not look at would fill the other processors, when it finds that it
//! was kept from running itself, and when no request came for a while. Then it sleeps, and costs nothing.
//!
//! Threads that it looks at want no processor each: they wait for it most of the time. Several, a *crowd*, share the processors
//! that are not its own (`seats`): even where that leaves them a single one, a call through the slot takes a
//! tenth of the time that ringing takes. One whose call has to wait lets the others run at once, and sleeps in its slot after a while (`deep`), without a call of the host that somebody would have to
//! receive; so two that hand over to each other cost two switches between them, and nobody has to wake either.
//!
//! Key types: [`Spinner`], [`Watch`]. Neighbours: `heat` says who is worth it, `request` takes and answers.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Core;
use super::carried;
use super::heat::{Rest, Rush, WORTHWHILE, ticks};
use super::seats::{Seats, processor};
use super::thread::{Place, Stand, State, Thread};
use crate::stub::{STATE_IDLE, STATE_REQUEST, STATE_TAKEN, STATE_WATCHED};

/// Without a request for so long, it goes to sleep: to be called again takes several rings, of some 10 µs each.
const IDLE_LIMIT: Duration = Duration::from_micros(150);
/// The same for a crowd, which has to switch and to wake.
const CROWD_IDLE_LIMIT: Duration = Duration::from_micros(300);
/// If so much time passes between two looks, somebody else had the processor.
const PREEMPTED: Duration = Duration::from_micros(400);
/// Doublings at most of the pause after it has looked in vain, or was kept from looking.
const COOLER: u32 = 5;
/// The same of the pause after a crowd.
const CROWD_COOLER: u32 = 7;
/// Looks between two looks at the clock.
const LOOKS: u32 = 64;
/// Slots in one look.
const GLANCE: usize = 8;
/// Most threads it looks at that were hot one by one.
const MOST_WATCHED: usize = 8;
/// Most threads of a crowd.
const MOST_CROWD: usize = 128;
/// How often a crowd is judged, in processor ticks: about each millisecond.
const PASS: u64 = 2_500_000;
/// A crowd that pays for so many ticks is called again at the next opportunity.
const LASTS: u64 = 10 * PASS;

/// The spinner's state.
#[derive(Debug)]
pub struct Spinner {
    enabled: bool,
    processors: usize,
    pub(super) seats: Seats,
    /// Threads that want a processor and are not looked at.
    busy: AtomicI64,
    /// There is something in `wanted`, a crowd is called, or it is to return.
    called: AtomicBool,
    crowd_called: AtomicBool,
    wanted: Mutex<Vec<Arc<Thread>>>,
    watch: Mutex<Watch>,
    thread: OnceLock<std::thread::Thread>,
    rest: Mutex<Rest>,
    rush: Mutex<Rush>,
    crowd_rest: Mutex<Rest>,
    /// Its host thread id.
    tid: AtomicI32,
    /// The processor it is kept away from, and one: where the thread runs, as far as is known.
    away_from: AtomicUsize,
    /// Requests taken since it began to look.
    taken: AtomicU32,
}

/// Whom it looks at. Only its own thread does anything with it.
#[derive(Debug, Default)]
struct Watch {
    threads: Vec<Watched>,
    /// Where the look goes on.
    at: usize,
    /// Whose request was taken last.
    last: usize,
    crowd: Option<Crowd>,
}

#[derive(Debug)]
struct Watched {
    thread: Arc<Thread>,
    /// It was asleep at the last pass, and no request of it was taken since.
    still: bool,
}

/// A crowd that is looked at. Times are processor ticks.
#[derive(Debug)]
struct Crowd {
    /// The spinner's processor meanwhile.
    processor: usize,
    /// What a request took when its threads rang: if it takes longer now, they compute, and do so faster side by side.
    allowance: u64,
    since: u64,
    passed: u64,
    /// Requests taken until the last pass.
    taken: u32,
}

/// Why it stops looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    NoRequest,
    NoProcessor,
    Preempted,
    TooSlow,
}

impl Spinner {
    /// `enabled` false: it never looks.
    pub fn new(enabled: bool) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            enabled: enabled && processors > 1,
            processors,
            seats: Seats::new(),
            busy: AtomicI64::new(0),
            called: AtomicBool::new(false),
            crowd_called: AtomicBool::new(false),
            wanted: Mutex::default(),
            watch: Mutex::default(),
            thread: OnceLock::new(),
            rest: Mutex::default(),
            rush: Mutex::default(),
            crowd_rest: Mutex::default(),
            tid: AtomicI32::new(0),
            away_from: AtomicUsize::new(0),
            taken: AtomicU32::new(0),
        }
    }

    /// Whether it may ever look.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// One thread more, or fewer, that is not looked at wants a processor.
    pub fn count_busy(&self, more: bool) {
        self.busy.fetch_add(if more { 1 } else { -1 }, Ordering::Relaxed);
    }

    /// Whether a processor is left over, beside so many that are wanted by those it looks at.
    fn has_processor(&self, watched: usize) -> bool {
        let busy = usize::try_from(self.busy.load(Ordering::Relaxed)).unwrap_or(0);
        busy + watched < self.processors
    }

    /// Whether one might be left over if so many threads were looked at that are not.
    fn has_processor_without(&self, threads: usize) -> bool {
        let busy = usize::try_from(self.busy.load(Ordering::Relaxed)).unwrap_or(0);
        busy.saturating_sub(threads) + 1 < self.processors
    }

    /// A thread rings. If it does so often, the spinner is asked to look at it, if it can.
    pub fn rang(&self, thread: &Arc<Thread>, state: &mut State) {
        let hot = state.heat.rang();
        if !self.enabled || state.watched || self.thread.get().is_none() {
            return;
        }
        let rush = self.rush.lock().rang(thread, state);
        // Those who ring are counted themselves, except where they wait just now.
        if rush.is_some_and(|others| self.has_processor_without(others)) && self.crowd_rest.lock().is_over() {
            self.crowd_called.store(true, Ordering::Release);
            self.wake();
            return;
        }
        // It is counted itself.
        if !hot || !self.has_processor(0) || !self.rest.lock().is_over() {
            return;
        }
        let mut wanted = self.wanted.lock();
        if wanted.len() < MOST_WATCHED && !wanted.iter().any(|other| Arc::ptr_eq(other, thread)) {
            wanted.push(thread.clone());
            drop(wanted);
            if self.away_from.load(Ordering::Relaxed) == 0 {
                self.keep_away(processor());
            }
            self.wake();
        }
    }

    /// Lets it run on all processors but this one. The host would often wake it right where the thread runs that
    /// it is to look at, and it would be in that thread's way.
    fn keep_away(&self, processor: usize) {
        if self.away_from.swap(processor + 1, Ordering::Relaxed) != processor + 1 {
            self.seats.keep_off(self.tid.load(Ordering::Relaxed), processor);
        }
    }

    /// It has looked in vain, or has taken requests.
    fn book(&self, in_vain: bool) {
        let mut rest = self.rest.lock();
        if in_vain {
            rest.in_vain(COOLER);
        } else {
            rest.paid();
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

    /// Counts a thread as one that is looked at, or not.
    pub fn set_watched(&self, state: &mut State, watched: bool) {
        if state.watched != watched {
            state.watched = watched;
            if state.stand.is_busy() {
                self.count_busy(!watched);
            }
        }
    }

    /// Gives a thread back the run of all processors. To be called before it makes a child, too, which would inherit its seat.
    pub fn unseat(&self, thread: &Thread, state: &mut State) {
        if std::mem::take(&mut state.seated) {
            self.seats.unseat(thread.tid());
        }
    }
}

impl Watch {
    /// A thread with a request, looking at the one that had the last first, and at some others.
    fn find(&mut self) -> Option<usize> {
        let count = self.threads.len();
        let asks = |watched: &Watched| watched.thread.slot.state() == STATE_REQUEST;
        if self.threads.get(self.last).is_some_and(asks) {
            return Some(self.last);
        }
        for _ in 0..count.min(GLANCE) {
            self.at = if self.at + 1 < count { self.at + 1 } else { 0 };
            if self.threads.get(self.at).is_some_and(asks) {
                return Some(self.at);
            }
        }
        None
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
        let mut watch = spinner.watch.lock();
        self.leave_waiting(&mut watch);
        if watch.threads.is_empty() && !spinner.called.load(Ordering::Acquire) {
            std::thread::park();
        }
        if spinner.called.swap(false, Ordering::AcqRel) {
            self.watch_wanted(&mut watch);
            if spinner.crowd_called.swap(false, Ordering::AcqRel) {
                self.watch_crowd(&mut watch);
            }
            if watch.crowd.is_some() {
                self.seat_all(&watch);
            }
        }
        self.look(&mut watch);
    }

    /// Requests that have not been answered by now have to wait for something.
    fn leave_waiting(&self, watch: &mut Watch) {
        if watch.crowd.is_some() {
            if let Some(watched) = watch.threads.get(watch.last)
                && watched.thread.slot.state() == STATE_TAKEN
            {
                self.sink_asking(&watched.thread);
            }
            return;
        }
        // A thread that waits for something is not worth looking at: it will be woken where its waker is, and be in the
        // spinner's way there.
        let before = watch.threads.len();
        watch
            .threads
            .retain(|watched| watched.thread.slot.state() != STATE_TAKEN || !self.let_park(&watched.thread));
        if watch.threads.is_empty() && before > 0 {
            self.spinner.book(self.spinner.taken.swap(0, Ordering::Relaxed) < WORTHWHILE);
        }
    }

    fn watch_wanted(&self, watch: &mut Watch) {
        let wanted = std::mem::take(&mut *self.spinner.wanted.lock());
        let most = if watch.crowd.is_some() { MOST_CROWD } else { MOST_WATCHED };
        for thread in wanted {
            if watch.threads.len() < most {
                self.begin_watching(watch, thread);
            }
        }
    }

    fn begin_watching(&self, watch: &mut Watch, thread: Arc<Thread>) {
        let mut state = thread.state.lock();
        if !state.watched && !matches!(state.stand, Stand::Dead) {
            self.spinner.set_watched(&mut state, true);
            let _ = thread.slot.change_state(STATE_IDLE, STATE_WATCHED);
            drop(state);
            watch.threads.push(Watched { thread, still: false });
        }
    }

    /// Looks at all threads that have rung lately.
    fn watch_crowd(&self, watch: &mut Watch) {
        let (recent, allowance) = self.spinner.rush.lock().give_up();
        for thread in recent.iter().filter_map(std::sync::Weak::upgrade) {
            let recently = thread.state.lock().heat.unlist();
            if recently && watch.threads.len() < MOST_CROWD {
                self.begin_watching(watch, thread);
            }
        }
        if watch.crowd.is_some() {
            return;
        }
        if watch.threads.len() < 2 || !self.spinner.has_processor(1) {
            self.spinner.crowd_rest.lock().in_vain(CROWD_COOLER);
            return;
        }
        let (now, processor) = (ticks(), processor());
        self.spinner.taken.store(0, Ordering::Relaxed);
        self.spinner.seats.fix(self.spinner.tid.load(Ordering::Relaxed), processor);
        self.spinner.away_from.store(0, Ordering::Relaxed);
        watch.crowd = Some(Crowd { processor, allowance, since: now, passed: now, taken: 0 });
    }

    /// Keeps those who are looked at off the spinner's processor.
    fn seat_all(&self, watch: &Watch) {
        let Some(crowd) = &watch.crowd else { return };
        for watched in &watch.threads {
            let mut state = watched.thread.state.lock();
            let may = matches!(
                state.stand,
                Stand::Running | Stand::Syscall { .. } | Stand::Asking { .. } | Stand::Returning(_)
            );
            if may && state.watched && !state.seated {
                state.seated = true;
                self.spinner.seats.seat(watched.thread.tid(), crowd.processor);
            }
        }
    }

    /// Looks until a request was taken, or it does not pay any more.
    fn look(&self, watch: &mut Watch) {
        let spinner = &self.spinner;
        let mut checked = Instant::now();
        let started = checked;
        if watch.crowd.is_some() && !self.pass(watch) {
            return;
        }
        let limit = if watch.crowd.is_some() { CROWD_IDLE_LIMIT } else { IDLE_LIMIT };
        while !watch.threads.is_empty() {
            for _ in 0..LOOKS {
                if let Some(found) = watch.find()
                    && self.take(&watch.threads[found].thread)
                {
                    watch.last = found;
                    watch.threads[found].still = false;
                    return;
                }
                if spinner.called.load(Ordering::Relaxed) || !spinner.has_processor(1) {
                    break;
                }
                std::hint::spin_loop();
            }
            let now = Instant::now();
            let why = if now - checked > PREEMPTED {
                spinner.taken.store(0, Ordering::Relaxed);
                Some(Why::Preempted)
            } else if !spinner.has_processor(1) {
                Some(Why::NoProcessor)
            } else {
                (now - started > limit).then_some(Why::NoRequest)
            };
            if let Some(why) = why {
                self.unwatch(watch, why);
                return;
            }
            if spinner.called.load(Ordering::Relaxed) {
                return;
            }
            checked = now;
        }
    }

    /// Judges a crowd from time to time, and looks no longer at those who sleep. Returns whether it goes on.
    fn pass(&self, watch: &mut Watch) -> bool {
        let Some(crowd) = &mut watch.crowd else { return true };
        let (now, taken) = (ticks(), self.spinner.taken.load(Ordering::Relaxed));
        let (passed, new) = (now.wrapping_sub(crowd.passed), taken.wrapping_sub(crowd.taken));
        if passed < PASS {
            return true;
        }
        if u64::from(new) * crowd.allowance < passed {
            self.unwatch(watch, Why::TooSlow);
            return false;
        }
        (crowd.passed, crowd.taken) = (now, taken);
        watch.threads.retain_mut(|watched| {
            let thread = &watched.thread;
            let mut state = thread.state.lock();
            let gone = match state.stand {
                Stand::Dead => true,
                Stand::Asking { place: Place::Deep, .. } | Stand::Syscall { .. } => {
                    std::mem::replace(&mut watched.still, true)
                }
                _ => false,
            };
            if gone {
                self.spinner.set_watched(&mut state, false);
                self.spinner.unseat(thread, &mut state);
                let _ = thread.slot.change_state(STATE_WATCHED, STATE_IDLE);
            }
            !gone
        });
        self.seat_all(watch);
        true
    }

    /// Stops looking. What has been asked meanwhile is taken.
    fn unwatch(&self, watch: &mut Watch, why: Why) {
        let spinner = &self.spinner;
        let taken = spinner.taken.swap(0, Ordering::Relaxed);
        if let Some(crowd) = watch.crowd.take() {
            let lasted = ticks().wrapping_sub(crowd.since);
            let pays = u64::from(taken) * crowd.allowance >= lasted;
            tracing::debug!(
                ?why,
                taken,
                lasted,
                pays,
                allowance = crowd.allowance,
                "a crowd is not looked at any more"
            );
            let mut rest = spinner.crowd_rest.lock();
            if pays && (why == Why::NoProcessor || lasted > LASTS) {
                rest.paid();
            } else {
                rest.in_vain(CROWD_COOLER);
            }
            drop(rest);
            spinner.seats.free(spinner.tid.load(Ordering::Relaxed));
        } else {
            spinner.book(taken < WORTHWHILE);
            if taken == 0 {
                // The thread has been moved to this very processor, then, and waits for it.
                spinner.keep_away(processor());
            }
        }
        for watched in watch.threads.drain(..) {
            let thread = watched.thread;
            let mut state = thread.state.lock();
            spinner.set_watched(&mut state, false);
            if matches!(state.stand, Stand::Dead) {
                // The slot may be another's by now, and the number.
                continue;
            }
            spinner.unseat(&thread, &mut state);
            drop(state);
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
