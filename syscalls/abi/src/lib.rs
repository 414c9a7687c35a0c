//! Linux's x86-64 vocabulary as data: numbers, errors, flags, structures. Makes no call itself.

pub mod errno;
