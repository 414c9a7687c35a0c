//! All processes and threads, by number; process groups and sessions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use abi::errno::{EAGAIN, SysResult};
use parking_lot::Mutex;

use super::{Pid, Task, ThreadGroup};
use crate::wait::WaitQueue;

/// Threads of the whole sandbox at most, whatever the limits of the container say.
pub const TASKS_MAX: usize = 32_768;

/// First number not given to ordinary processes twice; as on Linux, low numbers are not reused.
const REUSE_FROM: Pid = 300;
/// `kernel.pid_max`.
const PID_MAX: Pid = 4_194_304;

#[derive(Default)]
struct Numbers {
    tasks: BTreeMap<Pid, Arc<Task>>,
    groups: BTreeMap<Pid, Arc<ThreadGroup>>,
    /// Reserved by `allocate`, not in `tasks` yet, and for which user.
    reserved: BTreeMap<Pid, u32>,
    last: Pid,
}

impl Numbers {
    /// Threads of a user: those under way, and zombies too, which count until they are waited for.
    fn of_user(&self, uid: u32) -> u64 {
        let made = self.tasks.values().filter(|task| task.credentials().uid == uid).count();
        let under_way = self.reserved.values().filter(|owner| **owner == uid).count();
        let is_zombie = |pid: &Pid| !self.tasks.contains_key(pid);
        let zombies = self
            .groups
            .iter()
            .filter(|(pid, group)| is_zombie(pid) && group.last_uid.load(Ordering::Relaxed) == uid)
            .count();
        (made + under_way + zombies) as u64
    }
}

/// See the module's text.
#[derive(Default)]
pub struct ProcessTable {
    numbers: Mutex<Numbers>,
    /// Told when a process ends.
    pub ended: WaitQueue,
    limit: AtomicUsize,
    created: AtomicUsize,
}

impl ProcessTable {
    /// An empty table for at most `limit` tasks.
    pub fn new(limit: usize) -> Self {
        Self { limit: AtomicUsize::new(limit.min(TASKS_MAX)), ..Self::default() }
    }

    /// Reserves a number for a new thread of the user, who may have `user_limit` of them (`RLIMIT_NPROC`). Counted and
    /// reserved in one step, or a fork bomb on several workers would get past the limit.
    ///
    /// # Errors
    /// `EAGAIN`: there are too many.
    pub fn allocate(&self, uid: u32, user_limit: Option<u64>) -> SysResult<Pid> {
        let mut numbers = self.numbers.lock();
        if numbers.tasks.len()
            + numbers.groups.len().saturating_sub(numbers.tasks.len())
            + numbers.reserved.len()
            >= self.limit.load(Ordering::Relaxed)
        {
            return Err(EAGAIN);
        }
        if user_limit.is_some_and(|limit| numbers.of_user(uid) >= limit) {
            return Err(EAGAIN);
        }
        let mut pid = numbers.last;
        loop {
            pid = if pid >= PID_MAX { REUSE_FROM } else { pid + 1 };
            let in_use = numbers.tasks.contains_key(&pid)
                || numbers.reserved.contains_key(&pid)
                || numbers.groups.contains_key(&pid)
                || numbers
                    .groups
                    .values()
                    .any(|group| pid < numbers.last && (group.pgid() == pid || group.sid() == pid));
            if !in_use {
                break;
            }
        }
        numbers.last = pid;
        numbers.reserved.insert(pid, uid);
        self.created.fetch_add(1, Ordering::Relaxed);
        Ok(pid)
    }

    /// Gives back a number that was not used after all.
    pub fn release(&self, number: Pid) {
        self.numbers.lock().reserved.remove(&number);
    }

    /// Adds a task whose number was allocated; its group too if the task is its first.
    pub fn insert(&self, task: &Arc<Task>) {
        task.group.add_task(Arc::clone(task));
        let mut numbers = self.numbers.lock();
        numbers.reserved.remove(&task.tid());
        numbers.tasks.insert(task.tid(), Arc::clone(task));
        if task.tid() == task.group.pid {
            numbers.groups.insert(task.group.pid, Arc::clone(&task.group));
        }
    }

    /// Links a new process below its parent, into the parent's group and session.
    pub fn adopt(&self, child: &Arc<ThreadGroup>, parent: &Arc<ThreadGroup>) {
        child.set_parent(parent);
        child.set_pgid(parent.pgid());
        child.set_sid(parent.sid());
        parent.add_child(Arc::clone(child));
    }

    /// Removes a thread.
    pub(crate) fn remove_task(&self, tid: Pid) {
        let removed = self.numbers.lock().tasks.remove(&tid);
        drop(removed);
    }

    /// `execve` of another thread than the first: once the others are gone it takes over the process's number.
    pub(crate) fn take_over_number(&self, task: &Arc<Task>) {
        let mut numbers = self.numbers.lock();
        let removed = numbers.tasks.remove(&task.tid());
        task.set_tid(task.group.pid);
        numbers.tasks.insert(task.group.pid, Arc::clone(task));
        drop(numbers);
        drop(removed);
    }

    /// Removes a process that nobody waits for any more.
    pub(crate) fn remove_group(&self, pid: Pid) {
        let removed = self.numbers.lock().groups.remove(&pid);
        if let Some(group) = &removed {
            group.reaped.store(true, Ordering::Relaxed);
        }
        drop(removed);
    }

    /// A thread.
    pub fn task(&self, tid: Pid) -> Option<Arc<Task>> {
        self.numbers.lock().tasks.get(&tid).cloned()
    }

    /// A process, zombies included.
    pub fn group(&self, pid: Pid) -> Option<Arc<ThreadGroup>> {
        self.numbers.lock().groups.get(&pid).cloned()
    }

    /// All processes by number, zombies included.
    pub fn groups(&self) -> Vec<Arc<ThreadGroup>> {
        self.numbers.lock().groups.values().cloned().collect()
    }

    /// All threads by number.
    pub fn tasks(&self) -> Vec<Arc<Task>> {
        self.numbers.lock().tasks.values().cloned().collect()
    }

    /// The members of a process group.
    pub fn members(&self, pgid: Pid) -> Vec<Arc<ThreadGroup>> {
        self.groups().into_iter().filter(|group| group.pgid() == pgid).collect()
    }

    /// Tasks made since the start (`/proc/stat`, `processes`), and the last number given (`/proc/loadavg`).
    pub fn statistics(&self) -> (usize, Pid) {
        (self.created.load(Ordering::Relaxed), self.numbers.lock().last)
    }

    /// Whether a process group is orphaned: no member has a parent in another group of the same session.
    pub fn is_orphaned_group(&self, of: &ThreadGroup) -> bool {
        let (pgid, sid) = (of.pgid(), of.sid());
        !self.members(pgid).iter().any(|member| {
            member.zombie_status().is_none()
                && member.parent().is_some_and(|parent| parent.pgid() != pgid && parent.sid() == sid)
        })
    }
}
