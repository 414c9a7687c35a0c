//! Files that are made without a name: `pipe`, `eventfd`, `timerfd_*`, `signalfd`, `inotify`.

use std::sync::Arc;

use abi::errno::{EINVAL, ENAMETOOLONG, SysResult};
use abi::file_calls::{EventfdFlags, MemfdFlags};
use abi::files::OpenFlags;
use abi::polling::{InotifyFlags, InotifyMask};
use abi::signals::{SIGSET_SIZE, SigSet, SignalfdFlags};
use abi::time::{CLOCK_BOOTTIME, CLOCK_MONOTONIC, CLOCK_REALTIME, Itimerspec, TimerfdFlags, TimerfdSetFlags};
use abi::user::{Fd, UserAddress, UserPath, UserString};
use sentry::fs::{eventfd, inotify, pipe, signalfd, timerfd, tmpfs};
use sentry::task::{Resource, Task};
use sentry::time::{HostClock, Instant, realtime_ns};
use sentry::vfs::{Access, FdFlags, FileDescription, WalkFlags, check_access};

use crate::table::{Entry, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(PIPE, sys_pipe, now 1, Support::Full),
    call!(PIPE2, sys_pipe2, now 2, Support::Full),
    call!(MEMFD_CREATE, sys_memfd_create, now 2, Support::Partial("no huge pages or MFD_NOEXEC_SEAL")),
    call!(EVENTFD, sys_eventfd, now 1, Support::Full),
    call!(EVENTFD2, sys_eventfd2, now 2, Support::Full),
    call!(TIMERFD_CREATE, sys_timerfd_create, now 2, Support::Partial("no alarm clocks")),
    call!(TIMERFD_SETTIME, sys_timerfd_settime, now 4, Support::Partial("TFD_TIMER_CANCEL_ON_SET never fires: clocks are not set")),
    call!(TIMERFD_GETTIME, sys_timerfd_gettime, now 2, Support::Full),
    call!(INOTIFY_INIT, sys_inotify_init, now 0, Support::Full),
    call!(INOTIFY_INIT1, sys_inotify_init1, now 1, Support::Full),
    call!(
        INOTIFY_ADD_WATCH,
        sys_inotify_add_watch,
        now 3,
        Support::Partial("changes that the host makes are not seen; max_user_watches is for all users together")
    ),
    call!(INOTIFY_RM_WATCH, sys_inotify_rm_watch, now 2, Support::Full),
    call!(SIGNALFD, sys_signalfd, now 3, Support::Partial("shows the signals of the task that made it")),
    call!(SIGNALFD4, sys_signalfd4, now 4, Support::Partial("shows the signals of the task that made it")),
];

fn install(task: &Task, file: Arc<FileDescription>, cloexec: bool) -> SysResult<i32> {
    let flags = if cloexec { FdFlags::CLOEXEC } else { FdFlags::empty() };
    task.files().install_from(0, file, flags, task.group.limits.soft(Resource::OpenFiles))
}

/// `pipe(2)` <https://man7.org/linux/man-pages/man2/pipe.2.html>
pub fn sys_pipe(task: &Arc<Task>, fds: UserAddress) -> SysResult<()> {
    sys_pipe2(task, fds, OpenFlags::empty())
}

/// `pipe2(2)` <https://man7.org/linux/man-pages/man2/pipe.2.html>
pub fn sys_pipe2(task: &Arc<Task>, fds: UserAddress, flags: OpenFlags) -> SysResult<()> {
    let status = OpenFlags::O_NONBLOCK | OpenFlags::O_DIRECT;
    if !(OpenFlags::O_CLOEXEC | status).contains(flags) {
        return Err(EINVAL);
    }
    let cloexec = flags.contains(OpenFlags::O_CLOEXEC);
    let (reader, writer) = pipe::new_pipe(&task.credentials(), (flags & status).bits());
    let read_fd = install(task, reader, cloexec)?;
    let undo = |fds: &[i32]| {
        for fd in fds {
            let _ = task.files().remove(*fd);
        }
    };
    let write_fd = install(task, writer, cloexec).inspect_err(|_| undo(&[read_fd]))?;
    task.write_value(fds.address(), &[read_fd, write_fd]).inspect_err(|_| undo(&[read_fd, write_fd]))
}

