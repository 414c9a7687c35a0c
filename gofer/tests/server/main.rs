//! The gofer as a process of its own, spoken to by the sentry's client and by hostile ones. Run as root.
//!
//! A test starts this same program again as the gofer (`GOFER_TEST_ROLE`), because confinement cannot be undone.
//! Arguments select the tests whose name contains one of them.

mod ahead;
mod concurrency;
mod directories;
mod follow;
mod gofer_process;
mod hostile;
mod lockdown;
mod operations;
mod trees;
mod watches;

use std::panic::catch_unwind;

/// A test and its name.
pub type Test = (&'static str, fn());

/// Names each function once.
#[macro_export]
macro_rules! tests {
    ($($function:ident),* $(,)?) => {
        pub const TESTS: &[$crate::Test] = &[$((stringify!($function), $function)),*];
    };
}

fn main() {
    gofer_process::play_role_if_asked();
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let suites = [
        operations::TESTS,
        directories::TESTS,
        follow::TESTS,
        ahead::TESTS,
        watches::TESTS,
        trees::TESTS,
        concurrency::TESTS,
        hostile::TESTS,
        lockdown::TESTS,
    ];
    let mut failed = Vec::new();
    let mut run = 0;
    for (name, test) in suites.into_iter().flatten() {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        run += 1;
        let outcome = if catch_unwind(test).is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {outcome}");
        if outcome != "ok" {
            failed.push(*name);
        }
    }
    println!("{} of {run} passed; failed: {failed:?}", run - failed.len());
    std::process::exit(i32::from(!failed.is_empty() || run == 0));
}
