//! Standard output of commands.

use std::io::{self, Write};

use crate::failure::{Attempt, Failure};

/// Prints; a reader that has gone away has seen enough.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.attempt(|| "writing standard output".to_owned()),
    }
}

/// Prints a line.
pub fn print_line(text: &str) -> Result<(), Failure> {
    print(&format!("{text}\n"))
}
