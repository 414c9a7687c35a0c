//! Application threads as the host knows them: processes, threads, and the state each stands in.
//!
//! Key types: [`Thread`], [`State`], [`Stand`] (the protocol's states, drawn in README.md), [`Batch`] (commands under
//! way), [`Birth`] (a spawn under way). `dispatch` moves them on notifications, `context` on the kernel's
//! wishes.
//!
//! Locks, outermost first: `Births`, `Thread::state`, `Birth::progress`, `Threads::announced`, and the leaves (table shards, `Process`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::task::Waker;

use abi::errno::Errno;
use parking_lot::Mutex;

use super::carried::Carried;
use super::frame::Frame;
use super::heat::Heat;
use super::lent::LentFiles;
use super::notification::Notification;
use super::place::Placed;
use super::seed::INTERRUPT_SIGNAL;
use super::slots::{Slot, SlotPlace, Space};
use super::words::SlotWords;
use crate::stub::{STATE_IDLE, STATE_WATCHED};
use crate::{Registers, SpawnError, SpawnKind, SyscallRequest, Trap};

/// One host process.
#[derive(Debug)]
pub struct Process {
    /// Host process id.
    pub pid: i32,
    /// Keeps the slots in place until the process has been reaped.
    _space: Arc<Space>,
    /// Contexts that exist for its threads.
    pub contexts: AtomicUsize,
    /// Descriptors that its threads were lent.
    pub lent: LentFiles,
    life: Mutex<Life>,
}

#[derive(Debug, Default)]
struct Life {
    /// Reaped: the pid may be somebody else's.
    over: bool,
    /// Threads that were ever born in it and have not left by themselves.
    threads: Vec<i32>,
}

impl Process {
    /// A process just made.
    pub fn new(pid: i32, space: Arc<Space>) -> Arc<Self> {
        Arc::new(Self {
            pid,
            _space: space,
            contexts: AtomicUsize::new(0),
            lent: LentFiles::default(),
            life: Mutex::default(),
        })
    }

    /// Kills all its threads.
    pub fn kill(&self) {
        self.kill_with(|_| ());
    }

    /// Kills all its threads, after something was done with them.
    pub fn kill_with(&self, first: impl FnOnce(&[i32])) {
        let life = self.life.lock();
        if !life.over {
            first(&life.threads);
            // SAFETY: no memory is involved. The pid is still its own: it is not reaped before `over` is set.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
        }
    }

    /// Kills what is left of it when no context is: a thread exited by itself and others never had one.
    pub fn kill_if_threads_remain(&self) {
        let life = self.life.lock();
        if !life.over && !life.threads.is_empty() {
            // SAFETY: as in `kill`.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
        }
    }

    /// Sends one of its threads the interrupt signal.
    pub fn signal(&self, tid: i32) {
        self.send(tid, INTERRUPT_SIGNAL);
    }

    fn send(&self, tid: i32, signal: i32) -> bool {
        let life = self.life.lock();
        // SAFETY: no memory is involved; see `kill`. Were the thread gone and its number used again, it would be by a
        // thread of this process, which takes the signal as a spurious interrupt.
        !life.over && unsafe { libc::syscall(libc::SYS_tgkill, self.pid, tid, signal) } == 0
    }

    /// Whether this is the number of a thread that it has on the host.
    pub fn owns(&self, tid: i32) -> bool {
        self.send(tid, 0)
    }

    /// How many threads it has.
    pub fn thread_count(&self) -> usize {
        self.life.lock().threads.len()
    }

    /// Adds a thread. `false`: the process is over, and nobody will bury this one.
    pub fn enter(&self, tid: i32) -> bool {
        let mut life = self.life.lock();
        if !life.over {
            life.threads.push(tid);
        }
        !life.over
    }

    /// Removes a thread that is about to end by itself.
    pub fn leave(&self, tid: i32) {
        self.life.lock().threads.retain(|other| *other != tid);
    }

    /// Declares the process over, before its pid is given back; returns the threads it had.
    pub fn end(&self) -> Vec<i32> {
        let mut life = self.life.lock();
        life.over = true;
        std::mem::take(&mut life.threads)
    }
}

