//! A thread's own words (its signal mask, its list of robust futexes) in its slot, where the stub changes them in the place of
//! calls that do nothing else.
//!
//! A slot is another thread's as soon as its own is gone, but the kernel may ask about the words of a dead thread for some time:
//! so they are taken out of the slot before it is given away.
//!
//! While the slot says that the thread has leave, the stub replaces the mask (`enter.s`, label 62): it writes the mask by an instruction that
//! is a full barrier, looks at the leave once more, and if that is gone puts the old mask back and rings, as if nothing had been done.
//! Here leave is withdrawn by such an instruction, too. So of a thread that writes its mask and somebody who withdraws its leave and then reads its mask, at
//! least one sees what the other has done. What an interrupt finds between writing and looking is put back by `settle`.
//!
//! Key type: [`SlotWords`]. Invariant: the lock is a leaf, held for an access; with it held, the slot is the thread's.

use parking_lot::Mutex;

use super::slots::Slot;
use crate::stub::{SLOT_LEAVE, SLOT_MASK, SLOT_ROBUST};
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

    fn give_leave(&self) {
        if let Place::Slot(slot) = &*self.place.lock() {
            slot.swap_long(SLOT_LEAVE, 1);
        }
    }

    fn withdraw_leave(&self) {
        if let Place::Slot(slot) = &*self.place.lock() {
            slot.swap_long(SLOT_LEAVE, 0);
        }
    }

    fn has_leave(&self) -> bool {
        match &*self.place.lock() {
            Place::Slot(slot) => slot.long(SLOT_LEAVE) == 1,
            Place::Own(_) => true,
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
