//! Sockets: families, types, message flags, addresses, control messages.
//!
//! Addresses are the structures of user memory; ports and IP addresses in them are big-endian
//! bytes. Neighbours: `socket_options` (levels and options).

use crate::define::{constants, flags, plain};
use crate::user::{FromRegister, UserAddress};

constants! {
    /// Address families.
    ADDRESS_FAMILY_NAMES: u16 {
        AF_UNSPEC = 0,
        AF_UNIX = 1,
        AF_INET = 2,
        AF_AX25 = 3,
        AF_IPX = 4,
        AF_APPLETALK = 5,
        AF_NETROM = 6,
        AF_BRIDGE = 7,
        AF_ATMPVC = 8,
        AF_X25 = 9,
        AF_INET6 = 10,
        AF_ROSE = 11,
        #[expect(non_upper_case_globals, reason = "Linux's spelling")]
        AF_DECnet = 12,
        AF_NETBEUI = 13,
        AF_SECURITY = 14,
        AF_KEY = 15,
        AF_NETLINK = 16,
        AF_PACKET = 17,
        AF_ASH = 18,
        AF_ECONET = 19,
        AF_ATMSVC = 20,
        AF_RDS = 21,
        AF_SNA = 22,
        AF_IRDA = 23,
        AF_PPPOX = 24,
        AF_WANPIPE = 25,
        AF_LLC = 26,
        AF_IB = 27,
        AF_MPLS = 28,
        AF_CAN = 29,
        AF_TIPC = 30,
        AF_BLUETOOTH = 31,
        AF_IUCV = 32,
        AF_RXRPC = 33,
        AF_ISDN = 34,
        AF_PHONET = 35,
        AF_IEEE802154 = 36,
        AF_CAIF = 37,
        AF_ALG = 38,
        AF_NFC = 39,
        AF_VSOCK = 40,
        AF_KCM = 41,
        AF_QIPCRTR = 42,
        AF_SMC = 43,
        AF_XDP = 44,
        AF_MCTP = 45,
        AF_MAX = 46,
    }

    /// Socket types, without [`SocketFlags`].
    SOCKET_TYPE_NAMES: u32 {
        SOCK_STREAM = 1, SOCK_DGRAM = 2, SOCK_RAW = 3, SOCK_RDM = 4,
        SOCK_SEQPACKET = 5, SOCK_DCCP = 6, SOCK_PACKET = 10,
    }

    /// Internet protocols.
    IP_PROTOCOL_NAMES: i32 {
        IPPROTO_IP = 0, IPPROTO_ICMP = 1, IPPROTO_IGMP = 2, IPPROTO_TCP = 6, IPPROTO_UDP = 17,
        IPPROTO_IPV6 = 41, IPPROTO_ICMPV6 = 58, IPPROTO_SCTP = 132, IPPROTO_UDPLITE = 136,
        IPPROTO_RAW = 255, IPPROTO_MPTCP = 262,
    }

    /// What `shutdown(2)` shuts.
    SHUTDOWN_NAMES: i32 { SHUT_RD = 0, SHUT_WR = 1, SHUT_RDWR = 2 }

    /// Control messages of `SOL_SOCKET`.
    SCM_NAMES: i32 { SCM_RIGHTS = 1, SCM_CREDENTIALS = 2 }

    /// Control messages newer than many headers.
    SCM_NEW_NAMES: i32 { SCM_SECURITY = 3, SCM_PIDFD = 4 }

    /// States of a TCP connection, `tcpi_state`.
    TCP_STATE_NAMES: u8 {
        TCP_ESTABLISHED = 1, TCP_SYN_SENT = 2, TCP_SYN_RECV = 3, TCP_FIN_WAIT1 = 4, TCP_FIN_WAIT2 = 5,
        TCP_TIME_WAIT = 6, TCP_CLOSE = 7, TCP_CLOSE_WAIT = 8, TCP_LAST_ACK = 9, TCP_LISTEN = 10, TCP_CLOSING = 11,
    }

    /// Most that `listen(2)` queues by default (`net.core.somaxconn`).
    SOMAXCONN_NAMES: u32 { SOMAXCONN = 4096 }
}

/// Most descriptors in one `SCM_RIGHTS` message.
pub const SCM_MAX_FD: usize = 253;
/// Size of the largest address, `struct sockaddr_storage`.
pub const SOCKADDR_STORAGE_SIZE: usize = 128;
/// Longest path in a Unix address, with or without NUL.
pub const UNIX_PATH_MAX: usize = 108;
/// Most messages of one `sendmmsg(2)`.
pub const MMSG_MAX: usize = 1024;
/// Longest option value and control buffer the kernel copies (`net.core.optmem_max`).
pub const OPTMEM_MAX: usize = 131_072;

flags! {
    /// Or'd into the type of `socket(2)`.
    SocketFlags: u32 { SOCK_CLOEXEC = 0o2000000, SOCK_NONBLOCK = 0o4000 }

    /// Flags of `send(2)`, `recv(2)` and the messages they fill.
    MsgFlags: u32 {
        MSG_OOB = 0x1,
        MSG_PEEK = 0x2,
        MSG_DONTROUTE = 0x4,
        MSG_CTRUNC = 0x8,
        MSG_PROXY = 0x10,
        MSG_TRUNC = 0x20,
        MSG_DONTWAIT = 0x40,
        MSG_EOR = 0x80,
        MSG_WAITALL = 0x100,
        MSG_FIN = 0x200,
        MSG_SYN = 0x400,
        MSG_CONFIRM = 0x800,
        MSG_RST = 0x1000,
        MSG_ERRQUEUE = 0x2000,
        MSG_NOSIGNAL = 0x4000,
        MSG_MORE = 0x8000,
        MSG_WAITFORONE = 0x1_0000,
        MSG_BATCH = 0x4_0000,
        MSG_ZEROCOPY = 0x400_0000,
        MSG_FASTOPEN = 0x2000_0000,
        MSG_CMSG_CLOEXEC = 0x4000_0000,
    }
}

