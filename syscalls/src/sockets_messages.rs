//! `send`, `recv` and their kin.
//!
//! What can be done at once is done at once; the rest waits (`sentry::sockets::transfer`).

use std::mem::offset_of;
use std::sync::Arc;

use abi::errno::{EINVAL, EMSGSIZE, ENOBUFS, SysResult};
use abi::file_calls::UIO_MAXIOV;
use abi::sockets::{MMSG_MAX, MMsgHdr, MsgFlags, MsgHdr, OPTMEM_MAX, SCM_CREDENTIALS, SOCKADDR_STORAGE_SIZE};
use abi::time::Timespec;
use abi::user::{Fd, UserAddress};
use sentry::sockets::control::{Layout, parse};
use sentry::sockets::transfer::{Receive, Send};
use sentry::sockets::{Ancillary, Received, socket_of};
use sentry::task::{Reply, Resource, Task};
use sentry::time::Instant;
use sentry::vfs::{FdFlags, FileDescription, UserBuffers};
use sentry::wait::{CallResult, Failure};
use zerocopy::IntoBytes;

use crate::read_write::read_vectors;
use crate::sockets::{read_address, socket_file, write_address};
use crate::table::{Entry, IntoReply, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(SENDTO, sys_sendto, now 6, Support::Partial("no MSG_OOB")),
    call!(RECVFROM, sys_recvfrom, now 6, Support::Partial("no MSG_OOB")),
    call!(SENDMSG, sys_sendmsg, now 3, Support::Partial("no MSG_OOB")),
    call!(RECVMSG, sys_recvmsg, now 3, Support::Partial("no MSG_OOB")),
    call!(SENDMMSG, sys_sendmmsg, wait 4, Support::Partial("no MSG_OOB")),
    call!(RECVMMSG, sys_recvmmsg, wait 5, Support::Partial("no MSG_OOB")),
];

/// 32-bit programs' layout of messages: never valid here (`MSG_CMSG_COMPAT`).
const COMPAT: u32 = 0x8000_0000;

fn check_flags(flags: MsgFlags) -> SysResult<()> {
    if flags.bits() & COMPAT != 0 {
        return Err(EINVAL);
    }
    if flags.contains(MsgFlags::MSG_OOB) { Err(abi::errno::EOPNOTSUPP) } else { Ok(()) }
}

fn start_send<'a>(task: &'a Arc<Task>, send: SysResult<Send>) -> Reply<'a> {
    let mut send = match send {
        Ok(send) => send,
        Err(error) => return Reply::Now(Err(Failure::Error(error))),
    };
    match send.attempt(task) {
        Some(result) => result.into_reply(),
        None => Reply::Later(Box::pin(async move { send.finish(task).await.into_reply() })),
    }
}

/// `sendto(2)` <https://man7.org/linux/man-pages/man2/send.2.html>
pub fn sys_sendto<'a>(
    task: &'a Arc<Task>,
    fd: Fd,
    buffer: UserAddress,
    length: usize,
    flags: MsgFlags,
    address: UserAddress,
    address_length: i32,
) -> Reply<'a> {
    let begin = || {
        let file = socket_file(task, fd)?;
        let to = match address.is_null() {
            true => None,
            false => Some(read_address(task, address, address_length)?).filter(|to| !to.is_empty()),
        };
        check_flags(flags)?;
        Send::new(file, UserBuffers::one(buffer.address(), length), flags, to, Ancillary::default())
    };
    start_send(task, begin())
}

/// Buffers of a message; more than `UIO_MAXIOV` are `EMSGSIZE` here.
fn message_buffers(task: &Task, header: &MsgHdr) -> SysResult<UserBuffers> {
    if usize::try_from(header.msg_iovlen).map_or(true, |count| count > UIO_MAXIOV) {
        return Err(EMSGSIZE);
    }
    read_vectors(task, header.msg_iov, header.msg_iovlen)
}

