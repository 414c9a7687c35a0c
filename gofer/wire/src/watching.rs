//! What a client asks for to know of changes without asking again: watches on directories, descriptors for `fstat`.

use std::os::fd::OwnedFd;

use abi::errno::Errno;

use crate::attr::Attr;
use crate::client::{Client, Handle};
use crate::reply::{MISMATCH, Reply};
use crate::request::Request;

/// A directory whose changes are told.
#[derive(Debug)]
pub struct Watching {
    /// What its events carry (`wd` of `man 7 inotify`).
    pub number: u32,
    /// Its attributes, learnt after the watch began.
    pub attr: Attr,
    /// Where events arrive; the same queue for all directories of a tree.
    pub queue: OwnedFd,
}

impl Client {
    /// Has changes of a directory's names and of its own mode and owner told from now on. `EOPNOTSUPP` where not all
    /// changes would be; `ENOSPC` when enough is watched (see [`unwatch`](Self::unwatch)); `EMFILE` when the host's
    /// queues are wanted by others.
    pub fn watch(&self, dir: &Handle) -> Result<Watching, Errno> {
        match self.call(&Request::Watch { dir: self.id(dir)? })? {
            (Reply::Watched { number, attr }, Some(queue)) => Ok(Watching { number, attr, queue }),
            _ => Err(MISMATCH),
        }
    }

    /// Ends all watches of a tree. The queue lives on, and says so (`IN_IGNORED`).
    pub fn unwatch(&self, tree: u32) -> Result<(), Errno> {
        self.done(&Request::Unwatch { tree })
    }

    /// A descriptor of a regular file that serves `fstat` and nothing else.
    pub fn stat_descriptor(&self, file: &Handle) -> Result<OwnedFd, Errno> {
        self.descriptor(&Request::StatDescriptor { file: self.id(file)? })
    }
}
