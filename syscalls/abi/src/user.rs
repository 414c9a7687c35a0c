//! What the application says: addresses, paths and descriptors, typed but not believed.
//!
//! A user pointer is an allegation. [`UserAddress`], [`UserPtr`], [`UserSlice`] and [`UserPath`]
//! can be asked for their address and moved about, never dereferenced: only the kernel's copy
//! functions turn them into bytes, once, and may find nothing there. [`FromRegister`] decodes one
//! argument register and cannot fail; judging is the system call's business, in Linux's order.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

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

macro_rules! integers {
    ($($integer:ty),*) => { $(
        impl FromRegister for $integer {
            fn from_register(register: u64) -> Self {
                register as Self
            }
        }
    )* };
}
integers!(i32, u32, i64, u64, usize);

impl FromRegister for UserAddress {
    fn from_register(register: u64) -> Self {
        Self(register)
    }
}
