//! The platform needs no host call beyond its rules and those of any Rust program.

use std::os::fd::AsFd;

use allowlist::{Row, Step, compile, row};
use platform::{
    HostCalls, MemoryOperation, NewSpace, Platform, Registers, Resume, Sharing, Spawn, SpawnKind, Trap,
};

use super::bench::*;

/// What allocation, locks and the end of a test's thread need.
const ANY_PROGRAM: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_exit,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_read,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_close,
    // The test's own.
    libc::SYS_getppid,
];
/// What every other call returns.
const REFUSED: i32 = libc::EXDEV;

/// Restricts the calling thread.
fn lock_down(platform: HostCalls) {
    let needed = ANY_PROGRAM.iter().filter(|&&call| call != libc::SYS_getppid);
    let any_program: Vec<Row> = needed.map(|&call| row(call, &[], "any program")).collect();
    let refuse = |step: &Step| match step.k {
        libc::SECCOMP_RET_KILL_PROCESS => {
            Step { k: libc::SECCOMP_RET_ERRNO | REFUSED.unsigned_abs(), ..step.clone() }
        }
        _ => step.clone(),
    };
    let code = compile(&[platform.rows(), &any_program]);
    let mut program: Vec<Step> = code.steps().iter().map(refuse).collect();
    let fprog =
        libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_mut_ptr().cast() };
    // SAFETY: whole words; `fprog` describes `program`, whose instructions are laid out as libc's are, which lives until the call returns.
    let result = unsafe {
        libc::syscall(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS as usize, 1usize, 0usize, 0usize, 0usize);
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER as usize, 0usize, &raw const fprog)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: no arguments.
    let parent = unsafe { libc::syscall(libc::SYS_getppid) };
    assert_eq!(
        (parent, std::io::Error::last_os_error().raw_os_error()),
        (-1, Some(REFUSED)),
        "the filter works"
    );
}

#[test]
fn everything_works_under_the_listed_host_calls() {
    let bench = Bench::new();
    let file = memory_file(b"one");
    lock_down(bench.platform.host_calls());

    let mut request = NewSpace::default();
    bench.finish(|wake| bench.platform.poll_new_space(wake, &mut request)).unwrap();
    let mut context = bench.start(ask_and_tell(), |_| ());
    bench.syscall(&mut *context);
    let map = MemoryOperation::MapFile {
        address: 0x100_0000,
        length: PAGE,
        protection: READ,
        sharing: Sharing::Private,
        file: file.as_fd(),
        offset: 0,
    };
    bench.memory(&mut *context, &[map, MemoryOperation::SetFsBase(DATA)]).unwrap();
    let state = context.fp_state().unwrap();
    context.set_fp_state(Some(&state)).unwrap();
    let registers = Registers { rip: CODE, rsp: STACK_TOP, ..Registers::default() };
    for kind in [SpawnKind::Thread, SpawnKind::SharedSpace, SpawnKind::Copy] {
        let mut child = bench.spawn(&mut *context, &Spawn { kind, registers, fs_base: Some(DATA) });
        child.resume(Resume::Registers);
        bench.syscall(&mut *child);
        child.cpu_time_ns();
        child.interrupter().interrupt();
        child.resume(Resume::Return(0));
        assert!(matches!(bench.trap(&mut *child), Trap::Interrupted));
    }
    context.resume(Resume::Return(3));
    assert_eq!(bench.told(&mut *context), 3);
    bench.platform.kick();
    bench.platform.wait().unwrap();

    let mut busy = bench.start(spin(), |_| ());
    while busy.cpu_time_ns().0 + busy.cpu_time_ns().1 == 0 {
        std::thread::yield_now();
    }
    busy.interrupter().interrupt();
    assert!(matches!(bench.trap(&mut *busy), Trap::Interrupted));
    assert!(matches!(bench.fault(divide(), |_| ()).vector, 0));
    let mut native = bench.start(call_and_tell(), call(libc::SYS_sched_yield, [0; 6]));
    bench.syscall(&mut *native);
    native.resume(Resume::Native);
    assert_eq!(bench.told(&mut *native), 0);
    native.kill();
    native.resume(Resume::Return(0));
    assert!(matches!(bench.trap(&mut *native), Trap::Died));
}