/// How much of the name there is or may be; longer ones are cut off, as Linux does for messages.
fn name_length(header: &MsgHdr) -> SysResult<usize> {
    if header.msg_name.is_null() {
        return Ok(0);
    }
    let length = usize::try_from(header.msg_namelen).map_err(|_| EINVAL)?;
    Ok(length.min(SOCKADDR_STORAGE_SIZE))
}

fn new_send(task: &Task, file: &Arc<FileDescription>, header: &MsgHdr, flags: MsgFlags) -> SysResult<Send> {
    let length = name_length(header)?;
    let to: Vec<u8> = task.read_values(header.msg_name.address(), length)?;
    let buffers = message_buffers(task, header)?;
    let length = usize::try_from(header.msg_controllen).map_err(|_| ENOBUFS)?;
    if length > OPTMEM_MAX {
        return Err(ENOBUFS);
    }
    let control: Vec<u8> = task.read_values(header.msg_control.address(), length)?;
    let ancillary = parse(task, socket_of(file)?.ops().domain(), &control)?;
    check_flags(flags)?;
    Send::new(Arc::clone(file), buffers, flags, Some(to).filter(|to| !to.is_empty()), ancillary)
}

/// `sendmsg(2)` <https://man7.org/linux/man-pages/man2/sendmsg.2.html>
pub fn sys_sendmsg<'a>(task: &'a Arc<Task>, fd: Fd, message: UserAddress, flags: MsgFlags) -> Reply<'a> {
    let begin = || {
        if flags.bits() & COMPAT != 0 {
            return Err(EINVAL);
        }
        let file = socket_file(task, fd)?;
        let header: MsgHdr = task.read_value(message.address())?;
        new_send(task, &file, &header, flags)
    };
    start_send(task, begin())
}

async fn send_one(
    task: &Arc<Task>,
    file: &Arc<FileDescription>,
    header: &MsgHdr,
    flags: MsgFlags,
) -> CallResult<usize> {
    let mut send = new_send(task, file, header, flags)?;
    match send.attempt(task) {
        Some(result) => result.map_err(Failure::Error),
        None => send.finish(task).await,
    }
}

/// The address of the `index`-th message of an array.
fn message_at(messages: UserAddress, index: usize) -> SysResult<UserAddress> {
    let offset = index.checked_mul(size_of::<MMsgHdr>()).and_then(|offset| u64::try_from(offset).ok());
    offset.and_then(|offset| messages.checked_add(offset)).ok_or(abi::errno::EFAULT)
}

fn write_field(task: &Task, message: UserAddress, offset: usize, bytes: &[u8]) -> SysResult<()> {
    let offset = u64::try_from(offset).map_err(|_| abi::errno::EFAULT)?;
    let place = message.checked_add(offset).ok_or(abi::errno::EFAULT)?;
    task.write_exact(place.address(), bytes)
}

fn write_count(task: &Task, message: UserAddress, count: usize) -> SysResult<()> {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    write_field(task, message, offset_of!(MMsgHdr, msg_len), &count.to_ne_bytes())
}

/// `sendmmsg(2)` <https://man7.org/linux/man-pages/man2/sendmmsg.2.html>
pub async fn sys_sendmmsg(
    task: &Arc<Task>,
    fd: Fd,
    messages: UserAddress,
    count: u32,
    flags: MsgFlags,
) -> CallResult<usize> {
    if flags.bits() & COMPAT != 0 {
        return Err(EINVAL.into());
    }
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(MMSG_MAX);
    let file = socket_file(task, fd)?;
    for index in 0..count {
        let one = async {
            let message = message_at(messages, index)?;
            let header: MMsgHdr = task.read_value(message.address())?;
            let sent = send_one(task, &file, &header.msg_hdr, flags).await?;
            write_count(task, message, sent).map_err(Failure::Error)
        };
        match one.await {
            Ok(()) => {}
            Err(_) if index != 0 => return Ok(index),
            Err(failure) => return Err(failure),
        }
    }
    Ok(count)
}

