//! `/proc/PID/fd` and `/proc/PID/fdinfo` (`man 5 proc_pid_fd`, `proc_pid_fdinfo`).

use std::sync::Arc;

use abi::errno::{ENOENT, SysResult};

use super::links::{accessible, jump_to};
use super::{super::root::parse_number, Subject};
use crate::fs::generated::{Body, Directory, Link, Listed, Node, Place, Reader, Text};
use crate::task::Task;
use crate::vfs::{FdFlags, FileDescription, FileKind, LinkTarget};

/// Which of the two directories.
#[derive(Clone, Copy)]
enum What {
    Links,
    Info,
}

struct Descriptors {
    subject: Subject,
    what: What,
}

/// `/proc/PID/fd`
pub(super) fn fd(subject: &Subject) -> Box<dyn Directory> {
    Box::new(Descriptors { subject: subject.clone(), what: What::Links })
}

/// `/proc/PID/fdinfo`
pub(super) fn fdinfo(subject: &Subject) -> Box<dyn Directory> {
    Box::new(Descriptors { subject: subject.clone(), what: What::Info })
}

/// One descriptor of a process.
#[derive(Clone)]
struct Descriptor {
    subject: Subject,
    fd: i32,
}

impl Descriptor {
    fn file(&self) -> SysResult<Arc<FileDescription>> {
        let task = self.subject.task().map_err(|_| ENOENT)?;
        task.files().get(self.fd).map_err(|_| ENOENT)
    }
}

impl Directory for Descriptors {
    fn lookup(&self, name: &[u8], at: &Place) -> SysResult<Arc<Node>> {
        let fd = parse_number(name).ok_or(ENOENT)?;
        let descriptor = Descriptor { subject: self.subject.clone(), fd };
        let file = descriptor.file()?;
        let (permissions, body) = match self.what {
            What::Links => {
                let bits = |set: bool, bits| if set { bits } else { 0 };
                (bits(file.readable, 0o500) | bits(file.writable, 0o300), Body::Link(Box::new(descriptor)))
            }
            What::Info => (0o444, Body::Text(Box::new(descriptor))),
        };
        Ok(Node::new(&at.child(name), permissions, self.subject.owner_of_nodes(), body))
    }

    fn list(&self, from: u64) -> SysResult<Vec<Listed>> {
        let Ok(task) = self.subject.task() else { return Ok(Vec::new()) };
        let kind = match self.what {
            What::Links => FileKind::Symlink,
            What::Info => FileKind::Regular,
        };
        let entry = |fd: i32| {
            let position = u64::try_from(fd).ok()? + 2;
            (position >= from).then(|| Listed::new(fd.to_string().into_bytes(), kind, position))
        };
        Ok(task.files().list().into_iter().filter_map(entry).collect())
    }
}

impl Link for Descriptor {
    fn target(&self, task: &Task) -> SysResult<LinkTarget> {
        accessible(&self.subject, task)?;
        Ok(jump_to(self.file()?, task))
    }
}

impl Text for Descriptor {
    fn check_open(&self, _request: crate::vfs::OpenRequest, reader: &Reader) -> SysResult<()> {
        self.subject.check_access(&reader.credentials, &reader.group)
    }

    fn read(&self, _reader: &Reader) -> SysResult<Vec<u8>> {
        let file = self.file()?;
        let task = self.subject.task()?;
        let cloexec = task.files().flags(self.fd).is_ok_and(|flags| flags.contains(FdFlags::CLOEXEC));
        let flags = file.flags() | if cloexec { libc::O_CLOEXEC.cast_unsigned() } else { 0 };
        let mount = file.location.as_ref().map_or(0, |location| location.mount.id);
        let inode = file.inode.attributes().map_or(0, |attributes| attributes.inode);
        let position = *file.position.lock();
        Ok(format!("pos:\t{position}\nflags:\t0{flags:o}\nmnt_id:\t{mount}\nino:\t{inode}\n").into_bytes())
    }
}
