//! From OCI's `config.json` to a [`Plan`]: every field is honoured, refused by its name, or listed in
//! `docs/oci-config.md` as ignored with the reason.
//!
//! Key functions: [`plan`], and [`process::process`] for `exec --process`.
//! Neighbours: `bundle.rs` reads the file; `process.rs` and `mounts.rs` do the two large parts.
//! Invariants: what leaves here holds no OCI type but hooks and cgroup resources; nothing on the host has been changed.

pub mod mounts;
pub mod process;

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::unistd::gethostname;
use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceType, LinuxIdMapping, LinuxNamespaceType, LinuxPersonalityDomain, Spec,
};
use sentry::spec::{
    ContainerSpec, DeviceKind, DeviceNode, FirstProcess, HostUds, NetworkMode, RootMount, SandboxLimits,
    SandboxSpec, TimeOffsets,
};

use super::cgroup::CgroupPlan;
use super::id::ContainerId;
use super::plan::{IdRange, Namespaces, NetworkNamespace, Plan, Tree};
use crate::failure::{Attempt, Failure};
use crate::options::{Globals, OverlayMode};
use mounts::Mounts;

/// Judges a configuration.
pub fn plan(globals: &Globals, id: &ContainerId, bundle: PathBuf, spec: &Spec) -> Result<Plan, Failure> {
    let linux = spec.linux().clone().unwrap_or_default();
    refuse_unsupported(globals, &linux)?;
    let process = spec
        .process()
        .as_ref()
        .ok_or_else(|| Failure::new("process: is missing, and there is nothing else to run"))?;
    let rootfs = rootfs(spec, &bundle)?;
    let readonly = spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false);
    let overlay = globals.overlay2()? != OverlayMode::None;
    let mut trees = vec![root_tree(globals, rootfs.clone(), readonly || overlay)];
    let mut mounts = Mounts::new(globals, &bundle, &mut trees)?;
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        mounts.add(mount).attempt(|| format!("mounts[{index}] ({})", mount.destination().display()))?;
    }
    let mounts = mounts.finish();
    let namespaces = namespaces(globals, &linux)?;
    let container = ContainerSpec {
        id: id.as_str().to_owned(),
        root: RootMount { gofer_tree: 0, readonly, overlay },
        mounts,
        devices: devices(&linux)?,
        masked_paths: linux.masked_paths().clone().unwrap_or_default(),
        readonly_paths: linux.readonly_paths().clone().unwrap_or_default(),
        process: process::process(process)?,
        first_process: FirstProcess::Init,
    };
    let sandbox = SandboxSpec {
        platform: globals.platform,
        hostname: hostname(spec, &linux),
        domainname: spec.domainname().clone().unwrap_or_default(),
        network: network_mode(globals, &namespaces),
        strace: globals.strace_options(),
        limits: limits(&linux),
        sysctl: linux.sysctl().clone().unwrap_or_default().into_iter().collect(),
        host_uds: globals.host_uds,
        time_offsets: time_offsets(&linux)?,
        uid_mappings: id_ranges(linux.uid_mappings().as_ref()),
        gid_mappings: id_ranges(linux.gid_mappings().as_ref()),
        container,
    };
    Ok(Plan {
        sandbox,
        trees,
        oci_version: spec.version().clone(),
        bundle,
        rootfs,
        annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
        hooks: spec.hooks().clone(),
        cgroup: CgroupPlan::from_config(globals, id, &linux)?,
        namespaces,
    })
}

fn refuse_unsupported(globals: &Globals, linux: &Linux) -> Result<(), Failure> {
    let refuse =
        |field: &str, reason: &str| Err(Failure::new(format!("linux.{field} is not supported: {reason}")));
    if linux.intel_rdt().is_some() {
        return refuse("intelRdt", "it steers the host's cache, which a sandbox does not reach");
    }
    if linux.memory_policy().is_some() {
        return refuse("memoryPolicy", "the sandbox has one memory node");
    }
    if linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
        return refuse("netDevices", "the sandbox takes over a network namespace, not single devices");
    }
    if let Some(personality) = linux.personality()
        && personality.domain() != LinuxPersonalityDomain::PerLinux
    {
        return refuse("personality", "only LINUX exists");
    }
    if globals.oci_seccomp && linux.seccomp().is_some() {
        return refuse("seccomp", "this kernel filters no calls inside the sandbox; omit --oci-seccomp");
    }
    Ok(())
}

