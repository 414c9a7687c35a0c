//! `fork`, `vfork`, `clone`, `clone3`, `execve`, `execveat`, `exit`, `exit_group`, `set_tid_address`, `unshare`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::errno::{E2BIG, EFAULT, EINVAL, SysResult};
use abi::process::{CloneArgs, CloneFlags};
use abi::user::{UserAddress, UserPath};
use sentry::task::Reply;
use sentry::task::{CloneRequest, ExecRequest, ExitStatus, Resource, Task};
use sentry::wait::{CallResult, Failure};

use crate::table::{Entry, IntoRegister, IntoReply, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(FORK, sys_fork, wait 0, Support::Full),
    call!(VFORK, sys_vfork, wait 0, Support::Full),
    call!(CLONE, sys_clone, now 5, Support::Partial("no new namespaces or CLONE_IO")),
    call!(CLONE3, sys_clone3, now 2, Support::Partial("no new namespaces, set_tid or CLONE_INTO_CGROUP")),
    call!(EXECVE, sys_execve, wait 3, Support::Full),
    call!(EXECVEAT, sys_execveat, wait 5, Support::Full),
    call!(EXIT, sys_exit, now 1, Support::Full),
    call!(EXIT_GROUP, sys_exit_group, now 1, Support::Full),
    call!(SET_TID_ADDRESS, sys_set_tid_address, now 1, Support::Full),
    call!(UNSHARE, sys_unshare, now 1, Support::Partial("no new namespaces")),
];

/// Flags that are refused: nothing here can do what they ask for.
const REFUSED: CloneFlags = CloneFlags::NAMESPACES.union(CloneFlags::CLONE_INTO_CGROUP);

/// `fork(2)` <https://man7.org/linux/man-pages/man2/fork.2.html>
pub async fn sys_fork(task: &Arc<Task>) -> CallResult<i32> {
    task.clone_task(&CloneRequest::fork()).await
}

/// `vfork(2)` <https://man7.org/linux/man-pages/man2/vfork.2.html>
pub async fn sys_vfork(task: &Arc<Task>) -> CallResult<i32> {
    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
    task.clone_task(&CloneRequest { flags, ..CloneRequest::fork() }).await
}

/// `clone(2)` <https://man7.org/linux/man-pages/man2/clone.2.html>
pub fn sys_clone(
    task: &Arc<Task>,
    flags: CloneFlags,
    stack: UserAddress,
    parent_tid: UserAddress,
    child_tid: UserAddress,
    tls: u64,
) -> Reply<'_> {
    let request = CloneRequest {
        exit_signal: flags.exit_signal(),
        flags: CloneFlags::from_bits_retain(flags.bits() & !CloneFlags::CSIGNAL),
        stack: stack.address(),
        tls,
        parent_tid: parent_tid.address(),
        child_tid: child_tid.address(),
        // `clone` has one place for both.
        pidfd: parent_tid.address(),
    };
    if request.flags.contains(CloneFlags::CLONE_PIDFD | CloneFlags::CLONE_PARENT_SETTID)
        || request.flags.intersects(REFUSED)
    {
        return Reply::Now(Err(EINVAL.into()));
    }
    begin_clone(task, request)
}

/// Makes a thread without waiting for it, if that is possible; anything else as ever.
fn begin_clone(task: &Arc<Task>, request: CloneRequest) -> Reply<'_> {
    match task.begin_thread(&request) {
        Some(Ok(tid)) => Reply::Spawn(tid.into_register()),
        Some(Err(error)) => Reply::Now(Err(error.into())),
        None => Reply::Later(Box::pin(async move { task.clone_task(&request).await.into_reply() })),
    }
}

/// First size of `struct clone_args`.
const CLONE_ARGS_SIZE_VER0: usize = 64;

/// `clone3(2)` <https://man7.org/linux/man-pages/man2/clone.2.html>
pub fn sys_clone3(task: &Arc<Task>, arguments: UserAddress, size: usize) -> Reply<'_> {
    match clone3_request(task, arguments, size) {
        Ok(request) => begin_clone(task, request),
        Err(error) => Reply::Now(Err(error.into())),
    }
}

/// Reads, once, and judges what `clone3` is asked for.
fn clone3_request(task: &Task, arguments: UserAddress, size: usize) -> SysResult<CloneRequest> {
    let arguments = read_clone_args(task, arguments, size)?;
    let flags = CloneFlags::from_bits_retain(arguments.flags);
    if flags.bits() & CloneFlags::CSIGNAL != 0
        || !CloneFlags::all().contains(flags)
        || flags.intersects(REFUSED | CloneFlags::CLONE_DETACHED)
        || arguments.set_tid_size != 0
    {
        return Err(EINVAL);
    }
    // The stack is given by its lowest address here, and both or neither must be there.
    let stack = arguments.stack.checked_add(arguments.stack_size).ok_or(EINVAL)?;
    if (arguments.stack == 0) != (arguments.stack_size == 0) {
        return Err(EINVAL);
    }
    let exit_signal = i32::try_from(arguments.exit_signal).map_err(|_| EINVAL)?;
    if exit_signal != 0 && flags.intersects(CloneFlags::CLONE_THREAD | CloneFlags::CLONE_PARENT) {
        return Err(EINVAL);
    }
    Ok(CloneRequest {
        flags,
        exit_signal,
        stack,
        tls: arguments.tls,
        parent_tid: arguments.parent_tid,
        child_tid: arguments.child_tid,
        pidfd: arguments.pidfd,
    })
}

