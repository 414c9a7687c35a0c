//! Waiting for notifications so that a kick is never lost.
//!
//! A worker announces that it waits in its own word, then checks the word and enters the `ioctl` inside a few
//! instructions that the kick signal's handler knows: when the signal interrupts them before the system call has begun,
//! the handler moves the instruction pointer to the abort path (the idea of restartable sequences, `man 2 rseq`); when it
//! has begun, the signal ends it with `EINTR`. No instruction is left between the check and the wait
//! where a kick could vanish, and the hot path pays one comparison.
//!
//! Key types: [`Workers`], [`Worker`].

use std::arch::global_asm;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use abi::errno::Errno;
use parking_lot::Mutex;

use super::notification::last_error;

const BUSY: u32 = 0;
pub(super) const WAITING: u32 = 1;
const KICKED: u32 = 2;

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
}

/// All threads that ever waited.
#[derive(Debug, Default)]
pub struct Workers {
    all: Mutex<Vec<Arc<Worker>>>,
    /// A kick that found nobody waiting; the next wait takes it.
    pending: AtomicBool,
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

    /// Runs `wait` with this thread's word set to waiting. `None` if a kick came first.
    pub fn waiting<R>(&self, wait: impl FnOnce(&AtomicU32) -> R) -> Option<R> {
        WORKER.with_borrow_mut(|known| {
            let identity = std::ptr::from_ref(self).addr();
            let worker = match known {
                Some((owner, worker)) if *owner == identity => worker,
                _ => {
                    let worker = self.register();
                    &mut known.insert((identity, worker)).1
                }
            };
            // Announced before the check, so that a kick either finds the announcement or is found by the check.
            worker.word.store(WAITING, Ordering::SeqCst);
            let result = if self.pending.load(Ordering::SeqCst) && self.pending.swap(false, Ordering::SeqCst)
            {
                None
            } else {
                Some(wait(&worker.word))
            };
            worker.word.store(BUSY, Ordering::SeqCst);
            result
        })
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
        let worker = Arc::new(Worker { tid: AtomicI32::new(tid), word: AtomicU32::new(BUSY) });
        self.all.lock().push(worker.clone());
        worker
    }

    /// Makes one worker return, now or on its next call.
    pub fn kick(&self) {
        if self.kick_waiting() {
            return;
        }
        self.pending.store(true, Ordering::SeqCst);
        // Somebody may have looked at `pending` between our scan and the store; then its announcement is visible
        // now. `pending` stays set (clearing it could lose another's kick): one spurious return later.
        self.kick_waiting();
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
