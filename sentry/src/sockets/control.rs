//! Control messages (`man 3 cmsg`): what is sent along with bytes, and what arrived with them.
//!
//! What an application sends is parsed once, before anything else of the call is judged, as Linux does.
//! What it receives is laid out here too; only installing descriptors is the caller's.

use std::sync::Arc;

use abi::capabilities::{CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN};
use abi::errno::{EINVAL, EPERM, ESRCH, SysResult};
use abi::socket_options::SOL_SOCKET;
use abi::sockets::{
    AF_UNIX, CMSG_HEADER_SIZE, CmsgHdr, MsgFlags, SCM_CREDENTIALS, SCM_MAX_FD, SCM_RIGHTS, Ucred, cmsg_align,
    cmsg_len, cmsg_space,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::task::Task;
use crate::vfs::{FileDescription, has};

/// What goes along with a message.
#[derive(Default)]
pub struct Ancillary {
    /// `SCM_RIGHTS`
    pub rights: Vec<Arc<FileDescription>>,
    /// `SCM_CREDENTIALS`, checked.
    pub credentials: Option<Ucred>,
}

/// What arrived with bytes, gathered over the pieces of one receive.
#[derive(Default)]
pub struct Received {
    /// `MSG_TRUNC`, `MSG_EOR`.
    pub flags: MsgFlags,
    /// The message's full length (`MSG_TRUNC` as an argument asks for it).
    pub length: usize,
    /// The sender's address; empty if it has none.
    pub from: Option<Vec<u8>>,
    /// Descriptors.
    pub rights: Vec<Arc<FileDescription>>,
    /// The sender, if the receiver asked for it (`SO_PASSCRED`).
    pub credentials: Option<Ucred>,
    /// Nothing more can be received together with this.
    pub ended: bool,
}

/// Parses the control buffer of a send.
///
/// # Errors
/// `EINVAL`, `EBADF`, `EPERM` (forged credentials), `ESRCH`.
pub fn parse(task: &Task, domain: u16, control: &[u8]) -> SysResult<Ancillary> {
    let mut ancillary = Ancillary::default();
    let mut rest = control;
    while rest.len() >= CMSG_HEADER_SIZE {
        let (header, body) = CmsgHdr::read_from_prefix(rest).map_err(|_| EINVAL)?;
        let length = usize::try_from(header.cmsg_len).map_err(|_| EINVAL)?;
        let data_length = length.checked_sub(CMSG_HEADER_SIZE).ok_or(EINVAL)?;
        let data = body.get(..data_length).ok_or(EINVAL)?;
        if header.cmsg_level == SOL_SOCKET {
            match header.cmsg_type {
                SCM_RIGHTS if domain == AF_UNIX => add_rights(task, data, &mut ancillary)?,
                SCM_CREDENTIALS => ancillary.credentials = Some(checked_credentials(task, data)?),
                _ => return Err(EINVAL),
            }
        }
        rest = rest.get(cmsg_align(length)..).unwrap_or_default();
    }
    Ok(ancillary)
}

fn add_rights(task: &Task, data: &[u8], ancillary: &mut Ancillary) -> SysResult<()> {
    let (descriptors, _) = data.as_chunks();
    if ancillary.rights.len() + descriptors.len() > SCM_MAX_FD {
        return Err(EINVAL);
    }
    let files = task.files();
    for descriptor in descriptors {
        ancillary.rights.push(files.get(i32::from_ne_bytes(*descriptor))?);
    }
    Ok(())
}

/// Who a task may say it is: one of its own identities, or anybody with the privilege to become that.
fn checked_credentials(task: &Task, data: &[u8]) -> SysResult<Ucred> {
    let said = Ucred::read_from_bytes(data).map_err(|_| EINVAL)?;
    let own = task.credentials();
    let uid_fits = [own.uid, own.euid, own.suid].contains(&said.uid) || has(&own, CAP_SETUID);
    let gid_fits = [own.gid, own.egid, own.sgid].contains(&said.gid) || has(&own, CAP_SETGID);
    if said.pid != task.pid() {
        if !has(&own, CAP_SYS_ADMIN) {
            return Err(EPERM);
        }
        task.kernel.processes.group(said.pid).ok_or(ESRCH)?;
    }
    if uid_fits && gid_fits { Ok(said) } else { Err(EPERM) }
}

/// Lays out control messages in the room a receiver gave.
pub struct Layout {
    bytes: Vec<u8>,
    room: usize,
    /// `MSG_CTRUNC`, if something had no room.
    pub flags: MsgFlags,
}

impl Layout {
    /// An empty control buffer with room for so many bytes.
    pub const fn new(room: usize) -> Self {
        Self { bytes: Vec::new(), room, flags: MsgFlags::empty() }
    }

    fn left(&self) -> usize {
        self.room.saturating_sub(self.bytes.len())
    }

    /// Adds a message of `SOL_SOCKET`; cut off where the room ends, as Linux does.
    pub fn put(&mut self, kind: i32, data: &[u8]) {
        let left = self.left();
        if left < CMSG_HEADER_SIZE {
            self.flags |= MsgFlags::MSG_CTRUNC;
            return;
        }
        let mut length = cmsg_len(data.len());
        if left < length {
            self.flags |= MsgFlags::MSG_CTRUNC;
            length = left;
        }
        let header = CmsgHdr {
            cmsg_len: u64::try_from(length).unwrap_or(u64::MAX),
            cmsg_level: SOL_SOCKET,
            cmsg_type: kind,
        };
        let start = self.bytes.len();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(data.get(..length - CMSG_HEADER_SIZE).unwrap_or(data));
        let end = start + cmsg_space(data.len()).min(left);
        self.bytes.resize(end, 0);
    }

    /// For how many descriptors there is room.
    pub fn room_for_rights(&self) -> usize {
        self.left().saturating_sub(CMSG_HEADER_SIZE) / size_of::<i32>()
    }

    /// Adds installed descriptors; `sent` is how many there were.
    pub fn put_rights(&mut self, descriptors: &[i32], sent: usize) {
        if !descriptors.is_empty() {
            self.put(SCM_RIGHTS, descriptors.as_bytes());
        }
        if descriptors.len() < sent {
            self.flags |= MsgFlags::MSG_CTRUNC;
        }
    }

    /// The control buffer.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
