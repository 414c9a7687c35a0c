//! `N_TTY`, the line discipline, as pure logic: what becomes of bytes that are typed and of bytes that are written
//! (`man 3 termios`; Linux's `drivers/tty/n_tty.c`, whose order of judgements is kept).
//!
//! [`LineDiscipline`] owns the settings, the input that waits for a reader and the processed output that waits for the
//! other side. It knows no task, no file and no lock; what it wants done outside is put into [`Effects`].
//! Output processing is in `output.rs`, erasing in `erase.rs`; the object around it is [`super::Terminal`].
//!
//! Invariants: `committed` never exceeds the length of `input`; input is at most [`INPUT_MAX`] units, output at most
//! [`OUTPUT_MAX`] bytes plus the echo of what fits into the input.

use std::collections::VecDeque;

use abi::signals::{SIGINT, SIGQUIT, SIGTSTP, Signal};
use abi::terminals::{
    CS8, CSIZE, ControlFlags, InputFlags, LocalFlags, NCCS, POSIX_VDISABLE, TIOCPKT_DOSTOP,
    TIOCPKT_FLUSHREAD, TIOCPKT_FLUSHWRITE, TIOCPKT_NOSTOP, TIOCPKT_START, TIOCPKT_STOP, Termios2, VEOF, VEOL,
    VEOL2, VERASE, VINTR, VKILL, VLNEXT, VMIN, VQUIT, VREPRINT, VSTART, VSTOP, VSUSP, VTIME, VWERASE,
};
use smallvec::SmallVec;

/// Units of input that wait for a reader at most; a line's last character may always come (`N_TTY_BUF_SIZE`).
pub const INPUT_MAX: usize = 4096;
/// Bytes of output that wait for the other side at most, echo apart.
pub const OUTPUT_MAX: usize = 64 << 10;
/// Echo that waits beyond [`OUTPUT_MAX`] at most; what exceeds it is lost, as on Linux.
pub const ECHO_MAX: usize = 4096;

/// Nanoseconds in a tenth of a second, `VTIME`'s unit.
const DECISECOND_NS: u64 = 100_000_000;

/// A unit of input ends a line.
pub(super) const LINE_END: u16 = 0x100;
/// … and is not part of it (`VEOF`).
pub(super) const EOF_MARK: u16 = 0x200;

/// What the discipline wants done outside, collected over one or more calls.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// For the foreground process group.
    pub signals: SmallVec<[Signal; 2]>,
    /// A reader may find something.
    pub readable: bool,
    /// There is new output for the other side.
    pub output: bool,
    /// A writer may find room.
    pub writable: bool,
    /// Bits for packet mode (`TIOCPKT_*`).
    pub packet: u8,
}

/// Who stopped the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// Nobody.
    Running,
    /// `VSTOP`; `VSTART` or, with `IXANY`, anything resumes it.
    StoppedByKey,
    /// `TCOOFF`; only `TCOON` resumes it.
    StoppedByCall,
}

/// See the module's text.
pub struct LineDiscipline {
    pub(super) termios: Termios2,
    /// Characters with [`LINE_END`] and [`EOF_MARK`].
    pub(super) input: VecDeque<u16>,
    /// How many of `input` belong to ended lines.
    pub(super) committed: usize,
    literal_next: bool,
    /// Between `\` and `/` of `ECHOPRT`.
    pub(super) erasing: bool,
    /// Output column, and the one where the line being typed began.
    pub(super) column: usize,
    pub(super) canon_column: usize,
    flow: Flow,
    pub(super) output: VecDeque<u8>,
    /// Echo that waits for the output to be resumed.
    held_echo: VecDeque<u8>,
}

/// Which queues to flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queues {
    /// `TCIFLUSH`
    Input,
    /// `TCOFLUSH`
    Output,
    /// `TCIOFLUSH`
    Both,
}

impl Default for LineDiscipline {
    fn default() -> Self {
        Self::new(Termios2::STANDARD)
    }
}

