//! What the kernel boots: plain data, neutral of OCI, that the command line writes and `runsc boot` reads.
//!
//! Key types: [`SandboxSpec`] (the machine), [`ContainerSpec`] (one file-system view and its first process),
//! [`ProcessSpec`] (one process; also what `exec` sends over the control socket).
//! Neighbours: `runsc-cli/src/container/translate.rs` makes these from a `config.json`; the kernel's boot consumes them.
//! Invariants: every path in here is a path *inside* the container; host paths never appear, a host tree is named by its
//! index in the gofer's list. Numbers are already parsed and in range for their Linux meaning; strings that stand for
//! paths and arguments hold no NUL byte (the command line refuses them).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything the kernel is told before it runs the first instruction of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// How application code is run and trapped.
    pub platform: PlatformName,
    /// `uname -n`; empty means the kernel's default.
    pub hostname: String,
    /// `domainname`; empty means Linux's `(none)`.
    pub domainname: String,
    /// What the sandbox's network namespace holds.
    pub network: NetworkMode,
    /// `None`: no tracing of calls.
    pub strace: Option<StraceOptions>,
    /// Host-imposed limits, so that the kernel can size itself and report them (`/proc/meminfo`, `sysinfo(2)`).
    pub limits: SandboxLimits,
    /// `linux.sysctl`: dotted names (`net.core.somaxconn`) and their values.
    pub sysctl: BTreeMap<String, String>,
    /// Which Unix sockets of the host the gofer may reach for the container.
    pub host_uds: HostUds,
    /// `linux.timeOffsets` in nanoseconds.
    pub time_offsets: TimeOffsets,
    /// What the container's user ids are on the host, as `/proc/PID/uid_map` shows it; empty: not mapped.
    #[serde(default)]
    pub uid_mappings: Vec<IdRange>,
    /// The same for groups.
    #[serde(default)]
    pub gid_mappings: Vec<IdRange>,
    /// The first container.
    pub container: ContainerSpec,
}

/// A line of `/proc/PID/uid_map`, `user_namespaces(7)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// A platform by name. `systrap` is an alias that the command line resolves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlatformName {
    /// Seccomp user notification (the default).
    Seccomp(Accelerator),
    /// `ptrace(2)`: the portable fallback.
    Ptrace,
}

/// The parts of the platform `seccomp` that make calls cheaper than a trap; each can be switched off for measurement and
/// diagnosis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accelerator {
    /// Patch system-call sites that trap often. The others do nothing without it.
    pub patch: bool,
    /// Patch a site when it first traps: slower for most programs, and a test of the patching.
    pub eager: bool,
    /// Look out for requests while a processor is left over.
    pub spin: bool,
    /// Let small input and output travel with the call.
    pub carry: bool,
    /// Answer calls that report known facts without a trap.
    pub local: bool,
}

impl Default for Accelerator {
    fn default() -> Self {
        Self { patch: true, eager: false, spin: true, carry: true, local: true }
    }
}

/// `--network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Loopback only.
    None,
    /// The sentry's own stack over the interfaces of the namespace the sandbox was given.
    Sandbox,
    /// Sockets of the host.
    Host,
}

/// `--strace*`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StraceOptions {
    /// Only these calls, by name; empty means all.
    pub calls: Vec<String>,
    /// How many bytes of a buffer are printed.
    pub log_size: u32,
}

/// Limits that the host puts on the whole sandbox; `None` where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxLimits {
    /// Memory of sentry, gofer and application together, in bytes (`linux.resources.memory.limit`).
    pub memory_bytes: Option<u64>,
    /// Tasks (`linux.resources.pids.limit`); the kernel counts application tasks against it.
    pub tasks: Option<u64>,
    /// CPU time in thousandths of a CPU (`linux.resources.cpu.quota / period`).
    pub cpu_millis: Option<u64>,
}

/// `--host-uds`: gVisor's spelling.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostUds {
    /// None of the host's sockets.
    #[default]
    None,
    /// The container may connect to sockets that it finds in its trees.
    Open,
    /// It may bind sockets in its trees.
    Create,
    /// Both.
    All,
}

/// `linux.timeOffsets` (`time_namespaces(7)`), in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeOffsets {
    /// Added to `CLOCK_MONOTONIC`.
    pub monotonic_ns: i64,
    /// Added to `CLOCK_BOOTTIME`.
    pub boottime_ns: i64,
}

/// One container: its view of files and its first process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The container's id, already validated.
    pub id: String,
    /// What `/` is.
    pub root: RootMount,
    /// Mounted on top of the root in this order.
    pub mounts: Vec<MountSpec>,
    /// Nodes to make in `/dev` besides the ones every container has.
    pub devices: Vec<DeviceNode>,
    /// Paths to hide: a directory is covered with an empty read-only directory, a file with `/dev/null`.
    pub masked_paths: Vec<String>,
    /// Paths to make read-only.
    pub readonly_paths: Vec<String>,
    /// The first process.
    pub process: ProcessSpec,
    /// What signals do to it.
    #[serde(default)]
    pub first_process: FirstProcess,
}

/// What signals without a handler do to a container's first process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirstProcess {
    /// Nothing but SIGKILL and SIGSTOP from outside: it is init of its pid namespace (`pid_namespaces(7)`).
    #[default]
    Init,
    /// What they do to any other: it stands for a command that somebody has typed (`runsc do`), who expects Ctrl-C and
    /// `timeout(1)` to work.
    Ordinary,
}

