//! What the kernel itself spends on a system call: one task makes calls on a platform whose traps cost nothing, so what
//! is left is the time from a trap to its answer.
//!
//! `cargo bench -p runsc-syscalls --bench kernel_share [-- NAME…]` prints nanoseconds per call: *direct*, where the next
//! trap is there when the task looks for it, and *queued*, where each trap wakes the task through the executor's queue,
//! as it does when a worker fetches traps from the host. User memory reads as zeros and takes everything at no cost.

use std::error::Error;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as WakeContext, Poll, Waker};
use std::time::Instant;

use abi::errno::{EFAULT, Errno};
use abi::nr;
use abi::sockets::SocketType;
use abi::user::{FromRegister, UserAddress};
use parking_lot::Mutex;
use platform::{
    Affinity, Architecture, Context, Died, HostCalls, Interrupter, Layout, MemoryError, MemoryOperation,
    NewSpace, Platform, Registers, Resume, Spawn, SpawnError, SyscallRequest, Trap, UserMemory,
};
use sentry::fs::dev::{self, Console};
use sentry::fs::pipe::new_pipe;
use sentry::kernel::Kernel;
use sentry::memory::MemoryManager;
use sentry::signals::{SignalHandlers, TaskSignals};
use sentry::spec::TmpfsOptions;
use sentry::task::{Credentials, INITIAL_MASK, Limits, Task, TaskParts, ThreadGroup, new_space};
use sentry::vfs::{FdFlags, FdTable, FsContext, MountFlags, MountNamespace};
use syscalls::sockets::sys_socketpair;
use syscalls::table::TABLE;

/// Calls of one measurement, and measurements of which the best counts.
const CALLS: u64 = 4_000;
const ROUNDS: usize = 150;
/// An address in user memory.
const BUFFER: u64 = 0x20_0000;

/// A call as the application makes it.
type Call = (usize, [u64; 6]);

/// How a trap reaches its task.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Queued,
}

/// Free traps: each context makes the same calls again and again.
struct Treadmill {
    calls: Vec<Call>,
    way: Way,
    /// Whom the next "arrival" of a trap wakes.
    waker: Arc<Mutex<Option<Waker>>>,
    /// Nanoseconds that all calls took.
    spent_ns: Arc<AtomicU64>,
}

struct Runner {
    calls: Vec<SyscallRequest>,
    way: Way,
    next: usize,
    made: u64,
    arrived: bool,
    started: Option<Instant>,
    last: u64,
    waker: Arc<Mutex<Option<Waker>>>,
    spent_ns: Arc<AtomicU64>,
    registers: Registers,
}

struct Zeros;

struct Nobody;

impl Interrupter for Nobody {
    fn interrupt(&self) {}
}

impl UserMemory for Zeros {
    fn read(&self, _address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        buffer.fill(0);
        Ok(buffer.len())
    }

    fn write(&self, _address: u64, bytes: &[u8]) -> Result<usize, Errno> {
        Ok(black_box(bytes).len())
    }

    fn compare_exchange_u32(&self, _address: u64, _expected: u32, _new: u32) -> Result<u32, Errno> {
        Err(EFAULT)
    }
}

impl Platform for Treadmill {
    fn name(&self) -> &'static str {
        "treadmill"
    }

    fn layout(&self) -> Layout {
        Layout { min_address: 0x10000, max_address: 0x7f00_0000_0000, vdso: None }
    }

    fn poll_new_space(
        &self,
        _wake: &mut WakeContext<'_>,
        _request: &mut NewSpace,
    ) -> Poll<Result<Box<dyn Context>, Errno>> {
        let request = |(number, arguments): &Call| SyscallRequest {
            number: *number as u64,
            arguments: *arguments,
            ip: 0,
            architecture: Architecture::X86_64,
            hot: false,
        };
        Poll::Ready(Ok(Box::new(Runner {
            calls: self.calls.iter().map(request).collect(),
            way: self.way,
            next: 0,
            made: 0,
            arrived: true,
            started: None,
            last: 0,
            waker: Arc::clone(&self.waker),
            spent_ns: Arc::clone(&self.spent_ns),
            registers: Registers::default(),
        })))
    }

    fn wait(&self) -> Result<(), Errno> {
        let waker = self.waker.lock();
        if let Some(waker) = &*waker {
            waker.wake_by_ref();
        }
        Ok(())
    }

    fn kick(&self) {}

    fn affinity(&self) -> Affinity {
        Affinity::Any
    }

    fn reap(&self) {}

    fn host_calls(&self) -> HostCalls {
        HostCalls::None
    }
}

