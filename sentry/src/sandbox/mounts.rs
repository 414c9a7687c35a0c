//! The tree of mounts that a container's specification describes.
//!
//! The root comes first and needs no task; everything else is mounted by the first process, as root of the
//! container, before its program is looked for.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::errno::{EEXIST, ENOENT, ENOTDIR, EROFS, Errno, SysResult};
use wire::Client;

use super::StartError;
use crate::fs::cgroup;
use crate::fs::dev::{self, Console};
use crate::fs::generated;
use crate::fs::gofer::GoferFs;
use crate::fs::mqueue;
use crate::fs::overlay::Overlay;
use crate::fs::proc::{self, HostMachine};
use crate::fs::sys;
use crate::fs::tmpfs::{self, Tmpfs};
use crate::kernel::Kernel;
use crate::spec::{
    AccessTimes, ContainerSpec, DeviceKind, DeviceNode, MountKind, MountSpec, SandboxSpec, TmpfsOptions,
};
use crate::task::Task;
use crate::time::Timers;
use crate::vfs::{
    DeviceNumber, FileKind, FileSystem, Last, Location, MountFlags, MountNamespace, NewKind, Recursive,
    WalkFlags,
};

/// Directories above which a missing mount point is not made; deeper paths are hostile.
const DEPTH_MAX: usize = 64;

/// What mounting needs to know.
pub(super) struct Plan {
    client: Client,
    container: ContainerSpec,
    memory_limit: Option<u64>,
}

/// Offers file systems and drivers to `mount(2)` and `open(2)`.
pub(super) fn register(kernel: &Arc<Kernel>, spec: &SandboxSpec, machine: HostMachine) {
    let facts = proc::Facts::new(Arc::clone(kernel), machine, spec);
    let memory_limit_bytes = spec.limits.memory_bytes;
    for (name, instance) in
        [("proc", proc::new(&facts)), ("sysfs", sys::new(&facts)), ("cgroup2", cgroup::new(&facts))]
    {
        kernel.vfs.register_file_system(name, generated::Factory::of(instance));
    }
    kernel.vfs.register_file_system("mqueue", Arc::new(mqueue::Factory));
    kernel.vfs.register_file_system("tmpfs", Arc::new(tmpfs::options::Factory { memory_limit_bytes }));
    dev::register(&kernel.vfs.devices);
}

/// Connects to the gofer and makes the namespace with the container's root.
pub(super) fn root(
    spec: &SandboxSpec,
    gofer: OwnedFd,
    timers: &Arc<Timers>,
) -> Result<(Arc<MountNamespace>, Plan), StartError> {
    let client = Client::new(gofer);
    let memory_limit = spec.limits.memory_bytes;
    let root = &spec.container.root;
    let failed = |errno| StartError::Failed("root file system", errno);
    let file_system = tree(&client, timers, root.gofer_tree, root.overlay, memory_limit).map_err(failed)?;
    let namespace = MountNamespace::new(file_system, MountFlags::RELATIME);
    Ok((namespace, Plan { client, container: spec.container.clone(), memory_limit }))
}

fn tree(
    client: &Client,
    timers: &Arc<Timers>,
    tree: u32,
    overlay: bool,
    memory_limit: Option<u64>,
) -> SysResult<Arc<dyn FileSystem>> {
    let lower = GoferFs::attach(client, tree)?;
    lower.watch_changes(timers);
    let lower: Arc<dyn FileSystem> = lower;
    Ok(if overlay { Overlay::new(&lower, None, memory_limit)? } else { lower })
}

impl Plan {
    /// Mounts everything but the root. `task` is root of the container.
    pub(super) fn carry_out(&self, task: &Task) -> Result<(), StartError> {
        for mount in &self.container.mounts {
            self.mount(task, mount).map_err(|errno| mount_failed(&mount.destination, errno))?;
        }
        for device in &self.container.devices {
            make_device(task, device).map_err(|errno| mount_failed(&device.path, errno))?;
        }
        for path in &self.container.readonly_paths {
            ignore_missing(make_read_only(task, path)).map_err(|errno| mount_failed(path, errno))?;
        }
        for path in &self.container.masked_paths {
            ignore_missing(self.mask(task, path)).map_err(|errno| mount_failed(path, errno))?;
        }
        if self.container.root.readonly {
            let root = task.fs().root().mount;
            root.set_flags(root.flags() | MountFlags::RDONLY);
        }
        Ok(())
    }

