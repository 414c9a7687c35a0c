//! Which system calls carry out the kernel's changes of an address space, and the checks that no such
//! call, nor one the host executes as the application made it, touches the reserved region.

use std::os::fd::{AsRawFd, BorrowedFd};

use abi::errno::{self, Errno};
use libc::c_long;

use super::gadget::{PAGE, Reserved};
use super::requests::last_error;
use crate::{Architecture, MemoryOperation, Protection, Sharing, SyscallRequest};

/// A host call for the gadget.
pub(super) type HostCall = (c_long, [u64; 6]);

/// The number that a received descriptor gets in a stub: the socket is 0 and there are no others.
pub(super) const RECEIVED: u64 = 1;

fn protection_bits(protection: Protection) -> u64 {
    let bit = |set: bool, bit: i32| if set { bit.unsigned_abs() } else { 0 };
    u64::from(
        bit(protection.read, libc::PROT_READ)
            | bit(protection.write, libc::PROT_WRITE)
            | bit(protection.execute, libc::PROT_EXEC),
    )
}

/// `EINVAL` unless the range is the application's.
fn check_range(reserved: Reserved, address: u64, length: u64) -> Result<(), Errno> {
    match address.checked_add(length) {
        Some(end) if end <= reserved.start => Ok(()),
        _ => Err(errno::EINVAL),
    }
}

/// The call for an operation. A file must have been received as [`RECEIVED`] before. FS and GS bases are
/// judged as `arch_prctl` judges them.
pub(super) fn host_call(reserved: Reserved, operation: &MemoryOperation<'_>) -> Result<HostCall, Errno> {
    const NO_FILE: u64 = u64::MAX;
    let check = |address, length| check_range(reserved, address, length);
    let fixed = libc::MAP_FIXED.unsigned_abs();
    Ok(match *operation {
        MemoryOperation::MapAnonymous { address, length, protection, reserve } => {
            check(address, length)?;
            let reserve = if reserve { 0 } else { libc::MAP_NORESERVE.unsigned_abs() };
            let flags = fixed | (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).unsigned_abs() | reserve;
            (libc::SYS_mmap, [address, length, protection_bits(protection), u64::from(flags), NO_FILE, 0])
        }
        MemoryOperation::MapFile { address, length, protection, sharing, offset, .. } => {
            check(address, length)?;
            let sharing = match sharing {
                Sharing::Shared => libc::MAP_SHARED,
                Sharing::Private => libc::MAP_PRIVATE,
            };
            let flags = fixed | sharing.unsigned_abs();
            (
                libc::SYS_mmap,
                [address, length, protection_bits(protection), u64::from(flags), RECEIVED, offset],
            )
        }
        MemoryOperation::Unmap { address, length } => {
            check(address, length)?;
            (libc::SYS_munmap, [address, length, 0, 0, 0, 0])
        }
        MemoryOperation::Protect { address, length, protection } => {
            check(address, length)?;
            (libc::SYS_mprotect, [address, length, protection_bits(protection), 0, 0, 0])
        }
        MemoryOperation::Move { from, from_length, to, to_length } => {
            check(from, from_length)?;
            check(to, to_length)?;
            let moving = if to == from { 0 } else { libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED };
            (libc::SYS_mremap, [from, from_length, to_length, u64::from(moving.unsigned_abs()), to, 0])
        }
        MemoryOperation::Advise { address, length, advice } => {
            check(address, length)?;
            (libc::SYS_madvise, [address, length, u64::from(advice.cast_unsigned()), 0, 0, 0])
        }
        MemoryOperation::SetFsBase(base) => set_base(ARCH_SET_FS, base),
        MemoryOperation::SetGsBase(base) => set_base(ARCH_SET_GS, base),
    })
}

/// `<asm/prctl.h>`
const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;

fn set_base(which: u64, base: u64) -> HostCall {
    (libc::SYS_arch_prctl, [which, base, 0, 0, 0, 0])
}

/// Whether the host may execute this call as the application made it ([`crate::Resume::Native`]).
pub(super) fn native_call(reserved: Reserved, request: &SyscallRequest) -> Result<HostCall, Errno> {
    // Private anonymous memory at a fixed place, and flags that do not change what that is.
    let needed = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED).unsigned_abs();
    let tolerated = (libc::MAP_NORESERVE | libc::MAP_STACK | libc::MAP_POPULATE).unsigned_abs();
    let arguments = request.arguments;
    let [first, second, third, fourth, ..] = arguments;
    if request.architecture != Architecture::X86_64 {
        return Err(errno::EINVAL);
    }
    let number = c_long::try_from(request.number).map_err(|_| errno::EINVAL)?;
    match number {
        libc::SYS_munmap | libc::SYS_mprotect | libc::SYS_madvise => check_range(reserved, first, second)?,
        libc::SYS_mincore => {
            check_range(reserved, first, second)?;
            // One byte for each page.
            check_range(reserved, third, second.div_ceil(PAGE))?;
        }
        libc::SYS_mmap => {
            check_range(reserved, first, second)?;
            let (needed, tolerated) = (u64::from(needed), u64::from(tolerated));
            if fourth & needed != needed || fourth & !(needed | tolerated) != 0 {
                return Err(errno::EINVAL);
            }
        }
        libc::SYS_arch_prctl if matches!(first, ARCH_SET_FS | ARCH_SET_GS) => {}
        libc::SYS_sched_yield | libc::SYS_exit | libc::SYS_exit_group => {}
        _ => return Err(errno::EINVAL),
    }
    Ok((number, arguments))
}

