//! `proc`: what the kernel tells of itself and of its processes, as files (`man 5 proc`).
//!
//! * [`new`] makes the instance; [`Facts`] is what it knows, as do `sysfs` and `cgroup2`.
//! * `root.rs`: the top directory. `system.rs`: `stat`, `meminfo`, `cpuinfo` and the like.
//! * `process/`: everything below `/proc/PID`. `net.rs`: `/proc/net`. `sysctl.rs`: `/proc/sys`.
//! * `tables.rs`: what drivers and devices are listed.
//! * [`HostMachine`]: what is known of the machine, read before the sentry loses sight of it.
//!
//! See README.md.

mod host_machine;
mod load;
mod net;
pub mod numbers;
pub mod process;
mod root;
mod sysctl;
mod system;
mod tables;

pub use host_machine::{HostMachine, Position};

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::fs::generated::{Body, Context, Generated};
use crate::kernel::Kernel;
use crate::spec::{IdRange, SandboxLimits, SandboxSpec};

/// `PROC_SUPER_MAGIC`
const MAGIC: u64 = 0x9fa0;

/// What all of proc knows.
pub struct Facts {
    /// The root object.
    pub kernel: Arc<Kernel>,
    /// The machine.
    pub machine: HostMachine,
    /// What the sandbox may use of it.
    pub limits: SandboxLimits,
    /// What IDs inside are outside: of users, of groups.
    id_maps: [Vec<IdRange>; 2],
    /// Values of `linux.sysctl`, by dotted name.
    sysctl: BTreeMap<String, String>,
    /// `/proc/sys/kernel/random/boot_id`
    boot_id: String,
    load: load::LoadAverage,
}

impl Facts {
    /// Facts about a kernel on a machine. `spec` says what the container's configuration gives to `/proc`.
    pub fn new(kernel: Arc<Kernel>, machine: HostMachine, spec: &SandboxSpec) -> Arc<Self> {
        let (boot_id, load) = (sysctl::random_uuid(), load::LoadAverage::default());
        Arc::new(Self {
            kernel,
            machine,
            limits: spec.limits,
            id_maps: [spec.uid_mappings.clone(), spec.gid_mappings.clone()],
            sysctl: spec.sysctl.clone(),
            boot_id,
            load,
        })
    }

    /// Memory that the sandbox may use, in bytes.
    pub fn total_memory(&self) -> u64 {
        self.limits.memory_bytes.unwrap_or(u64::MAX).min(self.machine.total_memory)
    }
}

impl Context for Arc<Facts> {}

/// The file system.
pub fn new(facts: &Arc<Facts>) -> Arc<Generated> {
    Generated::new("proc", MAGIC, 0o555, |_| Body::Directory(Box::new(root::Root::new(Arc::clone(facts)))))
}
