//! Structures of user memory as strace(1) prints them: `{field=value, ...}`.
//!
//! Neighbours: `signatures` (which argument points at which [`Shape`]), `strace_text`.

use core::net::{Ipv4Addr, Ipv6Addr};

use zerocopy::FromBytes;

use crate::capabilities::{CapSet, CapUserData, CapUserHeader};
use crate::define::name_in;
use crate::file_calls::{FCNTL_NAMES, Flock, Iovec, LOCK_TYPE_NAMES};
use crate::files::{OpenHow, ResolveFlags, SEEK_NAMES, Stat, StatxAttributes, StatxMask};
use crate::futexes::{Futex2Flags, FutexWaitv};
use crate::mounts::{FS_MAGIC_NAMES, StatfsFlags};
use crate::polling::{EpollEvent, EpollEvents, PollEvents, PollFd};
use crate::process::{
    CloneArgs, CloneFlags, RLIM_INFINITY, Rlimit, Rusage, SchedParam, Sysinfo, Tms, UtsName,
};
use crate::signal_info::{self, FieldLayout, SigInfo};
use crate::signals::{SIG_HANDLER_NAMES, SaFlags, SigAction, SigSet, StackFlags, StackT};
use crate::signatures::Shape;
use crate::sockets::{self, MMsgHdr, MsgFlags, MsgHdr};
use crate::strace_text::*;
use crate::terminals::{InputFlags, Termios, Winsize};
use crate::time::{Itimerspec, Itimerval, Timespec, Timeval};
use crate::user::UserAddress;

/// Reads user memory for printing: as many bytes as asked for, or nothing.
pub type Memory<'a> = &'a dyn Fn(UserAddress, usize) -> Option<Vec<u8>>;

/// How many elements of an array are shown.
pub const ELEMENT_LIMIT: u64 = 32;

impl Shape {
    /// Its size in bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::I32 | Self::U32 => 4,
            Self::I64 | Self::FdPair => 8,
            Self::Stat => size_of::<Stat>(),
            Self::Statx => size_of::<crate::files::Statx>(),
            Self::Statfs => size_of::<crate::files::Statfs>(),
            Self::Timespec => size_of::<Timespec>(),
            Self::TimespecPair => 2 * size_of::<Timespec>(),
            Self::Timeval => size_of::<Timeval>(),
            Self::TimevalPair => 2 * size_of::<Timeval>(),
            Self::Itimerspec => size_of::<Itimerspec>(),
            Self::Itimerval => size_of::<Itimerval>(),
            Self::SigAction => size_of::<SigAction>(),
            Self::SigSet => size_of::<SigSet>(),
            Self::StackT => size_of::<StackT>(),
            Self::SigInfo => size_of::<SigInfo>(),
            Self::Rlimit => size_of::<Rlimit>(),
            Self::Rusage => size_of::<Rusage>(),
            Self::UtsName => size_of::<UtsName>(),
            Self::Sysinfo => size_of::<Sysinfo>(),
            Self::Tms => size_of::<Tms>(),
            // The first published size: later fields are optional.
            Self::CloneArgs => 64,
            Self::SchedParam => size_of::<SchedParam>(),
            Self::CapHeader => size_of::<CapUserHeader>(),
            Self::CapData => 2 * size_of::<CapUserData>(),
            Self::MsgHdr => size_of::<MsgHdr>(),
            Self::MMsgHdr => size_of::<MMsgHdr>(),
            Self::EpollEvent => size_of::<EpollEvent>(),
            Self::PollFd => size_of::<PollFd>(),
            Self::OpenHow => size_of::<OpenHow>(),
            Self::Flock => size_of::<Flock>(),
            Self::Winsize => size_of::<Winsize>(),
            Self::Termios => size_of::<Termios>(),
            Self::FutexWaitv => size_of::<FutexWaitv>(),
        }
    }
}

/// The value at an address, or the address if there is none.
pub fn at(shape: Shape, address: UserAddress, memory: Memory<'_>) -> String {
    let bytes = if address.is_null() { None } else { memory(address, shape.size()) };
    bytes.and_then(|bytes| value(shape, &bytes, memory)).unwrap_or_else(|| pointer(address.0))
}

/// So many values from an address on, as a list; the address if the first cannot be read.
pub fn array(shape: Shape, address: UserAddress, count: u64, memory: Memory<'_>) -> String {
    elements(address, count, shape.size(), memory, |bytes| value(shape, bytes, memory))
}

