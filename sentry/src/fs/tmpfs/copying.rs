//! Copying into memory: the bytes of one file (an overlay's copy-up), or a whole tree (`tmpcopyup`).

use std::sync::Arc;

use abi::errno::{EINVAL, ENXIO, EOPNOTSUPP, SysResult};

use super::content::{Content, INLINE_MAX};
use super::node::Node;
use crate::fs::host_files::Extent;
use crate::memory::HostFile;
use crate::task::Task;
use crate::vfs::{
    Attributes, FileKind, Inode, LinkTarget, NamesFor, NewKind, NewNode, SetAttributes, SetTime, XattrSet,
};

/// Bytes in flight while a file is copied.
const COPY_CHUNK: u64 = 256 * 1024;

/// Fills an empty tmpfs directory with what another directory has: names, kinds, owners, modes, times, bytes, extended
/// attributes. Hard links become files of their own.
///
/// # Errors
/// `ENOSPC`. The other file system's.
pub fn copy_tree(from: &Arc<dyn Inode>, to: &Arc<dyn Inode>, task: &Task) -> SysResult<()> {
    let mut directories = vec![(Arc::clone(from), Arc::clone(to))];
    while let Some((from, to)) = directories.pop() {
        for listed in from.names(NamesFor::Listing)? {
            let child = from.lookup(&listed.name)?;
            let attributes = child.attributes()?;
            let copy = make_like(&to, &listed.name, &child, &attributes, task)?;
            match attributes.kind {
                FileKind::Directory => directories.push((child, copy)),
                _ => finish(&child, &copy, &attributes)?,
            }
        }
        finish(&from, &to, &from.attributes()?)?;
    }
    Ok(())
}

fn make_like(
    to: &Arc<dyn Inode>,
    name: &[u8],
    from: &Arc<dyn Inode>,
    attributes: &Attributes,
    task: &Task,
) -> SysResult<Arc<dyn Inode>> {
    let target;
    let kind = match attributes.kind {
        FileKind::Regular => NewKind::Regular,
        FileKind::Directory => NewKind::Directory,
        FileKind::Fifo => NewKind::Fifo,
        FileKind::Socket => NewKind::Socket,
        FileKind::CharacterDevice => NewKind::Device { block: false, number: attributes.device_number },
        FileKind::BlockDevice => NewKind::Device { block: true, number: attributes.device_number },
        FileKind::Symlink => {
            let LinkTarget::Path(path) = from.read_link(task)? else { return Err(EINVAL) };
            target = path;
            NewKind::Symlink(&target)
        }
    };
    let (permissions, uid, gid) = (attributes.permissions, attributes.uid, attributes.gid);
    to.create(name, &NewNode { kind, permissions, uid, gid })
}

fn finish(from: &Arc<dyn Inode>, to: &Arc<dyn Inode>, attributes: &Attributes) -> SysResult<()> {
    if attributes.kind == FileKind::Regular && attributes.size > 0 {
        let node = to.as_any().downcast_ref::<Node>().ok_or(EINVAL)?;
        copy_bytes(&*from.backing()?, node.content()?, u64::MAX)?;
    }
    for name in from.list_xattrs()? {
        match to.set_xattr(&name, &from.xattr(&name)?, XattrSet::Any) {
            // Namespaces that a memory file system has not (ACLs) stay behind.
            Ok(()) | Err(EOPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    to.set_attributes(&SetAttributes {
        permissions: Some(attributes.permissions),
        uid: Some(attributes.uid),
        gid: Some(attributes.gid),
        access: Some(SetTime::To(attributes.access_ns)),
        modify: Some(SetTime::To(attributes.modify_ns)),
        size: None,
    })
}

/// Copies at most `limit` bytes of a host file into an empty content, holes as holes.
///
/// # Errors
/// `ENOSPC`. The host's.
pub fn copy_bytes(from: &HostFile, to: &Content, limit: u64) -> SysResult<()> {
    let size = u64::try_from(from.status()?.st_size).unwrap_or(0).min(limit);
    let whole = size <= INLINE_MAX;
    let chunk = usize::try_from(COPY_CHUNK.min(size)).unwrap_or(0);
    let mut buffer = vec![0; chunk];
    let mut offset = 0;
    while offset < size {
        // Small files have no holes worth the question.
        let end = if whole { size } else { data_after(from, &mut offset, size)? };
        while offset < end {
            let room = usize::try_from(end - offset).unwrap_or(usize::MAX).min(buffer.len());
            let count = from.read_at(offset, buffer.get_mut(..room).unwrap_or_default())?;
            if count == 0 {
                // Shorter than it said: the rest is a hole.
                return to.set_size(size);
            }
            write_all(to, offset, buffer.get(..count).unwrap_or_default())?;
            offset += count as u64;
        }
    }
    to.set_size(size)
}

/// Moves `offset` to the next data, and returns where they end.
fn data_after(file: &HostFile, offset: &mut u64, size: u64) -> SysResult<u64> {
    match file.find_extent(*offset, Extent::Data) {
        Ok(begin) => *offset = begin.min(size),
        Err(ENXIO) => *offset = size,
        Err(error) => return Err(error),
    }
    if *offset == size { Ok(size) } else { Ok(file.find_extent(*offset, Extent::Hole)?.min(size)) }
}

fn write_all(to: &Content, mut offset: u64, mut bytes: &[u8]) -> SysResult<()> {
    while !bytes.is_empty() {
        let count = to.write(offset, bytes)?;
        offset += count as u64;
        bytes = bytes.get(count..).unwrap_or_default();
    }
    Ok(())
}
