//! `StatFs`. (`GetAttr` is [`crate::lookup::attributes`].)

use abi::errno::Errno;
use rustix::fs::fstatfs;
use wire::FileSystemStat;

use crate::handles::Node;
use crate::lookup::errno;

/// Answers `StatFs`.
pub fn stat_fs(file: &Node) -> Result<FileSystemStat, Errno> {
    let stat = fstatfs(file).map_err(errno)?;
    Ok(FileSystemStat {
        kind: unsigned(stat.f_type),
        block_size: unsigned(stat.f_bsize),
        blocks: stat.f_blocks,
        blocks_free: stat.f_bfree,
        blocks_available: stat.f_bavail,
        files: stat.f_files,
        files_free: stat.f_ffree,
        name_length: unsigned(stat.f_namelen),
        fragment_size: unsigned(stat.f_frsize),
    })
}

/// The kernel has these fields signed, and never negative.
fn unsigned(field: impl TryInto<u64>) -> u64 {
    field.try_into().unwrap_or(0)
}