/// One host thread with an application thread in it.
#[derive(Debug)]
pub struct Thread {
    /// Host thread id; 0: not known yet.
    tid: AtomicI32,
    /// Its process.
    pub process: Arc<Process>,
    /// Its slot.
    pub slot: Slot,
    /// Where it stands.
    pub state: Mutex<State>,
    /// What its call carries along.
    pub carried: Carried,
    /// The words in its slot that it may change itself.
    pub words: Arc<SlotWords>,
}

impl Thread {
    /// Gives its slot away: it is gone, or about to be.
    pub fn release_slot(&self) {
        self.words.retire();
        self.slot.space.release_slot(self.slot.place);
    }

    /// The same, and gives away what is kept ready for children.
    pub fn release_slots(&self, state: &mut State) {
        if let Some(ready) = state.ready.take() {
            self.slot.space.release_slot(ready);
        }
        self.release_slot();
    }

    /// A thread that stands so; `tid` 0: not known yet.
    pub fn new(tid: i32, process: Arc<Process>, slot: Slot, stand: Stand) -> Arc<Self> {
        let words = SlotWords::new(&slot).into();
        let (state, carried) = (State::new(stand), Carried::default());
        Arc::new(Self { tid: tid.into(), process, words, slot, state, carried })
    }

    /// Host thread id; 0: not known yet.
    pub fn tid(&self) -> i32 {
        self.tid.load(Ordering::Relaxed)
    }

    /// The host thread id has become known. To be called with the state locked, before anybody can find the thread by it.
    pub fn set_tid(&self, tid: i32) {
        self.tid.store(tid, Ordering::Relaxed);
    }

    /// A host thread or process by which its memory can be reached.
    pub fn memory_tid(&self) -> i32 {
        match self.tid() {
            0 => self.process.pid,
            tid => tid,
        }
    }

    /// An interrupt that came while the thread was held is sent once more, now that the thread is let go on.
    pub fn pass_interrupt(&self, state: &mut State) {
        if std::mem::take(&mut state.interrupted) {
            self.process.signal(self.tid());
        }
    }
}

/// Where a thread stands, and who wants to know.
#[derive(Debug)]
pub struct State {
    /// The protocol's state.
    pub stand: Stand,
    /// A trap that nobody has fetched.
    pub trap: Option<Trap>,
    /// Registers that arrived with a capture and nobody has fetched.
    pub registers: Option<Box<Registers>>,
    /// How the last batch of commands ended, if nobody has fetched it.
    pub outcome: Option<Outcome>,
    /// Who polls.
    pub waker: Option<Waker>,
    /// An interrupt came while the thread was held.
    pub interrupted: bool,
    /// The context is gone: the thread is to end at the next opportunity.
    pub orphan: bool,
    /// What its call is answered with can only be done by a thread that is held in it.
    pub to_be_held: bool,
    /// Where the memory would be mapped by the call that it is held in, if that is let be executed.
    pub placed: Option<Placed>,
    /// How often it rings.
    pub heat: Heat,
    /// Whether the spinner looks at its slot.
    pub watched: bool,
    /// Whether it is kept off the spinner's processor.
    pub seated: bool,
    /// A slot that is kept for a thread which this one may make.
    pub ready: Option<SlotPlace>,
    /// Stack and thread area in the `clone` that the thread asks for a thread with, if the host may make that as it stands.
    pub direct: Option<[u64; 2]>,
}

impl State {
    /// What the slot says while no request stands in it: whether the spinner looks.
    pub fn idle_word(&self) -> u32 {
        if self.watched { STATE_WATCHED } else { STATE_IDLE }
    }

    /// A thread standing so.
    pub fn new(stand: Stand) -> Mutex<Self> {
        Mutex::new(Self {
            stand,
            trap: None,
            registers: None,
            outcome: None,
            waker: None,
            interrupted: false,
            orphan: false,
            to_be_held: false,
            placed: None,
            heat: Heat::default(),
            watched: false,
            seated: false,
            ready: None,
            direct: None,
        })
    }
}

