//! The life of a task: its future.
//!
//! 1. At a *trap boundary* the task obeys what others want of it: exit, stop, signals.
//! 2. It resumes the application and waits for the next trap.
//! 3. A system call is handed to the table; its result is kept for step 2, or, if it was
//!    interrupted, for the decision in step 1 whether it begins again.
//! 4. A fault becomes a signal. Death on the host side is a `SIGKILL` that nobody sent.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as WakeContext, Poll};

use abi::signal_info::SigInfo;
use abi::signals::{SIGKILL, Signal};
use abi::user::UserAddress;
use platform::{Context, Died, Fault, Resume, Substitute, SyscallRequest, Trap};

use super::patience::Patience;
use super::{ExitStatus, Task};
use crate::signals::{Delivered, FaultDetails, Interrupted, finish_call};
use crate::strace::Strace;
use crate::wait::{CallResult, Failure, Restart};

/// The rest of a system call that has to wait.
pub type Waiting<'a> = Pin<Box<dyn Future<Output = Reply<'a>> + Send + 'a>>;

/// What a system call's handler gives back to the run loop.
pub enum Reply<'a> {
    /// It is done.
    Now(CallResult<u64>),
    /// It may have to wait.
    Later(Waiting<'a>),
    /// The host carries it out as it stands ([`Resume::Native`]).
    Native,
    /// The host changes memory in its place ([`Resume::Substitute`]), and the call returns this.
    Substitute(Substitute, u64),
    /// The thread that was announced is made in its place ([`Resume::Spawn`]), and the call returns this.
    Spawn(u64),
    /// The registers have been set up (`execve`, `rt_sigreturn`): nothing is returned.
    Registers,
}

impl From<CallResult<u64>> for Reply<'_> {
    fn from(result: CallResult<u64>) -> Self {
        Self::Now(result)
    }
}

/// How the last trap ended.
enum Outcome {
    Return(u64),
    Native,
    Substitute(Substitute, u64),
    Spawn(u64),
    Registers,
    /// Interrupted; the number of the call.
    Restart(Restart, u64),
}

impl Outcome {
    /// What a reply to call `number` leads to, or what has to be awaited for another.
    fn of(reply: Reply<'_>, number: u64) -> Result<Self, Waiting<'_>> {
        Ok(match reply {
            Reply::Now(Ok(value)) => Self::Return(value),
            Reply::Now(Err(Failure::Error(errno))) => Self::Return(errno.to_return_value()),
            Reply::Now(Err(Failure::Restart(restart))) => Self::Restart(restart, number),
            Reply::Native => Self::Native,
            Reply::Substitute(operation, result) => Self::Substitute(operation, result),
            Reply::Spawn(result) => Self::Spawn(result),
            Reply::Registers => Self::Registers,
            Reply::Later(future) => return Err(future),
        })
    }

    /// How the application goes on; `None`: that is still to be decided.
    const fn resume(&self) -> Option<Resume> {
        match *self {
            Self::Return(value) => Some(Resume::Return(value)),
            Self::Native => Some(Resume::Native),
            Self::Substitute(operation, result) => Some(Resume::Substitute { operation, result }),
            Self::Spawn(result) => Some(Resume::Spawn(result)),
            Self::Registers => Some(Resume::Registers),
            Self::Restart(..) => None,
        }
    }
}

impl Task {
    /// Runs the task, whose registers have been set up, to its end.
    pub async fn run(self: Arc<Self>) {
        self.run_from(Outcome::Registers).await;
    }

    /// Runs a task that `clone` has made: its first deed is to return from that.
    pub(super) async fn run_clone(self: Arc<Self>) {
        self.run_from(Outcome::Return(0)).await;
    }

