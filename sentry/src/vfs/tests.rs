//! Paths, names and descriptors over tmpfs, with a task that runs nothing.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as WakeContext, Poll, Waker};

use abi::errno::*;
use abi::file_calls::RenameFlags;
use abi::files::OpenFlags;
use abi::signals::SIGCHLD;
use platform::SyscallRequest;
use platform::mock::{MEMORY_START, MockPlatform};

use super::*;
use crate::fs::tmpfs::Tmpfs;
use crate::kernel::{Kernel, SyscallTable};
use crate::memory::MemoryManager;
use crate::signals::{SignalHandlers, TaskSignals};
use crate::spec::TmpfsOptions;
use crate::task::{Credentials, INITIAL_MASK, Limits, Reply, Task, TaskParts, ThreadGroup, new_space};

struct NoCalls;

impl SyscallTable for NoCalls {
    fn call<'a>(&self, _task: &'a Arc<Task>, _request: &SyscallRequest) -> Reply<'a> {
        Reply::Now(Err(ENOSYS.into()))
    }
}

const CWD: i32 = libc::AT_FDCWD;
const ROOT: u64 = u64::MAX;

fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut WakeContext::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the future is not ready"),
    }
}

fn tmpfs() -> Arc<dyn FileSystem> {
    Tmpfs::new(&TmpfsOptions { mode: 0o755, ..TmpfsOptions::default() }, None)
}

/// A task of a fresh kernel whose root is an empty tmpfs.
fn task() -> Arc<Task> {
    let kernel = Kernel::new(Arc::new(MockPlatform::new()), &NoCalls, 16, None).unwrap();
    let namespace = MountNamespace::new(tmpfs(), MountFlags::empty());
    task_in(&kernel, namespace, ROOT, 0)
}

fn task_in(kernel: &Arc<Kernel>, namespace: Arc<MountNamespace>, capabilities: u64, uid: u32) -> Arc<Task> {
    let context = ready(new_space(kernel)).unwrap();
    let tid = kernel.processes.allocate(0, None).unwrap();
    let handlers = Arc::<SignalHandlers>::default();
    let group = ThreadGroup::new(tid, handlers, Limits::default(), SIGCHLD.number());
    let memory = MemoryManager::new(kernel.platform.layout(), 0);
    let mut credentials = Credentials::new(uid, uid);
    credentials.effective = capabilities;
    credentials.permitted = capabilities;
    let parts = TaskParts {
        tid,
        group,
        context,
        memory,
        files: FdTable::new(),
        fs: FsContext::new(namespace, 0o022),
        credentials: Arc::new(credentials),
        signals: TaskSignals::new(INITIAL_MASK),
        name: b"test".to_vec(),
    };
    Task::new(Arc::clone(kernel), parts)
}

/// The same tree for an ordinary user.
fn as_user(task: &Task, uid: u32) -> Arc<Task> {
    task_in(&task.kernel, Arc::clone(task.fs().namespace()), 0, uid)
}

fn create(task: &Task, path: &str) -> Arc<FileDescription> {
    open(task, path, libc::O_CREAT | libc::O_RDWR).unwrap()
}

fn open(task: &Task, path: &str, flags: i32) -> SysResult<Arc<FileDescription>> {
    task.open_path(CWD, path.as_bytes(), flags.cast_unsigned(), 0o644)
}

fn mkdir(task: &Task, path: &str) {
    task.make_directory(CWD, path.as_bytes(), 0o777).unwrap();
}

fn symlink(task: &Task, text: &str, path: &str) {
    task.make_symlink(text.as_bytes(), CWD, path.as_bytes()).unwrap();
}

fn follow(task: &Task, path: &str) -> SysResult<Location> {
    task.walk(CWD, path.as_bytes(), WalkFlags::FOLLOW)
}

fn path(task: &Task, location: &Location) -> String {
    String::from_utf8(location.path(&task.fs().root())).unwrap()
}

fn resolved(task: &Task, from: &str) -> SysResult<String> {
    follow(task, from).map(|location| path(task, &location))
}

fn rename(task: &Task, from: &str, to: &str) -> SysResult<()> {
    task.rename((CWD, from.as_bytes()), (CWD, to.as_bytes()), RenameFlags::empty())
}

