//! The names of the machine (`man 2 uname`).
//!
//! One UTS namespace per sandbox, held by [`crate::kernel::Kernel`]; the boot sets it from the
//! specification, applications may with `CAP_SYS_ADMIN`. Names are at most [`NAME_MAX`] bytes.

use abi::process::{UTS_LEN, UtsName};
use parking_lot::Mutex;

/// What `uname -s` shows.
pub const SYSTEM_NAME: &str = "Linux";
/// What `uname -r` shows. Programs read features from the number, so it is that of the Linux whose behaviour the calls follow.
pub const RELEASE: &str = "6.12.0-runsc";
/// What `uname -v` shows.
pub const VERSION: &str = "#1 SMP PREEMPT_DYNAMIC runsc";
/// What `uname -m` shows.
pub const MACHINE: &str = "x86_64";
/// Linux's name for "no name was set".
const UNSET: &[u8] = b"(none)";
/// Longest host or domain name (`__NEW_UTS_LEN`).
pub const NAME_MAX: usize = UTS_LEN - 1;

struct Names {
    host: Vec<u8>,
    domain: Vec<u8>,
}

/// See the module's text.
pub struct Uts {
    names: Mutex<Names>,
}

impl Default for Uts {
    fn default() -> Self {
        Self { names: Mutex::new(Names { host: UNSET.to_vec(), domain: UNSET.to_vec() }) }
    }
}

impl Uts {
    /// `uname -n`.
    pub fn hostname(&self) -> Vec<u8> {
        self.names.lock().host.clone()
    }

    /// The NIS domain name.
    pub fn domainname(&self) -> Vec<u8> {
        self.names.lock().domain.clone()
    }

    /// Sets the host name, cut after [`NAME_MAX`] bytes.
    pub fn set_hostname(&self, name: impl AsRef<[u8]>) {
        self.names.lock().host = cut(name.as_ref());
    }

    /// Sets the domain name, cut after [`NAME_MAX`] bytes.
    pub fn set_domainname(&self, name: impl AsRef<[u8]>) {
        self.names.lock().domain = cut(name.as_ref());
    }

    /// Everything `uname(2)` tells.
    pub fn uname(&self) -> UtsName {
        let names = self.names.lock();
        UtsName {
            sysname: UtsName::field(SYSTEM_NAME.as_bytes()),
            nodename: UtsName::field(&names.host),
            release: UtsName::field(RELEASE.as_bytes()),
            version: UtsName::field(VERSION.as_bytes()),
            machine: UtsName::field(MACHINE.as_bytes()),
            domainname: UtsName::field(&names.domain),
        }
    }
}

fn cut(name: &[u8]) -> Vec<u8> {
    name.iter().copied().take(NAME_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_as_set_and_cut_to_their_field() {
        let uts = Uts::default();
        assert_eq!(&uts.uname().nodename[..7], b"(none)\0");
        uts.set_hostname("box");
        uts.set_domainname([b'x'; 200]);
        let shown = uts.uname();
        assert_eq!(&shown.nodename[..4], b"box\0");
        assert_eq!(uts.domainname().len(), NAME_MAX);
        assert_eq!(shown.domainname[NAME_MAX], 0);
    }
}
