//! Changes of an address space that a captured thread executes: operations become batches of commands, with the files they need
//! installed beforehand and closed behind.
//!
//! Key type: [`MemoryJob`]. Neighbours: `context` starts and polls it, `dispatch` sees the commands through.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::task::{Context as WakeContext, Poll, ready};

use abi::errno::{self, Errno};

use super::context::SeccompContext;
use super::lent::{Lent, MOST_LENT};
use super::memory::command_for;
use super::thread::{Outcome, call_error};
use crate::stub::MAX_COMMANDS;
use crate::{Died, MemoryError, MemoryOperation, Sharing};

/// A [`Context::poll_memory`] under way.
#[derive(Default)]
pub struct MemoryJob {
    /// Operations that took effect.
    done: usize,
    /// Operations in the current batch.
    batch: usize,
    /// Descriptors installed in the stub for this job: the sentry's number, and the stub's.
    installed: Vec<(i32, u64)>,
    /// Descriptors in the stub that are needed no more.
    spare: Vec<u64>,
    error: Option<MemoryError>,
}

impl MemoryJob {
    /// The stub's number of a file that is installed already: its regions have one descriptor in common.
    fn number_of(&self, file: BorrowedFd<'_>) -> Option<u64> {
        self.installed.iter().find(|(source, _)| *source == file.as_raw_fd()).map(|(_, number)| *number)
    }

    /// One that begins with descriptors that are to be used again, or closed at its end.
    pub fn closing(spare: Vec<u64>) -> Self {
        Self { spare, ..Self::default() }
    }

    fn descriptors(&self) -> usize {
        self.installed.len() + self.spare.len()
    }
}

impl SeccompContext {
    /// Chooses the next batch of a memory job: its commands, or none when the job is over.
    fn next_batch(
        &mut self,
        job: &mut MemoryJob,
        operations: &[MemoryOperation<'_>],
    ) -> Result<Vec<[u64; 7]>, Died> {
        let mut commands = Vec::new();
        job.batch = 0;
        while job.error.is_none() && job.done + job.batch < operations.len() {
            let index = job.done + job.batch;
            let operation = &operations[index];
            let file = match operation {
                MemoryOperation::MapFile { file, .. } => Some(*file),
                _ => None,
            };
            let is_new = file.is_some_and(|file| job.number_of(file).is_none());
            if commands.len() + job.descriptors() + 1 + usize::from(is_new) > MAX_COMMANDS {
                break;
            }
            match self.prepare(job, operation, file)? {
                Ok(command) => commands.push(command),
                // Those before it come first; it will fail again on its own.
                Err(_) if job.batch > 0 => break,
                Err(errno) => {
                    job.error = Some(MemoryError::Refused { index, errno });
                    break;
                }
            }
            job.batch += 1;
        }
        if job.done + job.batch < operations.len() || job.error.is_some() || !self.may_keep(job, operations) {
            let installed = std::mem::take(&mut job.installed);
            job.spare.extend(installed.into_iter().map(|(_, number)| number));
        }
        commands
            .extend(job.spare.iter().map(|number| [libc::SYS_close.cast_unsigned(), *number, 0, 0, 0, 0, 0]));
        Ok(commands)
    }

    /// Whether what a job has installed may stay until commands are executed next, when it is used again or closed: closing costs as
    /// much as mapping. A process with several threads would lose sight of it.
    fn may_keep(&self, job: &MemoryJob, operations: &[MemoryOperation<'_>]) -> bool {
        let is_private = |operation: &MemoryOperation<'_>| {
            !matches!(operation, MemoryOperation::MapFile { sharing: Sharing::Shared, .. })
        };
        job.installed.len() <= MOST_LENT
            && self.thread.process.contexts.load(Ordering::Relaxed) == 1
            && operations.iter().all(is_private)
    }

    fn prepare(
        &self,
        job: &mut MemoryJob,
        operation: &MemoryOperation<'_>,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Result<[u64; 7], Errno>, Died> {
        if let Err(errno) = command_for(operation, 0, &self.core.layout) {
            return Ok(Err(errno));
        }
        let mut fd = file.and_then(|file| job.number_of(file)).unwrap_or_default();
        if let Some(file) = file.filter(|file| job.number_of(*file).is_none()) {
            let place = job.spare.last().and_then(|number| u32::try_from(*number).ok());
            match self.core.install(&self.thread, self.held_id()?, file, place) {
                Ok(number) => {
                    if place.is_some() {
                        job.spare.pop();
                    }
                    job.installed.push((file.as_raw_fd(), number));
                    fd = number;
                }
                Err(errno::ENOENT | errno::ESRCH) => return Err(Died),
                Err(errno) => return Ok(Err(errno)),
            }
        }
        Ok(command_for(operation, fd, &self.core.layout))
    }

    /// Books the outcome of a batch.
    fn book(job: &mut MemoryJob, outcome: Outcome) {
        let succeeded = outcome.done.min(job.batch);
        if let Some(errno) = call_error(outcome.result)
            && succeeded < job.batch
        {
            job.error = Some(MemoryError::Refused { index: job.done + succeeded, errno });
        }
        job.done += succeeded;
        // A close that failed is not tried again: the descriptor is gone all the same.
        let failed_close = usize::from(outcome.done >= job.batch && call_error(outcome.result).is_some());
        let closed = (outcome.done - succeeded + failed_close).min(job.spare.len());
        job.spare.drain(..closed);
        job.batch = 0;
    }

    pub(super) fn poll_job(
        &mut self,
        wake: &mut WakeContext<'_>,
        job: &mut MemoryJob,
        operations: &[MemoryOperation<'_>],
    ) -> Poll<Result<(), MemoryError>> {
        loop {
            if self.commanded {
                match ready!(self.poll_commands(wake)) {
                    Ok(outcome) => Self::book(job, outcome),
                    Err(Died) => return Poll::Ready(Err(MemoryError::Died)),
                }
            }
            let Ok(commands) = self.next_batch(job, operations) else {
                return Poll::Ready(Err(MemoryError::Died));
            };
            if commands.is_empty() {
                let (identity, writable, owner) = (None, false, self.owner());
                let lent = job.installed.drain(..);
                let lent = lent.map(|(_, number)| Lent { number, identity, writable, owner });
                self.thread.process.lent.extend(lent);
                return Poll::Ready(job.error.take().map_or(Ok(()), Err));
            }
            if self.start_commands(wake, commands).is_err() {
                return Poll::Ready(Err(MemoryError::Died));
            }
        }
    }
}
