//! The attributes of a file kept in memory, and how operations change them.

use abi::errno::SysResult;

use crate::vfs::{Attributes, FileDescription, MountFlags, SetAttributes, SetTime};

/// `relatime` renews an access time that is older than this (`man 8 mount`).
const RELATIME_NS: i64 = 24 * 60 * 60 * 1_000_000_000;

/// Owner, mode, link count and times.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the fields of `man 2 stat`")]
pub struct Metadata {
    pub permissions: u32,
    pub uid: u32,
    pub gid: u32,
    pub links: u32,
    pub access_ns: i64,
    pub modify_ns: i64,
    pub change_ns: i64,
    pub birth_ns: Option<i64>,
}

/// The current time as file systems stamp it.
pub fn now_ns() -> i64 {
    i64::try_from(crate::time::coarse_realtime_ns()).unwrap_or(i64::MAX)
}

impl Metadata {
    /// Of a new file.
    pub fn new(permissions: u32, uid: u32, gid: u32, links: u32) -> Self {
        let now = now_ns();
        Self {
            permissions,
            uid,
            gid,
            links,
            access_ns: now,
            modify_ns: now,
            change_ns: now,
            birth_ns: Some(now),
        }
    }

    /// Those of another file (copying up).
    pub const fn copied(from: &Attributes) -> Self {
        Self {
            permissions: from.permissions,
            uid: from.uid,
            gid: from.gid,
            links: from.links,
            access_ns: from.access_ns,
            modify_ns: from.modify_ns,
            change_ns: from.change_ns,
            birth_ns: from.birth_ns,
        }
    }

    /// Writes them over attributes.
    pub const fn show(&self, attributes: &mut Attributes) {
        attributes.permissions = self.permissions;
        attributes.uid = self.uid;
        attributes.gid = self.gid;
        attributes.links = self.links;
        attributes.access_ns = self.access_ns;
        attributes.modify_ns = self.modify_ns;
        attributes.change_ns = self.change_ns;
        attributes.birth_ns = self.birth_ns;
    }

    /// Applies all but the size, whose change counts as a modification.
    pub fn apply(&mut self, change: &SetAttributes) {
        let now = now_ns();
        let time = |new: SetTime| match new {
            SetTime::Now => now,
            SetTime::To(ns) => ns,
        };
        self.permissions = change.permissions.map_or(self.permissions, |bits| bits & 0o7777);
        self.uid = change.uid.unwrap_or(self.uid);
        self.gid = change.gid.unwrap_or(self.gid);
        if change.size.is_some() {
            self.modify_ns = now;
        }
        self.access_ns = change.access.map_or(self.access_ns, time);
        self.modify_ns = change.modify.map_or(self.modify_ns, time);
        self.change_ns = now;
    }

    /// The data, or a directory's names, have changed.
    pub fn modified(&mut self) {
        let now = now_ns();
        self.modify_ns = now;
        self.change_ns = now;
    }

    /// Something else has changed.
    pub fn changed(&mut self) {
        self.change_ns = now_ns();
    }

    /// The link count grows or shrinks, and with it the change time.
    pub fn relink(&mut self, difference: i32) {
        self.links = self.links.saturating_add_signed(difference);
        self.changed();
    }

    /// The data were read through `file`.
    pub fn accessed(&mut self, file: &FileDescription) {
        let now = now_ns();
        if keeps_access_time(file) {
            return;
        }
        let relative =
            file.location.as_ref().is_none_or(|place| place.mount.flags().contains(MountFlags::RELATIME));
        let due = self.access_ns <= self.modify_ns
            || self.access_ns <= self.change_ns
            || now.saturating_sub(self.access_ns) >= RELATIME_NS;
        if due || !relative {
            self.access_ns = now;
        }
    }
}

fn keeps_access_time(file: &FileDescription) -> bool {
    file.flags() & libc::O_NOATIME.cast_unsigned() != 0
        || file
            .location
            .as_ref()
            .is_some_and(|place| place.mount.flags().intersects(MountFlags::NOATIME | MountFlags::RDONLY))
}

/// A size `loff_t` can hold.
///
/// # Errors
/// `EFBIG`.
pub fn checked_size(size: u64) -> SysResult<u64> {
    if i64::try_from(size).is_ok() { Ok(size) } else { Err(abi::errno::EFBIG) }
}