impl LineDiscipline {
    /// Nothing typed, nothing written.
    pub const fn new(termios: Termios2) -> Self {
        Self {
            termios,
            input: VecDeque::new(),
            committed: 0,
            literal_next: false,
            erasing: false,
            column: 0,
            canon_column: 0,
            flow: Flow::Running,
            output: VecDeque::new(),
            held_echo: VecDeque::new(),
        }
    }

    /// The settings.
    pub const fn termios(&self) -> &Termios2 {
        &self.termios
    }

    /// Changes the settings. What was typed stays, as Linux has it: it becomes readable at once without `ICANON`, and one
    /// line with it.
    pub fn set_termios(&mut self, termios: Termios2, effects: &mut Effects) {
        let old = self.termios;
        self.termios = termios;
        // A pseudo-terminal has no line: these are fixed (`pty_set_termios`).
        self.termios.c_cflag &= !(CSIZE | ControlFlags::PARENB.bits());
        self.termios.c_cflag |= CS8 | ControlFlags::CREAD.bits();
        let (was, is) = (old.local().contains(LocalFlags::ICANON), self.is_canonical());
        if was != is {
            self.committed = if is { self.input.len() } else { 0 };
            if is && let Some(last) = self.input.back_mut() {
                *last |= LINE_END;
            }
            self.erasing = false;
            self.literal_next = false;
            if !is {
                for unit in &mut self.input {
                    *unit &= 0xff;
                }
            }
            effects.readable = true;
        }
        if !self.has(InputFlags::IXON)
            && old.input().contains(InputFlags::IXON)
            && self.flow == Flow::StoppedByKey
        {
            self.start(effects);
        }
        let (old_flow, new_flow) = (has_usual_flow_control(&old), has_usual_flow_control(&self.termios));
        if old_flow != new_flow {
            effects.packet |= if new_flow { TIOCPKT_DOSTOP } else { TIOCPKT_NOSTOP };
        }
    }

    pub(super) const fn has(&self, flag: InputFlags) -> bool {
        self.termios.input().contains(flag)
    }

    pub(super) const fn does(&self, flag: LocalFlags) -> bool {
        self.termios.local().contains(flag)
    }

    /// `ICANON` is set.
    pub const fn is_canonical(&self) -> bool {
        self.does(LocalFlags::ICANON)
    }

    /// Whether `byte` is the control character at `index`.
    pub(super) fn is_key(&self, index: usize, byte: u8) -> bool {
        byte != POSIX_VDISABLE && self.key(index) == byte
    }

    pub(super) fn key(&self, index: usize) -> u8 {
        const { assert!(VEOL2 < NCCS) };
        self.termios.c_cc.get(index).copied().unwrap_or(POSIX_VDISABLE)
    }

    // ---- input ----

    /// Takes what was typed; returns how much of it. The rest has to wait for a reader.
    pub fn receive(&mut self, bytes: &[u8], effects: &mut Effects) -> usize {
        for (taken, byte) in bytes.iter().enumerate() {
            if !self.has_input_room() {
                return taken;
            }
            self.receive_byte(*byte, effects);
        }
        bytes.len()
    }

    /// Whether more can be typed. A line too long goes on, its end being lost, until something ends it.
    pub fn has_input_room(&self) -> bool {
        self.input.len() < INPUT_MAX - 1 || self.is_canonical() && self.committed == 0
    }

    fn receive_byte(&mut self, byte: u8, effects: &mut Effects) {
        let mut byte = byte;
        if self.has(InputFlags::ISTRIP) {
            byte &= 0x7f;
        }
        if self.has(InputFlags::IUCLC) && self.does(LocalFlags::IEXTEN) {
            byte = byte.to_ascii_lowercase();
        }
        if std::mem::take(&mut self.literal_next) {
            self.receive_ordinary(byte, effects);
            return;
        }
        if self.has(InputFlags::IXON) && self.receive_flow_control(byte, effects) {
            return;
        }
        if self.does(LocalFlags::ISIG)
            && let Some(signal) = self.signal_of(byte)
        {
            self.receive_signal(signal, byte, effects);
            return;
        }
        self.resume_on_any(effects);
        match byte {
            b'\r' if self.has(InputFlags::IGNCR) => return,
            b'\r' if self.has(InputFlags::ICRNL) => byte = b'\n',
            b'\n' if self.has(InputFlags::INLCR) => byte = b'\r',
            _ => {}
        }
        if self.is_canonical() && self.receive_canonical(byte, effects) {
            return;
        }
        self.receive_ordinary(byte, effects);
    }

