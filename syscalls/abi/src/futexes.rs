//! Futexes: operations, word bits, robust lists, `futex_waitv` (`man 2 futex`).

use crate::define::{constants, flags, plain};
use crate::user::{FromRegister, UserAddress};

constants! {
    /// Operations, without their flags.
    FUTEX_NAMES: u32 {
        FUTEX_WAIT = 0,
        FUTEX_WAKE = 1,
        FUTEX_FD = 2,
        FUTEX_REQUEUE = 3,
        FUTEX_CMP_REQUEUE = 4,
        FUTEX_WAKE_OP = 5,
        FUTEX_LOCK_PI = 6,
        FUTEX_UNLOCK_PI = 7,
        FUTEX_TRYLOCK_PI = 8,
        FUTEX_WAIT_BITSET = 9,
        FUTEX_WAKE_BITSET = 10,
        FUTEX_WAIT_REQUEUE_PI = 11,
        FUTEX_CMP_REQUEUE_PI = 12,
        FUTEX_LOCK_PI2 = 13,
    }

    /// Bits of a futex word that holds an owner.
    FUTEX_WORD_NAMES: u32 {
        FUTEX_WAITERS = 0x8000_0000,
        FUTEX_OWNER_DIED = 0x4000_0000,
        FUTEX_TID_MASK = 0x3fff_ffff,
    }

    /// What `FUTEX_WAKE_OP` does to the second word.
    FUTEX_OP_NAMES: u32 {
        FUTEX_OP_SET = 0, FUTEX_OP_ADD = 1, FUTEX_OP_OR = 2, FUTEX_OP_ANDN = 3, FUTEX_OP_XOR = 4,
        FUTEX_OP_OPARG_SHIFT = 8,
    }

    /// How `FUTEX_WAKE_OP` compares the old second word.
    FUTEX_OP_CMP_NAMES: u32 {
        FUTEX_OP_CMP_EQ = 0, FUTEX_OP_CMP_NE = 1, FUTEX_OP_CMP_LT = 2,
        FUTEX_OP_CMP_LE = 3, FUTEX_OP_CMP_GT = 4, FUTEX_OP_CMP_GE = 5,
    }

    /// Limits.
    FUTEX_LIMIT_NAMES: usize { ROBUST_LIST_LIMIT = 2048, FUTEX_WAITV_MAX = 128 }

    /// The bitset that every wait and wake without one has.
    FUTEX_BITSET_NAMES: u32 { FUTEX_BITSET_MATCH_ANY = 0xffff_ffff }
}

flags! {
    /// Flags in the operation of `futex(2)`.
    FutexFlags: u32 { FUTEX_PRIVATE_FLAG = 128, FUTEX_CLOCK_REALTIME = 256 }

    /// Flags of a [`FutexWaitv`] and of `futex_wait(2)`; the size is a number in the low two bits.
    Futex2Flags: u32 { FUTEX2_SIZE_U32 = 2, FUTEX2_NUMA = 4, FUTEX2_PRIVATE = 128 }
}

/// The operation argument of `futex(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FutexOp(pub u32);

impl FutexOp {
    /// The operation, one of `FUTEX_WAIT` and so on, or a number that is none.
    pub const fn command(self) -> u32 {
        self.0 & !FutexFlags::all().bits()
    }

    /// The flags.
    pub const fn flags(self) -> FutexFlags {
        FutexFlags::from_bits_truncate(self.0)
    }

    /// Whether the fourth argument is a timeout rather than a number.
    pub const fn has_timeout(self) -> bool {
        matches!(
            self.command(),
            FUTEX_WAIT | FUTEX_LOCK_PI | FUTEX_LOCK_PI2 | FUTEX_WAIT_BITSET | FUTEX_WAIT_REQUEUE_PI
        )
    }
}

impl FromRegister for FutexOp {
    fn from_register(register: u64) -> Self {
        Self(register as u32)
    }
}

/// The sixth argument of `FUTEX_WAKE_OP`, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WakeOp {
    /// One of `FUTEX_OP_SET` and so on.
    pub operation: u32,
    /// One of `FUTEX_OP_CMP_EQ` and so on.
    pub comparison: u32,
    /// The operand, already shifted if the application asked for that.
    pub operand: u32,
    /// What the old value is compared with.
    pub compared: i32,
}

impl WakeOp {
    /// Takes the argument apart; both operands are 12-bit signed numbers.
    pub const fn decode(raw: u32) -> Self {
        let operand = (raw << 8) as i32 >> 20;
        let compared = (raw << 20) as i32 >> 20;
        let operation = raw >> 28;
        let shifted = operation & FUTEX_OP_OPARG_SHIFT != 0;
        Self {
            operation: operation & 7,
            comparison: raw >> 24 & 15,
            // Linux masks an over-long shift rather than failing.
            operand: if shifted { 1 << (operand & 31) } else { operand as u32 },
            compared,
        }
    }
}

plain! {
    /// One futex of `futex_waitv(2)`.
    FutexWaitv {
        val: u64,
        uaddr: UserAddress,
        flags: u32,
        __reserved: u32,
    }

    /// The head of a thread's list of robust futexes.
    RobustListHead {
        list: UserAddress,
        futex_offset: i64,
        list_op_pending: UserAddress,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_separated_from_flags() {
        let op = FutexOp(FUTEX_WAIT_BITSET | 128 | 256);
        assert_eq!(op.command(), FUTEX_WAIT_BITSET);
        assert_eq!(op.flags(), FutexFlags::all());
        assert!(op.has_timeout() && !FutexOp(FUTEX_WAKE).has_timeout());
        assert_eq!(FutexOp(0x1000).command(), 0x1000);
    }

    #[test]
    fn wake_op_operands_are_signed_and_shiftable() {
        // FUTEX_OP(FUTEX_OP_ADD, -1, FUTEX_OP_CMP_GT, -2)
        let raw = 1 << 28 | 4 << 24 | 0xfff << 12 | 0xffe;
        let op = WakeOp::decode(raw);
        assert_eq!((op.operation, op.comparison, op.operand as i32, op.compared), (1, 4, -1, -2));
        let shifted = WakeOp::decode((FUTEX_OP_OPARG_SHIFT | FUTEX_OP_OR) << 28 | 5 << 12);
        assert_eq!((shifted.operation, shifted.operand), (FUTEX_OP_OR, 32));
    }
}
