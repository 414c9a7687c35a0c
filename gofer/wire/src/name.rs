//! Names as the protocol accepts them: one component of a path, or the name of an extended attribute.

use abi::errno::{self, Errno};

use crate::MAX_NAME;
use crate::codec::DecodeError;
use crate::codec::{Decoder, Encoder};

/// One component of a path: not empty, not `.` or `..`, at most [`MAX_NAME`] bytes, without `/` and NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// Checks a component. `ENOENT` when empty, `ENAMETOOLONG` when too long, else `EINVAL`: the caller resolves
    /// `.` and `..` itself.
    pub fn new(name: &'a [u8]) -> Result<Self, Errno> {
        if name.is_empty() {
            return Err(errno::ENOENT);
        }
        if name.len() > MAX_NAME {
            return Err(errno::ENAMETOOLONG);
        }
        if name == b"." || name == b".." || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
            return Err(errno::EINVAL);
        }
        Ok(Self(name))
    }

    /// The component's bytes.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn encode(self, out: &mut Encoder<'_>) {
        out.bytes(self.0);
    }

    pub(crate) fn decode(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        Self::new(input.bytes(MAX_NAME)?).map_err(|_| DecodeError::BadName)
    }
}

/// The name of an extended attribute: 1 to [`MAX_NAME`] bytes without NUL (`man 7 xattr`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XattrName<'a>(&'a [u8]);

impl<'a> XattrName<'a> {
    /// Checks a name; `ERANGE` when it is empty or too long, as `setxattr(2)` has it.
    pub fn new(name: &'a [u8]) -> Result<Self, Errno> {
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(errno::ERANGE);
        }
        if name.contains(&0) {
            return Err(errno::EINVAL);
        }
        Ok(Self(name))
    }

    /// The name's bytes.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn encode(self, out: &mut Encoder<'_>) {
        out.bytes(self.0);
    }

    pub(crate) fn decode(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        Self::new(input.bytes(MAX_NAME)?).map_err(|_| DecodeError::BadName)
    }
}
