//! Containers as the host sees them: identity, recorded state, the bundle they came from, cgroups and hooks.

pub mod bundle;
pub mod cgroup;
pub mod hooks;
pub mod id;
pub mod plan;
pub mod process_identity;
pub mod resources;
pub mod store;
pub mod translate;
