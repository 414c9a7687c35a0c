//! What was measured: values by row and column, and what failed. A cell that failed once has no value.

use std::collections::BTreeMap;

/// Row key and column.
type Place = (String, usize);

/// All values so far.
#[derive(Debug, Default)]
pub struct Samples {
    values: BTreeMap<Place, Vec<f64>>,
    failed: BTreeMap<Place, String>,
    outputs: BTreeMap<String, String>,
    /// Process to KiB in an idle container, by column.
    pub idle_kib: BTreeMap<usize, Vec<(String, u64)>>,
}

/// What stands in a cell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell {
    Value(f64),
    Failed,
    /// Not asked for, or not possible with this runtime.
    Empty,
}

impl Cell {
    pub fn value(self) -> Option<f64> {
        match self {
            Cell::Value(v) => Some(v),
            Cell::Failed | Cell::Empty => None,
        }
    }
}

impl Samples {
    pub fn add(&mut self, key: &str, column: usize, value: f64) {
        self.values.entry((key.into(), column)).or_default().push(value);
    }

    pub fn fail(&mut self, key: &str, column: usize, name: &str, why: &str) {
        eprintln!("{key}, {name}: {why}");
        self.failed.insert((key.into(), column), format!("{key}, {name}: {why}"));
    }

    pub fn has_failed(&self, key: &str, column: usize) -> bool {
        self.failed.contains_key(&(key.to_owned(), column))
    }

    pub fn failures(&self) -> Vec<&str> {
        self.failed.values().map(String::as_str).collect()
    }

    /// Compares what a row's program wrote with what it wrote where it ran first, which is
    /// natively if there is a native column.
    pub fn same_output(&mut self, key: &str, output: &str) -> Result<(), String> {
        match self.outputs.get(key) {
            Some(first) if first != output => Err(format!("wrote {output:?} and not {first:?}")),
            Some(_) => Ok(()),
            None => {
                self.outputs.insert(key.into(), output.into());
                Ok(())
            }
        }
    }

    /// The median, unless something failed.
    pub fn cell(&self, key: &str, column: usize) -> Cell {
        if self.has_failed(key, column) {
            return Cell::Failed;
        }
        let values = self.values.get(&(key.to_owned(), column));
        values.and_then(|v| median(v)).map_or(Cell::Empty, Cell::Value)
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}
