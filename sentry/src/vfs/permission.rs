//! Who may do what with an inode (`man 7 path_resolution`, "Permissions"; `man 7 capabilities`).

use abi::capabilities::{CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID, Capability};
use abi::errno::{EACCES, EISDIR, ENOENT, ENOTDIR, EPERM, SysResult};

use super::{Attributes, Dentry, FileKind, Inode};
use crate::task::Credentials;

bitflags::bitflags! {
    /// What is asked for, in the values of `man 2 access`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Access: u32 {
        /// Execute, or search a directory.
        const EXECUTE = 1;
        /// Write, or change a directory's names.
        const WRITE = 2;
        /// Read, or list a directory.
        const READ = 4;
    }
}

/// Set-user-ID, set-group-ID, sticky; group execution.
const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_ISVTX: u32 = 0o1000;
const S_IXGRP: u32 = 0o0010;
const S_IXANY: u32 = 0o0111;

/// Whether an effective capability is held.
pub fn has(credentials: &Credentials, capability: Capability) -> bool {
    credentials.has(u32::from(capability.number()))
}

/// Judges by permission bits and capabilities, with the file-system IDs.
///
/// # Errors
/// `EACCES`.
pub fn check_access(credentials: &Credentials, attributes: &Attributes, access: Access) -> SysResult<()> {
    let class = if credentials.fsuid == attributes.uid {
        attributes.permissions >> 6
    } else if credentials.is_in_group(attributes.gid) {
        attributes.permissions >> 3
    } else {
        attributes.permissions
    };
    if access.bits() & !class & 7 == 0 || overrides(credentials, attributes, access) {
        Ok(())
    } else {
        Err(EACCES)
    }
}

fn overrides(credentials: &Credentials, attributes: &Attributes, access: Access) -> bool {
    let directory = attributes.kind == FileKind::Directory;
    let harmless = if directory { !access.contains(Access::WRITE) } else { access == Access::READ };
    let executable = directory || !access.contains(Access::EXECUTE) || attributes.permissions & S_IXANY != 0;
    harmless && has(credentials, CAP_DAC_READ_SEARCH) || executable && has(credentials, CAP_DAC_OVERRIDE)
}

/// Whether a directory may be searched; asks for its attributes only where they matter.
///
/// # Errors
/// `ENOTDIR`, `EACCES`.
pub fn check_search(credentials: &Credentials, directory: &dyn Inode) -> SysResult<()> {
    if directory.kind() != FileKind::Directory {
        return Err(ENOTDIR);
    }
    if has(credentials, CAP_DAC_OVERRIDE) || has(credentials, CAP_DAC_READ_SEARCH) {
        return Ok(());
    }
    check_access(credentials, &directory.access_attributes()?, Access::EXECUTE)
}

/// Whether names may be made in a directory; returns what [`Inode::access_attributes`] does.
///
/// # Errors
/// `ENOENT`: it was removed; `EACCES`.
pub fn check_create(credentials: &Credentials, directory: &Dentry) -> SysResult<Attributes> {
    if directory.is_removed() {
        return Err(ENOENT);
    }
    let attributes = directory.inode().access_attributes()?;
    check_access(credentials, &attributes, Access::WRITE | Access::EXECUTE)?;
    Ok(attributes)
}

/// Must what is removed be a directory?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// Yes (`rmdir`).
    Directory,
    /// It must not be one (`unlink`).
    Other,
    /// It may be either (the source of `rename`).
    Any,
}

/// Whether no directory's or file's permissions, owner or sticky bit could forbid removing a name.
pub fn may_delete_anything(credentials: &Credentials) -> bool {
    has(credentials, CAP_DAC_OVERRIDE) && has(credentials, CAP_FOWNER)
}

/// Whether a name may be removed from a directory: its permissions, the sticky bit, the kind.
///
/// # Errors
/// `EACCES`, `EPERM`, `ENOTDIR`, `EISDIR`.
pub fn check_delete(
    credentials: &Credentials,
    directory: &dyn Inode,
    victim: &dyn Inode,
    wanted: Victim,
) -> SysResult<()> {
    let attributes = directory.access_attributes()?;
    check_access(credentials, &attributes, Access::WRITE | Access::EXECUTE)?;
    if attributes.permissions & S_ISVTX != 0
        && attributes.uid != credentials.fsuid
        && !has(credentials, CAP_FOWNER)
        && victim.attributes()?.uid != credentials.fsuid
    {
        return Err(EPERM);
    }
    match (wanted, victim.kind()) {
        (Victim::Directory, FileKind::Directory) | (Victim::Any, _) => Ok(()),
        (Victim::Directory, _) => Err(ENOTDIR),
        (Victim::Other, FileKind::Directory) => Err(EISDIR),
        (Victim::Other, _) => Ok(()),
    }
}

/// Whether the task counts as the file's owner.
pub fn is_owner(credentials: &Credentials, attributes: &Attributes) -> bool {
    credentials.fsuid == attributes.uid || has(credentials, CAP_FOWNER)
}

/// Group and permission bits of a new node: a set-group-ID directory passes on its group, and to directories the bit;
/// others lose the bit if the maker is not of the group.
pub fn inherit(
    credentials: &Credentials,
    directory: &Attributes,
    permissions: u32,
    kind: FileKind,
) -> (u32, u32) {
    if directory.permissions & S_ISGID == 0 {
        return (credentials.fsgid, permissions);
    }
    let gid = directory.gid;
    let keeps = credentials.is_in_group(gid) || has(credentials, CAP_FSETID);
    let permissions = match kind {
        FileKind::Directory => permissions | S_ISGID,
        _ if permissions & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP && !keeps => permissions & !S_ISGID,
        _ => permissions,
    };
    (gid, permissions)
}

/// What remains of the permission bits when somebody writes to the file or changes its owner.
pub fn without_privileges(permissions: u32) -> u32 {
    let strip = if permissions & S_IXGRP != 0 { S_ISUID | S_ISGID } else { S_ISUID };
    permissions & !strip
}

/// Whether a directory is sticky and writable by everybody, where files of others deserve mistrust
/// (`man 5 proc_sys_fs`, `protected_symlinks`).
pub fn is_shared_sticky(attributes: &Attributes) -> bool {
    attributes.permissions & (S_ISVTX | 0o002) == S_ISVTX | 0o002
}

impl crate::task::Task {
    /// The permission bits a file keeps when this task changes its contents; `None`: they stay (`man 2 write`).
    pub fn bits_after_write(&self, attributes: &Attributes) -> Option<u32> {
        let stripped = without_privileges(attributes.permissions);
        let strips = attributes.kind == FileKind::Regular
            && stripped != attributes.permissions
            && !has(&self.credentials(), CAP_FSETID);
        strips.then_some(stripped)
    }
}
