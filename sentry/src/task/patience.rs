//! How long a thread that has to leave the application may take for it.
//!
//! The platform interrupts it by a signal, which a hostile thread can mask on the host (by returning from a signal frame
//! of its own making, see the platform's README). It must not outlive its process for that, nor hold up a pause: when
//! its time is up its host process is killed.

use std::task::Context as WakeContext;

use platform::Context;

use super::Task;
use crate::time::{Instant, SECOND_NS, Timer};

/// For a thread that has to end. An honest one takes microseconds; a host may be busy.
const EXIT_NS: u64 = 5 * SECOND_NS;
/// For a thread that has to pause, which is none of its fault.
const PAUSE_NS: u64 = 30 * SECOND_NS;

/// The deadline of one stay in the application, if there is one.
#[derive(Default)]
pub(super) struct Patience {
    deadline: Option<(Instant, Timer)>,
}

impl Patience {
    /// To be called whenever the task is polled and has not left the application; arranges for the next poll.
    pub(super) fn judge(&mut self, task: &Task, context: &mut dyn Context, wake: &WakeContext<'_>) {
        if !task.signals.attention.is_raised() {
            self.deadline = None;
            return;
        }
        let allowed_ns = if task.must_exit.lock().is_some() {
            EXIT_NS
        } else if task.kernel.freezer.is_frozen() {
            PAUSE_NS
        } else {
            self.deadline = None;
            return;
        };
        let sooner = Instant::now().after_ns(allowed_ns);
        match &self.deadline {
            // A pause may turn into an exit.
            Some((deadline, _)) if deadline.remaining_ns() > allowed_ns => self.deadline = None,
            Some((deadline, _)) if deadline.remaining_ns() == 0 => {
                tracing::warn!(
                    tid = task.tid(),
                    "a thread cannot be interrupted: its host process is killed"
                );
                context.kill();
                // Its death is the next trap; should that not be told to us, we look again.
                self.deadline = None;
            }
            Some(_) => return,
            None => {}
        }
        let timer = task.kernel.timers.wake_at(sooner, wake.waker());
        self.deadline = Some((sooner, timer));
    }
}
