//! The table: what each system call number leads to, and how well it is supported.
//!
//! Every family file lists its calls beside their bodies ([`call!`]); here they become one array.
//! Dispatch, `--strace` and `runsc syscalls` all read it. Registers are decoded to the types in a
//! body's own signature ([`FromRegister`]); decoding cannot fail, judging is the body's business.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::errno::{ENOSYS, Errno, SysResult};
use parking_lot::Mutex;
use platform::{Architecture, SyscallRequest};
use sentry::kernel::SyscallTable;
use sentry::task::{Reply, Task};
use sentry::wait::{CallResult, Failure};

/// How well a call is supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// As on Linux.
    Full,
    /// As on Linux but for what the text says.
    Partial(&'static str),
    /// Always fails, with the error and for the reason given.
    Refused(Errno, &'static str),
}

/// A call's body, behind its decoded registers.
pub type Handler = for<'a> fn(&'a Arc<Task>, &[u64; 6]) -> Reply<'a>;

/// One line of the table.
#[derive(Clone, Copy)]
pub struct Entry {
    /// System call number.
    pub number: usize,
    /// Its body.
    pub handler: Handler,
    /// How well it is supported.
    pub support: Support,
}

/// Numbers the table has room for.
pub const NUMBERS: usize = 512;

/// What a body may return.
pub trait IntoReply<'a> {
    /// As the run loop wants it.
    fn into_reply(self) -> Reply<'a>;
}

/// A successful result as it goes into `rax`.
pub trait IntoRegister {
    /// The register's value.
    fn into_register(self) -> u64;
}

impl IntoRegister for () {
    fn into_register(self) -> u64 {
        0
    }
}

impl IntoRegister for u64 {
    fn into_register(self) -> u64 {
        self
    }
}

impl IntoRegister for usize {
    fn into_register(self) -> u64 {
        self as u64
    }
}

impl IntoRegister for u32 {
    fn into_register(self) -> u64 {
        self.into()
    }
}

impl IntoRegister for i32 {
    fn into_register(self) -> u64 {
        i64::from(self).cast_unsigned()
    }
}

impl IntoRegister for i64 {
    fn into_register(self) -> u64 {
        self.cast_unsigned()
    }
}

impl<'a, T: IntoRegister> IntoReply<'a> for SysResult<T> {
    fn into_reply(self) -> Reply<'a> {
        Reply::Now(self.map(T::into_register).map_err(Failure::from))
    }
}

impl<'a, T: IntoRegister> IntoReply<'a> for CallResult<T> {
    fn into_reply(self) -> Reply<'a> {
        Reply::Now(self.map(T::into_register))
    }
}

impl<'a> IntoReply<'a> for Reply<'a> {
    fn into_reply(self) -> Self {
        self
    }
}

