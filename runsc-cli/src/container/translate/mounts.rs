//! OCI's `mounts` to [`MountSpec`]s and trees of the gofer.
//!
//! Key type: [`Mounts`]. Neighbours: `mod.rs`, and `commands/do_.rs` for `--volume`.
//! Invariants: an option that is not understood refuses the mount by name; host paths are made absolute and exist.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use sentry::spec::{AccessTimes, HostUds, MountFlags, MountKind, MountSpec, TmpfsOptions};

use crate::container::plan::Tree;
use crate::failure::{Attempt, Failure};
use crate::options::{FileAccess, Globals, OverlayMode};

/// Collects mounts.
#[derive(Debug)]
pub struct Mounts<'a> {
    globals: &'a Globals,
    bundle: &'a Path,
    trees: &'a mut Vec<Tree>,
    overlay: bool,
    mounts: Vec<MountSpec>,
}

/// Options that say how a mount is shared with the host. The container's mounts are the sentry's own and never reach the
/// host, so all of them are true already, except that nothing new appears later.
const PROPAGATION: [&str; 8] =
    ["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"];

/// Options that change nothing inside the sandbox.
const WITHOUT_EFFECT: [&str; 22] = [
    "defaults",
    "async",
    "dev",
    "exec",
    "suid",
    "rw",
    "loud",
    "silent",
    "relatime",
    "diratime",
    "nostrictatime",
    "norelatime",
    "symfollow",
    "atime",
    "noiversion",
    "iversion",
    "nolazytime",
    "nomand",
    "newinstance",
    "rbind",
    "bind",
    "notmpcopyup",
];

/// Every word that is understood, for `features`.
pub const KNOWN_OPTIONS: [&str; 34] = [
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "nosuid",
    "nosymfollow",
    "private",
    "rbind",
    "relatime",
    "ro",
    "rprivate",
    "rro",
    "rshared",
    "rslave",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
    "loud",
];

/// What the option strings said.
#[derive(Debug, Default)]
struct Options {
    flags: MountFlags,
    bind: bool,
    copy_up: bool,
    /// `name=value` pairs that belong to the file system.
    data: Vec<(String, String)>,
}

impl<'a> Mounts<'a> {
    /// Nothing mounted yet.
    pub fn new(globals: &'a Globals, bundle: &'a Path, trees: &'a mut Vec<Tree>) -> Result<Self, Failure> {
        let overlay = globals.overlay2()? == OverlayMode::All;
        Ok(Self { globals, bundle, trees, overlay, mounts: Vec::new() })
    }

    /// All of them.
    pub fn finish(self) -> Vec<MountSpec> {
        self.mounts
    }

    /// Adds one of the configuration.
    pub fn add(&mut self, mount: &Mount) -> Result<(), Failure> {
        let destination = destination(mount.destination())?;
        if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
            return Err(Failure::new("uidMappings and gidMappings of a mount are not supported"));
        }
        let options = Options::parse(mount.options().as_deref().unwrap_or_default())?;
        let kind = mount.typ().as_deref().unwrap_or("none");
        if options.bind || kind == "bind" || kind == "rbind" {
            options.no_data()?;
            let source = mount.source().as_ref().ok_or_else(|| Failure::new("source: is missing"))?;
            let source = self.bundle.join(source);
            return self.bind(&source, destination, options.flags);
        }
        let fs = match kind {
            "tmpfs" if destination == "/dev" => MountKind::Dev(options.tmpfs(0o755)?),
            "tmpfs" => MountKind::Tmpfs(options.tmpfs(0o1777)?),
            "devtmpfs" => MountKind::Dev(options.tmpfs(0o755)?),
            "devpts" => options.devpts()?,
            "proc" => options.without_data(MountKind::Proc, &["hidepid", "subset"])?,
            "sysfs" => options.without_data(MountKind::Sysfs, &[])?,
            "mqueue" => options.without_data(MountKind::Mqueue, &[])?,
            "cgroup" | "cgroup2" => MountKind::Cgroup,
            other => return Err(Failure::new(format!("type {other:?} is not supported"))),
        };
        self.mounts.push(MountSpec { destination, fs, flags: options.flags });
        Ok(())
    }

    /// Adds a host file or directory.
    pub fn bind(&mut self, source: &Path, destination: String, flags: MountFlags) -> Result<(), Failure> {
        let source: PathBuf = fs::canonicalize(source).attempt(|| format!("source {}", source.display()))?;
        // The host's kernel file systems would show the host; the sandbox has its own.
        let own = match source.to_str() {
            Some("/proc") => Some(MountKind::Proc),
            Some("/sys") => Some(MountKind::Sysfs),
            Some("/sys/fs/cgroup") => Some(MountKind::Cgroup),
            Some("/dev") => Some(MountKind::Dev(TmpfsOptions { mode: 0o755, ..TmpfsOptions::default() })),
            Some("/dev/pts") => Some(MountKind::Devpts { mode: 0o620, ptmx_mode: 0o666, gid: Some(5) }),
            Some("/dev/mqueue") => Some(MountKind::Mqueue),
            _ => None,
        };
        if let Some(fs) = own {
            self.mounts.push(MountSpec { destination, fs, flags });
            return Ok(());
        }
        let metadata = fs::metadata(&source).attempt(|| format!("source {}", source.display()))?;
        let tree = u32::try_from(self.trees.len()).map_err(|_| Failure::new("too many mounts"))?;
        let readonly = flags.readonly || self.overlay;
        self.trees.push(Tree {
            source,
            readonly,
            exclusive: self.globals.file_access_mounts == FileAccess::Exclusive,
            connect_uds: matches!(self.globals.host_uds, HostUds::Open | HostUds::All),
            create_uds: !readonly && matches!(self.globals.host_uds, HostUds::Create | HostUds::All),
        });
        // An overlay joins directories; a single file is shown as it is.
        let overlay = self.overlay && metadata.is_dir() && !flags.readonly;
        let fs = MountKind::Gofer { tree, is_file: !metadata.is_dir(), overlay };
        self.mounts.push(MountSpec { destination, fs, flags });
        Ok(())
    }
}

