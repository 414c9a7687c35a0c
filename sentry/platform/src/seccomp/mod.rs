//! The default platform: seccomp user notification.
//!
//! Every system call of every stub process blocks until the sentry answers it through one listener. The worker that
//! receives a call answers it: two host calls per simple system call. README.md (in the crate's folder) has the protocol.
//!
//! Key types: [`SeccompPlatform`], `Core` (its shared state). Neighbours: `crate::stub`, the code inside the processes.
//! Invariant: a host tid is in the table from the moment its first call is believed until just before it may be used again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context as WakeContext, Poll};

use abi::errno::{self, Errno};
use parking_lot::Mutex;

use crate::stub::{Geometry, Labels};
use crate::{Affinity, Context, HostCalls, Layout, NewSpace, Platform};
use blank::Blanks;
use deep::Waiter;
use frame::FpTemplate;
use notification::Listener;
use slots::SlotMemory;
use spinner::Spinner;
use thread::{Place, Process, Stand, State, Thread, Threads};
use worker::Workers;

mod birth;
mod blank;
mod carried;
mod code;
mod context;
mod counts;
mod deep;
mod dispatch;
mod frame;
mod heat;
mod host_rows;
mod job;
mod lent;
mod memory;
mod notification;
mod outbox;
mod patch;
mod place;
mod request;
mod rewrite;
mod seats;
mod seed;
mod settle;
mod slots;
mod spawn;
mod spinner;
mod thread;
mod unborn;
mod words;
mod worker;

#[cfg(test)]
mod tests;

pub(crate) use host_rows::HOST_ROWS;
pub use seed::SetupError;

/// Which parts of the accelerator are on: they can be switched off one by one for measurement and diagnosis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// System-call sites that trap often are patched. Nothing else works without it.
    pub patch: bool,
    /// They are patched when they first trap.
    pub eager: bool,
    /// A thread of the sentry looks out for requests in slots.
    pub spin: bool,
    /// Input and output travel in the slot.
    pub carry: bool,
    /// The stub answers calls that report known facts.
    pub local: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { patch: true, eager: false, spin: true, carry: true, local: true }
    }
}

impl Options {
    /// Everything off: every call traps.
    pub const OFF: Self = Self { patch: false, eager: false, spin: false, carry: false, local: false };
}

/// See the module's documentation.
pub struct SeccompPlatform {
    core: Arc<Core>,
}

/// What all contexts share.
pub(crate) struct Core {
    listener: Listener,
    labels: Labels,
    geometry: Geometry,
    layout: Layout,
    template: FpTemplate,
    memory: Arc<SlotMemory>,
    threads: Threads,
    workers: Workers,
    spinner: Spinner,
    /// Calls that are held in notifications.
    held: AtomicUsize,
    /// Who waits in them, longest first; some do not any more.
    line: Mutex<VecDeque<Waiter>>,
    seed: Arc<Thread>,
    blanks: Blanks,
    seed_died: AtomicBool,
}

impl SeccompPlatform {
    /// Starts the platform: forks the seed process. To be called before the sentry starts threads and before it locks itself
    /// down, but in its final namespaces and with its final identity.
    ///
    /// # Errors
    /// The step that failed.
    pub fn new(options: Options) -> Result<Self, SetupError> {
        Self::new_while(options, || ())
    }

    /// [`SeccompPlatform::new`] that does something else while the seed process sets itself up.
    ///
    /// # Errors
    /// The step that failed.
    pub fn new_while(options: Options, meanwhile: impl FnOnce()) -> Result<Self, SetupError> {
        let workers = Workers::new().map_err(|errno| SetupError {
            step: "install the kick signal",
            errno,
            hint: "",
        })?;
        let seed = seed::start(options, meanwhile)?;
        let process = Process::new(seed.pid, seed.slot.space.clone());
        process.enter(seed.pid);
        let stand = Stand::Captured { id: seed.held, frame: seed.frame };
        let thread = Thread::new(seed.pid, process.clone(), seed.slot, stand);
        let threads = Threads::new();
        threads.insert(&thread);
        threads.processes.lock().insert(seed.pid, process);
        let core = Core {
            listener: seed.listener,
            labels: seed.labels,
            geometry: seed.geometry,
            layout: seed.layout,
            template: seed.template,
            memory: seed.memory,
            threads,
            workers,
            spinner: Spinner::new(options.patch && options.spin),
            held: AtomicUsize::new(0),
            line: Mutex::default(),
            seed: thread,
            blanks: Blanks::default(),
            seed_died: AtomicBool::new(false),
        };
        Ok(Self { core: Arc::new(core) })
    }
}

impl Drop for SeccompPlatform {
    fn drop(&mut self) {
        // No new spaces without the platform; contexts that remain keep the rest alive.
        self.core.blanks.clear();
        self.core.seed.process.kill();
    }
}

impl Core {
    /// Kills a process that is not needed any more, and has it end on another processor than this one. What is left to do for it on
    /// the host, mostly to take its memory apart, takes as long as some ten calls, and nobody waits for it; here it would
    /// come before whatever the caller has to do next.
    fn kill_aside(&self, process: &Process) {
        process.kill_with(|threads| {
            // If the host refuses, as it does if no other is left, the process ends here.
            if let [tid] = threads {
                let processor = seats::processor();
                self.spinner.seats.keep_off(*tid, processor);
                self.blanks.is_busy(processor);
            }
        });
    }

