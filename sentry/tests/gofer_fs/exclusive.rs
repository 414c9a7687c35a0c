//! A tree that nobody else changes: what was learned is kept, and our own changes keep it true.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::Arc;

use abi::errno::{EEXIST, EIO, ENOENT, ENOTEMPTY, EROFS};
use gofer::TreeFlags;
use sentry::vfs::{
    DirectoryEntry, FileDescription, FileKind, FileSystem, MappingSource, NewKind, SetAttributes, SetTime,
    XattrSet,
};

use crate::gofer_process::{Served, list, new, open, read};

crate::tests![
    names_of_one_file_are_one_inode,
    a_file_opened_before_needs_no_gofer,
    listings_bring_attributes,
    attributes_outlive_the_inode,
    a_cold_path_is_asked_for_once,
    changes_reach_the_host,
    sizes_follow_writes_and_appends,
    renaming_keeps_attributes_true,
    a_large_directory_is_listed_whole,
    a_listing_goes_on_where_it_stopped,
    threads_see_one_inode_each,
    attributes_are_set,
    extended_attributes_pass_through,
    a_read_only_tree_stays_as_it_is,
    a_single_file_is_a_root,
    mapping_gives_the_host_file,
];

fn served() -> Served {
    Served::new(TreeFlags::EXCLUSIVE, |root| {
        fs::write(root.join("f"), "content").unwrap();
        fs::hard_link(root.join("f"), root.join("g")).unwrap();
        fs::create_dir_all(root.join("d/sub")).unwrap();
        fs::write(root.join("d/x"), "x").unwrap();
        std::os::unix::fs::symlink("../f", root.join("d/link")).unwrap();
    })
}

fn names_of_one_file_are_one_inode() {
    let served = served();
    let (f, g) = (served.find("f"), served.find("g"));
    assert!(Arc::ptr_eq(&f, &g));
    let attributes = f.attributes().unwrap();
    let host = fs::metadata(served.host("f")).unwrap();
    assert_eq!((attributes.inode, attributes.links, attributes.size), (host.ino(), 2, 7));
    assert_eq!(attributes.modify_ns, host.mtime() * 1_000_000_000 + host.mtime_nsec());
    assert_eq!(served.root.lookup(b"none").map(drop), Err(ENOENT));
    assert_eq!(served.find("d/link").kind(), FileKind::Symlink);
}

fn a_file_opened_before_needs_no_gofer() {
    let mut served = served();
    let f = served.find("f");
    drop(open(&f, libc::O_RDONLY));
    served.kill_gofer();
    assert_eq!(read(&open(&f, libc::O_RDONLY)), b"content");
    assert_eq!(f.attributes().unwrap().size, 7);
    assert_eq!(served.root.lookup(b"d").map(drop), Err(EIO));
}

fn listings_bring_attributes() {
    let mut served = served();
    let d = served.find("d");
    assert_eq!(list(&d), ["link", "sub", "x"]);
    served.kill_gofer();
    let x = d.lookup(b"x").unwrap();
    assert_eq!((x.attributes().unwrap().size, x.kind()), (1, FileKind::Regular));
    assert_eq!(d.lookup(b"sub").unwrap().kind(), FileKind::Directory);
}

fn attributes_outlive_the_inode() {
    let mut served = served();
    let d = served.find("d");
    list(&d);
    fs::write(served.host("d/y"), "y").unwrap();
    drop(d.lookup(b"x").unwrap());
    // What was changed or removed is not remembered as it was.
    let link = d.lookup(b"link").unwrap();
    d.unlink(b"link", &link).unwrap();
    drop(link);
    assert_eq!(d.lookup(b"link").map(drop), Err(ENOENT));
    let x = d.lookup(b"x").unwrap();
    d.rename(b"x", &d, b"z", false).unwrap();
    drop(x);
    assert_eq!(d.lookup(b"x").map(drop), Err(ENOENT));
    drop(d.lookup(b"sub").unwrap());
    served.kill_gofer();
    assert_eq!(d.lookup(b"sub").unwrap().attributes().unwrap().links, 2);
    assert_eq!(d.lookup(b"sub").unwrap().kind(), FileKind::Directory);
}

fn a_cold_path_is_asked_for_once() {
    let mut served = served();
    sentry::vfs::begin_moment();
    let reading = sentry::vfs::OpenRequest { read: true, write: false, flags: 0 };
    let d = served.root.lookup_ahead(b"d", &sentry::vfs::Ahead::new(b"x", Some(reading))).unwrap();
    served.kill_gofer();
    let x = d.lookup(b"x").unwrap();
    assert_eq!(read(&open(&x, libc::O_RDONLY)), b"x");
    // Nobody else changes the tree: it stays so while somebody holds it.
    sentry::vfs::begin_moment();
    assert!(std::sync::Arc::ptr_eq(&x, &d.lookup(b"x").unwrap()));
}

