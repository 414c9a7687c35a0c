//! POSIX message queues: `mq_open`, `mq_unlink`, `mq_timedsend`, `mq_timedreceive`, `mq_notify`, `mq_getsetattr`.
//!
//! The queues are in [`sentry::fs::mqueue`].

use std::sync::Arc;

use abi::capabilities::CAP_SYS_RESOURCE;
use abi::errno::{EBADF, EEXIST, EINVAL, EMFILE, EMSGSIZE, ENOENT, ENOTSOCK, SysResult};
use abi::file_calls::MqAttr;
use abi::files::OpenFlags;
use abi::signals::Signal;
use abi::time::{SIGEV_NONE, SIGEV_SIGNAL, SIGEV_THREAD, Sigevent, Timespec};
use abi::user::{Fd, UserAddress, UserPath};
use sentry::fs::mqueue::{
    Message, Notification, PRIORITIES, Queue, QueueFile, Request, Wait, check_name, queue_of,
};
use sentry::fs::tmpfs::metadata::Metadata;
use sentry::task::{Resource, Task};
use sentry::time::{Clock, HostClock, Instant};
use sentry::vfs::{Access, FdFlags, FileDescription, FileKind, Inode, Victim, check_access, check_delete};
use sentry::wait::CallResult;

use crate::table::{Entry, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(MQ_OPEN, sys_mq_open, now 4, Support::Partial("all queues together take 64 MiB at most")),
    call!(MQ_UNLINK, sys_mq_unlink, now 1, Support::Full),
    call!(MQ_TIMEDSEND, sys_mq_timedsend, wait 5, Support::Full),
    call!(MQ_TIMEDRECEIVE, sys_mq_timedreceive, wait 5, Support::Full),
    call!(MQ_NOTIFY, sys_mq_notify, now 2, Support::Partial("SIGEV_THREAD needs a netlink socket, which there is none of")),
    call!(MQ_GETSETATTR, sys_mq_getsetattr, now 3, Support::Full),
];

/// `mq_open(2)` <https://man7.org/linux/man-pages/man3/mq_open.3.html>
pub fn sys_mq_open(
    task: &Arc<Task>,
    name: UserPath,
    flags: OpenFlags,
    mode: u32,
    attributes: UserAddress,
) -> SysResult<i32> {
    let attributes = match attributes.address() {
        0 => None,
        address => Some(task.read_value::<MqAttr>(address)?),
    };
    let name = task.read_path(name.address().address())?;
    let limit = task.group.limits.soft(Resource::OpenFiles);
    if !task.files().has_room(limit) {
        return Err(EMFILE);
    }
    check_name(&name)?;
    let queue = find_or_make(task, &name, flags, mode, attributes)?;
    let inode: Arc<dyn Inode> = queue.clone();
    let location = task.kernel.vfs.nowhere(Arc::clone(&inode), &[b"/", &*name].concat());
    let kept = flags.access() | (flags & OpenFlags::O_NONBLOCK).bits();
    let file = FileDescription::new(Arc::new(QueueFile { queue }), inode, Some(location), kept);
    // Such descriptors are closed on `execve`, whether asked for or not.
    task.files().install_from(0, file, FdFlags::CLOEXEC, limit)
}

fn find_or_make(
    task: &Task,
    name: &[u8],
    flags: OpenFlags,
    mode: u32,
    attributes: Option<MqAttr>,
) -> SysResult<Arc<Queue>> {
    let directory = task.kernel.message_queues.directory();
    let credentials = task.credentials();
    if let Some(queue) = directory.find(name) {
        if flags.contains(OpenFlags::O_CREAT | OpenFlags::O_EXCL) {
            return Err(EEXIST);
        }
        let access = match flags.access() {
            0 => Access::READ,
            1 => Access::WRITE,
            2 => Access::READ | Access::WRITE,
            _ => return Err(EINVAL),
        };
        check_access(&credentials, &queue.attributes()?, access)?;
        return Ok(queue);
    }
    if !flags.contains(OpenFlags::O_CREAT) {
        return Err(ENOENT);
    }
    check_access(&credentials, &directory.attributes()?, Access::WRITE | Access::EXECUTE)?;
    let permissions = mode & 0o7777 & !task.fs().umask();
    let request = Request {
        uid: credentials.uid,
        limit: task.group.limits.soft(Resource::MessageQueue),
        privileged: credentials.can(CAP_SYS_RESOURCE),
        shape: attributes.map(|attributes| (attributes.mq_maxmsg, attributes.mq_msgsize)),
    };
    let metadata = Metadata::new(permissions, credentials.fsuid, credentials.fsgid, 1);
    match directory.make(name, metadata, request) {
        // Somebody else was faster.
        Err(EEXIST) if !flags.contains(OpenFlags::O_EXCL) => {
            find_or_make(task, name, flags.difference(OpenFlags::O_CREAT), mode, attributes)
        }
        made => made,
    }
}

/// `mq_unlink(2)` <https://man7.org/linux/man-pages/man3/mq_unlink.3.html>
pub fn sys_mq_unlink(task: &Arc<Task>, name: UserPath) -> SysResult<()> {
    let name = task.read_path(name.address().address())?;
    check_name(&name)?;
    let directory = task.kernel.message_queues.directory();
    let victim: Arc<dyn Inode> = directory.find(&name).ok_or(ENOENT)?;
    check_delete(&task.credentials(), &**directory, &*victim, Victim::Other)?;
    directory.unlink(&name, &victim)
}

