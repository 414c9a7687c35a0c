//! [`PtraceContext`]: one application thread.
//!
//! The thread is [`Thread::Held`] (we own its [`Stopped`]), running, or gone. [`PtraceContext::poll_trap`] turns the
//! stop that `events` fetched into a [`Trap`], or lets the thread go on if the stop means nothing.
//! What needs the host to act in the stub (memory operations, spawning) is done by injected calls, for
//! each of which the worker waits: they are short, and there is only one worker.
//!
//! Invariants: application registers are loaded only for [`Mode::Emulated`](super::requests::Mode); a gadget call overwrites
//! the thread's registers, so it is only made after they have been captured.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context as WakeContext, Poll};

use abi::errno::{self, Errno};
use libc::user_regs_struct;
use parking_lot::Mutex;

use super::events::{Found, Process, Shared, Slot};
use super::gadget::{NO_CALL, blank_registers};
use super::memory::{self, Space};
use super::operations::{self, HostCall};
use super::requests::{Status, Stopped, USER_CS};
use crate::{
    Architecture, Context, Died, Fault, Interrupter, MemoryError, MemoryOperation, Registers, Resume, Spawn,
    SpawnError, SpawnKind, SyscallRequest, Trap, UserMemory,
};

/// One application thread under ptrace. Only to be used on the worker.
pub(super) struct PtraceContext {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    inner: Mutex<Inner>,
}

enum Thread {
    Held(Stopped),
    Running,
    Gone,
}

/// What a running thread is doing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Application,
    /// A native call at the gadget.
    Native,
}

/// Registers in the sentry's hands.
struct Captured {
    /// What the application will see.
    registers: Registers,
    /// As read, for the selectors.
    host: user_regs_struct,
}

struct Inner {
    thread: Thread,
    phase: Phase,
    /// The call at which the thread is held, until it is resumed.
    request: Option<SyscallRequest>,
    captured: Option<Captured>,
    /// A trap that is there without the thread having run.
    ready: Option<Trap>,
    /// Last known processor time (user, system).
    cpu_time_ns: (u64, u64),
}

impl Captured {
    fn read(stopped: &Stopped) -> Result<Self, Died> {
        let host = stopped.registers().map_err(|_| Died)?;
        if host.cs != USER_CS {
            stopped.enter_64_bit_mode().map_err(|_| Died)?;
        }
        Ok(Self { registers: from_host(&host), host })
    }

    fn load(&self, stopped: &Stopped) -> Result<(), Died> {
        stopped.load(&to_host(&self.registers, &self.host)).map_err(|_| Died)
    }
}

fn from_host(host: &user_regs_struct) -> Registers {
    Registers {
        rax: host.rax,
        rbx: host.rbx,
        rcx: host.rcx,
        rdx: host.rdx,
        rsi: host.rsi,
        rdi: host.rdi,
        rbp: host.rbp,
        rsp: host.rsp,
        r8: host.r8,
        r9: host.r9,
        r10: host.r10,
        r11: host.r11,
        r12: host.r12,
        r13: host.r13,
        r14: host.r14,
        r15: host.r15,
        rip: host.rip,
        eflags: host.eflags,
    }
}

/// The kernel masks the flags itself (`set_flags` in `arch/x86/kernel/ptrace.c`).
fn to_host(registers: &Registers, selectors: &user_regs_struct) -> user_regs_struct {
    let mut host = *selectors;
    host.rax = registers.rax;
    host.rbx = registers.rbx;
    host.rcx = registers.rcx;
    host.rdx = registers.rdx;
    host.rsi = registers.rsi;
    host.rdi = registers.rdi;
    host.rbp = registers.rbp;
    host.rsp = registers.rsp;
    host.r8 = registers.r8;
    host.r9 = registers.r9;
    host.r10 = registers.r10;
    host.r11 = registers.r11;
    host.r12 = registers.r12;
    host.r13 = registers.r13;
    host.r14 = registers.r14;
    host.r15 = registers.r15;
    host.rip = registers.rip;
    host.eflags = registers.eflags;
    host.orig_rax = NO_CALL;
    host
}

