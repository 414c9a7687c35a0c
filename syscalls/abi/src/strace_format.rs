//! Prints system calls as strace(1) does, for `--strace`.
//!
//! [`CallTrace::enter`] reads what the call's arguments point at before the call runs (afterwards
//! it may be gone, or changed); [`CallTrace::exit`] adds what the call stored and its result.
//! Memory is read through a function, and what cannot be read prints as an address. Nothing here
//! fails, and what is read and printed is bounded, whatever the application passes.
//! Neighbours: `signatures`, `strace_structs`, `strace_text`.

use zerocopy::FromBytes;

use crate::define::name_in;
use crate::errno::Errno;
use crate::exec::MAX_ARG_STRLEN;
use crate::file_calls::FCNTL_NAMES;
use crate::files::{OpenFlags, PATH_MAX};
use crate::futexes::{self, FUTEX_NAMES, FutexFlags, FutexOp, WakeOp};
use crate::memory::{MremapFlags, PAGE_SIZE};
use crate::numbers::{self, nr};
use crate::polling::PollFd;
use crate::process::WaitStatus;
use crate::signatures::{ArgKind, ReturnKind, Shape, Signature, signature};
use crate::sockets::MsgHdr;
pub use crate::strace_structs::Memory;
use crate::strace_structs::{self as structs, ELEMENT_LIMIT};
use crate::strace_text::*;
use crate::user::{FromRegister, UserAddress};
use crate::{ioctls, socket_options, terminals};

/// One call between its entry and its exit.
#[derive(Clone, Debug)]
pub struct CallTrace {
    number: u64,
    registers: [u64; 6],
    /// `None` where only the exit will tell.
    texts: Vec<Option<String>>,
}

/// A call with no signature: its registers in hexadecimal.
const UNKNOWN: Signature = Signature { arguments: &[ArgKind::Hex; 6], result: ReturnKind::Hex };

fn signature_of(number: u64) -> &'static Signature {
    usize::try_from(number).ok().and_then(signature).unwrap_or(&UNKNOWN)
}

impl CallTrace {
    /// Reads what is known before the call runs.
    pub fn enter(number: u64, registers: &[u64; 6], memory: Memory<'_>) -> Self {
        let arguments = Arguments { registers, memory };
        let kinds = signature_of(number).arguments;
        let shown = shown_arguments(number, registers).min(kinds.len());
        let texts = kinds.iter().take(shown).enumerate().map(|(position, kind)| match number_is(number) {
            nr::FUTEX => Some(arguments.futex_argument(position)),
            _ => arguments.before(position, *kind),
        });
        Self { number, registers: *registers, texts: texts.collect() }
    }

    /// The call before its result: `read(3, 0x7ffc…, 200`, without the closing parenthesis.
    pub fn entry_text(&self) -> String {
        let texts = self
            .texts
            .iter()
            .zip(self.registers)
            .map(|(text, register)| text.clone().unwrap_or_else(|| pointer(register)));
        self.call_text(texts.collect())
    }

    /// The whole line: `read(3, "…", 200) = 5`. `None` is a call that does not return.
    pub fn exit_text(&self, result: Option<Result<u64, Errno>>, memory: Memory<'_>) -> String {
        let arguments = Arguments { registers: &self.registers, memory };
        let kinds = signature_of(self.number).arguments;
        let texts = self.texts.iter().zip(kinds).enumerate().map(|(position, (text, kind))| {
            text.clone().unwrap_or_else(|| match result {
                Some(Ok(value)) => arguments.after(position, *kind, value),
                _ => pointer(arguments.register(position)),
            })
        });
        let call = self.call_text(texts.collect());
        format!("{call}) = {}", self.result_text(result, &arguments))
    }

    fn call_text(&self, texts: Vec<String>) -> String {
        let known = usize::try_from(self.number).ok().and_then(numbers::name);
        let name = known.map_or_else(|| format!("syscall_{:#x}", self.number), str::to_owned);
        if number_is(self.number) == nr::CLONE {
            return format!("{name}({}", clone_arguments(&self.registers, &texts));
        }
        if number_is(self.number) == nr::FUTEX {
            let positions = futex_positions(FutexOp::from_register(self.registers[1]));
            let shown: Vec<&str> =
                positions.iter().filter_map(|at| texts.get(*at)).map(String::as_str).collect();
            return format!("{name}({}", shown.join(", "));
        }
        format!("{name}({}", texts.join(", "))
    }

