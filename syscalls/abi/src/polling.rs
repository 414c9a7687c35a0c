//! Readiness and events: `poll`, `select`, `epoll`, `inotify`.
//!
//! [`PollEvents`] is the one vocabulary of readiness; `epoll` adds its mode bits above it, as in
//! Linux, where both are the same numbers. Neighbours: `files`, `file_calls`.

use crate::define::{constants, flags, plain};

flags! {
    /// Readiness as `poll(2)` and `epoll(7)` name it, with epoll's mode bits.
    PollEvents: u32 {
        POLLIN = 0x1,
        POLLPRI = 0x2,
        POLLOUT = 0x4,
        POLLERR = 0x8,
        POLLHUP = 0x10,
        POLLNVAL = 0x20,
        POLLRDNORM = 0x40,
        POLLRDBAND = 0x80,
        POLLWRNORM = 0x100,
        POLLWRBAND = 0x200,
        POLLMSG = 0x400,
        POLLREMOVE = 0x1000,
        POLLRDHUP = 0x2000,
    }

    /// `events` of an [`EpollEvent`].
    EpollEvents: u32 {
        EPOLLIN = 0x1,
        EPOLLPRI = 0x2,
        EPOLLOUT = 0x4,
        EPOLLERR = 0x8,
        EPOLLHUP = 0x10,
        EPOLLNVAL = 0x20,
        EPOLLRDNORM = 0x40,
        EPOLLRDBAND = 0x80,
        EPOLLWRNORM = 0x100,
        EPOLLWRBAND = 0x200,
        EPOLLMSG = 0x400,
        EPOLLRDHUP = 0x2000,
        EPOLLEXCLUSIVE = 1 << 28,
        EPOLLWAKEUP = 1 << 29,
        EPOLLONESHOT = 1 << 30,
        EPOLLET = 1 << 31,
    }

    /// Flags of `epoll_create1(2)`.
    EpollFlags: u32 { EPOLL_CLOEXEC = 0o2000000 }

    /// What an inotify watch asks for and an event reports.
    InotifyMask: u32 {
        IN_ACCESS = 0x1,
        IN_MODIFY = 0x2,
        IN_ATTRIB = 0x4,
        IN_CLOSE_WRITE = 0x8,
        IN_CLOSE_NOWRITE = 0x10,
        IN_OPEN = 0x20,
        IN_MOVED_FROM = 0x40,
        IN_MOVED_TO = 0x80,
        IN_CREATE = 0x100,
        IN_DELETE = 0x200,
        IN_DELETE_SELF = 0x400,
        IN_MOVE_SELF = 0x800,
        IN_UNMOUNT = 0x2000,
        IN_Q_OVERFLOW = 0x4000,
        IN_IGNORED = 0x8000,
        IN_ONLYDIR = 0x0100_0000,
        IN_DONT_FOLLOW = 0x0200_0000,
        IN_EXCL_UNLINK = 0x0400_0000,
        IN_MASK_CREATE = 0x1000_0000,
        IN_MASK_ADD = 0x2000_0000,
        IN_ISDIR = 0x4000_0000,
        IN_ONESHOT = 0x8000_0000,
    }

    /// Flags of `inotify_init1(2)`.
    InotifyFlags: u32 { IN_CLOEXEC = 0o2000000, IN_NONBLOCK = 0o4000 }
}

constants! {
    /// Operations of `epoll_ctl(2)`.
    EPOLL_CTL_NAMES: i32 { EPOLL_CTL_ADD = 1, EPOLL_CTL_DEL = 2, EPOLL_CTL_MOD = 3 }
}

impl PollEvents {
    /// What `poll(2)` reports unasked.
    pub const ALWAYS: Self = Self::POLLERR.union(Self::POLLHUP);
    /// What makes a descriptor readable for `select(2)` (Linux's `POLLIN_SET`).
    pub const SELECT_READ: Self = Self::POLLRDNORM
        .union(Self::POLLRDBAND)
        .union(Self::POLLIN)
        .union(Self::POLLHUP)
        .union(Self::POLLERR)
        .union(Self::POLLNVAL);
    /// What makes a descriptor writable for `select(2)` (Linux's `POLLOUT_SET`).
    pub const SELECT_WRITE: Self = Self::POLLWRBAND
        .union(Self::POLLWRNORM)
        .union(Self::POLLOUT)
        .union(Self::POLLERR)
        .union(Self::POLLNVAL);
    /// What makes a descriptor exceptional for `select(2)` (Linux's `POLLEX_SET`).
    pub const SELECT_EXCEPT: Self = Self::POLLPRI.union(Self::POLLNVAL);
    /// Readable, as files without a notion of waiting are.
    pub const READABLE: Self = Self::POLLIN.union(Self::POLLRDNORM);
    /// Writable, as files without a notion of waiting are.
    pub const WRITABLE: Self = Self::POLLOUT.union(Self::POLLWRNORM);
}

impl EpollEvents {
    /// The bits that say how to report, not what.
    pub const MODES: Self =
        Self::EPOLLEXCLUSIVE.union(Self::EPOLLWAKEUP).union(Self::EPOLLONESHOT).union(Self::EPOLLET);

    /// The readiness bits.
    pub const fn readiness(self) -> PollEvents {
        PollEvents::from_bits_retain(self.bits() & !Self::MODES.bits())
    }
}

impl From<PollEvents> for EpollEvents {
    fn from(events: PollEvents) -> Self {
        Self::from_bits_retain(events.bits())
    }
}

impl InotifyMask {
    /// `IN_ALL_EVENTS`: all that a watch can ask for.
    pub const ALL_EVENTS: Self = Self::from_bits_retain(0xfff);
}

plain! {
    /// `struct pollfd`.
    PollFd {
        fd: i32,
        events: i16,
        revents: i16,
    }

    /// `struct inotify_event`, followed by `len` bytes of name, NUL-padded.
    InotifyEvent {
        wd: i32,
        mask: u32,
        cookie: u32,
        len: u32,
    }
}

/// Descriptors that `select(2)` can name in an `fd_set`.
pub const FD_SETSIZE: usize = 1024;

/// `struct epoll_event`, packed on x86-64: `data` lies at offset 4.
#[repr(C, packed)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
pub struct EpollEvent {
    /// [`EpollEvents`].
    pub events: u32,
    /// What the application wants back.
    pub data: u64,
}

impl crate::define::Layout for EpollEvent {
    const FIELDS: &'static [(&'static str, usize)] = &[
        ("events", core::mem::offset_of!(EpollEvent, events)),
        ("data", core::mem::offset_of!(EpollEvent, data)),
    ];
}