impl Inner {
    /// Takes the stop out of a held thread; it is up to the caller to put it back.
    fn take_held(&mut self) -> Result<Stopped, Died> {
        match std::mem::replace(&mut self.thread, Thread::Gone) {
            Thread::Held(stopped) => Ok(stopped),
            other => {
                self.thread = other;
                Err(Died)
            }
        }
    }

    fn capture(&mut self) -> Result<&mut Captured, Died> {
        let Thread::Held(stopped) = &self.thread else { return Err(Died) };
        match &mut self.captured {
            Some(captured) => Ok(captured),
            place => {
                let mut captured = Captured::read(stopped)?;
                if let Some(request) = self.request {
                    captured.registers.rax = request.number;
                }
                Ok(place.insert(captured))
            }
        }
    }

    /// Makes one call at the gadget. The inner error is the call's.
    fn inject(
        &mut self,
        shared: &Shared,
        slot: &Slot,
        (call, arguments): HostCall,
    ) -> Result<Result<u64, Errno>, Died> {
        self.capture()?;
        let stopped = self.take_held()?;
        let (stopped, result) = shared.inject(slot, stopped, call, arguments)?;
        self.thread = Thread::Held(stopped);
        Ok(result)
    }

    /// Sends the thread on its way, or holds it again at once if an interrupt is pending.
    fn run(&mut self, shared: &Shared, slot: &Slot) -> Result<(), Died> {
        self.phase = Phase::Application;
        self.request = None;
        if slot.take_interrupt() {
            self.capture()?;
            self.ready = Some(Trap::Interrupted);
            return Ok(());
        }
        let stopped = self.take_held()?;
        if let Some(captured) = self.captured.take() {
            captured.load(&stopped)?;
        }
        self.thread = Thread::Running;
        shared.run(slot, stopped)
    }

    fn resume(&mut self, shared: &Shared, slot: &Slot, how: Resume) -> Result<(), Died> {
        match how {
            Resume::Return(value) => {
                self.set_result(value)?;
                self.run(shared, slot)
            }
            Resume::Registers => self.run(shared, slot),
            // Never offered here (`may_substitute`, `begin_thread`).
            Resume::Substitute { .. } | Resume::Spawn(_) => {
                self.set_result(errno::ENOSYS.to_return_value())?;
                self.run(shared, slot)
            }
            Resume::Native => match self.native(shared) {
                Ok(call) => self.run_native(shared, slot, call),
                Err(error) => {
                    self.set_result(error.to_return_value())?;
                    self.run(shared, slot)
                }
            },
        }
    }

    fn set_result(&mut self, value: u64) -> Result<(), Died> {
        /// `ERESTARTSYS` to `ERESTART_RESTARTBLOCK` (`<linux/errno.h>`): in a system call's return value they make the host
        /// rewind the thread when a signal, such as ours, arrives.
        const RESTARTS: std::ops::RangeInclusive<i64> = -516..=-512;
        if RESTARTS.contains(&value.cast_signed()) {
            self.capture()?;
        }
        match (&mut self.captured, &self.thread) {
            (Some(captured), _) => captured.registers.rax = value,
            (None, Thread::Held(stopped)) => {
                let rax = std::mem::offset_of!(user_regs_struct, rax);
                stopped.poke(rax, value).map_err(|_| Died)?;
            }
            _ => return Err(Died),
        }
        Ok(())
    }

    fn native(&self, shared: &Shared) -> Result<HostCall, Errno> {
        operations::native_call(shared.reserved, self.request.as_ref().ok_or(errno::EINVAL)?)
    }

    fn run_native(&mut self, shared: &Shared, slot: &Slot, (call, arguments): HostCall) -> Result<(), Died> {
        self.capture()?;
        let stopped = self.take_held()?;
        match call {
            // A leader that exits before its threads is reported after them: do not wait for it.
            libc::SYS_exit => shared.leave(slot, stopped, call),
            libc::SYS_exit_group => {
                self.thread = Thread::Running;
                shared.leave(slot, stopped, call);
            }
            _ => {
                stopped.load(&shared.reserved.call_registers(call, arguments)).map_err(|_| Died)?;
                self.phase = Phase::Native;
                self.thread = Thread::Running;
                shared.run_gadget(slot, stopped)?;
            }
        }
        Ok(())
    }

