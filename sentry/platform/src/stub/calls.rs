//! What the stub carries along for each system call: which of its arguments point to small input that it copies into
//! the slot, and where small output may be put. The stub reads [`TABLE`], the sentry the same through [`Call`].
//!
//! A call that is not named here is rung for plainly. Neighbours: `enter.s`, the reader inside the stub.

/// Calls the table knows: numbers below this.
pub const CALLS: usize = 464;
/// Bytes of the area for input and output.
pub const AREA: u64 = 4096;

/// Facts that the stub reports itself, by their place in the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// `getpid(2)`
    Pid,
    /// `gettid(2)`
    Tid,
    /// `getuid(2)`
    Uid,
    /// `getgid(2)`
    Gid,
    /// `geteuid(2)`
    Euid,
    /// `getegid(2)`
    Egid,
    /// What every call is answered with that is refused as unknown: `rseq(2)`
    Unknown,
}

/// One entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call(u64);

const SLOT: u64 = 1 << 4;
/// `futex(2)`: the stub loads the word that a wait compares.
pub const COMPARED: u64 = 1 << 5;
/// `rt_sigprocmask(2)`: the stub writes the mask itself.
pub const MASK: u64 = 1 << 6;
/// `set_robust_list(2)`: the stub writes the word itself.
pub const ROBUST: u64 = 1 << 7;
/// `mmap(2)`: the stub may know the place.
const PLACE: u64 = MASK | ROBUST;
/// Nothing to the stub.
const WAITS: u64 = 1 << 32;
const NONE: u64 = 0;
const FIXED: u64 = 1;
const SCALED: u64 = 2;
const STRING: u64 = 3;

/// Where a call's input or output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its address.
    pub address: u64,
    /// Its length in bytes; for a string, the longest.
    pub length: u64,
    /// Whether it ends with a zero byte instead.
    pub string: bool,
}

impl Call {
    const fn plain() -> Self {
        Self(0)
    }

    const fn fact(fact: Fact) -> Self {
        Self(fact as u64 + 1)
    }

    const fn slot() -> Self {
        Self(SLOT)
    }

    /// The stub changes a word of the thread's own, unless the sentry has something against it, or loads the one that is compared.
    const fn own(self, word: u64) -> Self {
        Self(self.0 | word)
    }

    /// Carries data, but is rung for: it usually waits, or changes the address space.
    const fn ring() -> Self {
        Self(0)
    }

    /// May wait for long, and then only returns a value, as all that may be put into the slot.
    const fn waits(self) -> Self {
        Self(self.0 | WAITS)
    }

    const fn half(pointer: u64, register: u64, mode: u64, value: u64) -> u64 {
        pointer | register << 3 | mode << 6 | value << 8
    }

    const fn input(self, pointer: u64, register: u64, scale: u64) -> Self {
        Self(self.0 | Self::half(pointer, register, SCALED, scale) << 8)
    }

    const fn input_fixed(self, pointer: u64, length: u64) -> Self {
        Self(self.0 | Self::half(pointer, 0, FIXED, length) << 8)
    }

    const fn path(self, pointer: u64) -> Self {
        Self(self.0 | Self::half(pointer, 0, STRING, 0) << 8)
    }

    const fn output(self, pointer: u64, register: u64, scale: u64) -> Self {
        Self(self.0 | Self::half(pointer, register, SCALED, scale) << 40)
    }

    const fn output_fixed(self, pointer: u64, length: u64) -> Self {
        Self(self.0 | Self::half(pointer, 0, FIXED, length) << 40)
    }

    /// Whether the stub may put it into the slot instead of ringing.
    pub fn may_ask(self) -> bool {
        self.0 & SLOT != 0
    }

    /// Whether a call may wait for long and then does nothing but return a value: nothing has to be made in its place.
    pub fn only_returns(number: u64) -> bool {
        Self::of(number).0 & (SLOT | WAITS) != 0
    }

    /// The entry of a call.
    pub fn of(number: u64) -> Self {
        usize::try_from(number).ok().and_then(|number| TABLE.get(number)).copied().unwrap_or(Self::plain())
    }

    fn extent(half: u64, arguments: &[u64; 6]) -> Option<Extent> {
        let argument = |index: u64| arguments.get((half >> index & 7) as usize).copied().unwrap_or(0);
        let (address, mode, value) = (argument(0), half >> 6 & 3, half >> 8 & 0xffff);
        let length = match mode {
            NONE => return None,
            FIXED => value,
            STRING => AREA,
            _ => argument(3).min(AREA).saturating_mul(value),
        };
        Some(Extent { address, length: length.min(AREA), string: mode == STRING })
    }

    /// Where its input is.
    pub fn input_extent(self, arguments: &[u64; 6]) -> Option<Extent> {
        Self::extent(self.0 >> 8, arguments)
    }

