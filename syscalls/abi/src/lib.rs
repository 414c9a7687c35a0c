//! Linux's x86-64 vocabulary as data: numbers, errors, flags, structures. Makes no call itself.

#![forbid(unsafe_code)]

pub mod define;
pub mod directories;
pub mod errno;
pub mod file_calls;
pub mod files;
pub mod ioctls;
pub mod mounts;
pub mod numbers;
pub mod polling;
pub mod signal_frame;
pub mod signal_info;
pub mod signals;
pub mod terminals;
pub mod user;

pub use numbers::nr;
