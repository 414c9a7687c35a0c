//! `poll`, `ppoll`, `select`, `pselect6`, `epoll_*`.

use std::sync::Arc;

use abi::errno::{EBADF, EFAULT, EINVAL, SysResult};
use abi::polling::{
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EpollEvent, EpollEvents, EpollFlags, PollFd,
};
use abi::signals::{SIGSET_SIZE, SigSet, SigSetArgument};
use abi::time::{Timespec, Timeval, poll_timeout_ns};
use abi::user::UserAddress;
use sentry::fs::epoll::{epoll_of, new_epoll};
use sentry::task::{Resource, RestartBlock, Task};
use sentry::time::Instant;
use sentry::vfs::{FdFlags, FileDescription};
use sentry::wait::{CallResult, Failure, PollEvents, Restart, WaitError, WaitQueue};

use crate::table::{Entry, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(POLL, sys_poll, wait 3, Support::Full),
    call!(PPOLL, sys_ppoll, wait 5, Support::Full),
    call!(SELECT, sys_select, wait 5, Support::Full),
    call!(PSELECT6, sys_pselect6, wait 6, Support::Full),
    call!(EPOLL_CREATE, sys_epoll_create, now 1, Support::Full),
    call!(EPOLL_CREATE1, sys_epoll_create1, now 1, Support::Full),
    call!(EPOLL_CTL, sys_epoll_ctl, now 4, Support::Partial("EPOLLEXCLUSIVE wakes all waiters")),
    call!(EPOLL_WAIT, sys_epoll_wait, wait 4, Support::Full),
    call!(EPOLL_PWAIT, sys_epoll_pwait, wait 6, Support::Full),
    call!(EPOLL_PWAIT2, sys_epoll_pwait2, wait 6, Support::Full),
];

/// A file that is polled, and what for.
struct Polled {
    file: Option<Arc<FileDescription>>,
    wanted: PollEvents,
}

impl Polled {
    fn events(&self) -> PollEvents {
        match &self.file {
            Some(file) => file.poll() & (self.wanted | PollEvents::ALWAYS),
            None => PollEvents::NVAL,
        }
    }
}

