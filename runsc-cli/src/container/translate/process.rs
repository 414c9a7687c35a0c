//! OCI's `process` to a [`ProcessSpec`].
//!
//! Key function: [`process`]. Neighbours: `mod.rs` for the first process, `commands/exec.rs` for others.
//! Invariants: there is a program, the working directory is absolute, no string holds a NUL byte.

use std::str::FromStr;

use oci_spec::runtime::{
    Capabilities, LinuxCapabilities, LinuxSchedulerPolicy, PosixRlimitType, Process, Scheduler,
};
use sentry::spec::{CapabilitySets, ProcessSpec, ResourceLimit, WindowSize};

use super::no_nul;
use crate::failure::{Attempt, Failure};

/// `capabilities(7)` in the order of their numbers, without the prefix.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Every capability that Linux has.
pub const ALL_CAPABILITIES: u64 = (1 << CAPABILITIES.len()) - 1;

/// Names of all capabilities as OCI writes them.
pub fn capability_names() -> impl Iterator<Item = String> {
    CAPABILITIES.iter().map(|name| format!("CAP_{name}"))
}

/// The bit of `CAP_CHOWN`, `cap_chown` or `chown`.
pub fn capability_bit(name: &str) -> Result<u64, Failure> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    CAPABILITIES
        .iter()
        .zip(0u32..)
        .find_map(|(known, bit)| (*known == bare).then(|| 1 << bit))
        .ok_or_else(|| Failure::new(format!("unknown capability {name:?}")))
}

/// Judges a process.
pub fn process(process: &Process) -> Result<ProcessSpec, Failure> {
    let args = process.args().clone().unwrap_or_default();
    if args.is_empty() {
        return Err(Failure::new("process.args must not be empty"));
    }
    let env = process.env().clone().unwrap_or_default();
    for text in args.iter().chain(&env) {
        no_nul(text).attempt(|| "process".to_owned())?;
    }
    let cwd = super::text(process.cwd()).attempt(|| "process.cwd".to_owned())?;
    let user = process.user();
    Ok(ProcessSpec {
        args,
        env,
        cwd,
        uid: user.uid(),
        gid: user.gid(),
        additional_gids: user.additional_gids().clone().unwrap_or_default(),
        user: None,
        umask: user.umask().map(|mask| mask & 0o777),
        capabilities: process.capabilities().as_ref().map(capabilities).transpose()?.unwrap_or_default(),
        rlimits: rlimits(process)?,
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        terminal: process.terminal().unwrap_or(false),
        console_size: process.console_size().map(console_size).transpose()?,
        oom_score_adj: oom_score_adj(process)?,
        nice: process.scheduler().as_ref().map(nice).transpose()?.flatten(),
        preserved_fds: 0,
    })
}

fn capabilities(sets: &LinuxCapabilities) -> Result<CapabilitySets, Failure> {
    let bits = |set: &Option<Capabilities>| -> Result<u64, Failure> {
        set.iter()
            .flatten()
            .try_fold(0, |bits, capability| Ok(bits | capability_bit(&capability.to_string())?))
    };
    Ok(CapabilitySets {
        effective: bits(sets.effective())?,
        permitted: bits(sets.permitted())?,
        inheritable: bits(sets.inheritable())?,
        bounding: bits(sets.bounding())?,
        ambient: bits(sets.ambient())?,
    })
}

/// `RLIMIT_*` numbers of `asm-generic/resource.h`.
fn resource_number(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

fn rlimits(process: &Process) -> Result<Vec<ResourceLimit>, Failure> {
    let mut limits: Vec<ResourceLimit> = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let resource = resource_number(limit.typ());
        let (soft, hard) = (limit.soft(), limit.hard());
        if soft > hard {
            return Err(Failure::new(format!("process.rlimits {}: soft exceeds hard", limit.typ())));
        }
        if limits.iter().any(|known| known.resource == resource) {
            return Err(Failure::new(format!("process.rlimits {}: given twice", limit.typ())));
        }
        limits.push(ResourceLimit { resource, soft, hard });
    }
    Ok(limits)
}

fn console_size(size: oci_spec::runtime::Box) -> Result<WindowSize, Failure> {
    let number = |value: u64| {
        u16::try_from(value)
            .map_err(|_| Failure::new(format!("process.consoleSize: {value} is out of range")))
    };
    Ok(WindowSize { rows: number(size.height())?, columns: number(size.width())? })
}

fn oom_score_adj(process: &Process) -> Result<Option<i32>, Failure> {
    match process.oom_score_adj() {
        Some(value) if !(-1000..=1000).contains(&value) => {
            Err(Failure::new(format!("process.oomScoreAdj: {value} is not between -1000 and 1000")))
        }
        value => Ok(value),
    }
}

/// Only time-sharing policies exist in the sandbox.
fn nice(scheduler: &Scheduler) -> Result<Option<i32>, Failure> {
    match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther
        | LinuxSchedulerPolicy::SchedBatch
        | LinuxSchedulerPolicy::SchedIdle => Ok(*scheduler.nice()),
        other => {
            let name = serde_json::to_string(&other)?;
            Err(Failure::new(format!(
                "process.scheduler.policy {name} is not supported: there is no real-time class"
            )))
        }
    }
}

/// `uid[:gid]` or names, as `exec --user` takes them; numbers are used as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserArgument {
    /// Before the colon.
    pub user: String,
    /// After it.
    pub group: Option<String>,
}

impl FromStr for UserArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        if user.is_empty() || group.is_some_and(|group| group.is_empty() || group.contains(':')) {
            return Err(format!("{text:?} is not user[:group]"));
        }
        Ok(Self { user: user.to_owned(), group: group.map(str::to_owned) })
    }
}

impl UserArgument {
    /// Makes the process run as this user.
    pub fn apply(&self, process: &mut ProcessSpec) {
        let number = |text: &str| text.parse::<u32>().ok();
        process.user = None;
        match (number(&self.user), self.group.as_deref().map(number)) {
            (Some(uid), None) => process.uid = uid,
            (Some(uid), Some(Some(gid))) => (process.uid, process.gid) = (uid, gid),
            _ => {
                process.user =
                    Some(sentry::spec::UserLookup { user: self.user.clone(), group: self.group.clone() });
            }
        }
    }
}
