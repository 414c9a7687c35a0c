//! Memory that the stub maps where the sentry has suggested it, in one notification instead of two.
//!
//! An `mmap` that leaves its place open is answered with the place that the kernel has chosen, and the stub makes another one in its
//! place that names it ([`super::request`]). But programs often map as much again as they have just mapped or given back, and then it can be foreseen what the
//! kernel will choose. So a thread's slot has a suggestion, and the stub makes such a call with that place at once (`enter.s`, label 69). The kernel is asked
//! as if the call had come as it was; if it chooses that very place, the call that is held is executed as it stands.
//!
//! A suggestion comes back as the call's argument and is as hostile as that: it counts if it is what the kernel has chosen, and for nothing else.
//! One that is not true any more costs what there was before. Key types: [`Placed`]. Neighbours: `dispatch`, `context`.

use std::sync::Arc;

use super::Core;
use super::dispatch::After;
use super::notification::{AUDIT_ARCH_X86_64, Notification};
use super::outbox::Answer;
use super::thread::{Stand, State, Thread};
use crate::stub::{MAP_ANYWHERE, MAP_THERE, SLOT_PLACE, SLOT_PLACE_LENGTH};
use crate::{Substitute, SyscallRequest};

/// An `mmap` that the stub has made with a place of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its notification.
    id: u64,
    /// What the host is going to execute, were it let: number, address, length, protection, flags.
    command: [u64; 5],
}

impl Placed {
    /// The call as the application has made it.
    pub fn as_it_came(call: Notification) -> Notification {
        let [_, length, protection, _, descriptor, offset] = call.arguments;
        let anywhere = u64::from(MAP_ANYWHERE.cast_unsigned());
        Notification { arguments: [0, length, protection, anywhere, descriptor, offset], ..call }
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

    /// Has the host execute the `mmap` that the thread is held in, which is what the kernel wants in its place.
    pub fn let_map_there(&self, thread: &Arc<Thread>, state: &mut State, id: u64) -> After {
        thread.carried.finish(&thread.slot);
        thread.pass_interrupt(state);
        self.set_stand(state, Stand::Running);
        state.heat.resumed();
        self.keep_answer(thread, Answer::Proceed(id));
        After::Nothing
    }
}

impl Thread {
    /// If memory is to be mapped in the place of an `mmap`: the next as much will probably lie below.
    pub fn expect_more(&self, state: &State, operation: &Substitute) {
        let maps = |request: &SyscallRequest| request.number == libc::SYS_mmap.cast_unsigned();
        if let Substitute::MapAnonymous { address, length, .. } = *operation
            && matches!(&state.stand, Stand::Syscall { request, .. } if maps(request))
        {
            self.suggest(address.saturating_sub(length), length);
        }
    }

    /// If memory is to be given back: the next as much will probably lie there.
    pub fn expect_again(&self, request: &SyscallRequest) {
        if request.number == libc::SYS_munmap.cast_unsigned() {
            self.suggest(request.arguments[0], request.arguments[1]);
        }
    }

    fn suggest(&self, address: u64, length: u64) {
        self.slot.set_word(SLOT_PLACE, address);
        self.slot.set_word(SLOT_PLACE_LENGTH, length);
    }
}