/// Does a receive at once or later, and then what is to be done with what came.
fn start_receive<'a>(
    task: &'a Arc<Task>,
    receive: SysResult<Receive>,
    conclude: impl FnOnce(&Task, CallResult<usize>, Received) -> CallResult<usize> + std::marker::Send + 'a,
) -> Reply<'a> {
    let mut receive = match receive {
        Ok(receive) => receive,
        Err(error) => return Reply::Now(Err(Failure::Error(error))),
    };
    match receive.attempt(task) {
        Some(result) => conclude(task, result.map_err(Failure::Error), receive.received).into_reply(),
        None => Reply::Later(Box::pin(async move {
            let (result, received) = receive.finish(task).await;
            conclude(task, result, received).into_reply()
        })),
    }
}

/// `recvfrom(2)` <https://man7.org/linux/man-pages/man2/recv.2.html>
pub fn sys_recvfrom<'a>(
    task: &'a Arc<Task>,
    fd: Fd,
    buffer: UserAddress,
    length: usize,
    flags: MsgFlags,
    address: UserAddress,
    address_length: UserAddress,
) -> Reply<'a> {
    let begin = || {
        let file = socket_file(task, fd)?;
        check_flags(flags)?;
        Receive::new(file, UserBuffers::one(buffer.address(), length), flags)
    };
    start_receive(task, begin(), move |task, result, received| {
        let count = result?;
        if !address.is_null() {
            write_address(task, &received.from.unwrap_or_default(), address, address_length)?;
        }
        Ok(count)
    })
}

fn new_receive(
    task: &Task,
    file: &Arc<FileDescription>,
    header: &MsgHdr,
    flags: MsgFlags,
) -> SysResult<Receive> {
    name_length(header)?;
    let buffers = message_buffers(task, header)?;
    check_flags(flags)?;
    Receive::new(Arc::clone(file), buffers, flags)
}

/// Installs received descriptors, as many as there is room for; the others are closed.
fn install_rights(task: &Task, received: &mut Received, room: usize, flags: MsgFlags) -> Vec<i32> {
    let fd_flags =
        if flags.contains(MsgFlags::MSG_CMSG_CLOEXEC) { FdFlags::CLOEXEC } else { FdFlags::empty() };
    let limit = task.group.limits.soft(Resource::OpenFiles);
    let mut installed = Vec::new();
    for file in received.rights.drain(..).take(room) {
        match task.files().install_from(0, file, fd_flags, limit) {
            Ok(fd) => installed.push(fd),
            Err(_) => break,
        }
    }
    installed
}

/// Writes name, control messages and flags back to the header at `message`.
fn deliver(
    task: &Task,
    message: UserAddress,
    header: &MsgHdr,
    flags: MsgFlags,
    mut received: Received,
) -> SysResult<()> {
    let room = if header.msg_control.is_null() { 0 } else { header.msg_controllen };
    let mut layout = Layout::new(usize::try_from(room).unwrap_or(usize::MAX));
    if let Some(credentials) = &received.credentials {
        layout.put(SCM_CREDENTIALS, credentials.as_bytes());
    }
    let sent = received.rights.len();
    let installed = install_rights(task, &mut received, layout.room_for_rights(), flags);
    layout.put_rights(&installed, sent);
    if !header.msg_name.is_null() {
        let from = received.from.take().unwrap_or_default();
        let kept = from.get(..name_length(header)?).unwrap_or(&from);
        task.write_exact(header.msg_name.address(), kept)?;
        let length = i32::try_from(from.len()).unwrap_or(i32::MAX);
        write_field(task, message, offset_of!(MsgHdr, msg_namelen), &length.to_ne_bytes())?;
    }
    let flags = received.flags | layout.flags | flags & MsgFlags::MSG_CMSG_CLOEXEC;
    write_field(task, message, offset_of!(MsgHdr, msg_flags), &flags.bits().to_ne_bytes())?;
    task.write_exact(header.msg_control.address(), layout.bytes())?;
    let used = u64::try_from(layout.bytes().len()).unwrap_or(u64::MAX);
    write_field(task, message, offset_of!(MsgHdr, msg_controllen), &used.to_ne_bytes())
}