/// `struct msghdr`, `struct iovec`, a byte of data, and room for one descriptor, as laid out on the scratch page.
const MESSAGE_BYTES: usize = 104;
const IOVEC: u64 = 56;
const CONTROL: u64 = 72;
const CONTROL_BYTES: u64 = 24;
const DATA: u64 = 96;

/// Fills the scratch page for [`receive_call`]. The application may change it afterwards, and can then have
/// its own memory scribbled on or its descriptor lost, which makes the mapping fail.
pub(super) fn receive_header(reserved: Reserved) -> [u8; MESSAGE_BYTES] {
    let base = reserved.scratch();
    // msg_name, msg_namelen, msg_iov, msg_iovlen, msg_control, msg_controllen, msg_flags; iov_base, iov_len
    let words = [0, 0, base + IOVEC, 1, base + CONTROL, CONTROL_BYTES, 0, base + DATA, 1];
    let mut bytes = [0; MESSAGE_BYTES];
    for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// `recvmsg` of one descriptor.
pub(super) fn receive_call(reserved: Reserved) -> HostCall {
    let flags = u64::from(libc::MSG_DONTWAIT.unsigned_abs());
    (libc::SYS_recvmsg, [super::seed::STUB_SOCKET, reserved.scratch(), flags, 0, 0, 0])
}

/// Sends `file` to whichever stub receives next.
pub(super) fn send_file(socket: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<(), Errno> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let descriptors = [file.as_raw_fd()];
    let message = [ControlMessage::ScmRights(&descriptors)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let data = [std::io::IoSlice::new(&[0])];
    sendmsg::<()>(socket.as_raw_fd(), &data, &message, flags, None)
        .map_err(|error| Errno::from_raw(error as i32))?;
    Ok(())
}

/// Throws away a descriptor that a stub failed to receive, so that no other one gets it.
pub(super) fn discard_unreceived(receiver: BorrowedFd<'_>) {
    let mut byte = 0u8;
    loop {
        // SAFETY: `byte` is writable for one byte; without a control buffer descriptors are dropped.
        let got = unsafe { libc::recv(receiver.as_raw_fd(), (&raw mut byte).cast(), 1, libc::MSG_DONTWAIT) };
        if got < 0 && last_error() != errno::EINTR {
            return;
        }
    }
}

/// `CLONE_NEW*`-free flags for each kind of child. All are children of the sentry (`CLONE_PARENT`), traced by
/// it from birth (`CLONE_PTRACE`), and have no exit signal.
pub(super) fn clone_call(kind: crate::SpawnKind) -> HostCall {
    let flags = kind.clone_flags() | libc::CLONE_PARENT | libc::CLONE_PTRACE;
    (libc::SYS_clone, [u64::from(flags.unsigned_abs()), 0, 0, 0, 0, 0])
}

/// First FS or GS base that the host refuses.
pub(super) const BASE_LIMIT: u64 = super::gadget::USER_END;

const _: () = assert!(MESSAGE_BYTES as u64 > DATA && (MESSAGE_BYTES as u64) < PAGE);

#[cfg(test)]
mod tests {
    use super::*;

    const RESERVED: Reserved = Reserved { start: 0x7000_0000_0000 };

    fn request(number: c_long, arguments: [u64; 6]) -> SyscallRequest {
        let architecture = Architecture::X86_64;
        SyscallRequest { number: number.cast_unsigned(), arguments, ip: 0, architecture, hot: false }
    }

    #[test]
    fn the_reserved_region_is_out_of_reach() {
        let end = RESERVED.start;
        for call in [libc::SYS_munmap, libc::SYS_mprotect, libc::SYS_madvise] {
            assert!(native_call(RESERVED, &request(call, [end - 4096, 4096, 0, 0, 0, 0])).is_ok());
            assert!(native_call(RESERVED, &request(call, [end - 4096, 4097, 0, 0, 0, 0])).is_err());
            assert!(native_call(RESERVED, &request(call, [4096, u64::MAX, 0, 0, 0, 0])).is_err());
        }
        let mincore = |arguments| native_call(RESERVED, &request(libc::SYS_mincore, arguments));
        assert!(mincore([end - 8192, 8192, end - 2, 0, 0, 0]).is_ok());
        assert!(mincore([end - 8192, 8192, end - 1, 0, 0, 0]).is_err(), "its answer would be written there");
        assert!(mincore([end - 8192, 8193, 0, 0, 0, 0]).is_err());
        let moved = MemoryOperation::Move { from: 4096, from_length: 4096, to: end, to_length: 4096 };
        assert!(host_call(RESERVED, &moved).is_err());
    }

    #[test]
    fn only_private_anonymous_fixed_memory_is_mapped_natively() {
        let call = |flags: i32| {
            native_call(RESERVED, &request(libc::SYS_mmap, [4096, 4096, 3, flags as u64, u64::MAX, 0]))
                .is_ok()
        };
        let good = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        assert!(call(good) && call(good | libc::MAP_NORESERVE));
        assert!(!call(good | libc::MAP_SHARED) && !call(good | libc::MAP_GROWSDOWN));
        assert!(!call(good & !libc::MAP_FIXED) && !call(good & !libc::MAP_ANONYMOUS));
    }

    #[test]
    fn other_calls_are_never_native() {
        assert!(native_call(RESERVED, &request(libc::SYS_getpid, [0; 6])).is_err());
        let mut compat = request(libc::SYS_sched_yield, [0; 6]);
        compat.architecture = Architecture::I386;
        assert!(native_call(RESERVED, &compat).is_err());
    }
}
