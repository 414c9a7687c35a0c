//! A platform without processes, for the kernel's unit tests: each context plays a script of traps over plain memory.
//!
//! Key types: [`MockPlatform`], [`Script`] (what one thread will do), [`MockThread`] (what was done to it). The
//! scripts are handed to new contexts, blank spaces and children alike, in the order they were added; a context
//! without a script never traps by itself. Memory is one `Vec` from [`MEMORY_START`]; mapping operations
//! are recorded and change nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context as WakeContext, Poll, Waker};

use abi::errno::{self, Errno};
use parking_lot::{Condvar, Mutex};

use crate::{
    Affinity, Context, Died, HostCalls, Interrupter, Layout, MemoryError, MemoryOperation, NewSpace,
    Platform, Registers, Resume, Spawn, SpawnError, SpawnKind, Trap, UserMemory,
};

/// Lowest address of a context's memory.
pub const MEMORY_START: u64 = 0x10000;
/// Bytes of a context's memory.
pub const MEMORY_SIZE: usize = 1 << 20;

/// What one thread will do.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Its traps, in order; one for each resume.
    pub traps: VecDeque<Trap>,
    /// Bytes at [`MEMORY_START`], unless memory is shared with or copied from a parent.
    pub memory: Vec<u8>,
}

/// What happened to one thread.
#[derive(Debug, Default)]
pub struct MockThread {
    state: Mutex<ThreadState>,
}

#[derive(Debug, Default)]
struct ThreadState {
    script: VecDeque<Trap>,
    resumes: Vec<Resume>,
    operations: Vec<String>,
    running: bool,
    killed: bool,
    interrupted: bool,
    waker: Option<Waker>,
}

impl MockThread {
    /// How it was resumed, in order.
    pub fn resumes(&self) -> Vec<Resume> {
        self.state.lock().resumes.clone()
    }

    /// The memory operations asked of it, in `Debug` form.
    pub fn operations(&self) -> Vec<String> {
        self.state.lock().operations.clone()
    }

    /// Whether it was killed.
    pub fn is_killed(&self) -> bool {
        self.state.lock().killed
    }

