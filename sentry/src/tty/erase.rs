//! Erasing characters, words and lines that are being typed, and showing it (Linux's `eraser`).

use abi::terminals::{LocalFlags, VERASE, VKILL, VWERASE};

use super::line_discipline::{Effects, LineDiscipline, low_byte};
use super::output::is_control;

/// How much is erased.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Character,
    Word,
    Line,
}

/// As the kernel's `isalnum`, which counts the letters of Latin-1.
const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0xc0 && byte != 0xd7 && byte != 0xf7
}

impl LineDiscipline {
    /// `VERASE`, `VWERASE` or `VKILL` was typed.
    pub(super) fn erase(&mut self, key: u8, effects: &mut Effects) {
        if self.input.len() == self.committed {
            return;
        }
        let extent = if self.is_key(VERASE, key) {
            Extent::Character
        } else if self.is_key(VWERASE, key) {
            Extent::Word
        } else {
            Extent::Line
        };
        if extent == Extent::Line && !self.shows_killing() {
            self.kill_at_once(effects);
            return;
        }
        let mut in_word = false;
        while let Some(start) = self.last_character() {
            let first = self.unit(start);
            if extent == Extent::Word {
                if is_word(first) {
                    in_word = true;
                } else if in_word {
                    break;
                }
            }
            let erased: Vec<u8> = self.input.drain(start..).map(low_byte).collect();
            if self.does(LocalFlags::ECHO) {
                self.show_erased(&erased, extent, effects);
            }
            if extent == Extent::Character {
                break;
            }
        }
        if self.input.len() == self.committed && self.does(LocalFlags::ECHO) {
            self.finish_erasing(effects);
        }
    }

    /// Whether `VKILL` erases character by character on the screen.
    fn shows_killing(&self) -> bool {
        self.does(LocalFlags::ECHO)
            && self.does(LocalFlags::ECHOK)
            && self.does(LocalFlags::ECHOKE)
            && self.does(LocalFlags::ECHOE)
    }

    fn kill_at_once(&mut self, effects: &mut Effects) {
        self.input.truncate(self.committed);
        if !self.does(LocalFlags::ECHO) {
            return;
        }
        self.finish_erasing(effects);
        self.echo(self.key(VKILL), effects);
        if self.does(LocalFlags::ECHOK) {
            self.echo_plain(b'\n', effects);
        }
    }

    fn unit(&self, index: usize) -> u8 {
        self.input.get(index).copied().map_or(0, low_byte)
    }

    /// Where the last character of the line being typed begins; `None` if there is none, or not all of it.
    fn last_character(&self) -> Option<usize> {
        let start = (self.committed..self.input.len())
            .rev()
            .find(|index| !self.is_continuation(self.unit(*index)) || *index == self.committed)?;
        (!self.is_continuation(self.unit(start))).then_some(start)
    }

    fn show_erased(&mut self, erased: &[u8], extent: Extent, effects: &mut Effects) {
        let Some((first, rest)) = erased.split_first() else { return };
        let control = is_control(*first);
        if self.does(LocalFlags::ECHOPRT) {
            if !self.erasing {
                self.echo_plain(b'\\', effects);
                self.erasing = true;
            }
            self.echo(*first, effects);
            for byte in rest {
                self.push_echo(&[*byte], effects);
            }
        } else if extent == Extent::Character && !self.does(LocalFlags::ECHOE) {
            self.echo(self.key(VERASE), effects);
        } else if *first == b'\t' {
            self.rub_out_tab(effects);
        } else {
            if control && self.does(LocalFlags::ECHOCTL) {
                self.rub_out(effects);
            }
            if !control || self.does(LocalFlags::ECHOCTL) {
                self.rub_out(effects);
            }
        }
    }

    fn rub_out(&mut self, effects: &mut Effects) {
        for byte in *b"\x08 \x08" {
            self.echo_plain(byte, effects);
        }
    }

    /// Moves back over a tab: its width follows from what stands before it.
    fn rub_out_tab(&mut self, effects: &mut Effects) {
        let mut columns = 0;
        let mut after_tab = false;
        for index in (self.committed..self.input.len()).rev() {
            let byte = self.unit(index);
            if byte == b'\t' {
                after_tab = true;
                break;
            }
            if is_control(byte) {
                columns += if self.does(LocalFlags::ECHOCTL) { 2 } else { 0 };
            } else if !self.is_continuation(byte) {
                columns += 1;
            }
        }
        if !after_tab {
            columns += self.canon_column;
        }
        for _ in 0..8 - columns % 8 {
            self.column = self.column.saturating_sub(1);
            self.push_echo(b"\x08", effects);
        }
    }
}