fn written(task: &Task, file: &Arc<FileDescription>, bytes: &[u8]) -> SysResult<usize> {
    task.write_exact(MEMORY_START, bytes).unwrap();
    let buffers = UserBuffers::one(MEMORY_START, bytes.len());
    let mut write = Write::new(Arc::clone(file), buffers, At::Position, WriteMode::of(file))?;
    write.attempt(task).expect("would wait")
}

fn read(task: &Task, file: &Arc<FileDescription>, count: usize) -> Option<SysResult<Vec<u8>>> {
    let buffers = UserBuffers::one(MEMORY_START, count);
    let mut read = match Read::new(Arc::clone(file), buffers, At::Position, Blocking::AsDescription) {
        Ok(read) => read,
        Err(error) => return Some(Err(error)),
    };
    read.attempt(task).map(|result| {
        result.map(|count| {
            let mut bytes = vec![0; count];
            task.read_exact(MEMORY_START, &mut bytes).unwrap();
            bytes
        })
    })
}

#[test]
fn dots_and_slashes_lead_where_they_should() {
    let task = task();
    mkdir(&task, "/a");
    mkdir(&task, "/a/b");
    create(&task, "/a/b/f");
    for (from, to) in [
        ("/", "/"),
        ("//a///b//", "/a/b"),
        ("/a/./b/../b/f", "/a/b/f"),
        ("/../..", "/"),
        ("a/b/..", "/a"),
        (".", "/"),
    ] {
        assert_eq!(resolved(&task, from).as_deref(), Ok(to), "{from}");
    }
    assert_eq!(resolved(&task, ""), Err(ENOENT));
    assert_eq!(resolved(&task, "/a/x"), Err(ENOENT));
    assert_eq!(resolved(&task, "/a/x/y"), Err(ENOENT));
    assert_eq!(resolved(&task, "/a/b/f/"), Err(ENOTDIR));
    assert_eq!(resolved(&task, "/a/b/f/."), Err(ENOTDIR));
    assert_eq!(resolved(&task, &format!("/{}", "n".repeat(256))), Err(ENAMETOOLONG));
}

#[test]
fn symbolic_links_are_followed_in_place() {
    let task = task();
    mkdir(&task, "/d");
    mkdir(&task, "/d/e");
    create(&task, "/d/f");
    symlink(&task, "d", "/rel");
    symlink(&task, "/d/e", "/abs");
    symlink(&task, "../f", "/d/e/up");
    symlink(&task, "rel/e/up", "/chain");
    symlink(&task, "loop", "/loop");
    assert_eq!(resolved(&task, "/rel/f").as_deref(), Ok("/d/f"));
    assert_eq!(resolved(&task, "/abs/up").as_deref(), Ok("/d/f"));
    assert_eq!(resolved(&task, "/chain").as_deref(), Ok("/d/f"));
    assert_eq!(resolved(&task, "/chain/"), Err(ENOTDIR));
    assert_eq!(resolved(&task, "/loop"), Err(ELOOP));
    assert_eq!(resolved(&task, "/loop/x"), Err(ELOOP));
    let not_followed = task.walk(CWD, b"/rel", WalkFlags::empty()).unwrap();
    assert_eq!(not_followed.inode().kind(), FileKind::Symlink);
    let slash = task.walk(CWD, b"/rel/", WalkFlags::empty()).unwrap();
    assert_eq!(path(&task, &slash), "/d");
}

#[test]
fn forty_links_are_followed_and_no_more() {
    let task = task();
    create(&task, "/l0");
    for number in 1..=41 {
        symlink(&task, &format!("l{}", number - 1), &format!("/l{number}"));
    }
    assert_eq!(resolved(&task, "/l40").as_deref(), Ok("/l0"));
    assert_eq!(resolved(&task, "/l41"), Err(ELOOP));
}

#[test]
fn a_changed_root_confines() {
    let task = task();
    mkdir(&task, "/jail");
    mkdir(&task, "/jail/in");
    symlink(&task, "/in", "/jail/link");
    symlink(&task, "../../..", "/jail/in/out");
    let outside = follow(&task, "/").unwrap();
    task.fs().set_root(follow(&task, "/jail").unwrap());
    assert_eq!(resolved(&task, "/link").as_deref(), Ok("/in"));
    assert_eq!(resolved(&task, "/in/out").as_deref(), Ok("/"));
    assert_eq!(outside.path_from(&task.fs().root()).1, Reachable::No);
}

