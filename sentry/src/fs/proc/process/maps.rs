//! `/proc/PID/maps` (`man 5 proc_pid_maps`).

use abi::errno::SysResult;

use super::Subject;
use super::links::path_of;
use crate::fs::generated::Reader;
use crate::memory::{Backing, Region, RegionFlags};
use crate::vfs::{DeviceNumber, Location};

/// Names begin in this column.
const NAME_COLUMN: usize = 73;

/// `/proc/PID/maps`
pub(super) fn maps(subject: &Subject, reader: &Reader) -> SysResult<Vec<u8>> {
    let Ok(task) = subject.task() else { return Ok(Vec::new()) };
    let mut text = Vec::new();
    for region in task.memory().regions() {
        line(&mut text, &region, &reader.root);
    }
    Ok(text)
}

/// What a line says of where the pages come from.
#[derive(Default)]
struct Source {
    offset: u64,
    device: DeviceNumber,
    inode: u64,
    name: Vec<u8>,
}

fn source_of(region: &Region, root: &Location) -> Source {
    match &region.backing {
        Backing::Anonymous => {
            let name: &[u8] = if region.flags.contains(RegionFlags::STACK) {
                b"[stack]"
            } else if region.flags.contains(RegionFlags::HEAP) {
                b"[heap]"
            } else {
                b""
            };
            Source { name: name.to_vec(), ..Source::default() }
        }
        Backing::SharedAnonymous { memory, offset } => {
            let inode = memory.status().map_or(0, |status| status.st_ino);
            let device = DeviceNumber { major: 0, minor: 1 };
            Source { offset: *offset, device, inode, name: b"/dev/zero (deleted)".to_vec() }
        }
        Backing::File { offset, file, .. } => {
            let inode = file.inode.attributes().map_or(0, |attributes| attributes.inode);
            let device = file.inode.file_system().device();
            Source { offset: *offset, device, inode, name: path_of(file, root) }
        }
        Backing::Platform(name) => Source { name: name.as_bytes().to_vec(), ..Source::default() },
    }
}

fn line(text: &mut Vec<u8>, region: &Region, root: &Location) {
    let source = source_of(region, root);
    let start = text.len();
    let protection = region.protection;
    let flag = |set: bool, letter: char| if set { letter } else { '-' };
    let head = format!(
        "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {} ",
        region.start,
        region.end,
        flag(protection.read, 'r'),
        flag(protection.write, 'w'),
        flag(protection.execute, 'x'),
        if region.flags.contains(RegionFlags::SHARED) { 's' } else { 'p' },
        source.offset,
        source.device.major,
        source.device.minor,
        source.inode,
    );
    text.extend_from_slice(head.as_bytes());
    if !source.name.is_empty() {
        // One space more than the line has anyway, however long it is (`seq_pad`).
        let width = (NAME_COLUMN - 1).max(head.len());
        text.resize(start + width, b' ');
        text.push(b' ');
        text.extend_from_slice(&super::escape(&source.name, b"\n"));
    }
    text.push(b'\n');
}

#[cfg(test)]
mod tests {
    use platform::Protection;

    use super::*;
    use crate::fs::tmpfs::Tmpfs;
    use crate::spec::TmpfsOptions;
    use crate::vfs::{MountFlags, MountNamespace};

    fn shown(backing: Backing, flags: RegionFlags) -> String {
        let tmpfs = Tmpfs::new(&TmpfsOptions::default(), None);
        let root = MountNamespace::new(tmpfs, MountFlags::empty()).root();
        let region = Region {
            start: 0x5599_fd25_9000,
            end: 0x5599_fd25_b000,
            protection: Protection { read: true, write: false, execute: true },
            may_write: true,
            may_execute: true,
            flags,
            backing,
        };
        let mut text = Vec::new();
        line(&mut text, &region, &root);
        String::from_utf8(text).expect("plain text")
    }

    #[test]
    fn names_begin_where_linux_puts_them() {
        let vdso = shown(Backing::Platform("[vdso]"), RegionFlags::empty());
        assert_eq!(vdso, "5599fd259000-5599fd25b000 r-xp 00000000 00:00 0                          [vdso]\n");
        let stack = shown(Backing::Anonymous, RegionFlags::STACK | RegionFlags::NORESERVE);
        assert_eq!(stack.find("[stack]"), Some(NAME_COLUMN));
    }

    #[test]
    fn nameless_mappings_end_with_a_space_as_linuxs_do() {
        let plain = shown(Backing::Anonymous, RegionFlags::SHARED);
        assert_eq!(plain, "5599fd259000-5599fd25b000 r-xs 00000000 00:00 0 \n");
    }
}
