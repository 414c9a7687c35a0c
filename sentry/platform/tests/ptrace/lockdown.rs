//! The platform needs no host call beyond its rules and those of any Rust program.

use std::os::fd::AsFd;

use libc::sock_filter;
use platform::{
    HostRule, MemoryOperation, NewSpace, Platform, Registers, Resume, Sharing, Spawn, SpawnKind, Trap,
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

const fn op(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

/// Allows one rule, or falls through.
fn rule(call: libc::c_long, arguments: &[platform::ArgumentRule]) -> Vec<sock_filter> {
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let mut tests = vec![(0, u32::MAX, u32::try_from(call).unwrap())];
    for argument in arguments {
        let offset = 16 + 8 * u32::from(argument.index);
        tests.push((offset, argument.mask as u32, argument.value as u32));
        tests.push((offset + 4, (argument.mask >> 32) as u32, (argument.value >> 32) as u32));
    }
    let mut program = Vec::new();
    for (index, &(offset, mask, value)) in tests.iter().enumerate() {
        let to_end = u8::try_from((tests.len() - index - 1) * 3 + 1).unwrap();
        program.push(op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset));
        program.push(op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, mask));
        program.push(op(EQUAL, 0, to_end, value));
    }
    program.push(op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    program
}

/// Restricts the calling thread.
fn lock_down(rules: &[HostRule]) {
    let mut program: Vec<_> =
        rules.iter().flat_map(|host_rule| rule(host_rule.call, host_rule.arguments)).collect();
    program.extend(
        ANY_PROGRAM.iter().filter(|&&call| call != libc::SYS_getppid).flat_map(|&call| rule(call, &[])),
    );
    program.push(op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | REFUSED.unsigned_abs()));
    let fprog = libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_mut_ptr() };
    // SAFETY: whole words; `fprog` describes `program`, which lives until the call returns.
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
fn everything_works_under_the_host_rules() {
    let bench = Bench::new();
    let file = memory_file(b"one");
    lock_down(bench.platform.host_rules());

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
