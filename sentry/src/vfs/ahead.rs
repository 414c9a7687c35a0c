//! What a walk will ask for next.
//!
//! A file system that pays for each question, because another process answers it, can ask for several names at once. It
//! is told what follows a name ([`Ahead`]) and keeps what it learns for the lookups that come; nothing depends
//! on its doing so.

use super::{NAME_MAX, OpenRequest};

/// What follows a name in a path.
#[derive(Clone, Copy, Default)]
pub struct Ahead<'p> {
    /// The rest of the path. Slashes separate.
    rest: &'p [u8],
    /// The path's end is about to be opened.
    open: Option<OpenRequest>,
}

impl<'p> Ahead<'p> {
    /// The rest of a path, at whose end something is opened, perhaps.
    pub const fn new(rest: &'p [u8], open: Option<OpenRequest>) -> Self {
        Self { rest, open }
    }

    /// The names that follow, up to the first component that is not a plain name.
    pub fn names(&self) -> impl Iterator<Item = &'p [u8]> + use<'p> {
        self.components().take_while(|name| is_plain(name))
    }

    /// How the last of so many names, this one included, is about to be opened; `None` if the path goes on.
    pub fn opening(&self, names: usize) -> Option<OpenRequest> {
        self.open.filter(|_| self.components().count() + 1 == names && !self.rest.ends_with(b"/"))
    }

    fn components(&self) -> impl Iterator<Item = &'p [u8]> + use<'p> {
        self.rest.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    }
}

fn is_plain(name: &[u8]) -> bool {
    name != b"." && name != b".." && name.len() <= NAME_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_before_what_is_none() {
        let names = |rest| Ahead::new(rest, None).names().collect::<Vec<_>>();
        assert_eq!(names(b"a//b/c/"), [b"a", b"b", b"c"]);
        assert_eq!(names(b"a/./b"), [b"a"]);
        assert_eq!(names(b"../b"), [b""; 0]);
        assert_eq!(names(b""), [b""; 0]);
        assert_eq!(names(&[b'x'; 256]), [b""; 0]);
    }

    #[test]
    fn only_the_whole_path_is_opened() {
        let request = OpenRequest { read: true, write: false, flags: 0 };
        let opening = |rest, names| Ahead::new(rest, Some(request)).opening(names).is_some();
        assert!(opening(b"", 1) && opening(b"a/b", 3));
        assert!(!opening(b"a/b", 2) && !opening(b"a/../b", 2) && !opening(b"a/", 2));
        assert!(Ahead::new(b"a", None).opening(2).is_none());
    }
}