    fn receive_flow_control(&mut self, byte: u8, effects: &mut Effects) -> bool {
        if self.is_key(VSTART, byte) {
            if self.flow == Flow::StoppedByKey {
                self.start(effects);
            }
            return true;
        }
        if self.is_key(VSTOP, byte) {
            if self.flow == Flow::Running {
                self.flow = Flow::StoppedByKey;
                effects.packet = effects.packet & !TIOCPKT_START | TIOCPKT_STOP;
            }
            return true;
        }
        false
    }

    fn resume_on_any(&mut self, effects: &mut Effects) {
        if self.flow == Flow::StoppedByKey && self.has(InputFlags::IXON | InputFlags::IXANY) {
            self.start(effects);
        }
    }

    fn signal_of(&self, byte: u8) -> Option<Signal> {
        [(VINTR, SIGINT), (VQUIT, SIGQUIT), (VSUSP, SIGTSTP)]
            .into_iter()
            .find_map(|(index, signal)| self.is_key(index, byte).then_some(signal))
    }

    fn receive_signal(&mut self, signal: Signal, byte: u8, effects: &mut Effects) {
        effects.signals.push(signal);
        if !self.does(LocalFlags::NOFLSH) {
            self.flush(Queues::Both, effects);
        }
        if self.has(InputFlags::IXON) && self.flow == Flow::StoppedByKey {
            self.start(effects);
        }
        if self.does(LocalFlags::ECHO) {
            self.echo(byte, effects);
        }
    }

    /// A character without a meaning of its own (any more).
    fn receive_ordinary(&mut self, byte: u8, effects: &mut Effects) {
        self.resume_on_any(effects);
        if self.does(LocalFlags::ECHO) {
            self.finish_erasing(effects);
            if byte == b'\n' {
                self.echo_plain(b'\n', effects);
            } else {
                self.note_column();
                self.echo(byte, effects);
            }
        }
        if byte == 0xff && self.has(InputFlags::PARMRK) {
            self.store(byte.into(), effects);
        }
        self.store(byte.into(), effects);
    }

    /// Characters that mean something in canonical mode; `false` for all others.
    fn receive_canonical(&mut self, byte: u8, effects: &mut Effects) -> bool {
        let extended = self.does(LocalFlags::IEXTEN);
        let echoes = self.does(LocalFlags::ECHO);
        if self.is_key(VERASE, byte) || self.is_key(VKILL, byte) || extended && self.is_key(VWERASE, byte) {
            self.erase(byte, effects);
        } else if extended && self.is_key(VLNEXT, byte) {
            self.literal_next = true;
            if echoes {
                self.finish_erasing(effects);
                if self.does(LocalFlags::ECHOCTL) {
                    self.echo_plain(b'^', effects);
                    self.echo_plain(b'\x08', effects);
                }
            }
        } else if extended && echoes && self.is_key(VREPRINT, byte) {
            self.reprint(byte, effects);
        } else if byte == b'\n' {
            if echoes || self.does(LocalFlags::ECHONL) {
                self.echo_plain(b'\n', effects);
            }
            self.end_line(u16::from(b'\n') | LINE_END, effects);
        } else if self.is_key(VEOF, byte) {
            self.end_line(LINE_END | EOF_MARK, effects);
        } else if self.is_key(VEOL, byte) || extended && self.is_key(VEOL2, byte) {
            if echoes {
                self.note_column();
                self.echo(byte, effects);
            }
            self.end_line(u16::from(byte) | LINE_END, effects);
        } else {
            return false;
        }
        true
    }

