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
use std::task::Context as WakeContext;

use abi::signal_info::SigInfo;
use abi::signals::{SIGKILL, Signal};
use abi::user::UserAddress;
use platform::{Context, Died, Fault, Resume, SyscallRequest, Trap};

use super::patience::Patience;
use super::{ExitStatus, Task};
use crate::signals::{Delivered, FaultDetails, Interrupted, finish_call};
use crate::wait::{CallResult, Failure, Restart};

/// What a system call's handler gives back to the run loop.
pub enum Reply<'a> {
    /// It is done.
    Now(CallResult<u64>),
    /// It may have to wait.
    Later(Pin<Box<dyn Future<Output = Reply<'a>> + Send + 'a>>),
    /// The host carries it out as it stands ([`Resume::Native`]).
    Native,
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
    Registers,
    Restart(Restart, SyscallRequest),
}

impl Task {
    /// Runs the task to its end.
    pub async fn run(self: Arc<Self>) {
        std::future::poll_fn(|wake| {
            let _ = self.waker.set(wake.waker().clone());
            std::task::Poll::Ready(())
        })
        .await;
        let mut outcome = Outcome::Registers;
        loop {
            let Some(resume) = self.leave_kernel(&mut outcome).await else { break };
            let Some(resume) = resume else { continue };
            outcome = match self.run_application(resume).await {
                Some(Trap::Syscall(request)) => self.system_call(request).await,
                Some(Trap::Fault(fault)) => {
                    self.take_fault(fault);
                    Outcome::Registers
                }
                Some(Trap::Interrupted) => Outcome::Registers,
                Some(Trap::Died) => {
                    // The host killed the stub (out of memory), or the stub broke the protocol.
                    self.group.begin_exit(ExitStatus::Killed { signal: SIGKILL, core: false });
                    break;
                }
                None => continue,
            };
        }
        let status = self.must_exit.lock().unwrap_or(ExitStatus::Killed { signal: SIGKILL, core: false });
        self.exit(status).await;
    }

    /// Step 1. `None`: the task has to exit. `Some(None)`: look again.
    async fn leave_kernel(&self, outcome: &mut Outcome) -> Option<Option<Resume>> {
        if self.must_exit.lock().is_some() {
            return None;
        }
        let restart = match outcome {
            Outcome::Restart(restart, request) => Some((*restart, *request)),
            _ => None,
        };
        // A call that the host is to carry out has to be carried out first: the map says already that it was.
        let native = matches!(outcome, Outcome::Native);
        if restart.is_some() || self.is_interrupted() && !native {
            if let Outcome::Return(value) = *outcome
                && self.prepare_registers(value).await.is_ok()
            {
                *outcome = Outcome::Registers;
            }
            let interrupted = restart.map_or(Interrupted::No, |(restart, request)| Interrupted::Call {
                restart,
                number: request.number,
            });
            match self.deliver_signals(interrupted).await {
                Delivered::Exit => return None,
                Delivered::Handler => *outcome = Outcome::Registers,
                Delivered::Nothing => {
                    if restart.is_some() {
                        self.rewind(interrupted).await;
                        *outcome = Outcome::Registers;
                    }
                }
            }
        }
        Some(Some(match *outcome {
            Outcome::Return(value) => Resume::Return(value),
            Outcome::Native => Resume::Native,
            Outcome::Registers => Resume::Registers,
            Outcome::Restart(..) => return Some(None),
        }))
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

    /// Step 2. `None`: something else came first; look again.
    async fn run_application(&self, resume: Resume) -> Option<Trap> {
        // Announce first, look again second: whoever sends a signal stores it first and looks at the
        // announcement second, so one of the two sees the other.
        self.kernel.freezer.pass(|| self.must_exit.lock().is_some()).await;
        self.in_application.store(true, Ordering::SeqCst);
        if self.must_exit.lock().is_some() || self.kernel.freezer.is_frozen() {
            self.in_application.store(false, Ordering::SeqCst);
            return None;
        }
        if self.is_interrupted() {
            // Let the application run into it: the interrupt is kept for the next resume.
            self.interrupter.lock().interrupt();
        }
        self.with_context(|context| context.resume(resume));
        let mut patience = Patience::default();
        let left = |context: &mut dyn Context, wake: &mut WakeContext<'_>| {
            let trap = context.poll_trap(wake);
            if trap.is_pending() {
                patience.judge(self, context, wake);
            }
            trap
        };
        let trap = self.poll_context(left, || Trap::Died).await;
        self.in_application.store(false, Ordering::SeqCst);
        if self.kernel.freezer.is_frozen() {
            self.kernel.freezer.arrivals.wake_all();
        }
        Some(trap)
    }

    /// Step 3.
    async fn system_call(self: &Arc<Self>, request: SyscallRequest) -> Outcome {
        let kernel = Arc::clone(&self.kernel);
        let trace = kernel.strace.as_ref().and_then(|strace| Some((strace, strace.enter(self, &request)?)));
        let mut reply = kernel.system_calls.call(self, &request);
        loop {
            if let Some((strace, trace)) = &trace
                && !matches!(reply, Reply::Later(_))
            {
                strace.leave(self, trace, &reply);
            }
            reply = match reply {
                Reply::Now(Ok(value)) => return Outcome::Return(value),
                Reply::Now(Err(Failure::Error(errno))) => return Outcome::Return(errno.to_return_value()),
                Reply::Now(Err(Failure::Restart(restart))) => return Outcome::Restart(restart, request),
                Reply::Native => return Outcome::Native,
                Reply::Registers => return Outcome::Registers,
                Reply::Later(future) => future.await,
            };
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
