//! Host files through a real gofer, which this same program plays when it is started again. Run as root.
//!
//! Arguments select the tests whose name contains one of them.

mod exclusive;
mod gofer_process;
mod overlay;
mod shared;
mod watched;

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
    gofer_process::serve_if_asked();
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let (mut run, mut failed) = (0, Vec::new());
    for (name, test) in
        [exclusive::TESTS, shared::TESTS, watched::TESTS, overlay::TESTS].into_iter().flatten()
    {
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
    std::process::exit(i32::from(!failed.is_empty() || (run == 0 && wanted.is_empty())));
}
