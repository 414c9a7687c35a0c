//! Allow-lists of host system calls as data, to be read and reviewed: a [`Row`] is a call, what must hold of its
//! arguments ([`Condition`]), and who needs it. [`program!`] makes the seccomp program of some lists when the crate that
//! has them is compiled, and [`install`] makes it the calling process's filter; whatever is not listed kills the process
//! (`SECCOMP_RET_KILL_PROCESS`, `man 2 seccomp`).
//!
//! `program.rs` has the compiler, which is made of constant functions; [`RUST_PROGRAM`] has the rows of any threaded Rust
//! program. Neighbours: the gofer's `filter`, the sentry's `lockdown`, the platforms' own lists.
//!
//! A filter sees registers only. Arguments in memory (paths, socket addresses, the flags of `clone3` and `openat2`) are
//! beyond its reach; a row for a call that has some says what holds there instead.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod program;
mod rust_program;

pub use program::{Code, compile};
pub use rust_program::RUST_PROGRAM;
use seccompiler::apply_filter_all_threads;
/// An instruction of the kernel's machine.
pub use seccompiler::sock_filter as Step;

/// Why a list cannot be installed.
pub type Error = seccompiler::Error;

/// One call that is allowed if all conditions hold. Several rows for one call are alternatives, of which one without
/// conditions settles the matter.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub call: i64,
    pub conditions: &'static [Condition],
    pub why: &'static str,
    /// Why no test can depend on the row.
    pub rare: Option<&'static str>,
}

impl Row {
    /// Whether the row allows its call with these arguments.
    pub fn allows(&self, arguments: &[u64; 6]) -> bool {
        self.conditions.iter().all(|condition| condition.holds(arguments))
    }
}

/// What must hold of one argument, of which the kernel reads the lower 32 bits (an `int`) unless [`wide`].
#[derive(Debug, Clone, Copy)]
pub struct Condition {
    argument: u8,
    mask: u64,
    value: u64,
    length: Length,
}

#[derive(Debug, Clone, Copy)]
enum Length {
    Int,
    Long,
}

impl Condition {
    fn holds(&self, arguments: &[u64; 6]) -> bool {
        let mask = match self.length {
            Length::Int => self.mask & u64::from(u32::MAX),
            Length::Long => self.mask,
        };
        arguments.get(usize::from(self.argument)).is_some_and(|value| value & mask == self.value & mask)
    }
}

/// `argument == value`.
pub const fn equal(argument: u8, value: u64) -> Condition {
    Condition { argument, mask: u32::MAX as u64, value, length: Length::Int }
}

/// `argument & mask == value`.
pub const fn masked(argument: u8, mask: u64, value: u64) -> Condition {
    Condition { argument, mask, value, length: Length::Int }
}

/// `argument & mask == value` of a `long`.
pub const fn wide(argument: u8, mask: u64, value: u64) -> Condition {
    Condition { argument, mask, value, length: Length::Long }
}

/// A row.
pub const fn row(call: i64, conditions: &'static [Condition], why: &'static str) -> Row {
    Row { call, conditions, why, rare: None }
}

/// A row that is needed, but only when `reason`.
pub const fn rare(
    call: i64,
    conditions: &'static [Condition],
    why: &'static str,
    reason: &'static str,
) -> Row {
    Row { call, conditions, why, rare: Some(reason) }
}

/// Flags as an argument's bits.
pub const fn bits(flags: i32) -> u64 {
    flags.cast_unsigned() as u64
}

/// The program of some lists (`[&[Row]; N]`, a constant) as a `&'static [Step]`, made when the crate is compiled.
#[macro_export]
macro_rules! program {
    ($lists:expr) => {{
        const CODE: $crate::Code = $crate::compile(&$lists);
        static PROGRAM: [$crate::Step; CODE.length()] = CODE.fitted();
        &PROGRAM
    }};
}

/// `program` with `value` wherever a condition compares with `placeholder`: a number that is known only when the process
/// runs. Nothing else in the lists may be compared with that.
pub fn filled(program: &[Step], placeholder: u32, value: u32) -> Vec<Step> {
    let filled = |step: &Step| match step.code {
        program::IF_EQUAL if step.k == placeholder => Step { k: value, ..step.clone() },
        _ => step.clone(),
    };
    program.iter().map(filled).collect()
}

/// Installs a program in all threads of this process, and so in all that they start. Sets `no_new_privs`.
///
/// # Errors
/// The host's; a thread that has a filter of its own already.
pub fn install(program: &[Step]) -> Result<(), Error> {
    apply_filter_all_threads(program)
}
