//! Small texts in the style of strace(1): quoted strings, flag names, signal sets.
//!
//! Neighbours: `strace_structs`, `strace_format`, `signatures` (refers to the flag printers here).

use core::fmt::{LowerHex, Write as _};

use bitflags::Flags;

use crate::define::{Names, name_in};
use crate::files::{self, AccessMode, OpenFlags};
use crate::memory::{self, MapFlags, Prot};
use crate::process::CloneFlags;
use crate::signals::{SigSet, Signal};
use crate::sockets::{self, SocketFlags};
use crate::user::FromRegister;

/// How much of a string is shown.
pub const STRING_LIMIT: usize = 32;

/// An address; null as strace has it.
pub fn pointer(address: u64) -> String {
    if address == 0 { "NULL".into() } else { format!("{address:#x}") }
}

/// Bytes in quotes, escaped as in C with the shortest octal numbers that are not misread.
/// `more` says that the string goes on.
pub fn quoted(bytes: &[u8], more: bool) -> String {
    let mut text = String::from("\"");
    for (index, byte) in bytes.iter().enumerate() {
        match byte {
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'\r' => text.push_str("\\r"),
            0x0b => text.push_str("\\v"),
            0x0c => text.push_str("\\f"),
            0x20..=0x7e => text.push(char::from(*byte)),
            _ => {
                let digit_follows = bytes.get(index + 1).is_some_and(u8::is_ascii_digit);
                let _ = if digit_follows { write!(text, "\\{byte:03o}") } else { write!(text, "\\{byte:o}") };
            }
        }
    }
    text.push('"');
    if more {
        text.push_str("...");
    }
    text
}

/// The names of the flags that are set, joined by `|`, unknown bits in hexadecimal; `0` for none.
pub fn flags_text<F>(raw: u64) -> String
where
    F: Flags + FromRegister,
    F::Bits: LowerHex,
{
    joined(flag_names(F::from_register(raw)))
}

fn flag_names<F>(flags: F) -> Vec<String>
where
    F: Flags,
    F::Bits: LowerHex,
{
    let mut names = flags.iter_names();
    let mut parts: Vec<String> = names.by_ref().map(|(name, _)| name.to_owned()).collect();
    let rest = names.remaining();
    if !rest.is_empty() {
        parts.push(format!("{:#x}", rest.bits()));
    }
    parts
}

fn joined(parts: Vec<String>) -> String {
    if parts.is_empty() { "0".into() } else { parts.join("|") }
}

/// A value of a family by name, else the number.
pub fn enum_text(names: Names, value: i64) -> String {
    match name_in(names, value) {
        Some(name) => name.into(),
        None if (-4096..4096).contains(&value) => value.to_string(),
        None => format!("{:#x}", value as u32),
    }
}

/// A value of a family, then the flags beside it.
fn enum_with_flags<F>(names: Names, value: u32, flags: F) -> String
where
    F: Flags,
    F::Bits: LowerHex,
{
    let mut parts = vec![enum_text(names, value.into())];
    parts.extend(flag_names(flags));
    joined(parts)
}

/// Flags of `open(2)`, access mode first.
pub fn open_flags_text(raw: u64) -> String {
    let flags = OpenFlags::from_register(raw);
    let rest = OpenFlags::from_bits_retain(flags.bits() & !files::O_ACCMODE);
    enum_with_flags(files::ACCESS_MODE_NAMES, flags.access(), rest)
}

/// Flags of `mmap(2)`, kind first.
pub fn map_flags_text(raw: u64) -> String {
    let flags = MapFlags::from_register(raw);
    let rest = MapFlags::from_bits_retain(flags.bits() & !memory::MAP_TYPE);
    enum_with_flags(memory::MAP_KIND_NAMES, flags.kind(), rest)
}

/// Protections; none is `PROT_NONE`.
pub fn prot_text(raw: u64) -> String {
    let prot = Prot::from_register(raw);
    if prot.is_empty() { "PROT_NONE".into() } else { joined(flag_names(prot)) }
}

/// What `access(2)` asks for; nothing is `F_OK`.
pub fn access_text(raw: u64) -> String {
    let mode = AccessMode::from_register(raw);
    if mode.is_empty() { "F_OK".into() } else { joined(flag_names(mode)) }
}

