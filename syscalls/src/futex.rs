//! `futex`, its newer single-purpose calls, and robust lists.
//!
//! Keys, queues and the wait itself are in [`sentry::futex`].

use std::sync::Arc;

use abi::errno::{EAGAIN, EINVAL, ENOSYS, EOPNOTSUPP, EPERM, ESRCH, SysResult};
use abi::futexes::{
    FUTEX_CMP_REQUEUE, FUTEX_LOCK_PI2, FUTEX_NAMES, FUTEX_OP_ADD, FUTEX_OP_ANDN, FUTEX_OP_CMP_EQ,
    FUTEX_OP_CMP_GE, FUTEX_OP_CMP_GT, FUTEX_OP_CMP_LE, FUTEX_OP_CMP_LT, FUTEX_OP_CMP_NE, FUTEX_OP_OR,
    FUTEX_OP_SET, FUTEX_OP_XOR, FUTEX_REQUEUE, FUTEX_WAIT, FUTEX_WAIT_BITSET, FUTEX_WAIT_REQUEUE_PI,
    FUTEX_WAITV_MAX, FUTEX_WAKE, FUTEX_WAKE_BITSET, FUTEX_WAKE_OP, Futex2Flags, FutexFlags, FutexOp,
    FutexWaitv, RobustListHead, WakeOp,
};
use abi::time::{CLOCK_MONOTONIC, CLOCK_REALTIME, Timespec};
use abi::user::{FromRegister, UserAddress};
use sentry::futex::{FutexPlace, FutexWaitError, FutexWord, MATCH_ANY, Sharing};
use sentry::task::{Reply, RestartBlock, Task};
use sentry::time::{Clock, HostClock, Instant};
use sentry::wait::{CallResult, Failure, OnInterrupt, Restart, WaitError};

use crate::table::{Entry, Support, call, option_name, unimplemented_option};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(
        FUTEX,
        sys_futex,
        now 6,
        Support::Partial(
            "no priority inheritance; on a platform without remote atomics FUTEX_WAKE_OP can lose a change \
             that another thread makes to its second word at the same moment"
        )
    ),
    call!(FUTEX_WAITV, sys_futex_waitv, wait 5, Support::Full),
    call!(FUTEX_WAKE, sys_futex_wake, now 4, Support::Full),
    call!(FUTEX_WAIT, sys_futex_wait, wait 6, Support::Full),
    call!(FUTEX_REQUEUE, sys_futex_requeue, now 4, Support::Full),
    call!(SET_ROBUST_LIST, sys_set_robust_list, now 2, Support::Full),
    call!(GET_ROBUST_LIST, sys_get_robust_list, now 3, Support::Full),
];

/// The arguments of `futex(2)` besides the task.
#[derive(Clone, Copy)]
struct Arguments {
    address: u64,
    op: FutexOp,
    value: u32,
    /// A timeout's address, or a number.
    fourth: u64,
    second_address: u64,
    third_value: u32,
}

impl Arguments {
    fn sharing(self) -> Sharing {
        if self.op.flags().contains(FutexFlags::FUTEX_PRIVATE_FLAG) {
            Sharing::Private
        } else {
            Sharing::Shared
        }
    }
}

/// `futex(2)` <https://man7.org/linux/man-pages/man2/futex.2.html>
pub fn sys_futex(
    task: &Arc<Task>,
    address: u64,
    op: FutexOp,
    value: u32,
    fourth: u64,
    second_address: u64,
    third_value: u32,
) -> Reply<'_> {
    let arguments = Arguments { address, op, value, fourth, second_address, third_value };
    let deadline = match deadline_of(task, arguments) {
        Ok(deadline) => deadline,
        Err(errno) => return Reply::Now(Err(Failure::Error(errno))),
    };
    let clock_allowed = matches!(op.command(), FUTEX_WAIT_BITSET | FUTEX_WAIT_REQUEUE_PI | FUTEX_LOCK_PI2);
    if op.flags().contains(FutexFlags::FUTEX_CLOCK_REALTIME) && !clock_allowed {
        return Reply::Now(Err(Failure::Error(ENOSYS)));
    }
    if matches!(op.command(), FUTEX_WAIT | FUTEX_WAIT_BITSET) {
        return match enter(task, arguments) {
            Ok(place) => Reply::Later(Box::pin(async move {
                Reply::Now(wait(task, place, arguments, deadline).await.map(|()| 0))
            })),
            Err(errno) => Reply::Now(Err(Failure::Error(errno))),
        };
    }
    Reply::Now(at_once(task, arguments).map(|count| count as u64).map_err(Failure::from))
}

