//! The options of `SOL_SOCKET` that all families have (`man 7 socket`).
//!
//! What only says how packets travel is kept and read back, as Linux keeps it for Unix sockets too.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use abi::capabilities::{CAP_NET_ADMIN, Capability};
use abi::errno::{EACCES, EINVAL, ENOPROTOOPT, EPERM, SysResult};
use abi::socket_options as so;
use abi::sockets::Linger;
use abi::time::Timeval;
use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::SocketOps;
use crate::task::{Credentials, Task};
use crate::vfs::{Direction, has};

/// Bytes a socket may have under way, and the most that `SO_SNDBUF` doubles
/// (`net.core.wmem_default`, `net.core.wmem_max`; the same for receiving).
pub const BUFFER_DEFAULT: usize = 212_992;
/// The most that the privileged `SO_SNDBUFFORCE` doubles: a bound of what one socket can hold.
pub const BUFFER_FORCED_MAX: usize = 4 << 20;
const SEND_BUFFER_MIN: usize = 4608;
const RECEIVE_BUFFER_MIN: usize = 2304;
/// Highest priority without privilege.
const PRIORITY_MAX: i32 = 6;

/// Options that are on or off and change nothing here but what `getsockopt` says.
const SWITCHES: &[i32] = &[
    so::SO_DEBUG,
    so::SO_REUSEADDR,
    so::SO_REUSEPORT,
    so::SO_DONTROUTE,
    so::SO_BROADCAST,
    so::SO_KEEPALIVE,
    so::SO_OOBINLINE,
    so::SO_NO_CHECK,
];

struct Kept {
    receive_timeout_ns: Option<u64>,
    send_timeout_ns: Option<u64>,
    low_water: i32,
    linger: Linger,
    priority: i32,
    /// One bit for each of [`SWITCHES`].
    switches: u32,
}

/// See the module's text.
pub struct CommonOptions {
    send_buffer: AtomicUsize,
    receive_buffer: AtomicUsize,
    pass_credentials: AtomicBool,
    kept: Mutex<Kept>,
}

impl Default for CommonOptions {
    fn default() -> Self {
        Self {
            send_buffer: AtomicUsize::new(BUFFER_DEFAULT),
            receive_buffer: AtomicUsize::new(BUFFER_DEFAULT),
            pass_credentials: AtomicBool::new(false),
            kept: Mutex::new(Kept {
                receive_timeout_ns: None,
                send_timeout_ns: None,
                low_water: 1,
                linger: Linger::default(),
                priority: 0,
                switches: 0,
            }),
        }
    }
}

/// The value of an option, as bytes; its length where it is shorter than the room for it.
pub enum OptionValue {
    /// Cut off if the room is less.
    Bytes(Vec<u8>),
    /// `ERANGE` if the room is less, with the length needed.
    Whole(Vec<u8>),
}

impl OptionValue {
    /// An `int`.
    pub fn int(value: i32) -> Self {
        Self::Bytes(value.to_ne_bytes().to_vec())
    }

    /// A structure.
    pub fn plain<T: IntoBytes + Immutable>(value: &T) -> Self {
        Self::Bytes(value.as_bytes().to_vec())
    }

    fn size(value: usize) -> Self {
        Self::int(i32::try_from(value).unwrap_or(i32::MAX))
    }
}

/// The `int` that an option's value begins with.
///
/// # Errors
/// `EINVAL`: it is shorter.
pub fn int_of(value: &[u8]) -> SysResult<i32> {
    value.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)).ok_or(EINVAL)
}

fn plain_of<T: FromBytes>(value: &[u8]) -> SysResult<T> {
    T::read_from_prefix(value).map(|(value, _)| value).map_err(|_| EINVAL)
}

fn switch_bit(option: i32) -> Option<u32> {
    let index = SWITCHES.iter().position(|known| *known == option)?;
    u32::try_from(index).ok().map(|index| 1 << index)
}

fn require(credentials: &Credentials, capability: Capability, error: abi::errno::Errno) -> SysResult<()> {
    if has(credentials, capability) { Ok(()) } else { Err(error) }
}

fn buffer_size(value: i32, max: usize, min: usize) -> usize {
    // As Linux does, negative values ask for all there is.
    usize::try_from(value).unwrap_or(max).min(max).saturating_mul(2).max(min)
}

fn forced_size(value: i32, min: usize) -> usize {
    buffer_size(value.max(0), BUFFER_FORCED_MAX, min)
}

impl CommonOptions {
    /// `SO_SNDBUF`
    pub fn send_buffer(&self) -> usize {
        self.send_buffer.load(Ordering::Relaxed)
    }

    /// `SO_RCVBUF`
    pub fn receive_buffer(&self) -> usize {
        self.receive_buffer.load(Ordering::Relaxed)
    }

    /// `SO_PASSCRED`
    pub fn pass_credentials(&self) -> bool {
        self.pass_credentials.load(Ordering::Relaxed)
    }

    /// Sets `SO_PASSCRED` (an accepted socket has it from the listening one).
    pub fn set_pass_credentials(&self, on: bool) {
        self.pass_credentials.store(on, Ordering::Relaxed);
    }

    /// `SO_RCVLOWAT`
    pub fn low_water(&self) -> usize {
        usize::try_from(self.kept.lock().low_water).unwrap_or(1)
    }

    /// `SO_RCVTIMEO`, `SO_SNDTIMEO`
    pub fn timeout_ns(&self, direction: Direction) -> Option<u64> {
        let kept = self.kept.lock();
        match direction {
            Direction::Read => kept.receive_timeout_ns,
            Direction::Write => kept.send_timeout_ns,
        }
    }

