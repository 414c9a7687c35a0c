//! `mmap`, `munmap`, `mprotect`, `mremap`, `brk`, `madvise`, `msync`, `mlock`.
//!
//! The host may carry out calls that name their range exactly as they stand. The map is changed first, and the host
//! follows when the thread goes on. Other threads of the process may act in between: what is free in the map by then is not given to
//! anybody until the thread has come back (`Space::leaving`); threads that change the same range at the same time get one order
//! in the map and perhaps the other on the host, which is the program's own disorder, and nobody else's concern: what the
//! sentry does in a program's memory, it asks the host for.

use std::sync::Arc;

use abi::errno::{EACCES, EBADF, EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM, SysResult};
use abi::memory::{
    MADV_COLD, MADV_DODUMP, MADV_DOFORK, MADV_DONTDUMP, MADV_DONTFORK, MADV_DONTNEED, MADV_FREE,
    MADV_HUGEPAGE, MADV_KEEPONFORK, MADV_NOHUGEPAGE, MADV_NORMAL, MADV_PAGEOUT, MADV_POPULATE_READ,
    MADV_POPULATE_WRITE, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_WIPEONFORK, MAP_PRIVATE,
    MAP_SHARED, MAP_SHARED_VALIDATE, MAP_TYPE, MapFlags, MlockFlags, MremapFlags, MsyncFlags, Prot,
};
use abi::user::{Fd, UserAddress};
use platform::Protection;
use sentry::memory::{Backing, Locked, MapRequest, MapSource, PAGE_SIZE, Placement, RegionFlags, Remap};
use sentry::task::{Reply, Task};
use sentry::vfs::MappingSource;
use sentry::wait::CallResult;

use crate::table::{Entry, IntoReply, Support, call};

/// The calls of this file.
pub const CALLS: &[Entry] = &[
    call!(MMAP, sys_mmap, now 6, Support::Partial("huge pages and MAP_GROWSDOWN are not supported; MAP_LOCKED is accounted only")),
    call!(MUNMAP, sys_munmap, now 2, Support::Full),
    call!(MPROTECT, sys_mprotect, now 3, Support::Partial("PROT_GROWSDOWN and PROT_GROWSUP are refused")),
    call!(MREMAP, sys_mremap, wait 5, Support::Partial("MREMAP_DONTUNMAP is refused")),
    call!(BRK, sys_brk, now 1, Support::Full),
    call!(MADVISE, sys_madvise, now 3, Support::Partial("no MADV_REMOVE, memory failure injection or guard pages")),
    call!(MSYNC, sys_msync, now 3, Support::Full),
    call!(MLOCK, sys_mlock, wait 2, Support::Partial("limits are kept, pages are brought in and not pinned on the host")),
    call!(MLOCK2, sys_mlock2, wait 3, Support::Partial("limits are kept, pages are brought in and not pinned on the host")),
    call!(MUNLOCK, sys_munlock, wait 2, Support::Full),
    call!(MINCORE, sys_mincore, now 3, Support::Full),
];

fn protection(prot: Prot) -> Protection {
    Protection {
        // As on x86: what can be written or executed can be read.
        read: prot.intersects(Prot::PROT_READ | Prot::PROT_WRITE | Prot::PROT_EXEC),
        write: prot.contains(Prot::PROT_WRITE),
        execute: prot.contains(Prot::PROT_EXEC),
    }
}

/// `mmap(2)` <https://man7.org/linux/man-pages/man2/mmap.2.html>
pub fn sys_mmap(
    task: &Arc<Task>,
    address: UserAddress,
    length: u64,
    prot: Prot,
    flags: MapFlags,
    fd: Fd,
    offset: u64,
) -> Reply<'_> {
    let request = match map_request(task, address, length, prot, flags, fd, offset) {
        Ok(request) => request,
        Err(errno) => return Reply::Now(Err(errno.into())),
    };
    // A file may stand for zeroes; the host has no such file.
    let same_source =
        flags.contains(MapFlags::MAP_ANONYMOUS) || matches!(request.source, MapSource::File { .. });
    if same_source && is_exact(prot, flags) {
        match task.map_fixed_natively(&request, u64::from(fd.raw().cast_unsigned())) {
            Some(Ok(_)) => return Reply::Native,
            Some(Err(errno)) => return Reply::Now(Err(errno.into())),
            None => {}
        }
    }
    match task.map_natively(&request) {
        Some(Ok((start, operation))) => Reply::Substitute(operation, start),
        Some(Err(errno)) => Reply::Now(Err(errno.into())),
        None => Reply::Later(Box::pin(async move { task.map(&request).await.into_reply() })),
    }
}

