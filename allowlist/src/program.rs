//! From rows to the classic BPF program that the kernel runs on every system call (`man 2 seccomp`,
//! `linux/filter.h`): a binary search for the call's number, then its rows' conditions one after another.
//!
//! The search is not only for speed while it serves: when a program is installed, the kernel follows it once for each
//! number there is, to learn which calls are always allowed (`seccomp_cache_prepare` in kernel/seccomp.c). With a
//! chain of comparisons that was the longest step of a process's start.
//!
//! All of it are constant functions, so that a program is made once and for all by Rust's compiler (`program!`), and what
//! would be wrong with one, too many rows or a number that is none, is an error of the build. That is why loops count and
//! tables are arrays.
//!
//! Every piece of code below ends in a `ret` on each of its paths, and jumps only within itself: pieces can be laid
//! side by side without knowing where.

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
pub(crate) const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// The kernel takes no longer program (`BPF_MAXINSNS` of linux/bpf_common.h).
const MOST_STEPS: usize = 4096;
const MOST_ROWS: usize = 512;

/// A program in the making, or made.
#[derive(Debug)]
pub struct Code {
    steps: [Step; MOST_STEPS],
    length: usize,
}

/// The program: allows what a row of the lists allows, answers `clone3` with `ENOSYS` if it is listed, kills for anything else.
///
/// # Panics
/// If there are more rows or instructions than there may be.
pub const fn compile(lists: &[&[Row]]) -> Code {
    let rows = Sorted::new(lists);
    let mut code =
        Code { steps: [const { step(RETURN, libc::SECCOMP_RET_KILL_PROCESS) }; MOST_STEPS], length: 0 };
    code.push(step(LOAD, ARCH));
    let ours = code.begin();
    code.push(step(LOAD, NUMBER));
    code.search(&rows, 0, rows.calls);
    code.end(ours, IF_EQUAL, ARCHITECTURE);
    code.kill();
    code
}

const fn step(code: u16, k: u32) -> Step {
    Step { code, jt: 0, jf: 0, k }
}

/// All rows, by the number of their call, in the order of the lists where it is the same.
struct Sorted<'a> {
    rows: [Option<&'a Row>; MOST_ROWS],
    /// Where each call's rows begin, and, behind the last, where they end.
    starts: [usize; MOST_ROWS + 1],
    calls: usize,
}

#[expect(
    clippy::indexing_slicing,
    reason = "constant functions have no other way; what is wrong does not build"
)]
impl<'a> Sorted<'a> {
    const fn new(lists: &[&'a [Row]]) -> Self {
        let mut sorted = Self { rows: [None; MOST_ROWS], starts: [0; MOST_ROWS + 1], calls: 0 };
        let (mut list, mut length) = (0, 0);
        while list < lists.len() {
            let mut index = 0;
            while index < lists[list].len() {
                sorted.insert(length, &lists[list][index]);
                length += 1;
                index += 1;
            }
            list += 1;
        }
        let mut index = 0;
        while index < length {
            if index == 0 || sorted.number(index) != sorted.number(index - 1) {
                sorted.starts[sorted.calls] = index;
                sorted.calls += 1;
            }
            index += 1;
        }
        sorted.starts[sorted.calls] = length;
        sorted
    }

    /// Puts a row behind all those of the first `length` whose number is not larger.
    const fn insert(&mut self, length: usize, row: &'a Row) {
        assert!(row.call >= 0 && row.call <= u32::MAX as i64, "there is no such call");
        let mut place = length;
        while place > 0 && self.number(place - 1) > row.call as u32 {
            self.rows[place] = self.rows[place - 1];
            place -= 1;
        }
        self.rows[place] = Some(row);
    }

    const fn row(&self, index: usize) -> &'a Row {
        match self.rows[index] {
            Some(row) => row,
            None => unreachable!(),
        }
    }

    const fn number(&self, index: usize) -> u32 {
        self.row(index).call as u32
    }
}

#[expect(
    clippy::indexing_slicing,
    reason = "constant functions have no other way; what is wrong does not build"
)]
impl Code {
    /// How many instructions there are.
    pub const fn length(&self) -> usize {
        self.length
    }

    /// The instructions.
    ///
    /// # Panics
    /// If there are not as many.
    pub const fn fitted<const LENGTH: usize>(&self) -> [Step; LENGTH] {
        assert!(LENGTH == self.length);
        let mut fitted = [const { step(0, 0) }; LENGTH];
        let mut index = 0;
        while index < LENGTH {
            fitted[index] = copy(&self.steps[index]);
            index += 1;
        }
        fitted
    }

