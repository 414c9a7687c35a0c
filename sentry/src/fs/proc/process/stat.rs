//! `/proc/PID/stat` (`man 5 proc_pid_stat`): 52 numbers in a line.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::errno::SysResult;
use abi::signals::Signal;

use super::super::system::{ticks, ticks_since_boot};
use super::memory::resident_estimate;
use super::{Subject, View};
use crate::fs::generated::Reader;
use crate::memory::PAGE_SIZE;
use crate::task::{CpuTimes, Pid, Resource, Task, TaskState};

/// The letter of a task's state.
pub(super) const fn state_letter(state: TaskState) -> char {
    match state {
        TaskState::Running => 'R',
        TaskState::Sleeping => 'S',
        TaskState::Stopped => 'T',
        TaskState::Zombie => 'Z',
    }
}

/// Ignored and caught signals of a process.
pub(super) fn dispositions(subject: &Subject) -> (u64, u64) {
    let handlers = subject.group.signals.handlers();
    let (mut ignored, mut caught) = (0, 0);
    for signal in (1..=64).filter_map(Signal::new) {
        let action = handlers.get(signal);
        let bit = 1_u64 << (signal.number() - 1);
        if action.is_ignore() {
            ignored |= bit;
        } else if action.sa_handler.address() != 0 {
            caught |= bit;
        }
    }
    (ignored, caught)
}

/// The state that a line about the subject shows.
pub(super) fn state_of(subject: &Subject, task: Option<&Arc<Task>>) -> TaskState {
    match task {
        Some(task) if subject.group.signals.is_stopped() && task.state() != TaskState::Zombie => {
            TaskState::Stopped
        }
        Some(task) => task.state(),
        None => TaskState::Zombie,
    }
}

/// Addresses that are shown to those who may look into the process.
#[derive(Default)]
struct Addresses {
    code: [u64; 3],
    tail: [u64; 7],
}

fn addresses(task: &Task) -> Addresses {
    let memory = task.memory();
    let program = *memory.program.lock();
    let (start_brk, _) = memory.program_break();
    Addresses {
        code: [program.start_code, program.end_code, program.start_stack],
        tail: [
            program.start_data,
            program.end_data,
            start_brk,
            program.arguments_start,
            program.arguments_end,
            program.environment_start,
            program.environment_end,
        ],
    }
}

/// `/proc/PID/stat`
pub(super) fn stat(subject: &Subject, reader: &Reader) -> SysResult<Vec<u8>> {
    let (name, _) = subject.identity()?;
    let group = &subject.group;
    let task = subject.task().ok();
    let permitted = subject.is_accessible(reader);
    let state = state_of(subject, subject.own_task().as_ref());
    let times = match (&task, subject.view) {
        (Some(task), View::Thread(_)) => task.cpu_times(),
        _ => group.cpu_times(),
    };
    let children = match subject.view {
        View::Process => *group.child_times.lock(),
        View::Thread(_) => CpuTimes::default(),
    };
    let started =
        task.as_ref().filter(|_| subject.view != View::Process).map_or(group.started, |t| t.started);
    let memory = task.as_ref().map(|task| task.memory());
    let size = memory.as_ref().map_or(0, |memory| memory.total_bytes());
    let resident = memory.as_ref().map_or(0, |memory| resident_estimate(memory).total() / PAGE_SIZE);
    let shown = task.as_ref().filter(|_| permitted).map(|task| addresses(task)).unwrap_or_default();
    let nice = group.nice.load(Ordering::Relaxed);
    let (ignored, caught) = dispositions(subject);
    let pending = task.as_ref().map_or(0, |task| task.signals.pending.lock().set().0);
    let blocked = task.as_ref().map_or(0, |task| task.signals.mask().0);
    let exit_signal =
        if subject.view == View::Process { group.exit_signal.load(Ordering::Relaxed) } else { -1 };
    let exit_code = group.zombie_status().filter(|_| permitted).map_or(0, |status| status.wait_status());
    let low = |set: u64| set & 0x7fff_ffff;
    let (terminal, foreground): (u64, Pid) = super::settings::terminal(subject);

    let mut line = format!("{} (", subject.number()).into_bytes();
    line.extend_from_slice(&super::escape(&name, b"\n\\"));
    let numbers: [i128; 49] = [
        group.parent_pid().into(),
        group.pgid().into(),
        group.sid().into(),
        terminal.into(),
        foreground.into(),
        // Flags: forked but did not exec.
        if group.has_execed.load(Ordering::Relaxed) { 0x40_0000 } else { 0x40_0040 },
        0,
        0,
        0,
        0,
        ticks(times.user_ns).into(),
        ticks(times.system_ns).into(),
        ticks(children.user_ns).into(),
        ticks(children.system_ns).into(),
        (20 + nice).into(),
        nice.into(),
        group.thread_count() as i128,
        0,
        ticks_since_boot(started).into(),
        size.into(),
        resident.into(),
        group.limits.soft(Resource::Rss).into(),
        shown.code[0].into(),
        shown.code[1].into(),
        shown.code[2].into(),
        0,
        0,
        low(pending).into(),
        low(blocked).into(),
        low(ignored).into(),
        low(caught).into(),
        i128::from(state == TaskState::Sleeping),
        0,
        0,
        exit_signal.into(),
        0,
        0,
        0,
        0,
        0,
        0,
        shown.tail[0].into(),
        shown.tail[1].into(),
        shown.tail[2].into(),
        shown.tail[3].into(),
        shown.tail[4].into(),
        shown.tail[5].into(),
        shown.tail[6].into(),
        exit_code.into(),
    ];
    line.extend_from_slice(format!(") {}", state_letter(state)).as_bytes());
    for number in numbers {
        line.extend_from_slice(format!(" {number}").as_bytes());
    }
    line.push(b'\n');
    Ok(line)
}
