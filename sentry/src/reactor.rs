//! The thread that waits for the host: timers, host descriptors (standard streams, a terminal), and
//! signals sent to the sentry's process (`SIGCHLD` when a stub ends).

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SigSet, SignalFd};
use parking_lot::Mutex;

use crate::executor::Executor;
use crate::time::Timers;
use crate::wait::{Observer, PollEvents};

const TIMER_KEY: u64 = 0;
const SIGNAL_KEY: u64 = 1;
const FIRST_WATCH_KEY: u64 = 2;

/// The host signals the sentry listens to. They must be blocked in every thread of the sentry.
pub fn host_signals() -> SigSet {
    std::iter::once(Signal::SIGCHLD).collect()
}

/// See the module's text.
pub struct Reactor {
    epoll: Epoll,
    signals: SignalFd,
    timers: Arc<Timers>,
    watches: Mutex<HashMap<u64, Arc<dyn Observer>>>,
    next: AtomicU64,
}

impl Reactor {
    /// A reactor that is not running yet. Blocks [`host_signals`] in the calling thread, so that
    /// the threads it starts inherit that.
    ///
    /// # Errors
    /// The host refuses the descriptors.
    pub fn new(timers: Arc<Timers>) -> nix::Result<Arc<Self>> {
        let mask = host_signals();
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(timers.host(), EpollEvent::new(EpollFlags::EPOLLIN, TIMER_KEY))?;
        epoll.add(&signals, EpollEvent::new(EpollFlags::EPOLLIN, SIGNAL_KEY))?;
        Ok(Arc::new(Self {
            epoll,
            signals,
            timers,
            watches: Mutex::default(),
            next: AtomicU64::new(FIRST_WATCH_KEY),
        }))
    }

    /// Tells `observer` whenever the readiness of a host descriptor changes (edge-triggered).
    ///
    /// # Errors
    /// `EPERM` for a descriptor that is always ready (a regular file).
    pub fn watch(
        self: &Arc<Self>,
        descriptor: impl AsFd + Send + Sync + 'static,
        observer: Arc<dyn Observer>,
    ) -> nix::Result<Watch> {
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        self.watches.lock().insert(key, observer);
        let events = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLPRI
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        if let Err(errno) = self.epoll.add(&descriptor, EpollEvent::new(events, key)) {
            self.watches.lock().remove(&key);
            return Err(errno);
        }
        Ok(Watch { reactor: Arc::downgrade(self), key, descriptor: Box::new(descriptor) })
    }

    /// Runs for ever on the calling thread. `on_signal` hears of every host signal.
    pub fn run(&self, executor: &Executor, on_signal: impl Fn(Signal)) {
        executor.adopt_thread();
        let mut events = [EpollEvent::empty(); 32];
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(nix::Error::EINTR) => 0,
                Err(errno) => {
                    tracing::error!(%errno, "the reactor cannot wait");
                    return;
                }
            };
            for event in events.iter().take(count) {
                match event.data() {
                    TIMER_KEY => self.timers.run_expired(),
                    SIGNAL_KEY => self.read_signals(&on_signal),
                    key => {
                        let observer = self.watches.lock().get(&key).cloned();
                        if let Some(observer) = observer {
                            observer.notify(poll_events(event.events()));
                        }
                    }
                }
                executor.drain();
            }
        }
    }

    fn read_signals(&self, on_signal: &impl Fn(Signal)) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            if let Some(signal) = i32::try_from(info.ssi_signo).ok().and_then(|s| Signal::try_from(s).ok()) {
                on_signal(signal);
            }
        }
    }
}

fn poll_events(flags: EpollFlags) -> PollEvents {
    PollEvents::from_bits_truncate(flags.bits().cast_unsigned())
}

trait Descriptor: Send + Sync {
    fn borrow(&self) -> BorrowedFd<'_>;
}

impl<T: AsFd + Send + Sync> Descriptor for T {
    fn borrow(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}

/// Ends when dropped.
pub struct Watch {
    reactor: Weak<Reactor>,
    key: u64,
    descriptor: Box<dyn Descriptor>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(reactor) = self.reactor.upgrade() {
            let _ = reactor.epoll.delete(self.descriptor.borrow());
            let removed = reactor.watches.lock().remove(&self.key);
            drop(removed);
        }
    }
}