    /// The instructions, for lists that are made while the process runs.
    pub fn steps(&self) -> &[Step] {
        &self.steps[..self.length]
    }

    const fn push(&mut self, step: Step) {
        self.steps[self.length] = step;
        self.length += 1;
    }

    const fn kill(&mut self) {
        self.push(step(RETURN, libc::SECCOMP_RET_KILL_PROCESS));
    }

    /// Begins a piece that is run if a comparison holds; [`Self::end`] says which.
    const fn begin(&mut self) -> usize {
        self.push(step(RETURN, libc::SECCOMP_RET_KILL_PROCESS));
        self.length - 1
    }

    /// Ends the piece that began at `at`: it runs if the comparison holds, and what comes behind it otherwise.
    const fn end(&mut self, at: usize, comparison: u16, k: u32) {
        let length = self.length - at - 1;
        if length <= u8::MAX as usize {
            self.steps[at] = Step { code: comparison, jt: 0, jf: length as u8, k };
            return;
        }
        // Too far for a conditional jump, whose distances are bytes: over another jump, for which the piece moves on.
        self.push(step(0, 0));
        let mut index = self.length - 1;
        while index > at + 1 {
            self.steps[index] = copy(&self.steps[index - 1]);
            index -= 1;
        }
        self.steps[at] = Step { code: comparison, jt: 1, jf: 0, k };
        self.steps[at + 1] = step(JUMP, length as u32);
    }

    /// Finds the number, which is in the accumulator, among the calls from `first` up to `end`.
    const fn search(&mut self, rows: &Sorted<'_>, first: usize, end: usize) {
        if first == end {
            self.kill();
        } else if end - first == 1 {
            let found = self.begin();
            self.judge(rows, first);
            self.end(found, IF_EQUAL, rows.number(rows.starts[first]));
            self.kill();
        } else {
            let pivot = usize::midpoint(first, end);
            let above = self.begin();
            self.search(rows, pivot, end);
            self.end(above, IF_AT_LEAST, rows.number(rows.starts[pivot]));
            self.search(rows, first, pivot);
        }
    }

    /// What becomes of a call: the first of its rows that holds allows it.
    const fn judge(&mut self, rows: &Sorted<'_>, call: usize) {
        let (first, end) = (rows.starts[call], rows.starts[call + 1]);
        if rows.number(first) as i64 == libc::SYS_clone3 {
            // Its flags are in memory: glibc must be made to use `clone`, whose flags can be judged.
            self.push(step(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32));
            return;
        }
        let mut index = first;
        while index < end {
            if rows.row(index).conditions.is_empty() {
                self.push(step(RETURN, libc::SECCOMP_RET_ALLOW));
                return;
            }
            index += 1;
        }
        index = first;
        while index < end {
            self.check(rows.row(index).conditions, 0);
            index += 1;
        }
        self.kill();
    }

    /// Allows the call if all conditions from this one on hold, goes on behind it otherwise.
    const fn check(&mut self, conditions: &[Condition], index: usize) {
        if index == conditions.len() {
            self.push(step(RETURN, libc::SECCOMP_RET_ALLOW));
            return;
        }
        let condition = &conditions[index];
        // Little-endian: the lower half comes first.
        let low = ARGUMENTS + 8 * condition.argument as u32;
        let lower = self.compare(low, condition.mask as u32);
        match condition.length {
            Length::Int => self.check(conditions, index + 1),
            Length::Long => {
                let upper = self.compare(low + 4, (condition.mask >> 32) as u32);
                self.check(conditions, index + 1);
                self.end(upper, IF_EQUAL, ((condition.value & condition.mask) >> 32) as u32);
            }
        }
        self.end(lower, IF_EQUAL, (condition.value & condition.mask) as u32);
    }

    /// Begins a piece that is run if half an argument, masked, is what [`Self::end`] says.
    const fn compare(&mut self, half: u32, mask: u32) -> usize {
        self.push(step(LOAD, half));
        if mask != u32::MAX {
            self.push(step(AND, mask));
        }
        self.begin()
    }
}

