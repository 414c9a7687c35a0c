//! The memory of all slots: one memfd, mapped once by the sentry, chunk by chunk by the stubs.
//!
//! Key types: [`SlotMemory`] (the memfd and its free chunks), [`Space`] (which chunks one application address space
//! maps, and where), [`Slot`] (one thread's slot, from both sides). Everything in a slot is
//! hostile: [`Slot`] only copies words and bytes, once, within bounds.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::errno::{self, Errno};
use parking_lot::Mutex;

use super::code::Code;
use super::notification::last_error;
use crate::stub::{CHUNK_SLOTS, Geometry, SLOT_ARGUMENTS, SLOT_OUT_LENGTH, SLOT_STACK, SLOT_STATE};

/// Most chunks, hence processes, of one sandbox.
pub const MAX_CHUNKS: u64 = 32768;

/// The slots' memory as the sentry sees it.
#[derive(Debug)]
pub struct SlotMemory {
    base: *mut u8,
    length: usize,
    /// Needed until the seed holds its own copy.
    file: OwnedFd,
    chunk_size: u64,
    free: Mutex<Chunks>,
}

// SAFETY: `base` is a mapping that lives as long as the value and is only accessed by bounded volatile or byte
// copies through `Slot`; several threads may do that at once because the bytes carry no invariant.
unsafe impl Send for SlotMemory {}
// SAFETY: as above.
unsafe impl Sync for SlotMemory {}

#[derive(Debug)]
struct Chunks {
    never_used: u64,
    returned: Vec<u64>,
}

impl SlotMemory {
    /// Makes and maps the (sparse) memory.
    ///
    /// # Errors
    /// Those of `memfd_create(2)`, `ftruncate(2)`, `mmap(2)`.
    pub fn new(geometry: &Geometry) -> Result<Self, Errno> {
        let length = MAX_CHUNKS * geometry.chunk_size();
        let file = memfd(c"runsc-slots", length)?;
        seal(&file, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL)?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(last_error());
        }
        // SAFETY: the range is the mapping just made. The seed must not inherit it.
        unsafe { libc::madvise(base, length as usize, libc::MADV_DONTFORK) };
        Ok(Self {
            base: base.cast(),
            length: length as usize,
            file,
            chunk_size: geometry.chunk_size(),
            free: Mutex::new(Chunks { never_used: 0, returned: Vec::new() }),
        })
    }

    /// The memfd.
    pub fn file(&self) -> &OwnedFd {
        &self.file
    }

    fn allocate(&self) -> Result<u64, Errno> {
        let mut free = self.free.lock();
        if let Some(chunk) = free.returned.pop() {
            return Ok(chunk);
        }
        if free.never_used == MAX_CHUNKS {
            return Err(errno::EAGAIN);
        }
        free.never_used += 1;
        Ok(free.never_used - 1)
    }

    /// Makes a chunk all zeros for its next user. What its only slot has touched is cleared, if that is said and few chunks
    /// are kept so: giving pages back costs more, because other processors have to forget them. The rest, where an honest process has
    /// touched nothing, is given back.
    fn release(&self, chunk: u64, only_slot: Option<u64>) {
        const KEPT: usize = 64;
        let slot_size = self.chunk_size / CHUNK_SLOTS;
        let (start, end) = (chunk * self.chunk_size, (chunk + 1) * self.chunk_size);
        let keep = self.free.lock().returned.len() < KEPT;
        match only_slot.filter(|index| *index < CHUNK_SLOTS && keep) {
            Some(index) => {
                let slot = start + index * slot_size;
                // SAFETY: the slot lies inside our mapping; its contents are nobody's any more.
                unsafe { std::ptr::write_bytes(self.base.add(slot as usize), 0, slot_size as usize) };
                self.give_back(start, slot);
                self.give_back(slot + slot_size, end);
            }
            None => self.give_back(start, end),
        }
        self.free.lock().returned.push(chunk);
    }

    fn give_back(&self, start: u64, end: u64) {
        if start < end {
            // SAFETY: the range lies inside our mapping; its contents are nobody's any more.
            unsafe {
                libc::madvise(
                    self.base.add(start as usize).cast(),
                    (end - start) as usize,
                    libc::MADV_REMOVE,
                );
            }
        }
    }
}

