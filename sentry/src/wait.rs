//! Waiting: queues of observers, and the errors a wait may end with.
//!
//! A kernel object on which somebody may wait owns a [`WaitQueue`]. Whoever changes the object's
//! state calls [`WaitQueue::wake`] *after* the change and outside of the object's lock; whoever waits
//! subscribes *before* looking at the state. So no wake-up is lost.
//!
//! An interrupted wait is not an errno: [`Interrupted`] has no conversion to [`Errno`], so that
//! every system call has to say which restart rule applies ([`OnInterrupt::on_interrupt`]).

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Wake, Waker};

use abi::errno::Errno;
use parking_lot::Mutex;
use smallvec::SmallVec;

bitflags::bitflags! {
    /// Readiness of a file, in the values of `man 2 poll`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct PollEvents: u32 {
        /// Data can be read.
        const IN = 0x1;
        /// Urgent data.
        const PRI = 0x2;
        /// Data can be written.
        const OUT = 0x4;
        /// An error is pending; always reported.
        const ERR = 0x8;
        /// The other end is gone; always reported.
        const HUP = 0x10;
        /// The descriptor is not open (`poll` only).
        const NVAL = 0x20;
        /// As `IN`.
        const RDNORM = 0x40;
        /// Out-of-band data.
        const RDBAND = 0x80;
        /// As `OUT`.
        const WRNORM = 0x100;
        /// Priority data may be written.
        const WRBAND = 0x200;
        /// The other end has shut down writing.
        const RDHUP = 0x2000;
    }
}

impl PollEvents {
    /// Readable, in both spellings.
    pub const READABLE: Self = Self::IN.union(Self::RDNORM);
    /// Writable, in both spellings.
    pub const WRITABLE: Self = Self::OUT.union(Self::WRNORM);
    /// What is reported without being asked for.
    pub const ALWAYS: Self = Self::ERR.union(Self::HUP);
}

/// Something that wants to hear of a change.
pub trait Observer: Send + Sync {
    /// One of the events subscribed to may have happened. Called without locks of the object held;
    /// must not wait.
    fn notify(&self, events: PollEvents);
}

struct WakerObserver(Waker);

impl Observer for WakerObserver {
    fn notify(&self, _events: PollEvents) {
        self.0.wake_by_ref();
    }
}

/// An observer that wakes a future.
pub fn observer_of(waker: &Waker) -> Arc<dyn Observer> {
    Arc::new(WakerObserver(waker.clone()))
}

#[derive(Default)]
struct Observers {
    next: u64,
    list: Vec<(u64, PollEvents, Arc<dyn Observer>)>,
}

/// The observers of one kernel object.
#[derive(Default)]
pub struct WaitQueue {
    observers: Mutex<Observers>,
}

impl WaitQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self { observers: Mutex::new(Observers { next: 0, list: Vec::new() }) }
    }

    /// Adds an observer for some events (`ERR` and `HUP` are always included); returns the key for
    /// [`WaitQueue::unsubscribe`].
    pub fn subscribe(&self, mask: PollEvents, observer: Arc<dyn Observer>) -> u64 {
        let mut observers = self.observers.lock();
        observers.next += 1;
        let key = observers.next;
        observers.list.push((key, mask | PollEvents::ALWAYS, observer));
        key
    }

    /// Removes an observer; unknown keys are ignored.
    pub fn unsubscribe(&self, key: u64) {
        let removed = {
            let mut observers = self.observers.lock();
            let position = observers.list.iter().position(|(k, ..)| *k == key);
            position.map(|index| observers.list.remove(index))
        };
        drop(removed);
    }

    /// Notifies everybody who subscribed to one of `events`.
    pub fn wake(&self, events: PollEvents) {
        let hit: SmallVec<[Arc<dyn Observer>; 8]> = {
            let observers = self.observers.lock();
            observers
                .list
                .iter()
                .filter(|(_, mask, _)| mask.intersects(events))
                .map(|(.., o)| o.clone())
                .collect()
        };
        for observer in hit {
            observer.notify(events);
        }
    }

    /// Notifies everybody.
    pub fn wake_all(&self) {
        self.wake(PollEvents::all());
    }

    /// Whether nobody listens.
    pub fn is_idle(&self) -> bool {
        self.observers.lock().list.is_empty()
    }

    /// Subscribes for as long as the returned guard lives.
    pub fn subscribe_scoped(&self, mask: PollEvents, observer: Arc<dyn Observer>) -> Subscription<'_> {
        Subscription { queue: self, key: self.subscribe(mask, observer) }
    }

    /// Waits, without being interruptible, until `attempt` gives a value. For waits that are
    /// bounded by the kernel's own progress.
    pub async fn until<T>(&self, mask: PollEvents, mut attempt: impl FnMut() -> Option<T>) -> T {
        if let Some(value) = attempt() {
            return value;
        }
        let mut subscription: Option<Subscription<'_>> = None;
        poll_fn(|wake| {
            if subscription.is_none() {
                subscription = Some(self.subscribe_scoped(mask, observer_of(wake.waker())));
            }
            attempt().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// Ends a subscription when dropped.
pub struct Subscription<'a> {
    queue: &'a WaitQueue,
    key: u64,
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        self.queue.unsubscribe(self.key);
    }
}

/// A wait was ended by a signal (or by something else that needs the task at a trap boundary).
/// Deliberately without a conversion to [`Errno`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

/// A wait with a deadline that gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitError {
    /// See [`Interrupted`].
    Interrupted,
    /// The deadline passed.
    TimedOut,
}

