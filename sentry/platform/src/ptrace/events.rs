//! Who is traced, and what the host says about it.
//!
//! [`Shared`] is the platform's one state; [`Slot`] is what it knows about one stub thread. Events are fetched in
//! one place, [`Shared::dispatch`], and stored in the slot of the thread they concern, whatever the
//! caller is waiting for: an ended process leader, for one, is reported only after all other threads
//! of its process have been fetched. `context` interprets the stops.
//!
//! Locks: `seed` before `tracees` before a slot's `state` before a space's threads; none is held while a waker is woken or
//! the worker blocks, except `seed`.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::thread::ThreadId;

use abi::errno::{self, Errno};
use libc::c_long;
use parking_lot::Mutex;

use super::bell::{self, Bell, Outcome};
use super::gadget::Reserved;
use super::memory::Space;
use super::requests::{self, Mode, Status, Stopped};
use super::seed::returned;
use super::vectors::VectorLayout;
use crate::{Died, Interrupter};

/// The state that platform and contexts share.
pub(super) struct Shared {
    pub(super) reserved: Reserved,
    pub(super) vectors: VectorLayout,
    pub(super) sender: OwnedFd,
    pub(super) receiver: OwnedFd,
    pub(super) bell: Bell,
    pub(super) seed: Mutex<SeedThread>,
    tracees: Mutex<Tracees>,
    /// Threads that run and may trap any time.
    running: AtomicUsize,
    worker: OnceLock<ThreadId>,
    /// Held threads whose contexts were dropped outside of the worker.
    leavers: Mutex<Vec<Arc<Slot>>>,
}

/// The seed from the worker's point of view.
pub(super) enum SeedThread {
    /// Made, not attached.
    Loose(i32),
    /// Attached and stopped.
    Ready(Arc<Slot>, Stopped),
    /// Dead: no new spaces.
    Lost,
}

#[derive(Default)]
struct Tracees {
    slots: HashMap<i32, Arc<Slot>>,
    /// A thread is being made, whose first event may arrive before its id.
    expecting: bool,
    early: Vec<(i32, Status)>,
}

/// A host process.
pub(super) struct Process {
    pub(super) tgid: i32,
    /// It has had more than one thread.
    pub(super) threaded: AtomicBool,
}

/// One stub thread.
pub(super) struct Slot {
    pub(super) tid: i32,
    pub(super) process: Arc<Process>,
    pub(super) space: Arc<Space>,
    interrupt: AtomicBool,
    state: Mutex<SlotState>,
}

#[derive(Default)]
struct SlotState {
    stop: Option<Status>,
    waker: Option<Waker>,
    gone: bool,
    is_running: bool,
    /// At its next stop the thread makes this call (`exit` or `exit_group`).
    leaving: Option<c_long>,
}

/// What [`Slot::take`] finds.
pub(super) enum Found {
    Gone,
    Stop(Stopped, Status),
    Nothing,
}

impl Slot {
    pub(super) fn new(tid: i32, process: Arc<Process>, space: Arc<Space>) -> Arc<Self> {
        space.add(tid);
        Arc::new(Self {
            tid,
            process,
            space,
            interrupt: AtomicBool::new(false),
            state: Mutex::new(SlotState::default()),
        })
    }

    /// Takes the stop that has been fetched, or leaves a waker for the next one.
    pub(super) fn take(&self, waker: Option<&Waker>) -> Found {
        let mut state = self.state.lock();
        if state.gone {
            return Found::Gone;
        }
        if let Some(status) = state.stop.take() {
            return Found::Stop(Stopped::after_wait(self.tid), status);
        }
        if let Some(waker) = waker {
            match &mut state.waker {
                Some(known) if known.will_wake(waker) => {}
                place => *place = Some(waker.clone()),
            }
        }
        Found::Nothing
    }

    pub(super) fn is_gone(&self) -> bool {
        self.state.lock().gone
    }

    /// Consumes a pending interrupt.
    pub(super) fn take_interrupt(&self) -> bool {
        self.interrupt.load(SeqCst) && self.interrupt.swap(false, SeqCst)
    }

    fn signal(&self, signal: libc::c_int) {
        if !self.state.lock().gone {
            let _ = requests::send_signal(self.process.tgid, self.tid, signal);
        }
    }

    /// Kills the process.
    pub(super) fn kill(&self) {
        self.signal(libc::SIGKILL);
    }
}

impl Interrupter for Slot {
    fn interrupt(&self) {
        // The flag first: whoever sees the stop finds it. A stop without it is passed over.
        self.interrupt.store(true, SeqCst);
        self.signal(bell::SIGNAL);
    }
}

