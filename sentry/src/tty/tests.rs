//! The line discipline and the two sides of a terminal, without a kernel around them.

use std::sync::Weak;

use abi::errno::{EAGAIN, EIO};
use abi::signals::{SIGINT, SIGQUIT, SIGTSTP};
use abi::terminals::{
    InputFlags, LocalFlags, OutputFlags, TIOCPKT_DATA, TIOCPKT_DOSTOP, TIOCPKT_FLUSHREAD, TIOCPKT_FLUSHWRITE,
    TIOCPKT_NOSTOP, TIOCPKT_START, TIOCPKT_STOP, Termios2, VEOL, VMIN, VSTOP, VTIME,
};

use super::terminal::Terminal;
use super::{ECHO_MAX, Effects, INPUT_MAX, LineDiscipline, OUTPUT_MAX, Queues};
use crate::wait::PollEvents;

/// A discipline with some settings changed.
fn discipline(change: impl FnOnce(&mut Termios2)) -> LineDiscipline {
    let mut termios = Termios2::STANDARD;
    change(&mut termios);
    LineDiscipline::new(termios)
}

fn silent() -> LineDiscipline {
    discipline(|termios| termios.c_lflag &= !LocalFlags::ECHO.bits())
}

fn raw(minimum: u8, time: u8) -> LineDiscipline {
    discipline(|termios| {
        (termios.c_iflag, termios.c_oflag, termios.c_lflag) = (0, 0, 0);
        termios.c_cc[VMIN] = minimum;
        termios.c_cc[VTIME] = time;
    })
}

fn type_in(line: &mut LineDiscipline, bytes: &[u8]) -> Effects {
    let mut effects = Effects::default();
    assert_eq!(line.receive(bytes, &mut effects), bytes.len());
    effects
}

fn read(line: &mut LineDiscipline) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 5000];
    let count = line.read(&mut buffer, false)?;
    buffer.truncate(count);
    Some(buffer)
}

fn shown(line: &mut LineDiscipline) -> Vec<u8> {
    let mut buffer = vec![0; OUTPUT_MAX + ECHO_MAX];
    let count = line.take_output(&mut buffer, &mut Effects::default());
    buffer.truncate(count);
    buffer
}

fn written(line: &mut LineDiscipline, bytes: &[u8]) -> Vec<u8> {
    assert_eq!(line.write(bytes, &mut Effects::default()), bytes.len());
    shown(line)
}

#[test]
fn a_line_is_readable_when_it_ends() {
    let mut line = silent();
    assert!(!type_in(&mut line, b"hel").readable);
    assert_eq!((read(&mut line), line.is_readable()), (None, false));
    assert!(type_in(&mut line, b"lo\rnext").readable);
    assert_eq!(line.readable_bytes(), 6);
    assert_eq!(read(&mut line).unwrap(), b"hello\n");
    assert_eq!(read(&mut line), None);
    type_in(&mut line, b"\nmore\n");
    let mut short = [0; 2];
    assert_eq!((line.read(&mut short, false), &short), (Some(2), b"ne"));
    assert_eq!(read(&mut line).unwrap(), b"xt\n");
    assert_eq!(read(&mut line).unwrap(), b"more\n");
}

#[test]
fn the_end_of_file_key_ends_a_line_without_being_in_it() {
    let mut line = silent();
    type_in(&mut line, b"par\x04\x04");
    assert_eq!(line.readable_bytes(), 3);
    let mut exact = [0; 3];
    assert_eq!(line.read(&mut exact, false), Some(3));
    assert_eq!(read(&mut line).unwrap(), b"");
    assert_eq!(read(&mut line), None);
}

#[test]
fn other_line_ends_stay_in_the_line() {
    let mut line = discipline(|termios| termios.c_cc[VEOL] = b';');
    type_in(&mut line, b"a;b");
    assert_eq!(read(&mut line).unwrap(), b"a;");
    assert_eq!(read(&mut line), None);
}

