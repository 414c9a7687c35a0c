//! Options of a tmpfs as `mount(2)` gets them (`man 5 tmpfs`), and what makes one then.

use std::sync::Arc;

use abi::errno::{EINVAL, SysResult};

use super::Tmpfs;
use crate::spec::TmpfsOptions;
use crate::task::Task;
use crate::vfs::{FileSystem, FileSystemFactory};

/// Makes a tmpfs for `mount(2)`.
pub struct Factory {
    /// What `size=` is a percentage of, and half of which is the default.
    pub memory_limit_bytes: Option<u64>,
}

impl FileSystemFactory for Factory {
    fn make(&self, _task: &Task, _source: &[u8], data: &[u8]) -> SysResult<Arc<dyn FileSystem>> {
        Ok(Tmpfs::new(&parse(data, self.memory_limit_bytes)?, self.memory_limit_bytes))
    }
}

/// Reads `size=64m,nr_inodes=10k,mode=1777,uid=0,gid=0`. Options about huge pages and memory policies are taken and mean
/// nothing here.
///
/// # Errors
/// `EINVAL`: unknown options or values.
pub fn parse(data: &[u8], memory_limit_bytes: Option<u64>) -> SysResult<TmpfsOptions> {
    let text = std::str::from_utf8(data).map_err(|_| EINVAL)?;
    let mut options = TmpfsOptions::default();
    for option in text.split(',').filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match key {
            "size" => options.size_bytes = Some(size(value, memory_limit_bytes)?),
            "nr_blocks" => {
                let blocks = suffixed(value)?.checked_mul(super::budget::PAGE).ok_or(EINVAL)?;
                options.size_bytes = Some(blocks);
            }
            "nr_inodes" => options.inodes = Some(suffixed(value)?),
            "mode" => options.mode = u32::from_str_radix(value, 8).map_err(|_| EINVAL)? & 0o7777,
            "uid" => options.uid = value.parse().map_err(|_| EINVAL)?,
            "gid" => options.gid = value.parse().map_err(|_| EINVAL)?,
            "huge" | "mpol" | "inode32" | "inode64" | "noswap" => {}
            _ => return Err(EINVAL),
        }
    }
    Ok(options)
}

fn size(value: &str, memory_limit_bytes: Option<u64>) -> SysResult<u64> {
    match value.strip_suffix('%') {
        Some(percent) => {
            let percent: u64 = percent.parse().map_err(|_| EINVAL)?;
            let memory = super::budget::memory(memory_limit_bytes);
            Ok((memory / 100).saturating_mul(percent))
        }
        None => suffixed(value),
    }
}

/// A number with `k`, `m`, `g` or `t` behind it.
fn suffixed(value: &str) -> SysResult<u64> {
    let digits = value.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match value.get(digits.len()..).unwrap_or_default() {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        _ => return Err(EINVAL),
    };
    let number: u64 = digits.parse().map_err(|_| EINVAL)?;
    number.checked_mul(1 << shift).ok_or(EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_linux_reads_them() {
        let options = parse(b"size=64m,nr_inodes=2k,mode=0755,uid=5,gid=6,huge=never", None).unwrap();
        assert_eq!((options.size_bytes, options.inodes), (Some(64 << 20), Some(2048)));
        assert_eq!((options.mode, options.uid, options.gid), (0o755, 5, 6));
        assert_eq!(parse(b"", None).unwrap().mode, 0o1777);
        assert_eq!(parse(b"size=50%", Some(1000 << 12)).unwrap().size_bytes, Some(500 << 12));
        for bad in [&b"size=x"[..], b"size=1q", b"mode=9", b"unknown", b"uid=-1", b"size=99999999999t"] {
            assert_eq!(parse(bad, None).map(|options| options.mode), Err(EINVAL));
        }
    }
}
