//! `getrandom`.

use std::sync::Arc;
use std::task::Poll;

use abi::errno::{EFAULT, EINVAL, SysResult};
use abi::process::GetrandomFlags;
use abi::user::UserAddress;
use sentry::task::{Reply, Task};
use sentry::wait::{CallResult, Failure};

use crate::table::{Entry, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[call!(GETRANDOM, sys_getrandom, now 3, Support::Full)];

/// Bytes that are made at once, so that neither much memory nor a worker's time is taken by one call.
const PIECE: usize = 64 << 10;

/// `getrandom(2)` <https://man7.org/linux/man-pages/man2/getrandom.2.html>
pub fn sys_getrandom(
    task: &Arc<Task>,
    address: UserAddress,
    count: usize,
    flags: GetrandomFlags,
) -> Reply<'_> {
    let both = GetrandomFlags::GRND_RANDOM | GetrandomFlags::GRND_INSECURE;
    if !GetrandomFlags::all().contains(flags) || flags.contains(both) {
        return Reply::Now(Err(Failure::Error(EINVAL)));
    }
    if count <= PIECE {
        let result = copy_random(task, address.address(), count);
        return Reply::Now(result.map(|done| done as u64).map_err(Failure::from));
    }
    let count = count.min(i32::MAX as usize & !0xfff);
    Reply::Later(Box::pin(async move { Reply::Now(copy_much(task, address.address(), count).await) }))
}

/// Copies one piece out; short if only a part of the memory can be written.
fn copy_random(task: &Task, address: u64, count: usize) -> SysResult<usize> {
    let mut bytes = vec![0; count];
    sentry::random::fill(&mut bytes)?;
    task.write_memory(address, &bytes)
}

/// Copies piece by piece. A signal or the end of the memory ends it early, as on Linux.
async fn copy_much(task: &Task, address: u64, count: usize) -> CallResult<u64> {
    let mut done = 0;
    while done < count && (done == 0 || !task.is_interrupted()) {
        let length = PIECE.min(count - done);
        let at = address.checked_add(done as u64).ok_or(EFAULT);
        match at.and_then(|at| copy_random(task, at, length)) {
            Ok(copied) => {
                done += copied;
                if copied < length {
                    break;
                }
            }
            Err(_) if done != 0 => break,
            Err(errno) => return Err(errno.into()),
        }
        yield_to_others().await;
    }
    Ok(done as u64)
}

/// Lets the worker run somebody else.
async fn yield_to_others() {
    let mut yielded = false;
    std::future::poll_fn(|wake| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        wake.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
