//! Descriptors that a process's threads have been lent, and who may use them.
//!
//! Key types: [`LentFiles`], one for each host process, whose threads share one table of descriptors there; [`Lent`]. Neighbours:
//! `context` lends and takes back, `job` closes.
//!
//! Invariant: only the thread that was lent a descriptor makes calls with it, and only it has it closed, or another file put in its place, while
//! it is held in a call that the host has told of. So it is in no other call meanwhile, whatever stands in its slot (which
//! other threads can write to), and no call reaches a file that it was not checked for. Others touch a descriptor only
//! when its thread is known to be gone. Where a thread's end was only asked for, its descriptors stay until their process
//! ends: it may be on its way into a call.

use parking_lot::Mutex;

use super::thread::Thread;

/// Most descriptors that are lent to a thread at a time.
pub const MOST_LENT: usize = 4;
/// Most that a thread has which shares them with others.
const MOST_OF_SEVERAL: usize = 2;
/// Most of all threads of a process.
const MOST_OF_ALL: usize = 64;

/// Whose a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// That of a thread, by its address, which nobody else has as long as its context is there.
    Thread(usize),
    /// A thread that is gone.
    Nobody,
    /// A thread that may still be there.
    Lost,
}

impl Owner {
    /// A thread.
    pub fn of(thread: &Thread) -> Self {
        Self::Thread(std::ptr::from_ref(thread).addr())
    }
}

/// A descriptor in a stub that was lent.
#[derive(Clone, Copy, Debug)]
pub struct Lent {
    /// Its number there.
    pub number: u64,
    /// What is open under it, if that is known.
    pub identity: Option<u64>,
    /// Closing has to close it: its number is the application's, and it is open for writing.
    pub writable: bool,
    /// Who may use it.
    pub owner: Owner,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct LentFiles(Mutex<Vec<Lent>>);

impl LentFiles {
    /// What a child process has copies of. Nothing else changes the table of its parent meanwhile.
    pub fn copy_for(&self, child: Owner) -> Vec<Lent> {
        self.0.lock().iter().map(|lent| Lent { owner: child, ..*lent }).collect()
    }

    /// Notes descriptors.
    pub fn extend(&self, more: impl IntoIterator<Item = Lent>) {
        self.0.lock().extend(more);
    }

    /// The thread's own one with this number.
    pub fn find(&self, owner: Owner, number: u64) -> Option<Lent> {
        self.0.lock().iter().find(|lent| lent.owner == owner && lent.number == number).copied()
    }

    /// Whether the thread has one with this file.
    pub fn has_file(&self, owner: Owner, identity: u64) -> bool {
        self.0.lock().iter().any(|lent| lent.owner == owner && lent.identity == Some(identity))
    }

    /// The thread's own one with this file, or where another file may be put for it: in the place of one that is needed no more, or anywhere (`None`).
    pub fn place_for(&self, owner: Owner, identity: u64) -> Option<Result<u64, Option<u64>>> {
        let all = self.0.lock();
        let own = || all.iter().filter(|lent| lent.owner == owner);
        if let Some(there) = own().find(|lent| lent.identity == Some(identity)) {
            return Some(Ok(there.number));
        }
        let spare = if own().count() >= MOST_OF_SEVERAL {
            own().next()
        } else {
            all.iter().find(|lent| lent.owner == Owner::Nobody)
        };
        match spare {
            Some(spare) => Some(Err(Some(spare.number))),
            None if all.len() < MOST_OF_ALL => Some(Err(None)),
            None => None,
        }
    }

    /// Whether a thread that is alone may have a file put at this number.
    pub fn may_put(&self, owner: Owner, number: u64) -> bool {
        let all = self.0.lock();
        match all.iter().find(|lent| lent.number == number) {
            Some(there) => there.owner == owner || there.owner == Owner::Nobody,
            None => all.iter().filter(|lent| lent.owner == owner).count() < MOST_LENT,
        }
    }

    /// The thread's last one, or one of a thread that is gone.
    pub fn spare(&self, owner: Owner) -> Option<u64> {
        let all = self.0.lock();
        let spare = all.iter().rfind(|lent| lent.owner == owner);
        spare.or_else(|| all.iter().find(|lent| lent.owner == Owner::Nobody)).map(|lent| lent.number)
    }

