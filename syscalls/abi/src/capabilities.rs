//! Capabilities (`man 7 capabilities`): numbers, names, sets, and the structures of `capset(2)`.
//!
//! Key types: [`Capability`], [`CapSet`]. A set may hold bits above [`CAP_LAST_CAP`] only on its
//! way in from the application; [`CapSet::known`] drops them, as the kernel does.

use core::fmt;

use crate::define::{constants, flags, plain};

/// A capability number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Capability(u8);

macro_rules! capabilities {
    ($($name:ident = $number:literal;)*) => {
        $(#[doc = concat!("`", stringify!($name), "`")] pub const $name: Capability = Capability($number);)*

        /// All capabilities and their numbers, ascending.
        pub const CAPABILITY_NAMES: crate::define::Names = &[$((stringify!($name), $number)),*];
    };
}

capabilities! {
    CAP_CHOWN = 0;
    CAP_DAC_OVERRIDE = 1;
    CAP_DAC_READ_SEARCH = 2;
    CAP_FOWNER = 3;
    CAP_FSETID = 4;
    CAP_KILL = 5;
    CAP_SETGID = 6;
    CAP_SETUID = 7;
    CAP_SETPCAP = 8;
    CAP_LINUX_IMMUTABLE = 9;
    CAP_NET_BIND_SERVICE = 10;
    CAP_NET_BROADCAST = 11;
    CAP_NET_ADMIN = 12;
    CAP_NET_RAW = 13;
    CAP_IPC_LOCK = 14;
    CAP_IPC_OWNER = 15;
    CAP_SYS_MODULE = 16;
    CAP_SYS_RAWIO = 17;
    CAP_SYS_CHROOT = 18;
    CAP_SYS_PTRACE = 19;
    CAP_SYS_PACCT = 20;
    CAP_SYS_ADMIN = 21;
    CAP_SYS_BOOT = 22;
    CAP_SYS_NICE = 23;
    CAP_SYS_RESOURCE = 24;
    CAP_SYS_TIME = 25;
    CAP_SYS_TTY_CONFIG = 26;
    CAP_MKNOD = 27;
    CAP_LEASE = 28;
    CAP_AUDIT_WRITE = 29;
    CAP_AUDIT_CONTROL = 30;
    CAP_SETFCAP = 31;
    CAP_MAC_OVERRIDE = 32;
    CAP_MAC_ADMIN = 33;
    CAP_SYSLOG = 34;
    CAP_WAKE_ALARM = 35;
    CAP_BLOCK_SUSPEND = 36;
    CAP_AUDIT_READ = 37;
    CAP_PERFMON = 38;
    CAP_BPF = 39;
    CAP_CHECKPOINT_RESTORE = 40;
}

/// The highest capability.
pub const CAP_LAST_CAP: Capability = CAP_CHECKPOINT_RESTORE;

impl Capability {
    /// The capability with this number (Linux's `cap_valid`).
    pub const fn new(number: u64) -> Option<Self> {
        if number <= CAP_LAST_CAP.0 as u64 { Some(Self(number as u8)) } else { None }
    }

    /// The number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The name, such as `CAP_CHOWN`.
    pub fn name(self) -> &'static str {
        CAPABILITY_NAMES.get(usize::from(self.0)).map_or("CAP_?", |(name, _)| name)
    }

    /// The capability of a name as OCI spells it (`CAP_CHOWN`), also without prefix or in lower case.
    pub fn from_name(text: &str) -> Option<Self> {
        let upper = text.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        Self::all().find(|capability| capability.name().strip_prefix("CAP_") == Some(bare))
    }

    /// All capabilities, ascending.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=CAP_LAST_CAP.0).map(Self)
    }
}

/// A set of capabilities; bit `n` is capability `n`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct CapSet(pub u64);

impl CapSet {
    /// No capability.
    pub const EMPTY: Self = Self(0);
    /// Every capability there is.
    pub const FULL: Self = Self((2 << CAP_LAST_CAP.0) - 1);

    /// The set of one.
    pub const fn of(capability: Capability) -> Self {
        Self(1 << capability.0)
    }

    /// Whether the set holds the capability.
    pub const fn contains(self, capability: Capability) -> bool {
        self.0 & Self::of(capability).0 != 0
    }

