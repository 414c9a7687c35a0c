//! `runsc spec`: a `config.json` to begin with.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use nix::unistd::{getegid, geteuid};
use oci_spec::runtime::Spec;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use crate::failure::{Attempt, Failure};

/// `runsc spec`.
#[derive(Debug, Args)]
pub struct SpecCommand {
    /// Where to write it
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// For an ordinary user
    #[arg(long)]
    rootless: bool,
}

impl SpecCommand {
    /// Writes it.
    pub fn run(self) -> Result<i32, Failure> {
        let path = self.bundle.join("config.json");
        let mut file = match File::create_new(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Failure::new(format!("File {} exists. Remove it first", path.display())));
            }
            Err(error) => return Err(error).attempt(|| format!("writing {}", path.display())),
        };
        let spec = if self.rootless {
            Spec::rootless(geteuid().as_raw(), getegid().as_raw())
        } else {
            Spec::default()
        };
        // runc indents with tabs, and people's scripts edit its lines.
        let mut text = Vec::new();
        spec.serialize(&mut Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"\t")))?;
        text.push(b'\n');
        file.write_all(&text).attempt(|| format!("writing {}", path.display()))?;
        Ok(0)
    }
}