/// A list of so many elements, each printed by `print`.
fn elements(
    address: UserAddress,
    count: u64,
    size: usize,
    memory: Memory<'_>,
    mut print: impl FnMut(&[u8]) -> Option<String>,
) -> String {
    if address.is_null() {
        return pointer(0);
    }
    let mut texts = Vec::new();
    for index in 0..count.min(ELEMENT_LIMIT) {
        let element = index.checked_mul(size as u64).and_then(|offset| address.checked_add(offset));
        let Some(text) = element.and_then(|element| memory(element, size)).and_then(|bytes| print(&bytes))
        else {
            if index == 0 {
                return pointer(address.0);
            }
            texts.push("...".into());
            return format!("[{}]", texts.join(", "));
        };
        texts.push(text);
    }
    if count > ELEMENT_LIMIT {
        texts.push("...".into());
    }
    format!("[{}]", texts.join(", "))
}

fn read<T: FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_prefix(bytes).ok().map(|(value, _)| value)
}

/// A value as text; `None` if the bytes are too few.
pub fn value(shape: Shape, bytes: &[u8], memory: Memory<'_>) -> Option<String> {
    Some(match shape {
        Shape::I32 => format!("[{}]", read::<i32>(bytes)?),
        Shape::U32 => format!("[{}]", read::<u32>(bytes)?),
        Shape::I64 => format!("[{}]", read::<i64>(bytes)?),
        Shape::FdPair => {
            let [first, second] = read::<[i32; 2]>(bytes)?;
            format!("[{first}, {second}]")
        }
        Shape::Stat => stat(&read(bytes)?),
        Shape::Statx => statx(&read(bytes)?),
        Shape::Statfs => statfs(&read(bytes)?),
        Shape::Timespec => timespec(&read(bytes)?),
        Shape::TimespecPair => {
            let [first, second] = read::<[Timespec; 2]>(bytes)?;
            format!("[{}, {}]", file_time(&first), file_time(&second))
        }
        Shape::Timeval => timeval(&read(bytes)?),
        Shape::TimevalPair => {
            let [first, second] = read::<[Timeval; 2]>(bytes)?;
            format!("[{}, {}]", timeval(&first), timeval(&second))
        }
        Shape::Itimerspec => {
            let timer: Itimerspec = read(bytes)?;
            format!(
                "{{it_interval={}, it_value={}}}",
                timespec(&timer.it_interval),
                timespec(&timer.it_value)
            )
        }
        Shape::Itimerval => {
            let timer: Itimerval = read(bytes)?;
            format!("{{it_interval={}, it_value={}}}", timeval(&timer.it_interval), timeval(&timer.it_value))
        }
        Shape::SigAction => sigaction(&read(bytes)?),
        Shape::SigSet => sigset_text(read(bytes)?),
        Shape::StackT => {
            let stack: StackT = read(bytes)?;
            let flags = flags_text::<StackFlags>(stack.ss_flags.into());
            format!("{{ss_sp={}, ss_flags={flags}, ss_size={}}}", pointer(stack.ss_sp.0), stack.ss_size)
        }
        Shape::SigInfo => siginfo(&read(bytes)?),
        Shape::Rlimit => {
            let limit: Rlimit = read(bytes)?;
            format!("{{rlim_cur={}, rlim_max={}}}", rlimit(limit.rlim_cur), rlimit(limit.rlim_max))
        }
        Shape::Rusage => {
            let usage: Rusage = read(bytes)?;
            format!("{{ru_utime={}, ru_stime={}, ...}}", timeval(&usage.ru_utime), timeval(&usage.ru_stime))
        }
        Shape::UtsName => {
            let names: UtsName = read(bytes)?;
            format!("{{sysname={}, nodename={}, ...}}", c_field(&names.sysname), c_field(&names.nodename))
        }
        Shape::Sysinfo => sysinfo(&read(bytes)?),
        Shape::Tms => {
            let Tms { tms_utime, tms_stime, tms_cutime, tms_cstime } = read(bytes)?;
            format!(
                "{{tms_utime={tms_utime}, tms_stime={tms_stime}, tms_cutime={tms_cutime}, tms_cstime={tms_cstime}}}"
            )
        }
        Shape::CloneArgs => clone_args(bytes)?,
        Shape::SchedParam => format!("[{}]", read::<SchedParam>(bytes)?.sched_priority),
        Shape::CapHeader => {
            let header: CapUserHeader = read(bytes)?;
            let version = enum_text(crate::capabilities::CAPABILITY_VERSION_NAMES, header.version.into());
            format!("{{version={version}, pid={}}}", header.pid)
        }
        Shape::CapData => {
            let [low, high] = read::<[CapUserData; 2]>(bytes)?;
            format!(
                "{{effective={}, permitted={}, inheritable={}}}",
                capabilities(low.effective, high.effective),
                capabilities(low.permitted, high.permitted),
                capabilities(low.inheritable, high.inheritable)
            )
        }
        Shape::MsgHdr => message(&read(bytes)?, None, memory),
        Shape::MMsgHdr => {
            let message_of_many: MMsgHdr = read(bytes)?;
            let text = message(&message_of_many.msg_hdr, None, memory);
            format!("{{msg_hdr={text}, msg_len={}}}", message_of_many.msg_len)
        }
        Shape::EpollEvent => {
            let event: EpollEvent = read(bytes)?;
            let (events, data) = (event.events, event.data);
            let names = flags_text::<EpollEvents>(events.into());
            format!("{{events={names}, data={{u32={}, u64={data}}}}}", data as u32)
        }
        Shape::PollFd => {
            let poll: PollFd = read(bytes)?;
            format!("{{fd={}, events={}}}", poll.fd, poll_events(poll.events))
        }
        Shape::OpenHow => {
            let how: OpenHow = read(bytes)?;
            let mode =
                if how.mode == 0 { String::new() } else { format!("mode={}, ", octal(how.mode as u32)) };
            let resolve = flags_text::<ResolveFlags>(how.resolve);
            format!("{{flags={}, {mode}resolve={resolve}}}", open_flags_text(how.flags))
        }
        Shape::Flock => flock(&read(bytes)?),
        Shape::Winsize => {
            let Winsize { ws_row, ws_col, ws_xpixel, ws_ypixel } = read(bytes)?;
            format!("{{ws_row={ws_row}, ws_col={ws_col}, ws_xpixel={ws_xpixel}, ws_ypixel={ws_ypixel}}}")
        }
        Shape::Termios => {
            let termios: Termios = read(bytes)?;
            format!(
                "{{c_iflag={}, c_oflag={:#x}, c_cflag={:#x}, c_lflag={:#x}, ...}}",
                flags_text::<InputFlags>(termios.c_iflag.into()),
                termios.c_oflag,
                termios.c_cflag,
                termios.c_lflag
            )
        }
        Shape::FutexWaitv => {
            let wait: FutexWaitv = read(bytes)?;
            let flags = flags_text::<Futex2Flags>(wait.flags.into());
            format!("{{val={:#x}, uaddr={}, flags={flags}}}", wait.val, pointer(wait.uaddr.0))
        }
    })
}

