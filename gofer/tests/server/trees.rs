//! What a tree is: a directory or a file, with what is mounted beneath it, read-only where asked.

use std::fs;
use std::path::Path;
use std::process::Command;

use abi::errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use wire::{
    Access, CreateMode, FileType, OpenFlags, RenameFlags, SetAttr, SetTime, SocketType, SpecialFile,
    TreeFlags, XattrFlags, XattrName,
};

use crate::gofer_process::{Gofer, Setup, mode, name, served, served_by};

crate::tests![
    a_tree_may_be_a_single_file,
    mounts_beneath_a_tree_are_part_of_it,
    a_read_only_tree_cannot_be_changed_in_any_way,
    a_writable_tree_of_the_same_directory_stays_writable,
    flags_are_told_and_unknown_trees_refused,
    a_missing_source_is_named_in_the_error,
    a_user_namespace_is_enough_to_confine,
    without_mounts_a_gofer_serves_only_if_told_to,
];

fn a_tree_may_be_a_single_file() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("file"), "content").expect("a file");
    fs::write(dir.path().join("neighbour"), "secret").expect("a file");
    let mut gofer = Gofer::serving(&[(&dir.path().join("file"), TreeFlags::empty())]);
    let client = gofer.client();
    let attached = client.attach(0).expect("the tree");
    assert_eq!((attached.root.attr.file_type(), attached.root.attr.size), (FileType::Regular, 7));
    client.open(&attached.root.handle, Access::ReadWrite, OpenFlags::empty()).expect("an open");
    let walked = client.walk(&attached.root.handle, &[name("neighbour")], None).expect("a walk");
    assert_eq!(walked.stop, wire::WalkStop::Failed(errno::ENOTDIR));
}

fn mounts_beneath_a_tree_are_part_of_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let inner = dir.path().join("inner");
    fs::create_dir(&inner).expect("a directory");
    mount("test", &inner, "tmpfs", MountFlags::empty(), c"size=64k").expect("a mount");
    fs::write(inner.join("file"), "mounted").expect("a file");
    let both = [(dir.path(), TreeFlags::empty()), (dir.path(), TreeFlags::READ_ONLY)];
    let mut gofer = Gofer::serving(&both);
    let client = gofer.client();
    for tree in 0..2 {
        let root = client.attach(tree).expect("the tree").root;
        let walked = client.walk(&root.handle, &[name("inner"), name("file")], None).expect("a walk");
        let [inner, file] = walked.steps.as_slice() else { panic!("{:?}", walked.stop) };
        assert_ne!(inner.attr.device, root.attr.device);
        let written = client.open(&file.handle, Access::Write, OpenFlags::empty());
        assert_eq!(written.err(), (tree == 1).then_some(errno::EROFS));
    }
    // Later mounts of the host do not appear, and ours are not the host's.
    unmount(&inner, UnmountFlags::empty()).expect("the gofer's clone does not keep the host's mount busy");
    let root = client.attach(0).expect("the tree").root.handle;
    assert_eq!(client.walk(&root, &[name("inner"), name("file")], None).expect("a walk").steps.len(), 2);
}

fn a_read_only_tree_cannot_be_changed_in_any_way() {
    let served = served(TreeFlags::READ_ONLY | TreeFlags::HOST_SOCKETS, |dir| {
        fs::create_dir(dir.join("dir")).expect("a directory");
        fs::write(dir.join("file"), "content").expect("a file");
    });
    let (client, root) = (&served.client, &served.root);
    let (file, dir) = (served.find("file"), served.find("dir"));
    let attribute = XattrName::new(b"user.a").expect("an attribute's name");
    let new = name("new");
    let none = OpenFlags::empty();
    let change = |changes| client.set_attr(&file, changes).err();
    let device = SpecialFile::CharacterDevice(wire::DeviceNumber { major: 0, minor: 0 });
    let refused = [
        client.open(&file, Access::Write, none).err(),
        client.open(&file, Access::ReadWrite, none).err(),
        client.open(&file, Access::Read, OpenFlags::TRUNC).err(),
        client.create(root, new, Access::Read, none, mode(0o600)).err(),
        client.mkdir(root, new, mode(0o700)).err(),
        client.symlink(root, new, b"a", 0, 0).err(),
        client.link(&file, root, new).err(),
        client.mknod(root, new, SpecialFile::Fifo, mode(0o600)).err(),
        client.mknod(root, new, device, mode(0o600)).err(),
        client.unlink(root, name("file")).err(),
        client.rmdir(root, name("dir")).err(),
        client.rename(root, name("file"), &dir, new, RenameFlags::empty()).err(),
        change(SetAttr { mode: Some(0), ..SetAttr::default() }),
        change(SetAttr { uid: Some(1), ..SetAttr::default() }),
        change(SetAttr { size: Some(0), ..SetAttr::default() }),
        change(SetAttr { mtime: Some(SetTime::Now), ..SetAttr::default() }),
        client.set_xattr(&file, attribute, b"x", XattrFlags::empty()).err(),
        client.remove_xattr(&file, attribute).err(),
        client.bind(root, new, SocketType::Stream, mode(0o600)).err(),
    ];
    for (index, error) in refused.into_iter().enumerate() {
        assert_eq!(error, Some(errno::EROFS), "case {index}");
    }
    // The descriptor's mount is read-only too: it cannot be opened anew with more rights.
    let descriptor = client.open(&file, Access::Read, none).expect("an open for reading");
    use std::os::fd::AsRawFd;
    let again = fs::OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", descriptor.as_raw_fd()));
    assert_eq!(again.err().and_then(|error| error.raw_os_error()), Some(libc::EROFS));
    assert_eq!(rustix::fs::fchmod(&descriptor, rustix::fs::Mode::RWXU), Err(rustix::io::Errno::ROFS));
}

