//! Who a task is (`man 7 credentials`, `man 7 capabilities`). Immutable; changed by replacement.

use std::sync::atomic::Ordering;

use abi::capabilities::{CAP_SETGID, CAP_SETPCAP, CAP_SETUID, CapSet, Capability, SecureBits};
use abi::errno::{EPERM, SysResult};

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

/// A new ID, or `None` for "as it is" (-1 in the calls).
type Wish = Option<u32>;

/// Linux's `KEEP`, in the bits of `PR_GET_SECUREBITS`; kept as [`Credentials::keep_capabilities`].
const KEEP_CAPS: u32 = SecureBits::SECBIT_KEEP_CAPS.bits();

/// Capabilities that go with the file system user (`CAP_FS_SET`): `CHOWN`, `DAC_OVERRIDE`, `DAC_READ_SEARCH`, `FOWNER`,
/// `FSETID`, `LINUX_IMMUTABLE`, `MKNOD`, `MAC_OVERRIDE`.
const FILE_CAPABILITIES: u64 = 0x1f | 1 << 9 | 1 << 27 | 1 << 32;

/// Changes of IDs; each is judged and returns the new credentials (`man 7 credentials`).
impl Credentials {
    /// `setuid`.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn with_uid(&self, uid: u32) -> SysResult<Self> {
        let mut new = self.clone();
        if self.can(CAP_SETUID) {
            (new.uid, new.suid) = (uid, uid);
        } else if uid != self.uid && uid != self.suid {
            return Err(EPERM);
        }
        (new.euid, new.fsuid) = (uid, uid);
        new.follow_users(self);
        Ok(new)
    }

    /// `setreuid`.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn with_real_effective_uid(&self, real: Wish, effective: Wish) -> SysResult<Self> {
        let privileged = self.can(CAP_SETUID);
        let mut new = self.clone();
        if let Some(uid) = real {
            new.uid = uid;
            if !privileged && ![self.uid, self.euid].contains(&uid) {
                return Err(EPERM);
            }
        }
        if let Some(uid) = effective {
            new.euid = uid;
            if !privileged && ![self.uid, self.euid, self.suid].contains(&uid) {
                return Err(EPERM);
            }
        }
        if real.is_some() || effective.is_some_and(|uid| uid != self.uid) {
            new.suid = new.euid;
        }
        new.fsuid = new.euid;
        new.follow_users(self);
        Ok(new)
    }

    /// `setresuid`.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn with_all_uids(&self, real: Wish, effective: Wish, saved: Wish) -> SysResult<Self> {
        let allowed = [self.uid, self.euid, self.suid];
        let wishes = [real, effective, saved];
        if !self.can(CAP_SETUID) && wishes.iter().flatten().any(|uid| !allowed.contains(uid)) {
            return Err(EPERM);
        }
        let mut new = self.clone();
        new.uid = real.unwrap_or(self.uid);
        new.euid = effective.unwrap_or(self.euid);
        new.suid = saved.unwrap_or(self.suid);
        new.fsuid = new.euid;
        new.follow_users(self);
        Ok(new)
    }

    /// `setfsuid`; `None` if it is not allowed.
    pub fn with_fsuid(&self, uid: u32) -> Option<Self> {
        if !self.can(CAP_SETUID) && ![self.uid, self.euid, self.suid, self.fsuid].contains(&uid) {
            return None;
        }
        let mut new = self.clone();
        new.fsuid = uid;
        if !self.has_bit(SecureBits::SECBIT_NO_SETUID_FIXUP) {
            if self.fsuid == 0 && uid != 0 {
                new.effective &= !FILE_CAPABILITIES;
            } else if self.fsuid != 0 && uid == 0 {
                new.effective |= FILE_CAPABILITIES & new.permitted;
            }
        }
        Some(new)
    }

    /// `setgid`.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn with_gid(&self, gid: u32) -> SysResult<Self> {
        let mut new = self.clone();
        if self.can(CAP_SETGID) {
            (new.gid, new.sgid) = (gid, gid);
        } else if gid != self.gid && gid != self.sgid {
            return Err(EPERM);
        }
        (new.egid, new.fsgid) = (gid, gid);
        Ok(new)
    }

    /// `setregid`.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn with_real_effective_gid(&self, real: Wish, effective: Wish) -> SysResult<Self> {
        let privileged = self.can(CAP_SETGID);
        if !privileged
            && (real.is_some_and(|gid| ![self.gid, self.egid].contains(&gid))
                || effective.is_some_and(|gid| ![self.gid, self.egid, self.sgid].contains(&gid)))
        {
            return Err(EPERM);
        }
        let mut new = self.clone();
        new.gid = real.unwrap_or(self.gid);
        new.egid = effective.unwrap_or(self.egid);
        if real.is_some() || effective.is_some_and(|gid| gid != self.gid) {
            new.sgid = new.egid;
        }
        new.fsgid = new.egid;
        Ok(new)
    }

    /// `setresgid`.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn with_all_gids(&self, real: Wish, effective: Wish, saved: Wish) -> SysResult<Self> {
        let allowed = [self.gid, self.egid, self.sgid];
        let wishes = [real, effective, saved];
        if !self.can(CAP_SETGID) && wishes.iter().flatten().any(|gid| !allowed.contains(gid)) {
            return Err(EPERM);
        }
        let mut new = self.clone();
        new.gid = real.unwrap_or(self.gid);
        new.egid = effective.unwrap_or(self.egid);
        new.sgid = saved.unwrap_or(self.sgid);
        new.fsgid = new.egid;
        Ok(new)
    }

    /// `setfsgid`; `None` if it is not allowed.
    pub fn with_fsgid(&self, gid: u32) -> Option<Self> {
        let allowed = [self.gid, self.egid, self.sgid, self.fsgid].contains(&gid);
        (allowed || self.can(CAP_SETGID)).then(|| Self { fsgid: gid, ..self.clone() })
    }

    /// What a change of users does to capabilities (`man 7 capabilities`, "Effect of user ID changes on capabilities";
    /// Linux's `cap_emulate_setxuid`).
    fn follow_users(&mut self, old: &Self) {
        if old.has_bit(SecureBits::SECBIT_NO_SETUID_FIXUP) {
            return;
        }
        let was_root = [old.uid, old.euid, old.suid].contains(&0);
        let is_root = [self.uid, self.euid, self.suid].contains(&0);
        if was_root && !is_root {
            if !old.keep_capabilities {
                self.permitted = 0;
                self.effective = 0;
            }
            self.ambient = 0;
        }
        if old.euid == 0 && self.euid != 0 {
            self.effective = 0;
        }
        if old.euid != 0 && self.euid == 0 {
            self.effective = self.permitted;
        }
    }
}

