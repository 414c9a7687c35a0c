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
use wire::{
    Attr, HandleId, Incoming, MAX_CHANNELS, MAX_CLUNKS, MAX_MESSAGE, Reply, Request, TreeFlags, WalkStep,
};

use crate::handles::{Budget, Handles, Node};
use crate::lookup::{attributes, follow, link_target, reopen, walk};
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

/// A reply, and the descriptor that goes with it.
#[derive(Debug)]
pub struct Answer {
    pub reply: Reply,
    pub descriptor: Option<OwnedFd>,
}

impl Answer {
    /// A reply without a descriptor.
    pub fn plain(reply: Reply) -> Self {
        Self { reply, descriptor: None }
    }

    /// A descriptor and nothing else.
    pub fn descriptor(descriptor: OwnedFd) -> Self {
        Self { reply: Reply::Done, descriptor: Some(descriptor) }
    }

    /// A file, from now on held.
    pub fn file(server: &Server, node: Arc<Node>, attr: Attr) -> Self {
        Self::plain(Reply::File { handle: server.handles.insert(node), attr })
    }
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

/// Sends an answer. When its descriptor cannot be sent (`ETOOMANYREFS`: the sentry reads no replies), the request
/// fails and what it made us hold is let go.
fn send(
    server: &Server,
    socket: &OwnedFd,
    answer: Result<Answer, Errno>,
    outgoing: &mut Vec<u8>,
) -> Result<(), Errno> {
    let (reply, descriptor) = match answer {
        Ok(Answer { reply, descriptor }) => (reply, descriptor),
        Err(error) => (Reply::Failed(error), None),
    };
    reply.encode(outgoing);
    match wire::send(socket.as_fd(), outgoing, descriptor.as_ref().map(AsFd::as_fd)) {
        Err(error) if descriptor.is_some() && error != errno::EPIPE => {
            held_by(&reply).into_iter().for_each(|handle| server.handles.remove(handle));
            Reply::Failed(error).encode(outgoing);
            wire::send(socket.as_fd(), outgoing, None)
        }
        result => result,
    }
}

/// The handles a reply tells of.
fn held_by(reply: &Reply) -> Vec<HandleId> {
    match reply {
        Reply::File { handle, .. } | Reply::Attached { handle, .. } => vec![*handle],
        Reply::Walked { steps, .. } => steps.iter().map(|WalkStep { handle, .. }| *handle).collect(),
        Reply::Followed { steps, .. } => steps.iter().filter_map(|step| step.handle).collect(),
        _ => Vec::new(),
    }
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
        Request::Follow { from, names, open } => follow(server, &get(from)?, names, *open),
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