    /// Interprets a stop. `None`: the thread runs again.
    fn on_stop(
        &mut self,
        shared: &Shared,
        slot: &Slot,
        stopped: Stopped,
        status: Status,
    ) -> Result<Option<Trap>, Died> {
        if self.phase == Phase::Native {
            let result = shared.injected_result(slot, &stopped, status)?;
            return self.on_native_stop(shared, slot, stopped, result).map(|()| self.ready.take());
        }
        let trap = match status {
            Status::Syscall => self.syscall_trap(&stopped)?,
            Status::Signal(signal) => fault(shared, &stopped, signal)?.map(Trap::Fault),
            Status::Event | Status::Gone => None,
        };
        let is_ours = matches!(status, Status::Signal(super::bell::SIGNAL));
        self.thread = Thread::Held(stopped);
        match trap {
            Some(trap @ Trap::Syscall(_)) => Ok(Some(trap)),
            Some(trap) => self.capture().map(|_| Some(trap)),
            None if is_ours => self.run(shared, slot).map(|()| self.ready.take()),
            None => {
                let stopped = self.take_held()?;
                self.thread = Thread::Running;
                shared.run(slot, stopped).map(|()| None)
            }
        }
    }

    fn on_native_stop(
        &mut self,
        shared: &Shared,
        slot: &Slot,
        stopped: Stopped,
        result: Option<u64>,
    ) -> Result<(), Died> {
        match (result, &mut self.captured) {
            (Some(rax), Some(captured)) => {
                captured.registers.rax = rax;
                self.thread = Thread::Held(stopped);
                self.run(shared, slot)
            }
            (Some(_), None) => Err(Died),
            (None, _) => shared.run_gadget(slot, stopped),
        }
    }

    fn syscall_trap(&mut self, stopped: &Stopped) -> Result<Option<Trap>, Died> {
        let Some(info) = stopped.syscall().map_err(|_| Died)? else { return Ok(None) };
        let architecture = if info.is_i386 { Architecture::I386 } else { Architecture::X86_64 };
        let request = SyscallRequest {
            number: info.number,
            arguments: info.arguments,
            ip: info.ip,
            architecture,
            hot: false,
        };
        self.request = Some(request);
        Ok(Some(Trap::Syscall(request)))
    }

    /// The thread cannot be controlled any more, most likely because it is dying.
    fn give_up(&mut self, slot: &Slot) {
        slot.kill();
        self.thread = Thread::Gone;
        self.captured = None;
    }
}

