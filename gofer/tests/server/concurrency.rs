//! Many threads, few channels, and the end of the connection.

use std::fs;
use std::sync::Barrier;
use std::thread;

use abi::errno;
use wire::{Access, OpenFlags, TreeFlags};

use crate::gofer_process::{mode, name, served};

crate::tests![many_threads_share_the_channels, calls_fail_once_the_gofer_is_gone, an_idle_gofer_is_small];

fn many_threads_share_the_channels() {
    let served = served(TreeFlags::empty(), |_| ());
    let start = Barrier::new(24);
    thread::scope(|scope| {
        for thread in 0..24 {
            let (served, start) = (&served, &start);
            scope.spawn(move || {
                start.wait();
                for round in 0..50 {
                    let own = format!("{thread}-{round}");
                    let (client, root) = (&served.client, &served.root);
                    let created =
                        client.create(root, name(&own), Access::ReadWrite, OpenFlags::empty(), mode(0o600));
                    let created = created.expect("a file");
                    let attr = client.get_attr(&created.node.handle).expect("attributes");
                    assert_eq!(attr.ino, created.node.attr.ino);
                    client.unlink(root, name(&own)).expect("unlink");
                }
            });
        }
    });
    let threads = fs::read_dir(format!("/proc/{}/task", served.gofer.pid())).expect("threads").count();
    assert!((2..=8).contains(&threads), "{threads} threads");
    assert_eq!(fs::read_dir(served.dir.path()).expect("a listing").count(), 0);
    served.end_well();
}

fn calls_fail_once_the_gofer_is_gone() {
    let served = served(TreeFlags::empty(), |_| ());
    let pid = i32::try_from(served.gofer.pid()).expect("a pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .expect("our child");
    assert_eq!(served.gofer.end().code(), None);
    for _ in 0..3 {
        assert_eq!(served.client.get_attr(&served.root).err(), Some(errno::EIO));
    }
}

fn an_idle_gofer_is_small() {
    let served = served(TreeFlags::empty(), |_| ());
    let handles: Vec<_> = (0..100).map(|_| served.client.walk(&served.root, &[], None)).collect();
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", served.gofer.pid())).expect("a summary");
    let private: u64 = ["Private_Clean:", "Private_Dirty:"]
        .iter()
        .filter_map(|field| rollup.lines().find_map(|line| line.strip_prefix(field)))
        .filter_map(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
        .sum();
    drop(handles);
    // The program's own pages, which only this debug build has so many of, are shared with the test's process.
    assert!(private < 1536, "{private} KiB are the gofer's alone:\n{rollup}");
    served.end_well();
}
