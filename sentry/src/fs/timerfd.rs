//! `timerfd`: a timer that is a file.

use std::any::Any;
use std::sync::{Arc, Weak};

use abi::errno::{EAGAIN, EINVAL, SysResult};
use abi::time::TimerSetting;
use parking_lot::Mutex;

use crate::task::Credentials;
use crate::time::{Instant, Timer, TimerTarget, Timers};
use crate::vfs::{AnonymousInode, AnonymousKind, FileDescription, FileOps};
use crate::wait::{PollEvents, WaitQueue};

#[derive(Default)]
struct State {
    /// The next expiration; `None` while disarmed.
    next: Option<Instant>,
    interval_ns: u64,
    expirations: u64,
    timer: Option<Timer>,
}

/// A timer file.
pub struct TimerFile {
    state: Mutex<State>,
    queue: WaitQueue,
    timers: Arc<Timers>,
    /// The clock it was made with, for `TFD_TIMER_ABSTIME`.
    pub clock: i32,
    own: Weak<TimerFile>,
}

/// A new timer file, disarmed. `flags` are status flags.
pub fn new_timerfd(
    timers: &Arc<Timers>,
    clock: i32,
    flags: u32,
    credentials: &Credentials,
) -> Arc<FileDescription> {
    let ops = Arc::new_cyclic(|own| TimerFile {
        state: Mutex::default(),
        queue: WaitQueue::new(),
        timers: Arc::clone(timers),
        clock,
        own: own.clone(),
    });
    let inode = AnonymousInode::new(AnonymousKind::Other("timerfd"), credentials.fsuid, credentials.fsgid);
    FileDescription::new(ops, inode, None, flags | libc::O_RDWR.cast_unsigned())
}

/// The timer behind a descriptor.
///
/// # Errors
/// `EINVAL`: it is none.
pub fn timer_of(file: &FileDescription) -> SysResult<&TimerFile> {
    file.ops.as_any().downcast_ref().ok_or(EINVAL)
}

impl TimerTarget for TimerFile {
    fn expired(&self) {
        let due = {
            let mut state = self.state.lock();
            state.count_expirations();
            self.arm(&mut state);
            state.expirations != 0
        };
        if due {
            self.queue.wake(PollEvents::READABLE);
        }
    }
}

impl State {
    /// Moves expirations that have happened from the timer into the counter.
    fn count_expirations(&mut self) {
        let Some(next) = self.next else { return };
        let now = Instant::now();
        if now < next {
            return;
        }
        if self.interval_ns == 0 {
            self.expirations += 1;
            self.next = None;
            return;
        }
        let passed = (now.0 - next.0) / self.interval_ns + 1;
        self.expirations = self.expirations.saturating_add(passed);
        self.next = Some(next.after_ns(passed.saturating_mul(self.interval_ns)));
    }

    fn setting(&self) -> TimerSetting {
        // A timer that is armed never shows zero.
        let value_ns = self.next.map_or(0, |next| next.remaining_ns().max(1));
        TimerSetting { value_ns, interval_ns: self.interval_ns }
    }
}

impl TimerFile {
    fn arm(&self, state: &mut State) {
        let target = self.own.upgrade().map(|own| own as Arc<dyn TimerTarget>);
        state.timer = state
            .next
            .zip(target)
            .map(|(next, target)| self.timers.start(next, Arc::new(Forward(Arc::downgrade(&target)))));
    }

    /// `timerfd_settime`, with the first expiration as an instant (`None`: disarm); returns the old setting.
    pub fn set(&self, next: Option<Instant>, interval_ns: u64) -> TimerSetting {
        let mut state = self.state.lock();
        state.count_expirations();
        let old = state.setting();
        state.expirations = 0;
        state.next = next;
        state.interval_ns = interval_ns;
        self.arm(&mut state);
        old
    }

    /// `timerfd_gettime`
    pub fn get(&self) -> TimerSetting {
        let mut state = self.state.lock();
        state.count_expirations();
        state.setting()
    }
}

/// Keeps armed timers from keeping their file alive.
struct Forward(Weak<dyn TimerTarget>);

impl TimerTarget for Forward {
    fn expired(&self) {
        if let Some(target) = self.0.upgrade() {
            target.expired();
        }
    }
}

impl FileOps for TimerFile {
    fn read(&self, _offset: u64, buffer: &mut [u8], _file: &FileDescription) -> SysResult<usize> {
        let place = buffer.first_chunk_mut::<8>().ok_or(EINVAL)?;
        let mut state = self.state.lock();
        state.count_expirations();
        if state.expirations == 0 {
            return Err(EAGAIN);
        }
        *place = std::mem::take(&mut state.expirations).to_le_bytes();
        Ok(8)
    }

    fn is_seekable(&self) -> bool {
        false
    }

    fn poll(&self, _file: &FileDescription) -> PollEvents {
        let mut state = self.state.lock();
        state.count_expirations();
        if state.expirations == 0 { PollEvents::empty() } else { PollEvents::READABLE }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
