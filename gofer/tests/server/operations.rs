//! Every request does what the system call of its name does.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use abi::errno;
use wire::{
    Access, CreateMode, DeviceNumber, FileType, OpenFlags, Opened, RenameFlags, SetAttr, SetTime, SocketType,
    SpecialFile, Timestamp, TreeFlags, WalkStop, XattrFlags, XattrName,
};

use crate::gofer_process::{Gofer, Setup, mode, name, served};

crate::tests![
    a_walk_tells_of_every_component_and_opens_the_last,
    a_walk_stops_at_symbolic_links_and_missing_names,
    attributes_are_those_of_stat,
    a_created_file_has_the_owner_and_mode_asked_for,
    creating_never_opens_what_exists,
    directories_links_and_special_files_are_made,
    device_nodes_are_made_only_where_allowed,
    names_are_removed_and_moved,
    set_attr_changes_what_is_asked_and_nothing_else,
    open_flags_reach_the_descriptor,
    only_regular_files_are_opened,
    user_attributes_are_kept_and_others_refused,
    host_sockets_are_connected_and_bound_where_allowed,
    clunked_handles_close_their_descriptors,
];

fn read(descriptor: OwnedFd) -> String {
    let mut text = String::new();
    fs::File::from(descriptor).read_to_string(&mut text).expect("a readable descriptor");
    text
}

fn a_walk_tells_of_every_component_and_opens_the_last() {
    let served = served(TreeFlags::empty(), |dir| {
        fs::create_dir_all(dir.join("a/b")).expect("directories");
        fs::write(dir.join("a/b/file"), "content").expect("a file");
    });
    let names = [name("a"), name("b"), name("file")];
    let walked =
        served.client.walk(&served.root, &names, Some((Access::Read, OpenFlags::empty()))).expect("a walk");
    assert_eq!(walked.stop, WalkStop::Complete);
    let kinds: Vec<_> = walked.steps.iter().map(|step| step.attr.file_type()).collect();
    assert_eq!(kinds, [FileType::Directory, FileType::Directory, FileType::Regular]);
    let Opened::Descriptor(descriptor) = walked.opened else { panic!("{:?}", walked.opened) };
    assert_eq!(read(descriptor), "content");
    let again =
        served.client.open(&walked.steps[2].handle, Access::Read, OpenFlags::empty()).expect("an open");
    assert_eq!(read(again), "content");
    drop(walked.steps);
    served.end_well();
}

fn a_walk_stops_at_symbolic_links_and_missing_names() {
    let served = served(TreeFlags::empty(), |dir| {
        fs::create_dir(dir.join("dir")).expect("a directory");
        fs::write(dir.join("file"), "").expect("a file");
        std::os::unix::fs::symlink("/etc", dir.join("link")).expect("a link");
    });
    let walk = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|text| name(text)).collect();
        let walked = served.client.walk(&served.root, &names, Some((Access::Read, OpenFlags::empty())));
        let walked = walked.expect("a walk");
        assert!(!matches!(walked.opened, Opened::Descriptor(_)));
        (walked.steps.len(), walked.stop)
    };
    assert_eq!(walk(&["link", "passwd"]), (1, WalkStop::Symlink(b"/etc".to_vec())));
    assert_eq!(walk(&["link"]), (1, WalkStop::Symlink(b"/etc".to_vec())));
    assert_eq!(walk(&["dir", "none", "more"]), (1, WalkStop::Failed(errno::ENOENT)));
    assert_eq!(walk(&["none"]), (0, WalkStop::Failed(errno::ENOENT)));
    assert_eq!(walk(&["file", "more"]), (1, WalkStop::Failed(errno::ENOTDIR)));
    assert_eq!(walk(&[]), (0, WalkStop::Complete));
    let link = served.find("link");
    assert_eq!(served.client.read_link(&link).as_deref(), Ok(&b"/etc"[..]));
    assert_eq!(served.client.read_link(&served.root), Err(errno::EINVAL));
}

