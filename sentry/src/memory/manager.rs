//! One address space as the kernel sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use platform::{Layout, Protection};

use super::map::RegionMap;
use super::{Backing, Region, RegionFlags};
use crate::vfs::FileDescription;
use crate::wait::Gate;

/// Where `execve` put the parts of a program (`/proc/PID/stat`, `prctl(PR_SET_MM)`).
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "the names of `man 5 proc_pid_stat`")]
pub struct ProgramArea {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_stack: u64,
    pub arguments_start: u64,
    pub arguments_end: u64,
    pub environment_start: u64,
    pub environment_end: u64,
}

/// The changeable part.
pub(super) struct Space {
    pub(super) regions: RegionMap,
    /// Where `brk` began.
    pub(super) break_start: u64,
    /// Where it is now.
    pub(super) break_end: u64,
    /// Ranges that are free in the map, but that the host may not have been asked to give back yet: whose, from, to.
    pub(super) leaving: Vec<(usize, u64, u64)>,
}

impl Space {
    /// As [`RegionMap::find_free_below`], where nothing is about to be given back.
    pub(super) fn find_room(&self, top: u64, bottom: u64, length: u64) -> Option<u64> {
        let mut top = top;
        loop {
            let start = self.regions.find_free_below(top, bottom, length)?;
            let overlaps = |leaving: &&(usize, u64, u64)| leaving.1 < start + length && start < leaving.2;
            match self.leaving.iter().find(overlaps) {
                Some(leaving) => top = leaving.1,
                None => return Some(start),
            }
        }
    }
}

/// An address space.
pub struct MemoryManager {
    pub(super) layout: Layout,
    /// Where mappings without a place go, downwards.
    pub(super) mmap_top: u64,
    pub(super) gate: Arc<Gate>,
    pub(super) space: Mutex<Space>,
    /// Tasks that live in it.
    pub(super) users: AtomicUsize,
    /// Distinguishes address spaces, for private futexes.
    pub identity: u64,
    /// The parts of the program.
    pub program: Mutex<ProgramArea>,
    /// The program's file.
    executable: Mutex<Option<Arc<FileDescription>>>,
    /// The auxiliary vector as the program found it (`/proc/PID/auxv`).
    pub auxiliary: Mutex<Vec<u8>>,
}

fn next_identity() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl MemoryManager {
    /// A blank address space, with the platform's vDSO in it. Mappings go downwards from `mmap_top`.
    pub fn new(layout: Layout, mmap_top: u64) -> Arc<Self> {
        let mut regions = RegionMap::default();
        if let Some(vdso) = layout.vdso {
            let part = |start, end, execute, name| Region {
                start,
                end,
                protection: Protection { read: true, write: false, execute },
                may_write: false,
                may_execute: execute,
                flags: RegionFlags::empty(),
                backing: Backing::Platform(name),
            };
            if vdso.data_start < vdso.start {
                regions.insert(part(vdso.data_start, vdso.start, false, "[vvar]"));
            }
            regions.insert(part(vdso.start, vdso.end, true, "[vdso]"));
        }
        Arc::new(Self {
            layout,
            mmap_top,
            gate: Arc::default(),
            space: Mutex::new(Space { regions, break_start: 0, break_end: 0, leaving: Vec::new() }),
            users: AtomicUsize::new(0),
            identity: next_identity(),
            program: Mutex::default(),
            executable: Mutex::new(None),
            auxiliary: Mutex::default(),
        })
    }

    /// A copy as `fork` makes it. The caller holds the gate.
    pub(crate) fn fork(&self) -> Arc<Self> {
        let space = self.space.lock();
        let mut regions = space.regions.clone();
        let gone: Vec<(u64, u64)> = regions
            .iter()
            .filter(|region| region.flags.contains(RegionFlags::DONTFORK))
            .map(|region| (region.start, region.end))
            .collect();
        for (start, end) in gone {
            regions.remove(start, end);
        }
        Arc::new(Self {
            layout: self.layout,
            mmap_top: self.mmap_top,
            gate: Arc::default(),
            space: Mutex::new(Space {
                regions,
                break_start: space.break_start,
                break_end: space.break_end,
                leaving: Vec::new(),
            }),
            users: AtomicUsize::new(0),
            identity: next_identity(),
            program: Mutex::new(*self.program.lock()),
            executable: Mutex::new(self.executable.lock().clone()),
            auxiliary: Mutex::new(self.auxiliary.lock().clone()),
        })
    }

    /// A task begins to live here.
    pub(crate) fn enter(&self) {
        self.users.fetch_add(1, Ordering::AcqRel);
    }

    /// A task no longer lives here; returns whether it was the last.
    pub(crate) fn leave(&self) -> bool {
        self.users.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// How many tasks live here.
    pub fn users(&self) -> usize {
        self.users.load(Ordering::Acquire)
    }

    /// The gate that serialises changes.
    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Whether nothing was ever mapped but what the platform puts into every space.
    pub(crate) fn is_blank(&self) -> bool {
        let space = self.space.lock();
        space.regions.iter().all(|region| matches!(region.backing, Backing::Platform(_)))
    }

    /// Whether nothing is mapped in `start..end`.
    pub(crate) fn is_free(&self, start: u64, end: u64) -> bool {
        self.space.lock().regions.is_free(start, end)
    }

    /// Where a mapping of `length` bytes would go.
    pub(crate) fn find_room(&self, length: u64) -> Option<u64> {
        self.space.lock().find_room(self.mmap_top, self.layout.min_address, length)
    }

    /// The host has carried out what a task had left to it.
    pub(crate) fn settle(&self, task: usize) {
        self.space.lock().leaving.retain(|leaving| leaving.0 != task);
    }

    /// All regions, in order (`/proc/PID/maps`).
    pub fn regions(&self) -> Vec<Region> {
        self.space.lock().regions.iter().cloned().collect()
    }

    /// The region at an address.
    pub fn region_at(&self, address: u64) -> Option<Region> {
        self.space.lock().regions.find(address).cloned()
    }

    /// Bytes mapped altogether.
    pub fn total_bytes(&self) -> u64 {
        self.space.lock().regions.total()
    }

    /// Bytes mapped that may be written.
    pub fn writable_bytes(&self) -> u64 {
        self.space.lock().regions.writable()
    }

    /// Where the program break began, and where it is.
    pub fn program_break(&self) -> (u64, u64) {
        let space = self.space.lock();
        (space.break_start, space.break_end)
    }

    /// Sets where the program break begins (`execve`).
    pub(crate) fn set_program_break(&self, start: u64) {
        let mut space = self.space.lock();
        space.break_start = start;
        space.break_end = start;
    }

    /// The program's file (`/proc/PID/exe`).
    pub fn executable(&self) -> Option<Arc<FileDescription>> {
        self.executable.lock().clone()
    }

    /// Sets the program's file.
    pub(crate) fn set_executable(&self, file: Arc<FileDescription>) {
        let old = self.executable.lock().replace(file);
        drop(old);
    }

    /// Limits of this address space.
    pub const fn layout(&self) -> Layout {
        self.layout
    }
}
