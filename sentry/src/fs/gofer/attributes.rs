//! From the gofer's and the host's view of a file to the VFS's.

use abi::errno::{ECONNREFUSED, SysResult};
use abi::sockets::{SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM};
use nix::sys::stat::FileStat;
use wire::{Attr, SocketType, Timestamp};

use crate::vfs::{Attributes, DeviceNumber, FileKind, SetTime};

/// Which host inode: its device and number.
pub type HostKey = (wire::DeviceNumber, u64);

const NS_PER_S: i64 = 1_000_000_000;

/// The host inode behind attributes.
pub const fn key(attr: &Attr) -> HostKey {
    (attr.device, attr.ino)
}

/// A socket's type as the gofer names it.
///
/// # Errors
/// `ECONNREFUSED`: of a type that no host socket has.
pub fn socket_type(kind: u32) -> SysResult<SocketType> {
    match kind {
        SOCK_STREAM => Ok(SocketType::Stream),
        SOCK_DGRAM => Ok(SocketType::Datagram),
        SOCK_SEQPACKET => Ok(SocketType::SeqPacket),
        _ => Err(ECONNREFUSED),
    }
}

/// What `stat` shows. A type that Linux does not have cannot be opened, nor can a regular file be made of it: a socket.
pub fn attributes(attr: &Attr, number: u64) -> Attributes {
    Attributes {
        kind: FileKind::from_mode(attr.mode).unwrap_or(FileKind::Socket),
        permissions: attr.mode & 0o7777,
        links: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        device_number: DeviceNumber { major: attr.rdev.major, minor: attr.rdev.minor },
        inode: number,
        size: attr.size,
        blocks_512: attr.blocks,
        block_size: attr.block_size,
        access_ns: nanoseconds(attr.atime),
        modify_ns: nanoseconds(attr.mtime),
        change_ns: nanoseconds(attr.ctime),
        birth_ns: attr.btime.map(nanoseconds),
    }
}

/// The gofer's view again.
pub fn wire(attributes: &Attributes, key: HostKey) -> Attr {
    let rdev = attributes.device_number;
    Attr {
        device: key.0,
        ino: key.1,
        mode: attributes.mode(),
        nlink: attributes.links,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: wire::DeviceNumber { major: rdev.major, minor: rdev.minor },
        size: attributes.size,
        blocks: attributes.blocks_512,
        block_size: attributes.block_size,
        atime: timestamp(attributes.access_ns),
        mtime: timestamp(attributes.modify_ns),
        ctime: timestamp(attributes.change_ns),
        btime: attributes.birth_ns.map(timestamp),
    }
}

/// What a descriptor of the file tells, over what was known; the host asks nobody for it.
pub fn refresh(attributes: &mut Attributes, status: &FileStat) {
    let time = |seconds: i64, ns: i64| seconds.saturating_mul(NS_PER_S).saturating_add(ns);
    attributes.permissions = status.st_mode & 0o7777;
    attributes.links = u32::try_from(status.st_nlink).unwrap_or(u32::MAX);
    attributes.uid = status.st_uid;
    attributes.gid = status.st_gid;
    attributes.size = u64::try_from(status.st_size).unwrap_or(0);
    attributes.blocks_512 = u64::try_from(status.st_blocks).unwrap_or(0);
    attributes.access_ns = time(status.st_atime, status.st_atime_nsec);
    attributes.modify_ns = time(status.st_mtime, status.st_mtime_nsec);
    attributes.change_ns = time(status.st_ctime, status.st_ctime_nsec);
}

/// A time to set, as the gofer takes it.
pub fn set_time(time: SetTime) -> wire::SetTime {
    match time {
        SetTime::Now => wire::SetTime::Now,
        SetTime::To(ns) => wire::SetTime::At(timestamp(ns)),
    }
}

fn timestamp(ns: i64) -> Timestamp {
    Timestamp {
        seconds: ns.div_euclid(NS_PER_S),
        nanoseconds: u32::try_from(ns.rem_euclid(NS_PER_S)).unwrap_or(0),
    }
}

fn nanoseconds(time: Timestamp) -> i64 {
    time.seconds.saturating_mul(NS_PER_S).saturating_add(i64::from(time.nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_the_round_trip() {
        let time = |seconds| Timestamp { seconds, nanoseconds: 5 };
        let device = |major| wire::DeviceNumber { major, minor: 3 };
        let attr = Attr {
            device: device(8),
            ino: 77,
            mode: 0o104_755,
            nlink: 2,
            uid: 1000,
            gid: 100,
            rdev: device(0),
            size: 12_345,
            blocks: 32,
            block_size: 4096,
            atime: time(1),
            mtime: time(-2),
            ctime: time(3),
            btime: Some(time(4)),
        };
        assert_eq!(wire(&attributes(&attr, 5), key(&attr)), attr);
    }

    #[test]
    fn times_before_1970_survive_the_round_trip() {
        for ns in [-1, 0, -NS_PER_S - 5, 1_700_000_000_123_456_789] {
            let wire::SetTime::At(time) = set_time(SetTime::To(ns)) else { panic!("not a time") };
            assert_eq!(nanoseconds(time), ns);
        }
    }
}
