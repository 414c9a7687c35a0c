//! What the application says: addresses, paths and descriptors, typed but not believed.
//!
//! A user pointer is an allegation. [`UserAddress`], [`UserPtr`], [`UserSlice`] and [`UserPath`]
//! can be asked for their address and moved about, never dereferenced: only the kernel's copy
//! functions turn them into bytes, once, and may find nothing there. [`FromRegister`] decodes one
//! argument register and cannot fail; judging is the system call's business, in Linux's order.

use core::fmt;
use core::marker::PhantomData;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::files::AT_FDCWD;

/// A system call argument that any register value can be decoded to.
pub trait FromRegister {
    /// Decodes as Linux does: narrower types take the low bits.
    fn from_register(register: u64) -> Self;
}

/// An address in the application's address space. May be anything.
#[repr(transparent)]
#[derive(
    Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct UserAddress(pub u64);

impl UserAddress {
    /// Address zero, which Linux's interfaces read as "absent".
    pub const NULL: Self = Self(0);

    /// Whether the application said "absent".
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The number.
    pub const fn address(self) -> u64 {
        self.0
    }

    /// The address `offset` bytes further; `None` past the end of 64 bits.
    pub const fn checked_add(self, offset: u64) -> Option<Self> {
        match self.0.checked_add(offset) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The address `offset` bytes before; `None` below zero.
    pub const fn checked_sub(self, offset: u64) -> Option<Self> {
        match self.0.checked_sub(offset) {
            Some(difference) => Some(Self(difference)),
            None => None,
        }
    }

    /// Whether the address is a multiple of `alignment`, a power of two.
    pub const fn is_aligned_to(self, alignment: u64) -> bool {
        self.0 & (alignment - 1) == 0
    }
}

impl fmt::Debug for UserAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl FromRegister for UserAddress {
    fn from_register(register: u64) -> Self {
        Self(register)
    }
}

/// The address of a `T`, allegedly.
#[repr(transparent)]
pub struct UserPtr<T> {
    address: UserAddress,
    // A function, so that the pointer is `Send` and `Sync` whatever `T` is: it holds none.
    target: PhantomData<fn() -> T>,
}

impl<T> UserPtr<T> {
    /// The null pointer.
    pub const NULL: Self = Self::new(UserAddress::NULL);

    /// A pointer to this address.
    pub const fn new(address: UserAddress) -> Self {
        Self { address, target: PhantomData }
    }

    /// Where it points.
    pub const fn address(self) -> UserAddress {
        self.address
    }

    /// Whether the application said "absent".
    pub const fn is_null(self) -> bool {
        self.address.is_null()
    }

    /// The pointer, unless it is null.
    pub const fn non_null(self) -> Option<Self> {
        if self.is_null() { None } else { Some(self) }
    }

    /// The same address, read as another type.
    pub const fn cast<U>(self) -> UserPtr<U> {
        UserPtr::new(self.address)
    }

    /// The pointer `index` elements further; `None` past the end of 64 bits.
    pub const fn checked_add(self, index: u64) -> Option<Self> {
        let Some(offset) = index.checked_mul(size_of::<T>() as u64) else { return None };
        match self.address.checked_add(offset) {
            Some(address) => Some(Self::new(address)),
            None => None,
        }
    }

    /// The bytes of `count` elements; `None` if they are more than 64 bits can count.
    pub const fn array(self, count: u64) -> Option<UserSlice> {
        match count.checked_mul(size_of::<T>() as u64) {
            Some(length) => Some(UserSlice::new(self.address, length)),
            None => None,
        }
    }
}

// Not derived: derives would ask the same of `T`.
impl<T> Clone for UserPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for UserPtr<T> {}

impl<T> PartialEq for UserPtr<T> {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

impl<T> Eq for UserPtr<T> {}

impl<T> fmt::Debug for UserPtr<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl<T> FromRegister for UserPtr<T> {
    fn from_register(register: u64) -> Self {
        Self::new(UserAddress(register))
    }
}

/// A range of user memory, allegedly. It may wrap around; [`UserSlice::end`] tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserSlice {
    address: UserAddress,
    length: u64,
}

impl UserSlice {
    /// The range of `length` bytes from `address`.
    pub const fn new(address: UserAddress, length: u64) -> Self {
        Self { address, length }
    }

    /// Where it begins.
    pub const fn address(self) -> UserAddress {
        self.address
    }

    /// How many bytes.
    pub const fn len(self) -> u64 {
        self.length
    }