#[test]
fn erasing_and_its_echo() {
    for (typed, kept, echo) in [
        (&b"abX\x7fc\n"[..], &b"abc\n"[..], &b"abX\x08 \x08c\r\n"[..]),
        (b"gone\x15kept\n", b"kept\n", b"gone\x08 \x08\x08 \x08\x08 \x08\x08 \x08kept\r\n"),
        (b"one two \x17x\n", b"one x\n", b"one two \x08 \x08\x08 \x08\x08 \x08\x08 \x08x\r\n"),
        (b"\x01\x7f\n", b"\n", b"^A\x08 \x08\x08 \x08\r\n"),
        (b"ab\t\x7fc\n", b"abc\n", b"ab\t\x08\x08\x08\x08\x08\x08c\r\n"),
        (b"\x7f\n", b"\n", b"\r\n"),
    ] {
        let mut line = LineDiscipline::default();
        type_in(&mut line, typed);
        assert_eq!(read(&mut line).unwrap(), kept, "{typed:?}");
        assert_eq!(shown(&mut line), echo, "{typed:?}");
    }
}

#[test]
fn killing_without_echoke_starts_a_new_line() {
    let mut line = discipline(|termios| termios.c_lflag &= !LocalFlags::ECHOKE.bits());
    type_in(&mut line, b"ab\x15c\n");
    assert_eq!(read(&mut line).unwrap(), b"c\n");
    assert_eq!(shown(&mut line), b"ab^U\r\nc\r\n");
}

#[test]
fn erasing_for_paper_shows_what_goes() {
    let mut line = discipline(|termios| termios.c_lflag |= LocalFlags::ECHOPRT.bits());
    type_in(&mut line, b"abc\x7f\x7fd\n");
    assert_eq!(shown(&mut line), b"abc\\cb/d\r\n");
    assert_eq!(read(&mut line).unwrap(), b"ad\n");
}

#[test]
fn characters_of_several_bytes_are_erased_as_one() {
    let mut line = discipline(|termios| termios.c_iflag |= InputFlags::IUTF8.bits());
    type_in(&mut line, "aé€\x7f\n".as_bytes());
    assert_eq!(read(&mut line).unwrap(), "aé\n".as_bytes());
    assert!(shown(&mut line).ends_with(b"\x08 \x08\r\n"));
    let mut line = silent();
    type_in(&mut line, "é\x7f\n".as_bytes());
    assert_eq!(read(&mut line).unwrap(), b"\xc3\n");
}

#[test]
fn the_literal_key_and_reprinting() {
    let mut line = LineDiscipline::default();
    assert!(type_in(&mut line, b"\x16\x03").signals.is_empty());
    type_in(&mut line, b"x\x12y\n");
    assert_eq!(read(&mut line).unwrap(), b"\x03xy\n");
    assert_eq!(shown(&mut line), b"^\x08^Cx^R\r\n^Cxy\r\n");
}

#[test]
fn conversions_of_input() {
    for (flags, typed, seen) in [
        (InputFlags::empty(), &b"a\rb\n"[..], &b"a\rb\n"[..]),
        (InputFlags::ICRNL, b"a\r", b"a\n"),
        (InputFlags::IGNCR | InputFlags::ICRNL, b"a\rb\n", b"ab\n"),
        (InputFlags::ISTRIP, b"\xe1\n", b"a\n"),
        (InputFlags::PARMRK, b"\xff\n", b"\xff\xff\n"),
        (InputFlags::IUCLC, b"ABC\n", b"abc\n"),
    ] {
        let mut line = discipline(|termios| termios.c_iflag = flags.bits());
        type_in(&mut line, typed);
        assert_eq!(read(&mut line).unwrap(), seen, "{flags:?}");
    }
    let mut line = discipline(|termios| {
        termios.c_iflag = InputFlags::INLCR.bits();
        termios.c_lflag = 0;
    });
    type_in(&mut line, b"\n");
    assert_eq!(read(&mut line).unwrap(), b"\r");
}

