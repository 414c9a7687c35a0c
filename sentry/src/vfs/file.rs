//! Open files: what a file system gives to `open`, and the file description around it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use abi::errno::{EAGAIN, EINVAL, ENODEV, ENOTDIR, ENOTTY, ESPIPE, Errno, SysResult};
use abi::polling::InotifyMask;
use parking_lot::Mutex;

use super::{Inode, Location, WritableLoan, watches};
use crate::memory::HostFile;
use crate::task::Task;
use crate::wait::{CallResult, PollEvents, WaitQueue};

/// One entry of a directory listing.
#[derive(Clone, Debug)]
pub struct DirectoryEntry<'a> {
    /// Inode number.
    pub inode: u64,
    /// The position after this entry (`d_off`).
    pub next: u64,
    /// `DT_*`.
    pub kind: u8,
    /// Its name.
    pub name: &'a [u8],
}

/// What can be mapped of an open file.
pub enum MappingSource {
    /// A host descriptor, at the same offsets as the file. For shared and private mappings.
    Host(Arc<HostFile>),
    /// Fresh zero-filled memory (`/dev/zero`).
    Zero,
}

/// An open file, as its file system or device implements it. Calls never wait: what is not possible
/// now is `EAGAIN`, and the caller waits on [`FileOps::wait_queue`] if the description is not
/// `O_NONBLOCK`.
///
/// `offset` is meaningful for seekable files only.
pub trait FileOps: Send + Sync {
    /// Judges a read, write or `ioctl` once before it begins, with the caller at hand (a terminal's job control).
    ///
    /// # Errors
    /// As the file likes; interrupted, after a signal was sent.
    fn admit(&self, task: &Task, operation: Operation) -> CallResult<()> {
        let _ = (task, operation);
        Ok(())
    }

    /// Reads up to `buffer.len()` bytes; 0 is the end of the file.
    ///
    /// # Errors
    /// `EAGAIN`: nothing now. `EINVAL`: not readable by nature.
    fn read(&self, offset: u64, buffer: &mut [u8], file: &FileDescription) -> SysResult<usize> {
        let _ = (offset, buffer, file);
        Err(EINVAL)
    }

    /// Writes up to `bytes.len()` bytes.
    ///
    /// # Errors
    /// `EAGAIN`: no room now. `EPIPE` (the caller sends `SIGPIPE`).
    fn write(&self, offset: u64, bytes: &[u8], file: &FileDescription) -> SysResult<usize> {
        let _ = (offset, bytes, file);
        Err(EINVAL)
    }

    /// Writes on behalf of a task to a file without positions, for files that tell who wrote (sockets).
    ///
    /// # Errors
    /// As `write`.
    fn write_from(&self, task: &Task, bytes: &[u8], file: &FileDescription) -> SysResult<usize> {
        let _ = task;
        self.write(0, bytes, file)
    }

    /// Whether `EPIPE` comes with a `SIGPIPE`.
    fn broken_pipe_signals(&self) -> bool {
        true
    }

    /// Appends, and returns the offset after the bytes written. Only for seekable files.
    ///
    /// # Errors
    /// As `write`.
    fn append(&self, bytes: &[u8], file: &FileDescription) -> SysResult<(usize, u64)> {
        let end = file.inode.attributes()?.size;
        let count = self.write(end, bytes, file)?;
        Ok((count, end + count as u64))
    }

    /// Whether the file has positions (`lseek`, `pread`).
    fn is_seekable(&self) -> bool {
        true
    }

    /// Computes a new position for `lseek`, for directories and files with holes or other rules of their own. The default
    /// (`None`) leaves `SEEK_SET|CUR|END` to the VFS.
    fn seek(&self, offset: i64, whence: u32, file: &FileDescription) -> Option<SysResult<u64>> {
        let _ = (offset, whence, file);
        None
    }

    /// What is possible now.
    fn poll(&self, file: &FileDescription) -> PollEvents {
        let _ = file;
        PollEvents::READABLE | PollEvents::WRITABLE
    }

    /// Where changes of [`FileOps::poll`] are announced; `None` if it never changes.
    fn wait_queue(&self) -> Option<&WaitQueue> {
        None
    }

    /// How long a blocking read or write may wait, in nanoseconds (`SO_RCVTIMEO`, `SO_SNDTIMEO`); `None`: for ever.
    /// A call that could time out is not restarted after a signal (`man 7 signal`).
    fn wait_limit_ns(&self, direction: Direction) -> Option<u64> {
        let _ = direction;
        None
    }

    /// The result of a transfer for which [`FileOps::wait_limit_ns`] was too short.
    ///
    /// # Errors
    /// `EAGAIN`, unless that is the end of a read.
    fn timed_out(&self, direction: Direction) -> SysResult<usize> {
        let _ = direction;
        Err(EAGAIN)
    }

