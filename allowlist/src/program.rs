//! From rows to the classic BPF program that the kernel runs on every system call (`man 2 seccomp`,
//! `linux/filter.h`): a binary search for the call's number, then its rows' conditions one after another.
//!
//! The search is not only for speed while it serves: when a program is installed, the kernel follows it once for each
//! number there is, to learn which calls are always allowed (`seccomp_cache_prepare` in kernel/seccomp.c). With a
//! chain of comparisons that was the longest step of a process's start.
//!
//! Every piece of code below ends in a `ret` on each of its paths, and jumps only within itself: pieces can be laid
//! side by side without knowing where.

use std::collections::BTreeMap;

use seccompiler::sock_filter as Step;

use crate::{Condition, Length, Row};

/// `AUDIT_ARCH_X86_64` of linux/audit.h.
const ARCHITECTURE: u32 = 0xc000_003e;
/// Offsets into `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// The program: allows what a row allows, answers `clone3` with `ENOSYS` if it is listed, kills for anything else.
pub(crate) fn compile(rows: &[Row]) -> Vec<Step> {
    let mut calls: BTreeMap<u32, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        // A number that does not exist is never made.
        if let Ok(number) = u32::try_from(row.call) {
            calls.entry(number).or_default().push(row);
        }
    }
    let calls: Vec<(u32, Vec<Step>)> =
        calls.into_iter().map(|(number, rows)| (number, judgement(number, &rows))).collect();
    let mut program = vec![step(LOAD, ARCH)];
    program.extend(when(IF_EQUAL, ARCHITECTURE, [vec![step(LOAD, NUMBER)], search(&calls)].concat()));
    program.push(kill());
    program
}

fn step(code: u16, k: u32) -> Step {
    Step { code, jt: 0, jf: 0, k }
}

fn kill() -> Step {
    step(RETURN, libc::SECCOMP_RET_KILL_PROCESS)
}

/// Runs `code` if the comparison holds, goes on behind it otherwise.
fn when(comparison: u16, k: u32, code: Vec<Step>) -> Vec<Step> {
    let mut all = match u8::try_from(code.len()) {
        Ok(length) => vec![Step { code: comparison, jt: 0, jf: length, k }],
        // Too far for a conditional jump, whose distances are bytes.
        Err(_) => {
            vec![
                Step { code: comparison, jt: 1, jf: 0, k },
                step(JUMP, u32::try_from(code.len()).unwrap_or(0)),
            ]
        }
    };
    all.extend(code);
    all
}

/// Finds the number, which is in the accumulator, among the calls, which are sorted by theirs.
fn search(calls: &[(u32, Vec<Step>)]) -> Vec<Step> {
    match calls {
        [] => vec![kill()],
        [(number, judgement)] => [when(IF_EQUAL, *number, judgement.clone()), vec![kill()]].concat(),
        _ => {
            let (below, above) = calls.split_at(calls.len() / 2);
            let pivot = above.first().map_or(0, |(number, _)| *number);
            [when(IF_AT_LEAST, pivot, search(above)), search(below)].concat()
        }
    }
}

/// What becomes of a call: the first of its rows that holds allows it.
fn judgement(number: u32, rows: &[&Row]) -> Vec<Step> {
    if i64::from(number) == libc::SYS_clone3 {
        // Its flags are in memory: glibc must be made to use `clone`, whose flags can be judged.
        return vec![step(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned())];
    }
    let allow = || step(RETURN, libc::SECCOMP_RET_ALLOW);
    if rows.iter().any(|row| row.conditions.is_empty()) {
        return vec![allow()];
    }
    let mut code = Vec::new();
    for row in rows {
        code.extend(
            row.conditions.iter().rev().fold(vec![allow()], |then, condition| check(condition, then)),
        );
    }
    code.push(kill());
    code
}

