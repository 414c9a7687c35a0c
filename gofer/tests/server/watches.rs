//! Telling what others change: what the queue says, and what it costs the host at most.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;

use abi::errno;
use gofer::watches::WATCHES_MAX;
use wire::TreeFlags;

use crate::gofer_process::{Gofer, Served, mode, name, served};

crate::tests![
    a_watch_tells_of_names_and_modes,
    all_watches_of_a_tree_end_together,
    only_so_many_directories_are_watched,
    what_is_no_directory_or_not_told_of_is_not_watched,
    a_status_descriptor_serves_nothing_else,
];

fn tree() -> Served {
    served(TreeFlags::empty(), |dir| {
        fs::create_dir(dir.join("dir")).expect("a directory");
        fs::write(dir.join("dir/file"), "content").expect("a file");
    })
}

/// Number, mask and name of all events in a queue.
fn events(queue: &OwnedFd) -> Vec<(u32, u32, String)> {
    let (mut bytes, mut events) = ([0; 4096], Vec::new());
    while let Ok(length @ 1..) = rustix::io::read(queue, &mut bytes) {
        let mut rest = &bytes[..length];
        while rest.len() >= 16 {
            let field = |at: usize| u32::from_ne_bytes(rest[at..at + 4].try_into().expect("four bytes"));
            let end = 16 + field(12) as usize;
            let name = String::from_utf8_lossy(&rest[16..end]).trim_end_matches('\0').to_owned();
            events.push((field(0), field(4) & !libc::IN_ISDIR, name));
            rest = &rest[end..];
        }
    }
    events
}

fn a_watch_tells_of_names_and_modes() {
    let served = tree();
    let dir = served.find("dir");
    let watching = served.client.watch(&dir).expect("a watch");
    assert_eq!(watching.attr, served.client.get_attr(&dir).expect("attributes"));
    let same = served.client.watch(&dir).expect("the same watch");
    assert_eq!(same.number, watching.number);
    assert_eq!(events(&watching.queue), []);
    let of = |mask: u32, name: &str| (watching.number, mask, name.to_owned());
    // Each is there when the call that made it has returned.
    fs::write(served.path("dir/new"), "").expect("a file");
    assert_eq!(events(&watching.queue), [of(libc::IN_CREATE, "new")]);
    fs::rename(served.path("dir/new"), served.path("dir/other")).expect("a move");
    assert_eq!(events(&same.queue), [of(libc::IN_MOVED_FROM, "new"), of(libc::IN_MOVED_TO, "other")]);
    fs::remove_file(served.path("dir/other")).expect("a removal");
    assert_eq!(events(&watching.queue), [of(libc::IN_DELETE, "other")]);
    fs::set_permissions(served.path("dir"), fs::Permissions::from_mode(0o700)).expect("a mode");
    assert_eq!(events(&watching.queue), [of(libc::IN_ATTRIB, "")]);
    // What the sentry changes, too.
    served.client.mkdir(&dir, name("made"), mode(0o700)).expect("a directory");
    let told = events(&watching.queue);
    assert!(told.contains(&of(libc::IN_CREATE, "made")), "{told:?}");
}

fn all_watches_of_a_tree_end_together() {
    let served = tree();
    let numbers = ["dir", ""].map(|path| {
        let watched = if path.is_empty() { &served.root } else { &served.find(path) };
        served.client.watch(watched).expect("a watch")
    });
    served.client.unwatch(0).expect("an end");
    fs::write(served.path("dir/new"), "").expect("a file");
    let told = events(&numbers[0].queue);
    assert_eq!(told.len(), 2, "{told:?}");
    for watching in &numbers {
        assert!(told.contains(&(watching.number, libc::IN_IGNORED, String::new())), "{told:?}");
    }
    assert_eq!(served.client.unwatch(1), Err(errno::ENOENT));
    // The same queue serves on.
    let again = served.client.watch(&served.find("dir")).expect("a watch");
    fs::remove_file(served.path("dir/new")).expect("a removal");
    assert_eq!(events(&numbers[1].queue), [(again.number, libc::IN_DELETE, "new".to_owned())]);
}

fn only_so_many_directories_are_watched() {
    let served = tree();
    let made = |index: usize| {
        let made = served.client.mkdir(&served.root, name(&index.to_string()), mode(0o700));
        made.expect("a directory").handle
    };
    let handles: Vec<_> = (0..WATCHES_MAX).map(made).collect();
    for handle in &handles {
        served.client.watch(handle).expect("a watch");
    }
    assert_eq!(served.client.watch(&served.root).map(drop), Err(errno::ENOSPC));
    served.client.unwatch(0).expect("an end");
    served.client.watch(&served.root).expect("a watch");
}

fn what_is_no_directory_or_not_told_of_is_not_watched() {
    let served = tree();
    assert_eq!(served.client.watch(&served.find("dir/file")).map(drop), Err(errno::ENOTDIR));
    let mut gofer = Gofer::serving(&[(std::path::Path::new("/proc/sys"), TreeFlags::empty())]);
    let client = gofer.client();
    let root = client.attach(0).expect("the tree").root.handle;
    assert_eq!(client.watch(&root).map(drop), Err(errno::EOPNOTSUPP));
}

fn a_status_descriptor_serves_nothing_else() {
    let served = tree();
    let descriptor = served.client.stat_descriptor(&served.find("dir/file")).expect("a descriptor");
    assert_eq!(rustix::fs::fstat(&descriptor).expect("attributes").st_size, 7);
    assert_eq!(rustix::io::read(&descriptor, &mut [0; 1]), Err(rustix::io::Errno::BADF));
    assert_eq!(served.client.stat_descriptor(&served.root).map(drop), Err(errno::EINVAL));
}
