//! What the host kernel told this process at its start.

/// An entry of the process's auxiliary vector (`man 3 getauxval`), 0 if it has none.
pub fn auxiliary_value(kind: u64) -> u64 {
    // SAFETY: getauxval only looks up a number in the vector the host put on the stack at process
    // start; any argument is valid.
    unsafe { libc::getauxval(kind) }
}
