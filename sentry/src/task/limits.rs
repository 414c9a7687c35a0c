//! Resource limits (`man 2 getrlimit`).

use abi::errno::{EINVAL, SysResult};
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

    /// By number; the caller has judged whether it may.
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
