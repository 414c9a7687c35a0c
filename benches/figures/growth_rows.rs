//! What must not grow: each row names a cost with few of something and with many, and where both come from.

use crate::cli::Request;

/// A cost with few and with many.
#[derive(Debug)]
pub struct GrowthRow {
    pub title: String,
    pub few: Point,
    pub many: Point,
    pub unit: Unit,
}

/// One end of a row: its key in the samples, and what there were so many of.
#[derive(Debug, Clone)]
pub struct Point {
    pub key: String,
    pub label: String,
}

/// What a row counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Time,
    Memory,
}

/// A run of `guest/growth.c` that gives figures; its keys have the prefix in front.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    pub prefix: &'static str,
    pub arguments: Vec<String>,
}

/// A cost may be this much higher with many than with few; where native costs grow as well, this much more than they do.
pub const TOLERANCE: f64 = 1.25;

pub const FEW_FILES: usize = 100;
pub const MANY_FILES: usize = 100_000;
/// Where directories are, inside: prefix of the keys, what the row says, the parent of `few` and `many`.
pub const PLACES: [(&str, &str, &str); 3] =
    [("tmpfs_", "tmpfs", "/tmp"), ("rootfs_", "rootfs", "/growth"), ("bind_", "bind mount", "/bind")];
const PARTS: [(&str, &str); 4] =
    [("stat", "stat"), ("open", "open+close"), ("create", "create+unlink"), ("list", "listing, each entry")];
const THREADS: [usize; 3] = [2, 8, 64];
const SLEEPERS: [usize; 2] = [100, 10_000];
const DESCRIPTORS: (usize, usize) = (10, 10_000);
const REGIONS: (usize, usize) = (10, 10_000);

pub fn rows(sandboxes: usize) -> Vec<GrowthRow> {
    let point = |key: String, label: String| Point { key, label };
    let time = |title: String, few: Point, many: Point| GrowthRow { title, few, many, unit: Unit::Time };
    let mut rows = Vec::new();
    for n in THREADS {
        let title = "throughput: time per read of 1 B, all threads together".to_owned();
        let threads = |n: usize| point(format!("throughput_{n}"), count(n, "thread"));
        rows.push(time(title, threads(1), threads(n)));
    }
    for n in SLEEPERS {
        let threads = |n: usize| point(format!("trap_{n}"), count(n, "thread"));
        rows.push(time("one trap (read of 1 B), other threads blocked".into(), threads(1), threads(n)));
    }
    let others = |n: usize, key: &str| point(key.into(), format!("{} running", thousands(n)));
    rows.push(time(
        "start of `/bin/true` beside idle sandboxes".into(),
        others(0, "start_alone"),
        others(sandboxes - 1, "start_beside"),
    ));
    rows.push(GrowthRow {
        title: "memory of each further idle sandbox, PSS".into(),
        few: point("pss_few".into(), "of 11".into()),
        many: point("pss_many".into(), format!("of {}", thousands(sandboxes))),
        unit: Unit::Memory,
    });
    for (prefix, place, _) in PLACES {
        for (part, title) in PARTS {
            let files = |n: usize| point(format!("{prefix}directory_{part}_{n}"), count(n, "entry"));
            rows.push(time(format!("{title} in a directory, {place}"), files(FEW_FILES), files(MANY_FILES)));
        }
    }
    let epoll = |n: usize| point(format!("epoll_{n}"), count(n, "descriptor"));
    rows.push(time("epoll_wait, one descriptor ready".into(), epoll(DESCRIPTORS.0), epoll(DESCRIPTORS.1)));
    let regions = |n: usize| point(format!("regions_{n}"), count(n, "region"));
    rows.push(time("mmap+munmap of a page".into(), regions(REGIONS.0), regions(REGIONS.1)));
    rows
}

/// The rows that the command line asks for.
pub fn wanted(request: &Request) -> Vec<GrowthRow> {
    let mut rows = rows(request.sandboxes);
    rows.retain(|row| request.wants(&[&row.title, &row.few.key, &row.many.key]));
    rows
}

/// The runs of the guest program that these rows need, each once.
pub fn runs(rows: &[GrowthRow]) -> Vec<Run> {
    let mut runs = Vec::new();
    for key in rows.iter().flat_map(|r| [&r.few.key, &r.many.key]) {
        if let Some(run) = run_for(key)
            && !runs.contains(&run)
        {
            runs.push(run);
        }
    }
    runs
}

pub fn run_for(key: &str) -> Option<Run> {
    let (what, number) = key.rsplit_once('_')?;
    if matches!(what, "throughput" | "trap" | "epoll" | "regions") {
        return Some(Run { prefix: "", arguments: vec![what.into(), number.into()] });
    }
    let (prefix, _, parent) = PLACES.into_iter().find(|(prefix, ..)| key.starts_with(prefix))?;
    let directory = format!("{parent}/files-{number}");
    Some(Run { prefix, arguments: vec!["directory".into(), directory, number.into()] })
}

fn count(n: usize, what: &str) -> String {
    match (n, what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (_, Some(stem)) => format!("{} {stem}ies", thousands(n)),
        (_, None) => format!("{} {what}s", thousands(n)),
    }
}

/// `10,000`
pub fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
