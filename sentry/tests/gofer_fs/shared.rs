//! A tree that the host changes, too: everything is asked again.

use std::fs;
use std::sync::Arc;

use abi::errno::{EIO, EISDIR, ENOENT};
use gofer::TreeFlags;
use sentry::vfs::{
    Ahead, CachePolicy, DentryCache, DirectoryEntry, FileDescription, FileKind, FileSystem, Location, MayAsk,
    MountFlags, MountNamespace, OpenRequest, begin_moment,
};

use crate::gofer_process::{Served, list, open, read};

crate::tests![
    the_hosts_changes_are_seen,
    a_replaced_file_is_another_inode,
    a_path_is_asked_for_once,
    what_is_missing_is_known_for_one_call,
    our_own_changes_outdate_what_was_foreseen,
    a_replaced_directory_is_noticed_on_the_way,
    a_link_met_on_the_way_brings_its_target,
    names_are_removed_without_being_looked_up,
    many_directories_are_forgotten_again,
    a_listing_asks_nobody_for_the_number_of_the_directory_above,
];

fn served() -> Served {
    Served::new(TreeFlags::empty(), |root| fs::write(root.join("f"), "content").unwrap())
}

/// A path of three components, and a link.
fn deep() -> Served {
    Served::new(TreeFlags::empty(), |root| {
        fs::create_dir_all(root.join("d/sub")).unwrap();
        fs::write(root.join("d/sub/x"), "content").unwrap();
        std::os::unix::fs::symlink("sub/x", root.join("d/link")).unwrap();
    })
}

const READING: OpenRequest = OpenRequest { read: true, write: false, flags: 0 };

fn the_hosts_changes_are_seen() {
    let served = served();
    assert_eq!(served.root.cache_policy(), CachePolicy::Revalidate);
    let f = served.find("f");
    fs::write(served.host("f"), "longer content").unwrap();
    // What follows is asked in other calls.
    begin_moment();
    assert_eq!(f.attributes().unwrap().size, 14);
    let file = open(&f, libc::O_RDONLY);
    fs::write(served.host("f"), "short").unwrap();
    begin_moment();
    assert_eq!((f.attributes().unwrap().size, read(&file)), (5, b"short".to_vec()));
    fs::write(served.host("new"), "").unwrap();
    assert_eq!(list(&served.root), ["f", "new"]);
    fs::remove_file(served.host("f")).unwrap();
    begin_moment();
    assert_eq!(served.root.lookup(b"f").map(drop), Err(ENOENT));
    assert_eq!(f.attributes().unwrap().links, 0);
}

fn a_replaced_file_is_another_inode() {
    let served = served();
    let old = served.find("f");
    fs::write(served.host("t"), "replaced").unwrap();
    fs::rename(served.host("t"), served.host("f")).unwrap();
    let new = served.find("f");
    assert!(!Arc::ptr_eq(&old, &new));
    assert_eq!(read(&open(&new, libc::O_RDONLY)), b"replaced");
    assert_eq!(read(&open(&old, libc::O_RDONLY)), b"content");
}

fn a_path_is_asked_for_once() {
    let mut served = deep();
    begin_moment();
    let d = served.root.lookup_ahead(b"d", &Ahead::new(b"sub/x", Some(READING))).unwrap();
    served.kill_gofer();
    let x = d.lookup(b"sub").unwrap().lookup_ahead(b"x", &Ahead::new(b"", Some(READING))).unwrap();
    assert_eq!((x.attributes().unwrap().size, d.attributes().unwrap().kind), (7, FileKind::Directory));
    assert_eq!(read(&open(&x, libc::O_RDONLY)), b"content");
    // The next call may not rely on any of it.
    begin_moment();
    assert_eq!(served.root.lookup(b"d").map(drop), Err(EIO));
    assert_eq!(d.attributes().map(drop), Err(EIO));
}

fn what_is_missing_is_known_for_one_call() {
    let mut served = deep();
    begin_moment();
    let d = served.root.lookup_ahead(b"d", &Ahead::new(b"sub/none/more", None)).unwrap();
    served.kill_gofer();
    let sub = d.lookup(b"sub").unwrap();
    assert_eq!(sub.lookup(b"none").map(drop), Err(ENOENT));
    begin_moment();
    assert_eq!(sub.lookup(b"none").map(drop), Err(EIO));
}

