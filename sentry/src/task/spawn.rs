//! `clone`: new threads and processes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::errno::{EINVAL, ENOMEM, SysResult};
use abi::process::CloneFlags;
use abi::signals::{SIGCHLD, SigSet};
use platform::{Context, Spawn, SpawnError, SpawnHere, SpawnKind};

use super::{Pid, Resource, Task, TaskParts, ThreadGroup};
use crate::memory::MemoryManager;
use crate::signals::{SignalHandlers, TaskSignals};
use crate::wait::{CallResult, Failure, PollEvents, Restart, WaitQueue};

/// What `clone3` can ask for, decoded and judged.
#[derive(Clone, Debug)]
pub struct CloneRequest {
    /// `CLONE_*`.
    pub flags: CloneFlags,
    /// Sent to the parent when the process ends; 0: nothing.
    pub exit_signal: i32,
    /// The child's stack pointer; 0: the parent's.
    pub stack: u64,
    /// FS base with `CLONE_SETTLS`.
    pub tls: u64,
    /// Where `CLONE_PARENT_SETTID` stores the ID.
    pub parent_tid: u64,
    /// Where `CLONE_CHILD_SETTID` and `CLONE_CHILD_CLEARTID` store it.
    pub child_tid: u64,
    /// Where `CLONE_PIDFD` stores the descriptor.
    pub pidfd: u64,
}

/// Woken when a vforked child has released its parent.
#[derive(Default)]
pub struct VforkDone {
    done: std::sync::atomic::AtomicBool,
    queue: WaitQueue,
}

impl VforkDone {
    fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    pub(super) fn finish(&self) {
        self.done.store(true, Ordering::Release);
        self.queue.wake_all();
    }
}

impl CloneRequest {
    /// `fork`.
    pub const fn fork() -> Self {
        Self {
            flags: CloneFlags::empty(),
            exit_signal: SIGCHLD.number(),
            stack: 0,
            tls: 0,
            parent_tid: 0,
            child_tid: 0,
            pidfd: 0,
        }
    }

    /// The combinations `man 2 clone` forbids.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn check(&self) -> SysResult<()> {
        let has = |flag| self.flags.contains(flag);
        let needs = |flag, other| !has(flag) || has(other);
        let valid = needs(CloneFlags::CLONE_SIGHAND, CloneFlags::CLONE_VM)
            && needs(CloneFlags::CLONE_THREAD, CloneFlags::CLONE_SIGHAND)
            && !(has(CloneFlags::CLONE_SIGHAND) && has(CloneFlags::CLONE_CLEAR_SIGHAND))
            && !(has(CloneFlags::CLONE_FS) && has(CloneFlags::CLONE_NEWNS))
            && !(has(CloneFlags::CLONE_PIDFD) && has(CloneFlags::CLONE_DETACHED))
            && !(has(CloneFlags::CLONE_PIDFD) && has(CloneFlags::CLONE_THREAD))
            && (self.exit_signal == 0 || abi::signals::Signal::new(self.exit_signal).is_some());
        if valid { Ok(()) } else { Err(EINVAL) }
    }

    fn kind(&self) -> SpawnKind {
        if self.flags.contains(CloneFlags::CLONE_THREAD) {
            SpawnKind::Thread
        } else if self.flags.contains(CloneFlags::CLONE_VM) {
            SpawnKind::SharedSpace
        } else {
            SpawnKind::Copy
        }
    }

    /// What the platform has to know.
    fn here(&self) -> SpawnHere {
        let fs_base = self.flags.contains(CloneFlags::CLONE_SETTLS).then_some(self.tls);
        SpawnHere { kind: self.kind(), stack: self.stack, fs_base }
    }
}

impl Task {
    /// `clone`: makes a thread or process; with `CLONE_VFORK` it returns once the child has let go.
    ///
    /// # Errors
    /// As `man 2 clone`.
    pub async fn clone_task(self: &Arc<Self>, request: &CloneRequest) -> CallResult<Pid> {
        let child = self.spawn(request).await?;
        let tid = child.tid();
        self.store_pidfd(request, &child);
        let vfork = request.flags.contains(CloneFlags::CLONE_VFORK).then(|| child.expect_vfork());
        self.kernel.executor.spawn(child.run_clone());
        if let Some(done) = vfork {
            self.wait_for_vfork(&done).await?;
        }
        Ok(tid)
    }

