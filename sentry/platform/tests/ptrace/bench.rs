//! A platform with this thread as its worker, and small programs to run on it.
//!
//! Programs are position-independent machine code between two labels of this binary, copied to [`CODE`] of a fresh address
//! space; [`DATA`] is read-write, with the stack at its end.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context as WakeContext, Poll, Waker};

use platform::ptrace::PtracePlatform;
use platform::{
    Context, Fault, MemoryError, MemoryOperation, NewSpace, Platform, Protection, Registers, Resume, Spawn,
    SyscallRequest, Trap,
};

pub const PAGE: u64 = 4096;
pub const CODE: u64 = 0x10_0000;
pub const DATA: u64 = 0x20_0000;
pub const DATA_BYTES: u64 = 16 * PAGE;
pub const STACK_TOP: u64 = DATA + DATA_BYTES;
pub const READ: Protection = Protection { read: true, write: false, execute: false };
pub const READ_WRITE: Protection = Protection { read: true, write: true, execute: false };
pub const READ_EXECUTE: Protection = Protection { read: true, write: false, execute: true };

/// Declares programs as `name: "instruction", …;`.
macro_rules! programs {
    ($($name:ident: $($line:expr),+;)*) => { $(
        mod $name {
            std::arch::global_asm!(
                ".pushsection .rodata",
                concat!(".globl program_", stringify!($name)),
                concat!("program_", stringify!($name), ":"),
                $($line,)+
                concat!(".globl program_", stringify!($name), "_end"),
                concat!("program_", stringify!($name), "_end:"),
                ".byte 0",
                ".popsection",
            );
        }
        pub fn $name() -> &'static [u8] {
            unsafe extern "C" {
                #[link_name = concat!("program_", stringify!($name))]
                static START: u8;
                #[link_name = concat!("program_", stringify!($name), "_end")]
                static END: u8;
            }
            // SAFETY: both labels bound the bytes assembled above, in read-only data of this binary.
            unsafe { std::slice::from_raw_parts(&raw const START, (&raw const END).addr() - (&raw const START).addr()) }
        }
    )* };
}

programs! {
    // Calls 1000, then 1001 with the result as its first argument, for ever.
    ask_and_tell:
        "2: mov rdi, 11; mov rsi, 12; mov rdx, 13; mov r10, 14; mov r8, 15; mov r9, 16",
        "mov eax, 1000", "syscall", "mov rdi, rax", "mov eax, 1001", "syscall", "jmp 2b";
    // The call whose number and arguments are in the registers, then 1001 with its result.
    call_and_tell: "2: syscall", "mov rdi, rax", "mov eax, 1001", "syscall", "jmp 2b";
    spin: "2: jmp 2b";
    int80: "mov eax, 20", "mov ebx, 21", "mov ecx, 22", "int 0x80", "mov rdi, rax", "mov eax, 1001", "syscall";
    x32: "mov eax, 0x40000027", "syscall", "mov rdi, rax", "mov eax, 1001", "syscall";
    load: "mov rax, [rdi]", "hlt";
    jump: "jmp rdi";
    divide: "xor ecx, ecx", "mov eax, 1", "cdq", "div ecx";
    illegal: "ud2";
    breakpoint: "int3";
    // Tells the low half of xmm3 after a trap has loaded it.
    vector: "mov eax, 1000", "syscall", "movq rdi, xmm3", "mov eax, 1001", "syscall";
    // Tells the word at fs:0.
    thread_pointer: "mov rdi, fs:[0]", "mov eax, 1001", "syscall";
    // Adds 1 to [rdi] atomically and tells the new value: rsi times.
    count: "2: mov eax, 1", "lock xadd [rdi], eax", "mov eax, 1001", "syscall", "dec rsi", "jnz 2b", "mov eax, 60", "syscall";
    // Fills the 13 words at rdi over and over, with all ones and with zeros.
    spoil: "cld", "xor eax, eax", "2: push rdi", "mov ecx, 13", "rep stosq", "pop rdi", "not rax", "jmp 2b";
    // Sets the trap flag, which makes the instruction after the next one trap.
    single_step: "pushf", "or dword ptr [rsp], 0x100", "popf", "nop", "mov eax, 1000", "syscall", "nop";
    // Goes to 32-bit mode (`__USER32_CS`) and calls 20 for ever.
    compatibility: "lea rax, [rip + 3f]", "push 0x23", "push rax", "retfq", "3:", "mov eax, 20", "int 0x80", "jmp 3b";
    // clock_gettime(CLOCK_MONOTONIC, rsi) through the function at rax, then tells its result.
    call_function: "mov edi, 1", "call rax", "mov rdi, rax", "mov eax, 1001", "syscall";
}