/// Runs `then` if the condition holds, goes on behind it otherwise.
fn check(condition: &Condition, then: Vec<Step>) -> Vec<Step> {
    // Little-endian: the lower half comes first.
    let low = ARGUMENTS + 8 * u32::from(condition.argument);
    let half = |at, shift: u32, then| {
        let (mask, value) = ((condition.mask >> shift) as u32, (condition.value >> shift) as u32);
        let mut code = vec![step(LOAD, at)];
        if mask != u32::MAX {
            code.push(step(AND, mask));
        }
        code.extend(when(IF_EQUAL, value & mask, then));
        code
    };
    match condition.length {
        Length::Int => half(low, 0, then),
        Length::Long => {
            let upper = half(low + 4, 32, then);
            half(low, 0, upper)
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::{equal, masked, row, wide};

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

    /// What the kernel would do, by the definition of the machine.
    fn run(program: &[Step], architecture: u32, number: i64, arguments: [u64; 6]) -> u32 {
        let mut data = [0u8; 64];
        data[0..4].copy_from_slice(&(number as u32).to_le_bytes());
        data[4..8].copy_from_slice(&architecture.to_le_bytes());
        for (index, argument) in arguments.iter().enumerate() {
            data[16 + index * 8..][..8].copy_from_slice(&argument.to_le_bytes());
        }
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let Step { code, jt, jf, k } = program[at];
            at += 1;
            let branch = |holds: bool| usize::from(if holds { jt } else { jf });
            match code {
                LOAD => accumulator = u32::from_le_bytes(data[k as usize..][..4].try_into().unwrap()),
                AND => accumulator &= k,
                JUMP => at += k as usize,
                IF_EQUAL => at += branch(accumulator == k),
                IF_AT_LEAST => at += branch(accumulator >= k),
                RETURN => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn judge(rows: &[Row], number: i64, arguments: [u64; 6]) -> u32 {
        run(&compile(rows), ARCHITECTURE, number, arguments)
    }

    #[test]
    fn listed_calls_are_allowed_and_all_others_kill() {
        for count in [0, 1, 2, 3, 60, 200] {
            let rows: Vec<Row> = (0..count).map(|n| row(n * 2 + 1, &[], "")).collect();
            for number in 0..2 * count + 3 {
                let listed = number % 2 == 1 && number < 2 * count;
                let expected = if listed { ALLOW } else { KILL };
                assert_eq!(judge(&rows, number, [0; 6]), expected, "{number} of {count}");
            }
        }
    }

    #[test]
    fn another_architecture_and_x32_kill() {
        let rows = [row(libc::SYS_read, &[], "")];
        let program = compile(&rows);
        const I386: u32 = 0x4000_0003;
        assert_eq!(run(&program, I386, libc::SYS_read, [0; 6]), KILL);
        assert_eq!(run(&program, ARCHITECTURE, 0x4000_0000 | libc::SYS_read, [0; 6]), KILL);
    }

    #[test]
    fn all_conditions_of_one_row_must_hold() {
        let rows = [
            row(libc::SYS_socket, &[equal(0, 1), equal(1, 5)], ""),
            row(libc::SYS_socket, &[equal(0, 2)], ""),
            row(libc::SYS_mmap, &[masked(2, 4, 0)], ""),
        ];
        assert_eq!(judge(&rows, libc::SYS_socket, [1, 5, 9, 9, 9, 9]), ALLOW);
        assert_eq!(judge(&rows, libc::SYS_socket, [2, 5, 0, 0, 0, 0]), ALLOW);
        assert_eq!(judge(&rows, libc::SYS_socket, [1, 6, 0, 0, 0, 0]), KILL);
        assert_eq!(judge(&rows, libc::SYS_socket, [3, 5, 0, 0, 0, 0]), KILL);
        assert_eq!(judge(&rows, libc::SYS_mmap, [0, 0, 3, 0, 0, 0]), ALLOW);
        assert_eq!(judge(&rows, libc::SYS_mmap, [0, 0, 7, 0, 0, 0]), KILL);
    }

    #[test]
    fn an_int_has_32_bits_and_a_long_64() {
        let high = 1 << 40;
        let int = [row(7, &[equal(5, 3)], "")];
        assert_eq!(judge(&int, 7, [0, 0, 0, 0, 0, 3 | high]), ALLOW);
        let long = [row(7, &[wide(5, u64::MAX, 3 | high)], "")];
        assert_eq!(judge(&long, 7, [0, 0, 0, 0, 0, 3 | high]), ALLOW);
        assert_eq!(judge(&long, 7, [0, 0, 0, 0, 0, 3]), KILL);
        assert_eq!(judge(&long, 7, [0, 0, 0, 0, 0, 4 | high]), KILL);
    }

    #[test]
    fn a_row_and_its_program_agree() {
        let rows = [
            row(9, &[equal(1, 5), masked(2, 4, 0)], ""),
            row(9, &[wide(0, u64::MAX, 1 << 40)], ""),
            row(9, &[masked(3, !6, 1)], ""),
        ];
        for row in rows {
            let program = compile(std::slice::from_ref(&row));
            for a in [0, 1, 5, 1 << 40, u64::MAX] {
                for b in [0, 1, 5 | 1 << 32, 7] {
                    let arguments = [a, b, b, b, 0, 0];
                    let allowed = run(&program, ARCHITECTURE, 9, arguments) == ALLOW;
                    assert_eq!(row.allows(&arguments), allowed, "{row:?} {arguments:x?}");
                }
            }
        }
    }

    #[test]
    fn a_row_without_conditions_settles_the_matter() {
        let rows = [row(7, &[equal(0, 1)], ""), row(7, &[], "")];
        assert_eq!(judge(&rows, 7, [9; 6]), ALLOW);
    }

    #[test]
    fn clone3_is_answered_if_it_is_listed() {
        let listed = [row(libc::SYS_clone3, &[], "")];
        assert_eq!(judge(&listed, libc::SYS_clone3, [0; 6]), libc::SECCOMP_RET_ERRNO | 38);
        assert_eq!(judge(&[], libc::SYS_clone3, [0; 6]), KILL);
    }

    #[test]
    fn long_lists_of_alternatives_jump_far_enough() {
        let rows: Vec<Row> = (0..200)
            .flat_map(|n| [row(9, &[wide(1, u64::MAX, n)], ""), row(10 + n as i64, &[], "")])
            .collect();
        assert!(compile(&rows).len() > 1000);
        assert_eq!(judge(&rows, 9, [0, 199, 0, 0, 0, 0]), ALLOW);
        assert_eq!(judge(&rows, 9, [0, 200, 0, 0, 0, 0]), KILL);
        assert_eq!(judge(&rows, 209, [0; 6]), ALLOW);
        assert_eq!(judge(&rows, 8, [0; 6]), KILL);
    }
}