/// The protocol's states. `id`s are those of the pending notification.
#[derive(Debug)]
pub enum Stand {
    /// Made by the host; has not spoken yet.
    Newborn(Arc<Birth>),
    /// In application code.
    Running,
    /// Held in a system call of the application.
    Syscall { id: u64, request: SyscallRequest },
    /// Waits for the answer to a request in its slot.
    Asking { request: SyscallRequest, place: Place },
    /// The answer is known, but the thread was giving up its processor and has yet to say so.
    Returning(u64),
    /// Rings, and was told to make this call (number and arguments) in the place of its own.
    Substituting([u64; 7]),
    /// Answered with an interrupt signal pending, so that its handler puts it where it waits without being held; with the answer,
    /// if that came meanwhile.
    Sinking { request: SyscallRequest, answer: Option<u64> },
    /// Rings, and was told to make a `clone` in the place of its own call.
    Spawning(Box<Spawning>),
    /// Announced, and not made yet, or has not spoken yet; whether it is to run at once when it does.
    Unborn { request: SyscallRequest, resumed: bool },
    /// Made by such a `clone`, and held in the one call that it makes first: the host is to execute it when the thread is to run.
    Fresh { id: u64, request: SyscallRequest },
    /// Answered with an interrupt signal pending; its handler is about to speak. With the request, if it came
    /// through the slot.
    Capturing(Option<SyscallRequest>),
    /// Held in the stub's handler.
    Captured { id: u64, frame: Frame },
    /// In the stub's handler, executing commands.
    Commanded(Box<Batch>),
    /// Gone.
    Dead,
}

/// A `clone` under way in the place of a call.
#[derive(Debug)]
pub struct Spawning {
    /// What is made.
    pub what: Made,
    /// Number and arguments of the `clone`.
    pub command: [u64; 7],
    /// The call whose place it takes.
    pub request: SyscallRequest,
    /// The host was told to execute it.
    pub made: bool,
}

/// What a `clone` in the place of a call makes.
#[derive(Clone, Debug)]
pub enum Made {
    /// Something whose number its maker will tell.
    Told(Arc<Birth>),
    /// A thread that was announced, and that speaks for itself.
    Announced(Arc<Thread>),
}

/// How a thread waits for the answer to its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It looks at its slot.
    Slot,
    /// It has given up its processor; this notification holds it.
    Parked(u64),
    /// It has given up its processor; nothing holds it but the state in its slot.
    Deep,
}

impl Stand {
    /// The notification that holds the thread while its call has no answer, if the call might as well wait elsewhere.
    pub fn held_by(&self) -> Option<u64> {
        match self {
            Self::Syscall { id, request } if request.only_returns() => Some(*id),
            Self::Asking { place: Place::Parked(id), .. } => Some(*id),
            _ => None,
        }
    }

    /// Whether the thread wants a processor.
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Running | Self::Returning(_) | Self::Substituting(_) | Self::Spawning(_) => true,
            Self::Asking { place, .. } => *place == Place::Slot,
            _ => false,
        }
    }
}

/// Commands under way.
#[derive(Debug)]
pub struct Batch {
    /// Call number and arguments of each.
    pub commands: Vec<[u64; 7]>,
    /// How many the host has been told to execute.
    pub proceeded: usize,
    /// The frame the thread must still be on when it is done.
    pub frame: Frame,
    /// What for.
    pub purpose: Purpose,
}

/// What a batch is for.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// Changes of memory; the context waits for the outcome.
    Memory,
    /// One `clone`.
    Spawn(Arc<Birth>),
    /// A newborn process gets rid of its parent's slots.
    Cleanup(Arc<Birth>),
    /// One `exit`.
    Exit,
}

/// How a batch ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Commands that succeeded.
    pub done: usize,
    /// `rax` of the last.
    pub result: u64,
}

/// A spawn under way.
#[derive(Debug)]
pub struct Birth {
    /// Thread or process.
    pub kind: SpawnKind,
    /// The child's slot.
    pub slot: Slot,
    /// The process it joins, if a thread.
    pub process: Option<Arc<Process>>,
    /// Whether the child inherits slots that it must not keep.
    pub cleanup: bool,
    /// How it begins.
    pub begin: Begin,
    /// How far it is.
    pub progress: Mutex<Progress>,
}