/// Changes of capabilities and of what governs them.
impl Credentials {
    /// `capset`.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn with_capabilities(&self, effective: u64, permitted: u64, inheritable: u64) -> SysResult<Self> {
        let allowed = self.inheritable | self.permitted;
        if !self.can(CAP_SETPCAP) && inheritable & !allowed != 0
            || inheritable & !(self.inheritable | self.bounding) != 0
            || permitted & !self.permitted != 0
            || effective & !permitted != 0
        {
            return Err(EPERM);
        }
        let ambient = self.ambient & permitted & inheritable;
        Ok(Self { effective, permitted, inheritable, ambient, ..self.clone() })
    }

    /// `PR_CAPBSET_DROP`.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn without_bounding(&self, capability: Capability) -> SysResult<Self> {
        if !self.can(CAP_SETPCAP) {
            return Err(EPERM);
        }
        Ok(Self { bounding: self.bounding & !CapSet::of(capability).0, ..self.clone() })
    }

    /// `PR_CAP_AMBIENT_RAISE`.
    ///
    /// # Errors
    /// `EPERM`: it is not both permitted and inheritable, or raising is switched off.
    pub fn with_ambient(&self, capability: Capability) -> SysResult<Self> {
        let bit = CapSet::of(capability).0;
        let possible = self.permitted & self.inheritable & bit != 0;
        if !possible || self.has_bit(SecureBits::SECBIT_NO_CAP_AMBIENT_RAISE) {
            return Err(EPERM);
        }
        Ok(Self { ambient: self.ambient | bit, ..self.clone() })
    }

    /// `PR_GET_SECUREBITS`.
    pub const fn shown_secure_bits(&self) -> u32 {
        self.secure_bits & !KEEP_CAPS | if self.keep_capabilities { KEEP_CAPS } else { 0 }
    }

    /// `PR_SET_SECUREBITS`.
    ///
    /// # Errors
    /// `EPERM`: bits are locked or unknown, or the task is not privileged.
    pub fn with_secure_bits(&self, bits: u64) -> SysResult<Self> {
        // Odd bits lock the bit below them; later Linux has more of both.
        const LOCKS: u32 = 0xaa;
        const ALL: u32 = 0xff;
        let old = self.shown_secure_bits();
        let bits = u32::try_from(bits).map_err(|_| EPERM)?;
        if (old & LOCKS) >> 1 & (old ^ bits) != 0
            || old & LOCKS & !bits != 0
            || bits & !ALL != 0
            || !self.can(CAP_SETPCAP)
        {
            return Err(EPERM);
        }
        let keep_capabilities = bits & KEEP_CAPS != 0;
        Ok(Self { secure_bits: bits & !KEEP_CAPS, keep_capabilities, ..self.clone() })
    }

    /// `PR_SET_KEEPCAPS`.
    ///
    /// # Errors
    /// `EPERM`: it is locked.
    pub fn with_keep_capabilities(&self, keep_capabilities: bool) -> SysResult<Self> {
        if self.has_bit(SecureBits::SECBIT_KEEP_CAPS_LOCKED) {
            return Err(EPERM);
        }
        Ok(Self { keep_capabilities, ..self.clone() })
    }

    /// Whether a capability is in effect.
    pub const fn can(&self, capability: Capability) -> bool {
        CapSet(self.effective).contains(capability)
    }

    const fn has_bit(&self, bit: SecureBits) -> bool {
        self.secure_bits & bit.bits() != 0
    }
}

