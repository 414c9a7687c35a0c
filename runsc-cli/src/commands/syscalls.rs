//! `runsc syscalls`: which system calls are supported, or how often a container made them.

use clap::{Args, ValueEnum};

use super::Context;
use crate::container::id::ContainerId;
use crate::failure::Failure;
use crate::output::print;
use crate::sandbox::control::{Answer, Call};
use crate::sandbox::kernel;
use crate::table;

/// `runsc syscalls`.
#[derive(Debug, Args)]
pub struct Syscalls {
    /// How to print them
    #[arg(short, long, visible_alias = "format", value_name = "FORMAT", value_enum, default_value = "table")]
    output: TableFormat,
    /// Print how often this container has made each call instead
    #[arg(long, value_name = "ID")]
    counts: Option<String>,
}

/// `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TableFormat {
    /// For people.
    #[value(alias = "text")]
    Table,
    /// For programs.
    Json,
    /// For documentation.
    #[value(alias = "md")]
    Markdown,
}

impl Syscalls {
    /// Prints them.
    pub fn run(self, context: &Context) -> Result<i32, Failure> {
        let rows = match &self.counts {
            Some(id) => counts(context, &ContainerId::new(id)?)?,
            None => supported(),
        };
        print(&self.output.render(&rows)?)?;
        Ok(0)
    }
}

/// A header and lines of equal length.
struct Rows {
    header: [&'static str; 4],
    lines: Vec<[String; 4]>,
}

fn supported() -> Rows {
    let lines = kernel::supported_calls().into_iter().map(|call| {
        [call.number.to_string(), call.name.to_owned(), call.support.to_owned(), call.note.to_owned()]
    });
    Rows { header: ["number", "name", "support", "note"], lines: lines.collect() }
}

fn counts(context: &Context, id: &ContainerId) -> Result<Rows, Failure> {
    context.store.require(id)?;
    match context.connect(id)?.call(Call::SyscallCounts)? {
        Answer::SyscallCounts(mut counts) => {
            counts.sort_by(|a, b| b.calls.cmp(&a.calls).then_with(|| a.name.cmp(&b.name)));
            let line = |c: crate::sandbox::control::SyscallCount| {
                [c.name, c.calls.to_string(), c.unimplemented.to_string(), String::new()]
            };
            Ok(Rows {
                header: ["name", "calls", "unimplemented", ""],
                lines: counts.into_iter().map(line).collect(),
            })
        }
        other => Err(Failure::new(format!("the sentry answered {other:?} to syscalls"))),
    }
}

impl TableFormat {
    fn render(self, rows: &Rows) -> Result<String, Failure> {
        Ok(match self {
            Self::Table => {
                let mut all = vec![rows.header.map(str::to_uppercase)];
                all.extend(rows.lines.iter().cloned());
                table::aligned(&all, 4, 2)
            }
            Self::Json => {
                let object = |line: &[String; 4]| -> serde_json::Map<String, serde_json::Value> {
                    let cells = rows.header.iter().zip(line).filter(|(name, _)| !name.is_empty());
                    cells.map(|(name, cell)| ((*name).to_owned(), value(cell))).collect()
                };
                let objects: Vec<_> = rows.lines.iter().map(object).collect();
                serde_json::to_string_pretty(&objects)? + "\n"
            }
            Self::Markdown => {
                let used = rows.header.iter().take_while(|name| !name.is_empty()).count();
                let mut text =
                    format!("| {} |\n|{}\n", rows.header[..used].join(" | "), " --- |".repeat(used));
                for line in &rows.lines {
                    text.push_str(&format!("| {} |\n", line[..used].join(" | ").replace('\n', " ")));
                }
                text
            }
        })
    }
}

fn value(cell: &str) -> serde_json::Value {
    cell.parse::<u64>().map_or_else(|_| cell.into(), serde_json::Value::from)
}