    async fn run_from(self: Arc<Self>, mut outcome: Outcome) {
        std::future::poll_fn(|wake| {
            let _ = self.waker.set(wake.waker().clone());
            Poll::Ready(())
        })
        .await;
        self.publish_facts();
        // In one place: it is too large to be handed through the futures in between.
        let mut trap = Trap::Died;
        loop {
            let resume = match self.enter(&outcome) {
                Some(resume) => resume,
                None if self.attend(&mut outcome).await => {
                    self.renew_leave();
                    continue;
                }
                None => break,
            };
            self.run_application(resume, &mut trap).await;
            outcome = match &trap {
                Trap::Syscall(request) => {
                    let mut reply = self.system_call(request);
                    let mut hot = request.hot;
                    loop {
                        match Outcome::of(reply, request.number) {
                            Ok(outcome) => {
                                if hot && matches!(outcome, Outcome::Return(_)) {
                                    self.accelerate(request).await;
                                }
                                break outcome;
                            }
                            Err(waiting) => {
                                if hot && request.only_returns() {
                                    // Now, for those who come after: this one may wait for ever.
                                    hot = false;
                                    self.accelerate(request).await;
                                }
                                reply = self.wait_out(waiting).await;
                            }
                        }
                    }
                }
                Trap::Fault(fault) => {
                    self.take_fault(*fault);
                    Outcome::Registers
                }
                Trap::Interrupted => Outcome::Registers,
                Trap::Unborn => {
                    // Nobody will ever have run it: nothing is to be seen of its end.
                    self.clear_child_tid.store(0, Ordering::Relaxed);
                    self.must_exit.lock().get_or_insert(ExitStatus::Exited(0));
                    break;
                }
                Trap::Died => {
                    // The host killed the stub (out of memory), or the stub broke the protocol.
                    self.group.begin_exit(ExitStatus::Killed { signal: SIGKILL, core: false });
                    break;
                }
            };
        }
        let status = self.must_exit.lock().unwrap_or(ExitStatus::Killed { signal: SIGKILL, core: false });
        self.exit(status).await;
    }

    /// Goes to the application (announces it, that is), unless there is something to attend to first.
    fn enter(&self, outcome: &Outcome) -> Option<Resume> {
        let resume = outcome.resume()?;
        let attention = &self.signals.attention;
        if attention.enter() {
            return Some(resume);
        }
        if !matches!(resume, Resume::Native | Resume::Substitute { .. } | Resume::Spawn(_)) {
            return None;
        }
        // A call that the host is to carry out has to be carried out first: the map says already that it was, or there is a task. Signals
        // wait until the thread, interrupted at once, is back from it.
        attention.enter_anyway();
        if self.must_exit.lock().is_some() || self.kernel.freezer.is_frozen() {
            attention.leave();
            return None;
        }
        if self.has_business() {
            // The interrupt is kept for the next resume.
            self.interrupt();
        }
        Some(resume)
    }

    /// Step 1. Returns whether the task goes on.
    async fn attend(&self, outcome: &mut Outcome) -> bool {
        self.signals.attention.lower();
        self.kernel.freezer.pass(|| self.must_exit.lock().is_some()).await;
        if self.must_exit.lock().is_some() {
            // For those who ask on the way out.
            self.signals.attention.raise();
            return false;
        }
        let restart = match outcome {
            Outcome::Restart(restart, number) => {
                Some(Interrupted::Call { restart: *restart, number: *number })
            }
            _ => None,
        };
        if restart.is_none() {
            if !self.has_business() {
                return true;
            }
            if matches!(outcome, Outcome::Native | Outcome::Substitute(..) | Outcome::Spawn(_)) {
                self.signals.attention.raise();
                return true;
            }
        }
        if let Outcome::Return(value) = *outcome
            && self.prepare_registers(value).await.is_ok()
        {
            *outcome = Outcome::Registers;
        }
        let interrupted = restart.unwrap_or(Interrupted::No);
        match self.deliver_signals(interrupted).await {
            Delivered::Exit => return false,
            Delivered::Handler => *outcome = Outcome::Registers,
            Delivered::Nothing => {
                if restart.is_some() {
                    self.rewind(interrupted).await;
                    *outcome = Outcome::Registers;
                }
            }
        }
        true
    }

    /// Puts a call's result where a handler's frame will find it. Only worth it when a handler will run.
    async fn prepare_registers(&self, value: u64) -> Result<(), Died> {
        self.capture().await?;
        self.with_context(|context| {
            if let Some(registers) = context.registers() {
                registers.rax = value;
            }
        });
        Ok(())
    }

