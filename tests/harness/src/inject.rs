//! Making another process call the kernel: attaches to it as a debugger would, points it at a
//! `syscall` instruction of its own code, and sees what becomes of it. So a test can ask what a
//! compromised process could do, without the process having any code for it.

use crate::host;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel answered: a result, or minus an error number.
    Returned(i64),
    /// The process died of this signal.
    Killed(Signal),
}

/// Makes the process (its first thread) do one system call.
pub fn system_call(pid: i32, number: i64, arguments: [u64; 6]) -> Result<Outcome, String> {
    // The tracer is a thread, not a process; this one does nothing else.
    std::thread::scope(|scope| {
        scope
            .spawn(|| call_as_tracer(Pid::from_raw(pid), number, arguments))
            .join()
            .unwrap_or_else(|_| Err("the injector panicked".into()))
    })
}

fn call_as_tracer(pid: Pid, number: i64, arguments: [u64; 6]) -> Result<Outcome, String> {
    let text = |what: &'static str| move |e: nix::Error| format!("{what} of {pid}: {e}");
    let instruction = find_syscall_instruction(pid)?;
    ptrace::attach(pid).map_err(text("attach"))?;
    waitpid(pid, Some(WaitPidFlag::__WALL)).map_err(text("wait"))?;
    let saved = ptrace::getregs(pid).map_err(text("getregs"))?;
    let mut regs = saved;
    regs.rip = instruction;
    regs.rax = number.cast_unsigned();
    regs.orig_rax = u64::MAX; // not in a call: nothing to restart
    [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = arguments;
    ptrace::setregs(pid, regs).map_err(text("setregs"))?;
    ptrace::step(pid, None).map_err(text("step"))?;
    match waitpid(pid, Some(WaitPidFlag::__WALL)).map_err(text("wait"))? {
        WaitStatus::Signaled(_, signal, _) => Ok(Outcome::Killed(signal)),
        WaitStatus::Stopped(_, Signal::SIGSYS) => Ok(Outcome::Killed(Signal::SIGSYS)),
        WaitStatus::Stopped(..) => {
            let result = ptrace::getregs(pid).map_err(text("getregs"))?.rax.cast_signed();
            ptrace::setregs(pid, saved).map_err(text("setregs"))?;
            ptrace::detach(pid, None).map_err(text("detach"))?;
            Ok(Outcome::Returned(result))
        }
        other => Err(format!("{pid} did something else: {other:?}")),
    }
}

/// The address of a `syscall` instruction (or of its two bytes) in the process's code.
fn find_syscall_instruction(pid: Pid) -> Result<u64, String> {
    let maps =
        std::fs::read_to_string(format!("/proc/{pid}/maps")).map_err(|e| format!("maps of {pid}: {e}"))?;
    let memory = File::open(format!("/proc/{pid}/mem")).map_err(|e| format!("memory of {pid}: {e}"))?;
    for line in maps.lines().filter(|l| l.contains(" r-xp ")) {
        let Some((start, end)) = line.split(' ').next().and_then(|r| r.split_once('-')) else { continue };
        let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16)) else {
            continue;
        };
        let mut code = vec![0u8; usize::try_from(end - start).unwrap_or(0)];
        if memory.read_exact_at(&mut code, start).is_ok()
            && let Some(at) = code.windows(2).position(|w| w == [0x0f, 0x05])
        {
            return Ok(start + u64::try_from(at).unwrap_or(0));
        }
    }
    Err(format!("process {pid} has no syscall instruction, or is gone: {}", host::exists(pid.as_raw())))
}