fn attributes_are_those_of_stat() {
    let served = served(TreeFlags::empty(), |dir| {
        fs::write(dir.join("file"), "12345").expect("a file");
        std::os::unix::fs::chown(dir.join("file"), Some(1234), Some(5678)).expect("chown");
    });
    let attr = served.client.get_attr(&served.find("file")).expect("attributes");
    let host = fs::metadata(served.path("file")).expect("metadata");
    assert_eq!((attr.ino, attr.mode, attr.uid, attr.gid), (host.ino(), host.mode(), 1234, 5678));
    assert_eq!((attr.size, attr.blocks, u64::from(attr.nlink)), (5, host.blocks(), host.nlink()));
    assert_eq!((attr.mtime.seconds, i64::from(attr.mtime.nanoseconds)), (host.mtime(), host.mtime_nsec()));
    let device = libc::makedev(attr.device.major, attr.device.minor);
    assert_eq!(device, host.dev());
    let stat = served.client.stat_fs(&served.root).expect("statfs");
    assert!(stat.block_size > 0 && stat.name_length == 255, "{stat:?}");
}

fn a_created_file_has_the_owner_and_mode_asked_for() {
    let served = served(TreeFlags::empty(), |_| ());
    let wanted = CreateMode { mode: 0o6751, uid: 1000, gid: 1001 };
    let created = served
        .client
        .create(&served.root, name("new"), Access::ReadWrite, OpenFlags::empty(), wanted)
        .expect("create");
    fs::File::from(created.descriptor).write_all(b"written").expect("a writable descriptor");
    let host = fs::metadata(served.path("new")).expect("metadata");
    assert_eq!((created.node.attr.mode & 0o7777, created.node.attr.uid), (0o6751, 1000));
    // Writing without CAP_FSETID takes the set-id bits away; we are root here.
    assert_eq!((host.mode() & 0o7777, host.uid(), host.gid()), (0o6751, 1000, 1001));
    assert_eq!(fs::read_to_string(served.path("new")).expect("content"), "written");
}

fn creating_never_opens_what_exists() {
    let served = served(TreeFlags::empty(), |dir| {
        fs::write(dir.join("file"), "kept").expect("a file");
        std::os::unix::fs::symlink("file", dir.join("link")).expect("a link");
        std::os::unix::fs::symlink("nowhere", dir.join("dangling")).expect("a link");
        nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    });
    for taken in ["file", "link", "dangling", "fifo"] {
        let flags = OpenFlags::TRUNC;
        let created = served.client.create(&served.root, name(taken), Access::Write, flags, mode(0o600));
        assert_eq!(created.err(), Some(errno::EEXIST), "{taken}");
    }
    assert_eq!(fs::read_to_string(served.path("file")).expect("content"), "kept");
    assert!(!served.path("nowhere").exists());
}

fn directories_links_and_special_files_are_made() {
    let served = served(TreeFlags::empty(), |_| ());
    let (client, root) = (&served.client, &served.root);
    let wanted = CreateMode { mode: 0o1777, uid: 7, gid: 8 };
    let dir = client.mkdir(root, name("dir"), wanted).expect("mkdir");
    let host = fs::metadata(served.path("dir")).expect("metadata");
    assert_eq!((host.mode(), host.uid(), host.gid()), (0o041_777, 7, 8));
    assert_eq!(client.mkdir(root, name("dir"), wanted).err(), Some(errno::EEXIST));

    let link = client.symlink(&dir.handle, name("link"), b"/any/where", 5, 6).expect("symlink");
    assert_eq!(link.attr.file_type(), FileType::Symlink);
    let host = fs::symlink_metadata(served.path("dir/link")).expect("metadata");
    assert_eq!((host.uid(), host.gid()), (5, 6));
    assert_eq!(client.read_link(&link.handle).as_deref(), Ok(&b"/any/where"[..]));

    let fifo = client.mknod(root, name("fifo"), SpecialFile::Fifo, mode(0o622)).expect("mkfifo");
    assert_eq!((fifo.attr.file_type(), fifo.attr.mode & 0o7777), (FileType::Fifo, 0o622));
    client.mknod(root, name("socket"), SpecialFile::Socket, mode(0o600)).expect("a socket's node");
    assert!(fs::metadata(served.path("socket")).expect("metadata").file_type().is_socket());
    let file = client.mknod(root, name("file"), SpecialFile::Regular, mode(0o600)).expect("a file");

    let linked = client.link(&file.handle, &dir.handle, name("again")).expect("link");
    assert_eq!((linked.attr.ino, linked.attr.nlink), (file.attr.ino, 2));
    // A symbolic link is linked itself, not what it leads to.
    let linked = client.link(&link.handle, root, name("again")).expect("link of a link");
    assert_eq!((linked.attr.file_type(), linked.attr.ino), (FileType::Symlink, link.attr.ino));
    assert_eq!(client.link(&dir.handle, root, name("no")).err(), Some(errno::EPERM));
}

