//! In which order a directory was listed, and whether its files are opened in that order.
//!
//! Programs that go through a tree (`grep -r`, `tar`, `cp -r`, compilers) list a directory and then open its files as they were
//! listed. Whoever pays for each first open can have the next files opened along with the one that is asked for; [`Sequence`]
//! knows which are next, [`Habit`] whether such guesses were right lately. A wrong one costs little, and none is needed.

use std::sync::atomic::{AtomicI32, Ordering};

use parking_lot::Mutex;
use wire::{DirEntry, FileType, MAX_AHEAD};

/// Names that may stand between two that are opened in order: of files that are open already, or are of no interest.
const GAP: usize = 8;
/// How far from the last one found a name is searched, and from the beginning.
const NEAR: usize = 16;
/// Shorter lists are searched from end to end.
const SHORT: usize = 512;
/// Names looked at for each file that is opened ahead, because others may be open already.
const LOOKED_AT: usize = 3;

/// The regular files of a directory in the order in which they were last listed.
#[derive(Default)]
pub struct Sequence {
    listed: Mutex<Option<Box<Listed>>>,
}

#[derive(Default)]
struct Listed {
    /// Each behind its length.
    names: Vec<u8>,
    /// Where each name begins.
    starts: Vec<u32>,
    /// Where the listing goes on.
    cookie: u64,
    /// Behind the one that was found last.
    found: usize,
    /// Behind the one that was opened last.
    opened: usize,
    /// How many were opened in order.
    row: u32,
}

/// A name and its place in the sequence.
pub type Placed = (u32, Box<[u8]>);

impl Sequence {
    /// Part of a listing, which began after `from`. At most `room` names are kept; returns how many more are than before.
    pub(super) fn note(&self, from: u64, entries: &[DirEntry], room: usize) -> isize {
        let mut listed = self.listed.lock();
        let before = listed.as_ref().map_or(0, |listed| listed.starts.len());
        if from == 0 {
            *listed = None;
        }
        let kept = listed.get_or_insert_default();
        if kept.cookie == from {
            let room = (before + room).saturating_sub(kept.starts.len());
            let files = entries.iter().filter(|entry| entry.kind == FileType::Regular);
            files.take(room).for_each(|entry| kept.push(&entry.name));
            kept.cookie = entries.last().map_or(u64::MAX, |entry| entry.cookie);
        }
        kept.starts.len().cast_signed() - before.cast_signed()
    }

    /// How many names are kept.
    pub(super) fn len(&self) -> usize {
        self.listed.lock().as_ref().map_or(0, |listed| listed.starts.len())
    }

    /// Where a name is; in a long list, if it is near to the one found before or to the beginning.
    pub(super) fn locate(&self, name: &[u8]) -> Option<u32> {
        let mut listed = self.listed.lock();
        let listed = listed.as_mut()?;
        let all = if listed.starts.len() <= SHORT { listed.starts.len() } else { NEAR };
        let index = (listed.found..listed.found + NEAR)
            .chain(0..all)
            .find(|index| listed.name(*index).is_some_and(|other| other == name))?;
        listed.found = index + 1;
        u32::try_from(index).ok()
    }

    /// The name at a place.
    pub(super) fn name(&self, index: u32) -> Option<Box<[u8]>> {
        Some(self.listed.lock().as_ref()?.name(usize::try_from(index).ok()?)?.into())
    }

    /// The file at a place is opened, and was not open. Returns which are probably opened next, the nearest first; more than the
    /// habit allows to be opened ahead.
    pub(super) fn opening(&self, index: u32, habit: &Habit) -> Vec<Placed> {
        let mut listed = self.listed.lock();
        let (Some(listed), Ok(index)) = (listed.as_mut(), usize::try_from(index)) else { return Vec::new() };
        let is_next = (listed.opened..listed.opened + GAP).contains(&index);
        listed.row = match listed.row {
            row if is_next => row.saturating_add(1),
            _ => u32::from(index < GAP),
        };
        listed.opened = index + 1;
        if listed.row < habit.needed() {
            return Vec::new();
        }
        let next = index + 1..index + 1 + habit.size() * LOOKED_AT;
        next.map_while(|index| Some((u32::try_from(index).ok()?, listed.name(index)?.into()))).collect()
    }

    /// The file at a place is opened, and was open.
    pub(super) fn passed(&self, index: u32) {
        if let (Some(listed), Ok(index)) = (self.listed.lock().as_mut(), usize::try_from(index)) {
            listed.opened = index + 1;
        }
    }
}

impl Listed {
    fn push(&mut self, name: &[u8]) {
        // Offsets beyond 32 bits would take more names than are kept.
        if let (Ok(start), Ok(length)) = (u32::try_from(self.names.len()), u8::try_from(name.len())) {
            self.starts.push(start);
            self.names.push(length);
            self.names.extend_from_slice(name);
        }
    }

    fn name(&self, index: usize) -> Option<&[u8]> {
        let start = usize::try_from(*self.starts.get(index)?).ok()?;
        let (length, rest) = self.names.get(start..)?.split_first()?;
        rest.get(..usize::from(*length))
    }
}

/// Whether files that were opened ahead were wanted lately, in all of a tree.
pub struct Habit {
    score: AtomicI32,
}