/// `recvmsg(2)` <https://man7.org/linux/man-pages/man2/recvmsg.2.html>
pub fn sys_recvmsg<'a>(task: &'a Arc<Task>, fd: Fd, message: UserAddress, flags: MsgFlags) -> Reply<'a> {
    let begin = || {
        if flags.bits() & COMPAT != 0 {
            return Err(EINVAL);
        }
        let file = socket_file(task, fd)?;
        let header: MsgHdr = task.read_value(message.address())?;
        Ok((new_receive(task, &file, &header, flags)?, header))
    };
    let (receive, header) = match begin() {
        Ok((receive, header)) => (Ok(receive), header),
        Err(error) => (Err(error), MsgHdr::default()),
    };
    start_receive(task, receive, move |task, result, received| {
        let count = result?;
        deliver(task, message, &header, flags, received)?;
        Ok(count)
    })
}

async fn receive_one(
    task: &Arc<Task>,
    file: &Arc<FileDescription>,
    message: UserAddress,
    flags: MsgFlags,
) -> CallResult<()> {
    let header: MMsgHdr = task.read_value(message.address())?;
    let mut receive = new_receive(task, file, &header.msg_hdr, flags)?;
    let (result, received) = match receive.attempt(task) {
        Some(result) => (result.map_err(Failure::Error), receive.received),
        None => receive.finish(task).await,
    };
    let count = result?;
    deliver(task, message, &header.msg_hdr, flags, received)?;
    write_count(task, message, count).map_err(Failure::Error)
}

/// `recvmmsg(2)` <https://man7.org/linux/man-pages/man2/recvmmsg.2.html>. The timeout is looked at between
/// messages only.
pub async fn sys_recvmmsg(
    task: &Arc<Task>,
    fd: Fd,
    messages: UserAddress,
    count: u32,
    flags: MsgFlags,
    timeout: UserAddress,
) -> CallResult<usize> {
    if flags.bits() & COMPAT != 0 {
        return Err(EINVAL.into());
    }
    let deadline = match timeout.is_null() {
        true => None,
        false => {
            let timeout: Timespec = task.read_value(timeout.address())?;
            Some(Instant::now().after_ns(timeout.timeout_ns()?))
        }
    };
    let file = socket_file(task, fd)?;
    let pending = socket_of(&file)?.ops().take_error();
    if let Some(error) = pending {
        return Err(error.into());
    }
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(MMSG_MAX);
    let result = receive_several(task, &file, messages, count, flags, deadline).await;
    if let Some(deadline) = deadline {
        let left = Timespec::from_duration_ns(deadline.remaining_ns());
        task.write_value(timeout.address(), &left)?;
    }
    result
}

async fn receive_several(
    task: &Arc<Task>,
    file: &Arc<FileDescription>,
    messages: UserAddress,
    count: usize,
    mut flags: MsgFlags,
    deadline: Option<Instant>,
) -> CallResult<usize> {
    let wait_for_one = flags.contains(MsgFlags::MSG_WAITFORONE);
    flags.remove(MsgFlags::MSG_WAITFORONE);
    for index in 0..count {
        let one = async { receive_one(task, file, message_at(messages, index)?, flags).await };
        match one.await {
            Ok(()) => {}
            Err(_) if index != 0 => return Ok(index),
            Err(failure) => return Err(failure),
        }
        if wait_for_one {
            flags |= MsgFlags::MSG_DONTWAIT;
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(index + 1);
        }
    }
    Ok(count)
}
