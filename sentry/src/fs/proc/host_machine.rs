//! The machine as the host describes it: read once, while the sentry can still open host paths.

use std::fs;

/// What programs ask of the hardware. Every field is the host's own text or number, or a stand-in if the host
/// would not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostMachine {
    /// Bytes of memory.
    pub total_memory: u64,
    /// Bytes that were available when the sandbox started.
    pub available_memory: u64,
    /// One block of `/proc/cpuinfo` for each processor the sentry may run on, without its `processor` line.
    pub processors: Vec<String>,
    /// When transparent huge pages are used, as `/sys/kernel/mm/transparent_hugepage/enabled` says it.
    pub huge_pages: String,
}

/// Where a processor sits; processors with equal numbers are parts of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// `physical id`
    pub package: u32,
    /// `core id`
    pub core: u32,
}

impl HostMachine {
    /// Reads the host's `/proc`. What cannot be read is replaced: one processor, 2 GiB of memory.
    pub fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let mut machine = Self::parse(&text("/proc/cpuinfo"), &text("/proc/meminfo"));
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        machine.limit_processors(count);
        let huge_pages = text("/sys/kernel/mm/transparent_hugepage/enabled");
        if !huge_pages.trim().is_empty() {
            huge_pages.trim().clone_into(&mut machine.huge_pages);
        }
        machine
    }

    /// From the texts of `cpuinfo` and `meminfo`.
    pub fn parse(cpuinfo: &str, meminfo: &str) -> Self {
        let kib = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
            let number = line.trim_start_matches(':').split_whitespace().next()?;
            number.parse::<u64>().ok()?.checked_mul(1024)
        };
        let total_memory = kib("MemTotal").unwrap_or(2 << 30);
        let mut processors: Vec<String> = cpuinfo.split("\n\n").filter_map(processor).collect();
        if processors.is_empty() {
            processors.push(String::from("vendor_id\t: unknown\nmodel name\t: unknown\n"));
        }
        Self {
            total_memory,
            available_memory: kib("MemAvailable").unwrap_or(total_memory).min(total_memory),
            processors,
            huge_pages: String::from("always madvise [never]"),
        }
    }

    /// Where each processor sits, as far as the host says.
    pub fn positions(&self) -> Vec<Position> {
        let number = |processor: &str, name: &str| {
            let line =
                processor.lines().find(|line| line.split(':').next().is_some_and(|n| n.trim() == name));
            line.and_then(|line| line.split(':').nth(1)?.trim().parse().ok())
        };
        let position = |(index, processor): (u32, &String)| Position {
            package: number(processor, "physical id").unwrap_or(0),
            core: number(processor, "core id").unwrap_or(index),
        };
        (0..).zip(&self.processors).map(position).collect()
    }

    /// Keeps the first `count` processors, at least one.
    pub fn limit_processors(&mut self, count: usize) {
        self.processors.truncate(count.max(1));
    }

    /// How many processors.
    pub fn processor_count(&self) -> usize {
        self.processors.len()
    }
}

/// A block of `cpuinfo` without its number.
fn processor(block: &str) -> Option<String> {
    let mut lines = block.trim_matches('\n').lines();
    lines.next().filter(|first| first.starts_with("processor"))?;
    Some(lines.map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_and_memory_are_found_in_the_hosts_texts() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A\n\nprocessor\t: 1\nmodel name\t: B\n\n";
        let machine = HostMachine::parse(cpuinfo, "MemTotal:  1000 kB\nMemAvailable: 300 kB\n");
        assert_eq!(machine.processors, ["model name\t: A\n", "model name\t: B\n"]);
        assert_eq!((machine.total_memory, machine.available_memory), (1_024_000, 307_200));
    }

    #[test]
    fn threads_of_one_core_have_one_position() {
        let block = |id, core| format!("processor\t: {id}\nphysical id\t: 0\ncore id\t\t: {core}\n\n");
        let machine = HostMachine::parse(&(block(0, 5) + &block(1, 5) + &block(2, 6)), "");
        let positions = machine.positions();
        assert_eq!(positions[0], positions[1]);
        assert_eq!(positions[2], Position { package: 0, core: 6 });
    }

    #[test]
    fn a_host_that_says_nothing_has_one_processor() {
        let machine = HostMachine::parse("", "");
        assert_eq!(machine.processor_count(), 1);
        assert!(machine.total_memory > 0);
    }
}
