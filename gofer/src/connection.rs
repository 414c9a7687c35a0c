//! The connection to one sentry: a thread for each channel, each receiving a request, doing it, and answering.
//!
//! A request that cannot be decoded is answered `EPROTO`; a message that is too long or brings a descriptor ends its
//! channel. When the last channel has ended, so has the gofer's work.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use abi::errno::{self, Errno};
use parking_lot::{Condvar, Mutex};
use rustix::fs::OFlags;
use tracing::warn;
use wire::{HandleId, Incoming, MAX_CHANNELS, MAX_CLUNKS, MAX_MESSAGE, Reply, Request, TreeFlags};

use crate::answer::{Answer, send};
use crate::follow::follow;
use crate::handles::{Budget, Handles, Node};
use crate::lookup::{attributes, link_target, reopen, walk};
use crate::nearness::Nearness;
use crate::watches::{self, Watches};
use crate::{DeviceNodes, SetupError, attributes, change, create, directory, host_sockets, open, xattrs};

/// A channel thread's stack. The deepest request keeps a batch of directory entries and two paths on it.
const STACK: usize = 128 * 1024;
/// What a channel keeps of its reply buffer between requests.
const KEPT_REPLY: usize = 8 * 1024;

/// A tree as it is served.
#[derive(Debug)]
pub struct ServedTree {
    /// A detached mount, or the source itself where no mount could be made; `O_PATH` either way.
    pub root: OwnedFd,
    pub flags: TreeFlags,
    /// Nobody else can mount anything in it.
    pub is_isolated: bool,
    pub watches: Watches,
}

/// What all channels share.
#[derive(Debug)]
pub struct Server {
    pub handles: Handles,
    pub budget: Arc<Budget>,
    pub trees: Vec<ServedTree>,
    /// Our own `/proc/self/fd`, through which held files are opened.
    pub descriptors: OwnedFd,
    pub device_nodes: DeviceNodes,
    pub channels: Channels,
}

/// How many channels are open.
#[derive(Debug, Default)]
pub struct Channels {
    open: Mutex<u32>,
    ended: Condvar,
}

/// Serves the first channel, and those it asks for, until all have ended.
pub fn run(server: Server, first: OwnedFd) -> Result<(), SetupError> {
    let server = Arc::new(server);
    *server.channels.open.lock() = 1;
    serve_channel(&server, &first);
    drop(first);
    let mut open = server.channels.open.lock();
    while *open > 0 {
        server.channels.ended.wait(&mut open);
    }
    Ok(())
}

/// Answers one channel's requests until it ends.
fn serve_channel(server: &Arc<Server>, socket: &OwnedFd) {
    // Zeroed by the allocator: pages no request has filled yet are not resident.
    let mut incoming = vec![0; MAX_MESSAGE];
    let mut outgoing = Vec::new();
    let mut clunks = Vec::with_capacity(MAX_CLUNKS);
    // Once a channel is enough: a hostile sentry must not fill the host's log.
    let mut has_complained = false;
    let mut nearness = Nearness::default();
    loop {
        let message = match wire::receive_request(socket.as_fd(), &mut incoming) {
            Incoming::Request(length) => incoming.get(..length).unwrap_or_default(),
            Incoming::Closed => break,
            Incoming::Hostile => {
                warn!(target: "gofer", "closing a channel: its message was too long or brought a descriptor");
                break;
            }
        };
        nearness.follow(wire::processor_of(message));
        clunks.clear();
        let answer = match Request::decode(message, &mut clunks) {
            Ok(request) => {
                clunks.iter().for_each(|handle| server.handles.remove(*handle));
                answer(server, &request)
            }
            Err(error) => {
                if !has_complained {
                    warn!(target: "gofer", %error, "refusing a message, and silently all further ones like it");
                    has_complained = true;
                }
                Err(error.into())
            }
        };
        if send(server, socket, answer, &mut outgoing).is_err() {
            break;
        }
        outgoing.shrink_to(KEPT_REPLY);
    }
    let mut open = server.channels.open.lock();
    *open = open.saturating_sub(1);
    server.channels.ended.notify_all();
}

