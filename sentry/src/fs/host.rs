//! Files that the sentry inherited: the standard streams of the container's processes.
//!
//! Their host descriptions belong to others too, so they are never made non-blocking: readiness is
//! asked for first, and no more is written than a ready file takes without waiting.

use std::any::Any;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use abi::errno::{EAGAIN, EIO, ENXIO, ESPIPE, SysResult};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::stat::{FileStat, fstat};
use nix::unistd::Whence;

use crate::kernel::Kernel;
use crate::memory::errno;
use crate::reactor::{Reactor, Watch};
use crate::task::Task;
use crate::vfs::{
    Attachments, Attributes, DataOnly, DeviceNumber, FileDescription, FileKind, FileOps, FileSystem,
    FileSystemStatus, Inode, OpenRequest, allocate_device,
};
use crate::wait::{Observer, PollEvents, WaitQueue};

/// What a pipe or terminal that is ready for writing takes without waiting (`PIPE_BUF`).
const READY_WRITE: usize = 4096;

/// The inode of an inherited file; everything that is said of it comes from `fstat`.
pub struct HostInode {
    descriptor: OwnedFd,
    kind: FileKind,
    attachments: Attachments,
}

/// An inherited file, open.
struct HostStream {
    inode: Arc<HostInode>,
    changes: Arc<Changes>,
    /// `None` for files that are always ready.
    _watch: Option<Watch>,
}

#[derive(Default)]
struct Changes {
    queue: WaitQueue,
}

impl Observer for Changes {
    fn notify(&self, events: PollEvents) {
        self.queue.wake(events | PollEvents::READABLE | PollEvents::WRITABLE);
    }
}

/// Makes an open file of an inherited descriptor, readable and writable as the host has it.
///
/// # Errors
/// The host's; `ENXIO` for something that is no file.
pub fn inherited(kernel: &Kernel, descriptor: OwnedFd) -> SysResult<Arc<FileDescription>> {
    let status = fstat(&descriptor).map_err(errno)?;
    let kind = FileKind::from_mode(status.st_mode).ok_or(ENXIO)?;
    let flags = nix::fcntl::fcntl(&descriptor, nix::fcntl::FcntlArg::F_GETFL).map_err(errno)?;
    let inode = Arc::new(HostInode { descriptor, kind, attachments: Attachments::default() });
    let changes = Arc::new(Changes::default());
    let watch = watch(&kernel.reactor, &inode, &changes)?;
    let ops = Arc::new(HostStream { inode: Arc::clone(&inode), changes, _watch: watch });
    // O_NONBLOCK and the like are the sentry's own business; the host's flags are not shown.
    let shown = flags & (libc::O_ACCMODE | libc::O_APPEND);
    Ok(FileDescription::new(ops, inode, None, shown.cast_unsigned()))
}

fn watch(reactor: &Arc<Reactor>, inode: &Arc<HostInode>, changes: &Arc<Changes>) -> SysResult<Option<Watch>> {
    let own = inode.descriptor.try_clone()?;
    match reactor.watch(own, Arc::clone(changes) as Arc<dyn Observer>) {
        Ok(watch) => Ok(Some(watch)),
        Err(nix::Error::EPERM) => Ok(None),
        Err(error) => Err(errno(error)),
    }
}

impl HostInode {
    fn status(&self) -> SysResult<FileStat> {
        fstat(&self.descriptor).map_err(errno)
    }

    fn is_positioned(&self) -> bool {
        matches!(self.kind, FileKind::Regular | FileKind::BlockDevice)
    }
}

impl AsFd for HostInode {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl HostStream {
    fn is_ready(&self, wanted: PollFlags) -> SysResult<bool> {
        let mut polled = [PollFd::new(self.inode.descriptor.as_fd(), wanted)];
        nix::poll::poll(&mut polled, PollTimeout::ZERO).map_err(errno)?;
        Ok(polled[0].revents().is_some_and(|events| !events.is_empty()))
    }
}

impl FileOps for HostStream {
    // The position of an inherited file is shared with whoever gave it to us, so the host keeps it.
    fn read(&self, _offset: u64, buffer: &mut [u8], _file: &FileDescription) -> SysResult<usize> {
        if !self.inode.is_positioned() && !self.is_ready(PollFlags::POLLIN)? {
            return Err(EAGAIN);
        }
        match nix::unistd::read(&self.inode.descriptor, buffer) {
            // The other side of a terminal is gone.
            Err(nix::Error::EIO) if self.inode.kind == FileKind::CharacterDevice => Err(EIO),
            other => other.map_err(errno),
        }
    }

