//! Names of Unix sockets (`man 7 unix`, "Address format"): paths, abstract names, automatic names.

use std::sync::Arc;

use abi::errno::{EADDRINUSE, ECONNREFUSED, EEXIST, EINVAL, ENOENT, ENOSPC, EPROTOTYPE, SysResult};
use abi::sockets::{AF_UNIX, UNIX_PATH_MAX};

use super::{Table, UnixSocket};
use crate::task::Task;
use crate::vfs::{Access, DeviceNumber, FileKind, Inode, Location, WalkFlags, check_access};

/// Where the path begins in `sockaddr_un`.
const PATH_OFFSET: usize = 2;
/// Automatic names are five hexadecimal digits.
const AUTOMATIC_NAMES: u32 = 1 << 20;

/// An address as an application gave it.
#[derive(Debug, PartialEq, Eq)]
pub enum Address<'a> {
    /// A path.
    Path(&'a [u8]),
    /// An abstract name, without its leading zero.
    Abstract(&'a [u8]),
}

impl<'a> Address<'a> {
    /// Judges an address.
    ///
    /// # Errors
    /// `EINVAL`: of another family, without a name, or too long.
    pub fn parse(address: &'a [u8]) -> SysResult<Self> {
        let (family, name) = address.split_first_chunk::<PATH_OFFSET>().ok_or(EINVAL)?;
        if u16::from_ne_bytes(*family) != AF_UNIX || name.is_empty() || name.len() > UNIX_PATH_MAX {
            return Err(EINVAL);
        }
        Ok(match name {
            [0, name @ ..] => Self::Abstract(name),
            path => Self::Path(path.split(|byte| *byte == 0).next().unwrap_or(path)),
        })
    }
}

/// What a name leads to.
pub enum Found {
    /// A socket of this kernel.
    Inside(Arc<UnixSocket>),
    /// The node of a socket that is none of this kernel's, or not any more.
    Outside(Arc<dyn Inode>),
}

/// Whether an address only names the family, which asks for an automatic name.
pub fn asks_for_automatic(address: &[u8]) -> bool {
    address == AF_UNIX.to_ne_bytes()
}

/// A name that a socket has; kept by the sockets accepted from it and by its messages.
pub struct Bound {
    /// As `getsockname` shows it.
    pub address: Vec<u8>,
    /// The node in the file system, which stays known for as long as the socket has its name.
    pub location: Option<Location>,
}

impl Bound {
    fn at_path(path: &[u8], location: Location) -> Arc<Self> {
        let mut address = AF_UNIX.to_ne_bytes().to_vec();
        address.extend_from_slice(path);
        address.push(0);
        Arc::new(Self { address, location: Some(location) })
    }

    /// An abstract name.
    pub fn abstract_name(name: &[u8]) -> Arc<Self> {
        let mut address = AF_UNIX.to_ne_bytes().to_vec();
        address.push(0);
        address.extend_from_slice(name);
        Arc::new(Self { address, location: None })
    }

    /// The abstract name, if it is one.
    pub fn as_abstract(&self) -> Option<&[u8]> {
        match self.address.get(PATH_OFFSET..) {
            Some([0, name @ ..]) if self.location.is_none() => Some(name),
            _ => None,
        }
    }

    /// As `/proc/net/unix` shows it.
    pub fn display(&self) -> String {
        let name = self.address.get(PATH_OFFSET..).unwrap_or_default();
        match self.as_abstract() {
            Some(_) => String::from_utf8_lossy(name).replace('\0', "@"),
            None => String::from_utf8_lossy(name).trim_end_matches('\0').to_owned(),
        }
    }
}

/// The address of a socket without a name.
pub fn unnamed() -> Vec<u8> {
    AF_UNIX.to_ne_bytes().to_vec()
}

/// Makes the node of a socket.
///
/// # Errors
/// `EADDRINUSE`, and those of making a node.
pub fn make_path(task: &Task, path: &[u8], socket: &Arc<UnixSocket>) -> SysResult<Arc<Bound>> {
    let mode = 0o140_000 | 0o777;
    let location = task
        .make_node(libc::AT_FDCWD, path, mode, DeviceNumber::default())
        .map_err(|error| if error == EEXIST { EADDRINUSE } else { error })?;
    location.inode().attachments().socket().set(socket);
    Ok(Bound::at_path(path, location))
}

/// Why a socket that has a name gets no second one: Linux looks at the path first.
///
/// # Errors
/// Always.
pub fn refuse_second_path(task: &Task, path: &[u8]) -> SysResult<()> {
    match task.walk(libc::AT_FDCWD, path, WalkFlags::empty()) {
        Ok(_) => Err(EADDRINUSE),
        Err(ENOENT) => Err(EINVAL),
        Err(error) => Err(error),
    }
}

impl Table {
    /// Gives a socket an abstract name.
    ///
    /// # Errors
    /// `EADDRINUSE`
    pub fn claim(&self, name: &[u8], socket: &Arc<UnixSocket>) -> SysResult<Arc<Bound>> {
        let mut names = self.names.lock();
        let key = (socket.kind, Box::<[u8]>::from(name));
        if names.get(&key).is_some_and(|owner| owner.strong_count() != 0) {
            return Err(EADDRINUSE);
        }
        names.insert(key, Arc::downgrade(socket));
        Ok(Bound::abstract_name(name))
    }

    /// Gives a socket an automatic name.
    ///
    /// # Errors
    /// `ENOSPC`: all are taken.
    pub fn claim_automatic(&self, socket: &Arc<UnixSocket>) -> SysResult<Arc<Bound>> {
        for _ in 0..AUTOMATIC_NAMES {
            let number = self.next_automatic.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let name = format!("{:05x}", number % AUTOMATIC_NAMES);
            if let Ok(bound) = self.claim(name.as_bytes(), socket) {
                return Ok(bound);
            }
        }
        Err(ENOSPC)
    }

    /// Gives an abstract name back, if it is the socket's own.
    pub fn release(&self, bound: &Bound, socket: &UnixSocket) {
        let Some(name) = bound.as_abstract() else { return };
        let key = (socket.kind, Box::from(name));
        let mut names = self.names.lock();
        if names.get(&key).is_some_and(|owner| owner.ptr_eq(&socket.me)) {
            names.remove(&key);
        }
    }

    /// The socket with an abstract name.
    ///
    /// # Errors
    /// `ECONNREFUSED`
    pub fn find(&self, name: &[u8], kind: u32) -> SysResult<Arc<UnixSocket>> {
        let names = self.names.lock();
        names.get(&(kind, Box::from(name))).and_then(std::sync::Weak::upgrade).ok_or(ECONNREFUSED)
    }

    /// The socket at an address, or the node of one that nobody here has bound.
    ///
    /// # Errors
    /// `ECONNREFUSED`, `EPROTOTYPE`, `EACCES`, and those of walking.
    pub fn look_up(&self, task: &Task, address: &Address<'_>, kind: u32) -> SysResult<Found> {
        let path = match address {
            Address::Abstract(name) => return self.find(name, kind).map(Found::Inside),
            Address::Path(path) => path,
        };
        let location = task.walk(libc::AT_FDCWD, path, WalkFlags::FOLLOW)?;
        let inode = location.inode();
        check_access(&task.credentials(), &inode.attributes()?, Access::WRITE)?;
        let found = inode.attachments().socket().get::<UnixSocket>().filter(|socket| !socket.is_dead());
        match found {
            Some(socket) if socket.kind == kind => Ok(Found::Inside(socket)),
            Some(_) => Err(EPROTOTYPE),
            None if inode.kind() == FileKind::Socket => Ok(Found::Outside(Arc::clone(inode))),
            None => Err(ECONNREFUSED),
        }
    }
}