#[test]
fn openat2_stays_beneath() {
    let task = task();
    mkdir(&task, "/base");
    mkdir(&task, "/base/sub");
    create(&task, "/secret");
    create(&task, "/base/file");
    symlink(&task, "/base/file", "/base/abs");
    symlink(&task, "../file", "/base/sub/rel");
    symlink(&task, "../../secret", "/base/sub/esc");
    let base = open(&task, "/base", libc::O_PATH | libc::O_DIRECTORY).unwrap();
    let fd = task.files().install_from(0, base, FdFlags::empty(), 64).unwrap();
    let walk = |path: &str, flags| task.walk(fd, path.as_bytes(), WalkFlags::FOLLOW | flags).map(drop);
    assert_eq!(walk("sub/rel", WalkFlags::BENEATH), Ok(()));
    assert_eq!(walk("sub/..", WalkFlags::BENEATH), Ok(()));
    assert_eq!(walk("..", WalkFlags::BENEATH), Err(EXDEV));
    assert_eq!(walk("abs", WalkFlags::BENEATH), Err(EXDEV));
    assert_eq!(walk("/base", WalkFlags::BENEATH), Err(EXDEV));
    assert_eq!(walk("sub/esc", WalkFlags::BENEATH), Err(EXDEV));
    assert_eq!(walk("sub/esc", WalkFlags::IN_ROOT), Err(ENOENT));
    assert_eq!(walk("/sub/../../file", WalkFlags::IN_ROOT), Ok(()));
    assert_eq!(walk("abs", WalkFlags::NO_SYMLINKS), Err(ELOOP));
    assert_eq!(walk("file", WalkFlags::NO_SYMLINKS), Ok(()));
}

#[test]
fn open_obeys_its_flags() {
    let task = task();
    mkdir(&task, "/d");
    symlink(&task, "target", "/dangling");
    let (creat, excl, wronly) = (libc::O_CREAT, libc::O_EXCL, libc::O_WRONLY);
    let fails = |path: &str, flags| open(&task, path, flags).map(drop).unwrap_err();
    assert_eq!(fails("/none", libc::O_RDONLY), ENOENT);
    assert_eq!(fails("/d", wronly), EISDIR);
    assert_eq!(fails("/d", creat), EISDIR);
    assert_eq!(fails("/new/", creat | wronly), EISDIR);
    assert_eq!(fails("/dangling", creat | excl | wronly), EEXIST);
    assert_eq!(fails("/dangling", libc::O_NOFOLLOW), ELOOP);
    assert_eq!(fails("/d", creat | libc::O_DIRECTORY), EINVAL);
    assert!(open(&task, "/dangling", creat | wronly).is_ok());
    assert_eq!(resolved(&task, "/dangling").as_deref(), Ok("/target"));
    assert_eq!(fails("/target", creat | excl), EEXIST);
    assert_eq!(fails("/target", libc::O_DIRECTORY), ENOTDIR);
    assert_eq!(fails("/target/x", creat), ENOTDIR);
    assert_eq!(fails("/d", libc::O_TMPFILE), EINVAL);
    let unnamed = open(&task, "/d", libc::O_TMPFILE | libc::O_RDWR).unwrap();
    assert_eq!(unnamed.inode.attributes().unwrap().links, 0);
    let attributes = follow(&task, "/target").unwrap().inode().attributes().unwrap();
    assert_eq!(attributes.permissions, 0o644);
}

#[test]
fn truncation_needs_no_more_than_it_says() {
    let task = task();
    let file = create(&task, "/f");
    assert_eq!(written(&task, &file, b"hello"), Ok(5));
    assert_eq!(file.seek(0, libc::SEEK_END.cast_unsigned()), Ok(5));
    drop(open(&task, "/f", libc::O_WRONLY | libc::O_TRUNC).unwrap());
    assert_eq!(file.seek(0, libc::SEEK_END.cast_unsigned()), Ok(0));
}

