//! `runsc`: the OCI command line, and the hidden roles that its processes take on.
//!
//! Neighbours: `options.rs` (global options), `commands/` (one file each), `sandbox/` (boot and gofer roles).
//! Invariant: the command line is single-threaded, so that it may fork.

mod commands;
mod container;
mod entry;
mod failure;
mod logging;
mod options;
mod output;
mod sandbox;
mod signal_name;
mod table;
mod timestamp;

use clap::Parser;
use clap::error::ErrorKind;

use commands::Context;
use failure::{FAILED, Failure};
use options::{Arguments, with_double_dashes};

fn main() {
    let mut words = std::env::args_os().skip(1);
    let status = match words.next().as_deref().and_then(std::ffi::OsStr::to_str) {
        Some(sandbox::boot::ROLE) => {
            sandbox::boot::main(&words.filter_map(|w| w.into_string().ok()).collect::<Vec<_>>())
        }
        Some(sandbox::gofer::ROLE) => sandbox::gofer::main(),
        _ => command_line(),
    };
    std::process::exit(status);
}

fn command_line() -> i32 {
    let arguments = match Arguments::try_parse_from(with_double_dashes(std::env::args_os())) {
        Ok(arguments) => arguments,
        Err(error) => return misused(&error),
    };
    if arguments.version {
        let text =
            format!("runsc version {}\nspec: {}", env!("CARGO_PKG_VERSION"), oci_spec::runtime::VERSION);
        return if output::print_line(&text).is_ok() { 0 } else { FAILED };
    }
    let Some(command) = arguments.command else {
        report(&Failure::new("no command given; see runsc --help"), false);
        return FAILED;
    };
    let is_do = command.is_do();
    let logs_to_file = arguments.globals.log.is_some();
    let outcome = logging::install_for_command(&arguments.globals)
        .and_then(|()| command.run(&Context::new(arguments.globals)));
    match outcome {
        Ok(status) => status,
        Err(failure) => {
            let failure = if is_do { commands::do_::with_dockers_status(failure) } else { failure };
            report(&failure, logs_to_file);
            failure.status
        }
    }
}

/// Shims read the last error from the log; people read standard error.
fn report(failure: &Failure, logs_to_file: bool) {
    if logs_to_file {
        tracing::error!("{failure}");
    }
    eprintln!("runsc: {failure}");
}

/// clap's complaint in one line, or its help.
fn misused(error: &clap::Error) -> i32 {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        // Nothing can be done about a closed standard output.
        drop(error.print());
        return if error.use_stderr() { FAILED } else { 0 };
    }
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let line = lines.join(" ");
    eprintln!("runsc: {}", line.strip_prefix("error: ").unwrap_or(&line));
    FAILED
}
