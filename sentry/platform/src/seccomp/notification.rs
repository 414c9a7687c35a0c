//! The kernel's user-notification interface (`man 2 seccomp_unotify`), typed.
//!
//! Key types: [`Listener`], [`Notification`]. Nothing here knows threads or slots.

use std::cell::Cell;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU32;

use abi::errno::{self, Errno};

/// `struct seccomp_notif`, as the kernel fills it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Notification {
    /// Cookie that an answer must carry.
    pub id: u64,
    /// Thread id in the receiver's pid namespace.
    pub tid: u32,
    /// Unused by Linux.
    pub flags: u32,
    /// System call number as in `eax`.
    pub number: i32,
    /// `AUDIT_ARCH_*`.
    pub architecture: u32,
    /// Address after the entering instruction.
    pub ip: u64,
    /// The six argument registers.
    pub arguments: [u64; 6],
}

/// `AUDIT_ARCH_X86_64` (`linux/audit.h`).
pub const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

impl Notification {
    const EMPTY: Self =
        Self { id: 0, tid: 0, flags: 0, number: 0, architecture: 0, ip: 0, arguments: [0; 6] };
}

const _: () = assert!(size_of::<Notification>() == 80);

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// `struct seccomp_notif_addfd`.
#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    source: u32,
    target: u32,
    target_flags: u32,
}

/// `SECCOMP_IOCTL_NOTIF_RECV`
pub const IOCTL_RECV: u64 = 0xc050_2100;
/// `SECCOMP_IOCTL_NOTIF_SEND`
pub const IOCTL_SEND: u64 = 0xc018_2101;
/// `SECCOMP_IOCTL_NOTIF_ADDFD`
pub const IOCTL_ADDFD: u64 = 0x4018_2103;
/// `SECCOMP_IOCTL_NOTIF_SET_FLAGS`
pub const IOCTL_SET_FLAGS: u64 = 0x4008_2104;
const FLAG_CONTINUE: u32 = 1;
/// `SECCOMP_ADDFD_FLAG_SETFD`
const ADDFD_FLAG_SETFD: u32 = 1;
const FD_SYNC_WAKE_UP: u64 = 1;

/// What a thread of the sentry has received and answered.
#[derive(Clone, Copy, Default)]
struct Dealings {
    /// Id and thread of the notification that it has received last.
    received: (u64, u32),
    /// Whose notification it has answered last, if that was the one received last; 0 if not.
    answered: u32,
    /// What [`follows_an_answer`] says.
    follows: bool,
}

thread_local! {
    static DEALINGS: Cell<Dealings> = Cell::default();
}

/// Whether the call received last is that of the thread answered before. The host often lets an answered thread run at once, in the place
/// of who has answered it: its next call is there already when somebody looks for it, though it has not had to wait for anybody.
pub fn follows_an_answer() -> bool {
    DEALINGS.get().follows
}

/// The sandbox's only notification descriptor.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Takes over a descriptor that `seccomp(2)` returned in the seed.
    ///
    /// # Errors
    /// The descriptor is not a listener.
    pub fn new(fd: OwnedFd) -> Result<Self, Errno> {
        // SAFETY: the ioctl takes its argument by value; on anything but a listener it fails.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), IOCTL_SET_FLAGS, FD_SYNC_WAKE_UP) };
        if result < 0 {
            match last_error() {
                // Linux before 6.6 lacks the flag; everything still works, slower.
                errno::EINVAL => {}
                error => return Err(error),
            }
        }
        Ok(Self(fd))
    }

    /// Waits for a notification; `interruptible` is the word that a kick changes (see `worker`).
    ///
    /// # Errors
    /// `EINTR` after a kick or another signal, `ENOENT` when the call was abandoned meanwhile.
    pub fn receive(&self, interruptible: &AtomicU32) -> Result<Notification, Errno> {
        let mut notification = Notification::EMPTY;
        // SAFETY: the structure is writable, has the kernel's size, is zeroed as the kernel demands, and outlives
        // the call; the word outlives it too.
        let result = unsafe {
            super::worker::receive(
                self.0.as_raw_fd(),
                IOCTL_RECV,
                (&raw mut notification).cast(),
                interruptible.as_ptr(),
            )
        };
        if result < 0 {
            return Err(Errno::from_raw((-result) as i32));
        }
        let follows = DEALINGS.get().answered == notification.tid;
        DEALINGS.set(Dealings { received: (notification.id, notification.tid), answered: 0, follows });
        Ok(notification)
    }

    /// Lets the call return `value` in `rax`.
    ///
    /// # Errors
    /// `ENOENT`: the thread was killed.
    pub fn answer(&self, id: u64, value: u64) -> Result<(), Errno> {
        self.send(&mut Response { id, value: value.cast_signed(), error: 0, flags: 0 })
    }

    /// Lets the host execute the call.
    ///
    /// # Errors
    /// `ENOENT`: the thread was killed.
    pub fn proceed(&self, id: u64) -> Result<(), Errno> {
        self.send(&mut Response { id, value: 0, error: 0, flags: FLAG_CONTINUE })
    }

    fn send(&self, response: &mut Response) -> Result<(), Errno> {
        // SAFETY: the structure has the kernel's layout and outlives the call.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), IOCTL_SEND, &raw mut *response) };
        let dealings = DEALINGS.get();
        let (id, tid) = dealings.received;
        DEALINGS.set(Dealings { answered: if id == response.id { tid } else { 0 }, ..dealings });
        if result < 0 { Err(last_error()) } else { Ok(()) }
    }

    /// Installs a copy of `file` in the process whose call `id` is pending, in place of what has number `at` there, or where there
    /// is room; returns its number.
    ///
    /// # Errors
    /// `ENOENT` when the thread was killed, `EMFILE` when its table is full.
    pub fn install(&self, id: u64, file: BorrowedFd<'_>, at: Option<u32>) -> Result<u64, Errno> {
        loop {
            let request = AddFd {
                id,
                flags: if at.is_some() { ADDFD_FLAG_SETFD } else { 0 },
                source: file.as_raw_fd() as u32,
                target: at.unwrap_or(0),
                target_flags: libc::O_CLOEXEC as u32,
            };
            // SAFETY: the structure has the kernel's layout and outlives the call.
            let result = unsafe { libc::ioctl(self.0.as_raw_fd(), IOCTL_ADDFD, &raw const request) };
            if result >= 0 {
                return Ok(result as u64);
            }
            match last_error() {
                errno::EINTR => {}
                error => return Err(error),
            }
        }
    }
}

/// `errno` of the calling thread.
pub fn last_error() -> Errno {
    Errno::from(std::io::Error::last_os_error())
}