#[test]
fn permissions_bind_users_and_not_root() {
    let root = task();
    mkdir(&root, "/closed");
    create(&root, "/closed/f");
    root.change_mode(Subject::Place(&follow(&root, "/closed").unwrap()), 0o700).unwrap();
    create(&root, "/readable");
    let user = as_user(&root, 1000);
    assert_eq!(resolved(&user, "/closed/f"), Err(EACCES));
    assert_eq!(resolved(&user, "/closed/none"), Err(EACCES));
    assert_eq!(open(&user, "/readable", libc::O_WRONLY).map(drop), Err(EACCES));
    assert!(open(&user, "/readable", libc::O_RDONLY).is_ok());
    assert_eq!(open(&user, "/new", libc::O_CREAT).map(drop), Err(EACCES));
    assert_eq!(user.remove_file(CWD, b"/readable"), Err(EACCES));
    let readable = follow(&user, "/readable").unwrap();
    assert_eq!(user.change_mode(Subject::Place(&readable), 0o777), Err(EPERM));
    assert_eq!(user.change_owner(Subject::Place(&readable), Some(1000), None), Err(EPERM));
    assert!(open(&root, "/closed/f", libc::O_RDWR).is_ok());
}

#[test]
fn sticky_directories_protect_what_others_own() {
    let root = task();
    mkdir(&root, "/tmp");
    root.change_mode(Subject::Place(&follow(&root, "/tmp").unwrap()), 0o1777).unwrap();
    let (alice, bob) = (as_user(&root, 1), as_user(&root, 2));
    create(&alice, "/tmp/alice");
    symlink(&alice, "alice", "/tmp/link");
    assert_eq!(bob.remove_file(CWD, b"/tmp/alice"), Err(EPERM));
    assert_eq!(rename(&bob, "/tmp/alice", "/tmp/bob"), Err(EPERM));
    // protected_symlinks, protected_hardlinks, protected_regular
    assert_eq!(resolved(&bob, "/tmp/link"), Err(EACCES));
    assert_eq!(open(&bob, "/tmp/alice", libc::O_CREAT).map(drop), Err(EACCES));
    let alices = follow(&bob, "/tmp/alice").unwrap();
    assert_eq!(bob.make_link(&alices, CWD, b"/tmp/hard"), Err(EPERM));
    assert_eq!(alice.remove_file(CWD, b"/tmp/alice"), Ok(()));
}

#[test]
fn set_group_id_directories_pass_on_their_group() {
    let root = task();
    mkdir(&root, "/g");
    let g = follow(&root, "/g").unwrap();
    root.change_owner(Subject::Place(&g), None, Some(7)).unwrap();
    root.change_mode(Subject::Place(&g), 0o2777).unwrap();
    let user = as_user(&root, 1000);
    let file = create(&user, "/g/f");
    assert_eq!(file.inode.attributes().unwrap().gid, 7);
    mkdir(&user, "/g/d");
    let directory = follow(&root, "/g/d").unwrap().inode().attributes().unwrap();
    assert_eq!((directory.gid, directory.permissions), (7, 0o2755));
}

#[test]
fn names_are_made_and_removed_in_linux_order_of_errors() {
    let task = task();
    mkdir(&task, "/d");
    create(&task, "/d/f");
    assert_eq!(task.make_directory(CWD, b"/d", 0o755), Err(EEXIST));
    assert_eq!(task.make_directory(CWD, b"/", 0o755), Err(EEXIST));
    assert_eq!(task.make_directory(CWD, b"/x/y", 0o755), Err(ENOENT));
    assert_eq!(task.make_directory(CWD, b"/d/f/x", 0o755), Err(ENOTDIR));
    assert_eq!(task.make_directory(CWD, b"/slash/", 0o755), Ok(()));
    assert_eq!(task.make_symlink(b"x", CWD, b"/l/"), Err(ENOENT));
    assert_eq!(task.make_symlink(b"", CWD, b"/l"), Err(ENOENT));
    assert_eq!(task.remove_directory(CWD, b"/d"), Err(ENOTEMPTY));
    assert_eq!(task.remove_directory(CWD, b"/d/."), Err(EINVAL));
    assert_eq!(task.remove_directory(CWD, b"/d/.."), Err(ENOTEMPTY));
    assert_eq!(task.remove_directory(CWD, b"/"), Err(EBUSY));
    assert_eq!(task.remove_directory(CWD, b"/d/f"), Err(ENOTDIR));
    assert_eq!(task.remove_file(CWD, b"/d"), Err(EISDIR));
    assert_eq!(task.remove_file(CWD, b"/d/f/"), Err(ENOTDIR));
    assert_eq!(task.remove_file(CWD, b"/d/none"), Err(ENOENT));
    assert_eq!(task.remove_file(CWD, b"/d/f"), Ok(()));
    assert_eq!(task.remove_directory(CWD, b"/d/"), Ok(()));
    assert_eq!(resolved(&task, "/d"), Err(ENOENT));
}

