//! Where log lines go and how they look: runc's JSON for shims that read the last error from `--log`, text for people.
//!
//! Key types: [`LogSettings`], [`ChildLog`]. Neighbours: `main.rs` installs it for commands, `boot.rs` for the sentry.
//! Invariants: nothing is installed, and so nothing is formatted, unless somebody has asked for a log.

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::failure::{Attempt, Failure};
use crate::options::Globals;

/// `--log-format`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// logfmt, as runc writes it.
    #[default]
    Text,
    /// One object with `level`, `msg` and `time` on each line.
    Json,
}

/// What is logged and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSettings {
    /// How lines look.
    pub format: LogFormat,
    /// What is worth a line.
    pub verbosity: Verbosity,
}

/// What is worth a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verbosity {
    /// Only what the user must know.
    Warnings,
    /// And what happened.
    Normal,
    /// Everything.
    Debug,
}

/// The log of a process of the sandbox: opened by the command, inherited by the process.
#[derive(Debug)]
pub struct ChildLog {
    /// Where lines go.
    pub file: File,
    /// Which, and how they look.
    pub settings: LogSettings,
}

impl ChildLog {
    /// `--debug-log`, or else `--log`, or else standard error if more was asked for; `None` when nobody has asked.
    pub fn open(globals: &Globals, id: &str, role: &str) -> Result<Option<Self>, Failure> {
        let more = globals.debug || globals.strace;
        let verbosity = if more { Verbosity::Debug } else { Verbosity::Normal };
        if let Some(pattern) = &globals.debug_log {
            let file = open_debug_log(pattern, id, role)?;
            let settings = LogSettings { format: globals.debug_log_format, verbosity: Verbosity::Debug };
            return Ok(Some(Self { file, settings }));
        }
        let settings = LogSettings { format: globals.log_format, verbosity };
        let file = match &globals.log {
            Some(path) => append(path)?,
            None if more => std::io::stderr().as_fd().try_clone_to_owned()?.into(),
            None => return Ok(None),
        };
        Ok(Some(Self { file, settings }))
    }
}

/// Installs the log of a command.
pub fn install_for_command(globals: &Globals) -> Result<(), Failure> {
    let verbosity = match (globals.debug, &globals.log) {
        (true, _) => Verbosity::Debug,
        (false, Some(_)) => Verbosity::Normal,
        (false, None) => Verbosity::Warnings,
    };
    let file = match &globals.log {
        Some(path) => append(path)?,
        None => std::io::stderr().as_fd().try_clone_to_owned()?.into(),
    };
    install(&LogSettings { format: globals.log_format, verbosity }, file);
    Ok(())
}

fn append(path: &Path) -> Result<File, Failure> {
    File::options()
        .create(true)
        .append(true)
        .mode(0o644)
        .open(path)
        .attempt(|| format!("opening the log {}", path.display()))
}

/// gVisor's pattern: a directory gets one file for each process; variables are replaced.
fn open_debug_log(pattern: &str, id: &str, role: &str) -> Result<File, Failure> {
    let mut path = pattern.to_owned();
    if path.ends_with('/') {
        std::fs::create_dir_all(&path).attempt(|| format!("making {path}"))?;
        path.push_str("runsc.log.%TIMESTAMP%.%ID%.%COMMAND%.txt");
    }
    let stamp = crate::timestamp::rfc3339_nanos(SystemTime::now()).replace([':', '-'], "");
    let path = path.replace("%TIMESTAMP%", &stamp).replace("%ID%", id).replace("%COMMAND%", role);
    append(Path::new(&path))
}

/// Sends `tracing`'s events to the file. The first call of a process decides.
pub fn install(settings: &LogSettings, file: File) {
    install_writer(settings, Mutex::new(file));
}

/// Sends them to standard error.
pub fn install_on_stderr(settings: &LogSettings) {
    install_writer(settings, std::io::stderr);
}

fn install_writer<W>(settings: &LogSettings, writer: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let level = match settings.verbosity {
        Verbosity::Warnings => LevelFilter::WARN,
        Verbosity::Normal => LevelFilter::INFO,
        Verbosity::Debug => LevelFilter::TRACE,
    };
    // The message bus's library tells of each message.
    let of_libraries = if settings.verbosity == Verbosity::Debug { level } else { LevelFilter::ERROR };
    let targets = Targets::new().with_default(level).with_target("zbus", of_libraries);
    let lines = tracing_subscriber::fmt::layer()
        .event_format(RuncLines { format: settings.format })
        .with_writer(writer)
        .with_filter(targets);
    // An error means that it was installed before, which is what we want.
    drop(tracing::subscriber::set_global_default(tracing_subscriber::registry().with(lines)));
}

/// Formats events as runc's logrus does.
struct RuncLines {
    format: LogFormat,
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(String, String)>,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), format!("{value:?}"));
    }
}

impl Fields {
    fn put(&mut self, name: &str, value: String) {
        if name == "message" {
            self.message = value;
        } else {
            self.others.push((name.to_owned(), value));
        }
    }
}

impl<S, N> FormatEvent<S, N> for RuncLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = level_name(*event.metadata().level());
        let time = crate::timestamp::rfc3339_seconds(SystemTime::now());
        let mut message = fields.message;
        for (name, value) in &fields.others {
            message.push_str(&format!(" {name}={value}"));
        }
        match self.format {
            LogFormat::Json => {
                let line = serde_json::json!({ "level": level, "msg": message, "time": time });
                writeln!(writer, "{line}")
            }
            LogFormat::Text => writeln!(writer, "time={time:?} level={level} msg={message:?}"),
        }
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}
