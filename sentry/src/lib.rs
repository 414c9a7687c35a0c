//! The kernel's objects.

pub mod spec;
