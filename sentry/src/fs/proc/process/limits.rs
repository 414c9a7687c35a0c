//! `/proc/PID/limits` (`man 5 proc_pid_limits`).

use std::fmt::Write;

use abi::errno::SysResult;

use super::Subject;
use crate::fs::generated::Reader;
use crate::task::Limit;

/// Names and units, by number of the resource.
const NAMES: [(&str, &str); 16] = [
    ("Max cpu time", "seconds"),
    ("Max file size", "bytes"),
    ("Max data size", "bytes"),
    ("Max stack size", "bytes"),
    ("Max core file size", "bytes"),
    ("Max resident set", "bytes"),
    ("Max processes", "processes"),
    ("Max open files", "files"),
    ("Max locked memory", "bytes"),
    ("Max address space", "bytes"),
    ("Max file locks", "locks"),
    ("Max pending signals", "signals"),
    ("Max msgqueue size", "bytes"),
    ("Max nice priority", ""),
    ("Max realtime priority", ""),
    ("Max realtime timeout", "us"),
];

/// `/proc/PID/limits`
pub(super) fn limits(subject: &Subject, _reader: &Reader) -> SysResult<Vec<u8>> {
    subject.identity()?;
    let of = |number| subject.group.limits.get_raw(number);
    let limits = (0..).zip(NAMES).map(|(number, _)| of(number)).collect::<SysResult<Vec<_>>>()?;
    Ok(table(&limits).into_bytes())
}

fn table(limits: &[Limit]) -> String {
    let number = |value: u64| if value == u64::MAX { String::from("unlimited") } else { value.to_string() };
    let mut text = String::new();
    let _ = writeln!(text, "{:<25} {:<20} {:<20} {:<10}", "Limit", "Soft Limit", "Hard Limit", "Units");
    for ((name, unit), limit) in NAMES.iter().zip(limits) {
        let _ = write!(text, "{name:<25} {:<20} {:<20} ", number(limit.soft), number(limit.hard));
        let _ = if unit.is_empty() { writeln!(text) } else { writeln!(text, "{unit:<10}") };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_linuxs_to_the_byte() {
        let host = std::fs::read_to_string("/proc/self/limits").expect("the host has one");
        let limits: Vec<Limit> = (0..16)
            .map(|resource| {
                let line = host.lines().nth(resource + 1).expect("a line for each");
                let mut fields = line[26..].split_whitespace();
                let mut field = || match fields.next().expect("a number") {
                    "unlimited" => u64::MAX,
                    number => number.parse().expect("a number"),
                };
                Limit { soft: field(), hard: field() }
            })
            .collect();
        assert_eq!(table(&limits), host);
    }
}
