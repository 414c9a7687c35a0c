//! Opening FIFOs (`man 7 fifo`), and pipes again through `/proc/PID/fd`.

use std::sync::Arc;

use abi::errno::{ENXIO, SysResult};

use super::{Ends, Pipe};
use crate::task::Task;
use crate::vfs::{AnonymousInode, FifoOpener, Inode, OpenRequest, OpenedFifo, PartnerCame};

/// Keeps the pipe of a FIFO with its inode, for as long as somebody has an end open.
pub struct Fifos;

impl FifoOpener for Fifos {
    fn open(&self, _task: &Task, inode: &Arc<dyn Inode>, request: OpenRequest) -> SysResult<OpenedFifo> {
        let pipe: Arc<Pipe> = inode.attachments().fifo().get_or_insert(Arc::default);
        let ends = match (request.read, request.write) {
            (true, true) => Ends::Both,
            (false, true) => Ends::Write,
            _ => Ends::Read,
        };
        // A nameless pipe opened again through `/proc/PID/fd` waits for nobody (`<(command)` in a shell may have
        // written everything and gone), and its ends were open before.
        if inode.as_any().is::<AnonymousInode>() {
            return Ok(OpenedFifo { ops: pipe.open(ends), partner_came: None });
        }
        let nonblocking = request.flags & libc::O_NONBLOCK.cast_unsigned() != 0;
        if ends == Ends::Write && nonblocking && !pipe.has_partner(Ends::Write) {
            return Err(ENXIO);
        }
        // Counted before looking: whoever comes from now on is noticed, even if he leaves at once.
        let before = pipe.partner_openings(ends);
        let ops = pipe.open(ends);
        if nonblocking || pipe.has_partner(ends) {
            return Ok(OpenedFifo { ops, partner_came: None });
        }
        let partner_came: PartnerCame =
            Box::new(move || pipe.has_partner(ends) || pipe.partner_openings(ends) != before);
        Ok(OpenedFifo { ops, partner_came: Some(partner_came) })
    }
}
