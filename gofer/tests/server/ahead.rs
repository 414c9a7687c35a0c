//! Files that are opened ahead of being asked for.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::errno;
use wire::{
    Access, Early, Followed, Handle, MAX_AHEAD, OpenFlags, OpenOutcome, Opened, Reached, Reply, Request,
    TreeFlags,
};

use crate::gofer_process::{Gofer, Served, name, served};
use crate::hostile::Raw;

crate::tests![
    regular_files_beside_the_end_are_opened_and_nothing_else,
    nothing_is_opened_ahead_unless_the_end_is,
    handles_of_files_opened_ahead_are_right,
    what_a_hostile_sentry_asks_for_ahead_is_refused,
    files_opened_ahead_are_bounded_and_let_go,
    names_that_change_meanwhile_never_lead_outside_or_block,
];

const READ: Option<(Access, OpenFlags)> = Some((Access::Read, OpenFlags::empty()));

fn tree() -> Served {
    served(TreeFlags::empty(), |dir| {
        fs::create_dir_all(dir.join("dir/sub")).expect("directories");
        for file in ["one", "two", "three", "secret"] {
            fs::write(dir.join("dir").join(file), file).expect("a file");
        }
        symlink("/etc/passwd", dir.join("dir/link")).expect("a link");
        make_fifo(&dir.join("dir/fifo"));
        // Lives on without its listener.
        drop(UnixListener::bind(dir.join("dir/socket")).expect("a socket"));
    })
}

fn make_fifo(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
}

/// Opens `dir/one`, and the others ahead.
fn ahead(served: &Served, ahead: &[(&str, Option<&Handle>)]) -> Followed {
    let ahead: Vec<_> = ahead.iter().map(|(text, known)| (name(text), *known)).collect();
    let names = [(name("dir"), None), (name("one"), None)];
    served.client.follow(&served.root, &names, READ, &ahead).expect("a walk")
}

fn content(early: Early) -> String {
    let mut text = String::new();
    fs::File::from(early.descriptor).read_to_string(&mut text).expect("content");
    text
}

fn regular_files_beside_the_end_are_opened_and_nothing_else() {
    let served = tree();
    let names = ["two", "link", "fifo", "missing", "sub", "three", "socket", "two"];
    let followed = ahead(&served, &names.map(|text| (text, None)));
    assert!(matches!(followed.opened, Opened::Descriptor(_)));
    let Followed { ahead: early, steps, .. } = followed;
    // A handle that lives keeps the connection open.
    drop(steps);
    let early: Vec<_> = early.into_iter().map(|early| early.map(content)).collect();
    let mut expected = vec![None; names.len()];
    expected[0] = Some("two".to_owned());
    expected[5] = Some("three".to_owned());
    expected[7] = Some("two".to_owned());
    assert_eq!(early, expected);
    // For reading, and on a file that cannot be written through it.
    let mut followed = ahead(&served, &[("two", None)]);
    let early = followed.ahead.pop().flatten().expect("a file");
    let flags = rustix::fs::fcntl_getfl(&early.descriptor).expect("flags");
    assert!(!flags.intersects(rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::RDWR), "{flags:?}");
    assert_eq!(rustix::io::write(&early.descriptor, b"x"), Err(rustix::io::Errno::BADF));
    drop((early, followed));
    served.end_well();
}

fn nothing_is_opened_ahead_unless_the_end_is() {
    let served = tree();
    let two = [(name("two"), None)];
    for (end, open) in
        [("one", None), ("sub", READ), ("link", READ), ("missing", READ), ("fifo", READ), ("socket", READ)]
    {
        let names = [(name("dir"), None), (name(end), None)];
        let followed = served.client.follow(&served.root, &names, open, &two).expect("a walk");
        assert_eq!(followed.ahead.len(), 0, "{end}");
        drop(followed);
    }
    // Beside what, if no name was walked.
    let file = served.find("dir/one");
    let followed = served.client.follow(&file, &[], READ, &two).expect("a walk");
    assert!(matches!(followed.opened, Opened::Descriptor(_)) && followed.ahead.is_empty());
    drop((file, followed));
    served.end_well();
}

fn handles_of_files_opened_ahead_are_right() {
    let served = tree();
    let (two, three) = (served.find("dir/two"), served.find("dir/three"));
    let followed = ahead(&served, &[("two", Some(&two)), ("three", Some(&two)), ("secret", None)]);
    let Followed { ahead: early, steps, .. } = followed;
    drop(steps);
    let mut files = early.into_iter().map(|early| early.expect("a file").file);
    let ino = |path: &str| fs::metadata(served.path(path)).expect("metadata").ino();
    let Some(Reached::Same(attr)) = files.next() else { panic!("another handle") };
    assert_eq!(attr.ino, ino("dir/two"));
    for path in ["dir/three", "dir/secret"] {
        let Some(Reached::Other(node)) = files.next() else { panic!("no handle") };
        assert_eq!(node.attr.ino, ino(path));
        assert_eq!(served.client.get_attr(&node.handle).map(|attr| attr.ino), Ok(ino(path)));
    }
    drop((two, three, files));
    served.end_well();
}

