//! Allow-lists of host system calls as data, to be read and reviewed: a [`Row`] is a call, what must hold of its
//! arguments ([`Condition`]), and who needs it. [`install`] makes a list the calling process's seccomp filter; whatever
//! is not on it kills the process (`SECCOMP_RET_KILL_PROCESS`, `man 2 seccomp`).
//!
//! [`rust_program`] has the rows of any threaded Rust program. Neighbours: the gofer's `filter`, the sentry's
//! `lockdown`.
//!
//! A filter sees registers only. Arguments in memory (paths, socket addresses, the flags of `clone3` and `openat2`) are
//! beyond its reach; a row for a call that has some says what holds there instead.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod rust_program;

use std::collections::BTreeMap;

pub use rust_program::rust_program;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

/// Why a list cannot be installed.
pub type Error = seccompiler::Error;

/// One call that is allowed if all conditions hold. Several rows for one call are alternatives, of which one without
/// conditions settles the matter.
#[derive(Debug, Clone)]
pub struct Row {
    pub call: i64,
    pub conditions: Vec<Condition>,
    pub why: &'static str,
    /// Why no test can depend on the row.
    pub rare: Option<&'static str>,
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
pub fn row(call: i64, conditions: &[Condition], why: &'static str) -> Row {
    Row { call, conditions: conditions.to_vec(), why, rare: None }
}

/// A row that is needed, but only when `reason`.
pub fn rare(call: i64, conditions: &[Condition], why: &'static str, reason: &'static str) -> Row {
    Row { call, conditions: conditions.to_vec(), why, rare: Some(reason) }
}

/// Flags as an argument's bits.
pub const fn bits(flags: i32) -> u64 {
    flags.cast_unsigned() as u64
}

/// Installs the list in all threads of this process, and so in all that they start. Sets `no_new_privs`.
///
/// # Errors
/// The host's; a thread that has a filter of its own already.
pub fn install(rows: &[Row]) -> Result<(), Error> {
    for program in compile(rows)? {
        apply_filter_all_threads(&program)?;
    }
    Ok(())
}

/// Two programs. The first answers `clone3` with `ENOSYS`: its flags are in memory, so that glibc must be made to use
/// `clone`, whose flags a filter can judge. The second is the list. The kernel takes the stricter answer.
fn compile(rows: &[Row]) -> Result<[BpfProgram; 2], Error> {
    let no_clone3 = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.cast_unsigned()),
        TargetArch::x86_64,
    )?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for row in rows {
        let conditions = row.conditions.iter().map(Condition::compile).collect::<Result<_, _>>()?;
        if !row.conditions.is_empty() {
            rules.entry(row.call).or_default().push(SeccompRule::new(conditions)?);
        }
    }
    // No rules at all mean any arguments.
    rules.extend(rows.iter().filter(|row| row.conditions.is_empty()).map(|row| (row.call, Vec::new())));
    let list =
        SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?;
    Ok([no_clone3.try_into()?, list.try_into()?])
}

impl Condition {
    fn compile(&self) -> Result<SeccompCondition, seccompiler::BackendError> {
        let (length, mask) = match self.length {
            Length::Int => (SeccompCmpArgLen::Dword, self.mask & u64::from(u32::MAX)),
            Length::Long => (SeccompCmpArgLen::Qword, self.mask),
        };
        SeccompCondition::new(self.argument, length, SeccompCmpOp::MaskedEq(mask), self.value)
    }
}
