//! Bounded writing and reading of little-endian fields. [`Encoder`] appends to a vector; [`Decoder`] consumes a slice
//! and answers every shortage with a [`DecodeError`].

use abi::errno::{self, Errno};

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("message ends inside a field")]
    Truncated,
    #[error("message goes on after its last field")]
    Trailing,
    #[error("no message has this tag")]
    UnknownTag,
    #[error("a name is empty, too long, or holds a byte no name may hold")]
    BadName,
    #[error("a count or a length exceeds its limit")]
    TooMany,
    #[error("a field holds a value outside its range")]
    BadValue,
}

impl From<DecodeError> for Errno {
    /// A malformed message is a broken protocol, whichever field was wrong.
    fn from(_: DecodeError) -> Self {
        errno::EPROTO
    }
}

/// Appends fields to a message.
pub(crate) struct Encoder<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Encoder<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// A byte string behind its 16-bit length. A longer one is cut at 65,535 bytes, which then exceeds
    /// [`MAX_MESSAGE`](crate::MAX_MESSAGE) together with its header, so that sending fails.
    pub(crate) fn bytes(&mut self, value: &[u8]) {
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
        self.u16(length);
        self.out.extend(value.iter().take(usize::from(length)));
    }

    /// An optional field behind a presence byte.
    pub(crate) fn option<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) {
        match value {
            None => self.u8(0),
            Some(value) => {
                self.u8(1);
                put(self, value);
            }
        }
    }
}

/// Consumes the fields of a message.
pub(crate) struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)?.try_into().map_err(|_| DecodeError::Truncated)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_le_bytes)
    }

    /// A byte string of at most `limit` bytes.
    pub(crate) fn bytes(&mut self, limit: usize) -> Result<&'a [u8], DecodeError> {
        let length = usize::from(self.u16()?);
        if length > limit {
            return Err(DecodeError::TooMany);
        }
        self.take(length)
    }

    pub(crate) fn option<T>(
        &mut self,
        get: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        match self.u8()? {
            0 => Ok(None),
            1 => get(self).map(Some),
            _ => Err(DecodeError::BadValue),
        }
    }

    /// An error number; zero is none.
    pub(crate) fn errno(&mut self) -> Result<Option<Errno>, DecodeError> {
        match self.u16()? {
            0 => Ok(None),
            number @ 1..=4095 => Ok(Some(Errno::from_raw(i32::from(number)))),
            _ => Err(DecodeError::BadValue),
        }
    }

    /// Checks that nothing is left.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }

    /// How many bytes are left.
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }
}

/// An error's number as the wire has it.
pub(crate) fn errno_field(error: Errno) -> u16 {
    u16::try_from(error.raw()).unwrap_or(5)
}