/// One line of a family's table: `call!(NUMBER, body, kind arity, support)`. The kind is `now` for an ordinary
/// function (which may return a [`Reply`] to go on later) and `wait` for an `async` one.
macro_rules! call {
    ($number:ident, $body:path, $kind:ident $arity:tt, $support:expr) => {
        $crate::table::Entry {
            number: abi::nr::$number,
            handler: {
                fn handler<'a>(
                    task: &'a std::sync::Arc<sentry::task::Task>,
                    registers: &[u64; 6],
                ) -> sentry::task::Reply<'a> {
                    let _ = registers;
                    $crate::table::call!(@$kind $crate::table::call!(@apply $arity $body, task, registers))
                }
                handler
            },
            support: $support,
        }
    };
    (@now $result:expr) => { $crate::table::IntoReply::into_reply($result) };
    (@wait $future:expr) => {{
        let future = $future;
        sentry::task::Reply::Later(Box::pin(async move { $crate::table::IntoReply::into_reply(future.await) }))
    }};
    (@apply 0 $body:path, $task:ident, $r:ident) => { $body($task) };
    (@apply 1 $body:path, $task:ident, $r:ident) => { $body($task, $crate::table::call!(@arg $r 0)) };
    (@apply 2 $body:path, $task:ident, $r:ident) => {
        $body($task, $crate::table::call!(@arg $r 0), $crate::table::call!(@arg $r 1))
    };
    (@apply 3 $body:path, $task:ident, $r:ident) => {
        $body($task, $crate::table::call!(@arg $r 0), $crate::table::call!(@arg $r 1), $crate::table::call!(@arg $r 2))
    };
    (@apply 4 $body:path, $task:ident, $r:ident) => {
        $body(
            $task,
            $crate::table::call!(@arg $r 0),
            $crate::table::call!(@arg $r 1),
            $crate::table::call!(@arg $r 2),
            $crate::table::call!(@arg $r 3),
        )
    };
    (@apply 5 $body:path, $task:ident, $r:ident) => {
        $body(
            $task,
            $crate::table::call!(@arg $r 0),
            $crate::table::call!(@arg $r 1),
            $crate::table::call!(@arg $r 2),
            $crate::table::call!(@arg $r 3),
            $crate::table::call!(@arg $r 4),
        )
    };
    (@apply 6 $body:path, $task:ident, $r:ident) => {
        $body(
            $task,
            $crate::table::call!(@arg $r 0),
            $crate::table::call!(@arg $r 1),
            $crate::table::call!(@arg $r 2),
            $crate::table::call!(@arg $r 3),
            $crate::table::call!(@arg $r 4),
            $crate::table::call!(@arg $r 5),
        )
    };
    (@arg $r:ident $index:literal) => { abi::user::FromRegister::from_register($r[$index]) };
}
pub(crate) use call;

/// The families, each listing its calls beside their bodies.
const FAMILIES: &[&[Entry]] = &[
    crate::clocks::CALLS,
    crate::clone_exec_exit::CALLS,
    crate::credentials::CALLS,
    crate::descriptor_files::CALLS,
    crate::descriptors::CALLS,
    crate::directories::CALLS,
    crate::file_copies::CALLS,
    crate::futex::CALLS,
    crate::identity::CALLS,
    crate::limits::CALLS,
    crate::locks::CALLS,
    crate::memory_map::CALLS,
    crate::message_queues::CALLS,
    crate::metadata::CALLS,
    crate::mounts::CALLS,
    crate::open_close::CALLS,
    crate::other_processes::CALLS,
    crate::poll_epoll::CALLS,
    crate::prctl::CALLS,
    crate::random::CALLS,
    crate::read_write::CALLS,
    crate::registers::CALLS,
    crate::restart::CALLS,
    crate::scheduling::CALLS,
    crate::signals::CALLS,
    crate::sockets::CALLS,
    crate::sockets_messages::CALLS,
    crate::sockets_options::CALLS,
    crate::splice::CALLS,
    crate::system::CALLS,
    crate::timers::CALLS,
    crate::wait::CALLS,
    crate::xattrs::CALLS,
];

const fn assemble() -> [Option<Entry>; NUMBERS] {
    let mut table = [None; NUMBERS];
    let mut family = 0;
    while family < FAMILIES.len() {
        let mut line = 0;
        while line < FAMILIES[family].len() {
            let entry = FAMILIES[family][line];
            assert!(table[entry.number].is_none(), "two families list the same call");
            table[entry.number] = Some(entry);
            line += 1;
        }
        family += 1;
    }
    table
}

/// All calls by number.
pub static X86_64: [Option<Entry>; NUMBERS] = assemble();

/// The calls as the kernel takes them, with their counts.
pub struct Calls {
    /// How often each implemented call was made, in several places by the number of the thread that made it: one
    /// place for all would wander between processors, at a higher cost than most calls have.
    counts: [[AtomicU64; NUMBERS]; COUNTERS],
    /// Numbers that are not implemented, and how often each was asked for; bounded by [`UNKNOWN_MAX`].
    unknown: Mutex<BTreeMap<u64, u64>>,
    /// Options of implemented calls that are not implemented; bounded by [`OPTIONS_MAX`].
    options: Mutex<BTreeMap<OptionKey, u64>>,
}

/// Places where calls are counted.
const COUNTERS: usize = 8;

/// A call and one of its options, by name.
type OptionKey = (&'static str, Cow<'static, str>);

