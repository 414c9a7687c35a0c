//! Which of `linux.resources` the host is asked to limit, and which are refused.
//!
//! Neighbours: `cgroup.rs` gives what remains to the crate cgroups-rs. Invariants: what the crate would pass over in silence is
//! refused by name; zero asks for nothing.

use oci_spec::runtime::{LinuxCpu, LinuxResources};

use crate::failure::Failure;

/// Resources that set nothing.
pub fn no_limits() -> LinuxResources {
    let mut none = LinuxResources::default();
    none.set_devices(None);
    none
}

/// Who sets the limits on this host.
#[derive(Debug, Clone, Copy)]
pub struct Host {
    /// Systemd does, not the runtime itself.
    pub systemd: bool,
    /// Cgroups of version 2 alone.
    pub unified: bool,
}

/// The limits that cgroups-rs would not set, without a word.
pub fn refuse_unknown(resources: &LinuxResources, host: Host) -> Result<(), Failure> {
    let anywhere = [
        ("rdma", resources.rdma().as_ref().is_some_and(|limits| !limits.is_empty())),
        ("unified", resources.unified().as_ref().is_some_and(|values| !values.is_empty())),
        ("cpu.idle", asked_of_cpu(resources, |cpu| cpu.idle().is_some())),
        ("cpu.burst", asked_of_cpu(resources, |cpu| cpu.burst().is_some())),
    ];
    refuse(&anywhere, "")?;
    let memory = resources.memory().unwrap_or_default();
    let swapping = [
        ("memory.swappiness", memory.swappiness().is_some()),
        ("memory.disableOOMKiller", memory.disable_oom_killer().unwrap_or(false)),
    ];
    if host.unified {
        refuse(&swapping, " with cgroups of version 2")?;
    }
    if !host.systemd {
        return Ok(());
    }
    let realtime = |cpu: &LinuxCpu| cpu.realtime_runtime().is_some() || cpu.realtime_period().is_some();
    let version_1 = !host.unified;
    let no_property_of_systemd = [
        ("blockIO", resources.block_io().is_some()),
        ("network", resources.network().is_some()),
        ("hugepageLimits", resources.hugepage_limits().as_ref().is_some_and(|limits| !limits.is_empty())),
        ("cpu.realtimeRuntime and cpu.realtimePeriod", asked_of_cpu(resources, realtime)),
        ("memory.reservation", version_1 && memory.reservation().is_some()),
        ("memory.swap", version_1 && memory.swap().is_some()),
        (
            "cpu.cpus and cpu.mems",
            version_1 && asked_of_cpu(resources, |cpu| cpu.cpus().is_some() || cpu.mems().is_some()),
        ),
    ];
    refuse(&no_property_of_systemd, " with --systemd-cgroup")?;
    refuse(&swapping, " with --systemd-cgroup")
}

fn asked_of_cpu(resources: &LinuxResources, asked: impl Fn(&LinuxCpu) -> bool) -> bool {
    resources.cpu().as_ref().is_some_and(asked)
}

/// Fails with the first field that is asked for.
fn refuse(fields: &[(&str, bool)], wherever: &str) -> Result<(), Failure> {
    match fields.iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(Failure::new(format!("linux.resources.{field} is not supported{wherever}"))),
        None => Ok(()),
    }
}

/// Engines write 0 where nothing was asked for; the host would take it for a limit, or refuse it.
pub fn drop_zeros(resources: &mut LinuxResources) {
    if let Some(mut cpu) = resources.cpu().clone() {
        cpu.set_shares(cpu.shares().filter(|n| *n != 0));
        cpu.set_quota(cpu.quota().filter(|n| *n != 0));
        cpu.set_period(cpu.period().filter(|n| *n != 0));
        cpu.set_realtime_runtime(cpu.realtime_runtime().filter(|n| *n != 0));
        cpu.set_realtime_period(cpu.realtime_period().filter(|n| *n != 0));
        cpu.set_cpus(cpu.cpus().clone().filter(|list| !list.is_empty()));
        cpu.set_mems(cpu.mems().clone().filter(|list| !list.is_empty()));
        cpu.set_idle(cpu.idle().filter(|n| *n != 0));
        cpu.set_burst(cpu.burst().filter(|n| *n != 0));
        resources.set_cpu(Some(cpu));
    }
    if let Some(mut io) = resources.block_io().clone() {
        io.set_weight(io.weight().filter(|n| *n != 0));
        io.set_leaf_weight(io.leaf_weight().filter(|n| *n != 0));
        resources.set_block_io(Some(io));
    }
    if let Some(mut memory) = *resources.memory() {
        memory.set_reservation(memory.reservation().filter(|n| *n != 0));
        memory.set_swap(memory.swap().filter(|n| *n != 0));
        resources.set_memory(Some(memory));
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder, LinuxRdma};

    use super::*;

    #[test]
    fn what_the_crate_would_not_set_is_refused_by_name() {
        let refused = |resources: &LinuxResources, systemd, unified| {
            refuse_unknown(resources, Host { systemd, unified }).err().map(|failure| failure.message)
        };
        let mut resources = no_limits();
        assert_eq!(refused(&resources, true, true), None);
        resources.set_rdma(Some([("mlx5_1".to_owned(), LinuxRdma::default())].into()));
        let message = refused(&resources, false, false).unwrap();
        assert_eq!(message, "linux.resources.rdma is not supported");
        let mut resources = no_limits();
        resources.set_cpu(LinuxCpuBuilder::default().idle(1).build().ok());
        assert!(refused(&resources, false, false).unwrap().contains("cpu.idle"));
        resources.set_cpu(LinuxCpuBuilder::default().realtime_period(5_u64).build().ok());
        assert_eq!(refused(&resources, false, false), None);
        assert!(refused(&resources, true, false).unwrap().contains("cpu.realtimePeriod"));
        resources.set_cpu(LinuxCpuBuilder::default().cpus("0".to_owned()).build().ok());
        assert_eq!(refused(&resources, true, true), None);
        assert!(refused(&resources, true, false).unwrap().contains("cpu.cpus"));
        let mut resources = no_limits();
        resources.set_memory(LinuxMemoryBuilder::default().limit(5).swap(10).reservation(4).build().ok());
        assert_eq!(refused(&resources, false, false), None);
        assert_eq!(refused(&resources, true, true), None);
        assert!(refused(&resources, true, false).unwrap().contains("memory.reservation"));
        resources.set_memory(LinuxMemoryBuilder::default().swappiness(60_u64).build().ok());
        assert_eq!(refused(&resources, false, false), None);
        assert!(refused(&resources, false, true).unwrap().contains("memory.swappiness"));
        assert!(refused(&resources, true, false).unwrap().contains("memory.swappiness"));
    }

    #[test]
    fn zero_asks_for_nothing() {
        let mut resources = no_limits();
        resources.set_cpu(LinuxCpuBuilder::default().quota(0).shares(0_u64).period(5_u64).build().ok());
        resources.set_memory(LinuxMemoryBuilder::default().limit(5).reservation(0).build().ok());
        drop_zeros(&mut resources);
        let cpu = resources.cpu().clone().unwrap();
        assert_eq!((cpu.quota(), cpu.shares(), cpu.period()), (None, None, Some(5)));
        let memory = resources.memory().unwrap();
        assert_eq!((memory.limit(), memory.reservation()), (Some(5), None));
    }
}