/// One platform, with this thread as its worker.
pub struct Bench {
    pub platform: PtracePlatform,
}

pub fn waker() -> Waker {
    struct Nothing;
    impl std::task::Wake for Nothing {
        fn wake(self: Arc<Self>) {}
    }
    Waker::from(Arc::new(Nothing))
}

impl Bench {
    pub fn new() -> Self {
        Self { platform: PtracePlatform::new().unwrap() }
    }

    pub fn finish<T>(&self, mut poll: impl FnMut(&mut WakeContext<'_>) -> Poll<T>) -> T {
        let waker = waker();
        let mut wake = WakeContext::from_waker(&waker);
        loop {
            match poll(&mut wake) {
                Poll::Ready(value) => return value,
                Poll::Pending => self.platform.wait().unwrap(),
            }
        }
    }

    pub fn space(&self) -> Box<dyn Context> {
        let mut request = NewSpace::default();
        self.finish(|wake| self.platform.poll_new_space(wake, &mut request)).unwrap()
    }

    pub fn memory(
        &self,
        context: &mut dyn Context,
        operations: &[MemoryOperation<'_>],
    ) -> Result<(), MemoryError> {
        self.finish(|wake| context.poll_memory(wake, operations))
    }

    pub fn trap(&self, context: &mut dyn Context) -> Trap {
        self.finish(|wake| context.poll_trap(wake))
    }

    pub fn capture(&self, context: &mut dyn Context) -> Registers {
        self.finish(|wake| context.poll_capture(wake)).unwrap();
        *context.registers().unwrap()
    }

    pub fn spawn(&self, context: &mut dyn Context, spawn: &Spawn) -> Box<dyn Context> {
        self.finish(|wake| context.poll_spawn(wake, spawn)).unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// A space with `program` at [`CODE`], data and stack, not yet running.
    pub fn load(&self, program: &[u8], change: impl FnOnce(&mut Registers)) -> Box<dyn Context> {
        let mut context = self.space();
        let map = |address, length| MemoryOperation::MapAnonymous {
            address,
            length,
            protection: READ_WRITE,
            reserve: true,
        };
        self.memory(&mut *context, &[map(CODE, PAGE), map(DATA, DATA_BYTES)]).unwrap();
        assert_eq!(context.memory().write(CODE, program), Ok(program.len()));
        let executable = MemoryOperation::Protect { address: CODE, length: PAGE, protection: READ_EXECUTE };
        self.memory(&mut *context, &[executable]).unwrap();
        let registers = context.registers().unwrap();
        registers.rip = CODE;
        registers.rsp = STACK_TOP;
        change(registers);
        context
    }

    /// Loads and starts it.
    pub fn start(&self, program: &[u8], change: impl FnOnce(&mut Registers)) -> Box<dyn Context> {
        let mut context = self.load(program, change);
        context.resume(Resume::Registers);
        context
    }

    pub fn syscall(&self, context: &mut dyn Context) -> SyscallRequest {
        match self.trap(context) {
            Trap::Syscall(request) => request,
            other => panic!("{other:?}"),
        }
    }

    /// What the program tells with call 1001.
    pub fn told(&self, context: &mut dyn Context) -> u64 {
        let request = self.syscall(context);
        assert_eq!(request.number, 1001);
        request.arguments[0]
    }

    pub fn fault(&self, program: &[u8], change: impl FnOnce(&mut Registers)) -> Fault {
        let mut context = self.start(program, change);
        match self.trap(&mut *context) {
            Trap::Fault(fault) => {
                assert!(context.registers().is_some(), "faults arrive captured");
                fault
            }
            other => panic!("{other:?}"),
        }
    }
}

pub fn call(number: i64, arguments: [u64; 6]) -> impl FnOnce(&mut Registers) {
    move |registers| {
        registers.rax = number as u64;
        [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] = arguments;
    }
}

pub fn memory_file(content: &[u8]) -> OwnedFd {
    let file = nix::sys::memfd::memfd_create(c"test", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap();
    nix::unistd::ftruncate(&file, 2 * PAGE as i64).unwrap();
    assert_eq!(nix::sys::uio::pwrite(&file, content, 0), Ok(content.len()));
    file
}