/// What applications have asked for so far ([`Calls::counts`]).
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Implemented calls that were made.
    pub made: Vec<(&'static str, u64)>,
    /// Numbers that are not implemented.
    pub unknown: Vec<(u64, u64)>,
    /// Options that are not implemented, of calls that are.
    pub options: Vec<(&'static str, Cow<'static, str>, u64)>,
}

/// Different options that are counted one by one.
const OPTIONS_MAX: usize = 512;

/// Different unknown numbers that are counted one by one.
const UNKNOWN_MAX: usize = 1024;

/// What [`sentry::kernel::Kernel`] is handed at boot.
pub static TABLE: Calls = Calls {
    counts: [const { [const { AtomicU64::new(0) }; NUMBERS] }; COUNTERS],
    unknown: Mutex::new(BTreeMap::new()),
    options: Mutex::new(BTreeMap::new()),
};

/// Counts an option that an implemented call does not have, and logs it the first time.
pub fn unimplemented_option(
    task: &Task,
    call: &'static str,
    option: impl Into<Cow<'static, str>>,
    arguments: &[u64],
) {
    TABLE.count_option(task, call, option.into(), arguments);
}

/// An option's name from its family, or its number.
pub fn option_name(names: abi::define::Names, value: i64) -> Cow<'static, str> {
    abi::define::name_in(names, value).map_or_else(|| format!("{value:#x}").into(), Cow::Borrowed)
}

impl SyscallTable for Calls {
    fn call<'a>(&self, task: &'a Arc<Task>, request: &SyscallRequest) -> Reply<'a> {
        let index = usize::try_from(request.number).unwrap_or(usize::MAX);
        if request.architecture == Architecture::X86_64
            && let Some(Some(entry)) = X86_64.get(index)
        {
            let place = usize::try_from(task.tid()).unwrap_or(0) % COUNTERS;
            self.counts[place][index].fetch_add(1, Ordering::Relaxed);
            return (entry.handler)(task, &request.arguments);
        }
        self.count_unknown(task, request);
        Reply::Now(Err(Failure::Error(ENOSYS)))
    }
}

impl Calls {
    /// Counts a call that is not implemented, and logs it the first time.
    fn count_unknown(&self, task: &Task, request: &SyscallRequest) {
        let mut unknown = self.unknown.lock();
        if unknown.len() >= UNKNOWN_MAX && !unknown.contains_key(&request.number) {
            return;
        }
        let count = unknown.entry(request.number).or_default();
        *count += 1;
        let first = *count == 1;
        drop(unknown);
        if first {
            let name = usize::try_from(request.number).ok().and_then(abi::numbers::name).unwrap_or("?");
            tracing::warn!(
                target: "unimplemented",
                number = request.number,
                name,
                arguments = ?request.arguments,
                entry = ?request.architecture,
                pid = task.pid(),
                "system call not implemented"
            );
        }
    }

    fn count_option(&self, task: &Task, call: &'static str, option: Cow<'static, str>, arguments: &[u64]) {
        let mut options = self.options.lock();
        let key = (call, option);
        if options.len() >= OPTIONS_MAX && !options.contains_key(&key) {
            return;
        }
        let option = key.1.clone();
        let count = options.entry(key).or_default();
        *count += 1;
        let first = *count == 1;
        drop(options);
        if first {
            tracing::warn!(
                target: "unimplemented",
                call,
                %option,
                ?arguments,
                pid = task.pid(),
                "option of a system call not implemented"
            );
        }
    }

    /// Counts by name: what was made, and what was asked for in vain.
    pub fn counts(&self) -> Counts {
        let made = X86_64.iter().flatten().filter_map(|entry| {
            let count: u64 =
                self.counts.iter().map(|place| place[entry.number].load(Ordering::Relaxed)).sum();
            (count != 0).then(|| (abi::numbers::name(entry.number).unwrap_or("?"), count))
        });
        Counts {
            made: made.collect(),
            unknown: self.unknown.lock().iter().map(|(number, count)| (*number, *count)).collect(),
            options: self
                .options
                .lock()
                .iter()
                .map(|((call, option), count)| (*call, option.clone(), *count))
                .collect(),
        }
    }
}