/// The container's root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootMount {
    /// Index in the gofer's list of trees.
    pub gofer_tree: u32,
    /// The container sees the root read-only (`root.readonly`).
    pub readonly: bool,
    /// A writable in-memory upper layer lies over the tree, so that the host's files never change.
    pub overlay: bool,
}

/// One mount of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Absolute path in the container; made if it is missing.
    pub destination: String,
    /// What is mounted.
    pub fs: MountKind,
    /// Flags of `mount(2)`.
    pub flags: MountFlags,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum MountKind {
    /// A host file or directory, through the gofer.
    Gofer {
        /// Index in the gofer's list of trees.
        tree: u32,
        /// The tree is a single file (or socket, or device), not a directory.
        is_file: bool,
        /// A writable in-memory upper layer lies over it (`--overlay2=all:memory`).
        overlay: bool,
    },
    /// `tmpfs(5)`.
    Tmpfs(TmpfsOptions),
    /// `proc(5)`.
    Proc,
    /// `sysfs(5)`.
    Sysfs,
    /// `/dev`: a tmpfs that the kernel fills with the standard nodes (null zero full random urandom tty, fd links).
    Dev(TmpfsOptions),
    /// `devpts`, `pts(4)`.
    Devpts {
        /// Mode of new terminals.
        mode: u32,
        /// Mode of `ptmx`.
        ptmx_mode: u32,
        /// Group of new terminals.
        gid: Option<u32>,
    },
    /// `mq_overview(7)`.
    Mqueue,
    /// The container's view of its cgroups, `cgroups(7)`.
    Cgroup,
}

/// Options of a tmpfs, `tmpfs(5)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TmpfsOptions {
    /// `size=` in bytes.
    pub size_bytes: Option<u64>,
    /// `nr_inodes=`.
    pub inodes: Option<u64>,
    /// `mode=` of the root directory.
    pub mode: u32,
    /// `uid=`.
    pub uid: u32,
    /// `gid=`.
    pub gid: u32,
    /// Begin with a copy of what the root file system has at the destination (`tmpcopyup`).
    pub copy_up: bool,
}

impl Default for TmpfsOptions {
    fn default() -> Self {
        Self { size_bytes: None, inodes: None, mode: 0o1777, uid: 0, gid: 0, copy_up: false }
    }
}

/// Flags of `mount(2)` that mean something inside the sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountFlags {
    /// `ro`.
    pub readonly: bool,
    /// `nosuid`.
    pub nosuid: bool,
    /// `nodev`.
    pub nodev: bool,
    /// `noexec`.
    pub noexec: bool,
    /// How access times are kept.
    pub atime: AccessTimes,
    /// `nodiratime`.
    pub nodiratime: bool,
    /// `sync`.
    pub sync: bool,
    /// `nosymfollow`.
    pub nosymfollow: bool,
}

/// `relatime`, `noatime`, `strictatime` of `mount(8)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessTimes {
    /// Linux's default.
    #[default]
    Relative,
    /// Never.
    Never,
    /// Always.
    Strict,
}

/// A device node, `mknod(2)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Absolute path in the container.
    pub path: String,
    /// Character, block or FIFO.
    pub kind: DeviceKind,
    /// Major number (0 for a FIFO).
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What kind of node a [`DeviceNode`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// `c` or `u`.
    Char,
    /// `b`.
    Block,
    /// `p`.
    Fifo,
}

/// A process to start: the container's first one, or one that `exec` adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// The program and its arguments; never empty. A program without a slash is looked up in the `PATH` of `env`.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Absolute path; made if missing (as runc does).
    pub cwd: String,
    /// Real, effective and saved user id.
    pub uid: u32,
    /// Real, effective and saved group id.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
    /// When set, it overrides `uid` (and, unless `group` is given, `gid` and the groups): a name or a number that the
    /// kernel looks up in the container's `/etc/passwd` and `/etc/group`, as `docker exec --user` does. `HOME` is set
    /// from it unless `env` has it.
    pub user: Option<UserLookup>,
    /// File mode creation mask; Linux's default 022 when `None`.
    pub umask: Option<u32>,
    /// The five sets of `capabilities(7)`.
    pub capabilities: CapabilitySets,
    /// `prlimit(2)` values; the kernel's defaults where absent.
    pub rlimits: Vec<ResourceLimit>,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: bool,
    /// The standard descriptors are a terminal, which becomes the controlling one.
    pub terminal: bool,
    /// Its first size.
    pub console_size: Option<WindowSize>,
    /// `/proc/self/oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// `SCHED_*`, `nice`: what `process.scheduler` said, if it did.
    pub nice: Option<i32>,
    /// How many descriptors from 3 upwards are handed to the process (`--preserve-fds`, `LISTEN_FDS`).
    pub preserved_fds: u32,
}

/// A user (and group) to be found in the container's own files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserLookup {
    /// Name or number.
    pub user: String,
    /// Name or number, after a colon.
    pub group: Option<String>,
}

/// Bit *n* is capability number *n*.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilitySets {
    /// Effective.
    pub effective: u64,
    /// Permitted.
    pub permitted: u64,
    /// Inheritable.
    pub inheritable: u64,
    /// Bounding.
    pub bounding: u64,
    /// Ambient.
    pub ambient: u64,
}

/// One `RLIMIT_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimit {
    /// Linux's number (`RLIMIT_CPU` is 0).
    pub resource: u32,
    /// `u64::MAX` is infinity.
    pub soft: u64,
    /// `u64::MAX` is infinity.
    pub hard: u64,
}

/// `struct winsize` without the pixels, `TIOCGWINSZ(2const)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}