/// Whether the host would understand the bits of an `mmap` exactly as they are understood here.
fn is_exact(prot: Prot, flags: MapFlags) -> bool {
    let known = MapFlags::MAP_FIXED
        | MapFlags::MAP_ANONYMOUS
        | MapFlags::MAP_NORESERVE
        | MapFlags::MAP_STACK
        | MapFlags::MAP_DENYWRITE;
    let others = flags.bits() & !known.bits();
    let readable = Prot::PROT_READ | Prot::PROT_WRITE | Prot::PROT_EXEC;
    others == MAP_PRIVATE && readable.contains(prot) && (prot.is_empty() || prot.contains(Prot::PROT_READ))
}

/// Judges the arguments of `mmap`.
fn map_request(
    task: &Task,
    address: UserAddress,
    length: u64,
    prot: Prot,
    flags: MapFlags,
    fd: Fd,
    offset: u64,
) -> SysResult<MapRequest> {
    if !offset.is_multiple_of(PAGE_SIZE) {
        return Err(EINVAL);
    }
    let kind = flags.bits() & MAP_TYPE;
    let shared = match kind {
        MAP_PRIVATE => false,
        MAP_SHARED | MAP_SHARED_VALIDATE => true,
        _ => return Err(EINVAL),
    };
    if kind == MAP_SHARED_VALIDATE && flags.contains(MapFlags::MAP_SYNC)
        || flags.contains(MapFlags::MAP_HUGETLB)
    {
        return Err(EOPNOTSUPP);
    }
    if flags.contains(MapFlags::MAP_GROWSDOWN) {
        // A mapping that grew by itself would need the kernel to see its faults.
        return Err(EOPNOTSUPP);
    }
    let mut request = MapRequest {
        placement: placement(address, flags),
        length,
        protection: protection(prot),
        source: if shared { MapSource::SharedAnonymous } else { MapSource::Anonymous },
        may_write: true,
        may_execute: true,
        flags: RegionFlags::empty(),
    };
    request.flags.set(RegionFlags::NORESERVE, flags.contains(MapFlags::MAP_NORESERVE));
    request.flags.set(RegionFlags::LOCKED, flags.contains(MapFlags::MAP_LOCKED));
    if !flags.contains(MapFlags::MAP_ANONYMOUS) {
        map_file(task, &mut request, fd, offset, shared)?;
    }
    Ok(request)
}

fn placement(address: UserAddress, flags: MapFlags) -> Placement {
    if flags.contains(MapFlags::MAP_FIXED_NOREPLACE) {
        Placement::NoReplace(address.address())
    } else if flags.contains(MapFlags::MAP_FIXED) {
        Placement::Replace(address.address())
    } else if flags.contains(MapFlags::MAP_32BIT) && address.is_null() {
        Placement::Low
    } else {
        Placement::Hint(address.address())
    }
}

/// Judges the file behind a mapping and makes it the request's source.
fn map_file(task: &Task, request: &mut MapRequest, fd: Fd, offset: u64, shared: bool) -> SysResult<()> {
    let file = task.files().get(fd.raw())?;
    if file.path_only {
        return Err(EBADF);
    }
    if offset.checked_add(request.length).is_none() {
        return Err(EOVERFLOW);
    }
    let noexec = file.location.as_ref().is_some_and(|location| location.mount.forbids_execution());
    request.may_execute = !noexec;
    if noexec && request.protection.execute {
        return Err(EPERM);
    }
    if !file.readable || shared && request.protection.write && (!file.writable || file.is_append()) {
        return Err(EACCES);
    }
    request.may_write = !shared || file.writable;
    match file.ops.mapping(&file)? {
        MappingSource::Zero => {}
        MappingSource::Host(source) => {
            request.source = MapSource::File { source, offset, file, shared };
        }
    }
    Ok(())
}