impl Task {
    /// Changes who the task is as a call of its own asks for it: another identity or more capabilities protect
    /// the process from its former equals (Linux's `commit_creds`).
    pub fn commit_credentials(&self, new: Credentials) {
        let old = self.credentials();
        let same = (old.euid, old.egid, old.fsuid, old.fsgid) == (new.euid, new.egid, new.fsuid, new.fsgid)
            && new.permitted & !old.permitted == 0;
        if !same {
            self.group.dumpable.store(false, Ordering::Relaxed);
            self.parent_death_signal.store(0, Ordering::Relaxed);
        }
        self.set_credentials(new);
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Credentials {
        let all = CapSet::FULL.0;
        Credentials { permitted: all, effective: all, bounding: all, ..Credentials::new(0, 0) }
    }

    fn user() -> Credentials {
        Credentials { suid: 7, sgid: 8, ..Credentials::new(1000, 1000) }
    }

    #[test]
    fn root_that_becomes_a_user_loses_its_capabilities_for_good() {
        let new = root().with_uid(1000).unwrap();
        assert_eq!((new.uid, new.euid, new.suid, new.fsuid), (1000, 1000, 1000, 1000));
        assert_eq!((new.permitted, new.effective), (0, 0));
        assert_eq!(new.with_uid(0), Err(EPERM));
    }

    #[test]
    fn kept_capabilities_stay_permitted_but_not_effective() {
        let new =
            root().with_keep_capabilities(true).unwrap().with_all_uids(Some(5), Some(5), Some(5)).unwrap();
        assert_eq!((new.permitted, new.effective), (CapSet::FULL.0, 0));
        assert!(new.with_capabilities(1, 1, 0).is_ok());
        assert_eq!(new.shown_secure_bits(), KEEP_CAPS);
    }

    #[test]
    fn a_temporary_user_change_comes_back() {
        let new = root().with_all_uids(None, Some(1000), None).unwrap();
        assert_eq!((new.effective, new.permitted), (0, CapSet::FULL.0));
        let back = new.with_all_uids(None, Some(0), None).unwrap();
        assert_eq!(back.effective, CapSet::FULL.0);
    }

    #[test]
    fn users_move_among_their_own_ids_only() {
        assert_eq!(user().with_uid(7).map(|new| (new.uid, new.euid, new.suid)), Ok((1000, 7, 7)));
        assert_eq!(user().with_real_effective_uid(Some(7), None), Err(EPERM));
        assert_eq!(user().with_real_effective_uid(None, Some(7)).map(|new| new.suid), Ok(7));
        assert_eq!(user().with_all_gids(Some(8), Some(8), None).map(|new| new.fsgid), Ok(8));
        assert_eq!(user().with_gid(9), Err(EPERM));
        assert_eq!(user().with_fsuid(9), None);
    }

    #[test]
    fn the_file_system_user_carries_the_file_capabilities() {
        let new = root().with_fsuid(1000).unwrap();
        assert_eq!(new.effective & FILE_CAPABILITIES, 0);
        assert!(new.can(CAP_SETUID));
        assert_eq!(new.with_fsuid(0).unwrap().effective, CapSet::FULL.0);
    }

    #[test]
    fn capabilities_are_never_gained() {
        let new = root().with_capabilities(0, 0b111, 0b1).unwrap();
        assert_eq!(new.with_capabilities(0b1000, 0b1111, 0), Err(EPERM));
        assert_eq!(new.with_capabilities(0b10, 0b1, 0), Err(EPERM));
        // Without CAP_SETPCAP nothing becomes inheritable that was not held.
        assert_eq!(new.with_capabilities(0, 0, 0b1000), Err(EPERM));
        let raised = new.with_ambient(Capability::new(0).unwrap()).unwrap();
        assert_eq!(raised.ambient, 1);
        assert_eq!(raised.with_capabilities(0, 0b110, 0b1).unwrap().ambient, 0);
        assert_eq!(raised.with_ambient(Capability::new(1).unwrap()), Err(EPERM));
    }

    #[test]
    fn locked_bits_stay() {
        let locked = root().with_secure_bits(0b11).unwrap();
        assert_eq!(locked.with_secure_bits(0b10), Err(EPERM));
        assert_eq!(locked.with_secure_bits(0b01), Err(EPERM));
        assert!(locked.with_secure_bits(0b0111).is_ok());
        assert_eq!(root().with_secure_bits(1 << 40), Err(EPERM));
        assert_eq!(user().with_secure_bits(0), Err(EPERM));
    }
}
