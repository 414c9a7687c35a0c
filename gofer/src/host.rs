//! The host calls for which neither `rustix` nor `nix` has a safe wrapper. The crate's only `unsafe`.
#![expect(unsafe_code, reason = "mount_setattr, mallopt and madvise have no safe wrapper")]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// `struct mount_attr` (`man 2 mount_setattr`).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

pub const MOUNT_ATTR_RDONLY: u64 = 0x1;
pub const MOUNT_ATTR_NOSUID: u64 = 0x2;
pub const MOUNT_ATTR_NODEV: u64 = 0x4;

/// Sets attributes on a detached mount and all mounts beneath it, and makes them private (`man 2 mount_setattr`).
pub fn set_mount_attributes(mount: BorrowedFd<'_>, set: u64) -> Result<(), Errno> {
    let attributes = MountAttr { set, clear: 0, propagation: libc::MS_PRIVATE, user_namespace: 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the descriptor is open for the call's length, the path is a NUL-terminated literal, and `attributes`
    // is a live `struct mount_attr` whose exact size is passed; the kernel only reads it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    Err(Errno::from_raw_os_error(error))
}

/// Keeps all threads in one malloc arena: an arena each would cost more memory than the eight threads' contention
/// costs time.
pub fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `mallopt` takes two integers and may be called at any time (`man 3 mallopt`).
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

/// Lets go of the pages of the running program's code and constants, whatever program this is linked into. Those that are
/// still needed come back from the page cache at their next use; the many that only a start needs do not.
pub fn forget_program_pages() {
    unsafe extern "C" {
        // Symbols of every linker (`man 3 end`): where the program's file begins in memory, and where its code ends. What is
        // written to, also what is only written by relocation, lies behind that.
        static __executable_start: u8;
        static etext: u8;
    }
    const PAGE: usize = 4096;
    let start = (&raw const __executable_start).addr().next_multiple_of(PAGE);
    let end = (&raw const etext).addr() / PAGE * PAGE;
    if start < end {
        // SAFETY: the range is mapped from the program's file, read-only and never written to, so a page that is dropped
        // is the same page when it is read again.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static CONSTANT: [u8; 64 << 10] = [7; 64 << 10];

    #[test]
    fn forgotten_pages_come_back_as_they_were() {
        let sum = || std::hint::black_box(&CONSTANT).iter().map(|byte| u64::from(*byte)).sum::<u64>();
        assert_eq!(sum(), 7 * (64 << 10));
        forget_program_pages();
        assert_eq!(sum(), 7 * (64 << 10));
    }
}
