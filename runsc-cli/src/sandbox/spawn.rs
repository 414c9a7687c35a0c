//! Making the sandbox's processes: `clone3(2)` into namespaces, then this very binary again in another role; and taking
//! ownership of descriptors that come from outside the program. The command line's only file with `unsafe`.
//!
//! Key types: [`Launch`] (what to make), [`Launched`] (a child).
//! Neighbours: `start.rs` decides namespaces and descriptors; `boot.rs` and `gofer.rs` are the children's side.
//! Invariants: the command line is single-threaded when it launches, so the child may allocate until it executes; the
//! child sees exactly the descriptors it was given, from 0 upwards, and an empty signal mask.

use std::ffi::{CStr, CString};
use std::io::{self, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use nix::cmsg_space;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use sentry::spec::WindowSize;

use super::placement::Place;

/// Most descriptors on one message (three standard ones, and some that were preserved).
pub const DESCRIPTOR_LIMIT: usize = 64;

/// Where the child parks descriptors while it moves them to their places; above any place.
const PARKING: RawFd = 128;

/// A child process to make.
#[derive(Debug)]
pub struct Launch<'a> {
    /// `argv`, with the hidden command in it.
    pub arguments: &'a [CString],
    /// `NAME=value`.
    pub environment: &'a [CString],
    /// Descriptor *n* of the list becomes descriptor *n* of the child.
    pub descriptors: &'a [BorrowedFd<'a>],
    /// `CLONE_NEW*` flags.
    pub namespaces: CloneFlags,
    /// Namespaces that the child makes by itself on its way, because they take long (`CLONE_NEWNET`: half a millisecond)
    /// and nobody else needs them: for these the caller does not wait.
    pub own_namespaces: CloneFlags,
    /// The caller has much to do yet: the child goes to another processor.
    pub elsewhere: bool,
    /// Keep all capabilities across the execution although the user is not root in the new user namespace.
    pub keep_capabilities: bool,
}

/// A child on its way into its role.
#[derive(Debug)]
pub struct Launched {
    /// In the caller's pid namespace.
    pub pid: Pid,
    /// Whether it got there.
    pub outcome: ExecOutcome,
}

/// Tells how a child fared with `execveat(2)`.
#[derive(Debug)]
pub struct ExecOutcome(std::fs::File);

impl ExecOutcome {
    /// Blocks until the child has executed its role (then `None`) or has failed to.
    pub fn error(mut self) -> Option<io::Error> {
        let mut errno = [0u8; 4];
        match self.0.read_exact(&mut errno) {
            Ok(()) => Some(io::Error::from_raw_os_error(i32::from_le_bytes(errno))),
            Err(_) => None,
        }
    }
}

