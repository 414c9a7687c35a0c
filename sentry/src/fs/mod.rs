//! The file systems, one folder each; all implement the traits of [`crate::vfs`].
//!
//! `tmpfs` (files in memory), `gofer` (host files), `overlay` (memory over anything), `dev`. See README.md.

pub mod cgroup;
pub mod dev;
pub mod devpts;
pub mod epoll;
pub mod eventfd;
pub mod generated;
pub mod gofer;
pub mod host;
pub mod host_files;
pub mod inotify;
pub mod mqueue;
pub mod overlay;
pub mod pidfd;
pub mod pipe;
pub mod proc;
pub mod signalfd;
pub mod sys;
pub mod timerfd;
pub mod tmpfs;
