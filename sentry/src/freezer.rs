//! Stopping all tasks at their next trap boundary (`runsc pause`), and letting them go on.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::wait::{PollEvents, WaitQueue};

/// See the module's text.
#[derive(Default)]
pub struct Freezer {
    frozen: AtomicBool,
    thawed: WaitQueue,
    /// Told when a task has left the application while the freezer is on.
    pub arrivals: WaitQueue,
}

impl Freezer {
    /// Makes tasks stop at their next boundary; the caller then makes them come to one.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::SeqCst);
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.frozen.store(false, Ordering::SeqCst);
        self.thawed.wake(PollEvents::IN);
    }

    /// Whether tasks have to stop.
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::SeqCst)
    }

    /// Waits while frozen, unless `leave` says that the task has to end.
    pub(crate) async fn pass(&self, leave: impl Fn() -> bool) {
        if self.is_frozen() {
            self.arrivals.wake_all();
            self.thawed.until(PollEvents::IN, || (!self.is_frozen() || leave()).then_some(())).await;
        }
    }
}