    fn result_text(&self, result: Option<Result<u64, Errno>>, arguments: &Arguments<'_>) -> String {
        let value = match result {
            None => return "?".into(),
            Some(Err(errno)) => {
                let name = errno.name().map_or_else(|| errno.raw().to_string(), str::to_owned);
                return format!("-1 {name} ({errno})");
            }
            Some(Ok(value)) => value,
        };
        match signature_of(self.number).result {
            ReturnKind::Int | ReturnKind::Never => value.cast_signed().to_string(),
            ReturnKind::Hex => format!("{value:#x}"),
            ReturnKind::Octal => octal(value as u32),
            ReturnKind::Ready | ReturnKind::Poll if value == 0 => "0 (Timeout)".into(),
            ReturnKind::Ready => value.to_string(),
            ReturnKind::Poll => format!("{value} ({})", arguments.ready_descriptors()),
            ReturnKind::Fcntl => match name_in(FCNTL_NAMES, i32::from_register(arguments.register(1)).into())
            {
                Some("F_GETFL") => format!("{value:#x} (flags {})", open_flags_text(value)),
                Some("F_GETFD") if value == 1 => "0x1 (flags FD_CLOEXEC)".into(),
                _ => value.cast_signed().to_string(),
            },
        }
    }
}

/// The number as the table of names counts; numbers beyond it become one that names nothing.
fn number_is(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// How many arguments are worth showing: some calls ignore the last ones.
fn shown_arguments(number: u64, registers: &[u64; 6]) -> usize {
    let creates = |flags: u64| {
        let flags = OpenFlags::from_register(flags);
        flags.contains(OpenFlags::O_CREAT) || flags.is_tmpfile()
    };
    match number_is(number) {
        nr::OPEN if !creates(registers[1]) => 2,
        nr::OPENAT if !creates(registers[2]) => 3,
        nr::MREMAP if !MremapFlags::from_register(registers[3]).intersects(MremapFlags::MREMAP_FIXED) => 4,
        nr::FCNTL if fcntl_takes_nothing(registers[1]) => 2,
        nr::MQ_OPEN if !creates(registers[1]) => 2,
        _ => 6,
    }
}

fn fcntl_takes_nothing(command: u64) -> bool {
    let name = name_in(FCNTL_NAMES, i32::from_register(command).into());
    matches!(
        name,
        Some("F_GETFD" | "F_GETFL" | "F_GETOWN" | "F_GETSIG" | "F_GETLEASE" | "F_GETPIPE_SZ" | "F_GET_SEALS")
    )
}

/// strace names `clone(2)`'s arguments, because their order differs by architecture.
fn clone_arguments(registers: &[u64; 6], texts: &[String]) -> String {
    let flags = crate::process::CloneFlags::from_register(registers[0]);
    let text = |position: usize| texts.get(position).cloned().unwrap_or_default();
    let mut parts = vec![format!("child_stack={}", text(1)), format!("flags={}", text(0))];
    use crate::process::CloneFlags as Clone;
    if flags.intersects(Clone::CLONE_PARENT_SETTID | Clone::CLONE_PIDFD) {
        parts.push(format!("parent_tid={}", text(2)));
    }
    if flags.contains(Clone::CLONE_SETTLS) {
        parts.push(format!("tls={}", text(4)));
    }
    if flags.intersects(Clone::CLONE_CHILD_SETTID | Clone::CLONE_CHILD_CLEARTID) {
        parts.push(format!("child_tidptr={}", text(3)));
    }
    parts.join(", ")
}

/// The registers of a call, and the memory they may point into.
struct Arguments<'a> {
    registers: &'a [u64; 6],
    memory: Memory<'a>,
}

