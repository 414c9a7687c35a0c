//! The operations that `guest/operations.c` measures from the inside, each in a container of its own: one
//! that fails or hangs spoils no other's figure.

use crate::Bench;
use crate::columns::{Cgroups, Column};
use crate::profile::Recording;
use crate::room::Room;
use crate::rows::{self, Row, Source};
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(40);
const PROFILED_TIMES: usize = 16;
/// How often each operation is measured in a round, each time in a new container: it takes a tenth of a second, and which
/// memory and which processors of the real machine a container gets changes some figures by a fifth.
const PASSES: usize = 2;
/// What a page costs to touch depends on nothing but the memory given: from 2.1 to 3.3 µs from one container to the next, native ones
/// too, and its goal is closer than that. Ten containers of five rounds bring the median's own spread down to some 2 %.
const PASSES_OF: [(&str, usize); 1] = [("page_touch", 10)];

pub fn round(bench: &mut Bench) {
    let profiled = bench.request.profiles.is_some();
    let wanted: Vec<_> = rows::wanted(&bench.request).filter(|r| r.source == Source::Operation).collect();
    for row in wanted {
        let own = PASSES_OF.iter().find(|(key, _)| *key == row.key);
        let passes = if profiled { 1 } else { own.map_or(PASSES, |(_, passes)| *passes) };
        (0..passes).for_each(|number| pass(bench, row, number % 2 == 1));
    }
}

/// Every other time in the opposite order: memory that one container has just given back is what the next one gets.
fn pass(bench: &mut Bench, row: &Row, backwards: bool) {
    for place in 0..bench.columns.len() {
        let index = if backwards { bench.columns.len() - 1 - place } else { place };
        let column = &bench.columns[index];
        if bench.samples.has_failed(row.key, index) {
            continue;
        }
        let profiles = bench.request.profiles.as_deref().filter(|_| column.is_ours());
        // A profile needs more samples than one measurement gives.
        let times = if profiles.is_some() { PROFILED_TIMES } else { 1 };
        let program = [&["/bench/operations"], vec![row.key; times].as_slice()].concat();
        match figures(column, &bench.rooms.small, &program, LIMIT, profiles) {
            Ok(figures) if figures.len() == times && figures.iter().all(|(name, _)| name == row.key) => {
                figures.iter().for_each(|(_, value)| bench.samples.add(row.key, index, *value));
            }
            Ok(figures) => bench.samples.fail(row.key, index, &column.name, &format!("wrote {figures:?}")),
            Err(why) => bench.samples.fail(row.key, index, &column.name, &why),
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
    let output = match profiles {
        None => container.output(limit)?,
        Some(directory) => {
            let mut words = program[1..].to_vec();
            words.dedup();
            let name = words.join("_").replace('/', "");
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