/// Waits until one of the files is ready; their events, or `None` after the deadline.
async fn wait_for_files(
    task: &Task,
    polled: &[Polled],
    deadline: Option<Instant>,
) -> Result<Option<Vec<PollEvents>>, WaitError> {
    let queues: Vec<(&WaitQueue, PollEvents)> = polled
        .iter()
        .filter_map(|one| {
            one.file.as_ref().and_then(|file| file.ops.wait_queue()).map(|queue| (queue, one.wanted))
        })
        .collect();
    let attempt = || {
        let events: Vec<PollEvents> = polled.iter().map(Polled::events).collect();
        events.iter().any(|events| !events.is_empty()).then_some(events)
    };
    match task.wait_on_all(&queues, deadline, attempt).await {
        Ok(events) => Ok(Some(events)),
        Err(WaitError::TimedOut) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces the signal mask for the length of a call (`ppoll` and the like); the run loop puts the old one back.
fn set_temporary_mask(task: &Task, mask: UserAddress, size: usize) -> SysResult<()> {
    if mask.is_null() {
        return Ok(());
    }
    if size != SIGSET_SIZE {
        return Err(EINVAL);
    }
    let mask: SigSet = task.read_value(mask.address())?;
    let before = task.set_signal_mask(mask);
    task.signals.saved_mask.lock().get_or_insert(before);
    Ok(())
}

/// Puts the old mask back unless a signal is about to be delivered with it.
fn restore_mask<T>(task: &Task, result: &CallResult<T>) {
    if !matches!(result, Err(Failure::Restart(_)))
        && let Some(mask) = task.signals.saved_mask.lock().take()
    {
        task.set_signal_mask(mask);
    }
}

fn read_pollfds(task: &Task, address: UserAddress, count: u32) -> SysResult<Vec<PollFd>> {
    if u64::from(count) > task.group.limits.soft(Resource::OpenFiles) {
        return Err(EINVAL);
    }
    task.read_values(address.address(), usize::try_from(count).map_err(|_| EINVAL)?)
}

async fn poll_files(
    task: &Task,
    address: UserAddress,
    count: u32,
    deadline: Option<Instant>,
) -> CallResult<i32> {
    let mut entries = read_pollfds(task, address, count)?;
    let files = task.files();
    let polled: Vec<Polled> = entries
        .iter()
        .map(|entry| Polled {
            file: files.get(entry.fd).ok(),
            wanted: PollEvents::from_bits_truncate(u32::from(entry.events.cast_unsigned())),
        })
        .collect();
    // Negative descriptors are skipped, not invalid.
    let (used, kept): (Vec<usize>, Vec<Polled>) =
        polled.into_iter().enumerate().filter(|(index, _)| entries[*index].fd >= 0).unzip();
    let result = wait_for_files(task, &kept, deadline).await;
    for entry in &mut entries {
        entry.revents = 0;
    }
    let ready = match result {
        Ok(Some(events)) => {
            for (index, events) in used.iter().zip(&events) {
                entries[*index].revents = u16::try_from(events.bits()).unwrap_or(0).cast_signed();
            }
            events.iter().filter(|events| !events.is_empty()).count()
        }
        Ok(None) => 0,
        Err(_) => return Err(Failure::Restart(Restart::NoHand)),
    };
    for (index, entry) in entries.iter().enumerate() {
        // Only the answer is written: the rest may have been changed by another thread.
        let place = address.address() + (index * size_of::<PollFd>()) as u64 + 6;
        task.write_value(place, &entry.revents)?;
    }
    Ok(i32::try_from(ready).unwrap_or(i32::MAX))
}

/// `poll(2)` <https://man7.org/linux/man-pages/man2/poll.2.html>
pub async fn sys_poll(task: &Arc<Task>, fds: UserAddress, count: u32, timeout_ms: i32) -> CallResult<i32> {
    let deadline = poll_timeout_ns(timeout_ms).map(|timeout_ns| Instant::now().after_ns(timeout_ns));
    poll_until(task, fds, count, deadline).await
}

/// `poll` with a fixed end, which is also what `restart_syscall` continues with.
pub async fn poll_until(
    task: &Arc<Task>,
    fds: UserAddress,
    count: u32,
    deadline: Option<Instant>,
) -> CallResult<i32> {
    let result = poll_files(task, fds, count, deadline).await;
    if let Err(Failure::Restart(_)) = result {
        *task.restart_block.lock() = Some(RestartBlock::Poll { descriptors: fds.address(), count, deadline });
        return Err(Failure::Restart(Restart::Block));
    }
    result
}

fn read_timespec(task: &Task, address: UserAddress) -> SysResult<Option<Instant>> {
    if address.is_null() {
        return Ok(None);
    }
    let timeout: Timespec = task.read_value(address.address())?;
    Ok(Some(Instant::now().after_ns(timeout.timeout_ns()?)))
}

/// As Linux, the remaining time is written back whatever the result is.
fn write_remaining(task: &Task, address: UserAddress, deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        let left = Timespec::from_duration_ns(deadline.remaining_ns());
        let _ = task.write_value(address.address(), &left);
    }
}

/// `ppoll(2)` <https://man7.org/linux/man-pages/man2/poll.2.html>
pub async fn sys_ppoll(
    task: &Arc<Task>,
    fds: UserAddress,
    count: u32,
    timeout: UserAddress,
    mask: UserAddress,
    size: usize,
) -> CallResult<i32> {
    let deadline = read_timespec(task, timeout)?;
    set_temporary_mask(task, mask, size)?;
    let result = poll_files(task, fds, count, deadline).await;
    restore_mask(task, &result);
    write_remaining(task, timeout, deadline);
    result
}

/// The three sets of `select`, as bits.
struct Sets {
    bytes: usize,
    sets: [Vec<u8>; 3],
    addresses: [UserAddress; 3],
}

impl Sets {
    fn read(task: &Task, count: i32, addresses: [UserAddress; 3]) -> SysResult<Self> {
        let count = usize::try_from(count).map_err(|_| EINVAL)?;
        // Linux cuts the number to the size of the table; here the limit stands for it.
        let limit = usize::try_from(task.group.limits.soft(Resource::OpenFiles)).unwrap_or(usize::MAX);
        let bytes = count.min(limit.max(1024)).div_ceil(64) * 8;
        let mut sets = [vec![0; bytes], vec![0; bytes], vec![0; bytes]];
        for (set, address) in sets.iter_mut().zip(addresses) {
            if !address.is_null() {
                task.read_exact(address.address(), set)?;
            }
        }
        Ok(Self { bytes, sets, addresses })
    }

    fn contains(&self, set: usize, fd: usize) -> bool {
        self.sets[set].get(fd / 8).is_some_and(|byte| byte & 1 << (fd % 8) != 0)
    }

    /// The files that are in any set.
    fn polled(&self, task: &Task, count: i32) -> SysResult<(Vec<usize>, Vec<Polled>)> {
        let files = task.files();
        let wanted = [PollEvents::READABLE | PollEvents::RDBAND, PollEvents::WRITABLE, PollEvents::PRI];
        let mut used = Vec::new();
        let mut polled = Vec::new();
        for fd in 0..usize::try_from(count).map_err(|_| EINVAL)?.min(self.bytes * 8) {
            let mut events = PollEvents::empty();
            for (set, wanted) in wanted.iter().enumerate() {
                if self.contains(set, fd) {
                    events |= *wanted;
                }
            }
            if !events.is_empty() {
                let file = files.get(i32::try_from(fd).map_err(|_| EBADF)?)?;
                used.push(fd);
                polled.push(Polled { file: Some(file), wanted: events });
            }
        }
        Ok((used, polled))
    }

    /// Replaces the sets by what is ready; returns how many bits are set.
    fn answer(&mut self, used: &[usize], events: &[PollEvents]) -> usize {
        let meaning = [
            PollEvents::READABLE | PollEvents::RDBAND | PollEvents::HUP | PollEvents::ERR,
            PollEvents::WRITABLE | PollEvents::WRBAND | PollEvents::ERR,
            PollEvents::PRI,
        ];
        let mut answer = [vec![0; self.bytes], vec![0; self.bytes], vec![0; self.bytes]];
        let mut bits = 0;
        for (fd, events) in used.iter().zip(events) {
            for (set, meaning) in meaning.iter().enumerate() {
                if self.contains(set, *fd)
                    && events.intersects(*meaning)
                    && let Some(byte) = answer[set].get_mut(fd / 8)
                {
                    *byte |= 1 << (fd % 8);
                    bits += 1;
                }
            }
        }
        self.sets = answer;
        bits
    }

    fn write(&self, task: &Task) -> SysResult<()> {
        for (set, address) in self.sets.iter().zip(self.addresses) {
            if !address.is_null() {
                task.write_exact(address.address(), set)?;
            }
        }
        Ok(())
    }
}

async fn select(
    task: &Task,
    count: i32,
    addresses: [UserAddress; 3],
    deadline: Option<Instant>,
) -> CallResult<i32> {
    let mut sets = Sets::read(task, count, addresses)?;
    let (used, polled) = sets.polled(task, count)?;
    let events =
        wait_for_files(task, &polled, deadline).await.map_err(|_| Failure::Restart(Restart::NoHand))?;
    let bits = sets.answer(&used, &events.unwrap_or_default());
    sets.write(task)?;
    Ok(i32::try_from(bits).unwrap_or(i32::MAX))
}

/// `select(2)` <https://man7.org/linux/man-pages/man2/select.2.html>
pub async fn sys_select(
    task: &Arc<Task>,
    count: i32,
    read: UserAddress,
    write: UserAddress,
    except: UserAddress,
    timeout: UserAddress,
) -> CallResult<i32> {
    let deadline = match timeout.address() {
        0 => None,
        address => {
            let timeout: Timeval = task.read_value(address)?;
            Some(Instant::now().after_ns(timeout.select_timeout_ns()?))
        }
    };
    let result = select(task, count, [read, write, except], deadline).await;
    if let Some(deadline) = deadline {
        let left = Timeval::from_ns(i64::try_from(deadline.remaining_ns()).unwrap_or(i64::MAX));
        let _ = task.write_value(timeout.address(), &left);
    }
    result
}

/// `pselect6(2)` <https://man7.org/linux/man-pages/man2/select.2.html>
pub async fn sys_pselect6(
    task: &Arc<Task>,
    count: i32,
    read: UserAddress,
    write: UserAddress,
    except: UserAddress,
    timeout: UserAddress,
    mask: UserAddress,
) -> CallResult<i32> {
    let deadline = read_timespec(task, timeout)?;
    if !mask.is_null() {
        let argument: SigSetArgument = task.read_value(mask.address())?;
        let size = usize::try_from(argument.ss_len).map_err(|_| EINVAL)?;
        set_temporary_mask(task, argument.ss, size)?;
    }
    let result = select(task, count, [read, write, except], deadline).await;
    restore_mask(task, &result);
    write_remaining(task, timeout, deadline);
    result
}

/// `epoll_create(2)` <https://man7.org/linux/man-pages/man2/epoll_create.2.html>
pub fn sys_epoll_create(task: &Arc<Task>, size: i32) -> SysResult<i32> {
    if size <= 0 { Err(EINVAL) } else { sys_epoll_create1(task, EpollFlags::empty()) }
}

/// `epoll_create1(2)` <https://man7.org/linux/man-pages/man2/epoll_create.2.html>
pub fn sys_epoll_create1(task: &Arc<Task>, flags: EpollFlags) -> SysResult<i32> {
    if !EpollFlags::all().contains(flags) {
        return Err(EINVAL);
    }
    let cloexec = if flags.contains(EpollFlags::EPOLL_CLOEXEC) { FdFlags::CLOEXEC } else { FdFlags::empty() };
    let file = new_epoll(&task.credentials());
    task.files().install_from(0, file, cloexec, task.group.limits.soft(Resource::OpenFiles))
}

/// `epoll_ctl(2)` <https://man7.org/linux/man-pages/man2/epoll_ctl.2.html>
pub fn sys_epoll_ctl(
    task: &Arc<Task>,
    epoll: i32,
    operation: i32,
    fd: i32,
    event: UserAddress,
) -> SysResult<()> {
    let needs_event = operation != EPOLL_CTL_DEL;
    let event: EpollEvent =
        if needs_event { task.read_value(event.address())? } else { EpollEvent::default() };
    let files = task.files();
    let instance = files.get_open(epoll)?;
    let file = files.get_open(fd)?;
    let epoll = epoll_of(&instance)?;
    if Arc::ptr_eq(&instance, &file) {
        return Err(EINVAL);
    }
    let (events, data) = (EpollEvents::from_bits_retain(event.events), event.data);
    match operation {
        EPOLL_CTL_ADD => epoll.add(fd, &file, events, data),
        EPOLL_CTL_MOD => epoll.modify(fd, &file, events, data),
        EPOLL_CTL_DEL => epoll.delete(fd, &file),
        _ => Err(EINVAL),
    }
}

async fn wait_for_events(
    task: &Task,
    epoll: i32,
    events: UserAddress,
    limit: i32,
    deadline: Option<Instant>,
) -> CallResult<i32> {
    /// As Linux: what fits into `INT_MAX` bytes.
    const LIMIT_MAX: i32 = i32::MAX / 12;
    if limit <= 0 || limit > LIMIT_MAX {
        return Err(EINVAL.into());
    }
    let file = task.files().get_open(epoll)?;
    let epoll = epoll_of(&file)?;
    // More than this at once only costs memory.
    let limit = usize::try_from(limit.min(4096)).map_err(|_| EINVAL)?;
    let taken = task
        .wait_on(epoll.queue(), PollEvents::IN, deadline, || {
            let taken = epoll.take_ready(limit);
            (!taken.is_empty()).then_some(taken)
        })
        .await;
    let taken = match taken {
        Ok(taken) => taken,
        Err(WaitError::TimedOut) => return Ok(0),
        Err(WaitError::Interrupted) => return Err(Failure::Restart(Restart::Never)),
    };
    for (index, event) in taken.iter().enumerate() {
        let shown = EpollEvent { events: event.events.bits(), data: event.data };
        let place = events.checked_add((index * size_of::<EpollEvent>()) as u64).ok_or(EFAULT)?;
        task.write_value(place.address(), &shown)?;
    }
    Ok(i32::try_from(taken.len()).unwrap_or(i32::MAX))
}

/// `epoll_wait(2)` <https://man7.org/linux/man-pages/man2/epoll_wait.2.html>
pub async fn sys_epoll_wait(
    task: &Arc<Task>,
    epoll: i32,
    events: UserAddress,
    limit: i32,
    timeout_ms: i32,
) -> CallResult<i32> {
    let deadline = poll_timeout_ns(timeout_ms).map(|timeout_ns| Instant::now().after_ns(timeout_ns));
    wait_for_events(task, epoll, events, limit, deadline).await
}

/// `epoll_pwait(2)` <https://man7.org/linux/man-pages/man2/epoll_wait.2.html>
pub async fn sys_epoll_pwait(
    task: &Arc<Task>,
    epoll: i32,
    events: UserAddress,
    limit: i32,
    timeout_ms: i32,
    mask: UserAddress,
    size: usize,
) -> CallResult<i32> {
    let deadline = poll_timeout_ns(timeout_ms).map(|timeout_ns| Instant::now().after_ns(timeout_ns));
    set_temporary_mask(task, mask, size)?;
    let result = wait_for_events(task, epoll, events, limit, deadline).await;
    restore_mask(task, &result);
    result
}

/// `epoll_pwait2(2)` <https://man7.org/linux/man-pages/man2/epoll_wait.2.html>
pub async fn sys_epoll_pwait2(
    task: &Arc<Task>,
    epoll: i32,
    events: UserAddress,
    limit: i32,
    timeout: UserAddress,
    mask: UserAddress,
    size: usize,
) -> CallResult<i32> {
    let deadline = read_timespec(task, timeout)?;
    set_temporary_mask(task, mask, size)?;
    let result = wait_for_events(task, epoll, events, limit, deadline).await;
    restore_mask(task, &result);
    result
}