    fn reprint(&mut self, byte: u8, effects: &mut Effects) {
        self.finish_erasing(effects);
        self.echo(byte, effects);
        self.echo_plain(b'\n', effects);
        for index in self.committed..self.input.len() {
            let unit = self.input.get(index).copied().unwrap_or(0);
            self.echo(low_byte(unit), effects);
        }
    }

    fn store(&mut self, unit: u16, effects: &mut Effects) {
        if self.input.len() < INPUT_MAX - 1 {
            self.input.push_back(unit);
            effects.readable |= !self.is_canonical();
        }
    }

    fn end_line(&mut self, unit: u16, effects: &mut Effects) {
        if self.input.len() < INPUT_MAX {
            self.input.push_back(unit);
        }
        self.committed = self.input.len();
        effects.readable = true;
    }

    /// The line being typed begins at the present column.
    fn note_column(&mut self) {
        if self.committed == self.input.len() {
            self.canon_column = self.column;
        }
    }

    // ---- reading ----

    /// `VMIN` and `VTIME` (in nanoseconds) where they mean something.
    pub fn minimum_and_time(&self) -> Option<(usize, u64)> {
        let time = u64::from(self.key(VTIME)) * DECISECOND_NS;
        (!self.is_canonical()).then(|| (usize::from(self.key(VMIN)), time))
    }

    /// Bytes a read could get (`FIONREAD`).
    pub fn readable_bytes(&self) -> usize {
        let end = if self.is_canonical() { self.committed } else { self.input.len() };
        self.input.iter().take(end).filter(|unit| **unit & EOF_MARK == 0).count()
    }

    /// Whether `poll` calls it readable.
    pub fn is_readable(&self) -> bool {
        match self.minimum_and_time() {
            None => self.committed != 0,
            Some((minimum, time)) => {
                let enough = if time == 0 { minimum.max(1) } else { 1 };
                self.input.len() >= enough
            }
        }
    }

    /// Reads: one line at most in canonical mode. `None`: the reader has to wait. With `all`, less than `VMIN` is enough
    /// (`O_NONBLOCK`, or the time between two characters is over).
    pub fn read(&mut self, buffer: &mut [u8], all: bool) -> Option<usize> {
        let Some((minimum, time)) = self.minimum_and_time() else { return self.read_line(buffer) };
        if self.input.is_empty() {
            return (minimum == 0 && time == 0 || buffer.is_empty()).then_some(0);
        }
        if self.input.len() < minimum.min(buffer.len()) && !all {
            return None;
        }
        let count = buffer.len().min(self.input.len());
        for (place, unit) in buffer.iter_mut().zip(self.input.drain(..count)) {
            *place = low_byte(unit);
        }
        self.trim();
        Some(count)
    }

    fn read_line(&mut self, buffer: &mut [u8]) -> Option<usize> {
        if self.committed == 0 {
            return buffer.is_empty().then_some(0);
        }
        let mut count = 0;
        while self.committed != 0 {
            let Some(unit) = self.input.front().copied() else { break };
            if unit & EOF_MARK != 0 {
                // Also directly behind a full buffer: the next read must not take it for the end.
                self.take_front();
                break;
            }
            let Some(place) = buffer.get_mut(count) else { break };
            *place = low_byte(unit);
            count += 1;
            self.take_front();
            if unit & LINE_END != 0 {
                break;
            }
        }
        self.trim();
        Some(count)
    }

    fn take_front(&mut self) {
        self.input.pop_front();
        self.committed = self.committed.saturating_sub(1);
    }

    fn trim(&mut self) {
        if self.input.is_empty() {
            self.input = VecDeque::new();
        }
    }

    // ---- flow ----

    /// Whether output is stopped.
    pub fn is_stopped(&self) -> bool {
        self.flow != Flow::Running
    }

    /// `TCOOFF`
    pub fn stop_by_call(&mut self, effects: &mut Effects) {
        if self.flow != Flow::StoppedByCall {
            self.flow = Flow::StoppedByCall;
            effects.packet = effects.packet & !TIOCPKT_START | TIOCPKT_STOP;
        }
    }

