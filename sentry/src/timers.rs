//! Timers of a process: `setitimer`, `timer_create`.

/// See the module's text.
#[derive(Default)]
pub struct ProcessTimers {}
