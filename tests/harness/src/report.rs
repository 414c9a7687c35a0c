//! Reporting cases: one line each, the failures in full at the end, and a last line that
//! `tests/run.sh` adds up: `test result: ok. N passed; N failed`.
//!
//! Arguments that do not begin with `-` are filters, as with libtest: a case runs if its
//! name contains one of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

#[derive(Debug)]
pub struct Report {
    filters: Vec<String>,
    list_only: bool,
    started: Instant,
    /// What the names of cases begin with, and a slash, if it is not empty.
    prefix: Mutex<String>,
    results: Mutex<Results>,
}

#[derive(Debug, Default)]
struct Results {
    passed: usize,
    failures: Vec<(String, String)>,
}

impl Report {
    pub fn from_arguments() -> Report {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        Report {
            list_only: arguments.iter().any(|a| a == "--list"),
            filters: arguments.into_iter().filter(|a| !a.starts_with('-')).collect(),
            started: Instant::now(),
            prefix: Mutex::default(),
            results: Mutex::default(),
        }
    }

    /// Runs what reports cases; their names begin with the prefix and a slash.
    pub fn within(&self, prefix: &str, cases: impl FnOnce()) {
        *self.prefix() = prefix.to_owned();
        cases();
        self.prefix().clear();
    }

    fn prefix(&self) -> MutexGuard<'_, String> {
        self.prefix.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn full_name(&self, name: &str) -> String {
        let prefix = self.prefix();
        if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") }
    }

    /// Whether the filters choose this case.
    pub fn wants(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|f| name.contains(f.as_str()))
    }

    /// Whether the filters choose a case whose name begins so; for cases that come in batches.
    pub fn may_want(&self, prefix: &str) -> bool {
        self.filters.is_empty()
            || self.filters.iter().any(|f| prefix.contains(f.as_str()) || f.starts_with(prefix))
    }

    /// Runs one case, unless the filters leave it out.
    pub fn case(&self, name: &str, body: impl FnOnce() -> Result<(), String>) {
        let full = self.full_name(name);
        if !self.wants(&full) {
            return;
        }
        if self.list_only {
            println!("{full}: test");
            return;
        }
        let start = Instant::now();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body))
            .unwrap_or_else(|_| Err("the test itself panicked".into()));
        self.add(name, result, &format!(" ({:.1} s)", start.elapsed().as_secs_f64()));
    }

    /// Records a result that was found by other means.
    pub fn add(&self, name: &str, result: Result<(), String>, remark: &str) {
        let name = self.full_name(name);
        let mut results = self.results.lock().unwrap_or_else(|e| e.into_inner());
        match result {
            Ok(()) => {
                println!("test {name} ... ok{remark}");
                results.passed += 1;
            }
            Err(why) => {
                println!("test {name} ... FAILED{remark}");
                results.failures.push((name, why));
            }
        }
    }

    /// Prints the failures and the sum, and ends the process.
    pub fn finish(self) -> ! {
        let results = self.results.into_inner().unwrap_or_else(|e| e.into_inner());
        if self.list_only {
            std::process::exit(0);
        }
        for (name, why) in &results.failures {
            println!("\n---- {name}\n{why}");
        }
        let failed = results.failures.len();
        let word = if failed == 0 { "ok" } else { "FAILED" };
        println!(
            "\ntest result: {word}. {} passed; {failed} failed; finished in {:.1}s\n",
            results.passed,
            self.started.elapsed().as_secs_f64()
        );
        std::process::exit(if failed == 0 { 0 } else { 101 });
    }
}

/// Tests known to fail, each with its reason: lines `name  # reason`. A listed test that
/// passes is an error, so that lists only shrink.
#[derive(Debug, Default)]
pub struct Expectations {
    known: BTreeMap<String, String>,
}

impl Expectations {
    pub fn read(path: &Path) -> Result<Expectations, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut known = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let (name, reason) =
                line.split_once('#').ok_or_else(|| format!("{}: no reason for {line}", path.display()))?;
            known.insert(name.trim().to_owned(), reason.trim().to_owned());
        }
        Ok(Expectations { known })
    }

    /// Turns a result into the one to report, with a remark.
    pub fn judge(&self, name: &str, result: Result<(), String>) -> (Result<(), String>, String) {
        match (self.known.get(name), result) {
            (None, result) => (result, String::new()),
            (Some(reason), Err(_)) => (Ok(()), format!(" (fails as expected: {reason})")),
            (Some(_), Ok(())) => {
                (Err("listed as failing but passes: take it off the list".into()), String::new())
            }
        }
    }

    /// The listed names, to find those that no test has.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.known.keys().map(String::as_str)
    }
}
