//! Where log lines go and how they look: runc's JSON for shims that read the last error from `--log`, text for people.
//!
//! Key types: [`LogSettings`], [`LogFormat`]. Neighbours: `main.rs` installs it for commands, `boot.rs` for the sentry.
//! Invariants: nothing is installed, and so nothing is formatted, unless somebody has asked for a log.

use std::fmt;
use std::fs::File;
use std::sync::Mutex;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// `--log-format`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// `--debug`: everything; otherwise warnings and errors.
    pub debug: bool,
}

/// Sends `tracing`'s events to the file. The first call of a process decides.
pub fn install(settings: &LogSettings, file: File) {
    let level = if settings.debug { Level::TRACE } else { Level::INFO };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .event_format(RuncLines { format: settings.format })
        .with_writer(Mutex::new(file))
        .finish();
    // An error means that it was installed before, which is what we want.
    drop(tracing::subscriber::set_global_default(subscriber));
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