fn a_writable_tree_of_the_same_directory_stays_writable() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut gofer = Gofer::serving(&[(dir.path(), TreeFlags::READ_ONLY), (dir.path(), TreeFlags::empty())]);
    let client = gofer.client();
    let read_only = client.attach(0).expect("the tree").root.handle;
    let writable = client.attach(1).expect("the tree").root.handle;
    let file = client.mknod(&writable, name("file"), SpecialFile::Regular, mode(0o600)).expect("a file");
    assert_eq!(client.link(&file.handle, &read_only, name("link")).err(), Some(errno::EROFS));
    let walked = client.walk(&read_only, &[name("file")], None).expect("a walk");
    let seen = &walked.steps[0].handle;
    assert_eq!(client.open(seen, Access::Write, OpenFlags::empty()).err(), Some(errno::EROFS));
    // A handle that came through the read-only tree cannot be linked into the writable one.
    assert_eq!(client.link(seen, &writable, name("link")).err(), Some(errno::EXDEV));
}

fn flags_are_told_and_unknown_trees_refused() {
    let flags = TreeFlags::READ_ONLY | TreeFlags::EXCLUSIVE;
    let served = served(flags, |_| ());
    assert_eq!(served.client.attach(0).expect("the tree").flags, flags);
    for tree in [1, u32::MAX] {
        assert_eq!(served.client.attach(tree).err(), Some(errno::ENOENT));
    }
}

fn a_missing_source_is_named_in_the_error() {
    let missing = Path::new("/nonexistent/tree");
    let setup = Setup {
        role: "serve".to_owned(),
        trees: &[(missing, TreeFlags::empty())],
        devices: false,
        open_files: None,
    };
    let error = gofer_error(&setup);
    assert!(error.contains("/nonexistent/tree"), "{error}");
}

/// What a gofer that cannot start says.
fn gofer_error(setup: &Setup<'_>) -> String {
    let list: Vec<String> =
        setup.trees.iter().map(|(path, flags)| format!("{}:{}", flags.bits(), path.display())).collect();
    let output = Command::new(std::env::current_exe().expect("our own path"))
        .env("GOFER_TEST_ROLE", "start:")
        .env("GOFER_TEST_TREES", list.join("\n"))
        .output()
        .expect("a gofer process");
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn a_user_namespace_is_enough_to_confine() {
    let served = served_by("userns:", TreeFlags::empty(), |dir| {
        fs::write(dir.join("file"), "content").expect("a file")
    });
    let (client, root) = (&served.client, &served.root);
    client.open(&served.find("file"), Access::ReadWrite, OpenFlags::empty()).expect("an open");
    client.mkdir(root, name("dir"), mode(0o711)).expect("a directory");
    // An owner the namespace does not have cannot be given, and nothing half done stays behind.
    let unmapped = CreateMode { mode: 0o600, uid: 1000, gid: 0 };
    let created = client.create(root, name("new"), Access::Read, OpenFlags::empty(), unmapped);
    assert_eq!(created.err(), Some(errno::EINVAL));
    assert_eq!(client.mkdir(root, name("new"), unmapped).err(), Some(errno::EINVAL));
    assert!(!served.path("new").exists());
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", served.gofer.pid())).expect("its mounts");
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    served.end_well();
}

fn without_mounts_a_gofer_serves_only_if_told_to() {
    let fill = |dir: &Path| {
        fs::write(dir.join("file"), "content").expect("a file");
        std::os::unix::fs::symlink("/etc", dir.join("link")).expect("a link");
    };
    let served = served_by("unprivileged:best-effort", TreeFlags::READ_ONLY, fill);
    let client = &served.client;
    let file = served.find("file");
    client.open(&file, Access::Read, OpenFlags::empty()).expect("an open");
    assert_eq!(client.open(&file, Access::Write, OpenFlags::empty()).err(), Some(errno::EROFS));
    assert_eq!(client.unlink(&served.root, name("file")).err(), Some(errno::EROFS));
    let walked = client.walk(&served.root, &[name("link"), name("passwd")], None).expect("a walk");
    assert_eq!(walked.stop, wire::WalkStop::Symlink(b"/etc".to_vec()));
    drop((file, walked));
    served.end_well();

    let dir = tempfile::tempdir().expect("a directory");
    let trees = [(dir.path(), TreeFlags::empty())];
    let role = "unprivileged:required".to_owned();
    let gofer = Gofer::start(&Setup { role, trees: &trees, devices: false, open_files: None });
    assert_eq!(gofer.end().code(), Some(1));
}