fn device_nodes_are_made_only_where_allowed() {
    let null = DeviceNumber { major: 1, minor: 3 };
    for (devices, expected) in [(false, Some(errno::EPERM)), (true, None)] {
        let dir = tempfile::tempdir().expect("a directory");
        let trees = [(dir.path(), TreeFlags::empty())];
        let mut gofer =
            Gofer::start(&Setup { role: "serve".to_owned(), trees: &trees, devices, open_files: None });
        let client = gofer.client();
        let root = client.attach(0).expect("the tree").root.handle;
        let made = client.mknod(&root, name("null"), SpecialFile::CharacterDevice(null), mode(0o666));
        assert_eq!(made.as_ref().err(), expected.as_ref());
        let block = client.mknod(&root, name("block"), SpecialFile::BlockDevice(null), mode(0o666));
        assert_eq!(block.as_ref().err(), expected.as_ref());
        if let Ok(node) = &made {
            assert_eq!((node.attr.file_type(), node.attr.rdev), (FileType::CharacterDevice, null));
            assert_eq!(client.open(&node.handle, Access::Read, OpenFlags::empty()).err(), Some(errno::ENXIO));
        }
        drop((made, block, root, client));
        gofer.end_well();
    }
}

fn names_are_removed_and_moved() {
    let served = served(TreeFlags::empty(), |dir| {
        fs::create_dir(dir.join("dir")).expect("a directory");
        for file in ["a", "b", "dir/c"] {
            fs::write(dir.join(file), file).expect("a file");
        }
    });
    let (client, root) = (&served.client, &served.root);
    let dir = served.find("dir");
    let rename = |old, to, new, flags| client.rename(root, name(old), to, name(new), flags);
    assert_eq!(rename("a", root, "b", RenameFlags::NOREPLACE), Err(errno::EEXIST));
    assert_eq!(rename("a", root, "b", RenameFlags::EXCHANGE), Ok(()));
    assert_eq!(fs::read_to_string(served.path("a")).expect("content"), "b");
    assert_eq!(rename("a", &dir, "c", RenameFlags::empty()), Ok(()));
    assert_eq!(fs::read_to_string(served.path("dir/c")).expect("content"), "b");
    assert_eq!(rename("dir", &dir, "inside", RenameFlags::empty()), Err(errno::EINVAL));

    assert_eq!(client.rmdir(root, name("dir")), Err(errno::ENOTEMPTY));
    assert_eq!(client.unlink(root, name("dir")), Err(errno::EISDIR));
    assert_eq!(client.rmdir(root, name("b")), Err(errno::ENOTDIR));
    assert_eq!(client.unlink(&dir, name("c")), Ok(()));
    assert_eq!(client.rmdir(root, name("dir")), Ok(()));
    assert_eq!(client.unlink(root, name("b")), Ok(()));
    assert_eq!(fs::read_dir(served.dir.path()).expect("a listing").count(), 0);
}

