//! A gofer that was taken over: what it cannot do any more.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;

use gofer::filter;
use gofer::{DeviceNodes, GoferConfig, SetupError, TreeFlags};
use nix::unistd::Pid;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use wire::{
    Access, Client, OpenFlags, ReadDirFlags, RenameFlags, SetAttr, SetTime, SocketType, SpecialFile,
    XattrFlags, XattrName,
};

use crate::gofer_process::{Gofer, Setup, mode, name};
use crate::hostile::{Raw, try_second_channel};

crate::tests![
    each_kind_of_forbidden_call_kills,
    no_path_leads_to_the_host,
    only_the_owners_capabilities_are_left,
    a_directory_left_open_is_refused,
    a_second_thread_is_refused,
    every_row_of_the_filter_is_needed,
    no_call_is_both_free_and_conditional,
];

/// Calls outside the filter, by category.
const FORBIDDEN: &[(&str, fn())] = &[
    ("execution", || tried(nix::unistd::execve::<_, &std::ffi::CStr>(c"/bin/true", &[c"true"], &[]))),
    ("a new process", || tried(std::process::Command::new("/bin/true").spawn())),
    ("an internet socket", || tried(std::net::TcpListener::bind("127.0.0.1:0"))),
    ("a unix socket where no tree allows one", || tried(std::os::unix::net::UnixDatagram::unbound())),
    ("a netlink socket", || {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
        tried(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::empty(), None));
    }),
    ("another kind of socket pair", || tried(std::os::unix::net::UnixStream::pair())),
    ("a new namespace", || tried(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER))),
    ("another namespace", || tried(nix::sched::setns(std::io::stdin(), nix::sched::CloneFlags::empty()))),
    ("a mount", || {
        tried(rustix::mount::mount("none", "/", "tmpfs", rustix::mount::MountFlags::empty(), None))
    }),
    ("a new mount tree", || {
        tried(rustix::mount::open_tree(CWD, "/", rustix::mount::OpenTreeFlags::OPEN_TREE_CLONE));
    }),
    ("another root", || tried(nix::unistd::chroot("/"))),
    ("another working directory", || tried(nix::unistd::chdir("/"))),
    ("another user", || tried(nix::unistd::setuid(nix::unistd::Uid::from_raw(1)))),
    ("more capabilities", || {
        let sets = rustix::thread::CapabilitySets {
            effective: rustix::thread::CapabilitySet::SYS_ADMIN,
            permitted: rustix::thread::CapabilitySet::SYS_ADMIN,
            inheritable: rustix::thread::CapabilitySet::empty(),
        };
        tried(rustix::thread::set_capabilities(None, sets));
    }),
    ("a signal", || tried(nix::sys::signal::kill(Pid::parent(), None))),
    ("tracing", || tried(nix::sys::ptrace::attach(Pid::from_raw(1)))),
    ("another process's memory", || {
        let mut bytes = [0; 8];

        /// What a call returned does not matter: it must not return.
        fn tried<T>(_: T) {}
        let remote = [nix::sys::uio::RemoteIoVec { base: 0x1000, len: 8 }];
        let mut local = [std::io::IoSliceMut::new(&mut bytes)];
        tried(nix::sys::uio::process_vm_readv(Pid::from_raw(1), &mut local, &remote));
    }),
    ("a path", || tried(openat(CWD, "/", OFlags::RDONLY, Mode::empty()))),
    ("a creation that opens what exists", || {
        tried(openat(CWD, "f", OFlags::CREATE | OFlags::RDWR, Mode::empty()))
    }),
    ("a creation that follows links", || {
        tried(openat(CWD, "f", OFlags::CREATE | OFlags::EXCL | OFlags::RDWR, Mode::empty()));
    }),
    ("a hard link by path", || {
        tried(nix::unistd::linkat(CWD, "/a", CWD, "/b", nix::fcntl::AtFlags::empty()))
    }),
    ("a mode by path", || tried(rustix::fs::chmodat(CWD, "/", Mode::RWXU, rustix::fs::AtFlags::empty()))),
    ("an owner by path", || {
        tried(rustix::fs::chownat(CWD, "/", None, None, rustix::fs::AtFlags::empty()));
    }),
    ("a device node", || {
        tried(rustix::fs::mknodat(CWD, "d", rustix::fs::FileType::CharacterDevice, Mode::RWXU, 0x103));
    }),
    ("a whiteout by rename", || {
        tried(rustix::fs::renameat_with(CWD, "a", CWD, "b", rustix::fs::RenameFlags::WHITEOUT));
    }),
    ("memory as a file", || tried(rustix::fs::memfd_create("m", rustix::fs::MemfdFlags::CLOEXEC))),
    ("reading a file itself", || tried(rustix::io::read(std::io::stdin(), &mut [0u8; 1]))),
    ("writing anything but messages", || tried(rustix::io::write(std::io::stdout(), b"x"))),
    ("watching files", || tried(rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::empty()))),
    ("other flags of a file", || tried(rustix::fs::fcntl_setfl(std::io::stdin(), OFlags::APPEND))),
    ("another limit", || {
        tried(nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0));
    }),
    ("sending with other flags", || {
        tried(rustix::net::send(std::io::stdin(), b"x", rustix::net::SendFlags::empty()));
    }),
];

