//! `runsc ps`: the processes of a container.
//!
//! All ids are those inside, as gVisor's `ps` prints them, also in the list of pids that shims ask for: the host knows
//! none of these processes.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use super::Context;
use super::list::Format;
use crate::container::id::ContainerId;
use crate::container::store::Status;
use crate::failure::Failure;
use crate::output::{print, print_line};
use crate::sandbox::control::{Answer, Call, ProcessInfo};
use crate::table;

/// `runsc ps`.
#[derive(Debug, Args)]
pub struct Ps {
    /// How to print them
    #[arg(short, long, value_enum, default_value = "table")]
    format: Format,
    /// Print everything known about the processes, as JSON
    #[arg(long)]
    details: bool,
    /// The container's id
    id: String,
    /// Options of ps(1) are not supported: it does not see these processes
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    ps_options: Vec<String>,
}

impl Ps {
    /// Prints them.
    pub fn run(self, context: &Context) -> Result<i32, Failure> {
        let id = ContainerId::new(&self.id)?;
        let state = context.store.require(&id)?;
        if state.status() == Status::Stopped {
            return Err(Failure::new("container not running"));
        }
        if let Some(option) = self.ps_options.first() {
            return Err(Failure::new(format!(
                "ps option {option:?} is not supported: ps(1) does not see inside"
            )));
        }
        let processes = match context.connect(&id)?.call(Call::Processes)? {
            Answer::Processes(processes) => processes,
            other => return Err(Failure::new(format!("the sentry answered {other:?} to ps"))),
        };
        if self.details {
            print_line(&serde_json::to_string(&processes)?)?;
            return Ok(0);
        }
        if self.format == Format::Json {
            let pids: Vec<_> = processes.iter().map(|process| process.pid).collect();
            print_line(&serde_json::to_string(&pids)?)?;
            return Ok(0);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        print(&as_table(&processes, now))?;
        Ok(0)
    }
}

fn as_table(processes: &[ProcessInfo], now_unix_s: u64) -> String {
    let mut rows = vec![["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"].map(str::to_owned)];
    rows.extend(processes.iter().map(|p| {
        [
            p.uid.to_string(),
            p.pid.to_string(),
            p.ppid.to_string(),
            usage_percent(p, now_unix_s).to_string(),
            start_time(p.started_unix_s, now_unix_s),
            p.tty.clone().unwrap_or_else(|| "?".to_owned()),
            cpu_time(p.cpu_ns),
            p.command.clone(),
        ]
    }));
    table::aligned(&rows, 6, 2)
}

/// Share of one CPU since the process began, as `ps`'s `C`.
fn usage_percent(process: &ProcessInfo, now_unix_s: u64) -> u64 {
    let alive_s = now_unix_s.saturating_sub(process.started_unix_s).max(1);
    (process.cpu_ns / 10_000_000 / alive_s).min(99)
}

/// `HH:MM` (in UTC) within a day, the date before.
fn start_time(started_unix_s: u64, now_unix_s: u64) -> String {
    let text = crate::timestamp::rfc3339_seconds(UNIX_EPOCH + std::time::Duration::from_secs(started_unix_s));
    let range = if now_unix_s.saturating_sub(started_unix_s) < 86_400 { 11..16 } else { 5..10 };
    text.get(range).unwrap_or_default().to_owned()
}

fn cpu_time(ns: u64) -> String {
    let s = ns / 1_000_000_000;
    format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_shown_as_ps_shows_it() {
        let process = ProcessInfo {
            pid: 7,
            ppid: 1,
            uid: 1000,
            threads: 2,
            started_unix_s: 1_709_251_199,
            cpu_ns: 3_725_000_000_000,
            tty: Some("pts/0".to_owned()),
            state: 'S',
            command: "sleep 100".to_owned(),
        };
        let text = as_table(&[process], 1_709_251_199 + 7450);
        assert_eq!(
            text.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>().join(" "),
            "1000 7 1 50 23:59 pts/0 01:02:05 sleep 100"
        );
    }
}