fn set_attr_changes_what_is_asked_and_nothing_else() {
    let served = served(TreeFlags::empty(), |dir| {
        fs::write(dir.join("file"), "0123456789").expect("a file");
        fs::set_permissions(dir.join("file"), fs::Permissions::from_mode(0o640)).expect("chmod");
        std::os::unix::fs::symlink("file", dir.join("link")).expect("a link");
    });
    let (client, file, link) = (&served.client, served.find("file"), served.find("link"));
    let before = client.get_attr(&file).expect("attributes");
    let at = Timestamp { seconds: -5, nanoseconds: 123_456_789 };

    let attr = client.set_attr(&file, SetAttr { size: Some(4), ..SetAttr::default() }).expect("truncate");
    assert_eq!((attr.size, attr.mode, attr.uid, attr.atime), (4, before.mode, before.uid, before.atime));
    let changes =
        SetAttr { gid: Some(99), mode: Some(0o2755), atime: Some(SetTime::At(at)), ..SetAttr::default() };
    let attr = client.set_attr(&file, changes).expect("chown, chmod and utimensat");
    assert_eq!((attr.uid, attr.gid, attr.mode & 0o7777, attr.atime), (before.uid, 99, 0o2755, at));
    let attr =
        client.set_attr(&file, SetAttr { atime: Some(SetTime::Now), ..SetAttr::default() }).expect("now");
    assert!(attr.atime.seconds >= before.mtime.seconds);

    let changes = SetAttr { uid: Some(3), mtime: Some(SetTime::At(at)), ..SetAttr::default() };
    let attr = client.set_attr(&link, changes).expect("a link's own owner and times");
    assert_eq!((attr.file_type(), attr.uid, attr.mtime), (FileType::Symlink, 3, at));
    assert_eq!(fs::metadata(served.path("file")).expect("metadata").uid(), before.uid);
    let mode = |mode| SetAttr { mode: Some(mode), ..SetAttr::default() };
    assert_eq!(client.set_attr(&link, mode(0o600)).err(), Some(errno::EOPNOTSUPP));
    let size = SetAttr { size: Some(0), ..SetAttr::default() };
    assert_eq!(client.set_attr(&served.root, size).err(), Some(errno::EISDIR));
    assert_eq!(client.set_attr(&link, size).err(), Some(errno::EINVAL));
}

fn open_flags_reach_the_descriptor() {
    let served = served(TreeFlags::empty(), |dir| fs::write(dir.join("file"), "0123456789").expect("a file"));
    let file = served.find("file");
    let flags = |access, flags| {
        let descriptor = served.client.open(&file, access, flags).expect("an open");
        rustix::fs::fcntl_getfl(descriptor).expect("flags")
    };
    use rustix::fs::OFlags;
    assert_eq!(flags(Access::Read, OpenFlags::empty()) & OFlags::ACCMODE, OFlags::RDONLY);
    assert_eq!(flags(Access::Write, OpenFlags::empty()) & OFlags::ACCMODE, OFlags::WRONLY);
    let all = flags(Access::ReadWrite, OpenFlags::APPEND | OpenFlags::SYNC | OpenFlags::NOATIME);
    assert!(all.contains(OFlags::RDWR | OFlags::APPEND | OFlags::SYNC | OFlags::NOATIME), "{all:?}");
    assert_eq!(fs::metadata(served.path("file")).expect("metadata").len(), 10);
    flags(Access::Write, OpenFlags::TRUNC);
    assert_eq!(fs::metadata(served.path("file")).expect("metadata").len(), 0);
    let truncating = Some((Access::Write, OpenFlags::TRUNC));
    assert_eq!(served.client.walk(&served.root, &[name("file")], truncating).err(), Some(errno::EINVAL));
}

fn only_regular_files_are_opened() {
    let served = served(TreeFlags::empty(), |dir| {
        fs::create_dir(dir.join("dir")).expect("a directory");
        std::os::unix::fs::symlink("dir", dir.join("link")).expect("a link");
        nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
        let (kind, rw) = (nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::S_IRWXU);
        nix::sys::stat::mknod(&dir.join("null"), kind, rw, libc::makedev(1, 3)).expect("a device");
    });
    let cases =
        [("dir", errno::EISDIR), ("link", errno::ELOOP), ("fifo", errno::ENXIO), ("null", errno::ENXIO)];
    for (path, expected) in cases {
        let handle = served.find(path);
        for access in [Access::Read, Access::Write, Access::ReadWrite] {
            assert_eq!(
                served.client.open(&handle, access, OpenFlags::empty()).err(),
                Some(expected),
                "{path}"
            );
        }
        let walked =
            served.client.walk(&served.root, &[name(path)], Some((Access::Read, OpenFlags::empty())));
        assert!(matches!(walked.expect("a walk").opened, Opened::None), "{path}");
    }
}

