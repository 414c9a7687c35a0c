//! `runsc features`: what this runtime supports, as OCI defines it
//! <https://github.com/opencontainers/runtime-spec/blob/main/features.md>.

use clap::Args;
use serde_json::json;

use crate::container::translate::mounts::KNOWN_OPTIONS;
use crate::container::translate::process::capability_names;
use crate::failure::Failure;
use crate::output::print_line;

/// `runsc features`.
#[derive(Debug, Args)]
pub struct Features {}

impl Features {
    /// Prints them.
    pub fn run(self) -> Result<i32, Failure> {
        let features = json!({
            "ociVersionMin": "1.0.0",
            "ociVersionMax": oci_spec::runtime::VERSION,
            "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
            "mountOptions": KNOWN_OPTIONS.as_slice(),
            "linux": {
                "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
                "capabilities": capability_names().collect::<Vec<_>>(),
                "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": false },
                "seccomp": { "enabled": false },
                "apparmor": { "enabled": false },
                "selinux": { "enabled": false },
                "intelRdt": { "enabled": false },
                "mountExtensions": { "idmap": { "enabled": false } },
            },
            "annotations": { "runsc.version": env!("CARGO_PKG_VERSION") },
        });
        print_line(&serde_json::to_string_pretty(&features)?)?;
        Ok(0)
    }
}