fn our_own_changes_outdate_what_was_foreseen() {
    let served = deep();
    let (d, sub) = (served.find("d"), served.find("d/sub"));
    begin_moment();
    drop(served.root.lookup_ahead(b"d", &Ahead::new(b"sub/x", None)).unwrap());
    let x = sub.lookup(b"x").unwrap();
    drop(served.root.lookup_ahead(b"d", &Ahead::new(b"sub/x", None)).unwrap());
    sub.unlink(b"x", &x).unwrap();
    assert_eq!(sub.lookup(b"x").map(drop), Err(ENOENT));
    drop(served.root.lookup_ahead(b"d", &Ahead::new(b"link", None)).unwrap());
    d.rename(b"link", &sub, b"x", false).unwrap();
    assert_eq!(d.lookup(b"link").map(drop), Err(ENOENT));
    assert_eq!(sub.lookup(b"x").unwrap().kind(), FileKind::Symlink);
}

fn a_replaced_directory_is_noticed_on_the_way() {
    let served = deep();
    let ahead = Ahead::new(b"sub/x", Some(READING));
    let walk = || {
        begin_moment();
        let sub = served.root.lookup_ahead(b"d", &ahead)?.lookup(b"sub")?;
        let x = sub.lookup(b"x")?;
        Ok((sub.attributes()?.inode, read(&open(&x, libc::O_RDONLY))))
    };
    let (first, again) = (walk().unwrap(), walk().unwrap());
    assert_eq!(first, again);
    fs::rename(served.host("d/sub"), served.host("d/old")).unwrap();
    fs::create_dir(served.host("d/sub")).unwrap();
    assert_eq!(walk(), Err(ENOENT));
    fs::write(served.host("d/sub/x"), "other").unwrap();
    let other = walk().unwrap();
    assert_ne!(first.0, other.0);
    assert_eq!(other.1, b"other");
    fs::write(served.host("t"), "replaced").unwrap();
    fs::rename(served.host("t"), served.host("d/sub/x")).unwrap();
    assert_eq!(walk().unwrap(), (other.0, b"replaced".to_vec()));
}

fn a_link_met_on_the_way_brings_its_target() {
    let mut served = deep();
    begin_moment();
    let d = served.root.lookup_ahead(b"d", &Ahead::new(b"link/more", None)).unwrap();
    served.kill_gofer();
    assert_eq!(d.lookup(b"link").unwrap().kind(), FileKind::Symlink);
}

fn names_are_removed_without_being_looked_up() {
    let served = deep();
    let sub = served.find("d/sub");
    assert_eq!(sub.unlink_unseen(b"none"), Some(Err(ENOENT)));
    assert_eq!(served.find("d").unlink_unseen(b"sub"), None);
    drop(sub);
    let served = deep();
    assert_eq!(served.find("d").unlink_unseen(b"sub"), Some(Err(EISDIR)));
    let sub = served.find("d/sub");
    let x = served.find("d/sub/x");
    // Somebody holds it, and is to learn of the removal.
    assert_eq!(sub.unlink_unseen(b"x"), None);
    drop(x);
    assert_eq!(sub.unlink_unseen(b"x"), Some(Ok(())));
    assert!(!served.host("d/sub/x").exists());
}

fn many_directories_are_forgotten_again() {
    let served = deep();
    for number in 0..200 {
        fs::create_dir(served.host(&format!("d/{number}"))).unwrap();
    }
    for number in 0..200 {
        begin_moment();
        served.root.lookup_ahead(b"d", &Ahead::new(number.to_string().as_bytes(), None)).unwrap();
    }
    let held = fs::read_dir(format!("/proc/{}/fd", served.gofer_pid())).unwrap().count();
    assert!(held < 150, "{held}");
}

fn a_listing_asks_nobody_for_the_number_of_the_directory_above() {
    let mut served = deep();
    let file_system: Arc<dyn FileSystem> = Arc::clone(&served.file_system) as _;
    let root = MountNamespace::new(file_system, MountFlags::empty()).root();
    let dentry = root.dentry.lookup(b"d", &DentryCache::default(), MayAsk::Yes).unwrap();
    let inode = Arc::clone(dentry.inode());
    let numbers = [&inode, root.inode()].map(|inode| inode.attributes().unwrap().inode);
    let ops = open(&inode, libc::O_RDONLY).ops.clone();
    let location = Location { mount: Arc::clone(&root.mount), dentry };
    let directory = FileDescription::new(ops, inode, Some(location), 0);
    served.kill_gofer();
    begin_moment();
    let mut seen = Vec::new();
    let mut emit = |entry: DirectoryEntry<'_>| {
        seen.push((entry.name.to_vec(), entry.inode));
        seen.len() < 2
    };
    directory.ops.read_directory(0, &directory, &mut emit).unwrap();
    assert_eq!(seen, [(b".".to_vec(), numbers[0]), (b"..".to_vec(), numbers[1])]);
}