fn user_attributes_are_kept_and_others_refused() {
    let served = served(TreeFlags::empty(), |dir| {
        fs::write(dir.join("file"), "").expect("a file");
        std::os::unix::fs::symlink("file", dir.join("link")).expect("a link");
    });
    let (client, file, link) = (&served.client, served.find("file"), served.find("link"));
    let attribute = |text: &'static str| XattrName::new(text.as_bytes()).expect("an attribute's name");
    let (a, b) = (attribute("user.a"), attribute("user.b"));
    assert_eq!(client.get_xattr(&file, a), Err(errno::ENODATA));
    assert_eq!(client.set_xattr(&file, a, b"x", XattrFlags::REPLACE), Err(errno::ENODATA));
    assert_eq!(client.set_xattr(&file, a, b"value", XattrFlags::CREATE), Ok(()));
    assert_eq!(client.set_xattr(&file, a, b"value", XattrFlags::CREATE), Err(errno::EEXIST));
    assert_eq!(client.set_xattr(&file, b, b"", XattrFlags::empty()), Ok(()));
    assert_eq!(client.get_xattr(&file, a).as_deref(), Ok(&b"value"[..]));
    assert_eq!(client.get_xattr(&file, b).as_deref(), Ok(&b""[..]));
    let mut names: Vec<_> =
        client.list_xattr(&file).expect("names").split(|byte| *byte == 0).map(Vec::from).collect();
    names.sort();
    assert_eq!(names, [&b""[..], b"user.a", b"user.b"]);
    assert_eq!(client.remove_xattr(&file, a), Ok(()));
    assert_eq!(client.remove_xattr(&file, a), Err(errno::ENODATA));

    assert_eq!(client.get_xattr(&file, attribute("security.capability")), Err(errno::ENODATA));
    let capability = attribute("security.capability");
    assert_eq!(client.set_xattr(&file, capability, b"x", XattrFlags::empty()), Err(errno::EPERM));
    assert_eq!(client.get_xattr(&file, attribute("trusted.overlay.opaque")), Err(errno::EOPNOTSUPP));
    assert_eq!(
        client.set_xattr(&file, attribute("trusted.a"), b"x", XattrFlags::empty()),
        Err(errno::EOPNOTSUPP)
    );
    assert_eq!(client.set_xattr(&link, a, b"x", XattrFlags::empty()), Err(errno::EPERM));
    assert_eq!(client.list_xattr(&link).as_deref(), Ok(&b""[..]));
}

fn host_sockets_are_connected_and_bound_where_allowed() {
    let listen = |dir: &std::path::Path| {
        std::os::unix::net::UnixListener::bind(dir.join("listening")).expect("a listener")
    };
    let mut listener = None;
    let allowing = served(TreeFlags::HOST_SOCKETS, |dir| listener = Some(listen(dir)));
    let (client, root) = (&allowing.client, &allowing.root);
    let connected = client.connect(&allowing.find("listening"), SocketType::Stream).expect("a connection");
    let (mut accepted, _) = listener.expect("a listener").accept().expect("the connection");
    rustix::net::send(&connected, b"hello", rustix::net::SendFlags::empty()).expect("sending");
    drop(connected);
    let mut text = String::new();
    accepted.read_to_string(&mut text).expect("receiving");
    assert_eq!(text, "hello");

    let bound = client.bind(root, name("bound"), SocketType::Stream, mode(0o620)).expect("a bound socket");
    assert_eq!((bound.node.attr.file_type(), bound.node.attr.mode & 0o7777), (FileType::Socket, 0o620));
    rustix::net::listen(&bound.descriptor, 1).expect("listening");
    std::os::unix::net::UnixStream::connect(allowing.path("bound")).expect("a connection from the host");
    assert_eq!(client.connect(root, SocketType::Stream).err(), Some(errno::ECONNREFUSED));
    drop(bound);
    allowing.end_well();

    let mut listener = None;
    let refusing = served(TreeFlags::empty(), |dir| listener = Some(listen(dir)));
    let refused = refusing.client.connect(&refusing.find("listening"), SocketType::Stream);
    assert_eq!(refused.err(), Some(errno::ECONNREFUSED));
    let refused = refusing.client.bind(&refusing.root, name("bound"), SocketType::Stream, mode(0o600));
    assert_eq!(refused.err(), Some(errno::EPERM));
    refusing.end_well();
}

fn clunked_handles_close_their_descriptors() {
    let served = served(TreeFlags::empty(), |dir| fs::write(dir.join("file"), "").expect("a file"));
    let open = || fs::read_dir(format!("/proc/{}/fd", served.gofer.pid())).expect("descriptors").count();
    let handles: Vec<_> = (0..500).map(|_| served.find("file")).collect();
    let held = open();
    drop(handles);
    served.client.flush_clunks().expect("clunks");
    assert!(held >= 500 && open() <= held - 500, "{held} before, {} after", open());
    served.end_well();
}
