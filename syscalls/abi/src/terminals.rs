//! Terminals: `termios`, window sizes, line discipline flags (`man 3 termios`).
//!
//! These are the kernel's structures (19 control characters), not the C library's.
//! Neighbours: `ioctls` (the requests that carry them).

use crate::define::{constants, flags, plain};

flags! {
    /// `c_iflag`.
    InputFlags: u32 {
        IGNBRK = 0x1,
        BRKINT = 0x2,
        IGNPAR = 0x4,
        PARMRK = 0x8,
        INPCK = 0x10,
        ISTRIP = 0x20,
        INLCR = 0x40,
        IGNCR = 0x80,
        ICRNL = 0x100,
        IUCLC = 0x200,
        IXON = 0x400,
        IXANY = 0x800,
        IXOFF = 0x1000,
        IMAXBEL = 0x2000,
        IUTF8 = 0x4000,
    }

    /// `c_oflag`. `TABDLY` is a field; all of it set means that tabs become blanks.
    OutputFlags: u32 {
        OPOST = 0x1,
        OLCUC = 0x2,
        ONLCR = 0x4,
        OCRNL = 0x8,
        ONOCR = 0x10,
        ONLRET = 0x20,
        OFILL = 0x40,
        OFDEL = 0x80,
        XTABS = 0x1800,
    }

    /// `c_cflag`, without its fields [`CSIZE`] and [`CBAUD`].
    ControlFlags: u32 {
        CSTOPB = 0x40,
        CREAD = 0x80,
        PARENB = 0x100,
        PARODD = 0x200,
        HUPCL = 0x400,
        CLOCAL = 0x800,
        CRTSCTS = 0x8000_0000,
    }

    /// `c_lflag`.
    LocalFlags: u32 {
        ISIG = 0x1,
        ICANON = 0x2,
        XCASE = 0x4,
        ECHO = 0x8,
        ECHOE = 0x10,
        ECHOK = 0x20,
        ECHONL = 0x40,
        NOFLSH = 0x80,
        TOSTOP = 0x100,
        ECHOCTL = 0x200,
        ECHOPRT = 0x400,
        ECHOKE = 0x800,
        FLUSHO = 0x1000,
        PENDIN = 0x4000,
        IEXTEN = 0x8000,
        EXTPROC = 0x10000,
    }
}

constants! {
    /// Fields of `c_cflag`: character size and speed.
    CONTROL_FIELD_NAMES: u32 {
        CSIZE = 0x30, CS5 = 0x0, CS6 = 0x10, CS7 = 0x20, CS8 = 0x30,
        CBAUD = 0x100f, B0 = 0x0, B9600 = 0xd, B19200 = 0xe, B38400 = 0xf, B57600 = 0x1001, B115200 = 0x1002,
        BOTHER = 0x1000, IBSHIFT = 16,
    }

    /// The field of `c_oflag` that says how tabs are sent.
    TAB_NAMES: u32 { TABDLY = 0x1800 }

    /// Indices into `c_cc`.
    CONTROL_CHARACTER_NAMES: usize {
        VINTR = 0, VQUIT = 1, VERASE = 2, VKILL = 3, VEOF = 4, VTIME = 5, VMIN = 6, VSWTC = 7,
        VSTART = 8, VSTOP = 9, VSUSP = 10, VEOL = 11, VREPRINT = 12, VDISCARD = 13, VWERASE = 14,
        VLNEXT = 15, VEOL2 = 16,
    }

    /// Actions of `TCXONC`.
    FLOW_NAMES: i32 { TCOOFF = 0, TCOON = 1, TCIOFF = 2, TCION = 3 }

    /// Queues of `TCFLSH`.
    FLUSH_NAMES: i32 { TCIFLUSH = 0, TCOFLUSH = 1, TCIOFLUSH = 2 }

    /// Control bytes of packet mode.
    PACKET_NAMES: u8 {
        TIOCPKT_DATA = 0, TIOCPKT_FLUSHREAD = 1, TIOCPKT_FLUSHWRITE = 2, TIOCPKT_STOP = 4,
        TIOCPKT_START = 8, TIOCPKT_NOSTOP = 16, TIOCPKT_DOSTOP = 32, TIOCPKT_IOCTL = 64,
    }

    /// Line disciplines.
    LINE_DISCIPLINE_NAMES: u8 { N_TTY = 0 }
}

