//! Directory entries: the tree of names, with the names that are known not to exist.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Inode, Mount};

/// A name in a directory, bound to an inode. As long as somebody holds a dentry, looking up the
/// name again gives the same one.
pub struct Dentry {
    /// Where it hangs; changed by `rename`. The root's parent is `None`.
    place: Mutex<Place>,
    inode: Arc<dyn Inode>,
    children: Mutex<HashMap<Box<[u8]>, Weak<Dentry>>>,
}

struct Place {
    parent: Option<Arc<Dentry>>,
    name: Box<[u8]>,
    /// The name was removed (`unlink`, `rmdir`); `/proc/PID/fd` says "(deleted)".
    removed: bool,
}

impl Dentry {
    /// The root of a mounted file system, or an entry outside of any tree.
    pub fn new_root(inode: Arc<dyn Inode>) -> Arc<Self> {
        Self::new(None, b"", inode)
    }

    fn new(parent: Option<Arc<Self>>, name: &[u8], inode: Arc<dyn Inode>) -> Arc<Self> {
        Arc::new(Self {
            place: Mutex::new(Place { parent, name: name.into(), removed: false }),
            inode,
            children: Mutex::default(),
        })
    }

    /// What the name stands for.
    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.inode
    }

    /// The directory it is in; `None` for a root.
    pub fn parent(&self) -> Option<Arc<Self>> {
        self.place.lock().parent.clone()
    }

    /// Its last component.
    pub fn name(&self) -> Box<[u8]> {
        self.place.lock().name.clone()
    }

    /// Whether the name no longer exists.
    pub fn is_removed(&self) -> bool {
        self.place.lock().removed
    }

    /// The entry for `name` below this directory, bound to `inode`: the living one if it is bound to the same
    /// inode, or a new one.
    pub fn child(self: &Arc<Self>, name: &[u8], inode: Arc<dyn Inode>) -> Arc<Self> {
        let mut children = self.children.lock();
        if let Some(child) = children.get(name).and_then(Weak::upgrade)
            && Arc::ptr_eq(&child.inode, &inode)
        {
            return child;
        }
        let child = Self::new(Some(Arc::clone(self)), name, inode);
        children.insert(name.into(), Arc::downgrade(&child));
        child
    }
}

/// A place in the tree that a process sees: a dentry as reached through a mount.
#[derive(Clone)]
pub struct Location {
    /// The mount.
    pub mount: Arc<Mount>,
    /// The entry in the mounted file system.
    pub dentry: Arc<Dentry>,
}

impl Location {
    /// The inode.
    pub fn inode(&self) -> &Arc<dyn Inode> {
        self.dentry.inode()
    }

    /// Whether both are the same place.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && Arc::ptr_eq(&self.dentry, &other.dentry)
    }
}
