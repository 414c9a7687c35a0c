//! Sockets: making, naming and connecting them. Messages are in `sockets_messages`, options in `sockets_options`.

use std::sync::Arc;

use abi::errno::{EAFNOSUPPORT, EFAULT, EINVAL, SysResult};
use abi::sockets::{
    ADDRESS_FAMILY_NAMES, AF_MAX, SOCK_PACKET, SOCKADDR_STORAGE_SIZE, SocketFlags, SocketType,
};
use abi::user::{Fd, UserAddress};
use sentry::sockets::transfer::wait_for;
use sentry::sockets::{Shutdown, Socket, SocketFamily, SocketOps, settled, socket_of};
use sentry::task::{Reply, Resource, Task};
use sentry::vfs::{Direction, FdFlags, FileDescription};
use sentry::wait::{CallResult, Failure};

use crate::table::{Entry, IntoReply, Support, call, option_name, unimplemented_option};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(SOCKET, sys_socket, now 3, Support::Partial("AF_UNIX only")),
    call!(SOCKETPAIR, sys_socketpair, now 4, Support::Full),
    call!(BIND, sys_bind, now 3, Support::Full),
    call!(LISTEN, sys_listen, now 2, Support::Full),
    call!(ACCEPT, sys_accept, now 3, Support::Full),
    call!(ACCEPT4, sys_accept4, now 4, Support::Full),
    call!(CONNECT, sys_connect, now 3, Support::Full),
    call!(GETSOCKNAME, sys_getsockname, now 3, Support::Full),
    call!(GETPEERNAME, sys_getpeername, now 3, Support::Full),
    call!(SHUTDOWN, sys_shutdown, now 2, Support::Full),
];

/// The file of a socket.
///
/// # Errors
/// `EBADF`, `ENOTSOCK`.
pub fn socket_file(task: &Task, fd: Fd) -> SysResult<Arc<FileDescription>> {
    let file = task.files().get_open(fd.raw())?;
    socket_of(&file)?;
    Ok(file)
}

/// Copies in an address.
///
/// # Errors
/// `EINVAL`: longer than any address; `EFAULT`.
pub fn read_address(task: &Task, address: UserAddress, length: i32) -> SysResult<Vec<u8>> {
    let length =
        usize::try_from(length).ok().filter(|length| *length <= SOCKADDR_STORAGE_SIZE).ok_or(EINVAL)?;
    task.read_values(address.address(), length)
}

/// Copies out as much of an address as there is room for, and its full length.
///
/// # Errors
/// `EINVAL`: the room is negative; `EFAULT`.
pub fn write_address(
    task: &Task,
    address: &[u8],
    place: UserAddress,
    length_place: UserAddress,
) -> SysResult<()> {
    let room: i32 = task.read_value(length_place.address())?;
    let room = usize::try_from(room).map_err(|_| EINVAL)?;
    task.write_exact(place.address(), address.get(..room).unwrap_or(address))?;
    let length = i32::try_from(address.len()).map_err(|_| EFAULT)?;
    task.write_value(length_place.address(), &length)
}

fn judge_type(kind: SocketType) -> SysResult<(u32, SocketFlags)> {
    let flags = kind.flags();
    if !SocketFlags::all().contains(flags) || kind.kind() > SOCK_PACKET {
        return Err(EINVAL);
    }
    Ok((kind.kind(), flags))
}

/// The family of a new socket; those that are missing are counted by name.
fn family(
    task: &Task,
    call: &'static str,
    arguments: &[u64],
    number: i32,
) -> SysResult<Arc<dyn SocketFamily>> {
    let known = u16::try_from(number).ok().filter(|number| *number < AF_MAX).ok_or(EAFNOSUPPORT)?;
    task.kernel.sockets.family(known).inspect_err(|_| {
        unimplemented_option(task, call, option_name(ADDRESS_FAMILY_NAMES, number.into()), arguments);
    })
}

fn open(task: &Task, ops: Arc<dyn SocketOps>, flags: SocketFlags) -> Arc<FileDescription> {
    let status = (flags & SocketFlags::SOCK_NONBLOCK).bits();
    Socket::open(ops, status, &task.credentials())
}

fn install(task: &Task, file: Arc<FileDescription>, flags: SocketFlags) -> SysResult<i32> {
    let fd_flags =
        if flags.contains(SocketFlags::SOCK_CLOEXEC) { FdFlags::CLOEXEC } else { FdFlags::empty() };
    task.files().install_from(0, file, fd_flags, task.group.limits.soft(Resource::OpenFiles))
}

/// `socket(2)` <https://man7.org/linux/man-pages/man2/socket.2.html>
pub fn sys_socket(task: &Arc<Task>, domain: i32, kind: SocketType, protocol: i32) -> SysResult<i32> {
    let (kind, flags) = judge_type(kind)?;
    let arguments = [i64::from(domain).cast_unsigned(), kind.into(), i64::from(protocol).cast_unsigned()];
    let family = family(task, "socket", &arguments, domain)?;
    let ops = family.create(task, kind, protocol)?;
    install(task, open(task, ops, flags), flags)
}

/// `socketpair(2)` <https://man7.org/linux/man-pages/man2/socketpair.2.html>
pub fn sys_socketpair(
    task: &Arc<Task>,
    domain: i32,
    kind: SocketType,
    protocol: i32,
    fds: UserAddress,
) -> SysResult<()> {
    let (kind, flags) = judge_type(kind)?;
    let arguments = [i64::from(domain).cast_unsigned(), kind.into(), i64::from(protocol).cast_unsigned()];
    let family = family(task, "socketpair", &arguments, domain)?;
    let [first, second] = family.create_pair(task, kind, protocol)?.map(|ops| open(task, ops, flags));
    let undo = |fds: &[i32]| {
        for fd in fds {
            let _ = task.files().remove(*fd);
        }
    };
    let first = install(task, first, flags)?;
    let second = install(task, second, flags).inspect_err(|_| undo(&[first]))?;
    task.write_value(fds.address(), &[first, second]).inspect_err(|_| undo(&[first, second]))
}

