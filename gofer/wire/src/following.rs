//! Walks over names that were known to stand for certain files, and files beside the walk's end that are opened ahead of
//! being asked for.

use std::os::fd::OwnedFd;

use abi::errno::{self, Errno};

use crate::attr::Attr;
use crate::client::{Client, Handle, Node, Opened};
use crate::name::Name;
use crate::reply::{FollowStep, MISMATCH, Reply, WalkStop};
use crate::request::{HandleId, Request};
use crate::terms::{Access, OpenFlags};
use crate::{MAX_AHEAD, MAX_WALK};

/// A name, and the file it was known to stand for.
pub type Known<'a> = (Name<'a>, Option<&'a Handle>);

/// Where a walk over known files led.
#[derive(Debug)]
pub struct Followed {
    /// The attributes of where it began.
    pub from: Attr,
    /// The components reached, in order.
    pub steps: Vec<Reached>,
    /// Why it ended there.
    pub stop: WalkStop,
    /// The last component's descriptor, if asked for.
    pub opened: Opened,
    /// One for each name that was to be opened ahead, or fewer: what of them was.
    pub ahead: Vec<Option<Early>>,
}

/// A component of a walk over known files.
#[derive(Debug)]
pub enum Reached {
    /// The name still stands for the file it was said to stand for.
    Same(Attr),
    /// Another file, or one of which nothing was said.
    Other(Node),
}

/// A regular file that was opened for reading ahead of being asked for.
#[derive(Debug)]
pub struct Early {
    pub file: Reached,
    pub descriptor: OwnedFd,
}

impl Client {
    /// As [`walk`](Self::walk), over names of which some were known to stand for certain files: where that is still so,
    /// no new handle is made. Also brings the attributes of where the walk begins. If the walk ends at a regular file that is
    /// opened, so are those of at most [`MAX_AHEAD`] names beside it (`EINVAL` for more) that stand for such, for reading.
    pub fn follow(
        &self,
        from: &Handle,
        names: &[Known<'_>],
        open: Option<(Access, OpenFlags)>,
        ahead: &[Known<'_>],
    ) -> Result<Followed, Errno> {
        if names.len() > MAX_WALK || ahead.len() > MAX_AHEAD {
            return Err(errno::EINVAL);
        }
        let (names, ahead) = (self.said(names)?, self.said(ahead)?);
        let request =
            Request::Follow { from: self.id(from)?, names: names.clone(), open, ahead: ahead.clone() };
        let (reply, descriptors) = self.call_for_many(&request)?;
        let Reply::Followed { from, steps, stop, open, ahead: early } = reply else {
            return Err(MISMATCH);
        };
        if steps.len() > names.len() || early.len() > ahead.len() {
            return Err(MISMATCH);
        }
        let mut descriptors = Descriptors::new(descriptors, open.is_opened(), &early)?;
        let opened = Opened::from_reply(open, descriptors.first.take());
        let steps = steps.iter().zip(&names).map(|(step, (_, known))| self.reached(step, *known));
        let steps = steps.collect::<Result<_, _>>()?;
        let early = early.iter().zip(&ahead).map(|(step, (_, known))| {
            let Some(step) = step else { return Ok(None) };
            // Held in any case, so that it is let go.
            let file = self.reached(step, *known)?;
            Ok(descriptors.rest.next().map(|descriptor| Early { file, descriptor }))
        });
        let ahead = early.collect::<Result<_, Errno>>()?;
        Ok(Followed { from, steps, stop, opened, ahead })
    }

    fn said<'a>(&self, names: &[Known<'a>]) -> Result<Vec<(Name<'a>, Option<HandleId>)>, Errno> {
        let said = |(name, known): &Known<'a>| Ok((*name, known.map(|handle| self.id(handle)).transpose()?));
        names.iter().map(said).collect()
    }

    fn reached(&self, step: &FollowStep, known: Option<HandleId>) -> Result<Reached, Errno> {
        match step.handle {
            Some(handle) => Ok(Reached::Other(self.hold(handle, step.attr))),
            None if known.is_some() => Ok(Reached::Same(step.attr)),
            None => Err(MISMATCH),
        }
    }
}

/// The descriptors beside an answer, told apart.
struct Descriptors {
    /// Of the walk's end.
    first: Option<OwnedFd>,
    /// Of what was opened ahead.
    rest: std::vec::IntoIter<OwnedFd>,
}

impl Descriptors {
    /// `EIO` if more came than the answer claims. If fewer did, we may have no more, and those ahead are given up.
    fn new(mut all: Vec<OwnedFd>, has_first: bool, ahead: &[Option<FollowStep>]) -> Result<Self, Errno> {
        let claimed = usize::from(has_first) + ahead.iter().flatten().count();
        if all.len() > claimed {
            return Err(MISMATCH);
        }
        let is_short = all.len() < claimed;
        let rest = if has_first && !all.is_empty() { all.split_off(1) } else { std::mem::take(&mut all) };
        let rest = if is_short { Vec::new() } else { rest };
        Ok(Self { first: all.pop(), rest: rest.into_iter() })
    }
}