/// What a call returned does not matter: it must not return.
fn tried<T>(_: T) {}

/// The parts of this test that a confined process plays.
pub fn play(role: &str, argument: &str, config: GoferConfig) {
    match role {
        "start" => report(gofer::serve(config)),
        "leak" => {
            let _leaked = fs::File::open("/").expect("a directory");
            report(gofer::serve(config));
        }
        "threads" => {
            let (_keep, wait) = std::sync::mpsc::channel::<()>();
            std::thread::spawn(move || wait.recv());
            report(gofer::serve(config));
        }
        "try" => {
            let confined = gofer::setup::confine(config).expect("confinement");
            let index: usize = argument.parse().unwrap_or(usize::MAX);
            if let Some((_, call)) = FORBIDDEN.get(index) {
                call();
            }
            drop(confined);
        }
        "escape" => escape(config),
        _ => std::process::exit(9),
    }
}

fn report(result: Result<(), SetupError>) {
    if let Err(error) = result {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

/// Tries to reach the host with the one unchecked call that opens, `openat2`, from every descriptor there is.
fn escape(config: GoferConfig) {
    let (server, _socket) = gofer::setup::confine(config).expect("confinement");
    let ups = "../".repeat(40);
    let reached = |dir: std::os::fd::BorrowedFd<'_>, path: &str| {
        openat2(dir, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::empty()).is_ok()
    };
    let roots = [CWD, server.descriptors.as_fd()]
        .into_iter()
        .chain(server.trees.iter().map(|tree| tree.root.as_fd()));
    let mut escapes = 0;
    for dir in roots {
        for target in ["etc", "proc", "proc/1/root/etc", "self", "root", "tmp", "dev"] {
            escapes += i32::from(reached(dir, &format!("{ups}{target}")));
            escapes += i32::from(reached(dir, &format!("/{target}")));
        }
    }
    // That the call itself works: the tree's own file.
    let inside = server.trees.first().is_some_and(|tree| reached(tree.root.as_fd(), "file"));
    std::process::exit(if inside { escapes } else { 8 });
}

/// A confined process's end.
fn confined(role: &str) -> std::process::ExitStatus {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("file"), "").expect("a file");
    let trees = [(dir.path(), TreeFlags::empty())];
    Gofer::start(&Setup { role: role.to_owned(), trees: &trees, devices: false, open_files: None }).end()
}

fn each_kind_of_forbidden_call_kills() {
    assert!(confined("try:nothing").success(), "a process that tries nothing must survive");
    for (index, (call, _)) in FORBIDDEN.iter().enumerate() {
        let status = confined(&format!("try:{index}"));
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{call}: {status:?}");
    }
}

fn no_path_leads_to_the_host() {
    let status = confined("escape:");
    assert!(status.success(), "{status:?}");
}

fn only_the_owners_capabilities_are_left() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut gofer = Gofer::serving(&[(dir.path(), TreeFlags::empty())]);
    let client = gofer.client();
    let attached = client.attach(0).expect("the tree");
    let status = fs::read_to_string(format!("/proc/{}/status", gofer.pid())).expect("its status");
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).expect(name).trim().to_owned();
    // CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID.
    let owners = "000000000000001f";
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(field(set), owners, "{set}");
    }
    for set in ["CapInh:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(
        (field("NoNewPrivs:"), field("Seccomp:"), field("Umask:")),
        ("1".into(), "2".into(), "0000".into())
    );
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", gofer.pid())).expect("its mounts");
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert_eq!(fs::read_dir(format!("/proc/{}/root", gofer.pid())).expect("its root").count(), 0);
    drop((attached, client));
    gofer.end_well();
}

fn a_directory_left_open_is_refused() {
    assert_eq!(confined("leak:").code(), Some(1));
}

fn a_second_thread_is_refused() {
    assert_eq!(confined("threads:").code(), Some(1));
}

fn all_rows() -> Vec<filter::Row> {
    filter::lists(DeviceNodes::Allowed, true).concat()
}