    /// `TCOON`, which ends only what `TCOOFF` began.
    pub fn start_by_call(&mut self, effects: &mut Effects) {
        if self.flow == Flow::StoppedByCall {
            self.start(effects);
        }
    }

    fn start(&mut self, effects: &mut Effects) {
        self.flow = Flow::Running;
        effects.packet = effects.packet & !TIOCPKT_STOP | TIOCPKT_START;
        effects.writable = true;
        let held = std::mem::take(&mut self.held_echo);
        effects.output |= !held.is_empty();
        self.output.extend(held);
    }

    /// Drops what waits.
    pub fn flush(&mut self, queues: Queues, effects: &mut Effects) {
        if queues != Queues::Output {
            self.input = VecDeque::new();
            self.committed = 0;
            self.erasing = false;
            self.literal_next = false;
            effects.packet |= TIOCPKT_FLUSHREAD;
            // Whoever types may go on.
            effects.output = true;
        }
        if queues != Queues::Input {
            self.output = VecDeque::new();
            self.held_echo = VecDeque::new();
            effects.packet |= TIOCPKT_FLUSHWRITE;
            effects.writable = true;
        }
    }

    /// A control character of its own for whoever types (`TCIOFF`, `TCION`): not stopped, not processed.
    pub fn send_key(&mut self, index: usize, effects: &mut Effects) {
        let key = self.key(index);
        if key != POSIX_VDISABLE {
            self.output.push_front(key);
            effects.output = true;
        }
    }

    // ---- output ----

    /// Whether a writer could go on.
    pub fn has_output_room(&self) -> bool {
        // A character becomes eight at most (a tab).
        !self.is_stopped() && self.output.len() + 8 <= OUTPUT_MAX
    }

    /// Takes what is written; returns how much of it.
    pub fn write(&mut self, bytes: &[u8], effects: &mut Effects) -> usize {
        let mut taken = 0;
        for byte in bytes {
            if !self.has_output_room() {
                break;
            }
            self.put(*byte);
            taken += 1;
        }
        effects.output |= taken != 0;
        taken
    }

    /// Hands processed output to the other side.
    pub fn take_output(&mut self, buffer: &mut [u8], effects: &mut Effects) -> usize {
        let count = buffer.len().min(self.output.len());
        for (place, byte) in buffer.iter_mut().zip(&self.output) {
            *place = *byte;
        }
        self.drop_output(count, effects);
        count
    }

    /// The other side has taken the first `count` bytes.
    pub fn drop_output(&mut self, count: usize, effects: &mut Effects) {
        let had_room = self.has_output_room();
        self.output.drain(..count.min(self.output.len()));
        if self.output.is_empty() && self.output.capacity() > ECHO_MAX {
            self.output = VecDeque::new();
        }
        effects.writable |= !had_room && self.has_output_room();
    }

    /// The first processed bytes, for a side that takes them piecemeal.
    pub fn first_output(&self) -> &[u8] {
        self.output.as_slices().0
    }

    /// Bytes that wait for the other side.
    pub fn output_bytes(&self) -> usize {
        self.output.len()
    }

    pub(super) fn push_echo(&mut self, bytes: &[u8], effects: &mut Effects) {
        let stopped = self.is_stopped();
        let (queue, limit) =
            if stopped { (&mut self.held_echo, ECHO_MAX) } else { (&mut self.output, OUTPUT_MAX + ECHO_MAX) };
        if queue.len() + bytes.len() <= limit {
            queue.extend(bytes);
            effects.output |= !stopped;
        }
    }
}

pub(super) const fn low_byte(unit: u16) -> u8 {
    unit.to_le_bytes()[0]
}

/// `IXON` with ^S and ^Q: what packet mode reports.
fn has_usual_flow_control(termios: &Termios2) -> bool {
    let key = |index: usize| termios.c_cc.get(index).copied();
    termios.input().contains(InputFlags::IXON) && key(VSTOP) == Some(0x13) && key(VSTART) == Some(0x11)
}
