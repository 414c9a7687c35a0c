//! Real programs in the Debian tree, timed from the inside by `guest/timed.c`: a run to warm the caches, then
//! some that count. What they write must be what they write natively.

use crate::Bench;
use crate::cli::Request;
use crate::columns::{Cgroups, Column};
use crate::profile::Recording;
use crate::rooms::Rooms;
use crate::rows::{self, Source};
use harness::command;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const COPY_LIMIT: Duration = Duration::from_secs(60);

/// One program: the row's key, options of `timed`, the command.
struct Program {
    key: &'static str,
    timing: &'static [&'static str],
    command: &'static [&'static str],
}

/// Timed again and again, after one run that warms up.
const WARM: &[&str] = &["--warm", "1", "--runs", "3"];
const IMPORTS: &str = "import asyncio, concurrent.futures, ctypes, csv, decimal, email.mime.text, hashlib, http.server, json, \
    logging, multiprocessing, sqlite3, ssl, statistics, subprocess, tarfile, tempfile, threading, unittest, urllib.request, \
    uuid, xml.etree.ElementTree, zipfile, sys; print(len(sys.modules))";
/// The Python library, in the tree and where `rm` removes a copy of it.
const LIBRARY: &str = "usr/lib/python3.11";
const COPY: &str = "library";

/// In `rooms.rs`, the Debian room has our programs on `/guest`, sources on `/mnt`, the host's directory on `/srv`.
const PROGRAMS: [Program; 11] = [
    Program { key: "python_pass", timing: WARM, command: &["python3", "-c", "pass"] },
    Program { key: "python_imports", timing: WARM, command: &["python3", "-c", IMPORTS] },
    Program {
        key: "bash_true",
        timing: WARM,
        command: &["bash", "-c", "for ((i = 0; i < 200; i++)); do /bin/true || exit 1; done; echo $i"],
    },
    Program { key: "find", timing: WARM, command: &["find", "/usr", "/var", "/etc"] },
    // A test of the time of change needs every file's attributes.
    Program {
        key: "find_stat",
        timing: WARM,
        command: &["find", "/usr", "/var", "/etc", "-newermt", "1980-01-01"],
    },
    Program {
        key: "tar",
        timing: &["--pipe", "--warm", "1", "--runs", "3"],
        command: &["tar", "-C", "/", "-cf", "-", "usr/share"],
    },
    Program { key: "grep", timing: WARM, command: &["grep", "-r", "def __init__", "/usr/lib/python3.11"] },
    Program { key: "rm", timing: &["--runs", "1"], command: &["rm", "-rf", "/srv/library"] },
    Program {
        key: "sqlite",
        timing: &["--inner", "--warm", "1", "--runs", "3"],
        command: &["python3", "/mnt/transactions.py"],
    },
    Program {
        key: "gcc",
        timing: WARM,
        command: &[
            "sh",
            "-c",
            "gcc -O2 -o /tmp/five /mnt/five/sort.c /mnt/five/text.c /mnt/five/matrix.c /mnt/five/table.c /mnt/five/main.c && /tmp/five",
        ],
    },
    Program {
        key: "git",
        timing: WARM,
        command: &[
            "sh",
            "-c",
            "rm -rf /tmp/repository && cp -r /usr/lib/python3.11/json /tmp/repository && cd /tmp/repository && git init -q && \
             git add . && git -c user.name=n -c user.email=e commit -q -m m --date 2000-01-01T00:00:00Z && git ls-files",
        ],
    },
];

/// Whether a row needs the Debian tree.
pub fn wanted(request: &Request) -> bool {
    rows::wanted(request).any(|r| r.source == Source::Program)
}

pub fn round(bench: &mut Bench) {
    let Some(room) = bench.rooms.debian.clone() else { return };
    for row in rows::wanted(&bench.request).filter(|r| r.source == Source::Program) {
        let Some(program) = PROGRAMS.iter().find(|p| p.key == row.key) else { continue };
        for (index, column) in bench.columns.iter().enumerate() {
            if bench.samples.has_failed(row.key, index) {
                continue;
            }
            let measured = prepare(program, &bench.rooms)
                .and_then(|()| run(column, &room, program, bench.request.profiles.as_deref()))
                .and_then(|done| bench.samples.same_output(row.key, &done.output).map(|()| done.ns))
                .and_then(|ns| afterwards(program, &bench.rooms).map(|()| ns));
            match measured {
                Ok(all) => all.into_iter().for_each(|ns| bench.samples.add(row.key, index, ns)),
                Err(why) => bench.samples.fail(row.key, index, &column.name, &why),
            }
        }
    }
}

/// What `timed` wrote.
struct Done {
    ns: Vec<f64>,
    output: String,
}

fn run(
    column: &Column,
    room: &crate::room::Room,
    program: &Program,
    profiles: Option<&Path>,
) -> Result<Done, String> {
    let arguments = [&["/guest/timed"], program.timing, program.command].concat();
    let container = column.container(room, &arguments, Cgroups::LeftAlone)?;
    let text = match profiles.filter(|_| column.is_ours()) {
        None => container.output(LIMIT)?,
        Some(directory) => {
            let recording = Recording::new(directory, program.key, &column.name)?;
            let output = command::run(&mut recording.wrap(&container.run()), LIMIT).ok("perf record")?;
            recording.report()?;
            output
        }
    };
    let ns: Option<Vec<f64>> =
        text.lines().filter_map(|l| l.strip_prefix("ns ")).map(|n| n.parse().ok()).collect();
    let output = text.lines().find_map(|l| l.strip_prefix("output "));
    match (ns, output) {
        (Some(ns), Some(output)) if !ns.is_empty() => Ok(Done { ns, output: output.into() }),
        _ => Err(format!("wrote {text:?}")),
    }
}

/// What must be there before each run, made on the host.
fn prepare(program: &Program, rooms: &Rooms) -> Result<(), String> {
    let (Some(room), "rm") = (&rooms.debian, program.key) else { return Ok(()) };
    let copy = rooms.bind.join(COPY);
    let _ = std::fs::remove_dir_all(&copy);
    command::run(Command::new("cp").arg("-a").arg(room.root.join(LIBRARY)).arg(&copy), COPY_LIMIT)
        .ok("copying the library")
        .map(drop)
}

/// What must hold afterwards, seen from the host.
fn afterwards(program: &Program, rooms: &Rooms) -> Result<(), String> {
    if program.key == "rm" && rooms.bind.join(COPY).exists() {
        return Err("the library is still there".into());
    }
    Ok(())
}
