//! Who a task is (`man 7 credentials`, `man 7 capabilities`). Immutable; changed by replacement.

use std::sync::atomic::Ordering;

use super::Task;

/// User and group IDs, capabilities and what governs them. There is one user namespace: IDs here are those the
/// container sees.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of `man 7 credentials`")]
pub struct Credentials {
    pub uid: u32,
    pub euid: u32,
    pub suid: u32,
    pub fsuid: u32,
    pub gid: u32,
    pub egid: u32,
    pub sgid: u32,
    pub fsgid: u32,
    pub groups: Vec<u32>,
    pub permitted: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub bounding: u64,
    pub ambient: u64,
    pub secure_bits: u32,
    pub no_new_privileges: bool,
    pub keep_capabilities: bool,
}

impl Credentials {
    /// A user with the given group and no capability.
    pub fn new(uid: u32, gid: u32) -> Self {
        Self {
            uid,
            euid: uid,
            suid: uid,
            fsuid: uid,
            gid,
            egid: gid,
            sgid: gid,
            fsgid: gid,
            groups: Vec::new(),
            permitted: 0,
            effective: 0,
            inheritable: 0,
            bounding: 0,
            ambient: 0,
            secure_bits: 0,
            no_new_privileges: false,
            keep_capabilities: false,
        }
    }

    /// Whether an effective capability (`CAP_*` number) is held.
    pub const fn has(&self, capability: u32) -> bool {
        self.effective & (1 << capability) != 0
    }

    /// Whether the file-system group or a supplementary group is `gid`.
    pub fn is_in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.contains(&gid)
    }
}

impl Task {
    /// Whether one task may look into another (Linux's `ptrace_may_access` with real credentials).
    pub fn may_inspect(&self, target: &Self) -> bool {
        const CAP_SYS_PTRACE: u32 = 19;
        if std::ptr::eq(&raw const *self.group, &raw const *target.group) {
            return true;
        }
        let (own, other) = (self.credentials(), target.credentials());
        let same = [other.uid, other.euid, other.suid].iter().all(|uid| *uid == own.uid)
            && [other.gid, other.egid, other.sgid].iter().all(|gid| *gid == own.gid);
        let dumpable = target.group.dumpable.load(Ordering::Relaxed);
        same && dumpable && other.permitted & !own.permitted == 0 || own.has(CAP_SYS_PTRACE)
    }
}