/// When a wait ends: relative for `FUTEX_WAIT`, absolute for all others that have a timeout.
fn deadline_of(task: &Task, arguments: Arguments) -> SysResult<Option<Instant>> {
    let op = arguments.op;
    if arguments.fourth == 0 || !op.has_timeout() {
        return Ok(None);
    }
    let time_ns = task.read_value::<Timespec>(arguments.fourth)?.timeout_ns()?;
    Ok(Some(if op.command() == FUTEX_WAIT {
        Instant::now().after_ns(time_ns)
    } else if op.flags().contains(FutexFlags::FUTEX_CLOCK_REALTIME) {
        realtime_deadline(time_ns)
    } else {
        Instant(time_ns)
    }))
}

fn realtime_deadline(time_ns: u64) -> Instant {
    Clock::Host(HostClock::CLOCK_REALTIME).deadline(time_ns)
}

/// Enters the queue of the word.
fn enter(task: &Task, arguments: Arguments) -> SysResult<FutexPlace<'_>> {
    let bitset = if arguments.op.command() == FUTEX_WAIT { MATCH_ANY } else { arguments.third_value };
    if bitset == 0 {
        return Err(EINVAL);
    }
    let key = task.futex_key(arguments.address, arguments.sharing())?;
    task.futex_enter(FutexWord { key, address: arguments.address, expected: arguments.value }, bitset)
}

async fn wait(
    task: &Task,
    place: FutexPlace<'_>,
    arguments: Arguments,
    deadline: Option<Instant>,
) -> CallResult<()> {
    let result = task.futex_wait_at(&[place], deadline).await.map(|_| ()).map_err(FutexWaitError::Wait);
    let Some(deadline) = deadline else { return finish(result, Restart::Sys) };
    if matches!(result, Err(FutexWaitError::Wait(WaitError::Interrupted))) {
        let Arguments { address, op, value, fourth, second_address, third_value } = arguments;
        let arguments = [address, op.0.into(), value.into(), fourth, second_address, third_value.into()];
        *task.restart_block.lock() = Some(RestartBlock::Futex { arguments, deadline });
    }
    finish(result, Restart::Block)
}

/// Goes on with an interrupted wait that has a timeout.
pub(crate) async fn continue_wait(
    task: &Arc<Task>,
    arguments: [u64; 6],
    deadline: Instant,
) -> CallResult<()> {
    let [address, op, value, fourth, second_address, third_value] = arguments;
    let arguments = Arguments {
        address,
        op: FutexOp::from_register(op),
        value: u32::from_register(value),
        fourth,
        second_address,
        third_value: u32::from_register(third_value),
    };
    wait(task, enter(task, arguments)?, arguments, Some(deadline)).await
}

fn finish<T>(result: Result<T, FutexWaitError>, restart: Restart) -> CallResult<T> {
    match result {
        Ok(value) => Ok(value),
        Err(FutexWaitError::Error(errno)) => Err(errno.into()),
        Err(FutexWaitError::Wait(error)) => Err(error).on_interrupt(restart),
    }
}

/// The operations that do not wait.
fn at_once(task: &Task, arguments: Arguments) -> SysResult<usize> {
    let Arguments { address, value, third_value, .. } = arguments;
    let sharing = arguments.sharing();
    match arguments.op.command() {
        FUTEX_WAKE => wake(task, address, sharing, at_least_one(value), MATCH_ANY),
        FUTEX_WAKE_BITSET => wake(task, address, sharing, at_least_one(value), third_value),
        FUTEX_REQUEUE => requeue(task, arguments, None),
        FUTEX_CMP_REQUEUE => requeue(task, arguments, Some(third_value)),
        FUTEX_WAKE_OP => wake_op(task, arguments),
        command => {
            let name = option_name(FUTEX_NAMES, command.into());
            unimplemented_option(task, "futex", name, &[address, arguments.op.0.into()]);
            Err(ENOSYS)
        }
    }
}