/// The fault behind a signal; `None` if somebody merely sent the signal.
///
/// ptrace does not tell the processor's vector and error code, so they are derived: exactly, but for the
/// write bit of page faults, which stays 0.
fn fault(shared: &Shared, stopped: &Stopped, signal: i32) -> Result<Option<Fault>, Died> {
    const SI_KERNEL: i32 = 0x80;
    const BUS_ADRALN: i32 = 1;
    const FPE_INTDIV: i32 = 1;
    const SEGV_ACCERR: i32 = 2;
    const SEGV_MAPERR: i32 = 1;
    const PRESENT: u64 = 1;
    const USER: u64 = 4;
    const FETCH: u64 = 16;

    if !matches!(
        signal,
        libc::SIGSEGV | libc::SIGBUS | libc::SIGFPE | libc::SIGILL | libc::SIGTRAP | libc::SIGSYS
    ) {
        return Ok(None);
    }
    let info = stopped.signal().map_err(|_| Died)?;
    if info.code <= 0 {
        return Ok(None);
    }
    let rip = stopped.registers().map_err(|_| Died)?.rip;
    let page_fault = |code, address: u64| {
        let present = if code == SEGV_MAPERR { 0 } else { PRESENT };
        USER | present | if address == rip { FETCH } else { 0 }
    };
    let (signal, code, address, vector, error_code) = match (signal, info.code) {
        // From the stub's filter: the legacy vsyscall page, which is not there for applications.
        (libc::SIGSYS, _) => (libc::SIGSEGV, SEGV_MAPERR, rip, 14, USER | FETCH),
        (libc::SIGSEGV, SI_KERNEL) => (signal, info.code, 0, 13, 0),
        (libc::SIGSEGV, SEGV_MAPERR..=SEGV_ACCERR) => {
            (signal, info.code, info.address, 14, page_fault(info.code, info.address))
        }
        (libc::SIGSEGV, code) => (signal, code, info.address, 14, USER | PRESENT),
        (libc::SIGBUS, SI_KERNEL) => (signal, info.code, info.address, 12, 0),
        (libc::SIGBUS, BUS_ADRALN) => (signal, info.code, info.address, 17, 0),
        (libc::SIGBUS, code) => (signal, code, info.address, 14, USER),
        (libc::SIGFPE, FPE_INTDIV) => (signal, info.code, info.address, 0, 0),
        (libc::SIGFPE, code) => {
            let vector = if shared.vectors.has_sse_exception(stopped) { 19 } else { 16 };
            (signal, code, info.address, vector, 0)
        }
        (libc::SIGILL, code) => (signal, code, info.address, 6, 0),
        // `int3` is SI_KERNEL; single steps and `int1` have codes of their own.
        (_, SI_KERNEL) => (signal, info.code, 0, 3, 0),
        (_, code) => (signal, code, info.address, 1, 0),
    };
    let signal = u8::try_from(signal).unwrap_or_default();
    Ok(Some(Fault { signal, code, address, error_code, vector }))
}

impl PtraceContext {
    /// A context for a thread that has just been born.
    fn newborn(shared: &Arc<Shared>, slot: Arc<Slot>, stopped: Stopped, captured: Captured) -> Self {
        let inner = Inner {
            thread: Thread::Held(stopped),
            phase: Phase::Application,
            request: None,
            captured: Some(captured),
            ready: None,
            cpu_time_ns: (0, 0),
        };
        Self { shared: Arc::clone(shared), slot, inner: Mutex::new(inner) }
    }

    /// Forks the seed.
    pub(super) fn from_seed(shared: &Arc<Shared>) -> Result<Self, Errno> {
        use super::events::SeedThread;
        let mut seed = shared.seed.lock();
        let SeedThread::Ready(slot, stopped) = std::mem::replace(&mut *seed, SeedThread::Lost) else {
            return Err(errno::ESRCH);
        };
        let (stopped, child) = birth(shared, &slot, stopped, SpawnKind::Copy).map_err(|_| errno::ESRCH)?;
        *seed = SeedThread::Ready(slot, stopped);
        drop(seed);
        let (slot, stopped) = child?;
        let host = blank_registers();
        let registers = Registers { eflags: host.eflags, ..Registers::default() };
        Ok(Self::newborn(shared, slot, stopped, Captured { registers, host }))
    }

