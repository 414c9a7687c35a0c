//! The terminal object: a line discipline, a window, a session; between programs (the slave side) and whoever types: a
//! program that holds the master, or a terminal of the host (`host.rs`).
//!
//! Everything is in [`State`] under one lock, which is held for no wait and no user copy; the host's descriptor is
//! non-blocking. Wake-ups and signals follow after the lock ([`Terminal::change`]).

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, Weak};

use abi::errno::{EAGAIN, EIO, SysResult};
use abi::signal_info::SigInfo;
use abi::signals::{SIGCONT, SIGHUP, SIGWINCH};
use abi::terminals::{TIOCPKT_DATA, TIOCPKT_START, TIOCPKT_STOP, Termios2, Winsize};
use parking_lot::Mutex;

use super::host::HostLink;
use super::job_control::signal_group;
use super::line_discipline::{Effects, LineDiscipline};
use crate::fs::devpts::Instance;
use crate::kernel::Kernel;
use crate::spec::WindowSize;
use crate::task::Pid;
use crate::time::{Instant, Timer, TimerTarget};
use crate::vfs::DeviceNumber;
use crate::wait::{PollEvents, WaitQueue};

/// Major device number of slaves (`UNIX98_PTY_SLAVE_MAJOR`).
pub const SLAVE_MAJOR: u32 = 136;
/// Typed bytes that wait until there is room for them in the line discipline.
const BACKLOG_MAX: usize = 64 << 10;

/// See the module's text.
pub struct Terminal {
    kernel: Weak<Kernel>,
    /// N of `/dev/pts/N`.
    number: u32,
    /// Where it has its name; nowhere in tests.
    instance: Weak<Instance>,
    state: Mutex<State>,
    /// Where programs wait.
    pub(super) slave_queue: WaitQueue,
    /// Where the holders of the master wait.
    pub(super) master_queue: WaitQueue,
    itself: OnceLock<Weak<Terminal>>,
}

/// What changes.
pub(super) struct State {
    pub(super) discipline: LineDiscipline,
    pub(super) backlog: VecDeque<u8>,
    pub(super) window: Winsize,
    session: Option<Pid>,
    foreground: Option<Pid>,
    /// Open slave files.
    slaves: usize,
    /// The last of them was closed, and none opened since.
    slaves_gone: bool,
    master_open: bool,
    /// `TIOCSPTLCK`
    pub(super) locked: bool,
    /// `TIOCEXCL`
    pub(super) exclusive: bool,
    /// `TIOCPKT`
    pub(super) packet: bool,
    packet_status: u8,
    /// Counts hang-ups: files of an older one are dead.
    generation: u64,
    pub(super) host: Option<HostLink>,
    /// The host's side is gone, and that was not acted upon yet.
    pub(super) host_gone: bool,
    last_input: Instant,
    /// Runs out when the time between two characters is over.
    timer: Option<Timer>,
}