/// `bind(2)` <https://man7.org/linux/man-pages/man2/bind.2.html>
pub fn sys_bind(task: &Arc<Task>, fd: Fd, address: UserAddress, length: i32) -> SysResult<()> {
    let file = socket_file(task, fd)?;
    let address = read_address(task, address, length)?;
    socket_of(&file)?.ops().bind(task, &address)
}

/// `listen(2)` <https://man7.org/linux/man-pages/man2/listen.2.html>
pub fn sys_listen(task: &Arc<Task>, fd: Fd, backlog: u32) -> SysResult<()> {
    let file = socket_file(task, fd)?;
    socket_of(&file)?.ops().listen(task, backlog)
}

/// `accept(2)` <https://man7.org/linux/man-pages/man2/accept.2.html>
pub fn sys_accept<'a>(task: &'a Arc<Task>, fd: Fd, address: UserAddress, length: UserAddress) -> Reply<'a> {
    sys_accept4(task, fd, address, length, SocketFlags::empty())
}

/// `accept4(2)` <https://man7.org/linux/man-pages/man2/accept.2.html>
pub fn sys_accept4<'a>(
    task: &'a Arc<Task>,
    fd: Fd,
    address: UserAddress,
    length: UserAddress,
    flags: SocketFlags,
) -> Reply<'a> {
    if !SocketFlags::all().contains(flags) {
        return Reply::Now(Err(EINVAL.into()));
    }
    let file = match socket_file(task, fd) {
        Ok(file) => file,
        Err(error) => return Reply::Now(Err(error.into())),
    };
    // A task without room for a descriptor must not take a connection away.
    if !task.files().has_room(task.group.limits.soft(Resource::OpenFiles)) {
        return Reply::Now(Err(abi::errno::EMFILE.into()));
    }
    let attempt = |file: &FileDescription| settled(socket_of(file).and_then(|socket| socket.ops().accept()));
    match attempt(&file) {
        None if !file.is_nonblocking() => {}
        None => return Reply::Now(Err(abi::errno::EAGAIN.into())),
        Some(result) => {
            return result.and_then(|ops| accepted(task, ops, address, length, flags)).into_reply();
        }
    }
    Reply::Later(Box::pin(async move {
        let result: CallResult<i32> = async {
            let socket = socket_of(&file)?;
            let ops = wait_for(task, socket, Direction::Read, || attempt(&file)).await?;
            accepted(task, ops, address, length, flags).map_err(Failure::Error)
        }
        .await;
        result.into_reply()
    }))
}

fn accepted(
    task: &Task,
    ops: Arc<dyn SocketOps>,
    address: UserAddress,
    length: UserAddress,
    flags: SocketFlags,
) -> SysResult<i32> {
    let peer = ops.peer_name();
    let file = open(task, ops, flags);
    if !address.is_null() {
        write_address(task, &peer.map_err(|_| abi::errno::ECONNABORTED)?, address, length)?;
    }
    install(task, file, flags)
}

/// `connect(2)` <https://man7.org/linux/man-pages/man2/connect.2.html>
pub fn sys_connect<'a>(task: &'a Arc<Task>, fd: Fd, address: UserAddress, length: i32) -> Reply<'a> {
    let begin = || {
        let file = socket_file(task, fd)?;
        let address = read_address(task, address, length)?;
        Ok((file, address))
    };
    let (file, address) = match begin() {
        Ok(begun) => begun,
        Err(error) => return Reply::Now(Err(Failure::Error(error))),
    };
    let attempt = |file: &FileDescription, address: &[u8]| {
        settled(socket_of(file).and_then(|socket| socket.ops().connect(task, address)))
    };
    match attempt(&file, &address) {
        None if !file.is_nonblocking() => {}
        None => return Reply::Now(Err(abi::errno::EAGAIN.into())),
        Some(result) => return result.into_reply(),
    }
    Reply::Later(Box::pin(async move {
        let result: CallResult<()> = async {
            let socket = socket_of(&file)?;
            wait_for(task, socket, Direction::Write, || attempt(&file, &address)).await
        }
        .await;
        result.into_reply()
    }))
}

/// `getsockname(2)` <https://man7.org/linux/man-pages/man2/getsockname.2.html>
pub fn sys_getsockname(task: &Arc<Task>, fd: Fd, address: UserAddress, length: UserAddress) -> SysResult<()> {
    let file = socket_file(task, fd)?;
    write_address(task, &socket_of(&file)?.ops().name()?, address, length)
}

/// `getpeername(2)` <https://man7.org/linux/man-pages/man2/getpeername.2.html>
pub fn sys_getpeername(task: &Arc<Task>, fd: Fd, address: UserAddress, length: UserAddress) -> SysResult<()> {
    let file = socket_file(task, fd)?;
    write_address(task, &socket_of(&file)?.ops().peer_name()?, address, length)
}

/// `shutdown(2)` <https://man7.org/linux/man-pages/man2/shutdown.2.html>
pub fn sys_shutdown(task: &Arc<Task>, fd: Fd, how: i32) -> SysResult<()> {
    let file = socket_file(task, fd)?;
    socket_of(&file)?.ops().shutdown(Shutdown::from_argument(how)?)
}
