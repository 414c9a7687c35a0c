//! The devices of terminals: `/dev/ptmx` (5:2), `/dev/tty` (5:0), `/dev/console` (5:1), and the slaves (136:N).

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use abi::errno::{EBUSY, ENXIO, SysResult};
use parking_lot::Mutex;

use super::job_control::is_leader;
use super::{MasterFile, PTMX, SLAVE_MAJOR, SlaveFile, Terminal, host};
use crate::fs::devpts::{self, Devpts, DevptsFactory};
use crate::kernel::Kernel;
use crate::spec::WindowSize;
use crate::task::Task;
use crate::vfs::{
    DeviceClass, DeviceDriver, DeviceNumber, FileDescription, FileOps, Inode, Location, OpenRequest,
};

/// `CAP_SYS_ADMIN`
const CAP_SYS_ADMIN: u32 = 21;
/// `/dev/tty`
const CURRENT: DeviceNumber = DeviceNumber { major: 5, minor: 0 };
/// `/dev/console`
const CONSOLE: DeviceNumber = DeviceNumber { major: 5, minor: 1 };

/// What the kernel knows of terminals.
#[derive(Default)]
pub struct Terminals {
    /// What `/dev/console` is: the terminal of the container's first process.
    console: Mutex<Weak<Terminal>>,
    /// Terminals of the host in containers that have no `/dev/pts`.
    private: Mutex<Option<Arc<Devpts>>>,
}

/// Registers the drivers and the file system `devpts`.
pub fn register(kernel: &Arc<Kernel>) {
    let devices = &kernel.vfs.devices;
    devices.register(DeviceClass::Character, PTMX, Arc::new(MasterDriver));
    devices.register(DeviceClass::Character, CURRENT, Arc::new(CurrentDriver));
    devices.register(DeviceClass::Character, CONSOLE, Arc::new(ConsoleDriver));
    devices.register_major(DeviceClass::Character, SLAVE_MAJOR, Arc::new(SlaveDriver));
    kernel.vfs.register_file_system("devpts", Arc::new(DevptsFactory));
}

/// `/dev/ptmx`: each opening makes a pseudo-terminal.
struct MasterDriver;

impl DeviceDriver for MasterDriver {
    fn open(
        &self,
        task: &Task,
        inode: &Arc<dyn Inode>,
        _request: OpenRequest,
    ) -> SysResult<Arc<dyn FileOps>> {
        // A node outside of any devpts stands for the instance that is mounted where everybody looks for it.
        let instance = match devpts::instance_of(inode) {
            Some(instance) => instance,
            None => devpts::mounted(task).ok_or(ENXIO)?.0,
        };
        let credentials = task.credentials();
        let kernel = Arc::downgrade(&task.kernel);
        let terminal = instance.allocate(credentials.fsuid, credentials.fsgid, |weak, number| {
            Terminal::new(&kernel, weak, number)
        })?;
        Ok(MasterFile::new(terminal))
    }
}

/// `/dev/tty`: the caller's controlling terminal.
struct CurrentDriver;

impl DeviceDriver for CurrentDriver {
    fn open(
        &self,
        task: &Task,
        _inode: &Arc<dyn Inode>,
        request: OpenRequest,
    ) -> SysResult<Arc<dyn FileOps>> {
        let terminal = task.group.controlling_terminal().ok_or(ENXIO)?;
        open_slave(&terminal, task, request)
    }
}

/// `/dev/console`.
struct ConsoleDriver;

impl DeviceDriver for ConsoleDriver {
    fn open(
        &self,
        task: &Task,
        _inode: &Arc<dyn Inode>,
        request: OpenRequest,
    ) -> SysResult<Arc<dyn FileOps>> {
        let terminal = task.kernel.terminals.console.lock().upgrade().ok_or(ENXIO)?;
        open_slave(&terminal, task, request)
    }
}

/// `/dev/pts/N`.
struct SlaveDriver;

impl DeviceDriver for SlaveDriver {
    fn open(&self, task: &Task, inode: &Arc<dyn Inode>, request: OpenRequest) -> SysResult<Arc<dyn FileOps>> {
        let terminal = devpts::terminal_of(inode).ok_or(ENXIO)?;
        open_slave(&terminal, task, request)
    }
}

/// Opens the programs' side; a session leader without a terminal gets this one, unless `O_NOCTTY`.
fn open_slave(terminal: &Arc<Terminal>, task: &Task, request: OpenRequest) -> SysResult<Arc<dyn FileOps>> {
    if terminal.look(|state| state.exclusive) && !task.credentials().has(CAP_SYS_ADMIN) {
        return Err(EBUSY);
    }
    let file = SlaveFile::open(terminal)?;
    let group = &task.group;
    if request.flags & libc::O_NOCTTY.cast_unsigned() == 0
        && request.read
        && is_leader(group)
        && group.controlling_terminal().is_none()
        && terminal.session().is_none()
    {
        terminal.become_controlling(group);
    }
    Ok(file)
}

/// Makes a host terminal the controlling terminal of a new process, which becomes a session leader in its foreground:
/// `/dev/pts/N` of the container's devpts, as if the outside held the master. `descriptor` is a raw pseudo-terminal slave made
/// for this purpose. The terminal of the first process is `/dev/console`, too.
///
/// # Errors
/// `ENOSPC`: too many terminals. The host's.
pub fn attach_host_terminal(
    task: &Task,
    descriptor: OwnedFd,
    uid: u32,
    size: Option<WindowSize>,
) -> SysResult<Arc<FileDescription>> {
    let kernel = &task.kernel;
    let (instance, mount) = match devpts::mounted(task) {
        Some((instance, mount)) => (instance, Some(mount)),
        None => {
            let mut private = kernel.terminals.private.lock();
            (private.get_or_insert_with(Devpts::private).instance(), None)
        }
    };
    let weak_kernel = Arc::downgrade(kernel);
    let terminal = instance.allocate(uid, 0, |weak, number| Terminal::new(&weak_kernel, weak, number))?;
    if let Err(error) = host::connect(&terminal, &kernel.reactor, descriptor) {
        terminal.close_master();
        return Err(error);
    }
    if let Some(size) = size.filter(|size| *size != WindowSize::default()) {
        terminal.resize(size);
    }
    let inode = instance.slave(terminal.number()).ok_or(ENXIO)?;
    let location = mount.map(|mount| {
        let name = terminal.number().to_string();
        let dentry = mount.root.bind(name.as_bytes(), Arc::clone(&inode), &kernel.vfs.dentries);
        Location { mount, dentry }
    });
    let file = SlaveFile::open(&terminal)?;
    task.group.set_sid(task.group.pid);
    task.group.set_pgid(task.group.pid);
    terminal.become_controlling(&task.group);
    let mut console = kernel.terminals.console.lock();
    if console.strong_count() == 0 {
        *console = Arc::downgrade(&terminal);
    }
    drop(console);
    Ok(FileDescription::new(file, inode, location, libc::O_RDWR.cast_unsigned()))
}
