//! Printing the table: machine and versions, a row per operation with its target and what became of it.

use crate::columns::Column;
use crate::rows::{self, Row, Target};
use crate::samples::Cell;
use crate::{Bench, Verdict};
use std::fmt::Write;

/// Prints head and table.
pub fn print(text: &mut String, bench: &Bench) -> Verdict {
    head(text, &bench.columns);
    let mut verdict = Verdict::Met;
    let rows: Vec<&Row> = rows::wanted(&bench.request).filter(|r| !rows::BESIDE.contains(&r.key)).collect();
    if !rows.is_empty() {
        line(
            text,
            std::iter::once("median".to_owned())
                .chain(names(&bench.columns))
                .chain(["target".into(), "".into()]),
        );
        let _ = writeln!(text, "| --- |{} --- | --- |", " ---: |".repeat(bench.columns.len()));
        rows.iter().for_each(|row| verdict = verdict.and(print_row(text, bench, row)));
        text.push('\n');
    }
    memory(text, bench);
    verdict
}

fn head(text: &mut String, columns: &[Column]) {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name\t: ")).unwrap_or("unknown CPU");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = meminfo.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let _ = writeln!(text, "{model}, {cores} cores, {} GiB, Linux {}.", kib >> 20, kernel.trim());
    for column in columns.iter().filter(|c| !c.is_native()) {
        let _ = writeln!(text, "{}.", column.version());
    }
    text.push('\n');
}

pub fn names(columns: &[Column]) -> impl Iterator<Item = String> {
    columns.iter().map(|c| c.name.clone())
}

pub fn line(text: &mut String, cells: impl Iterator<Item = String>) {
    text.push('|');
    cells.for_each(|cell| {
        let _ = write!(text, " {cell} |");
    });
    text.push('\n');
}

/// The columns that targets are about and compared with.
pub fn position(columns: &[Column], name: &str) -> Option<usize> {
    columns.iter().position(|c| c.name == name)
}

fn print_row(text: &mut String, bench: &Bench, row: &Row) -> Verdict {
    let is_memory = row.source == rows::Source::Memory;
    let cells: Vec<Cell> = (0..bench.columns.len()).map(|i| bench.samples.cell(row.key, i)).collect();
    let native = position(&bench.columns, "native").and_then(|i| cells[i].value());
    let crun = position(&bench.columns, "crun").and_then(|i| cells[i].value());
    let base = match row.target {
        Target::Crun(_) => crun,
        _ => native,
    };
    let shown = cells.iter().zip(&bench.columns).map(|(cell, column)| {
        let is_base =
            if matches!(row.target, Target::Crun(_)) { column.name == "crun" } else { column.is_native() };
        show(*cell, base.filter(|_| !is_base), is_memory)
    });
    let ours = position(&bench.columns, "runsc").map_or(Cell::Empty, |i| cells[i]);
    let (target, verdict) = judge(row.target, ours, base);
    let mark = match verdict {
        None => String::new(),
        Some(Verdict::Met) => "met".into(),
        Some(Verdict::Missed) => "**missed**".into(),
    };
    line(text, std::iter::once(row.title.to_owned()).chain(shown).chain([target, mark]));
    verdict.unwrap_or(Verdict::Met)
}

/// What the target column says, and whether it is met; None if there is nothing to say.
fn judge(target: Target, ours: Cell, base: Option<f64>) -> (String, Option<Verdict>) {
    let against = |limit: f64| match (ours, base) {
        (Cell::Value(ours), Some(base)) => Some(Verdict::of(rounded(ours / base) <= limit)),
        (Cell::Failed, _) => Some(Verdict::Missed),
        _ => None,
    };
    match target {
        Target::None => (String::new(), None),
        Target::Native { target_ns, native_ns } => {
            let limit = rounded(target_ns / native_ns);
            let text =
                format!("≤ {limit:.2} × native ({} with {})", duration(target_ns), duration(native_ns));
            (text, against(limit))
        }
        Target::Crun(limit) => (format!("≤ {limit:.1} × crun"), against(limit)),
        Target::Megabytes(limit) => {
            let verdict = match ours {
                Cell::Value(ours) => Some(Verdict::of(ours <= limit * 1e6)),
                Cell::Failed => Some(Verdict::Missed),
                Cell::Empty => None,
            };
            (format!("≤ {limit:.0} MB"), verdict)
        }
    }
}

/// Ratios are judged as they are printed, with two decimals.
fn rounded(ratio: f64) -> f64 {
    (ratio * 100.0).round() / 100.0
}

/// `12.3 µs (4.5×)`
pub fn show(cell: Cell, base: Option<f64>, is_memory: bool) -> String {
    match cell {
        Cell::Empty => "–".into(),
        Cell::Failed => "failed".into(),
        Cell::Value(value) => {
            let ratio = base.map(|b| format!(" ({}×)", ratio(value / b))).unwrap_or_default();
            let value = if is_memory { megabytes(value) } else { duration(value) };
            format!("{value}{ratio}")
        }
    }
}

pub fn ratio(ratio: f64) -> String {
    let decimals = if ratio < 10.0 { 2 } else { usize::from(ratio < 100.0) };
    format!("{ratio:.decimals$}")
}

pub fn duration(ns: f64) -> String {
    let (value, unit) = match ns {
        n if n < 1e3 => (n, "ns"),
        n if n < 1e6 => (n / 1e3, "µs"),
        n => (n / 1e6, "ms"),
    };
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$} {unit}")
}

pub fn megabytes(bytes: f64) -> String {
    format!("{:.1} MB", bytes / 1e6)
}

/// Idle containers by process, and what blocked threads take.
fn memory(text: &mut String, bench: &Bench) {
    let wanted: Vec<&str> = rows::wanted(&bench.request).map(|r| r.key).collect();
    if !wanted.iter().any(|k| rows::BESIDE.contains(k)) {
        return;
    }
    text.push_str("| PSS | idle, by process | sentry with 10,000 blocked threads |\n| --- | --- | ---: |\n");
    for (index, column) in bench.columns.iter().enumerate().filter(|(_, c)| !c.is_native()) {
        let parts = bench.samples.idle_kib.get(&index).map_or("–".into(), |parts| {
            let shown: Vec<String> = parts
                .iter()
                .map(|(role, kib)| format!("{role} {}", megabytes(crate::memory::bytes(*kib))))
                .collect();
            shown.join(", ")
        });
        let blocked = match show(bench.samples.cell("blocked_threads", index), None, true) {
            text if text.ends_with("MB") => format!("+ {text}"),
            text => text,
        };
        line(text, [column.name.clone(), parts, blocked].into_iter());
    }
    text.push('\n');
}
