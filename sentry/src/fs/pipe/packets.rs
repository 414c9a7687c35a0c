//! Which of a pipe's bytes are packets (`man 2 pipe`, `O_DIRECT`).
//!
//! Bytes have positions, counted from the pipe's first one. Packets do not overlap and are in order; what lies between them
//! are ordinary bytes. A pipe that is never written in packet mode has an empty list, and nothing else to keep.

use std::collections::VecDeque;
use std::ops::Range;

use super::PIPE_BUF;

/// See the module's text.
#[derive(Default)]
pub(super) struct Packets {
    /// Position of the first byte that is still in the pipe.
    first: u64,
    list: VecDeque<Range<u64>>,
    /// Bytes of all packets.
    bytes: usize,
}

/// Bytes that lie together: of one packet, or of none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// How many.
    pub(super) length: usize,
    /// Of a packet.
    pub(super) packet: Part,
}

/// What bytes are of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Nothing: ordinary bytes.
    Nothing,
    /// Some, and more of it follows.
    Beginning,
    /// Its end, or all of it.
    End,
}

fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).unwrap_or(usize::MAX)
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

impl Packets {
    /// What `held` bytes take of the pipe's capacity: a packet takes a page, however short it is.
    pub(super) fn occupied(&self, held: usize) -> usize {
        held - self.bytes + self.list.len() * PIPE_BUF
    }

    /// The run that begins `offset` bytes from the first, of `held` bytes.
    pub(super) fn run_at(&self, offset: usize, held: usize) -> Run {
        let at = self.first + wide(offset);
        let rest = held.saturating_sub(offset);
        match self.list.iter().find(|packet| packet.end > at) {
            None => Run { length: rest, packet: Part::Nothing },
            Some(packet) if packet.start > at => {
                Run { length: length(&(at..packet.start)).min(rest), packet: Part::Nothing }
            }
            Some(packet) => Run { length: length(&(at..packet.end)).min(rest), packet: Part::End },
        }
    }

    /// `count` bytes left the pipe at its front.
    pub(super) fn taken(&mut self, count: usize) {
        self.first += wide(count);
        while let Some(packet) = self.list.front_mut() {
            if packet.end <= self.first {
                self.bytes -= length(packet);
                self.list.pop_front();
                continue;
            }
            if packet.start < self.first {
                self.bytes -= length(&(packet.start..self.first));
                packet.start = self.first;
            }
            return;
        }
    }

    /// `count` bytes came back to the front.
    pub(super) fn put_back(&mut self, count: usize, part: Part) {
        // Bytes are put back only after they were taken.
        let start = self.first.saturating_sub(wide(count));
        match (part, self.list.front_mut()) {
            (Part::Nothing, _) => {}
            (Part::Beginning, Some(packet)) => packet.start = start,
            _ => self.list.push_front(start..self.first),
        }
        if part != Part::Nothing {
            self.bytes += count;
        }
        self.first = start;
    }

    /// The last `count` of `held` bytes are a packet.
    pub(super) fn added(&mut self, count: usize, held: usize) {
        let end = self.first + wide(held);
        self.list.push_back(end - wide(count)..end);
        self.bytes += count;
    }

    /// The pipe is empty for good.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