fn what_a_hostile_sentry_asks_for_ahead_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("dir")).expect("a directory");
    fs::write(dir.path().join("dir/one"), "one").expect("a file");
    fs::write(dir.path().join("outside"), "outside").expect("a file");
    let inside = dir.path().join("dir");
    let mut gofer = Gofer::serving(&[(&inside, TreeFlags::empty())]);
    let raw = Raw { socket: gofer.take_socket() };
    let Reply::Attached { handle: root, .. } = raw.call(&Request::Attach { tree: 0 }) else {
        panic!("no tree")
    };
    let asking =
        |ahead: Vec<_>| Request::Follow { from: root, names: vec![(name("one"), None)], open: READ, ahead };
    assert_eq!(raw.call(&asking(vec![(name("one"), None); MAX_AHEAD + 1])), Reply::Failed(errno::EPROTO));
    let most = raw.call(&asking(vec![(name("one"), None); MAX_AHEAD]));
    let Reply::Followed { ahead, open: OpenOutcome::Opened, .. } = most else { panic!("{most:?}") };
    assert!(ahead.len() == MAX_AHEAD && ahead.iter().all(Option::is_some));
    // Names that no `Name` can be, put into the message's bytes.
    let mut message = Vec::new();
    asking(vec![(name("??????????"), None)]).encode(&mut message);
    let at = message.windows(10).position(|bytes| bytes == b"??????????").expect("the name");
    for bad in [&b"../outside"[..], b"/etc/group", b"a/../../..", b"outside\0\0\0", b"../dir/one"] {
        message[at..at + 10].copy_from_slice(bad);
        assert_eq!(raw.raw_call(&message), Some(Reply::Failed(errno::EPROTO)));
    }
    // Handles that were never given, or are of something else, say nothing about a name.
    for known in [root.0, root.0 + 1000, u64::MAX] {
        let reply = raw.call(&asking(vec![(name("one"), Some(wire::HandleId(known)))]));
        let Reply::Followed { ahead, .. } = reply else { panic!("{reply:?}") };
        assert!(ahead[0].is_some_and(|step| step.handle.is_some()));
    }
    // No room for what it wants told.
    for length in 0..message.len() {
        assert_eq!(raw.raw_call(&message[..length.max(1)]), Some(Reply::Failed(errno::EPROTO)));
    }
    drop(raw);
    gofer.end_well();
}

fn files_opened_ahead_are_bounded_and_let_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let names: Vec<String> = (0..400).map(|number| format!("file{number}")).collect();
    names.iter().for_each(|name| fs::write(dir.path().join(name), "").expect("a file"));
    let mut gofer = Gofer::with_few_files(dir.path());
    let client = gofer.client();
    let root = client.attach(0).expect("the tree").root.handle;
    let open_files =
        || fs::read_dir(format!("/proc/{}/fd", gofer.pid())).expect("the gofer's descriptors").count();
    let before = open_files();
    for _ in 0..3 {
        let mut held = Vec::new();
        for part in names.chunks(MAX_AHEAD + 1) {
            let (first, ahead) = part.split_first().expect("a name");
            let ahead: Vec<_> = ahead.iter().map(|text| (name(text), None)).collect();
            let followed = client.follow(&root, &[(name(first), None)], READ, &ahead).expect("a walk");
            held.extend(followed.ahead.into_iter().flatten());
            held.push(match (followed.opened, followed.steps.into_iter().next()) {
                (Opened::Descriptor(descriptor), Some(file)) => Early { file, descriptor },
                _ => break,
            });
            assert!(open_files() < 128);
        }
        // The last of them found no room; none took what the single opens of others need.
        assert!((32..64).contains(&held.len()), "{}", held.len());
        let Some(Reached::Other(node)) = held.first().map(|early| &early.file) else { panic!("no handle") };
        client.open(&node.handle, Access::Read, OpenFlags::empty()).expect("an open");
        drop(held);
        client.flush_clunks().expect("clunks");
        assert_eq!(open_files(), before);
    }
    drop((root, client));
    gofer.end_well();
}

fn names_that_change_meanwhile_never_lead_outside_or_block() {
    let outside = tempfile::tempdir().expect("a directory");
    fs::write(outside.path().join("secret"), "secret").expect("a file");
    let served = tree();
    let stop = AtomicBool::new(false);
    let place = served.path("dir/swapped");
    let others = ["dir/two", "dir/fifo", "dir/sub", "dir/out"].map(|path| served.path(path));
    symlink(outside.path().join("secret"), &others[3]).expect("a link");
    symlink("nowhere", &place).expect("a link");
    let mut seen = [0u32; 2];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for other in &others {
                    let (exchange, cwd) = (rustix::fs::RenameFlags::EXCHANGE, rustix::fs::CWD);
                    rustix::fs::renameat_with(cwd, &place, cwd, other, exchange).expect("a swap");
                }
            }
        });
        for _ in 0..3000 {
            let mut followed = ahead(&served, &[("swapped", None)]);
            match followed.ahead.pop().expect("an answer") {
                Some(early) => {
                    assert!(rustix::fs::fstat(early.descriptor.as_fd()).expect("attributes").st_size == 3);
                    assert_eq!(content(early), "two");
                    seen[0] += 1;
                }
                None => seen[1] += 1,
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(seen.iter().all(|count| *count > 0), "the race was not run: {seen:?}");
    served.end_well();
}