/// runc takes relative destinations as relative to `/`.
fn destination(path: &Path) -> Result<String, Failure> {
    super::text(&Path::new("/").join(path)).attempt(|| "destination".to_owned())
}

impl Options {
    fn parse(options: &[String]) -> Result<Self, Failure> {
        let mut parsed = Self::default();
        for option in options {
            super::no_nul(option)?;
            parsed.option(option)?;
        }
        Ok(parsed)
    }

    fn option(&mut self, option: &str) -> Result<(), Failure> {
        let flags = &mut self.flags;
        match option {
            "ro" | "rro" => flags.readonly = true,
            "rw" | "rrw" => flags.readonly = false,
            "nosuid" | "rnosuid" => flags.nosuid = true,
            "suid" | "rsuid" => flags.nosuid = false,
            "nodev" | "rnodev" => flags.nodev = true,
            "dev" | "rdev" => flags.nodev = false,
            "noexec" | "rnoexec" => flags.noexec = true,
            "exec" | "rexec" => flags.noexec = false,
            "noatime" | "rnoatime" => flags.atime = AccessTimes::Never,
            "strictatime" | "rstrictatime" => flags.atime = AccessTimes::Strict,
            "relatime" | "rrelatime" => flags.atime = AccessTimes::Relative,
            "nodiratime" | "rnodiratime" => flags.nodiratime = true,
            "sync" | "dirsync" => flags.sync = true,
            "nosymfollow" | "rnosymfollow" => flags.nosymfollow = true,
            "bind" | "rbind" => self.bind = true,
            "tmpcopyup" => self.copy_up = true,
            other if PROPAGATION.contains(&other) || WITHOUT_EFFECT.contains(&other) => {}
            other => match other.split_once('=') {
                Some((name, value)) => self.data.push((name.to_owned(), value.to_owned())),
                // devpts and cgroup take words without a value.
                None if matches!(
                    other,
                    "nsdelegate" | "memory_recursiveprot" | "inode64" | "inode32" | "noswap"
                ) => {}
                None => return Err(Failure::new(format!("option {other:?} is not supported"))),
            },
        }
        Ok(())
    }

    fn no_data(&self) -> Result<(), Failure> {
        match self.data.first() {
            None => Ok(()),
            Some((name, value)) => Err(Failure::new(format!("option \"{name}={value}\" is not supported"))),
        }
    }

    fn without_data(&self, kind: MountKind, ignored: &[&str]) -> Result<MountKind, Failure> {
        match self.data.iter().find(|(name, _)| !ignored.contains(&name.as_str())) {
            None => Ok(kind),
            Some((name, value)) => Err(Failure::new(format!("option \"{name}={value}\" is not supported"))),
        }
    }

    fn tmpfs(&self, mode: u32) -> Result<TmpfsOptions, Failure> {
        let mut tmpfs = TmpfsOptions { mode, copy_up: self.copy_up, ..TmpfsOptions::default() };
        for (name, value) in &self.data {
            let bad = || Failure::new(format!("option \"{name}={value}\" is not valid"));
            match name.as_str() {
                "size" => tmpfs.size_bytes = Some(size(value).ok_or_else(bad)?),
                "nr_blocks" => {
                    tmpfs.size_bytes = Some(size(value).and_then(|n| n.checked_mul(4096)).ok_or_else(bad)?)
                }
                "nr_inodes" => tmpfs.inodes = Some(size(value).ok_or_else(bad)?),
                "mode" => tmpfs.mode = octal(value).ok_or_else(bad)?,
                "uid" => tmpfs.uid = value.parse().map_err(|_| bad())?,
                "gid" => tmpfs.gid = value.parse().map_err(|_| bad())?,
                "huge" | "mpol" => {}
                _ => return Err(Failure::new(format!("option \"{name}={value}\" is not supported"))),
            }
        }
        Ok(tmpfs)
    }

    fn devpts(&self) -> Result<MountKind, Failure> {
        // The defaults of Linux: `Documentation/filesystems/devpts.rst`.
        let (mut mode, mut ptmx_mode, mut gid) = (0o600, 0o000, None);
        for (name, value) in &self.data {
            let bad = || Failure::new(format!("option \"{name}={value}\" is not valid"));
            match name.as_str() {
                "mode" => mode = octal(value).ok_or_else(bad)?,
                "ptmxmode" => ptmx_mode = octal(value).ok_or_else(bad)?,
                "gid" => gid = Some(value.parse().map_err(|_| bad())?),
                "uid" | "max" => {}
                _ => return Err(Failure::new(format!("option \"{name}={value}\" is not supported"))),
            }
        }
        Ok(MountKind::Devpts { mode, ptmx_mode, gid })
    }
}

fn octal(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777)
}

/// A number with `k`, `m`, `g`, `t`, or a percentage of the machine's memory, as `tmpfs(5)` takes it.
fn size(text: &str) -> Option<u64> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent: u64 = percent.parse().ok()?;
        return machine_memory()?.checked_mul(percent).map(|bytes| bytes / 100);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn machine_memory() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}