    fn apply(&mut self, operations: &[MemoryOperation<'_>]) -> Result<(), MemoryError> {
        let (shared, slot, inner) = (&self.shared, &self.slot, self.inner.get_mut());
        let refused = |index| move |errno| MemoryError::Refused { index, errno };
        for (index, operation) in operations.iter().enumerate() {
            let call = operations::host_call(shared.reserved, operation).map_err(refused(index))?;
            let result = match operation {
                MemoryOperation::MapFile { file, .. } => map_file(inner, shared, slot, *file, call),
                _ => inner.inject(shared, slot, call),
            };
            result.map_err(|Died| MemoryError::Died)?.map_err(refused(index))?;
        }
        Ok(())
    }

    fn spawn(&mut self, spawn: &Spawn) -> Result<Self, SpawnError> {
        let (shared, slot, inner) = (&self.shared, &self.slot, self.inner.get_mut());
        if spawn.fs_base.is_some_and(|base| base >= operations::BASE_LIMIT) {
            return Err(SpawnError::Refused(errno::EPERM));
        }
        let selectors = inner.capture().map_err(|Died| SpawnError::Died)?.host;
        let stopped = inner.take_held().map_err(|Died| SpawnError::Died)?;
        let (stopped, child) = birth(shared, slot, stopped, spawn.kind).map_err(|Died| SpawnError::Died)?;
        inner.thread = Thread::Held(stopped);
        let (child, stopped) = child.map_err(SpawnError::Refused)?;
        if let Some(base) = spawn.fs_base {
            let offset = std::mem::offset_of!(user_regs_struct, fs_base);
            if let Err(error) = stopped.poke(offset, base) {
                shared.abandon(&child, Some(stopped));
                return Err(SpawnError::Refused(error));
            }
        }
        let captured = Captured { registers: spawn.registers, host: selectors };
        Ok(Self::newborn(shared, child, stopped, captured))
    }

    /// Processor time of one thread of several, asked of the thread itself, which only works while it is
    /// held; otherwise the last known value.
    fn thread_time_ns(&self, inner: &mut Inner) -> Result<(u64, u64), Died> {
        const RUSAGE_THREAD: u64 = 1;
        let address = self.shared.reserved.scratch();
        let call = (libc::SYS_getrusage, [RUSAGE_THREAD, address, 0, 0, 0, 0]);
        if inner.inject(&self.shared, &self.slot, call)?.is_err() {
            return Ok(inner.cpu_time_ns);
        }
        // `ru_utime` and `ru_stime`. The application could forge them: its own accounts.
        let mut words = [0; 32];
        memory::read_all(self.slot.tid, address, &mut words).map_err(|_| Died)?;
        let word = |index: usize| {
            let bytes = words.get(index * 8..index * 8 + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u64::from_ne_bytes)
        };
        let time_ns = |seconds: u64, micros: u64| {
            seconds.saturating_mul(1_000_000_000).saturating_add(micros.saturating_mul(1000))
        };
        Ok((time_ns(word(0), word(1)), time_ns(word(2), word(3))))
    }
}

/// Maps a file: sends it to the stub, lets the stub receive it as [`operations::RECEIVED`], map it and close it.
fn map_file(
    inner: &mut Inner,
    shared: &Shared,
    slot: &Slot,
    file: std::os::fd::BorrowedFd<'_>,
    map: HostCall,
) -> Result<Result<u64, Errno>, Died> {
    use std::os::fd::AsFd;
    inner.capture()?;
    let header = operations::receive_header(shared.reserved);
    if let Err(error) = memory::write_all(slot.tid, shared.reserved.scratch(), &header) {
        return if error == errno::ESRCH { Err(Died) } else { Ok(Err(error)) };
    }
    if let Err(error) = operations::send_file(shared.sender.as_fd(), file) {
        return Ok(Err(error));
    }
    let received = inner.inject(shared, slot, operations::receive_call(shared.reserved));
    // Whatever happened in the stub, the next one must not find this file on the socket.
    operations::discard_unreceived(shared.receiver.as_fd());
    let mapped = match received? {
        Ok(_) => inner.inject(shared, slot, map)?,
        refused => refused,
    };
    let close = (libc::SYS_close, [operations::RECEIVED, 0, 0, 0, 0, 0]);
    match inner.inject(shared, slot, close)? {
        Ok(_) => Ok(mapped),
        // The application made the descriptor get lost: nothing is open and nothing was mapped.
        Err(errno::EBADF) if mapped.is_err() => Ok(mapped),
        Err(_) => {
            inner.give_up(slot);
            Err(Died)
        }
    }
}

/// A thread at birth, or why there is none.
type Newborn = Result<(Arc<Slot>, Stopped), Errno>;

/// Makes `parent` clone itself at the gadget; the child is held before its first instruction.
fn birth(
    shared: &Shared,
    parent: &Slot,
    stopped: Stopped,
    kind: SpawnKind,
) -> Result<(Stopped, Newborn), Died> {
    let (call, arguments) = operations::clone_call(kind);
    shared.expect_birth();
    let made = shared.inject(parent, stopped, call, arguments);
    let child = match &made {
        Ok((_, Ok(tid))) => {
            i32::try_from(*tid).map_err(|_| errno::EIO).and_then(|tid| adopt(shared, parent, tid, kind))
        }
        Ok((_, Err(error))) => Err(*error),
        Err(Died) => Err(errno::ESRCH),
    };
    shared.end_birth();
    made.map(|(stopped, _)| (stopped, child))
}

fn adopt(shared: &Shared, parent: &Slot, tid: i32, kind: SpawnKind) -> Newborn {
    let (process, space) = match kind {
        SpawnKind::Thread => {
            parent.process.threaded.store(true, Relaxed);
            (Arc::clone(&parent.process), Arc::clone(&parent.space))
        }
        SpawnKind::SharedSpace => (new_process(tid), Arc::clone(&parent.space)),
        SpawnKind::Copy => (new_process(tid), Arc::new(Space::new(shared.reserved.start))),
    };
    let slot = shared.register(tid, process, space);
    let (stopped, _) = shared.await_stop(&slot).map_err(|Died| errno::EAGAIN)?;
    Ok((slot, stopped))
}

fn new_process(tgid: i32) -> Arc<Process> {
    Arc::new(Process { tgid, threaded: false.into() })
}

impl Context for PtraceContext {
    fn resume(&mut self, how: Resume) {
        let inner = self.inner.get_mut();
        if !matches!(inner.thread, Thread::Held(_)) {
            return;
        }
        if inner.resume(&self.shared, &self.slot, how).is_err() {
            inner.give_up(&self.slot);
        }
    }