    /// `clone` of a thread where the platform can make one in the place of the call, for which nobody has to wait: the new thread is a task
    /// already, which begins to run when the host has made it, and the call returns its ID if the host does. `None`: to be made
    /// by [`Task::clone_task`].
    ///
    /// # Errors
    /// As `man 2 clone`.
    pub fn begin_thread(self: &Arc<Self>, request: &CloneRequest) -> Option<SysResult<Pid>> {
        if request.kind() != SpawnKind::Thread || request.flags.contains(CloneFlags::CLONE_VFORK) {
            return None;
        }
        if let Err(error) = request.check() {
            return Some(Err(error));
        }
        let processes = &self.kernel.processes;
        let tid = match processes.allocate(self.credentials().uid, self.process_limit()) {
            Ok(tid) => tid,
            Err(error) => return Some(Err(error)),
        };
        let here = request.here();
        let Some(context) = self.with_context(|context| context.begin_thread(&here)).flatten() else {
            processes.release(tid);
            return None;
        };
        let child = self.make_child(request, tid, context, self.memory());
        self.kernel.executor.spawn(child.run_clone());
        Some(Ok(tid))
    }

    /// Makes the child, without starting it.
    ///
    /// # Errors
    /// As `man 2 clone`.
    pub async fn spawn(self: &Arc<Self>, request: &CloneRequest) -> CallResult<Arc<Self>> {
        request.check()?;
        let tid = self.kernel.processes.allocate(self.credentials().uid, self.process_limit())?;
        let (context, memory) = match self.spawn_context(request).await {
            Ok(made) => made,
            Err(failure) => {
                self.kernel.processes.release(tid);
                return Err(failure);
            }
        };
        Ok(self.make_child(request, tid, context, memory))
    }

    async fn spawn_context(
        &self,
        request: &CloneRequest,
    ) -> CallResult<(Box<dyn Context>, Arc<MemoryManager>)> {
        let here = request.here();
        let memory = self.memory();
        // Nobody may change the map while the host copies what it describes.
        let _gate = memory.gate().enter().await;
        let made = self
            .poll_context(
                |context, wake| context.poll_spawn_here(wake, &here),
                || Some(Err(SpawnError::Died)),
            )
            .await;
        let made = match made {
            Some(made) => made,
            None => self.spawn_captured(&here).await?,
        };
        let context = made.map_err(|error| match error {
            SpawnError::Refused(errno) => errno,
            SpawnError::Died => ENOMEM,
        })?;
        let memory = if here.kind == SpawnKind::Copy { memory.fork() } else { Arc::clone(&memory) };
        Ok((context, memory))
    }

    /// Makes the child by way of the registers, where the platform has no shorter one.
    async fn spawn_captured(&self, here: &SpawnHere) -> CallResult<Result<Box<dyn Context>, SpawnError>> {
        if self.capture().await.is_err() {
            return Err(Failure::Restart(Restart::NoIntr));
        }
        let registers = self.with_context(|context| context.registers().copied()).flatten();
        let mut registers = registers.ok_or(Failure::Restart(Restart::NoIntr))?;
        registers.rax = 0;
        if here.stack != 0 {
            registers.rsp = here.stack;
        }
        let spawn = Spawn { kind: here.kind, registers, fs_base: here.fs_base };
        Ok(self
            .poll_context(|context, wake| context.poll_spawn(wake, &spawn), || Err(SpawnError::Died))
            .await)
    }

    fn make_child(
        self: &Arc<Self>,
        request: &CloneRequest,
        tid: Pid,
        context: Box<dyn Context>,
        memory: Arc<MemoryManager>,
    ) -> Arc<Self> {
        let has = |flag| request.flags.contains(flag);
        let files = if has(CloneFlags::CLONE_FILES) { self.files() } else { self.files().fork() };
        let fs = if has(CloneFlags::CLONE_FS) { self.fs() } else { self.fs().fork() };
        let is_thread = has(CloneFlags::CLONE_THREAD);
        let group = if is_thread { Arc::clone(&self.group) } else { self.make_group(request, tid) };
        let signals = TaskSignals::new(self.signals.mask());
        // A child that has its own stack does not inherit the alternate one of a parent it shares memory with.
        if !has(CloneFlags::CLONE_VM) || has(CloneFlags::CLONE_VFORK) {
            *signals.stack.lock() = *self.signals.stack.lock();
        }
        memory.enter();
        let child = Self::new(
            Arc::clone(&self.kernel),
            TaskParts {
                tid,
                group: Arc::clone(&group),
                context,
                memory,
                files,
                fs,
                credentials: self.credentials(),
                signals,
                name: self.name(),
            },
        );
        *child.affinity.lock() = *self.affinity.lock();
        let fs_base = has(CloneFlags::CLONE_SETTLS).then_some(request.tls);
        *child.settings.lock() = self.settings.lock().for_child(fs_base);
        if !is_thread {
            let parent = if has(CloneFlags::CLONE_PARENT) {
                self.group.parent()
            } else {
                Some(Arc::clone(&self.group))
            };
            if let Some(parent) = parent {
                self.kernel.processes.adopt(&group, &parent);
            }
            group.set_pgid(self.group.pgid());
            group.set_sid(self.group.sid());
            group.set_controlling_terminal(self.group.controlling_terminal());
        }
        self.kernel.processes.insert(&child);
        self.store_numbers(request, &child);
        // A signal for the whole process that arrived meanwhile must reach the new thread too.
        if is_thread && (self.group.is_exiting() || self.must_exit.lock().is_some()) {
            child.end_with(super::ExitStatus::Exited(0));
        }
        child
    }

