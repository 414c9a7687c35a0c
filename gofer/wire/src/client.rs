//! The sentry's side: [`Client`] makes blocking calls from any thread, [`Handle`] owns a file the gofer holds.
//!
//! A client has up to [`MAX_CHANNELS`] channels. A call has a channel to itself until its reply has come; whoever
//! takes the last free one opens another first (`NewChannel`), so that a call the host blocks never blocks the next
//! one. Only when all are taken does a call wait. A call prefers the channel last used on its processor: the gofer's
//! thread follows its callers there, because waking a thread on another, idle processor costs many times the work that
//! most calls ask for. Lock order: `pool` and `clunks` are leaves, never held together,
//! never across a host call.
//!
//! Errors are the host's, and besides: `EIO` when the gofer is gone, `EPROTO` when it refuses the message, `EXDEV`
//! when a handle belongs to another client, `EMFILE` when the gofer holds as many handles as it can (drop some).

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::errno::{self, Errno};
use parking_lot::{Condvar, Mutex};

use crate::attr::{Attr, FileSystemStat, SetAttr};
use crate::channel::{Channel, processor};
use crate::name::{Name, XattrName};
use crate::reply::{DirEntry, MISMATCH, OpenOutcome, Reply, TreeFlags, WalkStop};
use crate::request::{HandleId, Request, append_clunks, set_processor};
use crate::terms::{
    Access, CreateMode, OpenFlags, ReadDirFlags, RenameFlags, SocketType, SpecialFile, XattrFlags,
};
use crate::{MAX_CHANNELS, MAX_CLUNKS, MAX_LINK, MAX_MESSAGE, MAX_WALK, MAX_XATTR};

/// A connection to a gofer. Clones share it.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    pool: Mutex<Pool>,
    /// Notified when a channel becomes free or the connection dies.
    available: Condvar,
    /// Handles to forget, to ride on the next request.
    clunks: Mutex<Vec<HandleId>>,
}

struct Pool {
    free: Vec<Channel>,
    /// Channels that exist or are being opened.
    opened: u32,
    /// The gofer is gone: every call fails.
    dead: bool,
}

/// A file the gofer holds for us. Dropping it tells the gofer so with some later request.
pub struct Handle {
    id: HandleId,
    shared: Arc<Shared>,
}

/// A file and its attributes.
#[derive(Debug)]
pub struct Node {
    pub handle: Handle,
    pub attr: Attr,
}

/// A tree's root, and what the gofer was told of the tree.
#[derive(Debug)]
pub struct Attached {
    pub root: Node,
    pub flags: TreeFlags,
}

/// A new file, and a descriptor open on it.
#[derive(Debug)]
pub struct Created {
    pub node: Node,
    pub descriptor: OwnedFd,
}

/// Where a walk led.
#[derive(Debug)]
pub struct Walked {
    /// The components reached, in order.
    pub steps: Vec<Node>,
    /// Why it ended there.
    pub stop: WalkStop,
    /// The last component's descriptor, if asked for.
    pub opened: Opened,
}

/// What became of a walk's wish to open its last component.
#[derive(Debug)]
pub enum Opened {
    /// Not asked for, not reached, or no regular file.
    None,
    Descriptor(OwnedFd),
    Failed(Errno),
}

impl Opened {
    pub(crate) fn from_reply(outcome: OpenOutcome, descriptor: Option<OwnedFd>) -> Self {
        match (outcome, descriptor) {
            (OpenOutcome::None, _) => Self::None,
            (OpenOutcome::Opened, Some(descriptor)) => Self::Descriptor(descriptor),
            (OpenOutcome::Opened, None) => Self::Failed(MISMATCH),
            (OpenOutcome::Failed(error), _) => Self::Failed(error),
        }
    }
}

impl Client {
    /// A client over one end of [`socket_pair`](crate::socket_pair).
    pub fn new(socket: OwnedFd) -> Self {
        let pool = Pool { free: vec![Channel::new(socket)], opened: 1, dead: false };
        Self {
            shared: Arc::new(Shared {
                pool: Mutex::new(pool),
                available: Condvar::new(),
                clunks: Mutex::new(Vec::new()),
            }),
        }
    }

    /// The root of the tree with this index; a directory, or a file where a single file was mounted.
    pub fn attach(&self, tree: u32) -> Result<Attached, Errno> {
        match self.call(&Request::Attach { tree })? {
            (Reply::Attached { handle, attr, flags }, _) => {
                Ok(Attached { root: self.hold(handle, attr), flags })
            }
            _ => Err(MISMATCH),
        }
    }

