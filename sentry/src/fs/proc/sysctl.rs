//! `/proc/sys` (`man 5 proc_sys`): one table of names and values, seen as a tree.
//!
//! A value of the container's configuration (`linux.sysctl`) replaces or adds a line. An application may set what
//! takes effect, the names of the machine; everything else is read-only whoever asks.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use abi::capabilities::CAP_SYS_ADMIN;
use abi::errno::{EACCES, EINVAL, ENOENT, EPERM, SysResult};

use super::Facts;
use crate::fs::generated::{Body, Directory, Listed, Node, Owner, Place, Reader, Text};
use crate::fs::inotify;
use crate::fs::mqueue::QueueLimit;
use crate::fs::pipe;
use crate::memory::REGIONS_MAX;
use crate::task::TASKS_MAX;
use crate::uts;
use crate::vfs::{FD_LIMIT_MAX, FileKind, MOUNTS_MAX, OpenRequest, has};

/// Where a value comes from.
#[derive(Clone, Copy)]
enum Value {
    /// It is what it is.
    Fixed(&'static str),
    /// Known to the kernel.
    Asked(fn(&Facts) -> String),
    /// Known to the kernel, and to be set with `CAP_SYS_ADMIN`.
    Settable(fn(&Facts) -> String, fn(&Facts, &[u8]) -> SysResult<()>),
}

use Value::{Asked, Fixed, Settable};

/// A limit of message queues, read and set where the queues are.
macro_rules! queue_limit {
    ($limit:ident) => {
        Settable(
            |facts| queues(facts, QueueLimit::$limit),
            |facts, text| set_queues(facts, QueueLimit::$limit, text),
        )
    };
}

/// Names without `/proc/sys/`, and their values. Those of network protocols are what a fresh network namespace has.
static TABLE: &[(&str, Value)] = &[
    ("fs/aio-max-nr", Fixed("65536")),
    ("fs/aio-nr", Fixed("0")),
    ("fs/epoll/max_user_watches", Fixed("65536")),
    ("fs/file-max", Fixed("9223372036854775807")),
    ("fs/file-nr", Asked(|facts| format!("{}\t0\t{}", open_files(facts), i64::MAX))),
    ("fs/inotify/max_queued_events", Asked(|_| inotify::QUEUE_MAX.to_string())),
    ("fs/inotify/max_user_instances", Asked(|_| inotify::INSTANCES_MAX.to_string())),
    ("fs/inotify/max_user_watches", Asked(|_| inotify::WATCHES_MAX.to_string())),
    ("fs/lease-break-time", Fixed("45")),
    ("fs/leases-enable", Fixed("0")),
    ("fs/mount-max", Asked(|_| MOUNTS_MAX.to_string())),
    ("fs/mqueue/msg_default", queue_limit!(MsgDefault)),
    ("fs/mqueue/msg_max", queue_limit!(MsgMax)),
    ("fs/mqueue/msgsize_default", queue_limit!(MsgsizeDefault)),
    ("fs/mqueue/msgsize_max", queue_limit!(MsgsizeMax)),
    ("fs/mqueue/queues_max", queue_limit!(QueuesMax)),
    ("fs/nr_open", Asked(|_| FD_LIMIT_MAX.to_string())),
    ("fs/overflowgid", Fixed("65534")),
    ("fs/overflowuid", Fixed("65534")),
    ("fs/pipe-max-size", Asked(|_| pipe::CAPACITY_MAX.to_string())),
    ("fs/pipe-user-pages-hard", Fixed("0")),
    ("fs/pipe-user-pages-soft", Fixed("0")),
    ("fs/protected_fifos", Fixed("0")),
    ("fs/protected_hardlinks", Fixed("1")),
    ("fs/protected_regular", Fixed("0")),
    ("fs/protected_symlinks", Fixed("1")),
    ("fs/suid_dumpable", Fixed("0")),
    ("kernel/cap_last_cap", Asked(|_| abi::capabilities::CAP_LAST_CAP.number().to_string())),
    ("kernel/core_pattern", Fixed("core")),
    ("kernel/core_uses_pid", Fixed("0")),
    ("kernel/dmesg_restrict", Fixed("1")),
    ("kernel/domainname", Settable(|facts| name(facts.kernel.uts.domainname()), set_domainname)),
    ("kernel/hostname", Settable(|facts| name(facts.kernel.uts.hostname()), set_hostname)),
    ("kernel/io_uring_disabled", Fixed("2")),
    ("kernel/kptr_restrict", Fixed("1")),
    ("kernel/msgmax", Fixed("8192")),
    ("kernel/msgmnb", Fixed("16384")),
    ("kernel/msgmni", Fixed("32000")),
    ("kernel/ngroups_max", Fixed("65536")),
    ("kernel/ns_last_pid", Asked(|facts| facts.kernel.processes.statistics().1.to_string())),
    ("kernel/numa_balancing", Fixed("0")),
    ("kernel/osrelease", Fixed(uts::RELEASE)),
    ("kernel/ostype", Fixed(uts::SYSTEM_NAME)),
    ("kernel/overflowgid", Fixed("65534")),
    ("kernel/overflowuid", Fixed("65534")),
    ("kernel/panic", Fixed("0")),
    ("kernel/pid_max", Fixed("4194304")),
    ("kernel/printk", Fixed("4\t4\t1\t7")),
    ("kernel/pty/max", Fixed("4096")),
    ("kernel/random/boot_id", Asked(|facts| facts.boot_id.clone())),
    ("kernel/random/entropy_avail", Fixed("256")),
    ("kernel/random/poolsize", Fixed("256")),
    ("kernel/random/uuid", Asked(|_| random_uuid())),
    ("kernel/randomize_va_space", Fixed("2")),
    ("kernel/sched_autogroup_enabled", Fixed("0")),
    ("kernel/sched_rr_timeslice_ms", Fixed("100")),
    ("kernel/sched_rt_period_us", Fixed("1000000")),
    ("kernel/sched_rt_runtime_us", Fixed("950000")),
    ("kernel/sem", Fixed("32000\t1024000000\t500\t32000")),
    ("kernel/shm_rmid_forced", Fixed("0")),
    ("kernel/shmall", Fixed("18446744073692774399")),
    ("kernel/shmmax", Fixed("18446744073692774399")),
    ("kernel/shmmni", Fixed("4096")),
    ("kernel/tainted", Fixed("0")),
    ("kernel/threads-max", Asked(|_| TASKS_MAX.to_string())),
    ("kernel/unprivileged_bpf_disabled", Fixed("2")),
    ("kernel/version", Fixed(uts::VERSION)),
    ("kernel/yama/ptrace_scope", Fixed("0")),
    ("net/core/netdev_max_backlog", Fixed("1000")),
    ("net/core/optmem_max", Fixed("131072")),
    ("net/core/rmem_default", Fixed("212992")),
    ("net/core/rmem_max", Fixed("212992")),
    ("net/core/somaxconn", Fixed("4096")),
    ("net/core/wmem_default", Fixed("212992")),
    ("net/core/wmem_max", Fixed("212992")),
    ("net/ipv4/ip_default_ttl", Fixed("64")),
    ("net/ipv4/ip_forward", Fixed("0")),
    ("net/ipv4/ip_local_port_range", Fixed("32768\t60999")),
    ("net/ipv4/ip_nonlocal_bind", Fixed("0")),
    ("net/ipv4/ip_unprivileged_port_start", Fixed("1024")),
    ("net/ipv4/ping_group_range", Fixed("1\t0")),
    ("net/ipv4/tcp_fin_timeout", Fixed("60")),
    ("net/ipv4/tcp_keepalive_intvl", Fixed("75")),
    ("net/ipv4/tcp_keepalive_probes", Fixed("9")),
    ("net/ipv4/tcp_keepalive_time", Fixed("7200")),
    ("net/ipv4/tcp_rmem", Fixed("4096\t131072\t6291456")),
    ("net/ipv4/tcp_sack", Fixed("1")),
    ("net/ipv4/tcp_timestamps", Fixed("1")),
    ("net/ipv4/tcp_window_scaling", Fixed("1")),
    ("net/ipv4/tcp_wmem", Fixed("4096\t16384\t4194304")),
    ("net/unix/max_dgram_qlen", Fixed("512")),
    ("user/max_cgroup_namespaces", Fixed("0")),
    ("user/max_ipc_namespaces", Fixed("0")),
    ("user/max_mnt_namespaces", Fixed("0")),
    ("user/max_net_namespaces", Fixed("0")),
    ("user/max_pid_namespaces", Fixed("0")),
    ("user/max_time_namespaces", Fixed("0")),
    ("user/max_user_namespaces", Fixed("0")),
    ("user/max_uts_namespaces", Fixed("0")),
    ("vm/admin_reserve_kbytes", Fixed("8192")),
    ("vm/dirty_background_ratio", Fixed("10")),
    ("vm/dirty_expire_centisecs", Fixed("3000")),
    ("vm/dirty_ratio", Fixed("20")),
    ("vm/dirty_writeback_centisecs", Fixed("500")),
    ("vm/legacy_va_layout", Fixed("0")),
    ("vm/max_map_count", Asked(|_| REGIONS_MAX.to_string())),
    ("vm/min_free_kbytes", Fixed("0")),
    ("vm/mmap_min_addr", Asked(|facts| facts.kernel.platform.layout().min_address.to_string())),
    ("vm/mmap_rnd_bits", Fixed("28")),
    ("vm/nr_hugepages", Fixed("0")),
    ("vm/nr_overcommit_hugepages", Fixed("0")),
    ("vm/oom_kill_allocating_task", Fixed("0")),
    ("vm/overcommit_kbytes", Fixed("0")),
    ("vm/overcommit_memory", Fixed("0")),
    ("vm/overcommit_ratio", Fixed("50")),
    ("vm/page-cluster", Fixed("3")),
    ("vm/panic_on_oom", Fixed("0")),
    ("vm/swappiness", Fixed("60")),
    ("vm/unprivileged_userfaultfd", Fixed("0")),
    ("vm/user_reserve_kbytes", Fixed("131072")),
    ("vm/vfs_cache_pressure", Fixed("100")),
    ("vm/zone_reclaim_mode", Fixed("0")),
];

fn name(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One line, without its newline.
fn line(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| matches!(byte, 0 | b'\n')).unwrap_or(bytes.len());
    bytes.get(..end).unwrap_or_default()
}

fn set_hostname(facts: &Facts, bytes: &[u8]) -> SysResult<()> {
    facts.kernel.uts.set_hostname(line(bytes));
    Ok(())
}

fn set_domainname(facts: &Facts, bytes: &[u8]) -> SysResult<()> {
    facts.kernel.uts.set_domainname(line(bytes));
    Ok(())
}

/// A limit of message queues.
fn queues(facts: &Facts, limit: QueueLimit) -> String {
    facts.kernel.message_queues.accounts().limit(limit).to_string()
}

fn set_queues(facts: &Facts, limit: QueueLimit, bytes: &[u8]) -> SysResult<()> {
    let text = std::str::from_utf8(line(bytes)).map_err(|_| EINVAL)?;
    facts.kernel.message_queues.accounts().set_limit(limit, text)
}

/// Open file descriptors of all processes.
fn open_files(facts: &Facts) -> usize {
    let groups = facts.kernel.processes.groups();
    groups.iter().filter_map(|group| group.leader()).map(|task| task.files().list().len()).sum()
}

/// A version 4 UUID.
pub(super) fn random_uuid() -> String {
    let mut bytes = [0; 16];
    // The host's generator does not fail once the system is up; all zeroes would be visible, not wrong.
    let _ = crate::random::fill(&mut bytes);
    let bits = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0b11 << 62) | 4 << 76 | 0b10 << 62;
    let digits = format!("{bits:032x}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if matches!(index, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(digit);
    }
    text
}

