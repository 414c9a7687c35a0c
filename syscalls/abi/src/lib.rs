//! Linux's x86-64 vocabulary as data: numbers, errors, flags, structures. Makes no call itself.

#![forbid(unsafe_code)]

pub mod capabilities;
pub mod define;
pub mod directories;
pub mod errno;
pub mod exec;
pub mod file_calls;
pub mod files;
pub mod futexes;
pub mod ioctls;
pub mod memory;
pub mod mounts;
pub mod numbers;
pub mod polling;
pub mod process;
pub mod seccomp;
pub mod signal_frame;
pub mod signal_info;
pub mod signals;
pub mod signatures;
pub mod socket_options;
pub mod sockets;
pub mod strace_format;
pub mod strace_structs;
pub mod strace_text;
pub mod terminals;
pub mod time;
pub mod user;

pub use numbers::nr;