/// `munmap(2)` <https://man7.org/linux/man-pages/man2/munmap.2.html>
pub fn sys_munmap(task: &Arc<Task>, address: UserAddress, length: u64) -> Reply<'_> {
    match task.unmap_natively(address.address(), length) {
        Some(Ok(())) => Reply::Native,
        Some(Err(errno)) => Reply::Now(Err(errno.into())),
        None => {
            Reply::Later(Box::pin(async move { task.unmap(address.address(), length).await.into_reply() }))
        }
    }
}

/// `mprotect(2)` <https://man7.org/linux/man-pages/man2/mprotect.2.html>
pub fn sys_mprotect(task: &Arc<Task>, address: UserAddress, length: u64, prot: Prot) -> Reply<'_> {
    let known = Prot::PROT_READ | Prot::PROT_WRITE | Prot::PROT_EXEC | Prot::PROT_SEM;
    if prot.intersects(Prot::PROT_GROWSDOWN | Prot::PROT_GROWSUP) || !known.contains(prot) {
        return Reply::Now(Err(EINVAL.into()));
    }
    let (address, protection) = (address.address(), protection(prot));
    // The host is given the call as it stands only if its bits say exactly what the map will say.
    let exact = prot.is_empty() || prot.contains(Prot::PROT_READ) && !prot.contains(Prot::PROT_SEM);
    match exact.then(|| task.protect_natively(address, length, protection)).flatten() {
        Some(Ok(())) => Reply::Native,
        Some(Err(errno)) => Reply::Now(Err(errno.into())),
        None => {
            Reply::Later(Box::pin(
                async move { task.protect(address, length, protection).await.into_reply() },
            ))
        }
    }
}

/// `mremap(2)` <https://man7.org/linux/man-pages/man2/mremap.2.html>
pub async fn sys_mremap(
    task: &Arc<Task>,
    old: UserAddress,
    old_length: u64,
    new_length: u64,
    flags: MremapFlags,
    new: UserAddress,
) -> CallResult<u64> {
    if flags.contains(MremapFlags::MREMAP_DONTUNMAP) || !MremapFlags::all().contains(flags) {
        return Err(EINVAL.into());
    }
    let how = if flags.contains(MremapFlags::MREMAP_FIXED) {
        if !flags.contains(MremapFlags::MREMAP_MAYMOVE) || !new.is_aligned_to(PAGE_SIZE) {
            return Err(EINVAL.into());
        }
        Remap::Fixed(new.address())
    } else if flags.contains(MremapFlags::MREMAP_MAYMOVE) {
        Remap::MayMove
    } else {
        Remap::InPlace
    };
    Ok(task.remap(old.address(), old_length, new_length, how).await?)
}

/// `brk(2)` <https://man7.org/linux/man-pages/man2/brk.2.html>
pub fn sys_brk(task: &Arc<Task>, address: UserAddress) -> Reply<'_> {
    let wanted = address.address();
    match task.grow_break_natively(wanted) {
        Some(operation) => Reply::Substitute(operation, wanted),
        None => Reply::Later(Box::pin(async move { Reply::Now(Ok(task.set_break(wanted).await)) })),
    }
}