/// A number to wake. Linux takes it as signed and stops counting after it has woken somebody, so that less
/// than one is one.
fn at_least_one(value: u32) -> usize {
    usize::try_from(value.cast_signed()).unwrap_or(0).max(1)
}

/// A number to wake or move where negative ones are errors.
fn not_negative(value: i32) -> SysResult<usize> {
    usize::try_from(value).map_err(|_| EINVAL)
}

fn wake(task: &Task, address: u64, sharing: Sharing, count: usize, bitset: u32) -> SysResult<usize> {
    if bitset == 0 {
        return Err(EINVAL);
    }
    let key = task.futex_key(address, sharing)?;
    Ok(task.kernel.futexes.wake(key, count, bitset))
}

fn requeue(task: &Task, arguments: Arguments, expected: Option<u32>) -> SysResult<usize> {
    let second_value = u32::try_from(arguments.fourth & u64::from(u32::MAX)).map_err(|_| EINVAL)?;
    let wake = not_negative(arguments.value.cast_signed())?;
    let limit = not_negative(second_value.cast_signed())?;
    let sharing = arguments.sharing();
    move_waiters(
        task,
        (arguments.address, sharing),
        (arguments.second_address, sharing),
        wake,
        limit,
        expected,
    )
}

fn move_waiters(
    task: &Task,
    from: (u64, Sharing),
    to: (u64, Sharing),
    wake: usize,
    limit: usize,
    expected: Option<u32>,
) -> SysResult<usize> {
    let first = task.futex_key(from.0, from.1)?;
    let second = task.futex_key(to.0, to.1)?;
    if let Some(expected) = expected
        && task.read_value::<u32>(from.0)? != expected
    {
        return Err(EAGAIN);
    }
    let (woken, moved) = task.kernel.futexes.requeue(first, second, wake, limit);
    Ok(woken + moved)
}

fn wake_op(task: &Task, arguments: Arguments) -> SysResult<usize> {
    let sharing = arguments.sharing();
    let first = task.futex_key(arguments.address, sharing)?;
    let second = task.futex_key(arguments.second_address, sharing)?;
    let op = WakeOp::decode(arguments.third_value);
    let old = change_word(task, arguments.second_address, op)?;
    let holds = compare(op, old.cast_signed())?;
    let futexes = &task.kernel.futexes;
    let mut woken = futexes.wake(first, at_least_one(arguments.value), MATCH_ANY);
    if holds {
        let second_count = u32::try_from(arguments.fourth & u64::from(u32::MAX)).map_err(|_| EINVAL)?;
        woken += futexes.wake(second, at_least_one(second_count), MATCH_ANY);
    }
    Ok(woken)
}

/// What `FUTEX_WAKE_OP` makes of a word.
fn operate(op: WakeOp, old: u32) -> SysResult<u32> {
    Ok(match op.operation {
        FUTEX_OP_SET => op.operand,
        FUTEX_OP_ADD => old.wrapping_add(op.operand),
        FUTEX_OP_OR => old | op.operand,
        FUTEX_OP_ANDN => old & !op.operand,
        FUTEX_OP_XOR => old ^ op.operand,
        _ => return Err(ENOSYS),
    })
}

fn compare(op: WakeOp, old: i32) -> SysResult<bool> {
    Ok(match op.comparison {
        FUTEX_OP_CMP_EQ => old == op.compared,
        FUTEX_OP_CMP_NE => old != op.compared,
        FUTEX_OP_CMP_LT => old < op.compared,
        FUTEX_OP_CMP_LE => old <= op.compared,
        FUTEX_OP_CMP_GT => old > op.compared,
        FUTEX_OP_CMP_GE => old >= op.compared,
        _ => return Err(ENOSYS),
    })
}

/// Attempts at an atomic change while other threads change the word too; as Linux does, then `EAGAIN`.
const CHANGE_ATTEMPTS: u32 = 128;

