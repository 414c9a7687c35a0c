//! Listing directories. The descriptor a listing is read from stays here, with its node, from one request to the
//! next: cookies of some file systems (overlayfs, older tmpfs) are positions that shift when an entry is removed, and
//! mean the right thing only to the descriptor that gave them.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use abi::errno::Errno;
use rustix::fs::{OFlags, RawDir, SeekFrom, seek};
use wire::{DirEntry, FileType, MAX_MESSAGE, ReadDirFlags, Reply};

use crate::answer::Answer;
use crate::connection::Server;
use crate::handles::{Node, Permit};
use crate::lookup::{entry_attributes, errno, reopen};

/// A directory open for listing.
#[derive(Debug)]
pub struct Listing {
    descriptor: OwnedFd,
    /// Where the descriptor stands.
    position: u64,
    _permit: Permit,
}

/// What the kernel is asked for at once. The smallest of its entries takes 24 bytes, ours with attributes
/// `MAX_ENCODED_OVERHEAD` and the name.
const BATCH: usize = 4096;
const SMALLEST_HOST_ENTRY: usize = 24;
/// What a batch may grow to.
const LARGEST_ENCODED_BATCH: usize = BATCH / SMALLEST_HOST_ENTRY * DirEntry::MAX_ENCODED_OVERHEAD + BATCH;
/// A reply's own fields.
const HEADER: usize = 8;

/// Answers `ReadDir`.
pub fn read_dir(server: &Server, dir: &Node, cookie: u64, flags: ReadDirFlags) -> Result<Answer, Errno> {
    if dir.kind != FileType::Directory {
        return Err(abi::errno::ENOTDIR);
    }
    let mut kept = dir.listing.lock();
    let mut listing = match kept.take() {
        Some(listing) if cookie != 0 => listing,
        // From the start a listing must show what is there now, which a descriptor that has been read need not.
        _ => Listing {
            _permit: server.budget.take()?,
            descriptor: reopen(server, dir.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY)?,
            position: 0,
        },
    };
    if listing.position != cookie {
        seek(&listing.descriptor, SeekFrom::Start(cookie)).map_err(errno)?;
        listing.position = cookie;
    }
    let (entries, end) = listing.read(flags)?;
    if !end {
        *kept = Some(listing);
    }
    Ok(Answer::plain(Reply::Entries { entries, end }))
}

impl Listing {
    /// Entries until a further batch might not fit in the reply.
    fn read(&mut self, flags: ReadDirFlags) -> Result<(Vec<DirEntry>, bool), Errno> {
        let mut entries = Vec::new();
        let mut encoded = HEADER;
        while encoded + LARGEST_ENCODED_BATCH <= MAX_MESSAGE {
            let mut buffer = [MaybeUninit::<u8>::uninit(); BATCH];
            let mut batch = RawDir::new(&self.descriptor, &mut buffer);
            let mut is_end = true;
            while let Some(entry) = batch.next() {
                is_end = false;
                let entry = entry.map_err(errno)?;
                self.position = entry.next_entry_cookie();
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    let attr = flags
                        .contains(ReadDirFlags::ATTRIBUTES)
                        .then(|| entry_attributes(self.descriptor.as_fd(), name).ok())
                        .flatten();
                    encoded += DirEntry::MAX_ENCODED_OVERHEAD + name.len();
                    entries.push(DirEntry {
                        name: name.to_vec(),
                        ino: entry.ino(),
                        kind: file_type(entry.file_type()),
                        cookie: self.position,
                        attr,
                    });
                }
                if batch.is_buffer_empty() {
                    break;
                }
            }
            if is_end {
                return Ok((entries, true));
            }
        }
        Ok((entries, false))
    }
}

fn file_type(kind: rustix::fs::FileType) -> FileType {
    use rustix::fs::FileType as Host;
    match kind {
        Host::RegularFile => FileType::Regular,
        Host::Directory => FileType::Directory,
        Host::Symlink => FileType::Symlink,
        Host::Fifo => FileType::Fifo,
        Host::Socket => FileType::Socket,
        Host::CharacterDevice => FileType::CharacterDevice,
        Host::BlockDevice => FileType::BlockDevice,
        Host::Unknown => FileType::Unknown,
    }
}
