//! Printing how costs grow: each row with few and many, and whether it grew.

use crate::growth::is_measured;
use crate::growth_rows::{self, GrowthRow, TOLERANCE, Unit};
use crate::samples::Cell;
use crate::table::{self, line, ratio};
use crate::{Bench, Verdict};
use std::fmt::Write;

pub fn print(text: &mut String, bench: &Bench) -> Verdict {
    let rows = growth_rows::wanted(&bench.request);
    if rows.is_empty() {
        return Verdict::Met;
    }
    let columns: Vec<usize> = (0..bench.columns.len()).filter(|i| is_measured(&bench.columns[*i])).collect();
    let _ = writeln!(
        text,
        "How it grows. A cost with many may be {TOLERANCE} times the cost with few; where native (or crun) grows as well, \
         {TOLERANCE} times as much as that.\n"
    );
    let names = columns.iter().map(|i| bench.columns[*i].name.clone());
    let head = ["must not grow", "from", "to"].map(String::from).into_iter();
    line(text, head.chain(names).chain(["at most".into(), "".into()]));
    let _ = writeln!(text, "| --- | --- | --- |{} ---: | --- |", " ---: |".repeat(columns.len()));
    let mut verdict = Verdict::Met;
    for row in &rows {
        verdict = verdict.and(print_row(text, bench, row, &columns));
    }
    text.push('\n');
    all_sandboxes(text, bench, &columns);
    verdict
}

/// Few and many of a row in a column.
fn ends(bench: &Bench, row: &GrowthRow, column: usize) -> (Cell, Cell) {
    (bench.samples.cell(&row.few.key, column), bench.samples.cell(&row.many.key, column))
}

fn growth(ends: (Cell, Cell)) -> Option<f64> {
    ends.0.value().zip(ends.1.value()).map(|(few, many)| many / few)
}

fn print_row(text: &mut String, bench: &Bench, row: &GrowthRow, columns: &[usize]) -> Verdict {
    let is_memory = row.unit == Unit::Memory;
    let shown = columns.iter().map(|column| match ends(bench, row, *column) {
        (Cell::Failed, _) | (_, Cell::Failed) => "failed".into(),
        (few, many) => {
            let growth = growth((few, many)).map(|g| format!(" ({}×)", ratio(g))).unwrap_or_default();
            match (table::show(few, None, is_memory), table::show(many, None, is_memory)) {
                (few, many) if few == many && growth.is_empty() => few,
                (few, many) => format!("{few} → {many}{growth}"),
            }
        }
    });
    let shown: Vec<String> = shown.collect();
    let of = |name: &str| table::position(&bench.columns, name).map(|i| ends(bench, row, i));
    let base = of("native").and_then(growth).or_else(|| of("crun").and_then(growth));
    // A rounded limit, because that is what is printed.
    let limit = (TOLERANCE * base.unwrap_or(1.0).max(1.0) * 100.0).round() / 100.0;
    let verdict = match of("runsc") {
        None => None,
        Some((Cell::Failed, _) | (_, Cell::Failed)) => Some(Verdict::Missed),
        Some(ends) => growth(ends).map(|g| Verdict::of((g * 100.0).round() / 100.0 <= limit)),
    };
    let mark = match verdict {
        None => "",
        Some(Verdict::Met) => "met",
        Some(Verdict::Missed) => "**missed**",
    };
    let head = [row.title.clone(), row.few.label.clone(), row.many.label.clone()];
    line(text, head.into_iter().chain(shown).chain([format!("{limit:.2}×"), mark.into()]));
    verdict.unwrap_or(Verdict::Met)
}

/// The memory of all sandboxes together, which is no growth and so no row.
fn all_sandboxes(text: &mut String, bench: &Bench, columns: &[usize]) {
    let all = columns.iter().filter_map(|column| {
        let bytes = |key| Some(table::megabytes(bench.samples.cell(key, *column).value()?));
        Some(format!("{} {} ({})", bench.columns[*column].name, bytes("pss_all")?, bytes("host_all")?))
    });
    let all: Vec<String> = all.collect();
    if !all.is_empty() {
        let number = growth_rows::thousands(bench.request.sandboxes);
        let _ = writeln!(
            text,
            "{number} idle sandboxes together, PSS (and what the machine has less with them, the kernel's share counted): {}.\n",
            all.join(", ")
        );
    }
}