impl Arguments<'_> {
    fn register(&self, position: usize) -> u64 {
        self.registers.get(position).copied().unwrap_or(0)
    }

    fn address(&self, position: usize) -> UserAddress {
        UserAddress(self.register(position))
    }

    /// An argument as the call finds it; `None` if the call has to store it first.
    fn before(&self, position: usize, kind: ArgKind) -> Option<String> {
        let register = self.register(position);
        let address = UserAddress(register);
        Some(match kind {
            ArgKind::Int | ArgKind::Fd => i32::from_register(register).to_string(),
            ArgKind::UInt => u32::from_register(register).to_string(),
            ArgKind::Long => register.cast_signed().to_string(),
            ArgKind::ULong => register.to_string(),
            ArgKind::Hex => {
                if register == 0 {
                    "0".into()
                } else {
                    format!("{register:#x}")
                }
            }
            ArgKind::Pointer => pointer(register),
            ArgKind::DirFd => enum_or_number(crate::files::AT_FD_NAMES, i32::from_register(register)),
            ArgKind::Mode => mode_text(u32::from_register(register)),
            ArgKind::Device => device_text(register),
            ArgKind::Signal => signal_text(i32::from_register(register)),
            ArgKind::Enum(names) => self.enumerated(names, register),
            ArgKind::Flags(print) => print(register),
            ArgKind::Path => self.string(address, PATH_MAX, PATH_MAX),
            ArgKind::Str => self.string(address, MAX_ARG_STRLEN, STRING_LIMIT),
            ArgKind::Buffer { length } => structs::buffer(address, self.register(length), self.memory),
            ArgKind::In(shape) => structs::at(shape, address, self.memory),
            ArgKind::InArray { shape, count } => {
                structs::array(shape, address, u64::from(self.register(count) as u32), self.memory)
            }
            ArgKind::Iovec { count } => structs::iovec(address, self.register(count), None, self.memory),
            ArgKind::SockAddr { length } => {
                structs::socket_address(address, u64::from(self.register(length) as u32), self.memory)
            }
            ArgKind::SocketOption => {
                let (level, option) = (i32::from_register(self.register(1)), i32::from_register(register));
                socket_options::option_name(level, option).map_or_else(|| option.to_string(), str::to_owned)
            }
            ArgKind::OptionValue { length } => self.option_value(address, self.register(length)),
            ArgKind::FdSet => self.descriptor_set(address),
            ArgKind::Argv => self.strings(address),
            ArgKind::Environment => self.counted_strings(address),
            ArgKind::FutexOp => futex_op_text(FutexOp::from_register(register)),
            ArgKind::IoctlRequest => ioctl_request_text(u32::from_register(register)),
            ArgKind::IoctlArgument => return self.ioctl_argument(register),
            ArgKind::FcntlArgument => return self.fcntl_argument(register),
            ArgKind::OutBuffer
            | ArgKind::OutString
            | ArgKind::Out(_)
            | ArgKind::OutArray(_)
            | ArgKind::OutIovec { .. }
            | ArgKind::OutMsgHdr
            | ArgKind::OutSockAddr { .. }
            | ArgKind::OutOptionValue
            | ArgKind::WaitStatus => return None,
        })
    }

    /// An argument that the call stored, having returned `result`.
    fn after(&self, position: usize, kind: ArgKind, result: u64) -> String {
        let address = self.address(position);
        match kind {
            ArgKind::OutBuffer => structs::buffer(address, result, self.memory),
            ArgKind::OutString => structs::buffer(address, result.saturating_sub(1), self.memory),
            ArgKind::Out(shape) => structs::at(shape, address, self.memory),
            ArgKind::OutArray(shape) => structs::array(shape, address, result, self.memory),
            ArgKind::OutIovec { count } => {
                structs::iovec(address, self.register(count), Some(result), self.memory)
            }
            ArgKind::OutMsgHdr => {
                let header = self.read::<MsgHdr>(address);
                let text = header.map(|header| structs::message(&header, Some(result), self.memory));
                text.unwrap_or_else(|| pointer(address.0))
            }
            ArgKind::OutSockAddr { length } => match self.read::<u32>(self.address(length)) {
                Some(length) => structs::socket_address(address, length.into(), self.memory),
                None => pointer(address.0),
            },
            ArgKind::OutOptionValue => match self.read::<u32>(self.address(position + 1)) {
                Some(length) => self.option_value(address, length.into()),
                None => pointer(address.0),
            },
            // With WNOHANG and nobody to report, nothing is stored.
            ArgKind::WaitStatus if result == 0 => pointer(address.0),
            ArgKind::WaitStatus => match self.read::<i32>(address) {
                Some(status) => wait_status_text(status),
                None => pointer(address.0),
            },
            ArgKind::IoctlArgument => self.stored_ioctl_argument(address),
            ArgKind::FcntlArgument => structs::at(Shape::Flock, address, self.memory),
            _ => pointer(address.0),
        }
    }

    fn read<T: FromBytes>(&self, address: UserAddress) -> Option<T> {
        if address.is_null() {
            return None;
        }
        (self.memory)(address, size_of::<T>()).and_then(|bytes| T::read_from_bytes(&bytes).ok())
    }

    fn enumerated(&self, names: crate::define::Names, register: u64) -> String {
        // Most families are ints; the few unsigned ones have values beyond an int's.
        let signed = i32::from_register(register);
        let value = i64::from(signed);
        if name_in(names, value).is_some() {
            return enum_text(names, value);
        }
        match name_in(names, i64::from(signed.cast_unsigned())) {
            Some(name) => name.into(),
            None => enum_text(names, value),
        }
    }

    /// The bytes up to a NUL, read page by page; the flag says whether they were cut at `limit`.
    fn c_string(&self, address: UserAddress, limit: usize) -> Option<(Vec<u8>, bool)> {
        let mut bytes = Vec::new();
        while bytes.len() < limit {
            let next = address.checked_add(bytes.len() as u64)?;
            let to_page_end = (PAGE_SIZE - next.0 % PAGE_SIZE) as usize;
            let chunk = (self.memory)(next, to_page_end.min(limit - bytes.len()).min(256))?;
            if let Some(end) = chunk.iter().position(|byte| *byte == 0) {
                bytes.extend_from_slice(chunk.get(..end).unwrap_or_default());
                return Some((bytes, false));
            }
            if chunk.is_empty() {
                return None;
            }
            bytes.extend_from_slice(&chunk);
        }
        Some((bytes, true))
    }

    /// A string in quotes, at most `shown` bytes of it.
    fn string(&self, address: UserAddress, limit: usize, shown: usize) -> String {
        if address.is_null() {
            return pointer(0);
        }
        match self.c_string(address, limit.min(shown + 1)) {
            Some((bytes, cut)) => {
                let visible = bytes.get(..shown).unwrap_or(&bytes);
                quoted(visible, cut || bytes.len() > shown)
            }
            None => pointer(address.0),
        }
    }

    /// The pointers of an argument vector up to the null one, and whether there are more.
    fn pointers(&self, address: UserAddress, limit: u64) -> Option<(Vec<UserAddress>, bool)> {
        let mut found = Vec::new();
        for index in 0..limit {
            match self.read::<u64>(address.checked_add(index * 8)?)? {
                0 => return Some((found, false)),
                pointer => found.push(UserAddress(pointer)),
            }
        }
        Some((found, true))
    }

    fn strings(&self, address: UserAddress) -> String {
        let Some((pointers, more)) = self.pointers(address, ELEMENT_LIMIT) else { return pointer(address.0) };
        let mut texts: Vec<String> =
            pointers.iter().map(|each| self.string(*each, MAX_ARG_STRLEN, STRING_LIMIT)).collect();
        if more {
            texts.push("...".into());
        }
        format!("[{}]", texts.join(", "))
    }

    fn counted_strings(&self, address: UserAddress) -> String {
        match self.pointers(address, 1024) {
            Some((found, false)) => {
                let plural = if found.len() == 1 { "" } else { "s" };
                format!("{} /* {} var{plural} */", pointer(address.0), found.len())
            }
            _ => pointer(address.0),
        }
    }

    fn descriptor_set(&self, address: UserAddress) -> String {
        let limit = i32::from_register(self.register(0)).clamp(0, 1024);
        let words = (limit as usize).div_ceil(64);
        let bytes = if address.is_null() { None } else { (self.memory)(address, words * 8) };
        let Some(bytes) = bytes else { return pointer(address.0) };
        let is_set = |fd: &i32| bytes.get(*fd as usize / 8).is_some_and(|byte| byte >> (fd % 8) & 1 == 1);
        let names: Vec<String> = (0..limit).filter(is_set).map(|fd| fd.to_string()).collect();
        format!("[{}]", names.join(" "))
    }

    fn option_value(&self, address: UserAddress, length: u64) -> String {
        let bytes = if address.is_null() { None } else { (self.memory)(address, length.min(64) as usize) };
        match bytes.as_deref() {
            None => pointer(address.0),
            Some([a, b, c, d]) if length == 4 => format!("[{}]", i32::from_le_bytes([*a, *b, *c, *d])),
            Some(bytes) => quoted(bytes.get(..STRING_LIMIT).unwrap_or(bytes), length > STRING_LIMIT as u64),
        }
    }

    fn ready_descriptors(&self) -> String {
        let mut texts = Vec::new();
        for index in 0..u64::from(self.register(1) as u32).min(ELEMENT_LIMIT) {
            let address = self.address(0).checked_add(index * size_of::<PollFd>() as u64);
            let Some(poll) = address.and_then(|address| self.read::<PollFd>(address)) else { break };
            if poll.revents != 0 {
                texts.push(format!("{{fd={}, revents={}}}", poll.fd, structs::poll_events(poll.revents)));
            }
        }
        format!("[{}]", texts.join(", "))
    }

    /// What an ioctl reads; `None` for those that store.
    fn ioctl_argument(&self, register: u64) -> Option<String> {
        use crate::ioctls as io;
        let address = UserAddress(register);
        Some(match u32::from_register(self.register(1)) {
            io::TIOCGWINSZ
            | io::TCGETS
            | io::TCGETS2
            | io::FIONREAD
            | io::TIOCGPGRP
            | io::TIOCGSID
            | io::TIOCGPTN
            | io::TIOCOUTQ => return None,
            io::TIOCSWINSZ => structs::at(Shape::Winsize, address, self.memory),
            io::TCSETS | io::TCSETSW | io::TCSETSF | io::TCSETS2 | io::TCSETSW2 | io::TCSETSF2 => {
                structs::at(Shape::Termios, address, self.memory)
            }
            io::FIONBIO | io::FIOASYNC | io::TIOCSPGRP | io::TIOCSPTLCK => {
                structs::at(Shape::I32, address, self.memory)
            }
            io::TCFLSH => enum_or_number(terminals::FLUSH_NAMES, i32::from_register(register)),
            io::TCXONC => enum_or_number(terminals::FLOW_NAMES, i32::from_register(register)),
            _ => pointer(register),
        })
    }

    fn stored_ioctl_argument(&self, address: UserAddress) -> String {
        let shape = match u32::from_register(self.register(1)) {
            ioctls::TIOCGWINSZ => Shape::Winsize,
            ioctls::TCGETS | ioctls::TCGETS2 => Shape::Termios,
            _ => Shape::I32,
        };
        structs::at(shape, address, self.memory)
    }

    /// What `fcntl(2)` makes of its argument; `None` for locks that it stores.
    fn fcntl_argument(&self, register: u64) -> Option<String> {
        let command = i32::from_register(self.register(1));
        let name = name_in(FCNTL_NAMES, command.into()).unwrap_or_default();
        Some(match name {
            "F_GETLK" | "F_OFD_GETLK" => return None,
            "F_SETFL" => open_flags_text(register),
            "F_SETFD" if register == 1 => "FD_CLOEXEC".into(),
            "F_SETSIG" => signal_text(i32::from_register(register)),
            "F_ADD_SEALS" => flags_text::<crate::file_calls::Seals>(register),
            _ if structs::takes_flock(command) => {
                structs::at(Shape::Flock, UserAddress(register), self.memory)
            }
            "" => format!("{register:#x}"),
            _ => i32::from_register(register).to_string(),
        })
    }

    /// An argument of `futex(2)`: from the fourth on, they depend on the operation.
    fn futex_argument(&self, position: usize) -> String {
        let register = self.register(position);
        let op = FutexOp::from_register(self.register(1));
        let wake_op = op.command() == futexes::FUTEX_WAKE_OP;
        let bitset = matches!(op.command(), futexes::FUTEX_WAIT_BITSET | futexes::FUTEX_WAKE_BITSET);
        match position {
            1 => futex_op_text(op),
            2 => u32::from_register(register).to_string(),
            3 if op.has_timeout() => structs::at(Shape::Timespec, UserAddress(register), self.memory),
            3 => u32::from_register(register).to_string(),
            5 if bitset && register as u32 == futexes::FUTEX_BITSET_MATCH_ANY => {
                "FUTEX_BITSET_MATCH_ANY".into()
            }
            5 if bitset => format!("{:#x}", register as u32),
            5 if wake_op => wake_op_text(register as u32),
            5 => u32::from_register(register).to_string(),
            _ => pointer(register),
        }
    }
}

