//! The goals that came before the targets of the table; all are about the default platform.

use crate::samples::Cell;
use crate::table;
use crate::{Bench, Verdict};
use std::fmt::Write;

/// A goal: what, at most, and what was measured.
struct Goal {
    what: &'static str,
    limit: f64,
    /// None if it was not asked for.
    measured: Option<Cell>,
}

pub fn print(text: &mut String, bench: &Bench) -> Verdict {
    let Some(ours) = table::position(&bench.columns, "runsc") else { return Verdict::Met };
    let goals = goals(bench, ours);
    if goals.iter().all(|g| g.measured.is_none()) {
        return Verdict::Met;
    }
    text.push_str("| goal | at most | measured | |\n| --- | ---: | ---: | --- |\n");
    let mut verdict = Verdict::Met;
    for goal in goals {
        let (shown, met) = match goal.measured {
            None => continue,
            Some(Cell::Value(value)) => (format!("{value:.2}"), value <= goal.limit),
            Some(_) => ("failed".into(), false),
        };
        verdict = verdict.and(Verdict::of(met));
        let mark = if met { "met" } else { "**missed**" };
        let _ = writeln!(text, "| {} | {} | {shown} | {mark} |", goal.what, goal.limit);
    }
    verdict
}

fn goals(bench: &Bench, ours: usize) -> Vec<Goal> {
    let cell = |key: &str| match bench.samples.cell(key, ours) {
        Cell::Empty => None,
        cell => Some(cell),
    };
    let scaled = |key: &str, unit: f64| {
        cell(key).map(|c| c.value().map_or(Cell::Failed, |value| Cell::Value(value / unit)))
    };
    let over = |key: &str, base: &str| {
        let base = bench.samples.cell(key, table::position(&bench.columns, base)?).value()?;
        scaled(key, base)
    };
    let simple = ["getpid_syscall", "read_1_byte", "write_1_byte"].map(|key| scaled(key, 1e3));
    let slowest = simple.into_iter().try_fold(Cell::Value(0.0), |slowest, cell| match (slowest, cell?) {
        (Cell::Value(a), Cell::Value(b)) => Some(Cell::Value(a.max(b))),
        _ => Some(Cell::Failed),
    });
    const MIB: f64 = 1_048_576.0;
    let goal = |what, limit, measured| Goal { what, limit, measured };
    vec![
        goal("start-up, × crun", 2.0, over("start_cgroups", "crun")),
        goal("idle sandbox, MiB", 10.0, scaled("idle", MIB)),
        goal("a simple system call, µs", 10.0, slowest),
        goal("`fork` + `wait`, × native", 3.0, over("fork_wait", "native")),
        goal("touch of a new page, × native", 1.1, over("page_touch", "native")),
        goal("10,000 blocked threads in the sentry, MiB", 64.0, scaled("blocked_threads", MIB)),
    ]
}
