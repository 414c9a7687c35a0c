//! `/proc/net` (`man 5 proc_pid_net`) of a network namespace that holds nothing but its loopback interface.

use std::sync::Arc;

use abi::errno::SysResult;

use super::Facts;
use crate::fs::generated::{Directory, Entry, Table, text};

static FILES: [Entry<Arc<Facts>>; 10] = [
    text("arp", 0o444, |_, _| Ok(ARP.to_vec())),
    text("dev", 0o444, |_, _| Ok(DEV.to_vec())),
    text("dev_mcast", 0o444, super::tables::empty),
    text("packet", 0o444, |_, _| Ok(PACKET.to_vec())),
    text("raw", 0o444, |_, _| heading(DATAGRAMS, 127)),
    text("route", 0o444, |_, _| heading(ROUTE, 127)),
    text("tcp", 0o444, |_, _| heading(TCP, 149)),
    text("udp", 0o444, |_, _| heading(DATAGRAMS, 127)),
    text("udplite", 0o444, |_, _| heading(DATAGRAMS, 127)),
    text("unix", 0o444, |_, _| Ok(UNIX.to_vec())),
];

const ARP: &[u8] = b"IP address       HW type     Flags       HW address            Mask     Device\n";
const DEV: &[u8] =
    b"Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
";
const PACKET: &[u8] = b"sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n";
const ROUTE: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
const TCP: &str =
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
const DATAGRAMS: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops";
const UNIX: &[u8] = b"Num       RefCount Protocol Flags    Type St Inode Path\n";

/// A heading padded to a width, as its lines are.
fn heading(text: &str, width: usize) -> SysResult<Vec<u8>> {
    Ok(format!("{text:<width$}\n").into_bytes())
}

/// `/proc/PID/net`
pub(super) fn directory(facts: &Arc<Facts>) -> Box<dyn Directory> {
    Box::new(Table::new(Arc::clone(facts), &FILES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_are_the_hosts_to_the_byte() {
        let first = |name: &str, lines: usize| -> Option<Vec<u8>> {
            let text = std::fs::read_to_string(format!("/proc/net/{name}")).ok()?;
            Some(text.split_inclusive('\n').take(lines).collect::<String>().into_bytes())
        };
        let two_lines =
            |text: &[u8]| text.split_inclusive(|b| *b == b'\n').take(2).flatten().copied().collect();
        let ours: [(&str, Vec<u8>); 6] = [
            ("tcp", heading(TCP, 149).expect("formats")),
            ("udp", heading(DATAGRAMS, 127).expect("formats")),
            ("route", heading(ROUTE, 127).expect("formats")),
            ("arp", ARP.to_vec()),
            ("unix", UNIX.to_vec()),
            ("dev", two_lines(DEV)),
        ];
        let compared = ours.iter().filter(|(name, text)| {
            let host = first(name, if *name == "dev" { 2 } else { 1 });
            host.is_some_and(|host| {
                assert_eq!(String::from_utf8_lossy(&host), String::from_utf8_lossy(text), "{name}");
                true
            })
        });
        assert!(compared.count() > 0, "the host shows none of them");
    }
}
