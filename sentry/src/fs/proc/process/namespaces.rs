//! `/proc/PID/ns` (`man 5 proc_pid_ns`, `man 7 namespaces`). The sandbox has one namespace of each type.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use abi::errno::{EINVAL, ENOENT, ENOTTY, EPERM, SysResult};

use super::Subject;
use super::links::accessible;
use crate::fs::generated::{Directory, Entry, Generated, Table, link};
use crate::task::Task;
use crate::vfs::{
    Attachments, Attributes, FileDescription, FileKind, FileOps, FileSystem, Inode, LinkTarget, OpenRequest,
};

/// `NSFS_MAGIC`
const MAGIC: u64 = 0x6e73_6673;
/// `NS_GET_USERNS`, `NS_GET_PARENT`, `NS_GET_NSTYPE` of `man 2 ioctl_nsfs`.
const NS_GET_USERNS: u32 = 0xb701;
const NS_GET_PARENT: u32 = 0xb702;
const NS_GET_NSTYPE: u32 = 0xb703;

/// A type of namespace: name, inode number of the first one on every Linux, `CLONE_NEW*` flag.
struct Kind {
    name: &'static str,
    number: u64,
    flag: i32,
}

static KINDS: [Kind; 8] = [
    Kind { name: "cgroup", number: 4_026_531_835, flag: libc::CLONE_NEWCGROUP },
    Kind { name: "ipc", number: 4_026_531_839, flag: libc::CLONE_NEWIPC },
    Kind { name: "mnt", number: 4_026_531_841, flag: libc::CLONE_NEWNS },
    Kind { name: "net", number: 4_026_531_840, flag: libc::CLONE_NEWNET },
    Kind { name: "pid", number: 4_026_531_836, flag: libc::CLONE_NEWPID },
    Kind { name: "time", number: 4_026_531_834, flag: 0x80 },
    Kind { name: "user", number: 4_026_531_837, flag: libc::CLONE_NEWUSER },
    Kind { name: "uts", number: 4_026_531_838, flag: libc::CLONE_NEWUTS },
];

static LINKS: [Entry<Subject>; 10] = [
    link("cgroup", |subject, task| namespace(subject, task, "cgroup")),
    link("ipc", |subject, task| namespace(subject, task, "ipc")),
    link("mnt", |subject, task| namespace(subject, task, "mnt")),
    link("net", |subject, task| namespace(subject, task, "net")),
    link("pid", |subject, task| namespace(subject, task, "pid")),
    link("pid_for_children", |subject, task| namespace(subject, task, "pid")),
    link("time", |subject, task| namespace(subject, task, "time")),
    link("time_for_children", |subject, task| namespace(subject, task, "time")),
    link("user", |subject, task| namespace(subject, task, "user")),
    link("uts", |subject, task| namespace(subject, task, "uts")),
];

/// `/proc/PID/ns`
pub(super) fn directory(subject: &Subject) -> Box<dyn Directory> {
    Box::new(Table::new(subject.clone(), &LINKS))
}

fn namespace(subject: &Subject, task: &Task, name: &str) -> SysResult<LinkTarget> {
    accessible(subject, task)?;
    let kind = KINDS.iter().find(|kind| kind.name == name).ok_or(ENOENT)?;
    let text = format!("{}:[{}]", kind.name, kind.number).into_bytes();
    let inode: Arc<dyn Inode> = Arc::new(Namespace { kind, attachments: Attachments::default() });
    Ok(LinkTarget::Jump { location: task.kernel.vfs.nowhere(inode, &text), text })
}

/// The inode of a namespace.
struct Namespace {
    kind: &'static Kind,
    attachments: Attachments,
}

impl Inode for Namespace {
    fn file_system(&self) -> Arc<dyn FileSystem> {
        static INSTANCE: OnceLock<Arc<Generated>> = OnceLock::new();
        let make = || Generated::new("nsfs", MAGIC, 0o555, |_| Generated::nothing());
        Arc::clone(INSTANCE.get_or_init(make)) as _
    }

    fn kind(&self) -> FileKind {
        FileKind::Regular
    }

    fn attributes(&self) -> SysResult<Attributes> {
        Ok(Attributes::new(FileKind::Regular, 0o444, self.kind.number))
    }

    fn open(self: Arc<Self>, request: OpenRequest, _task: &Task) -> SysResult<Arc<dyn FileOps>> {
        if request.write { Err(EPERM) } else { Ok(Arc::new(OpenNamespace { kind: self.kind })) }
    }

    fn attachments(&self) -> &Attachments {
        &self.attachments
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct OpenNamespace {
    kind: &'static Kind,
}

impl FileOps for OpenNamespace {
    fn ioctl(&self, _task: &Task, _file: &FileDescription, request: u32, _argument: u64) -> SysResult<u64> {
        let hierarchical = matches!(self.kind.flag, libc::CLONE_NEWPID | libc::CLONE_NEWUSER);
        match request {
            NS_GET_NSTYPE => u64::try_from(self.kind.flag).map_err(|_| EINVAL),
            NS_GET_PARENT if !hierarchical => Err(EINVAL),
            // What is above lies outside of the sandbox.
            NS_GET_USERNS | NS_GET_PARENT => Err(EPERM),
            _ => Err(ENOTTY),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
