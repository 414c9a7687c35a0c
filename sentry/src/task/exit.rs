//! The end of a thread and of a process.

use std::sync::Arc;

use super::{ExitStatus, Task};

impl Task {
    /// Ends the thread.
    pub(crate) async fn exit(self: &Arc<Self>, status: ExitStatus) {
        let _ = status;
    }
}