impl Drop for SlotMemory {
    fn drop(&mut self) {
        // SAFETY: our own mapping; every `Slot` holds the memory alive through its space.
        unsafe { libc::munmap(self.base.cast(), self.length) };
    }
}

/// One application address space: the chunks it maps. Shared by processes that share memory.
#[derive(Debug)]
pub struct Space {
    memory: Arc<SlotMemory>,
    geometry: Geometry,
    chunks: Mutex<Vec<Chunk>>,
    /// Its patched code.
    pub code: Code,
}

#[derive(Debug)]
struct Chunk {
    /// Which of the address space's chunk places.
    place: u64,
    /// Which chunk of the memory.
    number: u64,
    used: u16,
    /// Those that were used at any time.
    ever_used: u16,
    /// Whether the address space maps it already.
    mapped: bool,
}

/// A chunk that must be mapped before its slots can be used.
#[derive(Clone, Copy, Debug)]
pub struct NewChunk {
    /// Where.
    pub address: u64,
    /// Offset in the memfd.
    pub offset: u64,
    place: u64,
}

impl Space {
    /// A space whose only chunk lies at `place`, with `index` used.
    ///
    /// # Errors
    /// `EAGAIN`: [`MAX_CHUNKS`].
    pub fn new(
        memory: &Arc<SlotMemory>,
        geometry: Geometry,
        like: SlotPlace,
        code: Code,
    ) -> Result<Arc<Self>, Errno> {
        let number = memory.allocate()?;
        let chunk = Chunk {
            place: like.chunk,
            number,
            used: 1 << like.index,
            ever_used: 1 << like.index,
            mapped: true,
        };
        Ok(Arc::new(Self { memory: memory.clone(), geometry, chunks: Mutex::new(vec![chunk]), code }))
    }

    /// The slot at a place that is known to be used.
    pub fn slot(self: &Arc<Self>, place: SlotPlace) -> Option<Slot> {
        let chunks = self.chunks.lock();
        let chunk = chunks.iter().find(|chunk| chunk.place == place.chunk)?;
        Some(self.make(place, chunk.number))
    }

    fn make(self: &Arc<Self>, place: SlotPlace, number: u64) -> Slot {
        Slot {
            space: self.clone(),
            address: self.geometry.slot_address(place.chunk, place.index),
            offset: number * self.geometry.chunk_size() + place.index * self.geometry.slot_size,
            place,
        }
    }

    /// A free slot in a mapped chunk.
    pub fn take_slot(self: &Arc<Self>) -> Option<Slot> {
        let mut chunks = self.chunks.lock();
        let chunk = chunks.iter_mut().find(|chunk| chunk.mapped && chunk.used != u16::MAX)?;
        let index = u64::from(chunk.used.trailing_ones());
        chunk.used |= 1 << index;
        chunk.ever_used |= 1 << index;
        let (place, number) = (SlotPlace { chunk: chunk.place, index }, chunk.number);
        Some(self.make(place, number))
    }

    /// Chooses a chunk and a place for it.
    ///
    /// # Errors
    /// `EAGAIN`: no chunk or no place left.
    pub fn add_chunk(&self) -> Result<NewChunk, Errno> {
        let mut chunks = self.chunks.lock();
        let place = (0..self.geometry.chunks)
            .find(|place| chunks.iter().all(|chunk| chunk.place != *place))
            .ok_or(errno::EAGAIN)?;
        let number = self.memory.allocate()?;
        chunks.push(Chunk { place, number, used: 0, ever_used: 0, mapped: false });
        Ok(NewChunk {
            address: self.geometry.slot_address(place, 0),
            offset: number * self.geometry.chunk_size(),
            place,
        })
    }

    /// Records whether mapping the new chunk succeeded.
    pub fn chunk_mapped(&self, new: NewChunk, mapped: bool) {
        let mut chunks = self.chunks.lock();
        if let Some(at) = chunks.iter().position(|chunk| chunk.place == new.place) {
            if mapped {
                chunks[at].mapped = true;
            } else {
                let chunk = chunks.swap_remove(at);
                self.memory.release(chunk.number, None);
            }
        }
    }

