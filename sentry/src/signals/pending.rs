//! Signals that have been sent and not been taken.

use std::collections::VecDeque;

use abi::errno::{EAGAIN, SysResult};
use abi::signal_info::{SI_TIMER, SigInfo};
use abi::signals::{SigSet, Signal};

/// A set of pending signals with their details. Standard signals are in it once at most, real-time
/// signals queue.
#[derive(Default)]
pub struct PendingSignals {
    set: SigSet,
    queue: VecDeque<SigInfo>,
}

impl PendingSignals {
    /// Which signals are in it.
    pub const fn set(&self) -> SigSet {
        self.set
    }

    /// Adds a signal. `limit` is the sender's `RLIMIT_SIGPENDING`; beyond it a standard signal is
    /// still set, without its details.
    ///
    /// # Errors
    /// `EAGAIN` for a real-time signal beyond the limit that carries a value.
    pub fn push(&mut self, signal: Signal, info: SigInfo, limit: u64) -> SysResult<()> {
        if !signal.is_realtime() && self.set.contains(signal) {
            return Ok(());
        }
        if self.queue.len() as u64 >= limit {
            if signal.is_realtime() && info.si_code != 0 {
                return Err(EAGAIN);
            }
        } else {
            self.queue.push_back(info);
        }
        self.set.insert(signal);
        Ok(())
    }

    /// Takes the next signal that is in `wanted`: synchronous faults first, then by number.
    pub fn take(&mut self, wanted: SigSet) -> Option<(Signal, SigInfo)> {
        let candidates = self.set & wanted;
        let signal = (candidates & SigSet::SYNCHRONOUS).lowest().or_else(|| candidates.lowest())?;
        let position = self.queue.iter().position(|info| info.signal() == Some(signal));
        let info = position
            .and_then(|index| self.queue.remove(index))
            .unwrap_or_else(|| SigInfo::user(signal, 0, 0));
        if !self.queue.iter().any(|info| info.signal() == Some(signal)) {
            self.set.remove(signal);
        }
        Some((signal, info))
    }

    /// The queued signal of a POSIX timer, whose overruns are counted while it is here.
    pub fn timer_signal(&mut self, id: i32) -> Option<&mut SigInfo> {
        self.queue.iter_mut().find(|info| info.si_code == SI_TIMER && info.pid() == id)
    }

    /// Forgets signals.
    pub fn remove(&mut self, signals: SigSet) {
        self.set = self.set.difference(signals);
        self.queue.retain(|info| info.signal().is_none_or(|signal| !signals.contains(signal)));
    }
}