    /// Where its output goes.
    pub fn output_extent(self, arguments: &[u64; 6]) -> Option<Extent> {
        Self::extent(self.0 >> 40, arguments)
    }

    /// Whether the stub may have loaded a word for it.
    pub fn may_compare(self) -> bool {
        self.0 & COMPARED != 0
    }

    /// The entry without what is switched off: data that is carried along, facts that are reported and words that are changed.
    pub fn reduced(self, carry: bool, local: bool) -> Self {
        const LOCAL: u64 = 15 | ROBUST | MASK;
        let keep = if carry { u64::MAX } else { LOCAL | SLOT } & if local { u64::MAX } else { !LOCAL };
        Self(self.0 & keep)
    }

    /// The word the stub reads.
    pub fn word(self) -> u64 {
        self.0 & !WAITS
    }
}

/// All calls, by number.
pub static TABLE: [Call; CALLS] = table();

#[expect(clippy::too_many_lines, reason = "a table")]
const fn table() -> [Call; CALLS] {
    let mut table = [Call::plain(); CALLS];
    macro_rules! calls {
        ($($number:ident => $call:expr;)*) => {
            $(table[libc::$number as usize] = $call;)*
        };
    }
    calls! {
        SYS_getpid => Call::fact(Fact::Pid);
        SYS_gettid => Call::fact(Fact::Tid);
        SYS_getuid => Call::fact(Fact::Uid);
        SYS_getgid => Call::fact(Fact::Gid);
        SYS_geteuid => Call::fact(Fact::Euid);
        SYS_getegid => Call::fact(Fact::Egid);
        SYS_rseq => Call::fact(Fact::Unknown);
        SYS_set_robust_list => Call::plain().own(ROBUST);
        SYS_mmap => Call::ring().own(PLACE);

        SYS_read => Call::slot().output(1, 2, 1);
        SYS_write => Call::slot().input(1, 2, 1);
        SYS_pread64 => Call::slot().output(1, 2, 1);
        SYS_pwrite64 => Call::slot().input(1, 2, 1);
        SYS_readv => Call::slot().input(1, 2, 16);
        SYS_writev => Call::slot().input(1, 2, 16);
        SYS_sendto => Call::slot().input(1, 2, 1);
        SYS_recvfrom => Call::slot().output(1, 2, 1);
        SYS_sendmsg => Call::slot().input_fixed(1, 56);
        SYS_recvmsg => Call::slot().input_fixed(1, 56);
        SYS_getrandom => Call::slot().output(0, 1, 1);

        SYS_open => Call::slot().path(0);
        SYS_openat => Call::slot().path(1);
        SYS_close => Call::slot();
        SYS_stat => Call::slot().path(0).output_fixed(1, 144);
        SYS_lstat => Call::slot().path(0).output_fixed(1, 144);
        SYS_fstat => Call::slot().output_fixed(1, 144);
        SYS_newfstatat => Call::slot().path(1).output_fixed(2, 144);
        SYS_statx => Call::slot().path(1).output_fixed(4, 256);
        SYS_access => Call::slot().path(0);
        SYS_faccessat => Call::slot().path(1);
        SYS_faccessat2 => Call::slot().path(1);
        SYS_readlink => Call::slot().path(0).output(1, 2, 1);
        SYS_readlinkat => Call::slot().path(1).output(2, 3, 1);
        SYS_getcwd => Call::slot().output(0, 1, 1);
        SYS_getdents64 => Call::slot().output(1, 2, 1);
        SYS_chdir => Call::slot().path(0);
        SYS_mkdir => Call::slot().path(0);
        SYS_mkdirat => Call::slot().path(1);
        SYS_rmdir => Call::slot().path(0);
        SYS_unlink => Call::slot().path(0);
        SYS_unlinkat => Call::slot().path(1);
        SYS_chmod => Call::slot().path(0);
        SYS_fchmodat => Call::slot().path(1);
        SYS_chown => Call::slot().path(0);
        SYS_lchown => Call::slot().path(0);
        SYS_fchownat => Call::slot().path(1);
        SYS_truncate => Call::slot().path(0);
        SYS_statfs => Call::slot().path(0).output_fixed(1, 120);
        SYS_fstatfs => Call::slot().output_fixed(1, 120);
        SYS_lseek => Call::slot();
        SYS_fcntl => Call::slot();
        SYS_dup => Call::slot();
        SYS_dup2 => Call::slot();
        SYS_dup3 => Call::slot();
        SYS_ftruncate => Call::slot();
        SYS_fsync => Call::slot();
        SYS_fdatasync => Call::slot();
        SYS_flock => Call::slot();
        SYS_fchmod => Call::slot();
        SYS_fchown => Call::slot();
        SYS_fchdir => Call::slot();
        SYS_umask => Call::slot();
        SYS_ioctl => Call::slot();
        SYS_pipe => Call::slot().output_fixed(0, 8);
        SYS_pipe2 => Call::slot().output_fixed(0, 8);
        SYS_socketpair => Call::slot().output_fixed(3, 8);
        SYS_socket => Call::slot();
        SYS_shutdown => Call::slot();
        SYS_eventfd2 => Call::slot();

        SYS_poll => Call::slot().input(0, 1, 8).output(0, 1, 8);
        SYS_ppoll => Call::slot().input(0, 1, 8).output(0, 1, 8);
        SYS_epoll_create1 => Call::slot();
        SYS_epoll_ctl => Call::slot().input_fixed(3, 12);
        SYS_epoll_wait => Call::slot().output(1, 2, 12);
        SYS_epoll_pwait => Call::slot().output(1, 2, 12);

        SYS_rt_sigprocmask => Call::slot().input_fixed(1, 8).output_fixed(2, 8).own(MASK);
        SYS_rt_sigaction => Call::slot().input_fixed(1, 32).output_fixed(2, 32);
        SYS_sigaltstack => Call::slot().input_fixed(0, 24).output_fixed(1, 24);
        SYS_rt_sigpending => Call::slot().output_fixed(0, 8);
        SYS_kill => Call::slot();
        SYS_tgkill => Call::slot();
        SYS_tkill => Call::slot();

        SYS_getppid => Call::slot();
        SYS_getpgrp => Call::slot();
        SYS_getpgid => Call::slot();
        SYS_getsid => Call::slot();
        SYS_getpriority => Call::slot();
        SYS_uname => Call::slot().output_fixed(0, 390);
        SYS_sysinfo => Call::slot().output_fixed(0, 112);
        SYS_times => Call::slot().output_fixed(0, 32);
        SYS_getrusage => Call::slot().output_fixed(1, 144);
        SYS_getrlimit => Call::slot().output_fixed(1, 16);
        SYS_prlimit64 => Call::slot().input_fixed(2, 16).output_fixed(3, 16);
        SYS_clock_gettime => Call::slot().output_fixed(1, 16);
        SYS_gettimeofday => Call::slot().output_fixed(0, 16);
        SYS_timerfd_settime => Call::slot().input_fixed(2, 32).output_fixed(3, 32);
        SYS_futex => Call::slot().own(COMPARED);

        SYS_nanosleep => Call::ring().input_fixed(0, 16).waits();
        SYS_clock_nanosleep => Call::ring().input_fixed(2, 16).waits();
        SYS_restart_syscall => Call::ring().waits();
        SYS_pause => Call::ring().waits();
        SYS_rt_sigsuspend => Call::ring().waits();
        SYS_rt_sigtimedwait => Call::ring().waits();
        SYS_wait4 => Call::ring().waits();
        SYS_waitid => Call::ring().waits();
        SYS_select => Call::ring().waits();
        SYS_pselect6 => Call::ring().waits();
        SYS_epoll_pwait2 => Call::ring().waits();
        SYS_futex_waitv => Call::ring().waits();
        SYS_accept => Call::ring().waits();
        SYS_accept4 => Call::ring().waits();
        SYS_connect => Call::ring().waits();
        SYS_recvmmsg => Call::ring().waits();
        SYS_sendmmsg => Call::ring().waits();
        SYS_preadv => Call::ring().waits();
        SYS_pwritev => Call::ring().waits();
        SYS_preadv2 => Call::ring().waits();
        SYS_pwritev2 => Call::ring().waits();
        SYS_sendfile => Call::ring().waits();
        SYS_splice => Call::ring().waits();
        SYS_tee => Call::ring().waits();
        SYS_vmsplice => Call::ring().waits();
        SYS_copy_file_range => Call::ring().waits();
        SYS_semop => Call::ring().waits();
        SYS_semtimedop => Call::ring().waits();
        SYS_msgsnd => Call::ring().waits();
        SYS_msgrcv => Call::ring().waits();
        SYS_mq_timedsend => Call::ring().waits();
        SYS_mq_timedreceive => Call::ring().waits();
        SYS_sync => Call::ring().waits();
        SYS_syncfs => Call::ring().waits();
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_bounded_and_follow_the_arguments() {
        let arguments = [0x1000, 0x2000, 100_000, 4, 5, 6];
        let read = Call::of(libc::SYS_read as u64);
        assert_eq!(read.input_extent(&arguments), None);
        let expected = Extent { address: 0x2000, length: AREA, string: false };
        assert_eq!(read.output_extent(&arguments), Some(expected));
        let open = Call::of(libc::SYS_openat as u64).input_extent(&arguments).expect("a path");
        assert_eq!((open.address, open.string), (0x2000, true));
        assert_eq!(Call::of(u64::MAX).word(), 0);
        for plain in [libc::SYS_execve, libc::SYS_pause] {
            assert_eq!(Call::of(plain as u64).word(), 0);
        }
    }
}