/// What a name below a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    File,
    Directory,
}

/// All names of the tree: those of the table and those the configuration adds. Dots separate the configuration's.
fn names(facts: &Facts) -> impl Iterator<Item = String> {
    let configured = facts.sysctl.keys().map(|key| path_of_key(key));
    TABLE.iter().map(|(name, _)| (*name).to_owned()).chain(configured)
}

/// `net.core.somaxconn` as `net/core/somaxconn`. As in `man 8 sysctl`, a name with slashes has its dots as they are.
fn path_of_key(key: &str) -> String {
    if key.contains('/') { key.to_owned() } else { key.replace('.', "/") }
}

/// Names directly below `prefix` (which is empty or ends with a slash).
fn children(names: impl Iterator<Item = String>, prefix: &str) -> BTreeMap<String, Found> {
    let mut found = BTreeMap::new();
    for name in names {
        let Some(rest) = name.strip_prefix(prefix) else { continue };
        match rest.split_once('/') {
            Some((directory, _)) if !directory.is_empty() => {
                found.insert(directory.to_owned(), Found::Directory);
            }
            None if !rest.is_empty() => {
                found.entry(rest.to_owned()).or_insert(Found::File);
            }
            _ => {}
        }
    }
    found
}

struct SysctlDirectory {
    facts: Arc<Facts>,
    prefix: String,
}

