//! A shared tree that is used a lot: nothing is asked again that the host would have told of, and whatever the host
//! changes is seen by the next call.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::errno::{EIO, ENOENT, Errno};
use gofer::TreeFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sentry::vfs::{Ahead, Inode, OpenRequest, begin_moment};

use crate::gofer_process::{Served, open, read};

crate::tests![
    what_is_known_is_not_asked_again,
    each_change_of_the_hosts_is_seen_by_the_next_call,
    a_change_is_never_missed_while_names_are_looked_up,
    our_own_changes_are_seen_at_once,
    a_moved_directory_takes_its_names_along,
    what_is_not_used_is_let_go,
    a_removed_files_descriptors_are_let_go,
    a_tree_whose_changes_are_not_told_is_asked,
    what_is_remembered_gives_way_when_the_gofer_is_full,
];

const READING: OpenRequest = OpenRequest { read: true, write: false, flags: 0 };

fn served() -> Served {
    Served::new(TreeFlags::empty(), |root| {
        fs::create_dir_all(root.join("d/sub")).unwrap();
        fs::write(root.join("d/sub/x"), "content").unwrap();
        symlink("sub/x", root.join("d/link")).unwrap();
    })
}

/// Walks as a system call does; what is at the end.
fn walk(served: &Served, path: &str) -> Result<Arc<dyn Inode>, Errno> {
    begin_moment();
    let mut rest = path.split('/');
    let mut at = Arc::clone(&served.root);
    while let Some(name) = rest.next() {
        let ahead = rest.clone().collect::<Vec<_>>().join("/");
        at = at.lookup_ahead(name.as_bytes(), &Ahead::new(ahead.as_bytes(), None))?;
    }
    Ok(at)
}

fn content(served: &Served, path: &str) -> Result<Vec<u8>, Errno> {
    begin_moment();
    let mut rest = path.split('/');
    let mut at = Arc::clone(&served.root);
    while let Some(name) = rest.next() {
        let ahead = rest.clone().collect::<Vec<_>>().join("/");
        at = at.lookup_ahead(name.as_bytes(), &Ahead::new(ahead.as_bytes(), Some(READING)))?;
    }
    Ok(read(&open(&at, libc::O_RDONLY)))
}

/// Uses names until nothing has to be asked about them.
fn warm(served: &Served, paths: &[&str]) {
    for _ in 0..80 {
        for path in paths {
            let _ = walk(served, path).map(|inode| (inode.access_attributes(), inode.attributes()));
        }
    }
}

fn what_is_known_is_not_asked_again() {
    let mut served = served();
    warm(&served, &["d/sub/x", "d/none"]);
    assert_eq!(content(&served, "d/sub/x").unwrap(), b"content");
    served.kill_gofer();
    let x = walk(&served, "d/sub/x").unwrap();
    assert_eq!(x.attributes().unwrap().size, 7);
    // What a file's attributes are is asked of the host all the same.
    fs::write(served.host("d/sub/x"), "longer than before").unwrap();
    begin_moment();
    assert_eq!(x.attributes().unwrap().size, 18);
    assert_eq!(content(&served, "d/sub/x").unwrap(), b"longer than before");
    assert_eq!(walk(&served, "d/none").map(drop), Err(ENOENT));
    assert_eq!(walk(&served, "d/sub").unwrap().access_attributes().unwrap().permissions, 0o755);
    // The rest of a directory's attributes is not known.
    begin_moment();
    assert_eq!(walk(&served, "d/sub").unwrap().attributes().map(drop), Err(EIO));
    assert_eq!(walk(&served, "other").map(drop), Err(EIO));
}