/// `madvise(2)` <https://man7.org/linux/man-pages/man2/madvise.2.html>
pub fn sys_madvise(task: &Arc<Task>, address: UserAddress, length: u64, advice: i32) -> Reply<'_> {
    let (set, clear) = match advice {
        MADV_NORMAL | MADV_RANDOM | MADV_SEQUENTIAL | MADV_WILLNEED | MADV_DONTNEED | MADV_FREE
        | MADV_HUGEPAGE | MADV_NOHUGEPAGE | MADV_DONTDUMP | MADV_DODUMP | MADV_COLD | MADV_PAGEOUT
        | MADV_POPULATE_READ | MADV_POPULATE_WRITE => (RegionFlags::empty(), RegionFlags::empty()),
        MADV_DONTFORK => (RegionFlags::DONTFORK, RegionFlags::empty()),
        MADV_DOFORK => (RegionFlags::empty(), RegionFlags::DONTFORK),
        MADV_WIPEONFORK => (RegionFlags::WIPEONFORK, RegionFlags::empty()),
        MADV_KEEPONFORK => (RegionFlags::empty(), RegionFlags::WIPEONFORK),
        _ => return Reply::Now(Err(EINVAL.into())),
    };
    let address = address.address();
    if (set | clear).is_empty() && task.may_advise_natively(address, length) {
        return Reply::Native;
    }
    Reply::Later(Box::pin(async move {
        let change = |flags: &mut RegionFlags| {
            flags.insert(set);
            flags.remove(clear);
        };
        task.advise(address, length, advice, change).await.into_reply()
    }))
}

/// `msync(2)` <https://man7.org/linux/man-pages/man2/msync.2.html>
pub fn sys_msync(task: &Arc<Task>, address: UserAddress, length: u64, flags: MsyncFlags) -> SysResult<()> {
    let both = MsyncFlags::MS_ASYNC | MsyncFlags::MS_SYNC;
    if !MsyncFlags::all().contains(flags) || flags.contains(both) || !address.is_aligned_to(PAGE_SIZE) {
        return Err(EINVAL);
    }
    let start = address.address();
    let end = length
        .checked_next_multiple_of(PAGE_SIZE)
        .and_then(|length| start.checked_add(length))
        .ok_or(ENOMEM)?;
    let mut at = start;
    let regions = task.memory().regions();
    for region in regions.iter().filter(|region| region.start < end && start < region.end) {
        if region.start > at {
            break;
        }
        at = region.end;
        let shared = region.flags.contains(RegionFlags::SHARED);
        if flags.contains(MsyncFlags::MS_SYNC)
            && shared
            && let Backing::File { file, .. } = &region.backing
        {
            file.ops.sync(sentry::vfs::DataOnly::Yes)?;
        }
    }
    if at < end { Err(ENOMEM) } else { Ok(()) }
}

/// `mlock(2)` <https://man7.org/linux/man-pages/man2/mlock.2.html>
pub async fn sys_mlock(task: &Arc<Task>, address: UserAddress, length: u64) -> CallResult<()> {
    set_locked(task, address, length, Locked::Yes).await
}

/// `mlock2(2)` <https://man7.org/linux/man-pages/man2/mlock.2.html>
pub async fn sys_mlock2(
    task: &Arc<Task>,
    address: UserAddress,
    length: u64,
    flags: MlockFlags,
) -> CallResult<()> {
    if !MlockFlags::all().contains(flags) {
        return Err(EINVAL.into());
    }
    let on_fault = flags.contains(MlockFlags::MLOCK_ONFAULT);
    set_locked(task, address, length, if on_fault { Locked::OnFault } else { Locked::Yes }).await
}

/// `mincore(2)` <https://man7.org/linux/man-pages/man2/mincore.2.html>
pub fn sys_mincore(task: &Arc<Task>, address: u64, length: u64, answer: u64) -> Reply<'_> {
    match task.check_residency(address, length, answer) {
        Ok(()) => Reply::Native,
        Err(errno) => Reply::Now(Err(errno.into())),
    }
}

/// `munlock(2)` <https://man7.org/linux/man-pages/man2/mlock.2.html>
pub async fn sys_munlock(task: &Arc<Task>, address: UserAddress, length: u64) -> CallResult<()> {
    set_locked(task, address, length, Locked::No).await
}

async fn set_locked(task: &Task, address: UserAddress, length: u64, locked: Locked) -> CallResult<()> {
    if length == 0 {
        return Ok(());
    }
    Ok(task.set_locked(address.address(), length, locked).await?)
}
