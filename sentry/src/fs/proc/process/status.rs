//! `/proc/PID/status` (`man 5 proc_pid_status`).

use std::fmt::Write;

use abi::errno::SysResult;

use super::super::numbers::{hexadecimal_mask, mask_of, number_list};
use super::Subject;
use super::memory::{memory_sizes, resident_estimate};
use super::stat::{dispositions, state_letter, state_of};
use crate::fs::generated::Reader;
use crate::task::{Credentials, Resource, Task, TaskState};

const fn state_name(state: TaskState) -> &'static str {
    match state {
        TaskState::Running => "running",
        TaskState::Sleeping => "sleeping",
        TaskState::Stopped => "stopped",
        TaskState::Zombie => "zombie",
    }
}

/// `/proc/PID/status`
pub(super) fn status(subject: &Subject, _reader: &Reader) -> SysResult<Vec<u8>> {
    let (name, credentials) = subject.identity()?;
    let task = subject.task().ok();
    let state = state_of(subject, subject.own_task().as_ref());
    let mut head = b"Name:\t".to_vec();
    head.extend_from_slice(&super::escape(&name, b"\n\\"));
    let mut text = String::from("\n");
    if let Some(task) = &task {
        let _ = writeln!(text, "Umask:\t{:04o}", task.fs().umask());
    }
    let (tgid, pid) = (subject.group.pid, subject.number());
    let _ = write!(
        text,
        "State:\t{} ({})\nTgid:\t{tgid}\nNgid:\t0\nPid:\t{pid}\nPPid:\t{}\nTracerPid:\t0\n",
        state_letter(state),
        state_name(state),
        subject.group.parent_pid(),
    );
    identities(&mut text, &credentials);
    let slots = task.as_ref().map_or(0, |task| fd_slots(task));
    let _ = write!(text, "FDSize:\t{slots}\nGroups:\t");
    for (index, gid) in credentials.groups.iter().enumerate() {
        let _ = write!(text, "{}{gid}", if index > 0 { " " } else { "" });
    }
    let (pgid, sid) = (subject.group.pgid(), subject.group.sid());
    let _ = write!(text, " \nNStgid:\t{tgid}\nNSpid:\t{pid}\nNSpgid:\t{pgid}\nNSsid:\t{sid}\nKthread:\t0\n");
    if let Some(task) = &task {
        memory_lines(&mut text, task);
    }
    let _ = writeln!(text, "Threads:\t{}", subject.group.thread_count().max(1));
    signal_lines(&mut text, subject, task.as_deref());
    capability_lines(&mut text, &credentials);
    let processors = subject.facts.machine.processor_count();
    let allowed = task.as_ref().map_or(u64::MAX, |task| *task.affinity.lock());
    let allowed = allowed & mask_of(processors);
    let _ = write!(
        text,
        "Speculation_Store_Bypass:\tvulnerable\nSpeculationIndirectBranch:\talways enabled\n\
         Cpus_allowed:\t{}\nCpus_allowed_list:\t{}\nMems_allowed:\t1\nMems_allowed_list:\t0\n\
         voluntary_ctxt_switches:\t0\nnonvoluntary_ctxt_switches:\t0\n",
        hexadecimal_mask(allowed, processors),
        number_list(allowed),
    );
    head.extend_from_slice(text.as_bytes());
    Ok(head)
}

fn identities(text: &mut String, who: &Credentials) {
    let _ = write!(
        text,
        "Uid:\t{}\t{}\t{}\t{}\nGid:\t{}\t{}\t{}\t{}\n",
        who.uid, who.euid, who.suid, who.fsuid, who.gid, who.egid, who.sgid, who.fsgid,
    );
}

/// Size of a descriptor table as Linux would have allocated it.
fn fd_slots(task: &Task) -> usize {
    let highest = task.files().list().last().map_or(0, |fd| usize::try_from(*fd).unwrap_or(0) + 1);
    highest.max(64).next_power_of_two()
}

fn memory_lines(text: &mut String, task: &Task) {
    let memory = task.memory();
    let (sizes, resident) = (memory_sizes(&memory), resident_estimate(&memory));
    let mut line = |name: &str, bytes: u64| {
        let _ = writeln!(text, "{name}:\t{:>8} kB", bytes / 1024);
    };
    line("VmPeak", sizes.total);
    line("VmSize", sizes.total);
    line("VmLck", sizes.locked);
    line("VmPin", 0);
    line("VmHWM", resident.total());
    line("VmRSS", resident.total());
    line("RssAnon", resident.anonymous);
    line("RssFile", resident.file);
    line("RssShmem", resident.shared);
    line("VmData", sizes.data);
    line("VmStk", sizes.stack);
    line("VmExe", sizes.executable);
    line("VmLib", sizes.libraries);
    line("VmPTE", 0);
    line("VmSwap", 0);
    line("HugetlbPages", 0);
    let _ = write!(text, "CoreDumping:\t0\nTHP_enabled:\t1\nuntag_mask:\t0xffffffffffffffff\n");
}

fn signal_lines(text: &mut String, subject: &Subject, task: Option<&Task>) {
    let own = task.map_or(0, |task| task.signals.pending.lock().set().0);
    let shared = subject.group.signals.pending.lock().set().0;
    let blocked = task.map_or(0, |task| task.signals.mask().0);
    let (ignored, caught) = dispositions(subject);
    let queued = own.count_ones() + shared.count_ones();
    let limit = subject.group.limits.soft(Resource::PendingSignals);
    let _ = write!(
        text,
        "SigQ:\t{queued}/{limit}\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\n\
         SigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n",
    );
}

fn capability_lines(text: &mut String, who: &Credentials) {
    let _ = write!(
        text,
        "CapInh:\t{:016x}\nCapPrm:\t{:016x}\nCapEff:\t{:016x}\nCapBnd:\t{:016x}\nCapAmb:\t{:016x}\n\
         NoNewPrivs:\t{}\nSeccomp:\t0\nSeccomp_filters:\t0\n",
        who.inheritable,
        who.permitted,
        who.effective,
        who.bounding,
        who.ambient,
        u8::from(who.no_new_privileges),
    );
}
