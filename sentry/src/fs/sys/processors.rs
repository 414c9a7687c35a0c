//! `/sys/devices/system/{cpu,node}`: the processors the sandbox may use, and the one memory node.

use std::sync::Arc;

use abi::errno::{ENOENT, SysResult};

use super::{Line, shown, table};
use crate::fs::generated::{
    Body, Context, Directory, Entry, Listed, Node, Owner, Place, Reader, Table, directory, text,
};
use crate::fs::proc::numbers::{hexadecimal_mask, mask_of, number_list};
use crate::fs::proc::{Facts, Position};
use crate::vfs::FileKind;

/// Names without a number.
static FILES: [Line; 6] = [
    text("isolated", 0o444, |_, _| shown("")),
    text("kernel_max", 0o444, |_, _| shown("63")),
    text("offline", 0o444, |_, _| shown("")),
    text("online", 0o444, all),
    text("possible", 0o444, all),
    text("present", 0o444, all),
];

fn all(facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    shown(&number_list(mask_of(facts.machine.processor_count())))
}

struct Processors {
    facts: Arc<Facts>,
    files: Table<Arc<Facts>>,
}

/// `/sys/devices/system/cpu`
pub(super) fn processors(facts: &Arc<Facts>) -> Box<dyn Directory> {
    Box::new(Processors { facts: Arc::clone(facts), files: Table::new(Arc::clone(facts), &FILES) })
}

/// Listing positions from here on are processors.
const FIRST_PROCESSOR: u64 = 0x100;

impl Directory for Processors {
    fn lookup(&self, name: &[u8], at: &Place) -> SysResult<Arc<Node>> {
        let number = (0..self.facts.machine.processor_count()).find(|n| name == format!("cpu{n}").as_bytes());
        let Some(number) = number else { return self.files.lookup(name, at) };
        let processor = Processor { facts: Arc::clone(&self.facts), number };
        let body = Body::Directory(Box::new(Table::new(processor, &PROCESSOR)));
        Ok(Node::new(&at.child(name), 0o555, Owner::Root, body))
    }

    fn is_lasting(&self, name: &[u8]) -> bool {
        self.files.is_lasting(name)
    }

    fn list(&self, from: u64) -> SysResult<Vec<Listed>> {
        let mut entries = self.files.list(from)?;
        let numbered = (FIRST_PROCESSOR..).zip(0..self.facts.machine.processor_count());
        entries.extend(numbered.filter(|(position, _)| *position >= from).map(|(position, number)| {
            Listed::new(format!("cpu{number}").into_bytes(), FileKind::Directory, position)
        }));
        Ok(entries)
    }
}

/// One processor.
#[derive(Clone)]
struct Processor {
    facts: Arc<Facts>,
    number: usize,
}

impl Context for Processor {}

static PROCESSOR: [Entry<Processor>; 1] = [directory("topology", 0o555, |processor: &Processor| {
    Box::new(Table::new(processor.clone(), &TOPOLOGY))
})];

static TOPOLOGY: [Entry<Processor>; 10] = [
    text("core_cpus", 0o444, |processor, _| processor.mask(same_core)),
    text("core_cpus_list", 0o444, |processor, _| processor.list(same_core)),
    text("core_id", 0o444, |processor, _| shown(&processor.position()?.core.to_string())),
    text("core_siblings", 0o444, |processor, _| processor.mask(same_package)),
    text("core_siblings_list", 0o444, |processor, _| processor.list(same_package)),
    text("package_cpus", 0o444, |processor, _| processor.mask(same_package)),
    text("package_cpus_list", 0o444, |processor, _| processor.list(same_package)),
    text("physical_package_id", 0o444, |processor, _| shown(&processor.position()?.package.to_string())),
    text("thread_siblings", 0o444, |processor, _| processor.mask(same_core)),
    text("thread_siblings_list", 0o444, |processor, _| processor.list(same_core)),
];

fn same_core(one: Position, other: Position) -> bool {
    one == other
}

const fn same_package(one: Position, other: Position) -> bool {
    one.package == other.package
}

impl Processor {
    fn position(&self) -> SysResult<Position> {
        self.facts.machine.positions().get(self.number).copied().ok_or(ENOENT)
    }

    /// The processors that are the same as this one in some way.
    fn same(&self, how: fn(Position, Position) -> bool) -> SysResult<u64> {
        let own = self.position()?;
        let positions = self.facts.machine.positions();
        let like = positions.iter().take(64).enumerate().filter(|(_, position)| how(own, **position));
        Ok(like.fold(0, |mask, (number, _)| mask | 1 << number))
    }

    fn mask(&self, how: fn(Position, Position) -> bool) -> SysResult<Vec<u8>> {
        shown(&hexadecimal_mask(self.same(how)?, self.facts.machine.processor_count()))
    }

    fn list(&self, how: fn(Position, Position) -> bool) -> SysResult<Vec<u8>> {
        shown(&number_list(self.same(how)?))
    }
}

/// `/sys/devices/system/node`
pub(super) static NODES: [Line; 6] = [
    text("has_cpu", 0o444, |_, _| shown("0")),
    text("has_memory", 0o444, |_, _| shown("0")),
    text("has_normal_memory", 0o444, |_, _| shown("0")),
    directory("node0", 0o555, |facts| table(facts, &NODE)),
    text("online", 0o444, |_, _| shown("0")),
    text("possible", 0o444, |_, _| shown("0")),
];

static NODE: [Line; 3] = [
    text("cpulist", 0o444, all),
    text("cpumap", 0o444, |facts, _| {
        let count = facts.machine.processor_count();
        shown(&hexadecimal_mask(mask_of(count), count))
    }),
    text("distance", 0o444, |_, _| shown("10")),
];