    fn mount(&self, task: &Task, spec: &MountSpec) -> SysResult<()> {
        let path = spec.destination.as_bytes();
        let (file_system, is_file): (Arc<dyn FileSystem>, bool) = match &spec.fs {
            MountKind::Gofer { tree: index, is_file, overlay } => {
                (tree(&self.client, &task.kernel.timers, *index, *overlay, self.memory_limit)?, *is_file)
            }
            MountKind::Tmpfs(options) => (Tmpfs::new(options, self.memory_limit), false),
            MountKind::Dev(options) => {
                let terminal = self.container.process.terminal;
                let console = if terminal { Console::Present } else { Console::Absent };
                (dev::new(options, self.memory_limit, console)?, false)
            }
            other => (special(task, other)?, false),
        };
        let at = destination(task, path, is_file)?;
        let copied = match &spec.fs {
            MountKind::Tmpfs(TmpfsOptions { copy_up: true, .. }) => Some(at.clone()),
            _ => None,
        };
        let mount = task.fs().namespace().mount(file_system, at, MountFlags::empty())?;
        if let Some(from) = copied {
            tmpfs::copying::copy_tree(from.inode(), mount.root_location().inode(), task)?;
        }
        mount.set_flags(flags(spec));
        Ok(())
    }

    /// Covers a directory with an empty read-only one, anything else with `/dev/null`.
    fn mask(&self, task: &Task, path: &str) -> SysResult<()> {
        let at = task.walk(libc::AT_FDCWD, path.as_bytes(), WalkFlags::FOLLOW)?;
        let namespace = Arc::clone(task.fs().namespace());
        if at.inode().kind() == FileKind::Directory {
            let options = TmpfsOptions { mode: 0o555, size_bytes: Some(0), ..TmpfsOptions::default() };
            namespace.mount(Tmpfs::new(&options, self.memory_limit), at, MountFlags::RDONLY)?;
        } else {
            let null = task.walk(libc::AT_FDCWD, b"/dev/null", WalkFlags::FOLLOW)?;
            namespace.bind(&null, at, Recursive::No)?;
        }
        Ok(())
    }
}

/// File systems that the kernel makes up, from the registry that `mount(2)` uses too.
fn special(task: &Task, kind: &MountKind) -> SysResult<Arc<dyn FileSystem>> {
    let (name, data) = match kind {
        MountKind::Proc => ("proc", String::new()),
        MountKind::Sysfs => ("sysfs", String::new()),
        MountKind::Devpts { mode, ptmx_mode, gid } => {
            let gid = gid.map_or_else(String::new, |gid| format!(",gid={gid}"));
            ("devpts", format!("mode={mode:o},ptmxmode={ptmx_mode:o}{gid}"))
        }
        MountKind::Mqueue => ("mqueue", String::new()),
        MountKind::Cgroup => ("cgroup2", String::new()),
        MountKind::Gofer { .. } | MountKind::Tmpfs(_) | MountKind::Dev(_) => ("", String::new()),
    };
    task.kernel.vfs.file_system_factory(name.as_bytes())?.make(task, name.as_bytes(), data.as_bytes())
}

fn flags(spec: &MountSpec) -> MountFlags {
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, spec.flags.readonly);
    flags.set(MountFlags::NOSUID, spec.flags.nosuid);
    flags.set(MountFlags::NODEV, spec.flags.nodev);
    flags.set(MountFlags::NOEXEC, spec.flags.noexec);
    flags.set(MountFlags::NODIRATIME, spec.flags.nodiratime);
    flags.set(MountFlags::NOSYMFOLLOW, spec.flags.nosymfollow);
    flags.set(MountFlags::NOATIME, spec.flags.atime == AccessTimes::Never);
    flags.set(MountFlags::RELATIME, spec.flags.atime == AccessTimes::Relative);
    flags
}

fn mount_failed(path: &str, errno: Errno) -> StartError {
    StartError::Invalid(format!("mounting {path:?}: {errno}"))
}