impl Context for Runner {
    fn resume(&mut self, how: Resume) {
        if let Resume::Return(value) = how {
            self.last = value;
        }
        self.arrived = self.way == Way::Direct;
    }

    fn poll_trap(&mut self, wake: &mut WakeContext<'_>) -> Poll<Trap> {
        if !self.arrived {
            self.arrived = true;
            let mut waker = self.waker.lock();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(wake.waker())) {
                *waker = Some(wake.waker().clone());
            }
            return Poll::Pending;
        }
        let started = *self.started.get_or_insert_with(Instant::now);
        if self.made == CALLS {
            let spent = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.spent_ns.store(spent, Ordering::Relaxed);
            return Poll::Ready(Trap::Died);
        }
        self.made += 1;
        let request = self.calls[self.next];
        self.next = if self.next + 1 == self.calls.len() { 0 } else { self.next + 1 };
        Poll::Ready(Trap::Syscall(request))
    }

    fn poll_capture(&mut self, _wake: &mut WakeContext<'_>) -> Poll<Result<(), Died>> {
        Poll::Ready(Ok(()))
    }

    fn registers(&mut self) -> Option<&mut Registers> {
        Some(&mut self.registers)
    }

    fn fp_state(&mut self) -> Result<Vec<u8>, Died> {
        Err(Died)
    }

    fn set_fp_state(&mut self, _state: Option<&[u8]>) -> Result<(), Died> {
        Err(Died)
    }

    fn poll_memory(
        &mut self,
        _wake: &mut WakeContext<'_>,
        _operations: &[MemoryOperation<'_>],
    ) -> Poll<Result<(), MemoryError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_spawn(
        &mut self,
        _wake: &mut WakeContext<'_>,
        _spawn: &Spawn,
    ) -> Poll<Result<Box<dyn Context>, SpawnError>> {
        Poll::Ready(Err(SpawnError::Died))
    }

    fn interrupter(&self) -> Arc<dyn Interrupter> {
        Arc::new(Nobody)
    }

    fn memory(&self) -> Arc<dyn UserMemory> {
        Arc::new(Zeros)
    }

    fn cpu_time_ns(&self) -> (u64, u64) {
        // The last answer, so that a row that only measures failures is seen.
        (self.last, 0)
    }

    fn kill(&mut self) {}
}

fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut WakeContext::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// A task whose descriptors are 0: `/dev/null`, 1: `/dev/zero`, 2: a file of 64 KiB, 3 and 4: a pipe, 5 and 6: a pair of
/// sockets.
fn task(kernel: &Arc<Kernel>) -> Result<Arc<Task>, Box<dyn Error>> {
    dev::register(&kernel.vfs.devices);
    let options = TmpfsOptions { mode: 0o755, ..TmpfsOptions::default() };
    let namespace = MountNamespace::new(dev::new(&options, None, Console::Absent)?, MountFlags::empty());
    let context = ready(new_space(kernel)).ok_or("the space is not ready")??;
    let tid = kernel.processes.allocate(0, None)?;
    let handlers = Arc::<SignalHandlers>::default();
    let memory = MemoryManager::new(kernel.platform.layout(), 0);
    let mut credentials = Credentials::new(0, 0);
    credentials.effective = u64::MAX;
    let parts = TaskParts {
        tid,
        group: ThreadGroup::new(tid, handlers, Limits::default(), 0),
        context,
        memory,
        files: FdTable::new(),
        fs: FsContext::new(namespace, 0o022),
        credentials: Arc::new(credentials),
        signals: TaskSignals::new(INITIAL_MASK),
        name: b"bench".to_vec(),
    };
    let task = Task::new(Arc::clone(kernel), parts);
    kernel.processes.insert(&task);
    let open = |path: &[u8], flags: i32| task.open_path(libc::AT_FDCWD, path, flags.cast_unsigned(), 0o600);
    let null = open(b"/null", libc::O_RDWR)?;
    let zero = open(b"/zero", libc::O_RDWR)?;
    let file = open(b"/shm/file", libc::O_RDWR | libc::O_CREAT)?;
    file.ops.write(0, &[1; 65536], &file)?;
    let (reader, writer) = new_pipe(&task.credentials(), 0);
    for opened in [null, zero, file, reader, writer] {
        task.files().install_from(0, opened, FdFlags::empty(), 64)?;
    }
    let stream = SocketType::from_register(u64::from(libc::SOCK_STREAM.cast_unsigned()));
    sys_socketpair(&task, libc::AF_UNIX, stream, 0, UserAddress(BUFFER))?;
    Ok(task)
}