/// Poll events as `poll(2)` has them, 16 bits wide.
pub fn poll_events(events: i16) -> String {
    flags_text::<PollEvents>(events.cast_unsigned().into())
}

fn stat(stat: &Stat) -> String {
    let is_device =
        matches!(stat.st_mode & crate::files::S_IFMT, crate::files::S_IFCHR | crate::files::S_IFBLK);
    let what = if is_device {
        format!("st_rdev={}", device_text(stat.st_rdev))
    } else {
        format!("st_size={}", stat.st_size)
    };
    format!("{{st_mode={}, {what}, ...}}", mode_text(stat.st_mode))
}

fn statx(statx: &crate::files::Statx) -> String {
    format!(
        "{{stx_mask={}, stx_attributes={}, stx_mode={}, stx_size={}, ...}}",
        flags_text::<StatxMask>(statx.stx_mask.into()),
        flags_text::<StatxAttributes>(statx.stx_attributes),
        mode_text(statx.stx_mode.into()),
        statx.stx_size
    )
}

fn statfs(s: &crate::files::Statfs) -> String {
    let kind = name_in(FS_MAGIC_NAMES, s.f_type.cast_signed());
    format!(
        "{{f_type={}, f_bsize={}, f_blocks={}, f_bfree={}, f_bavail={}, f_files={}, f_ffree={}, \
         f_fsid={{val=[{:#x}, {:#x}]}}, f_namelen={}, f_frsize={}, f_flags={}}}",
        kind.map_or_else(|| format!("{:#x}", s.f_type), str::to_owned),
        s.f_bsize,
        s.f_blocks,
        s.f_bfree,
        s.f_bavail,
        s.f_files,
        s.f_ffree,
        s.f_fsid[0],
        s.f_fsid[1],
        s.f_namelen,
        s.f_frsize,
        flags_text::<StatfsFlags>(s.f_flags)
    )
}

