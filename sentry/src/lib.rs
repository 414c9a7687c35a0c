//! The kernel's objects.