    fn poll_trap(&mut self, wake: &mut WakeContext<'_>) -> Poll<Trap> {
        let inner = self.inner.get_mut();
        loop {
            if let Some(trap) = inner.ready.take() {
                return Poll::Ready(trap);
            }
            if matches!(inner.thread, Thread::Gone) {
                return Poll::Ready(Trap::Died);
            }
            match self.slot.take(Some(wake.waker())) {
                Found::Gone => inner.thread = Thread::Gone,
                Found::Nothing => return Poll::Pending,
                Found::Stop(stopped, status) => {
                    match inner.on_stop(&self.shared, &self.slot, stopped, status) {
                        Ok(Some(trap)) => return Poll::Ready(trap),
                        Ok(None) => {}
                        Err(Died) => inner.give_up(&self.slot),
                    }
                }
            }
        }
    }

    fn poll_capture(&mut self, _wake: &mut WakeContext<'_>) -> Poll<Result<(), Died>> {
        Poll::Ready(self.inner.get_mut().capture().map(|_| ()))
    }

    fn registers(&mut self) -> Option<&mut Registers> {
        self.inner.get_mut().captured.as_mut().map(|captured| &mut captured.registers)
    }

    fn fp_state(&mut self) -> Result<Vec<u8>, Died> {
        match &*self.inner.get_mut() {
            Inner { thread: Thread::Held(stopped), captured: Some(_), .. } => {
                self.shared.vectors.capture(stopped).map_err(|_| Died)
            }
            _ => Err(Died),
        }
    }

    fn set_fp_state(&mut self, state: Option<&[u8]>) -> Result<(), Died> {
        let vectors = self.shared.vectors;
        let area = state.map_or_else(|| vectors.initial(), |state| vectors.sanitize(state));
        match &*self.inner.get_mut() {
            Inner { thread: Thread::Held(stopped), captured: Some(_), .. } => {
                stopped.set_vector_state(&area).map_err(|_| Died)
            }
            _ => Err(Died),
        }
    }