fn every_row_of_the_filter_is_needed() {
    let status = serve_everything("serve");
    assert!(status.success(), "with all rows: {status:?}");
    for (index, row) in all_rows().iter().enumerate() {
        if row.rare.is_some() {
            continue;
        }
        let status = serve_everything(&format!("without:{index}"));
        assert_eq!(status.signal(), Some(libc::SIGSYS), "call {} ({}) is not needed", row.call, row.why);
    }
}

fn no_call_is_both_free_and_conditional() {
    let rows = all_rows();
    for row in &rows {
        let same = rows.iter().filter(|other| other.call == row.call);
        let free = same.clone().filter(|other| other.conditions.is_empty()).count();
        assert!(free == 0 || same.count() == 1, "call {}", row.call);
    }
}

/// A gofer's end after every request was made of it once.
fn serve_everything(role: &str) -> std::process::ExitStatus {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("file"), "content").expect("a file");
    std::os::unix::fs::symlink("file", dir.path().join("link")).expect("a link");
    let listener = std::os::unix::net::UnixListener::bind(dir.path().join("listening")).expect("a listener");
    let trees = [(dir.path(), TreeFlags::HOST_SOCKETS)];
    let mut gofer =
        Gofer::start(&Setup { role: role.to_owned(), trees: &trees, devices: true, open_files: None });
    let first = Raw { socket: gofer.take_socket() };
    let second = try_second_channel(&first);
    // One thread comes to its end before the process does.
    let threads =
        |gofer: &Gofer| fs::read_dir(format!("/proc/{}/task", gofer.pid())).map_or(0, Iterator::count);
    drop(try_second_channel(&first));
    while second.is_some() && !gofer.has_ended() && threads(&gofer) > 2 {
        std::thread::yield_now();
    }
    let client = Client::new(first.socket);
    // Whatever fails, fails because the gofer is gone.
    let _ = everything(&client);
    drop((client, listener));
    // With the first channel closed and another open, the main thread has to wait.
    let waits = |gofer: &Gofer| {
        let call = fs::read_to_string(format!("/proc/{}/syscall", gofer.pid())).unwrap_or_default();
        call.starts_with(&format!("{} ", libc::SYS_futex))
    };
    while second.is_some() && !gofer.has_ended() && !waits(&gofer) {
        std::thread::yield_now();
    }
    drop(second);
    gofer.end()
}

fn everything(client: &Client) -> Result<(), abi::errno::Errno> {
    let root = client.attach(0)?.root.handle;
    let device = wire::DeviceNumber { major: 1, minor: 3 };
    let attribute = XattrName::new(b"user.a")?;
    let none = OpenFlags::empty();
    let file = client.walk(&root, &[name("file")], Some((Access::Read, none)))?.steps.remove(0).handle;
    client.read_link(&client.walk(&root, &[name("link")], None)?.steps.remove(0).handle)?;
    let other = wire::CreateMode { mode: 0o4755, uid: 1, gid: 1 };
    client.create(&root, name("new"), Access::ReadWrite, none, other)?;
    client.mkdir(&root, name("dir"), mode(0o700))?;
    client.symlink(&root, name("symlink"), b"a", 0, 0)?;
    client.link(&file, &root, name("hard"))?;
    for (index, kind) in [
        SpecialFile::Regular,
        SpecialFile::Fifo,
        SpecialFile::Socket,
        SpecialFile::CharacterDevice(device),
        SpecialFile::BlockDevice(device),
    ]
    .into_iter()
    .enumerate()
    {
        client.mknod(&root, name(&index.to_string()), kind, mode(0o600))?;
    }
    client.rename(&root, name("hard"), &root, name("renamed"), RenameFlags::empty())?;
    client.unlink(&root, name("renamed"))?;
    client.rmdir(&root, name("dir"))?;
    let times = Some(SetTime::Now);
    client.set_attr(
        &file,
        SetAttr { size: Some(1), uid: Some(2), mode: Some(0o600), mtime: times, ..SetAttr::default() },
    )?;
    client.stat_fs(&file)?;
    client.stat_descriptor(&file)?;
    let one = [(name("file"), None)];
    client.follow(&root, &one, Some((Access::Read, none)), &one)?;
    client.watch(&root)?;
    client.unwatch(0)?;
    client.set_xattr(&file, attribute, b"value", XattrFlags::empty())?;
    client.get_xattr(&file, attribute)?;
    client.list_xattr(&file)?;
    client.remove_xattr(&file, attribute)?;
    client.read_dir(&root, 0, ReadDirFlags::ATTRIBUTES)?;
    let listening = client.walk(&root, &[name("listening")], None)?.steps.remove(0).handle;
    client.connect(&listening, SocketType::Stream)?;
    client.bind(&root, name("bound"), SocketType::Stream, mode(0o600))?;
    drop((root, file, listening));
    client.flush_clunks()
}
