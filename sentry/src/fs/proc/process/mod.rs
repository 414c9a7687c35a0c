//! `/proc/PID` and `/proc/PID/task/TID` (`man 5 proc_pid`).
//!
//! * [`Subject`]: the process or thread that a directory tells of.
//! * `stat.rs`, `status.rs`, `limits.rs`, `settings.rs`: what it is. `memory.rs`, `maps.rs`: what it has in memory.
//!   `descriptors.rs`, `links.rs`, `mounts.rs`: what it has of files. `threads.rs`: its threads.
//!
//! What a program may learn of another one is judged as `ptrace` does ([`Subject::check_access`]).

mod descriptors;
mod limits;
mod links;
mod maps;
mod mem;
pub(super) mod memory;
mod mounts;
mod namespaces;
mod settings;
mod stat;
mod status;
mod threads;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::capabilities::CAP_SYS_PTRACE;
use abi::errno::{EACCES, ENOENT, ESRCH, SysResult};

use super::{Facts, net};
use crate::fs::generated::{
    Body, Context, Entry, Node, Owner, OwnerOf, Place, Reader, Table, directory, link, text, writable,
};
use crate::task::{Credentials, Pid, Task, ThreadGroup};
use crate::vfs::has;

/// Whether a directory tells of a whole process or of one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Process,
    Thread(Pid),
}

/// A process, or a thread of it.
#[derive(Clone)]
pub struct Subject {
    facts: Arc<Facts>,
    group: Arc<ThreadGroup>,
    view: View,
    /// The number it was looked up by: the process's, or one of its threads'.
    asked: Pid,
}

impl Subject {
    /// The process with a number. As on Linux the number of any thread will do, and shows its whole process.
    pub(super) fn find(facts: &Arc<Facts>, pid: Pid) -> Option<Self> {
        let processes = &facts.kernel.processes;
        let by_thread = || processes.task(pid).map(|task| Arc::clone(&task.group));
        let group = processes.group(pid).or_else(by_thread)?;
        Some(Self { facts: Arc::clone(facts), group, view: View::Process, asked: pid })
    }

    /// A thread of the same process.
    fn thread(&self, tid: Pid) -> Option<Self> {
        let found = Self { view: View::Thread(tid), ..self.clone() };
        found.task().ok().map(|_| found)
    }

    /// The thread, or the one that stands for the process.
    ///
    /// # Errors
    /// `ESRCH`: it has ended.
    fn task(&self) -> SysResult<Arc<Task>> {
        match self.view {
            View::Process => self.group.leader().ok_or(ESRCH),
            View::Thread(tid) => self.group.tasks().into_iter().find(|task| task.tid() == tid).ok_or(ESRCH),
        }
    }

    /// Its number.
    fn number(&self) -> Pid {
        match self.view {
            View::Process => self.asked,
            View::Thread(tid) => tid,
        }
    }

    /// The very thread whose number was asked for; `None` if it has ended (a first thread before the others).
    fn own_task(&self) -> Option<Arc<Task>> {
        let number = self.number();
        self.group.tasks().into_iter().find(|task| task.tid() == number)
    }

    /// `comm` and credentials, also of a zombie.
    ///
    /// # Errors
    /// `ESRCH`: nothing is left of it.
    fn identity(&self) -> SysResult<(Vec<u8>, Arc<Credentials>)> {
        if let View::Thread(_) = self.view {
            let task = self.task()?;
            return Ok((task.name(), task.credentials()));
        }
        let processes = &self.facts.kernel.processes;
        let known = processes.group(self.group.pid).is_some_and(|group| Arc::ptr_eq(&group, &self.group));
        if !known && self.group.thread_count() == 0 {
            return Err(ESRCH);
        }
        self.group.name_and_credentials().ok_or(ESRCH)
    }

    /// `ptrace_may_access` in its read form, with file-system IDs (`man 2 ptrace`, "Ptrace access mode checking").
    ///
    /// # Errors
    /// `EACCES`; `ESRCH`: it has ended.
    fn check_access(&self, credentials: &Credentials, group: &Arc<ThreadGroup>) -> SysResult<()> {
        let (_, target) = self.identity()?;
        let dumpable = self.group.dumpable.load(Ordering::Relaxed);
        let same = Arc::ptr_eq(group, &self.group);
        if same || may_access(credentials, &target, dumpable) { Ok(()) } else { Err(EACCES) }
    }

    fn is_accessible(&self, reader: &Reader) -> bool {
        self.check_access(&reader.credentials, &reader.group).is_ok()
    }
}

/// Whether a program with `reader`'s credentials may look into one with `target`'s.
fn may_access(reader: &Credentials, target: &Credentials, dumpable: bool) -> bool {
    let same_user = [target.uid, target.euid, target.suid].iter().all(|uid| *uid == reader.fsuid)
        && [target.gid, target.egid, target.sgid].iter().all(|gid| *gid == reader.fsgid);
    let no_more_capable = target.permitted & !reader.effective == 0;
    same_user && dumpable && no_more_capable || has(reader, CAP_SYS_PTRACE)
}

