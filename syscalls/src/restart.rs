//! `restart_syscall`: goes on with a wait whose timeout is partly over.
//!
//! A call that ends with `Restart::Block` has left a [`RestartBlock`]; each kind is continued by the
//! family that left it.

use std::sync::Arc;

use abi::errno::EINTR;
use abi::user::UserAddress;
use sentry::task::{RestartBlock, Task};
use sentry::wait::CallResult;

use crate::table::{Entry, IntoRegister, Support, call};
use crate::{clocks, futex, poll_epoll};

/// The calls of this file.
pub const CALLS: &[Entry] = &[call!(RESTART_SYSCALL, sys_restart_syscall, wait 0, Support::Full)];

/// `restart_syscall(2)` <https://man7.org/linux/man-pages/man2/restart_syscall.2.html>
pub async fn sys_restart_syscall(task: &Arc<Task>) -> CallResult<u64> {
    let block = task.restart_block.lock().take();
    match block {
        Some(RestartBlock::Sleep { deadline, remaining }) => {
            clocks::sleep_until(task, deadline, remaining).await.map(|()| 0)
        }
        Some(RestartBlock::Futex { arguments, deadline }) => {
            futex::continue_wait(task, arguments, deadline).await.map(|()| 0)
        }
        Some(RestartBlock::Poll { descriptors, count, deadline }) => {
            let ready = poll_epoll::poll_until(task, UserAddress(descriptors), count, deadline).await?;
            Ok(ready.into_register())
        }
        // The application asked for it, not the kernel.
        None => Err(EINTR.into()),
    }
}
