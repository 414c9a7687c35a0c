//! Waiting for notifications so that a kick is never lost.
//!
//! A worker announces that it waits in its own word, then checks the word and enters the `ioctl` inside a few
//! instructions that the kick signal's handler knows: when the signal interrupts them before the system call has begun,
//! the handler moves the instruction pointer to the abort path (the idea of restartable sequences, `man 2 rseq`); when it
//! has begun, the signal ends it with `EINTR`. No instruction is left between the check and the wait
//! where a kick could vanish, and the hot path pays one comparison.
//!
//! The host wakes everybody who waits for notifications for each of them, though one gets it, and being woken in vain costs the
//! processor that the application wants. So normally one worker waits and the others are parked. Another is called for when calls
//! queue up ([`Workers::received`]), and when a parked one, the *monitor*, finds that for a while nobody has waited
//! ([`Workers::stand_by`]).
//!
//! Key types: [`Workers`], [`Worker`].

use std::arch::global_asm;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use abi::errno::Errno;
use parking_lot::Mutex;

use super::heat::ticks;
use super::notification::{follows_an_answer, last_error};

const BUSY: u32 = 0;
pub(super) const WAITING: u32 = 1;
const KICKED: u32 = 2;
const PARKED: u32 = 3;
/// How many notifications in a row must not have had to queue before a worker too many parks.
const SURPLUS: u32 = 8;
/// Processor ticks, one to two microseconds: who gets a notification sooner found it waiting.
const AT_ONCE: u64 = 4_000;
/// How often the monitor looks.
const LOOK: Duration = Duration::from_millis(1);
/// Looks without any notification after which it sleeps until there is one.
const IDLE_LOOKS: u32 = 20;

global_asm!(
    r#"
    .pushsection .text.runsc_receive, "ax", @progbits
    .globl runsc_receive, runsc_receive_call, runsc_receive_abort
    .hidden runsc_receive_abort
    # edi = descriptor, rsi = request, rdx = structure, rcx = the worker's word
runsc_receive:
    cmp dword ptr [rcx], {waiting}
    jne runsc_receive_abort
    mov eax, 16
runsc_receive_call:
    syscall
    ret
runsc_receive_abort:
    mov rax, -4
    ret
    .popsection
    "#,
    waiting = const WAITING,
);

unsafe extern "C" {
    #[link_name = "runsc_receive"]
    pub(super) fn receive(fd: i32, request: u64, notification: *mut u8, word: *mut u32) -> i64;
    static runsc_receive_call: u8;
    static runsc_receive_abort: u8;
}

/// The signal that ends a wait: a real-time one beyond those that libc keeps for itself (32 to 34 at most).
pub const KICK_SIGNAL: i32 = 37;

extern "C" fn on_kick(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let start = (receive as *const u8).addr() as i64;
    let call = (&raw const runsc_receive_call).addr() as i64;
    let abort = (&raw const runsc_receive_abort).addr() as i64;
    // SAFETY: with SA_SIGINFO the kernel passes a valid ucontext, exclusively ours during the handler.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let ip = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
    if *ip >= start && *ip <= call {
        *ip = abort;
    }
}

/// One thread that calls `wait`.
#[derive(Debug)]
struct Worker {
    tid: AtomicI32,
    word: AtomicU32,
    thread: std::thread::Thread,
}

/// All threads that ever waited.
#[derive(Debug, Default)]
pub struct Workers {
    all: Mutex<Vec<Arc<Worker>>>,
    /// A kick that found nobody waiting; the next wait takes it.
    pending: AtomicBool,
    /// Workers that wait, or are about to.
    waiting: AtomicUsize,
    /// Counts down to when a worker too many parks.
    needed: AtomicU32,
    /// Notifications received.
    received: AtomicU64,
    /// Whether a parked worker is the monitor.
    monitored: AtomicBool,
    /// Whether the monitor sleeps until there is a notification.
    asleep: AtomicBool,
}

thread_local! {
    static WORKER: RefCell<Option<(usize, Arc<Worker>)>> = const { RefCell::new(None) };
}

impl Workers {
    /// Installs the handler of the kick signal.
    ///
    /// # Errors
    /// Those of `sigaction(2)`.
    pub fn new() -> Result<Self, Errno> {
        // SAFETY: all-zero is a valid sigaction.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = (on_kick as *const ()).addr();
        // No SA_RESTART: the signal is to end the wait.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler is async-signal-safe: it only changes the context it is given.
        let result = unsafe { libc::sigaction(KICK_SIGNAL, &raw const action, std::ptr::null_mut()) };
        if result < 0 { Err(last_error()) } else { Ok(Self::default()) }
    }

