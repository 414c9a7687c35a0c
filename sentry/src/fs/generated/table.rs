//! Directories written down as tables: each line a name, its permissions, and how to make it for a context.

use std::sync::Arc;

use abi::errno::{ENOENT, SysResult};

use super::node::{Body, Directory, Link, Listed, Node, Owner, Place, Text};
use super::open::Reader;
use crate::task::Task;
use crate::vfs::{FileKind, LinkTarget, OpenRequest};

/// What a table's nodes are made for: cloned into each.
pub trait Context: Clone + Send + Sync + 'static {
    /// Who owns the nodes.
    fn owner(&self) -> Owner {
        Owner::Root
    }

    /// Whether what the nodes tell of still exists.
    ///
    /// # Errors
    /// `ENOENT`.
    fn check_exists(&self) -> SysResult<()> {
        Ok(())
    }

    /// Judges an `open` of a guarded file.
    ///
    /// # Errors
    /// `EACCES`, `ESRCH`.
    fn check_open(&self, reader: &Reader) -> SysResult<()> {
        let _ = reader;
        Ok(())
    }
}

impl Context for () {}
#[cfg(test)]
impl Context for u8 {}

type Show<C> = fn(&C, &Reader) -> SysResult<Vec<u8>>;
type Store<C> = fn(&C, &[u8], &Reader) -> SysResult<()>;
type Follow<C> = fn(&C, &Task) -> SysResult<LinkTarget>;

/// How a line's node is made.
enum Make<C: 'static> {
    Text { show: Show<C>, store: Option<Store<C>>, guarded: bool },
    Link(Follow<C>),
    Directory(fn(&C) -> Box<dyn Directory>),
    Special(fn(&C) -> Body),
}

impl<C> Clone for Make<C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Make<C> {}

/// A line of a table.
pub struct Entry<C: 'static> {
    name: &'static str,
    permissions: u32,
    make: Make<C>,
}

/// A file to be read.
pub const fn text<C>(name: &'static str, permissions: u32, show: Show<C>) -> Entry<C> {
    Entry { name, permissions, make: Make::Text { show, store: None, guarded: false } }
}

/// A file to be read and written. Each write is a value of its own, whatever its offset.
pub const fn writable<C>(name: &'static str, permissions: u32, show: Show<C>, store: Store<C>) -> Entry<C> {
    Entry { name, permissions, make: Make::Text { show, store: Some(store), guarded: false } }
}

/// A symbolic link.
pub const fn link<C>(name: &'static str, follow: Follow<C>) -> Entry<C> {
    Entry { name, permissions: 0o777, make: Make::Link(follow) }
}

/// A directory.
pub const fn directory<C>(
    name: &'static str,
    permissions: u32,
    make: fn(&C) -> Box<dyn Directory>,
) -> Entry<C> {
    Entry { name, permissions, make: Make::Directory(make) }
}

impl<C> Entry<C> {
    /// A regular file that opens in its own way.
    pub const fn special(name: &'static str, permissions: u32, make: fn(&C) -> Body) -> Self {
        Self { name, permissions, make: Make::Special(make) }
    }

    /// Asks the context before it is opened ([`Context::check_open`]).
    #[must_use]
    pub const fn guarded(self) -> Self {
        match self.make {
            Make::Text { show, store, .. } => {
                Self { make: Make::Text { show, store, guarded: true }, ..self }
            }
            _ => self,
        }
    }

    const fn kind(&self) -> FileKind {
        match self.make {
            Make::Text { .. } | Make::Special(_) => FileKind::Regular,
            Make::Link(_) => FileKind::Symlink,
            Make::Directory(_) => FileKind::Directory,
        }
    }
}

impl<C: Context> Entry<C> {
    fn body(&self, context: &C) -> Body {
        match self.make {
            Make::Text { show, store, guarded } => {
                Body::Text(Box::new(TableText { context: context.clone(), show, store, guarded }))
            }
            Make::Link(follow) => Body::Link(Box::new(TableLink { context: context.clone(), follow })),
            Make::Directory(make) => Body::Directory(make(context)),
            Make::Special(make) => make(context),
        }
    }
}

/// A directory with a table's names.
pub struct Table<C: 'static> {
    context: C,
    entries: &'static [Entry<C>],
}

impl<C> Table<C> {
    /// The directory for a context.
    pub const fn new(context: C, entries: &'static [Entry<C>]) -> Self {
        Self { context, entries }
    }
}

impl<C: Context> Directory for Table<C> {
    fn lookup(&self, name: &[u8], at: &Place) -> SysResult<Arc<Node>> {
        self.context.check_exists()?;
        let entry = self.entries.iter().find(|entry| entry.name.as_bytes() == name).ok_or(ENOENT)?;
        let body = entry.body(&self.context);
        Ok(Node::new(&at.child(name), entry.permissions, self.context.owner(), body))
    }

    fn list(&self, from: u64) -> SysResult<Vec<Listed>> {
        self.context.check_exists()?;
        let numbered = (2_u64..).zip(self.entries);
        let wanted = numbered.filter(|(position, _)| *position >= from);
        Ok(wanted
            .map(|(position, entry)| Listed::new(entry.name.as_bytes(), entry.kind(), position))
            .collect())
    }

    fn is_lasting(&self, name: &[u8]) -> bool {
        self.entries.iter().any(|entry| entry.name.as_bytes() == name)
    }

    fn subdirectories(&self) -> u32 {
        let count = self.entries.iter().filter(|entry| entry.kind() == FileKind::Directory).count();
        u32::try_from(count).unwrap_or(0)
    }
}

struct TableText<C: 'static> {
    context: C,
    show: Show<C>,
    store: Option<Store<C>>,
    guarded: bool,
}

impl<C: Context> Text for TableText<C> {
    fn check_open(&self, _request: OpenRequest, reader: &Reader) -> SysResult<()> {
        if self.guarded { self.context.check_open(reader) } else { Ok(()) }
    }

    fn read(&self, reader: &Reader) -> SysResult<Vec<u8>> {
        (self.show)(&self.context, reader)
    }

    fn write(&self, _offset: u64, bytes: &[u8], reader: &Reader) -> SysResult<()> {
        // As Linux's files without a write operation.
        let store = self.store.ok_or(abi::errno::EIO)?;
        store(&self.context, bytes, reader)
    }
}

struct TableLink<C: 'static> {
    context: C,
    follow: Follow<C>,
}

impl<C: Context> Link for TableLink<C> {
    fn target(&self, task: &Task) -> SysResult<LinkTarget> {
        (self.follow)(&self.context, task)
    }
}
