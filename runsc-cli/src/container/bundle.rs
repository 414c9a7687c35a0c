//! Reading a bundle: the directory with `config.json` and, usually, the root file system.
//!
//! Key function: [`load`]. Neighbours: `translate/` judges what was read.
//! Invariant: the path returned is absolute and free of symbolic links, as OCI's state wants it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::failure::{Attempt, Failure};

const CONFIG: &str = "config.json";

/// Reads the configuration; gives back the bundle's absolute path with it.
pub fn load(bundle: &Path) -> Result<(PathBuf, Spec), Failure> {
    let bundle = fs::canonicalize(bundle).attempt(|| format!("bundle {}", bundle.display()))?;
    let path = bundle.join(CONFIG);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::new(format!("JSON specification file {} not found", path.display())));
        }
        Err(error) => return Err(error).attempt(|| format!("reading {}", path.display())),
    };
    let spec: Spec = serde_json::from_slice(&text).attempt(|| format!("parsing {}", path.display()))?;
    check_version(spec.version())?;
    Ok((bundle, spec))
}

/// OCI promises compatibility within a major version.
fn check_version(version: &str) -> Result<(), Failure> {
    if version.split('.').next() == Some("1") {
        return Ok(());
    }
    Err(Failure::new(format!("ociVersion {version:?} is not supported: this runtime knows 1.0 to 1.2")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(config: Option<&str>) -> String {
        let bundle = tempfile::tempdir().unwrap();
        if let Some(text) = config {
            fs::write(bundle.path().join(CONFIG), text).unwrap();
        }
        load(bundle.path()).unwrap_err().to_string()
    }

    #[test]
    fn a_bad_bundle_is_named_in_one_line() {
        assert!(message(None).ends_with("config.json not found"));
        assert!(message(Some("{")).contains("config.json: EOF while parsing"));
        assert!(message(Some(r#"{"ociVersion":"2.0.0"}"#)).contains("ociVersion \"2.0.0\""));
        assert!(load(Path::new("/nonexistent")).unwrap_err().to_string().contains("bundle /nonexistent"));
    }
}