/// Changes the second word of `FUTEX_WAKE_OP`; returns what was there.
fn change_word(task: &Task, address: u64, op: WakeOp) -> SysResult<u32> {
    let memory = task.user_memory();
    let mut old: u32 = task.read_value(address)?;
    for _ in 0..CHANGE_ATTEMPTS {
        let new = operate(op, old)?;
        match memory.compare_exchange_u32(address, old, new) {
            Ok(found) if found == old => return Ok(old),
            Ok(found) => old = found,
            // Not atomic: the race is named in the support text.
            Err(errno) if errno == EOPNOTSUPP => {
                task.write_value(address, &new)?;
                return Ok(old);
            }
            Err(errno) => return Err(errno),
        }
    }
    Err(EAGAIN)
}

/// What the flags of the newer calls say, if they say what is possible (`kernel/futex/futex.h`, `futex_flags_valid`).
fn sharing_of(flags: u32) -> SysResult<Sharing> {
    let known = Futex2Flags::FUTEX2_PRIVATE.bits() | SIZE_MASK;
    if flags & !known != 0 || flags & SIZE_MASK != Futex2Flags::FUTEX2_SIZE_U32.bits() {
        return Err(EINVAL);
    }
    let private = flags & Futex2Flags::FUTEX2_PRIVATE.bits() != 0;
    Ok(if private { Sharing::Private } else { Sharing::Shared })
}

/// The bits of a size in the flags of the newer calls.
const SIZE_MASK: u32 = 3;

/// An absolute timeout of the newer calls.
fn absolute_deadline(task: &Task, timeout: UserAddress, clock: i32) -> SysResult<Option<Instant>> {
    if timeout.is_null() {
        return Ok(None);
    }
    if clock != CLOCK_REALTIME && clock != CLOCK_MONOTONIC {
        return Err(EINVAL);
    }
    let time_ns = task.read_value::<Timespec>(timeout.address())?.timeout_ns()?;
    Ok(Some(if clock == CLOCK_REALTIME { realtime_deadline(time_ns) } else { Instant(time_ns) }))
}

/// A value or mask of the newer calls, which is 64 bits wide for words to come.
fn word_value(value: u64) -> SysResult<u32> {
    u32::try_from(value).map_err(|_| EINVAL)
}

/// `futex_wake(2)` <https://docs.kernel.org/userspace-api/futex2.html>
pub fn sys_futex_wake(task: &Arc<Task>, address: u64, mask: u64, count: i32, flags: u32) -> SysResult<usize> {
    let sharing = sharing_of(flags)?;
    let bitset = word_value(mask)?;
    if bitset == 0 {
        return Err(EINVAL);
    }
    let key = task.futex_key(address, sharing)?;
    let count = if count == 0 { 0 } else { at_least_one(count.cast_unsigned()) };
    Ok(task.kernel.futexes.wake(key, count, bitset))
}

/// `futex_wait(2)` <https://docs.kernel.org/userspace-api/futex2.html>
pub async fn sys_futex_wait(
    task: &Arc<Task>,
    address: u64,
    value: u64,
    mask: u64,
    flags: u32,
    timeout: UserAddress,
    clock: i32,
) -> CallResult<()> {
    let sharing = sharing_of(flags)?;
    let (expected, bitset) = (word_value(value)?, word_value(mask)?);
    let deadline = absolute_deadline(task, timeout, clock)?;
    if bitset == 0 {
        return Err(EINVAL.into());
    }
    let word = FutexWord { key: task.futex_key(address, sharing)?, address, expected };
    finish(task.futex_wait(word, bitset, deadline).await, Restart::Sys)
}

fn read_words(task: &Task, list: UserAddress, count: usize) -> SysResult<Vec<(FutexWaitv, Sharing)>> {
    let raw: Vec<FutexWaitv> = task.read_values(list.address(), count)?;
    raw.into_iter()
        .map(|word| {
            word_value(word.val)?;
            if word.__reserved != 0 {
                return Err(EINVAL);
            }
            Ok((word, sharing_of(word.flags)?))
        })
        .collect()
}

