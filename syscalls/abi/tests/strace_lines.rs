//! Calls print as strace(1) 6.1 printed the same calls on Linux.

use abi::errno::{self, Errno};
use abi::files::Stat;
use abi::nr;
use abi::process::{CloneArgs, Rlimit};
use abi::signals::{SIGTERM, SIGUSR1, SigAction, SigSet};
use abi::sockets::{AF_INET, AF_UNIX, MsgHdr, SockaddrIn};
use abi::strace_format::CallTrace;
use abi::time::Timespec;
use abi::user::UserAddress;
use zerocopy::IntoBytes;

/// Where the application's memory begins in these tests; one block, the rest is unmapped.
const BASE: u64 = 0x10000;

struct Application {
    memory: Vec<u8>,
    used: usize,
}

impl Application {
    fn new() -> Self {
        Self { memory: vec![0; 0x4000], used: 0 }
    }

    /// Stores bytes and returns their address.
    fn place(&mut self, bytes: &[u8]) -> u64 {
        let start = self.used;
        self.memory[start..start + bytes.len()].copy_from_slice(bytes);
        self.used = (start + bytes.len() + 1).next_multiple_of(8);
        BASE + start as u64
    }

    fn read(&self, address: UserAddress, length: usize) -> Option<Vec<u8>> {
        let start = usize::try_from(address.0.checked_sub(BASE)?).ok()?;
        self.memory.get(start..start.checked_add(length)?).map(<[u8]>::to_vec)
    }

    /// The whole line of a call that changes no memory.
    fn line(&self, number: usize, arguments: &[u64], result: Result<u64, Errno>) -> String {
        let memory = |address, length| self.read(address, length);
        self.trace(number, arguments).exit_text(Some(result), &memory)
    }

    fn trace(&self, number: usize, arguments: &[u64]) -> CallTrace {
        let mut registers = [0; 6];
        registers[..arguments.len()].copy_from_slice(arguments);
        CallTrace::enter(number as u64, &registers, &|address, length| self.read(address, length))
    }
}

const AT_FDCWD: u64 = 0xffff_ff9c;

#[test]
fn openat_shows_the_mode_only_when_it_counts() {
    let mut app = Application::new();
    let path = app.place(b"/etc/hostname");
    assert_eq!(
        app.line(nr::OPENAT, &[AT_FDCWD, path, 0o2000000, 0o777], Ok(3)),
        r#"openat(AT_FDCWD, "/etc/hostname", O_RDONLY|O_CLOEXEC) = 3"#
    );
    let path = app.place(b"/nonexistent/a");
    assert_eq!(
        app.line(nr::OPENAT, &[AT_FDCWD, path, 0o1101, 0o644], Err(errno::ENOENT)),
        r#"openat(AT_FDCWD, "/nonexistent/a", O_WRONLY|O_CREAT|O_TRUNC, 0644) = -1 ENOENT (No such file or directory)"#
    );
    assert_eq!(
        app.line(nr::OPENAT, &[AT_FDCWD, 1, 0o4102, 0o1777], Err(errno::EFAULT)),
        "openat(AT_FDCWD, 0x1, O_RDWR|O_CREAT|O_NONBLOCK, 01777) = -1 EFAULT (Bad address)"
    );
}

