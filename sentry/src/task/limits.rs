//! Resource limits (`man 2 getrlimit`).

use abi::errno::{EINVAL, EPERM, SysResult};
use parking_lot::Mutex;

/// A soft and a hard limit; `u64::MAX` is `RLIM_INFINITY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Limit {
    pub soft: u64,
    pub hard: u64,
}

/// Resource numbers of `man 2 getrlimit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "RLIMIT_*")]
#[repr(usize)]
pub enum Resource {
    Cpu = 0,
    FileSize = 1,
    Data = 2,
    Stack = 3,
    Core = 4,
    Rss = 5,
    Processes = 6,
    OpenFiles = 7,
    LockedMemory = 8,
    AddressSpace = 9,
    Locks = 10,
    PendingSignals = 11,
    MessageQueue = 12,
    Nice = 13,
    RealtimePriority = 14,
    RealtimeTime = 15,
}

/// How many resources there are.
pub const RESOURCES: usize = 16;

const INFINITE: Limit = Limit { soft: u64::MAX, hard: u64::MAX };

/// The limits of a process.
pub struct Limits {
    list: Mutex<[Limit; RESOURCES]>,
}

impl Default for Limits {
    fn default() -> Self {
        let mut list = [INFINITE; RESOURCES];
        let mut set = |resource: Resource, soft, hard| list[resource as usize] = Limit { soft, hard };
        set(Resource::Stack, 8 << 20, u64::MAX);
        set(Resource::Core, 0, u64::MAX);
        set(Resource::Processes, 16_384, 16_384);
        set(Resource::OpenFiles, 1024, 1 << 20);
        set(Resource::LockedMemory, 8 << 20, 8 << 20);
        set(Resource::PendingSignals, 16_384, 16_384);
        set(Resource::MessageQueue, 819_200, 819_200);
        set(Resource::Nice, 0, 0);
        set(Resource::RealtimePriority, 0, 0);
        Self { list: Mutex::new(list) }
    }
}

impl Limits {
    /// A copy, as `fork` makes it.
    pub fn fork(&self) -> Self {
        Self { list: Mutex::new(*self.list.lock()) }
    }

    /// One limit.
    pub fn get(&self, resource: Resource) -> Limit {
        self.list.lock()[resource as usize]
    }

    /// A soft limit.
    pub fn soft(&self, resource: Resource) -> u64 {
        self.get(resource).soft
    }

    /// By number.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn get_raw(&self, resource: u32) -> SysResult<Limit> {
        usize::try_from(resource).ok().and_then(|index| self.list.lock().get(index).copied()).ok_or(EINVAL)
    }

    /// Changes a limit by number; returns the old one. Only the privileged may raise a hard limit.
    ///
    /// # Errors
    /// `EINVAL`: no such resource, or the soft limit is above the hard one. `EPERM`.
    pub fn change(&self, resource: u32, limit: Limit, privilege: Privilege) -> SysResult<Limit> {
        let index = usize::try_from(resource).map_err(|_| EINVAL)?;
        let mut list = self.list.lock();
        let place = list.get_mut(index).ok_or(EINVAL)?;
        if limit.soft > limit.hard {
            return Err(EINVAL);
        }
        if index == Resource::OpenFiles as usize && limit.hard > OPEN_FILES_MAX {
            return Err(EPERM);
        }
        if limit.hard > place.hard && privilege == Privilege::Ordinary {
            return Err(EPERM);
        }
        Ok(std::mem::replace(place, limit))
    }

    /// By number, without judgement (the specification of a container).
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn set_raw(&self, resource: u32, limit: Limit) -> SysResult<()> {
        let mut list = self.list.lock();
        let place = usize::try_from(resource).ok().and_then(|index| list.get_mut(index)).ok_or(EINVAL)?;
        *place = limit;
        Ok(())
    }
}

/// `fs.nr_open`: nobody may raise `RLIMIT_NOFILE` beyond it.
pub const OPEN_FILES_MAX: u64 = 1 << 20;

/// Whether the one who asks has the capability that a change may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// Without it.
    Ordinary,
    /// With it.
    Privileged,
}

#[cfg(test)]
mod tests {
    use super::*;

    const STACK: u32 = Resource::Stack as u32;

    #[test]
    fn hard_limits_may_be_lowered_by_all_and_raised_by_the_privileged() {
        let limits = Limits::default();
        let low = Limit { soft: 1 << 20, hard: 2 << 20 };
        let high = Limit { soft: 1 << 20, hard: 3 << 20 };
        assert_eq!(limits.change(STACK, low, Privilege::Ordinary).map(|old| old.soft), Ok(8 << 20));
        assert_eq!(limits.change(STACK, high, Privilege::Ordinary), Err(EPERM));
        assert_eq!(limits.change(STACK, high, Privilege::Privileged), Ok(low));
        assert_eq!(limits.get(Resource::Stack), high);
    }

    #[test]
    fn impossible_limits_change_nothing() {
        let limits = Limits::default();
        let before = limits.get(Resource::OpenFiles);
        let inverted = Limit { soft: 2, hard: 1 };
        let beyond = Limit { soft: 1, hard: OPEN_FILES_MAX + 1 };
        assert_eq!(limits.change(7, inverted, Privilege::Privileged), Err(EINVAL));
        assert_eq!(limits.change(7, beyond, Privilege::Privileged), Err(EPERM));
        assert_eq!(limits.change(16, before, Privilege::Privileged), Err(EINVAL));
        assert_eq!(limits.get(Resource::OpenFiles), before);
    }
}