fn rootfs(spec: &Spec, bundle: &Path) -> Result<PathBuf, Failure> {
    let root = spec.root().as_ref().ok_or_else(|| Failure::new("root: is missing"))?;
    let path = bundle.join(root.path());
    let rootfs =
        std::fs::canonicalize(&path).attempt(|| format!("invalid rootfs: root.path {}", path.display()))?;
    if !rootfs.is_dir() {
        return Err(Failure::new(format!(
            "invalid rootfs: root.path {} is not a directory",
            rootfs.display()
        )));
    }
    Ok(rootfs)
}

/// The first tree of every container. An overlay never writes to it.
pub fn root_tree(globals: &Globals, source: PathBuf, readonly: bool) -> Tree {
    Tree {
        source,
        readonly,
        exclusive: globals.exclusive_root(),
        connect_uds: matches!(globals.host_uds, HostUds::Open | HostUds::All),
        create_uds: !readonly && matches!(globals.host_uds, HostUds::Create | HostUds::All),
    }
}

/// The name that is configured, otherwise the one that Linux would begin with: that of the namespace to be joined (a pod's), or the
/// caller's.
fn hostname(spec: &Spec, linux: &Linux) -> String {
    if let Some(name) = spec.hostname().clone().filter(|name| !name.is_empty()) {
        return name;
    }
    let mut namespaces = linux.namespaces().iter().flatten();
    let joined = namespaces.find(|namespace| namespace.typ() == LinuxNamespaceType::Uts);
    let name = match joined.and_then(|namespace| namespace.path().clone()) {
        None => gethostname().map_err(Failure::from),
        Some(path) => {
            let name = hostname_in(path.clone());
            name.attempt(|| format!("the host name in linux.namespaces {}", path.display()))
        }
    };
    let name = name.inspect_err(|failure| tracing::warn!("the container has no host name: {failure}"));
    name.unwrap_or_default().to_string_lossy().into_owned()
}

/// A thread of its own looks: a thread that has joined a namespace stays there.
fn hostname_in(namespace: PathBuf) -> Result<OsString, Failure> {
    let look = move || -> Result<OsString, Failure> {
        setns(File::open(namespace)?, CloneFlags::CLONE_NEWUTS)?;
        Ok(gethostname()?)
    };
    thread::spawn(look).join().map_err(|_panic| Failure::new("the thread that looks panicked"))?
}

fn namespaces(globals: &Globals, linux: &Linux) -> Result<Namespaces, Failure> {
    let mut network = None;
    for namespace in linux.namespaces().iter().flatten() {
        match (namespace.typ(), namespace.path()) {
            (LinuxNamespaceType::Network, Some(path)) => network = Some(NetworkNamespace::Join(path.clone())),
            (LinuxNamespaceType::Network, None) => network = Some(NetworkNamespace::New),
            // Only its name is taken over, see [`hostname`].
            (LinuxNamespaceType::Uts, Some(_)) => {}
            (LinuxNamespaceType::Ipc | LinuxNamespaceType::Cgroup, Some(path)) => {
                tracing::warn!("linux.namespaces {} is ignored: every sandbox has its own", path.display());
            }
            (typ, Some(path)) => {
                let path = path.display();
                let kind = serde_json::to_string(&typ).unwrap_or_default();
                return Err(Failure::new(format!(
                    "linux.namespaces: joining the {kind} namespace {path} is not supported: every sandbox has its own"
                )));
            }
            (_, None) => {}
        }
    }
    let network = match (globals.network, network) {
        (Some(NetworkMode::Host), Some(NetworkNamespace::Join(path))) => NetworkNamespace::Join(path),
        (Some(NetworkMode::Host), _) => NetworkNamespace::Inherit,
        (_, Some(given)) => given,
        (_, None) => {
            tracing::warn!("linux.namespaces has no network: the host's is only shared with --network=host");
            NetworkNamespace::New
        }
    };
    Ok(Namespaces {
        network,
        uid_mappings: id_ranges(linux.uid_mappings().as_ref()),
        gid_mappings: id_ranges(linux.gid_mappings().as_ref()),
    })
}

