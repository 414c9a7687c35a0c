//! Mounts and the namespace they form.
//!
//! A mount shows a file system (or a part of it) at a place of another mount. [`MountNamespace`] maps places to the
//! mounts attached there; a dentry counts its mounts so that walking past an ordinary one costs nothing.
//!
//! Every mount is private: nothing propagates. A mount whose `point` is `None` is the namespace's root, or
//! was detached lazily and lives until its last user is gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use abi::errno::{EBUSY, EINVAL, ELOOP, ENOENT, ENOSPC, ENOTDIR, EPERM, SysResult};
use parking_lot::Mutex;

use super::{Dentry, DentryCache, FileKind, FileSystem, Location};

bitflags::bitflags! {
    /// Options of a mount, in the values of `statfs`'s `f_flags` (`man 2 statfs`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct MountFlags: u32 {
        /// No writes.
        const RDONLY = 1;
        /// Set-user-ID bits do nothing.
        const NOSUID = 2;
        /// Devices cannot be opened.
        const NODEV = 4;
        /// Nothing is executed.
        const NOEXEC = 8;
        /// Access times stay.
        const NOATIME = 1024;
        /// Access times of directories stay.
        const NODIRATIME = 2048;
        /// Access times follow modification.
        const RELATIME = 4096;
        /// Symbolic links are not followed.
        const NOSYMFOLLOW = 8192;
    }
}

/// Mounts a namespace may hold (as `/proc/sys/fs/mount-max`, but much lower: each costs kernel memory).
pub const MOUNTS_MAX: usize = 10_000;

/// A file system attached to the tree.
pub struct Mount {
    /// Number in `/proc/PID/mountinfo`.
    pub id: u32,
    /// The file system.
    pub file_system: Arc<dyn FileSystem>,
    /// Its part that is visible.
    pub root: Arc<Dentry>,
    /// Where it is attached.
    point: Mutex<Option<Location>>,
    /// Options, as bits of [`MountFlags`].
    flags: AtomicU32,
}

impl Mount {
    fn new(
        id: u32,
        file_system: Arc<dyn FileSystem>,
        root: Arc<Dentry>,
        point: Option<Location>,
        flags: MountFlags,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            file_system,
            root,
            point: Mutex::new(point),
            flags: AtomicU32::new(flags.bits()),
        })
    }

    /// A mount that is attached nowhere, for files without a path.
    pub fn detached(file_system: Arc<dyn FileSystem>) -> Arc<Self> {
        let root = Dentry::new_root(file_system.root());
        Self::new(0, file_system, root, None, MountFlags::empty())
    }

    /// Where it is attached; `None` for the root of the namespace and for what was detached.
    pub fn point(&self) -> Option<Location> {
        self.point.lock().clone()
    }

    fn set_point(&self, point: Option<Location>) {
        let old = std::mem::replace(&mut *self.point.lock(), point);
        drop(old);
    }

    /// Options.
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_truncate(self.flags.load(Ordering::Relaxed))
    }

    /// Changes the options (`MS_REMOUNT | MS_BIND`).
    pub fn set_flags(&self, flags: MountFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    /// Whether nothing is written here.
    pub fn is_read_only(&self) -> bool {
        self.flags().contains(MountFlags::RDONLY)
    }

    /// Whether set-user-ID bits do nothing here.
    pub fn ignores_set_ids(&self) -> bool {
        self.flags().contains(MountFlags::NOSUID)
    }

    /// Whether nothing is executed from here.
    pub fn forbids_execution(&self) -> bool {
        self.flags().contains(MountFlags::NOEXEC)
    }

    /// The place where it begins.
    pub fn root_location(self: &Arc<Self>) -> Location {
        Location { mount: Arc::clone(self), dentry: Arc::clone(&self.root) }
    }
}

/// Does a bind mount take along what is mounted below?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recursive {
    /// `MS_REC`
    Yes,
    /// Only the mount itself.
    No,
}

/// How a mount is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Only if nobody uses it.
    IfUnused,
    /// From the tree now, in fact when its last user is gone (`MNT_DETACH`).
    Lazy,
}

