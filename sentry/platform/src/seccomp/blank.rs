//! Blank address spaces: copies of the seed, made when they are needed or, once programs are executed one after the other,
//! ahead of time.
//!
//! The seed makes one process at a time; who comes second waits in line. A space made ahead is held like any newborn, and
//! costs a host process and the few pages of its slot: so there are few, and none before a second program was
//! executed. Key type: [`Blanks`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as WakeContext, Poll, Waker};

use abi::errno::{self, Errno};
use parking_lot::Mutex;

use super::Core;
use super::birth::{BirthHandle, child_space, start_birth};
use super::context::SeccompContext;
use super::thread::Stand;
use crate::{Context, NewSpace, Registers, SpawnError, SpawnKind};

/// Most spaces that are made ahead.
const MOST_AHEAD: usize = 2;

/// Spaces made ahead, and who wants one of the seed.
pub struct Blanks {
    line: Mutex<SeedLine>,
    ahead: Mutex<VecDeque<BirthHandle>>,
    /// How many were taken.
    taken: AtomicUsize,
    /// The processor of who has last killed a process, and that which the seed was last kept off; [`ANY`] for none.
    busy: AtomicUsize,
    shunned: AtomicUsize,
}

/// No processor in particular.
const ANY: usize = usize::MAX;

/// Who uses the seed.
#[derive(Default)]
struct SeedLine {
    busy: bool,
    waiters: VecDeque<Waker>,
}

/// A [`crate::Platform::poll_new_space`] under way.
struct UnderWay {
    birth: BirthHandle,
    ahead: bool,
}

impl Default for Blanks {
    fn default() -> Self {
        Self {
            line: Mutex::default(),
            ahead: Mutex::default(),
            taken: AtomicUsize::new(0),
            busy: AtomicUsize::new(ANY),
            shunned: AtomicUsize::new(ANY),
        }
    }
}

impl Blanks {
    /// Says on which processor there is something to do when the next space is made ahead.
    pub fn is_busy(&self, processor: usize) {
        self.busy.store(processor, Ordering::Relaxed);
    }

    /// The seed can make the next one. Returns whether somebody was woken.
    pub fn seed_is_free(&self) -> bool {
        let waiters = {
            let mut line = self.line.lock();
            line.busy = false;
            std::mem::take(&mut line.waiters)
        };
        let any = !waiters.is_empty();
        waiters.into_iter().for_each(Waker::wake);
        any
    }

    /// Ends those made ahead.
    pub fn clear(&self) {
        let ahead = std::mem::take(&mut *self.ahead.lock());
        drop(ahead);
    }
}

impl Core {
    /// Begins to make a space. `None`: somebody else is at it.
    fn start_blank(self: &Arc<Self>, waiter: Option<&Waker>) -> Option<Result<BirthHandle, Errno>> {
        let mut line = self.blanks.line.lock();
        if line.busy {
            line.waiters.extend(waiter.cloned());
            return None;
        }
        let slot = match child_space(self, &self.seed.slot) {
            Ok(slot) => slot,
            Err(errno) => return Some(Err(errno)),
        };
        line.busy = true;
        drop(line);
        Some(start_birth(self, &self.seed, SpawnKind::Copy, slot, None).map_err(|_| errno::EIO))
    }

    /// Makes spaces ahead, one at a time, if they were taken before. To be called when there is time for it.
    pub fn make_ahead(self: &Arc<Self>) {
        let blanks = &self.blanks;
        if blanks.taken.load(Ordering::Relaxed) < 2 || blanks.ahead.lock().len() >= MOST_AHEAD {
            return;
        }
        self.shun(blanks.busy.load(Ordering::Relaxed));
        if let Some(Ok(birth)) = self.start_blank(None) {
            blanks.ahead.lock().push_back(birth);
        }
    }

    /// Keeps the seed and the calling thread off a processor. Who waits for the process that has ended, and for the program that comes after it, goes on there,
    /// and what is made ahead would come before them, 150 µs for each, even if another processor has nothing to do.
    fn shun(&self, processor: usize) {
        let seats = &self.spinner.seats;
        if self.blanks.shunned.swap(processor, Ordering::Relaxed) == processor {
            return;
        }
        for tid in [self.seed.tid(), rustix::thread::gettid().as_raw_nonzero().get()] {
            if processor == ANY { seats.free(tid) } else { seats.keep_off(tid, processor) }
        }
    }

    /// See [`crate::Platform::poll_new_space`].
    pub fn poll_blank(
        self: &Arc<Self>,
        wake: &mut WakeContext<'_>,
        request: &mut NewSpace,
    ) -> Poll<Result<Box<dyn Context>, Errno>> {
        loop {
            let progress = request.progress.take().and_then(|progress| progress.downcast::<UnderWay>().ok());
            let under_way = match progress {
                Some(under_way) => under_way,
                None => match self.begin(wake.waker()) {
                    Some(Ok(under_way)) => Box::new(under_way),
                    Some(Err(errno)) => return Poll::Ready(Err(errno)),
                    None => return Poll::Pending,
                },
            };
            let child = match under_way.birth.poll(wake) {
                Poll::Pending => {
                    request.progress = Some(under_way);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(child)) => child,
                // One made ahead may have been killed meanwhile: the next one, then.
                Poll::Ready(Err(_)) if under_way.ahead => continue,
                Poll::Ready(Err(SpawnError::Refused(errno))) => return Poll::Ready(Err(errno)),
                Poll::Ready(Err(SpawnError::Died)) => return Poll::Ready(Err(errno::EIO)),
            };
            if under_way.ahead && matches!(child.state.lock().stand, Stand::Dead) {
                continue;
            }
            self.blanks.taken.fetch_add(1, Ordering::Relaxed);
            let frame = under_way.birth.frame().ok_or(errno::EIO)?;
            frame.set_fp_state(&child.slot, None, &self.template);
            frame.reset_segments(&child.slot, &self.template);
            // It has the seed's processors.
            self.spinner.seats.free(child.tid());
            return Poll::Ready(Ok(SeccompContext::new(self, child, Some(Registers::default()))));
        }
    }

    fn begin(self: &Arc<Self>, waiter: &Waker) -> Option<Result<UnderWay, Errno>> {
        if let Some(birth) = self.blanks.ahead.lock().pop_front() {
            return Some(Ok(UnderWay { birth, ahead: true }));
        }
        self.start_blank(Some(waiter)).map(|made| made.map(|birth| UnderWay { birth, ahead: false }))
    }
}
