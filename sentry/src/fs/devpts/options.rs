//! The options of a devpts mount (`man 8 mount`, "Mount options for devpts").

use std::fmt;

use abi::errno::{EINVAL, SysResult};

use super::TERMINALS_MAX;

/// See the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// Of new terminals.
    pub(super) mode: u32,
    pub(super) ptmx_mode: u32,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) max: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { mode: 0o600, ptmx_mode: 0, uid: None, gid: None, max: TERMINALS_MAX }
    }
}

impl Options {
    /// Parses `mount`'s data. `newinstance` is always the case.
    pub(super) fn parse(data: &[u8]) -> SysResult<Self> {
        let text = std::str::from_utf8(data).map_err(|_| EINVAL)?;
        let mut options = Self::default();
        for option in text.split(',').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let number = |radix| u32::from_str_radix(value, radix).map_err(|_| EINVAL);
            match name {
                "mode" => options.mode = number(8)? & 0o777,
                "ptmxmode" => options.ptmx_mode = number(8)? & 0o777,
                "uid" => options.uid = Some(number(10)?),
                "gid" => options.gid = Some(number(10)?),
                "max" => options.max = number(10)?,
                "newinstance" if value.is_empty() => {}
                _ => return Err(EINVAL),
            }
        }
        Ok(options)
    }
}

impl fmt::Display for Options {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(uid) = self.uid {
            write!(formatter, ",uid={uid}")?;
        }
        if let Some(gid) = self.gid {
            write!(formatter, ",gid={gid}")?;
        }
        write!(formatter, ",mode={:03o},ptmxmode={:03o}", self.mode, self.ptmx_mode)?;
        if self.max < TERMINALS_MAX { write!(formatter, ",max={}", self.max) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_shown_as_they_were_given() {
        let options = Options::parse(b"newinstance,ptmxmode=0666,mode=0620,gid=5").unwrap();
        assert_eq!(options.to_string(), ",gid=5,mode=620,ptmxmode=666");
        assert_eq!(Options::parse(b"").unwrap().to_string(), ",mode=600,ptmxmode=000");
        assert_eq!(Options::parse(b"max=3").unwrap().max, 3);
    }

    #[test]
    fn unknown_options_are_refused() {
        for data in [&b"mode=9"[..], b"mode", b"size=3", b"gid=-1", b"newinstance=1", b"\xff"] {
            assert_eq!(Options::parse(data), Err(EINVAL), "{data:?}");
        }
    }
}