    fn make_group(&self, request: &CloneRequest, pid: Pid) -> Arc<ThreadGroup> {
        let old = self.group.signals.handlers();
        let handlers = if request.flags.contains(CloneFlags::CLONE_SIGHAND) {
            old
        } else if request.flags.contains(CloneFlags::CLONE_CLEAR_SIGHAND) {
            old.for_exec()
        } else {
            SignalHandlers::fork(&old)
        };
        let exit_signal = if request.flags.contains(CloneFlags::CLONE_PARENT) {
            self.group.exit_signal.load(Ordering::Relaxed)
        } else {
            request.exit_signal
        };
        let group = ThreadGroup::new(pid, handlers, self.group.limits.fork(), exit_signal);
        group.oom_score_adj.store(self.group.oom_score_adj.load(Ordering::Relaxed), Ordering::Relaxed);
        group.nice.store(self.group.nice.load(Ordering::Relaxed), Ordering::Relaxed);
        group.dumpable.store(self.group.dumpable.load(Ordering::Relaxed), Ordering::Relaxed);
        group
    }

    /// `CLONE_PIDFD`. As with the numbers, the child exists already: what cannot be stored is not an error any more.
    fn store_pidfd(&self, request: &CloneRequest, child: &Self) {
        if !request.flags.contains(CloneFlags::CLONE_PIDFD) {
            return;
        }
        let file = crate::fs::pidfd::new_pidfd(Arc::clone(&child.group), 0, &self.credentials());
        let limit = self.group.limits.soft(Resource::OpenFiles);
        if let Ok(fd) = self.files().install_from(0, file, crate::vfs::FdFlags::CLOEXEC, limit)
            && self.write_value(request.pidfd, &fd).is_err()
        {
            drop(self.files().remove(fd));
        }
    }

    /// Stores the new ID where the flags want it. As on Linux, a bad address is not an error.
    fn store_numbers(&self, request: &CloneRequest, child: &Self) {
        let tid = child.tid();
        if request.flags.contains(CloneFlags::CLONE_PARENT_SETTID) {
            let _ = self.write_value(request.parent_tid, &tid);
        }
        if request.flags.contains(CloneFlags::CLONE_CHILD_SETTID) {
            // A thread may not be there yet, but its memory is.
            let writer = if request.kind() == SpawnKind::Thread { self } else { child };
            let _ = writer.write_value(request.child_tid, &tid);
        }
        if request.flags.contains(CloneFlags::CLONE_CHILD_CLEARTID) {
            child.clear_child_tid.store(request.child_tid, Ordering::Relaxed);
        }
    }

    /// `RLIMIT_NPROC` counts all tasks of the real user; privileged ones are exempt.
    fn process_limit(&self) -> Option<u64> {
        let credentials = self.credentials();
        let limit = self.group.limits.soft(Resource::Processes);
        let exempt = limit == u64::MAX
            || credentials.uid == 0
            || credentials.has(CAP_SYS_RESOURCE)
            || credentials.has(CAP_SYS_ADMIN);
        (!exempt).then_some(limit)
    }

    /// Waits until the child has called `execve` or ended. Only death ends the wait before.
    async fn wait_for_vfork(&self, done: &VforkDone) -> CallResult<()> {
        done.queue
            .until(PollEvents::IN, || (done.is_done() || self.must_exit.lock().is_some()).then_some(()))
            .await;
        Ok(())
    }
}

const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;

/// The mask of a process that the outside starts.
pub const INITIAL_MASK: SigSet = SigSet::EMPTY;