    fn poll_memory(
        &mut self,
        _wake: &mut WakeContext<'_>,
        operations: &[MemoryOperation<'_>],
    ) -> Poll<Result<(), MemoryError>> {
        let result = self.apply(operations);
        if let Err(MemoryError::Died) = result {
            self.inner.get_mut().give_up(&self.slot);
        }
        Poll::Ready(result)
    }

    fn poll_spawn(
        &mut self,
        _wake: &mut WakeContext<'_>,
        spawn: &Spawn,
    ) -> Poll<Result<Box<dyn Context>, SpawnError>> {
        let result = self.spawn(spawn);
        if let Err(SpawnError::Died) = result {
            self.inner.get_mut().give_up(&self.slot);
        }
        Poll::Ready(result.map(|child| Box::new(child) as Box<dyn Context>))
    }

    fn interrupter(&self) -> Arc<dyn Interrupter> {
        Arc::clone(&self.slot) as Arc<dyn Interrupter>
    }

    fn memory(&self) -> Arc<dyn UserMemory> {
        Arc::clone(&self.slot.space) as Arc<dyn UserMemory>
    }

    fn cpu_time_ns(&self) -> (u64, u64) {
        let mut inner = self.inner.lock();
        let now = if !self.slot.process.threaded.load(Relaxed) {
            process_time_ns(self.slot.process.tgid)
        } else if matches!(inner.thread, Thread::Held(_)) {
            match self.thread_time_ns(&mut inner) {
                Ok(time_ns) => Some(time_ns),
                Err(Died) => {
                    inner.give_up(&self.slot);
                    None
                }
            }
        } else {
            None
        };
        if let Some((user, system)) = now {
            let (last_user, last_system) = inner.cpu_time_ns;
            inner.cpu_time_ns = (user.max(last_user), system.max(last_system));
        }
        inner.cpu_time_ns
    }

    fn kill(&mut self) {
        self.slot.kill();
    }
}

/// Processor time of a process with one thread: its clocks (`man 3 clock_getcpuclockid`) for
/// everything and for user mode. Those of threads of other processes cannot be read.
fn process_time_ns(tgid: i32) -> Option<(u64, u64)> {
    const VIRTUAL: i32 = 1;
    const SCHEDULED: i32 = 2;
    let read = |kind: i32| {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid place for the result; the clock id is judged by the host.
        let result = unsafe { libc::clock_gettime((!tgid << 3) | kind, &raw mut time) };
        let (seconds, nanos) = (u64::try_from(time.tv_sec).ok()?, u64::try_from(time.tv_nsec).ok()?);
        (result == 0).then(|| seconds * 1_000_000_000 + nanos)
    };
    let (user, total) = (read(VIRTUAL)?, read(SCHEDULED)?);
    let user = user.min(total);
    Some((user, total - user))
}

impl Drop for PtraceContext {
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        let held = match std::mem::replace(&mut inner.thread, Thread::Gone) {
            Thread::Held(stopped) => Some(stopped),
            Thread::Running => None,
            Thread::Gone => return,
        };
        if !self.slot.is_gone() {
            self.shared.abandon(&self.slot, held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protection;

    const CODE: u64 = 0x10_0000;

    /// How a stub stops that runs application code without `PTRACE_SYSEMU`, which never happens otherwise.
    fn unemulated(code: &[u8]) -> Result<Status, Died> {
        let platform = super::super::PtracePlatform::new().unwrap();
        let shared = &platform.shared;
        shared.attach().unwrap();
        let mut context = PtraceContext::from_seed(shared).unwrap();
        let protection = Protection { read: true, write: true, execute: true };
        let map = MemoryOperation::MapAnonymous { address: CODE, length: 4096, protection, reserve: true };
        context.apply(&[map]).unwrap();
        assert_eq!(context.memory().write(CODE, code), Ok(code.len()));
        let inner = context.inner.get_mut();
        let stopped = inner.take_held().unwrap();
        let mut registers = shared.reserved.call_registers(libc::SYS_sched_yield, [0; 6]);
        registers.rip = CODE;
        stopped.load(&registers).unwrap();
        shared.run_gadget(&context.slot, stopped)?;
        let (stopped, status) = shared.await_stop(&context.slot)?;
        context.inner.get_mut().thread = Thread::Held(stopped);
        Ok(status)
    }

    #[test]
    fn a_call_from_outside_the_gadget_that_gets_past_emulation_is_death() {
        let (syscall, trap) = ([0x0f, 0x05], 0xcc);
        assert_eq!(unemulated(&[trap]), Ok(Status::Signal(libc::SIGTRAP)), "the code does run");
        // `sched_yield`, which is allowed from the gadget.
        assert_eq!(unemulated(&[syscall[0], syscall[1], trap]), Err(Died));
        // `int 0x80`, whose numbers mean other calls.
        assert_eq!(unemulated(&[0xcd, 0x80, trap]), Err(Died));
    }
}