fn timespec(time: &Timespec) -> String {
    format!("{{tv_sec={}, tv_nsec={}}}", time.tv_sec, time.tv_nsec)
}

fn timeval(time: &Timeval) -> String {
    format!("{{tv_sec={}, tv_usec={}}}", time.tv_sec, time.tv_usec)
}

fn file_time(time: &Timespec) -> String {
    name_in(crate::files::UTIME_NAMES, time.tv_nsec).map_or_else(|| timespec(time), str::to_owned)
}

fn sigaction(action: &SigAction) -> String {
    let handler = name_in(SIG_HANDLER_NAMES, action.sa_handler.0.cast_signed());
    let restorer = if action.flags().contains(SaFlags::SA_RESTORER) {
        format!(", sa_restorer={}", pointer(action.sa_restorer.0))
    } else {
        String::new()
    };
    format!(
        "{{sa_handler={}, sa_mask={}, sa_flags={}{restorer}}}",
        handler.map_or_else(|| pointer(action.sa_handler.0), str::to_owned),
        sigset_text(action.sa_mask),
        flags_text::<SaFlags>(action.sa_flags)
    )
}

fn siginfo(info: &SigInfo) -> String {
    let names: &[_] = match info.si_signo {
        _ if info.si_code <= 0 || info.si_code == signal_info::SI_KERNEL => signal_info::SI_CODE_NAMES,
        4 => signal_info::ILL_CODE_NAMES,
        5 => signal_info::TRAP_CODE_NAMES,
        7 => signal_info::BUS_CODE_NAMES,
        8 => signal_info::FPE_CODE_NAMES,
        11 => signal_info::SEGV_CODE_NAMES,
        17 => signal_info::CLD_CODE_NAMES,
        29 => signal_info::POLL_CODE_NAMES,
        31 => signal_info::SYS_CODE_NAMES,
        _ => signal_info::SI_CODE_NAMES,
    };
    let code = names.iter().find(|(_, value)| *value == i64::from(info.si_code));
    let code = code.map_or_else(|| info.si_code.to_string(), |(name, _)| (*name).to_owned());
    let head = format!("si_signo={}, si_code={code}", signal_text(info.si_signo));
    let sender = format!("si_pid={}, si_uid={}", info.pid(), info.uid());
    let rest = match signal_info::layout_of(info) {
        FieldLayout::Kill if info.si_code == signal_info::SI_KERNEL => return format!("{{{head}}}"),
        FieldLayout::Kill => sender,
        FieldLayout::Queue if info.value() == 0 => sender,
        FieldLayout::Queue => {
            format!("{sender}, si_value={{int={}, ptr={:#x}}}", info.value() as i32, info.value())
        }
        FieldLayout::Timer => format!("si_timerid={}, si_overrun={}", info.pid(), info.overrun()),
        FieldLayout::Child => {
            let exited = info.si_code == signal_info::CLD_EXITED;
            let status = if exited { info.status().to_string() } else { signal_text(info.status()) };
            format!("{sender}, si_status={status}, si_utime={}, si_stime={}", info.fields[2], info.fields[3])
        }
        FieldLayout::Poll => format!("si_band={}, si_fd={}", info.band(), info.fd()),
        FieldLayout::Fault => format!("si_addr={}", pointer(info.address().0)),
        FieldLayout::Sys => format!("si_call_addr={}, si_syscall={}", pointer(info.address().0), info.fd()),
    };
    format!("{{{head}, {rest}}}")
}

fn rlimit(limit: u64) -> String {
    match limit {
        RLIM_INFINITY => "RLIM64_INFINITY".into(),
        limit if limit > 1024 && limit.is_multiple_of(1024) => format!("{}*1024", limit / 1024),
        limit => limit.to_string(),
    }
}

