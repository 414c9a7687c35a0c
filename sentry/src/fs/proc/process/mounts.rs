//! `/proc/PID/mounts` and `/proc/PID/mountinfo` (`man 5 proc_pid_mounts`, `proc_pid_mountinfo`).

use std::sync::Arc;

use abi::errno::SysResult;

use super::{Subject, escape};
use crate::fs::generated::Reader;
use crate::task::Task;
use crate::vfs::{MountFlags, MountInfo};

/// What is written as `\ooo` in a path.
const PATH_ESCAPES: &[u8] = b" \t\n\\#";

/// Mounts below the subject's root.
fn list(subject: &Subject) -> SysResult<Vec<MountInfo>> {
    let task: Arc<Task> = subject.task()?;
    let fs = task.fs();
    Ok(fs.namespace().info(&fs.root()))
}

/// Options of a mount, in the order of `show_mnt_opts`.
fn mount_options(flags: MountFlags) -> String {
    let mut text = String::from(if flags.contains(MountFlags::RDONLY) { "ro" } else { "rw" });
    let names = [
        (MountFlags::NOSUID, ",nosuid"),
        (MountFlags::NODEV, ",nodev"),
        (MountFlags::NOEXEC, ",noexec"),
        (MountFlags::NOATIME, ",noatime"),
        (MountFlags::NODIRATIME, ",nodiratime"),
        (MountFlags::RELATIME, ",relatime"),
        (MountFlags::NOSYMFOLLOW, ",nosymfollow"),
    ];
    for (flag, name) in names {
        if flags.contains(flag) {
            text.push_str(name);
        }
    }
    text
}

/// `/proc/PID/mounts`
pub(super) fn mounts(subject: &Subject, _reader: &Reader) -> SysResult<Vec<u8>> {
    let mut text = Vec::new();
    for info in list(subject)? {
        let file_system = &info.mount.file_system;
        text.extend_from_slice(&escape(file_system.source().as_bytes(), PATH_ESCAPES));
        text.push(b' ');
        text.extend_from_slice(&escape(&info.point, PATH_ESCAPES));
        let (options, more) = (mount_options(info.mount.flags()), file_system.options());
        let rest = format!(" {} {options}{more} 0 0\n", file_system.type_name());
        text.extend_from_slice(rest.as_bytes());
    }
    Ok(text)
}

/// `/proc/PID/mountinfo`
pub(super) fn mountinfo(subject: &Subject, _reader: &Reader) -> SysResult<Vec<u8>> {
    let mut text = Vec::new();
    for info in list(subject)? {
        let file_system = &info.mount.file_system;
        let device = file_system.device();
        let head = format!("{} {} {}:{} ", info.mount.id, info.parent, device.major, device.minor);
        text.extend_from_slice(head.as_bytes());
        text.extend_from_slice(&escape(&info.root, PATH_ESCAPES));
        text.push(b' ');
        text.extend_from_slice(&escape(&info.point, PATH_ESCAPES));
        let options = mount_options(info.mount.flags());
        text.extend_from_slice(format!(" {options} - {} ", file_system.type_name()).as_bytes());
        text.extend_from_slice(&escape(file_system.source().as_bytes(), PATH_ESCAPES));
        text.extend_from_slice(format!(" rw{}\n", file_system.options()).as_bytes());
    }
    Ok(text)
}

/// `/proc/PID/mountstats`
pub(super) fn mountstats(subject: &Subject, _reader: &Reader) -> SysResult<Vec<u8>> {
    let mut text = Vec::new();
    for info in list(subject)? {
        let file_system = &info.mount.file_system;
        text.extend_from_slice(b"device ");
        text.extend_from_slice(&escape(file_system.source().as_bytes(), PATH_ESCAPES));
        text.extend_from_slice(b" mounted on ");
        text.extend_from_slice(&escape(&info.point, PATH_ESCAPES));
        text.extend_from_slice(format!(" with fstype {}\n", file_system.type_name()).as_bytes());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_in_linuxs_order() {
        let flags = MountFlags::RELATIME | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::RDONLY;
        assert_eq!(mount_options(flags), "ro,nosuid,nodev,relatime");
        assert_eq!(mount_options(MountFlags::empty()), "rw");
    }
}