    /// Whether a copy of this address space would inherit chunks other than the copier's own.
    pub fn has_other_chunks(&self) -> bool {
        self.chunks.lock().len() > 1
    }

    /// Frees a slot whose thread has ended.
    pub fn release_slot(&self, place: SlotPlace) {
        let mut chunks = self.chunks.lock();
        if let Some(chunk) = chunks.iter_mut().find(|chunk| chunk.place == place.chunk) {
            chunk.used &= !(1 << place.index);
        }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        for chunk in self.chunks.get_mut().drain(..) {
            let only =
                (chunk.ever_used.count_ones() == 1).then(|| u64::from(chunk.ever_used.trailing_zeros()));
            self.memory.release(chunk.number, only);
        }
    }
}

/// Position of a slot in an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotPlace {
    /// Place of its chunk.
    pub chunk: u64,
    /// Index in the chunk.
    pub index: u64,
}

/// One thread's slot.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The address space it belongs to.
    pub space: Arc<Space>,
    /// Its address in the application.
    pub address: u64,
    /// Its offset in the memfd.
    offset: u64,
    /// Its position.
    pub place: SlotPlace,
}

impl Slot {
    fn pointer(&self, at: usize, length: usize) -> Option<*mut u8> {
        let size = self.space.geometry.slot_size as usize;
        if at > size || length > size - at {
            return None;
        }
        // SAFETY: `offset` is that of a slot inside the mapping, and `at + length` lies inside the slot.
        Some(unsafe { self.space.memory.base.add(self.offset as usize + at) })
    }

    /// Reads an aligned word; 0 outside of the slot.
    pub fn word(&self, at: usize) -> u64 {
        match self.pointer(at, 8) {
            // SAFETY: eight bytes inside our mapping, aligned because slots and `at` are. Volatile because
            // another process may change them.
            Some(pointer) if at.is_multiple_of(8) => unsafe { pointer.cast::<u64>().read_volatile() },
            _ => 0,
        }
    }

    /// Writes an aligned word; nothing outside of the slot.
    pub fn set_word(&self, at: usize, value: u64) {
        if let Some(pointer) = self.pointer(at, 8).filter(|_| at.is_multiple_of(8)) {
            // SAFETY: as in `word`.
            unsafe { pointer.cast::<u64>().write_volatile(value) };
        }
    }

