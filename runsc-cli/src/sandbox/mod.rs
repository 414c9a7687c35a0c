//! Making, finding and talking to the processes of a sandbox.

pub mod boot;
pub mod channel;
pub mod control;
pub mod kernel;
pub mod spawn;
