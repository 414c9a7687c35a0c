//! `sysfs` (`man 5 sysfs`): the few devices a sandbox has, its processors above all. Read-only.
//!
//! Everything is a table over [`Facts`]; directories that programs expect and that hold nothing here are empty.

mod processors;

use std::sync::Arc;

use abi::errno::SysResult;

use crate::fs::generated::{Body, Entry, Generated, Reader, Table, directory, link, text};
use crate::fs::proc::Facts;
use crate::vfs::LinkTarget;

/// `SYSFS_MAGIC`
const MAGIC: u64 = 0x6265_6572;

type Line = Entry<Arc<Facts>>;

/// The file system.
pub fn new(facts: &Arc<Facts>) -> Arc<Generated> {
    Generated::new("sysfs", MAGIC, 0o555, |_| Body::Directory(table(facts, &ROOT)))
}

fn table(facts: &Arc<Facts>, entries: &'static [Line]) -> Box<Table<Arc<Facts>>> {
    Box::new(Table::new(Arc::clone(facts), entries))
}

/// A directory with nothing in it.
const fn empty(name: &'static str) -> Line {
    directory(name, 0o555, |facts| table(facts, &[]))
}

static ROOT: [Line; 9] = [
    empty("block"),
    directory("bus", 0o555, |facts| table(facts, &BUSES)),
    directory("class", 0o555, |facts| table(facts, &CLASSES)),
    directory("dev", 0o555, |facts| table(facts, &DEVICE_NUMBERS)),
    directory("devices", 0o555, |facts| table(facts, &DEVICES)),
    directory("fs", 0o555, |facts| table(facts, &FILE_SYSTEMS)),
    directory("kernel", 0o555, |facts| table(facts, &KERNEL)),
    empty("module"),
    empty("power"),
];

static BUSES: [Line; 1] = [directory("cpu", 0o555, |facts| table(facts, &[]))];
static CLASSES: [Line; 3] =
    [empty("block"), directory("net", 0o555, |facts| table(facts, &INTERFACES)), empty("tty")];
static DEVICE_NUMBERS: [Line; 2] = [empty("block"), empty("char")];
static FILE_SYSTEMS: [Line; 1] = [empty("cgroup")];

static DEVICES: [Line; 2] = [
    directory("system", 0o555, |facts| table(facts, &SYSTEM)),
    directory("virtual", 0o555, |facts| table(facts, &VIRTUAL)),
];
static SYSTEM: [Line; 2] = [
    directory("cpu", 0o555, processors::processors),
    directory("node", 0o555, |facts| table(facts, &processors::NODES)),
];
static VIRTUAL: [Line; 1] = [directory("net", 0o555, |facts| table(facts, &VIRTUAL_INTERFACES))];

static INTERFACES: [Line; 1] =
    [link("lo", |_, _| Ok(LinkTarget::Path(b"../../devices/virtual/net/lo".to_vec())))];
static VIRTUAL_INTERFACES: [Line; 1] = [directory("lo", 0o555, |facts| table(facts, &LOOPBACK))];

fn shown(value: &str) -> SysResult<Vec<u8>> {
    Ok(format!("{value}\n").into_bytes())
}

static LOOPBACK: [Line; 16] = [
    text("addr_assign_type", 0o444, |_, _| shown("0")),
    text("addr_len", 0o444, |_, _| shown("6")),
    text("address", 0o444, |_, _| shown("00:00:00:00:00:00")),
    text("broadcast", 0o444, |_, _| shown("00:00:00:00:00:00")),
    text("carrier", 0o444, |_, _| shown("1")),
    text("dev_id", 0o444, |_, _| shown("0x0")),
    text("flags", 0o444, |_, _| shown("0x9")),
    text("ifindex", 0o444, |_, _| shown("1")),
    text("iflink", 0o444, |_, _| shown("1")),
    text("link_mode", 0o444, |_, _| shown("0")),
    text("mtu", 0o444, |_, _| shown("65536")),
    text("operstate", 0o444, |_, _| shown("unknown")),
    directory("statistics", 0o555, |facts| table(facts, &STATISTICS)),
    text("tx_queue_len", 0o444, |_, _| shown("1000")),
    text("type", 0o444, |_, _| shown("772")),
    text("uevent", 0o444, |_, _| shown("INTERFACE=lo\nIFINDEX=1")),
];

static STATISTICS: [Line; 8] = [
    text("rx_bytes", 0o444, none_counted),
    text("rx_dropped", 0o444, none_counted),
    text("rx_errors", 0o444, none_counted),
    text("rx_packets", 0o444, none_counted),
    text("tx_bytes", 0o444, none_counted),
    text("tx_dropped", 0o444, none_counted),
    text("tx_errors", 0o444, none_counted),
    text("tx_packets", 0o444, none_counted),
];

/// Nothing passes through loopback as packets.
fn none_counted(_facts: &Arc<Facts>, _reader: &Reader) -> SysResult<Vec<u8>> {
    shown("0")
}

static KERNEL: [Line; 2] = [empty("debug"), directory("mm", 0o555, |facts| table(facts, &MEMORY_MANAGEMENT))];
static MEMORY_MANAGEMENT: [Line; 2] =
    [empty("hugepages"), directory("transparent_hugepage", 0o555, |facts| table(facts, &HUGE_PAGES))];
static HUGE_PAGES: [Line; 2] = [
    text("enabled", 0o444, |facts, _| shown(&facts.machine.huge_pages)),
    text("hpage_pmd_size", 0o444, |_, _| shown("2097152")),
];