/// A line of `/proc/PID/mountinfo` in its parts.
pub struct MountInfo {
    /// The mount.
    pub mount: Arc<Mount>,
    /// The number of the mount it is attached to; its own for the root.
    pub parent: u32,
    /// Which part of the file system is visible.
    pub root: Vec<u8>,
    /// Where, as seen from the reader's root.
    pub point: Vec<u8>,
}

/// A place as a key: addresses of mount and dentry, which the mount attached there keeps alive.
type PlaceKey = (usize, usize);

fn key(location: &Location) -> PlaceKey {
    (Arc::as_ptr(&location.mount).addr(), Arc::as_ptr(&location.dentry).addr())
}

struct Tree {
    root: Arc<Mount>,
    /// All mounts in the order they were made, the root first.
    mounts: Vec<Arc<Mount>>,
    attached: HashMap<PlaceKey, Arc<Mount>>,
    last_id: u32,
}

impl Tree {
    /// The topmost mount's root at a place.
    fn top(&self, location: &Location) -> Option<Location> {
        let mut top = self.attached.get(&key(location))?.root_location();
        while let Some(mount) = self.attached.get(&key(&top)) {
            top = mount.root_location();
        }
        Some(top)
    }

    fn attach(&mut self, mount: &Arc<Mount>, at: Location) {
        at.dentry.count_mount();
        self.attached.insert(key(&at), Arc::clone(mount));
        mount.set_point(Some(at));
    }

    /// Takes the mount from its place; the place's references are returned, to be dropped without the lock.
    fn detach(&mut self, mount: &Arc<Mount>) -> Option<Location> {
        let point = mount.point.lock().take()?;
        self.attached.remove(&key(&point));
        point.dentry.discount_mount();
        Some(point)
    }

    fn is_member(&self, mount: &Arc<Mount>) -> bool {
        self.mounts.iter().any(|member| Arc::ptr_eq(member, mount))
    }

    fn children(&self, mount: &Arc<Mount>) -> Vec<Arc<Mount>> {
        let on_it = |child: &&Arc<Mount>| {
            child.point.lock().as_ref().is_some_and(|point| Arc::ptr_eq(&point.mount, mount))
        };
        self.mounts.iter().filter(on_it).cloned().collect()
    }

    /// The mount and everything below it, from the top down.
    fn subtree(&self, mount: &Arc<Mount>) -> Vec<Arc<Mount>> {
        let mut list = vec![Arc::clone(mount)];
        let mut next = 0;
        while let Some(mount) = list.get(next).cloned() {
            list.extend(self.children(&mount));
            next += 1;
        }
        list
    }

    fn next_id(&mut self) -> u32 {
        self.last_id += 1;
        self.last_id
    }
}

/// All mounts a set of processes sees.
pub struct MountNamespace {
    tree: Mutex<Tree>,
    /// Changed at each change, for those who poll `/proc/PID/mounts`.
    generation: AtomicU32,
}

impl MountNamespace {
    /// A namespace with a root file system and nothing else.
    pub fn new(file_system: Arc<dyn FileSystem>, flags: MountFlags) -> Arc<Self> {
        let root = Mount::new(1, Arc::clone(&file_system), Dentry::new_root(file_system.root()), None, flags);
        Arc::new(Self {
            tree: Mutex::new(Tree {
                mounts: vec![Arc::clone(&root)],
                root,
                attached: HashMap::new(),
                last_id: 1,
            }),
            generation: AtomicU32::new(0),
        })
    }

    /// The place `/`.
    pub fn root(&self) -> Location {
        self.tree.lock().root.root_location()
    }

