//! The kernel: what Linux keeps in kernel space, as ordinary Rust objects of an unprivileged process.
//!
//! [`kernel::Kernel`] is the root from which every object can be reached. A [`task::Task`] is one
//! application thread and one future; system calls themselves live in the crate above and are
//! handed over at boot ([`kernel::SyscallTable`]).
#![forbid(unsafe_code)]

pub mod executor;
pub mod freezer;
pub mod fs;
pub mod futex;
pub mod kernel;
pub mod lockdown;
pub mod memory;
pub mod random;
pub mod reactor;
pub mod sandbox;
pub mod signals;
pub mod sockets;
pub mod spec;
pub mod strace;
pub mod task;
pub mod time;
pub mod timers;
pub mod tty;
pub mod uts;
pub mod vfs;
pub mod wait;