fn each_change_of_the_hosts_is_seen_by_the_next_call() {
    let served = served();
    let (x, path) = (served.host("d/sub/x"), "d/sub/x");
    let check = |what: &str, change: &dyn Fn(), expected: Option<&[u8]>| {
        warm(&served, &[path, "d/sub/t", "d/none"]);
        let _ = content(&served, path);
        change();
        assert_eq!(content(&served, path).ok().as_deref(), expected, "{what}");
        let found = walk(&served, path).ok().map(|inode| inode.attributes().unwrap());
        let host = fs::symlink_metadata(&x).ok();
        assert_eq!(
            found.map(|found| (found.inode, found.mode(), found.size, u64::from(found.links))),
            host.map(|host| (host.ino(), host.mode(), host.size(), host.nlink())),
            "{what}"
        );
    };
    check("a write", &|| fs::write(&x, "other").unwrap(), Some(b"other"));
    check("a mode", &|| fs::set_permissions(&x, PermissionsExt::from_mode(0o4711)).unwrap(), Some(b"other"));
    check("a further name", &|| fs::hard_link(&x, served.host("d/hard")).unwrap(), Some(b"other"));
    check("a write under it", &|| fs::write(served.host("d/hard"), "hard").unwrap(), Some(b"hard"));
    check("that name's end", &|| fs::remove_file(served.host("d/hard")).unwrap(), Some(b"hard"));
    let replace = || {
        fs::write(served.host("d/sub/t"), "replaced").unwrap();
        fs::rename(served.host("d/sub/t"), &x).unwrap();
    };
    check("a replacement", &replace, Some(b"replaced"));
    check("a removal", &|| fs::remove_file(&x).unwrap(), None);
    check("a creation", &|| fs::write(&x, "new").unwrap(), Some(b"new"));
    check("moved away", &|| fs::rename(&x, served.host("away")).unwrap(), None);
    check("moved back", &|| fs::rename(served.host("away"), &x).unwrap(), Some(b"new"));
    let exchange = || {
        fs::write(served.host("d/sub/t"), "exchanged").unwrap();
        let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
        let here = nix::fcntl::AT_FDCWD;
        nix::fcntl::renameat2(here, &served.host("d/sub/t"), here, &x, flags).unwrap();
    };
    check("an exchange", &exchange, Some(b"exchanged"));
    let directory = || {
        fs::rename(served.host("d/sub"), served.host("d/old")).unwrap();
        fs::create_dir(served.host("d/sub")).unwrap();
    };
    check("another directory", &directory, None);
    let back = || {
        fs::remove_dir(served.host("d/sub")).unwrap();
        fs::rename(served.host("d/old"), served.host("d/sub")).unwrap();
    };
    check("the old directory", &back, Some(b"exchanged"));
    let link = || {
        fs::remove_file(&x).unwrap();
        symlink("none", &x).unwrap();
    };
    warm(&served, &[path]);
    link();
    assert_eq!(walk(&served, path).unwrap().kind(), sentry::vfs::FileKind::Symlink);
    warm(&served, &["d/sub"]);
    fs::set_permissions(served.host("d/sub"), PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(walk(&served, "d/sub").unwrap().access_attributes().unwrap().permissions, 0o700);
}

/// The host replaces, removes and makes a file and counts up after each; whoever looks afterwards sees no older state.
fn a_change_is_never_missed_while_names_are_looked_up() {
    let served = served();
    warm(&served, &["d/sub/x"]);
    let (made, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let sizes = std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..3_000u64 {
                let size = usize::try_from(round).unwrap();
                fs::write(served.host("new"), vec![b'x'; size]).unwrap();
                fs::rename(served.host("new"), served.host("d/sub/x")).unwrap();
                made.store(round, Ordering::SeqCst);
                if round % 7 == 0 {
                    fs::rename(served.host("d/sub"), served.host("d/aside")).unwrap();
                    fs::create_dir(served.host("d/sub")).unwrap();
                    fs::rename(served.host("d/aside/x"), served.host("d/sub/x")).unwrap();
                    fs::remove_dir(served.host("d/aside")).unwrap();
                }
                // Now and then long enough for names to be known again.
                if round % 64 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
            over.store(true, Ordering::SeqCst);
        });
        let mut seen = 0;
        while !over.load(Ordering::SeqCst) {
            let floor = made.load(Ordering::SeqCst);
            let found = walk(&served, "d/sub/x").and_then(|inode| inode.attributes());
            match found {
                Ok(found) => assert!(found.size >= floor, "{} after {floor}", found.size),
                Err(error) => assert_eq!(error, ENOENT, "after {floor}"),
            }
            seen += u64::from(found.is_ok());
        }
        seen
    });
    assert!(sizes > 100, "{sizes}");
    assert_eq!(walk(&served, "d/sub/x").unwrap().attributes().unwrap().size, 2_999);
}