impl Shared {
    pub(super) fn new(seed: super::seed::Seed) -> Self {
        Self {
            reserved: seed.reserved,
            vectors: seed.vectors,
            sender: seed.sender,
            receiver: seed.receiver,
            bell: Bell::default(),
            seed: Mutex::new(SeedThread::Loose(seed.tid)),
            tracees: Mutex::new(Tracees::default()),
            running: AtomicUsize::new(0),
            worker: OnceLock::new(),
            leavers: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn is_worker(&self) -> bool {
        self.worker.get() == Some(&std::thread::current().id())
    }

    /// Makes the first caller the worker and attaches the seed to it.
    pub(super) fn attach(&self) -> Result<(), Errno> {
        if *self.worker.get_or_init(|| std::thread::current().id()) != std::thread::current().id() {
            return Err(errno::EPERM);
        }
        let mut seed = self.seed.lock();
        let &SeedThread::Loose(tid) = &*seed else { return Ok(()) };
        *seed = SeedThread::Lost;
        self.bell.adopt()?;
        requests::seize(tid)?;
        requests::interrupt(tid)?;
        let process = Arc::new(Process { tgid: tid, threaded: AtomicBool::new(false) });
        let slot = self.register(tid, process, Arc::new(Space::new(self.reserved.start)));
        let stopped = self.await_stop(&slot).map_err(|_| errno::ESRCH)?.0;
        *seed = SeedThread::Ready(slot, stopped);
        Ok(())
    }

    /// Announces that a thread is about to be made.
    pub(super) fn expect_birth(&self) {
        self.tracees.lock().expecting = true;
    }

    /// Ends what [`Shared::expect_birth`] began, after the new thread, if any, was registered.
    pub(super) fn end_birth(&self) {
        let mut tracees = self.tracees.lock();
        tracees.expecting = false;
        tracees.early.clear();
    }

    /// Begins to keep the events of a new thread, including those already fetched.
    pub(super) fn register(&self, tid: i32, process: Arc<Process>, space: Arc<Space>) -> Arc<Slot> {
        let slot = Slot::new(tid, process, space);
        let early = {
            let mut tracees = self.tracees.lock();
            tracees.slots.insert(tid, Arc::clone(&slot));
            std::mem::take(&mut tracees.early)
        };
        for (tid, status) in early {
            self.dispatch(tid, status);
        }
        slot
    }

    /// Blocks the worker until there is an event or a ring, and stores all events there are.
    pub(super) fn wait_any(&self) -> Result<(), Errno> {
        for slot in std::mem::take(&mut *self.leavers.lock()) {
            self.leave(&slot, Stopped::after_wait(slot.tid), libc::SYS_exit);
        }
        if let Outcome::Event(tid, status) = self.bell.wait()? {
            self.dispatch(tid, status);
            // The host looks at tracees in a fixed order; fetching all of them keeps it fair.
            while self.running.load(SeqCst) > 0
                && let Some((tid, status)) = requests::wait(-1, libc::WNOHANG)?
            {
                self.dispatch(tid, status);
            }
        }
        self.bell.take_ring();
        Ok(())
    }

    /// Blocks the worker until this thread stops, for the short time of an injected call.
    pub(super) fn await_stop(&self, slot: &Slot) -> Result<(Stopped, Status), Died> {
        loop {
            match slot.take(None) {
                Found::Gone => return Err(Died),
                Found::Stop(stopped, status) => return Ok((stopped, status)),
                Found::Nothing => match requests::wait(-1, 0) {
                    Ok(Some((tid, status))) => self.dispatch(tid, status),
                    Ok(None) => {}
                    Err(_) => return Err(Died),
                },
            }
        }
    }

    /// Stores one event and wakes who waits for it.
    fn dispatch(&self, tid: i32, status: Status) {
        let slot = {
            let mut tracees = self.tracees.lock();
            let slot = match status {
                Status::Gone => tracees.slots.remove(&tid),
                _ => tracees.slots.get(&tid).map(Arc::clone),
            };
            match slot {
                Some(slot) => slot,
                None => {
                    if tracees.expecting {
                        tracees.early.push((tid, status));
                    }
                    return;
                }
            }
        };
        let mut state = slot.state.lock();
        if std::mem::take(&mut state.is_running) {
            self.running.fetch_sub(1, SeqCst);
        }
        if status == Status::Gone {
            state.gone = true;
            state.stop = None;
            slot.space.remove(tid);
        } else if let Some(call) = state.leaving {
            drop(state);
            self.leave(&slot, Stopped::after_wait(tid), call);
            return;
        } else {
            state.stop = Some(status);
        }
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Lets application code run.
    pub(super) fn run(&self, slot: &Slot, stopped: Stopped) -> Result<(), Died> {
        self.set_running(slot);
        stopped.resume(Mode::Emulated).map_err(|_| Died)
    }

    /// Lets the gadget run: the registers must have been loaded.
    pub(super) fn run_gadget(&self, slot: &Slot, stopped: Stopped) -> Result<(), Died> {
        self.set_running(slot);
        stopped.resume(Mode::Direct).map_err(|_| Died)
    }

    fn set_running(&self, slot: &Slot) {
        let mut state = slot.state.lock();
        if !std::mem::replace(&mut state.is_running, true) {
            self.running.fetch_add(1, SeqCst);
        }
    }

    /// Makes a stopped thread execute one call at the gadget, and waits for it.
    pub(super) fn inject(
        &self,
        slot: &Slot,
        stopped: Stopped,
        call: c_long,
        arguments: [u64; 6],
    ) -> Result<(Stopped, Result<u64, Errno>), Died> {
        stopped.load(&self.reserved.call_registers(call, arguments)).map_err(|_| Died)?;
        stopped.resume(Mode::Direct).map_err(|_| Died)?;
        loop {
            let (stopped, status) = self.await_stop(slot)?;
            match self.injected_result(slot, &stopped, status)? {
                Some(rax) => return Ok((stopped, returned(rax))),
                None => stopped.resume(Mode::Direct).map_err(|_| Died)?,
            }
        }
    }

    /// What the injected call returned, if this stop is its end; `None` if it is a signal in between.
    pub(super) fn injected_result(
        &self,
        slot: &Slot,
        stopped: &Stopped,
        status: Status,
    ) -> Result<Option<u64>, Died> {
        match status {
            Status::Signal(libc::SIGTRAP) => {
                let registers = stopped.registers().map_err(|_| Died)?;
                Ok((registers.rip == self.reserved.after_call()).then_some(registers.rax))
            }
            // The gadget itself cannot fault; if it does, something is badly wrong with this stub.
            Status::Signal(libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGSYS)
                if stopped.signal().map_err(|_| Died)?.code > 0 =>
            {
                slot.kill();
                Err(Died)
            }
            _ => Ok(None),
        }
    }

    /// Makes a stopped thread end itself; nobody waits for it.
    pub(super) fn leave(&self, slot: &Slot, stopped: Stopped, call: c_long) {
        let first = slot.state.lock().leaving.replace(call).is_none();
        if first && call == libc::SYS_exit {
            // Its memory may live on with other threads, but not through it.
            slot.space.remove(slot.tid);
        }
        let registers = self.reserved.call_registers(call, [0; 6]);
        let ready = stopped.enter_64_bit_mode().and_then(|()| stopped.load(&registers));
        // An error means that it is dying already.
        let _ = ready.and_then(|()| stopped.resume(Mode::Direct));
    }

    /// Ends a thread whose context was dropped, whatever it is doing.
    pub(super) fn abandon(&self, slot: &Arc<Slot>, held: Option<Stopped>) {
        match held {
            Some(stopped) if self.is_worker() => self.leave(slot, stopped, libc::SYS_exit),
            Some(_) => {
                self.leavers.lock().push(Arc::clone(slot));
                self.bell.ring();
            }
            None => {
                let fetched = {
                    let mut state = slot.state.lock();
                    state.leaving.get_or_insert(libc::SYS_exit);
                    state.stop.take().is_some()
                };
                if fetched {
                    self.abandon(slot, Some(Stopped::after_wait(slot.tid)));
                } else {
                    slot.signal(bell::SIGNAL);
                }
            }
        }
    }
}

impl Drop for Shared {
    /// Ends all stubs and reaps them, if the worker drops the platform (tests do); otherwise the end
    /// of the worker does it (`PTRACE_O_EXITKILL`).
    fn drop(&mut self) {
        if let SeedThread::Loose(tid) = *self.seed.get_mut() {
            super::seed::destroy(tid);
        }
        if !self.is_worker() {
            return;
        }
        for slot in self.tracees.get_mut().slots.values() {
            slot.kill();
        }
        while !self.tracees.get_mut().slots.is_empty() {
            match requests::wait(-1, 0) {
                Ok(Some((tid, Status::Gone))) => {
                    self.tracees.get_mut().slots.remove(&tid);
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}