/// `memfd_create(2)` <https://man7.org/linux/man-pages/man2/memfd_create.2.html>
pub fn sys_memfd_create(task: &Arc<Task>, name: UserString, flags: MemfdFlags) -> SysResult<i32> {
    /// Bytes of a name, as `/proc/PID/fd` has room for them.
    const NAME_MAX: usize = 249;
    let known = MemfdFlags::MFD_CLOEXEC | MemfdFlags::MFD_ALLOW_SEALING | MemfdFlags::MFD_EXEC;
    if !known.contains(flags) {
        return Err(EINVAL);
    }
    let name = task
        .read_string(name.address().address(), NAME_MAX)
        .map_err(|errno| if errno == ENAMETOOLONG { EINVAL } else { errno })?;
    let sealing = if flags.contains(MemfdFlags::MFD_ALLOW_SEALING) {
        tmpfs::Sealing::Allowed
    } else {
        tmpfs::Sealing::Forbidden
    };
    let credentials = task.credentials();
    let (inode, ops) = tmpfs::anonymous_file(&name, sealing, credentials.fsuid, credentials.fsgid)?;
    let text = [b"/memfd:".as_slice(), &name].concat();
    let location = task.kernel.vfs.nowhere(Arc::clone(&inode), &text);
    let status = (libc::O_RDWR | libc::O_LARGEFILE).cast_unsigned();
    let file = FileDescription::new(ops, inode, Some(location), status);
    install(task, file, flags.contains(MemfdFlags::MFD_CLOEXEC))
}

/// `eventfd(2)` <https://man7.org/linux/man-pages/man2/eventfd.2.html>
pub fn sys_eventfd(task: &Arc<Task>, initial: u32) -> SysResult<i32> {
    sys_eventfd2(task, initial, EventfdFlags::empty())
}

/// `eventfd2(2)` <https://man7.org/linux/man-pages/man2/eventfd.2.html>
pub fn sys_eventfd2(task: &Arc<Task>, initial: u32, flags: EventfdFlags) -> SysResult<i32> {
    if !EventfdFlags::all().contains(flags) {
        return Err(EINVAL);
    }
    let mode = if flags.contains(EventfdFlags::EFD_SEMAPHORE) {
        eventfd::ReadMode::One
    } else {
        eventfd::ReadMode::All
    };
    let status = (flags & EventfdFlags::EFD_NONBLOCK).bits();
    let file = eventfd::new_eventfd(initial.into(), mode, status, &task.credentials());
    install(task, file, flags.contains(EventfdFlags::EFD_CLOEXEC))
}

/// `timerfd_create(2)` <https://man7.org/linux/man-pages/man2/timerfd_create.2.html>
pub fn sys_timerfd_create(task: &Arc<Task>, clock: i32, flags: TimerfdFlags) -> SysResult<i32> {
    let known = matches!(clock, CLOCK_REALTIME | CLOCK_MONOTONIC | CLOCK_BOOTTIME);
    if !known || !TimerfdFlags::all().contains(flags) {
        return Err(EINVAL);
    }
    let status = (flags & TimerfdFlags::TFD_NONBLOCK).bits();
    let file = timerfd::new_timerfd(&task.kernel.timers, clock, status, &task.credentials());
    install(task, file, flags.contains(TimerfdFlags::TFD_CLOEXEC))
}

/// `timerfd_settime(2)` <https://man7.org/linux/man-pages/man2/timerfd_create.2.html>
pub fn sys_timerfd_settime(
    task: &Arc<Task>,
    fd: i32,
    flags: TimerfdSetFlags,
    new: UserAddress,
    old: UserAddress,
) -> SysResult<()> {
    if !TimerfdSetFlags::all().contains(flags) {
        return Err(EINVAL);
    }
    let setting = task.read_value::<Itimerspec>(new.address())?.setting()?;
    let file = task.files().get_open(fd)?;
    let timer = timerfd::timer_of(&file)?;
    let next = if setting.value_ns == 0 {
        None
    } else if flags.contains(TimerfdSetFlags::TFD_TIMER_ABSTIME) {
        Some(absolute(timer.clock, setting.value_ns))
    } else {
        Some(Instant::now().after_ns(setting.value_ns))
    };
    let before = timer.set(next, setting.interval_ns);
    if old.is_null() { Ok(()) } else { task.write_value(old.address(), &Itimerspec::from_setting(before)) }
}