#[test]
fn signal_keys_signal_and_flush() {
    for (key, signal, echo) in [(3, SIGINT, b"^C"), (0x1c, SIGQUIT, b"^\\"), (0x1a, SIGTSTP, b"^Z")] {
        let mut line = LineDiscipline::default();
        type_in(&mut line, b"typed\nhalf");
        let effects = type_in(&mut line, &[key]);
        assert_eq!(effects.signals.as_slice(), [signal]);
        assert_eq!(effects.packet, TIOCPKT_FLUSHREAD | TIOCPKT_FLUSHWRITE);
        assert_eq!((read(&mut line), shown(&mut line)), (None, echo.to_vec()));
    }
    let mut line = discipline(|termios| termios.c_lflag |= LocalFlags::NOFLSH.bits());
    assert_eq!(type_in(&mut line, b"kept\n\x03").signals.len(), 1);
    assert_eq!(read(&mut line).unwrap(), b"kept\n");
    let mut line = discipline(|termios| termios.c_lflag &= !LocalFlags::ISIG.bits());
    assert!(type_in(&mut line, b"\x03\n").signals.is_empty());
    assert_eq!(read(&mut line).unwrap(), b"\x03\n");
}

#[test]
fn echo_follows_its_flags() {
    let mut line = discipline(|termios| termios.c_lflag &= !LocalFlags::ECHOCTL.bits());
    type_in(&mut line, b"\x01\t\n");
    assert_eq!(shown(&mut line), b"\x01\t\r\n");
    let mut line = discipline(|termios| {
        termios.c_lflag = (LocalFlags::ICANON | LocalFlags::ECHONL).bits();
    });
    type_in(&mut line, b"secret\n");
    assert_eq!(shown(&mut line), b"\r\n");
}

#[test]
fn output_is_processed() {
    let with =
        |flags: OutputFlags| discipline(|termios| termios.c_oflag = (flags | OutputFlags::OPOST).bits());
    assert_eq!(written(&mut with(OutputFlags::ONLCR), b"a\nb"), b"a\r\nb");
    assert_eq!(written(&mut with(OutputFlags::empty()), b"a\nb"), b"a\nb");
    assert_eq!(written(&mut with(OutputFlags::OCRNL), b"a\rb"), b"a\nb");
    assert_eq!(written(&mut with(OutputFlags::ONOCR), b"\ra\r\r"), b"a\r");
    assert_eq!(
        written(&mut with(OutputFlags::XTABS), b"ab\tc\x08\t\n\t"),
        b"ab      c\x08        \n        "
    );
    assert_eq!(written(&mut with(OutputFlags::XTABS | OutputFlags::ONLRET), b"ab\n\tc"), b"ab\n        c");
    assert_eq!(written(&mut with(OutputFlags::OLCUC), b"ab"), b"AB");
    let mut raw = discipline(|termios| termios.c_oflag = OutputFlags::ONLCR.bits());
    assert_eq!(written(&mut raw, b"a\n\t"), b"a\n\t");
}

#[test]
fn flow_control_holds_output_and_echo() {
    let mut line = LineDiscipline::default();
    assert_eq!(type_in(&mut line, b"\x13").packet, TIOCPKT_STOP);
    let mut effects = Effects::default();
    assert_eq!(line.write(b"x", &mut effects), 0);
    type_in(&mut line, b"e");
    assert_eq!(shown(&mut line), b"");
    let effects = type_in(&mut line, b"\x11");
    assert_eq!((effects.packet, effects.writable), (TIOCPKT_START, true));
    assert_eq!(shown(&mut line), b"e");
    assert_eq!(written(&mut line, b"x"), b"x");

    type_in(&mut line, b"\x13e");
    assert!(line.is_stopped());
    let mut any = discipline(|termios| termios.c_iflag |= InputFlags::IXANY.bits());
    type_in(&mut any, b"\x13e");
    assert!(!any.is_stopped());

    let mut effects = Effects::default();
    any.stop_by_call(&mut effects);
    type_in(&mut any, b"\x11e");
    assert!(any.is_stopped());
    any.start_by_call(&mut effects);
    assert!(!any.is_stopped());
}

