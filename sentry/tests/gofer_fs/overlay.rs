//! The overlay over host files, as containers have their root.

use std::fs;
use std::sync::Arc;

use abi::errno::ENOENT;
use gofer::TreeFlags;
use sentry::fs::overlay::Overlay;
use sentry::vfs::{FileSystem, Inode, NewKind, SetAttributes};

use crate::gofer_process::{Served, find, list, new};

crate::tests![the_host_never_changes, large_files_are_copied_whole];

fn over(served: &Served) -> (Arc<Overlay>, Arc<dyn Inode>) {
    let lower: Arc<dyn FileSystem> = served.file_system.clone();
    let overlay = Overlay::new(&lower, None, None).unwrap();
    let root = overlay.root();
    (overlay, root)
}

fn content(inode: &Arc<dyn Inode>) -> Vec<u8> {
    let size = usize::try_from(inode.attributes().unwrap().size).unwrap();
    let (file, mut bytes, mut done) = (inode.backing().unwrap(), vec![0; size], 0);
    while done < size {
        match file.read_at(done as u64, &mut bytes[done..]).unwrap() {
            0 => break,
            count => done += count,
        }
    }
    bytes
}

fn the_host_never_changes() {
    let flags = TreeFlags::EXCLUSIVE | TreeFlags::READ_ONLY;
    let served = Served::new(flags, |root| {
        fs::create_dir_all(root.join("usr/lib")).unwrap();
        fs::write(root.join("usr/lib/a.so"), "library").unwrap();
        fs::write(root.join("usr/passwd"), "root").unwrap();
    });
    let (_overlay, root) = over(&served);
    let usr = root.lookup(b"usr").unwrap();
    let passwd = usr.lookup(b"passwd").unwrap();
    passwd.set_attributes(&SetAttributes { size: Some(2), ..Default::default() }).unwrap();
    assert_eq!(content(&passwd), b"ro");
    let number = passwd.attributes().unwrap().inode;
    drop(passwd);
    assert_eq!(find(&root, "usr/passwd").attributes().unwrap().inode, number);
    root.rename(b"usr", &root, b"opt", false).unwrap();
    root.create(b"usr", &new(NewKind::Directory)).unwrap();
    assert_eq!(find(&root, "usr").lookup(b"lib").map(drop), Err(ENOENT));
    assert_eq!(content(&find(&root, "opt/lib/a.so")), b"library");
    assert_eq!(
        (list(&root), list(&find(&root, "opt"))),
        (vec!["opt".into(), "usr".into()], vec!["lib".into(), "passwd".into()])
    );
    let lib = find(&root, "opt/lib");
    let a = find(&lib, "a.so");
    lib.unlink(b"a.so", &a).unwrap();
    find(&root, "opt").remove_directory(b"lib", &lib).unwrap();
    assert_eq!(list(&find(&root, "opt")), ["passwd"]);
    assert_eq!(fs::read(served.host("usr/lib/a.so")).unwrap(), b"library");
    assert_eq!(fs::read(served.host("usr/passwd")).unwrap(), b"root");
}

fn large_files_are_copied_whole() {
    let bytes: Vec<u8> =
        (0..3_000_000_u32).map(|number| number.to_le_bytes()[(number % 3) as usize]).collect();
    let served = Served::new(TreeFlags::EXCLUSIVE, |root| fs::write(root.join("big"), &bytes).unwrap());
    let (_overlay, root) = over(&served);
    let big = root.lookup(b"big").unwrap();
    assert!(content(&big) == bytes);
    big.set_attributes(&SetAttributes { size: Some(3_000_001), ..Default::default() }).unwrap();
    let copied = content(&big);
    assert!(copied[..3_000_000] == bytes && copied[3_000_000] == 0);
    assert_eq!(fs::metadata(served.host("big")).unwrap().len(), 3_000_000);
}