/// The type argument of `socket(2)`: a type with flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketType(pub u32);

impl SocketType {
    /// Linux's `SOCK_TYPE_MASK`.
    pub const TYPE_MASK: u32 = 0xf;

    /// The type, one of `SOCK_STREAM` and so on, or a number that is none.
    pub const fn kind(self) -> u32 {
        self.0 & Self::TYPE_MASK
    }

    /// The flags, with unknown bits, which are `EINVAL`.
    pub const fn flags(self) -> SocketFlags {
        SocketFlags::from_bits_retain(self.0 & !Self::TYPE_MASK)
    }
}

impl FromRegister for SocketType {
    fn from_register(register: u64) -> Self {
        Self(register as u32)
    }
}

plain! {
    /// `struct msghdr`.
    MsgHdr {
        msg_name: UserAddress,
        /// Linux reads it as an `int`; negative is `EINVAL`.
        msg_namelen: i32,
        /// Padding.
        __pad0: u32,
        msg_iov: UserAddress,
        msg_iovlen: u64,
        msg_control: UserAddress,
        msg_controllen: u64,
        msg_flags: u32,
        /// Padding.
        __pad1: u32,
    }

    /// `struct mmsghdr`.
    MMsgHdr {
        msg_hdr: MsgHdr,
        msg_len: u32,
        /// Padding.
        __pad0: u32,
    }

    /// The head of a control message, followed by its data.
    CmsgHdr {
        cmsg_len: u64,
        cmsg_level: i32,
        cmsg_type: i32,
    }

    /// A Unix address; the path is as long as the address length says.
    SockaddrUn {
        sun_family: u16,
        sun_path: [u8; UNIX_PATH_MAX],
    }

    /// An IPv4 address and port, big-endian.
    SockaddrIn {
        sin_family: u16,
        sin_port: [u8; 2],
        sin_addr: [u8; 4],
        sin_zero: [u8; 8],
    }

    /// An IPv6 address and port, big-endian; the scope is an interface index, native-endian.
    SockaddrIn6 {
        sin6_family: u16,
        sin6_port: [u8; 2],
        sin6_flowinfo: [u8; 4],
        sin6_addr: [u8; 16],
        sin6_scope_id: u32,
    }

    /// A netlink address.
    SockaddrNl {
        nl_family: u16,
        nl_pad: u16,
        nl_pid: u32,
        nl_groups: u32,
    }

    /// A packet socket's address.
    SockaddrLl {
        sll_family: u16,
        sll_protocol: [u8; 2],
        sll_ifindex: i32,
        sll_hatype: u16,
        sll_pkttype: u8,
        sll_halen: u8,
        sll_addr: [u8; 8],
    }

    /// Credentials of a peer, `struct ucred`.
    Ucred {
        pid: i32,
        uid: u32,
        gid: u32,
    }

    /// The value of `SO_LINGER`.
    Linger {
        l_onoff: i32,
        l_linger: i32,
    }

    /// The value of `IP_PKTINFO`.
    InPktinfo {
        ipi_ifindex: i32,
        ipi_spec_dst: [u8; 4],
        ipi_addr: [u8; 4],
    }

    /// The value of `IPV6_PKTINFO`.
    In6Pktinfo {
        ipi6_addr: [u8; 16],
        ipi6_ifindex: i32,
    }

    /// The value of `IP_ADD_MEMBERSHIP`.
    IpMreqn {
        imr_multiaddr: [u8; 4],
        imr_address: [u8; 4],
        imr_ifindex: i32,
    }

    /// The value of `IPV6_ADD_MEMBERSHIP`.
    Ipv6Mreq {
        ipv6mr_multiaddr: [u8; 16],
        ipv6mr_ifindex: i32,
    }
}

/// Alignment of control messages.
pub const CMSG_ALIGNMENT: usize = 8;
/// Size of [`CmsgHdr`].
pub const CMSG_HEADER_SIZE: usize = 16;

/// Rounds up to a control message boundary (`CMSG_ALIGN`).
pub const fn cmsg_align(length: usize) -> usize {
    length.saturating_add(CMSG_ALIGNMENT - 1) & !(CMSG_ALIGNMENT - 1)
}

/// `cmsg_len` of a message with so many bytes of data.
pub const fn cmsg_len(data: usize) -> usize {
    data.saturating_add(CMSG_HEADER_SIZE)
}

/// The room that a message with so many bytes of data takes.
pub const fn cmsg_space(data: usize) -> usize {
    cmsg_align(data).saturating_add(CMSG_HEADER_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_types_are_separated_from_flags() {
        let kind = SocketType(SOCK_DGRAM | 0o2004000);
        assert_eq!(kind.kind(), SOCK_DGRAM);
        assert_eq!(kind.flags(), SocketFlags::all());
        assert!(!SocketFlags::all().contains(SocketType(0x10).flags()));
    }

    #[test]
    fn control_messages_are_aligned() {
        assert_eq!((cmsg_len(4), cmsg_space(4), cmsg_space(8)), (20, 24, 24));
        assert_eq!(cmsg_align(usize::MAX), usize::MAX & !7);
    }
}
