//! What a gofer gives up before it serves: the host's file system, capabilities, system calls.
//!
//! In order: each tree is cloned into a detached mount (read-only where asked, without set-id and devices, private),
//! so that nothing above its root can be reached from it; so is our own `/proc/self/fd`; the process moves into an
//! empty read-only tmpfs and lets the old root go; capabilities shrink to those that file owners need; the filter
//! goes in. `man 2 open_tree`, `mount_setattr`, `pivot_root`.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, open, openat, statat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
    unmount,
};
use rustix::process::{Resource, Rlimit, chdir, fchdir, getrlimit, pivot_root, setrlimit, umask};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use tracing::warn;
use wire::TreeFlags;

use crate::connection::{ServedTree, Server};
use crate::filter::{self, Facts};
use crate::handles::{Budget, Handles, MAX_HELD, RESERVED};
use crate::host::{
    MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, set_mount_attributes, share_one_arena,
};
use crate::{DeviceNodes, GoferConfig, Tree};

/// What to do where no mount can be made (no `CAP_SYS_ADMIN`, as without a user namespace).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confinement {
    /// Fail.
    Required,
    /// Serve the sources themselves. The sentry is still kept inside by how names are resolved, and read-only trees
    /// by a check on each request; but a gofer that was itself taken over would reach all its user may.
    BestEffort,
}

