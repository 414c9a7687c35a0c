//! A sentry that was taken over: whatever it sends, nothing outside its trees is returned, nothing is kept, the gofer
//! goes on or ends in order.

use std::fs;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use abi::errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use wire::{
    Access, Client, CreateMode, HandleId, MAX_MESSAGE, Name, OpenFlags, Opened, ReadDirFlags, RenameFlags,
    Reply, Request, SetAttr, SocketType, SpecialFile, TreeFlags, WalkStop, XattrFlags, XattrName,
};

use crate::gofer_process::{Gofer, mode, name, served};

crate::tests![
    garbage_is_refused_and_the_channel_goes_on,
    names_that_could_escape_are_refused,
    a_message_too_long_ends_its_channel,
    a_descriptor_sent_ends_its_channel_and_is_not_kept,
    handles_never_given_are_refused_everywhere,
    a_second_clunk_finds_nothing,
    too_many_clunks_are_refused,
    any_processor_may_be_named,
    handles_are_bounded_and_come_back,
    channels_are_bounded,
    a_swapped_directory_never_leads_outside,
    nothing_moves_from_tree_to_tree,
    a_link_never_leads_outside,
    a_sentry_that_reads_nothing_blocks_only_itself,
    closing_in_the_middle_ends_the_gofer,
];

/// One channel, spoken to without the client.
pub struct Raw {
    pub socket: OwnedFd,
}

impl Raw {
    fn send(&self, message: &[u8]) {
        send(&self.socket, message, SendFlags::NOSIGNAL).expect("sending");
    }

    /// The reply, or `None` when the channel has ended.
    fn receive(&self) -> Option<Reply> {
        let mut buffer = vec![0; MAX_MESSAGE];
        let (length, _) = recv(&self.socket, buffer.as_mut_slice(), RecvFlags::CMSG_CLOEXEC).ok()?;
        (length > 0).then(|| Reply::decode(&buffer[..length]).expect("a well-formed reply"))
    }

    pub fn raw_call(&self, message: &[u8]) -> Option<Reply> {
        self.send(message);
        self.receive()
    }

    pub fn call(&self, request: &Request<'_>) -> Reply {
        let mut message = Vec::new();
        request.encode(&mut message);
        self.raw_call(&message).expect("a reply")
    }

    fn attach(&self) -> HandleId {
        match self.call(&Request::Attach { tree: 0 }) {
            Reply::Attached { handle, .. } => handle,
            other => panic!("{other:?}"),
        }
    }
}

fn raw(dir: &Path) -> (Gofer, Raw) {
    let mut gofer = Gofer::serving(&[(dir, TreeFlags::empty())]);
    let socket = gofer.take_socket();
    (gofer, Raw { socket })
}

