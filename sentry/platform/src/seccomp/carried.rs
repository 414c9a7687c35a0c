//! Input and output that travel with a call through the slot, so that the sentry need not reach into the application's
//! memory (which costs 1.6 µs, `process_vm_readv(2)`) for a few bytes.
//!
//! The stub has copied what the call points to into the slot, and has found the place for its output writable. As long
//! as the call is being handled, reads of that input are served from the slot, and writes to that place are
//! gathered there; the stub copies them when the call returns. The kernel knows nothing of it: it sees user memory.
//!
//! Input and output share one area, whose beginning lies in the slot's first page: the first output takes the place of the
//! input, which is read from memory from then on.
//!
//! The word that a futex wait compares is no input: to have it as it was a moment ago is not enough for whoever reads memory, so it is given
//! only to the one who asks for it ([`Carried::compared`]), once, and forgotten with the call that it came with.
//!
//! Key type: [`Carried`], one for each thread. Invariants: only the worker that handles the call is served, and only until it turns to
//! the next trap (a call that has waited is taken over by whoever goes on with it); gathered output is one contiguous range, and whatever else touches memory while some is gathered has it
//! written out first. What the slot says is as hostile as the memory it stands for: a thread can deceive itself.

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::slots::Slot;
use crate::SyscallRequest;
use crate::stub::{
    AREA, Call, Extent, SLOT_IN_LENGTH, SLOT_OUT_ADDRESS, SLOT_OUT_CAPACITY, SLOT_OUT_LENGTH, SLOT_OUT_OFFSET,
};

/// What a thread's call carries.
#[derive(Debug, Default)]
pub struct Carried {
    /// Whether to look at all; the rest is behind it.
    active: AtomicBool,
    inner: Mutex<Inner>,
    /// The word that the call compares: its value, and whether there is one.
    compared: AtomicU64,
    /// Where it lies.
    compared_at: AtomicU64,
}

/// A word has come with the call.
const PRESENT: u64 = 1 << 32;

#[derive(Debug, Default)]
struct Inner {
    handler: (usize, u64),
    input: Option<Input>,
    output: Option<Output>,
}

#[derive(Debug)]
struct Input {
    address: u64,
    length: usize,
    string: bool,
}

#[derive(Debug)]
struct Output {
    address: u64,
    capacity: usize,
    /// What has been gathered, as a range of the area.
    gathered: Range<usize>,
}

thread_local! {
    /// How many traps this worker has turned to.
    static TURN: Cell<u64> = const { Cell::new(0) };
}

/// This worker turns to the next trap: what it has left unanswered is no longer its own.
pub fn next_turn() {
    TURN.with(|turn| turn.set(turn.get() + 1));
}

fn current_handler() -> (usize, u64) {
    TURN.with(|turn| (std::ptr::from_ref(turn).addr(), turn.get()))
}

/// Gathered output: where it goes, and the bytes.
pub type Gathered = (u64, Vec<u8>);

impl Carried {
    /// A call begins, to be handled by this worker.
    pub fn begin(&self, slot: &Slot, request: &SyscallRequest) {
        let call = Call::of(request.number);
        let in_length = slot.half(SLOT_IN_LENGTH) as usize;
        let capacity = slot.half(SLOT_OUT_CAPACITY) as usize;
        // The stub can reach its own memory; for the kernel that does not exist.
        let end = slot.geometry().code;
        let is_theirs = |extent: &Extent| extent.address < end && extent.length <= end - extent.address;
        let input = call.input_extent(&request.arguments).filter(is_theirs);
        let input = input.filter(|_| in_length > 0).and_then(|extent| {
            // A fixed or computed length was copied whole, or not at all.
            let right = in_length as u64 == extent.length || extent.string && in_length as u64 <= AREA;
            right.then_some(Input { address: extent.address, length: in_length, string: extent.string })
        });
        let output = call.output_extent(&request.arguments).filter(is_theirs);
        let output = output.filter(|_| capacity > 0).map(|extent| Output {
            address: extent.address,
            capacity: capacity.min(extent.length as usize),
            gathered: 0..0,
        });
        let first = request.arguments[0];
        let is_there = call.may_compare() && in_length == size_of::<u32>() && first < end;
        self.compared_at.store(first, Ordering::Relaxed);
        let compared = if is_there { PRESENT | u64::from(slot.half(slot.geometry().stack_end)) } else { 0 };
        self.compared.store(compared, Ordering::Release);
        if input.is_none() && output.is_none() {
            // Whatever an earlier call has left is not this one's.
            self.active.store(false, Ordering::Release);
            return;
        }
        *self.inner.lock() = Inner { handler: current_handler(), input, output };
        self.active.store(true, Ordering::Release);
    }

