//! Making, finding and talking to the processes of a sandbox.

pub mod boot;
pub mod channel;
pub mod client;
pub mod console;
pub mod control;
#[cfg(any(test, feature = "fake-kernel"))]
pub mod fake;
pub mod foreground;
pub mod gofer;
pub mod kernel;
pub mod live;
pub mod placement;
pub mod server;
pub mod spawn;
pub mod start;