/// Numbers that look random and are the same each time (xorshift).
fn numbers() -> impl FnMut() -> u64 {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

fn garbage_is_refused_and_the_channel_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let (gofer, raw) = raw(dir.path());
    raw.attach();
    let mut next = numbers();
    for round in 0..3000u64 {
        let length = usize::try_from(next() % 600 + 1).expect("small");
        let mut message: Vec<u8> = (0..length).map(|_| next().to_le_bytes()[0]).collect();
        if round % 2 == 0 && length > 12 {
            // Something that looks like a request for a handle that exists. Not `NewChannel`.
            message[..12].copy_from_slice(&[(round % 23) as u8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        }
        assert!(matches!(raw.raw_call(&message), Some(Reply::Failed(_))), "{message:?}");
    }
    assert_eq!(fs::read_dir(dir.path()).expect("a listing").count(), 0);
    raw.attach();
    drop(raw);
    gofer.end_well();
}

/// A walk from the first handle over names that no [`Name`] can be.
fn walk_message(names: &[&[u8]]) -> Vec<u8> {
    let mut message = vec![2, 0, 0, 0, 255, 255];
    message.extend(1u64.to_le_bytes());
    message.push(u8::try_from(names.len()).expect("few"));
    for name in names {
        message.extend(u16::try_from(name.len()).expect("short").to_le_bytes());
        message.extend_from_slice(name);
    }
    message.push(0);
    message
}

fn names_that_could_escape_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("a")).expect("a directory");
    let (gofer, raw) = raw(dir.path());
    raw.attach();
    let good = raw.raw_call(&walk_message(&[b"a"]));
    assert!(matches!(good, Some(Reply::Walked { stop: WalkStop::Complete, .. })), "{good:?}");
    let long = [b'x'; 256];
    for bad in [&b".."[..], b".", b"", b"/", b"/etc", b"a/..", b"a/../..", b"../a", b"..\0", b"a\0b", &long] {
        for names in [vec![bad], vec![b"a", bad], vec![bad, b"a"]] {
            let reply = raw.raw_call(&walk_message(&names));
            assert_eq!(reply, Some(Reply::Failed(errno::EPROTO)), "{names:?}");
        }
    }
    let many: Vec<&[u8]> = vec![b"a"; 17];
    assert_eq!(raw.raw_call(&walk_message(&many)), Some(Reply::Failed(errno::EPROTO)));
    drop(raw);
    gofer.end_well();
}

fn a_message_too_long_ends_its_channel() {
    let dir = tempfile::tempdir().expect("a directory");
    let (gofer, raw) = raw(dir.path());
    raw.attach();
    assert_eq!(raw.raw_call(&vec![0; MAX_MESSAGE]), Some(Reply::Failed(errno::EPROTO)));
    assert_eq!(raw.raw_call(&vec![0; MAX_MESSAGE + 1]), None);
    gofer.end_well();
}

fn a_descriptor_sent_ends_its_channel_and_is_not_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let (gofer, first) = raw(dir.path());
    let second = second_channel(&first);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut message = Vec::new();
    Request::Attach { tree: 0 }.encode(&mut message);
    wire::send(first.socket.as_fd(), &message, &[writer.as_fd()]).expect("sending");
    drop(writer);
    // Nobody holds the pipe's other end any more: this ends at once.
    let mut text = String::new();
    { reader }.read_to_string(&mut text).expect("the end of the pipe");
    assert!(first.receive().is_none());
    second.attach();
    drop((first, second));
    gofer.end_well();
}

/// A further channel.
fn second_channel(first: &Raw) -> Raw {
    try_second_channel(first).expect("a further channel")
}

/// A further channel, through `NewChannel`, unless it is refused or the gofer is gone.
pub fn try_second_channel(first: &Raw) -> Option<Raw> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, recvmsg};
    let mut message = Vec::new();
    Request::NewChannel.encode(&mut message);
    send(&first.socket, &message, SendFlags::NOSIGNAL).ok()?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 64];
    let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
    recvmsg(&first.socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    let mut sockets = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = part {
            sockets.extend(descriptors);
        }
    }
    assert!(sockets.len() <= 1);
    sockets.pop().map(|socket| Raw { socket })
}