impl OwnerOf for Subject {
    /// The effective IDs, or root's if the process must not be looked into (`man 5 proc_pid`).
    fn owner(&self) -> (u32, u32) {
        match self.identity() {
            Ok((_, credentials)) if self.group.dumpable.load(Ordering::Relaxed) => {
                (credentials.euid, credentials.egid)
            }
            _ => (0, 0),
        }
    }
}

impl Context for Subject {
    fn owner(&self) -> Owner {
        Owner::Asked(Arc::new(self.clone()))
    }

    fn check_exists(&self) -> SysResult<()> {
        self.identity().map(drop).map_err(|_| ENOENT)
    }

    fn check_open(&self, reader: &Reader) -> SysResult<()> {
        self.check_access(&reader.credentials, &reader.group)
    }
}

/// What a process's and a thread's directory have in common.
macro_rules! with_common {
    ($($more:expr),* $(,)?) => {
        [
            $($more,)*
            text("auxv", 0o400, memory::auxv).guarded(),
            text("cgroup", 0o444, settings::cgroup),
            text("cmdline", 0o444, memory::cmdline),
            writable("comm", 0o644, settings::comm, settings::set_comm),
            link("cwd", links::cwd),
            text("cpuset", 0o444, settings::cpuset),
            text("environ", 0o400, memory::environ).guarded(),
            link("exe", links::exe),
            directory("fd", 0o500, descriptors::fd),
            directory("fdinfo", 0o555, descriptors::fdinfo),
            text("gid_map", 0o444, settings::gid_map),
            text("limits", 0o444, limits::limits),
            text("loginuid", 0o444, settings::unset_id),
            text("maps", 0o444, maps::maps).guarded(),
            Entry::special("mem", 0o600, mem::body),
            text("mountinfo", 0o444, mounts::mountinfo),
            text("mounts", 0o444, mounts::mounts),
            text("mountstats", 0o400, mounts::mountstats).guarded(),
            directory("net", 0o555, |subject: &Subject| net::directory(&subject.facts)),
            directory("ns", 0o511, namespaces::directory),
            text("oom_score", 0o444, settings::oom_score),
            writable("oom_score_adj", 0o644, settings::oom_score_adj, settings::set_oom_score_adj),
            text("personality", 0o400, settings::personality).guarded(),
            link("root", links::root),
            text("sessionid", 0o444, settings::unset_id),
            text("setgroups", 0o444, settings::setgroups),
            text("stat", 0o444, stat::stat),
            text("statm", 0o444, memory::statm),
            text("status", 0o444, status::status),
            writable("timerslack_ns", 0o666, settings::timer_slack, settings::set_timer_slack).guarded(),
            text("uid_map", 0o444, settings::uid_map),
            text("wchan", 0o444, settings::wchan),
        ]
    };
}

static PROCESS: [Entry<Subject>; 33] = with_common![directory("task", 0o555, threads::threads)];

static THREAD: [Entry<Subject>; 33] = with_common![text("children", 0o444, threads::children)];

/// The directory of a process.
pub(super) fn directory_of(subject: Subject, at: &Place) -> Arc<Node> {
    let entries: &'static [Entry<Subject>] = match subject.view {
        View::Process => &PROCESS,
        View::Thread(_) => &THREAD,
    };
    let owner = subject.owner_of_nodes();
    Node::new(at, 0o555, owner, Body::Directory(Box::new(Table::new(subject, entries))))
}

impl Subject {
    fn owner_of_nodes(&self) -> Owner {
        Context::owner(self)
    }
}

/// Text with control characters as `\ooo` (`seq_escape`).
fn escape(text: &[u8], escaped: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(text.len());
    for byte in text {
        if escaped.contains(byte) {
            result.extend_from_slice(format!("\\{byte:03o}").as_bytes());
        } else {
            result.push(*byte);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_user_or_a_tracer_looks_into_a_process() {
        let (user, other) = (Credentials::new(1000, 1000), Credentials::new(1001, 1001));
        assert!(may_access(&user, &user, true));
        assert!(!may_access(&user, &user, false), "not dumpable");
        assert!(!may_access(&other, &user, true));
        let tracer = Credentials { effective: 1 << 19, ..Credentials::new(0, 0) };
        assert!(may_access(&tracer, &user, false));
        let capable = Credentials { permitted: 1 << 12, ..user.clone() };
        assert!(!may_access(&user, &capable, true), "more capable than the reader");
        let changed = Credentials { suid: 0, ..user.clone() };
        assert!(!may_access(&user, &changed, true), "has another saved user");
    }

    #[test]
    fn escapes_are_three_octal_digits() {
        assert_eq!(escape(b"a b\n", b" \n"), b"a\\040b\\012");
    }
}