    /// Runs `wait` with this thread's word set to waiting. `None` if a kick came first. Also whether one came: what was waited for may
    /// have come at the same time, and then nothing but this says so.
    pub fn waiting<R>(&self, wait: impl FnOnce(&AtomicU32) -> R) -> (Option<R>, bool) {
        WORKER.with_borrow_mut(|known| {
            let identity = std::ptr::from_ref(self).addr();
            let worker = match known {
                Some((owner, worker)) if *owner == identity => worker,
                _ => {
                    let worker = self.register();
                    &mut known.insert((identity, worker)).1
                }
            };
            if self.waiting.load(Ordering::SeqCst) > 0 && self.needed.load(Ordering::SeqCst) == 0 {
                self.stand_by(worker);
                return (None, true);
            }
            self.waiting.fetch_add(1, Ordering::SeqCst);
            // Announced before the check, so that a kick either finds the announcement or is found by the check.
            worker.word.store(WAITING, Ordering::SeqCst);
            let result = if self.pending.load(Ordering::SeqCst) && self.pending.swap(false, Ordering::SeqCst)
            {
                None
            } else {
                let begun = ticks();
                let result = wait(&worker.word);
                self.received(ticks().wrapping_sub(begun) < AT_ONCE && !follows_an_answer());
                Some(result)
            };
            let kicked = worker.word.swap(BUSY, Ordering::SeqCst) == KICKED;
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            (result, kicked)
        })
    }

    /// Parks a worker until it is kicked or needed. Another one waits; if that one receives a call meanwhile, it comes back to
    /// find nobody waiting, and does not park.
    fn stand_by(&self, worker: &Worker) {
        // Whoever calls for a worker says so first and looks for one second; we announce ourselves first, and look second.
        worker.word.store(PARKED, Ordering::SeqCst);
        let called = || self.pending.load(Ordering::SeqCst) || self.needed.load(Ordering::SeqCst) > 0;
        let is_parked = || worker.word.load(Ordering::SeqCst) == PARKED && !called();
        let is_monitor = !self.monitored.swap(true, Ordering::SeqCst);
        if is_monitor {
            self.monitor(is_parked);
            self.monitored.store(false, Ordering::SeqCst);
            // Somebody else has to be it.
            self.unpark();
        } else {
            while is_parked() {
                std::thread::park();
            }
        }
        worker.word.store(BUSY, Ordering::SeqCst);
    }

    /// Looks now and then whether somebody waits, as long as there are notifications at all. A worker may be long at work on one,
    /// with the calls of other threads pending.
    fn monitor(&self, is_parked: impl Fn() -> bool) {
        let mut seen = self.received.load(Ordering::SeqCst);
        let mut idle = 0;
        while is_parked() {
            if idle < IDLE_LOOKS {
                std::thread::park_timeout(LOOK);
            } else {
                self.asleep.store(true, Ordering::SeqCst);
                if self.received.load(Ordering::SeqCst) == seen {
                    std::thread::park();
                }
                self.asleep.store(false, Ordering::SeqCst);
            }
            let received = self.received.load(Ordering::SeqCst);
            if received != seen {
                (seen, idle) = (received, 0);
            } else if self.waiting.load(Ordering::SeqCst) == 0 {
                self.needed.store(SURPLUS, Ordering::SeqCst);
            } else {
                idle += 1;
            }
        }
    }

    /// A worker has a notification; `at_once`: it was there already, so calls queue up.
    fn received(&self, at_once: bool) {
        self.received.fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            for worker in self.all.lock().iter().filter(|other| other.word.load(Ordering::SeqCst) == PARKED) {
                worker.thread.unpark();
            }
        }
        if at_once {
            self.needed.store(SURPLUS, Ordering::SeqCst);
            self.unpark();
        } else {
            // Two workers may count at once: then one of the two is lost, which does not matter.
            let needed = self.needed.load(Ordering::Relaxed);
            self.needed.store(needed.saturating_sub(1), Ordering::Relaxed);
        }
    }

    /// Makes a parked worker go on, if there is one.
    fn unpark(&self) -> bool {
        for worker in self.all.lock().iter() {
            if worker.word.compare_exchange(PARKED, BUSY, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                worker.thread.unpark();
                return true;
            }
        }
        false
    }

    fn register(&self) -> Arc<Worker> {
        // SAFETY: gettid has no preconditions.
        let tid = unsafe { libc::gettid() };
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initializes the set before it is used; the pointers are valid.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), KICK_SIGNAL);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut());
        }
        let worker = Arc::new(Worker {
            tid: AtomicI32::new(tid),
            word: AtomicU32::new(BUSY),
            thread: std::thread::current(),
        });
        self.all.lock().push(worker.clone());
        worker
    }

    /// Makes one worker return, now or on its next call.
    pub fn kick(&self) {
        if self.kick_waiting() || self.unpark() {
            return;
        }
        self.pending.store(true, Ordering::SeqCst);
        // Somebody may have looked at `pending` between our scan and the store; then its announcement is visible
        // now. `pending` stays set (clearing it could lose another's kick): one spurious return later.
        if !self.kick_waiting() {
            self.unpark();
        }
    }

    fn kick_waiting(&self) -> bool {
        for worker in self.all.lock().iter() {
            if worker.word.compare_exchange(WAITING, KICKED, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                let tid = worker.tid.load(Ordering::Relaxed);
                // SAFETY: no memory is involved; a signal whose handler is installed goes to our own thread.
                unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, KICK_SIGNAL) };
                return true;
            }
        }
        false
    }
}
