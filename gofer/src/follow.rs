//! `Follow`: a walk over names that were known to stand for certain files, and files beside its end, opened ahead.

use std::sync::Arc;

use abi::errno::Errno;
use rustix::fs::{OFlags, fcntl_setfl};
use wire::{Access, FollowStep, HandleId, Name, OpenFlags, Reply};

use crate::answer::{Answer, Spare};
use crate::connection::Server;
use crate::handles::Node;
use crate::lookup::{Path, attributes};
use crate::open::open_regular;

/// A name as the sentry asks for it, with the file that it says it stood for.
pub type Known<'a> = (Name<'a>, Option<HandleId>);

/// Answers `Follow`.
pub fn follow(
    server: &Server,
    from: &Arc<Node>,
    names: &[Known<'_>],
    open: Option<(Access, OpenFlags)>,
    ahead: &[Known<'_>],
) -> Result<Answer, Errno> {
    let mut path = Path::begin(from, open)?;
    let from = attributes(from)?;
    let mut steps = Vec::with_capacity(names.len());
    let mut directory = Arc::clone(&path.current);
    for known in names {
        directory = Arc::clone(&path.current);
        match path.take(server, known) {
            Some((handle, attr)) => steps.push(FollowStep { handle, attr }),
            None => break,
        }
    }
    let (stop, open, descriptor) = path.end(server);
    let ahead = if descriptor.is_some() && !steps.is_empty() { ahead } else { &[] };
    let (ahead, spares) = open_ahead(server, &directory, ahead);
    let reply = Reply::Followed { from, steps, stop, open, ahead };
    Ok(Answer { reply, descriptor, ahead: spares })
}

/// Opens names of a directory for reading that nobody has asked for yet. What is no regular file, or cannot be opened at once, is
/// passed over, and nothing is held of it.
fn open_ahead(
    server: &Server,
    directory: &Arc<Node>,
    names: &[Known<'_>],
) -> (Vec<Option<FollowStep>>, Vec<Spare>) {
    let (mut steps, mut spares) = (Vec::new(), Vec::new());
    for known in names {
        // The sentry may hold no more: neither will the names that follow find room.
        let Ok(permit) = server.budget.take() else { break };
        let Ok(mut path) = Path::begin(directory, None) else { break };
        let step = path.look(server, known).and_then(|step| {
            // Not even for as long as it takes somebody to give up a lease (`man 2 fcntl`).
            let opened = open_regular(server, &path.current, Access::Read, OpenFlags::NONBLOCK).ok()?;
            // Whoever reads it gets what one who waits would get.
            fcntl_setfl(&opened, OFlags::empty()).ok()?;
            spares.push(Spare { descriptor: opened, _permit: permit });
            let (new, attr) = step;
            Some(FollowStep { handle: new.map(|node| server.handles.insert(node)), attr })
        });
        steps.push(step);
    }
    (steps, spares)
}
