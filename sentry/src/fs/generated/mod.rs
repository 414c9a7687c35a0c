//! File systems whose content the kernel makes up when somebody looks: the vocabulary of `proc`, `sysfs` and `cgroup2`.
//!
//! * [`Generated`]: an instance. [`Node`]: an inode of it, made anew by each lookup; its number follows from the
//!   numbers and names above it, so that two lookups agree.
//! * [`Body`]: what a node is: text, a directory, a link, or something that opens in its own way.
//! * [`Entry`] and [`Table`]: directories written down as tables.
//!
//! Every directory is [`crate::vfs::CachePolicy::Revalidate`]: what may end is made anew by each lookup and never goes
//! stale. Names that last ([`Directory::is_lasting`]) give the same node as long as somebody holds it.

mod node;
mod open;
mod table;

pub use node::{Body, Directory, Link, Listed, Node, Owner, OwnerOf, Place, SpecialFile, Text};
pub use open::Reader;
pub use table::{Context, Entry, Table, directory, link, text, writable};

use std::sync::{Arc, OnceLock, Weak};

use abi::errno::SysResult;

use crate::task::Task;
use crate::vfs::{DeviceNumber, FileSystem, FileSystemFactory, FileSystemStatus, Inode, allocate_device};

/// A mounted instance.
pub struct Generated {
    type_name: &'static str,
    magic: u64,
    device: DeviceNumber,
    root: OnceLock<Arc<Node>>,
    me: Weak<Self>,
}

impl Generated {
    /// An instance whose root directory is `root`. `magic` is for `statfs`.
    pub fn new(
        type_name: &'static str,
        magic: u64,
        permissions: u32,
        root: impl FnOnce(&Place) -> Body,
    ) -> Arc<Self> {
        let instance = Arc::new_cyclic(|me| Self {
            type_name,
            magic,
            device: allocate_device(),
            root: OnceLock::new(),
            me: me.clone(),
        });
        let place = Place::root(Arc::downgrade(&instance));
        let body = root(&place);
        let _ = instance.root.set(Node::new(&place, permissions, Owner::Root, body));
        instance
    }

    /// An instance that shows nothing: stands for one that is gone.
    fn empty() -> Arc<dyn FileSystem> {
        Self::new("none", 0, 0o555, |_| Self::nothing())
    }

    /// The body of a directory without names.
    pub fn nothing() -> Body {
        Body::Directory(Box::new(Table::new((), &[])))
    }

    /// Its root as what it is.
    pub fn root_node(&self) -> Option<&Arc<Node>> {
        self.root.get()
    }
}

impl FileSystem for Generated {
    fn type_name(&self) -> &'static str {
        self.type_name
    }

    fn device(&self) -> DeviceNumber {
        self.device
    }

    fn root(&self) -> Arc<dyn Inode> {
        let root = self
            .root
            .get_or_init(|| Node::new(&Place::root(self.me.clone()), 0o555, Owner::Root, Self::nothing()));
        Arc::clone(root) as _
    }

    fn status(&self) -> SysResult<FileSystemStatus> {
        Ok(FileSystemStatus { magic: self.magic, block_size: 4096, name_max: 255, ..Default::default() })
    }
}

/// Offers an instance to `mount(2)`: the same one however often it is mounted, as there is one of each namespace.
pub struct Factory {
    instance: Arc<Generated>,
}

impl Factory {
    /// A factory of one instance.
    pub fn of(instance: Arc<Generated>) -> Arc<Self> {
        Arc::new(Self { instance })
    }
}

impl FileSystemFactory for Factory {
    fn make(&self, _task: &Task, _source: &[u8], _data: &[u8]) -> SysResult<Arc<dyn FileSystem>> {
        // Options (`hidepid=`, `gid=`, `nsdelegate`) govern what others see; there are no others.
        Ok(Arc::clone(&self.instance) as _)
    }
}

#[cfg(test)]
mod tests {
    use abi::errno::ENOENT;

    use super::*;
    use crate::vfs::FileKind;

    static INNER: [Entry<u8>; 1] = [text("x", 0o444, |number, _| Ok(vec![*number]))];
    static ROOT: [Entry<u8>; 2] = [
        directory("inner", 0o555, |number| Box::new(Table::new(number + 1, &INNER))),
        link("link", |_, _| Ok(crate::vfs::LinkTarget::Path(b"inner".to_vec()))),
    ];

    fn instance() -> Arc<Generated> {
        Generated::new("test", 7, 0o555, |_| Body::Directory(Box::new(Table::new(1, &ROOT))))
    }

    #[test]
    fn two_lookups_of_one_name_agree_on_the_number() {
        let instance = instance();
        let root = instance.root();
        let number = |inode: &Arc<dyn Inode>| inode.attributes().expect("has attributes").inode;
        let first = root.lookup(b"inner").expect("is there");
        let second = root.lookup(b"inner").expect("is there");
        assert_eq!(number(&first), number(&second));
        assert_ne!(number(&first), number(&first.lookup(b"x").expect("is there")));
        assert_ne!(number(&first), number(&root));
    }

    #[test]
    fn a_lasting_node_that_is_held_is_found_again() {
        let instance = instance();
        let held = instance.root().lookup(b"inner").expect("is there");
        let again = instance.root().lookup(b"inner").expect("is there");
        assert!(Arc::ptr_eq(&held, &again), "a mount attached there would be lost");
    }

    #[test]
    fn names_that_are_not_in_the_table_do_not_exist() {
        let instance = instance();
        assert_eq!(instance.root().lookup(b"nothing").err(), Some(ENOENT));
        assert_eq!(instance.root().lookup(b"link").expect("is there").kind(), FileKind::Symlink);
    }

    #[test]
    fn listings_continue_where_they_stopped_and_agree_with_lookups() {
        let instance = instance();
        let root = instance.root_node().expect("has a root");
        let all = root.list_entries(0).expect("lists");
        let names: Vec<_> = all.iter().map(|entry| entry.name.to_vec()).collect();
        assert_eq!(names, [&b"."[..], b"..", b"inner", b"link"]);
        let rest = root.list_entries(all[2].position + 1).expect("lists");
        assert_eq!(rest.len(), 1);
        let found = root.lookup(b"inner").expect("is there").attributes().expect("has attributes");
        assert_eq!(found.inode, all[2].number);
    }
}