    fn write(&self, _offset: u64, bytes: &[u8], _file: &FileDescription) -> SysResult<usize> {
        let mut piece = bytes;
        if !self.inode.is_positioned() {
            if !self.is_ready(PollFlags::POLLOUT)? {
                return Err(EAGAIN);
            }
            piece = bytes.get(..READY_WRITE.min(bytes.len())).unwrap_or(bytes);
        }
        nix::unistd::write(&self.inode.descriptor, piece).map_err(errno)
    }

    fn is_seekable(&self) -> bool {
        false
    }

    fn seek(&self, offset: i64, whence: u32, _file: &FileDescription) -> Option<SysResult<u64>> {
        if !self.inode.is_positioned() {
            return Some(Err(ESPIPE));
        }
        let whence = match whence {
            0 => Whence::SeekSet,
            1 => Whence::SeekCur,
            2 => Whence::SeekEnd,
            _ => return Some(Err(abi::errno::EINVAL)),
        };
        let moved = nix::unistd::lseek(&self.inode.descriptor, offset, whence);
        Some(moved.map_err(errno).and_then(|at| u64::try_from(at).map_err(|_| EIO)))
    }

    fn poll(&self, _file: &FileDescription) -> PollEvents {
        let asked = PollFlags::POLLIN | PollFlags::POLLOUT | PollFlags::POLLPRI;
        let mut polled = [PollFd::new(self.inode.descriptor.as_fd(), asked)];
        if nix::poll::poll(&mut polled, PollTimeout::ZERO).is_err() {
            return PollEvents::ERR;
        }
        let bits = polled[0].revents().map_or(0, |events| events.bits().cast_unsigned());
        let mut events = PollEvents::from_bits_truncate(u32::from(bits));
        if events.contains(PollEvents::IN) {
            events |= PollEvents::RDNORM;
        }
        if events.contains(PollEvents::OUT) {
            events |= PollEvents::WRNORM;
        }
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.changes.queue)
    }

    fn sync(&self, _data_only: DataOnly) -> SysResult<()> {
        nix::unistd::fsync(&self.inode.descriptor).map_err(errno)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct HostFileSystem {
    device: DeviceNumber,
}

impl FileSystem for HostFileSystem {
    fn type_name(&self) -> &'static str {
        "inherited"
    }
    fn device(&self) -> DeviceNumber {
        self.device
    }
    fn root(&self) -> Arc<dyn Inode> {
        crate::vfs::AnonymousInode::new(crate::vfs::AnonymousKind::Other("inherited"), 0, 0)
    }
    fn status(&self) -> SysResult<FileSystemStatus> {
        Ok(FileSystemStatus { magic: 0x5049_5045, block_size: 4096, name_max: 255, ..Default::default() })
    }
}

impl Inode for HostInode {
    fn file_system(&self) -> Arc<dyn FileSystem> {
        static INSTANCE: OnceLock<Arc<HostFileSystem>> = OnceLock::new();
        INSTANCE.get_or_init(|| Arc::new(HostFileSystem { device: allocate_device() })).clone()
    }

    fn kind(&self) -> FileKind {
        self.kind
    }

    fn attributes(&self) -> SysResult<Attributes> {
        let status = self.status()?;
        let time = |seconds: i64, nanoseconds: i64| {
            seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
        };
        Ok(Attributes {
            kind: self.kind,
            permissions: status.st_mode & 0o7777,
            links: u32::try_from(status.st_nlink).unwrap_or(u32::MAX),
            // Host owners mean nothing inside; a stream belongs to whoever was given it.
            uid: 0,
            gid: 0,
            device_number: DeviceNumber::decode(status.st_rdev),
            inode: status.st_ino,
            size: u64::try_from(status.st_size).unwrap_or(0),
            blocks_512: u64::try_from(status.st_blocks).unwrap_or(0),
            block_size: u32::try_from(status.st_blksize).unwrap_or(4096),
            access_ns: time(status.st_atime, status.st_atime_nsec),
            modify_ns: time(status.st_mtime, status.st_mtime_nsec),
            change_ns: time(status.st_ctime, status.st_ctime_nsec),
            birth_ns: None,
        })
    }

    fn open(self: Arc<Self>, _request: OpenRequest, _task: &Task) -> SysResult<Arc<dyn FileOps>> {
        Err(ENXIO)
    }

    fn attachments(&self) -> &Attachments {
        &self.attachments
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
