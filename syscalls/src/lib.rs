//! What each system call does: the table, and one file per family.
//!
//! A body decodes nothing (its signature does), checks what Linux checks in Linux's order, and calls
//! into a kernel object. Anything longer than a screen belongs there.
#![forbid(unsafe_code)]

pub mod clocks;
pub mod clone_exec_exit;
pub mod credentials;
pub mod descriptor_files;
pub mod descriptors;
pub mod directories;
pub mod file_copies;
pub mod futex;
pub mod identity;
pub mod limits;
pub mod locks;
pub mod memory_map;
pub mod message_queues;
pub mod metadata;
pub mod mounts;
pub mod open_close;
pub mod other_processes;
pub mod poll_epoll;
pub mod prctl;
pub mod random;
pub mod read_write;
pub mod registers;
pub mod restart;
pub mod scheduling;
pub mod signals;
pub mod sockets;
pub mod sockets_messages;
pub mod sockets_options;
pub mod splice;
pub mod system;
pub mod table;
pub mod timers;
pub mod wait;
pub mod xattrs;
