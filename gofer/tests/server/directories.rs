//! Listings are complete, without repetition, and survive changes between two requests.

use std::collections::BTreeSet;
use std::fs;

use abi::errno;
use wire::{Client, DirEntry, FileType, Handle, ReadDirFlags, TreeFlags};

use crate::gofer_process::{name, served};

crate::tests![
    a_listing_is_complete_whatever_its_size,
    a_listing_brings_attributes_when_asked,
    removing_what_was_listed_skips_nothing,
    a_listing_goes_on_at_any_cookie_given,
    only_directories_are_listed,
];

fn list_from(client: &Client, dir: &Handle, mut cookie: u64, flags: ReadDirFlags) -> Vec<DirEntry> {
    let mut all = Vec::new();
    loop {
        let (entries, end) = client.read_dir(dir, cookie, flags).expect("a listing");
        cookie = entries.last().map_or(cookie, |entry| entry.cookie);
        assert!(end || !entries.is_empty(), "neither entries nor the end");
        all.extend(entries);
        if end {
            return all;
        }
    }
}

fn fill(dir: &std::path::Path, count: usize, length: usize) -> BTreeSet<Vec<u8>> {
    let names = (0..count).map(|number| format!("{number:0>length$}"));
    names.inspect(|name| fs::write(dir.join(name), "").expect("a file")).map(String::into_bytes).collect()
}

fn a_listing_is_complete_whatever_its_size() {
    for (count, length) in [(0, 1), (1, 255), (170, 4), (171, 4), (3000, 4), (600, 255), (2500, 1)] {
        for flags in [ReadDirFlags::empty(), ReadDirFlags::ATTRIBUTES] {
            let mut names = BTreeSet::new();
            let served = served(TreeFlags::empty(), |dir| names = fill(dir, count, length));
            let entries = list_from(&served.client, &served.root, 0, flags);
            assert_eq!(entries.len(), count, "{count} names of {length}");
            assert_eq!(entries.into_iter().map(|entry| entry.name).collect::<BTreeSet<_>>(), names);
        }
    }
}

fn a_listing_brings_attributes_when_asked() {
    let served = served(TreeFlags::empty(), |dir| {
        fs::create_dir(dir.join("dir")).expect("a directory");
        fs::write(dir.join("file"), "123").expect("a file");
        std::os::unix::fs::symlink("/etc/passwd", dir.join("link")).expect("a link");
    });
    for entry in list_from(&served.client, &served.root, 0, ReadDirFlags::ATTRIBUTES) {
        let attr = entry.attr.expect("attributes");
        let expected = served.client.get_attr(&served.find(std::str::from_utf8(&entry.name).expect("text")));
        let expected = expected.expect("attributes");
        assert_eq!((attr.ino, attr.mode, attr.size), (expected.ino, expected.mode, expected.size));
        assert_eq!((entry.ino, entry.kind), (attr.ino, attr.file_type()));
    }
    let plain = list_from(&served.client, &served.root, 0, ReadDirFlags::empty());
    assert!(plain.iter().all(|entry| entry.attr.is_none() && entry.kind != FileType::Unknown));
}

fn removing_what_was_listed_skips_nothing() {
    let mut names = BTreeSet::new();
    let served = served(TreeFlags::empty(), |dir| names = fill(dir, 4000, 20));
    let mut cookie = 0;
    loop {
        let (entries, end) =
            served.client.read_dir(&served.root, cookie, ReadDirFlags::ATTRIBUTES).expect("a listing");
        for entry in &entries {
            let text = std::str::from_utf8(&entry.name).expect("text");
            served.client.unlink(&served.root, name(text)).expect("unlink");
            assert!(names.remove(&entry.name), "{text} twice");
        }
        cookie = entries.last().map_or(cookie, |entry| entry.cookie);
        if end {
            break;
        }
    }
    assert!(names.is_empty(), "{} were skipped", names.len());
}

fn a_listing_goes_on_at_any_cookie_given() {
    let served = served(TreeFlags::empty(), |dir| drop(fill(dir, 2000, 20)));
    let all = list_from(&served.client, &served.root, 0, ReadDirFlags::ATTRIBUTES);
    // Two readers that take turns, each at its own place.
    for start in [10, 1500, 3, 1999, 700] {
        let rest = list_from(&served.client, &served.root, all[start].cookie, ReadDirFlags::ATTRIBUTES);
        assert_eq!(rest.first().map(|entry| &entry.name), all.get(start + 1).map(|entry| &entry.name));
        assert_eq!(rest.len(), all.len() - start - 1);
        served.client.read_dir(&served.root, 0, ReadDirFlags::ATTRIBUTES).expect("the other reader");
    }
    assert!(served.client.read_dir(&served.root, u64::MAX, ReadDirFlags::empty()).is_err());
    served.end_well();
}

fn only_directories_are_listed() {
    let served = served(TreeFlags::empty(), |dir| {
        fs::write(dir.join("file"), "").expect("a file");
        std::os::unix::fs::symlink("/", dir.join("link")).expect("a link");
    });
    for path in ["file", "link"] {
        let listed = served.client.read_dir(&served.find(path), 0, ReadDirFlags::empty());
        assert_eq!(listed.err(), Some(errno::ENOTDIR));
    }
}