/// Control characters in a [`Termios`].
pub const NCCS: usize = 19;

/// The value of a control character that is switched off.
pub const POSIX_VDISABLE: u8 = 0;

plain! {
    /// The kernel's `struct termios`.
    Termios {
        c_iflag: u32,
        c_oflag: u32,
        c_cflag: u32,
        c_lflag: u32,
        c_line: u8,
        c_cc: [u8; NCCS],
    }

    /// `struct termios2`: with speeds as numbers.
    Termios2 {
        c_iflag: u32,
        c_oflag: u32,
        c_cflag: u32,
        c_lflag: u32,
        c_line: u8,
        c_cc: [u8; NCCS],
        c_ispeed: u32,
        c_ospeed: u32,
    }

    /// `struct winsize`, in characters and pixels.
    Winsize {
        ws_row: u16,
        ws_col: u16,
        ws_xpixel: u16,
        ws_ypixel: u16,
    }
}

/// Linux's `INIT_C_CC`: ^C ^\ DEL ^U ^D, time 0, minimum 1, ^Q ^S ^Z, ^R ^O ^W ^V.
pub const DEFAULT_CONTROL_CHARACTERS: [u8; NCCS] =
    [3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0];

impl Termios2 {
    /// Linux's `tty_std_termios`, what a new pseudo-terminal has.
    pub const STANDARD: Self = Self {
        c_iflag: InputFlags::ICRNL.union(InputFlags::IXON).bits(),
        c_oflag: OutputFlags::OPOST.union(OutputFlags::ONLCR).bits(),
        c_cflag: B38400 | CS8 | ControlFlags::CREAD.union(ControlFlags::HUPCL).bits(),
        c_lflag: LocalFlags::ISIG
            .union(LocalFlags::ICANON)
            .union(LocalFlags::ECHO)
            .union(LocalFlags::ECHOE)
            .union(LocalFlags::ECHOK)
            .union(LocalFlags::ECHOCTL)
            .union(LocalFlags::ECHOKE)
            .union(LocalFlags::IEXTEN)
            .bits(),
        c_line: N_TTY,
        c_cc: DEFAULT_CONTROL_CHARACTERS,
        c_ispeed: 38400,
        c_ospeed: 38400,
    };

    /// Linux's `ptm_driver->init_termios`: the master side converts and echoes nothing.
    pub const MASTER: Self = Self { c_iflag: 0, c_oflag: 0, c_lflag: 0, ..Self::STANDARD };

    /// `c_iflag`, typed.
    pub const fn input(&self) -> InputFlags {
        InputFlags::from_bits_retain(self.c_iflag)
    }

    /// `c_oflag`, typed.
    pub const fn output(&self) -> OutputFlags {
        OutputFlags::from_bits_retain(self.c_oflag)
    }

    /// `c_lflag`, typed.
    pub const fn local(&self) -> LocalFlags {
        LocalFlags::from_bits_retain(self.c_lflag)
    }

    /// The structure that `TCGETS` returns.
    pub const fn short(&self) -> Termios {
        Termios {
            c_iflag: self.c_iflag,
            c_oflag: self.c_oflag,
            c_cflag: self.c_cflag,
            c_lflag: self.c_lflag,
            c_line: self.c_line,
            c_cc: self.c_cc,
        }
    }

    /// Takes over what `TCSETS` carries; the speeds stay.
    pub const fn set_short(&mut self, short: &Termios) {
        self.c_iflag = short.c_iflag;
        self.c_oflag = short.c_oflag;
        self.c_cflag = short.c_cflag;
        self.c_lflag = short.c_lflag;
        self.c_line = short.c_line;
        self.c_cc = short.c_cc;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_keeps_all_but_the_speeds() {
        let mut raw = Termios2 { c_ispeed: 9600, ..Termios2::MASTER };
        raw.set_short(&Termios2::STANDARD.short());
        assert_eq!(raw, Termios2 { c_ispeed: 9600, ..Termios2::STANDARD });
        assert_eq!(Termios2::STANDARD.c_cc[VEOF], 4);
        assert_eq!(Termios2::STANDARD.c_cc[VSUSP], 26);
    }
}
