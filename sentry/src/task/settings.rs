//! What a thread asked for and is told again: scheduling, personality, segment bases.
//!
//! Nothing here changes how the host runs the thread, as it is now; the calls that set these values say so in their
//! support text. One value behind one lock in each [`super::Task`].

/// Default of `PR_SET_TIMERSLACK`, 50 µs as on Linux.
pub const TIMER_SLACK_DEFAULT_NS: u64 = 50_000;

/// See the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskSettings {
    /// `SCHED_*` policy without flags.
    pub policy: i32,
    /// `SCHED_RESET_ON_FORK`.
    pub reset_on_fork: bool,
    /// `ioprio_set`; 0: derived from the nice value.
    pub io_priority: u16,
    /// `PR_SET_TIMERSLACK`.
    pub timer_slack_ns: u64,
    /// `ADDR_NO_RANDOMIZE`: programs started from here on lie where they would without randomness.
    pub no_randomization: bool,
    /// FS base as a call set it last.
    pub fs_base: u64,
    /// GS base as a call set it last.
    pub gs_base: u64,
}

impl Default for TaskSettings {
    fn default() -> Self {
        Self {
            policy: 0,
            reset_on_fork: false,
            io_priority: 0,
            timer_slack_ns: TIMER_SLACK_DEFAULT_NS,
            no_randomization: false,
            fs_base: 0,
            gs_base: 0,
        }
    }
}

impl TaskSettings {
    /// As a new thread or process inherits them; `fs_base` is the base it begins with if not its parent's.
    #[must_use]
    pub fn for_child(self, fs_base: Option<u64>) -> Self {
        Self { reset_on_fork: false, fs_base: fs_base.unwrap_or(self.fs_base), ..self }
    }
}