#[test]
fn a_removed_directory_takes_nothing_more() {
    let task = task();
    mkdir(&task, "/gone");
    let gone = follow(&task, "/gone").unwrap();
    task.fs().set_cwd(gone.clone());
    task.remove_directory(CWD, b"/gone").unwrap();
    assert!(gone.dentry.is_removed());
    assert_eq!(open(&task, "f", libc::O_CREAT).map(drop), Err(ENOENT));
    assert_eq!(resolved(&task, "..").as_deref(), Ok("/"));
}

#[test]
fn rename_moves_the_dentry_with_what_is_below() {
    let task = task();
    mkdir(&task, "/a");
    mkdir(&task, "/b");
    create(&task, "/a/f");
    let file = follow(&task, "/a/f").unwrap();
    rename(&task, "/a", "/b/c").unwrap();
    assert_eq!(path(&task, &file), "/b/c/f");
    assert_eq!(resolved(&task, "/a"), Err(ENOENT));
    assert_eq!(resolved(&task, "/b/c/../c/f").as_deref(), Ok("/b/c/f"));
    create(&task, "/b/g");
    rename(&task, "/b/g", "/b/c/f").unwrap();
    assert!(file.dentry.is_removed());
    assert!(!follow(&task, "/b/c/f").unwrap().is_same(&file));
}

#[test]
fn rename_refuses_what_makes_no_sense() {
    let task = task();
    mkdir(&task, "/a");
    mkdir(&task, "/a/b");
    create(&task, "/f");
    assert_eq!(rename(&task, "/a", "/a/b/c"), Err(EINVAL));
    assert_eq!(rename(&task, "/a/b", "/a"), Err(ENOTEMPTY));
    assert_eq!(rename(&task, "/a", "/f"), Err(ENOTDIR));
    assert_eq!(rename(&task, "/f", "/a"), Err(EISDIR));
    assert_eq!(rename(&task, "/f", "/g/"), Err(ENOTDIR));
    assert_eq!(rename(&task, "/none", "/g"), Err(ENOENT));
    assert_eq!(rename(&task, "/a/.", "/g"), Err(EBUSY));
    assert_eq!(rename(&task, "/f", "/f"), Ok(()));
    let both = |flags| task.rename((CWD, b"/f"), (CWD, b"/a"), flags);
    assert_eq!(both(RenameFlags::RENAME_NOREPLACE), Err(EEXIST));
    assert_eq!(both(RenameFlags::RENAME_EXCHANGE), Ok(()));
    assert_eq!(follow(&task, "/a").unwrap().inode().kind(), FileKind::Regular);
    assert_eq!(resolved(&task, "/f/b").as_deref(), Ok("/f/b"));
}

#[test]
fn links_share_an_inode_and_never_a_directory() {
    let task = task();
    create(&task, "/f");
    mkdir(&task, "/d");
    let file = follow(&task, "/f").unwrap();
    task.make_link(&file, CWD, b"/d/g").unwrap();
    assert!(Arc::ptr_eq(follow(&task, "/d/g").unwrap().inode(), file.inode()));
    assert_eq!(file.inode().attributes().unwrap().links, 2);
    assert_eq!(task.make_link(&file, CWD, b"/d/g"), Err(EEXIST));
    let directory = follow(&task, "/d").unwrap();
    assert_eq!(task.make_link(&directory, CWD, b"/e"), Err(EPERM));
}