    /// What an earlier call has brought to compare is not this one's.
    pub fn forget_compared(&self) {
        self.compared.store(0, Ordering::Relaxed);
    }

    /// The word at an address as the stub has loaded it for the call that is being handled; once.
    pub fn compared(&self, address: u64) -> Option<u32> {
        let word = self.compared.swap(0, Ordering::Acquire);
        let value = word.checked_sub(PRESENT)?;
        let is_there = self.compared_at.load(Ordering::Relaxed) == address;
        u32::try_from(value).ok().filter(|_| is_there)
    }

    /// The call, which had to wait, is handled by this worker now.
    pub fn go_on(&self) {
        if self.active.load(Ordering::Acquire) {
            self.inner.lock().handler = current_handler();
        }
    }

    /// Serves a read, if it is of the input. `Err`: write this out first, then read memory.
    pub fn read(&self, slot: &Slot, address: u64, buffer: &mut [u8]) -> Result<Option<usize>, Gathered> {
        if !self.active.load(Ordering::Acquire) {
            return Ok(None);
        }
        let mut inner = self.inner.lock();
        if let Some(gathered) = inner.take_gathered(slot) {
            return Err(gathered);
        }
        let Some(input) = inner.input.as_ref().filter(|_| inner.handler == current_handler()) else {
            return Ok(None);
        };
        let Some(start) = address.checked_sub(input.address).filter(|start| *start < input.length as u64)
        else {
            return Ok(None);
        };
        let start = start as usize;
        let length = if input.string && start == 0 { buffer.len().min(input.length) } else { buffer.len() };
        if length > input.length - start {
            return Ok(None);
        }
        slot.read(slot.geometry().stack_end + start, &mut buffer[..length]);
        // A string is all there is only if it ends.
        if length < buffer.len() && buffer[length - 1] != 0 {
            return Ok(None);
        }
        Ok(Some(length))
    }

    /// Gathers a write, if it is of output. `Err`: write this out first, then write to memory.
    pub fn write(&self, slot: &Slot, address: u64, bytes: &[u8]) -> Result<bool, Gathered> {
        if !self.active.load(Ordering::Acquire) {
            return Ok(false);
        }
        let mut inner = self.inner.lock();
        let mine = inner.handler == current_handler();
        if mine
            && let Some(output) = &mut inner.output
            && let Some(range) = output.range(address, bytes.len())
        {
            slot.write(slot.geometry().stack_end + range.start, bytes);
            let gathered = &mut output.gathered;
            *gathered = if gathered.start == gathered.end {
                range
            } else {
                gathered.start.min(range.start)..gathered.end.max(range.end)
            };
            // It lies where the input was.
            inner.input = None;
            return Ok(true);
        }
        inner.take_gathered(slot).map_or(Ok(false), Err)
    }

    /// The call returns: leaves it to the stub to copy what was gathered.
    pub fn finish(&self, slot: &Slot) {
        self.forget_compared();
        if !self.active.load(Ordering::Acquire) {
            return;
        }
        let mut inner = self.inner.lock();
        if let Some(output) = inner.output.take().filter(|output| !output.gathered.is_empty()) {
            slot.set_word(SLOT_OUT_ADDRESS, output.address + output.gathered.start as u64);
            slot.set_half(SLOT_OUT_OFFSET, output.gathered.start as u32);
            slot.set_half(SLOT_OUT_LENGTH, output.gathered.len() as u32);
        }
        inner.input = None;
        self.active.store(false, Ordering::Release);
    }

    /// The call will return by another way: what was gathered has to be written out now.
    pub fn withdraw(&self, slot: &Slot) -> Option<Gathered> {
        self.forget_compared();
        if !self.active.load(Ordering::Acquire) {
            return None;
        }
        let mut inner = self.inner.lock();
        let gathered = inner.take_gathered(slot);
        *inner = Inner::default();
        self.active.store(false, Ordering::Release);
        gathered
    }
}

impl Inner {
    fn take_gathered(&mut self, slot: &Slot) -> Option<Gathered> {
        let output = self.output.as_mut().filter(|output| !output.gathered.is_empty())?;
        let range = std::mem::take(&mut output.gathered);
        let mut bytes = vec![0; range.len()];
        slot.read(slot.geometry().stack_end + range.start, &mut bytes);
        Some((output.address + range.start as u64, bytes))
    }
}

impl Output {
    /// The place of a write in the area, if it may be gathered: it touches what is gathered already.
    fn range(&self, address: u64, length: usize) -> Option<Range<usize>> {
        let start = usize::try_from(address.checked_sub(self.address)?).ok()?;
        let end = start.checked_add(length).filter(|end| *end <= self.capacity)?;
        let touches = self.gathered.is_empty() || start <= self.gathered.end && end >= self.gathered.start;
        (touches && length > 0).then_some(start..end)
    }
}
