//! Real programs in a Debian tree: each script of `tests/programs` runs natively in a chroot
//! and inside the sandbox on every platform; standard output and exit status must be equal.
//!
//! A case is called `<platform>/<script>`; `native/<script>` only says that the script works
//! on Linux. The scripts print nothing that differs between two runs on Linux (no pids, no
//! times), so nothing is normalised here. `interactive_shell` types into a shell through a
//! terminal of the host.

use harness::command::{self, Finished};
use harness::debian;
use harness::report::Report;
use harness::sandbox::{Platform, Runtime};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
/// Natively nothing takes longer than this; in the sandbox it may.
const NATIVE_LIMIT: Duration = Duration::from_secs(60);

struct Setting {
    runtime: Runtime,
    root: PathBuf,
    scripts: PathBuf,
}

fn main() {
    let report = Report::from_arguments();
    match prepare() {
        Ok(setting) => run(&report, &setting),
        Err(why) => report.add("programs/setup", Err(why), ""),
    }
    report.finish();
}

fn prepare() -> Result<Setting, String> {
    let scripts = harness::repository().join("tests/programs");
    let scripts = scripts.canonicalize().map_err(|e| format!("{}: {e}", scripts.display()))?;
    Ok(Setting { runtime: Runtime::new(env!("CARGO_BIN_EXE_runsc"))?, root: debian::root()?, scripts })
}

fn run(report: &Report, setting: &Setting) {
    let platforms: &[Platform] = if setting.runtime.is_ours() { &Platform::ON_AND_OFF } else { &[] };
    for name in script_names(&setting.scripts) {
        let wanted = |runner: &str| report.wants(&format!("{runner}/{name}"));
        if !wanted("native") && !platforms.iter().any(|p| wanted(p.name())) {
            continue;
        }
        let native = in_chroot(setting, &name);
        report.case(&format!("native/{name}"), || works_natively(&native));
        for &platform in platforms {
            report.case(&format!("{}/{name}", platform.name()), || {
                compare(&native, &in_sandbox(setting, platform, &name))
            });
        }
    }
    report.case("native/interactive_shell", || {
        let shell = debian::native(&setting.root, &setting.scripts, &["bash", "--norc"]);
        interactive_shell(&shell)
    });
    for &platform in platforms {
        report.case(&format!("{}/interactive_shell", platform.name()), || {
            interactive_shell(&sandboxed(setting, platform, &["--tty"], &["bash", "--norc"]))
        });
    }
}

fn script_names(scripts: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(scripts).into_iter().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|e| e.ok()?.file_name().into_string().ok()?.strip_suffix(".sh").map(str::to_owned))
        .collect();
    names.sort();
    names
}

fn in_chroot(setting: &Setting, name: &str) -> Finished {
    let script = format!("/cases/{name}.sh");
    command::run(&mut debian::native(&setting.root, &setting.scripts, &["bash", &script]), NATIVE_LIMIT)
}

fn in_sandbox(setting: &Setting, platform: Platform, name: &str) -> Finished {
    let script = format!("/cases/{name}.sh");
    command::run(&mut sandboxed(setting, platform, &[], &["bash", &script]), LIMIT)
}

/// `runsc do` with the tree as its root, the scripts as a volume and the common environment.
fn sandboxed(setting: &Setting, platform: Platform, flags: &[&str], arguments: &[&str]) -> Command {
    let mut command = setting.runtime.on(platform, &["do", "--rootfs"]);
    command.arg(&setting.root);
    command.arg("--volume").arg(format!("{}:/cases:ro", setting.scripts.display()));
    command.args(["--cwd", debian::DIRECTORY]).args(flags);
    for variable in debian::ENVIRONMENT {
        command.args(["--env", variable]);
    }
    command.arg("--").args(arguments);
    command
}

/// Every script ends by itself and prints something; that is all that can be said alone.
fn works_natively(native: &Finished) -> Result<(), String> {
    match native.status.and_then(|s| s.code()) {
        Some(_) if !native.stdout.is_empty() && !native.stdout.contains("never seen") => Ok(()),
        _ => Err(native.summary()),
    }
}

fn compare(native: &Finished, inside: &Finished) -> Result<(), String> {
    if inside.status.is_none() {
        return Err(format!("time-out: {}", inside.summary()));
    }
    let differences = different_lines(&native.stdout, &inside.stdout);
    if !differences.is_empty() {
        return Err(format!(
            "output differs (- native, + inside):\n{differences}\nstderr inside: {}",
            command::tail(&inside.stderr)
        ));
    }
    if native.shell_status() != inside.shell_status() {
        return Err(format!(
            "status {} natively, {} inside; stderr inside: {}",
            native.shell_status(),
            inside.shell_status(),
            command::tail(&inside.stderr)
        ));
    }
    Ok(())
}

/// The first lines that differ, as a reader of diffs expects them.
fn different_lines(native: &str, inside: &str) -> String {
    if native == inside {
        return String::new();
    }
    let (a, b): (Vec<&str>, Vec<&str>) = (native.lines().collect(), inside.lines().collect());
    let start = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let end = a[start..].iter().rev().zip(b[start..].iter().rev()).take_while(|(x, y)| x == y).count();
    let show = |sign: &str, lines: &[&str]| -> String {
        lines[start..lines.len() - end].iter().take(12).map(|l| format!("  {sign} {l}\n")).collect()
    };
    format!("  line {}:\n{}{}", start + 1, show("-", &a), show("+", &b))
}

/// Types into a shell on a terminal of the host: window size, echo, ^Z and fg, ^C, resizing,
/// and the exit status that comes back.
fn interactive_shell(shell: &Command) -> Result<(), String> {
    let screen = harness::terminal::Screen::start(shell, 90, 25)?;
    screen.send(&["PS1='ready> '", "Enter"])?;
    screen.wait_for_line("ready>")?;
    screen.send(&["echo size $(stty size); test -t 0 && echo on a terminal", "Enter"])?;
    screen.wait_for_line("size 25 90")?;
    screen.wait_for_line("on a terminal")?;
    // The shell has given the terminal back to line mode once its command runs; before, it would take the text.
    screen.send(&["echo started; sed -u s/^/sed:/", "Enter"])?;
    screen.wait_for_line("started")?;
    screen.send(&["typed", "Enter"])?;
    screen.wait_for_line("sed:typed")?;
    screen.send(&["C-z"])?;
    screen.wait_for_text("Stopped")?;
    screen.wait_for_last_line("ready>")?;
    screen.send(&["fg", "Enter"])?;
    screen.wait_for_line("sed -u s/^/sed:/")?;
    screen.send(&["again", "Enter"])?;
    screen.wait_for_line("sed:again")?;
    screen.send(&["C-c"])?;
    screen.wait_for_last_line("ready>")?;
    screen.send(&["echo status $?", "Enter"])?;
    screen.wait_for_line("status 130")?;
    screen.resize(70, 18)?;
    screen.send(&["", "Enter", "echo now $(stty size)", "Enter"])?;
    screen.wait_for_line("now 18 70")?;
    screen.send(&["exit 7", "Enter"])?;
    screen.wait_for_line("exit status 7")
}