/// A socket's type, then its flags.
pub fn socket_type_text(raw: u64) -> String {
    let kind = sockets::SocketType::from_register(raw);
    let flags: SocketFlags = kind.flags();
    enum_with_flags(sockets::SOCKET_TYPE_NAMES, kind.kind(), flags)
}

/// Flags of `clone(2)`, then the exit signal.
pub fn clone_flags_text(raw: u64) -> String {
    let flags = CloneFlags::from_register(raw);
    let mut parts = flag_names(CloneFlags::from_bits_retain(flags.bits() & !CloneFlags::CSIGNAL));
    if flags.exit_signal() != 0 {
        parts.push(signal_text(flags.exit_signal()));
    }
    joined(parts)
}

/// A file's mode: its type by name, then the permissions in octal.
pub fn mode_text(mode: u32) -> String {
    let (kind, permissions) = (mode & files::S_IFMT, mode & !files::S_IFMT);
    match name_in(files::FILE_TYPE_NAMES, kind.into()) {
        Some(name) if kind != files::S_IFMT => format!("{name}|{}", octal(permissions)),
        _ => octal(mode),
    }
}

/// Permissions with a leading zero and at least three digits.
pub fn octal(number: u32) -> String {
    format!("0{number:02o}")
}

/// A signal by name; other numbers as they are.
pub fn signal_text(number: i32) -> String {
    Signal::new(number).map_or_else(|| number.to_string(), |signal| signal.name().into_owned())
}

/// A set as names without `SIG`; a set of nearly all as what it lacks.
pub fn sigset_text(set: SigSet) -> String {
    let inverted = set.len() >= 43;
    let shown = if inverted { !set } else { set };
    let names: Vec<String> =
        shown.iter().map(|signal| signal.name().trim_start_matches("SIG").to_owned()).collect();
    format!("{}[{}]", if inverted { "~" } else { "" }, names.join(" "))
}

/// A device number.
pub fn device_text(dev: u64) -> String {
    format!("makedev({:#x}, {:#x})", files::dev_major(dev), files::dev_minor(dev))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_calls::FallocateMode;
    use crate::signals::{SIGKILL, SIGSTOP};

    #[test]
    fn strings_are_escaped_as_strace_escapes_them() {
        assert_eq!(
            quoted(b"hello \"x\" \\ \x01\x012\n\t\xff abcd", true),
            r#""hello \"x\" \\ \1\0012\n\t\377 abcd"..."#
        );
        assert_eq!(quoted(b"\x7fELF\x02\x01\x01\x03\x00", false), r#""\177ELF\2\1\1\3\0""#);
        assert_eq!(quoted(b"", false), "\"\"");
    }

    #[test]
    fn flags_are_named_and_unknown_bits_shown() {
        assert_eq!(open_flags_text(0), "O_RDONLY");
        assert_eq!(open_flags_text(0o101 | 0o1000), "O_WRONLY|O_CREAT|O_TRUNC");
        assert_eq!(open_flags_text(0o20200002), "O_RDWR|O_TMPFILE");
        assert_eq!(map_flags_text(0x22), "MAP_PRIVATE|MAP_ANONYMOUS");
        assert_eq!(prot_text(0), "PROT_NONE");
        assert_eq!(socket_type_text(0o2000001), "SOCK_STREAM|SOCK_CLOEXEC");
        assert_eq!(clone_flags_text(0x0120_0011), "CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD");
        assert_eq!(flags_text::<FallocateMode>(0x1003), "FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE|0x1000");
        assert_eq!(flags_text::<FallocateMode>(0), "0");
    }

    #[test]
    fn modes_are_octal_after_their_type() {
        assert_eq!(mode_text(0o100644), "S_IFREG|0644");
        assert_eq!(mode_text(0o41777), "S_IFDIR|01777");
        assert_eq!((mode_text(0o22), mode_text(0)), ("022".into(), "000".into()));
    }

    #[test]
    fn nearly_full_signal_sets_show_what_they_lack() {
        assert_eq!(sigset_text(SigSet::EMPTY), "[]");
        assert_eq!(sigset_text(SigSet::FULL), "~[]");
        assert_eq!(sigset_text(SigSet::of(&[SIGKILL, SIGSTOP])), "[KILL STOP]");
        assert_eq!(sigset_text(!SigSet(3 << 31)), "~[RTMIN RT_1]");
    }
}