fn ignore_missing(result: SysResult<()>) -> SysResult<()> {
    match result {
        Err(ENOENT | ENOTDIR) => Ok(()),
        other => other,
    }
}

/// The place to mount at, made if it is missing.
fn destination(task: &Task, path: &[u8], is_file: bool) -> SysResult<Location> {
    let find = || task.walk(libc::AT_FDCWD, path, WalkFlags::FOLLOW);
    match find() {
        Err(ENOENT) if is_file => {
            let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            make_directories(task, path.get(..end).unwrap_or_default())?;
            let flags = (libc::O_CREAT | libc::O_WRONLY).cast_unsigned();
            task.open_path(libc::AT_FDCWD, path, flags, 0o755)?;
            find()
        }
        Err(ENOENT) => {
            make_directories(task, path)?;
            find()
        }
        other => other,
    }
}

/// `mkdir -p` as the task.
pub(super) fn make_directories(task: &Task, path: &[u8]) -> SysResult<()> {
    let mut made = Vec::new();
    for component in
        path.split(|byte| *byte == b'/').filter(|component| !component.is_empty()).take(DEPTH_MAX)
    {
        made.push(b'/');
        made.extend_from_slice(component);
        match task.walk(libc::AT_FDCWD, &made, WalkFlags::FOLLOW) {
            Err(ENOENT) => make_node(task, &made, NewKind::Directory, FileKind::Directory, 0o755)?,
            other => drop(other?),
        }
    }
    Ok(())
}

fn make_node(
    task: &Task,
    path: &[u8],
    kind: NewKind<'_>,
    file_kind: FileKind,
    permissions: u32,
) -> SysResult<()> {
    let parent = task.walk_parent(libc::AT_FDCWD, path)?;
    let Last::Name(name) = &parent.last else { return Err(EEXIST) };
    if parent.directory.mount.is_read_only() {
        return Err(EROFS);
    }
    task.create_in(&parent.directory, name, kind, file_kind, permissions).map(drop)
}

fn make_device(task: &Task, device: &DeviceNode) -> SysResult<()> {
    let path = device.path.as_bytes();
    let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    make_directories(task, path.get(..end).unwrap_or_default())?;
    let number = DeviceNumber { major: device.major, minor: device.minor };
    let (kind, file_kind) = match device.kind {
        DeviceKind::Char => (NewKind::Device { block: false, number }, FileKind::CharacterDevice),
        DeviceKind::Block => (NewKind::Device { block: true, number }, FileKind::BlockDevice),
        DeviceKind::Fifo => (NewKind::Fifo, FileKind::Fifo),
    };
    match make_node(task, path, kind, file_kind, device.mode & 0o7777) {
        // The usual ones are there already.
        Err(EEXIST) => {}
        other => other?,
    }
    let made = task.walk(libc::AT_FDCWD, path, WalkFlags::empty())?;
    made.inode().set_attributes(&crate::vfs::SetAttributes {
        permissions: Some(device.mode & 0o7777),
        uid: Some(device.uid),
        gid: Some(device.gid),
        ..Default::default()
    })
}

fn make_read_only(task: &Task, path: &str) -> SysResult<()> {
    let at = task.walk(libc::AT_FDCWD, path.as_bytes(), WalkFlags::FOLLOW)?;
    let mount = task.fs().namespace().bind(&at.clone(), at, Recursive::No)?;
    mount.set_flags(mount.flags() | MountFlags::RDONLY);
    Ok(())
}

/// Reads a file as the task, at most `limit` bytes of it.
pub(super) fn read_file(task: &Task, path: &[u8], limit: usize) -> SysResult<Vec<u8>> {
    let file = task.open_path(libc::AT_FDCWD, path, libc::O_RDONLY.cast_unsigned(), 0)?;
    let mut bytes = Vec::new();
    let mut piece = vec![0; 16 << 10];
    while bytes.len() < limit {
        let count = file.ops.read(bytes.len() as u64, &mut piece, &file)?;
        if count == 0 {
            break;
        }
        bytes.extend_from_slice(piece.get(..count).unwrap_or_default());
    }
    Ok(bytes)
}
