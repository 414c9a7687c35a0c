//! Changing what `stat` shows: who may, and what else changes with it.

use abi::capabilities::{CAP_CHOWN, CAP_FSETID};
use abi::errno::{EACCES, EOPNOTSUPP, EPERM, EROFS, SysResult};

use abi::polling::InotifyMask;

use super::permission::without_privileges;
use super::{
    Access, Attributes, FileDescription, FileKind, Inode, Location, SetAttributes, SetTime, check_access,
    has, is_owner, watches,
};
use crate::task::{Credentials, Task};

/// An inode to be changed, as it was reached.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    /// By a path.
    Place(&'a Location),
    /// By a descriptor.
    File(&'a FileDescription),
}

impl Subject<'_> {
    /// The inode.
    pub fn inode(&self) -> &dyn Inode {
        match self {
            Self::Place(location) => &**location.inode(),
            Self::File(file) => &*file.inode,
        }
    }

    /// Fails on a read-only mount.
    ///
    /// # Errors
    /// `EROFS`.
    pub fn check_writable(&self) -> SysResult<()> {
        let read_only = match self {
            Self::Place(location) => location.mount.is_read_only(),
            Self::File(file) => file.location.as_ref().is_some_and(|location| location.mount.is_read_only()),
        };
        if read_only { Err(EROFS) } else { Ok(()) }
    }
}

impl Task {
    /// `man 2 chmod`
    ///
    /// # Errors
    /// `EROFS`, `EPERM`, `EOPNOTSUPP` for a symbolic link.
    pub fn change_mode(&self, subject: Subject<'_>, mode: u32) -> SysResult<()> {
        subject.check_writable()?;
        let credentials = self.credentials();
        let attributes = subject.inode().attributes()?;
        if attributes.kind == FileKind::Symlink {
            return Err(EOPNOTSUPP);
        }
        if !is_owner(&credentials, &attributes) {
            return Err(EPERM);
        }
        let mut permissions = mode & 0o7777;
        if !credentials.is_in_group(attributes.gid) && !has(&credentials, CAP_FSETID) {
            permissions &= !0o2000;
        }
        subject
            .inode()
            .set_attributes(&SetAttributes { permissions: Some(permissions), ..SetAttributes::default() })?;
        watches::on_subject(subject, InotifyMask::IN_ATTRIB);
        Ok(())
    }

    /// `man 2 chown`; `None` leaves an ID.
    ///
    /// # Errors
    /// `EROFS`, `EPERM`.
    pub fn change_owner(&self, subject: Subject<'_>, uid: Option<u32>, gid: Option<u32>) -> SysResult<()> {
        subject.check_writable()?;
        let attributes = subject.inode().attributes()?;
        if !may_change_owner(&self.credentials(), &attributes, uid, gid) {
            return Err(EPERM);
        }
        // Privileges do not change hands, not even root's.
        let stripped = without_privileges(attributes.permissions);
        let strips = attributes.kind != FileKind::Directory && stripped != attributes.permissions;
        subject.inode().set_attributes(&SetAttributes {
            uid,
            gid,
            permissions: strips.then_some(stripped),
            ..SetAttributes::default()
        })?;
        watches::on_subject(subject, InotifyMask::IN_ATTRIB);
        Ok(())
    }

    /// `man 2 utimensat`; `None` leaves a time.
    ///
    /// # Errors
    /// `EROFS`; `EACCES`: not the owner, and cannot write; `EPERM`: not the owner, and asks for more than "now".
    pub fn change_times(
        &self,
        subject: Subject<'_>,
        access: Option<SetTime>,
        modify: Option<SetTime>,
    ) -> SysResult<()> {
        subject.check_writable()?;
        let credentials = self.credentials();
        let attributes = subject.inode().attributes()?;
        if !is_owner(&credentials, &attributes) {
            if (access, modify) != (Some(SetTime::Now), Some(SetTime::Now)) {
                return Err(EPERM);
            }
            check_access(&credentials, &attributes, Access::WRITE).map_err(|_| EACCES)?;
        }
        subject.inode().set_attributes(&SetAttributes { access, modify, ..SetAttributes::default() })?;
        // One time alone looks like the use that would have set it.
        let mask = match (access, modify) {
            (Some(_), None) => InotifyMask::IN_ACCESS,
            (None, Some(_)) => InotifyMask::IN_MODIFY,
            _ => InotifyMask::IN_ATTRIB,
        };
        watches::on_subject(subject, mask);
        Ok(())
    }

    /// The credentials by which `access(2)` judges: real IDs, and the capabilities they would have.
    pub fn real_credentials(&self) -> Credentials {
        /// `SECBIT_NO_SETUID_FIXUP`
        const NO_SETUID_FIXUP: u32 = 1 << 2;
        let mut credentials = (*self.credentials()).clone();
        credentials.fsuid = credentials.uid;
        credentials.fsgid = credentials.gid;
        if credentials.secure_bits & NO_SETUID_FIXUP == 0 {
            credentials.effective = if credentials.uid == 0 { credentials.permitted } else { 0 };
        }
        credentials
    }
}

fn may_change_owner(
    credentials: &Credentials,
    attributes: &Attributes,
    uid: Option<u32>,
    gid: Option<u32>,
) -> bool {
    if has(credentials, CAP_CHOWN) {
        return true;
    }
    let owner = credentials.fsuid == attributes.uid;
    let uid_stays = uid.is_none_or(|uid| owner && uid == attributes.uid);
    uid_stays && gid.is_none_or(|gid| owner && (credentials.is_in_group(gid) || gid == attributes.gid))
}