/// `futex_waitv(2)` <https://docs.kernel.org/userspace-api/futex2.html>
pub async fn sys_futex_waitv(
    task: &Arc<Task>,
    list: UserAddress,
    count: u32,
    flags: u32,
    timeout: UserAddress,
    clock: i32,
) -> CallResult<usize> {
    let count = usize::try_from(count).map_err(|_| EINVAL)?;
    if flags != 0 || count == 0 || count > FUTEX_WAITV_MAX || list.is_null() {
        return Err(EINVAL.into());
    }
    let deadline = absolute_deadline(task, timeout, clock)?;
    let mut words = Vec::with_capacity(count);
    for (word, sharing) in read_words(task, list, count)? {
        let address = word.uaddr.address();
        let key = task.futex_key(address, sharing)?;
        words.push(FutexWord { key, address, expected: word_value(word.val)? });
    }
    finish(task.futex_wait_any(&words, MATCH_ANY, deadline).await, Restart::Sys)
}

/// `futex_requeue(2)` <https://docs.kernel.org/userspace-api/futex2.html>
pub fn sys_futex_requeue(
    task: &Arc<Task>,
    list: UserAddress,
    flags: u32,
    wake: i32,
    limit: i32,
) -> SysResult<usize> {
    if flags != 0 || list.is_null() {
        return Err(EINVAL);
    }
    let words = read_words(task, list, 2)?;
    let [(from, from_sharing), (to, to_sharing)] = words.as_slice() else { return Err(EINVAL) };
    let (wake, limit) = (not_negative(wake)?, not_negative(limit)?);
    move_waiters(
        task,
        (from.uaddr.address(), *from_sharing),
        (to.uaddr.address(), *to_sharing),
        wake,
        limit,
        Some(word_value(from.val)?),
    )
}

/// `set_robust_list(2)` <https://man7.org/linux/man-pages/man2/get_robust_list.2.html>
pub fn sys_set_robust_list(task: &Arc<Task>, head: UserAddress, length: usize) -> SysResult<()> {
    if length != size_of::<RobustListHead>() {
        return Err(EINVAL);
    }
    task.signals.words.set_robust_list(head.address());
    Ok(())
}

/// `get_robust_list(2)` <https://man7.org/linux/man-pages/man2/get_robust_list.2.html>
pub fn sys_get_robust_list(
    task: &Arc<Task>,
    pid: i32,
    head: UserAddress,
    length: UserAddress,
) -> SysResult<()> {
    let target = if pid == 0 { Arc::clone(task) } else { task.kernel.processes.task(pid).ok_or(ESRCH)? };
    if !task.may_inspect(&target) {
        return Err(EPERM);
    }
    task.write_value(length.address(), &(size_of::<RobustListHead>() as u64))?;
    task.write_value(head.address(), &target.signals.words.robust_list())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(operation: u32, operand: u32, comparison: u32, compared: i32) -> WakeOp {
        WakeOp { operation, comparison, operand, compared }
    }

    #[test]
    fn second_words_are_changed_and_compared_as_told() {
        assert_eq!(operate(op(FUTEX_OP_ADD, u32::MAX, 0, 0), 5), Ok(4));
        assert_eq!(operate(op(FUTEX_OP_ANDN, 0b11, 0, 0), 0b111), Ok(0b100));
        assert_eq!(operate(op(7, 0, 0, 0), 0), Err(ENOSYS));
        assert_eq!(compare(op(0, 0, FUTEX_OP_CMP_LT, 0), -1), Ok(true));
        assert_eq!(compare(op(0, 0, 6, 0), 0), Err(ENOSYS));
    }

    #[test]
    fn waking_less_than_one_wakes_one() {
        assert_eq!(at_least_one(0), 1);
        assert_eq!(at_least_one(u32::MAX), 1);
        assert_eq!(at_least_one(7), 7);
    }

    #[test]
    fn newer_calls_take_32_bit_words_only() {
        assert_eq!(sharing_of(2), Ok(Sharing::Shared));
        assert_eq!(sharing_of(2 | 128), Ok(Sharing::Private));
        assert_eq!(sharing_of(1), Err(EINVAL));
        assert_eq!(sharing_of(2 | 4), Err(EINVAL), "no NUMA words");
    }
}