fn handles_never_given_are_refused_everywhere() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("x"), "kept").expect("a file");
    let (gofer, raw) = raw(dir.path());
    let root = raw.attach();
    let x = Name::new(b"x").expect("a name");
    let attribute = XattrName::new(b"user.a").expect("an attribute's name");
    let all = CreateMode { mode: 0o777, uid: 0, gid: 0 };
    for bad in [HandleId(root.0 + 1), HandleId(u64::MAX), HandleId(root.0 | 1 << 32)] {
        let access = Access::ReadWrite;
        let flags = OpenFlags::empty();
        let requests = [
            Request::Walk { from: bad, names: vec![x], open: None },
            Request::Walk { from: bad, names: vec![], open: Some((access, flags)) },
            Request::Follow { from: bad, names: vec![], open: None, ahead: vec![] },
            Request::Open { file: bad, access, flags },
            Request::Create { dir: bad, name: x, access, flags, mode: all },
            Request::Mkdir { dir: bad, name: x, mode: all },
            Request::Symlink { dir: bad, name: x, target: b"x", uid: 0, gid: 0 },
            Request::Link { file: bad, dir: root, name: x },
            Request::Link { file: root, dir: bad, name: x },
            Request::Mknod { dir: bad, name: x, kind: SpecialFile::Fifo, mode: all },
            Request::Unlink { dir: bad, name: x },
            Request::Rmdir { dir: bad, name: x },
            Request::Rename { from: root, old: x, to: bad, new: x, flags: RenameFlags::empty() },
            Request::Rename { from: bad, old: x, to: root, new: x, flags: RenameFlags::empty() },
            Request::SetAttr { file: bad, changes: SetAttr::default() },
            Request::ReadLink { file: bad },
            Request::StatFs { file: bad },
            Request::GetAttr { file: bad },
            Request::GetXattr { file: bad, name: attribute },
            Request::SetXattr { file: bad, name: attribute, value: b"", flags: XattrFlags::empty() },
            Request::ListXattr { file: bad },
            Request::RemoveXattr { file: bad, name: attribute },
            Request::ReadDir { dir: bad, cookie: 0, flags: ReadDirFlags::empty() },
            Request::Connect { socket: bad, kind: SocketType::Stream },
            Request::Bind { dir: bad, name: x, kind: SocketType::Stream, mode: all },
        ];
        for request in &requests {
            assert_eq!(raw.call(request), Reply::Failed(errno::EBADF), "{request:?}");
        }
    }
    drop(raw);
    gofer.end_well();
}

/// A `Clunk` request for these handles, however many.
fn clunk_message(handles: &[HandleId]) -> Vec<u8> {
    let mut message = vec![24, 0];
    message.extend(u16::try_from(handles.len()).expect("few").to_le_bytes());
    message.extend(u16::MAX.to_le_bytes());
    handles.iter().for_each(|handle| message.extend(handle.0.to_le_bytes()));
    message
}

fn a_second_clunk_finds_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let (gofer, raw) = raw(dir.path());
    let (first, second) = (raw.attach(), raw.attach());
    for _ in 0..3 {
        assert_eq!(raw.raw_call(&clunk_message(&[first, first, HandleId(u64::MAX)])), Some(Reply::Done));
    }
    assert_eq!(raw.call(&Request::GetAttr { file: first }), Reply::Failed(errno::EBADF));
    assert!(matches!(raw.call(&Request::GetAttr { file: second }), Reply::Attr(_)));
    // A number is never given twice, so that a stale handle cannot come to mean another file.
    assert!(raw.attach().0 > second.0);
    drop(raw);
    gofer.end_well();
}

fn too_many_clunks_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let (gofer, raw) = raw(dir.path());
    let handle = raw.attach();
    assert_eq!(raw.raw_call(&clunk_message(&[HandleId(7); 128])), Some(Reply::Done));
    assert_eq!(raw.raw_call(&clunk_message(&[handle; 129])), Some(Reply::Failed(errno::EPROTO)));
    assert_eq!(raw.raw_call(&[24, 0, 255, 255, 255, 255]), Some(Reply::Failed(errno::EPROTO)));
    assert!(matches!(raw.call(&Request::GetAttr { file: handle }), Reply::Attr(_)));
    drop(raw);
    gofer.end_well();
}

fn any_processor_may_be_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let (gofer, raw) = raw(dir.path());
    raw.attach();
    for processor in [0, 1, 2, 1023, 1024, 40_000, u16::MAX - 1, u16::MAX, 0] {
        let mut message = vec![24, 0, 0, 0];
        message.extend(u16::to_le_bytes(processor));
        // Once is chance; a thread follows a caller that stays.
        for _ in 0..3 {
            assert_eq!(raw.raw_call(&message), Some(Reply::Done), "{processor}");
        }
    }
    drop(raw);
    gofer.end_well();
}