#[test]
fn read_shows_what_it_read_only_afterwards() {
    let mut app = Application::new();
    let buffer = app.place(&[0; 32]);
    let trace = app.trace(nr::READ, &[3, buffer, 200]);
    assert_eq!(trace.entry_text(), "read(3, 0x10000, 200");
    app.memory[..3].copy_from_slice(b"vm\n");
    let memory = |address, length| app.read(address, length);
    assert_eq!(trace.exit_text(Some(Ok(3)), &memory), r#"read(3, "vm\n", 200) = 3"#);
    assert_eq!(
        trace.exit_text(Some(Err(errno::EISDIR)), &memory),
        "read(3, 0x10000, 200) = -1 EISDIR (Is a directory)"
    );
}

#[test]
fn write_is_escaped_and_cut_after_32_bytes() {
    let mut app = Application::new();
    let buffer = app.place(b"hello \"x\" \\ \x01\x012\n\t\xff abcdefghijklmnopqrstuvwxyz0123456789");
    assert_eq!(
        app.line(nr::WRITE, &[1, buffer, 50], Ok(50)),
        r#"write(1, "hello \"x\" \\ \1\0012\n\t\377 abcdefghijklm"..., 50) = 50"#
    );
    assert_eq!(app.line(nr::WRITE, &[1, 8, 3], Ok(3)), "write(1, 0x8, 3) = 3");
    assert_eq!(app.line(nr::WRITE, &[1, buffer, 0], Ok(0)), r#"write(1, "", 0) = 0"#);
}

#[test]
fn mmap_shows_kind_flags_and_a_hexadecimal_result() {
    let app = Application::new();
    assert_eq!(
        app.line(nr::MMAP, &[0, 4096, 3, 0x22, u64::MAX, 0], Ok(0x7fac_7fba_7000)),
        "mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7fac7fba7000"
    );
    assert_eq!(
        app.line(nr::MMAP, &[0x7f21_c8da_6000, 1_400_832, 5, 0x812, 0, 0x26000], Ok(0x7f21_c8da_6000)),
        "mmap(0x7f21c8da6000, 1400832, PROT_READ|PROT_EXEC, MAP_PRIVATE|MAP_FIXED|MAP_DENYWRITE, 0, 0x26000) \
         = 0x7f21c8da6000"
    );
    assert_eq!(app.line(nr::BRK, &[0], Ok(0x561d_2885_8000)), "brk(NULL) = 0x561d28858000");
    assert_eq!(app.line(nr::UMASK, &[0o22], Ok(0o22)), "umask(022) = 022");
}

#[test]
fn execve_shows_arguments_and_counts_the_environment() {
    let mut app = Application::new();
    let path = app.place(b"/bin/true");
    let arguments = [app.place(b"true"), app.place(b"a b"), app.place(b"\"q\""), 0];
    let environment = [app.place(b"A=1"), app.place(b"B=2"), 0];
    let (argv, envp) = (app.place(arguments.as_bytes()), app.place(environment.as_bytes()));
    assert_eq!(
        app.line(nr::EXECVE, &[path, argv, envp], Ok(0)),
        format!(r#"execve("/bin/true", ["true", "a b", "\"q\""], {envp:#x} /* 2 vars */) = 0"#)
    );
}

#[test]
fn futex_arguments_depend_on_the_operation() {
    let mut app = Application::new();
    let timeout = app.place(Timespec { tv_sec: 1, tv_nsec: 500 }.as_bytes());
    let word = 0x7ffc_211a_97fc;
    let futex = |arguments: &[u64]| app.line(nr::FUTEX, arguments, Ok(0));
    assert_eq!(
        app.line(nr::FUTEX, &[word, 128, 2, timeout], Err(errno::ETIMEDOUT)),
        "futex(0x7ffc211a97fc, FUTEX_WAIT_PRIVATE, 2, {tv_sec=1, tv_nsec=500}) = -1 ETIMEDOUT (Connection timed out)"
    );
    assert_eq!(futex(&[word, 129, 1]), "futex(0x7ffc211a97fc, FUTEX_WAKE_PRIVATE, 1) = 0");
    assert_eq!(
        futex(&[word, 9 | 256, 2, 0, 0, u64::MAX]),
        "futex(0x7ffc211a97fc, FUTEX_WAIT_BITSET|FUTEX_CLOCK_REALTIME, 2, NULL, FUTEX_BITSET_MATCH_ANY) = 0"
    );
    assert_eq!(
        futex(&[word, 4, 2, 3, word, 1]),
        "futex(0x7ffc211a97fc, FUTEX_CMP_REQUEUE, 2, 3, 0x7ffc211a97fc, 1) = 0"
    );
    assert_eq!(
        futex(&[word, 5 | 128, 1, 1, word, 1 << 28 | 4 << 24 | 1 << 12]),
        "futex(0x7ffc211a97fc, FUTEX_WAKE_OP_PRIVATE, 1, 1, 0x7ffc211a97fc, \
         FUTEX_OP_ADD<<28|0x1<<12|FUTEX_OP_CMP_GT<<24|0) = 0"
    );
}

#[test]
fn clone_names_its_arguments() {
    let mut app = Application::new();
    assert_eq!(
        app.line(nr::CLONE, &[0x0120_0011, 0, 0, 0x7fac_7f9b_aa10, 0], Ok(1664)),
        "clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD, \
         child_tidptr=0x7fac7f9baa10) = 1664"
    );
    let args = app.place(CloneArgs { flags: 0x4000, exit_signal: 17, ..CloneArgs::default() }.as_bytes());
    assert_eq!(
        app.line(nr::CLONE3, &[args, 88], Ok(9757)),
        "clone3({flags=CLONE_VFORK, exit_signal=SIGCHLD, stack=NULL, stack_size=0}, 88) = 9757"
    );
}

#[test]
fn signal_calls_show_sets_and_handlers() {
    let mut app = Application::new();
    let action = SigAction {
        sa_handler: UserAddress(0x561d_21c8_d7c9),
        sa_flags: 0x1400_0004,
        sa_restorer: UserAddress(0x7fac_7f9f_9050),
        sa_mask: SigSet::of(&[SIGUSR1, SIGTERM]),
    };
    let (new, old) = (app.place(action.as_bytes()), app.place(SigAction::default().as_bytes()));
    assert_eq!(
        app.line(nr::RT_SIGACTION, &[12, new, old, 8], Ok(0)),
        "rt_sigaction(SIGUSR2, {sa_handler=0x561d21c8d7c9, sa_mask=[USR1 TERM], \
         sa_flags=SA_RESTORER|SA_RESTART|SA_SIGINFO, sa_restorer=0x7fac7f9f9050}, \
         {sa_handler=SIG_DFL, sa_mask=[], sa_flags=0}, 8) = 0"
    );
    let set = app.place((!(3u64 << 31)).as_bytes());
    assert_eq!(
        app.line(nr::RT_SIGPROCMASK, &[0, set, 0, 8], Ok(0)),
        "rt_sigprocmask(SIG_BLOCK, ~[RTMIN RT_1], NULL, 8) = 0"
    );
    assert_eq!(app.line(nr::KILL, &[1665, 9], Ok(0)), "kill(1665, SIGKILL) = 0");
}

#[test]
fn wait4_shows_how_the_child_ended() {
    let mut app = Application::new();
    let (exited, killed) = (app.place(&0x300i32.to_le_bytes()), app.place(&9i32.to_le_bytes()));
    assert_eq!(
        app.line(nr::WAIT4, &[1664, exited, 0, 0], Ok(1664)),
        "wait4(1664, [{WIFEXITED(s) && WEXITSTATUS(s) == 3}], 0, NULL) = 1664"
    );
    let trace = app.line(nr::WAIT4, &[0xffff_ffff, killed, 0, 0], Ok(1665));
    assert_eq!(trace, "wait4(-1, [{WIFSIGNALED(s) && WTERMSIG(s) == SIGKILL}], 0, NULL) = 1665");
    assert_eq!(
        app.line(nr::WAIT4, &[u64::MAX, exited, 1, 0], Err(errno::ECHILD)),
        format!("wait4(-1, {exited:#x}, WNOHANG, NULL) = -1 ECHILD (No child processes)")
    );
}

#[test]
fn poll_shows_who_is_ready() {
    let mut app = Application::new();
    let fds = [(4, 1i16, 0i16), (5, 0x2004, 4)];
    let bytes: Vec<u8> = fds
        .iter()
        .flat_map(|(fd, events, ready): &(i32, i16, i16)| {
            [fd.to_le_bytes().as_slice(), &events.to_le_bytes(), &ready.to_le_bytes()].concat()
        })
        .collect();
    let list = app.place(&bytes);
    assert_eq!(
        app.line(nr::POLL, &[list, 2, 100], Ok(1)),
        "poll([{fd=4, events=POLLIN}, {fd=5, events=POLLOUT|POLLRDHUP}], 2, 100) = 1 ([{fd=5, revents=POLLOUT}])"
    );
    assert_eq!(
        app.line(nr::POLL, &[list, 1, 10], Ok(0)),
        "poll([{fd=4, events=POLLIN}], 1, 10) = 0 (Timeout)"
    );
    assert_eq!(app.line(nr::POLL, &[0, 0, 1], Ok(0)), "poll(NULL, 0, 1) = 0 (Timeout)");
}

#[test]
fn files_and_limits_show_their_structures() {
    let mut app = Application::new();
    let path = app.place(b"/etc/passwd");
    let stat = app.place(Stat { st_mode: 0o100644, st_size: 1221, ..Stat::default() }.as_bytes());
    assert_eq!(
        app.line(nr::NEWFSTATAT, &[AT_FDCWD, path, stat, 0], Ok(0)),
        r#"newfstatat(AT_FDCWD, "/etc/passwd", {st_mode=S_IFREG|0644, st_size=1221, ...}, 0) = 0"#
    );
    let device = Stat { st_mode: 0o20666, st_rdev: 0x103, ..Stat::default() };
    let (empty, stat) = (app.place(b""), app.place(device.as_bytes()));
    assert_eq!(
        app.line(nr::NEWFSTATAT, &[1, empty, stat, 0x1000], Ok(0)),
        r#"newfstatat(1, "", {st_mode=S_IFCHR|0666, st_rdev=makedev(0x1, 0x3), ...}, AT_EMPTY_PATH) = 0"#
    );
    let limit = app.place(Rlimit { rlim_cur: 8192 * 1024, rlim_max: u64::MAX }.as_bytes());
    assert_eq!(
        app.line(nr::PRLIMIT64, &[0, 3, 0, limit], Ok(0)),
        "prlimit64(0, RLIMIT_STACK, NULL, {rlim_cur=8192*1024, rlim_max=RLIM64_INFINITY}) = 0"
    );
    assert_eq!(
        app.line(nr::FCNTL, &[0, 3], Ok(0x8000)),
        "fcntl(0, F_GETFL) = 0x8000 (flags O_RDONLY|O_LARGEFILE)"
    );
    assert_eq!(
        app.line(nr::IOCTL, &[0, 0xdead_beef, 1], Err(errno::EPERM)),
        "ioctl(0, _IOC(_IOC_READ|_IOC_WRITE, 0xbe, 0xef, 0x1ead), 0x1) = -1 EPERM (Operation not permitted)"
    );
}

#[test]
fn sockets_show_addresses_options_and_messages() {
    let mut app = Application::new();
    let address = SockaddrIn {
        sin_family: AF_INET,
        sin_port: 80u16.to_be_bytes(),
        sin_addr: [127, 0, 0, 1],
        ..SockaddrIn::default()
    };
    let address = app.place(address.as_bytes());
    assert_eq!(
        app.line(nr::CONNECT, &[7, address, 16], Err(errno::ECONNREFUSED)),
        "connect(7, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr(\"127.0.0.1\")}, 16) \
         = -1 ECONNREFUSED (Connection refused)"
    );
    let path = app.place(&[&AF_UNIX.to_le_bytes()[..], b"/tmp/none\0\0\0"].concat());
    assert_eq!(
        app.line(nr::CONNECT, &[8, path, 14], Ok(0)),
        r#"connect(8, {sa_family=AF_UNIX, sun_path="/tmp/none"}, 14) = 0"#
    );
    let name = app.place(&[&AF_UNIX.to_le_bytes()[..], b"\0abs"].concat());
    assert_eq!(
        app.line(nr::BIND, &[8, name, 6], Ok(0)),
        r#"bind(8, {sa_family=AF_UNIX, sun_path=@"abs"}, 6) = 0"#
    );
    let one = app.place(&1i32.to_le_bytes());
    assert_eq!(
        app.line(nr::SETSOCKOPT, &[7, 1, 2, one, 4], Ok(0)),
        "setsockopt(7, SOL_SOCKET, SO_REUSEADDR, [1], 4) = 0"
    );
    let text = app.place(b"x");
    let vector = app.place([text, 1].as_bytes());
    let rights = [24u64.as_bytes(), 1u32.as_bytes(), 1u32.as_bytes(), [0i32, 1].as_bytes()].concat();
    let message = MsgHdr {
        msg_iov: UserAddress(vector),
        msg_iovlen: 1,
        msg_control: UserAddress(app.place(&rights)),
        msg_controllen: 24,
        ..MsgHdr::default()
    };
    let message = app.place(message.as_bytes());
    assert_eq!(
        app.line(nr::SENDMSG, &[11, message, 0x4000], Ok(1)),
        "sendmsg(11, {msg_name=NULL, msg_namelen=0, msg_iov=[{iov_base=\"x\", iov_len=1}], msg_iovlen=1, \
         msg_control=[{cmsg_len=24, cmsg_level=SOL_SOCKET, cmsg_type=SCM_RIGHTS, cmsg_data=[0, 1]}], \
         msg_controllen=24, msg_flags=0}, MSG_NOSIGNAL) = 1"
    );
}

#[test]
fn calls_without_result_and_unknown_calls_print_too() {
    let app = Application::new();
    let trace = app.trace(nr::EXIT_GROUP, &[3]);
    assert_eq!(trace.exit_text(None, &|_, _| None), "exit_group(3) = ?");
    assert_eq!(
        app.line(999, &[1, 2, 0, 0, 0, 0], Err(errno::EPERM)),
        "syscall_0x3e7(0x1, 0x2, 0, 0, 0, 0) = -1 EPERM (Operation not permitted)"
    );
}

/// Whatever registers and memory hold, printing ends, and what it prints is bounded.
#[test]
fn hostile_arguments_print_within_bounds() {
    let mut app = Application::new();
    // Every byte set makes every length and count enormous and every pointer wild.
    let wild = app.place(&[0xff; 0x3000]);
    let unmapped = |_: UserAddress, _: usize| None;
    for number in (0..512u64).chain([u64::MAX]) {
        for register in [0, 1, wild, wild + 0x3ff0, BASE + 0x3fff, u64::MAX, u64::MAX / 8 + 1, 1 << 63] {
            let memory = |address, length| app.read(address, length);
            let trace = CallTrace::enter(number, &[register; 6], &memory);
            for result in [Some(Ok(u64::MAX)), Some(Ok(1 << 40)), Some(Ok(0)), Some(Err(errno::EFAULT)), None]
            {
                let line = trace.exit_text(result, &memory);
                assert!(line.len() < 40_000, "{number} {register:#x}: {} bytes", line.len());
                CallTrace::enter(number, &[register; 6], &unmapped).exit_text(result, &unmapped);
            }
            assert!(trace.entry_text().len() < 40_000);
        }
    }
}