/// How a child begins.
#[derive(Clone, Copy, Debug)]
pub enum Begin {
    /// Captured, on the frame prepared for it in its slot.
    Captured(Frame),
    /// In the call that its parent was in.
    InCall(SyscallRequest),
}

/// How far a birth is.
#[derive(Debug, Default)]
pub struct Progress {
    /// The parent stands still again.
    pub parent_back: bool,
    /// The child stands still.
    pub child: Option<Arc<Thread>>,
    /// It failed.
    pub error: Option<SpawnError>,
    /// Who polls.
    pub waker: Option<Waker>,
    /// The result was fetched.
    pub taken: bool,
    /// Nobody will fetch it.
    pub abandoned: bool,
}

impl Birth {
    /// Applies `change`, and returns whom to wake if the birth is over now.
    pub fn advance(&self, change: impl FnOnce(&mut Progress)) -> Option<Waker> {
        let mut progress = self.progress.lock();
        change(&mut progress);
        let over = progress.error.is_some() || (progress.parent_back && progress.child.is_some());
        if over { progress.waker.take() } else { None }
    }
}

/// Threads by tid, and births whose tids are not known yet.
#[derive(Debug)]
pub struct Threads {
    shards: [Mutex<HashMap<i32, Arc<Thread>, TidHasher>>; SHARDS],
    /// Processes by pid.
    pub processes: Mutex<HashMap<i32, Arc<Process>>>,
    /// Newborns that nobody has claimed.
    pub births: Mutex<Births>,
    /// Threads whose `clone` is under way, by their own word.
    pub announced: Mutex<Vec<Announced>>,
}

/// A thread that was announced, and who makes it.
#[derive(Clone, Debug)]
pub struct Announced {
    pub child: Arc<Thread>,
    pub parent: Arc<Thread>,
}

/// What is known about threads whose parent has not told their tid yet.
#[derive(Debug, Default)]
pub struct Births {
    /// Clones under way.
    pub pending: usize,
    /// First calls of threads nobody knows.
    pub parked: HashMap<i32, Notification>,
    /// Processes that were reaped before anybody knew them.
    pub ended: HashSet<i32>,
}

const SHARDS: usize = 16;

impl Threads {
    /// An empty table.
    pub fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            processes: Mutex::default(),
            births: Mutex::default(),
            announced: Mutex::default(),
        }
    }

    fn shard(&self, tid: i32) -> &Mutex<HashMap<i32, Arc<Thread>, TidHasher>> {
        &self.shards[tid.unsigned_abs() as usize % SHARDS]
    }

    /// The thread with this tid.
    pub fn get(&self, tid: i32) -> Option<Arc<Thread>> {
        self.shard(tid).lock().get(&tid).cloned()
    }

    /// Adds a thread; returns the one that had its number.
    pub fn insert(&self, thread: &Arc<Thread>) -> Option<Arc<Thread>> {
        self.shard(thread.tid()).lock().insert(thread.tid(), thread.clone())
    }

    /// Removes this very thread.
    pub fn remove(&self, thread: &Thread) {
        let mut shard = self.shard(thread.tid()).lock();
        if shard.get(&thread.tid()).is_some_and(|known| std::ptr::eq(Arc::as_ptr(known), thread)) {
            shard.remove(&thread.tid());
        }
    }
}

/// Tids are small and dense: a multiplication spreads them enough.
#[derive(Clone, Copy, Debug, Default)]
pub struct TidHasher(u64);

impl std::hash::BuildHasher for TidHasher {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl std::hash::Hasher for TidHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    fn write_i32(&mut self, tid: i32) {
        self.0 = u64::from(tid.unsigned_abs()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A failed call's error, if `rax` holds one.
pub fn call_error(result: u64) -> Option<Errno> {
    let result = result.cast_signed();
    ((-4095..0).contains(&result)).then(|| Errno::from_raw((-result) as i32))
}
