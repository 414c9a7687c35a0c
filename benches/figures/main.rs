//! The figures of the README: the same operations natively, under runc and crun, and in the sandbox on
//! each platform (and under gVisor's runsc, if its path is given), in interleaved rounds; medians, ratios
//! to native, targets and which of them are missed; and how costs grow. As Markdown on standard output.
//!
//! `cargo bench --bench figures -- [OPTIONS]`; `cli.rs` lists the options.
//!
//! - `rows.rs` says what is measured and what it may cost; `growth_rows.rs` the same for what must not grow.
//! - `operations.rs`, `programs.rs`, `commands.rs`, `memory.rs`, `growth.rs` measure, one kind each, into `samples.rs`.
//! - `columns.rs` knows how each runtime is called, `room.rs` what its programs find around them.
//! - `table.rs`, `growth_table.rs`, `goals.rs` print.
//! - `supervise.rs` keeps all of it in a pid namespace and cleans up after any end; `watch.rs` keeps time limits.
//!
//! Exit status: 0 if every target is met, 2 if one is missed, 1 if a row failed or the benchmark itself did.

mod cli;
mod columns;
mod commands;
mod goals;
mod growth;
mod growth_rows;
mod growth_table;
mod memory;
mod operations;
mod profile;
mod programs;
mod room;
mod rooms;
mod rows;
mod samples;
mod supervise;
mod table;
mod watch;

use cli::Request;
use columns::Column;
use rooms::Rooms;
use samples::Samples;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// What every part of the benchmark works with.
pub struct Bench {
    pub request: Request,
    pub columns: Vec<Column>,
    pub rooms: Rooms,
    pub samples: Samples,
}

/// What became of the targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Met,
    Missed,
}

impl Verdict {
    pub fn of(met: bool) -> Verdict {
        if met { Verdict::Met } else { Verdict::Missed }
    }

    pub fn and(self, other: Verdict) -> Verdict {
        Verdict::of(self == Verdict::Met && other == Verdict::Met)
    }
}

const FAILURE: u8 = 1;
const TARGET_MISSED: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match supervise::role(&arguments) {
        supervise::Role::Supervisor => supervise::supervisor(&arguments),
        supervise::Role::Init(rest) => supervise::init(rest),
        supervise::Role::Worker(scratch, rest) => work(scratch.into(), rest),
    };
    done.unwrap_or_else(|why| {
        eprintln!("figures: {why}");
        ExitCode::from(FAILURE)
    })
}

/// Measures and prints.
fn work(scratch: PathBuf, arguments: &[String]) -> Result<ExitCode, String> {
    let request = cli::parse(arguments)?;
    let run = rooms::tmpfs(&scratch.join("run"))?;
    let prefix = scratch.file_name().unwrap_or_default().to_string_lossy();
    let make = |(i, spec)| Column::new(spec, &run.join(format!("column-{i}")), &prefix);
    let columns: Vec<Column> = request.columns.iter().enumerate().map(make).collect::<Result<_, _>>()?;
    let rooms = Rooms::prepare(&scratch, &request)?;
    let mut bench = Bench { request, columns, rooms, samples: Samples::default() };
    for column in &bench.columns {
        column.probe(&bench.rooms.small)?;
    }
    let begin = Instant::now();
    let say = |what: &str| eprintln!("{:4} s: {what}", begin.elapsed().as_secs());
    for round in 1..=bench.request.rounds {
        say(&format!("round {round} of {}: commands", bench.request.rounds));
        commands::round(&mut bench);
        say("operations");
        operations::round(&mut bench);
        say("programs");
        programs::round(&mut bench);
    }
    say("memory");
    memory::measure(&mut bench);
    say("how it grows");
    growth::measure(&mut bench);
    say("done");
    let mut text = String::new();
    let verdict = table::print(&mut text, &bench)
        .and(growth_table::print(&mut text, &bench))
        .and(goals::print(&mut text, &bench));
    print!("{text}");
    let failures = bench.samples.failures();
    for failure in &failures {
        eprintln!("FAILED {failure}");
    }
    Ok(match (failures.is_empty(), verdict) {
        (false, _) => ExitCode::from(FAILURE),
        (true, Verdict::Missed) => ExitCode::from(TARGET_MISSED),
        (true, Verdict::Met) => ExitCode::SUCCESS,
    })
}
