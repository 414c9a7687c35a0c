//! Links to a process's files: `exe`, `cwd`, `root`; and what a file's path looks like from here.

use abi::errno::{ENOENT, SysResult};

use super::Subject;
use crate::fs::tmpfs;
use crate::task::Task;
use crate::vfs::{AnonymousInode, FileDescription, FileKind, LinkTarget, Location};

/// The path of a place, as `d_path` shows it.
pub(super) fn path_of_place(place: &Location, root: &Location) -> Vec<u8> {
    let mut path = place.path(root);
    if place.dentry.is_removed() {
        path.extend_from_slice(b" (deleted)");
    }
    path
}

/// The path of an open file, or what stands for it.
pub(super) fn path_of(file: &FileDescription, root: &Location) -> Vec<u8> {
    let inode = file.inode.as_any();
    if let Some(anonymous) = inode.downcast_ref::<AnonymousInode>() {
        return anonymous.label().into_bytes();
    }
    if let Some(name) = inode.downcast_ref::<tmpfs::Node>().and_then(tmpfs::Node::memory_file_name) {
        return [b"/memfd:", name, b" (deleted)"].concat();
    }
    match &file.location {
        Some(place) => path_of_place(place, root),
        None => nameless(file).into_bytes(),
    }
}

/// What stands for the path of an inherited file.
fn nameless(file: &FileDescription) -> String {
    let inode = file.inode.attributes().map_or(0, |attributes| attributes.inode);
    match file.inode.kind() {
        FileKind::Fifo => format!("pipe:[{inode}]"),
        FileKind::Socket => format!("socket:[{inode}]"),
        _ => String::from("anon_inode:[inherited]"),
    }
}

/// Where a link to an open file leads.
pub(super) fn jump_to(file: std::sync::Arc<FileDescription>, task: &Task) -> LinkTarget {
    let text = path_of(&file, &task.fs().root());
    match &file.location {
        Some(location) => LinkTarget::Jump { location: location.clone(), text },
        None => LinkTarget::JumpToFile { file, text },
    }
}

fn jump_to_place(location: Location, task: &Task) -> LinkTarget {
    let text = path_of_place(&location, &task.fs().root());
    LinkTarget::Jump { location, text }
}

/// The subject's task, if `task` may look into it.
///
/// # Errors
/// `EACCES`; `ENOENT`: it has ended.
pub(super) fn accessible(subject: &Subject, task: &Task) -> SysResult<std::sync::Arc<Task>> {
    let target = subject.task().map_err(|_| ENOENT)?;
    subject.check_access(&task.credentials(), &task.group)?;
    Ok(target)
}

/// `/proc/PID/exe`
pub(super) fn exe(subject: &Subject, task: &Task) -> SysResult<LinkTarget> {
    let file = accessible(subject, task)?.memory().executable().ok_or(ENOENT)?;
    Ok(jump_to(file, task))
}

/// `/proc/PID/cwd`
pub(super) fn cwd(subject: &Subject, task: &Task) -> SysResult<LinkTarget> {
    let place = accessible(subject, task)?.fs().cwd();
    Ok(jump_to_place(place, task))
}

/// `/proc/PID/root`
pub(super) fn root(subject: &Subject, task: &Task) -> SysResult<LinkTarget> {
    let place = accessible(subject, task)?.fs().root();
    Ok(jump_to_place(place, task))
}
