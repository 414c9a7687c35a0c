//! Walks over names that were known to stand for certain files.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use abi::errno;
use wire::{
    Access, Attr, Followed, Handle, HandleId, OpenFlags, Opened, Reached, Reply, Request, TreeFlags, WalkStop,
};

use crate::gofer_process::{Gofer, Served, name, served};
use crate::hostile::Raw;

crate::tests![
    names_that_stand_for_the_same_files_need_no_new_handles,
    a_name_that_stands_for_another_file_is_told,
    a_followed_walk_never_leads_outside,
    no_handle_makes_a_wrong_name_right,
    a_followed_walk_ends_where_a_walk_would,
];

const READ: Option<(Access, OpenFlags)> = Some((Access::Read, OpenFlags::empty()));

fn tree() -> Served {
    served(TreeFlags::empty(), |dir| {
        fs::create_dir_all(dir.join("dir/sub")).expect("directories");
        fs::write(dir.join("dir/sub/file"), "inside").expect("a file");
        fs::write(dir.join("dir/sub/other"), "other").expect("a file");
        symlink("/", dir.join("link")).expect("a link");
    })
}

fn follow(served: &Served, names: &[(&str, Option<&Handle>)], open: bool) -> Followed {
    let names: Vec<_> = names.iter().map(|(text, known)| (name(text), *known)).collect();
    served.client.follow(&served.root, &names, READ.filter(|_| open), &[]).expect("a walk")
}

fn attr(step: &Reached) -> &Attr {
    match step {
        Reached::Same(attr) => attr,
        Reached::Other(node) => &node.attr,
    }
}

fn is_same(followed: &Followed) -> Vec<bool> {
    followed.steps.iter().map(|step| matches!(step, Reached::Same(_))).collect()
}

fn ino(served: &Served, path: &str) -> u64 {
    fs::symlink_metadata(served.path(path)).expect("metadata").ino()
}

fn names_that_stand_for_the_same_files_need_no_new_handles() {
    let served = tree();
    let (dir, sub, file) = (served.find("dir"), served.find("dir/sub"), served.find("dir/sub/file"));
    let known = [("dir", Some(&dir)), ("sub", Some(&sub)), ("file", Some(&file))];
    fs::write(served.path("dir/sub/file"), "much longer now").expect("a write");
    let followed = follow(&served, &known, true);
    assert_eq!((is_same(&followed), followed.stop), (vec![true; 3], WalkStop::Complete));
    assert_eq!(attr(&followed.steps[2]).size, 15);
    assert_eq!(followed.from.ino, fs::metadata(served.dir.path()).expect("metadata").ino());
    assert!(matches!(followed.opened, Opened::Descriptor(_)));
    // What nothing is said of gets a handle.
    let mut followed = follow(&served, &[("dir", Some(&dir)), ("sub", None)], false);
    assert_eq!(is_same(&followed), [true, false]);
    let Some(Reached::Other(again)) = followed.steps.pop() else { panic!("no handle") };
    assert_eq!(served.client.get_attr(&again.handle).map(|attr| attr.ino), Ok(again.attr.ino));
    drop((dir, sub, file, again, followed));
    served.end_well();
}

fn a_name_that_stands_for_another_file_is_told() {
    let served = tree();
    let (dir, sub, file) = (served.find("dir"), served.find("dir/sub"), served.find("dir/sub/file"));
    let known = [("dir", Some(&dir)), ("sub", Some(&sub)), ("file", Some(&file))];
    fs::rename(served.path("dir/sub/other"), served.path("dir/sub/file")).expect("a rename");
    let mut followed = follow(&served, &known, false);
    assert_eq!(is_same(&followed), [true, true, false]);
    assert_eq!(attr(&followed.steps[2]).ino, ino(&served, "dir/sub/file"));
    // A directory that was replaced: what follows is looked up in the new one.
    fs::rename(served.path("dir/sub"), served.path("dir/old")).expect("a rename");
    fs::create_dir(served.path("dir/sub")).expect("a directory");
    followed = follow(&served, &known, false);
    assert_eq!(
        (is_same(&followed), followed.stop.clone()),
        (vec![true, false], WalkStop::Failed(errno::ENOENT))
    );
    // One that was replaced by a symbolic link is not followed.
    fs::remove_dir(served.path("dir/sub")).expect("removed");
    symlink("old", served.path("dir/sub")).expect("a link");
    followed = follow(&served, &known, true);
    assert_eq!(
        (is_same(&followed), followed.stop.clone()),
        (vec![true, false], WalkStop::Symlink(b"old".to_vec()))
    );
    assert!(matches!(followed.opened, Opened::None));
    // A handle that lives keeps the connection open.
    drop((dir, sub, file, followed));
    served.end_well();
}

