//! `ioctl(2)` request numbers by family.
//!
//! Numbers made with `_IOR` and friends hold the size of their argument; see [`argument_size`].
//! Neighbours: `terminals` (what the terminal requests carry).

use crate::define::{Names, constants, name_in};

constants! {
    /// Terminals (`man 2 ioctl_tty`).
    TERMINAL_IOCTL_NAMES: u32 {
        TCGETS = 0x5401,
        TCSETS = 0x5402,
        TCSETSW = 0x5403,
        TCSETSF = 0x5404,
        TCGETA = 0x5405,
        TCSETA = 0x5406,
        TCSETAW = 0x5407,
        TCSETAF = 0x5408,
        TCSBRK = 0x5409,
        TCXONC = 0x540a,
        TCFLSH = 0x540b,
        TIOCEXCL = 0x540c,
        TIOCNXCL = 0x540d,
        TIOCSCTTY = 0x540e,
        TIOCGPGRP = 0x540f,
        TIOCSPGRP = 0x5410,
        TIOCOUTQ = 0x5411,
        TIOCSTI = 0x5412,
        TIOCGWINSZ = 0x5413,
        TIOCSWINSZ = 0x5414,
        TIOCMGET = 0x5415,
        TIOCMBIS = 0x5416,
        TIOCMBIC = 0x5417,
        TIOCMSET = 0x5418,
        TIOCGSOFTCAR = 0x5419,
        TIOCSSOFTCAR = 0x541a,
        TIOCLINUX = 0x541c,
        TIOCCONS = 0x541d,
        TIOCGSERIAL = 0x541e,
        TIOCSSERIAL = 0x541f,
        TIOCPKT = 0x5420,
        TIOCNOTTY = 0x5422,
        TIOCSETD = 0x5423,
        TIOCGETD = 0x5424,
        TCSBRKP = 0x5425,
        TIOCSBRK = 0x5427,
        TIOCCBRK = 0x5428,
        TIOCGSID = 0x5429,
        TCGETS2 = 0x802c542a,
        TCSETS2 = 0x402c542b,
        TCSETSW2 = 0x402c542c,
        TCSETSF2 = 0x402c542d,
        TIOCGPTN = 0x80045430,
        TIOCSPTLCK = 0x40045431,
        TIOCGDEV = 0x80045432,
        TIOCSIG = 0x40045436,
        TIOCVHANGUP = 0x5437,
        TIOCGPKT = 0x80045438,
        TIOCGPTLCK = 0x80045439,
        TIOCGEXCL = 0x80045440,
        TIOCGPTPEER = 0x5441,
        TIOCGLCKTRMIOS = 0x5456,
        TIOCSLCKTRMIOS = 0x5457,
        TIOCMIWAIT = 0x545c,
        TIOCGICOUNT = 0x545d,
    }

    /// Any descriptor.
    DESCRIPTOR_IOCTL_NAMES: u32 {
        FIONREAD = 0x541b,
        FIONBIO = 0x5421,
        FIONCLEX = 0x5450,
        FIOCLEX = 0x5451,
        FIOASYNC = 0x5452,
        FIOQSIZE = 0x5460,
        FIOSETOWN = 0x8901,
        FIOGETOWN = 0x8903,
        SIOCSPGRP = 0x8902,
        SIOCGPGRP = 0x8904,
    }

    /// Block devices.
    BLOCK_IOCTL_NAMES: u32 {
        BLKROSET = 0x125d,
        BLKROGET = 0x125e,
        BLKRRPART = 0x125f,
        BLKGETSIZE = 0x1260,
        BLKFLSBUF = 0x1261,
        BLKRASET = 0x1262,
        BLKRAGET = 0x1263,
        BLKSSZGET = 0x1268,
        BLKBSZGET = 0x80081270,
        BLKBSZSET = 0x40081271,
        BLKGETSIZE64 = 0x80081272,
        BLKDISCARD = 0x1277,
        BLKIOMIN = 0x1278,
        BLKIOOPT = 0x1279,
        BLKALIGNOFF = 0x127a,
        BLKPBSZGET = 0x127b,
        BLKROTATIONAL = 0x127e,
        BLKZEROOUT = 0x127f,
    }

    /// Files and file systems.
    FILE_IOCTL_NAMES: u32 {
        FIBMAP = 0x0001,
        FIGETBSZ = 0x0002,
        FIFREEZE = 0xc0045877,
        FITHAW = 0xc0045878,
        FITRIM = 0xc0185879,
        FICLONE = 0x40049409,
        FICLONERANGE = 0x4020940d,
        FIDEDUPERANGE = 0xc0189436,
        FS_IOC_GETFLAGS = 0x80086601,
        FS_IOC_SETFLAGS = 0x40086602,
        FS_IOC_GETVERSION = 0x80087601,
        FS_IOC_SETVERSION = 0x40087602,
        FS_IOC_FIEMAP = 0xc020660b,
        FS_IOC_FSGETXATTR = 0x801c581f,
        FS_IOC_FSSETXATTR = 0x401c5820,
        FS_IOC_GETFSLABEL = 0x81009431,
        FS_IOC_SETFSLABEL = 0x41009432,
        INOTIFY_IOC_SETNEXTWD = 0x40044900,
    }

    /// Sockets and interfaces (`man 7 netdevice`).
    SOCKET_IOCTL_NAMES: u32 {
        SIOCATMARK = 0x8905,
        SIOCGSTAMP_OLD = 0x8906,
        SIOCGSTAMPNS_OLD = 0x8907,
        SIOCGIFNAME = 0x8910,
        SIOCGIFCONF = 0x8912,
        SIOCGIFFLAGS = 0x8913,
        SIOCSIFFLAGS = 0x8914,
        SIOCGIFADDR = 0x8915,
        SIOCSIFADDR = 0x8916,
        SIOCGIFDSTADDR = 0x8917,
        SIOCGIFBRDADDR = 0x8919,
        SIOCGIFNETMASK = 0x891b,
        SIOCGIFMETRIC = 0x891d,
        SIOCGIFMTU = 0x8921,
        SIOCSIFMTU = 0x8922,
        SIOCSIFNAME = 0x8923,
        SIOCGIFHWADDR = 0x8927,
        SIOCGIFINDEX = 0x8933,
        SIOCGIFTXQLEN = 0x8942,
        SIOCETHTOOL = 0x8946,
        SIOCGIFMAP = 0x8970,
        SIOCADDRT = 0x890b,
        SIOCDELRT = 0x890c,
        SIOCGIFVLAN = 0x8982,
    }

    /// Namespace descriptors.
    NAMESPACE_IOCTL_NAMES: u32 {
        NS_GET_USERNS = 0xb701,
        NS_GET_PARENT = 0xb702,
        NS_GET_NSTYPE = 0xb703,
        NS_GET_OWNER_UID = 0xb704,
    }

    /// TUN devices.
    TUN_IOCTL_NAMES: u32 {
        TUNSETIFF = 0x400454ca,
        TUNGETIFF = 0x800454d2,
        TUNSETPERSIST = 0x400454cb,
        TUNSETOWNER = 0x400454cc,
        TUNSETGROUP = 0x400454ce,
        TUNGETFEATURES = 0x800454cf,
    }

    /// `/dev/random`.
    RANDOM_IOCTL_NAMES: u32 {
        RNDGETENTCNT = 0x80045200,
        RNDADDTOENTCNT = 0x40045201,
        RNDADDENTROPY = 0x40085203,
        RNDZAPENTCNT = 0x5204,
        RNDCLEARPOOL = 0x5206,
        RNDRESEEDCRNG = 0x5207,
    }
}

/// All families.
pub const FAMILIES: &[Names] = &[
    TERMINAL_IOCTL_NAMES,
    DESCRIPTOR_IOCTL_NAMES,
    BLOCK_IOCTL_NAMES,
    FILE_IOCTL_NAMES,
    SOCKET_IOCTL_NAMES,
    NAMESPACE_IOCTL_NAMES,
    TUN_IOCTL_NAMES,
    RANDOM_IOCTL_NAMES,
];

/// The name of a request; the first family that knows the number wins.
pub fn name(request: u32) -> Option<&'static str> {
    FAMILIES.iter().find_map(|family| name_in(family, i64::from(request)))
}

/// The size of the argument as a `_IOC` number encodes it; zero for old numbers.
pub const fn argument_size(request: u32) -> u32 {
    request >> 16 & 0x3fff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_named_and_sized() {
        assert_eq!(name(0x5413), Some("TIOCGWINSZ"));
        assert_eq!(name(0xdead_beef), None);
        assert_eq!(argument_size(TCGETS2), 44);
    }
}
