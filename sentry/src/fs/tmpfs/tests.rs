//! What must hold of names, links, counts and limits.

use std::sync::Arc;

use abi::errno::{EEXIST, ENOENT, ENOSPC, ENOTEMPTY, EPERM};

use super::*;
use crate::vfs::{DirectoryEntry, NamesFor, NewKind, NewNode, SetAttributes};

fn tmpfs(options: &TmpfsOptions) -> (Arc<Tmpfs>, Arc<dyn Inode>) {
    let file_system = Tmpfs::new(options, None);
    let root = file_system.root();
    (file_system, root)
}

fn new(kind: NewKind<'_>) -> NewNode<'_> {
    NewNode { kind, permissions: 0o644, uid: 1, gid: 2 }
}

fn list(directory: &Arc<dyn Inode>) -> Vec<String> {
    let node = directory.as_any().downcast_ref::<Node>().expect("a tmpfs node");
    let node = node.names(NamesFor::Listing).expect("a directory");
    node.into_iter().map(|entry| String::from_utf8(entry.name.to_vec()).expect("UTF-8")).collect()
}

#[test]
fn link_counts_follow_the_names() {
    let (_fs, root) = tmpfs(&TmpfsOptions::default());
    let directory = root.create(b"d", &new(NewKind::Directory)).unwrap();
    assert_eq!(root.attributes().unwrap().links, 3);
    assert_eq!(root.attributes().unwrap().size, 60);
    let file = directory.create(b"f", &new(NewKind::Regular)).unwrap();
    root.link(b"g", &file).unwrap();
    assert_eq!(file.attributes().unwrap().links, 2);
    assert_eq!(root.link(b"h", &directory), Err(EPERM));
    assert_eq!(root.remove_directory(b"d", &directory), Err(ENOTEMPTY));
    directory.unlink(b"f", &file).unwrap();
    root.remove_directory(b"d", &directory).unwrap();
    assert_eq!((root.attributes().unwrap().links, directory.attributes().unwrap().links), (2, 0));
    assert_eq!(directory.create(b"x", &new(NewKind::Regular)).map(drop), Err(ENOENT));
    root.unlink(b"g", &file).unwrap();
    assert_eq!(file.attributes().unwrap().links, 0);
    assert_eq!(root.link(b"g", &file), Err(ENOENT));
}

#[test]
fn rename_replaces_moves_and_exchanges() {
    let (_fs, root) = tmpfs(&TmpfsOptions::default());
    let a = root.create(b"a", &new(NewKind::Regular)).unwrap();
    let b = root.create(b"b", &new(NewKind::Regular)).unwrap();
    let d = root.create(b"d", &new(NewKind::Directory)).unwrap();
    root.rename(b"a", &root, b"b", false).unwrap();
    assert_eq!(list(&root), ["b", "d"]);
    assert_eq!((a.attributes().unwrap().links, b.attributes().unwrap().links), (1, 0));
    root.rename(b"b", &d, b"b", false).unwrap();
    assert_eq!((list(&root), list(&d)), (vec!["d".to_owned()], vec!["b".to_owned()]));
}

#[test]
fn exchange_swaps_a_file_and_a_directory() {
    let (_fs, root) = tmpfs(&TmpfsOptions::default());
    let d = root.create(b"d", &new(NewKind::Directory)).unwrap();
    let sub = d.create(b"sub", &new(NewKind::Directory)).unwrap();
    let file = root.create(b"f", &new(NewKind::Regular)).unwrap();
    root.rename(b"f", &d, b"sub", true).unwrap();
    assert!(Arc::ptr_eq(&root.lookup(b"f").unwrap(), &sub));
    assert!(Arc::ptr_eq(&d.lookup(b"sub").unwrap(), &file));
    assert_eq!((root.attributes().unwrap().links, d.attributes().unwrap().links), (4, 2));
}

#[test]
fn inode_limit_counts_links_and_comes_back() {
    let options = TmpfsOptions { inodes: Some(2), ..Default::default() };
    let (fs, root) = tmpfs(&options);
    let file = root.create(b"a", &new(NewKind::Regular)).unwrap();
    root.link(b"b", &file).unwrap();
    assert_eq!(root.create(b"c", &new(NewKind::Fifo)).map(drop), Err(ENOSPC));
    assert_eq!(root.create(b"a", &new(NewKind::Fifo)).map(drop), Err(ENOSPC));
    root.unlink(b"b", &file).unwrap();
    assert_eq!(root.create(b"a", &new(NewKind::Fifo)).map(drop), Err(EEXIST));
    root.unlink(b"a", &file).unwrap();
    drop(file);
    assert_eq!(fs.status().unwrap().files_free, 2);
}

#[test]
fn an_unnamed_file_gets_a_name_once() {
    let (_fs, root) = tmpfs(&TmpfsOptions::default());
    let file = root.create_unnamed(&new(NewKind::Regular)).unwrap();
    assert_eq!(file.attributes().unwrap().links, 0);
    root.link(b"named", &file).unwrap();
    assert_eq!(file.attributes().unwrap().links, 1);
    root.unlink(b"named", &file).unwrap();
    assert_eq!(root.link(b"named", &file), Err(ENOENT));
}

#[test]
fn size_is_charged_and_given_back() {
    let options = TmpfsOptions { size_bytes: Some(8 * PAGE), ..Default::default() };
    let (fs, root) = tmpfs(&options);
    let file = root.create(b"f", &new(NewKind::Regular)).unwrap();
    file.set_attributes(&SetAttributes { size: Some(3 * PAGE), ..Default::default() }).unwrap();
    assert_eq!(fs.status().unwrap().blocks_free, 5);
    root.unlink(b"f", &file).unwrap();
    assert_eq!(fs.status().unwrap().blocks_free, 5);
    drop(file);
    assert_eq!(fs.status().unwrap().blocks_free, 8);
}

#[test]
fn a_very_deep_tree_is_freed_without_recursion() {
    let (fs, root) = tmpfs(&TmpfsOptions::default());
    let mut directory = root;
    for _ in 0..100_000 {
        directory = directory.create(b"d", &new(NewKind::Directory)).unwrap();
    }
    let weak = Arc::downgrade(&directory);
    drop((fs, directory));
    assert!(weak.upgrade().is_none());
}

#[test]
fn seals_are_the_hosts() {
    let (inode, ops) = anonymous_file(b"x", Sealing::Allowed, 0, 0).unwrap();
    let file = FileDescription::new(ops, inode, None, 2);
    assert_eq!(file.ops.write(0, b"abc", &file), Ok(3));
    assert_eq!(seals(&file), Ok(0));
    add_seals(&file, libc::F_SEAL_GROW.cast_unsigned()).unwrap();
    assert_eq!(file.ops.write(0, b"xyz", &file), Ok(3));
    assert_eq!(file.ops.write(8192, b"xyz", &file), Err(EPERM));
    add_seals(&file, (libc::F_SEAL_WRITE | libc::F_SEAL_SEAL).cast_unsigned()).unwrap();
    assert_eq!(file.ops.write(0, b"abc", &file), Err(EPERM));
    assert_eq!(add_seals(&file, 2), Err(EPERM));
    let (inode, ops) = anonymous_file(b"x", Sealing::Forbidden, 0, 0).unwrap();
    let file = FileDescription::new(ops, inode, None, 2);
    assert_eq!(seals(&file), Ok(1));
}

#[test]
fn a_listing_goes_on_where_it_stopped() {
    let (fs, root) = tmpfs(&TmpfsOptions::default());
    for name in [b"a", b"b", b"c", b"d"] {
        root.create(name, &new(NewKind::Regular)).unwrap();
    }
    let ops = open::Directory::open(Arc::clone(fs.root_node()));
    let file = FileDescription::new(Arc::clone(&ops), Arc::clone(&root), None, 0);
    let read = |from: u64, most: usize| {
        let (mut names, mut position) = (Vec::new(), from);
        let mut emit = |entry: DirectoryEntry<'_>| {
            if names.len() == most {
                return false;
            }
            names.push(String::from_utf8(entry.name.to_vec()).unwrap());
            position = entry.next;
            true
        };
        ops.read_directory(from, &file, &mut emit).unwrap();
        (names, position)
    };
    let (names, position) = read(0, 3);
    assert_eq!(names, [".", "..", "a"]);
    let a = root.lookup(b"a").unwrap();
    root.unlink(b"a", &a).unwrap();
    root.unlink(b"b", &a).unwrap();
    root.create(b"e", &new(NewKind::Regular)).unwrap();
    assert_eq!(read(position, 9).0, ["c", "d", "e"]);
}
