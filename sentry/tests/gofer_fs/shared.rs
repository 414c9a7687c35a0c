//! A tree that the host changes, too: everything is asked again.

use std::fs;
use std::sync::Arc;

use abi::errno::ENOENT;
use gofer::TreeFlags;
use sentry::vfs::CachePolicy;

use crate::gofer_process::{Served, list, open, read};

crate::tests![the_hosts_changes_are_seen, a_replaced_file_is_another_inode];

fn served() -> Served {
    Served::new(TreeFlags::empty(), |root| fs::write(root.join("f"), "content").unwrap())
}

fn the_hosts_changes_are_seen() {
    let served = served();
    assert_eq!(served.root.cache_policy(), CachePolicy::Revalidate);
    let f = served.find("f");
    fs::write(served.host("f"), "longer content").unwrap();
    assert_eq!(f.attributes().unwrap().size, 14);
    let file = open(&f, libc::O_RDONLY);
    fs::write(served.host("f"), "short").unwrap();
    assert_eq!((f.attributes().unwrap().size, read(&file)), (5, b"short".to_vec()));
    fs::write(served.host("new"), "").unwrap();
    assert_eq!(list(&served.root), ["f", "new"]);
    fs::remove_file(served.host("f")).unwrap();
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