impl Terminal {
    /// A pseudo-terminal whose master is open and whose slave is locked.
    pub fn new(kernel: &Weak<Kernel>, instance: &Weak<Instance>, number: u32) -> Arc<Self> {
        let terminal = Arc::new(Self {
            kernel: Weak::clone(kernel),
            number,
            instance: Weak::clone(instance),
            state: Mutex::new(State {
                discipline: LineDiscipline::default(),
                backlog: VecDeque::new(),
                window: Winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 },
                session: None,
                foreground: None,
                slaves: 0,
                slaves_gone: false,
                master_open: true,
                locked: true,
                exclusive: false,
                packet: false,
                packet_status: 0,
                generation: 0,
                host: None,
                host_gone: false,
                last_input: Instant(0),
                timer: None,
            }),
            slave_queue: WaitQueue::new(),
            master_queue: WaitQueue::new(),
            itself: OnceLock::new(),
        });
        let _ = terminal.itself.set(Arc::downgrade(&terminal));
        terminal
    }

    /// N of `/dev/pts/N`.
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// As `/proc/PID/stat` shows it.
    pub const fn device(&self) -> DeviceNumber {
        DeviceNumber { major: SLAVE_MAJOR, minor: self.number }
    }

    /// As `ps` shows it.
    pub fn name(&self) -> String {
        format!("pts/{}", self.number)
    }

    pub(super) fn kernel(&self) -> Option<Arc<Kernel>> {
        self.kernel.upgrade()
    }

    pub(super) fn downgrade(&self) -> Weak<Self> {
        self.itself.get().cloned().unwrap_or_default()
    }

    pub(crate) const fn instance(&self) -> &Weak<Instance> {
        &self.instance
    }

    /// Changes the state, then tells everybody concerned.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State, &mut Effects) -> T) -> T {
        let mut effects = Effects::default();
        let (result, foreground, gone) = {
            let mut state = self.state.lock();
            let result = change(&mut state, &mut effects);
            state.settle(&mut effects);
            if effects.readable {
                self.arm_timer(&mut state);
            }
            (result, state.foreground, std::mem::take(&mut state.host_gone))
        };
        self.announce(&effects, foreground);
        if gone {
            self.hang_up();
            self.forget_name();
        }
        result
    }

    /// Looks at the state.
    pub(super) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock())
    }

    fn announce(&self, effects: &Effects, foreground: Option<Pid>) {
        if let (Some(pgid), Some(kernel)) = (foreground, self.kernel.upgrade()) {
            for signal in &effects.signals {
                signal_group(&kernel, pgid, *signal);
            }
        }
        if effects.readable {
            self.slave_queue.wake(PollEvents::READABLE);
        }
        if effects.writable {
            self.slave_queue.wake(PollEvents::WRITABLE);
        }
        if effects.output || effects.packet != 0 {
            self.master_queue.wake(PollEvents::READABLE | PollEvents::WRITABLE | PollEvents::PRI);
        }
    }

    /// Wakes readers when the time between two characters is over (`VTIME` with `VMIN`).
    fn arm_timer(&self, state: &mut State) {
        state.last_input = Instant::now();
        state.timer = None;
        if let Some((minimum, time_ns)) = state.discipline.minimum_and_time()
            && minimum > 1
            && time_ns != 0
            && let (Some(kernel), Some(itself)) = (self.kernel.upgrade(), self.itself.get())
        {
            let deadline = state.last_input.after_ns(time_ns);
            state.timer = Some(kernel.timers.start(deadline, Arc::new(Expiry(Weak::clone(itself)))));
        }
    }

    // ---- the slave side ----

    /// Counts a new slave file; returns the generation it belongs to.
    ///
    /// # Errors
    /// `EIO`: locked, or the master is closed.
    pub(super) fn open_slave(&self) -> SysResult<u64> {
        let generation = {
            let mut state = self.state.lock();
            if state.locked || !state.master_open {
                return Err(EIO);
            }
            state.slaves += 1;
            state.slaves_gone = false;
            state.generation
        };
        self.master_queue.wake_all();
        Ok(generation)
    }

    /// A slave file was closed.
    pub(super) fn close_slave(self: &Arc<Self>) {
        let last = self.change(|state, _| {
            state.slaves = state.slaves.saturating_sub(1);
            state.slaves_gone = state.slaves == 0;
            state.slaves_gone
        });
        if last {
            if let Some(kernel) = self.kernel.upgrade() {
                self.leave_session(&kernel);
            }
            self.master_queue.wake_all();
        }
    }

    /// Whether files of a generation are hung up.
    pub(super) fn is_hung_up(&self, generation: u64) -> bool {
        self.state.lock().generation != generation
    }

    /// Reads for a program.
    ///
    /// # Errors
    /// `EAGAIN`: nothing yet.
    pub(super) fn read(&self, buffer: &mut [u8], nonblocking: bool) -> SysResult<usize> {
        self.change(|state, effects| {
            let all = nonblocking || state.is_time_over();
            let count = state.discipline.read(buffer, all).ok_or(EAGAIN)?;
            // Whoever types may go on.
            effects.output |= count != 0;
            Ok(count)
        })
    }

    /// Writes for a program.
    ///
    /// # Errors
    /// `EAGAIN`: no room. `EIO`: nobody is on the other side.
    pub(super) fn write(&self, bytes: &[u8]) -> SysResult<usize> {
        self.change(|state, effects| {
            if !state.master_open {
                return Err(EIO);
            }
            match state.discipline.write(bytes, effects) {
                0 if !bytes.is_empty() => Err(EAGAIN),
                count => Ok(count),
            }
        })
    }

    /// What a slave file is ready for.
    pub(super) fn poll_slave(&self) -> PollEvents {
        let state = self.state.lock();
        let mut events = PollEvents::empty();
        events.set(PollEvents::READABLE, state.discipline.is_readable());
        events.set(PollEvents::WRITABLE, state.discipline.has_output_room());
        events
    }

    // ---- the master side ----

    /// Reads for the holder of the master.
    ///
    /// # Errors
    /// `EAGAIN`: nothing yet. `EIO`: no slave is open.
    pub(super) fn read_master(&self, buffer: &mut [u8]) -> SysResult<usize> {
        self.change(|state, effects| {
            let Some((first, rest)) = buffer.split_first_mut() else { return Ok(0) };
            if state.packet && state.packet_status != 0 {
                *first = std::mem::take(&mut state.packet_status);
                return Ok(1);
            }
            if state.discipline.output_bytes() == 0 {
                return Err(if state.slaves_gone { EIO } else { EAGAIN });
            }
            if state.packet {
                *first = TIOCPKT_DATA;
                return Ok(1 + state.discipline.take_output(rest, effects));
            }
            Ok(state.discipline.take_output(buffer, effects))
        })
    }

    /// Types for the holder of the master.
    ///
    /// # Errors
    /// `EAGAIN`: too much waits already.
    pub(super) fn write_master(&self, bytes: &[u8]) -> SysResult<usize> {
        self.change(|state, effects| {
            state.feed(effects);
            let taken = if state.backlog.is_empty() { state.discipline.receive(bytes, effects) } else { 0 };
            let rest = bytes.get(taken..).unwrap_or_default();
            let kept = rest.len().min(BACKLOG_MAX - state.backlog.len().min(BACKLOG_MAX));
            state.backlog.extend(rest.iter().take(kept));
            match taken + kept {
                0 if !bytes.is_empty() => Err(EAGAIN),
                count => Ok(count),
            }
        })
    }

    /// What the master is ready for.
    pub(super) fn poll_master(&self) -> PollEvents {
        let state = self.state.lock();
        let status = state.packet && state.packet_status != 0;
        let mut events = PollEvents::empty();
        events.set(PollEvents::READABLE, status || state.discipline.output_bytes() != 0);
        events.set(PollEvents::PRI, status);
        events.set(PollEvents::WRITABLE, state.backlog.len() < BACKLOG_MAX);
        events.set(PollEvents::HUP, state.slaves_gone);
        events
    }

    /// The master was closed.
    pub(super) fn close_master(&self) {
        self.state.lock().master_open = false;
        self.hang_up();
        self.forget_name();
    }

    /// All open slave files are dead, the session loses its terminal and its leader hears of it (`tty_vhangup`).
    fn hang_up(&self) {
        let session = {
            let mut state = self.state.lock();
            state.master_open = false;
            state.generation += 1;
            state.timer = None;
            state.session
        };
        if let (Some(kernel), Some(terminal)) = (self.kernel.upgrade(), self.downgrade().upgrade()) {
            if let Some(leader) = session.and_then(|sid| kernel.processes.group(sid))
                && leader.zombie_status().is_none()
            {
                for signal in [SIGHUP, SIGCONT] {
                    let _ = leader.send_signal(signal, SigInfo::kernel(signal));
                }
            }
            terminal.leave_session(&kernel);
        }
        self.slave_queue.wake_all();
        self.master_queue.wake_all();
    }

    fn forget_name(&self) {
        if let Some(instance) = self.instance.upgrade() {
            instance.release(self.number);
        }
    }

    // ---- the rest ----

    /// The foreground process group.
    pub fn foreground(&self) -> Option<Pid> {
        self.state.lock().foreground
    }

    pub(super) fn set_foreground(&self, pgid: Pid) {
        self.state.lock().foreground = Some(pgid);
    }

    /// The session it controls.
    pub fn session(&self) -> Option<Pid> {
        self.state.lock().session
    }

    /// Session and foreground process group.
    pub(super) fn set_session(&self, session: Option<(Pid, Pid)>) {
        let mut state = self.state.lock();
        state.session = session.map(|(sid, _)| sid);
        state.foreground = session.map(|(_, pgid)| pgid);
    }

    /// The settings.
    pub(super) fn termios(&self) -> Termios2 {
        *self.state.lock().discipline.termios()
    }

    /// The window's size.
    pub fn window(&self) -> Winsize {
        self.state.lock().window
    }

    /// Sets the window's size; the foreground process group hears of a change.
    pub fn set_window(&self, window: Winsize) {
        let foreground = {
            let mut state = self.state.lock();
            if state.window == window {
                return;
            }
            state.window = window;
            state.foreground
        };
        if let (Some(pgid), Some(kernel)) = (foreground, self.kernel.upgrade()) {
            signal_group(&kernel, pgid, SIGWINCH);
        }
    }

    /// As [`Terminal::set_window`], from the outside.
    pub fn resize(&self, size: WindowSize) {
        self.set_window(Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 });
    }

    /// Turns packet mode on or off.
    pub(super) fn set_packet(&self, on: bool) {
        let mut state = self.state.lock();
        if on && !state.packet {
            state.packet_status = 0;
        }
        state.packet = on;
    }
}

