//! OCI bundles and images made of static busybox: small, the same everywhere, made in milliseconds.

use crate::command;
use serde_json::{Value, json};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The capabilities that Docker gives a container.
pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

const APPLETS: &str = "sh ash cat echo ls id env pwd true false sleep touch grep head tail wc stat mount umount ps kill \
    hostname dd test mkdir rm tty stty uname date seq tr cut sed awk sort od readlink dirname basename printf expr free top \
    nproc setsid timeout mkfifo mknod chmod chown ln cp mv df du find xargs tee usleep which whoami yes sync nohup dnsdomainname";

/// A bundle directory: `config.json` and `rootfs`, removed with this.
#[derive(Debug)]
pub struct Bundle {
    directory: tempfile::TempDir,
    pub config: Value,
}

impl Bundle {
    /// A bundle that runs these arguments with Docker's capabilities and usual mounts.
    pub fn new(arguments: &[&str]) -> Result<Bundle, String> {
        let directory =
            tempfile::Builder::new().prefix("runsc-bundle.").tempdir().map_err(|e| e.to_string())?;
        // The container's user may be anybody.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open).map_err(|e| e.to_string())?;
        make_rootfs(&directory.path().join("rootfs"))?;
        Ok(Bundle { directory, config: default_config(arguments) })
    }

    /// `sh -c SCRIPT`
    pub fn script(script: &str) -> Result<Bundle, String> {
        Bundle::new(&["/bin/sh", "-c", script])
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// Sets the value at a JSON pointer, whose parent must exist.
    pub fn set(mut self, pointer: &str, value: Value) -> Bundle {
        let (parent, key) = pointer.rsplit_once('/').unwrap_or(("", pointer));
        if let Some(object) = self.config.pointer_mut(parent).and_then(Value::as_object_mut) {
            object.insert(key.into(), value);
        }
        self
    }

    /// Appends to the array at a JSON pointer.
    pub fn push(mut self, pointer: &str, value: Value) -> Bundle {
        if let Some(array) = self.config.pointer_mut(pointer).and_then(Value::as_array_mut) {
            array.push(value);
        }
        self
    }

    /// Writes `config.json`; to be called after the last change.
    pub fn write(self) -> Result<Bundle, String> {
        let text = serde_json::to_string_pretty(&self.config).map_err(|e| e.to_string())?;
        self.write_text(&text)?;
        Ok(self)
    }

    /// Writes any text as `config.json`.
    pub fn write_text(&self, text: &str) -> Result<(), String> {
        std::fs::write(self.path().join("config.json"), text).map_err(|e| e.to_string())
    }
}

/// A root file system of busybox.
pub fn make_rootfs(root: &Path) -> Result<(), String> {
    let text = |e: std::io::Error| format!("making {}: {e}", root.display());
    for directory in ["bin", "dev", "etc", "proc", "sys", "tmp", "root", "data"] {
        std::fs::create_dir_all(root.join(directory)).map_err(text)?;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).exists());
    let busybox = busybox.ok_or("no busybox: install busybox-static")?;
    std::fs::copy(busybox, root.join("bin/busybox")).map_err(text)?;
    for applet in APPLETS.split_whitespace() {
        symlink("busybox", root.join("bin").join(applet)).map_err(text)?;
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n")
        .map_err(text)?;
    std::fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1000:\n").map_err(text)?;
    std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777)).map_err(text)
}

/// What Docker would write for a plain container.
pub fn default_config(arguments: &[&str]) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": arguments,
            "env": ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"],
            "cwd": "/",
            "capabilities": {
                "bounding": DEFAULT_CAPABILITIES,
                "effective": DEFAULT_CAPABILITIES,
                "permitted": DEFAULT_CAPABILITIES,
            },
            "rlimits": [],
            "noNewPrivileges": false,
        },
        "root": { "path": "rootfs", "readonly": false },
        "hostname": "sandbox",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
        ],
        "hooks": {},
        "annotations": {},
        "linux": {
            "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "network" },
            ],
            "resources": {},
            "devices": [],
            "maskedPaths": [],
            "readonlyPaths": [],
        },
    })
}

/// A docker-archive tarball of the busybox root, named `IMAGE`, that containerd, Podman and
/// Docker import alike.
pub fn image_tarball(directory: &Path) -> Result<PathBuf, String> {
    image_tarball_of(directory, IMAGE, &["/bin/sh"])
}

/// The same with another name and command, below a directory of that image's own.
pub fn image_tarball_of(directory: &Path, name: &str, command: &[&str]) -> Result<PathBuf, String> {
    let root = directory.join("image-root");
    make_rootfs(&root)?;
    let command_json = serde_json::to_string(command).map_err(|e| e.to_string())?;
    let script = r#"
        set -e
        cd "$1"
        mkdir archive
        tar --sort=name --numeric-owner -C image-root -cf archive/layer.tar .
        layer=$(sha256sum <archive/layer.tar | cut -d' ' -f1)
        printf '{"architecture":"amd64","os":"linux","created":"2020-01-01T00:00:00Z","config":{"Cmd":%s,"Env":["PATH=/bin"],"WorkingDir":"/"},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created":"2020-01-01T00:00:00Z","created_by":"tests"}]}' "$3" "$layer" >archive/config.json
        config=$(sha256sum <archive/config.json | cut -d' ' -f1)
        mv archive/config.json archive/$config.json
        mkdir archive/$layer && mv archive/layer.tar archive/$layer/layer.tar
        printf '[{"Config":"%s.json","RepoTags":["%s"],"Layers":["%s/layer.tar"]}]' "$config" "$2" "$layer" >archive/manifest.json
        tar -C archive -cf image.tar manifest.json $config.json $layer
    "#;
    let mut sh = Command::new("sh");
    sh.args(["-c", script, "image"]).arg(directory).args([name, &command_json]);
    command::run(&mut sh, Duration::from_secs(60)).ok("building the image")?;
    Ok(directory.join("image.tar"))
}

/// The name that the tarball's image has.
pub const IMAGE: &str = "docker.io/library/runsc-test:latest";