fn id_ranges(mappings: Option<&Vec<LinuxIdMapping>>) -> Vec<IdRange> {
    let range =
        |m: &LinuxIdMapping| IdRange { inside: m.container_id(), outside: m.host_id(), count: m.size() };
    mappings.into_iter().flatten().map(range).collect()
}

/// `--network`, or what the namespace suggests: a namespace that somebody has set up is there to be used.
fn network_mode(globals: &Globals, namespaces: &Namespaces) -> NetworkMode {
    globals.network.unwrap_or(match namespaces.network {
        NetworkNamespace::Join(_) => NetworkMode::Sandbox,
        NetworkNamespace::New | NetworkNamespace::Inherit => NetworkMode::None,
    })
}

fn limits(linux: &Linux) -> SandboxLimits {
    let Some(resources) = linux.resources() else { return SandboxLimits::default() };
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let memory_bytes = resources.memory().as_ref().and_then(|memory| memory.limit()).and_then(positive);
    let tasks = resources.pids().as_ref().and_then(|pids| positive(pids.limit()));
    let cpu_millis = resources.cpu().as_ref().and_then(|cpu| {
        let quota = positive(cpu.quota()?)?;
        let period = cpu.period().filter(|period| *period > 0).unwrap_or(100_000);
        Some((quota.saturating_mul(1000) / period).max(1))
    });
    SandboxLimits { memory_bytes, tasks, cpu_millis }
}

fn time_offsets(linux: &Linux) -> Result<TimeOffsets, Failure> {
    let mut offsets = TimeOffsets::default();
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        let seconds = offset.secs().unwrap_or(0);
        let nanoseconds = seconds
            .checked_mul(1_000_000_000)
            .and_then(|ns| ns.checked_add(i64::from(offset.nanosecs().unwrap_or(0))))
            .ok_or_else(|| Failure::new(format!("linux.timeOffsets.{clock}: out of range")))?;
        match clock.as_str() {
            "monotonic" => offsets.monotonic_ns = nanoseconds,
            "boottime" => offsets.boottime_ns = nanoseconds,
            other => return Err(Failure::new(format!("linux.timeOffsets: there is no clock {other:?}"))),
        }
    }
    Ok(offsets)
}

fn devices(linux: &Linux) -> Result<Vec<DeviceNode>, Failure> {
    linux.devices().iter().flatten().map(device).collect()
}

fn device(device: &LinuxDevice) -> Result<DeviceNode, Failure> {
    let path = text(device.path()).attempt(|| "linux.devices".to_owned())?;
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::P => DeviceKind::Fifo,
        LinuxDeviceType::A => {
            return Err(Failure::new(format!("linux.devices {path}: type \"a\" is not a device")));
        }
    };
    let number = |value: i64| {
        u32::try_from(value)
            .map_err(|_| Failure::new(format!("linux.devices {path}: number {value} is out of range")))
    };
    Ok(DeviceNode {
        major: number(device.major())?,
        minor: number(device.minor())?,
        kind,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
        path,
    })
}

/// A path of the container as text.
pub fn text(path: &Path) -> Result<String, Failure> {
    let text = path.to_str().ok_or_else(|| Failure::new(format!("{} is not UTF-8", path.display())))?;
    no_nul(text)?;
    if !text.starts_with('/') {
        return Err(Failure::new(format!("{text:?} is not an absolute path")));
    }
    Ok(text.to_owned())
}

/// The kernel's strings end at a NUL, so one inside would silently cut them.
pub fn no_nul(text: &str) -> Result<(), Failure> {
    if text.contains('\0') { Err(Failure::new(format!("{text:?} holds a NUL byte"))) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