const fn copy(step: &Step) -> Step {
    Step { code: step.code, jt: step.jt, jf: step.jf, k: step.k }
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
        run(compile(&[rows]).steps(), ARCHITECTURE, number, arguments)
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
        let code = compile(&[&rows]);
        let program = code.steps();
        const I386: u32 = 0x4000_0003;
        assert_eq!(run(program, I386, libc::SYS_read, [0; 6]), KILL);
        assert_eq!(run(program, ARCHITECTURE, 0x4000_0000 | libc::SYS_read, [0; 6]), KILL);
    }

    #[test]
    fn all_conditions_of_one_row_must_hold() {
        const ROWS: [Row; 3] = [
            row(libc::SYS_socket, &[equal(0, 1), equal(1, 5)], ""),
            row(libc::SYS_socket, &[equal(0, 2)], ""),
            row(libc::SYS_mmap, &[masked(2, 4, 0)], ""),
        ];
        assert_eq!(judge(&ROWS, libc::SYS_socket, [1, 5, 9, 9, 9, 9]), ALLOW);
        assert_eq!(judge(&ROWS, libc::SYS_socket, [2, 5, 0, 0, 0, 0]), ALLOW);
        assert_eq!(judge(&ROWS, libc::SYS_socket, [1, 6, 0, 0, 0, 0]), KILL);
        assert_eq!(judge(&ROWS, libc::SYS_socket, [3, 5, 0, 0, 0, 0]), KILL);
        assert_eq!(judge(&ROWS, libc::SYS_mmap, [0, 0, 3, 0, 0, 0]), ALLOW);
        assert_eq!(judge(&ROWS, libc::SYS_mmap, [0, 0, 7, 0, 0, 0]), KILL);
    }

    #[test]
    fn an_int_has_32_bits_and_a_long_64() {
        const HIGH: u64 = 1 << 40;
        const INT: [Row; 1] = [row(7, &[equal(5, 3)], "")];
        assert_eq!(judge(&INT, 7, [0, 0, 0, 0, 0, 3 | HIGH]), ALLOW);
        const LONG: [Row; 1] = [row(7, &[wide(5, u64::MAX, 3 | HIGH)], "")];
        assert_eq!(judge(&LONG, 7, [0, 0, 0, 0, 0, 3 | HIGH]), ALLOW);
        assert_eq!(judge(&LONG, 7, [0, 0, 0, 0, 0, 3]), KILL);
        assert_eq!(judge(&LONG, 7, [0, 0, 0, 0, 0, 4 | HIGH]), KILL);
    }

    #[test]
    fn a_row_and_its_program_agree() {
        const ROWS: [Row; 3] = [
            row(9, &[equal(1, 5), masked(2, 4, 0)], ""),
            row(9, &[wide(0, u64::MAX, 1 << 40)], ""),
            row(9, &[masked(3, !6, 1)], ""),
        ];
        for row in ROWS {
            let code = compile(&[std::slice::from_ref(&row)]);
            for a in [0, 1, 5, 1 << 40, u64::MAX] {
                for b in [0, 1, 5 | 1 << 32, 7] {
                    let arguments = [a, b, b, b, 0, 0];
                    let allowed = run(code.steps(), ARCHITECTURE, 9, arguments) == ALLOW;
                    assert_eq!(row.allows(&arguments), allowed, "{row:?} {arguments:x?}");
                }
            }
        }
    }

    #[test]
    fn a_row_without_conditions_settles_the_matter() {
        const ROWS: [Row; 2] = [row(7, &[equal(0, 1)], ""), row(7, &[], "")];
        assert_eq!(judge(&ROWS, 7, [9; 6]), ALLOW);
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
            .flat_map(|n| {
                [row(9, Box::leak(Box::new([wide(1, u64::MAX, n)])), ""), row(10 + n as i64, &[], "")]
            })
            .collect();
        assert!(compile(&[&rows]).length() > 1000);
        assert_eq!(judge(&rows, 9, [0, 199, 0, 0, 0, 0]), ALLOW);
        assert_eq!(judge(&rows, 9, [0, 200, 0, 0, 0, 0]), KILL);
        assert_eq!(judge(&rows, 209, [0; 6]), ALLOW);
        assert_eq!(judge(&rows, 8, [0; 6]), KILL);
    }

    #[test]
    fn a_number_that_is_known_later_takes_its_placeholder() {
        const PLACEHOLDER: u32 = 0x7fff_0001;
        const ROWS: [Row; 1] = [row(9, &[equal(1, PLACEHOLDER as u64), equal(2, 3)], "")];
        let program = crate::filled(crate::program!([ROWS.as_slice()]), PLACEHOLDER, 77);
        assert_eq!(run(&program, ARCHITECTURE, 9, [0, 77, 3, 0, 0, 0]), ALLOW);
        assert_eq!(run(&program, ARCHITECTURE, 9, [0, 77, 4, 0, 0, 0]), KILL);
        assert_eq!(run(&program, ARCHITECTURE, 9, [0, PLACEHOLDER.into(), 3, 0, 0, 0]), KILL);
    }
}
