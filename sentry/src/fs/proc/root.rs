//! The top directory: files about the machine, and a directory for each process.
//!
//! `/proc/N` can be walked to for every thread, but only processes are listed.

use std::sync::Arc;

use abi::errno::{ENOENT, SysResult};

use super::process::{self, Subject};
use super::{Facts, sysctl, system, tables};
use crate::fs::generated::{Directory, Entry, Listed, Node, Place, Table, directory, link, text};
use crate::task::Pid;
use crate::vfs::{FileKind, LinkTarget};

static FILES: [Entry<Arc<Facts>>; 23] = [
    text("cgroups", 0o444, tables::cgroups),
    text("cmdline", 0o444, system::cmdline),
    text("cpuinfo", 0o444, system::cpuinfo),
    text("devices", 0o444, tables::devices),
    text("diskstats", 0o444, tables::empty),
    text("filesystems", 0o444, system::filesystems),
    text("interrupts", 0o444, tables::interrupts),
    text("loadavg", 0o444, system::loadavg),
    text("meminfo", 0o444, system::meminfo),
    text("modules", 0o444, tables::empty),
    link("mounts", |_, _| Ok(LinkTarget::Path(b"self/mounts".to_vec()))),
    link("net", |_, _| Ok(LinkTarget::Path(b"self/net".to_vec()))),
    text("partitions", 0o444, tables::partitions),
    link("self", |_, task| Ok(LinkTarget::Path(task.pid().to_string().into_bytes()))),
    text("softirqs", 0o444, tables::softirqs),
    text("stat", 0o444, system::stat),
    text("swaps", 0o444, tables::swaps),
    directory("sys", 0o555, sysctl::directory),
    link("thread-self", |_, task| {
        Ok(LinkTarget::Path(format!("{}/task/{}", task.pid(), task.tid()).into_bytes()))
    }),
    directory("tty", 0o555, |facts| Box::new(Table::new(Arc::clone(facts), &TERMINALS))),
    text("uptime", 0o444, system::uptime),
    text("version", 0o444, system::version),
    text("vmstat", 0o444, tables::vmstat),
];

static TERMINALS: [Entry<Arc<Facts>>; 1] = [text("drivers", 0o444, tables::terminal_drivers)];

/// Listing positions from here on are process numbers.
const FIRST_PROCESS: u64 = 0x100;

/// See the module's text.
pub(super) struct Root {
    facts: Arc<Facts>,
    files: Table<Arc<Facts>>,
}

impl Root {
    pub(super) fn new(facts: Arc<Facts>) -> Self {
        Self { files: Table::new(Arc::clone(&facts), &FILES), facts }
    }
}

/// A number as names of directories spell it: no sign, no leading zero.
pub(super) fn parse_number(name: &[u8]) -> Option<Pid> {
    let text = std::str::from_utf8(name).ok()?;
    let plain = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain || text == "0")
}

impl Directory for Root {
    fn lookup(&self, name: &[u8], at: &Place) -> SysResult<Arc<Node>> {
        match parse_number(name) {
            Some(pid) => {
                let subject = Subject::find(&self.facts, pid).ok_or(ENOENT)?;
                Ok(process::directory_of(subject, &at.child(name)))
            }
            None => self.files.lookup(name, at),
        }
    }

    fn list(&self, from: u64) -> SysResult<Vec<Listed>> {
        let mut entries = self.files.list(from)?;
        let groups = self.facts.kernel.processes.groups();
        let numbers = groups.iter().filter_map(|group| u64::try_from(group.pid).ok());
        entries.extend(numbers.filter(|number| FIRST_PROCESS + number >= from).map(|number| {
            Listed::new(number.to_string().into_bytes(), FileKind::Directory, FIRST_PROCESS + number)
        }));
        Ok(entries)
    }

    fn is_lasting(&self, name: &[u8]) -> bool {
        self.files.is_lasting(name)
    }

    fn subdirectories(&self) -> u32 {
        u32::try_from(self.facts.kernel.processes.groups().len()).unwrap_or(u32::MAX - 8)
    }
}

#[cfg(test)]
mod tests {
    use super::parse_number;

    #[test]
    fn only_plain_numbers_name_processes() {
        assert_eq!(parse_number(b"17"), Some(17));
        for name in [&b"+1"[..], b"-1", b"01", b"1a", b"", b"99999999999"] {
            assert_eq!(parse_number(name), None, "{name:?}");
        }
    }
}
