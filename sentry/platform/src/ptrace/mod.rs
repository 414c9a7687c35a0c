//! The `ptrace` platform: the fallback that needs nothing from the host but `ptrace(2)`, and the cross-check of the
//! others.
//!
//! Application code runs in *stub processes* under `PTRACE_SYSEMU`: each system call stops the thread and is
//! not executed. The sentry answers it, or has the stub execute one at the *gadget*, a page of two instructions. One worker thread traces everything,
//! since ptrace requests are only accepted from the thread that attached.
//!
//! - [`seed`]: the process that all others are forked from; made before lockdown.
//! - [`gadget`]: the stub's reserved pages and its own seccomp filter.
//! - [`events`] and [`bell`]: waiting for stops, deaths and kicks; what is known of each thread.
//! - [`context`]: traps, registers, memory operations, spawning.
//! - [`operations`]: the system calls behind them, and which ranges they may touch.
//! - [`memory`], [`vectors`], [`requests`]: copying, vector state, ptrace itself.
//!
//! Measured (2-core VM, Linux 6.18): a trap costs 9.3 µs when worker and stub share a core and about 60 µs when
//! the host spreads them; an injected call 14 and 68; a mapped file, three calls, 52 and 170; a fork of the seed 70 and 100.

use std::sync::Arc;
use std::task::{Context as WakeContext, Poll};

use abi::errno::Errno;

use allowlist::{Condition, Row, equal, row, wide};

use crate::{Affinity, Context, HostCalls, Layout, NewSpace, Platform, Vdso};

mod bell;
mod context;
mod events;
mod gadget;
mod memory;
mod operations;
mod requests;
mod seed;
mod vectors;

/// The `ptrace` platform.
///
/// Its worker is the thread that first calls [`Platform::wait`] or [`Platform::poll_new_space`]; that thread
/// must not end before the sandbox does, and has all asynchronous signals but one blocked from then on.
///
/// The rest of the sentry must not wait for "any child" (`waitpid(-1)` without `__WNOTHREAD`), on whichever thread: it
/// would swallow stops that the worker waits for. Its own children it waits for by process id.
pub struct PtracePlatform {
    shared: Arc<events::Shared>,
    layout: Layout,
}

impl PtracePlatform {
    /// Makes the seed process. Call it before lockdown, but after the sentry has entered its
    /// namespaces and has its final user id: the worker attaches to the seed later, which the host
    /// permits only among equals. The sentry must see its own children's process ids as they
    /// do (be in the pid namespace its children are in), and `/proc` must still be there.
    ///
    /// # Errors
    /// What the host said: `EPERM` or `EIO` where ptrace is forbidden, `ENODEV` without XSAVE, `ENOMEM` if there is no room for the reserved
    /// region.
    pub fn new() -> Result<Self, Errno> {
        bell::Bell::install()?;
        let seed = seed::Seed::create()?;
        let layout =
            Layout { min_address: lowest_address(), max_address: seed.reserved.start, vdso: seed.vdso };
        Ok(Self { shared: Arc::new(events::Shared::new(seed)), layout })
    }

    /// The vDSO of every new space.
    pub fn vdso(&self) -> Option<Vdso> {
        self.layout.vdso
    }
}

/// `vm.mmap_min_addr`, which binds stubs, having no privileges.
fn lowest_address() -> u64 {
    const DEFAULT: u64 = 64 * 1024;
    let text = std::fs::read_to_string("/proc/sys/vm/mmap_min_addr").unwrap_or_default();
    text.trim().parse().unwrap_or(DEFAULT).max(gadget::PAGE)
}