/// What it is at first: a few files, once two were opened in order.
const AT_FIRST: i32 = 4;
/// From here on the first file of a directory is enough.
const STRONG: i32 = 16;
/// How much it counts at most, and at least.
const MOST: i32 = 48;
const LEAST: i32 = -8;
/// What a file that nobody wanted counts against those that were.
const WASTED: i32 = 3;

impl Default for Habit {
    fn default() -> Self {
        Self { score: AtomicI32::new(AT_FIRST) }
    }
}

impl Habit {
    /// How many files are opened ahead at once.
    pub(super) fn size(&self) -> usize {
        usize::try_from(self.score().max(AT_FIRST)).unwrap_or(0).min(MAX_AHEAD)
    }

    /// How many must have been opened in order before.
    fn needed(&self) -> u32 {
        match self.score() {
            STRONG.. => 1,
            0..STRONG => 2,
            _ => 4,
        }
    }

    /// Whether a directory that was listed will probably be gone through.
    pub(super) fn is_strong(&self) -> bool {
        self.score() >= STRONG
    }

    /// A file that was opened ahead is wanted.
    pub(super) fn used(&self) {
        self.add(1);
    }

    /// So many were given up that nobody had wanted.
    pub(super) fn wasted(&self, files: usize) {
        self.add(-WASTED * i32::try_from(files).unwrap_or(MOST));
    }

    fn score(&self) -> i32 {
        self.score.load(Ordering::Relaxed)
    }

    /// Losing a count to another thread does no harm.
    fn add(&self, worth: i32) {
        self.score.store((self.score() + worth).clamp(LEAST, MOST), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(names: std::ops::Range<u64>) -> Vec<DirEntry> {
        let entry = |number: u64| DirEntry {
            name: format!("f{number}").into_bytes(),
            ino: number,
            kind: if number % 10 == 9 { FileType::Directory } else { FileType::Regular },
            cookie: number + 1,
            attr: None,
        };
        names.map(entry).collect()
    }

    #[test]
    fn a_long_list_is_not_searched_to_its_end() {
        let sequence = Sequence::default();
        sequence.note(0, &entries(0..2000), usize::MAX >> 1);
        assert!(sequence.locate(b"f1000").is_none());
        for number in 0..100 {
            assert_eq!(sequence.locate(format!("f{number}").as_bytes()).is_some(), number % 10 != 9);
        }
        assert!(sequence.locate(b"f100").is_some() && sequence.locate(b"f0").is_some());
    }

    fn opening(sequence: &Sequence, habit: &Habit, name: &str) -> Vec<String> {
        let index = sequence.locate(name.as_bytes()).expect("a name nearby");
        let next = sequence.opening(index, habit);
        next.into_iter().map(|(_, name)| String::from_utf8(name.into()).expect("a name")).collect()
    }

    fn listed() -> Sequence {
        let sequence = Sequence::default();
        assert_eq!(sequence.note(0, &entries(0..50), usize::MAX >> 1), 45);
        assert_eq!(sequence.note(50, &entries(50..100), usize::MAX >> 1), 45);
        sequence
    }

    #[test]
    fn the_next_names_are_known_once_files_are_opened_in_order() {
        let (sequence, habit) = (listed(), Habit::default());
        assert!(opening(&sequence, &habit, "f0").is_empty());
        let next = opening(&sequence, &habit, "f2");
        assert_eq!(next[..7], ["f3", "f4", "f5", "f6", "f7", "f8", "f10"]);
        assert_eq!(next.len(), 4 * LOOKED_AT);
        // The others were open; so far away it is not the next any more.
        sequence.passed(sequence.locate(b"f8").expect("a place"));
        assert!(!opening(&sequence, &habit, "f10").is_empty());
        assert!(opening(&sequence, &habit, "f22").is_empty());
        assert!(sequence.locate(b"f99").is_none() && sequence.locate(b"missing").is_none());
    }

    #[test]
    fn the_end_is_the_end() {
        let (sequence, habit) = (listed(), Habit::default());
        for number in 0..98 {
            if number % 10 != 9 {
                opening(&sequence, &habit, &format!("f{number}"));
            }
        }
        assert!(opening(&sequence, &habit, "f98").is_empty());
        // And then the beginning.
        assert!(opening(&sequence, &habit, "f0").is_empty());
        assert!(!opening(&sequence, &habit, "f1").is_empty());
    }

    #[test]
    fn no_more_names_are_kept_than_there_is_room_for() {
        let sequence = Sequence::default();
        assert_eq!(sequence.note(0, &entries(0..20), 7), 7);
        assert_eq!(sequence.note(20, &entries(20..40), 3), 3);
        // What does not go on where it stopped is another listing's.
        assert_eq!(sequence.note(90, &entries(90..99), 100), 0);
        assert_eq!(sequence.note(0, &entries(0..5), 0), -5);
        assert_eq!(sequence.len(), 5);
    }

    #[test]
    fn wrong_guesses_end_and_right_ones_grow() {
        let habit = Habit::default();
        assert_eq!((habit.size(), habit.needed()), (4, 2));
        (0..100).for_each(|_| habit.used());
        assert_eq!((habit.size(), habit.needed()), (MAX_AHEAD, 1));
        habit.wasted(16);
        assert_eq!((habit.size(), habit.needed()), (4, 2));
        habit.wasted(16);
        assert_eq!((habit.size(), habit.needed()), (4, 4));
        (0..8).for_each(|_| habit.used());
        assert_eq!(habit.needed(), 2);
    }
}
