//! Profiles of rows: with `--profiles`, each run of a program in a column of ours is recorded with perf(1),
//! and its hottest symbols are written as text, by process and thread.

use harness::command;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const SAMPLES_PER_SECOND: &str = "997";

/// A recording of one row in one column.
#[derive(Debug)]
pub struct Recording {
    data: PathBuf,
    text: PathBuf,
}

impl Recording {
    pub fn new(directory: &Path, key: &str, column: &str) -> Result<Recording, String> {
        std::fs::create_dir_all(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
        let file = |extension: &str| directory.join(format!("{key}.{column}.{extension}"));
        Ok(Recording { data: file("data"), text: file("txt") })
    }

    /// The command under perf, which follows its children.
    pub fn wrap(&self, command: &Command) -> Command {
        let mut perf = Command::new("perf");
        perf.args(["record", "--quiet", "--freq", SAMPLES_PER_SECOND, "--call-graph", "fp", "--output"]);
        perf.arg(&self.data).arg("--").arg(command.get_program()).args(command.get_args());
        perf
    }

    /// Writes the hottest symbols, with their callers below them in a second part.
    pub fn report(&self) -> Result<(), String> {
        let mut text = String::new();
        for (title, options) in [
            ("by symbol", &["--no-children", "--call-graph", "none", "--sort", "comm,dso,symbol"][..]),
            ("with what they call", &["--children", "--call-graph", "none", "--sort", "dso,symbol"]),
        ] {
            let mut perf = Command::new("perf");
            perf.args(["report", "--stdio", "--percent-limit", "0.4", "--input"])
                .arg(&self.data)
                .args(options);
            let report = command::run(&mut perf, LIMIT).ok("perf report")?;
            let _ = writeln!(text, "# {title}");
            for line in report.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
                // perf pads its columns to the longest symbol there is.
                let words: Vec<&str> = line.split_whitespace().collect();
                let _ = writeln!(text, "{}", words.join(" "));
            }
        }
        std::fs::write(&self.text, text).map_err(|e| format!("{}: {e}", self.text.display()))
    }
}
