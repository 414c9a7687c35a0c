//! The runtime's own commands: starting `/bin/true`, and a container's life from create to delete.

use crate::Bench;
use crate::columns::{Cgroups, Column};
use crate::room::Room;
use crate::rows;
use crate::watch::timed;
use harness::command;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
/// Runs per round: they are short and vary.
const STARTS_PER_ROUND: usize = 5;
const LIVES_PER_ROUND: usize = 3;
const LIFE: [&str; 5] = ["create", "start_created", "exec", "kill", "delete"];

pub fn round(bench: &mut Bench) {
    for (key, cgroups) in [("start_cgroups", Cgroups::Managed), ("start", Cgroups::LeftAlone)] {
        if rows::is_wanted(&bench.request, key) {
            starts(bench, key, cgroups);
        }
    }
    let wanted: Vec<&str> = LIFE.into_iter().filter(|key| rows::is_wanted(&bench.request, key)).collect();
    if wanted.is_empty() {
        return;
    }
    for _ in 0..LIVES_PER_ROUND {
        for (index, column) in bench.columns.iter().enumerate().filter(|(_, c)| !c.is_native()) {
            if wanted.iter().any(|key| bench.samples.has_failed(key, index)) {
                continue;
            }
            match life(column, &bench.rooms.small) {
                Ok(times) => {
                    let times = LIFE.into_iter().zip(times).filter(|(key, _)| wanted.contains(key));
                    times.for_each(|(key, took)| bench.samples.add(key, index, ns(took)));
                }
                // Which command failed stands in the message; without it the others' figures mean nothing.
                Err(why) => wanted.iter().for_each(|key| bench.samples.fail(key, index, &column.name, &why)),
            }
        }
    }
}

pub fn ns(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

fn starts(bench: &mut Bench, key: &str, cgroups: Cgroups) {
    for _ in 0..STARTS_PER_ROUND {
        for (index, column) in bench.columns.iter().enumerate() {
            let possible =
                column.is_native() || cgroups == Cgroups::Managed || column.can_leave_cgroups_alone();
            if !possible || bench.samples.has_failed(key, index) {
                continue;
            }
            match start(column, &bench.rooms.small, cgroups) {
                Ok(took) => bench.samples.add(key, index, ns(took)),
                Err(why) => bench.samples.fail(key, index, &column.name, &why),
            }
        }
    }
}

/// `run` of `/bin/true` from its start to its end; natively just the program.
pub fn start(column: &Column, room: &Room, cgroups: Cgroups) -> Result<Duration, String> {
    if column.is_native() {
        return timed(&mut Command::new(room.root.join("bin/true")), LIMIT);
    }
    let container = column.container(room, &["/bin/true"], cgroups)?;
    timed(&mut container.run(), LIMIT).map_err(|why| format!("run: {why} {}", container.log()))
}

/// The times of create, start, exec, kill and delete.
fn life(column: &Column, room: &Room) -> Result<[Duration; 5], String> {
    let container = column.container(room, &["/bin/sleep", "1000"], Cgroups::Managed)?;
    let step = |what: &str, mut command: Command| {
        timed(&mut command, LIMIT).map_err(|why| format!("{what}: {why} {}", container.log()))
    };
    let create = step("create", container.with_bundle(&["create"]))?;
    let start = step("start", container.by_id("start", &[]))?;
    let exec = step("exec", container.by_id("exec", &["/bin/true"]))?;
    let kill = step("kill", container.by_id("kill", &["KILL"]))?;
    command::eventually("the container stops", LIMIT, || container.status() == "stopped")?;
    let delete = step("delete", container.by_id("delete", &[]))?;
    Ok([create, start, exec, kill, delete])
}
