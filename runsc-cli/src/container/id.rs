//! Container ids: what a user may call a container.
//!
//! Key type: [`ContainerId`]. Invariant: a `ContainerId` is one file name, never `.` or `..`, so it can be joined to a
//! directory without leaving it.

use std::fmt;

use crate::failure::Failure;

/// Longest file name of Linux, `NAME_MAX`.
const LONGEST: usize = 255;

/// A valid id, by runc's rule (`^[\w+-\.]+$`, which includes the comma) and not a directory's own names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerId(String);

impl ContainerId {
    /// Checks it, with runc's message.
    pub fn new(text: &str) -> Result<Self, Failure> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_+,-.".contains(c);
        let valid = !text.is_empty()
            && text.len() <= LONGEST
            && text.chars().all(allowed)
            && text != "."
            && text != "..";
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(Failure::new(format!("invalid container ID format: {text:?}")))
        }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_leave_the_directory_are_refused() {
        for bad in ["", ".", "..", "../x", "a/b", "/", "a b", "a\0b", "ä", "a\nb", &"x".repeat(256)] {
            assert!(ContainerId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_runc_accepts_is_accepted() {
        for good in ["a", "0", "a.b", "a..b", "-x", "A_b+c,d-e.f", &"x".repeat(255)] {
            assert_eq!(ContainerId::new(good).unwrap().as_str(), good);
        }
    }
}