/// When a wait ends, by `CLOCK_REALTIME`.
fn deadline(task: &Task, timeout: UserAddress) -> SysResult<Option<Instant>> {
    if timeout.is_null() {
        return Ok(None);
    }
    let time_ns = task.read_value::<Timespec>(timeout.address())?.timeout_ns()?;
    Ok(Some(Clock::Host(HostClock::CLOCK_REALTIME).deadline(time_ns)))
}

fn wait(file: &FileDescription, deadline: Option<Instant>) -> Wait {
    if file.is_nonblocking() { Wait::No } else { Wait::Until(deadline) }
}

/// `mq_timedsend(2)` <https://man7.org/linux/man-pages/man3/mq_send.3.html>
pub async fn sys_mq_timedsend(
    task: &Arc<Task>,
    queue: Fd,
    message: UserAddress,
    length: u64,
    priority: u32,
    timeout: UserAddress,
) -> CallResult<()> {
    let deadline = deadline(task, timeout)?;
    if priority >= PRIORITIES {
        return Err(EINVAL.into());
    }
    let file = task.files().get_open(queue.raw())?;
    let queue = queue_of(&file)?;
    if !file.writable {
        return Err(EBADF.into());
    }
    if length > queue.shape().size {
        return Err(EMSGSIZE.into());
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| EMSGSIZE)?].into_boxed_slice();
    task.read_exact(message.address(), &mut bytes)?;
    queue.send(task, Message { priority, bytes }, wait(&file, deadline)).await
}

/// `mq_timedreceive(2)` <https://man7.org/linux/man-pages/man3/mq_receive.3.html>
pub async fn sys_mq_timedreceive(
    task: &Arc<Task>,
    queue: Fd,
    buffer: UserAddress,
    length: u64,
    priority: UserAddress,
    timeout: UserAddress,
) -> CallResult<usize> {
    let deadline = deadline(task, timeout)?;
    let file = task.files().get_open(queue.raw())?;
    let queue = queue_of(&file)?;
    if !file.readable {
        return Err(EBADF.into());
    }
    if length < queue.shape().size {
        return Err(EMSGSIZE.into());
    }
    let message = queue.receive(task, wait(&file, deadline)).await?;
    // A message whose reader has no place for it is gone, as on Linux.
    if !priority.is_null() {
        task.write_value(priority.address(), &message.priority)?;
    }
    task.write_exact(buffer.address(), &message.bytes)?;
    Ok(message.bytes.len())
}

/// `mq_notify(2)` <https://man7.org/linux/man-pages/man3/mq_notify.3.html>
pub fn sys_mq_notify(task: &Arc<Task>, queue: Fd, event: UserAddress) -> SysResult<()> {
    let how = match event.address() {
        0 => None,
        address => Some(notification(task, task.read_value::<Sigevent>(address)?)?),
    };
    let file = task.files().get_open(queue.raw())?;
    let queue = queue_of(&file)?;
    match how {
        Some(how) => queue.notify(&task.group, how),
        None => {
            queue.end_notification(&task.group);
            Ok(())
        }
    }
}

fn notification(task: &Task, event: Sigevent) -> SysResult<Notification> {
    /// Bytes that the C library wants back through its socket.
    const COOKIE: usize = 32;
    match event.sigev_notify {
        SIGEV_NONE => Ok(Notification::Nothing),
        SIGEV_SIGNAL if event.sigev_signo == 0 => Ok(Notification::Signal(None, event.sigev_value)),
        SIGEV_SIGNAL => {
            let signal = Signal::new(event.sigev_signo).ok_or(EINVAL)?;
            Ok(Notification::Signal(Some(signal), event.sigev_value))
        }
        SIGEV_THREAD => {
            task.read_exact(event.sigev_value, &mut [0; COOKIE])?;
            // It must be a netlink socket, and there are none.
            let file = task.files().get_open(event.sigev_signo)?;
            Err(if file.inode.kind() == FileKind::Socket { EINVAL } else { ENOTSOCK })
        }
        _ => Err(EINVAL),
    }
}

/// `mq_getsetattr(2)` <https://man7.org/linux/man-pages/man2/mq_getsetattr.2.html>
pub fn sys_mq_getsetattr(task: &Arc<Task>, queue: Fd, new: UserAddress, old: UserAddress) -> SysResult<()> {
    let nonblocking = u64::from(OpenFlags::O_NONBLOCK.bits());
    let new = match new.address() {
        0 => None,
        address => Some(task.read_value::<MqAttr>(address)?.mq_flags.cast_unsigned()),
    };
    if new.is_some_and(|flags| flags & !nonblocking != 0) {
        return Err(EINVAL);
    }
    let file = task.files().get_open(queue.raw())?;
    let queue = queue_of(&file)?;
    let shape = queue.shape();
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let before = MqAttr {
        mq_flags: i64::from(file.flags() & OpenFlags::O_NONBLOCK.bits()),
        mq_maxmsg: signed(shape.messages),
        mq_msgsize: signed(shape.size),
        mq_curmsgs: signed(queue.held()),
        ..MqAttr::default()
    };
    if let Some(flags) = new {
        let rest = file.flags() & !OpenFlags::O_NONBLOCK.bits();
        let set = if flags & nonblocking == 0 { 0 } else { OpenFlags::O_NONBLOCK.bits() };
        file.set_flags(rest | set)?;
    }
    if old.is_null() { Ok(()) } else { task.write_value(old.address(), &before) }
}
