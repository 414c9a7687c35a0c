//! Lists of drivers, devices and counters of which a sandbox has few or none.

use std::fmt::Write;
use std::sync::Arc;

use abi::errno::SysResult;

use super::Facts;
use crate::fs::generated::Reader;

/// A list with nothing in it.
pub(super) fn empty(_facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    Ok(Vec::new())
}

/// `/proc/swaps`: only its heading.
pub(super) fn swaps(_facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    Ok(b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_vec())
}

/// `/proc/partitions`: only its heading.
pub(super) fn partitions(_facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    Ok(b"major minor  #blocks  name\n\n".to_vec())
}

/// `/proc/devices`
pub(super) fn devices(_facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    let text = "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n136 pts\n\nBlock devices:\n";
    Ok(text.as_bytes().to_vec())
}

/// `/proc/cgroups`: controllers of the one cgroup2 hierarchy. Java decides by this file which version it is on.
pub(super) fn cgroups(_facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    let mut text = String::from("#subsys_name\thierarchy\tnum_cgroups\tenabled\n");
    for name in ["cpuset", "cpu", "memory", "pids"] {
        let _ = writeln!(text, "{name}\t0\t1\t1");
    }
    Ok(text.into_bytes())
}

/// `/proc/tty/drivers`: `ps` names terminals by it.
pub(super) fn terminal_drivers(_facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    let text = "/dev/tty             /dev/tty        5       0 system:/dev/tty
/dev/console         /dev/console    5       1 system:console
/dev/ptmx            /dev/ptmx       5       2 system
pty_slave            /dev/pts      136 0-1048575 pty:slave
pty_master           /dev/ptm      128 0-1048575 pty:master
";
    Ok(text.as_bytes().to_vec())
}

/// The names of processors as columns.
fn processor_columns(facts: &Facts, indent: usize) -> String {
    let mut line = " ".repeat(indent);
    for number in 0..facts.machine.processor_count() {
        let _ = write!(line, "{:<10} ", format!("CPU{number}"));
    }
    line.push('\n');
    line
}

/// `/proc/interrupts`: none.
pub(super) fn interrupts(facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    Ok(processor_columns(facts, 11).into_bytes())
}

/// `/proc/softirqs`: all of them, never raised.
pub(super) fn softirqs(facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    let mut text = processor_columns(facts, 20);
    let names =
        ["HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"];
    for name in names {
        let _ = write!(text, "{:>12}", format!("{name}:"));
        for _ in 0..facts.machine.processor_count() {
            let _ = write!(text, " {:>10}", 0);
        }
        text.push('\n');
    }
    Ok(text.into_bytes())
}

/// `/proc/vmstat`: what `vmstat` insists on. There is no swap, and the host does not say what it pages.
pub(super) fn vmstat(facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    let mut text = format!("nr_free_pages {}\n", facts.free_memory() / crate::memory::PAGE_SIZE);
    for name in ["pgpgin", "pgpgout", "pswpin", "pswpout", "pgfault", "pgmajfault", "oom_kill"] {
        let _ = writeln!(text, "{name} 0");
    }
    Ok(text.into_bytes())
}
