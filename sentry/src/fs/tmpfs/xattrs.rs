//! Extended attributes kept in memory (`man 7 xattr`): `user.`, `trusted.` and `security.`.
//!
//! Who may use which namespace is the VFS's business. Values are charged to the file system's [`Budget`], and
//! one inode has at most [`XATTR_BYTES_MAX`] of names and values.

use std::collections::BTreeMap;
use std::sync::Arc;

use abi::errno::{EEXIST, ENODATA, ENOSPC, EOPNOTSUPP, SysResult};

use super::budget::{Budget, PAGE};
use crate::vfs::XattrSet;

/// Names and values of one inode, in bytes: as much as one value may have on Linux, and room for names.
pub const XATTR_BYTES_MAX: usize = 68 * 1024;

/// The attributes of one inode.
pub struct Xattrs {
    budget: Arc<Budget>,
    values: BTreeMap<Box<[u8]>, Box<[u8]>>,
    bytes: usize,
}

impl Xattrs {
    /// None yet.
    pub const fn new(budget: Arc<Budget>) -> Self {
        Self { budget, values: BTreeMap::new(), bytes: 0 }
    }

    /// A value.
    ///
    /// # Errors
    /// `ENODATA`, `EOPNOTSUPP`.
    pub fn get(&self, name: &[u8]) -> SysResult<Vec<u8>> {
        supported(name)?;
        self.values.get(name).map(|value| value.to_vec()).ok_or(ENODATA)
    }

    /// Sets a value.
    ///
    /// # Errors
    /// `EEXIST`, `ENODATA`, `ENOSPC`, `EOPNOTSUPP`.
    pub fn set(&mut self, name: &[u8], value: &[u8], how: XattrSet) -> SysResult<()> {
        supported(name)?;
        let old = self.values.get(name).map(|old| old.len() + name.len());
        match (how, old) {
            (XattrSet::Create, Some(_)) => return Err(EEXIST),
            (XattrSet::Replace, None) => return Err(ENODATA),
            _ => {}
        }
        let bytes = self.bytes - old.unwrap_or(0) + name.len() + value.len();
        if bytes > XATTR_BYTES_MAX {
            return Err(ENOSPC);
        }
        self.charge(bytes)?;
        self.values.insert(name.into(), value.into());
        Ok(())
    }

    /// Removes one.
    ///
    /// # Errors
    /// `ENODATA`, `EOPNOTSUPP`.
    pub fn remove(&mut self, name: &[u8]) -> SysResult<()> {
        supported(name)?;
        let value = self.values.remove(name).ok_or(ENODATA)?;
        self.charge(self.bytes - name.len() - value.len())
    }

    /// All names.
    pub fn names(&self) -> Vec<Vec<u8>> {
        self.values.keys().map(|name| name.to_vec()).collect()
    }

    fn charge(&mut self, bytes: usize) -> SysResult<()> {
        let (old, new) = (pages(self.bytes), pages(bytes));
        if new > old {
            self.budget.take_pages(new - old)?;
        } else {
            self.budget.give_pages(old - new);
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Xattrs {
    fn drop(&mut self) {
        self.budget.give_pages(pages(self.bytes));
    }
}

fn pages(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(PAGE)
}

fn supported(name: &[u8]) -> SysResult<()> {
    let known = [&b"user."[..], b"trusted.", b"security."];
    if known.iter().any(|prefix| name.len() > prefix.len() && name.starts_with(prefix)) {
        Ok(())
    } else {
        Err(EOPNOTSUPP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn create_replace_and_bounds() {
        let budget = Arc::new(Budget::new(Some(2 * PAGE), None, None));
        let mut xattrs = Xattrs::new(Arc::clone(&budget));
        assert_eq!(xattrs.set(b"user.a", b"1", XattrSet::Replace), Err(ENODATA));
        assert_eq!(xattrs.set(b"user.a", b"1", XattrSet::Create), Ok(()));
        assert_eq!(xattrs.set(b"user.a", b"2", XattrSet::Create), Err(EEXIST));
        assert_eq!(xattrs.get(b"user.a"), Ok(b"1".to_vec()));
        assert_eq!(xattrs.set(b"system.a", b"1", XattrSet::Any), Err(EOPNOTSUPP));
        assert_eq!(xattrs.set(b"user.b", &[0; 9000], XattrSet::Any), Err(ENOSPC));
        assert_eq!(xattrs.names(), [b"user.a".to_vec()]);
        drop(xattrs);
        assert_eq!(budget.pages(), (2, 2));
    }
}