    /// Adds a trap to its script and wakes whoever waits for one.
    pub fn push(&self, trap: Trap) {
        let waker = {
            let mut state = self.state.lock();
            state.script.push_back(trap);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Interrupter for MockThread {
    fn interrupt(&self) {
        let waker = {
            let mut state = self.state.lock();
            state.interrupted = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// See the module's documentation.
#[derive(Default)]
pub struct MockPlatform {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    scripts: Mutex<VecDeque<Script>>,
    threads: Mutex<Vec<Arc<MockThread>>>,
    kicks: Mutex<usize>,
    kicked: Condvar,
}

impl MockPlatform {
    /// A platform without scripts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the script of the next context that will be made.
    pub fn add(&self, script: Script) {
        self.shared.scripts.lock().push_back(script);
    }

    /// All threads made so far, in order.
    pub fn threads(&self) -> Vec<Arc<MockThread>> {
        self.shared.threads.lock().clone()
    }
}

impl Shared {
    fn context(self: &Arc<Self>, registers: Registers, memory: Option<Arc<MockMemory>>) -> Box<dyn Context> {
        let script = self.scripts.lock().pop_front().unwrap_or_default();
        let memory = memory.unwrap_or_else(|| {
            let mut bytes = script.memory;
            bytes.resize(MEMORY_SIZE, 0);
            Arc::new(MockMemory(Mutex::new(bytes)))
        });
        let thread = Arc::new(MockThread::default());
        thread.state.lock().script = script.traps;
        self.threads.lock().push(thread.clone());
        let fp = vec![0; 512];
        Box::new(MockContext { shared: self.clone(), thread, registers, captured: true, memory, fp })
    }
}

impl Platform for MockPlatform {
    fn name(&self) -> &'static str {
        "mock"
    }

    fn layout(&self) -> Layout {
        Layout { min_address: MEMORY_START, max_address: 0x7f00_0000_0000, vdso: None }
    }

    fn poll_new_space(
        &self,
        _wake: &mut WakeContext<'_>,
        _request: &mut NewSpace,
    ) -> Poll<Result<Box<dyn Context>, Errno>> {
        Poll::Ready(Ok(self.shared.context(Registers::default(), None)))
    }

    fn wait(&self) -> Result<(), Errno> {
        let mut kicks = self.shared.kicks.lock();
        while *kicks == 0 {
            self.shared.kicked.wait(&mut kicks);
        }
        *kicks -= 1;
        Ok(())
    }

    fn kick(&self) {
        *self.shared.kicks.lock() += 1;
        self.shared.kicked.notify_one();
    }

    fn affinity(&self) -> Affinity {
        Affinity::Any
    }

    fn reap(&self) {}

    fn host_calls(&self) -> HostCalls {
        HostCalls::None
    }
}

struct MockContext {
    shared: Arc<Shared>,
    thread: Arc<MockThread>,
    registers: Registers,
    captured: bool,
    memory: Arc<MockMemory>,
    fp: Vec<u8>,
}

impl Context for MockContext {
    fn resume(&mut self, how: Resume) {
        let mut state = self.thread.state.lock();
        if let Resume::Return(value) = how {
            self.registers.rax = value;
        }
        state.resumes.push(how);
        state.running = true;
        self.captured = false;
    }

    fn poll_trap(&mut self, wake: &mut WakeContext<'_>) -> Poll<Trap> {
        let mut state = self.thread.state.lock();
        if state.killed {
            return Poll::Ready(Trap::Died);
        }
        let trap = if !state.running {
            None
        } else if std::mem::take(&mut state.interrupted) {
            Some(Trap::Interrupted)
        } else {
            state.script.pop_front()
        };
        let Some(trap) = trap else {
            state.waker = Some(wake.waker().clone());
            return Poll::Pending;
        };
        state.running = false;
        self.captured = !matches!(trap, Trap::Syscall(_));
        if let Trap::Syscall(request) = &trap {
            let [rdi, rsi, rdx, r10, r8, r9] = request.arguments;
            let (rax, rip) = (request.number, request.ip);
            self.registers = Registers { rax, rip, rdi, rsi, rdx, r10, r8, r9, ..self.registers };
        }
        Poll::Ready(trap)
    }

    fn poll_capture(&mut self, _wake: &mut WakeContext<'_>) -> Poll<Result<(), Died>> {
        let dead = self.thread.is_killed();
        self.captured = !dead;
        Poll::Ready(if dead { Err(Died) } else { Ok(()) })
    }

    fn registers(&mut self) -> Option<&mut Registers> {
        self.captured.then_some(&mut self.registers)
    }

    fn fp_state(&mut self) -> Result<Vec<u8>, Died> {
        if self.captured { Ok(self.fp.clone()) } else { Err(Died) }
    }

    fn set_fp_state(&mut self, state: Option<&[u8]>) -> Result<(), Died> {
        if !self.captured {
            return Err(Died);
        }
        self.fp = state.map_or_else(|| vec![0; 512], <[u8]>::to_vec);
        Ok(())
    }

    fn poll_memory(
        &mut self,
        _wake: &mut WakeContext<'_>,
        operations: &[MemoryOperation<'_>],
    ) -> Poll<Result<(), MemoryError>> {
        self.captured = true;
        let mut state = self.thread.state.lock();
        if state.killed {
            return Poll::Ready(Err(MemoryError::Died));
        }
        state.operations.extend(operations.iter().map(|operation| format!("{operation:?}")));
        Poll::Ready(Ok(()))
    }

    fn poll_spawn(
        &mut self,
        _wake: &mut WakeContext<'_>,
        spawn: &Spawn,
    ) -> Poll<Result<Box<dyn Context>, SpawnError>> {
        self.captured = true;
        if self.thread.is_killed() {
            return Poll::Ready(Err(SpawnError::Died));
        }
        let memory = match spawn.kind {
            SpawnKind::Thread | SpawnKind::SharedSpace => self.memory.clone(),
            SpawnKind::Copy => Arc::new(MockMemory(Mutex::new(self.memory.0.lock().clone()))),
        };
        Poll::Ready(Ok(self.shared.context(spawn.registers, Some(memory))))
    }

    fn interrupter(&self) -> Arc<dyn Interrupter> {
        self.thread.clone()
    }

    fn memory(&self) -> Arc<dyn UserMemory> {
        self.memory.clone()
    }

    fn cpu_time_ns(&self) -> (u64, u64) {
        (0, 0)
    }

    fn kill(&mut self) {
        self.thread.state.lock().killed = true;
    }
}

/// Bytes from [`MEMORY_START`] on.
#[derive(Debug)]
struct MockMemory(Mutex<Vec<u8>>);

fn window(address: u64, length: usize, size: usize) -> Result<std::ops::Range<usize>, Errno> {
    let start = address.checked_sub(MEMORY_START).and_then(|start| usize::try_from(start).ok());
    let start = start.filter(|start| *start < size).ok_or(errno::EFAULT)?;
    Ok(start..start.saturating_add(length).min(size))
}

impl UserMemory for MockMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let bytes = self.0.lock();
        let range = window(address, buffer.len(), bytes.len())?;
        let count = range.len();
        buffer[..count].copy_from_slice(&bytes[range]);
        Ok(count)
    }

    fn write(&self, address: u64, source: &[u8]) -> Result<usize, Errno> {
        if source.is_empty() {
            return Ok(0);
        }
        let mut bytes = self.0.lock();
        let range = window(address, source.len(), bytes.len())?;
        let count = range.len();
        bytes[range].copy_from_slice(&source[..count]);
        Ok(count)
    }

    fn compare_exchange_u32(&self, address: u64, expected: u32, new: u32) -> Result<u32, Errno> {
        let mut bytes = self.0.lock();
        let range = window(address, 4, bytes.len())?;
        let word: &mut [u8; 4] = (&mut bytes[range]).try_into().map_err(|_| errno::EFAULT)?;
        let old = u32::from_ne_bytes(*word);
        if old == expected {
            *word = new.to_ne_bytes();
        }
        Ok(old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Architecture, SyscallRequest};

    #[test]
    fn a_script_plays_one_trap_for_each_resume_and_shows_what_was_done() {
        let platform = MockPlatform::new();
        let request = SyscallRequest {
            number: 39,
            arguments: [1; 6],
            ip: 2,
            architecture: Architecture::X86_64,
            hot: false,
        };
        platform.add(Script { traps: [Trap::Syscall(request)].into(), memory: vec![1, 2, 3] });
        let mut wake = WakeContext::from_waker(Waker::noop());
        let Poll::Ready(Ok(mut context)) = platform.poll_new_space(&mut wake, &mut NewSpace::default())
        else {
            panic!("no context")
        };
        assert!(context.poll_trap(&mut wake).is_pending());
        context.resume(Resume::Registers);
        assert!(
            matches!(context.poll_trap(&mut wake), Poll::Ready(Trap::Syscall(trapped)) if trapped == request)
        );
        assert!(context.registers().is_none());
        let mut bytes = [0; 2];
        assert_eq!(context.memory().read(MEMORY_START + 1, &mut bytes), Ok(2));
        assert_eq!(bytes, [2, 3]);
        assert_eq!(context.memory().compare_exchange_u32(MEMORY_START, 0x0003_0201, 9), Ok(0x0003_0201));
        context.resume(Resume::Return(5));
        assert!(context.poll_trap(&mut wake).is_pending());
        context.interrupter().interrupt();
        assert!(matches!(context.poll_trap(&mut wake), Poll::Ready(Trap::Interrupted)));
        let threads = platform.threads();
        assert!(matches!(threads[0].resumes()[..], [Resume::Registers, Resume::Return(5)]));
    }
}