    /// Whether every capability of the set is in the other.
    pub const fn is_subset(self, of: Self) -> bool {
        self.0 & !of.0 == 0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Adds a capability.
    pub const fn insert(&mut self, capability: Capability) {
        self.0 |= Self::of(capability).0;
    }

    /// Takes a capability out.
    pub const fn remove(&mut self, capability: Capability) {
        self.0 &= !Self::of(capability).0;
    }

    /// The capabilities in either.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The capabilities in both.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The capabilities in this set but not in the other.
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The set without bits that name no capability.
    pub const fn known(self) -> Self {
        self.intersection(Self::FULL)
    }

    /// The low and high words, as `capset(2)` passes them.
    pub const fn words(self) -> (u32, u32) {
        (self.0 as u32, (self.0 >> 32) as u32)
    }

    /// The set of two words.
    pub const fn from_words(low: u32, high: u32) -> Self {
        Self(low as u64 | (high as u64) << 32)
    }

    /// The capabilities in the set, ascending.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::all().filter(move |capability| self.contains(*capability))
    }
}

impl FromIterator<Capability> for CapSet {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        let mut set = Self::EMPTY;
        capabilities.into_iter().for_each(|capability| set.insert(capability));
        set
    }
}

impl fmt::Debug for CapSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Capability::name)).finish()
    }
}

/// Sixteen hexadecimal digits, as in `/proc/PID/status`.
impl fmt::Display for CapSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

constants! {
    /// Versions of the `capset(2)` header; 1 has one word a set, 2 and 3 two.
    CAPABILITY_VERSION_NAMES: u32 {
        _LINUX_CAPABILITY_VERSION_1 = 0x1998_0330,
        _LINUX_CAPABILITY_VERSION_2 = 0x2007_1026,
        _LINUX_CAPABILITY_VERSION_3 = 0x2008_0522,
    }

    /// `magic_etc` of the `security.capability` attribute.
    VFS_CAP_NAMES: u32 {
        VFS_CAP_REVISION_1 = 0x0100_0000,
        VFS_CAP_REVISION_2 = 0x0200_0000,
        VFS_CAP_REVISION_3 = 0x0300_0000,
        VFS_CAP_REVISION_MASK = 0xff00_0000,
        VFS_CAP_FLAGS_EFFECTIVE = 1,
    }
}

flags! {
    /// How user ids and capabilities interact (`PR_SET_SECUREBITS`).
    SecureBits: u32 {
        SECBIT_NOROOT = 1 << 0,
        SECBIT_NOROOT_LOCKED = 1 << 1,
        SECBIT_NO_SETUID_FIXUP = 1 << 2,
        SECBIT_NO_SETUID_FIXUP_LOCKED = 1 << 3,
        SECBIT_KEEP_CAPS = 1 << 4,
        SECBIT_KEEP_CAPS_LOCKED = 1 << 5,
        SECBIT_NO_CAP_AMBIENT_RAISE = 1 << 6,
        SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED = 1 << 7,
        SECBIT_EXEC_RESTRICT_FILE = 1 << 8,
        SECBIT_EXEC_RESTRICT_FILE_LOCKED = 1 << 9,
        SECBIT_EXEC_DENY_INTERACTIVE = 1 << 10,
        SECBIT_EXEC_DENY_INTERACTIVE_LOCKED = 1 << 11,
    }
}

plain! {
    /// The header of `capget(2)` and `capset(2)`.
    CapUserHeader {
        version: u32,
        pid: i32,
    }

    /// One word of each set; versions 2 and 3 pass two of these, low word first.
    CapUserData {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }

    /// The `security.capability` attribute, revision 2; revision 3 appends [`VfsCapRoot`].
    VfsCapData {
        magic_etc: u32,
        permitted_low: u32,
        inheritable_low: u32,
        permitted_high: u32,
        inheritable_high: u32,
    }

    /// The root user id of the namespace that a revision 3 attribute is for.
    VfsCapRoot {
        rootid: u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_name_table_are_where_their_numbers_say() {
        for (row, (name, number)) in CAPABILITY_NAMES.iter().enumerate() {
            assert_eq!(i64::try_from(row).unwrap(), *number);
            assert_eq!(Capability::from_name(name).map(Capability::name), Some(*name));
        }
        assert_eq!(Capability::from_name("net_raw"), Some(CAP_NET_RAW));
        assert_eq!(Capability::from_name("CAP_NONE"), None);
        assert_eq!(Capability::new(41), None);
    }

    #[test]
    fn full_set_prints_as_linux_prints_it() {
        assert_eq!(CapSet::FULL.to_string(), "000001ffffffffff");
        assert_eq!(CapSet(u64::MAX).known(), CapSet::FULL);
        let (low, high) = CapSet::FULL.words();
        assert_eq!(CapSet::from_words(low, high), CapSet::FULL);
    }
}