impl Platform for PtracePlatform {
    fn name(&self) -> &'static str {
        "ptrace"
    }

    fn layout(&self) -> Layout {
        self.layout
    }

    fn poll_new_space(
        &self,
        _wake: &mut WakeContext<'_>,
        _request: &mut NewSpace,
    ) -> Poll<Result<Box<dyn Context>, Errno>> {
        let made = self.shared.attach().and_then(|()| context::PtraceContext::from_seed(&self.shared));
        Poll::Ready(made.map(|context| Box::new(context) as Box<dyn Context>))
    }

    fn wait(&self) -> Result<(), Errno> {
        self.shared.attach()?;
        self.shared.wait_any()
    }

    fn kick(&self) {
        self.shared.bell.ring();
    }

    fn affinity(&self) -> Affinity {
        Affinity::Worker
    }

    /// Nothing: stubs announce their death to the worker's `wait` alone, without a `SIGCHLD`.
    fn reap(&self) {}

    fn host_calls(&self) -> HostCalls {
        HostCalls::Ptrace
    }
}

/// `argument` must be exactly `value`, as an `int`.
const fn int(argument: u8, value: i64) -> Condition {
    equal(argument, value.cast_unsigned() & 0xffff_ffff)
}

/// `argument` must be exactly `value`.
const fn exactly(argument: u8, value: u64) -> Condition {
    wide(argument, u64::MAX, value)
}

macro_rules! rows {
    ($($call:ident [$($argument:expr),*] $why:literal;)*) => {
        &[$(row(libc::$call, &[$($argument),*], $why)),*]
    };
}

/// See [`HostCalls`].
pub(crate) const HOST_ROWS: &[Row] = rows! {
    SYS_ptrace [exactly(0, libc::PTRACE_SEIZE as u64), exactly(3, requests::OPTIONS as u64)] "attach the seed to the worker";
    SYS_ptrace [exactly(0, libc::PTRACE_INTERRUPT as u64)] "attach the seed to the worker";
    SYS_ptrace [exactly(0, libc::PTRACE_SYSEMU as u64), exactly(3, 0)] "run application code";
    SYS_ptrace [exactly(0, libc::PTRACE_CONT as u64), exactly(3, 0)] "run the gadget";
    SYS_ptrace [exactly(0, libc::PTRACE_GET_SYSCALL_INFO as u64)] "read a trapped call";
    SYS_ptrace [exactly(0, libc::PTRACE_GETREGS as u64)] "capture general registers";
    SYS_ptrace [exactly(0, libc::PTRACE_POKEUSER as u64)] "set a call's result, set FS bases";
    SYS_ptrace [exactly(0, libc::PTRACE_SETREGSET as u64), exactly(2, requests::NT_PRSTATUS as u64)] "load general registers";
    SYS_ptrace [exactly(0, libc::PTRACE_GETREGSET as u64), exactly(2, requests::NT_X86_XSTATE as u64)] "capture vector state";
    SYS_ptrace [exactly(0, libc::PTRACE_SETREGSET as u64), exactly(2, requests::NT_X86_XSTATE as u64)] "load vector state";
    SYS_ptrace [exactly(0, libc::PTRACE_GETSIGINFO as u64)] "tell faults from signals";
    SYS_wait4 [int(0, -1), exactly(3, 0)] "wait for stops and deaths";
    SYS_tgkill [int(2, bell::SIGNAL as i64)] "kick the worker, interrupt a thread";
    SYS_tgkill [int(2, libc::SIGKILL as i64)] "kill a stub process";
    SYS_process_vm_readv [exactly(2, 1), exactly(4, 1), exactly(5, 0)] "copy from application memory";
    SYS_process_vm_writev [exactly(2, 1), exactly(4, 1), exactly(5, 0)] "copy to application memory";
    SYS_sendmsg [int(2, (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as i64)] "send a descriptor to a stub";
    SYS_recvfrom [int(3, libc::MSG_DONTWAIT as i64), exactly(4, 0)] "drop a descriptor that a stub did not receive";
    SYS_clock_gettime [] "processor time of stub processes";
    SYS_rt_sigprocmask [int(0, libc::SIG_SETMASK as i64)] "the worker's signal mask";
    SYS_rt_sigreturn [] "return from the kick's handler";
    SYS_gettid [] "the worker's id";
    SYS_getpid [] "the worker's process id";
};