#[test]
fn mounts_cover_and_uncover() {
    let task = task();
    mkdir(&task, "/m");
    create(&task, "/m/below");
    let namespace = Arc::clone(task.fs().namespace());
    let mount = namespace.mount(tmpfs(), follow(&task, "/m").unwrap(), MountFlags::RDONLY).unwrap();
    assert_eq!(resolved(&task, "/m/below"), Err(ENOENT));
    assert_eq!(resolved(&task, "/m/..").as_deref(), Ok("/"));
    assert_eq!(resolved(&task, "/m").as_deref(), Ok("/m"));
    assert_eq!(open(&task, "/m/f", libc::O_CREAT | libc::O_WRONLY).map(drop), Err(EROFS));
    assert_eq!(task.make_directory(CWD, b"/m/d", 0o755), Err(EROFS));
    assert_eq!(task.remove_directory(CWD, b"/m"), Err(EBUSY));
    assert_eq!(rename(&task, "/m", "/n"), Err(EBUSY));
    mount.set_flags(MountFlags::empty());
    let held = create(&task, "/m/f");
    assert_eq!(rename(&task, "/m/f", "/f"), Err(EXDEV));
    drop(mount);
    let cache = &task.kernel.vfs.dentries;
    let unmount = |how| namespace.unmount(&follow(&task, "/m").unwrap(), how, cache);
    assert_eq!(unmount(Unmount::IfUnused), Err(EBUSY));
    drop(held);
    assert_eq!(unmount(Unmount::IfUnused), Ok(()));
    assert_eq!(resolved(&task, "/m/below").as_deref(), Ok("/m/below"));
    assert_eq!(unmount(Unmount::IfUnused), Err(EINVAL));
}

#[test]
fn bind_mounts_show_one_tree_twice() {
    let task = task();
    mkdir(&task, "/a");
    mkdir(&task, "/a/sub");
    mkdir(&task, "/b");
    let namespace = Arc::clone(task.fs().namespace());
    namespace.mount(tmpfs(), follow(&task, "/a/sub").unwrap(), MountFlags::empty()).unwrap();
    create(&task, "/a/sub/deep");
    let source = follow(&task, "/a").unwrap();
    namespace.bind(&source, follow(&task, "/b").unwrap(), Recursive::Yes).unwrap();
    create(&task, "/b/f");
    assert_eq!(resolved(&task, "/a/f").as_deref(), Ok("/a/f"));
    assert_eq!(resolved(&task, "/b/sub/deep").as_deref(), Ok("/b/sub/deep"));
    assert_eq!(rename(&task, "/a/f", "/b/g"), Err(EXDEV));
    let info = namespace.info(&task.fs().root());
    let points: Vec<_> = info.iter().map(|line| String::from_utf8_lossy(&line.point).into_owned()).collect();
    assert_eq!(points, ["/", "/a/sub", "/b", "/b/sub"]);
    assert_eq!(info.get(2).map(|line| &*line.root), Some(&b"/a"[..]));
}

#[test]
fn a_missing_name_is_found_once_it_is_made() {
    let task = task();
    assert_eq!(resolved(&task, "/n"), Err(ENOENT));
    assert_eq!(resolved(&task, "/n"), Err(ENOENT));
    create(&task, "/n");
    assert!(follow(&task, "/n").is_ok());
    task.remove_file(CWD, b"/n").unwrap();
    assert_eq!(resolved(&task, "/n"), Err(ENOENT));
    create(&task, "/o");
    rename(&task, "/o", "/n").unwrap();
    assert!(follow(&task, "/n").is_ok());
    assert_eq!(resolved(&task, "/o"), Err(ENOENT));
}

#[test]
fn the_cache_keeps_few_dentries_and_no_removed_inode() {
    let cache = DentryCache::with_capacities([2, 2], 2);
    let root = Dentry::new_root(tmpfs().root());
    let node = NewNode { kind: NewKind::Regular, permissions: 0o644, uid: 0, gid: 0 };
    let names = [&b"a"[..], b"b", b"c"];
    for name in names {
        root.inode().create(name, &node).unwrap();
    }
    let find = |name: &[u8]| root.lookup(name, &cache, MayAsk::Yes).unwrap();
    let kept = names.map(|name| Arc::downgrade(&find(name)));
    let kept = kept.map(|dentry| dentry.strong_count());
    assert_eq!((kept.iter().sum::<usize>(), kept[2]), (2, 1));
    let victim = find(b"c");
    let inode = Arc::downgrade(victim.inode());
    root.inode().unlink(b"c", victim.inode()).unwrap();
    root.remove_child(&victim, &cache);
    drop(victim);
    assert_eq!(inode.strong_count(), 0);
}

