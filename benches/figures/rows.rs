//! The rows of the table, in its order: what each is called, which part measures it, and what it may cost.
//!
//! Targets were set as times on one machine, where the native column had been measured too. They are ratios
//! here: to native, or to crun where a row is about the runtime itself. Memory does not depend on the machine's
//! speed, and stays absolute.

use crate::cli::Request;

/// One row.
#[derive(Debug)]
pub struct Row {
    pub key: &'static str,
    pub title: &'static str,
    pub source: Source,
    pub target: Target,
}

/// Which part measures a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `commands.rs`: the runtime's own commands.
    Command,
    /// `memory.rs`: proportional set sizes.
    Memory,
    /// `operations.rs`: one operation, measured from the inside.
    Operation,
    /// `programs.rs`: a program in the Debian tree.
    Program,
}

/// What a row may cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// Measured for its own sake.
    None,
    /// A time and what native was, in nanoseconds, where the target was set.
    Native { target_ns: f64, native_ns: f64 },
    /// A ratio to crun.
    Crun(f64),
    /// Megabytes (10⁶ bytes).
    Megabytes(f64),
}

const NS: f64 = 1.0;
const US: f64 = 1e3;
const MS: f64 = 1e6;

const fn native(target: f64, native: f64, unit: f64) -> Target {
    Target::Native { target_ns: target * unit, native_ns: native * unit }
}

const fn row(key: &'static str, title: &'static str, source: Source, target: Target) -> Row {
    Row { key, title, source, target }
}

use Source::{Command, Memory, Operation, Program};

pub const ROWS: [Row; 49] = [
    row("start_cgroups", "start `/bin/true`, cgroups managed", Command, Target::Crun(1.0)),
    row("start", "same, cgroups left alone", Command, Target::Crun(1.2)),
    row("idle", "idle sandbox (busybox `sleep`), PSS of all its processes", Memory, Target::Megabytes(6.0)),
    row("idle_further", "each further idle sandbox, PSS", Memory, Target::Megabytes(2.0)),
    row("create", "`create`", Command, Target::Crun(1.2)),
    row("start_created", "`start`", Command, Target::Crun(1.2)),
    row("exec", "`exec` of `/bin/true`", Command, Target::Crun(1.2)),
    row("kill", "`kill`", Command, Target::Crun(1.2)),
    row("delete", "`delete`", Command, Target::Crun(1.2)),
    row("getpid_glibc", "getpid through glibc", Operation, native(142.0, 142.0, NS)),
    row("getpid_syscall", "getpid through `syscall(2)`", Operation, native(145.0, 145.0, NS)),
    row("write_1_byte", "write 1 B to /dev/null", Operation, native(400.0, 200.0, NS)),
    row("read_1_byte", "read 1 B from /dev/zero", Operation, native(420.0, 211.0, NS)),
    row("pipe_one_thread", "pipe write+read, one thread", Operation, native(1000.0, 674.0, NS)),
    row("pipe_ping_pong", "pipe ping-pong, two processes", Operation, native(10_000.0, 42_900.0, NS)),
    row("futex_ping_pong", "futex ping-pong, two threads", Operation, native(8_000.0, 36_200.0, NS)),
    row("stat_tmpfs", "stat, existing file, tmpfs", Operation, native(998.0, 998.0, NS)),
    row("stat_rootfs", "stat, existing file, rootfs", Operation, native(998.0, 998.0, NS)),
    row("stat_bind", "stat, existing file, bind mount", Operation, Target::None),
    row("open_close_tmpfs", "open+close, tmpfs", Operation, native(2500.0, 2073.0, NS)),
    row("open_close_rootfs", "open+close, rootfs", Operation, native(2500.0, 2073.0, NS)),
    row("open_read_close_bind", "open+read+close, bind mount", Operation, native(4000.0, 2928.0, NS)),
    row("thread_create_join", "thread create+join", Operation, native(60_000.0, 42_700.0, NS)),
    row("fork_wait", "fork+wait", Operation, native(250.0, 121.0, US)),
    row("vfork_exec", "vfork+exec+wait", Operation, native(700.0, 383.0, US)),
    row("fork_exec", "fork+exec+wait", Operation, native(900.0, 436.0, US)),
    row("mmap_touch_munmap", "mmap+touch+munmap", Operation, native(14.0, 6.8, US)),
    row("page_touch", "first touch of a page", Operation, native(1.55, 1.49, US)),
    row("read_4_kib_tmpfs", "4 KiB read of a cached file, tmpfs", Operation, native(1.5, 0.92, US)),
    row("read_4_kib_bind", "4 KiB read of a cached file, bind mount", Operation, native(1.5, 0.92, US)),
    row("write_4_kib_tmpfs", "4 KiB write, tmpfs", Operation, native(2.5, 2.2, US)),
    row("write_4_kib_bind", "4 KiB write, bind mount", Operation, native(3.6, 3.1, US)),
    row("read_1_mib_tmpfs", "1 MiB read, tmpfs", Operation, Target::None),
    row("read_1_mib_bind", "1 MiB read, bind mount", Operation, native(70.0, 55.0, US)),
    row("write_1_mib_tmpfs", "1 MiB write, tmpfs", Operation, Target::None),
    row("write_1_mib_bind", "1 MiB write, bind mount", Operation, Target::None),
    row("python_pass", "`python3 -c pass`", Program, native(12.0, 8.9, MS)),
    row("python_imports", "python importing many modules", Program, native(80.0, 62.0, MS)),
    row("bash_true", "bash, 200 × `/bin/true`", Program, native(300.0, 149.0, MS)),
    row("find", "`find` over a Debian root, second time", Program, native(30.0, 19.0, MS)),
    row("find_stat", "`find` with stat of each, second time", Program, native(60.0, 33.0, MS)),
    row("tar", "tar of /usr/share to a pipe", Program, native(260.0, 130.0, MS)),
    row("grep", "grep -r over a Python library", Program, native(45.0, 28.0, MS)),
    row("rm", "rm -rf of that library on a bind mount", Program, native(45.0, 27.0, MS)),
    row("sqlite", "sqlite, 300 transactions on tmpfs", Program, native(25.0, 18.0, MS)),
    row("gcc", "gcc -O2 of five small files", Program, native(280.0, 192.0, MS)),
    row("git", "git: init, add, commit of a small tree", Program, Target::None),
    // Not in the table, but in the part on memory and the earlier goals.
    row("blocked_threads", "10,000 blocked threads: what the sentry has more, PSS", Memory, Target::None),
    row("idle_parts", "idle sandbox by process", Memory, Target::None),
];

/// Rows that have a place of their own outside of the table.
pub const BESIDE: [&str; 2] = ["blocked_threads", "idle_parts"];

/// The rows that the command line asks for.
pub fn wanted(request: &Request) -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(|row| request.wants(&[row.key, row.title]))
}

pub fn is_wanted(request: &Request, key: &str) -> bool {
    wanted(request).any(|row| row.key == key)
}
