//! State that the VFS keeps with an inode while it lives.

/// See [`super::Inode::attachments`].
#[derive(Default)]
pub struct Attachments {}