    /// Makes an interrupted call begin again, no handler having run.
    async fn rewind(&self, interrupted: Interrupted) {
        if self.capture().await.is_err() {
            return;
        }
        self.with_context(|context| {
            if let Some(registers) = context.registers() {
                finish_call(registers, interrupted, None);
            }
        });
    }

    /// Step 2, after [`Task::enter`]; leaves the trap in its place.
    async fn run_application(&self, resume: Resume, place: &mut Trap) {
        let mut resume = Some(resume);
        let mut patience = Patience::default();
        let answers = matches!((&*place, &resume), (Trap::Syscall(_), Some(Resume::Return(_))));
        let left = |context: &mut dyn Context, wake: &mut WakeContext<'_>| {
            if let Some(resume) = resume.take() {
                self.note_looks(answers && context.registers().is_none());
                context.resume(resume);
            }
            match context.poll_trap(wake) {
                Poll::Ready(trap) => {
                    *place = trap;
                    Poll::Ready(true)
                }
                Poll::Pending => {
                    patience.judge(self, context, wake);
                    Poll::Pending
                }
            }
        };
        let has_context = self.poll_context(left, || false).await;
        if !has_context {
            *place = Trap::Died;
        }
        if self.left_to_host.load(Ordering::Relaxed) {
            self.left_to_host.store(false, Ordering::Relaxed);
            self.memory().settle(self.identity());
            self.settle_transfer(place);
        }
        if self.signals.attention.leave() && self.kernel.freezer.is_frozen() {
            self.kernel.freezer.arrivals.wake_all();
        }
    }

    /// Step 3.
    fn system_call<'a>(self: &'a Arc<Self>, request: &SyscallRequest) -> Reply<'a> {
        crate::vfs::begin_moment();
        match &self.kernel.strace {
            None => self.kernel.system_calls.call(self, request),
            Some(strace) => self.traced_call(strace, request),
        }
    }

    /// Awaits the rest of a call, and tells the context each time it goes on.
    async fn wait_out<'a>(&self, mut waiting: Waiting<'a>) -> Reply<'a> {
        let mut goes_on = false;
        std::future::poll_fn(|wake| {
            if std::mem::replace(&mut goes_on, true) {
                self.with_context(|context| context.go_on());
            }
            waiting.as_mut().poll(wake)
        })
        .await
    }

    /// As [`Task::system_call`], with a line for it.
    fn traced_call<'a>(self: &'a Arc<Self>, strace: &'a Strace, request: &SyscallRequest) -> Reply<'a> {
        let Some(trace) = strace.enter(self, request) else {
            return self.kernel.system_calls.call(self, request);
        };
        match self.kernel.system_calls.call(self, request) {
            Reply::Later(waiting) => Reply::Later(Box::pin(async move {
                let mut reply = waiting.await;
                while let Reply::Later(waiting) = reply {
                    reply = waiting.await;
                }
                strace.leave(self, &trace, &reply);
                reply
            })),
            reply => {
                strace.leave(self, &trace, &reply);
                reply
            }
        }
    }

    /// Has the site of a call that traps often patched, unless the task is about to end.
    async fn accelerate(&self, request: &SyscallRequest) {
        if self.must_exit.lock().is_none() {
            // If the thread is gone, the next trap says so.
            let _ = self.patch_site(request).await;
        }
    }

    /// Step 4.
    fn take_fault(&self, fault: Fault) {
        let Some(signal) = Signal::new(fault.signal.into()) else { return };
        *self.fault.lock() =
            Some(FaultDetails { error_code: fault.error_code, vector: fault.vector, address: fault.address });
        self.force_signal(signal, SigInfo::fault(signal, fault.code, UserAddress(fault.address)));
    }

    /// Brings the registers into the sentry.
    pub(crate) async fn capture(&self) -> Result<(), Died> {
        self.poll_context(|context, wake| context.poll_capture(wake), || Err(Died)).await
    }
}