    /// Whether it has no bytes.
    pub const fn is_empty(self) -> bool {
        self.length == 0
    }

    /// The address after the last byte, `None` if the range wraps around.
    pub const fn end(self) -> Option<UserAddress> {
        self.address.checked_add(self.length)
    }

    /// At most the first `length` bytes.
    pub const fn truncated(self, length: u64) -> Self {
        Self { address: self.address, length: if length < self.length { length } else { self.length } }
    }

    /// What remains after `count` bytes; empty if there are fewer, `None` if the range wraps there.
    pub const fn skip(self, count: u64) -> Option<Self> {
        let count = if count < self.length { count } else { self.length };
        match self.address.checked_add(count) {
            Some(address) => Some(Self { address, length: self.length - count }),
            None => None,
        }
    }
}

/// Defines addresses of NUL-terminated strings.
macro_rules! string_pointers {
    ($($(#[$meta:meta])* $name:ident;)*) => {$(
        $(#[$meta])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(pub UserAddress);

        impl $name {
            /// Where it points.
            pub const fn address(self) -> UserAddress {
                self.0
            }

            /// Whether the application said "absent".
            pub const fn is_null(self) -> bool {
                self.0.is_null()
            }
        }

        impl FromRegister for $name {
            fn from_register(register: u64) -> Self {
                Self(UserAddress(register))
            }
        }
    )*};
}

string_pointers! {
    /// The address of a path: NUL-terminated, at most `PATH_MAX` bytes, allegedly.
    UserPath;
    /// The address of any other NUL-terminated string, such as an attribute's name, allegedly.
    UserString;
}

/// A descriptor number. May name nothing.
#[repr(transparent)]
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Fd(pub i32);

impl Fd {
    /// "No descriptor", as `mmap(2)` of anonymous memory is given.
    pub const NONE: Self = Self(-1);

    /// The number.
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// The number as an index, `None` if negative.
    pub fn index(self) -> Option<usize> {
        usize::try_from(self.0).ok()
    }
}

impl FromRegister for Fd {
    fn from_register(register: u64) -> Self {
        Self(i32::from_register(register))
    }
}

/// Where a relative path begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirFd {
    /// The current directory, `AT_FDCWD`.
    Cwd,
    /// A directory's descriptor.
    Fd(Fd),
}

impl From<i32> for DirFd {
    fn from(raw: i32) -> Self {
        if raw == AT_FDCWD { Self::Cwd } else { Self::Fd(Fd(raw)) }
    }
}

impl FromRegister for DirFd {
    fn from_register(register: u64) -> Self {
        i32::from_register(register).into()
    }
}

macro_rules! integers {
    ($($type:ty)*) => {$(
        impl FromRegister for $type {
            fn from_register(register: u64) -> Self {
                register as Self
            }
        }
    )*};
}

integers! { u8 u16 u32 u64 usize i8 i16 i32 i64 isize }

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::OpenFlags;

    #[test]
    fn narrow_arguments_take_the_low_bits() {
        let register = 0xdead_beef_ffff_ff9c;
        assert_eq!(i32::from_register(register), -100);
        assert_eq!(u32::from_register(register), 0xffff_ff9c);
        assert_eq!(DirFd::from_register(register), DirFd::Cwd);
        assert_eq!(Fd::from_register(register).index(), None);
        assert_eq!(u64::from_register(register), register);
        assert_eq!(OpenFlags::from_register(register).bits(), 0xffff_ff9c);
    }

    #[test]
    fn arithmetic_on_allegations_does_not_wrap() {
        let last = UserPtr::<u32>::new(UserAddress(u64::MAX - 3));
        assert_eq!(last.checked_add(1), None);
        assert_eq!(last.checked_add(0), Some(last));
        assert_eq!(UserPtr::<u64>::NULL.checked_add(u64::MAX), None);
        assert_eq!(UserPtr::<u64>::NULL.array(u64::MAX / 4), None);
        assert_eq!(UserSlice::new(UserAddress(1), u64::MAX).end(), None);
        assert_eq!(UserAddress(1).checked_sub(2), None);
    }

    #[test]
    fn slices_are_cut_within_their_length() {
        let slice = UserSlice::new(UserAddress(0x1000), 16);
        assert_eq!(slice.truncated(100), slice);
        assert_eq!(slice.skip(6), Some(UserSlice::new(UserAddress(0x1006), 10)));
        assert!(slice.skip(99).is_some_and(UserSlice::is_empty));
    }
}