fn changes_reach_the_host() {
    let served = served();
    let root = &served.root;
    let made = root.create(b"made", &new(NewKind::Regular)).unwrap();
    let host = fs::metadata(served.host("made")).unwrap();
    assert_eq!((host.mode(), host.uid(), host.gid()), (0o100_640, 12, 34));
    assert_eq!(root.create(b"made", &new(NewKind::Regular)).map(drop), Err(EEXIST));
    let links = root.attributes().unwrap().links;
    let directory = root.create(b"dir", &new(NewKind::Directory)).unwrap();
    assert_eq!(root.attributes().unwrap().links, links + 1);
    root.create(b"sym", &new(NewKind::Symlink(b"made"))).unwrap();
    assert_eq!(fs::read_link(served.host("sym")).unwrap().to_str(), Some("made"));
    root.create(b"fifo", &new(NewKind::Fifo)).unwrap();
    assert!(fs::metadata(served.host("fifo")).unwrap().file_type().is_fifo());
    directory.link(b"other", &made).unwrap();
    assert_eq!(made.attributes().unwrap().links, 2);
    assert_eq!(root.remove_directory(b"dir", &directory), Err(ENOTEMPTY));
    directory.unlink(b"other", &made).unwrap();
    assert_eq!(made.attributes().unwrap().links, 1);
    root.remove_directory(b"dir", &directory).unwrap();
    let open_file = open(&made, libc::O_RDWR);
    root.unlink(b"made", &made).unwrap();
    assert_eq!(made.attributes().unwrap().links, 0);
    assert_eq!(open_file.ops.write(0, b"still there", &open_file), Ok(11));
    assert!(!served.host("made").exists() && !served.host("dir").exists());
    assert_eq!(root.lookup(b"made").map(drop), Err(ENOENT));
}

fn sizes_follow_writes_and_appends() {
    let served = served();
    let f = served.find("f");
    let (writer, other) = (open(&f, libc::O_WRONLY), open(&f, libc::O_WRONLY | libc::O_APPEND));
    assert_eq!(writer.ops.write(5, b"12345", &writer), Ok(5));
    assert_eq!(f.attributes().unwrap().size, 10);
    assert_eq!(other.ops.append(b"++", &other), Ok((2, 12)));
    assert_eq!(writer.ops.write(0, b"C", &writer), Ok(1));
    drop((writer, other));
    assert_eq!(f.attributes().unwrap().size, 12);
    assert_eq!(read(&open(&f, libc::O_RDONLY)), b"Conte12345++");
    assert_eq!(fs::read(served.host("g")).unwrap(), b"Conte12345++");
    f.set_attributes(&SetAttributes { size: Some(3), ..Default::default() }).unwrap();
    assert_eq!((f.attributes().unwrap().size, fs::metadata(served.host("f")).unwrap().len()), (3, 3));
}

fn renaming_keeps_attributes_true() {
    let served = served();
    let (root, d) = (&served.root, served.find("d"));
    list(&d);
    let x = served.find("d/x");
    let f = served.find("f");
    assert_eq!(f.attributes().unwrap().links, 2);
    d.rename(b"x", root, b"f", false).unwrap();
    assert_eq!(f.attributes().unwrap().links, 1);
    assert!(Arc::ptr_eq(&served.find("f"), &x));
    assert_eq!(d.lookup(b"x").map(drop), Err(ENOENT));
    assert_eq!(read(&open(&x, libc::O_RDONLY)), b"x");
    d.rename(b"sub", root, b"g", true).unwrap();
    assert_eq!(
        (served.find("g").kind(), served.find("d/sub").kind()),
        (FileKind::Directory, FileKind::Regular)
    );
    assert_eq!(list(&d), ["link", "sub"]);
    assert_eq!((root.attributes().unwrap().links, d.attributes().unwrap().links), (4, 2));
    root.rename(b"d", root, b"e", false).unwrap();
    assert_eq!(list(root), ["e", "f", "g"]);
}

fn a_large_directory_is_listed_whole() {
    let served = Served::new(TreeFlags::EXCLUSIVE, |root| {
        for number in 0..3000 {
            fs::write(root.join(format!("file-{number:05}")), "").unwrap();
        }
    });
    let names = list(&served.root);
    let wanted: Vec<_> = (0..3000).map(|number| format!("file-{number:05}")).collect();
    assert_eq!(names, wanted);
}

/// Lists at most so many entries from a position on; returns their names and the position after them.
fn part(file: &FileDescription, from: u64, most: usize) -> (Vec<String>, u64) {
    let (mut names, mut position) = (Vec::new(), from);
    let mut emit = |entry: DirectoryEntry<'_>| {
        if names.len() == most {
            return false;
        }
        names.push(String::from_utf8_lossy(entry.name).into_owned());
        position = entry.next;
        true
    };
    file.ops.read_directory(from, file, &mut emit).unwrap();
    (names, position)
}

