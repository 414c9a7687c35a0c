//! Terminals: line discipline, pseudo-terminals, controlling terminals and job control, the host's terminal.
//!
//! * [`LineDiscipline`]: `N_TTY` as pure logic (`line_discipline.rs`, `output.rs`, `erase.rs`).
//! * [`Terminal`]: the object around it (`terminal.rs`); [`SlaveFile`], [`MasterFile`] are its open files.
//! * `job_control.rs`: sessions, and who may use a terminal; `requests.rs`: `ioctl`.
//! * `drivers.rs`: `/dev/ptmx`, `/dev/tty`, `/dev/console`, and the slaves, whose names are in [`crate::fs::devpts`].
//! * `host.rs`: a host terminal in a master's place.
//!
//! README.md beside this file has the model.

mod drivers;
mod erase;
mod files;
mod host;
mod job_control;
mod line_discipline;
mod output;
mod requests;
mod terminal;
#[cfg(test)]
mod tests;

pub use drivers::{Terminals, attach_host_terminal, register};
pub use files::{MasterFile, SlaveFile};
pub use job_control::{Background, Verdict, judge, process_ended};
pub use line_discipline::{ECHO_MAX, Effects, INPUT_MAX, LineDiscipline, OUTPUT_MAX, Queues};
pub use terminal::{SLAVE_MAJOR, Terminal};

use crate::vfs::DeviceNumber;

/// The number of `/dev/ptmx`.
pub const PTMX: DeviceNumber = DeviceNumber { major: 5, minor: 2 };

/// Which side of a terminal an open file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Programs'.
    Slave,
    /// Whoever types and watches.
    Master,
}