/// Makes the child. Its user namespace has no mappings yet, and needs none to execute.
pub fn launch(launch: &Launch<'_>) -> io::Result<Launched> {
    let own_program =
        park(nix::fcntl::open("/proc/self/exe", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)?;
    let (failure_read, failure_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let failure_write = park(failure_write)?;
    if launch.descriptors.len() >= usize::try_from(PARKING).unwrap_or(0) {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    let argv = pointers(launch.arguments);
    let envp = pointers(launch.environment);
    let place = if launch.elsewhere { Some(Place::here()?) } else { None };
    let pid = clone_process(launch.namespaces)?;
    if let Some(place) = place {
        // Either may run first. Only to be faster: nothing depends on it.
        let _ = if pid == 0 { place.leave() } else { place.send_away(Pid::from_raw(pid)) };
    }
    if pid == 0 {
        let errno = become_role(launch, &own_program, &argv, &envp);
        drop(std::fs::File::from(failure_write).write_all(&errno.to_le_bytes()));
        // SAFETY: `_exit` takes any status, returns never and runs no handler of the parent's program.
        unsafe { libc::_exit(127) };
    }
    Ok(Launched { pid: Pid::from_raw(pid), outcome: ExecOutcome(failure_read.into()) })
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

/// `fork(2)` with namespaces. Returns 0 in the child.
fn clone_process(namespaces: CloneFlags) -> io::Result<libc::pid_t> {
    let flags = u64::from(namespaces.bits().cast_unsigned());
    // SAFETY: `clone_args` is plain integers, for which all zeroes is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    // SAFETY: without CLONE_VM this is a fork: the child has its own copy of memory and continues on a copy of this very
    // stack. The program has one thread here (this file's invariant), so no lock of glibc or Rust is held by a thread
    // that the copy lacks. glibc's cached thread id in the child is stale; the child only executes or exits, and never
    // uses it. `args` outlives the call and its size is passed.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(libc::pid_t::try_from(result).unwrap_or(libc::pid_t::MAX))
}

/// The child: arranges itself, executes. Returns only an errno.
fn become_role(
    launch: &Launch<'_>,
    program: &OwnedFd,
    argv: &[*const libc::c_char],
    envp: &[*const libc::c_char],
) -> i32 {
    if let Err(error) = arrange(launch) {
        return error.raw_os_error().unwrap_or(libc::EIO);
    }
    let empty: &CStr = c"";
    // SAFETY: `argv` and `envp` are null-terminated arrays of pointers into `launch`'s strings, which outlive the call,
    // and the descriptor is open; on success the call does not return.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            empty.as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Puts the descriptors in their places and leaves nothing else to the role.
fn arrange(launch: &Launch<'_>) -> io::Result<()> {
    if !launch.own_namespaces.is_empty() {
        nix::sched::unshare(launch.own_namespaces)?;
    }
    if launch.keep_capabilities {
        keep_capabilities()?;
    }
    let parked = launch
        .descriptors
        .iter()
        .map(|descriptor| copy_above(*descriptor))
        .collect::<io::Result<Vec<_>>>()?;
    for (place, descriptor) in (0..).zip(&parked) {
        // SAFETY: `dup2` of an open descriptor over a number below `PARKING`. What was open at that number belonged to
        // the copy of the parent's program, of which nothing runs any more but this file's functions; what those still
        // use (the program, the failure pipe, `parked`) is at `PARKING` or above.
        if unsafe { libc::dup2(descriptor.as_raw_fd(), place) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let first_beyond = u32::try_from(launch.descriptors.len()).unwrap_or(u32::MAX);
    // SAFETY: marks the other descriptors close-on-exec and closes none.
    if unsafe { libc::syscall(libc::SYS_close_range, first_beyond, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } < 0
    {
        return Err(io::Error::last_os_error());
    }
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    // They are close-on-exec: the execution closes them, all at once.
    std::mem::forget(parked);
    Ok(())
}

/// Moves a descriptor above all places.
fn park(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    copy_above(descriptor.as_fd())
}

/// A copy of a descriptor, above all places.
fn copy_above(descriptor: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: duplicates an open descriptor.
    let raw = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, PARKING) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made by `fcntl`, and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Makes every capability inheritable and ambient, so that it survives the execution of the role by a user who is not
/// the new user namespace's root yet (`capabilities(7)`, "Transformation of capabilities during execve()").
fn keep_capabilities() -> io::Result<()> {
    let data = set_inheritable(|half| half.permitted)?;
    for (half, base) in data.iter().zip([0u64, 32]) {
        for bit in (0..32u64).filter(|bit| half.permitted >> bit & 1 == 1) {
            // SAFETY: this `prctl` takes integers only.
            if unsafe {
                libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, base + bit, 0u64, 0u64)
            } < 0
            {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// `struct __user_cap_header_struct`, `capget(2)`.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`: 32 capabilities.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Changes the calling thread's inheritable set only; returns all sets as they are then.
fn set_inheritable(wanted: impl Fn(&CapabilityData) -> u32) -> io::Result<[CapabilityData; 2]> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = CapabilityHeader { version: VERSION_3, pid: 0 };
    let mut data = [CapabilityData::default(); 2];
    // SAFETY: version 3 writes exactly two `CapabilityData`s; both pointers are to live values of the right layout.
    if unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    for half in &mut data {
        half.inheritable = wanted(half);
    }
    // SAFETY: as above, and it only reads.
    if unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(data)
}

/// Undoes [`keep_capabilities`] once the role has become root of its user namespace: nothing is to be inherited further.
pub fn forget_inheritable_capabilities() -> io::Result<()> {
    set_inheritable(|_| 0)?;
    // SAFETY: this `prctl` takes integers only.
    if unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0u64, 0u64, 0u64) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Forks a process that goes on with this program. Returns its id to the parent, `None` to the child.
pub fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the program has one thread here (this file's invariant), so the child may do anything that it could.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Some(child)),
        nix::unistd::ForkResult::Child => Ok(None),
    }
}

/// Takes ownership of the descriptors from `first` upwards that a role was started with; once in the life of a process.
pub fn inherited_descriptors(first: RawFd, count: usize) -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(io::Error::other("the inherited descriptors were taken before"));
    }
    let mut taken = Vec::with_capacity(count);
    for raw in (first..).take(count) {
        // SAFETY: asks for and sets flags of a number; harmless for any number.
        if unsafe { libc::fcntl(raw, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("descriptor {raw} was not inherited"),
            ));
        }
        // SAFETY: it is open (checked above), and nobody else owns it: roles are started with nothing open but what is
        // listed for them, they take it before they open anything else, and only once (checked above).
        taken.push(unsafe { OwnedFd::from_raw_fd(raw) });
    }
    Ok(taken)
}

/// A copy of a descriptor that whoever started this program has opened for it; `EBADF` if it has not.
pub fn duplicate(raw: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: `fcntl` may be called with any number. If it is open, the copy is a new descriptor.
    let copy = unsafe { libc::fcntl(raw, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made by `fcntl`, and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// `recvmsg(2)`: reads into the buffer and takes ownership of descriptors that came along.
pub fn receive_with_descriptors(stream: &UnixStream, into: &mut [u8]) -> nix::Result<(usize, Vec<OwnedFd>)> {
    let mut control = cmsg_space!([RawFd; DESCRIPTOR_LIMIT]);
    let mut slices = [IoSliceMut::new(into)];
    let message =
        recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for item in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = item {
            // SAFETY: the host has just installed these for us; nobody else knows them.
            descriptors.extend(raw.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
        }
    }
    Ok((message.bytes, descriptors))
}

/// Makes `terminal` the controlling terminal of the calling session leader, `TIOCSCTTY(2const)`.
pub fn control_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: an `ioctl` with an integer argument.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The size of a terminal's window, `TIOCGWINSZ(2const)`.
pub fn window_size(terminal: BorrowedFd<'_>) -> io::Result<WindowSize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the host writes one `winsize`, which `size` is.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(WindowSize { rows: size.ws_row, columns: size.ws_col })
}

/// Sets the size of a terminal's window, `TIOCSWINSZ(2const)`.
pub fn set_window_size(terminal: BorrowedFd<'_>, size: WindowSize) -> io::Result<()> {
    let size = libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the host reads one `winsize`, which `size` is.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A reference to a process that no other process can inherit, `pidfd_open(2)`.
#[derive(Debug)]
pub struct ProcessHandle(OwnedFd);

impl ProcessHandle {
    /// Of the process that has this number now; `ESRCH` if there is none.
    pub fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: a system call with integer arguments.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        let raw = RawFd::try_from(raw).map_err(io::Error::other)?;
        // SAFETY: just made by `pidfd_open`, and owned by nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(raw) }))
    }

    /// `pidfd_send_signal(2)`.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let no_info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open and a null `siginfo` asks for the one that `kill(2)` would make.
        if unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, no_info, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Blocks until the process has ended (or is a zombie) or the time has come; `false` in the second case.
    pub fn wait_until_ended(&self, deadline: Instant) -> io::Result<bool> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout) {
                Err(nix::Error::EINTR) => {}
                outcome => return outcome.map(|ready| ready > 0).map_err(io::Error::from),
            }
        }
    }
}

impl AsFd for ProcessHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
