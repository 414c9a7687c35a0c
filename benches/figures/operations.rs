//! The operations that `guest/operations.c` measures from the inside, each in a container of its own: one
//! that fails or hangs spoils no other's figure.

use crate::Bench;
use crate::columns::{Cgroups, Column};
use crate::profile::Recording;
use crate::room::Room;
use crate::rows::{self, Source};
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(40);

pub fn round(bench: &mut Bench) {
    for row in rows::wanted(&bench.request).filter(|r| r.source == Source::Operation) {
        for (index, column) in bench.columns.iter().enumerate() {
            if bench.samples.has_failed(row.key, index) {
                continue;
            }
            let program = ["/bench/operations", row.key];
            match figures(column, &bench.rooms.small, &program, LIMIT, bench.request.profiles.as_deref()) {
                Ok(figures) if figures.len() == 1 => bench.samples.add(row.key, index, figures[0].1),
                Ok(figures) => {
                    bench.samples.fail(row.key, index, &column.name, &format!("wrote {figures:?}"))
                }
                Err(why) => bench.samples.fail(row.key, index, &column.name, &why),
            }
        }
    }
}

/// Runs a program that writes lines `NAME NUMBER`, and gives them.
pub fn figures(
    column: &Column,
    room: &Room,
    program: &[&str],
    limit: Duration,
    profiles: Option<&Path>,
) -> Result<Vec<(String, f64)>, String> {
    let container = column.container(room, program, Cgroups::LeftAlone)?;
    let output = match profiles.filter(|_| column.is_ours()) {
        None => container.output(limit)?,
        Some(directory) => {
            let name = program[1..].join("_").replace(['/', ' '], "_");
            let recording = Recording::new(directory, &name, &column.name)?;
            let output =
                harness::command::run(&mut recording.wrap(&container.run()), limit).ok("perf record")?;
            recording.report()?;
            output
        }
    };
    let figure = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        let value: f64 = value.parse().ok()?;
        (value.is_finite() && value > 0.0).then(|| (name.to_owned(), value))
    };
    let lines = output.lines().map(|line| figure(line).ok_or_else(|| format!("wrote {line:?}")));
    let figures: Vec<(String, f64)> = lines.collect::<Result<_, _>>()?;
    if figures.is_empty() { Err("wrote nothing".into()) } else { Ok(figures) }
}