fn handles_are_bounded_and_come_back() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("file"), "").expect("a file");
    let mut gofer = Gofer::with_few_files(dir.path());
    let client = gofer.client();
    for _ in 0..3 {
        let root = client.attach(0).expect("the tree").root.handle;
        let mut held = Vec::new();
        let refused = loop {
            let mut walked = client.walk(&root, &[name("file")], None).expect("a walk");
            match walked.steps.pop() {
                Some(node) => held.push(node.handle),
                None => break walked.stop,
            }
        };
        assert_eq!(refused, WalkStop::Failed(errno::EMFILE));
        assert!(held.len() < 64, "{}", held.len());
        assert_eq!(client.attach(0).err(), Some(errno::EMFILE));
        assert_eq!(
            client.mknod(&root, name("more"), SpecialFile::Regular, mode(0)).err(),
            Some(errno::EMFILE)
        );
        assert!(!dir.path().join("more").exists(), "what could not be held must not stay behind");
        // What only passes through is not counted.
        client.open(&held[0], Access::Read, OpenFlags::empty()).expect("an open");
    }
    client.flush_clunks().expect("clunks");
    drop(client);
    gofer.end_well();
}

fn channels_are_bounded() {
    let dir = tempfile::tempdir().expect("a directory");
    let (gofer, first) = raw(dir.path());
    let mut further: Vec<_> = (1..8).map(|_| second_channel(&first)).collect();
    assert!(try_second_channel(&first).is_none());
    further.iter().for_each(|channel| assert!(channel.attach().0 > 0));
    let removed = further.pop();
    drop(removed);
    // The thread notices soon; the place is free again then.
    while try_second_channel(&first).map(|channel| further.push(channel)).is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop((first, further));
    gofer.end_well();
}