fn c_field(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    quoted(bytes.get(..end.min(STRING_LIMIT)).unwrap_or_default(), end > STRING_LIMIT)
}

fn sysinfo(s: &Sysinfo) -> String {
    format!(
        "{{uptime={}, loads=[{}, {}, {}], totalram={}, freeram={}, sharedram={}, bufferram={}, totalswap={}, \
         freeswap={}, procs={}, totalhigh={}, freehigh={}, mem_unit={}}}",
        s.uptime,
        s.loads[0],
        s.loads[1],
        s.loads[2],
        s.totalram,
        s.freeram,
        s.sharedram,
        s.bufferram,
        s.totalswap,
        s.freeswap,
        s.procs,
        s.totalhigh,
        s.freehigh,
        s.mem_unit
    )
}

fn clone_args(bytes: &[u8]) -> Option<String> {
    let mut whole = [0; size_of::<CloneArgs>()];
    whole.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    let args: CloneArgs = read(&whole)?;
    let mut parts = vec![format!("flags={}", flags_text::<CloneFlags>(args.flags))];
    for (name, address) in
        [("pidfd", args.pidfd), ("child_tid", args.child_tid), ("parent_tid", args.parent_tid)]
    {
        if address != 0 {
            parts.push(format!("{name}={address:#x}"));
        }
    }
    parts.push(format!("exit_signal={}", signal_text(args.exit_signal as i32)));
    let size = if args.stack_size == 0 { "0".into() } else { format!("{:#x}", args.stack_size) };
    parts.push(format!("stack={}, stack_size={size}", pointer(args.stack)));
    if args.flags & CloneFlags::CLONE_SETTLS.bits() != 0 {
        parts.push(format!("tls={:#x}", args.tls));
    }
    Some(format!("{{{}}}", parts.join(", ")))
}

fn capabilities(low: u32, high: u32) -> String {
    let set = CapSet::from_words(low, high);
    let names: Vec<&str> = set.iter().map(crate::capabilities::Capability::name).collect();
    if names.is_empty() { "0".into() } else { names.join("|") }
}

/// A record lock.
fn flock(lock: &Flock) -> String {
    format!(
        "{{l_type={}, l_whence={}, l_start={}, l_len={}, l_pid={}}}",
        enum_text(LOCK_TYPE_NAMES, lock.l_type.into()),
        enum_text(SEEK_NAMES, lock.l_whence.into()),
        lock.l_start,
        lock.l_len,
        lock.l_pid
    )
}

/// The names of `fcntl(2)` commands that take a [`Flock`].
pub fn takes_flock(command: i32) -> bool {
    name_in(FCNTL_NAMES, command.into()).is_some_and(|name| name.contains("LK") && name != "F_CANCELLK")
}

/// Buffers with their contents; at most `total` bytes of them are known.
pub fn iovec(address: UserAddress, count: u64, total: Option<u64>, memory: Memory<'_>) -> String {
    let mut left = total.unwrap_or(u64::MAX);
    elements(address, count, size_of::<Iovec>(), memory, |bytes| {
        let Iovec { iov_base, iov_len } = read(bytes)?;
        let known = left.min(iov_len);
        left -= known;
        Some(format!("{{iov_base={}, iov_len={iov_len}}}", buffer(iov_base, known, memory)))
    })
}

/// The beginning of a buffer in quotes, or its address.
pub fn buffer(address: UserAddress, length: u64, memory: Memory<'_>) -> String {
    if address.is_null() {
        return pointer(0);
    }
    let shown = length.min(STRING_LIMIT as u64);
    match memory(address, shown as usize) {
        Some(bytes) => quoted(&bytes, length > shown),
        None => pointer(address.0),
    }
}

/// A message; `received` says how many bytes of its buffers are known.
pub fn message(header: &MsgHdr, received: Option<u64>, memory: Memory<'_>) -> String {
    let name_length = u64::try_from(header.msg_namelen).unwrap_or(0);
    let control = match header.msg_controllen {
        0 => String::new(),
        _ => format!("msg_control={}, ", control_messages(header.msg_control, header.msg_controllen, memory)),
    };
    format!(
        "{{msg_name={}, msg_namelen={}, msg_iov={}, msg_iovlen={}, {control}msg_controllen={}, msg_flags={}}}",
        socket_address(header.msg_name, name_length, memory),
        header.msg_namelen,
        iovec(header.msg_iov, header.msg_iovlen, received, memory),
        header.msg_iovlen,
        header.msg_controllen,
        flags_text::<MsgFlags>(header.msg_flags.into())
    )
}

