//! The command line of the benchmark.

use std::path::PathBuf;

/// One column as the command line asks for it.
#[derive(Debug, Clone)]
pub struct ColumnSpec {
    pub name: String,
    pub kind: Kind,
}

/// What a column runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Native,
    Runc,
    Crun,
    /// This project's binary with global arguments.
    Ours {
        binary: PathBuf,
        arguments: Vec<String>,
    },
    Gvisor(PathBuf),
}

/// What the command line asks for.
#[derive(Debug)]
pub struct Request {
    pub columns: Vec<ColumnSpec>,
    pub rounds: usize,
    /// Parts of row names; empty asks for all.
    only: Vec<String>,
    /// How many sandboxes run at once where it is measured how they grow.
    pub sandboxes: usize,
    /// Where profiles of our columns go.
    pub profiles: Option<PathBuf>,
}

impl Request {
    /// Whether a row with one of these names is asked for.
    pub fn wants(&self, names: &[&str]) -> bool {
        let has = |name: &str, part: &str| name.to_lowercase().contains(part);
        self.only.is_empty() || self.only.iter().any(|part| names.iter().any(|name| has(name, part)))
    }
}

const DEFAULT_ROUNDS: usize = 5;
const DEFAULT_SANDBOXES: usize = 500;

pub const HELP: &str = "\
cargo bench --bench figures -- [OPTIONS]      (as root)
  --only TEXT             only rows whose title or key has this in it; may be repeated
  --rounds N              interleaved rounds (5)
  --runtimes A,B          of native,runc,crun,runsc,runsc-ptrace: the columns (all)
  --gvisor PATH           gVisor's runsc as one more column
  --runsc PATH            this binary of ours instead of the one that cargo has built
  --platform-option X,Y   options of the platform in the column runsc: --platform=seccomp,X,Y
  --variant NAME=ARGS     one more column: runsc with these global arguments; if the first is a path, that binary. May be repeated
  --sandboxes N           how many sandboxes run at once in the rows that count them (500)
  --profiles DIR          records a profile (perf) of each row of our columns, and writes its hottest symbols there
  --list                  print the rows' keys and titles
";

pub fn parse(arguments: &[String]) -> Result<Request, String> {
    let mut names: Vec<String> =
        ["native", "runc", "crun", "runsc", "runsc-ptrace"].map(String::from).to_vec();
    let mut binary = PathBuf::from(env!("CARGO_BIN_EXE_runsc"));
    let (mut gvisor, mut platform, mut variants) = (None, "seccomp".to_owned(), Vec::new());
    let mut request = Request {
        columns: Vec::new(),
        rounds: DEFAULT_ROUNDS,
        only: Vec::new(),
        sandboxes: DEFAULT_SANDBOXES,
        profiles: None,
    };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--runtimes" => names = value()?.split(',').map(str::to_owned).collect(),
            "--gvisor" => gvisor = Some(PathBuf::from(value()?)),
            "--runsc" => binary = value()?.into(),
            "--rounds" => request.rounds = number(argument, &value()?)?,
            "--sandboxes" => request.sandboxes = number(argument, &value()?)?,
            "--only" => request.only.push(value()?.to_lowercase()),
            "--platform-option" => platform = format!("{platform},{}", value()?),
            "--variant" => variants.push(value()?),
            "--profiles" => request.profiles = Some(value()?.into()),
            "--bench" => {} // cargo's own
            other => return Err(format!("unknown argument {other}\n{HELP}")),
        }
    }
    let binary = existing(&binary)?;
    for name in names {
        let ours = |platform: &str| Kind::Ours {
            binary: binary.clone(),
            arguments: vec![format!("--platform={platform}")],
        };
        let kind = match name.as_str() {
            "native" => Kind::Native,
            "runc" => Kind::Runc,
            "crun" => Kind::Crun,
            "runsc" => ours(&platform),
            "runsc-ptrace" => ours("ptrace"),
            other => return Err(format!("unknown runtime {other}\n{HELP}")),
        };
        request.columns.push(ColumnSpec { name, kind });
    }
    for text in variants {
        request.columns.push(variant(&text, &binary)?);
    }
    if let Some(path) = gvisor {
        request.columns.push(ColumnSpec { name: "gVisor".into(), kind: Kind::Gvisor(existing(&path)?) });
    }
    Ok(request)
}

/// `NAME=[BINARY] ARGUMENTS...`
fn variant(text: &str, binary: &std::path::Path) -> Result<ColumnSpec, String> {
    let (name, words) =
        text.split_once('=').ok_or_else(|| format!("--variant {text}: not NAME=ARGUMENTS"))?;
    let mut words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    let own_binary = words.first().is_some_and(|w| w.contains('/') && !w.starts_with('-'));
    let binary = if own_binary { existing(&PathBuf::from(words.remove(0)))? } else { binary.to_owned() };
    Ok(ColumnSpec { name: name.into(), kind: Kind::Ours { binary, arguments: words } })
}

fn existing(path: &std::path::Path) -> Result<PathBuf, String> {
    path.canonicalize().map_err(|e| format!("{}: {e}", path.display()))
}

fn number(what: &str, text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err(format!("{what}: must be at least 1")),
        Ok(n) => Ok(n),
        Err(e) => Err(format!("{what} {text}: {e}")),
    }
}

/// Answers `--help` and `--list`, which need no root and measure nothing.
pub fn only_prints(arguments: &[String]) -> bool {
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        print!("{HELP}");
        return true;
    }
    if !arguments.iter().any(|a| a == "--list") {
        return false;
    }
    for row in &crate::rows::ROWS {
        println!("{}\t{}", row.key, row.title);
    }
    for row in crate::growth_rows::rows(DEFAULT_SANDBOXES) {
        println!("{}\t{}, {} → {}", row.many.key, row.title, row.few.label, row.many.label);
    }
    true
}