/// The arguments of `futex(2)` that an operation looks at.
fn futex_positions(op: FutexOp) -> &'static [usize] {
    match op.command() {
        futexes::FUTEX_UNLOCK_PI | futexes::FUTEX_TRYLOCK_PI => &[0, 1],
        futexes::FUTEX_WAKE => &[0, 1, 2],
        futexes::FUTEX_WAIT | futexes::FUTEX_LOCK_PI | futexes::FUTEX_LOCK_PI2 => &[0, 1, 2, 3],
        futexes::FUTEX_WAIT_BITSET => &[0, 1, 2, 3, 5],
        futexes::FUTEX_WAKE_BITSET => &[0, 1, 2, 5],
        futexes::FUTEX_REQUEUE | futexes::FUTEX_WAIT_REQUEUE_PI => &[0, 1, 2, 3, 4],
        _ => &[0, 1, 2, 3, 4, 5],
    }
}

fn enum_or_number(names: crate::define::Names, value: i32) -> String {
    name_in(names, value.into()).map_or_else(|| value.to_string(), str::to_owned)
}

/// `FUTEX_WAIT_PRIVATE|FUTEX_CLOCK_REALTIME`: the private flag is a suffix.
fn futex_op_text(op: FutexOp) -> String {
    let mut text = enum_text(FUTEX_NAMES, op.command().into());
    if op.flags().contains(FutexFlags::FUTEX_PRIVATE_FLAG) {
        text.push_str("_PRIVATE");
    }
    if op.flags().contains(FutexFlags::FUTEX_CLOCK_REALTIME) {
        text.push_str("|FUTEX_CLOCK_REALTIME");
    }
    text
}

