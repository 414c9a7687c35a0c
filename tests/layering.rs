//! Dependencies point one way: `runsc → syscalls → sentry → {platform, wire} → abi`, and
//! `gofer → wire, abi`; `allowlist` knows nobody and serves sentry, platform and gofer. Reads what cargo knows of the manifests and fails when an arrow points up.

use harness::command;
use harness::report::Report;
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

/// Who may depend on whom. A package that is not here may depend on nobody of ours.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("runsc-abi", &[]),
    ("runsc-allowlist", &[]),
    ("runsc-gofer-wire", &["runsc-abi"]),
    ("runsc-platform", &["runsc-allowlist", "runsc-abi"]),
    ("runsc-gofer", &["runsc-gofer-wire", "runsc-allowlist", "runsc-abi"]),
    ("runsc-sentry", &["runsc-platform", "runsc-gofer-wire", "runsc-allowlist", "runsc-abi"]),
    ("runsc-syscalls", &["runsc-sentry", "runsc-platform", "runsc-abi"]),
    (
        "runsc",
        &["runsc-syscalls", "runsc-sentry", "runsc-gofer", "runsc-platform", "runsc-gofer-wire", "runsc-abi"],
    ),
    ("runsc-test-harness", &[]),
];

/// Crates that only the command line may know.
const ONLY_FOR_THE_COMMAND_LINE: [&str; 3] = ["clap", "oci-spec", "tracing-subscriber"];

fn main() {
    let report = Report::from_arguments();
    match packages() {
        Ok(packages) => {
            report.case("dependencies_point_down", || judge(&packages, points_up));
            report.case("only_the_command_line_knows_oci_and_clap", || judge(&packages, knows_too_much));
            report.case("every_crate_forbids_undocumented_unsafe", || {
                let missing = |package: &Value| -> Vec<String> {
                    let manifest = package["manifest_path"].as_str().unwrap_or_default();
                    let text = std::fs::read_to_string(manifest).unwrap_or_default();
                    let inherits = text.contains("[lints]\nworkspace = true");
                    if inherits {
                        vec![]
                    } else {
                        vec![format!("{manifest} does not inherit the workspace's lints")]
                    }
                };
                judge(&packages, missing)
            });
        }
        Err(why) => report.add("layering/setup", Err(why), ""),
    }
    report.finish();
}

fn packages() -> Result<Vec<Value>, String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(harness::repository());
    let text = command::run(&mut cargo, Duration::from_secs(60)).ok("cargo metadata")?;
    let value: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let packages = value["packages"].as_array().cloned().unwrap_or_default();
    if packages.len() < ALLOWED.len() {
        return Err(format!("cargo knows only {} packages", packages.len()));
    }
    Ok(packages)
}

fn judge(packages: &[Value], faults: impl Fn(&Value) -> Vec<String>) -> Result<(), String> {
    let found: Vec<String> = packages.iter().flat_map(faults).collect();
    if found.is_empty() { Ok(()) } else { Err(found.join("\n")) }
}

/// The names of what a package depends on, tests aside.
fn dependencies(package: &Value) -> Vec<&str> {
    let all = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter(|d| d["kind"] != "dev").filter_map(|d| d["name"].as_str()).collect()
}

fn points_up(package: &Value) -> Vec<String> {
    let name = package["name"].as_str().unwrap_or_default();
    let allowed = ALLOWED.iter().find(|(n, _)| *n == name).map_or(&[][..], |(_, a)| a);
    let ours = |d: &&str| ALLOWED.iter().any(|(n, _)| n == d);
    let up = dependencies(package).into_iter().filter(ours).filter(|d| !allowed.contains(d));
    up.map(|d| format!("{name} depends on {d}")).collect()
}

fn knows_too_much(package: &Value) -> Vec<String> {
    let name = package["name"].as_str().unwrap_or_default();
    if name == "runsc" {
        return Vec::new();
    }
    let known = dependencies(package).into_iter().filter(|d| ONLY_FOR_THE_COMMAND_LINE.contains(d));
    known.map(|d| format!("{name} depends on {d}")).collect()
}