    /// Looks up at most [`MAX_WALK`] components (`EINVAL` for more) from a directory. A symbolic link ends the walk
    /// and yields its target. With `open`, a last component that is a regular file is opened too (without `TRUNC`,
    /// `EINVAL`: a walk changes nothing).
    pub fn walk(
        &self,
        from: &Handle,
        names: &[Name<'_>],
        open: Option<(Access, OpenFlags)>,
    ) -> Result<Walked, Errno> {
        if names.len() > MAX_WALK {
            return Err(errno::EINVAL);
        }
        let request = Request::Walk { from: self.id(from)?, names: names.to_vec(), open };
        let (Reply::Walked { steps, stop, open }, descriptor) = self.call(&request)? else {
            return Err(MISMATCH);
        };
        let steps = steps.iter().map(|step| self.hold(step.handle, step.attr)).collect();
        Ok(Walked { steps, stop, opened: Opened::from_reply(open, descriptor) })
    }

    /// Opens a regular file. `EISDIR` for a directory (see [`read_dir`](Self::read_dir)), `ELOOP` for a symbolic
    /// link, `ENXIO` for anything else.
    pub fn open(&self, file: &Handle, access: Access, flags: OpenFlags) -> Result<OwnedFd, Errno> {
        self.descriptor(&Request::Open { file: self.id(file)?, access, flags })
    }

    /// Creates a regular file and opens it; `EEXIST` if the name is taken, by whatever (`O_EXCL` is implied).
    pub fn create(
        &self,
        dir: &Handle,
        name: Name<'_>,
        access: Access,
        flags: OpenFlags,
        mode: CreateMode,
    ) -> Result<Created, Errno> {
        self.created(&Request::Create { dir: self.id(dir)?, name, access, flags, mode })
    }

    /// `mkdir(2)`.
    pub fn mkdir(&self, dir: &Handle, name: Name<'_>, mode: CreateMode) -> Result<Node, Errno> {
        self.node(&Request::Mkdir { dir: self.id(dir)?, name, mode })
    }

    /// `symlink(2)`; the target has 1 to [`MAX_LINK`] bytes and no NUL.
    pub fn symlink(
        &self,
        dir: &Handle,
        name: Name<'_>,
        target: &[u8],
        uid: u32,
        gid: u32,
    ) -> Result<Node, Errno> {
        if target.is_empty() {
            return Err(errno::ENOENT);
        }
        if target.len() > MAX_LINK {
            return Err(errno::ENAMETOOLONG);
        }
        self.node(&Request::Symlink { dir: self.id(dir)?, name, target, uid, gid })
    }

    /// `link(2)`: another name for `file`, which may be a symbolic link itself.
    pub fn link(&self, file: &Handle, dir: &Handle, name: Name<'_>) -> Result<Node, Errno> {
        self.node(&Request::Link { file: self.id(file)?, dir: self.id(dir)?, name })
    }

    /// `mknod(2)`; `EPERM` for device nodes where the gofer was not told to allow them.
    pub fn mknod(
        &self,
        dir: &Handle,
        name: Name<'_>,
        kind: SpecialFile,
        mode: CreateMode,
    ) -> Result<Node, Errno> {
        self.node(&Request::Mknod { dir: self.id(dir)?, name, kind, mode })
    }

    /// `unlink(2)`.
    pub fn unlink(&self, dir: &Handle, name: Name<'_>) -> Result<(), Errno> {
        self.done(&Request::Unlink { dir: self.id(dir)?, name })
    }

    /// `rmdir(2)`.
    pub fn rmdir(&self, dir: &Handle, name: Name<'_>) -> Result<(), Errno> {
        self.done(&Request::Rmdir { dir: self.id(dir)?, name })
    }

    /// `renameat2(2)`; `EXDEV` from tree to tree.
    pub fn rename(
        &self,
        from: &Handle,
        old: Name<'_>,
        to: &Handle,
        new: Name<'_>,
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        self.done(&Request::Rename { from: self.id(from)?, old, to: self.id(to)?, new, flags })
    }

    /// Changes attributes and returns them all as they are then.
    pub fn set_attr(&self, file: &Handle, changes: SetAttr) -> Result<Attr, Errno> {
        self.attr(&Request::SetAttr { file: self.id(file)?, changes })
    }

    /// A symbolic link's target; `EINVAL` for anything else.
    pub fn read_link(&self, file: &Handle) -> Result<Vec<u8>, Errno> {
        self.bytes(&Request::ReadLink { file: self.id(file)? })
    }

    /// `statfs(2)`.
    pub fn stat_fs(&self, file: &Handle) -> Result<FileSystemStat, Errno> {
        match self.call(&Request::StatFs { file: self.id(file)? })? {
            (Reply::FileSystem(stat), _) => Ok(stat),
            _ => Err(MISMATCH),
        }
    }

    /// The attributes now.
    pub fn get_attr(&self, file: &Handle) -> Result<Attr, Errno> {
        self.attr(&Request::GetAttr { file: self.id(file)? })
    }

    /// An extended attribute's value; `ENODATA` if there is none, `E2BIG` if it exceeds [`MAX_XATTR`].
    pub fn get_xattr(&self, file: &Handle, name: XattrName<'_>) -> Result<Vec<u8>, Errno> {
        self.bytes(&Request::GetXattr { file: self.id(file)?, name })
    }

    /// `setxattr(2)`; `E2BIG` beyond [`MAX_XATTR`].
    pub fn set_xattr(
        &self,
        file: &Handle,
        name: XattrName<'_>,
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<(), Errno> {
        if value.len() > MAX_XATTR {
            return Err(errno::E2BIG);
        }
        self.done(&Request::SetXattr { file: self.id(file)?, name, value, flags })
    }

    /// The names of all extended attributes that may be read, each ended by NUL, as `listxattr(2)` has them.
    pub fn list_xattr(&self, file: &Handle) -> Result<Vec<u8>, Errno> {
        self.bytes(&Request::ListXattr { file: self.id(file)? })
    }

    /// `removexattr(2)`.
    pub fn remove_xattr(&self, file: &Handle, name: XattrName<'_>) -> Result<(), Errno> {
        self.done(&Request::RemoveXattr { file: self.id(file)?, name })
    }

    /// Entries of a directory after `cookie` (0 for the first), as many as fit in a message, and whether that was
    /// the end. The next call's cookie is the last entry's.
    pub fn read_dir(
        &self,
        dir: &Handle,
        cookie: u64,
        flags: ReadDirFlags,
    ) -> Result<(Vec<DirEntry>, bool), Errno> {
        match self.call(&Request::ReadDir { dir: self.id(dir)?, cookie, flags })? {
            (Reply::Entries { entries, end }, _) => Ok((entries, end)),
            _ => Err(MISMATCH),
        }
    }

    /// A new host socket connected to the one bound at `socket`; `ECONNREFUSED` where the tree forbids it, as if
    /// nobody listened.
    pub fn connect(&self, socket: &Handle, kind: SocketType) -> Result<OwnedFd, Errno> {
        self.descriptor(&Request::Connect { socket: self.id(socket)?, kind })
    }

    /// A new host socket bound to `name`, which must be free; `EPERM` where the tree forbids it.
    pub fn bind(
        &self,
        dir: &Handle,
        name: Name<'_>,
        kind: SocketType,
        mode: CreateMode,
    ) -> Result<Created, Errno> {
        self.created(&Request::Bind { dir: self.id(dir)?, name, kind, mode })
    }

    /// Sends every queued clunk now.
    pub fn flush_clunks(&self) -> Result<(), Errno> {
        while !self.shared.clunks.lock().is_empty() {
            self.done(&Request::Clunk)?;
        }
        Ok(())
    }

    pub(crate) fn id(&self, handle: &Handle) -> Result<HandleId, Errno> {
        if Arc::ptr_eq(&self.shared, &handle.shared) { Ok(handle.id) } else { Err(errno::EXDEV) }
    }

    pub(crate) fn hold(&self, id: HandleId, attr: Attr) -> Node {
        Node { handle: Handle { id, shared: Arc::clone(&self.shared) }, attr }
    }

    pub(crate) fn done(&self, request: &Request<'_>) -> Result<(), Errno> {
        match self.call(request)? {
            (Reply::Done, _) => Ok(()),
            _ => Err(MISMATCH),
        }
    }

    fn node(&self, request: &Request<'_>) -> Result<Node, Errno> {
        match self.call(request)? {
            (Reply::File { handle, attr }, _) => Ok(self.hold(handle, attr)),
            _ => Err(MISMATCH),
        }
    }

    fn created(&self, request: &Request<'_>) -> Result<Created, Errno> {
        match self.call(request)? {
            (Reply::File { handle, attr }, Some(descriptor)) => {
                Ok(Created { node: self.hold(handle, attr), descriptor })
            }
            _ => Err(MISMATCH),
        }
    }

    fn attr(&self, request: &Request<'_>) -> Result<Attr, Errno> {
        match self.call(request)? {
            (Reply::Attr(attr), _) => Ok(attr),
            _ => Err(MISMATCH),
        }
    }

    fn bytes(&self, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
        match self.call(request)? {
            (Reply::Bytes(bytes), _) => Ok(bytes),
            _ => Err(MISMATCH),
        }
    }

    pub(crate) fn descriptor(&self, request: &Request<'_>) -> Result<OwnedFd, Errno> {
        match self.call(request)? {
            (Reply::Done, Some(descriptor)) => Ok(descriptor),
            _ => Err(MISMATCH),
        }
    }

    /// One request and its reply, with the descriptor beside it; more than one is a mistake.
    pub(crate) fn call(&self, request: &Request<'_>) -> Result<(Reply, Option<OwnedFd>), Errno> {
        let (reply, mut descriptors) = self.call_for_many(request)?;
        let descriptor = descriptors.pop();
        if descriptors.is_empty() { Ok((reply, descriptor)) } else { Err(MISMATCH) }
    }

    /// One request and its reply, with all descriptors beside it.
    pub(crate) fn call_for_many(&self, request: &Request<'_>) -> Result<(Reply, Vec<OwnedFd>), Errno> {
        let mut channel = self.shared.take()?;
        let answer = self.shared.exchange(&mut channel, request);
        match answer {
            Ok(Answer { reply: Reply::Failed(error), .. }) => {
                self.shared.put_back(channel);
                Err(error)
            }
            Ok(Answer { reply, descriptors }) => {
                self.shared.put_back(channel);
                Ok((reply, descriptors))
            }
            Err(error) => {
                self.shared.die();
                Err(error)
            }
        }
    }
}

impl Pool {
    /// A free channel: the one last used on this processor, or else one that has not been used yet, or any.
    fn take(&mut self, processor: Option<u16>) -> Option<Channel> {
        let find = |wanted| self.free.iter().position(|channel| channel.processor == wanted);
        let index = find(processor).or_else(|| find(None)).or_else(|| self.free.len().checked_sub(1))?;
        Some(self.free.swap_remove(index))
    }
}

/// A decoded reply.
struct Answer {
    reply: Reply,
    descriptors: Vec<OwnedFd>,
}

impl Shared {
    /// A channel for one call. Whoever takes the last one opens the next.
    fn take(&self) -> Result<Channel, Errno> {
        let mut pool = self.pool.lock();
        loop {
            if pool.dead {
                return Err(errno::EIO);
            }
            if let Some(mut channel) = pool.take(processor()) {
                if pool.free.is_empty() && pool.opened < MAX_CHANNELS {
                    pool.opened += 1;
                    drop(pool);
                    self.open_another(&mut channel)?;
                }
                return Ok(channel);
            }
            self.available.wait(&mut pool);
        }
    }

    /// Opens a further channel through `channel`. If the gofer refuses (the host has no thread for it), the next one
    /// to take the last channel asks again.
    fn open_another(&self, channel: &mut Channel) -> Result<(), Errno> {
        match self.exchange(channel, &Request::NewChannel) {
            Ok(Answer { reply: Reply::Done, mut descriptors }) if descriptors.len() == 1 => {
                descriptors.drain(..).for_each(|socket| self.put_back(Channel::new(socket)));
            }
            Ok(_) => self.pool.lock().opened -= 1,
            Err(error) => {
                self.die();
                return Err(error);
            }
        }
        Ok(())
    }

    fn put_back(&self, channel: Channel) {
        self.pool.lock().free.push(channel);
        self.available.notify_one();
    }

    fn die(&self) {
        let abandoned = {
            let mut pool = self.pool.lock();
            pool.dead = true;
            std::mem::take(&mut pool.free)
        };
        drop(abandoned);
        self.available.notify_all();
    }

    /// One request with as many clunks as fit, and its reply. An error means that the connection is lost.
    fn exchange(&self, channel: &mut Channel, request: &Request<'_>) -> Result<Answer, Errno> {
        request.encode(&mut channel.outgoing);
        channel.processor = processor();
        set_processor(&mut channel.outgoing, channel.processor);
        let room = MAX_MESSAGE.saturating_sub(channel.outgoing.len()) / size_of::<HandleId>();
        {
            let mut clunks = self.clunks.lock();
            let kept = clunks.len().saturating_sub(room.min(MAX_CLUNKS));
            append_clunks(&mut channel.outgoing, clunks.drain(kept..));
        }
        let (message, descriptors) = channel.exchange().map_err(|_| errno::EIO)?;
        let reply = Reply::decode(message).map_err(|_| errno::EIO)?;
        Ok(Answer { reply, descriptors })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.clunks.lock().push(self.id);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({})", self.id.0)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pool = self.shared.pool.lock();
        f.debug_struct("Client").field("channels", &pool.opened).field("dead", &pool.dead).finish()
    }
}
