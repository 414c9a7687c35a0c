//! What the integration tests share: running commands with a hard time limit, reporting
//! cases, building guest programs, the Debian tree, and OCI bundles.
//!
//! Each file is named for what it holds. Nothing here knows the kernel or the platforms:
//! the tests see `runsc` only as a command, so the same code drives crun or runc when
//! `RUNSC_UNDER_TEST` names one of them.

pub mod bundle;
pub mod command;
pub mod console;
pub mod container;
pub mod daemon;
pub mod debian;
pub mod guest_programs;
pub mod host;
pub mod inject;
pub mod report;
pub mod sandbox;
pub mod terminal;
pub mod trace;

use std::path::{Path, PathBuf};

/// The top of the repository.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The cache that lives across builds and runs (`.cache`, or `RUNSC_TEST_CACHE`).
pub fn cache() -> PathBuf {
    std::env::var_os("RUNSC_TEST_CACHE").map_or_else(|| repository().join(".cache"), PathBuf::from)
}