/// `/proc/sys`
pub(super) fn directory(facts: &Arc<Facts>) -> Box<dyn Directory> {
    Box::new(SysctlDirectory { facts: Arc::clone(facts), prefix: String::new() })
}

impl Directory for SysctlDirectory {
    fn lookup(&self, name: &[u8], at: &Place) -> SysResult<Arc<Node>> {
        let name = std::str::from_utf8(name).map_err(|_| ENOENT)?;
        let found = children(names(&self.facts), &self.prefix).get(name).copied().ok_or(ENOENT)?;
        let path = format!("{}{name}", self.prefix);
        let facts = Arc::clone(&self.facts);
        let (permissions, body) = match found {
            Found::Directory => {
                (0o555, Body::Directory(Box::new(Self { facts, prefix: format!("{path}/") })))
            }
            Found::File => {
                let file = SysctlFile::new(facts, &path);
                (if file.is_settable() { 0o644 } else { 0o444 }, Body::Text(Box::new(file)))
            }
        };
        Ok(Node::new(&at.child(name.as_bytes()), permissions, Owner::Root, body))
    }

    fn is_lasting(&self, name: &[u8]) -> bool {
        std::str::from_utf8(name)
            .is_ok_and(|name| children(names(&self.facts), &self.prefix).contains_key(name))
    }

