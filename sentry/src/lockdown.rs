//! What the sentry gives up before it touches anything of an application's: capabilities, and all host system calls but
//! those in [`rows`].
//!
//! [`drop_capabilities`] first, while there is one thread (capabilities are a thread's); [`allow_only`] when the threads
//! run, over all of them and over those they start. Both come before the first process is loaded, so that no byte of an
//! application's has been looked at by a process that could do more.
//!
//! Neighbours: `crate::sandbox` calls both; the platform states its own needs ([`HostCalls`]); namespaces and
//! the empty root are made by whoever starts the process. `docs/security.md` has the whole picture.

mod rows;

use crate::spec::HostUds;
use allowlist::{RUST_PROGRAM, Row, Step, program};
use platform::{HostCalls, Platform};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

/// Why the sentry cannot confine itself.
#[derive(Debug, thiserror::Error)]
pub enum LockdownError {
    #[expect(missing_docs, reason = "the message says it")]
    #[error("cannot {step}: {error}")]
    Privileges { step: &'static str, error: rustix::io::Errno },
    #[expect(missing_docs, reason = "the message says it")]
    #[error("cannot install the system call filter: {0}")]
    Filter(#[from] allowlist::Error),
}

/// Gives up every capability of the calling thread, for good: `capabilities(7)`.
///
/// # Errors
/// The host's.
pub fn drop_capabilities() -> Result<(), LockdownError> {
    let failed = |step| move |error| LockdownError::Privileges { step, error };
    set_no_new_privs(true).map_err(failed("set no_new_privs"))?;
    clear_ambient_capability_set().map_err(failed("clear the ambient capabilities"))?;
    // Takes CAP_SETPCAP, so before the others. Numbers that the host does not know are an error that says nothing.
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(failed("empty the bounding set")(error)),
        }
    }
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, sets).map_err(failed("drop all capabilities"))
}

/// Allows this process, all its threads, nothing but the table's calls and the platform's.
///
/// # Errors
/// The host's.
pub fn allow_only(platform: &dyn Platform, host_sockets: HostUds) -> Result<(), LockdownError> {
    settle_allocator();
    Ok(allowlist::install(program_of(platform.host_calls(), host_sockets != HostUds::None))?)
}

/// The program that this is compiled to when the sentry is.
fn program_of(platform: HostCalls, host_sockets: bool) -> &'static [Step] {
    macro_rules! choice {
        ($($platform:ident),*) => {
            match (platform, host_sockets) {
                $((HostCalls::$platform, false) => program!(lists(HostCalls::$platform, false)),
                  (HostCalls::$platform, true) => program!(lists(HostCalls::$platform, true)),)*
            }
        };
    }
    choice!(None, Seccomp, Ptrace)
}

/// The environment's variable that tells glibc how many heaps threads may have (`mallopt(3)`, `M_ARENA_MAX`).
pub const HEAPS_VARIABLE: &str = "MALLOC_ARENA_MAX";

/// glibc's allocator looks into `/proc/sys/vm/overcommit_memory` the first time a thread's heap could shrink, and never
/// again. This lets it look now (and find nothing, the root being empty): later it would be the end of us. The program's main
/// heap is not a thread's, so when there is no other there is nothing to do.
fn settle_allocator() {
    if std::env::var_os(HEAPS_VARIABLE).is_some_and(|heaps| heaps == "1") {
        return;
    }
    /// Less than what malloc maps separately, more than what it keeps without a look at the heap's end; together
    /// more than its trim threshold. See malloc/arena.c, `heap_trim`.
    const BLOCK: usize = 96 << 10;
    const BLOCKS: usize = 16;
    let grow_and_shrink = || {
        drop(std::hint::black_box(std::array::from_fn::<_, BLOCKS, _>(|_| Vec::<u8>::with_capacity(BLOCK))))
    };
    // Not the first thread: its heap is another. A host that gives no thread will be noticed soon enough.
    drop(std::thread::Builder::new().spawn(grow_and_shrink).map(std::thread::JoinHandle::join));
}

/// Everything that a sentry on such a platform may call, and whose containers may reach sockets of the host.
pub const fn lists(platform: HostCalls, host_sockets: bool) -> [&'static [Row]; 8] {
    let [waiting, files, sockets, terminals, ourselves] = rows::ROWS;
    let host_sockets = if host_sockets { rows::HOST_SOCKETS } else { &[] };
    [waiting, files, sockets, terminals, ourselves, host_sockets, RUST_PROGRAM, platform.rows()]
}