/// A time of one of the clocks as a monotonic instant.
fn absolute(clock: i32, at_ns: u64) -> Instant {
    let now_ns = match clock {
        CLOCK_REALTIME => realtime_ns(),
        CLOCK_BOOTTIME => sentry::time::clock_ns(HostClock::CLOCK_BOOTTIME),
        _ => return Instant(at_ns),
    };
    Instant::now().after_ns(at_ns.saturating_sub(now_ns))
}

/// `timerfd_gettime(2)` <https://man7.org/linux/man-pages/man2/timerfd_create.2.html>
pub fn sys_timerfd_gettime(task: &Arc<Task>, fd: i32, current: UserAddress) -> SysResult<()> {
    let file = task.files().get_open(fd)?;
    let setting = timerfd::timer_of(&file)?.get();
    task.write_value(current.address(), &Itimerspec::from_setting(setting))
}

/// `signalfd(2)` <https://man7.org/linux/man-pages/man2/signalfd.2.html>
pub fn sys_signalfd(task: &Arc<Task>, fd: i32, mask: UserAddress, size: usize) -> SysResult<i32> {
    sys_signalfd4(task, fd, mask, size, SignalfdFlags::empty())
}

/// `signalfd4(2)` <https://man7.org/linux/man-pages/man2/signalfd.2.html>
pub fn sys_signalfd4(
    task: &Arc<Task>,
    fd: i32,
    mask: UserAddress,
    size: usize,
    flags: SignalfdFlags,
) -> SysResult<i32> {
    if size != SIGSET_SIZE || !SignalfdFlags::all().contains(flags) {
        return Err(EINVAL);
    }
    let mask: SigSet = task.read_value(mask.address())?;
    if fd != -1 {
        let file = task.files().get_open(fd)?;
        signalfd::signal_file_of(&file)?.set_mask(mask);
        return Ok(fd);
    }
    let status = (flags & SignalfdFlags::SFD_NONBLOCK).bits();
    let file = signalfd::new_signalfd(task, mask, status, &task.credentials());
    install(task, file, flags.contains(SignalfdFlags::SFD_CLOEXEC))
}

/// `inotify_init(2)` <https://man7.org/linux/man-pages/man2/inotify_init.2.html>
pub fn sys_inotify_init(task: &Arc<Task>) -> SysResult<i32> {
    sys_inotify_init1(task, InotifyFlags::empty())
}

/// `inotify_init1(2)` <https://man7.org/linux/man-pages/man2/inotify_init.2.html>
pub fn sys_inotify_init1(task: &Arc<Task>, flags: InotifyFlags) -> SysResult<i32> {
    if !InotifyFlags::all().contains(flags) {
        return Err(EINVAL);
    }
    let status = (flags & InotifyFlags::IN_NONBLOCK).bits();
    let file = inotify::new_inotify(&task.kernel.inotify, status, &task.credentials())?;
    install(task, file, flags.contains(InotifyFlags::IN_CLOEXEC))
}

/// `inotify_add_watch(2)` <https://man7.org/linux/man-pages/man2/inotify_add_watch.2.html>
pub fn sys_inotify_add_watch(
    task: &Arc<Task>,
    instance: Fd,
    path: UserPath,
    mask: InotifyMask,
) -> SysResult<i32> {
    if (mask & InotifyMask::all()).is_empty() {
        return Err(EINVAL);
    }
    let file = task.files().get_open(instance.raw())?;
    if mask.contains(InotifyMask::IN_MASK_ADD | InotifyMask::IN_MASK_CREATE) {
        return Err(EINVAL);
    }
    let instance = inotify::inotify_of(&file)?;
    let mut walk = WalkFlags::empty();
    walk.set(WalkFlags::FOLLOW, !mask.contains(InotifyMask::IN_DONT_FOLLOW));
    walk.set(WalkFlags::DIRECTORY, mask.contains(InotifyMask::IN_ONLYDIR));
    let path = task.read_path(path.address().address())?;
    let location = task.walk(libc::AT_FDCWD, &path, walk)?;
    check_access(&task.credentials(), &location.inode().attributes()?, Access::READ)?;
    instance.add(&location, mask)
}

/// `inotify_rm_watch(2)` <https://man7.org/linux/man-pages/man2/inotify_rm_watch.2.html>
pub fn sys_inotify_rm_watch(task: &Arc<Task>, instance: Fd, watch: i32) -> SysResult<()> {
    let file = task.files().get_open(instance.raw())?;
    inotify::inotify_of(&file)?.remove(watch)
}
