//! `--strace`: a line for every system call, as strace prints it, in the log.

use abi::strace_format::CallTrace;
use platform::SyscallRequest;

use crate::spec::StraceOptions;
use crate::task::{Reply, Task};
use crate::wait::Failure;

/// Which calls are printed. `None` in the kernel: none, at the cost of one comparison per call.
pub struct Strace {
    options: StraceOptions,
}

impl Strace {
    /// As the options say.
    pub const fn new(options: StraceOptions) -> Self {
        Self { options }
    }

    fn prints(&self, number: u64) -> bool {
        self.options.calls.is_empty()
            || usize::try_from(number)
                .ok()
                .and_then(abi::numbers::name)
                .is_some_and(|name| self.options.calls.iter().any(|wanted| wanted == name))
    }

    /// Looks at a call before it is made; what comes out is handed to [`Strace::leave`].
    pub fn enter(&self, task: &Task, request: &SyscallRequest) -> Option<CallTrace> {
        self.prints(request.number).then(|| {
            CallTrace::enter(request.number, &request.arguments, &|at: abi::user::UserAddress, length| {
                read(task, at.address(), length)
            })
        })
    }

    /// Prints a call that is over.
    pub fn leave(&self, task: &Task, trace: &CallTrace, reply: &Reply<'_>) {
        let memory = |at: abi::user::UserAddress, length| read(task, at.address(), length);
        let text = match reply {
            Reply::Now(Ok(value)) => trace.exit_text(Some(Ok(*value)), &memory),
            Reply::Now(Err(Failure::Error(errno))) => trace.exit_text(Some(Err(*errno)), &memory),
            Reply::Now(Err(Failure::Restart(restart))) => format!("{} = ? ({restart:?})", trace.entry_text()),
            Reply::Native => format!("{} = (native)", trace.entry_text()),
            Reply::Substitute(_, result) => format!("{} = {result:#x}", trace.entry_text()),
            Reply::Spawn(tid) => trace.exit_text(Some(Ok(*tid)), &memory),
            Reply::Registers | Reply::Later(_) => trace.exit_text(None, &memory),
        };
        tracing::info!(target: "strace", "[{:4}] {text}", task.tid());
    }
}

fn read(task: &Task, address: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    let count = task.read_memory(address, &mut bytes).ok()?;
    bytes.truncate(count);
    Some(bytes)
}
