//! Building the C programs of `tests/guest` (and `benches/guest`), each as a dynamic
//! PIE, a static executable or a static PIE, cached under `target/guest`.

use crate::{command, repository};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// How a program is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linking {
    Dynamic,
    Static,
    StaticPie,
}

impl Linking {
    pub const ALL: [Linking; 3] = [Linking::Dynamic, Linking::Static, Linking::StaticPie];

    /// The directory under `target/guest`, and the word in test names.
    pub fn name(self) -> &'static str {
        match self {
            Linking::Dynamic => "dynamic",
            Linking::Static => "static",
            Linking::StaticPie => "static-pie",
        }
    }
}

/// Where the built programs are: `<here>/dynamic/NAME` and `<here>/static/NAME`.
pub fn directory() -> PathBuf {
    repository().join("target/guest")
}

/// The program names: one per C file of `sources`.
pub fn names(sources: &Path) -> Result<Vec<String>, String> {
    let entries = std::fs::read_dir(sources).map_err(|e| format!("{}: {e}", sources.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|e| e.ok()?.file_name().into_string().ok()?.strip_suffix(".c").map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

/// Builds one program if a source is newer than it, and gives its path.
pub fn build(sources: &Path, name: &str, linking: Linking) -> Result<PathBuf, String> {
    let source = sources.join(format!("{name}.c"));
    let program = directory().join(linking.name()).join(name);
    if is_newer(&program, &source, sources) {
        return Ok(program);
    }
    let parent = program.parent().ok_or("no parent directory")?;
    std::fs::create_dir_all(parent).map_err(|e| format!("{}: {e}", parent.display()))?;
    let part = program.with_extension(format!("part-{}", std::process::id()));
    let mut gcc = Command::new("gcc");
    gcc.args(["-O1", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]);
    // The tests pass wrong arguments on purpose.
    gcc.args(["-Wno-unused-result", "-Wno-cast-function-type", "-Wno-missing-field-initializers"]);
    gcc.args(["-Wno-nonnull", "-Wno-stringop-overread", "-Wno-stringop-overflow", "-Wno-infinite-recursion"]);
    gcc.args(match linking {
        Linking::Dynamic => &["-fPIE", "-pie"][..],
        Linking::Static => &["-static"],
        Linking::StaticPie => &["-fPIE", "-static-pie"],
    });
    gcc.arg("-pthread").arg("-o").arg(&part).arg(&source);
    command::run(&mut gcc, Duration::from_secs(120)).ok(&format!("gcc {name}.c"))?;
    std::fs::rename(&part, &program).map_err(|e| format!("{}: {e}", program.display()))?;
    Ok(program)
}

/// Whether the program is newer than its source and every header beside it.
fn is_newer(program: &Path, source: &Path, sources: &Path) -> bool {
    let time = |p: &Path| p.metadata().and_then(|m| m.modified()).ok();
    let Some(built) = time(program) else { return false };
    let beside = std::fs::read_dir(sources).into_iter().flatten().flatten().map(|e| e.path());
    let headers = beside.filter(|p| p.extension().is_some_and(|x| x == "h"));
    headers.chain([source.to_owned()]).all(|s| time(&s).unwrap_or(SystemTime::UNIX_EPOCH) < built)
}
