//! A terminal of the host (a private tmux server) to type into a command and read its screen.

use crate::command;
use std::process::Command;
use std::time::Duration;

const TMUX_LIMIT: Duration = Duration::from_secs(10);
const SCREEN_LIMIT: Duration = Duration::from_secs(20);

/// One command on one terminal. When the command ends, the screen says `exit status N`.
#[derive(Debug)]
pub struct Screen {
    directory: tempfile::TempDir,
}

impl Screen {
    pub fn start(command: &Command, columns: u16, rows: u16) -> Result<Screen, String> {
        let directory =
            tempfile::Builder::new().prefix("runsc-tmux.").tempdir().map_err(|e| e.to_string())?;
        let screen = Screen { directory };
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|w| format!("'{}'", w.to_string_lossy().replace('\'', r"'\''")))
            .collect();
        let line = format!("{}; echo \"exit status $?\"; sleep 1000", words.join(" "));
        let (columns, rows) = (columns.to_string(), rows.to_string());
        screen.tmux(&["new-session", "-d", "-s", "main", "-x", &columns, "-y", &rows, "sh", "-c", &line])?;
        screen.tmux(&["set-option", "-g", "status", "off"])?;
        screen.tmux(&["resize-window", "-t", "main", "-x", &columns, "-y", &rows])?;
        Ok(screen)
    }

    fn tmux(&self, arguments: &[&str]) -> Result<String, String> {
        let mut tmux = Command::new("tmux");
        tmux.env("TERM", "xterm").env("LC_ALL", "C.UTF-8").env_remove("TMUX");
        tmux.arg("-S").arg(self.directory.path().join("socket")).args(["-f", "/dev/null"]).args(arguments);
        command::run(&mut tmux, TMUX_LIMIT).ok(&format!("tmux {}", arguments[0]))
    }

    /// Types keys, each a text or a key name as tmux has them (`Enter`, `C-c`).
    pub fn send(&self, keys: &[&str]) -> Result<(), String> {
        for key in keys.iter().filter(|k| !k.is_empty()) {
            self.tmux(&["send-keys", "-t", "main", key])?;
        }
        Ok(())
    }

    pub fn resize(&self, columns: u16, rows: u16) -> Result<(), String> {
        self.tmux(&["resize-window", "-t", "main", "-x", &columns.to_string(), "-y", &rows.to_string()])
            .map(drop)
    }

    pub fn text(&self) -> Result<String, String> {
        self.tmux(&["capture-pane", "-p", "-t", "main"])
    }

    /// Waits until a line of the screen is this, but for space at its end.
    pub fn wait_for_line(&self, line: &str) -> Result<(), String> {
        self.wait(line, |text| text.lines().any(|l| l.trim_end() == line))
    }

    /// Waits until the last line with text is this: a shell's prompt, when it reads again.
    /// (What is typed while a shell handles ^C may be flushed with it.)
    pub fn wait_for_last_line(&self, line: &str) -> Result<(), String> {
        self.wait(line, |text| {
            text.lines().rfind(|l| !l.trim().is_empty()).is_some_and(|l| l.trim_end() == line)
        })
    }

    /// Waits until this is somewhere on the screen.
    pub fn wait_for_text(&self, part: &str) -> Result<(), String> {
        self.wait(part, |text| text.contains(part))
    }

    fn wait(&self, what: &str, holds: impl Fn(&str) -> bool) -> Result<(), String> {
        command::eventually(what, SCREEN_LIMIT, || self.text().is_ok_and(|t| holds(&t)))
            .map_err(|why| format!("{why}; the screen:\n{}", self.text().unwrap_or_default().trim_end()))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}
