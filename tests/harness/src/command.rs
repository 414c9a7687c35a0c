//! Running a command with a time limit that holds.
//!
//! The command leads its own session; when the limit passes, its whole process group is
//! killed. Output is read by threads, so a full pipe never blocks the command, and a
//! descendant that keeps a pipe open never blocks us for ever.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long to wait for the end of the output after the command itself has ended.
const OUTPUT_GRACE: Duration = Duration::from_secs(5);

/// What a finished (or killed) command left.
#[derive(Debug, Clone)]
pub struct Finished {
    pub stdout: String,
    pub stderr: String,
    /// None if the time limit passed and the command was killed.
    pub status: Option<ExitStatus>,
    pub took: Duration,
}

impl Finished {
    pub fn success(&self) -> bool {
        self.status.is_some_and(|s| s.success())
    }

    /// The exit status as a shell gives it: 128 + signal for a signal, -1 for a time-out.
    pub fn shell_status(&self) -> i32 {
        match self.status {
            None => -1,
            Some(s) => s.code().unwrap_or_else(|| 128 + s.signal().unwrap_or(0)),
        }
    }

    /// Status and the ends of both outputs, for a failure's message.
    pub fn summary(&self) -> String {
        let status = match self.status {
            None => format!("killed after {:.0?}", self.took),
            Some(s) => s.to_string(),
        };
        format!("{status}\n  stdout: {}\n  stderr: {}", tail(&self.stdout), tail(&self.stderr))
    }

    /// The standard output if the command succeeded, else a message that says what it was.
    pub fn ok(self, what: &str) -> Result<String, String> {
        if self.success() { Ok(self.stdout) } else { Err(format!("{what}: {}", self.summary())) }
    }
}

/// The last part of a text, on lines indented for a report.
pub fn tail(text: &str) -> String {
    const KEEP: usize = 1500;
    let mut from = text.len().saturating_sub(KEEP);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].trim_end().replace('\n', "\n          ")
}

/// Runs the command with nothing on its standard input.
pub fn run(command: &mut Command, limit: Duration) -> Finished {
    run_with_input(command, b"", limit)
}

/// Runs the command with this on its standard input.
pub fn run_with_input(command: &mut Command, input: &[u8], limit: Duration) -> Finished {
    let start = Instant::now();
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            return Finished {
                stdout: String::new(),
                stderr: format!("cannot start {:?}: {error}", command.get_program()),
                status: Some(ExitStatus::from_raw(127 << 8)),
                took: start.elapsed(),
            };
        }
    };
    let group = Pid::from_raw(child.id().cast_signed());
    if let Some(mut pipe) = child.stdin.take() {
        let input = input.to_vec();
        std::thread::spawn(move || pipe.write_all(&input));
    }
    let stdout = read_aside(child.stdout.take());
    let stderr = read_aside(child.stderr.take());
    let (sender, ended) = channel();
    std::thread::spawn(move || sender.send(child.wait()));
    let status = match ended.recv_timeout(limit) {
        Ok(result) => result.ok(),
        Err(_) => {
            let _ = killpg(group, Signal::SIGKILL);
            let _ = ended.recv_timeout(OUTPUT_GRACE);
            None
        }
    };
    let stdout = stdout.recv_timeout(OUTPUT_GRACE).unwrap_or_else(|_| "(output still held open)".into());
    let stderr = stderr.recv_timeout(OUTPUT_GRACE).unwrap_or_else(|_| "(output still held open)".into());
    let _ = killpg(group, Signal::SIGKILL); // whatever it left behind
    Finished { stdout, stderr, status, took: start.elapsed() }
}

fn read_aside(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        sender.send(String::from_utf8_lossy(&bytes).into_owned())
    });
    receiver
}

/// Waits until the condition holds; for things outside that cannot be waited for otherwise.
pub fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Result<(), String> {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > limit {
            return Err(format!("{what}: not within {limit:?}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
