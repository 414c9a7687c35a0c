//! The overlay over a tmpfs: what is below never changes, what is seen is the merge.

use std::sync::Arc;

use abi::errno::{EEXIST, ENODATA, ENOENT, ENOTEMPTY};

use super::open::RegularFile;
use super::*;
use crate::fs::tmpfs::Tmpfs;
use crate::spec::TmpfsOptions;
use crate::vfs::{FileDescription, NamesFor, NewKind, NewNode, SetAttributes, XattrSet};

struct Pair {
    lower: Arc<dyn Inode>,
    upper: Arc<dyn Inode>,
    overlay: Arc<Overlay>,
}

fn new(kind: NewKind<'_>) -> NewNode<'_> {
    NewNode { kind, permissions: 0o755, uid: 0, gid: 0 }
}

/// Below: `f` ("lower"), `g` (a hard link of it), `d/x`, `d/y`, `d/sub/z`.
fn pair() -> Pair {
    let below = Tmpfs::new(&TmpfsOptions::default(), None);
    let lower = below.root();
    let f = lower.create(b"f", &new(NewKind::Regular)).unwrap();
    let content = f.backing().unwrap();
    f.set_attributes(&SetAttributes { size: Some(5), ..Default::default() }).unwrap();
    content.write_at(0, b"lower").unwrap();
    lower.link(b"g", &f).unwrap();
    let d = lower.create(b"d", &new(NewKind::Directory)).unwrap();
    d.create(b"x", &new(NewKind::Regular)).unwrap();
    d.create(b"y", &new(NewKind::Regular)).unwrap();
    let sub = d.create(b"sub", &new(NewKind::Directory)).unwrap();
    sub.create(b"z", &new(NewKind::Regular)).unwrap();
    let below: Arc<dyn FileSystem> = below;
    let overlay = Overlay::new(&below, None, None).unwrap();
    Pair { lower, upper: overlay.root(), overlay }
}

fn list(directory: &Arc<dyn Inode>) -> Vec<String> {
    let names = directory.names(NamesFor::Listing).unwrap();
    names.into_iter().map(|entry| String::from_utf8(entry.name.to_vec()).unwrap()).collect()
}

fn sorted(directory: &Arc<dyn Inode>) -> Vec<String> {
    let mut names = list(directory);
    names.sort();
    names
}

fn open(inode: &Arc<dyn Inode>, flags: i32) -> Arc<FileDescription> {
    let node = inode.as_any().downcast_ref::<Node>().unwrap().me();
    let ops = RegularFile::open(node, flags != libc::O_WRONLY).unwrap();
    FileDescription::new(ops, Arc::clone(inode), None, flags.cast_unsigned())
}

fn read(file: &FileDescription) -> Vec<u8> {
    let mut buffer = [0; 64];
    let count = file.ops.read(0, &mut buffer, file).unwrap();
    buffer[..count].to_vec()
}

#[test]
fn the_first_write_copies_up_and_open_files_follow() {
    let pair = pair();
    let f = pair.upper.lookup(b"f").unwrap();
    let number = f.attributes().unwrap().inode;
    let reader = open(&f, libc::O_RDONLY);
    assert_eq!(read(&reader), b"lower");
    let writer = open(&f, libc::O_WRONLY);
    writer.ops.write(0, b"UP", &writer).unwrap();
    assert_eq!(read(&reader), b"UPwer");
    drop((f, reader, writer));
    let again = pair.upper.lookup(b"f").unwrap();
    assert_eq!(read(&open(&again, libc::O_RDONLY)), b"UPwer");
    assert_eq!(again.attributes().unwrap().inode, number);
    let mut below = [0; 5];
    pair.lower.lookup(b"f").unwrap().backing().unwrap().read_at(0, &mut below).unwrap();
    assert_eq!(&below, b"lower");
}

#[test]
fn hard_links_below_stay_hard_links() {
    let pair = pair();
    let (f, g) = (pair.upper.lookup(b"f").unwrap(), pair.upper.lookup(b"g").unwrap());
    assert!(Arc::ptr_eq(&f, &g));
    assert_eq!(f.attributes().unwrap().links, 2);
    let writer = open(&f, libc::O_RDWR);
    writer.ops.append(b"!", &writer).unwrap();
    drop((f, g, writer));
    let g = pair.upper.lookup(b"g").unwrap();
    assert_eq!(read(&open(&g, libc::O_RDONLY)), b"lower!");
    pair.upper.unlink(b"f", &g).unwrap();
    assert_eq!(g.attributes().unwrap().links, 1);
    drop(g);
    let g = pair.upper.lookup(b"g").unwrap();
    assert_eq!(g.attributes().unwrap().links, 1);
    pair.upper.unlink(b"g", &g).unwrap();
    assert_eq!(g.attributes().unwrap().links, 0);
    assert!(pair.overlay.instance.kept.lock().len() <= 1, "only the root may be kept");
    assert_eq!(sorted(&pair.lower), ["d", "f", "g"]);
}

#[test]
fn metadata_changes_without_copying_bytes() {
    let pair = pair();
    let f = pair.upper.lookup(b"f").unwrap();
    let change = SetAttributes { permissions: Some(0o600), uid: Some(7), ..Default::default() };
    f.set_attributes(&change).unwrap();
    drop(f);
    let f = pair.upper.lookup(b"f").unwrap();
    let attributes = f.attributes().unwrap();
    assert_eq!((attributes.permissions, attributes.uid, attributes.size), (0o600, 7, 5));
    let node = f.as_any().downcast_ref::<Node>().unwrap();
    assert!(node.data().unwrap().upper().is_none());
    assert_eq!(pair.lower.lookup(b"f").unwrap().attributes().unwrap().uid, 0);
}

#[test]
fn removed_names_are_gone_and_can_be_made_again() {
    let pair = pair();
    let d = pair.upper.lookup(b"d").unwrap();
    let x = d.lookup(b"x").unwrap();
    d.unlink(b"x", &x).unwrap();
    assert_eq!(d.lookup(b"x").map(drop), Err(ENOENT));
    assert_eq!(sorted(&d), ["sub", "y"]);
    assert_eq!(d.create(b"y", &new(NewKind::Regular)).map(drop), Err(EEXIST));
    d.create(b"x", &new(NewKind::Symlink(b"t"))).unwrap();
    assert_eq!(sorted(&d), ["sub", "x", "y"]);
    let x = d.lookup(b"x").unwrap();
    d.unlink(b"x", &x).unwrap();
    assert_eq!(d.lookup(b"x").map(drop), Err(ENOENT));
    drop(d);
    assert_eq!(sorted(&pair.upper.lookup(b"d").unwrap()), ["sub", "y"]);
}

#[test]
fn a_directory_made_again_is_opaque() {
    let pair = pair();
    let d = pair.upper.lookup(b"d").unwrap();
    assert_eq!(pair.upper.remove_directory(b"d", &d), Err(ENOTEMPTY));
    let sub = d.lookup(b"sub").unwrap();
    let z = sub.lookup(b"z").unwrap();
    sub.unlink(b"z", &z).unwrap();
    d.remove_directory(b"sub", &sub).unwrap();
    assert_eq!(d.attributes().unwrap().links, 2);
    for name in [b"x", b"y"] {
        let file = d.lookup(name).unwrap();
        d.unlink(name, &file).unwrap();
    }
    pair.upper.remove_directory(b"d", &d).unwrap();
    assert_eq!(d.create(b"new", &new(NewKind::Regular)).map(drop), Err(ENOENT));
    let made = pair.upper.create(b"d", &new(NewKind::Directory)).unwrap();
    assert_eq!(list(&made), [""; 0]);
    assert_eq!(made.lookup(b"x").map(drop), Err(ENOENT));
}

#[test]
fn a_lower_directory_moves_with_all_that_is_in_it() {
    let pair = pair();
    let d = pair.upper.lookup(b"d").unwrap();
    let number = d.attributes().unwrap().inode;
    let target = pair.upper.create(b"target", &new(NewKind::Directory)).unwrap();
    pair.upper.rename(b"d", &target, b"moved", false).unwrap();
    drop(d);
    assert_eq!(pair.upper.lookup(b"d").map(drop), Err(ENOENT));
    let moved = pair.upper.lookup(b"target").unwrap().lookup(b"moved").unwrap();
    assert_eq!(moved.attributes().unwrap().inode, number);
    assert_eq!(sorted(&moved), ["sub", "x", "y"]);
    assert!(moved.lookup(b"sub").unwrap().lookup(b"z").is_ok());
    moved.create(b"new", &new(NewKind::Regular)).unwrap();
    target.rename(b"moved", &pair.upper, b"d", false).unwrap();
    assert_eq!(sorted(&pair.upper.lookup(b"d").unwrap()), ["new", "sub", "x", "y"]);
    assert_eq!(sorted(&pair.lower.lookup(b"d").unwrap()), ["sub", "x", "y"]);
    assert_eq!(pair.upper.attributes().unwrap().links, 4);
}

#[test]
fn rename_over_a_lower_file_hides_it_for_good() {
    let pair = pair();
    let d = pair.upper.lookup(b"d").unwrap();
    let x = d.lookup(b"x").unwrap();
    d.rename(b"x", &d, b"y", false).unwrap();
    assert_eq!(sorted(&d), ["sub", "y"]);
    assert!(Arc::ptr_eq(&d.lookup(b"y").unwrap(), &x));
    d.unlink(b"y", &x).unwrap();
    assert_eq!(sorted(&d), ["sub"]);
    d.rename(b"y", &d, b"q", false).expect_err("y is gone");
}

#[test]
fn exchange_of_lower_and_new() {
    let pair = pair();
    let made = pair.upper.create(b"n", &new(NewKind::Directory)).unwrap();
    let d = pair.upper.lookup(b"d").unwrap();
    let y = d.lookup(b"y").unwrap();
    pair.upper.rename(b"n", &d, b"y", true).unwrap();
    assert!(Arc::ptr_eq(&d.lookup(b"y").unwrap(), &made));
    assert!(Arc::ptr_eq(&pair.upper.lookup(b"n").unwrap(), &y));
    assert_eq!((pair.upper.attributes().unwrap().links, d.attributes().unwrap().links), (3, 4));
}

#[test]
fn a_listing_is_stable_while_names_change() {
    let pair = pair();
    let d = pair.upper.lookup(b"d").unwrap();
    let node = d.as_any().downcast_ref::<Node>().unwrap();
    node.load(NamesFor::Listing).unwrap();
    let first = node.visible_from(0, 1).unwrap();
    let seen = first[0].1.name.to_vec();
    let file = d.lookup(&seen).unwrap();
    if file.kind() == crate::vfs::FileKind::Directory {
        let z = file.lookup(b"z").unwrap();
        file.unlink(b"z", &z).unwrap();
        d.remove_directory(&seen, &file).unwrap();
    } else {
        d.unlink(&seen, &file).unwrap();
    }
    d.create(b"late", &new(NewKind::Regular)).unwrap();
    let rest = node.visible_from(first[0].0, 9).unwrap();
    let names: Vec<_> = rest.iter().map(|(_, entry)| entry.name.to_vec()).collect();
    assert_eq!(names.len(), 3);
    assert_eq!(names[2], b"late");
}

#[test]
fn xattrs_are_copied_on_the_first_change() {
    let pair = pair();
    pair.lower.lookup(b"f").unwrap().set_xattr(b"user.a", b"1", XattrSet::Any).unwrap();
    let f = pair.upper.lookup(b"f").unwrap();
    assert_eq!(f.xattr(b"user.a"), Ok(b"1".to_vec()));
    f.set_xattr(b"user.b", b"2", XattrSet::Create).unwrap();
    f.remove_xattr(b"user.a").unwrap();
    assert_eq!((f.xattr(b"user.a"), f.xattr(b"user.b")), (Err(ENODATA), Ok(b"2".to_vec())));
    assert_eq!(pair.lower.lookup(b"f").unwrap().xattr(b"user.b"), Err(ENODATA));
}

#[test]
fn truncation_copies_no_more_than_is_kept() {
    let pair = pair();
    let f = pair.upper.lookup(b"f").unwrap();
    f.set_attributes(&SetAttributes { size: Some(3), ..Default::default() }).unwrap();
    assert_eq!(read(&open(&f, libc::O_RDONLY)), b"low");
    f.set_attributes(&SetAttributes { size: Some(0), ..Default::default() }).unwrap();
    assert_eq!(f.attributes().unwrap().size, 0);
}

#[test]
fn holes_survive_copying_up() {
    let below = Tmpfs::new(&TmpfsOptions::default(), None);
    let file = below.root().create(b"sparse", &new(NewKind::Regular)).unwrap();
    file.set_attributes(&SetAttributes { size: Some(1 << 30), ..Default::default() }).unwrap();
    file.backing().unwrap().write_at(1 << 20, b"data").unwrap();
    let below: Arc<dyn FileSystem> = below;
    let overlay = Overlay::new(&below, Some(1 << 20), None).unwrap();
    let file = overlay.root().lookup(b"sparse").unwrap();
    let writer = open(&file, libc::O_RDWR);
    writer.ops.write(0, b"x", &writer).unwrap();
    let mut buffer = [0; 4];
    writer.ops.read(1 << 20, &mut buffer, &writer).unwrap();
    assert_eq!((&buffer, file.attributes().unwrap().size), (b"data", 1 << 30));
    assert_eq!(file.attributes().unwrap().blocks_512, 16);
}

#[test]
fn everything_is_freed_with_the_overlay() {
    let pair = pair();
    let f = pair.upper.lookup(b"f").unwrap();
    f.set_attributes(&SetAttributes { uid: Some(7), ..Default::default() }).unwrap();
    let weak = Arc::downgrade(&f);
    drop(f);
    assert!(weak.upgrade().is_some(), "only the node knows of the change");
    drop(pair);
    assert!(weak.upgrade().is_none());
}

#[test]
fn threads_that_change_the_same_names_leave_counts_true() {
    let pair = pair();
    let root = &pair.upper;
    let d = root.lookup(b"d").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let d = &d;
            scope.spawn(move || {
                for round in 0..300_u16 {
                    let (from, to) =
                        if (u16::from(thread) + round).is_multiple_of(2) { (root, d) } else { (d, root) };
                    let name = [b'n', b'0' + u8::try_from(round % 3).unwrap()];
                    let _ = from.create(&name, &new(NewKind::Directory));
                    let _ = from.create(b"file", &new(NewKind::Regular));
                    let _ = from.rename(&name, to, b"x", round.is_multiple_of(5));
                    let _ = from.rename(b"f", to, b"file", false);
                    let _ = from.lookup(b"file").map(|file| to.link(b"f", &file));
                    let _ = to.lookup(b"x").map(|x| to.remove_directory(b"x", &x));
                    let _ = from.lookup(b"g").map(|g| from.unlink(b"file", &g));
                }
            });
        }
    });
    for directory in [root, &d] {
        let names = directory.names(NamesFor::Listing).unwrap();
        let directories = names.iter().filter(|entry| entry.kind == libc::DT_DIR).count();
        assert_eq!(directory.attributes().unwrap().links as usize, 2 + directories);
        for entry in names {
            directory.lookup(&entry.name).unwrap();
        }
    }
    let mut files = std::collections::BTreeMap::new();
    for directory in [root, &d] {
        for entry in
            directory.names(NamesFor::Listing).unwrap().iter().filter(|entry| entry.kind == libc::DT_REG)
        {
            *files.entry(entry.inode).or_insert(0) += 1;
        }
    }
    for directory in [root, &d] {
        for entry in
            directory.names(NamesFor::Listing).unwrap().iter().filter(|entry| entry.kind == libc::DT_REG)
        {
            let links = directory.lookup(&entry.name).unwrap().attributes().unwrap().links;
            assert_eq!(Some(&links), files.get(&entry.inode), "{:?}", entry.name);
        }
    }
}
