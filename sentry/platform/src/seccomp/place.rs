//! Memory that the stub maps where the sentry has suggested it, in one notification instead of two.
//!
//! An `mmap` that leaves its place open is answered with the place that the kernel has chosen, and the stub makes another one in its
//! place that names it ([`super::request`]). But programs often map as much again as they have just mapped or given back, and then it can be foreseen what the
//! kernel will choose. So a thread's slot has a suggestion, and the stub makes such a call with that place at once (`enter.s`, label 69). The kernel is asked
//! as if the call had come as it was; if it chooses that very place, the call that is held is executed as it stands.
//!
//! A suggestion comes back as the call's argument and is as hostile as that: it counts if it is what the kernel has chosen, and for nothing else.
//! One that is not true any more costs what there was before. Key types: [`Placed`]. Neighbours: `dispatch`, `context`.

use super::Core;
use super::notification::{AUDIT_ARCH_X86_64, Notification};
use super::slots::Slot;
use super::thread::Thread;
use crate::stub::{MAP_ANYWHERE, MAP_THERE, SLOT_PLACE, SLOT_PLACE_LENGTH};

/// An `mmap` that the stub has made with a place of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its notification.
    id: u64,
    /// What the host is going to execute, were it let: number, address, length, protection, flags.
    command: [u64; 5],
}

impl Placed {
    /// The call as the application has made it, and as if it had rung.
    pub fn as_it_came(self, call: Notification, ring_ip: u64) -> Notification {
        let [_, length, protection, _, descriptor, offset] = call.arguments;
        let anywhere = u64::from(MAP_ANYWHERE.cast_unsigned());
        Notification { ip: ring_ip, arguments: [0, length, protection, anywhere, descriptor, offset], ..call }
    }

    /// Whether the call that is held by this notification is this command. (Private memory has neither descriptor nor offset.)
    pub fn is(self, id: u64, command: &[u64; 7]) -> bool {
        self.id == id && command[..5] == self.command
    }
}

impl Core {
    /// Whether a call is the stub's attempt at a suggested place.
    pub fn is_placed(&self, call: &Notification) -> Option<Placed> {
        let [address, length, protection, flags, ..] = call.arguments;
        let is_placed = call.ip == self.labels.place_ip
            && call.architecture == AUDIT_ARCH_X86_64
            && i64::from(call.number) == libc::SYS_mmap
            && flags == u64::from(MAP_THERE.cast_unsigned());
        let command = [libc::SYS_mmap.cast_unsigned(), address, length, protection, flags];
        is_placed.then_some(Placed { id: call.id, command })
    }
}

impl Thread {
    /// The thread is about to map that much there: the next as much will probably lie below.
    pub fn suggest_below(&self, address: u64, length: u64) {
        suggest(&self.slot, address.saturating_sub(length), length);
    }

    /// The thread is about to give this back: the next as much will probably lie there.
    pub fn suggest_again(&self, address: u64, length: u64) {
        suggest(&self.slot, address, length);
    }
}

fn suggest(slot: &Slot, address: u64, length: u64) {
    slot.set_word(SLOT_PLACE, address);
    slot.set_word(SLOT_PLACE_LENGTH, length);
}