/// Does what one request asks for.
fn answer(server: &Arc<Server>, request: &Request<'_>) -> Result<Answer, Errno> {
    let get = |handle: &HandleId| server.handles.get(*handle);
    let done = |()| Answer::plain(Reply::Done);
    let attr = |attr| Answer::plain(Reply::Attr(attr));
    let bytes = |bytes| Answer::plain(Reply::Bytes(bytes));
    match request {
        Request::Attach { tree } => attach(server, *tree),
        Request::Walk { from, names, open } => walk(server, &get(from)?, names, *open),
        Request::Follow { from, names, open, ahead } => follow(server, &get(from)?, names, *open, ahead),
        Request::Open { file, access, flags } => {
            open::open_regular(server, &*get(file)?, *access, *flags).map(Answer::descriptor)
        }
        Request::Create { dir, name, access, flags, mode } => {
            create::create(server, &*get(dir)?, *name, *access, *flags, mode)
        }
        Request::Mkdir { dir, name, mode } => create::mkdir(server, &*get(dir)?, *name, mode),
        Request::Symlink { dir, name, target, uid, gid } => {
            create::symlink(server, &*get(dir)?, *name, target, *uid, *gid)
        }
        Request::Link { file, dir, name } => create::link(server, &*get(file)?, &*get(dir)?, *name),
        Request::Mknod { dir, name, kind, mode } => create::mknod(server, &*get(dir)?, *name, *kind, mode),
        Request::Unlink { dir, name } => change::unlink(&*get(dir)?, *name).map(done),
        Request::Rmdir { dir, name } => change::rmdir(&*get(dir)?, *name).map(done),
        Request::Rename { from, old, to, new, flags } => {
            change::rename(&*get(from)?, *old, &*get(to)?, *new, *flags).map(done)
        }
        Request::SetAttr { file, changes } => change::set_attr(server, &*get(file)?, changes).map(attr),
        Request::ReadLink { file } => link_target(&*get(file)?).map(bytes),
        Request::StatFs { file } => {
            attributes::stat_fs(&*get(file)?).map(|stat| Answer::plain(Reply::FileSystem(stat)))
        }
        Request::GetAttr { file } => attributes(&*get(file)?).map(attr),
        Request::GetXattr { file, name } => xattrs::get(server, &*get(file)?, *name).map(bytes),
        Request::SetXattr { file, name, value, flags } => {
            xattrs::set(server, &*get(file)?, *name, value, *flags).map(done)
        }
        Request::ListXattr { file } => xattrs::list(server, &*get(file)?).map(bytes),
        Request::RemoveXattr { file, name } => xattrs::remove(server, &*get(file)?, *name).map(done),
        Request::ReadDir { dir, cookie, flags } => directory::read_dir(server, &*get(dir)?, *cookie, *flags),
        Request::Connect { socket, kind } => host_sockets::connect(&*get(socket)?, *kind),
        Request::Bind { dir, name, kind, mode } => {
            host_sockets::bind(server, &*get(dir)?, *name, *kind, mode)
        }
        Request::Watch { dir } => watches::watch(server, &*get(dir)?),
        Request::Unwatch { tree } => watches::unwatch(server, *tree).map(done),
        Request::StatDescriptor { file } => watches::stat_descriptor(server, &*get(file)?),
        Request::NewChannel => new_channel(server),
        Request::Clunk => Ok(done(())),
    }
}

fn attach(server: &Server, index: u32) -> Result<Answer, Errno> {
    let index = usize::try_from(index).map_err(|_| errno::ENOENT)?;
    let tree = server.trees.get(index).ok_or(errno::ENOENT)?;
    let permit = server.budget.take()?;
    // Anew each time, so that every handle is paid for.
    let descriptor = reopen(server, tree.root.as_fd(), OFlags::PATH)?;
    let attr = attributes(&descriptor)?;
    let node = Node::new(descriptor, &attr, index, tree.flags, permit);
    let handle = server.handles.insert(Arc::new(node));
    Ok(Answer::plain(Reply::Attached { handle, attr, flags: tree.flags }))
}

/// Opens a further channel; `EMFILE` when there are [`MAX_CHANNELS`], `EAGAIN` when the host has no thread for it.
fn new_channel(server: &Arc<Server>) -> Result<Answer, Errno> {
    {
        let mut open = server.channels.open.lock();
        if *open >= MAX_CHANNELS {
            return Err(errno::EMFILE);
        }
        *open += 1;
    }
    start_channel(server).map(Answer::descriptor).inspect_err(|_| {
        let mut open = server.channels.open.lock();
        *open = open.saturating_sub(1);
    })
}

fn start_channel(server: &Arc<Server>) -> Result<OwnedFd, Errno> {
    let (ours, theirs) = wire::socket_pair()?;
    let shared = Arc::clone(server);
    std::thread::Builder::new().stack_size(STACK).spawn(move || serve_channel(&shared, &ours))?;
    Ok(theirs)
}
