//! Profiles of rows: with `--profiles`, each run of a program in a column of ours is recorded with perf(1),
//! and its hottest symbols are written as text, by process and thread; before them, what the time went to by kind.

use harness::command;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const SAMPLES_PER_SECOND: &str = "997";

/// A recording of one row in one column.
#[derive(Debug)]
pub struct Recording {
    data: PathBuf,
    text: PathBuf,
}

impl Recording {
    pub fn new(directory: &Path, key: &str, column: &str) -> Result<Recording, String> {
        std::fs::create_dir_all(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
        let file = |extension: &str| directory.join(format!("{key}.{column}.{extension}"));
        Ok(Recording { data: file("data"), text: file("txt") })
    }

    /// The command under perf, which follows its children.
    pub fn wrap(&self, command: &Command) -> Command {
        let mut perf = Command::new("perf");
        perf.args(["record", "--quiet", "--freq", SAMPLES_PER_SECOND, "--call-graph", "fp", "--output"]);
        perf.arg(&self.data).arg("--").arg(command.get_program()).args(command.get_args());
        perf
    }

    /// Writes the hottest symbols, with their callers below them in a second part.
    pub fn report(&self) -> Result<(), String> {
        let mut text = self.kinds()?;
        for (title, options) in [
            ("by symbol", &["--no-children", "--call-graph", "none", "--sort", "comm,dso,symbol"][..]),
            ("with what they call", &["--children", "--call-graph", "none", "--sort", "dso,symbol"]),
        ] {
            let mut perf = Command::new("perf");
            perf.args(["report", "--stdio", "--percent-limit", "0.4", "--input"])
                .arg(&self.data)
                .args(options);
            let report = command::run(&mut perf, LIMIT).ok("perf report")?;
            let _ = writeln!(text, "# {title}");
            for line in report.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
                // perf pads its columns to the longest symbol there is.
                let words: Vec<&str> = line.split_whitespace().collect();
                let _ = writeln!(text, "{}", words.join(" "));
            }
        }
        std::fs::write(&self.text, text).map_err(|e| format!("{}: {e}", self.text.display()))
    }

    /// What all samples together went to, as one line of a Markdown table below its head.
    fn kinds(&self) -> Result<String, String> {
        let mut perf = Command::new("perf");
        perf.args(["report", "--stdio", "--no-children", "--percent-limit", "0", "--call-graph", "none"]);
        perf.args(["--sort", "comm,dso,symbol", "--field-separator", ";", "--input"]).arg(&self.data);
        let report = command::run(&mut perf, LIMIT).ok("perf report")?;
        let mut shares = [0.0; KINDS.len()];
        for line in report.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split(';').map(str::trim).collect();
            let [percent, thread, object, symbol, ..] = fields[..] else { continue };
            let Ok(percent) = percent.trim_end_matches('%').parse::<f64>() else { continue };
            let kind = kind(thread, object, symbol);
            if let Some(at) = KINDS.iter().position(|known| *known == kind) {
                shares[at] += percent;
            }
        }
        let row: String = shares.iter().map(|share| format!(" {share:.0} |")).collect();
        Ok(format!("# by kind, per cent\n| {} |\n|{row}\n", KINDS.join(" | ")))
    }
}

const PROGRAM: &str = "program";
const STUB: &str = "stub";
const SENTRY: &str = "sentry";
const LOOKING: &str = "looking";
const GOFER: &str = "gofer, command";
const SWITCHING: &str = "switching, waking";
const TRAPS: &str = "traps";
const COPIES: &str = "copies";
const MEMORY: &str = "memory";
const OTHER: &str = "host's rest";
/// In the order of the table.
const KINDS: [&str; 10] = [PROGRAM, STUB, SENTRY, LOOKING, GOFER, SWITCHING, TRAPS, COPIES, MEMORY, OTHER];

/// Beginnings of names in the host's kernel. Time with interrupts off shows where they are switched on again: those are wake-ups here.
const OF_KERNEL: [(&str, &[&str]); 4] = [
    (
        SWITCHING,
        &[
            "finish_task_switch",
            "_raw_spin_unlock_irq",
            "__schedule",
            "schedule",
            "try_to_wake_up",
            "ttwu",
            "select_task_rq",
            "enqueue_",
            "dequeue_",
            "pick_",
            "update_",
            "native_write_msr",
            "x2apic",
            "smp_call_function",
            "futex",
            "__futex",
            "switch_",
            "__switch",
            "prepare_to_",
            "finish_wait",
            "__wake_up",
            "native_smp_send",
            "pv_native_safe_halt",
        ],
    ),
    (
        TRAPS,
        &[
            "seccomp",
            "__seccomp",
            "recv_wait_event",
            "populate_seccomp",
            "do_syscall_64",
            "entry_SYSCALL",
            "syscall_",
            "x64_sys_call",
            "srso",
            "__x64_sys_ioctl",
            "exit_to_user",
            "bpf_",
        ],
    ),
    (
        COPIES,
        &[
            "_copy_",
            "copy_",
            "rep_movs",
            "process_vm",
            "pin_user",
            "__get_user",
            "follow_page",
            "gup_",
            "mm_access",
            "try_grab",
            "__gup",
            "unpin_",
        ],
    ),
    (
        MEMORY,
        &[
            "exc_page_fault",
            "asm_exc_page_fault",
            "do_user_addr",
            "handle_mm",
            "__handle_mm",
            "do_fault",
            "do_anonymous",
            "do_wp",
            "next_uptodate",
            "filemap_map",
            "set_pte",
            "mas_",
            "mt_",
            "vma_",
            "vms_",
            "mmap",
            "__mmap",
            "unmap",
            "zap_",
            "clear_page",
            "folio_",
            "free_",
            "flush_tlb",
            "lock_vma",
            "dup_",
            "__alloc_pages",
            "get_page_from",
            "charge_memcg",
            "__mem_cgroup",
        ],
    ),
];

fn kind(thread: &str, object: &str, symbol: &str) -> &'static str {
    if thread == "runsc" {
        return GOFER;
    }
    if let Some(function) = symbol.strip_prefix("[k] ") {
        let known = OF_KERNEL.iter().find(|(_, names)| names.iter().any(|name| function.starts_with(name)));
        return known.map_or(OTHER, |(kind, _)| kind);
    }
    match (thread, object) {
        (_, object) if object.contains("runsc-stub") => STUB,
        ("runsc-stub", _) => PROGRAM,
        ("spinner", _) if symbol.contains("::spin") || symbol.contains("Slot::state") => LOOKING,
        _ => SENTRY,
    }
}