fn wake_op_text(raw: u32) -> String {
    let op = WakeOp::decode(raw);
    let shift = if raw >> 28 & futexes::FUTEX_OP_OPARG_SHIFT != 0 { "FUTEX_OP_OPARG_SHIFT<<28|" } else { "" };
    let compared = raw & 0xfff;
    let compared = if compared == 0 { "0".into() } else { format!("{compared:#x}") };
    format!(
        "{shift}{}<<28|{:#x}<<12|{}<<24|{compared}",
        enum_text(futexes::FUTEX_OP_NAMES, op.operation.into()),
        raw >> 12 & 0xfff,
        enum_text(futexes::FUTEX_OP_CMP_NAMES, op.comparison.into()),
    )
}

fn ioctl_request_text(request: u32) -> String {
    if let Some(name) = ioctls::name(request) {
        return name.into();
    }
    let direction = match request >> 30 {
        0 => "_IOC_NONE",
        1 => "_IOC_WRITE",
        2 => "_IOC_READ",
        _ => "_IOC_READ|_IOC_WRITE",
    };
    let (kind, number) = (request >> 8 & 0xff, request & 0xff);
    format!("_IOC({direction}, {kind:#x}, {number:#x}, {:#x})", ioctls::argument_size(request))
}

fn wait_status_text(raw: i32) -> String {
    match WaitStatus::from_raw(raw) {
        Some(WaitStatus::Exited(code)) => format!("[{{WIFEXITED(s) && WEXITSTATUS(s) == {code}}}]"),
        Some(WaitStatus::Killed { signal, core }) => {
            let core = if core { " && WCOREDUMP(s)" } else { "" };
            format!("[{{WIFSIGNALED(s) && WTERMSIG(s) == {}{core}}}]", signal.name())
        }
        Some(WaitStatus::Stopped { signal, .. }) => {
            format!("[{{WIFSTOPPED(s) && WSTOPSIG(s) == {}}}]", signal.name())
        }
        Some(WaitStatus::Continued) => "[{WIFCONTINUED(s)}]".into(),
        None => format!("[{raw:#x}]"),
    }
}