#[test]
fn few_missing_names_are_remembered_and_none_wrongly() {
    let cache = DentryCache::with_capacities([2, 2], 2);
    let root = Dentry::new_root(tmpfs().root());
    let known = |name: &[u8]| root.lookup(name, &cache, MayAsk::No).err();
    for name in [&b"a"[..], b"b", b"c"] {
        assert_eq!(root.lookup(name, &cache, MayAsk::Yes).err(), Some(ENOENT));
    }
    assert_eq!((known(b"a"), known(b"b"), known(b"c")), (Some(EAGAIN), Some(ENOENT), Some(ENOENT)));
    let node = NewNode { kind: NewKind::Regular, permissions: 0o644, uid: 0, gid: 0 };
    let inode = root.inode().create(b"b", &node).unwrap();
    let bound = root.bind(b"b", inode, &cache);
    assert!(root.lookup(b"b", &cache, MayAsk::No).is_ok_and(|found| Arc::ptr_eq(&found, &bound)));
}

#[test]
fn trees_deeper_than_the_stack_are_dropped() {
    let task = task();
    let inode = Arc::clone(follow(&task, "/").unwrap().inode());
    let cache = DentryCache::with_capacities([1, 1], 1);
    let mut deepest = Dentry::new_root(Arc::clone(&inode));
    for _ in 0..200_000 {
        deepest = deepest.bind(b"d", Arc::clone(&inode), &cache);
    }
    drop(deepest);
    drop(cache);
}

#[test]
fn transfers_move_the_position_and_respect_modes() {
    let task = task();
    let file = create(&task, "/f");
    assert_eq!(written(&task, &file, b"hello world"), Ok(11));
    file.seek(6, 0).unwrap();
    assert_eq!(read(&task, &file, 64), Some(Ok(b"world".to_vec())));
    assert_eq!(read(&task, &file, 64), Some(Ok(Vec::new())));
    let appending = open(&task, "/f", libc::O_WRONLY | libc::O_APPEND).unwrap();
    assert_eq!(written(&task, &appending, b"!"), Ok(1));
    assert_eq!(*appending.position.lock(), 12);
    assert_eq!(read(&task, &appending, 1), Some(Err(EBADF)));
    let directory = open(&task, "/", libc::O_RDONLY).unwrap();
    assert_eq!(read(&task, &directory, 1), Some(Err(EISDIR)));
    // Larger than one piece: several steps, one result.
    let big = vec![7; 600 << 10];
    file.seek(0, 0).unwrap();
    assert_eq!(written(&task, &file, &big), Ok(big.len()));
    file.seek(0, 0).unwrap();
    assert_eq!(read(&task, &file, 900 << 10), Some(Ok(big)));
}

#[test]
fn unreadable_memory_is_a_fault_that_moves_nothing() {
    let task = task();
    let file = create(&task, "/f");
    assert_eq!(written(&task, &file, b"hello"), Ok(5));
    file.seek(0, 0).unwrap();
    let bad = UserBuffers::one(8, 5);
    let mut read = Read::new(Arc::clone(&file), bad.clone(), At::Position, Blocking::AsDescription).unwrap();
    assert_eq!(read.attempt(&task), Some(Err(EFAULT)));
    assert_eq!(*file.position.lock(), 0);
    let mut write = Write::new(Arc::clone(&file), bad, At::Position, WriteMode::of(&file)).unwrap();
    assert_eq!(write.attempt(&task), Some(Err(EFAULT)));
    // A second buffer that cannot be read ends the write after the first.
    task.write_exact(MEMORY_START, b"abc").unwrap();
    let mixed = UserBuffers::several([(MEMORY_START, 3), (8, 3)]).unwrap();
    let mut write = Write::new(Arc::clone(&file), mixed, At::Position, WriteMode::of(&file)).unwrap();
    assert_eq!(write.attempt(&task), Some(Ok(3)));
}