/// The control messages of a buffer that is read once, up to a page of it.
fn control_messages(address: UserAddress, length: u64, memory: Memory<'_>) -> String {
    let Some(bytes) = memory(address, length.min(4096) as usize) else { return pointer(address.0) };
    let mut rest = bytes.as_slice();
    let mut texts = Vec::new();
    while let Some(header) = read::<sockets::CmsgHdr>(rest) {
        let whole = usize::try_from(header.cmsg_len).unwrap_or(usize::MAX);
        let Some(data) = rest.get(sockets::CMSG_HEADER_SIZE..whole) else { break };
        let socket_level = header.cmsg_level == crate::socket_options::SOL_SOCKET;
        let rights = socket_level && header.cmsg_type == sockets::SCM_RIGHTS;
        let data = if rights {
            let numbers = data.chunks_exact(4).filter_map(read::<i32>).map(|fd| fd.to_string());
            format!("[{}]", numbers.collect::<Vec<_>>().join(", "))
        } else {
            quoted(data.get(..STRING_LIMIT).unwrap_or(data), data.len() > STRING_LIMIT)
        };
        let kind = if socket_level { sockets::SCM_NAMES } else { &[] };
        texts.push(format!(
            "{{cmsg_len={whole}, cmsg_level={}, cmsg_type={}, cmsg_data={data}}}",
            enum_text(crate::socket_options::SOL_NAMES, header.cmsg_level.into()),
            enum_text(kind, header.cmsg_type.into())
        ));
        rest = rest.get(sockets::cmsg_align(whole)..).unwrap_or_default();
    }
    if texts.is_empty() { pointer(address.0) } else { format!("[{}]", texts.join(", ")) }
}

/// A socket address of so many bytes.
pub fn socket_address(address: UserAddress, length: u64, memory: Memory<'_>) -> String {
    if address.is_null() {
        return pointer(0);
    }
    let size = length.min(sockets::SOCKADDR_STORAGE_SIZE as u64) as usize;
    let Some(bytes) = memory(address, size) else { return pointer(address.0) };
    address_text(&bytes).unwrap_or_else(|| pointer(address.0))
}

fn address_text(bytes: &[u8]) -> Option<String> {
    let family: u16 = read(bytes)?;
    let name = enum_text(sockets::ADDRESS_FAMILY_NAMES, family.into());
    let rest = match family {
        sockets::AF_INET => read::<sockets::SockaddrIn>(bytes).map(|a| {
            let port = u16::from_be_bytes(a.sin_port);
            format!("sin_port=htons({port}), sin_addr=inet_addr(\"{}\")", Ipv4Addr::from(a.sin_addr))
        }),
        sockets::AF_INET6 => read::<sockets::SockaddrIn6>(bytes).map(|a| {
            format!(
                "sin6_port=htons({}), sin6_flowinfo=htonl({}), inet_pton(AF_INET6, \"{}\", &sin6_addr), sin6_scope_id={}",
                u16::from_be_bytes(a.sin6_port),
                u32::from_be_bytes(a.sin6_flowinfo),
                Ipv6Addr::from(a.sin6_addr),
                a.sin6_scope_id
            )
        }),
        sockets::AF_UNIX => bytes.get(2..).map(unix_path),
        sockets::AF_NETLINK => read::<sockets::SockaddrNl>(bytes)
            .map(|a| format!("nl_pid={}, nl_groups={:08x}", a.nl_pid, a.nl_groups)),
        _ => None,
    };
    let rest =
        rest.unwrap_or_else(|| format!("sa_data={}", quoted(bytes.get(2..).unwrap_or_default(), false)));
    Some(if rest.is_empty() {
        format!("{{sa_family={name}}}")
    } else {
        format!("{{sa_family={name}, {rest}}}")
    })
}

/// A Unix path up to its NUL, or an abstract name, which may hold NULs.
fn unix_path(path: &[u8]) -> String {
    match path {
        [] => String::new(),
        [0, name @ ..] => format!("sun_path=@{}", quoted(name, false)),
        path => {
            let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
            format!("sun_path={}", quoted(path.get(..end).unwrap_or_default(), false))
        }
    }
}