    /// All mounts, the root first, in the order they were made.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        self.tree.lock().mounts.clone()
    }

    /// Counts changes.
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// What a walker finds at a place: the root of the topmost mount attached there, or the place itself.
    pub fn top(&self, location: Location) -> Location {
        if !location.dentry.is_mount_point() {
            return location;
        }
        let top = self.tree.lock().top(&location);
        top.unwrap_or(location)
    }

    /// Mounts a file system at a place, over what is mounted there.
    ///
    /// # Errors
    /// `ENOTDIR`: one is a directory and the other is not; `ENOENT`: the place was removed; `ENOSPC`: too many.
    pub fn mount(
        &self,
        file_system: Arc<dyn FileSystem>,
        at: Location,
        flags: MountFlags,
    ) -> SysResult<Arc<Mount>> {
        // One instance has one tree of names, however often it is mounted.
        let same = self.mounts().into_iter().find(|mount| Arc::ptr_eq(&mount.file_system, &file_system));
        let root = match same {
            Some(mount) => top_of(&mount.root),
            None => Dentry::new_root(file_system.root()),
        };
        self.attach_new(file_system, root, at, flags)
    }

    fn attach_new(
        &self,
        file_system: Arc<dyn FileSystem>,
        root: Arc<Dentry>,
        at: Location,
        flags: MountFlags,
    ) -> SysResult<Arc<Mount>> {
        may_attach(&root, &at)?;
        let mut tree = self.tree.lock();
        if tree.mounts.len() >= MOUNTS_MAX {
            return Err(ENOSPC);
        }
        let at = tree.top(&at).unwrap_or(at);
        if !tree.is_member(&at.mount) {
            return Err(EINVAL);
        }
        let mount = Mount::new(tree.next_id(), file_system, root, None, flags);
        tree.attach(&mount, at);
        tree.mounts.push(Arc::clone(&mount));
        drop(tree);
        self.changed();
        Ok(mount)
    }

    /// Shows `from` at a second place (`MS_BIND`).
    ///
    /// # Errors
    /// As [`MountNamespace::mount`]; `EINVAL`: `from` is not of this namespace.
    pub fn bind(&self, from: &Location, at: Location, recursive: Recursive) -> SysResult<Arc<Mount>> {
        let below = {
            let tree = self.tree.lock();
            if !tree.is_member(&from.mount) {
                return Err(EINVAL);
            }
            if recursive == Recursive::Yes { tree.subtree(&from.mount) } else { Vec::new() }
        };
        let root = Arc::clone(&from.dentry);
        let mount = self.attach_new(Arc::clone(&from.mount.file_system), root, at, from.mount.flags())?;
        let mut copies = vec![(Arc::clone(&from.mount), Arc::clone(&mount))];
        for original in below.iter().skip(1) {
            let Some(point) = original.point() else { continue };
            let copied = copies.iter().find(|(source, _)| Arc::ptr_eq(source, &point.mount));
            let Some((_, copy)) = copied else { continue };
            if Arc::ptr_eq(&point.mount, &from.mount) && !point.dentry.is_below(&from.dentry) {
                continue;
            }
            let place = Location { mount: Arc::clone(copy), dentry: point.dentry };
            let copy = self.attach_new(
                Arc::clone(&original.file_system),
                Arc::clone(&original.root),
                place,
                original.flags(),
            )?;
            copies.push((Arc::clone(original), copy));
        }
        Ok(mount)
    }

    /// Attaches a mount elsewhere (`MS_MOVE`). `from` must be its root.
    ///
    /// # Errors
    /// `EINVAL`: no mount begins there, or it is the namespace's root; `ELOOP`: it would lie below itself.
    pub fn move_mount(&self, from: &Location, at: Location) -> SysResult<()> {
        if !from.is_mount_root() {
            return Err(EINVAL);
        }
        may_attach(&from.dentry, &at)?;
        let mut tree = self.tree.lock();
        let mount = &from.mount;
        if Arc::ptr_eq(mount, &tree.root) || !tree.is_member(mount) || !tree.is_member(&at.mount) {
            return Err(EINVAL);
        }
        let at = tree.top(&at).unwrap_or(at);
        if tree.subtree(mount).iter().any(|below| Arc::ptr_eq(below, &at.mount)) {
            return Err(ELOOP);
        }
        let old = tree.detach(mount);
        tree.attach(mount, at);
        drop(tree);
        drop(old);
        self.changed();
        Ok(())
    }

    /// Removes a mount. `at` must be its root.
    ///
    /// # Errors
    /// `EINVAL`: no mount begins there, or it is the namespace's root; `EBUSY`: it is in use.
    pub fn unmount(&self, at: &Location, how: Unmount, cache: &DentryCache) -> SysResult<()> {
        if !at.is_mount_root() {
            return Err(EINVAL);
        }
        let mount = &at.mount;
        if how == Unmount::IfUnused {
            cache.forget_mount(mount);
        }
        let mut points = Vec::new();
        let gone = {
            let mut tree = self.tree.lock();
            if Arc::ptr_eq(mount, &tree.root) || !tree.is_member(mount) {
                return Err(EINVAL);
            }
            let gone = tree.subtree(mount);
            // Known users: the list, the map, this subtree's list and the caller.
            if how == Unmount::IfUnused && (gone.len() > 1 || Arc::strong_count(mount) > 4) {
                return Err(EBUSY);
            }
            for mount in &gone {
                points.push(tree.detach(mount));
            }
            tree.mounts.retain(|member| !gone.iter().any(|mount| Arc::ptr_eq(mount, member)));
            gone
        };
        for mount in &gone {
            cache.forget_mount(mount);
        }
        self.changed();
        Ok(())
    }

    /// Makes `new_root` the root of the namespace and attaches the old one at `put_old` (`man 2 pivot_root`). Both are
    /// places as a walker found them; `current` is the caller's root.
    ///
    /// # Errors
    /// `EINVAL`, `EBUSY`, `EPERM` as documented there.
    pub fn pivot_root(&self, current: &Location, new_root: &Location, put_old: &Location) -> SysResult<()> {
        if Arc::ptr_eq(&new_root.mount, &current.mount) || Arc::ptr_eq(&put_old.mount, &current.mount) {
            return Err(EBUSY);
        }
        if !new_root.is_mount_root() || !current.is_mount_root() {
            return Err(EINVAL);
        }
        let mut above = put_old.clone();
        while !above.is_same(new_root) {
            above = above.parent().ok_or(EINVAL)?;
        }
        let mut tree = self.tree.lock();
        if !Arc::ptr_eq(&current.mount, &tree.root) {
            // A caller in a `chroot`: the exchange would have to happen inside of the tree.
            return Err(EPERM);
        }
        let put_old = tree.top(put_old).unwrap_or_else(|| put_old.clone());
        let old = tree.detach(&new_root.mount);
        let old_root = std::mem::replace(&mut tree.root, Arc::clone(&new_root.mount));
        tree.attach(&old_root, put_old);
        drop(tree);
        drop((old, old_root));
        self.changed();
        Ok(())
    }

    /// What `/proc/PID/mountinfo` shows to a reader with the given root: mounts outside of it are left out.
    pub fn info(&self, root: &Location) -> Vec<MountInfo> {
        let mounts = self.mounts();
        let line = |mount: Arc<Mount>| {
            let (point, reachable) = mount.root_location().path_from(root);
            let is_top = Arc::ptr_eq(&mount, &root.mount);
            (is_top || reachable == super::Reachable::Yes).then(|| MountInfo {
                parent: mount.point().map_or(mount.id, |point| point.mount.id),
                root: path_in_file_system(&mount.root),
                point,
                mount,
            })
        };
        mounts.into_iter().filter_map(line).collect()
    }
}

fn may_attach(root: &Arc<Dentry>, at: &Location) -> SysResult<()> {
    let is_directory = |dentry: &Dentry| dentry.inode().kind() == FileKind::Directory;
    if is_directory(root) != is_directory(&at.dentry) {
        return Err(ENOTDIR);
    }
    if at.dentry.is_removed() { Err(ENOENT) } else { Ok(()) }
}

fn top_of(dentry: &Arc<Dentry>) -> Arc<Dentry> {
    let mut top = Arc::clone(dentry);
    while let Some(parent) = top.parent() {
        top = parent;
    }
    top
}

fn path_in_file_system(dentry: &Arc<Dentry>) -> Vec<u8> {
    let mut names = Vec::new();
    let (mut parent, mut name) = dentry.parent_and_name();
    while let Some(directory) = parent {
        names.push(name);
        (parent, name) = directory.parent_and_name();
    }
    if names.is_empty() {
        return b"/".to_vec();
    }
    names.iter().rev().flat_map(|name| [b"/", &**name].concat()).collect()
}