    /// `man 2 ioctl`. `FIONBIO`, `FIOCLEX` and the like have been handled.
    ///
    /// # Errors
    /// `ENOTTY` for unknown requests.
    fn ioctl(&self, task: &Task, file: &FileDescription, request: u32, argument: u64) -> SysResult<u64> {
        let _ = (task, file, request, argument);
        Err(ENOTTY)
    }

    /// What `mmap` of this file maps.
    ///
    /// # Errors
    /// `ENODEV`: it cannot be mapped.
    fn mapping(&self, file: &FileDescription) -> SysResult<MappingSource> {
        let _ = file;
        Err(ENODEV)
    }

    /// A host file with the same bytes at the same offsets, open for nothing but reading if the host knows it by name: the host reads it into
    /// the application's memory. That counts as an access. `None`: it has to be read through `read`.
    fn lend_for_reading(&self, file: &FileDescription) -> Option<Arc<HostFile>> {
        let _ = file;
        None
    }

    /// Identity of what was lent for reading, if that must not stay open for longer than the file, which somebody may delete on the host.
    fn lent_identity(&self) -> Option<u64> {
        None
    }

    /// As [`FileOps::lend_for_reading`], for writing. That counts as a change.
    fn lend_for_writing(&self) -> Option<WritableLoan> {
        None
    }

    /// Whether what [`FileOps::lend_for_writing`] lends is a file whose pages are counted.
    fn counts_writes(&self) -> bool {
        false
    }

    /// Lists a directory from position `from` (0 is the start) until `emit` returns `false`; that
    /// entry was not taken. Includes `.` and `..`.
    ///
    /// # Errors
    /// `ENOTDIR`.
    fn read_directory(
        &self,
        from: u64,
        file: &FileDescription,
        emit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> SysResult<()> {
        let _ = (from, file, emit);
        Err(ENOTDIR)
    }

    /// `fsync`, `fdatasync`.
    ///
    /// # Errors
    /// `EINVAL`: cannot be synchronised.
    fn sync(&self, data_only: DataOnly) -> SysResult<()> {
        let _ = data_only;
        Err(EINVAL)
    }

    /// `man 2 fallocate`.
    ///
    /// # Errors
    /// `EOPNOTSUPP`, `ENODEV`, `ESPIPE`.
    fn allocate(&self, mode: u32, offset: u64, length: u64) -> SysResult<()> {
        let _ = (mode, offset, length);
        Err(if self.is_seekable() { abi::errno::EOPNOTSUPP } else { ESPIPE })
    }

    /// A descriptor refers to this file no more (each `close`, also of duplicates).
    fn flush(&self, task: &Task) {
        let _ = task;
    }

    /// Called when `O_NONBLOCK`, `O_ASYNC`, … of the description change.
    ///
    /// # Errors
    /// The flag is not possible here.
    fn flags_changed(&self, flags: u32) -> SysResult<()> {
        let _ = flags;
        Ok(())
    }

    /// For downcasts (sockets, epoll, pipes, terminals find their own files again).
    fn as_any(&self) -> &dyn std::any::Any;
}

/// What [`FileOps::admit`] judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Any call that reads.
    Read,
    /// Any call that writes.
    Write,
    /// `ioctl`, with its request.
    Ioctl(u32),
}

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the application.
    Read,
    /// From the application.
    Write,
}

/// Whether `fsync` may leave metadata unwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataOnly {
    /// `fdatasync`
    Yes,
    /// `fsync`
    No,
}

/// A number that was never given before.
pub(crate) fn new_identity() -> u64 {
    static IDENTITIES: AtomicU64 = AtomicU64::new(1);
    IDENTITIES.fetch_add(1, Ordering::Relaxed)
}

/// An open file description (`man 2 open`): what `dup` and `fork` share.
pub struct FileDescription {
    /// The file's own operations.
    pub ops: Arc<dyn FileOps>,
    /// Its inode.
    pub inode: Arc<dyn Inode>,
    /// Where it was opened; `None` for pipes, sockets and the other anonymous ones.
    pub location: Option<Location>,
    /// Readable.
    pub readable: bool,
    /// Writable.
    pub writable: bool,
    /// Opened with `O_PATH`: only good as a place.
    pub path_only: bool,
    /// Status flags: `O_APPEND`, `O_NONBLOCK`, `O_ASYNC`, `O_DIRECT`, `O_NOATIME`, and what `open` got of the rest that
    /// `F_GETFL` shows.
    flags: AtomicU32,
    /// File position.
    pub position: Mutex<u64>,
    /// `F_SETOWN`, `F_SETSIG`.
    pub owner: Mutex<FileOwner>,
    /// Unlike any other description's (lock owner, epoll).
    pub identity: u64,
    /// What it keeps others from doing with the inode; ended when the description is dropped.
    denial: OnceLock<Denial>,
}