    fn set(&self, credentials: &Credentials, option: i32, value: &[u8]) -> SysResult<()> {
        // Linux reads an int first, whatever the option carries.
        let number = int_of(value)?;
        if let Some(bit) = switch_bit(option) {
            if option == so::SO_DEBUG && number != 0 {
                require(credentials, CAP_NET_ADMIN, EACCES)?;
            }
            let mut kept = self.kept.lock();
            kept.switches = if number == 0 { kept.switches & !bit } else { kept.switches | bit };
            return Ok(());
        }
        match option {
            so::SO_SNDBUF => self
                .send_buffer
                .store(buffer_size(number, BUFFER_DEFAULT, SEND_BUFFER_MIN), Ordering::Relaxed),
            so::SO_RCVBUF => self
                .receive_buffer
                .store(buffer_size(number, BUFFER_DEFAULT, RECEIVE_BUFFER_MIN), Ordering::Relaxed),
            so::SO_SNDBUFFORCE => {
                require(credentials, CAP_NET_ADMIN, EPERM)?;
                self.send_buffer.store(forced_size(number, SEND_BUFFER_MIN), Ordering::Relaxed);
            }
            so::SO_RCVBUFFORCE => {
                require(credentials, CAP_NET_ADMIN, EPERM)?;
                self.receive_buffer.store(forced_size(number, RECEIVE_BUFFER_MIN), Ordering::Relaxed);
            }
            so::SO_PASSCRED => self.set_pass_credentials(number != 0),
            so::SO_RCVTIMEO_OLD | so::SO_RCVTIMEO_NEW => {
                self.kept.lock().receive_timeout_ns = plain_of::<Timeval>(value)?.socket_timeout_ns()?;
            }
            so::SO_SNDTIMEO_OLD | so::SO_SNDTIMEO_NEW => {
                self.kept.lock().send_timeout_ns = plain_of::<Timeval>(value)?.socket_timeout_ns()?;
            }
            so::SO_RCVLOWAT => {
                self.kept.lock().low_water = if number < 0 { i32::MAX } else { number.max(1) };
            }
            so::SO_LINGER => self.kept.lock().linger = plain_of(value)?,
            so::SO_PRIORITY => {
                if !(0..=PRIORITY_MAX).contains(&number) {
                    require(credentials, CAP_NET_ADMIN, EPERM)?;
                }
                self.kept.lock().priority = number;
            }
            // Linux has ignored it for long.
            so::SO_BSDCOMPAT => {}
            so::SO_TYPE | so::SO_PROTOCOL | so::SO_DOMAIN | so::SO_ERROR => return Err(ENOPROTOOPT),
            _ => return Err(ENOPROTOOPT),
        }
        Ok(())
    }

    fn get(&self, option: i32) -> SysResult<OptionValue> {
        let kept = self.kept.lock();
        if let Some(bit) = switch_bit(option) {
            return Ok(OptionValue::int((kept.switches & bit != 0).into()));
        }
        let time = |limit: Option<u64>| {
            let ns = limit.and_then(|ns| i64::try_from(ns).ok()).unwrap_or(0);
            Ok(OptionValue::plain(&Timeval::from_ns(ns)))
        };
        match option {
            so::SO_SNDBUF => Ok(OptionValue::size(self.send_buffer())),
            so::SO_RCVBUF => Ok(OptionValue::size(self.receive_buffer())),
            so::SO_PASSCRED => Ok(OptionValue::int(self.pass_credentials().into())),
            so::SO_RCVTIMEO_OLD | so::SO_RCVTIMEO_NEW => time(kept.receive_timeout_ns),
            so::SO_SNDTIMEO_OLD | so::SO_SNDTIMEO_NEW => time(kept.send_timeout_ns),
            so::SO_RCVLOWAT => Ok(OptionValue::int(kept.low_water)),
            so::SO_SNDLOWAT => Ok(OptionValue::int(1)),
            so::SO_LINGER => Ok(OptionValue::plain(&kept.linger)),
            so::SO_PRIORITY => Ok(OptionValue::int(kept.priority)),
            so::SO_BSDCOMPAT => Ok(OptionValue::int(0)),
            _ => Err(ENOPROTOOPT),
        }
    }
}

/// `setsockopt(2)`
///
/// # Errors
/// As documented there.
pub fn set_option(
    socket: &dyn SocketOps,
    task: &Task,
    level: i32,
    option: i32,
    value: &[u8],
) -> SysResult<()> {
    if level == so::SOL_SOCKET {
        match socket.common().set(&task.credentials(), option, value) {
            Err(ENOPROTOOPT) => {}
            result => {
                // A larger buffer lets waiting senders go on.
                socket.queue().wake(crate::wait::PollEvents::WRITABLE);
                return result;
            }
        }
    }
    socket.set_option(task, level, option, value)
}

/// `getsockopt(2)`
///
/// # Errors
/// As documented there.
pub fn option(socket: &dyn SocketOps, level: i32, option: i32) -> SysResult<OptionValue> {
    if level != so::SOL_SOCKET {
        return socket.option(level, option);
    }
    match option {
        so::SO_TYPE => Ok(OptionValue::int(socket.kind().cast_signed())),
        so::SO_DOMAIN => Ok(OptionValue::int(socket.domain().into())),
        so::SO_PROTOCOL => Ok(OptionValue::int(socket.protocol())),
        so::SO_ERROR => Ok(OptionValue::int(socket.take_error().map_or(0, abi::errno::Errno::raw))),
        so::SO_ACCEPTCONN => Ok(OptionValue::int(socket.is_listening().into())),
        so::SO_PEERNAME => socket.peer_name().map(OptionValue::Bytes),
        _ => match socket.common().get(option) {
            Err(ENOPROTOOPT) => socket.option(level, option),
            result => result,
        },
    }
}
