//! `/dev`: a tmpfs with the nodes that every container has (the OCI runtime specification, "Default Devices" and "Default
//! Filesystems"), and the drivers that have no subsystem of their own.
//!
//! A node is only a number; the VFS finds the driver. Terminals register theirs themselves.

mod memory;

use std::sync::Arc;

use abi::errno::SysResult;

pub use memory::{MAJOR as MEMORY_MAJOR, MemoryDevice};

use super::tmpfs::Tmpfs;
use crate::spec::TmpfsOptions;
use crate::task::Task;
use crate::vfs::{
    DeviceClass, DeviceDriver, DeviceNumber, DeviceTable, FileOps, FileSystem, Inode, NewKind, NewNode,
    OpenRequest,
};

/// Whether there is a `/dev/console`: only where the container has a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// There is none.
    Absent,
    /// There is one.
    Present,
}

/// Name, major, minor.
const NODES: [(&[u8], u32, u32); 6] = [
    (b"null", 1, 3),
    (b"zero", 1, 5),
    (b"full", 1, 7),
    (b"random", 1, 8),
    (b"urandom", 1, 9),
    (b"tty", 5, 0),
];
/// Name and target.
const LINKS: [(&[u8], &[u8]); 5] = [
    (b"fd", b"/proc/self/fd"),
    (b"stdin", b"/proc/self/fd/0"),
    (b"stdout", b"/proc/self/fd/1"),
    (b"stderr", b"/proc/self/fd/2"),
    (b"ptmx", b"pts/ptmx"),
];
/// Name and mode of the directories for mounts.
const DIRECTORIES: [(&[u8], u32); 3] = [(b"pts", 0o755), (b"shm", 0o1777), (b"mqueue", 0o1777)];

/// A `/dev` to be mounted.
///
/// # Errors
/// `ENOSPC`: its limits are too tight for the nodes.
pub fn new(
    options: &TmpfsOptions,
    memory_limit_bytes: Option<u64>,
    console: Console,
) -> SysResult<Arc<Tmpfs>> {
    let dev = Tmpfs::new(options, memory_limit_bytes);
    let root = dev.root();
    let make = |name: &[u8], kind: NewKind<'_>, permissions: u32| {
        root.create(name, &NewNode { kind, permissions, uid: 0, gid: 0 }).map(drop)
    };
    for (name, major, minor) in NODES {
        make(name, NewKind::Device { block: false, number: DeviceNumber { major, minor } }, 0o666)?;
    }
    if console == Console::Present {
        let number = DeviceNumber { major: 5, minor: 1 };
        make(b"console", NewKind::Device { block: false, number }, 0o620)?;
    }
    for (name, target) in LINKS {
        make(name, NewKind::Symlink(target), 0o777)?;
    }
    for (name, mode) in DIRECTORIES {
        make(name, NewKind::Directory, mode)?;
    }
    Ok(dev)
}

/// Registers the drivers that live here.
pub fn register(devices: &DeviceTable) {
    devices.register_major(DeviceClass::Character, MEMORY_MAJOR, Arc::new(MemoryDriver));
}

/// Opens the devices of major number 1.
struct MemoryDriver;

impl DeviceDriver for MemoryDriver {
    fn open(
        &self,
        _task: &Task,
        inode: &Arc<dyn Inode>,
        _request: OpenRequest,
    ) -> SysResult<Arc<dyn FileOps>> {
        Ok(MemoryDevice::from_number(inode.attributes()?.device_number)?.file())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_nodes_are_there() {
        let dev = new(&TmpfsOptions { mode: 0o755, ..Default::default() }, None, Console::Absent).unwrap();
        let root = dev.root();
        for (name, major, minor) in NODES {
            let attributes = root.lookup(name).unwrap().attributes().unwrap();
            assert_eq!(attributes.device_number, DeviceNumber { major, minor });
            assert_eq!(attributes.mode(), 0o020_666);
        }
        assert_eq!(root.lookup(b"shm").unwrap().attributes().unwrap().permissions, 0o1777);
        assert_eq!(root.lookup(b"stdin").unwrap().attributes().unwrap().size, 15);
        assert!(root.lookup(b"console").is_err());
    }
}
