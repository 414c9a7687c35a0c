//! `/proc/PID/task` (`man 5 proc_pid_task`).

use std::sync::Arc;

use abi::errno::{ENOENT, SysResult};

use super::super::root::parse_number;
use super::{Subject, directory_of};
use crate::fs::generated::{Directory, Listed, Node, Place};
use crate::vfs::FileKind;

struct Threads {
    subject: Subject,
}

/// `/proc/PID/task`
pub(super) fn threads(subject: &Subject) -> Box<dyn Directory> {
    Box::new(Threads { subject: subject.clone() })
}

impl Directory for Threads {
    fn lookup(&self, name: &[u8], at: &Place) -> SysResult<Arc<Node>> {
        let tid = parse_number(name).ok_or(ENOENT)?;
        let thread = self.subject.thread(tid).ok_or(ENOENT)?;
        Ok(directory_of(thread, &at.child(name)))
    }

    fn list(&self, from: u64) -> SysResult<Vec<Listed>> {
        let mut tids: Vec<_> = self.subject.group.tasks().iter().map(|task| task.tid()).collect();
        tids.sort_unstable();
        let entry = |tid: i32| {
            let position = u64::try_from(tid).ok()? + 2;
            (position >= from)
                .then(|| Listed::new(tid.to_string().into_bytes(), FileKind::Directory, position))
        };
        Ok(tids.into_iter().filter_map(entry).collect())
    }

    fn subdirectories(&self) -> u32 {
        u32::try_from(self.subject.group.thread_count()).unwrap_or(0)
    }
}

/// `/proc/PID/task/TID/children`: all children are the first thread's, as the kernel does not keep who forked them.
pub(super) fn children(subject: &Subject, _reader: &crate::fs::generated::Reader) -> SysResult<Vec<u8>> {
    if subject.number() != subject.group.pid {
        return Ok(Vec::new());
    }
    let pids = subject.group.children().into_iter().map(|child| format!("{} ", child.pid));
    Ok(pids.collect::<String>().into_bytes())
}