/// What becomes of an interrupted system call (`man 7 signal`, "Interruption of system calls").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Restarted if the handler has `SA_RESTART` or none runs; else `EINTR` (`ERESTARTSYS`).
    Sys,
    /// Always restarted (`ERESTARTNOINTR`).
    NoIntr,
    /// Restarted only if no handler runs; else `EINTR` (`ERESTARTNOHAND`).
    NoHand,
    /// As `NoHand`, but through `restart_syscall(2)` and the task's restart block
    /// (`ERESTART_RESTARTBLOCK`).
    Block,
    /// `EINTR` in every case.
    Never,
}

/// Why a system call has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It failed.
    Error(Errno),
    /// It was interrupted before it had an effect.
    Restart(Restart),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Error(errno)
    }
}

/// What a system call's body returns.
pub type CallResult<T> = Result<T, Failure>;

/// Says which restart rule an interrupted wait follows.
pub trait OnInterrupt<T> {
    /// Turns an interruption into the given restart.
    ///
    /// # Errors
    /// The restart; `ETIMEDOUT` for a deadline that passed.
    fn on_interrupt(self, restart: Restart) -> CallResult<T>;
}

impl<T> OnInterrupt<T> for Result<T, Interrupted> {
    fn on_interrupt(self, restart: Restart) -> CallResult<T> {
        self.map_err(|Interrupted| Failure::Restart(restart))
    }
}

impl<T> OnInterrupt<T> for Result<T, WaitError> {
    fn on_interrupt(self, restart: Restart) -> CallResult<T> {
        self.map_err(|error| match error {
            WaitError::Interrupted => Failure::Restart(restart),
            WaitError::TimedOut => Failure::Error(abi::errno::ETIMEDOUT),
        })
    }
}

/// A fair mutex whose lock is awaited, for sequences that contain waits bounded by the kernel's own
/// progress (changes of one address space). Not a lock of the lock order: nothing else waits while
/// holding it.
#[derive(Default)]
pub struct Gate {
    held: Mutex<bool>,
    queue: WaitQueue,
}

impl Gate {
    /// Enters; leaves when the guard is dropped.
    pub async fn enter(self: &Arc<Self>) -> GateGuard {
        self.queue.until(PollEvents::IN, || self.try_enter()).await
    }

    /// Enters if nobody is inside.
    pub fn try_enter(self: &Arc<Self>) -> Option<GateGuard> {
        let mut held = self.held.lock();
        if *held {
            return None;
        }
        *held = true;
        Some(GateGuard { gate: Arc::clone(self) })
    }
}

/// See [`Gate::enter`].
pub struct GateGuard {
    gate: Arc<Gate>,
}

impl Drop for GateGuard {
    fn drop(&mut self) {
        *self.gate.held.lock() = false;
        self.gate.queue.wake(PollEvents::IN);
    }
}

/// Wakes nothing; for polling a future once.
pub struct NoWake;

impl Wake for NoWake {
    fn wake(self: Arc<Self>) {}
}