/// Nanoseconds per call, and what the last one returned.
fn measure(calls: &[Call], way: Way) -> Result<(f64, u64), Box<dyn Error>> {
    let waker = Arc::new(Mutex::new(None));
    let spent_ns = Arc::new(AtomicU64::new(0));
    let platform =
        Treadmill { calls: calls.to_vec(), way, waker: Arc::clone(&waker), spent_ns: Arc::clone(&spent_ns) };
    let kernel = Kernel::new(Arc::new(platform), &TABLE, 16, None)?;
    let task = task(&kernel)?;
    kernel.executor.adopt_thread();
    kernel.executor.spawn(Arc::clone(&task).run());
    kernel.executor.drain();
    while spent_ns.load(Ordering::Relaxed) == 0 {
        kernel.platform.wait()?;
        kernel.executor.drain();
    }
    *waker.lock() = None;
    let last = task.group.past_times.lock().user_ns;
    Ok((spent_ns.load(Ordering::Relaxed) as f64 / CALLS as f64, last))
}

fn main() -> Result<(), Box<dyn Error>> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let at = |fd: u64, length: u64| [fd, BUFFER, length, 0, 0, 0];
    let futex = |operation: i32, value: u64| [BUFFER, operation.cast_unsigned().into(), value, 0, 0, 0];
    let private = libc::FUTEX_PRIVATE_FLAG;
    let rows: [(&str, Vec<Call>); 14] = [
        ("getpid", vec![(nr::GETPID, [0; 6])]),
        ("getppid", vec![(nr::GETPPID, [0; 6])]),
        ("write 1 B, null", vec![(nr::WRITE, at(0, 1))]),
        ("read 1 B, zero", vec![(nr::READ, at(1, 1))]),
        ("write 64 KiB, null", vec![(nr::WRITE, at(0, 65536))]),
        ("pread 4 KiB, tmpfs", vec![(nr::PREAD64, at(2, 4096))]),
        ("pwrite 4 KiB, tmpfs", vec![(nr::PWRITE64, at(2, 4096))]),
        ("lseek, tmpfs", vec![(nr::LSEEK, [2, 0, 0, 0, 0, 0])]),
        ("pipe write + read 1 B", vec![(nr::WRITE, at(4, 1)), (nr::READ, at(3, 1))]),
        ("pipe write + read 4 KiB", vec![(nr::WRITE, at(4, 4096)), (nr::READ, at(3, 4096))]),
        ("socket write + read 1 B", vec![(nr::WRITE, at(5, 1)), (nr::READ, at(6, 1))]),
        ("futex wake, nobody", vec![(nr::FUTEX, futex(libc::FUTEX_WAKE | private, 1))]),
        ("futex wait, EAGAIN", vec![(nr::FUTEX, futex(libc::FUTEX_WAIT | private, 1))]),
        ("rt_sigprocmask", vec![(nr::RT_SIGPROCMASK, [0, 0, BUFFER, 8, 0, 0])]),
    ];
    println!("{:<26}{:>10}{:>10}   last answer", "nanoseconds per call", "direct", "queued");
    for (name, calls) in &rows {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
            continue;
        }
        let mut best = [f64::INFINITY; 2];
        let mut answer = 0;
        for _ in 0..ROUNDS {
            for (way, best) in [Way::Direct, Way::Queued].into_iter().zip(&mut best) {
                let (spent, last) = measure(calls, way)?;
                *best = best.min(spent);
                answer = last;
            }
        }
        println!("{name:<26}{:>10.0}{:>10.0}   {}", best[0], best[1], answer.cast_signed());
    }
    Ok(())
}
