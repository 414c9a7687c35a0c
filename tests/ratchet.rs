//! Numbers that may only fall, per crate: uses of `unsafe`, `as` and `static`, attributes that
//! `allow`, and the length of the longest file. The limits stand in `tests/ratchet.toml`.
//!
//! `RATCHET=lower cargo test -p runsc --test ratchet` lowers the limits to what is there now;
//! raising one is an edit by hand that a reviewer sees.

use harness::report::Report;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const CRATES: [&str; 8] = [
    "gofer",
    "gofer/wire",
    "runsc-cli",
    "sentry",
    "sentry/platform",
    "syscalls",
    "syscalls/abi",
    "tests/harness",
];

/// Counter name to value.
type Counts = BTreeMap<&'static str, usize>;

fn main() {
    let report = Report::from_arguments();
    let limits_file = harness::repository().join("tests/ratchet.toml");
    let limits = read_limits(&limits_file);
    let mut now = BTreeMap::new();
    for name in CRATES {
        report.case(&format!("ratchet/{name}"), || {
            let counts = count_crate(&harness::repository().join(name))?;
            now.insert(name, counts.clone());
            judge(name, &counts, limits.get(name))
        });
    }
    if std::env::var("RATCHET").is_ok_and(|v| v == "lower") {
        report.case("ratchet/lower", || write_limits(&limits_file, &now, &limits));
    }
    report.case("ratchet/the_counter_counts", counter_is_right);
    report.finish();
}

fn judge(name: &str, counts: &Counts, limits: Option<&BTreeMap<String, usize>>) -> Result<(), String> {
    let Some(limits) = limits else { return Err(format!("tests/ratchet.toml has no [\"{name}\"]")) };
    let over = counts.iter().filter_map(|(what, &count)| {
        let limit = limits.get(*what).copied().unwrap_or(0);
        (count > limit).then(|| format!("{name}: {what} is {count}, and may only fall from {limit}"))
    });
    let over: Vec<String> = over.collect();
    if over.is_empty() { Ok(()) } else { Err(over.join("\n")) }
}

/// A crate's sources: `src` and `shim`, without crates that live inside it.
fn count_crate(directory: &Path) -> Result<Counts, String> {
    let mut counts =
        Counts::from([("unsafe", 0), ("as", 0), ("static", 0), ("allow", 0), ("longest_file", 0)]);
    for file in rust_files(&directory.join("src")) {
        let text = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        count_file(&text, &mut counts);
    }
    Ok(counts)
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|e| e.path());
    entries
        .flat_map(|p| if p.is_dir() { rust_files(&p) } else { vec![p] })
        .filter(|p| p.extension().is_some_and(|x| x == "rs"))
        .collect()
}

fn count_file(text: &str, counts: &mut Counts) {
    let code = without_comments_and_strings(text);
    let words: Vec<&str> = words(&code).collect();
    let mut add = |what: &'static str, n: usize| *counts.entry(what).or_default() += n;
    add("unsafe", words.iter().filter(|w| **w == "unsafe").count());
    add("static", words.iter().filter(|w| **w == "static").count());
    add("allow", words.windows(2).filter(|w| w[0] == "allow" && w[1] == "(").count());
    // `use x as y` and `<T as Trait>` are names, not conversions.
    add("as", words.windows(2).filter(|w| w[0] == "as" && is_number_type(w[1])).count());
    let longest = counts.entry("longest_file").or_default();
    *longest = (*longest).max(text.lines().count());
}

fn is_number_type(word: &str) -> bool {
    const TYPES: [&str; 16] = [
        "u8", "u16", "u32", "u64", "u128", "usize", "i8", "i16", "i32", "i64", "i128", "isize", "_", "f32",
        "f64", "*",
    ];
    TYPES.contains(&word) || word.starts_with("c_") || word.ends_with("_t")
}

/// Words, and punctuation as words of one character; lifetimes keep their quote.
fn words(code: &str) -> impl Iterator<Item = &str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '\'';
    let mut rest = code;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let first = rest.chars().next()?;
        let end =
            if is_word(first) { rest.find(|c| !is_word(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
        let (word, after) = rest.split_at(end);
        rest = after;
        Some(word)
    })
}

/// The text with comments and the insides of string and character literals taken out.
fn without_comments_and_strings(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |i| i + 2)
        } else if let Some(raw) = rest.strip_prefix("r#\"") {
            raw.find("\"#").map_or(rest.len(), |i| i + 5)
        } else if c == '"' {
            string_end(rest)
        } else if let Some(escaped) = rest.strip_prefix("'\\") {
            escaped.find('\'').map_or(rest.len(), |i| if i == 0 { 4 } else { i + 3 })
        } else if c == '\'' && rest.chars().nth(2) == Some('\'') {
            rest.char_indices().nth(3).map_or(rest.len(), |(i, _)| i)
        } else {
            0
        };
        if skip > 0 {
            code.push(' ');
            rest = &rest[skip.min(rest.len())..];
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    code
}

/// The length of a string literal that begins the text.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return i + 1,
            _ => {}
        }
    }
    text.len()
}

fn read_limits(file: &Path) -> BTreeMap<String, BTreeMap<String, usize>> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut limits: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    let mut section = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("[\"").and_then(|l| l.strip_suffix("\"]")) {
            section = name.into();
        } else if let Some((what, limit)) = line.split_once('=')
            && let Ok(limit) = limit.trim().parse()
        {
            limits.entry(section.clone()).or_default().insert(what.trim().into(), limit);
        }
    }
    limits
}

fn write_limits(
    file: &Path,
    now: &BTreeMap<&str, Counts>,
    old: &BTreeMap<String, BTreeMap<String, usize>>,
) -> Result<(), String> {
    let mut text = String::from(
        "# Limits that may only fall; see tests/ratchet.rs.\n# Lower them with: RATCHET=lower cargo test -p runsc --test ratchet\n",
    );
    for (name, counts) in now {
        text += &format!("\n[\"{name}\"]\n");
        for (what, count) in counts {
            let limit = old.get(*name).and_then(|l| l.get(*what)).map_or(*count, |l| *l.min(count));
            text += &format!("{what} = {limit}\n");
        }
    }
    std::fs::write(file, text).map_err(|e| e.to_string())
}

fn counter_is_right() -> Result<(), String> {
    let sample = r##"
        // unsafe as u8 in a comment
        static A: &'static str = "unsafe static"; /* allow( */
        #[allow(dead_code)] fn f(x: u8) -> u64 { unsafe { g() }; let _c = '"'; x as u64 + b'\'' as u64 }
        use std::fmt as static_name; const R: &str = r#"as u8 "unsafe" "#; type T = <u8 as Into<u16>>::X;
    "##;
    let mut counts = Counts::new();
    count_file(sample, &mut counts);
    let got: Vec<usize> = ["unsafe", "as", "static", "allow"].iter().map(|k| counts[k]).collect();
    if got == [1, 2, 1, 1] { Ok(()) } else { Err(format!("counted {counts:?}")) }
}