/// Copies in an extensible structure: shorter ones are padded, longer ones must be zero behind.
fn read_clone_args(task: &Task, address: UserAddress, size: usize) -> SysResult<CloneArgs> {
    if size < CLONE_ARGS_SIZE_VER0 {
        return Err(EINVAL);
    }
    if size > 4096 {
        return Err(E2BIG);
    }
    let mut bytes = vec![0; size.max(size_of::<CloneArgs>())];
    task.read_exact(address.address(), bytes.get_mut(..size).ok_or(EFAULT)?)?;
    let (arguments, rest) = zerocopy::FromBytes::read_from_prefix(&bytes).map_err(|_| EINVAL)?;
    if rest.iter().any(|byte| *byte != 0) { Err(E2BIG) } else { Ok(arguments) }
}

/// `execve(2)` <https://man7.org/linux/man-pages/man2/execve.2.html>
pub async fn sys_execve(
    task: &Arc<Task>,
    path: UserPath,
    arguments: UserAddress,
    environment: UserAddress,
) -> Reply<'_> {
    exec(task, libc::AT_FDCWD, path, arguments, environment, 0).await
}

/// `execveat(2)` <https://man7.org/linux/man-pages/man2/execveat.2.html>
pub async fn sys_execveat(
    task: &Arc<Task>,
    directory: i32,
    path: UserPath,
    arguments: UserAddress,
    environment: UserAddress,
    flags: u32,
) -> Reply<'_> {
    exec(task, directory, path, arguments, environment, flags).await
}

async fn exec<'a>(
    task: &'a Arc<Task>,
    directory: i32,
    path: UserPath,
    arguments: UserAddress,
    environment: UserAddress,
    flags: u32,
) -> Reply<'a> {
    let request = match exec_request(task, directory, path, arguments, environment, flags) {
        Ok(request) => request,
        Err(errno) => return Reply::Now(Err(Failure::Error(errno))),
    };
    match task.execute(request).await {
        Ok(()) => Reply::Registers,
        Err(failure) => Reply::Now(Err(failure)),
    }
}

fn exec_request(
    task: &Task,
    directory: i32,
    path: UserPath,
    arguments: UserAddress,
    environment: UserAddress,
    flags: u32,
) -> SysResult<ExecRequest> {
    const KNOWN: u32 = (libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW).cast_unsigned();
    if flags & !KNOWN != 0 {
        return Err(EINVAL);
    }
    let path = task.read_path(path.address().address())?;
    let file = task.open_executable(directory, &path, flags)?;
    let limit = usize::try_from(task.group.limits.soft(Resource::Stack) / 4)
        .unwrap_or(usize::MAX)
        .clamp(128 << 10, 6 << 20);
    let mut arguments = task.read_string_array(arguments.address(), limit)?;
    let environment = task.read_string_array(environment.address(), limit)?;
    if arguments.is_empty() {
        // As Linux since 5.18: a program may rely on having a name.
        arguments.push(Vec::new());
    }
    let path = if path.starts_with(b"/") || directory == libc::AT_FDCWD {
        path
    } else if path.is_empty() {
        format!("/dev/fd/{directory}").into_bytes()
    } else {
        [format!("/dev/fd/{directory}/").as_bytes(), &path].concat()
    };
    Ok(ExecRequest { file, path, arguments, environment })
}

/// `exit(2)` <https://man7.org/linux/man-pages/man2/_exit.2.html>
pub fn sys_exit(task: &Arc<Task>, status: i32) -> SysResult<()> {
    task.exits_natively.store(true, Ordering::Relaxed);
    task.end_with(exit_status(status));
    Ok(())
}

/// `exit_group(2)` <https://man7.org/linux/man-pages/man2/exit_group.2.html>
pub fn sys_exit_group(task: &Arc<Task>, status: i32) -> SysResult<()> {
    task.group.begin_exit(exit_status(status));
    Ok(())
}

fn exit_status(status: i32) -> ExitStatus {
    ExitStatus::Exited(status.to_le_bytes()[0])
}

/// `set_tid_address(2)` <https://man7.org/linux/man-pages/man2/set_tid_address.2.html>
pub fn sys_set_tid_address(task: &Arc<Task>, address: UserAddress) -> SysResult<i32> {
    task.clear_child_tid.store(address.address(), Ordering::Relaxed);
    Ok(task.tid())
}

/// `unshare(2)` <https://man7.org/linux/man-pages/man2/unshare.2.html>
pub fn sys_unshare(task: &Arc<Task>, flags: CloneFlags) -> SysResult<()> {
    // There is nothing to undo at the end for System V semaphores, so a list of one's own is no change.
    const DONE: CloneFlags =
        CloneFlags::CLONE_FILES.union(CloneFlags::CLONE_FS).union(CloneFlags::CLONE_SYSVSEM);
    // What cannot be undone: allowed only where nothing is shared.
    const CHECKED: CloneFlags =
        CloneFlags::CLONE_THREAD.union(CloneFlags::CLONE_SIGHAND).union(CloneFlags::CLONE_VM);
    // Namespaces: as on a kernel built without them.
    if !DONE.union(CHECKED).contains(flags) {
        return Err(EINVAL);
    }
    let shares_memory = flags.contains(CloneFlags::CLONE_VM) && task.memory().users() > 1;
    // One reference is the group's, one the one counted.
    let shares_handlers = flags.intersects(CloneFlags::CLONE_SIGHAND | CloneFlags::CLONE_VM)
        && Arc::strong_count(&task.group.signals.handlers()) > 2;
    if flags.intersects(CHECKED) && task.group.thread_count() > 1 || shares_memory || shares_handlers {
        return Err(EINVAL);
    }
    if flags.contains(CloneFlags::CLONE_FS) {
        task.unshare_fs();
    }
    if flags.contains(CloneFlags::CLONE_FILES) {
        task.unshare_files();
    }
    Ok(())
}