fn a_swapped_directory_never_leads_outside() {
    let served = served(TreeFlags::empty(), |dir| {
        fs::create_dir_all(dir.join("dir/etc")).expect("directories");
        fs::write(dir.join("dir/etc/passwd"), "inside").expect("a file");
        std::os::unix::fs::symlink("/", dir.join("link")).expect("a link");
    });
    let inside: Vec<u64> = ["dir", "dir/etc", "dir/etc/passwd", "link"]
        .iter()
        .map(|path| fs::symlink_metadata(served.path(path)).expect("metadata").ino())
        .collect();
    let stop = AtomicBool::new(false);
    let (dir, link) = (served.path("dir"), served.path("link"));
    let mut seen = [0u32; 2];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, &dir, rustix::fs::CWD, &link, exchange)
                    .expect("a swap");
            }
        });
        let names = [name("dir"), name("etc"), name("passwd")];
        for _ in 0..3000 {
            let open = Some((Access::Read, OpenFlags::empty()));
            let walked = served.client.walk(&served.root, &names, open).expect("a walk");
            assert!(walked.steps.iter().all(|step| inside.contains(&step.attr.ino)));
            match walked.stop {
                WalkStop::Complete => {
                    let Opened::Descriptor(descriptor) = walked.opened else { panic!("{:?}", walked.opened) };
                    let mut text = String::new();
                    fs::File::from(descriptor).read_to_string(&mut text).expect("content");
                    assert_eq!(text, "inside");
                    seen[0] += 1;
                }
                WalkStop::Symlink(target) => {
                    assert_eq!((walked.steps.len(), target.as_slice()), (1, &b"/"[..]));
                    seen[1] += 1;
                }
                WalkStop::Failed(error) => panic!("{error:?}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(seen.iter().all(|count| *count > 0), "the race was not run: {seen:?}");
    served.end_well();
}

fn two_trees() -> (tempfile::TempDir, Gofer, Client) {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    for tree in [&a, &b] {
        fs::create_dir(tree).expect("a directory");
        fs::write(tree.join("file"), "content").expect("a file");
    }
    let mut gofer = Gofer::serving(&[(&a, TreeFlags::empty()), (&b, TreeFlags::empty())]);
    let client = gofer.client();
    (dir, gofer, client)
}

fn nothing_moves_from_tree_to_tree() {
    let (dir, gofer, client) = two_trees();
    let [a, b] = [0, 1].map(|tree| client.attach(tree).expect("the tree").root.handle);
    let moved = |flags| client.rename(&a, name("file"), &b, name("file"), flags);
    for flags in [RenameFlags::empty(), RenameFlags::NOREPLACE, RenameFlags::EXCHANGE] {
        assert_eq!(moved(flags), Err(errno::EXDEV));
    }
    let file = client.walk(&a, &[name("file")], None).expect("a walk").steps.pop().expect("a step");
    assert_eq!(client.link(&file.handle, &b, name("link")).err(), Some(errno::EXDEV));
    assert_eq!(fs::read_dir(dir.path().join("b")).expect("a listing").count(), 1);
    drop((file, a, b, client));
    gofer.end_well();
}

fn a_link_never_leads_outside() {
    let outside = tempfile::tempdir().expect("a directory");
    let secret = outside.path().join("secret");
    fs::write(&secret, "secret").expect("a file");
    let target = secret.as_os_str().as_encoded_bytes();
    let served = served(TreeFlags::empty(), |_| ());
    let (client, root) = (&served.client, &served.root);
    let link = client.symlink(root, name("link"), target, 0, 0).expect("a link");
    let secret_ino = fs::metadata(&secret).expect("metadata").ino();
    // Every request that takes a file, on the link: none reaches what it points to.
    assert_eq!(client.open(&link.handle, Access::Read, OpenFlags::empty()).err(), Some(errno::ELOOP));
    let hard = client.link(&link.handle, root, name("hard")).expect("a hard link to the link");
    assert_ne!(hard.attr.ino, secret_ino);
    let changes = SetAttr { uid: Some(77), ..SetAttr::default() };
    assert_ne!(client.set_attr(&link.handle, changes).expect("the link's own owner").ino, secret_ino);
    let _ = client.set_attr(&link.handle, SetAttr { mode: Some(0), ..SetAttr::default() });
    let _ = client.set_attr(&link.handle, SetAttr { size: Some(0), ..SetAttr::default() });
    let created = client.create(root, name("link"), Access::Write, OpenFlags::TRUNC, mode(0o666));
    assert_eq!(created.err(), Some(errno::EEXIST));
    assert_eq!(client.unlink(root, name("hard")), Ok(()));
    let host = fs::metadata(&secret).expect("metadata");
    assert_eq!((host.uid(), host.nlink(), host.len()), (0, 1, 6));
    assert_ne!(host.mode() & 0o777, 0);
}

fn a_sentry_that_reads_nothing_blocks_only_itself() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("file"), "").expect("a file");
    let (gofer, greedy) = raw(dir.path());
    let other = second_channel(&greedy);
    let root = greedy.attach();
    let mut message = Vec::new();
    let names = vec![Name::new(b"file").expect("a name")];
    Request::Walk { from: root, names, open: Some((Access::Read, OpenFlags::empty())) }.encode(&mut message);
    // Until the gofer, stuck with a reply nobody takes, takes no more requests either.
    let mut sent = 0;
    while send(&greedy.socket, &message, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok() {
        sent += 1;
        if sent % 64 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(sent < 100_000);
    }
    other.attach();
    drop((greedy, other));
    gofer.end_well();
}

fn closing_in_the_middle_ends_the_gofer() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().expect("a directory");
        let (gofer, first) = raw(dir.path());
        let second = second_channel(&first);
        let mut message = Vec::new();
        Request::Attach { tree: 0 }.encode(&mut message);
        for _ in 0..50 {
            first.send(&message);
            second.send(&message);
        }
        drop((first, second));
        gofer.end_well();
    }
}