fn our_own_changes_are_seen_at_once() {
    let served = served();
    warm(&served, &["d/sub/x", "d/sub/y"]);
    let (d, sub) = (walk(&served, "d").unwrap(), walk(&served, "d/sub").unwrap());
    // All in one call: no event is read between them.
    begin_moment();
    let x = sub.lookup(b"x").unwrap();
    sub.rename(b"x", &sub, b"y", false).unwrap();
    assert_eq!(sub.lookup(b"x").map(drop), Err(ENOENT));
    let y = sub.lookup(b"y").unwrap();
    assert_eq!(y.attributes().unwrap().inode, x.attributes().unwrap().inode);
    sub.unlink(b"y", &y).unwrap();
    assert_eq!(sub.lookup(b"y").map(drop), Err(ENOENT));
    d.remove_directory(b"sub", &sub).unwrap();
    assert_eq!(d.lookup(b"sub").map(drop), Err(ENOENT));
    warm(&served, &["d/sub/x"]);
    assert_eq!(walk(&served, "d/sub").map(drop), Err(ENOENT));
}

fn a_moved_directory_takes_its_names_along() {
    let mut served = served();
    warm(&served, &["d/sub/x", "d/moved/x"]);
    fs::rename(served.host("d/sub"), served.host("d/moved")).unwrap();
    assert_eq!(walk(&served, "d/sub/x").map(drop), Err(ENOENT));
    let moved = walk(&served, "d/moved").unwrap();
    served.kill_gofer();
    begin_moment();
    assert_eq!(moved.lookup(b"x").unwrap().attributes().unwrap().size, 7);
}

/// Descriptors of a process that lead to a file of this name.
fn held(pid: u32, name: &str) -> usize {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = links.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    // The host says "(deleted)" behind.
    links.filter(|link| link.to_string_lossy().contains(name)).count()
}

fn what_is_not_used_is_let_go() {
    let served = served();
    warm(&served, &["d/sub/x"]);
    content(&served, "d/sub/x").unwrap();
    let (own, gofer) = (std::process::id(), served.gofer_pid());
    assert!(held(own, "/d/sub/x") > 0 && held(gofer, "/sub/x") > 0);
    fs::remove_file(served.host("d/sub/x")).unwrap();
    // Nobody makes a call: the timer alone is heard.
    let mut expiries = 0;
    while held(own, "/d/sub/x") + held(gofer, "/sub/x") > 0 {
        assert!(expiries < 4, "still held after {expiries} expiries");
        let timer = served.timers.host().as_fd();
        poll(&mut [PollFd::new(timer, PollFlags::POLLIN)], PollTimeout::from(10_000u16)).unwrap();
        served.timers.run_expired();
        expiries += 1;
    }
    assert_eq!(walk(&served, "d/sub/x").map(drop), Err(ENOENT));
    fs::write(served.host("d/sub/x"), "again").unwrap();
    warm(&served, &["d/sub/x"]);
    assert_eq!(content(&served, "d/sub/x").unwrap(), b"again");
}

fn a_removed_files_descriptors_are_let_go() {
    let served = served();
    warm(&served, &["d/sub/x"]);
    content(&served, "d/sub/x").unwrap();
    assert!(held(std::process::id(), "/d/sub/x") > 0);
    fs::remove_file(served.host("d/sub/x")).unwrap();
    assert_eq!(walk(&served, "d/sub/x").map(drop), Err(ENOENT));
    assert_eq!(held(std::process::id(), "/d/sub/x"), 0);
}

fn what_is_remembered_gives_way_when_the_gofer_is_full() {
    let served = Served::limited(300, |root| {
        for index in 0..1_000 {
            fs::write(root.join(index.to_string()), "").unwrap();
        }
    });
    warm(&served, &["0"]);
    for index in 0..1_000 {
        let name = index.to_string();
        assert_eq!(
            walk(&served, &name).and_then(|inode| inode.attributes()).map(|found| found.size),
            Ok(0),
            "{name}"
        );
    }
}

fn a_tree_whose_changes_are_not_told_is_asked() {
    let mut served = Served::at(TreeFlags::empty(), "/proc/sys/kernel", |_| ());
    warm(&served, &["random/uuid"]);
    assert_eq!(walk(&served, "random/uuid").unwrap().kind(), sentry::vfs::FileKind::Regular);
    served.kill_gofer();
    assert_eq!(walk(&served, "random/uuid").map(drop), Err(EIO));
}