#[test]
fn raw_reads_obey_minimum_and_time() {
    let mut line = raw(3, 0);
    type_in(&mut line, b"\x03\r");
    assert_eq!((read(&mut line), line.is_readable()), (None, false));
    type_in(&mut line, b"\x04");
    assert_eq!(read(&mut line).unwrap(), b"\x03\r\x04");
    type_in(&mut line, b"ab");
    let mut one = [0];
    assert_eq!(line.read(&mut one, false), Some(1));
    assert_eq!(line.read(&mut [0; 9], true), Some(1));

    let mut line = raw(0, 0);
    assert_eq!(read(&mut line).unwrap(), b"");
    assert_eq!(read(&mut raw(0, 1)), None);
    let mut line = raw(3, 1);
    type_in(&mut line, b"a");
    assert!(line.is_readable());
    assert_eq!(read(&mut line), None);
    assert_eq!(line.minimum_and_time(), Some((3, 100_000_000)));
}

#[test]
fn input_is_bounded_and_a_long_line_can_be_ended() {
    let mut line = silent();
    type_in(&mut line, &[b'x'; 3 * INPUT_MAX]);
    type_in(&mut line, b"\n");
    let got = read(&mut line).unwrap();
    assert_eq!((got.len(), got.last()), (INPUT_MAX, Some(&b'\n')));

    type_in(&mut line, b"a\n");
    let mut effects = Effects::default();
    assert_eq!(line.receive(&[b'x'; 5000], &mut effects), INPUT_MAX - 3);
    assert!(!line.has_input_room());
    let mut line = raw(1, 0);
    assert_eq!(line.receive(&[b'x'; 5000], &mut effects), INPUT_MAX - 1);
}

#[test]
fn output_and_echo_are_bounded() {
    let mut line = LineDiscipline::default();
    let mut effects = Effects::default();
    let taken = line.write(&vec![b'x'; 2 * OUTPUT_MAX], &mut effects);
    assert!((OUTPUT_MAX - 8..=OUTPUT_MAX).contains(&taken));
    for _ in 0..3 {
        type_in(&mut line, &[b'\n'; ECHO_MAX - 1]);
        read_all(&mut line);
    }
    assert!(line.output_bytes() <= OUTPUT_MAX + ECHO_MAX);
    line.take_output(&mut vec![0; OUTPUT_MAX], &mut effects);
    assert!(effects.writable);
}

fn read_all(line: &mut LineDiscipline) {
    while read(line).is_some() {}
}

#[test]
fn changing_modes_keeps_what_was_typed() {
    let mut line = silent();
    type_in(&mut line, b"half");
    let canonical = *line.termios();
    let raw = Termios2 { c_lflag: 0, ..canonical };
    let mut effects = Effects::default();
    line.set_termios(raw, &mut effects);
    assert!(effects.readable);
    assert_eq!(line.readable_bytes(), 4);
    line.set_termios(canonical, &mut effects);
    assert_eq!(read(&mut line).unwrap(), b"half");
    assert_eq!(read(&mut line), None);
}

#[test]
fn packet_mode_hears_of_flow_control_settings() {
    let mut line = LineDiscipline::default();
    let standard = *line.termios();
    let mut effects = Effects::default();
    let mut other = standard;
    other.c_cc[VSTOP] = b's';
    line.set_termios(other, &mut effects);
    assert_eq!(effects.packet, TIOCPKT_NOSTOP);
    let mut effects = Effects::default();
    line.set_termios(standard, &mut effects);
    assert_eq!(effects.packet, TIOCPKT_DOSTOP);
}