fn a_followed_walk_never_leads_outside() {
    let served = tree();
    let inside = ["dir", "dir/sub", "dir/sub/file", "link"].map(|path| ino(&served, path));
    let (dir, sub, link) = (served.find("dir"), served.find("dir/sub"), served.find("link"));
    let stop = AtomicBool::new(false);
    let (path, link_path) = (served.path("dir"), served.path("link"));
    let mut seen = [0u32; 2];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let (exchange, cwd) = (rustix::fs::RenameFlags::EXCHANGE, rustix::fs::CWD);
                rustix::fs::renameat_with(cwd, &path, cwd, &link_path, exchange).expect("a swap");
            }
        });
        for round in 0..3000 {
            let first = [Some(&dir), Some(&link), None][round % 3];
            let followed = follow(&served, &[("dir", first), ("sub", Some(&sub)), ("file", None)], true);
            assert!(followed.steps.iter().all(|step| inside.contains(&attr(step).ino)));
            match followed.stop {
                WalkStop::Complete => seen[0] += 1,
                WalkStop::Symlink(target) => {
                    assert_eq!((followed.steps.len(), target.as_slice()), (1, &b"/"[..]));
                    seen[1] += 1;
                }
                WalkStop::Failed(error) => panic!("{error:?}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(seen.iter().all(|count| *count > 0), "the race was not run: {seen:?}");
    drop((dir, sub, link));
    served.end_well();
}

/// Whether each step of a raw `Follow` kept the handle that was alleged.
fn kept(raw: &Raw, from: HandleId, names: &[(&str, u64)]) -> Vec<bool> {
    let names = names.iter().map(|(text, known)| (name(text), Some(HandleId(*known)))).collect();
    match raw.call(&Request::Follow { from, names, open: READ, ahead: vec![] }) {
        Reply::Followed { steps, .. } => steps.iter().map(|step| step.handle.is_none()).collect(),
        other => panic!("{other:?}"),
    }
}

fn no_handle_makes_a_wrong_name_right() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    for tree in [&a, &b] {
        fs::create_dir_all(tree.join("dir")).expect("directories");
        fs::write(tree.join("dir/file"), "content").expect("a file");
    }
    // Both trees have one file under two names.
    fs::hard_link(a.join("dir/file"), b.join("dir/same")).expect("a link");
    let mut gofer = Gofer::serving(&[(&a, TreeFlags::empty()), (&b, TreeFlags::empty())]);
    let raw = Raw { socket: gofer.take_socket() };
    let root = |tree| match raw.call(&Request::Attach { tree }) {
        Reply::Attached { handle, .. } => handle,
        other => panic!("{other:?}"),
    };
    let (a, b) = (root(0), root(1));
    let steps = |from, names: &[&str]| {
        let names = names.iter().map(|text| name(text)).collect();
        match raw.call(&Request::Walk { from, names, open: None }) {
            Reply::Walked { steps, .. } => steps.iter().map(|step| step.handle.0).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    let (in_a, in_b) = (steps(a, &["dir", "file"]), steps(b, &["dir", "same"]));
    assert_eq!(kept(&raw, a, &[("dir", in_a[0]), ("file", in_a[1])]), [true, true]);
    // Another file's handle, one that was never given, the parent's own, and one of the same file through another tree.
    for known in [in_a[0], u64::MAX, a.0, in_b[1], in_b[0]] {
        assert_eq!(kept(&raw, a, &[("dir", in_a[0]), ("file", known)]), [true, false], "{known}");
    }
    // A file is no directory, whatever its handle.
    assert_eq!(kept(&raw, a, &[("dir", in_a[0]), ("file", in_a[1]), ("dir", in_a[0])]), [true, true]);
    let too_many = vec![(name("dir"), None); wire::MAX_WALK + 1];
    assert_eq!(
        raw.call(&Request::Follow { from: a, names: too_many, open: None, ahead: vec![] }),
        Reply::Failed(errno::EPROTO)
    );
    let truncating = Some((Access::Write, OpenFlags::TRUNC));
    assert_eq!(
        raw.call(&Request::Follow { from: a, names: vec![], open: truncating, ahead: vec![] }),
        Reply::Failed(errno::EINVAL)
    );
    drop(raw);
    gofer.end_well();
}

fn a_followed_walk_ends_where_a_walk_would() {
    let served = tree();
    for path in
        ["dir/sub/file", "dir/sub", "dir/missing/file", "dir/sub/file/x", "link/etc", "link", "missing"]
    {
        let names: Vec<_> = path.split('/').map(name).collect();
        let walked = served.client.walk(&served.root, &names, READ).expect("a walk");
        let known = walked.steps.iter().map(|step| Some(&step.handle)).chain(std::iter::repeat(None));
        let pairs: Vec<_> = names.into_iter().zip(known).collect();
        let followed = served.client.follow(&served.root, &pairs, READ, &[]).expect("a walk");
        assert_eq!(followed.stop, walked.stop, "{path}");
        let inos: Vec<_> = followed.steps.iter().map(|step| attr(step).ino).collect();
        assert_eq!(inos, walked.steps.iter().map(|step| step.attr.ino).collect::<Vec<_>>(), "{path}");
        assert_eq!(is_same(&followed), vec![true; inos.len()], "{path}");
        let kind = |opened: &Opened| std::mem::discriminant(opened);
        assert_eq!(kind(&followed.opened), kind(&walked.opened), "{path}");
    }
    served.end_well();
}