    /// Ends a thread whose context is gone, at its next opportunity.
    fn orphan(&self, thread: &Arc<Thread>, state: &mut State) -> dispatch::After {
        state.orphan = true;
        match &state.stand {
            Stand::Running => {
                thread.process.signal(thread.tid());
                dispatch::After::Nothing
            }
            Stand::Fresh { id, .. } => {
                let id = *id;
                self.set_stand(state, Stand::Capturing(None));
                thread.process.signal(thread.tid());
                self.sent(thread, state, self.listener.proceed(id))
            }
            Stand::Syscall { id, .. } => {
                let id = *id;
                self.withdraw_carried(thread);
                self.set_stand(state, Stand::Capturing(None));
                thread.process.signal(thread.tid());
                self.sent(thread, state, self.listener.answer(id, errno::EINTR.to_return_value()))
            }
            Stand::Asking { request, place } => {
                let (request, place) = (*request, *place);
                self.withdraw_carried(thread);
                self.set_stand(state, Stand::Capturing(Some(request)));
                thread.process.signal(thread.tid());
                match place {
                    Place::Slot | Place::Deep => dispatch::After::Nothing,
                    Place::Parked(id) => self.sent(thread, state, self.listener.answer(id, 0)),
                }
            }
            Stand::Captured { id, frame } => {
                let (id, frame) = (*id, *frame);
                self.exit(thread, state, id, frame)
            }
            _ => dispatch::After::Nothing,
        }
    }

    /// Processor time of a thread. The host tells it only per process: the leader's context reports the whole
    /// process, the others nothing, so that sums over a process are right.
    fn cpu_time_ns(&self, thread: &Thread) -> u64 {
        if thread.tid() != thread.process.pid {
            return 0;
        }
        // `man 2 clock_getres`, "Dynamic clocks" in the kernel's posix-timers.h: CPUCLOCK_SCHED of a process.
        const CPUCLOCK_SCHED: i32 = 2;
        let clock = (!thread.process.pid) << 3 | CPUCLOCK_SCHED;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the structure is writable.
        if unsafe { libc::clock_gettime(clock, &raw mut time) } < 0 {
            return 0;
        }
        (time.tv_sec * 1_000_000_000 + time.tv_nsec).cast_unsigned()
    }

    fn reap_one(&self) -> bool {
        // SAFETY: all-zero is a valid siginfo_t, which waitid fills.
        let pid = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
            if libc::waitid(libc::P_ALL, 0, &raw mut info, options) < 0 {
                return false;
            }
            info.si_pid()
        };
        if pid == 0 {
            return false;
        }
        let process = {
            let mut births = self.threads.births.lock();
            let process = self.threads.processes.lock().remove(&pid);
            if process.is_none() && births.pending > 0 {
                births.ended.insert(pid);
            }
            process
        };
        let threads = process.map(|process| (process.end(), process));
        // SAFETY: no memory is involved; nobody uses the pid any more.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG) };
        if let Some((tids, process)) = threads {
            for tid in tids {
                if let Some(thread) =
                    self.threads.get(tid).filter(|thread| Arc::ptr_eq(&thread.process, &process))
                {
                    self.bury(&thread);
                }
            }
            self.bury_unborn(&process);
        }
        if pid == self.seed.tid() {
            self.seed_died.store(true, Ordering::Release);
            self.workers.kick();
        }
        true
    }
}

impl Platform for SeccompPlatform {
    fn name(&self) -> &'static str {
        "seccomp"
    }

    fn layout(&self) -> Layout {
        self.core.layout
    }

    fn poll_new_space(
        &self,
        wake: &mut WakeContext<'_>,
        request: &mut NewSpace,
    ) -> Poll<Result<Box<dyn Context>, Errno>> {
        self.core.poll_blank(wake, request)
    }

    fn wait(&self) -> Result<(), Errno> {
        let core = &self.core;
        core.sink_waiting();
        carried::next_turn();
        loop {
            if core.send_answers() {
                return Ok(());
            }
            if core.seed_died.load(Ordering::Acquire) {
                return Err(errno::ECHILD);
            }
            let (received, kicked) = core.workers.waiting(|word| core.listener.receive(word));
            let woken = match received {
                None | Some(Err(errno::EINTR)) => true,
                Some(Ok(call)) => core.dispatch(call),
                // The caller was killed before we looked.
                Some(Err(errno::ENOENT)) => false,
                Some(Err(error)) => return Err(error),
            };
            if woken || kicked {
                return Ok(());
            }
        }
    }

    fn spins(&self) -> bool {
        self.core.spinner.is_enabled()
    }

    fn spin(&self) {
        if !self.core.send_answers() {
            self.core.spin();
        }
    }

    fn send_answers(&self) {
        self.core.send_answers();
    }

    fn kick(&self) {
        self.core.workers.kick();
        self.core.spinner.interrupt();
    }

    fn affinity(&self) -> Affinity {
        Affinity::Any
    }

    fn reap(&self) {
        while self.core.reap_one() {}
        self.core.make_ahead();
    }

    fn host_calls(&self) -> HostCalls {
        HostCalls::Seccomp
    }
}