    fn list(&self, from: u64) -> SysResult<Vec<Listed>> {
        let found = children(names(&self.facts), &self.prefix);
        let kind = |found| match found {
            Found::File => FileKind::Regular,
            Found::Directory => FileKind::Directory,
        };
        let entries = (2..).zip(found).filter(|(position, _)| *position >= from);
        Ok(entries
            .map(|(position, (name, found))| Listed::new(name.into_bytes(), kind(found), position))
            .collect())
    }
}

struct SysctlFile {
    facts: Arc<Facts>,
    /// What the configuration says.
    configured: Option<String>,
    /// What the table says.
    value: Option<Value>,
}

impl SysctlFile {
    fn new(facts: Arc<Facts>, path: &str) -> Self {
        let configured = facts.sysctl.iter().find(|(key, _)| path_of_key(key) == path);
        let configured = configured.map(|(_, value)| value.clone());
        let value = TABLE.iter().find(|(name, _)| *name == path).map(|(_, value)| *value);
        Self { facts, configured, value }
    }

    const fn is_settable(&self) -> bool {
        matches!(self.value, Some(Settable(..)))
    }
}

impl Text for SysctlFile {
    fn check_open(&self, request: OpenRequest, _reader: &Reader) -> SysResult<()> {
        // As on Linux, no capability overrides the permissions of these files.
        if request.write && !self.is_settable() { Err(EACCES) } else { Ok(()) }
    }

    fn read(&self, _reader: &Reader) -> SysResult<Vec<u8>> {
        let mut text = match (&self.configured, self.value) {
            // Names of the machine are set at the start, and may have been changed since.
            (_, Some(Settable(show, _))) => show(&self.facts),
            (Some(value), _) => value.clone(),
            (None, Some(Fixed(value))) => value.to_owned(),
            (None, Some(Asked(show))) => show(&self.facts),
            (None, None) => return Err(ENOENT),
        };
        let _ = writeln!(text);
        Ok(text.into_bytes())
    }

    fn write(&self, offset: u64, bytes: &[u8], reader: &Reader) -> SysResult<()> {
        let Some(Settable(_, set)) = self.value else { return Err(EACCES) };
        if !has(&reader.credentials, CAP_SYS_ADMIN) {
            return Err(EPERM);
        }
        if offset != 0 {
            return Err(EINVAL);
        }
        set(&self.facts, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_paths_is_a_tree() {
        let paths = ["fs/nr_open", "kernel/hostname", "kernel/pty/max", "kernel/pty/nr"];
        let names = || paths.iter().map(|name| (*name).to_owned());
        let top: Vec<_> = children(names(), "").into_iter().collect();
        assert_eq!(top, [("fs".into(), Found::Directory), ("kernel".into(), Found::Directory)]);
        let kernel: Vec<_> = children(names(), "kernel/").into_iter().collect();
        assert_eq!(kernel, [("hostname".into(), Found::File), ("pty".into(), Found::Directory)]);
        assert!(children(names(), "kern/").is_empty());
    }

    #[test]
    fn the_table_is_in_order_and_names_no_file_as_a_directory() {
        let names: Vec<&str> = TABLE.iter().map(|(name, _)| *name).collect();
        assert!(names.is_sorted(), "keep the table sorted");
        for name in &names {
            let below = format!("{name}/");
            assert!(!names.iter().any(|other| other.starts_with(&below)), "{name}");
        }
    }

    #[test]
    fn keys_of_a_configuration_are_paths() {
        assert_eq!(path_of_key("net.core.somaxconn"), "net/core/somaxconn");
        assert_eq!(path_of_key("net/ipv4/conf/eth0.1/rp_filter"), "net/ipv4/conf/eth0.1/rp_filter");
    }

    #[test]
    fn uuids_differ_and_say_their_version() {
        let (first, second) = (random_uuid(), random_uuid());
        assert_ne!(first, second);
        assert_eq!(first.len(), 36);
        assert_eq!(first.as_bytes()[14], b'4');
        assert!(matches!(first.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
    }
}