/// What an open file excludes (`ETXTBSY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Denial {
    /// Open for writing: it cannot be executed.
    Execution,
    /// Being executed: it cannot be opened for writing.
    Writing,
}

/// Who gets `SIGIO` (`man 2 fcntl`).
#[derive(Clone, Copy, Debug, Default)]
pub struct FileOwner {
    /// As `F_GETOWN` returns it.
    pub owner: i32,
    /// `owner` is a thread, not a process (`F_OWNER_TID`).
    pub is_thread: bool,
    /// `F_GETSIG`.
    pub signal: i32,
}

/// Flags that `fcntl(F_SETFL)` may change.
pub const CHANGEABLE_FLAGS: u32 =
    (libc::O_APPEND | libc::O_NONBLOCK | libc::O_ASYNC | libc::O_DIRECT | libc::O_NOATIME).cast_unsigned();

impl FileDescription {
    /// A description of an opened file. `flags` are those of `open`.
    pub fn new(
        ops: Arc<dyn FileOps>,
        inode: Arc<dyn Inode>,
        location: Option<Location>,
        flags: u32,
    ) -> Arc<Self> {
        let access = flags & libc::O_ACCMODE.cast_unsigned();
        let path_only = flags & libc::O_PATH.cast_unsigned() != 0;
        let creation =
            (libc::O_CREAT | libc::O_EXCL | libc::O_NOCTTY | libc::O_TRUNC | libc::O_CLOEXEC).cast_unsigned();
        Arc::new(Self {
            ops,
            inode,
            location,
            // Access mode 3 is neither: such a descriptor is only good for `ioctl`.
            readable: !path_only
                && (access == libc::O_RDONLY.cast_unsigned() || access == libc::O_RDWR.cast_unsigned()),
            writable: !path_only
                && (access == libc::O_WRONLY.cast_unsigned() || access == libc::O_RDWR.cast_unsigned()),
            denial: OnceLock::new(),
            path_only,
            flags: AtomicU32::new(flags & !creation),
            position: Mutex::new(0),
            owner: Mutex::default(),
            identity: new_identity(),
        })
    }

    /// As `F_GETFL` shows them.
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// `O_NONBLOCK` is set.
    pub fn is_nonblocking(&self) -> bool {
        self.flags() & libc::O_NONBLOCK.cast_unsigned() != 0
    }

    /// `O_APPEND` is set.
    pub fn is_append(&self) -> bool {
        self.flags() & libc::O_APPEND.cast_unsigned() != 0
    }

    /// Replaces the changeable flags (`F_SETFL`, `FIONBIO`).
    ///
    /// # Errors
    /// The file's.
    pub fn set_flags(&self, flags: u32) -> Result<(), Errno> {
        let new = self.flags() & !CHANGEABLE_FLAGS | flags & CHANGEABLE_FLAGS;
        self.ops.flags_changed(new)?;
        self.flags.store(new, Ordering::Relaxed);
        Ok(())
    }

    /// Excludes execution of the file for as long as this description lives.
    ///
    /// # Errors
    /// `ETXTBSY`: it is being executed.
    pub fn deny_execution(&self) -> SysResult<()> {
        self.inode.attachments().add_writer()?;
        let _ = self.denial.set(Denial::Execution);
        Ok(())
    }

    /// Excludes writers for as long as this description lives.
    ///
    /// # Errors
    /// `ETXTBSY`: it is open for writing.
    pub fn deny_writing(&self) -> SysResult<()> {
        self.inode.attachments().deny_writers()?;
        let _ = self.denial.set(Denial::Writing);
        Ok(())
    }

    /// Whether the file has a position.
    pub fn is_seekable(&self) -> bool {
        self.ops.is_seekable()
    }

    /// Readiness, as `poll` sees it.
    pub fn poll(&self) -> PollEvents {
        self.ops.poll(self)
    }
}

impl Drop for FileDescription {
    fn drop(&mut self) {
        let attachments = self.inode.attachments();
        match self.denial.get() {
            Some(Denial::Execution) => attachments.remove_writer(),
            Some(Denial::Writing) => attachments.allow_writers(),
            None => {}
        }
        attachments.release_description(self.identity);
        let closed = if self.writable { InotifyMask::IN_CLOSE_WRITE } else { InotifyMask::IN_CLOSE_NOWRITE };
        watches::on_file(self, closed);
    }
}