fn a_listing_goes_on_where_it_stopped() {
    let served = Served::new(TreeFlags::EXCLUSIVE, |root| {
        for number in 0..1500 {
            fs::write(root.join(format!("{number}")), "").unwrap();
        }
    });
    let file = open(&served.root, libc::O_RDONLY | libc::O_DIRECTORY);
    let (first, mut position) = part(&file, 0, 1);
    assert_eq!(first, ["."]);
    let mut names = Vec::new();
    loop {
        let (some, next) = part(&file, position, 7);
        if some.is_empty() {
            break;
        }
        if names.len() == 700 {
            // What was listed already may go without disturbing the rest.
            let gone: &String = &names[5];
            let inode = served.find(gone);
            served.root.unlink(gone.as_bytes(), &inode).unwrap();
        }
        names.extend(some);
        position = next;
    }
    assert_eq!(names.remove(0), "..");
    let unique: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!((names.len(), unique.len()), (1500, 1500));
    assert_eq!(part(&file, 0, 9999).0.len(), 1501);
}

fn threads_see_one_inode_each() {
    let served = served();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let served = &served;
            scope.spawn(move || {
                for round in 0..200_u32 {
                    let name = format!("t{}", (u32::from(thread) + round) % 3);
                    let _ = served.root.create(name.as_bytes(), &new(NewKind::Regular));
                    if let Ok(found) = served.root.lookup(name.as_bytes()) {
                        let _ = served.root.rename(name.as_bytes(), &served.root, b"other", false);
                        let _ = served.root.unlink(b"other", &found);
                    }
                    assert_eq!(read(&open(&served.find("f"), libc::O_RDONLY)), b"content");
                    list(&served.root);
                }
            });
        }
    });
    for name in list(&served.root) {
        let host = fs::symlink_metadata(served.host(&name)).unwrap();
        assert_eq!(served.find(&name).attributes().unwrap().inode, host.ino());
    }
}

fn attributes_are_set() {
    let served = served();
    let f = served.find("f");
    let change = SetAttributes {
        permissions: Some(0o4711),
        uid: Some(5),
        modify: Some(SetTime::To(-1_500_000_000)),
        ..Default::default()
    };
    f.set_attributes(&change).unwrap();
    let attributes = f.attributes().unwrap();
    assert_eq!((attributes.permissions, attributes.uid), (0o4711, 5));
    assert_eq!(attributes.modify_ns, -1_500_000_000);
    let host = fs::metadata(served.host("f")).unwrap();
    assert_eq!((host.mode() & 0o7777, host.mtime(), host.mtime_nsec()), (0o4711, -2, 500_000_000));
}

fn extended_attributes_pass_through() {
    let served = served();
    let f = served.find("f");
    f.set_xattr(b"user.a", b"1", XattrSet::Create).unwrap();
    assert_eq!(f.set_xattr(b"user.a", b"1", XattrSet::Create), Err(EEXIST));
    assert_eq!(f.xattr(b"user.a"), Ok(b"1".to_vec()));
    assert_eq!(f.list_xattrs(), Ok(vec![b"user.a".to_vec()]));
    f.remove_xattr(b"user.a").unwrap();
    assert_eq!(f.list_xattrs(), Ok(vec![]));
}

fn a_read_only_tree_stays_as_it_is() {
    let served = Served::new(TreeFlags::EXCLUSIVE | TreeFlags::READ_ONLY, |root| {
        fs::write(root.join("f"), "content").unwrap();
    });
    assert_eq!(served.root.create(b"x", &new(NewKind::Regular)).map(drop), Err(EROFS));
    let f = served.find("f");
    assert_eq!(served.root.unlink(b"f", &f), Err(EROFS));
    assert_eq!(read(&open(&f, libc::O_RDONLY)), b"content");
}

fn a_single_file_is_a_root() {
    let served = Served::at(TreeFlags::EXCLUSIVE, "only", |root| {
        fs::write(root.join("only"), "one").unwrap();
    });
    assert_eq!(served.root.kind(), FileKind::Regular);
    assert_eq!(read(&open(&served.root, libc::O_RDONLY)), b"one");
    let writer = open(&served.root, libc::O_RDWR);
    assert_eq!(writer.ops.write(0, b"two", &writer), Ok(3));
    assert_eq!(fs::read(served.host("only")).unwrap(), b"two");
    assert_eq!(served.file_system.status().unwrap().block_size % 512, 0);
}

fn mapping_gives_the_host_file() {
    let served = served();
    let file = open(&served.find("f"), libc::O_RDONLY);
    let MappingSource::Host(host) = file.ops.mapping(&file).unwrap() else { panic!("no host file") };
    let mut bytes = [0; 7];
    host.read_at(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"content");
}
