//! A thread's own words (its signal mask, its list of robust futexes) in its slot, where the stub changes them in the place of
//! calls that do nothing else.
//!
//! A slot is another thread's as soon as its own is gone, but the kernel may ask about the words of a dead thread for some time:
//! so they are taken out of the slot before it is given away.
//!
//! Key type: [`SlotWords`]. Invariant: the lock is a leaf, held for an access; with it held, the slot is the thread's.

use parking_lot::Mutex;

use super::slots::Slot;
use crate::stub::{SLOT_MASK, SLOT_ROBUST};
use crate::words::{HeapWords, OwnWords};

/// One thread's words.
#[derive(Debug)]
pub struct SlotWords {
    place: Mutex<Place>,
}

#[derive(Debug)]
enum Place {
    /// In the slot, where the thread can write them.
    Slot(Slot),
    /// Here: the thread is gone.
    Own(HeapWords),
}

impl SlotWords {
    /// Of the thread that has this slot.
    pub fn new(slot: &Slot) -> Self {
        Self { place: Mutex::new(Place::Slot(slot.clone())) }
    }

    /// The thread is gone, or about to execute its last call: what it has left is kept here. To be called before the slot is given away.
    pub fn retire(&self) {
        let mut place = self.place.lock();
        let Place::Slot(slot) = &*place else { return };
        let left = HeapWords::new(slot.long(SLOT_MASK), slot.long(SLOT_ROBUST));
        // The slot, which keeps its address space's chunks, is dropped without the lock.
        let slot = std::mem::replace(&mut *place, Place::Own(left));
        drop(place);
        drop(slot);
    }
}

impl OwnWords for SlotWords {
    fn mask(&self) -> u64 {
        match &*self.place.lock() {
            Place::Slot(slot) => slot.long(SLOT_MASK),
            Place::Own(words) => words.mask(),
        }
    }

    fn set_mask(&self, mask: u64) -> u64 {
        match &*self.place.lock() {
            Place::Slot(slot) => slot.swap_long(SLOT_MASK, mask),
            Place::Own(words) => words.set_mask(mask),
        }
    }

    fn robust_list(&self) -> u64 {
        match &*self.place.lock() {
            Place::Slot(slot) => slot.long(SLOT_ROBUST),
            Place::Own(words) => words.robust_list(),
        }
    }

    fn set_robust_list(&self, head: u64) -> u64 {
        match &*self.place.lock() {
            Place::Slot(slot) => slot.swap_long(SLOT_ROBUST, head),
            Place::Own(words) => words.set_robust_list(head),
        }
    }
}
