//! The names in a directory, in an order that stays while names come and go.
//!
//! Every name gets a cookie that is never used again in its directory. A listing goes by cookies, so an
//! entry that is there all the time is seen exactly once, whatever happens to the others.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// `.` and `..` come before all names.
pub const FIRST_COOKIE: u64 = 2;

/// Names, each bound to a `T`.
pub struct Names<T> {
    cookies: HashMap<Arc<[u8]>, u64>,
    entries: BTreeMap<u64, (Arc<[u8]>, T)>,
    next: u64,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { cookies: HashMap::new(), entries: BTreeMap::new(), next: FIRST_COOKIE }
    }
}

impl<T> Names<T> {
    /// What a name is bound to.
    pub fn get(&self, name: &[u8]) -> Option<&T> {
        self.cookies.get(name).and_then(|cookie| self.entries.get(cookie)).map(|(_, value)| value)
    }

    /// Binds a name; one that exists keeps its place, and its old binding is returned.
    pub fn insert(&mut self, name: &[u8], value: T) -> Option<T> {
        if let Some((_, old)) = self.cookies.get(name).and_then(|cookie| self.entries.get_mut(cookie)) {
            return Some(std::mem::replace(old, value));
        }
        let name: Arc<[u8]> = name.into();
        self.cookies.insert(Arc::clone(&name), self.next);
        self.entries.insert(self.next, (name, value));
        self.next += 1;
        None
    }

    /// Unbinds a name.
    pub fn remove(&mut self, name: &[u8]) -> Option<T> {
        let cookie = self.cookies.remove(name)?;
        self.entries.remove(&cookie).map(|(_, value)| value)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Entries from a position on, each with the position after it.
    pub fn from_position(&self, from: u64) -> impl Iterator<Item = (u64, &Arc<[u8]>, &T)> {
        self.entries.range(from..).map(|(cookie, (name, value))| (cookie + 1, name, value))
    }

    /// All bindings.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.values().map(|(_, value)| value)
    }

    /// Takes all bindings out.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        self.cookies.clear();
        std::mem::take(&mut self.entries).into_values().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &Names<u8>, from: u64) -> Vec<(u64, Vec<u8>)> {
        names.from_position(from).map(|(next, name, _)| (next, name.to_vec())).collect()
    }

    #[test]
    fn a_position_outlives_the_names_around_it() {
        let mut names = Names::default();
        for name in [b"a", b"b", b"c"] {
            names.insert(name, 0);
        }
        let after_a = list(&names, 0)[0].0;
        names.remove(b"a");
        names.remove(b"b");
        names.insert(b"a", 1);
        let rest: Vec<_> = list(&names, after_a).into_iter().map(|(_, name)| name).collect();
        assert_eq!(rest, [b"c", b"a"]);
    }

    #[test]
    fn a_replaced_binding_keeps_its_place() {
        let mut names = Names::default();
        names.insert(b"a", 0);
        names.insert(b"b", 0);
        assert_eq!(names.insert(b"a", 1), Some(0));
        assert_eq!(list(&names, 0)[0].1, b"a");
        assert_eq!(names.len(), 2);
    }
}