    /// Reads an aligned 32-bit word; 0 outside of the slot.
    pub fn half(&self, at: usize) -> u32 {
        self.atomic(at).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Writes an aligned 32-bit word; nothing outside of the slot.
    pub fn set_half(&self, at: usize, value: u32) {
        if let Some(word) = self.atomic(at) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Leaves a call's arguments where the stub puts them back from when it returns, and no output yet.
    pub fn leave_arguments(&self, arguments: &[u64; 6]) {
        for (index, argument) in arguments.iter().enumerate() {
            self.set_word(SLOT_ARGUMENTS + index * 8, *argument);
        }
        self.set_half(SLOT_OUT_LENGTH, 0);
    }

    /// The state of the thread's request, an allegation like everything here.
    pub fn state(&self) -> u32 {
        self.atomic(SLOT_STATE).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Sets the state of the request, after everything that belongs to it.
    pub fn set_state(&self, state: u32) {
        if let Some(word) = self.atomic(SLOT_STATE) {
            word.store(state, Ordering::Release);
        }
    }

    /// Changes the state if it is `from`.
    ///
    /// # Errors
    /// What it is instead.
    pub fn change_state(&self, from: u32, to: u32) -> Result<(), u32> {
        let Some(word) = self.atomic(SLOT_STATE) else { return Err(0) };
        word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).map(|_| ())
    }

    /// Sets the state as [`Slot::set_state`] does; returns what it was.
    pub fn replace_state(&self, state: u32) -> u32 {
        self.atomic(SLOT_STATE).map_or(0, |word| word.swap(state, Ordering::AcqRel))
    }

    /// Wakes the thread that waits for the state to change (`man 2 futex`).
    pub fn wake(&self) {
        if let Some(word) = self.atomic(SLOT_STATE) {
            // SAFETY: the word lies in our mapping, which outlives the call. Not private: the stub maps it elsewhere.
            unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
        }
    }

    fn atomic(&self, at: usize) -> Option<&AtomicU32> {
        let pointer = self.pointer(at, 4).filter(|_| at.is_multiple_of(4))?;
        // SAFETY: four aligned bytes inside our mapping, which outlives `self`; both sides use atomic instructions.
        Some(unsafe { AtomicU32::from_ptr(pointer.cast()) })
    }

    /// Reads an aligned word that the thread changes with atomic instructions; 0 outside of the slot.
    pub fn long(&self, at: usize) -> u64 {
        self.atomic_long(at).map_or(0, |word| word.load(Ordering::SeqCst))
    }

    /// Replaces such a word; returns the old one.
    pub fn swap_long(&self, at: usize, value: u64) -> u64 {
        self.atomic_long(at).map_or(0, |word| word.swap(value, Ordering::SeqCst))
    }

    fn atomic_long(&self, at: usize) -> Option<&AtomicU64> {
        let pointer = self.pointer(at, 8).filter(|_| at.is_multiple_of(8))?;
        // SAFETY: eight aligned bytes inside our mapping, which outlives `self`; both sides use atomic instructions.
        Some(unsafe { AtomicU64::from_ptr(pointer.cast()) })
    }

    /// Copies bytes out; leaves `buffer` alone if they do not lie inside the slot.
    pub fn read(&self, at: usize, buffer: &mut [u8]) {
        if let Some(pointer) = self.pointer(at, buffer.len()) {
            // SAFETY: source inside our mapping, destination a Rust slice, so they are disjoint. Bytes that another
            // process changes meanwhile may be torn, which the callers expect of hostile input.
            unsafe { std::ptr::copy_nonoverlapping(pointer, buffer.as_mut_ptr(), buffer.len()) };
        }
    }

    /// Copies bytes in; does nothing if they would not lie inside the slot.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        if let Some(pointer) = self.pointer(at, bytes.len()) {
            // SAFETY: as in `read`, the other way.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer, bytes.len()) };
        }
    }

    /// Offset of this slot's chunk in the memfd.
    pub fn chunk_offset(&self) -> u64 {
        self.offset - self.place.index * self.space.geometry.slot_size
    }

    /// Address of this slot's chunk in the application.
    pub fn chunk_address(&self) -> u64 {
        self.space.geometry.slot_address(self.place.chunk, 0)
    }

    /// Its signal stack: where it begins in the application, and how long it is.
    pub fn signal_stack(&self) -> (u64, u64) {
        (self.address + SLOT_STACK as u64, (self.geometry().stack_end - SLOT_STACK) as u64)
    }

    /// Where everything lies.
    pub fn geometry(&self) -> &Geometry {
        &self.space.geometry
    }
}

const _: () = assert!(CHUNK_SLOTS == 16, "`Chunk::used` has 16 bits");

/// A memfd of the given size, sealable.
///
/// # Errors
/// Those of `memfd_create(2)` and `ftruncate(2)`.
pub fn memfd(name: &std::ffi::CStr, size: u64) -> Result<OwnedFd, Errno> {
    // SAFETY: the name is a C string; a non-negative result is a new descriptor that nobody else owns.
    let file = unsafe {
        let fd = libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        if fd < 0 {
            return Err(last_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: no memory is involved.
    if unsafe { libc::ftruncate(file.as_raw_fd(), size.cast_signed()) } < 0 {
        return Err(last_error());
    }
    Ok(file)
}

/// Seals a memfd (`man 2 fcntl`, file sealing).
///
/// # Errors
/// Those of `fcntl(2)`.
pub fn seal(file: &OwnedFd, seals: i32) -> Result<(), Errno> {
    // SAFETY: no memory is involved.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(last_error());
    }
    Ok(())
}
