//! What a command that failed leaves behind: one line for the user and an exit status.
//!
//! Key type: [`Failure`]. Neighbours: every command returns it, `main.rs` prints it.
//! Invariants: the message is one line and names the object; errors keep their causes, joined by colons.

use std::error::Error;
use std::fmt::{self, Write};

/// runc's status for a failed command.
pub const FAILED: i32 = 1;
/// docker's status when the runtime itself failed, as opposed to the program.
pub const RUNTIME_FAILED: i32 = 125;
/// A shell's and docker's status for a program that cannot be executed.
pub const NOT_EXECUTABLE: i32 = 126;
/// A shell's and docker's status for a program that does not exist.
pub const NOT_FOUND: i32 = 127;
/// runc's status for a failed `exec`.
pub const EXEC_FAILED: i32 = 255;

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    /// What the user reads.
    pub message: String,
    /// What the shell sees.
    pub status: i32,
}

impl Failure {
    /// A failure with runc's usual status.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: FAILED }
    }

    /// The same with another status.
    pub fn with_status(self, status: i32) -> Self {
        Self { status, ..self }
    }

    /// The same with what was being attempted in front.
    pub fn during(self, attempt: &str) -> Self {
        Self { message: format!("{attempt}: {}", self.message), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message.replace('\n', " "))
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let text = inner.to_string();
            // Many errors print their cause themselves.
            if !message.ends_with(&text) {
                // Writing to a string cannot fail.
                let _ = write!(message, ": {text}");
            }
            cause = inner.source();
        }
        Self::new(message)
    }
}

/// `?` with a sentence: `open(x).attempt(|| format!("reading {x}"))?`.
pub trait Attempt<T> {
    /// Puts what was attempted before the error's own text.
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<Failure>> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| error.into().during(&what()))
    }
}
