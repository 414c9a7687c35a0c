//! Where the command line meets the kernel: the one place that hands it its specification, platform and system calls.
//!
//! Key function: [`boot_kernel`]. Neighbours: `boot.rs` calls it inside the confined process; `control.rs` states what it
//! must return.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use platform::Platform;
use platform::ptrace::PtracePlatform;
use platform::seccomp::{Options, SeccompPlatform};
use sentry::fs::proc::HostMachine;
use sentry::sandbox::{HostEnds, Sandbox};
use sentry::spec::{Accelerator, PlatformName, SandboxSpec};
use syscalls::table::{NUMBERS, Support, TABLE, X86_64};

use super::control::{ControlError, ControlHandler, ErrorKind, ProcessStdio};
use super::live::{self, Live};

/// What the kernel gets from outside, besides its specification.
#[derive(Debug)]
pub struct KernelFds {
    /// The gofer's end is in the gofer; speak the file protocol here.
    pub gofer: OwnedFd,
    /// The first process's standard descriptors.
    pub stdio: ProcessStdio,
    /// For the first process, from descriptor 3 upwards.
    pub preserved: Vec<OwnedFd>,
}

/// What has to be made while the process can still see the host.
pub struct Early {
    platform: Arc<dyn Platform>,
    machine: HostMachine,
}

/// Makes the platform and looks at the machine. To be called when the process has its final user and namespaces, while it
/// has one thread and can still see `/proc`.
pub fn prepare_kernel(name: PlatformName) -> Result<Early, ControlError> {
    let failed = |error: String| ControlError::new(ErrorKind::Internal, error);
    let mut machine = None;
    let platform: Arc<dyn Platform> = match name {
        PlatformName::Seccomp(Accelerator { patch, eager, spin, carry, local }) => {
            let options = Options { patch, eager, spin, carry, local };
            let made = SeccompPlatform::new_while(options, || machine = Some(HostMachine::read()));
            Arc::new(made.map_err(|error| failed(format!("platform seccomp: {error}")))?)
        }
        PlatformName::Ptrace => {
            Arc::new(PtracePlatform::new().map_err(|error| failed(format!("platform ptrace: {error}")))?)
        }
    };
    Ok(Early { platform, machine: machine.unwrap_or_else(HostMachine::read) })
}

/// Makes the kernel and loads the container's first process, which then waits for [`ControlHandler::start`].
///
/// It is called on the main thread of a process that is init of its own pid namespace, in an empty read-only root, with
/// all capabilities of its own user namespace still held: dropping them and locking system calls down is the kernel's
/// last act before it returns. `ErrorKind::ProgramNotFound` and `ProgramNotExecutable` say that the program of
/// `spec.container.process` does not exist or cannot be executed. SIGWINCH is blocked in every thread: the caller waits
/// for it and calls [`ControlHandler::resize`].
pub fn boot_kernel(
    spec: SandboxSpec,
    early: Early,
    fds: KernelFds,
) -> Result<Arc<dyn ControlHandler>, ControlError> {
    #[cfg(feature = "fake-kernel")]
    return super::fake::boot(&spec, fds);
    #[cfg(not(feature = "fake-kernel"))]
    {
        let ends = HostEnds {
            gofer: fds.gofer,
            files: live::files(fds.stdio, fds.preserved),
            machine: early.machine,
        };
        let sandbox =
            Sandbox::boot(&spec, early.platform, &TABLE, ends).map_err(|error| live::start_error(&error))?;
        Ok(Arc::new(Live::new(sandbox)))
    }
}

/// One line of `runsc syscalls`.
#[derive(Debug, Clone, Copy)]
pub struct SupportedCall {
    /// Its number on x86-64.
    pub number: usize,
    /// Its name.
    pub name: &'static str,
    /// `full`, `partial`, `refused` or `none`.
    pub support: &'static str,
    /// What is missing, or why.
    pub note: &'static str,
}

/// Every call that Linux has, from the table that dispatches.
pub fn supported_calls() -> Vec<SupportedCall> {
    (0..NUMBERS)
        .filter_map(|number| {
            let name = abi::numbers::name(number)?;
            let (support, note) = match X86_64.get(number).and_then(Option::as_ref).map(|entry| entry.support)
            {
                Some(Support::Full) => ("full", ""),
                Some(Support::Partial(note)) => ("partial", note),
                Some(Support::Refused(_, reason)) => ("refused", reason),
                None => ("none", ""),
            };
            Some(SupportedCall { number, name, support, note })
        })
        .collect()
}
