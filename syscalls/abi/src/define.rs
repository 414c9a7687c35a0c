//! The macros that define this crate's vocabulary once and derive the rest from it.
//!
//! [`constants!`] makes plain constants and a [`Names`] table; [`flags!`] makes a `bitflags` type
//! that decodes from a register; [`plain!`] makes a `repr(C)` structure that is any bytes of its
//! size (zerocopy refuses implicit padding) and records its [`Layout`]. `--strace` prints from the
//! tables, and `tests/headers.rs` compares all of them with the C headers.

/// Constants of one family with their names, in the order in which they should be matched.
pub type Names = &'static [(&'static str, i64)];

/// The name of a value in a family.
pub fn name_in(names: Names, value: i64) -> Option<&'static str> {
    names.iter().find(|(_, known)| *known == value).map(|(name, _)| *name)
}

/// A structure whose memory layout is known by field.
pub trait Layout: Sized {
    /// Field names and their offsets in bytes.
    const FIELDS: &'static [(&'static str, usize)];
}

/// Constants of one type, with a table of their names.
macro_rules! constants {
    ($($(#[$meta:meta])* $table:ident: $ty:ty { $($(#[$inner:meta])* $name:ident = $value:expr),* $(,)? })*) => {$(
        $(
            $(#[$inner])*
            #[doc = concat!("`", stringify!($name), "`, see [`", stringify!($table), "`].")]
            pub const $name: $ty = $value;
        )*
        $(#[$meta])*
        pub const $table: $crate::define::Names = &[$((stringify!($name), $name as i64)),*];
    )*};
}

/// A set of flags, unknown bits kept, decoded from a register by truncation.
macro_rules! flags {
    ($($(#[$meta:meta])* $type:ident: $bits:ty { $($(#[doc = $inner:literal])* $name:ident = $value:expr),* $(,)? })*) => {$(
        bitflags::bitflags! {
            $(#[$meta])*
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
            pub struct $type: $bits {
                $(
                    $(#[doc = $inner])*
                    #[doc = concat!("`", stringify!($name), "`")]
                    const $name = $value;
                )*
            }
        }

        impl $crate::user::FromRegister for $type {
            fn from_register(register: u64) -> Self {
                Self::from_bits_retain(register as $bits)
            }
        }
    )*};
}

/// Structures as user memory holds them: any bytes are a value, none are implicit padding.
macro_rules! plain {
    ($($(#[$meta:meta])* $name:ident { $($(#[$inner:meta])* $field:ident: $ty:ty),* $(,)? })*) => {$(
        $(#[$meta])*
        #[repr(C)]
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        pub struct $name {
            $($(#[$inner])* #[doc = concat!("`", stringify!($field), "`")] pub $field: $ty),*
        }

        impl Default for $name {
            /// All bytes zero.
            fn default() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        }

        impl $crate::define::Layout for $name {
            const FIELDS: &'static [(&'static str, usize)] =
                &[$((stringify!($field), core::mem::offset_of!($name, $field))),*];
        }
    )*};
}

pub(crate) use {constants, flags, plain};