    /// A file was put somewhere, in the place of what was there.
    pub fn put(&self, new: Lent) {
        let mut all = self.0.lock();
        all.retain(|lent| lent.number != new.number);
        all.push(new);
    }

    /// One is open for writing, and to be closed when the application closes the number.
    pub fn mark_writable(&self, owner: Owner, number: Option<u64>) {
        let mut all = self.0.lock();
        if let Some(lent) = all.iter_mut().find(|lent| lent.owner == owner && Some(lent.number) == number) {
            lent.writable = true;
        }
    }

    /// Forgets the thread's own one, which is about to be closed.
    pub fn remove(&self, owner: Owner, number: u64) {
        self.0.lock().retain(|lent| lent.owner != owner || lent.number != number);
    }

    /// Takes out what the thread is to close: its own, and some of what those who are gone have left.
    pub fn take(&self, owner: Owner) -> Vec<u64> {
        let mut taken = Vec::new();
        let mut all = self.0.lock();
        for wanted in [owner, Owner::Nobody] {
            all.retain(|lent| {
                let take = lent.owner == wanted && taken.len() < 2 * MOST_LENT;
                if take {
                    taken.push(lent.number);
                }
                !take
            });
        }
        taken
    }

    /// A thread is gone, or (`gone` is false) has been told to go.
    pub fn leave(&self, owner: Owner, gone: bool) {
        let heir = if gone { Owner::Nobody } else { Owner::Lost };
        for lent in self.0.lock().iter_mut().filter(|lent| lent.owner == owner) {
            lent.owner = heir;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Owner = Owner::Thread(1);
    const OTHER: Owner = Owner::Thread(2);

    fn lent(number: u64, identity: u64, owner: Owner) -> Lent {
        Lent { number, identity: Some(identity), writable: false, owner }
    }

    #[test]
    fn nobody_is_given_what_another_thread_may_be_using() {
        let files = LentFiles::default();
        files.put(lent(3, 30, ONE));
        assert_eq!(files.place_for(ONE, 30), Some(Ok(3)));
        assert_eq!(files.place_for(OTHER, 30), Some(Err(None)), "not even the same file");
        assert!(!files.may_put(OTHER, 3) && files.find(OTHER, 3).is_none() && files.spare(OTHER).is_none());
        assert!(files.take(OTHER).is_empty());
        files.leave(ONE, false);
        assert_eq!(files.place_for(OTHER, 40), Some(Err(None)), "it may still be in a call");
        assert!(!files.may_put(OTHER, 3) && files.take(OTHER).is_empty());
        files.put(lent(4, 40, ONE));
        files.leave(ONE, true);
        assert_eq!(files.place_for(OTHER, 40), Some(Err(Some(4))));
        assert!(files.may_put(OTHER, 4));
        assert_eq!(files.take(OTHER), [4]);
        assert_eq!(files.copy_for(OTHER).len(), 1, "a child has copies of all, and none of the threads");
        assert!(files.copy_for(OTHER).iter().all(|lent| lent.owner == OTHER));
    }

    #[test]
    fn there_are_never_many() {
        let files = LentFiles::default();
        files.put(lent(3, 30, ONE));
        files.put(lent(4, 40, ONE));
        assert_eq!(files.place_for(ONE, 50), Some(Err(Some(3))), "in the place of the oldest");
        files.put(lent(3, 50, ONE));
        assert_eq!(files.place_for(ONE, 60), Some(Err(Some(4))));
        files.put(lent(5, 0, ONE));
        files.put(lent(6, 0, ONE));
        assert!(files.may_put(ONE, 6) && !files.may_put(ONE, 7));
        for thread in 0..62_u64 {
            let owner = Owner::Thread(usize::try_from(100 + thread).unwrap());
            let place = files.place_for(owner, 1);
            assert_eq!(place, (thread < 60).then_some(Err(None)));
            if place.is_some() {
                files.put(lent(100 + thread, 1, owner));
            }
        }
        assert_eq!(files.take(ONE).len(), 4);
        assert_eq!(files.place_for(OTHER, 1), Some(Err(None)));
    }
}