#[test]
fn flushing_drops_what_it_is_asked_to() {
    let mut line = LineDiscipline::default();
    type_in(&mut line, b"in\n");
    let mut effects = Effects::default();
    line.flush(Queues::Output, &mut effects);
    assert_eq!(shown(&mut line), b"");
    assert_eq!(line.readable_bytes(), 3);
    line.flush(Queues::Input, &mut effects);
    assert_eq!(read(&mut line), None);
}

// ---- the two sides ----

fn pty() -> (std::sync::Arc<Terminal>, u64) {
    let terminal = Terminal::new(&Weak::new(), &Weak::new(), 0);
    assert_eq!(terminal.open_slave(), Err(EIO));
    terminal.change(|state, _| state.locked = false);
    let generation = terminal.open_slave().unwrap();
    (terminal, generation)
}

#[test]
fn bytes_go_both_ways() {
    let (terminal, _) = pty();
    let mut buffer = [0; 64];
    assert_eq!(terminal.read(&mut buffer, false), Err(EAGAIN));
    assert_eq!(terminal.read_master(&mut buffer), Err(EAGAIN));
    assert_eq!(terminal.write_master(b"hi\r"), Ok(3));
    assert_eq!((terminal.read_master(&mut buffer), &buffer[..4]), (Ok(4), &b"hi\r\n"[..]));
    assert!(terminal.poll_slave().contains(PollEvents::READABLE));
    assert_eq!((terminal.read(&mut buffer, false), &buffer[..3]), (Ok(3), &b"hi\n"[..]));
}

#[test]
fn what_has_no_room_waits_for_the_reader() {
    let (terminal, _) = pty();
    let line = [b"x".repeat(999), b"\n".to_vec()].concat();
    let text = line.repeat(20);
    assert_eq!(terminal.write_master(&text), Ok(text.len()));
    let mut got = Vec::new();
    let mut buffer = [0; 2000];
    while let Ok(count) = terminal.read(&mut buffer, false) {
        got.extend_from_slice(&buffer[..count]);
    }
    assert_eq!(got, text);
    let mut total = 0;
    while let Ok(count) = terminal.write_master(&text) {
        total += count;
    }
    assert!(total < 80_000);
    assert!(!terminal.poll_master().contains(PollEvents::OUT));
}

#[test]
fn the_master_sees_the_last_words_then_an_error() {
    let (terminal, _) = pty();
    terminal.write(b"last").unwrap();
    terminal.close_slave();
    let mut buffer = [0; 64];
    assert_eq!(terminal.read_master(&mut buffer), Ok(4));
    assert_eq!(terminal.read_master(&mut buffer), Err(EIO));
    assert!(terminal.poll_master().contains(PollEvents::HUP));
    // What is typed waits for the next opening, and is echoed.
    assert_eq!(terminal.write_master(b"x"), Ok(1));
    assert_eq!(terminal.read_master(&mut buffer), Ok(1));
    terminal.open_slave().unwrap();
    assert_eq!(terminal.read_master(&mut buffer), Err(EAGAIN));
}

#[test]
fn closing_the_master_hangs_up() {
    let (terminal, generation) = pty();
    assert!(!terminal.is_hung_up(generation));
    terminal.close_master();
    assert!(terminal.is_hung_up(generation));
    assert_eq!(terminal.open_slave(), Err(EIO));
    assert_eq!(terminal.write(b"x"), Err(EIO));
}

#[test]
fn packet_mode_separates_data_and_news() {
    let (terminal, _) = pty();
    terminal.set_packet(true);
    terminal.write(b"a").unwrap();
    let mut buffer = [9; 64];
    assert_eq!((terminal.read_master(&mut buffer), buffer[0], buffer[1]), (Ok(2), TIOCPKT_DATA, b'a'));
    terminal.write_master(b"\x13\x11").unwrap();
    assert!(terminal.poll_master().contains(PollEvents::PRI));
    assert_eq!((terminal.read_master(&mut buffer), buffer[0]), (Ok(1), TIOCPKT_START));
    assert_eq!(terminal.read_master(&mut buffer), Err(EAGAIN));
}
