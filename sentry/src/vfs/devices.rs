//! Devices and FIFOs: files whose inode only says what is behind it.
//!
//! A node of a device leads to the driver registered for its number, whatever file system the node is on; a FIFO
//! node leads to the pipe that the [`FifoOpener`] keeps for it.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use abi::errno::{ENXIO, SysResult};
use parking_lot::RwLock;

use super::{Attributes, DeviceNumber, FileKind, FileOps, Inode, OpenRequest};
use crate::task::Task;

/// What opens the files of a device.
pub trait DeviceDriver: Send + Sync {
    /// Opens. `inode` is the node, its [`Attributes::device_number`] says which device.
    ///
    /// # Errors
    /// `ENXIO`, `EBUSY`, … as the device likes.
    fn open(&self, task: &Task, inode: &Arc<dyn Inode>, request: OpenRequest) -> SysResult<Arc<dyn FileOps>>;
}

/// Character or block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceClass {
    /// Character device.
    Character,
    /// Block device.
    Block,
}

/// A registered number: of one device, or of all with that major number.
type DeviceKey = (DeviceClass, u32, Option<u32>);

/// The drivers by device number.
#[derive(Default)]
pub struct DeviceTable {
    drivers: RwLock<HashMap<DeviceKey, Arc<dyn DeviceDriver>>>,
}

impl DeviceTable {
    /// Registers the driver of one device.
    pub fn register(&self, class: DeviceClass, number: DeviceNumber, driver: Arc<dyn DeviceDriver>) {
        self.drivers.write().insert((class, number.major, Some(number.minor)), driver);
    }

    /// Registers the driver of all devices with a major number that have none of their own.
    pub fn register_major(&self, class: DeviceClass, major: u32, driver: Arc<dyn DeviceDriver>) {
        self.drivers.write().insert((class, major, None), driver);
    }

    /// The driver of a device.
    ///
    /// # Errors
    /// `ENXIO`: there is none.
    pub fn driver(&self, class: DeviceClass, number: DeviceNumber) -> SysResult<Arc<dyn DeviceDriver>> {
        let drivers = self.drivers.read();
        let own = drivers.get(&(class, number.major, Some(number.minor)));
        own.or_else(|| drivers.get(&(class, number.major, None))).cloned().ok_or(ENXIO)
    }
}

/// Whether the other side of a FIFO has come.
pub type PartnerCame = Box<dyn Fn() -> bool + Send + Sync>;

/// A FIFO that was opened.
pub struct OpenedFifo {
    /// The end.
    pub ops: Arc<dyn FileOps>,
    /// `None`: ready. Otherwise the open has to wait, on the end's wait queue, until this says so; the end already counts
    /// for the other side (`man 7 fifo`).
    pub partner_came: Option<PartnerCame>,
}

/// What opens FIFO nodes, and pipes through `/proc/PID/fd`.
pub trait FifoOpener: Send + Sync {
    /// Opens an end of the pipe that belongs to `inode` (its [`super::Attachments::fifo`]).
    ///
    /// # Errors
    /// `ENXIO`: for writing only, `O_NONBLOCK`, and nobody reads.
    fn open(&self, task: &Task, inode: &Arc<dyn Inode>, request: OpenRequest) -> SysResult<OpenedFifo>;
}

/// Where the opener of FIFOs is put at boot.
pub type FifoHook = OnceLock<Arc<dyn FifoOpener>>;

impl Task {
    /// Opens what is behind an inode of any kind.
    pub(super) fn open_inode(
        &self,
        inode: &Arc<dyn Inode>,
        attributes: &Attributes,
        request: OpenRequest,
    ) -> SysResult<OpenedFifo> {
        let vfs = &self.kernel.vfs;
        let device = |class| vfs.devices.driver(class, attributes.device_number)?.open(self, inode, request);
        let ops = match attributes.kind {
            FileKind::CharacterDevice => device(DeviceClass::Character)?,
            FileKind::BlockDevice => device(DeviceClass::Block)?,
            FileKind::Fifo => return vfs.fifos.get().ok_or(ENXIO)?.open(self, inode, request),
            FileKind::Socket => return Err(ENXIO),
            FileKind::Regular | FileKind::Directory | FileKind::Symlink => {
                Arc::clone(inode).open(request, self)?
            }
        };
        Ok(OpenedFifo { ops, partner_came: None })
    }
}
