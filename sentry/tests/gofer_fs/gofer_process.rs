//! A gofer over a directory of our own, and short ways to use what it serves.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use gofer::{Confinement, DeviceNodes, GoferConfig, Tree, TreeFlags};
use sentry::fs::gofer::{GoferFs, GoferInode};
use sentry::time::Timers;
use sentry::vfs::{FileDescription, FileSystem, Inode, NamesFor, NewKind, NewNode, OpenRequest};
use tempfile::TempDir;
use wire::Client;

const TREE: &str = "GOFER_FS_TEST_TREE";
const FLAGS: &str = "GOFER_FS_TEST_FLAGS";

/// Becomes the gofer, if this process was started to be it.
pub fn serve_if_asked() {
    let Some(source) = std::env::var_os(TREE) else { return };
    let flags = std::env::var(FLAGS).expect("flags").parse().expect("a number");
    let flags = TreeFlags::from_bits(flags).expect("known flags");
    let config = GoferConfig {
        socket: std::io::stdin().as_fd().try_clone_to_owned().expect("a socket"),
        trees: vec![Tree { source: PathBuf::from(source), flags }],
        device_nodes: DeviceNodes::Forbidden,
        confinement: Confinement::Required,
    };
    gofer::serve(config).expect("a gofer");
    std::process::exit(0);
}

/// A tree, its gofer, and the file system over it.
pub struct Served {
    pub directory: TempDir,
    pub timers: Arc<Timers>,
    pub file_system: Arc<GoferFs>,
    pub root: Arc<dyn Inode>,
    gofer: Child,
}

impl Served {
    /// Serves a new directory that `fill` has filled.
    pub fn new(flags: TreeFlags, fill: impl FnOnce(&Path)) -> Self {
        Self::at(flags, "", fill)
    }

    /// Serves what is at a path in it.
    pub fn at(flags: TreeFlags, source: &str, fill: impl FnOnce(&Path)) -> Self {
        Self::by(Command::new(std::env::current_exe().expect("our path")), flags, source, fill)
    }

    /// Serves by a gofer that may have only so many files open.
    pub fn limited(files: u32, fill: impl FnOnce(&Path)) -> Self {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("ulimit -n {files}; exec \"$0\""));
        shell.arg(std::env::current_exe().expect("our path"));
        Self::by(shell, TreeFlags::empty(), "", fill)
    }

    fn by(mut gofer: Command, flags: TreeFlags, source: &str, fill: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fill(directory.path());
        let (ours, theirs) = wire::socket_pair().expect("sockets");
        let gofer = gofer
            .env(TREE, directory.path().join(source))
            .env(FLAGS, flags.bits().to_string())
            .stdin(Stdio::from(theirs))
            .spawn()
            .expect("a gofer");
        let file_system = GoferFs::attach(&Client::new(ours), 0).expect("the tree");
        let timers = Timers::new().expect("timers");
        file_system.watch_changes(&timers);
        let root = file_system.root();
        Self { directory, timers, file_system, root, gofer }
    }

    /// A host path in the tree.
    pub fn host(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// What a path stands for.
    pub fn find(&self, path: &str) -> Arc<dyn Inode> {
        find(&self.root, path)
    }

    /// The gofer's process.
    pub fn gofer_pid(&self) -> u32 {
        self.gofer.id()
    }

    /// Ends the gofer: what still works was cached.
    pub fn kill_gofer(&mut self) {
        self.gofer.kill().expect("our child");
        self.gofer.wait().expect("our child");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.gofer.kill();
        let _ = self.gofer.wait();
    }
}

pub fn find(root: &Arc<dyn Inode>, path: &str) -> Arc<dyn Inode> {
    path.split('/').fold(Arc::clone(root), |inode, name| {
        inode.lookup(name.as_bytes()).unwrap_or_else(|error| panic!("{name} of {path}: {error}"))
    })
}

/// Opens a file of the gofer's.
pub fn open(inode: &Arc<dyn Inode>, flags: i32) -> Arc<FileDescription> {
    let request = OpenRequest {
        read: flags & libc::O_ACCMODE != libc::O_WRONLY,
        write: flags & libc::O_ACCMODE != libc::O_RDONLY,
        flags: flags.cast_unsigned(),
    };
    let node = inode.as_any().downcast_ref::<GoferInode>().expect("an inode of the gofer's");
    let ops = node.open_for(request).expect("an open file");
    FileDescription::new(ops, Arc::clone(inode), None, flags.cast_unsigned())
}

pub fn read(file: &FileDescription) -> Vec<u8> {
    let mut buffer = [0; 256];
    let count = file.ops.read(0, &mut buffer, file).expect("bytes");
    buffer[..count].to_vec()
}

pub fn new(kind: NewKind<'_>) -> NewNode<'_> {
    NewNode { kind, permissions: 0o640, uid: 12, gid: 34 }
}

/// The names in a directory, sorted.
pub fn list(directory: &Arc<dyn Inode>) -> Vec<String> {
    let names = directory.names(NamesFor::Listing).expect("names");
    let mut names: Vec<_> =
        names.into_iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect();
    names.sort();
    names
}