#[test]
fn fifos_wait_for_the_other_end() {
    let task = task();
    task.make_node(CWD, b"/p", 0o010_644, DeviceNumber::default()).unwrap();
    let nonblock = libc::O_NONBLOCK;
    assert_eq!(open(&task, "/p", libc::O_WRONLY | nonblock).map(drop), Err(ENXIO));
    let how = OpenHow::lenient(OpenFlags::empty(), 0).unwrap();
    let Opening::Waiting(reader, came) = task.begin_opening(CWD, b"/p", how).unwrap() else {
        panic!("nobody writes yet");
    };
    assert!(!came());
    let writer = open(&task, "/p", libc::O_WRONLY | nonblock).unwrap();
    assert!(came());
    assert_eq!(read(&task, &reader, 5), None);
    assert_eq!(written(&task, &writer, b"hello"), Ok(5));
    assert_eq!(read(&task, &reader, 5), Some(Ok(b"hello".to_vec())));
    drop(writer);
    assert_eq!(read(&task, &reader, 5), Some(Ok(Vec::new())));
}

#[test]
fn sockets_and_unknown_devices_cannot_be_opened() {
    let task = task();
    let device = DeviceNumber { major: 240, minor: 7 };
    task.make_node(CWD, b"/s", 0o140_644, DeviceNumber::default()).unwrap();
    task.make_node(CWD, b"/c", 0o020_644, device).unwrap();
    assert_eq!(open(&task, "/s", libc::O_RDWR).map(drop), Err(ENXIO));
    assert_eq!(open(&task, "/c", libc::O_RDWR).map(drop), Err(ENXIO));
    assert!(open(&task, "/s", libc::O_PATH).is_ok());
    let user = as_user(&task, 1);
    assert_eq!(user.make_node(CWD, b"/x", 0o020_644, device).map(drop), Err(EACCES));
}

#[test]
fn what_is_executed_is_not_written_and_the_other_way_round() {
    let task = task();
    let writer = create(&task, "/prog");
    task.change_mode(Subject::File(&writer), 0o755).unwrap();
    assert_eq!(task.open_executable(CWD, b"/prog", 0).map(drop), Err(ETXTBSY));
    drop(writer);
    let running = task.open_executable(CWD, b"/prog", 0).unwrap();
    assert_eq!(open(&task, "/prog", libc::O_WRONLY).map(drop), Err(ETXTBSY));
    drop(running);
    assert!(open(&task, "/prog", libc::O_WRONLY).is_ok());
}

#[test]
fn the_lowest_free_descriptor_is_given() {
    let task = task();
    let files = task.files();
    let file = create(&task, "/f");
    let install = |from| files.install_from(from, Arc::clone(&file), FdFlags::empty(), 8);
    for expected in 0..4 {
        assert_eq!(install(0), Ok(expected));
    }
    files.remove(1).unwrap();
    files.remove(2).unwrap();
    assert_eq!(install(2), Ok(2));
    assert_eq!(install(0), Ok(1));
    assert_eq!(install(6), Ok(6));
    assert_eq!(install(8), Err(EINVAL));
    assert_eq!(files.list(), [0, 1, 2, 3, 6]);
    assert_eq!(files.remove(5).map(drop), Err(EBADF));
    for expected in [4, 5, 7] {
        assert!(files.has_room(8));
        assert_eq!(install(0), Ok(expected));
    }
    assert!(!files.has_room(8));
    assert_eq!(install(0), Err(EMFILE));
    assert_eq!(files.install_at(8, Arc::clone(&file), FdFlags::empty(), 8).map(drop), Err(EBADF));
}

#[test]
fn closing_any_descriptor_releases_the_tables_record_locks() {
    let task = task();
    let first = create(&task, "/f");
    let second = create(&task, "/f");
    let files = task.files();
    let number = files.install_from(0, second, FdFlags::empty(), 8).unwrap();
    let lock = RangeLock {
        owner: RangeOwner::Table(files.id()),
        start: 0,
        last: 9,
        kind: LockKind::Exclusive,
        pid: 1,
    };
    ready(task.lock_range(&first, lock, LockWait::No)).unwrap();
    let other = RangeLock { owner: RangeOwner::Table(files.id() + 1000), ..lock };
    assert!(first.inode.attachments().locks().conflict(&other).is_some());
    files.remove(number).unwrap();
    assert!(first.inode.attachments().locks().conflict(&other).is_none());
    let whole = create(&task, "/f");
    ready(task.lock_whole(&whole, LockKind::Exclusive, LockWait::No)).unwrap();
    assert!(ready(task.lock_whole(&first, LockKind::Shared, LockWait::No)).is_err());
    drop(whole);
    ready(task.lock_whole(&first, LockKind::Shared, LockWait::No)).unwrap();
}