/// The step of the setup that failed.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("cannot open /proc/self/fd: {0}; is /proc mounted?")]
    OwnDescriptors(#[source] Errno),
    #[error("the gofer has several threads; only the calling one could be confined")]
    Threads,
    #[error(
        "descriptor {0} is a directory of the host; start the gofer with its socket and standard streams only"
    )]
    LeakedDirectory(String),
    #[error("cannot {step} {}: {error}", path.display())]
    Tree { step: &'static str, path: PathBuf, error: Errno },
    #[error("cannot {step}: {error}; a gofer needs CAP_SYS_ADMIN here, or a user namespace of its own")]
    Mounts { step: &'static str, error: Errno },
    #[error("cannot {step}: {error}")]
    Privileges { step: &'static str, error: Errno },
    #[error("cannot install the system call filter: {0}")]
    Filter(#[from] allowlist::Error),
}

/// Does everything above. On return the process can do no more than serve.
pub fn confine(config: GoferConfig) -> Result<(Server, OwnedFd), SetupError> {
    confine_with(config, filter::program_of)
}

/// [`confine`] with another filter.
pub(crate) fn confine_with(
    config: GoferConfig,
    program: impl FnOnce(&Facts) -> Vec<allowlist::Step>,
) -> Result<(Server, OwnedFd), SetupError> {
    refuse_other_threads()?;
    share_one_arena();
    // A limit on file sizes would turn the sentry's `truncate` into a deadly SIGXFSZ.
    raise_limit(Resource::Fsize);
    let budget = descriptor_budget();
    let (trees, descriptors) = match isolate(&config.trees) {
        Err(SetupError::Mounts { step, error }) if config.confinement == Confinement::BestEffort => {
            warn!(target: "gofer", step, %error, "no mount can be made: serving the sources themselves");
            (open_sources(&config.trees)?, own_descriptors()?)
        }
        result => result?,
    };
    refuse_leaked_directories(&descriptors, &trees)?;
    // For `connect` and `bind`, which know only paths.
    fchdir(&descriptors).map_err(SetupError::OwnDescriptors)?;
    umask(Mode::empty());
    drop_capabilities(config.device_nodes)?;
    let facts = Facts {
        descriptors: descriptors.as_raw_fd(),
        device_nodes: config.device_nodes,
        host_sockets: config.trees.iter().any(|tree| tree.flags.contains(TreeFlags::HOST_SOCKETS)),
    };
    filter::install(&program(&facts))?;
    let server = Server {
        handles: Handles::default(),
        budget: Budget::new(budget),
        trees,
        descriptors,
        device_nodes: config.device_nodes,
        channels: Default::default(),
    };
    Ok((server, config.socket))
}

/// A new root, and a filter, take effect for one thread only.
fn refuse_other_threads() -> Result<(), SetupError> {
    let tasks = statat(CWD, c"/proc/self/task", AtFlags::empty()).map_err(SetupError::OwnDescriptors)?;
    // A directory's own two links, and one for each thread.
    if tasks.st_nlink > 3 { Err(SetupError::Threads) } else { Ok(()) }
}

/// How many descriptors may be held for the sentry, with the soft limit raised to the hard one.
fn descriptor_budget() -> usize {
    let limit =
        raise_limit(Resource::Nofile).map_or(MAX_HELD, |limit| usize::try_from(limit).unwrap_or(MAX_HELD));
    limit.saturating_sub(RESERVED).min(MAX_HELD)
}

/// Raises a soft limit as far as the hard one, which takes no privilege, and returns what holds now.
fn raise_limit(resource: Resource) -> Option<u64> {
    let limit = getrlimit(resource);
    let raised = setrlimit(resource, Rlimit { current: limit.maximum, maximum: limit.maximum });
    if raised.is_ok() { limit.maximum } else { limit.current }
}

/// A mount namespace with nothing in it; the trees and our own descriptors as detached mounts.
fn isolate(trees: &[Tree]) -> Result<(Vec<ServedTree>, OwnedFd), SetupError> {
    let failed = |step| move |error| SetupError::Mounts { step, error };
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .map_err(|error| Errno::from_io_error(&error.into()).unwrap_or(Errno::IO))
        .map_err(failed("leave the mount namespace"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(failed("stop mounts from propagating to the host"))?;
    let trees = trees.iter().map(clone_tree).collect::<Result<_, _>>()?;
    // Of `/proc` only our own descriptors: from a descriptor of the directory itself `..` would lead to all of it.
    let own = own_descriptors()?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let descriptors = open_tree(&own, c"", flags).map_err(failed("clone /proc/self/fd"))?;
    enter_empty_root().map_err(failed("move into an empty root"))?;
    Ok((trees, descriptors))
}

/// A detached copy of a tree and of what is mounted beneath it.
fn clone_tree(tree: &Tree) -> Result<ServedTree, SetupError> {
    let failed = |step| move |error| SetupError::Tree { step, path: tree.source.clone(), error };
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let root = open_tree(CWD, &tree.source, flags).map_err(failed("clone the mounts of"))?;
    let read_only = if tree.flags.contains(TreeFlags::READ_ONLY) { MOUNT_ATTR_RDONLY } else { 0 };
    set_mount_attributes(root.as_fd(), MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | read_only)
        .map_err(failed("restrict the mounts of"))?;
    Ok(ServedTree { root, flags: tree.flags, is_isolated: true, watches: Default::default() })
}

/// Replaces the root by an empty read-only tmpfs that holds nothing, not even a mount point.
fn enter_empty_root() -> Result<(), Errno> {
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), c"size", c"4096")?;
    fsconfig_set_string(context.as_fd(), c"nr_inodes", c"1")?;
    fsconfig_set_string(context.as_fd(), c"mode", c"0555")?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let empty = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    move_mount(&empty, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    fchdir(&empty)?;
    // The old root ends up on top of the new one, from where it is taken away (`man 2 pivot_root`, under NOTES).
    pivot_root(c".", c".")?;
    unmount(c".", UnmountFlags::DETACH)?;
    chdir(c"/")
}

/// The sources themselves, where nothing can be mounted.
fn open_sources(trees: &[Tree]) -> Result<Vec<ServedTree>, SetupError> {
    let open_source = |tree: &Tree| {
        let root = open_path(&tree.source).map_err(|error| SetupError::Tree {
            step: "open",
            path: tree.source.clone(),
            error,
        })?;
        Ok(ServedTree { root, flags: tree.flags, is_isolated: false, watches: Default::default() })
    };
    trees.iter().map(open_source).collect()
}

fn own_descriptors() -> Result<OwnedFd, SetupError> {
    open_path(Path::new("/proc/self/fd")).map_err(SetupError::OwnDescriptors)
}

fn open_path(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// Refuses to start with a directory open that is no tree: it would be a way out of the empty root.
fn refuse_leaked_directories(descriptors: &OwnedFd, trees: &[ServedTree]) -> Result<(), SetupError> {
    let listing =
        openat(descriptors, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(SetupError::OwnDescriptors)?;
    let name = |descriptor: BorrowedFd<'_>| descriptor.as_raw_fd().to_string().into_bytes();
    let mut ours: BTreeSet<_> = trees.iter().map(|tree| name(tree.root.as_fd())).collect();
    ours.extend([name(listing.as_fd()), name(descriptors.as_fd()), b".".to_vec(), b"..".to_vec()]);
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut entries = RawDir::new(&listing, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(SetupError::OwnDescriptors)?;
        let number = entry.file_name();
        if ours.contains(number.to_bytes()) {
            continue;
        }
        let stat = statat(descriptors, number, AtFlags::empty()).map_err(SetupError::OwnDescriptors)?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory {
            return Err(SetupError::LeakedDirectory(number.to_string_lossy().into_owned()));
        }
    }
    Ok(())
}

/// Keeps what serving files of any owner takes, as far as the process has it.
fn drop_capabilities(device_nodes: DeviceNodes) -> Result<(), SetupError> {
    let failed = |step| move |error| SetupError::Privileges { step, error };
    let mut wanted = CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::DAC_READ_SEARCH
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID;
    if device_nodes == DeviceNodes::Allowed {
        wanted |= CapabilitySet::MKNOD;
    }
    let held = capabilities(None).map_err(failed("read the capabilities"))?;
    let kept = held.permitted & wanted;
    if held.effective.contains(CapabilitySet::SETPCAP) {
        for capability in wanted.complement().iter() {
            match remove_capability_from_bounding_set(capability) {
                // `EINVAL`: this kernel does not know the capability.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(error) => return Err(failed("shrink the capability bounding set")(error)),
            }
        }
    }
    clear_ambient_capability_set().map_err(failed("clear the ambient capabilities"))?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(failed("drop capabilities"))?;
    set_no_new_privs(true).map_err(failed("forbid new privileges"))
}
