//! Births that the kernel waits for: how a captured thread makes a child, and what comes of it.
//!
//! Key type: [`BirthHandle`]. Neighbours: `spawn` and `unborn`, where a child is made in the place of a call; `dispatch` carries a birth on.

use std::sync::Arc;
use std::task::{Context as WakeContext, Poll};

use abi::errno::{self, Errno};

use super::Core;
use super::context::set_waker;
use super::frame::Frame;
use super::slots::{Slot, Space};
use super::spawn::clone_flags;
use super::thread::{Begin, Birth, Progress, Purpose, Stand, Thread};
use crate::stub::SLOT_READY;
use crate::{Died, SpawnError, SpawnKind};

/// Starts making a child of a captured thread, whose slot is `slot`.
pub fn start_birth(
    core: &Arc<Core>,
    parent: &Arc<Thread>,
    kind: SpawnKind,
    slot: Slot,
    fs_base: Option<u64>,
) -> Result<BirthHandle, Died> {
    let mut state = parent.state.lock();
    let Stand::Captured { id, frame } = state.stand else { return Err(Died) };
    frame.copy(&parent.slot, &slot);
    slot.set_word(SLOT_READY, 0);
    core.spinner.unseat(parent, &mut state);
    let flags = clone_flags(kind);
    let stack = if kind == SpawnKind::Copy { 0 } else { frame.address(&slot) };
    let tls = fs_base.map_or(0, |_| libc::CLONE_SETTLS);
    let clone = [
        libc::SYS_clone as u64,
        (flags | tls) as u64,
        stack,
        0,
        0,
        fs_base.unwrap_or(0),
        // Where a copy finds its own chunk; whether others point a register to their slot.
        if kind == SpawnKind::Copy { slot.chunk_offset() } else { u64::from(slot.space.code.is_enabled()) },
    ];
    let birth = Arc::new(Birth {
        kind,
        process: (kind == SpawnKind::Thread).then(|| parent.process.clone()),
        cleanup: kind == SpawnKind::Copy && parent.slot.space.has_other_chunks(),
        slot,
        begin: Begin::Captured(frame),
        progress: Progress::default().into(),
    });
    core.threads.births.lock().pending += 1;
    let after = core.command(parent, &mut state, id, frame, vec![clone], Purpose::Spawn(birth.clone()));
    drop(state);
    core.finish(parent, after);
    Ok(BirthHandle(birth))
}

/// A birth that somebody waits for. Dropped early, the child is killed as soon as it exists.
pub struct BirthHandle(Arc<Birth>);

impl BirthHandle {
    /// Waits for this birth.
    pub fn new(birth: Arc<Birth>) -> Self {
        Self(birth)
    }

    /// The child, once both it and its parent stand still.
    pub fn poll(&self, wake: &WakeContext<'_>) -> Poll<Result<Arc<Thread>, SpawnError>> {
        let mut progress = self.0.progress.lock();
        if let Some(error) = progress.error {
            progress.taken = true;
            return Poll::Ready(Err(error));
        }
        if progress.parent_back
            && let Some(child) = progress.child.take()
        {
            progress.taken = true;
            return Poll::Ready(Ok(child));
        }
        set_waker(&mut progress.waker, wake);
        Poll::Pending
    }

    /// Where the child's frame is, if it is born captured.
    pub fn frame(&self) -> Option<Frame> {
        match self.0.begin {
            Begin::Captured(frame) => Some(frame),
            Begin::InCall(_) => None,
        }
    }
}

impl Drop for BirthHandle {
    fn drop(&mut self) {
        let mut progress = self.0.progress.lock();
        if !progress.taken {
            progress.abandoned = true;
            if let Some(child) = &progress.child {
                child.process.kill();
            }
        }
    }
}

/// The address space of a new child.
pub fn child_space(core: &Core, parent: &Slot) -> Result<Slot, Errno> {
    let space = Space::new(&core.memory, core.geometry, parent.place, parent.space.code.copy())?;
    space.slot(parent.place).ok_or(errno::EIO)
}