impl State {
    /// Whether the time between two characters is over.
    fn is_time_over(&self) -> bool {
        self.discipline
            .minimum_and_time()
            .is_some_and(|(_, time)| time != 0 && Instant::now() >= self.last_input.after_ns(time))
    }

    /// Gives the line discipline what it had no room for.
    pub(super) fn feed(&mut self, effects: &mut Effects) {
        while !self.backlog.is_empty() {
            let taken = self.discipline.receive(self.backlog.as_slices().0, effects);
            self.backlog.drain(..taken);
            if taken == 0 {
                return;
            }
            effects.output = true;
        }
        if self.backlog.capacity() != 0 {
            self.backlog = VecDeque::new();
        }
    }

    /// Brings everything as far as it goes.
    fn settle(&mut self, effects: &mut Effects) {
        self.feed(effects);
        if self.host.is_some() {
            self.pump_host(effects);
            if self.slaves_gone && self.discipline.output_bytes() == 0 {
                // Nobody will read or write here again, and the outside waits for the end.
                self.host_gone = true;
            }
            if self.host_gone {
                self.host = None;
            }
        }
        if self.packet && effects.packet != 0 {
            let replaced = if effects.packet & (TIOCPKT_STOP | TIOCPKT_START) == 0 {
                0
            } else {
                TIOCPKT_STOP | TIOCPKT_START
            };
            self.packet_status = self.packet_status & !replaced | effects.packet;
        }
    }
}

struct Expiry(Weak<Terminal>);

impl TimerTarget for Expiry {
    fn expired(&self) {
        if let Some(terminal) = self.0.upgrade() {
            terminal.slave_queue.wake(PollEvents::READABLE);
        }
    }
}
