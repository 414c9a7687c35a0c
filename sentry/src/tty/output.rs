//! The line discipline's output processing (`OPOST`) and echo.

use abi::terminals::{InputFlags, LocalFlags, OutputFlags, TABDLY};

use super::line_discipline::{Effects, LineDiscipline};

/// Bytes that one character becomes.
type Processed = smallvec::SmallVec<[u8; 8]>;

/// As the kernel's `iscntrl`.
pub(super) const fn is_control(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7f
}

impl LineDiscipline {
    /// A byte that continues a character of several (`IUTF8`).
    pub(super) const fn is_continuation(&self, byte: u8) -> bool {
        self.has(InputFlags::IUTF8) && byte & 0xc0 == 0x80
    }

    /// Processes a written character.
    pub(super) fn put(&mut self, byte: u8) {
        let bytes = self.process(byte);
        self.output.extend(bytes);
    }

    fn does_output(&self, flag: OutputFlags) -> bool {
        self.termios.output().contains(flag)
    }

    /// What becomes of a character, and of the column (`do_output_char`).
    fn process(&mut self, byte: u8) -> Processed {
        if !self.does_output(OutputFlags::OPOST) {
            return Processed::from_slice(&[byte]);
        }
        let mut byte = byte;
        match byte {
            b'\n' => {
                if self.does_output(OutputFlags::ONLRET) {
                    self.column = 0;
                }
                if self.does_output(OutputFlags::ONLCR) {
                    (self.column, self.canon_column) = (0, 0);
                    return Processed::from_slice(b"\r\n");
                }
                self.canon_column = self.column;
            }
            b'\r' if self.does_output(OutputFlags::ONOCR) && self.column == 0 => return Processed::new(),
            b'\r' if self.does_output(OutputFlags::OCRNL) => {
                byte = b'\n';
                if self.does_output(OutputFlags::ONLRET) {
                    (self.column, self.canon_column) = (0, 0);
                }
            }
            b'\r' => (self.column, self.canon_column) = (0, 0),
            b'\t' => {
                let blanks = 8 - self.column % 8;
                self.column += blanks;
                if self.termios.c_oflag & TABDLY == OutputFlags::XTABS.bits() {
                    return std::iter::repeat_n(b' ', blanks).collect();
                }
            }
            b'\x08' => self.column = self.column.saturating_sub(1),
            _ if is_control(byte) || self.is_continuation(byte) => {}
            _ => {
                if self.does_output(OutputFlags::OLCUC) {
                    byte = byte.to_ascii_uppercase();
                }
                self.column += 1;
            }
        }
        Processed::from_slice(&[byte])
    }

    /// Echoes a character as it is.
    pub(super) fn echo_plain(&mut self, byte: u8, effects: &mut Effects) {
        let bytes = self.process(byte);
        self.push_echo(&bytes, effects);
    }

    /// Echoes a character, a control character as `^X` if `ECHOCTL` is set.
    pub(super) fn echo(&mut self, byte: u8, effects: &mut Effects) {
        if self.does(LocalFlags::ECHOCTL) && is_control(byte) && byte != b'\t' {
            self.column += 2;
            self.push_echo(&[b'^', byte ^ 0x40], effects);
        } else {
            self.echo_plain(byte, effects);
        }
    }

    /// Closes what `ECHOPRT` has opened.
    pub(super) fn finish_erasing(&mut self, effects: &mut Effects) {
        if std::mem::take(&mut self.erasing) {
            self.echo_plain(b'/', effects);
        }
    }
}
