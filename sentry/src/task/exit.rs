//! The end of a thread, and of the process whose last thread it is.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::signal_info::SigInfo;
use abi::signals::{SIGCHLD, SIGCONT, SIGHUP, SaFlags, Signal};
use platform::Resume;

use super::{ChildEvent, ExitStatus, Task, TaskState, ThreadGroup};

impl Task {
    /// Ends the thread. `status` is the process's if this is its last thread.
    pub(crate) async fn exit(self: &Arc<Self>, status: ExitStatus) {
        self.release_robust_futexes();
        self.clear_child_tid().await;
        self.finish_vfork();
        self.leave_host();
        let memory = self.memory();
        self.group.peak_resident.fetch_max(memory.writable_bytes(), Ordering::Relaxed);
        memory.leave();
        drop(self.lent_transfer.lock().take());
        self.close_files();
        self.group.timers.forget_task(self.tid());
        let last = self.group.remove_task(self);
        self.kernel.processes.remove_task(self.tid());
        self.set_state(TaskState::Zombie);
        self.group.thread_ended.wake_all();
        if last {
            self.end_process(status);
        } else {
            self.group.hand_on(self);
        }
    }

    /// Lets go of the host thread. A thread that called `exit` while others go on ends natively; in every other case the
    /// whole host process ends with it.
    fn leave_host(&self) {
        let Some(mut context) = self.take_context() else { return };
        let (user_ns, system_ns) = context.cpu_time_ns();
        self.group.add_past_times(user_ns, system_ns);
        if self.exits_natively.load(Ordering::Relaxed)
            && self.group.thread_count() > 1
            && !self.group.is_exiting()
        {
            context.resume(Resume::Native);
        } else if self.group.is_exiting() || self.group.thread_count() == 1 {
            context.kill();
        }
        // Otherwise `execve` of another thread ends this one: the old host process is killed when that thread has moved.
    }

    /// `CLONE_CHILD_CLEARTID`, `set_tid_address`: joins wait for this.
    pub(super) async fn clear_child_tid(&self) {
        let address = self.clear_child_tid.swap(0, Ordering::Relaxed);
        // Only meaningful while somebody else can see the memory.
        if address != 0 && self.memory().users() > 1 && self.write_value(address, &0_i32).is_ok() {
            self.wake_futex(address, 1);
        }
    }

    /// Releases a parent that waits in `vfork`.
    pub(super) fn finish_vfork(&self) {
        let done = self.vfork_done.lock().take();
        if let Some(done) = done {
            done.finish();
        }
    }

    fn close_files(&self) {
        let files = self.replace_files(crate::vfs::FdTable::new());
        // The table's other owners, if any, are other tasks: the last one closes.
        if let Some(files) = Arc::into_inner(files) {
            for file in files.remove_where(|_, _| true) {
                file.ops.flush(self);
            }
        }
    }

    fn end_process(self: &Arc<Self>, status: ExitStatus) {
        let group = &self.group;
        let status = group.become_zombie(status);
        let orphans = group.take_children();
        let heir = group.heir(&self.kernel);
        for child in orphans {
            child.inherit(heir.as_ref(), &self.kernel);
        }
        self.kernel.session_member_ended(group);
        if group.is_init() {
            self.kernel.init_ended(status);
        }
        match group.parent() {
            Some(parent) => {
                let discard = parent.discards_children();
                group.report_to_parent(ChildEvent::Exited(status));
                if discard {
                    group.reap(&self.kernel);
                }
            }
            None => group.reap(&self.kernel),
        }
        self.kernel.processes.ended.wake_all();
    }
}

impl ThreadGroup {
    /// Who gets the children of a process that ends: the nearest subreaper, or init.
    fn heir(self: &Arc<Self>, kernel: &crate::kernel::Kernel) -> Option<Arc<Self>> {
        let mut ancestor = self.parent();
        while let Some(group) = ancestor {
            if group.is_subreaper.load(Ordering::Relaxed) && !group.is_exiting() {
                return Some(group);
            }
            ancestor = group.parent();
        }
        kernel.processes.group(1).filter(|init| !Arc::ptr_eq(init, self))
    }

    /// A child changes hands because its parent ended.
    fn inherit(self: Arc<Self>, heir: Option<&Arc<Self>>, kernel: &crate::kernel::Kernel) {
        for task in self.tasks() {
            let number = task.parent_death_signal.load(Ordering::Relaxed);
            if let Some(signal) = i32::try_from(number).ok().and_then(Signal::new) {
                let _ = self.send_signal(signal, SigInfo::kernel(signal));
            }
        }
        let Some(heir) = heir else {
            if self.zombie_status().is_some() {
                self.reap(kernel);
            }
            return;
        };
        self.set_parent(heir);
        heir.add_child(Arc::clone(&self));
        self.exit_signal.store(SIGCHLD.number(), Ordering::Relaxed);
        if self.signals.is_stopped() && kernel.processes.is_orphaned_group(&self) {
            for member in kernel.processes.members(self.pgid()) {
                let _ = member.send_signal(SIGHUP, SigInfo::kernel(SIGHUP));
                let _ = member.send_signal(SIGCONT, SigInfo::kernel(SIGCONT));
            }
        }
        if let Some(status) = self.zombie_status() {
            let discard = heir.discards_children();
            self.report_to_parent(ChildEvent::Exited(status));
            if discard {
                self.reap(kernel);
            }
        }
    }

    /// Whether ended children vanish without being waited for (`man 2 wait`, NOTES).
    fn discards_children(&self) -> bool {
        let action = self.signals.handlers().get(SIGCHLD);
        action.is_ignore() || action.flags().contains(SaFlags::SA_NOCLDWAIT)
    }

    /// Removes a zombie for good.
    pub(crate) fn reap(self: &Arc<Self>, kernel: &crate::kernel::Kernel) {
        if let Some(parent) = self.parent() {
            parent.remove_child(self);
        }
        kernel.processes.remove_group(self.pid);
    }
}
